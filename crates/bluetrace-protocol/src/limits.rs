//! Every limit of the formats and sessions, with its unit and its reason.
//!
//! A number that bounds input from outside stands here and nowhere else, and each has a test one past it.

/// Longest line of the session protocol, in bytes, without its line ending (PROTOCOL section 4).
pub const MAX_LINE: usize = 16 * 1024;

/// Longest username, in bytes (PROTOCOL section 4.2).
pub const MAX_USERNAME: usize = 64;

/// Longest password, in bytes (PROTOCOL section 4.2).
pub const MAX_PASSWORD: usize = 256;

/// Longest request `id`, in characters, as it stands in the JSON text without quotes (PROTOCOL section 4.3).
pub const MAX_REQUEST_ID: usize = 64;

/// Longest upload id, in bytes. A UUID's text is 36; the room above it is for other implementations.
pub const MAX_UPLOAD_ID: usize = 64;

/// Longest upload code, in bytes.
pub const MAX_UPLOAD_CODE: usize = 64;

/// Longest handshake PIN, in bytes: what can be read out and compared (PROTOCOL section 4.8).
pub const MAX_HANDSHAKE_PIN: usize = 16;

/// Longest resume token, in bytes (PROTOCOL section 4.6).
pub const MAX_RESUME_TOKEN: usize = 256;

/// Most records in one upload (PROTOCOL section 4.4).
pub const MAX_UPLOAD_RECORDS: u32 = 1_000_000;

/// Most `TempIDs` in one download (PROTOCOL section 4.3).
pub const MAX_TEMP_IDS: u32 = 100;

/// Longest record in the JSON of an `OpenTrace` upload, in bytes: 250 are usual, and a longer one is one malformed record.
pub const MAX_UPLOAD_JSON_RECORD: usize = 16 * 1024;

/// Longest key in the JSON of an `OpenTrace` upload that is looked at, in bytes with its quotes: `records` in escapes is 44.
pub const MAX_UPLOAD_JSON_KEY: usize = 64;

/// Longest `token` in the JSON of an `OpenTrace` upload, in bytes with its quotes: each of 256 characters may be an escape.
pub const MAX_UPLOAD_JSON_TOKEN: usize = 6 * 256 + 2;

/// Records of an upload that a server session gathers before it asks for them to be stored. A batch ends earlier
/// when no further line is waiting; this bounds memory when lines never stop (about 400 KiB).
pub const MAX_RECORD_BATCH: usize = 4_096;

/// Lines in a row that are not JSON before the session is closed (PROTOCOL section 4.3 promises that nine are survived).
pub const MAX_BAD_LINES: u32 = 10;

/// Digits of a registry `TempID` (PROTOCOL section 1).
pub const REGISTRY_DIGITS: usize = 20;

/// Most digits of a foreign `TempID` that is still heard (PROTOCOL section 2 accepts more than 20).
pub const MAX_TEMP_ID_DIGITS: usize = 64;

/// Characters of a sealed `TempID`: the base64 of 61 bytes (PROTOCOL section 7).
pub const SEALED_CHARACTERS: usize = 84;

/// Characters of a user id in a sealed `TempID`: the base64 of 21 bytes (PROTOCOL section 7).
pub const UID_CHARACTERS: usize = 28;

/// Longest window of a `TempID`, in seconds: 24 hours (PROTOCOL section 2).
pub const MAX_WINDOW_S: i64 = 24 * 60 * 60;

/// Largest beacon datagram, in bytes (PROTOCOL section 2).
pub const MAX_BEACON: usize = 256;

/// Longest line of a contact-log file, in bytes: a sealed `TempID`, three times and separators are 147.
pub const MAX_CONTACT_LOG_LINE: usize = 256;

/// Most entries a contact log holds, the oldest going first: the largest upload, so that a log can always be uploaded.
pub const MAX_CONTACT_LOG_ENTRIES: usize = 1_000_000;

/// Most malformed lines of a device's file that are reported by number; the others are only counted.
pub const MAX_REPORTED_LINES: usize = 20;

/// Most `TempIDs` a device keeps: two downloads that overlap, twice over.
pub const MAX_TEMP_ID_BOOK: usize = 400;

/// Failed logins in a row that block a username (PROTOCOL section 4.2).
pub const MAX_FAILED_LOGINS: u32 = 3;
