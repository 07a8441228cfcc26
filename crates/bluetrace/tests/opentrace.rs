//! Uploads of OpenTrace apps to a real server process: how much memory one takes, that it is durable once it is answered, and what
//! is left in the data folder.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what helps a test fails as a test does"
)]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::io::{BufWriter, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use support::http::{ask, login, start};
use support::{ILL, MET, Place, RunningServer};

/// The server's options.
const OPTIONS: &[&str] = &["--tempid-scheme", "sealed"];

#[test]
fn an_upload_on_its_way_takes_no_memory_to_speak_of_however_long_it_is() {
    let place = Place::with_accounts();
    let (server, http) = start(&place, OPTIONS);
    // what every upload takes is there after a short one
    assert_eq!(upload(http, &upload_token(&place, http), 9_000).0, 200);
    let before = most_memory(&server);
    let records = 150_000;
    let (_, body) = send(http, "", records);
    let more = most_memory(&server).saturating_sub(before);
    assert!(more < 8 << 20, "{records} records, of 35 MB, took {more} bytes");
    // the end never comes
    drop(body);
    let exported = place.administer(&["export", "uploads"], "").assert_success().shown;
    assert_eq!(exported.lines().count(), 2, "{exported}");
}

/// Takes minutes where nothing is optimised: `cargo test --release -p bluetrace --test opentrace -- --ignored`.
#[test]
#[ignore = "takes too long"]
fn an_upload_of_a_million_records_takes_what_the_database_and_sifting_take_and_one_more_is_too_many() {
    let place = Place::with_accounts();
    let (server, http) = start(&place, OPTIONS);
    assert_eq!(upload(http, &upload_token(&place, http), 9_000).0, 200);
    let before = most_memory(&server);
    let (status, answer) = upload(http, &upload_token(&place, http), 1_000_000);
    assert_eq!((status, &answer["summary"]["unknown"]), (200, &json!(1_000_000)), "{answer}");
    let more = most_memory(&server).saturating_sub(before);
    // 230 MB of JSON; the database keeps 64 MiB and 16 MiB for each reader whatever is written
    assert!(more < 160 << 20, "it took {more} bytes");
    let (status, problem) = upload(http, &upload_token(&place, http), 1_000_001);
    assert_eq!((status, &problem["code"]), (422, &json!("too_many_records")));
}

#[test]
fn an_upload_that_was_answered_outlives_the_server_that_is_killed_then() {
    let place = Place::with_accounts();
    let (mut server, http) = start(&place, OPTIONS);
    let token = upload_token(&place, http);
    let (status, answer) = upload(http, &token, 12_000);
    server.kill();
    assert_eq!((status, &answer["summary"]["records"]), (200, &json!(12_000)));
    let exported = place.administer(&["export", "uploads"], "").assert_success().shown;
    assert!(exported.contains(",12000,12000,"), "{exported}");
    // and another process takes the token, whose session goes on
    let (_server, http) = start(&place, OPTIONS);
    assert_eq!(upload(http, &token, 12_000), (200, answer));
    let left: Vec<_> = fs::read_dir(place.path("data")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().contains("spool")), "{left:?}");
}

#[test]
fn the_switch_makes_a_server_as_lax_as_the_reference() {
    for (options, valid) in [(&[][..], 0), (&["--opentrace-compatible"][..], 1)] {
        let place = Place::with_accounts();
        let (_server, http) = start(&place, &[OPTIONS, options].concat());
        let (_, met) = ask(http, "POST", "/v1/login", None, &login(MET));
        let (_, ids) = ask(http, "POST", "/getTempIDs", met["accessToken"].as_str(), r#"{"data":null}"#);
        // no strict server believes a record that does not say when it was
        let record = json!({"msg": ids["result"]["tempIDs"][0]["tempID"]});
        let body = json!({"records": [record], "token": upload_token(&place, http)}).to_string();
        let (status, answer) = ask(http, "POST", "/upload", None, &body);
        assert_eq!((status, &answer["verdicts"]["valid"]), (200, &json!(valid)), "{answer}");
    }
}

/// Most memory that a server ever had, in bytes.
fn most_memory(server: &RunningServer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1_024
}

/// A token for an upload, from a code that an official issues.
fn upload_token(place: &Place, http: SocketAddr) -> String {
    let issued = place.administer(&["code", "issue", "--length", "6"], "").assert_success();
    let (_, session) = ask(http, "POST", "/v1/login", None, &login(ILL));
    let call = json!({"data": issued.shown.lines().next().unwrap()}).to_string();
    let (status, answer) = ask(http, "POST", "/getUploadToken", session["accessToken"].as_str(), &call);
    assert_eq!(status, 200, "{answer}");
    answer["result"]["token"].as_str().unwrap().to_owned()
}

/// Uploads records that nobody's key opens.
fn upload(http: SocketAddr, token: &str, records: u32) -> (u16, Value) {
    let (mut stream, mut body) = send(http, token, records);
    _ = write!(body, "{}", end(token)).and_then(|()| body.flush());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// Sends an upload but for its end, without ever having it in memory either; keys in Android's order.
fn send(http: SocketAddr, token: &str, records: u32) -> (TcpStream, BufWriter<TcpStream>) {
    let length = FRONT.len() + end(token).len() + usize::try_from(records).unwrap() * (record(0).len() + 1) - 1;
    let stream = TcpStream::connect(http).unwrap();
    let mut body = BufWriter::new(stream.try_clone().unwrap());
    let head = "POST /upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    write!(body, "{head}\r\nContent-Length: {length}\r\n\r\n{FRONT}").unwrap();
    for number in 0..records {
        let comma = if number == 0 { "" } else { "," };
        // a server that refuses the rest closes
        if write!(body, "{comma}{}", record(number)).is_err() {
            break;
        }
    }
    _ = body.flush();
    (stream, body)
}

fn end(token: &str) -> String {
    format!("],\"token\":\"{token}\"}}")
}

const FRONT: &str = r#"{"events":[],"records":["#;

/// A record as Android's app writes it, always of the same length. An id is met again and again, as phones meet them.
fn record(number: u32) -> String {
    format!(
        r#"{{"id":{:07},"modelC":"Pixel 4","modelP":"iPhone 11","msg":"{:080}AA\u003d\u003d","org":"OT_HA","rssi":-62,"timestamp":{},"txPower":7,"v":2}}"#,
        1_000_000 + number,
        number % 500,
        1_700_000_000 + number
    )
}
