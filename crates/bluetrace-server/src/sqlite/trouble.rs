//! Owns what SQLite's errors mean to the authority: [`Trouble`] and [`Refusal`].

use std::path::Path;

use bluetrace_authority::store::StoreError;
use rusqlite::ErrorCode;

use super::open::OpenError;

/// Why a job was not done.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It makes no sense, and has changed nothing.
    Failed(&'static str),
    /// It is about an upload that is not there, and has changed nothing: an outcome, where the caller has one for it.
    NoUpload,
    /// SQLite could not do it; its transaction must be rolled back.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Why a transaction was rolled back.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// What, where and what to do, in one line.
    text: String,
    /// Whether the same may succeed later.
    is_passing: bool,
    /// Whether every job of the group would fail the same way.
    pub(super) is_everyones: bool,
    /// Whether the connection may be the reason, and is better opened anew.
    pub(super) is_of_the_file: bool,
}

impl Trouble {
    pub(super) fn of(error: &rusqlite::Error, path: &Path) -> Self {
        let path = path.display();
        let passing = |text, is_of_the_file| Self { text, is_passing: true, is_everyones: true, is_of_the_file };
        let lasting = |text| Self { text, is_passing: false, is_everyones: false, is_of_the_file: false };
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                passing(format!("no room is left for {path}; free some space, and it goes on by itself"), false)
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
    pub(super) fn of_missing(path: &Path) -> Self {
        let path = path.display();
        let text = format!(
            "{path} or its write-ahead log has been moved, deleted or replaced while this server uses it; \
             put them back, or stop the server and restore a backup"
        );
        Self { text, is_passing: true, is_everyones: true, is_of_the_file: false }
    }

    pub(super) fn of_opening(error: &OpenError) -> Self {
        Self { text: error.to_string(), is_passing: true, is_everyones: true, is_of_the_file: true }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        if trouble.is_passing { Self::Unavailable(trouble.text) } else { Self::Failed(trouble.text) }
    }
}
