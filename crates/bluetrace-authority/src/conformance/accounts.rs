//! Owns the laws of accounts and their passwords.

use super::{
    RULE, SUMMARY, at, begun, hash, heard, id, line, name, names_of, notice, opened, record, request, session, unread,
};
use crate::store::{
    AccountId, AccountOpened, LoginRecorded, NoticeId, PasswordSource, Store, TempIdsIssued, UploadBegun,
    UploadCompleted, Verdict,
};

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
    assert_eq!(store.append_records(upload, 0, vec![heard(1)]).await.unwrap().map(|stored| stored.durable), Some(1));
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
