//! Owns [`PostgresStore`]: the store in a PostgreSQL database, for as many servers as there are.
//!
//! Every method is one transaction or one statement, under `READ COMMITTED`; what must not be done by two at once is decided by a row
//! that they both lock, or written only where the row is still what was read. The rules themselves are the store trait's, as in every
//! store. What is acknowledged is committed with `synchronous_commit` on; a database that has it off is refused.
//!
//! Two that lock the same rows each in an order of its own may wait for each other, until the database breaks one of them off after a
//! second. So there is one order, whichever of the rows somebody needs: **accounts** (by their ids), the **latch** of the guesses,
//! **upload codes**, **uploads**, and then what belongs to them. Whoever knows a row only by one that comes later looks at that one without
//! locking it, and looks again when both are locked: what has changed meanwhile is `Trouble::Again`. `expire` passes over rows that
//! are locked, and so waits for nobody.
//!
//! No server keeps anything that another would need: any may answer any call, and die at any time. How the pieces fit:
//!
//! ```text
//! place     a URL, read and checked                          tls
//! pool      bounded connections, a bounded line, one retry   session, error, ids
//! schema    versions, whose database it is                   schema_1.sql
//! statements by subject: accounts, logins, temp_ids, uploads, records, notices, codes,
//!           registrations, keys, expire    convert
//! ```
//!
//! The store runs on threads of its own, so that its futures may be polled by anyone, and dropped without breaking off what
//! is under way.

mod accounts;
mod codes;
mod convert;
mod copy;
mod error;
mod expire;
mod ids;
mod keys;
mod logins;
mod notices;
mod place;
mod pool;
mod records;
mod registrations;
mod schema;
mod session;
mod temp_ids;
mod tls;
mod uploads;

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

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
use tokio::runtime::{Builder, Handle, Runtime};

pub(crate) use self::copy::PostgresEnd;
use self::ids::Ids;
pub use self::place::{PlaceError, PostgresPlace};
pub use self::pool::PostgresOptions;
use self::pool::{Call, Job, Manner, Pool, Work};
use self::records::Columns;
use self::schema::Opened;
pub use self::schema::{Inspection, OpenError};
pub(crate) use self::schema::{SCHEMA, State};

