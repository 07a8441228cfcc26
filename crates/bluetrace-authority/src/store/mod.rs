//! Owns the [`Store`] trait: everything the authority asks of a database, as intents.
//!
//! Laws, held by the conformance suite (module `conformance`, behind a feature) for every implementation:
//! - Every method is one transaction. When its future is ready with `Ok`, what it did is durable.
//! - Every method may be repeated, and any two may run at once on any number of servers; the outcome is as if they had
//!   run one after the other.
//! - Rows carry the moment at which they are forgotten (`forget_at`). From then on no method returns them, whether or not
//!   [`Store::expire`] has deleted them yet.
//! - A block lasts from the failure that made it to `block_duration_s` later, to the millisecond: at its end, and not a
//!   millisecond before, the username may log in again.
//! - An expected outcome is a variant of the result; [`StoreError`] means that the store itself could not do its work.

mod account;
mod lockout;
mod sealing_key;
mod temp_id;
mod upload;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, Uid, UploadId, UploadSummary, Uploaded, Username,
};
use thiserror::Error;

pub use self::account::{
    Account, AccountId, AccountOpened, AccountSummary, LoginState, PasswordHash, PasswordSource, SessionId,
    SessionState,
};
pub use self::lockout::{Failures, Lockout, LoginRecorded, MAX_UNKNOWN_USERNAMES, UNKNOWN_USERNAME_MEMORY_S, Verdict};
pub use self::sealing_key::{
    KeyTerm, NewSealingKey, SealingKeyId, SealingKeyRow, SealingKeyState, Shredded, WRAPPED_KEY_BYTES, WrappedKey,
};
pub use self::temp_id::{ImportedTempId, Owner, TempIdImported, TempIdsIssued};
pub use self::upload::{
    Appended, NewNotice, NoticeId, Told, UploadBegun, UploadCompleted, UploadFound, UploadKey, UploadRequest, UploadRow,
};

pub use crate::code_rule::{
    CodeCheck, CodeForm, CodeHash, CodeIssued, CodeLimits, CodeRedeemed, CodeRefusal, CodeRevoked, CodeState,
    CodeVerdict, FoundCode, Guesses, NewUploadCode, PinSeed, PresentedCode, UploadCodeId, UploadCodeRow, WrongCodes,
};
pub use crate::registration_rule::{
    AccountFound, CodesOfNumber, Confirmation, GoodCode, NewOneTimeCode, NumberHash, OneTimeCodeId, OneTimeCodeMade,
    OneTimeHash, OneTimeVerdict, RegistrationConfirmed, RegistrationLimits,
};

/// A store's answer, in time.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why a store could not do its work. The texts hold no personal data.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The same call may succeed later: the disk is full, the database is busy or away. Nothing was changed, or, where the
    /// database was lost just as it was told to commit, all of it: to repeat the call is right in both cases.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store is broken, or this program is; the same call will not succeed later.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// What [`Store::expire`] deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Rows deleted, of every kind.
    pub rows: u64,
    /// Whether there is more to delete: call again.
    pub more: bool,
}

/// Everything the authority asks of a database. See the module for the laws.
pub trait Store: Send + Sync + fmt::Debug {
    /// Opens an account, or gives a password to one that has none. Failures of the name are forgotten then.
    fn open_account(
        &self,
        username: Username,
        hash: PasswordHash,
        source: PasswordSource,
        now: Timestamp,
    ) -> StoreFuture<'_, AccountOpened>;

    /// Sets the password of an account, voids its resume tokens and ends a block. `false` if there is no such account.
    fn change_password(&self, username: Username, hash: PasswordHash, source: PasswordSource) -> StoreFuture<'_, bool>;

    /// Removes an account and everything that is its own: `TempIDs`, uploads, notices, failures. `false` if there is none.
    fn remove_account(&self, username: Username) -> StoreFuture<'_, bool>;

    /// Up to `limit` accounts with names after `after`, in order of their bytes.
    fn accounts(&self, after: Option<Username>, limit: u32, now: Moment) -> StoreFuture<'_, Vec<AccountSummary>>;

    /// The account of that name, and whether the name is blocked. Writes nothing.
    fn login_state(&self, username: Username, now: Moment) -> StoreFuture<'_, LoginState>;

    /// Applies the lock-out rule to one attempt. A block found decides before the verdict does. A username without an
    /// account counts as one with an account does, and is never welcome; failures of such names are forgotten a day after
    /// the last one and not within a block, and of more than [`MAX_UNKNOWN_USERNAMES`] the oldest make room.
    fn record_login(
        &self,
        username: Username,
        verdict: Verdict,
        rule: Lockout,
        now: Moment,
    ) -> StoreFuture<'_, LoginRecorded>;

