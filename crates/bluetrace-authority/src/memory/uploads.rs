//! Owns uploads, and the notices that come of them, as the store in memory keeps them.

use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::{Timestamp, UploadSummary, Uploaded};

use super::state::{Mortal, Notice, State, Upload, rows_in};
use crate::code_book::Redemption;
use crate::store::{
    Appended, CodeCheck, NewNotice, NoticeId, StoreError, UploadBegun, UploadCodeId, UploadCompleted, UploadKey,
    UploadRequest,
};

impl State {
    pub(super) fn begin_upload(&mut self, request: UploadRequest, now: Timestamp) -> Result<UploadBegun, StoreError> {
        let UploadRequest { account, upload, records, forget_at, code } = request;
        if records > MAX_UPLOAD_RECORDS {
            return Err(StoreError::Failed("an upload of so many records".into()));
        }
        if !self.accounts.contains_key(&account) {
            return Ok(UploadBegun::NoAccount);
        }
        let name = (account, upload.clone());
        if let Some(key) = self.upload_names.get(&name)
            && let Some(row) = self.uploads.get(key).filter(|row| now < row.forget_at)
        {
            if row.records != records {
                return Ok(UploadBegun::Conflict { records: row.records });
            }
            let (key, durable, summary) = (*key, row.durable(), row.finished.map(|(_, summary)| summary));
            let is_let_in = code == CodeCheck::NotRequired || summary.is_some() || self.codes.lets_in(key, now);
            return Ok(match if is_let_in { Ok(None) } else { self.codes.check(account, &upload, code, now) } {
                Ok(code) => {
                    self.redeem_code(code, Redemption { account, upload: Some(key), forget_at }, now);
                    UploadBegun::Open { key, durable, summary }
                }
                Err(refused) => refused,
            });
        }
        let code = match self.codes.check(account, &upload, code, now) {
            Ok(code) => code,
            Err(refused) => return Ok(refused),
        };
        if let Some(forgotten) = self.upload_names.get(&name).and_then(|key| self.uploads.get_mut(key)) {
            forgotten.account = None;
        }
        self.last_upload += 1;
        let key = UploadKey(self.last_upload);
        let stored = Vec::new();
        let row = Upload { account: Some(account), id: upload, records, begun: now, forget_at, stored, finished: None };
        self.uploads.insert(key, row);
        self.upload_names.insert(name, key);
        self.mortal.insert((forget_at, Mortal::Upload(key)));
        self.redeem_code(code, Redemption { account, upload: Some(key), forget_at }, now);
        Ok(UploadBegun::Open { key, durable: 0, summary: None })
    }

    /// Redeems the code that lets an upload in, if it needed one.
    fn redeem_code(&mut self, code: Option<UploadCodeId>, redemption: Redemption, now: Timestamp) {
        let before = code.and_then(|code| self.codes.redeem(code, redemption, now));
        if let Some(before) = before {
            self.drop_upload(before);
        }
    }

    /// Takes an unfinished upload out of sight. [`Self::expire`] deletes it.
    pub(super) fn drop_upload(&mut self, key: UploadKey) {
        let Some(row) = self.uploads.get_mut(&key) else { return };
        if let Some(account) = row.account.take() {
            self.upload_names.remove(&(account, row.id.clone()));
        }
        self.mortal.remove(&(row.forget_at, Mortal::Upload(key)));
        row.forget_at = Timestamp::MIN;
        self.mortal.insert((row.forget_at, Mortal::Upload(key)));
    }

    pub(super) fn append_records(
        &mut self,
        upload: UploadKey,
        first: u32,
        records: Vec<Uploaded>,
    ) -> Result<Option<Appended>, StoreError> {
        let Some(row) = self.upload_in_sight(upload) else { return Ok(None) };
        let before = row.durable();
        let known = before.checked_sub(first).ok_or_else(|| StoreError::Failed("records are missing".into()))?;
        let free = row.records.saturating_sub(before);
        row.stored.extend(records.into_iter().skip(rows_in(known)).take(rows_in(free)));
        Ok(Some(Appended { before, durable: row.durable() }))
    }

    pub(super) fn complete_upload(
        &mut self,
        upload: UploadKey,
        summary: UploadSummary,
        notices: Vec<NewNotice>,
        now: Timestamp,
    ) -> UploadCompleted {
        let Some(row) = self.upload_in_sight(upload) else { return UploadCompleted::NoUpload };
        if row.finished.is_some() {
            return UploadCompleted::Before;
        }
        let Some(uploader) = row.account else { return UploadCompleted::NoUpload };
        row.finished = Some((now, summary));
        self.codes.complete(upload);
        for NewNotice { account, notice, forget_at } in notices {
            if self.accounts.contains_key(&account) {
                self.last_notice += 1;
                let id = NoticeId(self.last_notice);
                self.notices.insert((account, id), Notice { content: notice, uploader, forget_at, is_read: false });
                self.mortal.insert((forget_at, Mortal::Notice(account, id)));
            }
        }
        UploadCompleted::Now
    }

    fn upload_in_sight(&mut self, upload: UploadKey) -> Option<&mut Upload> {
        self.uploads.get_mut(&upload).filter(|row| row.account.is_some())
    }

    /// Deletes up to `most` records of an upload, the last ones first, and returns how many.
    pub(super) fn delete_records(&mut self, key: UploadKey, most: u32) -> u32 {
        let Some(row) = self.uploads.get_mut(&key) else { return 0 };
        let before = row.durable();
        let keep = before.saturating_sub(most);
        row.stored.truncate(rows_in(keep));
        before - keep
    }

    pub(super) fn delete_upload(&mut self, key: UploadKey) {
        if let Some(Upload { account: Some(account), id, .. }) = self.uploads.remove(&key) {
            self.upload_names.remove(&(account, id));
        }
    }
}
