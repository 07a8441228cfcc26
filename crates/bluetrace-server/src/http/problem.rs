//! Owns how a request over HTTP fails: [`Problem`], in the form of RFC 9457, with a stable code ([`ProblemCode`]).

use std::borrow::Cow;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The codes of problems. They are stable; the texts beside them are not. `docs/http.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemCode {
    /// A part of the request other than its JSON has not the form it should have.
    BadRequest,
    /// The body is not JSON of the form asked for.
    BadJson,
    /// There is no access token, or it is not, or no longer, good.
    Unauthenticated,
    /// The password is wrong.
    WrongPassword,
    /// The one-time code is wrong, or no longer good.
    WrongCode,
    /// The number's account is entered with its password alone.
    NumberTaken,
    /// Too many wrong passwords: the username is blocked for a while.
    Blocked,
    /// The authority requires an upload code, and this is none.
    UploadNotAuthorised,
    /// There is no such thing.
    NotFound,
    /// The thing is there, and this method is not for it.
    MethodNotAllowed,
    /// The body took too long to arrive.
    TooSlow,
    /// The account has begun an upload of this id with another number of records.
    UploadConflict,
    /// Records are missing before the first of those sent.
    UploadGap,
    /// The body is longer than is taken.
    TooLarge,
    /// The body is of another kind than is taken.
    UnsupportedMediaType,
    /// The JSON has the right form, and says something that cannot be.
    Invalid,
    /// More records came than the upload was begun with.
    TooManyRecords,
    /// Too many of these in a short time.
    RateLimited,
    /// A fault of the authority.
    Internal,
    /// Too much at once.
    Busy,
    /// The authority cannot answer now.
    Unavailable,
    /// The server is ending.
    ShuttingDown,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: ProblemCode,
    detail: Cow<'static, str>,
    facts: ProblemFacts,
}

/// What a program wants to know of a problem beside its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemFacts {
    /// Seconds after which it is worth trying again; also in the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    /// Wrong passwords, or codes, that are still free before no more are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_left: Option<u32>,
    /// How many records the upload was begun with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u32>,
    /// How many of the upload's first records are durable: where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable: Option<u32>,
}

/// A problem as it goes on the wire, `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:bluetrace:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What the code says, in words.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// What to decide by; `docs/http.md` lists the codes.
    code: &'static str,
    /// What is wrong with this request, for people.
    detail: Cow<'static, str>,
    #[serde(flatten)]
    facts: ProblemFacts,
}

impl Problem {
    /// A problem. The detail is for people, and quotes nothing of the request.
    pub fn new(code: ProblemCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), facts: ProblemFacts::default() }
    }

    /// With how many wrong attempts are still free.
    #[must_use]
    pub const fn attempts_left(mut self, left: u32) -> Self {
        self.facts.attempts_left = Some(left);
        self
    }

    /// With the number of records that the upload was begun with.
    #[must_use]
    pub const fn records(mut self, records: u32) -> Self {
        self.facts.records = Some(records);
        self
    }

    /// With the number of seconds after which it is worth trying again.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u32) -> Self {
        self.facts.retry_after = Some(seconds);
        self
    }

    /// With where an upload stands.
    #[must_use]
    pub const fn durable(mut self, durable: u32) -> Self {
        self.facts.durable = Some(durable);
        self
    }

    /// What kind of problem it is.
    pub const fn code(&self) -> ProblemCode {
        self.code
    }

    /// What a program wants to know of it.
    pub const fn facts(&self) -> ProblemFacts {
        self.facts
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { code, detail, facts } = self;
        let status = code.status();
        let kind = format!("urn:bluetrace:problem:{}", code.as_str());
        let body =
            ProblemBody { kind, title: code.title(), status: status.as_u16(), code: code.as_str(), detail, facts };
        let mut response = (status, super::json_text(&body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = facts.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(code);
        response
    }
}

impl ProblemCode {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::BadJson,
        Self::Unauthenticated,
        Self::WrongPassword,
        Self::WrongCode,
        Self::NumberTaken,
        Self::Blocked,
        Self::UploadNotAuthorised,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TooSlow,
        Self::UploadConflict,
        Self::UploadGap,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::TooManyRecords,
        Self::RateLimited,
        Self::Internal,
        Self::Busy,
        Self::Unavailable,
        Self::ShuttingDown,
    ];

    /// The code as it goes on the wire.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The status it goes with.
    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// The code in words.
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadRequest => ("bad_request", StatusCode::BAD_REQUEST, "The request has not the form it should have"),
            Self::BadJson => ("bad_json", StatusCode::BAD_REQUEST, "The body is not JSON of the form asked for"),
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "A valid token is needed"),
            Self::WrongPassword => ("wrong_password", StatusCode::UNAUTHORIZED, "The password is wrong"),
            Self::WrongCode => ("wrong_code", StatusCode::UNAUTHORIZED, "The one-time code is not, or no longer, good"),
            Self::NumberTaken => ("number_taken", StatusCode::CONFLICT, "The number's account has a password"),
            Self::Blocked => ("blocked", StatusCode::TOO_MANY_REQUESTS, "The username is blocked for a while"),
            Self::UploadNotAuthorised => ("upload_not_authorised", StatusCode::FORBIDDEN, "An upload code is needed"),
            Self::NotFound => ("not_found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => {
                ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, "The method is not for this")
            }
            Self::TooSlow => ("too_slow", StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive"),
            Self::UploadConflict => ("upload_conflict", StatusCode::CONFLICT, "The upload was begun as another one"),
            Self::UploadGap => ("upload_gap", StatusCode::CONFLICT, "Records are missing before these"),
            Self::TooLarge => ("too_large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too long"),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is of another kind")
            }
            Self::Invalid => ("invalid", StatusCode::UNPROCESSABLE_ENTITY, "A value is out of its range"),
            Self::TooManyRecords => {
                ("too_many_records", StatusCode::UNPROCESSABLE_ENTITY, "More records came than were announced")
            }
            Self::RateLimited => ("rate_limited", StatusCode::TOO_MANY_REQUESTS, "Too many of these in a short time"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The authority failed"),
            Self::Busy => ("busy", StatusCode::SERVICE_UNAVAILABLE, "Too much at once"),
            Self::Unavailable => {
                ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "The authority cannot answer at the moment")
            }
            Self::ShuttingDown => ("shutting_down", StatusCode::SERVICE_UNAVAILABLE, "The server is shutting down"),
        }
    }
}

const PROBLEM_JSON: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_another() {
        let codes: BTreeSet<_> = ProblemCode::ALL.into_iter().map(ProblemCode::as_str).collect();
        assert_eq!(codes.len(), ProblemCode::ALL.len());
    }
}
