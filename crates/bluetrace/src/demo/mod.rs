//! Owns `bluetrace demo`: a story in which every promise is kept in front of the reader, on real sockets and real files.
//!
//! A step that did not happen is an error, so the demonstration is also a test of the whole.

#![expect(clippy::wildcard_enum_match_arm, reason = "the story waits for one event and lets the others pass")]

mod actor;
mod authority;
mod cutting_proxy;
mod narrator;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bluetrace_client::device::{Command, DeviceEvent, End};
use bluetrace_protocol::{Beacon, Clock as _, Password, Record, Timestamp};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use self::actor::{Actor, Person, Surroundings};
use self::authority::{DemoAuthority, Encounters};
use self::cutting_proxy::CuttingProxy;
use self::narrator::Narrator;
use crate::command_line::DemoOptions;
use crate::runtime::block_on_all_cores;
use crate::system::{self, SystemClock};

pub(crate) fn run(options: &DemoOptions) -> anyhow::Result<()> {
    block_on_all_cores(play(options))
}

static USER_A: Person = Person { name: "A", phone_number: "+61410999999", password: "comconcert" };
static USER_B: Person = Person { name: "B", phone_number: "+61410888888", password: "comnetworks" };
static USER_C: Person = Person { name: "C", phone_number: "+61410777777", password: "comexplore" };

/// The field's 15 minutes, 3 minutes and 60 seconds, made short enough to watch.
const TEMP_ID_LIFETIME_S: u32 = 5;
const CONTACT_LOG_RETENTION_S: u32 = 9;
const BLOCK_DURATION_S: u32 = 3;

/// Beacons that B hears of each of the others before its test.
const MEETINGS: usize = 300;

async fn play(options: &DemoOptions) -> anyhow::Result<()> {
    let home =
        tempfile::Builder::new().prefix("bluetrace-demo-").tempdir().context("cannot make a temporary folder")?;
    let mut narrator = Narrator::new(system::wants_colour(), system::columns());
    narrator.title("BlueTrace on one machine:", "an authority, three devices, one adversary; real sockets, real files");

    let authority = open_authority(&mut narrator, home.path()).await?;
    let bad_line = CuttingProxy::start(authority.address()).await?;
    let around = Surroundings {
        server: authority.address(),
        home: home.path().to_owned(),
        retention_s: CONTACT_LOG_RETENTION_S,
    };
    let behind_bad_line = Surroundings { server: bad_line.address, ..around.clone() };

    block_and_unblock(&mut narrator, &around).await?;
    let mut device_a = USER_A.switch_on(&around).await?;
    let mut device_b = USER_B.switch_on(&behind_bad_line).await?;
    let mut device_c = USER_C.switch_on(&around).await?;
    log_in(&mut narrator, [&mut device_a, &mut device_b, &mut device_c]).await?;
    let first_heard = meet(&mut narrator, &device_a, &mut device_b).await?;
    replay(&mut narrator, &device_a, &mut device_b).await?;
    forget(&mut narrator, &mut device_b, first_heard).await?;
    spend_time_together(&mut narrator, &device_a, &device_c, &mut device_b).await?;
    upload_over_bad_line(&mut narrator, &mut device_b, &bad_line, &authority).await?;
    trace(&mut narrator, &authority).await?;
    show_notices(&mut narrator, [&mut device_a, &mut device_c], &mut device_b).await?;

    for actor in [device_a, device_b, device_c] {
        actor.log_out().await?;
    }
    narrator.end();
    if options.keep { authority.keep(&narrator, [&USER_A, &USER_B, &USER_C]).await } else { authority.close().await }
}

async fn open_authority(narrator: &mut Narrator, home: &std::path::Path) -> anyhow::Result<DemoAuthority> {
    narrator.step("The health authority opens");
    let authority = DemoAuthority::open(&home.join("authority"), [&USER_A, &USER_B, &USER_C]).await?;
    for line in authority.console_lines(|line| line.starts_with("listening on")).await? {
        // a fingerprint has no space to fold it at, and fits a line of its own
        match line.split_once("sha256:") {
            Some((front, digits)) => {
                narrator.quote("authority", &format!("{front}sha256:"));
                narrator.quote("", digits);
            }
            None => narrator.quote("authority", &line),
        }
    }
    narrator.tell(&format!(
        "To be watched in a minute: a TempID lives {TEMP_ID_LIFETIME_S} s, a contact is kept \
         {CONTACT_LOG_RETENTION_S} s, a block lasts {BLOCK_DURATION_S} s."
    ));
    narrator.checked("one port for TLS and plaintext, a database, a certificate, three accounts");
    Ok(authority)
}

