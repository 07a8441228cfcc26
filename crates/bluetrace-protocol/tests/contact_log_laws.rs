//! What holds for every contact log and every file (PROTOCOL section 3), against a model that is too simple to be wrong.
#![expect(clippy::unwrap_used, reason = "a test may give up")]

use bluetrace_protocol::strategies::{contact_log_entries, records};
use bluetrace_protocol::{ContactLog, ContactLogEntry, ReadReport, Record, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;

/// What happens to a device with a log.
#[derive(Debug, Clone)]
enum Step {
    /// Time passes, in seconds.
    Wait(i64),
    /// The clock is set, by seconds.
    Set(i64),
    /// A valid beacon is heard.
    Hear(Record),
    /// Nothing is heard, and what is over is removed.
    Expire,
    /// The client ends; its file is read by the next.
    Restart,
}

fn begin() -> Timestamp {
    Timestamp::parse("13/05/2020 17:54:06").unwrap()
}

fn steps(clock_is_set: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_i64..100).prop_map(Step::Wait),
        if clock_is_set { 2 } else { 0 } => (-10_000_i64..10_000).prop_map(Step::Set),
        4 => records().prop_map(Step::Hear),
        2 => Just(Step::Expire),
        1 => Just(Step::Restart),
    ];
    vec(step, 0..60)
}

fn text_of(log: &ContactLog) -> String {
    let mut text = String::new();
    log.write_to(&mut text);
    text
}

/// Runs the steps on a log; after each one `check` sees the log and the time.
fn run(steps: &[Step], retention_s: u32, mut check: impl FnMut(&Step, &ContactLog, Timestamp)) {
    let mut now = begin();
    let mut log = ContactLog::new(retention_s);
    for step in steps {
        match step {
            Step::Wait(seconds) | Step::Set(seconds) => now = now.plus(*seconds),
            Step::Hear(record) => {
                let entry = log.heard(record.clone(), now);
                assert_eq!((&entry.record, entry.received), (record, now));
            }
            Step::Expire => {
                log.expire(now);
            }
            Step::Restart => {
                let (read, report) = ContactLog::read(text_of(&log).as_bytes(), now, now, retention_s);
                assert!(!report.torn && report.malformed == 0);
                log = read;
            }
        }
        check(step, &log, now);
    }
}

/// The model: a list, gone through from end to end at each step.
fn model(entries: &mut Vec<ContactLogEntry>, step: &Step, now: Timestamp, retention_s: u32) {
    if matches!(step, Step::Wait(_) | Step::Set(_)) {
        return;
    }
    for entry in entries.iter_mut() {
        entry.received = entry.received.min(now);
    }
    if let Step::Hear(record) = step {
        entries.push(ContactLogEntry { record: record.clone(), received: now });
    } else {
        entries.retain(|entry| now.seconds_since(entry.received) < i64::from(retention_s));
    }
}

