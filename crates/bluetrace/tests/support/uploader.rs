//! Uploads that are told apart to the last record and notice, by a device that tries again until each is complete. Their records are made
//! from nothing but their numbers; the first of each is a `TempID` of [`MET`] in a window of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use bluetrace_protocol::Timestamp;
use serde_json::{Value, json};

use super::{ILL, MET, PATIENCE, now};

/// Lines of `tempIDs.txt` for as many uploads as any test makes.
pub(crate) fn temp_ids_of_met() -> String {
    let mut lines = String::new();
    for upload in 0..MOST_UPLOADS {
        writeln!(lines, "{} {}", MET.0, record(upload, 0).replace(", ", " ")).unwrap();
    }
    lines
}

/// Begins an upload and goes on with it, on whichever server there is, until it is complete.
pub(crate) fn upload(devices: SocketAddr, number: u32) {
    let mut acknowledged = 0;
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the upload is never complete");
        thread::sleep(Duration::from_millis(5));
        let Some(session) = login(devices) else { continue };
        let (from, is_complete) = go_on(session, number);
        assert!(from.is_none_or(|from| from >= acknowledged), "{from:?} is less than {acknowledged}");
        if let Some(until) = from {
            acknowledged = until;
        }
        if is_complete {
            return;
        }
    }
}

/// A session, if there is a server that lets in.
fn login(devices: SocketAddr) -> Option<BufReader<TcpStream>> {
    let stream = TcpStream::connect(devices).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut session = BufReader::new(stream);
    for (say, answer) in [(ILL.0, "331 "), (ILL.1, "230 ")] {
        hear(&mut session, say).filter(|heard| heard.starts_with(answer))?;
    }
    Some(session)
}

/// Says a line, and hears one. `None` when the server has died, or never was one.
fn hear(session: &mut BufReader<TcpStream>, say: &str) -> Option<String> {
    writeln!(session.get_mut(), "{say}").ok()?;
    let mut line = String::new();
    session.read_line(&mut line).ok().filter(|read| *read > 0 && line.ends_with('\n'))?;
    Some(line)
}

/// How many records had been acknowledged before, if that could be heard, and whether all are now.
fn go_on(mut session: BufReader<TcpStream>, number: u32) -> (Option<usize>, bool) {
    let request = json!({"commandType": "UC", "numOfSend": RECORDS, "upload": format!("upload-{number}")});
    let Some(begun) = hear(&mut session, &request.to_string()) else { return (None, false) };
    let begun: Value = serde_json::from_str(&begun).unwrap();
    let Some(left) = begun["numOfRecv"].as_u64() else {
        assert_eq!(begun["data"]["code"], "unavailable", "{begun}");
        return (None, false);
    };
    let from = RECORDS - usize::try_from(left).unwrap();
    if begun.get("data").is_some() {
        return (Some(from), true);
    }
    let frames = (from..RECORDS).map(|place| {
        let frame = json!({"commandType": "UC", "numOfSend": RECORDS - place - 1, "data": record(number, place)});
        format!("{frame}\n")
    });
    if session.get_mut().write_all(frames.collect::<String>().as_bytes()).is_err() {
        return (Some(from), false);
    }
    let mut line = String::new();
    while session.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
        let answer: Value = serde_json::from_str(&line).unwrap();
        if answer["commandType"] != "UC" {
            assert_eq!(answer["data"]["code"], "unavailable", "{answer}");
            break;
        }
        if let Some(summary) = answer.get("data") {
            assert_eq!(summary["resolved"], 1, "{answer}");
            return (Some(from), true);
        }
        line.clear();
    }
    (Some(from), false)
}

fn record(upload: u32, place: usize) -> String {
    let start = FIRST_WINDOW.plus(1_000 * i64::from(upload));
    format!("{}, {start}, {}", temp_id(upload, place), start.plus(899))
}

fn temp_id(upload: u32, place: usize) -> String {
    format!("{upload:010}{place:010}")
}

/// Uploads `0..uploads` are in the database, each of their records in its place and once, with one notice for each; and of others that are
/// complete all records are there.
pub(crate) fn assert_stored_once(sql: impl Fn(&str) -> String, uploads: u32) {
    let rows = sql(&format!(
        "SELECT u.name, r.place, r.temp_id FROM upload AS u JOIN account AS a ON a.id = u.account
             JOIN uploaded_record AS r ON r.upload = u.id WHERE a.username = '{}' ORDER BY u.id, r.place",
        ILL.0
    ));
    let mut stored: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for row in rows.lines() {
        let [upload, place, temp_id] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let records = stored.entry(upload.strip_prefix("upload-").unwrap().parse().unwrap()).or_default();
        assert_eq!(place, records.len().to_string(), "in its place, once");
        records.push(temp_id.to_owned());
    }
    assert_eq!(stored.keys().copied().collect::<Vec<_>>(), (0..uploads).collect::<Vec<_>>());
    for (upload, temp_ids) in stored {
        assert_eq!(temp_ids, (0..RECORDS).map(|place| temp_id(upload, place)).collect::<Vec<_>>());
    }
    let told = "SELECT count(*), count(DISTINCT begins) FROM notice AS n JOIN account AS a ON a.id = n.account
                WHERE a.username = ";
    let told = sql(&format!("{told} '{}'", MET.0));
    assert_eq!(told, format!("{uploads}|{uploads}"), "one notice for each upload");
    let not_whole = "SELECT count(*) FROM upload AS u WHERE finished IS NOT NULL AND (durable <> records OR records <>
                     (SELECT count(DISTINCT place) FROM uploaded_record WHERE upload = u.id AND place < u.records))";
    assert_eq!(sql(not_whole), "0", "of all uploads, whoever made them");
}

/// Records of an upload.
const RECORDS: usize = 200;

/// More than are uploaded here.
const MOST_UPLOADS: u32 = 1_000;

/// Where the first of their windows begins: twelve days ago, and the last one did half a day ago.
static FIRST_WINDOW: LazyLock<Timestamp> = LazyLock::new(|| now().plus(-12 * 24 * 60 * 60));
