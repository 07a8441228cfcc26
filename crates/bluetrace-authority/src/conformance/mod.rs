//! Owns what every [`Store`] must do: one function a law, none of which asks which store it is.
//!
//! [`store_conformance!`](crate::store_conformance) makes a test of each. A case begins with an empty store.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a case is a test: it panics where a store breaks a law"
)]

mod codes;
mod keys;

pub use self::codes::*;
pub use self::keys::*;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Username,
    Window,
};

use crate::store::{
    AccountId, AccountOpened, CodeCheck, Expired, ImportedTempId, Lockout, LoginRecorded, MAX_EXPIRED_ROWS,
    MAX_UNKNOWN_USERNAMES, NewNotice, NoticeId, Owner, PasswordHash, PasswordSource, SessionId, SessionState, Store,
    StoreError, StoreFuture, TempIdImported, TempIdsIssued, UNKNOWN_USERNAME_MEMORY_S, UploadBegun, UploadCompleted,
    UploadFound, UploadKey, UploadRequest, UploadRow, Verdict,
};

/// Makes a `#[test]` of each case. The expression opens an empty store: a pair of what must be kept while the store is
/// used (`()`, a temporary folder), and the store.
#[macro_export]
macro_rules! store_conformance {
    ($open:expr) => {
        $crate::store_conformance! { @cases $open;
            an_account_is_opened_once
            a_removed_name_may_be_opened_anew
            an_account_without_a_password_is_given_one
            a_changed_password_counts_an_epoch_and_ends_a_block
            an_operators_password_keeps_the_imported_one
            what_is_not_there_is_neither_changed_nor_removed
            removing_an_account_removes_all_that_is_its_own
            what_a_removed_account_asks_for_has_an_outcome_and_changes_nothing
            accounts_are_listed_in_order_and_in_pages
            the_third_failure_in_a_row_blocks
            a_success_forgets_failures
            a_block_decides_before_the_verdict_and_is_not_lengthened
            a_block_ends_to_the_millisecond
            a_block_ends_and_counting_begins_anew
            an_unknown_name_fails_and_is_blocked_like_a_known_one
            without_a_duration_nothing_is_blocked_and_failures_count
            failures_of_unknown_names_are_forgotten_after_a_day
            a_block_of_an_unknown_name_outlasts_the_day
            no_block_of_an_unknown_name_is_forgotten_within_its_last_second
            of_too_many_unknown_names_the_oldest_make_room
            opening_an_account_forgets_failures_of_its_name
            racing_failures_are_counted_exactly
            issued_temp_ids_resolve_to_their_owner
            temp_ids_are_issued_all_or_none
            racing_issues_of_one_temp_id_have_one_winner
            no_temp_ids_without_an_account
            each_imported_line_has_its_outcome
            a_claimed_temp_id_makes_no_account
            temp_ids_are_listed_in_order_and_in_pages
            forgotten_temp_ids_are_out_of_sight
            owners_come_in_the_order_asked
            an_upload_begins_once_and_goes_on
            one_upload_id_of_two_accounts_is_two_uploads
            an_upload_is_found_by_its_account_and_id
            records_come_back_as_they_were
            repeated_and_overlapping_appends_add_nothing
            records_may_not_be_skipped
            an_upload_that_is_not_there_is_an_outcome
            nothing_is_stored_beyond_the_number_begun_with
            racing_appends_store_each_record_once
            racing_begins_make_one_upload
            an_upload_is_completed_once
            racing_completions_leave_notices_once
            uploads_are_listed_in_order_and_in_pages
            a_forgotten_upload_is_out_of_sight_and_its_id_free
            notices_are_unread_oldest_first_until_they_are_read
            notices_are_forgotten
            notices_for_accounts_that_are_gone_are_dropped
            a_revoked_session_is_remembered_as_long_as_asked
            imports_are_noted
            expire_deletes_a_bounded_number_and_says_whether_there_is_more
            expire_deletes_large_uploads_in_parts
            expire_deletes_only_what_is_forgotten
            concurrent_calls_of_every_kind_do_not_disturb_each_other
            // keys
            an_account_has_one_user_id_given_when_it_is_first_asked_for
            two_accounts_have_no_user_id_in_common
            racing_questions_for_a_user_id_have_one_answer
            user_ids_lead_to_accounts_in_the_order_asked_until_they_are_removed
            sealing_keys_are_listed_in_the_order_of_their_names_with_what_they_were_added_with
            a_sealing_key_is_added_only_above_every_name_there_ever_was
            racing_additions_of_a_sealing_key_have_one_winner
            seals_of_several_servers_add_up
            a_forgotten_sealing_key_is_out_of_reach_before_it_is_shredded
            a_shredded_sealing_key_leaves_its_row_and_nothing_else
            // codes
            upload_codes_are_listed_in_order_and_in_pages_until_they_expire
            an_upload_code_is_issued_once_and_again_when_it_is_forgotten
            no_more_upload_codes_of_a_form_are_live_than_may_be
            an_upload_begins_with_a_live_code_only_where_one_is_required
            a_redeemed_code_lets_its_account_finish_its_upload
            a_redeemed_code_is_of_no_use_to_anybody_else
            racing_accounts_redeem_a_code_once
            a_code_moves_with_its_account_to_another_upload_until_one_is_complete
            an_upload_begun_without_a_code_needs_one_to_go_on_where_one_is_required
            too_many_wrong_codes_of_an_account_end_its_guessing_for_a_while
            a_wrong_code_that_is_repeated_stays_wrong_though_it_is_issued_meanwhile
            too_many_wrong_codes_of_all_accounts_end_all_guessing_for_a_while
            a_code_may_be_redeemed_ahead_of_its_upload
            a_revoked_code_is_of_no_use_to_anybody
            a_removed_accounts_code_goes_with_it
            a_handshake_pin_is_the_same_while_it_lives
            racing_questions_for_a_handshake_pin_have_one_answer
        }
    };
    (@cases $open:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                let (_keep, store) = $open;
                $crate::conformance::block_on($crate::conformance::$case(&store));
            }
        )*
    };
}

/// The second opening finds the first account and changes nothing.
pub async fn an_account_is_opened_once(store: &dyn Store) {
    let id = opened(store, "alice").await;
    let again = store.open_account(name("alice"), hash("other"), PasswordSource::Import, at(5)).await.unwrap();
    assert_eq!(again, AccountOpened::Exists(id));
    let account = store.login_state(name("alice"), at(5).into()).await.unwrap().account.unwrap();
    assert_eq!(account.id, id);
    assert_eq!(account.username, name("alice"));
    assert_eq!(account.password_hash, Some(hash("alice's")));
    assert_eq!(account.imported_hash, None);
    assert_eq!((account.token_epoch, account.created), (0, at(0)));
    assert_eq!(
        store.login_state(name("Alice"), at(5).into()).await.unwrap().account,
        None,
        "names are matched byte for byte"
    );
}

