//! Owns notices as SQL. Their numbers count within the account, whose row is locked while one is given: so they are visible in
//! the order of their numbers, and none can come below one that was read.

use std::collections::BTreeMap;

use bluetrace_authority::store::{AccountId, NewNotice, NoticeId, Told};
use bluetrace_protocol::{ExposureNotice, Timestamp};
use tokio_postgres::types::Type;

use super::convert;
use super::error::Result;
use super::session::Session;

/// Locks the accounts that notices are for, as far as they are there.
pub(super) async fn lock_accounts(session: &Session, notices: &[NewNotice]) -> Result<()> {
    let ids: Vec<i64> = notices.iter().map(|notice| notice.account.0).collect();
    if !ids.is_empty() {
        // in their order, so that two who leave notices for the same accounts do not wait for each other
        let statement = "SELECT 1 FROM account WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE";
        session.rows(statement, &[(&ids, Type::INT8_ARRAY)]).await?;
    }
    Ok(())
}

/// In a transaction that has locked their accounts. Leaves the notices of an upload of `uploader`; those for accounts that are gone are
/// dropped.
pub(super) async fn leave(session: &Session, uploader: i64, notices: &[NewNotice]) -> Result<()> {
    let mut of_account: BTreeMap<i64, Vec<&NewNotice>> = BTreeMap::new();
    for notice in notices {
        of_account.entry(notice.account.0).or_default().push(notice);
    }
    if of_account.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = of_account.keys().copied().collect();
    let counts: Vec<i64> = of_account.values().map(|own| i64::try_from(own.len()).unwrap_or(i64::MAX)).collect();
    let numbered = session
        .rows(
            "UPDATE account AS a SET notices = a.notices + n.count FROM unnest($1, $2) AS n (id, count)
             WHERE a.id = n.id RETURNING a.id, a.notices",
            &[(&ids, Type::INT8_ARRAY), (&counts, Type::INT8_ARRAY)],
        )
        .await?;
    let (mut accounts, mut numbers, mut begins, mut ends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut advice, mut forget_at) = (Vec::new(), Vec::new());
    for row in &numbered {
        let (account, last): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let own = of_account.remove(&account).unwrap_or_default();
        for (number, left) in ((1..=last).rev()).zip(own.iter().rev()) {
            accounts.push(account);
            numbers.push(number);
            begins.push(left.notice.from.as_unix());
            ends.push(left.notice.to.as_unix());
            advice.push(left.notice.advice.as_str());
            forget_at.push(left.forget_at.as_unix());
        }
    }
    session
        .execute(
            "INSERT INTO notice (account, number, begins, ends, advice, forget_at, uploader)
             SELECT *, $7 FROM unnest($1, $2, $3, $4, $5, $6)",
            &[
                (&accounts, Type::INT8_ARRAY),
                (&numbers, Type::INT8_ARRAY),
                (&begins, Type::INT8_ARRAY),
                (&ends, Type::INT8_ARRAY),
                (&advice, Type::TEXT_ARRAY),
                (&forget_at, Type::INT8_ARRAY),
                (&uploader, Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

pub(super) async fn unread(
    session: &Session,
    account: AccountId,
    limit: u32,
    now: Timestamp,
) -> Result<Option<Vec<(NoticeId, ExposureNotice)>>> {
    let rows = session
        .rows(
            "SELECT n.number, n.begins, n.ends, n.advice FROM account AS a LEFT JOIN LATERAL (
                 SELECT number, begins, ends, advice FROM notice
                 WHERE account = a.id AND NOT is_read AND forget_at > $2 ORDER BY number LIMIT $3
             ) AS n ON true WHERE a.id = $1 ORDER BY n.number",
            &[(&account.0, Type::INT8), (&now.as_unix(), Type::INT8), (&i64::from(limit), Type::INT8)],
        )
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut unread = Vec::new();
    for row in &rows {
        if let Some(number) = row.try_get(0)? {
            let (from, to) = (convert::time(row, 1)?, convert::time(row, 2)?);
            unread.push((NoticeId(number), ExposureNotice { from, to, advice: row.try_get(3)? }));
        }
    }
    Ok(Some(unread))
}

pub(super) async fn mark_read(session: &Session, account: AccountId, last: NoticeId) -> Result<()> {
    session
        .execute(
            "UPDATE notice SET is_read = true WHERE account = $1 AND number <= $2 AND NOT is_read",
            &[(&account.0, Type::INT8), (&last.0, Type::INT8)],
        )
        .await?;
    Ok(())
}

pub(super) async fn told(
    session: &Session,
    uploader: AccountId,
    accounts: &[AccountId],
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Told>> {
    let accounts: Vec<i64> = accounts.iter().map(|account| account.0).collect();
    let rows = session
        .rows(
            "SELECT account, begins, ends FROM notice
             WHERE account = ANY ($1) AND uploader = $2 AND forget_at > $3 LIMIT $4",
            &[
                (&accounts, Type::INT8_ARRAY),
                (&uploader.0, Type::INT8),
                (&now.as_unix(), Type::INT8),
                (&i64::from(limit), Type::INT8),
            ],
        )
        .await?;
    let told = rows.iter().map(|row| {
        let account = AccountId(row.try_get(0)?);
        Ok(Told { account, from: convert::time(row, 1)?, to: convert::time(row, 2)? })
    });
    told.collect()
}
