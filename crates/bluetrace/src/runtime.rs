//! Owns the async runtimes: every core for what serves many, this thread for one command.

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

/// Runs `work` to its end, with a thread for each core.
pub(crate) fn block_on_all_cores<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    Builder::new_multi_thread().enable_all().build().context(NO_RUNTIME)?.block_on(work)
}

/// Runs what one command does to its end, on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    on_this_thread()?.block_on(work)
}

/// A runtime on this thread, for who wants to say how it ends.
pub(crate) fn on_this_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context(NO_RUNTIME)
}

const NO_RUNTIME: &str = "cannot start the async runtime";
