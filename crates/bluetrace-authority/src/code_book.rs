//! Owns [`CodeBook`]: upload codes, wrong ones and handshake PINs, as the store in memory keeps them.

use std::collections::BTreeMap;

use bluetrace_protocol::{Timestamp, UploadId, Username};

use crate::store::{
    AccountId, CodeCheck, CodeForm, CodeHash, CodeIssued, CodeRedeemed, CodeRevoked, CodeState, CodeVerdict, FoundCode,
    Guesses, NewUploadCode, PinSeed, PresentedCode, UploadBegun, UploadCodeId, UploadCodeRow, UploadKey, WrongCodes,
};

/// Codes and PINs. Uploads are told apart by their keys and looked up elsewhere.
#[derive(Default)]
pub(crate) struct CodeBook {
    last_code: i64,
    last_wrong: u64,
    codes: BTreeMap<UploadCodeId, CodeEntry>,
    /// A wrong code counts once for each upload; one that came without an upload has a number of its own.
    wrong: BTreeMap<(AccountId, WrongFor, CodeHash), WrongCode>,
    pins: BTreeMap<AccountId, (PinSeed, Timestamp)>,
}

/// An upload code.
struct CodeEntry {
    code: NewUploadCode,
    issued: Timestamp,
    revoked: Option<Timestamp>,
    /// Who has redeemed it, and when.
    redeemed: Option<(AccountId, Timestamp)>,
    /// The upload it was last redeemed for.
    upload: Option<UploadKey>,
    /// Whether that is complete.
    is_used: bool,
    forget_at: Timestamp,
}

/// For whom a code is redeemed.
#[derive(Clone, Copy)]
pub(crate) struct Redemption {
    pub(crate) account: AccountId,
    /// `None`: ahead of any upload.
    pub(crate) upload: Option<UploadKey>,
    pub(crate) forget_at: Timestamp,
}

/// What a wrong code was presented for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum WrongFor {
    Upload(UploadId),
    Itself(u64),
}

struct WrongCode {
    form: Option<CodeForm>,
    forget_at: Timestamp,
}

impl CodeBook {
    pub(crate) fn issue(&mut self, code: NewUploadCode, now: Timestamp) -> CodeIssued {
        if self.in_sight(now).any(|(_, entry)| entry.code.hash == code.hash) {
            return CodeIssued::Taken;
        }
        let is_live = |entry: &CodeEntry| entry.redeemed.is_none() && entry.revoked.is_none();
        let live = self.in_sight(now).filter(|(_, entry)| entry.code.form == code.form && is_live(entry)).count();
        if u32::try_from(live).unwrap_or(u32::MAX) >= code.limits.max_live {
            return CodeIssued::TooManyLive;
        }
        self.last_code += 1;
        let id = UploadCodeId(self.last_code);
        let forget_at = code.expires;
        let entry =
            CodeEntry { code, issued: now, revoked: None, redeemed: None, upload: None, is_used: false, forget_at };
        self.codes.insert(id, entry);
        CodeIssued::Issued(id)
    }

    /// Codes with numbers after `after`, in their order.
    pub(crate) fn rows(
        &self,
        after: Option<UploadCodeId>,
        now: Timestamp,
        name_of: impl Fn(AccountId) -> Option<Username>,
    ) -> impl Iterator<Item = UploadCodeRow> {
        let codes = self.in_sight(now).filter(move |(id, _)| after.is_none_or(|after| *id > after));
        codes.map(move |(id, entry)| UploadCodeRow {
            id,
            form: entry.code.form,
            case: entry.code.case.clone(),
            issued_by: entry.code.issued_by.clone(),
            issued: entry.issued,
            expires: entry.code.expires,
            state: entry.state(&name_of),
        })
    }

