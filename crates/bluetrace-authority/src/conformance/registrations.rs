//! Owns what every store must do about registrations.

use bluetrace_protocol::Timestamp;

use super::{at, expire_all, hash, name, names_of, opened, record, together};
use crate::store::{
    AccountId, Confirmation, ImportedTempId, NewOneTimeCode, NumberHash, OneTimeCodeId, OneTimeCodeMade, OneTimeHash,
    PasswordHash, RegistrationConfirmed, RegistrationLimits, Store,
};

/// Whoever asks again is told of the one that was sent.
pub async fn a_number_is_sent_no_second_code_within_the_pause(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    let before = OneTimeCodeMade::SentBefore { expires: at(100), again: at(20) };
    for moment in [0, 1, 19] {
        assert_eq!(make(store, 1, 2, moment).await, before);
    }
    sent(make(store, 2, 2, 1).await);
    sent(make(store, 1, 3, 20).await);
    assert_eq!(make(store, 1, 4, 21).await, OneTimeCodeMade::SentBefore { expires: at(120), again: at(40) });
    assert_eq!(confirm(store, 1, 2, 22).await, RegistrationConfirmed::Wrong { left: 2 }, "it was never stored");
    assert!(matches!(confirm(store, 1, 1, 22).await, RegistrationConfirmed::Opened(_)), "the first one is good");
}

/// Two servers may be asked at once.
pub async fn racing_requests_for_a_number_send_one_code(store: &dyn Store) {
    let made = together((0..20).map(|number| store.make_one_time_code(code(1, number), at(0))).collect()).await;
    let sent = made.into_iter().filter(|made| matches!(made, Ok(OneTimeCodeMade::Send(_)))).count();
    assert_eq!(sent, 1);
}

/// The next is sent at once, and what had arrived all the same is good.
pub async fn a_code_with_which_the_sender_failed_holds_up_none_and_is_good(store: &dyn Store) {
    let first = sent(make(store, 1, 1, 0).await);
    for _ in 0..2 {
        store.one_time_code_failed(first).await.unwrap();
    }
    store.one_time_code_failed(OneTimeCodeId(first.0 + 99)).await.unwrap();
    sent(make(store, 1, 2, 0).await);
    assert!(matches!(make(store, 1, 3, 0).await, OneTimeCodeMade::SentBefore { .. }));
    assert!(matches!(confirm(store, 1, 1, 1).await, RegistrationConfirmed::Opened(_)));
}

/// Those that the sender failed with count against a limit of their own. Other numbers are sent theirs.
pub async fn a_number_is_sent_a_bounded_number_of_codes_in_a_window(store: &dyn Store) {
    for moment in [0, 20, 40] {
        sent(make(store, 1, 1, moment).await);
    }
    assert_eq!(make(store, 1, 1, 60).await, OneTimeCodeMade::TooMany { until: at(1_000) });
    expire_all(store, at(999)).await;
    assert_eq!(make(store, 1, 1, 999).await, OneTimeCodeMade::TooMany { until: at(1_000) });
    sent(make(store, 2, 1, 999).await);
    sent(make(store, 1, 1, 1_000).await);
    assert_eq!(make(store, 1, 1, 1_019).await, OneTimeCodeMade::SentBefore { expires: at(1_100), again: at(1_020) });
    for _ in 0..LIMITS.max_made {
        let failed = sent(make(store, 3, 1, 50).await);
        store.one_time_code_failed(failed).await.unwrap();
    }
    assert_eq!(make(store, 3, 1, 50).await, OneTimeCodeMade::TooMany { until: at(1_050) });
}

/// With the first one every code of the number is used.
pub async fn a_right_code_opens_an_account_once(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    sent(make(store, 1, 2, 30).await);
    let RegistrationConfirmed::Opened(account) = confirm(store, 1, 2, 31).await else { panic!("a new account") };
    for number in [1, 2] {
        assert_eq!(confirm(store, 1, number, 32).await, RegistrationConfirmed::Wrong { left: 0 });
    }
    let found = store.login_state(name("+1"), at(33).into()).await.unwrap().account.unwrap();
    assert_eq!((found.id, found.password_hash, found.token_epoch, found.created), (account, None, 0, at(31)));
}

