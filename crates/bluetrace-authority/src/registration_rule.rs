//! Owns what a store knows of registrations, and the rules by which every store decides: whether a phone number is sent another
//! code ([`RegistrationLimits::judge`]), whether a code is right ([`RegistrationLimits::check`]), and whose account a number is
//! ([`AccountFound::is_the_numbers`]). The store's methods are [`Store`](crate::store::Store)'s.

use std::fmt;

use bluetrace_protocol::{Timestamp, Username};

use crate::store::{AccountId, PasswordHash};

/// A phone number under a key of the authority's: a number that never confirms is nowhere else at rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumberHash(pub [u8; 32]);

/// A number and a one-time code for it under a key of the authority's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OneTimeHash(pub [u8; 32]);

/// The store's number for a one-time code. Later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OneTimeCodeId(pub i64);

/// What bounds how often a number is sent a code, and how often one may be guessed. Whoever has a number sent all the codes that there
/// may be in a window, and guesses at each as often as he may, hits one with a probability of at most `max_made * max_wrong` divided by
/// the number of codes there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistrationLimits {
    /// For how many seconds a code is good.
    pub lifetime_s: u32,
    /// For how many seconds after one code no other is sent.
    pub pause_s: u32,
    /// For how many seconds a code counts against `max_sent` and `max_made`.
    pub window_s: u32,
    /// Codes that a number is sent in a window.
    pub max_sent: u32,
    /// Codes that are made for a number in a window, those with which the sender failed included.
    pub max_made: u32,
    /// Wrong guesses at a code. With the last of them it is dead.
    pub max_wrong: u32,
}

/// A one-time code that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewOneTimeCode {
    /// For which number.
    pub number: NumberHash,
    /// What it is.
    pub hash: OneTimeHash,
    /// What bounds it.
    pub limits: RegistrationLimits,
}

/// Outcome of [`Store::make_one_time_code`](crate::store::Store::make_one_time_code).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneTimeCodeMade {
    /// It is stored, and to be sent now. Until the store is told otherwise it counts as sent.
    Send(OneTimeCodeId),
    /// It is not: another was sent a moment ago.
    SentBefore {
        /// When that one ends.
        expires: Timestamp,
        /// When the next may be sent.
        again: Timestamp,
    },
    /// It is not: there were too many for this number.
    TooMany {
        /// When the next may be sent.
        until: Timestamp,
    },
}

/// What a store knows of a number's codes when another is asked for: of those that count, which were made less than a window ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CodesOfNumber {
    /// How many there are.
    pub made: u32,
    /// When the first of them counts no more; of no meaning where there are none.
    pub first_ends: Option<Timestamp>,
    /// How many of them the sender has not failed with.
    pub sent: u32,
    /// When the first of those counts no more.
    pub first_sent_ends: Option<Timestamp>,
    /// When the last of those was made.
    pub last_sent: Option<Timestamp>,
}

/// Who says that a number is his.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// Which number.
    pub number: NumberHash,
    /// The account that is the number's: the number itself.
    pub username: Username,
    /// The code he presents.
    pub hash: OneTimeHash,
    /// The password that the account is to have from now on; `None` leaves that as it is.
    pub password: Option<PasswordHash>,
    /// What bounds guessing.
    pub limits: RegistrationLimits,
}

/// Outcome of [`Store::confirm_registration`](crate::store::Store::confirm_registration).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationConfirmed {
    /// The code was right, and has opened this account.
    Opened(AccountId),
    /// The code was right, and this is the number's account, now or since before.
    Known {
        /// The account.
        account: AccountId,
        /// Its epoch: another than before if a password was set.
        token_epoch: u32,
    },
    /// The code was right, but the account of that name is not the number's. Nothing was changed but that the code is used.
    NotTheNumbers,
    /// The code was wrong, or there is none that is good.
    Wrong {
        /// Guesses that are still free before no code that was sent is good.
        left: u32,
    },
}

/// A code of a number that is good: neither over, nor used, nor guessed at too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoodCode {
    /// What it is.
    pub hash: OneTimeHash,
    /// Wrong guesses at it, less than may be.
    pub wrong: u32,
}

/// What a store does with the code that is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneTimeVerdict {
    /// It is right: this and every other code of the number is used from now on.
    Accept,
    /// It is wrong, and counts against every good code of the number.
    RefuseAndCount {
        /// Guesses that are still free after this one.
        left: u32,
    },
}

/// What a store knows of the account that has the number for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountFound {
    /// Whether it has a password.
    pub has_password: bool,
    /// Whether somebody has proved that the number is his.
    pub is_registered: bool,
}

