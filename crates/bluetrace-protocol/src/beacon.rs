//! Owns the beacon's datagram: `<TempID>, <start>, <expiry>, 1` and every form of it that is heard (PROTOCOL section 2).
//!
//! # How a datagram is read
//! Times are 19 characters wide in either form, so from the first time on nothing can be misread, not even with one space
//! between the fields, although a time holds a space itself. What stands before the first time is told apart thus:
//!
//! - The first word ends at the first comma or space. If it ends in a date, nothing separates the fields (*packed*), and
//!   what stands before the date is a `TempID` of 20 digits (or a sealed one), perhaps with the version before it.
//!   Longer ids are not read from the packed form: the version in front could be a digit of theirs.
//! - Otherwise the first word is the `TempID`, or, being shorter than any `TempID`, the version.
//!
//! A beacon keeps to one way of separating its fields. A mixture is no beacon.

use alloc::string::String;
use core::str;

use thiserror::Error;

use crate::limits::{MAX_BEACON, REGISTRY_DIGITS, SEALED_CHARACTERS};
use crate::record::{Record, TempId};
use crate::time::{TIME_CHARACTERS, Timestamp, Window, WindowError};

/// The version of the beacons written here, as it stands in the datagram.
pub const BEACON_VERSION: &str = "1";

/// What a device says to those near it: its `TempID` and when that may be shown, in version 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Beacon {
    /// The id and its window.
    pub record: Record,
}

/// Why a datagram is not a beacon, in words for the device's user. Nothing of the datagram is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BeaconError {
    /// More than [`MAX_BEACON`] bytes.
    #[error("it is longer than 256 bytes")]
    TooLong,
    /// A byte that is not printable ASCII, other than a line ending or NUL at the end.
    #[error("it is not plain text")]
    NotText,
    /// Not the fields of a beacon, or not separated as a beacon's are.
    #[error("it is not of the form <TempID>, <start>, <expiry>, <version>")]
    Shape,
    /// Where the `TempID` should be, there is none.
    #[error("its TempID is neither 20 to 64 digits nor 84 characters of base64")]
    TempId,
    /// Where a time should be, there is none, or one that does not exist.
    #[error("a time in it is not of the form DD/MM/YYYY HH:MM:SS")]
    Time,
    /// Start and expiry make no window.
    #[error("{0}")]
    Window(#[from] WindowError),
    /// A version that is not known here.
    #[error("its version is not 1")]
    Version,
}

impl Beacon {
    /// Reads a datagram in any of the forms that are heard (PROTOCOL section 2). It may still be outside its window:
    /// [`crate::device::judge`] decides that.
    ///
    /// # Errors
    /// [`BeaconError`] says why it is not a beacon.
    pub fn parse(datagram: &[u8]) -> Result<Self, BeaconError> {
        if datagram.len() > MAX_BEACON {
            return Err(BeaconError::TooLong);
        }
        let text = plain_text(datagram)?;
        let text = text.strip_prefix("beacon:").map_or(text, |rest| rest.trim_start_matches(' '));
        let (form, temp_id, rest) = split_temp_id(text)?;
        let (start, rest) = split_time(rest)?;
        let (expiry, rest) = split_time(form.separator.skip(rest)?)?;
        match rest {
            "" => {}
            _ if form.version_seen => return Err(BeaconError::Shape),
            _ => check_version(form.separator.skip(rest)?)?,
        }
        // the window before the id: what is refused allocates nothing
        let window = Window::new(start, expiry)?;
        let temp_id = TempId::parse(temp_id).map_err(|_| BeaconError::TempId)?;
        Ok(Self { record: Record { temp_id, window } })
    }

    /// Appends `<TempID>, <start>, <expiry>, 1`.
    pub fn write_to(&self, out: &mut String) {
        self.record.write_to(out);
        out.push_str(", ");
        out.push_str(BEACON_VERSION);
    }

