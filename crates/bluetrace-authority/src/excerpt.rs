//! Owns [`Excerpt`]: what an operator is shown of a list that may be very long.

/// Of at most this many entries all are shown (PROTOCOL section 4.4).
const SHOW_ALL: usize = 100;

/// Of more entries this many are shown (PROTOCOL section 4.4).
const SHOW_FIRST: usize = 20;

/// The first entries of a list and how many more there are: all of up to 100, else 20. It never holds more than that.
///
/// Invariant: `more == 0`, or `shown.len() == SHOW_FIRST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt<T> {
    shown: Vec<T>,
    more: u64,
}

impl<T> Excerpt<T> {
    /// Appends an entry, which is made only if it is to be shown.
    pub(crate) fn push_with(&mut self, entry: impl FnOnce() -> T) {
        if self.more == 0 && self.shown.len() < SHOW_ALL {
            self.shown.push(entry());
            return;
        }
        if self.more == 0 {
            self.more = (SHOW_ALL - SHOW_FIRST) as u64;
            self.shown.truncate(SHOW_FIRST);
        }
        self.more = self.more.saturating_add(1);
    }

    /// The entries to show.
    pub fn shown(&self) -> &[T] {
        &self.shown
    }

    /// How many more there are.
    pub const fn more(&self) -> u64 {
        self.more
    }
}

impl<T> Default for Excerpt<T> {
    fn default() -> Self {
        Self { shown: Vec::new(), more: 0 }
    }
}

impl<T> FromIterator<T> for Excerpt<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        let mut excerpt = Self::default();
        entries.into_iter().for_each(|entry| excerpt.push_with(|| entry));
        excerpt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_100_entries_are_shown_whole_and_of_more_20() {
        for (all, shown, more) in [(0, 0, 0), (1, 1, 0), (100, 100, 0), (101, 20, 81), (1_000, 20, 980)] {
            let excerpt: Excerpt<i32> = (0..all).collect();
            assert_eq!((excerpt.shown().len(), excerpt.more()), (shown, more));
            assert!(excerpt.shown().iter().copied().eq(0..i32::try_from(shown).unwrap()));
        }
    }
}
