//! What becomes of a device's uploads: cut, refused, without a code, asked for again.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::support::{Authority, Rig, SetClock, USER, assert_uploaded_once, config, now, wait_for, write_log};
use bluetrace_client::device::{Command, DeviceEvent, End, NextTry, UnfinishedUpload};
use bluetrace_protocol::UploadCode;
use tokio::net::UdpSocket;

#[tokio::test]
async fn an_upload_that_is_cut_goes_on_where_it_was() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 1_000);
    authority.state.cut_after.store(400, Ordering::Relaxed);
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    let done = rig.device.submit(Command::Upload(None)).await;
    rig.until(|event| matches!(event, DeviceEvent::Resumed { .. })).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadContinued { acknowledged: 400, total: 1_000 })).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(summary) if summary.records == 1_000)).await;
    done.await.unwrap();
    assert_uploaded_once(&authority, 1_000);
    assert!(!folder.path().join(format!("{USER}_upload.txt")).exists());
    assert_eq!(authority.state.logins.load(Ordering::Relaxed), 1, "it came back with its token");
}

#[tokio::test]
async fn an_upload_that_the_authority_does_not_take_is_kept_and_goes_when_it_is_asked_for_again() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 3);
    *authority.state.upload_error.lock().unwrap() = "upload_not_authorised";
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    drop(rig.device.submit(Command::Upload(None)).await);
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try: NextTry::WithCode, .. })).await;
    assert!(folder.path().join(format!("{USER}_upload.txt")).exists());
    *authority.state.upload_error.lock().unwrap() = "";
    drop(rig.device.submit(Command::Upload(None)).await);
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(_))).await;
    assert_uploaded_once(&authority, 3);
}

#[tokio::test]
async fn an_upload_waits_as_long_as_the_authority_says() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 3);
    authority.state.retry_after_s.store(1, Ordering::Relaxed);
    *authority.state.upload_error.lock().unwrap() = "rate_limited";
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    drop(rig.device.submit(Command::Upload(None)).await);
    let told = NextTry::In(Duration::from_secs(1));
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try, .. } if *next_try == told)).await;
    *authority.state.upload_error.lock().unwrap() = "";
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(_))).await;
}

#[tokio::test]
async fn an_upload_waits_for_its_code_and_keeps_it_until_it_is_complete() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 1_000);
    *authority.state.upload_code.lock().unwrap() = "H7QX-4CDF";
    let saved = folder.path().join(format!("{USER}_upload.txt"));
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    let code = UploadCode::parse;
    drop(rig.device.submit(Command::Upload(None)).await);
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try: NextTry::WithCode, .. })).await;
    drop(rig.device.submit(Command::Upload(code("wrong"))).await);
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try: NextTry::WithCode, .. })).await;
    wait_for(|| fs::read_to_string(&saved).is_ok_and(|text| !text.contains("wrong"))).await;

    // the right one outlives the connection, the session and the device
    authority.state.cut_after.store(400, Ordering::Relaxed);
    drop(rig.device.submit(Command::Upload(code("H7QX-4CDF"))).await);
    rig.until(|event| matches!(event, DeviceEvent::Disconnected { .. })).await;
    drop(rig.events);
    rig.device.join().await;
    assert!(fs::read_to_string(&saved).unwrap().lines().next().unwrap().ends_with(" 1000 H7QX-4CDF"));
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(summary) if summary.records == 1_000)).await;
    assert!(!saved.exists());
    assert_uploaded_once(&authority, 1_000);
    let given = authority.state.codes_given.lock().unwrap().clone();
    let given: Vec<_> = given.iter().map(Option::as_deref).collect();
    assert_eq!(given, [None, Some("wrong"), Some("H7QX-4CDF"), Some("H7QX-4CDF")], "and nothing else was tried");
}

#[tokio::test]
async fn an_upload_that_waited_for_its_code_takes_with_it_what_was_heard_meanwhile() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 2);
    *authority.state.upload_code.lock().unwrap() = "H7QX-4CDF";
    let clock = Arc::new(SetClock(AtomicI64::new(now().as_unix())));
    let mut settings = config(&authority, folder.path());
    settings.clock = Arc::<SetClock>::clone(&clock);
    let mut rig = Rig::logged_in(settings).await;
    rig.device.run(Command::Upload(None)).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try: NextTry::WithCode, .. })).await;
    // the first two are in the upload and in the log still, and once each in what becomes of them
    hear(&mut rig, 2).await;
    rig.device.run(Command::Upload(UploadCode::parse("wrong"))).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadStarted { records, kept: 2, .. } if records.len() == 3)).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try: NextTry::WithCode, .. })).await;
    // and later in the upload alone
    clock.0.fetch_add(200, Ordering::Relaxed);
    rig.until(|event| matches!(event, DeviceEvent::ContactForgotten { .. })).await;
    hear(&mut rig, 3).await;
    let upload = unfinished_upload(&mut rig).await.unwrap();
    assert_eq!((upload.acknowledged, upload.total, upload.is_refused), (0, 3, true));
    rig.device.run(Command::Upload(UploadCode::parse("H7QX-4CDF"))).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(summary) if summary.records == 4)).await;
    assert_uploaded_once(&authority, 4);
    assert_eq!(unfinished_upload(&mut rig).await, None);
}

