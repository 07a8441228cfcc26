//! Owns the laws of upload codes and handshake PINs.

use bluetrace_protocol::{Timestamp, UploadId};

use super::{FORGET, SUMMARY, at, block_on, expire_all, heard, in_threads, name, opened, request, together};
use crate::store::{
    AccountId, CodeCheck, CodeForm, CodeHash, CodeIssued, CodeLimits, CodeRedeemed, CodeRevoked, CodeState,
    NewUploadCode, PinSeed, PresentedCode, Store, UploadBegun, UploadCodeId, UploadCompleted, UploadKey, UploadRequest,
};

/// With all that an operator said of it, and forgotten when it can no longer be redeemed.
pub async fn upload_codes_are_listed_in_order_and_in_pages_until_they_expire(store: &dyn Store) {
    let ids = [issued(store, 1, 50).await, issued(store, 2, 60).await, issued(store, 3, 70).await];
    assert!(ids.is_sorted_by(|one, next| one < next));
    let rows = store.upload_codes(None, 2, at(1)).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), ids[..2]);
    let row = &rows[1];
    assert_eq!((row.form, row.case.as_str(), row.issued_by.as_str()), (CodeForm::Eight, "case 2", "desk"));
    assert_eq!((row.issued, row.expires, &row.state), (at(0), at(60), &CodeState::Live));
    let rest = store.upload_codes(Some(ids[1]), 9, at(1)).await.unwrap();
    assert_eq!(rest.iter().map(|row| row.id).collect::<Vec<_>>(), ids[2..]);
    for (moment, left) in [(49, 3), (50, 2), (69, 1), (70, 0)] {
        assert_eq!(store.upload_codes(None, 9, at(moment)).await.unwrap().len(), left, "{moment}");
    }
    assert_eq!(store.expire(at(60)).await.unwrap().rows, 2);
    assert_eq!(states(store, 1).await, [(ids[2], CodeState::Live)]);
}

/// Two codes of one text could not be told apart. A forgotten one is in nobody's way.
pub async fn an_upload_code_is_issued_once_and_again_when_it_is_forgotten(store: &dyn Store) {
    let first = issued(store, 1, 50).await;
    assert_eq!(store.issue_upload_code(code(1, 99), at(1)).await.unwrap(), CodeIssued::Taken);
    assert_eq!(store.revoke_upload_code(first, at(1)).await.unwrap(), CodeRevoked::Revoked);
    assert_eq!(store.issue_upload_code(code(1, 99), at(49)).await.unwrap(), CodeIssued::Taken, "a revoked one, too");
    let CodeIssued::Issued(second) = store.issue_upload_code(code(1, 99), at(50)).await.unwrap() else {
        panic!("the code is free")
    };
    assert!(second > first);
    assert_eq!(store.upload_codes(None, 9, at(51)).await.unwrap().len(), 1);
}

/// Only those that somebody could still hit count.
pub async fn no_more_upload_codes_of_a_form_are_live_than_may_be(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let mut ids = Vec::new();
    for number in 1..=LIMITS.max_live {
        ids.push(issued(store, u8::try_from(number).unwrap(), 50).await);
    }
    let one_more = async |moment| store.issue_upload_code(code(99, 90), at(moment)).await.unwrap();
    assert_eq!(one_more(1).await, CodeIssued::TooManyLive);
    let other_form = NewUploadCode { form: CodeForm::Six, ..code(98, 90) };
    assert!(matches!(store.issue_upload_code(other_form, at(1)).await.unwrap(), CodeIssued::Issued(_)));
    assert!(is_open(&begin(store, alice, "u", Some(1), 1).await));
    assert!(matches!(one_more(1).await, CodeIssued::Issued(_)), "one was redeemed");
    assert_eq!(store.issue_upload_code(code(97, 90), at(1)).await.unwrap(), CodeIssued::TooManyLive);
    store.revoke_upload_code(ids[1], at(1)).await.unwrap();
    assert!(matches!(store.issue_upload_code(code(97, 90), at(1)).await.unwrap(), CodeIssued::Issued(_)));
    assert!(matches!(store.issue_upload_code(code(96, 90), at(50)).await.unwrap(), CodeIssued::Issued(_)));
}

