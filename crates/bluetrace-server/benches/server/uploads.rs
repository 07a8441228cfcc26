//! Uploads, durable when acknowledged: streamed as fast as the server takes them, and record by record.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::slice;
use std::time::{Duration, Instant};

use bluetrace_authority::store::{ImportedTempId, TempIdImported};
use bluetrace_protocol::message::write_record;
use bluetrace_protocol::{ContactLogEntry, Record, TempId, UploadedRecord, Window};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::harness::{Bench, Line, Unit, Wanted, folder_for_data};
use crate::line_client::LineClient;
use crate::raw_sqlite::RawSqlite;
use crate::system::{System, beginning};

/// Records of a streamed upload: three weeks of a busy person.
pub(crate) const RECORDS: u32 = 200_000;
/// People met in it, as the ids that they showed.
pub(crate) const DISTINCT: u32 = 2_000;
/// The store's own size of a batch where records never stop coming.
pub(crate) const BATCH: usize = 4_096;
const ROUNDS: usize = 7;

pub(crate) fn pipelined(bench: &mut Bench, runtime: &Runtime) {
    let realistic = Line {
        name: "upload, pipelined",
        limit: "raw SQLite, the same rows in batches of 4,096",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.5),
    };
    let distinct = Line { name: "upload, all ids different, pipelined", wanted: Wanted::ToKnow, ..realistic };
    for (line, distinct) in [(realistic, DISTINCT), (distinct, RECORDS)] {
        if !bench.wants(line.name) {
            continue;
        }
        let records: Vec<_> = records(RECORDS, distinct).collect();
        let (system, mut client) = runtime.block_on(async {
            let system = System::start(2).await;
            import(&system, &records[..usize::try_from(distinct).unwrap()]).await;
            let client = system.enter(0).await;
            (system, client)
        });
        let lines = lines(&records);
        let folder = tempfile::tempdir_in(folder_for_data()).unwrap();
        let mut raw = RawSqlite::open(&folder);
        let mut round = 0;
        let ours = || {
            round += 1;
            runtime.block_on(stream(&mut client, &lines, round))
        };
        let limit = || {
            let start = Instant::now();
            raw.insert_records(&records, BATCH);
            f64::from(RECORDS) / start.elapsed().as_secs_f64()
        };
        bench.compare(line, ROUNDS, ours, limit);
        drop(system);
    }
}

pub(crate) fn stop_and_wait(bench: &mut Bench, runtime: &Runtime) {
    // many short rounds: a disk that others use as well is slow for seconds at a time
    const RECORDS: usize = 40;
    const ROUNDS: usize = 75;
    const MANY: usize = 16;
    let one = Line {
        name: "upload, stop-and-wait, 1 connection",
        limit: "raw SQLite, a commit for each record",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.6),
    };
    let append = Line {
        name: "upload, stop-and-wait, 1 connection, to the disk alone",
        limit: "a file, fdatasync for each record",
        wanted: Wanted::ToKnow,
        ..one
    };
    let many = Line {
        name: "upload, stop-and-wait, 16 connections",
        limit: "1 connection",
        wanted: Wanted::AtLeast(6.0),
        ..one
    };
    if ![one.name, append.name, many.name].into_iter().any(|name| bench.wants(name)) {
        return;
    }
    let (system, mut uploaders) = runtime.block_on(async {
        let system = System::start(MANY).await;
        let mut uploaders = Vec::new();
        for account in 0..MANY {
            uploaders.push(SlowUploader::begin(&system, account).await);
        }
        (system, uploaders)
    });
    let folder = tempfile::tempdir_in(folder_for_data()).unwrap();
    let mut raw = RawSqlite::open(&folder);
    let rows: Vec<_> = records(u32::try_from(RECORDS).unwrap(), DISTINCT).collect();
    let mut file = OpenOptions::new().append(true).create(true).open(folder.path().join("appended")).unwrap();

    let mut first = uploaders.swap_remove(0);
    let ours = || a_second(1, runtime.block_on(first.upload(RECORDS)));
    let raw = || a_second(1, rows.iter().map(|row| timed(|| raw.insert_records(slice::from_ref(row), 1))).collect());
    bench.compare(one, ROUNDS, ours, raw);

    let ours = || a_second(1, runtime.block_on(first.upload(RECORDS)));
    let mut append_one = || {
        file.write_all(&[b'x'; 100]).unwrap();
        file.sync_data().unwrap();
    };
    bench.compare(append, ROUNDS, ours, || a_second(1, (0..RECORDS).map(|_| timed(&mut append_one)).collect()));

    let mut others = Some(uploaders);
    let mut sixteenth = runtime.block_on(SlowUploader::begin(&system, 0));
    let ours = || {
        runtime.block_on(async {
            let mut uploads = JoinSet::new();
            for mut uploader in others.take().unwrap() {
                uploads.spawn(async move { (uploader.upload(RECORDS).await, uploader) });
            }
            let mut waits = sixteenth.upload(RECORDS).await;
            let (of_others, back): (Vec<_>, Vec<_>) = uploads.join_all().await.into_iter().unzip();
            others = Some(back);
            waits.extend(of_others.into_iter().flatten());
            a_second(MANY, waits)
        })
    };
    bench.compare(many, ROUNDS, ours, || a_second(1, runtime.block_on(first.upload(RECORDS))));
}

