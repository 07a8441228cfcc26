//! Owns what becomes of an upload whose body is there: sifted for what is in it twice, stored in batches, and traced meanwhile.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bluetrace_authority::Member;
use bluetrace_authority::store::{Appended, UploadBegun, UploadFound, UploadKey};
use bluetrace_authority::trace::UploadTrace;
use bluetrace_authority::upload_tokens::UploadGrant;
use bluetrace_authority::uploads::RecordsAppended;
use bluetrace_protocol::limits::MAX_RECORD_BATCH;
use bluetrace_protocol::{Uid, UploadSummary, Uploaded};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::spool::Spooled;
use super::upload::{UploadedBody, no_spool};
use super::verdicts::{Kind, VerdictCounts};
use crate::http::Api;
use crate::http::problem::{Problem, ProblemCode};
use crate::http::v1::uploads::{completed, too_many_codes};

/// An upload whose body is there.
pub(super) struct Upload<'a> {
    pub(super) api: &'a Api,
    pub(super) member: &'a Member,
    pub(super) grant: &'a UploadGrant,
    pub(super) spooled: Spooled,
}

/// What is found out of an upload before it begins.
#[derive(Default)]
struct Sifted {
    verdicts: VerdictCounts,
    /// How many of its records are to be stored.
    kept: u32,
    /// The places of records that were there before, a bit for each place.
    duplicates: Vec<u64>,
    /// The uploader's user id, if any id in it may be his own.
    uploader: Option<Uid>,
}

/// One at a time of those that come with the same token, on one server: what the first has stored, the next can compare with.
/// Two servers, or `/upload` and `/v1`, may still store some each of two different uploads' records. What is durable then is what counts
/// and is traced: that hurts nobody but the account that does it, and gives it nothing that one upload of both had not.
#[derive(Default)]
pub(crate) struct UploadTurns(Mutex<HashMap<[u8; 16], Weak<AsyncMutex<()>>>>);

impl UploadTurns {
    /// Waits until no other request carries out the upload of this name. It is over when what is returned is dropped.
    pub(super) async fn wait(&self, upload: [u8; 16]) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(&upload).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(upload, Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}

impl Upload<'_> {
    pub(super) async fn carry_out(mut self) -> Result<UploadedBody, Problem> {
        let sifted = self.sift().await?;
        for _ in 0..MAX_BEGINS {
            let found = self.begin(&sifted).await?;
            if let Some(summary) = self.complete(&sifted, found).await? {
                return Ok(UploadedBody { status: "SUCCESS", summary: summary.into(), verdicts: sifted.verdicts });
            }
            // another token of the same code has taken it away, or it was revoked: the next begin knows
        }
        let detail = "the token's upload code is carrying another upload; if that fails, ask for a new token";
        Err(Problem::new(ProblemCode::UploadConflict, detail))
    }

    /// Begins the upload, or finds it where it stands.
    async fn begin(&self, sifted: &Sifted) -> Result<UploadFound, Problem> {
        let (authority, now) = (&self.api.shared.authority, self.api.now());
        let begun = authority.begin_granted_upload(self.member, self.grant, sifted.kept, now).await;
        match begun.map_err(|error| self.api.failure(&error))? {
            UploadBegun::Open { key, durable, summary } => {
                Ok(UploadFound { key, records: sifted.kept, durable, summary })
            }
            UploadBegun::Conflict { .. } => Err(another_upload()),
            UploadBegun::NoAccount => Err(self.api.account_gone(self.member)),
            UploadBegun::CodeRequired | UploadBegun::CodeRefused { .. } => {
                let detail = "the token's upload code was revoked, or has served for another upload";
                Err(Problem::new(ProblemCode::UploadNotAuthorised, detail))
            }
            UploadBegun::TooManyCodes { until } => Err(too_many_codes(until, now)),
        }
    }

