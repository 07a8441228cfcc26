//! A store whose way to PostgreSQL is cut, slow or blocked, under load: what it has acknowledged is there once, whoever cannot be served is
//! told so, nothing grows, and when the way is free again it goes on by itself.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics where something is not as it should be")]

#[path = "support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;
#[path = "support/proxy.rs"]
mod proxy;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bluetrace_authority::conformance::{block_on, together};
use bluetrace_authority::store::{
    AccountId, AccountOpened, CodeCheck, Lockout, NewNotice, PasswordHash, PasswordSource, Store, StoreError,
    StoreFuture, UploadBegun, UploadCompleted, UploadKey, UploadRequest, Verdict,
};
use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::{
    ExposureNotice, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Username, Window,
};
use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};

use crate::postgres::CLUSTER;
use crate::proxy::{Manner, Proxy};

#[test]
fn connections_that_are_cut_anywhere_lose_and_double_nothing_that_was_acknowledged() {
    let Unsteady { proxy, store, database } = unsteady(PostgresOptions { connections: 4, ..options() });
    let (met, other) = (opened(&store, "met"), opened(&store, "other"));
    let uploaders: Vec<_> = (0..UPLOADERS).map(|number| opened(&store, &format!("uploader-{number}"))).collect();
    let (is_over, complete) = (AtomicBool::new(false), AtomicU32::new(0));
    proxy.set(Manner::Cutting(0));
    let acknowledged: Vec<(AccountId, u32)> = thread::scope(|scope| {
        let (store, is_over, complete) = (&store, &is_over, &complete);
        let uploads: Vec<_> = uploaders
            .into_iter()
            .map(|account| {
                scope.spawn(move || {
                    let mut uploads = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        upload(store, account, uploads, met);
                        uploads += 1;
                        complete.fetch_add(1, Ordering::Relaxed);
                    }
                    (account, uploads)
                })
            })
            .collect();
        // whatever else there is to ask has an outcome, too
        scope.spawn(move || {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                let issued = block_on(store.issue_temp_ids(other, vec![record(number)], at(FORGET)));
                is_served(issued);
                is_served(block_on(store.record_login(name("mallory"), Verdict::Wrong, RULE, at(0).into())));
                is_served(block_on(store.unread_notices(met, 1, at(0))));
                is_served(block_on(store.expire(at(0))));
            }
        });
        wait_until("connections were cut and uploads are complete all the same", || {
            proxy.cut() >= CUTS && complete.load(Ordering::Relaxed) >= 3 * UPLOADERS
        });
        is_over.store(true, Ordering::Relaxed);
        proxy.set(Manner::Honest);
        uploads.into_iter().map(|upload| upload.join().unwrap()).collect()
    });
    assert_eq!(store.waiting(), 0);
    let mut total = 0;
    for (account, uploads) in acknowledged {
        total += uploads;
        // counted in the database itself: uploads, those that are complete, records, and those that are where they belong
        let counted = CLUSTER.sql(
            &database,
            &format!(
                "SELECT count(DISTINCT u.id), count(DISTINCT u.id) FILTER (WHERE u.finished IS NOT NULL AND u.durable = {RECORDS}),
                        count(*), count(DISTINCT (u.id, r.place)),
                        count(*) FILTER (WHERE r.temp_id::bigint = {RECORDS} * u.name::bigint + r.place)
                 FROM upload AS u JOIN uploaded_record AS r ON r.upload = u.id WHERE u.account = {}",
                account.0
            ),
        );
        let records = uploads * RECORDS;
        assert_eq!(counted, format!("{uploads}|{uploads}|{records}|{records}|{records}"));
    }
    let told = CLUSTER
        .sql(&database, &format!("SELECT count(*), count(DISTINCT advice) FROM notice WHERE account = {}", met.0));
    assert_eq!(told, format!("{total}|{total}"), "each is told of each upload once");
}

