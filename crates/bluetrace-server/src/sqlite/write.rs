//! Owns the store's changes as SQL. Each function runs within one transaction, and may be run again after a rollback.

use bluetrace_authority::store::{
    AccountId, AccountOpened, Appended, CodeCheck, Expired, Failures, ImportedTempId, Lockout, LoginRecorded,
    MAX_EXPIRED_ROWS, MAX_UNKNOWN_USERNAMES, NewNotice, NoticeId, PasswordHash, PasswordSource, SessionId,
    TempIdImported, TempIdsIssued, UploadBegun, UploadCompleted, UploadKey, UploadRequest, Verdict,
};
use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::{Moment, Record, Timestamp, UploadSummary, Uploaded, Username};
use rusqlite::{Connection, OptionalExtension, params};

use super::codes::{self, Redemption};
use super::convert;
use super::error::JobError;
use super::read;
use super::record_key::{record_key, record_keys_from};

type Result<T> = std::result::Result<T, JobError>;

pub(super) fn open_account(
    connection: &Connection,
    username: &Username,
    hash: &PasswordHash,
    source: PasswordSource,
    now: Timestamp,
) -> Result<AccountOpened> {
    let id = match account_named(connection, username)? {
        Some((id, true)) => return Ok(AccountOpened::Exists(id)),
        Some((id, false)) => id,
        None => create_account(connection, username, now)?,
    };
    set_password(connection, id, hash, source, 0)?;
    Ok(AccountOpened::Opened(id))
}

pub(super) fn change_password(
    connection: &Connection,
    username: &Username,
    hash: &PasswordHash,
    source: PasswordSource,
) -> Result<bool> {
    let Some((id, _)) = account_named(connection, username)? else { return Ok(false) };
    set_password(connection, id, hash, source, 1)?;
    Ok(true)
}

/// Removes an account and, at once, all sight of what was its own. The rows of its uploads follow with
/// [`delete_forgotten`], since there may be millions.
pub(super) fn remove_account(connection: &Connection, username: &Username) -> Result<bool> {
    let Some((AccountId(id), _)) = account_named(connection, username)? else { return Ok(false) };
    connection.prepare_cached("DELETE FROM account WHERE id = ?1")?.execute([id])?;
    connection.prepare_cached("DELETE FROM temp_id WHERE account = ?1")?.execute([id])?;
    connection.prepare_cached("DELETE FROM notice WHERE account = ?1")?.execute([id])?;
    codes::remove_account(connection, AccountId(id))?;
    connection.prepare_cached("UPDATE upload SET account = NULL, forget_at = 0 WHERE account = ?1")?.execute([id])?;
    Ok(true)
}

pub(super) fn record_login(
    connection: &Connection,
    username: &Username,
    verdict: Verdict,
    rule: Lockout,
    now: Moment,
) -> Result<LoginRecorded> {
    let (account, before) = read::failures(connection, username, now)?;
    let (recorded, failures) = judge(account, before, verdict, rule, now);
    if failures == before {
        return Ok(recorded);
    }
    let blocked_until_ms = failures.blocked_until.map(Moment::as_unix_ms);
    if let Some(AccountId(id)) = account {
        connection
            .prepare_cached("UPDATE account SET in_a_row = ?2, blocked_until_ms = ?3 WHERE id = ?1")?
            .execute(params![id, failures.in_a_row, blocked_until_ms])?;
        return Ok(recorded);
    }
    forget_unknown_username(connection, username)?;
    let strangers: u32 = connection.prepare_cached("SELECT strangers FROM tally")?.query_row([], |row| row.get(0))?;
    if strangers >= MAX_UNKNOWN_USERNAMES {
        connection.prepare_cached("DELETE FROM stranger WHERE age = (SELECT min(age) FROM stranger)")?.execute([])?;
    }
    connection
        .prepare_cached(
            "INSERT INTO stranger (username, in_a_row, blocked_until_ms, forget_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            username.reveal(),
            failures.in_a_row,
            blocked_until_ms,
            failures.forgotten_at(now).as_unix()
        ])?;
    Ok(recorded)
}

