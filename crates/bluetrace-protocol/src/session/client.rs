//! Owns the device's side of a session: [`ClientSession`], which turns wishes into lines and lines into [`Event`]s.
//!
//! One [`ClientSession`] lives as long as one connection. What outlives a connection (the password or token to come back
//! with, the upload to finish) is its driver's. Requests may be pipelined; answers come in their order.

use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use thiserror::Error;

use crate::contact_log::ContactLogEntry;
use crate::frame::{FrameError, LineDecoder};
use crate::identity::{HandshakePin, Password, ResumeToken, UploadCode, UploadId, Username};
use crate::message::{self, BeginUpload, Command, ErrorCode, Reply, Request, RequestId};
use crate::record::Record;
use crate::time::Timestamp;
use crate::upload::{ExposureNotice, UploadSummary};

/// The device's side of one connection.
#[derive(Debug)]
pub struct ClientSession {
    decoder: LineDecoder,
    phase: Phase,
    /// What the answers to come belong to, in order.
    awaited: VecDeque<Awaited>,
    /// Marks requests, so that an error to one is told from an error to a record of an upload, which has no mark.
    next_id: u32,
    upload: Option<Upload>,
    /// Whether an upload was given up, of which acknowledgements may still be under way.
    has_given_up: bool,
}

/// Something the driver should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server asks for a password.
    PasswordRequired,
    /// Logged in, or resumed.
    Welcome,
    /// The password was wrong; another may be sent.
    WrongPassword {
        /// The server's text, without the code.
        text: String,
    },
    /// The password was wrong, and the account is blocked. The server closes.
    BlockedNow {
        /// The server's text, without the code.
        text: String,
    },
    /// The account was blocked already. The server closes.
    Blocked {
        /// The server's text, without the code.
        text: String,
    },
    /// The resume token is no longer good: log in with [`ClientSession::username`].
    SessionExpired,
    /// The server refuses the connection, and closes.
    Refused {
        /// 421, 500 or 530.
        code: u16,
        /// The server's text, without the code.
        text: String,
    },
    /// The account has been removed at the authority. The server closes.
    NoAccount,
    /// A whole download, in order of their windows.
    TempIds(Vec<Record>),
    /// The server knows the upload; records may flow ([`ClientSession::poll_upload`]).
    UploadBegun {
        /// Records that are durable already.
        acknowledged: u32,
        /// Records in all.
        total: u32,
    },
    /// More records are durable.
    UploadProgress {
        /// Records that are durable.
        acknowledged: u32,
        /// Records in all.
        total: u32,
    },
    /// The server counted a record as invalid.
    RecordRefused {
        /// What the server says, naming the record's place.
        message: String,
    },
    /// Every record is durable.
    UploadComplete(UploadSummary),
    /// The unread notices; none if empty.
    Notices(Vec<ExposureNotice>),
    /// A token with which to come back.
    ResumeToken {
        /// The token.
        token: ResumeToken,
        /// When it ends, on the server's clock.
        expires: Timestamp,
        /// The server's clock, if it tells.
        now: Option<Timestamp>,
    },
    /// The PIN that proves an official.
    HandshakePin {
        /// The PIN.
        pin: HandshakePin,
        /// When it ends, on the server's clock.
        expires: Timestamp,
    },
    /// The session is over.
    LoggedOut,
    /// The server did not do what was asked.
    RequestFailed {
        /// What was asked.
        request: Asked,
        /// The server's code.
        code: String,
        /// The server's words.
        message: String,
        /// After how many seconds it is worth trying again, if the server says so.
        retry_after_s: Option<u32>,
    },
}

/// What can be asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// [`ClientSession::download`].
    Download,
    /// [`ClientSession::upload`].
    Upload,
    /// [`ClientSession::notices`].
    Notices,
    /// [`ClientSession::resume_token`].
    ResumeToken,
    /// [`ClientSession::handshake_pin`].
    HandshakePin,
    /// [`ClientSession::logout`].
    Logout,
}

