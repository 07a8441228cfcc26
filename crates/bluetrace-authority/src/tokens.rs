//! Owns the two tokens of a session: a resume token continues it without a password (PROTOCOL section 4.6), an access token
//! shows a request over HTTP to be of it.
//!
//! A token is the URL-safe base64 of 77 bytes, 103 characters. Nothing is stored for it, so making one costs no disk, and any
//! server of the authority can take it:
//!
//! ```text
//! kind 1 | account 8 | epoch 4 | expires 8 | session 16 | logged in 8 | HMAC-SHA-256 of all before 32
//! ```
//!
//! Numbers are big-endian. The kind is 1 for resuming and 2 for access, and each kind has a key of its own: no token is good for
//! the other purpose. A token ends when it expires, when its session logs out, or when the account's epoch moves on. However
//! often it is renewed, a session ends a fixed time after its login: so long a logout has to be remembered, and no longer.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bluetrace_protocol::limits::MAX_RESUME_TOKEN;
use bluetrace_protocol::{ResumeToken, Timestamp};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::keys::{MasterKey, Purpose};
use crate::store::{AccountId, SessionId};

/// What shows a request to be of a session, for a short while: at most 256 printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Box<str>);

/// The key that authenticates the tokens of one kind.
pub(crate) struct TokenKey {
    key: Hmac<Sha256>,
    kind: u8,
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) account: AccountId,
    pub(crate) token_epoch: u32,
    pub(crate) expires: Timestamp,
    pub(crate) session: SessionId,
    pub(crate) logged_in: Timestamp,
}

const RESUMES: u8 = 1;
const GIVES_ACCESS: u8 = 2;
const CLAIM_BYTES: usize = 1 + 8 + 4 + 8 + 16 + 8;
const TAG_BYTES: usize = 32;

impl AccessToken {
    /// Reads an access token; `None` unless it is 1 to 256 printable ASCII characters without spaces.
    pub fn parse(text: &str) -> Option<Self> {
        let is_token = (1..=MAX_RESUME_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Self(text.into()))
    }

    /// The token, for the wire. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl TokenKey {
    pub(crate) fn of_resume_tokens(master_key: &MasterKey) -> Self {
        Self { key: master_key.hmac(Purpose::ResumeTokens), kind: RESUMES }
    }

    pub(crate) fn of_access_tokens(master_key: &MasterKey) -> Self {
        Self { key: master_key.hmac(Purpose::AccessTokens), kind: GIVES_ACCESS }
    }

    #[expect(clippy::expect_used, reason = "base64 is printable ASCII, and 103 characters are under the limit")]
    pub(crate) fn resume_token(&self, claim: &Claim) -> ResumeToken {
        ResumeToken::parse(&self.seal(claim)).expect("103 characters of base64 are a token")
    }

    pub(crate) fn access_token(&self, claim: &Claim) -> AccessToken {
        AccessToken(self.seal(claim).into())
    }

    fn seal(&self, claim: &Claim) -> String {
        let mut bytes = Vec::with_capacity(CLAIM_BYTES + TAG_BYTES);
        bytes.push(self.kind);
        bytes.extend_from_slice(&claim.account.0.to_be_bytes());
        bytes.extend_from_slice(&claim.token_epoch.to_be_bytes());
        bytes.extend_from_slice(&claim.expires.as_unix().to_be_bytes());
        bytes.extend_from_slice(&claim.session.0);
        bytes.extend_from_slice(&claim.logged_in.as_unix().to_be_bytes());
        let tag = self.key.clone().chain_update(&bytes).finalize();
        bytes.extend_from_slice(tag.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token's text says, if this authority made it for this purpose. It may have expired or been revoked since.
    pub(crate) fn open(&self, token: &str) -> Option<Claim> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (claim, tag) = bytes.split_at_checked(CLAIM_BYTES)?;
        self.key.clone().chain_update(claim).verify_slice(tag).ok()?;
        let (kind, rest) = claim.split_first()?;
        let (account, rest) = rest.split_first_chunk()?;
        let (token_epoch, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (session, logged_in) = rest.split_first_chunk()?;
        if *kind != self.kind {
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

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
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
        for key in [resume_key(7), access_key(7)] {
            let token = key.seal(&claim());
            assert_eq!(token.len(), 103);
            assert_eq!(key.open(&token), Some(claim()));
        }
    }

    #[test]
    fn a_token_of_another_authority_says_nothing() {
        assert_eq!(resume_key(7).open(&resume_key(8).seal(&claim())), None);
        assert_eq!(access_key(7).open(&access_key(8).seal(&claim())), None);
    }

    #[test]
    fn a_token_for_one_purpose_is_none_for_the_other_even_under_one_key() {
        assert_eq!(resume_key(7).open(&access_key(7).seal(&claim())), None);
        assert_eq!(access_key(7).open(&resume_key(7).seal(&claim())), None);
        let other_kind = TokenKey { kind: RESUMES, ..access_key(7) };
        assert_eq!(access_key(7).open(&other_kind.seal(&claim())), None);
    }

    #[test]
    fn a_token_changed_in_any_character_or_cut_anywhere_says_nothing() {
        let key = resume_key(7);
        let token = key.seal(&claim());
        for place in 0..token.len() {
            let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..place], &token[place + 1..]);
            assert_eq!(key.open(&changed), None, "changed at {place}");
            assert_eq!(key.open(&token[..place]), None, "cut at {place}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let token = access_key(7).access_token(&claim());
        assert_eq!(format!("{token:?}"), "AccessToken(..)");
        assert_eq!(AccessToken::parse(token.reveal()), Some(token));
    }

    fn resume_key(byte: u8) -> TokenKey {
        TokenKey::of_resume_tokens(&MasterKey::new([byte; 32]))
    }

    fn access_key(byte: u8) -> TokenKey {
        TokenKey::of_access_tokens(&MasterKey::new([byte; 32]))
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
