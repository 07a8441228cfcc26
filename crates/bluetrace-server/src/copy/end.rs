//! Owns what a copy needs of a database whichever it is ([`End`]), and under which circumstances one may be a source or a destination.

use std::fmt;
use std::fs;
use std::io::ErrorKind;

use bluetrace_authority::store::StoreError;

use super::mark::{Mark, Position};
use super::rows::{Batch, Key};
use super::table::{Engine, Table};
use super::{Batches, CopyError, CopyOptions};
use crate::data_folder::{DataFolder, DataFolderError, ServerLock};
use crate::postgres::{self, PostgresEnd, PostgresPlace, SCHEMA, State};
use crate::sqlite::SqliteEnd;

/// Where a store is.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a data folder, with the master key beside it.
    Folder(DataFolder),
    /// In a database that servers share, which has a mark of the master key.
    Shared(PostgresPlace),
}

/// A database that is read or written.
#[derive(Debug)]
pub(crate) struct End {
    database: Database,
    /// What tells the authority's master key from others.
    key_mark: String,
    shown: String,
    /// No server starts in the folder while this is here.
    _lock: Option<ServerLock>,
}

#[derive(Debug)]
enum Database {
    Sqlite(SqliteEnd),
    Postgres(PostgresEnd),
}

impl Place {
    /// What tells it from other places, also tomorrow.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Folder(folder) => {
                let path = folder.path();
                // one that is not there is said to be missing by whoever looks for a master key in it
                fs::canonicalize(path).unwrap_or_else(|_| path.into()).display().to_string()
            }
            Self::Shared(place) => place.to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.path().display().fmt(f),
            Self::Shared(place) => place.fmt(f),
        }
    }
}

impl End {
    pub(crate) async fn open_source(place: &Place, options: &CopyOptions) -> Result<Self, CopyError> {
        let end = match place {
            Place::Folder(folder) => {
                require_folder(place, folder)?;
                if !folder.has_database()? {
                    return Err(CopyError::NoStore { place: place.to_string() });
                }
                let lock = lock(place, folder)?;
                Self::open_folder(place, folder, SqliteEnd::open(&folder.database())?, lock)?
            }
            Place::Shared(shared) => {
                let end = PostgresEnd::open(shared, &options.postgres, options.seed).await?;
                let key_mark = require_store(place, end.state().await?)?;
                Self { database: Database::Postgres(end), key_mark, shown: place.to_string(), _lock: None }
            }
        };
        end.refuse_if_in_use(options).await?;
        Ok(end)
    }

    /// For a look beside whatever is at work, at one moment. The master key's mark is empty where there is none in the folder.
    pub(crate) async fn open_to_look(place: &Place, options: &CopyOptions) -> Result<Self, CopyError> {
        let (database, key_mark) = match place {
            Place::Folder(folder) => {
                require_folder(place, folder)?;
                if !folder.has_database()? {
                    return Err(CopyError::NoStore { place: place.to_string() });
                }
                (Database::Sqlite(SqliteEnd::open(&folder.database())?), String::new())
            }
            Place::Shared(shared) => {
                let end = PostgresEnd::open(shared, &options.postgres, options.seed).await?;
                let key_mark = require_store(place, end.state().await?)?;
                (Database::Postgres(end), key_mark)
            }
        };
        let end = Self { database, key_mark, shown: place.to_string(), _lock: None };
        end.look_anew().await?;
        Ok(end)
    }

    /// Opens a destination, and finds or sets its mark.
    pub(crate) async fn open_destination(
        place: &Place,
        source: &Self,
        from: &str,
        options: &CopyOptions,
    ) -> Result<(Self, Mark), CopyError> {
        let end = match place {
            Place::Folder(folder) => {
                require_folder(place, folder)?;
                // said before a file is made there
                if master_key_mark(place, folder)? != source.key_mark {
                    return Err(CopyError::OtherMasterKey { from: source.shown.clone(), to: place.to_string() });
                }
                let lock = lock(place, folder)?;
                Self::open_folder(place, folder, SqliteEnd::open_or_make(&folder.database())?, lock)?
            }
            Place::Shared(shared) => {
                let end = PostgresEnd::open(shared, &options.postgres, options.seed).await?;
                // whosever it is, it is not to be brought to another schema by the way
                if let Some(State { schema: found, is_unfinished_copy: false, .. }) = end.state().await?
                    && found != SCHEMA
                {
                    return Err(CopyError::OtherSchema { place: place.to_string(), found });
                }
                end.prepare(&source.key_mark).await?;
                let key_mark = source.key_mark.clone();
                Self { database: Database::Postgres(end), key_mark, shown: place.to_string(), _lock: None }
            }
        };
        end.refuse_if_in_use(options).await?;
        let first = Mark::first(from);
        let Some(found) = end.mark().await? else {
            return if end.begin(&first.spelt()?).await? {
                Ok((end, first))
            } else {
                Err(CopyError::NotEmpty { place: end.shown })
            };
        };
        let Some(mark) = Mark::read(&found) else {
            return Err(CopyError::OtherVersion { place: end.shown });
        };
        if mark.from != from {
            return Err(CopyError::OtherSource { place: end.shown, from: mark.from });
        }
        if mark.at == Position::Again {
            end.begin_again(&found, &first.spelt()?).await?;
            return Ok((end, first));
        }
        Ok((end, mark))
    }