/// Whether the first try had been committed can be known from the database alone.
#[test]
fn what_was_committed_though_its_answer_was_cut_off_is_done_once() {
    let Unsteady { proxy, store, .. } = unsteady(options());
    let account = opened(&store, "alice");
    for (number, cut_at) in (0..).zip(["BEGIN", "INSERT INTO upload", "UPDATE upload", "INSERT INTO notice", COMMIT]) {
        let before = proxy.cut();
        let request = request(account, number, 2);
        proxy.set(Manner::CuttingAnswerTo(cut_at));
        // the second try is cut as well
        let begun = block_on(store.begin_upload(request.clone(), at(0)));
        assert!(matches!(begun, Err(StoreError::Unavailable(_)) | Ok(UploadBegun::Open { .. })), "{begun:?}");
        proxy.set(Manner::Honest);
        let key = open(until_served(|| store.begin_upload(request.clone(), at(0))));
        proxy.set(Manner::CuttingAnswerTo("INSERT INTO uploaded_record"));
        let append = |first| store.append_records(key, first, vec![heard(first), heard(first + 1)]);
        is_served(block_on(append(0)));
        proxy.set(Manner::Honest);
        assert_eq!(until_served(|| append(0)).map(|stored| stored.durable), Some(2));
        assert_eq!(block_on(store.uploaded_records(key, 0, 9, at(0))).unwrap(), [heard(0), heard(1)]);
        let notice = ExposureNotice { from: at(0), to: at(1), advice: number.to_string() };
        let notice = NewNotice { account, notice, forget_at: at(FORGET) };
        let complete = || store.complete_upload(key, UploadSummary::default(), vec![notice.clone()], at(1));
        proxy.set(Manner::CuttingAnswerTo(cut_at));
        is_served(block_on(complete()));
        proxy.set(Manner::Honest);
        let completed = until_served(complete);
        if cut_at == COMMIT {
            assert_eq!(completed, UploadCompleted::Before, "it was committed");
        }
        let told = block_on(store.unread_notices(account, u32::MAX, at(1))).unwrap().unwrap();
        assert_eq!(told.iter().filter(|(_, notice)| notice.advice == number.to_string()).count(), 1);
        assert!(proxy.cut() > before + 1, "{cut_at}");
    }
}

#[test]
fn a_slow_database_is_waited_for_by_a_bounded_line_and_the_others_are_told() {
    let Unsteady { proxy, store, .. } =
        unsteady(PostgresOptions { connections: 2, max_waiting: 6, patience: Duration::from_secs(2), ..options() });
    let account = opened(&store, "alice");
    proxy.set(Manner::Delaying(50, 300));
    let key = open(until_served(|| store.begin_upload(request(account, 1, MAX_UPLOAD_RECORDS), at(0))));
    let (mut durable, mut refused) = (0, 0);
    // every time, more than there is room for
    while durable < 60 || refused < 30 {
        let append = |_| store.append_records(key, durable, (durable..durable + 20).map(heard).collect());
        let mut calls = Box::pin(together((0..20).map(append).collect()));
        let outcomes = block_on(std::future::poll_fn(|context| {
            assert!(store.waiting() <= 6, "{} wait", store.waiting());
            calls.as_mut().poll(context)
        }));
        for outcome in outcomes {
            match outcome {
                Ok(now) => durable = durable.max(now.unwrap().durable),
                Err(StoreError::Unavailable(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    proxy.set(Manner::Honest);
    let stored = block_on(store.uploaded_records(key, 0, u32::MAX, at(1))).unwrap();
    assert_eq!(stored, (0..durable).map(heard).collect::<Vec<_>>());
    assert_eq!(store.waiting(), 0);
}

#[test]
fn a_database_that_answers_nothing_is_given_up_in_time_and_found_again() {
    let Unsteady { proxy, store, .. } = unsteady(PostgresOptions {
        connections: 2,
        max_waiting: 6,
        patience: Duration::from_millis(300),
        answer_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        ..options()
    });
    let account = opened(&store, "alice");
    let key = open(block_on(store.begin_upload(request(account, 1, 1_000), at(0))).unwrap());
    let mut durable = 0;
    for _ in 0..3 {
        proxy.set(Manner::Stalling);
        let asked = Instant::now();
        for _ in 0..5 {
            let append = |_| store.append_records(key, durable, vec![heard(durable)]);
            let outcomes = block_on(together((0..20).map(append).collect()));
            assert!(store.waiting() <= 6);
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(StoreError::Unavailable(_)))), "{outcomes:?}");
        }
        // 5 times half a second, and what a busy machine adds
        assert!(asked.elapsed() < Duration::from_secs(30), "who asks is told soon: {:?}", asked.elapsed());
        proxy.set(Manner::Honest);
        // what was stalled may have been done, and is done once
        durable = until_served(|| store.append_records(key, durable, vec![heard(durable)])).unwrap().durable;
        wait_until("no connection is left but those that are used", || proxy.open() <= 2);
    }
    assert_eq!(durable, 3);
    assert_eq!(block_on(store.uploaded_records(key, 0, 9, at(1))).unwrap(), (0..3).map(heard).collect::<Vec<_>>());
}

/// Each try to connect has its time, and leaves nothing behind.
#[test]
fn a_database_that_stalls_while_it_is_connected_to_is_left_with_no_connection() {
    let connect_timeout = Duration::from_millis(100);
    let Unsteady { proxy, store, database } = unsteady(PostgresOptions { connect_timeout, ..options() });
    let account = opened(&store, "alice");
    // what there is of connections is ended, and each new one is let in and then told nothing
    CLUSTER.sql(
        &database,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                            WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    proxy.set(Manner::StallingAt("current_setting('synchronous_commit')"));
    let mut refused = 0;
    while refused < 10 {
        match block_on(store.unread_notices(account, 1, at(0))) {
            Err(StoreError::Unavailable(text)) if text.contains("does not answer") => refused += 1,
            Err(StoreError::Unavailable(_)) => {}
            outcome => panic!("{outcome:?}"),
        }
        // the next is tried after a quarter of a second
        thread::sleep(Duration::from_millis(250));
    }
    wait_until("no connection is left", || proxy.open() == 0);
    proxy.set(Manner::Honest);
    until_served(|| store.unread_notices(account, 1, at(0)));
}

#[test]
fn a_rollback_that_is_not_answered_takes_no_connection_with_it() {
    let answer_timeout = Duration::from_millis(500);
    let Unsteady { proxy, store, .. } = unsteady(PostgresOptions { connections: 1, answer_timeout, ..options() });
    let account = opened(&store, "alice");
    proxy.set(Manner::StallingAt("ROLLBACK"));
    let too_many = request(account, 1, MAX_UPLOAD_RECORDS + 1);
    let outcome = in_time(store.begin_upload(too_many, at(0)));
    assert!(matches!(outcome, Err(StoreError::Failed(_))), "{outcome:?}");
    in_time(store.unread_notices(account, 1, at(0))).unwrap();
    wait_until("no connection is left but the one that is used", || proxy.open() <= 1);
}

/// A store whose only way to its database is through a proxy.
struct Unsteady {
    proxy: Proxy,
    store: PostgresStore,
    database: String,
}

fn unsteady(options: PostgresOptions) -> Unsteady {
    let (proxy, database) = (Proxy::before(CLUSTER.folder()), CLUSTER.database());
    let place = PostgresPlace::parse(&proxy.url(&database), None).unwrap();
    Unsteady { store: PostgresStore::open(place, options, "mark", [1; 32]).unwrap(), proxy, database }
}

/// Uploads so many records of its own, in parts, and completes that with a notice, as often as it takes.
fn upload(store: &PostgresStore, account: AccountId, number: u32, met: AccountId) {
    let key = open(until_served(|| store.begin_upload(request(account, number, RECORDS), at(0))));
    let mut durable = 0;
    while durable < RECORDS {
        let records = || (durable..(durable + 30).min(RECORDS)).map(|place| heard(RECORDS * number + place)).collect();
        let now = until_served(|| store.append_records(key, durable, records())).unwrap().durable;
        assert!(now > durable);
        durable = now;
    }
    let advice = format!("{account:?} {number}");
    let notice = ExposureNotice { from: at(0), to: at(1), advice };
    let notice = NewNotice { account: met, notice, forget_at: at(FORGET) };
    let completed = until_served(|| store.complete_upload(key, UploadSummary::default(), vec![notice.clone()], at(1)));
    assert_ne!(completed, UploadCompleted::NoUpload);
}

/// The outcome of a call, if it has one.
fn in_time<T>(call: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await.unwrap() })
}

/// What comes of a call in the end. In between it may be that nobody can be served, and nothing else.
fn until_served<'a, T>(call: impl Fn() -> StoreFuture<'a, T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = is_served(block_on(call())) {
            return answer;
        }
        assert!(Instant::now() < deadline, "it was never served again");
        thread::yield_now();
    }
}

