//! Servers and devices that are killed at random moments: what was acknowledged is there, once, and all goes on by itself.
//!
//! Every test prints the seed of its moments; `BLUETRACE_TEST_SEED` sets it. Moments in other processes cannot be met exactly
//! again: the seed brings back the pattern, not the instant.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::io::{BufWriter, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bluetrace_protocol::Timestamp;
use rand::rngs::{ChaCha12Rng, SysRng};
use rand::{RngExt as _, SeedableRng as _, TryRng as _};
use serde_json::{Value, json};
use support::{ILL, Place, RunningServer, Session, record, wait_until};

/// Records of an upload: enough to be killed in the middle of.
const RECORDS: u32 = 30_000;

#[test]
fn a_server_killed_in_the_middle_of_an_upload_loses_and_doubles_nothing_it_acknowledged() {
    let mut moments = moments();
    let place = Place::with_accounts();
    let records: Vec<String> = (0..u64::from(RECORDS)).map(record).collect();
    let mut acknowledged = 0;
    for kills in 1..=3 {
        let mut server = place.server();
        // somewhere behind what was acknowledged, in the next seventh
        let kill_at = acknowledged + moments.random_range(1..RECORDS / 7);
        let kill = Kill {
            at: kill_at,
            // behind that, as many are under way
            streamed: kill_at + moments.random_range(1..RECORDS / 7),
            pause: Duration::from_micros(moments.random_range(0..2_000)),
        };
        let upload = upload(&mut server, &records, Some(kill));
        assert!(upload.begun_at >= acknowledged, "{} is less than the {acknowledged} acknowledged", upload.begun_at);
        assert!(upload.summary.is_none(), "the upload was over before kill {kills}");
        acknowledged = upload.acknowledged;
        assert!(acknowledged > 0 && acknowledged < RECORDS);
    }
    let mut server = place.server();
    let upload = upload(&mut server, &records, None);
    assert!(upload.begun_at >= acknowledged);
    let summary = json!({"records": RECORDS, "resolved": 0, "unknown": RECORDS, "invalid": 0});
    assert_eq!(upload.summary, Some(summary));
    assert_uploaded_once(&place, RECORDS);
}

#[test]
fn a_device_whose_server_is_killed_reconnects_resumes_and_finishes_by_itself() {
    let mut moments = moments();
    let place = Place::with_accounts();
    place.write_contact_log(ILL, RECORDS.into());
    let mut server = place.server();
    let port = server.address.port();
    let mut device = place.device(server.address, ILL, &["--retention", "1h"]);
    device.say("Upload_contact_log");
    device.expect(&format!("uploading {RECORDS} records:"));
    let mut kills = 0;
    loop {
        thread::sleep(Duration::from_millis(moments.random_range(0..60)));
        server.kill();
        kills += 1;
        server = place.server_at(port, &[]);
        device.expect_any(&["connected again", "upload complete"]);
        if kills == 3 || device.output.seen.iter().any(|line| line.starts_with("upload complete")) {
            break;
        }
        device.expect_any(&["going on with the upload", "upload complete"]);
    }
    if !device.output.seen.iter().any(|line| line.starts_with("upload complete")) {
        device.expect(&format!("upload complete: {RECORDS} records acknowledged"));
    }
    assert!(kills > 1, "the upload was over before the first kill");
    device.say("Download_tempID");
    device.expect("TempID:");
    let (status, shown) = device.end();
    assert_eq!(status, Some(0), "{shown:#?}");
    assert_eq!(shown.iter().filter(|line| *line == "Password:").count(), 1, "nobody is asked again: {shown:#?}");
    assert_uploaded_once(&place, RECORDS);
}

