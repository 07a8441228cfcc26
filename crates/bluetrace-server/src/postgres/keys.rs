//! Owns sealing keys as SQL, and how far a key's bytes can be got out of a PostgreSQL server.
//!
//! What is destroyed: the table with the bytes is written anew, without the key's, into a new file, and the old file is deleted
//! (`TRUNCATE`; a mere `UPDATE` or `VACUUM` leaves old rows in the pages). The transaction does not end before that is durable.
//!
//! What is not, since no statement reaches it: the write-ahead log from the time when the key was stored, until the server
//! reuses or deletes those files; archives of it, backups and standbys that lag; and what a disk keeps of a deleted file. All of
//! these hold the key under the master key's, and are worth nothing to who has not that.

use bluetrace_authority::store::{
    KeyTerm, NewSealingKey, SealingKeyId, SealingKeyRow, SealingKeyState, Shredded, WRAPPED_KEY_BYTES, WrappedKey,
};
use bluetrace_protocol::Timestamp;
use tokio_postgres::types::Type;

use super::convert;
use super::error::{Result, Trouble};
use super::session::Session;

pub(super) async fn list(session: &Session, now: Timestamp) -> Result<Vec<SealingKeyRow>> {
    let rows = session
        .rows(
            "SELECT k.id, k.issues_from, k.issues_until, k.last_expiry, k.forget_at, k.seals, k.state,
                    CASE WHEN k.state = 0 AND k.forget_at > $1 THEN b.wrapped END
             FROM sealing_key AS k LEFT JOIN sealing_key_bytes AS b ON b.id = k.id ORDER BY k.id",
            &[(&now.as_unix(), Type::INT8)],
        )
        .await?;
    let keys = rows.iter().map(|row| {
        let term = KeyTerm {
            issues_from: convert::time(row, 1)?,
            issues_until: convert::time(row, 2)?,
            last_expiry: convert::time(row, 3)?,
            forget_at: convert::time(row, 4)?,
        };
        let state = match (row.try_get::<_, Option<&[u8]>>(7)?, row.try_get::<_, i16>(6)?) {
            (Some(_), _) => SealingKeyState::Live(WrappedKey(convert::bytes::<WRAPPED_KEY_BYTES>(row, 7)?)),
            (None, IN_NO_FILE) => SealingKeyState::Shredded,
            (None, _) => SealingKeyState::Shredding,
        };
        Ok(SealingKeyRow { id: SealingKeyId(row.try_get(0)?), term, seals: convert::number(row, 5)?, state })
    });
    keys.collect()
}

/// In a transaction. Done twice, it answers `false` for what it has added itself, which whoever looks for keys then finds.
pub(super) async fn add(session: &Session, key: &NewSealingKey) -> Result<bool> {
    let NewSealingKey { id, term, wrapped } = key;
    // keys are added one after the other
    session.execute("SELECT 1 FROM latch WHERE name = 'keys' FOR UPDATE", &[]).await?;
    let KeyTerm { issues_from, issues_until, last_expiry, forget_at } = term;
    let added = session
        .execute(
            "INSERT INTO sealing_key (id, issues_from, issues_until, last_expiry, forget_at)
             SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT 1 FROM sealing_key WHERE id >= $1)",
            &[
                (&id.0, Type::INT8),
                (&issues_from.as_unix(), Type::INT8),
                (&issues_until.as_unix(), Type::INT8),
                (&last_expiry.as_unix(), Type::INT8),
                (&forget_at.as_unix(), Type::INT8),
            ],
        )
        .await?;
    if added == 0 {
        return Ok(false);
    }
    session
        .execute(
            "INSERT INTO sealing_key_bytes (id, wrapped) VALUES ($1, $2)",
            &[(&id.0, Type::INT8), (&wrapped.0.as_slice(), Type::BYTEA)],
        )
        .await?;
    Ok(true)
}

/// Done twice, it counts twice: what is counted bounds the use of a key from above.
pub(super) async fn count_seals(session: &Session, counts: &[(SealingKeyId, u64)]) -> Result<()> {
    let ids: Vec<i64> = counts.iter().map(|(id, _)| id.0).collect();
    let seals: Vec<i64> = counts.iter().map(|(_, seals)| i64::try_from(*seals).unwrap_or(i64::MAX)).collect();
    session
        .execute(
            "UPDATE sealing_key AS k SET seals = least(k.seals::numeric + c.seals, 9223372036854775807)::bigint
             FROM (SELECT id, sum(seals) AS seals FROM unnest($1, $2) AS n (id, seals) GROUP BY id) AS c
             WHERE k.id = c.id",
            &[(&ids, Type::INT8_ARRAY), (&seals, Type::INT8_ARRAY)],
        )
        .await?;
    Ok(())
}

/// Puts a key's bytes out of reach, at once and whatever else is going on. `None` if there never was such a key.
pub(super) async fn put_out_of_reach(session: &Session, id: SealingKeyId) -> Result<Option<Shredded>> {
    let found = session
        .row("UPDATE sealing_key SET state = greatest(state, 1) WHERE id = $1 RETURNING state", &[(&id.0, Type::INT8)])
        .await?;
    let state = found.map(|row| row.try_get::<_, i16>(0)).transpose()?;
    Ok(state.map(|state| if state == IN_NO_FILE { Shredded::Done } else { Shredded::Unfinished }))
}

/// In a transaction. Writes the bytes of all keys that are not out of reach to a new file.
pub(super) async fn write_anew(session: &Session) -> Result<Shredded> {
    // one that reads the table for long, a backup perhaps, must not make all servers wait behind this
    session.batch("SET LOCAL lock_timeout = 2000").await?;
    match session.batch("LOCK TABLE sealing_key_bytes IN ACCESS EXCLUSIVE MODE").await {
        Err(Trouble::Locked) => {
            session.batch("ROLLBACK; BEGIN").await?;
            return Ok(Shredded::Unfinished);
        }
        outcome => outcome?,
    }
    let kept = session
        .rows(
            "SELECT b.id, b.wrapped FROM sealing_key_bytes AS b JOIN sealing_key AS k ON k.id = b.id WHERE k.state = 0",
            &[],
        )
        .await?;
    session.batch("TRUNCATE sealing_key_bytes").await?;
    for row in &kept {
        session
            .execute(
                "INSERT INTO sealing_key_bytes (id, wrapped) VALUES ($1, $2)",
                &[(&row.try_get::<_, i64>(0)?, Type::INT8), (&row.try_get::<_, &[u8]>(1)?, Type::BYTEA)],
            )
            .await?;
    }
    session.execute("UPDATE sealing_key SET state = 2 WHERE state = 1", &[]).await?;
    Ok(Shredded::Done)
}

/// `state` of a key whose bytes are in no file of a table.
const IN_NO_FILE: i16 = 2;
