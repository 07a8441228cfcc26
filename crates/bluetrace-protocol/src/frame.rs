//! Owns the cut from a stream of bytes into lines: [`LineDecoder`] (PROTOCOL section 4).

use alloc::vec::Vec;

use thiserror::Error;

use crate::limits::MAX_LINE;

/// Cuts a stream of bytes into UTF-8 lines ended by `\n` or `\r\n`, however the bytes were cut on their way.
///
/// It holds at most one line more than what it was given last. Invariant: `start <= scanned <= buffer.len()`, and no
/// line end lies in `start..scanned`.
///
/// ```
/// use bluetrace_protocol::frame::LineDecoder;
///
/// let mut decoder = LineDecoder::new();
/// decoder.push(b"first\r\nsec");
/// assert_eq!(decoder.next_line(), Ok(Some("first")));
/// assert_eq!(decoder.next_line(), Ok(None));
/// decoder.push(b"ond\n");
/// assert_eq!(decoder.next_line(), Ok(Some("second")));
/// ```
#[derive(Debug, Default)]
pub struct LineDecoder {
    buffer: Vec<u8>,
    /// Where the line begins that is not ended yet.
    start: usize,
    /// How far it has been looked through for its end.
    scanned: usize,
}

/// Why a stream cannot be cut into lines any further. Nothing that follows in it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A line is longer than [`MAX_LINE`].
    #[error("a line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// A line is not UTF-8.
    #[error("a line is not UTF-8 text")]
    NotText,
}

impl LineDecoder {
    /// A decoder that holds nothing, and no memory.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0 }
    }

    /// Appends bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unread().extend_from_slice(bytes);
    }

    /// The bytes that are not yet lines, for a reader that appends to them. It must do no more than append.
    pub fn unread(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.start);
        self.scanned = self.scanned.saturating_sub(self.start);
        self.start = 0;
        &mut self.buffer
    }

    /// The next whole line without its end, or `None` if the rest of it has yet to come.
    ///
    /// # Errors
    /// [`FrameError`]; the decoder is of no use afterwards.
    pub fn next_line(&mut self) -> Result<Option<&str>, FrameError> {
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(found) = memchr::memchr(b'\n', fresh) else {
            self.scanned = self.buffer.len();
            // the line end may still turn out to be `\r\n`
            let longest = MAX_LINE.saturating_add(1);
            return if self.scanned.saturating_sub(self.start) > longest { Err(FrameError::TooLong) } else { Ok(None) };
        };
        let end = self.scanned.saturating_add(found);
        let line = self.buffer.get(self.start..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.start = end.saturating_add(1);
        self.scanned = self.start;
        if line.len() > MAX_LINE {
            return Err(FrameError::TooLong);
        }
        core::str::from_utf8(line).map(Some).map_err(|_| FrameError::NotText)
    }

    /// Gives back memory beyond `keep` bytes. For a connection that falls silent.
    pub fn release(&mut self, keep: usize) {
        self.unread().shrink_to(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn a_line_may_be_16_kib_long_and_not_a_byte_longer() {
        for end in ["\n", "\r\n"] {
            let mut decoder = LineDecoder::new();
            decoder.push(&vec![b'x'; MAX_LINE]);
            assert_eq!(decoder.next_line(), Ok(None));
            decoder.push(end.as_bytes());
            assert_eq!(decoder.next_line().unwrap().map(str::len), Some(MAX_LINE));

            decoder.push(&vec![b'x'; MAX_LINE + 1]);
            decoder.push(end.as_bytes());
            assert_eq!(decoder.next_line(), Err(FrameError::TooLong));
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_memory() {
        let mut decoder = LineDecoder::new();
        decoder.push(&vec![b'x'; MAX_LINE + 2]);
        assert_eq!(decoder.next_line(), Err(FrameError::TooLong));
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_and_the_lines_before_them_are_not() {
        let mut decoder = LineDecoder::new();
        decoder.push(b"good\n\xff\xfe\n");
        assert_eq!(decoder.next_line(), Ok(Some("good")));
        assert_eq!(decoder.next_line(), Err(FrameError::NotText));
    }

    #[test]
    fn memory_is_given_back() {
        let mut decoder = LineDecoder::new();
        decoder.push(&vec![b'\n'; 10_000]);
        while decoder.next_line().unwrap().is_some() {}
        decoder.release(0);
        assert_eq!(decoder.unread().capacity(), 0);
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_its_lines_are_the_same(
            lines in proptest::collection::vec("[^\r\n]{0,40}", 0..20),
            cuts in proptest::collection::vec(1_usize..9, 1..60),
        ) {
            let stream: String = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect();
            let mut decoder = LineDecoder::new();
            let mut found = vec![];
            let mut rest = stream.as_bytes();
            let mut sizes = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                decoder.push(piece);
                rest = behind;
                while let Some(line) = decoder.next_line().unwrap() {
                    found.push(line.to_owned());
                }
            }
            prop_assert_eq!(found, lines);
            prop_assert_eq!(decoder.buffer.get(decoder.start..), Some(&[][..]), "nothing is left over");
        }
    }
}
