//! Owns the record syntax `<TempID>, <start>, <expiry>` and the [`TempId`] in it (PROTOCOL section 1).

use alloc::string::String;
use core::hash::{Hash, Hasher};
use core::{fmt, str};

use rand_core::Rng;
use thiserror::Error;

use crate::limits::{MAX_TEMP_ID_DIGITS, REGISTRY_DIGITS, SEALED_CHARACTERS};
use crate::sealed::SealedTempId;
use crate::time::{TIME_CHARACTERS, Timestamp, Window, WindowError};

/// A temporary id that a device shows to those near it.
///
/// Invariant: 20 to 64 ASCII digits (registry scheme and kin), or 84 characters of base64 (sealed scheme); so never a
/// comma, a space or a control character. It has no `Display`, and its `Debug` is redacted: [`TempId::reveal`] marks
/// each place where an id leaves on purpose.
///
/// It is held in place, not on the heap: ids are made, read and dropped by the million.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TempId {
    /// The characters, and zeros behind them.
    text: [u8; SEALED_CHARACTERS],
    length: u8,
}

/// A `TempID` with the window in which it may be shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Record {
    /// The id.
    pub temp_id: TempId,
    /// When it may be shown.
    pub window: Window,
}

/// Why a text is not a record. The text itself is never part of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Not three fields separated by commas.
    #[error("not of the form <TempID>, <start>, <expiry>")]
    Shape,
    /// The first field is not a `TempID`.
    #[error("the TempID is neither 20 to 64 digits nor 84 characters of base64")]
    TempId,
    /// A time is not `DD/MM/YYYY HH:MM:SS`.
    #[error("a time is not of the form DD/MM/YYYY HH:MM:SS")]
    Time,
    /// Start and expiry make no window.
    #[error("{0}")]
    Window(#[from] WindowError),
}

impl TempId {
    /// Reads a `TempID`.
    ///
    /// # Errors
    /// [`RecordError::TempId`] if the text is neither 20 to 64 digits nor 84 characters of standard base64.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let bytes = text.as_bytes();
        let is_digits =
            (REGISTRY_DIGITS..=MAX_TEMP_ID_DIGITS).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit);
        if is_digits || is_sealed_text(bytes) { Ok(Self::of(bytes)) } else { Err(RecordError::TempId) }
    }

    /// Draws 20 uniformly random digits.
    pub fn random(generator: &mut impl Rng) -> Self {
        let mut digits = [0; REGISTRY_DIGITS];
        let mut places = digits.iter_mut();
        while places.len() > 0 {
            let mut bytes = [0_u8; 32];
            generator.fill_bytes(&mut bytes);
            // 250 is the largest multiple of ten that a byte can hold: what lies above would favour low digits
            let fair = bytes.into_iter().filter(|byte| *byte < 250);
            for (byte, place) in fair.zip(places.by_ref()) {
                *place = b'0'.saturating_add(byte % 10);
            }
        }
        Self::of(&digits)
    }

    /// The id as it goes on the wire, into the store or onto the operator's console. Never into a log.
    pub fn reveal(&self) -> &str {
        // ASCII throughout, so never the default
        str::from_utf8(self.text.get(..usize::from(self.length)).unwrap_or_default()).unwrap_or_default()
    }

    /// The id of these ASCII characters, of which there are never more than there is room for.
    fn of(characters: &[u8]) -> Self {
        let mut text = [0; SEALED_CHARACTERS];
        for (place, character) in text.iter_mut().zip(characters) {
            *place = *character;
        }
        Self { text, length: u8::try_from(characters.len()).unwrap_or(u8::MAX) }
    }
}

impl From<&SealedTempId> for TempId {
    fn from(sealed: &SealedTempId) -> Self {
        let mut id = Self { text: [0; SEALED_CHARACTERS], length: SEALED_LENGTH };
        sealed.encode(&mut id.text);
        id
    }
}

impl Hash for TempId {
    /// As its text has it, so that the short ids are not hashed as if they were long.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reveal().hash(state);
    }
}

impl fmt::Debug for TempId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TempId(..)")
    }
}

impl Record {
    /// Reads `<TempID>, <start>, <expiry>`; any number of spaces, or none, may stand around a comma.
    ///
    /// # Errors
    /// [`RecordError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let mut fields = text.split(',').map(|field| field.trim_matches(' '));
        match (fields.next(), fields.next(), fields.next(), fields.next()) {
            (Some(temp_id), Some(start), Some(expiry), None) => Self::from_fields(temp_id, start, expiry),
            _ => Err(RecordError::Shape),
        }
    }

    /// Puts a record together from the texts of its three fields.
    ///
    /// # Errors
    /// [`RecordError`] says which part is wrong.
    pub fn from_fields(temp_id: &str, start: &str, expiry: &str) -> Result<Self, RecordError> {
        let time = |text| Timestamp::parse(text).map_err(|_| RecordError::Time);
        let temp_id = TempId::parse(temp_id)?;
        Ok(Self { temp_id, window: Window::new(time(start)?, time(expiry)?)? })
    }

    /// Appends `<TempID>, <start>, <expiry>`.
    pub fn write_to(&self, out: &mut String) {
        out.push_str(self.temp_id.reveal());
        out.push_str(", ");
        self.window.start().write_to(out);
        out.push_str(", ");
        self.window.expiry().write_to(out);
    }

    /// The text `<TempID>, <start>, <expiry>`, for the wire, a file or the console. Never for a log.
    pub fn reveal(&self) -> String {
        // two separators of two characters, two times
        const AROUND: usize = 4 + 2 * TIME_CHARACTERS;
        let mut text = String::with_capacity(AROUND.saturating_add(self.temp_id.reveal().len()));
        self.write_to(&mut text);
        text
    }
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "84")]
const SEALED_LENGTH: u8 = SEALED_CHARACTERS as u8;

