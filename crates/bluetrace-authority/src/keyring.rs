//! Owns the keys that seal `TempIDs`: when one is made, which one seals, which ones can have sealed an id, and when one ends.
//!
//! A key seals for one `key_period_s` and opens for as long as what it sealed is of use; then its bytes are destroyed, and
//! with them the meaning of every id that it sealed. In the store each is wrapped (`wrapping.rs`).
//!
//! ```text
//! key of today     |-- seals, a day --|-- its ids are valid, a batch long --|-- retention --| destroyed
//! key of tomorrow                     |-- seals ...
//! ```
//!
//! An id that somebody heard at a moment can only be of a key that sealed before that moment, or within the hour after it
//! where his clock is slow, and whose ids were valid then: with keys of a day and batches of 25 hours two, now and then three,
//! of however many there are.
//!
//! Servers agree through the store alone: a key is added under the name after the last one, which two cannot have.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bluetrace_protocol::limits::MAX_TEMP_IDS;
use bluetrace_protocol::sealed::{IV_BYTES, KEY_BYTES, random_iv, wire_seconds};
use bluetrace_protocol::{Opened, Record, SealedTempId, SealingKey, Timestamp, Uid, Window};
use rand::Rng as _;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, Member, Scheme};
use crate::keys::MasterKey;
use crate::store::{AccountId, KeyTerm, NewSealingKey, SealingKeyId, SealingKeyRow, SealingKeyState, Shredded};
use crate::wrapping::Wrapping;

/// The sealing keys that could be opened at one moment, to open `TempIDs` with. It does not change any more: who works for
/// long takes a new one now and then.
#[derive(Default)]
pub struct Keyring {
    /// In the order in which they began to seal.
    keys: Vec<Arc<OpenKey>>,
    /// How long after it began to seal a key's ids are valid, of any of them at the most, in seconds.
    reach_s: i64,
    /// The highest name of a key that was ever seen.
    last: Option<SealingKeyId>,
    /// Keys whose bytes the master key does not open.
    unreadable: Vec<SealingKeyId>,
    /// Keys that are out of reach, and whose destruction is not finished.
    to_shred: Vec<SealingKeyId>,
}

/// What an id says, and when ids of its key were in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsealed {
    /// What it says.
    pub opened: Opened,
    key: SealingKeyId,
    term: KeyTerm,
}

/// What was done to the keys, and what an operator should know of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeysKept {
    /// Keys that were made.
    pub made: u32,
    /// Keys that were destroyed.
    pub shredded: u32,
    /// Keys that are out of reach, and whose bytes the store could not yet clean out of its files.
    pub unfinished: u32,
    /// Keys that the master key does not open: their `TempIDs` cannot be resolved.
    pub unreadable: u32,
    /// The key that seals now, with its seals, if those are [`SEALS_TO_WARN`] or more. From [`SEALS_OF_A_KEY`] on another one
    /// takes its place; more often than once a period means that the period is too long.
    pub worn: Option<(SealingKeyId, u64)>,
}

/// Seals under one key after which another takes its place: half of the 2^31 that are safe.
pub const SEALS_OF_A_KEY: u64 = 1 << 30;

/// The next key is made so many seconds before it is needed, or half a period where that is less: an hour in which a
/// store may be away.
pub const KEY_AHEAD_S: i64 = 60 * 60;

/// Seals under one key that an operator is told of: a quarter of what is safe.
pub const SEALS_TO_WARN: u64 = 1 << 29;

impl Keyring {
    /// Opens an id that was heard at, or says itself to begin at, one of some moments. Only keys are tried that can have
    /// sealed what was valid at one of them, the latest first.
    ///
    /// A phone that goes on showing an id for twelve hours after its end is heard as well if the moment twelve hours before
    /// is given too.
    pub fn open(&self, sealed: &SealedTempId, moments: &[Timestamp]) -> Option<Unsealed> {
        for (place, moment) in moments.iter().enumerate() {
            let begun = self.keys.partition_point(|key| key.term.issues_from <= moment.plus(SLOW_CLOCK_S));
            let recent = self.keys.get(..begun)?.iter().rev();
            for key in recent.take_while(|key| moment.seconds_since(key.term.issues_from) <= self.reach_s) {
                let was_tried = || moments.iter().take(place).any(|before| key.term.may_have_sealed(*before));
                if key.term.may_have_sealed(*moment)
                    && !was_tried()
                    && let Some(unsealed) = key.open(sealed)
                {
                    return Some(unsealed);
                }
            }
        }
        None
    }

