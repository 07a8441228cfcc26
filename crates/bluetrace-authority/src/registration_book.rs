//! Owns [`RegistrationBook`]: one-time codes, as the store in memory keeps them.

use std::collections::BTreeMap;

use bluetrace_protocol::Timestamp;

use crate::store::{
    CodesOfNumber, Confirmation, GoodCode, NewOneTimeCode, NumberHash, OneTimeCodeId, OneTimeCodeMade, OneTimeHash,
    OneTimeVerdict,
};

/// One-time codes.
#[derive(Default)]
pub(crate) struct RegistrationBook {
    last: i64,
    codes: BTreeMap<OneTimeCodeId, Entry>,
}

struct Entry {
    number: NumberHash,
    hash: OneTimeHash,
    made: Timestamp,
    expires: Timestamp,
    wrong: u32,
    is_used: bool,
    has_failed: bool,
    forget_at: Timestamp,
}

impl RegistrationBook {
    pub(crate) fn make(&mut self, code: NewOneTimeCode, now: Timestamp) -> OneTimeCodeMade {
        let NewOneTimeCode { number, hash, limits } = code;
        let mut found = CodesOfNumber::default();
        for entry in self.codes.values().filter(|entry| entry.number == number && now < entry.forget_at) {
            found.made = found.made.saturating_add(1);
            found.first_ends = Some(earlier(found.first_ends, entry.forget_at));
            if !entry.has_failed {
                found.sent = found.sent.saturating_add(1);
                found.first_sent_ends = Some(earlier(found.first_sent_ends, entry.forget_at));
                found.last_sent = found.last_sent.max(Some(entry.made));
            }
        }
        if let Some(refused) = limits.judge(found, now) {
            return refused;
        }
        self.last += 1;
        let id = OneTimeCodeId(self.last);
        let entry = Entry {
            number,
            hash,
            made: now,
            expires: limits.expires(now),
            wrong: 0,
            is_used: false,
            has_failed: false,
            forget_at: limits.forgotten_at(now),
        };
        self.codes.insert(id, entry);
        OneTimeCodeMade::Send(id)
    }

    pub(crate) fn failed(&mut self, code: OneTimeCodeId) {
        if let Some(entry) = self.codes.get_mut(&code) {
            entry.has_failed = true;
        }
    }

    /// Judges the code that is presented, and notes what came of it.
    pub(crate) fn check(&mut self, confirmation: &Confirmation, now: Timestamp) -> OneTimeVerdict {
        let Confirmation { number, hash, limits, .. } = confirmation;
        let is_good = |entry: &&mut Entry| {
            entry.number == *number && !entry.is_used && now < entry.expires && entry.wrong < limits.max_wrong
        };
        let mut good: Vec<_> = self.codes.values_mut().filter(is_good).collect();
        let facts: Vec<_> = good.iter().map(|entry| GoodCode { hash: entry.hash, wrong: entry.wrong }).collect();
        let verdict = limits.check(*hash, &facts);
        for entry in &mut good {
            match verdict {
                OneTimeVerdict::Accept => entry.is_used = true,
                OneTimeVerdict::RefuseAndCount { .. } => entry.wrong = entry.wrong.saturating_add(1),
            }
        }
        verdict
    }

    /// Deletes up to `most` rows that are forgotten, and returns how many.
    pub(crate) fn expire(&mut self, most: u32, now: Timestamp) -> u32 {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let deleted = self.codes.extract_if(.., |_, entry| entry.forget_at <= now).take(most).count();
        u32::try_from(deleted).unwrap_or(u32::MAX)
    }

    /// Whether anything is forgotten and not deleted.
    pub(crate) fn has_forgotten(&self, now: Timestamp) -> bool {
        self.codes.values().any(|entry| entry.forget_at <= now)
    }
}

fn earlier(one: Option<Timestamp>, other: Timestamp) -> Timestamp {
    one.map_or(other, |one| one.min(other))
}
