//! Owns uploads within a session (section 4.4): records come in, are stored in batches, and are acknowledged.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem;

use super::commands::{Member, refuse_removed, report};
use super::{Failure, Question, Step, UPLOAD_FORGOTTEN, UploadHandle};
use crate::identity::UploadId;
use crate::limits::MAX_RECORD_BATCH;
use crate::message::{ErrorCode, Reply, RequestId};
use crate::upload::{UploadSummary, Uploaded};

/// An upload whose records are coming in. Invariant: `next <= records`, and `next` is the place behind `batch`.
#[derive(Debug)]
pub(super) struct OpenUpload {
    handle: UploadHandle,
    records: u32,
    /// Place of the record expected next.
    next: u32,
    /// Records that have come and are not stored yet.
    batch: Vec<Uploaded>,
    /// Which of them are malformed: their places and the ids to answer under.
    malformed: Vec<(u32, Option<RequestId>)>,
    /// Whether a record has come that is owed an acknowledgement. A malformed one is not: its `ER` answers it.
    owes_acknowledgement: bool,
    /// The id of the last such record.
    last_id: Option<RequestId>,
}

impl OpenUpload {
    /// The place that `following` tells, if a record of that place can be taken.
    ///
    /// A `following` of 0 also stands for a client that does not count: then the record is the next one.
    pub(super) fn place(&self, following: u32) -> Option<u32> {
        if following == 0 {
            return Some(self.next);
        }
        let place = self.records.checked_sub(following)?.checked_sub(1)?;
        (place <= self.next).then_some(place)
    }

    /// Takes a record at its place: a record that has come before adds nothing.
    fn take(
        &mut self,
        following: u32,
        record: Uploaded,
        id: Option<RequestId>,
    ) -> Result<(), (Option<RequestId>, String)> {
        let Some(place) = self.place(following) else {
            let expected = self.records.saturating_sub(self.next).saturating_sub(1);
            return Err((id, format!("`numOfSend` does not fit: the next record is the one that {expected} follow")));
        };
        if place < self.next {
            self.last_id = id;
            self.owes_acknowledgement = true;
            return Ok(());
        }
        match record {
            Uploaded::Malformed => self.malformed.push((place, id)),
            Uploaded::Record(_) => {
                self.last_id = id;
                self.owes_acknowledgement = true;
            }
        }
        self.batch.push(record);
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    /// Whether records have come that no answer covers yet.
    pub(super) fn has_unanswered(&self) -> bool {
        self.owes_acknowledgement || !self.malformed.is_empty()
    }
}

impl<M> Member<M> {
    pub(super) fn record(
        mut self,
        following: u32,
        record: Uploaded,
        id: Option<RequestId>,
        out: &mut Vec<u8>,
    ) -> Step<M> {
        let Some(upload) = &mut self.upload else {
            Reply::error(ErrorCode::NoUpload, "begin an upload first: a `UC` without `data`")
                .write_to(id.as_ref(), out);
            return self.wait();
        };
        match upload.take(following, record, id) {
            Ok(()) if upload.batch.len() >= MAX_RECORD_BATCH || upload.next == upload.records => self.flush(None),
            Ok(()) => self.wait(),
            Err((id, message)) => {
                Reply::error(ErrorCode::BadCount, message).write_to(id.as_ref(), out);
                self.wait()
            }
        }
    }

    /// Asks to store what has come, if anything has; `deferred` is the line that waits behind it.
    pub(super) fn flush(mut self, deferred: Option<&str>) -> Step<M> {
        match &mut self.upload {
            Some(upload) if upload.has_unanswered() => {
                let records = mem::take(&mut upload.batch);
                let stored = u32::try_from(records.len()).unwrap_or(u32::MAX);
                let (handle, first) = (upload.handle, upload.next.saturating_sub(stored));
                let then = Appending { member: self, deferred: deferred.map(ToOwned::to_owned) };
                Step::Ask(Question::Append { upload: handle, first, records, then })
            }
            Some(_) | None => self.wait(),
        }
    }
}

/// Takes the begin of an upload.
#[derive(Debug)]
pub struct Beginning<M> {
    pub(super) member: Member<M>,
    pub(super) id: Option<RequestId>,
    pub(super) records: u32,
    pub(super) upload: Option<UploadId>,
}

impl<M> Beginning<M> {
    /// Who uploads.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// The first `durable` records are stored already, 0 of a new upload.
    pub fn begun(mut self, handle: UploadHandle, durable: u32, out: &mut Vec<u8>) -> Step<M> {
        let expected = self.records.saturating_sub(durable);
        if expected == 0 {
            let then = Finishing { member: self.member, id: self.id, upload: self.upload, deferred: None };
            return Step::Ask(Question::Finish { upload: handle, then });
        }
        Reply::Upload { expected, upload: self.upload, summary: None }.write_to(self.id.as_ref(), out);
        self.member.upload = Some(Box::new(OpenUpload {
            handle,
            records: self.records,
            next: durable,
            batch: Vec::new(),
            malformed: Vec::new(),
            owes_acknowledgement: false,
            last_id: None,
        }));
        self.member.wait()
    }

