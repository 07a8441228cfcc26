//! Owns how a sealing key is wrapped for the store: under a key that comes of the master key, together with its name and the time
//! in which it seals, so that a row of the store cannot be passed off as another.

use aes_gcm::aead::consts::U16;
use aes_gcm::aes::Aes256;
use aes_gcm::{AeadInOut as _, AesGcm, KeyInit as _};
use bluetrace_protocol::SealingKey;
use bluetrace_protocol::sealed::{IV_BYTES, KEY_BYTES};
use zeroize::Zeroizing;

use crate::keys::{MasterKey, Purpose};
use crate::store::{KeyTerm, SealingKeyId, WrappedKey};

/// The key that wraps sealing keys.
pub(crate) struct Wrapping(AesGcm<Aes256, U16>);

impl Wrapping {
    pub(crate) fn new(master_key: &MasterKey) -> Self {
        Self(AesGcm::new((&*master_key.derive(Purpose::WrapSealingKeys)).into()))
    }

    #[expect(clippy::expect_used, reason = "GCM refuses what is longer than 64 GiB, and nothing else")]
    pub(crate) fn wrap(
        &self,
        key: &[u8; KEY_BYTES],
        id: SealingKeyId,
        term: KeyTerm,
        iv: [u8; IV_BYTES],
    ) -> WrappedKey {
        let mut bytes = Zeroizing::new(*key);
        let tag = self
            .0
            .encrypt_inout_detached(&iv.into(), &associated(id, term), bytes.as_mut_slice().into())
            .expect("32 bytes are few");
        let mut wrapped = WrappedKey([0; _]);
        let parts = iv.iter().chain(&*bytes).chain(&tag);
        wrapped.0.iter_mut().zip(parts).for_each(|(place, byte)| *place = *byte);
        wrapped
    }

    /// `None` if it was wrapped under another master key, for another name or term, or has been changed.
    pub(crate) fn unwrap(&self, wrapped: &WrappedKey, id: SealingKeyId, term: KeyTerm) -> Option<SealingKey> {
        let (iv, rest) = wrapped.0.split_first_chunk::<IV_BYTES>()?;
        let (bytes, tag) = rest.split_first_chunk::<KEY_BYTES>()?;
        let mut bytes = Zeroizing::new(*bytes);
        let tag: [u8; 16] = tag.try_into().ok()?;
        self.0
            .decrypt_inout_detached(iv.into(), &associated(id, term), bytes.as_mut_slice().into(), &tag.into())
            .ok()?;
        Some(SealingKey::new(&bytes))
    }
}

/// What a wrapped key is tied to: its name, and when it seals.
fn associated(id: SealingKeyId, term: KeyTerm) -> [u8; 24] {
    let mut bytes = [0; 24];
    let numbers = [id.0, term.issues_from.as_unix(), term.issues_until.as_unix()];
    bytes.iter_mut().zip(numbers.iter().flat_map(|number| number.to_be_bytes())).for_each(|(to, from)| *to = from);
    bytes
}