/// A store in a PostgreSQL database. Needs no async runtime of the caller's.
pub struct PostgresStore {
    pool: Arc<Pool>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl PostgresStore {
    /// Connects to a database, and makes its tables if it has none. Blocks meanwhile.
    ///
    /// `key_mark` tells authorities apart without telling anything of their keys: a database belongs to the first that opens it.
    /// `seed` is 32 bytes of the system's randomness, from which the store draws its numbers.
    ///
    /// # Errors
    /// [`OpenError`] says in one line what is wrong and what to do.
    pub fn open(
        place: PostgresPlace,
        options: PostgresOptions,
        key_mark: &str,
        seed: [u8; 32],
    ) -> Result<Self, OpenError> {
        let shown = place.to_string();
        let store = Self::start(place, options, seed)?;
        let opened = store.wait_for(store.run(Manner::Transaction, key_mark.to_owned(), |session, key_mark| {
            Box::pin(schema::prepare(session, key_mark))
        }));
        match opened {
            Ok(Opened::Ready) => Ok(store),
            Ok(Opened::Foreign) => Err(OpenError::Foreign { place: shown }),
            Ok(Opened::Newer(found)) => Err(OpenError::Newer { place: shown, found, known: SCHEMA }),
            Ok(Opened::OtherKey) => Err(OpenError::OtherKey { place: shown }),
            Ok(Opened::UnfinishedCopy) => Err(OpenError::UnfinishedCopy { place: shown }),
            Err(error) => Err(OpenError::of(&shown, error)),
        }
    }

    /// A store that has not looked at its database.
    fn start(place: PostgresPlace, options: PostgresOptions, seed: [u8; 32]) -> Result<Self, OpenError> {
        let runtime = Builder::new_multi_thread().thread_name("store").enable_all().build();
        let runtime = runtime.map_err(OpenError::Threads)?;
        let handle = runtime.handle().clone();
        Ok(Self { pool: Arc::new(Pool::new(place, options, Ids::new(seed))), runtime: Some(runtime), handle })
    }

    /// Looks at a database as it is at `now`, and changes nothing. Blocks meanwhile. `key_mark` as for [`PostgresStore::open`].
    ///
    /// # Errors
    /// [`OpenError`] says in one line what is wrong and what to do.
    pub fn inspect(
        place: PostgresPlace,
        options: PostgresOptions,
        key_mark: &str,
        now: Timestamp,
    ) -> Result<Inspection, OpenError> {
        let shown = place.to_string();
        let store = Self::start(place, options, [0; 32])?;
        let looked = store.wait_for(store.run(Manner::Look, (key_mark.to_owned(), now), |session, (key_mark, now)| {
            Box::pin(schema::inspect(session, key_mark, *now))
        }));
        let looked = looked.map_err(|error| OpenError::of(&shown, error))?;
        looked.ok_or(OpenError::UnfinishedCopy { place: shown })
    }

    /// Whether a database has this program's tables, of whatever schema and authority. Changes nothing. Blocks meanwhile.
    ///
    /// # Errors
    /// [`OpenError`] says in one line what is wrong and what to do.
    pub fn is_begun(place: PostgresPlace, options: PostgresOptions) -> Result<bool, OpenError> {
        let shown = place.to_string();
        let store = Self::start(place, options, [0; 32])?;
        let looked = store.wait_for(store.run(Manner::Look, (), |session, ()| Box::pin(State::look(session))));
        looked.map(|state| state.is_some()).map_err(|error| OpenError::of(&shown, error))
    }

    /// How many calls wait for a connection.
    pub fn waiting(&self) -> usize {
        self.pool.waiting()
    }

    /// Finishes what is under way. Blocks meanwhile; later calls fail.
    pub fn close(&self) {
        let pool = Arc::clone(&self.pool);
        let (done, is_done) = mpsc::channel();
        self.handle.spawn(async move {
            pool.close(CLOSING_PATIENCE).await;
            // nobody may be waiting any more
            _ = done.send(());
        });
        _ = is_done.recv();
    }

    /// Work of one transaction, on the store's own threads.
    fn run<A, T>(&self, manner: Manner, with: A, work: Work<A, T>) -> StoreFuture<'static, T>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        let call = Arc::new(Call::new(with, work));
        let done = perform(self.handle.clone(), Arc::clone(&self.pool), manner, Arc::clone(&call) as Arc<dyn Job>);
        Box::pin(async move {
            done.await?;
            call.take_answer().ok_or_else(closed)
        })
    }

    fn look<A, T>(&self, with: A, work: Work<A, T>) -> StoreFuture<'_, T>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run(Manner::Look, with, work)
    }

    fn statement<A, T>(&self, with: A, work: Work<A, T>) -> StoreFuture<'_, T>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run(Manner::Statement, with, work)
    }

    fn transaction<A, T>(&self, with: A, work: Work<A, T>) -> StoreFuture<'_, T>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run(Manner::Transaction, with, work)
    }

    /// Waits on this thread, whether or not it belongs to a runtime.
    fn wait_for<T: Send + 'static>(&self, call: StoreFuture<'static, T>) -> Result<T, StoreError> {
        let (answer, answered) = mpsc::channel();
        self.handle.spawn(async move { answer.send(call.await) });
        answered.recv().unwrap_or_else(|_| Err(closed()))
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // what is under way is not waited for: that is `close`, and a runtime may be dropped within another one only so
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresStore(..)")
    }
}

