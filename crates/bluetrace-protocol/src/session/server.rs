//! Owns the authority's side of a session: [`ServerSession`], its states as types, and the [`Question`]s it asks.
//!
//! ```text
//! AwaitingUsername --username--> AwaitingPassword --password--> (Login?) --230--> Member --LO--> closed
//!        |   ^                        ^                            |                ^
//!        |   +--------433-------------+------------430-------------+                |
//!        +------------ RESUME token --> (Resume?) --230-----------------------------+
//! ```
//!
//! `M` is whom the authority has let in: the session carries it from the answer to its login to each later question, and
//! cannot look into it.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::mem;

use crate::frame::FrameError;
use crate::identity::{HandshakePin, Password, ResumeToken, UploadId, Username};
use crate::limits::{MAX_BAD_LINES, MAX_RECORD_BATCH};
use crate::message::{BadRequest, BeginUpload, Command, ErrorCode, Reply, Request, RequestId};
use crate::record::Record;
use crate::time::Timestamp;
use crate::upload::{ExposureNotice, UploadSummary, Uploaded};

/// One session, in the state that it is in.
#[derive(Debug)]
pub enum ServerSession<M> {
    /// Waits for a username, or for `RESUME` and a token.
    AwaitingUsername(AwaitingUsername),
    /// Waits for a password of a username.
    AwaitingPassword(AwaitingPassword),
    /// Waits for commands.
    Member(Member<M>),
}

/// What a session wants next.
#[derive(Debug)]
pub enum Step<M> {
    /// Lines.
    Wait(ServerSession<M>),
    /// An answer of the authority.
    Ask(Question<M>),
    /// That what it wrote is sent and the connection closed.
    Close,
}

/// A question for the authority. Each `then` accepts the answers that fit it.
#[derive(Debug)]
pub enum Question<M> {
    /// Is this the password?
    Login {
        /// Whose.
        username: Username,
        /// The password.
        password: Password,
        /// Takes the answer.
        then: Authenticating,
    },
    /// Does this token continue a session?
    Resume {
        /// The token.
        token: ResumeToken,
        /// Takes the answer.
        then: Resuming,
    },
    /// Issue `count` `TempIDs`.
    TempIds {
        /// How many.
        count: u32,
        /// Takes the answer.
        then: AwaitingTempIds<M>,
    },
    /// Begin an upload, or find the one begun.
    BeginUpload {
        /// The begin.
        begin: BeginUpload,
        /// Takes the answer.
        then: Beginning<M>,
    },
    /// Store these records.
    Append {
        /// The upload.
        upload: UploadHandle,
        /// The place of the first record, 0 for the upload's first.
        first: u32,
        /// The records.
        records: Vec<Uploaded>,
        /// Takes the answer.
        then: Appending<M>,
    },
    /// All records are durable: what comes of them?
    Finish {
        /// The upload.
        upload: UploadHandle,
        /// Takes the answer.
        then: Finishing<M>,
    },
    /// Which notices are unread?
    Notices {
        /// The notice delivered last on this session: it and those before it have been read.
        seen: Option<NoticeHandle>,
        /// Takes the answer.
        then: AwaitingNotices<M>,
    },
    /// Make a resume token.
    Token {
        /// Takes the answer.
        then: AwaitingToken<M>,
    },
    /// Which PIN proves an official to this member?
    HandshakePin {
        /// Takes the answer.
        then: AwaitingPin<M>,
    },
    /// End the session for good.
    Logout {
        /// The notice delivered last on this session: it and those before it have been read.
        seen: Option<NoticeHandle>,
        /// Takes the answer.
        then: LoggingOut<M>,
    },
}

/// The authority's own number for an upload. Never on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadHandle(pub i64);

/// The authority's own number for a notice. Never on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoticeHandle(pub i64);

/// Why the authority has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It cannot answer now.
    Unavailable,
    /// It is asked too much at once.
    RateLimited,
    /// A fault of the authority.
    Internal,
}

impl<M> Default for ServerSession<M> {
    /// A session on a new connection.
    fn default() -> Self {
        Self::AwaitingUsername(AwaitingUsername)
    }
}