    /// Stores what is missing, and finishes the upload. `None`: it has gone meanwhile.
    async fn complete(&mut self, sifted: &Sifted, found: UploadFound) -> Result<Option<UploadSummary>, Problem> {
        let Some((durable, trace)) = self.store(sifted, found).await? else { return Ok(None) };
        let completed = completed(self.api, self.member, UploadFound { durable, ..found }, trace).await?;
        Ok(completed.and_then(|found| found.summary))
    }

    /// Looks through the records for those that are there twice and those that are the uploader's own.
    async fn sift(&mut self) -> Result<Sifted, Problem> {
        let _place = self.api.budgets.sifting.enter().await?;
        let is_compatible = self.api.opentrace.is_compatible;
        // the reference keeps what is there twice: then nothing is marked
        let marked = if is_compatible { 0 } else { self.spooled.len() };
        let (mut sifted, mut marks) = (Sifted::default(), HashSet::with_capacity(marked));
        loop {
            let first = sifted.verdicts.sum();
            let batch =
                self.spooled.notes(first, MAX_RECORD_BATCH).await.map_err(|error| no_spool(self.api, &error))?;
            if batch.is_empty() {
                return Ok(sifted);
            }
            let may_be_own = !is_compatible && sifted.uploader.is_none();
            if may_be_own && batch.iter().any(|note| note.owner.is_some()) {
                let asked = self.api.shared.authority.user_id(self.member.account).await;
                let uploader = asked.map_err(|error| self.api.failure(&error))?;
                sifted.uploader = Some(uploader.ok_or_else(|| self.api.account_gone(self.member))?);
            }
            for (place, note) in (first..).zip(batch) {
                let note = note.of_uploader(sifted.uploader.as_ref());
                let is_duplicate = note.mark.is_some_and(|mark| !marks.insert(mark));
                sifted.add(place, is_duplicate);
                sifted.verdicts.add(if is_duplicate { Kind::Duplicate } else { note.kind });
            }
        }
    }

    /// Stores what is not durable yet, and returns how many records are, with what they lead to; `None` if the upload is gone. What is
    /// durable is compared: a token that has carried one upload carries no other. While a batch is on its way to the disk the
    /// next one is read and traced: so nothing need be read back from the store.
    async fn store(&mut self, sifted: &Sifted, found: UploadFound) -> Result<Option<(u32, UploadTrace)>, Problem> {
        let (api, member) = (self.api, self.member);
        // of an upload that is complete nothing need be known again
        let mut trace = found.summary.is_none().then(UploadTrace::default);
        let (mut durable, mut first, mut place) = (found.durable, 0_u32, 0);
        let mut batch = self.next(sifted, &mut place, trace.as_mut()).await?;
        while !batch.is_empty() {
            let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let known = durable.saturating_sub(first).min(count);
            let durable_before = batch.iter().take(usize::try_from(known).unwrap_or(usize::MAX));
            if !is_there(api, found.key, first, durable_before).await? {
                return Ok(None);
            }
            let next = self.next(sifted, &mut place, trace.as_mut());
            batch = if known < count {
                let (stored, next) = tokio::join!(append(api, member, found.key, first, batch), next);
                let next = next?;
                let Some(stored) = stored? else { return Ok(None) };
                if stored.before > first.saturating_add(known) {
                    // another request has stored records there, which may be others: what is durable is traced, from the store
                    trace = None;
                }
                durable = stored.durable;
                next
            } else {
                next.await?
            };
            first = first.saturating_add(count);
        }
        Ok(Some((durable, trace.unwrap_or_default())))
    }

    /// The next records that are to be stored, from a place on, which is moved behind them; none at the end.
    async fn next(
        &mut self,
        sifted: &Sifted,
        place: &mut u32,
        trace: Option<&mut UploadTrace>,
    ) -> Result<Vec<Uploaded>, Problem> {
        let api = self.api;
        let batch = sifted.next_kept(api, &mut self.spooled, place).await?;
        if let Some(trace) = trace {
            let traced = api.shared.authority.trace_upload(self.member, trace, &batch, api.now()).await;
            traced.map_err(|error| api.failure(&error))?;
        }
        Ok(batch)
    }
}