/// Its number is a new one, so that nothing of the old account comes back.
pub async fn a_removed_name_may_be_opened_anew(store: &dyn Store) {
    let first = opened(store, "alice").await;
    assert!(store.change_password(name("alice"), hash("new"), PasswordSource::Operator).await.unwrap());
    assert!(store.remove_account(name("alice")).await.unwrap());
    let second = opened(store, "alice").await;
    assert_ne!(second, first);
    assert_eq!(store.login_state(name("alice"), at(0).into()).await.unwrap().account.unwrap().token_epoch, 0);
    assert_eq!(store.session_state(first, session(1), at(0)).await.unwrap(), None);
}

/// An account that an import made is opened like a new one, and keeps its number and its `TempIDs`.
pub async fn an_account_without_a_password_is_given_one(store: &dyn Store) {
    store.import_temp_ids(vec![line("alice", 1)], at(100), at(0)).await.unwrap();
    let before = store.login_state(name("alice"), at(1).into()).await.unwrap().account.unwrap();
    assert_eq!((before.password_hash, before.created), (None, at(0)));
    assert!(!store.accounts(None, 9, at(1).into()).await.unwrap()[0].has_password);
    let outcome = store.open_account(name("alice"), hash("a"), PasswordSource::Import, at(1)).await.unwrap();
    assert_eq!(outcome, AccountOpened::Opened(before.id));
    let after = store.login_state(name("alice"), at(1).into()).await.unwrap().account.unwrap();
    assert_eq!((after.password_hash, after.imported_hash, after.created), (Some(hash("a")), Some(hash("a")), at(0)));
    assert!(store.accounts(None, 9, at(1).into()).await.unwrap()[0].has_password);
    assert!(store.resolve(vec![id(1)], at(1)).await.unwrap()[0].is_some());
}

/// The epoch voids resume tokens; the block was earned with the old password.
pub async fn a_changed_password_counts_an_epoch_and_ends_a_block(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    for _ in 0..3 {
        store.record_login(name("alice"), Verdict::Wrong, RULE, at(0).into()).await.unwrap();
    }
    assert!(store.login_state(name("alice"), at(1).into()).await.unwrap().blocked_until.is_some());
    assert!(store.change_password(name("alice"), hash("new"), PasswordSource::Operator).await.unwrap());
    let state = store.login_state(name("alice"), at(1).into()).await.unwrap();
    assert_eq!(state.blocked_until, None);
    assert_eq!(state.account.unwrap().password_hash, Some(hash("new")));
    assert_eq!(store.session_state(alice, session(1), at(1)).await.unwrap().unwrap().token_epoch, 1);
    let next = store.record_login(name("alice"), Verdict::Wrong, RULE, at(1).into()).await.unwrap();
    assert_eq!(next, LoginRecorded::Wrong { left: 2 });
}

/// So that the next import of an unchanged line can tell that it has not changed.
pub async fn an_operators_password_keeps_the_imported_one(store: &dyn Store) {
    let hashes = async || {
        let account = store.login_state(name("alice"), at(0).into()).await.unwrap().account.unwrap();
        (account.password_hash.unwrap(), account.imported_hash)
    };
    store.open_account(name("alice"), hash("1"), PasswordSource::Import, at(0)).await.unwrap();
    assert_eq!(hashes().await, (hash("1"), Some(hash("1"))));
    store.change_password(name("alice"), hash("2"), PasswordSource::Operator).await.unwrap();
    assert_eq!(hashes().await, (hash("2"), Some(hash("1"))));
    store.change_password(name("alice"), hash("3"), PasswordSource::Import).await.unwrap();
    assert_eq!(hashes().await, (hash("3"), Some(hash("3"))));
}

/// `false`, and no account comes of it.
pub async fn what_is_not_there_is_neither_changed_nor_removed(store: &dyn Store) {
    assert!(!store.change_password(name("alice"), hash("1"), PasswordSource::Operator).await.unwrap());
    assert!(!store.remove_account(name("alice")).await.unwrap());
    assert_eq!(store.login_state(name("alice"), at(0).into()).await.unwrap().account, None);
    assert_eq!(store.session_state(AccountId(1), session(1), at(0)).await.unwrap(), None);
}