impl<M> ServerSession<M> {
    /// Takes one line, without its end. What is to be sent is appended to `out`.
    pub fn line(self, line: &str, out: &mut Vec<u8>) -> Step<M> {
        match self {
            Self::AwaitingUsername(AwaitingUsername) => AwaitingUsername::line(line, out),
            Self::AwaitingPassword(state) => state.line(line, out),
            Self::Member(state) => state.line(line, out),
        }
    }

    /// No further whole line is at hand: the records that have come are to be stored and acknowledged.
    pub fn pause(self) -> Step<M> {
        match self {
            Self::Member(member) => member.flush(None),
            waiting @ (Self::AwaitingUsername(_) | Self::AwaitingPassword(_)) => Step::Wait(waiting),
        }
    }

    /// The stream cannot be cut into lines any further: says why. The connection is to be closed.
    pub fn broken(&self, error: FrameError, out: &mut Vec<u8>) {
        match self {
            Self::AwaitingUsername(_) | Self::AwaitingPassword(_) => say(out, 500, &format!("{error}")),
            Self::Member(_) => {
                let code = match error {
                    FrameError::TooLong => ErrorCode::TooLarge,
                    FrameError::NotText => ErrorCode::BadJson,
                };
                Reply::error(code, format!("{error}")).write_to(None, out);
            }
        }
    }

    /// The client has closed its side in good order: whom it was, and the last notice that was delivered and so was read.
    pub fn ended(self) -> Option<(M, NoticeHandle)> {
        match self {
            Self::Member(Member { who, delivered: Some(notice), .. }) => Some((who, notice)),
            Self::Member(_) | Self::AwaitingUsername(_) | Self::AwaitingPassword(_) => None,
        }
    }

    /// Whether the session is past its login.
    pub const fn is_member(&self) -> bool {
        matches!(self, Self::Member(_))
    }
}

// ---- Login (section 4.2): waits for a username

/// Waits for a username, or for `RESUME` and a token.
#[derive(Debug)]
pub struct AwaitingUsername;

impl AwaitingUsername {
    fn line<M>(line: &str, out: &mut Vec<u8>) -> Step<M> {
        if let Some(token) = line.strip_prefix("RESUME ") {
            return match ResumeToken::parse(token) {
                Some(token) => Step::Ask(Question::Resume { token, then: Resuming(()) }),
                None => Resuming(()).refused(out),
            };
        }
        match Username::parse(line) {
            Ok(username) => {
                say(out, 331, "Password required");
                Step::Wait(ServerSession::AwaitingPassword(AwaitingPassword { username }))
            }
            Err(error) => {
                say(out, 500, &format!("{error}"));
                Step::Close
            }
        }
    }
}

/// Takes the answer to a resume token.
#[derive(Debug)]
pub struct Resuming(());

impl Resuming {
    /// The token is good.
    pub fn welcome<M>(self, who: M, out: &mut Vec<u8>) -> Step<M> {
        welcome(who, out)
    }

    /// The token is not, or no longer, good: the client logs in with its password.
    pub fn refused<M>(self, out: &mut Vec<u8>) -> Step<M> {
        say(out, 433, "Session expired. Please log in");
        Step::Wait(ServerSession::AwaitingUsername(AwaitingUsername))
    }

    /// The authority has no answer.
    pub fn failed<M>(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        login_failed(failure, out)
    }
}

// ---- Login (section 4.2): waits for a password

/// Waits for a password of a username.
#[derive(Debug)]
pub struct AwaitingPassword {
    username: Username,
}

impl AwaitingPassword {
    fn line<M>(self, line: &str, out: &mut Vec<u8>) -> Step<M> {
        match Password::parse(line) {
            Ok(password) => {
                let then = Authenticating { username: self.username.clone() };
                Step::Ask(Question::Login { username: self.username, password, then })
            }
            Err(error) => {
                say(out, 500, &format!("{error}"));
                Step::Close
            }
        }
    }
}

/// Takes the answer to a password.
#[derive(Debug)]
pub struct Authenticating {
    username: Username,
}

