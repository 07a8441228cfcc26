//! Owns how an authority is put together from its data folder: store, master key, password pool, rules. The server, the
//! demonstration and the operator's commands all begin here.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bluetrace_authority::passwords::PasswordPool;
use bluetrace_authority::store::Store;
use bluetrace_authority::{Authority, MasterKey, Policy};
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::http::Probe;
use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};
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
        let master_key = folder.master_key(system::seed()?)?;
        let database = match store {
            None => Database::Folder(Arc::new(SqliteStore::open(&folder.database())?)),
            Some(url) => Database::Shared(Arc::new(open_shared(url, &master_key)?)),
        };
        let authority = Authority::new(database.store(), passwords, policy, &master_key, system::seed()?);
        Ok(Self { authority: Arc::new(authority), database })
    }

    /// Opens the authority that lives in a folder already, for a look or a change from the command line.
    pub(crate) fn open_existing(folder: &AuthorityFolder, passwords: Arc<dyn PasswordPool>) -> anyhow::Result<Self> {
        let path = folder.data_dir.display();
        match &folder.store {
            None if !has_database(&folder.data_dir)? => {
                bail!(
                    "there is no authority in {path}; name its folder with --data-dir, or start `bluetrace server` once"
                )
            }
            Some(_) if DataFolder::open_existing(&folder.data_dir).existing_master_key()?.is_none() => bail!(
                "there is no master key in {path}; name the folder of a server of this authority with --data-dir, \
                 or put a copy of its master.key there"
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

fn open_shared(url: &StoreUrl, master_key: &MasterKey) -> anyhow::Result<PostgresStore> {
    let (place, options) = (shared_place(url)?, PostgresOptions::default());
    Ok(PostgresStore::open(place, options, &master_key.mark(), system::seed()?)?)
}

fn has_database(folder: &Path) -> anyhow::Result<bool> {
    let database = DataFolder::open_existing(folder).database();
    database.try_exists().with_context(|| format!("cannot look into {}", folder.display()))
}
