//! A store that is copied in the middle of any sequence of calls goes on as if nothing had happened.

use bluetrace_authority::MasterKey;
use bluetrace_server::copy::{CopyOptions, Place, Progress, copy};
use bluetrace_server::data_folder::DataFolder;
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_in_any_store_goes_on_as_the_source_would_have(
        calls in vec((call(), pause_ms()), 20..90), cuts in [20..60_usize, 60..95]
    ) {
        go_on_in_copies(&calls, cuts)?;
    }
}

/// Calls to a store in SQLite, then to its copy in PostgreSQL, then to that one's copy in SQLite; and all of them to one in memory.
fn go_on_in_copies(calls: &[(Call, i64)], cuts: [usize; 2]) -> Result<(), TestCaseError> {
    let memory = MemoryStore::new();
    let [one, last] = [folder(), folder()];
    let (database, cuts) = (CLUSTER.database(), cuts.map(|cut| calls.len() * cut / 100));
    let shared = PostgresPlace::parse(&CLUSTER.url(&database), None).unwrap();
    let places = [place(&one), Place::Shared(shared.clone()), place(&last)];
    let expected = Side { store: &memory, names: RefCell::default() };
    let mut now = Moment::from(at(0));
    let mut names = BTreeMap::new();
    for (turn, calls) in [&calls[..cuts[0]], &calls[cuts[0]..cuts[1]], &calls[cuts[1]..]].into_iter().enumerate() {
        let (sqlite, postgres);
        let store: &dyn Store = if turn == 1 {
            postgres = PostgresStore::open(shared.clone(), options(), &KEY.mark(), [7; 32]).unwrap();
            &postgres
        } else {
            sqlite = SqliteStore::open(&[&one, &last][turn / 2].path().join("authority.sqlite")).unwrap();
            &sqlite
        };
        let side = Side { store, names: RefCell::new(names.clone()) };
        if turn > 0 {
            prop_assert_eq!(sight(&expected, now), sight(&side, now), "after copy {}", turn);
        }
        for (call, pause_ms) in calls {
            now = now.plus_ms(*pause_ms);
            prop_assert_eq!(
                outcome(&expected, call, now),
                outcome(&side, call, now),
                "{:?} at {:?}, {}",
                call,
                now,
                turn
            );
            prop_assert_eq!(sight(&expected, now), sight(&side, now), "after {:?} at {:?}, {}", call, now, turn);
        }
        names = side.names.into_inner();
        match turn {
            0 => rename(&mut names, copied(&places[0], &places[1], || of_sqlite(&one), || of_postgres(&database))),
            1 => rename(&mut names, copied(&places[1], &places[2], || of_postgres(&database), || of_sqlite(&last))),
            _ => {}
        }
    }
    Ok(())
}

/// Numbers of uploads and of notices, with what makes each of them the same in a copy.
struct Numbers {
    uploads: Vec<(i64, String)>,
    /// In their order: account and number.
    notices: Vec<(i64, i64)>,
}

fn copied(from: &Place, to: &Place, before: impl Fn() -> Numbers, after: impl Fn() -> Numbers) -> [Numbers; 2] {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let options = CopyOptions { seed: [8; 32], postgres: options(), ignore_connections: true };
    runtime.block_on(copy(from, to, &options, &Progress::default())).unwrap();
    [before(), after()]
}

/// Which number a store has given is its own affair.
fn rename(names: &mut BTreeMap<&'static str, Vec<i64>>, [before, after]: [Numbers; 2]) {
    for number in names.entry(UPLOAD).or_default() {
        let what = before.uploads.iter().find(|(old, _)| old == number).map(|(_, what)| what);
        let new = what.and_then(|what| after.uploads.iter().find(|(_, same)| same == what));
        *number = new.map_or(i64::MAX - *number % 1_000, |(new, _)| *new);
    }
    let accounts: Vec<i64> = names.get(ACCOUNT).cloned().unwrap_or_default();
    for (place, kind) in NOTICES.iter().enumerate().skip(1) {
        let account = accounts.get(place - 1).copied().unwrap_or(-1);
        let of_account = |numbers: &Numbers| -> Vec<i64> {
            numbers.notices.iter().filter(|(owner, _)| *owner == account).map(|(_, number)| *number).collect()
        };
        let (old, new) = (of_account(&before), of_account(&after));
        assert_eq!(old.len(), new.len());
        for number in names.entry(kind).or_default() {
            // one that is deleted stands between those that are there
            let up_to = old.iter().filter(|old| *old <= number).count();
            *number = up_to.checked_sub(1).map_or(0, |last| new[last]);
        }
    }
}

fn of_sqlite(folder: &TempDir) -> Numbers {
    let connection = Connection::open(folder.path().join("authority.sqlite")).unwrap();
    let read = |query: &str| -> Vec<(i64, String)> {
        let mut query = connection.prepare(query).unwrap();
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    Numbers {
        uploads: read("SELECT id, account || ' ' || name FROM upload WHERE account IS NOT NULL"),
        notices: read("SELECT account, id || '' FROM notice ORDER BY account, id").into_iter().map(numbers).collect(),
    }
}

fn of_postgres(database: &str) -> Numbers {
    let read = |query: &str| -> Vec<(i64, String)> {
        let rows = CLUSTER.sql(database, query);
        let row = |line: &str| line.split_once('|').map(|(number, what)| (number.parse().unwrap(), what.to_owned()));
        rows.lines().filter_map(row).collect()
    };
    Numbers {
        uploads: read("SELECT id, account || ' ' || name FROM upload WHERE account IS NOT NULL"),
        notices: read("SELECT account, number FROM notice ORDER BY account, number").into_iter().map(numbers).collect(),
    }
}

fn numbers((account, number): (i64, String)) -> (i64, i64) {
    (account, number.parse().unwrap())
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("master.key"), KEY.to_hex().as_str()).unwrap();
    folder
}

fn place(folder: &TempDir) -> Place {
    Place::Folder(DataFolder::open_existing(folder.path()))
}

fn options() -> PostgresOptions {
    PostgresOptions { connections: 1, requires_durability: false, ..PostgresOptions::default() }
}

static KEY: std::sync::LazyLock<MasterKey> = std::sync::LazyLock::new(|| MasterKey::new([7; 32]));
