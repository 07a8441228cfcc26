//! Owns the laws of logins and the lock-out.

use bluetrace_protocol::Moment;

use super::{RULE, at, at_ms, block_on, expire_all, fail, in_threads, line, name, opened, succeed, together};
use crate::store::{Lockout, LoginRecorded, MAX_UNKNOWN_USERNAMES, Store, UNKNOWN_USERNAME_MEMORY_S, Verdict};

/// With the failures that are left told before.
pub async fn the_third_failure_in_a_row_blocks(store: &dyn Store) {
    opened(store, "alice").await;
    assert_eq!(fail(store, "alice", 0).await, LoginRecorded::Wrong { left: 2 });
    assert_eq!(fail(store, "alice", 1).await, LoginRecorded::Wrong { left: 1 });
    assert_eq!(store.login_state(name("alice"), at(1).into()).await.unwrap().blocked_until, None);
    assert_eq!(fail(store, "alice", 2).await, LoginRecorded::BlockedNow { until: at(62).into() });
    assert_eq!(store.login_state(name("alice"), at(2).into()).await.unwrap().blocked_until, Some(at(62).into()));
    assert_eq!(fail(store, "bob", 2).await, LoginRecorded::Wrong { left: 2 }, "each name counts for itself");
}

/// The next failure is a first one.
pub async fn a_success_forgets_failures(store: &dyn Store) {
    opened(store, "alice").await;
    fail(store, "alice", 0).await;
    fail(store, "alice", 0).await;
    assert_eq!(succeed(store, "alice", 0).await, LoginRecorded::Welcome);
    assert_eq!(succeed(store, "alice", 0).await, LoginRecorded::Welcome);
    assert_eq!(fail(store, "alice", 0).await, LoginRecorded::Wrong { left: 2 });
}

/// Right or wrong, until the same moment.
pub async fn a_block_decides_before_the_verdict_and_is_not_lengthened(store: &dyn Store) {
    opened(store, "alice").await;
    for _ in 0..3 {
        fail(store, "alice", 0).await;
    }
    let until = Moment::from(at(60));
    assert_eq!(succeed(store, "alice", 1).await, LoginRecorded::Blocked { until });
    assert_eq!(fail(store, "alice", 30).await, LoginRecorded::Blocked { until });
    assert_eq!(succeed(store, "alice", 59).await, LoginRecorded::Blocked { until });
    assert_eq!(store.login_state(name("alice"), at(59).into()).await.unwrap().blocked_until, Some(until));
    assert_eq!(succeed(store, "alice", 60).await, LoginRecorded::Welcome);
}

/// A millisecond before its end the name is blocked wherever that is asked, and at its end nowhere; whether or not there
/// is such an account.
pub async fn a_block_ends_to_the_millisecond(store: &dyn Store) {
    opened(store, "alice").await;
    let until = at_ms(60_999);
    let last = until.plus_ms(-1);
    for text in ["alice", "mallory"] {
        for moment in [at_ms(0), at_ms(998)] {
            store.record_login(name(text), Verdict::Wrong, RULE, moment).await.unwrap();
        }
        let third = store.record_login(name(text), Verdict::Wrong, RULE, at_ms(999)).await.unwrap();
        assert_eq!(third, LoginRecorded::BlockedNow { until });
        for (moment, expected) in [(at_ms(999), Some(until)), (last, Some(until)), (until, None)] {
            let state = store.login_state(name(text), moment).await.unwrap();
            assert_eq!(state.blocked_until, expected, "{text} at {moment:?}");
        }
    }
    assert_eq!(store.accounts(None, 9, last).await.unwrap()[0].blocked_until, Some(until));
    assert_eq!(store.accounts(None, 9, until).await.unwrap()[0].blocked_until, None);
    for text in ["alice", "mallory"] {
        let at_last = store.record_login(name(text), Verdict::Right, RULE, last).await.unwrap();
        assert_eq!(at_last, LoginRecorded::Blocked { until });
        let at_end = store.record_login(name(text), Verdict::Wrong, RULE, until).await.unwrap();
        assert_eq!(at_end, LoginRecorded::Wrong { left: 2 });
    }
}

