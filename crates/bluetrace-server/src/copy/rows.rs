//! Owns rows on their way from one database to another ([`Batch`]), where reading goes on behind them ([`Key`]), and the digest by which
//! two databases are compared ([`Digester`]).

use bluetrace_protocol::{Moment, TempId, Timestamp, UploadId, Username};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::table::{Column, Kind, Role, Storage, Table};

/// Some rows of a table, a list for each of its columns.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) columns: Vec<Values>,
    rows: usize,
    /// Where to go on, also behind rows that were left out. `None` if no row was read.
    pub(crate) last: Option<Key>,
}

/// A column's values.
#[derive(Debug)]
pub(crate) enum Values {
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Absent,
    Integer(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// The values of a row by which rows are ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key(pub(crate) Vec<KeyValue>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyValue {
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A row that this program could not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) column: &'static str,
    /// Which row of the table, where a number tells it.
    pub(crate) number: Option<i64>,
}

impl Batch {
    pub(crate) fn new(table: &Table) -> Self {
        let empty = |column: &Column| match column.kind.storage() {
            Storage::Integer => Values::Integers(Vec::new()),
            Storage::Text => Values::Texts(Vec::new()),
            Storage::Bytes => Values::Bytes(Vec::new()),
        };
        Self { columns: table.columns.iter().map(empty).collect(), rows: 0, last: None }
    }

    /// Adds a row, unless it is out of sight. A value that is stored as something else counts as absent.
    pub(crate) fn push(&mut self, table: &Table, row: &[Value<'_>]) {
        let key = table.key.iter().filter_map(|place| row.get(*place));
        self.last = Some(Key(key.map(|value| value.to_key()).collect()));
        let mut values = table.columns.iter().zip(row);
        if values.any(|(column, value)| column.role == Role::Presence && *value == Value::Absent) {
            return;
        }
        for (values, value) in self.columns.iter_mut().zip(row) {
            match (values, value) {
                (Values::Integers(values), Value::Integer(value)) => values.push(Some(*value)),
                (Values::Texts(values), Value::Text(value)) => values.push(Some((*value).to_owned())),
                (Values::Bytes(values), Value::Bytes(value)) => values.push(Some(value.to_vec())),
                (Values::Integers(values), _) => values.push(None),
                (Values::Texts(values), _) => values.push(None),
                (Values::Bytes(values), _) => values.push(None),
            }
        }
        self.rows += 1;
    }

    pub(crate) const fn len(&self) -> usize {
        self.rows
    }

    /// The value of a column in a row.
    pub(crate) fn value(&self, column: usize, row: usize) -> Value<'_> {
        match self.columns.get(column) {
            Some(Values::Integers(values)) => values.get(row).copied().flatten().map_or(Value::Absent, Value::Integer),
            Some(Values::Texts(values)) => {
                values.get(row).and_then(Option::as_deref).map_or(Value::Absent, Value::Text)
            }
            Some(Values::Bytes(values)) => {
                values.get(row).and_then(Option::as_deref).map_or(Value::Absent, Value::Bytes)
            }
            None => Value::Absent,
        }
    }

    /// The value of a column in a row, by the column's name.
    pub(crate) fn named(&self, table: &Table, column: &str, row: usize) -> Value<'_> {
        table.place_of(column).map_or(Value::Absent, |place| self.value(place, row))
    }

    /// The numbers of a column that has some.
    pub(crate) fn integers(&self, table: &Table, column: &str) -> impl Iterator<Item = i64> {
        let values = table.place_of(column).and_then(|place| self.columns.get(place));
        let values = if let Some(Values::Integers(values)) = values { values.as_slice() } else { &[] };
        values.iter().filter_map(|value| *value)
    }

    /// Rows that this program could not read, one value each.
    pub(crate) fn unreadable(&self, table: &'static Table) -> impl Iterator<Item = Unreadable> {
        (0..self.rows).filter_map(move |row| {
            let mut columns = table.columns.iter().enumerate();
            let (_, column) = columns.find(|(place, column)| !is_readable(column, self.value(*place, row)))?;
            let number = table.key.first().map(|place| self.value(*place, row));
            let number = if let Some(Value::Integer(number)) = number { Some(number) } else { None };
            Some(Unreadable { column: column.name, number })
        })
    }
}

