//! What only the health authority may know, as rules over a [`store::Store`]: accounts, `TempIDs`, uploads, tracing and notices.
//!
//! [`Authority`] decides. It takes `now` with each call, draws what is random from a generator that it was seeded with, and
//! keeps everything in its store; what takes long is given from outside. No sockets, no SQL, no async runtime.

pub mod access;
pub mod accounts;
pub mod authority;
mod code_book;
mod code_rule;
pub mod codes;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod excerpt;
mod hex;
pub mod keyring;
pub mod keys;
pub mod memory;
pub mod notices;
pub mod passwords;
pub mod registration;
mod registration_book;
mod registration_rule;
pub mod store;
pub mod temp_ids;
mod tokens;
pub mod trace;
pub mod upload_tokens;
pub mod uploads;
pub mod withdrawals;
mod wrapping;

pub use authority::{Authority, AuthorityError, Member, Policy, Scheme};
pub use keys::MasterKey;
pub use tokens::AccessToken;
