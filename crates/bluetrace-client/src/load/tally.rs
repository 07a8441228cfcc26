//! Owns the measurements of a load: [`Tally`] while it runs, [`Snapshot`] to look at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// What came of a load, as it grows.
#[derive(Debug)]
pub struct Tally(Mutex<Inner>);

/// What is measured, from the wish to the whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measured {
    /// From the begin of a connection to the welcome, by password.
    Login,
    /// The same, by resume token.
    Resume,
    /// `TempIDs`.
    TempIds,
    /// From the begin of an upload to its summary, lost connections included.
    Upload,
}

/// A moment's look at a [`Tally`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Devices that are logged in now.
    pub online: u32,
    /// Devices that have ended.
    pub ended: u32,
    /// `TempIDs` received.
    pub temp_ids: u64,
    /// Uploads complete.
    pub uploads: u64,
    /// Records that the authority has acknowledged.
    pub records: u64,
    /// Complete uploads that were asked for again afterwards, and that the authority knew to be complete.
    pub confirmed: u64,
    /// Acknowledged records that the authority did not know any more. Anything but 0 is a fault of the authority.
    pub lost_records: u64,
    /// Complete uploads that could not be asked for again.
    pub unconfirmed: u64,
    /// The longest time in which nothing was acknowledged, between two acknowledgements of records: how long the authority was away,
    /// if the load leaves no pauses of its own.
    pub longest_gap: Duration,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Latencies, where there are any.
    pub latencies: Vec<(Measured, Latency)>,
}

/// How long something took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// How often it was measured.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 90 of 100 took no longer.
    pub p90: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
}

#[derive(Debug)]
struct Inner {
    counts: Snapshot,
    histograms: BTreeMap<Measured, Histogram<u64>>,
    acknowledged_at: Option<Instant>,
}

impl Measured {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Resume => "resume",
            Self::TempIds => "temp_ids",
            Self::Upload => "upload",
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self(Mutex::new(Inner { counts: Snapshot::default(), histograms: BTreeMap::new(), acknowledged_at: None }))
    }
}

impl Tally {
    /// How things stand.
    pub fn snapshot(&self) -> Snapshot {
        self.with(|inner| {
            let latencies = inner.histograms.iter().map(|(what, histogram)| (*what, Latency::of(histogram)));
            Snapshot { latencies: latencies.collect(), ..inner.counts.clone() }
        })
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Snapshot)) {
        self.with(|inner| count(&mut inner.counts));
    }

    /// Counts records that the authority has just acknowledged.
    pub(super) fn acknowledged(&self, records: u32) {
        if records == 0 {
            return;
        }
        self.with(|inner| {
            let now = Instant::now();
            if let Some(before) = inner.acknowledged_at.replace(now) {
                inner.counts.longest_gap = inner.counts.longest_gap.max(now.duration_since(before));
            }
            inner.counts.records += u64::from(records);
        });
    }

    /// Counts something that went wrong. No personal data may be in its name.
    pub(super) fn error(&self, what: &str) {
        self.count(|counts| match counts.errors.get_mut(what) {
            Some(count) => *count += 1,
            None => _ = counts.errors.insert(what.to_owned(), 1),
        });
    }

    pub(super) fn took(&self, what: Measured, time: Duration) {
        self.with(|inner| {
            let histogram = match inner.histograms.entry(what) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match Histogram::new_with_bounds(1, LONGEST_US, 3) {
                    Ok(histogram) => entry.insert(histogram),
                    Err(_) => return, // the bounds are constants that it takes
                },
            };
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: Duration::from_micros(histogram.max()),
        }
    }
}

/// What takes longer counts as this: an hour.
const LONGEST_US: u64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_by_their_quantiles_and_errors_by_their_names() {
        let tally = Tally::default();
        for millisecond in 1..=1_000 {
            tally.took(Measured::Upload, Duration::from_millis(millisecond));
        }
        for what in ["lost", "unavailable", "lost"] {
            tally.error(what);
        }
        let Snapshot { latencies, errors, .. } = tally.snapshot();
        assert_eq!(errors.into_iter().collect::<Vec<_>>(), [("lost".into(), 2), ("unavailable".into(), 1)]);
        let [(Measured::Upload, latency)] = &latencies[..] else { panic!("{latencies:?}") };
        assert_eq!(latency.count, 1_000);
        for (told, expected) in [(latency.p50, 500), (latency.p90, 900), (latency.p99, 990), (latency.max, 1_000)] {
            let difference = told.abs_diff(Duration::from_millis(expected));
            assert!(difference <= Duration::from_millis(expected) / 500, "{told:?} for {expected} ms");
        }
    }
}
