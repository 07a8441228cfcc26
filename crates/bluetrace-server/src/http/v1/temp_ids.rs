//! Owns the fetch of `TempIDs`.

use std::sync::Arc;

use axum::extract::State;
use bluetrace_authority::Member;
use bluetrace_protocol::limits::MAX_TEMP_IDS;
use bluetrace_protocol::{Record, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::console::ConsoleEvent;
use crate::http::Api;
use crate::http::body::{Json, whole_number};
use crate::http::callers::Caller;
use crate::http::problem::{Problem, ProblemBody, ProblemCode};

/// How many `TempIDs`.
#[derive(Deserialize, ToSchema)]
pub(crate) struct TempIdsRequest {
    /// 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    #[serde(deserialize_with = "whole_number")]
    count: u32,
}

/// `TempIDs` with consecutive windows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TempIdsBody {
    temp_ids: Vec<TempIdBody>,
    /// When it is time to fetch more, Unix seconds: half of them are used up then.
    refresh: i64,
    /// The server's clock, Unix seconds.
    now: i64,
}

/// A `TempID` and its window, both ends inclusive.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TempIdBody {
    temp_id: String,
    /// From when on it may be shown, Unix seconds.
    start: i64,
    /// Until when, Unix seconds.
    expiry: i64,
}

/// Issues `TempIDs` with consecutive windows, the first of which begins now.
#[utoipa::path(
    post, path = "/v1/temp-ids", tag = "temp-ids", request_body = TempIdsRequest, security(("access_token" = [])),
    responses(
        (status = OK, description = "The TempIDs, in the order of their windows", body = TempIdsBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn fetch(
    State(api): State<Arc<Api>>,
    Caller(member): Caller,
    Json(request): Json<TempIdsRequest>,
) -> Result<Json<TempIdsBody>, Problem> {
    if !(1..=MAX_TEMP_IDS).contains(&request.count) {
        return Err(Problem::new(ProblemCode::Invalid, format!("`count` is 1 to {MAX_TEMP_IDS}")));
    }
    let now = api.now();
    let records = issue(&api, &member, request.count, now).await?;
    let refresh = refresh_at(&records, now).as_unix();
    let temp_ids = records.into_iter().map(|Record { temp_id, window }| TempIdBody {
        temp_id: temp_id.reveal().to_owned(),
        start: window.start().as_unix(),
        expiry: window.expiry().as_unix(),
    });
    Ok(Json(TempIdsBody { temp_ids: temp_ids.collect(), refresh, now: now.as_unix() }))
}

/// Issues `TempIDs` within the budgets for it, and shows the operator.
pub(crate) async fn issue(api: &Api, member: &Member, count: u32, now: Timestamp) -> Result<Vec<Record>, Problem> {
    api.budgets.temp_ids(member.account)?;
    let _place = api.budgets.issues.enter().await?;
    let issued = api.shared.authority.issue_temp_ids(member, count, now).await;
    let records = issued.map_err(|error| api.failure(&error))?.ok_or_else(|| api.account_gone(member))?;
    if let Some(first) = records.first() {
        let (username, first) = (member.username.clone(), first.temp_id.clone());
        api.shared.console.show(ConsoleEvent::TempIdsIssued { username, first, count });
    }
    api.metrics.issued(count);
    Ok(records)
}

/// When half of the `TempIDs` are used up, and 12 hours from now at the latest (`OpenTrace`'s interval).
pub(crate) fn refresh_at(records: &[Record], now: Timestamp) -> Timestamp {
    const LATEST_S: i64 = 12 * 60 * 60;
    let span = records.last().map_or(0, |last| last.window.expiry().seconds_since(now));
    now.plus((span / 2).clamp(0, LATEST_S))
}
