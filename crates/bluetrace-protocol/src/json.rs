//! Owns the walk through the fields of a JSON object ([`each_field`]), in one pass over its text and without a copy.
//!
//! An upload is made of small flat objects, of which a few fields are wanted. A derived reader takes more time for one than
//! to open the sealed `TempID` in it, so JSON's grammar stands here once more: what `serde_json` accepts is accepted, and nothing
//! else, which a property and a fuzz target hold. What devices do not write (objects within objects, rare escapes) is
//! left to `serde_json` itself.
//!
//! Each part of the grammar is a function that is given the bytes still to be read, and returns those behind the part, or `None` if
//! they begin otherwise.

use alloc::borrow::Cow;
use alloc::string::String;

use memchr::memchr;
use serde::de::IgnoredAny;

/// Walks through the fields of an object in their order, and hands out the name of each, also of those that come twice, and the
/// JSON text of its value.
///
/// `None` if the text is not one JSON object and nothing besides, or as soon as `each` has enough. What came before the fault has
/// been handed out then. There is no limit to the depth of values: they are walked through without recursion.
///
/// ```
/// use bluetrace_protocol::json::each_field;
///
/// let mut rssi = None;
/// let whole = each_field(r#"{"id": 3, "model": "Pixel 4", "rssi": -60}"#, |name, value| {
///     if name == b"rssi" {
///         rssi = Some(value);
///     }
///     Some(())
/// });
/// assert_eq!((whole, rssi), (Some(()), Some(&b"-60"[..])));
/// ```
pub fn each_field<'a>(object: &'a str, mut each: impl FnMut(&[u8], &'a [u8]) -> Option<()>) -> Option<()> {
    let mut rest = after(b'{', object.as_bytes())?;
    if let Some(behind) = after(b'}', rest) {
        return after_space(behind).is_empty().then_some(());
    }
    loop {
        let name = after(b'"', rest)?;
        let unescaped;
        let (name, behind) = if let end @ [b'"', behind @ ..] = after_plain(name) {
            (before(end, name)?, behind)
        } else {
            let behind = after_text(name)?;
            unescaped = text(before(behind, after_space(rest))?, &mut [])?;
            (&*unescaped, behind)
        };
        let value = after_space(after(b':', behind)?);
        rest = after_value(value)?;
        each(name, before(rest, value)?)?;
        let Some(behind) = after(b',', rest) else {
            return after_space(after(b'}', rest)?).is_empty().then_some(());
        };
        rest = behind;
    }
}

/// The text that a JSON string says, in UTF-8; `None` of any other JSON, and of a string that says no text, as one half of a
/// surrogate pair does not.
///
/// Android's app writes `=` as `\u003d`, and iOS's `/` as `\/`: a text that fits into `room` is put there without these.
pub fn text<'a>(json: &'a [u8], room: &'a mut [u8]) -> Option<Cow<'a, [u8]>> {
    let [b'"', written @ .., b'"'] = json else { return None };
    let Some(escape) = memchr(b'\\', written) else { return Some(written.into()) };
    let (mut piece, mut rest) = written.split_at_checked(escape)?;
    let mut length = 0_usize;
    loop {
        let end = length.checked_add(piece.len())?;
        let Some(place) = room.get_mut(length..end) else { break };
        place.copy_from_slice(piece);
        length = end;
        (piece, rest) = match rest {
            [] => return room.get(..length).map(Cow::Borrowed),
            [b'\\', b'u', b'0', b'0', b'3', b'd', rest @ ..] => (&b"="[..], rest),
            [b'\\', b'/', rest @ ..] => (&b"/"[..], rest),
            [b'\\', ..] => break,
            _ => rest.split_at_checked(memchr(b'\\', rest).unwrap_or(rest.len()))?,
        };
    }
    serde_json::from_slice(json).ok().map(|text: String| text.into_bytes().into())
}

/// What of a text lies before its end.
fn before<'a>(end: &[u8], text: &'a [u8]) -> Option<&'a [u8]> {
    text.get(..text.len().checked_sub(end.len())?)
}

fn after_space(mut rest: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', behind @ ..] = rest {
        rest = behind;
    }
    rest
}

/// Goes past a byte, with space before it.
fn after(byte: u8, rest: &[u8]) -> Option<&[u8]> {
    match rest {
        // devices write no space
        [next, behind @ ..] if *next == byte => Some(behind),
        _ => after_space(rest).split_first().and_then(|(next, behind)| (*next == byte).then_some(behind)),
    }
}

fn after_value(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [b'"', rest @ ..] => after_text(rest),
        [b'[' | b'{', ..] => {
            let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
            values.next()?.ok()?;
            rest.get(values.byte_offset()..)
        }
        [b'n', b'u', b'l', b'l', rest @ ..]
        | [b't', b'r', b'u', b'e', rest @ ..]
        | [b'f', b'a', b'l', b's', b'e', rest @ ..] => Some(rest),
        _ => after_number(rest),
    }
}

fn after_number(rest: &[u8]) -> Option<&[u8]> {
    let mut rest = match rest {
        [b'0', rest @ ..] | [b'-', b'0', rest @ ..] => rest,
        [b'-', digits @ ..] | digits => after_digits(digits)?,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = after_digits(fraction)?;
    }
    if let [b'e' | b'E', b'+' | b'-', exponent @ ..] | [b'e' | b'E', exponent @ ..] = rest {
        rest = after_digits(exponent)?;
    }
    Some(rest)
}

/// Goes past digits, of which there must be one.
fn after_digits(rest: &[u8]) -> Option<&[u8]> {
    let [b'0'..=b'9', rest @ ..] = rest else { return None };
    let mut rest = rest;
    while let [b'0'..=b'9', behind @ ..] = rest {
        rest = behind;
    }
    Some(rest)
}

/// Goes past a string whose first quote has been read.
fn after_text(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        rest = match after_plain(rest) {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest @ ..] => rest,
            [b'\\', b'u', a, b, c, d, rest @ ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => rest,
            // a control character, another escape, the end
            _ => return None,
        };
    }
}

/// Goes past what stands for itself in a string: all but quotes, backslashes and control characters.
fn after_plain(mut rest: &[u8]) -> &[u8] {
    while let Some((eight, behind)) = rest.split_first_chunk() {
        let special = first_special(u64::from_le_bytes(*eight));
        if special == 0 {
            rest = behind;
            continue;
        }
        let plain = usize::try_from(special.trailing_zeros() / u8::BITS).unwrap_or_default();
        return rest.get(plain..).unwrap_or_default();
    }
    while let [b' ' | b'!' | b'#'..=b'[' | b']'.., behind @ ..] = rest {
        rest = behind;
    }
    rest
}

/// Marks, of eight bytes, the lowest that does not stand for itself in a string, by its highest bit. Marks above it mean nothing.
const fn first_special(eight: u64) -> u64 {
    const fn all(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    // what is less borrows from its highest bit, and from the bytes above it
    const fn first_less(eight: u64, than: u8) -> u64 {
        eight.wrapping_sub(all(than)) & !eight & all(0x80)
    }
    first_less(eight, b' ') | first_less(eight ^ all(b'"'), 1) | first_less(eight ^ all(b'\\'), 1)
}
