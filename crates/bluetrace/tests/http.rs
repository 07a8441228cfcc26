//! The HTTPS API of a real server process: where it listens, what it shares with sessions over TCP, how it ends, and that
//! its log holds nothing about anybody.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what helps a test fails as a test does"
)]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;
use support::http::{ask, login, start};
use support::{ILL, MET, PATIENCE, Place, RunningServer, Session, finish, record};

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_said_in_one_line() {
    let place = Place::with_accounts();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command =
        place.bluetrace(&["server", "0", "--bind", "127.0.0.1", "--data-dir", "data", "--http", &address]);
    finish(&mut command, "").assert_complains(&[
        "HTTPS API",
        &taken.local_addr().unwrap().port().to_string(),
        "is taken",
    ]);
}

#[test]
fn a_server_whose_default_port_for_http_is_taken_serves_its_devices_all_the_same() {
    let place = Place::with_accounts();
    // whoever has it: this test, or somebody else on this machine
    let _taken = TcpListener::bind("127.0.0.1:4080");
    let mut command = place.bluetrace(&["server", "0", "--bind", "127.0.0.1", "--data-dir", "data"]);
    let server = RunningServer::run(&mut command, &place.path("server.log"));
    Session::login(server.address, ILL);
    assert!(!server.console.seen.iter().any(|line| line.starts_with("HTTPS API")), "{:?}", server.console.seen);
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    assert!(log.lines().any(|line| line.contains("4080") && line.contains("--http")), "{log}");
}

#[test]
fn a_server_told_to_have_no_http_has_none() {
    let place = Place::with_accounts();
    let server = place.server();
    assert!(!server.console.seen.iter().any(|line| line.starts_with("HTTPS API")), "{:?}", server.console.seen);
}