/// And nothing of anyone else's.
pub async fn removing_an_account_removes_all_that_is_its_own(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bob = opened(store, "bob").await;
    for (account, first) in [(alice, 1), (bob, 11)] {
        store.issue_temp_ids(account, vec![record(first), record(first + 1)], at(100)).await.unwrap();
    }
    let of_alice = begun(store, alice, "u", 3).await;
    let of_bob = begun(store, bob, "u", 3).await;
    for (upload, notified) in [(of_alice, bob), (of_bob, alice)] {
        store.append_records(upload, 0, vec![heard(1), heard(2), heard(3)]).await.unwrap();
        let completed = store.complete_upload(upload, SUMMARY, vec![notice(notified, 1)], at(1)).await.unwrap();
        assert_eq!(completed, UploadCompleted::Now);
    }
    store.record_login(name("alice"), Verdict::Wrong, RULE, at(1).into()).await.unwrap();

    assert!(store.remove_account(name("alice")).await.unwrap());
    assert!(!store.remove_account(name("alice")).await.unwrap());
    assert_eq!(names_of(store, at(1)).await, [name("bob")]);
    let owners = store.resolve(vec![id(1), id(2), id(11), id(12)], at(1)).await.unwrap();
    assert_eq!(owners.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(store.temp_ids(None, 9, at(1)).await.unwrap(), [line("bob", 11), line("bob", 12)]);
    let uploads = store.uploads(None, 9, at(1)).await.unwrap();
    assert_eq!(uploads.iter().map(|row| row.key).collect::<Vec<_>>(), [of_bob]);
    assert_eq!(store.uploaded_records(of_alice, 0, 9, at(1)).await.unwrap(), []);
    assert_eq!(store.uploaded_records(of_bob, 0, 9, at(1)).await.unwrap().len(), 3);
    assert_eq!(unread(store, bob, 9, 1).await.len(), 1);

    let anew = opened(store, "alice").await;
    assert_eq!(unread(store, anew, 9, 1).await, []);
    let first = store.record_login(name("alice"), Verdict::Wrong, RULE, at(1).into()).await.unwrap();
    assert_eq!(first, LoginRecorded::Wrong { left: 2 });
    let issued = store.issue_temp_ids(anew, vec![record(1)], at(100)).await.unwrap();
    assert_eq!(issued, TempIdsIssued::Issued, "the id of a removed account is free");
}

/// Its session may be open still, or another account may have taken its name.
pub async fn what_a_removed_account_asks_for_has_an_outcome_and_changes_nothing(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let upload = begun(store, alice, "u", 3).await;
    assert_eq!(store.append_records(upload, 0, vec![heard(1)]).await.unwrap(), Some(1));
    assert!(store.remove_account(name("alice")).await.unwrap());
    for is_name_taken in [false, true] {
        if is_name_taken {
            opened(store, "alice").await;
        }
        let issued = store.issue_temp_ids(alice, vec![record(3)], at(100)).await.unwrap();
        assert_eq!(issued, TempIdsIssued::NoAccount);
        for id in ["u", "v"] {
            let begun = store.begin_upload(request(alice, id, 3), at(1)).await.unwrap();
            assert_eq!(begun, UploadBegun::NoAccount, "{id}");
        }
        for first in [0, 1, 3] {
            assert_eq!(store.append_records(upload, first, vec![heard(2)]).await.unwrap(), None, "{first}");
        }
        let completed = store.complete_upload(upload, SUMMARY, Vec::new(), at(1)).await.unwrap();
        assert_eq!(completed, UploadCompleted::NoUpload);
        assert_eq!(store.unread_notices(alice, 9, at(1)).await.unwrap(), None);
        store.mark_notices_read(alice, NoticeId(1)).await.unwrap();
        assert_eq!(store.session_state(alice, session(1), at(1)).await.unwrap(), None);
        assert_eq!(store.uploads(None, 9, at(1)).await.unwrap(), []);
        assert_eq!(store.temp_ids(None, 9, at(1)).await.unwrap(), []);
    }
}

/// In the order of the bytes of their names, with what an operator wants to see.
pub async fn accounts_are_listed_in_order_and_in_pages(store: &dyn Store) {
    for text in ["bob", "+61", "alice", "Zoe"] {
        opened(store, text).await;
    }
    for _ in 0..3 {
        store.record_login(name("bob"), Verdict::Wrong, RULE, at(10).into()).await.unwrap();
    }
    assert_eq!(names_of(store, at(10)).await, ["+61", "Zoe", "alice", "bob"].map(name));
    let page = store.accounts(Some(name("+61")), 2, at(10).into()).await.unwrap();
    assert_eq!(page.iter().map(|row| row.username.clone()).collect::<Vec<_>>(), ["Zoe", "alice"].map(name));
    let last = store.accounts(Some(name("alicf")), 9, at(11).into()).await.unwrap();
    assert_eq!((last.len(), last[0].blocked_until, last[0].created), (1, Some(at(70).into()), at(0)));
    assert_eq!(store.accounts(Some(name("alicf")), 9, at(70).into()).await.unwrap()[0].blocked_until, None);
    assert_eq!(store.accounts(Some(name("bob")), 9, at(10).into()).await.unwrap(), []);
    assert_eq!(store.accounts(None, 0, at(10).into()).await.unwrap(), []);
}

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
    for names in made_up.chunks(2_000) {
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

/// With the window they were issued for.
pub async fn issued_temp_ids_resolve_to_their_owner(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let issued = store.issue_temp_ids(alice, vec![record(2), record(1)], at(100)).await.unwrap();
    assert_eq!(issued, TempIdsIssued::Issued);
    let owner = Owner { account: alice, username: name("alice"), window: record(1).window };
    assert_eq!(store.resolve(vec![id(1)], at(1)).await.unwrap(), [Some(owner)]);
    assert_eq!(store.issue_temp_ids(alice, Vec::new(), at(100)).await.unwrap(), TempIdsIssued::Issued);
}

/// The places that are taken are told: those stored before, and the second of two that are the same.
pub async fn temp_ids_are_issued_all_or_none(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bob = opened(store, "bob").await;
    store.issue_temp_ids(alice, vec![record(5), record(7)], at(100)).await.unwrap();
    let wanted = vec![record(4), record(5), record(6), record(6), record(7), record(8)];
    assert_eq!(store.issue_temp_ids(bob, wanted, at(100)).await.unwrap(), TempIdsIssued::Taken(vec![1, 3, 4]));
    let owners = store.resolve(vec![id(4), id(5), id(6), id(7), id(8)], at(1)).await.unwrap();
    let accounts: Vec<_> = owners.into_iter().map(|owner| owner.map(|owner| owner.account)).collect();
    assert_eq!(accounts, [None, Some(alice), None, Some(alice), None]);
    let drawn_anew = vec![record(4), record(9), record(6), record(10), record(11), record(8)];
    assert_eq!(store.issue_temp_ids(bob, drawn_anew, at(100)).await.unwrap(), TempIdsIssued::Issued);
}

/// Also when those who race are groups that overlap.
pub async fn racing_issues_of_one_temp_id_have_one_winner(store: &dyn Store) {
    let mut accounts = Vec::new();
    for number in 0..6 {
        accounts.push(opened(store, &format!("user-{number}")).await);
    }
    let outcomes = in_threads(6, |number| {
        let own = 100 + u64::try_from(number).unwrap();
        block_on(store.issue_temp_ids(accounts[number], vec![record(own), record(1)], at(100))).unwrap()
    });
    let winners: Vec<_> = (0..6).filter(|number| outcomes[*number] == TempIdsIssued::Issued).collect();
    assert_eq!(winners.len(), 1);
    let owners = store.resolve((100..106).chain([1]).map(id).collect(), at(1)).await.unwrap();
    let accounts_found: Vec<_> = owners.into_iter().flatten().map(|owner| owner.account).collect();
    assert_eq!(accounts_found, [accounts[winners[0]]; 2], "the losers have stored nothing");
}

/// The id stays free.
pub async fn no_temp_ids_without_an_account(store: &dyn Store) {
    let issued = store.issue_temp_ids(AccountId(77), vec![record(1)], at(100)).await.unwrap();
    assert_eq!(issued, TempIdsIssued::NoAccount);
    let alice = opened(store, "alice").await;
    assert_eq!(store.issue_temp_ids(alice, vec![record(1)], at(100)).await.unwrap(), TempIdsIssued::Issued);
}

/// Within one batch and across batches, and whether the id was issued or imported.
pub async fn each_imported_line_has_its_outcome(store: &dyn Store) {
    use TempIdImported::{Added, ClaimedByAnother, Known};
    let alice = opened(store, "alice").await;
    store.issue_temp_ids(alice, vec![record(1)], at(100)).await.unwrap();
    let lines = vec![
        line("alice", 1),
        line("bob", 1),
        line("bob", 2),
        line("bob", 2),
        line("alice", 2),
        line("bob", 3),
        line("alice", 4),
    ];
    let outcomes = store.import_temp_ids(lines.clone(), at(100), at(0)).await.unwrap();
    assert_eq!(outcomes, [Known, ClaimedByAnother, Added, Known, ClaimedByAnother, Added, Added]);
    let again = store.import_temp_ids(lines, at(100), at(0)).await.unwrap();
    assert_eq!(again, [Known, ClaimedByAnother, Known, Known, ClaimedByAnother, Known, Known]);
    let all = store.temp_ids(None, 9, at(1)).await.unwrap();
    assert_eq!(all, [line("alice", 1), line("bob", 2), line("bob", 3), line("alice", 4)]);
    assert_eq!(names_of(store, at(1)).await, ["alice", "bob"].map(name));
}

/// Only a line that is stored makes one.
pub async fn a_claimed_temp_id_makes_no_account(store: &dyn Store) {
    let lines = vec![line("alice", 1), line("mallory", 1)];
    let outcomes = store.import_temp_ids(lines, at(100), at(0)).await.unwrap();
    assert_eq!(outcomes, [TempIdImported::Added, TempIdImported::ClaimedByAnother]);
    assert_eq!(names_of(store, at(1)).await, [name("alice")]);
}

/// In the order of their bytes, which is not that of their numbers.
pub async fn temp_ids_are_listed_in_order_and_in_pages(store: &dyn Store) {
    let long = TempId::parse("111111111111111111111").unwrap();
    let sealed = TempId::parse(&format!("{}==", "A".repeat(82))).unwrap();
    let mut lines: Vec<_> = [9, 3, 7].map(|number| line("alice", number)).into();
    for temp_id in [&sealed, &long] {
        lines.push(ImportedTempId {
            username: name("bob"),
            record: Record { temp_id: temp_id.clone(), window: record(1).window },
        });
    }
    store.import_temp_ids(lines, at(100), at(0)).await.unwrap();
    let listed = store.temp_ids(None, 9, at(1)).await.unwrap();
    let ids = |lines: &[ImportedTempId]| lines.iter().map(|line| line.record.temp_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&listed), [id(3), id(7), id(9), long.clone(), sealed.clone()]);
    assert_eq!(ids(&store.temp_ids(Some(id(3)), 2, at(1)).await.unwrap()), [id(7), id(9)]);
    assert_eq!(ids(&store.temp_ids(Some(id(8)), 2, at(1)).await.unwrap()), [id(9), long]);
    assert_eq!(store.temp_ids(Some(sealed), 2, at(1)).await.unwrap(), []);
    assert_eq!(store.temp_ids(None, 0, at(1)).await.unwrap(), []);
}

/// From `forget_at` on and before anything is deleted; the id may then be imported anew, by another too.
pub async fn forgotten_temp_ids_are_out_of_sight(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    store.issue_temp_ids(alice, vec![record(1)], at(50)).await.unwrap();
    store.issue_temp_ids(alice, vec![record(2)], at(100)).await.unwrap();
    let seen = async |moment| {
        let owners = store.resolve(vec![id(1), id(2)], at(moment)).await.unwrap();
        let listed = store.temp_ids(None, 9, at(moment)).await.unwrap();
        assert_eq!(owners.iter().flatten().count(), listed.len());
        listed.iter().map(|line| line.record.temp_id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(seen(49).await, [id(1), id(2)]);
    assert_eq!(seen(50).await, [id(2)]);
    assert_eq!(store.issue_temp_ids(alice, vec![record(1)], at(200)).await.unwrap(), TempIdsIssued::Taken(vec![0]));
    let outcome = store.import_temp_ids(vec![line("bob", 1), line("bob", 2)], at(200), at(50)).await.unwrap();
    assert_eq!(outcome, [TempIdImported::Added, TempIdImported::ClaimedByAnother]);
    assert_eq!(store.temp_ids(None, 9, at(50)).await.unwrap(), [line("bob", 1), line("alice", 2)]);
    expire_all(store, at(100)).await;
    assert_eq!(seen(100).await, [id(1)]);
    assert_eq!(store.issue_temp_ids(alice, vec![record(2)], at(200)).await.unwrap(), TempIdsIssued::Issued);
}

/// One answer for each question, unknown or asked twice too.
pub async fn owners_come_in_the_order_asked(store: &dyn Store) {
    store.import_temp_ids(vec![line("alice", 1), line("bob", 2)], at(100), at(0)).await.unwrap();
    let owners = store.resolve(vec![id(2), id(9), id(1), id(2)], at(1)).await.unwrap();
    let names: Vec<_> = owners.into_iter().map(|owner| owner.map(|owner| owner.username)).collect();
    assert_eq!(names, [Some(name("bob")), None, Some(name("alice")), Some(name("bob"))]);
    assert_eq!(store.resolve(Vec::new(), at(1)).await.unwrap(), []);
}

/// The same key again, behind what is durable; with another number of records it is a conflict.
pub async fn an_upload_begins_once_and_goes_on(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 3).await;
    store.append_records(key, 0, vec![heard(1), heard(2)]).await.unwrap();
    let again = store.begin_upload(request(alice, "u", 3), at(9)).await.unwrap();
    assert_eq!(again, UploadBegun::Open { key, durable: 2, summary: None });
    let other_number = store.begin_upload(request(alice, "u", 4), at(9)).await.unwrap();
    assert_eq!(other_number, UploadBegun::Conflict { records: 3 });
    assert_ne!(begun(store, alice, "v", 4).await, key);
}

/// Looking begins nothing.
pub async fn an_upload_is_found_by_its_account_and_id(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    let id = UploadId::parse("u").unwrap();
    assert_eq!(store.find_upload(alice, id.clone(), at(0)).await.unwrap(), None);
    let key = begun(store, alice, "u", 2).await;
    store.append_records(key, 0, vec![heard(1)]).await.unwrap();
    let mut found = UploadFound { key, records: 2, durable: 1, summary: None };
    assert_eq!(store.find_upload(alice, id.clone(), at(1)).await.unwrap(), Some(found));
    assert_eq!(store.find_upload(bob, id.clone(), at(1)).await.unwrap(), None);
    store.append_records(key, 1, vec![heard(2)]).await.unwrap();
    store.complete_upload(key, SUMMARY, Vec::new(), at(1)).await.unwrap();
    (found.durable, found.summary) = (2, Some(SUMMARY));
    assert_eq!(store.find_upload(alice, id.clone(), at(FORGET - 1)).await.unwrap(), Some(found));
    assert_eq!(store.find_upload(alice, id.clone(), at(FORGET)).await.unwrap(), None);
    assert!(store.remove_account(name("alice")).await.unwrap());
    assert_eq!(store.find_upload(alice, id, at(1)).await.unwrap(), None);
}

/// An upload id belongs to the account that uses it.
pub async fn one_upload_id_of_two_accounts_is_two_uploads(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bob = opened(store, "bob").await;
    let of_alice = begun(store, alice, "u", 2).await;
    let of_bob = begun(store, bob, "u", 5).await;
    assert_ne!(of_alice, of_bob);
    store.append_records(of_bob, 0, vec![heard(1)]).await.unwrap();
    let again = store.begin_upload(request(alice, "u", 2), at(0)).await.unwrap();
    assert_eq!(again, UploadBegun::Open { key: of_alice, durable: 0, summary: None });
    assert_eq!(store.uploaded_records(of_alice, 0, 9, at(0)).await.unwrap(), []);
}

/// Of every kind and with every field, in order, in pages.
pub async fn records_come_back_as_they_were(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let sealed = TempId::parse(&format!("{}==", "+/Az09".repeat(14).get(..82).unwrap())).unwrap();
    let of = |temp_id: TempId, received, rssi, seen| {
        let window = Window::new(Timestamp::MIN, at(0).min(Timestamp::MIN.plus(86_400))).unwrap();
        Uploaded::Record(UploadedRecord { record: Record { temp_id, window }, received, rssi, seen })
    };
    let records = vec![
        heard(1),
        Uploaded::Malformed,
        of(id(2), Some(Timestamp::MAX), Some(i16::MIN), Some(u32::MAX)),
        of(sealed, Some(Timestamp::MIN), Some(0), Some(0)),
        of(TempId::parse(&"7".repeat(64)).unwrap(), None, Some(-71), None),
        Uploaded::Malformed,
        heard(1),
    ];
    let key = begun(store, alice, "u", 7).await;
    assert_eq!(store.append_records(key, 0, records.clone()).await.unwrap(), Some(7));
    assert_eq!(store.uploaded_records(key, 0, 9, at(1)).await.unwrap(), records);
    assert_eq!(store.uploaded_records(key, 2, 3, at(1)).await.unwrap(), records[2..5]);
    assert_eq!(store.uploaded_records(key, 7, 3, at(1)).await.unwrap(), []);
    assert_eq!(store.uploaded_records(key, u32::MAX, u32::MAX, at(1)).await.unwrap(), []);
    assert_eq!(store.uploaded_records(key, 0, 0, at(1)).await.unwrap(), []);
    assert_eq!(store.uploaded_records(UploadKey(key.0 + 1), 0, 9, at(1)).await.unwrap(), []);
}

/// Whatever they say about records that are durable already.
pub async fn repeated_and_overlapping_appends_add_nothing(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 6).await;
    let append = async |first, numbers: &[u64]| {
        store.append_records(key, first, numbers.iter().map(|number| heard(*number)).collect()).await.unwrap().unwrap()
    };
    assert_eq!(append(0, &[1, 2]).await, 2);
    assert_eq!(append(0, &[1, 2]).await, 2);
    assert_eq!(append(0, &[91, 92, 3]).await, 3);
    assert_eq!(append(1, &[93]).await, 3);
    assert_eq!(append(2, &[94, 4, 5]).await, 5);
    assert_eq!(append(5, &[]).await, 5);
    assert_eq!(append(5, &[6]).await, 6);
    assert_eq!(append(0, &[1, 2, 3, 4, 5, 6]).await, 6);
    let stored = store.uploaded_records(key, 0, 9, at(1)).await.unwrap();
    assert_eq!(stored, [1, 2, 3, 4, 5, 6].map(heard));
}

/// The call fails and stores nothing.
pub async fn records_may_not_be_skipped(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 9).await;
    failed(&store.append_records(key, 1, vec![heard(2)]).await);
    assert_eq!(store.append_records(key, 0, vec![heard(1)]).await.unwrap(), Some(1));
    failed(&store.append_records(key, 2, vec![heard(3)]).await);
    assert_eq!(store.uploaded_records(key, 0, 9, at(1)).await.unwrap(), [heard(1)]);
}

