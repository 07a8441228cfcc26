//! Owns what every [`Store`] must do: one function a law, none of which asks which store it is.
//!
//! [`store_conformance!`](crate::store_conformance) makes a test of each. A case begins with an empty store.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a case is a test: it panics where a store breaks a law"
)]

mod accounts;
mod codes;
mod expiry;
mod keys;
mod logins;
mod notices;
mod registrations;
mod temp_ids;
mod uploads;

pub use self::accounts::*;
pub use self::codes::*;
pub use self::expiry::*;
pub use self::keys::*;
pub use self::logins::*;
pub use self::notices::*;
pub use self::registrations::*;
pub use self::temp_ids::*;
pub use self::uploads::*;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Username,
    Window,
};

use crate::store::{
    AccountId, AccountOpened, CodeCheck, ImportedTempId, Lockout, LoginRecorded, NewNotice, NoticeId, PasswordHash,
    PasswordSource, SessionId, Store, StoreError, StoreFuture, UploadBegun, UploadKey, UploadRequest, Verdict,
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
            what_people_were_told_can_be_looked_up_by_whose_upload_it_was
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
            wrong_codes_are_listed_and_forgiven_by_account_and_count_on_against_their_form
            a_wrong_code_that_is_repeated_stays_wrong_though_it_is_issued_meanwhile
            too_many_wrong_codes_of_all_accounts_end_all_guessing_for_a_while
            a_code_may_be_redeemed_ahead_of_its_upload
            a_revoked_code_is_of_no_use_to_anybody
            a_removed_accounts_code_goes_with_it
            a_handshake_pin_is_the_same_while_it_lives
            racing_questions_for_a_handshake_pin_have_one_answer
            // registrations
            a_number_is_sent_no_second_code_within_the_pause
            racing_requests_for_a_number_send_one_code
            a_code_with_which_the_sender_failed_holds_up_none_and_is_good
            a_number_is_sent_a_bounded_number_of_codes_in_a_window
            a_right_code_opens_an_account_once
            racing_confirmations_use_a_code_once
            the_last_wrong_guess_kills_a_code
            racing_guesses_are_counted_exactly
            a_one_time_code_is_good_for_its_number_and_its_time
            a_number_that_proves_itself_again_finds_its_account
            an_account_to_which_an_operator_gave_a_password_is_not_the_numbers
            an_account_without_a_password_is_the_numbers
            a_number_whose_account_was_removed_registers_anew
            one_time_codes_are_forgotten
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
        let (list, _) = include_str!("mod.rs").split_once("(@cases $open:expr; $($case:ident)*)").unwrap();
        let files = [
            include_str!("accounts.rs"),
            include_str!("codes.rs"),
            include_str!("expiry.rs"),
            include_str!("keys.rs"),
            include_str!("logins.rs"),
            include_str!("notices.rs"),
            include_str!("registrations.rs"),
            include_str!("temp_ids.rs"),
            include_str!("uploads.rs"),
        ];
        let is_case = |line: &&str| line.starts_with("pub async fn ") && line.ends_with("(store: &dyn Store) {");
        for case in files.into_iter().flat_map(str::lines).filter(is_case) {
            let name = case.trim_start_matches("pub async fn ").trim_end_matches("(store: &dyn Store) {");
            assert!(list.contains(&format!("            {name}\n")), "{name}");
        }
    }
}
