//! Owns tracing: what is known of uploaded records, and whom they lead to (PROTOCOL section 4.4).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use bluetrace_protocol::limits::SEALED_CHARACTERS;
use bluetrace_protocol::{
    Opened, Record, SealedTempId, TempId, Timestamp, UploadSummary, Uploaded, UploadedRecord, Username, Window,
};

use crate::authority::{Authority, AuthorityError, Member};
use crate::excerpt::Excerpt;
use crate::keyring::{Keyring, Unsealed};
use crate::store::{AccountId, Owner, UploadKey};

/// Owners remembered while an upload is traced: bounds memory, and is more ids than a person meets.
const MAX_OWNERS: usize = 50_000;

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
pub enum Trace<O = Owner> {
    /// Its `TempID` was shown by this person, within its window.
    Resolved(O),
    /// Its `TempID` is this person's, and the record says that it was heard outside its window: somebody repeated it.
    Expired(O),
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

/// What an upload's records have led to so far, from the first on: begun empty, and added to in their order.
///
/// Whoever has the records at hand traces them while they are stored ([`Authority::trace_upload`]): exactly those that are stored.
/// What is not traced yet when the upload is finished is read from the store.
#[derive(Default)]
pub struct UploadTrace {
    pub(crate) tally: Tally,
    owners: Owners,
}

impl Authority {
    /// Traces the next records of a member's upload.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer. The trace is as it was then.
    pub async fn trace_upload(
        &self,
        member: &Member,
        trace: &mut UploadTrace,
        records: &[Uploaded],
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let UploadTrace { tally, owners } = trace;
        self.learn_owners(records, owners, now).await?;
        for record in records {
            tally.add(record, &owners.trace(record), member.account);
        }
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
        let mut owners = Owners::default();
        self.learn_owners(&records, &mut owners, now).await?;
        let traced = records.into_iter().map(|record| {
            let trace = owners.trace(&record).cloned();
            let record = match record {
                Uploaded::Record(uploaded) => Some(uploaded),
                Uploaded::Malformed => None,
            };
            TracedRecord { record, trace }
        });
        Ok(traced.collect())
    }

    /// Looks up whom the ids in records belong to, as far as that is not known yet.
    async fn learn_owners(
        &self,
        records: &[Uploaded],
        owners: &mut Owners,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        owners.make_room();
        if records.iter().any(|record| owners.is_to_be_opened(record)) {
            // asked for anew, so that a key that was destroyed a moment ago opens nothing, and what it has opened is forgotten
            let keyring = self.keyring(now).await?;
            owners.forget_without_key(&keyring);
            self.add_owners(open_sealed(&keyring, records, owners), owners, now).await?;
        }
        self.add_registered(owners.missing(records), owners, now).await
    }

    /// Whether everything that a trace goes by is so still: each key that opened an id is there, and each id belongs to whom it did.
    pub(crate) async fn still_holds(&self, trace: &UploadTrace, now: Timestamp) -> Result<bool, AuthorityError> {
        let Owners { sealed, registered, has_forgotten } = &trace.owners;
        if *has_forgotten {
            return Ok(false);
        }
        let keyring = self.keyring(now).await?;
        if !sealed.values().all(|(unsealed, _)| keyring.has_key_of(unsealed)) {
            return Ok(false);
        }
        let mut again = Owners::default();
        let opened = sealed.iter().map(|(id, (unsealed, _))| (id.clone(), *unsealed));
        self.add_owners(opened.collect(), &mut again, now).await?;
        let mut ids: Vec<_> = registered.keys().cloned().collect();
        ids.sort_unstable();
        self.add_registered(ids, &mut again, now).await?;
        Ok(again == trace.owners)
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

    /// Asks the registry for ids, sorted and distinct.
    async fn add_registered(
        &self,
        ids: Vec<TempId>,
        owners: &mut Owners,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        if !ids.is_empty() {
            let found = self.store.resolve(ids.clone(), now).await?;
            owners.registered.extend(ids.into_iter().zip(found));
        }
        Ok(())
    }
}

impl Trace<&Owner> {
    fn cloned(self) -> Trace {
        match self {
            Self::Resolved(owner) => Trace::Resolved(owner.clone()),
            Self::Expired(owner) => Trace::Expired(owner.clone()),
            Self::Unknown => Trace::Unknown,
            Self::Invalid => Trace::Invalid,
        }
    }
}

impl fmt::Debug for UploadTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadTrace").field("summary", &self.tally.summary).finish_non_exhaustive()
    }
}

