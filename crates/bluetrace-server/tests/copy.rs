//! Copies of stores: what may be a source and a destination, copies that are broken off, sources that change, and stores that are not whole.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics where something is not as it should be")]

#[path = "support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use bluetrace_authority::passwords::InlinePool;
use bluetrace_authority::store::{
    AccountId, AccountOpened, CodeForm, CodeHash, CodeIssued, CodeLimits, NewNotice, NewOneTimeCode, NewUploadCode,
    NoticeId, NumberHash, OneTimeCodeId, OneTimeCodeMade, OneTimeHash, PasswordHash, PasswordSource,
    RegistrationLimits, Store,
};
use bluetrace_authority::{Authority, MasterKey, Policy, Scheme};
use bluetrace_protocol::{ExposureNotice, Timestamp, UploadSummary, Username};
use bluetrace_server::check::{Checked, check};
use bluetrace_server::copy::{CopyError, CopyOptions, Place, Progress, copy};
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};
use bluetrace_server::sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::postgres::CLUSTER;

static KEY: LazyLock<MasterKey> = LazyLock::new(|| MasterKey::new([7; 32]));

#[test]
fn a_copy_that_is_broken_off_goes_on_where_it_was_and_no_server_starts_on_it() {
    let (source, shared) = (filled(25_000), Shared::new());
    drop(shared.open().unwrap());
    shared.sql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON uploaded_record FOR EACH ROW WHEN (NEW.place = 22000) EXECUTE FUNCTION fail()",
    );
    let refused = run(&source.place(), &shared.place()).unwrap_err();
    assert!(matches!(refused, CopyError::Refused { table: "uploaded_record", .. }), "{refused:?}");
    assert!(refused.to_string().contains("store check") && !refused.to_string().contains("defect"), "{refused}");
    assert_eq!(shared.sql("SELECT count(*) FROM uploaded_record"), "20000", "what was copied is kept");
    let refused = shared.open().unwrap_err().to_string();
    assert!(refused.contains("unfinished copy") && refused.contains("store copy"), "{refused}");
    let refused = run(&shared.place(), &Folder::new().place()).unwrap_err().to_string();
    assert!(refused.contains("unfinished copy"), "{refused}");
    let other = filled(1);
    assert!(matches!(run(&other.place(), &shared.place()), Err(CopyError::OtherSource { .. })));

    // a row that was copied would be refused a second time
    shared
        .sql("DROP TRIGGER fail ON uploaded_record; ALTER TABLE uploaded_record ADD CHECK (place >= 20000) NOT VALID");
    let tables = run(&source.place(), &shared.place()).unwrap();
    assert!(tables.contains(&("uploaded_record", 25_000)) && tables.contains(&("notice", 1)), "{tables:?}");
    shared.sql("ALTER TABLE uploaded_record DROP CONSTRAINT uploaded_record_place_check");
    drop(shared.open().unwrap());
    assert!(matches!(run(&source.place(), &shared.place()), Err(CopyError::NotEmpty { .. })), "it is a store now");

    let back = Folder::new();
    run(&shared.place(), &back.place()).unwrap();
    assert_eq!(checked(&shared.place()).findings, []);
    assert_eq!(checked(&back.place()).findings, []);
    assert_eq!(checked(&back.place()).tables, checked(&source.place()).tables);
}

#[test]
fn a_source_that_has_changed_meanwhile_is_found_and_copied_anew() {
    let (source, shared) = (filled(10), Shared::new());
    drop(shared.open().unwrap());
    shared.sql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON notice EXECUTE FUNCTION fail()",
    );
    run(&source.place(), &shared.place()).unwrap_err();
    shared.sql("DROP TRIGGER fail ON notice");
    source.sql("UPDATE uploaded_record SET rssi = -1 WHERE place & 1048575 = 5");
    let found = run(&source.place(), &shared.place()).unwrap_err();
    assert!(matches!(found, CopyError::Differs { table: "uploaded_record", .. }), "{found:?}");
    assert!(found.to_string().contains("run the same command again"), "{found}");
    assert!(found.to_string().contains("rows in both, and not the same ones"), "{found}");
    run(&source.place(), &shared.place()).unwrap();
    assert_eq!(shared.sql("SELECT rssi FROM uploaded_record WHERE place = 5"), "-1");
}

