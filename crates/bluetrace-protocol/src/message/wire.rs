//! Owns what both directions have on the wire: a frame as it is written, and the forms that its `data` has.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::time::Timestamp;
use crate::upload::{ExposureNotice, UploadSummary, Uploaded, UploadedRecord};

/// A frame to be written, of either side.
#[derive(Serialize)]
pub(super) struct WireFrame<'a> {
    #[serde(rename = "commandType")]
    pub(super) command_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a RawValue>,
    #[serde(rename = "numOfSend", skip_serializing_if = "Option::is_none")]
    pub(super) num_of_send: Option<u32>,
    #[serde(rename = "numOfRecv", skip_serializing_if = "Option::is_none")]
    pub(super) num_of_recv: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<WireData<'a>>,
}

impl WireFrame<'_> {
    pub(super) const fn of(command_type: &'static str) -> Self {
        Self { command_type, id: None, num_of_send: None, num_of_recv: None, upload: None, code: None, data: None }
    }

    #[expect(clippy::expect_used, reason = "a struct of strings and numbers always has a JSON text")]
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&serde_json::to_vec(self).expect("strings and numbers have a JSON text"));
        out.push(b'\n');
    }
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum WireData<'a> {
    Null,
    Record(String),
    Detailed(WireRecord<'a>),
    Summary(WireSummary),
    Notice(WireNotice<'a>),
    Token(WireToken<'a>),
    Pin(WirePin<'a>),
    Error(WireError<'a>),
}

impl<'a> WireData<'a> {
    pub(super) fn record(record: &Uploaded) -> Self {
        match record {
            // what a malformed record was is not kept; it stays malformed
            Uploaded::Malformed => Self::Record(String::new()),
            Uploaded::Record(UploadedRecord { record, received: None, rssi: None, seen: None }) => {
                Self::Record(record.reveal())
            }
            Uploaded::Record(UploadedRecord { record, received, rssi, seen }) => Self::Detailed(WireRecord {
                record: record.reveal().into(),
                received: received.map(|received| format!("{received}").into()),
                rssi: *rssi,
                seen: *seen,
            }),
        }
    }

    pub(super) const fn summary(summary: UploadSummary) -> Self {
        let UploadSummary { records, resolved, unknown, invalid } = summary;
        Self::Summary(WireSummary { records, resolved, unknown, invalid })
    }

    pub(super) fn notice(notice: &'a ExposureNotice) -> Self {
        Self::Notice(WireNotice {
            from: format!("{}", notice.from).into(),
            to: format!("{}", notice.to).into(),
            advice: notice.advice.as_str().into(),
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireRecord<'a> {
    #[serde(borrow)]
    pub(super) record: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) received: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rssi: Option<i16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seen: Option<u32>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireSummary {
    pub(super) records: u32,
    pub(super) resolved: u32,
    pub(super) unknown: u32,
    pub(super) invalid: u32,
}

impl From<WireSummary> for UploadSummary {
    fn from(wire: WireSummary) -> Self {
        let WireSummary { records, resolved, unknown, invalid } = wire;
        Self { records, resolved, unknown, invalid }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireNotice<'a> {
    #[serde(borrow)]
    pub(super) from: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) to: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) advice: Cow<'a, str>,
}

impl WireNotice<'_> {
    pub(super) fn notice(self) -> Option<ExposureNotice> {
        Some(ExposureNotice {
            from: Timestamp::parse(&self.from).ok()?,
            to: Timestamp::parse(&self.to).ok()?,
            advice: self.advice.into_owned(),
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireToken<'a> {
    #[serde(borrow)]
    pub(super) token: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) expires: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) now: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WirePin<'a> {
    #[serde(borrow)]
    pub(super) pin: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) expires: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireError<'a> {
    #[serde(borrow)]
    pub(super) code: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) message: Cow<'a, str>,
    #[serde(rename = "retryAfter", default, skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_s: Option<u32>,
}

/// Whether a JSON text is an object. To be asked first: serde would also take an array for a struct.
pub(super) fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// The text of a JSON string, borrowed where nothing in it is escaped.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if quoted.contains('\\') {
        serde_json::from_str(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(quoted))
    }
}
