//! Owns the way from columns to the types of the protocol. A column that holds no such value is an error.

use bluetrace_authority::store::{Account, AccountId, Failures, PasswordHash};
use bluetrace_protocol::{
    Moment, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Username, Window,
};
use tokio_postgres::Row;

use super::error::{Result, Trouble};

pub(super) fn username(row: &Row, column: usize) -> Result<Username> {
    parsed_username(row.try_get(column)?)
}

pub(super) fn parsed_username(text: &str) -> Result<Username> {
    Username::parse(text).map_err(|_| unreadable())
}

pub(super) fn upload_id(row: &Row, column: usize) -> Result<UploadId> {
    UploadId::parse(row.try_get(column)?).map_err(|_| unreadable())
}

pub(super) fn temp_id(row: &Row, column: usize) -> Result<TempId> {
    TempId::parse(row.try_get(column)?).map_err(|_| unreadable())
}

pub(super) fn time(row: &Row, column: usize) -> Result<Timestamp> {
    Timestamp::from_unix(row.try_get(column)?).ok_or_else(unreadable)
}

pub(super) fn optional_time(row: &Row, column: usize) -> Result<Option<Timestamp>> {
    let seconds: Option<i64> = row.try_get(column)?;
    seconds.map(|seconds| Timestamp::from_unix(seconds).ok_or_else(unreadable)).transpose()
}

/// A number that is none of the database's own kinds.
pub(super) fn number<N: TryFrom<i64>>(row: &Row, column: usize) -> Result<N> {
    N::try_from(row.try_get(column)?).map_err(|_| unreadable())
}

/// Bytes of one length.
pub(super) fn bytes<const N: usize>(row: &Row, column: usize) -> Result<[u8; N]> {
    row.try_get::<_, &[u8]>(column)?.try_into().map_err(|_| unreadable())
}

/// A window from two columns, the first of them `column`.
pub(super) fn window(row: &Row, column: usize) -> Result<Window> {
    window_between(row.try_get(column)?, row.try_get(column + 1)?)
}

/// A window from its ends, in Unix seconds.
pub(super) fn window_between(start: i64, expiry: i64) -> Result<Window> {
    let time = |seconds| Timestamp::from_unix(seconds).ok_or_else(unreadable);
    Window::new(time(start)?, time(expiry)?).map_err(|_| unreadable())
}

/// A record from three columns, the first of them `column`.
pub(super) fn record(row: &Row, column: usize) -> Result<Record> {
    Ok(Record { temp_id: temp_id(row, column)?, window: window(row, column + 1)? })
}

/// Failures from two columns, the first of them `column`; none where they are NULL.
pub(super) fn failures(row: &Row, column: usize) -> Result<Failures> {
    let Some(in_a_row) = row.try_get::<_, Option<i64>>(column)? else { return Ok(Failures::default()) };
    let until_ms: Option<i64> = row.try_get(column + 1)?;
    let blocked_until = until_ms.map(|ms| Moment::from_unix_ms(ms).ok_or_else(unreadable)).transpose()?;
    Ok(Failures { in_a_row: u32::try_from(in_a_row).map_err(|_| unreadable())?, blocked_until })
}

/// An account from six columns.
pub(super) fn account(row: &Row) -> Result<Account> {
    Ok(Account {
        id: AccountId(row.try_get(0)?),
        username: username(row, 1)?,
        password_hash: row.try_get::<_, Option<String>>(2)?.map(PasswordHash),
        imported_hash: row.try_get::<_, Option<String>>(3)?.map(PasswordHash),
        token_epoch: number(row, 4)?,
        created: time(row, 5)?,
    })
}

/// What came of an upload, and when, from five columns, the first of them `column`.
pub(super) fn finished(row: &Row, column: usize) -> Result<Option<(Timestamp, UploadSummary)>> {
    let Some(at) = optional_time(row, column)? else { return Ok(None) };
    let summary = UploadSummary {
        records: number(row, column + 1)?,
        resolved: number(row, column + 2)?,
        unknown: number(row, column + 3)?,
        invalid: number(row, column + 4)?,
    };
    Ok(Some((at, summary)))
}

/// An uploaded record from six columns.
pub(super) fn uploaded(row: &Row) -> Result<Uploaded> {
    if row.try_get::<_, Option<&str>>(0)?.is_none() {
        return Ok(Uploaded::Malformed);
    }
    let seen: Option<i64> = row.try_get(5)?;
    Ok(Uploaded::Record(UploadedRecord {
        record: record(row, 0)?,
        received: optional_time(row, 3)?,
        rssi: row.try_get(4)?,
        seen: seen.map(|seen| u32::try_from(seen).map_err(|_| unreadable())).transpose()?,
    }))
}

fn unreadable() -> Trouble {
    Trouble::failed("the database holds what this program cannot read; restore it from a backup")
}
