//! The operator's commands, while the server runs and when it does not; and what no log may hold.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use bluetrace_protocol::{TempId, Timestamp};
use serde_json::{Value, json};
use support::{Device, ILL, MET, Place, SCHEMES, Session, finish, now, record, send_datagram};

#[test]
fn accounts_are_looked_after_before_the_server_runs_and_while_it_does() {
    let place = Place::new();
    fs::write(place.path("password"), "from a file\nand not from here\n").unwrap();
    place.administer(&["user", "add", "by-input"], "from the input\r\n").assert_success();
    place.administer(&["user", "add", "by-file", "--password-file", "password"], "").assert_success();
    let server = place.server();
    let mut by_variable = place.bluetrace(&["user", "add", "by-variable", "--data-dir", "data"]);
    finish(by_variable.env("BLUETRACE_PASSWORD", "from the environment"), "").assert_success();
    for account in [("by-input", "from the input"), ("by-file", "from a file"), ("by-variable", "from the environment")]
    {
        Session::login(server.address, account);
    }
    let names = || -> Vec<String> {
        let list = place.administer(&["user", "list"], "").assert_success();
        list.shown.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(), ["by-file", "by-input", "by-variable"]);

    place.administer(&["user", "password", "by-file"], "a new one\n").assert_success();
    Session::login(server.address, ("by-file", "a new one"));
    assert!(wrong_password(server.address, ("by-file", "from a file")).starts_with("430 "));

    place.administer(&["user", "remove", "by-input", "--yes"], "").assert_success();
    assert_eq!(names(), ["by-file", "by-variable"]);
    assert!(wrong_password(server.address, ("by-input", "from the input")).starts_with("430 "));
    assert!(server.stop("TERM").0.success());
    assert_eq!(names(), ["by-file", "by-variable"]);
}

#[test]
fn an_account_is_removed_only_when_that_is_meant() {
    let place = Place::with_accounts();
    drop(place.server());
    let remove = ["user", "remove", ILL.0];
    for answer in ["", "yes\n"] {
        place.administer(&remove, answer).assert_complains(&["no terminal to ask on", "--yes"]);
    }
    for answer in ["no\n", "y\n", "\n"] {
        let refused = place.administer_at_terminal(&remove, answer);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        for words in [ILL.0, "contact logs it has uploaded", "no way back", "nothing was changed"] {
            assert!(refused.shown.contains(words), "{words}: {refused:?}");
        }
    }
    let server = place.server();
    Session::login(server.address, ILL);
    let removed = place.administer_at_terminal(&remove, "yes\n").assert_success();
    assert!(removed.shown.contains("removed, with its TempIDs"), "{removed:?}");
    assert!(wrong_password(server.address, ILL).starts_with("430 "));
    let again = place.administer_at_terminal(&remove, "");
    assert!(again.status == Some(1) && again.shown.contains("no account of that name"), "{again:?}");
}

#[test]
fn what_cannot_be_done_to_an_account_is_said_in_one_line_and_changes_nothing() {
    let place = Place::new();
    place.administer(&["user", "list"], "").assert_complains(&["no authority in data", "--data-dir"]);
    place.administer(&["user", "remove", "nobody"], "").assert_complains(&["no authority in data"]);
    place.administer(&["user", "add", "somebody"], "secret\n").assert_success();
    for (arguments, input, words) in [
        (&["user", "add", "somebody"][..], "other\n", &["an account of that name already", "user password"][..]),
        (&["user", "add", "two words"], "x\n", &["a username is"]),
        (&["user", "add", "new"], "", &["the password is empty"]),
        (&["user", "add", "new"], "\n", &["the password is empty"]),
        (&["user", "password", "nobody"], "x\n", &["no account of that name", "user list"]),
        (&["user", "remove", "nobody"], "", &["no account of that name", "user list"]),
        (&["user", "add", "new", "--password-file", "missing"], "", &["cannot read the password file missing"]),
    ] {
        place.administer(arguments, input).assert_complains(words);
    }
    let long = "x".repeat(257) + "\n";
    place.administer(&["user", "add", "new"], &long).assert_complains(&["256"]);
    Session::login(place.server().address, ("somebody", "secret"));
}

