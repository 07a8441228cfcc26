//! Owns the dates that the reference writes into records: `09-Apr-2020 00:06:30 +00:00`.

use alloc::format;
use alloc::string::String;

use crate::opentrace::truncated;
use crate::time::{SECONDS_A_DAY, civil_from_days};

/// An offset from UTC in whole minutes, less than a day either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UtcOffset(i32);

impl UtcOffset {
    /// The offset of a number: hours if it lies between -16 and 16, else minutes. `None` of a day and more.
    pub fn from_number(number: f64) -> Option<Self> {
        let minutes = if number > -16.0 && number < 16.0 { number * 60.0 } else { number };
        Self::from_minutes(i32::try_from(truncated(minutes)).ok().filter(|_| minutes.is_finite())?)
    }

    /// Reads `+08:00`, `-0530` or `+08`, and `Z` for none.
    pub fn parse(text: &str) -> Option<Self> {
        let two = |digits: [u8; 2]| -> Option<i32> {
            let [tens, ones] =
                digits.map(|digit| char::from(digit).to_digit(10).and_then(|digit| i32::try_from(digit).ok()));
            tens?.checked_mul(10)?.checked_add(ones?)
        };
        let (sign, hours, minutes) = match *text.as_bytes() {
            [b'Z' | b'z'] => return Some(Self(0)),
            [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => (sign, [h1, h2], [m1, m2]),
            [sign, h1, h2] => (sign, [h1, h2], *b"00"),
            _ => return None,
        };
        let minutes = two(hours)?.checked_mul(60)?.checked_add(two(minutes)?)?;
        match sign {
            b'+' => Self::from_minutes(minutes),
            b'-' => Self::from_minutes(minutes.checked_neg()?),
            _ => None,
        }
    }

    fn from_minutes(minutes: i32) -> Option<Self> {
        (-MINUTES_A_DAY < minutes && minutes < MINUTES_A_DAY).then_some(Self(minutes))
    }
}

/// Writes a moment, in seconds since 1970, as `DD-MMM-YYYY HH:mm:ss Z` at an offset. Fractions are dropped. What is no number, or no
/// moment that JavaScript has, is `Invalid date`.
pub fn format_timestamp(seconds: f64, offset: UtcOffset) -> String {
    let milliseconds = seconds * 1_000.0;
    if !(-LAST_MILLISECOND..=LAST_MILLISECOND).contains(&milliseconds) {
        return "Invalid date".into();
    }
    let seconds = truncated(milliseconds).div_euclid(1_000).saturating_add(i64::from(offset.0).saturating_mul(60));
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_A_DAY));
    let of_day = seconds.rem_euclid(SECONDS_A_DAY);
    let (hour, minute, second) =
        (of_day.div_euclid(3_600), of_day.rem_euclid(3_600).div_euclid(60), of_day.rem_euclid(60));
    let month = month.checked_sub(1).and_then(|place| MONTHS.get(usize::try_from(place).ok()?)).unwrap_or(&"");
    let before_year = if year < 0 { "-" } else { "" };
    let year = year.unsigned_abs();
    let sign = if offset.0 < 0 { '-' } else { '+' };
    let (of_hours, of_minutes) = (offset.0.unsigned_abs().div_euclid(60), offset.0.unsigned_abs().rem_euclid(60));
    format!(
        "{day:02}-{month}-{before_year}{year:04} {hour:02}:{minute:02}:{second:02} {sign}{of_hours:02}:{of_minutes:02}"
    )
}

const MINUTES_A_DAY: i32 = 24 * 60;

/// The last moment of JavaScript's dates, in milliseconds from 1970, either way (ECMAScript, time values).
const LAST_MILLISECOND: f64 = 8.64e15;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_hours_minutes_or_a_text() {
        for (offset, minutes) in [
            (UtcOffset::from_number(0.0), 0),
            (UtcOffset::from_number(8.0), 480),
            (UtcOffset::from_number(10.5), 630),
            (UtcOffset::from_number(-15.75), -945),
            (UtcOffset::from_number(16.0), 16),
            (UtcOffset::from_number(-300.0), -300),
            (UtcOffset::parse("+08:00"), 480),
            (UtcOffset::parse("-0530"), -330),
            (UtcOffset::parse("+08"), 480),
            (UtcOffset::parse("Z"), 0),
        ] {
            assert_eq!(offset, Some(UtcOffset(minutes)));
        }
        for none in [1_440.0, -1_440.0, f64::NAN, f64::INFINITY] {
            assert_eq!(UtcOffset::from_number(none), None, "{none}");
        }
        for none in ["", "8", "08:00", "+8:00", "+0a:00", "+24:00", "Singapore"] {
            assert_eq!(UtcOffset::parse(none), None, "{none}");
        }
    }

    #[test]
    fn dates_reach_as_far_as_those_of_javascript() {
        let utc = UtcOffset::default();
        assert_eq!(format_timestamp(8.64e12, utc), "13-Sep-275760 00:00:00 +00:00");
        assert_eq!(format_timestamp(-62_198_755_200.0, utc), "01-Jan--0001 00:00:00 +00:00");
        assert_eq!(format_timestamp(-1.5, utc), "31-Dec-1969 23:59:58 +00:00");
        for none in [8.640_000_000_001e12, -8.65e12, f64::NAN, f64::INFINITY] {
            assert_eq!(format_timestamp(none, utc), "Invalid date", "{none}");
        }
    }
}
