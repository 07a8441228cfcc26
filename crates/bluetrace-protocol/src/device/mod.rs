//! Owns the device's rules: what to make of a beacon ([`judge`]), and, in the files beside this one, which `TempID` to show
//! and when to ask for more ([`TempIdBook`]), what time it is ([`DeviceClock`]), and how long to wait before trying again
//! ([`Backoff`]).

mod backoff;
mod clock;
mod temp_id_book;

pub use self::backoff::{Backoff, FIRST_WAIT, LONGEST_WAIT};
pub use self::clock::{CLOCK_TOLERANCE_S, ClockJump, DeviceClock, Reading};
pub use self::temp_id_book::{TempIdBook, USUAL_LIFETIME_S, WANTED_AHEAD_S};
use crate::beacon::{Beacon, BeaconError};
use crate::record::Record;
use crate::time::Timestamp;

/// What a device makes of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A beacon within its window: to be logged.
    Valid(Record),
    /// A beacon before or after its window: shown, not logged.
    Invalid(Record),
    /// No beacon, and why.
    Dropped(BeaconError),
}

/// Judges a datagram at `now`, the device's time: valid if and only if `start <= now <= expiry` (PROTOCOL section 2).
pub fn judge(datagram: &[u8], now: Timestamp) -> Heard {
    match Beacon::parse(datagram) {
        Ok(Beacon { record }) if record.window.contains(now) => Heard::Valid(record),
        Ok(Beacon { record }) => Heard::Invalid(record),
        Err(error) => Heard::Dropped(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    pub(super) fn at(seconds: i64) -> Timestamp {
        Timestamp::parse("13/05/2020 17:54:06").unwrap().plus(seconds)
    }

    pub(super) fn record(id: u64, start: i64, expiry: i64) -> Record {
        Record::from_fields(&format!("{id:020}"), &at(start).to_string(), &at(expiry).to_string()).unwrap()
    }

    #[test]
    fn a_beacon_is_valid_from_its_first_second_to_its_last() {
        let beacon = Beacon { record: record(1, 0, 899) };
        for (now, heard) in [
            (-1, Heard::Invalid(beacon.record.clone())),
            (0, Heard::Valid(beacon.record.clone())),
            (899, Heard::Valid(beacon.record.clone())),
            (900, Heard::Invalid(beacon.record.clone())),
        ] {
            assert_eq!(judge(beacon.reveal().as_bytes(), at(now)), heard, "at {now}");
        }
        assert_eq!(judge(b"", at(0)), Heard::Dropped(BeaconError::Shape));
    }
}
