//! `bluetrace keys`, and what becomes of contacts when keys change, servers restart and keys are destroyed: the real binary.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};
use support::{ILL, MET, Place, SCHEMES, Session, now, wait_until};

const SEALED: [&str; 2] = SCHEMES[1];

#[test]
fn a_contact_is_traced_across_a_rotation_and_a_restart_and_not_after_its_key_is_shredded() {
    let place = Place::with_accounts();
    let server = place.server_with(&SEALED);
    let before = download(server.address, MET);
    place.administer(&["keys", "rotate"], "").assert_success();
    server.stop("TERM");
    let server = place.server_with(&SEALED);
    let after = download(server.address, MET);
    assert_eq!(place.administer(&["export", "tempids"], "").assert_success().shown, "", "nothing is stored of one");

    let summary = upload(server.address, ILL, "first", &[&before, &after]);
    assert_eq!(summary, json!({"records": 2, "resolved": 2, "unknown": 0, "invalid": 0}));
    let notice = Session::login(server.address, MET).request(r#"{"commandType":"NT"}"#);
    assert_eq!((notice["numOfSend"].as_u64().unwrap_or(0), notice["data"]["from"].is_string()), (0, true), "{notice}");
    let contacts = |place: &Place| -> Vec<String> {
        let shown = place.administer(&["export", "contacts"], "").assert_success().shown;
        shown.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().to_owned()).collect()
    };
    assert_eq!(contacts(&place), ["resolved", "resolved"]);

    let log = || fs::metadata(place.path("data/authority.sqlite-wal")).unwrap().len();
    let reserved = log();
    assert!(reserved >= 1 << 24, "{reserved}");
    place.administer(&["keys", "shred", "1", "--yes"], "").assert_success();
    assert!(log() >= 1 << 24, "the running server has its log's room again: {}", log());
    assert_eq!(contacts(&place), ["unknown", "resolved"]);
    let summary = upload(server.address, ILL, "second", &[&before, &after]);
    assert_eq!((&summary["resolved"], &summary["unknown"]), (&json!(1), &json!(1)), "the running server knows at once");
    assert_eq!(download(server.address, MET).split(',').next().unwrap().len(), 84, "and goes on issuing");
}

#[test]
fn a_running_server_takes_up_a_new_key() {
    let place = Place::with_accounts();
    let server = place.server_with(&SEALED);
    download(server.address, MET);
    let rotated = place.administer(&["keys", "rotate"], "").assert_success();
    assert!(rotated.shown.starts_with("key 2 seals from now on"), "{rotated:?}");
    wait_until("the new key seals", || {
        download(server.address, MET);
        // the counts of a key reach the store when the keys are next looked after
        list(&place).get(1).is_some_and(|key| key.seals > 0)
    });
    let keys = list(&place);
    assert_eq!(keys.iter().map(|key| key.state.as_str()).collect::<Vec<_>>(), ["opens", "seals"]);
}

#[test]
fn each_scheme_resolves_what_the_other_issued_before() {
    for [first, then] in [[SCHEMES[0], SCHEMES[1]], [SCHEMES[1], SCHEMES[0]]] {
        let place = Place::with_accounts();
        let server = place.server_with(&first);
        let before = download(server.address, MET);
        server.stop("TERM");
        let server = place.server_with(&then);
        let after = download(server.address, MET);
        assert_ne!(before.len(), after.len());
        let summary = upload(server.address, ILL, "both", &[&before, &after]);
        assert_eq!(summary["resolved"], 2, "{summary}");
    }
}

