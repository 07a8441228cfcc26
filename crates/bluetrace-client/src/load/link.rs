//! Owns the border between a device of a load and how it speaks to the authority: [`Link`], one step at a time, and [`Failure`], what
//! a device does when a step fails. Over TCP it is [`super::lines`], over HTTP [`super::http`].

use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::{ContactLogEntry, Password, Record, UploadId, UploadSummary, Username};

use super::tally::Measured;
use crate::uplink::ConnectError;

/// One device's way to speak to the authority. It keeps what it needs to come back without a password.
///
/// A step that is given up half-way leaves the link of no use until [`Link::close`].
pub(super) trait Link: Send {
    /// Whether it can come in without a password.
    fn has_session(&self) -> bool;

    /// Connects where it has to, and logs in or goes on with its session: [`Measured::Login`] or [`Measured::Resume`].
    fn enter(&mut self, account: &Account) -> impl Future<Output = Result<Measured, Failure>> + Send;

    /// Fetches `TempIDs`, 1 to 100.
    fn temp_ids(&mut self, count: u32) -> impl Future<Output = Result<Vec<Record>, Failure>> + Send;

    /// Uploads records, or goes on with them where an earlier step came to its end. `progress` is told how many of the first
    /// records are durable whenever that is heard.
    fn upload(
        &mut self,
        id: &UploadId,
        records: &Arc<[ContactLogEntry]>,
        progress: impl FnMut(u32) + Send,
    ) -> impl Future<Output = Result<UploadSummary, Failure>> + Send;

    /// Asks for an upload that was complete, sending nothing of it. `blanks` are as many records as it has.
    fn standing(
        &mut self,
        id: &UploadId,
        blanks: &Arc<[ContactLogEntry]>,
    ) -> impl Future<Output = Result<Standing, Failure>> + Send;

    /// Logs out.
    fn leave(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Waits, between two steps, for a loss of the connection that ends what [`Link::enter`] began.
    fn lost(&mut self) -> impl Future<Output = Failure> + Send;

    /// Gives the connection up. The next one is to the next of several servers.
    fn close(&mut self);
}

/// Whose device it is.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) username: Username,
    pub(super) password: Password,
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// How many of its first records are durable.
    pub(super) durable: u32,
    pub(super) is_complete: bool,
}

/// Why a step came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    /// Its kind, for the report. Holds nothing about a person.
    pub(super) why: String,
    pub(super) then: Then,
}

/// What a device does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Comes in again on another connection, after this time at the least.
    ComeBack(Duration),
    /// Does the same again on this connection, after this time at the least.
    AskAgain(Duration),
    /// Lets it be: it would be refused another time as well.
    LetBe,
    /// Ends: there is no way on.
    End,
}

impl Failure {
    pub(super) fn come_back(why: impl Into<String>) -> Self {
        Self { why: why.into(), then: Then::ComeBack(Duration::ZERO) }
    }

    pub(super) fn end(why: impl Into<String>) -> Self {
        Self { why: why.into(), then: Then::End }
    }
}

impl From<&ConnectError> for Failure {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::CertificateChanged(_) | ConnectError::KnownServers { .. } => {
                Self::end("certificate cannot be trusted")
            }
            ConnectError::Unreachable { source, .. } => Self::come_back(format!("cannot connect: {}", source.kind())),
            ConnectError::NoAddress { .. } => Self::come_back("cannot connect: no address"),
            ConnectError::Tls { .. } => Self::come_back("cannot connect: no TLS"),
            ConnectError::AllFailed(_) => Self::come_back("cannot connect: to no server"),
        }
    }
}

/// How long an answer may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
