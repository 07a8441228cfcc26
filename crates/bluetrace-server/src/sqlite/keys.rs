//! Owns user ids and sealing keys as SQL, and how a key's bytes are got out of the files.

use std::time::Duration;

use bluetrace_authority::store::{
    AccountId, KeyTerm, NewSealingKey, SealingKeyId, SealingKeyRow, SealingKeyState, WRAPPED_KEY_BYTES, WrappedKey,
};
use bluetrace_protocol::{Timestamp, Uid, Username};
use rusqlite::{Connection, OptionalExtension, params};

use super::convert;
use super::error::JobError;
use super::read;

type Result<T> = std::result::Result<T, JobError>;

/// How far the destruction of a key has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwritten {
    /// There never was such a key.
    Never,
    /// In the table; the write-ahead log may still hold the bytes.
    Here,
    /// In every file.
    Everywhere,
}

/// The user id of an account that has one: `None` otherwise, and where there is no such account.
pub(super) fn user_id(connection: &Connection, account: AccountId) -> rusqlite::Result<Option<Uid>> {
    let mut query = connection.prepare_cached("SELECT user_id FROM account WHERE id = ?1")?;
    let found: Option<Option<[u8; 21]>> = query.query_row([account.0], |row| row.get(0)).optional()?;
    Ok(found.flatten().map(Uid::from_bytes))
}

pub(super) fn give_user_id(connection: &Connection, account: AccountId, candidate: &Uid) -> Result<Option<Uid>> {
    let user_id = user_id(connection, account)?;
    if user_id.is_some() || !read::has_account(connection, account)? {
        return Ok(user_id);
    }
    if connection.prepare_cached("SELECT 1 FROM account WHERE user_id = ?1")?.exists([candidate.as_bytes()])? {
        return Err(JobError::Failed("the user id is another account's"));
    }
    connection
        .prepare_cached("UPDATE account SET user_id = ?2 WHERE id = ?1")?
        .execute(params![account.0, candidate.as_bytes()])?;
    Ok(Some(*candidate))
}

pub(super) fn accounts_of_user_ids(
    connection: &Connection,
    ids: &[Uid],
) -> rusqlite::Result<Vec<Option<(AccountId, Username)>>> {
    let mut query = connection.prepare_cached("SELECT id, username FROM account WHERE user_id = ?1")?;
    let account_of = |id: &Uid| {
        let account = query.query_row([id.as_bytes()], |row| Ok((AccountId(row.get(0)?), convert::username(row, 1)?)));
        account.optional()
    };
    ids.iter().map(account_of).collect()
}

pub(super) fn sealing_keys(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<SealingKeyRow>> {
    let mut query = connection.prepare_cached(
        "SELECT k.id, k.issues_from, k.issues_until, k.last_expiry, k.forget_at, k.seals, k.state,
                CASE WHEN k.state = 0 AND k.forget_at > ?1 THEN b.wrapped END
         FROM sealing_key AS k JOIN sealing_key_bytes AS b ON b.id = k.id ORDER BY k.id",
    )?;
    let rows = query.query_map([now.as_unix()], |row| {
        let term = KeyTerm {
            issues_from: convert::time(row, 1)?,
            issues_until: convert::time(row, 2)?,
            last_expiry: convert::time(row, 3)?,
            forget_at: convert::time(row, 4)?,
        };
        let wrapped: Option<[u8; WRAPPED_KEY_BYTES]> = row.get(7)?;
        let state = match (wrapped, row.get(6)?) {
            (Some(wrapped), _) => SealingKeyState::Live(WrappedKey(wrapped)),
            (None, EVERYWHERE) => SealingKeyState::Shredded,
            (None, _) => SealingKeyState::Shredding,
        };
        let seals: i64 = row.get(5)?;
        Ok(SealingKeyRow { id: SealingKeyId(row.get(0)?), term, seals: seals.unsigned_abs(), state })
    })?;
    rows.collect()
}

pub(super) fn add_sealing_key(connection: &Connection, key: &NewSealingKey) -> Result<bool> {
    let NewSealingKey { id, term, wrapped } = key;
    if connection.prepare_cached("SELECT 1 FROM sealing_key WHERE id >= ?1")?.exists([id.0])? {
        return Ok(false);
    }
    let KeyTerm { issues_from, issues_until, last_expiry, forget_at } = term;
    connection
        .prepare_cached(
            "INSERT INTO sealing_key (id, issues_from, issues_until, last_expiry, forget_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            id.0,
            issues_from.as_unix(),
            issues_until.as_unix(),
            last_expiry.as_unix(),
            forget_at.as_unix()
        ])?;
    connection
        .prepare_cached("INSERT INTO sealing_key_bytes (id, wrapped) VALUES (?1, ?2)")?
        .execute(params![id.0, wrapped.0])?;
    Ok(true)
}

pub(super) fn count_seals(connection: &Connection, counts: &[(SealingKeyId, u64)]) -> Result<()> {
    let mut add = connection.prepare_cached("UPDATE sealing_key SET seals = min(seals, ?3 - ?2) + ?2 WHERE id = ?1")?;
    for (id, seals) in counts {
        add.execute(params![id.0, i64::try_from(*seals).unwrap_or(i64::MAX), i64::MAX])?;
    }
    Ok(())
}

/// Writes zeros over a key's bytes, where they stand.
pub(super) fn overwrite(connection: &Connection, id: SealingKeyId) -> Result<Overwritten> {
    let state: Option<i64> = connection
        .prepare_cached("SELECT state FROM sealing_key WHERE id = ?1")?
        .query_row([id.0], |row| row.get(0))
        .optional()?;
    match state {
        None => Ok(Overwritten::Never),
        Some(EVERYWHERE) => Ok(Overwritten::Everywhere),
        Some(_) => {
            connection
                .prepare_cached("UPDATE sealing_key_bytes SET wrapped = ?2 WHERE id = ?1")?
                .execute(params![id.0, [0_u8; WRAPPED_KEY_BYTES]])?;
            connection.prepare_cached("UPDATE sealing_key SET state = ?2 WHERE id = ?1")?.execute([id.0, HERE])?;
            Ok(Overwritten::Here)
        }
    }
}

/// Notes that nothing of an overwritten key is left in the log.
pub(super) fn note_gone(connection: &Connection, id: SealingKeyId) -> Result<()> {
    connection.prepare_cached("UPDATE sealing_key SET state = ?2 WHERE id = ?1")?.execute([id.0, EVERYWHERE])?;
    Ok(())
}

/// Moves all that is in the write-ahead log into the database, and the log's bytes out of the file. Outside a transaction.
/// `false` if somebody reads what was before: a long export, perhaps of another process.
pub(super) fn empty_log(connection: &Connection, usual_wait: Duration) -> Result<bool> {
    // others want to write meanwhile
    connection.busy_timeout(WAIT_FOR_READERS)?;
    let is_busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    connection.busy_timeout(usual_wait)?;
    Ok(!is_busy?)
}

/// How long everybody who writes waits for those who read, when a log is to be emptied.
const WAIT_FOR_READERS: Duration = Duration::from_millis(100);

/// `state` of a key whose bytes are written over in its row.
const HERE: i64 = 1;

/// `state` of a key whose bytes are in no file.
const EVERYWHERE: i64 = 2;
