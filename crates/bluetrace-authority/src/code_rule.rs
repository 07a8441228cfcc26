//! Owns what a store knows of upload codes and handshake PINs, and the rule by which every store judges a code
//! ([`PresentedCode::judge`]). The store's methods are [`Store`](crate::store::Store)'s.

use std::fmt;

use bluetrace_protocol::{Timestamp, Username};

use crate::store::{AccountId, UploadBegun};

/// The store's number for an upload code, by which operators name it. Later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadCodeId(pub i64);

/// An upload code under a key of the authority's: useless to who has not that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeHash(pub [u8; 32]);

/// How an upload code is written. A code can only be hit by guesses of its own form, so each form has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodeForm {
    /// Six digits: all that `OpenTrace`'s apps let a person type.
    Six,
    /// Eight characters.
    Eight,
}

/// What bounds the guessing of upload codes. Whoever guesses as fast as this lets everybody together hits any of `max_live`
/// codes within one window with a probability of at most `max_live * max_wrong / codes there can be`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLimits {
    /// For how many seconds a wrong code counts.
    pub window_s: u32,
    /// Wrong codes that an account may present in a window.
    pub max_wrong_by_account: u32,
    /// Wrong codes of one form that all accounts together may present in a window.
    pub max_wrong: u32,
    /// Codes of one form that may be waiting for whom they are for.
    pub max_live: u32,
}

/// An upload code as a device presents it. One that has the form of no code counts as wrong to the account alone: it can hit
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentedCode {
    /// What it is.
    pub hash: CodeHash,
    /// How it is written, if as a code.
    pub form: Option<CodeForm>,
    /// The limits of that form.
    pub limits: CodeLimits,
}

/// What it takes to begin an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeCheck {
    /// An account.
    NotRequired,
    /// An upload code, too: this one, if any was presented.
    Required(Option<PresentedCode>),
}

/// An upload code that is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUploadCode {
    /// What it is.
    pub hash: CodeHash,
    /// How it is written.
    pub form: CodeForm,
    /// What the operator calls the case.
    pub case: String,
    /// Who issued it.
    pub issued_by: String,
    /// When it can no longer be redeemed; then it is forgotten, if it has not been.
    pub expires: Timestamp,
    /// The limits of its form.
    pub limits: CodeLimits,
}

/// Outcome of [`Store::issue_upload_code`](crate::store::Store::issue_upload_code).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeIssued {
    /// It is stored.
    Issued(UploadCodeId),
    /// It is not: there is such a code. Draw another.
    Taken,
    /// It is not: so many are waiting that guessing would become easy.
    TooManyLive,
}

/// An upload code in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadCodeRow {
    /// The store's number for it.
    pub id: UploadCodeId,
    /// How it is written.
    pub form: CodeForm,
    /// What the operator calls the case.
    pub case: String,
    /// Who issued it.
    pub issued_by: String,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it could, or can, no longer be redeemed.
    pub expires: Timestamp,
    /// How far it has come.
    pub state: CodeState,
}

/// How far an upload code has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeState {
    /// Nobody has redeemed it.
    Live,
    /// It lets this account finish one upload, and nobody else.
    Redeemed {
        /// The account's name.
        by: Username,
        /// When that was.
        at: Timestamp,
    },
    /// The upload it was for is complete.
    Used {
        /// The account's name.
        by: Username,
        /// When it was redeemed.
        at: Timestamp,
    },
    /// An operator has taken it back.
    Revoked {
        /// When.
        at: Timestamp,
    },
}

/// Outcome of [`Store::revoke_upload_code`](crate::store::Store::revoke_upload_code).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeRevoked {
    /// It is of no more use, now or since before. An upload under way with it is dropped.
    Revoked,
    /// Its upload is complete. Nothing was changed.
    Used,
    /// There is no code of that number, or it is forgotten.
    NoSuchCode,
}

/// Outcome of [`Store::redeem_upload_code`](crate::store::Store::redeem_upload_code).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeRedeemed {
    /// It is this account's, now or since before, and its upload is not complete.
    Redeemed,
    /// It is none that this account can use.
    Refused {
        /// Wrong ones that are still free before none is looked at.
        left: u32,
    },
    /// There were too many wrong ones: this one was not looked at, and nothing was changed.
    TooMany {
        /// When the next is looked at.
        until: Timestamp,
    },
    /// There is no such account.
    NoAccount,
}

/// What a store knows of the code that is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundCode {
    /// Who has redeemed it.
    pub redeemed_by: Option<AccountId>,
    /// Whether it is of no more use: revoked, or its upload complete.
    pub is_over: bool,
}

