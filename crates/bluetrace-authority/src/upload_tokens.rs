//! Owns upload tokens, with which apps derived from `OpenTrace` upload: an upload code makes one, and it carries one upload.
//!
//! A token is the URL-safe base64 of 133 bytes, 178 characters. Nothing is stored for it but that its code is redeemed, so any
//! server of the authority can take it:
//!
//! ```text
//! kind 4 | account 8 | epoch 4 | session 16 | logged in 8 | issued 8 | expires 8 | upload 16, random | code 32
//!        | HMAC-SHA-256 of all before 32
//! ```
//!
//! Numbers are big-endian. `code` is the redeemed code as the store knows it, an HMAC. The token's key is of this purpose alone.
//! It ends when it expires, and with its session. The upload's name is in it: so what comes with a token a second time is the
//! same upload, and the code is used with the first that is complete.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bluetrace_protocol::{Timestamp, UploadCode, UploadId};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::authority::{Authority, AuthorityError, Member};
use crate::hex::hex;
use crate::keys::{MasterKey, Purpose};
use crate::store::{
    AccountId, CodeCheck, CodeForm, CodeHash, CodeRedeemed, PresentedCode, SessionId, UploadBegun, UploadRequest,
};
use crate::tokens::Claim;

/// What lets its bearer carry out one upload: printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadToken(Box<str>);

/// What came of asking for an [`UploadToken`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadTokenIssued {
    /// The code is this account's, and its upload is not complete.
    Issued(UploadToken),
    /// The code is none that this account can use.
    Refused,
    /// There were too many wrong codes: this one was not looked at.
    TooMany {
        /// When the next is looked at.
        until: Timestamp,
    },
    /// The account has been removed.
    NoAccount,
}

/// What a token says: which upload, and by which code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadGrant {
    upload: [u8; 16],
    code: CodeHash,
    issued: Timestamp,
}

/// The key that authenticates upload tokens.
pub(crate) struct UploadTokenKey(Hmac<Sha256>);

/// For how many seconds a token is good: two hours, as the reference's.
pub const UPLOAD_TOKEN_LIFETIME_S: u32 = 2 * 60 * 60;

/// So many seconds may the clock of the server that made a token be ahead of this one's.
const CLOCKS_APART_S: i64 = 60;

const KIND: u8 = 4;
const STATEMENT_BYTES: usize = 1 + 8 + 4 + 16 + 8 + 8 + 8 + 16 + 32;

impl Authority {
    /// Redeems an upload code for a member, and makes a token for one upload with it. Asked again, with the upload not complete, it
    /// makes another, for another upload: the code goes with whichever of them was begun last.
    ///
    /// Whether the policy requires codes is not looked at: here there is always one.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn upload_token(
        &self,
        member: &Member,
        code: &UploadCode,
        now: Timestamp,
    ) -> Result<UploadTokenIssued, AuthorityError> {
        let hash = self.codes.presented(code).hash;
        Ok(match self.redeem_upload_code(member, code, now).await? {
            CodeRedeemed::Redeemed => {
                let grant = UploadGrant { upload: self.random_bytes(), code: hash, issued: now };
                let expires = now.plus(i64::from(UPLOAD_TOKEN_LIFETIME_S));
                let Member { account, session, token_epoch, logged_in, .. } = *member;
                let claim = Claim { account, token_epoch, expires, session, logged_in };
                UploadTokenIssued::Issued(self.upload_tokens.seal(&claim, &grant))
            }
            CodeRedeemed::Refused { .. } => UploadTokenIssued::Refused,
            CodeRedeemed::TooMany { until } => UploadTokenIssued::TooMany { until },
            CodeRedeemed::NoAccount => UploadTokenIssued::NoAccount,
        })
    }

    /// Whose a token is and what it lets him do. `None` if it is not this authority's, has expired, or its session has ended.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn upload_grant(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Option<(Member, UploadGrant)>, AuthorityError> {
        let opened = self.upload_tokens.open(token);
        let is_good =
            |claim: &Claim, grant: &UploadGrant| now < claim.expires && grant.issued <= now.plus(CLOCKS_APART_S);
        let Some((claim, grant)) = opened.filter(|(claim, grant)| is_good(claim, grant)) else { return Ok(None) };
        Ok(self.member_of(claim, now).await?.map(|member| (member, grant)))
    }

    /// Begins the upload that a token is for, or finds it. The token's code lets it in, if it has not been revoked or used.
    ///
    /// # Errors
    /// [`AuthorityError`] if the store cannot answer.
    pub async fn begin_granted_upload(
        &self,
        member: &Member,
        grant: &UploadGrant,
        records: u32,
        now: Timestamp,
    ) -> Result<UploadBegun, AuthorityError> {
        let upload =
            UploadId::parse(&hex(&grant.upload)).map_err(|error| AuthorityError::Internal(error.to_string()))?;
        // it has been judged when it was redeemed, and is this account's: so it is no guess, whatever its form
        let code = PresentedCode { hash: grant.code, form: None, limits: CodeForm::Eight.limits() };
        let (account, forget_at) = (member.account, self.forget_at(now));
        let code = CodeCheck::Required(Some(code));
        Ok(self.store.begin_upload(UploadRequest { account, upload, records, forget_at, code }, now).await?)
    }
}