impl Authenticating {
    /// The password is right, and the username is not blocked.
    pub fn welcome<M>(self, who: M, out: &mut Vec<u8>) -> Step<M> {
        welcome(who, out)
    }

    /// The password is wrong, and `left` failures are free before the block.
    pub fn wrong<M>(self, left: u32, out: &mut Vec<u8>) -> Step<M> {
        let tries = if left == 1 { "try" } else { "tries" };
        say(out, 430, &format!("Invalid Password. Please try again ({left} {tries} left)"));
        Step::Wait(ServerSession::AwaitingPassword(AwaitingPassword { username: self.username }))
    }

    /// The password is wrong, and the username is blocked for `seconds` from now.
    pub fn blocked_now<M>(self, seconds: i64, out: &mut Vec<u8>) -> Step<M> {
        let text = "Invalid Password. Your account has been blocked. Please try again later";
        say(out, 431, &format!("{text} ({seconds} s)"));
        Step::Close
    }

    /// The username was blocked already, for another `seconds`.
    pub fn blocked<M>(self, seconds: i64, out: &mut Vec<u8>) -> Step<M> {
        let text = "Your account is blocked due to multiple login failures. Please try again later";
        say(out, 432, &format!("{text} ({seconds} s)"));
        Step::Close
    }

    /// The authority has no answer.
    pub fn failed<M>(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        login_failed(failure, out)
    }
}

fn welcome<M>(who: M, out: &mut Vec<u8>) -> Step<M> {
    say(out, 230, "Welcome to the BlueTrace Simulator!");
    Step::Wait(ServerSession::Member(Member { who, delivered: None, bad_lines: 0, upload: None }))
}

fn login_failed<M>(failure: Failure, out: &mut Vec<u8>) -> Step<M> {
    let text = match failure {
        Failure::Unavailable | Failure::Internal => "The authority cannot log you in now. Please try again later",
        Failure::RateLimited => "Too many logins. Please try again later",
    };
    say(out, 421, text);
    Step::Close
}

/// Appends a line of the login phase.
fn say(out: &mut Vec<u8>, code: u16, text: &str) {
    let mut line = String::with_capacity(text.len().saturating_add(5));
    // writing to a string does not fail
    _ = writeln!(line, "{code} {text}");
    out.extend_from_slice(line.as_bytes());
}

// ---- Commands (section 4.3)

/// Waits for commands.
#[derive(Debug)]
pub struct Member<M> {
    who: M,
    /// The last notice delivered on this session and not yet known to be read.
    delivered: Option<NoticeHandle>,
    /// Lines in a row that were not JSON.
    bad_lines: u32,
    /// The upload begun last, until all its records are durable.
    upload: Option<Box<OpenUpload>>,
}

/// An upload whose records are coming in. Invariant: `next <= records`, and `next` is the place behind `batch`.
#[derive(Debug)]
struct OpenUpload {
    handle: UploadHandle,
    records: u32,
    /// Place of the record expected next.
    next: u32,
    /// Records that have come and are not stored yet.
    batch: Vec<Uploaded>,
    /// Which of them are malformed: their places and the ids to answer under.
    malformed: Vec<(u32, Option<RequestId>)>,
    /// Whether a record has come that is owed an acknowledgement. A malformed one is not: its `ER` answers it.
    owes_acknowledgement: bool,
    /// The id of the last such record.
    last_id: Option<RequestId>,
}

impl<M> Member<M> {
    fn line(mut self, line: &str, out: &mut Vec<u8>) -> Step<M> {
        let request = Request::parse(line);
        if let Ok(Request { id, command: Command::Record { following, record } }) = request {
            self.bad_lines = 0;
            let is_refused = |upload: &OpenUpload| upload.place(following).is_none();
            if self.upload.as_deref().is_some_and(|upload| upload.has_unanswered() && is_refused(upload)) {
                // answers come in order: those to the records before the one that is refused first
                return self.flush(Some(line));
            }
            return self.record(following, record, id, out);
        }
        if self.upload.as_ref().is_some_and(|upload| upload.has_unanswered()) {
            // answers come in order: the records before this line first
            return self.flush(Some(line));
        }
        match request {
            Ok(Request { id, command }) => {
                self.bad_lines = 0;
                self.command(id, command, out)
            }
            Err(bad) => self.refuse(bad, out),
        }
    }