/// What a store knows of wrong codes when one is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guesses {
    /// Those of the account.
    pub by_account: WrongCodes,
    /// Those of the form, of all accounts.
    pub of_form: WrongCodes,
    /// Whether this very code counts already, presented by this account for this upload.
    pub is_counted: bool,
}

/// Wrong codes that still count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongCodes {
    /// How many.
    pub count: u32,
    /// When the first of them counts no more; of no meaning where there are none.
    pub first_ends: Timestamp,
}

impl WrongCodes {
    /// When the next code of an account with these is looked at; `None` if it is now.
    pub fn refused_until(&self, limits: CodeLimits) -> Option<Timestamp> {
        (self.count >= limits.max_wrong_by_account).then_some(self.first_ends)
    }
}

/// What a store does with the code that is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeVerdict {
    /// It lets this account in: from now on it is this account's.
    Accept,
    /// It is wrong, and does not count: it was the account's own, or counts already.
    Refuse {
        /// Wrong codes that are still free.
        left: u32,
    },
    /// It is wrong, and counts.
    RefuseAndCount {
        /// Wrong codes that are still free after this one.
        left: u32,
    },
    /// It is not looked at.
    TooMany {
        /// When the next is.
        until: Timestamp,
    },
}

/// Why a code that is presented does not let an account in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeRefusal {
    /// It is none that this account can use.
    Wrong {
        /// Wrong codes that are still free.
        left: u32,
    },
    /// It is not looked at.
    TooMany {
        /// When the next is.
        until: Timestamp,
    },
}

impl CodeCheck {
    /// The code that is to be judged, if one has to be.
    ///
    /// # Errors
    /// The refusal, where none was presented.
    pub fn presented(self) -> Result<Option<PresentedCode>, UploadBegun> {
        match self {
            Self::NotRequired => Ok(None),
            Self::Required(None) => Err(UploadBegun::CodeRequired),
            Self::Required(Some(presented)) => Ok(Some(presented)),
        }
    }
}

impl CodeVerdict {
    /// Whether it lets the account in.
    ///
    /// # Errors
    /// Why it does not.
    pub fn accepted(self) -> Result<(), CodeRefusal> {
        match self {
            Self::Accept => Ok(()),
            Self::Refuse { left } | Self::RefuseAndCount { left } => Err(CodeRefusal::Wrong { left }),
            Self::TooMany { until } => Err(CodeRefusal::TooMany { until }),
        }
    }
}

impl From<CodeRefusal> for UploadBegun {
    fn from(refusal: CodeRefusal) -> Self {
        match refusal {
            CodeRefusal::Wrong { left } => Self::CodeRefused { left },
            CodeRefusal::TooMany { until } => Self::TooManyCodes { until },
        }
    }
}

impl From<CodeRefusal> for CodeRedeemed {
    fn from(refusal: CodeRefusal) -> Self {
        match refusal {
            CodeRefusal::Wrong { left } => Self::Refused { left },
            CodeRefusal::TooMany { until } => Self::TooMany { until },
        }
    }
}

/// What of a handshake PIN is stored. The PIN follows from it with a key of the authority's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PinSeed(pub [u8; 16]);

impl PresentedCode {
    /// What becomes of it, where `found` is what there is of its hash. Every store decides with this.
    ///
    /// What was wrong a while ago is so still, and is not compared again: a guess that is repeated for nothing would be a guess at
    /// every code issued since. Who has presented too many wrong ones learns nothing of a further one, not even that it is right; but a code that is
    /// the account's own already tells it nothing, and is good however much was guessed meanwhile.
    pub fn judge(&self, account: AccountId, found: Option<FoundCode>, guesses: Guesses) -> CodeVerdict {
        let Guesses { by_account, of_form, is_counted } = guesses;
        let left = self.limits.max_wrong_by_account.saturating_sub(by_account.count);
        if let Some(code) = found.filter(|code| code.redeemed_by == Some(account)) {
            return if code.is_over { CodeVerdict::Refuse { left } } else { CodeVerdict::Accept };
        }
        if is_counted {
            return CodeVerdict::Refuse { left };
        }
        if left == 0 {
            return CodeVerdict::TooMany { until: by_account.first_ends };
        }
        if self.form.is_some() && of_form.count >= self.limits.max_wrong {
            return CodeVerdict::TooMany { until: of_form.first_ends };
        }
        match found {
            Some(FoundCode { redeemed_by: None, is_over: false }) => CodeVerdict::Accept,
            Some(_) | None => CodeVerdict::RefuseAndCount { left: left - 1 },
        }
    }
}

impl fmt::Debug for CodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeHash(..)")
    }
}

impl fmt::Debug for PinSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinSeed(..)")
    }
}
