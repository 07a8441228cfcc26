//! Owns registration: sending a one-time code to a phone number, and letting in who presents it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use bluetrace_authority::registration::{CodeRequested, OneTimeCode, PhoneNumber, Registered};
use bluetrace_authority::store::OneTimeCodeId;
use bluetrace_protocol::{Password, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::warn;
use utoipa::ToSchema;

use super::sessions::{SessionBody, session};
use crate::console::ConsoleEvent;
use crate::http::Api;
use crate::http::body::Json;
use crate::http::callers::Origin;
use crate::http::problem::{Problem, ProblemBody, ProblemCode};

/// Who asks for a one-time code.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegistrationRequest {
    /// As E.164 has it: `+`, the code of the country, and the number there, in digits alone.
    #[serde(alias = "phone_number")]
    #[schema(pattern = r"^\+[1-9][0-9]{6,14}$", example = "+6591234567")]
    phone_number: String,
}

/// That a one-time code is on its way.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CodeSentBody {
    /// For how many seconds the code that was sent last is good.
    expires_in: u32,
    /// After how many seconds another can be had.
    resend_after: u32,
}

/// Who presents a one-time code.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfirmationRequest {
    /// The number that the code was sent to.
    #[serde(alias = "phone_number")]
    #[schema(pattern = r"^\+[1-9][0-9]{6,14}$", example = "+6591234567")]
    phone_number: String,
    /// Six digits. Spaces and hyphens in it do not matter.
    #[schema(max_length = 32)]
    code: String,
    /// The password that the account is to have from now on, for `POST /v1/login` and devices that log in over TCP; at most 256 bytes.
    /// Without one it keeps what it has.
    #[schema(format = Password, min_length = 1, max_length = 64)]
    password: Option<String>,
}

