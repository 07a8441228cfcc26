//! Owns the body of an upload: bytes to lines, and a line of JSON to a record ([`RecordLines`]).
//!
//! A line is `{"tempId":"...","start":S,"expiry":S,"received":S,"rssi":-71,"seen":4}`, of which the last three may be absent.
//! Whatever else it is, it is a malformed record, which keeps its place. Lines of white space alone are passed over.

use std::borrow::Cow;

use bluetrace_protocol::limits::MAX_LINE;
use bluetrace_protocol::{Record, TempId, Timestamp, Uploaded, UploadedRecord, Window};
use serde::Deserialize;

/// Cuts a stream of bytes into records, and holds no more than one line of it.
#[derive(Debug, Default)]
pub(super) struct RecordLines {
    /// The beginning of a line whose end has not come yet. Invariant: `begun.len() <= MAX_LINE`.
    begun: Vec<u8>,
    /// Whether that line is longer than [`MAX_LINE`], so that nothing of it is kept.
    is_too_long: bool,
}

impl RecordLines {
    /// Takes bytes, and hands out the record of every line that ends in them.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Uploaded)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.begun.is_empty() && !self.is_too_long && line.len() <= MAX_LINE {
                read_line(line).into_iter().for_each(&mut each);
            } else {
                self.begin(line);
                self.end().into_iter().for_each(&mut each);
            }
        }
        self.begin(bytes);
    }

    /// Hands out the record of a last line that has no line end. For a body that ended in good order.
    pub(super) fn end(&mut self) -> Option<Uploaded> {
        if std::mem::take(&mut self.is_too_long) {
            return Some(Uploaded::Malformed);
        }
        let record = read_line(&self.begun);
        self.begun.clear();
        record
    }

    fn begin(&mut self, bytes: &[u8]) {
        if self.is_too_long || self.begun.len() + bytes.len() > MAX_LINE {
            self.is_too_long = true;
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }
}

/// The record of a line; `None` if there is nothing but white space on it.
fn read_line(line: &[u8]) -> Option<Uploaded> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let record = serde_json::from_slice::<WireRecord<'_>>(line).ok().and_then(WireRecord::record);
    Some(record.map_or(Uploaded::Malformed, Uploaded::Record))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a record")]
struct WireRecord<'a> {
    #[serde(borrow)]
    temp_id: Cow<'a, str>,
    start: i64,
    expiry: i64,
    #[serde(default)]
    received: Option<i64>,
    #[serde(default)]
    rssi: Option<i16>,
    #[serde(default)]
    seen: Option<u32>,
}

impl WireRecord<'_> {
    fn record(self) -> Option<UploadedRecord> {
        let temp_id = TempId::parse(&self.temp_id).ok()?;
        let window = Window::new(Timestamp::from_unix(self.start)?, Timestamp::from_unix(self.expiry)?).ok()?;
        let received = match self.received {
            None => None,
            Some(received) => Some(Timestamp::from_unix(received)?),
        };
        Some(UploadedRecord { record: Record { temp_id, window }, received, rssi: self.rssi, seen: self.seen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_records_however_it_is_cut() {
        let long = "x".repeat(MAX_LINE + 1);
        let text = format!(
            "{}\r\n\n  \n{}\nnot a record\n{long}\n{}",
            line(1, ""),
            line(2, r#","received":1589392447,"rssi":-71,"seen":4,"colour":"of no interest""#),
            line(3, ",\"rssi\":null")
        );
        let expected = [
            record(1, None, None, None),
            record(2, Some(1_589_392_447), Some(-71), Some(4)),
            Uploaded::Malformed,
            Uploaded::Malformed,
            record(3, None, None, None),
        ];
        for size in [1, 2, 3, 7, 100, 4_096, text.len()] {
            let (mut lines, mut records) = (RecordLines::default(), Vec::new());
            for bytes in text.as_bytes().chunks(size) {
                lines.take(bytes, |record| records.push(record));
                assert!(lines.begun.len() <= MAX_LINE);
            }
            records.extend(lines.end());
            assert_eq!(records, expected, "in pieces of {size} bytes");
            assert_eq!(lines.end(), None);
        }
    }

    #[test]
    fn a_line_of_the_greatest_length_is_a_record_and_one_past_it_is_not() {
        for (length, is_record) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
            let line = line(1, "");
            let text = format!("{line}{}\n", " ".repeat(length - line.len()));
            for size in [100, text.len()] {
                let (mut lines, mut records) = (RecordLines::default(), Vec::new());
                text.as_bytes().chunks(size).for_each(|bytes| lines.take(bytes, |record| records.push(record)));
                assert_eq!(records.len(), 1);
                assert_eq!(matches!(records[0], Uploaded::Record(_)), is_record, "{length} bytes in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_not_a_record_is_malformed() {
        let good = line(1, "");
        for text in [
            "{}",
            "[]",
            "null",
            "\u{0}",
            r#""12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05""#,
            &good.replace("00000000000000000001", "1"),
            &good.replace("1589392446", "\"1589392446\""),
            &good.replace("1589392446", "1589392446.5"),
            &good.replace("1589392446", "-1"),
            &good.replace("1589392446", "1589393346"),
            &good.replace("1589393345", "99999999999999"),
            &line(1, r#","received":-1"#),
            &line(1, r#","rssi":40000"#),
            &line(1, r#","seen":-1"#),
            &good[..good.len() - 1],
            &format!("{good}{good}"),
        ] {
            assert_eq!(read_line(text.as_bytes()), Some(Uploaded::Malformed), "{text}");
        }
        assert_eq!(read_line(b"\xff\xfe"), Some(Uploaded::Malformed));
    }

    fn line(number: u64, more: &str) -> String {
        format!(r#"{{"tempId":"{number:020}","start":1589392446,"expiry":1589393345{more}}}"#)
    }

    fn record(number: u64, received: Option<i64>, rssi: Option<i16>, seen: Option<u32>) -> Uploaded {
        let at = |seconds| Timestamp::from_unix(seconds).unwrap();
        let window = Window::new(at(1_589_392_446), at(1_589_393_345)).unwrap();
        let record = Record { temp_id: TempId::parse(&format!("{number:020}")).unwrap(), window };
        Uploaded::Record(UploadedRecord { record, received: received.map(at), rssi, seen })
    }
}
