//! The store in SQLite keeps the laws of every store, and what it has acknowledged, whatever happens to its file.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics where something is not as it should be")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bluetrace_authority::conformance::{block_on, together};
use bluetrace_authority::store::{
    AccountId, AccountOpened, CodeCheck, Confirmation, Lockout, LoginRecorded, NewOneTimeCode, NumberHash, OneTimeHash,
    PasswordHash, PasswordSource, RegistrationConfirmed, RegistrationLimits, Store, StoreError, TempIdsIssued,
    UploadBegun, UploadKey, UploadRequest, Verdict,
};
use bluetrace_protocol::{Moment, Record, TempId, Timestamp, UploadId, Uploaded, UploadedRecord, Username, Window};
use bluetrace_server::sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

mod laws {
    bluetrace_authority::store_conformance!(super::fresh());
}

#[test]
fn what_is_acknowledged_is_there_after_reopening() {
    let (folder, store) = fresh();
    let alice = opened(&store, "alice");
    let key = begun(&store, alice, 9);
    block_on(store.append_records(key, 0, vec![heard(1), Uploaded::Malformed])).unwrap();
    block_on(store.note_import("credentials", "note".into())).unwrap();
    drop(store);
    let store = SqliteStore::open(&database(&folder)).unwrap();
    assert_eq!(block_on(store.uploaded_records(key, 0, 9, at(1))).unwrap(), [heard(1), Uploaded::Malformed]);
    assert_eq!(
        block_on(store.append_records(key, 1, vec![heard(8), heard(3)])).unwrap().map(|stored| stored.durable),
        Some(3)
    );
    assert_eq!(block_on(store.import_note("credentials")).unwrap().as_deref(), Some("note"));
    assert!(opened(&store, "bob") > alice);
}

#[test]
fn what_is_acknowledged_does_not_wait_for_a_clean_end() {
    let (folder, store) = fresh();
    let alice = opened(&store, "alice");
    let key = begun(&store, alice, 9);
    assert_eq!(block_on(store.append_records(key, 0, vec![heard(1)])).unwrap().map(|stored| stored.durable), Some(1));
    assert_eq!(what_a_crash_leaves(&folder, key), [heard(1)]);
}

#[test]
fn a_log_that_is_given_its_size_keeps_what_is_in_it_and_what_comes_after() {
    let (folder, store) = fresh();
    let log = || fs::metadata(folder.path().join("authority.sqlite-wal")).unwrap().len();
    let alice = opened(&store, "alice");
    let key = begun(&store, alice, 9);
    let before = log();
    block_on(store.reserve_log()).unwrap();
    let reserved = log();
    assert!(reserved > before && reserved > 16 << 20, "{before} {reserved}");
    assert_eq!(what_a_crash_leaves(&folder, key), []);
    assert_eq!(block_on(store.append_records(key, 0, vec![heard(1)])).unwrap().map(|stored| stored.durable), Some(1));
    assert_eq!(what_a_crash_leaves(&folder, key), [heard(1)]);
    block_on(store.reserve_log()).unwrap();
    assert_eq!(block_on(store.append_records(key, 1, vec![heard(2)])).unwrap().map(|stored| stored.durable), Some(2));
    assert_eq!(what_a_crash_leaves(&folder, key), [heard(1), heard(2)]);
    assert_eq!(log(), reserved, "it need not grow again");
}

#[test]
fn a_closed_store_has_finished_what_was_queued_and_says_that_it_is_closed() {
    let (folder, store) = fresh();
    let alice = opened(&store, "alice");
    let mut calls: Vec<_> = (0..50).map(|n| store.issue_temp_ids(alice, vec![record(n)], at(100))).collect();
    // polled once, a call is queued
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for call in &mut calls {
        let _ready = call.as_mut().poll(&mut context);
    }
    drop(calls);
    store.close();
    assert!(matches!(block_on(store.expire(at(0))), Err(StoreError::Unavailable(_))));
    assert!(matches!(block_on(store.temp_ids(None, 9, at(0))), Err(StoreError::Unavailable(_))));
    assert!(fs::metadata(folder.path().join("authority.sqlite-wal")).map_or(true, |log| log.len() == 0));
    let store = SqliteStore::open(&database(&folder)).unwrap();
    assert_eq!(block_on(store.temp_ids(None, 99, at(1))).unwrap().len(), 50);
}

