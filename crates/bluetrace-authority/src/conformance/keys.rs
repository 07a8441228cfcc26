//! Owns the laws of user ids and sealing keys.

use std::slice;

use bluetrace_protocol::Uid;

use super::{at, failed, name, opened, together};
use crate::store::{
    AccountId, KeyTerm, NewSealingKey, SealingKeyId, SealingKeyRow, SealingKeyState, Shredded, Store,
    WRAPPED_KEY_BYTES, WrappedKey,
};

/// And keeps it, whatever is proposed later.
pub async fn an_account_has_one_user_id_given_when_it_is_first_asked_for(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    assert_eq!(store.user_id(alice, uid(1)).await.unwrap(), Some(uid(1)));
    assert_eq!(store.user_id(alice, uid(2)).await.unwrap(), Some(uid(1)));
    assert_eq!(store.accounts_of_user_ids(vec![uid(2)]).await.unwrap(), [None], "a proposal alone is nobody's");
    assert_eq!(store.user_id(AccountId(99), uid(3)).await.unwrap(), None, "no account");
    assert_eq!(store.accounts_of_user_ids(vec![uid(3)]).await.unwrap(), [None]);
}

/// Two that were the same would give one person's contacts to another.
pub async fn two_accounts_have_no_user_id_in_common(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    store.user_id(alice, uid(1)).await.unwrap();
    failed(&store.user_id(bob, uid(1)).await);
    assert_eq!(store.user_id(bob, uid(2)).await.unwrap(), Some(uid(2)));
    assert_eq!(store.user_id(bob, uid(1)).await.unwrap(), Some(uid(2)), "who has one needs no proposal");
    assert_eq!(store.user_id(AccountId(99), uid(1)).await.unwrap(), None, "nor does who is not there");
}

/// Two servers may see the same account for the first time.
pub async fn racing_questions_for_a_user_id_have_one_answer(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let answers = together((1..20).map(|number| store.user_id(alice, uid(number))).collect()).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let owner = store.accounts_of_user_ids(vec![answers[0]]).await.unwrap();
    assert_eq!(owner, [Some((alice, name("alice")))]);
}

/// A removed account's TempIDs mean nothing from then on, also if its name is opened anew.
pub async fn user_ids_lead_to_accounts_in_the_order_asked_until_they_are_removed(store: &dyn Store) {
    let (alice, bob) = (opened(store, "alice").await, opened(store, "bob").await);
    store.user_id(alice, uid(1)).await.unwrap();
    store.user_id(bob, uid(2)).await.unwrap();
    let owners = store.accounts_of_user_ids(vec![uid(2), uid(9), uid(1), uid(2)]).await.unwrap();
    let (of_alice, of_bob) = (Some((alice, name("alice"))), Some((bob, name("bob"))));
    assert_eq!(owners, [of_bob.clone(), None, of_alice, of_bob.clone()]);
    assert!(store.remove_account(name("alice")).await.unwrap());
    let anew = opened(store, "alice").await;
    assert_eq!(store.accounts_of_user_ids(vec![uid(1), uid(2)]).await.unwrap(), [None, of_bob]);
    assert_eq!(store.user_id(anew, uid(3)).await.unwrap(), Some(uid(3)));
    assert_eq!(store.accounts_of_user_ids(Vec::new()).await.unwrap(), []);
}

/// Nothing is lost on the way.
pub async fn sealing_keys_are_listed_in_the_order_of_their_names_with_what_they_were_added_with(store: &dyn Store) {
    assert_eq!(store.sealing_keys(at(0)).await.unwrap(), []);
    for number in [1, 2, 7] {
        assert!(store.add_sealing_key(key(number)).await.unwrap());
    }
    assert_eq!(store.sealing_keys(at(0)).await.unwrap(), [live(1), live(2), live(7)]);
}

/// So a name that was seen to be free tells that nothing has been added since.
pub async fn a_sealing_key_is_added_only_above_every_name_there_ever_was(store: &dyn Store) {
    assert!(store.add_sealing_key(key(5)).await.unwrap());
    let other = NewSealingKey { wrapped: WrappedKey([99; WRAPPED_KEY_BYTES]), ..key(5) };
    assert!(!store.add_sealing_key(other).await.unwrap());
    assert!(!store.add_sealing_key(key(4)).await.unwrap());
    store.shred_sealing_key(SealingKeyId(5)).await.unwrap();
    assert!(!store.add_sealing_key(key(5)).await.unwrap(), "no name comes twice");
    assert_eq!(store.sealing_keys(at(0)).await.unwrap().len(), 1);
    assert!(store.add_sealing_key(key(6)).await.unwrap());
}