/// Without a code, or with one that is not live, nothing begins. Where none is required a code is not looked at.
pub async fn an_upload_begins_with_a_live_code_only_where_one_is_required(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    issued(store, 1, 50).await;
    let revoked = issued(store, 2, 50).await;
    store.revoke_upload_code(revoked, at(1)).await.unwrap();
    assert_eq!(begin(store, alice, "u", None, 1).await, UploadBegun::CodeRequired);
    assert_eq!(begin(store, alice, "u", Some(2), 1).await, UploadBegun::CodeRefused { left: 2 });
    assert_eq!(begin(store, alice, "u", Some(3), 1).await, UploadBegun::CodeRefused { left: 1 });
    assert_eq!(begin(store, AccountId(99), "u", Some(1), 1).await, UploadBegun::NoAccount);
    assert_eq!(store.uploads(None, 9, at(1)).await.unwrap(), []);
    assert!(is_open(&begin(store, alice, "u", Some(1), 1).await));
    assert!(is_open(&store.begin_upload(request(alice, "v", 2), at(1)).await.unwrap()));
    let late = opened(store, "late").await;
    issued(store, 4, 50).await;
    assert_eq!(begin(store, late, "u", Some(4), 50).await, UploadBegun::CodeRefused { left: 2 }, "it has expired");
}

/// On any server, long after the code has expired, with the code or without it, until the upload is complete, and then too.
pub async fn a_redeemed_code_lets_its_account_finish_its_upload(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let id = issued(store, 1, 50).await;
    let key = opens(begin(store, alice, "u", Some(1), 49).await, 0);
    assert_eq!(states(store, 49).await, [(id, CodeState::Redeemed { by: name("alice"), at: at(49) })]);
    store.append_records(key, 0, vec![heard(1)]).await.unwrap();
    expire_all(store, at(500)).await;
    for presented in [Some(1), None, Some(9)] {
        assert_eq!(opens(begin(store, alice, "u", presented, 500).await, 1), key);
    }
    store.append_records(key, 1, vec![heard(2)]).await.unwrap();
    assert_eq!(store.complete_upload(key, SUMMARY, Vec::new(), at(501)).await.unwrap(), UploadCompleted::Now);
    assert_eq!(states(store, 502).await, [(id, CodeState::Used { by: name("alice"), at: at(49) })]);
    for presented in [Some(1), None] {
        let again = begin(store, alice, "u", presented, 502).await;
        assert_eq!(again, UploadBegun::Open { key, durable: 2, summary: Some(SUMMARY) });
    }
    assert_eq!(store.upload_codes(None, 9, at(FORGET - 1)).await.unwrap().len(), 1);
    assert_eq!(store.upload_codes(None, 9, at(FORGET)).await.unwrap(), []);
}

/// Neither while the upload is open nor when it is complete.
pub async fn a_redeemed_code_is_of_no_use_to_anybody_else(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    issued(store, 1, 50).await;
    let key = opens(begin(store, alice, "u", Some(1), 1).await, 0);
    assert_eq!(begin(store, bob, "u", Some(1), 1).await, UploadBegun::CodeRefused { left: 2 });
    complete(store, key).await;
    assert_eq!(begin(store, bob, "u", Some(1), 1).await, UploadBegun::CodeRefused { left: 2 }, "not counted again");
    assert_eq!(begin(store, bob, "v", Some(1), 1).await, UploadBegun::CodeRefused { left: 1 });
}

/// The first that presents it has it.
pub async fn racing_accounts_redeem_a_code_once(store: &dyn Store) {
    let mut accounts = Vec::new();
    for number in 0..8 {
        accounts.push(opened(store, &format!("user-{number}")).await);
    }
    for round in 0..20 {
        issued(store, round, 50).await;
        let upload = format!("u-{round}");
        let begun = in_threads(8, |number| block_on(begin(store, accounts[number], &upload, Some(round), 1)));
        let winners: Vec<_> = (0..8).filter(|number| is_open(&begun[*number])).collect();
        assert_eq!(winners.len(), 1, "round {round}: {begun:?}");
        let uploads = store.uploads(None, 99, at(1)).await.unwrap();
        assert_eq!(uploads.iter().filter(|row| row.upload.reveal() == upload).count(), 1);
        expire_all(store, at(2 + i64::from(LIMITS.window_s))).await;
        issued(store, 100 + round, 50).await;
        // the same from one task, so that calls of several accounts may meet in one group of writes
        let calls = accounts.iter().map(|account| store.begin_upload(coded(*account, "w", Some(100 + round)), at(1)));
        let begun = together(calls.collect()).await;
        assert_eq!(begun.iter().filter(|begun| begun.as_ref().is_ok_and(is_open)).count(), 1, "round {round}");
        // whoever had it must not have it in the next round
        for (number, account) in accounts.iter_mut().enumerate() {
            store.remove_account(name(&format!("user-{number}"))).await.unwrap();
            *account = opened(store, &format!("user-{number}")).await;
        }
    }
}

