//! A device without a front-end, on real sockets and files.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::support::{
    Authority, PASSWORD, Rig, RuntimeClock, SetClock, USER, assert_uploaded_once, config, now, wait_for, write_log,
};
use bluetrace_client::device::{Command, Device, DeviceConfig, DeviceEvent, End, StartError};
use bluetrace_client::{ConnectError, Servers, Target, Transport};
use bluetrace_protocol::{Beacon, Clock as _, Password, Record};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, sleep_until};

#[tokio::test]
async fn a_beacon_sent_by_one_device_is_logged_by_another() {
    let authority = Authority::start().await;
    let (folder_a, folder_b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut a = Rig::logged_in(config(&authority, folder_a.path())).await;
    let mut b = Rig::logged_in(config(&authority, folder_b.path())).await;
    a.device.run(Command::Beacon(target(b.device.udp()))).await;
    let sent = a.until(|event| matches!(event, DeviceEvent::BeaconSent { .. })).await;
    let heard = b.until(|event| matches!(event, DeviceEvent::BeaconHeard { .. })).await;
    let (DeviceEvent::BeaconSent { record: sent, .. }, DeviceEvent::BeaconHeard { record: heard, is_valid, .. }) =
        (sent, heard)
    else {
        unreachable!()
    };
    assert_eq!((sent, true), (heard.clone(), is_valid));
    let file = folder_b.path().join(format!("{USER}_contactlog.txt"));
    wait_for(|| fs::read_to_string(&file).unwrap().starts_with(&heard.reveal())).await;
}

#[tokio::test]
async fn a_beacon_to_nobody_is_told_as_such_and_ends_nothing() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    rig.device.run(Command::Beacon(target(address))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconRefused { to } if *to == address)).await;
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. })).await;
}

#[tokio::test]
async fn no_flood_of_garbage_ends_the_radio() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for length in 0..2_000_usize {
        let garbage: Vec<u8> = (0..length).map(|at| u8::try_from((at * 31 + length) % 256).unwrap()).collect();
        sender.send_to(&garbage, rig.device.udp()).await.unwrap();
    }
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    let mut complaints = 0;
    loop {
        let event = rig.events.recv().await.unwrap();
        complaints += usize::from(matches!(event, DeviceEvent::BeaconDropped { .. }));
        if matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. }) {
            break;
        }
    }
    assert_eq!(complaints, 1, "one line a source and minute");
}

#[tokio::test]
async fn beacons_outside_their_window_are_shown_and_not_logged() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let record = |from, to| {
        let text = format!("12345678901234567891, {}, {}", now().plus(from), now().plus(to));
        Record::parse(&text).unwrap()
    };
    for (record, expected) in [(record(-900, -2), false), (record(60, 900), false), (record(-10, 60), true)] {
        sender.send_to(Beacon { record }.reveal().as_bytes(), rig.device.udp()).await.unwrap();
        let event = rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { .. })).await;
        assert!(matches!(event, DeviceEvent::BeaconHeard { is_valid, .. } if is_valid == expected));
    }
    let file = folder.path().join(format!("{USER}_contactlog.txt"));
    wait_for(|| fs::read_to_string(&file).unwrap().lines().count() == 1).await;
}

#[tokio::test]
async fn a_contact_leaves_memory_and_file_when_its_time_is_over() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock(AtomicI64::new(now().as_unix())));
    let mut settings = config(&authority, folder.path());
    settings.clock = Arc::<SetClock>::clone(&clock);
    let mut rig = Rig::logged_in(settings).await;
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { .. })).await;
    let file = folder.path().join(format!("{USER}_contactlog.txt"));
    wait_for(|| fs::metadata(&file).unwrap().len() > 0).await;

    clock.0.fetch_add(170, Ordering::Relaxed);
    rig.device.run(Command::Contacts).await;
    let event = rig.until(|event| matches!(event, DeviceEvent::Contacts { .. })).await;
    assert!(matches!(event, DeviceEvent::Contacts { total: 1, .. }));

    clock.0.fetch_add(12, Ordering::Relaxed);
    let over = Instant::now();
    rig.until(|event| matches!(event, DeviceEvent::ContactForgotten { count: 1 })).await;
    wait_for(|| fs::metadata(&file).unwrap().len() == 0).await;
    assert!(over.elapsed() < Duration::from_millis(500), "{:?}", over.elapsed());
}

