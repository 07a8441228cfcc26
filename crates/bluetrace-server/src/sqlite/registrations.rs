//! Owns registrations as SQL. Each function runs within one transaction, and may be run again after a rollback.

use bluetrace_authority::store::{
    AccountFound, AccountId, CodesOfNumber, Confirmation, GoodCode, NewOneTimeCode, NumberHash, OneTimeCodeId,
    OneTimeCodeMade, OneTimeHash, OneTimeVerdict, PasswordSource, RegistrationConfirmed, RegistrationLimits,
};
use bluetrace_protocol::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::convert;
use super::error::JobError;
use super::write;

type Result<T> = std::result::Result<T, JobError>;

pub(super) fn make_one_time_code(
    connection: &Connection,
    code: NewOneTimeCode,
    now: Timestamp,
) -> Result<OneTimeCodeMade> {
    let NewOneTimeCode { number, hash, limits } = code;
    let found = connection
        .prepare_cached(
            "SELECT count(*), min(forget_at), count(*) FILTER (WHERE NOT has_failed),
                    min(forget_at) FILTER (WHERE NOT has_failed), max(made) FILTER (WHERE NOT has_failed)
             FROM one_time_code WHERE number = ?1 AND +forget_at > ?2",
        )?
        .query_row(params![number.0, now.as_unix()], |row| {
            Ok(CodesOfNumber {
                made: row.get(0)?,
                first_ends: convert::optional_time(row, 1)?,
                sent: row.get(2)?,
                first_sent_ends: convert::optional_time(row, 3)?,
                last_sent: convert::optional_time(row, 4)?,
            })
        })?;
    if let Some(refused) = limits.judge(found, now) {
        return Ok(refused);
    }
    let (expires, forget_at) = (limits.expires(now).as_unix(), limits.forgotten_at(now).as_unix());
    connection
        .prepare_cached(
            "INSERT INTO one_time_code (number, hash, made, expires, forget_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![number.0, hash.0, now.as_unix(), expires, forget_at])?;
    Ok(OneTimeCodeMade::Send(OneTimeCodeId(connection.last_insert_rowid())))
}

pub(super) fn one_time_code_failed(connection: &Connection, code: OneTimeCodeId) -> Result<()> {
    connection.prepare_cached("UPDATE one_time_code SET has_failed = 1 WHERE id = ?1")?.execute([code.0])?;
    Ok(())
}

pub(super) fn confirm_registration(
    connection: &Connection,
    confirmation: &Confirmation,
    now: Timestamp,
) -> Result<RegistrationConfirmed> {
    let Confirmation { number, username, hash, password, limits } = confirmation;
    let good = good_codes(connection, *number, *limits, now)?;
    if let OneTimeVerdict::RefuseAndCount { left } = limits.check(*hash, &good) {
        let count = format!("UPDATE one_time_code SET wrong = wrong + 1 {GOOD}");
        connection.prepare_cached(&count)?.execute(params![number.0, now.as_unix(), limits.max_wrong])?;
        return Ok(RegistrationConfirmed::Wrong { left });
    }
    let use_up = format!("UPDATE one_time_code SET is_used = 1 {GOOD}");
    connection.prepare_cached(&use_up)?.execute(params![number.0, now.as_unix(), limits.max_wrong])?;
    let found: Option<(AccountId, AccountFound)> = connection
        .prepare_cached(
            "SELECT id, password_hash IS NOT NULL, registered IS NOT NULL FROM account WHERE username = ?1",
        )?
        .query_row([username.reveal()], |row| {
            Ok((AccountId(row.get(0)?), AccountFound { has_password: row.get(1)?, is_registered: row.get(2)? }))
        })
        .optional()?;
    let (account, is_new) = match found {
        Some((_, account)) if !account.is_the_numbers() => return Ok(RegistrationConfirmed::NotTheNumbers),
        Some((account, _)) => (account, false),
        None => (write::create_account(connection, username, now)?, true),
    };
    connection
        .prepare_cached("UPDATE account SET registered = ifnull(registered, ?2) WHERE id = ?1")?
        .execute(params![account.0, now.as_unix()])?;
    if let Some(password) = password {
        let epochs = u32::from(!is_new);
        write::set_password(connection, account, password, PasswordSource::Operator, epochs)?;
    }
    if is_new {
        return Ok(RegistrationConfirmed::Opened(account));
    }
    let token_epoch = connection
        .prepare_cached("SELECT token_epoch FROM account WHERE id = ?1")?
        .query_row([account.0], |row| row.get(0))?;
    Ok(RegistrationConfirmed::Known { account, token_epoch })
}

fn good_codes(
    connection: &Connection,
    number: NumberHash,
    limits: RegistrationLimits,
    now: Timestamp,
) -> Result<Vec<GoodCode>> {
    let mut query = connection.prepare_cached(&format!("SELECT hash, wrong FROM one_time_code {GOOD}"))?;
    let rows = query.query_map(params![number.0, now.as_unix(), limits.max_wrong], |row| {
        Ok(GoodCode { hash: OneTimeHash(row.get(0)?), wrong: row.get(1)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The good codes of the number `?1` at `?2`, where `?3` wrong guesses kill one.
const GOOD: &str = "WHERE number = ?1 AND expires > ?2 AND wrong < ?3 AND NOT is_used";
