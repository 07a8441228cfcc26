//! Owns accounts, their user ids, logins, ended sessions and registrations, as the store in memory keeps them.

use bluetrace_protocol::{Moment, Timestamp, Uid, Username};

use super::state::{AccountRow, Mortal, State, Stranger, rows_in};
use crate::store::{
    Account, AccountFound, AccountId, AccountOpened, Confirmation, Failures, Lockout, LoginRecorded,
    MAX_UNKNOWN_USERNAMES, OneTimeVerdict, PasswordHash, PasswordSource, RegistrationConfirmed, SessionId, StoreError,
    Verdict,
};

impl State {
    pub(super) fn account_named(&self, username: &Username) -> Option<&AccountRow> {
        self.accounts.get(self.names.get(username)?)
    }

    pub(super) fn create_account(&mut self, username: Username, now: Timestamp) -> AccountId {
        self.forget_stranger(&username);
        self.last_account += 1;
        let id = AccountId(self.last_account);
        let account = Account {
            id,
            username: username.clone(),
            password_hash: None,
            imported_hash: None,
            token_epoch: 0,
            created: now,
        };
        self.accounts
            .insert(id, AccountRow { account, failures: Failures::default(), user_id: None, is_registered: false });
        self.names.insert(username, id);
        id
    }

    pub(super) fn open_account(
        &mut self,
        username: Username,
        hash: PasswordHash,
        source: PasswordSource,
        now: Timestamp,
    ) -> AccountOpened {
        let id = match self.names.get(&username) {
            Some(id) => *id,
            None => self.create_account(username, now),
        };
        match self.accounts.get_mut(&id) {
            Some(row) if row.account.password_hash.is_none() => {
                row.set_password(hash, source);
                AccountOpened::Opened(id)
            }
            _ => AccountOpened::Exists(id),
        }
    }

    pub(super) fn change_password(&mut self, username: &Username, hash: PasswordHash, source: PasswordSource) -> bool {
        let Some(row) = self.names.get(username).and_then(|id| self.accounts.get_mut(id)) else { return false };
        row.set_password(hash, source);
        row.account.token_epoch = row.account.token_epoch.saturating_add(1);
        true
    }

    pub(super) fn confirm_registration(&mut self, confirmation: Confirmation, now: Timestamp) -> RegistrationConfirmed {
        if let OneTimeVerdict::RefuseAndCount { left } = self.registrations.check(&confirmation, now) {
            return RegistrationConfirmed::Wrong { left };
        }
        let Confirmation { username, password, .. } = confirmation;
        let known = self.names.get(&username).copied();
        let id = match known {
            Some(id) => id,
            None => self.create_account(username, now),
        };
        let Some(row) = self.accounts.get_mut(&id) else { return RegistrationConfirmed::NotTheNumbers };
        let AccountRow { account: Account { password_hash, .. }, is_registered, .. } = row;
        if !(AccountFound { has_password: password_hash.is_some(), is_registered: *is_registered }).is_the_numbers() {
            return RegistrationConfirmed::NotTheNumbers;
        }
        *is_registered = true;
        if let Some(password) = password {
            row.set_password(password, PasswordSource::Operator);
            let epochs = u32::from(known.is_some());
            row.account.token_epoch = row.account.token_epoch.saturating_add(epochs);
        }
        match known {
            Some(account) => RegistrationConfirmed::Known { account, token_epoch: row.account.token_epoch },
            None => RegistrationConfirmed::Opened(id),
        }
    }

    pub(super) fn remove_account(&mut self, username: &Username) -> bool {
        let Some(id) = self.names.remove(username) else { return false };
        self.accounts.remove(&id);
        self.user_ids.retain(|_, account| *account != id);
        let Self { temp_ids, uploads, upload_names, notices, mortal, .. } = self;
        for (temp_id, row) in temp_ids.extract_if(.., |_, row| row.account == id) {
            mortal.remove(&(row.forget_at, Mortal::TempId(temp_id)));
        }
        for (key, row) in uploads.extract_if(.., |_, row| row.account == Some(id)) {
            mortal.remove(&(row.forget_at, Mortal::Upload(key)));
        }
        upload_names.retain(|(account, _), _| *account != id);
        self.codes.remove_account(id);
        for ((account, notice), row) in notices.extract_if(.., |(account, _), _| *account == id) {
            mortal.remove(&(row.forget_at, Mortal::Notice(account, notice)));
        }
        true
    }

    pub(super) fn record_login(
        &mut self,
        username: Username,
        verdict: Verdict,
        rule: Lockout,
        now: Moment,
    ) -> LoginRecorded {
        if let Some(row) = self.names.get(&username).and_then(|id| self.accounts.get_mut(id)) {
            let (recorded, failures) = rule.judge(row.failures, verdict, now);
            row.failures = failures;
            return recorded;
        }
        let before = self.failures_of_stranger(&username, now);
        let (recorded, failures) = rule.judge(before, Verdict::Wrong, now);
        if failures != before {
            self.remember_stranger(username, failures, now);
        }
        recorded
    }

    pub(super) fn failures_of_stranger(&self, username: &Username, now: Moment) -> Failures {
        let row = self.strangers.get(username).filter(|row| now.timestamp() < row.forget_at);
        row.map(|row| row.failures).unwrap_or_default()
    }

    pub(super) fn remember_stranger(&mut self, username: Username, failures: Failures, now: Moment) {
        self.forget_stranger(&username);
        if self.strangers.len() >= rows_in(MAX_UNKNOWN_USERNAMES)
            && let Some(oldest) = self.strangers_by_age.values().next().cloned()
        {
            self.forget_stranger(&oldest);
        }
        self.last_stranger += 1;
        let forget_at = failures.forgotten_at(now);
        self.strangers_by_age.insert(self.last_stranger, username.clone());
        self.mortal.insert((forget_at, Mortal::Stranger(username.clone())));
        self.strangers.insert(username, Stranger { age: self.last_stranger, failures, forget_at });
    }

    pub(super) fn forget_stranger(&mut self, username: &Username) {
        if let Some(row) = self.strangers.remove(username) {
            self.strangers_by_age.remove(&row.age);
            self.mortal.remove(&(row.forget_at, Mortal::Stranger(username.clone())));
        }
    }

    pub(super) fn user_id(&mut self, account: AccountId, candidate: Uid) -> Result<Option<Uid>, StoreError> {
        let Some(row) = self.accounts.get_mut(&account) else { return Ok(None) };
        if row.user_id.is_none() {
            if self.user_ids.contains_key(&candidate) {
                return Err(StoreError::Failed("the user id is another account's".into()));
            }
            self.user_ids.insert(candidate, account);
            row.user_id = Some(candidate);
        }
        Ok(row.user_id)
    }

    pub(super) fn revoke_session(&mut self, session: SessionId, until: Timestamp) {
        let before = self.revoked.get(&session).copied();
        if before.is_none_or(|before| before < until) {
            if let Some(before) = before {
                self.mortal.remove(&(before, Mortal::Session(session)));
            }
            self.revoked.insert(session, until);
            self.mortal.insert((until, Mortal::Session(session)));
        }
    }
}

impl AccountRow {
    fn set_password(&mut self, hash: PasswordHash, source: PasswordSource) {
        if source == PasswordSource::Import {
            self.account.imported_hash = Some(hash.clone());
        }
        self.account.password_hash = Some(hash);
        self.failures = Failures::default();
    }
}
