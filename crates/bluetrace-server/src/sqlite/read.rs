//! Owns the store's questions as SQL. Each function runs within one transaction and changes nothing.

use bluetrace_authority::store::{
    AccountId, AccountSummary, Failures, ImportedTempId, LoginState, NoticeId, Owner, SessionId, SessionState, Told,
    UploadFound, UploadKey, UploadRow,
};
use bluetrace_protocol::{ExposureNotice, Moment, TempId, Timestamp, UploadId, Uploaded, Username};
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::convert;
use super::record_key::{place_of, record_keys_from};

pub(super) fn accounts(
    connection: &Connection,
    after: Option<&Username>,
    limit: u32,
    now: Moment,
) -> Result<Vec<AccountSummary>> {
    // every username is longer than the empty text
    let after = after.map_or("", Username::reveal);
    let mut query = connection.prepare_cached(
        "SELECT username, created, password_hash IS NOT NULL, in_a_row, blocked_until_ms FROM account
         WHERE username > ?1 ORDER BY username LIMIT ?2",
    )?;
    let rows = query.query_map(params![after, limit], |row| {
        Ok(AccountSummary {
            username: convert::username(row, 0)?,
            created: convert::time(row, 1)?,
            has_password: row.get(2)?,
            blocked_until: convert::failures(row, 3)?.blocked_until_after(now),
        })
    })?;
    rows.collect()
}

pub(super) fn login_state(connection: &Connection, username: &Username, now: Moment) -> Result<LoginState> {
    let account =
        connection.prepare_cached(convert::ACCOUNT)?.query_row([username.reveal()], convert::account).optional()?;
    let (account, failures) = match account {
        Some((account, failures)) => (Some(account), failures),
        None => (None, failures_of_unknown_username(connection, username, now)?),
    };
    Ok(LoginState { account, blocked_until: failures.blocked_until_after(now) })
}

/// The failures of a username, and the account they belong to, if there is one.
pub(super) fn failures(
    connection: &Connection,
    username: &Username,
    now: Moment,
) -> Result<(Option<AccountId>, Failures)> {
    let of_account = connection
        .prepare_cached("SELECT id, in_a_row, blocked_until_ms FROM account WHERE username = ?1")?
        .query_row([username.reveal()], |row| Ok((AccountId(row.get(0)?), convert::failures(row, 1)?)))
        .optional()?;
    match of_account {
        Some((id, failures)) => Ok((Some(id), failures)),
        None => Ok((None, failures_of_unknown_username(connection, username, now)?)),
    }
}

fn failures_of_unknown_username(connection: &Connection, username: &Username, now: Moment) -> Result<Failures> {
    let failures = connection
        .prepare_cached("SELECT in_a_row, blocked_until_ms FROM stranger WHERE username = ?1 AND forget_at > ?2")?
        .query_row(params![username.reveal(), now.timestamp().as_unix()], |row| convert::failures(row, 0))
        .optional()?;
    Ok(failures.unwrap_or_default())
}