impl RegistrationLimits {
    /// Whether a number is sent a code; `None` if it is. Every store decides with this.
    ///
    /// A code with which the sender failed holds up none, since the person waits for it; but as it may have arrived, and been paid
    /// for, it counts against a limit of its own.
    pub fn judge(self, codes: CodesOfNumber, now: Timestamp) -> Option<OneTimeCodeMade> {
        if let Some(last) = codes.last_sent {
            let again = last.plus(i64::from(self.pause_s));
            if now < again {
                return Some(OneTimeCodeMade::SentBefore { expires: self.expires(last), again });
            }
        }
        let too_many = |until: Option<Timestamp>| Some(OneTimeCodeMade::TooMany { until: until.unwrap_or(now) });
        if codes.sent >= self.max_sent {
            return too_many(codes.first_sent_ends);
        }
        if codes.made >= self.max_made {
            return too_many(codes.first_ends);
        }
        None
    }

    /// When a code ends that is made at `now`.
    pub fn expires(self, now: Timestamp) -> Timestamp {
        now.plus(i64::from(self.lifetime_s))
    }

    /// When a code is forgotten that is made at `now`.
    pub fn forgotten_at(self, now: Timestamp) -> Timestamp {
        now.plus(i64::from(self.window_s.max(self.lifetime_s)))
    }

    /// Whether a code is right, where `good` are the good ones of its number. Every store decides with this.
    pub fn check(self, presented: OneTimeHash, good: &[GoodCode]) -> OneTimeVerdict {
        if good.iter().any(|code| code.hash == presented) {
            return OneTimeVerdict::Accept;
        }
        let left = |code: &GoodCode| self.max_wrong.saturating_sub(code.wrong.saturating_add(1));
        OneTimeVerdict::RefuseAndCount { left: good.iter().map(left).max().unwrap_or(0) }
    }
}

impl AccountFound {
    /// Whether the account is that of who proves the number. One to which an operator gave a password is not: the operator may have
    /// given it to somebody else, and a person who has had a number only since yesterday is to find nobody else's account under it.
    pub const fn is_the_numbers(self) -> bool {
        self.is_registered || !self.has_password
    }
}

impl fmt::Debug for NumberHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NumberHash(..)")
    }
}

impl fmt::Debug for OneTimeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneTimeHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_sent_another_code_after_the_pause_and_no_more_than_may_be_sent() {
        let sent = CodesOfNumber { made: 1, sent: 1, last_sent: Some(at(100)), ..CodesOfNumber::default() };
        let before = OneTimeCodeMade::SentBefore { expires: at(700), again: at(160) };
        assert_eq!(LIMITS.judge(CodesOfNumber::default(), at(0)), None);
        assert_eq!(LIMITS.judge(sent, at(159)), Some(before));
        assert_eq!(LIMITS.judge(sent, at(160)), None);
        let many = CodesOfNumber { made: 5, sent: 5, first_sent_ends: Some(at(900)), ..sent };
        assert_eq!(LIMITS.judge(many, at(160)), Some(OneTimeCodeMade::TooMany { until: at(900) }));
        assert_eq!(LIMITS.judge(many, at(159)), Some(before), "a retry is told of the code that was sent");
    }

    #[test]
    fn a_code_with_which_the_sender_failed_holds_up_none_but_is_not_repeated_for_ever() {
        let failed = CodesOfNumber { made: 19, first_ends: Some(at(800)), ..CodesOfNumber::default() };
        assert_eq!(LIMITS.judge(failed, at(100)), None);
        let many = CodesOfNumber { made: 20, ..failed };
        assert_eq!(LIMITS.judge(many, at(100)), Some(OneTimeCodeMade::TooMany { until: at(800) }));
    }

    #[test]
    fn an_account_is_the_numbers_unless_an_operator_gave_it_a_password() {
        for (has_password, is_registered, is_the_numbers) in
            [(false, false, true), (false, true, true), (true, true, true), (true, false, false)]
        {
            assert_eq!(AccountFound { has_password, is_registered }.is_the_numbers(), is_the_numbers);
        }
    }

    #[test]
    fn debug_shows_no_hash() {
        let shown = format!("{:?} {:?}", NumberHash([7; 32]), OneTimeHash([8; 32]));
        assert_eq!(shown, "NumberHash(..) OneTimeHash(..)");
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds).unwrap()
    }

    const LIMITS: RegistrationLimits =
        RegistrationLimits { lifetime_s: 600, pause_s: 60, window_s: 86_400, max_sent: 5, max_made: 20, max_wrong: 5 };
}
