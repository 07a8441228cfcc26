//! Owns what apps derived from OpenTrace ask for: here the callable protocol's envelopes and errors; [`calls`] has the three calls,
//! [`upload`] the upload that their tokens are for, with [`verdicts`] on its records, [`spool`], where these wait for its end, and
//! [`carry_out`], what becomes of them then.
//!
//! A request is `POST` with `{"data": <value>}`, an answer `{"result": <value>}` or
//! `{"error": {"details"?, "message", "status"}}`, byte for byte as those apps expect it; `callable_http` in `vectors/opentrace.json`
//! has exchanges. A call is a plain function: who calls, and the value in; the answer's JSON text or a [`CallableError`] out.

pub(super) mod calls;
mod carry_out;
mod spool;
pub(super) mod upload;
mod verdicts;

pub use self::upload::OpenTraceOptions;

pub(crate) use self::carry_out::UploadTurns;

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, AUTHORIZATION, CONTENT_TYPE, ORIGIN, RETRY_AFTER, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bluetrace_authority::Member;
use bluetrace_protocol::opentrace::callable::{CallError, read_call};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, OpenApi, Required, Type};

use super::body::{ShortBodyError, is_of_kind, read_short};
use super::problem::{Problem, ProblemCode};
use super::{Api, json_text};

/// The calls there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    TempIds,
    HandshakePin,
    UploadToken,
}

/// Why a call failed, as its caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallableError {
    status: CallableStatus,
    message: Cow<'static, str>,
    details: Option<Value>,
    retry_after: Option<u32>,
}

/// The kinds of failure that clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallableStatus {
    InvalidArgument,
    Unauthenticated,
    ResourceExhausted,
    Internal,
    Unavailable,
}

/// The JSON text of an answer, its envelope included.
type CallableResult = Result<String, CallableError>;

/// Puts the calls at `/{name}`, and at `/{project}/{region}/{name}`, where an emulator has them.
pub(super) fn routes(router: Router<Arc<Api>>) -> Router<Arc<Api>> {
    Call::ALL.into_iter().fold(router, |router, call| {
        let handler = any(move |State(api): State<Arc<Api>>, request: Request| answer(api, call, request));
        let name = call.name();
        router.route(&format!("/{name}"), handler.clone()).route(&format!("/{{project}}/{{region}}/{name}"), handler)
    })
}

/// Describes the calls at their long paths as they are described at their short ones.
pub(super) fn describe_long_paths(openapi: &mut OpenApi) {
    for call in Call::ALL {
        let name = call.name();
        let Some(mut item) = openapi.paths.paths.get(&format!("/{name}")).cloned() else { continue };
        let parameter = |name: &str| {
            let text = ObjectBuilder::new().schema_type(Type::String).build();
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
            parameter.required(Required::True).schema(Some(text)).description(Some("Not looked at")).build()
        };
        item.parameters = Some(vec![parameter("project").into(), parameter("region").into()]);
        if let Some(operation) = &mut item.post {
            operation.operation_id = Some(format!("{name}_long"));
        }
        openapi.paths.paths.insert(format!("/{{project}}/{{region}}/{name}"), item);
    }
}

impl Call {
    const ALL: [Self; 3] = [Self::TempIds, Self::HandshakePin, Self::UploadToken];

    const fn name(self) -> &'static str {
        match self {
            Self::TempIds => "getTempIDs",
            Self::HandshakePin => "getHandshakePin",
            Self::UploadToken => "getUploadToken",
        }
    }

    async fn perform(self, api: &Api, caller: Option<&Member>, data: Value) -> CallableResult {
        let caller = caller.ok_or_else(|| {
            CallableError::new(CallableStatus::Unauthenticated, "The function must be called while authenticated.")
        })?;
        match self {
            Self::TempIds => calls::get_temp_ids(api, caller).await,
            Self::HandshakePin => calls::get_handshake_pin(api, caller).await,
            Self::UploadToken => calls::get_upload_token(api, caller, &data).await,
        }
    }
}

