//! Owns the authority's data folder: where its files are, who may read them, and which server serves it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bluetrace_authority::MasterKey;
use thiserror::Error;
use zeroize::Zeroizing;

/// A folder with the authority's store, keys and certificate. Its owner alone may enter it.
#[derive(Debug, Clone)]
pub struct DataFolder {
    path: PathBuf,
}

/// The mark of the one server that serves a folder. Given up when it is dropped, and when the process ends in any way.
#[derive(Debug)]
#[must_use = "the folder is free again when the lock is dropped"]
pub struct ServerLock {
    _file: File,
}

/// Why a data folder cannot be used. Each text is one line that says what, where and what to do.
#[derive(Debug, Error)]
pub enum DataFolderError {
    /// It cannot be made or written.
    #[error("cannot use the data folder {}: {source}; check its permissions, or choose another with --data-dir", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its master key cannot be used.
    #[error("the master key {}: {reason}; restore it from a backup, or see that this user can read and write there", path.display())]
    MasterKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its master key is gone, and its database is not.
    #[error(
        "the master key {} is missing, and the database beside it needs it; restore it from a backup, or move {} away to begin anew without what it holds",
        path.display(),
        database.display()
    )]
    MasterKeyMissing {
        /// Where it should be.
        path: PathBuf,
        /// The database.
        database: PathBuf,
    },
    /// Another server serves it.
    #[error("the data folder {} is in use by another server; stop that one, or choose another with --data-dir", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl DataFolder {
    /// Opens a folder, and makes it if there is none. Does not ask whether a server serves it.
    ///
    /// # Errors
    /// [`DataFolderError::Folder`] if it cannot be made or is not a folder.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DataFolderError> {
        let path = path.into();
        match create_private_folder(&path) {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(DataFolderError::Folder { path, source }),
        }
    }

    /// A folder that may or may not be there. Makes nothing.
    pub fn open_existing(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Marks the folder as served by this process.
    ///
    /// # Errors
    /// [`DataFolderError::InUse`] if another server serves it; [`DataFolderError::Folder`] if it cannot be written.
    pub fn lock_for_server(&self) -> Result<ServerLock, DataFolderError> {
        let error = |source| DataFolderError::Folder { path: self.path.clone(), source };
        let file = private_file_options().open(self.path.join(LOCK)).map_err(error)?;
        match file.try_lock() {
            Ok(()) => Ok(ServerLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DataFolderError::InUse { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(error(source)),
        }
    }

    /// Says so if a server serves the folder. Makes nothing.
    ///
    /// # Errors
    /// [`DataFolderError::InUse`] if one does; [`DataFolderError::Folder`] if that cannot be found out.
    pub fn refuse_if_served(&self) -> Result<(), DataFolderError> {
        if self.is_served()? { Err(DataFolderError::InUse { path: self.path.clone() }) } else { Ok(()) }
    }

    /// Whether a server serves the folder. Takes the mark for less than a moment, and makes nothing.
    ///
    /// # Errors
    /// [`DataFolderError::Folder`] if that cannot be found out.
    pub fn is_served(&self) -> Result<bool, DataFolderError> {
        let error = |source| DataFolderError::Folder { path: self.path.clone(), source };
        let file = match File::open(self.path.join(LOCK)) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(error)?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(error(source)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The authority's master key. Where there is none yet, and no database that was made with one, `fresh` becomes it: 32 bytes
    /// of the system's randomness.
    ///
    /// # Errors
    /// [`DataFolderError::MasterKey`] if the file cannot be read or written, or holds no key;
    /// [`DataFolderError::MasterKeyMissing`] if there is a database without it; [`DataFolderError::Folder`] if it cannot be found out
    /// whether there is.
    pub fn master_key(&self, fresh: [u8; 32]) -> Result<MasterKey, DataFolderError> {
        let path = self.path.join(MASTER_KEY);
        let error = |reason: String| DataFolderError::MasterKey { path: path.clone(), reason };
        let read = || fs::read_to_string(&path).map(Zeroizing::new);
        // asked before the key is read: another process that begins this authority now makes the key first
        let has_database = self.has_database()?;
        let text = match read() {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                if has_database {
                    return Err(DataFolderError::MasterKeyMissing { path, database: self.database() });
                }
                let made = write_beside(&path, &MasterKey::new(fresh).to_hex()).and_then(|temporary| {
                    let linked = put_in_place(&temporary, &path);
                    linked
                        .or_else(|taken| if taken.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(taken) })
                });
                made.and_then(|()| read()).map_err(|source| error(source.to_string()))?
            }
            read => read.map_err(|source| error(source.to_string()))?,
        };
        parse_master_key(&text, &path)
    }

    /// The authority's master key, if there is one. Makes nothing.
    ///
    /// # Errors
    /// As for [`DataFolder::master_key`].
    pub fn existing_master_key(&self) -> Result<Option<MasterKey>, DataFolderError> {
        let path = self.path.join(MASTER_KEY);
        match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => parse_master_key(&text, &path).map(Some),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataFolderError::MasterKey { path, reason: source.to_string() }),
        }
    }

    /// A master key that is not the folder's yet: the one that a server before has prepared and neither kept nor dropped, or else
    /// `fresh`, 32 bytes of the system's randomness. For a database elsewhere, which may be another authority's: so nothing that
    /// takes this key for the folder's is there if it is refused, and nothing is lost of it if this process dies before it is kept.
    ///
    /// # Errors
    /// [`DataFolderError::MasterKey`] if it cannot be written.
    pub fn prepare_master_key(&self, fresh: [u8; 32]) -> Result<MasterKey, DataFolderError> {
        if let Some(prepared) = self.prepared_master_key() {
            return Ok(prepared);
        }
        let (path, key) = (self.path.join(MASTER_KEY), MasterKey::new(fresh));
        let written = write_beside(&path, &key.to_hex()).and_then(|temporary| sync_folder_of(&temporary));
        written.map_err(|source| DataFolderError::MasterKey { path, reason: source.to_string() })?;
        Ok(key)
    }

    /// The key that [`DataFolder::prepare_master_key`] would give again, if there is one. Makes nothing.
    pub fn prepared_master_key(&self) -> Option<MasterKey> {
        // one that was not written to its end was not used for anything
        let text =
            fs::read_to_string(self.path.join(MASTER_KEY).with_extension(UNFINISHED)).map(Zeroizing::new).ok()?;
        MasterKey::from_hex(text.trim())
    }

    /// Makes the prepared master key the folder's.
    ///
    /// # Errors
    /// [`DataFolderError::MasterKey`] if that cannot be written, or the folder has another one meanwhile.
    pub fn keep_master_key(&self) -> Result<(), DataFolderError> {
        let path = self.path.join(MASTER_KEY);
        let kept = put_in_place(&path.with_extension(UNFINISHED), &path);
        kept.map_err(|source| DataFolderError::MasterKey { path, reason: source.to_string() })
    }

    /// Forgets the prepared master key, which nothing has been made with.
    pub fn drop_master_key(&self) {
        // what is left is taken by whoever prepares one next
        _ = fs::remove_file(self.path.join(MASTER_KEY).with_extension(UNFINISHED));
    }

    /// The database in it.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// [`DataFolderError::Folder`] if that cannot be found out.
    pub fn has_database(&self) -> Result<bool, DataFolderError> {
        let found = self.database().try_exists();
        found.map_err(|source| DataFolderError::Folder { path: self.path.clone(), source })
    }
}

