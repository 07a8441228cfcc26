//! Owns copying a store into another one, of the same kind or not ([`copy`]): resumable, and compared at the end.
//!
//! ```text
//! tables    what both databases hold, once                         table: what follows from a description
//! rows      rows on their way, and the digest of a table
//! end       a database of either kind; each kind's SQL is in `sqlite::copy` and `postgres::copy`
//! mark      what makes a database an unfinished copy, and where that goes on
//! progress  how far it is, for whoever waits
//! ```
//!
//! Rows are read in the order of a table's key, and written in batches. Each batch is one transaction, in which the destination notes behind which
//! row it goes on: whoever kills a copy and runs it again loses a batch at the most. Until all rows of both have been read again and compared, the
//! destination carries a mark, and no server starts on it.

pub(crate) mod end;
pub(crate) mod rows;
pub(crate) mod table;
pub(crate) mod tables;

#[cfg(test)]
mod catalogue_tests;
mod mark;
mod progress;

use bluetrace_authority::store::StoreError;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::end::End;
pub use self::end::Place;
use self::mark::{Mark, Position};
pub use self::progress::{Progress, Step};
use self::rows::{Batch, Digester, TableDigest};
use self::tables::TABLES;
use crate::data_folder::DataFolderError;
use crate::postgres::{self, PostgresOptions};
use crate::sqlite;

/// Copies a store into an empty one, or goes on with a copy that was broken off, and compares both at the end.
///
/// # Errors
/// [`CopyError`] says in one line what is wrong and what to do. What was copied is kept, and the same call goes on behind it.
pub async fn copy(
    from: &Place,
    to: &Place,
    options: &CopyOptions,
    progress: &Progress,
) -> Result<Vec<(&'static str, u64)>, CopyError> {
    match copy_all(from, to, options, progress).await {
        Err(CopyError::Store(error)) => Err(CopyError::Broken(error)),
        outcome => outcome,
    }
}

/// What may be set about a copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// 32 bytes of the system's randomness.
    pub seed: [u8; 32],
    /// Of the databases that servers share.
    pub postgres: PostgresOptions,
    /// Whether to copy although connections are seen on a shared database that could be a server's.
    pub ignore_connections: bool,
}

/// Why a copy was not made. Each text is one line that says what is wrong and what to do.
#[derive(Debug, Error)]
pub enum CopyError {
    /// Both are one.
    #[error("a store cannot be copied onto itself")]
    SamePlace,
    /// A data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// An SQLite database cannot be used.
    #[error(transparent)]
    Sqlite(#[from] sqlite::OpenError),
    /// A PostgreSQL database cannot be used.
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
    /// A database did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One of them ceased to answer while it was copied.
    #[error("{0}; what was copied is kept: run the same command again when that is mended, and it goes on")]
    Broken(StoreError),
    /// There is no authority in the source.
    #[error("there is no store in {place}; start a server on it, or name the place where one is")]
    NoStore {
        /// Where.
        place: String,
    },
    /// There is no such folder.
    #[error("there is no folder {place}; name the data folder of an authority")]
    NoFolder {
        /// Where it should be.
        place: String,
    },
    /// A server is at work on a folder.
    #[error("the data folder {place} is in use by another server or copy; end it first")]
    Served {
        /// The folder.
        place: String,
    },
    /// A store has another schema than this program.
    #[error(
        "{place} has schema {found}, which is not this program's; run `bluetrace store migrate` on it first, or use the newer version"
    )]
    OtherSchema {
        /// Where.
        place: String,
        /// Its schema.
        found: i64,
    },
    /// There is no master key.
    #[error(
        "there is no master.key in {place}; put a copy of the authority's there (mode 600), without which a server could read nothing of the copy"
    )]
    NoMasterKey {
        /// The folder.
        place: String,
    },
    /// The folders of both, or the folder and the database, have different ones.
    #[error(
        "{from} and {to} are under different master keys; copy the master.key of the source's servers into the folder"
    )]
    OtherMasterKey {
        /// The source.
        from: String,
        /// The destination.
        to: String,
    },
    /// A server may be at work.
    #[error(
        "other programs named `bluetrace` are connected to {place}; end the servers and commands on it. If these are idle connections \
         of a pooler, say --ignore-connections"
    )]
    InUse {
        /// Where.
        place: String,
    },
    /// There is something in the destination.
    #[error(
        "{place} is not empty; if it is the finished copy of this source, nothing is left to do, and else name a new folder or database"
    )]
    NotEmpty {
        /// Where.
        place: String,
    },
    /// The destination has been begun from elsewhere.
    #[error("{place} is an unfinished copy of {from}; go on with that, or name a new folder or database")]
    OtherSource {
        /// The destination.
        place: String,
        /// Its source.
        from: String,
    },
    /// A mark that another version has made.
    #[error("{place} is an unfinished copy of another version of this program; name a new folder or database")]
    OtherVersion {
        /// The destination.
        place: String,
    },
    /// A row that this program could not read.
    #[error(
        "the source's table {table} holds what this program cannot read, in column {column}; `bluetrace store check` says more"
    )]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// Rows that the destination does not take.
    #[error(
        "the destination does not take rows of the source's table {table}: {why}; what was copied is kept. The source may be \
         damaged: `bluetrace store check` tells"
    )]
    Refused {
        /// The table.
        table: &'static str,
        /// What the destination says.
        why: String,
    },
    /// What was copied before the copy was broken off is not of this source.
    #[error(
        "rows of the source's table {table} do not fit what was copied before: the source, or the copy, has been changed meanwhile. End what \
         uses it, and run the same command again, which begins anew"
    )]
    Changed {
        /// The table.
        table: &'static str,
    },
    /// The comparison has found a difference.
    #[error(
        "the copy is not like the source: table {table} has {}. The source, or the copy, has been changed meanwhile: end what uses it, \
         and run the same command again, which begins anew", difference(*in_source, *in_destination)
    )]
    Differs {
        /// The first table that differs.
        table: &'static str,
        /// Its rows in the source.
        in_source: u64,
        /// Its rows in the destination.
        in_destination: u64,
    },
}

