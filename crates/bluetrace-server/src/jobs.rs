//! Owns the work that no request asks for: deleting what is forgotten ([`delete_forgotten`]).

use std::sync::Arc;
use std::time::Duration;

use bluetrace_authority::store::{Store, StoreError};
use bluetrace_protocol::Clock;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::{debug, warn};

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
