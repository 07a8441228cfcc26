//! Owns the laws of forgetting, and many calls of every kind at once.

use bluetrace_protocol::{Record, Uploaded};

use super::{
    FORGET, RULE, SUMMARY, at, begun, block_on, fail, failed, hash, heard, in_threads, line, name, names_of, notice,
    opened, record, request, session, together, unread,
};
use crate::store::{
    AccountId, AccountOpened, Expired, LoginRecorded, MAX_EXPIRED_ROWS, NewNotice, PasswordSource, Store,
    TempIdsIssued, UNKNOWN_USERNAME_MEMORY_S, UploadBegun, UploadRequest, Verdict,
};

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
                let durable = block_on(store.append_records(key, first * 10, records)).unwrap().unwrap().durable;
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