    /// Opens an id of which no moment is known, with whichever key does: as many tries as there are keys.
    pub fn open_at_any_time(&self, sealed: &SealedTempId) -> Option<Unsealed> {
        self.keys.iter().rev().find_map(|key| key.open(sealed))
    }

    /// Whether the key is still there that opened an id.
    pub fn has_key_of(&self, unsealed: &Unsealed) -> bool {
        self.keys.iter().any(|key| key.id == unsealed.key)
    }

    /// How many keys it has.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Unsealed {
    /// Whether [`Keyring::open`] finds it by one of these moments, too. It goes by the moments alone: so what is said of a record
    /// is the same whatever other records hold the id.
    pub fn may_be_of(&self, moments: &[Timestamp]) -> bool {
        moments.iter().any(|moment| self.term.may_have_sealed(*moment))
    }
}

impl Authority {
    /// The keys as the store has them now, opened.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn keyring(&self, now: Timestamp) -> Result<Arc<Keyring>, AuthorityError> {
        Ok(self.keys.learn(self.store.sealing_keys(now).await?))
    }

    /// Seals a `TempID` of a member for each window. Nothing is asked of the store, but for
    /// the key at the begin of a period: so it is not noticed either that an account was removed while its member is logged
    /// in, and what he is given leads to nobody. `None` if there was no account at his login.
    ///
    /// # Errors
    /// [`AuthorityError`] if there is no key yet and the store cannot answer.
    pub(crate) async fn seal_temp_ids(
        &self,
        member: &Member,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Option<Vec<Record>>, AuthorityError> {
        let user_id = match member.user_id {
            Some(user_id) => Some(user_id),
            None => self.user_id(member.account).await?,
        };
        let Some(user_id) = user_id else { return Ok(None) };
        let key = self.sealing_key(now).await?;
        let mut ivs = vec![[0; IV_BYTES]; windows.len()];
        self.with_generator(|generator| generator.fill_bytes(ivs.as_flattened_mut()));
        let mut sealed = Vec::with_capacity(windows.len());
        for (window, iv) in windows.iter().zip(ivs) {
            let (Some(start), Some(expiry)) = (wire_seconds(window.start()), wire_seconds(window.expiry())) else {
                return Err(AuthorityError::Internal("a sealed TempID ends before 2038-01-19".to_owned()));
            };
            let temp_id = (&key.key.seal(&user_id, start, expiry, iv)).into();
            sealed.push(Record { temp_id, window: *window });
        }
        let count = u64::try_from(sealed.len()).unwrap_or(u64::MAX);
        if key.uncounted.fetch_add(count, Ordering::Relaxed) >= SEALS_AT_RISK {
            // what could not be counted now is counted later, and nobody needs to wait for it in vain
            _ = self.count_seals().await;
        }
        Ok(Some(sealed))
    }

    /// Looks after the keys: makes those that are needed soon, destroys those that are past their time, counts what was
    /// sealed, and learns what other servers and operators did. For a job, every few seconds.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer; whatever was not done is done the next time.
    pub async fn keep_keys(&self, now: Timestamp) -> Result<KeysKept, AuthorityError> {
        let mut kept = KeysKept::default();
        self.count_seals().await?;
        let mut ring = self.keyring(now).await?;
        if self.policy.temp_id_scheme == Scheme::Sealed {
            let until = if let Some(key) = ring.sealing_at(now, self) {
                key.term.issues_until
            } else {
                let (key, made) = self.key_that_seals_at(now, now).await?;
                kept.made += made;
                key.term.issues_until
            };
            let is_near = until.seconds_since(now) <= KEY_AHEAD_S.min(i64::from(self.policy.key_period_s) / 2);
            if is_near && ring.sealing_at(until, self).is_none() {
                kept.made += self.key_that_seals_at(until, now).await?.1;
            }
        }
        for id in &ring.to_shred {
            match self.store.shred_sealing_key(*id).await? {
                Shredded::Done => kept.shredded += 1,
                Shredded::Unfinished => kept.unfinished += 1,
                Shredded::NoSuchKey => {}
            }
        }
        if kept.made > 0 {
            ring = self.keys.ring();
        }
        kept.unreadable = u32::try_from(ring.unreadable.len()).unwrap_or(u32::MAX);
        let seals = ring.sealing_at(now, self).map(|key| (key.id, key.seals()));
        kept.worn = seals.filter(|(_, seals)| *seals >= SEALS_TO_WARN);
        Ok(kept)
    }

    /// Tells the store what was sealed since the last time.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer; the next time counts it.
    pub async fn count_seals(&self) -> Result<(), AuthorityError> {
        let ring = self.keys.ring();
        let counts = ring.keys.iter().map(|key| (key.id, key.uncounted.swap(0, Ordering::Relaxed)));
        let counts: Vec<_> = counts.filter(|(_, seals)| *seals > 0).collect();
        if counts.is_empty() {
            return Ok(());
        }
        let counted = self.store.count_seals(counts.clone()).await;
        let counts: HashMap<_, _> = counts.into_iter().collect();
        for key in &ring.keys {
            let seals = counts.get(&key.id).copied().unwrap_or_default();
            let place = if counted.is_ok() { &key.counted } else { &key.uncounted };
            place.fetch_add(seals, Ordering::Relaxed);
        }
        Ok(counted?)
    }

    /// Begins a new key at once, whose term ends with that of the key in use; that one goes on opening what it sealed. Servers
    /// learn of it when they next look after the keys. `None` if no key is in use.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn rotate_key(&self, now: Timestamp) -> Result<Option<SealingKeyId>, AuthorityError> {
        loop {
            let rows = self.store.sealing_keys(now).await?;
            let Some(SealingKeyRow { term, .. }) = SealingKeyRow::in_use(&rows, now) else { return Ok(None) };
            if let Some(id) = self.add_key(&rows, KeyTerm { issues_from: now, ..*term }).await? {
                return Ok(Some(id));
            }
        }
    }

    /// The key to seal with now.
    async fn sealing_key(&self, now: Timestamp) -> Result<Arc<OpenKey>, AuthorityError> {
        match self.keys.ring().sealing_at(now, self) {
            Some(key) => Ok(key),
            None => Ok(self.key_that_seals_at(now, now).await?.0),
        }
    }

    /// The key that seals at a moment, made if there is none, and how many were made for it.
    async fn key_that_seals_at(
        &self,
        moment: Timestamp,
        now: Timestamp,
    ) -> Result<(Arc<OpenKey>, u32), AuthorityError> {
        let mut made = 0;
        for _ in 0..MAX_RACES {
            let rows = self.store.sealing_keys(now).await?;
            if let Some(key) = self.keys.learn(rows.clone()).sealing_at(moment, self) {
                return Ok((key, made));
            }
            let period = i64::from(self.policy.key_period_s.max(1));
            let until = moment.plus(period - moment.as_unix().rem_euclid(period));
            made += u32::from(self.add_key(&rows, self.term(moment, until)).await?.is_some());
        }
        Err(AuthorityError::Internal("no sealing key comes of the store".to_owned()))
    }

    /// The term of a key that seals from one moment until another.
    fn term(&self, issues_from: Timestamp, issues_until: Timestamp) -> KeyTerm {
        let batch_s = i64::from(self.policy.temp_id_lifetime_s.max(1)) * i64::from(MAX_TEMP_IDS);
        let last_expiry = issues_until.plus(batch_s);
        KeyTerm { issues_from, issues_until, last_expiry, forget_at: self.forget_at(last_expiry) }
    }

    /// Adds a key behind those of `rows`. `None` if another server has added one meanwhile.
    async fn add_key(&self, rows: &[SealingKeyRow], term: KeyTerm) -> Result<Option<SealingKeyId>, AuthorityError> {
        let id = SealingKeyId(rows.last().map_or(0, |last| last.id.0).saturating_add(1));
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        let iv = self.with_generator(|generator| {
            generator.fill_bytes(&mut *bytes);
            random_iv(generator)
        });
        let key = NewSealingKey { id, term, wrapped: self.keys.wrapping.wrap(&bytes, id, term, iv) };
        Ok(self.store.add_sealing_key(key).await?.then_some(id))
    }

    /// The user id of an account where it is needed for sealing.
    pub(crate) async fn user_id_to_seal(&self, account: AccountId) -> Result<Option<Uid>, AuthorityError> {
        match self.policy.temp_id_scheme {
            Scheme::Registry => Ok(None),
            Scheme::Sealed => self.user_id(account).await,
        }
    }

    /// The user id of an account, which is given one if it has none. `None` if there is no such account.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn user_id(&self, account: AccountId) -> Result<Option<Uid>, AuthorityError> {
        let candidate = self.with_generator(Uid::random);
        Ok(self.store.user_id(account, candidate).await?)
    }
}

