//! Owns what a copy or a check asks of an SQLite database ([`SqliteEnd`]): reading rows as the descriptions say, writing them, and the mark
//! that makes an unfinished copy of a file.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bluetrace_authority::store::StoreError;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, ToSql, TransactionBehavior, ffi, params_from_iter};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::error::TransactionError;
use super::open::{APPLICATION, Access, Database, OpenError, SqliteOptions, UNFINISHED_COPY};
use crate::copy::rows::{Batch, Key, KeyValue, Value};
use crate::copy::table::{Engine, Table};
use crate::copy::tables::{TABLES, countable};
use crate::copy::{BATCH, Batches};

/// A database that is copied, written or checked.
#[derive(Debug, Clone)]
pub(crate) struct SqliteEnd {
    database: Database,
    connection: Arc<Mutex<Connection>>,
}

type Result<T> = std::result::Result<T, StoreError>;

impl SqliteEnd {
    /// One to read, whose schema is this program's.
    pub(crate) fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let database = Database { path: path.into(), options: SqliteOptions::default() };
        database.require_present_schema()?;
        let connection = Arc::new(Mutex::new(database.open(Access::Read)?));
        Ok(Self { database, connection })
    }

    /// One to write: a new one, an empty one, or an unfinished copy. A store of an earlier schema is left as it is.
    pub(crate) fn open_or_make(path: &Path) -> std::result::Result<Self, OpenError> {
        let database = Database { path: path.into(), options: SqliteOptions::default() };
        let found = if path.exists() { database.require_present_schema() } else { database.prepare() };
        match found {
            Ok(()) | Err(OpenError::UnfinishedCopy { .. }) => {}
            // a file without tables
            Err(OpenError::Older { found: 0, .. }) => database.prepare()?,
            Err(error) => return Err(error),
        }
        let connection = Arc::new(Mutex::new(database.open(Access::Write)?));
        Ok(Self { database, connection })
    }

    /// From now on what is read is of one moment, this one.
    pub(crate) fn look_anew(&self) -> Result<()> {
        self.with(|connection| {
            if !connection.is_autocommit() {
                connection.execute_batch("COMMIT")?;
            }
            // the moment is that of the first statement
            connection.execute_batch("BEGIN; SELECT 1 FROM sqlite_schema")
        })
    }

    /// How many rows there are, out of sight or not.
    pub(crate) async fn count(&self) -> Result<u64> {
        self.aside(|connection| {
            let mut rows = 0;
            for table in countable() {
                let query = format!("SELECT count(*) FROM {}", table.name);
                rows += connection.query_row(&query, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
            }
            Ok(rows)
        })
        .await
    }

    /// Reads a table behind a key, on a thread of its own.
    pub(crate) fn read(&self, table: &'static Table, after: Option<Key>) -> Batches {
        let (sender, batches) = mpsc::channel(1);
        let end = self.clone();
        spawn_blocking(move || {
            let read = end.with(|connection| read(connection, table, after.as_ref(), &sender));
            if let Err(error) = read {
                // whoever asked may have gone
                _ = sender.blocking_send(Err(error));
            }
        });
        batches
    }

    /// The numbers that a statement finds.
    pub(crate) async fn numbers(&self, query: &str) -> Result<Vec<i64>> {
        let query = query.to_owned();
        self.aside(move |connection| connection.prepare(&query)?.query_map([], |row| row.get(0))?.collect()).await
    }

    /// What SQLite itself finds wrong with the file, a line each.
    pub(crate) async fn damage(&self) -> Result<Vec<String>> {
        self.aside(|connection| {
            let mut query = connection.prepare("PRAGMA integrity_check(20)")?;
            let lines: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            Ok(lines.into_iter().filter(|line| line != "ok").collect())
        })
        .await
    }

    /// What an unfinished copy says of itself.
    pub(crate) fn mark(&self) -> Result<Option<String>> {
        self.with(|connection| {
            let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
            if application != UNFINISHED_COPY {
                return Ok(None);
            }
            connection.query_row("SELECT mark FROM copy_mark", [], |row| row.get(0)).optional()
        })
    }

    /// Makes an empty database an unfinished copy. `false` if it is not empty.
    pub(crate) fn begin(&self, mark: &str) -> Result<bool> {
        self.change(|transaction| {
            for table in countable() {
                if transaction.prepare(&format!("SELECT 1 FROM {}", table.name))?.exists([])? {
                    return Ok(false);
                }
            }
            if transaction.prepare("SELECT 1 FROM sqlite_sequence WHERE seq > 0")?.exists([])? {
                return Ok(false);
            }
            transaction.execute_batch("CREATE TABLE copy_mark (mark TEXT NOT NULL) STRICT")?;
            transaction.execute("INSERT INTO copy_mark (mark) VALUES (?1)", [mark])?;
            transaction.pragma_update(None, "application_id", UNFINISHED_COPY)?;
            transaction.execute_batch(FRESH_COUNTERS)?;
            Ok(true)
        })
    }

    /// Deletes all that was copied.
    pub(crate) async fn begin_again(&self, before: String, mark: String) -> Result<()> {
        self.aside(move |connection| {
            in_transaction(connection, |transaction| {
                for table in countable() {
                    transaction.execute(&format!("DELETE FROM {}", table.name), [])?;
                }
                transaction.execute("DELETE FROM sealing_key_bytes", [])?;
                transaction.execute_batch(FRESH_COUNTERS)?;
                replace_mark(transaction, &before, &mark)
            })
        })
        .await
    }

    /// Writes rows, and with them how far the copy is. `false` if they do not fit what is there.
    pub(crate) async fn write(
        &self,
        table: &'static Table,
        batch: Batch,
        before: String,
        mark: String,
    ) -> Result<bool> {
        self.aside(move |connection| {
            let written = in_transaction(connection, |transaction| {
                insert(transaction, table, &batch)?;
                replace_mark(transaction, &before, &mark)
            });
            match written {
                Err(error) if does_not_fit(&error) => Ok(false),
                written => written.map(|()| true),
            }
        })
        .await
    }

    pub(crate) fn set_mark(&self, before: &str, mark: &str) -> Result<()> {
        self.change(|transaction| replace_mark(transaction, before, mark))
    }

    /// Makes a database like every other of it, whole and in one file.
    pub(crate) async fn finish(&self) -> Result<()> {
        self.aside(|connection| {
            in_transaction(connection, |transaction| {
                transaction.execute_batch("DROP TABLE copy_mark")?;
                transaction.pragma_update(None, "application_id", APPLICATION)
            })?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })
        .await
    }

    fn change<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| in_transaction(connection, work))
    }

    /// What may take long, on a thread of its own.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let end = self.clone();
        let done = spawn_blocking(move || end.with(work)).await;
        done.unwrap_or_else(|_| Err(StoreError::Failed("work on the database has ended early".into())))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection: MutexGuard<'_, _> = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(|error| TransactionError::new(&error, &self.database.path).into())
    }
}

