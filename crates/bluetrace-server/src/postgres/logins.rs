//! Owns failed logins as SQL. No row is locked while the rule decides: what it decided is written only where the row is still what
//! it was judged by, and judged anew where it is not. So failures are counted exactly over all servers, in one statement each.

use bluetrace_authority::store::{Failures, Lockout, LoginRecorded, LoginState, MAX_UNKNOWN_USERNAMES, Verdict};
use bluetrace_protocol::{Moment, Username};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::convert;
use super::error::{Result, Trouble};
use super::session::Session;

pub(super) async fn state(session: &Session, username: &Username, now: Moment) -> Result<LoginState> {
    let row = look(session, username, now).await?;
    let account = row.try_get::<_, Option<i64>>(0)?.map(|_| convert::account(&row)).transpose()?;
    Ok(LoginState { account, blocked_until: failures(&row)?.blocked_until_after(now) })
}

/// Done twice, it counts twice: somebody is blocked one wrong password early, at the worst.
pub(super) async fn record(
    session: &Session,
    username: &Username,
    verdict: Verdict,
    rule: Lockout,
    now: Moment,
) -> Result<LoginRecorded> {
    for _ in 0..MOST_TRIES {
        let row = look(session, username, now).await?;
        let account: Option<i64> = row.try_get(0)?;
        let before = failures(&row)?;
        let (recorded, after) = rule.judge(before, if account.is_some() { verdict } else { Verdict::Wrong }, now);
        if after == before {
            return Ok(recorded);
        }
        let is_written = match account {
            Some(account) => write(session, account, before, after).await?,
            None => write_unknown(session, username, before, after, now).await?,
        };
        if is_written {
            if account.is_none() && !row.try_get::<_, bool>(10)? {
                make_room(session).await?;
            }
            return Ok(recorded);
        }
    }
    Err(Trouble::Again)
}

/// One row: an account in six columns and its failures in two, or NULLs; then the failures of an unknown username in two, and
/// whether there is a row of those, forgotten or not.
async fn look(session: &Session, username: &Username, now: Moment) -> Result<Row> {
    session
        .one(
            "SELECT a.id, a.username, a.password_hash, a.imported_hash, a.token_epoch, a.created, a.in_a_row,
                    a.blocked_until_ms, CASE WHEN s.forget_at > $2 THEN s.in_a_row END,
                    CASE WHEN s.forget_at > $2 THEN s.blocked_until_ms END, s.username IS NOT NULL
             FROM (SELECT $1::text COLLATE \"C\" AS username) AS n
             LEFT JOIN account AS a ON a.username = n.username LEFT JOIN stranger AS s ON s.username = n.username",
            &[(&username.reveal(), Type::TEXT), (&now.timestamp().as_unix(), Type::INT8)],
        )
        .await
}

fn failures(row: &Row) -> Result<Failures> {
    let is_known = row.try_get::<_, Option<i64>>(0)?.is_some();
    convert::failures(row, if is_known { 6 } else { 8 })
}

async fn write(session: &Session, account: i64, before: Failures, after: Failures) -> Result<bool> {
    let [(in_a_row, until), (in_a_row_after, until_after)] = [before, after].map(columns);
    let changed = session
        .execute(
            "UPDATE account SET in_a_row = $4, blocked_until_ms = $5
             WHERE id = $1 AND in_a_row = $2 AND blocked_until_ms IS NOT DISTINCT FROM $3",
            &[
                (&account, Type::INT8),
                (&in_a_row, Type::INT8),
                (&until, Type::INT8),
                (&in_a_row_after, Type::INT8),
                (&until_after, Type::INT8),
            ],
        )
        .await?;
    Ok(changed > 0)
}

async fn write_unknown(
    session: &Session,
    username: &Username,
    before: Failures,
    after: Failures,
    now: Moment,
) -> Result<bool> {
    let [(in_a_row, until), (in_a_row_after, until_after)] = [before, after].map(columns);
    let forget_at = after.forgotten_at(now).as_unix();
    let changed = session
        .execute(
            "INSERT INTO stranger AS s (username, in_a_row, blocked_until_ms, forget_at)
             SELECT $1, $4, $5, $6 WHERE NOT EXISTS (SELECT 1 FROM account WHERE username = $1)
             ON CONFLICT (username) DO UPDATE SET in_a_row = excluded.in_a_row, failed_at = clock_timestamp(),
                 blocked_until_ms = excluded.blocked_until_ms, forget_at = excluded.forget_at
             WHERE CASE WHEN s.forget_at > $7 THEN s.in_a_row ELSE 0 END = $2
                 AND CASE WHEN s.forget_at > $7 THEN s.blocked_until_ms END IS NOT DISTINCT FROM $3",
            &[
                (&username.reveal(), Type::TEXT),
                (&in_a_row, Type::INT8),
                (&until, Type::INT8),
                (&in_a_row_after, Type::INT8),
                (&until_after, Type::INT8),
                (&forget_at, Type::INT8),
                (&now.timestamp().as_unix(), Type::INT8),
            ],
        )
        .await?;
    Ok(changed > 0)
}

/// Sees to it that there are not too many unknown usernames. They are counted only as often as could matter: a server that has room
/// for `n` counts again after `n / 64` new ones, so that up to 64 servers keep the bound together.
async fn make_room(session: &Session) -> Result<()> {
    if session.ids.may_add_stranger() {
        return Ok(());
    }
    let most = i64::from(MAX_UNKNOWN_USERNAMES);
    // counted and deleted in one statement, so that nobody who does the same meanwhile deletes for both
    let counted = session
        .one(
            "WITH counted AS (SELECT count(*) AS strangers FROM stranger), gone AS (
                 DELETE FROM stranger WHERE username IN (
                     SELECT username FROM stranger ORDER BY failed_at
                     LIMIT greatest((SELECT strangers FROM counted) - $1, 0)))
             SELECT strangers FROM counted",
            &[(&most, Type::INT8)],
        )
        .await?;
    session.ids.note_room_for_strangers((most - counted.try_get::<_, i64>(0)?) / 64);
    Ok(())
}

fn columns(failures: Failures) -> (i64, Option<i64>) {
    (failures.in_a_row.into(), failures.blocked_until.map(Moment::as_unix_ms))
}

/// How often an attempt is judged anew because another one was written first.
const MOST_TRIES: usize = 50;
