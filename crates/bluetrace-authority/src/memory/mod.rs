//! Owns [`MemoryStore`]: the [`Store`] of tests and simulations, gone when it is dropped.
//!
//! One mutex around sorted maps, so that every order is the same in every run. Each method does its work when it is
//! called, and its future is ready at once.

mod accounts;
mod expire;
mod state;
mod temp_ids;
mod uploads;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bluetrace_protocol::{
    ExposureNotice, Moment, Record, TempId, Timestamp, Uid, UploadId, UploadSummary, Uploaded, Username,
};

use self::state::{Notice, State, rows_in};
use crate::store::{
    AccountId, AccountOpened, AccountSummary, Appended, CodeIssued, CodeRedeemed, CodeRevoked, Confirmation, Expired,
    ImportedTempId, Lockout, LoginRecorded, LoginState, NewNotice, NewOneTimeCode, NewSealingKey, NewUploadCode,
    NoticeId, OneTimeCodeId, OneTimeCodeMade, Owner, PasswordHash, PasswordSource, PinSeed, PresentedCode,
    RegistrationConfirmed, SealingKeyId, SealingKeyRow, SealingKeyState, SessionId, SessionState, Shredded, Store,
    StoreError, StoreFuture, TempIdImported, TempIdsIssued, Told, UploadBegun, UploadCodeId, UploadCodeRow,
    UploadCompleted, UploadFound, UploadKey, UploadRequest, UploadRow, Verdict, WrongCodes,
};

/// A store that keeps everything in memory.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // no method panics half-way through a change, so a poisoned state is a whole one
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryStore(..)")
    }
}