async fn block_and_unblock(narrator: &mut Narrator, around: &Surroundings) -> anyhow::Result<()> {
    narrator.step("Somebody guesses C's password");
    let mut guesser = USER_C.switch_on(around).await?;
    for guess in ["123456", "letmein"] {
        guesser.run(Command::Password(Password::parse(guess)?)).await;
        let text = guesser.expect("was told that the password is wrong", |event| match event {
            DeviceEvent::WrongPassword { text } => Some(text),
            _ => None,
        });
        narrator.quote("device", &text.await?);
    }
    guesser.run(Command::Password(Password::parse("qwerty")?)).await;
    narrator.quote("device", &blocked(&mut guesser).await?);
    narrator.checked("three wrong passwords in a row block the account");

    let mut owner = USER_C.switch_on(around).await?;
    owner.run(Command::Password(Password::parse(USER_C.password)?)).await;
    narrator.quote("device", &blocked(&mut owner).await?);
    narrator.checked("while the block lasts even the right password does not help");
    sleep(Duration::from_secs(u64::from(BLOCK_DURATION_S) + 1)).await;
    let mut owner = USER_C.switch_on(around).await?;
    owner.log_in().await?;
    owner.log_out().await?;
    narrator.checked(&format!("{BLOCK_DURATION_S} s later it does: the block has ended"));
    Ok(())
}

async fn blocked(actor: &mut Actor) -> anyhow::Result<String> {
    actor
        .expect("was told of the block", |event| match event {
            DeviceEvent::Ended(End::Blocked { text }) => Some(text),
            _ => None,
        })
        .await
}

async fn log_in(narrator: &mut Narrator, actors: [&mut Actor; 3]) -> anyhow::Result<()> {
    narrator.step("Three devices log in, and TempIDs arrive");
    let [a, b, c] = actors.each_ref().map(|actor| actor.person.to_string());
    narrator.tell(&format!("The people, by name and number: {a}, {b}, {c}."));
    for actor in actors {
        actor.log_in().await?;
        let (shown, until) = temp_id_of(actor).await?;
        narrator.quote(actor.person.name, &format!("{}  (and further ones until {until})", shown.reveal()));
    }
    narrator.checked("every device has a TempID to show, and the next ones for when its window ends");
    Ok(())
}

/// The `TempID` that a device shows, once it has one, and until when it has others to follow it.
async fn temp_id_of(actor: &mut Actor) -> anyhow::Result<(Record, Timestamp)> {
    let what = format!("a TempID arrives at {}'s device", actor.person.name);
    eventually(&what, async || {
        let status = actor.status().await?;
        Ok(status.temp_id.zip(status.covered_until))
    })
    .await
}

/// Returns when the beacon was heard.
async fn meet(narrator: &mut Narrator, device_a: &Actor, device_b: &mut Actor) -> anyhow::Result<Timestamp> {
    narrator.step("A and B meet: A beacons, B listens");
    device_a.beacon(device_b.udp()).await;
    let (record, heard) = device_b
        .expect("heard a beacon", |event| match event {
            DeviceEvent::BeaconHeard { record, now, is_valid: true } => Some((record, now)),
            _ => None,
        })
        .await?;
    narrator.quote("A", &format!("beacon: {}", record.reveal()));
    let line = eventually("B's contact log holds the beacon", async || Ok(device_b.contact_log()?.pop())).await?;
    narrator.quote("B", &format!("contact log: {line}"));
    ensure!(line.starts_with(&record.reveal()), "the contact log holds another record than was heard: {line}");
    narrator.checked("B's device logged A's TempID, and does not know whose it is");
    Ok(heard)
}

