//! Owns one connection to the database and what may be done on it ([`Session`]): where it leads, whether what is committed
//! there is durable, and statements that leave no trace on it.
//!
//! A statement is never prepared under a name: it is sent whole, with the types of its parameters, in one round trip. So a
//! connection has no state, and a pooler may put each transaction on another one (`PgBouncer` in transaction mode). No time-out is
//! set on the server either. One that ended a `COMMIT` in its wait for a standby would have it acknowledged all the same; here
//! the waiting ends at this end, where nothing is acknowledged then ([`Session::abandon`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, Socket};
use tracing::debug;

use super::error::{Result, Trouble};
use super::ids::Ids;
use super::place::PostgresPlace;
use super::pool::PostgresOptions;
use super::tls::PostgresTls;

/// A connection, and what statements need beside it.
pub(super) struct Session {
    client: Client,
    /// The task that moves its bytes.
    driver: AbortHandle,
    tls: Option<PostgresTls>,
    pub(super) ids: Arc<Ids>,
}

/// A value of a statement, with its type.
pub(super) type Value<'a> = (&'a (dyn ToSql + Sync), Type);

impl Session {
    /// Connects to the first host that takes writes. Each host has this long for all of it: name, TCP, TLS, password.
    pub(super) async fn open(place: &PostgresPlace, options: &PostgresOptions, ids: &Arc<Ids>) -> Result<Self> {
        let mut trouble = Trouble::Unavailable("the URL of the store names no host".into());
        for host in &place.hosts {
            let until = Instant::now() + options.connect_timeout;
            let silent = || Trouble::Unavailable("the database does not answer".into());
            trouble = match timeout_at(until, Self::connect(host, place.tls.clone(), Arc::clone(ids))).await {
                Ok(Ok(session)) => match timeout_at(until, session.examine(options)).await {
                    Ok(Ok(())) => return Ok(session),
                    Ok(Err(trouble)) => trouble,
                    Err(_) => {
                        // it would wait for the answer, and keep its socket, long after anybody cares
                        session.driver.abort();
                        silent()
                    }
                },
                Ok(Err(trouble)) => trouble,
                Err(_) => silent(),
            };
            if let Trouble::Lost(text) | Trouble::Failed(text) = trouble {
                trouble = Trouble::Unavailable(text);
            }
        }
        Err(trouble)
    }

    async fn connect(host: &Config, tls: Option<PostgresTls>, ids: Arc<Ids>) -> Result<Self> {
        let (client, driver) = if let Some(tls) = tls.clone() {
            let (client, connection) = host.connect(tls).await?;
            (client, spawn(connection))
        } else {
            let (client, connection) = host.connect(NoTls).await?;
            (client, spawn(connection))
        };
        Ok(Self { client, driver, tls, ids })
    }

    /// Refuses a database that would acknowledge what it can lose, or that cannot hold what is stored.
    async fn examine(&self, options: &PostgresOptions) -> Result<()> {
        let row = self
            .one(
                "SELECT current_setting('synchronous_commit'), current_setting('fsync'),
                        current_setting('server_encoding'), current_setting('server_version_num')::integer",
                &[],
            )
            .await?;
        let (commit, fsync, encoding): (&str, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let refused = |what: &str| Err(Trouble::Unavailable(what.to_owned()));
        if row.try_get::<_, i32>(3)? < OLDEST_VERSION {
            return refused("the database is older than PostgreSQL 14");
        }
        if encoding != "UTF8" {
            return refused("the database is not encoded in UTF8; make one that is");
        }
        if options.requires_durability && commit == "off" {
            return refused(
                "the database has synchronous_commit = off, and would acknowledge what it can lose; set it to on",
            );
        }
        if options.requires_durability && fsync == "off" {
            return refused("the database has fsync = off, and would acknowledge what it can lose; set it to on");
        }
        Ok(())
    }

    /// All rows of a statement.
    pub(super) async fn rows(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let values: Vec<_> = values.iter().map(|(value, kind)| (*value, kind.clone())).collect();
        Ok(self.client.query_typed(statement, &values).await?)
    }

    /// The row of a statement that has at most one.
    pub(super) async fn row(&self, statement: &str, values: &[Value<'_>]) -> Result<Option<Row>> {
        Ok(self.rows(statement, values).await?.pop())
    }

    /// The one row of a statement that always has one.
    pub(super) async fn one(&self, statement: &str, values: &[Value<'_>]) -> Result<Row> {
        self.row(statement, values).await?.ok_or_else(|| Trouble::failed("a row of the database is missing"))
    }

    /// Does a statement, and tells how many rows it has changed.
    pub(super) async fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<u64> {
        let values: Vec<_> = values.iter().map(|(value, kind)| (*value, kind.clone())).collect();
        Ok(self.client.execute_typed(statement, &values).await?)
    }

    /// Does statements that have no values.
    pub(super) async fn batch(&self, statements: &str) -> Result<()> {
        Ok(self.client.batch_execute(statements).await?)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends the connection, whatever is under way on it; the server is asked to break that off.
    pub(super) async fn abandon(self) {
        let cancel = self.client.cancel_token();
        let cancelling = async {
            match self.tls {
                Some(tls) => cancel.cancel_query(tls).await,
                None => cancel.cancel_query(NoTls).await,
            }
        };
        // a courtesy: what is not broken off finds nobody to answer to
        let is_cancelled = matches!(timeout(CANCEL_PATIENCE, cancelling).await, Ok(Ok(())));
        debug!(is_cancelled, "gave up a connection to the database");
        self.driver.abort();
    }
}

fn spawn<T>(connection: tokio_postgres::Connection<Socket, T>) -> AbortHandle
where
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    // how it ends is told by the statements that fail
    tokio::spawn(async move { drop(connection.await) }).abort_handle()
}

/// The oldest PostgreSQL that has what is used here (`inhdetachpending`).
const OLDEST_VERSION: i32 = 140_000;

/// How long the server is asked to break something off.
const CANCEL_PATIENCE: Duration = Duration::from_secs(1);
