//! Owns the verdicts of the reference implementation, field for field: what `--opentrace-compatible` is made of.
//!
//! The reference writes its verdict into the uploaded record itself and reads the record as JavaScript does. Where that is
//! lax, a case of `vectors/opentrace.json` shows it:
//!
//! | in the record | what happens | case |
//! |---|---|---|
//! | `msg` that is not the one text of an id | decoded as [`sealed::reference`](crate::sealed::reference) says | N022 to N028 |
//! | `msg` that is not text | `failed_decryption`; the contact is whatever stands there | N042 |
//! | `timestamp` missing, or no number | within every window; its date is `Invalid date` | N060, N064 |
//! | `timestamp` of `null` | 0 | N061 |
//! | `timestamp` that is the text of a number | that number | N062, N063 |
//! | fields of a verdict that the uploader has set | kept where the verdict does not set them | N067, N068, N069 |
//! | any other field | kept | N070 |
//! | the uploader's own id, the same record twice | as any other | N071 |
//!
//! Two things are not reproduced, because no JSON text of a phone has them: a `msg` that is an array of 61 bytes, which Node
//! would decode, and numbers above 10^308, which JavaScript takes for infinite and `serde_json` refuses.

use alloc::borrow::ToOwned;
use alloc::string::String;

use serde_json::{Map, Number, Value};

use crate::opentrace::date::{UtcOffset, format_timestamp};
use crate::opentrace::{Finding, LAST_SECOND, Verdict, in_seconds, truncated, whole_seconds};
use crate::sealed::reference::sealed_as_reference;
use crate::sealed::{Opened, SealedTempId};

/// Judges a record as the reference does, and writes into it what the reference writes: `timestamp` in seconds,
/// `timestampString`, `isValid`, `invalidReason`, `contactId`, `contactIdValidFrom`, `contactIdValidTo`.
///
/// `open` is given an id and the second of the record, or `None` if the record has no moment and any key may have sealed it; it
/// is called once at the most. A record that is no JSON object fails the whole upload in the reference, so there is nothing to
/// reproduce: [`Finding::Malformed`] is the verdict for it.
pub fn judge_as_reference(
    record: &mut Map<String, Value>,
    offset: UtcOffset,
    open: impl FnOnce(&SealedTempId, Option<i64>) -> Option<Opened>,
) -> Verdict {
    let given = record.get("timestamp").map_or(f64::NAN, number_of);
    let timestamp = in_seconds(given);
    if given > LAST_SECOND {
        record.insert("timestamp".to_owned(), number(timestamp));
    }
    record.insert("timestampString".to_owned(), format_timestamp(timestamp, offset).into());
    let has_message = record.get("msg").is_some_and(is_true);
    let temp_id = record.get("msg").and_then(Value::as_str).and_then(sealed_as_reference);
    let moment = (!timestamp.is_nan()).then_some(timestamp);
    let finding = match temp_id.and_then(|temp_id| open(&temp_id, moment.map(whole_seconds))) {
        _ if !has_message => Finding::NoMessage,
        Some(opened) => Finding::of(opened, timestamp),
        None => Finding::FailedDecryption,
    };
    write(&finding, record);
    Verdict { finding, timestamp: moment, temp_id, rssi: None }
}

/// Writes a verdict into its record.
fn write(finding: &Finding, record: &mut Map<String, Value>) {
    record.insert("isValid".to_owned(), finding.is_valid().into());
    if let Some(opened) = finding.opened() {
        record.insert("contactId".to_owned(), opened.uid.reveal().into());
        record.insert("contactIdValidFrom".to_owned(), opened.start.into());
        record.insert("contactIdValidTo".to_owned(), opened.expiry.into());
    }
    if *finding == Finding::FailedDecryption {
        // a reason that the uploader has set passes for one that was found, and no contact is written
        if record.get("invalidReason").is_some_and(is_true) {
            return;
        }
        let message = record.get("msg").cloned().unwrap_or_default();
        record.insert("contactId".to_owned(), message);
    }
    if let Some(reason) = finding.invalid_reason() {
        record.insert("invalidReason".to_owned(), reason.into());
    }
}

/// Whether JavaScript takes a value for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// The number that JavaScript makes of a value to compare it with one.
fn number_of(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::Bool(is_true) => f64::from(u8::from(*is_true)),
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        Value::String(text) => number_of_text(text),
        // an array is first made a text, of its only element
        Value::Array(elements) => match elements.as_slice() {
            [] | [Value::Null] => 0.0,
            [Value::Bool(_)] => f64::NAN,
            [element] => number_of(element),
            _ => f64::NAN,
        },
        Value::Object(_) => f64::NAN,
    }
}

/// The number that JavaScript reads in a text.
fn number_of_text(text: &str) -> f64 {
    let text = text
        .trim_matches(|character: char| character == '\u{feff}' || character.is_whitespace() && character != '\u{85}');
    let radix = match text.as_bytes() {
        [] => return 0.0,
        [b'0', b'x' | b'X', ..] => 16,
        [b'0', b'o' | b'O', ..] => 8,
        [b'0', b'b' | b'B', ..] => 2,
        _ => 10,
    };
    if radix != 10 {
        let digits = text.get(2..).filter(|digits| !digits.is_empty());
        let value = digits.and_then(|digits| {
            digits
                .chars()
                .try_fold(0.0, |value, digit| Some(value * f64::from(radix) + f64::from(digit.to_digit(radix)?)))
        });
        return value.unwrap_or(f64::NAN);
    }
    match text {
        "Infinity" | "+Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        // Rust reads more words than that
        _ if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) => {
            text.parse().unwrap_or(f64::NAN)
        }
        _ => f64::NAN,
    }
}

/// A number as JavaScript writes it: whole ones without a fraction.
fn number(value: f64) -> Value {
    let whole = truncated(value);
    // what a f64 holds exactly
    let is_whole = value.abs() < 9_007_199_254_740_992.0 && value % 1.0 == 0.0;
    if is_whole { whole.into() } else { Number::from_f64(value).map_or(Value::Null, Value::Number) }
}