/// The server does not speak the protocol. The connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClientError {
    /// Its bytes are not lines.
    #[error("the server sent something else than lines of text: {0}")]
    Frame(#[from] FrameError),
    /// A line is no line of the protocol.
    #[error("the server sent a line that is not part of the protocol")]
    Unknown,
    /// A line is of the protocol, and not an answer to what was asked.
    #[error("the server answered something that was not asked")]
    Unasked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Lines of section 4.2.
    Login,
    /// Frames of section 4.3.
    Member,
    /// The server has said that it closes.
    Over,
}

#[derive(Debug)]
enum Awaited {
    Download(Vec<Record>),
    Notices(Vec<ExposureNotice>),
    ResumeToken,
    HandshakePin,
    Logout,
    UploadBegin,
}

#[derive(Debug)]
struct Upload {
    records: Arc<[ContactLogEntry]>,
    total: u32,
    acknowledged: u32,
    /// Place of the record to send next; `None` until the server has said where to go on.
    next: Option<u32>,
}

impl ClientSession {
    /// Begins with a username.
    pub fn login(username: &Username, out: &mut Vec<u8>) -> Self {
        let mut session = Self::new();
        session.username(username, out);
        session
    }

    /// Begins with a resume token. After [`Event::SessionExpired`] go on with [`Self::username`].
    pub fn resume(token: &ResumeToken, out: &mut Vec<u8>) -> Self {
        write_line(&["RESUME ", token.reveal()], out);
        Self::new()
    }

    /// Sends a username, on a new connection or after [`Event::SessionExpired`].
    pub fn username(&mut self, username: &Username, out: &mut Vec<u8>) {
        write_line(&[username.reveal()], out);
    }

    /// Sends a password, after [`Event::PasswordRequired`] or [`Event::WrongPassword`].
    pub fn password(&mut self, password: &Password, out: &mut Vec<u8>) {
        write_line(&[password.reveal()], out);
    }

    /// Asks for `count` `TempIDs`, 1 to 100.
    pub fn download(&mut self, count: u32, out: &mut Vec<u8>) {
        self.ask(Awaited::Download(Vec::new()), Command::DownloadTempIds { count }, out);
    }

    /// Asks for unread notices.
    pub fn notices(&mut self, out: &mut Vec<u8>) {
        self.ask(Awaited::Notices(Vec::new()), Command::Notices, out);
    }

    /// Asks for a token with which to come back.
    pub fn resume_token(&mut self, out: &mut Vec<u8>) {
        self.ask(Awaited::ResumeToken, Command::ResumeToken, out);
    }

    /// Asks for the PIN that proves an official.
    pub fn handshake_pin(&mut self, out: &mut Vec<u8>) {
        self.ask(Awaited::HandshakePin, Command::HandshakePin, out);
    }

    /// Asks for the end of the session.
    pub fn logout(&mut self, out: &mut Vec<u8>) {
        self.ask(Awaited::Logout, Command::Logout, out);
    }

    /// Begins an upload, or goes on with one that an earlier connection began under the same id.
    pub fn upload(&mut self, upload: &UploadId, records: Arc<[ContactLogEntry]>, out: &mut Vec<u8>) {
        self.upload_with_code(upload, None, records, out);
    }

    /// As [`Self::upload`], with an upload code for an authority that requires one.
    pub fn upload_with_code(
        &mut self,
        upload: &UploadId,
        code: Option<UploadCode>,
        records: Arc<[ContactLogEntry]>,
        out: &mut Vec<u8>,
    ) {
        let total = u32::try_from(records.len()).unwrap_or(u32::MAX);
        self.upload = Some(Upload { records, total, acknowledged: 0, next: None });
        let begin = BeginUpload { records: total, upload: Some(upload.clone()), code };
        self.ask(Awaited::UploadBegin, Command::BeginUpload(begin), out);
    }

