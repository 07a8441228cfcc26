//! A sealing key that was destroyed is in no file of the store: looked for in the bytes of the files themselves.
#![expect(clippy::unwrap_used, reason = "the helpers fail as their tests do")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bluetrace_authority::conformance::block_on;
use bluetrace_authority::passwords::InlinePool;
use bluetrace_authority::store::{
    KeyTerm, NewSealingKey, PasswordHash, PasswordSource, SealingKeyId, SealingKeyState, Shredded, Store,
    WRAPPED_KEY_BYTES, WrappedKey,
};
use bluetrace_authority::{Authority, MasterKey, Policy, Scheme};
use bluetrace_protocol::{Timestamp, Username};
use bluetrace_server::sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

#[test]
fn the_bytes_of_a_shredded_key_are_in_no_file_and_in_no_later_copy() {
    let (folder, store) = fresh();
    block_on(store.reserve_log()).unwrap();
    let log = || fs::metadata(folder.path().join("authority.sqlite-wal")).unwrap().len();
    let reserved = log();
    for number in 0..KEYS {
        assert!(block_on(store.add_sealing_key(key(number))).unwrap());
        // what else is written moves pages about, and longer numbers move rows
        block_on(store.count_seals((0..=number).map(|id| (SealingKeyId(id), 3 << number.min(40))).collect())).unwrap();
        let username = Username::parse(&format!("user-{number}")).unwrap();
        let hash = PasswordHash("hash".into());
        block_on(store.open_account(username, hash, PasswordSource::Operator, at(0))).unwrap();
    }
    assert!((0..KEYS).all(|number| is_anywhere(folder.path(), number)), "a key that is there can be found");
    for number in (0..KEYS).step_by(EACH) {
        assert_eq!(block_on(store.shred_sealing_key(SealingKeyId(number))).unwrap(), Shredded::Done);
    }
    let backup = tempfile::tempdir().unwrap();
    let other = Connection::open(database(folder.path())).unwrap();
    other.execute("VACUUM INTO ?1", [database(backup.path()).to_str().unwrap()]).unwrap();
    drop(other);
    let copy = copy_of(folder.path());
    for number in 0..KEYS {
        for place in [folder.path(), backup.path(), copy.path()] {
            assert_eq!(is_anywhere(place, number), number % 8 != 0, "key {number} in {}", place.display());
        }
    }
    assert_eq!(log(), reserved, "the log has its size again");
    drop(store);
    assert!((0..KEYS).step_by(EACH).all(|number| !is_anywhere(folder.path(), number)));
    let live = |number| {
        block_on(SqliteStore::open(&database(folder.path())).unwrap().sealing_keys(at(0)))
            .unwrap()
            .remove(number)
            .state
            .is_live()
    };
    assert!(!live(0) && live(1));
}

#[test]
fn a_shred_that_somebody_who_reads_holds_up_is_out_of_reach_and_finished_later() {
    let (folder, store) = fresh();
    block_on(store.add_sealing_key(key(1))).unwrap();
    let other = Connection::open(database(folder.path())).unwrap();
    other.execute_batch("BEGIN; SELECT * FROM sealing_key_bytes").unwrap();
    let shred = |store: &SqliteStore| block_on(store.shred_sealing_key(SealingKeyId(1))).unwrap();
    for _ in 0..2 {
        assert_eq!(shred(&store), Shredded::Unfinished);
        let state = block_on(store.sealing_keys(at(0))).unwrap().remove(0).state;
        assert_eq!(state, SealingKeyState::Shredding, "nobody is given it any more");
    }
    assert!(is_anywhere(folder.path(), 1), "and that is why");
    assert!(block_on(store.add_sealing_key(key(2))).unwrap(), "others go on writing");
    // what a crash at this moment leaves knows that something is left to do, and does it
    let crashed = copy_of(folder.path());
    let reopened = SqliteStore::open(&database(crashed.path())).unwrap();
    assert_eq!(block_on(reopened.sealing_keys(at(0))).unwrap().remove(0).state, SealingKeyState::Shredding);
    assert_eq!(shred(&reopened), Shredded::Done);
    assert!(!is_anywhere(crashed.path(), 1) && is_anywhere(crashed.path(), 2));

    other.execute_batch("COMMIT").unwrap();
    assert_eq!(shred(&store), Shredded::Done);
    assert_eq!(block_on(store.sealing_keys(at(0))).unwrap().remove(0).state, SealingKeyState::Shredded);
    assert!(!is_anywhere(folder.path(), 1) && is_anywhere(folder.path(), 2));
}

#[test]
fn a_key_past_its_retention_is_destroyed_without_being_asked() {
    let (folder, store) = fresh();
    let store = Arc::new(store);
    let policy = Policy { temp_id_scheme: Scheme::Sealed, ..Policy::default() };
    let authority = Authority::new(store.clone(), Arc::new(InlinePool), policy, &MasterKey::new([7; 32]), [7; 32]);
    let kept = block_on(authority.keep_keys(at(0))).unwrap();
    assert_eq!((kept.made, kept.shredded), (1, 0));
    let row = block_on(store.sealing_keys(at(0))).unwrap().remove(0);
    let SealingKeyState::Live(wrapped) = &row.state else { panic!("it is not there") };
    let is_in_a_file = || files_of(folder.path()).iter().any(|file| holds(file, &wrapped.0));
    let end = row.term.forget_at;
    assert_eq!(end, row.term.issues_until.plus(25 * 3_600 + 21 * 86_400 + 1), "a batch and the retention later");
    block_on(authority.keep_keys(end.plus(-1))).unwrap();
    assert!(is_in_a_file());
    assert_eq!(block_on(authority.keep_keys(end)).unwrap().shredded, 1);
    assert!(!is_in_a_file());
}

fn fresh() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&database(folder.path())).unwrap();
    (folder, store)
}

fn database(folder: &Path) -> PathBuf {
    folder.join("authority.sqlite")
}

/// The files that a crash at this moment would leave.
fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["authority.sqlite", "authority.sqlite-wal"] {
        fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// Whether any file of a folder holds a half or more of a key's bytes.
fn is_anywhere(folder: &Path, number: i64) -> bool {
    let WrappedKey(bytes) = key(number).wrapped;
    files_of(folder).iter().any(|file| bytes.chunks(WRAPPED_KEY_BYTES / 2).any(|half| holds(file, half)))
}

fn files_of(folder: &Path) -> Vec<Vec<u8>> {
    fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

fn holds(file: &[u8], bytes: &[u8]) -> bool {
    memchr::memmem::find(file, bytes).is_some()
}

/// A key whose bytes are like no other's.
fn key(number: i64) -> NewSealingKey {
    let term = KeyTerm { issues_from: at(0), issues_until: at(10), last_expiry: at(20), forget_at: at(30) };
    let mut state = number.unsigned_abs() + 1;
    let bytes = std::array::from_fn(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    NewSealingKey { id: SealingKeyId(number), term, wrapped: WrappedKey(bytes) }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_600_000_000 + seconds).unwrap()
}

/// Of so many keys one is destroyed.
const EACH: usize = 8;

/// Enough to fill several pages.
const KEYS: i64 = 120;
