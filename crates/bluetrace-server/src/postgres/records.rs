//! Owns the records of uploads as SQL, and the partitions in which they lie.
//!
//! A partition is made by whoever needs it first, and attached with a lock that lets others write to the other ones. It is dropped
//! when its day is over and no upload has its records there any more: it is first detached in the way that waits for those who
//! use it and holds up nobody, and so a day of any size is forgotten without a row being looked at.

use bluetrace_authority::store::{Appended, UploadKey};
use bluetrace_protocol::{Timestamp, Uploaded};
use tokio_postgres::types::Type;
use tracing::{debug, info};

use super::convert;
use super::error::{Result, Trouble};
use super::ids::{day_of, day_of_key, first_key};
use super::session::Session;

/// One statement: the upload's row is locked, what is new of the records is stored, and the number of those that are durable
/// moves on with them.
pub(super) async fn append(
    session: &Session,
    upload: UploadKey,
    first: u32,
    columns: &Columns,
) -> Result<Option<Appended>> {
    let (from, until) = (i64::from(first), i64::from(first).saturating_add(columns.count()));
    let found = match append_columns(session, upload, [from, until], columns).await {
        // it was dropped, and an upload with a key of that day was begun after all
        Err(Trouble::NoPartition) => {
            session.ids.forget_partition(day_of_key(upload));
            make_partition_at_once(session, day_of_key(upload)).await?;
            append_columns(session, upload, [from, until], columns).await?
        }
        outcome => outcome?,
    };
    let Some((before, records)) = found else { return Ok(None) };
    if from > before {
        return Err(Trouble::failed("records before these are missing"));
    }
    let count = |records| u32::try_from(records).map_err(|_| Trouble::failed("an upload of so many records"));
    Ok(Some(Appended { before: count(before)?, durable: count(before.max(until.min(records)))? }))
}

/// How many were durable before, and how many there are in all.
async fn append_columns(
    session: &Session,
    upload: UploadKey,
    [from, until]: [i64; 2],
    columns: &Columns,
) -> Result<Option<(i64, i64)>> {
    let found = session
        .row(
            "WITH found AS (
                 SELECT id, records, durable FROM upload WHERE id = $1 AND account IS NOT NULL FOR UPDATE
             ), added AS (
                 INSERT INTO uploaded_record (upload, place, temp_id, start, expiry, received, rssi, seen)
                 SELECT f.id, $2 + r.ordinality - 1, r.temp_id, r.start, r.expiry, r.received, r.rssi, r.seen
                 FROM found AS f CROSS JOIN unnest($4, $5, $6, $7, $8, $9) WITH ORDINALITY
                     AS r (temp_id, start, expiry, received, rssi, seen, ordinality)
                 WHERE $2 <= f.durable AND $2 + r.ordinality > f.durable AND $2 + r.ordinality <= f.records
             ), moved AS (
                 UPDATE upload AS u SET durable = least($3, f.records) FROM found AS f
                 WHERE u.id = f.id AND $2 <= f.durable AND least($3, f.records) > f.durable
             )
             SELECT durable, records FROM found",
            &[
                (&upload.0, Type::INT8),
                (&from, Type::INT8),
                (&until, Type::INT8),
                (&columns.temp_ids, Type::TEXT_ARRAY),
                (&columns.starts, Type::INT8_ARRAY),
                (&columns.expiries, Type::INT8_ARRAY),
                (&columns.received, Type::INT8_ARRAY),
                (&columns.rssi, Type::INT2_ARRAY),
                (&columns.seen, Type::INT8_ARRAY),
            ],
        )
        .await?;
    found.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// Records as the database takes them: a list for each column.
pub(super) struct Columns {
    temp_ids: Vec<Option<String>>,
    starts: Vec<Option<i64>>,
    expiries: Vec<Option<i64>>,
    received: Vec<Option<i64>>,
    rssi: Vec<Option<i16>>,
    seen: Vec<Option<i64>>,
}

impl Columns {
    pub(super) fn of(records: &[Uploaded]) -> Self {
        let heard = || {
            records.iter().map(|record| match record {
                Uploaded::Malformed => None,
                Uploaded::Record(heard) => Some(heard),
            })
        };
        Self {
            temp_ids: heard().map(|heard| heard.map(|heard| heard.record.temp_id.reveal().to_owned())).collect(),
            starts: heard().map(|heard| heard.map(|heard| heard.record.window.start().as_unix())).collect(),
            expiries: heard().map(|heard| heard.map(|heard| heard.record.window.expiry().as_unix())).collect(),
            received: heard().map(|heard| heard?.received.map(Timestamp::as_unix)).collect(),
            rssi: heard().map(|heard| heard?.rssi).collect(),
            seen: heard().map(|heard| heard?.seen.map(i64::from)).collect(),
        }
    }

    fn count(&self) -> i64 {
        i64::try_from(self.temp_ids.len()).unwrap_or(i64::MAX)
    }
}