    /// All records are durable, and this came of them.
    pub fn complete(self, summary: UploadSummary, out: &mut Vec<u8>) -> Step<M> {
        Reply::Upload { expected: 0, upload: self.upload, summary: Some(summary) }.write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// An upload of this id was begun with another number of records.
    pub fn conflict(self, records: u32, out: &mut Vec<u8>) -> Step<M> {
        let message = format!("this upload was begun with {records} records; begin another under another id");
        Reply::error(ErrorCode::BadCount, message).write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// The authority requires an upload code, and none was given.
    pub fn not_authorised(self, out: &mut Vec<u8>) -> Step<M> {
        let message = "an upload code of the health authority is needed";
        Reply::error(ErrorCode::UploadNotAuthorised, message).write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// The upload code given is none that this member can use; so many wrong ones are free before there is a pause.
    pub fn code_refused(self, left: u32, out: &mut Vec<u8>) -> Step<M> {
        let tries = if left == 1 { "try" } else { "tries" };
        let message = format!("this upload code is not valid, or used already ({left} {tries} left)");
        Reply::error(ErrorCode::UploadNotAuthorised, message).write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// Too many wrong upload codes were given: none is looked at for so many `seconds`.
    pub fn too_many_codes(self, seconds: i64, out: &mut Vec<u8>) -> Step<M> {
        let message =
            "too many wrong upload codes: none is looked at for a while, unless the health authority lifts that"
                .to_owned();
        let retry_after_s = u32::try_from(seconds).ok();
        Reply::Error { code: ErrorCode::RateLimited.as_str().to_owned(), message, retry_after_s }
            .write_to(self.id.as_ref(), out);
        self.member.wait()
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        refuse_removed(self.id.as_ref(), out)
    }

    /// There is no answer.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        self.member.fail(self.id.as_ref(), failure, out)
    }
}

/// Takes the storing of records.
#[derive(Debug)]
pub struct Appending<M> {
    member: Member<M>,
    deferred: Option<String>,
}

impl<M> Appending<M> {
    /// Who uploads.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// The upload's first `durable` records are stored.
    pub fn stored(mut self, durable: u32, out: &mut Vec<u8>) -> Step<M> {
        let Some(upload) = &mut self.member.upload else { return self.member.wait() };
        // another connection may have brought more
        upload.next = upload.next.max(durable);
        let malformed = mem::take(&mut upload.malformed);
        let last_id = upload.last_id.take();
        let owes_acknowledgement = mem::take(&mut upload.owes_acknowledgement);
        let (handle, expected) = (upload.handle, upload.records.saturating_sub(durable));
        for (place, id) in malformed {
            let message =
                format!("record {place} is not of the form <TempID>, <start>, <expiry>; it is counted as invalid");
            Reply::error(ErrorCode::BadRecord, message).write_to(id.as_ref(), out);
        }
        if expected == 0 {
            self.member.upload = None;
            let then = Finishing { member: self.member, id: last_id, upload: None, deferred: self.deferred };
            return Step::Ask(Question::Finish { upload: handle, then });
        }
        if owes_acknowledgement {
            Reply::Upload { expected, upload: None, summary: None }.write_to(last_id.as_ref(), out);
        }
        proceed(self.member, self.deferred, out)
    }

    /// The authority has forgotten the upload. It is let go, and the client begins it again.
    pub fn no_upload(mut self, out: &mut Vec<u8>) -> Step<M> {
        let id = self.member.upload.take().and_then(|upload| upload.last_id);
        Reply::error(ErrorCode::NoUpload, UPLOAD_FORGOTTEN).write_to(id.as_ref(), out);
        proceed(self.member, self.deferred, out)
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        let id = self.member.upload.and_then(|upload| upload.last_id);
        refuse_removed(id.as_ref(), out)
    }

    /// They are not. The upload is let go, so that records behind the gap are not taken: the client begins it again.
    pub fn failed(mut self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        let id = self.member.upload.take().and_then(|upload| upload.last_id);
        report(id.as_ref(), failure, out);
        proceed(self.member, self.deferred, out)
    }
}

/// Takes what comes of an upload.
#[derive(Debug)]
pub struct Finishing<M> {
    member: Member<M>,
    id: Option<RequestId>,
    upload: Option<UploadId>,
    deferred: Option<String>,
}

impl<M> Finishing<M> {
    /// Who uploads.
    pub const fn who(&self) -> &M {
        &self.member.who
    }

    /// It is complete.
    pub fn finished(self, summary: UploadSummary, out: &mut Vec<u8>) -> Step<M> {
        Reply::Upload { expected: 0, upload: self.upload, summary: Some(summary) }.write_to(self.id.as_ref(), out);
        proceed(self.member, self.deferred, out)
    }

    /// The authority has forgotten the upload: the client begins it again.
    pub fn no_upload(self, out: &mut Vec<u8>) -> Step<M> {
        Reply::error(ErrorCode::NoUpload, UPLOAD_FORGOTTEN).write_to(self.id.as_ref(), out);
        proceed(self.member, self.deferred, out)
    }

    /// The account has been removed: the session is over.
    pub fn no_account(self, out: &mut Vec<u8>) -> Step<M> {
        refuse_removed(self.id.as_ref(), out)
    }

    /// It is not; every record is durable, and the client begins it again to learn the rest.
    pub fn failed(self, failure: Failure, out: &mut Vec<u8>) -> Step<M> {
        report(self.id.as_ref(), failure, out);
        proceed(self.member, self.deferred, out)
    }
}

/// Goes on with the line that waited behind an upload's records.
fn proceed<M>(member: Member<M>, deferred: Option<String>, out: &mut Vec<u8>) -> Step<M> {
    match deferred {
        Some(line) => member.line(&line, out),
        None => member.wait(),
    }
}
