//! Owns the way in for requests that stand alone: access tokens, short-lived, which a session's resume token renews.

use bluetrace_protocol::Timestamp;

use crate::authority::{Authority, AuthorityError, Member};
use crate::store::SessionId;
use crate::tokens::{AccessToken, Claim};

/// What an access token says. Its session may have ended since: [`Authority::caller`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessClaim(Claim);

impl AccessClaim {
    /// The login it is of.
    pub const fn session(&self) -> SessionId {
        self.0.session
    }
}

impl Authority {
    /// Makes a token that shows requests to be a member's, and says when it ends: after the policy's `access_s`, and never after
    /// the session. Needs no store.
    pub fn access_token(&self, member: &Member, now: Timestamp) -> (AccessToken, Timestamp) {
        let expires = now.plus(i64::from(self.policy.access_s)).min(self.session_end(member));
        let Member { account, session, token_epoch, logged_in, .. } = *member;
        (self.access_tokens.access_token(&Claim { account, token_epoch, expires, session, logged_in }), expires)
    }

    /// Reads an access token; `None` if it is not this authority's, or has expired. Needs no store.
    pub fn access_claim(&self, token: &AccessToken, now: Timestamp) -> Option<AccessClaim> {
        self.access_tokens.open(token.reveal()).filter(|claim| now < claim.expires).map(AccessClaim)
    }

    /// Who shows an access token. `None` if the session was ended, or its account has another password or is gone.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn caller(&self, claim: AccessClaim, now: Timestamp) -> Result<Option<Member>, AuthorityError> {
        self.member_of(claim.0, now).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::MasterKey;
    use crate::memory::MemoryStore;
    use crate::passwords::InlinePool;
    use crate::store::AccountId;
    use crate::{AccessToken, Policy};
    use bluetrace_protocol::Username;

    #[test]
    fn an_access_token_is_good_for_ten_minutes_and_never_longer_than_its_session() {
        let (authority, now) = (authority(), at(1_000_000));
        let (token, expires) = authority.access_token(&member(now), now);
        assert_eq!(expires, now.plus(600));
        assert!(authority.access_claim(&token, expires.plus(-1)).is_some());
        assert_eq!(authority.access_claim(&token, expires), None);
        let nearly_over = now.plus(i64::from(authority.policy().session_s) - 5);
        assert_eq!(authority.access_token(&member(now), nearly_over).1, nearly_over.plus(5));
    }

    #[test]
    fn a_resume_token_gives_no_access_and_an_access_token_resumes_nothing() {
        let (authority, now) = (authority(), at(1_000_000));
        let resume = authority.resume_token(&member(now), now).0;
        assert_eq!(authority.access_claim(&AccessToken::parse(resume.reveal()).unwrap(), now), None);
        let access = authority.access_token(&member(now), now).0;
        assert_eq!(authority.tokens.open(access.reveal()), None);
    }

    fn authority() -> Authority {
        let store = Arc::new(MemoryStore::new());
        Authority::new(store, Arc::new(InlinePool), Policy::default(), &MasterKey::new([7; 32]), [0; 32])
    }

    fn member(logged_in: Timestamp) -> Member {
        let username = Username::parse("alice").unwrap();
        let (account, session) = (AccountId(1), SessionId([3; 16]));
        Member { account, username, session, token_epoch: 0, logged_in, user_id: None }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds).unwrap()
    }
}
