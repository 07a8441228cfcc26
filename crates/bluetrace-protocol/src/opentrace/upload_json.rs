//! Owns the body of an upload as apps derived from `OpenTrace` send it: one JSON object, cut into its records as it streams by
//! ([`UploadJson`]).
//!
//! `{"token": "...", "records": [...], "events": [...]}`, with its keys in any order (Android's app sends the token last); the
//! values of other keys are passed over. What is looked at is the structure alone: which bytes are a record. What a record says
//! is [`judge`](super::judge)'s to read, and so no record, whatever is wrong within it, is the upload's failure.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::mem::take;

use memchr::{memchr, memchr2};
use thiserror::Error;

use crate::limits::{MAX_UPLOAD_JSON_KEY, MAX_UPLOAD_JSON_RECORD, MAX_UPLOAD_JSON_TOKEN};

/// Cuts a body into its records, and holds no more of it than one record.
#[derive(Default)]
pub struct UploadJson {
    place: Place,
    value: ValueScan,
    /// The beginning of a key, a record or the token whose end has not come yet. Invariant: no longer than its limit.
    kept: Vec<u8>,
    /// Whether what was begun is longer than that, so that nothing of it is kept.
    is_too_long: bool,
    token: Option<Token>,
    records: Option<Records>,
}

/// One element of `records`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Element<'a> {
    /// Its bytes, without the white space around it. They need be neither JSON nor UTF-8, and may be none.
    Bytes(&'a [u8]),
    /// It was longer than [`MAX_UPLOAD_JSON_RECORD`].
    TooLong,
}

/// What a body holds beside its records.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The text of `token`; `None` if there is none, or it is no text of at most [`MAX_UPLOAD_JSON_TOKEN`] bytes of JSON.
    pub token: Option<String>,
    /// Whether there is a list of `records`.
    pub has_records: bool,
}

/// Why the bytes are no upload: they are not JSON of its form. What had been a record until then was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UploadJsonError {
    /// Something stands where JSON has something else.
    #[error("not a JSON object")]
    Broken,
    /// The object has not ended.
    #[error("the JSON object has no end")]
    Cut,
    /// It names `token` or `records` twice.
    #[error("`token` or `records` stands in it twice")]
    Twice,
}

/// Where in the object the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Before,
    Key {
        is_first: bool,
    },
    /// In a value that is passed over.
    Other,
    Token,
    /// Before the value of `records`.
    Records,
    /// In the list of records.
    Elements {
        is_first: bool,
    },
    /// Behind the list.
    AfterRecords,
    After,
}

/// The value of `token`, once there was one.
struct Token(Option<String>);

#[derive(PartialEq, Eq)]
enum Records {
    List,
    Other,
}

/// How far into a value the bytes are: enough to know where it ends, and no more.
#[derive(Default)]
struct ValueScan {
    depth: u64,
    is_in_text: bool,
    is_escaped: bool,
}

