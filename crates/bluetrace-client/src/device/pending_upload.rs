//! Owns the upload on disk: a first line `<upload id> <count>`, then the records as in the contact log's file.
//!
//! It is written before the upload begins and removed when the authority has it all, so that an upload survives its device.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bluetrace_protocol::{ContactLogEntry, Timestamp, UploadId};

use crate::files;

/// A contact log on its way to the authority.
#[derive(Debug, Clone)]
pub(super) struct PendingUpload {
    pub(super) id: UploadId,
    pub(super) records: Arc<[ContactLogEntry]>,
}

impl PendingUpload {
    /// Writes it to `path`. Blocks.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let mut text = format!("{} {}\n", self.id.reveal(), self.records.len());
        for record in &*self.records {
            record.write_to(&mut text);
            text.push('\n');
        }
        files::write_whole(path, text.as_bytes())
    }

    /// Reads what [`Self::save`] wrote, or `None` if there is nothing.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written: then the places of its records no longer mean anything.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = files::read_if_there(path)? else { return Ok(None) };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
        let text = str::from_utf8(&bytes).map_err(|_| damaged())?;
        let mut lines = text.lines();
        let (id, count) = lines.next().and_then(|first| first.split_once(' ')).ok_or_else(damaged)?;
        let id = UploadId::parse(id).map_err(|_| damaged())?;
        // every line was written with its date: one that needs this is damaged
        let records: Result<Vec<_>, _> = lines.map(|line| ContactLogEntry::parse(line, Timestamp::MIN)).collect();
        let records = records.map_err(|_| damaged())?;
        let undated = records.iter().any(|record| record.received == Timestamp::MIN);
        if records.is_empty() || undated || count.parse() != Ok(records.len()) {
            return Err(damaged());
        }
        Ok(Some(Self { id, records: records.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_upload_comes_back_as_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upload.txt");
        assert!(PendingUpload::load(&path).unwrap().is_none());
        let upload = example();
        upload.save(&path).unwrap();
        let loaded = PendingUpload::load(&path).unwrap().unwrap();
        assert_eq!((loaded.id, loaded.records), (upload.id, upload.records));
    }

    #[test]
    fn an_upload_that_was_damaged_is_refused_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upload.txt");
        example().save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        // without its last line feed it is still whole
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(PendingUpload::load(&path).is_err(), "cut at {length}");
        }
    }

    fn example() -> PendingUpload {
        let line = |id| format!("{id:020}, 13/05/2020 17:54:06, 13/05/2020 18:09:05, 13/05/2020 17:58:06");
        let records = (1..4).map(|id| ContactLogEntry::parse(&line(id), Timestamp::MIN).unwrap()).collect();
        PendingUpload { id: UploadId::parse("u-1").unwrap(), records }
    }
}
