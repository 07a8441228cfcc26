//! Owns how the options of a server become its sender of one-time codes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use bluetrace_server::code_sender::{CodeSender, CodeWebhook};
use zeroize::Zeroizing;

use crate::command_line::RegistrationOptions;

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
        (Some(command), None) => Ok(CodeSender::by_command(command, text)),
        (None, Some(url)) => {
            let token = webhook_token_file.as_deref().map(first_line_of).transpose()?;
            let webhook = CodeWebhook::new(url, token.as_ref().map(|token| token.as_str()))?;
            Ok(CodeSender::by_webhook(webhook, text))
        }
        (None, None) => Ok(CodeSender::to_console(text)),
    }
}

fn first_line_of(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("cannot read the token file {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "the first line of the token file {} is empty", path.display());
    Ok(Zeroizing::new(line.to_owned()))
}
