//! Owns the upload on disk: a first line `<upload id> <count>` or `<upload id> <count> <upload code>`, then the records as in the contact log's file.
//! One that the authority has refused has `<acknowledged>/<count>` for its count: it waits for its user, in later runs too.
//!
//! It is written before the upload begins and removed when the authority has it all, so that an upload survives its device. The code is
//! in it for as long, since a person cannot be asked for it again: whoever reads the file reads the contacts, too, and once
//! it is redeemed the code is of no use to another account. A code that was refused is taken out.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bluetrace_protocol::{ContactLogEntry, Timestamp, UploadCode, UploadId};
use zeroize::Zeroizing;

use crate::files;

/// A contact log on its way to the authority.
#[derive(Debug, Clone)]
pub(super) struct PendingUpload {
    pub(super) id: UploadId,
    pub(super) records: Arc<[ContactLogEntry]>,
    pub(super) code: Option<UploadCode>,
    /// How many records were acknowledged when the authority refused it; `None` if it has not.
    pub(super) refused_at: Option<u32>,
}

impl PendingUpload {
    /// Writes it to `path`. Blocks.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let refused = self.refused_at.map_or_else(String::new, |acknowledged| format!("{acknowledged}/"));
        let mut text = Zeroizing::new(format!("{} {refused}{}", self.id.reveal(), self.records.len()));
        // what would end the line is no code either
        if let Some(code) = self.code.as_ref().map(UploadCode::reveal).filter(|code| !code.contains(char::is_control)) {
            text.extend([" ", code]);
        }
        text.push('\n');
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
        let (id, rest) = lines.next().and_then(|first| first.split_once(' ')).ok_or_else(damaged)?;
        let (count, code) = rest.split_once(' ').map_or((rest, None), |(count, code)| (count, Some(code)));
        let code = code.map(|code| UploadCode::parse(code).ok_or_else(damaged)).transpose()?;
        let (refused_at, count) = match count.split_once('/') {
            Some((acknowledged, count)) => (Some(acknowledged.parse().map_err(|_| damaged())?), count),
            None => (None, count),
        };
        let id = UploadId::parse(id).map_err(|_| damaged())?;
        // every line was written with its date: one that needs this is damaged
        let records: Result<Vec<_>, _> = lines.map(|line| ContactLogEntry::parse(line, Timestamp::MIN)).collect();
        let records = records.map_err(|_| damaged())?;
        let undated = records.iter().any(|record| record.received == Timestamp::MIN);
        if records.is_empty() || undated || count.parse() != Ok(records.len()) {
            return Err(damaged());
        }
        Ok(Some(Self { id, records: records.into(), code, refused_at }))
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
        let codes = [None, Some("H7QX-4CDF"), Some("h7qx 4cdf"), Some("")];
        for (code, refused_at) in codes.into_iter().flat_map(|code| [None, Some(0), Some(2)].map(|at| (code, at))) {
            let upload = PendingUpload { code: code.and_then(UploadCode::parse), refused_at, ..example() };
            upload.save(&path).unwrap();
            let loaded = PendingUpload::load(&path).unwrap().unwrap();
            assert_eq!((loaded.id, loaded.records, loaded.code), (upload.id, upload.records, upload.code));
            assert_eq!(loaded.refused_at, refused_at);
        }
    }

    #[test]
    fn an_upload_that_was_damaged_is_refused_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upload.txt");
        PendingUpload { code: UploadCode::parse("H7QX-4CDF"), ..example() }.save(&path).unwrap();
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
        PendingUpload { id: UploadId::parse("u-1").unwrap(), records, code: None, refused_at: None }
    }
}