/// The time here is the runtime's, and stands still while anything is done: what is measured is when the device does it, and
/// not how busy the machine is. Wherever in a second a device was started, and wherever in one it hears a beacon.
#[tokio::test]
async fn a_line_leaves_the_file_as_the_second_begins_that_is_its_own_text_plus_the_retention() {
    let authority = Authority::start().await;
    for started_ms in [150, 450, 800] {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(RuntimeClock::new(Duration::from_millis(started_ms)));
        let mut settings = config(&authority, folder.path());
        settings.clock = Arc::<RuntimeClock>::clone(&clock);
        settings.downloads = false;
        settings.retention_s = 10;
        let mut rig = Rig::logged_in(settings).await;
        tokio::time::pause();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let begun = clock.now();
        let mut lines = Vec::new();
        for (second, heard_ms) in (1..).zip([0, 250, 500, 950]) {
            sleep_until(clock.beginning_of(begun.plus(second)) + Duration::from_millis(heard_ms)).await;
            let record = format!("{second:020}, {begun}, {}", begun.plus(60));
            sender.send_to(format!("{record}, 1").as_bytes(), rig.device.udp()).await.unwrap();
            rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. })).await;
            // the second it was heard in, however late in that second
            lines.push((format!("{record}, {}\n", begun.plus(second)), begun.plus(second + 10)));
        }
        let file = folder.path().join(format!("{USER}_contactlog.txt"));
        let whole: String = lines.iter().map(|(line, _)| line.as_str()).collect();
        // while the disk is at work time stands still
        sleep(Duration::from_millis(1)).await;
        assert_eq!(fs::read_to_string(&file).unwrap(), whole);
        for (line, removal) in lines {
            while fs::read_to_string(&file).unwrap().contains(&line) {
                sleep(Duration::from_millis(1)).await;
            }
            let due = clock.beginning_of(removal);
            assert!(Instant::now() >= due, "early by {:?}", due - Instant::now());
            // of the 0.2 s that are promised one half is the disk's
            let late = Instant::now() - due;
            assert!(late <= Duration::from_millis(100), "{late:?} late, started {started_ms} ms into a second");
        }
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_is_told_and_keeps_nothing_longer() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock(AtomicI64::new(now().as_unix())));
    let mut settings = config(&authority, folder.path());
    settings.clock = Arc::<SetClock>::clone(&clock);
    settings.retention_s = 2;
    let mut rig = Rig::logged_in(settings).await;
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { .. })).await;
    clock.0.fetch_sub(3_600, Ordering::Relaxed);
    rig.until(|event| matches!(event, DeviceEvent::ClockSetBack { .. })).await;
    let go_on = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            clock.0.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::select! {
        _ = rig.until(|event| matches!(event, DeviceEvent::ContactForgotten { count: 1 })) => {}
        () = go_on => {}
    }
}

#[tokio::test]
async fn a_device_whose_clock_is_wrong_goes_by_the_authoritys() {
    let authority = Authority::start().await;
    authority.state.ahead_s.store(7_200, Ordering::Relaxed);
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. })).await;
    rig.device.run(Command::Status).await;
    let event = rig.until(|event| matches!(event, DeviceEvent::Status(_))).await;
    assert!(matches!(event, DeviceEvent::Status(status) if (7_198..7_203).contains(&status.now.seconds_since(now()))));
}

#[tokio::test]
async fn a_log_changed_from_outside_is_told_once_and_comes_back() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { .. })).await;
    let file = folder.path().join(format!("{USER}_contactlog.txt"));
    wait_for(|| fs::metadata(&file).unwrap().len() > 0).await;
    let whole = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    rig.until(|event| matches!(event, DeviceEvent::LogFileChangedOutside { .. })).await;
    wait_for(|| fs::read(&file).is_ok_and(|bytes| bytes == whole)).await;
}

