//! Owns registration: a person proves with a one-time code that a phone number is theirs, and has an account from then on, whose name
//! is the number. What bounds it is [`LIMITS`]; how a code reaches its person is not the authority's concern.

use std::fmt;

use bluetrace_protocol::{Clock, Password, Timestamp, Username};
use hmac::{Hmac, Mac};
use phonelib::PhoneNumberType;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, Member};
use crate::keys::{MasterKey, Purpose};
use crate::store::{
    AccountId, Confirmation, NewOneTimeCode, NumberHash, OneTimeCodeId, OneTimeCodeMade, OneTimeHash,
    RegistrationConfirmed, RegistrationLimits, SessionId,
};

/// A phone number that a message can be sent to, in the form of E.164: `+`, the code of its country, and its number there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PhoneNumber(Username);

/// Why a text is no [`PhoneNumber`]. The texts hold nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PhoneNumberError {
    /// It is not written as E.164 has it.
    #[error("a phone number is written as E.164 has it: +, the country's code and the number, in digits alone")]
    Form,
    /// There is no such number by the plan of its country.
    #[error("there is no such phone number: it is not one of its country's")]
    Plan,
    /// It is of a kind that takes no messages, or lets the sender pay for them.
    #[error("numbers of this kind are not sent codes")]
    Kind,
}

/// A one-time code: six digits. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct OneTimeCode(Zeroizing<String>);

/// What came of asking for a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeRequested {
    /// It is to be sent now. Who cannot says so with [`Authority::code_not_sent`].
    Send {
        /// The store's number for it.
        id: OneTimeCodeId,
        /// The code. It cannot be had again.
        code: OneTimeCode,
        /// When it ends.
        expires: Timestamp,
        /// When the next may be sent.
        again: Timestamp,
    },
    /// One was sent a moment ago, and this changed nothing.
    SentBefore {
        /// When that one ends.
        expires: Timestamp,
        /// When the next may be sent.
        again: Timestamp,
    },
    /// There were too many for this number.
    TooMany {
        /// When the next may be sent.
        until: Timestamp,
    },
}

/// What came of a code that was presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// It was right. There is an account now that was not there before.
    Opened(Member),
    /// It was right. The number has an account.
    Known(Member),
    /// It was right, but the account of that name has a password that an operator gave it, and is entered with that alone.
    NotTheNumbers,
    /// It was wrong, or there is none that is good.
    Wrong {
        /// Guesses that are still free.
        left: u32,
    },
}

/// The keys of registrations.
pub(crate) struct RegistrationKeys {
    numbers: Hmac<Sha256>,
    codes: Hmac<Sha256>,
}

/// What bounds one-time codes. A message costs money, and a number that is not the asker's rings: five a day are enough for a person who
/// loses a few. All guesses at all codes of a day hit with a probability of one in ten thousand at the most.
pub const LIMITS: RegistrationLimits = RegistrationLimits {
    lifetime_s: 10 * 60,
    pause_s: 60,
    window_s: 24 * 60 * 60,
    max_sent: 5,
    max_made: 20,
    max_wrong: 5,
};

impl PhoneNumber {
    /// Reads a phone number.
    ///
    /// What is checked is whether its country has numbers of this form, and not whether this one has been given to anybody: countries open
    /// ranges every month, and a person with a new number is not to be turned away by an authority that is a year old.
    ///
    /// # Errors
    /// [`PhoneNumberError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, PhoneNumberError> {
        let is_of_form = text.strip_prefix('+').is_some_and(|digits| {
            (MIN_DIGITS..=MAX_DIGITS).contains(&digits.len())
                && digits.bytes().all(|digit| digit.is_ascii_digit())
                && !digits.starts_with('0')
        });
        let username = Username::parse(text).ok().filter(|_| is_of_form).ok_or(PhoneNumberError::Form)?;
        // what the library would write otherwise is written with a prefix that is dialled only within the country
        if phonelib::normalize_phone_number(text).is_none_or(|normal| normal != text) {
            return Err(PhoneNumberError::Plan);
        }
        if NO_COUNTRY.iter().any(|network| text.starts_with(network)) {
            return Err(PhoneNumberError::Kind);
        }
        match phonelib::detect_phone_number_type(text) {
            None => Err(PhoneNumberError::Plan),
            Some(
                PhoneNumberType::PersonalNumber
                | PhoneNumberType::TollFree
                | PhoneNumberType::PremiumRate
                | PhoneNumberType::SharedCost
                | PhoneNumberType::Pager
                | PhoneNumberType::Uan,
            ) => Err(PhoneNumberError::Kind),
            Some(_) => Ok(Self(username)),
        }
    }

    /// The number, for whoever sends to it. Never for a log.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    /// The account that is the number's.
    pub const fn username(&self) -> &Username {
        &self.0
    }
}

