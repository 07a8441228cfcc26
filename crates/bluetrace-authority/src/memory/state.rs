//! Owns what the store in memory holds: its rows, and the order in which they are forgotten.

use std::collections::{BTreeMap, BTreeSet};

use bluetrace_protocol::{ExposureNotice, TempId, Timestamp, Uid, UploadId, UploadSummary, Uploaded, Username, Window};

use crate::code_book::CodeBook;
use crate::registration_book::RegistrationBook;
use crate::store::{Account, AccountId, Failures, NoticeId, SealingKeyId, SealingKeyRow, SessionId, UploadKey};

#[derive(Default)]
pub(super) struct State {
    /// The last numbers given away.
    pub(super) last_account: i64,
    pub(super) last_upload: i64,
    pub(super) last_notice: i64,
    pub(super) last_stranger: u64,
    pub(super) accounts: BTreeMap<AccountId, AccountRow>,
    pub(super) names: BTreeMap<Username, AccountId>,
    /// Failures of usernames without an account.
    pub(super) strangers: BTreeMap<Username, Stranger>,
    /// Strangers in the order of their last failures.
    pub(super) strangers_by_age: BTreeMap<u64, Username>,
    pub(super) temp_ids: BTreeMap<TempId, TempIdRow>,
    pub(super) uploads: BTreeMap<UploadKey, Upload>,
    pub(super) upload_names: BTreeMap<(AccountId, UploadId), UploadKey>,
    pub(super) notices: BTreeMap<(AccountId, NoticeId), Notice>,
    /// Ended sessions, with the time until which they are remembered.
    pub(super) revoked: BTreeMap<SessionId, Timestamp>,
    pub(super) notes: BTreeMap<&'static str, String>,
    pub(super) user_ids: BTreeMap<Uid, AccountId>,
    pub(super) sealing_keys: BTreeMap<SealingKeyId, SealingKeyRow>,
    pub(super) codes: CodeBook,
    pub(super) registrations: RegistrationBook,
    /// Every row that is forgotten one day, in that order.
    pub(super) mortal: BTreeSet<(Timestamp, Mortal)>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
pub(super) enum Mortal {
    TempId(TempId),
    Upload(UploadKey),
    Notice(AccountId, NoticeId),
    Session(SessionId),
    Stranger(Username),
}

pub(super) struct AccountRow {
    pub(super) account: Account,
    pub(super) failures: Failures,
    pub(super) user_id: Option<Uid>,
    /// Whether somebody has proved that the number that it is named after is his.
    pub(super) is_registered: bool,
}

pub(super) struct Stranger {
    pub(super) age: u64,
    pub(super) failures: Failures,
    pub(super) forget_at: Timestamp,
}

pub(super) struct TempIdRow {
    pub(super) account: AccountId,
    pub(super) window: Window,
    pub(super) forget_at: Timestamp,
}

pub(super) struct Upload {
    /// `None` when another upload has taken its name.
    pub(super) account: Option<AccountId>,
    pub(super) id: UploadId,
    pub(super) records: u32,
    pub(super) begun: Timestamp,
    pub(super) forget_at: Timestamp,
    /// At most `records`.
    pub(super) stored: Vec<Uploaded>,
    pub(super) finished: Option<(Timestamp, UploadSummary)>,
}

pub(super) struct Notice {
    pub(super) content: ExposureNotice,
    /// Whose upload led to it.
    pub(super) uploader: AccountId,
    pub(super) forget_at: Timestamp,
    pub(super) is_read: bool,
}

impl Upload {
    pub(super) fn durable(&self) -> u32 {
        // at most `records`, a u32
        u32::try_from(self.stored.len()).unwrap_or(u32::MAX)
    }
}

/// A number of rows as a number of elements.
pub(super) fn rows_in(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
