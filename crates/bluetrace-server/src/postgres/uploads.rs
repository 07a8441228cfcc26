//! Owns uploads as SQL: beginning, finding, completing and listing them. Their records are `records`'.

use bluetrace_authority::store::{
    AccountId, CodeCheck, NewNotice, UploadBegun, UploadCompleted, UploadFound, UploadKey, UploadRequest, UploadRow,
};
use bluetrace_protocol::limits::MAX_UPLOAD_RECORDS;
use bluetrace_protocol::{Timestamp, UploadId, UploadSummary};
use tokio_postgres::types::Type;

use super::codes::{self, Redemption};
use super::error::{Result, Trouble};
use super::ids::day_of_key;
use super::session::Session;
use super::{accounts, convert, notices, records};

/// In a transaction. An account begins one upload at a time, and presents one code at a time.
pub(super) async fn begin(session: &Session, request: &UploadRequest, now: Timestamp) -> Result<UploadBegun> {
    let UploadRequest { account, upload, records, forget_at, code } = request;
    if *records > MAX_UPLOAD_RECORDS {
        return Err(Trouble::failed("an upload of so many records"));
    }
    if !accounts::lock(session, *account).await? {
        return Ok(UploadBegun::NoAccount);
    }
    let redemption = |upload| Redemption { account: *account, upload: Some(upload), forget_at: *forget_at };
    let found = session
        .row(
            "SELECT id, records, durable, forget_at, finished, counted, resolved, unknown, invalid FROM upload
             WHERE account = $1 AND name = $2",
            &[(&account.0, Type::INT8), (&upload.reveal(), Type::TEXT)],
        )
        .await?;
    let mut forgotten = None;
    if let Some(row) = found {
        let key = UploadKey(row.try_get(0)?);
        if now < convert::time(&row, 3)? {
            let begun_with: u32 = convert::number(&row, 1)?;
            if begun_with != *records {
                return Ok(UploadBegun::Conflict { records: begun_with });
            }
            let summary = convert::finished(&row, 4)?.map(|(_, summary)| summary);
            let needs_code = *code != CodeCheck::NotRequired && summary.is_none();
            if needs_code && !codes::lets_in(session, key, now).await? {
                match codes::check(session, *account, upload, *code, now).await? {
                    Ok(code) => {
                        lock_unfinished(session, key).await?;
                        codes::redeem(session, code, redemption(key), now).await?;
                    }
                    Err(refused) => return Ok(refused),
                }
            }
            return Ok(UploadBegun::Open { key, durable: convert::number(&row, 2)?, summary });
        }
        forgotten = Some(key);
    }
    let code = match codes::check(session, *account, upload, *code, now).await? {
        Ok(code) => code,
        Err(refused) => return Ok(refused),
    };
    if let Some(forgotten) = forgotten {
        session.execute("UPDATE upload SET account = NULL WHERE id = $1", &[(&forgotten.0, Type::INT8)]).await?;
    }
    let key = insert(session, request, now).await?;
    codes::redeem(session, code, redemption(key), now).await?;
    Ok(UploadBegun::Open { key, durable: 0, summary: None })
}

/// Locks an upload that was seen unfinished, if it still is.
async fn lock_unfinished(session: &Session, upload: UploadKey) -> Result<()> {
    let statement = "SELECT 1 FROM upload WHERE id = $1 AND account IS NOT NULL AND finished IS NULL FOR UPDATE";
    let found = session.row(statement, &[(&upload.0, Type::INT8)]).await?;
    found.map(|_| ()).ok_or(Trouble::Again)
}

