//! Servers and operators' commands on one PostgreSQL database: what each knows the others know, and what happens when it is away.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what helps a test fails as a test does"
)]

#[path = "../../bluetrace-server/tests/support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;
#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Cluster;
use serde_json::{Value, json};
use support::{Finished, ILL, MET, PATIENCE, Place, RunningServer, Session, finish, record, wait_until};

/// The cluster that the tests here share, but for the one that stops its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start_durable);

#[test]
fn what_one_server_is_told_the_other_knows() {
    let url = CLUSTER.url(&CLUSTER.database());
    let [first, second] = authority_of_two(&url);
    let [one, other] = [&first, &second].map(|place| place.server_with(&["--store", &url]));
    let mut session = Session::login(one.address, ILL);
    let token = session.request(r#"{"commandType":"RT"}"#)["data"]["token"].as_str().unwrap().to_owned();
    let begun = session.request(r#"{"commandType":"UC","numOfSend":3,"upload":"u-1"}"#);
    assert_eq!(begun["numOfRecv"], 3, "{begun}");
    let sent = session.request(&json!({"commandType": "UC", "numOfSend": 2, "data": record(1)}).to_string());
    assert_eq!(sent["numOfRecv"], 2, "{sent}");
    drop((session, one));

    let mut resumed = Session::connect(other.address);
    assert!(resumed.ask(&format!("RESUME {token}")).starts_with("230 "));
    let begun = resumed.request(r#"{"commandType":"UC","numOfSend":3,"upload":"u-1"}"#);
    assert_eq!(begun["numOfRecv"], 2, "one is there: {begun}");
    let one = first.server_with(&["--store", &url]);
    for (server, left) in [(&one, 2), (&other, 1)] {
        let mut session = Session::connect(server.address);
        session.say(MET.0);
        session.hear();
        let refused = session.ask("wrong");
        assert!(refused.starts_with("430 ") && refused.contains(&left.to_string()), "{refused}");
    }
    let mut session = Session::connect(one.address);
    session.say(MET.0);
    session.hear();
    assert!(session.ask("wrong").starts_with("431 "), "the third on two servers together");
    assert!(other.stop("TERM").0.success());
}

#[test]
fn every_command_of_an_operator_works_on_the_shared_database() {
    let url = CLUSTER.url(&CLUSTER.database());
    let place = Place::new();
    let run = |arguments: &[&str], input: &str| -> Finished {
        let mut command = place.bluetrace(arguments);
        finish(command.args(["--data-dir", "data"]).env("BLUETRACE_STORE", &url), input)
    };
    run(&["user", "list"], "").assert_complains(&["no master key in data", "--data-dir"]);
    run(&["user", "add", "somebody"], "secret\n").assert_success();
    run(&["user", "add", "another"], "secret\n").assert_success();
    run(&["user", "password", "somebody"], "other\n").assert_success();
    run(&["user", "remove", "another", "--yes"], "").assert_success();
    assert!(!place.path("data/authority.sqlite").exists(), "nothing is kept in the folder but the keys");
    let listed = run(&["user", "list"], "").assert_success().shown;
    assert!(listed.starts_with("somebody ") && listed.lines().count() == 1, "{listed}");
    let server = place.server_with(&["--store", &url, "--tempid-scheme", "sealed"]);
    Session::login(server.address, ("somebody", "other"));
    run(&["keys", "rotate"], "").assert_success();
    assert!(run(&["keys", "list"], "").assert_success().shown.contains("seals"));
    run(&["keys", "shred", "1", "--yes"], "").assert_success();
    assert!(run(&["keys", "list"], "").assert_success().shown.contains("shredded"));
    run(&["code", "issue", "--case", "7"], "").assert_success();
    assert!(run(&["code", "list"], "").assert_success().shown.contains("case 7"));
    run(&["code", "revoke", "1"], "").assert_success();
    run(&["pin", "somebody"], "").assert_success();
    run(&["export", "uploads"], "").assert_success();
    run(&["export", "contacts", "--format", "jsonl"], "").assert_success();
    run(&["export", "tempids"], "").assert_success();
    let examined = run(&["doctor", &server.address.port().to_string(), "--bind", "127.0.0.1"], "").assert_success();
    assert!(examined.shown.contains("answers, with schema 2"), "{examined:?}");
}

#[test]
fn a_command_that_looks_into_an_empty_database_leaves_it_empty() {
    let url = CLUSTER.url(&CLUSTER.database());
    let place = Place::new();
    fs::create_dir(place.path("data")).unwrap();
    fs::write(place.path("data/master.key"), "07".repeat(32)).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = place.bluetrace(arguments);
        finish(command.args(["--data-dir", "data"]).env("BLUETRACE_STORE", &url), "")
    };
    for arguments in [
        &["user", "list"][..],
        &["code", "list"],
        &["keys", "list"],
        &["export", "uploads"],
        &["pin", "somebody"],
        &["user", "remove", "somebody", "--yes"],
    ] {
        run(arguments).assert_complains(&["there is no store in postgres://", "bluetrace store migrate"]);
    }
    let examined = run(&["doctor", "0"]);
    assert!(examined.shown.contains("is empty"), "{examined:?}");
    let migrated = run(&["store", "migrate"]).assert_success();
    assert!(migrated.shown.contains("made the tables"), "{migrated:?}");
    run(&["user", "list"]).assert_success();
}

#[test]
fn a_server_with_another_master_key_is_refused_in_one_line() {
    let url = CLUSTER.url(&CLUSTER.database());
    let [first, second] = [Place::with_accounts(), Place::with_accounts()];
    first.server_with(&["--store", &url]).stop("TERM");
    fs::create_dir(second.path("data")).unwrap();
    fs::write(second.path("data/master.key"), "07".repeat(32)).unwrap();
    let mut command = second.server_command(0);
    finish(command.args(["--store", &url]), "").assert_complains(&["another master key", "copy of the same key file"]);
    fs::copy(first.path("data/master.key"), second.path("data/master.key")).unwrap();
    Session::login(second.server_with(&["--store", &url]).address, ILL);
}

#[test]
fn a_folder_without_a_key_is_told_to_bring_it_where_the_database_has_servers_and_nothing_is_made() {
    let url = CLUSTER.url(&CLUSTER.database());
    let [first, second] = [Place::with_accounts(), Place::with_accounts()];
    first.server_with(&["--store", &url]).stop("TERM");
    let mut command = second.server_command(0);
    let refused = finish(command.args(["--store", &url]), "");
    refused.assert_complains(&["no master key in data", "copy master.key, certificate.pem and key.pem"]);
    assert!(!second.path("data").exists());
    fs::create_dir(second.path("data")).unwrap();
    for file in ["master.key", "certificate.pem", "key.pem"] {
        fs::copy(first.path("data").join(file), second.path("data").join(file)).unwrap();
    }
    Session::login(second.server_with(&["--store", &url]).address, ILL);
}

#[test]
fn of_servers_that_begin_an_authority_at_the_same_time_one_does_and_the_other_is_told_to_bring_its_key() {
    for round in 0..10 {
        let url = CLUSTER.url(&CLUSTER.database());
        let places = [Place::new(), Place::new()];
        let mut servers = places.each_ref().map(|place| {
            let mut command = place.server_command(0);
            command.args(["--store", &url]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        });
        // of the one that is refused, the output ends
        let listens = servers.each_mut().map(|server| {
            let lines = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
            thread::spawn(move || { lines }.any(|line| line.starts_with("listening on ")))
        });
        let listens = listens.map(|thread| thread.join().unwrap());
        for ((server, place), listens) in servers.into_iter().zip(&places).zip(listens) {
            let mut server = server;
            if listens {
                server.kill().unwrap();
            }
            let output = server.wait_with_output().unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(place.path("data/master.key").exists(), listens, "{errors}");
            assert!(!place.path("data/master.new").exists(), "{errors}");
            if !listens {
                assert_eq!(output.status.code(), Some(1), "{errors}");
                assert!(errors.contains("copy master.key, certificate.pem and key.pem"), "{errors}");
            }
        }
        assert_eq!(listens.iter().filter(|listens| **listens).count(), 1, "round {round}");
    }
}

#[test]
fn a_key_that_a_server_had_made_when_it_died_is_the_one_that_the_database_knows() {
    let url = CLUSTER.url(&CLUSTER.database());
    let place = Place::with_accounts();
    place.server_with(&["--store", &url]).stop("TERM");
    // as it is between the database's mark and the folder's key
    fs::rename(place.path("data/master.key"), place.path("data/master.new")).unwrap();
    Session::login(place.server_with(&["--store", &url]).address, ILL);
    assert!(place.path("data/master.key").exists() && !place.path("data/master.new").exists());
}

#[test]
fn the_doctor_examines_the_keys_in_a_shared_database() {
    let database = CLUSTER.database();
    let url = CLUSTER.url(&database);
    let place = Place::with_accounts();
    let options = ["--store", &url, "--tempid-scheme", "sealed", "--http", "off"];
    let examine = |port: &str| {
        let mut command = place.bluetrace(&["doctor", port, "--json", "--data-dir", "data", "--bind", "127.0.0.1"]);
        let report: Value = serde_json::from_str(&finish(command.args(options), "").shown).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().filter(|finding| finding["check"] == "sealing keys").collect::<Vec<_>>()
    };
    let mut command = place.bluetrace(&["server", "0", "--bind", "127.0.0.1", "--data-dir", "data"]);
    let server = RunningServer::run(command.args(options), &place.path("server.log"));
    let port = server.address.port().to_string();
    // made when the server looks after its keys for the first time, which is not waited for
    wait_until("there is a key", || CLUSTER.sql(&database, "SELECT count(*) FROM sealing_key") != "0");
    let found = examine(&port);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0]["found"].as_str().unwrap().starts_with("key 1 seals until "), "{found:?}");
    assert!(server.stop("TERM").0.success());
    CLUSTER.sql(&database, "UPDATE sealing_key SET state = 1");
    let found = examine("0");
    assert!(found[0]["found"].as_str().unwrap().starts_with("key 1 is to be destroyed"), "{found:?}");
    CLUSTER.sql(&database, "UPDATE sealing_key SET state = 0; UPDATE sealing_key_bytes SET wrapped = set_byte(wrapped, 9, 255 - get_byte(wrapped, 9))");
    let found = examine("0");
    assert!(found[0]["level"] == "error", "{found:?}");
    assert!(found[0]["found"].as_str().unwrap().starts_with("the master key does not open these: 1"), "{found:?}");
}

#[test]
fn a_password_of_the_database_is_shown_nowhere() {
    let place = Place::new();
    let url = "postgres://desk:extremely-secret@127.0.0.1:1/trace";
    let checked = place.run(&["config", "check", "--store", url]).assert_success();
    assert!(checked.shown.contains("store") && !checked.shown.contains("secret"), "{checked:?}");
    fs::create_dir(place.path("data")).unwrap();
    fs::write(place.path("data/master.key"), "07".repeat(32)).unwrap();
    for arguments in [
        &["server", "0", "--data-dir", "data", "--store", url][..],
        &["user", "add", "x", "--data-dir", "data", "--store", url],
    ] {
        let refused = finish(&mut place.bluetrace(arguments), "x\n");
        refused.assert_complains(&["postgres://desk@127.0.0.1:1/trace", "cannot be reached"]);
        assert!(!refused.errors.contains("secret"), "{refused:?}");
    }
    let examined = place.run(&["doctor", "--json", "--data-dir", "data", "--store", url]);
    assert!(examined.shown.contains("cannot be reached") && !examined.shown.contains("secret"), "{examined:?}");
    let mut command = place.bluetrace(&["server", "0", "--data-dir", "data", "--store", "mysql://desk:secret@x/y"]);
    let refused = finish(&mut command, "");
    assert!(refused.errors.contains("not the URL of a PostgreSQL database"), "{refused:?}");
}

#[test]
fn while_the_database_is_away_a_server_stays_up_and_says_so_and_then_goes_on_by_itself() {
    let cluster = Cluster::start_durable();
    let url = cluster.url(&cluster.database());
    let place = Place::with_accounts();
    let options = ["--store", &url, "--tempid-scheme", "sealed", "--http", "127.0.0.1:0", "--no-rate-limits"];
    let mut command = place.bluetrace(&["server", "0", "60", "--bind", "127.0.0.1", "--data-dir", "data"]);
    let server = RunningServer::run(command.args(options), &place.path("server.log"));
    let http =
        server.console.seen.iter().find_map(|line| line.strip_prefix("HTTPS API on https://")).unwrap().to_owned();
    let ready = || status_of(&http, "/readyz");
    let mut session = Session::login(server.address, ILL);
    assert_eq!(session.request(r#"{"commandType":"DT"}"#)["commandType"], "DT");
    assert_eq!(ready().0, 200);
    let ask = |path: &str, token, body: &str| support::http::ask(http.parse().unwrap(), "POST", path, token, body);
    let (_, app) = ask("/v1/login", None, &support::http::login(ILL));
    let token = app["accessToken"].as_str();
    assert_eq!(ask("/getTempIDs", token, r#"{"data":null}"#).0, 200);
    let last_look = Instant::now();

    cluster.stop();
    let (status, head) = ready();
    assert_eq!(status, 503);
    assert!(head.to_lowercase().contains("retry-after:"), "{head}");
    assert_eq!(status_of(&http, "/healthz").0, 200);
    assert_eq!(session.request(r#"{"commandType":"DT"}"#)["commandType"], "DT", "a sealed TempID needs no database");
    let refused = session.request(r#"{"commandType":"UC","numOfSend":3,"upload":"u-1"}"#);
    assert_eq!(refused["data"]["code"], "unavailable", "{refused}");
    let mut late = Session::connect(server.address);
    late.say(MET.0);
    late.hear();
    assert!(late.ask(MET.1).starts_with('4'));
    // longer than a server remembers a caller without asking
    while last_look.elapsed() < Duration::from_secs(6) {
        assert_eq!(ask("/getTempIDs", token, r#"{"data":null}"#).0, 200, "nor do those of a session over HTTP");
    }
    let (status, refused) = ask("/v1/uploads/u-2/records", token, "");
    assert_eq!((status, &refused["code"]), (503, &"unavailable".into()), "{refused}");

    cluster.wake();
    wait_until("the server is ready again", || ready().0 == 200);
    let begun = session.request(r#"{"commandType":"UC","numOfSend":3,"upload":"u-1"}"#);
    assert_eq!(begun["numOfRecv"], 3, "{begun}");
    Session::login(server.address, MET);
    assert!(server.stop("TERM").0.success());
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    assert!(log.contains("the database is away") && log.contains("the database is back"), "{log}");
    assert!(!log.contains(ILL.0) && !log.contains("panicked"), "{log}");
}

/// The folders of two servers of one authority, which have the same master key.
fn authority_of_two(url: &str) -> [Place; 2] {
    let [first, second] = [Place::with_accounts(), Place::new()];
    first.server_with(&["--store", url]).stop("TERM");
    fs::create_dir(second.path("data")).unwrap();
    fs::copy(first.path("data/master.key"), second.path("data/master.key")).unwrap();
    [first, second]
}

/// The status and the head of an answer over HTTP, without TLS.
fn status_of(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let head = answer.split("\r\n\r\n").next().unwrap().to_owned();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
}