/// One code, one upload: a device that has lost its upload's name begins another with the code, and the unfinished one is gone.
pub async fn a_code_moves_with_its_account_to_another_upload_until_one_is_complete(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    issued(store, 1, 50).await;
    let first = opens(begin(store, alice, "u", Some(1), 1).await, 0);
    store.append_records(first, 0, vec![heard(1)]).await.unwrap();
    let second = opens(begin(store, alice, "v", Some(1), 60).await, 0);
    assert_ne!(first, second);
    assert_eq!(store.append_records(first, 1, vec![heard(2)]).await.unwrap(), None);
    assert_eq!(store.complete_upload(first, SUMMARY, Vec::new(), at(60)).await.unwrap(), UploadCompleted::NoUpload);
    assert_eq!(store.uploads(None, 9, at(60)).await.unwrap().len(), 1);
    assert_eq!(begin(store, alice, "u", None, 60).await, UploadBegun::CodeRequired);
    let third = opens(begin(store, alice, "u", Some(1), 61).await, 0);
    expire_all(store, at(61)).await;
    assert_eq!(store.uploads(None, 9, at(61)).await.unwrap().iter().map(|row| row.key).collect::<Vec<_>>(), [third]);
    complete(store, third).await;
    for upload in ["v", "w"] {
        let refused = begin(store, alice, upload, Some(1), 62).await;
        assert_eq!(refused, UploadBegun::CodeRefused { left: 3 }, "used, and its own: it is no guess");
    }
}

/// An upload that began while none was required is a new one in this.
pub async fn an_upload_begun_without_a_code_needs_one_to_go_on_where_one_is_required(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    issued(store, 1, 50).await;
    let key = opens(store.begin_upload(request(alice, "u", 2), at(0)).await.unwrap(), 0);
    store.append_records(key, 0, vec![heard(1)]).await.unwrap();
    assert_eq!(begin(store, alice, "u", None, 1).await, UploadBegun::CodeRequired);
    let other_number = UploadRequest { records: 9, ..coded(alice, "u", Some(1)) };
    assert_eq!(store.begin_upload(other_number, at(1)).await.unwrap(), UploadBegun::Conflict { records: 2 });
    assert_eq!(opens(begin(store, alice, "u", Some(1), 1).await, 1), key);
    assert_eq!(opens(begin(store, alice, "u", None, 1).await, 1), key);
}

/// Not even the right one is looked at, until the first wrong one counts no more. Repeating a begin counts nothing.
pub async fn too_many_wrong_codes_of_an_account_end_its_guessing_for_a_while(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    issued(store, 1, 500).await;
    issued(store, 2, 500).await;
    let mine = opens(begin(store, alice, "mine", Some(1), 0).await, 0);
    for (moment, number, left) in [(1, 11, 2), (1, 11, 2), (2, 12, 1), (2, 11, 1), (3, 13, 0)] {
        assert_eq!(begin(store, alice, "u", Some(number), moment).await, UploadBegun::CodeRefused { left }, "{number}");
    }
    let window = i64::from(LIMITS.window_s);
    let too_many = UploadBegun::TooManyCodes { until: at(1 + window) };
    for number in [14, 2] {
        assert_eq!(begin(store, alice, "u", Some(number), 4).await, too_many, "{number}");
    }
    assert_eq!(begin(store, alice, "u", Some(13), 4).await, UploadBegun::CodeRefused { left: 0 }, "as before");
    assert_eq!(begin(store, alice, "u", None, 4).await, UploadBegun::CodeRequired);
    assert_eq!(opens(begin(store, alice, "mine", Some(1), 4).await, 0), mine, "what is its own goes on");
    assert_eq!(begin(store, bob, "u", Some(14), 4).await, UploadBegun::CodeRefused { left: 2 }, "nobody else suffers");
    assert_eq!(begin(store, alice, "u", Some(2), window).await, too_many);
    assert_eq!(begin(store, alice, "u", Some(11), 1 + window).await, UploadBegun::CodeRefused { left: 0 });
    assert!(is_open(&begin(store, alice, "u", Some(2), 2 + window).await));
}

