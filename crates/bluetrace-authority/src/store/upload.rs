//! Owns what a store knows of uploads, and of the notices that they lead to.

use bluetrace_protocol::{ExposureNotice, Timestamp, UploadId, UploadSummary, Username};

use super::{AccountId, CodeCheck};

/// The store's own number for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadKey(pub i64);

/// What a device says when it begins or continues an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRequest {
    /// Who uploads.
    pub account: AccountId,
    /// The device's name for the upload.
    pub upload: UploadId,
    /// How many records it has in all.
    pub records: u32,
    /// When the upload and its records are forgotten, if it is a new one.
    pub forget_at: Timestamp,
    /// What it takes to be let in.
    pub code: CodeCheck,
}

/// Outcome of [`Store::begin_upload`](super::Store::begin_upload).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadBegun {
    /// It may go on behind the records that are durable.
    Open {
        /// The store's number for it.
        key: UploadKey,
        /// How many of its first records are durable; 0 for a new one.
        durable: u32,
        /// What came of it, if it is complete.
        summary: Option<UploadSummary>,
    },
    /// This account has begun an upload of this id with another number of records.
    Conflict {
        /// The number it was begun with.
        records: u32,
    },
    /// There is no such account.
    NoAccount,
    /// An upload code is required, and was not presented. Nothing was changed.
    CodeRequired,
    /// The upload code is none that this account can use. No upload was begun.
    CodeRefused {
        /// Wrong ones that are still free before none is looked at.
        left: u32,
    },
    /// There were too many wrong upload codes: this one was not looked at, and nothing was changed.
    TooManyCodes {
        /// When the next is looked at.
        until: Timestamp,
    },
}

/// Outcome of [`Store::complete_upload`](super::Store::complete_upload).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadCompleted {
    /// This call completed it.
    Now,
    /// It was complete already. Nothing was changed.
    Before,
    /// There is no such upload: it is forgotten, or its account has been removed.
    NoUpload,
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadFound {
    /// The store's number for it.
    pub key: UploadKey,
    /// How many records it has in all.
    pub records: u32,
    /// How many of its first records are durable.
    pub durable: u32,
    /// What came of it, if it is complete.
    pub summary: Option<UploadSummary>,
}

/// What came of records that were to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// How many of the upload's first records were durable before: those that came beyond them are new.
    pub before: u32,
    /// How many are durable now.
    pub durable: u32,
}

/// An upload in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRow {
    /// The store's number for it; lists are in its order.
    pub key: UploadKey,
    /// The device's name for it.
    pub upload: UploadId,
    /// Who uploads.
    pub uploader: Username,
    /// How many records it has in all.
    pub records: u32,
    /// How many of its first records are durable.
    pub durable: u32,
    /// When it was begun.
    pub begun: Timestamp,
    /// When it was completed, and what came of it.
    pub finished: Option<(Timestamp, UploadSummary)>,
}

/// The store's own number for a notice; later notices of an account have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoticeId(pub i64);

/// A notice for one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    /// Whom it is for.
    pub account: AccountId,
    /// What it says.
    pub notice: ExposureNotice,
    /// When it is forgotten.
    pub forget_at: Timestamp,
}

/// The time that a notice speaks of, and whom it was left for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Who was met.
    pub account: AccountId,
    /// The begin of the first encounter.
    pub from: Timestamp,
    /// The end of the last one.
    pub to: Timestamp,
}
