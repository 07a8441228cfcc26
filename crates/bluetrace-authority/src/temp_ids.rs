//! Owns the registry issuer: `TempIDs` drawn at random, checked for uniqueness and remembered with their owner
//! (PROTOCOL sections 1 and 5).

use bluetrace_protocol::{Record, TempId, Timestamp, Window};

use crate::authority::{Authority, AuthorityError, Member};
use crate::store::{ImportedTempId, TempIdImported, TempIdsIssued};

/// How often taken ids are drawn anew before the generator is believed to be broken. One draw in 10^20 is taken by chance.
const MAX_DRAWS: u32 = 16;

impl Authority {
    /// Issues `count` `TempIDs` with consecutive windows, the first of which begins now. `None` if the account has been
    /// removed.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn issue_temp_ids(
        &self,
        member: &Member,
        count: u32,
        now: Timestamp,
    ) -> Result<Option<Vec<Record>>, AuthorityError> {
        let lifetime = i64::from(self.policy.temp_id_lifetime_s.max(1));
        let mut records = Vec::new();
        let mut start = now;
        for _ in 0..count {
            let window = Window::new(start, start.plus(lifetime - 1))
                .map_err(|error| AuthorityError::Internal(format!("the TempIDs' lifetime: {error}")))?;
            records.push(Record { temp_id: self.with_generator(TempId::random), window });
            start = start.plus(lifetime);
        }
        let forget_at = self.forget_at(start);
        for _ in 0..MAX_DRAWS {
            match self.store.issue_temp_ids(member.account, records.clone(), forget_at).await? {
                TempIdsIssued::Issued => return Ok(Some(records)),
                TempIdsIssued::NoAccount => return Ok(None),
                TempIdsIssued::Taken(places) => {
                    for place in places {
                        if let Some(record) = records.get_mut(place) {
                            record.temp_id = self.with_generator(TempId::random);
                        }
                    }
                }
            }
        }
        Err(AuthorityError::Internal("random TempIDs are taken again and again".to_owned()))
    }

    /// Takes lines of `tempIDs.txt`; an outcome for each, in order. They are kept as long as what was issued now, however
    /// old their windows are.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn import_temp_ids(
        &self,
        lines: Vec<ImportedTempId>,
        now: Timestamp,
    ) -> Result<Vec<TempIdImported>, AuthorityError> {
        let last_expiry = lines.iter().map(|line| line.record.window.expiry()).max().unwrap_or(now);
        Ok(self.store.import_temp_ids(lines, self.forget_at(last_expiry.max(now)), now).await?)
    }

    /// When that is forgotten which was last of use at `moment`.
    pub(crate) fn forget_at(&self, moment: Timestamp) -> Timestamp {
        moment.plus(i64::from(self.policy.retention_s)).plus(1)
    }
}
