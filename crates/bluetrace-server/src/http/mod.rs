//! Owns the HTTPS API: the native one under `/v1`, the calls that apps derived from OpenTrace make, and what an operator's
//! programs ask. `docs/http.md` is its contract; `/openapi.json` describes it, generated from the handlers.
//!
//! ```text
//! mod        a connection's requests, and the routes
//! problem    how a request fails: RFC 9457 with a stable code       body     how bodies are read and written
//! callers    access token to member                                 budgets  rates, and how much of what at once
//! patient_stream  how long an answer waits for its peer
//! v1         the native API                                         opentrace  the callable protocol and its calls
//! health, metrics                                                   what an operator's programs ask
//! ```

mod body;
mod budgets;
mod callers;
mod health;
mod metrics;
mod opentrace;
mod patient_stream;
mod problem;
mod v1;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bluetrace_authority::{AuthorityError, Member};
use bluetrace_protocol::Timestamp;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service as _;
use tracing::debug;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::budgets::{Rate, Rates};
pub use self::metrics::Probe;
pub use self::opentrace::OpenTraceOptions;
pub use self::problem::{Problem, ProblemBody, ProblemCode, ProblemFacts};

use self::budgets::Budgets;
use self::callers::Callers;
use self::metrics::Metrics;
use self::opentrace::UploadTurns;
use self::patient_stream::PatientStream;
use crate::code_sender::CodeSender;
use crate::connection::Shared;
use crate::limits::{
    HTTP_CONNECTION_AGE, HTTP_HEAD_DEADLINE, HTTP_UPLOAD_DEADLINE, Limits, MAX_HTTP_HEAD, MAX_HTTP_HEADERS,
};
use crate::listener::{Peer, Server};
use crate::shutdown::Shutdown;
use crate::stream::close;

/// The HTTPS API of a server.
#[derive(Debug, Clone)]
pub struct HttpApi {
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
}

/// What a server's operator decides about it.
#[derive(Debug)]
pub struct HttpOptions {
    /// Without rates only what is under way at once is limited: for a server behind a proxy that limits, or one that is measured.
    pub rates: Option<Rates>,
    /// How one-time codes are sent.
    pub codes: CodeSender,
    /// What `/metrics` asks beside.
    pub probes: Vec<Probe>,
    /// What becomes of uploads of OpenTrace apps.
    pub opentrace: OpenTraceOptions,
}

/// What every request shares.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shutdown: Shutdown,
    pub(crate) codes: CodeSender,
    pub(crate) budgets: Budgets,
    pub(crate) callers: Callers,
    pub(crate) metrics: Metrics,
    pub(crate) opentrace: OpenTraceOptions,
    pub(crate) upload_turns: UploadTurns,
    /// Set before the first request.
    description: OnceLock<String>,
}

impl HttpApi {
    /// The API over what connections share.
    pub fn new(shared: Arc<Shared>, options: HttpOptions, shutdown: Shutdown) -> Self {
        let HttpOptions { rates, codes, probes, opentrace } = options;
        let limits = shared.limits.clone();
        let api = Arc::new(Api {
            shared,
            shutdown: shutdown.clone(),
            codes,
            budgets: Budgets::new(rates),
            callers: Callers::default(),
            metrics: Metrics::new(probes),
            opentrace,
            upload_turns: UploadTurns::default(),
            description: OnceLock::new(),
        });
        Self { router: router(api), limits, shutdown }
    }

    /// Serves a port, in a task of its own, until the shutdown: see [`Server::run`].
    pub fn serve_port(self, server: Server, listener: TcpListener) -> JoinHandle<()> {
        let shutdown = self.shutdown.clone();
        tokio::spawn(server.run(listener, shutdown, move |stream, peer| self.clone().serve(stream, peer)))
    }

    /// Serves the requests of one connection to its end.
    pub async fn serve<S>(self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Self { router, limits, mut shutdown } = self;
        let stream = PatientStream::new(stream, limits, shutdown.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            Box::pin(router.clone().call(request))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HTTP_HEAD_DEADLINE)
            .max_headers(MAX_HTTP_HEADERS)
            .max_buf_size(MAX_HTTP_HEAD);
        let mut connection = http.serve_connection(TokioIo::new(stream), service);
        let age = sleep(HTTP_CONNECTION_AGE);
        let in_time = tokio::select! {
            ended = poll_fn(|context| connection.poll_without_shutdown(context)) => Some(ended),
            () = shutdown.begun() => None,
            () = age => None,
        };
        let ended = if let Some(ended) = in_time {
            ended
        } else {
            // the request under way is the last one
            Pin::new(&mut connection).graceful_shutdown();
            let rest = poll_fn(|context| connection.poll_without_shutdown(context));
            let Ok(ended) = timeout(HTTP_UPLOAD_DEADLINE, rest).await else { return };
            ended
        };
        match ended {
            // a body that was refused may still be on its way
            Ok(()) => close(connection.into_parts().io.inner_mut().inner_mut()).await,
            // a peer that goes away, stalls or speaks no HTTP ends its own connection and nothing else
            Err(error) => debug!(%error, "an HTTP connection ended early"),
        }
    }
}