/// Sends a one-time code to a phone number, unless it was sent one within a minute. The answer is the same, whether or not the number has an
/// account.
#[utoipa::path(
    post, path = "/v1/registrations", operation_id = "request_code", tag = "registration", request_body = RegistrationRequest,
    responses(
        (status = ACCEPTED, description = "A code is on its way, or was sent within the last minute", body = CodeSentBody),
        (status = TOO_MANY_REQUESTS, description = "`rate_limited`, with `Retry-After`: too many for this number or address", body = ProblemBody, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "`unavailable`, with `Retry-After`: the code could not be sent; the next request sends one at once", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn request(
    State(api): State<Arc<Api>>,
    Origin(address): Origin,
    Json(request): Json<RegistrationRequest>,
) -> Result<(StatusCode, Json<CodeSentBody>), Problem> {
    let number = number(&request.phone_number)?;
    api.budgets.one_time_code(address)?;
    let place = api.budgets.codes.enter().await?;
    let now = api.now();
    let requested = api.shared.authority.request_registration(&number, now).await;
    let (expires, again) = match requested.map_err(|error| api.failure(&error))? {
        CodeRequested::Send { id, code, expires, again } => {
            // it goes on when the peer goes away: what came of it is to be noted
            let sending = tokio::spawn(send(Arc::clone(&api), place, number, (id, code)));
            if !sending.await.unwrap_or(false) {
                let detail = "the code could not be sent; ask again, and one is sent at once";
                return Err(Problem::new(ProblemCode::Unavailable, detail).retry_after(RETRY_AFTER_S));
            }
            (expires, again)
        }
        CodeRequested::SentBefore { expires, again } => (expires, again),
        CodeRequested::TooMany { until } => {
            let problem = Problem::new(ProblemCode::RateLimited, "this number has been sent too many codes");
            return Err(problem.retry_after(seconds_until(until, now)));
        }
    };
    let body = CodeSentBody { expires_in: seconds_until(expires, now), resend_after: seconds_until(again, now) };
    Ok((StatusCode::ACCEPTED, Json(body)))
}

/// Lets in who presents the code that a number was sent: a session of the number's account, which is opened if there is none.
#[utoipa::path(
    post, path = "/v1/registrations/confirmation", operation_id = "confirm_registration", tag = "registration", request_body = ConfirmationRequest,
    responses(
        (status = CREATED, description = "The number has an account from now on", body = SessionBody),
        (status = OK, description = "The number has an account", body = SessionBody),
        (status = UNAUTHORIZED, description = "`wrong_code`, with `attemptsLeft`", body = ProblemBody, content_type = "application/problem+json"),
        (status = CONFLICT, description = "`number_taken`: an operator gave the account of this name a password, which alone lets in", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn confirm(
    State(api): State<Arc<Api>>,
    Origin(address): Origin,
    Json(request): Json<ConfirmationRequest>,
) -> Result<(StatusCode, Json<SessionBody>), Problem> {
    let number = number(&request.phone_number)?;
    let invalid = |text: String| Problem::new(ProblemCode::Invalid, text);
    if request.code.len() > MAX_CODE {
        return Err(invalid(format!("a code here has at most {MAX_CODE} characters")));
    }
    let password = match request.password.as_deref() {
        Some("") => {
            return Err(invalid("a password that is set here is not empty; leave it out to set none".to_owned()));
        }
        // over TCP a password is a line
        Some(password) if password.contains(['\r', '\n']) => {
            return Err(invalid("a password has no line ends".to_owned()));
        }
        Some(password) => Some(Password::parse(password).map_err(|error| invalid(error.to_string()))?),
        None => None,
    };
    api.budgets.confirmation(address)?;
    // a password is hashed
    let _place = if password.is_some() { Some(api.budgets.logins.enter().await?) } else { None };
    let confirmed =
        api.shared.authority.confirm_registration(&number, &request.code, password, &*api.shared.clock).await;
    let username = number.username().clone();
    let (status, member, event) = match confirmed.map_err(|error| api.failure(&error))? {
        Registered::Opened(member) => (StatusCode::CREATED, member, ConsoleEvent::Registered { username }),
        Registered::Known(member) => (StatusCode::OK, member, ConsoleEvent::LoginOverHttp { username }),
        Registered::NotTheNumbers => {
            let detail =
                "the account of this name was made by the authority; log in with the password that you were given";
            return Err(Problem::new(ProblemCode::NumberTaken, detail));
        }
        Registered::Wrong { left } => {
            let problem = Problem::new(ProblemCode::WrongCode, "the code is wrong, or no longer good");
            return Err(problem.attempts_left(left));
        }
    };
    if request.password.is_some() {
        // what the password ended elsewhere has ended here, too
        api.callers.forget_account(member.account);
    }
    api.shared.console.show(event);
    Ok((status, Json(session(&api, &member))))
}

/// Sends a code, and notes if that failed. Whether it was sent.
async fn send(
    api: Arc<Api>,
    place: OwnedSemaphorePermit,
    number: PhoneNumber,
    (id, code): (OneTimeCodeId, OneTimeCode),
) -> bool {
    let sent = api.codes.send(&number, &code, &api.shared.console).await;
    drop(place);
    api.metrics.one_time_code(sent.is_ok());
    let Err(error) = sent else { return true };
    if let Some(unsaid) = api.shared.complaints.due(&error.to_string(), Instant::now()) {
        warn!(%error, unsaid, "a one-time code could not be sent");
    }
    // where this fails too, the next is sent after a minute
    if let Err(error) = api.shared.authority.code_not_sent(id).await {
        api.shared.complain(&error);
    }
    false
}

fn number(text: &str) -> Result<PhoneNumber, Problem> {
    PhoneNumber::parse(text).map_err(|error| Problem::new(ProblemCode::Invalid, error.to_string()))
}

fn seconds_until(time: Timestamp, now: Timestamp) -> u32 {
    u32::try_from(time.as_unix().saturating_sub(now.as_unix()).max(0)).unwrap_or(u32::MAX)
}

/// Longest code that is looked at: six digits, with spaces and hyphens between them.
const MAX_CODE: usize = 32;

/// A sender that fails may work a moment later.
const RETRY_AFTER_S: u32 = 5;
