//! Owns opening the database file: its permissions, its settings and the versions of its schema.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use thiserror::Error;

use crate::data_folder;

/// What may be set about a [`super::SqliteStore`].
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Most pages of 4,096 bytes that the file may have. `None` leaves it to the disk.
    pub max_pages: Option<u32>,
    /// How long to wait for another program that is writing.
    pub busy_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { max_pages: None, busy_timeout: Duration::from_secs(5) }
    }
}

/// Why a database file cannot be used. Each text is one line that says what, where and what to do.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file or its folder cannot be made or opened.
    #[error("cannot open the database {}: {source}; check the folder, its permissions and its disk", path.display())]
    File {
        /// The database.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not an SQLite database, or what is left of one.
    #[error("{} is not a database, or is damaged; restore it from a backup, or move it away to start anew", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
    },
    /// Another program's database.
    #[error("{} belongs to another program; choose another data folder", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// A later version of this program has changed the schema.
    #[error(
        "{} was written by a newer version of this program (schema {found}, this one knows {known}); use that version, \
         or restore a backup from before the upgrade",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// A copy of another store, which has not been finished.
    #[error(
        "{} is an unfinished copy of another store; run the same `bluetrace store copy` again, which goes on with it",
        path.display()
    )]
    UnfinishedCopy {
        /// The database.
        path: PathBuf,
    },
    /// An earlier version of this program wrote it, and bringing it up to date was not asked for.
    #[error(
        "{} has schema {found}, and this program works on schema {known}; run `bluetrace store migrate` first",
        path.display()
    )]
    Older {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The schema of this program.
        known: i64,
    },
    /// Another program holds it.
    #[error("{} is busy: another program is writing to it; try again when it has finished", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("no room is left for {}; free some space on its disk", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// Anything else that SQLite says.
    #[error("cannot open the database {}: {source}; check the folder, its permissions and its disk", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Where the database is and how it is opened.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) options: SqliteOptions,
}

/// A database and its write-ahead log, as the system tells files apart: what an open connection writes to, also after
/// they have been deleted or others have taken their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Files {
    database: FileId,
    log: FileId,
}

/// Device and number of a file.
type FileId = (u64, u64);

