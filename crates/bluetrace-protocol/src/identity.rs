//! Owns the names and secrets that people and devices bring: [`Username`], [`Password`], [`UploadId`], [`UploadCode`],
//! [`ResumeToken`], [`HandshakePin`].
//!
//! A username is a phone number in the field, so none of these has a `Display`, and each `Debug` is redacted.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits::{MAX_HANDSHAKE_PIN, MAX_PASSWORD, MAX_RESUME_TOKEN, MAX_UPLOAD_CODE, MAX_UPLOAD_ID, MAX_USERNAME};

/// Who logs in: 1 to 64 printable ASCII characters without spaces (PROTOCOL section 4.2). Matched byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Username(Box<str>);

/// A password as typed: at most 256 bytes of UTF-8 without line ends. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

/// A device's name for one upload: 1 to 64 printable ASCII characters without spaces, a UUID's text by custom.
///
/// It belongs to the account that uses it: two accounts may choose the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(Box<str>);

/// An upload code as typed: at most 64 bytes. Wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadCode(Zeroizing<String>);

/// What continues a session without a password (PROTOCOL section 4.6): at most 256 printable ASCII characters without
/// spaces.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeToken(Box<str>);

/// What proves a health official to a device's owner (PROTOCOL section 4.8): 1 to 16 printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq)]
pub struct HandshakePin(Box<str>);

/// Why a text is not a name of the kind asked for. The text itself is never part of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Not a [`Username`].
    #[error("a username is 1 to 64 printable ASCII characters without spaces")]
    Username,
    /// Not a [`Password`].
    #[error("a password is at most 256 bytes")]
    Password,
    /// Not an [`UploadId`].
    #[error("an upload id is 1 to 64 printable ASCII characters without spaces")]
    UploadId,
}

impl Username {
    /// Reads a username.
    ///
    /// # Errors
    /// [`IdentityError::Username`] unless it is 1 to 64 printable ASCII characters without spaces.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if is_graphic(text, MAX_USERNAME) { Ok(Self(text.into())) } else { Err(IdentityError::Username) }
    }

    /// The name as it goes on the wire, into the store or onto a console. Never into a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Password {
    /// Reads a password.
    ///
    /// # Errors
    /// [`IdentityError::Password`] if it is longer than 256 bytes.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if text.len() <= MAX_PASSWORD { Ok(Self(Zeroizing::new(text.into()))) } else { Err(IdentityError::Password) }
    }

    /// The password, for the wire and the hash. Nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl UploadId {
    /// Reads an upload id.
    ///
    /// # Errors
    /// [`IdentityError::UploadId`] unless it is 1 to 64 printable ASCII characters without spaces.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if is_graphic(text, MAX_UPLOAD_ID) { Ok(Self(text.into())) } else { Err(IdentityError::UploadId) }
    }

    /// The id as it goes on the wire or into the store.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl UploadCode {
    /// Reads an upload code; `None` if it is longer than 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() <= MAX_UPLOAD_CODE).then(|| Self(Zeroizing::new(text.into())))
    }

    /// The code, for comparison. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl ResumeToken {
    /// Reads a resume token; `None` unless it is 1 to 256 printable ASCII characters without spaces.
    pub fn parse(text: &str) -> Option<Self> {
        is_graphic(text, MAX_RESUME_TOKEN).then(|| Self(text.into()))
    }

    /// The token, for the wire. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl HandshakePin {
    /// Reads a PIN; `None` unless it is 1 to 16 printable ASCII characters without spaces.
    pub fn parse(text: &str) -> Option<Self> {
        is_graphic(text, MAX_HANDSHAKE_PIN).then(|| Self(text.into()))
    }

    /// The PIN, for the wire and for the eyes it is meant for. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Username(..)")
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadId(..)")
    }
}

impl fmt::Debug for UploadCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadCode(..)")
    }
}

impl fmt::Debug for HandshakePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandshakePin(..)")
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeToken(..)")
    }
}

fn is_graphic(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn usernames_are_1_to_64_printable_ascii_characters_without_spaces() {
        assert!(Username::parse("+61410999999").is_ok());
        assert!(Username::parse(&"x".repeat(MAX_USERNAME)).is_ok());
        for text in ["", "a b", "a\tb", "é", "a\u{7f}", &"x".repeat(MAX_USERNAME + 1)] {
            assert_eq!(Username::parse(text), Err(IdentityError::Username), "{text:?}");
        }
    }

    #[test]
    fn passwords_are_at_most_256_bytes() {
        assert!(Password::parse(&"x".repeat(MAX_PASSWORD)).is_ok());
        assert!(Password::parse(&"x".repeat(MAX_PASSWORD + 1)).is_err());
    }

    #[test]
    fn handshake_pins_are_1_to_16_printable_ascii_characters_without_spaces() {
        assert!(HandshakePin::parse(&"X".repeat(MAX_HANDSHAKE_PIN)).is_some());
        for text in ["", "a b", "é", &"X".repeat(MAX_HANDSHAKE_PIN + 1)] {
            assert_eq!(HandshakePin::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            Username::parse("+61410999999"),
            Password::parse("secret"),
            UploadId::parse("u-1"),
            UploadCode::parse("123456"),
            ResumeToken::parse("token"),
            HandshakePin::parse("H7QX4C")
        );
        let redacted = "Ok(Username(..)) Ok(Password(..)) Ok(UploadId(..)) Some(UploadCode(..)) Some(ResumeToken(..)) \
                        Some(HandshakePin(..))";
        assert_eq!(shown, redacted);
    }
}
