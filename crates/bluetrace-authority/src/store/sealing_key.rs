//! Owns what a store knows of sealing keys.

use std::fmt;

use bluetrace_protocol::Timestamp;

/// The name of a sealing key. Later keys have higher ones, and none is given twice: the rows stay when the keys are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealingKeyId(pub i64);

/// A sealing key's bytes under the master key's: useless to who has not that. All of one length, so that a store can write
/// over them in place.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey(pub [u8; WRAPPED_KEY_BYTES]);

/// When a sealing key seals, and when it ends.
///
/// Invariant: `issues_from < issues_until <= last_expiry < forget_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTerm {
    /// The first second in which it seals.
    pub issues_from: Timestamp,
    /// The first second in which it seals no more.
    pub issues_until: Timestamp,
    /// No `TempID` that it seals is valid after this second.
    pub last_expiry: Timestamp,
    /// When it is destroyed.
    pub forget_at: Timestamp,
}

/// A sealing key that is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSealingKey {
    /// Its name: one more than the highest there has ever been.
    pub id: SealingKeyId,
    /// Its term.
    pub term: KeyTerm,
    /// Its bytes.
    pub wrapped: WrappedKey,
}

/// A sealing key as a store knows it, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealingKeyRow {
    /// Its name.
    pub id: SealingKeyId,
    /// Its term.
    pub term: KeyTerm,
    /// How many `TempIDs` it has sealed, as far as servers have counted them.
    pub seals: u64,
    /// What there is of its bytes.
    pub state: SealingKeyState,
}

/// What there is of a sealing key's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealingKeyState {
    /// They are there.
    Live(WrappedKey),
    /// They are out of reach; the store's files may still hold them, until [`Store::shred_sealing_key`](super::Store::shred_sealing_key) has finished.
    Shredding,
    /// They are nowhere in the store's files.
    Shredded,
}

/// Outcome of [`Store::shred_sealing_key`](super::Store::shred_sealing_key).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shredded {
    /// There never was a key of that name.
    NoSuchKey,
    /// The bytes are out of reach for good, but something that reads the store keeps its files from being cleaned: call again.
    Unfinished,
    /// The bytes are nowhere in the store's files.
    Done,
}

/// Bytes of a [`WrappedKey`]: an IV of 16, a key of 32, a tag of 16.
pub const WRAPPED_KEY_BYTES: usize = 64;

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappedKey(..)")
    }
}