fn difference(in_source: u64, in_destination: u64) -> String {
    if in_source == in_destination {
        format!("{in_source} rows in both, and not the same ones")
    } else {
        format!("{in_source} rows in the source and {in_destination} in the copy")
    }
}

async fn copy_all(
    from: &Place,
    to: &Place,
    options: &CopyOptions,
    progress: &Progress,
) -> Result<Vec<(&'static str, u64)>, CopyError> {
    let source_name = from.name();
    if source_name == to.name() {
        return Err(CopyError::SamePlace);
    }
    let source = End::open_source(from, options).await?;
    let (destination, mark) = End::open_destination(to, &source, &source_name, options).await?;
    source.look_anew().await?;
    progress.begin(Step::Copying, destination.count().await?, source.count().await?);
    let mark = copy_rows(&source, &destination, mark, progress).await?;
    destination.analyze().await?;
    let compared = compare(&source, &destination, progress).await;
    match &compared {
        Ok(_) => destination.finish().await?,
        Err(CopyError::Differs { .. }) => begin_anew_next_time(&destination, &mark).await?,
        Err(_) => {}
    }
    compared
}

async fn begin_anew_next_time(destination: &End, mark: &Mark) -> Result<(), CopyError> {
    Ok(destination.set_mark(&mark.spelt()?, &mark.moved(Position::Again).spelt()?).await?)
}

/// Copies what is not copied yet, and returns the mark at the end.
async fn copy_rows(source: &End, destination: &End, mut mark: Mark, progress: &Progress) -> Result<Mark, CopyError> {
    for (place, table) in TABLES.iter().enumerate() {
        let after = match &mark.at {
            Position::In(name, after) if name == table.name => after.clone(),
            Position::In(..) | Position::Compare | Position::Again => continue,
        };
        let mut batches = source.read(table, after);
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            if let Some(found) = batch.unreadable(table).next() {
                return Err(CopyError::Unreadable { table: table.name, column: found.column });
            }
            let Some(last) = batch.last.clone() else { continue };
            let (rows, next) = (batch.len(), mark.moved(Position::In(table.name.to_owned(), Some(last))));
            let writing = destination.write(table, batch, &mark.spelt()?, &next.spelt()?).await;
            // what the rules of the schema forbid is in the source all the same
            let writing = writing.map_err(|error| match error {
                StoreError::Failed(why) => {
                    let why = why.replace("; this is a defect of this program", "");
                    CopyError::Refused { table: table.name, why }
                }
                away @ StoreError::Unavailable(_) => away.into(),
            });
            if !writing? {
                begin_anew_next_time(destination, &mark).await?;
                return Err(CopyError::Changed { table: table.name });
            }
            mark = next;
            progress.add(rows);
        }
        let at = TABLES.get(place + 1).map_or(Position::Compare, |next| Position::In(next.name.to_owned(), None));
        let next = mark.moved(at);
        destination.set_mark(&mark.spelt()?, &next.spelt()?).await?;
        mark = next;
    }
    Ok(mark)
}

/// Reads all rows of both, and returns how many each table has.
async fn compare(source: &End, destination: &End, progress: &Progress) -> Result<Vec<(&'static str, u64)>, CopyError> {
    // what has changed in the source since the beginning is to be found
    source.look_anew().await?;
    destination.look_anew().await?;
    progress.begin(Step::Comparing, 0, source.count().await?.saturating_add(destination.count().await?));
    let (in_source, in_destination) = tokio::try_join!(digests(source, progress), digests(destination, progress))?;
    let mut rows = Vec::new();
    for (table, (one, other)) in TABLES.iter().zip(in_source.into_iter().zip(in_destination)) {
        if one != other {
            return Err(CopyError::Differs { table: table.name, in_source: one.rows, in_destination: other.rows });
        }
        if !table.is_counter() {
            rows.push((table.name, one.rows));
        }
    }
    Ok(rows)
}

async fn digests(end: &End, progress: &Progress) -> Result<Vec<TableDigest>, CopyError> {
    let mut digests = Vec::new();
    for table in &TABLES {
        let mut digester = Digester::new(table);
        let mut batches = end.read(table, None);
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            let rows = batch.len();
            // hashing so many takes long enough for others to be kept waiting
            let digesting = spawn_blocking(move || {
                digester.take(&batch);
                digester
            });
            digester = digesting.await.map_err(|_| StoreError::Failed("digesting has ended early".into()))?;
            progress.add(rows);
        }
        digests.push(digester.digest());
    }
    Ok(digests)
}

/// Rows of a table as they are read, until the last one or an error.
pub(crate) type Batches = mpsc::Receiver<Result<Batch, StoreError>>;

/// Most rows in one transaction, and in memory a few times.
pub(crate) const BATCH: usize = 20_000;
