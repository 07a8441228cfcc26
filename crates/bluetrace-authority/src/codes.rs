//! Owns upload codes and handshake PINs (PROTOCOL section 4.8): how they are written, drawn and hashed, and what bounds guessing.
//!
//! An **upload code** lets one account finish one upload. An official issues it for a case and reads it out; stored is an HMAC of
//! it. A **handshake PIN** is the other way round: the authority shows the same one to the official and on the person's device,
//! so that the person hears whom they speak to. Stored is a random seed; the PIN is an HMAC of account and seed, so that every server
//! shows the same one and a copy of the database shows none.

use std::fmt;

use bluetrace_protocol::{HandshakePin, Timestamp, UploadCode, Username};
use hmac::{Hmac, Mac};
use rand::Rng as _;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, Member};
use crate::keys::{MasterKey, Purpose};
use crate::store::{
    AccountId, CodeForm, CodeHash, CodeIssued, CodeLimits, CodeRedeemed, NewUploadCode, PinSeed, PresentedCode,
    UploadCodeId,
};

/// An upload code that an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeOrder {
    /// How it is written.
    pub form: CodeForm,
    /// What the operator calls the case.
    pub case: String,
    /// Who issues it.
    pub issued_by: String,
    /// For how many seconds it can be redeemed, 1 and more.
    pub valid_s: u32,
}

/// What came of a [`CodeOrder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeOrdered {
    /// It is issued.
    Issued {
        /// The store's number for it.
        id: UploadCodeId,
        /// The code, as it is read out. It cannot be had again.
        code: UploadCode,
        /// When it can no longer be redeemed.
        expires: Timestamp,
    },
    /// Too many of its form are waiting for whom they are for.
    TooManyLive {
        /// How many may be.
        max: u32,
    },
}

/// The keys of codes and PINs.
pub(crate) struct CodeKeys {
    codes: Hmac<Sha256>,
    pins: Hmac<Sha256>,
}

impl Authority {
    /// Issues an upload code. The code itself is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn issue_upload_code(&self, order: CodeOrder, now: Timestamp) -> Result<CodeOrdered, AuthorityError> {
        let CodeOrder { form, case, issued_by, valid_s } = order;
        let (expires, limits) = (now.plus(i64::from(valid_s)), form.limits());
        for _ in 0..MAX_DRAWS {
            let text = self.draw(form.alphabet(), form.characters());
            let hash = self.codes.hash(&text);
            let (case, issued_by) = (case.clone(), issued_by.clone());
            let code = NewUploadCode { hash, form, case, issued_by, expires, limits };
            match self.store.issue_upload_code(code, now).await? {
                CodeIssued::Issued(id) => {
                    let code = UploadCode::parse(&form.spoken(&text))
                        .ok_or_else(|| AuthorityError::Internal("an upload code is too long".to_owned()))?;
                    return Ok(CodeOrdered::Issued { id, code, expires });
                }
                CodeIssued::TooManyLive => return Ok(CodeOrdered::TooManyLive { max: limits.max_live }),
                CodeIssued::Taken => {}
            }
        }
        Err(AuthorityError::Internal("random upload codes are taken again and again".to_owned()))
    }

    /// Makes an upload code this member's ahead of the upload. What the member then uploads with it is let in, whatever is
    /// guessed meanwhile. Whether the policy requires codes is not looked at.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn redeem_upload_code(
        &self,
        member: &Member,
        code: &UploadCode,
        now: Timestamp,
    ) -> Result<CodeRedeemed, AuthorityError> {
        let presented = self.codes.presented(code);
        Ok(self.store.redeem_upload_code(member.account, presented, self.forget_at(now), now).await?)
    }

    /// The PIN that proves an official to this member, and when it ends. `None` if the account has been removed.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn handshake_pin(
        &self,
        member: &Member,
        now: Timestamp,
    ) -> Result<Option<(HandshakePin, Timestamp)>, AuthorityError> {
        self.handshake_pin_of_account(member.account, now).await
    }

    /// The same for the official, who knows the name. `None` if there is no such account.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn handshake_pin_of(
        &self,
        username: Username,
        now: Timestamp,
    ) -> Result<Option<(HandshakePin, Timestamp)>, AuthorityError> {
        match self.store.login_state(username, now.into()).await?.account {
            Some(account) => self.handshake_pin_of_account(account.id, now).await,
            None => Ok(None),
        }
    }

    async fn handshake_pin_of_account(
        &self,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Option<(HandshakePin, Timestamp)>, AuthorityError> {
        let ends = now.plus(i64::from(PIN_LIFETIME_S));
        let candidate = PinSeed(self.random_bytes());
        let Some((seed, ends)) = self.store.handshake_pin(account, candidate, ends, now).await? else {
            return Ok(None);
        };
        let pin = self.codes.pin(account, seed);
        let pin = pin.ok_or_else(|| AuthorityError::Internal("a handshake PIN is too long".to_owned()))?;
        Ok(Some((pin, ends)))
    }

    /// Random characters.
    pub(crate) fn draw(&self, alphabet: &[u8], characters: usize) -> Zeroizing<String> {
        self.with_generator(|generator| {
            // a remainder of 64 bits favours no character by more than one in 10^17
            (0..characters).filter_map(|_| character(alphabet, generator.next_u64())).collect::<String>().into()
        })
    }
}

