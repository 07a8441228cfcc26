//! Owns what a load remembers of its uploads, so that the store can be asked for them: [`SentUpload`], and the digest by which records
//! are compared ([`RecordsDigest`]).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bluetrace_protocol::{Record, Timestamp, UploadId, Username};

/// An upload of which the authority acknowledged at least a record.
#[derive(Debug, Clone)]
pub struct SentUpload {
    /// Whose it is.
    pub account: Username,
    /// Its id.
    pub id: UploadId,
    /// How many records it was begun with.
    pub records: u32,
    /// How many of its first records the authority said were durable; all of them if it is complete.
    pub acknowledged: u32,
    /// [`RecordsDigest`] of those.
    pub digest: u64,
}

/// A digest of records in their order. It tells records apart within one process, and is neither cryptographic nor for keeping.
#[derive(Debug, Default)]
pub struct RecordsDigest(DefaultHasher);

impl RecordsDigest {
    /// Adds a record and when it was heard.
    pub fn add(&mut self, record: &Record, received: Option<Timestamp>) {
        record.hash(&mut self.0);
        received.hash(&mut self.0);
    }

    /// The digest of what was added.
    pub fn value(&self) -> u64 {
        self.0.finish()
    }
}