fn parse_master_key(text: &str, path: &Path) -> Result<MasterKey, DataFolderError> {
    let reason = || "it is not 64 hexadecimal digits".to_owned();
    MasterKey::from_hex(text.trim()).ok_or_else(|| DataFolderError::MasterKey { path: path.into(), reason: reason() })
}

/// Writes a file that its owner alone may read, whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_beside(path, text)?;
    fs::rename(&temporary, path)?;
    sync_folder_of(path)
}

/// Gives a file that is beside its place its name, unless there is one of that name: unlike a rename, a link never takes the
/// place of what another process has made meanwhile.
fn put_in_place(temporary: &Path, path: &Path) -> io::Result<()> {
    let linked = fs::hard_link(temporary, path);
    fs::remove_file(temporary)?;
    linked?;
    sync_folder_of(path)
}

/// Writes the temporary file that is to take the place of `path`.
fn write_beside(path: &Path, text: &str) -> io::Result<PathBuf> {
    let temporary = path.with_extension(UNFINISHED);
    let mut file = private_file_options().truncate(true).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(temporary)
}

/// Makes a rename in the folder of `path` durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Makes a folder that its owner alone may enter, and the folders above it. One that exists is left as it is.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes an empty file that its owner alone may read, or takes from others what they may do with an existing one.
///
/// An existing file is not opened: closing it would undo the locks that this process holds on it otherwise.
pub(crate) fn create_private_file(path: &Path) -> io::Result<()> {
    match private_file_options().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created.map(drop),
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mut permissions = fs::metadata(path)?.permissions();
        if permissions.mode() & 0o077 != 0 {
            permissions.set_mode(permissions.mode() & 0o700);
            fs::set_permissions(path, permissions)?;
        }
    }
    Ok(())
}

