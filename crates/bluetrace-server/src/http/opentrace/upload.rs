//! Owns `POST /upload`: the one request with which an app derived from OpenTrace uploads, authorised by its token.
//!
//! The body is one JSON object, and what decides about it, the token and the number of its records, may stand at its end. So the
//! records are judged as they arrive and wait in a [`Spool`]; when the end has come they go to the store in batches, as those
//! of every upload do, under the name that is in the token. A body that is cut has left nothing behind, and one that is sent
//! again finds what there is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header::AUTHORIZATION;
use bluetrace_authority::store::AccountId;
use bluetrace_authority::upload_tokens::UploadGrant;
use bluetrace_authority::{AuthorityError, Member};
use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::opentrace::upload_json::{Envelope, UploadJson, UploadJsonError};
use http_body_util::BodyExt as _;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::carry_out::Upload;
use super::spool::{Spool, Spooled};
use super::verdicts::{Judge, VerdictCounts};
use crate::http::Api;
use crate::http::body::{Json, is_of_kind};
use crate::http::budgets::UploadPlace;
use crate::http::callers::{Caller, Origin};
use crate::http::problem::{Problem, ProblemBody, ProblemCode};
use crate::http::v1::uploads::SummaryBody;
use crate::limits::{HTTP_BODY_STALL, HTTP_UPLOAD_DEADLINE, HTTP_UPLOAD_PIECES, MAX_HTTP_UPLOAD};

/// What a server's operator decides about uploads of OpenTrace apps.
#[derive(Debug, Clone)]
pub struct OpenTraceOptions {
    /// The data folder, where the records of a long upload wait for its end.
    pub folder: Arc<Path>,
    /// Whether records are judged as the reference judges them, laxness included.
    pub is_compatible: bool,
}

/// What came of an upload.
#[derive(Serialize, ToSchema)]
pub(crate) struct UploadedBody {
    /// `SUCCESS`
    pub(super) status: &'static str,
    /// What came of the records that were stored: all but duplicates.
    pub(super) summary: SummaryBody,
    /// What the records that came with this request were found to be.
    pub(super) verdicts: VerdictCounts,
}

/// An upload, as an app sends it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what is read as a stream")]
pub(crate) struct UploadRequestBody {
    /// From `getUploadToken`.
    token: String,
    /// Records such as `{"timestamp":1586390790,"msg":"<TempID>","rssi":-60}`, a million at the most. What is wrong with one is a
    /// verdict on that one.
    records: Vec<serde_json::Value>,
    /// Not looked at.
    #[schema(required = false)]
    events: Vec<serde_json::Value>,
}