#[tokio::test]
async fn of_an_upload_that_is_begun_the_user_is_told_what_the_log_holds_beyond_it() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 1_000);
    authority.state.cut_after.store(400, Ordering::Relaxed);
    *authority.state.error_after_cut.lock().unwrap() = "too_large";
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    drop(rig.device.submit(Command::Upload(None)).await);
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try: NextTry::WhenAsked, .. })).await;
    hear(&mut rig, 1_000).await;
    *authority.state.upload_error.lock().unwrap() = "";
    // a code is for the upload that waits
    rig.device.run(Command::Upload(UploadCode::parse("H7QX-4CDF"))).await;
    let is_told = |event: &DeviceEvent| {
        matches!(event, DeviceEvent::UploadUnderWay { total: 1_000, beyond: 1, is_followed: false, .. })
    };
    rig.until(is_told).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadContinued { acknowledged: 400, total: 1_000 })).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(summary) if summary.records == 1_000)).await;
    assert_uploaded_once(&authority, 1_000);
    rig.device.run(Command::Upload(None)).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(summary) if summary.records == 1_001)).await;
}

#[tokio::test]
async fn an_upload_that_was_refused_waits_for_its_user_through_every_reconnection_and_run() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 2);
    *authority.state.upload_code.lock().unwrap() = "H7QX-4CDF";
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.device.run(Command::Upload(None)).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadFailed { next_try: NextTry::WithCode, .. })).await;
    let saved = folder.path().join(format!("{USER}_upload.txt"));
    wait_for(|| fs::read_to_string(&saved).unwrap().lines().next().unwrap().ends_with(" 0/2")).await;

    authority.state.says_farewell.store(true, Ordering::Relaxed);
    drop(rig.device.submit(Command::Download).await);
    rig.until(|event| matches!(event, DeviceEvent::Resumed { .. })).await;
    assert!(unfinished_upload(&mut rig).await.unwrap().is_refused);

    // one that would take it
    let (state, address) = authority.stop().await;
    *state.upload_code.lock().unwrap() = "";
    let authority = Authority::again(state, address).await;
    rig.until(|event| matches!(event, DeviceEvent::Resumed { .. })).await;
    assert!(unfinished_upload(&mut rig).await.unwrap().is_refused);
    rig.device.run(Command::Logout).await;
    rig.until(|event| matches!(event, DeviceEvent::Ended(End::LoggedOut))).await;

    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    assert!(unfinished_upload(&mut rig).await.unwrap().is_refused);
    // what is asked later is answered later
    rig.device.run(Command::Notices).await;
    assert_eq!(*authority.state.codes_given.lock().unwrap(), [None], "no other attempt was made");
    rig.device.run(Command::Upload(None)).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(_))).await;
    assert_uploaded_once(&authority, 2);
}

#[tokio::test]
async fn a_code_given_with_the_command_goes_with_the_upload() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 3);
    *authority.state.upload_code.lock().unwrap() = "H7QX-4CDF";
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.device.run(Command::Upload(UploadCode::parse("H7QX-4CDF"))).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(_))).await;
    assert_uploaded_once(&authority, 3);
}

#[tokio::test]
async fn a_device_whose_account_was_removed_ends_and_keeps_its_upload() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 3);
    *authority.state.upload_error.lock().unwrap() = "no_account";
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    drop(rig.device.submit(Command::Upload(None)).await);
    rig.until(|event| matches!(event, DeviceEvent::Ended(End::NoAccount))).await;
    assert_eq!(authority.state.uploads_refused.load(Ordering::Relaxed), 1);
    assert!(folder.path().join(format!("{USER}_upload.txt")).exists());
}

#[tokio::test]
async fn an_upload_survives_the_device() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 1_000);
    authority.state.cut_after.store(400, Ordering::Relaxed);
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    drop(rig.device.submit(Command::Upload(None)).await);
    rig.until(|event| matches!(event, DeviceEvent::Disconnected { .. })).await;
    drop(rig.events);
    rig.device.join().await;
    assert!(folder.path().join(format!("{USER}_upload.txt")).exists());

    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(summary) if summary.records == 1_000)).await;
    assert_uploaded_once(&authority, 1_000);
    assert!(!folder.path().join(format!("{USER}_upload.txt")).exists());
}

/// Has the device hear a beacon with this id, like those of [`write_log`].
async fn hear(rig: &mut Rig, id: u64) {
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let beacon = format!("{id:020}, {}, {}, 1", now().plus(-10), now().plus(899));
    sender.send_to(beacon.as_bytes(), rig.device.udp()).await.unwrap();
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. })).await;
}

async fn unfinished_upload(rig: &mut Rig) -> Option<UnfinishedUpload> {
    rig.device.run(Command::Status).await;
    let event = rig.until(|event| matches!(event, DeviceEvent::Status(_))).await;
    let DeviceEvent::Status(status) = event else { unreachable!() };
    status.upload
}