/// What comes later has no place beside what was copied.
#[test]
fn a_copy_that_cannot_go_on_because_something_has_changed_meanwhile_is_begun_anew() {
    let records_of_an_upload_that_came_later = format!(
        "INSERT INTO upload (id, account, name, records, begun, forget_at) VALUES (8, 1, 'u-2', 1, 9, {LATER});
         INSERT INTO uploaded_record (place, temp_id, start, expiry) VALUES (8 << 20, '00000000000000000007', 10, 900)"
    );
    for (table, in_source, in_copy) in [
        ("uploaded_record", &*records_of_an_upload_that_came_later, ""),
        ("import_note", "", "INSERT INTO import_note VALUES ('file', 'there already')"),
    ] {
        let (source, shared, folder) = (filled(10), Shared::new(), Folder::new());
        drop(shared.open().unwrap());
        shared.sql("ALTER TABLE uploaded_record ADD CONSTRAINT broken CHECK (place < 7)");
        drop(SqliteStore::open(&folder.database()).unwrap());
        folder.sql(
            "CREATE TRIGGER fail BEFORE INSERT ON uploaded_record WHEN NEW.place & 1048575 = 7
             BEGIN SELECT RAISE(ABORT, 'broken'); END",
        );
        for to in [shared.place(), folder.place()] {
            assert!(matches!(run(&source.place(), &to), Err(CopyError::Refused { .. })));
        }
        shared.sql(&format!("ALTER TABLE uploaded_record DROP CONSTRAINT broken; {in_copy}"));
        folder.sql(&format!("DROP TRIGGER fail; {in_copy}"));
        source.sql(in_source);
        for to in [shared.place(), folder.place()] {
            let found = run(&source.place(), &to).unwrap_err();
            assert!(matches!(found, CopyError::Changed { table: found } if found == table), "{found:?}");
            assert_eq!(run(&source.place(), &to).unwrap(), checked(&source.place()).tables);
        }
    }
}

#[test]
fn a_copy_that_is_broken_off_in_sqlite_is_no_store_and_goes_on_too() {
    let (source, shared, folder) = (filled(30_000), Shared::new(), Folder::new());
    run(&source.place(), &shared.place()).unwrap();
    drop(SqliteStore::open(&folder.database()).unwrap());
    folder.sql(
        "CREATE TRIGGER fail BEFORE INSERT ON uploaded_record WHEN NEW.place & 1048575 = 22000
         BEGIN SELECT RAISE(ABORT, 'broken'); END",
    );
    run(&shared.place(), &folder.place()).unwrap_err();
    let refused = SqliteStore::open(&folder.database()).unwrap_err().to_string();
    assert!(refused.contains("unfinished copy"), "{refused}");
    folder.sql(
        "DROP TRIGGER fail;
         CREATE TRIGGER fail BEFORE INSERT ON uploaded_record WHEN NEW.place & 1048575 < 20000
         BEGIN SELECT RAISE(ABORT, 'twice'); END",
    );
    run(&shared.place(), &folder.place()).unwrap();
    folder.sql("DROP TRIGGER fail");
    drop(SqliteStore::open(&folder.database()).unwrap());
    assert_eq!(checked(&folder.place()).findings, []);
}