    fn command(mut self, id: Option<RequestId>, command: Command, out: &mut Vec<u8>) -> Step<M> {
        Step::Ask(match command {
            Command::DownloadTempIds { count } => {
                Question::TempIds { count, then: AwaitingTempIds { member: self, id } }
            }
            Command::BeginUpload(begin) => {
                // a begin ends the claim of the upload before it on the records that follow
                self.upload = None;
                let then = Beginning { member: self, id, records: begin.records, upload: begin.upload.clone() };
                Question::BeginUpload { begin, then }
            }
            Command::Record { following, record } => return self.record(following, record, id, out),
            Command::Notices => {
                Question::Notices { seen: self.delivered.take(), then: AwaitingNotices { member: self, id } }
            }
            Command::ResumeToken => Question::Token { then: AwaitingToken { member: self, id } },
            Command::HandshakePin => Question::HandshakePin { then: AwaitingPin { member: self, id } },
            Command::Logout => Question::Logout { seen: self.delivered.take(), then: LoggingOut { member: self, id } },
        })
    }

    fn refuse(mut self, bad: BadRequest, out: &mut Vec<u8>) -> Step<M> {
        Reply::error(bad.code, bad.message).write_to(bad.id.as_ref(), out);
        match bad.code {
            ErrorCode::BadJson => self.bad_lines = self.bad_lines.saturating_add(1),
            ErrorCode::UnknownCommand
            | ErrorCode::BadCount
            | ErrorCode::BadRecord
            | ErrorCode::NoUpload
            | ErrorCode::TooLarge
            | ErrorCode::UploadNotAuthorised
            | ErrorCode::NoAccount
            | ErrorCode::RateLimited
            | ErrorCode::Unavailable
            | ErrorCode::Internal => self.bad_lines = 0,
        }
        if self.bad_lines >= MAX_BAD_LINES { Step::Close } else { self.wait() }
    }

    fn record(mut self, following: u32, record: Uploaded, id: Option<RequestId>, out: &mut Vec<u8>) -> Step<M> {
        let Some(upload) = &mut self.upload else {
            Reply::error(ErrorCode::NoUpload, "begin an upload first: a `UC` without `data`")
                .write_to(id.as_ref(), out);
            return self.wait();
        };
        match upload.take(following, record, id) {
            Ok(()) if upload.batch.len() >= MAX_RECORD_BATCH || upload.next == upload.records => self.flush(None),
            Ok(()) => self.wait(),
            Err((id, message)) => {
                Reply::error(ErrorCode::BadCount, message).write_to(id.as_ref(), out);
                self.wait()
            }
        }
    }

    /// Asks to store what has come, if anything has; `deferred` is the line that waits behind it.
    fn flush(mut self, deferred: Option<&str>) -> Step<M> {
        match &mut self.upload {
            Some(upload) if upload.has_unanswered() => {
                let records = mem::take(&mut upload.batch);
                let stored = u32::try_from(records.len()).unwrap_or(u32::MAX);
                let (handle, first) = (upload.handle, upload.next.saturating_sub(stored));
                let then = Appending { member: self, deferred: deferred.map(ToOwned::to_owned) };
                Step::Ask(Question::Append { upload: handle, first, records, then })
            }
            Some(_) | None => self.wait(),
        }
    }

    fn wait(self) -> Step<M> {
        Step::Wait(ServerSession::Member(self))
    }

    fn fail(self, id: Option<&RequestId>, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        report(id, failure, out);
        self.wait()
    }
}

/// Answers a request that the authority could not carry out.
fn report(id: Option<&RequestId>, failure: Failure, out: &mut Vec<u8>) {
    let (code, message) = match failure {
        Failure::Unavailable => (ErrorCode::Unavailable, "the authority cannot do this now; try again later"),
        Failure::RateLimited => (ErrorCode::RateLimited, "too much at once; try again later"),
        Failure::Internal => (ErrorCode::Internal, "a fault of the authority; it has been noted there"),
    };
    Reply::error(code, message).write_to(id, out);
}

