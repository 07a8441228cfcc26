//! Owns the device's dealings with the authority: login, coming back, `TempIDs`, notices, logout.

use std::io;
use std::time::Duration;

use bluetrace_protocol::session::client::{Asked, ClientSession, Event};
use bluetrace_protocol::{ExposureNotice, Password, Record, ResumeToken, Timestamp};
use tokio::time::Instant;

use super::engine::{Engine, Logout};
use super::event::{DeviceEvent, End};
use super::explain;
use super::outbox::Done;
use crate::uplink::{ConnectError, UplinkEvent};
use crate::words::in_words;

/// A resume token with its times.
#[derive(Debug)]
pub(super) struct Token {
    text: ResumeToken,
    renew_at: Instant,
    ends_at: Instant,
}

/// A session whose requests bear whom to tell: nobody for what the device asks by itself.
pub(super) type Session = ClientSession<Option<Done>>;

impl Engine {
    pub(super) fn on_uplink(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::WaitOver => self.uplink.connect(),
            UplinkEvent::Connected(new) => {
                if let Some((server, fingerprint, file)) = new {
                    self.outbox.tell(DeviceEvent::ServerTrusted { server, fingerprint, file });
                }
                self.quiet_since = Instant::now();
                let token = self.token.as_ref().filter(|token| Instant::now() < token.ends_at);
                if token.is_none() {
                    self.book.doubt();
                }
                let session = match token {
                    Some(token) => ClientSession::resume(&token.text, &mut self.uplink.out),
                    None => ClientSession::login(&self.username, &mut self.uplink.out),
                };
                self.session = Some(session);
            }
            UplinkEvent::Failed(ConnectError::CertificateChanged(changed)) => {
                self.end = Some(End::CertificateChanged(changed));
            }
            UplinkEvent::Failed(error) => self.on_lost(&explain(&error)),
            UplinkEvent::Lost(Some(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                self.on_lost(&in_words(error));
            }
            // a TLS server that is killed ends without the farewell of a proper close
            UplinkEvent::Lost(_) => self.on_lost("the server closed the connection"),
            UplinkEvent::Received(length) => self.on_received(length),
            UplinkEvent::Drained => {
                if self.logout.is_none()
                    && let Some(session) = &mut self.session
                {
                    session.poll_upload(&mut self.uplink.out);
                }
            }
        }
    }

    fn on_received(&mut self, length: usize) {
        self.quiet_since = Instant::now();
        let Some(session) = &mut self.session else { return };
        let (input, out) = self.uplink.input_and_out(length);
        match session.receive(input, out) {
            Ok(events) => {
                for event in events {
                    // an event may have ended the connection, and with it the others
                    if self.session.is_some() && self.end.is_none() {
                        self.on_session_event(event);
                    }
                }
            }
            Err(error) => self.on_lost(&error.to_string()),
        }
    }

