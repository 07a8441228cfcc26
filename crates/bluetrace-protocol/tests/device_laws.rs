//! What holds for every device: its `TempID`s, its time and its waits.
#![expect(clippy::unwrap_used, reason = "a test may give up")]

use bluetrace_protocol::strategies::{beacons, records, registry_temp_ids};
use bluetrace_protocol::{ContactLog, DeviceClock, Heard, Record, TempIdBook, Timestamp, Window, judge};
use proptest::collection::vec;
use proptest::prelude::*;

fn begin() -> Timestamp {
    Timestamp::parse("13/05/2020 17:54:06").unwrap()
}

/// Windows that overlap, touch and leave gaps, within an hour from the beginning.
fn crowded_records() -> impl Strategy<Value = Vec<Record>> {
    let record = (registry_temp_ids(), 0_i64..3_600, 0_i64..900).prop_map(|(temp_id, start, length)| {
        let start = begin().plus(start);
        Record { temp_id, window: Window::new(start, start.plus(length)).unwrap() }
    });
    vec(record, 0..30)
}

/// A stretch of a device's life: seconds of uptime that pass, and by how much the wall clock is set then.
fn stretches() -> impl Strategy<Value = Vec<(u64, i64)>> {
    vec((0_u64..120, prop_oneof![3 => Just(0_i64), 1 => -5_000_i64..0]), 0..60)
}

proptest! {
    #[test]
    fn a_beacon_is_valid_within_its_window_and_at_no_other_time(beacon in beacons(), offset in -90_000_i64..90_000) {
        let now = beacon.record.window.start().plus(offset);
        let is_within = beacon.record.window.start() <= now && now <= beacon.record.window.expiry();
        let heard = if is_within { Heard::Valid(beacon.record.clone()) } else { Heard::Invalid(beacon.record.clone()) };
        prop_assert_eq!(judge(beacon.reveal().as_bytes(), now), heard);
    }

    #[test]
    fn the_temp_id_shown_is_always_valid_and_there_is_one_whenever_there_can_be(
        records in crowded_records(),
        now in 0_i64..4_600,
    ) {
        let mut book = TempIdBook::new();
        book.add(records.clone(), begin());
        let now = begin().plus(now);
        let valid = records.iter().filter(|record| record.window.contains(now));
        let last_end = valid.clone().map(|record| record.window.expiry()).max();
        prop_assert_eq!(book.current(now).map(|record| record.window.expiry()), last_end);
        prop_assert!(book.current(now).is_none_or(|current| records.contains(current)));
    }

    #[test]
    fn the_temp_id_changes_when_it_was_said_to_and_at_no_other_time(records in crowded_records()) {
        let mut book = TempIdBook::new();
        book.add(records, begin());
        let mut change = book.next_change(begin());
        for second in 0..4_600 {
            let (now, next) = (begin().plus(second), begin().plus(second + 1));
            let changes = book.current(now) != book.current(next);
            prop_assert_eq!(changes, change == Some(next), "{} s, {:?}", second, change);
            if changes {
                change = book.next_change(next);
            }
        }
    }

    #[test]
    fn what_a_book_covers_is_covered_second_by_second(records in crowded_records(), now in 0_i64..4_600) {
        let mut book = TempIdBook::new();
        book.add(records, begin());
        let now = begin().plus(now);
        let mut until = None;
        let mut second = now;
        while book.current(second).is_some() {
            until = Some(second);
            second = second.plus(1);
        }
        prop_assert_eq!(book.covers_until(now), until);
    }

    #[test]
    fn a_device_without_a_temp_id_asks_for_some_and_never_for_more_than_it_may(
        records in vec(records(), 0..10),
        now in any::<u32>(),
    ) {
        let mut book = TempIdBook::new();
        let now = begin().plus(now.into());
        book.add(records, now);
        let count = book.should_download(now);
        prop_assert!(count.is_none_or(|count| (1..=100).contains(&count)));
        prop_assert!(count.is_some() || book.current(now).is_some());
    }

    #[test]
    fn arbitrary_bytes_never_panic(file in vec(any::<u8>(), 0..600)) {
        let _ = judge(&file, begin());
    }

    #[test]
    fn however_often_the_wall_clock_is_set_back_the_time_keeps_pace_with_the_uptime(stretches in stretches()) {
        let mut clock = DeviceClock::new();
        let (mut wall, mut uptime_s) = (begin(), 0_u64);
        let mut last = clock.read(wall, 0).now;
        for (seconds, set) in stretches {
            uptime_s += seconds;
            wall = wall.plus(i64::try_from(seconds).unwrap()).plus(set);
            let reading = clock.read(wall, uptime_s * 1_000);
            prop_assert!(reading.now >= last, "time went back");
            last = reading.now;
            let even = begin().plus(i64::try_from(uptime_s).unwrap());
            let ahead = reading.now.seconds_since(even);
            // settings too small to be noticed add up to no more than the tolerance
            prop_assert!((-2..=2).contains(&ahead), "{} s from even", ahead);
            prop_assert_eq!(clock.read(wall, uptime_s * 1_000).jump, None, "told twice");
        }
    }

    #[test]
    fn a_log_on_the_device_s_time_keeps_each_entry_for_its_retention_though_the_wall_clock_is_set_back(
        record in records(),
        stretches in stretches(),
        retention_s in 5_u32..300,
    ) {
        let (mut clock, mut log) = (DeviceClock::new(), ContactLog::new(retention_s));
        let (mut wall, mut uptime_s) = (begin(), 0_u64);
        let mut heard = Vec::new();
        for (seconds, set) in stretches {
            uptime_s += seconds;
            wall = wall.plus(i64::try_from(seconds).unwrap()).plus(set);
            let now = clock.read(wall, uptime_s * 1_000).now;
            log.heard(record.clone(), now);
            heard.push(uptime_s);
            log.expire(now);
            let age = |at: &u64| uptime_s - at;
            let tolerance = 2;
            let surely = heard.iter().filter(|at| age(at) + tolerance < u64::from(retention_s)).count();
            let possibly = heard.iter().filter(|at| age(at) < u64::from(retention_s) + tolerance).count();
            prop_assert!((surely..=possibly).contains(&log.len()), "{} of {} to {}", log.len(), surely, possibly);
            prop_assert!(!log.take_dates_changed());
        }
    }
}
