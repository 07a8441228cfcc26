//! Upload codes and handshake PINs from end to end: an operator issues, a device redeems, a server is killed in between.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use support::{ILL, MET, Place, RunningServer, Session, record};

/// The server's option.
const REQUIRED: &[&str] = &["--require-upload-codes"];

#[test]
fn a_device_without_a_code_is_told_how_to_give_one_and_goes_on_with_it() {
    let place = Place::with_accounts();
    place.write_contact_log(ILL, 3);
    let server = place.server_with(REQUIRED);
    let mut device = place.device(server.address, ILL, &["--retention", "1h"]);
    device.say("Upload_contact_log");
    device.expect("the authority does not take the upload: an upload code of the health authority is needed");
    device.expect("ask the health official for a code, and give it with: Upload_contact_log <code>");
    device.say("Upload_contact_log CCCC-DDDD");
    device.expect(
        "the authority does not take the upload: this upload code is not valid, or used already (4 tries left)",
    );
    let saved = place.device_file(ILL, "upload");
    let first_line = || fs::read_to_string(&saved).unwrap().lines().next().unwrap().to_owned();
    support::wait_until("the refused code is gone from the file", || !first_line().contains("CCCC"));
    assert_eq!(fs::metadata(&saved).unwrap().permissions().mode() & 0o777, 0o600);

    let code = issue(&place, &["--case", "case 17"]);
    // as a person types what was read out
    device.say(&format!("upload_contact_log {}", code.to_lowercase().replace('-', " ")));
    device.expect("upload complete: 3 records acknowledged");
    assert!(!saved.exists(), "code and all");
    let (status, shown) = device.end();
    assert_eq!(status, Some(0), "{shown:#?}");

    let listed = place.administer(&["code", "list"], "").assert_success().shown;
    assert!(listed.contains("case case 17") && listed.contains(&format!("used by {}", ILL.0)), "{listed}");
    let mut other = Session::login(server.address, MET);
    assert_eq!(begin(&mut other, "theirs", Some(&code))["data"]["code"], "upload_not_authorised");
}

#[test]
fn a_server_killed_between_redeeming_and_completing_lets_the_same_account_finish_and_nobody_else() {
    let place = Place::with_accounts();
    let mut server = place.server_with(REQUIRED);
    let code = issue(&place, &[]);
    let mut session = Session::login(server.address, ILL);
    assert_eq!(begin(&mut session, "mine", Some(&code))["numOfRecv"], 2);
    server.kill();

    let mut server = place.server_with(REQUIRED);
    let mut other = Session::login(server.address, MET);
    assert_eq!(begin(&mut other, "theirs", Some(&code))["data"]["code"], "upload_not_authorised");
    let mut session = Session::login(server.address, ILL);
    assert_eq!(begin(&mut session, "mine", Some(&code))["numOfRecv"], 2);
    let answer = session.request(&json!({"commandType": "UC", "numOfSend": 1, "data": record(1)}).to_string());
    assert_eq!(answer["numOfRecv"], 1);
    server.kill();

    let server = place.server_with(REQUIRED);
    let mut session = Session::login(server.address, ILL);
    for _ in 0..9 {
        assert_eq!(begin(&mut session, "mine", Some(&code))["numOfRecv"], 1, "a repeated begin counts nothing");
    }
    let answer = session.request(&json!({"commandType": "UC", "numOfSend": 0, "data": record(2)}).to_string());
    assert_eq!(answer["data"]["records"], 2);
    assert_eq!(begin(&mut session, "mine", Some(&code))["data"]["records"], 2, "complete, it says so");
    assert_eq!(begin(&mut session, "another", Some(&code))["data"]["code"], "upload_not_authorised");
    assert!(server.stop("TERM").0.success());
}

