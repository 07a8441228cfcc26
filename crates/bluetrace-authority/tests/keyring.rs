//! Sealed `TempIDs` lead to their owners as long as they should and no longer, whatever becomes of keys, servers and rules.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers fail as their tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bluetrace_authority::accounts::LoggedIn;
use bluetrace_authority::conformance::block_on;
use bluetrace_authority::keyring::{KeysKept, SEALS_OF_A_KEY, SEALS_TO_WARN};
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::{
    ImportedTempId, KeyTerm, NewSealingKey, Owner, SealingKeyId, SealingKeyRow, SealingKeyState, Store, UploadBegun,
    UploadKey,
};
use bluetrace_authority::trace::{Trace, UploadTrace};
use bluetrace_authority::uploads::UploadFinished;
use bluetrace_authority::{Authority, MasterKey, Member, Policy, Scheme};
use bluetrace_protocol::message::BeginUpload;
use bluetrace_protocol::{
    Clock, ExposureNotice, Moment, Password, Record, SealedTempId, TempId, Timestamp, UploadId, UploadSummary,
    Uploaded, UploadedRecord, Username, Window,
};

#[test]
fn sealed_temp_ids_have_consecutive_windows_are_not_stored_and_lead_to_their_owner() {
    let desk = Desk::new();
    let met = desk.member("met");
    let records = desk.issue(&met, 100, NOON);
    for (place, record) in records.iter().enumerate() {
        let start = NOON + 900 * i64::try_from(place).unwrap();
        assert_eq!(record.window, Window::new(at(start), at(start + 899)).unwrap());
        assert_eq!(record.temp_id.reveal().len(), 84);
    }
    assert_eq!(block_on(desk.store.temp_ids(None, 9, at(NOON))).unwrap(), []);
    for record in [&records[0], &records[99]] {
        for received in [record.window.start(), record.window.expiry()] {
            let trace = desk.trace_one(record, Some(received), NOON + 90_000);
            assert_eq!(trace, Trace::Resolved(owner(&met, record.window)));
        }
        let late = record.window.expiry().plus(1);
        assert_eq!(
            desk.trace_one(record, Some(late), NOON + 90_000),
            Trace::Expired(owner(&met, record.window)),
            "the contact is kept"
        );
    }
}

#[test]
fn the_window_in_the_id_is_the_truth_and_the_one_in_the_record_tells_where_to_look() {
    let desk = Desk::new();
    let met = desk.member("met");
    let true_record = desk.issue(&met, 1, NOON).remove(0);
    let met = owner(&met, true_record.window);
    let said =
        |from| Record { temp_id: true_record.temp_id.clone(), window: Window::new(at(from), at(from + 60)).unwrap() };
    let heard = Some(at(NOON + 5));
    // within a day and an hour of it, and far off with the moment of hearing right
    for false_record in [said(NOON + 80_000), said(NOON + 30 * DAY), said(1)] {
        assert_eq!(desk.trace_one(&false_record, heard, NOON + 100), Trace::Resolved(met.clone()));
    }
    assert_eq!(desk.trace_one(&said(NOON + 5), Some(at(NOON + 9_000)), NOON + 100), Trace::Expired(met.clone()));
    // nothing is right: no key of then is tried; that costs no record that is right, nor does a right one help it
    let far = (said(NOON + 30 * DAY), Some(at(NOON + 40 * DAY)));
    assert_eq!(desk.trace_one(&far.0, far.1, NOON + 100), Trace::Unknown);
    let traces = desk.trace(&[far.clone(), (true_record.clone(), heard), far], NOON + 100);
    assert_eq!(traces, [Trace::Unknown, Trace::Resolved(met), Trace::Unknown], "each by what it says itself");
}

#[test]
fn an_id_is_found_by_a_receiver_whose_clock_is_up_to_an_hour_slow_also_in_a_keys_first_second() {
    let desk = Desk::new();
    let met = desk.member("met");
    let record = desk.issue(&met, 1, NOON).remove(0);
    let said = |from| Record { temp_id: record.temp_id.clone(), window: Window::new(at(from), at(from)).unwrap() };
    for slow_s in [1, 61, 120, 3_600] {
        let trace = desk.trace_one(&said(NOON - slow_s), Some(at(NOON - slow_s)), NOON + 60);
        assert_eq!(trace, Trace::Expired(owner(&met, record.window)), "slow by {slow_s} s");
    }
    assert_eq!(desk.trace_one(&said(NOON - 3_601), None, NOON + 60), Trace::Unknown);
}

