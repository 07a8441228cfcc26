//! Two servers ask the same of one store at once, thousands of times: one of them is first, everything is counted exactly, and
//! nothing is there twice. In memory and in SQLite two threads of one server do; in PostgreSQL two servers.
//!
//! Many rounds are under way at once, each with names of its own, so that whatever a store does to keep calls apart is met by calls
//! that have nothing to do with each other as well.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics where something is not as it should be")]

#[path = "support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;

use std::ops::Range;
use std::thread;
use std::time::Duration;

use bluetrace_authority::conformance::{block_on, together};
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::store::{
    AccountId, AccountOpened, CodeCheck, CodeForm, CodeHash, CodeIssued, CodeLimits, CodeRedeemed, Confirmation,
    Lockout, LoginRecorded, NewNotice, NewOneTimeCode, NewUploadCode, NumberHash, OneTimeCodeMade, OneTimeHash,
    PasswordHash, PasswordSource, PresentedCode, RegistrationConfirmed, RegistrationLimits, Store, StoreFuture,
    UploadBegun, UploadCompleted, UploadRequest, Verdict,
};
use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Username,
    Window,
};
use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};
use bluetrace_server::sqlite::SqliteStore;

use crate::postgres::CLUSTER;

macro_rules! races {
    ($($race:ident)*) => {
        mod in_memory {
            $(#[test] fn $race() {
                let store = super::MemoryStore::new();
                super::$race([&store, &store]);
            })*
        }
        mod in_sqlite {
            $(#[test] fn $race() {
                let folder = tempfile::tempdir().unwrap();
                let store = super::SqliteStore::open(&folder.path().join("authority.sqlite")).unwrap();
                super::$race([&store, &store]);
            })*
        }
        mod in_postgresql {
            $(#[test] fn $race() {
                let [one, other] = super::two_servers();
                super::$race([&one, &other]);
            })*
        }
    };
}

races! {
    of_failures_on_two_servers_the_third_blocks
    one_upload_id_is_one_upload_and_each_record_and_notice_is_stored_once
    one_code_lets_one_account_in
    one_new_phone_number_is_sent_one_code_and_opens_one_account
}

/// Two are told how many are left, one that it blocked, and the last that it is blocked; with an account and without one.
fn of_failures_on_two_servers_the_third_blocks(servers: Servers<'_>) {
    let username = |round| Username::parse(&format!("user-{round}")).unwrap();
    let until = Moment::from(at(60));
    in_batches(|rounds, _| {
        opened(servers[0], rounds.clone().step_by(2).map(username).collect());
        let answers = ask(servers, rounds.clone(), |store, _, round| {
            (0..2).map(|_| store.record_login(username(round), Verdict::Wrong, RULE, at(0).into())).collect()
        });
        for outcomes in answers {
            let count = |outcome| outcomes.iter().filter(|found| **found == outcome).count();
            assert_eq!(
                [
                    count(LoginRecorded::Wrong { left: 2 }),
                    count(LoginRecorded::Wrong { left: 1 }),
                    count(LoginRecorded::BlockedNow { until }),
                    count(LoginRecorded::Blocked { until })
                ],
                [1, 1, 1, 1],
                "{outcomes:?}"
            );
        }
        let states = rounds.map(|round| servers[1].login_state(username(round), at(59).into()));
        let states = block_on(together(states.collect()));
        assert!(states.into_iter().all(|state| state.unwrap().blocked_until == Some(until)));
    });
}

