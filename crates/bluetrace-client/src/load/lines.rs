//! Owns how a device of a load speaks over TCP: [`LineLink`], a person's device's session and way to the server, a step at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::message::ErrorCode;
use bluetrace_protocol::session::client::{ClientSession, Event};
use bluetrace_protocol::{ContactLogEntry, Record, ResumeToken, UploadId, UploadSummary};
use tokio::time::timeout;

use super::link::{ANSWER_TIMEOUT, Account, Failure, Link, Standing, Then};
use super::tally::Measured;
use crate::uplink::{Uplink, UplinkEvent};

#[derive(Debug)]
pub(super) struct LineLink {
    uplink: Uplink,
    session: Option<ClientSession<()>>,
    token: Option<ResumeToken>,
    /// What the server has said beyond what was looked at.
    heard: VecDeque<Heard>,
}

/// What a server says while all is well.
#[derive(Debug)]
enum Heard {
    PasswordRequired,
    SessionExpired,
    Welcome,
    TempIds(Vec<Record>),
    Durable(u32),
    Complete(UploadSummary),
    LoggedOut,
}

impl LineLink {
    pub(super) const fn new(uplink: Uplink) -> Self {
        Self { uplink, session: None, token: None, heard: VecDeque::new() }
    }

    /// The session, and where it writes.
    fn session(&mut self) -> Result<(&mut ClientSession<()>, &mut Vec<u8>), Failure> {
        let session = self.session.as_mut().ok_or_else(|| Failure::come_back(CLOSED))?;
        Ok((session, &mut self.uplink.out))
    }

