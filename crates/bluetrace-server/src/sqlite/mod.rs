//! Owns [`SqliteStore`]: the store in one SQLite file, the default.
//!
//! WAL and `synchronous=FULL`, so what is acknowledged survives a loss of power. One thread writes and a few read
//! (`workers`); SQL stands in `write` and `read`, the schema in `schema_*.sql`. Other processes may open the file at the same time.

mod codes;
mod convert;
mod copy;
mod error;
mod inspect;
mod keys;
mod open;
mod read;
mod record_key;
mod registrations;
mod workers;
mod write;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bluetrace_authority::store::{
    AccountId, AccountOpened, AccountSummary, Appended, CodeIssued, CodeRedeemed, CodeRevoked, Confirmation, Expired,
    ImportedTempId, Lockout, LoginRecorded, LoginState, NewNotice, NewOneTimeCode, NewSealingKey, NewUploadCode,
    NoticeId, OneTimeCodeId, OneTimeCodeMade, Owner, PasswordHash, PasswordSource, PinSeed, PresentedCode,
    RegistrationConfirmed, SealingKeyId, SealingKeyRow, SessionId, SessionState, Shredded, Store, StoreError,
    StoreFuture, TempIdImported, TempIdsIssued, Told, UploadBegun, UploadCodeId, UploadCodeRow, UploadCompleted,
    UploadFound, UploadKey, UploadRequest, UploadRow, Verdict, WrongCodes,
};
use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, Uid, UploadId, UploadSummary, Uploaded, Username,
};
use rusqlite::Connection;

pub(crate) use self::copy::SqliteEnd;
use self::error::JobError;
pub use self::inspect::{Inspection, inspect, schema};
use self::keys::Overwritten;
use self::open::Database;
pub use self::open::{OpenError, SqliteOptions};
use self::workers::Workers;

/// A store in an SQLite file. Needs no async runtime: its futures may be polled by anyone.
///
/// Dropping it, like [`SqliteStore::close`], finishes what is queued.
#[derive(Debug)]
pub struct SqliteStore {
    // in this order: the write-ahead log can be emptied when nobody reads it
    readers: Workers,
    writer: Workers,
    database: Database,
    /// Whether the log was given its size, and is to be given it again when it was emptied.
    is_log_reserved: AtomicBool,
}

impl SqliteStore {
    /// Opens a database file, and makes it and its folder if there are none.
    ///
    /// # Errors
    /// [`OpenError`] says in one line what is wrong, where, and what to do.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// Opens a database file with other options than the usual ones.
    ///
    /// # Errors
    /// As for [`SqliteStore::open`].
    pub fn open_with(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let database = Database { path: path.into(), options };
        database.prepare()?;
        let (readers, writer) = (Workers::readers(&database)?, Workers::writer(&database)?);
        Ok(Self { readers, writer, database, is_log_reserved: AtomicBool::new(false) })
    }

    /// How many rows wait to be written.
    pub fn rows_to_write(&self) -> usize {
        self.writer.queued()
    }

    /// How many questions wait to be answered.
    pub fn questions(&self) -> usize {
        self.readers.queued()
    }

    /// Leaves nothing in the write-ahead log of what was written over or deleted. `false` if somebody reads what was before.
    async fn empty_log(&self) -> Result<bool, StoreError> {
        let usual_wait = self.database.options.busy_timeout;
        let is_empty = self.writer.run_between(move |c| keys::empty_log(c, usual_wait)).await?;
        if is_empty && self.is_log_reserved.load(Ordering::Relaxed) {
            // without it writing is slower, and nothing else
            _ = self.reserve_log().await;
        }
        Ok(is_empty)
    }

    /// Gives the write-ahead log the size to which it grows anyway. A commit then only overwrites what is there, which
    /// takes a disk about half as long as making the file longer each time. Worth it for a process that stays.
    ///
    /// # Errors
    /// [`StoreError`] if the disk does not have the 16 MiB. Nothing is lost by that
    /// but the speed.
    pub fn reserve_log(&self) -> StoreFuture<'_, ()> {
        let database = self.database.clone();
        self.is_log_reserved.store(true, Ordering::Relaxed);
        // within a transaction: nobody else writes to the log meanwhile
        self.write(1, move |_| database.reserve_log().map_err(|_| JobError::Failed("the write-ahead log cannot grow")))
    }

    /// Finishes what is queued and moves all of it into the database file. Blocks meanwhile; later calls fail.
    pub fn close(&self) {
        self.readers.close();
        self.writer.close();
    }

    fn read<T, F>(&self, work: F) -> StoreFuture<'_, T>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        Box::pin(self.readers.run(1, move |connection| work(connection).map_err(JobError::from)))
    }

    fn write<T, F>(&self, rows: usize, work: F) -> StoreFuture<'_, T>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, JobError> + Send + 'static,
    {
        Box::pin(self.writer.run(rows, work))
    }
}

