//! Owns the JSON messages of the command phase: [`Request`] and [`Reply`], both ways (PROTOCOL sections 4.3 and 4.4).
//!
//! The wire's own structs are private to this file. Requests are parsed without copying what they quote, because an
//! upload is a million of them.

use alloc::borrow::{Cow, ToOwned};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::contact_log::ContactLogEntry;
use crate::identity::{HandshakePin, ResumeToken, UploadCode, UploadId};
use crate::limits::{MAX_REQUEST_ID, MAX_TEMP_IDS, MAX_UPLOAD_RECORDS};
use crate::record::Record;
use crate::time::Timestamp;
use crate::upload::{ExposureNotice, UploadSummary, Uploaded, UploadedRecord};

/// What a client asks, with the id that every answer to it echoes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The client's own mark on the request.
    pub id: Option<RequestId>,
    /// What is asked.
    pub command: Command,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `DT`: download `TempIDs`, 1 to [`MAX_TEMP_IDS`].
    DownloadTempIds {
        /// How many.
        count: u32,
    },
    /// `UC` without `data`: begin or continue an upload.
    BeginUpload(BeginUpload),
    /// `UC` with `data`: one record of the upload begun last.
    Record {
        /// How many records the client says follow this one. 0 also where it does not say.
        following: u32,
        /// The record.
        record: Uploaded,
    },
    /// `NT`: unread exposure notices.
    Notices,
    /// `RT`: a resume token.
    ResumeToken,
    /// `PN`: the handshake PIN.
    HandshakePin,
    /// `LO`: end of the session.
    Logout,
}

/// The begin of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginUpload {
    /// How many records it has in all, at most [`MAX_UPLOAD_RECORDS`].
    pub records: u32,
    /// The device's name for it; without one it cannot be resumed.
    pub upload: Option<UploadId>,
    /// The upload code, where the authority requires one.
    pub code: Option<UploadCode>,
}

/// A request's `id`: the JSON text of a string or a number, at most 64 characters without quotes.
#[derive(Debug, Clone)]
pub struct RequestId(Box<RawValue>);

/// A request that cannot be carried out, with the id to answer it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRequest {
    /// The client's own mark on the request, if it could be read.
    pub id: Option<RequestId>,
    /// What kind of mistake it is.
    pub code: ErrorCode,
    /// What is wrong, for people. Quotes nothing of the request.
    pub message: String,
}

/// The codes of `ER`. They are stable; the messages beside them are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The line is not a JSON object of the form of section 4.3.
    BadJson,
    /// There is no such `commandType`.
    UnknownCommand,
    /// A count is out of its range, or does not fit what was said before.
    BadCount,
    /// A record is malformed.
    BadRecord,
    /// A record came without an upload, or of one that the authority has forgotten.
    NoUpload,
    /// More than the authority takes.
    TooLarge,
    /// The authority requires an upload code, and this is none.
    UploadNotAuthorised,
    /// The account has been removed; the session is over.
    NoAccount,
    /// Too much at once; try again later.
    RateLimited,
    /// The authority cannot answer now; try again later.
    Unavailable,
    /// A fault of the authority.
    Internal,
}

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

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// [`BadRequest`], with which `ER` answers.
    pub fn parse(line: &str) -> Result<Self, BadRequest> {
        match plain_record(line) {
            Some(command) => Ok(Self { id: None, command }),
            None => Self::parse_json(line),
        }
    }

    fn parse_json(line: &str) -> Result<Self, BadRequest> {
        let wire = WireRequest::parse(line)?;
        let id = match wire.id.map(RequestId::from_json) {
            None => None,
            Some(Some(id)) => Some(id),
            Some(None) => {
                let message = format!("`id` is not a string or a number of at most {MAX_REQUEST_ID} characters");
                return Err(BadRequest { id: None, code: ErrorCode::BadJson, message });
            }
        };
        match wire.command() {
            Ok(command) => Ok(Self { id, command }),
            Err((code, message)) => Err(BadRequest { id, code, message }),
        }
    }

    /// Appends the request as a line with its end.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut wire = WireFrame { id: self.id.as_ref().map(RequestId::as_json), ..WireFrame::of("") };
        match &self.command {
            Command::DownloadTempIds { count } => {
                wire.command_type = "DT";
                wire.num_of_recv = Some(*count);
            }
            Command::BeginUpload(begin) => {
                wire.command_type = "UC";
                wire.num_of_send = Some(begin.records);
                wire.upload = begin.upload.as_ref().map(UploadId::reveal);
                wire.code = begin.code.as_ref().map(UploadCode::reveal);
            }
            Command::Record { following, record } => {
                wire.command_type = "UC";
                wire.num_of_send = Some(*following);
                wire.data = Some(WireData::record(record));
            }
            Command::Notices => wire.command_type = "NT",
            Command::ResumeToken => wire.command_type = "RT",
            Command::HandshakePin => wire.command_type = "PN",
            Command::Logout => wire.command_type = "LO",
        }
        wire.write_to(out);
    }
}