#[test]
fn a_wrong_record_on_an_earlier_page_costs_a_right_one_nothing() {
    let desk = Desk::new();
    let (met, ill) = (desk.member("met"), desk.member("ill"));
    let right = desk.issue(&met, 1, NOON).remove(0);
    let wrong = Record { window: Window::new(at(1), at(2)).unwrap(), ..right.clone() };
    let mut records = vec![(wrong, Some(at(1))); 10_001];
    records.push((right, Some(at(NOON))));
    let key = desk.upload(&ill, &records, NOON + 60);
    let summary = desk.finish(&ill, key, NOON + 60);
    assert_eq!((summary.records, summary.resolved, summary.unknown), (10_002, 1, 10_001), "a page is 10,000");
    assert_eq!(desk.notices(&met, NOON + 60).len(), 1);
}

#[test]
fn an_id_that_no_key_opens_and_one_that_is_no_id_are_unknown() {
    let desk = Desk::new();
    let met = desk.member("met");
    let record = desk.issue(&met, 1, NOON).remove(0);
    let changed = |place: usize, letter: &str| {
        let mut text = record.temp_id.reveal().to_owned();
        let other = if &text[place..=place] == letter { "B" } else { letter };
        text.replace_range(place..=place, other);
        Record { temp_id: TempId::parse(&text).unwrap(), window: record.window }
    };
    // in each part, and in the last letter, whose spare bits are another text of the same bytes
    for place in [0, 38, 58, 60, 80, 81] {
        assert_eq!(desk.trace_one(&changed(place, "A"), None, NOON), Trace::Unknown, "changed at {place}");
    }
    let another = Desk::with(9, Arc::default(), sealed());
    let stranger = another.issue(&another.member("met"), 1, NOON).remove(0);
    assert_eq!(desk.trace_one(&stranger, None, NOON), Trace::Unknown);
}

#[test]
fn either_scheme_resolves_what_the_other_issued() {
    let store = Arc::new(MemoryStore::new());
    let sealing = Desk::with(7, store.clone(), sealed());
    let registering = Desk::with(7, store, Policy { temp_id_scheme: Scheme::Registry, ..sealed() });
    let met = sealing.member("met");
    let records = [sealing.issue(&met, 1, NOON).remove(0), registering.issue(&met, 1, NOON).remove(0)];
    assert_eq!(records.each_ref().map(|record| record.temp_id.reveal().len()), [84, 20]);
    for desk in [sealing, registering] {
        for record in &records {
            assert_eq!(desk.trace_one(record, None, NOON), Trace::Resolved(owner(&met, record.window)));
        }
    }
}

#[test]
fn an_imported_id_of_another_authority_is_looked_up_when_no_key_opens_it() {
    let desk = Desk::new();
    let another = Desk::with(9, Arc::default(), sealed());
    let record = another.issue(&another.member("met"), 1, NOON).remove(0);
    let line = ImportedTempId { username: Username::parse("patient").unwrap(), record: record.clone() };
    block_on(desk.authority.import_temp_ids(vec![line], at(NOON))).unwrap();
    let Trace::Resolved(owner) = desk.trace_one(&record, None, NOON) else { panic!("it leads to nobody") };
    assert_eq!(owner.username.reveal(), "patient");
}

#[test]
fn a_day_has_one_key_however_many_servers_begin_it_at_once() {
    for _ in 0..20 {
        let store = Arc::new(MemoryStore::new());
        let desks: Vec<_> = (0..8).map(|_| Desk::with(7, store.clone(), sealed())).collect();
        let member = desks[0].member("met");
        let records: Vec<_> = thread::scope(|scope| {
            let issue = |desk: &Desk| desk.issue(&member, 1, NOON).remove(0);
            let threads: Vec<_> = desks.iter().map(|desk| scope.spawn(move || issue(desk))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let keys = desks[0].keys(NOON);
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].term.issues_from, keys[0].term.issues_until), (at(NOON), at(DAY)));
        for desk in &desks {
            assert!(records.iter().all(|record| matches!(desk.trace_one(record, None, NOON), Trace::Resolved(_))));
        }
    }
}

