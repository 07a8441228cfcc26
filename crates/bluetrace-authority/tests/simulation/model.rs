//! What the authority is expected to know and to answer: lists, gone through from end to end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bluetrace_authority::Scheme;
use bluetrace_authority::accounts::LoggedIn;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::store::{AccountId, Store};
use bluetrace_protocol::{
    ContactLogEntry, ExposureNotice, Moment, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded,
    UploadedRecord, Username, Window,
};

use crate::desk::at_once;

/// The numbers of a world.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) scheme: Scheme,
    pub(crate) key_period_s: u32,
    pub(crate) lifetime_s: u32,
    pub(crate) retention_s: u32,
    pub(crate) block_s: u32,
    pub(crate) resume_s: u32,
    /// How long a device keeps what it heard.
    pub(crate) log_s: u32,
}

pub(crate) struct Model {
    pub(crate) rules: Rules,
    pub(crate) users: Vec<User>,
    failures: BTreeMap<String, Failures>,
    pub(crate) tokens: BTreeMap<String, Token>,
    sessions: u32,
    logged_out: BTreeSet<u32>,
    issued: BTreeMap<TempId, Issued>,
    /// What devices have decided to upload.
    pub(crate) planned: BTreeMap<(usize, UploadId), Arc<[ContactLogEntry]>>,
    pub(crate) uploads: Vec<Upload>,
    /// Who has heard a beacon of whom within its window: ground truth of the world, not of any log.
    pub(crate) meetings: BTreeSet<(usize, usize)>,
}

pub(crate) struct User {
    pub(crate) name: Username,
    pub(crate) account: AccountId,
    pub(crate) password: String,
    epoch: u32,
    pub(crate) notices: Vec<Notice>,
}

#[derive(Default)]
struct Failures {
    in_a_row: u32,
    blocked_until: Option<Moment>,
    last: Moment,
}

pub(crate) struct Token {
    who: Who,
    expires: Timestamp,
}

struct Issued {
    owner: usize,
    window: Window,
    forget_at: Timestamp,
    /// A record that says to be of a later moment, by its window and by when it was heard, is not looked into.
    believed_until: Timestamp,
}

/// An upload, from its begin to its end in the store. One of the same name that is begun after that is another.
pub(crate) struct Upload {
    user: usize,
    id: UploadId,
    records: Arc<[ContactLogEntry]>,
    pub(crate) durable: u32,
    begun: Timestamp,
    pub(crate) forget_at: Timestamp,
    pub(crate) finished: Option<(Timestamp, UploadSummary)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pub(crate) content: ExposureNotice,
    /// Whose upload led to it.
    uploader: usize,
    pub(crate) forget_at: Timestamp,
    pub(crate) is_read: bool,
}

/// Who is expected behind a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) user: usize,
    session: u32,
    /// How often the account's password had been changed at the login.
    epoch: u32,
}

/// What a login is expected to come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Welcome(Who),
    Wrong { left: u32 },
    BlockedNow { until: Moment },
    Blocked { until: Moment },
}