#[test]
fn only_a_place_that_fits_is_a_source_or_a_destination() {
    let (source, shared) = (filled(1), Shared::new());
    assert!(matches!(run(&source.place(), &source.place()), Err(CopyError::SamePlace)));
    assert!(matches!(run(&shared.place(), &Folder::new().place()), Err(CopyError::NoStore { .. })));
    let file = tempfile::NamedTempFile::new().unwrap();
    let unusable = Place::Folder(DataFolder::open_existing(file.path()));
    assert!(
        matches!(run(&unusable, &shared.place()), Err(CopyError::Folder(_))),
        "whether a store is there is not known"
    );
    let empty = tempfile::tempdir().unwrap();
    let without_key = Place::Folder(DataFolder::open_existing(empty.path()));
    assert!(matches!(run(&source.place(), &without_key), Err(CopyError::NoMasterKey { .. })));
    assert!(!empty.path().join("authority.sqlite").exists());
    fs::write(empty.path().join("master.key"), "08".repeat(32)).unwrap();
    assert!(matches!(run(&source.place(), &without_key), Err(CopyError::OtherMasterKey { .. })));
    assert!(!empty.path().join("authority.sqlite").exists());
    assert!(matches!(run(&source.place(), &filled(1).place()), Err(CopyError::NotEmpty { .. })));

    let lock = source.folder().lock_for_server().unwrap();
    assert!(run(&source.place(), &shared.place()).unwrap_err().to_string().contains("in use by another server"));
    let nowhere = Place::Folder(DataFolder::open_existing(empty.path().join("nowhere")));
    assert!(matches!(run(&nowhere, &shared.place()), Err(CopyError::NoFolder { .. })));
    drop(lock);
    let store = shared.open().unwrap();
    let refused = run_with(&source.place(), &shared.place(), false).unwrap_err();
    assert!(matches!(refused, CopyError::InUse { .. }), "{refused:?}");
    let named = PostgresPlace::parse(&format!("{}?application_name=copy", CLUSTER.url(&shared.0)), None).unwrap();
    let refused = run_with(&source.place(), &Place::Shared(named), false).unwrap_err();
    assert!(matches!(refused, CopyError::InUse { .. }), "whatever this one calls itself: {refused:?}");
    drop(store);
    run_with(&source.place(), &shared.place(), false).unwrap();

    source.sql("PRAGMA user_version = 99");
    let newer = run(&source.place(), &Shared::new().place()).unwrap_err().to_string();
    assert!(newer.contains("written by a newer version"), "{newer}");
    source.sql("PRAGMA user_version = 5");
    let older = run(&source.place(), &Shared::new().place()).unwrap_err().to_string();
    assert!(older.contains("store migrate"), "{older}");
    shared.sql("UPDATE bluetrace_state SET value = '99' WHERE name = 'schema'");
    assert!(matches!(run(&shared.place(), &Folder::new().place()), Err(CopyError::OtherSchema { found: 99, .. })));
}

#[test]
fn a_destination_of_another_version_is_refused_and_left_as_it_is() {
    let (source, shared, folder) = (filled(1), Shared::new(), Folder::new());
    drop(shared.open().unwrap());
    shared.sql("UPDATE bluetrace_state SET value = '1' WHERE name = 'schema'");
    assert!(matches!(run(&source.place(), &shared.place()), Err(CopyError::OtherSchema { found: 1, .. })));
    assert_eq!(shared.sql("SELECT value FROM bluetrace_state WHERE name = 'schema'"), "1");
    drop(SqliteStore::open(&folder.database()).unwrap());
    folder.sql("PRAGMA user_version = 5");
    let older = run(&source.place(), &folder.place()).unwrap_err().to_string();
    assert!(older.contains("has schema 5"), "{older}");
    assert_eq!(bluetrace_server::sqlite::schema(&folder.database()).unwrap().0, 5);
}

