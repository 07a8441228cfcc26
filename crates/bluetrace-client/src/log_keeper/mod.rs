//! Owns the contact log of a device: in memory, and what its file still lacks of it.
//!
//! [`LogFile`] is the file, and does its work on a thread where waiting for a disk holds up nobody. [`LogKeeper`] holds the
//! log together with what the file lacks, and gives the file one piece of work at a time: what comes
//! meanwhile waits and goes in one piece, so a burst of beacons costs a few writes, and expiry, whose times are whole seconds,
//! at most one rewrite a second. A rewrite copies what stays from file to file inside the kernel and formats nothing.

mod log_file;

use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bluetrace_protocol::{ContactLog, ReadReport, Record, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::log_file::{FileState, FileWork, LogFile};
use crate::files;

/// The contact log in memory, and its file.
///
/// Invariant: unless the file is to be written whole, it holds, once the work under way is done, `forgotten` lines and then
/// those of the log but for its last `unwritten_lines`, so `unwritten_lines <= log.len()`.
#[derive(Debug)]
pub(crate) struct LogKeeper {
    log: ContactLog,
    /// Lines that the file lacks at its end.
    unwritten: String,
    unwritten_lines: usize,
    /// Lines that the file has at its front and that are forgotten.
    forgotten: usize,
    /// The file is to be written whole, whatever it holds.
    whole: bool,
    /// Not before then; after a failure.
    retry_at: Option<Instant>,
    checked_at: Instant,
    failing: bool,
    file: Place,
}

/// What a finished piece of file work has to tell.
#[derive(Debug)]
pub(crate) enum FileNews {
    /// Nothing special.
    Fine,
    /// Something else changed or removed the file. It is written whole again.
    ChangedOutside,
    /// It could not be written; said once until it can be again.
    Failing(io::Error),
    /// It can be written again.
    Recovered,
}

impl LogKeeper {
    /// A log without a file, for as long as it is not known whether there is such a user.
    pub(crate) fn in_memory(retention_s: u32) -> Self {
        // nothing is kept for a file
        Self::new(ContactLog::new(retention_s), true, Place::Nowhere)
    }

    /// Reads the log at `path`, if there is one, adds what was heard before, and makes the file whole: private, in order,
    /// without what is over.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub(crate) fn open(path: &Path, heard: &ContactLog, now: Timestamp) -> io::Result<(Self, ReadReport)> {
        let bytes = files::read_if_there(path)?.unwrap_or_default();
        let modified = fs::metadata(path).ok().and_then(|found| Timestamp::from_unix(found.mtime())).unwrap_or(now);
        let (log, report) = ContactLog::read(&bytes, modified, now, heard.retention_s());
        let log = if heard.is_empty() { log } else { merged(&log, heard, now) };
        let mut text = String::new();
        log.write_to(&mut text);
        let mut file = LogFile::new(path.to_path_buf());
        file.perform(&FileWork::Whole(text))?;
        Ok((Self::new(log, false, Place::Here(file)), report))
    }

    fn new(log: ContactLog, whole: bool, file: Place) -> Self {
        Self {
            log,
            unwritten: String::new(),
            unwritten_lines: 0,
            forgotten: 0,
            whole,
            retry_at: None,
            checked_at: Instant::now(),
            failing: false,
            file,
        }
    }

    /// The log as it stands.
    pub(crate) fn log(&self) -> &ContactLog {
        &self.log
    }

    /// Logs a valid beacon.
    pub(crate) fn heard(&mut self, record: Record, now: Timestamp) {
        let full = self.log.len();
        let entry = self.log.heard(record, now);
        if !self.whole {
            entry.write_to(&mut self.unwritten);
            self.unwritten.push('\n');
            self.unwritten_lines += 1;
        }
        // a full log lost its oldest entry
        self.forget_lines((full + 1).saturating_sub(self.log.len()));
        self.whole |= self.log.take_dates_changed();
    }

    /// Forgets what is over, and says how many entries that were.
    pub(crate) fn expire(&mut self, now: Timestamp) -> usize {
        let gone = self.log.expire(now);
        self.forget_lines(gone);
        if gone > 0 {
            // what is over leaves a failing file as soon as it can
            self.retry_at = None;
        }
        self.whole |= self.log.take_dates_changed();
        gone
    }

    /// Gives the file the next piece of work, if it is free and there is something to do.
    pub(crate) fn start_work(&mut self) {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let due = self.whole || self.unwritten_lines > 0 || self.forgotten > 0;
        if !due && self.checked_at.elapsed() < CHECK_EVERY {
            return;
        }
        let Some(file) = self.file.take() else { return };
        self.checked_at = Instant::now();
        let work = self.next_work();
        self.file = Place::Away(tokio::task::spawn_blocking(move || {
            let mut file = file;
            let outcome = file.perform(&work);
            (file, outcome)
        }));
    }

    /// Waits for the piece of work under way; for ever if there is none. Nothing is lost if the wait is given up.
    pub(crate) async fn work_done(&mut self) -> FileNews {
        let Place::Away(work) = &mut self.file else { return std::future::pending().await };
        let done = work.await;
        self.on_work_done(done)
    }

    /// Writes what is still unwritten, for the end of the program.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        if matches!(self.file, Place::Away(_)) {
            self.work_done().await;
        }
        let work = self.next_work();
        if let FileWork::Change { forget: 0, append } = &work
            && append.is_empty()
        {
            return Ok(());
        }
        let Some(file) = self.file.get() else { return Ok(()) };
        if file.perform(&work)? == FileState::ChangedOutside {
            let whole = self.whole_text();
            return self.file.get().map_or(Ok(()), |file| file.perform(&whole).map(drop));
        }
        Ok(())
    }

    fn next_work(&mut self) -> FileWork {
        let append = mem::take(&mut self.unwritten);
        self.unwritten_lines = 0;
        let forget = mem::take(&mut self.forgotten);
        if mem::take(&mut self.whole) { self.whole_text() } else { FileWork::Change { forget, append } }
    }

    fn whole_text(&self) -> FileWork {
        let mut text = String::new();
        self.log.write_to(&mut text);
        FileWork::Whole(text)
    }

    fn on_work_done(&mut self, done: Result<(LogFile, io::Result<FileState>), tokio::task::JoinError>) -> FileNews {
        let (file, outcome) = match done {
            Ok((file, outcome)) => (Place::Here(file), outcome),
            // the runtime is ending, or the work panicked: the log goes on in memory
            Err(error) => (Place::Nowhere, Err(io::Error::other(error))),
        };
        self.file = file;
        match outcome {
            Ok(FileState::Good) => {
                self.retry_at = None;
                if mem::take(&mut self.failing) { FileNews::Recovered } else { FileNews::Fine }
            }
            Ok(FileState::ChangedOutside) => {
                self.demand_whole();
                FileNews::ChangedOutside
            }
            Err(error) => {
                self.demand_whole();
                self.retry_at = Some(Instant::now() + RETRY_EVERY);
                if mem::replace(&mut self.failing, true) { FileNews::Fine } else { FileNews::Failing(error) }
            }
        }
    }

    fn demand_whole(&mut self) {
        self.whole = true;
        self.unwritten = String::new();
        self.unwritten_lines = 0;
        self.forgotten = 0;
    }

    /// The `gone` oldest lines are forgotten. Those that never reached the file stand in the text that waits for it;
    /// that happens only where the file has been failing for as long as the retention, so it may cost a whole rewrite.
    fn forget_lines(&mut self, gone: usize) {
        if self.whole {
            return;
        }
        if self.unwritten_lines > self.log.len() {
            self.demand_whole();
        } else {
            self.forgotten += gone;
        }
    }
}