#[test]
fn a_kill_at_any_moment_loses_and_doubles_nothing() {
    for round in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let mut child = child("appends_until_it_is_killed", &folder);
        let mut acknowledged = 0;
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let Some(durable) = line.strip_prefix("durable ") else { continue };
            acknowledged = durable.parse().unwrap();
            // a different number of appends and moment of the writer's each time
            if acknowledged > 20 + round * 171 {
                child.0.kill().unwrap();
                // what it wrote before it died is acknowledged too: read to the end
            }
        }
        child.0.wait().unwrap();
        assert!(acknowledged > 20);
        let store = SqliteStore::open(&database(&folder)).unwrap();
        let row = block_on(store.uploads(None, 9, at(1))).unwrap().remove(0);
        assert!(row.durable >= acknowledged, "acknowledged {acknowledged}, durable {}", row.durable);
        let stored = block_on(store.uploaded_records(row.key, 0, u32::MAX, at(1))).unwrap();
        assert_eq!(stored, (0..u64::from(row.durable)).map(heard).collect::<Vec<_>>());
        // an append is all or nothing, and one repeats what may not have arrived
        let again = (u64::from(acknowledged)..u64::from(acknowledged) + 500).map(heard).collect();
        assert_eq!(
            block_on(store.append_records(row.key, acknowledged, again)).unwrap().map(|stored| stored.durable),
            Some(acknowledged + 500)
        );
    }
}

#[test]
#[ignore = "the child of a_kill_at_any_moment_loses_and_doubles_nothing"]
fn appends_until_it_is_killed() {
    let Some(store) = store_of_the_parent() else { return };
    block_on(store.reserve_log()).unwrap();
    let key = begun(&store, opened(&store, "alice"), 1_000_000);
    let mut durable = 0;
    while durable < 1_000_000 {
        let size = u64::from(durable) % 7 * 5 + 1;
        let records = (u64::from(durable)..u64::from(durable) + size).map(heard).collect();
        durable = block_on(store.append_records(key, durable, records)).unwrap().unwrap().durable;
        println!("durable {durable}");
    }
}

#[test]
fn a_full_disk_is_said_undoes_all_and_is_got_over() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { max_pages: Some(200), ..SqliteOptions::default() };
    let store = SqliteStore::open_with(&database(&folder), options).unwrap();
    let alice = opened(&store, "alice");
    let key = begun(&store, alice, 1_000_000);
    let mut durable = 0;
    let text = loop {
        let calls = (0..4).map(|call| {
            let first = durable + call * 100;
            store.append_records(key, first, (u64::from(first)..u64::from(first) + 100).map(heard).collect())
        });
        let outcomes = block_on(together(calls.collect()));
        let before = durable;
        let mut text = None;
        for outcome in outcomes {
            match outcome {
                Ok(now_durable) => durable = now_durable.unwrap().durable,
                Err(StoreError::Unavailable(reason)) => text = Some(reason),
                // the calls behind one that found no room
                Err(StoreError::Failed(_)) => assert!(text.is_some()),
            }
        }
        assert!(durable < 1_000_000 && (durable > before || text.is_some()));
        if let Some(text) = text {
            break text;
        }
    };
    assert!(text.contains("authority.sqlite") && text.contains("free some space") && !text.contains('\n'), "{text}");
    let stored = block_on(store.uploaded_records(key, 0, u32::MAX, at(1))).unwrap();
    assert_eq!(stored, (0..u64::from(durable)).map(heard).collect::<Vec<_>>(), "what was acknowledged, and no more");
    while block_on(store.expire(at(FORGET))).unwrap().more {}
    let again = begun(&store, alice, 1_000);
    assert_eq!(
        block_on(store.append_records(again, 0, (0..1_000).map(heard).collect())).unwrap().map(|stored| stored.durable),
        Some(1_000)
    );
}