pub(super) fn temp_ids(
    connection: &Connection,
    after: Option<&ImportedTempId>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<ImportedTempId>> {
    // every username, and every id, is longer than the empty text
    let (user, start, id) = after.map_or(("", i64::MIN, ""), |ImportedTempId { username, record }| {
        (username.reveal(), record.window.start().as_unix(), record.temp_id.reveal())
    });
    // `CROSS JOIN` and `+`: account by account in the order of their names, so that only one account's rows are sorted at a time
    let mut query = connection.prepare_cached(
        "SELECT t.temp_id, t.start, t.expiry, a.username FROM account AS a CROSS JOIN temp_id AS t ON t.account = a.id
         WHERE a.username >= ?1 AND (a.username > ?1 OR (t.start, t.temp_id) > (?2, ?3)) AND +t.forget_at > ?4
         ORDER BY a.username, t.start, t.temp_id LIMIT ?5",
    )?;
    let rows = query.query_map(params![user, start, id, now.as_unix(), limit], |row| {
        Ok(ImportedTempId { username: convert::username(row, 3)?, record: convert::record(row, 0)? })
    })?;
    rows.collect()
}

pub(super) fn resolve(connection: &Connection, ids: &[TempId], now: Timestamp) -> Result<Vec<Option<Owner>>> {
    let mut query = connection.prepare_cached(
        "SELECT t.account, t.start, t.expiry, a.username FROM temp_id AS t CROSS JOIN account AS a ON a.id = t.account
         WHERE t.temp_id = ?1 AND t.forget_at > ?2",
    )?;
    let owner_of = |id: &TempId| {
        let owner = query.query_row(params![id.reveal(), now.as_unix()], |row| {
            Ok(Owner {
                account: AccountId(row.get(0)?),
                username: convert::username(row, 3)?,
                window: convert::window(row, 1)?,
            })
        });
        owner.optional()
    };
    ids.iter().map(owner_of).collect()
}

/// How many of an upload's first records are durable.
pub(super) fn durable(connection: &Connection, upload: UploadKey) -> Result<u32> {
    let mut query =
        connection.prepare_cached("SELECT max(place) FROM uploaded_record WHERE place BETWEEN ?1 AND ?2")?;
    let last: Option<i64> = query.query_row(record_keys_from(upload, 0), |row| row.get(0))?;
    Ok(last.map_or(0, |last| place_of(last) + 1))
}

pub(super) fn find_upload(
    connection: &Connection,
    account: AccountId,
    upload: &UploadId,
    now: Timestamp,
) -> Result<Option<UploadFound>> {
    let mut query = connection.prepare_cached(
        "SELECT id, records, finished, counted, resolved, unknown, invalid FROM upload
         WHERE account = ?1 AND name = ?2 AND forget_at > ?3",
    )?;
    let found = query.query_row(params![account.0, upload.reveal(), now.as_unix()], |row| {
        let key = UploadKey(row.get(0)?);
        let summary = convert::finished(row, 2)?.map(|(_, summary)| summary);
        Ok(UploadFound { key, records: row.get(1)?, durable: durable(connection, key)?, summary })
    });
    found.optional()
}

pub(super) fn uploaded_records(
    connection: &Connection,
    upload: UploadKey,
    first: u32,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Uploaded>> {
    let mut visible =
        connection.prepare_cached("SELECT 1 FROM upload WHERE id = ?1 AND account IS NOT NULL AND forget_at > ?2")?;
    if !visible.exists(params![upload.0, now.as_unix()])? {
        return Ok(Vec::new());
    }
    let mut query = connection.prepare_cached(
        "SELECT temp_id, start, expiry, received, rssi, seen FROM uploaded_record
         WHERE place BETWEEN ?1 AND ?2 ORDER BY place LIMIT ?3",
    )?;
    let [first, last] = record_keys_from(upload, first);
    query.query_map(params![first, last, limit], convert::uploaded)?.collect()
}

pub(super) fn uploads(
    connection: &Connection,
    after: Option<UploadKey>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<UploadRow>> {
    let mut query = connection.prepare_cached(
        "SELECT u.id, u.name, a.username, u.records, u.begun, u.finished, u.counted, u.resolved, u.unknown, u.invalid
         FROM upload AS u CROSS JOIN account AS a ON a.id = u.account
         WHERE u.id > ?1 AND +u.forget_at > ?2 ORDER BY u.id LIMIT ?3",
    )?;
    let rows = query.query_map(params![after.map_or(0, |key| key.0), now.as_unix(), limit], |row| {
        let key = UploadKey(row.get(0)?);
        Ok(UploadRow {
            key,
            upload: convert::upload_id(row, 1)?,
            uploader: convert::username(row, 2)?,
            records: row.get(3)?,
            durable: durable(connection, key)?,
            begun: convert::time(row, 4)?,
            finished: convert::finished(row, 5)?,
        })
    })?;
    rows.collect()
}

pub(super) fn unread_notices(
    connection: &Connection,
    account: AccountId,
    limit: u32,
    now: Timestamp,
) -> Result<Option<Vec<(NoticeId, ExposureNotice)>>> {
    if !has_account(connection, account)? {
        return Ok(None);
    }
    let mut query = connection.prepare_cached(
        "SELECT id, begins, ends, advice FROM notice
         WHERE account = ?1 AND is_read = 0 AND +forget_at > ?2 ORDER BY id LIMIT ?3",
    )?;
    let rows = query.query_map(params![account.0, now.as_unix(), limit], |row| {
        let notice = ExposureNotice { from: convert::time(row, 1)?, to: convert::time(row, 2)?, advice: row.get(3)? };
        Ok((NoticeId(row.get(0)?), notice))
    })?;
    rows.collect::<Result<_>>().map(Some)
}

pub(super) fn told(
    connection: &Connection,
    uploader: AccountId,
    accounts: &[AccountId],
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Told>> {
    let mut query = connection.prepare_cached(
        "SELECT begins, ends FROM notice WHERE account = ?1 AND uploader = ?2 AND +forget_at > ?3 LIMIT ?4",
    )?;
    let mut told = Vec::new();
    for account in accounts {
        let left = i64::from(limit) - i64::try_from(told.len()).unwrap_or(i64::MAX);
        let rows = query.query_map(params![account.0, uploader.0, now.as_unix(), left.max(0)], |row| {
            Ok(Told { account: *account, from: convert::time(row, 0)?, to: convert::time(row, 1)? })
        })?;
        for row in rows {
            told.push(row?);
        }
    }
    Ok(told)
}

pub(super) fn has_account(connection: &Connection, account: AccountId) -> Result<bool> {
    connection.prepare_cached("SELECT 1 FROM account WHERE id = ?1")?.exists([account.0])
}

pub(super) fn session_state(
    connection: &Connection,
    account: AccountId,
    session: SessionId,
    now: Timestamp,
) -> Result<Option<SessionState>> {
    let mut query = connection.prepare_cached(
        "SELECT username, token_epoch,
                EXISTS (SELECT 1 FROM revoked_session WHERE session = ?2 AND forget_at > ?3)
         FROM account WHERE id = ?1",
    )?;
    let state = query.query_row(params![account.0, session.0, now.as_unix()], |row| {
        Ok(SessionState { username: convert::username(row, 0)?, token_epoch: row.get(1)?, is_revoked: row.get(2)? })
    });
    state.optional()
}

pub(super) fn import_note(connection: &Connection, name: &str) -> Result<Option<String>> {
    let mut query = connection.prepare_cached("SELECT note FROM import_note WHERE name = ?1")?;
    query.query_row([name], |row| row.get(0)).optional()
}