#[test]
fn a_device_killed_in_the_middle_of_an_upload_finishes_it_when_it_is_started_again() {
    let mut moments = moments();
    let place = Place::with_accounts();
    let server = place.server();
    place.write_contact_log(ILL, RECORDS.into());
    let saved = place.device_file(ILL, "upload");
    let start = || place.device(server.address, ILL, &["--retention", "1h"]);
    let mut device = start();
    device.say("Upload_contact_log");
    // before it is saved nothing is promised
    wait_until("the upload is saved", || saved.exists());
    let mut kills_in_the_middle = 0;
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(moments.random_range(0..20)));
        device.kill();
        if !saved.exists() {
            break;
        }
        kills_in_the_middle += 1;
        device = start();
    }
    assert!(kills_in_the_middle > 0, "the upload was over before the first kill");
    if saved.exists() {
        wait_until("the upload is finished, and nobody asked for it", || !saved.exists());
        let (status, shown) = device.end();
        assert_eq!(status, Some(0), "{shown:#?}");
        let complete = format!("upload complete: {RECORDS} records acknowledged");
        assert!(shown.iter().any(|line| line.starts_with(&complete)), "{shown:#?}");
    }
    assert_uploaded_once(&place, RECORDS);
}

#[test]
fn a_device_goes_on_while_the_authority_is_away() {
    let place = Place::with_accounts();
    let mut server = place.server();
    let mut device = place.device(server.address, ILL, &[]);
    let port = device.udp_port();
    server.kill();
    device.expect("disconnected: ");
    device.say(&format!("Beacon 127.0.0.1 {port}"));
    device.expect("The beacon is valid.");
    device.say("Download_tempID");
    device.expect("TempID:");
    device.say("status");
    assert!(device.expect("      server  ").contains(", away, tried again in "));
    device.say("Upload_contact_log");
    device.expect("uploading 1 record:");
    device.expect("the authority is away: they are kept, and go by themselves when it is back");
    let _server = place.server_at(server.address.port(), &[]);
    device.expect("connected again");
    device.expect("upload complete: 1 record acknowledged (1 traced to a person, 0 unknown, 0 invalid)");
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn a_device_killed_while_it_hears_beacons_keeps_a_whole_log_but_for_a_torn_last_line() {
    let mut moments = moments();
    let place = Place::with_accounts();
    let server = place.server();
    let log = place.device_file(ILL, "contactlog");
    let (port, sent) = (AtomicU16::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| send_beacons(&port, &sent));
        let mut kept: Vec<String> = Vec::new();
        for _ in 0..4 {
            let mut device = place.device(server.address, ILL, &[]);
            let lines = whole_lines(&log);
            assert_eq!(lines, kept, "what was whole before is there again, and nothing else");
            port.store(device.udp_port(), Ordering::Relaxed);
            wait_until("beacons are logged", || whole_lines(&log).len() > kept.len() + 50);
            thread::sleep(Duration::from_millis(moments.random_range(0..150)));
            device.kill();
            tear(&log, moments.random_range(0..150));
            kept = whole_lines(&log);
            assert!(numbers(&kept).is_sorted_by(|one, next| one < next), "in order of arrival, and none twice");
        }
        port.store(END, Ordering::Relaxed);
        let mut device = place.device(server.address, ILL, &[]);
        device.say("status");
        device.expect(&format!(" contact log  {} entries", kept.len()));
        assert_eq!(whole_lines(&log), kept);
        let (status, shown) = device.end();
        assert_eq!(status, Some(0));
        assert!(fs::read(&log).unwrap().ends_with(b"\n"), "{shown:#?}");
    });
}

/// When a server is killed.
#[derive(Clone, Copy)]
struct Kill {
    /// So many records are acknowledged,
    at: u32,
    /// so many were sent,
    streamed: u32,
    /// and so much time has passed since.
    pause: Duration,
}

/// What came of a try to upload.
struct Tried {
    /// Where the server let it go on.
    begun_at: u32,
    /// How many records were acknowledged in all.
    acknowledged: u32,
    summary: Option<Value>,
}