#[test]
fn a_call_that_sqlite_refuses_fails_alone() {
    let (folder, store) = fresh();
    let alice = opened(&store, "alice");
    let other = Connection::open(database(&folder)).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER t BEFORE INSERT ON import_note BEGIN SELECT RAISE(ABORT, 'no'); END; BEGIN IMMEDIATE;",
        )
        .unwrap();
    let mut refused = store.note_import("file", "note".into());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut calls: Vec<_> = (0..20).map(|number| store.issue_temp_ids(alice, vec![record(number)], at(9))).collect();
    for call in &mut calls[..10] {
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    assert!(refused.as_mut().poll(&mut context).is_pending());
    for call in &mut calls[10..] {
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    // until here the writer waits for the other one, so that the calls make one or two groups
    other.execute_batch("COMMIT").unwrap();
    assert!(matches!(block_on(refused), Err(StoreError::Failed(_))));
    let outcomes = block_on(together(calls));
    assert!(outcomes.into_iter().all(|outcome| matches!(outcome, Ok(TempIdsIssued::Issued))));
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = "not a database, but a letter to someone. ".repeat(200);
    fs::write(database(&folder), &text).unwrap();
    assert_refused(&folder, "restore it from a backup");
    assert_eq!(fs::read_to_string(database(&folder)).unwrap(), text);
}

#[test]
fn damage_within_the_database_is_said() {
    let (folder, store) = fresh();
    let key = begun(&store, opened(&store, "alice"), 50_000);
    block_on(store.append_records(key, 0, (0..50_000).map(heard).collect())).unwrap();
    drop(store);
    let mut bytes = fs::read(database(&folder)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xa5);
    fs::write(database(&folder), bytes).unwrap();
    match SqliteStore::open(&database(&folder)) {
        Err(error) => assert!(error.to_string().contains("backup"), "{error}"),
        Ok(store) => match block_on(store.uploaded_records(key, 0, u32::MAX, at(1))) {
            Err(StoreError::Failed(text)) => {
                assert!(text.contains("authority.sqlite is damaged") && text.contains("backup"), "{text}");
            }
            other => panic!("damage was passed over: {other:?}"),
        },
    }
}

#[test]
fn of_a_removed_account_no_name_stays_in_any_file() {
    let (folder, store) = fresh();
    let name = "someone-who-withdrew";
    opened(&store, "alice");
    opened(&store, name);
    let is_anywhere = || {
        fs::read_dir(folder.path()).unwrap().any(|file| {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            memchr::memmem::find(&bytes, name.as_bytes()).is_some()
        })
    };
    assert!(is_anywhere());
    assert!(block_on(store.remove_account(Username::parse(name).unwrap())).unwrap());
    assert!(!is_anywhere());
}

#[cfg(unix)]
#[test]
fn nothing_is_acknowledged_that_would_be_written_to_a_deleted_or_replaced_file() {
    for name in ["authority.sqlite", "authority.sqlite-wal"] {
        let (folder, store) = fresh();
        let alice = opened(&store, "alice");
        let key = begun(&store, alice, 9);
        let (file, aside) = (folder.path().join(name), folder.path().join("aside"));
        let append = |first| block_on(store.append_records(key, first, vec![heard(1)]));
        assert_eq!(append(0).unwrap().map(|stored| stored.durable), Some(1));
        fs::rename(&file, &aside).unwrap();
        for _ in 0..2 {
            let Err(StoreError::Unavailable(text)) = append(1) else { panic!("{name} is gone, and it goes on") };
            assert!(text.contains("moved, deleted or replaced"), "{text}");
        }
        fs::write(&file, "another").unwrap();
        assert!(matches!(append(1), Err(StoreError::Unavailable(_))), "{name} is another, and it goes on");
        fs::rename(&aside, &file).unwrap();
        assert_eq!(append(1).unwrap().map(|stored| stored.durable), Some(2), "it was put back");
        drop(store);
        let store = SqliteStore::open(&database(&folder)).unwrap();
        assert_eq!(block_on(store.uploaded_records(key, 0, 9, at(1))).unwrap().len(), 2);
    }
}

#[test]
fn a_database_of_version_1_is_brought_up_to_date_and_keeps_its_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let old = Connection::open(database(&folder)).unwrap();
    old.execute_batch(include_str!("../src/sqlite/schema_1.sql")).unwrap();
    let until = at(60);
    old.execute(
        "INSERT INTO account (username, password_hash, created, blocked_until) VALUES ('alice', 'hash', ?1, ?2)",
        [at(0).as_unix(), until.as_unix()],
    )
    .unwrap();
    old.execute(
        "INSERT INTO account (username, password_hash, created, in_a_row) VALUES ('bob', 'hash', ?1, 2)",
        [at(0).as_unix()],
    )
    .unwrap();
    old.execute(
        "INSERT INTO stranger (username, in_a_row, blocked_until, forget_at) VALUES ('mallory', 0, ?1, ?2)",
        [until.as_unix(), at(86_400).as_unix()],
    )
    .unwrap();
    old.pragma_update(None, "application_id", 0x426c_5472).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);

    let until = Moment::from(until);
    // the second opening finds nothing left to do
    for _ in 0..2 {
        let store = SqliteStore::open(&database(&folder)).unwrap();
        for name in ["alice", "mallory"] {
            let state = |now| block_on(store.login_state(Username::parse(name).unwrap(), now)).unwrap();
            assert_eq!(state(at(1).into()).blocked_until, Some(until), "{name}");
            assert_eq!(state(until.plus_ms(-1)).blocked_until, Some(until), "{name}");
            assert_eq!(state(until).blocked_until, None, "{name}");
        }
    }
    let store = SqliteStore::open(&database(&folder)).unwrap();
    let rule = Lockout { max_failures: 3, block_duration_s: 60 };
    let (bob, third) = (Username::parse("bob").unwrap(), Moment::from(at(0)).plus_ms(1));
    let recorded = block_on(store.record_login(bob, Verdict::Wrong, rule, third)).unwrap();
    assert_eq!(recorded, LoginRecorded::BlockedNow { until: third.plus_ms(60_000) }, "failures are counted on");
    drop(store);
    let version = Connection::open(database(&folder)).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0));
    assert_eq!(version, Ok(6));
}

