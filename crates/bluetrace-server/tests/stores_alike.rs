//! Any sequence of calls has the same outcomes in memory, in SQLite and in PostgreSQL.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics where something is not as it should be")]

#[path = "support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;

#[path = "support/copies.rs"]
mod copies;

use std::cell::RefCell;
use std::collections::BTreeMap;

use bluetrace_authority::conformance::block_on;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::store::{
    AccountId, CodeCheck, CodeForm, CodeHash, CodeLimits, Confirmation, ImportedTempId, KeyTerm, Lockout, NewNotice,
    NewOneTimeCode, NewSealingKey, NewUploadCode, NoticeId, NumberHash, OneTimeCodeId, OneTimeHash, PasswordHash,
    PasswordSource, PinSeed, PresentedCode, RegistrationLimits, SealingKeyId, SealingKeyState, SessionId, Store,
    UploadCodeId, UploadKey, UploadRequest, Verdict, WRAPPED_KEY_BYTES, WrappedKey,
};
use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, Uid, UploadId, UploadSummary, Uploaded, UploadedRecord,
    Username, Window,
};
use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};
use bluetrace_server::sqlite::SqliteStore;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::postgres::CLUSTER;

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_has_the_same_outcomes_in_sqlite(calls in vec((call(), pause_ms()), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = SqliteStore::open(&folder.path().join("authority.sqlite")).unwrap();
        compare(&MemoryStore::new(), &sqlite, &calls)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_has_the_same_outcomes_in_postgresql(calls in vec((call(), pause_ms()), 1..60)) {
        let place = PostgresPlace::parse(&CLUSTER.url(&CLUSTER.database()), None).unwrap();
        let options = PostgresOptions { connections: 1, requires_durability: false, ..PostgresOptions::default() };
        let postgres = PostgresStore::open(place, options, "mark", [7; 32]).unwrap();
        compare(&MemoryStore::new(), &postgres, &calls)?;
    }
}

fn compare(one: &dyn Store, other: &dyn Store, calls: &[(Call, i64)]) -> Result<(), TestCaseError> {
    let [one, other] = [one, other].map(|store| Side { store, names: RefCell::default() });
    let mut now = Moment::from(at(0));
    for (call, pause_ms) in calls {
        now = now.plus_ms(*pause_ms);
        prop_assert_eq!(outcome(&one, call, now), outcome(&other, call, now), "{:?} at {:?}", call, now);
        prop_assert_eq!(sight(&one, now), sight(&other, now), "after {:?} at {:?}", call, now);
    }
    Ok(())
}

/// A store, and its numbers in the order in which they were seen: which ones a store gives is its own affair.
struct Side<'a> {
    store: &'a dyn Store,
    /// By kind, as `Debug` shows it.
    names: RefCell<BTreeMap<&'static str, Vec<i64>>>,
}

impl Side<'_> {
    /// The number of the account that was seen as the `place`th one, from 1; else one that no account has.
    fn account(&self, place: i64) -> AccountId {
        AccountId(self.number(ACCOUNT, place))
    }

    fn upload(&self, place: i64) -> UploadKey {
        UploadKey(self.number(UPLOAD, place))
    }

    fn number(&self, kind: &'static str, place: i64) -> i64 {
        let names = self.names.borrow();
        let seen = names.get(kind).and_then(|seen| seen.get(usize::try_from(place).ok()?.checked_sub(1)?));
        seen.copied().unwrap_or(i64::MAX - place)
    }

    /// A text with places instead of numbers.
    fn placed(&self, mut text: String) -> String {
        for kind in [ACCOUNT, UPLOAD, ONE_TIME_CODE] {
            let mut placed = String::new();
            while let Some((front, rest)) = text.split_once(kind) {
                let (number, rest) = rest.split_once(')').unwrap();
                placed.extend([front, kind, &self.place(kind, number.parse().unwrap()).to_string(), ")"]);
                text = rest.to_owned();
            }
            text = placed + &text;
        }
        text
    }

    fn place(&self, kind: &'static str, number: i64) -> usize {
        let mut names = self.names.borrow_mut();
        let seen = names.entry(kind).or_default();
        let place = seen.iter().position(|seen| *seen == number).unwrap_or_else(|| {
            seen.push(number);
            seen.len() - 1
        });
        place + 1
    }
}

const ACCOUNT: &str = "AccountId(";

const UPLOAD: &str = "UploadKey(";

const ONE_TIME_CODE: &str = "OneTimeCodeId(";