impl UploadJson {
    /// Takes bytes, and hands out every record that ends in them.
    ///
    /// # Errors
    /// [`UploadJsonError`] if this is no upload. Nothing more is to be taken then.
    pub fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Element<'_>)) -> Result<(), UploadJsonError> {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Before => {
                    let rest = after_space(bytes);
                    match rest.split_first() {
                        None => rest,
                        Some((b'{', rest)) => {
                            self.place = Place::Key { is_first: true };
                            rest
                        }
                        Some(_) => return Err(UploadJsonError::Broken),
                    }
                }
                Place::Records => {
                    let rest = after_space(bytes);
                    if let Some((b'[', rest)) = rest.split_first() {
                        self.records = Some(Records::List);
                        self.place = Place::Elements { is_first: true };
                        rest
                    } else {
                        if !rest.is_empty() {
                            self.records = Some(Records::Other);
                            self.place = Place::Other;
                        }
                        rest
                    }
                }
                Place::After if after_space(bytes).is_empty() => &[],
                Place::After => return Err(UploadJsonError::Broken),
                Place::Key { .. } | Place::Other | Place::Token | Place::Elements { .. } | Place::AfterRecords => {
                    self.take_part(bytes, &mut each)?
                }
            };
        }
        Ok(())
    }

    /// `token`, if that has been there: its text, or `None` of what is no text of at most [`MAX_UPLOAD_JSON_TOKEN`] bytes.
    pub fn token(&self) -> Option<Option<&str>> {
        self.token.as_ref().map(|Token(token)| token.as_deref())
    }

    /// What else the body held, when it has come to its end.
    ///
    /// # Errors
    /// [`UploadJsonError::Cut`] if the object has not ended.
    pub fn end(self) -> Result<Envelope, UploadJsonError> {
        if self.place != Place::After {
            return Err(UploadJsonError::Cut);
        }
        let token = self.token.and_then(|Token(token)| token);
        Ok(Envelope { token, has_records: self.records == Some(Records::List) })
    }

    /// Takes bytes up to the end of the key or value that they are in, and returns those behind it.
    fn take_part<'a>(
        &mut self,
        bytes: &'a [u8],
        each: &mut impl FnMut(Element<'_>),
    ) -> Result<&'a [u8], UploadJsonError> {
        let most = match self.place {
            Place::Key { .. } => MAX_UPLOAD_JSON_KEY,
            Place::Token => MAX_UPLOAD_JSON_TOKEN,
            Place::Elements { .. } => MAX_UPLOAD_JSON_RECORD,
            // that nothing stands behind the list is seen from its first byte
            Place::AfterRecords => 1,
            Place::Before | Place::Other | Place::Records | Place::After => 0,
        };
        let Some((part, end, rest)) = self.value.split_at_end(bytes) else {
            self.keep(bytes, most);
            return Ok(&[]);
        };
        let is_begun = !self.kept.is_empty() || self.is_too_long;
        let part = if is_begun { part } else { without_space_behind(after_space(part)) };
        if !is_begun && part.len() <= most {
            self.take_end(Some(part), end, each)?;
        } else {
            self.keep(part, most);
            let (part, is_too_long) = (take(&mut self.kept), take(&mut self.is_too_long));
            self.take_end((!is_too_long).then_some(&*part), end, each)?;
            self.kept = part;
            self.kept.clear();
        }
        Ok(rest)
    }

    /// Takes a key or value, with the byte that ended it; `None` if it was too long to keep.
    fn take_end(
        &mut self,
        part: Option<&[u8]>,
        end: u8,
        each: &mut impl FnMut(Element<'_>),
    ) -> Result<(), UploadJsonError> {
        let part = part.map(without_space_behind);
        let is_blank = part.is_some_and(<[u8]>::is_empty);
        self.place = match (self.place, end) {
            (Place::Key { is_first: true }, b'}') if is_blank => Place::After,
            (Place::Key { .. }, b':') => self.place_behind(part)?,
            (Place::Elements { is_first: true }, b']') if is_blank => Place::AfterRecords,
            (Place::Elements { .. }, b',' | b']') => {
                each(part.map_or(Element::TooLong, Element::Bytes));
                if end == b']' { Place::AfterRecords } else { Place::Elements { is_first: false } }
            }
            (Place::AfterRecords, _) if !is_blank => return Err(UploadJsonError::Broken),
            (Place::Token | Place::Other, _) if is_blank => return Err(UploadJsonError::Broken),
            (Place::Token | Place::Other | Place::AfterRecords, b',' | b'}') => {
                if self.place == Place::Token {
                    self.token = Some(Token(part.and_then(|json| serde_json::from_slice(json).ok())));
                }
                if end == b'}' { Place::After } else { Place::Key { is_first: false } }
            }
            _ => return Err(UploadJsonError::Broken),
        };
        Ok(())
    }

    /// Where the value of a key is.
    fn place_behind(&self, key: Option<&[u8]>) -> Result<Place, UploadJsonError> {
        // a key that is too long is none that is known
        let Some(key) = key else { return Ok(Place::Other) };
        let key: String = serde_json::from_slice(key).map_err(|_| UploadJsonError::Broken)?;
        match &*key {
            "token" if self.token.is_none() => Ok(Place::Token),
            "records" if self.records.is_none() => Ok(Place::Records),
            "token" | "records" => Err(UploadJsonError::Twice),
            _ => Ok(Place::Other),
        }
    }

    /// Keeps bytes of what is begun. White space around it is no part of it, however much there is.
    fn keep(&mut self, bytes: &[u8], most: usize) {
        if self.is_too_long {
            return;
        }
        let bytes = if self.kept.is_empty() { after_space(bytes) } else { bytes };
        let room = most.saturating_sub(self.kept.len());
        if without_space_behind(bytes).len() > room {
            self.is_too_long = true;
            self.kept.clear();
        } else {
            self.kept.extend(bytes.iter().take(room));
        }
    }
}