#[test]
fn an_account_of_a_database_of_version_4_is_not_let_to_whoever_proves_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let old = Connection::open(database(&folder)).unwrap();
    for schema in [
        include_str!("../src/sqlite/schema_1.sql"),
        include_str!("../src/sqlite/schema_2.sql"),
        include_str!("../src/sqlite/schema_3.sql"),
        include_str!("../src/sqlite/schema_4.sql"),
    ] {
        old.execute_batch(schema).unwrap();
    }
    for (number, hash) in [("+6591234567", Some("hash")), ("+6591234568", None)] {
        old.execute("INSERT INTO account (username, password_hash, created) VALUES (?1, ?2, 0)", (number, hash))
            .unwrap();
    }
    old.pragma_update(None, "application_id", 0x426c_5472).unwrap();
    old.pragma_update(None, "user_version", 4).unwrap();
    drop(old);

    let store = SqliteStore::open(&database(&folder)).unwrap();
    let limits = RegistrationLimits { lifetime_s: 9, pause_s: 1, window_s: 9, max_sent: 1, max_made: 1, max_wrong: 1 };
    let register = |number: u8| {
        let (username, hash) = (format!("+659123456{number}"), OneTimeHash([number; 32]));
        let (username, number) = (Username::parse(&username).unwrap(), NumberHash([number; 32]));
        block_on(store.make_one_time_code(NewOneTimeCode { number, hash, limits }, at(0))).unwrap();
        let confirmation = Confirmation { number, username, hash, password: None, limits };
        block_on(store.confirm_registration(confirmation, at(1))).unwrap()
    };
    assert_eq!(register(7), RegistrationConfirmed::NotTheNumbers);
    assert!(matches!(register(8), RegistrationConfirmed::Known { token_epoch: 0, .. }));
    assert!(matches!(register(9), RegistrationConfirmed::Opened(_)));
}