/// Nothing is stored, and no notice is left.
pub async fn an_upload_that_is_not_there_is_an_outcome(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let missing = UploadKey(begun(store, alice, "u", 9).await.0 + 1);
    assert_eq!(store.append_records(missing, 0, vec![heard(1)]).await.unwrap(), None);
    let completed = store.complete_upload(missing, SUMMARY, vec![notice(alice, 1)], at(1)).await.unwrap();
    assert_eq!(completed, UploadCompleted::NoUpload);
    assert_eq!(unread(store, alice, 9, 1).await, []);
}

/// What comes beyond is passed over.
pub async fn nothing_is_stored_beyond_the_number_begun_with(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 2).await;
    let next = begun(store, alice, "v", 2).await;
    assert_eq!(store.append_records(key, 0, vec![heard(1), heard(2), heard(3)]).await.unwrap(), Some(2));
    assert_eq!(store.append_records(key, 2, vec![heard(4)]).await.unwrap(), Some(2));
    assert_eq!(store.uploaded_records(key, 0, 9, at(1)).await.unwrap(), [heard(1), heard(2)]);
    assert_eq!(store.uploaded_records(next, 0, 9, at(1)).await.unwrap(), []);
    failed(&store.begin_upload(request(alice, "x", MAX_UPLOAD_RECORDS + 1), at(0)).await);
    let empty = begun(store, alice, "w", 0).await;
    assert_eq!(store.append_records(empty, 0, vec![heard(1)]).await.unwrap(), Some(0));
}

