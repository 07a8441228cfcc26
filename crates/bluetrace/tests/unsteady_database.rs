//! A server whose way to its database is cut at random bytes, slow, and blocked, while devices upload: it stays up, says what it cannot do,
//! needs no help, and every record that it acknowledged is there, once.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[path = "../../bluetrace-server/tests/support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;
#[path = "../../bluetrace-server/tests/support/proxy.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod proxy;
#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::process::Stdio;

use postgres::Cluster;
use proxy::{Manner, Proxy};
use serde_json::{Value, json};
use support::{ILL, Place, RunningServer, Session, send_signal, wait_until};

#[test]
fn a_server_whose_connections_to_its_database_are_cut_slow_and_blocked_keeps_what_it_acknowledged() {
    let cluster = Cluster::start_durable();
    let database = cluster.database();
    let proxy = Proxy::before(cluster.folder());
    let place = Place::with_accounts();
    place.run(&["load", "--make-accounts", "2"]).assert_success();
    let accounts = ["credentials.txt", "load-accounts.txt"].map(|file| fs::read(place.path(file)).unwrap());
    fs::write(place.path("credentials.txt"), accounts.concat()).unwrap();
    let server = place.server_with(&["--store", &proxy.url(&database)]);
    let address = server.address.to_string();
    let mut load = place.bluetrace(&["load", "--server", &address, "--devices", "12", "--uploads", "100000"]);
    load.args(["--records", "300", "--json", "results.json"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut load = load.spawn().unwrap();
    let complete = "SELECT count(*) FROM upload WHERE finished IS NOT NULL";
    let complete = || cluster.sql(&database, complete).parse::<u32>().unwrap();
    let more = |count| {
        let before = complete();
        wait_until("uploads are complete", || complete() >= before + count);
    };
    more(12);
    let mut session = Session::login(server.address, ILL);

    proxy.set(Manner::Cutting);
    wait_until("connections are cut", || proxy.cut() >= 30);
    more(5);
    proxy.set(Manner::Delaying(50, 300));
    more(5);
    proxy.set(Manner::Stalling);
    wait_until("a device is told", || {
        let answer = session.request(r#"{"commandType":"UC","numOfSend":3,"upload":"u-1"}"#);
        answer["data"]["code"] == "unavailable"
    });
    assert!(proxy.open() <= CONNECTIONS, "{} connections", proxy.open());
    proxy.set(Manner::Honest);
    more(5);
    let begun = session.request(r#"{"commandType":"UC","numOfSend":3,"upload":"u-1"}"#);
    assert_eq!(begun["numOfRecv"], 3, "{begun}");

    send_signal(&load, "INT");
    let is_good = load.wait().unwrap().success();
    let results = fs::read_to_string(place.path("results.json")).unwrap();
    assert!(is_good, "{results}");
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!((&results["lost_records"], &results["unconfirmed"]), (&json!(0), &json!(0)), "{results}");
    let peak_kib = peak_memory_kib(&server);
    assert!(peak_kib < MOST_MEMORY_KIB, "{peak_kib} KiB");
    assert!(server.stop("TERM").0.success());
    assert!(u64::from(complete()) >= results["uploads"].as_u64().unwrap());
    let not_whole = "SELECT count(*) FROM upload AS u WHERE finished IS NOT NULL AND (durable <> records OR records <>
                     (SELECT count(DISTINCT place) FROM uploaded_record WHERE upload = u.id AND place < u.records))";
    assert_eq!(cluster.sql(&database, not_whole), "0");
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    assert!(log.contains("the database is away") && !log.contains("panicked") && !log.contains("ERROR"), "{log}");
    println!("{} connections were cut, {} uploads, {peak_kib} KiB", proxy.cut(), results["uploads"]);
}

/// The most memory that a server has had so far.
fn peak_memory_kib(server: &RunningServer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// What a server has of connections to its database, and one more that breaks off what is under way on each.
const CONNECTIONS: usize = 2 * 8;

/// Several times what it takes here, most of it for hashing passwords.
const MOST_MEMORY_KIB: u64 = 1 << 20;