/// There is one account, one use, and the others are told that theirs is wrong.
pub async fn racing_confirmations_use_a_code_once(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    let confirmed =
        together((0..20).map(|_| store.confirm_registration(confirmation(1, 1, None), at(1))).collect()).await;
    let confirmed: Vec<_> = confirmed.into_iter().map(Result::unwrap).collect();
    let opened = confirmed.iter().filter(|one| matches!(one, RegistrationConfirmed::Opened(_))).count();
    let wrong = confirmed.iter().filter(|one| **one == RegistrationConfirmed::Wrong { left: 0 }).count();
    assert_eq!((opened, wrong), (1, 19), "{confirmed:?}");
    assert_eq!(names_of(store, at(2)).await, [name("+1")]);
}

/// A later one is not harmed by what was guessed before it was sent.
pub async fn the_last_wrong_guess_kills_a_code(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    assert_eq!(confirm(store, 1, 9, 1).await, RegistrationConfirmed::Wrong { left: 2 });
    assert_eq!(confirm(store, 1, 9, 1).await, RegistrationConfirmed::Wrong { left: 1 }, "each counts");
    sent(make(store, 1, 2, 20).await);
    assert_eq!(confirm(store, 1, 9, 21).await, RegistrationConfirmed::Wrong { left: 2 });
    assert_eq!(confirm(store, 1, 1, 21).await, RegistrationConfirmed::Wrong { left: 1 }, "that one is dead");
    assert!(names_of(store, at(22)).await.is_empty());
    assert!(matches!(confirm(store, 1, 2, 22).await, RegistrationConfirmed::Opened(_)), "the last free guess is right");
}

