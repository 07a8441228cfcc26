//! Owns what a server answers: [`Reply`], both ways.

use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{WireData, WireError, WireFrame, WireNotice, WirePin, WireSummary, WireToken, is_object};
use super::{ErrorCode, RequestId};
use crate::identity::{HandshakePin, ResumeToken, UploadId};
use crate::record::Record;
use crate::time::Timestamp;
use crate::upload::{ExposureNotice, UploadSummary};

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// One `TempID` of a download.
    TempId {
        /// How many follow it.
        following: u32,
        /// The id and its window.
        record: Record,
    },
    /// Where an upload stands: how many records are still expected, the others being durable.
    Upload {
        /// Records still expected.
        expected: u32,
        /// The upload's id, in the answer to its begin.
        upload: Option<UploadId>,
        /// What came of it, once none is expected.
        summary: Option<UploadSummary>,
    },
    /// One exposure notice, or that there is none.
    Notice {
        /// How many follow it.
        following: u32,
        /// The notice.
        notice: Option<ExposureNotice>,
    },
    /// A resume token.
    ResumeToken {
        /// The token.
        token: ResumeToken,
        /// When it ends.
        expires: Timestamp,
        /// The server's clock, from which a device learns how far its own is off.
        now: Option<Timestamp>,
    },
    /// The handshake PIN.
    HandshakePin {
        /// The PIN, which the official sees as well.
        pin: HandshakePin,
        /// When it ends.
        expires: Timestamp,
    },
    /// The session is over.
    LoggedOut,
    /// A request was not carried out.
    Error {
        /// The code as sent; see [`ErrorCode`] for this project's own.
        code: String,
        /// What is wrong, for people.
        message: String,
        /// After how many seconds the same request is worth trying again, if the server says so.
        retry_after_s: Option<u32>,
    },
}

impl Reply {
    /// Appends the reply as a line with its end, with the id of the request it answers.
    pub fn write_to(&self, id: Option<&RequestId>, out: &mut Vec<u8>) {
        let mut wire = WireFrame { id: id.map(RequestId::as_json), ..WireFrame::of("") };
        match self {
            Self::TempId { following, record } => {
                wire.command_type = "DT";
                wire.num_of_send = Some(*following);
                wire.data = Some(WireData::Record(record.reveal()));
            }
            Self::Upload { expected, upload, summary } => {
                wire.command_type = "UC";
                wire.num_of_recv = Some(*expected);
                wire.upload = upload.as_ref().map(UploadId::reveal);
                wire.data = summary.map(WireData::summary);
            }
            Self::Notice { following, notice } => {
                wire.command_type = "NT";
                wire.num_of_send = Some(*following);
                wire.data = Some(notice.as_ref().map_or(WireData::Null, WireData::notice));
            }
            Self::ResumeToken { token, expires, now } => {
                wire.command_type = "RT";
                wire.data = Some(WireData::Token(WireToken {
                    token: token.reveal().into(),
                    expires: format!("{expires}").into(),
                    now: now.map(|now| format!("{now}").into()),
                }));
            }
            Self::HandshakePin { pin, expires } => {
                wire.command_type = "PN";
                wire.data =
                    Some(WireData::Pin(WirePin { pin: pin.reveal().into(), expires: format!("{expires}").into() }));
            }
            Self::LoggedOut => wire.command_type = "LO",
            Self::Error { code, message, retry_after_s } => {
                wire.command_type = "ER";
                let (code, message) = (code.as_str().into(), message.as_str().into());
                wire.data = Some(WireData::Error(WireError { code, message, retry_after_s: *retry_after_s }));
            }
        }
        wire.write_to(out);
    }

    /// The reply to a request that cannot be carried out.
    pub fn error(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Error { code: code.as_str().to_owned(), message: message.into(), retry_after_s: None }
    }

    /// Reads one line of a server, with the id of the request it answers. `None` if it is no reply of section 4.3.
    pub fn parse(line: &str) -> Option<(Option<RequestId>, Self)> {
        if !is_object(line) {
            return None;
        }
        let wire = serde_json::from_str::<WireAnswer<'_>>(line).ok()?;
        let id = wire.id.and_then(RequestId::from_json);
        wire.reply().map(|reply| (id, reply))
    }
}

/// An answer as it stands on the wire.
#[derive(Deserialize)]
struct WireAnswer<'a> {
    #[serde(rename = "commandType", borrow)]
    command_type: Cow<'a, str>,
    #[serde(rename = "numOfSend", default)]
    num_of_send: Option<u32>,
    #[serde(rename = "numOfRecv", default)]
    num_of_recv: Option<u32>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    upload: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl WireAnswer<'_> {
    fn reply(self) -> Option<Reply> {
        let wire = self;
        let data = wire.data.map(RawValue::get);
        let count = |count: Option<u32>| count.unwrap_or(0);
        Some(match &*wire.command_type {
            "DT" => Reply::TempId {
                following: count(wire.num_of_send),
                record: Record::parse(&serde_json::from_str::<Cow<'_, str>>(data?).ok()?).ok()?,
            },
            "UC" => Reply::Upload {
                expected: count(wire.num_of_recv),
                upload: wire.upload.and_then(|upload| UploadId::parse(&upload).ok()),
                summary: match data {
                    None | Some("null") => None,
                    Some(data) => Some(serde_json::from_str::<WireSummary>(data).ok()?.into()),
                },
            },
            "NT" => Reply::Notice {
                following: count(wire.num_of_send),
                notice: match data {
                    None | Some("null") => None,
                    Some(data) => Some(serde_json::from_str::<WireNotice<'_>>(data).ok()?.notice()?),
                },
            },
            "RT" => {
                let wire = serde_json::from_str::<WireToken<'_>>(data?).ok()?;
                Reply::ResumeToken {
                    token: ResumeToken::parse(&wire.token)?,
                    expires: Timestamp::parse(&wire.expires).ok()?,
                    now: wire.now.and_then(|now| Timestamp::parse(&now).ok()),
                }
            }
            "PN" => {
                let wire = serde_json::from_str::<WirePin<'_>>(data?).ok()?;
                Reply::HandshakePin {
                    pin: HandshakePin::parse(&wire.pin)?,
                    expires: Timestamp::parse(&wire.expires).ok()?,
                }
            }
            "LO" => Reply::LoggedOut,
            "ER" => {
                let wire = serde_json::from_str::<WireError<'_>>(data?).ok()?;
                let (code, message) = (wire.code.into_owned(), wire.message.into_owned());
                Reply::Error { code, message, retry_after_s: wire.retry_after_s }
            }
            _ => return None,
        })
    }
}