/// Notices are numbered within their account, or for all: a list for each account.
const NOTICES: [&str; 5] = ["notices of 0", "notices of 1", "notices of 2", "notices of 3", "notices of 4"];

/// A call, with everything drawn from so small a range that calls meet.
#[derive(Debug, Clone)]
enum Call {
    Open(u8, bool),
    ChangePassword(u8, bool),
    Remove(u8),
    Login { user: u8, is_right: bool, duration_s: u32 },
    Issue { account: i64, ids: Vec<u64>, memory_s: i64 },
    Import { lines: Vec<(u8, u64)>, memory_s: i64 },
    Begin { account: i64, upload: u8, records: u32, memory_s: i64, needs_code: bool, code: Option<u8> },
    IssueCode { number: u8, is_short: bool, memory_s: i64 },
    RevokeCode(i64),
    ForgiveCodes(u8),
    RedeemCode { account: i64, number: u8, memory_s: i64 },
    Pin { account: i64, candidate: u8, memory_s: i64 },
    Append { upload: i64, first: u32, records: Vec<u64> },
    Complete { upload: i64, notified: Vec<i64>, memory_s: i64 },
    MarkRead { account: i64, last: i64 },
    Revoke { session: u8, memory_s: i64 },
    Note(u8),
    GiveUserId { account: i64, candidate: u8 },
    AddKey { id: i64, memory_s: i64 },
    CountSeals(Vec<(i64, u64)>),
    ShredKey(i64),
    Register(Registration),
    Expire,
}

/// A call of a registration.
#[derive(Debug, Clone)]
enum Registration {
    MakeCode { user: u8, code: u8 },
    CodeFailed(i64),
    Confirm { user: u8, code: u8, has_password: bool },
}

fn call() -> impl Strategy<Value = Call> {
    let user = 0..4_u8;
    let account = 1..5_i64;
    let upload = 1..5_i64;
    let memory_s = 0..90_i64;
    let code = 0..4_u8;
    prop_oneof![
        3 => (user.clone(), any::<bool>()).prop_map(|(user, is_import)| Call::Open(user, is_import)),
        1 => (user.clone(), any::<bool>()).prop_map(|(user, is_import)| Call::ChangePassword(user, is_import)),
        1 => user.clone().prop_map(Call::Remove),
        4 => (user.clone(), prop::bool::weighted(0.2), prop::sample::select(vec![0, 30, 60, 200_000]))
            .prop_map(|(user, is_right, duration_s)| Call::Login { user, is_right, duration_s }),
        2 => (account.clone(), vec(0..12_u64, 0..4), memory_s.clone())
            .prop_map(|(account, ids, memory_s)| Call::Issue { account, ids, memory_s }),
        2 => (vec((user.clone(), 0..12_u64), 0..5), memory_s.clone())
            .prop_map(|(lines, memory_s)| Call::Import { lines, memory_s }),
        6 => (account.clone(), 0..2_u8, 3..5_u32, memory_s.clone(), any::<bool>(), prop::option::of(code.clone()))
            .prop_map(|(account, upload, records, memory_s, needs_code, code)| {
                Call::Begin { account, upload, records, memory_s, needs_code, code }
            }),
        3 => (code.clone(), any::<bool>(), memory_s.clone())
            .prop_map(|(number, is_short, memory_s)| Call::IssueCode { number, is_short, memory_s }),
        1 => (1..9_i64).prop_map(Call::RevokeCode),
        1 => user.clone().prop_map(Call::ForgiveCodes),
        2 => (account.clone(), code, memory_s.clone())
            .prop_map(|(account, number, memory_s)| Call::RedeemCode { account, number, memory_s }),
        1 => (account.clone(), any::<u8>(), 0..90_i64)
            .prop_map(|(account, candidate, memory_s)| Call::Pin { account, candidate, memory_s }),
        6 => (upload.clone(), 0..5_u32, vec(0..12_u64, 0..5))
            .prop_map(|(upload, first, records)| Call::Append { upload, first, records }),
        2 => (upload, vec(account.clone(), 0..4), memory_s.clone())
            .prop_map(|(upload, notified, memory_s)| Call::Complete { upload, notified, memory_s }),
        1 => (account.clone(), 0..9_i64).prop_map(|(account, last)| Call::MarkRead { account, last }),
        2 => (account, 0..4_u8).prop_map(|(account, candidate)| Call::GiveUserId { account, candidate }),
        2 => (1..6_i64, memory_s.clone()).prop_map(|(id, memory_s)| Call::AddKey { id, memory_s }),
        1 => vec((1..6_i64, 0..u64::MAX), 0..4).prop_map(Call::CountSeals),
        1 => (1..6_i64).prop_map(Call::ShredKey),
        1 => (0..3_u8, memory_s).prop_map(|(session, memory_s)| Call::Revoke { session, memory_s }),
        1 => any::<u8>().prop_map(Call::Note),
        9 => registration().prop_map(Call::Register),
        1 => Just(Call::Expire),
    ]
}

