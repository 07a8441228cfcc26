//! Owns the words of the operator's commands: accounts, exports, sealing keys, upload codes and handshake PINs.

use bluetrace_authority::store::CodeForm;
use clap::{Args, Subcommand, ValueEnum};

use super::values::{code_number, seconds};
use super::{AuthorityFolder, PasswordSource};

#[derive(Debug, Args)]
pub(crate) struct UserOptions {
    #[command(subcommand)]
    pub(crate) action: UserAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserAction {
    /// Open an account; asks for its password.
    Add(NamedUser),
    /// List the accounts.
    List {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Remove an account, its TempIDs, uploads and notices.
    Remove {
        /// Whose.
        username: String,
        /// Do not ask whether that is meant.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Set an account's password; ends its sessions' resume tokens and a block.
    Password(NamedUser),
}

#[derive(Debug, Args)]
pub(crate) struct NamedUser {
    /// Whose.
    pub(crate) username: String,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
    #[command(flatten)]
    pub(crate) password: PasswordSource,
}

#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// What to write.
    #[arg(value_enum)]
    pub(crate) what: ExportKind,
    /// How to write it. TempIDs are written as `tempIDs.txt` has them, unless as JSON lines.
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub(crate) format: ExportFormat,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportKind {
    /// Every TempID issued or imported, with its owner.
    Tempids,
    /// Every upload.
    Uploads,
    /// Every uploaded record, and whom it leads to.
    Contacts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
    Jsonl,
}

#[derive(Debug, Args)]
pub(crate) struct KeysOptions {
    #[command(subcommand)]
    pub(crate) action: KeysAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysAction {
    /// List the keys there are and were: when each seals, its age, how often it has sealed. Never the keys themselves.
    List {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Begin a new key at once. The one before goes on opening what it sealed.
    Rotate {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Destroy a key before its time: no TempID that it sealed can be resolved any more.
    Shred {
        /// Its number in the list.
        id: i64,
        /// Do not ask whether that is meant.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CodeOptions {
    #[command(subcommand)]
    pub(crate) action: CodeAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CodeAction {
    /// Issue a code for one upload, and show it this once.
    Issue(CodeIssue),
    /// List the codes by their numbers, with their cases, who issued them and how far they have come.
    List {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Take a code back. An unfinished upload that was begun with it is dropped.
    Revoke {
        /// Its number, as it was issued and as it is listed.
        #[arg(value_parser = code_number)]
        number: i64,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Let somebody try again who has typed too many wrong codes; `bluetrace user list` shows who has.
    Unblock {
        /// Whose.
        username: String,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CodeIssue {
    /// What you call the case that the code is for.
    #[arg(long, value_name = "TEXT")]
    pub(crate) case: Option<String>,
    /// How it is written: 8 characters, or 6 digits, which are all that OpenTrace's apps take and live a shorter time.
    #[arg(long, value_enum, default_value_t = CodeLength::Eight)]
    pub(crate) length: CodeLength,
    /// How long it can be redeemed [default: 24h; 15m with 6 digits].
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub(crate) valid_for: Option<u32>,
    /// Who issues it [default: the user of this machine].
    #[arg(long, value_name = "NAME")]
    pub(crate) issued_by: Option<String>,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodeLength {
    #[value(name = "8")]
    Eight,
    #[value(name = "6")]
    Six,
}

impl CodeLength {
    pub(crate) const fn form(self) -> CodeForm {
        match self {
            Self::Eight => CodeForm::Eight,
            Self::Six => CodeForm::Six,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PinOptions {
    /// Whose device shows it.
    pub(crate) username: String,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
}