#[test]
fn keys_are_listed_without_themselves_and_destroyed_only_when_that_is_meant() {
    let place = Place::with_accounts();
    place.administer(&["keys", "list"], "").assert_complains(&["no authority in data", "--data-dir"]);
    let server = place.server();
    assert_eq!(list(&place).len(), 0, "the registry needs none");
    place.administer(&["keys", "rotate"], "").assert_complains(&["no key seals now", "--tempid-scheme sealed"]);
    server.stop("TERM");

    let server = place.server_with(&[&SEALED[..], &["--key-period", "30d"]].concat());
    let record = download(server.address, MET);
    server.stop("TERM");
    let keys = list(&place);
    assert_eq!((keys.len(), keys[0].state.as_str(), keys[0].seals), (1, "seals", 1), "counted at the end");
    place.administer(&["keys", "shred", "9", "--yes"], "").assert_complains(&["no key of that number", "keys list"]);
    place.administer(&["keys", "shred", "1"], "yes\n").assert_complains(&["no terminal to ask on", "--yes"]);
    for answer in ["\n", "no\n", "y\n"] {
        let refused = place.administer_at_terminal(&["keys", "shred", "1"], answer);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        for words in
            ["Key 1 seals TempIDs from ", "none of them leads to anybody", "It seals now", "nothing was changed"]
        {
            assert!(refused.shown.contains(words), "{words}: {refused:?}");
        }
    }
    assert_eq!(list(&place)[0].state, "seals");
    let done = place.administer_at_terminal(&["keys", "shred", "1"], "yes\n").assert_success();
    assert!(done.shown.contains("shredded; backups that were made before still hold it"), "{done:?}");
    let again = place.administer(&["keys", "shred", "1"], "").assert_success();
    assert!(again.errors.is_empty(), "there is nothing left to ask about: {again:?}");
    assert_eq!(list(&place)[0].state, "shredded");

    let server = place.server_with(&SEALED);
    let summary = upload(server.address, ILL, "late", &[&record, &download(server.address, MET)]);
    assert_eq!((&summary["resolved"], &summary["unknown"]), (&json!(1), &json!(1)), "another key took its place");
    let exported = place.administer(&["export", "tempids"], "").assert_success();
    assert!(exported.shown.is_empty() && exported.errors.contains("sealed TempIDs are not listed"), "{exported:?}");
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    assert!(log.contains("made sealing keys"), "{log}");
}

#[test]
fn a_key_period_is_a_minute_or_longer_and_a_scheme_one_of_two() {
    let place = Place::new();
    for (option, value) in [("--key-period", "59s"), ("--key-period", "0"), ("--tempid-scheme", "rot13")] {
        assert_eq!(place.run(&["server", "0", option, value]).status, Some(2), "{option} {value}");
    }
}

/// A line of `keys list`.
struct Key {
    state: String,
    seals: u64,
}

/// What `keys list` shows, none of which is a key.
fn list(place: &Place) -> Vec<Key> {
    let shown = place.administer(&["keys", "list"], "").assert_success().shown;
    let header = shown.lines().next().unwrap();
    let columns = ["id", "seals from", "until", "state", "age", "seals", "kept until"];
    assert!(columns.iter().all(|column| header.contains(column)), "{header}");
    let (state, age) = (header.find("state").unwrap(), header.find("    age").unwrap());
    let key = |line: &str| Key {
        state: line[state..age].trim().to_owned(),
        seals: line[age + 7..].split_whitespace().next().unwrap().parse().unwrap(),
    };
    let long = |word: &str| word.len() > 20;
    assert!(!shown.split_whitespace().any(long), "a key or a TempID is shown: {shown}");
    shown.lines().skip(1).map(key).collect()
}

fn download(server: SocketAddr, account: (&str, &str)) -> String {
    let answer = Session::login(server, account).request(r#"{"commandType":"DT"}"#);
    answer["data"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn upload(server: SocketAddr, account: (&str, &str), name: &str, records: &[&str]) -> Value {
    let mut session = Session::login(server, account);
    session.request(&json!({"commandType":"UC","numOfSend":records.len(),"upload":name}).to_string());
    let mut answer = Value::Null;
    for (place, record) in records.iter().enumerate() {
        let left = records.len() - 1 - place;
        let data = json!({"record": record, "received": now().to_string()});
        answer = session.request(&json!({"commandType":"UC","numOfSend":left,"data":data}).to_string());
    }
    answer["data"].clone()
}