/// An official lets somebody try again who mistyped; what bounds everybody's guessing is not loosened.
pub async fn wrong_codes_are_listed_and_forgiven_by_account_and_count_on_against_their_form(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    opened(store, "carol").await;
    issued(store, 1, 500).await;
    for (moment, number) in [(1, 11), (2, 12), (3, 13)] {
        begin(store, alice, "u", Some(number), moment).await;
    }
    begin(store, bob, "u", Some(14), 4).await;
    let window = i64::from(LIMITS.window_s);
    let listed = async |after: Option<&str>, limit, moment| -> Vec<(String, u32, Timestamp)> {
        let rows = store.wrong_upload_codes(after.map(name), limit, at(moment)).await.unwrap();
        rows.into_iter().map(|(who, wrong)| (who.reveal().to_owned(), wrong.count, wrong.first_ends)).collect()
    };
    let (alices, bobs) = (("alice".to_owned(), 3, at(1 + window)), ("bob".to_owned(), 1, at(4 + window)));
    assert_eq!(listed(None, 9, 5).await, [alices.clone(), bobs.clone()]);
    assert_eq!(listed(None, 1, 5).await, [alices]);
    assert_eq!(listed(Some("alice"), 9, 5).await, std::slice::from_ref(&bobs));
    assert_eq!(listed(None, 9, 2 + window).await[0], ("alice".to_owned(), 1, at(3 + window)));

    assert_eq!(store.forgive_wrong_codes(name("nobody"), at(5)).await.unwrap(), None);
    assert_eq!(store.forgive_wrong_codes(name("carol"), at(5)).await.unwrap(), Some(0));
    assert_eq!(store.forgive_wrong_codes(name("alice"), at(5)).await.unwrap(), Some(3));
    assert_eq!(store.forgive_wrong_codes(name("alice"), at(5)).await.unwrap(), Some(0));
    assert_eq!(listed(None, 9, 5).await, [bobs]);
    assert!(is_open(&begin(store, alice, "u", Some(1), 5).await), "it is looked at again");
    // 4 of 8 count against the form, and the ninth is not looked at
    for (account, number, left) in [(alice, 21, 2), (alice, 22, 1), (alice, 23, 0), (bob, 24, 1)] {
        assert_eq!(begin(store, account, "v", Some(number), 6).await, UploadBegun::CodeRefused { left }, "{number}");
    }
    assert_eq!(begin(store, bob, "v", Some(25), 6).await, UploadBegun::TooManyCodes { until: at(1 + window) });
    // they are forgotten as ever
    assert_eq!(begin(store, bob, "v", Some(25), 1 + window).await, UploadBegun::CodeRefused { left: 0 });
    expire_all(store, at(6 + window)).await;
}

/// Or whoever repeats his guesses would guess at every code that is issued meanwhile.
pub async fn a_wrong_code_that_is_repeated_stays_wrong_though_it_is_issued_meanwhile(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    assert_eq!(begin(store, alice, "u", Some(1), 1).await, UploadBegun::CodeRefused { left: 2 });
    issued(store, 1, 500).await;
    assert_eq!(begin(store, alice, "u", Some(1), 2).await, UploadBegun::CodeRefused { left: 2 });
    assert!(is_open(&begin(store, bob, "u", Some(1), 2).await), "it is whose it is");
}