/// Answers a request of an account that has been removed, and ends the session: nothing it could ask has an answer.
fn refuse_removed<M>(id: Option<&RequestId>, out: &mut Vec<u8>) -> Step<M> {
    Reply::error(ErrorCode::NoAccount, ACCOUNT_REMOVED).write_to(id, out);
    Step::Close
}

impl OpenUpload {
    /// The place that `following` tells, if a record of that place can be taken.
    ///
    /// A `following` of 0 also stands for a client that does not count: then the record is the next one.
    fn place(&self, following: u32) -> Option<u32> {
        if following == 0 {
            return Some(self.next);
        }
        let place = self.records.checked_sub(following)?.checked_sub(1)?;
        (place <= self.next).then_some(place)
    }

    /// Takes a record at its place: a record that has come before adds nothing.
    fn take(
        &mut self,
        following: u32,
        record: Uploaded,
        id: Option<RequestId>,
    ) -> Result<(), (Option<RequestId>, String)> {
        let Some(place) = self.place(following) else {
            let expected = self.records.saturating_sub(self.next).saturating_sub(1);
            return Err((id, format!("`numOfSend` does not fit: the next record is the one that {expected} follow")));
        };
        if place < self.next {
            self.last_id = id;
            self.owes_acknowledgement = true;
            return Ok(());
        }
        match record {
            Uploaded::Malformed => self.malformed.push((place, id)),
            Uploaded::Record(_) => {
                self.last_id = id;
                self.owes_acknowledgement = true;
            }
        }
        self.batch.push(record);
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    /// Whether records have come that no answer covers yet.
    fn has_unanswered(&self) -> bool {
        self.owes_acknowledgement || !self.malformed.is_empty()
    }
}

/// Takes issued `TempIDs`.
#[derive(Debug)]
pub struct AwaitingTempIds<M> {
    member: Member<M>,
    id: Option<RequestId>,
}

impl<M> AwaitingTempIds<M> {
    /// Who asks.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// These are issued and stored.
    pub fn issued(self, records: Vec<Record>, out: &mut Vec<u8>) -> Step<M> {
        let following = (0..u32::try_from(records.len()).unwrap_or(u32::MAX)).rev();
        for (record, following) in records.into_iter().zip(following) {
            Reply::TempId { following, record }.write_to(self.id.as_ref(), out);
        }
        self.member.wait()
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        refuse_removed(self.id.as_ref(), out)
    }

    /// None is.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        self.member.fail(self.id.as_ref(), failure, out)
    }
}

/// Takes notices.
#[derive(Debug)]
pub struct AwaitingNotices<M> {
    member: Member<M>,
    id: Option<RequestId>,
}

impl<M> AwaitingNotices<M> {
    /// Who asks.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// These are unread, oldest first.
    pub fn unread(mut self, notices: Vec<(NoticeHandle, ExposureNotice)>, out: &mut Vec<u8>) -> Step<M> {
        if notices.is_empty() {
            Reply::Notice { following: 0, notice: None }.write_to(self.id.as_ref(), out);
        }
        let following = (0..u32::try_from(notices.len()).unwrap_or(u32::MAX)).rev();
        for ((handle, notice), following) in notices.into_iter().zip(following) {
            Reply::Notice { following, notice: Some(notice) }.write_to(self.id.as_ref(), out);
            self.member.delivered = Some(handle);
        }
        self.member.wait()
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        refuse_removed(self.id.as_ref(), out)
    }

    /// There is no answer.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        self.member.fail(self.id.as_ref(), failure, out)
    }
}

/// Takes a resume token.
#[derive(Debug)]
pub struct AwaitingToken<M> {
    member: Member<M>,
    id: Option<RequestId>,
}

impl<M> AwaitingToken<M> {
    /// Who asks.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// The token, good until `expires`.
    pub fn made(self, token: ResumeToken, expires: Timestamp, now: Timestamp, out: &mut Vec<u8>) -> Step<M> {
        Reply::ResumeToken { token, expires, now: Some(now) }.write_to(self.id.as_ref(), out);
        self.member.wait()
    }
}

