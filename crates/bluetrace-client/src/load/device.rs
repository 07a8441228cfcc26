//! Owns one device of a load: it logs in, comes back when it is cut off, fetches `TempIDs` and uploads; and in the end asks again for
//! each upload that the authority said was complete.

use std::mem;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bluetrace_protocol::message::ErrorCode;
use bluetrace_protocol::session::client::{Asked, ClientSession, Event};
use bluetrace_protocol::{Backoff, ContactLogEntry, Password, ResumeToken, UploadId, UploadSummary, Username};
use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use rand::seq::IndexedRandom as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::tally::{Measured, Tally};
use super::{Shared, until};
use crate::device::random_upload_id;
use crate::uplink::{ConnectError, Uplink, UplinkEvent};

pub(super) struct LoadDevice {
    shared: Arc<Shared>,
    username: Username,
    password: Password,
    generator: ChaCha12Rng,

    uplink: Uplink,
    backoff: Backoff,
    session: Option<ClientSession<Instant>>,
    token: Option<ResumeToken>,
    /// How it logs in on this connection, and since when.
    login: (Measured, Instant),
    has_temp_ids: bool,
    /// When the server was last heard, or something new was asked of it.
    heard_at: Instant,

    work: Work,
    /// Whether the upload of `work` has been begun on this connection.
    is_begun: bool,
    next_upload: Instant,
    uploads_left: u32,
    /// Uploads that are complete, as the authority has said.
    complete: Vec<UploadId>,
    /// How many of them have been asked for again.
    confirmed: usize,
    /// What is not finished then is let be.
    gives_up_at: Option<Instant>,
}

/// What a device is about.
#[derive(Debug)]
enum Work {
    /// To wait for the time of its next upload.
    Wait,
    Upload(Running),
    /// To hear once more that what it uploaded is complete.
    Confirm,
    End,
}

/// An upload that is not complete.
#[derive(Debug)]
struct Running {
    id: UploadId,
    records: Arc<[ContactLogEntry]>,
    begun: Instant,
    acknowledged: u32,
}

impl LoadDevice {
    pub(super) fn new(
        shared: Arc<Shared>,
        uplink: Uplink,
        (username, password): (Username, Password),
        generator: ChaCha12Rng,
        first_upload: Instant,
    ) -> Self {
        Self {
            username,
            password,
            generator,
            uplink,
            backoff: Backoff::new(),
            session: None,
            token: None,
            login: (Measured::Login, first_upload),
            has_temp_ids: false,
            heard_at: first_upload,
            work: Work::Wait,
            is_begun: false,
            next_upload: first_upload,
            uploads_left: shared.plan.uploads.unwrap_or(u32::MAX),
            complete: Vec::new(),
            confirmed: 0,
            gives_up_at: shared.ends_at.map(|end| end + GRACE),
            shared,
        }
    }

