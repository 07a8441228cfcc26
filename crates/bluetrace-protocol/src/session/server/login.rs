//! Owns the login of a session (section 4.2): a username and its password, or a resume token.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::commands::Member;
use super::{Failure, Question, ServerSession, Step};
use crate::identity::{Password, ResumeToken, Username};

/// Waits for a username, or for `RESUME` and a token.
#[derive(Debug)]
pub struct AwaitingUsername;

impl AwaitingUsername {
    pub(super) fn line<M>(line: &str, out: &mut Vec<u8>) -> Step<M> {
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

/// Waits for a password of a username.
#[derive(Debug)]
pub struct AwaitingPassword {
    username: Username,
}

impl AwaitingPassword {
    pub(super) fn line<M>(self, line: &str, out: &mut Vec<u8>) -> Step<M> {
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
    Step::Wait(ServerSession::Member(Member::new(who)))
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
pub(super) fn say(out: &mut Vec<u8>, code: u16, text: &str) {
    let mut line = String::with_capacity(text.len().saturating_add(5));
    // writing to a string does not fail
    _ = writeln!(line, "{code} {text}");
    out.extend_from_slice(line.as_bytes());
}
