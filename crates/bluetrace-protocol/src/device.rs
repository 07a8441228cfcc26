//! Owns the device's rules: which `TempID` to show and when to ask for more ([`TempIdBook`]), what to make of a beacon
//! ([`judge`]), what time it is ([`DeviceClock`]), and how long to wait before trying again ([`Backoff`]).

use alloc::vec::Vec;
use core::time::Duration;

use rand_core::Rng;

use crate::beacon::{Beacon, BeaconError};
use crate::limits::{MAX_TEMP_ID_BOOK, MAX_TEMP_IDS};
use crate::record::Record;
use crate::time::{Timestamp, Window};

/// The time a device wants to be able to go without its authority, in seconds: a day.
pub const WANTED_AHEAD_S: i64 = 24 * 60 * 60;

/// The lifetime of a `TempID` as long as none has been seen, in seconds: 15 minutes (PROTOCOL section 1).
pub const USUAL_LIFETIME_S: i64 = 15 * 60;

/// The shortest full wait before a reconnection.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait before a reconnection.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The most that wall clock and uptime may differ before it counts as the clock having been set, in seconds.
pub const CLOCK_TOLERANCE_S: i64 = 2;

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

/// The `TempID`s a device has downloaded and may still show, ordered by start, expiry and id.
///
/// Invariants: ordered, without repetition; at most [`MAX_TEMP_ID_BOOK`] of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TempIdBook {
    records: Vec<Record>,
    /// Seconds from the last download to the end of what it brought; `None` before the first.
    downloaded_span_s: Option<i64>,
    /// Seconds a `TempID` lives, by the last one that was added.
    lifetime_s: Option<i64>,
    /// Whether the next download takes the place of everything held.
    is_doubted: bool,
}

impl TempIdBook {
    /// An empty book.
    pub const fn new() -> Self {
        Self { records: Vec::new(), downloaded_span_s: None, lifetime_s: None, is_doubted: false }
    }

    /// Says that the authority may not be the one that issued what is held, as after a login with a password: what is held is
    /// shown until the next download, which is due at once and takes its place.
    pub fn doubt(&mut self) {
        self.is_doubted = true;
    }

    /// Adds what a download brought at `now` and drops what has expired. Of more than [`MAX_TEMP_ID_BOOK`] records
    /// those furthest ahead are dropped. A fresh record takes the place of those of the same window.
    pub fn add(&mut self, downloaded: Vec<Record>, now: Timestamp) {
        let Some(last) = downloaded.iter().max_by_key(|record| record.window) else { return };
        if self.is_doubted {
            *self = Self::new();
        }
        let span_s = last.window.expiry().seconds_since(now);
        // one fresh TempID among many does not make less of the many
        let remaining_s = self.covers_until(now).map_or(0, |until| until.seconds_since(now));
        if span_s >= remaining_s {
            self.downloaded_span_s = Some(span_s);
        }
        self.records.retain(|held| downloaded.iter().all(|fresh| fresh.window != held.window));
        self.merge(downloaded, now);
    }

    /// The `TempID` to show at `now`, or `None` without a valid one. Of several valid ones that which ends last.
    pub fn current(&self, now: Timestamp) -> Option<&Record> {
        self.started(now).filter(|record| now <= record.window.expiry()).max_by_key(|record| by_end(record))
    }

    /// When [`Self::current`] will next give another answer than at `now`; `None` if it never will.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let mut later = self.records.iter().filter(|record| record.window.start() > now);
        let Some(current) = self.current(now) else { return later.map(|record| record.window.start()).min() };
        let end = current.window.expiry().plus(1);
        later
            .find(|record| by_end(record) > by_end(current))
            .map_or(Some(end), |next| Some(next.window.start().min(end)))
    }

    /// The last second of the unbroken time from `now` on in which there is a `TempID` to show; `None` if there is
    /// none at `now`.
    pub fn covers_until(&self, now: Timestamp) -> Option<Timestamp> {
        let mut until = self.current(now)?.window.expiry();
        for record in &self.records {
            if record.window.start() > until.plus(1) {
                break;
            }
            until = until.max(record.window.expiry());
        }
        Some(until)
    }

    /// How many `TempID`s to ask for at `now`; `None` as long as enough are at hand.
    ///
    /// A device asks for a day ahead, but for no more than [`MAX_TEMP_IDS`] at once, and asks again when less than half
    /// of what it was given remains, so that the authority may be away for half of that time.
    pub fn should_download(&self, now: Timestamp) -> Option<u32> {
        let lifetime_s = self.lifetime_s.unwrap_or(USUAL_LIFETIME_S).max(1);
        let most = i64::from(MAX_TEMP_IDS);
        let full = WANTED_AHEAD_S.saturating_add(lifetime_s).saturating_sub(1).div_euclid(lifetime_s).clamp(1, most);
        let full_span_s = full.saturating_mul(lifetime_s).min(WANTED_AHEAD_S);
        // an authority that gives less than it is asked for is not asked again and again
        let span_s = self.downloaded_span_s.map_or(full_span_s, |span_s| span_s.min(full_span_s));
        let remaining_s = self.covers_until(now).map(|until| until.seconds_since(now));
        if !self.is_doubted && remaining_s.is_some_and(|seconds| seconds.saturating_mul(2) >= span_s) {
            return None;
        }
        u32::try_from(full).ok()
    }

    /// The records, ordered by start.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.records.iter()
    }

    /// How many records there are, expired ones included until the next [`Self::add`].
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn merge(&mut self, records: Vec<Record>, now: Timestamp) {
        if let Some(last) = records.iter().max_by_key(|record| record.window) {
            self.lifetime_s = Some(last.window.expiry().seconds_since(last.window.start()).saturating_add(1));
        }
        self.records.extend(records);
        self.records.retain(|record| record.window.expiry() >= now);
        self.records.sort_by(|a, b| by_start(a).cmp(&by_start(b)));
        self.records.dedup();
        self.records.truncate(MAX_TEMP_ID_BOOK);
    }

    /// The records whose start is not after `now`.
    fn started(&self, now: Timestamp) -> impl Iterator<Item = &Record> {
        self.records.iter().take_while(move |record| record.window.start() <= now)
    }
}

