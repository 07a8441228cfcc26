//! Owns how a device of a load speaks over HTTP: [`HttpLink`], the calls of `/v1`, a step at a time, over a connection that is kept
//! alive ([`super::http_connection`]).
//!
//! A device whose connection was lost renews its session with its resume token, as over TCP it resumes; one whose connection the
//! server closed while it was idle has lost nothing.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::{ContactLogEntry, Record, TempId, Timestamp, UploadId, UploadSummary, Window};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::http_body::RequestBody;
use super::http_connection::HttpConnection;
use super::link::{Account, Failure, Link, Standing, Then};
use super::tally::Measured;
use crate::uplink::{ConnectError, Connector};

pub(super) struct HttpLink {
    /// One for each server; never empty.
    connectors: Vec<Arc<Connector>>,
    /// Which of them is used, or is to be tried first.
    place: usize,
    connection: Option<HttpConnection>,
    session: Option<Session>,
}

struct Session {
    access_token: String,
    /// When another access token is to be had.
    renew_at: Instant,
    resume_token: String,
}

#[derive(Serialize)]
struct LoginBody<'a> {
    username: &'a str,
    password: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RenewBody<'a> {
    resume_token: &'a str,
}

#[derive(Serialize)]
struct CountBody {
    count: u32,
}

#[derive(Serialize)]
struct BeginBody {
    records: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionBody {
    access_token: String,
    access_expires: i64,
    resume_token: String,
    now: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TempIdsBody {
    temp_ids: Vec<TempIdBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TempIdBody {
    temp_id: String,
    start: i64,
    expiry: i64,
}

#[derive(Deserialize)]
struct UploadBody {
    durable: u32,
    summary: Option<SummaryBody>,
}

#[derive(Deserialize)]
struct SummaryBody {
    records: u32,
    resolved: u32,
    unknown: u32,
    invalid: u32,
}

/// Why a server did not carry out a request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    code: String,
    #[serde(default)]
    retry_after: u32,
    durable: Option<u32>,
}

/// What came of a request that was answered.
type Answer = Result<Bytes, Problem>;

impl HttpLink {
    /// `connectors` lead to the servers of one authority, at least one.
    pub(super) const fn new(connectors: Vec<Arc<Connector>>) -> Self {
        Self { connectors, place: 0, connection: None, session: None }
    }

    /// Makes sure of a connection: the one there is, or one to a server that can be reached, each tried once.
    async fn connected(&mut self) -> Result<&mut HttpConnection, Failure> {
        if let Some(connection) = self.connection.take()
            && let Some(ready) = connection.when_ready().await
        {
            return Ok(self.connection.insert(ready));
        }
        let mut failures = Vec::new();
        for _ in 0..self.connectors.len() {
            let Some(connector) = self.connectors.get(self.place) else { break };
            match Arc::clone(connector).connect().await {
                Ok((stream, _)) => {
                    let connection = HttpConnection::over(stream, connector.server().to_string()).await;
                    return Ok(self.connection.insert(connection.map_err(Failure::come_back)?));
                }
                Err(error @ ConnectError::CertificateChanged(_)) => return Err(Failure::from(&error)),
                Err(error) => failures.push(error),
            }
            self.go_to_next();
        }
        Err(match failures.pop() {
            Some(error) if failures.is_empty() => Failure::from(&error),
            last => Failure::from(&ConnectError::AllFailed(failures.into_iter().chain(last).collect())),
        })
    }

    fn go_to_next(&mut self) {
        self.place = (self.place + 1) % self.connectors.len().max(1);
    }

    /// Makes a request, with the access token if there is a session.
    async fn request(&mut self, method: Method, path: &str, body: RequestBody) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, body.kind());
        if let Some(Session { access_token, .. }) = &self.session {
            request = request.header(AUTHORIZATION, format!("Bearer {}", access_token.as_str()));
        }
        let connection = self.connected().await?;
        let progress = body.progress();
        let request = request.header(HOST, connection.host()).body(body);
        let request = request.map_err(|_| Failure::end("a request that cannot be written"))?;
        match connection.exchange(request, &progress).await {
            Ok((status, bytes)) if status.is_success() => Ok(Ok(bytes)),
            Ok((status, bytes)) => Ok(Err(Problem::read(status.as_u16(), &bytes))),
            Err(why) => {
                self.close();
                Err(Failure::come_back(why))
            }
        }
    }

    async fn post(&mut self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.request(Method::POST, path, json(body)).await
    }

    /// Takes up the session that a login or a renewal has made.
    fn take_session(&mut self, answer: &Bytes) -> Result<(), Failure> {
        let SessionBody { access_token, access_expires, resume_token, now } = read(answer)?;
        let lasts = u64::try_from(access_expires.saturating_sub(now)).unwrap_or(0);
        // with some time for the request that it goes with
        let renew_at = Instant::now() + Duration::from_secs(lasts / 2);
        self.session = Some(Session { access_token, renew_at, resume_token });
        Ok(())
    }

    /// Renews the session: `None` if its resume token is no longer good.
    async fn renew(&mut self) -> Result<Option<()>, Failure> {
        let Some(session) = self.session.take() else { return Ok(None) };
        let answer = self.post("/v1/session", &RenewBody { resume_token: &session.resume_token }).await;
        // only the answer says that the token is not good
        match answer {
            Ok(Err(problem)) if problem.code == UNAUTHENTICATED => Ok(None),
            Ok(Ok(bytes)) => self.take_session(&bytes).map(Some),
            Ok(Err(problem)) => {
                self.session = Some(session);
                Err(problem.into())
            }
            Err(failure) => {
                self.session = Some(session);
                Err(failure)
            }
        }
    }

