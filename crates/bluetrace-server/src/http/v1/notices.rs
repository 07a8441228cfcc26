//! Owns exposure notices: reading them, and saying that they were read.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use bluetrace_authority::store::NoticeId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::body::{Json, whole_number};
use crate::http::callers::Caller;
use crate::http::problem::{Problem, ProblemBody};

/// Unread notices, oldest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct NoticesBody {
    notices: Vec<NoticeBody>,
}

/// When the person was met, and what to do. Never by whom.
#[derive(Serialize, ToSchema)]
struct NoticeBody {
    /// For `POST /v1/notices/read`.
    id: i64,
    /// Begin of the first encounter's window, Unix seconds.
    from: i64,
    /// End of the last encounter's window, Unix seconds.
    to: i64,
    /// What the health authority advises.
    advice: String,
}

/// How far the person has read.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReadRequest {
    /// The `id` of the last notice that was shown to the person.
    #[serde(deserialize_with = "whole_number")]
    up_to: i64,
}

/// The account's unread notices, oldest first, up to 100. They stay unread until `POST /v1/notices/read` says otherwise.
#[utoipa::path(
    get, path = "/v1/notices", tag = "notices", security(("access_token" = [])),
    responses(
        (status = OK, description = "The notices; there may be none", body = NoticesBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn unread(State(api): State<Arc<Api>>, Caller(member): Caller) -> Result<Json<NoticesBody>, Problem> {
    let unread = api.shared.authority.unread_notices(&member, None, api.now()).await;
    let unread = unread.map_err(|error| api.failure(&error))?.ok_or_else(|| api.account_gone(&member))?;
    let notices = unread.into_iter().map(|(NoticeId(id), notice)| NoticeBody {
        id,
        from: notice.from.as_unix(),
        to: notice.to.as_unix(),
        advice: notice.advice,
    });
    Ok(Json(NoticesBody { notices: notices.collect() }))
}

/// Says that notices were shown to the person, up to and with one of them.
#[utoipa::path(
    post, path = "/v1/notices/read", tag = "notices", request_body = ReadRequest, security(("access_token" = [])),
    responses(
        (status = NO_CONTENT, description = "They are read"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    Caller(member): Caller,
    Json(request): Json<ReadRequest>,
) -> Result<StatusCode, Problem> {
    let read = api.shared.authority.notices_read(&member, NoticeId(request.up_to)).await;
    read.map_err(|error| api.failure(&error))?;
    Ok(StatusCode::NO_CONTENT)
}
