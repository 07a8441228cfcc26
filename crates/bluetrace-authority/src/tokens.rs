//! Owns resume tokens: what continues a session without a password (PROTOCOL section 4.6).
//!
//! A token is the URL-safe base64 of 77 bytes, 103 characters. Nothing is stored for it, so making one costs no disk, and any
//! server of the authority can take it:
//!
//! ```text
//! version 1 | account 8 | epoch 4 | expires 8 | session 16 | logged in 8 | HMAC-SHA-256 of all before 32
//! ```
//!
//! Numbers are big-endian. A token ends when it expires, when its session logs out, or when the account's epoch moves on. However
//! often it is renewed, a session ends a fixed time after its login: so long a logout has to be remembered, and no longer.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bluetrace_protocol::{ResumeToken, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::keys::{MasterKey, Purpose};
use crate::store::{AccountId, SessionId};

/// The key that authenticates resume tokens.
pub(crate) struct TokenKey(Hmac<Sha256>);

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) account: AccountId,
    pub(crate) token_epoch: u32,
    pub(crate) expires: Timestamp,
    pub(crate) session: SessionId,
    pub(crate) logged_in: Timestamp,
}

const VERSION: u8 = 1;
const CLAIM_BYTES: usize = 1 + 8 + 4 + 8 + 16 + 8;
const TAG_BYTES: usize = 32;

impl TokenKey {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    pub(crate) fn new(master_key: &MasterKey) -> Self {
        Self(Hmac::new_from_slice(&*master_key.derive(Purpose::ResumeTokens)).expect("HMAC takes keys of any length"))
    }

    #[expect(clippy::expect_used, reason = "base64 is printable ASCII, and 103 characters are under the limit")]
    pub(crate) fn seal(&self, claim: &Claim) -> ResumeToken {
        let mut bytes = Vec::with_capacity(CLAIM_BYTES + TAG_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&claim.account.0.to_be_bytes());
        bytes.extend_from_slice(&claim.token_epoch.to_be_bytes());
        bytes.extend_from_slice(&claim.expires.as_unix().to_be_bytes());
        bytes.extend_from_slice(&claim.session.0);
        bytes.extend_from_slice(&claim.logged_in.as_unix().to_be_bytes());
        let tag = self.0.clone().chain_update(&bytes).finalize();
        bytes.extend_from_slice(tag.as_bytes());
        ResumeToken::parse(&BASE64_URL_SAFE_NO_PAD.encode(bytes)).expect("103 characters of base64 are a token")
    }

    /// What a token says, if this authority made it. It may have expired or been revoked since.
    pub(crate) fn open(&self, token: &ResumeToken) -> Option<Claim> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.reveal()).ok()?;
        let (claim, tag) = bytes.split_at_checked(CLAIM_BYTES)?;
        self.0.clone().chain_update(claim).verify_slice(tag).ok()?;
        let (version, rest) = claim.split_first()?;
        let (account, rest) = rest.split_first_chunk()?;
        let (token_epoch, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (session, logged_in) = rest.split_first_chunk()?;
        if *version != VERSION {
            return None;
        }
        Some(Claim {
            account: AccountId(i64::from_be_bytes(*account)),
            token_epoch: u32::from_be_bytes(*token_epoch),
            expires: Timestamp::from_unix(i64::from_be_bytes(*expires))?,
            session: SessionId(*session),
            logged_in: Timestamp::from_unix(i64::from_be_bytes(logged_in.try_into().ok()?))?,
        })
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_was_sealed() {
        let key = TokenKey::new(&MasterKey::new([7; 32]));
        let token = key.seal(&claim());
        assert_eq!(token.reveal().len(), 103);
        assert_eq!(key.open(&token), Some(claim()));
    }

    #[test]
    fn a_token_of_another_authority_says_nothing() {
        let token = TokenKey::new(&MasterKey::new([8; 32])).seal(&claim());
        assert_eq!(TokenKey::new(&MasterKey::new([7; 32])).open(&token), None);
    }

    #[test]
    fn a_token_changed_in_any_character_or_cut_anywhere_says_nothing() {
        let key = TokenKey::new(&MasterKey::new([7; 32]));
        let token = key.seal(&claim()).reveal().to_owned();
        for place in 0..token.len() {
            let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..place], &token[place + 1..]);
            assert_eq!(ResumeToken::parse(&changed).and_then(|token| key.open(&token)), None, "changed at {place}");
            assert_eq!(ResumeToken::parse(&token[..place]).and_then(|token| key.open(&token)), None, "cut at {place}");
        }
    }

    fn claim() -> Claim {
        Claim {
            account: AccountId(42),
            token_epoch: 3,
            expires: Timestamp::from_unix(1_600_000_000).unwrap(),
            session: SessionId([9; 16]),
            logged_in: Timestamp::from_unix(1_599_990_000).unwrap(),
        }
    }
}
