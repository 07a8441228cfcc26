//! Owns what a supervisor and a load balancer ask: whether the process lives, and whether it can work.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::Api;
use super::body::Json;
use super::problem::{Problem, ProblemBody, ProblemCode};
use crate::limits::HTTP_READY_WAIT;

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(crate) struct HealthBody {
    /// `ok`.
    status: &'static str,
}

/// Whether the process lives. It answers as long as it does.
#[utoipa::path(
    get, path = "/healthz", tag = "operation",
    responses(
        (status = OK, description = "It lives", body = HealthBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn live() -> Json<HealthBody> {
    Json(HealthBody { status: "ok" })
}

/// Whether the server can work: it is not ending, and its store answers.
#[utoipa::path(
    get, path = "/readyz", tag = "operation",
    responses(
        (status = OK, description = "It can work", body = HealthBody),
        (status = SERVICE_UNAVAILABLE, description = "`unavailable` or `shutting_down`", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn ready(State(api): State<Arc<Api>>) -> Result<Json<HealthBody>, Problem> {
    if api.shutdown.has_begun() {
        return Err(Problem::new(ProblemCode::ShuttingDown, "the server is shutting down"));
    }
    match timeout(HTTP_READY_WAIT, api.ask_store()).await {
        Ok(Ok(())) => Ok(Json(HealthBody { status: "ok" })),
        // whatever is wrong with it: this server cannot work, and the log says why
        Ok(Err(_)) => Err(Problem::new(ProblemCode::Unavailable, "the store cannot answer").retry_after(5)),
        Err(_) => Err(Problem::new(ProblemCode::Unavailable, "the store does not answer in time").retry_after(5)),
    }
}
