//! Any stream: however it is cut on its way, the same lines come out of it, and the same error ends them.
#![no_main]

use bluetrace_protocol::frame::{FrameError, LineDecoder};
use bluetrace_protocol::limits::MAX_LINE;
use libfuzzer_sys::fuzz_target;

fn lines(stream: &[u8], step: usize) -> (Vec<String>, Result<(), FrameError>) {
    let (mut decoder, mut lines) = (LineDecoder::new(), Vec::new());
    for piece in stream.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_line() {
                Ok(Some(line)) => lines.push(line.to_owned()),
                Ok(None) => break,
                Err(error) => return (lines, Err(error)),
            }
        }
    }
    (lines, Ok(()))
}

fuzz_target!(|input: (u16, u16, Vec<u8>)| {
    let (step, repeat, piece) = input;
    // long enough to meet the longest line
    let stream = piece.repeat(usize::from(repeat).min(4 * MAX_LINE / piece.len().max(1)).max(1));
    let (whole, ended) = lines(&stream, stream.len().max(1));
    assert!(whole.iter().all(|line| line.len() <= MAX_LINE && !line.contains('\n')));
    assert_eq!(lines(&stream, usize::from(step).max(1)), (whole, ended));
});