#[test]
fn a_changed_password_revokes_the_tokens_of_before_and_ends_no_session() {
    let place = Place::with_accounts();
    let server = place.server();
    let mut session = Session::login(server.address, ILL);
    let token = |session: &mut Session| {
        session.request(r#"{"commandType":"RT"}"#)["data"]["token"].as_str().unwrap().to_owned()
    };
    let before = token(&mut session);
    assert!(Session::connect(server.address).ask(&format!("RESUME {before}")).starts_with("230 "));
    place.administer(&["user", "password", ILL.0], "kurrajong\n").assert_success();
    assert!(Session::connect(server.address).ask(&format!("RESUME {before}")).starts_with("433 "));
    assert_eq!(session.request(r#"{"commandType":"NT"}"#)["commandType"], "NT", "the session goes on");
    let after = token(&mut Session::login(server.address, (ILL.0, "kurrajong")));
    // a token outlives the server
    let port = server.address.port();
    drop(server);
    let server = place.server_at(port, &[]);
    assert!(Session::connect(server.address).ask(&format!("RESUME {after}")).starts_with("230 "));
}

#[test]
fn a_removed_account_ends_its_device_with_one_line_and_status_1() {
    let place = Place::with_accounts();
    let server = place.server();
    place.write_contact_log(ILL, 3);
    let mut device = place.device(server.address, ILL, &["--plaintext", "--no-tempid"]);
    place.administer(&["user", "remove", ILL.0, "--yes"], "").assert_success();
    device.say("Upload_contact_log");
    device.expect("the account no longer exists at this authority");
    let (status, shown) = device.end();
    assert_eq!(status, Some(1), "{shown:#?}");
    let told = shown.iter().filter(|line| line.contains("no longer exists")).count();
    assert_eq!(told, 1, "{shown:#?}");
    assert!(!shown.iter().any(|line| line.contains("reconnecting") || line.contains("tried again")), "{shown:#?}");
    let shown = server.stop("TERM").1;
    assert_eq!(shown.iter().filter(|line| line.ends_with(" login")).count(), 1, "it did not come back: {shown:#?}");
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    assert!(!log.contains("ERROR"), "removing an account is no fault: {log}");
}

#[test]
fn a_changed_line_of_credentials_updates_its_account_and_a_removed_one_does_nothing() {
    let place = Place::new();
    fs::write(place.path("credentials.txt"), "one first\ntwo second\n").unwrap();
    place.server().stop("TERM");
    // what an operator has changed since stays so while the file is the same
    place.administer(&["user", "password", "two"], "changed\n").assert_success();
    let server = place.server();
    Session::login(server.address, ("two", "changed"));
    server.stop("TERM");
    fs::write(place.path("credentials.txt"), "one first again\n").unwrap();
    let server = place.server();
    Session::login(server.address, ("one", "first again"));
    Session::login(server.address, ("two", "changed"));
    server.stop("TERM");
    fs::remove_file(place.path("credentials.txt")).unwrap();
    Session::login(place.server().address, ("one", "first again"));
}

#[test]
fn exports_hold_what_was_uploaded_while_the_server_runs() {
    let place = Place::with_accounts();
    let server = place.server_with(&["--tempid-lifetime", "10m"]);
    let issued = Session::login(server.address, MET).request(r#"{"commandType":"DT"}"#)["data"].clone();
    let issued = issued.as_str().unwrap();
    let (temp_id, window) = issued.split_once(", ").unwrap();
    let (start, expiry) = window.split_once(", ").unwrap();
    let time = |text| Timestamp::parse(text).unwrap();
    assert_eq!(time(expiry).seconds_since(time(start)), 599, "both seconds count");
    let mut session = Session::login(server.address, ILL);
    let received = now();
    session.request(r#"{"commandType":"UC","numOfSend":3,"upload":"first,of\"two\""}"#);
    session.request(
        &json!({"commandType":"UC","numOfSend":2,"data":{"record":issued,"received":received.to_string()}}).to_string(),
    );
    session.request(&json!({"commandType":"UC","numOfSend":1,"data":record(9)}).to_string());
    let refused = session.request(r#"{"commandType":"UC","numOfSend":0,"data":"nonsense"}"#);
    assert_eq!(refused["data"]["code"], "bad_record");
    let complete: Value = serde_json::from_str(&session.hear()).unwrap();
    assert_eq!(complete["data"], json!({"records":3,"resolved":1,"unknown":1,"invalid":1}));
    let begun = session.request(r#"{"commandType":"UC","numOfSend":2,"upload":"second"}"#);
    assert_eq!((&begun["upload"], &begun["numOfRecv"]), (&json!("second"), &json!(2)));

    let export = |what: &[&str]| place.administer(&[&["export"], what].concat(), "").assert_success().shown;
    let contacts = export(&["contacts"]);
    let lines: Vec<&str> = contacts.lines().collect();
    assert_eq!(lines[0], "uploader,upload,contact,start,expiry,received,temp_id,status");
    let upload = r#""first,of""two""""#;
    assert_eq!(lines[1], format!("{},{upload},{},{start},{expiry},{received},{temp_id},resolved", ILL.0, MET.0));
    assert!(
        lines[2].starts_with(&format!("{},{upload},,", ILL.0)) && lines[2].ends_with(&format!(",{:020},unknown", 9)),
        "{contacts}"
    );
    assert_eq!(lines[3], format!("{},{upload},,,,,,invalid", ILL.0));
    assert_eq!(lines.len(), 4);

    let uploads = export(&["uploads"]);
    let lines: Vec<&str> = uploads.lines().collect();
    assert_eq!(lines[0], "upload,uploader,records,received,complete,begun,finished");
    assert!(lines[1].starts_with(&format!("{upload},{},3,3,true,", ILL.0)), "{uploads}");
    assert!(lines[2].starts_with(&format!("second,{},2,0,false,", ILL.0)) && lines[2].ends_with(','), "{uploads}");

    assert_eq!(export(&["tempids"]), format!("{} {temp_id} {start} {expiry}\n", MET.0));

    let rows = |what: &str| -> Vec<Value> {
        export(&[what, "--format", "jsonl"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let contacts = rows("contacts");
    assert_eq!(contacts.len(), 3);
    assert_eq!((&contacts[0]["contact"], &contacts[0]["status"]), (&json!(MET.0), &json!("resolved")));
    assert_eq!((&contacts[2]["contact"], &contacts[2]["temp_id"]), (&Value::Null, &Value::Null));
    assert_eq!(rows("uploads")[0]["upload"], "first,of\"two\"");
    assert_eq!(rows("tempids"), [json!({"username": MET.0, "temp_id": temp_id, "start": start, "expiry": expiry})]);

    // outside its window a record says by how much, where a column more disturbs nobody
    for (upload, moment, distance_s) in [("late", time(expiry).plus(60), 60), ("early", time(start).plus(-7), -7)] {
        session.request(&json!({"commandType":"UC","numOfSend":1,"upload":upload}).to_string());
        let data = json!({"record": issued, "received": moment.to_string()});
        let complete = session.request(&json!({"commandType":"UC","numOfSend":0,"data":data}).to_string());
        assert_eq!(complete["data"], json!({"records":1,"resolved":1,"unknown":0,"invalid":0}));
        let row = rows("contacts").pop().unwrap();
        assert_eq!((&row["status"], &row["distance_s"]), (&json!("expired"), &json!(distance_s)));
        assert!(export(&["contacts"]).ends_with(",expired\n"));
    }
    assert_eq!(rows("contacts")[0].get("distance_s"), None);
}

#[test]
fn an_export_of_nothing_has_its_header_and_what_is_past_retention_is_not_there() {
    let place = Place::with_accounts();
    let server = place.server_with(&["--retention", "1s", "--tempid-lifetime", "1s"]);
    Session::login(server.address, ILL).request(r#"{"commandType":"DT"}"#);
    support::wait_until("the TempID is forgotten", || {
        place.administer(&["export", "tempids"], "").assert_success().shown.is_empty()
    });
    let uploads = place.administer(&["export", "uploads"], "").assert_success();
    assert_eq!(uploads.shown, "upload,uploader,records,received,complete,begun,finished\n");
    let contacts = place.administer(&["export", "contacts"], "").assert_success();
    assert_eq!(contacts.shown, "uploader,upload,contact,start,expiry,received,temp_id,status\n");
    let missing = Place::new();
    missing.administer(&["export", "uploads"], "").assert_complains(&["no authority in data", "--data-dir"]);
    assert!(!missing.path("data").exists(), "an export makes nothing");
}

#[test]
fn an_export_into_a_pipe_that_closes_is_no_error() {
    let place = Place::with_accounts();
    let server = place.server();
    let mut session = Session::login(server.address, ILL);
    for _ in 0..40 {
        session.say(r#"{"commandType":"DT","numOfRecv":100}"#);
        (0..100).for_each(|_| _ = session.hear());
    }
    let command = place.bluetrace(&["export", "tempids", "--data-dir", "data"]);
    for format in ["csv", "jsonl"] {
        let script = r#"{ "$@"; echo "status $?" >&2; } | head -n 1"#;
        let mut piped = Command::new("sh");
        piped.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args()).args(["--format", format]);
        let piped = finish(piped.current_dir(place.path(".")), "");
        assert_eq!(piped.shown.lines().count(), 1, "{piped:?}");
        assert_eq!(piped.errors, "status 0\n", "{piped:?}");
    }
}

#[test]
fn exported_tempids_can_be_imported_elsewhere() {
    let place = Place::with_accounts();
    let server = place.server();
    let mut session = Session::login(server.address, ILL);
    session.say(r#"{"commandType":"DT","numOfRecv":20}"#);
    (0..20).for_each(|_| _ = session.hear());
    let issued = Session::login(server.address, MET).request(r#"{"commandType":"DT"}"#)["data"].clone();
    let exported = place.administer(&["export", "tempids"], "").assert_success().shown;
    assert_eq!(exported.lines().count(), 21);

    let other = Place::with_accounts();
    // the same again, once more in the other way to write times, and one that belongs to somebody else
    let (id, window) = issued.as_str().unwrap().split_once(", ").unwrap();
    let claimed = format!("{} {id} {}", ILL.0, window.replace(", ", " "));
    let text = format!("\u{feff}{}\r\n\r\nnonsense\r\n{claimed}", exported.replace('\n', "\r\n"));
    fs::write(other.path("elsewhere.txt"), text).unwrap();
    let server = other.server_with(&["--tempids", "elsewhere.txt"]);
    assert_eq!(other.administer(&["export", "tempids"], "").assert_success().shown, exported);
    let log = fs::read_to_string(other.path("server.log")).unwrap();
    assert!(log.contains("line=24") && log.contains("line=25") && log.contains("belongs to another user"), "{log}");
    assert_eq!(log.matches("line skipped").count(), 2, "{log}");
    assert!(!log.contains(id) && !log.contains("nonsense"), "{log}");

    let mut session = Session::login(server.address, ILL);
    session.request(r#"{"commandType":"UC","numOfSend":1}"#);
    let summary = session.request(&json!({"commandType":"UC","numOfSend":0,"data":issued}).to_string())["data"].clone();
    assert_eq!(summary["resolved"], 1, "{summary}");
}

#[test]
fn no_log_holds_a_number_a_tempid_a_password_or_a_token() {
    for scheme in SCHEMES {
        search_the_logs(&scheme);
    }
}

fn search_the_logs(scheme: &[&str]) {
    let place = Place::with_accounts();
    fs::write(place.path("tempIDs.txt"), format!("{} 12345678901234567891 01/01/2020 00:00:00 nonsense\n", MET.0))
        .unwrap();
    let server = place.server_with(&[scheme, &["--log-level", "trace"]].concat());
    let mut secrets: Vec<String> =
        [ILL.0, MET.0, "61410999999", "61410888888", "12345678901234567891"].map(str::to_owned).to_vec();
    secrets.extend(
        ["waratah", "banksia and wattle", "a wrong guess", "a-name-that-is-not-there", "kurrajong"].map(str::to_owned),
    );

    let mut met = place.device(server.address, MET, &["--log-level", "trace"]);
    met.say("Download_tempID");
    met.expect("TempID:");
    let mut ill = Device::run(
        place.device_command(server.address, "other").args(["--log-level", "trace", "--plaintext"]),
        &place.path("device.log"),
    );
    ill.say(&format!("{}\na wrong guess\n{}", ILL.0, ILL.1));
    ill.expect("Welcome");
    let port = ill.udp_port();
    met.say(&format!("Beacon 127.0.0.1 {port}"));
    ill.expect("The beacon is valid.");
    send_datagram(&record(77), port);
    ill.expect("The beacon is valid.");
    send_datagram("12345678901234567891 garbage", port);
    ill.say("Upload_contact_log");
    ill.expect("upload complete");
    for line in ["contacts", "status", "notices", "nonsense"] {
        ill.say(line);
        met.say(line);
    }
    met.expect("Error. Invalid command");
    ill.expect("Error. Invalid command");
    // a session without a device, with everything that can be wrong in it
    let mut session = Session::login(server.address, ILL);
    let token = session.request(r#"{"commandType":"RT"}"#)["data"]["token"].as_str().unwrap().to_owned();
    assert!(Session::connect(server.address).ask(&format!("RESUME {token}")).starts_with("230 "));
    assert!(Session::connect(server.address).ask(&format!("RESUME {token}x")).starts_with("433 "));
    wrong_password(server.address, ("a-name-that-is-not-there", "a wrong guess"));
    for request in [
        r#"{"commandType":"a-name-that-is-not-there"}"#,
        "a wrong guess",
        r#"{"commandType":"UC","data":"12345678901234567891, x"}"#,
    ] {
        session.ask(request);
    }
    session.request(r#"{"commandType":"UC","numOfSend":1,"upload":"12345678901234567891"}"#);
    session.ask(r#"{"commandType":"UC","numOfSend":0,"data":"12345678901234567891, 1, 2"}"#);
    secrets.push(token);
    place.administer(&["user", "password", ILL.0, "--log-level", "trace"], "kurrajong\n").assert_success();
    drop(session);
    let ((ill, ill_shown), (met, met_shown)) = (ill.end(), met.end());
    assert_eq!((ill, met), (Some(0), Some(0)));

    let exported = place.administer(&["export", "tempids"], "").assert_success().shown;
    let shown = ill_shown.iter().chain(&met_shown).map(String::as_str).chain(exported.lines());
    let words = shown.flat_map(|line| line.split([' ', ',']));
    let ids: BTreeSet<_> = words.filter(|word| TempId::parse(word).is_ok()).map(str::to_owned).collect();
    let is_stored = !exported.is_empty();
    assert!(ids.len() > if is_stored { 190 } else { 2 }, "two devices have a day of TempIDs each: {ids:?}");
    secrets.extend(ids);
    secrets.push(fs::read_to_string(place.path("data/master.key")).unwrap().trim().to_owned());
    assert!(server.stop("TERM").0.success());
    for log in ["server.log", "device.log"] {
        let text = fs::read_to_string(place.path(log)).unwrap();
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{log} holds {secret:?}: {text}");
        }
    }
    assert!(!fs::read_to_string(place.path("server.log")).unwrap().is_empty(), "there is a log");
}

#[test]
fn the_consoles_output_may_be_closed() {
    let place = Place::with_accounts();
    let mut command = place.server_command(0);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut console = support::Lines::of(child.stdout.take().unwrap());
    let address = console.expect("listening on ").strip_prefix("listening on ").unwrap().parse().unwrap();
    Session::login(address, ILL);
    support::send_signal(&child, "TERM");
    assert!(child.wait().unwrap().success());
}

/// Tries to log in, and gives what the server says to the password.
fn wrong_password(server: std::net::SocketAddr, (username, password): (&str, &str)) -> String {
    let mut session = Session::connect(server);
    session.ask(username);
    session.ask(password)
}