/// A device that lost its connection and one that holds it still may send the same at once.
pub async fn racing_appends_store_each_record_once(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 200).await;
    in_threads(4, |number| {
        let size = [7, 10, 13, 50][number];
        let mut durable = 0;
        while durable < 200 {
            let numbers = u64::from(durable)..u64::from(durable) + size;
            let records = numbers.map(heard).collect();
            let acknowledged = block_on(store.append_records(key, durable, records)).unwrap().unwrap();
            assert!(acknowledged > durable);
            durable = acknowledged;
        }
    });
    let stored = store.uploaded_records(key, 0, 999, at(1)).await.unwrap();
    assert_eq!(stored, (0..200).map(heard).collect::<Vec<_>>());
}

/// All of them are told the same key.
pub async fn racing_begins_make_one_upload(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let keys = in_threads(6, |_| block_on(begun(store, alice, "u", 3)));
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(store.uploads(None, 9, at(1)).await.unwrap().len(), 1);
}

/// The second completion changes nothing and leaves no notice.
pub async fn an_upload_is_completed_once(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bob = opened(store, "bob").await;
    let key = begun(store, alice, "u", 1).await;
    store.append_records(key, 0, vec![heard(1)]).await.unwrap();
    let first = store.complete_upload(key, SUMMARY, vec![notice(bob, 1)], at(5)).await.unwrap();
    let second = store.complete_upload(key, UploadSummary::default(), vec![notice(bob, 2)], at(6)).await.unwrap();
    assert_eq!((first, second), (UploadCompleted::Now, UploadCompleted::Before));
    let unread = unread(store, bob, 9, 6).await;
    assert_eq!(unread.into_iter().map(|(_, notice)| notice).collect::<Vec<_>>(), [notice(bob, 1).notice]);
    let again = store.begin_upload(request(alice, "u", 1), at(6)).await.unwrap();
    assert_eq!(again, UploadBegun::Open { key, durable: 1, summary: Some(SUMMARY) });
    assert_eq!(store.uploads(None, 9, at(6)).await.unwrap()[0].finished, Some((at(5), SUMMARY)));
}

