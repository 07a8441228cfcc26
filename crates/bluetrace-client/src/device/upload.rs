//! Owns the device's upload: saved, begun, continued on whatever connection there is, complete.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::limits::MAX_CONTACT_LOG_ENTRIES;
use bluetrace_protocol::message::ErrorCode;
use bluetrace_protocol::session::client::ClientSession;
use bluetrace_protocol::{ContactLog, ContactLogEntry, UploadCode, UploadId, UploadSummary};
use rand::Rng;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::Engine;
use super::event::{DeviceEvent, NextTry, UnfinishedUpload};
use super::outbox::Done;
use super::pending_upload::PendingUpload;
use crate::files;
use crate::words::in_words;

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload {
    pending: PendingUpload,
    acknowledged: u32,
    /// How many of them the front-end knows of.
    told: u32,
    /// Whether the authority may have something of it. One of which it has nothing can become part of another.
    may_be_begun: bool,
    state: State,
    /// Since the authority last acknowledged more than before.
    failures: u32,
    done: Option<Done>,
}

#[derive(Debug)]
enum State {
    /// On its way to the disk.
    Saving(JoinHandle<io::Result<()>>),
    /// Refused, which is on its way to the disk, and a code that was refused out of the file.
    Marking(JoinHandle<io::Result<()>>),
    /// Not before then, on the next occasion.
    Waiting(Instant),
    /// The authority was asked to take it.
    Running,
    /// The authority has failed too often in this session.
    Failed,
    /// The authority does not want it: it waits for its user. What made it go then may long be over, and who was refused may
    /// have thought better of it.
    Refused,
}

impl Upload {
    /// One that an earlier run left.
    pub(super) fn found(pending: PendingUpload) -> Self {
        let acknowledged = pending.refused_at.unwrap_or_default();
        let is_refused = pending.refused_at.is_some();
        Self {
            pending,
            acknowledged,
            told: 0,
            may_be_begun: !is_refused || acknowledged > 0,
            state: if is_refused { State::Refused } else { State::Waiting(Instant::now()) },
            failures: 0,
            done: None,
        }
    }

    /// Waits until an upload is saved; for ever if none is being saved. Nothing is lost if the wait is given up.
    pub(super) async fn saved(upload: &mut Option<Self>) -> io::Result<()> {
        match upload {
            Some(Self { state: State::Saving(work) | State::Marking(work), .. }) => {
                work.await.map_err(io::Error::other).flatten()
            }
            Some(_) | None => std::future::pending().await,
        }
    }

    /// How it stands, with the file that it is kept in.
    pub(super) fn status(&self, file: PathBuf) -> UnfinishedUpload {
        let (acknowledged, total) = self.progress();
        let records = &self.pending.records;
        UnfinishedUpload {
            acknowledged,
            total,
            heard: records.first().zip(records.last()).map(|(first, last)| (first.received, last.received)),
            is_refused: matches!(self.state, State::Marking(_) | State::Refused),
            file,
        }
    }

    /// Records acknowledged, and in all.
    fn progress(&self) -> (u32, u32) {
        (self.acknowledged, u32::try_from(self.pending.records.len()).unwrap_or(u32::MAX))
    }

    fn acknowledge(&mut self, acknowledged: u32) {
        if acknowledged > self.acknowledged {
            self.failures = 0;
        }
        self.acknowledged = acknowledged;
    }
}

impl State {
    /// What is being written, if anything is.
    fn into_work(self) -> Option<JoinHandle<io::Result<()>>> {
        match self {
            Self::Saving(work) | Self::Marking(work) => Some(work),
            Self::Waiting(_) | Self::Running | Self::Failed | Self::Refused => None,
        }
    }
}

impl Engine {
    /// The user wants the log uploaded.
    pub(super) fn on_upload(&mut self, code: Option<UploadCode>, done: Done) {
        match &self.upload {
            Some(upload) if upload.may_be_begun || matches!(upload.state, State::Running) => {
                self.go_on_first(code, done);
            }
            Some(_) | None => self.new_upload(code, Some(done)),
        }
    }

