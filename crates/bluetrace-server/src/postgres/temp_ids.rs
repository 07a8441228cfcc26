//! Owns `TempIDs` as SQL.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bluetrace_authority::store::{AccountId, ImportedTempId, Owner, TempIdImported, TempIdsIssued};
use bluetrace_protocol::{Record, TempId, Timestamp, Username};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::convert;
use super::error::{Result, Trouble};
use super::session::Session;

/// In a transaction. Done twice, it answers that they are taken: they are, by the same account.
pub(super) async fn issue(
    session: &Session,
    account: AccountId,
    ids: &[Record],
    forget_at: Timestamp,
) -> Result<TempIdsIssued> {
    // an account that is being removed is waited for; others who issue are not
    let found = session.row("SELECT 1 FROM account WHERE id = $1 FOR KEY SHARE", &[(&account.0, Type::INT8)]).await?;
    if found.is_none() {
        return Ok(TempIdsIssued::NoAccount);
    }
    // in their order, so that two who want the same ones do not wait for each other
    let mut distinct = BTreeMap::new();
    for (place, record) in ids.iter().enumerate() {
        distinct.entry(&record.temp_id).or_insert((place, record));
    }
    let rows: Vec<_> = distinct.values().map(|(_, record)| (account.0, *record)).collect();
    let stored: BTreeSet<_> = insert(session, &rows, forget_at, NEVER).await?.into_iter().collect();
    if stored.len() == ids.len() {
        return Ok(TempIdsIssued::Issued);
    }
    let is_first = |place, temp_id| distinct.get(temp_id).is_some_and(|(first, _)| *first == place);
    let taken = ids
        .iter()
        .enumerate()
        .filter(|(place, record)| !is_first(*place, &record.temp_id) || !stored.contains(record.temp_id.reveal()));
    let taken = taken.map(|(place, _)| place).collect();
    let stored: Vec<&str> = stored.iter().map(String::as_str).collect();
    session.execute("DELETE FROM temp_id WHERE temp_id = ANY ($1)", &[(&stored, Type::TEXT_ARRAY)]).await?;
    Ok(TempIdsIssued::Taken(taken))
}

/// In a transaction.
pub(super) async fn import(
    session: &Session,
    lines: &[ImportedTempId],
    forget_at: Timestamp,
    now: Timestamp,
) -> Result<Vec<TempIdImported>> {
    let mut accounts = accounts_named(session, lines).await?;
    let mut owners = live_owners(session, lines, now).await?;
    let mut new_accounts = BTreeMap::new();
    let mut new_ids = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(lines.len());
    for ImportedTempId { username, record } in lines {
        let account = accounts.get(username).copied();
        outcomes.push(match owners.get(&record.temp_id) {
            Some(owner) if account == Some(*owner) => TempIdImported::Known,
            Some(_) => TempIdImported::ClaimedByAnother,
            None => {
                let account = account.unwrap_or_else(|| {
                    let id = session.ids.draw();
                    accounts.insert(username.clone(), id);
                    new_accounts.insert(username.reveal(), id);
                    id
                });
                owners.insert(record.temp_id.clone(), account);
                new_ids.insert(&record.temp_id, (account, record));
                TempIdImported::Added
            }
        });
    }
    create(session, &new_accounts, now).await?;
    let rows: Vec<_> = new_ids.into_values().collect();
    let stored = insert(session, &rows, forget_at, now.as_unix()).await?;
    // somebody has stored one of them meanwhile
    if stored.len() == rows.len() { Ok(outcomes) } else { Err(Trouble::Again) }
}

async fn accounts_named(session: &Session, lines: &[ImportedTempId]) -> Result<BTreeMap<Username, i64>> {
    let names: Vec<&str> = lines.iter().map(|line| line.username.reveal()).collect();
    let rows = session
        .rows("SELECT username, id FROM account WHERE username = ANY ($1) FOR KEY SHARE", &[(&names, Type::TEXT_ARRAY)])
        .await?;
    rows.iter().map(|row| Ok((convert::username(row, 0)?, row.try_get(1)?))).collect()
}

