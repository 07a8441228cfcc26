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
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

use postgres::Cluster;
use proxy::{Manner, Proxy};
use serde_json::json;
use support::{ILL, PATIENCE, Place, RunningServer, Session, uploader, wait_until};

#[test]
fn a_server_whose_connections_to_its_database_are_cut_slow_and_blocked_keeps_what_it_acknowledged() {
    let cluster = Cluster::start_durable();
    let database = cluster.database();
    let proxy = Proxy::before(cluster.folder());
    let place = Place::with_accounts();
    fs::write(place.path("tempIDs.txt"), uploader::temp_ids_of_met()).unwrap();
    let server = place.server_with(&["--store", &proxy.url(&database), "--tempid-scheme", "registry"]);
    let (is_over, next, complete) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| Session::login(server.address, ILL)).collect();
    thread::scope(|scope| {
        for _ in 0..UPLOADERS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    uploader::upload(server.address, next.fetch_add(1, Ordering::Relaxed));
                    complete.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = |what: &str| {
            let before = complete.load(Ordering::Relaxed);
            wait_until(what, || complete.load(Ordering::Relaxed) >= before + 3);
        };
        more("uploads are complete");
        // not while it is connected to: nothing is done at all for a while after each time that this fails
        proxy.set(Manner::Cutting(8 << 10));
        more("uploads are complete though connections are cut");
        wait_until("connections are cut", || proxy.cut() >= CUTS);
        proxy.set(Manner::Delaying(20, 100));
        more("uploads are complete though the database is slow");
        proxy.set(Manner::Stalling);
        let (told, hear) = mpsc::channel();
        for (number, session) in sessions.iter_mut().enumerate() {
            let told = told.clone();
            let begin = json!({"commandType": "UC", "numOfSend": 3, "upload": format!("u-{number}")}).to_string();
            scope.spawn(move || told.send(session.request(&begin)).unwrap());
        }
        let answer = hear.recv_timeout(PATIENCE).unwrap();
        assert_eq!(answer["data"]["code"], "unavailable", "there is a line, and nobody waits in it for long: {answer}");
        assert!(proxy.open() <= CONNECTIONS, "{} connections", proxy.open());
        proxy.set(Manner::Honest);
        more("uploads are complete when nothing is in the way");
        is_over.store(true, Ordering::Relaxed);
    });
    let peak_kib = peak_memory_kib(&server);
    assert!(peak_kib < MOST_MEMORY_KIB, "{peak_kib} KiB");
    assert!(server.stop("TERM").0.success());
    let uploads = next.load(Ordering::Relaxed);
    uploader::assert_stored_once(|statement| cluster.sql(&database, statement), uploads);
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    assert!(log.contains("the database is away") && !log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

/// The most memory that a server has had so far.
fn peak_memory_kib(server: &RunningServer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// How many upload at once.
const UPLOADERS: u32 = 4;

/// How many ask when nothing is answered: more than a server has connections to its database, so that some wait in line.
const SESSIONS: u32 = 12;

/// How many connections are cut at the least.
const CUTS: usize = 20;

/// What a server has of connections to its database, and one more that breaks off what is under way on each.
const CONNECTIONS: usize = 2 * 8;

/// Several times what it takes here, most of it for hashing passwords.
const MOST_MEMORY_KIB: u64 = 1 << 20;
