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

mod commands;
mod login;
mod upload;

use alloc::format;
use alloc::vec::Vec;

pub use self::commands::{AwaitingNotices, AwaitingPin, AwaitingTempIds, AwaitingToken, LoggingOut, Member};
use self::login::say;
pub use self::login::{Authenticating, AwaitingPassword, AwaitingUsername, Resuming};
pub use self::upload::{Appending, Beginning, Finishing};
use crate::frame::FrameError;
use crate::identity::{Password, ResumeToken, Username};
use crate::message::{BeginUpload, ErrorCode, Reply};
use crate::upload::Uploaded;

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

/// What a session of an account that has been removed is told, with [`ErrorCode::NoAccount`].
pub const ACCOUNT_REMOVED: &str = "this account no longer exists at this authority";

/// What is said of records of an upload that the authority has forgotten, with [`ErrorCode::NoUpload`].
pub const UPLOAD_FORGOTTEN: &str = "the authority has forgotten this upload; begin it again";