fn one_upload_id_is_one_upload_and_each_record_and_notice_is_stored_once(servers: Servers<'_>) {
    let accounts = accounts(servers[0], ["uploader", "met"]);
    in_batches(|rounds, first| {
        let pair = |round| accounts[place(round, first)];
        let begun = ask(servers, rounds.clone(), |store, _, round| {
            vec![store.begin_upload(UploadRequest { records: 30, ..request(pair(round)[0], round) }, at(0))]
        });
        let keys: Vec<_> = begun
            .into_iter()
            .map(|answers| {
                let UploadBegun::Open { key, durable: 0, summary: None } = answers[0] else { panic!("{answers:?}") };
                assert_eq!(answers[1], answers[0], "one began it, the other found it");
                key
            })
            .collect();
        let key = |round| keys[place(round, first)];
        let appended = ask(servers, rounds.clone(), |store, server, round| {
            let append = |until| store.append_records(key(round), 0, (0..until).map(|n| heard(round, n)).collect());
            if server == 0 { vec![append(20), append(30)] } else { vec![append(25), append(10)] }
        });
        assert!(appended.iter().flatten().flatten().all(|stored| (10..=30).contains(&stored.durable)));
        let completed = ask(servers, rounds.clone(), |store, _, round| {
            let notice = ExposureNotice { from: at(0), to: at(1), advice: round.to_string() };
            let notice = NewNotice { account: pair(round)[1], notice, forget_at: at(FORGET) };
            vec![store.complete_upload(key(round), UploadSummary::default(), vec![notice], at(1))]
        });
        for answers in completed {
            let count = |outcome| answers.iter().filter(|found| **found == outcome).count();
            assert_eq!((count(UploadCompleted::Now), count(UploadCompleted::Before)), (1, 1), "{answers:?}");
        }
        let stored = rounds.clone().map(|round| servers[1].uploaded_records(key(round), 0, u32::MAX, at(1)));
        for (round, records) in rounds.clone().zip(block_on(together(stored.collect()))) {
            assert_eq!(records.unwrap(), (0..30).map(|n| heard(round, n)).collect::<Vec<_>>());
        }
    });
    let mut told = Vec::new();
    for [_, met] in &accounts {
        for (_, notice) in block_on(servers[1].unread_notices(*met, u32::MAX, at(1))).unwrap().unwrap() {
            told.push(notice.advice.parse::<u32>().unwrap());
        }
    }
    told.sort_unstable();
    assert_eq!(told, (0..ROUNDS).collect::<Vec<_>>(), "each is told once of each");
    let uploads = block_on(servers[1].uploads(None, u32::MAX, at(1))).unwrap();
    assert_eq!(uploads.len(), usize::try_from(ROUNDS).unwrap());
}

/// Presented for an upload, or ahead of one.
fn one_code_lets_one_account_in(servers: Servers<'_>) {
    let accounts = accounts(servers[0], ["alice", "bob"]);
    let limits = CodeLimits { window_s: 60, max_wrong_by_account: 9_999, max_wrong: 9_999, max_live: 9_999 };
    let mut won_by = [0; 2];
    in_batches(|rounds, first| {
        // each batch in a window of its own
        let now = at(100 * i64::from(first));
        let code = |round| PresentedCode { hash: CodeHash(bytes(round)), form: Some(CodeForm::Eight), limits };
        let issued = ask(servers, rounds.clone(), |store, _, round| {
            let new = NewUploadCode {
                hash: code(round).hash,
                form: CodeForm::Eight,
                case: String::new(),
                issued_by: String::new(),
                expires: now.plus(50),
                limits,
            };
            vec![store.issue_upload_code(new, now)]
        });
        for answers in issued {
            let taken = answers.iter().filter(|issued| **issued == CodeIssued::Taken).count();
            assert_eq!((taken, answers.len()), (1, 2), "{answers:?}");
        }
        let account = |server: usize, round| accounts[place(round, first)][server];
        let let_in: Vec<Vec<bool>> = if (first / BATCH).is_multiple_of(2) {
            let begun = ask(servers, rounds.clone(), |store, server, round| {
                let request = request(account(server, round), round);
                let code = CodeCheck::Required(Some(code(round)));
                vec![store.begin_upload(UploadRequest { code, forget_at: now.plus(FORGET), ..request }, now)]
            });
            let is_open = |answer: &UploadBegun| match answer {
                UploadBegun::Open { .. } => true,
                UploadBegun::CodeRefused { .. } => false,
                other @ (UploadBegun::Conflict { .. }
                | UploadBegun::NoAccount
                | UploadBegun::CodeRequired
                | UploadBegun::TooManyCodes { .. }) => panic!("{other:?}"),
            };
            begun.iter().map(|answers| answers.iter().map(is_open).collect()).collect()
        } else {
            let redeemed = ask(servers, rounds.clone(), |store, server, round| {
                vec![store.redeem_upload_code(account(server, round), code(round), now.plus(FORGET), now)]
            });
            let is_redeemed = |answer: &CodeRedeemed| match answer {
                CodeRedeemed::Redeemed => true,
                CodeRedeemed::Refused { .. } => false,
                other @ (CodeRedeemed::TooMany { .. } | CodeRedeemed::NoAccount) => panic!("{other:?}"),
            };
            redeemed.iter().map(|answers| answers.iter().map(is_redeemed).collect()).collect()
        };
        for (round, let_in) in rounds.zip(let_in) {
            let winner = match let_in[..] {
                [true, false] => 0,
                [false, true] => 1,
                _ => panic!("one of two: {let_in:?}"),
            };
            won_by[winner] += 1;
            let code = CodeCheck::Required(Some(code(round)));
            let again = |server| {
                let request = request(account(server, round), round);
                servers[1 - server].begin_upload(UploadRequest { code, forget_at: now.plus(FORGET), ..request }, now)
            };
            if round.is_multiple_of(20) {
                let outcomes = [block_on(again(winner)).unwrap(), block_on(again(1 - winner)).unwrap()];
                let [UploadBegun::Open { .. }, UploadBegun::CodeRefused { .. }] = outcomes else {
                    panic!("the other server knows whose it is: {outcomes:?}")
                };
            }
        }
    });
    assert_eq!(won_by[0] + won_by[1], ROUNDS);
}