impl Store for MemoryStore {
    fn open_account(
        &self,
        username: Username,
        hash: PasswordHash,
        source: PasswordSource,
        now: Timestamp,
    ) -> StoreFuture<'_, AccountOpened> {
        ready(Ok(self.state().open_account(username, hash, source, now)))
    }

    fn change_password(&self, username: Username, hash: PasswordHash, source: PasswordSource) -> StoreFuture<'_, bool> {
        ready(Ok(self.state().change_password(&username, hash, source)))
    }

    fn remove_account(&self, username: Username) -> StoreFuture<'_, bool> {
        ready(Ok(self.state().remove_account(&username)))
    }

    fn accounts(&self, after: Option<Username>, limit: u32, now: Moment) -> StoreFuture<'_, Vec<AccountSummary>> {
        let state = self.state();
        let rows = state.names.iter().filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
        let accounts = rows.filter_map(|(_, id)| state.accounts.get(id)).take(rows_in(limit));
        let summaries = accounts.map(|row| AccountSummary {
            username: row.account.username.clone(),
            created: row.account.created,
            has_password: row.account.password_hash.is_some(),
            blocked_until: row.failures.blocked_until_after(now),
        });
        ready(Ok(summaries.collect()))
    }

    fn login_state(&self, username: Username, now: Moment) -> StoreFuture<'_, LoginState> {
        let state = self.state();
        let account = state.account_named(&username);
        let failures = match account {
            Some(row) => row.failures,
            None => state.failures_of_stranger(&username, now),
        };
        ready(Ok(LoginState {
            account: account.map(|row| row.account.clone()),
            blocked_until: failures.blocked_until_after(now),
        }))
    }

    fn record_login(
        &self,
        username: Username,
        verdict: Verdict,
        rule: Lockout,
        now: Moment,
    ) -> StoreFuture<'_, LoginRecorded> {
        ready(Ok(self.state().record_login(username, verdict, rule, now)))
    }

    fn issue_temp_ids(
        &self,
        account: AccountId,
        ids: Vec<Record>,
        forget_at: Timestamp,
    ) -> StoreFuture<'_, TempIdsIssued> {
        ready(Ok(self.state().issue_temp_ids(account, ids, forget_at)))
    }

    fn import_temp_ids(
        &self,
        lines: Vec<ImportedTempId>,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<TempIdImported>> {
        let mut state = self.state();
        ready(Ok(lines.into_iter().map(|line| state.import_temp_id(line, forget_at, now)).collect()))
    }

    fn temp_ids(
        &self,
        after: Option<ImportedTempId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<ImportedTempId>> {
        fn place(line: &ImportedTempId) -> (&Username, Timestamp, &TempId) {
            (&line.username, line.record.window.start(), &line.record.temp_id)
        }
        let state = self.state();
        let rows = state.temp_ids.iter().filter(|(_, row)| now < row.forget_at);
        let lines = rows.filter_map(|(id, row)| {
            let username = state.accounts.get(&row.account)?.account.username.clone();
            Some(ImportedTempId { username, record: Record { temp_id: id.clone(), window: row.window } })
        });
        let mut lines: Vec<_> =
            lines.filter(|line| after.as_ref().is_none_or(|after| place(line) > place(after))).collect();
        lines.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
        lines.truncate(rows_in(limit));
        ready(Ok(lines))
    }

    fn resolve(&self, ids: Vec<TempId>, now: Timestamp) -> StoreFuture<'_, Vec<Option<Owner>>> {
        let state = self.state();
        let owner_of = |id| {
            let row = state.temp_ids.get(id).filter(|row| now < row.forget_at)?;
            let username = state.accounts.get(&row.account)?.account.username.clone();
            Some(Owner { account: row.account, username, window: row.window })
        };
        ready(Ok(ids.iter().map(owner_of).collect()))
    }

    fn begin_upload(&self, request: UploadRequest, now: Timestamp) -> StoreFuture<'_, UploadBegun> {
        ready(self.state().begin_upload(request, now))
    }

    fn find_upload(
        &self,
        account: AccountId,
        upload: UploadId,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<UploadFound>> {
        let state = self.state();
        let found = state.upload_names.get(&(account, upload)).and_then(|key| {
            let row = state.uploads.get(key).filter(|row| row.account.is_some() && now < row.forget_at)?;
            let summary = row.finished.map(|(_, summary)| summary);
            Some(UploadFound { key: *key, records: row.records, durable: row.durable(), summary })
        });
        ready(Ok(found))
    }

    fn append_records(
        &self,
        upload: UploadKey,
        first: u32,
        records: Vec<Uploaded>,
    ) -> StoreFuture<'_, Option<Appended>> {
        ready(self.state().append_records(upload, first, records))
    }

    fn uploaded_records(
        &self,
        upload: UploadKey,
        first: u32,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Uploaded>> {
        let state = self.state();
        let row = state.uploads.get(&upload).filter(|row| row.account.is_some() && now < row.forget_at);
        let stored = row.map(|row| row.stored.iter().skip(rows_in(first)).take(rows_in(limit)).cloned().collect());
        ready(Ok(stored.unwrap_or_default()))
    }

    fn complete_upload(
        &self,
        upload: UploadKey,
        summary: UploadSummary,
        notices: Vec<NewNotice>,
        now: Timestamp,
    ) -> StoreFuture<'_, UploadCompleted> {
        ready(Ok(self.state().complete_upload(upload, summary, notices, now)))
    }

    fn uploads(&self, after: Option<UploadKey>, limit: u32, now: Timestamp) -> StoreFuture<'_, Vec<UploadRow>> {
        let state = self.state();
        let rows =
            state.uploads.iter().filter(|(key, row)| now < row.forget_at && after.is_none_or(|after| **key > after));
        let uploads = rows.filter_map(|(key, row)| {
            Some(UploadRow {
                key: *key,
                upload: row.id.clone(),
                uploader: state.accounts.get(&row.account?)?.account.username.clone(),
                records: row.records,
                durable: row.durable(),
                begun: row.begun,
                finished: row.finished,
            })
        });
        ready(Ok(uploads.take(rows_in(limit)).collect()))
    }

    fn unread_notices(
        &self,
        account: AccountId,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<Vec<(NoticeId, ExposureNotice)>>> {
        let state = self.state();
        if !state.accounts.contains_key(&account) {
            return ready(Ok(None));
        }
        let rows = state.notices.range((account, NoticeId(i64::MIN))..=(account, NoticeId(i64::MAX)));
        let unread = rows.filter(|(_, row)| !row.is_read && now < row.forget_at);
        ready(Ok(Some(unread.take(rows_in(limit)).map(|((_, id), row)| (*id, row.content.clone())).collect())))
    }

    fn told(
        &self,
        uploader: AccountId,
        accounts: Vec<AccountId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<Told>> {
        let state = self.state();
        let of = |account| state.notices.range((account, NoticeId(i64::MIN))..=(account, NoticeId(i64::MAX)));
        let rows = accounts.into_iter().flat_map(of);
        let told = rows.filter(|(_, row)| row.uploader == uploader && now < row.forget_at);
        let told = told.map(|((account, _), Notice { content, .. })| Told {
            account: *account,
            from: content.from,
            to: content.to,
        });
        ready(Ok(told.take(rows_in(limit)).collect()))
    }

    fn mark_notices_read(&self, account: AccountId, last: NoticeId) -> StoreFuture<'_, ()> {
        let mut state = self.state();
        for ((_, id), row) in state.notices.range_mut((account, NoticeId(i64::MIN))..=(account, NoticeId(i64::MAX))) {
            row.is_read |= *id <= last;
        }
        ready(Ok(()))
    }

    fn session_state(
        &self,
        account: AccountId,
        session: SessionId,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<SessionState>> {
        let state = self.state();
        ready(Ok(state.accounts.get(&account).map(|row| SessionState {
            username: row.account.username.clone(),
            token_epoch: row.account.token_epoch,
            is_revoked: state.revoked.get(&session).is_some_and(|until| now < *until),
        })))
    }

    fn revoke_session(&self, session: SessionId, until: Timestamp) -> StoreFuture<'_, ()> {
        self.state().revoke_session(session, until);
        ready(Ok(()))
    }

    fn import_note(&self, name: &'static str) -> StoreFuture<'_, Option<String>> {
        ready(Ok(self.state().notes.get(name).cloned()))
    }

    fn note_import(&self, name: &'static str, note: String) -> StoreFuture<'_, ()> {
        self.state().notes.insert(name, note);
        ready(Ok(()))
    }

    // ---- User ids and sealing keys

    fn user_id(&self, account: AccountId, candidate: Uid) -> StoreFuture<'_, Option<Uid>> {
        ready(self.state().user_id(account, candidate))
    }

    fn accounts_of_user_ids(&self, ids: Vec<Uid>) -> StoreFuture<'_, Vec<Option<(AccountId, Username)>>> {
        let state = self.state();
        let account_of = |id| {
            let account = state.user_ids.get(id)?;
            Some((*account, state.accounts.get(account)?.account.username.clone()))
        };
        ready(Ok(ids.iter().map(account_of).collect()))
    }

    fn sealing_keys(&self, now: Timestamp) -> StoreFuture<'_, Vec<SealingKeyRow>> {
        let state = self.state();
        let seen = |row: &SealingKeyRow| {
            let is_forgotten = row.state.is_live() && row.term.forget_at <= now;
            let state = if is_forgotten { SealingKeyState::Shredding } else { row.state.clone() };
            SealingKeyRow { state, ..*row }
        };
        ready(Ok(state.sealing_keys.values().map(seen).collect()))
    }

    fn add_sealing_key(&self, key: NewSealingKey) -> StoreFuture<'_, bool> {
        let NewSealingKey { id, term, wrapped } = key;
        let keys = &mut self.state().sealing_keys;
        let is_new = keys.last_key_value().is_none_or(|(last, _)| *last < id);
        if is_new {
            keys.insert(id, SealingKeyRow { id, term, seals: 0, state: SealingKeyState::Live(wrapped) });
        }
        ready(Ok(is_new))
    }

    fn count_seals(&self, counts: Vec<(SealingKeyId, u64)>) -> StoreFuture<'_, ()> {
        let mut state = self.state();
        for (id, seals) in counts {
            if let Some(row) = state.sealing_keys.get_mut(&id) {
                row.seals = row.seals.saturating_add(seals);
            }
        }
        ready(Ok(()))
    }

    fn shred_sealing_key(&self, id: SealingKeyId) -> StoreFuture<'_, Shredded> {
        ready(Ok(match self.state().sealing_keys.get_mut(&id) {
            None => Shredded::NoSuchKey,
            Some(row) => {
                if let SealingKeyState::Live(wrapped) = &mut row.state {
                    wrapped.0.fill(0);
                }
                row.state = SealingKeyState::Shredded;
                Shredded::Done
            }
        }))
    }

    // ---- Upload codes and handshake PINs

    fn issue_upload_code(&self, code: NewUploadCode, now: Timestamp) -> StoreFuture<'_, CodeIssued> {
        ready(Ok(self.state().codes.issue(code, now)))
    }

    fn upload_codes(
        &self,
        after: Option<UploadCodeId>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<UploadCodeRow>> {
        let state = self.state();
        let name_of = |account| state.accounts.get(&account).map(|row| row.account.username.clone());
        ready(Ok(state.codes.rows(after, now, name_of).take(rows_in(limit)).collect()))
    }

    fn revoke_upload_code(&self, id: UploadCodeId, now: Timestamp) -> StoreFuture<'_, CodeRevoked> {
        let mut state = self.state();
        let (revoked, upload) = state.codes.revoke(id, now);
        if let Some(upload) = upload {
            state.drop_upload(upload);
        }
        ready(Ok(revoked))
    }

    fn redeem_upload_code(
        &self,
        account: AccountId,
        code: PresentedCode,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, CodeRedeemed> {
        let mut state = self.state();
        if !state.accounts.contains_key(&account) {
            return ready(Ok(CodeRedeemed::NoAccount));
        }
        ready(Ok(state.codes.redeem_ahead(account, code, forget_at, now)))
    }

    fn wrong_upload_codes(
        &self,
        after: Option<Username>,
        limit: u32,
        now: Timestamp,
    ) -> StoreFuture<'_, Vec<(Username, WrongCodes)>> {
        let state = self.state();
        let mut rows: Vec<_> = state
            .accounts
            .values()
            .map(|row| (row.account.username.clone(), state.codes.wrong_codes_of(row.account.id, now)))
            .filter(|(name, wrong)| wrong.count > 0 && after.as_ref().is_none_or(|after| name > after))
            .collect();
        rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        rows.truncate(rows_in(limit));
        ready(Ok(rows))
    }

    fn forgive_wrong_codes(&self, username: Username, now: Timestamp) -> StoreFuture<'_, Option<u32>> {
        let mut state = self.state();
        let account = state.account_named(&username).map(|row| row.account.id);
        ready(Ok(account.map(|account| state.codes.forgive(account, now))))
    }

    fn handshake_pin(
        &self,
        account: AccountId,
        candidate: PinSeed,
        ends: Timestamp,
        now: Timestamp,
    ) -> StoreFuture<'_, Option<(PinSeed, Timestamp)>> {
        let mut state = self.state();
        let has_account = state.accounts.contains_key(&account);
        ready(Ok(has_account.then(|| state.codes.pin(account, candidate, ends, now))))
    }

    // ---- Registrations

    fn make_one_time_code(&self, code: NewOneTimeCode, now: Timestamp) -> StoreFuture<'_, OneTimeCodeMade> {
        ready(Ok(self.state().registrations.make(code, now)))
    }

    fn one_time_code_failed(&self, code: OneTimeCodeId) -> StoreFuture<'_, ()> {
        self.state().registrations.failed(code);
        ready(Ok(()))
    }

    fn confirm_registration(
        &self,
        confirmation: Confirmation,
        now: Timestamp,
    ) -> StoreFuture<'_, RegistrationConfirmed> {
        ready(Ok(self.state().confirm_registration(confirmation, now)))
    }

    fn expire(&self, now: Timestamp) -> StoreFuture<'_, Expired> {
        ready(Ok(self.state().expire(now)))
    }
}

fn ready<'a, T: Send + 'a>(outcome: Result<T, StoreError>) -> StoreFuture<'a, T> {
    Box::pin(std::future::ready(outcome))
}