#[test]
fn an_unfinished_copy_of_a_program_that_copied_otherwise_is_not_gone_on_with() {
    let (source, folder) = (filled(10), Folder::new());
    drop(SqliteStore::open(&folder.database()).unwrap());
    folder.sql("CREATE TRIGGER fail BEFORE INSERT ON notice BEGIN SELECT RAISE(ABORT, 'broken'); END");
    assert!(matches!(run(&source.place(), &folder.place()), Err(CopyError::Refused { .. })));
    folder.sql(r#"DROP TRIGGER fail; UPDATE copy_mark SET mark = replace(mark, '"layout":', '"layout":1')"#);
    assert!(matches!(run(&source.place(), &folder.place()), Err(CopyError::OtherVersion { .. })));
}

#[test]
fn no_number_that_the_outside_may_remember_is_given_again_by_a_copy() {
    let (source, shared, back) = (filled(1), Shared::new(), Folder::new());
    // what had the highest numbers is gone
    source.sql(
        "INSERT INTO account (id, username, created) VALUES (9, 'gone', 9); DELETE FROM account WHERE id = 9;
         INSERT INTO notice (id, account, begins, ends, advice, forget_at) VALUES (30, 2, 1, 2, '', 3);
         DELETE FROM notice WHERE id = 30; UPDATE sqlite_sequence SET seq = 40 WHERE name = 'upload_code';
         DELETE FROM one_time_code; UPDATE sqlite_sequence SET seq = 50 WHERE name = 'one_time_code'",
    );
    run(&source.place(), &shared.place()).unwrap();
    let store = shared.open().unwrap();
    assert_eq!(next_code(&store), 41);
    let [old, new] = two_notices(&store);
    assert!(old == 1 && new > 30, "{old} {new}");
    drop(store);

    run(&shared.place(), &back.place()).unwrap();
    let store = SqliteStore::open(&back.database()).unwrap();
    assert_eq!(next_code(&store), 42);
    let account = block_on(store.open_account(name("other"), hash(), PasswordSource::Operator, now())).unwrap();
    assert!(matches!(account, AccountOpened::Opened(AccountId(id)) if id > 9), "{account:?}");
    let (number, hash, limits) = (NumberHash([9; 32]), OneTimeHash([9; 32]), LIMITS);
    let made = block_on(store.make_one_time_code(NewOneTimeCode { number, hash, limits }, now())).unwrap();
    assert_eq!(made, OneTimeCodeMade::Send(OneTimeCodeId(51)));
    let seen = numbers_of_notices(&store);
    assert!(seen.len() == 2 && seen.iter().all(|number| *number > new), "{seen:?}");
    block_on(store.mark_notices_read(AccountId(2), NoticeId(new))).unwrap();
    assert_eq!(numbers_of_notices(&store), seen, "what was seen elsewhere marks nothing here");
}

const LIMITS: RegistrationLimits =
    RegistrationLimits { lifetime_s: 60, pause_s: 10, window_s: 90, max_sent: 2, max_made: 3, max_wrong: 2 };

fn next_code(store: &dyn Store) -> i64 {
    let limits = CodeLimits { window_s: 1, max_wrong_by_account: 1, max_wrong: 1, max_live: 9 };
    let (hash, form, expires) = (CodeHash([fresh_byte(store); 32]), CodeForm::Eight, now().plus(99));
    let (case, issued_by) = (String::new(), String::new());
    let code = NewUploadCode { hash, form, case, issued_by, expires, limits };
    let issued = block_on(store.issue_upload_code(code, now())).unwrap();
    let CodeIssued::Issued(id) = issued else { panic!("{issued:?}") };
    id.0
}

/// A byte that no code here is made of yet.
fn fresh_byte(store: &dyn Store) -> u8 {
    u8::try_from(block_on(store.upload_codes(None, 99, now())).unwrap().len()).unwrap() + 1
}

/// Completes the upload, which leaves a second notice.
fn two_notices(store: &dyn Store) -> [i64; 2] {
    let upload = block_on(store.uploads(None, 9, now())).unwrap().remove(0).key;
    let notice = ExposureNotice { from: now(), to: now(), advice: "stay".into() };
    let notice = NewNotice { account: AccountId(2), notice, forget_at: now().plus(86_400) };
    let summary = UploadSummary { records: 1, resolved: 0, unknown: 1, invalid: 0 };
    block_on(store.complete_upload(upload, summary, vec![notice], now())).unwrap();
    numbers_of_notices(store).try_into().unwrap()
}

fn numbers_of_notices(store: &dyn Store) -> Vec<i64> {
    let unread = block_on(store.unread_notices(AccountId(2), 9, now())).unwrap().unwrap();
    unread.into_iter().map(|(number, _)| number.0).collect()
}

fn name(text: &str) -> Username {
    Username::parse(text).unwrap()
}

fn hash() -> PasswordHash {
    PasswordHash("hash".into())
}

fn now() -> Timestamp {
    Timestamp::from_unix(NOW).unwrap()
}

#[test]
fn what_this_program_could_not_read_is_not_copied() {
    let (source, shared) = (filled(3), Shared::new());
    source.sql("UPDATE account SET user_id = x'00' WHERE id = 1");
    let refused = run(&source.place(), &shared.place()).unwrap_err();
    assert!(matches!(refused, CopyError::Unreadable { table: "account", column: "user_id" }), "{refused:?}");
}

#[test]
fn every_damage_that_is_planted_is_found_in_both_kinds_of_store() {
    let (source, shared) = (filled(9), Shared::new());
    run(&source.place(), &shared.place()).unwrap();
    assert_eq!(checked(&source.place()).findings, []);
    assert_eq!(checked(&shared.place()).findings, []);
    for (damage, in_sqlite, in_postgres) in [
        (
            "1 uploads have other records",
            "DELETE FROM uploaded_record WHERE place & 1048575 = 4",
            "DELETE FROM uploaded_record WHERE place = 4",
        ),
        (
            "1 uploads have more records than were announced",
            "UPDATE upload SET records = 8",
            "UPDATE upload SET records = 8",
        ),
        ("1 complete uploads lack records", "UPDATE upload SET finished = 1", "UPDATE upload SET finished = 1"),
        ("9 records belong to no upload", "DELETE FROM upload", "DELETE FROM upload"),
        (
            "9 records are neither whole nor malformed",
            "UPDATE uploaded_record SET start = NULL",
            "UPDATE uploaded_record SET start = NULL",
        ),
        (
            "1 notices point at no account (the first: 2)",
            "DELETE FROM account WHERE id = 2",
            "DELETE FROM account WHERE id = 2",
        ),
        ("1 uploads belong to no account", "DELETE FROM account WHERE id = 1", "DELETE FROM account WHERE id = 1"),
        ("1 TempIDs belong to no account", "DELETE FROM account WHERE id = 1", "DELETE FROM account WHERE id = 1"),
        (
            "rows of account cannot be read, for their user_id (first: 1)",
            "UPDATE account SET user_id = x'00' WHERE id = 1",
            "UPDATE account SET user_id = '\\x00' WHERE id = 1",
        ),
        ("live sealing keys have no bytes", "DELETE FROM sealing_key_bytes", "DELETE FROM sealing_key_bytes"),
        (
            "does not open sealing keys 1",
            "UPDATE sealing_key_bytes SET wrapped = zeroblob(64)",
            "UPDATE sealing_key_bytes SET wrapped = decode(repeat('00', 64), 'hex')",
        ),
        (
            "counters are behind",
            "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'notice'",
            "UPDATE account SET notices = 0",
        ),
    ] {
        let folder = source.twin();
        folder.sql(in_sqlite);
        assert_finds(&folder.place(), damage);
        let twin = shared.twin();
        twin.sql(in_postgres);
        assert_finds(&twin.place(), damage);
    }
    let folder = source.twin();
    folder.sql("UPDATE tally SET strangers = 7");
    assert_finds(&folder.place(), "counts of unknown usernames are wrong");
    let path = folder.database();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 64].fill(0x55);
    fs::write(path, bytes).unwrap();
    assert_finds(&folder.place(), "the file is damaged");
}

