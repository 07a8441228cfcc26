//! Owns the device's upload: saved, begun, continued on whatever connection there is, complete.

use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::message::ErrorCode;
use bluetrace_protocol::session::client::ClientSession;
use bluetrace_protocol::{UploadCode, UploadId, UploadSummary};
use rand::Rng as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::Engine;
use super::event::DeviceEvent;
use super::outbox::Done;
use super::pending_upload::PendingUpload;
use super::session::Awaited;
use crate::files;
use crate::words::in_words;

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload {
    pending: PendingUpload,
    acknowledged: u32,
    /// How many of them the front-end knows of.
    told: u32,
    state: State,
    /// Since the authority last acknowledged more than before.
    failures: u32,
    done: Option<Done>,
}

#[derive(Debug)]
enum State {
    /// On its way to the disk.
    Saving(JoinHandle<io::Result<()>>),
    /// The code that was refused is on its way out of the file; the authority does not want the upload in this session.
    Forgetting(JoinHandle<io::Result<()>>),
    /// Not before then, on the next occasion.
    Waiting(Instant),
    /// The authority was asked to take it.
    Running,
    /// The authority does not want it in this session.
    Refused,
}

impl Upload {
    /// One that an earlier run left.
    pub(super) fn found(pending: PendingUpload) -> Self {
        Self { pending, acknowledged: 0, told: 0, state: State::Waiting(Instant::now()), failures: 0, done: None }
    }

    /// Waits until an upload is saved; for ever if none is being saved. Nothing is lost if the wait is given up.
    pub(super) async fn saved(upload: &mut Option<Self>) -> io::Result<()> {
        match upload {
            Some(Self { state: State::Saving(work) | State::Forgetting(work), .. }) => {
                work.await.map_err(io::Error::other).flatten()
            }
            Some(_) | None => std::future::pending().await,
        }
    }

    /// Records acknowledged, and in all.
    pub(super) fn progress(&self) -> (u32, u32) {
        (self.acknowledged, u32::try_from(self.pending.records.len()).unwrap_or(u32::MAX))
    }

    fn acknowledge(&mut self, acknowledged: u32) {
        if acknowledged > self.acknowledged {
            self.failures = 0;
        }
        self.acknowledged = acknowledged;
    }
}

impl Engine {
    /// The user wants the log uploaded.
    pub(super) fn on_upload(&mut self, code: Option<UploadCode>, done: Done) {
        match &mut self.upload {
            // the code that it waited for
            Some(upload) if code.is_some() && !matches!(upload.state, State::Saving(_) | State::Running) => {
                upload.pending.code = code;
                let is_connected = self.session.as_ref().is_some_and(ClientSession::is_member);
                let (done, now) = if is_connected { (Some(done), None) } else { (None, Some(done)) };
                let earlier = mem::replace(&mut upload.done, done).or(now);
                let before = match mem::replace(&mut upload.state, State::Refused) {
                    State::Forgetting(work) => Some(work),
                    State::Saving(_) | State::Waiting(_) | State::Running | State::Refused => None,
                };
                upload.state = State::Saving(save(&upload.pending, self.files.upload(), before));
                self.outbox.done(earlier);
            }
            Some(upload) => {
                let (acknowledged, total) = upload.progress();
                self.outbox.tell(DeviceEvent::UploadUnderWay { acknowledged, total });
                // an official may have lifted what it waits for
                if matches!(upload.state, State::Refused | State::Waiting(_)) {
                    upload.state = State::Waiting(Instant::now());
                }
                let earlier = self.upload_next.replace((done, code));
                self.outbox.done(earlier.map(|(done, _)| done));
                self.begin_upload();
            }
            None => self.new_upload(code, done),
        }
    }

    fn new_upload(&mut self, code: Option<UploadCode>, done: Done) {
        if self.keeper.log().is_empty() {
            self.outbox.tell(DeviceEvent::UploadEmpty);
            return self.outbox.done(Some(done));
        }
        let mut bytes = [0; 16];
        self.generator.fill_bytes(&mut bytes);
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid().to_string();
        // a UUID's text is 36 graphic characters
        let Ok(id) = UploadId::parse(&id) else { return };
        let records: Arc<[_]> = self.keeper.log().to_entries().into();
        let is_connected = self.session.as_ref().is_some_and(ClientSession::is_member);
        self.outbox.tell(DeviceEvent::UploadStarted { records: Arc::clone(&records), is_connected });
        let pending = PendingUpload { id, records, code };
        let state = State::Saving(save(&pending, self.files.upload(), None));
        // while the authority is away nobody waits for it
        let done = if is_connected {
            Some(done)
        } else {
            self.outbox.done(Some(done));
            None
        };
        self.upload = Some(Upload { pending, acknowledged: 0, told: 0, state, failures: 0, done });
    }

    pub(super) fn on_upload_saved(&mut self, saved: io::Result<()>) {
        if let Err(error) = saved {
            // it goes all the same, and only a kill of this device could lose it
            self.outbox.tell(DeviceEvent::FileFailing { file: self.files.upload(), why: in_words(error) });
        }
        if let Some(upload) = &mut self.upload {
            let is_refused = matches!(upload.state, State::Forgetting(_));
            upload.state = if is_refused { State::Refused } else { State::Waiting(Instant::now()) };
        }
        self.begin_upload();
    }

    /// Begins the upload that waits, or goes on with it, if there is one and somebody to take it.
    pub(super) fn begin_upload(&mut self) {
        let Some(Upload { pending, state: State::Waiting(at), .. }) = &self.upload else { return };
        if Instant::now() < *at {
            return;
        }
        let PendingUpload { id, records, code } = pending.clone();
        let Some((session, out)) = self.member() else { return };
        session.upload_with_code(&id, code, records, out);
        self.awaited.push_back(Awaited::Upload);
        if let Some(upload) = &mut self.upload {
            upload.state = State::Running;
        }
    }

