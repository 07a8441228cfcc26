//! Owns `bluetrace demo`.

use crate::command_line::DemoOptions;

pub(crate) fn run(_options: DemoOptions) -> anyhow::Result<()> {
    anyhow::bail!("the demonstration is being built")
}