fn one_new_phone_number_is_sent_one_code_and_opens_one_account(servers: Servers<'_>) {
    in_batches(|rounds, first| {
        let number = |round| NumberHash(bytes(round));
        // each server draws a code of its own, and one of the two is sent
        let hash = |round, server: usize| {
            let mut hash = bytes(round);
            hash[31] = u8::try_from(server).unwrap();
            OneTimeHash(hash)
        };
        let made = ask(servers, rounds.clone(), |store, server, round| {
            let new = NewOneTimeCode { number: number(round), hash: hash(round, server), limits: LIMITS };
            vec![store.make_one_time_code(new, at(0))]
        });
        let is_sent = |made: &OneTimeCodeMade| matches!(made, OneTimeCodeMade::Send(_));
        for answers in &made {
            let before = answers.iter().filter(|made| matches!(made, OneTimeCodeMade::SentBefore { .. })).count();
            assert_eq!((answers.iter().filter(|made| is_sent(made)).count(), before), (1, 1), "{answers:?}");
        }
        let sent = |round| hash(round, made[place(round, first)].iter().position(is_sent).unwrap());
        let confirmed = ask(servers, rounds, |store, _, round| {
            let username = Username::parse(&format!("+61{round:09}")).unwrap();
            let (number, hash) = (number(round), sent(round));
            let confirmation = Confirmation { number, username, hash, password: None, limits: LIMITS };
            vec![store.confirm_registration(confirmation, at(1))]
        });
        for answers in confirmed {
            let opened = answers.iter().filter(|one| matches!(one, RegistrationConfirmed::Opened(_))).count();
            let wrong = answers.iter().filter(|one| **one == RegistrationConfirmed::Wrong { left: 0 }).count();
            assert_eq!((opened, wrong), (1, 1), "{answers:?}");
        }
    });
    let accounts = block_on(servers[1].accounts(None, u32::MAX, at(2).into())).unwrap();
    assert_eq!(accounts.len(), usize::try_from(ROUNDS).unwrap());
}

/// Two ways to one store.
type Servers<'a> = [&'a dyn Store; 2];

/// Does all rounds, many at once: their numbers, and the first of them.
fn in_batches(mut work: impl FnMut(Range<u32>, u32)) {
    for first in (0..ROUNDS).step_by(BATCH as usize) {
        work(first..(first + BATCH).min(ROUNDS), first);
    }
}