/// Begins an upload or goes on with it, its records in one stream, and kills the server in the middle if it is to be.
fn upload(server: &mut RunningServer, records: &[String], kill: Option<Kill>) -> Tried {
    let total = u32::try_from(records.len()).unwrap();
    let mut session = Session::login(server.address, ILL);
    let begun = session.request(&json!({"commandType": "UC", "numOfSend": total, "upload": UPLOAD}).to_string());
    let expected = |answer: &Value| u32::try_from(answer["numOfRecv"].as_u64().unwrap_or_default()).unwrap();
    let begun_at = total - expected(&begun);
    let mut tried = Tried { begun_at, acknowledged: begun_at, summary: None };
    let streamed = kill.map_or(records, |kill| &records[..kill.streamed as usize]);
    let stream = session.stream.get_ref().try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut out = BufWriter::new(stream);
            for (place, record) in streamed.iter().enumerate().skip(begun_at as usize) {
                let frame = json!({"commandType": "UC", "numOfSend": records.len() - place - 1, "data": record});
                // a killed server takes no more
                if writeln!(out, "{frame}").is_err() {
                    return;
                }
            }
            _ = out.flush();
        });
        let mut is_killed = false;
        let mut line = String::new();
        // what a killed server had sent before is still to be read, and counts
        while std::io::BufRead::read_line(&mut session.stream, &mut line).is_ok_and(|read| read > 0) {
            let Ok(answer) = serde_json::from_str::<Value>(&line) else { break };
            assert_eq!(answer["commandType"], "UC", "{answer}");
            let now_acknowledged = total - expected(&answer);
            assert!(now_acknowledged >= tried.acknowledged, "acknowledgements only grow");
            tried.acknowledged = now_acknowledged;
            if let Some(summary) = answer.get("data") {
                tried.summary = Some(summary.clone());
                break;
            }
            if let Some(kill) = kill.filter(|kill| !is_killed && tried.acknowledged >= kill.at) {
                thread::sleep(kill.pause);
                server.kill();
                is_killed = true;
            }
            line.clear();
        }
    });
    tried
}

/// There is one upload, complete, and each of its records is there once and in its place.
fn assert_uploaded_once(place: &Place, records: u32) {
    let uploads = place.administer(&["export", "uploads", "--format", "jsonl"], "").assert_success();
    let uploads: Vec<Value> = uploads.shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [upload] = uploads.as_slice() else { panic!("one upload: {uploads:?}") };
    assert_eq!((&upload["records"], &upload["received"]), (&json!(records), &json!(records)));
    assert_eq!(upload["complete"], true);
    let contacts = place.administer(&["export", "contacts", "--format", "jsonl"], "").assert_success();
    let mut rows = contacts.shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    for number in 0..records {
        assert_eq!(rows.next().unwrap()["temp_id"], format!("{number:020}"));
    }
    assert!(rows.next().is_none());
}

/// Sends a beacon after the other to whatever port there is, numbered, until the port is [`END`].
fn send_beacons(port: &AtomicU16, sent: &AtomicU64) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    loop {
        match port.load(Ordering::Relaxed) {
            END => return,
            0 => {}
            port => {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                // nobody listens while the device is dead
                _ = socket
                    .send_to(format!("{}, 1", record(number)).as_bytes(), SocketAddr::from(([127, 0, 0, 1], port)));
            }
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// The lines of a contact log that are ended, each of which has to be a record and a time.
fn whole_lines(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    for line in &lines {
        let fields: Vec<&str> = line.split(", ").collect();
        let times = fields.iter().skip(1).filter(|time| Timestamp::parse(time).is_ok()).count();
        assert!(fields.len() == 4 && fields[0].len() == 20 && times == 3, "{line:?}");
    }
    lines
}

fn numbers(lines: &[String]) -> Vec<u64> {
    lines.iter().map(|line| line.split(',').next().unwrap().parse().unwrap()).collect()
}

/// Takes some bytes from a file's end, as a write does that was cut short.
fn tear(log: &Path, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(log).unwrap();
    file.set_len(file.metadata().unwrap().len().saturating_sub(bytes)).unwrap();
}

/// Random moments, from a seed that is printed.
#[expect(clippy::print_stdout, reason = "a test that fails has to say how it is repeated")]
fn moments() -> ChaCha12Rng {
    let given = std::env::vars().find(|(name, _)| name == "BLUETRACE_TEST_SEED");
    let seed = given.map_or_else(|| SysRng.try_next_u64().unwrap(), |(_, seed)| seed.parse().unwrap());
    println!("BLUETRACE_TEST_SEED={seed}");
    ChaCha12Rng::seed_from_u64(seed)
}

const UPLOAD: &str = "5e7d9a34-0f0e-4c53-9d3c-0a6f4b0f1f11";

/// No device listens there.
const END: u16 = u16::MAX;
