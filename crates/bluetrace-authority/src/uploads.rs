//! Owns uploads and tracing: contact logs taken exactly once, their `TempIDs` turned back into people, and those people
//! noticed (PROTOCOL section 4.4).

use std::collections::{BTreeMap, HashMap};
use std::future::{poll_fn, ready};
use std::task::Poll;

use bluetrace_protocol::limits::SEALED_CHARACTERS;
use bluetrace_protocol::message::BeginUpload;
use bluetrace_protocol::{
    ExposureNotice, Opened, Record, SealedTempId, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord,
    Username, Window,
};

use crate::authority::{Authority, AuthorityError, Member};
use crate::excerpt::Excerpt;
use crate::hex::hex;
use crate::keyring::Unsealed;
use crate::store::{
    AccountId, CodeCheck, NewNotice, Owner, StoreFuture, Told, UploadBegun, UploadCompleted, UploadFound, UploadKey,
    UploadRequest,
};

/// Records looked at together when an upload is traced: bounds memory, and is long enough for one sorted look-up to pay.
const PAGE: u32 = 10_000;

/// Owners remembered while an upload is traced: bounds memory, and is more ids than a person meets.
const MAX_OWNERS: usize = 50_000;

/// Earlier notices that are remembered while an upload is finished: bounds memory. Where there are more, somebody may be told twice.
const MAX_TOLD: u32 = 100_000;

/// What became of one uploaded record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedRecord {
    /// The record, unless it was malformed.
    pub record: Option<UploadedRecord>,
    /// What is known of it.
    pub trace: Trace,
}

/// What is known of an uploaded record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// Its `TempID` was shown by this person, within its window.
    Resolved(Owner),
    /// Its `TempID` is this person's, and the record says that it was heard outside its window: somebody repeated it.
    Expired(Owner),
    /// No `TempID` of this authority, or one that is forgotten.
    Unknown,
    /// No record at all.
    Invalid,
}

/// What an operator is shown of a complete upload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadReport {
    /// The well-formed records.
    pub records: Excerpt<Record>,
    /// Whom they lead to.
    pub matches: Excerpt<Match>,
}

/// A record that led to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Who was met.
    pub username: Username,
    /// When the window of the id began.
    pub start: Timestamp,
    /// The id.
    pub temp_id: TempId,
}

/// What came of records of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordsAppended {
    /// So many of the upload's first records are durable.
    Durable(u32),
    /// The upload is forgotten: it may be begun again.
    NoUpload,
    /// The account has been removed, and the upload with it.
    NoAccount,
}

/// What came of the end of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadFinished {
    /// It is complete.
    Complete {
        /// The count of its records by what became of them.
        summary: UploadSummary,
        /// What the console shows; `None` if the upload was complete before.
        report: Option<UploadReport>,
    },
    /// The upload is forgotten: it may be begun again.
    NoUpload,
    /// The account has been removed, and the upload with it.
    NoAccount,
}

