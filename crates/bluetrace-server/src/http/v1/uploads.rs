//! Owns uploads: begun with a number of records, sent as lines that may be cut and continued by index, and repeated without
//! effect.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use bluetrace_authority::store::{UploadBegun, UploadFound, UploadKey};
use bluetrace_authority::trace::UploadTrace;
use bluetrace_authority::uploads::{RecordsAppended, UploadFinished};
use bluetrace_authority::{AuthorityError, Member};
use bluetrace_protocol::limits::{MAX_RECORD_BATCH, MAX_UPLOAD_RECORDS};
use bluetrace_protocol::message::BeginUpload;
use bluetrace_protocol::{Timestamp, UploadCode, UploadId, UploadSummary, Uploaded};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::record_lines::RecordLines;
use crate::console::ConsoleEvent;
use crate::http::Api;
use crate::http::body::{Json, UploadName, is_of_kind, number_in_query, whole_number};
use crate::http::callers::{Caller, Origin};
use crate::http::problem::{Problem, ProblemBody, ProblemCode};
use crate::limits::{HTTP_BATCH_PAUSE, HTTP_BODY_STALL, HTTP_UPLOAD_DEADLINE, MAX_HTTP_UPLOAD};
use crate::shutdown::Shutdown;

/// The begin of an upload.
#[derive(Deserialize, ToSchema)]
pub(crate) struct BeginRequest {
    /// How many records it has in all, at most 1,000,000.
    #[schema(maximum = 1_000_000)]
    #[serde(deserialize_with = "whole_number")]
    records: u32,
    /// The upload code, where the authority requires one.
    #[serde(default)]
    code: Option<String>,
}

/// Where an upload stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct UploadBody {
    /// Its id.
    upload: String,
    /// How many records it was begun with.
    records: u32,
    /// How many of its first records are durable: where to go on.
    durable: u32,
    /// What came of it; null until all of its records are durable.
    summary: Option<SummaryBody>,
}

/// The count of an upload's records by what became of them: `resolved + unknown + invalid == records`.
#[derive(Serialize, ToSchema)]
pub(crate) struct SummaryBody {
    /// Records in the upload.
    records: u32,
    /// Records whose `TempID` was turned back into a person.
    resolved: u32,
    /// Well-formed records whose `TempID` this authority does not know.
    unknown: u32,
    /// Malformed records.
    invalid: u32,
}

