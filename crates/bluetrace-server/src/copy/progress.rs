//! Owns how far a copy or a check is ([`Progress`]), for whoever waits for it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How far a copy is; it may be looked at all the time.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Counts>);

/// What is being done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Step {
    /// The databases are opened, and their rows counted.
    #[default]
    Beginning,
    /// Rows are read from one and written to the other.
    Copying,
    /// Rows of both are read and compared.
    Comparing,
    /// Rows of one are read and examined.
    Checking,
}

#[derive(Debug, Default)]
struct Counts {
    step: Step,
    done: u64,
    total: u64,
}

impl Progress {
    /// What is being done, how many rows it was done with, and about how many there are.
    pub fn now(&self) -> (Step, u64, u64) {
        let Counts { step, done, total } = *self.counts();
        (step, done, total)
    }

    pub(crate) fn begin(&self, step: Step, done: u64, total: u64) {
        *self.counts() = Counts { step, done, total };
    }

    pub(crate) fn add(&self, rows: usize) {
        self.counts().done += u64::try_from(rows).unwrap_or(0);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Beginning => "opening, and counting rows",
            Self::Copying => "copying",
            Self::Comparing => "comparing",
            Self::Checking => "checking",
        })
    }
}