fn is_served<T>(outcome: Result<T, StoreError>) -> Option<T> {
    match outcome {
        Ok(answer) => Some(answer),
        Err(StoreError::Unavailable(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn options() -> PostgresOptions {
    PostgresOptions { requires_durability: false, ..PostgresOptions::default() }
}

fn opened(store: &PostgresStore, username: &str) -> AccountId {
    let hash = PasswordHash("hash".into());
    let opened = block_on(store.open_account(name(username), hash, PasswordSource::Operator, at(0))).unwrap();
    let AccountOpened::Opened(account) = opened else { panic!("{opened:?}") };
    account
}

fn open(begun: UploadBegun) -> UploadKey {
    let UploadBegun::Open { key, .. } = begun else { panic!("{begun:?}") };
    key
}

fn request(account: AccountId, number: u32, records: u32) -> UploadRequest {
    let upload = UploadId::parse(&number.to_string()).unwrap();
    UploadRequest { account, upload, records, forget_at: at(FORGET), code: CodeCheck::NotRequired }
}

fn name(username: &str) -> Username {
    Username::parse(username).unwrap()
}

fn record(number: u32) -> Record {
    let temp_id = TempId::parse(&format!("{number:020}")).unwrap();
    Record { temp_id, window: Window::new(at(0), at(899)).unwrap() }
}

fn heard(number: u32) -> Uploaded {
    Uploaded::Record(UploadedRecord { record: record(number), received: None, rssi: None, seen: None })
}

/// So many seconds after the begin of a test.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_589_328_000 + seconds).unwrap()
}

const FORGET: i64 = 1_000;

const RULE: Lockout = Lockout { max_failures: 3, block_duration_s: 60 };

/// As it is sent, and not in `READ COMMITTED`.
const COMMIT: &str = "COMMIT\0";

/// How many upload at once.
const UPLOADERS: u32 = 6;

/// How many records an upload has.
const RECORDS: u32 = 200;

/// How many connections are cut at the least.
const CUTS: usize = 100;

/// Longer than anything here takes on a busy machine: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_mins(1);
