//! Owns examining a whole store ([`check`]): whether every row is one that this program can read, and whether the rows keep the rules that it
//! relies on. In bounded memory, beside servers that are at work, and changing nothing.

use bluetrace_authority::MasterKey;
use bluetrace_authority::store::{
    KeyTerm, SealingKeyId, SealingKeyRow, SealingKeyState, StoreError, WRAPPED_KEY_BYTES, WrappedKey,
};
use bluetrace_protocol::Timestamp;

use crate::copy::end::{End, Place};
use crate::copy::rows::{Batch, Value};
use crate::copy::table::{Engine, Table};
use crate::copy::tables::countable;
use crate::copy::{CopyError, CopyOptions, Progress, Step};

/// Examines a store as it is at one moment. `master_key` is what its sealing keys have to open with.
///
/// # Errors
/// [`CopyError`] if it cannot be read. What is wrong with what was read is a finding.
pub async fn check(
    place: &Place,
    options: &CopyOptions,
    master_key: &MasterKey,
    now: Timestamp,
    progress: &Progress,
) -> Result<Checked, CopyError> {
    let end = End::open_to_look(place, options).await?;
    let mut checked = Checked { tables: Vec::new(), findings: Vec::new() };
    if !end.key_mark().is_empty() && end.key_mark() != master_key.mark() {
        checked.find("the master key is another authority's, or an older one".into(), RESTORE_KEY);
    }
    let damage = match end.damage().await {
        // so damaged that it cannot be looked for
        Err(StoreError::Failed(text)) => vec![text],
        damage => damage?,
    };
    if !damage.is_empty() {
        for found in damage {
            checked.find(format!("the file is damaged: {found}"), RESTORE);
        }
        return Ok(checked);
    }
    progress.begin(Step::Checking, 0, end.count().await?);
    for table in countable() {
        checked.read(&end, table, master_key, progress).await?;
    }
    for rule in RULES {
        checked.apply(&end, rule, now).await?;
    }
    Ok(checked)
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Each table, and how many rows it has that are in sight.
    pub tables: Vec<(&'static str, u64)>,
    /// What is wrong, and what to do about it. Nothing of a person is in it but numbers of rows.
    pub findings: Vec<Finding>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: &'static str,
}

impl Checked {
    fn find(&mut self, found: String, remedy: &'static str) {
        self.findings.push(Finding { found, remedy });
    }

    async fn read(
        &mut self,
        end: &End,
        table: &'static Table,
        master_key: &MasterKey,
        progress: &Progress,
    ) -> Result<(), CopyError> {
        let (mut rows, mut unreadable, mut first) = (0_u64, 0_u64, None);
        let mut batches = end.read(table, None);
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            for found in batch.unreadable(table) {
                unreadable += 1;
                first.get_or_insert(found);
            }
            if table.name == "sealing_key" {
                let lost = SealingKeyRow::unreadable(&sealing_keys(table, &batch), master_key);
                let lost: Vec<_> = lost.iter().map(|id| id.0.to_string()).collect();
                if !lost.is_empty() {
                    self.find(format!("the master key does not open sealing keys {}", lost.join(", ")), RESTORE_KEY);
                }
            }
            rows += u64::try_from(batch.len()).unwrap_or(0);
            progress.add(batch.len());
        }
        if let Some(first) = first {
            let number = first.number.map_or_else(String::new, |number| format!(" (first: {number})"));
            let found =
                format!("{unreadable} rows of {} cannot be read, for their {}{number}", table.name, first.column);
            self.find(found, RESTORE);
        }
        self.tables.push((table.name, rows));
        Ok(())
    }

    async fn apply(&mut self, end: &End, rule: &Rule, now: Timestamp) -> Result<(), CopyError> {
        let broken = match end.engine() {
            Engine::Sqlite => rule.broken_in_sqlite,
            Engine::Postgres => rule.broken_in_postgres,
        };
        if broken.is_empty() {
            return Ok(());
        }
        let tomorrow = (now.as_unix() / DAY_S).saturating_add(1) << 41;
        let durable = if end.engine() == Engine::Sqlite { DURABLE_IN_SQLITE } else { "u.durable" };
        let broken = broken
            .replace("{now}", &now.as_unix().to_string())
            .replace("{tomorrow}", &tomorrow.to_string())
            .replace("{durable}", durable);
        let count = end.numbers(&format!("SELECT count(*) FROM ({broken}) AS broken")).await?;
        let Some(count) = count.first().filter(|count| **count > 0) else { return Ok(()) };
        let first = end.numbers(&format!("SELECT number FROM ({broken}) AS broken LIMIT 3")).await?;
        let first: Vec<_> = first.iter().map(ToString::to_string).collect();
        self.find(format!("{count} {} (the first: {})", rule.what, first.join(", ")), rule.remedy);
        Ok(())
    }
}

