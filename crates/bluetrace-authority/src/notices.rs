//! Owns the way of an exposure notice to the person it is for.

use bluetrace_protocol::{ExposureNotice, Timestamp};

use crate::authority::{Authority, AuthorityError, Member};
use crate::store::NoticeId;

/// Most notices in one answer; the rest comes with the next.
const MAX_NOTICES: u32 = 100;

impl Authority {
    /// The member's unread notices, oldest first, up to 100. `None` if the account has been removed. `seen` is the last that is
    /// known to have reached the person.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn unread_notices(
        &self,
        member: &Member,
        seen: Option<NoticeId>,
        now: Timestamp,
    ) -> Result<Option<Vec<(NoticeId, ExposureNotice)>>, AuthorityError> {
        if let Some(seen) = seen {
            self.notices_read(member, seen).await?;
        }
        Ok(self.store.unread_notices(member.account, MAX_NOTICES, now).await?)
    }

    /// Notes that the member's notices up to `seen` have reached the person.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn notices_read(&self, member: &Member, seen: NoticeId) -> Result<(), AuthorityError> {
        Ok(self.store.mark_notices_read(member.account, seen).await?)
    }
}