fn assert_finds(place: &Place, damage: &str) {
    let findings = checked(place).findings;
    assert!(findings.iter().any(|finding| finding.found.contains(damage)), "{damage}: {findings:?}");
    assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
}

fn checked(place: &Place) -> Checked {
    let options = CopyOptions { seed: [8; 32], postgres: options(), ignore_connections: true };
    block_on(check(place, &options, &KEY, now(), &Progress::default())).unwrap()
}

fn run(from: &Place, to: &Place) -> Result<Vec<(&'static str, u64)>, CopyError> {
    run_with(from, to, true)
}

fn run_with(from: &Place, to: &Place, ignore_connections: bool) -> Result<Vec<(&'static str, u64)>, CopyError> {
    let options = CopyOptions { seed: [8; 32], postgres: options(), ignore_connections };
    block_on(copy(from, to, &options, &Progress::default()))
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

fn options() -> PostgresOptions {
    PostgresOptions { connections: 1, requires_durability: false, ..PostgresOptions::default() }
}

/// A data folder of the authority's.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("master.key"), KEY.to_hex().as_str()).unwrap();
        Self(folder)
    }

    fn folder(&self) -> DataFolder {
        DataFolder::open_existing(self.0.path())
    }

    fn place(&self) -> Place {
        Place::Folder(self.folder())
    }

    fn database(&self) -> std::path::PathBuf {
        self.folder().database()
    }

    fn sql(&self, statements: &str) {
        Connection::open(self.database()).unwrap().execute_batch(statements).unwrap();
    }

    fn twin(&self) -> Self {
        let twin = Self::new();
        self.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        fs::copy(self.database(), twin.database()).unwrap();
        twin
    }
}

