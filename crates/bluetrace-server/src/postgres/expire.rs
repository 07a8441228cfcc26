//! Owns deleting what is forgotten. Rows that another server is deleting are passed over, so that servers share the work and
//! never wait for each other.

use bluetrace_authority::store::{Expired, MAX_EXPIRED_ROWS, UploadKey};
use bluetrace_protocol::Timestamp;
use tokio_postgres::types::Type;

use super::error::Result;
use super::records;
use super::session::Session;

/// In a transaction. Deletes at most [`MAX_EXPIRED_ROWS`] rows. Records of uploads that were dropped, or whose account was
/// removed, are among them; those of uploads that are forgotten in their time go with the partition of their day.
pub(super) async fn delete_rows(session: &Session, now: Timestamp) -> Result<Expired> {
    let now = now.as_unix();
    let mut left = u64::from(MAX_EXPIRED_ROWS);
    for statement in DELETE_FORGOTTEN {
        let most = i64::try_from(left).unwrap_or(i64::MAX);
        let deleted = session.execute(statement, &[(&now, Type::INT8), (&most, Type::INT8)]).await?;
        left = left.saturating_sub(deleted);
    }
    while left > 0 {
        let dropped = session
            .row("SELECT id, durable FROM upload WHERE forget_at = 0 LIMIT 1 FOR UPDATE SKIP LOCKED", &[])
            .await?;
        let Some(row) = dropped else { break };
        let (upload, durable): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        left = left.saturating_sub(delete_upload(session, UploadKey(upload), durable, left).await?);
    }
    let more = left == 0 && session.one(IS_ANY_FORGOTTEN, &[(&now, Type::INT8)]).await?.try_get::<_, bool>(0)?;
    Ok(Expired { rows: u64::from(MAX_EXPIRED_ROWS) - left, more })
}

/// Deletes up to `most` rows of an upload, its last records first and itself at the end, and returns how many.
async fn delete_upload(session: &Session, upload: UploadKey, durable: i64, most: u64) -> Result<u64> {
    let keep = durable.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX)).max(0);
    let deleted = records::delete(session, upload, keep).await?;
    if deleted >= most {
        session
            .execute("UPDATE upload SET durable = $2 WHERE id = $1", &[(&upload.0, Type::INT8), (&keep, Type::INT8)])
            .await?;
        return Ok(deleted);
    }
    Ok(deleted + session.execute("DELETE FROM upload WHERE id = $1", &[(&upload.0, Type::INT8)]).await?)
}

/// What is forgotten at `$1`, at most `$2` rows, of each kind.
const DELETE_FORGOTTEN: [&str; 9] = [
    "DELETE FROM temp_id WHERE temp_id IN
     (SELECT temp_id FROM temp_id WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM notice WHERE (account, number) IN
     (SELECT account, number FROM notice WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM revoked_session WHERE session IN
     (SELECT session FROM revoked_session WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM stranger WHERE username IN
     (SELECT username FROM stranger WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM upload WHERE id IN
     (SELECT id FROM upload WHERE forget_at BETWEEN 1 AND $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    // upload codes and handshake PINs
    "DELETE FROM upload_code WHERE id IN
     (SELECT id FROM upload_code WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM wrong_code WHERE id IN
     (SELECT id FROM wrong_code WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    "DELETE FROM handshake_pin WHERE account IN
     (SELECT account FROM handshake_pin WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    // one-time codes, and with the last of a number its row, which counts for nothing
    "WITH numbers AS (
         DELETE FROM asking_number WHERE number IN
         (SELECT number FROM asking_number WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
     ) DELETE FROM one_time_code WHERE id IN
     (SELECT id FROM one_time_code WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
];

const IS_ANY_FORGOTTEN: &str = "SELECT EXISTS (SELECT 1 FROM temp_id WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM notice WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM revoked_session WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM stranger WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM upload WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM upload_code WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM wrong_code WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM handshake_pin WHERE forget_at <= $1)
    OR EXISTS (SELECT 1 FROM one_time_code WHERE forget_at <= $1)";
