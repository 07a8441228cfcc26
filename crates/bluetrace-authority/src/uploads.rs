//! Owns uploads: contact logs taken exactly once, and the notices of those whom they lead to (PROTOCOL section 4.4).

use std::collections::HashMap;
use std::future::{poll_fn, ready};
use std::task::Poll;

use bluetrace_protocol::message::BeginUpload;
use bluetrace_protocol::{ExposureNotice, Timestamp, UploadId, UploadSummary, Uploaded};

use crate::authority::{Authority, AuthorityError, Member};
use crate::hex::hex;
use crate::store::{
    Appended, CodeCheck, NewNotice, StoreFuture, Told, UploadBegun, UploadCompleted, UploadFound, UploadKey,
    UploadRequest,
};
use crate::trace::{Tally, UploadReport, UploadTrace};

/// Records looked at together when an upload is traced: bounds memory, and is long enough for one sorted look-up to pay.
const PAGE: u32 = 10_000;

/// Earlier notices that are remembered while an upload is finished: bounds memory. Where there are more, somebody may be told twice.
const MAX_TOLD: u32 = 100_000;

/// What came of records of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordsAppended {
    /// So many of the upload's first records are durable.
    Durable(Appended),
    /// The upload is forgotten: it may be begun again.
    NoUpload,
    /// The account has been removed, and the upload with it.
    NoAccount,
}

/// What came of the end of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadFinished {
    /// It is complete.
    Complete {
        /// The count of its records by what became of them.
        summary: UploadSummary,
        /// What the console shows; `None` if the upload was complete before.
        report: Option<UploadReport>,
    },
    /// The upload is forgotten: it may be begun again.
    NoUpload,
    /// The account has been removed, and the upload with it.
    NoAccount,
}

impl Authority {
    /// Begins an upload, or finds the one this member has begun under the same id. One without an id gets a random one,
    /// and cannot be found again. Where the policy requires upload codes, one decides whether it is let in.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn begin_upload(
        &self,
        member: &Member,
        begin: BeginUpload,
        now: Timestamp,
    ) -> Result<UploadBegun, AuthorityError> {
        let upload = match begin.upload {
            Some(upload) => upload,
            None => self.random_upload_id()?,
        };
        let code = if self.policy.require_upload_codes {
            CodeCheck::Required(begin.code.as_ref().map(|code| self.codes.presented(code)))
        } else {
            CodeCheck::NotRequired
        };
        let (account, records, forget_at) = (member.account, begin.records, self.forget_at(now));
        let request = UploadRequest { account, upload, records, forget_at, code };
        Ok(self.store.begin_upload(request, now).await?)
    }

    /// Where the upload stands that this member has begun under this id; `None` if there is none.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn find_upload(
        &self,
        member: &Member,
        upload: UploadId,
        now: Timestamp,
    ) -> Result<Option<UploadFound>, AuthorityError> {
        Ok(self.store.find_upload(member.account, upload, now).await?)
    }

    /// Stores records of a member's upload from place `first` on.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn append_records(
        &self,
        member: &Member,
        upload: UploadKey,
        first: u32,
        records: Vec<Uploaded>,
    ) -> Result<RecordsAppended, AuthorityError> {
        Ok(match self.store.append_records(upload, first, records).await? {
            Some(appended) => RecordsAppended::Durable(appended),
            None if self.has_account(member).await? => RecordsAppended::NoUpload,
            None => RecordsAppended::NoAccount,
        })
    }

    /// Leaves a notice for each person met in an upload whose records are all durable. Those that `trace` has not are read from
    /// the store, and traced. Repeated, or cut off and repeated, it leaves each notice once.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer; the upload can then be finished later.
    pub async fn finish_upload(
        &self,
        member: &Member,
        upload: UploadKey,
        mut trace: UploadTrace,
        now: Timestamp,
    ) -> Result<UploadFinished, AuthorityError> {
        if trace.records() > 0 && !self.still_holds(&trace, now).await? {
            // somebody has withdrawn meanwhile, or a key was destroyed
            trace = UploadTrace::default();
        }
        let mut first = trace.records();
        let mut page = self.store.uploaded_records(upload, first, PAGE, now);
        loop {
            let records = page.await?;
            let Some(read) = u32::try_from(records.len()).ok().filter(|read| *read > 0) else { break };
            first += read;
            // the store reads the next page while this one is traced
            page = begun(self.store.uploaded_records(upload, first, PAGE, now)).await;
            self.trace_upload(member, &mut trace, &records, now).await?;
        }
        let mut tally = trace.tally;
        self.leave_out_told(member, &mut tally, now).await?;
        let forget_at = self.forget_at(now);
        let met = tally.everyone_met();
        let notices = met.iter().map(|(account, (from, to))| NewNotice {
            account: *account,
            notice: ExposureNotice { from: *from, to: *to, advice: self.policy.advice.clone() },
            forget_at,
        });
        let (summary, report) = (tally.summary, tally.report);
        Ok(match self.store.complete_upload(upload, summary, notices.collect(), now).await? {
            UploadCompleted::Now => UploadFinished::Complete { summary, report: Some(report) },
            UploadCompleted::Before => UploadFinished::Complete { summary, report: None },
            UploadCompleted::NoUpload if self.has_account(member).await? => UploadFinished::NoUpload,
            UploadCompleted::NoUpload => UploadFinished::NoAccount,
        })
    }

    /// Leaves out the encounters in times of which the people met have been told after an earlier upload of this member's: a log
    /// that is uploaded again alarms nobody again. This upload is not complete, and so not among the earlier ones; if it is, it
    /// leaves no notices at all.
    async fn leave_out_told(&self, member: &Member, tally: &mut Tally, now: Timestamp) -> Result<(), AuthorityError> {
        let mut people: Vec<_> = tally.encounters.iter().map(|(account, _)| *account).collect();
        people.sort_unstable();
        people.dedup();
        if people.is_empty() {
            return Ok(());
        }
        let told = self.store.told(member.account, people, MAX_TOLD, now).await?;
        let mut times = HashMap::<_, Vec<_>>::new();
        for Told { account, from, to } in told {
            times.entry(account).or_default().push((from, to));
        }
        tally.encounters.retain(|(account, window)| {
            let mut times = times.get(account).into_iter().flatten();
            !times.any(|(from, to)| *from <= window.start() && window.expiry() <= *to)
        });
        Ok(())
    }

    /// Whether a member's account is there still: asked where an upload is not.
    async fn has_account(&self, member: &Member) -> Result<bool, AuthorityError> {
        // the moment decides on the session's revocation alone, which is not looked at
        Ok(self.store.session_state(member.account, member.session, member.logged_in).await?.is_some())
    }

    fn random_upload_id(&self) -> Result<UploadId, AuthorityError> {
        UploadId::parse(&hex(&self.random_bytes())).map_err(|error| AuthorityError::Internal(error.to_string()))
    }
}

/// Lets a store begin with an answer that is wanted later.
async fn begun<T: Send + 'static>(mut answer: StoreFuture<'_, T>) -> StoreFuture<'_, T> {
    match poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
        Poll::Pending => answer,
        Poll::Ready(answer) => Box::pin(ready(answer)),
    }
}
