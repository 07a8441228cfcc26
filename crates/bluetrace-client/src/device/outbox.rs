//! Owns the way of the events to the front-end. A front-end that is slow, or whose terminal is stopped, holds up nothing:
//! what it must know waits for it in order, and beacons beyond a number are only counted.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use super::event::DeviceEvent;

/// Tells a front-end that what it asked for is done, after every event that belongs to it.
pub(super) type Done = oneshot::Sender<()>;

#[derive(Debug)]
pub(super) struct Outbox {
    channel: mpsc::Sender<DeviceEvent>,
    waiting: VecDeque<Outgoing>,
    unshown: u64,
}

#[derive(Debug)]
enum Outgoing {
    Event(DeviceEvent),
    Done(Done),
}

impl Outbox {
    pub(super) fn new(channel: mpsc::Sender<DeviceEvent>) -> Self {
        Self { channel, waiting: VecDeque::new(), unshown: 0 }
    }

    pub(super) fn tell(&mut self, event: DeviceEvent) {
        if self.waiting.is_empty() {
            match self.channel.try_send(event) {
                Err(mpsc::error::TrySendError::Full(event)) => self.waiting.push_back(Outgoing::Event(event)),
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        } else {
            self.waiting.push_back(Outgoing::Event(event));
        }
    }

    /// Tells what may be left out if the front-end is far behind.
    pub(super) fn tell_if_room(&mut self, event: impl FnOnce() -> DeviceEvent) {
        if self.waiting.len() < MOST_WAITING {
            self.tell(event());
        } else {
            self.unshown += 1;
        }
    }

    pub(super) fn done(&mut self, done: Option<Done>) {
        let Some(done) = done else { return };
        if self.waiting.is_empty() {
            // whoever no longer waits for it need not be told
            let _ = done.send(());
        } else {
            self.waiting.push_back(Outgoing::Done(done));
        }
    }

    /// Hands on what waits, one event a call; waits for ever if nothing does. Nothing is lost if the wait is given up.
    pub(super) async fn hand_on(&mut self) {
        match self.waiting.front() {
            None => std::future::pending().await,
            Some(Outgoing::Done(_)) => {}
            Some(Outgoing::Event(_)) => {
                let Ok(permit) = self.channel.reserve().await else {
                    // nobody listens any more
                    self.waiting.clear();
                    return;
                };
                if let Some(Outgoing::Event(event)) = self.waiting.pop_front() {
                    permit.send(event);
                }
            }
        }
        while let Some(Outgoing::Done(_)) = self.waiting.front() {
            if let Some(Outgoing::Done(done)) = self.waiting.pop_front() {
                let _ = done.send(());
            }
        }
        if self.waiting.is_empty() && self.unshown > 0 {
            let count = std::mem::take(&mut self.unshown);
            self.tell(DeviceEvent::BeaconsUnshown { count });
        }
    }

    /// Hands on everything, for the end.
    pub(super) async fn hand_on_all(&mut self) {
        while !self.waiting.is_empty() {
            self.hand_on().await;
        }
    }
}

/// Events that may wait before beacons are only counted.
const MOST_WAITING: usize = 1_024;
