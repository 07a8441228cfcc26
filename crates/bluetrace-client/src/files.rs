//! Owns how files come to be in the data folder: private to the user, written whole by rename, and named after a username
//! in a way that no name can leave the folder.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bluetrace_protocol::Username;

/// The files of one user in the data folder.
#[derive(Clone)]
pub(crate) struct UserFiles {
    folder: PathBuf,
    stem: String,
}

/// Holds the user's lock file: while it lives, no other client uses these files. Freed by the kernel with the process.
#[derive(Debug)]
pub(crate) struct UserLock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process holds it.
    Held,
    /// The lock file could not be made or opened.
    Io(io::Error),
}

impl UserFiles {
    /// Names the files of `username` in `folder`; touches nothing.
    pub(crate) fn new(folder: &Path, username: &Username) -> Self {
        Self { folder: folder.to_path_buf(), stem: file_stem(username.reveal()) }
    }

    /// Whether any file of the user is there, as for everyone who has logged in before.
    pub(crate) fn are_there(&self) -> bool {
        [self.lock_file(), self.contact_log(), self.upload()].iter().any(|file| file.exists())
    }

    /// Takes the user's lock, and makes its file if there is none.
    pub(crate) fn lock(&self) -> Result<UserLock, LockError> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(self.lock_file());
        let file = file.map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => Ok(UserLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held),
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    /// The data folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the device has heard (PROTOCOL section 3).
    pub(crate) fn contact_log(&self) -> PathBuf {
        self.of("contactlog.txt")
    }

    /// An upload that the authority has not acknowledged completely.
    pub(crate) fn upload(&self) -> PathBuf {
        self.of("upload.txt")
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.join(format!("{}.lock", self.stem))
    }

    fn of(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}_{kind}", self.stem))
    }
}

/// Makes a data folder if there is none, for this user alone, and sees whether it can be written.
pub(crate) fn prepare_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let probe = folder.join(".probe");
    OpenOptions::new().create(true).append(true).mode(0o600).open(&probe)?;
    remove(&probe)
}

/// Opens `<path>.new` beside `path`, empty and private. To be renamed to `path` once it is whole.
pub(crate) fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    let beside = PathBuf::from(name);
    // a leftover may have been made by anyone with any mode
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().create_new(true).read(true).append(true).mode(0o600).open(&beside)?;
    Ok((file, beside))
}

/// Writes a private file whole: at any moment the path names the old content or the new, and it is on the disk when the call
/// returns.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let (mut file, beside) = create_beside(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Removes a file; one that is not there is removed already.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The bytes of a file, or `None` if there is none.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The username with every byte that might mean something to a file system as `%XX`: phone numbers stay as they are.
/// Distinct names stay distinct, and 64 bytes become at most 192, so that every suffix fits into a file name.
fn file_stem(username: &str) -> String {
    let mut stem = String::with_capacity(username.len());
    for (at, byte) in username.bytes().enumerate() {
        let is_plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'_' | b'@') || (byte == b'.' && at > 0);
        if is_plain {
            stem.push(char::from(byte));
        } else {
            // writing to a String cannot fail
            let _ = write!(stem, "%{byte:02X}");
        }
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn phone_numbers_keep_their_form_and_no_name_leaves_the_folder() {
        for (username, stem) in [
            ("+61410999999", "+61410999999"),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            (".hidden", "%2Ehidden"),
            ("a%2Fb", "a%252Fb"),
            ("a\\b:c*d", "a%5Cb%3Ac%2Ad"),
        ] {
            assert_eq!(file_stem(username), stem);
        }
        assert!(file_stem(&"/".repeat(64)).len() + "_contactlog.txt.new".len() <= 255);
    }

    #[test]
    fn a_user_is_locked_once_and_freed_by_the_end_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let files = |name| UserFiles::new(folder.path(), &Username::parse(name).unwrap());
        let first = files("a").lock().unwrap();
        assert!(matches!(files("a").lock(), Err(LockError::Held)));
        assert!(files("b").lock().is_ok(), "another user in the same folder");
        drop(first);
        assert!(files("a").lock().is_ok());
    }

    #[test]
    fn files_are_private_and_leftovers_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(folder.path().join("f.new"), "left over").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
