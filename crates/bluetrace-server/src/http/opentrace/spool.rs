//! Owns [`Spool`]: the judged records of an upload, from when they arrive until its end has come, which tells whose they are and
//! how many.
//!
//! The first thousands are in memory, and those of a long upload in a file of the data folder that has no name any more: it is
//! gone with the process, however that ends.

use std::fs::{File, OpenOptions, remove_file};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bluetrace_protocol::limits::MAX_TEMP_ID_DIGITS;
use bluetrace_protocol::sealed::{SEALED_BYTES, UID_BYTES};
use bluetrace_protocol::{SealedTempId, TempId, Timestamp, Uid, Window};
use tokio::task::spawn_blocking;

use super::verdicts::{Heard, HeardId, Judged, Kind, Note};
use crate::limits::SPOOL_BUFFER;

/// Judged records, in the order in which they came.
pub(super) struct Spool {
    folder: Arc<Path>,
    /// What is not in the file. Invariant: a whole number of entries.
    buffer: Vec<u8>,
    file: Option<File>,
    len: u32,
}

impl Spool {
    pub(super) const fn new(folder: Arc<Path>) -> Self {
        Self { folder, buffer: Vec::new(), file: None, len: 0 }
    }

    /// How many records it has.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn push(&mut self, judged: &Judged) {
        write_entry(judged, &mut self.buffer);
        self.len = self.len.saturating_add(1);
    }

    /// Whether it holds as much in memory as it may: then [`Spool::flush`] it.
    pub(super) const fn is_full(&self) -> bool {
        self.buffer.len() >= SPOOL_BUFFER
    }

    /// Moves to the file what is in memory. It waits for the disk.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless_file(&self.folder)?),
        };
        file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends it: from here on it is read. It waits for the disk.
    pub(super) fn end(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.flush()?;
        }
        Ok(Spooled { buffer: self.buffer, file: self.file, len: self.len })
    }
}

/// The judged records of an upload whose end has come.
pub(super) struct Spooled {
    buffer: Vec<u8>,
    file: Option<File>,
    len: u32,
}

impl Spooled {
    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }

    /// Up to `most` records from place `first` on; none at the end.
    pub(super) async fn records(&mut self, first: u32, most: usize) -> io::Result<Vec<Judged>> {
        self.read(first, most, read_entry).await
    }

    /// What is noted of them, for a fraction of the price.
    pub(super) async fn notes(&mut self, first: u32, most: usize) -> io::Result<Vec<Note>> {
        self.read(first, most, read_note).await
    }

    async fn read<T: Send + 'static>(
        &mut self,
        first: u32,
        most: usize,
        each: fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let left = usize::try_from(self.len.saturating_sub(first)).map_err(io::Error::other)?;
        let skipped = usize::try_from(first).map_err(io::Error::other)?.saturating_mul(ENTRY_BYTES);
        let length = most.min(left).saturating_mul(ENTRY_BYTES);
        let Some(mut file) = self.file.take() else {
            let bytes = self.buffer.get(skipped..).and_then(|rest| rest.get(..length)).unwrap_or_default();
            return read_entries(bytes, each);
        };
        let reading = spawn_blocking(move || {
            let mut bytes = vec![0; length];
            file.seek(SeekFrom::Start(u64::try_from(skipped).map_err(io::Error::other)?))?;
            file.read_exact(&mut bytes)?;
            io::Result::Ok((file, read_entries(&bytes, each)?))
        });
        let (file, entries) = reading.await.map_err(io::Error::other)??;
        self.file = Some(file);
        Ok(entries)
    }
}

