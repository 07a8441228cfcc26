//! Owns who makes a request: the access token in its header, and the member behind it ([`Caller`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use bluetrace_authority::store::{AccountId, SessionId};
use bluetrace_authority::{AccessToken, AuthorityError, Member};
use tokio::time::Instant;

use super::Api;
use super::problem::{Problem, ProblemCode};
use crate::limits::{HTTP_CALLER_MEMORY, HTTP_CALLERS};
use crate::listener::Peer;

/// Who makes the request. A handler that takes one is not reached without a good access token.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Arc<Member>);

/// Where the request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin(pub(crate) IpAddr);

/// Members who have just been looked up: a session that makes many requests costs the store one look in
/// [`HTTP_CALLER_MEMORY`]. So long another server's end of a session may go unnoticed here; this one's is noticed at once. While
/// the store is away, whoever was known goes on for as long as his access token is good.
#[derive(Debug, Default)]
pub(crate) struct Callers(Mutex<HashMap<SessionId, (Arc<Member>, Instant)>>);

impl Callers {
    /// The member behind a token; `None` if the token is not, or no longer, good.
    pub(crate) async fn of(&self, api: &Api, token: &str) -> Result<Option<Arc<Member>>, Problem> {
        let now = api.now();
        let authority = &api.shared.authority;
        let claim = AccessToken::parse(token).and_then(|token| authority.access_claim(&token, now));
        let Some(claim) = claim else { return Ok(None) };
        if let Some(member) = self.known(claim.session()) {
            return Ok(Some(member));
        }
        let asked = Instant::now();
        let member = match authority.caller(claim, now).await {
            Ok(Some(member)) => member,
            Ok(None) => {
                self.forget_session(claim.session());
                return Ok(None);
            }
            // what can be done without the store is: whatever else is asked for says that it is away
            Err(error @ AuthorityError::Unavailable(_)) => {
                let problem = api.failure(&error);
                return self.last_known(claim.session()).map(Some).ok_or(problem);
            }
            Err(error) => return Err(api.failure(&error)),
        };
        let member = Arc::new(member);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= HTTP_CALLERS {
            known.retain(|_, (_, since)| since.elapsed() < HTTP_CALLER_MEMORY);
        }
        if known.len() < HTTP_CALLERS {
            known.insert(claim.session(), (Arc::clone(&member), asked));
        }
        Ok(Some(member))
    }

    fn known(&self, session: SessionId) -> Option<Arc<Member>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (member, since) = known.get(&session)?;
        (since.elapsed() < HTTP_CALLER_MEMORY).then(|| Arc::clone(member))
    }

    fn last_known(&self, session: SessionId) -> Option<Arc<Member>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&session).map(|(member, _)| Arc::clone(member))
    }

    /// Forgets a session that has ended.
    pub(crate) fn forget_session(&self, session: SessionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }

    /// Forgets every session of an account that is gone.
    pub(crate) fn forget_account(&self, account: AccountId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (member, _)| member.account != account);
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let none = || Problem::new(ProblemCode::Unauthenticated, "send `Authorization: Bearer <access token>`");
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(none)?;
        let (scheme, token) = header.split_once(' ').ok_or_else(none)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(none());
        }
        let ended =
            || Problem::new(ProblemCode::Unauthenticated, "the access token is not, or no longer, good; renew it");
        api.callers.of(api, token.trim()).await?.map(Self).ok_or_else(ended)
    }
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>();
        peer.map(|peer| Self(peer.address.ip()))
            .ok_or_else(|| Problem::new(ProblemCode::Internal, "the peer is not known"))
    }
}