#[tokio::test]
async fn a_device_goes_on_at_the_next_server_when_one_fails_in_the_middle_of_an_upload() {
    let first = Authority::start().await;
    let second = Authority::again(Arc::clone(&first.state), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let both = format!("{},{}", first.server(), second.server());
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 1_000);
    first.state.cut_after.store(400, Ordering::Relaxed);
    let config = DeviceConfig { servers: Servers::parse(&both, 1).unwrap(), ..config(&first, folder.path()) };
    let mut rig = Rig::logged_in(config).await;
    let done = rig.device.submit(Command::Upload(None)).await;
    rig.until(|event| matches!(event, DeviceEvent::Disconnected { .. })).await;
    let second_server = second.server();
    let moved = |event: &DeviceEvent| matches!(event, DeviceEvent::Resumed { moved_to: Some(server) } if *server == second_server);
    rig.until(moved).await;
    rig.until(|event| matches!(event, DeviceEvent::UploadComplete(summary) if summary.records == 1_000)).await;
    done.await.unwrap();
    assert_uploaded_once(&second, 1_000);
    assert_eq!(second.state.logins.load(Ordering::Relaxed), 1, "it came back with its token");

    // and back again, once the second is gone
    second.stop().await;
    rig.until(|event| matches!(event, DeviceEvent::Resumed { moved_to: Some(server) } if *server == first.server()))
        .await;
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_passed_over_and_only_all_of_them_are_an_error() {
    let (state, dead) = Authority::start().await.stop().await;
    let living = Authority::again(state, (Ipv4Addr::LOCALHOST, 0).into()).await;
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let with = |list: &str, folder: &TempDir| DeviceConfig {
        servers: Servers::parse(list, dead.port()).unwrap(),
        ..config(&living, folder.path())
    };
    drop(Rig::logged_in(with(&format!("127.0.0.1,{}", living.address), &folder)).await);
    let error = Device::start(with("127.0.0.1,[::1]", &other)).await.unwrap_err().to_string();
    let each =
        format!("no server can be used: cannot reach 127.0.0.1:{port}: connection refused; ", port = dead.port());
    assert!(error.to_lowercase().starts_with(&each) && error.contains(&format!("[::1]:{}", dead.port())), "{error}");
}

#[tokio::test]
async fn a_server_that_takes_its_leave_is_told_and_met_again() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    authority.state.says_farewell.store(true, Ordering::Relaxed);
    drop(rig.device.submit(Command::Download).await);
    rig.until(|event| matches!(event, DeviceEvent::Disconnected { why, .. } if why == "The server shuts down")).await;
    rig.until(|event| matches!(event, DeviceEvent::Resumed { .. })).await;
}

#[tokio::test]
async fn the_pin_is_shown_on_demand() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.device.run(Command::HandshakePin).await;
    rig.until(|event| matches!(event, DeviceEvent::HandshakePin { pin, .. } if pin.reveal() == "H7QX4C")).await;
}

#[tokio::test]
async fn beacons_go_on_while_the_authority_is_away_and_a_new_login_brings_new_temp_ids() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    let (state, address) = authority.stop().await;
    rig.until(|event| matches!(event, DeviceEvent::Disconnected { .. })).await;
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. })).await;
    rig.device.run(Command::Download).await;
    rig.until(|event| matches!(event, DeviceEvent::TempIdHeld { .. })).await;

    let authority = Authority::again(state, address).await;
    rig.until(|event| matches!(event, DeviceEvent::Resumed { .. })).await;
    assert_eq!(authority.state.resumes.load(Ordering::Relaxed), 1);
    let issued = authority.state.issued.load(Ordering::Relaxed);
    rig.device.run(Command::Logout).await;
    rig.until(|event| matches!(event, DeviceEvent::Ended(End::LoggedOut))).await;

    let mut rig = Rig::logged_in(config(&authority, folder.path())).await;
    rig.device.run(Command::Beacon(target(rig.device.udp()))).await;
    rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. })).await;
    assert!(authority.state.issued.load(Ordering::Relaxed) > issued, "what an earlier run held is not shown again");
}

#[tokio::test]
async fn what_is_taken_is_told_before_anything_begins() {
    let authority = Authority::start().await;
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = Rig::logged_in(config(&authority, folder.path())).await;
    let error = Device::start(config(&authority, folder.path())).await.unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
    let mut settings = config(&authority, other.path());
    settings.udp = rig.device.udp();
    let error = Device::start(settings).await.unwrap_err();
    assert!(matches!(error, StartError::PortTaken { port } if port == rig.device.udp().port()), "{error}");
    let mut settings = config(&authority, &folder.path().join("file/below"));
    fs::write(folder.path().join("file"), "").unwrap();
    settings.udp.set_port(0);
    let error = Device::start(settings).await.unwrap_err();
    assert!(matches!(error, StartError::Folder { .. }), "{error}");
    let mut settings = config(&authority, other.path());
    authority.stop().await;
    settings.udp.set_port(0);
    let error = Device::start(settings).await.unwrap_err();
    assert!(matches!(error, StartError::Connect(ConnectError::Unreachable { .. })), "{error}");
}

