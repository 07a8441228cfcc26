//! Owns the way in which the end of the server is announced: one [`ShutdownSwitch`], any number of [`Shutdown`]s.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// Announces the end. Dropping it does so too.
#[derive(Debug)]
pub struct ShutdownSwitch(watch::Sender<bool>);

/// Hears of the end.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A switch and what hears it.
pub fn shutdown_channel() -> (ShutdownSwitch, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownSwitch(sender), Shutdown(receiver))
}

impl ShutdownSwitch {
    /// Announces the end.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Whether the end was announced.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for the announcement. Safe to cancel; ready at once ever after.
    pub async fn begun(&mut self) {
        // an error says that the switch was dropped
        let _ = self.0.wait_for(|has_begun| *has_begun).await;
    }

    /// Waits for the announcement, and then so long. Safe to cancel; `patience` counts from the call where the announcement
    /// was before it.
    pub async fn begun_for(&mut self, patience: Duration) {
        self.begun().await;
        sleep(patience).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_hears_of_the_end_however_late_they_listen() {
        let (switch, mut early) = shutdown_channel();
        assert!(!early.has_begun());
        switch.begin();
        early.begun().await;
        early.begun().await;
        let mut late = early.clone();
        late.begun().await;
        assert!(late.has_begun());
    }

    #[tokio::test]
    async fn a_dropped_switch_is_the_end() {
        let (switch, mut shutdown) = shutdown_channel();
        drop(switch);
        shutdown.begun().await;
        assert!(shutdown.has_begun());
    }
}
