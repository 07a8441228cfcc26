//! The authority's side: connections, their sessions, and the authority's answers held against the model's.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use bluetrace_authority::accounts::LoggedIn;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::{Lockout, NoticeId, Store, UploadBegun, UploadKey};
use bluetrace_authority::trace::UploadTrace;
use bluetrace_authority::uploads::{RecordsAppended, UploadFinished};
use bluetrace_authority::{Authority, MasterKey, Member, Policy};
use bluetrace_protocol::frame::LineDecoder;
use bluetrace_protocol::session::server::{NoticeHandle, Question, ServerSession, Step, UploadHandle};
use bluetrace_protocol::{Clock, Moment, Password, Timestamp, Username};

use crate::model::{ADVICE, Login, Model, Rules, Who};

/// A future that is ready when it is first asked.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a store in memory makes nobody wait"),
    }
}

/// A clock that stands still between the steps of the world. In Unix milliseconds.
#[derive(Debug)]
pub(crate) struct StillClock(AtomicI64);

impl Clock for StillClock {
    fn moment(&self) -> Moment {
        Moment::from_unix_ms(self.0.load(Ordering::Relaxed)).expect("within the years")
    }
}

/// Where everybody's questions are answered.
pub(crate) struct Desk {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) authority: Authority,
    clock: StillClock,
    pub(crate) model: Model,
    pub(crate) seen: Seen,
    starts: u8,
}

/// How often what was met: a simulation in which nothing happens proves nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(BTreeMap<&'static str, u64>);

/// One connection, as its server end knows it, and the bytes on their way in it.
pub(crate) struct Connection {
    /// The device at the other end, if it still holds on.
    pub(crate) device: Option<usize>,
    pub(crate) to_server: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    /// Whether the device has closed its end in good order, behind what is still on its way.
    pub(crate) is_closed: bool,
    pub(crate) session: Option<ServerSession<Rc<Visitor>>>,
    decoder: LineDecoder,
    pub(crate) notes: Notes,
}

/// What the model has to know of a connection.
#[derive(Default)]
pub(crate) struct Notes {
    /// The place of the last notice that was delivered and is not known to be read.
    delivered: Option<usize>,
    /// The upload begun last, by its place in the model.
    pub(crate) upload: Option<usize>,
    may_close: bool,
}

/// Whom the authority has let in, and whom the model expects there.
pub(crate) struct Visitor {
    member: Member,
    who: Who,
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.who.fmt(f)
    }
}

