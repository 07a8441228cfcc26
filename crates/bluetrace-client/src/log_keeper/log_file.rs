//! Owns the contact log's file: appends, removal at the front, and whether others have changed it meanwhile. All of it blocks.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::files;

/// The file itself.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// The file as last written, and what it looked like then; `None` before the first write and after a failure.
    written: Option<(File, Stamp)>,
}

/// One piece of work.
#[derive(Debug)]
pub(super) enum FileWork {
    /// Removes so many lines at the front, and appends whole lines. With nothing to do it only looks after the file.
    Change { forget: usize, append: String },
    /// Writes the whole file.
    Whole(String),
}

/// How the file was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileState {
    Good,
    /// Not as it was left: nothing was written.
    ChangedOutside,
}

/// What a file looks like from outside. An edit changes at least one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

impl LogFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, written: None }
    }

    pub(super) fn perform(&mut self, work: &FileWork) -> io::Result<FileState> {
        let (forget, append) = match work {
            FileWork::Whole(text) => return self.write_whole(text),
            FileWork::Change { forget, append } => (*forget, append.as_bytes()),
        };
        let Some((mut file, stamp)) = self.written.take() else { return Ok(FileState::ChangedOutside) };
        match fs::metadata(&self.path) {
            Ok(found) if Stamp::of(&found) == stamp => {}
            Ok(_) => return Ok(FileState::ChangedOutside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileState::ChangedOutside),
            Err(error) => return Err(error),
        }
        let length = if forget > 0 {
            let (shorter, kept) = self.without_front(&mut file, forget)?;
            file = shorter;
            kept
        } else {
            stamp.length
        };
        file.write_all(append)?;
        let stamp = Stamp::of(&file.metadata()?);
        self.written = Some((file, stamp));
        // someone wrote between the look and the write
        let expected = length + append.len() as u64;
        Ok(if stamp.length == expected { FileState::Good } else { FileState::ChangedOutside })
    }

    fn write_whole(&mut self, text: &str) -> io::Result<FileState> {
        self.written = None;
        let (mut file, beside) = files::create_beside(&self.path)?;
        match file.write_all(text.as_bytes()).and_then(|()| fs::rename(&beside, &self.path)) {
            Ok(()) => {}
            Err(error) => {
                let _ = fs::remove_file(&beside);
                self.shorten_in_place(text)?;
                return Err(error);
            }
        }
        let stamp = Stamp::of(&file.metadata()?);
        self.written = Some((file, stamp));
        Ok(FileState::Good)
    }

    /// A new file with all but the first `lines` lines, in place of the old one; and its length.
    fn without_front(&self, old: &mut File, lines: usize) -> io::Result<(File, u64)> {
        old.seek(SeekFrom::Start(0))?;
        let mut start = 0_u64;
        let mut reader = BufReader::with_capacity(READ_AT_ONCE, &mut *old);
        for _ in 0..lines {
            start += reader.skip_until(b'\n')? as u64;
        }
        old.seek(SeekFrom::Start(start))?;
        let (mut file, beside) = files::create_beside(&self.path)?;
        match io::copy(old, &mut file).and_then(|kept| fs::rename(&beside, &self.path).map(|()| kept)) {
            Ok(kept) => Ok((file, kept)),
            Err(error) => {
                let _ = fs::remove_file(&beside);
                Err(error)
            }
        }
    }

    /// On a full disk there is no room for a second file, but what is over has to go all the same: as many lines as
    /// the old file has room for are written over it, the oldest first. Not whole by rename, so only where that failed.
    fn shorten_in_place(&self, text: &str) -> io::Result<()> {
        let Ok(mut file) = OpenOptions::new().write(true).open(&self.path) else { return Ok(()) };
        let room = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let fitting = text.as_bytes().get(..room.min(text.len())).unwrap_or_default();
        let lines = fitting.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.write_all(fitting.get(..lines).unwrap_or_default())?;
        file.set_len(lines as u64)
    }
}

/// Bytes read at once when looking for the end of the lines to forget.
const READ_AT_ONCE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_full_disk_the_old_file_loses_what_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = LogFile::new(folder.path().join("log"));
        fs::write(&file.path, "over\nkept 1\nkept 2\n").unwrap();
        file.shorten_in_place("kept 1\nkept 2\nkept 3, for which there is no room\n").unwrap();
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "kept 1\nkept 2\n");
        file.shorten_in_place("kept 2\n").unwrap();
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "kept 2\n");
        file.shorten_in_place("").unwrap();
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "");
    }
}