impl Authority {
    /// Begins an upload, or finds the one this member has begun under the same id. One without an id gets a random one,
    /// and cannot be found again. Where the policy requires upload codes, one decides whether it is let in.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn begin_upload(
        &self,
        member: &Member,
        begin: BeginUpload,
        now: Timestamp,
    ) -> Result<UploadBegun, AuthorityError> {
        let upload = match begin.upload {
            Some(upload) => upload,
            None => self.random_upload_id()?,
        };
        let code = if self.policy.require_upload_codes {
            CodeCheck::Required(begin.code.as_ref().map(|code| self.codes.presented(code)))
        } else {
            CodeCheck::NotRequired
        };
        let (account, records, forget_at) = (member.account, begin.records, self.forget_at(now));
        let request = UploadRequest { account, upload, records, forget_at, code };
        Ok(self.store.begin_upload(request, now).await?)
    }

    /// Where the upload stands that this member has begun under this id; `None` if there is none.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn find_upload(
        &self,
        member: &Member,
        upload: UploadId,
        now: Timestamp,
    ) -> Result<Option<UploadFound>, AuthorityError> {
        Ok(self.store.find_upload(member.account, upload, now).await?)
    }

    /// Stores records of a member's upload from place `first` on.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn append_records(
        &self,
        member: &Member,
        upload: UploadKey,
        first: u32,
        records: Vec<Uploaded>,
    ) -> Result<RecordsAppended, AuthorityError> {
        Ok(match self.store.append_records(upload, first, records).await? {
            Some(durable) => RecordsAppended::Durable(durable),
            None if self.has_account(member).await? => RecordsAppended::NoUpload,
            None => RecordsAppended::NoAccount,
        })
    }

    /// Traces an upload whose records are all durable, and leaves a notice for each person met. Repeated, or cut off and
    /// repeated, it leaves each notice once.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer; the upload can then be finished later.
    pub async fn finish_upload(
        &self,
        member: &Member,
        upload: UploadKey,
        now: Timestamp,
    ) -> Result<UploadFinished, AuthorityError> {
        let (mut tally, mut owners) = (Tally::default(), Owners::default());
        let mut first = 0;
        let mut page = self.store.uploaded_records(upload, first, PAGE, now);
        loop {
            let records = page.await?;
            let Some(read) = u32::try_from(records.len()).ok().filter(|read| *read > 0) else { break };
            first += read;
            // the store reads the next page while this one is traced
            page = begun(self.store.uploaded_records(upload, first, PAGE, now)).await;
            for traced in self.trace(records, &mut owners, now).await? {
                tally.add(traced, member.account);
            }
        }
        self.leave_out_told(member, &mut tally, now).await?;
        let forget_at = self.forget_at(now);
        let met = tally.met();
        let notices = met.iter().map(|(account, (from, to))| NewNotice {
            account: *account,
            notice: ExposureNotice { from: *from, to: *to, advice: self.policy.advice.clone() },
            forget_at,
        });
        let (summary, report) = (tally.summary, tally.report);
        Ok(match self.store.complete_upload(upload, summary, notices.collect(), now).await? {
            UploadCompleted::Now => UploadFinished::Complete { summary, report: Some(report) },
            UploadCompleted::Before => UploadFinished::Complete { summary, report: None },
            UploadCompleted::NoUpload if self.has_account(member).await? => UploadFinished::NoUpload,
            UploadCompleted::NoUpload => UploadFinished::NoAccount,
        })
    }

    /// Leaves out the encounters in times of which the people met have been told after an earlier upload of this member's: a log
    /// that is uploaded again alarms nobody again. This upload is not complete, and so not among the earlier ones; if it is, it
    /// leaves no notices at all.
    async fn leave_out_told(&self, member: &Member, tally: &mut Tally, now: Timestamp) -> Result<(), AuthorityError> {
        let mut people: Vec<_> = tally.encounters.values().map(|(account, _)| *account).collect();
        people.sort_unstable();
        people.dedup();
        if people.is_empty() {
            return Ok(());
        }
        let told = self.store.told(member.account, people, MAX_TOLD, now).await?;
        let mut times = HashMap::<_, Vec<_>>::new();
        for Told { account, from, to } in told {
            times.entry(account).or_default().push((from, to));
        }
        tally.encounters.retain(|_, (account, window)| {
            let mut times = times.get(account).into_iter().flatten();
            !times.any(|(from, to)| *from <= window.start() && window.expiry() <= *to)
        });
        Ok(())
    }

    /// Up to `limit` records of an upload from place `first` on, each with what is known of it at `now`.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn traced_records(
        &self,
        upload: UploadKey,
        first: u32,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<TracedRecord>, AuthorityError> {
        let records = self.store.uploaded_records(upload, first, limit, now).await?;
        self.trace(records, &mut Owners::default(), now).await
    }

    async fn trace(
        &self,
        records: Vec<Uploaded>,
        owners: &mut Owners,
        now: Timestamp,
    ) -> Result<Vec<TracedRecord>, AuthorityError> {
        owners.make_room();
        if records.iter().any(|record| owners.is_to_be_opened(record)) {
            let opened = self.open_sealed(&records, owners, now).await?;
            self.add_owners(opened, owners, now).await?;
        }
        let ids = owners.missing(&records);
        if !ids.is_empty() {
            let found = self.store.resolve(ids.clone(), now).await?;
            owners.registered.extend(ids.into_iter().zip(found));
        }
        let trace = |record: Uploaded| match record {
            Uploaded::Malformed => TracedRecord { record: None, trace: Trace::Invalid },
            Uploaded::Record(uploaded) => {
                let trace = match owners.of(&uploaded).cloned().flatten() {
                    None => Trace::Unknown,
                    Some(owner) if uploaded.received.is_none_or(|received| owner.window.contains(received)) => {
                        Trace::Resolved(owner)
                    }
                    Some(owner) => Trace::Expired(owner),
                };
                TracedRecord { record: Some(uploaded), trace }
            }
        };
        Ok(records.into_iter().map(trace).collect())
    }

    /// Opens those sealed ids whose owner is not known yet.
    async fn open_sealed(
        &self,
        records: &[Uploaded],
        owners: &Owners,
        now: Timestamp,
    ) -> Result<HashMap<TempId, Unsealed>, AuthorityError> {
        // asked for anew, so that a key that was destroyed a moment ago opens nothing
        let keyring = self.keyring(now).await?;
        let mut opened = HashMap::new();
        for record in records {
            let Uploaded::Record(uploaded) = record else { continue };
            let temp_id = &uploaded.record.temp_id;
            if opened.contains_key(temp_id) || owners.sealed.contains_key(temp_id) {
                continue;
            }
            let Ok(sealed) = SealedTempId::parse(temp_id.reveal()) else { continue };
            if let Some(found) = keyring.open(&sealed, &said(uploaded)) {
                opened.insert(temp_id.clone(), found);
            }
        }
        Ok(opened)
    }

    /// Turns the user ids in opened ids into people, all with one question.
    async fn add_owners(
        &self,
        opened: HashMap<TempId, Unsealed>,
        owners: &mut Owners,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let mut user_ids: Vec<_> = opened.values().map(|unsealed| unsealed.opened.uid).collect();
        user_ids.sort_unstable();
        user_ids.dedup();
        let accounts = self.store.accounts_of_user_ids(user_ids.clone()).await?;
        let accounts: HashMap<_, _> = user_ids.into_iter().zip(accounts).collect();
        let owner_of = |opened: &Opened| {
            let (account, username) = accounts.get(&opened.uid).cloned().flatten()?;
            let window = opened.window().filter(|window| now < self.forget_at(window.expiry()))?;
            Some(Owner { account, username, window })
        };
        let found = opened.into_iter().map(|(id, unsealed)| (id, (unsealed, owner_of(&unsealed.opened))));
        owners.sealed.extend(found);
        Ok(())
    }

    /// Whether a member's account is there still: asked where an upload is not.
    async fn has_account(&self, member: &Member) -> Result<bool, AuthorityError> {
        // the moment decides on the session's revocation alone, which is not looked at
        Ok(self.store.session_state(member.account, member.session, member.logged_in).await?.is_some())
    }

    fn random_upload_id(&self) -> Result<UploadId, AuthorityError> {
        UploadId::parse(&hex(&self.random_bytes())).map_err(|error| AuthorityError::Internal(error.to_string()))
    }
}

