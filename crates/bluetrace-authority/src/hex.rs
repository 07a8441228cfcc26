//! Owns bytes as text: [`hex`]. The way back is the protocol crate's `bytes_of_hex`.

use std::fmt::Write as _;

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // writing to a string does not fail
        _ = write!(text, "{byte:02x}");
        text
    })
}
