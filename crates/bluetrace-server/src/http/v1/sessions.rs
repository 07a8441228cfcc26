//! Owns logging in, renewing an access token and logging out.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use bluetrace_authority::Member;
use bluetrace_authority::accounts::LoggedIn;
use bluetrace_protocol::{Moment, Password, ResumeToken, Username};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::console::ConsoleEvent;
use crate::http::Api;
use crate::http::body::Json;
use crate::http::callers::{Caller, Origin};
use crate::http::problem::{Problem, ProblemBody, ProblemCode};

/// Who logs in.
#[derive(Deserialize, ToSchema)]
pub(crate) struct LoginRequest {
    /// 1 to 64 printable ASCII characters without spaces: a phone number in the field.
    #[schema(pattern = "^[!-~]{1,64}$")]
    username: String,
    /// At most 256 bytes: 64 characters of any kind.
    #[schema(format = Password, max_length = 64)]
    password: String,
}

/// What continues a session.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RenewRequest {
    /// As a login or a renewal answered it, over HTTP or over TCP.
    resume_token: String,
}

/// A session, and how long its tokens are good.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionBody {
    /// For the header `Authorization: Bearer <access token>`.
    access_token: String,
    /// When it ends, Unix seconds.
    access_expires: i64,
    /// For `POST /v1/session`, when the access token has ended. It replaces the one before.
    resume_token: String,
    /// When it ends, Unix seconds.
    resume_expires: i64,
    /// The server's clock, Unix seconds, from which a device learns how far its own is off.
    now: i64,
}

/// Logs in.
#[utoipa::path(
    post, path = "/v1/login", tag = "session", request_body = LoginRequest,
    responses(
        (status = OK, description = "The password was right", body = SessionBody),
        (status = UNAUTHORIZED, description = "`wrong_password`, with `attemptsLeft`", body = ProblemBody, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, description = "`blocked` or `rate_limited`, with `Retry-After`", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn login(
    State(api): State<Arc<Api>>,
    Origin(address): Origin,
    Json(request): Json<LoginRequest>,
) -> Result<Json<SessionBody>, Problem> {
    let invalid = |text: String| Problem::new(ProblemCode::Invalid, text);
    let username = Username::parse(&request.username).map_err(|error| invalid(error.to_string()))?;
    let password = Password::parse(&request.password).map_err(|error| invalid(error.to_string()))?;
    api.budgets.login(&username, address)?;
    let _place = api.budgets.logins.enter().await?;
    let clock = &*api.shared.clock;
    let blocked = |until: Moment| {
        let seconds = u32::try_from(until.seconds_to_wait(clock.moment())).unwrap_or(u32::MAX);
        Problem::new(ProblemCode::Blocked, "blocked due to multiple login failures").retry_after(seconds)
    };
    let logged_in = api.shared.authority.login(username, password, clock).await;
    match logged_in.map_err(|error| api.failure(&error))? {
        LoggedIn::Welcome(member) => {
            api.shared.console.show(ConsoleEvent::LoginOverHttp { username: member.username.clone() });
            Ok(Json(session(&api, &member)))
        }
        LoggedIn::Wrong { left } => {
            let problem = Problem::new(ProblemCode::WrongPassword, "the password is wrong; please try again");
            Err(problem.attempts_left(left))
        }
        LoggedIn::BlockedNow { until } | LoggedIn::Blocked { until } => Err(blocked(until)),
    }
}

/// Continues a session with its resume token: a new access token, and a new resume token.
#[utoipa::path(
    post, path = "/v1/session", tag = "session", request_body = RenewRequest,
    responses(
        (status = OK, description = "The session goes on", body = SessionBody),
        (status = UNAUTHORIZED, description = "`unauthenticated`: the resume token is not, or no longer, good; log in", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn renew(
    State(api): State<Arc<Api>>,
    Origin(address): Origin,
    Json(request): Json<RenewRequest>,
) -> Result<Json<SessionBody>, Problem> {
    api.budgets.renewal(address)?;
    let member = match ResumeToken::parse(&request.resume_token) {
        Some(token) => api.shared.authority.resume(&token, api.now()).await.map_err(|error| api.failure(&error))?,
        None => None,
    };
    let member = member.ok_or_else(|| {
        Problem::new(ProblemCode::Unauthenticated, "the resume token is not, or no longer, good; log in again")
    })?;
    Ok(Json(session(&api, &member)))
}

/// Logs out: the session's tokens are void. Other sessions of the account go on.
#[utoipa::path(
    delete, path = "/v1/session", tag = "session", security(("access_token" = [])),
    responses(
        (status = NO_CONTENT, description = "The session has ended"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn logout(State(api): State<Arc<Api>>, Caller(member): Caller) -> Result<StatusCode, Problem> {
    api.shared.authority.logout(&member, None, api.now()).await.map_err(|error| api.failure(&error))?;
    api.callers.forget_session(member.session);
    api.shared.console.show(ConsoleEvent::LogoutOverHttp { username: member.username.clone() });
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) fn session(api: &Api, member: &Member) -> SessionBody {
    let now = api.now();
    let (access_token, access_expires) = api.shared.authority.access_token(member, now);
    let (resume_token, resume_expires) = api.shared.authority.resume_token(member, now);
    SessionBody {
        access_token: access_token.reveal().to_owned(),
        access_expires: access_expires.as_unix(),
        resume_token: resume_token.reveal().to_owned(),
        resume_expires: resume_expires.as_unix(),
        now: now.as_unix(),
    }
}