/// One of them completes it.
pub async fn racing_completions_leave_notices_once(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 1).await;
    let completed = in_threads(6, |_| {
        let notices = vec![notice(alice, 1), notice(alice, 2)];
        block_on(store.complete_upload(key, SUMMARY, notices, at(1))).unwrap()
    });
    assert_eq!(completed.into_iter().filter(|completed| *completed == UploadCompleted::Now).count(), 1);
    assert_eq!(unread(store, alice, 9, 1).await.len(), 2);
}

/// In the order of their keys, with what an export needs to know about each.
pub async fn uploads_are_listed_in_order_and_in_pages(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bob = opened(store, "bob").await;
    let first = begun(store, bob, "z", 3).await;
    let second = begun(store, alice, "a", 1).await;
    let third = begun(store, bob, "b", 2).await;
    store.append_records(first, 0, vec![heard(1), heard(2)]).await.unwrap();
    let rows = store.uploads(None, 9, at(1)).await.unwrap();
    let row = UploadRow {
        key: first,
        upload: UploadId::parse("z").unwrap(),
        uploader: name("bob"),
        records: 3,
        durable: 2,
        begun: at(0),
        finished: None,
    };
    assert!(rows.contains(&row));
    let mut keys = [first, second, third];
    keys.sort();
    assert_eq!(rows.iter().map(|row| row.key).collect::<Vec<_>>(), keys, "which is not always that of their begin");
    let page = store.uploads(Some(keys[0]), 1, at(1)).await.unwrap();
    assert_eq!(page.iter().map(|row| row.key).collect::<Vec<_>>(), [keys[1]]);
    assert_eq!(store.uploads(Some(keys[2]), 9, at(1)).await.unwrap(), []);
    assert_eq!(store.uploads(None, 0, at(1)).await.unwrap(), []);
}

/// From `forget_at` on; the id then names a new upload, and the old records never come back.
pub async fn a_forgotten_upload_is_out_of_sight_and_its_id_free(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let old = begun(store, alice, "u", 2).await;
    store.append_records(old, 0, vec![heard(1), heard(2)]).await.unwrap();
    assert_eq!(store.uploads(None, 9, at(FORGET - 1)).await.unwrap().len(), 1);
    assert_eq!(store.uploaded_records(old, 0, 9, at(FORGET - 1)).await.unwrap().len(), 2);
    assert_eq!(store.uploads(None, 9, at(FORGET)).await.unwrap(), []);
    assert_eq!(store.uploaded_records(old, 0, 9, at(FORGET)).await.unwrap(), []);
    let later = UploadRequest { forget_at: at(9 * FORGET), ..request(alice, "u", 5) };
    let UploadBegun::Open { key, durable: 0, summary: None } =
        store.begin_upload(later.clone(), at(FORGET)).await.unwrap()
    else {
        panic!("an upload that is forgotten stands in the way of a new one");
    };
    assert_ne!(key, old);
    store.append_records(key, 0, vec![heard(3)]).await.unwrap();
    expire_all(store, at(FORGET)).await;
    let again = store.begin_upload(later, at(FORGET)).await.unwrap();
    assert_eq!(again, UploadBegun::Open { key, durable: 1, summary: None });
    assert_eq!(store.uploads(None, 9, at(FORGET)).await.unwrap().len(), 1);
    assert_eq!(store.uploaded_records(old, 0, 9, at(0)).await.unwrap(), []);
    assert_eq!(store.uploaded_records(key, 0, 9, at(FORGET)).await.unwrap(), [heard(3)]);
}

/// Marked up to the last one seen, and only those of the account that saw them.
pub async fn notices_are_unread_oldest_first_until_they_are_read(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bob = opened(store, "bob").await;
    for (upload, minutes) in [("u", [3, 1]), ("v", [2, 4])] {
        let key = begun(store, alice, upload, 0).await;
        let notices = minutes.iter().flat_map(|minute| [notice(bob, *minute), notice(alice, *minute)]).collect();
        assert_eq!(store.complete_upload(key, SUMMARY, notices, at(1)).await.unwrap(), UploadCompleted::Now);
    }
    let unread = async |account, limit| unread(store, account, limit, 1).await;
    let of_bob = unread(bob, 9).await;
    let texts: Vec<_> = of_bob.iter().map(|(_, notice)| notice.clone()).collect();
    assert_eq!(texts, [3, 1, 2, 4].map(|minute| notice(bob, minute).notice));
    assert!(of_bob.is_sorted_by(|(first, _), (second, _)| first < second));
    assert_eq!(unread(bob, 2).await, of_bob[..2]);
    assert_eq!(unread(bob, 0).await, []);
    store.mark_notices_read(bob, of_bob[1].0).await.unwrap();
    store.mark_notices_read(bob, of_bob[0].0).await.unwrap();
    assert_eq!(unread(bob, 9).await, of_bob[2..]);
    assert_eq!(unread(alice, 9).await.len(), 4);
    store.mark_notices_read(bob, NoticeId(i64::MAX)).await.unwrap();
    assert_eq!(unread(bob, 9).await, []);
}

/// Each at its own time, read or not.
pub async fn notices_are_forgotten(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 0).await;
    let notices = [20, 30].map(|moment| NewNotice { forget_at: at(moment), ..notice(alice, 1) });
    store.complete_upload(key, SUMMARY, notices.into(), at(1)).await.unwrap();
    for (moment, count) in [(19, 2), (20, 1), (29, 1), (30, 0)] {
        assert_eq!(unread(store, alice, 9, moment).await.len(), count, "{moment}");
    }
}