    /// Makes sure that the access token is good for a while.
    async fn authorised(&mut self) -> Result<(), Failure> {
        if self.session.as_ref().is_some_and(|session| session.renew_at <= Instant::now()) {
            // without a session the next request is refused, and the device comes in with its password
            self.renew().await?;
        }
        Ok(())
    }

    async fn begin(&mut self, id: &UploadId, records: u32) -> Result<UploadBody, Failure> {
        self.authorised().await?;
        let path = format!("/v1/uploads/{}", id.reveal());
        let answer = self.request(Method::PUT, &path, json(&BeginBody { records })).await?;
        read(&answer?)
    }
}

impl Link for HttpLink {
    fn has_session(&self) -> bool {
        self.session.is_some()
    }

    async fn enter(&mut self, account: &Account) -> Result<Measured, Failure> {
        if self.renew().await?.is_some() {
            return Ok(Measured::Resume);
        }
        let login = LoginBody { username: account.username.reveal(), password: account.password.reveal() };
        let answer = self.post("/v1/login", &login).await?;
        self.take_session(&answer?)?;
        Ok(Measured::Login)
    }

    async fn temp_ids(&mut self, count: u32) -> Result<Vec<Record>, Failure> {
        self.authorised().await?;
        let answer = self.post("/v1/temp-ids", &CountBody { count }).await?;
        let TempIdsBody { temp_ids } = read(&answer?)?;
        let records: Option<_> = temp_ids.into_iter().map(TempIdBody::record).collect();
        records.ok_or_else(|| Failure::come_back(NOT_THE_API))
    }

    async fn upload(
        &mut self,
        id: &UploadId,
        records: &Arc<[ContactLogEntry]>,
        mut progress: impl FnMut(u32) + Send,
    ) -> Result<UploadSummary, Failure> {
        let total = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let mut found = self.begin(id, total).await?;
        loop {
            let UploadBody { durable, summary } = found;
            if let Some(summary) = summary {
                return Ok(summary.into());
            }
            progress(durable);
            let path = format!("/v1/uploads/{}/records?first={durable}", id.reveal());
            let body = RequestBody::records(Arc::clone(records), durable);
            let answer = self.request(Method::POST, &path, body).await?;
            if let Err(Problem { durable: Some(durable), .. }) = &answer {
                progress(*durable);
            }
            found = read(&answer?)?;
            if found.summary.is_none() && found.durable <= durable {
                return Err(Failure::come_back("an upload does not go on"));
            }
        }
    }

    async fn standing(&mut self, id: &UploadId, blanks: &Arc<[ContactLogEntry]>) -> Result<Standing, Failure> {
        let UploadBody { durable, summary } = self.begin(id, u32::try_from(blanks.len()).unwrap_or(u32::MAX)).await?;
        Ok(match summary {
            Some(SummaryBody { records, .. }) => Standing { durable: records, is_complete: true },
            None => Standing { durable, is_complete: false },
        })
    }

    async fn leave(&mut self) -> Result<(), Failure> {
        self.authorised().await?;
        let answer = self.request(Method::DELETE, "/v1/session", RequestBody::empty()).await?;
        self.session = None;
        answer?;
        Ok(())
    }

    async fn lost(&mut self) -> Failure {
        if let Some(connection) = &mut self.connection {
            connection.ended().await;
        }
        self.connection = None;
        // the session goes on with the next request
        pending().await
    }

    fn close(&mut self) {
        if self.connection.take().is_some() {
            self.go_to_next();
        }
    }
}

impl fmt::Debug for HttpLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpLink").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Problem {
    fn read(status: u16, bytes: &Bytes) -> Self {
        let bare = |_| Self { code: format!("status {status}"), retry_after: 0, durable: None };
        serde_json::from_slice(bytes).unwrap_or_else(bare)
    }
}

impl From<Problem> for Failure {
    fn from(Problem { code, retry_after, .. }: Problem) -> Self {
        let wait = Duration::from_secs(retry_after.into());
        let then = match code.as_str() {
            "rate_limited" | "busy" | "too_slow" => Then::AskAgain(wait),
            "unavailable" | "shutting_down" | UNAUTHENTICATED => Then::ComeBack(wait),
            "blocked" | "wrong_password" => Then::End,
            _ => Then::LetBe,
        };
        Self { why: code, then }
    }
}

impl TempIdBody {
    fn record(self) -> Option<Record> {
        let window = Window::new(Timestamp::from_unix(self.start)?, Timestamp::from_unix(self.expiry)?).ok()?;
        Some(Record { temp_id: TempId::parse(&self.temp_id).ok()?, window })
    }
}

impl From<SummaryBody> for UploadSummary {
    fn from(SummaryBody { records, resolved, unknown, invalid }: SummaryBody) -> Self {
        Self { records, resolved, unknown, invalid }
    }
}

fn json(body: &impl Serialize) -> RequestBody {
    // numbers and strings have a form in JSON
    RequestBody::json(serde_json::to_vec(body).unwrap_or_default())
}

fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|_| Failure::come_back(NOT_THE_API))
}

const UNAUTHENTICATED: &str = "unauthenticated";

const NOT_THE_API: &str = "the server does not speak the API";
