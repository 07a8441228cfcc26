//! Owns the contact log: what a device has heard, in order of arrival, kept for the retention and no longer
//! (PROTOCOL section 3), and its file's text.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::str;

use crate::limits::{MAX_CONTACT_LOG_ENTRIES, MAX_CONTACT_LOG_LINE, MAX_REPORTED_LINES};
use crate::record::{Record, RecordError};
use crate::time::Timestamp;

/// A beacon that was heard: one line of the contact log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContactLogEntry {
    /// The beacon's id and window.
    pub record: Record,
    /// When it was heard.
    pub received: Timestamp,
}

/// Everything heard within the retention, oldest first.
///
/// Invariants: `received` never decreases from one entry to the next; at most [`MAX_CONTACT_LOG_ENTRIES`] entries, of
/// which the oldest goes first; an entry is gone `retention` seconds after it was heard. Where the clock has been set
/// back, so that an entry seems to come from the future, it counts as heard now: else it would be kept too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactLog {
    entries: VecDeque<ContactLogEntry>,
    retention_s: u32,
    dates_changed: bool,
}

/// What was found in a file besides its good lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadReport {
    /// The last line had been cut off, and is dropped.
    pub torn: bool,
    /// Malformed lines before the last. All others are read.
    pub malformed: usize,
    /// The numbers, from 1, of the first malformed lines: at most [`MAX_REPORTED_LINES`].
    pub malformed_lines: Vec<usize>,
    /// Lines whose time was over, and which are left out.
    pub expired: usize,
    /// Lines left out because there were more than can be held.
    pub surplus: usize,
}

impl ContactLogEntry {
    /// Reads `<TempID>, <start>, <expiry>, <received>`, or a record alone, which then counts as received at `modified`.
    ///
    /// # Errors
    /// [`RecordError`] says which part is wrong.
    pub fn parse(line: &str, modified: Timestamp) -> Result<Self, RecordError> {
        let mut fields = line.split(',').map(|field| field.trim_matches(' '));
        let (Some(temp_id), Some(start), Some(expiry), received, None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(RecordError::Shape);
        };
        let received = received.map_or(Ok(modified), |text| Timestamp::parse(text).map_err(|_| RecordError::Time))?;
        Ok(Self { record: Record::from_fields(temp_id, start, expiry)?, received })
    }

    /// Appends `<TempID>, <start>, <expiry>, <received>`, without a line ending.
    pub fn write_to(&self, out: &mut String) {
        self.record.write_to(out);
        out.push_str(", ");
        self.received.write_to(out);
    }
}

impl ContactLog {
    /// An empty log that keeps each entry for `retention_s` seconds.
    pub const fn new(retention_s: u32) -> Self {
        Self { entries: VecDeque::new(), retention_s, dates_changed: false }
    }

    /// Logs a beacon heard at `now`, in constant time, and returns its entry. The caller has judged it valid.
    ///
    /// A full log loses its oldest entry.
    pub fn heard(&mut self, record: Record, now: Timestamp) -> &ContactLogEntry {
        self.leave_the_future(now);
        if self.entries.len() >= MAX_CONTACT_LOG_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back_mut(ContactLogEntry { record, received: now })
    }

    /// Removes every entry whose retention is over, `now >= received + retention`, and returns how many those were.
    /// Looks at the front only.
    pub fn expire(&mut self, now: Timestamp) -> usize {
        self.leave_the_future(now);
        let before = self.entries.len();
        while self.next_removal().is_some_and(|removal| removal <= now) {
            self.entries.pop_front();
        }
        before.saturating_sub(self.entries.len())
    }

    /// When the next entry is to be removed; `None` if the log is empty.
    pub fn next_removal(&self) -> Option<Timestamp> {
        self.entries.front().map(|entry| self.removal_of(entry))
    }

    /// When an entry of this log is to be removed: `retention` seconds after it was heard.
    pub fn removal_of(&self, entry: &ContactLogEntry) -> Timestamp {
        entry.received.plus(i64::from(self.retention_s))
    }

    /// Whether entries changed their `received` since this was last asked, because the clock had been set back. A file
    /// written before then is to be written whole: read again, its later dates would be believed.
    pub fn take_dates_changed(&mut self) -> bool {
        core::mem::take(&mut self.dates_changed)
    }