/// Records a second of connections that each wait for one before the next, by the middle one of the waits: a disk that others use
/// as well stands still at times, which says nothing about the rest.
fn a_second(connections: usize, mut waits: Vec<Duration>) -> f64 {
    waits.sort_unstable();
    connections as f64 / waits[waits.len() / 2].as_secs_f64()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Sends a record, waits for the answer, sends the next.
struct SlowUploader {
    client: LineClient,
    /// Records still expected of it.
    left: u32,
    line: Vec<u8>,
}

impl SlowUploader {
    async fn begin(system: &System, account: usize) -> Self {
        let left = bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
        let mut client = system.enter(account).await;
        client.send(begin(left, 0).as_bytes()).await;
        assert!(client.line().await.contains("numOfRecv"));
        Self { client, left, line: Vec::new() }
    }

    /// Uploads records, and says how long each took.
    async fn upload(&mut self, count: usize) -> Vec<Duration> {
        let mut waits = Vec::with_capacity(count);
        for record in records(u32::try_from(count).unwrap(), DISTINCT) {
            self.left -= 1;
            self.line.clear();
            write_record(&entry(&record), self.left, &mut self.line);
            let start = Instant::now();
            self.client.send(&self.line).await;
            assert!(self.client.line().await.contains("numOfRecv"));
            waits.push(start.elapsed());
        }
        waits
    }
}

/// Streams an upload, and returns the records a second until the last is durable, traced and acknowledged.
pub(crate) async fn stream(client: &mut LineClient, lines: &[u8], upload: u32) -> f64 {
    let start = Instant::now();
    client.send(begin(RECORDS, upload).as_bytes()).await;
    let begun = client.line().await;
    assert!(begun.contains("numOfRecv"), "{begun}");
    let (mut receiving, mut sending) = tokio::io::split(&mut client.stream);
    let send = async {
        sending.write_all(lines).await.unwrap();
        sending.flush().await.unwrap();
    };
    let receive = async {
        let mut answers = LineClient::over(tokio::io::join(&mut receiving, tokio::io::sink()), 4_096);
        while !answers.line().await.contains("resolved") {}
    };
    tokio::join!(send, receive);
    f64::from(RECORDS) / start.elapsed().as_secs_f64()
}

fn begin(records: u32, upload: u32) -> String {
    format!(
        "{{\"commandType\":\"UC\",\"numOfSend\":{records},\"upload\":\"{upload:08x}-0000-4000-8000-000000000000\"}}\n"
    )
}

pub(crate) fn lines(records: &[UploadedRecord]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (record, following) in records.iter().zip((0..RECORDS).rev()) {
        write_record(&entry(record), following, &mut lines);
    }
    lines
}

fn entry(heard: &UploadedRecord) -> ContactLogEntry {
    ContactLogEntry { record: heard.record.clone(), received: heard.received.unwrap() }
}

/// A contact log: one id after the other, over and over.
pub(crate) fn records(count: u32, distinct: u32) -> impl Iterator<Item = UploadedRecord> {
    (0..count).map(move |number| {
        let start = beginning().plus(-i64::from(number % 900));
        let temp_id = TempId::parse(&temp_id(u64::from(number % distinct))).unwrap();
        let record = Record { temp_id, window: Window::new(start, start.plus(899)).unwrap() };
        UploadedRecord { record, received: Some(start.plus(10)), rssi: None, seen: None }
    })
}

/// Twenty digits that look random, another for each number.
pub(crate) fn temp_id(number: u64) -> String {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:020}", mixed ^ (mixed >> 31))
}

/// The ids were issued to another account.
pub(crate) async fn import(system: &System, records: &[UploadedRecord]) {
    let username = &system.members[1].username;
    let lines = records.iter().map(|heard| ImportedTempId { username: username.clone(), record: heard.record.clone() });
    let lines: Vec<_> = lines.collect();
    for lines in lines.chunks(10_000) {
        let forget_at = system.now().plus(1_815_300);
        let outcomes = system.store.import_temp_ids(lines.to_vec(), forget_at, system.now()).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == TempIdImported::Added));
    }
}