/// However many accounts guess, and also if they are removed and opened anew. Other forms of codes have limits of their own.
pub async fn too_many_wrong_codes_of_all_accounts_end_all_guessing_for_a_while(store: &dyn Store) {
    issued(store, 1, 500).await;
    for number in 0..LIMITS.max_wrong {
        let account = opened(store, "guesser").await;
        let guess = u8::try_from(100 + number).unwrap();
        assert_eq!(begin(store, account, "u", Some(guess), 1).await, UploadBegun::CodeRefused { left: 2 });
        let formless = PresentedCode { form: None, ..presented(200) };
        let refused = store.redeem_upload_code(account, formless, at(FORGET), at(1)).await.unwrap();
        assert_eq!(refused, CodeRedeemed::Refused { left: 1 }, "of no form, it counts to the account alone");
        assert!(store.remove_account(name("guesser")).await.unwrap());
    }
    let bob = opened(store, "bob").await;
    let until = at(1 + i64::from(LIMITS.window_s));
    assert_eq!(begin(store, bob, "u", Some(1), 2).await, UploadBegun::TooManyCodes { until });
    let six = PresentedCode { form: Some(CodeForm::Six), ..presented(201) };
    let refused = store.redeem_upload_code(bob, six, at(FORGET), at(2)).await.unwrap();
    assert_eq!(refused, CodeRedeemed::Refused { left: 2 });
    assert!(is_open(&begin(store, bob, "u", Some(1), 1 + i64::from(LIMITS.window_s)).await));
}

/// It is the account's from then on, whatever it or others guess, and lets one upload in.
pub async fn a_code_may_be_redeemed_ahead_of_its_upload(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    let id = issued(store, 1, 50).await;
    let redeem = async |account, number, moment| {
        store.redeem_upload_code(account, presented(number), at(FORGET), at(moment)).await.unwrap()
    };
    assert_eq!(redeem(AccountId(99), 1, 1).await, CodeRedeemed::NoAccount);
    for _ in 0..2 {
        assert_eq!(redeem(alice, 1, 1).await, CodeRedeemed::Redeemed);
    }
    assert_eq!(states(store, 1).await, [(id, CodeState::Redeemed { by: name("alice"), at: at(1) })]);
    assert_eq!(redeem(bob, 1, 1).await, CodeRedeemed::Refused { left: 2 });
    for left in [2, 1, 0] {
        assert_eq!(redeem(alice, 9, 1).await, CodeRedeemed::Refused { left }, "each counts");
    }
    let until = at(1 + i64::from(LIMITS.window_s));
    assert_eq!(redeem(alice, 9, 1).await, CodeRedeemed::TooMany { until });
    let key = opens(begin(store, alice, "u", Some(1), 60).await, 0);
    complete(store, key).await;
    assert_eq!(redeem(alice, 1, 61).await, CodeRedeemed::Refused { left: 0 });
}

/// What was begun with it is dropped. What is complete stays.
pub async fn a_revoked_code_is_of_no_use_to_anybody(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    let ids = [issued(store, 1, 50).await, issued(store, 2, 50).await, issued(store, 3, 50).await];
    let open = opens(begin(store, alice, "u", Some(2), 1).await, 0);
    let done = opens(begin(store, bob, "u", Some(3), 1).await, 0);
    complete(store, done).await;
    let revoked = [CodeRevoked::Revoked, CodeRevoked::Revoked, CodeRevoked::Used];
    for (id, outcome) in ids.into_iter().zip(revoked) {
        for moment in [2, 3] {
            assert_eq!(store.revoke_upload_code(id, at(moment)).await.unwrap(), outcome, "{id:?}");
        }
    }
    let none = UploadCodeId(ids[2].0 + 1);
    assert_eq!(store.revoke_upload_code(none, at(2)).await.unwrap(), CodeRevoked::NoSuchCode);
    let used = CodeState::Used { by: name("bob"), at: at(1) };
    let listed = [CodeState::Revoked { at: at(2) }, CodeState::Revoked { at: at(2) }, used];
    assert_eq!(states(store, 4).await, ids.into_iter().zip(listed).collect::<Vec<_>>());
    assert_eq!(begin(store, bob, "v", Some(1), 4).await, UploadBegun::CodeRefused { left: 2 });
    assert_eq!(begin(store, alice, "u", None, 4).await, UploadBegun::CodeRequired);
    assert_eq!(begin(store, alice, "u", Some(2), 4).await, UploadBegun::CodeRefused { left: 3 });
    assert_eq!(store.append_records(open, 0, vec![heard(1)]).await.unwrap(), None);
    assert_eq!(store.uploads(None, 9, at(4)).await.unwrap().iter().map(|row| row.key).collect::<Vec<_>>(), [done]);
    assert_eq!(store.revoke_upload_code(ids[0], at(50)).await.unwrap(), CodeRevoked::NoSuchCode, "it is forgotten");
}

