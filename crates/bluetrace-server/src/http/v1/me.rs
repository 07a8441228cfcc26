//! Owns withdrawal: an account and all that is its own gone, and the proof of it.

use std::sync::Arc;

use axum::extract::State;
use bluetrace_authority::withdrawals::Withdrawal;
use bluetrace_protocol::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::console::ConsoleEvent;
use crate::http::Api;
use crate::http::body::Json;
use crate::http::callers::Caller;
use crate::http::problem::{Problem, ProblemBody};

/// That an account was withdrawn.
#[derive(Serialize, ToSchema)]
pub(crate) struct WithdrawalBody {
    /// When, Unix seconds.
    withdrawn: i64,
    /// What shows it to the authority at any later time. It names nobody.
    proof: String,
}

/// A proof to look at.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ProofRequest {
    /// As `DELETE /v1/me` answered it.
    proof: String,
}

/// What a proof shows.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProofBody {
    /// Whether the authority has made it.
    valid: bool,
    /// When the withdrawal took place, Unix seconds; null if the proof is not valid.
    withdrawn: Option<i64>,
}

/// Withdraws: removes the account, its TempIDs, uploads and notices, for good. Its sessions end.
#[utoipa::path(
    delete, path = "/v1/me", tag = "withdrawal", security(("access_token" = [])),
    responses(
        (status = OK, description = "The account is gone", body = WithdrawalBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn withdraw(
    State(api): State<Arc<Api>>,
    Caller(member): Caller,
) -> Result<Json<WithdrawalBody>, Problem> {
    let withdrawn = api.shared.authority.withdraw(&member, api.now()).await.map_err(|error| api.failure(&error))?;
    let gone = api.account_gone(&member);
    let Withdrawal { at, proof } = withdrawn.ok_or(gone)?;
    api.shared.console.show(ConsoleEvent::Withdrawn { username: member.username.clone() });
    Ok(Json(WithdrawalBody { withdrawn: at.as_unix(), proof }))
}

/// Looks at a proof of withdrawal. Whoever holds one may ask.
#[utoipa::path(
    post, path = "/v1/withdrawals/check", tag = "withdrawal", request_body = ProofRequest,
    responses(
        (status = OK, description = "What the proof shows", body = ProofBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn check(
    State(api): State<Arc<Api>>,
    Json(request): Json<ProofRequest>,
) -> Result<Json<ProofBody>, Problem> {
    let withdrawn = api.shared.authority.withdrawn_at(&request.proof).map(Timestamp::as_unix);
    Ok(Json(ProofBody { valid: withdrawn.is_some(), withdrawn }))
}
