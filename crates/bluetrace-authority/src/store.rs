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

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, Uid, UploadId, UploadSummary, Uploaded, Username, Window,
};
use thiserror::Error;

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

/// The store's own number for an account. Never on the wire, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub i64);

/// The store's own number for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadKey(pub i64);

/// The store's own number for a notice; later notices of an account have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoticeId(pub i64);

/// A login's random name, carried on in its resume tokens, so that a logout can end them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

/// An Argon2id hash in PHC text form.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

/// Who sets a password: it decides what a later import compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordSource {
    /// An operator. A line of `credentials.txt` that has not changed since its import does not undo it.
    Operator,
    /// A line of `credentials.txt`.
    Import,
}

/// An account as the authority needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The store's number for it.
    pub id: AccountId,
    /// Who it is.
    pub username: Username,
    /// The password that opens it. `None` for an account that exists only because an imported `TempID` names it.
    pub password_hash: Option<PasswordHash>,
    /// The password last imported from `credentials.txt`, if any; kept when an operator sets another.
    pub imported_hash: Option<PasswordHash>,
    /// Counts password changes. A resume token of another epoch is void.
    pub token_epoch: u32,
    /// When it was opened.
    pub created: Timestamp,
}

/// An account in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSummary {
    /// Who it is.
    pub username: Username,
    /// When it was opened.
    pub created: Timestamp,
    /// Whether it has a password.
    pub has_password: bool,
    /// The first moment at which it may log in again, if it is blocked now.
    pub blocked_until: Option<Moment>,
}

/// Outcome of [`Store::open_account`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountOpened {
    /// There was none of that name, or one without a password.
    Opened(AccountId),
    /// There is one already. Nothing was changed.
    Exists(AccountId),
}

/// What is known of a username before its password is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginState {
    /// The account, if there is one.
    pub account: Option<Account>,
    /// The first moment at which this username, known or not, may log in again, if it is blocked now.
    pub blocked_until: Option<Moment>,
}

/// Whether a password was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Right,
    /// It was not, or there is no such account.
    Wrong,
}

/// The lock-out rule (PROTOCOL section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockout {
    /// Failures in a row that block a username.
    pub max_failures: u32,
    /// How long a block lasts, in seconds, from the failure that made it; its end is not within it. With 0 nothing is
    /// ever blocked, and failures still count.
    pub block_duration_s: u32,
}

/// The failed logins of a username, as a store keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    /// Failures since the last success or block.
    pub in_a_row: u32,
    /// The end of the last block, which may be over.
    pub blocked_until: Option<Moment>,
}

/// Outcome of [`Store::record_login`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRecorded {
    /// The password was right, and the username was not blocked. Its failures are forgotten.
    Welcome,
    /// The password was wrong.
    Wrong {
        /// Failures that are still free before the block.
        left: u32,
    },
    /// The password was wrong, and this failure blocked the username.
    BlockedNow {
        /// The first moment at which it may log in again.
        until: Moment,
    },
    /// The username was blocked already. Nothing was counted.
    Blocked {
        /// The first moment at which it may log in again.
        until: Moment,
    },
}

/// Outcome of [`Store::issue_temp_ids`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TempIdsIssued {
    /// All are stored.
    Issued,
    /// None is stored: these, by their place in the request, are taken. Draw them anew.
    Taken(Vec<usize>),
    /// None is stored: there is no such account.
    NoAccount,
}

/// A line of `tempIDs.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedTempId {
    /// Whose it is.
    pub username: Username,
    /// The id and its window.
    pub record: Record,
}

/// What became of a line of `tempIDs.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TempIdImported {
    /// It is stored. If there was no such account, there is one now, without a password.
    Added,
    /// The same user has it already. Nothing was changed.
    Known,
    /// Another user has it. Nothing was changed.
    ClaimedByAnother,
}

/// To whom a `TempID` belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The account.
    pub account: AccountId,
    /// Its name.
    pub username: Username,
    /// The window in which the id was to be shown, as issued.
    pub window: Window,
}

/// What a device says when it begins or continues an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRequest {
    /// Who uploads.
    pub account: AccountId,
    /// The device's name for the upload.
    pub upload: UploadId,
    /// How many records it has in all.
    pub records: u32,
    /// When the upload and its records are forgotten, if it is a new one.
    pub forget_at: Timestamp,
    /// What it takes to be let in.
    pub code: CodeCheck,
}

/// Outcome of [`Store::begin_upload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadBegun {
    /// It may go on behind the records that are durable.
    Open {
        /// The store's number for it.
        key: UploadKey,
        /// How many of its first records are durable; 0 for a new one.
        durable: u32,
        /// What came of it, if it is complete.
        summary: Option<UploadSummary>,
    },
    /// This account has begun an upload of this id with another number of records.
    Conflict {
        /// The number it was begun with.
        records: u32,
    },
    /// There is no such account.
    NoAccount,
    /// An upload code is required, and was not presented. Nothing was changed.
    CodeRequired,
    /// The upload code is none that this account can use. No upload was begun.
    CodeRefused {
        /// Wrong ones that are still free before none is looked at.
        left: u32,
    },
    /// There were too many wrong upload codes: this one was not looked at, and nothing was changed.
    TooManyCodes {
        /// When the next is looked at.
        until: Timestamp,
    },
}