impl Database {
    /// Makes the file if there is none, and brings its schema up to date.
    pub(super) fn prepare(&self) -> Result<(), OpenError> {
        let file = |source| OpenError::File { path: self.path.clone(), source };
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            data_folder::create_private_folder(folder).map_err(file)?;
        }
        // SQLite gives its other files (-wal, -shm) the permissions of this one
        data_folder::create_private_file(&self.path).map_err(file)?;
        let started = Instant::now();
        loop {
            match self.bring_up_to_date() {
                // SQLite itself does not wait for another process that is turning the file to WAL
                Err(OpenError::Busy { .. }) if started.elapsed() < self.options.busy_timeout => {
                    thread::sleep(Duration::from_millis(5));
                }
                outcome => return outcome,
            }
        }
    }

    fn bring_up_to_date(&self) -> Result<(), OpenError> {
        // another program's database is left as it is found
        let error = |error| self.error(error);
        let found = self.connect().map_err(error)?;
        // within a transaction, since another process may be making it right now
        let version = self.version(&found.unchecked_transaction().map_err(error)?)?;
        drop(found);
        if version == SCHEMA { Ok(()) } else { self.migrate(&mut self.open(Access::Write)?) }
    }

    /// Refuses a file that would have to be made or brought up to date first.
    pub(super) fn require_present_schema(&self) -> Result<(), OpenError> {
        let connection = self.connect().map_err(|error| self.error(error))?;
        let transaction = connection.unchecked_transaction().map_err(|error| self.error(error))?;
        let found = self.version(&transaction)?;
        if found == SCHEMA { Ok(()) } else { Err(OpenError::Older { path: self.path.clone(), found, known: SCHEMA }) }
    }

    /// Opens a connection to a prepared file.
    pub(super) fn open(&self, access: Access) -> Result<Connection, OpenError> {
        let connection = self.connect().and_then(|connection| {
            connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)?;
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            // what is deleted is also overwritten, where that costs no further page
            connection.query_row("PRAGMA secure_delete = FAST", [], |_| Ok(()))?;
            connection.pragma_update(None, "cache_size", if access == Access::Write { -65_536 } else { -16_384 })?;
            if access == Access::Read {
                connection.pragma_update(None, "query_only", true)?;
            } else if let Some(pages) = self.options.max_pages {
                connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
            }
            Ok(connection)
        });
        connection.map_err(|error| self.error(error))
    }

    /// Which files lie there now. `None` if one is missing.
    pub(super) fn files(&self) -> Option<Files> {
        Some(Files { database: file_id(&self.path)?, log: file_id(&self.write_ahead_log())? })
    }

    /// Makes the write-ahead log as long as it is when its pages are moved into the database. Zeros are no frames to SQLite,
    /// which goes on to write where it was. To be called while holding the lock for writing.
    pub(super) fn reserve_log(&self) -> io::Result<()> {
        let mut log = OpenOptions::new().append(true).open(self.write_ahead_log())?;
        let found = log.metadata()?.len();
        let missing = LOG_BYTES.saturating_sub(found);
        let grown = io::copy(&mut io::repeat(0).take(missing), &mut log).and_then(|_| log.sync_all());
        if grown.is_err() {
            // room that others can use
            log.set_len(found)?;
        }
        grown
    }

    pub(super) fn write_ahead_log(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push("-wal");
        path.into()
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        // no SQLITE_OPEN_CREATE: a file that has been moved away is an error, and is not quietly begun anew
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.options.busy_timeout)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }

    /// Applies the migrations that are missing, all or none. Safe when two processes do it at once.
    fn migrate(&self, connection: &mut Connection) -> Result<(), OpenError> {
        let error = |error| self.error(error);
        let path = || self.path.clone();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
        // another process may have been first
        let version = self.version(&transaction)?;
        let done = usize::try_from(version).map_err(|_| OpenError::Damaged { path: path() })?;
        for migration in MIGRATIONS.iter().skip(done) {
            transaction.execute_batch(migration).map_err(error)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(error)?;
        transaction.pragma_update(None, "user_version", SCHEMA).map_err(error)?;
        transaction.commit().map_err(error)
    }

    /// The version of the schema; 0 for an empty file.
    pub(super) fn version(&self, connection: &Transaction<'_>) -> Result<i64, OpenError> {
        let number = |query| connection.query_row(query, [], |row| row.get::<_, i64>(0)).map_err(|e| self.error(e));
        let application = number("PRAGMA application_id")?;
        let version = number("PRAGMA user_version")?;
        let tables = number("SELECT count(*) FROM sqlite_schema")?;
        match (application, version) {
            (0, 0) if tables == 0 => Ok(0),
            (APPLICATION, found) if found > SCHEMA => {
                Err(OpenError::Newer { path: self.path.clone(), found, known: SCHEMA })
            }
            (APPLICATION, found) => Ok(found),
            (UNFINISHED_COPY, _) => Err(OpenError::UnfinishedCopy { path: self.path.clone() }),
            _ => Err(OpenError::Foreign { path: self.path.clone() }),
        }
    }

    pub(super) fn error(&self, source: rusqlite::Error) -> OpenError {
        let path = self.path.clone();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Busy { path },
            Some(ErrorCode::DiskFull) => OpenError::Full { path },
            _ => OpenError::Sqlite { path, source },
        }
    }
}

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Elsewhere an open file keeps its name.
#[cfg(not(unix))]
fn file_id(_: &Path) -> Option<FileId> {
    Some((0, 0))
}

/// From an empty file to the present schema, in order. What has been released is never changed, only added to.
const MIGRATIONS: [&str; 6] = [
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
];

/// The present schema.
#[expect(clippy::cast_possible_wrap, reason = "a handful of migrations")]
pub(super) const SCHEMA: i64 = MIGRATIONS.len() as i64;

/// `BlTr`: tells the file from those of other programs.
pub(super) const APPLICATION: i64 = 0x426c_5472;

/// `BlCp`, until a copy is finished: versions of this program that know nothing of copies refuse it, too.
pub(super) const UNFINISHED_COPY: i64 = 0x426c_4370;

/// Pages in the write-ahead log at which they are moved into the database: 16 MiB.
const CHECKPOINT_PAGES: i64 = 4_096;

/// The length of a write-ahead log with so many pages: a header of 32 bytes, and one of 24 before each page of 4,096.
const LOG_BYTES: u64 = 32 + CHECKPOINT_PAGES.unsigned_abs() * (24 + 4_096);

/// What the write-ahead log is cut back to after it had to grow: 64 MiB.
const JOURNAL_BYTES: i64 = 64 * 1024 * 1024;

/// Prepared statements kept by a connection: more than there are.
const STATEMENTS: usize = 128;