impl Sifted {
    fn add(&mut self, place: u32, is_duplicate: bool) {
        if place.is_multiple_of(64) {
            self.duplicates.push(0);
        }
        if let Some(bits) = self.duplicates.last_mut() {
            *bits |= u64::from(is_duplicate) << (place % 64);
        }
        self.kept += u32::from(!is_duplicate);
    }

    fn is_duplicate(&self, place: u32) -> bool {
        let bits = usize::try_from(place / 64).ok().and_then(|word| self.duplicates.get(word));
        bits.is_some_and(|bits| bits >> (place % 64) & 1 == 1)
    }

    /// The next records that are to be stored, from a place on, which is moved behind them; none at the end.
    async fn next_kept(&self, api: &Api, spooled: &mut Spooled, place: &mut u32) -> Result<Vec<Uploaded>, Problem> {
        loop {
            let batch = spooled.records(*place, MAX_RECORD_BATCH).await.map_err(|error| no_spool(api, &error))?;
            let (first, is_end) = (*place, batch.is_empty());
            *place = first.saturating_add(u32::try_from(batch.len()).unwrap_or(u32::MAX));
            let kept = (first..).zip(batch).filter(|(place, _)| !self.is_duplicate(*place));
            let kept: Vec<_> = kept.map(|(_, judged)| judged.uploaded_by(self.uploader.as_ref())).collect();
            if is_end || !kept.is_empty() {
                return Ok(kept);
            }
        }
    }
}

/// Makes records durable; `None` if the upload is gone.
async fn append(
    api: &Api,
    member: &Member,
    upload: UploadKey,
    first: u32,
    records: Vec<Uploaded>,
) -> Result<Option<Appended>, Problem> {
    let _room = api.budgets.batches.enter().await?;
    api.metrics.uploaded(u32::try_from(records.len()).unwrap_or(u32::MAX));
    let appended = api.shared.authority.append_records(member, upload, first, records).await;
    match appended.map_err(|error| api.failure(&error))? {
        RecordsAppended::Durable(appended) => Ok(Some(appended)),
        RecordsAppended::NoUpload => Ok(None),
        RecordsAppended::NoAccount => Err(api.account_gone(member)),
    }
}

/// Compares records with those that are durable from place `first` on. `false`: they are gone, and the upload with them.
///
/// What the device said is compared. The window is the authority's, and may be lost since with its key.
async fn is_there(
    api: &Api,
    upload: UploadKey,
    first: u32,
    records: impl ExactSizeIterator<Item = &Uploaded>,
) -> Result<bool, Problem> {
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Ok(true);
    }
    let asked = api.shared.authority.store().uploaded_records(upload, first, count, api.now()).await;
    let durable = asked.map_err(|error| api.failure(&error.into()))?;
    if durable.len() < records.len() {
        return Ok(false);
    }
    let is_same = |one: &Uploaded, other: &Uploaded| match (one, other) {
        (Uploaded::Record(one), Uploaded::Record(other)) => {
            one.record.temp_id == other.record.temp_id && one.received == other.received && one.rssi == other.rssi
        }
        (one, other) => one == other,
    };
    if durable.iter().zip(records).all(|(one, other)| is_same(one, other)) { Ok(true) } else { Err(another_upload()) }
}

fn another_upload() -> Problem {
    Problem::new(ProblemCode::UploadConflict, "the token has carried another upload; ask for a new one")
}

impl fmt::Debug for UploadTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadTurns(..)")
    }
}

/// How often an upload is begun that another token of the same code takes the code away from. Of those who take it from each other one
/// begins last, and is not disturbed any more.
const MAX_BEGINS: usize = 3;
