//! Owns what a copy or a check asks of a PostgreSQL database ([`PostgresEnd`]): reading rows as the descriptions say, page by page behind the
//! key of the last one, writing them as arrays, and the row of `bluetrace_state` that makes an unfinished copy of a database.
//!
//! It has a connection of its own and no time-outs: a page of it may take long where a disk is slow, and nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use bluetrace_authority::store::StoreError;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::error::{Result, Trouble};
use super::ids::{DAY_S, Ids};
use super::place::{APPLICATION, PostgresPlace};
use super::pool::PostgresOptions;
use super::records;
use super::schema::{self, OpenError, Opened, SCHEMA, State};
use super::session::{Session, Value as Parameter};
use crate::copy::rows::{Batch, Key, KeyValue, Value, Values};
use crate::copy::table::{Engine, Role, Storage, Table};
use crate::copy::tables::countable;
use crate::copy::{BATCH, Batches};

/// A database that is copied, written or checked.
#[derive(Clone)]
pub(crate) struct PostgresEnd {
    session: Arc<Session>,
    shown: String,
    application: String,
}

impl PostgresEnd {
    /// Connects to a database.
    pub(crate) async fn open(
        place: &PostgresPlace,
        options: &PostgresOptions,
        seed: [u8; 32],
    ) -> std::result::Result<Self, OpenError> {
        let shown = place.to_string();
        let ids = Arc::new(Ids::new(seed));
        let session = Session::open(place, options, &ids).await;
        let session = session.map_err(|trouble| OpenError::of(&shown, trouble.into()))?;
        let application = place.hosts.first().and_then(|host| host.get_application_name()).unwrap_or_default();
        Ok(Self { session: Arc::new(session), shown, application: application.to_owned() })
    }

    /// What the database says of itself; `None` if nothing of this program is there.
    pub(crate) async fn state(&self) -> std::result::Result<Option<State>, StoreError> {
        Ok(State::look(&self.session).await?)
    }

    /// Makes the tables of a database that has none. An unfinished copy is left as it is.
    pub(crate) async fn prepare(&self, key_mark: &str) -> std::result::Result<(), OpenError> {
        let place = || self.shown.clone();
        let mut tries = 0;
        loop {
            let prepared = self.transaction(async || schema::prepare(&self.session, key_mark).await).await;
            return match prepared {
                Ok(Opened::Ready | Opened::UnfinishedCopy) => Ok(()),
                Ok(Opened::Foreign) => Err(OpenError::Foreign { place: place() }),
                Ok(Opened::Newer(found)) => Err(OpenError::Newer { place: place(), found, known: SCHEMA }),
                Ok(Opened::OtherKey) => Err(OpenError::OtherKey { place: place() }),
                // somebody else makes them
                Err(Trouble::Again) if tries < MOST_TRIES => {
                    tries += 1;
                    continue;
                }
                Err(trouble) => Err(OpenError::of(&self.shown, trouble.into())),
            };
        }
    }

    /// Whether others of this program are connected to the database, as far as that can be seen: they say so by their names, this
    /// program's or the one that the URL gives.
    pub(crate) async fn is_in_use(&self) -> std::result::Result<bool, StoreError> {
        for _ in 0..MOST_TRIES {
            let count = self
                .session
                .one(
                    "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name IN ($1, $2)",
                    &[(&APPLICATION, Type::TEXT), (&self.application, Type::TEXT)],
                )
                .await?;
            if count.try_get::<_, i64>(0).map_err(Trouble::from)? == 0 {
                return Ok(false);
            }
            // whoever has just ended is seen for a moment longer
            sleep(LINGER).await;
        }
        Ok(true)
    }

    /// From now on what is read is of one moment, this one.
    pub(crate) async fn look_anew(&self) -> std::result::Result<(), StoreError> {
        self.session.batch("ROLLBACK").await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
                     SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0; SELECT 1";
        Ok(self.session.batch(begin).await?)
    }

    /// How many rows there are, out of sight or not.
    pub(crate) async fn count(&self) -> std::result::Result<u64, StoreError> {
        let mut rows = 0;
        for table in countable() {
            let counted = self.session.one(&format!("SELECT count(*) FROM {}", table.name), &[]).await?;
            rows += counted.try_get::<_, i64>(0).map_err(Trouble::from)?.unsigned_abs();
        }
        Ok(rows)
    }

    /// Reads a table behind a key, in a task of its own.
    pub(crate) fn read(&self, table: &'static Table, after: Option<Key>) -> Batches {
        let (sender, batches) = mpsc::channel(1);
        let session = Arc::clone(&self.session);
        tokio::spawn(async move {
            let mut after = after;
            loop {
                let batch = read(&session, table, after.as_ref()).await;
                let is_last = batch.as_ref().map_or(true, |(_, is_last)| *is_last);
                let batch = batch.map(|(batch, _)| batch).map_err(StoreError::from);
                after = batch.as_ref().ok().and_then(|batch| batch.last.clone()).or(after);
                if sender.send(batch).await.is_err() || is_last {
                    return;
                }
            }
        });
        batches
    }

