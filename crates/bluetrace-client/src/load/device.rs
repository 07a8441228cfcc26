//! Owns one device of a load, whatever it speaks over: it comes in, comes back when it is cut off, fetches `TempIDs` and uploads; and
//! in the end asks again for each upload that the authority said was complete.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bluetrace_protocol::{Backoff, ContactLogEntry, UploadId, UploadSummary};
use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use rand::seq::IndexedRandom as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{Account, Failure, Link, Standing, Then};
use super::sent::{RecordsDigest, SentUpload};
use super::tally::{Measured, Tally};
use super::{Shared, until};
use crate::device::random_upload_id;

pub(super) struct LoadDevice<L> {
    shared: Arc<Shared>,
    account: Arc<Account>,
    link: L,
    generator: ChaCha12Rng,
    backoff: Backoff,
    stop: watch::Receiver<bool>,

    is_online: bool,
    has_temp_ids: bool,
    next_upload: Instant,
    uploads_left: u32,
    /// The upload that is not complete.
    upload: Option<Running>,
    /// Uploads that are complete, as the authority has said.
    complete: Vec<SentUpload>,
    /// How many of them have been asked for again.
    asked_again: usize,
}

/// How a device begins.
pub(super) struct Beginning {
    pub(super) account: Arc<Account>,
    /// Whence its randomness comes.
    pub(super) generator: ChaCha12Rng,
    pub(super) first_upload: Instant,
    /// Whether the user no longer wants load.
    pub(super) stop: watch::Receiver<bool>,
}

/// What a device is about.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Upload,
    /// To hear once more that what it uploaded is complete.
    Confirm,
}

/// An upload that is not complete.
#[derive(Debug)]
struct Running {
    id: UploadId,
    records: Arc<[ContactLogEntry]>,
    begun: Instant,
    acknowledged: u32,
}

impl<L: Link> LoadDevice<L> {
    pub(super) fn new(shared: Arc<Shared>, link: L, beginning: Beginning) -> Self {
        let Beginning { account, generator, first_upload, stop } = beginning;
        Self {
            account,
            link,
            generator,
            backoff: Backoff::new(),
            stop,
            is_online: false,
            has_temp_ids: false,
            next_upload: first_upload,
            uploads_left: shared.plan.uploads.unwrap_or(u32::MAX),
            upload: None,
            complete: Vec::new(),
            asked_again: 0,
            shared,
        }
    }

    /// Runs to the end of the plan.
    pub(super) async fn run(mut self) {
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        let outcome = tokio::select! {
            outcome = self.work() => outcome,
            () = patience(shared.ends_at, stop) => Err(NOT_IN_TIME.to_owned()),
        };
        if let Err(why) = outcome {
            self.tally().error(&why);
        }
        self.go_offline();
        let unconfirmed = self.complete.len().saturating_sub(self.asked_again);
        self.tally().count(|counts| {
            counts.ended += 1;
            counts.unconfirmed += u64::try_from(unconfirmed).unwrap_or(u64::MAX);
        });
        let unfinished = self.upload.take().filter(|upload| upload.acknowledged > 0);
        self.complete.extend(unfinished.map(|upload| upload.sent(&self.account)));
        self.shared.keep_account_of(self.complete);
    }

    /// # Errors
    /// Why there is no way on.
    async fn work(&mut self) -> Result<(), String> {
        self.persist(Phase::Upload).await?;
        let confirming = timeout(GRACE, self.persist(Phase::Confirm)).await;
        confirming.unwrap_or_else(|_| Err(NOT_IN_TIME.to_owned()))
    }

    /// Goes on until it is done, through whatever is in its way.
    async fn persist(&mut self, phase: Phase) -> Result<(), String> {
        loop {
            let Err(Failure { why, then }) = self.attempt(phase).await else { return Ok(()) };
            let wait = match then {
                Then::End | Then::LetBe => return Err(why),
                Then::ComeBack(wait) => {
                    self.go_offline();
                    wait
                }
                Then::AskAgain(wait) => wait,
            };
            self.tally().error(&why);
            sleep(wait + self.backoff.next_wait(&mut self.generator)).await;
        }
    }

    async fn attempt(&mut self, phase: Phase) -> Result<(), Failure> {
        if self.is_idle() && self.is_over() {
            return Ok(());
        }
        if !self.is_online {
            self.come_in().await?;
        }
        if self.is_online && !self.has_temp_ids {
            self.fetch_temp_ids().await?;
        }
        match phase {
            Phase::Upload => self.upload_all().await,
            Phase::Confirm => self.confirm_all().await,
        }
    }

    fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Whether it may begin no further upload.
    fn is_over(&self) -> bool {
        self.uploads_left == 0
            || *self.stop.borrow()
            || self.shared.ends_at.is_some_and(|ends_at| ends_at <= Instant::now())
    }

    /// Whether nothing of its own is at the authority, or on the way to it.
    fn is_idle(&self) -> bool {
        self.upload.is_none() && self.complete.is_empty() && !self.is_online
    }

    async fn come_in(&mut self) -> Result<(), Failure> {
        let (shared, is_idle) = (Arc::clone(&self.shared), self.is_idle());
        // a storm of passwords is not what is to be measured
        let _turn = if self.link.has_session() {
            None
        } else {
            tokio::select! {
                turn = shared.logins.acquire() => turn.ok(),
                // who has done nothing yet need not begin
                _ = self.stop.wait_for(|stopped| *stopped), if is_idle => return Ok(()),
                () = until(shared.ends_at), if is_idle => return Ok(()),
            }
        };
        let begun = Instant::now();
        let how = self.link.enter(&self.account).await?;
        shared.tally.took(how, begun.elapsed());
        shared.tally.count(|counts| counts.online += 1);
        self.is_online = true;
        self.backoff.reset();
        Ok(())
    }

