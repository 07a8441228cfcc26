//! Owns what PostgreSQL's errors mean to the authority: [`Trouble`].
//!
//! No text of the database's own is passed on: its messages and details may hold values ("Key (username)=(...) already
//! exists"). What is said is made of error codes, which are public and the same in every language.

use std::error::Error as _;
use std::io;

use bluetrace_authority::store::StoreError;
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity};

/// Why a statement or a transaction was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It met another transaction, and nothing was changed: the same may be done at once.
    Again,
    /// The connection is gone, or of no more use. Whether anything was changed depends on how far it had come.
    Lost(String),
    /// The database cannot do it now. The transaction is rolled back.
    Unavailable(String),
    /// It makes no sense, or the database holds what this program cannot read.
    Failed(String),
    /// There is a row of that key.
    Duplicate,
    /// There is no partition for the row.
    NoPartition,
    /// Somebody else holds the lock, and nobody waited for it any longer.
    Locked,
}

pub(super) type Result<T> = std::result::Result<T, Trouble>;

impl Trouble {
    /// What was asked for makes no sense, or what was found is none of ours.
    pub(super) fn failed(text: &str) -> Self {
        Self::Failed(text.into())
    }

    fn of_database(error: &DbError) -> Self {
        let code = error.code().code();
        let is_over = matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        let text = |what: &str| format!("{what} (PostgreSQL's code {code})");
        match (code, code.get(..2).unwrap_or_default()) {
            // the last two: somebody has made the table meanwhile, or has come as far as the type of its rows
            ("40001" | "40P01" | "42P07" | "42710", _) => Self::Again,
            ("23505", _) => Self::Duplicate,
            ("23514", _) => Self::NoPartition,
            ("55P03", _) => Self::Locked,
            ("28P01" | "28000", _) => {
                Self::Unavailable(text("the database refuses this user or password, or this machine"))
            }
            ("3D000", _) => Self::Unavailable(text("there is no database of that name")),
            ("42501", _) => Self::Unavailable(text("the database denies this user what it needs")),
            // what was the primary is none any more
            ("25006", _) => Self::Lost(text("the database takes no writes")),
            ("53100", _) => Self::Unavailable(text("the disk of the database is full")),
            ("53300", _) => Self::Unavailable(text("the database has too many connections")),
            ("57P03", _) => Self::Unavailable(text("the database is starting or stopping")),
            _ if is_over => Self::Lost(text("the database has ended the connection")),
            (_, "08" | "57") => Self::Lost(text("the database has broken off")),
            (_, "53" | "58") => Self::Unavailable(text("the database lacks something, or its disk fails")),
            (_, "XX") => Self::Failed(text("the database is damaged; restore it from a backup")),
            _ => Self::Failed(text("the database could not do what was asked; this is a defect of this program")),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if let Some(database) = error.as_db_error() {
            return Self::of_database(database);
        }
        match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(source) => Self::Lost(unreachable(source)),
            None if error.is_closed() => Self::Lost("the database has closed the connection".into()),
            None => Self::failed("the database holds what this program cannot read; restore it from a backup"),
        }
    }
}

/// Of errors without a number of the system's, the driver has made one and the standard library the other.
fn unreachable(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() {
        "the database takes no writes: it is a standby, or default_transaction_read_only is on".into()
    } else if error.to_string().starts_with("failed to lookup address") {
        "the name of the database's host cannot be resolved".into()
    } else {
        format!("the database cannot be reached ({kind})")
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Again => Self::Unavailable("too much is done to the same rows at once; try again".into()),
            Trouble::Locked => Self::Unavailable("something else holds a table of the database; try again".into()),
            Trouble::Lost(text) | Trouble::Unavailable(text) => Self::Unavailable(text),
            Trouble::Failed(text) => Self::Failed(text),
            Trouble::Duplicate | Trouble::NoPartition => {
                Self::Failed("a row is not where it belongs; this is a defect of this program".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_database_cannot_be_reached_is_said_as_far_as_it_is_known() {
        let unresolved = io::Error::other("failed to lookup address information: Name or service not known");
        assert!(unreachable(&unresolved).contains("name of the database's host"));
        let of_the_driver = io::Error::new(io::ErrorKind::PermissionDenied, "database does not allow writes");
        assert!(unreachable(&of_the_driver).contains("takes no writes"));
        let of_a_socket_file = io::Error::from_raw_os_error(EACCES);
        assert!(unreachable(&of_a_socket_file).contains("cannot be reached (permission denied)"));
    }

    /// Of every Unix that this runs on.
    const EACCES: i32 = 13;
}
