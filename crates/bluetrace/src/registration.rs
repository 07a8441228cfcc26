//! Owns how the options of a server become its sender of one-time codes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bluetrace_server::code_sender::{CodeSender, CodeWebhook};
use zeroize::Zeroizing;

use crate::command_line::RegistrationOptions;
use crate::system;

/// The way of one-time codes: a program, a webhook, or else the console.
pub(crate) fn code_sender(options: RegistrationOptions) -> anyhow::Result<CodeSender> {
    let RegistrationOptions { command, webhook, webhook_token_file, text } = options;
    match (command, webhook) {
        (Some(_), Some(_)) => {
            bail!(
                "one-time codes go out through a program or a webhook, not both; leave --code-command or --code-webhook out"
            )
        }
        (Some(_) | None, None) if webhook_token_file.is_some() => {
            bail!("--code-webhook-token-file is of no use without --code-webhook; leave it out, or give both")
        }
        (Some(command), None) => {
            let program = Path::new(command.program());
            ensure!(
                executable(program).is_some(),
                "there is no program {} that this user may run; name it with its path in --code-command, and make it executable",
                program.display()
            );
            Ok(CodeSender::by_command(command, text))
        }
        (None, Some(url)) => {
            let token = webhook_token_file.as_deref().map(first_line_of).transpose()?;
            let webhook = CodeWebhook::new(url, token.as_ref().map(|token| token.as_str()))?;
            Ok(CodeSender::by_webhook(webhook, text))
        }
        (None, None) => Ok(CodeSender::to_console(text)),
    }
}

/// Where a program is that may be run: at its path, or under its name in `PATH`.
pub(crate) fn executable(program: &Path) -> Option<PathBuf> {
    let may_be_run =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & BY_ANYBODY != 0);
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(may_be_run);
    }
    let folders = system::variable("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(may_be_run)
}

fn first_line_of(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("cannot read the token file {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "the first line of the token file {} is empty", path.display());
    Ok(Zeroizing::new(line.to_owned()))
}

/// The bits of a program that somebody may run.
const BY_ANYBODY: u32 = 0o111;