/// Takes an upload: `token`, `records` and whatever else, in any order, as one JSON object.
///
/// The token says whose it is. An access token beside it, in the header, is not needed; if there is one it must be the same
/// account's. Sent again with its token, as by an app that lost the answer, an upload has no effect and gets the same summary.
#[utoipa::path(
    post, path = "/upload", tag = "opentrace", request_body = UploadRequestBody, security((), ("access_token" = [])),
    responses(
        (status = OK, description = "It is complete and durable", body = UploadedBody),
        (status = UNAUTHORIZED, description = "`unauthenticated`: `token` is missing, not, or no longer, good", body = ProblemBody, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "`upload_not_authorised`: the token is another account's, or its code was revoked or is used", body = ProblemBody, content_type = "application/problem+json"),
        (status = CONFLICT, description = "`upload_conflict`: the token has carried another upload, or its code is carrying one", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn upload(
    State(api): State<Arc<Api>>,
    Origin(address): Origin,
    request: Request,
) -> Result<Json<UploadedBody>, Problem> {
    let (mut parts, body) = request.into_parts();
    if !is_of_kind(&parts.headers, &["application/json"]) {
        return Err(Problem::new(ProblemCode::UnsupportedMediaType, "send `Content-Type: application/json`"));
    }
    let caller = if parts.headers.contains_key(AUTHORIZATION) {
        let Caller(member) = Caller::from_request_parts(&mut parts, &api).await?;
        Some(member)
    } else {
        None
    };
    api.budgets.upload_from(address)?;
    let caller = caller.map(|caller| caller.account);
    let place = api.budgets.enter_upload(caller).await?;
    let Arrived { envelope, granted, spooled, place } = arrive(&api, body, caller, place).await?;
    let (member, grant) = granted.ok_or_else(bad_token)?;
    if !envelope.has_records {
        return Err(Problem::new(ProblemCode::BadJson, "there is no list of `records`"));
    }
    api.budgets.upload_of(member.account)?;
    // a task of its own: what has arrived whole, and been judged, is carried out, also if the peer goes away
    let carried_out = tokio::spawn(async move {
        let _place = place;
        let _turn = api.upload_turns.wait(grant.upload()).await;
        Upload { api: &api, member: &member, grant: &grant, spooled }.carry_out().await
    });
    let carried_out = carried_out.await;
    carried_out.unwrap_or_else(|_| Err(failed())).map(Json)
}

/// What a body held.
struct Arrived {
    envelope: Envelope,
    granted: Option<(Member, UploadGrant)>,
    /// Its records, judged.
    spooled: Spooled,
    /// By now the account's.
    place: UploadPlace,
}

/// Takes a body to its end. What has come is judged while the connection decrypts what comes.
async fn arrive(api: &Arc<Api>, body: Body, caller: Option<AccountId>, place: UploadPlace) -> Result<Arrived, Problem> {
    let (pieces, arriving) = mpsc::channel(HTTP_UPLOAD_PIECES);
    let judging = Arriving::new(api, place).await?.run(api, caller, arriving);
    let ((), arrived) = tokio::try_join!(read(api, body, pieces), judging)?;
    Ok(arrived)
}

/// Reads a body to its end.
async fn read(api: &Api, mut body: Body, pieces: mpsc::Sender<Bytes>) -> Result<(), Problem> {
    let too_large = || Problem::new(ProblemCode::TooLarge, "the body is too long");
    if body.size_hint().lower() > MAX_HTTP_UPLOAD {
        return Err(too_large());
    }
    let mut shutdown = api.shutdown.clone();
    let deadline = Instant::now() + HTTP_UPLOAD_DEADLINE;
    let mut bytes = 0_u64;
    loop {
        let frame = tokio::select! {
            frame = timeout_at(deadline.min(Instant::now() + HTTP_BODY_STALL), body.frame()) => frame,
            () = shutdown.begun() => {
                let detail = "the server is shutting down; send it again later";
                return Err(Problem::new(ProblemCode::ShuttingDown, detail).retry_after(5));
            }
        };
        let frame = match frame {
            Err(_) => return Err(Problem::new(ProblemCode::TooSlow, "the body took too long to arrive")),
            Ok(Some(Err(_))) => {
                return Err(Problem::new(ProblemCode::BadRequest, "the body ended before its end"));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(piece) = frame.into_data() else { continue };
        bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if bytes > MAX_HTTP_UPLOAD {
            return Err(too_large());
        }
        // if nobody takes it, what has come was refused
        _ = pieces.send(piece).await;
    }
}

/// An upload whose body is on its way.
struct Arriving {
    json: UploadJson,
    judge: Judge,
    spool: Spool,
    place: UploadPlace,
}

impl Arriving {
    async fn new(api: &Api, place: UploadPlace) -> Result<Self, Problem> {
        let OpenTraceOptions { folder, is_compatible } = &api.opentrace;
        let keyring = api.shared.authority.keyring(api.now()).await.map_err(|error| api.failure(&error))?;
        Ok(Self {
            json: UploadJson::default(),
            judge: Judge::new(keyring, *is_compatible),
            spool: Spool::new(Arc::clone(folder)),
            place,
        })
    }

    /// Takes the pieces of the body to their end, which is too early where the body broke off.
    /// As soon as the token has come, it has to be the caller's, if there is one, and otherwise the upload takes a place of its account's.
    async fn run(
        mut self,
        api: &Arc<Api>,
        caller: Option<AccountId>,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Arrived, Problem> {
        let (begun, mut granted) = (api.now(), None);
        let mut waiting = Vec::new();
        while pieces.recv_many(&mut waiting, HTTP_UPLOAD_PIECES).await > 0 {
            let (taken, has_flushed) = self.take(Arc::clone(api), std::mem::take(&mut waiting)).await?;
            self = taken;
            if has_flushed {
                // taken anew now and then, so that a key that was destroyed opens nothing
                let keyring = api.shared.authority.keyring(api.now()).await;
                self.judge.renew(keyring.map_err(|error| api.failure(&error))?);
            }
            if granted.is_none()
                && let Some(token) = self.json.token()
            {
                let found = api.shared.authority.upload_grant(token.ok_or_else(bad_token)?, begun).await;
                let (member, grant) = found.map_err(|error| api.failure(&error))?.ok_or_else(bad_token)?;
                match caller {
                    Some(caller) if caller != member.account => {
                        let detail = "the upload token is not this account's";
                        return Err(Problem::new(ProblemCode::UploadNotAuthorised, detail));
                    }
                    Some(_) => {}
                    None => self.place = api.budgets.enter_upload(Some(member.account)).await?,
                }
                granted = Some((member, grant));
            }
        }
        let Self { json, spool, place, .. } = self;
        let envelope = json.end().map_err(bad_json)?;
        let spooled = spawn_blocking(move || spool.end()).await.map_err(|_| failed())?;
        Ok(Arrived { envelope, granted, spooled: spooled.map_err(|error| no_spool(api, &error))?, place })
    }

    /// Judges what pieces hold, and says whether any of it went to the file: on a thread that may be busy, and wait for the disk,
    /// while the connection is read. There are no more of these than cores, so that others are answered meanwhile.
    async fn take(mut self, api: Arc<Api>, pieces: Vec<Bytes>) -> Result<(Self, bool), Problem> {
        let turn = api.budgets.judging().await;
        let judging = spawn_blocking(move || {
            let _turn = turn;
            let Self { json, judge, spool, .. } = &mut self;
            let mut has_flushed = false;
            for piece in pieces {
                json.take(&piece, |element| spool.push(&judge.judge(element))).map_err(bad_json)?;
                if spool.len() > MAX_UPLOAD_RECORDS {
                    let detail = format!("an upload has at most {MAX_UPLOAD_RECORDS} records");
                    return Err(Problem::new(ProblemCode::TooManyRecords, detail));
                }
                if spool.is_full() {
                    spool.flush().map_err(|error| no_spool(&api, &error))?;
                    has_flushed = true;
                }
            }
            Ok((self, has_flushed))
        });
        judging.await.unwrap_or_else(|_| Err(failed()))
    }
}

/// The problem of an upload whose records cannot wait for its end.
pub(super) fn no_spool(api: &Api, error: &io::Error) -> Problem {
    api.failure(&AuthorityError::Unavailable(format!("an upload cannot wait in the data folder: {error}")))
}

fn failed() -> Problem {
    Problem::new(ProblemCode::Internal, "the upload failed")
}

fn bad_token() -> Problem {
    Problem::new(
        ProblemCode::Unauthenticated,
        "`token` is not, or no longer, good; ask for another with the upload code",
    )
}

fn bad_json(error: UploadJsonError) -> Problem {
    Problem::new(ProblemCode::BadJson, error.to_string())
}