    /// How many seconds an entry is kept.
    pub const fn retention_s(&self) -> u32 {
        self.retention_s
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &ContactLogEntry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// A copy of the entries, oldest first, for an upload: the log itself goes on forgetting meanwhile.
    pub fn to_entries(&self) -> Vec<ContactLogEntry> {
        self.entries.iter().cloned().collect()
    }

    /// Appends the text of the whole file, each line ended by a line feed.
    pub fn write_to(&self, out: &mut String) {
        // a registry TempID, three times, separators and the line feed
        out.reserve(self.entries.len().saturating_mul(84));
        for entry in &self.entries {
            entry.write_to(out);
            out.push('\n');
        }
    }

    /// Reads a file's bytes, whatever they are: each well-formed line whose retention is not over at `now` becomes an
    /// entry. Lines out of order are put in order, those of equal date stay as they stand.
    ///
    /// `modified` is when the file was last modified, which is the date of a line without one. A last line without a
    /// line ending that lacks its date is a torn one, unless it stands in a file of lines without dates.
    pub fn read(file: &[u8], modified: Timestamp, now: Timestamp, retention_s: u32) -> (Self, ReadReport) {
        let mut lines = Lines::new(file);
        let mut entries = Vec::new();
        let mut undated = 0_usize;
        while let Some(line) = lines.next_line() {
            let Ok(entry) = ContactLogEntry::parse(line.text, modified) else {
                lines.refuse(&line);
                continue;
            };
            let is_undated = line.text.bytes().filter(|byte| *byte == b',').count() == 2;
            if is_undated && !line.is_terminated && (undated == 0 || undated < entries.len()) {
                lines.refuse(&line);
                continue;
            }
            undated = undated.saturating_add(usize::from(is_undated));
            entries.push(entry);
        }
        let mut report = lines.report;
        entries.sort_by_key(|entry| entry.received);
        report.surplus = entries.len().saturating_sub(MAX_CONTACT_LOG_ENTRIES);
        entries.drain(..report.surplus);
        let mut log = Self { entries: entries.into(), retention_s, dates_changed: false };
        report.expired = log.expire(now);
        log.dates_changed = false;
        (log, report)
    }

    /// Entries dated after `now` count as heard now. They stand at the back, and there are none but when the clock has
    /// been set back, so this is one comparison; it leaves the order as it was.
    fn leave_the_future(&mut self, now: Timestamp) {
        for entry in self.entries.iter_mut().rev().take_while(|entry| entry.received > now) {
            entry.received = now;
            self.dates_changed = true;
        }
    }
}

/// The lines of a device's file, read in spite of blank lines, CR LF, a byte order mark and torn or malformed lines.
struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
    /// What was found so far.
    report: ReadReport,
}