#[test]
fn a_newer_schema_is_refused_with_the_way_out() {
    let (folder, store) = fresh();
    drop(store);
    Connection::open(database(&folder)).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_refused(&folder, "written by a newer version of this program (schema 99, this one knows 6)");
}

#[test]
fn another_programs_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let other = Connection::open(database(&folder)).unwrap();
    other.execute_batch("CREATE TABLE recipe (name TEXT)").unwrap();
    drop(other);
    let before = fs::read(database(&folder)).unwrap();
    assert_refused(&folder, "belongs to another program");
    assert_eq!(fs::read(database(&folder)).unwrap(), before);
}

#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().join("authority.sqlite");
    let error = SqliteStore::open(&path).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()) && error.contains("permissions"), "{error}");
}

#[cfg(unix)]
#[test]
fn its_owner_alone_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("data");
    let store = SqliteStore::open(&folder.join("authority.sqlite")).unwrap();
    opened(&store, "alice");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.path().display());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["authority.sqlite", "authority.sqlite-shm", "authority.sqlite-wal"]);
}

#[test]
fn another_process_may_write_at_the_same_time() {
    let (folder, store) = fresh();
    let mut child = child("opens_accounts", &folder);
    let own: Vec<_> = (0..200).map(|number| opened(&store, &format!("own-{number}"))).collect();
    let output = BufReader::new(child.0.stdout.take().unwrap());
    assert_eq!(output.lines().map_while(Result::ok).filter(|line| line == "opened 200").count(), 1);
    assert!(child.0.wait().unwrap().success());
    assert_eq!(block_on(store.accounts(None, u32::MAX, at(1).into())).unwrap().len(), 400);
    let mut distinct = own.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), 200);
    assert_eq!(block_on(store.issue_temp_ids(own[0], vec![record(1)], at(9))).unwrap(), TempIdsIssued::Issued);
}

#[test]
#[ignore = "the child of another_process_may_write_at_the_same_time"]
fn opens_accounts() {
    let Some(store) = store_of_the_parent() else { return };
    for number in 0..200 {
        opened(&store, &format!("other-{number}"));
    }
    println!("opened 200");
}

#[test]
fn several_may_make_the_same_file_at_once() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = database(&folder);
        thread::scope(|scope| {
            for number in 0..4 {
                let path = &path;
                scope.spawn(move || opened(&SqliteStore::open(path).unwrap(), &format!("user-{number}")));
            }
        });
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(block_on(store.accounts(None, 9, at(1).into())).unwrap().len(), 4);
    }
}

