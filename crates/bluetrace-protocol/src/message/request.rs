//! Owns what a client asks: [`Request`], both ways.
//!
//! Requests are parsed without copying what they quote, because an upload is a million of them.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{WireData, WireFrame, WireRecord, is_object, text};
use super::{ErrorCode, RequestId};
use crate::contact_log::ContactLogEntry;
use crate::identity::{UploadCode, UploadId};
use crate::limits::{MAX_REQUEST_ID, MAX_TEMP_IDS, MAX_UPLOAD_RECORDS};
use crate::record::Record;
use crate::time::Timestamp;
use crate::upload::{Uploaded, UploadedRecord};

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
