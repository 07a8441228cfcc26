//! Owns the words of `bluetrace store`.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{AuthorityFolder, StoreUrl};

#[derive(Debug, Args)]
pub(crate) struct StoreOptions {
    #[command(subcommand)]
    pub(crate) action: StoreAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreAction {
    /// Bring the store to this program's schema, ahead of its servers.
    Migrate {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Read the whole store, and say whether it is whole; works while the server runs, and changes nothing.
    Check {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Copy a store into a new one, of the same kind or not, and compare both. What was broken off goes on where it was.
    Copy(CopyArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    /// Data folder, or `postgres://USER@HOST/DATABASE`, that no server uses.
    #[arg(value_parser = store_place)]
    pub(crate) from: StorePlace,
    /// Data folder with a copy of the authority's master.key, or `postgres://USER@HOST/DATABASE`. Its store has to be empty.
    #[arg(value_parser = store_place)]
    pub(crate) to: StorePlace,
    /// Copy although programs named `bluetrace` are connected to a database: for idle connections of a pooler.
    #[arg(long)]
    pub(crate) ignore_connections: bool,
}

/// A store as it is named on the command line.
#[derive(Clone)]
pub(crate) enum StorePlace {
    Folder(PathBuf),
    Shared(StoreUrl),
}

impl fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.fmt(f),
            Self::Shared(url) => url.fmt(f),
        }
    }
}

fn store_place(text: &str) -> Result<StorePlace, String> {
    if text.is_empty() {
        return Err("neither a folder nor the URL of a PostgreSQL database".to_owned());
    }
    // a folder of such a name is hardly meant, and what is refused here is repeated, though it may hold a password; so would the
    // name of a folder be that is not there
    let is_scheme = text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("postgres"));
    let is_url = text.contains("://") || ((text.contains('@') || is_scheme) && !Path::new(text).exists());
    Ok(if is_url {
        StorePlace::Shared(StoreUrl(Zeroizing::new(text.to_owned())))
    } else {
        StorePlace::Folder(text.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_password_and_is_no_folder_is_not_shown() {
        for text in ["postgres:/bt:pw@h/x", "bt:pw@h/x", "postgres//bt:pw/x", "POSTGRES:bt-pw", "Postgres://bt:pw@h/x"]
        {
            let shown = format!("{:?}", store_place(text).unwrap());
            assert!(!shown.contains("pw"), "{text}: {shown}");
        }
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("postgres@home");
        std::fs::create_dir(&inner).unwrap();
        for text in [inner.to_str().unwrap(), "bluetrace-data"] {
            assert!(matches!(store_place(text).unwrap(), StorePlace::Folder(_)), "{text}");
        }
    }
}
