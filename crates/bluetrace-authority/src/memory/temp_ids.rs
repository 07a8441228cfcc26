//! Owns issued and imported `TempIDs`, as the store in memory keeps them.

use std::collections::BTreeSet;

use bluetrace_protocol::{Record, Timestamp};

use super::state::{Mortal, State, TempIdRow};
use crate::store::{AccountId, ImportedTempId, TempIdImported, TempIdsIssued};

impl State {
    pub(super) fn issue_temp_ids(
        &mut self,
        account: AccountId,
        ids: Vec<Record>,
        forget_at: Timestamp,
    ) -> TempIdsIssued {
        if !self.accounts.contains_key(&account) {
            return TempIdsIssued::NoAccount;
        }
        let mut drawn = BTreeSet::new();
        let mut taken = Vec::new();
        for (place, Record { temp_id, .. }) in ids.iter().enumerate() {
            if !drawn.insert(temp_id) || self.temp_ids.contains_key(temp_id) {
                taken.push(place);
            }
        }
        if !taken.is_empty() {
            return TempIdsIssued::Taken(taken);
        }
        for record in ids {
            self.store_temp_id(account, record, forget_at);
        }
        TempIdsIssued::Issued
    }

    pub(super) fn import_temp_id(
        &mut self,
        line: ImportedTempId,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> TempIdImported {
        if let Some(row) = self.temp_ids.get(&line.record.temp_id).filter(|row| now < row.forget_at) {
            return match self.names.get(&line.username) {
                Some(id) if *id == row.account => TempIdImported::Known,
                _ => TempIdImported::ClaimedByAnother,
            };
        }
        let account = match self.names.get(&line.username) {
            Some(id) => *id,
            None => self.create_account(line.username, now),
        };
        self.store_temp_id(account, line.record, forget_at);
        TempIdImported::Added
    }

    fn store_temp_id(&mut self, account: AccountId, record: Record, forget_at: Timestamp) {
        let Record { temp_id, window } = record;
        self.mortal.insert((forget_at, Mortal::TempId(temp_id.clone())));
        if let Some(old) = self.temp_ids.insert(temp_id.clone(), TempIdRow { account, window, forget_at })
            && old.forget_at != forget_at
        {
            self.mortal.remove(&(old.forget_at, Mortal::TempId(temp_id)));
        }
    }
}
