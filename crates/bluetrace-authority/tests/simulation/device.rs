//! A device and the person who has it: what is kept, what a restart loses, and what it makes of its session's events.

use std::sync::Arc;

use bluetrace_protocol::session::client::{ClientSession, Event};
use bluetrace_protocol::{
    Backoff, ContactLog, ContactLogEntry, ExposureNotice, Password, ResumeToken, TempIdBook, Timestamp, UploadId,
    Username,
};
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};

/// Where everything that is left to chance comes from.
pub(crate) struct Dice(pub(crate) ChaCha12Rng);

pub(crate) struct Device {
    pub(crate) name: Username,
    /// What the person believes the password to be.
    pub(crate) password: String,
    /// How many of a hundred passwords are typed wrong.
    pub(crate) mistakes: u32,
    // kept over a restart
    pub(crate) log: ContactLog,
    pub(crate) pending: Option<(UploadId, Arc<[ContactLogEntry]>)>,
    // lost with it
    pub(crate) book: TempIdBook,
    pub(crate) token: Option<ResumeToken>,
    backoff: Backoff,
    pub(crate) retry_at: Timestamp,
    pub(crate) session: Option<ClientSession<()>>,
    /// The number of its connection.
    pub(crate) link: Option<u32>,
    /// Questions for notices that are not answered yet. Nothing is asked behind one that would count them as read.
    pub(crate) asked_notices: u32,
    pub(crate) is_uploading: bool,
    pub(crate) is_leaving: bool,
    /// What the person has been told.
    pub(crate) known: Vec<ExposureNotice>,
}

/// What the world should know of an event.
pub(crate) enum Told {
    Nothing,
    Acknowledged(u32),
    HangsUp,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(seed))
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u32()).expect("at least 32 bits").checked_rem(end).unwrap_or_default()
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.0.next_u32() % 100 < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub(crate) fn seconds(&mut self, first: i64, last: i64) -> i64 {
        first + i64::from(self.0.next_u32()) % (last - first + 1)
    }
}

impl Device {
    pub(crate) fn new(name: Username, password: String, log_s: u32, mistakes: u32) -> Self {
        Self {
            name,
            password,
            mistakes,
            log: ContactLog::new(log_s),
            pending: None,
            book: TempIdBook::new(),
            token: None,
            backoff: Backoff::new(),
            retry_at: Timestamp::MIN,
            session: None,
            link: None,
            asked_notices: 0,
            is_uploading: false,
            is_leaving: false,
            known: Vec::new(),
        }
    }

    /// Whether its person may ask for something now.
    pub(crate) fn is_member(&self) -> bool {
        !self.is_leaving && self.session.as_ref().is_some_and(ClientSession::is_member)
    }

    /// A new connection stands.
    pub(crate) fn connected(&mut self, link: u32, out: &mut Vec<u8>) {
        self.link = Some(link);
        self.session = Some(match &self.token {
            Some(token) => ClientSession::resume(token, out),
            None => ClientSession::login(&self.name, out),
        });
    }

    /// The connection is over.
    pub(crate) fn lost(&mut self, dice: &mut Dice, now: Timestamp) {
        let wait = self.backoff.next_wait(&mut dice.0);
        assert!((250..=30_000).contains(&wait.as_millis()));
        self.retry_at = now.plus(i64::try_from(wait.as_millis().div_ceil(1_000)).unwrap());
        self.session = None;
        self.link = None;
        self.asked_notices = 0;
        self.is_uploading = false;
        self.is_leaving = false;
    }

    /// The device is switched off and on: what it had written down is read again.
    pub(crate) fn restart(&mut self, now: Timestamp) {
        let mut file = String::new();
        self.log.write_to(&mut file);
        let (log, report) = ContactLog::read(file.as_bytes(), now, now, self.log.retention_s());
        assert!(!report.torn && report.malformed == 0 && log == self.log);
        let begun = Self::new(self.name.clone(), self.password.clone(), self.log.retention_s(), self.mistakes);
        let Self { pending, known, .. } = std::mem::replace(self, begun);
        self.log = log;
        self.pending = pending;
        self.known = known;
    }

    pub(crate) fn receive(&mut self, bytes: &[u8], dice: &mut Dice, now: Timestamp, out: &mut Vec<u8>) -> Vec<Told> {
        let Some(mut session) = self.session.take() else { return Vec::new() };
        let events = session.receive(bytes, out).expect("a server speaks the protocol");
        let told = events.into_iter().map(|event| self.on_event(event, &mut session, dice, now, out)).collect();
        self.session = Some(session);
        told
    }

    #[expect(clippy::too_many_arguments, reason = "the session is taken out of its device for the time of its events")]
    fn on_event(
        &mut self,
        event: Event<()>,
        session: &mut ClientSession<()>,
        dice: &mut Dice,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Told {
        match event {
            Event::WrongPassword { .. } if dice.chance(20) => return Told::HangsUp,
            Event::PasswordRequired | Event::WrongPassword { .. } => self.type_password(session, dice, out),
            Event::BlockedNow { .. } | Event::Blocked { .. } => {}
            Event::SessionExpired => {
                self.token = None;
                session.username(&self.name, out);
            }
            Event::Welcome => self.on_welcome(session, dice, now, out),
            Event::TempIds { records, .. } => self.book.add(records, now),
            Event::UploadBegun { acknowledged, .. } | Event::UploadProgress { acknowledged, .. } => {
                return Told::Acknowledged(acknowledged);
            }
            Event::UploadComplete(_) => {
                self.is_uploading = false;
                let (_, records) = self.pending.take().expect("an upload is under way");
                return Told::Acknowledged(u32::try_from(records.len()).unwrap());
            }
            Event::Notices { notices, .. } => {
                self.asked_notices -= 1;
                self.known.extend(notices);
            }
            Event::ResumeToken { token, now: server_now, .. } => {
                assert!(server_now.is_some_and(|server_now| server_now <= now));
                self.token = Some(token);
            }
            Event::LoggedOut { .. } => self.token = None,
            Event::UploadFailed { code, .. } => {
                assert_eq!(code, "no_upload", "an upload that is forgotten while it is under way");
                self.is_uploading = false;
            }
            Event::NoAccount
            | Event::HandshakePin { .. }
            | Event::Refused { .. }
            | Event::RecordRefused { .. }
            | Event::RequestFailed { .. } => {
                panic!("a device in good order was refused: {event:?}")
            }
        }
        Told::Nothing
    }

    fn type_password(&self, session: &mut ClientSession<()>, dice: &mut Dice, out: &mut Vec<u8>) {
        let typed = if dice.chance(self.mistakes) { "a slip" } else { &self.password };
        session.password(&Password::parse(typed).unwrap(), out);
    }

    fn on_welcome(&mut self, session: &mut ClientSession<()>, dice: &mut Dice, now: Timestamp, out: &mut Vec<u8>) {
        self.backoff.reset();
        if dice.chance(60) {
            session.resume_token((), out);
        }
        if self.book.should_download(now).is_some() && dice.chance(80) {
            session.download(u32::try_from(1 + dice.below(3)).unwrap(), (), out);
        }
        self.begin_upload(session, out);
        if dice.chance(40) {
            self.asked_notices += 1;
            session.notices((), out);
        }
    }

    /// Begins the upload that is pending, or goes on with it.
    pub(crate) fn begin_upload(&mut self, session: &mut ClientSession<()>, out: &mut Vec<u8>) {
        if let Some((id, records)) = self.pending.clone().filter(|_| !self.is_uploading) {
            session.upload(&id, records, out);
            self.is_uploading = true;
        }
    }
}