/// What [`record_login`] finds if it need not change anything, so that it need not be asked.
pub(super) fn login_without_a_trace(
    connection: &Connection,
    username: &Username,
    verdict: Verdict,
    rule: Lockout,
    now: Moment,
) -> Result<Option<LoginRecorded>> {
    let (account, before) = read::failures(connection, username, now)?;
    let (recorded, failures) = judge(account, before, verdict, rule, now);
    Ok((failures == before).then_some(recorded))
}

fn judge(
    account: Option<AccountId>,
    before: Failures,
    verdict: Verdict,
    rule: Lockout,
    now: Moment,
) -> (LoginRecorded, Failures) {
    rule.judge(before, if account.is_some() { verdict } else { Verdict::Wrong }, now)
}

pub(super) fn issue_temp_ids(
    connection: &Connection,
    account: AccountId,
    ids: &[Record],
    forget_at: Timestamp,
) -> Result<TempIdsIssued> {
    if !read::has_account(connection, account)? {
        return Ok(TempIdsIssued::NoAccount);
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO temp_id (temp_id, account, start, expiry, forget_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?;
    let mut taken = Vec::new();
    for (place, Record { temp_id, window }) in ids.iter().enumerate() {
        let (start, expiry) = (window.start().as_unix(), window.expiry().as_unix());
        if insert.execute(params![temp_id.reveal(), account.0, start, expiry, forget_at.as_unix()])? == 0 {
            taken.push(place);
        }
    }
    if taken.is_empty() {
        return Ok(TempIdsIssued::Issued);
    }
    let mut delete = connection.prepare_cached("DELETE FROM temp_id WHERE temp_id = ?1")?;
    let mut taken_places = taken.iter().peekable();
    for (place, Record { temp_id, .. }) in ids.iter().enumerate() {
        if taken_places.next_if_eq(&&place).is_none() {
            delete.execute([temp_id.reveal()])?;
        }
    }
    Ok(TempIdsIssued::Taken(taken))
}

pub(super) fn import_temp_ids(
    connection: &Connection,
    lines: &[ImportedTempId],
    forget_at: Timestamp,
    now: Timestamp,
) -> Result<Vec<TempIdImported>> {
    lines.iter().map(|line| import_temp_id(connection, line, forget_at, now)).collect()
}

fn import_temp_id(
    connection: &Connection,
    line: &ImportedTempId,
    forget_at: Timestamp,
    now: Timestamp,
) -> Result<TempIdImported> {
    let Record { temp_id, window } = &line.record;
    let known: Option<i64> = connection
        .prepare_cached("SELECT account FROM temp_id WHERE temp_id = ?1 AND forget_at > ?2")?
        .query_row(params![temp_id.reveal(), now.as_unix()], |row| row.get(0))
        .optional()?;
    let account = account_named(connection, &line.username)?.map(|(id, _)| id);
    let AccountId(account) = match (known, account) {
        (Some(owner), Some(AccountId(account))) if owner == account => return Ok(TempIdImported::Known),
        (Some(_), _) => return Ok(TempIdImported::ClaimedByAnother),
        (None, Some(account)) => account,
        (None, None) => create_account(connection, &line.username, now)?,
    };
    let (start, expiry) = (window.start().as_unix(), window.expiry().as_unix());
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO temp_id (temp_id, account, start, expiry, forget_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![temp_id.reveal(), account, start, expiry, forget_at.as_unix()])?;
    Ok(TempIdImported::Added)
}

pub(super) fn begin_upload(connection: &Connection, request: &UploadRequest, now: Timestamp) -> Result<UploadBegun> {
    let UploadRequest { account: AccountId(account), upload, records, forget_at, code } = request;
    let check_code = || codes::check(connection, AccountId(*account), upload, *code, now);
    let redeem = |code, key| {
        let upload = Some(key);
        codes::redeem(connection, code, Redemption { account: AccountId(*account), upload, forget_at: *forget_at }, now)
    };
    if *records > MAX_UPLOAD_RECORDS {
        return Err(JobError::Failed("an upload of so many records"));
    }
    let found = connection
        .prepare_cached(
            "SELECT id, records, forget_at, finished, counted, resolved, unknown, invalid FROM upload
             WHERE account = ?1 AND name = ?2",
        )?
        .query_row(params![account, upload.reveal()], |row| {
            let begun_with: u32 = row.get(1)?;
            Ok((UploadKey(row.get(0)?), begun_with, convert::time(row, 2)?, convert::finished(row, 3)?))
        })
        .optional()?;
    match found {
        Some((key, begun_with, forgotten, finished)) if now < forgotten => {
            if begun_with != *records {
                return Ok(UploadBegun::Conflict { records: begun_with });
            }
            let needs_code = *code != CodeCheck::NotRequired && finished.is_none();
            if needs_code && !codes::lets_in(connection, key, now)? {
                match check_code()? {
                    Ok(code) => redeem(code, key)?,
                    Err(refused) => return Ok(refused),
                }
            }
            let durable = read::durable(connection, key)?;
            return Ok(UploadBegun::Open { key, durable, summary: finished.map(|(_, summary)| summary) });
        }
        None if !read::has_account(connection, AccountId(*account))? => return Ok(UploadBegun::NoAccount),
        Some(_) | None => {}
    }
    let code = match check_code()? {
        Ok(code) => code,
        Err(refused) => return Ok(refused),
    };
    if let Some((UploadKey(forgotten), ..)) = found {
        connection.prepare_cached("UPDATE upload SET account = NULL WHERE id = ?1")?.execute([forgotten])?;
    }
    connection
        .prepare_cached("INSERT INTO upload (account, name, records, begun, forget_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![account, upload.reveal(), records, now.as_unix(), forget_at.as_unix()])?;
    let key = UploadKey(connection.last_insert_rowid());
    redeem(code, key)?;
    Ok(UploadBegun::Open { key, durable: 0, summary: None })
}

pub(super) fn append_records(
    connection: &Connection,
    upload: UploadKey,
    first: u32,
    records: &[Uploaded],
) -> Result<Option<Appended>> {
    let total: Option<u32> = connection
        .prepare_cached("SELECT records FROM upload WHERE id = ?1 AND account IS NOT NULL")?
        .query_row([upload.0], |row| row.get(0))
        .optional()?;
    let Some(total) = total else { return Ok(None) };
    let before = read::durable(connection, upload)?;
    let known = before.checked_sub(first).ok_or(JobError::Failed("records before these are missing"))?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO uploaded_record (place, temp_id, start, expiry, received, rssi, seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let new = records.iter().skip(usize::try_from(known).unwrap_or(usize::MAX));
    let mut durable = before;
    for record in new.take(usize::try_from(total.saturating_sub(durable)).unwrap_or(usize::MAX)) {
        let place = record_key(upload, durable);
        match record {
            Uploaded::Malformed => insert.execute(params![
                place,
                None::<&str>,
                None::<i64>,
                None::<i64>,
                None::<i64>,
                None::<i16>,
                None::<u32>
            ])?,
            Uploaded::Record(heard) => insert.execute(params![
                place,
                heard.record.temp_id.reveal(),
                heard.record.window.start().as_unix(),
                heard.record.window.expiry().as_unix(),
                heard.received.map(Timestamp::as_unix),
                heard.rssi,
                heard.seen,
            ])?,
        };
        durable += 1;
    }
    Ok(Some(Appended { before, durable }))
}

pub(super) fn complete_upload(
    connection: &Connection,
    upload: UploadKey,
    summary: UploadSummary,
    notices: &[NewNotice],
    now: Timestamp,
) -> Result<UploadCompleted> {
    let found: Option<(i64, Option<i64>)> = connection
        .prepare_cached("SELECT account, finished FROM upload WHERE id = ?1 AND account IS NOT NULL")?
        .query_row([upload.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let uploader = match found {
        None => return Ok(UploadCompleted::NoUpload),
        Some((_, Some(_))) => return Ok(UploadCompleted::Before),
        Some((uploader, None)) => uploader,
    };
    connection
        .prepare_cached(
            "UPDATE upload SET finished = ?2, counted = ?3, resolved = ?4, unknown = ?5, invalid = ?6 WHERE id = ?1",
        )?
        .execute(params![
            upload.0,
            now.as_unix(),
            summary.records,
            summary.resolved,
            summary.unknown,
            summary.invalid
        ])?;
    codes::complete(connection, upload)?;
    let mut leave = connection.prepare_cached(
        "INSERT INTO notice (account, uploader, begins, ends, advice, forget_at)
         SELECT id, ?6, ?2, ?3, ?4, ?5 FROM account WHERE id = ?1",
    )?;
    for NewNotice { account, notice, forget_at } in notices {
        let (from, to) = (notice.from.as_unix(), notice.to.as_unix());
        leave.execute(params![account.0, from, to, notice.advice, forget_at.as_unix(), uploader])?;
    }
    Ok(UploadCompleted::Now)
}

pub(super) fn mark_notices_read(connection: &Connection, account: AccountId, last: NoticeId) -> Result<()> {
    connection
        .prepare_cached("UPDATE notice SET is_read = 1 WHERE account = ?1 AND id <= ?2 AND is_read = 0")?
        .execute([account.0, last.0])?;
    Ok(())
}

pub(super) fn revoke_session(connection: &Connection, session: SessionId, until: Timestamp) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO revoked_session (session, forget_at) VALUES (?1, ?2)
             ON CONFLICT (session) DO UPDATE SET forget_at = max(forget_at, excluded.forget_at)",
        )?
        .execute(params![session.0, until.as_unix()])?;
    Ok(())
}

pub(super) fn note_import(connection: &Connection, name: &str, note: &str) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO import_note (name, note) VALUES (?1, ?2)")?
        .execute([name, note])?;
    Ok(())
}

/// Deletes at most [`MAX_EXPIRED_ROWS`] rows that are forgotten at `now`.
pub(super) fn delete_forgotten(connection: &Connection, now: Timestamp) -> Result<Expired> {
    let now = now.as_unix();
    let mut left = usize::try_from(MAX_EXPIRED_ROWS).unwrap_or(usize::MAX);
    for statement in DELETE_FORGOTTEN {
        left = left.saturating_sub(connection.prepare_cached(statement)?.execute(params![now, left_as_i64(left)])?);
    }
    let mut next = connection.prepare_cached("SELECT id FROM upload WHERE forget_at <= ?1 LIMIT 1")?;
    while left > 0
        && let Some(upload) = next.query_row([now], |row| row.get(0).map(UploadKey)).optional()?
    {
        left = left.saturating_sub(delete_upload(connection, upload, left)?);
    }
    let deleted = MAX_EXPIRED_ROWS.saturating_sub(u32::try_from(left).unwrap_or(0));
    let more = left == 0 && connection.prepare_cached(IS_ANY_FORGOTTEN)?.exists([now])?;
    Ok(Expired { rows: u64::from(deleted), more })
}

/// Deletes up to `most` rows of an upload, its last records first and itself at the end, and returns how many.
fn delete_upload(connection: &Connection, upload: UploadKey, most: usize) -> Result<usize> {
    let keep = read::durable(connection, upload)?.saturating_sub(u32::try_from(most).unwrap_or(u32::MAX));
    let deleted = connection
        .prepare_cached("DELETE FROM uploaded_record WHERE place BETWEEN ?1 AND ?2")?
        .execute(record_keys_from(upload, keep))?;
    if deleted >= most {
        return Ok(deleted);
    }
    Ok(deleted + connection.prepare_cached("DELETE FROM upload WHERE id = ?1")?.execute([upload.0])?)
}

/// The account of that name, and whether it has a password.
fn account_named(connection: &Connection, username: &Username) -> Result<Option<(AccountId, bool)>> {
    let mut query =
        connection.prepare_cached("SELECT id, password_hash IS NOT NULL FROM account WHERE username = ?1")?;
    Ok(query.query_row([username.reveal()], |row| Ok((AccountId(row.get(0)?), row.get(1)?))).optional()?)
}

pub(super) fn create_account(connection: &Connection, username: &Username, now: Timestamp) -> Result<AccountId> {
    forget_unknown_username(connection, username)?;
    connection
        .prepare_cached("INSERT INTO account (username, created) VALUES (?1, ?2)")?
        .execute(params![username.reveal(), now.as_unix()])?;
    Ok(AccountId(connection.last_insert_rowid()))
}

pub(super) fn set_password(
    connection: &Connection,
    account: AccountId,
    hash: &PasswordHash,
    source: PasswordSource,
    epochs: u32,
) -> Result<()> {
    connection
        .prepare_cached(
            "UPDATE account SET password_hash = ?2, imported_hash = iif(?3, ?2, imported_hash), in_a_row = 0,
                                blocked_until_ms = NULL, token_epoch = min(token_epoch + ?4, 4294967295)
             WHERE id = ?1",
        )?
        .execute(params![account.0, hash.0, source == PasswordSource::Import, epochs])?;
    Ok(())
}

fn forget_unknown_username(connection: &Connection, username: &Username) -> Result<()> {
    connection.prepare_cached("DELETE FROM stranger WHERE username = ?1")?.execute([username.reveal()])?;
    Ok(())
}

fn left_as_i64(left: usize) -> i64 {
    i64::try_from(left).unwrap_or(i64::MAX)
}

/// What is forgotten at `?1`, at most `?2` rows, of each kind but uploads.
const DELETE_FORGOTTEN: [&str; 8] = [
    "DELETE FROM temp_id WHERE temp_id IN (SELECT temp_id FROM temp_id WHERE forget_at <= ?1 LIMIT ?2)",
    "DELETE FROM notice WHERE id IN (SELECT id FROM notice WHERE forget_at <= ?1 LIMIT ?2)",
    "DELETE FROM revoked_session
     WHERE session IN (SELECT session FROM revoked_session WHERE forget_at <= ?1 LIMIT ?2)",
    "DELETE FROM stranger WHERE age IN (SELECT age FROM stranger WHERE forget_at <= ?1 LIMIT ?2)",
    // upload codes and handshake PINs
    "DELETE FROM upload_code WHERE id IN (SELECT id FROM upload_code WHERE forget_at <= ?1 LIMIT ?2)",
    "DELETE FROM wrong_code WHERE id IN (SELECT id FROM wrong_code WHERE forget_at <= ?1 LIMIT ?2)",
    "DELETE FROM handshake_pin WHERE account IN (SELECT account FROM handshake_pin WHERE forget_at <= ?1 LIMIT ?2)",
    // registrations
    "DELETE FROM one_time_code WHERE id IN (SELECT id FROM one_time_code WHERE forget_at <= ?1 LIMIT ?2)",
];

const IS_ANY_FORGOTTEN: &str = "SELECT 1 WHERE EXISTS (SELECT 1 FROM temp_id WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM notice WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM revoked_session WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM stranger WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM upload_code WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM wrong_code WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM handshake_pin WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM one_time_code WHERE forget_at <= ?1)
    OR EXISTS (SELECT 1 FROM upload WHERE forget_at <= ?1)";
