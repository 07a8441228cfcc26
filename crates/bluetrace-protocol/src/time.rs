//! Owns time as the formats write it: [`Timestamp`], [`Window`], and the fixed 19-character text; and [`Moment`], for the
//! few times that no format writes and that count to the millisecond.
//!
//! The text is `DD/MM/YYYY HH:MM:SS` in UTC (PROTOCOL section 1). It is parsed by hand because it is this system's own
//! format, fixed in width, and stands in every record; everything else about dates is left to libraries.

use alloc::string::String;
use core::{fmt, str};

use thiserror::Error;

use crate::limits::MAX_WINDOW_S;

/// Characters of a time's text: `DD/MM/YYYY HH:MM:SS`.
pub const TIME_CHARACTERS: usize = 19;

/// A moment in whole seconds since 1970-01-01 00:00:00 UTC, up to the year 9999.
///
/// Invariant: `0 <= seconds <= 253_402_300_799`, so that every timestamp has a text of 19 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// A moment in milliseconds since 1970-01-01 00:00:00 UTC, up to the last millisecond of the year 9999.
///
/// Invariant: `0 <= milliseconds <= 253_402_300_799_999`, so that every moment lies in a second that is a [`Timestamp`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(i64);

/// Tells the time. The system's clock in the binary, a virtual one in tests and simulations.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn moment(&self) -> Moment;

    /// The second in which the present moment lies.
    fn now(&self) -> Timestamp {
        self.moment().timestamp()
    }
}

/// A text that is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a time of the form DD/MM/YYYY HH:MM:SS")]
pub struct TimeError;

impl Timestamp {
    /// 1970-01-01 00:00:00 UTC.
    pub const MIN: Self = Self(0);
    /// 9999-12-31 23:59:59 UTC.
    pub const MAX: Self = Self(253_402_300_799);

    /// The moment `seconds` after 1970-01-01 00:00:00 UTC, or `None` outside 1970 to 9999.
    pub const fn from_unix(seconds: i64) -> Option<Self> {
        if seconds >= Self::MIN.0 && seconds <= Self::MAX.0 { Some(Self(seconds)) } else { None }
    }

    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub const fn as_unix(self) -> i64 {
        self.0
    }

    /// The moment `seconds` later (earlier if negative), held within [`Self::MIN`] and [`Self::MAX`].
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(held(self.0.saturating_add(seconds), Self::MIN.0, Self::MAX.0))
    }

    /// Seconds from `earlier` to this moment; negative if `earlier` is later.
    pub const fn seconds_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads `DD/MM/YYYY HH:MM:SS` or `YYYY-MM-DD HH:MM:SS`, exactly 19 characters.
    ///
    /// # Errors
    /// [`TimeError`] for any other text and for a date or time of day that does not exist.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let [day, month, year, hour, minute, second] = match text.as_bytes() {
            [d1, d2, b'/', m1, m2, b'/', y1, y2, y3, y4, b' ', rest @ ..]
            | [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b' ', rest @ ..] => {
                let [hour, minute, second] = clock_fields(rest)?;
                [number(&[*d1, *d2])?, number(&[*m1, *m2])?, number(&[*y1, *y2, *y3, *y4])?, hour, minute, second]
            }
            _ => return Err(TimeError),
        };
        let days = days_from_civil(year, month, day).ok_or(TimeError)?;
        if hour > 23 || minute > 59 || second > 59 {
            return Err(TimeError);
        }
        let of_day = hour.saturating_mul(3_600).saturating_add(minute.saturating_mul(60)).saturating_add(second);
        Self::from_unix(days.saturating_mul(SECONDS_A_DAY).saturating_add(of_day)).ok_or(TimeError)
    }

    /// Appends `DD/MM/YYYY HH:MM:SS`.
    pub fn write_to(self, out: &mut String) {
        let (year, month, day) = civil_from_days(self.0.div_euclid(SECONDS_A_DAY));
        let of_day = self.0.rem_euclid(SECONDS_A_DAY);
        let minutes = of_day.div_euclid(60);
        let [[d1, d2], [m1, m2], [y1, y2], [y3, y4]] =
            [day, month, year.div_euclid(100), year.rem_euclid(100)].map(two_digits);
        let [[h1, h2], [min1, min2], [s1, s2]] =
            [minutes.div_euclid(60), minutes.rem_euclid(60), of_day.rem_euclid(60)].map(two_digits);
        let text: [u8; TIME_CHARACTERS] =
            [d1, d2, b'/', m1, m2, b'/', y1, y2, y3, y4, b' ', h1, h2, b':', min1, min2, b':', s1, s2];
        // ASCII throughout, so never the default
        out.push_str(str::from_utf8(&text).unwrap_or_default());
    }
}