/// Takes the handshake PIN.
#[derive(Debug)]
pub struct AwaitingPin<M> {
    member: Member<M>,
    id: Option<RequestId>,
}

impl<M> AwaitingPin<M> {
    /// Who asks.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// The PIN, which officials see as well until it `expires`.
    pub fn shown(self, pin: HandshakePin, expires: Timestamp, out: &mut Vec<u8>) -> Step<M> {
        Reply::HandshakePin { pin, expires }.write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        refuse_removed(self.id.as_ref(), out)
    }

    /// There is no answer.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        self.member.fail(self.id.as_ref(), failure, out)
    }
}

/// Takes the end.
#[derive(Debug)]
pub struct LoggingOut<M> {
    member: Member<M>,
    id: Option<RequestId>,
}

impl<M> LoggingOut<M> {
    /// Who leaves.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// The session's tokens are void.
    pub fn done(self, out: &mut Vec<u8>) -> Step<M> {
        Reply::LoggedOut.write_to(self.id.as_ref(), out);
        Step::Close
    }

    /// They are not; the client may try again.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        self.member.fail(self.id.as_ref(), failure, out)
    }
}

// ---- Upload (section 4.4)

/// Takes the begin of an upload.
#[derive(Debug)]
pub struct Beginning<M> {
    member: Member<M>,
    id: Option<RequestId>,
    records: u32,
    upload: Option<UploadId>,
}

impl<M> Beginning<M> {
    /// Who uploads.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// The first `durable` records are stored already, 0 of a new upload.
    pub fn begun(mut self, handle: UploadHandle, durable: u32, out: &mut Vec<u8>) -> Step<M> {
        let expected = self.records.saturating_sub(durable);
        if expected == 0 {
            let then = Finishing { member: self.member, id: self.id, upload: self.upload, deferred: None };
            return Step::Ask(Question::Finish { upload: handle, then });
        }
        Reply::Upload { expected, upload: self.upload, summary: None }.write_to(self.id.as_ref(), out);
        self.member.upload = Some(Box::new(OpenUpload {
            handle,
            records: self.records,
            next: durable,
            batch: Vec::new(),
            malformed: Vec::new(),
            owes_acknowledgement: false,
            last_id: None,
        }));
        self.member.wait()
    }

