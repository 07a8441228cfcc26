//! `bluetrace load` against servers that are killed, and against one that forgets what it acknowledged.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[path = "../../bluetrace-server/tests/support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;
#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use postgres::Cluster;
use rusqlite::Connection;
use serde_json::{Value, json};
use support::{PATIENCE, Place, RunningServer, finish, send_signal, wait_until};

#[test]
fn load_through_a_server_that_is_killed_finds_everything_it_acknowledged_there_once() {
    let place = Place::new();
    make_accounts(&place);
    let results = load_through_kills(&place, "tcp", |port| {
        let server = server(&place, port);
        let port = server.address.port();
        (server, port)
    });
    let exported = place.administer(&["export", "uploads", "--format", "jsonl"], "");
    let rows: Vec<Value> = exported.shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 80);
    assert!(rows.iter().all(|row| row["records"] == 300 && row["received"] == 300), "{}", exported.shown);
    assert_eq!(results["protocol"], "tcp");
}

#[test]
fn over_http_as_well() {
    let place = Place::new();
    make_accounts(&place);
    let results = load_through_kills(&place, "http", |port| http_server(&place, port, &[]));
    assert_eq!(results["protocol"], "http");
}

/// Kills a server three times under load, and gives the results. `start` starts it for the protocol on a port, 0 for a free one, and
/// says on which.
fn load_through_kills(place: &Place, protocol: &str, start: impl Fn(u16) -> (RunningServer, u16)) -> Value {
    let (mut server, port) = start(0);
    let options = ["--devices", "8", "--records", "300", "--uploads", "10", "--check-store", "data"];
    let mut load = self::start(place, port, &[&["--protocol", protocol], &options[..]].concat());
    for kill in 1..=3 {
        // some way into the uploads
        wait_until("some uploads are complete", || count_uploads(place) >= kill * 15);
        server.kill();
        server = start(port).0;
    }
    assert!(load.wait().unwrap().success());
    let results = results(place);
    assert_eq!((&results["lost_records"], &results["unconfirmed"]), (&json!(0), &json!(0)));
    assert_eq!((&results["uploads"], &results["confirmed"]), (&json!(80), &json!(80)));
    assert_eq!(results["records"], 80 * 300);
    assert_eq!(results["latencies_ms"]["upload"]["count"], 80);
    assert!(results["latencies_ms"]["resume"]["count"].as_u64().unwrap() > 0, "they came back: {results}");
    let everything = json!({
        "uploads": 80, "records": 80 * 300, "missing_records": 0, "doubled_records": 0, "altered_uploads": 0,
    });
    assert_eq!(results["store"], everything);
    results
}