/// `DD/MM/YYYY HH:MM:SS`, 19 characters, UTC.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(TIME_CHARACTERS);
        self.write_to(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Moment {
    /// The first millisecond of [`Timestamp::MIN`].
    pub const MIN: Self = Self(0);
    /// The last millisecond of [`Timestamp::MAX`].
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The moment `milliseconds` after 1970-01-01 00:00:00 UTC, or `None` outside 1970 to 9999.
    pub const fn from_unix_ms(milliseconds: i64) -> Option<Self> {
        if milliseconds >= Self::MIN.0 && milliseconds <= Self::MAX.0 { Some(Self(milliseconds)) } else { None }
    }

    /// Milliseconds since 1970-01-01 00:00:00 UTC.
    pub const fn as_unix_ms(self) -> i64 {
        self.0
    }

    /// The whole second in which this moment lies: rounded down.
    pub const fn timestamp(self) -> Timestamp {
        Timestamp(self.0.div_euclid(MILLISECONDS_A_SECOND))
    }

    /// The first whole second that does not begin before this moment: rounded up, and held within [`Timestamp::MAX`].
    pub const fn timestamp_rounded_up(self) -> Timestamp {
        self.plus_ms(MILLISECONDS_A_SECOND.saturating_sub(1)).timestamp()
    }

    /// The moment `milliseconds` later (earlier if negative), held within [`Self::MIN`] and [`Self::MAX`].
    #[must_use]
    pub const fn plus_ms(self, milliseconds: i64) -> Self {
        Self(held(self.0.saturating_add(milliseconds), Self::MIN.0, Self::MAX.0))
    }

    /// Milliseconds from `earlier` to this moment; negative if `earlier` is later.
    pub const fn milliseconds_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How many whole seconds to wait from `now` until this moment is there: rounded up, and 1 at the least.
    pub fn seconds_to_wait(self, now: Self) -> i64 {
        let up = self.milliseconds_since(now).saturating_add(MILLISECONDS_A_SECOND.saturating_sub(1));
        up.div_euclid(MILLISECONDS_A_SECOND).max(1)
    }
}

/// The first millisecond of the second.
impl From<Timestamp> for Moment {
    fn from(second: Timestamp) -> Self {
        Self(second.0.saturating_mul(MILLISECONDS_A_SECOND))
    }
}

/// `DD/MM/YYYY HH:MM:SS.mmm`, UTC.
impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.timestamp(), self.0.rem_euclid(MILLISECONDS_A_SECOND))
    }
}

/// The span in which a `TempID` may be shown: both ends inclusive.
///
/// Invariant: `start <= expiry` and `expiry - start <= MAX_WINDOW_S` (24 hours).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Window {
    start: Timestamp,
    expiry: Timestamp,
}

/// A start and an expiry that do not make a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WindowError {
    /// The expiry is before the start.
    #[error("the expiry is before the start")]
    Reversed,
    /// The window is longer than [`MAX_WINDOW_S`].
    #[error("the window is longer than 24 hours")]
    TooLong,
}

impl Window {
    /// The window from `start` to `expiry`, both inclusive.
    ///
    /// # Errors
    /// [`WindowError`] if `expiry < start` or the window is longer than 24 hours.
    pub fn new(start: Timestamp, expiry: Timestamp) -> Result<Self, WindowError> {
        match expiry.seconds_since(start) {
            seconds if seconds < 0 => Err(WindowError::Reversed),
            seconds if seconds > MAX_WINDOW_S => Err(WindowError::TooLong),
            _ => Ok(Self { start, expiry }),
        }
    }

