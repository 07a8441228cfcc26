//! Owns the way from columns to the types of the protocol. A column that holds no such value is an error.

use bluetrace_authority::store::{Account, AccountId, Failures, PasswordHash};
use bluetrace_protocol::{
    Moment, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Username, Window,
};
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};

pub(super) fn username(row: &Row<'_>, column: usize) -> Result<Username> {
    Username::parse(text(row, column)?).map_err(|error| unreadable(column, error))
}

pub(super) fn upload_id(row: &Row<'_>, column: usize) -> Result<UploadId> {
    UploadId::parse(text(row, column)?).map_err(|error| unreadable(column, error))
}

pub(super) fn temp_id(row: &Row<'_>, column: usize) -> Result<TempId> {
    TempId::parse(text(row, column)?).map_err(|error| unreadable(column, error))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    let seconds = row.get(column)?;
    Timestamp::from_unix(seconds).ok_or(Error::IntegralValueOutOfRange(column, seconds))
}

pub(super) fn optional_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    let seconds: Option<i64> = row.get(column)?;
    seconds.map(|s| Timestamp::from_unix(s).ok_or(Error::IntegralValueOutOfRange(column, s))).transpose()
}

/// A window from two columns, the first of them `column`.
pub(super) fn window(row: &Row<'_>, column: usize) -> Result<Window> {
    Window::new(time(row, column)?, time(row, column + 1)?).map_err(|error| unreadable(column, error))
}

/// A record from three columns, the first of them `column`.
pub(super) fn record(row: &Row<'_>, column: usize) -> Result<Record> {
    Ok(Record { temp_id: temp_id(row, column)?, window: window(row, column + 1)? })
}

/// Failures from two columns, the first of them `column`.
pub(super) fn failures(row: &Row<'_>, column: usize) -> Result<Failures> {
    let until_ms: Option<i64> = row.get(column + 1)?;
    let until = until_ms.map(|ms| Moment::from_unix_ms(ms).ok_or(Error::IntegralValueOutOfRange(column + 1, ms)));
    Ok(Failures { in_a_row: row.get(column)?, blocked_until: until.transpose()? })
}

/// An account from [`ACCOUNT`], and its failures.
pub(super) fn account(row: &Row<'_>) -> Result<(Account, Failures)> {
    let account = Account {
        id: AccountId(row.get(0)?),
        username: username(row, 1)?,
        password_hash: row.get::<_, Option<String>>(2)?.map(PasswordHash),
        imported_hash: row.get::<_, Option<String>>(3)?.map(PasswordHash),
        token_epoch: row.get(4)?,
        created: time(row, 5)?,
    };
    Ok((account, failures(row, 6)?))
}

/// The columns that [`account`] reads.
pub(super) const ACCOUNT: &str = "SELECT id, username, password_hash, imported_hash, token_epoch, created, in_a_row, \
                                  blocked_until_ms FROM account WHERE username = ?1";

/// What came of an upload, and when, from five columns, the first of them `column`.
pub(super) fn finished(row: &Row<'_>, column: usize) -> Result<Option<(Timestamp, UploadSummary)>> {
    let Some(at) = optional_time(row, column)? else { return Ok(None) };
    let summary = UploadSummary {
        records: row.get(column + 1)?,
        resolved: row.get(column + 2)?,
        unknown: row.get(column + 3)?,
        invalid: row.get(column + 4)?,
    };
    Ok(Some((at, summary)))
}

/// An uploaded record from six columns.
pub(super) fn uploaded(row: &Row<'_>) -> Result<Uploaded> {
    if row.get_ref(0)? == rusqlite::types::ValueRef::Null {
        return Ok(Uploaded::Malformed);
    }
    Ok(Uploaded::Record(UploadedRecord {
        record: record(row, 0)?,
        received: optional_time(row, 3)?,
        rssi: row.get(4)?,
        seen: row.get(5)?,
    }))
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str> {
    row.get_ref(column)?.as_str().map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
