//! Owns upload codes and handshake PINs as SQL. All of it runs in a transaction that has locked the account's row, so that an
//! account presents one code after the other; wrong codes of one form are counted one after the other, too.

use bluetrace_authority::store::{
    AccountId, CodeCheck, CodeForm, CodeHash, CodeIssued, CodeRedeemed, CodeRevoked, CodeState, CodeVerdict, FoundCode,
    Guesses, NewUploadCode, PinSeed, PresentedCode, UploadBegun, UploadCodeId, UploadCodeRow, UploadKey, WrongCodes,
};
use bluetrace_protocol::{Timestamp, UploadId, Username};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::{Result, Trouble};
use super::session::Session;
use super::{accounts, convert};

/// In a transaction. Done twice, it answers `Taken` for what it has issued itself, which then waits for nobody until it expires.
pub(super) async fn issue(session: &Session, code: &NewUploadCode, now: Timestamp) -> Result<CodeIssued> {
    let (hash, characters, now) = (code.hash.0.as_slice(), characters(code.form), now.as_unix());
    // codes are issued one after the other
    session.execute("SELECT 1 FROM latch WHERE name = 'codes' FOR UPDATE", &[]).await?;
    // a forgotten one of the same hash is out of sight, and only in the way
    session
        .execute(
            "DELETE FROM upload_code WHERE hash = $1 AND forget_at <= $2",
            &[(&hash, Type::BYTEA), (&now, Type::INT8)],
        )
        .await?;
    let found = session
        .one(
            "SELECT EXISTS (SELECT 1 FROM upload_code WHERE hash = $1), count(*) FROM upload_code
             WHERE characters = $2 AND account IS NULL AND revoked IS NULL AND forget_at > $3",
            &[(&hash, Type::BYTEA), (&characters, Type::INT8), (&now, Type::INT8)],
        )
        .await?;
    if found.try_get(0)? {
        return Ok(CodeIssued::Taken);
    }
    if found.try_get::<_, i64>(1)? >= i64::from(code.limits.max_live) {
        return Ok(CodeIssued::TooManyLive);
    }
    let id: i64 = session
        .one("UPDATE latch SET value = value + 1 WHERE name = 'codes' RETURNING value", &[])
        .await?
        .try_get(0)?;
    session
        .execute(
            "INSERT INTO upload_code (id, hash, characters, case_name, issued_by, issued, expires, forget_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
            &[
                (&id, Type::INT8),
                (&hash, Type::BYTEA),
                (&characters, Type::INT8),
                (&code.case, Type::TEXT),
                (&code.issued_by, Type::TEXT),
                (&now, Type::INT8),
                (&code.expires.as_unix(), Type::INT8),
            ],
        )
        .await?;
    Ok(CodeIssued::Issued(UploadCodeId(id)))
}

