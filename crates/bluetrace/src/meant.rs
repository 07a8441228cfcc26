//! Owns the question before something is destroyed for good: whether that is meant.

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail};

use crate::system;

/// Says what will be lost, and goes on only if the person at the terminal types `yes`. Where nobody can be asked, nothing is
/// destroyed: what a pipe happens to say is no answer, and `--yes` is there for scripts.
pub(crate) fn ask(loss: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        bail!("there is no way back from this, and no terminal to ask on; to go on without being asked, add --yes");
    }
    system::say(loss);
    system::say("There is no way back. Type yes to go on:");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the answer from standard input")?;
    if line.trim() != "yes" {
        bail!("nothing was changed; to go on without being asked, add --yes");
    }
    Ok(())
}