impl Store for SqliteStore {
    fn open_account(
        &self,
        username: Username,
        hash: PasswordHash,
        source: PasswordSource,
        now: Timestamp,
    ) -> StoreFuture<'_, AccountOpened> {
        self.write(1, move |c| write::open_account(c, &username, &hash, source, now))
    }

    fn change_password(&self, username: Username, hash: PasswordHash, source: PasswordSource) -> StoreFuture<'_, bool> {
        self.write(1, move |c| write::change_password(c, &username, &hash, source))
    }

    fn remove_account(&self, username: Username) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            let is_removed = self.writer.run(1, move |c| write::remove_account(c, &username)).await?;
            // the rows of its uploads are out of sight; where this ends early, the next `expire` goes on
            while is_removed && self.writer.run(1, |c| write::delete_forgotten(c, Timestamp::MIN)).await?.more {}
            if is_removed {
                // no name is to stay in the log; where somebody reads, or the disk is full, it goes with the next time that is emptied
                _ = self.empty_log().await;
            }
            Ok(is_removed)
        })
    }

    fn accounts(&self, after: Option<Username>, limit: u32, now: Moment) -> StoreFuture<'_, Vec<AccountSummary>> {
        self.read(move |c| read::accounts(c, after.as_ref(), limit, now))
    }

    fn login_state(&self, username: Username, now: Moment) -> StoreFuture<'_, LoginState> {
        self.read(move |c| read::login_state(c, &username, now))
    }

    fn record_login(
        &self,
        username: Username,
        verdict: Verdict,
        rule: Lockout,
        now: Moment,
    ) -> StoreFuture<'_, LoginRecorded> {
        Box::pin(async move {
            let name = username.clone();
            let glance = move |c: &Connection| write::login_without_a_trace(c, &name, verdict, rule, now);
            match self.readers.run(1, glance).await? {
                Some(recorded) => Ok(recorded),
                None => self.writer.run(1, move |c| write::record_login(c, &username, verdict, rule, now)).await,
            }
        })
    }

    fn issue_temp_ids(
        &self,
        account: AccountId,
        ids: Vec<Record>,
        forget_at: Timestamp,
    ) -> StoreFuture<'_, TempIdsIssued> {
        self.write(ids.len(), move |c| write::issue_temp_ids(c, account, &ids, forget_at))
    }

    fn import_temp_ids(
        &self,
        lines: Vec<ImportedTempId>,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<TempIdImported>> {
        self.write(lines.len(), move |c| write::import_temp_ids(c, &lines, forget_at, now))
    }

    fn temp_ids(
        &self,
        after: Option<ImportedTempId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<ImportedTempId>> {
        self.read(move |c| read::temp_ids(c, after.as_ref(), limit, now))
    }

    fn resolve(&self, ids: Vec<TempId>, now: Timestamp) -> StoreFuture<'_, Vec<Option<Owner>>> {
        self.read(move |c| read::resolve(c, &ids, now))
    }

    fn begin_upload(&self, request: UploadRequest, now: Timestamp) -> StoreFuture<'_, UploadBegun> {
        self.write(1, move |c| write::begin_upload(c, &request, now))
    }

    fn find_upload(
        &self,
        account: AccountId,
        upload: UploadId,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<UploadFound>> {
        self.read(move |c| read::find_upload(c, account, &upload, now))
    }

    fn append_records(
        &self,
        upload: UploadKey,
        first: u32,
        records: Vec<Uploaded>,
    ) -> StoreFuture<'_, Option<Appended>> {
        self.write(records.len(), move |c| write::append_records(c, upload, first, &records))
    }

    fn uploaded_records(
        &self,
        upload: UploadKey,
        first: u32,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Uploaded>> {
        self.read(move |c| read::uploaded_records(c, upload, first, limit, now))
    }

    fn complete_upload(
        &self,
        upload: UploadKey,
        summary: UploadSummary,
        notices: Vec<NewNotice>,
        now: Timestamp,
    ) -> StoreFuture<'_, UploadCompleted> {
        self.write(notices.len(), move |c| write::complete_upload(c, upload, summary, &notices, now))
    }

    fn uploads(&self, after: Option<UploadKey>, limit: u32, now: Timestamp) -> StoreFuture<'_, Vec<UploadRow>> {
        self.read(move |c| read::uploads(c, after, limit, now))
    }

    fn unread_notices(
        &self,
        account: AccountId,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<Vec<(NoticeId, ExposureNotice)>>> {
        self.read(move |c| read::unread_notices(c, account, limit, now))
    }

    fn told(
        &self,
        uploader: AccountId,
        accounts: Vec<AccountId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Told>> {
        self.read(move |c| read::told(c, uploader, &accounts, limit, now))
    }

    fn mark_notices_read(&self, account: AccountId, last: NoticeId) -> StoreFuture<'_, ()> {
        self.write(1, move |c| write::mark_notices_read(c, account, last))
    }

    fn session_state(
        &self,
        account: AccountId,
        session: SessionId,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<SessionState>> {
        self.read(move |c| read::session_state(c, account, session, now))
    }

    fn revoke_session(&self, session: SessionId, until: Timestamp) -> StoreFuture<'_, ()> {
        self.write(1, move |c| write::revoke_session(c, session, until))
    }

    fn import_note(&self, name: &'static str) -> StoreFuture<'_, Option<String>> {
        self.read(move |c| read::import_note(c, name))
    }

    fn note_import(&self, name: &'static str, note: String) -> StoreFuture<'_, ()> {
        self.write(1, move |c| write::note_import(c, name, &note))
    }

    // ---- User ids and sealing keys

    fn user_id(&self, account: AccountId, candidate: Uid) -> StoreFuture<'_, Option<Uid>> {
        Box::pin(async move {
            match self.readers.run(1, move |c| keys::user_id(c, account).map_err(JobError::from)).await? {
                Some(user_id) => Ok(Some(user_id)),
                None => self.writer.run(1, move |c| keys::give_user_id(c, account, &candidate)).await,
            }
        })
    }

    fn accounts_of_user_ids(&self, ids: Vec<Uid>) -> StoreFuture<'_, Vec<Option<(AccountId, Username)>>> {
        self.read(move |c| keys::accounts_of_user_ids(c, &ids))
    }

    fn sealing_keys(&self, now: Timestamp) -> StoreFuture<'_, Vec<SealingKeyRow>> {
        self.read(move |c| keys::sealing_keys(c, now))
    }

    fn add_sealing_key(&self, key: NewSealingKey) -> StoreFuture<'_, bool> {
        self.write(1, move |c| keys::add_sealing_key(c, &key))
    }

    fn count_seals(&self, counts: Vec<(SealingKeyId, u64)>) -> StoreFuture<'_, ()> {
        self.write(1, move |c| keys::count_seals(c, &counts))
    }

    fn shred_sealing_key(&self, id: SealingKeyId) -> StoreFuture<'_, Shredded> {
        Box::pin(async move {
            match self.writer.run(1, move |c| keys::overwrite(c, id)).await? {
                Overwritten::Never => return Ok(Shredded::NoSuchKey),
                Overwritten::Everywhere => return Ok(Shredded::Done),
                Overwritten::Here => {}
            }
            if !self.empty_log().await? {
                return Ok(Shredded::Unfinished);
            }
            self.writer.run(1, move |c| keys::note_gone(c, id)).await?;
            Ok(Shredded::Done)
        })
    }

    // ---- Upload codes and handshake PINs

    fn issue_upload_code(&self, code: NewUploadCode, now: Timestamp) -> StoreFuture<'_, CodeIssued> {
        self.write(1, move |c| codes::issue_upload_code(c, &code, now))
    }

    fn upload_codes(
        &self,
        after: Option<UploadCodeId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<UploadCodeRow>> {
        self.read(move |c| codes::upload_codes(c, after, limit, now))
    }

    fn revoke_upload_code(&self, id: UploadCodeId, now: Timestamp) -> StoreFuture<'_, CodeRevoked> {
        self.write(1, move |c| codes::revoke_upload_code(c, id, now))
    }

    fn redeem_upload_code(
        &self,
        account: AccountId,
        code: PresentedCode,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, CodeRedeemed> {
        self.write(1, move |c| codes::redeem_upload_code(c, account, code, forget_at, now))
    }

    fn wrong_upload_codes(
        &self,
        after: Option<Username>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<(Username, WrongCodes)>> {
        self.read(move |c| codes::wrong_upload_codes(c, after.as_ref(), limit, now))
    }

    fn forgive_wrong_codes(&self, username: Username, now: Timestamp) -> StoreFuture<'_, Option<u32>> {
        self.write(1, move |c| codes::forgive_wrong_codes(c, &username, now))
    }

    fn handshake_pin(
        &self,
        account: AccountId,
        candidate: PinSeed,
        ends: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<(PinSeed, Timestamp)>> {
        self.write(1, move |c| codes::handshake_pin(c, account, candidate, ends, now))
    }

    // ---- Registrations

    fn make_one_time_code(&self, code: NewOneTimeCode, now: Timestamp) -> StoreFuture<'_, OneTimeCodeMade> {
        self.write(1, move |c| registrations::make_one_time_code(c, code, now))
    }

    fn one_time_code_failed(&self, code: OneTimeCodeId) -> StoreFuture<'_, ()> {
        self.write(1, move |c| registrations::one_time_code_failed(c, code))
    }

    fn confirm_registration(
        &self,
        confirmation: Confirmation,
        now: Timestamp,
    ) -> StoreFuture<'_, RegistrationConfirmed> {
        self.write(1, move |c| registrations::confirm_registration(c, &confirmation, now))
    }

    fn expire(&self, now: Timestamp) -> StoreFuture<'_, Expired> {
        self.write(1, move |c| write::delete_forgotten(c, now))
    }
}