impl Store for PostgresStore {
    fn open_account(
        &self,
        username: Username,
        hash: PasswordHash,
        source: PasswordSource,
        now: Timestamp,
    ) -> StoreFuture<'_, AccountOpened> {
        self.statement((username, hash, source, now), |s, (username, hash, source, now)| {
            Box::pin(accounts::open(s, username, hash, *source, *now))
        })
    }

    fn change_password(&self, username: Username, hash: PasswordHash, source: PasswordSource) -> StoreFuture<'_, bool> {
        self.statement((username, hash, source), |s, (username, hash, source)| {
            Box::pin(accounts::change_password(s, username, hash, *source))
        })
    }

    fn remove_account(&self, username: Username) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            let is_removed = self.transaction(username, |s, username| Box::pin(accounts::remove(s, username))).await?;
            // the rows of its uploads are out of sight; where this ends early, the next `expire` goes on
            while is_removed && self.delete_rows(Timestamp::MIN).await?.more {}
            Ok(is_removed)
        })
    }

    fn accounts(&self, after: Option<Username>, limit: u32, now: Moment) -> StoreFuture<'_, Vec<AccountSummary>> {
        self.look((after, limit, now), |s, (after, limit, now)| {
            Box::pin(accounts::list(s, after.as_ref(), *limit, *now))
        })
    }

    fn login_state(&self, username: Username, now: Moment) -> StoreFuture<'_, LoginState> {
        self.look((username, now), |s, (username, now)| Box::pin(logins::state(s, username, *now)))
    }

    fn record_login(
        &self,
        username: Username,
        verdict: Verdict,
        rule: Lockout,
        now: Moment,
    ) -> StoreFuture<'_, LoginRecorded> {
        self.statement((username, verdict, rule, now), |s, (username, verdict, rule, now)| {
            Box::pin(logins::record(s, username, *verdict, *rule, *now))
        })
    }

    fn issue_temp_ids(
        &self,
        account: AccountId,
        ids: Vec<Record>,
        forget_at: Timestamp,
    ) -> StoreFuture<'_, TempIdsIssued> {
        self.transaction((account, ids, forget_at), |s, (account, ids, forget_at)| {
            Box::pin(temp_ids::issue(s, *account, ids, *forget_at))
        })
    }

    fn import_temp_ids(
        &self,
        lines: Vec<ImportedTempId>,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<TempIdImported>> {
        self.transaction((lines, forget_at, now), |s, (lines, forget_at, now)| {
            Box::pin(temp_ids::import(s, lines, *forget_at, *now))
        })
    }

    fn temp_ids(
        &self,
        after: Option<ImportedTempId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<ImportedTempId>> {
        self.look((after, limit, now), |s, (after, limit, now)| {
            Box::pin(temp_ids::list(s, after.as_ref(), *limit, *now))
        })
    }

    fn resolve(&self, ids: Vec<TempId>, now: Timestamp) -> StoreFuture<'_, Vec<Option<Owner>>> {
        self.look((ids, now), |s, (ids, now)| Box::pin(temp_ids::resolve(s, ids, *now)))
    }

    fn begin_upload(&self, request: UploadRequest, now: Timestamp) -> StoreFuture<'_, UploadBegun> {
        self.transaction((request, now), |s, (request, now)| Box::pin(uploads::begin(s, request, *now)))
    }

    fn find_upload(
        &self,
        account: AccountId,
        upload: UploadId,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<UploadFound>> {
        self.look((account, upload, now), |s, (account, upload, now)| {
            Box::pin(uploads::find(s, *account, upload, *now))
        })
    }

    fn append_records(
        &self,
        upload: UploadKey,
        first: u32,
        records: Vec<Uploaded>,
    ) -> StoreFuture<'_, Option<Appended>> {
        self.statement((upload, first, Columns::of(&records)), |s, (upload, first, columns)| {
            Box::pin(records::append(s, *upload, *first, columns))
        })
    }

    fn uploaded_records(
        &self,
        upload: UploadKey,
        first: u32,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Uploaded>> {
        self.look((upload, first, limit, now), |s, (upload, first, limit, now)| {
            Box::pin(records::list(s, *upload, *first, *limit, *now))
        })
    }

    fn complete_upload(
        &self,
        upload: UploadKey,
        summary: UploadSummary,
        notices: Vec<NewNotice>,
        now: Timestamp,
    ) -> StoreFuture<'_, UploadCompleted> {
        self.transaction((upload, summary, notices, now), |s, (upload, summary, notices, now)| {
            Box::pin(uploads::complete(s, *upload, *summary, notices, *now))
        })
    }

    fn uploads(&self, after: Option<UploadKey>, limit: u32, now: Timestamp) -> StoreFuture<'_, Vec<UploadRow>> {
        self.look((after, limit, now), |s, (after, limit, now)| Box::pin(uploads::list(s, *after, *limit, *now)))
    }

    fn told(
        &self,
        uploader: AccountId,
        accounts: Vec<AccountId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Told>> {
        self.look((uploader, accounts, limit, now), |s, (uploader, accounts, limit, now)| {
            Box::pin(notices::told(s, *uploader, accounts, *limit, *now))
        })
    }

    fn unread_notices(
        &self,
        account: AccountId,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<Vec<(NoticeId, ExposureNotice)>>> {
        self.look((account, limit, now), |s, (account, limit, now)| {
            Box::pin(notices::unread(s, *account, *limit, *now))
        })
    }

    fn mark_notices_read(&self, account: AccountId, last: NoticeId) -> StoreFuture<'_, ()> {
        self.statement((account, last), |s, (account, last)| Box::pin(notices::mark_read(s, *account, *last)))
    }

    fn session_state(
        &self,
        account: AccountId,
        session: SessionId,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<SessionState>> {
        self.look((account, session, now), |s, (account, session, now)| {
            Box::pin(accounts::session_state(s, *account, *session, *now))
        })
    }

    fn revoke_session(&self, session: SessionId, until: Timestamp) -> StoreFuture<'_, ()> {
        self.statement((session, until), |s, (session, until)| Box::pin(accounts::revoke_session(s, *session, *until)))
    }

    fn import_note(&self, name: &'static str) -> StoreFuture<'_, Option<String>> {
        self.look(name, |s, name| Box::pin(accounts::import_note(s, name)))
    }

    fn note_import(&self, name: &'static str, note: String) -> StoreFuture<'_, ()> {
        self.statement((name, note), |s, (name, note)| Box::pin(accounts::note_import(s, name, note)))
    }

    // ---- User ids and sealing keys

    fn user_id(&self, account: AccountId, candidate: Uid) -> StoreFuture<'_, Option<Uid>> {
        self.statement((account, candidate), |s, (account, candidate)| {
            Box::pin(accounts::user_id(s, *account, candidate))
        })
    }

    fn accounts_of_user_ids(&self, ids: Vec<Uid>) -> StoreFuture<'_, Vec<Option<(AccountId, Username)>>> {
        self.look(ids, |s, ids| Box::pin(accounts::of_user_ids(s, ids)))
    }

    fn sealing_keys(&self, now: Timestamp) -> StoreFuture<'_, Vec<SealingKeyRow>> {
        self.look(now, |s, now| Box::pin(keys::list(s, *now)))
    }

    fn add_sealing_key(&self, key: NewSealingKey) -> StoreFuture<'_, bool> {
        self.transaction(key, |s, key| Box::pin(keys::add(s, key)))
    }

    fn count_seals(&self, counts: Vec<(SealingKeyId, u64)>) -> StoreFuture<'_, ()> {
        self.statement(counts, |s, counts| Box::pin(keys::count_seals(s, counts)))
    }

    fn shred_sealing_key(&self, id: SealingKeyId) -> StoreFuture<'_, Shredded> {
        Box::pin(async move {
            match self.statement(id, |s, id| Box::pin(keys::put_out_of_reach(s, *id))).await? {
                None => Ok(Shredded::NoSuchKey),
                Some(Shredded::Unfinished) => self.transaction((), |s, ()| Box::pin(keys::write_anew(s))).await,
                Some(shredded) => Ok(shredded),
            }
        })
    }

    // ---- Upload codes and handshake PINs

    fn issue_upload_code(&self, code: NewUploadCode, now: Timestamp) -> StoreFuture<'_, CodeIssued> {
        self.transaction((code, now), |s, (code, now)| Box::pin(codes::issue(s, code, *now)))
    }

    fn upload_codes(
        &self,
        after: Option<UploadCodeId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<UploadCodeRow>> {
        self.look((after, limit, now), |s, (after, limit, now)| Box::pin(codes::list(s, *after, *limit, *now)))
    }

    fn revoke_upload_code(&self, id: UploadCodeId, now: Timestamp) -> StoreFuture<'_, CodeRevoked> {
        self.transaction((id, now), |s, (id, now)| Box::pin(codes::revoke(s, *id, *now)))
    }

    fn redeem_upload_code(
        &self,
        account: AccountId,
        code: PresentedCode,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, CodeRedeemed> {
        self.transaction((account, code, forget_at, now), |s, (account, code, forget_at, now)| {
            Box::pin(codes::redeem_ahead(s, *account, *code, *forget_at, *now))
        })
    }

    fn wrong_upload_codes(
        &self,
        after: Option<Username>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<(Username, WrongCodes)>> {
        self.look((after, limit, now), |s, (after, limit, now)| {
            Box::pin(codes::list_wrong(s, after.as_ref(), *limit, *now))
        })
    }

    fn forgive_wrong_codes(&self, username: Username, now: Timestamp) -> StoreFuture<'_, Option<u32>> {
        self.statement((username, now), |s, (username, now)| Box::pin(codes::forgive_wrong(s, username, *now)))
    }

    fn handshake_pin(
        &self,
        account: AccountId,
        candidate: PinSeed,
        ends: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<(PinSeed, Timestamp)>> {
        self.statement((account, candidate, ends, now), |s, (account, candidate, ends, now)| {
            Box::pin(codes::handshake_pin(s, *account, *candidate, *ends, *now))
        })
    }

    // ---- Registrations

    fn make_one_time_code(&self, code: NewOneTimeCode, now: Timestamp) -> StoreFuture<'_, OneTimeCodeMade> {
        self.transaction((code, now), |s, (code, now)| Box::pin(registrations::make(s, *code, *now)))
    }

    fn one_time_code_failed(&self, code: OneTimeCodeId) -> StoreFuture<'_, ()> {
        self.statement(code, |s, code| Box::pin(registrations::note_failed(s, *code)))
    }

    fn confirm_registration(
        &self,
        confirmation: Confirmation,
        now: Timestamp,
    ) -> StoreFuture<'_, RegistrationConfirmed> {
        self.transaction((confirmation, now), |s, (confirmation, now)| {
            Box::pin(registrations::confirm(s, confirmation, *now))
        })
    }

    fn expire(&self, now: Timestamp) -> StoreFuture<'_, Expired> {
        Box::pin(async move {
            let expired = self.delete_rows(now).await?;
            if !expired.more {
                self.statement((), |s, ()| Box::pin(records::make_next_partition(s))).await?;
                self.statement(now, |s, now| Box::pin(records::drop_partitions(s, *now))).await?;
            }
            Ok(expired)
        })
    }
}

impl PostgresStore {
    fn delete_rows(&self, now: Timestamp) -> StoreFuture<'_, Expired> {
        self.transaction(now, |s, now| Box::pin(expire::delete_rows(s, *now)))
    }
}

/// Does a job on the store's own threads, and not before it is polled, as every future.
async fn perform(handle: Handle, pool: Arc<Pool>, manner: Manner, job: Arc<dyn Job>) -> Result<(), StoreError> {
    let performing = handle.spawn(async move { pool.perform(manner, &*job).await });
    performing.await.unwrap_or_else(|_| Err(closed()))
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

/// How long [`PostgresStore::close`] waits for what is under way.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);