proptest! {
    #[test]
    fn a_log_does_what_its_model_does(steps in steps(true), retention_s in 0_u32..300) {
        let mut entries = Vec::new();
        run(&steps, retention_s, |step, log, now| {
            model(&mut entries, step, now, retention_s);
            assert_eq!(log.to_entries(), entries);
        });
    }

    #[test]
    fn nothing_is_kept_past_its_retention_however_the_clock_is_set(steps in steps(true), retention_s in 0_u32..300) {
        run(&steps, retention_s, |step, log, now| {
            assert!(log.iter().zip(log.iter().skip(1)).all(|(a, b)| a.received <= b.received), "out of order");
            if matches!(step, Step::Expire | Step::Restart) {
                let last = now.plus(i64::from(retention_s));
                assert!(log.iter().all(|entry| (now.plus(1)..=last).contains(&log.removal_of(entry))));
                assert_eq!(log.next_removal(), log.iter().map(|entry| log.removal_of(entry)).min());
            }
        });
    }

    #[test]
    fn nothing_is_lost_early_while_the_clock_runs_evenly(steps in steps(false), retention_s in 1_u32..300) {
        let mut heard = Vec::new();
        run(&steps, retention_s, |step, log, now| {
            if let Step::Hear(record) = step {
                heard.push((record.clone(), now));
            }
            let due = heard.iter().filter(|(_, at)| now.seconds_since(*at) < i64::from(retention_s));
            let kept: Vec<_> = log.iter().map(|entry| (entry.record.clone(), entry.received)).collect();
            assert!(due.clone().all(|entry| kept.contains(entry)));
            assert!(!matches!(step, Step::Expire) || due.count() == kept.len());
        });
    }

    #[test]
    fn an_entry_survives_its_line(entry in contact_log_entries(), modified in any::<u16>()) {
        let mut line = String::new();
        entry.write_to(&mut line);
        prop_assert_eq!(ContactLogEntry::parse(&line, begin().plus(modified.into())), Ok(entry));
    }

    #[test]
    fn a_file_cut_off_anywhere_gives_the_lines_before_the_cut(
        records in vec(records(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut log = ContactLog::new(1_000);
        for (record, second) in records.into_iter().zip(0..) {
            log.heard(record, begin().plus(second));
        }
        let text = text_of(&log);
        let cut = cut.index(text.len() + 1);
        let (file, _) = text.split_at(cut);
        let now = begin().plus(500);
        let (read, report) = ContactLog::read(file.as_bytes(), now, now, 1_000);
        // a line is whole as soon as its last character is there
        let whole = text.match_indices('\n').filter(|(end, _)| *end <= cut).count();
        prop_assert_eq!(read.to_entries(), log.iter().take(whole).cloned().collect::<Vec<_>>());
        let at_a_line = file.is_empty() || file.ends_with('\n');
        let is_whole = at_a_line || text[cut..].starts_with('\n');
        prop_assert_eq!(report, ReadReport { torn: !is_whole, ..ReadReport::default() });
    }

    #[test]
    fn garbage_between_the_lines_costs_none_of_them(
        parts in vec((records(), "[^\n]{0,40}"), 0..6),
    ) {
        let mut file = String::new();
        for ((record, garbage), second) in parts.iter().zip(0..) {
            file.push_str(garbage);
            file.push_str("\nx\n");
            let entry = ContactLogEntry { record: record.clone(), received: begin().plus(second) };
            entry.write_to(&mut file);
            file.push_str("\r\n");
        }
        let (read, report) = ContactLog::read(file.as_bytes(), begin(), begin().plus(100), 1_000);
        prop_assert!(read.iter().map(|entry| &entry.record).eq(parts.iter().map(|(record, _)| record)));
        prop_assert!(!report.torn && report.malformed >= parts.len());
    }

    #[test]
    fn arbitrary_bytes_never_panic(file in vec(any::<u8>(), 0..600), now in any::<u32>(), retention_s in any::<u32>()) {
        let now = begin().plus(now.into());
        let (mut log, _) = ContactLog::read(&file, now, now, retention_s);
        log.expire(now.plus(1));
    }

    #[test]
    fn a_file_of_any_dates_is_read_in_order_and_reads_the_same_again(
        entries in vec(contact_log_entries(), 0..20),
        retention_s in any::<u32>(),
    ) {
        let mut file = String::new();
        for entry in &entries {
            entry.write_to(&mut file);
            file.push('\n');
        }
        let now = begin();
        let (log, report) = ContactLog::read(file.as_bytes(), now, now, retention_s);
        prop_assert_eq!(log.len() + report.expired, entries.len());
        prop_assert!(log.iter().zip(log.iter().skip(1)).all(|(a, b)| a.received <= b.received && b.received <= now));
        let again = ContactLog::read(text_of(&log).as_bytes(), now, now, retention_s);
        prop_assert_eq!(again, (log, ReadReport::default()));
    }
}
