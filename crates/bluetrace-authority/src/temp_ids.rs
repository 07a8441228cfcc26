//! Owns issuing: `TempIDs` drawn at random, checked for uniqueness and remembered with their owner, or sealed and
//! forgotten (PROTOCOL sections 1, 5 and 7).

use bluetrace_protocol::{Record, TempId, Timestamp, Window};

use crate::authority::{Authority, AuthorityError, Member, Scheme};
use crate::keyring::EARLY_S;
use crate::store::{ImportedTempId, TempIdImported, TempIdsIssued};

/// How often taken ids are drawn anew before the generator is believed to be broken. One draw in 10^20 is taken by chance.
const MAX_DRAWS: u32 = 16;

/// Consecutive windows, each of the policy's lifetime.
struct WindowRow {
    start: Timestamp,
    count: u32,
    /// Whether the second between two of them belongs to both.
    is_shared: bool,
}

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
        self.issue(member, WindowRow { start: now, count, is_shared: false }, now).await
    }

    /// Issues `count` `TempIDs` with the windows of `OpenTrace`: the first begins a minute ago, so that a phone whose clock is
    /// slow has one to show, and each ends with the second in which the next begins. Of whichever scheme the authority has:
    /// the windows are the app's, the ids the authority's. `None` if the account has been removed.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn issue_opentrace_temp_ids(
        &self,
        member: &Member,
        count: u32,
        now: Timestamp,
    ) -> Result<Option<Vec<Record>>, AuthorityError> {
        self.issue(member, WindowRow { start: now.plus(-EARLY_S), count, is_shared: true }, now).await
    }

    async fn issue(
        &self,
        member: &Member,
        row: WindowRow,
        now: Timestamp,
    ) -> Result<Option<Vec<Record>>, AuthorityError> {
        let lifetime = i64::from(self.policy.temp_id_lifetime_s.max(1));
        let mut windows = Vec::with_capacity(usize::try_from(row.count).unwrap_or_default());
        let mut start = row.start;
        for _ in 0..row.count {
            let next = start.plus(lifetime);
            let expiry = if row.is_shared { next } else { next.plus(-1) };
            let window = Window::new(start, expiry)
                .map_err(|error| AuthorityError::Internal(format!("the TempIDs' lifetime: {error}")))?;
            windows.push(window);
            start = next;
        }
        match self.policy.temp_id_scheme {
            Scheme::Registry => self.register(member, windows, self.forget_at(start)).await,
            Scheme::Sealed => self.seal_temp_ids(member, &windows, now).await,
        }
    }

    /// Draws an id for each window, and stores them.
    async fn register(
        &self,
        member: &Member,
        windows: Vec<Window>,
        forget_at: Timestamp,
    ) -> Result<Option<Vec<Record>>, AuthorityError> {
        let draw = |window| Record { temp_id: self.with_generator(TempId::random), window };
        let mut records: Vec<_> = windows.into_iter().map(draw).collect();
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