impl Value<'_> {
    fn to_key(self) -> KeyValue {
        match self {
            // what orders rows is never absent where a row is
            Self::Absent => KeyValue::Integer(0),
            Self::Integer(value) => KeyValue::Integer(value),
            Self::Text(value) => KeyValue::Text(value.to_owned()),
            Self::Bytes(value) => KeyValue::Bytes(value.to_vec()),
        }
    }

    /// Appends it so that no other values look the same.
    fn spell(self, to: &mut Vec<u8>) {
        let mut spell = |kind: u8, bytes: &[u8]| {
            to.push(kind);
            to.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            to.extend_from_slice(bytes);
        };
        match self {
            Self::Absent => spell(0, &[]),
            Self::Integer(value) => spell(1, &value.to_be_bytes()),
            Self::Text(value) => spell(2, value.as_bytes()),
            Self::Bytes(value) => spell(3, value),
        }
    }
}

fn is_readable(column: &Column, value: Value<'_>) -> bool {
    match (column.kind, value) {
        (_, Value::Absent) => column.may_be_absent(),
        (Kind::Id, Value::Integer(value)) => value >= 0,
        (Kind::Count, Value::Integer(value)) => u32::try_from(value).is_ok(),
        (Kind::Small, Value::Integer(value)) => i16::try_from(value).is_ok(),
        (Kind::Flag, Value::Integer(value)) => matches!(value, 0 | 1),
        (Kind::Time, Value::Integer(value)) => Timestamp::from_unix(value).is_some(),
        (Kind::TimeMs, Value::Integer(value)) => Moment::from_unix_ms(value).is_some(),
        (Kind::Text, Value::Text(_)) => true,
        (Kind::Username, Value::Text(value)) => Username::parse(value).is_ok(),
        (Kind::TempId, Value::Text(value)) => TempId::parse(value).is_ok(),
        (Kind::UploadName, Value::Text(value)) => UploadId::parse(value).is_ok(),
        (Kind::Bytes(length), Value::Bytes(value)) => value.len() == length,
        _ => false,
    }
}

/// What two databases have to agree on about a table: how many rows there are, and a sum over the hashes of all of them. A sum, because
/// each database has an order of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TableDigest {
    pub(crate) rows: u64,
    sum: [u64; 4],
}

/// Digests a table whose rows come in the order of its key.
#[derive(Debug)]
pub(crate) struct Digester {
    table: &'static Table,
    digest: TableDigest,
    /// The values within which rows are counted, spelt, and how many there have been.
    group: (Vec<u8>, i64),
    spelt: Vec<u8>,
}

impl Digester {
    pub(crate) fn new(table: &'static Table) -> Self {
        Self { table, digest: TableDigest::default(), group: Default::default(), spelt: Vec::new() }
    }

    pub(crate) fn take(&mut self, batch: &Batch) {
        for row in 0..batch.len() {
            let place = self.place_in_group(batch, row);
            self.spelt.clear();
            for (index, column) in self.table.columns.iter().enumerate() {
                match column.role {
                    Role::Own => {}
                    Role::Order => Value::Integer(place).spell(&mut self.spelt),
                    Role::Value | Role::Optional | Role::Presence => batch.value(index, row).spell(&mut self.spelt),
                }
            }
            let hash = Sha256::digest(&self.spelt);
            let (lanes, _) = hash.as_slice().as_chunks::<8>();
            for (sum, lane) in self.digest.sum.iter_mut().zip(lanes) {
                *sum = sum.wrapping_add(u64::from_be_bytes(*lane));
            }
            self.digest.rows += 1;
        }
    }

    pub(crate) const fn digest(&self) -> TableDigest {
        self.digest
    }

