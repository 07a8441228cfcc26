//! Owns how an authority is put together from its data folder: store, master key, password pool, rules. The server, the
//! demonstration and the operator's commands all begin here.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bluetrace_authority::passwords::PasswordPool;
use bluetrace_authority::{Authority, Policy};
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::sqlite::SqliteStore;

use crate::command_line::AuthorityFolder;
use crate::system;

/// An authority and the store it keeps in its folder.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) authority: Arc<Authority>,
    pub(crate) store: Arc<SqliteStore>,
}

impl Installation {
    /// Opens the authority that lives in a folder; makes what is missing.
    pub(crate) fn open(folder: &DataFolder, policy: Policy, passwords: Arc<dyn PasswordPool>) -> anyhow::Result<Self> {
        let master_key = folder.master_key(system::seed()?)?;
        let store = Arc::new(SqliteStore::open(&folder.database())?);
        let authority = Authority::new(store.clone(), passwords, policy, &master_key, system::seed()?);
        Ok(Self { authority: Arc::new(authority), store })
    }

    /// Opens the authority that lives in a folder already, for a look or a change from the command line.
    pub(crate) fn open_existing(folder: &AuthorityFolder, passwords: Arc<dyn PasswordPool>) -> anyhow::Result<Self> {
        if !exists(&folder.data_dir)? {
            let folder = folder.data_dir.display();
            bail!(
                "there is no authority in {folder}; name its folder with --data-dir, or start `bluetrace server` once"
            );
        }
        Self::open(&DataFolder::open(&folder.data_dir)?, Policy::default(), passwords)
    }
}

fn exists(folder: &Path) -> anyhow::Result<bool> {
    let database = DataFolder::open_existing(folder).database();
    database.try_exists().with_context(|| format!("cannot look into {}", folder.display()))
}