impl CodeForm {
    /// How many characters it has.
    pub const fn characters(self) -> usize {
        match self {
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    /// What bounds the guessing of codes of this form: at these limits all accounts together hit any live code with a
    /// probability of less than one in a thousand in an hour. With a hundred codes of eight characters live it is less than one
    /// in 100,000.
    pub const fn limits(self) -> CodeLimits {
        let (max_wrong, max_live) = match self {
            Self::Six => (49, 20),
            Self::Eight => (10_000, 10_000),
        };
        CodeLimits { window_s: 60 * 60, max_wrong_by_account: 5, max_wrong, max_live }
    }

    /// For how many seconds one can be redeemed if nobody says otherwise: so short for six digits that the few that may be
    /// live are enough, and the call lasts no longer.
    pub const fn usual_lifetime_s(self) -> u32 {
        match self {
            Self::Six => 15 * 60,
            Self::Eight => 24 * 60 * 60,
        }
    }

    /// For how many seconds one can be redeemed at the most.
    pub const fn longest_lifetime_s(self) -> u32 {
        match self {
            Self::Six => 60 * 60,
            Self::Eight => 7 * 24 * 60 * 60,
        }
    }

    const fn alphabet(self) -> &'static [u8] {
        match self {
            // one of OpenTrace's two apps shows a number pad
            Self::Six => b"0123456789",
            Self::Eight => ALPHABET,
        }
    }

    /// The form in which a text is written, without its spaces and hyphens.
    fn of(text: &str) -> Option<Self> {
        let is_of = |form: &Self| {
            text.len() == form.characters() && text.bytes().all(|character| form.alphabet().contains(&character))
        };
        [Self::Six, Self::Eight].into_iter().find(is_of)
    }

    /// As it is read out. Six digits stand together: that is what the field of an app takes.
    fn spoken(self, text: &str) -> Zeroizing<String> {
        match (self, text.split_at_checked(4)) {
            (Self::Eight, Some((front, back))) => format!("{front}-{back}").into(),
            (Self::Eight | Self::Six, _) => text.to_owned().into(),
        }
    }
}

impl CodeKeys {
    pub(crate) fn new(master_key: &MasterKey) -> Self {
        Self { codes: master_key.hmac(Purpose::UploadCodes), pins: master_key.hmac(Purpose::HandshakePins) }
    }

    /// A code as a person typed it: in any case, with spaces and hyphens anywhere.
    pub(crate) fn presented(&self, code: &UploadCode) -> PresentedCode {
        let typed = code.reveal().chars().filter(|typed| !typed.is_whitespace() && *typed != '-');
        let text: Zeroizing<String> = typed.map(|typed| typed.to_ascii_uppercase()).collect::<String>().into();
        let form = CodeForm::of(&text);
        let limits = form.unwrap_or(CodeForm::Eight).limits();
        PresentedCode { hash: self.hash(&text), form, limits }
    }

    fn hash(&self, text: &str) -> CodeHash {
        CodeHash(self.codes.clone().chain_update(text).finalize().into_bytes().into())
    }

