//! Owns what a store knows of accounts and their sessions.

use std::fmt;

use bluetrace_protocol::{Moment, Timestamp, Username};

/// The store's own number for an account. Never on the wire, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub i64);

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

/// Outcome of [`Store::open_account`](super::Store::open_account).
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