    /// The datagram `<TempID>, <start>, <expiry>, 1`: ASCII, without a terminator, at most 129 bytes.
    pub fn reveal(&self) -> String {
        // three separators of two characters, two times
        const AROUND: usize = 6 + 2 * TIME_CHARACTERS + BEACON_VERSION.len();
        let mut text = String::with_capacity(AROUND.saturating_add(self.record.temp_id.reveal().len()));
        self.write_to(&mut text);
        text
    }
}

/// What stands between two fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Separator {
    /// A comma, with any number of spaces before and after it.
    Comma,
    /// One space.
    Space,
    /// Nothing.
    Packed,
}

/// What is known of a beacon's form once its `TempID` has been found.
struct Form {
    separator: Separator,
    version_seen: bool,
}

impl Separator {
    /// Reads the first separator of a text that begins with one.
    fn read(text: &str) -> Result<(Self, &str), BeaconError> {
        let after_spaces = text.trim_start_matches(' ');
        if let Some(rest) = after_spaces.strip_prefix(',') {
            return Ok((Self::Comma, rest.trim_start_matches(' ')));
        }
        match text.strip_prefix(' ') {
            Some(rest) if !rest.starts_with(' ') => Ok((Self::Space, rest)),
            _ => Err(BeaconError::Shape),
        }
    }

    /// Skips a further separator, which must be of the same kind.
    fn skip(self, text: &str) -> Result<&str, BeaconError> {
        if self == Self::Packed {
            return Ok(text);
        }
        match Self::read(text)? {
            (separator, rest) if separator == self => Ok(rest),
            _ => Err(BeaconError::Shape),
        }
    }
}

/// The datagram without its terminators, if it is printable ASCII.
fn plain_text(datagram: &[u8]) -> Result<&str, BeaconError> {
    let mut bytes = datagram;
    while let [rest @ .., b'\n' | b'\r' | b'\0'] = bytes {
        bytes = rest;
    }
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        str::from_utf8(bytes).map_err(|_| BeaconError::NotText)
    } else {
        Err(BeaconError::NotText)
    }
}

/// Finds the `TempID`: the form, the text of the id (not checked yet), and what follows from the first time on.
fn split_temp_id(text: &str) -> Result<(Form, &str, &str), BeaconError> {
    let (word, rest) = split_word(text)?;
    if let Some((before_date, _)) = split_date(word) {
        let times = text.get(before_date.len()..).ok_or(BeaconError::Shape)?;
        return match (before_date, strip_version(before_date)) {
            (temp_id, _) | (_, Some(temp_id)) if is_packed_length(temp_id) => {
                let version_seen = temp_id.len() != before_date.len();
                Ok((Form { separator: Separator::Packed, version_seen }, temp_id, times))
            }
            _ => Err(BeaconError::TempId),
        };
    }
    let (separator, rest) = Separator::read(rest)?;
    if word.len() >= REGISTRY_DIGITS {
        return Ok((Form { separator, version_seen: false }, word, rest));
    }
    if split_time(rest).is_ok() {
        return Err(BeaconError::TempId);
    }
    check_version(word)?;
    let (temp_id, rest) = split_word(rest)?;
    Ok((Form { separator, version_seen: true }, temp_id, separator.skip(rest)?))
}

/// The text up to the first comma or space, and from it on.
fn split_word(text: &str) -> Result<(&str, &str), BeaconError> {
    let end = text.bytes().position(|byte| matches!(byte, b' ' | b',')).ok_or(BeaconError::Shape)?;
    text.split_at_checked(end).ok_or(BeaconError::Shape)
}

/// Splits a word that ends in a date, `DD/MM/YYYY` or `YYYY-MM-DD`. A sealed `TempID` may hold strokes, but ends in `=`.
fn split_date(word: &str) -> Option<(&str, &str)> {
    let (before, date) = word.split_at_checked(word.len().checked_sub(10)?)?;
    let is_date = match date.as_bytes() {
        [_, _, b'/', _, _, b'/', _, _, _, last] | [_, _, _, _, b'-', _, _, b'-', _, last] => last.is_ascii_digit(),
        _ => false,
    };
    is_date.then_some((before, date))
}