    /// The first second in which the `TempID` is valid.
    pub const fn start(self) -> Timestamp {
        self.start
    }

    /// The last second in which the `TempID` is valid.
    pub const fn expiry(self) -> Timestamp {
        self.expiry
    }

    /// Whether `start <= at <= expiry`.
    pub fn contains(self, at: Timestamp) -> bool {
        self.start <= at && at <= self.expiry
    }
}

pub(crate) const SECONDS_A_DAY: i64 = 86_400;

const MILLISECONDS_A_SECOND: i64 = 1_000;

/// A number held within limits; [`Ord::clamp`] is not for constants.
const fn held(number: i64, min: i64, max: i64) -> i64 {
    if number < min {
        min
    } else if number > max {
        max
    } else {
        number
    }
}

/// The three numbers of `HH:MM:SS`.
fn clock_fields(text: &[u8]) -> Result<[i64; 3], TimeError> {
    match text {
        [h1, h2, b':', m1, m2, b':', s1, s2] => Ok([number(&[*h1, *h2])?, number(&[*m1, *m2])?, number(&[*s1, *s2])?]),
        _ => Err(TimeError),
    }
}

fn number(digits: &[u8]) -> Result<i64, TimeError> {
    digits.iter().try_fold(0_i64, |value, digit| {
        if digit.is_ascii_digit() {
            Ok(value.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0'))))
        } else {
            Err(TimeError)
        }
    })
}

/// The two digits of a number below 100.
fn two_digits(value: i64) -> [u8; 2] {
    let value = u8::try_from(value).unwrap_or_default();
    [b'0'.saturating_add(value / 10), b'0'.saturating_add(value % 10)]
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar, or `None` if there is no such date.
/// The method is the well-known one with years that begin in March, so that leap days come last.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    let (year, month) =
        if month > 2 { (year, month.checked_sub(3)?) } else { (year.checked_sub(1)?, month.checked_add(9)?) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = month.checked_mul(153)?.checked_add(2)?.div_euclid(5).checked_add(day)?.checked_sub(1)?;
    let day_of_era = of_era
        .checked_mul(365)?
        .checked_add(of_era.div_euclid(4))?
        .checked_sub(of_era.div_euclid(100))?
        .checked_add(of_year)?;
    era.checked_mul(146_097)?.checked_add(day_of_era)?.checked_sub(719_468)
}

/// Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = of_era
        .saturating_sub(of_era.div_euclid(1_460))
        .saturating_add(of_era.div_euclid(36_524))
        .saturating_sub(of_era.div_euclid(146_096))
        .div_euclid(365);
    let before = year_of_era
        .saturating_mul(365)
        .saturating_add(year_of_era.div_euclid(4))
        .saturating_sub(year_of_era.div_euclid(100));
    let of_year = of_era.saturating_sub(before);
    let month = of_year.saturating_mul(5).saturating_add(2).div_euclid(153);
    let day = of_year.saturating_sub(month.saturating_mul(153).saturating_add(2).div_euclid(5)).saturating_add(1);
    let year = year_of_era.saturating_add(era.saturating_mul(400));
    if month < 10 {
        (year, month.saturating_add(3), day)
    } else {
        (year.saturating_add(1), month.saturating_sub(9), day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn the_window_of_the_report_is_899_seconds_long() {
        let start = Timestamp::parse("13/05/2020 17:54:06").unwrap();
        let expiry = Timestamp::parse("13/05/2020 18:09:05").unwrap();
        assert_eq!(start.as_unix(), 1_589_392_446);
        assert_eq!(expiry.seconds_since(start), 899);
        assert_eq!(start.to_string(), "13/05/2020 17:54:06");
        assert_eq!(Timestamp::parse("2020-05-13 17:54:06"), Ok(start));
    }

    #[test]
    fn days_of_every_year_from_1970_to_9999_survive_text() {
        // 29 days are fewer than any month but February has, so that every month is met, leap days among them; the
        // further seconds walk through the hours
        let step = 29 * SECONDS_A_DAY + 3_571;
        let mut day = Timestamp::MIN;
        while day < Timestamp::MAX {
            assert_eq!(Timestamp::parse(&day.to_string()), Ok(day));
            day = day.plus(step);
        }
        assert_eq!(Timestamp::MAX.to_string(), "31/12/9999 23:59:59");
        assert_eq!(Timestamp::MIN.to_string(), "01/01/1970 00:00:00");
    }

    #[test]
    fn leap_years_are_those_of_the_gregorian_calendar() {
        for (day_before, day_after) in [
            ("28/02/1972", "29/02/1972"),
            ("29/02/2000", "01/03/2000"),
            ("28/02/2023", "01/03/2023"),
            ("28/02/2100", "01/03/2100"),
            ("29/02/2400", "01/03/2400"),
            ("31/12/9998", "01/01/9999"),
        ] {
            let before = Timestamp::parse(&format!("{day_before} 23:59:59")).unwrap();
            assert_eq!(before.plus(1).to_string(), format!("{day_after} 00:00:00"));
            assert_eq!(Timestamp::parse(&format!("{day_after} 00:00:00")), Ok(before.plus(1)));
        }
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "13/05/2020",
            "31/02/2020 00:00:00",
            "29/02/2021 00:00:00",
            "00/01/2020 00:00:00",
            "01/13/2020 00:00:00",
            "01/01/2020 24:00:00",
            "01/01/2020 00:60:00",
            "01/01/2020 00:00:60",
            "01/01/1969 00:00:00",
            "1/1/2020 00:00:00",
            "13-05-2020 17:54:06",
            "2020/05/13 17:54:06",
            "13/05/2020 17:54:06 ",
            "13/05/2020 17:54:0x",
            "+1/05/2020 17:54:06",
        ] {
            assert_eq!(Timestamp::parse(text), Err(TimeError), "{text:?}");
        }
    }

    #[test]
    fn a_moment_lies_in_its_second_and_its_second_begins_it() {
        let second = Timestamp::parse("13/05/2020 17:54:06").unwrap();
        let begin = Moment::from(second);
        assert_eq!(begin.as_unix_ms(), 1_589_392_446_000);
        for (later_ms, down, up) in [(0, 0, 0), (1, 0, 1), (999, 0, 1), (1_000, 1, 1), (1_001, 1, 2), (-1, -1, 0)] {
            let moment = begin.plus_ms(later_ms);
            assert_eq!(moment.milliseconds_since(begin), later_ms);
            assert_eq!(moment.timestamp(), second.plus(down), "{moment:?}");
            assert_eq!(moment.timestamp_rounded_up(), second.plus(up), "{moment:?}");
        }
        assert_eq!(format!("{:?}", begin.plus_ms(7)), "13/05/2020 17:54:06.007");
    }

    #[test]
    fn moments_reach_from_1970_to_the_end_of_9999_and_no_further() {
        assert_eq!(Moment::from_unix_ms(-1), None);
        assert_eq!(Moment::from_unix_ms(0), Some(Moment::from(Timestamp::MIN)));
        let last = Moment::from(Timestamp::MAX).plus_ms(999);
        assert_eq!(Moment::from_unix_ms(last.as_unix_ms()), Some(Moment::MAX));
        assert_eq!(Moment::from_unix_ms(last.as_unix_ms() + 1), None);
        assert_eq!(last.timestamp(), Timestamp::MAX);
        assert_eq!(last.timestamp_rounded_up(), Timestamp::MAX);
        assert_eq!((Moment::MAX.plus_ms(1), Moment::MIN.plus_ms(-1)), (Moment::MAX, Moment::MIN));
        assert_eq!((Moment::MIN.plus_ms(i64::MAX), Moment::MAX.plus_ms(i64::MIN)), (Moment::MAX, Moment::MIN));
    }

    #[test]
    fn a_window_may_be_a_day_long_and_not_a_second_longer() {
        let start = Timestamp::from_unix(1_000).unwrap();
        assert!(Window::new(start, start).is_ok());
        assert!(Window::new(start, start.plus(MAX_WINDOW_S)).is_ok());
        assert_eq!(Window::new(start, start.plus(MAX_WINDOW_S + 1)), Err(WindowError::TooLong));
        assert_eq!(Window::new(start, start.plus(-1)), Err(WindowError::Reversed));
    }
}