#[test]
fn five_wrong_codes_in_an_hour_end_an_accounts_guessing_also_after_a_restart() {
    let place = Place::with_accounts();
    let mut server = place.server_with(REQUIRED);
    let code = issue(&place, &[]);
    let mut session = Session::login(server.address, ILL);
    for guess in ["CCCC-CCCC", "DDDD-DDDD", "123456", "not a code", ""] {
        let refused = begin(&mut session, "mine", Some(guess));
        assert_eq!(refused["data"]["code"], "upload_not_authorised", "{guess:?}");
        let text = refused.to_string();
        assert!(guess.is_empty() || !text.contains(guess), "{text}");
    }
    let record = json!({"commandType": "UC", "numOfSend": 1, "data": record(1)}).to_string();
    assert_eq!(session.request(&record)["data"]["code"], "no_upload", "nothing was begun");
    for _ in 0..2 {
        let mut session = Session::login(server.address, ILL);
        let refused = begin(&mut session, "mine", Some(&code));
        assert_eq!(refused["data"]["code"], "rate_limited", "not even the right one: {refused}");
        server.kill();
        server = place.server_with(REQUIRED);
    }
    let users = || place.administer(&["user", "list"], "").assert_success().shown;
    let refused: Vec<_> = users().lines().filter(|line| line.contains("refused until")).map(str::to_owned).collect();
    assert!(refused.len() == 1 && refused[0].starts_with(ILL.0), "{refused:?}");
    place.administer(&["code", "unblock", "nobody"], "").assert_complains(&["no account of that name", "user list"]);
    place.administer(&["code", "unblock", MET.0], "").assert_complains(&["no wrong upload code counts"]);
    let other = issue(&place, &[]);
    assert_eq!(begin(&mut Session::login(server.address, MET), "theirs", Some(&other))["numOfRecv"], 2, "nobody else");
    let lifted = place.administer(&["code", "unblock", ILL.0], "").assert_success();
    assert_eq!(lifted.shown, "5 wrong codes count no more\n");
    assert!(!users().contains("refused until"));
    assert_eq!(begin(&mut Session::login(server.address, ILL), "mine", Some(&code))["numOfRecv"], 2);
}

#[test]
fn a_device_waits_as_long_as_it_was_told_after_too_many_wrong_codes_unless_an_official_lets_it_go_on() {
    let place = Place::with_accounts();
    place.write_contact_log(ILL, 3);
    let server = place.server_with(REQUIRED);
    let code = issue(&place, &[]);
    let mut device = place.device(server.address, ILL, &["--retention", "1h"]);
    for (guess, left) in ["CCCC-CCCC", "DDDD-DDDD", "FFFF-FFFF", "HHHH-HHHH", "JJJJ-JJJJ"].into_iter().zip((0..5).rev())
    {
        device.say(&format!("Upload_contact_log {guess}"));
        device.expect(&format!(
            "the authority does not take the upload: this upload code is not valid, or used already ({left} "
        ));
    }
    device.say(&format!("Upload_contact_log {code}"));
    let refused =
        device.expect("the upload did not go through: too many wrong upload codes: none is looked at for a while");
    // an hour, less what has passed since the last guess
    let told = refused.split("; tried again in ").nth(1).unwrap();
    assert!(told == "1 h 00 min" || told.starts_with("59 min"), "{refused}");

    place.administer(&["code", "unblock", ILL.0], "").assert_success();
    device.say(&format!("Upload_contact_log {code}"));
    device.expect("upload complete: 3 records acknowledged");
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn codes_are_issued_listed_and_revoked_by_their_numbers_and_shown_once() {
    let place = Place::with_accounts();
    let server = place.server_with(REQUIRED);
    let long = issue(&place, &["--case", "A/17", "--issued-by", "desk 3"]);
    let short = issue(&place, &["--length", "6"]);
    assert_eq!((long.len(), long.chars().nth(4)), (9, Some('-')));
    assert!(short.len() == 6 && short.bytes().all(|digit| digit.is_ascii_digit()), "{} characters", short.len());
    let list = || place.administer(&["code", "list"], "").assert_success().shown;
    let lines: Vec<String> = list().lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("1  case A/17  8 characters  issued by desk 3 at "), "{lines:?}");
    assert!(
        lines[1].starts_with("2  no case  6 characters  issued by ") && lines[1].contains("live until "),
        "{lines:?}"
    );
    assert!(!list().contains(&long) && !list().contains(&short));

    place.administer(&["code", "revoke", "1"], "").assert_success();
    assert!(list().lines().next().unwrap().contains("revoked at "));
    let mut session = Session::login(server.address, ILL);
    assert_eq!(begin(&mut session, "mine", Some(&long))["data"]["code"], "upload_not_authorised");
    assert_eq!(begin(&mut session, "mine", Some(&short))["numOfRecv"], 2);

    for (arguments, words) in [
        (&["code", "revoke", "9"][..], &["no code 9", "code list"][..]),
        (&["code", "issue", "--length", "6", "--valid-for", "2h"], &["1h at the most", "--valid-for"]),
        (&["code", "issue", "--case", "two\nlines"], &["--case", "one line"]),
        (&["pin", "nobody"], &["no account of that name"]),
    ] {
        place.administer(arguments, "").assert_complains(words);
    }
}