async fn replay(narrator: &mut Narrator, device_a: &Actor, device_b: &mut Actor) -> anyhow::Result<()> {
    narrator.step("An adversary replays what A said");
    let adversary = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the adversary has no socket")?;
    device_a.beacon(adversary.local_addr().context("the adversary's address")?).await;
    let mut buffer = [0; 512];
    let received = timeout(Duration::from_secs(5), adversary.recv(&mut buffer)).await;
    let captured =
        &buffer[..received.context("the adversary heard nothing")?.context("the adversary heard nothing")?];
    let window = Beacon::parse(captured).context("the adversary captured no beacon")?.record.window;
    narrator.quote("adversary", &format!("captured: {}", String::from_utf8_lossy(captured)));
    narrator.tell(&format!("… and waits until {} has passed", window.expiry()));
    wait_until(window.expiry().plus(1)).await;
    let before = device_b.status().await?;
    adversary.send_to(captured, device_b.udp()).await.context("the adversary cannot send")?;
    let now = device_b
        .expect("refused the replayed beacon", |event| match event {
            DeviceEvent::BeaconHeard { now, is_valid: false, .. } => Some(now),
            _ => None,
        })
        .await?;
    narrator.quote("B", &format!("Current time is: {now}"));
    narrator.quote("B", "The beacon is invalid.");
    let after = device_b.status().await?;
    ensure!(after.valid == before.valid && after.contacts <= before.contacts, "the replayed beacon was logged");
    narrator.checked("the replay is refused: no trace of it in B's contact log");
    Ok(())
}

async fn forget(narrator: &mut Narrator, device_b: &mut Actor, heard: Timestamp) -> anyhow::Result<()> {
    narrator.step("B's contact log forgets");
    let removal = heard.plus(i64::from(CONTACT_LOG_RETENTION_S));
    narrator.tell(&format!("heard at {heard}, kept {CONTACT_LOG_RETENTION_S} s, so to be gone at {removal}"));
    device_b
        .expect("forgot the beacon", |event| matches!(event, DeviceEvent::ContactForgotten { .. }).then_some(()))
        .await?;
    let gone = SystemClock.now();
    ensure!(gone >= removal, "the beacon was forgotten early, at {gone}");
    eventually("the contact log's file is empty", async || Ok(device_b.contact_log()?.is_empty().then_some(())))
        .await?;
    narrator.checked(&format!("gone at {gone}, from memory and from the file"));
    Ok(())
}

async fn spend_time_together(
    narrator: &mut Narrator,
    device_a: &Actor,
    device_c: &Actor,
    device_b: &mut Actor,
) -> anyhow::Result<()> {
    narrator.step("A, B and C spend time together");
    for met in 1..=MEETINGS {
        device_a.beacon(device_b.udp()).await;
        device_c.beacon(device_b.udp()).await;
        if met % 25 == 0 {
            // beacons are datagrams: a burst too large for the receiver would be lost
            let status = device_b.status().await?;
            eventually_heard(device_b, 2 * met as u64 + 1, status.valid).await?;
        }
    }
    let contacts = device_b.status().await?.contacts;
    ensure!(contacts > 0, "B's contact log is empty");
    narrator.checked(&format!("B heard {} beacons; its log holds {contacts}", 2 * MEETINGS));
    Ok(())
}