    pub(super) fn on_upload_begun(&mut self, acknowledged: u32, total: u32) {
        let Some(upload) = &mut self.upload else { return };
        upload.acknowledge(acknowledged);
        if acknowledged > 0 || upload.done.is_none() {
            self.outbox.tell(DeviceEvent::UploadContinued { acknowledged, total });
        }
    }

    pub(super) fn on_upload_progress(&mut self, acknowledged: u32, total: u32) {
        let Some(upload) = &mut self.upload else { return };
        upload.acknowledge(acknowledged);
        if acknowledged.saturating_sub(upload.told) > total / STEPS_TOLD {
            upload.told = acknowledged;
            self.outbox.tell(DeviceEvent::UploadProgress { acknowledged, total });
        }
    }

    pub(super) fn on_upload_complete(&mut self, summary: UploadSummary) {
        let Some(upload) = self.upload.take() else { return };
        let file = self.files.upload();
        if let Err(error) = files::remove(&file) {
            // found again at the next start, it is complete at once: no harm, but a trace
            self.outbox.tell(DeviceEvent::FileFailing { file, why: in_words(error) });
        }
        self.outbox.tell(DeviceEvent::UploadComplete(summary));
        self.outbox.done(upload.done);
        if let Some((done, code)) = self.upload_next.take() {
            self.new_upload(code, done);
        }
    }

    /// The authority did not take it: for the moment, or not at all.
    pub(super) fn on_upload_failed(&mut self, code: &str, message: String, retry_after: Option<Duration>) {
        let Some(upload) = &mut self.upload else { return };
        upload.failures = upload.failures.saturating_add(1);
        // the authority knows best: trying sooner would only be refused again
        let retry_in = wait_before_retry(code, upload.failures).map(|wait| retry_after.unwrap_or(wait));
        let needs_code = code == ErrorCode::UploadNotAuthorised.as_str();
        upload.state = match retry_in {
            Some(wait) => State::Waiting(Instant::now() + wait),
            // a code that is not good is not tried again at each login
            None if needs_code && upload.pending.code.take().is_some() => {
                State::Forgetting(save(&upload.pending, self.files.upload(), None))
            }
            None => State::Refused,
        };
        let done = upload.done.take();
        self.outbox.tell(DeviceEvent::UploadFailed { why: message, retry_in, file: self.files.upload(), needs_code });
        self.outbox.done(done);
        let next = self.upload_next.take();
        self.outbox.done(next.map(|(done, _)| done));
    }

    /// The connection was lost. The upload goes on with the next.
    pub(super) fn on_upload_interrupted(&mut self) {
        let Some(upload) = &mut self.upload else { return };
        match upload.state {
            State::Running => upload.state = State::Waiting(Instant::now()),
            // a server that closes after each refusal is not asked in a loop
            State::Refused => upload.state = State::Waiting(Instant::now() + wait_after(upload.failures)),
            State::Saving(_) | State::Forgetting(_) | State::Waiting(_) => {}
        }
    }

    pub(super) fn is_upload_running(&self) -> bool {
        matches!(&self.upload, Some(Upload { state: State::Running, .. }))
    }
}

/// Begins to save an upload, behind what is being saved already.
fn save(
    pending: &PendingUpload,
    path: PathBuf,
    before: Option<JoinHandle<io::Result<()>>>,
) -> JoinHandle<io::Result<()>> {
    let pending = pending.clone();
    tokio::spawn(async move {
        if let Some(before) = before {
            // what came of it no longer matters
            let _ = before.await;
        }
        tokio::task::spawn_blocking(move || pending.save(&path)).await.map_err(io::Error::other).flatten()
    })
}

/// How long an upload waits that has failed so often, the last time with this code; `None` if this session does not try it
/// again.
fn wait_before_retry(code: &str, failures: u32) -> Option<Duration> {
    let passing = [ErrorCode::Unavailable, ErrorCode::RateLimited, ErrorCode::NoUpload];
    // the authority says that the same will not succeed: a few times, in case it is wrong
    let is_worth_it = passing.iter().any(|passing| passing.as_str() == code)
        || code == ErrorCode::Internal.as_str() && failures <= RETRIES_OF_A_FAULT;
    is_worth_it.then(|| wait_after(failures))
}

fn wait_after(failures: u32) -> Duration {
    FIRST_RETRY * 2_u32.saturating_pow(failures.saturating_sub(1).min(MOST_DOUBLINGS))
}

/// How often an upload's progress is told in all.
const STEPS_TOLD: u32 = 50;

/// The wait after the first passing failure, doubling from then on.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// How often an upload is tried again in one session after faults of the authority (`internal`).
const RETRIES_OF_A_FAULT: u32 = 3;

/// How often that wait doubles: to 160 s.
const MOST_DOUBLINGS: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(code: &str) -> Vec<Option<u64>> {
        (1..=8).map(|failures| wait_before_retry(code, failures).map(|wait| wait.as_secs())).collect()
    }

    #[test]
    fn what_may_pass_is_tried_again_ever_more_seldom() {
        for code in ["unavailable", "rate_limited", "no_upload"] {
            assert_eq!(waits(code), [5, 10, 20, 40, 80, 160, 160, 160].map(Some), "{code}");
        }
    }

    #[test]
    fn a_fault_of_the_authority_is_tried_again_a_few_times_and_a_refusal_never() {
        assert_eq!(waits("internal"), [Some(5), Some(10), Some(20), None, None, None, None, None]);
        for code in ["bad_count", "too_large", "upload_not_authorised", "something new"] {
            assert_eq!(waits(code), [None; 8], "{code}");
        }
    }
}