impl OneTimeCode {
    /// The code, for its person. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Authority {
    /// Makes a one-time code for a number, unless it has just been sent one or has had too many. Whether the number has an account
    /// makes no difference.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn request_registration(
        &self,
        number: &PhoneNumber,
        now: Timestamp,
    ) -> Result<CodeRequested, AuthorityError> {
        let code = OneTimeCode(self.draw(DIGITS, CODE_DIGITS));
        let new = NewOneTimeCode {
            number: self.registrations.number(number),
            hash: self.registrations.code(number, code.reveal()),
            limits: LIMITS,
        };
        Ok(match self.store.make_one_time_code(new, now).await? {
            OneTimeCodeMade::Send(id) => {
                let again = now.plus(i64::from(LIMITS.pause_s));
                CodeRequested::Send { id, code, expires: LIMITS.expires(now), again }
            }
            OneTimeCodeMade::SentBefore { expires, again } => CodeRequested::SentBefore { expires, again },
            OneTimeCodeMade::TooMany { until } => CodeRequested::TooMany { until },
        })
    }

    /// Notes that a code was not sent, as far as is known: the next request makes another at once. Should it have arrived all the same, it
    /// is good.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn code_not_sent(&self, code: OneTimeCodeId) -> Result<(), AuthorityError> {
        Ok(self.store.one_time_code_failed(code).await?)
    }

    /// Lets in whoever presents the code that was sent to a number: into the number's account, which is opened if there is none. With a
    /// password the account has that one from now on, and its other sessions end.
    ///
    /// # Errors
    /// [`AuthorityError`] if store or password pool cannot answer. Then the code was not used.
    pub async fn confirm_registration(
        &self,
        number: &PhoneNumber,
        code: &str,
        password: Option<Password>,
        clock: &dyn Clock,
    ) -> Result<Registered, AuthorityError> {
        let password = match password {
            Some(password) => Some(self.hash(password).await?),
            None => None,
        };
        let typed: Zeroizing<String> =
            code.chars().filter(|typed| !typed.is_whitespace() && *typed != '-').collect::<String>().into();
        let confirmation = Confirmation {
            number: self.registrations.number(number),
            username: number.username().clone(),
            hash: self.registrations.code(number, &typed),
            password,
            limits: LIMITS,
        };
        let now = clock.now();
        Ok(match self.store.confirm_registration(confirmation, now).await? {
            RegistrationConfirmed::Opened(account) => Registered::Opened(self.member(number, account, 0, now).await?),
            RegistrationConfirmed::Known { account, token_epoch } => {
                Registered::Known(self.member(number, account, token_epoch, now).await?)
            }
            RegistrationConfirmed::NotTheNumbers => Registered::NotTheNumbers,
            RegistrationConfirmed::Wrong { left } => Registered::Wrong { left },
        })
    }

    async fn member(
        &self,
        number: &PhoneNumber,
        account: AccountId,
        token_epoch: u32,
        now: Timestamp,
    ) -> Result<Member, AuthorityError> {
        Ok(Member {
            account,
            username: number.username().clone(),
            session: SessionId(self.random_bytes()),
            token_epoch,
            logged_in: now,
            user_id: self.user_id_to_seal(account).await?,
        })
    }
}

impl RegistrationKeys {
    pub(crate) fn new(master_key: &MasterKey) -> Self {
        Self { numbers: master_key.hmac(Purpose::PhoneNumbers), codes: master_key.hmac(Purpose::OneTimeCodes) }
    }

    fn number(&self, number: &PhoneNumber) -> NumberHash {
        NumberHash(self.numbers.clone().chain_update(number.reveal()).finalize().into_bytes().into())
    }

    fn code(&self, number: &PhoneNumber, code: &str) -> OneTimeHash {
        // no number has a space in it
        let tag = self.codes.clone().chain_update(number.reveal()).chain_update(" ").chain_update(code).finalize();
        OneTimeHash(tag.into_bytes().into())
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhoneNumber(..)")
    }
}