    /// An upload that the authority may know goes on as it is, since its records have their places there. It takes the code
    /// if it was waiting; else another upload follows it, if there is something for one.
    fn go_on_first(&mut self, code: Option<UploadCode>, done: Done) {
        let is_connected = self.is_connected();
        let Some(upload) = &mut self.upload else { return };
        let takes_code = code.is_some() && !matches!(upload.state, State::Saving(_) | State::Running);
        let beyond = beyond(&upload.pending.records, self.keeper.log()).len();
        let is_followed = !takes_code && (beyond > 0 || code.is_some());
        let (acknowledged, total) = upload.progress();
        self.outbox.tell(DeviceEvent::UploadUnderWay { acknowledged, total, beyond, is_followed });

        let is_refused = matches!(upload.state, State::Marking(_) | State::Refused);
        upload.state = match mem::replace(&mut upload.state, State::Refused) {
            state @ (State::Saving(_) | State::Running) => state,
            state @ (State::Marking(_) | State::Refused | State::Waiting(_) | State::Failed) => {
                if takes_code || is_refused {
                    upload.pending.code = code.clone().or(upload.pending.code.take());
                    upload.pending.refused_at = None;
                    State::Saving(save(&upload.pending, self.files.upload(), state.into_work()))
                } else {
                    // an official may have lifted what it waits for
                    State::Waiting(Instant::now())
                }
            }
        };
        // while the authority is away nobody waits for it
        let (waits, over) = if is_connected { (Some(done), None) } else { (None, Some(done)) };
        let earlier = if is_followed {
            self.upload_next.replace((waits, code)).and_then(|(done, _)| done)
        } else {
            mem::replace(&mut upload.done, waits)
        };
        self.outbox.done(earlier);
        self.outbox.done(over);
        self.begin_upload();
    }

    /// An upload of the log, and of what is kept in one that the authority has nothing of: that one is replaced, under another
    /// id, since what has been heard since the first attempt matters as much, and there is one code for all of it.
    fn new_upload(&mut self, code: Option<UploadCode>, done: Option<Done>) {
        let replaced = self.upload.take();
        let mut records = replaced.as_ref().map(|upload| upload.pending.records.to_vec()).unwrap_or_default();
        let kept = records.len();
        let added = beyond(&records, self.keeper.log());
        records.extend(added);
        if records.is_empty() {
            self.outbox.tell(DeviceEvent::UploadEmpty);
            return self.outbox.done(done);
        }
        records.sort_by_key(|entry| entry.received);
        let surplus = records.len().saturating_sub(MAX_CONTACT_LOG_ENTRIES);
        records.drain(..surplus);
        let records: Arc<[_]> = records.into();
        let id = random_upload_id(&mut self.generator);
        let is_connected = self.is_connected();
        let kept = kept.saturating_sub(surplus);
        self.outbox.tell(DeviceEvent::UploadStarted { records: Arc::clone(&records), kept, is_connected });
        let mut pending = PendingUpload { id, records, code, refused_at: None };
        let mut before = None;
        if let Some(replaced) = replaced {
            pending.code = pending.code.or(replaced.pending.code);
            before = replaced.state.into_work();
            self.outbox.done(replaced.done);
        }
        let state = State::Saving(save(&pending, self.files.upload(), before));
        // while the authority is away nobody waits for it
        let (done, over) = if is_connected { (done, None) } else { (None, done) };
        self.outbox.done(over);
        self.upload = Some(Upload { pending, acknowledged: 0, told: 0, may_be_begun: false, state, failures: 0, done });
    }

    fn is_connected(&self) -> bool {
        self.session.as_ref().is_some_and(ClientSession::is_member)
    }

