//! Owns what an upload consists of and what comes of it: [`Uploaded`], [`UploadSummary`], [`ExposureNotice`].

use alloc::string::String;

use crate::record::Record;
use crate::time::Timestamp;

/// One record of an uploaded contact log, at its place in the upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// A well-formed record.
    Record(UploadedRecord),
    /// Something that was not a record. It keeps its place, so that the count stays right, and nothing of its text.
    Malformed,
}

/// A well-formed record with what the device knew beside it (PROTOCOL section 4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedRecord {
    /// The beacon's id and window, as the device heard them.
    pub record: Record,
    /// When the beacon was heard, if the device says so.
    pub received: Option<Timestamp>,
    /// Received signal strength in dBm, if the device says so.
    pub rssi: Option<i16>,
    /// How often the beacon was heard, if the device says so.
    pub seen: Option<u32>,
}

/// What came of a complete upload. `resolved + unknown + invalid == records`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadSummary {
    /// Records in the upload.
    pub records: u32,
    /// Records whose `TempID` was turned back into a person.
    pub resolved: u32,
    /// Well-formed records whose `TempID` this authority does not know.
    pub unknown: u32,
    /// Malformed records.
    pub invalid: u32,
}

/// What a person who was met is told: when, and what to do. Never by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExposureNotice {
    /// Begin of the first encounter's window.
    pub from: Timestamp,
    /// End of the last encounter's window.
    pub to: Timestamp,
    /// What the health authority advises.
    pub advice: String,
}
