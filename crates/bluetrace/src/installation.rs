//! Owns how an authority is put together from its data folder: store, master key, password pool, rules. The server, the
//! demonstration and the operator's commands all begin here.

use std::sync::Arc;

use anyhow::{anyhow, bail, ensure};
use bluetrace_authority::passwords::PasswordPool;
use bluetrace_authority::store::Store;
use bluetrace_authority::{Authority, MasterKey, Policy};
use bluetrace_protocol::Timestamp;
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::http::Probe;
use bluetrace_server::postgres::{OpenError, PostgresOptions, PostgresPlace, PostgresStore};
use bluetrace_server::sqlite::SqliteStore;
use tracing::warn;

use crate::command_line::{AuthorityFolder, StoreUrl};
use crate::system;

/// An authority and its database.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) authority: Arc<Authority>,
    pub(crate) database: Database,
}

/// The database of an authority.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    /// In a file of the data folder, for one server.
    Folder(Arc<SqliteStore>),
    /// Elsewhere, for several servers.
    Shared(Arc<PostgresStore>),
}

impl Installation {
    /// Opens the authority that lives in a folder, and whose database is there or elsewhere; makes what is missing.
    pub(crate) fn open(
        folder: &DataFolder,
        store: Option<&StoreUrl>,
        policy: Policy,
        passwords: Arc<dyn PasswordPool>,
    ) -> anyhow::Result<Self> {
        let (master_key, database) = match store {
            None => {
                let master_key = folder.master_key(system::seed()?)?;
                (master_key, Database::Folder(Arc::new(SqliteStore::open(&folder.database())?)))
            }
            Some(url) => {
                let (master_key, store) = open_shared(url, folder)?;
                (master_key, Database::Shared(Arc::new(store)))
            }
        };
        let authority = Authority::new(database.store(), passwords, policy, &master_key, system::seed()?);
        Ok(Self { authority: Arc::new(authority), database })
    }

    /// Where its store is, without a password.
    pub(crate) fn store_shown(folder: &DataFolder, store: Option<&StoreUrl>) -> anyhow::Result<String> {
        Ok(match store {
            None => format!("SQLite, {}", folder.database().display()),
            Some(url) => shared_place(url)?.to_string(),
        })
    }

    /// Says so if a server could not begin in a folder because the database that it would share has servers already, whose master
    /// key is not there. Makes nothing.
    pub(crate) fn refuse_without_key(folder: &AuthorityFolder, now: Timestamp) -> anyhow::Result<()> {
        let (Some(url), folder) = (&folder.store, DataFolder::open_existing(&folder.data_dir)) else { return Ok(()) };
        if folder.existing_master_key()?.is_some() {
            return Ok(());
        }
        let mark = folder.prepared_master_key().map(|key| key.mark()).unwrap_or_default();
        let place = shared_place(url)?;
        let shown = place.to_string();
        let found = PostgresStore::inspect(place, PostgresOptions::default(), &mark, now)?;
        if found.schema > 0 && !found.is_own { Err(bring_the_key(&shown, &folder)) } else { Ok(()) }
    }

    /// Opens the authority that lives in a folder already, for a look or a change from the command line. A database that is empty
    /// stays so: a look marks nothing as this authority's.
    pub(crate) fn open_existing(folder: &AuthorityFolder, passwords: Arc<dyn PasswordPool>) -> anyhow::Result<Self> {
        if let Some(url) = &folder.store
            && DataFolder::open_existing(&folder.data_dir).existing_master_key()?.is_some()
        {
            let place = shared_place(url)?;
            let shown = place.to_string();
            ensure!(
                PostgresStore::is_begun(place, PostgresOptions::default())?,
                "there is no store in {shown}; start a server on it, or run `bluetrace store migrate`"
            );
        }
        Self::open_or_begin(folder, passwords)
    }

    /// The same, and makes the tables of a database that has none.
    pub(crate) fn open_or_begin(folder: &AuthorityFolder, passwords: Arc<dyn PasswordPool>) -> anyhow::Result<Self> {
        let path = folder.data_dir.display();
        match &folder.store {
            None if !DataFolder::open_existing(&folder.data_dir).has_database()? => {
                let missing = if folder.data_dir.exists() { "" } else { ", which is not there" };
                bail!(
                    "there is no authority in {path}{missing}; name its data folder (--data-dir), or start `bluetrace server` once"
                )
            }
            Some(_) if DataFolder::open_existing(&folder.data_dir).existing_master_key()?.is_none() => bail!(
                "there is no master key in {path}; name the data folder of a server of this authority (--data-dir), or put a copy of its \
                 master.key there"
            ),
            _ => {}
        }
        Self::open(&DataFolder::open(&folder.data_dir)?, folder.store.as_ref(), Policy::default(), passwords)
    }
}

impl Database {
    /// The store, whichever it is.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Folder(store) => store.clone(),
            Self::Shared(store) => store.clone(),
        }
    }

    /// Prepares it for a process that stays.
    pub(crate) async fn settle(&self) {
        if let Self::Folder(store) = self
            && let Err(error) = store.reserve_log().await
        {
            warn!(%error, "every write takes longer; free some space on the disk");
        }
    }

    /// Its queues.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        match self {
            Self::Folder(store) => {
                let (writing, reading) = (store.clone(), store.clone());
                vec![
                    Probe { queue: "rows_to_write", depth: Box::new(move || writing.rows_to_write()) },
                    Probe { queue: "questions", depth: Box::new(move || reading.questions()) },
                ]
            }
            Self::Shared(store) => {
                let waiting = store.clone();
                vec![Probe { queue: "database", depth: Box::new(move || waiting.waiting()) }]
            }
        }
    }

    /// Finishes what is under way, and makes everything durable. Blocks meanwhile.
    pub(crate) fn close(&self) {
        match self {
            Self::Folder(store) => store.close(),
            Self::Shared(store) => store.close(),
        }
    }
}

/// Where a shared database is.
pub(crate) fn shared_place(url: &StoreUrl) -> anyhow::Result<PostgresPlace> {
    Ok(PostgresPlace::parse(&url.0, system::variable("PGPASSWORD").as_deref())?)
}

/// A key that is made here is the folder's only once the database has taken its mark: of servers that begin at the same time one
/// makes it, and the others are left without.
fn open_shared(url: &StoreUrl, folder: &DataFolder) -> anyhow::Result<(MasterKey, PostgresStore)> {
    let (place, options) = (shared_place(url)?, PostgresOptions::default());
    if let Some(master_key) = folder.existing_master_key()? {
        let store = PostgresStore::open(place, options, &master_key.mark(), system::seed()?)?;
        return Ok((master_key, store));
    }
    let master_key = folder.prepare_master_key(system::seed()?)?;
    let shown = place.to_string();
    match PostgresStore::open(place, options, &master_key.mark(), system::seed()?) {
        Ok(store) => {
            folder.keep_master_key()?;
            Ok((master_key, store))
        }
        Err(OpenError::OtherKey { .. }) => {
            folder.drop_master_key();
            Err(bring_the_key(&shown, folder))
        }
        // the database may have taken its mark all the same
        Err(error) => Err(error.into()),
    }
}

fn bring_the_key(place: &str, folder: &DataFolder) -> anyhow::Error {
    let folder = folder.path().display();
    anyhow!(
        "{place} has servers already, and there is no master key in {folder}; copy master.key, certificate.pem and key.pem \
         there from the data folder of one of them, or name another database"
    )
}