#[test]
fn what_is_missing_doubled_or_altered_in_the_store_is_found_although_the_authority_knows_of_nothing() {
    let place = Place::new();
    make_accounts(&place);
    let (_server, port) = http_server(&place, 0, &[]);
    let store = || {
        let store = Connection::open(place.path("data/authority.sqlite")).unwrap();
        store.busy_timeout(PATIENCE).unwrap();
        store
    };
    for (number, (fault, missing, doubled, altered)) in [
        ("DELETE FROM uploaded_record WHERE place = (SELECT max(id) << 20 | 42 FROM upload)", 1, 0, 0),
        (
            "INSERT INTO uploaded_record SELECT place + 100, temp_id, start, expiry, received, rssi, seen
             FROM uploaded_record WHERE place = (SELECT max(id) << 20 FROM upload)",
            0,
            1,
            0,
        ),
        (
            "UPDATE uploaded_record SET received = received + 1 WHERE place = (SELECT max(id) << 20 | 42 FROM upload)",
            0,
            0,
            1,
        ),
        ("DELETE FROM upload WHERE id = (SELECT max(id) FROM upload)", 100, 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        // the second upload would come in an hour
        let plan = ["--devices", "1", "--records", "100", "--uploads", "2", "--every", "1h", "--check-store", "data"];
        let mut load = start(&place, port, &[&["--protocol", "http"], &plan[..]].concat());
        wait_until("the upload is complete", || count_uploads(&place) == number + 1);
        assert_eq!(store().execute(fault, ()).unwrap(), 1, "{fault}");
        send_signal(&load, "INT");
        assert_eq!(load.wait().unwrap().code(), Some(1), "{fault}");
        let results = results(&place);
        // who asks for an upload that the authority does not know begins it anew
        let is_known = missing < 100;
        assert_eq!(results["confirmed"], u32::from(is_known), "{fault}");
        let found = json!({
            "uploads": 1, "records": 100 - missing + doubled,
            "missing_records": missing, "doubled_records": doubled, "altered_uploads": altered,
        });
        assert_eq!(results["store"], found, "{fault}");
    }
}

#[test]
fn load_tells_of_an_authority_that_has_forgotten_what_it_acknowledged() {
    let place = Place::new();
    make_accounts(&place);
    server(&place, 0).stop("TERM");
    copy_folder(&place.path("data"), &place.path("before"));
    let mut server = server(&place, 0);
    let port = server.address.port();
    let mut load = start(&place, port, &["--devices", "1", "--records", "100", "--duration", "4s", "--every", "1m"]);
    wait_until("an upload is complete", || count_uploads(&place) == 1);
    server.kill();
    fs::remove_dir_all(place.path("data")).unwrap();
    fs::rename(place.path("before"), place.path("data")).unwrap();
    let _server = self::server(&place, port);
    assert_eq!(load.wait().unwrap().code(), Some(1));
    let results = results(&place);
    assert_eq!(
        (&results["uploads"], &results["confirmed"], &results["lost_records"]),
        (&json!(1), &json!(0), &json!(100))
    );
}

#[test]
fn load_is_made_on_this_machine_only_unless_told_otherwise_and_by_accounts_there_are() {
    let place = Place::new();
    place.run(&["load"]).assert_complains(&["load-accounts.txt", "--make-accounts"]);
    make_accounts(&place);
    // accounts that there are stay
    place.run(&["load", "--make-accounts", "2"]).assert_complains(&["cannot make load-accounts.txt"]);
    for elsewhere in ["192.0.2.1", "127.0.0.1,[2001:db8::1]:4000"] {
        for protocol in ["tcp", "http"] {
            let refused = place.run(&["load", "--protocol", protocol, "--server", elsewhere]);
            refused.assert_complains(&["is not this machine", "--i-own-this-server"]);
        }
    }
    fs::write(place.path("load-accounts.txt"), "alice secret\nbob\n").unwrap();
    place.run(&["load"]).assert_complains(&["line 2 of load-accounts.txt"]);
    // the store is looked for before the work
    fs::write(place.path("load-accounts.txt"), "alice secret\n").unwrap();
    place.run(&["load", "--check-store", "data"]).assert_complains(&["there is no authority in data"]);
}

#[test]
fn load_on_two_servers_of_one_database_finds_everything_in_it_although_one_is_killed() {
    let cluster = Cluster::start_durable();
    let url = cluster.url(&cluster.database());
    let place = Place::new();
    make_accounts(&place);
    let second = Place::new();
    fs::copy(place.path("load-accounts.txt"), second.path("load-accounts.txt")).unwrap();
    let (one, port) = http_server(&place, 0, &["--store", &url]);
    fs::create_dir(second.path("data")).unwrap();
    fs::set_permissions(second.path("data"), fs::metadata(place.path("data")).unwrap().permissions()).unwrap();
    fs::copy(place.path("data/master.key"), second.path("data/master.key")).unwrap();
    let (mut other, other_port) = http_server(&second, 0, &["--store", &url]);
    let servers = format!("127.0.0.1:{other_port},127.0.0.1:{port}");
    let check = ["--check-store", "data", "--store", &url, "--devices", "8", "--records", "100", "--uploads", "5"];
    let mut load = start_at(&place, &servers, &[&["--protocol", "http"], &check[..]].concat());
    let listed = || {
        let mut command = place.bluetrace(&["export", "uploads", "--data-dir", "data", "--store", &url]);
        finish(&mut command, "").shown.lines().count()
    };
    wait_until("some uploads have begun", || listed() > 8);
    other.kill();
    assert!(load.wait().unwrap().success());
    let results = results(&place);
    assert_eq!(
        (&results["uploads"], &results["confirmed"], &results["lost_records"]),
        (&json!(40), &json!(40), &json!(0))
    );
    assert_eq!((&results["store"]["records"], &results["store"]["doubled_records"]), (&json!(4_000), &json!(0)));
    drop(one);
}

fn make_accounts(place: &Place) {
    place.run(&["load", "--make-accounts", "2"]).assert_success();
}

fn server(place: &Place, port: u16) -> RunningServer {
    place.server_at(port, &["--credentials", "load-accounts.txt"])
}

/// A server with the HTTPS API on a port, 0 for a free one, and that port.
fn http_server(place: &Place, port: u16, options: &[&str]) -> (RunningServer, u16) {
    let address = format!("127.0.0.1:{port}");
    let mut command = place.bluetrace(&["server", "0", "--bind", "127.0.0.1", "--data-dir", "data"]);
    command.args(["--credentials", "load-accounts.txt", "--http", &address, "--no-rate-limits"]).args(options);
    let server = RunningServer::run(&mut command, &place.path("server.log"));
    let line = server.console.seen.iter().find_map(|line| line.strip_prefix("HTTPS API on https://127.0.0.1:"));
    let port = line.unwrap_or_else(|| panic!("no HTTPS API: {:?}", server.console.seen)).parse().unwrap();
    (server, port)
}

fn start(place: &Place, port: u16, options: &[&str]) -> Child {
    start_at(place, &format!("127.0.0.1:{port}"), options)
}

fn start_at(place: &Place, servers: &str, options: &[&str]) -> Child {
    let mut command: Command = place.bluetrace(&["load", "--server", servers, "--json", "results.json"]);
    command.args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Uploads that are complete, by the operator's list.
fn count_uploads(place: &Place) -> usize {
    let exported = place.administer(&["export", "uploads", "--format", "jsonl"], "");
    let rows = exported.shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["complete"] == true).count()
}

fn results(place: &Place) -> Value {
    serde_json::from_slice(&fs::read(place.path("results.json")).unwrap()).unwrap()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
