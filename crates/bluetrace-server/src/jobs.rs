//! Owns the work that no request asks for: deleting what is forgotten ([`delete_forgotten`]), and looking after the keys
//! that seal `TempIDs` ([`keep_keys`]).

use std::sync::Arc;
use std::time::Duration;

use bluetrace_authority::Authority;
use bluetrace_authority::keyring::KeysKept;
use bluetrace_authority::store::{Store, StoreError};
use bluetrace_protocol::Clock;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::limits::RETENTION_BACK_OFF;
use crate::shutdown::Shutdown;

/// Deletes what is forgotten, at once and then every `interval`, until the end of the server is announced.
///
/// Nothing depends on its being in time: the store's queries do not return what is forgotten. A store that fails is tried
/// again, each time after twice the pause, up to [`RETENTION_BACK_OFF`].
pub async fn delete_forgotten(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    interval: Duration,
    mut shutdown: Shutdown,
) {
    let mut pause = interval;
    while !shutdown.has_begun() {
        match delete_once(&*store, &*clock, &shutdown).await {
            Ok(rows) => {
                debug!(rows, "deleted what is forgotten");
                pause = interval;
            }
            Err(error) => {
                pause = pause.saturating_mul(2).min(RETENTION_BACK_OFF.max(interval));
                warn!(%error, next_try_s = pause.as_secs(), "what is forgotten could not be deleted yet");
            }
        }
        tokio::select! {
            () = shutdown.begun() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Makes, counts and destroys sealing keys, at once and then every `interval`, until the end of the server is announced.
/// A store that fails is tried again after the same pause: a key is made long before it is needed.
pub async fn keep_keys(authority: Arc<Authority>, clock: Arc<dyn Clock>, interval: Duration, mut shutdown: Shutdown) {
    let (mut last, mut is_failing) = (KeysKept::default(), false);
    while !shutdown.has_begun() {
        let kept = authority.keep_keys(clock.now()).await;
        match &kept {
            Ok(kept) => {
                tell(*kept, last);
                last = *kept;
            }
            // said once, however often it fails
            Err(error) if !is_failing => warn!(%error, "the sealing keys cannot be looked after now"),
            Err(_) => {}
        }
        is_failing = kept.is_err();
        tokio::select! {
            () = shutdown.begun() => {}
            () = sleep(interval) => {}
        }
    }
}

/// Tells the log what has changed since the last time.
fn tell(kept: KeysKept, last: KeysKept) {
    let KeysKept { made, shredded, unfinished, unreadable, worn } = kept;
    if made > 0 {
        info!(keys = made, "made sealing keys");
    }
    if shredded > 0 {
        info!(keys = shredded, "destroyed sealing keys that are past their retention");
    }
    if unfinished > 0 && unfinished != last.unfinished {
        warn!(
            keys = unfinished,
            "destroyed keys are still in the write-ahead log: something reads the database for long"
        );
    }
    if unreadable > 0 && unreadable != last.unreadable {
        warn!(
            keys = unreadable,
            "the master key does not open these sealing keys: what they sealed cannot be resolved"
        );
    }
    if let Some((id, seals)) = worn
        && last.worn.is_none_or(|(before, _)| before != id)
    {
        warn!(key = id.0, seals, "a sealing key is used much: shorten --key-period, or run `bluetrace keys rotate`");
    }
}

/// Deletes bounded numbers of rows until there are none left, letting others go first in between.
async fn delete_once(store: &dyn Store, clock: &dyn Clock, shutdown: &Shutdown) -> Result<u64, StoreError> {
    let mut rows = 0_u64;
    loop {
        let expired = store.expire(clock.now()).await?;
        rows = rows.saturating_add(expired.rows);
        if !expired.more || shutdown.has_begun() {
            return Ok(rows);
        }
        yield_now().await;
    }
}