/// However many ask at once.
pub async fn racing_guesses_are_counted_exactly(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    let guesses = together((0..9).map(|_| store.confirm_registration(confirmation(1, 9, None), at(1))).collect()).await;
    let mut left: Vec<_> = guesses
        .into_iter()
        .map(|guess| match guess.unwrap() {
            RegistrationConfirmed::Wrong { left } => left,
            right @ (RegistrationConfirmed::Opened(_)
            | RegistrationConfirmed::Known { .. }
            | RegistrationConfirmed::NotTheNumbers) => panic!("a wrong guess: {right:?}"),
        })
        .collect();
    left.sort_unstable();
    assert_eq!(left, [0, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(confirm(store, 1, 1, 2).await, RegistrationConfirmed::Wrong { left: 0 }, "it is dead");
}

/// It is good for its time, and not a second longer; and its number's alone.
pub async fn a_one_time_code_is_good_for_its_number_and_its_time(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    sent(make(store, 2, 2, 0).await);
    assert_eq!(confirm(store, 2, 1, 1).await, RegistrationConfirmed::Wrong { left: 2 });
    assert_eq!(confirm(store, 3, 1, 1).await, RegistrationConfirmed::Wrong { left: 0 });
    assert_eq!(confirm(store, 1, 1, 100).await, RegistrationConfirmed::Wrong { left: 0 }, "it is over");
    assert!(matches!(confirm(store, 2, 2, 99).await, RegistrationConfirmed::Opened(_)));
}

/// A password is set if there is one, and then the account's other sessions end.
pub async fn a_number_that_proves_itself_again_finds_its_account(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    let opened = store.confirm_registration(confirmation(1, 1, Some("first")), at(1)).await.unwrap();
    let RegistrationConfirmed::Opened(account) = opened else { panic!("a new account: {opened:?}") };
    assert_eq!(password_of(store, account, 2).await, (Some(hash("first")), 0));
    sent(make(store, 1, 2, 30).await);
    assert_eq!(confirm(store, 1, 2, 31).await, RegistrationConfirmed::Known { account, token_epoch: 0 });
    assert_eq!(password_of(store, account, 32).await, (Some(hash("first")), 0));
    sent(make(store, 1, 3, 60).await);
    let again = store.confirm_registration(confirmation(1, 3, Some("second")), at(61)).await.unwrap();
    assert_eq!(again, RegistrationConfirmed::Known { account, token_epoch: 1 });
    assert_eq!(password_of(store, account, 62).await, (Some(hash("second")), 1));
}

/// Its password is the only way in, and the code is used all the same.
pub async fn an_account_to_which_an_operator_gave_a_password_is_not_the_numbers(store: &dyn Store) {
    let account = opened(store, "+1").await;
    sent(make(store, 1, 1, 0).await);
    let refused = store.confirm_registration(confirmation(1, 1, Some("mine now")), at(1)).await.unwrap();
    assert_eq!(refused, RegistrationConfirmed::NotTheNumbers);
    assert_eq!(password_of(store, account, 1).await, (Some(hash("+1's")), 0));
    assert_eq!(confirm(store, 1, 1, 2).await, RegistrationConfirmed::Wrong { left: 0 });
}

/// Nobody else can be in it.
pub async fn an_account_without_a_password_is_the_numbers(store: &dyn Store) {
    let line = ImportedTempId { username: name("+1"), record: record(1) };
    store.import_temp_ids(vec![line], at(500), at(0)).await.unwrap();
    sent(make(store, 1, 1, 0).await);
    let confirmed = confirm(store, 1, 1, 1).await;
    let RegistrationConfirmed::Known { account, token_epoch: 0 } = confirmed else {
        panic!("the account that there is: {confirmed:?}")
    };
    assert_eq!(password_of(store, account, 1).await, (None, 0));
    // and stays it, also when it has one
    assert!(store.change_password(name("+1"), hash("new"), crate::store::PasswordSource::Operator).await.unwrap());
    sent(make(store, 1, 2, 30).await);
    assert_eq!(confirm(store, 1, 2, 31).await, RegistrationConfirmed::Known { account, token_epoch: 1 });
}

/// As another account.
pub async fn a_number_whose_account_was_removed_registers_anew(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    let RegistrationConfirmed::Opened(before) = confirm(store, 1, 1, 1).await else { panic!("a new account") };
    assert!(store.remove_account(name("+1")).await.unwrap());
    sent(make(store, 1, 2, 30).await);
    let RegistrationConfirmed::Opened(after) = confirm(store, 1, 2, 31).await else { panic!("a new account") };
    assert_ne!(before, after);
    // what an operator opens under the name meanwhile is the operator's
    assert!(store.remove_account(name("+1")).await.unwrap());
    opened(store, "+1").await;
    sent(make(store, 1, 3, 60).await);
    assert_eq!(confirm(store, 1, 3, 61).await, RegistrationConfirmed::NotTheNumbers);
}

/// And not before they count no more.
pub async fn one_time_codes_are_forgotten(store: &dyn Store) {
    sent(make(store, 1, 1, 0).await);
    sent(make(store, 1, 2, 500).await);
    assert_eq!(store.expire(at(999)).await.unwrap().rows, 0);
    assert_eq!(store.expire(at(1_000)).await.unwrap().rows, 1);
    assert_eq!(store.expire(at(1_500)).await.unwrap().rows, 1);
}

async fn make(store: &dyn Store, number: u8, code: u8, moment: i64) -> OneTimeCodeMade {
    store.make_one_time_code(self::code(number, code), at(moment)).await.unwrap()
}

async fn confirm(store: &dyn Store, number: u8, code: u8, moment: i64) -> RegistrationConfirmed {
    store.confirm_registration(confirmation(number, code, None), at(moment)).await.unwrap()
}

async fn password_of(store: &dyn Store, account: AccountId, moment: i64) -> (Option<PasswordHash>, u32) {
    let found = store.login_state(name("+1"), Timestamp::into(at(moment))).await.unwrap().account.unwrap();
    assert_eq!(found.id, account);
    (found.password_hash, found.token_epoch)
}

fn sent(made: OneTimeCodeMade) -> OneTimeCodeId {
    match made {
        OneTimeCodeMade::Send(id) => id,
        other @ (OneTimeCodeMade::SentBefore { .. } | OneTimeCodeMade::TooMany { .. }) => {
            panic!("a code that is sent: {other:?}")
        }
    }
}

fn code(number: u8, code: u8) -> NewOneTimeCode {
    NewOneTimeCode { number: NumberHash([number; 32]), hash: OneTimeHash([code; 32]), limits: LIMITS }
}

fn confirmation(number: u8, code: u8, password: Option<&str>) -> Confirmation {
    Confirmation {
        number: NumberHash([number; 32]),
        username: name(&format!("+{number}")),
        hash: OneTimeHash([code; 32]),
        password: password.map(hash),
        limits: LIMITS,
    }
}

const LIMITS: RegistrationLimits =
    RegistrationLimits { lifetime_s: 100, pause_s: 20, window_s: 1_000, max_sent: 3, max_made: 5, max_wrong: 3 };