/// A database that servers share.
struct Shared(String);

impl Shared {
    fn new() -> Self {
        Self(CLUSTER.database())
    }

    fn place(&self) -> Place {
        Place::Shared(self.parsed())
    }

    fn parsed(&self) -> PostgresPlace {
        PostgresPlace::parse(&CLUSTER.url(&self.0), None).unwrap()
    }

    fn open(&self) -> Result<PostgresStore, bluetrace_server::postgres::OpenError> {
        PostgresStore::open(self.parsed(), options(), &KEY.mark(), [7; 32])
    }

    fn sql(&self, statements: &str) -> String {
        CLUSTER.sql(&self.0, statements)
    }

    fn twin(&self) -> Self {
        let name = format!("{}_{}", self.0, TWINS.fetch_add(1, Ordering::Relaxed));
        CLUSTER.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {}", self.0));
        Self(name)
    }
}

static TWINS: AtomicU32 = AtomicU32::new(0);

/// The folder of an authority with an unfinished upload of so many records, and a row or more of most other kinds.
fn filled(records: u32) -> Folder {
    let folder = Folder::new();
    let store = Arc::new(SqliteStore::open(&folder.database()).unwrap());
    let policy = Policy { temp_id_scheme: Scheme::Sealed, ..Policy::default() };
    let authority = Authority::new(store, Arc::new(InlinePool), policy, &KEY, [6; 32]);
    block_on(authority.keep_keys(now())).unwrap();
    drop(authority);
    folder.sql(&format!(
        "BEGIN;
         INSERT INTO account (id, username, created) VALUES (1, 'waratah', 9), (2, 'banksia', 9);
         UPDATE account SET user_id = zeroblob(21) WHERE id = 1;
         INSERT INTO stranger (username, in_a_row, forget_at) VALUES ('nobody', 1, {LATER});
         INSERT INTO temp_id VALUES ('00000000000000000001', 1, 10, 900, {LATER});
         INSERT INTO upload (id, account, name, records, begun, forget_at) VALUES (7, 1, 'u-1', {records}, 9, {LATER});
         INSERT INTO uploaded_record (place, temp_id, start, expiry)
             WITH RECURSIVE n (place) AS (SELECT 0 UNION ALL SELECT place + 1 FROM n WHERE place + 1 < {records})
             SELECT (7 << 20) + place, printf('%020d', place), 10, 900 FROM n;
         INSERT INTO notice (account, begins, ends, advice, forget_at) VALUES (2, 10, 20, 'stay', {LATER});
         INSERT INTO revoked_session VALUES (zeroblob(16), {LATER});
         INSERT INTO import_note VALUES ('file', 'note');
         INSERT INTO upload_code (hash, characters, case_name, issued_by, issued, expires, account, redeemed, upload, forget_at)
             VALUES (zeroblob(32), 8, 'case', 'desk', 9, {LATER}, 1, 9, 7, {LATER});
         INSERT INTO wrong_code (account, upload, hash, characters, forget_at) VALUES (1, 'u-1', zeroblob(32), 8, {LATER});
         INSERT INTO handshake_pin VALUES (1, zeroblob(16), {LATER});
         INSERT INTO one_time_code (number, hash, made, expires, forget_at)
             VALUES (zeroblob(32), zeroblob(32), 9, 900, {LATER});
         COMMIT"
    ));
    folder
}

const NOW: i64 = 1_700_000_000;

const LATER: i64 = NOW + 20 * 86_400;