#[test]
fn the_next_key_is_made_an_hour_ahead_and_seals_from_midnight_on() {
    let desk = Desk::new();
    let met = desk.member("met");
    let before = desk.issue(&met, 100, DAY - 3_700).remove(99);
    assert_eq!(desk.keep(DAY - 3_601).made, 0);
    assert_eq!(desk.keep(DAY - 3_600).made, 1);
    assert_eq!(desk.keep(DAY - 1).made, 0, "it is there");
    desk.issue(&met, 1, DAY - 1);
    desk.issue(&met, 7, DAY);
    desk.keep(DAY);
    let keys = desk.keys(DAY);
    assert_eq!((keys[1].term.issues_from, keys[1].term.issues_until), (at(DAY), at(2 * DAY)));
    assert_eq!(keys.iter().map(|key| key.seals).collect::<Vec<_>>(), [101, 7]);
    // a day and an hour after it was sealed, when the next key has sealed for a day
    let last = before.window.expiry();
    assert_eq!(desk.trace_one(&before, Some(last), 3 * DAY), Trace::Resolved(owner(&met, before.window)));
}

#[test]
fn of_four_hundred_keys_the_right_one_is_found() {
    let policy = Policy { retention_s: 500 * 86_400, ..sealed() };
    let desk = Desk::with(7, Arc::default(), policy);
    let met = desk.member("met");
    let records: Vec<_> = (0..400).map(|day| desk.issue(&met, 100, day * DAY + 1).remove(99)).collect();
    let ring = block_on(desk.authority.keyring(at(400 * DAY))).unwrap();
    assert_eq!(ring.len(), 400);
    for record in &records {
        let sealed = SealedTempId::parse(record.temp_id.reveal()).unwrap();
        assert!(ring.open(&sealed, &[record.window.start()]).is_some());
        assert!(ring.open(&sealed, &[record.window.expiry().plus(10 * DAY)]).is_none());
        // a phone that shows it half a day too long
        let stale = record.window.expiry().plus(DAY / 2);
        assert!(ring.open(&sealed, &[stale, stale.plus(-DAY / 2)]).is_some());
    }
    // one question for many days at once
    let heard: Vec<_> = records.into_iter().map(|record| (record, None)).collect();
    assert!(desk.trace(&heard, 400 * DAY).into_iter().all(|trace| matches!(trace, Trace::Resolved(_))));
}

