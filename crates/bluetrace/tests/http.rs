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
use std::net::SocketAddr;
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
    let (mut server, http) = start(&place, &["--log-level", "trace"]);
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
    let code = register_on_console(&mut server, http);
    secrets.extend([NEWCOMER.0, NEWCOMER.1, &*code, "not-a-code"].map(str::to_owned));
    let (status, gone) = ask(http, "DELETE", "/v1/me", Some(mets_token), "");
    assert_eq!(status, 200);
    server.console.expect(&format!("{} withdrew", MET.0));
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

// ---- Registration

/// Nobody has an account of this name yet.
const NEWCOMER: (&str, &str) = ("+6591234567", "orchid");

#[test]
fn a_number_registers_by_a_program_and_its_device_logs_in_over_tcp_though_the_server_was_killed_between() {
    let place = Place::with_accounts();
    let outgoing = place.path("outgoing");
    fs::create_dir(&outgoing).unwrap();
    let command = format!("{} {}", support::root().join("examples/send-code").display(), outgoing.display());
    let sent = || -> Vec<String> {
        let messages = fs::read_dir(&outgoing).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        messages.collect()
    };
    let (mut server, http) = start(&place, &["--code-command", &command, "--code-text", "Use {code} now"]);
    let never = "+6591234568";
    for number in [never, NEWCOMER.0, NEWCOMER.0] {
        let (status, answer) =
            ask(http, "POST", "/v1/registrations", None, &json!({"phoneNumber": number}).to_string());
        assert_eq!(status, 202, "{answer}");
    }
    assert_eq!(sent().len(), 2, "{:?}", sent());
    server.kill();
    let message = sent().into_iter().find(|message| message.starts_with("To: 6591234567\n\nUse ")).unwrap();
    let code = message.split(' ').nth(2).unwrap();
    assert!(message.ends_with(&format!("Use {code} now\n")) && code.len() == 6, "{message}");
    // what is at rest leads neither to a number that never confirmed nor to a code
    for file in fs::read_dir(place.path("data")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        for secret in [never, NEWCOMER.0, code] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
        }
    }

    let (server, http) = start(&place, &[]);
    let confirmation = json!({"phoneNumber": NEWCOMER.0, "code": code, "password": NEWCOMER.1}).to_string();
    let (status, session) = ask(http, "POST", "/v1/registrations/confirmation", None, &confirmation);
    assert_eq!(status, 201, "{session}");
    let device = place.device(server.address, NEWCOMER, &[]);
    assert_eq!(device.end().0, Some(0));
    let listed = place.administer(&["user", "list"], "").assert_success().shown;
    assert!(listed.contains(NEWCOMER.0), "{listed}");
}

#[test]
fn what_cannot_send_codes_is_said_at_the_start_and_by_the_doctor_and_no_address_is_shown() {
    let place = Place::with_accounts();
    let server = ["server", "0", "--bind", "127.0.0.1", "--data-dir", "data", "--http", "off"];
    let hook = "https://sms.example/secret-path";
    for (options, words) in [
        (&["--code-command", "/bin/true", "--code-webhook", hook] as &[&str], ["program or a webhook", "leave"]),
        (&["--code-webhook", hook, "--code-webhook-token-file", "nowhere"], ["token file", "nowhere"]),
        (&["--code-webhook-token-file", "nowhere"], ["--code-webhook-token-file", "no use"]),
        (&["--code-webhook", "http://sms.example/"], ["this machine alone", "https"]),
        (&["--code-text", "no place"], ["{code}", "once"]),
        (&["--code-command", "./nix"], ["there is no program ./nix", "--code-command"]),
        (&["--code-command", "credentials.txt"], ["there is no program credentials.txt", "make it executable"]),
    ] {
        let finished = place.run(&[&server, options].concat());
        assert_ne!(finished.status, Some(0));
        let said = format!("{}{}", finished.shown, finished.errors);
        assert!(words.iter().all(|word| said.contains(word)), "{options:?}: {said}");
    }
    let checked = place.run(&["config", "check", "--code-webhook", hook]).assert_success().shown;
    assert!(checked.contains("code_webhook = ") && !checked.contains("secret-path"), "{checked}");
    drop(place.server());
    let examined = place.run(&["doctor", "0", "--data-dir", "data", "--code-command", "/there/is/nothing --to me"]);
    let line = examined.shown.lines().find(|line| line.contains("one-time codes")).unwrap().to_owned();
    assert!(line.starts_with("error") && line.contains("/there/is/nothing"), "{line}");
    let examined = place.run(&["doctor", "0", "--data-dir", "data", "--code-command", "sh"]);
    let line = examined.shown.lines().find(|line| line.contains("one-time codes")).unwrap().to_owned();
    assert!(line.starts_with("ok") && line.contains("/sh"), "{line}");
}

/// Registers the newcomer with a code that the console shows, after a wrong guess: the code.
fn register_on_console(server: &mut RunningServer, http: SocketAddr) -> String {
    let (status, _) = ask(http, "POST", "/v1/registrations", None, &json!({"phoneNumber": NEWCOMER.0}).to_string());
    assert_eq!(status, 202);
    let message = server.console.expect(&format!("message for {}: ", NEWCOMER.0));
    let text = message.split_once(": ").unwrap().1;
    let code: String = text.chars().filter(char::is_ascii_digit).take(6).collect();
    for (guess, expected) in [("not-a-code", 401), (&*code, 201)] {
        let confirmation = json!({"phoneNumber": NEWCOMER.0, "code": guess, "password": NEWCOMER.1}).to_string();
        let (status, answer) = ask(http, "POST", "/v1/registrations/confirmation", None, &confirmation);
        assert_eq!(status, expected, "{answer}");
    }
    server.console.expect(&format!("{} registered", NEWCOMER.0));
    code
}