impl UploadToken {
    /// The token, for the wire. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl UploadGrant {
    /// The name of the upload, which no other token's has.
    pub const fn upload(&self) -> [u8; 16] {
        self.upload
    }
}

impl UploadTokenKey {
    pub(crate) fn new(master_key: &MasterKey) -> Self {
        Self(master_key.hmac(Purpose::UploadTokens))
    }

    fn seal(&self, claim: &Claim, grant: &UploadGrant) -> UploadToken {
        let mut bytes = vec![KIND];
        bytes.extend_from_slice(&claim.account.0.to_be_bytes());
        bytes.extend_from_slice(&claim.token_epoch.to_be_bytes());
        bytes.extend_from_slice(&claim.session.0);
        for moment in [claim.logged_in, grant.issued, claim.expires] {
            bytes.extend_from_slice(&moment.as_unix().to_be_bytes());
        }
        bytes.extend_from_slice(&grant.upload);
        bytes.extend_from_slice(&grant.code.0);
        let tag = self.0.clone().chain_update(&bytes).finalize();
        bytes.extend_from_slice(tag.as_bytes());
        UploadToken(BASE64_URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// What a token says, if this authority made it. It may have expired since.
    fn open(&self, token: &str) -> Option<(Claim, UploadGrant)> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (statement, tag) = bytes.split_at_checked(STATEMENT_BYTES)?;
        self.0.clone().chain_update(statement).verify_slice(tag).ok()?;
        let (kind, rest) = statement.split_first()?;
        let (account, rest) = rest.split_first_chunk()?;
        let (token_epoch, rest) = rest.split_first_chunk()?;
        let (session, rest) = rest.split_first_chunk()?;
        let (logged_in, rest) = rest.split_first_chunk()?;
        let (issued, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (upload, code) = rest.split_first_chunk()?;
        let moment = |bytes: &[u8; 8]| Timestamp::from_unix(i64::from_be_bytes(*bytes));
        let claim = Claim {
            account: AccountId(i64::from_be_bytes(*account)),
            token_epoch: u32::from_be_bytes(*token_epoch),
            expires: moment(expires)?,
            session: SessionId(*session),
            logged_in: moment(logged_in)?,
        };
        let grant = UploadGrant { upload: *upload, code: CodeHash(code.try_into().ok()?), issued: moment(issued)? };
        (*kind == KIND).then_some((claim, grant))
    }
}

impl fmt::Debug for UploadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadToken(..)")
    }
}

