//! Owns what `/metrics` tells: rates, durations and queues, in the text format of Prometheus. Nothing of it is about a person.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bluetrace_authority::store::{SealingKeyRow, SealingKeyState};
use bluetrace_protocol::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout};

use super::Api;
use super::problem::{Problem, ProblemBody, ProblemCode};
use crate::limits::HTTP_READY_WAIT;

/// A queue whose depth is of interest.
pub struct Probe {
    /// The queue's name, a label's value.
    pub queue: &'static str,
    /// How much waits in it.
    pub depth: Box<dyn Fn() -> usize + Send + Sync>,
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    problems: Family<ProblemLabels, Counter>,
    under_way: Gauge,
    temp_ids: Counter,
    records: Counter,
    one_time_codes: Family<OutcomeLabels, Counter>,
    queues: Family<QueueLabels, Gauge>,
    store_up: Gauge,
    store_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    sealing_keys: Family<KeyLabels, Gauge>,
    key_age_seconds: Gauge,
    key_seals: Gauge,
    probes: Vec<Probe>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: Arc<str>,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabels {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    state: &'static str,
}

/// A request that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Metrics);

impl Metrics {
    pub(crate) fn new(probes: Vec<Probe>) -> Self {
        let (requests, problems, queues) = (Family::default(), Family::default(), Family::default());
        let durations = Family::new_with_constructor(new_histogram as fn() -> Histogram);
        let (under_way, store_up, store_seconds) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (temp_ids, records) = (Counter::default(), Counter::default());
        let mut registry = Registry::with_prefix("bluetrace");
        registry.register("http_requests", "Requests answered over HTTP", Family::clone(&requests));
        let help = "From a request's head to its answer";
        registry.register("http_request_duration_seconds", help, Family::clone(&durations));
        let help = "Requests that were not carried out, by their code";
        registry.register("http_problems", help, Family::clone(&problems));
        registry.register("http_requests_under_way", "Requests being answered now", Gauge::clone(&under_way));
        registry.register("http_temp_ids_issued", "TempIDs issued over HTTP", Counter::clone(&temp_ids));
        registry.register("http_records_received", "Uploaded records received over HTTP", Counter::clone(&records));
        let one_time_codes = Family::default();
        let help = "One-time codes given to what sends them, each of which may cost a message";
        registry.register("one_time_codes", help, Family::clone(&one_time_codes));
        registry.register("queue_depth", "What waits in the server's queues", Family::clone(&queues));
        registry.register("store_up", "Whether the store answers: 1 or 0", Gauge::clone(&store_up));
        let (sealing_keys, key_age_seconds, key_seals) = (Family::default(), Gauge::default(), Gauge::default());
        registry.register("sealing_keys", "Sealing keys by their state", Family::clone(&sealing_keys));
        let help = "How long the sealing key in use has been in use";
        registry.register("sealing_key_age_seconds", help, Gauge::clone(&key_age_seconds));
        let help = "TempIDs sealed with the key in use, as far as they are counted";
        registry.register("sealing_key_seals", help, Gauge::clone(&key_seals));
        let help = "How long the store took to answer a small question";
        registry.register("store_answer_seconds", help, Gauge::clone(&store_seconds));
        Self {
            registry,
            requests,
            durations,
            problems,
            under_way,
            temp_ids,
            records,
            one_time_codes,
            queues,
            store_up,
            store_seconds,
            sealing_keys,
            key_age_seconds,
            key_seals,
            probes,
        }
    }

    /// Counts a request among those under way.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.under_way.inc();
        UnderWay(self)
    }

    /// Counts a request that was answered. The route is its pattern, never its path.
    pub(crate) fn answered(&self, method: &Method, route: Arc<str>, status: StatusCode, took: Duration) {
        self.durations.get_or_create(&RouteLabels { route: Arc::clone(&route) }).observe(took.as_secs_f64());
        let labels = RequestLabels { method: method_label(method), route, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a one-time code that was sent, or could not be.
    pub(crate) fn one_time_code(&self, is_sent: bool) {
        let outcome = if is_sent { "sent" } else { "failed" };
        self.one_time_codes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts a problem.
    pub(crate) fn problem(&self, code: ProblemCode) {
        self.problems.get_or_create(&ProblemLabels { code: code.as_str() }).inc();
    }

    /// Counts `TempIDs` issued.
    pub(crate) fn issued(&self, count: u32) {
        self.temp_ids.inc_by(count.into());
    }

    /// Takes note of the sealing keys, as they are at `now`.
    fn keys(&self, keys: &[SealingKeyRow], now: Timestamp) {
        let mut counts = [("live", 0), ("shredding", 0), ("shredded", 0)];
        for key in keys {
            let [live, shredding, shredded] = &mut counts;
            match key.state {
                SealingKeyState::Live(_) => live.1 += 1,
                SealingKeyState::Shredding => shredding.1 += 1,
                SealingKeyState::Shredded => shredded.1 += 1,
            }
        }
        for (state, count) in counts {
            self.sealing_keys.get_or_create(&KeyLabels { state }).set(count);
        }
        let in_use = SealingKeyRow::in_use(keys, now);
        self.key_age_seconds.set(in_use.map_or(0, |key| now.seconds_since(key.term.issues_from)));
        self.key_seals.set(in_use.map_or(0, |key| i64::try_from(key.seals).unwrap_or(i64::MAX)));
    }

    /// Counts records received.
    pub(crate) fn uploaded(&self, count: u32) {
        self.records.inc_by(count.into());
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.dec();
    }
}

/// Rates, durations and queues, in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses(
        (status = OK, description = "The metrics", body = String, content_type = "application/openmetrics-text"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let metrics = &api.metrics;
    for probe in &metrics.probes {
        let depth = i64::try_from((probe.depth)()).unwrap_or(i64::MAX);
        metrics.queues.get_or_create(&QueueLabels { queue: probe.queue }).set(depth);
    }
    let (asked, now) = (Instant::now(), api.now());
    let keys = timeout(HTTP_READY_WAIT, api.shared.authority.store().sealing_keys(now)).await;
    metrics.store_up.set(i64::from(matches!(keys, Ok(Ok(_)))));
    if let Ok(Ok(keys)) = keys {
        metrics.keys(&keys, now);
    }
    metrics.store_seconds.set(asked.elapsed().as_secs_f64());
    let mut text = String::new();
    encode(&mut text, &metrics.registry)
        .map_err(|_| Problem::new(ProblemCode::Internal, "the metrics have no text"))?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

fn new_histogram() -> Histogram {
    Histogram::new(DURATIONS_S)
}

/// A method by a name of ours: a peer can invent any number of others.
fn method_label(method: &Method) -> &'static str {
    let known = [
        (Method::GET, "GET"),
        (Method::HEAD, "HEAD"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::DELETE, "DELETE"),
        (Method::OPTIONS, "OPTIONS"),
    ];
    known.iter().find(|(known, _)| known == method).map_or("other", |(_, label)| label)
}

/// From a question that needs no disk to an upload of many records.
const DURATIONS_S: [f64; 14] =
    [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("queue", &self.queue).finish_non_exhaustive()
    }
}