    fn on_session_event(&mut self, event: Event<Option<Done>>) {
        match event {
            Event::PasswordRequired => self.send_password(),
            Event::WrongPassword { text } if !self.was_welcomed() => {
                self.password = None;
                self.lacks_password = true;
                self.outbox.tell(DeviceEvent::WrongPassword { text });
                self.outbox.done(self.login_done.take());
            }
            Event::WrongPassword { .. } => self.end = Some(End::PasswordChanged),
            Event::BlockedNow { text } | Event::Blocked { text } => {
                // someone else's guesses block logins, and with them a device whose token ended meanwhile: it tries again
                if self.was_welcomed() { self.on_lost(&text) } else { self.end = Some(End::Blocked { text }) }
            }
            Event::SessionExpired => {
                self.token = None;
                self.book.doubt();
                if let Some(session) = &mut self.session {
                    session.username(&self.username, &mut self.uplink.out);
                }
            }
            Event::Refused { code, text } => {
                let lasting = code == 530 || !self.was_welcomed() && !self.lacks_password;
                if lasting { self.end = Some(End::Refused { text }) } else { self.on_lost(&text) }
            }
            // whatever else was asked has no answer either, nor would it have one on another connection
            Event::NoAccount => self.end = Some(End::NoAccount),
            Event::Welcome => self.on_welcome(),
            Event::TempIds { records, tag } => self.on_temp_ids(records, tag),
            Event::Notices { notices, tag } => self.on_notices(notices, tag),
            Event::ResumeToken { token, expires, now, tag: _ } => self.on_token(token, expires, now),
            Event::UploadBegun { acknowledged, total } => self.on_upload_begun(acknowledged, total),
            Event::UploadProgress { acknowledged, total } => self.on_upload_progress(acknowledged, total),
            Event::RecordRefused { message } => self.outbox.tell_if_room(|| DeviceEvent::RecordRefused { message }),
            Event::UploadComplete(summary) => self.on_upload_complete(summary),
            Event::UploadFailed { code, message, retry_after_s } => {
                let retry_after = retry_after_s.map(|seconds| Duration::from_secs(seconds.into()));
                self.on_upload_failed(&code, message, retry_after);
            }
            Event::HandshakePin { pin, expires, tag } => {
                self.outbox.tell(DeviceEvent::HandshakePin { pin, expires });
                self.outbox.done(tag);
            }
            Event::LoggedOut { .. } => self.end = Some(End::LoggedOut),
            Event::RequestFailed { request, tag, message, .. } => self.on_request_failed(request, tag, &message),
        }
    }

    /// A password from the user. The connection may have been closed while it was typed.
    pub(super) fn on_password(&mut self, password: Password, done: Done) {
        if self.was_welcomed() {
            return self.outbox.done(Some(done));
        }
        self.login_done = Some(done);
        self.password = Some(password);
        if self.session.is_none() {
            self.lacks_password = false;
            self.uplink.connect();
        } else if self.lacks_password {
            self.send_password();
        }
    }

    fn send_password(&mut self) {
        let Some(session) = &mut self.session else { return };
        self.quiet_since = Instant::now();
        self.lacks_password = self.password.is_none();
        match &self.password {
            Some(password) => session.password(password, &mut self.uplink.out),
            None => self.outbox.tell(DeviceEvent::PasswordRequired),
        }
    }

    fn on_welcome(&mut self) {
        if let Err(error) = self.take_files() {
            self.end = Some(End::NoFiles(Box::new(error)));
            return;
        }
        self.backoff.reset();
        let before = self.welcomed_by.replace(self.uplink.server().clone());
        self.outbox.tell(match before {
            None => DeviceEvent::Welcome,
            Some(before) => DeviceEvent::Resumed { moved_to: self.welcomed_by.clone().filter(|now| *now != before) },
        });
        self.ask_token();
        self.refill();
        self.ask_notices(None);
        self.begin_upload();
        if !self.awaits(Asked::Download) {
            self.outbox.done(self.login_done.take());
        }
    }

    /// The connection is over, or there was none to be had.
    pub(super) fn on_lost(&mut self, why: &str) {
        let session = self.session.take();
        self.uplink.close();
        if self.logout.is_some() {
            self.end = Some(End::LeftOffline { why: why.to_owned() });
            return;
        }
        for (request, done) in session.into_iter().flat_map(ClientSession::into_unanswered) {
            self.give_up(request, done, why);
        }
        self.on_upload_interrupted();
        self.outbox.done(self.login_done.take().filter(|_| self.was_welcomed()));
        if !self.was_welcomed() {
            // while a person types, the server may lose patience: the password goes over a new connection
            if !self.lacks_password {
                self.end = Some(End::LoginLost { why: why.to_owned() });
            }
            return;
        }
        let was_connected = !self.backoff.has_failures();
        let wait = self.backoff.next_wait(&mut self.generator);
        self.retry_at = Instant::now() + wait;
        self.uplink.wait_until(self.retry_at);
        if was_connected {
            self.outbox.tell(DeviceEvent::Disconnected { why: why.to_owned(), retry_in: wait });
        }
    }