    /// The numbers that a statement finds.
    pub(crate) async fn numbers(&self, query: &str) -> std::result::Result<Vec<i64>, StoreError> {
        let rows = self.session.rows(query, &[]).await?;
        let numbers = rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>();
        Ok(numbers.map_err(Trouble::from)?)
    }

    /// What an unfinished copy says of itself.
    pub(crate) async fn mark(&self) -> std::result::Result<Option<String>, StoreError> {
        let row = self.session.row("SELECT value FROM bluetrace_state WHERE name = 'copy'", &[]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose().map_err(Trouble::from)?)
    }

    /// Makes an empty database an unfinished copy. `false` if it is not empty.
    pub(crate) async fn begin(&self, mark: &str) -> std::result::Result<bool, StoreError> {
        let begun = self.transaction(async || {
            for table in countable() {
                let any = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
                if self.session.one(&any, &[]).await?.try_get(0)? {
                    return Ok(false);
                }
            }
            if self.session.row("SELECT 1 FROM latch WHERE value > 0", &[]).await?.is_some() {
                return Ok(false);
            }
            let values: [Parameter<'_>; 1] = [(&mark, Type::TEXT)];
            self.session.execute("INSERT INTO bluetrace_state (name, value) VALUES ('copy', $1)", &values).await?;
            Ok(true)
        });
        Ok(begun.await?)
    }

    /// Deletes all that was copied.
    pub(crate) async fn begin_again(&self, before: &str, mark: &str) -> std::result::Result<(), StoreError> {
        let begun = self.transaction(async || {
            for table in countable() {
                self.session.batch(&format!("TRUNCATE {}", table.name)).await?;
            }
            self.session.batch("TRUNCATE sealing_key_bytes, asking_number; UPDATE latch SET value = 0").await?;
            self.replace_mark(before, mark).await
        });
        Ok(begun.await?)
    }

    /// Writes rows, and with them how far the copy is. `false` if they do not fit what is there.
    pub(crate) async fn write(
        &self,
        table: &'static Table,
        batch: &Batch,
        before: &str,
        mark: &str,
    ) -> std::result::Result<bool, StoreError> {
        let uploads = if table.name == "uploaded_record" {
            let Some(uploads) = self.uploads(table, batch).await? else { return Ok(false) };
            Some(uploads)
        } else {
            None
        };
        // the numbers of uploads are drawn, and two may be given the same one
        let tries = if table.name == "upload" { MOST_TRIES } else { 1 };
        for _ in 0..tries {
            let write = self.transaction(async || {
                self.insert(table, batch, uploads.as_ref()).await?;
                self.replace_mark(before, mark).await
            });
            match write.await {
                Err(Trouble::Duplicate) => {}
                written => return Ok(written.map(|()| true)?),
            }
        }
        Ok(false)
    }

    pub(crate) async fn set_mark(&self, before: &str, mark: &str) -> std::result::Result<(), StoreError> {
        Ok(self.transaction(async || self.replace_mark(before, mark).await).await?)
    }

    /// Lets the database learn what it holds, so that it plans well.
    pub(crate) async fn analyze(&self) -> std::result::Result<(), StoreError> {
        for table in countable() {
            self.session.batch(&format!("ANALYZE {}", table.name)).await?;
        }
        Ok(())
    }

    /// Makes a database like every other.
    pub(crate) async fn finish(&self) -> std::result::Result<(), StoreError> {
        self.session.batch("ROLLBACK; DELETE FROM bluetrace_state WHERE name = 'copy'").await?;
        Ok(())
    }

    /// `uploads` are the numbers that the uploads of records have here.
    async fn insert(&self, table: &'static Table, batch: &Batch, uploads: Option<&Vec<i64>>) -> Result<()> {
        let (mut names, mut values) = (Vec::new(), Vec::<Parameter<'_>>::new());
        for (column, sent) in table.columns.iter().zip(&batch.columns) {
            match (uploads, column.role) {
                (Some(uploads), Role::Own) => values.push((uploads, Type::INT8_ARRAY)),
                (Some(_), Role::Presence) => continue,
                _ => values.push(array(sent)),
            }
            names.push(column.name);
        }
        let parameters: Vec<_> = (1..=names.len()).map(|place| format!("${place}")).collect();
        let rows = format!("WITH n AS (SELECT * FROM unnest({}) AS n ({}))", parameters.join(", "), names.join(", "));
        for (place, statement) in table.inserts(Engine::Postgres).iter().enumerate() {
            let written = self.session.execute(&format!("{rows} {statement}"), &values).await?;
            if place == 0 && usize::try_from(written) != Ok(batch.len()) {
                return Err(Trouble::failed("the copy lacks what a row names"));
            }
        }
        if table.name == "upload" {
            let mut days: Vec<_> = batch.integers(table, "forget_at").map(|at| at / DAY_S).collect();
            days.sort_unstable();
            days.dedup();
            for day in days {
                records::make_partition(&self.session, day).await?;
            }
        }
        Ok(())
    }

    /// The numbers that the uploads of these records have here; `None` if one is not here. Asked for once for each upload, and not
    /// for each record.
    async fn uploads(&self, table: &'static Table, batch: &Batch) -> Result<Option<Vec<i64>>> {
        let (mut accounts, mut names, mut counts) = (Vec::<i64>::new(), Vec::<&str>::new(), Vec::<usize>::new());
        for row in 0..batch.len() {
            let (Value::Integer(account), Value::Text(name)) =
                (batch.named(table, "account", row), batch.named(table, "name", row))
            else {
                return Err(Trouble::failed("a record names no upload"));
            };
            match counts.last_mut() {
                Some(count) if accounts.last() == Some(&account) && names.last() == Some(&name) => *count += 1,
                _ => {
                    accounts.push(account);
                    names.push(name);
                    counts.push(1);
                }
            }
        }
        let rows = self
            .session
            .rows(
                "SELECT u.id FROM unnest($1, $2) WITH ORDINALITY AS n (account, name, place)
                 JOIN upload AS u ON u.account = n.account AND u.name = n.name ORDER BY n.place",
                &[(&accounts, Type::INT8_ARRAY), (&names, Type::TEXT_ARRAY)],
            )
            .await?;
        if rows.len() != counts.len() {
            return Ok(None);
        }
        let mut uploads = Vec::with_capacity(batch.len());
        for (row, count) in rows.iter().zip(counts) {
            uploads.extend(std::iter::repeat_n(row.try_get::<_, i64>(0)?, count));
        }
        Ok(Some(uploads))
    }

    async fn replace_mark(&self, before: &str, mark: &str) -> Result<()> {
        let values: [Parameter<'_>; 2] = [(&before, Type::TEXT), (&mark, Type::TEXT)];
        let replace = "UPDATE bluetrace_state SET value = $2 WHERE name = 'copy' AND value = $1";
        if self.session.execute(replace, &values).await? == 1 {
            return Ok(());
        }
        Err(Trouble::Unavailable("another copy to this database is under way; let it end, or end it".into()))
    }

    async fn transaction<T>(&self, work: impl AsyncFn() -> Result<T>) -> Result<T> {
        let begin = "ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0";
        self.session.batch(begin).await?;
        match work().await {
            Ok(done) => self.session.batch("COMMIT").await.map(|()| done),
            Err(trouble) => {
                // a connection that is lost has done it by itself
                _ = self.session.batch("ROLLBACK").await;
                Err(trouble)
            }
        }
    }
}

impl std::fmt::Debug for PostgresEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresEnd({})", self.shown)
    }
}

/// A page of a table, and whether it is the last one.
async fn read(session: &Session, table: &'static Table, after: Option<&Key>) -> Result<(Batch, bool)> {
    let query = table.select(Engine::Postgres, after.is_some(), Some(BATCH));
    let key = after.map_or(&[][..], |key| key.0.as_slice());
    let values: Vec<Parameter<'_>> = key.iter().map(parameter).collect();
    let rows = session.rows(&query, &values).await?;
    let mut batch = Batch::new(table);
    for row in &rows {
        let columns = table.columns.iter().enumerate();
        let values =
            columns.map(|(place, column)| value(row, place, column.kind.storage())).collect::<Result<Vec<_>>>()?;
        batch.push(table, &values);
    }
    Ok((batch, rows.len() < BATCH))
}

fn value(row: &Row, place: usize, storage: Storage) -> Result<Value<'_>> {
    Ok(match storage {
        Storage::Integer => row.try_get::<_, Option<i64>>(place)?.map_or(Value::Absent, Value::Integer),
        Storage::Text => row.try_get::<_, Option<&str>>(place)?.map_or(Value::Absent, Value::Text),
        Storage::Bytes => row.try_get::<_, Option<&[u8]>>(place)?.map_or(Value::Absent, Value::Bytes),
    })
}

fn parameter(value: &KeyValue) -> Parameter<'_> {
    match value {
        KeyValue::Integer(value) => (value as &(dyn ToSql + Sync), Type::INT8),
        KeyValue::Text(value) => (value, Type::TEXT),
        KeyValue::Bytes(value) => (value, Type::BYTEA),
    }
}

fn array(values: &Values) -> Parameter<'_> {
    match values {
        Values::Integers(values) => (values as &(dyn ToSql + Sync), Type::INT8_ARRAY),
        Values::Texts(values) => (values, Type::TEXT_ARRAY),
        Values::Bytes(values) => (values, Type::BYTEA_ARRAY),
    }
}

/// How often something is tried again that somebody else was in the way of.
const MOST_TRIES: usize = 20;

/// How long each time is waited for connections that end.
const LINGER: Duration = Duration::from_millis(100);