    /// The place of a row among those with the same values in the key's columns before the one that orders them.
    fn place_in_group(&mut self, batch: &Batch, row: usize) -> i64 {
        let is_order = |place: &usize| self.table.columns.get(*place).is_some_and(|column| column.role == Role::Order);
        let Some(end) = self.table.key.iter().position(is_order) else { return 0 };
        self.spelt.clear();
        for place in self.table.key.iter().take(end) {
            batch.value(*place, row).spell(&mut self.spelt);
        }
        if self.spelt == self.group.0 {
            self.group.1 += 1;
        } else {
            self.group = (self.spelt.clone(), 0);
        }
        self.group.1
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::TABLES;
    use super::*;

    #[test]
    fn a_digest_depends_on_every_value_but_not_on_the_order_of_rows() {
        let table = TABLES.iter().find(|table| table.name == "handshake_pin").unwrap();
        let rows = |rows: &[(i64, [u8; 16], i64)]| {
            let mut digester = Digester::new(table);
            for (account, seed, forget_at) in rows {
                let mut batch = Batch::new(table);
                batch.push(table, &[Value::Integer(*account), Value::Bytes(seed), Value::Integer(*forget_at)]);
                digester.take(&batch);
            }
            digester.digest()
        };
        let (one, two) = ((1, [7; 16], 9), (2, [8; 16], 9));
        assert_eq!(rows(&[one, two]), rows(&[two, one]));
        for other in [(3, [8; 16], 9), (2, [9; 16], 9), (2, [8; 16], 8)] {
            assert_ne!(rows(&[one, two]), rows(&[one, other]));
        }
        assert_ne!(rows(&[one]), rows(&[one, one]));
    }

    #[test]
    fn numbers_of_notices_count_by_their_order_within_an_account() {
        let table = TABLES.iter().find(|table| table.name == "notice").unwrap();
        let digest = |rows: &[(i64, i64, &str)]| {
            let mut digester = Digester::new(table);
            let mut batch = Batch::new(table);
            for (account, number, advice) in rows {
                let [account, number, zero] = [*account, *number, 0].map(Value::Integer);
                batch.push(table, &[account, number, zero, zero, Value::Text(advice), zero, zero]);
            }
            digester.take(&batch);
            digester.digest()
        };
        let one = digest(&[(1, 1, "a"), (1, 2, "b"), (2, 1, "c")]);
        assert_eq!(one, digest(&[(1, 70, "a"), (1, 72, "b"), (2, 71, "c")]));
        assert_ne!(one, digest(&[(1, 1, "b"), (1, 2, "a"), (2, 1, "c")]));
    }

    #[test]
    fn what_is_out_of_sight_is_left_out_and_read_no_second_time() {
        let table = TABLES.iter().find(|table| table.name == "uploaded_record").unwrap();
        let mut batch = Batch::new(table);
        let mut row = [Value::Absent; 10];
        (row[0], row[3]) = (Value::Integer(5), Value::Integer(6));
        batch.push(table, &row);
        assert_eq!(batch.len(), 0);
        assert_eq!(batch.last, Some(Key(vec![KeyValue::Integer(5), KeyValue::Integer(6)])));
    }

    #[test]
    fn what_this_program_cannot_read_is_named_by_its_column_and_number() {
        let table = TABLES.iter().find(|table| table.name == "handshake_pin").unwrap();
        let mut batch = Batch::new(table);
        batch.push(table, &[Value::Integer(1), Value::Bytes(&[0; 16]), Value::Integer(0)]);
        batch.push(table, &[Value::Integer(2), Value::Bytes(&[0; 15]), Value::Integer(0)]);
        batch.push(table, &[Value::Integer(3), Value::Bytes(&[0; 16]), Value::Absent]);
        let found: Vec<_> = batch.unreadable(table).collect();
        assert_eq!(found[0], Unreadable { column: "seed", number: Some(2) });
        assert_eq!(found[1], Unreadable { column: "forget_at", number: Some(3) });
        assert_eq!(found.len(), 2);
    }
}