fn private_file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// 64 hexadecimal digits. Whoever has it can make resume tokens.
const MASTER_KEY: &str = "master.key";

/// What a file's name ends with that is to take the place of another.
const UNFINISHED: &str = "new";

/// Holds nothing; locked by the server that runs.
const LOCK: &str = "server.lock";

const DATABASE: &str = "authority.sqlite";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_served_by_one_server_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        let folder = DataFolder::open(&path).unwrap();
        let lock = folder.lock_for_server().unwrap();
        let second = DataFolder::open(&path).unwrap().lock_for_server().unwrap_err().to_string();
        assert!(second.contains("a/b is in use by another server"), "{second}");
        drop(lock);
        assert!(folder.lock_for_server().is_ok());
    }

    #[test]
    fn a_master_key_is_made_once_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(home.path()).unwrap();
        let made = folder.master_key([7; 32]).unwrap();
        assert_eq!(*made.to_hex(), "07".repeat(32));
        assert_eq!(folder.master_key([8; 32]).unwrap().to_hex(), made.to_hex());
        fs::write(home.path().join(MASTER_KEY), "short").unwrap();
        let error = folder.master_key([9; 32]).unwrap_err().to_string();
        assert!(error.contains("master.key: it is not 64 hexadecimal digits"), "{error}");
    }

    #[test]
    fn no_master_key_is_made_beside_a_database_that_needs_another() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(home.path()).unwrap();
        fs::write(folder.database(), "").unwrap();
        let error = folder.master_key([7; 32]).unwrap_err().to_string();
        assert!(error.contains("master.key is missing") && error.contains("restore it from a backup"), "{error}");
        assert!(!home.path().join(MASTER_KEY).exists());
        fs::remove_file(folder.database()).unwrap();
        assert!(folder.master_key([7; 32]).is_ok(), "nothing needs another");
    }

    #[test]
    fn a_prepared_master_key_is_the_folders_only_once_it_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(home.path()).unwrap();
        assert_eq!(*folder.prepare_master_key([7; 32]).unwrap().to_hex(), "07".repeat(32));
        assert!(folder.existing_master_key().unwrap().is_none());
        // whoever comes after one that has died
        assert_eq!(*folder.prepare_master_key([8; 32]).unwrap().to_hex(), "07".repeat(32));
        folder.drop_master_key();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        folder.prepare_master_key([9; 32]).unwrap();
        folder.keep_master_key().unwrap();
        assert_eq!(*folder.existing_master_key().unwrap().unwrap().to_hex(), "09".repeat(32));
        assert!(folder.prepared_master_key().is_none());
    }

    #[test]
    fn a_prepared_master_key_never_takes_the_place_of_another() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(home.path()).unwrap();
        folder.prepare_master_key([7; 32]).unwrap();
        fs::write(home.path().join(MASTER_KEY), "08".repeat(32)).unwrap();
        assert!(folder.keep_master_key().is_err());
        assert_eq!(*folder.existing_master_key().unwrap().unwrap().to_hex(), "08".repeat(32));
    }

    #[cfg(unix)]
    #[test]
    fn its_owner_alone_may_enter_it() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(home.path().join("data")).unwrap();
        let lock = folder.lock_for_server().unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(folder.path().into()), 0o700);
        assert_eq!(mode(folder.path().join(LOCK)), 0o600);
        drop(lock);
    }

    #[test]
    fn a_file_in_its_place_is_said_in_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataFolder::open(file.path()).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()) && error.contains("--data-dir"), "{error}");
        assert!(!error.contains('\n'));
    }
}
