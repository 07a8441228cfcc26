//! Owns the [`Backoff`]: how long a device waits before it tries again.

use core::time::Duration;

use rand_core::Rng;

/// The shortest full wait before a reconnection.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait before a reconnection.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The waits between attempts to reconnect: from [`FIRST_WAIT`] doubling to [`LONGEST_WAIT`], each shortened at random
/// by up to a half, so that many devices that lost one server do not come back in one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub const fn new() -> Self {
        Self { failures: 0 }
    }

    /// Whether an attempt has failed since the last that succeeded.
    pub const fn has_failures(&self) -> bool {
        self.failures > 0
    }

    /// How long to wait after a further failure.
    pub fn next_wait(&mut self, generator: &mut impl Rng) -> Duration {
        let full = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        // the wait is at most 30 s: no part of it overflows
        let half = full.checked_div(2).unwrap_or_default();
        let part = u64::from(generator.next_u32());
        let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        let jitter = millis.saturating_mul(part).checked_div(u64::from(u32::MAX)).unwrap_or_default();
        half.saturating_add(Duration::from_millis(jitter))
    }

    /// An attempt succeeded: the next failure waits as the first did.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    struct Counter(u64);

    impl rand_core::TryRng for Counter {
        type Error = core::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Ok(u32::try_from(self.0 >> 32).unwrap())
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(u64::from(self.try_next_u32()?) << 32 | u64::from(self.try_next_u32()?))
        }
        fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
            for byte in dst {
                *byte = self.try_next_u32()?.to_le_bytes()[3];
            }
            Ok(())
        }
    }

    #[test]
    fn waits_double_from_half_a_second_to_half_a_minute_and_are_spread_over_their_second_half() {
        let mut generator = Counter(1);
        for _ in 0..100 {
            let mut backoff = Backoff::new();
            for full in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
                let wait = backoff.next_wait(&mut generator).as_millis();
                assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
            }
            backoff.reset();
            assert!(backoff.next_wait(&mut generator) <= FIRST_WAIT);
        }
        let mut waits: Vec<_> = (0..100).map(|_| Backoff::new().next_wait(&mut generator)).collect();
        waits.sort();
        assert!(waits[10] < Duration::from_millis(300) && waits[90] > Duration::from_millis(450), "not spread");
    }
}
