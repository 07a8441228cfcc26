//! Owns the look into the authority's store after a load: whether every record that was acknowledged is there, once, and as it was
//! sent ([`check`]). The devices ask the authority for each upload again; this does not take its word for it.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    Installation::open_existing(folder, Arc::new(InlinePool))
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
    let (mut count, mut digest) = (0_u32, RecordsDigest::default());
    loop {
        let page = store.uploaded_records(key, count, RECORDS_AT_ONCE, now).await?;
        let is_last = page.len() < usize::try_from(RECORDS_AT_ONCE)?;
        for record in page {
            // a malformed one was not sent, and the digest shows that
            if let Uploaded::Record(uploaded) = record
                && count < acknowledged
            {
                digest.add(&uploaded.record, uploaded.received);
            }
            count += 1;
        }
        if is_last {
            return Ok(Stored { records: count.into(), digest: digest.value() });
        }
    }
}

/// Uploads that are asked for at once.
const PAGE: u32 = 1_000;

/// Records that are asked for at once. They are asked for by their places: where one is missing in an upload of more, another is
/// counted in its stead, and the upload is an altered one.
const RECORDS_AT_ONCE: u32 = 50_000;