/// Answers a request in the callable protocol, whatever the request is.
async fn answer(api: Arc<Api>, call: Call, request: Request) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = if request.method() == Method::OPTIONS {
        preflight(request.headers())
    } else {
        respond(&api, perform(&api, call, request).await)
    };
    let headers = response.headers_mut();
    headers.entry(VARY).or_insert(HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

async fn perform(api: &Api, call: Call, request: Request) -> CallableResult {
    let bad_request = || CallableError::new(CallableStatus::InvalidArgument, "Bad Request");
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST || !is_of_kind(&parts.headers, &["application/json"]) {
        return Err(bad_request());
    }
    let bytes = read_short(body).await.map_err(|error| match error {
        ShortBodyError::TooLarge | ShortBodyError::TooSlow | ShortBodyError::Cut => bad_request(),
    })?;
    let data = match read_call(&bytes) {
        Err(CallError::NoCall) => return Err(bad_request()),
        data => data,
    };
    let caller = caller(api, &parts.headers).await?;
    let data = data.map_err(|_| CallableError::internal())?;
    call.perform(api, caller.as_deref(), data).await
}

/// Who calls. A call without the header is let through, and refused by the call itself, in other words.
async fn caller(api: &Api, headers: &HeaderMap) -> Result<Option<Arc<Member>>, CallableError> {
    let Some(header) = headers.get(AUTHORIZATION).filter(|header| !header.is_empty()) else { return Ok(None) };
    let none = || CallableError::new(CallableStatus::Unauthenticated, "Unauthenticated");
    let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(none)?;
    api.callers.of(api, token).await?.ok_or_else(none).map(Some)
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    if let Some(asked) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(VARY, HeaderValue::from_static("Origin, Access-Control-Request-Headers"));
    response
}

fn respond(api: &Api, result: CallableResult) -> Response {
    let (status, retry_after, body) = match result {
        Ok(text) => (StatusCode::OK, None, text),
        Err(CallableError { status, message, details, retry_after }) => {
            let error = ErrorBody { details, message, status: status.as_str() };
            (status.http(), retry_after, json_text(&FailureBody { error }))
        }
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
        api.metrics.problem(ProblemCode::RateLimited);
    }
    response
}

/// A call.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes what the protocol crate reads")]
pub(super) struct CallBody {
    /// The call's argument; null for none.
    data: Value,
}

/// The answer to a call.
#[derive(Serialize, ToSchema)]
pub(super) struct ResultBody<T> {
    /// What the call gives.
    result: T,
}

/// The answer to a call that failed.
#[derive(Serialize, ToSchema)]
pub(super) struct FailureBody {
    error: ErrorBody,
}

/// In this order, which is the protocol's.
#[derive(Serialize, ToSchema)]
struct ErrorBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    /// What went wrong.
    message: Cow<'static, str>,
    /// The kind of failure, a name such as `INVALID_ARGUMENT`.
    status: &'static str,
}

impl CallableError {
    fn new(status: CallableStatus, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), details: None, retry_after: None }
    }

    /// What a caller is told of a fault that is none of its business.
    fn internal() -> Self {
        Self::new(CallableStatus::Internal, "INTERNAL")
    }
}

impl From<Problem> for CallableError {
    fn from(problem: Problem) -> Self {
        let retry_after = problem.facts().retry_after;
        let status = match problem.code() {
            ProblemCode::RateLimited | ProblemCode::Blocked | ProblemCode::TooLarge => {
                CallableStatus::ResourceExhausted
            }
            ProblemCode::Busy | ProblemCode::Unavailable | ProblemCode::ShuttingDown => CallableStatus::Unavailable,
            ProblemCode::Unauthenticated | ProblemCode::WrongPassword | ProblemCode::WrongCode => {
                CallableStatus::Unauthenticated
            }
            ProblemCode::BadRequest
            | ProblemCode::BadJson
            | ProblemCode::NumberTaken
            | ProblemCode::UploadNotAuthorised
            | ProblemCode::NotFound
            | ProblemCode::MethodNotAllowed
            | ProblemCode::TooSlow
            | ProblemCode::UploadConflict
            | ProblemCode::UploadGap
            | ProblemCode::UnsupportedMediaType
            | ProblemCode::Invalid
            | ProblemCode::TooManyRecords => CallableStatus::InvalidArgument,
            ProblemCode::Internal => return Self::internal(),
        };
        Self { retry_after, ..Self::new(status, problem.code().title()) }
    }
}

impl CallableStatus {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
        }
    }

    const fn http(self) -> StatusCode {
        match self {
            Self::InvalidArgument => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_error_has_details_message_and_status_in_this_order() {
        let error = ErrorBody { details: Some(json!([1])), message: "m".into(), status: "INTERNAL" };
        assert_eq!(json_text(&FailureBody { error }), r#"{"error":{"details":[1],"message":"m","status":"INTERNAL"}}"#);
    }
}