/// Three more failures are free of it.
pub async fn a_block_ends_and_counting_begins_anew(store: &dyn Store) {
    opened(store, "alice").await;
    for _ in 0..3 {
        fail(store, "alice", 0).await;
    }
    assert_eq!(store.login_state(name("alice"), at(60).into()).await.unwrap().blocked_until, None);
    assert_eq!(fail(store, "alice", 60).await, LoginRecorded::Wrong { left: 2 });
    assert_eq!(fail(store, "alice", 60).await, LoginRecorded::Wrong { left: 1 });
    assert_eq!(fail(store, "alice", 61).await, LoginRecorded::BlockedNow { until: at(121).into() });
}

/// So that nobody learns from it which names have accounts. A name without one is never welcome.
pub async fn an_unknown_name_fails_and_is_blocked_like_a_known_one(store: &dyn Store) {
    opened(store, "alice").await;
    for moment in [0, 1, 2, 3, 62, 63, 64, 65] {
        assert_eq!(fail(store, "alice", moment).await, fail(store, "mallory", moment).await, "{moment}");
        let known = store.login_state(name("alice"), at(moment).into()).await.unwrap();
        let unknown = store.login_state(name("mallory"), at(moment).into()).await.unwrap();
        assert_eq!(known.blocked_until, unknown.blocked_until, "{moment}");
        assert_eq!(unknown.account, None);
    }
    assert_eq!(succeed(store, "nobody", 0).await, LoginRecorded::Wrong { left: 2 });
}

/// Until there is a duration.
pub async fn without_a_duration_nothing_is_blocked_and_failures_count(store: &dyn Store) {
    opened(store, "alice").await;
    let rule = Lockout { block_duration_s: 0, ..RULE };
    for left in [2, 1, 0, 0, 0] {
        let recorded = store.record_login(name("alice"), Verdict::Wrong, rule, at(0).into()).await.unwrap();
        assert_eq!(recorded, LoginRecorded::Wrong { left });
    }
    assert_eq!(store.login_state(name("alice"), at(0).into()).await.unwrap().blocked_until, None);
    assert_eq!(fail(store, "alice", 1).await, LoginRecorded::BlockedNow { until: at(61).into() });
}

/// A day after the last one; those of known names are not.
pub async fn failures_of_unknown_names_are_forgotten_after_a_day(store: &dyn Store) {
    opened(store, "alice").await;
    for text in ["alice", "mallory", "trudy"] {
        fail(store, text, 0).await;
        fail(store, text, 100).await;
    }
    let last_moment = 100 + UNKNOWN_USERNAME_MEMORY_S - 1;
    assert_eq!(
        fail(store, "trudy", last_moment).await,
        LoginRecorded::BlockedNow { until: at(last_moment + 60).into() }
    );
    assert_eq!(fail(store, "mallory", last_moment + 1).await, LoginRecorded::Wrong { left: 2 });
    assert_eq!(
        fail(store, "alice", last_moment + 1).await,
        LoginRecorded::BlockedNow { until: at(last_moment + 61).into() }
    );
}

/// As it would with an account.
pub async fn a_block_of_an_unknown_name_outlasts_the_day(store: &dyn Store) {
    let two_days = Lockout { block_duration_s: 2 * 86_400, ..RULE };
    for _ in 0..3 {
        store.record_login(name("mallory"), Verdict::Wrong, two_days, at(0).into()).await.unwrap();
    }
    let (late, until) = (at(2 * 86_400 - 1), at(2 * 86_400).into());
    expire_all(store, late).await;
    assert_eq!(store.login_state(name("mallory"), late.into()).await.unwrap().blocked_until, Some(until));
    assert_eq!(store.login_state(name("mallory"), until).await.unwrap().blocked_until, None);
}

