//! Owns `bluetrace client`: what the terminal client is given.

use std::process::ExitCode;

use crate::command_line::ClientOptions;

pub(crate) fn run(_options: ClientOptions) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the client is being built")
}