#[test]
fn a_rotated_key_goes_on_opening_and_another_server_takes_up_the_new_one() {
    let store = Arc::new(MemoryStore::new());
    let [desk, other] = [7, 7].map(|key| Desk::with(key, store.clone(), sealed()));
    assert_eq!(block_on(desk.authority.rotate_key(at(NOON))).unwrap(), None, "nothing to rotate");
    let met = desk.member("met");
    let before = desk.issue(&met, 1, NOON).remove(0);
    assert_eq!(block_on(other.authority.rotate_key(at(NOON + 60))).unwrap(), Some(SealingKeyId(2)));
    desk.keep(NOON + 70);
    let after = desk.issue(&met, 1, NOON + 70).remove(0);
    assert_eq!(desk.keep(NOON + 70).made, 0);
    assert_eq!(desk.keys(NOON).iter().map(|key| key.seals).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(desk.keys(NOON)[1].term, KeyTerm { issues_from: at(NOON + 60), ..desk.keys(NOON)[0].term });
    for record in [before, after] {
        let trace = other.trace_one(&record, None, NOON + 80);
        assert_eq!(trace, Trace::Resolved(owner(&met, record.window)));
    }
}

#[test]
fn a_shredded_key_opens_nothing_on_any_server_and_another_takes_its_place() {
    let store = Arc::new(MemoryStore::new());
    let [desk, other] = [7, 7].map(|key| Desk::with(key, store.clone(), sealed()));
    let met = desk.member("met");
    let before = desk.issue(&met, 1, NOON).remove(0);
    assert!(matches!(other.trace_one(&before, None, NOON), Trace::Resolved(_)));
    block_on(store.shred_sealing_key(SealingKeyId(1))).unwrap();
    for desk in [&desk, &other] {
        assert_eq!(desk.trace_one(&before, None, NOON), Trace::Unknown);
    }
    assert_eq!(desk.keep(NOON + 10).made, 1);
    let after = desk.issue(&met, 1, NOON + 10).remove(0);
    assert!(matches!(other.trace_one(&after, None, NOON + 10), Trace::Resolved(_)));
}

#[test]
fn an_id_is_out_of_reach_a_retention_after_its_expiry_and_its_key_when_the_last_of_its_ids_is() {
    let desk = Desk::new();
    let met = desk.member("met");
    let record = desk.issue(&met, 1, NOON).remove(0);
    let end = NOON + 899 + 21 * DAY;
    assert!(matches!(desk.trace_one(&record, None, end), Trace::Resolved(_)));
    assert_eq!(desk.trace_one(&record, None, end + 1), Trace::Unknown);
    let destroyed = DAY + 25 * 3_600 + 21 * DAY + 1;
    assert_eq!(desk.keys(0)[0].term.forget_at, at(destroyed));
    assert_eq!(desk.keep(destroyed - 1).shredded, 0);
    assert_eq!(desk.keep(destroyed).shredded, 1);
    assert_eq!(desk.keys(0)[0].state, SealingKeyState::Shredded);
}

#[test]
fn a_removed_accounts_ids_lead_to_nobody_and_a_new_account_of_its_name_has_other_ones() {
    let desk = Desk::new();
    let met = desk.member("met");
    let record = desk.issue(&met, 1, NOON).remove(0);
    assert!(block_on(desk.store.remove_account(met.username.clone())).unwrap());
    assert_eq!(desk.trace_one(&record, None, NOON), Trace::Unknown);
    let again = desk.member("met");
    assert_ne!(again.user_id, met.user_id);
    assert_eq!(desk.trace_one(&record, None, NOON), Trace::Unknown);
}

#[test]
fn ones_own_ids_give_no_notice_and_others_give_one() {
    let desk = Desk::new();
    let (met, ill) = (desk.member("met"), desk.member("ill"));
    let records: Vec<_> = [&met, &ill].map(|member| (desk.issue(member, 1, NOON).remove(0), Some(at(NOON)))).into();
    let key = desk.upload(&ill, &records, NOON);
    let summary = desk.finish(&ill, key, NOON);
    assert_eq!((summary.records, summary.resolved), (2, 2));
    let (of_met, of_ill) = (desk.notices(&met, NOON), desk.notices(&ill, NOON));
    assert_eq!((of_met.len(), of_ill.len()), (1, 0));
    assert_eq!((of_met[0].from, of_met[0].to), (at(NOON), at(NOON + 899)), "the window of the id");
}

#[test]
fn a_key_that_is_used_much_is_told_of_and_then_replaced() {
    let desk = Desk::new();
    let met = desk.member("met");
    let count = |id, seals| block_on(desk.store.count_seals(vec![(SealingKeyId(id), seals)])).unwrap();
    desk.issue(&met, 1, NOON);
    count(1, SEALS_TO_WARN - 2);
    assert_eq!(desk.keep(NOON).worn, None);
    desk.issue(&met, 1, NOON);
    assert_eq!(desk.keep(NOON).worn, Some((SealingKeyId(1), SEALS_TO_WARN)));
    count(1, SEALS_OF_A_KEY - SEALS_TO_WARN);
    assert_eq!(desk.keep(NOON), KeysKept { made: 1, ..KeysKept::default() });
    desk.issue(&met, 3, NOON);
    desk.keep(NOON);
    assert_eq!(desk.keys(NOON).iter().map(|key| key.seals).collect::<Vec<_>>(), [SEALS_OF_A_KEY, 3]);
}

#[test]
fn what_was_sealed_between_two_looks_is_counted_once_and_by_every_server() {
    let store = Arc::new(MemoryStore::new());
    let desks = [7, 7].map(|key| Desk::with(key, store.clone(), sealed()));
    let met = desks[0].member("met");
    for _ in 0..3 {
        for desk in &desks {
            desk.issue(&met, 10, NOON);
        }
        for desk in desks.iter().chain(&desks) {
            desk.keep(NOON);
        }
    }
    assert_eq!(desks[0].keys(NOON)[0].seals, 60);
    desks[1].issue(&met, 5, NOON);
    block_on(desks[1].authority.count_seals()).unwrap();
    assert_eq!(desks[0].keys(NOON)[0].seals, 65, "as at the end of a server");
}

#[test]
fn rules_that_ask_for_more_than_a_key_was_made_for_begin_another() {
    let store = Arc::new(MemoryStore::new());
    let desk = Desk::with(7, store.clone(), sealed());
    let met = desk.member("met");
    desk.issue(&met, 1, NOON);
    for changed in [
        Policy { temp_id_lifetime_s: 3_600, ..sealed() },
        Policy { temp_id_lifetime_s: 3_600, retention_s: 42 * 86_400, ..sealed() },
    ] {
        let restarted = Desk::with(7, store.clone(), changed.clone());
        let record = restarted.issue(&met, 100, NOON + 60).remove(99);
        let term = restarted.keys(NOON).pop().unwrap().term;
        let last = record.window.expiry();
        assert!(last <= term.last_expiry && last.plus(changed.retention_s.into()) < term.forget_at);
        assert!(matches!(restarted.trace_one(&record, Some(last), NOON + 60), Trace::Resolved(_)));
    }
    assert_eq!(desk.keys(NOON).len(), 3);
    Desk::with(7, store, sealed()).issue(&met, 1, NOON + 120);
    assert_eq!(desk.keys(NOON).len(), 3, "one that lasts longer is good enough");
}

#[test]
fn keys_under_another_master_key_are_told_of_and_hold_nobody_up() {
    let store = Arc::new(MemoryStore::new());
    let lost = Desk::with(8, store.clone(), sealed());
    let before = lost.issue(&lost.member("before"), 1, NOON).remove(0);
    let desk = Desk::with(7, store, sealed());
    assert_eq!(desk.keep(NOON), KeysKept { made: 1, unreadable: 1, ..KeysKept::default() });
    assert_eq!(desk.trace_one(&before, None, NOON), Trace::Unknown);
    let met = desk.member("met");
    let record = desk.issue(&met, 1, NOON).remove(0);
    assert!(matches!(desk.trace_one(&record, None, NOON), Trace::Resolved(_)));
}

#[test]
fn a_keys_bytes_under_another_name_or_term_open_nothing() {
    let desk = Desk::new();
    let record = desk.issue(&desk.member("met"), 1, NOON).remove(0);
    let SealingKeyRow { id, term, state: SealingKeyState::Live(wrapped), .. } = desk.keys(NOON).remove(0) else {
        panic!("the key is there")
    };
    let other_term = KeyTerm { issues_until: term.issues_until.plus(1), ..term };
    for (id, term, is_open) in [(id, term, true), (SealingKeyId(id.0 + 1), term, false), (id, other_term, false)] {
        let store = Arc::new(MemoryStore::new());
        block_on(store.add_sealing_key(NewSealingKey { id, term, wrapped: wrapped.clone() })).unwrap();
        let thief = Desk::with(7, store, sealed());
        let ring = block_on(thief.authority.keyring(at(NOON))).unwrap();
        let sealed = SealedTempId::parse(record.temp_id.reveal()).unwrap();
        assert_eq!(ring.open(&sealed, &[at(NOON)]).is_some(), is_open, "{id:?} {term:?}");
    }
}

#[test]
fn nothing_is_sealed_that_a_sealed_id_cannot_hold() {
    let desk = Desk::new();
    let met = desk.member("met");
    let end = i64::from(i32::MAX);
    assert!(block_on(desk.authority.issue_temp_ids(&met, 1, at(end - 899))).is_ok());
    let error = block_on(desk.authority.issue_temp_ids(&met, 1, at(end - 898))).unwrap_err().to_string();
    assert!(error.contains("2038-01-19"), "{error}");
}

/// An authority over a store that others may share.
struct Desk {
    authority: Authority,
    store: Arc<MemoryStore>,
}

impl Desk {
    fn new() -> Self {
        Self::with(7, Arc::default(), sealed())
    }

    fn with(master_key: u8, store: Arc<MemoryStore>, policy: Policy) -> Self {
        // another seed for each: two with one would draw the same keys
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&next().to_le_bytes());
        let authority =
            Authority::new(store.clone(), Arc::new(InlinePool), policy, &MasterKey::new([master_key; 32]), seed);
        Self { authority, store }
    }

    fn member(&self, name: &str) -> Member {
        let (username, password) = (Username::parse(name).unwrap(), || Password::parse("password").unwrap());
        assert!(block_on(self.authority.open_account(username.clone(), password(), at(0))).unwrap());
        let outcome = block_on(self.authority.login(username, password(), &Standing)).unwrap();
        let LoggedIn::Welcome(member) = outcome else { panic!("{outcome:?}") };
        member
    }

    fn issue(&self, member: &Member, count: u32, now: i64) -> Vec<Record> {
        block_on(self.authority.issue_temp_ids(member, count, at(now))).unwrap().unwrap()
    }

    fn keep(&self, now: i64) -> KeysKept {
        block_on(self.authority.keep_keys(at(now))).unwrap()
    }

    fn keys(&self, now: i64) -> Vec<SealingKeyRow> {
        block_on(self.store.sealing_keys(at(now))).unwrap()
    }

    fn upload(&self, member: &Member, records: &[(Record, Option<Timestamp>)], now: i64) -> UploadKey {
        let upload = Some(UploadId::parse(&format!("upload-{}", next())).unwrap());
        let begin = BeginUpload { records: u32::try_from(records.len()).unwrap(), upload, code: None };
        let outcome = block_on(self.authority.begin_upload(member, begin, at(now))).unwrap();
        let UploadBegun::Open { key, .. } = outcome else { panic!("{outcome:?}") };
        let record = |(record, received): &(Record, Option<Timestamp>)| {
            Uploaded::Record(UploadedRecord { record: record.clone(), received: *received, rssi: None, seen: None })
        };
        block_on(self.authority.append_records(member, key, 0, records.iter().map(record).collect())).unwrap();
        key
    }

    fn finish(&self, member: &Member, upload: UploadKey, now: i64) -> UploadSummary {
        let finished = block_on(self.authority.finish_upload(member, upload, UploadTrace::default(), at(now))).unwrap();
        let UploadFinished::Complete { summary, .. } = finished else { panic!("{finished:?}") };
        summary
    }

    fn notices(&self, member: &Member, now: i64) -> Vec<ExposureNotice> {
        let notices = block_on(self.authority.unread_notices(member, None, at(now))).unwrap().unwrap();
        notices.into_iter().map(|(_, notice)| notice).collect()
    }

    fn trace(&self, records: &[(Record, Option<Timestamp>)], now: i64) -> Vec<Trace> {
        let name = format!("uploader-{}", next());
        let key = self.upload(&self.member(&name), records, now);
        let traced = block_on(self.authority.traced_records(key, 0, 10_000, at(now))).unwrap();
        traced.into_iter().map(|traced| traced.trace).collect()
    }

    fn trace_one(&self, record: &Record, received: Option<Timestamp>, now: i64) -> Trace {
        self.trace(&[(record.clone(), received)], now).remove(0)
    }
}

fn owner(member: &Member, window: Window) -> Owner {
    Owner { account: member.account, username: member.username.clone(), window }
}

fn sealed() -> Policy {
    Policy { temp_id_scheme: Scheme::Sealed, hash_cost: HashCost::INSECURE_FOR_SIMULATION, ..Policy::default() }
}

#[derive(Debug)]
struct Standing;

impl Clock for Standing {
    fn moment(&self) -> Moment {
        at(0).into()
    }
}

/// So many seconds after 1970.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).unwrap()
}

const DAY: i64 = 86_400;
const NOON: i64 = DAY / 2;

/// A number that no other call gives.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