/// The keys of one authority, as far as this process knows them.
pub(crate) struct SealingKeys {
    wrapping: Wrapping,
    known: RwLock<Arc<Keyring>>,
}

impl SealingKeys {
    pub(crate) fn new(master_key: &MasterKey) -> Self {
        Self { wrapping: Wrapping::new(master_key), known: RwLock::default() }
    }

    fn ring(&self) -> Arc<Keyring> {
        // a ring is replaced whole
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up what the store answered. Answers may come in another order than that in which they were given: a key that was
    /// seen never comes back once it was seen to be gone, and is not lost to an answer from before it was made.
    fn learn(&self, rows: Vec<SealingKeyRow>) -> Arc<Keyring> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before: HashMap<_, _> = known.keys.iter().map(|key| (key.id, key)).collect();
        let answered = rows.last().map(|row| row.id);
        let mut ring = Keyring { last: known.last.max(answered), ..Keyring::default() };
        ring.keys.extend(known.keys.iter().filter(|key| Some(key.id) > answered).cloned());
        for SealingKeyRow { id, term, seals, state } in rows {
            match state {
                SealingKeyState::Live(wrapped) => {
                    if let Some(key) = before.get(&id) {
                        key.counted.store(seals, Ordering::Relaxed);
                        ring.keys.push(Arc::clone(key));
                    } else if Some(id) <= known.last && !known.unreadable.contains(&id) {
                        // it has been destroyed meanwhile
                    } else if let Some(key) = self.wrapping.unwrap(&wrapped, id, term) {
                        let (counted, uncounted) = (AtomicU64::new(seals), AtomicU64::new(0));
                        ring.keys.push(Arc::new(OpenKey { id, term, key, counted, uncounted }));
                    } else {
                        ring.unreadable.push(id);
                    }
                }
                SealingKeyState::Shredding => ring.to_shred.push(id),
                SealingKeyState::Shredded => {}
            }
        }
        ring.keys.sort_by_key(|key| (key.term.issues_from, key.id));
        let reaches = ring.keys.iter().map(|key| key.term.last_expiry.seconds_since(key.term.issues_from));
        ring.reach_s = reaches.max().unwrap_or_default();
        *known = Arc::new(ring);
        Arc::clone(&known)
    }
}

