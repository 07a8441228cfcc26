//! Owns the sealed `TempID` (PROTOCOL section 7), which is `OpenTrace`'s, byte for byte: [`SealingKey`], [`Uid`],
//! [`SealedTempId`].
//!
//! ```text
//! blob, 61 bytes        0 ................ 29 ....... 45 ...... 61      its text: standard base64, padded, 84 characters
//!                       | ciphertext       | IV       | tag     |
//! plaintext, 29 bytes   0 ........ 21 ...... 25 ...... 29
//!                       | user id  | start   | expiry  |               seconds since 1970, int32, big-endian
//! ```
//!
//! AES-256-GCM with an IV of 16 bytes, drawn anew for each id, and no additional data. There is no version and no name
//! of the key in it: who has several keys tries them.
//!
//! What stands here is strict: one text for one id. [`reference`](mod@reference) holds what the reference implementation
//! accepts beyond that.

pub mod reference;

use alloc::boxed::Box;
use alloc::string::String;
use core::{fmt, str};

use aes::Aes256Enc;
use aes_gcm::aead::consts::U16;
use aes_gcm::{AeadInOut as _, AesGcm, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand_core::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits::{SEALED_CHARACTERS, UID_CHARACTERS};
use crate::record::TempId;
use crate::time::{Timestamp, Window};

/// Bytes of a sealed `TempID`.
pub const SEALED_BYTES: usize = PLAINTEXT_BYTES + IV_BYTES + TAG_BYTES;

/// Bytes of a [`Uid`].
pub const UID_BYTES: usize = 21;

/// Bytes of an IV.
pub const IV_BYTES: usize = 16;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Seals and opens `TempIDs`.
///
/// It holds what is derived from the key's 32 bytes, on the heap, and wipes that when dropped. One key may seal 2^31
/// ids at the most: IVs are random, and two that are alike give both ids away (NIST SP 800-38D, section 8.3).
///
/// ```
/// use bluetrace_protocol::sealed::{SealedTempId, SealingKey, Uid};
///
/// let key = SealingKey::new(&[7; 32]);
/// let uid = Uid::parse("ABCDEFGHIJKLMNOPQRSTUVWXYZab")?;
/// let sealed = key.seal(&uid, 1_586_390_340, 1_586_391_240, [9; 16]); // a real IV is random
/// let opened = key.open(&SealedTempId::parse(&sealed.reveal())?)?;
/// assert_eq!((opened.uid, opened.start, opened.expiry), (uid, 1_586_390_340, 1_586_391_240));
/// # Ok::<(), bluetrace_protocol::sealed::SealedError>(())
/// ```
pub struct SealingKey(Box<Cipher>);

/// Whose a sealed `TempID` is: 21 bytes, whose text is 28 characters of `[A-Za-z0-9+/]`.
///
/// Bytes and text say the same: each has exactly one of the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid([u8; UID_BYTES]);

/// A sealed `TempID`: 61 bytes of the right form, which some key may open or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealedTempId([u8; SEALED_BYTES]);

/// What a sealed `TempID` says to who has its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opened {
    /// Whose it is.
    pub uid: Uid,
    /// First second in which it is valid, since 1970. Whoever has the key can seal any, also an expiry before its start.
    pub start: i32,
    /// Last second in which it is valid, since 1970.
    pub expiry: i32,
}

/// Why there is nothing to read. No text and no key is ever part of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealedError {
    /// Not the text of a [`SealedTempId`].
    #[error("not 84 characters of canonical base64")]
    Text,
    /// Not the text of a [`Uid`].
    #[error("a user id is 28 characters of A-Z, a-z, 0-9, + and /")]
    Uid,
    /// This key did not seal it, or it has been changed since.
    #[error("the key does not open it")]
    NotOurs,
}

impl SealingKey {
    /// The key of these bytes.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Box::new(Cipher::new(bytes.into())))
    }

    /// Reads 64 hexadecimal digits; `None` if the text is anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(bytes_of_hex::<KEY_BYTES>(text)?);
        Some(Self::new(&bytes))
    }

    /// Seals a user id and its window. The IV must never have been used with this key before: see [`random_iv`].
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "GCM refuses what is longer than 64 GiB, and nothing else"
    )]
    pub fn seal(&self, uid: &Uid, start: i32, expiry: i32, iv: [u8; IV_BYTES]) -> SealedTempId {
        let mut bytes = [0; SEALED_BYTES];
        let (text, rest) = bytes.split_at_mut(PLAINTEXT_BYTES);
        let (of_uid, times) = text.split_at_mut(UID_BYTES);
        let (of_start, of_expiry) = times.split_at_mut(TIME_BYTES);
        of_uid.copy_from_slice(&uid.0);
        of_start.copy_from_slice(&start.to_be_bytes());
        of_expiry.copy_from_slice(&expiry.to_be_bytes());
        let tag = self.0.encrypt_inout_detached(&iv.into(), &[], text.into()).expect("29 bytes are few");
        let (of_iv, of_tag) = rest.split_at_mut(IV_BYTES);
        of_iv.copy_from_slice(&iv);
        of_tag.copy_from_slice(&tag);
        SealedTempId(bytes)
    }

    /// Opens an id.
    ///
    /// # Errors
    /// [`SealedError::NotOurs`] unless this key sealed exactly this.
    pub fn open(&self, sealed: &SealedTempId) -> Result<Opened, SealedError> {
        self.opened(sealed.0).ok_or(SealedError::NotOurs)
    }

    fn opened(&self, mut bytes: [u8; SEALED_BYTES]) -> Option<Opened> {
        let (text, rest) = bytes.split_at_mut(PLAINTEXT_BYTES);
        let (iv, tag) = rest.split_first_chunk::<IV_BYTES>()?;
        let tag: [u8; TAG_BYTES] = (*tag).try_into().ok()?;
        self.0.decrypt_inout_detached(&(*iv).into(), &[], text.into(), &tag.into()).ok()?;
        Opened::read(text)
    }
}