    /// Tells who asked that there is no answer.
    fn give_up(&mut self, request: Asked, done: Option<Done>, why: &str) {
        let Some(done) = done else { return };
        if request == Asked::Download {
            return self.no_fresh_temp_id(why, done);
        }
        self.outbox.tell(DeviceEvent::RequestFailed { why: why.to_owned() });
        self.outbox.done(Some(done));
    }

    fn on_request_failed(&mut self, request: Asked, done: Option<Done>, message: &str) {
        if request == Asked::Download && done.is_none() {
            self.refill_at = Instant::now() + REFILL_AGAIN;
            return self.outbox.done(self.login_done.take());
        }
        self.give_up(request, done, message);
    }

    fn is_member(&self) -> bool {
        self.logout.is_none() && self.session.as_ref().is_some_and(ClientSession::is_member)
    }

    /// The session and where its requests go, if requests can be made of it.
    pub(super) fn member(&mut self) -> Option<(&mut Session, &mut Vec<u8>)> {
        if self.is_member() { self.session.as_mut().map(|session| (session, &mut self.uplink.out)) } else { None }
    }

    fn ask_token(&mut self) {
        if let Some((session, out)) = self.member() {
            session.resume_token(None, out);
        }
    }

    fn on_token(&mut self, token: ResumeToken, expires: Timestamp, server_now: Option<Timestamp>) {
        let mut now = self.now();
        if let Some(server_now) = server_now {
            // one second is what rounding and the way here make of two clocks that agree
            if server_now.seconds_since(now).abs() > 1 {
                let wall = self.wall();
                self.clock.learn(server_now, wall);
            }
            now = server_now;
        }
        let lifetime = Duration::from_secs(u64::try_from(expires.seconds_since(now)).unwrap_or_default());
        let instant = Instant::now();
        let is_longer = self.token.as_ref().is_none_or(|held| held.ends_at + RENEW_AGAIN < instant + lifetime);
        // near the end of its session a token cannot be renewed: then the password is what is left
        let wait = if is_longer { (lifetime / 2).max(RENEW_AGAIN) } else { lifetime + RENEW_WAIT };
        self.token = Some(Token { text: token, renew_at: instant + wait, ends_at: instant + lifetime });
    }

    /// Asks for `TempIDs` if the book says so. One request at a time.
    fn refill(&mut self) {
        if !self.downloads || self.awaits(Asked::Download) || Instant::now() < self.refill_at {
            return;
        }
        let now = self.now();
        let Some(count) = self.book.should_download(now) else { return };
        if let Some((session, out)) = self.member() {
            session.download(count, None, out);
        }
    }

    fn awaits(&self, request: Asked) -> bool {
        self.session.as_ref().is_some_and(|session| session.awaits(request))
    }

    pub(super) fn on_download(&mut self, done: Done) {
        match self.member() {
            Some((session, out)) => session.download(1, Some(done), out),
            None => self.no_fresh_temp_id("the authority is away", done),
        }
    }

    fn no_fresh_temp_id(&mut self, why: &str, done: Done) {
        let now = self.now();
        let why = why.to_owned();
        self.outbox.tell(match self.book.current(now) {
            Some(record) => DeviceEvent::TempIdHeld { record: record.clone(), why },
            None => DeviceEvent::TempIdFailed { why },
        });
        self.outbox.done(Some(done));
    }

    fn on_temp_ids(&mut self, records: Vec<Record>, done: Option<Done>) {
        // the first window contains the server's time; ours is as near as it gets to it
        if let Some(first) = records.first() {
            let wall = self.wall();
            self.clock.learn_within(first.window, wall);
        }
        let now = self.now();
        let count = records.len();
        let first = records.first().cloned();
        self.book.add(records, now);
        match (done, self.book.covers_until(now)) {
            (Some(done), _) => {
                // what is told is what will be shown
                if let Some(record) = self.book.current(now).cloned().or(first) {
                    self.outbox.tell(DeviceEvent::TempIdIssued(record));
                }
                self.outbox.done(Some(done));
            }
            (None, Some(until)) => {
                self.outbox.tell(DeviceEvent::TempIdsRefilled { count, until });
                self.outbox.done(self.login_done.take());
            }
            (None, None) => {
                // windows that do not hold the present, although the first should: not to be asked for in a loop
                self.refill_at = Instant::now() + REFILL_AGAIN;
                self.outbox.done(self.login_done.take());
            }
        }
    }