pub(super) async fn list(
    session: &Session,
    after: Option<UploadCodeId>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<UploadCodeRow>> {
    let (after, limit) = (after.map_or(0, |id| id.0), i64::from(limit));
    let rows = session
        .rows(
            "SELECT c.id, c.characters, c.case_name, c.issued_by, c.issued, c.expires, c.revoked, c.redeemed, c.is_used,
                    a.username
             FROM upload_code AS c LEFT JOIN account AS a ON a.id = c.account
             WHERE c.id > $1 AND c.forget_at > $2 ORDER BY c.id LIMIT $3",
            &[(&after, Type::INT8), (&now.as_unix(), Type::INT8), (&limit, Type::INT8)],
        )
        .await?;
    let codes = rows.iter().map(|row| {
        Ok(UploadCodeRow {
            id: UploadCodeId(row.try_get(0)?),
            form: form(row, 1)?,
            case: row.try_get(2)?,
            issued_by: row.try_get(3)?,
            issued: convert::time(row, 4)?,
            expires: convert::time(row, 5)?,
            state: state(row)?,
        })
    });
    codes.collect()
}

fn state(row: &Row) -> Result<CodeState> {
    if let Some(at) = convert::optional_time(row, 6)? {
        return Ok(CodeState::Revoked { at });
    }
    let Some(at) = convert::optional_time(row, 7)? else { return Ok(CodeState::Live) };
    let by = convert::username(row, 9)?;
    Ok(if row.try_get(8)? { CodeState::Used { by, at } } else { CodeState::Redeemed { by, at } })
}

/// In a transaction.
pub(super) async fn revoke(session: &Session, id: UploadCodeId, now: Timestamp) -> Result<CodeRevoked> {
    let find = "SELECT is_used, upload FROM upload_code WHERE id = $1 AND forget_at > $2 FOR UPDATE";
    let found = session.row(find, &[(&id.0, Type::INT8), (&now.as_unix(), Type::INT8)]).await?;
    let Some(row) = found else { return Ok(CodeRevoked::NoSuchCode) };
    if row.try_get(0)? {
        return Ok(CodeRevoked::Used);
    }
    session
        .execute(
            "UPDATE upload_code SET revoked = coalesce(revoked, $2), upload = NULL WHERE id = $1",
            &[(&id.0, Type::INT8), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    if let Some(upload) = row.try_get(1)? {
        drop_upload(session, UploadKey(upload)).await?;
    }
    Ok(CodeRevoked::Revoked)
}

/// In a transaction.
pub(super) async fn redeem_ahead(
    session: &Session,
    account: AccountId,
    code: PresentedCode,
    forget_at: Timestamp,
    now: Timestamp,
) -> Result<CodeRedeemed> {
    if !accounts::lock(session, account).await? {
        return Ok(CodeRedeemed::NoAccount);
    }
    let (found, verdict) = judge(session, account, None, code, now).await?;
    if let Err(refusal) = verdict.accepted() {
        return Ok(refusal.into());
    }
    redeem(session, found, Redemption { account, upload: None, forget_at }, now).await?;
    Ok(CodeRedeemed::Redeemed)
}

/// A code as it was found, with the upload it was last redeemed for. Its row is locked.
#[derive(Clone, Copy)]
pub(super) struct Found {
    id: UploadCodeId,
    upload: Option<UploadKey>,
    code: FoundCode,
}

/// The code that lets an upload in, if it needs one; or the refusal.
pub(super) async fn check(
    session: &Session,
    account: AccountId,
    upload: &UploadId,
    check: CodeCheck,
    now: Timestamp,
) -> Result<std::result::Result<Option<Found>, UploadBegun>> {
    let presented = match check.presented() {
        Ok(None) => return Ok(Ok(None)),
        Ok(Some(presented)) => presented,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (found, verdict) = judge(session, account, Some(upload), presented, now).await?;
    Ok(verdict.accepted().map(|()| found).map_err(UploadBegun::from))
}

/// For whom a code is redeemed.
#[derive(Clone, Copy)]
pub(super) struct Redemption {
    pub(super) account: AccountId,
    /// `None`: ahead of any upload.
    pub(super) upload: Option<UploadKey>,
    pub(super) forget_at: Timestamp,
}

/// Whether a code lets this upload go on.
pub(super) async fn lets_in(session: &Session, upload: UploadKey, now: Timestamp) -> Result<bool> {
    let found = session
        .row(
            "SELECT 1 FROM upload_code WHERE upload = $1 AND revoked IS NULL AND forget_at > $2",
            &[(&upload.0, Type::INT8), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    Ok(found.is_some())
}

/// Gives a code, if there is one, to an account and its upload. The unfinished upload that it was for before is dropped.
pub(super) async fn redeem(
    session: &Session,
    found: Option<Found>,
    redemption: Redemption,
    now: Timestamp,
) -> Result<()> {
    let Redemption { account, upload, forget_at } = redemption;
    let Some(found) = found else { return Ok(()) };
    session
        .execute(
            "UPDATE upload_code SET account = $2, redeemed = coalesce(redeemed, $3), upload = coalesce($4, upload),
                                    forget_at = greatest(forget_at, $5)
             WHERE id = $1",
            &[
                (&found.id.0, Type::INT8),
                (&account.0, Type::INT8),
                (&now.as_unix(), Type::INT8),
                (&upload.map(|upload| upload.0), Type::INT8),
                (&forget_at.as_unix(), Type::INT8),
            ],
        )
        .await?;
    match found.upload.filter(|before| upload.is_some_and(|upload| upload != *before)) {
        Some(before) => drop_upload(session, before).await,
        None => Ok(()),
    }
}

/// Locks the codes that an upload was let in with, of which there may be none: before the upload itself.
pub(super) async fn lock_of(session: &Session, upload: UploadKey) -> Result<Vec<i64>> {
    let statement = "SELECT id FROM upload_code WHERE upload = $1 ORDER BY id FOR UPDATE";
    let rows = session.rows(statement, &[(&upload.0, Type::INT8)]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Notes that an upload is complete: the codes it was let in with, which are locked, are used. Its own row is locked, too.
pub(super) async fn complete(session: &Session, upload: UploadKey, locked: &[i64]) -> Result<()> {
    let has_another = session
        .one(
            "WITH used AS (UPDATE upload_code SET is_used = true WHERE id = ANY ($2))
             SELECT EXISTS (SELECT 1 FROM upload_code WHERE upload = $1 AND id <> ALL ($2))",
            &[(&upload.0, Type::INT8), (&locked, Type::INT8_ARRAY)],
        )
        .await?;
    // it was presented between the two locks
    if has_another.try_get(0)? { Err(Trouble::Again) } else { Ok(()) }
}

/// By account, for an operator.
pub(super) async fn list_wrong(
    session: &Session,
    after: Option<&Username>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<(Username, WrongCodes)>> {
    // every username is longer than the empty text
    let after = after.map_or("", Username::reveal);
    let rows = session
        .rows(
            "SELECT a.username, count(*), min(w.forget_at) FROM wrong_code AS w JOIN account AS a ON a.id = w.account
             WHERE w.forget_at > $1 AND a.username > $2 GROUP BY a.username ORDER BY a.username LIMIT $3",
            &[(&now.as_unix(), Type::INT8), (&after, Type::TEXT), (&i64::from(limit), Type::INT8)],
        )
        .await?;
    let wrong = |row| Ok((convert::username(row, 0)?, wrong_codes(row, 1, now)?));
    rows.iter().map(wrong).collect()
}

/// What is forgiven is nobody's, number 0, and counts against its form alone. Done twice, it answers that there was nothing left.
pub(super) async fn forgive_wrong(session: &Session, username: &Username, now: Timestamp) -> Result<Option<u32>> {
    let found = session
        .row(
            "WITH found AS (SELECT id FROM account WHERE username = $1), forgiven AS (
                 UPDATE wrong_code SET account = 0, upload = NULL
                 WHERE account = (SELECT id FROM found) AND forget_at > $2 RETURNING 1
             ) SELECT (SELECT count(*) FROM forgiven) FROM found",
            &[(&username.reveal(), Type::TEXT), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    found.map(|row| convert::number(&row, 0)).transpose()
}

pub(super) async fn handshake_pin(
    session: &Session,
    account: AccountId,
    candidate: PinSeed,
    ends: Timestamp,
    now: Timestamp,
) -> Result<Option<(PinSeed, Timestamp)>> {
    let found = session
        .row(
            "INSERT INTO handshake_pin AS p (account, seed, forget_at)
             SELECT id, $2, $3 FROM account WHERE id = $1 FOR KEY SHARE
             ON CONFLICT (account) DO UPDATE SET
                 seed = CASE WHEN p.forget_at > $4 THEN p.seed ELSE excluded.seed END,
                 forget_at = CASE WHEN p.forget_at > $4 THEN p.forget_at ELSE excluded.forget_at END
             RETURNING seed, forget_at",
            &[
                (&account.0, Type::INT8),
                (&candidate.0.as_slice(), Type::BYTEA),
                (&ends.as_unix(), Type::INT8),
                (&now.as_unix(), Type::INT8),
            ],
        )
        .await?;
    found.map(|row| Ok((PinSeed(convert::bytes(&row, 0)?), convert::time(&row, 1)?))).transpose()
}

/// Judges a code, and counts it if it is wrong.
async fn judge(
    session: &Session,
    account: AccountId,
    upload: Option<&UploadId>,
    presented: PresentedCode,
    now: Timestamp,
) -> Result<(Option<Found>, CodeVerdict)> {
    let form = presented.form.map_or(0, characters);
    if form > 0 {
        // all who guess at codes of this form: none may be looked at before the ones before it are counted
        let latch = format!("guesses at {form}");
        session.execute("SELECT 1 FROM latch WHERE name = $1 FOR UPDATE", &[(&latch, Type::TEXT)]).await?;
    }
    let found = find(session, presented.hash, now).await?;
    let (hash, upload, seconds) = (presented.hash.0.as_slice(), upload.map(UploadId::reveal), now.as_unix());
    let guesses = session
        .one(
            "SELECT (SELECT count(*) FROM wrong_code WHERE account = $1 AND forget_at > $5),
                    (SELECT min(forget_at) FROM wrong_code WHERE account = $1 AND forget_at > $5),
                    (SELECT count(*) FROM wrong_code WHERE characters = $4 AND forget_at > $5),
                    (SELECT min(forget_at) FROM wrong_code WHERE characters = $4 AND forget_at > $5),
                    EXISTS (SELECT 1 FROM wrong_code WHERE account = $1 AND upload = $2 AND hash = $3 AND forget_at > $5)",
            &[
                (&account.0, Type::INT8),
                (&upload, Type::TEXT),
                (&hash, Type::BYTEA),
                (&form, Type::INT8),
                (&seconds, Type::INT8),
            ],
        )
        .await?;
    let guesses = Guesses {
        by_account: wrong_codes(&guesses, 0, now)?,
        of_form: wrong_codes(&guesses, 2, now)?,
        is_counted: guesses.try_get(4)?,
    };
    let verdict = presented.judge(account, found.map(|found| found.code), guesses);
    if matches!(verdict, CodeVerdict::RefuseAndCount { .. }) {
        let forget_at = now.plus(i64::from(presented.limits.window_s)).as_unix();
        session
            .execute(
                "INSERT INTO wrong_code (id, account, upload, hash, characters, forget_at)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (account, upload, hash)
                 DO UPDATE SET characters = excluded.characters, forget_at = excluded.forget_at",
                &[
                    (&session.ids.draw(), Type::INT8),
                    (&account.0, Type::INT8),
                    (&upload, Type::TEXT),
                    (&hash, Type::BYTEA),
                    (&form, Type::INT8),
                    (&forget_at, Type::INT8),
                ],
            )
            .await?;
    }
    Ok((found, verdict))
}

async fn find(session: &Session, hash: CodeHash, now: Timestamp) -> Result<Option<Found>> {
    let found = session
        .row(
            "SELECT id, account, upload, is_used OR revoked IS NOT NULL FROM upload_code
             WHERE hash = $1 AND forget_at > $2 FOR UPDATE",
            &[(&hash.0.as_slice(), Type::BYTEA), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    let found = found.map(|row| {
        let redeemed_by = row.try_get::<_, Option<i64>>(1)?.map(AccountId);
        let upload = row.try_get::<_, Option<i64>>(2)?.map(UploadKey);
        let code = FoundCode { redeemed_by, is_over: row.try_get(3)? };
        Ok(Found { id: UploadCodeId(row.try_get(0)?), upload, code })
    });
    found.transpose()
}

/// Takes an unfinished upload out of sight. Its rows follow with `expire`.
async fn drop_upload(session: &Session, upload: UploadKey) -> Result<()> {
    session
        .execute(
            "UPDATE upload SET account = NULL, forget_at = 0 WHERE id = $1 AND finished IS NULL",
            &[(&upload.0, Type::INT8)],
        )
        .await?;
    Ok(())
}

fn wrong_codes(row: &Row, column: usize, now: Timestamp) -> Result<WrongCodes> {
    let first_ends = convert::optional_time(row, column + 1)?.unwrap_or(now);
    Ok(WrongCodes { count: convert::number(row, column)?, first_ends })
}

fn form(row: &Row, column: usize) -> Result<CodeForm> {
    match row.try_get::<_, i64>(column)? {
        6 => Ok(CodeForm::Six),
        8 => Ok(CodeForm::Eight),
        _ => Err(Trouble::failed("the database holds a code of an unknown form")),
    }
}

const fn characters(form: CodeForm) -> i64 {
    match form {
        CodeForm::Six => 6,
        CodeForm::Eight => 8,
    }
}