    /// Waits for what the server says next, so long without any sign of it.
    async fn hear(&mut self, patience: Duration) -> Result<Heard, Failure> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            match timeout(patience, self.uplink.event()).await.map_err(|_| Failure::come_back("no answer"))? {
                UplinkEvent::Received(length) => self.on_received(length)?,
                UplinkEvent::Drained => {
                    let (session, out) = self.session()?;
                    session.poll_upload(out);
                }
                UplinkEvent::Lost(Some(error)) => {
                    return Err(Failure::come_back(format!("connection lost: {}", error.kind())));
                }
                UplinkEvent::Lost(None) | UplinkEvent::WaitOver => return Err(Failure::come_back(CLOSED)),
                UplinkEvent::Failed(error) => return Err(Failure::from(&error)),
                UplinkEvent::Connected(_) => {}
            }
        }
    }

    fn on_received(&mut self, length: usize) -> Result<(), Failure> {
        let Some(session) = &mut self.session else { return Err(Failure::come_back(CLOSED)) };
        let (input, out) = self.uplink.input_and_out(length);
        let events = session.receive(input, out);
        for event in events.map_err(|_| Failure::come_back("the server does not speak the protocol"))? {
            if let Some(heard) = self.on_event(event)? {
                self.heard.push_back(heard);
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event<()>) -> Result<Option<Heard>, Failure> {
        Ok(Some(match event {
            Event::PasswordRequired => Heard::PasswordRequired,
            Event::SessionExpired => Heard::SessionExpired,
            Event::Welcome => Heard::Welcome,
            Event::TempIds { records, .. } => Heard::TempIds(records),
            Event::UploadBegun { acknowledged, .. } | Event::UploadProgress { acknowledged, .. } => {
                Heard::Durable(acknowledged)
            }
            Event::UploadComplete(summary) => Heard::Complete(summary),
            Event::LoggedOut { .. } => Heard::LoggedOut,
            Event::ResumeToken { token, .. } => {
                self.token = Some(token);
                return Ok(None);
            }
            // the summary counts such records; the others are never asked for
            Event::RecordRefused { .. } | Event::Notices { .. } | Event::HandshakePin { .. } => return Ok(None),
            Event::WrongPassword { .. } => return Err(Failure::end("wrong password")),
            Event::BlockedNow { .. } | Event::Blocked { .. } => return Err(Failure::end("account blocked")),
            Event::NoAccount => return Err(Failure::end("account removed")),
            Event::Refused { code: 421, .. } => return Err(Failure::come_back("turned away (421)")),
            Event::Refused { code, .. } => return Err(Failure::end(format!("refused ({code})"))),
            Event::RequestFailed { code, .. } => return Err(Failure::come_back(code)),
            Event::UploadFailed { code, retry_after_s, .. } => {
                let is_for_now =
                    [ErrorCode::Unavailable, ErrorCode::RateLimited].iter().any(|known| known.as_str() == code);
                let wait = Duration::from_secs(retry_after_s.unwrap_or(0).into());
                return Err(Failure { why: code, then: if is_for_now { Then::ComeBack(wait) } else { Then::LetBe } });
            }
        }))
    }
}

impl Link for LineLink {
    fn has_session(&self) -> bool {
        self.token.is_some()
    }

    async fn enter(&mut self, account: &Account) -> Result<Measured, Failure> {
        self.heard.clear();
        self.uplink.connect();
        match self.uplink.event().await {
            UplinkEvent::Connected(_) => {}
            UplinkEvent::Failed(error) => return Err(Failure::from(&error)),
            UplinkEvent::WaitOver | UplinkEvent::Received(_) | UplinkEvent::Drained | UplinkEvent::Lost(_) => {
                return Err(Failure::come_back(CLOSED));
            }
        }
        let out = &mut self.uplink.out;
        let (session, mut how) = match &self.token {
            Some(token) => (ClientSession::resume(token, out), Measured::Resume),
            None => (ClientSession::login(&account.username, out), Measured::Login),
        };
        self.session = Some(session);
        loop {
            match self.hear(ANSWER_TIMEOUT).await? {
                Heard::PasswordRequired => {
                    let (session, out) = self.session()?;
                    session.password(&account.password, out);
                }
                Heard::SessionExpired => {
                    how = Measured::Login;
                    self.token = None;
                    let (session, out) = self.session()?;
                    session.username(&account.username, out);
                }
                Heard::Welcome => {
                    // its answer is taken whenever it comes
                    let (session, out) = self.session()?;
                    session.resume_token((), out);
                    return Ok(how);
                }
                Heard::TempIds(_) | Heard::Durable(_) | Heard::Complete(_) | Heard::LoggedOut => {}
            }
        }
    }

    async fn temp_ids(&mut self, count: u32) -> Result<Vec<Record>, Failure> {
        let (session, out) = self.session()?;
        session.download(count, (), out);
        loop {
            if let Heard::TempIds(records) = self.hear(ANSWER_TIMEOUT).await? {
                return Ok(records);
            }
        }
    }

    async fn upload(
        &mut self,
        id: &UploadId,
        records: &Arc<[ContactLogEntry]>,
        mut progress: impl FnMut(u32) + Send,
    ) -> Result<UploadSummary, Failure> {
        let (session, out) = self.session()?;
        session.upload(id, Arc::clone(records), out);
        loop {
            let heard = self.hear(ANSWER_TIMEOUT).await?;
            if let Heard::Durable(durable) = heard {
                progress(durable);
            } else if let Heard::Complete(summary) = heard {
                return Ok(summary);
            }
        }
    }

    async fn standing(&mut self, id: &UploadId, blanks: &Arc<[ContactLogEntry]>) -> Result<Standing, Failure> {
        let (session, out) = self.session()?;
        session.upload(id, Arc::clone(blanks), out);
        loop {
            let heard = self.hear(ANSWER_TIMEOUT).await?;
            if let Heard::Durable(durable) = heard {
                // the session would go on with the blanks
                self.close();
                return Ok(Standing { durable, is_complete: false });
            } else if let Heard::Complete(UploadSummary { records, .. }) = heard {
                return Ok(Standing { durable: records, is_complete: true });
            }
        }
    }

    async fn leave(&mut self) -> Result<(), Failure> {
        let (session, out) = self.session()?;
        session.logout((), out);
        while !matches!(self.hear(ANSWER_TIMEOUT).await?, Heard::LoggedOut) {}
        Ok(())
    }

    async fn lost(&mut self) -> Failure {
        loop {
            if let Err(failure) = self.hear(Duration::MAX).await {
                return failure;
            }
        }
    }

    fn close(&mut self) {
        self.session = None;
        self.heard.clear();
        self.uplink.close();
    }
}

const CLOSED: &str = "connection lost: closed";
