//! Owns accounts, user ids, sessions and notes of imports as SQL.

use bluetrace_authority::store::{
    AccountId, AccountOpened, AccountSummary, PasswordHash, PasswordSource, SessionId, SessionState,
};
use bluetrace_protocol::{Moment, Timestamp, Uid, Username};
use tokio_postgres::types::Type;

use super::convert;
use super::error::{Result, Trouble};
use super::session::Session;

/// Done twice, it answers `Exists` for what it has opened itself.
pub(super) async fn open(
    session: &Session,
    username: &Username,
    hash: &PasswordHash,
    source: PasswordSource,
    now: Timestamp,
) -> Result<AccountOpened> {
    let imported = (source == PasswordSource::Import).then_some(&hash.0);
    let (name, now) = (username.reveal(), now.as_unix());
    for _ in 0..MOST_TRIES {
        let id = session.ids.draw();
        let made = session
            .execute(
                "WITH gone AS (DELETE FROM stranger WHERE username = $2)
                 INSERT INTO account (id, username, password_hash, imported_hash, created) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT DO NOTHING",
                &[
                    (&id, Type::INT8),
                    (&name, Type::TEXT),
                    (&hash.0, Type::TEXT),
                    (&imported, Type::TEXT),
                    (&now, Type::INT8),
                ],
            )
            .await?;
        if made > 0 {
            return Ok(AccountOpened::Opened(AccountId(id)));
        }
        let given = session
            .row(
                "UPDATE account SET password_hash = $2, imported_hash = coalesce($3, imported_hash), in_a_row = 0,
                                    blocked_until_ms = NULL
                 WHERE username = $1 AND password_hash IS NULL RETURNING id",
                &[(&name, Type::TEXT), (&hash.0, Type::TEXT), (&imported, Type::TEXT)],
            )
            .await?;
        if let Some(row) = given {
            return Ok(AccountOpened::Opened(AccountId(row.try_get(0)?)));
        }
        let found = session.row("SELECT id FROM account WHERE username = $1", &[(&name, Type::TEXT)]).await?;
        if let Some(row) = found {
            return Ok(AccountOpened::Exists(AccountId(row.try_get(0)?)));
        }
        // it was removed just now, or the number is another account's
    }
    Err(Trouble::Again)
}

pub(super) async fn change_password(
    session: &Session,
    username: &Username,
    hash: &PasswordHash,
    source: PasswordSource,
) -> Result<bool> {
    let imported = (source == PasswordSource::Import).then_some(&hash.0);
    let changed = session
        .execute(
            "UPDATE account SET password_hash = $2, imported_hash = coalesce($3, imported_hash), in_a_row = 0,
                                blocked_until_ms = NULL, token_epoch = least(token_epoch + 1, 4294967295)
             WHERE username = $1",
            &[(&username.reveal(), Type::TEXT), (&hash.0, Type::TEXT), (&imported, Type::TEXT)],
        )
        .await?;
    Ok(changed > 0)
}

/// Removes an account and, at once, all sight of what was its own. The records of its uploads follow with `expire`, since there
/// may be millions. Done twice, it answers `false` for what it has removed itself.
pub(super) async fn remove(session: &Session, username: &Username) -> Result<bool> {
    let removed = session
        .row("DELETE FROM account WHERE username = $1 RETURNING id", &[(&username.reveal(), Type::TEXT)])
        .await?;
    let Some(row) = removed else { return Ok(false) };
    let account: i64 = row.try_get(0)?;
    for statement in [
        "DELETE FROM temp_id WHERE account = $1",
        "DELETE FROM notice WHERE account = $1",
        "DELETE FROM upload_code WHERE account = $1",
        "DELETE FROM handshake_pin WHERE account = $1",
        "UPDATE upload SET account = NULL, forget_at = 0 WHERE account = $1",
    ] {
        session.execute(statement, &[(&account, Type::INT8)]).await?;
    }
    // a failed login that met the opening of the account may have left one
    session.execute("DELETE FROM stranger WHERE username = $1", &[(&username.reveal(), Type::TEXT)]).await?;
    Ok(true)
}

pub(super) async fn list(
    session: &Session,
    after: Option<&Username>,
    limit: u32,
    now: Moment,
) -> Result<Vec<AccountSummary>> {
    // every username is longer than the empty text
    let (after, limit) = (after.map_or("", Username::reveal), i64::from(limit));
    let rows = session
        .rows(
            "SELECT username, created, password_hash IS NOT NULL, in_a_row, blocked_until_ms FROM account
             WHERE username > $1 ORDER BY username LIMIT $2",
            &[(&after, Type::TEXT), (&limit, Type::INT8)],
        )
        .await?;
    let summaries = rows.iter().map(|row| {
        Ok(AccountSummary {
            username: convert::username(row, 0)?,
            created: convert::time(row, 1)?,
            has_password: row.try_get(2)?,
            blocked_until: convert::failures(row, 3)?.blocked_until_after(now),
        })
    });
    summaries.collect()
}