/// Between two places, and not so many from a place on: of a day that has just begun the database has no statistics, and reads for a
/// `LIMIT` all that follows, each time, and sorts it.
pub(super) async fn list(
    session: &Session,
    upload: UploadKey,
    first: u32,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Uploaded>> {
    let rows = session
        .rows(
            "SELECT temp_id, start, expiry, received, rssi, seen FROM uploaded_record
             WHERE upload = $1 AND place >= $2 AND place < $3
                 AND EXISTS (SELECT 1 FROM upload WHERE id = $1 AND account IS NOT NULL AND forget_at > $4)
             ORDER BY place",
            &[
                (&upload.0, Type::INT8),
                (&i64::from(first), Type::INT8),
                (&i64::from(first).saturating_add(i64::from(limit)), Type::INT8),
                (&now.as_unix(), Type::INT8),
            ],
        )
        .await?;
    rows.iter().map(convert::uploaded).collect()
}

/// Deletes records of an upload one by one, the last ones first, until `keep` are left. Returns how many were deleted.
pub(super) async fn delete(session: &Session, upload: UploadKey, keep: i64) -> Result<u64> {
    session
        .execute(
            "DELETE FROM uploaded_record WHERE upload = $1 AND place >= $2",
            &[(&upload.0, Type::INT8), (&keep, Type::INT8)],
        )
        .await
}

/// Not in a transaction. Makes the partition of the day after the last one that was needed here, so that nobody waits for it then.
pub(super) async fn make_next_partition(session: &Session) -> Result<()> {
    match session.ids.last_day() {
        Some(day) => make_partition_at_once(session, day.saturating_add(1)).await,
        None => Ok(()),
    }
}

async fn make_partition_at_once(session: &Session, day: i64) -> Result<()> {
    session.batch("BEGIN").await?;
    let made = make_partition(session, day).await;
    session.batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    made
}

/// In a transaction. Makes the partition of a day, if there is none.
pub(super) async fn make_partition(session: &Session, day: i64) -> Result<()> {
    if session.ids.has_partition(day) {
        return Ok(());
    }
    let name = format!("uploaded_record_{day}");
    // not `to_regclass`: that may remember from before what another server has changed while this one waited
    let exists = "SELECT EXISTS (SELECT 1 FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
                  WHERE i.inhparent = 'uploaded_record'::regclass AND c.relname = $1 AND NOT i.inhdetachpending)";
    if !session.one(exists, &[(&name, Type::NAME)]).await?.try_get::<_, bool>(0)? {
        // others who make one wait; nobody else does
        session.execute("SELECT 1 FROM latch WHERE name = 'partitions' FOR UPDATE", &[]).await?;
        if !session.one(exists, &[(&name, Type::NAME)]).await?.try_get::<_, bool>(0)? {
            let (from, to) = (first_key(day), first_key(day.saturating_add(1)));
            // not as a partition from the start: that would lock out everybody who uses any of them
            session
                .batch(&format!(
                    "CREATE TABLE {name} (LIKE uploaded_record INCLUDING ALL);
                     ALTER TABLE uploaded_record ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
                ))
                .await?;
            return Ok(());
        }
    }
    session.ids.note_partition(day);
    Ok(())
}

/// Not in a transaction. Drops the partitions of days that are over, if no upload has a key of theirs.
pub(super) async fn drop_partitions(session: &Session, now: Timestamp) -> Result<()> {
    let partitions = session
        .rows(
            "SELECT c.relname::text, i.inhdetachpending FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'uploaded_record'::regclass",
            &[],
        )
        .await?;
    for row in &partitions {
        let (name, is_pending): (&str, bool) = (row.try_get(0)?, row.try_get(1)?);
        let Some(day) = name.strip_prefix("uploaded_record_").and_then(|day| day.parse::<i64>().ok()) else { continue };
        if day >= day_of(now) {
            continue;
        }
        let is_used = session
            .one(
                "SELECT EXISTS (SELECT 1 FROM upload WHERE id >= $1 AND id < $2)",
                &[(&first_key(day), Type::INT8), (&first_key(day.saturating_add(1)), Type::INT8)],
            )
            .await?;
        if !is_used.try_get::<_, bool>(0)? {
            match drop_partition(session, name, is_pending).await {
                Ok(()) => info!(day, "dropped the uploaded records of a day"),
                Err(Trouble::Lost(text)) => return Err(Trouble::Lost(text)),
                // another server is at it
                Err(trouble) => debug!(day, ?trouble, "the uploaded records of a day are not dropped yet"),
            }
            session.ids.forget_partition(day);
        }
    }
    drop_detached(session, now).await
}

async fn drop_partition(session: &Session, name: &str, is_pending: bool) -> Result<()> {
    // FINALIZE: whoever began it has died, or is about to finish it
    let how = if is_pending { "FINALIZE" } else { "CONCURRENTLY" };
    session.batch(&format!("ALTER TABLE uploaded_record DETACH PARTITION {name} {how}")).await?;
    session.batch(&format!("DROP TABLE IF EXISTS {name}")).await
}

/// Drops what was detached by somebody who died before he dropped it.
async fn drop_detached(session: &Session, now: Timestamp) -> Result<()> {
    let tables = session
        .rows(
            "SELECT c.relname::text FROM pg_class AS c
             WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'uploaded_record'::regclass)
                 AND c.relkind = 'r' AND NOT c.relispartition AND c.relname ~ '^uploaded_record_[0-9]+$'",
            &[],
        )
        .await?;
    for row in &tables {
        let name: &str = row.try_get(0)?;
        let day = name.strip_prefix("uploaded_record_").and_then(|day| day.parse::<i64>().ok());
        if day.is_some_and(|day| day < day_of(now)) {
            session.batch(&format!("DROP TABLE IF EXISTS {name}")).await?;
        }
    }
    Ok(())
}
