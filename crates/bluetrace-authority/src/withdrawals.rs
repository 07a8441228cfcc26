//! Owns withdrawal: an account and all that is its own gone, and a proof of it for the person who asked.
//!
//! The proof names nobody. It is the URL-safe base64 of 57 bytes, 76 characters, and is good for ever:
//!
//! ```text
//! kind 3, 1 byte | when 8 | receipt 16, random | HMAC-SHA-256 of all before 32
//! ```

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bluetrace_protocol::Timestamp;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::authority::{Authority, AuthorityError, Member};
use crate::keys::{MasterKey, Purpose};

/// That a withdrawal took place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// When.
    pub at: Timestamp,
    /// What shows it, to this authority, at any later time.
    pub proof: String,
}

/// The key that authenticates proofs.
pub(crate) struct WithdrawalKey(Hmac<Sha256>);

const KIND: u8 = 3;
const STATEMENT_BYTES: usize = 1 + 8 + 16;

impl Authority {
    /// Removes a member's account and all that is its own: name, password, `TempIDs`, uploads, notices, sessions. `None` if
    /// it is gone already.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn withdraw(&self, member: &Member, now: Timestamp) -> Result<Option<Withdrawal>, AuthorityError> {
        if !self.store.remove_account(member.username.clone()).await? {
            return Ok(None);
        }
        Ok(Some(Withdrawal { at: now, proof: self.withdrawals.prove(now, self.random_bytes()) }))
    }

    /// When the withdrawal took place that a text proves; `None` if it is no proof of this authority's.
    pub fn withdrawn_at(&self, proof: &str) -> Option<Timestamp> {
        self.withdrawals.check(proof)
    }
}

impl WithdrawalKey {
    pub(crate) fn new(master_key: &MasterKey) -> Self {
        Self(master_key.hmac(Purpose::Withdrawals))
    }

    fn prove(&self, at: Timestamp, receipt: [u8; 16]) -> String {
        let mut bytes = vec![KIND];
        bytes.extend_from_slice(&at.as_unix().to_be_bytes());
        bytes.extend_from_slice(&receipt);
        let tag = self.0.clone().chain_update(&bytes).finalize();
        bytes.extend_from_slice(tag.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn check(&self, proof: &str) -> Option<Timestamp> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(proof).ok()?;
        let (statement, tag) = bytes.split_at_checked(STATEMENT_BYTES)?;
        self.0.clone().chain_update(statement).verify_slice(tag).ok()?;
        let (_, rest) = statement.split_first().filter(|(kind, _)| **kind == KIND)?;
        Timestamp::from_unix(i64::from_be_bytes(*rest.first_chunk()?))
    }
}

impl fmt::Debug for WithdrawalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WithdrawalKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_says_when_and_one_that_was_changed_or_made_elsewhere_says_nothing() {
        let (key, at) = (WithdrawalKey::new(&MasterKey::new([7; 32])), Timestamp::from_unix(1_600_000_000).unwrap());
        let proof = key.prove(at, [9; 16]);
        assert_eq!(proof.len(), 76);
        assert_eq!(key.check(&proof), Some(at));
        assert_eq!(WithdrawalKey::new(&MasterKey::new([8; 32])).check(&proof), None);
        for place in 0..proof.len() {
            let other = if proof.as_bytes()[place] == b'A' { "B" } else { "A" };
            assert_eq!(key.check(&format!("{}{other}{}", &proof[..place], &proof[place + 1..])), None);
            assert_eq!(key.check(&proof[..place]), None);
        }
    }
}