    async fn fetch_temp_ids(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let records = self.link.temp_ids(self.shared.plan.temp_ids).await?;
        self.tally().took(Measured::TempIds, begun.elapsed());
        self.tally().count(|counts| counts.temp_ids += u64::try_from(records.len()).unwrap_or(u64::MAX));
        self.shared.overhear(&records);
        self.has_temp_ids = true;
        Ok(())
    }

    fn go_offline(&mut self) {
        if self.is_online {
            self.tally().count(|counts| counts.online = counts.online.saturating_sub(1));
        }
        self.is_online = false;
        self.link.close();
    }

    // ---- Uploads

    async fn upload_all(&mut self) -> Result<(), Failure> {
        loop {
            if self.upload.is_some() {
                self.go_on().await?;
                continue;
            }
            if self.is_over() {
                return Ok(());
            }
            let now = Instant::now();
            if self.next_upload <= now {
                self.uploads_left -= 1;
                self.next_upload = now.max(self.next_upload + self.shared.plan.every);
                self.upload = Some(self.new_upload(now));
                continue;
            }
            let next = self.shared.ends_at.map_or(self.next_upload, |end| end.min(self.next_upload));
            tokio::select! {
                failure = self.link.lost() => return Err(failure),
                () = sleep_until(next) => {}
                _ = self.stop.wait_for(|stopped| *stopped) => {}
            }
        }
    }

    fn new_upload(&mut self, now: Instant) -> Running {
        let id = random_upload_id(&mut self.generator);
        let received = self.shared.plan.clock.now();
        let heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let records = (0..self.shared.plan.records).map_while(|_| {
            let record = heard.choose(&mut self.generator)?.clone();
            Some(ContactLogEntry { record, received: received.plus(-self.generator.random_range(0..600)) })
        });
        let records = records.collect();
        Running { id, records, begun: now, acknowledged: 0 }
    }

    /// Goes on with the upload that is not complete.
    async fn go_on(&mut self) -> Result<(), Failure> {
        let Self { link, upload, shared, .. } = self;
        let Some(Running { id, records, acknowledged, begun }) = upload else { return Ok(()) };
        let tally = &shared.tally;
        let progress = |durable: u32| {
            let lost = acknowledged.saturating_sub(durable);
            tally.acknowledged(durable.saturating_sub(*acknowledged));
            tally.count(|counts| counts.lost_records += u64::from(lost));
            *acknowledged = durable;
        };
        match link.upload(id, records, progress).await {
            Ok(UploadSummary { records, invalid, .. }) => {
                tally.took(Measured::Upload, begun.elapsed());
                tally.acknowledged(records.saturating_sub(*acknowledged));
                tally.count(|counts| counts.uploads += 1);
                *acknowledged = records;
                for _ in 0..invalid {
                    tally.error("record refused");
                }
                let sent = self.upload.take().map(|upload| upload.sent(&self.account));
                self.complete.extend(sent);
                Ok(())
            }
            // nobody would take it another time
            Err(Failure { why, then: Then::LetBe }) => {
                tally.error(&why);
                tally.count(|counts| counts.lost_records += u64::from(*acknowledged));
                self.upload = None;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    // ---- Afterwards

    /// Asks for every upload again, and logs out.
    async fn confirm_all(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        while let (Some(sent), Some(blanks)) = (self.complete.get(self.asked_again), shared.blanks.get()) {
            let (records, standing) = (sent.records, self.link.standing(&sent.id, blanks).await);
            let lost = match &standing {
                Ok(Standing { durable, .. }) => records.abs_diff(*durable),
                Err(Failure { then: Then::LetBe, .. }) => records,
                Err(_) => 0,
            };
            shared.tally.count(|counts| counts.lost_records += u64::from(lost));
            match standing {
                Ok(Standing { is_complete: true, .. }) => shared.tally.count(|counts| counts.confirmed += 1),
                Ok(_) => {
                    self.asked_again += 1;
                    // what is missing is not to be sent
                    return Err(Failure::come_back("an upload is complete no more"));
                }
                Err(Failure { why, then: Then::LetBe }) => shared.tally.error(&why),
                Err(failure) => return Err(failure),
            }
            self.asked_again += 1;
        }
        if let Err(Failure { why, .. }) = self.link.leave().await {
            shared.tally.error(&why);
        }
        Ok(())
    }
}

impl Running {
    fn sent(self, account: &Account) -> SentUpload {
        let mut digest = RecordsDigest::default();
        let acknowledged = usize::try_from(self.acknowledged).unwrap_or(usize::MAX);
        for ContactLogEntry { record, received } in self.records.iter().take(acknowledged) {
            digest.add(record, Some(*received));
        }
        SentUpload {
            account: account.username.clone(),
            id: self.id,
            records: u32::try_from(self.records.len()).unwrap_or(u32::MAX),
            acknowledged: self.acknowledged,
            digest: digest.value(),
        }
    }
}

/// Waits until a device should have finished: some time behind the end of the plan, or behind the user's wish to end.
async fn patience(ends_at: Option<Instant>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = until(ends_at) => {}
        _ = stop.wait_for(|stopped| *stopped) => {}
    }
    sleep(GRACE).await;
}

const NOT_IN_TIME: &str = "not finished in time";

/// How long devices go on behind the end, to finish and to ask again.
const GRACE: Duration = Duration::from_mins(2);
