//! Owns accounts and logins: who may come in, the lock-out rule, resuming and logging out (PROTOCOL sections 4.2, 4.6 and 5).

use bluetrace_protocol::{Clock, Moment, Password, ResumeToken, Timestamp, Username};

use crate::authority::{Authority, AuthorityError, Member};
use crate::hex::hex;
use crate::passwords::{PasswordDone, PasswordWork};
use crate::store::{AccountOpened, LoginRecorded, NoticeId, PasswordHash, PasswordSource, SessionId, Verdict};
use crate::tokens::Claim;

/// What came of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedIn {
    /// It was right.
    Welcome(Member),
    /// It was wrong.
    Wrong {
        /// Failures that are still free before the block.
        left: u32,
    },
    /// It was wrong, and blocked the username.
    BlockedNow {
        /// The first moment at which it may log in again.
        until: Moment,
    },
    /// The username was blocked already; whether the password was right is not said.
    Blocked {
        /// The first moment at which it may log in again.
        until: Moment,
    },
}

/// What came of a line of `credentials.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialImported {
    /// A new account.
    Opened,
    /// The line is another than the one imported before: the account has its password now.
    Updated,
    /// The line is the one imported before. Nothing was changed, also if an operator has set another password since.
    Unchanged,
}

/// A file that is imported at start, and noted when it has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportFile {
    /// `credentials.txt`.
    Credentials,
    /// `tempIDs.txt`.
    TempIds,
}

impl Authority {
    /// Lets somebody in, or not. A username without an account takes the same time and is blocked by the same rule.
    ///
    /// The clock is read again when the password has been looked at: that may have waited in a queue.
    ///
    /// # Errors
    /// [`AuthorityError`] if store or password pool cannot answer. Then nothing was counted.
    pub async fn login(
        &self,
        username: Username,
        password: Password,
        clock: &dyn Clock,
    ) -> Result<LoggedIn, AuthorityError> {
        let state = self.store.login_state(username.clone(), clock.moment()).await?;
        // a blocked username costs no hash
        if let Some(until) = state.blocked_until {
            return Ok(LoggedIn::Blocked { until });
        }
        let verdict = match state.account.as_ref().and_then(|account| account.password_hash.clone()) {
            Some(hash) => self.verify(PasswordWork::verify(password, hash)).await?,
            None => self.verify(PasswordWork::verify_nothing(password, self.policy.hash_cost)).await?,
        };
        let recorded = self.store.record_login(username.clone(), verdict, self.policy.lockout, clock.moment()).await?;
        Ok(match (recorded, state.account) {
            (LoginRecorded::Welcome, Some(account)) => LoggedIn::Welcome(Member {
                account: account.id,
                username,
                session: SessionId(self.random_bytes()),
                token_epoch: account.token_epoch,
                logged_in: clock.now(),
                user_id: self.user_id_to_seal(account.id).await?,
            }),
            (LoginRecorded::Welcome, None) => {
                return Err(AuthorityError::Internal("a login without an account was recorded as right".to_owned()));
            }
            (LoginRecorded::Wrong { left }, _) => LoggedIn::Wrong { left },
            (LoginRecorded::BlockedNow { until }, _) => LoggedIn::BlockedNow { until },
            (LoginRecorded::Blocked { until }, _) => LoggedIn::Blocked { until },
        })
    }

    /// Makes a token with which a member's session can be continued, and says when it ends. Needs no store.
    pub fn resume_token(&self, member: &Member, now: Timestamp) -> (ResumeToken, Timestamp) {
        let expires = now.plus(i64::from(self.policy.resume_s)).min(self.session_end(member));
        let Member { account, session, token_epoch, logged_in, .. } = *member;
        (self.tokens.resume_token(&Claim { account, token_epoch, expires, session, logged_in }), expires)
    }

