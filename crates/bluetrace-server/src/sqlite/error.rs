//! Owns what SQLite's errors mean to the authority: [`TransactionError`] and [`JobError`].

use std::path::Path;

use bluetrace_authority::store::StoreError;
use rusqlite::ErrorCode;

use super::open::OpenError;

/// Why a job was not done.
#[derive(Debug)]
pub(super) enum JobError {
    /// It makes no sense, and has changed nothing.
    Failed(&'static str),
    /// SQLite could not do it; its transaction must be rolled back.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Why a transaction was rolled back.
#[derive(Debug, Clone)]
pub(super) struct TransactionError {
    /// What, where and what to do, in one line.
    text: String,
    /// Whether the same may succeed later.
    is_temporary: bool,
    /// Whether every job of the group would fail the same way.
    pub(super) affects_every_job: bool,
    /// Whether the connection may be the reason, and is better opened anew.
    pub(super) needs_reopening: bool,
}

impl TransactionError {
    pub(super) fn new(error: &rusqlite::Error, path: &Path) -> Self {
        let path = path.display();
        let passing =
            |text, needs_reopening| Self { text, is_temporary: true, affects_every_job: true, needs_reopening };
        let lasting = |text| Self { text, is_temporary: false, affects_every_job: false, needs_reopening: false };
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                passing(format!("no room is left for {path}; free some space on its disk"), false)
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                passing(format!("{path} is busy, another program is writing to it; try again"), false)
            }
            Some(ErrorCode::OutOfMemory) => passing("memory is exhausted".into(), false),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed,
            ) => passing(format!("{path} cannot be read or written ({error}); check its disk and permissions"), true),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                lasting(format!("{path} is damaged; stop the server and restore the file from a backup"))
            }
            // SQLite's own texts name tables and columns, never values
            Some(_) => {
                lasting(format!("{path} could not do what was asked ({error}); this is a defect of this program"))
            }
            None => lasting(format!("{path} holds what this program cannot read; restore the file from a backup")),
        }
    }

    /// The file has been deleted, or another one has taken its name: what is written to it would be lost with this process.
    pub(super) fn missing_file(path: &Path) -> Self {
        let path = path.display();
        let text = format!(
            "{path} or its write-ahead log has been moved, deleted or replaced while this server uses it; \
             put them back, or stop the server and restore a backup"
        );
        Self { text, is_temporary: true, affects_every_job: true, needs_reopening: false }
    }

    pub(super) fn opening(error: &OpenError) -> Self {
        Self { text: error.to_string(), is_temporary: true, affects_every_job: true, needs_reopening: true }
    }
}

impl From<TransactionError> for StoreError {
    fn from(error: TransactionError) -> Self {
        if error.is_temporary { Self::Unavailable(error.text) } else { Self::Failed(error.text) }
    }
}