/// Waits until a device has heard so many valid beacons in all.
async fn eventually_heard(actor: &mut Actor, wanted: u64, mut heard: u64) -> anyhow::Result<()> {
    for _ in 0..500 {
        if heard >= wanted {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
        heard = actor.status().await?.valid;
    }
    let status = actor.status().await?;
    anyhow::bail!(
        "only {heard} of {wanted} beacons were heard in their window; {} outside it, and {} datagrams were no beacons",
        status.invalid,
        status.dropped
    )
}

async fn upload_over_bad_line(
    narrator: &mut Narrator,
    device_b: &mut Actor,
    bad_line: &CuttingProxy,
    authority: &DemoAuthority,
) -> anyhow::Result<()> {
    narrator.step("B tests positive and uploads, and the line is cut half-way");
    let in_log = device_b.status().await?.contacts;
    // a record takes about 160 bytes on the line
    bad_line.cut_after(160 * in_log as u64 / 2);
    device_b.run(Command::Upload(None)).await;
    let records = device_b
        .expect("began to upload", |event| match event {
            DeviceEvent::UploadStarted { records, .. } => Some(records),
            _ => None,
        })
        .await?;
    narrator.quote("B", &format!("uploading {} records", records.len()));
    let why = device_b
        .expect("lost its connection", |event| match event {
            DeviceEvent::Disconnected { why, .. } => Some(why),
            _ => None,
        })
        .await?;
    narrator.quote("B", &format!("{why}; reconnecting"));
    let (acknowledged, total) = device_b
        .expect("went on with its upload", |event| match event {
            DeviceEvent::UploadContinued { acknowledged, total } => Some((acknowledged, total)),
            _ => None,
        })
        .await?;
    narrator.quote("B", &format!("resumed without a password; {acknowledged} of {total} are there, going on"));
    ensure!(0 < acknowledged && acknowledged < total, "the cut was not half-way: {acknowledged} of {total}");
    let summary = device_b
        .expect("finished its upload", |event| match event {
            DeviceEvent::UploadComplete(summary) => Some(summary),
            _ => None,
        })
        .await?;
    let stored = authority.uploaded_records().await?;
    let sent: Vec<_> = records.iter().map(|entry| (entry.record.clone(), Some(entry.received))).collect();
    ensure!(stored == sent, "the authority holds {} records, other than the {} sent", stored.len(), sent.len());
    ensure!(summary.resolved as usize == sent.len(), "only {} records were resolved", summary.resolved);
    narrator.checked(&format!("all {total} records arrived, each exactly once, in order"));
    Ok(())
}

async fn trace(narrator: &mut Narrator, authority: &DemoAuthority) -> anyhow::Result<()> {
    narrator.step("The authority traces: who was met, and when");
    for headline in ["received contact log from", "Contact log checking"] {
        let before = authority.console_lines(|line| line.starts_with(headline)).await?;
        let entries = authority.console_lines(|line| line.starts_with("... and")).await?;
        for line in before.iter().rev().take(1).chain(entries.iter().take(2)) {
            narrator.quote("authority", line);
        }
        narrator.quote("authority", "...");
    }
    let met = authority.people_met().await?;
    for person in [&USER_C, &USER_A] {
        let Some(Encounters { count, from, to }) = met.get(person.phone_number) else { continue };
        let when = if from == to { format!("at {from}") } else { format!("from {from} to {to}") };
        narrator.tell(&format!("{person} was met: {count} beacons, {when}"));
    }
    let expected = [USER_C.phone_number, USER_A.phone_number];
    ensure!(met.keys().map(String::as_str).eq(expected), "others were traced than were met");
    narrator.checked("only the authority could tell: the log itself names nobody");
    Ok(())
}

async fn show_notices(narrator: &mut Narrator, met: [&mut Actor; 2], device_b: &mut Actor) -> anyhow::Result<()> {
    narrator.step("The people who were met are told");
    for actor in met {
        let notice = actor.expect("showed a notice", |event| match event {
            DeviceEvent::Notices { mut notices, now } => notices.pop().map(|notice| (notice, now)),
            _ => None,
        });
        let (notice, now) = notice.await?;
        // its last window may not be over
        let to = notice.to.min(now);
        narrator.quote(actor.person.name, &format!("exposed between {} and {to}", notice.from));
        narrator.quote(actor.person.name, &notice.advice);
    }
    narrator.checked("A and C learn when, and what to do; not by whom");
    device_b.run(Command::Notices).await;
    let notices = device_b
        .expect("asked for notices", |event| match event {
            DeviceEvent::Notices { notices, .. } => Some(notices.len()),
            _ => None,
        })
        .await?;
    ensure!(notices == 0, "B got a notice of its own upload");
    narrator.checked("B, who uploaded, gets none");
    Ok(())
}

async fn wait_until(moment: Timestamp) {
    while SystemClock.now() < moment {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for something that follows soon after what was heard of it.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    for _ in 0..250 {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("it did not happen that {what}")
}
