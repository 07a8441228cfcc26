//! Owns the async runtimes: every core for what serves many, this thread for one command.

use std::pin::{Pin, pin};

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

/// Runs `work` to its end, with a thread for each core.
pub(crate) fn block_on_all_cores<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    run(&Builder::new_multi_thread().enable_all().build().context(NO_RUNTIME)?, pin!(work))
}

/// Runs what one command does to its end, on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    run(&on_this_thread()?, pin!(work))
}

/// A runtime on this thread, for who wants to say how it ends.
pub(crate) fn on_this_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context(NO_RUNTIME)
}

/// Every command's work is of a type of its own. Behind one pointer, the runtime is compiled once, and not for each of them.
fn run<T>(runtime: &Runtime, work: Pin<&mut dyn Future<Output = anyhow::Result<T>>>) -> anyhow::Result<T> {
    runtime.block_on(work)
}

const NO_RUNTIME: &str = "cannot start the async runtime";