#[test]
fn a_writer_that_holds_on_makes_the_store_unavailable_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { busy_timeout: Duration::from_millis(20), ..SqliteOptions::default() };
    let store = SqliteStore::open_with(&database(&folder), options).unwrap();
    let alice = opened(&store, "alice");
    let other = Connection::open(database(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    match block_on(store.issue_temp_ids(alice, vec![record(1)], at(9))) {
        Err(StoreError::Unavailable(text)) => assert!(text.contains("another program is writing"), "{text}"),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(block_on(store.accounts(None, 9, at(1).into())).unwrap().len(), 1, "reading goes on");
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(block_on(store.issue_temp_ids(alice, vec![record(1)], at(9))).unwrap(), TempIdsIssued::Issued);
}

#[test]
fn more_calls_than_the_queue_has_room_for_are_all_answered() {
    let (_folder, store) = fresh();
    let alice = opened(&store, "alice");
    let calls = (0..20).map(|call| {
        let ids = (0..2_000).map(|number| record(call * 2_000 + number)).collect();
        store.issue_temp_ids(alice, ids, at(100))
    });
    let outcomes = block_on(together(calls.collect()));
    assert_eq!(outcomes.len(), 20);
    assert!(outcomes.into_iter().all(|outcome| matches!(outcome, Ok(TempIdsIssued::Issued))));
}

#[test]
fn a_call_that_nobody_waits_for_harms_no_other() {
    let (_folder, store) = fresh();
    let alice = opened(&store, "alice");
    for number in 0..100 {
        let mut call = store.issue_temp_ids(alice, vec![record(number)], at(100));
        let _ready = call.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    }
    assert_eq!(block_on(store.issue_temp_ids(alice, vec![record(100)], at(100))).unwrap(), TempIdsIssued::Issued);
    assert_eq!(block_on(store.temp_ids(None, 999, at(1))).unwrap().len(), 101);
}

fn fresh() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&database(&folder)).unwrap();
    (folder, store)
}

fn database(folder: &TempDir) -> PathBuf {
    folder.path().join("authority.sqlite")
}

fn assert_refused(folder: &TempDir, why: &str) {
    let error = SqliteStore::open(&database(folder)).unwrap_err().to_string();
    assert!(error.contains(&database(folder).display().to_string()), "{error}");
    assert!(error.contains(why) && !error.contains('\n'), "{error}");
}

/// A process that ends with the test, however that ends.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Runs one of the ignored tests of this file in a process of its own, on the database in `folder`.
fn child(test: &str, folder: &TempDir) -> Ending {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", folder.path().display()).unwrap();
    Ending(child)
}

/// The store whose folder stands on standard input; `None` if nothing does within a second.
fn store_of_the_parent() -> Option<SqliteStore> {
    let (sender, line) = mpsc::channel();
    thread::spawn(move || sender.send(std::io::stdin().lines().next()));
    let folder = line.recv_timeout(Duration::from_secs(1)).ok()??.ok()?;
    SqliteStore::open(&Path::new(&folder).join("authority.sqlite")).ok()
}

/// The records that are found in a copy of the files of an open store.
fn what_a_crash_leaves(folder: &TempDir, key: UploadKey) -> Vec<Uploaded> {
    // what a second opener sees is what the first one's death would leave
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "authority.sqlite-shm" {
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    let second = SqliteStore::open(&database(&copy)).unwrap();
    block_on(second.uploaded_records(key, 0, 9, at(1))).unwrap()
}

fn opened(store: &SqliteStore, name: &str) -> AccountId {
    let name = Username::parse(name).unwrap();
    let hash = PasswordHash("hash".into());
    match block_on(store.open_account(name, hash, PasswordSource::Operator, at(0))).unwrap() {
        AccountOpened::Opened(id) | AccountOpened::Exists(id) => id,
    }
}

fn begun(store: &SqliteStore, account: AccountId, records: u32) -> UploadKey {
    let upload = UploadId::parse(&format!("upload-of-{records}")).unwrap();
    let request = UploadRequest { account, upload, records, forget_at: at(FORGET), code: CodeCheck::NotRequired };
    let begun = block_on(store.begin_upload(request, at(0))).unwrap();
    let UploadBegun::Open { key, .. } = begun else { panic!("a new upload: {begun:?}") };
    key
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_589_392_446 + seconds).unwrap()
}

fn record(number: u64) -> Record {
    let temp_id = TempId::parse(&format!("{number:020}")).unwrap();
    Record { temp_id, window: Window::new(at(0), at(899)).unwrap() }
}

fn heard(number: u64) -> Uploaded {
    let rssi = i16::try_from(number % 100).ok();
    Uploaded::Record(UploadedRecord { record: record(number), received: Some(at(5)), rssi, seen: None })
}

/// When uploads are forgotten, in seconds.
const FORGET: i64 = 1_000;