/// The entries of both logs, each with its date: in order, and without what is over.
fn merged(one: &ContactLog, other: &ContactLog, now: Timestamp) -> ContactLog {
    let mut text = String::new();
    one.write_to(&mut text);
    other.write_to(&mut text);
    // every line has its date
    ContactLog::read(text.as_bytes(), now, now, other.retention_s()).0
}

/// Where the file is: it goes to the thread that works on it and comes back.
#[derive(Debug)]
enum Place {
    Here(LogFile),
    Away(JoinHandle<(LogFile, io::Result<FileState>)>),
    Nowhere,
}

impl Place {
    fn take(&mut self) -> Option<LogFile> {
        if !matches!(self, Self::Here(_)) {
            return None;
        }
        match mem::replace(self, Self::Nowhere) {
            Self::Here(file) => Some(file),
            Self::Away(_) | Self::Nowhere => None,
        }
    }

    fn get(&mut self) -> Option<&mut LogFile> {
        match self {
            Self::Here(file) => Some(file),
            Self::Away(_) | Self::Nowhere => None,
        }
    }
}

/// How often the file is looked at when there is nothing to write.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// How long a file that could not be written is left alone.
const RETRY_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant as StdInstant;

    const RETENTION_S: u32 = 180;

    #[tokio::test]
    async fn what_is_heard_stands_in_the_file_and_what_is_over_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut keeper, _) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(0)).unwrap();
        for second in 0..10 {
            keeper.heard(record(second), at(second));
            settle(&mut keeper).await;
        }
        assert_file_is(&path, &keeper);
        assert_eq!(keeper.expire(at(183)), 4);
        settle(&mut keeper).await;
        assert_file_is(&path, &keeper);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 6);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn work_that_comes_while_the_file_is_away_goes_in_one_piece() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut keeper, _) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(0)).unwrap();
        keeper.heard(record(0), at(0));
        keeper.start_work();
        // heard and forgotten before it was ever written, too
        for second in 1..400 {
            keeper.heard(record(second), at(second));
            keeper.expire(at(second));
        }
        settle(&mut keeper).await;
        settle(&mut keeper).await;
        assert_file_is(&path, &keeper);
        assert_eq!(keeper.log().len(), 180);
    }

    #[tokio::test]
    async fn a_file_cut_at_any_byte_loses_its_torn_line_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut keeper, _) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(0)).unwrap();
        for second in 0..3 {
            keeper.heard(record(second), at(second));
        }
        keeper.finish().await.unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (mut keeper, report) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(5)).unwrap();
            let lines = whole[..length].split(|byte| *byte == b'\n').count() - 1;
            // a line that lacks only its end is whole
            let is_whole = length % (whole.len() / 3) == whole.len() / 3 - 1;
            assert_eq!(keeper.log().len(), lines + usize::from(is_whole), "cut at {length}");
            assert_eq!(report.torn, !is_whole && !length.is_multiple_of(whole.len() / 3), "cut at {length}");
            keeper.heard(record(9), at(5));
            keeper.finish().await.unwrap();
            assert_file_is(&path, &keeper);
        }
    }

    #[tokio::test]
    async fn a_file_changed_from_outside_is_noticed_once_and_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut keeper, _) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(0)).unwrap();
        let mut second = 1;
        keeper.heard(record(second), at(second));
        settle(&mut keeper).await;
        let changes: [fn(&Path); 5] = [
            |path| fs::remove_file(path).unwrap(),
            |path| fs::write(path, "").unwrap(),
            |path| fs::write(path, "edited\n").unwrap(),
            |path| {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(b"more").unwrap();
            },
            |path| {
                fs::copy(path, path.with_extension("copy")).unwrap();
                fs::rename(path.with_extension("copy"), path).unwrap();
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            change(&path);
            let mut noticed = 0;
            for _ in 0..3 {
                second += 1;
                keeper.heard(record(second), at(second));
                keeper.start_work();
                noticed += usize::from(matches!(keeper.work_done().await, FileNews::ChangedOutside));
            }
            assert_eq!(noticed, 1, "change {number}");
            assert_file_is(&path, &keeper);
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_told_of_once_and_is_whole_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut keeper, _) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(0)).unwrap();
        // a folder in place of the file fails for every user
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let mut failures = 0;
        for second in 0..4 {
            keeper.heard(record(second), at(second));
            keeper.retry_at = None;
            keeper.start_work();
            failures += usize::from(matches!(keeper.work_done().await, FileNews::Failing(_)));
        }
        assert_eq!(failures, 1);
        fs::remove_dir(&path).unwrap();
        keeper.retry_at = None;
        keeper.start_work();
        assert!(matches!(keeper.work_done().await, FileNews::Recovered));
        assert_file_is(&path, &keeper);
    }

    #[tokio::test]
    async fn a_large_log_forgets_its_front_without_being_formatted_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut keeper, _) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(0)).unwrap();
        for id in 0..200_000 {
            keeper.heard(record(id), at(id / 2_000));
        }
        settle(&mut keeper).await;
        let begun = StdInstant::now();
        assert_eq!(keeper.expire(at(180)), 2_000);
        let forgotten = begun.elapsed();
        settle(&mut keeper).await;
        println!(
            "200,000 entries: 2,000 forgotten in memory after {forgotten:?}, in the file after {:?}",
            begun.elapsed()
        );
        assert_file_is(&path, &keeper);
    }

    #[tokio::test]
    async fn what_was_heard_before_there_was_a_file_joins_what_the_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut early = LogKeeper::in_memory(RETENTION_S);
        for second in [1, 20] {
            early.heard(record(second), at(second));
            early.start_work();
        }
        assert!(!path.exists());
        // another client of this user came and went meanwhile
        let (mut other, _) = LogKeeper::open(&path, &ContactLog::new(RETENTION_S), at(0)).unwrap();
        other.heard(record(10), at(10));
        other.finish().await.unwrap();
        let (keeper, report) = LogKeeper::open(&path, early.log(), at(182)).unwrap();
        assert_eq!(report, ReadReport::default());
        let received: Vec<Timestamp> = keeper.log().iter().map(|entry| entry.received).collect();
        assert_eq!(received, [at(10), at(20)], "in order, and what is over is gone");
        assert_file_is(&path, &keeper);
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::parse("13/05/2020 17:54:06").unwrap().plus(second)
    }

    fn record(id: i64) -> Record {
        Record::parse(&format!("{id:020}, 13/05/2020 17:54:06, 13/05/2020 18:09:05")).unwrap()
    }

    /// Lets the file do what there is to do.
    async fn settle(keeper: &mut LogKeeper) {
        keeper.start_work();
        assert!(matches!(keeper.work_done().await, FileNews::Fine));
    }

    fn assert_file_is(path: &Path, keeper: &LogKeeper) {
        let mut text = String::new();
        keeper.log().write_to(&mut text);
        assert!(fs::read_to_string(path).unwrap() == text, "the file is not what the log is");
    }
}