fn registration() -> impl Strategy<Value = Registration> {
    let (user, code) = (0..4_u8, 0..3_u8);
    prop_oneof![
        4 => (user.clone(), code.clone()).prop_map(|(user, code)| Registration::MakeCode { user, code }),
        1 => (1..6_i64).prop_map(Registration::CodeFailed),
        4 => (user, code, any::<bool>())
            .prop_map(|(user, code, has_password)| Registration::Confirm { user, code, has_password }),
    ]
}

/// Mostly whole seconds, so that ends are met, and sometimes a millisecond beside one.
fn pause_ms() -> impl Strategy<Value = i64> {
    (0..40_i64, prop::sample::select(vec![0, 0, 0, 0, 1, 999])).prop_map(|(seconds, beside)| 1_000 * seconds + beside)
}

/// What a call answers, as text. An error counts by its kind.
fn outcome(side: &Side<'_>, call: &Call, moment: Moment) -> String {
    side.placed(answer(side, call, moment))
}

#[expect(clippy::too_many_lines, reason = "a line or few for each method")]
fn answer(side: &Side<'_>, call: &Call, moment: Moment) -> String {
    let store = side.store;
    let now = moment.timestamp();
    let source = |is_import| if is_import { PasswordSource::Import } else { PasswordSource::Operator };
    let ids = |numbers: &[u64]| numbers.iter().map(|number| record(*number)).collect();
    match call.clone() {
        Call::Open(user, is_import) => shown(store.open_account(name(user), hash(now), source(is_import), now)),
        Call::ChangePassword(user, is_import) => shown(store.change_password(name(user), hash(now), source(is_import))),
        Call::Remove(user) => shown(store.remove_account(name(user))),
        Call::Login { user, is_right, duration_s } => {
            let verdict = if is_right { Verdict::Right } else { Verdict::Wrong };
            let rule = Lockout { max_failures: 3, block_duration_s: duration_s };
            shown(store.record_login(name(user), verdict, rule, moment))
        }
        Call::Issue { account, ids: numbers, memory_s } => {
            shown(store.issue_temp_ids(side.account(account), ids(&numbers), now.plus(memory_s)))
        }
        Call::Import { lines, memory_s } => {
            let line = |(user, number)| ImportedTempId { username: name(user), record: record(number) };
            shown(store.import_temp_ids(lines.into_iter().map(line).collect(), now.plus(memory_s), now))
        }
        Call::Begin { account, upload, records, memory_s, needs_code, code } => {
            let upload = UploadId::parse(&format!("upload-{upload}")).unwrap();
            let (account, forget_at) = (side.account(account), now.plus(memory_s));
            let code = if needs_code { CodeCheck::Required(code.map(presented)) } else { CodeCheck::NotRequired };
            shown(store.begin_upload(UploadRequest { account, upload, records, forget_at, code }, now))
        }
        Call::IssueCode { number, is_short, memory_s } => {
            let form = if is_short { CodeForm::Six } else { CodeForm::Eight };
            let (case, issued_by, expires) = (format!("case of {now}"), "desk".to_owned(), now.plus(memory_s));
            let hash = presented(number).hash;
            shown(store.issue_upload_code(NewUploadCode { hash, form, case, issued_by, expires, limits: LIMITS }, now))
        }
        Call::RevokeCode(id) => shown(store.revoke_upload_code(UploadCodeId(id), now)),
        Call::ForgiveCodes(user) => shown(store.forgive_wrong_codes(name(user), now)),
        Call::RedeemCode { account, number, memory_s } => {
            shown(store.redeem_upload_code(side.account(account), presented(number), now.plus(memory_s), now))
        }
        Call::Pin { account, candidate, memory_s } => {
            let ends = now.plus(memory_s);
            let pin = block_on(store.handshake_pin(side.account(account), PinSeed([candidate; 16]), ends, now));
            format!("{:?}", pin.unwrap().map(|(seed, ends)| (seed.0, ends)))
        }
        Call::Append { upload, first, records } => {
            shown(store.append_records(side.upload(upload), first, records.into_iter().map(uploaded).collect()))
        }
        Call::Complete { upload, notified, memory_s } => {
            let notice = ExposureNotice { from: now, to: now.plus(60), advice: format!("since {now}") };
            let leave = |account| NewNotice {
                account: side.account(account),
                notice: notice.clone(),
                forget_at: now.plus(memory_s),
            };
            let summary = UploadSummary { records: 4, resolved: 1, unknown: 2, invalid: 1 };
            shown(store.complete_upload(side.upload(upload), summary, notified.into_iter().map(leave).collect(), now))
        }
        Call::MarkRead { account, last } => {
            // of none that was seen, none
            let last = side.number(NOTICES[usize::try_from(account).unwrap()], last);
            let last = NoticeId(if last > i64::MAX - 99 { 0 } else { last });
            shown(store.mark_notices_read(side.account(account), last))
        }
        Call::Revoke { session, memory_s } => shown(store.revoke_session(SessionId([session; 16]), now.plus(memory_s))),
        Call::Note(number) => shown(store.note_import("file", number.to_string())),
        Call::GiveUserId { account, candidate } => {
            let user_id = block_on(store.user_id(side.account(account), Uid::from_bytes([candidate; 21])));
            user_id.map_or_else(|_| "failed".into(), |user_id| format!("{:?}", user_id.map(|id| id.reveal())))
        }
        Call::AddKey { id, memory_s } => {
            let (issues_from, issues_until) = (now, now.plus(10));
            let term =
                KeyTerm { issues_from, issues_until, last_expiry: now.plus(20), forget_at: now.plus(30 + memory_s) };
            let wrapped = WrappedKey([now.as_unix().to_be_bytes()[7]; WRAPPED_KEY_BYTES]);
            shown(store.add_sealing_key(NewSealingKey { id: SealingKeyId(id), term, wrapped }))
        }
        // no more than SQLite can count
        Call::CountSeals(counts) => {
            let counts = counts.into_iter().map(|(id, seals)| (SealingKeyId(id), seals >> 20)).collect();
            shown(store.count_seals(counts))
        }
        Call::ShredKey(id) => shown(store.shred_sealing_key(SealingKeyId(id))),
        Call::Register(registration) => registered(side, &registration, now),
        // how the rows of removed accounts are counted is each store's own affair
        Call::Expire => {
            while block_on(store.expire(now)).unwrap().more {}
            String::new()
        }
    }
}

