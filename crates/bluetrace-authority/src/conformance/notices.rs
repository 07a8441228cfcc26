//! Owns the laws of notices, and what else is kept of a member or an import.

use super::{SUMMARY, at, begun, expire_all, name, notice, opened, session, unread};
use crate::store::{NewNotice, NoticeId, SessionState, Store, UploadCompleted};

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
