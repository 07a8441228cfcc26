//! Owns the versions of the schema, and the mark of the authority whose database this is.
//!
//! Versions are applied one after the other in one transaction each, by whoever locks the row that says the present one first;
//! servers that start at the same time wait, and find it done. A version may only add (tables, columns with defaults, indexes), so that
//! servers of the version before go on working while it is applied and until they are replaced.

use bluetrace_authority::store::{SealingKeyRow, StoreError};
use bluetrace_protocol::Timestamp;
use thiserror::Error;
use tokio_postgres::types::Type;

use super::error::{Result, Trouble};
use super::session::Session;
use super::{convert, keys};

/// Why a database cannot be used. Each text is one line that says what is wrong and what to do.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be reached, or does not do what is needed.
    #[error("cannot use the database {place}: {why}")]
    Unavailable {
        /// Where it is, without a password.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Another program's database.
    #[error("{place} belongs to another program: it has tables of the same names; make a database for this one")]
    Foreign {
        /// Where it is, without a password.
        place: String,
    },
    /// A later version of this program has changed the schema.
    #[error(
        "{place} was written by a newer version of this program (schema {found}, this one knows {known}); use that version, \
         or restore a backup from before the upgrade"
    )]
    Newer {
        /// Where it is, without a password.
        place: String,
        /// Its schema.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// Servers with another master key use it.
    #[error(
        "{place} belongs to an authority with another master key; give each of its servers a copy of the same key file, \
         or name another database"
    )]
    OtherKey {
        /// Where it is, without a password.
        place: String,
    },
    /// A copy of another store, which has not been finished.
    #[error(
        "{place} is an unfinished copy of another store; run the same `bluetrace store copy` again, which goes on with it"
    )]
    UnfinishedCopy {
        /// Where it is, without a password.
        place: String,
    },
    /// The system gives no threads.
    #[error("cannot start the threads of the store: {0}")]
    Threads(std::io::Error),
}

impl OpenError {
    pub(super) fn of(place: &str, error: StoreError) -> Self {
        let (StoreError::Unavailable(why) | StoreError::Failed(why)) = error;
        Self::Unavailable { place: place.to_owned(), why }
    }
}

/// What was found of a database when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    Ready,
    Foreign,
    Newer(i64),
    OtherKey,
    UnfinishedCopy,
}

/// What there is to be said of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The version of its schema; 0 if it has none.
    pub schema: i64,
    /// The version that this program writes, to which an older one is brought when it is opened.
    pub known_schema: i64,
    /// Whether it is this authority's, if it is anybody's.
    pub is_own: bool,
    /// The latest moment at which something happened according to its rows.
    pub newest: Option<Timestamp>,
    /// Its sealing keys, if it is this authority's and of a schema that this program knows.
    pub sealing_keys: Vec<SealingKeyRow>,
}

/// What a database with our tables says of itself.
#[derive(Debug)]
pub(crate) struct State {
    /// The version of its schema.
    pub(crate) schema: i64,
    /// The mark of its authority's master key.
    pub(crate) key_mark: String,
    /// Whether it is a copy of another store that has not been finished.
    pub(crate) is_unfinished_copy: bool,
}

impl State {
    /// `None` if our tables are not there.
    pub(super) async fn look(session: &Session) -> Result<Option<Self>> {
        if tables(session).await?.are_ours { Self::read(session).await.map(Some) } else { Ok(None) }
    }

    async fn read(session: &Session) -> Result<Self> {
        let row = session
            .one(
                "SELECT max(value) FILTER (WHERE name = 'schema'), max(value) FILTER (WHERE name = 'master key'),
                        coalesce(bool_or(name = 'copy'), false)
                 FROM bluetrace_state",
                &[],
            )
            .await?;
        let (schema, key_mark) = (row.try_get::<_, Option<&str>>(0)?, row.try_get::<_, Option<&str>>(1)?);
        Ok(Self {
            schema: version(schema.unwrap_or_default())?,
            key_mark: key_mark.unwrap_or_default().to_owned(),
            is_unfinished_copy: row.try_get(2)?,
        })
    }
}