/// Makes the calls of each round on both servers at once; the calls are told which server they are for. Answers by round: those of the one
/// server, then those of the other.
fn ask<'a, T: Send>(
    servers: Servers<'a>,
    rounds: Range<u32>,
    calls: impl Fn(&'a dyn Store, usize, u32) -> Vec<StoreFuture<'a, T>> + Sync,
) -> Vec<Vec<T>> {
    let of_server = |server: usize| {
        let mut calls: Vec<_> = rounds.clone().map(|round| calls(servers[server], server, round)).collect();
        let lengths: Vec<_> = calls.iter().map(Vec::len).collect();
        let mut answers = block_on(together(calls.iter_mut().flat_map(std::mem::take).collect())).into_iter();
        let by_round = lengths.into_iter().map(|length| answers.by_ref().take(length).map(Result::unwrap).collect());
        by_round.collect::<Vec<Vec<T>>>()
    };
    let of_server = &of_server;
    let [one, other] = thread::scope(|scope| {
        [0, 1].map(|server| scope.spawn(move || of_server(server))).map(|thread| thread.join().unwrap())
    });
    one.into_iter().zip(other).map(|(one, other)| one.into_iter().chain(other).collect()).collect()
}

/// For each place in a batch an account of each name.
fn accounts(store: &dyn Store, names: [&str; 2]) -> Vec<[AccountId; 2]> {
    let username = |name, place| Username::parse(&format!("{name}-{place}")).unwrap();
    let [one, other] = names.map(|name| opened(store, (0..BATCH).map(|place| username(name, place)).collect()));
    one.into_iter().zip(other).map(Into::into).collect()
}

fn opened(store: &dyn Store, names: Vec<Username>) -> Vec<AccountId> {
    let hash = || PasswordHash("hash".into());
    let calls = names.into_iter().map(|name| store.open_account(name, hash(), PasswordSource::Operator, at(0)));
    let outcomes = block_on(together(calls.collect()));
    let account = |outcome| match outcome {
        AccountOpened::Opened(account) => account,
        AccountOpened::Exists(_) => panic!("there is one of that name"),
    };
    outcomes.into_iter().map(Result::unwrap).map(account).collect()
}

fn two_servers() -> [PostgresStore; 2] {
    let url = CLUSTER.url(&CLUSTER.database());
    [1, 2].map(|seed| {
        let options = PostgresOptions {
            // machines are slow, and what is shown here is no time
            patience: Duration::from_mins(5),
            answer_timeout: Duration::from_mins(5),
            requires_durability: false,
            ..PostgresOptions::default()
        };
        PostgresStore::open(PostgresPlace::parse(&url, None).unwrap(), options, "mark", [seed; 32]).unwrap()
    })
}

/// The place of a round in the batch that begins with `first`.
fn place(round: u32, first: u32) -> usize {
    usize::try_from(round - first).unwrap()
}

fn bytes(round: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&round.to_be_bytes());
    bytes
}

fn request(account: AccountId, round: u32) -> UploadRequest {
    let upload = UploadId::parse(&format!("upload-{round}")).unwrap();
    UploadRequest { account, upload, records: 1, forget_at: at(FORGET), code: CodeCheck::NotRequired }
}

fn heard(round: u32, number: u32) -> Uploaded {
    let temp_id = TempId::parse(&format!("{round:010}{number:010}")).unwrap();
    let record = Record { temp_id, window: Window::new(at(0), at(899)).unwrap() };
    Uploaded::Record(UploadedRecord { record, received: None, rssi: None, seen: None })
}

/// So many seconds after the begin of a test, which is the begin of a day.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(18_395 * 24 * 60 * 60 + seconds).unwrap()
}

/// How often each race is run.
const ROUNDS: u32 = 2_000;

/// How many rounds are under way at once.
const BATCH: u32 = 50;

/// When uploads and notices are forgotten, in seconds after the begin of a test.
const FORGET: i64 = 1_000;

const RULE: Lockout = Lockout { max_failures: 3, block_duration_s: 60 };

const LIMITS: RegistrationLimits =
    RegistrationLimits { lifetime_s: 100, pause_s: 20, window_s: 1_000, max_sent: 3, max_made: 9, max_wrong: 3 };
