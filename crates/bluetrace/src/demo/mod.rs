//! Owns `bluetrace demo`: a story in which every promise is kept in front of the reader, on real sockets and real files.
//!
//! A step that did not happen is an error, so the demonstration is also a test of the whole.

#![expect(clippy::wildcard_enum_match_arm, reason = "the story waits for one event and lets the others pass")]

mod actor;
mod authority;
mod cutting_proxy;
mod narrator;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bluetrace_client::device::{Command, DeviceEvent, End};
use bluetrace_protocol::{Beacon, Clock as _, Password, Record, Timestamp};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use self::actor::{Actor, Person, Surroundings};
use self::authority::DemoAuthority;
use self::cutting_proxy::CuttingProxy;
use self::narrator::Narrator;
use crate::command_line::DemoOptions;
use crate::system::{self, SystemClock};

pub(crate) fn run(options: &DemoOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the async runtime")?.block_on(play(options))
}

static ANNA: Person = Person { name: "Anna", phone_number: "+61410999999", password: "comconcert" };
static BEN: Person = Person { name: "Ben", phone_number: "+61410888888", password: "comnetworks" };
static CHRIS: Person = Person { name: "Chris", phone_number: "+61410777777", password: "comexplore" };

/// The field's 15 minutes, 3 minutes and 60 seconds, made short enough to watch.
const TEMP_ID_LIFETIME_S: u32 = 5;
const CONTACT_LOG_RETENTION_S: u32 = 9;
const BLOCK_DURATION_S: u32 = 3;

/// Beacons that Ben hears of each of the others before he is tested.
const MEETINGS: usize = 300;

async fn play(options: &DemoOptions) -> anyhow::Result<()> {
    let home =
        tempfile::Builder::new().prefix("bluetrace-demo-").tempdir().context("cannot make a temporary folder")?;
    let mut narrator = Narrator::new(system::wants_colour());
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
    let mut anna = ANNA.switch_on(&around).await?;
    let mut ben = BEN.switch_on(&behind_bad_line).await?;
    let mut chris = CHRIS.switch_on(&around).await?;
    log_in(&mut narrator, [&mut anna, &mut ben, &mut chris]).await?;
    let first_heard = meet(&mut narrator, &anna, &mut ben).await?;
    replay(&mut narrator, &anna, &mut ben).await?;
    forget(&mut narrator, &mut ben, first_heard).await?;
    spend_time_together(&mut narrator, &anna, &chris, &mut ben).await?;
    upload_over_bad_line(&mut narrator, &mut ben, &bad_line, &authority).await?;
    trace(&mut narrator, &authority).await?;
    show_notices(&mut narrator, [&mut anna, &mut chris], &mut ben).await?;

    for actor in [anna, ben, chris] {
        actor.log_out().await?;
    }
    narrator.end();
    if options.keep { authority.keep(&narrator, [&ANNA, &BEN, &CHRIS]).await } else { authority.close().await }
}

async fn open_authority(narrator: &mut Narrator, home: &std::path::Path) -> anyhow::Result<DemoAuthority> {
    narrator.step("The health authority opens");
    let authority = DemoAuthority::open(&home.join("authority"), [&ANNA, &BEN, &CHRIS]).await?;
    for line in authority.console_lines(|line| line.starts_with("listening on")).await? {
        narrator.quote("authority", &line);
    }
    narrator.tell(&format!(
        "To be watched in a minute: a TempID lives {TEMP_ID_LIFETIME_S} s, a contact log forgets after \
         {CONTACT_LOG_RETENTION_S} s, a block lasts {BLOCK_DURATION_S} s."
    ));
    narrator.checked("one port for TLS and plaintext, a database, a certificate, three accounts");
    Ok(authority)
}