    pub(super) fn on_upload_saved(&mut self, saved: io::Result<()>) {
        if let Err(error) = saved {
            // it goes all the same, and only a kill of this device could lose it
            self.outbox.tell(DeviceEvent::FileFailing { file: self.files.upload(), why: in_words(error) });
        }
        if let Some(upload) = &mut self.upload {
            let is_refused = matches!(upload.state, State::Marking(_));
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
        let PendingUpload { id, records, code, refused_at: _ } = pending.clone();
        let Some((session, out)) = self.member() else { return };
        session.upload_with_code(&id, code, records, out);
        if let Some(upload) = &mut self.upload {
            upload.state = State::Running;
        }
    }

    pub(super) fn on_upload_begun(&mut self, acknowledged: u32, total: u32) {
        let Some(upload) = &mut self.upload else { return };
        upload.may_be_begun = true;
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
        let next_try = if code == ErrorCode::UploadNotAuthorised.as_str() {
            // a code that is not good is not tried again, and an upload that was let in once needs none
            upload.pending.code = None;
            upload.may_be_begun = upload.acknowledged > 0;
            NextTry::WithCode
        } else {
            next_try(code, upload.failures, retry_after)
        };
        upload.state = match next_try {
            NextTry::In(wait) => State::Waiting(Instant::now() + wait),
            NextTry::NextSession => State::Failed,
            NextTry::WhenAsked | NextTry::WithCode => {
                upload.pending.refused_at = Some(upload.acknowledged);
                State::Marking(save(&upload.pending, self.files.upload(), None))
            }
        };
        let done = upload.done.take();
        self.outbox.tell(DeviceEvent::UploadFailed { why: message, next_try, file: self.files.upload() });
        self.outbox.done(done);
        let next = self.upload_next.take();
        self.outbox.done(next.and_then(|(done, _)| done));
    }

    /// The connection was lost. The upload goes on with the next, unless it was refused.
    pub(super) fn on_upload_interrupted(&mut self) {
        let Some(upload) = &mut self.upload else { return };
        match upload.state {
            State::Running => {
                upload.may_be_begun = true;
                upload.state = State::Waiting(Instant::now());
            }
            // a server that closes after each failure is not asked in a loop
            State::Failed => upload.state = State::Waiting(Instant::now() + wait_after(upload.failures)),
            State::Saving(_) | State::Marking(_) | State::Waiting(_) | State::Refused => {}
        }
    }

    pub(super) fn is_upload_running(&self) -> bool {
        matches!(&self.upload, Some(Upload { state: State::Running, .. }))
    }
}

/// A name that no other upload has: a random UUID.
#[expect(clippy::expect_used, reason = "the text of a UUID is 36 graphic characters")]
pub(crate) fn random_upload_id(generator: &mut impl Rng) -> UploadId {
    let mut bytes = [0; 16];
    generator.fill_bytes(&mut bytes);
    let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
    UploadId::parse(&id.to_string()).expect("a UUID is an upload id")
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

/// The entries of a log that are not among those of an upload, oldest first. What was heard twice in a second is there twice.
fn beyond(records: &[ContactLogEntry], log: &ContactLog) -> Vec<ContactLogEntry> {
    let mut held: HashMap<&ContactLogEntry, usize> = HashMap::with_capacity(records.len());
    for record in records {
        *held.entry(record).or_default() += 1;
    }
    let entries = log.iter().filter(|entry| match held.get_mut(*entry) {
        Some(count @ 1..) => {
            *count -= 1;
            false
        }
        Some(0) | None => true,
    });
    entries.cloned().collect()
}

/// When an upload is tried again that has failed so often, the last time with this code. The authority knows best after how
/// long: trying sooner would only be refused again.
fn next_try(code: &str, failures: u32, retry_after: Option<Duration>) -> NextTry {
    let passing = [ErrorCode::Unavailable, ErrorCode::RateLimited, ErrorCode::NoUpload];
    let is_fault = code == ErrorCode::Internal.as_str();
    if passing.iter().any(|passing| passing.as_str() == code) || is_fault && failures <= RETRIES_OF_A_FAULT {
        return NextTry::In(retry_after.unwrap_or_else(|| wait_after(failures)));
    }
    // the authority says that the same will not succeed; a fault of its own may be mended by then
    if is_fault { NextTry::NextSession } else { NextTry::WhenAsked }
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
    use bluetrace_protocol::Timestamp;

    use super::*;

    fn tries(code: &str) -> Vec<NextTry> {
        (1..=8).map(|failures| next_try(code, failures, None)).collect()
    }

    fn seconds(seconds: u64) -> NextTry {
        NextTry::In(Duration::from_secs(seconds))
    }

    #[test]
    fn what_may_pass_is_tried_again_ever_more_seldom() {
        for code in ["unavailable", "rate_limited", "no_upload"] {
            assert_eq!(tries(code), [5, 10, 20, 40, 80, 160, 160, 160].map(seconds), "{code}");
        }
    }

    #[test]
    fn a_fault_of_the_authority_is_tried_again_a_few_times_and_a_refusal_never_by_itself() {
        assert_eq!(tries("internal")[..3], [5, 10, 20].map(seconds));
        assert_eq!(tries("internal")[3..], [NextTry::NextSession; 5]);
        for code in ["bad_count", "too_large", "something new"] {
            assert_eq!(tries(code), [NextTry::WhenAsked; 8], "{code}");
        }
    }

    #[test]
    fn what_a_log_holds_beyond_an_upload_is_counted_as_often_as_it_was_heard() {
        let entry = |line: &str| ContactLogEntry::parse(line, Timestamp::MIN).unwrap();
        let line =
            |id, second| format!("{id:020}, 13/05/2020 17:54:06, 13/05/2020 18:09:05, 13/05/2020 17:58:{second:02}");
        let mut log = ContactLog::new(180);
        for (id, second) in [(1, 1), (2, 2), (2, 2), (1, 3)] {
            let ContactLogEntry { record, received } = entry(&line(id, second));
            log.heard(record, received);
        }
        // what the log has forgotten meanwhile is no matter
        let uploaded = [(9, 0), (1, 1), (2, 2)].map(|(id, second)| entry(&line(id, second)));
        assert_eq!(beyond(&uploaded, &log), [(2, 2), (1, 3)].map(|(id, second)| entry(&line(id, second))));
        assert_eq!(beyond(&[], &log).len(), 4);
    }
}
