//! Owns what the reference implementation takes for a sealed `TempID` or a user id beyond their one text, because
//! interoperability tests and old uploads need it. Nothing but the compatible mode and the command line reads so.
//!
//! The reference decodes both with Node's `Buffer`, which never refuses a text. Its rules, each with the case of
//! `vectors/opentrace.json` or, where none has it, the observation that Node itself does so:
//!
//! | in the text | what happens | case |
//! |---|---|---|
//! | `-` and `_` | read as `+` and `/` | T008 |
//! | any other character, white space too | skipped | N027, T012 |
//! | a character above U+00FF | its low byte is read: `Ł` (U+0141) is an `A` | Node |
//! | `=` | ends the text, wherever it stands | Node |
//! | padding | not needed | N025 |
//! | spare bits, a last character alone | dropped | N028, T009 |
//!
//! and of the bytes that come out of it:
//!
//! | bytes | what happens | case |
//! |---|---|---|
//! | of a `TempID`, more than 61 | the rest is ignored | N022, N023 |
//! | of a `TempID`, 45 to 60 | zeros stand for what the tag lacks, so all but one in 256 of those cut by a byte fail | N013, N015 |
//! | of a `TempID`, fewer than 45 | none | N017, N018, N020 |
//! | of a user id, more than 21 | the rest is ignored, so that two long ones may be the same | T011 |
//! | of a user id, fewer than 21 | zeros follow: `A` when it is read back | T009, T010 |

use crate::sealed::{IV_BYTES, PLAINTEXT_BYTES, SEALED_BYTES, SealedTempId, UID_BYTES, Uid};

/// Reads a sealed `TempID` as the reference does; `None` where it fails before it tries a key.
pub fn sealed_as_reference(text: &str) -> Option<SealedTempId> {
    let mut bytes = [0; SEALED_BYTES];
    // the tag may be cut short
    if decode(text, &mut bytes) < PLAINTEXT_BYTES + IV_BYTES {
        return None;
    }
    SealedTempId::from_slice(&bytes)
}

/// The user id that the reference seals for a text: of 28 characters of `[A-Za-z0-9+/]` it is the one of that text.
pub fn uid_as_reference(text: &str) -> Uid {
    let mut bytes = [0; UID_BYTES];
    decode(text, &mut bytes);
    Uid::from_bytes(bytes)
}

/// Decodes as much as there is room for; how many bytes that are.
fn decode(text: &str, out: &mut [u8]) -> usize {
    let mut places = out.iter_mut();
    let (mut written, mut bits, mut held) = (0_usize, 0_u32, 0_u32);
    for unit in text.encode_utf16() {
        let [_, character] = unit.to_be_bytes();
        let value = match character {
            b'A'..=b'Z' => character.wrapping_sub(b'A'),
            b'a'..=b'z' => character.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => character.wrapping_sub(b'0').wrapping_add(52),
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = bits.wrapping_shl(6) | u32::from(value);
        held = held.wrapping_add(6);
        if held >= 8 {
            held = held.wrapping_sub(8);
            let Some(place) = places.next() else { break };
            let [.., byte] = bits.wrapping_shr(held).to_be_bytes();
            *place = byte;
            written = written.wrapping_add(1);
        }
    }
    written
}