/// Rows are forgotten at whole seconds, and its end may lie between two.
pub async fn no_block_of_an_unknown_name_is_forgotten_within_its_last_second(store: &dyn Store) {
    let two_days = Lockout { block_duration_s: 2 * 86_400, ..RULE };
    for _ in 0..3 {
        store.record_login(name("mallory"), Verdict::Wrong, two_days, at_ms(500)).await.unwrap();
    }
    let until = at_ms(2 * 86_400_000 + 500);
    expire_all(store, until.timestamp()).await;
    assert_eq!(store.login_state(name("mallory"), until.plus_ms(-1)).await.unwrap().blocked_until, Some(until));
    assert_eq!(store.login_state(name("mallory"), until).await.unwrap().blocked_until, None);
}

/// Those whose last failure is longest ago, and no more of them than needed. Known names are never among them.
pub async fn of_too_many_unknown_names_the_oldest_make_room(store: &dyn Store) {
    opened(store, "alice").await;
    for text in ["alice", "first", "second", "first"] {
        fail(store, text, 0).await;
    }
    let made_up: Vec<u32> = (0..MAX_UNKNOWN_USERNAMES - 1).collect();
    for names in made_up.chunks(200) {
        let fails = names
            .iter()
            .map(|number| store.record_login(name(&format!("made-up-{number}")), Verdict::Wrong, RULE, at(0).into()));
        assert!(together(fails.collect()).await.iter().all(Result::is_ok));
    }
    // one too many so far: `second` had its last failure before `first` had
    assert_eq!(fail(store, "first", 1).await, LoginRecorded::BlockedNow { until: at(61).into() });
    assert_eq!(fail(store, "second", 1).await, LoginRecorded::Wrong { left: 2 });
    assert_eq!(fail(store, "first", 1).await, LoginRecorded::Blocked { until: at(61).into() });
    assert_eq!(
        fail(store, &format!("made-up-{}", MAX_UNKNOWN_USERNAMES - 2), 1).await,
        LoginRecorded::Wrong { left: 1 }
    );
    assert_eq!(fail(store, "alice", 1).await, LoginRecorded::Wrong { left: 1 });
}

/// A new account is not blocked by what strangers tried before.
pub async fn opening_an_account_forgets_failures_of_its_name(store: &dyn Store) {
    for _ in 0..3 {
        fail(store, "alice", 0).await;
        fail(store, "bob", 0).await;
    }
    opened(store, "alice").await;
    store.import_temp_ids(vec![line("bob", 1)], at(100), at(0)).await.unwrap();
    for text in ["alice", "bob"] {
        assert_eq!(store.login_state(name(text), at(1).into()).await.unwrap().blocked_until, None);
        assert_eq!(fail(store, text, 1).await, LoginRecorded::Wrong { left: 2 });
    }
}

/// However many come at once, from however many threads, two are told how many are left and one that it blocked.
pub async fn racing_failures_are_counted_exactly(store: &dyn Store) {
    opened(store, "alice").await;
    for text in ["alice", "mallory"] {
        let mut outcomes = in_threads(8, |_| block_on(fail(store, text, 0)));
        outcomes.sort_by_key(|outcome| match outcome {
            LoginRecorded::Wrong { left } => 9 - left,
            LoginRecorded::BlockedNow { .. } => 10,
            LoginRecorded::Blocked { .. } => 11,
            LoginRecorded::Welcome => 12,
        });
        let until = Moment::from(at(60));
        let mut expected = vec![LoginRecorded::Blocked { until }; 8];
        expected[0] = LoginRecorded::Wrong { left: 2 };
        expected[1] = LoginRecorded::Wrong { left: 1 };
        expected[2] = LoginRecorded::BlockedNow { until };
        assert_eq!(outcomes, expected);
    }
}