/// Whether the bytes are the padded base64 of 61 bytes: 82 characters of the alphabet and `==`.
fn is_sealed_text(bytes: &[u8]) -> bool {
    let is_of_alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    // all of them, also behind a wrong one: so they are looked at several at a time
    let are_of_alphabet = |body: &[u8]| body.iter().fold(true, |all, byte| all & is_of_alphabet(byte));
    bytes.len() == SEALED_CHARACTERS && bytes.strip_suffix(b"==").is_some_and(are_of_alphabet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const ID: &str = "12345678901234567891";
    const START: &str = "13/05/2020 17:54:06";
    const EXPIRY: &str = "13/05/2020 18:09:05";

    #[test]
    fn a_record_is_an_id_and_two_times_with_commas_and_any_spaces_around_them() {
        let record = Record::from_fields(ID, START, EXPIRY).unwrap();
        assert_eq!(record.reveal(), format!("{ID}, {START}, {EXPIRY}"));
        for separator in [", ", ",", " , ", "   ,", ",   "] {
            assert_eq!(Record::parse(&[ID, START, EXPIRY].join(separator)).as_ref(), Ok(&record), "{separator:?}");
        }
        assert_eq!(Record::parse(&format!("{ID}, 2020-05-13 17:54:06, 2020-05-13 18:09:05")), Ok(record));
    }

    #[test]
    fn each_part_of_a_record_that_is_wrong_is_told() {
        for (text, error) in [
            (String::new(), RecordError::Shape),
            (format!("{ID}, {START}"), RecordError::Shape),
            (format!("{ID}, {START}, {EXPIRY}, {EXPIRY}"), RecordError::Shape),
            (format!("{ID}, {START}, {EXPIRY},"), RecordError::Shape),
            (format!("{ID} {START} {EXPIRY}"), RecordError::Shape),
            (format!(", {START}, {EXPIRY}"), RecordError::TempId),
            (format!("{ID}\t, {START}, {EXPIRY}"), RecordError::TempId),
            (format!("{ID}, {START}, {EXPIRY}\n"), RecordError::Time),
            (format!("{ID}, {EXPIRY}, {START}"), RecordError::Window(WindowError::Reversed)),
            (format!("{ID}, {START}, 14/05/2020 17:54:07"), RecordError::Window(WindowError::TooLong)),
        ] {
            assert_eq!(Record::parse(&text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_temp_id_has_20_to_64_digits() {
        for (digits, is_temp_id) in [(19, false), (20, true), (64, true), (65, false)] {
            assert_eq!(TempId::parse(&"7".repeat(digits)).is_ok(), is_temp_id, "{digits} digits");
        }
        for text in
            ["1234567890123456789x", "-2345678901234567891", "1234567890 234567891", "\u{661}2345678901234567891"]
        {
            assert_eq!(TempId::parse(text), Err(RecordError::TempId), "{text:?}");
        }
    }

    #[test]
    fn a_sealed_temp_id_is_the_base64_of_61_bytes() {
        let sealed = format!("{}==", "aZ0+/9".repeat(14).get(..82).unwrap());
        assert!(TempId::parse(&sealed).is_ok());
        for text in
            [&sealed[1..], &sealed[..83], &sealed.replace('+', "-"), &sealed.replace("==", "A="), &"A".repeat(84)]
        {
            assert_eq!(TempId::parse(text), Err(RecordError::TempId), "{text:?}");
        }
    }

    #[test]
    fn random_ids_are_20_digits_and_each_digit_is_as_likely_as_any_other() {
        struct EveryByte(u8);
        impl rand_core::TryRng for EveryByte {
            type Error = core::convert::Infallible;
            fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
                rand_core::utils::next_word_via_fill(self)
            }
            fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
                rand_core::utils::next_word_via_fill(self)
            }
            fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
                for byte in dst {
                    *byte = self.0;
                    self.0 = self.0.wrapping_add(1);
                }
                Ok(())
            }
        }
        let mut generator = EveryByte(0);
        let mut counts = [0_u32; 10];
        for _ in 0..1_000 {
            let id = TempId::random(&mut generator);
            assert_eq!(TempId::parse(id.reveal()), Ok(id.clone()));
            for digit in id.reveal().bytes() {
                counts[usize::from(digit - b'0')] += 1;
            }
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 40, "{counts:?}");
    }

    #[test]
    fn debug_shows_no_id() {
        let shown = format!("{:?}", Record::from_fields(ID, START, EXPIRY));
        assert!(!shown.contains("1234") && shown.contains("TempId(..)"), "{shown}");
    }
}