/// A file that no other program finds.
fn nameless_file(folder: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path: PathBuf = folder.join(format!("upload-{}-{number}.spool", std::process::id()));
        match options.open(&path) {
            Ok(file) => {
                remove_file(&path)?;
                return Ok(file);
            }
            // of a process that was killed at this very point
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

// ---- An entry

/// kind 1 | id: digits or [`IS_SEALED`] 1, digits or bytes 64 | which of the rest there are 1 | received 8 | rssi 2 | window 16 | owner 21 | mark 8
const ENTRY_BYTES: usize = 1 + 1 + ID_BYTES + 1 + 8 + 2 + 16 + UID_BYTES + 8;

/// The longest id: of the registry's, as text.
const ID_BYTES: usize = MAX_TEMP_ID_DIGITS;
const _: () = assert!(SEALED_BYTES <= ID_BYTES);

/// Where it says which of the rest there are.
const HAS: usize = 1 + 1 + ID_BYTES;

const NO_ID: u8 = 0;
const IS_SEALED: u8 = u8::MAX;
const HAS_RECEIVED: u8 = 1;
const HAS_RSSI: u8 = 2;
const HAS_OWNER: u8 = 4;
const HAS_MARK: u8 = 8;

fn write_entry(judged: &Judged, out: &mut Vec<u8>) {
    let begun = out.len();
    let Judged { note: Note { kind, owner, mark }, heard } = judged;
    out.push(*kind as u8);
    match heard.as_ref().map(|heard| &heard.id) {
        None => out.push(NO_ID),
        Some(HeardId::Sealed(sealed)) => {
            out.push(IS_SEALED);
            out.extend_from_slice(sealed.as_bytes());
        }
        Some(HeardId::OfRegistry(digits)) => {
            // 64 at the most
            out.push(u8::try_from(digits.reveal().len()).unwrap_or(NO_ID));
            out.extend_from_slice(digits.reveal().as_bytes());
        }
    }
    let window = heard.as_ref().map(|heard| [heard.window.start(), heard.window.expiry()].map(Timestamp::as_unix));
    let received = heard.as_ref().and_then(|heard| heard.received).map(Timestamp::as_unix);
    let rssi = heard.as_ref().and_then(|heard| heard.rssi);
    out.resize(begun + 2 + ID_BYTES, 0);
    let bit = |is_there: bool, bit: u8| if is_there { bit } else { 0 };
    out.push(
        bit(received.is_some(), HAS_RECEIVED)
            | bit(rssi.is_some(), HAS_RSSI)
            | bit(owner.is_some(), HAS_OWNER)
            | bit(mark.is_some(), HAS_MARK),
    );
    out.extend_from_slice(&received.unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&rssi.unwrap_or(0).to_be_bytes());
    for moment in window.unwrap_or_default() {
        out.extend_from_slice(&moment.to_be_bytes());
    }
    out.extend_from_slice(owner.as_ref().map_or(&[0; UID_BYTES], Uid::as_bytes).as_slice());
    out.extend_from_slice(&mark.unwrap_or(0).to_be_bytes());
}

fn read_entries<T>(bytes: &[u8], each: fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let broken = || io::Error::new(ErrorKind::InvalidData, "a record of an upload under way is not as it was written");
    bytes.chunks(ENTRY_BYTES).map(|entry| each(entry).ok_or_else(broken)).collect()
}

fn read_note(entry: &[u8]) -> Option<Note> {
    let (kind, has) = (entry.first()?, entry.get(HAS)?);
    let (rest, mark) = entry.split_last_chunk()?;
    let (_, owner) = rest.split_last_chunk()?;
    Some(Note {
        kind: Kind::ALL.into_iter().find(|known| *known as u8 == *kind)?,
        owner: (has & HAS_OWNER != 0).then_some(Uid::from_bytes(*owner)),
        mark: (has & HAS_MARK != 0).then_some(u64::from_be_bytes(*mark)),
    })
}

fn read_entry(entry: &[u8]) -> Option<Judged> {
    let ([_, of_id], rest) = entry.split_first_chunk()?;
    let (id, rest) = rest.split_first_chunk::<ID_BYTES>()?;
    let (has, rest) = rest.split_first()?;
    let (received, rest) = rest.split_first_chunk()?;
    let (rssi, rest) = rest.split_first_chunk()?;
    let (start, rest) = rest.split_first_chunk()?;
    let (expiry, _) = rest.split_first_chunk()?;
    let moment = |bytes: &[u8; 8]| Timestamp::from_unix(i64::from_be_bytes(*bytes));
    let id = match *of_id {
        NO_ID => None,
        IS_SEALED => Some(HeardId::Sealed(SealedTempId::from_slice(id.get(..SEALED_BYTES)?)?)),
        digits => {
            let digits = std::str::from_utf8(id.get(..digits.into())?).ok()?;
            Some(HeardId::OfRegistry(TempId::parse(digits).ok()?))
        }
    };
    let heard = match id {
        None => None,
        Some(id) => Some(Heard {
            id,
            window: Window::new(moment(start)?, moment(expiry)?).ok()?,
            received: if has & HAS_RECEIVED != 0 { Some(moment(received)?) } else { None },
            rssi: (has & HAS_RSSI != 0).then_some(i16::from_be_bytes(*rssi)),
        }),
    };
    Some(Judged { note: read_note(entry)?, heard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_in_memory_and_in_a_file_that_nobody_sees() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 3, 20_000] {
            let mut spool = Spool::new(folder.path().into());
            for number in 0..len {
                spool.push(&judged(number));
                if spool.is_full() {
                    spool.flush().unwrap();
                }
            }
            assert_eq!(spool.len(), len);
            assert_eq!(spool.file.is_some(), len == 20_000);
            let mut spooled = spool.end().unwrap();
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
            for first in [0, 1, 12_345, len] {
                let expected: Vec<_> = (first..len).take(5).map(judged).collect();
                assert_eq!(spooled.records(first, 5).await.unwrap(), expected, "{first} of {len}");
                let notes: Vec<_> = expected.iter().map(|judged| judged.note).collect();
                assert_eq!(spooled.notes(first, 5).await.unwrap(), notes);
            }
        }
    }

    /// Every form of an entry, one after another.
    fn judged(number: u32) -> Judged {
        let at = |seconds| Timestamp::from_unix(seconds).unwrap();
        let (start, kinds) = (1_589_392_446 + i64::from(number), Kind::ALL.len());
        let bytes = [u8::try_from(number % 251).unwrap(); SEALED_BYTES];
        let id = match number % 3 {
            0 => HeardId::Sealed(SealedTempId::from_slice(&bytes).unwrap()),
            1 => HeardId::OfRegistry(TempId::parse(&format!("{number:020}")).unwrap()),
            _ => HeardId::OfRegistry(TempId::parse(&format!("{number:064}")).unwrap()),
        };
        let received = number.is_multiple_of(2).then_some(at(start + 7));
        let rssi = (!number.is_multiple_of(5)).then(|| -i16::try_from(number % 100).unwrap());
        let window = Window::new(at(start), at(start + 900)).unwrap();
        let note = Note {
            kind: Kind::ALL[usize::try_from(number).unwrap() % kinds],
            owner: number.is_multiple_of(4).then_some(Uid::from_bytes([9; UID_BYTES])),
            mark: number.is_multiple_of(3).then_some(u64::from(number) << 32),
        };
        let is_record = !number.is_multiple_of(7);
        Judged { note, heard: is_record.then_some(Heard { id, window, received, rssi }) }
    }
}