/// Begins an upload, or finds the one begun under this id: says how many of its records are durable.
///
/// The id is the device's choice, a UUID by custom, and belongs to the account.
#[utoipa::path(
    put, path = "/v1/uploads/{id}", tag = "uploads", request_body = BeginRequest, security(("access_token" = [])),
    params(("id" = String, Path, description = "1 to 64 printable ASCII characters without spaces", pattern = "^[!-~]{1,64}$")),
    responses(
        (status = OK, description = "Where it stands", body = UploadBody),
        (status = CONFLICT, description = "`upload_conflict`: it was begun with another number of records", body = ProblemBody, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "`upload_not_authorised`: the authority requires an upload code, and this is none", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn begin(
    State(api): State<Arc<Api>>,
    Caller(member): Caller,
    Origin(address): Origin,
    UploadName(upload): UploadName,
    Json(request): Json<BeginRequest>,
) -> Result<Json<UploadBody>, Problem> {
    if request.records > MAX_UPLOAD_RECORDS {
        return Err(Problem::new(ProblemCode::Invalid, format!("an upload has at most {MAX_UPLOAD_RECORDS} records")));
    }
    let code = request.code.map(|code| {
        let none = || Problem::new(ProblemCode::UploadNotAuthorised, "`code` is not an upload code");
        UploadCode::parse(&code).ok_or_else(none)
    });
    api.budgets.upload(member.account, address)?;
    let request = BeginUpload { records: request.records, upload: Some(upload.clone()), code: code.transpose()? };
    let records = request.records;
    let outcome = api.shared.authority.begin_upload(&member, request, api.now()).await;
    match outcome.map_err(|error| api.failure(&error))? {
        UploadBegun::Open { key, durable, summary } => {
            let found = UploadFound { key, records, durable, summary };
            let found = completed(&api, &member, found, UploadTrace::default()).await?.ok_or_else(no_upload)?;
            Ok(Json(UploadBody::of(&upload, found)))
        }
        UploadBegun::Conflict { records } => {
            let detail = "an upload of this id was begun with another number of records; choose another id";
            Err(Problem::new(ProblemCode::UploadConflict, detail).records(records))
        }
        UploadBegun::NoAccount => Err(api.account_gone(&member)),
        UploadBegun::CodeRequired => {
            let detail = "an upload needs a code, which an official of the health authority gives";
            Err(Problem::new(ProblemCode::UploadNotAuthorised, detail))
        }
        UploadBegun::CodeRefused { left } => {
            let detail = "`code` is wrong, expired, or not for this account's upload";
            Err(Problem::new(ProblemCode::UploadNotAuthorised, detail).attempts_left(left))
        }
        UploadBegun::TooManyCodes { until } => Err(too_many_codes(until, api.now())),
    }
}

/// The problem of an account from which, or with which, there were too many wrong upload codes.
pub(crate) fn too_many_codes(until: Timestamp, now: Timestamp) -> Problem {
    let seconds = u32::try_from(until.seconds_since(now).max(1)).unwrap_or(u32::MAX);
    let detail = "too many wrong upload codes; this one was not looked at";
    Problem::new(ProblemCode::RateLimited, detail).retry_after(seconds)
}

/// Says where an upload stands.
#[utoipa::path(
    get, path = "/v1/uploads/{id}", tag = "uploads", security(("access_token" = [])),
    params(("id" = String, Path, description = "As it was begun", pattern = "^[!-~]{1,64}$")),
    responses(
        (status = OK, description = "Where it stands", body = UploadBody),
        (status = NOT_FOUND, description = "`not_found`: this account has begun none under this id", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn look(
    State(api): State<Arc<Api>>,
    Caller(member): Caller,
    UploadName(upload): UploadName,
) -> Result<Json<UploadBody>, Problem> {
    let found = find(&api, &member, &upload).await?;
    Ok(Json(UploadBody::of(&upload, found)))
}

/// Takes records, a line of JSON each, from place `first` on.
///
/// The body may be cut at any point and continued with another request; records whose place is durable already add nothing.
/// The answer comes when what arrived is durable. With the last record comes the summary.
#[utoipa::path(
    post, path = "/v1/uploads/{id}/records", tag = "uploads", security(("access_token" = [])),
    params(
        ("id" = String, Path, description = "As it was begun", pattern = "^[!-~]{1,64}$"),
        ("first" = Option<u32>, Query, maximum = 1_000_000, description = "The place of the first record sent, 0 for the upload's first (0)"),
    ),
    request_body(
        content = String, content_type = "application/x-ndjson",
        description = "Lines such as `{\"tempId\":\"...\",\"start\":S,\"expiry\":S,\"received\":S,\"rssi\":-71,\"seen\":4}`; the last three may be absent, times are Unix seconds. Any other line is a malformed record, and keeps its place."
    ),
    responses(
        (status = OK, description = "How many are durable, and what came of them if that is all", body = UploadBody),
        (status = CONFLICT, description = "`upload_gap`: `first` lies beyond the durable records", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem; `durable` says where to go on", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn append(
    State(api): State<Arc<Api>>,
    Caller(member): Caller,
    Origin(address): Origin,
    UploadName(upload): UploadName,
    request: Request,
) -> Result<Json<UploadBody>, Problem> {
    let (parts, body) = request.into_parts();
    if !is_of_kind(&parts.headers, &["application/x-ndjson", "application/jsonl"]) {
        return Err(Problem::new(ProblemCode::UnsupportedMediaType, "send `Content-Type: application/x-ndjson`"));
    }
    let first = number_in_query(&parts, "first", 0)?;
    api.budgets.upload(member.account, address)?;
    let place = api.budgets.enter_upload(Some(member.account)).await?;
    let found = find(&api, &member, &upload).await?;
    if first > found.durable {
        let detail = "records are missing before the first of these; go on where `durable` says";
        return Err(Problem::new(ProblemCode::UploadGap, detail).durable(found.durable));
    }
    if found.summary.is_some() {
        // who repeats an upload that is complete can read the answer only when it has sent everything
        swallow(body).await;
        return Ok(Json(UploadBody::of(&upload, found)));
    }
    // a task of its own: a peer that goes away need not send again what had arrived
    let received = tokio::spawn(async move {
        let _place = place;
        let receiver = Receiver::new(Arc::clone(&api), Arc::clone(&member), found, first);
        let durable = receiver.run(body).await?;
        let found = UploadFound { durable, ..found };
        let found = completed(&api, &member, found, UploadTrace::default()).await?.ok_or_else(no_upload)?;
        Ok(UploadBody::of(&upload, found))
    });
    let received = received.await;
    received.unwrap_or_else(|_| Err(Problem::new(ProblemCode::Internal, "the upload failed"))).map(Json)
}

/// Reads a body and keeps nothing of it.
async fn swallow(mut body: Body) {
    let deadline = Instant::now() + HTTP_UPLOAD_DEADLINE;
    let mut bytes = 0_u64;
    while let Ok(Some(Ok(frame))) = timeout_at(deadline.min(Instant::now() + HTTP_BODY_STALL), body.frame()).await {
        bytes = bytes.saturating_add(frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)));
        if bytes > MAX_HTTP_UPLOAD {
            break;
        }
    }
}

async fn find(api: &Api, member: &Member, upload: &UploadId) -> Result<UploadFound, Problem> {
    let found = api.shared.authority.find_upload(member, upload.clone(), api.now()).await;
    found.map_err(|error| api.failure(&error))?.ok_or_else(no_upload)
}

fn no_upload() -> Problem {
    Problem::new(ProblemCode::NotFound, "this account has begun no upload of this id")
}

/// Finishes an upload whose records are all durable, unless that was done before: what `trace` has not is traced. `None`: it is gone.
pub(crate) async fn completed(
    api: &Api,
    member: &Member,
    found: UploadFound,
    trace: UploadTrace,
) -> Result<Option<UploadFound>, Problem> {
    if found.durable < found.records || found.summary.is_some() {
        return Ok(Some(found));
    }
    let finished = api.shared.authority.finish_upload(member, found.key, trace, api.now()).await;
    match finished.map_err(|error| api.failure(&error).durable(found.durable))? {
        UploadFinished::Complete { summary, report } => {
            if let Some(report) = report {
                api.shared.console.show(ConsoleEvent::ContactLog { username: member.username.clone(), report });
            }
            Ok(Some(UploadFound { summary: Some(summary), ..found }))
        }
        UploadFinished::NoUpload => Ok(None),
        UploadFinished::NoAccount => Err(api.account_gone(member)),
    }
}

/// Takes the body of one upload: bytes in, batches of records to the store, in constant memory.
///
/// While a batch is on its way to the disk the next one is read.
struct Receiver {
    api: Arc<Api>,
    member: Arc<Member>,
    upload: UploadKey,
    /// How many records the upload has in all.
    records: u32,
    /// How many of its first records are known to be durable.
    durable: u32,
    /// The place of the first record in `batch`.
    place: u32,
    batch: Vec<Uploaded>,
    /// When the first record of `batch` came.
    batch_begun: Instant,
    storing: Option<JoinHandle<Result<RecordsAppended, AuthorityError>>>,
    lines: RecordLines,
}

/// How a body came to its end.
enum End {
    Whole,
    /// The peer has gone.
    Cut,
    TooSlow,
    TooLarge,
    Shutdown,
}

impl Receiver {
    fn new(api: Arc<Api>, member: Arc<Member>, found: UploadFound, first: u32) -> Self {
        let UploadFound { key: upload, records, durable, .. } = found;
        Self {
            api,
            member,
            upload,
            records,
            durable,
            place: first,
            batch: Vec::new(),
            batch_begun: Instant::now(),
            storing: None,
            lines: RecordLines::default(),
        }
    }

    /// Takes the whole body, and returns how many of the upload's first records are durable then.
    async fn run(mut self, body: Body) -> Result<u32, Problem> {
        let shutdown = self.api.shutdown.clone();
        let end = self.read(body, shutdown).await?;
        if matches!(end, End::Whole) {
            self.batch.extend(self.lines.end());
        }
        let room = usize::try_from(self.records.saturating_sub(self.place)).unwrap_or(usize::MAX);
        let is_too_many = self.batch.len() > room;
        self.batch.truncate(room);
        self.store().await?;
        self.stored().await?;
        if is_too_many {
            let (key, records, durable) = (self.upload, self.records, self.durable);
            let found = UploadFound { key, records, durable, summary: None };
            completed(&self.api, &self.member, found, UploadTrace::default()).await?.ok_or_else(no_upload)?;
        }
        let problem = |code, detail| Err(Problem::new(code, detail).durable(self.durable));
        match end {
            End::Whole if is_too_many => problem(
                ProblemCode::TooManyRecords,
                "the upload was begun with fewer records; those beyond were not taken",
            ),
            End::Whole => Ok(self.durable),
            End::Cut => problem(ProblemCode::BadRequest, "the body ended before its end"),
            End::TooSlow => {
                problem(ProblemCode::TooSlow, "the body took too long to arrive; go on where `durable` says")
            }
            End::TooLarge => problem(ProblemCode::TooLarge, "the body is too long; send the rest in another request"),
            End::Shutdown => {
                let detail = "the server is shutting down; go on later where `durable` says";
                Err(Problem::new(ProblemCode::ShuttingDown, detail).durable(self.durable).retry_after(5))
            }
        }
    }

    async fn read(&mut self, mut body: Body, mut shutdown: Shutdown) -> Result<End, Problem> {
        if body.size_hint().lower() > MAX_HTTP_UPLOAD {
            return Ok(End::TooLarge);
        }
        let deadline = Instant::now() + HTTP_UPLOAD_DEADLINE;
        let mut heard = Instant::now();
        let mut bytes = 0_u64;
        loop {
            let wake =
                if self.batch.is_empty() { heard + HTTP_BODY_STALL } else { self.batch_begun + HTTP_BATCH_PAUSE };
            let frame = tokio::select! {
                frame = timeout_at(wake.min(deadline), body.frame()) => frame,
                () = shutdown.begun() => return Ok(End::Shutdown),
            };
            match frame {
                Ok(None) => return Ok(End::Whole),
                Ok(Some(Err(_))) => return Ok(End::Cut),
                Ok(Some(Ok(frame))) => {
                    heard = Instant::now();
                    let Ok(data) = frame.into_data() else { continue };
                    bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    if bytes > MAX_HTTP_UPLOAD {
                        return Ok(End::TooLarge);
                    }
                    if self.batch.is_empty() {
                        self.batch_begun = heard;
                    }
                    self.lines.take(&data, |record| self.batch.push(record));
                }
                Err(_) if Instant::now() >= deadline || self.batch.is_empty() => return Ok(End::TooSlow),
                Err(_) => {}
            }
            let is_full = self.place.saturating_add(count(&self.batch)) > self.records;
            if is_full {
                return Ok(End::Whole);
            }
            if self.batch.len() >= MAX_RECORD_BATCH || self.batch_begun.elapsed() >= HTTP_BATCH_PAUSE {
                self.store().await?;
            }
        }
    }

    /// Begins to store the batch, once the one before it is durable.
    async fn store(&mut self) -> Result<(), Problem> {
        self.stored().await?;
        if self.batch.is_empty() {
            return Ok(());
        }
        let room = self.api.budgets.batches.enter().await.map_err(|problem| problem.durable(self.durable))?;
        let (first, records) = (self.place, std::mem::take(&mut self.batch));
        self.place = first.saturating_add(count(&records));
        self.api.metrics.uploaded(count(&records));
        let (authority, member) = (Arc::clone(&self.api.shared.authority), Arc::clone(&self.member));
        let upload = self.upload;
        self.storing = Some(tokio::spawn(async move {
            let _room = room;
            authority.append_records(&member, upload, first, records).await
        }));
        Ok(())
    }

    /// Waits until the batch on its way is durable.
    async fn stored(&mut self) -> Result<(), Problem> {
        let Some(storing) = self.storing.take() else { return Ok(()) };
        let stored = storing.await.unwrap_or_else(|error| Err(AuthorityError::Internal(error.to_string())));
        match stored.map_err(|error| self.api.failure(&error).durable(self.durable))? {
            RecordsAppended::Durable(appended) => self.durable = appended.durable,
            RecordsAppended::NoUpload => return Err(no_upload()),
            RecordsAppended::NoAccount => return Err(self.api.account_gone(&self.member)),
        }
        Ok(())
    }
}

fn count(records: &[Uploaded]) -> u32 {
    u32::try_from(records.len()).unwrap_or(u32::MAX)
}

impl UploadBody {
    fn of(upload: &UploadId, found: UploadFound) -> Self {
        let UploadFound { records, durable, summary, .. } = found;
        Self { upload: upload.reveal().to_owned(), records, durable, summary: summary.map(SummaryBody::from) }
    }
}

impl From<UploadSummary> for SummaryBody {
    fn from(summary: UploadSummary) -> Self {
        let UploadSummary { records, resolved, unknown, invalid } = summary;
        Self { records, resolved, unknown, invalid }
    }
}