/// The upload is completed, and the others get theirs.
pub async fn notices_for_accounts_that_are_gone_are_dropped(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bob = opened(store, "bob").await;
    let key = begun(store, alice, "u", 0).await;
    store.remove_account(name("bob")).await.unwrap();
    let notices = vec![notice(bob, 1), notice(alice, 1)];
    assert_eq!(store.complete_upload(key, SUMMARY, notices, at(1)).await.unwrap(), UploadCompleted::Now);
    assert_eq!(unread(store, alice, 9, 1).await.len(), 1);
    assert_eq!(store.unread_notices(bob, 9, at(1)).await.unwrap(), None);
}

/// The longest time counts, and other sessions are not touched.
pub async fn a_revoked_session_is_remembered_as_long_as_asked(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let is_revoked = async |number, moment| {
        let state = store.session_state(alice, session(number), at(moment)).await.unwrap().unwrap();
        assert_eq!(state, SessionState { is_revoked: state.is_revoked, username: name("alice"), token_epoch: 0 });
        state.is_revoked
    };
    assert!(!is_revoked(1, 0).await);
    store.revoke_session(session(1), at(50)).await.unwrap();
    store.revoke_session(session(1), at(80)).await.unwrap();
    store.revoke_session(session(1), at(60)).await.unwrap();
    assert!(is_revoked(1, 0).await);
    expire_all(store, at(79)).await;
    assert!(is_revoked(1, 79).await);
    assert!(!is_revoked(1, 80).await);
    assert!(!is_revoked(2, 0).await);
}

/// The last note counts.
pub async fn imports_are_noted(store: &dyn Store) {
    assert_eq!(store.import_note("credentials").await.unwrap(), None);
    store.note_import("credentials", "one".into()).await.unwrap();
    store.note_import("tempids", "two".into()).await.unwrap();
    store.note_import("credentials", "three".into()).await.unwrap();
    assert_eq!(store.import_note("credentials").await.unwrap().as_deref(), Some("three"));
    assert_eq!(store.import_note("tempids").await.unwrap().as_deref(), Some("two"));
}

/// And deletes all in the end.
pub async fn expire_deletes_a_bounded_number_and_says_whether_there_is_more(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let bound = u64::from(MAX_EXPIRED_ROWS);
    let all: Vec<Record> = (0..2 * bound + 5).map(record).collect();
    for ids in all.chunks(5_000) {
        assert_eq!(store.issue_temp_ids(alice, ids.to_vec(), at(10)).await.unwrap(), TempIdsIssued::Issued);
    }
    assert_eq!(store.expire(at(9)).await.unwrap(), Expired::default());
    assert_eq!(store.expire(at(10)).await.unwrap(), Expired { rows: bound, more: true });
    assert_eq!(store.expire(at(10)).await.unwrap(), Expired { rows: bound, more: true });
    assert_eq!(store.expire(at(10)).await.unwrap(), Expired { rows: 5, more: false });
    assert_eq!(store.expire(at(10)).await.unwrap(), Expired::default());
    assert_eq!(store.issue_temp_ids(alice, all[..9].to_vec(), at(99)).await.unwrap(), TempIdsIssued::Issued);
}

/// An upload of a million records holds nobody up. Its records count where the store deletes them one by one.
pub async fn expire_deletes_large_uploads_in_parts(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let count = MAX_EXPIRED_ROWS + MAX_EXPIRED_ROWS / 2;
    let key = begun(store, alice, "u", count).await;
    store.append_records(key, 0, (0..u64::from(count)).map(heard).collect()).await.unwrap();
    let other = begun(store, alice, "v", 1).await;
    store.append_records(other, 0, vec![heard(1)]).await.unwrap();
    let mut rows = 0;
    loop {
        let expired = store.expire(at(FORGET)).await.unwrap();
        assert!(expired.rows <= u64::from(MAX_EXPIRED_ROWS));
        rows += expired.rows;
        if !expired.more {
            break;
        }
    }
    assert!(rows == 2 || rows == u64::from(count) + 3, "{rows}");
    assert_eq!(store.expire(at(FORGET)).await.unwrap(), Expired::default());
    assert_eq!(store.uploaded_records(key, 0, 9, at(0)).await.unwrap(), []);
}

/// Rows of every kind, each at its own time and not before.
pub async fn expire_deletes_only_what_is_forgotten(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    for (forget_at, number) in [(10, 1), (20, 2)] {
        store.issue_temp_ids(alice, vec![record(number)], at(forget_at)).await.unwrap();
        let upload = UploadRequest { forget_at: at(forget_at), ..request(alice, &format!("u{number}"), 2) };
        let UploadBegun::Open { key, .. } = store.begin_upload(upload, at(0)).await.unwrap() else {
            panic!("a new upload is in conflict");
        };
        store.append_records(key, 0, vec![heard(1), Uploaded::Malformed]).await.unwrap();
        let left = NewNotice { forget_at: at(forget_at), ..notice(alice, 1) };
        store.complete_upload(key, SUMMARY, vec![left], at(0)).await.unwrap();
        store.revoke_session(session(u8::try_from(number).unwrap()), at(forget_at)).await.unwrap();
        let a_day_before = at(forget_at - UNKNOWN_USERNAME_MEMORY_S);
        store.record_login(name(&format!("x{number}")), Verdict::Wrong, RULE, a_day_before.into()).await.unwrap();
    }
    let rows_of_each = 1 + 1 + 1 + 1 + 1;
    assert_eq!(store.expire(at(9)).await.unwrap(), Expired::default());
    let Expired { rows, more } = store.expire(at(10)).await.unwrap();
    // the two records of the upload, where they are deleted one by one
    assert!(rows == rows_of_each || rows == rows_of_each + 2, "{rows}");
    assert!(!more);
    assert_eq!(store.temp_ids(None, 9, at(0)).await.unwrap(), [line("alice", 2)]);
    let uploads = store.uploads(None, 9, at(0)).await.unwrap();
    assert_eq!(uploads.iter().map(|row| row.durable).collect::<Vec<_>>(), [2]);
    assert_eq!(unread(store, alice, 9, 0).await.len(), 1);
    let is_revoked = async |n| store.session_state(alice, session(n), at(0)).await.unwrap().unwrap().is_revoked;
    assert!(!is_revoked(1).await);
    assert!(is_revoked(2).await);
    assert_eq!(fail(store, "x2", 0).await, LoginRecorded::Wrong { left: 1 });
    assert_eq!(names_of(store, at(0)).await, [name("alice")], "accounts are not forgotten");
}