#[test]
fn a_session_and_an_upload_go_from_one_port_to_the_other() {
    let place = Place::with_accounts();
    let (server, http) = start(&place, &[]);
    let (status, session) = ask(http, "POST", "/v1/login", None, &login(ILL));
    assert_eq!(status, 200, "{session}");
    let token = session["accessToken"].as_str().unwrap();
    let (_, begun) = ask(http, "PUT", "/v1/uploads/u-1", Some(token), &json!({"records": 2}).to_string());
    assert_eq!(begun["durable"], 0);
    let line = json!({"tempId": format!("{:020}", 1), "start": support::now().as_unix(), "expiry": support::now().as_unix() + 60});
    let (_, sent) = ask(http, "POST", "/v1/uploads/u-1/records?first=0", Some(token), &format!("{line}\n"));
    assert_eq!(sent["durable"], 1);

    let mut over_tcp = Session::connect(server.address);
    let resumed = over_tcp.ask(&format!("RESUME {}", session["resumeToken"].as_str().unwrap()));
    assert!(resumed.starts_with("230 "), "{resumed}");
    let begun = over_tcp.request(r#"{"commandType":"UC","numOfSend":2,"upload":"u-1"}"#);
    assert_eq!(begun["numOfRecv"], 1);
    let last = json!({"commandType": "UC", "numOfSend": 0, "data": record(2)});
    let finished = over_tcp.request(&last.to_string());
    assert_eq!(finished["data"]["records"], 2);
    let (_, looked) = ask(http, "GET", "/v1/uploads/u-1", Some(token), "");
    assert_eq!(looked["summary"]["records"], 2);

    let token = over_tcp.request(r#"{"commandType":"RT"}"#)["data"]["token"].clone();
    let (status, _) = ask(http, "POST", "/v1/session", None, &json!({"resumeToken": token}).to_string());
    assert_eq!(status, 200);
}

#[test]
fn a_server_that_is_asked_to_end_ends_though_connections_are_open() {
    let place = Place::with_accounts();
    let (server, http) = start(&place, &[]);
    let silent = TcpStream::connect(http).unwrap();
    let mut begun = TcpStream::connect(http).unwrap();
    begun.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    begun.set_read_timeout(Some(PATIENCE)).unwrap();
    begun.read_exact(&mut [0; 12]).unwrap();
    let (status, _) = server.stop("TERM");
    assert!(status.success(), "{status}");
    drop((silent, begun));
}

#[test]
fn no_log_of_a_full_run_holds_a_number_an_id_a_token_or_a_password() {
    let place = Place::with_accounts();
    let (server, http) = start(&place, &["--log-level", "trace"]);
    let mut secrets = vec![ILL.0.to_owned(), ILL.1.to_owned(), MET.0.to_owned(), MET.1.to_owned()];
    let (_, met) = ask(http, "POST", "/v1/login", None, &login(MET));
    let mets_token = met["accessToken"].as_str().unwrap();
    let (_, fetched) = ask(http, "POST", "/getTempIDs", Some(mets_token), r#"{"data":null}"#);
    let id = &fetched["result"]["tempIDs"][0];
    let (_, session) = ask(http, "POST", "/v1/login", None, &login(ILL));
    let token = session["accessToken"].as_str().unwrap();
    let (_, upload) = ask(http, "PUT", "/v1/uploads/an-uploads-name", Some(token), &json!({"records": 2}).to_string());
    assert_eq!(upload["durable"], 0);
    let line = json!({"tempId": id["tempID"], "start": id["startTime"], "expiry": id["expiryTime"]});
    let (_, sent) = ask(http, "POST", "/v1/uploads/an-uploads-name/records", Some(token), &format!("{line}\ngarbage"));
    assert_eq!(sent["summary"]["resolved"], 1, "{sent}");
    let (_, notices) = ask(http, "GET", "/v1/notices", Some(mets_token), "");
    assert_eq!(notices["notices"].as_array().unwrap().len(), 1);
    for (path, body) in
        [("/v1/login", "{\"username\":\"+61400000001\""), ("/v1/session", "{\"resumeToken\":\"resume-me\"}")]
    {
        ask(http, "POST", path, Some("a-bad-token"), body);
    }
    ask(http, "POST", "/getUploadToken", Some(token), r#"{"data":"a-bad-code"}"#);
    let issued = place.administer(&["code", "issue"], "").assert_success();
    let code = issued.shown.lines().next().unwrap().to_owned();
    let (_, given) = ask(http, "POST", "/getUploadToken", Some(token), &json!({"data": code}).to_string());
    let upload_token = given["result"]["token"].as_str().unwrap();
    let record = json!({"msg": id["tempID"], "timestamp": id["startTime"]});
    let body = json!({"token": upload_token, "records": [record, "spoilt-record"], "events": []});
    for (body, expected) in [(body.to_string(), 200), (format!("{body}x"), 400), (body.to_string(), 200)] {
        let (status, answer) = ask(http, "POST", "/upload", None, &body);
        assert_eq!(status, expected, "{answer}");
    }
    let (status, _) = ask(http, "POST", "/upload", None, r#"{"token":"a-bad-upload-token","records":[]}"#);
    assert_eq!(status, 401);
    let (status, gone) = ask(http, "DELETE", "/v1/me", Some(mets_token), "");
    assert_eq!(status, 200);
    secrets.extend(
        [&session["accessToken"], &session["resumeToken"], &met["accessToken"], &id["tempID"], &gone["proof"]]
            .map(|secret| secret.as_str().unwrap().to_owned()),
    );
    secrets.extend(
        ["+61400000001", "resume-me", "a-bad-token", "a-bad-code", "an-uploads-name", "garbage"].map(str::to_owned),
    );
    secrets.extend([&*code, upload_token, "a-bad-upload-token", "spoilt-record"].map(str::to_owned));
    assert!(server.stop("TERM").0.success());
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    assert!(!log.is_empty());
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} stands in the log:\n{log}");
    }
}
