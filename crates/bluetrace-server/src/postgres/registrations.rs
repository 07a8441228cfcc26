//! Owns registrations as SQL. All of it runs in a transaction that has locked the row of the phone number, so that of two who ask for a
//! code, or present one, the second sees what the first has done.

use bluetrace_authority::store::{
    AccountFound, AccountId, CodesOfNumber, Confirmation, GoodCode, NewOneTimeCode, OneTimeCodeId, OneTimeCodeMade,
    OneTimeHash, OneTimeVerdict, RegistrationConfirmed,
};
use bluetrace_protocol::Timestamp;
use tokio_postgres::types::Type;

use super::convert;
use super::error::{Result, Trouble};
use super::session::{Session, Value};

/// In a transaction. Done twice, it answers `SentBefore` for what it has made itself, which then counts as sent though it was not.
pub(super) async fn make(session: &Session, code: NewOneTimeCode, now: Timestamp) -> Result<OneTimeCodeMade> {
    let NewOneTimeCode { number, hash, limits } = code;
    let (number, hash, seconds) = (number.0.as_slice(), hash.0.as_slice(), now.as_unix());
    let (expires, forget_at) = (limits.expires(now).as_unix(), limits.forgotten_at(now).as_unix());
    session
        .execute(
            "INSERT INTO asking_number AS n (number, forget_at) VALUES ($1, $2)
             ON CONFLICT (number) DO UPDATE SET forget_at = greatest(n.forget_at, excluded.forget_at)",
            &[(&number, Type::BYTEA), (&forget_at, Type::INT8)],
        )
        .await?;
    let row = session
        .one(
            "SELECT count(*), min(forget_at), count(*) FILTER (WHERE NOT has_failed),
                    min(forget_at) FILTER (WHERE NOT has_failed), max(made) FILTER (WHERE NOT has_failed)
             FROM one_time_code WHERE number = $1 AND forget_at > $2",
            &[(&number, Type::BYTEA), (&seconds, Type::INT8)],
        )
        .await?;
    let found = CodesOfNumber {
        made: convert::number(&row, 0)?,
        first_ends: convert::optional_time(&row, 1)?,
        sent: convert::number(&row, 2)?,
        first_sent_ends: convert::optional_time(&row, 3)?,
        last_sent: convert::optional_time(&row, 4)?,
    };
    if let Some(refused) = limits.judge(found, now) {
        return Ok(refused);
    }
    let id = session.ids.draw();
    session
        .execute(
            "INSERT INTO one_time_code (id, number, hash, made, expires, forget_at) VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                (&id, Type::INT8),
                (&number, Type::BYTEA),
                (&hash, Type::BYTEA),
                (&seconds, Type::INT8),
                (&expires, Type::INT8),
                (&forget_at, Type::INT8),
            ],
        )
        .await?;
    Ok(OneTimeCodeMade::Send(OneTimeCodeId(id)))
}

pub(super) async fn note_failed(session: &Session, code: OneTimeCodeId) -> Result<()> {
    session.execute("UPDATE one_time_code SET has_failed = true WHERE id = $1", &[(&code.0, Type::INT8)]).await?;
    Ok(())
}

/// In a transaction. Done twice, it answers `Wrong` for a code that it has used itself.
pub(super) async fn confirm(
    session: &Session,
    confirmation: &Confirmation,
    now: Timestamp,
) -> Result<RegistrationConfirmed> {
    let Confirmation { number, username, hash, password, limits } = confirmation;
    let (number, seconds, max_wrong) = (number.0.as_slice(), now.as_unix(), i64::from(limits.max_wrong));
    session.row("SELECT 1 FROM asking_number WHERE number = $1 FOR UPDATE", &[(&number, Type::BYTEA)]).await?;
    let good: [Value<'_>; 3] = [(&number, Type::BYTEA), (&seconds, Type::INT8), (&max_wrong, Type::INT8)];
    let rows = session.rows(&format!("SELECT hash, wrong FROM one_time_code {GOOD}"), &good).await?;
    let codes = rows
        .iter()
        .map(|row| Ok(GoodCode { hash: OneTimeHash(convert::bytes(row, 0)?), wrong: convert::number(row, 1)? }))
        .collect::<Result<Vec<_>>>()?;
    if let OneTimeVerdict::RefuseAndCount { left } = limits.check(*hash, &codes) {
        session.execute(&format!("UPDATE one_time_code SET wrong = wrong + 1 {GOOD}"), &good).await?;
        return Ok(RegistrationConfirmed::Wrong { left });
    }
    session.execute(&format!("UPDATE one_time_code SET is_used = true {GOOD}"), &good).await?;
    let name = username.reveal();
    let found = session
        .row(
            "SELECT id, password_hash IS NOT NULL, registered IS NOT NULL FROM account WHERE username = $1
             FOR NO KEY UPDATE",
            &[(&name, Type::TEXT)],
        )
        .await?;
    let password = password.as_ref().map(|hash| hash.0.as_str());
    let Some(row) = found else {
        let id = session.ids.draw();
        let made = session
            .execute(
                "WITH gone AS (DELETE FROM stranger WHERE username = $2)
                 INSERT INTO account (id, username, password_hash, created, registered) VALUES ($1, $2, $3, $4, $4)
                 ON CONFLICT DO NOTHING",
                &[(&id, Type::INT8), (&name, Type::TEXT), (&password, Type::TEXT), (&seconds, Type::INT8)],
            )
            .await?;
        // somebody has opened it meanwhile
        return if made > 0 { Ok(RegistrationConfirmed::Opened(AccountId(id))) } else { Err(Trouble::Again) };
    };
    if !(AccountFound { has_password: row.try_get(1)?, is_registered: row.try_get(2)? }).is_the_numbers() {
        return Ok(RegistrationConfirmed::NotTheNumbers);
    }
    let account = AccountId(row.try_get(0)?);
    let changed = session
        .one(
            "UPDATE account SET registered = coalesce(registered, $2), password_hash = coalesce($3, password_hash),
                    in_a_row = CASE WHEN $3 IS NULL THEN in_a_row ELSE 0 END,
                    blocked_until_ms = CASE WHEN $3 IS NULL THEN blocked_until_ms END,
                    token_epoch = CASE WHEN $3 IS NULL THEN token_epoch ELSE least(token_epoch + 1, 4294967295) END
             WHERE id = $1 RETURNING token_epoch",
            &[(&account.0, Type::INT8), (&seconds, Type::INT8), (&password, Type::TEXT)],
        )
        .await?;
    Ok(RegistrationConfirmed::Known { account, token_epoch: convert::number(&changed, 0)? })
}

/// The good codes of the number `$1` at `$2`, where `$3` wrong guesses kill one.
const GOOD: &str = "WHERE number = $1 AND expires > $2 AND wrong < $3 AND NOT is_used";
