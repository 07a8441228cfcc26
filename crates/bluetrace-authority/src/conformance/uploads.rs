//! Owns the laws of uploads and their records.

use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::{Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Window};

use super::{
    FORGET, SUMMARY, at, begun, block_on, expire_all, failed, heard, id, in_threads, name, notice, opened, request,
    unread,
};
use crate::store::{
    AccountId, Appended, NewNotice, NoticeId, Store, Told, UploadBegun, UploadCompleted, UploadFound, UploadKey,
    UploadRequest, UploadRow,
};

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
    assert_eq!(store.append_records(key, 0, records.clone()).await.unwrap().map(|stored| stored.durable), Some(7));
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
        let records = numbers.iter().map(|number| heard(*number)).collect();
        let Appended { before, durable } = store.append_records(key, first, records).await.unwrap().unwrap();
        (before, durable)
    };
    assert_eq!(append(0, &[1, 2]).await, (0, 2));
    assert_eq!(append(0, &[1, 2]).await, (2, 2));
    assert_eq!(append(0, &[91, 92, 3]).await, (2, 3));
    assert_eq!(append(1, &[93]).await, (3, 3));
    assert_eq!(append(2, &[94, 4, 5]).await, (3, 5));
    assert_eq!(append(5, &[]).await, (5, 5));
    assert_eq!(append(5, &[6]).await, (5, 6));
    assert_eq!(append(0, &[1, 2, 3, 4, 5, 6]).await, (6, 6));
    let stored = store.uploaded_records(key, 0, 9, at(1)).await.unwrap();
    assert_eq!(stored, [1, 2, 3, 4, 5, 6].map(heard));
}

/// The call fails and stores nothing.
pub async fn records_may_not_be_skipped(store: &dyn Store) {
    let alice = opened(store, "alice").await;
    let key = begun(store, alice, "u", 9).await;
    failed(&store.append_records(key, 1, vec![heard(2)]).await);
    assert_eq!(store.append_records(key, 0, vec![heard(1)]).await.unwrap().map(|stored| stored.durable), Some(1));
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
    assert_eq!(
        store.append_records(key, 0, vec![heard(1), heard(2), heard(3)]).await.unwrap().map(|stored| stored.durable),
        Some(2)
    );
    assert_eq!(store.append_records(key, 2, vec![heard(4)]).await.unwrap().map(|stored| stored.durable), Some(2));
    assert_eq!(store.uploaded_records(key, 0, 9, at(1)).await.unwrap(), [heard(1), heard(2)]);
    assert_eq!(store.uploaded_records(next, 0, 9, at(1)).await.unwrap(), []);
    failed(&store.begin_upload(request(alice, "x", MAX_UPLOAD_RECORDS + 1), at(0)).await);
    let empty = begun(store, alice, "w", 0).await;
    assert_eq!(store.append_records(empty, 0, vec![heard(1)]).await.unwrap().map(|stored| stored.durable), Some(0));
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
            let acknowledged = block_on(store.append_records(key, durable, records)).unwrap().unwrap().durable;
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

/// What decides whether somebody is told of an encounter again.
pub async fn what_people_were_told_can_be_looked_up_by_whose_upload_it_was(store: &dyn Store) {
    let (alice, bob, carol) = (opened(store, "alice").await, opened(store, "bob").await, opened(store, "carol").await);
    let told = async |uploader, accounts: &[AccountId], limit, now| {
        let mut told = store.told(uploader, accounts.to_vec(), limit, at(now)).await.unwrap();
        told.sort_unstable();
        told
    };
    let said = |NewNotice { account, notice, .. }: NewNotice| Told { account, from: notice.from, to: notice.to };
    for (uploader, upload, left) in [
        (alice, "u", vec![notice(bob, 3), notice(carol, 4)]),
        (alice, "v", vec![notice(bob, 5)]),
        (carol, "w", vec![notice(bob, 6)]),
    ] {
        let key = begun(store, uploader, upload, 0).await;
        store.complete_upload(key, SUMMARY, left, at(1)).await.unwrap();
    }
    store.mark_notices_read(bob, NoticeId(i64::MAX)).await.unwrap();
    assert_eq!(told(alice, &[bob], 9, 1).await, [said(notice(bob, 3)), said(notice(bob, 5))], "read or not");
    assert_eq!(told(alice, &[bob, carol], 9, 1).await.len(), 3);
    assert_eq!(told(alice, &[bob, carol], 2, 1).await.len(), 2);
    assert_eq!(told(carol, &[alice, bob, carol], 9, 1).await, [said(notice(bob, 6))]);
    assert_eq!(told(bob, &[alice, bob, carol], 9, 1).await, []);
    assert_eq!(told(alice, &[], 9, 1).await, []);
    assert_eq!(told(alice, &[bob], 9, FORGET).await, []);
}