    /// Appends further records of the upload, up to about 64 KiB of them, if the server has said where to go on.
    /// For whenever `out` has been sent. Appends nothing when all records have been sent.
    pub fn poll_upload(&mut self, out: &mut Vec<u8>) {
        const BURST: usize = 64 * 1024;
        let Some(Upload { records, total, next: Some(next), .. }) = &mut self.upload else { return };
        let full = out.len().saturating_add(BURST);
        while *next < *total && out.len() < full {
            let Some(entry) = usize::try_from(*next).ok().and_then(|place| records.get(place)) else { return };
            *next = next.saturating_add(1);
            message::write_record(entry, total.saturating_sub(*next), out);
        }
    }

    /// Whether the session is past its login and not over.
    pub fn is_member(&self) -> bool {
        self.phase == Phase::Member
    }

    /// Takes bytes from the server, cut anyhow. What must be sent at once is appended to `out`.
    ///
    /// # Errors
    /// [`ClientError`] if the server does not speak the protocol; the connection is then to be closed. What was understood
    /// before that is lost with it, and asked for again on the next connection.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<Event>, ClientError> {
        let mut decoder = core::mem::take(&mut self.decoder);
        decoder.push(bytes);
        let mut events = Vec::new();
        while let Some(line) = decoder.next_line()? {
            match self.phase {
                Phase::Login => events.push(self.login_line(line)?),
                Phase::Member => events.extend(self.answer(line)?),
                Phase::Over => {}
            }
        }
        self.decoder = decoder;
        self.poll_upload(out);
        Ok(events)
    }

    fn new() -> Self {
        Self {
            decoder: LineDecoder::new(),
            phase: Phase::Login,
            awaited: VecDeque::new(),
            next_id: 0,
            upload: None,
            has_given_up: false,
        }
    }

    fn ask(&mut self, awaited: Awaited, command: Command, out: &mut Vec<u8>) {
        self.awaited.push_back(awaited);
        self.next_id = self.next_id.wrapping_add(1);
        Request { id: Some(RequestId::number(self.next_id)), command }.write_to(out);
    }

    fn login_line(&mut self, line: &str) -> Result<Event, ClientError> {
        let (code, text) = line.split_once(' ').unwrap_or((line, ""));
        let text = text.to_owned();
        let (event, phase) = match code {
            "331" => (Event::PasswordRequired, Phase::Login),
            "230" => (Event::Welcome, Phase::Member),
            "430" => (Event::WrongPassword { text }, Phase::Login),
            "431" => (Event::BlockedNow { text }, Phase::Over),
            "432" => (Event::Blocked { text }, Phase::Over),
            "433" => (Event::SessionExpired, Phase::Login),
            "421" => (Event::Refused { code: 421, text }, Phase::Over),
            "500" => (Event::Refused { code: 500, text }, Phase::Over),
            "530" => (Event::Refused { code: 530, text }, Phase::Over),
            _ => return Err(ClientError::Unknown),
        };
        self.phase = phase;
        Ok(event)
    }

    fn answer(&mut self, line: &str) -> Result<Option<Event>, ClientError> {
        let Some((id, reply)) = Reply::parse(line) else {
            // a server that closes in the middle of a session says so in the form of the login
            let (code, text) = line.split_once(' ').ok_or(ClientError::Unknown)?;
            if code != "421" {
                return Err(ClientError::Unknown);
            }
            self.phase = Phase::Over;
            return Ok(Some(Event::Refused { code: 421, text: text.to_owned() }));
        };
        match reply {
            Reply::TempId { following, record } => self.temp_id(following, record),
            Reply::Notice { following, notice } => self.notice(following, notice),
            Reply::ResumeToken { token, expires, now } => {
                let Some(Awaited::ResumeToken) = self.awaited.pop_front() else { return Err(ClientError::Unasked) };
                Ok(Some(Event::ResumeToken { token, expires, now }))
            }
            Reply::HandshakePin { pin, expires } => {
                let Some(Awaited::HandshakePin) = self.awaited.pop_front() else { return Err(ClientError::Unasked) };
                Ok(Some(Event::HandshakePin { pin, expires }))
            }
            Reply::LoggedOut => {
                let Some(Awaited::Logout) = self.awaited.pop_front() else { return Err(ClientError::Unasked) };
                self.phase = Phase::Over;
                Ok(Some(Event::LoggedOut))
            }
            Reply::Upload { expected, summary, .. } => self.acknowledgement(expected, summary),
            Reply::Error { code, .. } if code == ErrorCode::NoAccount.as_str() => {
                self.phase = Phase::Over;
                Ok(Some(Event::NoAccount))
            }
            Reply::Error { code, message, retry_after_s } if id.is_some() => {
                let request = self.failed_request()?;
                Ok(Some(Event::RequestFailed { request, code, message, retry_after_s }))
            }
            Reply::Error { code, message, retry_after_s } => Ok(self.record_failed(code, message, retry_after_s)),
        }
    }

    fn temp_id(&mut self, following: u32, record: Record) -> Result<Option<Event>, ClientError> {
        let Some(Awaited::Download(mut records)) = self.awaited.pop_front() else { return Err(ClientError::Unasked) };
        records.push(record);
        if following == 0 {
            return Ok(Some(Event::TempIds(records)));
        }
        self.awaited.push_front(Awaited::Download(records));
        Ok(None)
    }

    fn notice(&mut self, following: u32, notice: Option<ExposureNotice>) -> Result<Option<Event>, ClientError> {
        let Some(Awaited::Notices(mut notices)) = self.awaited.pop_front() else { return Err(ClientError::Unasked) };
        notices.extend(notice);
        if following == 0 {
            return Ok(Some(Event::Notices(notices)));
        }
        self.awaited.push_front(Awaited::Notices(notices));
        Ok(None)
    }

    fn acknowledgement(&mut self, expected: u32, summary: Option<UploadSummary>) -> Result<Option<Event>, ClientError> {
        let Some(upload) = &mut self.upload else {
            return if self.has_given_up { Ok(None) } else { Err(ClientError::Unasked) };
        };
        let total = upload.total;
        let acknowledged = total.checked_sub(expected).ok_or(ClientError::Unasked)?;
        upload.acknowledged = acknowledged;
        if upload.next.is_none() {
            let Some(Awaited::UploadBegin) = self.awaited.pop_front() else { return Err(ClientError::Unasked) };
            upload.next = Some(acknowledged);
            if expected > 0 {
                return Ok(Some(Event::UploadBegun { acknowledged, total }));
            }
        }
        match summary {
            Some(summary) if expected == 0 => {
                self.upload = None;
                Ok(Some(Event::UploadComplete(summary)))
            }
            Some(_) | None => Ok(Some(Event::UploadProgress { acknowledged, total })),
        }
    }

    fn failed_request(&mut self) -> Result<Asked, ClientError> {
        Ok(match self.awaited.pop_front() {
            Some(Awaited::Download(_)) => Asked::Download,
            Some(Awaited::Notices(_)) => Asked::Notices,
            Some(Awaited::ResumeToken) => Asked::ResumeToken,
            Some(Awaited::HandshakePin) => Asked::HandshakePin,
            Some(Awaited::Logout) => Asked::Logout,
            Some(Awaited::UploadBegin) => {
                self.upload = None;
                Asked::Upload
            }
            None => return Err(ClientError::Unasked),
        })
    }

    /// An error to a record: of the upload as a whole, unless it is about that record alone. Of an upload that is given up
    /// further records may be under way; what the server says of them is not repeated.
    fn record_failed(&mut self, code: String, message: String, retry_after_s: Option<u32>) -> Option<Event> {
        if code == ErrorCode::BadRecord.as_str() {
            return Some(Event::RecordRefused { message });
        }
        // before the answer to its begin an upload has sent no record: the error is to one of the upload before it
        self.upload.take_if(|upload| upload.next.is_some())?;
        self.has_given_up = true;
        Some(Event::RequestFailed { request: Asked::Upload, code, message, retry_after_s })
    }
}

fn write_line(parts: &[&str], out: &mut Vec<u8>) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'\n');
}
