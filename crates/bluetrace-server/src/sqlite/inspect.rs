//! Owns looking at a database file without changing it: [`inspect`].

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use bluetrace_authority::store::SealingKeyRow;
use bluetrace_protocol::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::keys;
use super::open::{Database, OpenError, SCHEMA, SqliteOptions};

/// What there is to be said of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The version of its schema; 0 if it is empty.
    pub schema: i64,
    /// The version that this program writes, to which an older one is brought when it is opened.
    pub known_schema: i64,
    /// What SQLite finds wrong in it first.
    pub damage: Option<String>,
    /// The latest moment at which something happened according to its rows.
    pub newest: Option<Timestamp>,
    /// The sealing keys there are or were.
    pub sealing_keys: Vec<SealingKeyRow>,
}

/// Looks at a database, and reads all of it once. Neither the file nor its write-ahead log is changed, no schema is brought up to
/// date, and a server may be at work on it: for as long as this takes, that one's write-ahead log only grows.
///
/// # Errors
/// [`OpenError`] says in one line what is wrong, where, and what to do.
pub fn inspect(path: &Path, now: Timestamp) -> Result<Inspection, OpenError> {
    let database = Database { path: path.into(), options: SqliteOptions::default() };
    let before = stamp(path).map_err(|source| OpenError::File { path: path.into(), source })?;
    if is_empty(&database.write_ahead_log()) {
        // nobody is at work: a look without locks, for which SQLite makes no files
        let found = look(&database, "immutable=1", now);
        if is_empty(&database.write_ahead_log()) && stamp(path).ok() == Some(before) {
            return found;
        }
    }
    look(&database, "mode=ro", now)
}

/// The version of a database's schema, 0 if it is empty, and the one that this program writes.
///
/// # Errors
/// As for [`inspect`].
pub fn schema(path: &Path) -> Result<(i64, i64), OpenError> {
    let database = Database { path: path.into(), options: SqliteOptions::default() };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| database.error(error))?;
    let transaction = connection.unchecked_transaction().map_err(|error| database.error(error))?;
    Ok((database.version(&transaction)?, SCHEMA))
}

fn look(database: &Database, how: &str, now: Timestamp) -> Result<Inspection, OpenError> {
    let error = |error| database.error(error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(&database.path, how), flags).map_err(error)?;
    connection.busy_timeout(database.options.busy_timeout).map_err(error)?;
    // one state of it, whoever writes meanwhile
    let transaction = connection.unchecked_transaction().map_err(error)?;
    let schema = database.version(&transaction)?;
    let checked: String = transaction.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(error)?;
    let damage = (checked != "ok").then(|| checked.lines().last().unwrap_or_default().to_owned());
    let newest = if schema > 0 && damage.is_none() {
        transaction.query_row(NEWEST, [], |row| row.get::<_, Option<i64>>(0)).map_err(error)?
    } else {
        None
    };
    let sealing_keys = if schema >= SCHEMA_WITH_KEYS && damage.is_none() {
        keys::sealing_keys(&transaction, now).map_err(error)?
    } else {
        Vec::new()
    };
    let newest = newest.and_then(Timestamp::from_unix);
    Ok(Inspection { schema, known_schema: SCHEMA, damage, newest, sealing_keys })
}

/// A file in the form in which SQLite takes parameters.
fn uri(path: &Path, parameters: &str) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            // writing to a String does not fail
            byte => _ = write!(uri, "%{byte:02X}"),
        }
    }
    uri + "?" + parameters
}

/// What changes when something is written to a file.
fn stamp(path: &Path) -> io::Result<(u64, SystemTime)> {
    let file = fs::metadata(path)?;
    Ok((file.len(), file.modified()?))
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |file| file.len() == 0)
}

/// The first version of the schema that has sealing keys.
const SCHEMA_WITH_KEYS: i64 = 3;

/// All that is of the past in every version of the schema.
const NEWEST: &str = "SELECT max(happened) FROM (
    SELECT max(created) AS happened FROM account
    UNION ALL SELECT max(begun) FROM upload
    UNION ALL SELECT max(finished) FROM upload)";

#[cfg(test)]
mod tests {
    use super::super::SqliteStore;
    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    #[test]
    fn a_look_changes_nothing_whether_a_store_is_at_work_or_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a folder?#%41/authority.sqlite");
        let store = SqliteStore::open(&path).unwrap();
        let expected =
            Inspection { schema: SCHEMA, known_schema: SCHEMA, damage: None, newest: None, sealing_keys: Vec::new() };
        let at_work = files(&path);
        assert!(at_work.len() > 1, "there is a write-ahead log: {at_work:?}");
        assert_eq!(inspect(&path, Timestamp::MIN).unwrap(), expected);
        assert_eq!(files(&path), at_work);
        store.close();
        drop(store);
        let at_rest = files(&path);
        assert_eq!(inspect(&path, Timestamp::MIN).unwrap(), expected);
        assert_eq!(files(&path), at_rest);
    }

    #[test]
    fn what_others_have_written_or_spoilt_is_left_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("authority.sqlite");
        assert!(matches!(inspect(&path, Timestamp::MIN), Err(OpenError::File { .. })));
        drop(SqliteStore::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        drop(connection);
        let before = files(&path);
        assert_eq!(inspect(&path, Timestamp::MIN).unwrap().schema, 1, "no migration");
        assert_eq!(files(&path), before);
        fs::write(&path, "no database at all, though it is long enough to be taken for one at first").unwrap();
        assert!(matches!(inspect(&path, Timestamp::MIN), Err(OpenError::Damaged { .. })));
    }

    /// The files beside a database with what is in them, but for the index of the log, in which every reader leaves a mark.
    fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| {
                let is_index = path.to_string_lossy().ends_with("-shm");
                let content = if is_index { Vec::new() } else { fs::read(&path).unwrap() };
                (path, content)
            })
            .collect()
    }
}
