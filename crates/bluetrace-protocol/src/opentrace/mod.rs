//! Owns the [`Verdict`] on a record of an upload as apps derived from `OpenTrace` make it: whose `TempID` it holds, and
//! whether the record lies within the window.
//!
//! What stands here is strict: what a health authority should believe. [`reference`](mod@reference) reproduces the verdicts
//! of the reference implementation, laxness included, and [`date`] its dates. Who opens `TempIDs`, with which keys,
//! is an argument of both.
//!
//! Around the records, [`upload_json`] cuts an upload's body into them, and [`callable`] reads the calls of such apps.

pub mod callable;
pub mod date;
pub mod reference;
pub mod upload_json;

use serde_json::Number;

use crate::json::{each_field, text};
use crate::limits::SEALED_CHARACTERS;
use crate::sealed::{Opened, SealedTempId, Uid};
use crate::time::Timestamp;

/// What is to be said of one record. One that is wrong is one verdict, and never the upload's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What was found.
    pub finding: Finding,
    /// When the receiver's phone says it was, in seconds since 1970, with milliseconds as a fraction. `None` where the
    /// record has no such moment.
    pub timestamp: Option<f64>,
    /// The id, where the record holds the text of one.
    pub temp_id: Option<SealedTempId>,
    /// Strength of the signal, in dBm. In strict verdicts alone.
    pub rssi: Option<i16>,
}

/// What was found about a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Finding {
    /// The id opens, and the moment lies in its window, both ends inclusive.
    Valid(Opened),
    /// The id opens, and the moment lies outside its window. Whose it is, is known all the same: phones show ids past their
    /// time (iOS for half a day), and clocks are wrong.
    Expired {
        /// What the id says.
        opened: Opened,
        /// Seconds from the window to the moment: negative before the start, positive after the expiry.
        distance_s: f64,
    },
    /// No key opens it: another authority's, damaged, made up, or of a key that is gone.
    FailedDecryption,
    /// There is no id in the record.
    NoMessage,
    /// The uploader's own id. In strict verdicts alone.
    Own(Opened),
    /// Not a record: no JSON object, or a field in it has not its type. In strict verdicts alone.
    Malformed,
}

/// What makes two records of an upload one: the id, the moment in milliseconds, the strength of the signal.
pub type DuplicateKey = (SealedTempId, i64, Option<i16>);

impl Finding {
    /// Whether the record counts as a contact.
    pub const fn is_valid(&self) -> bool {
        matches!(self, Self::Valid(_))
    }

    /// Why it does not, in the reference's words as far as it has them; `None` if it does.
    pub const fn invalid_reason(&self) -> Option<&'static str> {
        match self {
            Self::Valid(_) => None,
            Self::Expired { .. } => Some("expired_id"),
            Self::FailedDecryption => Some("failed_decryption"),
            Self::NoMessage => Some("no_msg"),
            Self::Own(_) => Some("own_id"),
            Self::Malformed => Some("malformed"),
        }
    }

    /// What the id says, if it opened.
    pub const fn opened(&self) -> Option<&Opened> {
        match self {
            Self::Valid(opened) | Self::Expired { opened, .. } | Self::Own(opened) => Some(opened),
            Self::FailedDecryption | Self::NoMessage | Self::Malformed => None,
        }
    }

    /// Compares a moment with the window of an id. A moment that is no number is within every window.
    fn of(opened: Opened, timestamp: f64) -> Self {
        let (early, late) = (timestamp - f64::from(opened.start), timestamp - f64::from(opened.expiry));
        if early < 0.0 {
            Self::Expired { opened, distance_s: early }
        } else if late > 0.0 {
            Self::Expired { opened, distance_s: late }
        } else {
            Self::Valid(opened)
        }
    }
}

impl Verdict {
    /// The second of the record, if it lies within the years 1970 to 9999.
    pub fn moment(&self) -> Option<Timestamp> {
        Timestamp::from_unix(whole_seconds(self.timestamp?))
    }

    /// What a second record must have in common with this one to be the same over again; `None` without an id or a moment.
    pub fn duplicate_key(&self) -> Option<DuplicateKey> {
        Some((self.temp_id?, truncated(self.timestamp? * 1_000.0), self.rssi))
    }

    const fn only(finding: Finding) -> Self {
        Self { finding, timestamp: None, temp_id: None, rssi: None }
    }
}

