//! Owns `bluetrace keys`: the keys that seal `TempIDs`, from the operator's command line, also while the server runs.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::bail;
use bluetrace_authority::passwords::InlinePool;
use bluetrace_authority::store::{SealingKeyId, SealingKeyRow, SealingKeyState, Shredded};
use bluetrace_protocol::Clock as _;
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::limits::KEYS_INTERVAL;

use crate::command_line::{AuthorityFolder, KeysAction, KeysOptions};
use crate::installation::Installation;
use crate::meant;
use crate::runtime::block_on;
use crate::system::{SystemClock, to_stdout};

pub(crate) fn run(options: &KeysOptions) -> anyhow::Result<()> {
    match &options.action {
        KeysAction::List { folder } => to_stdout(|out| list(folder, out)),
        KeysAction::Rotate { folder } => rotate(folder),
        KeysAction::Shred { id, yes, folder } => shred(SealingKeyId(*id), *yes, folder),
    }
}

fn list(folder: &AuthorityFolder, out: &mut dyn Write) -> anyhow::Result<()> {
    let installation = open(folder)?;
    let now = SystemClock.now();
    let rows = block_on(async { Ok(installation.authority.store().sealing_keys(now).await?) })?;
    let in_use = SealingKeyRow::in_use(&rows, now).map(|row| row.id);
    writeln!(
        out,
        "{:>6}  {:<19}  {:<19}  {:<9}  {:>7}  {:>13}  {:<19}",
        "id", "seals from (UTC)", "until", "state", "age", "seals", "kept until"
    )?;
    for row in &rows {
        let SealingKeyRow { id, term, seals, state } = row;
        let state = match state {
            SealingKeyState::Live(_) if in_use == Some(*id) => "seals",
            SealingKeyState::Live(_) if now < term.issues_from => "to come",
            SealingKeyState::Live(_) => "opens",
            SealingKeyState::Shredding => "shredding",
            SealingKeyState::Shredded => "shredded",
        };
        let age = age(now.seconds_since(term.issues_from));
        let (from, until) = (term.issues_from, term.issues_until);
        let end = if row.state.is_live() { term.forget_at.to_string() } else { "-".to_owned() };
        writeln!(out, "{:>6}  {from}  {until}  {state:<9}  {age:>7}  {seals:>13}  {end}", id.0)?;
    }
    Ok(())
}

fn rotate(folder: &AuthorityFolder) -> anyhow::Result<()> {
    let installation = open(folder)?;
    let now = SystemClock.now();
    let Some(id) = block_on(async { Ok(installation.authority.rotate_key(now).await?) })? else {
        bail!("no key seals now: a server with --tempid-scheme sealed makes one by itself when it starts");
    };
    writeln!(
        io::stdout(),
        "key {} seals from now on; a running server takes it up within {} s, and the one before goes on opening",
        id.0,
        KEYS_INTERVAL.as_secs()
    )?;
    Ok(())
}

fn shred(id: SealingKeyId, is_meant: bool, folder: &AuthorityFolder) -> anyhow::Result<()> {
    let installation = open(folder)?;
    let now = SystemClock.now();
    let rows = block_on(async { Ok(installation.authority.store().sealing_keys(now).await?) })?;
    let Some(row) = rows.iter().find(|row| row.id == id) else { bail!(NO_SUCH_KEY) };
    if row.state.is_live() && !is_meant {
        meant::ask(&loss(row, SealingKeyRow::in_use(&rows, now).is_some_and(|row| row.id == id)))?;
    }
    match block_on(async { Ok(installation.authority.store().shred_sealing_key(id).await?) })? {
        Shredded::NoSuchKey => bail!(NO_SUCH_KEY),
        Shredded::Unfinished => bail!(
            "the key opens nothing any more, but its bytes are still in the database's write-ahead log: something reads the \
             database. A running server goes on trying; without one, shred it again later"
        ),
        Shredded::Done => {
            if DataFolder::open_existing(&folder.data_dir).is_served()? {
                // the server's write-ahead log was cut with the key in it; without its full length the server is slower, and
                // nothing else
                block_on(async {
                    installation.database.settle().await;
                    Ok(())
                })?;
            }
            writeln!(io::stdout(), "shredded; backups that were made before still hold it: destroy those too")?;
            Ok(())
        }
    }
}

/// What is lost with a key.
fn loss(row: &SealingKeyRow, seals_now: bool) -> String {
    let SealingKeyRow { id, term, seals, .. } = row;
    let (id, from, until, last) = (id.0, term.issues_from, term.issues_until, term.last_expiry);
    let of_use = if seals_now {
        format!(
            "\nIt seals now: what devices have of it is useless until they download anew, and what a running server issues of \
             it within the next {} s as well. `bluetrace keys rotate` before avoids the latter.",
            KEYS_INTERVAL.as_secs()
        )
    } else {
        String::new()
    };
    format!(
        "Key {id} seals TempIDs from {from} on, to {until} at the latest ({seals} are counted so far); they are valid until \
         {last} at the latest.\n\
         Without it none of them leads to anybody: records of them, also in uploads that are here already, become unknown.{of_use}"
    )
}

fn open(folder: &AuthorityFolder) -> anyhow::Result<Installation> {
    Installation::open_existing(folder, Arc::new(InlinePool))
}

/// A number of seconds in the largest unit that is whole, so that a list is easy to read.
fn age(seconds: i64) -> String {
    match seconds {
        ..0 => "-".to_owned(),
        0..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

const NO_SUCH_KEY: &str = "there is no key of that number; `bluetrace keys list` shows them";