    fn open_folder(place: &Place, folder: &DataFolder, end: SqliteEnd, lock: ServerLock) -> Result<Self, CopyError> {
        let (key_mark, shown) = (master_key_mark(place, folder)?, place.to_string());
        Ok(Self { database: Database::Sqlite(end), key_mark, shown, _lock: Some(lock) })
    }

    async fn refuse_if_in_use(&self, options: &CopyOptions) -> Result<(), CopyError> {
        match &self.database {
            Database::Postgres(end) if !options.ignore_connections && end.is_in_use().await? => {
                Err(CopyError::InUse { place: self.shown.clone() })
            }
            Database::Postgres(_) | Database::Sqlite(_) => Ok(()),
        }
    }

    pub(crate) const fn engine(&self) -> Engine {
        match self.database {
            Database::Sqlite(_) => Engine::Sqlite,
            Database::Postgres(_) => Engine::Postgres,
        }
    }

    pub(crate) fn key_mark(&self) -> &str {
        &self.key_mark
    }

    /// From now on what is read is of one moment, this one.
    pub(crate) async fn look_anew(&self) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.look_anew(),
            Database::Postgres(end) => end.look_anew().await,
        }
    }

    pub(crate) async fn count(&self) -> Result<u64, StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.count().await,
            Database::Postgres(end) => end.count().await,
        }
    }

    pub(crate) fn read(&self, table: &'static Table, after: Option<Key>) -> Batches {
        match &self.database {
            Database::Sqlite(end) => end.read(table, after),
            Database::Postgres(end) => end.read(table, after),
        }
    }

    pub(crate) async fn numbers(&self, query: &str) -> Result<Vec<i64>, StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.numbers(query).await,
            Database::Postgres(end) => end.numbers(query).await,
        }
    }

    /// What the database itself finds wrong with its files, if it can be asked.
    pub(crate) async fn damage(&self) -> Result<Vec<String>, StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.damage().await,
            Database::Postgres(_) => Ok(Vec::new()),
        }
    }

    async fn mark(&self) -> Result<Option<String>, StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.mark(),
            Database::Postgres(end) => end.mark().await,
        }
    }

    async fn begin(&self, mark: &str) -> Result<bool, StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.begin(mark),
            Database::Postgres(end) => end.begin(mark).await,
        }
    }

    async fn begin_again(&self, before: &str, mark: &str) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.begin_again(before.to_owned(), mark.to_owned()).await,
            Database::Postgres(end) => end.begin_again(before, mark).await,
        }
    }

    pub(crate) async fn set_mark(&self, before: &str, mark: &str) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.set_mark(before, mark),
            Database::Postgres(end) => end.set_mark(before, mark).await,
        }
    }

    /// Writes rows, and with them how far the copy is. `false`, and nothing is written, if they do not fit the rows that are there.
    pub(crate) async fn write(
        &self,
        table: &'static Table,
        batch: Batch,
        before: &str,
        mark: &str,
    ) -> Result<bool, StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.write(table, batch, before.to_owned(), mark.to_owned()).await,
            Database::Postgres(end) => end.write(table, &batch, before, mark).await,
        }
    }

    pub(crate) async fn analyze(&self) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(_) => Ok(()),
            Database::Postgres(end) => end.analyze().await,
        }
    }

    pub(crate) async fn finish(&self) -> Result<(), StoreError> {
        match &self.database {
            Database::Sqlite(end) => end.finish().await,
            Database::Postgres(end) => end.finish().await,
        }
    }
}

fn require_folder(place: &Place, folder: &DataFolder) -> Result<(), CopyError> {
    // whatever else keeps it from being looked at is said by whoever opens a file in it
    match fs::metadata(folder.path()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(CopyError::NoFolder { place: place.to_string() }),
        _ => Ok(()),
    }
}

fn lock(place: &Place, folder: &DataFolder) -> Result<ServerLock, CopyError> {
    folder.lock_for_server().map_err(|error| {
        let is_served = matches!(error, DataFolderError::InUse { .. });
        if is_served { CopyError::Served { place: place.to_string() } } else { error.into() }
    })
}

fn master_key_mark(place: &Place, folder: &DataFolder) -> Result<String, CopyError> {
    let key = folder.existing_master_key()?;
    key.map(|key| key.mark()).ok_or_else(|| CopyError::NoMasterKey { place: place.to_string() })
}

/// The mark of the master key of a store that is whole and of this program's schema.
fn require_store(place: &Place, state: Option<State>) -> Result<String, CopyError> {
    let place = place.to_string();
    match state {
        None => Err(CopyError::NoStore { place }),
        Some(State { is_unfinished_copy: true, .. }) => Err(postgres::OpenError::UnfinishedCopy { place }.into()),
        Some(State { schema: SCHEMA, key_mark, .. }) => Ok(key_mark),
        Some(State { schema: found, .. }) => Err(CopyError::OtherSchema { place, found }),
    }
}
