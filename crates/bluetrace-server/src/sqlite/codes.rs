//! Owns upload codes and handshake PINs as SQL. Each function runs within one transaction, and may be run again after a rollback.

use bluetrace_authority::store::{
    AccountId, CodeCheck, CodeForm, CodeHash, CodeIssued, CodeRedeemed, CodeRevoked, CodeState, CodeVerdict, FoundCode,
    Guesses, NewUploadCode, PinSeed, PresentedCode, UploadBegun, UploadCodeId, UploadCodeRow, UploadKey, WrongCodes,
};
use bluetrace_protocol::{Timestamp, UploadId, Username};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::convert;
use super::error::JobError;
use super::read;

type Result<T> = std::result::Result<T, JobError>;

pub(super) fn issue_upload_code(connection: &Connection, code: &NewUploadCode, now: Timestamp) -> Result<CodeIssued> {
    let (characters, now) = (characters(code.form), now.as_unix());
    // a forgotten one of the same hash is out of sight, and only in the way
    connection
        .prepare_cached("DELETE FROM upload_code WHERE hash = ?1 AND forget_at <= ?2")?
        .execute(params![code.hash.0, now])?;
    if connection.prepare_cached("SELECT 1 FROM upload_code WHERE hash = ?1")?.exists([code.hash.0])? {
        return Ok(CodeIssued::Taken);
    }
    let live: u32 = connection
        .prepare_cached(
            "SELECT count(*) FROM upload_code
             WHERE characters = ?1 AND account IS NULL AND revoked IS NULL AND forget_at > ?2",
        )?
        .query_row(params![characters, now], |row| row.get(0))?;
    if live >= code.limits.max_live {
        return Ok(CodeIssued::TooManyLive);
    }
    connection
        .prepare_cached(
            "INSERT INTO upload_code (hash, characters, case_name, issued_by, issued, expires, forget_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
        )?
        .execute(params![code.hash.0, characters, code.case, code.issued_by, now, code.expires.as_unix()])?;
    Ok(CodeIssued::Issued(UploadCodeId(connection.last_insert_rowid())))
}

pub(super) fn upload_codes(
    connection: &Connection,
    after: Option<UploadCodeId>,
    limit: u32,
    now: Timestamp,
) -> rusqlite::Result<Vec<UploadCodeRow>> {
    let mut query = connection.prepare_cached(
        "SELECT c.id, c.characters, c.case_name, c.issued_by, c.issued, c.expires, c.revoked, c.redeemed, c.is_used,
                a.username
         FROM upload_code AS c LEFT JOIN account AS a ON a.id = c.account
         WHERE c.id > ?1 AND +c.forget_at > ?2 ORDER BY c.id LIMIT ?3",
    )?;
    let rows = query.query_map(params![after.map_or(0, |id| id.0), now.as_unix(), limit], |row| {
        Ok(UploadCodeRow {
            id: UploadCodeId(row.get(0)?),
            form: form(row, 1)?,
            case: row.get(2)?,
            issued_by: row.get(3)?,
            issued: convert::time(row, 4)?,
            expires: convert::time(row, 5)?,
            state: state(row)?,
        })
    })?;
    rows.collect()
}

fn state(row: &Row<'_>) -> rusqlite::Result<CodeState> {
    if let Some(at) = convert::optional_time(row, 6)? {
        return Ok(CodeState::Revoked { at });
    }
    let Some(at) = convert::optional_time(row, 7)? else { return Ok(CodeState::Live) };
    let by = convert::username(row, 9)?;
    Ok(if row.get(8)? { CodeState::Used { by, at } } else { CodeState::Redeemed { by, at } })
}