/// The losers find the winner's key and use that.
pub async fn racing_additions_of_a_sealing_key_have_one_winner(store: &dyn Store) {
    let added = together((0..20).map(|_| store.add_sealing_key(key(1))).collect()).await;
    assert_eq!(added.into_iter().filter(|added| *added.as_ref().unwrap()).count(), 1);
    assert_eq!(store.sealing_keys(at(0)).await.unwrap(), [live(1)]);
}

/// Counts of keys that are not there are nobody's.
pub async fn seals_of_several_servers_add_up(store: &dyn Store) {
    store.add_sealing_key(key(1)).await.unwrap();
    store.add_sealing_key(key(2)).await.unwrap();
    let counts = || store.count_seals(vec![(SealingKeyId(1), 3), (SealingKeyId(9), 1), (SealingKeyId(2), 1 << 31)]);
    together((0..20).map(|_| counts()).collect()).await.into_iter().for_each(|counted| counted.unwrap());
    let seals: Vec<_> = store.sealing_keys(at(0)).await.unwrap().iter().map(|row| row.seals).collect();
    assert_eq!(seals, [60, 20 << 31]);
}

/// To the second, as for every row.
pub async fn a_forgotten_sealing_key_is_out_of_reach_before_it_is_shredded(store: &dyn Store) {
    store.add_sealing_key(key(1)).await.unwrap();
    let KeyTerm { forget_at, .. } = key(1).term;
    assert_eq!(store.sealing_keys(forget_at.plus(-1)).await.unwrap(), [live(1)]);
    let forgotten = SealingKeyRow { state: SealingKeyState::Shredding, ..live(1) };
    assert_eq!(store.sealing_keys(forget_at).await.unwrap(), slice::from_ref(&forgotten));
    while store.expire(forget_at).await.unwrap().more {}
    assert_eq!(store.sealing_keys(forget_at).await.unwrap(), [forgotten], "expiring alone destroys no key");
    assert_eq!(store.shred_sealing_key(SealingKeyId(1)).await.unwrap(), Shredded::Done);
    assert_eq!(store.sealing_keys(forget_at).await.unwrap()[0].state, SealingKeyState::Shredded);
}

/// Its row tells an operator what there was. Others are as they were.
pub async fn a_shredded_sealing_key_leaves_its_row_and_nothing_else(store: &dyn Store) {
    assert_eq!(store.shred_sealing_key(SealingKeyId(1)).await.unwrap(), Shredded::NoSuchKey);
    store.add_sealing_key(key(1)).await.unwrap();
    store.add_sealing_key(key(2)).await.unwrap();
    store.count_seals(vec![(SealingKeyId(1), 7)]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.shred_sealing_key(SealingKeyId(1)).await.unwrap(), Shredded::Done);
        let shredded = SealingKeyRow { state: SealingKeyState::Shredded, seals: 7, ..live(1) };
        assert_eq!(store.sealing_keys(at(0)).await.unwrap(), [shredded, live(2)]);
    }
    let shreds = together((0..4).map(|_| store.shred_sealing_key(SealingKeyId(2))).collect()).await;
    assert!(shreds.into_iter().all(|shred| shred.unwrap() == Shredded::Done));
}

fn uid(number: u8) -> Uid {
    Uid::from_bytes([number; 21])
}

fn key(number: u8) -> NewSealingKey {
    let from = 100 * i64::from(number);
    let term = KeyTerm {
        issues_from: at(from),
        issues_until: at(from + 100),
        last_expiry: at(from + 200),
        forget_at: at(from + 300),
    };
    NewSealingKey { id: SealingKeyId(number.into()), term, wrapped: WrappedKey([number; WRAPPED_KEY_BYTES]) }
}

fn live(number: u8) -> SealingKeyRow {
    let NewSealingKey { id, term, wrapped } = key(number);
    SealingKeyRow { id, term, seals: 0, state: SealingKeyState::Live(wrapped) }
}
