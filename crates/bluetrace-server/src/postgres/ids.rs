//! Owns the numbers that the store gives: random ones, so that nothing counts in one place for all servers, and rows spread over
//! whatever the database is spread over.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bluetrace_authority::store::UploadKey;
use bluetrace_protocol::Timestamp;
use rand::rngs::ChaCha12Rng;
use rand::{Rng as _, SeedableRng as _};

/// Draws numbers, and remembers what of the database need not be asked again.
///
/// Two that were drawn alike would not harm: the database refuses the second, and another is drawn.
pub(super) struct Ids {
    generator: Mutex<ChaCha12Rng>,
    days_with_partition: Mutex<BTreeSet<i64>>,
    /// The last day on which anything that was begun here is forgotten; -1 if nothing was.
    last_day: AtomicI64,
    /// How many unknown usernames may be added before they are counted again.
    room_for_strangers: AtomicI64,
}

impl Ids {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let generator = Mutex::new(ChaCha12Rng::from_seed(seed));
        Self {
            generator,
            days_with_partition: Mutex::default(),
            last_day: AtomicI64::new(-1),
            room_for_strangers: AtomicI64::new(0),
        }
    }

    /// A positive number of 63 bits.
    pub(super) fn draw(&self) -> i64 {
        i64::try_from(locked(&self.generator).next_u64() >> 1).unwrap_or(i64::MAX).max(1)
    }

    /// A key for an upload: the day on which it is forgotten, then random bits. So all records of a day lie in one range of keys.
    pub(super) fn draw_upload(&self, forget_at: Timestamp) -> UploadKey {
        self.last_day.fetch_max(day_of(forget_at), Ordering::Relaxed);
        let low = locked(&self.generator).next_u64() >> (64 - LOW_BITS);
        UploadKey(first_key(day_of(forget_at)) | i64::try_from(low).unwrap_or(0))
    }

    pub(super) fn last_day(&self) -> Option<i64> {
        Some(self.last_day.load(Ordering::Relaxed)).filter(|day| *day >= 0)
    }

    pub(super) fn has_partition(&self, day: i64) -> bool {
        locked(&self.days_with_partition).contains(&day)
    }

    pub(super) fn note_partition(&self, day: i64) {
        locked(&self.days_with_partition).insert(day);
    }

    pub(super) fn forget_partition(&self, day: i64) {
        locked(&self.days_with_partition).remove(&day);
    }

    pub(super) fn may_add_stranger(&self) -> bool {
        self.room_for_strangers.fetch_sub(1, Ordering::Relaxed) > 0
    }

    pub(super) fn note_room_for_strangers(&self, room: i64) {
        self.room_for_strangers.store(room, Ordering::Relaxed);
    }
}

/// The day that begins all keys of uploads that are forgotten in it.
pub(super) fn day_of(forget_at: Timestamp) -> i64 {
    forget_at.as_unix() / DAY_S
}

/// The day of an upload's key.
pub(super) fn day_of_key(upload: UploadKey) -> i64 {
    upload.0 >> LOW_BITS
}

/// The lowest key of a day.
pub(super) fn first_key(day: i64) -> i64 {
    day << LOW_BITS
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // nobody panics half-way through a change of what is in there
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random bits of an upload's key. Days have 22 above them, and the sign stays free.
const LOW_BITS: u32 = 41;

pub(super) const DAY_S: i64 = 24 * 60 * 60;

const _: () = assert!((Timestamp::MAX.as_unix() / DAY_S) >> (63 - LOW_BITS) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_uploads_of_a_day_lie_between_its_first_key_and_the_next_days() {
        let ids = Ids::new([7; 32]);
        for seconds in [0, DAY_S - 1, DAY_S, 1_589_392_446, Timestamp::MAX.as_unix()] {
            let forget_at = Timestamp::from_unix(seconds).unwrap();
            for _ in 0..99 {
                let key = ids.draw_upload(forget_at);
                let day = day_of(forget_at);
                assert!((first_key(day)..first_key(day + 1)).contains(&key.0) || day + 1 == 1 << 22);
                assert_eq!(day_of_key(key), day);
            }
        }
    }

    #[test]
    fn numbers_are_positive_and_not_drawn_twice() {
        let ids = Ids::new([7; 32]);
        let drawn: BTreeSet<i64> = (0..9_999).map(|_| ids.draw()).collect();
        assert_eq!(drawn.len(), 9_999);
        assert!(drawn.iter().all(|number| *number > 0));
    }
}