/// Many calls of every kind under way at once: those that fail do so alone, and the others do what they would alone.
pub async fn concurrent_calls_of_every_kind_do_not_disturb_each_other(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 1_000).await;
    let numbers = || 0..1_000_u64;
    in_threads(4, |kind| match kind {
        0 => {
            for first in 0..100 {
                let records = (first * 10..first * 10 + 10).map(|number| heard(u64::from(number))).collect();
                let durable = block_on(store.append_records(key, first * 10, records)).unwrap().unwrap();
                assert_eq!(durable, first * 10 + 10);
            }
        }
        1 => {
            let issues = numbers().map(|number| store.issue_temp_ids(alice, vec![record(number)], at(100)));
            let outcomes = block_on(together(issues.collect()));
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(TempIdsIssued::Issued))));
        }
        2 => {
            let opens = numbers().map(|number| {
                store.open_account(name(&format!("u{number}")), hash("x"), PasswordSource::Operator, at(0))
            });
            let opened = block_on(together(opens.collect()));
            assert!(opened.iter().all(|outcome| matches!(outcome, Ok(AccountOpened::Opened(_)))));
        }
        _ => {
            for outcome in
                block_on(together(numbers().map(|_| store.append_records(key, 1_001, vec![heard(1)])).collect()))
            {
                failed(&outcome);
            }
            let nobodys =
                numbers().map(|number| store.issue_temp_ids(AccountId(i64::MAX), vec![record(number)], at(100)));
            let outcomes = block_on(together(nobodys.collect()));
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(TempIdsIssued::NoAccount))));
        }
    });
    assert_eq!(store.uploaded_records(key, 0, 2_000, at(1)).await.unwrap(), numbers().map(heard).collect::<Vec<_>>());
    assert_eq!(store.accounts(None, 2_000, at(1).into()).await.unwrap().len(), 1_001);
    assert_eq!(store.temp_ids(None, 2_000, at(1)).await.unwrap().len(), 1_000);
}

/// Runs a future to its end on this thread. Enough for a store, which needs no runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits for all of the calls at once; outcomes in order.
pub async fn together<T>(calls: Vec<StoreFuture<'_, T>>) -> Vec<Result<T, StoreError>> {
    let mut calls: Vec<_> = calls.into_iter().map(|call| (Some(call), None)).collect();
    poll_fn(|context| {
        let mut is_ready = true;
        for (call, outcome) in &mut calls {
            match call.as_mut().map(|call| call.as_mut().poll(context)) {
                Some(Poll::Ready(ready)) => {
                    *outcome = Some(ready);
                    *call = None;
                }
                Some(Poll::Pending) => is_ready = false,
                None => {}
            }
        }
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    calls.into_iter().filter_map(|(_, outcome)| outcome).collect()
}

/// Does `work` in so many threads at once; outcomes in the order of their numbers.
fn in_threads<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn failed<T: std::fmt::Debug>(outcome: &Result<T, StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Failed(_))), "{outcome:?}");
}

async fn opened(store: &dyn Store, text: &str) -> AccountId {
    let outcome = store.open_account(name(text), hash(&format!("{text}'s")), PasswordSource::Operator, at(0)).await;
    match outcome.unwrap() {
        AccountOpened::Opened(id) => id,
        AccountOpened::Exists(_) => panic!("there is an account of the name already"),
    }
}

async fn begun(store: &dyn Store, account: AccountId, upload: &str, records: u32) -> UploadKey {
    let begun = store.begin_upload(request(account, upload, records), at(0)).await.unwrap();
    let UploadBegun::Open { key, .. } = begun else { panic!("a new upload: {begun:?}") };
    key
}

async fn unread(store: &dyn Store, account: AccountId, limit: u32, moment: i64) -> Vec<(NoticeId, ExposureNotice)> {
    store.unread_notices(account, limit, at(moment)).await.unwrap().unwrap()
}

async fn fail(store: &dyn Store, text: &str, moment: i64) -> LoginRecorded {
    store.record_login(name(text), Verdict::Wrong, RULE, at(moment).into()).await.unwrap()
}

async fn succeed(store: &dyn Store, text: &str, moment: i64) -> LoginRecorded {
    store.record_login(name(text), Verdict::Right, RULE, at(moment).into()).await.unwrap()
}

async fn names_of(store: &dyn Store, now: Timestamp) -> Vec<Username> {
    store.accounts(None, u32::MAX, now.into()).await.unwrap().into_iter().map(|row| row.username).collect()
}

async fn expire_all(store: &dyn Store, now: Timestamp) {
    while store.expire(now).await.unwrap().more {}
}

/// So many seconds after the begin of a case.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_589_392_446 + seconds).unwrap()
}

/// So many milliseconds after the begin of a case.
fn at_ms(milliseconds: i64) -> Moment {
    Moment::from(at(0)).plus_ms(milliseconds)
}

fn name(text: &str) -> Username {
    Username::parse(text).unwrap()
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash(text.into())
}

fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn id(number: u64) -> TempId {
    TempId::parse(&format!("{number:020}")).unwrap()
}

fn record(number: u64) -> Record {
    Record { temp_id: id(number), window: Window::new(at(0), at(899)).unwrap() }
}

fn line(username: &str, number: u64) -> ImportedTempId {
    ImportedTempId { username: name(username), record: record(number) }
}

fn heard(number: u64) -> Uploaded {
    let seen = u32::try_from(number % 7).ok();
    Uploaded::Record(UploadedRecord { record: record(number), received: Some(at(5)), rssi: None, seen })
}

fn request(account: AccountId, upload: &str, records: u32) -> UploadRequest {
    UploadRequest {
        account,
        upload: UploadId::parse(upload).unwrap(),
        records,
        forget_at: at(FORGET),
        code: CodeCheck::NotRequired,
    }
}

fn notice(account: AccountId, minute: i64) -> NewNotice {
    let advice = format!("stay at home for {minute} days");
    let notice = ExposureNotice { from: at(minute * 60), to: at(minute * 60 + 899), advice };
    NewNotice { account, notice, forget_at: at(FORGET) }
}

const RULE: Lockout = Lockout { max_failures: 3, block_duration_s: 60 };

/// When the uploads and notices of a case are forgotten, in seconds after its begin.
const FORGET: i64 = 1_000;

const SUMMARY: UploadSummary = UploadSummary { records: 9, resolved: 4, unknown: 3, invalid: 2 };

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_is_in_the_list() {
        let (list, cases) = include_str!("mod.rs").split_once("(@cases $open:expr; $($case:ident)*)").unwrap();
        let is_case = |line: &&str| line.starts_with("pub async fn ") && line.ends_with("(store: &dyn Store) {");
        for case in
            [cases, include_str!("keys.rs"), include_str!("codes.rs")].into_iter().flat_map(str::lines).filter(is_case)
        {
            let name = case.trim_start_matches("pub async fn ").trim_end_matches("(store: &dyn Store) {");
            assert!(list.contains(&format!("            {name}\n")), "{name}");
        }
    }
}
