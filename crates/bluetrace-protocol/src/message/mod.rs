//! Owns the JSON messages of the command phase: [`Request`] and [`Reply`], both ways (PROTOCOL sections 4.3 and 4.4), with the
//! id that ties an answer to its request and the codes of refusals.
//!
//! The wire's own structs are private to these files.

mod reply;
mod request;
mod wire;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;

use serde_json::value::RawValue;

pub use self::reply::Reply;
pub use self::request::{BadRequest, BeginUpload, Command, Request, write_record};
use crate::limits::MAX_REQUEST_ID;

/// A request's `id`: the JSON text of a string or a number, at most 64 characters without quotes.
#[derive(Debug, Clone)]
pub struct RequestId(Box<RawValue>);

impl RequestId {
    /// A number as an id.
    pub fn number(number: u32) -> Self {
        // a number always has a JSON text
        Self(serde_json::value::to_raw_value(&number).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// Takes the JSON text of a string or a number.
    fn from_json(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        let is_scalar = text.starts_with(['"', '-']) || text.starts_with(|first: char| first.is_ascii_digit());
        (is_scalar && inner.chars().count() <= MAX_REQUEST_ID).then(|| Self(raw.to_owned()))
    }

    fn as_json(&self) -> &RawValue {
        &self.0
    }
}

/// Equal as the JSON text that is echoed.
impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for RequestId {}

/// The codes of `ER`. They are stable; the messages beside them are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The line is not a JSON object of the form of section 4.3.
    BadJson,
    /// There is no such `commandType`.
    UnknownCommand,
    /// A count is out of its range, or does not fit what was said before.
    BadCount,
    /// A record is malformed.
    BadRecord,
    /// A record came without an upload, or of one that the authority has forgotten.
    NoUpload,
    /// More than the authority takes.
    TooLarge,
    /// The authority requires an upload code, and this is none.
    UploadNotAuthorised,
    /// The account has been removed; the session is over.
    NoAccount,
    /// Too much at once; try again later.
    RateLimited,
    /// The authority cannot answer now; try again later.
    Unavailable,
    /// A fault of the authority.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::BadJson,
        Self::UnknownCommand,
        Self::BadCount,
        Self::BadRecord,
        Self::NoUpload,
        Self::TooLarge,
        Self::UploadNotAuthorised,
        Self::NoAccount,
        Self::RateLimited,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::UnknownCommand => "unknown_command",
            Self::BadCount => "bad_count",
            Self::BadRecord => "bad_record",
            Self::NoUpload => "no_upload",
            Self::TooLarge => "too_large",
            Self::UploadNotAuthorised => "upload_not_authorised",
            Self::NoAccount => "no_account",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}