/// Appends the record frame of a contact-log entry, as [`Request::write_to`] would and without building a request: a
/// long log is sent in a burst.
pub fn write_record(entry: &ContactLogEntry, following: u32, out: &mut Vec<u8>) {
    // nothing in a record or a time needs escaping in JSON
    let mut text = String::with_capacity(192);
    text.push_str(r#"{"commandType":"UC","numOfSend":"#);
    _ = fmt::Write::write_fmt(&mut text, format_args!("{following}"));
    text.push_str(r#","data":{"record":""#);
    entry.record.write_to(&mut text);
    text.push_str(r#"","received":""#);
    entry.received.write_to(&mut text);
    text.push_str("\"}}\n");
    out.extend_from_slice(text.as_bytes());
}

impl RequestId {
    /// A number as an id.
    pub fn number(number: u32) -> Self {
        // a number always has a JSON text
        Self(serde_json::value::to_raw_value(&number).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// Takes the JSON text of a string or a number.
    fn from_json(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        let is_scalar = text.starts_with(['"', '-']) || text.starts_with(|first: char| first.is_ascii_digit());
        (is_scalar && inner.chars().count() <= MAX_REQUEST_ID).then(|| Self(raw.to_owned()))
    }

    fn as_json(&self) -> &RawValue {
        &self.0
    }
}

/// Equal as the JSON text that is echoed.
impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for RequestId {}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::BadJson,
        Self::UnknownCommand,
        Self::BadCount,
        Self::BadRecord,
        Self::NoUpload,
        Self::TooLarge,
        Self::UploadNotAuthorised,
        Self::NoAccount,
        Self::RateLimited,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::UnknownCommand => "unknown_command",
            Self::BadCount => "bad_count",
            Self::BadRecord => "bad_record",
            Self::NoUpload => "no_upload",
            Self::TooLarge => "too_large",
            Self::UploadNotAuthorised => "upload_not_authorised",
            Self::NoAccount => "no_account",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
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

// The wire, from here on.

/// Reads a record frame as [`write_record`] writes it, without looking at JSON in general: an upload is a million of them. `None`
/// for every other line. What this reads, [`Request::parse_json`] reads as the same.
fn plain_record(line: &str) -> Option<Command> {
    let (following, data) = line.strip_prefix(r#"{"commandType":"UC","numOfSend":"#)?.split_once(r#","data":"#)?;
    // a number in JSON begins with no sign and no zero
    if following.len() > 1 && !following.starts_with(|first| matches!(first, '1'..='9')) {
        return None;
    }
    let (record, received) = if let Some(record) = data.strip_prefix('"') {
        (record.strip_suffix("\"}")?, None)
    } else {
        let (record, received) = data.strip_prefix(r#"{"record":""#)?.split_once(r#"","received":""#)?;
        (record, Some(Timestamp::parse(received.strip_suffix("\"}}")?).ok()?))
    };
    // no quote and no escape can stand in what is a record
    let record = Record::parse(record).ok()?;
    let record = Uploaded::Record(UploadedRecord { record, received, rssi: None, seen: None });
    Some(Command::Record { following: following.parse().ok()?, record })
}

/// A request as it stands on the wire. What is quoted stays raw until the command says how to read it.
#[derive(Deserialize)]
struct WireRequest<'a> {
    #[serde(rename = "commandType", borrow, default)]
    command_type: Option<&'a RawValue>,
    #[serde(rename = "numOfSend", default)]
    num_of_send: Count,
    #[serde(rename = "numOfRecv", default)]
    num_of_recv: Count,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    upload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
}

/// A count as it stands on the wire.
#[derive(Clone, Copy, Default)]
enum Count {
    /// Absent, null or 0.
    #[default]
    Zero,
    Of(u32),
    /// Not a whole number of 0 or more.
    Bad,
}

type Refusal = (ErrorCode, String);

impl<'a> WireRequest<'a> {
    fn parse(line: &'a str) -> Result<Self, BadRequest> {
        let bad = |message: String| BadRequest { id: None, code: ErrorCode::BadJson, message };
        if !is_object(line) {
            return Err(bad("not a JSON object".to_owned()));
        }
        // the error's own text could quote the line; its place cannot
        serde_json::from_str(line)
            .map_err(|error| bad(format!("not a JSON object of the form of section 4.3: column {}", error.column())))
    }

    fn command(&self) -> Result<Command, Refusal> {
        let command_type = self.command_type.and_then(text).unwrap_or_default();
        match &*command_type {
            "DT" => self.download(),
            "UC" => match self.data {
                Some(data) => {
                    Ok(Command::Record { following: self.num_of_send.number("numOfSend")?, record: uploaded(data) })
                }
                None => self.begin_upload(),
            },
            "NT" => Ok(Command::Notices),
            "RT" => Ok(Command::ResumeToken),
            "PN" => Ok(Command::HandshakePin),
            "LO" => Ok(Command::Logout),
            _ => Err((ErrorCode::UnknownCommand, "`commandType` is none of DT, UC, NT, RT, PN, LO".to_owned())),
        }
    }

    fn download(&self) -> Result<Command, Refusal> {
        let count = self.num_of_recv.number("numOfRecv")?.max(1);
        if count > MAX_TEMP_IDS {
            return Err((ErrorCode::BadCount, format!("`numOfRecv` is over {MAX_TEMP_IDS}")));
        }
        Ok(Command::DownloadTempIds { count })
    }

    fn begin_upload(&self) -> Result<Command, Refusal> {
        let records = self.num_of_send.number("numOfSend")?;
        if records > MAX_UPLOAD_RECORDS {
            return Err((ErrorCode::TooLarge, format!("an upload has at most {MAX_UPLOAD_RECORDS} records")));
        }
        let upload = match self.upload {
            None => None,
            Some(raw) => Some(
                text(raw)
                    .and_then(|id| UploadId::parse(&id).ok())
                    .ok_or((ErrorCode::BadJson, "`upload` is not 1 to 64 printable ASCII characters".to_owned()))?,
            ),
        };
        let code = match self.code {
            None => None,
            Some(raw) => Some(
                text(raw)
                    .and_then(|code| UploadCode::parse(&code))
                    .ok_or((ErrorCode::UploadNotAuthorised, "`code` is not an upload code".to_owned()))?,
            ),
        };
        Ok(Command::BeginUpload(BeginUpload { records, upload, code }))
    }
}

impl Count {
    fn number(self, name: &str) -> Result<u32, Refusal> {
        match self {
            Self::Zero => Ok(0),
            Self::Of(number) => Ok(number),
            Self::Bad => Err((ErrorCode::BadCount, format!("`{name}` is not a whole number of 0 or more"))),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(match raw.get() {
            "null" | "0" => Self::Zero,
            // what no `u32` holds is over every limit, as the largest one is
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Self::Of(digits.parse().unwrap_or(u32::MAX)),
            _ => Self::Bad,
        })
    }
}

/// Whether a JSON text is an object. To be asked first: serde would also take an array for a struct.
fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// The text of a JSON string, borrowed where nothing in it is escaped.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if quoted.contains('\\') {
        serde_json::from_str(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(quoted))
    }
}

/// The record in a `data`: a text, or an object with a text and what else the device knows.
fn uploaded(data: &RawValue) -> Uploaded {
    let read = || {
        if data.get().starts_with('"') {
            let record = Record::parse(&text(data)?).ok()?;
            return Some(UploadedRecord { record, received: None, rssi: None, seen: None });
        }
        if !is_object(data.get()) {
            return None;
        }
        let wire = serde_json::from_str::<WireRecord<'_>>(data.get()).ok()?;
        let received = match wire.received {
            None => None,
            Some(received) => Some(Timestamp::parse(&received).ok()?),
        };
        Some(UploadedRecord { record: Record::parse(&wire.record).ok()?, received, rssi: wire.rssi, seen: wire.seen })
    };
    read().map_or(Uploaded::Malformed, Uploaded::Record)
}

#[derive(Serialize, Deserialize)]
struct WireRecord<'a> {
    #[serde(borrow)]
    record: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    received: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rssi: Option<i16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<u32>,
}

/// A frame to be written, of either side.
#[derive(Serialize)]
struct WireFrame<'a> {
    #[serde(rename = "commandType")]
    command_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(rename = "numOfSend", skip_serializing_if = "Option::is_none")]
    num_of_send: Option<u32>,
    #[serde(rename = "numOfRecv", skip_serializing_if = "Option::is_none")]
    num_of_recv: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<WireData<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireData<'a> {
    Null,
    Record(String),
    Detailed(WireRecord<'a>),
    Summary(WireSummary),
    Notice(WireNotice<'a>),
    Token(WireToken<'a>),
    Pin(WirePin<'a>),
    Error(WireError<'a>),
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

#[derive(Serialize, Deserialize)]
struct WireSummary {
    records: u32,
    resolved: u32,
    unknown: u32,
    invalid: u32,
}

#[derive(Serialize, Deserialize)]
struct WireNotice<'a> {
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    #[serde(borrow)]
    advice: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct WireToken<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(borrow)]
    expires: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    now: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct WirePin<'a> {
    #[serde(borrow)]
    pin: Cow<'a, str>,
    #[serde(borrow)]
    expires: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct WireError<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(rename = "retryAfter", default, skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u32>,
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

impl WireFrame<'_> {
    const fn of(command_type: &'static str) -> Self {
        Self { command_type, id: None, num_of_send: None, num_of_recv: None, upload: None, code: None, data: None }
    }

    #[expect(clippy::expect_used, reason = "a struct of strings and numbers always has a JSON text")]
    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&serde_json::to_vec(self).expect("strings and numbers have a JSON text"));
        out.push(b'\n');
    }
}

impl<'a> WireData<'a> {
    fn record(record: &Uploaded) -> Self {
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

    const fn summary(summary: UploadSummary) -> Self {
        let UploadSummary { records, resolved, unknown, invalid } = summary;
        Self::Summary(WireSummary { records, resolved, unknown, invalid })
    }

    fn notice(notice: &'a ExposureNotice) -> Self {
        Self::Notice(WireNotice {
            from: format!("{}", notice.from).into(),
            to: format!("{}", notice.to).into(),
            advice: notice.advice.as_str().into(),
        })
    }
}

impl WireNotice<'_> {
    fn notice(self) -> Option<ExposureNotice> {
        Some(ExposureNotice {
            from: Timestamp::parse(&self.from).ok()?,
            to: Timestamp::parse(&self.to).ok()?,
            advice: self.advice.into_owned(),
        })
    }
}

impl From<WireSummary> for UploadSummary {
    fn from(wire: WireSummary) -> Self {
        let WireSummary { records, resolved, unknown, invalid } = wire;
        Self { records, resolved, unknown, invalid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_plain_record_is_read_as_json_reads_it(entry in strategies::contact_log_entries(), following: u32) {
            let mut line = Vec::new();
            write_record(&entry, following, &mut line);
            let line = core::str::from_utf8(&line).unwrap().trim_end();
            let command = plain_record(line);
            prop_assert!(command.is_some());
            prop_assert_eq!(command, Request::parse_json(line).ok().map(|request| request.command));
        }

        #[test]
        fn a_line_that_is_nearly_a_plain_record_is_read_as_json_reads_it_or_left_to_it(
            entry in strategies::contact_log_entries(),
            following in "0|00|01|-1|\\+1|1|999999|4294967295|4294967296|1\\.0|1e3| 1|",
            is_detailed: bool,
            place: prop::sample::Index,
            put in "|\"|\\\\|\\\\u0031|,|}| |\\{|0|x",
        ) {
            let record = entry.record.reveal();
            let data = if is_detailed {
                format!(r#"{{"record":"{record}","received":"{}"}}"#, entry.received)
            } else {
                format!(r#""{record}""#)
            };
            let mut line = format!(r#"{{"commandType":"UC","numOfSend":{following},"data":{data}}}"#);
            line.insert_str(place.index(line.len()), &put);
            if let Some(command) = plain_record(&line) {
                prop_assert_eq!(Request::parse_json(&line), Ok(Request { id: None, command }));
            }
        }
    }
}