    /// All records are durable, and this came of them.
    pub fn complete(self, summary: UploadSummary, out: &mut Vec<u8>) -> Step<M> {
        Reply::Upload { expected: 0, upload: self.upload, summary: Some(summary) }.write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// An upload of this id was begun with another number of records.
    pub fn conflict(self, records: u32, out: &mut Vec<u8>) -> Step<M> {
        let message = format!("this upload was begun with {records} records; begin another under another id");
        Reply::error(ErrorCode::BadCount, message).write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// The authority requires an upload code, and none was given.
    pub fn not_authorised(self, out: &mut Vec<u8>) -> Step<M> {
        let message = "an upload code of the health authority is needed";
        Reply::error(ErrorCode::UploadNotAuthorised, message).write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// The upload code given is none that this member can use; so many wrong ones are free before there is a pause.
    pub fn code_refused(self, left: u32, out: &mut Vec<u8>) -> Step<M> {
        let tries = if left == 1 { "try" } else { "tries" };
        let message = format!("this upload code is not valid, or used already ({left} {tries} left)");
        Reply::error(ErrorCode::UploadNotAuthorised, message).write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// Too many wrong upload codes were given: none is looked at for so many `seconds`.
    pub fn too_many_codes(self, seconds: i64, out: &mut Vec<u8>) -> Step<M> {
        let message = format!("too many wrong upload codes; the next is looked at in {seconds} s");
        let retry_after_s = u32::try_from(seconds).ok();
        Reply::Error { code: ErrorCode::RateLimited.as_str().to_owned(), message, retry_after_s }
            .write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        refuse_removed(self.id.as_ref(), out)
    }

    /// There is no answer.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        self.member.fail(self.id.as_ref(), failure, out)
    }
}

/// Takes the storing of records.
#[derive(Debug)]
pub struct Appending<M> {
    member: Member<M>,
    deferred: Option<String>,
}

impl<M> Appending<M> {
    /// Who uploads.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// The upload's first `durable` records are stored.
    pub fn stored(mut self, durable: u32, out: &mut Vec<u8>) -> Step<M> {
        let Some(upload) = &mut self.member.upload else { return self.member.wait() };
        // another connection may have brought more
        upload.next = upload.next.max(durable);
        let malformed = mem::take(&mut upload.malformed);
        let last_id = upload.last_id.take();
        let owes_acknowledgement = mem::take(&mut upload.owes_acknowledgement);
        let (handle, expected) = (upload.handle, upload.records.saturating_sub(durable));
        for (place, id) in malformed {
            let message =
                format!("record {place} is not of the form <TempID>, <start>, <expiry>; it is counted as invalid");
            Reply::error(ErrorCode::BadRecord, message).write_to(id.as_ref(), out);
        }
        if expected == 0 {
            self.member.upload = None;
            let then = Finishing { member: self.member, id: last_id, upload: None, deferred: self.deferred };
            return Step::Ask(Question::Finish { upload: handle, then });
        }
        if owes_acknowledgement {
            Reply::Upload { expected, upload: None, summary: None }.write_to(last_id.as_ref(), out);
        }
        proceed(self.member, self.deferred, out)
    }

    /// The authority has forgotten the upload. It is let go, and the client begins it again.
    pub fn no_upload(mut self, out: &mut Vec<u8>) -> Step<M> {
        let id = self.member.upload.take().and_then(|upload| upload.last_id);
        Reply::error(ErrorCode::NoUpload, UPLOAD_FORGOTTEN).write_to(id.as_ref(), out);
        proceed(self.member, self.deferred, out)
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        let id = self.member.upload.and_then(|upload| upload.last_id);
        refuse_removed(id.as_ref(), out)
    }

    /// They are not. The upload is let go, so that records behind the gap are not taken: the client begins it again.
    pub fn failed(mut self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        let id = self.member.upload.take().and_then(|upload| upload.last_id);
        report(id.as_ref(), failure, out);
        proceed(self.member, self.deferred, out)
    }
}

/// Takes what comes of an upload.
#[derive(Debug)]
pub struct Finishing<M> {
    member: Member<M>,
    id: Option<RequestId>,
    upload: Option<UploadId>,
    deferred: Option<String>,
}

impl<M> Finishing<M> {
    /// Who uploads.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// It is complete.
    pub fn finished(self, summary: UploadSummary, out: &mut Vec<u8>) -> Step<M> {
        Reply::Upload { expected: 0, upload: self.upload, summary: Some(summary) }.write_to(self.id.as_ref(), out);
        proceed(self.member, self.deferred, out)
    }

    /// The authority has forgotten the upload: the client begins it again.
    pub fn no_upload(self, out: &mut Vec<u8>) -> Step<M> {
        Reply::error(ErrorCode::NoUpload, UPLOAD_FORGOTTEN).write_to(self.id.as_ref(), out);
        proceed(self.member, self.deferred, out)
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        refuse_removed(self.id.as_ref(), out)
    }

    /// It is not; every record is durable, and the client begins it again to learn the rest.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        report(self.id.as_ref(), failure, out);
        proceed(self.member, self.deferred, out)
    }
}

/// Goes on with the line that waited behind an upload's records.
fn proceed<M>(member: Member<M>, deferred: Option<String>, out: &mut Vec<u8>) -> Step<M> {
    match deferred {
        Some(line) => member.line(&line, out),
        None => member.wait(),
    }
}

/// What a session of an account that has been removed is told, with [`ErrorCode::NoAccount`].
pub const ACCOUNT_REMOVED: &str = "this account no longer exists at this authority";

/// What is said of records of an upload that the authority has forgotten, with [`ErrorCode::NoUpload`].
pub const UPLOAD_FORGOTTEN: &str = "the authority has forgotten this upload; begin it again";
