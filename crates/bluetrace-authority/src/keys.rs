//! Owns the [`MasterKey`] and what is derived from it: a key for each purpose (HKDF-SHA-256, RFC 5869).

use std::fmt;

use bluetrace_protocol::sealed::bytes_of_hex;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::hex::hex;

/// The authority's one secret: 32 random bytes, the same on every server of an authority.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

/// What a derived key is for. A key for one purpose tells nothing of a key for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Authenticates resume tokens.
    ResumeTokens,
    /// Authenticates access tokens.
    AccessTokens,
    /// Authenticates the proofs of withdrawals.
    Withdrawals,
    /// Wraps the keys that seal `TempIDs`.
    WrapSealingKeys,
    /// Authenticates upload tokens.
    UploadTokens,
    /// Hashes upload codes.
    UploadCodes,
    /// Authenticates cookies.
    Cookies,
    /// Makes handshake PINs of what is stored.
    HandshakePins,
    /// Hashes phone numbers that one-time codes are sent to.
    PhoneNumbers,
    /// Hashes one-time codes.
    OneTimeCodes,
    /// Marks the store that several servers share.
    StoreMark,
}

impl MasterKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads 64 hexadecimal digits; `None` if the text is anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        bytes_of_hex(text).map(Self::new)
    }

    /// The key as 64 hexadecimal digits, for the file that keeps it. Nowhere else.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex(&*self.0))
    }

    /// What tells this key from others and nothing about it: 32 hexadecimal digits, for a store that servers share.
    pub fn mark(&self) -> String {
        let mut mark = hex(&*self.derive(Purpose::StoreMark));
        mark.truncate(32);
        mark
    }

    /// What authenticates under the key of a purpose.
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    pub(crate) fn hmac(&self, purpose: Purpose) -> Hmac<Sha256> {
        Hmac::new_from_slice(&*self.derive(purpose)).expect("HMAC takes keys of any length")
    }

    /// The key for a purpose. Never for a log or the disk.
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "32 bytes are within what HKDF can expand to")]
    pub fn derive(&self, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        let label = match purpose {
            Purpose::ResumeTokens => "bluetrace resume tokens v1",
            Purpose::AccessTokens => "bluetrace access tokens v1",
            Purpose::Withdrawals => "bluetrace withdrawals v1",
            Purpose::WrapSealingKeys => "bluetrace wrap sealing keys v1",
            Purpose::UploadTokens => "bluetrace upload tokens v1",
            Purpose::UploadCodes => "bluetrace upload codes v1",
            Purpose::Cookies => "bluetrace cookies v1",
            Purpose::HandshakePins => "bluetrace handshake pins v1",
            Purpose::PhoneNumbers => "bluetrace phone numbers v1",
            Purpose::OneTimeCodes => "bluetrace one-time codes v1",
            Purpose::StoreMark => "bluetrace store mark v1",
        };
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, &*self.0).expand(label.as_bytes(), &mut *key).expect("32 <= 255 * 32");
        key
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_key_survives_its_text_and_other_texts_are_none() {
        let text = MasterKey::new([0xa7; 32]).to_hex();
        assert_eq!(*text, "a7".repeat(32));
        assert_eq!(MasterKey::from_hex(&text).unwrap().to_hex(), text);
        for other in ["", "a7", &"a7".repeat(33), &"+7".repeat(32), &"é".repeat(32)] {
            assert!(MasterKey::from_hex(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_mark_is_of_one_key_and_no_part_of_its_text() {
        let [one, other] = [7, 8].map(|byte| MasterKey::new([byte; 32]));
        assert_eq!(one.mark(), MasterKey::new([7; 32]).mark());
        assert_ne!(one.mark(), other.mark());
        assert_eq!(one.mark().len(), 32);
        assert!(!one.to_hex().contains(&one.mark()));
    }

    #[test]
    fn no_two_purposes_and_no_two_master_keys_have_a_key_in_common() {
        let purposes = [
            Purpose::ResumeTokens,
            Purpose::AccessTokens,
            Purpose::WrapSealingKeys,
            Purpose::UploadTokens,
            Purpose::UploadCodes,
            Purpose::Cookies,
            Purpose::PhoneNumbers,
            Purpose::OneTimeCodes,
            Purpose::StoreMark,
        ];
        let masters = [MasterKey::new([7; 32]), MasterKey::new([8; 32])];
        let keys: HashSet<_> =
            masters.iter().flat_map(|master| purposes.map(|purpose| *master.derive(purpose))).collect();
        assert_eq!(keys.len(), masters.len() * purposes.len());
    }
}
