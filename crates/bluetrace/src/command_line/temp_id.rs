//! Owns the words of `bluetrace tempid`, and a key as it is typed there.

use std::fmt;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

#[derive(Debug, Args)]
pub(crate) struct TempIdOptions {
    #[command(subcommand)]
    pub(crate) action: TempIdAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TempIdAction {
    /// Open TempIDs, one a line; answers each with a line of JSON: tempid and uid, start, expiry, or error.
    Open {
        /// Key of 64 hexadecimal digits; several are tried in their order. Whoever lists processes here sees it.
        #[arg(long, value_name = "HEX", required = true)]
        key_hex: Vec<KeyHex>,
        /// Take every text that OpenTrace's server takes for a TempID, not just the one text that each has.
        #[arg(long)]
        opentrace_compatible: bool,
    },
    /// Seal lines of JSON with uid, start, expiry and, if it is not to be random, `iv_hex`; answers each with tempid or error.
    Seal {
        /// Key of 64 hexadecimal digits. Whoever lists processes here sees it.
        #[arg(long, value_name = "HEX")]
        key_hex: KeyHex,
    },
}

/// A key as typed. It is checked later: what is wrong with an argument is shown with the argument.
#[derive(Clone)]
pub(crate) struct KeyHex(pub(crate) Zeroizing<String>);

impl From<String> for KeyHex {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for KeyHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHex(..)")
    }
}