#[tokio::test]
async fn a_user_without_files_has_none_before_the_login_and_what_was_heard_goes_into_them_then() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let record = format!("12345678901234567891, {}, {}", now().plus(-10), now().plus(60));
    for logs_in in [false, true] {
        let mut rig = Rig::asked_for_a_password(config(&authority, folder.path())).await;
        sender.send_to(format!("{record}, 1").as_bytes(), rig.device.udp()).await.unwrap();
        rig.until(|event| matches!(event, DeviceEvent::BeaconHeard { is_valid: true, .. })).await;
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        if logs_in {
            rig.log_in().await;
            let log = fs::read_to_string(folder.path().join(format!("{USER}_contactlog.txt"))).unwrap();
            assert!(log.starts_with(&record) && log.lines().count() == 1, "{log}");
        }
        rig.device.run(Command::Logout).await;
        rig.until(|event| matches!(event, DeviceEvent::Ended(_))).await;
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), if logs_in { 2 } else { 0 });
    }
}

#[tokio::test]
async fn of_two_devices_of_a_new_user_the_first_to_log_in_has_the_files() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut late = Rig::asked_for_a_password(config(&authority, folder.path())).await;
    let mut first = Rig::logged_in(config(&authority, folder.path())).await;
    drop(late.device.submit(Command::Password(Password::parse(PASSWORD).unwrap())).await);
    let end = late.until(|event| matches!(event, DeviceEvent::Ended(_))).await;
    let DeviceEvent::Ended(End::NoFiles(error)) = end else { panic!("{end:?}") };
    assert!(matches!(*error, StartError::InUse { .. }), "{error}");
    // the first has noticed nothing
    first.device.run(Command::Logout).await;
    first.until(|event| matches!(event, DeviceEvent::Ended(End::LoggedOut))).await;
}

#[tokio::test]
async fn a_contact_log_that_is_there_is_locked_before_the_login() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 1);
    let _first = Rig::asked_for_a_password(config(&authority, folder.path())).await;
    let error = Device::start(config(&authority, folder.path())).await.unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn a_server_is_trusted_once_and_no_other_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::with_tls((Ipv4Addr::LOCALHOST, 0).into()).await;
    let mut settings = config(&authority, folder.path());
    settings.transport = Transport::Tls;

    let (device, mut events) = Device::start(settings.clone()).await.unwrap();
    let Some(DeviceEvent::ServerTrusted { fingerprint, .. }) = events.recv().await else { panic!() };
    let known = fs::read_to_string(folder.path().join("known_servers")).unwrap();
    assert_eq!(known, format!("{} {fingerprint}\n", authority.server()));
    drop(events);
    device.join().await;

    let rig = Rig::logged_in(settings.clone()).await;
    drop(rig.events);
    rig.device.join().await;

    let (_, address) = authority.stop().await;
    let _impostor = Authority::with_tls(address).await;
    let error = Device::start(settings.clone()).await.unwrap_err();
    assert!(matches!(&error, StartError::Connect(ConnectError::CertificateChanged(_))), "{error}");
    let text = error.to_string();
    let file = folder.path().join("known_servers");
    assert!(text.contains(&format!("remove line 1 of {}", file.display())), "{text}");

    fs::write(file, "").unwrap();
    Rig::logged_in(settings).await;
}

#[tokio::test]
async fn a_server_that_changes_its_certificate_in_between_ends_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::with_tls((Ipv4Addr::LOCALHOST, 0).into()).await;
    let mut settings = config(&authority, folder.path());
    settings.transport = Transport::Tls;
    let mut rig = Rig::logged_in(settings).await;
    let (_, address) = authority.stop().await;
    let _impostor = Authority::with_tls(address).await;
    rig.until(|event| matches!(event, DeviceEvent::Ended(End::CertificateChanged(_)))).await;
}

fn target(address: SocketAddr) -> Target {
    Target { host: address.ip().to_string(), port: address.port() }
}