async fn live_owners(session: &Session, lines: &[ImportedTempId], now: Timestamp) -> Result<BTreeMap<TempId, i64>> {
    let ids: Vec<&str> = lines.iter().map(|line| line.record.temp_id.reveal()).collect();
    let rows = session
        .rows(
            "SELECT temp_id, account FROM temp_id WHERE temp_id = ANY ($1) AND forget_at > $2",
            &[(&ids, Type::TEXT_ARRAY), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    rows.iter().map(|row| Ok((convert::temp_id(row, 0)?, row.try_get(1)?))).collect()
}

async fn create(session: &Session, accounts: &BTreeMap<&str, i64>, now: Timestamp) -> Result<()> {
    let (names, ids): (Vec<&str>, Vec<i64>) = accounts.iter().map(|(name, id)| (*name, *id)).unzip();
    let made = session
        .execute(
            "WITH gone AS (DELETE FROM stranger WHERE username = ANY ($1))
             INSERT INTO account (username, id, created) SELECT n.username, n.id, $3 FROM unnest($1, $2) AS n (username, id)
             ON CONFLICT DO NOTHING",
            &[(&names, Type::TEXT_ARRAY), (&ids, Type::INT8_ARRAY), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    // somebody has opened one of them meanwhile
    if usize::try_from(made) == Ok(names.len()) { Ok(()) } else { Err(Trouble::Again) }
}

/// Stores ids, in the order given, and returns those that are stored. One that is there already makes room if it was forgotten
/// by `replaced_until`.
async fn insert(
    session: &Session,
    rows: &[(i64, &Record)],
    forget_at: Timestamp,
    replaced_until: i64,
) -> Result<Vec<String>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let accounts: Vec<i64> = rows.iter().map(|(account, _)| *account).collect();
    let ids: Vec<&str> = rows.iter().map(|(_, record)| record.temp_id.reveal()).collect();
    let starts: Vec<i64> = rows.iter().map(|(_, record)| record.window.start().as_unix()).collect();
    let expiries: Vec<i64> = rows.iter().map(|(_, record)| record.window.expiry().as_unix()).collect();
    let stored = session
        .rows(
            "INSERT INTO temp_id AS t (temp_id, account, start, expiry, forget_at)
             SELECT n.temp_id, n.account, n.start, n.expiry, $5
             FROM unnest($1, $2, $3, $4) AS n (temp_id, account, start, expiry)
             ON CONFLICT (temp_id) DO UPDATE SET account = excluded.account, start = excluded.start,
                 expiry = excluded.expiry, forget_at = excluded.forget_at
             WHERE t.forget_at <= $6 RETURNING temp_id",
            &[
                (&ids, Type::TEXT_ARRAY),
                (&accounts, Type::INT8_ARRAY),
                (&starts, Type::INT8_ARRAY),
                (&expiries, Type::INT8_ARRAY),
                (&forget_at.as_unix(), Type::INT8),
                (&replaced_until, Type::INT8),
            ],
        )
        .await?;
    stored.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(super) async fn list(
    session: &Session,
    after: Option<&ImportedTempId>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<ImportedTempId>> {
    // every username, and every id, is longer than the empty text
    let (user, start, id) = after.map_or(("", i64::MIN, ""), |ImportedTempId { username, record }| {
        (username.reveal(), record.window.start().as_unix(), record.temp_id.reveal())
    });
    let rows = session
        .rows(
            "SELECT t.temp_id, t.start, t.expiry, a.username FROM temp_id AS t JOIN account AS a ON a.id = t.account
             WHERE a.username >= $1 AND (a.username, t.start, t.temp_id) > ($1, $2, $3) AND t.forget_at > $4
             ORDER BY a.username, t.start, t.temp_id LIMIT $5",
            &[
                (&user, Type::TEXT),
                (&start, Type::INT8),
                (&id, Type::TEXT),
                (&now.as_unix(), Type::INT8),
                (&i64::from(limit), Type::INT8),
            ],
        )
        .await?;
    let lines = rows
        .iter()
        .map(|row| Ok(ImportedTempId { username: convert::username(row, 3)?, record: convert::record(row, 0)? }));
    lines.collect()
}

/// The answer is one row of arrays, so that ten thousand rows need not be unpacked. Usernames are asked for once for each account, by its
/// key: joined to the ids, the database would look for each id's, or read all accounts that there are.
pub(super) async fn resolve(session: &Session, ids: &[TempId], now: Timestamp) -> Result<Vec<Option<Owner>>> {
    let mut wanted: Vec<&str> = ids.iter().map(TempId::reveal).collect();
    // the database would, with a call for each comparison
    wanted.sort_unstable();
    let row = session
        .one(
            "WITH found AS MATERIALIZED (
                 SELECT temp_id, start, expiry, account FROM temp_id WHERE temp_id = ANY ($1) AND forget_at > $2
             )
             SELECT f.*, a.* FROM
                 (SELECT array_agg(temp_id), array_agg(start), array_agg(expiry), array_agg(account) FROM found) AS f,
                 (SELECT array_agg(id), array_agg(username) FROM account
                  WHERE id = ANY (ARRAY (SELECT account FROM found))) AS a",
            &[(&wanted, Type::TEXT_ARRAY), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    let usernames = array::<i64>(&row, 4)?.into_iter().zip(array::<&str>(&row, 5)?).collect::<HashMap<_, _>>();
    let (temp_ids, accounts) = (array::<&str>(&row, 0)?, array::<i64>(&row, 3)?);
    let windows = array::<i64>(&row, 1)?.into_iter().zip(array::<i64>(&row, 2)?);
    let mut owners = HashMap::with_capacity(temp_ids.len());
    for ((temp_id, account), (start, expiry)) in temp_ids.into_iter().zip(accounts).zip(windows) {
        let Some(username) = usernames.get(&account) else { continue };
        let (username, window) = (convert::parsed_username(username)?, convert::window_between(start, expiry)?);
        owners.insert(temp_id, Owner { account: AccountId(account), username, window });
    }
    Ok(ids.iter().map(|id| owners.get(id.reveal()).cloned()).collect())
}

/// The values of an array; of no rows the database makes none.
fn array<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<Vec<T>> {
    Ok(row.try_get::<_, Option<Vec<T>>>(column)?.unwrap_or_default())
}

/// Before all times: what is there is not replaced.
const NEVER: i64 = -1;