/// Also ends what was being looked at.
fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    if !connection.is_autocommit() {
        connection.execute_batch("COMMIT")?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

fn insert(connection: &Connection, table: &'static Table, batch: &Batch) -> rusqlite::Result<()> {
    let mut statements = Vec::new();
    for statement in table.inserts(Engine::Sqlite) {
        statements.push(connection.prepare_cached(&statement)?);
    }
    for row in 0..batch.len() {
        for (place, statement) in statements.iter_mut().enumerate() {
            let values = (0..statement.parameter_count()).map(|column| batch.value(column, row));
            let written = statement.execute(params_from_iter(values))?;
            if place == 0 && written != 1 {
                return Err(rusqlite::Error::StatementChangedRows(written));
            }
        }
    }
    Ok(())
}

fn read(
    connection: &Connection,
    table: &'static Table,
    after: Option<&Key>,
    sender: &mpsc::Sender<Result<Batch>>,
) -> rusqlite::Result<()> {
    let mut query = connection.prepare(&table.select(Engine::Sqlite, after.is_some(), None))?;
    let key = after.map_or(&[][..], |key| key.0.as_slice());
    let mut rows = query.query(params_from_iter(key))?;
    let (mut batch, mut read) = (Batch::new(table), 0);
    while let Some(row) = rows.next()? {
        let mut values = [Value::Absent; MOST_COLUMNS];
        for (place, value) in values.iter_mut().enumerate().take(table.columns.len()) {
            *value = match row.get_ref(place)? {
                ValueRef::Null | ValueRef::Real(_) => Value::Absent,
                ValueRef::Integer(value) => Value::Integer(value),
                ValueRef::Text(value) => std::str::from_utf8(value).map_or(Value::Absent, Value::Text),
                ValueRef::Blob(value) => Value::Bytes(value),
            };
        }
        batch.push(table, values.get(..table.columns.len()).unwrap_or_default());
        read += 1;
        if read == BATCH {
            if sender.blocking_send(Ok(std::mem::replace(&mut batch, Batch::new(table)))).is_err() {
                return Ok(());
            }
            read = 0;
        }
    }
    if read > 0 {
        _ = sender.blocking_send(Ok(batch));
    }
    Ok(())
}

/// Whether there is a row of that key or name, or none that a row names, for which [`insert`] writes nothing.
fn does_not_fit(error: &rusqlite::Error) -> bool {
    let is_taken = |code| matches!(code, ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_UNIQUE);
    matches!(error, rusqlite::Error::StatementChangedRows(_))
        || error.sqlite_error().is_some_and(|error| is_taken(error.extended_code))
}

/// Notes how far a copy is, unless it is not where it was.
fn replace_mark(connection: &Connection, before: &str, mark: &str) -> rusqlite::Result<()> {
    let changed = connection.execute("UPDATE copy_mark SET mark = ?2 WHERE mark = ?1", [before, mark])?;
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Value::Absent => ValueRef::Null,
            Value::Integer(value) => ValueRef::Integer(value),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
            Value::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}

impl ToSql for KeyValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
            Self::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}

/// Nothing was given yet. The counter of notices has a row, since copying accounts raises it.
const FRESH_COUNTERS: &str =
    "DELETE FROM sqlite_sequence; INSERT INTO sqlite_sequence (name, seq) VALUES ('notice', 0)";

/// More than any table has.
const MOST_COLUMNS: usize = 16;

const _: () = {
    let mut place = 0;
    while place < TABLES.len() {
        assert!(TABLES[place].columns.len() <= MOST_COLUMNS);
        place += 1;
    }
};