/// Nobody else gets it.
pub async fn a_removed_accounts_code_goes_with_it(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    issued(store, 1, 50).await;
    let other = issued(store, 2, 50).await;
    begin(store, alice, "u", Some(1), 1).await;
    assert!(store.remove_account(name("alice")).await.unwrap());
    assert_eq!(states(store, 2).await, [(other, CodeState::Live)]);
    assert_eq!(begin(store, bob, "u", Some(1), 2).await, UploadBegun::CodeRefused { left: 2 });
}

/// The same for everyone who asks while it lives; then another. A removed account has none.
pub async fn a_handshake_pin_is_the_same_while_it_lives(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    let pin = async |account, candidate, moment: i64| {
        store.handshake_pin(account, PinSeed([candidate; 16]), at(moment + 60), at(moment)).await.unwrap()
    };
    for (candidate, moment) in [(1, 0), (2, 1), (3, 59)] {
        assert!(pin(alice, candidate, moment).await == Some((PinSeed([1; 16]), at(60))));
    }
    assert!(pin(bob, 4, 1).await == Some((PinSeed([4; 16]), at(61))));
    assert!(pin(alice, 5, 60).await == Some((PinSeed([5; 16]), at(120))), "the old one is over");
    assert_eq!(store.expire(at(61)).await.unwrap().rows, 1);
    assert!(pin(alice, 6, 61).await == Some((PinSeed([5; 16]), at(120))));
    assert!(store.remove_account(name("alice")).await.unwrap());
    assert!(pin(alice, 7, 62).await.is_none());
    assert!(pin(AccountId(99), 7, 62).await.is_none());
}

/// Two servers may be asked at once: by the device, and by the official.
pub async fn racing_questions_for_a_handshake_pin_have_one_answer(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let ask = |candidate| store.handshake_pin(alice, PinSeed([candidate; 16]), at(60), at(0));
    let answers = together((1..20).map(ask).collect()).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

async fn issued(store: &dyn Store, number: u8, expires: i64) -> UploadCodeId {
    match store.issue_upload_code(code(number, expires), at(0)).await.unwrap() {
        CodeIssued::Issued(id) => id,
        other @ (CodeIssued::Taken | CodeIssued::TooManyLive) => panic!("a new code: {other:?}"),
    }
}

async fn begin(store: &dyn Store, account: AccountId, upload: &str, code: Option<u8>, moment: i64) -> UploadBegun {
    store.begin_upload(coded(account, upload, code), at(moment)).await.unwrap()
}

async fn complete(store: &dyn Store, upload: UploadKey) {
    store.append_records(upload, 0, vec![heard(1), heard(2)]).await.unwrap();
    assert_eq!(store.complete_upload(upload, SUMMARY, Vec::new(), at(1)).await.unwrap(), UploadCompleted::Now);
}

async fn states(store: &dyn Store, moment: i64) -> Vec<(UploadCodeId, CodeState)> {
    let rows = store.upload_codes(None, 99, at(moment)).await.unwrap();
    rows.into_iter().map(|row| (row.id, row.state)).collect()
}

fn coded(account: AccountId, upload: &str, code: Option<u8>) -> UploadRequest {
    let upload = UploadId::parse(upload).unwrap();
    let code = CodeCheck::Required(code.map(presented));
    UploadRequest { account, upload, records: 2, forget_at: at(FORGET), code }
}

/// The upload that is open with so many durable records.
fn opens(begun: UploadBegun, expected: u32) -> UploadKey {
    let UploadBegun::Open { key, durable, summary: None } = begun else { panic!("an open upload: {begun:?}") };
    assert_eq!(durable, expected);
    key
}

fn is_open(begun: &UploadBegun) -> bool {
    matches!(begun, UploadBegun::Open { .. })
}

fn code(number: u8, expires: i64) -> NewUploadCode {
    NewUploadCode {
        hash: CodeHash([number; 32]),
        form: CodeForm::Eight,
        case: format!("case {number}"),
        issued_by: "desk".into(),
        expires: at(expires),
        limits: LIMITS,
    }
}

fn presented(number: u8) -> PresentedCode {
    PresentedCode { hash: CodeHash([number; 32]), form: Some(CodeForm::Eight), limits: LIMITS }
}

const LIMITS: CodeLimits = CodeLimits { window_s: 300, max_wrong_by_account: 3, max_wrong: 8, max_live: 4 };