    /// Stores `TempIDs` of an account, all or none. An id named twice is taken at its second place, and one that is stored is
    /// taken until [`Store::expire`] has deleted it.
    fn issue_temp_ids(
        &self,
        account: AccountId,
        ids: Vec<Record>,
        forget_at: Timestamp,
    ) -> StoreFuture<'_, TempIdsIssued>;

    /// Stores lines of `tempIDs.txt`; an outcome for each, in order.
    fn import_temp_ids(
        &self,
        lines: Vec<ImportedTempId>,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<TempIdImported>>;

    /// Up to `limit` `TempIDs` after `after`, with the user of each: by the users' names, and a user's by their begins, then
    /// their bytes.
    fn temp_ids(
        &self,
        after: Option<ImportedTempId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<ImportedTempId>>;

    /// The owner of each `TempID`, in the order asked. Fastest when the ids are sorted and distinct.
    fn resolve(&self, ids: Vec<TempId>, now: Timestamp) -> StoreFuture<'_, Vec<Option<Owner>>>;

    /// Begins an upload, or finds the one this account has begun under this id. Fails for more than `MAX_UPLOAD_RECORDS`
    /// records.
    ///
    /// Where a code is required, an upload goes on without one if it is complete or a code has been redeemed for it; any other
    /// has to present one ([`PresentedCode::judge`]). A code belongs to the account that presents it first, for one upload:
    /// presented by it for another, it moves there, and the unfinished one is dropped. Presenting the same wrong code again for
    /// the same upload does not count again, and has the same outcome for as long as it counts.
    fn begin_upload(&self, request: UploadRequest, now: Timestamp) -> StoreFuture<'_, UploadBegun>;

    /// Where an upload stands that this account has begun under this id; `None` if there is none. Writes nothing.
    fn find_upload(&self, account: AccountId, upload: UploadId, now: Timestamp)
    -> StoreFuture<'_, Option<UploadFound>>;

    /// Stores the records of an upload from place `first` (0 for the first) on, and returns how many of its first records were
    /// durable before and are then. Records that are durable already are passed over, so a repeated or overlapping call adds nothing. Nothing
    /// is stored beyond the number of records the upload was begun with. `None` if there is no such upload: it is forgotten,
    /// or its account has been removed.
    ///
    /// Fails if `first` lies beyond the durable records.
    fn append_records(
        &self,
        upload: UploadKey,
        first: u32,
        records: Vec<Uploaded>,
    ) -> StoreFuture<'_, Option<Appended>>;

    /// Up to `limit` durable records of an upload from place `first` on.
    fn uploaded_records(
        &self,
        upload: UploadKey,
        first: u32,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Uploaded>>;

    /// Marks an upload complete with its summary and leaves the notices, unless it is complete already. Notices for accounts
    /// that are gone are dropped; with the others is noted whose upload it was ([`Store::told`]).
    fn complete_upload(
        &self,
        upload: UploadKey,
        summary: UploadSummary,
        notices: Vec<NewNotice>,
        now: Timestamp,
    ) -> StoreFuture<'_, UploadCompleted>;

    /// Up to `limit` uploads after `after`, in order of their keys.
    fn uploads(&self, after: Option<UploadKey>, limit: u32, now: Timestamp) -> StoreFuture<'_, Vec<UploadRow>>;

    /// Up to `limit` unread notices of an account, oldest first. `None` if there is no such account.
    fn unread_notices(
        &self,
        account: AccountId,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<Vec<(NoticeId, ExposureNotice)>>>;

    /// What these accounts have been told, read or not, after uploads of `uploader`: up to `limit` of it, in any order.
    fn told(
        &self,
        uploader: AccountId,
        accounts: Vec<AccountId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Told>>;

    /// Marks the notices of an account read, up to and with `last`.
    fn mark_notices_read(&self, account: AccountId, last: NoticeId) -> StoreFuture<'_, ()>;

    /// What has come of an account and a session. `None` if there is no such account.
    fn session_state(
        &self,
        account: AccountId,
        session: SessionId,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<SessionState>>;

    /// Ends a session: its resume tokens are void. Remembered until `until`, when they have expired anyway.
    fn revoke_session(&self, session: SessionId, until: Timestamp) -> StoreFuture<'_, ()>;

    /// What was last noted about an import under this name (`None` if nothing was).
    fn import_note(&self, name: &'static str) -> StoreFuture<'_, Option<String>>;

    /// Notes something about an import, so that an unchanged file need not be read again.
    fn note_import(&self, name: &'static str, note: String) -> StoreFuture<'_, ()>;

    // ---- User ids and sealing keys

    /// The user id of an account; `candidate` becomes it if the account has none. `None` if there is no such account.
    /// Fails if another account has the candidate.
    fn user_id(&self, account: AccountId, candidate: Uid) -> StoreFuture<'_, Option<Uid>>;

    /// Whose each user id is, in the order asked.
    fn accounts_of_user_ids(&self, ids: Vec<Uid>) -> StoreFuture<'_, Vec<Option<(AccountId, Username)>>>;

    /// Every sealing key there is or was, in the order of their names. One that is forgotten at `now` is
    /// [`SealingKeyState::Shredding`] or gone.
    fn sealing_keys(&self, now: Timestamp) -> StoreFuture<'_, Vec<SealingKeyRow>>;

    /// Stores a sealing key, unless its name is not above that of every key there ever was: then another server has been
    /// first, nothing is changed, and the answer is `false`. Whoever draws the name from [`Store::sealing_keys`] has thus seen
    /// every key when his is stored.
    fn add_sealing_key(&self, key: NewSealingKey) -> StoreFuture<'_, bool>;

    /// Adds to the counts of what keys have sealed. Keys that are not there are passed over.
    fn count_seals(&self, counts: Vec<(SealingKeyId, u64)>) -> StoreFuture<'_, ()>;

    /// Destroys a sealing key's bytes: in the store, in whatever it keeps beside itself to be durable, and so in every later
    /// copy of either. They are out of reach at once, also where that ends [`Shredded::Unfinished`]. The rest of the row stays.
    fn shred_sealing_key(&self, id: SealingKeyId) -> StoreFuture<'_, Shredded>;

    // ---- Upload codes and handshake PINs

    /// Stores an upload code, unless there is one of the same hash or too many of its form are waiting.
    fn issue_upload_code(&self, code: NewUploadCode, now: Timestamp) -> StoreFuture<'_, CodeIssued>;

    /// Up to `limit` upload codes after `after`, in order of their numbers.
    fn upload_codes(
        &self,
        after: Option<UploadCodeId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<UploadCodeRow>>;

    /// Takes an upload code back.
    fn revoke_upload_code(&self, id: UploadCodeId, now: Timestamp) -> StoreFuture<'_, CodeRevoked>;

    /// Makes an upload code this account's ahead of the upload, under the rules of [`Store::begin_upload`]. Every wrong one
    /// counts. Redeemed, it is kept until `forget_at` at the least.
    fn redeem_upload_code(
        &self,
        account: AccountId,
        code: PresentedCode,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, CodeRedeemed>;

    /// Up to `limit` accounts after `after` whose wrong upload codes count, in order of their names.
    fn wrong_upload_codes(
        &self,
        after: Option<Username>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<(Username, WrongCodes)>>;

    /// Lets an account's wrong upload codes count against it no more, and returns how many those were; `None` if there is no
    /// such account. Against their form they count as before, or an account let go on again and again could guess without end.
    fn forgive_wrong_codes(&self, username: Username, now: Timestamp) -> StoreFuture<'_, Option<u32>>;

    /// The seed of an account's handshake PIN and when it ends; `candidate`, until `ends`, becomes it if there is none.
    /// `None` if there is no such account.
    fn handshake_pin(
        &self,
        account: AccountId,
        candidate: PinSeed,
        ends: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<(PinSeed, Timestamp)>>;

    // ---- Registrations

    /// Stores a one-time code, unless its number has just been sent one or has had too many ([`RegistrationLimits::judge`]). It is
    /// good until [`RegistrationLimits::expires`], counts as sent, and is forgotten at [`RegistrationLimits::forgotten_at`].
    fn make_one_time_code(&self, code: NewOneTimeCode, now: Timestamp) -> StoreFuture<'_, OneTimeCodeMade>;

    /// Notes that the sender failed with a code: it does not hold up the next. It is good all the same, since it may have
    /// arrived. A code that is not there is passed over.
    fn one_time_code_failed(&self, code: OneTimeCodeId) -> StoreFuture<'_, ()>;

    /// Uses a one-time code ([`RegistrationLimits::check`]): opens the account of its number, or finds it
    /// ([`AccountFound::is_the_numbers`]), and notes that it is registered. With a password it has that one from now on, as after
    /// [`Store::change_password`] if it had another, and as an operator's it is not undone by an unchanged line of
    /// `credentials.txt`. A code works once: with it all codes of the number are used. A wrong one counts against
    /// each good code of the number.
    fn confirm_registration(
        &self,
        confirmation: Confirmation,
        now: Timestamp,
    ) -> StoreFuture<'_, RegistrationConfirmed>;

    /// Deletes rows that are forgotten at `now`, at most [`MAX_EXPIRED_ROWS`] of them. A store may leave the records of uploads
    /// that are forgotten in their time, out of sight as they are, until it drops all of a day at once; they do not count then.
    fn expire(&self, now: Timestamp) -> StoreFuture<'_, Expired>;
}

/// Most rows that one call of [`Store::expire`] deletes, so that it holds nobody up.
pub const MAX_EXPIRED_ROWS: u32 = 10_000;
