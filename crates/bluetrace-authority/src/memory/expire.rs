//! Owns forgetting, as the store in memory does it.

use bluetrace_protocol::Timestamp;

use super::state::{Mortal, State};
use crate::store::{Expired, MAX_EXPIRED_ROWS};

impl State {
    pub(super) fn expire(&mut self, now: Timestamp) -> Expired {
        let mut rows = self.codes.expire(MAX_EXPIRED_ROWS, now);
        rows += self.registrations.expire(MAX_EXPIRED_ROWS - rows, now);
        if rows == MAX_EXPIRED_ROWS {
            let is_mortal = self.mortal.first().is_some_and(|(forget_at, _)| *forget_at <= now);
            let more = is_mortal || self.codes.has_forgotten(now) || self.registrations.has_forgotten(now);
            return Expired { rows: u64::from(rows), more };
        }
        while let Some((forget_at, row)) = self.mortal.first().filter(|(forget_at, _)| *forget_at <= now).cloned() {
            let left = MAX_EXPIRED_ROWS - rows;
            if left == 0 {
                return Expired { rows: u64::from(rows), more: true };
            }
            match &row {
                Mortal::TempId(id) => {
                    self.temp_ids.remove(id);
                }
                Mortal::Upload(key) => {
                    let deleted = self.delete_records(*key, left - 1);
                    rows += deleted;
                    if self.uploads.get(key).is_some_and(|upload| !upload.stored.is_empty()) {
                        return Expired { rows: u64::from(rows), more: true };
                    }
                    self.delete_upload(*key);
                }
                Mortal::Notice(account, id) => {
                    self.notices.remove(&(*account, *id));
                }
                Mortal::Session(session) => {
                    self.revoked.remove(session);
                }
                Mortal::Stranger(username) => self.forget_stranger(username),
            }
            self.mortal.remove(&(forget_at, row));
            rows += 1;
        }
        Expired { rows: u64::from(rows), more: false }
    }
}