/// Judges a record strictly, from its JSON text.
///
/// It reads `msg`, `timestamp` and `rssi`. What else is in the record is ignored: above all the fields that the reference
/// adds to a record, such as `contactId`, which an uploader could set. In detail:
///
/// - `timestamp` is a JSON integer, in seconds, or in milliseconds above 10,000,000,000. Missing, `null`, a string and a fraction
///   are [`Finding::Malformed`].
/// - `msg` missing, `null` or empty is [`Finding::NoMessage`], and so is what phones send that have no id: `not_found`,
///   `Missing TempID`. What is not text is [`Finding::Malformed`]. What is not the one text of a sealed `TempID`
///   is [`Finding::FailedDecryption`].
/// - An id of `uploader` is [`Finding::Own`].
/// - Whoever judges a whole upload drops what has a [`Verdict::duplicate_key`] that was there before.
///
/// `open` is given an id and the second of the record, which tells what keys can have sealed it; it is called once at the most.
pub fn judge(
    record: &str,
    uploader: Option<&Uid>,
    open: impl FnOnce(&SealedTempId, Option<i64>) -> Option<Opened>,
) -> Verdict {
    let Some(Wire { message, timestamp, rssi }) = Wire::read(record) else { return Verdict::only(Finding::Malformed) };
    let mut room = [0; SEALED_CHARACTERS];
    let temp_id = match message.map(|json| text(json, &mut room)) {
        None => None,
        Some(None) => return Verdict::only(Finding::Malformed),
        Some(Some(text)) if text.is_empty() || PLACEHOLDERS.contains(&&*text) => None,
        Some(Some(text)) => Some(SealedTempId::read(&text)),
    };
    let finding = match &temp_id {
        None => Finding::NoMessage,
        Some(None) => Finding::FailedDecryption,
        Some(Some(temp_id)) => match open(temp_id, Some(whole_seconds(timestamp))) {
            None => Finding::FailedDecryption,
            Some(opened) if uploader == Some(&opened.uid) => Finding::Own(opened),
            Some(opened) => Finding::of(opened, timestamp),
        },
    };
    Verdict { finding, timestamp: Some(timestamp), temp_id: temp_id.flatten(), rssi }
}

/// What phones send in place of an id when they have none: iOS the one, Android the other.
const PLACEHOLDERS: [&[u8]; 2] = [b"not_found", b"Missing TempID"];

/// Above this a timestamp is in milliseconds: as seconds it would lie in the year 2286.
const LAST_SECOND: f64 = 10_000_000_000.0;

/// The fields of a record that a strict verdict goes by.
struct Wire<'a> {
    /// The JSON text.
    message: Option<&'a [u8]>,
    /// In seconds.
    timestamp: f64,
    /// In dBm.
    rssi: Option<i16>,
}

impl<'a> Wire<'a> {
    /// `None` of what is [`Finding::Malformed`].
    fn read(record: &'a str) -> Option<Self> {
        let (mut message, mut timestamp, mut rssi) = (None, None, None);
        each_field(record, |name, value| {
            let field = match name {
                b"msg" => &mut message,
                b"timestamp" => &mut timestamp,
                b"rssi" => &mut rssi,
                _ => return Some(()),
            };
            // none of them twice
            field.replace(value).is_none().then_some(())
        })?;
        let is_given = |json: &&[u8]| *json != b"null";
        let rssi = match rssi.filter(is_given) {
            None => None,
            Some(json) => Some(whole_dbm(json)?),
        };
        let message = message.filter(is_given);
        Some(Self { message, timestamp: in_seconds(integer(timestamp?)?), rssi })
    }
}

/// The value of a JSON integer of 64 bits, with a sign or without.
fn integer(json: &[u8]) -> Option<f64> {
    let number = match digits(json) {
        Some(whole) => Number::from(whole),
        None => serde_json::from_slice(json).ok()?,
    };
    number.as_f64().filter(|_| number.is_i64() || number.is_u64())
}

/// The strength of a signal without its fraction; `None` if the JSON is no number, or of no signal.
fn whole_dbm(json: &[u8]) -> Option<i16> {
    let whole = match json {
        [b'-', json @ ..] => digits(json).and_then(i64::checked_neg),
        _ => digits(json),
    };
    i16::try_from(whole.or_else(|| serde_json::from_slice(json).ok().map(truncated))?).ok()
}

/// The number that is written with digits alone, as long as it is not too large.
fn digits(json: &[u8]) -> Option<i64> {
    json.iter().try_fold(0_i64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(i64::from(digit & 0xf)),
        _ => None,
    })
}

/// A timestamp in seconds, whichever it is in. Milliseconds stay, as a fraction.
fn in_seconds(timestamp: f64) -> f64 {
    if timestamp > LAST_SECOND { timestamp / 1_000.0 } else { timestamp }
}

/// The second in which a moment lies.
fn whole_seconds(seconds: f64) -> i64 {
    truncated(seconds * 1_000.0).div_euclid(1_000)
}

/// The whole number next to zero; what is out of range ends at the range's end, and what is no number is 0.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "this is how Rust truncates without std")]
pub(crate) const fn truncated(number: f64) -> i64 {
    number as i64
}
