//! Owns the report of a load: for a person a table, for a program JSON.

use std::fmt::Write as _;
use std::time::Duration;

use bluetrace_client::load::Snapshot;
use clap::ValueEnum as _;
use serde_json::{Value, json};

use super::store_check::StoreCheck;
use crate::command_line::Protocol;

/// What came of a load.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) protocol: Protocol,
    pub(super) devices: u32,
    pub(super) results: Snapshot,
    pub(super) took: Duration,
    /// What was found in the store, if it was looked into.
    pub(super) store: Option<StoreCheck>,
}

impl Report {
    /// Whether something was uploaded, and all that was acknowledged is there once.
    pub(super) fn is_good(&self) -> bool {
        let Self { results, store, .. } = self;
        // a load of which nothing got through has shown nothing
        let is_confirmed = results.lost_records == 0 && results.unconfirmed == 0 && results.uploads > 0;
        is_confirmed && store.as_ref().is_none_or(StoreCheck::is_exact)
    }
}

/// The report for a person.
pub(super) fn table(report: &Report) -> String {
    let Report { results, took, store, .. } = report;
    let seconds = took.as_secs_f64();
    let mut text = String::new();
    // writing to a string does not fail
    let mut row = |name: &str, value: String| _ = writeln!(text, "{name:<28} {value}");
    row("time", format!("{seconds:.1} s"));
    row("TempIDs", results.temp_ids.to_string());
    row("uploads complete", format!("{} ({}/s)", results.uploads, per_second(results.uploads, seconds)));
    row("records acknowledged", format!("{} ({}/s)", results.records, per_second(results.records, seconds)));
    row("longest pause", format!("{:.1} s", results.longest_gap.as_secs_f64()));
    row("uploads confirmed afterwards", results.confirmed.to_string());
    if results.unconfirmed > 0 {
        row("uploads NOT confirmed", results.unconfirmed.to_string());
    }
    row("acknowledged records lost", results.lost_records.to_string());
    if let Some(StoreCheck { records, missing, doubled, altered, .. }) = store {
        row("records in the store", records.to_string());
        row("records missing in the store", missing.to_string());
        row("records doubled in the store", doubled.to_string());
        if *altered > 0 {
            row("uploads ALTERED in the store", altered.to_string());
        }
    }
    for (what, latency) in &results.latencies {
        let [p50, p90, p99, max] = [latency.p50, latency.p90, latency.p99, latency.max].map(in_ms);
        let count = latency.count;
        row(&format!("{}, ms", what.name()), format!("p50 {p50}  p90 {p90}  p99 {p99}  max {max}  ({count} times)"));
    }
    if results.errors.is_empty() {
        row("errors", "none".to_owned());
    }
    for (what, count) in &results.errors {
        row(&format!("error: {what}"), count.to_string());
    }
    text
}

/// The report for a program. Latencies in milliseconds.
pub(super) fn in_json(report: &Report) -> Value {
    let Report { protocol, devices, results, took, store } = report;
    let store = store.as_ref().map(|StoreCheck { uploads, records, missing, doubled, altered }| {
        json!({
            "uploads": uploads, "records": records,
            "missing_records": missing, "doubled_records": doubled, "altered_uploads": altered,
        })
    });
    let latencies = results.latencies.iter().map(|(what, latency)| {
        let [p50, p90, p99, max] =
            [latency.p50, latency.p90, latency.p99, latency.max].map(|time| (time.as_secs_f64() * 1e6).round() / 1e3);
        (what.name().to_owned(), json!({"count": latency.count, "p50": p50, "p90": p90, "p99": p99, "max": max}))
    });
    json!({
        "protocol": protocol.to_possible_value().map(|value| value.get_name().to_owned()),
        "devices": devices,
        "seconds": took.as_secs_f64(),
        "temp_ids": results.temp_ids,
        "uploads": results.uploads,
        "records": results.records,
        "confirmed": results.confirmed,
        "unconfirmed": results.unconfirmed,
        "lost_records": results.lost_records,
        "longest_gap_seconds": results.longest_gap.as_secs_f64(),
        "latencies_ms": latencies.collect::<serde_json::Map<_, _>>(),
        "errors": results.errors,
        "store": store,
    })
}

fn in_ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate to look at"
)]
pub(super) fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds) as u64
}