fn registered(side: &Side<'_>, registration: &Registration, now: Timestamp) -> String {
    let store = side.store;
    let (number, limits) = (|user| NumberHash([user; 32]), REGISTRATION);
    match *registration {
        Registration::MakeCode { user, code } => {
            let code = NewOneTimeCode { number: number(user), hash: OneTimeHash([code; 32]), limits };
            shown(store.make_one_time_code(code, now))
        }
        Registration::CodeFailed(place) => {
            shown(store.one_time_code_failed(OneTimeCodeId(side.number(ONE_TIME_CODE, place))))
        }
        Registration::Confirm { user, code, has_password } => {
            let (number, hash) = (number(user), OneTimeHash([code; 32]));
            let (username, password) = (name(user), has_password.then(|| self::hash(now)));
            shown(store.confirm_registration(Confirmation { number, username, hash, password, limits }, now))
        }
    }
}

/// All that can be read, as text with the names and ids that `Debug` hides.
fn sight(side: &Side<'_>, moment: Moment) -> Vec<String> {
    let store = side.store;
    let now = moment.timestamp();
    let mut sight = Vec::new();
    for row in block_on(store.accounts(None, 99, moment)).unwrap() {
        sight.push(format!("{} {row:?}", row.username.reveal()));
    }
    for user in 0..4 {
        let state = block_on(store.login_state(name(user), moment)).unwrap();
        let hashes = state.account.clone().map(|account| (account.password_hash, account.imported_hash));
        let hashes = hashes.map(|(own, imported)| (own.map(|hash| hash.0), imported.map(|hash| hash.0)));
        sight.push(side.placed(format!("{state:?} {hashes:?}")));
    }
    for line in block_on(store.temp_ids(None, 99, now)).unwrap() {
        sight.push(format!("{} {}", line.username.reveal(), line.record.reveal()));
    }
    for owner in block_on(store.resolve((0..12).map(|number| record(number).temp_id).collect(), now)).unwrap() {
        let text = owner.map_or_else(String::new, |owner| format!("{} {owner:?}", owner.username.reveal()));
        sight.push(side.placed(text));
    }
    let uploads = block_on(store.uploads(None, 99, now)).unwrap();
    assert!(uploads.is_sorted_by_key(|row| row.key));
    let uploads = uploads.iter().map(|row| format!("{} {} {row:?}", row.uploader.reveal(), row.upload.reveal()));
    let mut uploads: Vec<_> = uploads.map(|text| side.placed(text)).collect();
    uploads.sort();
    sight.extend(uploads);
    for row in block_on(store.upload_codes(None, 99, now)).unwrap() {
        sight.push(format!("{row:?}"));
    }
    for (who, wrong) in block_on(store.wrong_upload_codes(None, 99, now)).unwrap() {
        sight.push(format!("{} {wrong:?}", who.reveal()));
    }
    for number in 1..5 {
        for record in block_on(store.uploaded_records(side.upload(number), 1, 3, now)).unwrap() {
            sight.push(match record {
                Uploaded::Malformed => "malformed".into(),
                Uploaded::Record(heard) => format!("{} {heard:?}", heard.record.reveal()),
            });
        }
        let notices = block_on(store.unread_notices(side.account(number), 3, now)).unwrap();
        let kind = NOTICES[usize::try_from(number).unwrap()];
        let placed = notices.map(|notices| {
            notices.into_iter().map(|(id, notice)| (side.place(kind, id.0), notice)).collect::<Vec<_>>()
        });
        sight.push(format!("{placed:?}"));
        let all = (1..5).map(|number| side.account(number)).collect();
        let told = block_on(store.told(side.account(number), all, 99, now)).unwrap();
        let mut told: Vec<_> = told.into_iter().map(|told| side.placed(format!("{told:?}"))).collect();
        told.sort();
        sight.push(format!("{told:?}"));
        for session in 0..3 {
            let state = block_on(store.session_state(side.account(number), SessionId([session; 16]), now)).unwrap();
            sight.push(format!("{state:?}"));
        }
    }
    sight.push(format!("{:?}", block_on(store.import_note("file")).unwrap()));
    let user_ids = (0..4).map(|number| Uid::from_bytes([number; 21])).collect();
    for owner in block_on(store.accounts_of_user_ids(user_ids)).unwrap() {
        let text = owner.map_or_else(String::new, |(account, name)| format!("{account:?} {}", name.reveal()));
        sight.push(side.placed(text));
    }
    for row in block_on(store.sealing_keys(now)).unwrap() {
        let bytes = if let SealingKeyState::Live(wrapped) = &row.state { Some(wrapped.0) } else { None };
        sight.push(format!("{row:?} {bytes:?}"));
    }
    sight
}