impl Api {
    pub(crate) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Tells the log what the authority could not do, unless it has just been told, and gives the problem for the peer.
    pub(crate) fn failure(&self, error: &AuthorityError) -> Problem {
        self.shared.complain(error);
        match error {
            AuthorityError::Unavailable(_) => {
                Problem::new(ProblemCode::Unavailable, "the authority cannot answer at the moment").retry_after(5)
            }
            AuthorityError::Busy => Problem::new(ProblemCode::Busy, "too many logins are waiting").retry_after(10),
            AuthorityError::Internal(_) => Problem::new(ProblemCode::Internal, "the authority failed"),
        }
    }

    /// The problem of a caller whose account was removed a moment ago, in whatever way.
    pub(crate) fn account_gone(&self, caller: &Member) -> Problem {
        self.callers.forget_account(caller.account);
        Problem::new(ProblemCode::Unauthenticated, "the account has been removed")
    }

    /// Asks the store a question that costs it next to nothing.
    pub(crate) async fn ask_store(&self) -> Result<(), Problem> {
        let asked = self.shared.authority.store().accounts(None, 1, self.shared.clock.moment()).await;
        asked.map(|_| ()).map_err(|error| self.failure(&error.into()))
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "BlueTrace health authority",
        description = "The HTTPS API of a BlueTrace health authority: the native one under `/v1`, and the calls of apps derived from OpenTrace.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(opentrace::calls::get_temp_ids, opentrace::calls::get_handshake_pin, opentrace::calls::get_upload_token)
)]
struct Description;

/// Every route there is. Those of the calls answer to any method, because the callable protocol has an answer to it.
fn router(api: Arc<Api>) -> Router {
    let described = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(description))
        .routes(routes!(v1::registrations::request))
        .routes(routes!(v1::registrations::confirm))
        .routes(routes!(v1::sessions::login))
        .routes(routes!(v1::sessions::renew, v1::sessions::logout))
        .routes(routes!(v1::temp_ids::fetch))
        .routes(routes!(v1::uploads::begin, v1::uploads::look))
        .routes(routes!(v1::uploads::append))
        .routes(routes!(v1::notices::unread))
        .routes(routes!(v1::notices::read))
        .routes(routes!(v1::me::withdraw))
        .routes(routes!(v1::me::check))
        .routes(routes!(opentrace::upload::upload));
    let (router, mut openapi) = described.split_for_parts();
    opentrace::describe_long_paths(&mut openapi);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("an access token").build();
    openapi.components.get_or_insert_default().add_security_scheme("access_token", SecurityScheme::Http(bearer));
    api.description.get_or_init(|| json_text(&openapi));
    let router = opentrace::routes(router)
        .fallback(|| async { Problem::new(ProblemCode::NotFound, "there is nothing of this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(ProblemCode::MethodNotAllowed, "the header `Allow` says which methods are")
        });
    router.layer(from_fn_with_state(Arc::clone(&api), observe)).with_state(api)
}

/// Describes this API, as `OpenAPI` 3.1 has it.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation",
    responses(
        (status = OK, description = "The description", body = Object),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn description(State(api): State<Arc<Api>>) -> Response {
    let text = api.description.get().cloned().unwrap_or_default();
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// Counts a request, and keeps what is answered out of caches: most of it is one person's.
async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "other".into(), |path| path.as_str().into());
    let begun = Instant::now();
    let under_way = api.metrics.begin();
    let mut remainder = None;
    let request = request.map(|body| {
        let (body, rest) = body::lend(body);
        remainder = Some(rest);
        body
    });
    let mut response = next.run(request).await;
    drop(under_way);
    api.metrics.answered(&method, route, response.status(), begun.elapsed());
    if let Some(code) = response.extensions().get::<ProblemCode>() {
        api.metrics.problem(*code);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(remainder) = remainder {
        remainder.read().await;
    }
    response
}

/// The JSON text of an answer.
#[expect(clippy::expect_used, reason = "a struct of strings, numbers and lists always has a JSON text")]
pub(crate) fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers and lists have a JSON text")
}