/// Draws an IV.
pub fn random_iv(generator: &mut impl CryptoRng) -> [u8; IV_BYTES] {
    let mut iv = [0; IV_BYTES];
    generator.fill_bytes(&mut iv);
    iv
}

/// A moment as a sealed `TempID` can hold it: `None` after 2038-01-19 03:14:07 UTC, the last second of an int32.
pub fn wire_seconds(moment: Timestamp) -> Option<i32> {
    i32::try_from(moment.as_unix()).ok()
}

impl Uid {
    /// Reads a user id.
    ///
    /// # Errors
    /// [`SealedError::Uid`] unless the text is 28 characters of `[A-Za-z0-9+/]`.
    pub fn parse(text: &str) -> Result<Self, SealedError> {
        let mut bytes = [0; UID_BYTES];
        let is_uid = text.len() == UID_CHARACTERS && STANDARD.decode_slice(text, &mut bytes) == Ok(UID_BYTES);
        if is_uid { Ok(Self(bytes)) } else { Err(SealedError::Uid) }
    }

    /// The user id of these bytes.
    pub const fn from_bytes(bytes: [u8; UID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for the store. Never for a log.
    pub const fn as_bytes(&self) -> &[u8; UID_BYTES] {
        &self.0
    }

    /// Draws one whose text is of letters and digits alone, as other programs expect it. All such are equally likely.
    pub fn random(generator: &mut impl CryptoRng) -> Self {
        loop {
            let mut uid = Self([0; UID_BYTES]);
            generator.fill_bytes(&mut uid.0);
            // two draws of five pass
            if uid.text().iter().all(u8::is_ascii_alphanumeric) {
                return uid;
            }
        }
    }

    /// The user id's text, for another program. Never for a log.
    pub fn reveal(&self) -> String {
        // ASCII throughout, so never the default
        str::from_utf8(&self.text()).unwrap_or_default().into()
    }

    fn text(&self) -> [u8; UID_CHARACTERS] {
        let mut text = [0; UID_CHARACTERS];
        // 28 characters are what 21 bytes need
        _ = STANDARD.encode_slice(self.0, &mut text);
        text
    }
}

impl SealedTempId {
    /// Reads the one text that an id has.
    ///
    /// # Errors
    /// [`SealedError::Text`] unless it is 84 characters of standard base64 that end in `==`, spare bits zero.
    pub fn parse(text: &str) -> Result<Self, SealedError> {
        Self::read(text.as_bytes()).ok_or(SealedError::Text)
    }

    /// The same, of what need not be text.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        // what `base64` wants to have room for, and not what it writes
        let mut bytes = [0; SEALED_CHARACTERS / 4 * 3];
        if text.len() != SEALED_CHARACTERS {
            return None;
        }
        let written = STANDARD.decode_slice(text, &mut bytes).ok()?;
        Self::from_slice(bytes.get(..written)?)
    }

    /// The id of exactly 61 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its 61 bytes.
    pub const fn as_bytes(&self) -> &[u8; SEALED_BYTES] {
        &self.0
    }

    /// Its text, for the wire or the store. Never for a log.
    pub fn reveal(&self) -> String {
        TempId::from(self).reveal().into()
    }

    /// Writes the characters of its text.
    pub(crate) fn encode(&self, text: &mut [u8; SEALED_CHARACTERS]) {
        // 84 characters are what 61 bytes need
        _ = STANDARD.encode_slice(self.0, text);
    }
}

impl Opened {
    /// Its window, as this protocol has them: `None` before 1970, of an expiry before its start, and of more than a day.
    pub fn window(&self) -> Option<Window> {
        let moment = |seconds: i32| Timestamp::from_unix(seconds.into());
        Window::new(moment(self.start)?, moment(self.expiry)?).ok()
    }

    fn read(text: &[u8]) -> Option<Self> {
        let (uid, times) = text.split_first_chunk()?;
        let (start, expiry) = times.split_first_chunk()?;
        let expiry = i32::from_be_bytes(expiry.try_into().ok()?);
        Some(Self { uid: Uid(*uid), start: i32::from_be_bytes(*start), expiry })
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uid(..)")
    }
}

impl fmt::Debug for SealedTempId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedTempId(..)")
    }
}

/// Reads `2 * N` hexadecimal digits; `None` if the text is anything else.
pub fn bytes_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(high)?.wrapping_shl(4) | digit(low)?;
    }
    Some(bytes)
}

/// Only encryption of blocks is needed in counter mode, so that half of the key schedule is left out.
type Cipher = AesGcm<Aes256Enc, U16>;

const TIME_BYTES: usize = 4;
const PLAINTEXT_BYTES: usize = UID_BYTES + 2 * TIME_BYTES;
const TAG_BYTES: usize = 16;
