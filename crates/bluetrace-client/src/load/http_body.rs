//! Owns the bodies of a load's requests: [`RequestBody`], JSON or the records of an upload, which are written as they are sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bluetrace_protocol::ContactLogEntry;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use serde::Serialize;

#[derive(Debug)]
pub(super) enum RequestBody {
    /// What is left of JSON.
    Json(Option<Bytes>),
    Records {
        records: Arc<[ContactLogEntry]>,
        /// The place of the record to send next.
        next: usize,
        sent: BodyProgress,
    },
}

/// How many pieces of a body were taken, so that who waits for an answer sees that it is still being sent.
#[derive(Debug, Clone, Default)]
pub(super) struct BodyProgress(Arc<AtomicUsize>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    temp_id: &'a str,
    start: i64,
    expiry: i64,
    received: i64,
}

impl RequestBody {
    pub(super) const fn empty() -> Self {
        Self::Json(None)
    }

    pub(super) fn json(text: Vec<u8>) -> Self {
        Self::Json(Some(text.into()))
    }

    /// The records of an upload from a place on.
    pub(super) fn records(records: Arc<[ContactLogEntry]>, first: u32) -> Self {
        let next = usize::try_from(first).unwrap_or(usize::MAX);
        Self::Records { records, next, sent: BodyProgress::default() }
    }

    /// Its media type.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Records { .. } => "application/x-ndjson",
        }
    }

    pub(super) fn progress(&self) -> BodyProgress {
        match self {
            Self::Json(_) => BodyProgress::default(),
            Self::Records { sent, .. } => sent.clone(),
        }
    }
}

impl BodyProgress {
    pub(super) fn pieces(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Json(text) => text.take(),
            Self::Records { records, next, sent } => {
                sent.0.fetch_add(1, Ordering::Relaxed);
                let rest = records.get(*next..).unwrap_or_default();
                let piece = &rest[..rest.len().min(RECORDS_AT_ONCE)];
                *next += piece.len();
                (!piece.is_empty()).then(|| lines(piece).into())
            }
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Json(text) => text.is_none(),
            Self::Records { records, next, .. } => *next >= records.len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Json(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len).try_into().unwrap_or(u64::MAX))
            }
            Self::Records { .. } => SizeHint::default(),
        }
    }
}

/// Records as the API takes them, a line each.
fn lines(records: &[ContactLogEntry]) -> Vec<u8> {
    let mut text = Vec::with_capacity(records.len() * BYTES_OF_A_LINE);
    for ContactLogEntry { record, received } in records {
        let line = Line {
            temp_id: record.temp_id.reveal(),
            start: record.window.start().as_unix(),
            expiry: record.window.expiry().as_unix(),
            received: received.as_unix(),
        };
        // a string and numbers have a form in JSON
        text.extend(serde_json::to_vec(&line).unwrap_or_default());
        text.push(b'\n');
    }
    text
}

/// Records in one piece of a body: 30 KiB or so.
const RECORDS_AT_ONCE: usize = 256;

/// A sealed `TempID` and three times.
const BYTES_OF_A_LINE: usize = 160;

#[cfg(test)]
mod tests {
    use bluetrace_protocol::{Record, TempId, Timestamp, Window};
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_holds_the_records_from_its_first_place_on_a_line_each() {
        let at = |seconds| Timestamp::from_unix(seconds).unwrap();
        let entry = |number: i64| ContactLogEntry {
            record: Record {
                temp_id: TempId::parse(&format!("{number:020}")).unwrap(),
                window: Window::new(at(1_589_392_446), at(1_589_393_345)).unwrap(),
            },
            received: at(1_589_392_500 + number),
        };
        let records: Arc<[_]> = (0..1_000).map(entry).collect();
        for first in [0, 1, 255, 256, 999, 1_000] {
            let body = RequestBody::records(Arc::clone(&records), first);
            let progress = body.progress();
            let sent = body.collect().await.unwrap().to_bytes();
            let text = String::from_utf8(sent.to_vec()).unwrap();
            let expected = (first..1_000).map(|number| {
                let received = 1_589_392_500 + i64::from(number);
                let window = r#""start":1589392446,"expiry":1589393345"#;
                format!("{{\"tempId\":\"{number:020}\",{window},\"received\":{received}}}")
            });
            assert_eq!(text.lines().collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "from {first} on");
            assert!(text.is_empty() || progress.pieces() > 0);
        }
    }
}