/// Looks at a database, and changes nothing. `None` if it is an unfinished copy.
pub(super) async fn inspect(session: &Session, key_mark: &str, now: Timestamp) -> Result<Option<Inspection>> {
    let tables = tables(session).await?;
    if !tables.are_ours {
        let (is_own, newest, sealing_keys) = (!tables.are_anybodys, None, Vec::new());
        return Ok(Some(Inspection { schema: 0, known_schema: SCHEMA, is_own, newest, sealing_keys }));
    }
    let State { schema, key_mark: found, is_unfinished_copy } = State::read(session).await?;
    if is_unfinished_copy {
        return Ok(None);
    }
    let newest = session
        .one(
            "SELECT greatest((SELECT max(created) FROM account), (SELECT max(begun) FROM upload),
                             (SELECT max(finished) FROM upload))",
            &[],
        )
        .await?;
    let newest = convert::optional_time(&newest, 0)?;
    let is_own = found == key_mark;
    let sealing_keys = if is_own && schema <= SCHEMA { keys::list(session, now).await? } else { Vec::new() };
    Ok(Some(Inspection { schema, known_schema: SCHEMA, is_own, newest, sealing_keys }))
}

/// Brings the schema up to date, and marks a new database as this authority's. In a transaction.
pub(super) async fn prepare(session: &Session, key_mark: &str) -> Result<Opened> {
    // a user that may not make tables need not, where there is nothing to make
    let tables = tables(session).await?;
    if tables.are_anybodys && !tables.are_ours {
        return Ok(Opened::Foreign);
    }
    if !tables.are_ours {
        match session.batch("CREATE TABLE bluetrace_state (name text PRIMARY KEY, value text NOT NULL)").await {
            // another server has been first
            Err(Trouble::Duplicate) => return Err(Trouble::Again),
            outcome => outcome?,
        }
        session
            .execute(
                "INSERT INTO bluetrace_state (name, value) VALUES ('schema', '0'), ('master key', $1)",
                &[(&key_mark, Type::TEXT)],
            )
            .await?;
    }
    let found = session.one("SELECT value FROM bluetrace_state WHERE name = 'schema' FOR UPDATE", &[]).await?;
    let found = version(found.try_get(0)?)?;
    if found > SCHEMA {
        return Ok(Opened::Newer(found));
    }
    let mark = session.one("SELECT value FROM bluetrace_state WHERE name = 'master key'", &[]).await?;
    if mark.try_get::<_, &str>(0)? != key_mark {
        return Ok(Opened::OtherKey);
    }
    if session.row("SELECT 1 FROM bluetrace_state WHERE name = 'copy'", &[]).await?.is_some() {
        return Ok(Opened::UnfinishedCopy);
    }
    for (version, statements) in (1_i64..).zip(VERSIONS) {
        if version > found {
            session.batch(statements).await?;
            session
                .execute(
                    "UPDATE bluetrace_state SET value = $1 WHERE name = 'schema'",
                    &[(&version.to_string(), Type::TEXT)],
                )
                .await?;
        }
    }
    Ok(Opened::Ready)
}

/// What tables of our names there are.
struct Tables {
    are_ours: bool,
    are_anybodys: bool,
}

/// In one statement: another server may be making them.
async fn tables(session: &Session) -> Result<Tables> {
    let row = session
        .one(
            "SELECT count(*) FILTER (WHERE c.relname = 'bluetrace_state') > 0, count(*) > 0
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname = ANY (current_schemas(false)) AND c.relname IN ('bluetrace_state', 'account', 'upload')",
            &[],
        )
        .await?;
    Ok(Tables { are_ours: row.try_get(0)?, are_anybodys: row.try_get(1)? })
}

fn version(text: &str) -> Result<i64> {
    text.parse().map_err(|_| Trouble::failed("the schema has no version"))
}

/// The newest schema this program knows.
pub(crate) const SCHEMA: i64 = 2;

/// One for each version.
const VERSIONS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];