impl Model {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            users: Vec::new(),
            failures: BTreeMap::new(),
            tokens: BTreeMap::new(),
            sessions: 0,
            logged_out: BTreeSet::new(),
            issued: BTreeMap::new(),
            planned: BTreeMap::new(),
            uploads: Vec::new(),
            meetings: BTreeSet::new(),
        }
    }

    pub(crate) fn open_account(&mut self, name: Username, account: AccountId, password: String) {
        self.users.push(User { name, account, password, epoch: 0, notices: Vec::new() });
    }

    pub(crate) fn user_named(&self, name: &str) -> Option<usize> {
        self.users.iter().position(|user| user.name.reveal() == name)
    }

    pub(crate) fn is_blocked(&self, name: &str, now: Moment) -> bool {
        self.failures.get(name).and_then(|failures| failures.blocked_until).is_some_and(|until| now < until)
    }

    pub(crate) fn login(&mut self, name: &str, password: &str, now: Moment) -> Login {
        let user = self.user_named(name);
        let failures = self.failures.entry(name.to_owned()).or_default();
        // names without an account are remembered for a day, and to the end of its last second
        let is_old = |failures: &Failures| {
            let after_a_day = failures.last.plus_ms(86_400_000).timestamp_rounded_up();
            now >= after_a_day.into() && failures.blocked_until.is_none_or(|until| until <= now)
        };
        if user.is_none() && is_old(failures) {
            *failures = Failures::default();
        }
        if let Some(until) = failures.blocked_until.filter(|until| now < *until) {
            return Login::Blocked { until };
        }
        match user {
            Some(user) if self.users[user].password == password => {
                *failures = Failures::default();
                self.sessions += 1;
                Login::Welcome(Who { user, session: self.sessions, epoch: self.users[user].epoch })
            }
            _ => {
                failures.in_a_row += 1;
                failures.last = now;
                failures.blocked_until = None;
                if failures.in_a_row >= 3 && self.rules.block_s > 0 {
                    let until = now.plus_ms(1_000 * i64::from(self.rules.block_s));
                    *failures = Failures { in_a_row: 0, blocked_until: Some(until), last: now };
                    return Login::BlockedNow { until };
                }
                Login::Wrong { left: 3_u32.saturating_sub(failures.in_a_row) }
            }
        }
    }

    pub(crate) fn resume(&self, token: &str, now: Timestamp) -> Option<Who> {
        let Token { who, expires } = self.tokens.get(token)?;
        let is_good =
            now < *expires && who.epoch == self.users[who.user].epoch && !self.logged_out.contains(&who.session);
        is_good.then_some(*who)
    }

    pub(crate) fn token_made(&mut self, who: Who, token: &str, expires: Timestamp, now: Timestamp) {
        assert_eq!(expires, now.plus(self.rules.resume_s.into()));
        self.tokens.insert(token.to_owned(), Token { who, expires });
    }

    pub(crate) fn logout(&mut self, who: Who) {
        self.logged_out.insert(who.session);
    }

    pub(crate) fn change_password(&mut self, user: usize, password: String) {
        let User { name, password: old, epoch, .. } = &mut self.users[user];
        *old = password;
        *epoch += 1;
        self.failures.remove(name.reveal());
    }

    pub(crate) fn issued(&mut self, user: usize, records: &[Record], count: u32, now: Timestamp) {
        assert_eq!(u32::try_from(records.len()).unwrap(), count);
        let lifetime = i64::from(self.rules.lifetime_s);
        let end = now.plus(lifetime * i64::from(count));
        // the keys of sealed ids change at the multiples of their period
        let key_ends = now.plus(i64::from(self.rules.key_period_s));
        let key_ends = key_ends.plus(-key_ends.as_unix().rem_euclid(self.rules.key_period_s.into()));
        let mut start = now;
        for Record { temp_id, window } in records {
            assert_eq!((window.start(), window.expiry()), (start, start.plus(lifetime - 1)), "windows are consecutive");
            start = start.plus(lifetime);
            let (forget_at, believed_until) = match self.rules.scheme {
                Scheme::Registry => (self.forget_at(end), Timestamp::MAX),
                Scheme::Sealed => (self.forget_at(window.expiry()), key_ends.plus(100 * lifetime)),
            };
            let issued = Issued { owner: user, window: *window, forget_at, believed_until };
            let before = self.issued.insert(temp_id.clone(), issued);
            assert!(before.is_none(), "a TempID was issued twice");
        }
    }

    /// Whose `TempID` it is, and the window in which it may be shown.
    pub(crate) fn owner_of(&self, temp_id: &TempId) -> Option<(usize, Window)> {
        self.issued.get(temp_id).map(|issued| (issued.owner, issued.window))
    }

    /// The upload that a begin leads to: its place among [`Self::uploads`].
    pub(crate) fn begin(&mut self, user: usize, id: UploadId, count: u32, now: Timestamp) -> usize {
        let records = Arc::clone(&self.planned[&(user, id.clone())]);
        assert_eq!(u32::try_from(records.len()).unwrap(), count);
        let is_it = |upload: &Upload| upload.user == user && upload.id == id && now < upload.forget_at;
        if let Some(place) = self.uploads.iter().position(is_it) {
            return place;
        }
        let forget_at = self.forget_at(now);
        self.uploads.push(Upload { user, id, records, durable: 0, begun: now, forget_at, finished: None });
        self.uploads.len() - 1
    }

    /// What is expected of an upload's end, and how many notices it leaves: none if it has ended before.
    pub(crate) fn finish(&mut self, place: usize, now: Timestamp) -> (UploadSummary, u64) {
        let Upload { user: uploader, records, durable, .. } = &self.uploads[place];
        let (uploader, records) = (*uploader, Arc::clone(records));
        assert_eq!(usize::try_from(*durable).unwrap(), records.len(), "an upload is finished without its records");
        let mut summary = UploadSummary { records: *durable, ..UploadSummary::default() };
        // from the begin of the first window to the end of the last
        let mut met = BTreeMap::<usize, (Timestamp, Timestamp)>::new();
        for ContactLogEntry { record, received } in &*records {
            let said = record.window.start().min(*received);
            let is_found = |issued: &&Issued| now < issued.forget_at && said <= issued.believed_until;
            let Some(issued) = self.issued.get(&record.temp_id).filter(is_found) else {
                summary.unknown += 1;
                continue;
            };
            summary.resolved += 1;
            let is_met = issued.owner != uploader && is_within(issued.window, *received);
            if is_met && !self.is_told(uploader, issued, now) {
                let (start, expiry) = (issued.window.start(), issued.window.expiry());
                let times = met.entry(issued.owner).or_insert((start, expiry));
                *times = (times.0.min(start), times.1.max(expiry));
            }
        }
        let mut left = 0;
        if self.uploads[place].finished.is_none() {
            self.uploads[place].finished = Some((now, summary));
            let forget_at = self.forget_at(now);
            for (person, (from, to)) in met {
                assert!(self.meetings.contains(&(uploader, person)), "somebody is noticed who was not met");
                let content = ExposureNotice { from, to, advice: ADVICE.to_owned() };
                self.users[person].notices.push(Notice { content, uploader, forget_at, is_read: false });
                left += 1;
            }
        }
        (summary, left)
    }

    /// Whether the person met has been told of the time of an encounter, after an earlier upload of the same uploader.
    fn is_told(&self, uploader: usize, issued: &Issued, now: Timestamp) -> bool {
        let mut notices = self.users[issued.owner].notices.iter();
        notices.any(|notice| {
            let ExposureNotice { from, to, .. } = &notice.content;
            let spans = *from <= issued.window.start() && issued.window.expiry() <= *to;
            notice.uploader == uploader && now < notice.forget_at && spans
        })
    }

    /// The unread notices of a user that are not forgotten, with their places.
    pub(crate) fn unread(&self, user: usize, now: Timestamp) -> Vec<(usize, &ExposureNotice)> {
        let notices = self.users[user].notices.iter().enumerate();
        notices
            .filter(|(_, notice)| !notice.is_read && now < notice.forget_at)
            .map(|(place, notice)| (place, &notice.content))
            .collect()
    }

    /// A user's notices up to a place have been read, but for those that were forgotten before.
    pub(crate) fn read(&mut self, user: usize, last: usize, now: Timestamp) {
        for notice in &mut self.users[user].notices[..=last] {
            notice.is_read |= now < notice.forget_at;
        }
    }

    fn forget_at(&self, moment: Timestamp) -> Timestamp {
        moment.plus(i64::from(self.rules.retention_s) + 1)
    }

    /// The moments to come at which something ends.
    pub(crate) fn ends(&self, now: Moment) -> Vec<Moment> {
        let ids = self.issued.values().flat_map(|issued| [issued.window.expiry(), issued.forget_at]);
        let blocks = self.failures.values().filter_map(|failures| failures.blocked_until);
        let tokens = self.tokens.values().map(|token| token.expires);
        let uploads = self.uploads.iter().map(|upload| upload.forget_at);
        let notices = self.users.iter().flat_map(|user| &user.notices).map(|notice| notice.forget_at);
        let of_seconds = ids.chain(tokens).chain(uploads).chain(notices).map(Moment::from);
        of_seconds.chain(blocks).filter(|end| *end > now).collect()
    }

    /// Compares all that can be had from the store with what is expected in it.
    pub(crate) fn check(&self, store: &MemoryStore, moment: Moment) {
        const ALL: u32 = 100_000;
        let now = moment.timestamp();
        self.check_temp_ids(store, now);
        let rows = at_once(store.uploads(None, ALL, now)).unwrap();
        let live: Vec<_> = self.uploads.iter().filter(|upload| now < upload.forget_at).collect();
        assert_eq!(rows.len(), live.len(), "uploads past their retention, twice, or lost");
        for (row, upload) in rows.iter().zip(live) {
            let name = &self.users[upload.user].name;
            let count = u32::try_from(upload.records.len()).unwrap();
            assert_eq!((&row.upload, &row.uploader, row.records), (&upload.id, name, count));
            assert_eq!((row.durable, row.begun, row.finished), (upload.durable, upload.begun, upload.finished));
            let stored = at_once(store.uploaded_records(row.key, 0, ALL, now)).unwrap();
            let durable = usize::try_from(upload.durable).unwrap();
            assert!(stored.iter().eq(upload.records[..durable].iter().map(uploaded).collect::<Vec<_>>().iter()));
        }
        for (place, user) in self.users.iter().enumerate() {
            let unread = at_once(store.unread_notices(user.account, ALL, now)).unwrap().unwrap();
            let expected = self.unread(place, now);
            assert!(
                unread.iter().map(|(_, notice)| notice).eq(expected.iter().map(|(_, notice)| *notice)),
                "unread notices: {unread:?}, expected {expected:?}"
            );
        }
        for summary in at_once(store.accounts(None, ALL, moment)).unwrap() {
            let is_blocked = self.is_blocked(summary.username.reveal(), moment);
            assert_eq!(summary.blocked_until.is_some(), is_blocked);
        }
    }

    fn check_temp_ids(&self, store: &MemoryStore, now: Timestamp) {
        let listed = at_once(store.temp_ids(None, 100_000, now)).unwrap();
        if self.rules.scheme == Scheme::Sealed {
            assert!(listed.is_empty(), "a sealed TempID is stored");
            return;
        }
        let live = self.issued.iter().filter(|(_, issued)| now < issued.forget_at);
        let mut expected: Vec<_> =
            live.map(|(id, issued)| (&self.users[issued.owner].name, id, issued.window)).collect();
        expected.sort_by_key(|(name, id, window)| (*name, window.start(), *id));
        let found = listed.iter().map(|line| (&line.username, &line.record.temp_id, line.record.window));
        assert!(found.eq(expected), "TempIDs past their retention, or lost");
        let owners = at_once(store.resolve(self.issued.keys().cloned().collect(), now)).unwrap();
        for (owner, issued) in owners.iter().zip(self.issued.values()) {
            let expected = (now < issued.forget_at).then(|| self.users[issued.owner].account);
            assert_eq!(owner.as_ref().map(|owner| owner.account), expected);
        }
    }
}

pub(crate) const ADVICE: &str = "stay at home";

impl Login {
    /// Whether the authority has answered this.
    pub(crate) fn is(&self, answer: &LoggedIn) -> bool {
        match (self, answer) {
            (Self::Welcome(_), LoggedIn::Welcome(_)) => true,
            (Self::Wrong { left }, LoggedIn::Wrong { left: other }) => left == other,
            (Self::BlockedNow { until }, LoggedIn::BlockedNow { until: other })
            | (Self::Blocked { until }, LoggedIn::Blocked { until: other }) => until == other,
            _ => false,
        }
    }
}

/// Whether a moment lies in a window, both ends included.
pub(crate) fn is_within(window: Window, moment: Timestamp) -> bool {
    (window.start().as_unix()..=window.expiry().as_unix()).contains(&moment.as_unix())
}

fn uploaded(entry: &ContactLogEntry) -> Uploaded {
    let ContactLogEntry { record, received } = entry.clone();
    Uploaded::Record(UploadedRecord { record, received: Some(received), rssi: None, seen: None })
}