async fn insert(session: &Session, request: &UploadRequest, now: Timestamp) -> Result<UploadKey> {
    loop {
        let key = session.ids.draw_upload(request.forget_at);
        records::make_partition(session, day_of_key(key)).await?;
        let made = session
            .execute(
                "INSERT INTO upload (id, account, name, records, begun, forget_at) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (id) DO NOTHING",
                &[
                    (&key.0, Type::INT8),
                    (&request.account.0, Type::INT8),
                    (&request.upload.reveal(), Type::TEXT),
                    (&i64::from(request.records), Type::INT8),
                    (&now.as_unix(), Type::INT8),
                    (&request.forget_at.as_unix(), Type::INT8),
                ],
            )
            .await?;
        if made > 0 {
            return Ok(key);
        }
    }
}

pub(super) async fn find(
    session: &Session,
    account: AccountId,
    upload: &UploadId,
    now: Timestamp,
) -> Result<Option<UploadFound>> {
    let found = session
        .row(
            "SELECT id, records, durable, finished, counted, resolved, unknown, invalid FROM upload
             WHERE account = $1 AND name = $2 AND forget_at > $3",
            &[(&account.0, Type::INT8), (&upload.reveal(), Type::TEXT), (&now.as_unix(), Type::INT8)],
        )
        .await?;
    let found = found.map(|row| {
        Ok(UploadFound {
            key: UploadKey(row.try_get(0)?),
            records: convert::number(&row, 1)?,
            durable: convert::number(&row, 2)?,
            summary: convert::finished(&row, 3)?.map(|(_, summary)| summary),
        })
    });
    found.transpose()
}

/// In a transaction. Done twice, it answers `Before` for what it has completed itself.
pub(super) async fn complete(
    session: &Session,
    upload: UploadKey,
    summary: UploadSummary,
    left: &[NewNotice],
    now: Timestamp,
) -> Result<UploadCompleted> {
    notices::lock_accounts(session, left).await?;
    let codes = codes::lock_of(session, upload).await?;
    let found = session
        .row(
            "SELECT account, finished FROM upload WHERE id = $1 AND account IS NOT NULL FOR UPDATE",
            &[(&upload.0, Type::INT8)],
        )
        .await?;
    let Some(found) = found else { return Ok(UploadCompleted::NoUpload) };
    if convert::optional_time(&found, 1)?.is_some() {
        return Ok(UploadCompleted::Before);
    }
    let UploadSummary { records, resolved, unknown, invalid } = summary;
    let [counted, resolved, unknown, invalid] = [records, resolved, unknown, invalid].map(i64::from);
    session
        .execute(
            "UPDATE upload SET finished = $2, counted = $3, resolved = $4, unknown = $5, invalid = $6 WHERE id = $1",
            &[
                (&upload.0, Type::INT8),
                (&now.as_unix(), Type::INT8),
                (&counted, Type::INT8),
                (&resolved, Type::INT8),
                (&unknown, Type::INT8),
                (&invalid, Type::INT8),
            ],
        )
        .await?;
    codes::complete(session, upload, &codes).await?;
    notices::leave(session, found.try_get(0)?, left).await?;
    Ok(UploadCompleted::Now)
}

pub(super) async fn list(
    session: &Session,
    after: Option<UploadKey>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<UploadRow>> {
    let (after, limit) = (after.map_or(-1, |key| key.0), i64::from(limit));
    let rows = session
        .rows(
            "SELECT u.id, u.name, a.username, u.records, u.durable, u.begun, u.finished, u.counted, u.resolved,
                    u.unknown, u.invalid
             FROM upload AS u JOIN account AS a ON a.id = u.account
             WHERE u.id > $1 AND u.forget_at > $2 ORDER BY u.id LIMIT $3",
            &[(&after, Type::INT8), (&now.as_unix(), Type::INT8), (&limit, Type::INT8)],
        )
        .await?;
    let uploads = rows.iter().map(|row| {
        Ok(UploadRow {
            key: UploadKey(row.try_get(0)?),
            upload: convert::upload_id(row, 1)?,
            uploader: convert::username(row, 2)?,
            records: convert::number(row, 3)?,
            durable: convert::number(row, 4)?,
            begun: convert::time(row, 5)?,
            finished: convert::finished(row, 6)?,
        })
    });
    uploads.collect()
}