fn shown<T: std::fmt::Debug>(call: bluetrace_authority::store::StoreFuture<'_, T>) -> String {
    block_on(call).map_or_else(|_| "failed".into(), |answer| format!("{answer:?}"))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_589_392_446 + seconds).unwrap()
}

fn name(user: u8) -> Username {
    Username::parse(&format!("user-{user}")).unwrap()
}

fn hash(now: Timestamp) -> PasswordHash {
    PasswordHash(now.to_string())
}

fn record(number: u64) -> Record {
    let temp_id = TempId::parse(&format!("{number:020}")).unwrap();
    Record { temp_id, window: Window::new(at(0), at(899)).unwrap() }
}

fn presented(number: u8) -> PresentedCode {
    let form = (number > 0).then_some(if number == 1 { CodeForm::Six } else { CodeForm::Eight });
    PresentedCode { hash: CodeHash([number; 32]), form, limits: LIMITS }
}

/// So small that they are met.
const LIMITS: CodeLimits = CodeLimits { window_s: 45, max_wrong_by_account: 2, max_wrong: 3, max_live: 2 };

const REGISTRATION: RegistrationLimits =
    RegistrationLimits { lifetime_s: 60, pause_s: 10, window_s: 90, max_sent: 2, max_made: 3, max_wrong: 2 };

fn uploaded(number: u64) -> Uploaded {
    if number == 0 {
        return Uploaded::Malformed;
    }
    let rssi = number.is_multiple_of(2).then_some(-70);
    Uploaded::Record(UploadedRecord { record: record(number), received: None, rssi, seen: None })
}
