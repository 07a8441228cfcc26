//! Owns how often the log says the same: [`Complaints`].
//!
//! What fails, fails for everybody who asks, and peers ask as often as they like: the log is for the operator, not for them.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::limits::{COMPLAINT_INTERVAL, DIFFERENT_COMPLAINTS};

/// Which complaints were made of late. The same text is due again after [`COMPLAINT_INTERVAL`].
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Vec<Complaint>>);

#[derive(Debug)]
struct Complaint {
    text: String,
    said: Instant,
    unsaid: u64,
}

impl Complaints {
    /// Whether `text` is to be said now: if so, how often it was not said since the last time.
    pub fn due(&self, text: &str, now: Instant) -> Option<u64> {
        // a list of texts and numbers is whole at every moment
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(complaint) = known.iter_mut().find(|complaint| complaint.text == text) {
            if now.saturating_duration_since(complaint.said) < COMPLAINT_INTERVAL {
                complaint.unsaid = complaint.unsaid.saturating_add(1);
                return None;
            }
            complaint.said = now;
            return Some(std::mem::take(&mut complaint.unsaid));
        }
        if known.len() >= DIFFERENT_COMPLAINTS {
            // in order of their first appearance
            known.remove(0);
        }
        known.push(Complaint { text: text.to_owned(), said: now, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_same_is_said_once_a_minute_with_the_number_left_out_and_hides_nothing_else() {
        let (complaints, now) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.due("full", now), Some(0));
        for _ in 0..5 {
            assert_eq!(complaints.due("full", now), None);
        }
        assert_eq!(complaints.due("damaged", now), Some(0));
        assert_eq!(complaints.due("full", now + COMPLAINT_INTERVAL - Duration::from_nanos(1)), None);
        assert_eq!(complaints.due("full", now + COMPLAINT_INTERVAL), Some(6));
        assert_eq!(complaints.due("full", now + COMPLAINT_INTERVAL), None);
        assert_eq!(complaints.due("full", now + COMPLAINT_INTERVAL * 2), Some(1));
    }

    #[test]
    fn a_bounded_number_of_texts_is_remembered() {
        let (complaints, now) = (Complaints::default(), Instant::now());
        for number in 0..DIFFERENT_COMPLAINTS * 2 {
            assert_eq!(complaints.due(&number.to_string(), now), Some(0));
        }
        assert_eq!(complaints.0.lock().unwrap().len(), DIFFERENT_COMPLAINTS);
        assert_eq!(complaints.due("0", now), Some(0), "it was forgotten");
    }
}