    /// Takes a code back, and returns the upload that was begun with it.
    pub(crate) fn revoke(&mut self, id: UploadCodeId, now: Timestamp) -> (CodeRevoked, Option<UploadKey>) {
        match self.codes.get_mut(&id).filter(|entry| now < entry.forget_at) {
            None => (CodeRevoked::NoSuchCode, None),
            Some(entry) if entry.is_used => (CodeRevoked::Used, None),
            Some(entry) => {
                entry.revoked.get_or_insert(now);
                (CodeRevoked::Revoked, entry.upload.take())
            }
        }
    }

    /// Whether a code lets this upload go on.
    pub(crate) fn lets_in(&self, upload: UploadKey, now: Timestamp) -> bool {
        self.in_sight(now).any(|(_, entry)| entry.upload == Some(upload) && entry.revoked.is_none())
    }

    /// The code that lets an upload in, if it needs one; or the refusal.
    pub(crate) fn check(
        &mut self,
        account: AccountId,
        upload: &UploadId,
        check: CodeCheck,
        now: Timestamp,
    ) -> Result<Option<UploadCodeId>, UploadBegun> {
        let Some(presented) = check.presented()? else { return Ok(None) };
        let (id, verdict) = self.judge(account, Some(upload), presented, now);
        verdict.accepted()?;
        Ok(id)
    }

    /// Gives a code to an account that has not begun its upload.
    pub(crate) fn redeem_ahead(
        &mut self,
        account: AccountId,
        presented: PresentedCode,
        forget_at: Timestamp,
        now: Timestamp,
    ) -> CodeRedeemed {
        let (id, verdict) = self.judge(account, None, presented, now);
        if let Err(refusal) = verdict.accepted() {
            return refusal.into();
        }
        // no upload is named, so none is left behind
        id.and_then(|id| self.redeem(id, Redemption { account, upload: None, forget_at }, now));
        CodeRedeemed::Redeemed
    }

    /// Finds and judges a code, and counts it if it is wrong.
    fn judge(
        &mut self,
        account: AccountId,
        upload: Option<&UploadId>,
        code: PresentedCode,
        now: Timestamp,
    ) -> (Option<UploadCodeId>, CodeVerdict) {
        let found = self.in_sight(now).find(|(_, entry)| entry.code.hash == code.hash);
        let (id, found) = found.map(|(id, entry)| (id, entry.found())).unzip();
        self.last_wrong += 1;
        let wrong_for = upload.cloned().map_or(WrongFor::Itself(self.last_wrong), WrongFor::Upload);
        let this = (account, wrong_for, code.hash);
        let guesses = Guesses {
            by_account: self.wrong_codes_of(account, now),
            of_form: self.wrong_codes(now, |_, form| form.is_some() && form == code.form),
            is_counted: self.wrong.get(&this).is_some_and(|wrong| now < wrong.forget_at),
        };
        let verdict = code.judge(account, found, guesses);
        if matches!(verdict, CodeVerdict::RefuseAndCount { .. }) {
            let forget_at = now.plus(i64::from(code.limits.window_s));
            self.wrong.insert(this, WrongCode { form: code.form, forget_at });
        }
        (id, verdict)
    }

    /// The wrong codes that count against an account.
    pub(crate) fn wrong_codes_of(&self, account: AccountId, now: Timestamp) -> WrongCodes {
        self.wrong_codes(now, |by, _| by == account)
    }

    /// Lets an account's wrong codes count against their form alone, and returns how many they are.
    pub(crate) fn forgive(&mut self, account: AccountId, now: Timestamp) -> u32 {
        let forgiven: Vec<_> =
            self.wrong.extract_if(.., |(by, ..), wrong| *by == account && now < wrong.forget_at).collect();
        let count = u32::try_from(forgiven.len()).unwrap_or(u32::MAX);
        for ((_, _, hash), wrong) in forgiven {
            self.last_wrong += 1;
            self.wrong.insert((NOBODY, WrongFor::Itself(self.last_wrong), hash), wrong);
        }
        count
    }

