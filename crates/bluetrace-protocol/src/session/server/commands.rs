//! Owns what a session does for whom it has let in (section 4.3): [`Member`] waits for commands, and the types beside it for the
//! authority's answers. Uploads stand in `upload`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::upload::{Beginning, OpenUpload};
use super::{ACCOUNT_REMOVED, Failure, NoticeHandle, Question, ServerSession, Step};
use crate::identity::{HandshakePin, ResumeToken};
use crate::limits::MAX_BAD_LINES;
use crate::message::{BadRequest, Command, ErrorCode, Reply, Request, RequestId};
use crate::record::Record;
use crate::time::Timestamp;
use crate::upload::ExposureNotice;

/// Waits for commands.
#[derive(Debug)]
pub struct Member<M> {
    pub(super) who: M,
    /// The last notice delivered on this session and not yet known to be read.
    pub(super) delivered: Option<NoticeHandle>,
    /// Lines in a row that were not JSON.
    bad_lines: u32,
    /// The upload begun last, until all its records are durable.
    pub(super) upload: Option<Box<OpenUpload>>,
}

impl<M> Member<M> {
    /// A member with nothing under way.
    pub(super) const fn new(who: M) -> Self {
        Self { who, delivered: None, bad_lines: 0, upload: None }
    }

    pub(super) fn line(mut self, line: &str, out: &mut Vec<u8>) -> Step<M> {
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

    pub(super) fn wait(self) -> Step<M> {
        Step::Wait(ServerSession::Member(self))
    }

    pub(super) fn fail(self, id: Option<&RequestId>, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        report(id, failure, out);
        self.wait()
    }
}

/// Answers a request that the authority could not carry out.
pub(super) fn report(id: Option<&RequestId>, failure: Failure, out: &mut Vec<u8>) {
    let (code, message) = match failure {
        Failure::Unavailable => (ErrorCode::Unavailable, "the authority cannot do this now; try again later"),
        Failure::RateLimited => (ErrorCode::RateLimited, "too much at once; try again later"),
        Failure::Internal => (ErrorCode::Internal, "a fault of the authority; it has been noted there"),
    };
    Reply::error(code, message).write_to(id, out);
}

/// Answers a request of an account that has been removed, and ends the session: nothing it could ask has an answer.
pub(super) fn refuse_removed<M>(id: Option<&RequestId>, out: &mut Vec<u8>) -> Step<M> {
    Reply::error(ErrorCode::NoAccount, ACCOUNT_REMOVED).write_to(id, out);
    Step::Close
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