/// Outcome of [`Store::complete_upload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadCompleted {
    /// This call completed it.
    Now,
    /// It was complete already. Nothing was changed.
    Before,
    /// There is no such upload: it is forgotten, or its account has been removed.
    NoUpload,
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadFound {
    /// The store's number for it.
    pub key: UploadKey,
    /// How many records it has in all.
    pub records: u32,
    /// How many of its first records are durable.
    pub durable: u32,
    /// What came of it, if it is complete.
    pub summary: Option<UploadSummary>,
}

/// An upload in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRow {
    /// The store's number for it; lists are in its order.
    pub key: UploadKey,
    /// The device's name for it.
    pub upload: UploadId,
    /// Who uploads.
    pub uploader: Username,
    /// How many records it has in all.
    pub records: u32,
    /// How many of its first records are durable.
    pub durable: u32,
    /// When it was begun.
    pub begun: Timestamp,
    /// When it was completed, and what came of it.
    pub finished: Option<(Timestamp, UploadSummary)>,
}

/// A notice for one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    /// Whom it is for.
    pub account: AccountId,
    /// What it says.
    pub notice: ExposureNotice,
    /// When it is forgotten.
    pub forget_at: Timestamp,
}

/// The time that a notice speaks of, and whom it was left for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Who was met.
    pub account: AccountId,
    /// The begin of the first encounter.
    pub from: Timestamp,
    /// The end of the last one.
    pub to: Timestamp,
}

/// What a resume token's session and account have come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// Who the account is.
    pub username: Username,
    /// The account's present epoch.
    pub token_epoch: u32,
    /// Whether a logout has ended the session.
    pub is_revoked: bool,
}

/// What [`Store::expire`] deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Rows deleted, of every kind.
    pub rows: u64,
    /// Whether there is more to delete: call again.
    pub more: bool,
}

// ---- Sealing keys

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
    /// They are out of reach; the store's files may still hold them, until [`Store::shred_sealing_key`] has finished.
    Shredding,
    /// They are nowhere in the store's files.
    Shredded,
}

/// Outcome of [`Store::shred_sealing_key`].
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

    /// Stores the records of an upload from place `first` (0 for the first) on, and returns how many of its first records are
    /// durable then. Records that are durable already are passed over, so a repeated or overlapping call adds nothing. Nothing
    /// is stored beyond the number of records the upload was begun with. `None` if there is no such upload: it is forgotten,
    /// or its account has been removed.
    ///
    /// Fails if `first` lies beyond the durable records.
    fn append_records(&self, upload: UploadKey, first: u32, records: Vec<Uploaded>) -> StoreFuture<'_, Option<u32>>;

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

/// Most usernames without an account whose failed logins are remembered: bounds what made-up names can cost.
pub const MAX_UNKNOWN_USERNAMES: u32 = 100_000;

/// How long failures of usernames without an account are remembered after the last one, in seconds: a day. They are
/// forgotten with the first whole second after it.
pub const UNKNOWN_USERNAME_MEMORY_S: i64 = 24 * 60 * 60;

/// Most rows that one call of [`Store::expire`] deletes, so that it holds nobody up.
pub const MAX_EXPIRED_ROWS: u32 = 10_000;

impl Lockout {
    /// Applies the rule to one attempt: what came of it, and the failures to keep. Every store decides with this.
    pub fn judge(self, failures: Failures, verdict: Verdict, now: Moment) -> (LoginRecorded, Failures) {
        if let Some(until) = failures.blocked_until_after(now) {
            return (LoginRecorded::Blocked { until }, failures);
        }
        if verdict == Verdict::Right {
            return (LoginRecorded::Welcome, Failures::default());
        }
        let in_a_row = failures.in_a_row.saturating_add(1);
        if in_a_row >= self.max_failures && self.block_duration_s > 0 {
            let until = now.plus_ms(1_000 * i64::from(self.block_duration_s));
            (LoginRecorded::BlockedNow { until }, Failures { in_a_row: 0, blocked_until: Some(until) })
        } else {
            let left = self.max_failures.saturating_sub(in_a_row);
            (LoginRecorded::Wrong { left }, Failures { in_a_row, blocked_until: None })
        }
    }
}

impl Failures {
    /// The end of the block, if there is one at `now`.
    pub fn blocked_until_after(self, now: Moment) -> Option<Moment> {
        self.blocked_until.filter(|until| now < *until)
    }

    /// When those of a username without an account are forgotten, if the last attempt was at `now`. A whole second, as
    /// for every row, and never one before the end of a block.
    pub fn forgotten_at(self, now: Moment) -> Timestamp {
        let after_a_day = now.plus_ms(1_000 * UNKNOWN_USERNAME_MEMORY_S);
        self.blocked_until.map_or(after_a_day, |until| until.max(after_a_day)).timestamp_rounded_up()
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappedKey(..)")
    }
}
