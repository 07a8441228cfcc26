//! Owns what a store knows of the registry's `TempIDs`.

use bluetrace_protocol::{Record, Username, Window};

use super::AccountId;

/// Outcome of [`Store::issue_temp_ids`](super::Store::issue_temp_ids).
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
