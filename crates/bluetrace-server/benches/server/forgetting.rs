//! A day of ten million uploaded records that is dropped, and what others wait for meanwhile.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bluetrace_authority::store::{
    AccountId, AccountOpened, CodeCheck, PasswordHash, PasswordSource, Store as _, UploadBegun, UploadKey,
    UploadRequest,
};
use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::{Timestamp, UploadId, Uploaded, Username};
use bluetrace_server::postgres::PostgresStore;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::harness::{Bench, Line, Pair, Unit, Wanted, folder_for_data, rows_wanted, say};
use crate::postgres::open;
use crate::system::beginning;
use crate::uploads::records;

const DAY_S: i64 = 24 * 60 * 60;
const ROUNDS: i64 = 3;

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    let dropped = Line {
        name: "a day of 10,000,000 records dropped, PostgreSQL",
        limit: "files of the same size deleted",
        unit: Unit::Milliseconds,
        wanted: Wanted::AtMost(1_000.0),
    };
    let waits = Line {
        name: "longest wait of an append while a day is dropped, PostgreSQL",
        limit: "within a second in which none is",
        wanted: Wanted::ToKnow,
        ..dropped
    };
    if ![dropped, waits].iter().any(|line| bench.wants(line.name)) {
        return;
    }
    let cluster = Cluster::start_durable_in(&folder_for_data());
    let database = cluster.database();
    let uploader = runtime.block_on(Uploader::of(&open(&cluster.url(&database), [7; 32])));
    let (mut drops, mut longest) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let after = |days: i64| beginning().plus((30 * round + days) * DAY_S);
        runtime.block_on(async {
            uploader.append(uploader.begin(after(0)).await, 0).await;
        });
        let size = fill(&cluster, &database, after(0));
        let deleting = deleting_files(&cluster.folder().join("files"), size);
        evict(&cluster.folder().join("data/base"));
        runtime.block_on(async {
            let beside = uploader.begin(after(20)).await;
            let (_, wait_without) = uploader.append_during(beside, sleep(Duration::from_secs(1))).await;
            let (dropping, wait_with) = uploader.append_during(beside, uploader.forget(after(1))).await;
            drops.push(pair(dropping, deleting));
            longest.push(pair(wait_with, wait_without));
        });
        let left = cluster.sql(&database, "SELECT count(*) FROM pg_class WHERE relname ~ '^uploaded_record_[0-9]+$'");
        assert_eq!(left, "2", "the day of what is uploaded beside, and the next");
    }
    bench.note(dropped, &drops);
    bench.note(waits, &longest);
}

fn pair(ours: Duration, limit: Duration) -> Pair {
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    Pair { ours: ms(ours), limit: ms(limit) }
}

/// Stores the records of a day, of which there is a partition, and returns their size in bytes. They are left as they are after three weeks:
/// written out, and with nothing in them that would be vacuumed just when they are dropped.
fn fill(cluster: &Cluster, database: &str, forget_at: Timestamp) -> u64 {
    let (day, count, start) = (forget_at.as_unix() / DAY_S, rows_wanted(), Instant::now());
    let uploads_of_10_000 = format!(
        "INSERT INTO uploaded_record_{day}
         SELECT ({day}::bigint << 41) + 1 + n / 10000, n % 10000, lpad(n::text, 84, '0'), n, n, n
         FROM generate_series(0::bigint, {count} - 1) AS n"
    );
    let vacuum = format!("VACUUM (ANALYZE) uploaded_record_{day}");
    for statement in [&*uploads_of_10_000, &*vacuum, "CHECKPOINT"] {
        cluster.sql(database, statement);
    }
    let size = format!("SELECT pg_total_relation_size('uploaded_record_{day}')");
    let size = cluster.sql(database, &size).parse().unwrap();
    say(&format!("# {count} records stored: {} MB, {:.0} s", size / 1_000_000, start.elapsed().as_secs_f64()));
    size
}

/// How long files take to be deleted that are `size` bytes together, written as the database writes: blocks of 8 kB, no file over 1 GB.
fn deleting_files(folder: &Path, size: u64) -> Duration {
    let (block, most) = ([1; 8_192], 1 << 30);
    fs::create_dir_all(folder).unwrap();
    let mut paths = Vec::new();
    for first in (0..size).step_by(most) {
        let path = folder.join(format!("file-{first}"));
        let mut file = File::create(&path).unwrap();
        for _ in 0..(size - first).min(most as u64) / block.len() as u64 {
            file.write_all(&block).unwrap();
        }
        file.sync_all().unwrap();
        paths.push(path);
    }
    evict(folder);
    let start = Instant::now();
    for path in paths {
        fs::remove_file(path).unwrap();
    }
    start.elapsed()
}

/// Lets the system forget what it keeps in memory of the large files in a folder, as it has of a day that was stored three weeks ago.
fn evict(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let size = fs::metadata(&path).map_or(0, |about| about.len());
        if path.is_dir() {
            evict(&path);
        } else if size > 1 << 20 {
            // GNU's `dd` tells the system so and reads nothing; a file may be gone by now
            let file = format!("if={}", path.display());
            _ = Command::new("dd").args([&*file, "iflag=nocache", "count=0", "status=none"]).status().unwrap();
        }
    }
}

/// An account that uploads, one record at a time.
struct Uploader {
    store: Arc<PostgresStore>,
    account: AccountId,
}

impl Uploader {
    async fn of(store: &Arc<PostgresStore>) -> Self {
        let username = Username::parse("+61400000000").unwrap();
        let hash = PasswordHash("hash".into());
        let opened = store.open_account(username, hash, PasswordSource::Operator, beginning()).await.unwrap();
        let AccountOpened::Opened(account) = opened else { panic!("the name is taken") };
        Self { store: Arc::clone(store), account }
    }

    async fn begin(&self, forget_at: Timestamp) -> UploadKey {
        let request = UploadRequest {
            account: self.account,
            upload: UploadId::parse(&format!("until-{}", forget_at.as_unix())).unwrap(),
            records: MAX_UPLOAD_RECORDS,
            forget_at,
            code: CodeCheck::NotRequired,
        };
        let begun = self.store.begin_upload(request, forget_at.plus(-1)).await.unwrap();
        let UploadBegun::Open { key, .. } = begun else { panic!("{begun:?}") };
        key
    }

    async fn append(&self, upload: UploadKey, place: u32) -> u32 {
        let record = records(1, 1).map(Uploaded::Record).collect();
        self.store.append_records(upload, place, record).await.unwrap().unwrap().durable
    }

    /// How long work takes, and the longest that an append waits meanwhile.
    async fn append_during(&self, upload: UploadKey, work: impl Future<Output = ()>) -> (Duration, Duration) {
        let is_over = Cell::new(false);
        let working = async {
            let start = Instant::now();
            work.await;
            is_over.set(true);
            start.elapsed()
        };
        let appending = async {
            let (mut place, mut longest) = (0, Duration::ZERO);
            while !is_over.get() {
                let start = Instant::now();
                // the first tells how far the upload is
                place = self.append(upload, place).await;
                longest = longest.max(start.elapsed());
            }
            longest
        };
        tokio::join!(working, appending)
    }

    async fn forget(&self, now: Timestamp) {
        while self.store.expire(now).await.unwrap().more {}
    }
}
