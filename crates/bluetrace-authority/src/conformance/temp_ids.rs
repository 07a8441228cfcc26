//! Owns the laws of `TempIDs`: issued, imported, resolved.

use bluetrace_protocol::{Record, TempId, Window};

use super::{at, block_on, expire_all, id, in_threads, line, name, names_of, opened, record};
use crate::store::{AccountId, ImportedTempId, Owner, Store, TempIdImported, TempIdsIssued};

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
    assert_eq!(all, [line("alice", 1), line("alice", 4), line("bob", 2), line("bob", 3)]);
    assert_eq!(names_of(store, at(1)).await, ["alice", "bob"].map(name));
}

/// Only a line that is stored makes one.
pub async fn a_claimed_temp_id_makes_no_account(store: &dyn Store) {
    let lines = vec![line("alice", 1), line("mallory", 1)];
    let outcomes = store.import_temp_ids(lines, at(100), at(0)).await.unwrap();
    assert_eq!(outcomes, [TempIdImported::Added, TempIdImported::ClaimedByAnother]);
    assert_eq!(names_of(store, at(1)).await, [name("alice")]);
}

/// As a person reads them: by user, and a user's by their begins. Where those are the same, by their bytes.
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
    for (after, expected) in [
        (line("alice", 3), vec![id(7), id(9)]),
        (line("alice", 8), vec![id(9), long]),
        (line("alicf", 1), listed[3..].iter().map(|line| line.record.temp_id.clone()).collect()),
        (listed[4].clone(), vec![]),
        (line("carol", 1), vec![]),
    ] {
        assert_eq!(ids(&store.temp_ids(Some(after), 2, at(1)).await.unwrap()), expected);
    }
    // the later window has the smaller id
    let late = Window::new(at(2_000), at(2_899)).unwrap();
    let record = Record { temp_id: id(0), window: late };
    store.import_temp_ids(vec![ImportedTempId { username: name("alice"), record }], at(100), at(0)).await.unwrap();
    assert_eq!(ids(&store.temp_ids(None, 4, at(1)).await.unwrap()), [id(3), id(7), id(9), id(0)]);
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
    assert_eq!(store.temp_ids(None, 9, at(50)).await.unwrap(), [line("alice", 2), line("bob", 1)]);
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