fn is_packed_length(temp_id: &str) -> bool {
    matches!(temp_id.len(), REGISTRY_DIGITS | SEALED_CHARACTERS)
}

/// The 19 characters of a time, read, and what follows.
fn split_time(text: &str) -> Result<(Timestamp, &str), BeaconError> {
    let (time, rest) = text.split_at_checked(TIME_CHARACTERS).ok_or(BeaconError::Shape)?;
    Ok((Timestamp::parse(time).map_err(|_| BeaconError::Time)?, rest))
}

/// What follows a version in front of a packed beacon.
fn strip_version(text: &str) -> Option<&str> {
    text.strip_prefix("1.0").or_else(|| text.strip_prefix(BEACON_VERSION))
}

fn check_version(text: &str) -> Result<(), BeaconError> {
    match text {
        BEACON_VERSION | "1.0" => Ok(()),
        "" => Err(BeaconError::Shape),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => Err(BeaconError::Version),
        _ => Err(BeaconError::Shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const ID: &str = "12345678901234567891";
    const START: &str = "13/05/2020 17:54:06";
    const EXPIRY: &str = "13/05/2020 18:09:05";

    #[test]
    fn a_beacon_is_written_as_the_record_and_its_version() {
        let beacon = Beacon { record: Record::from_fields(ID, START, EXPIRY).unwrap() };
        assert_eq!(beacon.reveal(), format!("{ID}, {START}, {EXPIRY}, 1"));
        assert_eq!(Beacon::parse(beacon.reveal().as_bytes()), Ok(beacon));
    }

    #[test]
    fn each_reason_to_refuse_a_datagram_has_its_own_error() {
        let day_later = "14/05/2020 17:54:07";
        for (datagram, error) in [
            (format!("{:257}", ""), BeaconError::TooLong),
            (format!("{ID}, {START}, {EXPIRY}\t, 1"), BeaconError::NotText),
            (format!("{ID}, {START}, {EXPIRY}, \u{661}"), BeaconError::NotText),
            (format!("{ID}, {START}, {EXPIRY},"), BeaconError::Shape),
            (format!("1, {ID}, {START}, {EXPIRY}, 1"), BeaconError::Shape),
            (format!("{ID}, {START} {EXPIRY}, 1"), BeaconError::Shape),
            (format!("{ID}  {START}  {EXPIRY}"), BeaconError::Shape),
            (String::new(), BeaconError::Shape),
            ("hello, world".into(), BeaconError::Shape),
            (format!("123, {START}, {EXPIRY}, 1"), BeaconError::TempId),
            (format!("1{ID}1{START}{EXPIRY}"), BeaconError::TempId),
            (format!("{ID}, {START}, 31/02/2020 00:00:00, 1"), BeaconError::Time),
            (format!("{ID}, {EXPIRY}, {START}, 1"), BeaconError::Window(WindowError::Reversed)),
            (format!("{ID}, {START}, {day_later}, 1"), BeaconError::Window(WindowError::TooLong)),
            (format!("{ID}, {START}, {EXPIRY}, 2"), BeaconError::Version),
            (format!("2, {ID}, {START}, {EXPIRY}"), BeaconError::Version),
        ] {
            assert_eq!(Beacon::parse(datagram.as_bytes()), Err(error), "{datagram:?}");
        }
    }

    #[test]
    fn a_beacon_may_be_256_bytes_long_and_not_a_byte_longer() {
        let beacon = |bytes: usize| format!("{ID}{:1$}, {START}, {EXPIRY}", "", bytes.saturating_sub(20 + 19 + 19 + 4));
        assert!(Beacon::parse(beacon(MAX_BEACON).as_bytes()).is_ok());
        assert_eq!(Beacon::parse(beacon(MAX_BEACON + 1).as_bytes()), Err(BeaconError::TooLong));
    }
}