    fn pin(&self, account: AccountId, seed: PinSeed) -> Option<HandshakePin> {
        let tag = self.pins.clone().chain_update(account.0.to_be_bytes()).chain_update(seed.0).finalize().into_bytes();
        let mut number = u64::from_be_bytes(*tag.first_chunk()?);
        let mut pin = Zeroizing::new(String::new());
        for _ in 0..PIN_CHARACTERS {
            pin.push(character(ALPHABET, number)?);
            number /= ALPHABET.len() as u64;
        }
        HandshakePin::parse(&pin)
    }
}

impl fmt::Debug for CodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeKeys(..)")
    }
}

/// The character of an alphabet to which a number leads.
fn character(alphabet: &[u8], number: u64) -> Option<char> {
    let place = number.checked_rem(u64::try_from(alphabet.len()).ok()?)?;
    alphabet.get(usize::try_from(place).ok()?).copied().map(char::from)
}

/// Characters of codes and PINs: digits and upper-case letters, but of those that look alike (0 O, 1 I L, 2 Z, 5 S, 6 G, 8 B, U V) one
/// or none, and no vowels, so that no word comes of them.
pub const ALPHABET: &[u8; 24] = b"23456789CDFHJKMNPQRTVWXY";

/// For how many seconds a handshake PIN is shown: a call.
pub const PIN_LIFETIME_S: u32 = 10 * 60;

/// Characters of a handshake PIN.
const PIN_CHARACTERS: u32 = 6;

/// How often a code that is taken is drawn anew before the generator is believed to be broken.
const MAX_DRAWS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_at_the_limits_hits_less_than_one_code_in_a_thousand_hours() {
        for form in [CodeForm::Six, CodeForm::Eight] {
            let codes = (form.alphabet().len() as u64).pow(u32::try_from(form.characters()).unwrap());
            let limits = form.limits();
            assert_eq!(limits.window_s, 3_600);
            assert!(u64::from(limits.max_live) * u64::from(limits.max_wrong) * 1_000 < codes, "{form:?}");
        }
    }

    #[test]
    fn no_two_characters_of_the_alphabet_look_alike() {
        for alike in ["0OQ", "1IL", "2Z", "5S", "6G", "8B", "UV"] {
            let both = alike.bytes().filter(|character| ALPHABET.contains(character)).count();
            assert!(both <= 1, "{alike}");
        }
        assert!(ALPHABET.is_sorted_by(|one, next| one < next), "each once");
    }

    #[test]
    fn a_code_is_the_same_in_any_case_and_with_spaces_and_hyphens_anywhere() {
        let keys = keys(7);
        let code = presented(&keys, "H7QX-4CDF");
        assert_eq!(code.form, Some(CodeForm::Eight));
        for typed in ["H7QX4CDF", "h7qx4cdf", " h7 qx-4c df ", "--H-7-Q-X-4-C-D-F", "H7QX\t4CDF"] {
            assert_eq!(presented(&keys, typed), code, "{typed:?}");
        }
        assert_eq!(presented(&keys, "123 456"), presented(&keys, "123456"));
        assert_eq!(presented(&keys, "123456").form, Some(CodeForm::Six));
        for other in ["", "H7QX4CD", "H7QX4CDF4", "H7QX4CD0", "12345", "1234567", "12345C", "12345678", "H7QX4CDÉ"] {
            assert_eq!(presented(&keys, other).form, None, "{other:?}");
            assert_ne!(presented(&keys, other).hash, code.hash, "{other:?}");
        }
    }

    #[test]
    fn hashes_and_pins_are_of_one_master_key_and_pins_of_one_account() {
        assert_ne!(presented(&keys(7), "123456").hash, presented(&keys(8), "123456").hash);
        let (seed, other) = (PinSeed([1; 16]), PinSeed([2; 16]));
        let pin = keys(7).pin(AccountId(1), seed).unwrap();
        assert_eq!(keys(7).pin(AccountId(1), seed), Some(pin.clone()));
        assert!(pin.reveal().len() == 6 && pin.reveal().bytes().all(|character| ALPHABET.contains(&character)));
        for different in
            [keys(8).pin(AccountId(1), seed), keys(7).pin(AccountId(2), seed), keys(7).pin(AccountId(1), other)]
        {
            assert_ne!(different, Some(pin.clone()));
        }
    }

    fn keys(byte: u8) -> CodeKeys {
        CodeKeys::new(&MasterKey::new([byte; 32]))
    }

    fn presented(keys: &CodeKeys, text: &str) -> PresentedCode {
        keys.presented(&UploadCode::parse(text).unwrap())
    }
}