/// Lets a store begin with an answer that is wanted later.
async fn begun<T: Send + 'static>(mut answer: StoreFuture<'_, T>) -> StoreFuture<'_, T> {
    match poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
        Poll::Pending => answer,
        Poll::Ready(answer) => Box::pin(ready(answer)),
    }
}

/// Whom ids belong to, as far as they have been looked up: in a contact log the same ones come again and again.
#[derive(Default)]
struct Owners {
    /// Those that a key opened, for the records that it can have issued them to.
    sealed: HashMap<TempId, (Unsealed, Option<Owner>)>,
    /// Those that the registry was asked for.
    registered: HashMap<TempId, Option<Owner>>,
}

impl Owners {
    fn make_room(&mut self) {
        if self.sealed.len() + self.registered.len() > MAX_OWNERS {
            *self = Self::default();
        }
    }

    /// Whether a record holds a sealed id that no record before it opened: those may have been of wrong moments.
    fn is_to_be_opened(&self, record: &Uploaded) -> bool {
        let Uploaded::Record(UploadedRecord { record: Record { temp_id, .. }, .. }) = record else { return false };
        is_sealed(temp_id) && !self.sealed.contains_key(temp_id)
    }

    /// The ids of these records that are to be looked up in the registry, sorted and distinct.
    fn missing(&self, records: &[Uploaded]) -> Vec<TempId> {
        let ids = records.iter().filter_map(|record| match record {
            Uploaded::Record(uploaded) if self.of(uploaded).is_none() => Some(&uploaded.record.temp_id),
            Uploaded::Record(_) | Uploaded::Malformed => None,
        });
        let mut ids: Vec<_> = ids.cloned().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// What is known of the id in a record, by what this record says alone; `None` if it was not looked up.
    fn of(&self, uploaded: &UploadedRecord) -> Option<&Option<Owner>> {
        let temp_id = &uploaded.record.temp_id;
        match self.sealed.get(temp_id) {
            Some((unsealed, owner)) if unsealed.may_be_of(&said(uploaded)) => Some(owner),
            _ => self.registered.get(temp_id),
        }
    }
}

/// What a device says of the moment of an id. It tells where to look for its key, and is not believed otherwise.
fn said(UploadedRecord { record, received, .. }: &UploadedRecord) -> [Timestamp; 2] {
    let start = record.window.start();
    [start, received.unwrap_or(start)]
}

/// Whether an id is of the sealed scheme's length, which no registry's has: then it is opened and not looked up, or, as one
/// imported, looked up when no key opens it.
fn is_sealed(id: &TempId) -> bool {
    id.reveal().len() == SEALED_CHARACTERS
}

/// Who was met, from the begin of the first window to the end of the last.
type Met = BTreeMap<AccountId, (Timestamp, Timestamp)>;

fn widen(met: &mut Met, account: AccountId, window: Window) {
    let (start, expiry) = (window.start(), window.expiry());
    let met = met.entry(account).or_insert((start, expiry));
    *met = (met.0.min(start), met.1.max(expiry));
}

/// What adds up while an upload is traced.
#[derive(Default)]
struct Tally {
    summary: UploadSummary,
    /// Who was met by which id, and in which window: the first [`MAX_OWNERS`].
    encounters: HashMap<TempId, (AccountId, Window)>,
    /// Who was met in further ones.
    met_besides: Met,
    report: UploadReport,
}

impl Tally {
    fn add(&mut self, traced: TracedRecord, uploader: AccountId) {
        self.summary.records += 1;
        if let Some(uploaded) = &traced.record {
            self.report.records.push(uploaded.record.clone());
        }
        match traced.trace {
            Trace::Resolved(owner) => {
                // nobody meets himself
                if let Some(uploaded) = traced.record.as_ref().filter(|_| owner.account != uploader) {
                    let id = &uploaded.record.temp_id;
                    let is_new = !self.encounters.contains_key(id);
                    if is_new && self.encounters.len() < MAX_OWNERS {
                        self.encounters.insert(id.clone(), (owner.account, owner.window));
                    } else if is_new {
                        widen(&mut self.met_besides, owner.account, owner.window);
                    }
                }
                self.resolved(owner, traced.record);
            }
            // the contact stays on the books; but a repeated beacon is no encounter, so there is no notice
            Trace::Expired(owner) => self.resolved(owner, traced.record),
            Trace::Unknown => self.summary.unknown += 1,
            Trace::Invalid => self.summary.invalid += 1,
        }
    }

    fn met(&self) -> Met {
        let mut met = self.met_besides.clone();
        self.encounters.values().for_each(|(account, window)| widen(&mut met, *account, *window));
        met
    }

    fn resolved(&mut self, owner: Owner, uploaded: Option<UploadedRecord>) {
        self.summary.resolved += 1;
        if let Some(UploadedRecord { record, .. }) = uploaded {
            let (username, start) = (owner.username, owner.window.start());
            self.report.matches.push(Match { username, start, temp_id: record.temp_id });
        }
    }
}