impl UploadTrace {
    /// How many of the upload's first records have been traced.
    pub(crate) const fn records(&self) -> u32 {
        self.tally.summary.records
    }
}

/// Opens those sealed ids whose owner is not known yet.
fn open_sealed(keyring: &Keyring, records: &[Uploaded], owners: &Owners) -> HashMap<TempId, Unsealed> {
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
    opened
}

/// Whom ids belong to, as far as they have been looked up: in a contact log the same ones come again and again.
#[derive(Default, PartialEq)]
struct Owners {
    /// Those that a key opened, for the records that it can have issued them to.
    sealed: HashMap<TempId, (Unsealed, Option<Owner>)>,
    /// Those that the registry was asked for.
    registered: HashMap<TempId, Option<Owner>>,
    /// Whether there were more, which are no longer here.
    has_forgotten: bool,
}

impl Owners {
    fn make_room(&mut self) {
        if self.sealed.len() + self.registered.len() > MAX_OWNERS {
            *self = Self { has_forgotten: true, ..Self::default() };
        }
    }

    /// Forgets whom those sealed ids belong to whose key is gone.
    fn forget_without_key(&mut self, keyring: &Keyring) {
        let before = self.sealed.len();
        self.sealed.retain(|_, (unsealed, _)| keyring.has_key_of(unsealed));
        self.has_forgotten |= self.sealed.len() < before;
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

    /// What is known of a record, whose id has been looked up.
    fn trace(&self, record: &Uploaded) -> Trace<&Owner> {
        let Uploaded::Record(uploaded) = record else { return Trace::Invalid };
        match self.of(uploaded).and_then(Option::as_ref) {
            None => Trace::Unknown,
            Some(owner) if uploaded.received.is_none_or(|received| owner.window.contains(received)) => {
                Trace::Resolved(owner)
            }
            Some(owner) => Trace::Expired(owner),
        }
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
pub(crate) struct Tally {
    pub(crate) summary: UploadSummary,
    /// Who was met, and in which windows of their ids: the first [`MAX_OWNERS`].
    pub(crate) encounters: HashSet<(AccountId, Window)>,
    /// Who was met in further ones.
    met_besides: Met,
    pub(crate) report: UploadReport,
}

impl Tally {
    fn add(&mut self, record: &Uploaded, trace: &Trace<&Owner>, uploader: AccountId) {
        self.summary.records += 1;
        let Uploaded::Record(UploadedRecord { record, .. }) = record else {
            self.summary.invalid += 1;
            return;
        };
        self.report.records.push_with(|| record.clone());
        match trace {
            Trace::Resolved(owner) => {
                // nobody meets himself
                if owner.account != uploader {
                    self.met(owner);
                }
                self.resolved(owner, &record.temp_id);
            }
            // the contact stays on the books; but a repeated beacon is no encounter, so there is no notice
            Trace::Expired(owner) => self.resolved(owner, &record.temp_id),
            Trace::Unknown | Trace::Invalid => self.summary.unknown += 1,
        }
    }

    fn met(&mut self, owner: &Owner) {
        let encounter = (owner.account, owner.window);
        if self.encounters.len() < MAX_OWNERS {
            self.encounters.insert(encounter);
        } else if !self.encounters.contains(&encounter) {
            widen(&mut self.met_besides, owner.account, owner.window);
        }
    }

    fn resolved(&mut self, owner: &Owner, temp_id: &TempId) {
        self.summary.resolved += 1;
        self.report.matches.push_with(|| Match {
            username: owner.username.clone(),
            start: owner.window.start(),
            temp_id: temp_id.clone(),
        });
    }

    /// Who was met, from the begin of the first window to the end of the last.
    pub(crate) fn everyone_met(&self) -> BTreeMap<AccountId, (Timestamp, Timestamp)> {
        let mut met = self.met_besides.clone();
        self.encounters.iter().for_each(|(account, window)| widen(&mut met, *account, *window));
        met
    }
}
