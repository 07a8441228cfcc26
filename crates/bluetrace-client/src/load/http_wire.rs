//! Owns the JSON of the HTTPS API as a device of a load says and hears it, and what a device does about a [`Problem`].

use std::time::Duration;

use bluetrace_protocol::{Record, TempId, Timestamp, UploadSummary, Window};
use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::http_body::RequestBody;
use super::link::{Failure, Then};

#[derive(Serialize)]
pub(super) struct LoginBody<'a> {
    pub(super) username: &'a str,
    pub(super) password: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RenewBody<'a> {
    pub(super) resume_token: &'a str,
}

#[derive(Serialize)]
pub(super) struct CountBody {
    pub(super) count: u32,
}

#[derive(Serialize)]
pub(super) struct BeginBody {
    pub(super) records: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionBody {
    pub(super) access_token: String,
    pub(super) access_expires: i64,
    pub(super) resume_token: String,
    pub(super) now: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TempIdsBody {
    pub(super) temp_ids: Vec<TempIdBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TempIdBody {
    pub(super) temp_id: String,
    pub(super) start: i64,
    pub(super) expiry: i64,
}

#[derive(Deserialize)]
pub(super) struct UploadBody {
    pub(super) durable: u32,
    pub(super) summary: Option<SummaryBody>,
}

#[derive(Deserialize)]
pub(super) struct SummaryBody {
    pub(super) records: u32,
    pub(super) resolved: u32,
    pub(super) unknown: u32,
    pub(super) invalid: u32,
}

/// Why a server did not carry out a request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Problem {
    pub(super) code: String,
    #[serde(default)]
    pub(super) retry_after: u32,
    pub(super) durable: Option<u32>,
}

impl Problem {
    pub(super) fn read(status: u16, bytes: &Bytes) -> Self {
        // what is no problem of the API's is said by something on the way to it
        let foreign = |_| Self { code: format!("{FOREIGN}{status}"), retry_after: 0, durable: None };
        serde_json::from_slice(bytes).unwrap_or_else(foreign)
    }
}

impl From<Problem> for Failure {
    fn from(Problem { code, retry_after, .. }: Problem) -> Self {
        let wait = Duration::from_secs(retry_after.into());
        let then = match code.as_str() {
            "rate_limited" | "busy" | "too_slow" => Then::AskAgain(wait),
            "unavailable" | "shutting_down" | UNAUTHENTICATED => Then::ComeBack(wait),
            code if code.starts_with(FOREIGN) => Then::ComeBack(wait),
            "blocked" | "wrong_password" => Then::End,
            _ => Then::LetBe,
        };
        Self { why: code, then }
    }
}

impl TempIdBody {
    pub(super) fn record(self) -> Option<Record> {
        let window = Window::new(Timestamp::from_unix(self.start)?, Timestamp::from_unix(self.expiry)?).ok()?;
        Some(Record { temp_id: TempId::parse(&self.temp_id).ok()?, window })
    }
}

impl From<SummaryBody> for UploadSummary {
    fn from(SummaryBody { records, resolved, unknown, invalid }: SummaryBody) -> Self {
        Self { records, resolved, unknown, invalid }
    }
}

pub(super) fn json(body: &impl Serialize) -> RequestBody {
    // numbers and strings have a form in JSON
    RequestBody::json(serde_json::to_vec(body).unwrap_or_default())
}

pub(super) fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|_| Failure::come_back(NOT_THE_API))
}

pub(super) const UNAUTHENTICATED: &str = "unauthenticated";

pub(super) const NOT_THE_API: &str = "the server does not speak the API";

/// What stands before the status of an answer that is not the API's.
const FOREIGN: &str = "status ";
