//! Owns the [`Authority`]: what it is made of, its rules as numbers, and how it fails. What it does stands in the files
//! beside this one: [`accounts`](crate::accounts), [`access`](crate::access), [`temp_ids`](crate::temp_ids),
//! [`keyring`](crate::keyring), [`uploads`](crate::uploads), [`notices`](crate::notices), [`withdrawals`](crate::withdrawals),
//! [`codes`](crate::codes), [`upload_tokens`](crate::upload_tokens), [`registration`](crate::registration).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bluetrace_protocol::{Timestamp, Uid, Username};
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};
use thiserror::Error;

use crate::codes::CodeKeys;
use crate::keyring::SealingKeys;
use crate::keys::MasterKey;
use crate::passwords::{HashCost, PasswordPool, PoolError};
use crate::registration::RegistrationKeys;
use crate::store::{AccountId, Lockout, SessionId, Store, StoreError};
use crate::tokens::TokenKey;
use crate::upload_tokens::UploadTokenKey;
use crate::withdrawals::WithdrawalKey;

/// The health authority: it decides, and remembers in its [`Store`].
///
/// Every method takes `now`. Two authorities over one store, on one machine or on two, are one authority.
pub struct Authority {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) passwords: Arc<dyn PasswordPool>,
    pub(crate) policy: Policy,
    pub(crate) tokens: TokenKey,
    pub(crate) access_tokens: TokenKey,
    pub(crate) withdrawals: WithdrawalKey,
    pub(crate) keys: SealingKeys,
    pub(crate) codes: CodeKeys,
    pub(crate) upload_tokens: UploadTokenKey,
    pub(crate) registrations: RegistrationKeys,
    generator: Mutex<ChaCha12Rng>,
}

/// The authority's rules, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// When failed logins block a username.
    pub lockout: Lockout,
    /// What kind of `TempIDs` is issued. Those of the other kind are resolved all the same.
    pub temp_id_scheme: Scheme,
    /// For how many seconds a `TempID` may be shown, 1 to 86,400.
    pub temp_id_lifetime_s: u32,
    /// For how many seconds a sealing key seals, 1 and more. Keys change at multiples of it.
    pub key_period_s: u32,
    /// For how many seconds `TempIDs`, uploads and notices are kept.
    pub retention_s: u32,
    /// For how many seconds a resume token is good.
    pub resume_s: u32,
    /// For how many seconds an access token is good.
    pub access_s: u32,
    /// For how many seconds after its login a session can be continued, however often its token is renewed.
    pub session_s: u32,
    /// Whether an upload takes a code that an official has issued.
    pub require_upload_codes: bool,
    /// What a password hash costs.
    pub hash_cost: HashCost,
    /// What people who were met are advised to do.
    pub advice: String,
}

/// A kind of `TempIDs` (PROTOCOL sections 1 and 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Random digits, stored with their owner and window.
    #[default]
    Registry,
    /// Owner and window under a key of the authority's. Nothing is stored for one.
    Sealed,
}

/// Who has logged in: given by a login, asked for by what needs one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The account.
    pub account: AccountId,
    /// Its name.
    pub username: Username,
    /// The login.
    pub session: SessionId,
    /// The account's epoch at the login.
    pub token_epoch: u32,
    /// When the login was.
    pub logged_in: Timestamp,
    /// The account's user id, where the authority seals `TempIDs`: so that issuing them asks nothing of the store.
    pub user_id: Option<Uid>,
}

/// Why the authority has no answer. The texts hold no personal data.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Its store cannot work now.
    #[error("{0}")]
    Unavailable(String),
    /// More logins are waiting than may wait.
    #[error("too many logins are waiting")]
    Busy,
    /// A fault of the store or of this program.
    #[error("{0}")]
    Internal(String),
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lockout: Lockout { max_failures: bluetrace_protocol::limits::MAX_FAILED_LOGINS, block_duration_s: 60 },
            temp_id_scheme: Scheme::Registry,
            temp_id_lifetime_s: 15 * 60,
            key_period_s: 24 * 60 * 60,
            retention_s: 21 * 24 * 60 * 60,
            resume_s: 30 * 60,
            access_s: 10 * 60,
            session_s: 7 * 24 * 60 * 60,
            require_upload_codes: false,
            hash_cost: HashCost::STANDARD,
            advice: "You were near a person who has tested positive. Stay away from others and ask the health authority for a test."
                .to_owned(),
        }
    }
}

impl Authority {
    /// An authority over a store. `seed` is 32 bytes of the system's randomness: everything the authority draws comes of it.
    pub fn new(
        store: Arc<dyn Store>,
        passwords: Arc<dyn PasswordPool>,
        policy: Policy,
        master_key: &MasterKey,
        seed: [u8; 32],
    ) -> Self {
        Self {
            store,
            passwords,
            policy,
            tokens: TokenKey::of_resume_tokens(master_key),
            access_tokens: TokenKey::of_access_tokens(master_key),
            withdrawals: WithdrawalKey::new(master_key),
            keys: SealingKeys::new(master_key),
            codes: CodeKeys::new(master_key),
            upload_tokens: UploadTokenKey::new(master_key),
            registrations: RegistrationKeys::new(master_key),
            generator: Mutex::new(ChaCha12Rng::from_seed(seed)),
        }
    }

    /// The rules it follows.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The store it remembers in.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn random_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.with_generator(|generator| generator.fill_bytes(&mut bytes));
        bytes
    }

    pub(crate) fn with_generator<T>(&self, draw: impl FnOnce(&mut ChaCha12Rng) -> T) -> T {
        // a generator has no state that a panic could leave half-changed
        draw(&mut self.generator.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("store", &self.store).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl From<StoreError> for AuthorityError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            StoreError::Failed(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<PoolError> for AuthorityError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Full => Self::Busy,
            PoolError::Closed => Self::Unavailable(error.to_string()),
        }
    }
}
