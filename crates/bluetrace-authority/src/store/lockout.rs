//! Owns the rule by which every store judges a login ([`Lockout::judge`]), and what it counts.

use bluetrace_protocol::{Moment, Timestamp};

/// Whether a password was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Right,
    /// It was not, or there is no such account.
    Wrong,
}

/// The lock-out rule (PROTOCOL section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockout {
    /// Failures in a row that block a username.
    pub max_failures: u32,
    /// How long a block lasts, in seconds, from the failure that made it; its end is not within it. With 0 nothing is
    /// ever blocked, and failures still count.
    pub block_duration_s: u32,
}

/// The failed logins of a username, as a store keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    /// Failures since the last success or block.
    pub in_a_row: u32,
    /// The end of the last block, which may be over.
    pub blocked_until: Option<Moment>,
}

/// Outcome of [`Store::record_login`](super::Store::record_login).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRecorded {
    /// The password was right, and the username was not blocked. Its failures are forgotten.
    Welcome,
    /// The password was wrong.
    Wrong {
        /// Failures that are still free before the block.
        left: u32,
    },
    /// The password was wrong, and this failure blocked the username.
    BlockedNow {
        /// The first moment at which it may log in again.
        until: Moment,
    },
    /// The username was blocked already. Nothing was counted.
    Blocked {
        /// The first moment at which it may log in again.
        until: Moment,
    },
}

/// Most usernames without an account whose failed logins are remembered: bounds what made-up names can cost.
pub const MAX_UNKNOWN_USERNAMES: u32 = 100_000;

/// How long failures of usernames without an account are remembered after the last one, in seconds: a day. They are
/// forgotten with the first whole second after it.
pub const UNKNOWN_USERNAME_MEMORY_S: i64 = 24 * 60 * 60;

impl Lockout {
    /// Applies the rule to one attempt: what came of it, and the failures to keep. Every store decides with this.
    pub fn judge(self, failures: Failures, verdict: Verdict, now: Moment) -> (LoginRecorded, Failures) {
        if let Some(until) = failures.blocked_until_after(now) {
            return (LoginRecorded::Blocked { until }, failures);
        }
        if verdict == Verdict::Right {
            return (LoginRecorded::Welcome, Failures::default());
        }
        let in_a_row = failures.in_a_row.saturating_add(1);
        if in_a_row >= self.max_failures && self.block_duration_s > 0 {
            let until = now.plus_ms(1_000 * i64::from(self.block_duration_s));
            (LoginRecorded::BlockedNow { until }, Failures { in_a_row: 0, blocked_until: Some(until) })
        } else {
            let left = self.max_failures.saturating_sub(in_a_row);
            (LoginRecorded::Wrong { left }, Failures { in_a_row, blocked_until: None })
        }
    }
}

impl Failures {
    /// The end of the block, if there is one at `now`.
    pub fn blocked_until_after(self, now: Moment) -> Option<Moment> {
        self.blocked_until.filter(|until| now < *until)
    }

    /// When those of a username without an account are forgotten, if the last attempt was at `now`. A whole second, as
    /// for every row, and never one before the end of a block.
    pub fn forgotten_at(self, now: Moment) -> Timestamp {
        let after_a_day = now.plus_ms(1_000 * UNKNOWN_USERNAME_MEMORY_S);
        self.blocked_until.map_or(after_a_day, |until| until.max(after_a_day)).timestamp_rounded_up()
    }
}
