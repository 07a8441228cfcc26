//! Owns the look into the authority's store after a load: whether every record that was acknowledged is there, once, and as it was
//! sent ([`check`]). The devices ask the authority for each upload again; this does not take its word for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use bluetrace_authority::passwords::InlinePool;
use bluetrace_authority::store::{Store, UploadKey};
use bluetrace_client::load::{RecordsDigest, SentUpload};
use bluetrace_protocol::{Clock as _, Timestamp, UploadId, Uploaded, Username};

use crate::command_line::AuthorityFolder;
use crate::installation::Installation;
use crate::runtime::block_on;
use crate::system::{self, SystemClock};

/// What was found of a load in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct StoreCheck {
    /// Uploads of the load that are there.
    pub(super) uploads: u64,
    /// Their records.
    pub(super) records: u64,
    /// Records that were acknowledged and are not there.
    pub(super) missing: u64,
    /// Records that are there beyond those that were sent, or in a second upload of the same name.
    pub(super) doubled: u64,
    /// Uploads whose acknowledged records are as many as were sent, and others.
    pub(super) altered: u64,
}

impl StoreCheck {
    pub(super) const fn is_exact(&self) -> bool {
        self.missing == 0 && self.doubled == 0 && self.altered == 0
    }

    /// Counts what is there of an upload, the first of its name.
    fn found(&mut self, sent: &SentUpload, there: &Stored) {
        let (acknowledged, records) = (u64::from(sent.acknowledged), u64::from(sent.records));
        self.missing += acknowledged.saturating_sub(there.records);
        self.doubled += there.records.saturating_sub(records);
        self.altered += u64::from(there.records >= acknowledged && there.digest != sent.digest);
    }
}

/// The records of an upload that are in the store.
#[derive(Debug)]
struct Stored {
    records: u64,
    /// [`RecordsDigest`] of the first of them, as many as were acknowledged.
    digest: u64,
}

/// Opens the authority whose store is looked into.
pub(super) fn open(folder: &AuthorityFolder) -> anyhow::Result<Installation> {
    let installation = Installation::open_existing(folder, Arc::new(InlinePool));
    installation.context("the store that --check-store names cannot be looked into")
}

/// Looks for everything that was acknowledged.
pub(super) fn check(folder: &AuthorityFolder, sent: Vec<SentUpload>) -> anyhow::Result<StoreCheck> {
    system::say("looking into the store");
    let installation = open(folder)?;
    block_on(compare(installation.authority.store(), sent, SystemClock.now()))
}

async fn compare(store: &dyn Store, sent: Vec<SentUpload>, now: Timestamp) -> anyhow::Result<StoreCheck> {
    let mut check = StoreCheck::default();
    // with whether it was found
    let mut awaited: BTreeMap<(Username, UploadId), (SentUpload, bool)> =
        sent.into_iter().map(|sent| ((sent.account.clone(), sent.id.clone()), (sent, false))).collect();
    let mut last = None;
    loop {
        let page = store.uploads(last, PAGE, now).await?;
        let Some(row) = page.last() else { break };
        last = Some(row.key);
        for row in page {
            let Some((sent, is_found)) = awaited.get_mut(&(row.uploader, row.upload)) else { continue };
            let there = stored(store, row.key, sent.acknowledged, now).await?;
            check.records += there.records;
            if std::mem::replace(is_found, true) {
                check.doubled += there.records;
            } else {
                check.uploads += 1;
                check.found(sent, &there);
            }
        }
    }
    let gone = awaited.into_values().filter(|(_, is_found)| !is_found);
    check.missing += gone.map(|(sent, _)| u64::from(sent.acknowledged)).sum::<u64>();
    Ok(check)
}

async fn stored(store: &dyn Store, key: UploadKey, acknowledged: u32, now: Timestamp) -> anyhow::Result<Stored> {
    // all at once, as a device of this process had them: a page after the other is asked for by places, and where a record is
    // missing, the first one of the next page would be counted in its stead
    let records = store.uploaded_records(key, 0, u32::MAX, now).await?;
    let mut digest = RecordsDigest::default();
    for record in records.iter().take(usize::try_from(acknowledged)?) {
        // a malformed one was not sent, and the digest shows that
        if let Uploaded::Record(uploaded) = record {
            digest.add(&uploaded.record, uploaded.received);
        }
    }
    Ok(Stored { records: u64::try_from(records.len())?, digest: digest.value() })
}

/// Uploads that are asked for at once.
const PAGE: u32 = 1_000;

#[cfg(test)]
mod tests {
    use bluetrace_authority::store::{
        AccountOpened, CodeCheck, PasswordHash, PasswordSource, UploadBegun, UploadRequest,
    };
    use bluetrace_server::sqlite::SqliteStore;
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_record_that_is_missing_in_a_long_upload_is_missing_and_nothing_is_altered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authority.sqlite");
        let store = SqliteStore::open(&path).unwrap();
        let now = Timestamp::from_unix(1_700_000_000).unwrap();
        let (account, id) = (Username::parse("alice").unwrap(), UploadId::parse("u-1").unwrap());
        let hash = PasswordHash("hash".into());
        let opened =
            block_on(async { Ok(store.open_account(account.clone(), hash, PasswordSource::Operator, now).await?) })
                .unwrap();
        let AccountOpened::Opened(number) = opened else { panic!("{opened:?}") };
        let (upload, forget_at, code) = (id.clone(), now.plus(1_000), CodeCheck::NotRequired);
        let request = UploadRequest { account: number, upload, records: RECORDS, forget_at, code };
        let begun = block_on(async { Ok(store.begin_upload(request, now).await?) }).unwrap();
        let UploadBegun::Open { key, .. } = begun else { panic!("{begun:?}") };
        let sql = |statement: String| Connection::open(&path).unwrap().execute(&statement, ()).unwrap();
        sql(format!(
            "WITH RECURSIVE n (place) AS (SELECT 0 UNION ALL SELECT place + 1 FROM n WHERE place + 1 < {RECORDS})
             INSERT INTO uploaded_record (place, temp_id, start, expiry)
             SELECT ({} << 20) + place, printf('%020d', place), 1700000000, 1700000899 FROM n",
            key.0
        ));
        let digest = block_on(stored(&store, key, RECORDS, now)).unwrap().digest;
        let (records, acknowledged) = (RECORDS, RECORDS);
        let sent = SentUpload { account, id, records, acknowledged, digest };
        let records = u64::from(RECORDS);
        let whole = StoreCheck { uploads: 1, records, ..StoreCheck::default() };
        let check = || block_on(compare(&store, vec![sent.clone()], now)).unwrap();
        assert_eq!(check(), whole);
        assert_eq!(sql(format!("DELETE FROM uploaded_record WHERE place = ({} << 20) + 42", key.0)), 1);
        assert_eq!(check(), StoreCheck { records: records - 1, missing: 1, ..whole });
    }

    const RECORDS: u32 = 60_000;
}