/// The live keys among these rows.
fn sealing_keys(table: &Table, batch: &Batch) -> Vec<SealingKeyRow> {
    let key = |row: usize| {
        let number = |column| match batch.named(table, column, row) {
            Value::Integer(value) => Some(value),
            Value::Absent | Value::Text(_) | Value::Bytes(_) => None,
        };
        let time = |column| number(column).and_then(Timestamp::from_unix);
        let Value::Bytes(wrapped) = batch.named(table, "wrapped", row) else { return None };
        let wrapped = <[u8; WRAPPED_KEY_BYTES]>::try_from(wrapped).ok()?;
        Some(SealingKeyRow {
            id: SealingKeyId(number("id")?),
            term: KeyTerm {
                issues_from: time("issues_from")?,
                issues_until: time("issues_until")?,
                last_expiry: time("last_expiry")?,
                forget_at: time("forget_at")?,
            },
            seals: number("seals")?.unsigned_abs(),
            state: SealingKeyState::Live(WrappedKey(wrapped)),
        })
    };
    (0..batch.len()).filter_map(key).collect()
}

/// What has to hold between rows.
struct Rule {
    /// What breaks it, in the plural.
    what: &'static str,
    remedy: &'static str,
    /// Gives a `number` of each row that breaks it; empty where there is nothing to break.
    broken_in_sqlite: &'static str,
    broken_in_postgres: &'static str,
}

impl Rule {
    const fn of_both(what: &'static str, remedy: &'static str, broken: &'static str) -> Self {
        Self { what, remedy, broken_in_sqlite: broken, broken_in_postgres: broken }
    }
}