pub(super) fn revoke_upload_code(connection: &Connection, id: UploadCodeId, now: Timestamp) -> Result<CodeRevoked> {
    let found: Option<(bool, Option<i64>)> = connection
        .prepare_cached("SELECT is_used, upload FROM upload_code WHERE id = ?1 AND forget_at > ?2")?
        .query_row(params![id.0, now.as_unix()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((is_used, upload)) = found else { return Ok(CodeRevoked::NoSuchCode) };
    if is_used {
        return Ok(CodeRevoked::Used);
    }
    connection
        .prepare_cached("UPDATE upload_code SET revoked = ifnull(revoked, ?2), upload = NULL WHERE id = ?1")?
        .execute(params![id.0, now.as_unix()])?;
    if let Some(upload) = upload {
        drop_upload(connection, UploadKey(upload))?;
    }
    Ok(CodeRevoked::Revoked)
}

pub(super) fn redeem_upload_code(
    connection: &Connection,
    account: AccountId,
    code: PresentedCode,
    forget_at: Timestamp,
    now: Timestamp,
) -> Result<CodeRedeemed> {
    if !read::has_account(connection, account)? {
        return Ok(CodeRedeemed::NoAccount);
    }
    let (found, verdict) = judge(connection, account, None, code, now)?;
    if let Err(refusal) = verdict.accepted() {
        return Ok(refusal.into());
    }
    redeem(connection, found, Redemption { account, upload: None, forget_at }, now)?;
    Ok(CodeRedeemed::Redeemed)
}

/// A code as it was found, with the upload it was last redeemed for.
#[derive(Clone, Copy)]
pub(super) struct Found {
    id: UploadCodeId,
    upload: Option<UploadKey>,
    code: FoundCode,
}

/// The code that lets an upload in, if it needs one; or the refusal.
pub(super) fn check(
    connection: &Connection,
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
    let (found, verdict) = judge(connection, account, Some(upload), presented, now)?;
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
pub(super) fn lets_in(connection: &Connection, upload: UploadKey, now: Timestamp) -> Result<bool> {
    let mut query = connection
        .prepare_cached("SELECT 1 FROM upload_code WHERE upload = ?1 AND revoked IS NULL AND forget_at > ?2")?;
    Ok(query.exists(params![upload.0, now.as_unix()])?)
}

/// Gives a code, if there is one, to an account and its upload. The unfinished upload that it was for before is dropped.
pub(super) fn redeem(
    connection: &Connection,
    found: Option<Found>,
    redemption: Redemption,
    now: Timestamp,
) -> Result<()> {
    let Redemption { account, upload, forget_at } = redemption;
    let Some(found) = found else { return Ok(()) };
    connection
        .prepare_cached(
            "UPDATE upload_code SET account = ?2, redeemed = ifnull(redeemed, ?3), upload = ifnull(?4, upload),
                                    forget_at = max(forget_at, ?5)
             WHERE id = ?1",
        )?
        .execute(params![found.id.0, account.0, now.as_unix(), upload.map(|upload| upload.0), forget_at.as_unix()])?;
    match found.upload.filter(|before| upload.is_some_and(|upload| upload != *before)) {
        Some(before) => drop_upload(connection, before),
        None => Ok(()),
    }
}

/// Notes that an upload is complete: the code it was let in with is used.
pub(super) fn complete(connection: &Connection, upload: UploadKey) -> Result<()> {
    connection.prepare_cached("UPDATE upload_code SET is_used = 1 WHERE upload = ?1")?.execute([upload.0])?;
    Ok(())
}

/// What is an account's own goes with it. Wrong codes stay until they count no more, or who opens account after account could
/// guess without end.
pub(super) fn remove_account(connection: &Connection, account: AccountId) -> Result<()> {
    connection.prepare_cached("DELETE FROM upload_code WHERE account = ?1")?.execute([account.0])?;
    connection.prepare_cached("DELETE FROM handshake_pin WHERE account = ?1")?.execute([account.0])?;
    Ok(())
}

pub(super) fn wrong_upload_codes(
    connection: &Connection,
    after: Option<&Username>,
    limit: u32,
    now: Timestamp,
) -> rusqlite::Result<Vec<(Username, WrongCodes)>> {
    // every username is longer than the empty text
    let after = after.map_or("", Username::reveal);
    let mut query = connection.prepare_cached(
        "SELECT a.username, count(*), min(w.forget_at) FROM wrong_code AS w JOIN account AS a ON a.id = w.account
         WHERE w.forget_at > ?1 AND a.username > ?2 GROUP BY a.username ORDER BY a.username LIMIT ?3",
    )?;
    let rows = query.query_map(params![now.as_unix(), after, limit], |row| {
        Ok((convert::username(row, 0)?, WrongCodes { count: row.get(1)?, first_ends: convert::time(row, 2)? }))
    })?;
    rows.collect()
}

/// What is forgiven is nobody's, number 0, and counts against its form alone.
pub(super) fn forgive_wrong_codes(connection: &Connection, username: &Username, now: Timestamp) -> Result<Option<u32>> {
    let account: Option<i64> = connection
        .prepare_cached("SELECT id FROM account WHERE username = ?1")?
        .query_row([username.reveal()], |row| row.get(0))
        .optional()?;
    let Some(account) = account else { return Ok(None) };
    let forgiven = connection
        .prepare_cached("UPDATE wrong_code SET account = 0, upload = NULL WHERE account = ?1 AND forget_at > ?2")?
        .execute(params![account, now.as_unix()])?;
    Ok(Some(u32::try_from(forgiven).unwrap_or(u32::MAX)))
}

pub(super) fn handshake_pin(
    connection: &Connection,
    account: AccountId,
    candidate: PinSeed,
    ends: Timestamp,
    now: Timestamp,
) -> Result<Option<(PinSeed, Timestamp)>> {
    if !read::has_account(connection, account)? {
        return Ok(None);
    }
    let found = connection
        .prepare_cached("SELECT seed, forget_at FROM handshake_pin WHERE account = ?1 AND forget_at > ?2")?
        .query_row(params![account.0, now.as_unix()], |row| Ok((PinSeed(row.get(0)?), convert::time(row, 1)?)))
        .optional()?;
    if let Some(found) = found {
        return Ok(Some(found));
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO handshake_pin (account, seed, forget_at) VALUES (?1, ?2, ?3)")?
        .execute(params![account.0, candidate.0, ends.as_unix()])?;
    Ok(Some((candidate, ends)))
}

/// Judges a code, and counts it if it is wrong.
fn judge(
    connection: &Connection,
    account: AccountId,
    upload: Option<&UploadId>,
    presented: PresentedCode,
    now: Timestamp,
) -> Result<(Option<Found>, CodeVerdict)> {
    let found = find(connection, presented.hash, now)?;
    let form = presented.form.map_or(0, characters);
    let is_counted = connection
        .prepare_cached("SELECT 1 FROM wrong_code WHERE account = ?1 AND upload = ?2 AND hash = ?3 AND forget_at > ?4")?
        .exists(params![account.0, upload.map(UploadId::reveal), presented.hash.0, now.as_unix()])?;
    let guesses = Guesses {
        by_account: wrong_codes(connection, WRONG_BY_ACCOUNT, account.0, now)?,
        of_form: wrong_codes(connection, WRONG_OF_FORM, form, now)?,
        is_counted,
    };
    let verdict = presented.judge(account, found.map(|found| found.code), guesses);
    if matches!(verdict, CodeVerdict::RefuseAndCount { .. }) {
        let forget_at = now.plus(i64::from(presented.limits.window_s));
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO wrong_code (account, upload, hash, characters, forget_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![account.0, upload.map(UploadId::reveal), presented.hash.0, form, forget_at.as_unix()])?;
    }
    Ok((found, verdict))
}

fn find(connection: &Connection, hash: CodeHash, now: Timestamp) -> Result<Option<Found>> {
    let found = connection
        .prepare_cached(
            "SELECT id, account, upload, is_used OR revoked IS NOT NULL FROM upload_code
             WHERE hash = ?1 AND forget_at > ?2",
        )?
        .query_row(params![hash.0, now.as_unix()], |row| {
            let redeemed_by = row.get::<_, Option<i64>>(1)?.map(AccountId);
            let upload = row.get::<_, Option<i64>>(2)?.map(UploadKey);
            let code = FoundCode { redeemed_by, is_over: row.get(3)? };
            Ok(Found { id: UploadCodeId(row.get(0)?), upload, code })
        })
        .optional()?;
    Ok(found)
}

fn wrong_codes(connection: &Connection, query: &str, whose: i64, now: Timestamp) -> Result<WrongCodes> {
    let wrong = connection.prepare_cached(query)?.query_row(params![whose, now.as_unix()], |row| {
        Ok(WrongCodes { count: row.get(0)?, first_ends: convert::optional_time(row, 1)?.unwrap_or(now) })
    })?;
    Ok(wrong)
}

/// Takes an unfinished upload out of sight. Its rows follow with `delete_forgotten`.
fn drop_upload(connection: &Connection, upload: UploadKey) -> Result<()> {
    connection
        .prepare_cached("UPDATE upload SET account = NULL, forget_at = 0 WHERE id = ?1 AND finished IS NULL")?
        .execute([upload.0])?;
    Ok(())
}

fn form(row: &Row<'_>, column: usize) -> rusqlite::Result<CodeForm> {
    match row.get(column)? {
        6 => Ok(CodeForm::Six),
        8 => Ok(CodeForm::Eight),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}

const fn characters(form: CodeForm) -> i64 {
    match form {
        CodeForm::Six => 6,
        CodeForm::Eight => 8,
    }
}

const WRONG_BY_ACCOUNT: &str = "SELECT count(*), min(forget_at) FROM wrong_code WHERE account = ?1 AND +forget_at > ?2";

const WRONG_OF_FORM: &str = "SELECT count(*), min(forget_at) FROM wrong_code WHERE characters = ?1 AND forget_at > ?2";