/// Whether there is such an account. In a transaction, whoever removes it or asks for it in the same way waits for the end of it.
pub(super) async fn lock(session: &Session, account: AccountId) -> Result<bool> {
    let statement = "SELECT 1 FROM account WHERE id = $1 FOR NO KEY UPDATE";
    let found = session.row(statement, &[(&account.0, Type::INT8)]).await?;
    Ok(found.is_some())
}

pub(super) async fn user_id(session: &Session, account: AccountId, candidate: &Uid) -> Result<Option<Uid>> {
    for _ in 0..MOST_TRIES {
        let found = session.row("SELECT user_id FROM account WHERE id = $1", &[(&account.0, Type::INT8)]).await?;
        let Some(row) = found else { return Ok(None) };
        if row.try_get::<_, Option<&[u8]>>(0)?.is_some() {
            return convert::bytes(&row, 0).map(|bytes| Some(Uid::from_bytes(bytes)));
        }
        let bytes = candidate.as_bytes().as_slice();
        let given = session
            .execute(
                "UPDATE account SET user_id = $2 WHERE id = $1 AND user_id IS NULL",
                &[(&account.0, Type::INT8), (&bytes, Type::BYTEA)],
            )
            .await;
        match given {
            Ok(0) => {}
            Ok(_) => return Ok(Some(*candidate)),
            Err(Trouble::Duplicate) => return Err(Trouble::failed("the user id is another account's")),
            Err(trouble) => return Err(trouble),
        }
    }
    Err(Trouble::Again)
}

pub(super) async fn of_user_ids(session: &Session, ids: &[Uid]) -> Result<Vec<Option<(AccountId, Username)>>> {
    let wanted: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    let rows = session
        .rows(
            "SELECT w.place, a.id, a.username FROM unnest($1) WITH ORDINALITY AS w (user_id, place)
             JOIN account AS a ON a.user_id = w.user_id",
            &[(&wanted, Type::BYTEA_ARRAY)],
        )
        .await?;
    let mut found = vec![None; ids.len()];
    for row in &rows {
        if let Some(place) = found.get_mut(convert::number::<usize>(row, 0)?.wrapping_sub(1)) {
            *place = Some((AccountId(row.try_get(1)?), convert::username(row, 2)?));
        }
    }
    Ok(found)
}

pub(super) async fn session_state(
    session: &Session,
    account: AccountId,
    asked: SessionId,
    now: Timestamp,
) -> Result<Option<SessionState>> {
    let found = session
        .row(
            "SELECT username, token_epoch,
                    EXISTS (SELECT 1 FROM revoked_session WHERE session = $2 AND forget_at > $3)
             FROM account WHERE id = $1",
            &[(&account.0, Type::INT8), (&asked.0.as_slice(), Type::BYTEA), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    let state = found.map(|row| {
        Ok(SessionState {
            username: convert::username(&row, 0)?,
            token_epoch: convert::number(&row, 1)?,
            is_revoked: row.try_get(2)?,
        })
    });
    state.transpose()
}

pub(super) async fn revoke_session(session: &Session, ended: SessionId, until: Timestamp) -> Result<()> {
    session
        .execute(
            "INSERT INTO revoked_session AS r (session, forget_at) VALUES ($1, $2)
             ON CONFLICT (session) DO UPDATE SET forget_at = greatest(r.forget_at, excluded.forget_at)",
            &[(&ended.0.as_slice(), Type::BYTEA), (&until.as_unix(), Type::INT8)],
        )
        .await?;
    Ok(())
}

pub(super) async fn import_note(session: &Session, name: &str) -> Result<Option<String>> {
    let found = session.row("SELECT note FROM import_note WHERE name = $1", &[(&name, Type::TEXT)]).await?;
    found.map(|row| Ok(row.try_get(0)?)).transpose()
}

pub(super) async fn note_import(session: &Session, name: &str, note: &str) -> Result<()> {
    session
        .execute(
            "INSERT INTO import_note (name, note) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET note = excluded.note",
            &[(&name, Type::TEXT), (&note, Type::TEXT)],
        )
        .await?;
    Ok(())
}

/// How often something is looked at anew that somebody else has changed meanwhile.
const MOST_TRIES: usize = 5;
