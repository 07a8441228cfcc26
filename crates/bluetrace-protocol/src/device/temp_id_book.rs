//! Owns the [`TempIdBook`]: which `TempID` a device shows, and when it asks for more.

use alloc::vec::Vec;

use crate::limits::{MAX_TEMP_ID_BOOK, MAX_TEMP_IDS};
use crate::record::Record;
use crate::time::{Timestamp, Window};

/// The time a device wants to be able to go without its authority, in seconds: a day.
pub const WANTED_AHEAD_S: i64 = 24 * 60 * 60;

/// The lifetime of a `TempID` as long as none has been seen, in seconds: 15 minutes (PROTOCOL section 1).
pub const USUAL_LIFETIME_S: i64 = 15 * 60;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::{at, record};
    use alloc::vec;

    /// Consecutive windows of 15 minutes, the first starting at `start`.
    fn download(count: u64, start: i64) -> Vec<Record> {
        (0..count).zip((start..).step_by(900)).map(|(id, from)| record(id, from, from.saturating_add(899))).collect()
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
}