impl Desk {
    pub(crate) fn new(rules: Rules, start: Moment) -> Self {
        let store = Arc::new(MemoryStore::new());
        let authority = authority(&store, &rules, 0);
        let clock = StillClock(AtomicI64::new(start.as_unix_ms()));
        Self { store, authority, clock, model: Model::new(rules), seen: Seen::default(), starts: 0 }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn moment(&self) -> Moment {
        self.clock.moment()
    }

    pub(crate) fn pass_ms(&self, milliseconds: i64) {
        self.clock.0.fetch_add(milliseconds, Ordering::Relaxed);
    }

    pub(crate) fn open_account(&mut self, name: &str, password: &str) {
        let name = Username::parse(name).unwrap();
        let opened = self.authority.open_account(name.clone(), Password::parse(password).unwrap(), self.now());
        assert!(at_once(opened).unwrap());
        let account = at_once(self.store.login_state(name.clone(), self.moment())).unwrap().account.unwrap().id;
        self.model.open_account(name, account, password.to_owned());
    }

    pub(crate) fn change_password(&mut self, user: usize, password: &str) {
        let name = self.model.users[user].name.clone();
        assert!(at_once(self.authority.change_password(name, Password::parse(password).unwrap())).unwrap());
        self.model.change_password(user, password.to_owned());
    }

    /// The authority's process ends and another begins on the same store, with the same key.
    pub(crate) fn restart(&mut self) {
        self.starts += 1;
        self.authority = authority(&self.store, &self.model.rules, self.starts);
    }

    pub(crate) fn check(&self) {
        self.model.check(&self.store, self.moment());
    }

    fn settle(
        &mut self,
        mut step: Step<Rc<Visitor>>,
        notes: &mut Notes,
        out: &mut Vec<u8>,
    ) -> Option<ServerSession<Rc<Visitor>>> {
        loop {
            step = match step {
                Step::Wait(session) => return Some(session),
                Step::Close => return None,
                Step::Ask(question) => self.ask(question, notes, out),
            };
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each question, as where the server asks")]
    fn ask(&mut self, question: Question<Rc<Visitor>>, notes: &mut Notes, out: &mut Vec<u8>) -> Step<Rc<Visitor>> {
        let (moment, now) = (self.moment(), self.now());
        let Self { authority, clock, model, seen: tally, .. } = self;
        match question {
            Question::Login { username, password, then } => {
                let is_stranger = model.user_named(username.reveal()).is_none();
                let expected = model.login(username.reveal(), password.reveal(), moment);
                let answer = at_once(authority.login(username, password, &*clock)).unwrap();
                assert!(expected.is(&answer), "{answer:?} instead of {expected:?}");
                let left = |until: Moment| until.timestamp_rounded_up().seconds_since(now);
                tally.note(match &expected {
                    Login::Welcome(_) => "a login",
                    Login::Wrong { .. } => "a wrong password",
                    Login::BlockedNow { .. } if is_stranger => "a stranger blocked",
                    Login::BlockedNow { .. } => "a block",
                    Login::Blocked { .. } => "a login while blocked",
                });
                notes.may_close |= matches!(expected, Login::BlockedNow { .. } | Login::Blocked { .. });
                match (answer, expected) {
                    (LoggedIn::Welcome(member), Login::Welcome(who)) => {
                        then.welcome(Rc::new(Visitor { member, who }), out)
                    }
                    (LoggedIn::Wrong { left }, _) => then.wrong(left, out),
                    (LoggedIn::BlockedNow { until }, _) => then.blocked_now(left(until), out),
                    (LoggedIn::Blocked { until }, _) => then.blocked(left(until), out),
                    (LoggedIn::Welcome(_), _) => unreachable!("compared above"),
                }
            }
            Question::Resume { token, then } => {
                let expected = model.resume(token.reveal(), now);
                let member = at_once(authority.resume(&token, now)).unwrap();
                assert_eq!(member.is_some(), expected.is_some(), "a token is good, or void, against the rule");
                let Some((member, who)) = member.zip(expected) else {
                    tally.note("a token that is void");
                    return then.refused(out);
                };
                assert_eq!(member.account, model.users[who.user].account);
                let is_blocked = model.is_blocked(member.username.reveal(), moment);
                tally.note(if is_blocked {
                    "a session resumed while its name was blocked"
                } else {
                    "a token that resumes"
                });
                then.welcome(Rc::new(Visitor { member, who }), out)
            }
            Question::TempIds { count, then } => {
                let records = at_once(authority.issue_temp_ids(&then.who().member, count, now)).unwrap().unwrap();
                model.issued(then.who().who.user, &records, count, now);
                then.issued(records, out)
            }
            Question::Token { then } => {
                let Visitor { member, who } = &**then.who();
                let (token, expires) = authority.resume_token(member, now);
                model.token_made(*who, token.reveal(), expires, now);
                then.made(token, expires, now, out)
            }
            Question::HandshakePin { .. } => panic!("devices of the simulation ask for no PIN"),
            Question::Logout { seen, then } => {
                assert_eq!(seen.is_some(), notes.delivered.is_some());
                let Visitor { member, who } = &**then.who();
                at_once(authority.logout(member, seen.map(|seen| NoticeId(seen.0)), now)).unwrap();
                if let Some(last) = notes.delivered.take() {
                    model.read(who.user, last, now);
                }
                model.logout(*who);
                notes.may_close = true;
                then.done(out)
            }
            Question::Notices { seen, then } => {
                assert_eq!(seen.is_some(), notes.delivered.is_some());
                let Visitor { member, who } = &**then.who();
                if let Some(last) = notes.delivered.take() {
                    model.read(who.user, last, now);
                }
                let unread = authority.unread_notices(member, seen.map(|seen| NoticeId(seen.0)), now);
                let unread = at_once(unread).unwrap().expect("nobody removes accounts");
                let expected = model.unread(who.user, now);
                assert!(
                    unread.iter().map(|(_, notice)| notice).eq(expected.iter().map(|(_, notice)| *notice)),
                    "notices {unread:?}, expected {expected:?}"
                );
                tally.count("a notice delivered", expected.len() as u64);
                notes.delivered = expected.last().map(|(place, _)| *place);
                then.unread(unread.into_iter().map(|(id, notice)| (NoticeHandle(id.0), notice)).collect(), out)
            }
            upload @ (Question::BeginUpload { .. } | Question::Append { .. } | Question::Finish { .. }) => {
                self.ask_of_upload(upload, notes, out)
            }
        }
    }

    /// The questions of an upload. One that is past its retention may be answered either way.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these three are handed on")]
    fn ask_of_upload(
        &mut self,
        question: Question<Rc<Visitor>>,
        notes: &mut Notes,
        out: &mut Vec<u8>,
    ) -> Step<Rc<Visitor>> {
        let now = self.now();
        let Self { authority, model, seen: tally, .. } = self;
        match question {
            Question::BeginUpload { begin, then } => {
                let Visitor { member, who } = &**then.who();
                let id = begin.upload.clone().expect("devices name their uploads");
                let place = model.begin(who.user, id, begin.records, now);
                notes.upload = Some(place);
                match at_once(authority.begin_upload(member, begin, now)).unwrap() {
                    UploadBegun::Open { key, durable, summary } => {
                        let expected = &model.uploads[place];
                        assert_eq!(
                            (durable, summary),
                            (expected.durable, expected.finished.map(|(_, summary)| summary))
                        );
                        tally.note(if durable == 0 { "an upload begun" } else { "an upload continued" });
                        then.begun(UploadHandle(key.0), durable, out)
                    }
                    UploadBegun::Conflict { .. } => panic!("an upload changed its length"),
                    UploadBegun::NoAccount => panic!("nobody removes accounts"),
                    UploadBegun::CodeRequired | UploadBegun::CodeRefused { .. } | UploadBegun::TooManyCodes { .. } => {
                        panic!("no code is required")
                    }
                }
            }
            Question::Append { upload, first, records, then } => {
                let place = notes.upload.expect("an upload was begun");
                let behind = first + u32::try_from(records.len()).unwrap();
                let member = &then.who().member;
                let answer = at_once(authority.append_records(member, UploadKey(upload.0), first, records)).unwrap();
                let expected = &mut model.uploads[place];
                if now < expected.forget_at {
                    assert!(first <= expected.durable, "records behind a gap");
                    if first < expected.durable {
                        tally.note("records that had come before");
                    }
                    expected.durable = expected.durable.max(behind);
                    assert!(
                        matches!(answer, RecordsAppended::Durable(appended) if appended.durable == expected.durable)
                    );
                }
                match answer {
                    RecordsAppended::Durable(appended) => then.stored(appended.durable, out),
                    RecordsAppended::NoUpload => {
                        tally.note("an upload that outlived its retention");
                        then.no_upload(out)
                    }
                    RecordsAppended::NoAccount => panic!("nobody removes accounts"),
                }
            }
            Question::Finish { upload, then } => {
                let place = notes.upload.expect("an upload was begun");
                let is_live = now < model.uploads[place].forget_at;
                let was_finished = model.uploads[place].finished.is_some();
                let answer = at_once(authority.finish_upload(
                    &then.who().member,
                    UploadKey(upload.0),
                    UploadTrace::default(),
                    now,
                ))
                .unwrap();
                if is_live {
                    let (summary, notices) = model.finish(place, now);
                    let UploadFinished::Complete { summary: counted, report } = &answer else { panic!("{answer:?}") };
                    assert_eq!(*counted, summary);
                    assert_eq!(report.is_none(), was_finished, "the console is shown an upload once");
                    tally.count("a notice left", notices);
                    tally.note(if was_finished { "an upload finished again" } else { "an upload complete" });
                } else {
                    tally.note("an upload that outlived its retention");
                }
                match answer {
                    UploadFinished::Complete { summary, .. } => then.finished(summary, out),
                    UploadFinished::NoUpload => then.no_upload(out),
                    UploadFinished::NoAccount => panic!("nobody removes accounts"),
                }
            }
            other => unreachable!("{other:?}"),
        }
    }
}

impl Seen {
    const EVERYTHING: [&str; 26] = [
        "a login",
        "a wrong password",
        "a block",
        "a login while blocked",
        "a session resumed while its name was blocked",
        "a stranger blocked",
        "a token that resumes",
        "a token that is void",
        "a connection cut",
        "a connection closed in good order",
        "an authority restarted",
        "a device restarted",
        "a beacon logged",
        "a beacon refused",
        "a datagram dropped",
        "an upload begun",
        "an upload continued",
        "an upload complete",
        "an upload finished again",
        "an upload that outlived its retention",
        "records that had come before",
        "a notice left",
        "a notice delivered",
        "a notice forgotten unread",
        "a sealing key made ahead",
        "a sealing key destroyed",
    ];

    pub(crate) fn note(&mut self, what: &'static str) {
        self.count(what, 1);
    }

    pub(crate) fn count(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        for (what, times) in other.0 {
            self.count(what, times);
        }
        self
    }

    pub(crate) fn has_seen_everything(&self) {
        for what in Self::EVERYTHING {
            assert!(self.0.contains_key(what), "{what} never happened: {self:?}");
        }
    }
}

impl Connection {
    pub(crate) fn new(device: Option<usize>) -> Self {
        Self {
            device,
            to_server: Vec::new(),
            to_client: Vec::new(),
            is_closed: false,
            session: Some(ServerSession::default()),
            decoder: LineDecoder::new(),
            notes: Notes::default(),
        }
    }

    /// The first `count` of the bytes on their way arrive at the server. `is_pause`: it finds no more at hand behind them.
    pub(crate) fn arrive(&mut self, count: usize, is_pause: bool, desk: &mut Desk) {
        let bytes: Vec<_> = self.to_server.drain(..count).collect();
        self.decoder.push(&bytes);
        while let Some(session) = self.session.take() {
            let was_member = session.is_member();
            let Some(line) = self.decoder.next_line().expect("devices send lines") else {
                let step = if is_pause { session.pause() } else { Step::Wait(session) };
                self.session = desk.settle(step, &mut self.notes, &mut self.to_client);
                break;
            };
            let step = session.line(line, &mut self.to_client);
            self.session = desk.settle(step, &mut self.notes, &mut self.to_client);
            assert!(
                self.session.is_some() || !was_member || self.notes.may_close,
                "a session was closed without reason"
            );
        }
        if self.session.is_none() {
            self.to_server.clear();
        }
    }

    /// The server finds that the device has closed its end in good order.
    pub(crate) fn end(mut self, desk: &mut Desk) {
        let Some(session) = self.session.take() else { return };
        let ended = session.ended();
        assert_eq!(ended.is_some(), self.notes.delivered.is_some());
        if let Some((visitor, NoticeHandle(last))) = ended {
            at_once(desk.authority.notices_read(&visitor.member, NoticeId(last))).unwrap();
            let last = self.notes.delivered.expect("compared above");
            desk.model.read(visitor.who.user, last, desk.clock.now());
        }
    }
}

fn authority(store: &Arc<MemoryStore>, rules: &Rules, start: u8) -> Authority {
    let policy = Policy {
        lockout: Lockout { max_failures: 3, block_duration_s: rules.block_s },
        temp_id_scheme: rules.scheme,
        key_period_s: rules.key_period_s,
        temp_id_lifetime_s: rules.lifetime_s,
        retention_s: rules.retention_s,
        resume_s: rules.resume_s,
        access_s: 600,
        // longer than any world lasts
        session_s: 10 * 365 * 24 * 60 * 60,
        require_upload_codes: false,
        hash_cost: HashCost::INSECURE_FOR_SIMULATION,
        advice: ADVICE.to_owned(),
    };
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(store);
    Authority::new(store, Arc::new(InlinePool), policy, &MasterKey::new([7; 32]), [start; 32])
}