    /// Continues a session. `None` if the token is not, or no longer, good. A block of the username does not matter.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn resume(&self, token: &ResumeToken, now: Timestamp) -> Result<Option<Member>, AuthorityError> {
        let Some(claim) = self.tokens.open(token.reveal()).filter(|claim| now < claim.expires) else { return Ok(None) };
        self.member_of(claim, now).await
    }

    /// Whose a claim is, if its session still goes on.
    pub(crate) async fn member_of(&self, claim: Claim, now: Timestamp) -> Result<Option<Member>, AuthorityError> {
        let state = self.store.session_state(claim.account, claim.session, now).await?;
        let good = state.filter(|state| !state.is_revoked && state.token_epoch == claim.token_epoch);
        let Some(state) = good else { return Ok(None) };
        Ok(Some(Member {
            account: claim.account,
            username: state.username,
            session: claim.session,
            token_epoch: claim.token_epoch,
            logged_in: claim.logged_in,
            user_id: self.user_id_to_seal(claim.account).await?,
        }))
    }

    /// Ends a member's session: its tokens are void from here on. Other sessions of the account go on. `seen` is the last
    /// notice that is known to have reached the person.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn logout(&self, member: &Member, seen: Option<NoticeId>, now: Timestamp) -> Result<(), AuthorityError> {
        if let Some(seen) = seen {
            self.notices_read(member, seen).await?;
        }
        // another connection of this session may go on renewing its token until then
        let until = self.session_end(member).max(now).plus(1);
        Ok(self.store.revoke_session(member.session, until).await?)
    }

    /// When a member's session can be continued no more.
    pub(crate) fn session_end(&self, member: &Member) -> Timestamp {
        member.logged_in.plus(i64::from(self.policy.session_s))
    }

    /// Opens an account. `false` if there is one of that name already.
    ///
    /// # Errors
    /// [`AuthorityError`] if store or password pool cannot answer.
    pub async fn open_account(
        &self,
        username: Username,
        password: Password,
        now: Timestamp,
    ) -> Result<bool, AuthorityError> {
        let hash = self.hash(password).await?;
        let opened = self.store.open_account(username, hash, PasswordSource::Operator, now).await?;
        Ok(matches!(opened, AccountOpened::Opened(_)))
    }

    /// Sets an account's password; its resume tokens are void, and a block ends. `false` if there is no such account.
    ///
    /// # Errors
    /// [`AuthorityError`] if store or password pool cannot answer.
    pub async fn change_password(&self, username: Username, password: Password) -> Result<bool, AuthorityError> {
        let hash = self.hash(password).await?;
        Ok(self.store.change_password(username, hash, PasswordSource::Operator).await?)
    }

    /// Takes a line of `credentials.txt`.
    ///
    /// # Errors
    /// [`AuthorityError`] if store or password pool cannot answer.
    pub async fn import_credential(
        &self,
        username: Username,
        password: Password,
        now: Timestamp,
    ) -> Result<CredentialImported, AuthorityError> {
        let account = self.store.login_state(username.clone(), now.into()).await?.account;
        let last = account.and_then(|account| account.imported_hash.or(account.password_hash));
        if let Some(last) = last {
            if self.verify(PasswordWork::verify(password.clone(), last)).await? == Verdict::Right {
                return Ok(CredentialImported::Unchanged);
            }
            let hash = self.hash(password).await?;
            self.store.change_password(username, hash, PasswordSource::Import).await?;
            return Ok(CredentialImported::Updated);
        }
        let hash = self.hash(password).await?;
        match self.store.open_account(username.clone(), hash.clone(), PasswordSource::Import, now).await? {
            AccountOpened::Opened(_) => Ok(CredentialImported::Opened),
            // opened by somebody else in the meantime: the line is the newer
            AccountOpened::Exists(_) => {
                self.store.change_password(username, hash, PasswordSource::Import).await?;
                Ok(CredentialImported::Updated)
            }
        }
    }

    /// Whether a file with this SHA-256 is the one that was imported last.
    ///
    /// # Errors
    /// [`AuthorityError`] if store or password pool cannot answer.
    pub async fn is_imported(&self, file: ImportFile, digest: &[u8; 32]) -> Result<bool, AuthorityError> {
        let Some(note) = self.store.import_note(file.name()).await? else { return Ok(false) };
        let work = PasswordWork::verify(digest_as_password(digest)?, PasswordHash(note));
        Ok(self.verify(work).await? == Verdict::Right)
    }

    /// Notes that a file with this SHA-256 has been imported. The note is as costly to guess from as a password's hash:
    /// a file of one line is a password.
    ///
    /// # Errors
    /// [`AuthorityError`] if store or password pool cannot answer.
    pub async fn note_imported(&self, file: ImportFile, digest: &[u8; 32]) -> Result<(), AuthorityError> {
        let note = self.hash(digest_as_password(digest)?).await?;
        Ok(self.store.note_import(file.name(), note.0).await?)
    }

    pub(crate) async fn hash(&self, password: Password) -> Result<PasswordHash, AuthorityError> {
        let work = PasswordWork::hash(password, self.random_bytes(), self.policy.hash_cost);
        match self.passwords.run(work).await? {
            PasswordDone::Hashed(hash) => Ok(hash),
            PasswordDone::Failed(reason) => Err(AuthorityError::Internal(reason)),
            PasswordDone::Verified(_) => Err(AuthorityError::Internal("a hash was asked for".to_owned())),
        }
    }

    async fn verify(&self, work: PasswordWork) -> Result<Verdict, AuthorityError> {
        match self.passwords.run(work).await? {
            PasswordDone::Verified(verdict) => Ok(verdict),
            PasswordDone::Failed(reason) => Err(AuthorityError::Internal(reason)),
            PasswordDone::Hashed(_) => Err(AuthorityError::Internal("a verdict was asked for".to_owned())),
        }
    }
}

impl ImportFile {
    const fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::TempIds => "temp_ids",
        }
    }
}

fn digest_as_password(digest: &[u8; 32]) -> Result<Password, AuthorityError> {
    Password::parse(&hex(digest)).map_err(|error| AuthorityError::Internal(error.to_string()))
}
