//! Owns the [`DeviceClock`]: what time it is on a device, whatever its wall clock says.

use crate::time::{Timestamp, Window};

/// The most that wall clock and uptime may differ before it counts as the clock having been set, in seconds.
pub const CLOCK_TOLERANCE_S: i64 = 2;

/// The device's time: its wall clock, corrected by what the authority said, and even where the wall clock is not.
///
/// A wall clock that is set back does not take the device's time with it, for a log or a `TempID` must not live twice.
/// One that jumps forward does: a device that was suspended looks just like that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceClock {
    /// Seconds to add to the wall clock.
    offset_s: i64,
    /// Wall clock and uptime in milliseconds, as they were together when the wall clock was last set, or first seen.
    anchor: Option<(Timestamp, u64)>,
    /// The latest time told since the authority was last heard: time stands still until it is reached again.
    latest: Timestamp,
}

/// What [`DeviceClock::read`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The device's time.
    pub now: Timestamp,
    /// That the wall clock was set since the last reading: worth a line to the user.
    pub jump: Option<ClockJump>,
}

/// The wall clock went another way than the uptime, by more than [`CLOCK_TOLERANCE_S`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockJump {
    /// It was set back by this many seconds. The device's time goes on evenly.
    Back(i64),
    /// It went forward by this many seconds, or the device slept. The device's time goes with it.
    Forward(i64),
}

impl DeviceClock {
    /// A clock that believes its wall clock until it hears otherwise.
    pub const fn new() -> Self {
        Self { offset_s: 0, anchor: None, latest: Timestamp::MIN }
    }

    /// The device's time when the wall clock says `wall`, `uptime_ms` milliseconds after some fixed moment.
    ///
    /// Each jump of the wall clock is told once. Until the authority is heard again the time told never goes back.
    pub fn read(&mut self, wall: Timestamp, uptime_ms: u64) -> Reading {
        let (anchor_wall, anchor_ms) = *self.anchor.get_or_insert((wall, uptime_ms));
        let elapsed_s = uptime_ms.saturating_sub(anchor_ms).checked_div(1_000).unwrap_or_default();
        let even = anchor_wall.plus(i64::try_from(elapsed_s).unwrap_or(i64::MAX));
        let ahead_s = wall.seconds_since(even);
        let jump = if ahead_s < CLOCK_TOLERANCE_S.saturating_neg() {
            self.offset_s = self.offset_s.saturating_sub(ahead_s);
            Some(ClockJump::Back(ahead_s.saturating_neg()))
        } else if ahead_s > CLOCK_TOLERANCE_S {
            Some(ClockJump::Forward(ahead_s))
        } else {
            None
        };
        if jump.is_some() {
            self.anchor = Some((wall, uptime_ms));
        }
        self.latest = self.latest.max(wall.plus(self.offset_s));
        Reading { now: self.latest, jump }
    }

    /// Learns the time from the authority, whose clock says `server_now` when the wall clock says `wall`.
    pub fn learn(&mut self, server_now: Timestamp, wall: Timestamp) {
        self.offset_s = server_now.seconds_since(wall);
        self.latest = server_now;
    }

    /// Learns from a window that contains the authority's present, as the first of a download does (PROTOCOL section
    /// 4.3): the device's time is moved by as little as brings it within. Returns by how many seconds.
    pub fn learn_within(&mut self, window: Window, wall: Timestamp) -> i64 {
        let device = wall.plus(self.offset_s);
        let nearest = device.max(window.start()).min(window.expiry());
        if nearest != device {
            self.learn(nearest, wall);
        }
        nearest.seconds_since(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::at;

    #[test]
    fn time_goes_on_evenly_when_the_wall_clock_is_set_back_and_that_is_told_once() {
        let mut clock = DeviceClock::new();
        assert_eq!(clock.read(at(0), 5_000), Reading { now: at(0), jump: None });
        assert_eq!(clock.read(at(10), 15_000), Reading { now: at(10), jump: None });
        assert_eq!(clock.read(at(-3_590), 20_000), Reading { now: at(15), jump: Some(ClockJump::Back(3_605)) });
        assert_eq!(clock.read(at(-3_580), 30_000), Reading { now: at(25), jump: None });
    }

    #[test]
    fn time_goes_along_when_the_wall_clock_jumps_forward() {
        let mut clock = DeviceClock::new();
        clock.read(at(0), 0);
        assert_eq!(clock.read(at(3_600), 1_000), Reading { now: at(3_600), jump: Some(ClockJump::Forward(3_599)) });
        assert_eq!(clock.read(at(3_601), 2_000), Reading { now: at(3_601), jump: None });
    }

    #[test]
    fn a_wall_clock_that_creeps_back_holds_time_still_and_is_noticed_in_the_end() {
        let mut clock = DeviceClock::new();
        clock.read(at(100), 0);
        assert_eq!(clock.read(at(99), 0), Reading { now: at(100), jump: None });
        assert_eq!(clock.read(at(98), 0), Reading { now: at(100), jump: None });
        assert_eq!(clock.read(at(97), 0), Reading { now: at(100), jump: Some(ClockJump::Back(3)) });
    }

    #[test]
    fn the_authority_sets_the_device_s_time_forward_and_back() {
        let mut clock = DeviceClock::new();
        clock.read(at(0), 0);
        clock.learn(at(50), at(0));
        assert_eq!(clock.read(at(1), 1_000).now, at(51));
        clock.learn(at(-50), at(1));
        assert_eq!(clock.read(at(2), 2_000), Reading { now: at(-49), jump: None });
        assert_eq!(clock.offset_s, -51);
    }

    #[test]
    fn a_download_moves_time_by_as_little_as_its_first_window_asks() {
        let window = Window::new(at(0), at(899)).unwrap();
        for (wall, moved) in [(-10, 10), (0, 0), (500, 0), (899, 0), (1_000, -101)] {
            let mut clock = DeviceClock::new();
            assert_eq!(clock.learn_within(window, at(wall)), moved);
            assert_eq!(clock.read(at(wall), 0).now, at(wall + moved));
        }
    }
}