impl ValueScan {
    /// Finds the byte that ends the value: a `,`, `]`, `}` or `:` that is neither within brackets nor in a text. Returns what is
    /// before it, the byte, and what is behind it; `None` if the value goes on.
    fn split_at_end<'a>(&mut self, bytes: &'a [u8]) -> Option<(&'a [u8], u8, &'a [u8])> {
        let is_outside = self.depth == 0 && !self.is_in_text;
        let mut rest = if is_outside { after_flat_object(after_space(bytes)) } else { bytes };
        loop {
            if self.is_in_text {
                rest = self.after_text(rest)?;
            }
            let next = rest.iter().position(|byte| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']' | b',' | b':'))?;
            let (byte, behind) = rest.get(next..)?.split_first()?;
            match byte {
                b'"' => self.is_in_text = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                end if self.depth == 0 => {
                    let length = bytes.len().saturating_sub(behind.len()).saturating_sub(1);
                    return Some((bytes.get(..length)?, *end, behind));
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            rest = behind;
        }
    }

    /// What is behind the text that the bytes are in; `None` if it goes on.
    fn after_text<'a>(&mut self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        loop {
            if take(&mut self.is_escaped) {
                bytes = bytes.split_first().map_or_else(
                    || {
                        self.is_escaped = true;
                        None
                    },
                    |(_, rest)| Some(rest),
                )?;
            }
            let (byte, rest) = bytes.get(memchr2(b'"', b'\\', bytes)?..)?.split_first()?;
            bytes = rest;
            if *byte == b'"' {
                self.is_in_text = false;
                return Some(bytes);
            }
            self.is_escaped = true;
        }
    }
}

/// What is behind the object that bytes begin with, where it is short and flat, as the records of apps are: so it need not be walked
/// through text by text. Of all else, and of an object that may be otherwise, nothing is passed over.
fn after_flat_object(bytes: &[u8]) -> &[u8] {
    let Some((b'{', rest)) = bytes.split_first() else { return bytes };
    let near = rest.get(..MAX_FLAT_OBJECT).unwrap_or(rest);
    let Some((object, behind)) = memchr(b'}', near).and_then(|end| rest.split_at_checked(end)) else { return bytes };
    // a bracket may stand in a text, and so may the end; and an escaped quote ends none: then it is walked through. Bits are folded
    // without a branch, so that many bytes are looked at together
    let quotes = object.iter().fold(0, |odd, byte| odd ^ u8::from(*byte == b'"'));
    let is_nested = object
        .iter()
        .fold(0, |any, byte| any | u8::from(*byte == b'{') | u8::from(*byte == b'[') | u8::from(*byte == b']'));
    let pairs = object.iter().zip(object.get(1..).unwrap_or_default());
    let is_escape = |byte: u8, next: u8| u8::from(byte == b'\\') & (u8::from(next == b'"') | u8::from(next == b'\\'));
    let escapes = pairs.fold(0, |any, (byte, next)| any | is_escape(*byte, *next));
    if quotes | is_nested | escapes == 0 { behind.get(1..).unwrap_or_default() } else { bytes }
}

/// The longest object that is looked at as a whole: those of apps have about 220 bytes.
const MAX_FLAT_OBJECT: usize = 512;

/// What is behind the white space of JSON.
fn after_space(bytes: &[u8]) -> &[u8] {
    let space = bytes.iter().take_while(|byte| is_space(**byte)).count();
    bytes.get(space..).unwrap_or_default()
}

fn without_space_behind(bytes: &[u8]) -> &[u8] {
    let space = bytes.iter().rev().take_while(|byte| is_space(**byte)).count();
    bytes.get(..bytes.len().saturating_sub(space)).unwrap_or_default()
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl fmt::Debug for UploadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadJson").field("place", &self.place).finish_non_exhaustive()
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes(_) => "Bytes(..)",
            Self::TooLong => "TooLong",
        })
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("has_records", &self.has_records).finish_non_exhaustive()
    }
}
