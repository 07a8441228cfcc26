//! Owns how a password gets into this process: a file, a variable, or a person who is asked. Never an argument.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use bluetrace_protocol::Password;
use zeroize::Zeroizing;

use crate::command_line::PasswordSource;
use crate::system;

/// The password that was given beforehand: the first line of `--password-file`, or `BLUETRACE_PASSWORD`.
pub(crate) fn given(source: &PasswordSource) -> anyhow::Result<Option<Password>> {
    let text = match &source.password_file {
        Some(path) => Some(first_line_of(path)?),
        None => system::variable("BLUETRACE_PASSWORD").map(Zeroizing::new),
    };
    Ok(text.map(|text| Password::parse(&text)).transpose()?)
}

/// A new password: the one given beforehand, or asked for twice on a terminal, or the first line of standard input.
pub(crate) fn new_password(source: &PasswordSource) -> anyhow::Result<Password> {
    if let Some(password) = given(source)? {
        return Ok(password);
    }
    let text = if io::stdin().is_terminal() {
        let first = Zeroizing::new(rpassword::prompt_password("Password: ").context("cannot read the password")?);
        let second = Zeroizing::new(rpassword::prompt_password("Again: ").context("cannot read the password")?);
        if first != second {
            bail!("the two passwords differ; nothing was changed");
        }
        first
    } else {
        let mut line = Zeroizing::new(String::new());
        io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
        Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned())
    };
    if text.is_empty() {
        bail!("the password is empty; nothing was changed");
    }
    Ok(Password::parse(&text)?)
}

fn first_line_of(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("cannot read the password file {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("the first line of the password file {} is empty", path.display());
    }
    Ok(Zeroizing::new(line.to_owned()))
}