impl Keyring {
    /// The newest of the keys that seal at a moment by the authority's rules of now.
    fn sealing_at(&self, moment: Timestamp, authority: &Authority) -> Option<Arc<OpenKey>> {
        let begun = self.keys.partition_point(|key| key.term.issues_from <= moment);
        let is_good = |key: &&Arc<OpenKey>| {
            // rules may have changed since it was made: what it seals must neither outlive it nor be forgotten too early
            let needed = authority.term(key.term.issues_from, key.term.issues_until);
            key.term.seals_at(moment)
                && key.term.last_expiry >= needed.last_expiry
                && key.term.forget_at >= needed.forget_at
                && key.seals() < SEALS_OF_A_KEY
        };
        self.keys.get(..begun)?.iter().filter(is_good).max_by_key(|key| key.id).cloned()
    }
}

/// A key out of its wrapping. Its bytes are wiped when nobody uses it any more.
struct OpenKey {
    id: SealingKeyId,
    term: KeyTerm,
    key: SealingKey,
    /// Seals that the store knew of when it was last asked.
    counted: AtomicU64,
    /// Seals of this process that the store does not know of.
    uncounted: AtomicU64,
}

impl OpenKey {
    fn open(&self, sealed: &SealedTempId) -> Option<Unsealed> {
        self.key.open(sealed).ok().map(|opened| Unsealed { opened, key: self.id, term: self.term })
    }