/// All rules. What is forgotten or out of sight breaks none: it is being deleted, perhaps at this moment.
const RULES: &[Rule] = &[
    Rule::of_both(
        "TempIDs belong to no account",
        "nobody is found by them; restore a backup if the accounts were not removed on purpose",
        "SELECT t.account AS number FROM temp_id AS t
         WHERE t.forget_at > {now} AND NOT EXISTS (SELECT 1 FROM account AS a WHERE a.id = t.account)",
    ),
    Rule::of_both(
        "notices point at no account",
        "nobody hears of them; restore a backup if the accounts were not removed on purpose",
        "SELECT t.account AS number FROM notice AS t
         WHERE t.forget_at > {now} AND NOT EXISTS (SELECT 1 FROM account AS a WHERE a.id = t.account)",
    ),
    Rule::of_both(
        "uploads belong to no account",
        "nobody can continue them; restore a backup if the accounts were not removed on purpose",
        "SELECT u.id AS number FROM upload AS u WHERE u.forget_at > {now} AND u.account IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM account AS a WHERE a.id = u.account)",
    ),
    Rule::of_both(
        "upload codes were redeemed by no account",
        "revoke them with `bluetrace code revoke`, and issue others",
        "SELECT t.id AS number FROM upload_code AS t WHERE t.forget_at > {now} AND t.account IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM account AS a WHERE a.id = t.account)",
    ),
    Rule::of_both(
        "handshake PINs belong to no account",
        "they do no harm, and are forgotten in their time",
        "SELECT t.account AS number FROM handshake_pin AS t
         WHERE t.forget_at > {now} AND NOT EXISTS (SELECT 1 FROM account AS a WHERE a.id = t.account)",
    ),
    Rule::of_both(
        "accounts have the user id of another",
        "TempIDs of one lead to the other: restore a backup",
        "SELECT min(id) AS number FROM account WHERE user_id IS NOT NULL GROUP BY user_id HAVING count(*) > 1",
    ),
    Rule::of_both(
        "accounts have the username of another",
        "restore a backup",
        "SELECT min(id) AS number FROM account GROUP BY username HAVING count(*) > 1",
    ),
    Rule {
        what: "uploads have other records than they count, or gaps among them",
        remedy: LOST_RECORDS,
        broken_in_sqlite: "SELECT u.id AS number FROM upload AS u WHERE u.forget_at > {now} AND u.account IS NOT NULL
            AND (SELECT count(*) FROM uploaded_record AS r
                 WHERE r.place BETWEEN u.id << 20 AND (u.id << 20) + 1048575) <> {durable}",
        broken_in_postgres: "SELECT u.id AS number FROM upload AS u WHERE u.forget_at > {now} AND u.account IS NOT NULL
            AND (SELECT (count(*), coalesce(max(r.place) + 1, 0)) FROM uploaded_record AS r WHERE r.upload = u.id)
                <> (u.durable, u.durable)",
    },
    Rule::of_both(
        "uploads have more records than were announced",
        LOST_RECORDS,
        "SELECT u.id AS number FROM upload AS u
         WHERE u.forget_at > {now} AND u.account IS NOT NULL AND {durable} > u.records",
    ),
    Rule::of_both(
        "complete uploads lack records, or their summary",
        LOST_RECORDS,
        "SELECT u.id AS number FROM upload AS u
         WHERE u.forget_at > {now} AND u.account IS NOT NULL AND u.finished IS NOT NULL
             AND (u.counted IS NULL OR u.resolved IS NULL OR u.unknown IS NULL OR u.invalid IS NULL
                  OR u.counted <> u.records OR {durable} <> u.records)",
    ),
    Rule {
        what: "records belong to no upload",
        remedy: "nobody is found by them, and they are not forgotten by themselves: restore a backup",
        broken_in_sqlite: "SELECT r.place >> 20 AS number FROM uploaded_record AS r
            WHERE NOT EXISTS (SELECT 1 FROM upload AS u WHERE u.id = r.place >> 20)",
        // those of uploads that are forgotten are dropped with their day
        broken_in_postgres: "SELECT r.upload AS number FROM uploaded_record AS r WHERE r.upload >= {tomorrow}
            AND NOT EXISTS (SELECT 1 FROM upload AS u WHERE u.id = r.upload)",
    },
    Rule {
        what: "records are neither whole nor malformed",
        remedy: LOST_RECORDS,
        broken_in_sqlite: "SELECT r.place >> 20 AS number FROM uploaded_record AS r
            WHERE (r.temp_id IS NULL) <> (r.start IS NULL) OR (r.temp_id IS NULL) <> (r.expiry IS NULL)
                OR r.expiry < r.start",
        broken_in_postgres: "SELECT r.upload AS number FROM uploaded_record AS r
            WHERE (r.temp_id IS NULL) <> (r.start IS NULL) OR (r.temp_id IS NULL) <> (r.expiry IS NULL)
                OR r.expiry < r.start",
    },
    Rule::of_both(
        "TempIDs end before they begin",
        "restore a backup",
        "SELECT t.account AS number FROM temp_id AS t WHERE t.expiry < t.start",
    ),
    Rule::of_both(
        "live sealing keys have no bytes",
        "nobody is found by what they sealed: restore a backup",
        "SELECT k.id AS number FROM sealing_key AS k
         WHERE k.state = 0 AND NOT EXISTS (SELECT 1 FROM sealing_key_bytes AS b WHERE b.id = k.id)",
    ),
    Rule {
        what: "counters are behind the numbers that were given",
        remedy: "numbers could be given twice: restore a backup",
        broken_in_sqlite: "SELECT s.seq AS number FROM sqlite_sequence AS s
            WHERE (s.name = 'account' AND s.seq < (SELECT max(id) FROM account))
               OR (s.name = 'upload' AND s.seq < (SELECT max(id) FROM upload))
               OR (s.name = 'notice' AND s.seq < (SELECT max(id) FROM notice))
               OR (s.name = 'upload_code' AND s.seq < (SELECT max(id) FROM upload_code))
               OR (s.name = 'one_time_code' AND s.seq < (SELECT max(id) FROM one_time_code))",
        broken_in_postgres: "SELECT a.id AS number FROM account AS a
            WHERE a.notices < (SELECT max(n.number) FROM notice AS n WHERE n.account = a.id)
            UNION ALL SELECT l.value FROM latch AS l
            WHERE l.name = 'codes' AND l.value < (SELECT max(id) FROM upload_code)",
    },
    Rule {
        what: "counts of unknown usernames are wrong",
        remedy: "restore a backup; until then too many or too few of them are remembered",
        broken_in_sqlite: "SELECT strangers AS number FROM tally WHERE strangers <> (SELECT count(*) FROM stranger)",
        broken_in_postgres: "",
    },
    Rule {
        what: "one-time codes have no row to lock for their number",
        remedy: "two servers could take one twice: restore a backup",
        broken_in_sqlite: "",
        broken_in_postgres: "SELECT t.id AS number FROM one_time_code AS t
            WHERE t.forget_at > {now} AND NOT EXISTS (SELECT 1 FROM asking_number AS a WHERE a.number = t.number)",
    },
];

/// How many records of an upload `u` are durable: one more than the last one's place.
const DURABLE_IN_SQLITE: &str = "(SELECT ifnull(max(m.place) & 1048575, -1) + 1 FROM uploaded_record AS m
    WHERE m.place BETWEEN u.id << 20 AND (u.id << 20) + 1048575)";

const DAY_S: i64 = 24 * 60 * 60;

const RESTORE: &str = "stop the servers, and restore a backup";

const RESTORE_KEY: &str = "put the master.key in place that the servers of this authority have";

const LOST_RECORDS: &str =
    "records are lost or doubled: restore a backup, or ask the uploader to upload again under another id";