/// The order of a book.
fn by_start(record: &Record) -> (Window, &str) {
    (record.window, record.temp_id.reveal())
}

/// The order in which valid `TempID`s are preferred.
fn by_end(record: &Record) -> (Timestamp, Timestamp, &str) {
    (record.window.expiry(), record.window.start(), record.temp_id.reveal())
}

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

/// The waits between attempts to reconnect: from [`FIRST_WAIT`] doubling to [`LONGEST_WAIT`], each shortened at random
/// by up to a half, so that many devices that lost one server do not come back in one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub const fn new() -> Self {
        Self { failures: 0 }
    }

    /// Whether an attempt has failed since the last that succeeded.
    pub const fn has_failures(&self) -> bool {
        self.failures > 0
    }

    /// How long to wait after a further failure.
    pub fn next_wait(&mut self, generator: &mut impl Rng) -> Duration {
        let full = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        // the wait is at most 30 s: no part of it overflows
        let half = full.checked_div(2).unwrap_or_default();
        let part = u64::from(generator.next_u32());
        let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        let jitter = millis.saturating_mul(part).checked_div(u64::from(u32::MAX)).unwrap_or_default();
        half.saturating_add(Duration::from_millis(jitter))
    }

    /// An attempt succeeded: the next failure waits as the first did.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;

    struct Counter(u64);

    impl rand_core::TryRng for Counter {
        type Error = core::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Ok(u32::try_from(self.0 >> 32).unwrap())
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(u64::from(self.try_next_u32()?) << 32 | u64::from(self.try_next_u32()?))
        }
        fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
            for byte in dst {
                *byte = self.try_next_u32()?.to_le_bytes()[3];
            }
            Ok(())
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::parse("13/05/2020 17:54:06").unwrap().plus(seconds)
    }

    fn record(id: u64, start: i64, expiry: i64) -> Record {
        Record::from_fields(&format!("{id:020}"), &at(start).to_string(), &at(expiry).to_string()).unwrap()
    }

    /// Consecutive windows of 15 minutes, the first starting at `start`.
    fn download(count: u64, start: i64) -> Vec<Record> {
        (0..count).zip((start..).step_by(900)).map(|(id, from)| record(id, from, from.saturating_add(899))).collect()
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

    #[test]
    fn the_current_temp_id_changes_as_its_window_ends() {
        let mut book = TempIdBook::new();
        book.add(download(3, 0), at(0));
        assert_eq!(book.current(at(-1)), None);
        assert_eq!(book.next_change(at(-1)), Some(at(0)));
        assert_eq!(book.current(at(899)), Some(&record(0, 0, 899)));
        assert_eq!(book.next_change(at(899)), Some(at(900)));
        assert_eq!(book.current(at(900)), Some(&record(1, 900, 1_799)));
        assert_eq!(book.next_change(at(2_699)), Some(at(2_700)));
        assert_eq!((book.current(at(2_700)), book.next_change(at(2_700))), (None, None));
    }

    #[test]
    fn of_several_valid_temp_ids_the_one_that_ends_last_is_shown() {
        let mut book = TempIdBook::new();
        book.add(vec![record(1, 0, 899), record(2, 300, 1_199), record(3, 400, 500)], at(0));
        assert_eq!(book.current(at(299)), Some(&record(1, 0, 899)));
        assert_eq!(book.next_change(at(0)), Some(at(300)));
        assert_eq!(book.current(at(450)), Some(&record(2, 300, 1_199)));
        assert_eq!(book.next_change(at(300)), Some(at(1_200)));
    }

    #[test]
    fn a_fresh_temp_id_takes_the_place_of_the_one_of_its_window() {
        let mut book = TempIdBook::new();
        book.add(download(3, 0), at(0));
        for fresh in [77, 0, 5] {
            book.add(vec![record(fresh, 0, 899)], at(0));
            assert_eq!((book.current(at(0)), book.len()), (Some(&record(fresh, 0, 899)), 3));
        }
        assert_eq!(book.current(at(900)), Some(&record(1, 900, 1_799)));
    }

    #[test]
    fn a_book_covers_the_time_up_to_its_first_gap() {
        let mut book = TempIdBook::new();
        book.add(vec![record(1, 0, 899), record(2, 900, 1_799), record(3, 1_801, 2_000)], at(0));
        assert_eq!(book.covers_until(at(10)), Some(at(1_799)));
        assert_eq!(book.covers_until(at(1_801)), Some(at(2_000)));
        assert_eq!(book.covers_until(at(1_800)), None);
        assert_eq!(TempIdBook::new().covers_until(at(0)), None);
    }

    #[test]
    fn a_device_downloads_a_day_ahead_and_again_when_half_of_it_is_used() {
        let mut book = TempIdBook::new();
        assert_eq!(book.should_download(at(0)), Some(96));
        book.add(download(96, 0), at(0));
        assert_eq!(book.should_download(at(0)), None);
        assert_eq!(book.should_download(at(43_199)), None);
        assert_eq!(book.should_download(at(43_200)), Some(96));
        book.add(download(96, 43_200), at(43_200));
        assert_eq!(book.should_download(at(43_200)), None);
    }

    #[test]
    fn short_windows_are_asked_for_a_hundred_at_a_time() {
        let mut book = TempIdBook::new();
        book.add(vec![record(1, 0, 9)], at(0));
        assert_eq!(book.should_download(at(4)), None);
        assert_eq!(book.should_download(at(5)), Some(100));
        assert_eq!(book.should_download(at(10)), Some(100));
    }

    #[test]
    fn windows_of_a_day_are_asked_for_one_by_one() {
        let mut book = TempIdBook::new();
        book.add(vec![record(1, 0, 86_399)], at(0));
        assert_eq!(book.should_download(at(1_000)), None);
        assert_eq!(book.should_download(at(50_000)), Some(1));
    }

    #[test]
    fn expired_temp_ids_leave_the_book_and_repeated_ones_are_held_once() {
        let mut book = TempIdBook::new();
        book.add(download(3, 0), at(0));
        book.add(download(3, 0), at(900));
        assert_eq!(book.iter().collect::<Vec<_>>(), [&record(1, 900, 1_799), &record(2, 1_800, 2_699)]);
        for _ in 0..=MAX_TEMP_ID_BOOK {
            let next = i64::try_from(book.len()).unwrap();
            book.add(vec![record(next.unsigned_abs() + 10, 5_000, 5_100 + next)], at(900));
        }
        assert_eq!(book.len(), MAX_TEMP_ID_BOOK);
        assert!(book.current(at(900)).is_some());
    }

    #[test]
    fn what_is_doubted_is_shown_until_a_download_takes_its_place() {
        let mut book = TempIdBook::new();
        book.add(download(96, 0), at(0));
        book.doubt();
        assert!(book.current(at(10)).is_some());
        assert_eq!(book.should_download(at(10)), Some(96));
        book.add(vec![record(500, 10, 909)], at(10));
        assert!(book.iter().eq([&record(500, 10, 909)]));
    }

    #[test]
    fn one_fresh_temp_id_does_not_put_off_the_next_refill() {
        let mut book = TempIdBook::new();
        book.add(download(96, 0), at(0));
        book.add(vec![record(500, 100, 999)], at(100));
        assert_eq!(book.should_download(at(43_000)), None);
        assert_eq!(book.should_download(at(43_400)), Some(96), "less than half of the day remains");
    }

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
        let window = record(1, 0, 899).window;
        for (wall, moved) in [(-10, 10), (0, 0), (500, 0), (899, 0), (1_000, -101)] {
            let mut clock = DeviceClock::new();
            assert_eq!(clock.learn_within(window, at(wall)), moved);
            assert_eq!(clock.read(at(wall), 0).now, at(wall + moved));
        }
    }

    #[test]
    fn waits_double_from_half_a_second_to_half_a_minute_and_are_spread_over_their_second_half() {
        let mut generator = Counter(1);
        for _ in 0..100 {
            let mut backoff = Backoff::new();
            for full in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
                let wait = backoff.next_wait(&mut generator).as_millis();
                assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
            }
            backoff.reset();
            assert!(backoff.next_wait(&mut generator) <= FIRST_WAIT);
        }
        let mut waits: Vec<_> = (0..100).map(|_| Backoff::new().next_wait(&mut generator)).collect();
        waits.sort();
        assert!(waits[10] < Duration::from_millis(300) && waits[90] > Duration::from_millis(450), "not spread");
    }
}