    fn ask_notices(&mut self, done: Option<Done>) {
        self.notices_at = Instant::now() + self.notices_every;
        if let Some((session, out)) = self.member() {
            session.notices(done, out);
        }
    }

    fn on_notices(&mut self, notices: Vec<ExposureNotice>, done: Option<Done>) {
        // asking again says that these have arrived, and brings what did not fit
        let asks_again = !notices.is_empty();
        if done.is_some() || asks_again {
            let now = self.now();
            self.outbox.tell(DeviceEvent::Notices { notices, now });
        }
        self.outbox.done(done);
        if asks_again {
            self.ask_notices(None);
        }
    }

    pub(super) fn on_notices_wanted(&mut self, done: Done) {
        if self.is_member() {
            self.ask_notices(Some(done));
        } else {
            self.outbox.tell(DeviceEvent::RequestFailed { why: "the authority is away".into() });
            self.outbox.done(Some(done));
        }
    }

    pub(super) fn on_pin_wanted(&mut self, done: Done) {
        if let Some((session, out)) = self.member() {
            session.handshake_pin(Some(done), out);
        } else {
            self.outbox.tell(DeviceEvent::RequestFailed { why: "the authority is away".into() });
            self.outbox.done(Some(done));
        }
    }

    pub(super) fn on_logout(&mut self, done: Done) {
        if self.logout.is_some() {
            // told twice: now
            self.end = Some(End::LeftOffline { why: "it had not answered yet".into() });
            return self.outbox.done(Some(done));
        }
        self.password = None;
        if let Some((session, out)) = self.member() {
            session.logout(None, out);
        } else if self.was_welcomed() {
            self.end = Some(End::LeftOffline { why: "the authority is away".into() });
        } else {
            // there is nothing to log out of
            self.end = Some(End::Abandoned);
        }
        self.logout = Some(Logout { done, deadline: Instant::now() + LOGOUT_TIMEOUT });
    }

    /// What is due in a session as time goes by.
    pub(super) fn tend_session(&mut self) {
        let instant = Instant::now();
        if self.logout.as_ref().is_some_and(|logout| logout.deadline <= instant) {
            self.end = Some(End::LeftOffline { why: "it did not answer".into() });
            return;
        }
        let Some(session) = &self.session else { return };
        let is_member = session.is_member();
        let awaits_answer =
            if is_member { session.awaits_answer() || self.is_upload_running() } else { !self.lacks_password };
        let patience = if is_member { ANSWER_TIMEOUT } else { LOGIN_TIMEOUT };
        if !awaits_answer {
            self.quiet_since = instant;
        } else if instant.duration_since(self.quiet_since) > patience {
            return self.on_lost(&format!("no answer for {} s", patience.as_secs()));
        }
        if !is_member {
            return;
        }
        let token_due = self.token.as_ref().is_some_and(|token| token.renew_at <= instant);
        if token_due && !self.awaits(Asked::ResumeToken) {
            self.ask_token();
        }
        if self.notices_at <= instant && !self.awaits(Asked::Notices) {
            self.ask_notices(None);
        }
        self.refill();
    }
}

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a login may take: passwords queue when many come at once.
const LOGIN_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a logout may take.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(3);

/// The least time between two requests for a token.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// The time after a token's end until another is asked for, where the last one could not be renewed.
const RENEW_WAIT: Duration = Duration::from_mins(5);

/// The time between two requests for `TempIDs` when the first did not help.
const REFILL_AGAIN: Duration = Duration::from_secs(10);