impl fmt::Debug for OneTimeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneTimeCode(..)")
    }
}

impl fmt::Debug for RegistrationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistrationKeys(..)")
    }
}

const DIGITS: &[u8] = b"0123456789";

/// What a person copies from one screen to another.
const CODE_DIGITS: usize = 6;

/// The shortest number that any country has, with its code (Saint Helena, Niue).
const MIN_DIGITS: usize = 7;

/// E.164's limit.
const MAX_DIGITS: usize = 15;

/// Codes of no country: satellites, ships, and networks that anybody may rent numbers of. A message there costs the sender many times the
/// usual, and part of it goes to whoever holds the number.
const NO_COUNTRY: [&str; 5] = ["+870", "+878", "+881", "+882", "+883"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_number_is_one_that_its_country_has() {
        for number in [
            "+6591234567",
            "+61410999999",
            "+4915123456789",
            "+12025550173",
            "+390612345678",
            "+4520123456",
            "+8801712345678",
        ] {
            assert_eq!(PhoneNumber::parse(number).unwrap().reveal(), number);
        }
        for (text, error) in [
            ("", PhoneNumberError::Form),
            ("+", PhoneNumberError::Form),
            ("6591234567", PhoneNumberError::Form),
            ("+65 9123 4567", PhoneNumberError::Form),
            ("+65-9123-4567", PhoneNumberError::Form),
            ("+0091234567", PhoneNumberError::Form),
            ("+6591234567;ext=1", PhoneNumberError::Form),
            ("+６５９１２３４５６７", PhoneNumberError::Form),
            ("+6591234567891234", PhoneNumberError::Form),
            ("alice", PhoneNumberError::Form),
            // of no length that Singapore has, in no country, in no area of North America, with the zero that is dialled at home
            ("+659123456", PhoneNumberError::Plan),
            ("+65912345678", PhoneNumberError::Plan),
            ("+9991234567", PhoneNumberError::Plan),
            ("+11112345678", PhoneNumberError::Plan),
            ("+4407911123456", PhoneNumberError::Plan),
            // free of charge, premium rate, personal, free of charge everywhere
            ("+18005550199", PhoneNumberError::Kind),
            ("+448005551234", PhoneNumberError::Kind),
            ("+449091234567", PhoneNumberError::Kind),
            ("+447012345678", PhoneNumberError::Kind),
            ("+80012345678", PhoneNumberError::Kind),
            // by satellite, at sea, of networks that are no country's
            ("+8816123456789", PhoneNumberError::Kind),
            ("+870771234567", PhoneNumberError::Kind),
            ("+882161234567", PhoneNumberError::Kind),
            ("+883510012345678", PhoneNumberError::Kind),
            ("+878101234567890", PhoneNumberError::Kind),
        ] {
            assert_eq!(PhoneNumber::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn hashes_are_of_one_master_key_and_codes_of_one_number() {
        let (one, other) = (keys(7), keys(8));
        let (number, next) = (number("+6591234567"), number("+6591234568"));
        assert_eq!(one.number(&number), one.number(&number));
        assert_ne!(one.number(&number), other.number(&number));
        assert_ne!(one.number(&number), one.number(&next));
        assert_ne!(one.code(&number, "123456"), other.code(&number, "123456"));
        assert_ne!(one.code(&number, "123456"), one.code(&next, "123456"));
        assert_ne!(one.code(&number, "123456"), one.code(&number, "123457"));
    }

    #[test]
    fn guessing_at_everything_that_a_number_is_sent_in_a_day_hits_in_one_day_of_ten_thousand() {
        let codes = 10_u32.pow(u32::try_from(CODE_DIGITS).unwrap());
        assert!(LIMITS.max_made * LIMITS.max_wrong * 10_000 <= codes);
        assert_eq!(LIMITS.window_s, 86_400);
    }

    #[test]
    fn debug_shows_neither_number_nor_code() {
        let code = OneTimeCode("123456".to_owned().into());
        assert_eq!(format!("{:?} {code:?}", number("+6591234567")), "PhoneNumber(..) OneTimeCode(..)");
    }

    fn number(text: &str) -> PhoneNumber {
        PhoneNumber::parse(text).unwrap()
    }

    fn keys(byte: u8) -> RegistrationKeys {
        RegistrationKeys::new(&MasterKey::new([byte; 32]))
    }
}