#[test]
fn the_official_and_the_device_see_the_same_pin() {
    let place = Place::with_accounts();
    let server = place.server();
    let mut device = place.device(server.address, ILL, &[]);
    device.say("Show_PIN");
    device.expect("PIN:");
    let by_operator = |who: &str| {
        let shown = place.administer(&["pin", who], "").assert_success().shown;
        shown.lines().next().unwrap().to_owned()
    };
    let pin = by_operator(ILL.0);
    device.expect(&pin);
    assert_eq!(pin.len(), 6);
    assert_ne!(by_operator(MET.0), pin);
    let answer = Session::login(server.address, ILL).request(r#"{"commandType":"PN","id":"p"}"#);
    assert_eq!((&answer["id"], &answer["data"]["pin"]), (&json!("p"), &json!(pin)));
    assert_eq!(answer["data"]["expires"].as_str().unwrap().len(), 19);
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn neither_log_nor_console_nor_database_holds_a_code_or_a_pin() {
    let place = Place::with_accounts();
    let mut command = place.server_command(0);
    command.args(["--log-level", "trace", "--require-upload-codes"]);
    let server = RunningServer::run(&mut command, &place.path("server.log"));
    let (code, wrong) = (issue(&place, &[]), "CCCC-DDDD");
    let mut session = Session::login(server.address, ILL);
    begin(&mut session, "mine", Some(wrong));
    begin(&mut session, "mine", Some(&code));
    let pin = session.request(r#"{"commandType":"PN"}"#)["data"]["pin"].as_str().unwrap().to_owned();
    let (status, shown) = server.stop("TERM");
    assert!(status.success());
    let mut texts = vec![shown.join("\n").into_bytes(), fs::read(place.path("server.log")).unwrap()];
    texts.extend(fs::read_dir(place.path("data")).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()));
    for secret in [code.as_str(), &code.replace('-', ""), wrong, &wrong.replace('-', ""), &pin] {
        let holds =
            |text: &Vec<u8>| text.windows(secret.len()).any(|part| part.eq_ignore_ascii_case(secret.as_bytes()));
        assert!(!texts.iter().any(holds), "a secret of {} characters", secret.len());
    }
}

/// Issues a code: the first line of what is shown.
fn issue(place: &Place, options: &[&str]) -> String {
    let arguments = [&["code", "issue"], options].concat();
    place.administer(&arguments, "").assert_success().shown.lines().next().unwrap().to_owned()
}

/// Begins an upload of two records.
fn begin(session: &mut Session, upload: &str, code: Option<&str>) -> Value {
    session.request(&json!({"commandType": "UC", "numOfSend": 2, "upload": upload, "code": code}).to_string())
}
