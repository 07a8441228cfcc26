//! A flood of beacons against a loop that only receives datagrams: `cargo bench -p bluetrace-client`.
//!
//! The device is a whole one, logged in, with its contact log on a real disk. Sender and receiver have a thread each, and the
//! sender never waits: what is counted is what was taken, checked, logged and written to the file.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what a bench cannot set up ends it")]
#![expect(clippy::cast_precision_loss, reason = "counts are small")]

#[path = "../../bluetrace-server/benches/harness/mod.rs"]
#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;
#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bluetrace_client::device::{Command, DeviceEvent};
use bluetrace_protocol::{Beacon, ContactLogEntry, Record, Timestamp};
use harness::{Bench, Line, Unit, Wanted, core_time, folder_for_data};
use support::{Authority, Rig, USER, config, now};
use tokio::net::UdpSocket;
use tokio::runtime::Builder;

const ROUNDS: usize = 9;
/// How long a flood lasts.
const FLOOD: Duration = Duration::from_millis(500);
/// Entries of a log that is long.
const LONG: usize = 200_000;
/// Seconds that a beacon is kept: longer than a bench takes to come to its end.
const RETENTION_S: u32 = 3_600;

fn main() {
    let Some(mut bench) = Bench::start("beacons") else { return };
    let heard = Line {
        name: "beacons heard and logged",
        limit: "a bare UDP receive loop",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.6),
    };
    let cost = Line {
        name: "beacons for each second of a core",
        limit: "a bare UDP receive loop, for each second of a core",
        ..heard
    };
    let flat = Line {
        name: "beacons for each second of a core, 200,000 in the log",
        limit: "an empty log",
        wanted: Wanted::AtLeast(0.9),
        ..heard
    };
    let forgetting =
        Line { name: "beacons for each second of a core, 200,000 in the log, 1,000 a second forgotten", ..flat };
    let empty = || hear(0, Forgets::Nothing);
    bench.compare(heard, ROUNDS, || empty().a_second, || receive().a_second);
    bench.compare(cost, ROUNDS, || empty().a_core_second, || receive().a_core_second);
    bench.compare(flat, ROUNDS, || hear(LONG, Forgets::Nothing).a_core_second, || empty().a_core_second);
    let long = || hear(LONG, Forgets::ThousandASecond).a_core_second;
    bench.compare(forgetting, ROUNDS, long, || empty().a_core_second);
    bench.finish().unwrap();
}

/// What the log loses meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Forgets {
    Nothing,
    ThousandASecond,
}

/// How many datagrams were taken: in the time that passed, and in the time that cores spent on it.
struct Taken {
    a_second: f64,
    a_core_second: f64,
}

impl Taken {
    fn new(count: u64, start: Instant, cores_at_start: Duration) -> Self {
        let (passed, spent) = (start.elapsed(), core_time("").saturating_sub(cores_at_start));
        Self { a_second: count as f64 / passed.as_secs_f64(), a_core_second: count as f64 / spent.as_secs_f64() }
    }
}

/// What a device takes to its file.
fn hear(entries: usize, forgets: Forgets) -> Taken {
    let folder = tempfile::tempdir_in(folder_for_data()).unwrap();
    let file = folder.path().join(format!("{USER}_contactlog.txt"));
    fs::write(&file, old_log(entries, forgets)).unwrap();
    // as in the binary
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let authority_runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let authority = authority_runtime.block_on(Authority::start());
    let mut config = config(&authority, folder.path());
    config.retention_s = RETENTION_S;
    config.downloads = false;
    runtime.block_on(async {
        let mut rig = Rig::logged_in(config).await;
        let before = heard(&mut rig).await;
        assert!(before.contacts >= entries * 9 / 10 && before.valid == 0, "the log was not read");
        let (start, cores) = (Instant::now(), core_time(""));
        let flood = Flood::begin(rig.device.udp());
        // events are taken as they come, as a terminal would; there are more than can be shown, and it may miss some
        while start.elapsed() < FLOOD {
            _ = tokio::time::timeout(FLOOD.saturating_sub(start.elapsed()), rig.events.recv()).await;
        }
        flood.end();
        let mut after = heard(&mut rig).await;
        while !is_written(&file, after.contacts) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            after = heard(&mut rig).await;
        }
        Taken::new(after.valid, start, cores)
    })
}

/// What a loop takes that does nothing else.
fn receive() -> Taken {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = UdpSocket::from_std(socket).unwrap();
        let (start, cores) = (Instant::now(), core_time(""));
        let flood = Flood::begin(socket.local_addr().unwrap());
        let (mut received, mut buffer) = (0_u64, [0; 257]);
        while received % 64 != 0 || start.elapsed() < FLOOD {
            socket.recv_from(&mut buffer).await.unwrap();
            received += 1;
        }
        // the sender's own time is gone with its thread
        flood.end();
        Taken::new(received, start, cores)
    })
}

/// A sender that never waits.
struct Flood {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Flood {
    fn begin(to: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let start = now();
            let beacons: Vec<_> = (0..1_000).map(|number| Beacon { record: record(number, start) }.reveal()).collect();
            while !seen.load(Ordering::Relaxed) {
                for beacon in &beacons {
                    // where nobody takes it any more, it is lost
                    _ = socket.send_to(beacon.as_bytes(), to);
                }
            }
        });
        Self { is_over, thread }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

struct HeardSoFar {
    valid: u64,
    contacts: usize,
}

async fn heard(rig: &mut Rig) -> HeardSoFar {
    let done = rig.device.submit(Command::Status).await;
    let event = rig.until(|event| matches!(event, DeviceEvent::Status(_))).await;
    done.await.unwrap();
    let DeviceEvent::Status(status) = event else { panic!("that was no status") };
    HeardSoFar { valid: status.valid, contacts: status.contacts }
}

/// Whether the file holds so many lines, each of them 84 bytes.
fn is_written(file: &Path, contacts: usize) -> bool {
    fs::metadata(file).unwrap().len() == 84 * u64::try_from(contacts).unwrap()
}

/// A file of a contact log, as old as it has to be.
fn old_log(entries: usize, forgets: Forgets) -> String {
    let now = now();
    let mut text = String::new();
    for number in 0..entries {
        let ago = match forgets {
            Forgets::Nothing => 60,
            // the oldest thousand has two seconds left
            Forgets::ThousandASecond => i64::from(RETENTION_S) - 2 - i64::try_from(number / 1_000).unwrap(),
        };
        let received = now.plus(-ago);
        let number = 1_000_000 + u64::try_from(number).unwrap();
        ContactLogEntry { record: record(number, received), received }.write_to(&mut text);
        text.push('\n');
    }
    text
}

fn record(number: u64, start: Timestamp) -> Record {
    Record::parse(&format!("{number:020}, {}, {}", start.plus(-10), start.plus(889))).unwrap()
}