    fn seals(&self) -> u64 {
        self.counted.load(Ordering::Relaxed).saturating_add(self.uncounted.load(Ordering::Relaxed))
    }
}

impl KeyTerm {
    /// Whether the key seals at a moment.
    pub fn seals_at(self, moment: Timestamp) -> bool {
        self.issues_from <= moment && moment < self.issues_until
    }

    /// Whether what a receiver heard at a moment, by his own clock, can be of the key.
    fn may_have_sealed(self, moment: Timestamp) -> bool {
        self.issues_from <= moment.plus(SLOW_CLOCK_S) && moment <= self.last_expiry
    }
}

impl SealingKeyRow {
    /// The key in use among those of [`Store::sealing_keys`](crate::store::Store::sealing_keys): where several could seal, the newest.
    pub fn in_use(rows: &[Self], now: Timestamp) -> Option<&Self> {
        rows.iter().rfind(|row| row.state.is_live() && row.term.seals_at(now))
    }

    /// The live keys among those of [`Store::sealing_keys`](crate::store::Store::sealing_keys) that a master key does not open.
    pub fn unreadable(rows: &[Self], master_key: &MasterKey) -> Vec<SealingKeyId> {
        let wrapping = Wrapping::new(master_key);
        let is_lost = |row: &&Self| match &row.state {
            SealingKeyState::Live(wrapped) => wrapping.unwrap(wrapped, row.id, row.term).is_none(),
            SealingKeyState::Shredding | SealingKeyState::Shredded => false,
        };
        rows.iter().filter(is_lost).map(|row| row.id).collect()
    }
}

impl SealingKeyState {
    /// Whether the bytes are there.
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// A batch may begin so many seconds before it is asked for, as `OpenTrace`'s do.
pub(crate) const EARLY_S: i64 = 60;

/// How slow a receiver's clock may be for an id to be found that a key sealed in its first second, [`EARLY_S`] included: as
/// much as leaves it at two keys, now and then three, for a moment and the one twelve hours before it.
const SLOW_CLOCK_S: i64 = 60 * 60;

/// Seals of one key that a process keeps to itself, and loses if it is killed, between two looks after the keys.
const SEALS_AT_RISK: u64 = 1 << 20;

/// How often other servers may be first before the store is believed to be broken.
const MAX_RACES: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_store_in_another_order_lose_no_key_and_bring_none_back() {
        let keys = SealingKeys::new(&MasterKey::new([7; 32]));
        let names = |ring: Arc<Keyring>| ring.keys.iter().map(|key| key.id.0).collect::<Vec<_>>();
        let (one, two) = (row(&keys, 1), row(&keys, 2));
        assert_eq!(names(keys.learn(vec![one.clone(), two.clone()])), [1, 2]);
        keys.ring().keys[1].uncounted.store(5, Ordering::Relaxed);
        assert_eq!(names(keys.learn(vec![one.clone()])), [1, 2], "from before the second was made");
        assert_eq!(keys.ring().keys[1].uncounted.load(Ordering::Relaxed), 5, "nor what it has sealed");
        let shredded = SealingKeyRow { state: SealingKeyState::Shredded, ..one.clone() };
        assert_eq!(names(keys.learn(vec![shredded, two.clone()])), [2]);
        assert_eq!(names(keys.learn(vec![one, two])), [2], "from before the first was destroyed");
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = SealingKeys::new(&MasterKey::new([7; 32]));
        let row = row(&keys, 1);
        let shown = format!("{row:?} {:?}", keys.learn(vec![row.clone()]));
        assert!(shown.contains("WrappedKey(..)") && shown.ends_with("Keyring { keys: 1, .. }"), "{shown}");
    }

    fn row(keys: &SealingKeys, number: i64) -> SealingKeyRow {
        let at = |seconds| Timestamp::from_unix(seconds).unwrap();
        let term = KeyTerm { issues_from: at(0), issues_until: at(9), last_expiry: at(99), forget_at: at(999) };
        let id = SealingKeyId(number);
        let wrapped = keys.wrapping.wrap(&[7; KEY_BYTES], id, term, [9; IV_BYTES]);
        SealingKeyRow { id, term, seals: 0, state: SealingKeyState::Live(wrapped) }
    }
}