async fn block_and_unblock(narrator: &mut Narrator, around: &Surroundings) -> anyhow::Result<()> {
    narrator.step("Somebody guesses Chris's password");
    let mut guesser = CHRIS.switch_on(around).await?;
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

    let mut owner = CHRIS.switch_on(around).await?;
    owner.run(Command::Password(Password::parse(CHRIS.password)?)).await;
    narrator.quote("device", &blocked(&mut owner).await?);
    narrator.checked("while the block lasts even the right password does not help");
    sleep(Duration::from_secs(u64::from(BLOCK_DURATION_S) + 1)).await;
    let mut owner = CHRIS.switch_on(around).await?;
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
    for _ in 0..250 {
        let status = actor.status().await?;
        if let (Some(shown), Some(until)) = (status.temp_id, status.covered_until) {
            return Ok((shown, until));
        }
        sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no TempID arrived at {}'s device", actor.person.name)
}

/// Returns when the beacon was heard.
async fn meet(narrator: &mut Narrator, anna: &Actor, ben: &mut Actor) -> anyhow::Result<Timestamp> {
    narrator.step("Anna meets Ben");
    anna.beacon(ben.udp()).await;
    let (record, heard) = ben
        .expect("heard a beacon", |event| match event {
            DeviceEvent::BeaconHeard { record, now, is_valid: true } => Some((record, now)),
            _ => None,
        })
        .await?;
    narrator.quote("Anna", &format!("beacon to {}: {}", ben.udp(), record.reveal()));
    let line = eventually("Ben's contact log holds the beacon", || Ok(ben.contact_log()?.pop())).await?;
    narrator.quote("Ben", &format!("contact log: {line}"));
    ensure!(line.starts_with(&record.reveal()), "the contact log holds another record than was heard: {line}");
    narrator.checked("Ben's device logged Anna's TempID, and does not know whose it is");
    Ok(heard)
}

async fn replay(narrator: &mut Narrator, anna: &Actor, ben: &mut Actor) -> anyhow::Result<()> {
    narrator.step("An adversary replays what Anna said");
    let adversary = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the adversary has no socket")?;
    anna.beacon(adversary.local_addr().context("the adversary's address")?).await;
    let mut buffer = [0; 512];
    let received = timeout(Duration::from_secs(5), adversary.recv(&mut buffer)).await;
    let captured =
        &buffer[..received.context("the adversary heard nothing")?.context("the adversary heard nothing")?];
    let window = Beacon::parse(captured).context("the adversary captured no beacon")?.record.window;
    narrator.quote("adversary", &format!("captured: {}", String::from_utf8_lossy(captured)));
    narrator.tell(&format!("… and waits until {} has passed", window.expiry()));
    wait_until(window.expiry().plus(1)).await;
    let before = ben.status().await?;
    adversary.send_to(captured, ben.udp()).await.context("the adversary cannot send")?;
    let now = ben
        .expect("refused the replayed beacon", |event| match event {
            DeviceEvent::BeaconHeard { now, is_valid: false, .. } => Some(now),
            _ => None,
        })
        .await?;
    narrator.quote("Ben", &format!("Current time is: {now}"));
    narrator.quote("Ben", "The beacon is invalid.");
    let after = ben.status().await?;
    ensure!(after.valid == before.valid && after.contacts <= before.contacts, "the replayed beacon was logged");
    narrator.checked("the replay is refused: no trace of it in Ben's contact log");
    Ok(())
}

async fn forget(narrator: &mut Narrator, ben: &mut Actor, heard: Timestamp) -> anyhow::Result<()> {
    narrator.step("Ben's contact log forgets");
    let removal = heard.plus(i64::from(CONTACT_LOG_RETENTION_S));
    narrator.tell(&format!("heard at {heard}, kept {CONTACT_LOG_RETENTION_S} s, so to be gone at {removal}"));
    ben.expect("forgot the beacon", |event| matches!(event, DeviceEvent::ContactForgotten { .. }).then_some(()))
        .await?;
    let gone = SystemClock.now();
    ensure!(gone >= removal, "the beacon was forgotten early, at {gone}");
    eventually("the contact log's file is empty", || Ok(ben.contact_log()?.is_empty().then_some(()))).await?;
    narrator.checked(&format!("gone at {gone}, from memory and from the file"));
    Ok(())
}

async fn spend_time_together(
    narrator: &mut Narrator,
    anna: &Actor,
    chris: &Actor,
    ben: &mut Actor,
) -> anyhow::Result<()> {
    narrator.step("Anna, Ben and Chris spend time together");
    for met in 1..=MEETINGS {
        anna.beacon(ben.udp()).await;
        chris.beacon(ben.udp()).await;
        if met % 25 == 0 {
            // beacons are datagrams: a burst too large for the receiver would be lost
            let status = ben.status().await?;
            eventually_heard(ben, 2 * met as u64 + 1, status.valid).await?;
        }
    }
    let contacts = ben.status().await?.contacts;
    ensure!(contacts > 0, "Ben's contact log is empty");
    narrator.checked(&format!("Ben heard {} beacons; his log holds {contacts}", 2 * MEETINGS));
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
    ben: &mut Actor,
    bad_line: &CuttingProxy,
    authority: &DemoAuthority,
) -> anyhow::Result<()> {
    narrator.step("Ben tests positive and uploads, and the line is cut half-way");
    let in_log = ben.status().await?.contacts;
    // a record takes about 160 bytes on the line
    bad_line.cut_after(160 * in_log as u64 / 2);
    ben.run(Command::Upload).await;
    let records = ben
        .expect("began to upload", |event| match event {
            DeviceEvent::UploadStarted { records, .. } => Some(records),
            _ => None,
        })
        .await?;
    narrator.quote("Ben", &format!("uploading {} records", records.len()));
    let why = ben
        .expect("lost its connection", |event| match event {
            DeviceEvent::Disconnected { why, .. } => Some(why),
            _ => None,
        })
        .await?;
    narrator.quote("Ben", &format!("{why}; reconnecting"));
    let (acknowledged, total) = ben
        .expect("went on with its upload", |event| match event {
            DeviceEvent::UploadContinued { acknowledged, total } => Some((acknowledged, total)),
            _ => None,
        })
        .await?;
    narrator.quote("Ben", &format!("resumed without a password; {acknowledged} of {total} are there, going on"));
    ensure!(0 < acknowledged && acknowledged < total, "the cut was not half-way: {acknowledged} of {total}");
    let summary = ben
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
    let lines = authority.console_lines(|line| line.starts_with("... and") && line.ends_with(" more")).await?;
    let begin = lines.iter().position(|line| line.starts_with("received contact log from"));
    for line in lines.iter().skip(begin.context("the console says nothing of the contact log")?).take(3) {
        narrator.quote("authority", line);
    }
    let matches = authority.console_lines(|line| line.starts_with("... and") && line.ends_with(" more")).await?;
    let begin = matches.iter().position(|line| line == "Contact log checking");
    for line in matches.iter().skip(begin.context("the console says nothing of the checking")?).take(3) {
        narrator.quote("authority", line);
    }
    narrator.quote("authority", "…");
    let met = authority.people_met().await?;
    for (phone_number, encounters) in &met {
        narrator.tell(&format!(
            "{phone_number} was met: {} beacons, from {} to {}",
            encounters.count, encounters.from, encounters.to
        ));
    }
    let expected = [CHRIS.phone_number, ANNA.phone_number];
    ensure!(met.keys().map(String::as_str).eq(expected), "others were traced than were met");
    narrator.checked("only the authority could tell: the log itself names nobody");
    Ok(())
}

async fn show_notices(narrator: &mut Narrator, met: [&mut Actor; 2], ben: &mut Actor) -> anyhow::Result<()> {
    narrator.step("The people who were met are told");
    for actor in met {
        let notice = actor.expect("showed a notice", |event| match event {
            DeviceEvent::Notices(mut notices) => notices.pop(),
            _ => None,
        });
        let notice = notice.await?;
        narrator.quote(actor.person.name, &format!("exposed from {} to {}", notice.from, notice.to));
        narrator.quote(actor.person.name, &notice.advice);
    }
    narrator.checked("Anna and Chris learn when, and what to do; not by whom");
    ben.run(Command::Notices).await;
    let notices = ben
        .expect("asked for notices", |event| match event {
            DeviceEvent::Notices(notices) => Some(notices.len()),
            _ => None,
        })
        .await?;
    ensure!(notices == 0, "Ben got a notice of his own upload");
    narrator.checked("Ben, who uploaded, gets none");
    Ok(())
}

async fn wait_until(moment: Timestamp) {
    while SystemClock.now() < moment {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for something that follows soon after what was heard of it.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    for _ in 0..100 {
        if let Some(found) = look()? {
            return Ok(found);
        }
        sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("it did not happen that {what}")
}

/// How somebody joins the authority that was kept.
fn joining(address: SocketAddr) -> String {
    format!("bluetrace client {} {} 8001", address.ip(), address.port())
}