    /// Runs to the end of the plan.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let shared = Arc::clone(&self.shared);
        // a storm of passwords is not what is to be measured
        let mut turn = tokio::select! {
            turn = shared.logins.acquire() => turn.ok(),
            _ = stop.wait_for(|stopped| *stopped) => None,
        };
        self.connect();
        let mut is_stopped = false;
        while !matches!(self.work, Work::End) {
            let due_at = self.due_at();
            tokio::select! {
                event = self.uplink.event() => self.on_uplink(event),
                () = until(due_at) => self.on_time(),
                _ = stop.wait_for(|stopped| *stopped), if !is_stopped => {
                    is_stopped = true;
                    self.stop();
                }
            }
            if self.is_member() {
                turn = None;
            }
        }
        drop(turn);
        self.go_offline();
        let unconfirmed = self.complete.len().saturating_sub(self.confirmed);
        self.tally().count(|counts| {
            counts.ended += 1;
            counts.unconfirmed += u64::try_from(unconfirmed).unwrap_or(u64::MAX);
        });
    }

    fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    fn is_member(&self) -> bool {
        self.session.as_ref().is_some_and(ClientSession::is_member)
    }

    // ---- Time

    /// When there is something to do, if nothing happens before.
    fn due_at(&self) -> Option<Instant> {
        let answer = self.awaits_something().then(|| self.heard_at + ANSWER_TIMEOUT);
        let is_waiting = self.is_member() && matches!(self.work, Work::Wait);
        let next = is_waiting.then(|| self.shared.ends_at.map_or(self.next_upload, |end| end.min(self.next_upload)));
        [answer, next, self.gives_up_at].into_iter().flatten().min()
    }

    fn awaits_something(&self) -> bool {
        let awaits = |session: &ClientSession<_>| !session.is_member() || session.awaits_answer() || self.is_begun;
        self.session.as_ref().is_some_and(awaits)
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.gives_up_at.is_some_and(|at| at <= now) {
            self.end("not finished in time");
        } else if self.awaits_something() && self.heard_at + ANSWER_TIMEOUT <= now {
            self.on_lost("no answer");
        } else {
            self.proceed();
        }
    }

    /// No further upload is begun.
    fn stop(&mut self) {
        self.uploads_left = 0;
        let end = Instant::now() + GRACE;
        self.gives_up_at = Some(self.gives_up_at.map_or(end, |at| at.min(end)));
        if self.token.is_none() && !self.is_member() {
            // it has done nothing yet that could be confirmed
            self.work = Work::End;
        }
        self.proceed();
    }

    // ---- The way to the server

    fn connect(&mut self) {
        self.login.1 = Instant::now();
        self.uplink.connect();
    }

    fn on_uplink(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::WaitOver => self.connect(),
            UplinkEvent::Connected(_) => {
                self.heard_at = Instant::now();
                let out = &mut self.uplink.out;
                let (session, login) = match &self.token {
                    Some(token) => (ClientSession::resume(token, out), Measured::Resume),
                    None => (ClientSession::login(&self.username, out), Measured::Login),
                };
                self.session = Some(session);
                self.login.0 = login;
            }
            UplinkEvent::Failed(error) => match error {
                ConnectError::CertificateChanged(_) | ConnectError::KnownServers { .. } => {
                    self.end("certificate cannot be trusted");
                }
                ConnectError::Unreachable { source, .. } => self.on_lost(&format!("cannot connect: {}", source.kind())),
                ConnectError::NoAddress { .. } => self.on_lost("cannot connect: no address"),
                ConnectError::Tls { .. } => self.on_lost("cannot connect: no TLS"),
                ConnectError::AllFailed(_) => self.on_lost("cannot connect: to no server"),
            },
            UplinkEvent::Lost(Some(error)) => self.on_lost(&format!("connection lost: {}", error.kind())),
            UplinkEvent::Lost(None) => self.on_lost("connection lost: closed"),
            UplinkEvent::Received(length) => self.on_received(length),
            UplinkEvent::Drained => {
                if let Some(session) = &mut self.session {
                    session.poll_upload(&mut self.uplink.out);
                }
            }
        }
    }

    fn on_received(&mut self, length: usize) {
        self.heard_at = Instant::now();
        let Some(session) = &mut self.session else { return };
        let (input, out) = self.uplink.input_and_out(length);
        match session.receive(input, out) {
            Ok(events) => {
                for event in events {
                    // an event may have ended the connection, and with it the others
                    if self.session.is_some() {
                        self.on_event(event);
                    }
                }
            }
            Err(_) => self.on_lost("the server does not speak the protocol"),
        }
    }

    fn on_lost(&mut self, why: &str) {
        self.tally().error(why);
        self.go_offline();
        let wait = self.backoff.next_wait(&mut self.generator);
        self.uplink.wait_until(Instant::now() + wait);
    }

    fn go_offline(&mut self) {
        if self.is_member() {
            self.tally().count(|counts| counts.online = counts.online.saturating_sub(1));
        }
        self.session = None;
        self.is_begun = false;
        self.uplink.close();
    }

    /// There is no way on.
    fn end(&mut self, why: &str) {
        self.tally().error(why);
        self.go_offline();
        self.work = Work::End;
    }

    // ---- The session

    fn on_event(&mut self, event: Event<Instant>) {
        match event {
            Event::PasswordRequired => {
                if let Some(session) = &mut self.session {
                    session.password(&self.password, &mut self.uplink.out);
                }
            }
            Event::SessionExpired => {
                self.token = None;
                self.login.0 = Measured::Login;
                if let Some(session) = &mut self.session {
                    session.username(&self.username, &mut self.uplink.out);
                }
            }
            Event::Welcome => self.on_welcome(),
            Event::WrongPassword { .. } => self.end("wrong password"),
            Event::BlockedNow { .. } | Event::Blocked { .. } => self.end("account blocked"),
            Event::NoAccount => self.end("account removed"),
            Event::Refused { code: 421, .. } => self.on_lost("turned away (421)"),
            Event::Refused { code, .. } => self.end(&format!("refused ({code})")),
            Event::ResumeToken { token, .. } => self.token = Some(token),
            Event::TempIds { records, tag } => {
                self.tally().took(Measured::TempIds, tag.elapsed());
                let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
                self.tally().count(|counts| counts.temp_ids += count);
                self.shared.overhear(&records);
                self.has_temp_ids = true;
                self.proceed();
            }
            Event::UploadBegun { acknowledged, .. } | Event::UploadProgress { acknowledged, .. } => {
                self.on_acknowledged(acknowledged);
            }
            Event::UploadComplete(summary) => self.on_complete(summary),
            Event::UploadFailed { code, .. } => self.on_upload_failed(&code),
            Event::RecordRefused { .. } => self.tally().error("record refused"),
            Event::RequestFailed { request, code, .. } => {
                self.tally().error(&code);
                match request {
                    Asked::Logout => self.work = Work::End,
                    // without any it cannot go on: it tries again on another connection
                    Asked::Download => self.on_lost("no TempIDs"),
                    Asked::ResumeToken | Asked::Notices | Asked::HandshakePin => {}
                }
            }
            Event::LoggedOut { .. } => self.work = Work::End,
            // never asked for
            Event::Notices { .. } | Event::HandshakePin { .. } => {}
        }
    }

    fn on_welcome(&mut self) {
        self.backoff.reset();
        let (what, since) = self.login;
        self.tally().took(what, since.elapsed());
        self.tally().count(|counts| counts.online += 1);
        let Some(session) = &mut self.session else { return };
        let now = Instant::now();
        session.resume_token(now, &mut self.uplink.out);
        if self.has_temp_ids {
            self.proceed();
        } else {
            session.download(self.shared.plan.temp_ids, now, &mut self.uplink.out);
        }
    }

    /// Does the next thing, if it is time for it.
    fn proceed(&mut self) {
        if !self.is_member() || !self.has_temp_ids || self.is_begun {
            return;
        }
        let now = Instant::now();
        if matches!(self.work, Work::Wait) {
            let is_over = self.uploads_left == 0 || self.shared.ends_at.is_some_and(|end| end <= now);
            if is_over {
                self.work = Work::Confirm;
                self.gives_up_at.get_or_insert(now + GRACE);
            } else if self.next_upload <= now {
                self.uploads_left -= 1;
                self.next_upload = now.max(self.next_upload + self.shared.plan.every);
                self.work = Work::Upload(self.new_upload(now));
            }
        }
        let Some(session) = &mut self.session else { return };
        let out = &mut self.uplink.out;
        self.heard_at = now;
        match (&self.work, self.complete.get(self.confirmed)) {
            (Work::Upload(Running { id, records, .. }), _) => {
                session.upload(id, Arc::clone(records), out);
                self.is_begun = true;
            }
            (Work::Confirm, Some(id)) => {
                let Some(blanks) = self.shared.blanks.get() else { return };
                session.upload(id, Arc::clone(blanks), out);
                self.is_begun = true;
            }
            (Work::Confirm, None) if !session.awaits(Asked::Logout) => session.logout(now, out),
            (Work::Confirm, None) | (Work::Wait | Work::End, _) => {}
        }
    }

    fn new_upload(&mut self, now: Instant) -> Running {
        let id = random_upload_id(&mut self.generator);
        let received = self.shared.plan.clock.now();
        let heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let records = (0..self.shared.plan.records).map_while(|_| {
            let record = heard.choose(&mut self.generator)?.clone();
            Some(ContactLogEntry { record, received: received.plus(-self.generator.random_range(0..600)) })
        });
        let records = records.collect();
        Running { id, records, begun: now, acknowledged: 0 }
    }

    // ---- Uploads

    /// So many records are durable, the authority says.
    fn on_acknowledged(&mut self, acknowledged: u32) {
        match &mut self.work {
            Work::Upload(upload) => {
                let lost = upload.acknowledged.saturating_sub(acknowledged);
                let more = acknowledged.saturating_sub(upload.acknowledged);
                upload.acknowledged = acknowledged;
                self.tally().acknowledged(more);
                self.tally().count(|counts| counts.lost_records += u64::from(lost));
            }
            // it was complete
            Work::Confirm => {
                let lost = self.shared.plan.records.saturating_sub(acknowledged);
                self.tally().count(|counts| counts.lost_records += u64::from(lost));
                self.confirmed += 1;
                // what is missing is not to be sent
                self.on_lost("an upload is complete no more");
            }
            Work::Wait | Work::End => {}
        }
    }

    fn on_complete(&mut self, summary: UploadSummary) {
        self.is_begun = false;
        match mem::replace(&mut self.work, Work::Wait) {
            Work::Upload(upload) => {
                let more = summary.records.saturating_sub(upload.acknowledged);
                self.tally().took(Measured::Upload, upload.begun.elapsed());
                self.tally().acknowledged(more);
                self.tally().count(|counts| counts.uploads += 1);
                self.complete.push(upload.id);
            }
            Work::Confirm => {
                let lost = self.shared.plan.records.abs_diff(summary.records);
                self.tally().count(|counts| {
                    counts.confirmed += 1;
                    counts.lost_records += u64::from(lost);
                });
                self.confirmed += 1;
                self.work = Work::Confirm;
            }
            work @ (Work::Wait | Work::End) => self.work = work,
        }
        self.proceed();
    }

    fn on_upload_failed(&mut self, code: &str) {
        if code == ErrorCode::Unavailable.as_str() || code == ErrorCode::RateLimited.as_str() {
            // it goes on later, on another connection
            return self.on_lost(code);
        }
        self.tally().error(code);
        self.is_begun = false;
        match mem::replace(&mut self.work, Work::Wait) {
            // nobody would take it another time
            Work::Upload(upload) => self.tally().count(|counts| counts.lost_records += u64::from(upload.acknowledged)),
            Work::Confirm => {
                let lost = self.shared.plan.records;
                self.tally().count(|counts| counts.lost_records += u64::from(lost));
                self.confirmed += 1;
                self.work = Work::Confirm;
            }
            work @ (Work::Wait | Work::End) => self.work = work,
        }
        self.proceed();
    }
}

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// How long devices go on behind the end, to finish and to ask again.
const GRACE: Duration = Duration::from_mins(2);
