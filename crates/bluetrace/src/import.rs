//! Owns the import of `credentials.txt` and `tempIDs.txt` at the server's start (PROTOCOL section 5).
//!
//! A malformed line is named by its number and the others are read, and so is one that a later line overrules. A file that has not changed since its import is passed
//! over, so that a restart is quick, and what an operator has changed since stays changed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bluetrace_authority::Authority;
use bluetrace_authority::accounts::{CredentialImported, ImportFile};
use bluetrace_authority::store::{ImportedTempId, TempIdImported};
use bluetrace_protocol::{Password, Record, Timestamp, Username};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Imports accounts. `None` stands for `credentials.txt` in the working folder, if there is one.
pub(crate) async fn credentials(authority: &Arc<Authority>, file: Option<&Path>, now: Timestamp) -> anyhow::Result<()> {
    let Some(text) = read(file, "credentials.txt")? else { return Ok(()) };
    if authority.is_imported(ImportFile::Credentials, &text.digest).await? {
        info!(file = %text.path.display(), "accounts: unchanged since their import");
        return Ok(());
    }
    let mut complaints = Complaints::default();
    // of a username that stands twice the last line counts, as it would if they were taken one by one
    let mut last_of_each: BTreeMap<Username, (usize, Password)> = BTreeMap::new();
    for (number, line) in text.lines() {
        match parse_credential(line) {
            Ok((username, password)) => {
                let overruled = last_of_each.get(&username).filter(|(_, held)| held.reveal() != password.reveal());
                if let Some((earlier, _)) = overruled {
                    let reason = format!("line {number} gives its username another password, and the last one counts");
                    complaints.note(&text.path, *earlier, &reason);
                }
                last_of_each.insert(username, (number, password));
            }
            Err(reason) => complaints.note(&text.path, number, &reason),
        }
    }
    let bar = progress(last_of_each.len(), "accounts");
    let (mut opened, mut updated) = (0_u64, 0_u64);
    let mut running = JoinSet::new();
    let mut waiting = last_of_each.into_iter();
    loop {
        while running.len() < HASHES_AT_ONCE {
            let Some((username, (_, password))) = waiting.next() else { break };
            let authority = Arc::clone(authority);
            running.spawn(async move { authority.import_credential(username, password, now).await });
        }
        let Some(done) = running.join_next().await else { break };
        match done.context("importing an account")?.context("importing an account")? {
            CredentialImported::Opened => opened += 1,
            CredentialImported::Updated => updated += 1,
            CredentialImported::Unchanged => {}
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    complaints.sum_up(&text.path);
    authority.note_imported(ImportFile::Credentials, &text.digest).await?;
    info!(file = %text.path.display(), opened, updated, skipped = complaints.count, "accounts imported");
    Ok(())
}

/// Imports `TempIDs`. `None` stands for `tempIDs.txt` in the working folder, if there is one.
pub(crate) async fn temp_ids(authority: &Authority, file: Option<&Path>, now: Timestamp) -> anyhow::Result<()> {
    let Some(text) = read(file, "tempIDs.txt")? else { return Ok(()) };
    if authority.is_imported(ImportFile::TempIds, &text.digest).await? {
        info!(file = %text.path.display(), "TempIDs: unchanged since their import");
        return Ok(());
    }
    let mut complaints = Complaints::default();
    let bar = progress(text.lines().count(), "TempIDs");
    let mut added = 0_u64;
    let mut lines = text.lines().peekable();
    while lines.peek().is_some() {
        let mut numbers = Vec::new();
        let mut batch = Vec::new();
        for (number, line) in lines.by_ref().take(TEMP_IDS_AT_ONCE) {
            match parse_temp_id(line) {
                Ok(temp_id) => {
                    numbers.push(number);
                    batch.push(temp_id);
                }
                Err(reason) => complaints.note(&text.path, number, &reason),
            }
            bar.inc(1);
        }
        let outcomes = authority.import_temp_ids(batch, now).await?;
        for (number, outcome) in numbers.into_iter().zip(outcomes) {
            match outcome {
                TempIdImported::Added => added += 1,
                TempIdImported::Known => {}
                TempIdImported::ClaimedByAnother => {
                    complaints.note(&text.path, number, "the TempID belongs to another user already");
                }
            }
        }
    }
    bar.finish_and_clear();
    complaints.sum_up(&text.path);
    authority.note_imported(ImportFile::TempIds, &text.digest).await?;
    info!(file = %text.path.display(), added, refused = complaints.count, "TempIDs imported");
    Ok(())
}

/// Reads `<username> <password>`; the password may hold further spaces.
pub(crate) fn parse_credential(line: &str) -> Result<(Username, Password), String> {
    let (username, password) = line.split_once(' ').ok_or("not of the form <username> <password>")?;
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    let username = Username::parse(username).map_err(|error| error.to_string())?;
    Ok((username, Password::parse(password).map_err(|error| error.to_string())?))
}

/// Reads `<username> <TempID> <start> <expiry>`, each time being a date, a space and a time of day.
fn parse_temp_id(line: &str) -> Result<ImportedTempId, String> {
    let mut fields = line.splitn(3, ' ');
    let (Some(username), Some(temp_id), Some(times)) = (fields.next(), fields.next(), fields.next()) else {
        return Err("not of the form <username> <TempID> <start> <expiry>".to_owned());
    };
    // two dates with a time of day each: the space between them is the second
    let middle = times.match_indices(' ').nth(1).map(|(place, _)| place);
    let (start, expiry) = middle
        .and_then(|middle| Some((times.get(..middle)?, times.get(middle + 1..)?)))
        .ok_or("not of the form <username> <TempID> <start> <expiry>")?;
    let username = Username::parse(username).map_err(|error| error.to_string())?;
    let record = Record::from_fields(temp_id, start, expiry).map_err(|error| error.to_string())?;
    Ok(ImportedTempId { username, record })
}

/// A file's text, and its SHA-256.
struct Text {
    path: PathBuf,
    bytes: Vec<u8>,
    digest: [u8; 32],
}

fn read(file: Option<&Path>, usual: &str) -> anyhow::Result<Option<Text>> {
    let path = file.unwrap_or(Path::new(usual)).to_owned();
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(Text { digest: Sha256::digest(&bytes).into(), path, bytes })),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl Text {
    /// The lines that say something, with their numbers from 1. A line that is not UTF-8 reads as a malformed one.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let bytes = self.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.bytes);
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        lines
            .map(|(place, line)| (place + 1, line.strip_suffix(b"\r").unwrap_or(line)))
            .filter(|(_, line)| !line.trim_ascii().is_empty() && !line.starts_with(b"#"))
            .map(|(number, line)| (number, std::str::from_utf8(line).unwrap_or(NOT_TEXT)))
    }
}

/// Stands for a line that is not UTF-8: malformed in every format.
const NOT_TEXT: &str = "\u{fffd}";

/// Names lines that were skipped, by number only: a line may hold a password.
#[derive(Default)]
struct Complaints {
    count: usize,
}

impl Complaints {
    fn note(&mut self, path: &Path, number: usize, reason: &str) {
        self.count += 1;
        if self.count <= LINES_NAMED {
            warn!(file = %path.display(), line = number, "line skipped: {reason}");
        }
    }

    fn sum_up(&self, path: &Path) {
        if self.count > LINES_NAMED {
            warn!(file = %path.display(), skipped = self.count, "more lines were skipped than are named here");
        }
    }
}

/// A progress bar on standard error, if that is a terminal.
fn progress(length: usize, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length as u64).with_message(what);
    // the template is a constant, and right
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Passwords being hashed at once: enough to keep every core busy.
const HASHES_AT_ONCE: usize = 64;

/// `TempIDs` stored in one transaction.
const TEMP_IDS_AT_ONCE: usize = 10_000;

/// Skipped lines that are named; of more only the count is.
const LINES_NAMED: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_name_one_space_and_the_rest() {
        let (username, password) = parse_credential("+61410999999 correct horse ").unwrap();
        assert_eq!((username.reveal(), password.reveal()), ("+61410999999", "correct horse "));
        for line in ["name", "name ", " password", "", NOT_TEXT] {
            assert!(parse_credential(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_temp_id_line_is_read_with_either_kind_of_time() {
        let line = "+61410888888 12345678901234567891 13/05/2020 17:54:06 13/05/2020 18:09:05";
        let iso = "+61410888888 12345678901234567891 2020-05-13 17:54:06 2020-05-13 18:09:05";
        assert_eq!(parse_temp_id(line), parse_temp_id(iso));
        assert_eq!(parse_temp_id(line).unwrap().username.reveal(), "+61410888888");
        for line in ["", "a", "a b", "+61410888888 12345678901234567891 13/05/2020 17:54:06", NOT_TEXT] {
            assert!(parse_temp_id(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn byte_order_mark_blank_lines_comments_and_a_missing_last_newline_do_no_harm() {
        let bytes = b"\xef\xbb\xbfa b\r\n\r\n# c d\r\n  \ne f".to_vec();
        let text = Text { path: PathBuf::new(), digest: [0; 32], bytes };
        assert_eq!(text.lines().collect::<Vec<_>>(), [(1, "a b"), (5, "e f")]);
    }
}
