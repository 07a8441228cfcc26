//! Owns `bluetrace tempid`: sealed `TempIDs` opened and made, a line in, a line out (PROTOCOL sections 6 and 7). It needs no
//! authority: other programs check with it that theirs are ours.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use bluetrace_protocol::limits::MAX_LINE;
use bluetrace_protocol::sealed::reference::{sealed_as_reference, uid_as_reference};
use bluetrace_protocol::sealed::{bytes_of_hex, random_iv};
use bluetrace_protocol::{Opened, SealedTempId, SealingKey};
use rand::SeedableRng as _;
use rand::rngs::ChaCha12Rng;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::command_line::{KeyHex, TempIdAction, TempIdOptions};
use crate::system::{self, to_stdout};

pub(crate) fn run(options: &TempIdOptions) -> anyhow::Result<ExitCode> {
    let given = match &options.action {
        TempIdAction::Open { key_hex, .. } => key_hex.as_slice(),
        TempIdAction::Seal { key_hex } => std::slice::from_ref(key_hex),
    };
    let keys = match read_keys(given) {
        Ok(keys) => keys,
        Err(error) => {
            system::complain(&error);
            return Ok(ExitCode::from(BAD_ARGUMENTS));
        }
    };
    match &options.action {
        TempIdAction::Open { opentrace_compatible, .. } => {
            let read =
                if *opentrace_compatible { sealed_as_reference } else { |text: &str| SealedTempId::parse(text).ok() };
            answer_lines(|line, out| open(line, &keys, read, out))?;
        }
        TempIdAction::Seal { .. } => {
            let mut generator = ChaCha12Rng::from_seed(system::seed()?);
            answer_lines(|line, out| seal(line, &keys, &mut generator, out))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer about an id that opens.
#[derive(Serialize)]
struct OpenedLine<'a> {
    tempid: &'a str,
    uid: String,
    start: i32,
    expiry: i32,
}

/// The answer about a line from which no id could be opened.
#[derive(Serialize)]
struct NotOpenedLine<'a> {
    /// The line; `None` if it is no text.
    tempid: Option<&'a str>,
    error: &'static str,
}

/// The answer that is an id.
#[derive(Serialize)]
struct SealedLine {
    tempid: String,
}

/// The answer to a line of which no id could be made.
#[derive(Serialize)]
struct NotSealedLine {
    error: &'static str,
}

/// A line of the input.
enum Line<'a> {
    /// Of at most [`MAX_LINE`] bytes.
    Bytes(&'a [u8]),
    TooLong,
}

/// Whether a line was answered with what was asked for.
type Succeeded = bool;

fn open(
    line: &Line<'_>,
    keys: &[SealingKey],
    read: impl Fn(&str) -> Option<SealedTempId>,
    out: &mut dyn Write,
) -> anyhow::Result<Succeeded> {
    let text = match line.text() {
        Ok(text) => text,
        Err(error) => return write_line(out, &NotOpenedLine { tempid: None, error }).map(|()| false),
    };
    let opened = match read(text) {
        None => Err("bad_tempid"),
        Some(sealed) => keys.iter().find_map(|key| key.open(&sealed).ok()).ok_or("failed_decryption"),
    };
    match opened {
        Ok(Opened { uid, start, expiry }) => {
            write_line(out, &OpenedLine { tempid: text, uid: uid.reveal(), start, expiry }).map(|()| true)
        }
        Err(error) => write_line(out, &NotOpenedLine { tempid: Some(text), error }).map(|()| false),
    }
}

fn seal(
    line: &Line<'_>,
    keys: &[SealingKey],
    generator: &mut ChaCha12Rng,
    out: &mut dyn Write,
) -> anyhow::Result<Succeeded> {
    let sealed = line.text().and_then(|text| {
        let line: Map<String, Value> = serde_json::from_str(text).map_err(|_| "bad_json")?;
        let uid = line.get("uid").and_then(Value::as_str).ok_or("bad_uid")?;
        let time = |name| line.get(name).and_then(Value::as_f64).and_then(wire_seconds).ok_or("bad_time");
        let (start, expiry) = (time("start")?, time("expiry")?);
        let iv = match line.get("iv_hex") {
            None | Some(Value::Null) => random_iv(generator),
            Some(iv) => iv.as_str().and_then(bytes_of_hex).ok_or("bad_iv")?,
        };
        // there is always one
        let key = keys.first().ok_or("bad_key")?;
        Ok(key.seal(&uid_as_reference(uid), start, expiry, iv))
    });
    match sealed {
        Ok(sealed) => write_line(out, &SealedLine { tempid: sealed.reveal() }).map(|()| true),
        Err(error) => write_line(out, &NotSealedLine { error }).map(|()| false),
    }
}

/// A time as the reference writes it: what does not fit into an int32 is refused, a fraction dropped.
#[expect(clippy::cast_possible_truncation, reason = "within the range, a fraction is what is dropped")]
fn wire_seconds(seconds: f64) -> Option<i32> {
    (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&seconds).then_some(seconds as i32)
}

/// Answers each line of standard input with one on standard output, and fails at the end if one failed.
fn answer_lines(mut answer: impl FnMut(&Line<'_>, &mut dyn Write) -> anyhow::Result<Succeeded>) -> anyhow::Result<()> {
    let (mut lines, mut failed) = (0_u64, 0_u64);
    to_stdout(|out| {
        let mut input = BufReader::with_capacity(INPUT_BUFFER, io::stdin().lock());
        let mut buffer = Vec::new();
        while let Some(line) = next_line(&mut input, &mut buffer).context("cannot read standard input")? {
            lines += 1;
            failed += u64::from(!answer(&line, out)?);
            // whoever waits for an answer before the next line gets it
            if input.buffer().is_empty() {
                out.flush()?;
            }
        }
        Ok(())
    })?;
    if failed > 0 {
        bail!("{failed} of {lines} lines were answered with an error");
    }
    Ok(())
}

/// Reads a line, without its end. Memory is bounded by [`MAX_LINE`], however long the line is.
fn next_line<'a>(input: &mut impl BufRead, buffer: &'a mut Vec<u8>) -> io::Result<Option<Line<'a>>> {
    buffer.clear();
    // two more for the line's end
    let longest = MAX_LINE as u64 + 2;
    if input.by_ref().take(longest).read_until(b'\n', buffer)? == 0 {
        return Ok(None);
    }
    let is_whole = buffer.ends_with(b"\n");
    if !is_whole {
        input.skip_until(b'\n')?;
    }
    let line = buffer.strip_suffix(b"\n").unwrap_or(buffer);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some(if line.len() > MAX_LINE { Line::TooLong } else { Line::Bytes(line) }))
}

impl Line<'_> {
    fn text(&self) -> Result<&str, &'static str> {
        match self {
            Self::Bytes(bytes) => str::from_utf8(bytes).map_err(|_| "not_text"),
            Self::TooLong => Err("too_large"),
        }
    }
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string(line)?)?)
}

/// Reads the keys. The error tells which one is none, and nothing of what stands there.
fn read_keys(given: &[KeyHex]) -> anyhow::Result<Vec<SealingKey>> {
    let keys = given.iter().zip(1..).map(|(text, place)| {
        let which: Cow<'_, str> = if given.len() > 1 { format!(" number {place}").into() } else { "".into() };
        SealingKey::from_hex(&text.0)
            .ok_or_else(|| anyhow!("--key-hex{which} is no key: a key is 64 hexadecimal digits"))
    });
    keys.collect()
}

/// The exit status of bad arguments, as clap has it.
const BAD_ARGUMENTS: u8 = 2;

/// Bytes read at once.
const INPUT_BUFFER: usize = 64 * 1024;