    /// Gives a code to an account and its upload, and returns the upload it was for before.
    pub(crate) fn redeem(&mut self, id: UploadCodeId, redemption: Redemption, now: Timestamp) -> Option<UploadKey> {
        let Redemption { account, upload, forget_at } = redemption;
        let entry = self.codes.get_mut(&id)?;
        entry.redeemed.get_or_insert((account, now));
        entry.forget_at = entry.forget_at.max(forget_at);
        let upload = upload?;
        entry.upload.replace(upload).filter(|before| *before != upload)
    }

    /// Notes that an upload is complete: the code it was let in with is used.
    pub(crate) fn complete(&mut self, upload: UploadKey) {
        for entry in self.codes.values_mut() {
            entry.is_used |= entry.upload == Some(upload);
        }
    }

    pub(crate) fn pin(
        &mut self,
        account: AccountId,
        candidate: PinSeed,
        ends: Timestamp,
        now: Timestamp,
    ) -> (PinSeed, Timestamp) {
        let pin = self.pins.entry(account).or_insert((candidate, ends));
        if pin.1 <= now {
            *pin = (candidate, ends);
        }
        *pin
    }

    /// What is an account's own goes with it. Wrong codes stay until they count no more, or who opens account after account
    /// could guess without end.
    pub(crate) fn remove_account(&mut self, account: AccountId) {
        self.codes.retain(|_, entry| entry.redeemed.is_none_or(|(by, _)| by != account));
        self.pins.remove(&account);
    }

    /// Deletes up to `most` entries that are forgotten, and returns how many.
    pub(crate) fn expire(&mut self, most: u32, now: Timestamp) -> u32 {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let codes = self.codes.extract_if(.., |_, entry| entry.forget_at <= now).take(most).count();
        let wrong = self.wrong.extract_if(.., |_, wrong| wrong.forget_at <= now).take(most - codes).count();
        let pins = self.pins.extract_if(.., |_, (_, ends)| *ends <= now).take(most - codes - wrong).count();
        u32::try_from(codes + wrong + pins).unwrap_or(u32::MAX)
    }

    /// Whether anything is forgotten and not deleted.
    pub(crate) fn has_forgotten(&self, now: Timestamp) -> bool {
        self.codes.values().any(|entry| entry.forget_at <= now)
            || self.wrong.values().any(|wrong| wrong.forget_at <= now)
            || self.pins.values().any(|(_, ends)| *ends <= now)
    }

    fn in_sight(&self, now: Timestamp) -> impl Iterator<Item = (UploadCodeId, &CodeEntry)> {
        self.codes.iter().filter(move |(_, entry)| now < entry.forget_at).map(|(id, entry)| (*id, entry))
    }

    fn wrong_codes(&self, now: Timestamp, counts: impl Fn(AccountId, Option<CodeForm>) -> bool) -> WrongCodes {
        let counting = |((by, ..), wrong): &(&(AccountId, WrongFor, CodeHash), &WrongCode)| {
            now < wrong.forget_at && counts(*by, wrong.form)
        };
        let ends: Vec<_> = self.wrong.iter().filter(counting).map(|(_, wrong)| wrong.forget_at).collect();
        let count = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        WrongCodes { count, first_ends: ends.into_iter().min().unwrap_or(now) }
    }
}

impl CodeEntry {
    fn found(&self) -> FoundCode {
        FoundCode { redeemed_by: self.redeemed.map(|(by, _)| by), is_over: self.is_used || self.revoked.is_some() }
    }

    fn state(&self, name_of: impl Fn(AccountId) -> Option<Username>) -> CodeState {
        if let Some(at) = self.revoked {
            return CodeState::Revoked { at };
        }
        match self.redeemed.and_then(|(by, at)| Some((name_of(by)?, at))) {
            None => CodeState::Live,
            Some((by, at)) if self.is_used => CodeState::Used { by, at },
            Some((by, at)) => CodeState::Redeemed { by, at },
        }
    }
}

/// Whose wrong codes are that were forgiven. Accounts have numbers from 1 on.
const NOBODY: AccountId = AccountId(0);