/// One line that is not blank. Its text is empty, and so never well-formed, if it is too long or not UTF-8.
struct Line<'a> {
    text: &'a str,
    is_terminated: bool,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(file: &'a [u8]) -> Self {
        let rest = file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file);
        Self { rest, number: 0, report: ReadReport::default() }
    }

    fn next_line(&mut self) -> Option<Line<'a>> {
        while !self.rest.is_empty() {
            self.number = self.number.saturating_add(1);
            let end = self.rest.iter().position(|byte| *byte == b'\n');
            let (line, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            self.rest = rest.get(1..).unwrap_or_default();
            let line = line.trim_ascii();
            if !line.is_empty() {
                let text = if line.len() <= MAX_CONTACT_LOG_LINE { line } else { b"" };
                let text = str::from_utf8(text).unwrap_or_default();
                return Some(Line { text, is_terminated: end.is_some(), number: self.number });
            }
        }
        None
    }

    /// Reports a line that cannot be read: torn if nothing ends it, otherwise malformed.
    fn refuse(&mut self, line: &Line<'_>) {
        if !line.is_terminated {
            self.report.torn = true;
            return;
        }
        self.report.malformed = self.report.malformed.saturating_add(1);
        if self.report.malformed_lines.len() < MAX_REPORTED_LINES {
            self.report.malformed_lines.push(line.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    const RECORD: &str = "12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::parse("13/05/2020 17:54:06").unwrap().plus(seconds)
    }

    fn record() -> Record {
        Record::parse(RECORD).unwrap()
    }

    fn line(seconds: i64) -> String {
        format!("{RECORD}, {}\n", at(seconds))
    }

    fn received(log: &ContactLog) -> Vec<i64> {
        log.iter().map(|entry| entry.received.seconds_since(at(0))).collect()
    }

    #[test]
    fn an_entry_goes_when_its_retention_is_over_and_not_a_second_earlier() {
        let mut log = ContactLog::new(180);
        log.heard(record(), at(0));
        log.heard(record(), at(1));
        assert_eq!(log.next_removal(), Some(at(180)));
        assert_eq!(log.expire(at(179)), 0);
        assert_eq!(log.expire(at(180)), 1);
        assert_eq!(received(&log), [1]);
        assert_eq!(log.expire(at(1_000)), 1);
        assert_eq!(log.next_removal(), None);
    }

    #[test]
    fn after_the_clock_was_set_back_nothing_is_kept_longer_than_the_retention() {
        let mut log = ContactLog::new(180);
        log.heard(record(), at(10));
        log.heard(record(), at(20));
        assert!(!log.take_dates_changed());
        log.heard(record(), at(15));
        assert_eq!(received(&log), [10, 15, 15]);
        assert!(log.take_dates_changed());
        assert_eq!(log.expire(at(-1_000)), 0);
        assert_eq!(received(&log), [-1_000; 3]);
        assert_eq!(log.expire(at(-820)), 3);
    }

    #[test]
    fn a_full_log_loses_its_oldest_entry() {
        let mut log = ContactLog::new(u32::MAX);
        for second in (0..).take(MAX_CONTACT_LOG_ENTRIES + 1) {
            log.heard(record(), at(second));
        }
        assert_eq!(log.len(), MAX_CONTACT_LOG_ENTRIES);
        assert_eq!(log.iter().next().map(|entry| entry.received), Some(at(1)));
    }

    #[test]
    fn a_file_written_by_a_log_reads_as_the_same_log() {
        let mut log = ContactLog::new(180);
        log.heard(record(), at(0));
        log.heard(record(), at(60));
        let mut text = String::new();
        log.write_to(&mut text);
        assert_eq!(text, line(0) + &line(60));
        assert_eq!(ContactLog::read(text.as_bytes(), at(99), at(100), 180), (log, ReadReport::default()));
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_never_the_others() {
        let file = line(0) + &line(1);
        for cut in line(0).len()..file.len() {
            let (log, report) = ContactLog::read(&file.as_bytes()[..cut], at(50), at(60), 180);
            let is_whole = cut + 1 == file.len();
            assert_eq!(received(&log), if is_whole { vec![0, 1] } else { vec![0] }, "cut at {cut}");
            assert_eq!(report.torn, !is_whole && cut > line(0).len(), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_cut_off_before_its_date_is_not_taken_for_one_without_a_date() {
        let (log, report) = ContactLog::read(RECORD.as_bytes(), at(50), at(60), 180);
        assert!(log.is_empty() && report.torn);
        let (log, report) = ContactLog::read((line(0) + RECORD).as_bytes(), at(50), at(60), 180);
        assert_eq!(received(&log), [0]);
        assert!(report.torn);
    }

    #[test]
    fn lines_without_a_date_count_from_the_modification_of_the_file() {
        let file = format!("{RECORD}\n{RECORD}");
        let (log, report) = ContactLog::read(file.as_bytes(), at(50), at(60), 180);
        assert_eq!(received(&log), [50, 50]);
        assert_eq!(report, ReadReport::default());
    }

    #[test]
    fn byte_order_mark_cr_lf_and_blank_lines_do_no_harm() {
        let file = format!("\u{feff}\r\n{RECORD}, {}\r\n \r\n\n{}", at(0), line(1));
        let (log, report) = ContactLog::read(file.as_bytes(), at(50), at(60), 180);
        assert_eq!(received(&log), [0, 1]);
        assert_eq!(report, ReadReport::default());
    }

    #[test]
    fn malformed_lines_are_skipped_and_told_by_number() {
        let mut file = line(0).into_bytes();
        file.extend_from_slice(b"hello\n\xff\n");
        file.extend_from_slice(&[b'x'; MAX_CONTACT_LOG_LINE + 1]);
        file.push(b'\n');
        file.extend_from_slice(line(1).as_bytes());
        let (log, report) = ContactLog::read(&file, at(50), at(60), 180);
        assert_eq!(received(&log), [0, 1]);
        assert_eq!((report.malformed, report.malformed_lines), (3, vec![2, 3, 4]));

        let (_, report) = ContactLog::read("x\n".repeat(MAX_REPORTED_LINES + 1).as_bytes(), at(50), at(60), 180);
        assert_eq!((report.malformed, report.malformed_lines.len()), (MAX_REPORTED_LINES + 1, MAX_REPORTED_LINES));
    }

    #[test]
    fn lines_out_of_order_are_sorted_expired_ones_left_out_and_those_of_the_future_dated_now() {
        let file = line(300) + &line(30) + &line(0) + &line(20);
        let (log, report) = ContactLog::read(file.as_bytes(), at(50), at(200), 180);
        assert_eq!(received(&log), [30, 200]);
        assert_eq!((report.expired, report.malformed), (2, 0));
    }
}