impl fmt::Debug for UploadTokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadTokenKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bluetrace_protocol::{Password, Username};

    use super::*;
    use crate::Policy;
    use crate::codes::{CodeOrder, CodeOrdered};
    use crate::conformance::block_on;
    use crate::memory::MemoryStore;
    use crate::passwords::{HashCost, InlinePool};
    use crate::store::Store as _;
    use crate::trace::UploadTrace;

    #[test]
    fn a_token_is_good_for_two_hours_and_as_long_as_its_session() {
        let (authority, member, code, now) = fixture();
        let token = issued(&authority, &member, &code, now);
        assert_eq!(token.reveal().len(), 178);
        let ends = now.plus(7_200);
        for (moment, is_good) in [(now.plus(-61), false), (now.plus(-60), true), (ends.plus(-1), true), (ends, false)] {
            let granted = block_on(authority.upload_grant(token.reveal(), moment)).unwrap();
            assert_eq!(granted.map(|(member, _)| member.username), is_good.then(|| member.username.clone()));
        }
        block_on(authority.logout(&member, None, now)).unwrap();
        assert_eq!(block_on(authority.upload_grant(token.reveal(), now)).unwrap(), None);
    }

    #[test]
    fn asked_again_a_code_makes_another_token_until_its_upload_is_complete() {
        let (authority, member, code, now) = fixture();
        let first = issued(&authority, &member, &code, now);
        let second = issued(&authority, &member, &code, now);
        assert_ne!(first, second);
        for token in [&first, &second] {
            let (member, grant) = block_on(authority.upload_grant(token.reveal(), now)).unwrap().unwrap();
            let begun = block_on(authority.begin_granted_upload(&member, &grant, 0, now)).unwrap();
            let UploadBegun::Open { key, .. } = begun else { panic!("{begun:?}") };
            if *token == second {
                block_on(authority.finish_upload(&member, key, UploadTrace::default(), now)).unwrap();
            }
        }
        assert_eq!(block_on(authority.upload_token(&member, &code, now)).unwrap(), UploadTokenIssued::Refused);
        // the first token's upload was dropped when the second's began, and its code is used
        let (member, grant) = block_on(authority.upload_grant(first.reveal(), now)).unwrap().unwrap();
        let begun = block_on(authority.begin_granted_upload(&member, &grant, 0, now)).unwrap();
        assert_eq!(begun, UploadBegun::CodeRefused { left: 5 }, "and it counts as no guess");
    }

    #[test]
    fn a_token_changed_in_any_character_or_cut_anywhere_or_of_another_authority_says_nothing() {
        let (authority, member, code, now) = fixture();
        let token = issued(&authority, &member, &code, now);
        let (key, token) = (&authority.upload_tokens, token.reveal());
        assert!(key.open(token).is_some());
        for place in 0..token.len() {
            let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..place], &token[place + 1..]);
            assert_eq!(key.open(&changed), None, "changed at {place}");
            assert_eq!(key.open(&token[..place]), None, "cut at {place}");
        }
        assert_eq!(UploadTokenKey::new(&MasterKey::new([8; 32])).open(token), None);
        assert_eq!(authority.access_tokens.open(token), None);
        let access = authority.access_token(&member, now).0;
        assert_eq!(key.open(access.reveal()), None);
    }

    #[test]
    fn debug_shows_no_token() {
        assert_eq!(format!("{:?}", UploadToken("secret".into())), "UploadToken(..)");
    }

    fn issued(authority: &Authority, member: &Member, code: &UploadCode, now: Timestamp) -> UploadToken {
        let issued = block_on(authority.upload_token(member, code, now)).unwrap();
        let UploadTokenIssued::Issued(token) = issued else { panic!("{issued:?}") };
        token
    }

    fn fixture() -> (Authority, Member, UploadCode, Timestamp) {
        let (store, now) = (Arc::new(MemoryStore::new()), Timestamp::from_unix(1_600_000_000).unwrap());
        let policy = Policy { hash_cost: HashCost::INSECURE_FOR_SIMULATION, ..Policy::default() };
        let authority =
            Authority::new(Arc::clone(&store) as _, Arc::new(InlinePool), policy, &MasterKey::new([7; 32]), [0; 32]);
        let username = Username::parse("alice").unwrap();
        let _is_new = block_on(authority.open_account(username.clone(), Password::parse("x").unwrap(), now)).unwrap();
        let account = block_on(store.login_state(username.clone(), now.into())).unwrap().account.unwrap().id;
        let session = SessionId([3; 16]);
        let member = Member { account, username, session, token_epoch: 0, logged_in: now, user_id: None };
        let order = CodeOrder { form: CodeForm::Six, case: String::new(), issued_by: "desk".to_owned(), valid_s: 900 };
        let CodeOrdered::Issued { code, .. } = block_on(authority.issue_upload_code(order, now)).unwrap() else {
            panic!("no code")
        };
        (authority, member, code, now)
    }
}
