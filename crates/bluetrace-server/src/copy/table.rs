//! Owns what a description of a table is made of ([`Table`]), and the statements that follow from one.

/// A table of both databases: what it holds, and how each of them says so.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name in both.
    pub(crate) name: &'static str,
    /// What it holds, in the order in which it is read, digested and written.
    pub(crate) columns: &'static [Column],
    /// Places among the columns of those that order its rows, and tell from which row on to read.
    pub(crate) key: &'static [usize],
    pub(crate) sqlite: Side,
    pub(crate) postgres: Side,
}

/// How one of the databases holds a table. What is not said follows from the columns.
#[derive(Debug)]
pub(crate) struct Side {
    /// What follows `SELECT ... FROM`, instead of the table as `t` in the order of its key. `{after}` stands where the condition is put
    /// that the key comes after the given one, and `{limit}` for the most rows.
    pub(crate) rest: Option<&'static str>,
    /// That condition, instead of the one that the key's columns make.
    pub(crate) after: Option<&'static str>,
    /// Statements that write rows, instead of the plain insert. For SQLite a row's values are `?1` and so on in the order of the columns, and
    /// the first statement has to write one row. For PostgreSQL `n` has rows of all columns by their names, and the first has to write as many.
    pub(crate) write: Option<&'static [&'static str]>,
    /// Columns of it that are not read by these names, since the description holds them in another form or not at all. For a test, which
    /// compares the descriptions with the catalogues.
    #[cfg_attr(not(test), expect(dead_code, reason = "for that test alone"))]
    pub(crate) own: &'static [&'static str],
}

/// One value of each row.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) role: Role,
    pub(crate) in_sqlite: Source,
    pub(crate) in_postgres: Source,
}

/// Where a database has a value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// In the column of the same name.
    Same,
    /// In what an expression says.
    Is(&'static str),
}

/// What a value has to be for this program to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any number that is not negative.
    Id,
    /// Any number of 32 bits that is not negative.
    Count,
    /// A number of 16 bits.
    Small,
    Flag,
    /// Seconds since 1970.
    Time,
    /// Milliseconds since 1970.
    TimeMs,
    Text,
    Username,
    TempId,
    UploadName,
    /// So many bytes.
    Bytes(usize),
}

/// What a value is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the same in every store.
    Value,
    /// The same, and may be absent.
    Optional,
    /// Each store has its own, and the same order by it within equal values of the key's columns before it.
    Order,
    /// Each store has its own.
    Own,
    /// Each store has its own, and where there is none the row is out of sight and left out.
    Presence,
}

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Integer,
    Text,
    Bytes,
}

/// The databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Kind {
    pub(crate) const fn storage(self) -> Storage {
        match self {
            Self::Id | Self::Count | Self::Small | Self::Flag | Self::Time | Self::TimeMs => Storage::Integer,
            Self::Text | Self::Username | Self::TempId | Self::UploadName => Storage::Text,
            Self::Bytes(_) => Storage::Bytes,
        }
    }

    /// The type that PostgreSQL's catalogue says of such a column.
    #[cfg(test)]
    pub(crate) const fn postgres_type(self) -> &'static str {
        match (self, self.storage()) {
            (Self::Small, _) => "smallint",
            (Self::Flag, _) => "boolean",
            (_, Storage::Integer) => "bigint",
            (_, Storage::Text) => "text",
            (_, Storage::Bytes) => "bytea",
        }
    }

    /// The type that SQLite's catalogue says of such a column.
    #[cfg(test)]
    pub(crate) const fn sqlite_type(self) -> &'static str {
        match self.storage() {
            Storage::Integer => "INTEGER",
            Storage::Text => "TEXT",
            Storage::Bytes => "BLOB",
        }
    }
}

impl Column {
    pub(crate) const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, role: Role::Value, in_sqlite: Source::Same, in_postgres: Source::Same }
    }

    pub(crate) const fn optional(self) -> Self {
        self.with_role(Role::Optional)
    }

    pub(crate) const fn with_role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    pub(crate) const fn in_sqlite(self, expression: &'static str) -> Self {
        Self { in_sqlite: Source::Is(expression), ..self }
    }

    pub(crate) const fn in_postgres(self, expression: &'static str) -> Self {
        Self { in_postgres: Source::Is(expression), ..self }
    }

    pub(crate) const fn in_both(self, expression: &'static str) -> Self {
        self.in_sqlite(expression).in_postgres(expression)
    }

    /// Whether there may be none.
    pub(crate) const fn may_be_absent(&self) -> bool {
        matches!(self.role, Role::Optional)
    }

    fn read_by(&self, engine: Engine) -> String {
        match (engine, self.source(engine), self.kind) {
            (_, Source::Is(expression), _) => expression.to_owned(),
            (Engine::Postgres, Source::Same, Kind::Flag) => format!("t.{}::integer::bigint", self.name),
            (Engine::Postgres, Source::Same, Kind::Small) => format!("t.{}::bigint", self.name),
            (_, Source::Same, _) => format!("t.{}", self.name),
        }
    }

    pub(crate) const fn source(&self, engine: Engine) -> Source {
        match engine {
            Engine::Sqlite => self.in_sqlite,
            Engine::Postgres => self.in_postgres,
        }
    }
}

impl Side {
    /// One that follows from the columns.
    pub(crate) const fn plain() -> Self {
        Self { rest: None, after: None, write: None, own: &[] }
    }
}

impl Table {
    /// One that is the same in both databases, in the order of its first column.
    pub(crate) const fn plain(name: &'static str, columns: &'static [Column]) -> Self {
        Self { name, columns, key: &[0], sqlite: Side::plain(), postgres: Side::plain() }
    }

    /// Whether it has no rows, but tells which numbers were given.
    pub(crate) fn is_counter(&self) -> bool {
        self.name == "counter"
    }

    /// The place of a column.
    pub(crate) fn place_of(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|found| found.name == column)
    }

    pub(crate) const fn side(&self, engine: Engine) -> &Side {
        match engine {
            Engine::Sqlite => &self.sqlite,
            Engine::Postgres => &self.postgres,
        }
    }

    /// Reads rows in the order of the key: from the first one, or from behind a key whose values are the parameters from 1 on.
    pub(crate) fn select(&self, engine: Engine, is_after_key: bool, limit: Option<usize>) -> String {
        let side = self.side(engine);
        let columns: Vec<_> = self.columns.iter().map(|column| column.read_by(engine)).collect();
        let key: Vec<_> = self.key_columns().map(|column| column.read_by(engine)).collect();
        let mark = if engine == Engine::Sqlite { '?' } else { '$' };
        let after = match (is_after_key, side.after) {
            (false, _) => "true".to_owned(),
            (true, Some(after)) => after.to_owned(),
            (true, None) => {
                let values: Vec<_> = (1..=key.len()).map(|place| format!("{mark}{place}")).collect();
                format!("({}) > ({})", key.join(", "), values.join(", "))
            }
        };
        let limit = limit.map_or_else(String::new, |limit| format!("LIMIT {limit}"));
        let rest = side.rest.map_or_else(
            || format!("{} AS t WHERE {{after}} ORDER BY {} {{limit}}", self.name, key.join(", ")),
            str::to_owned,
        );
        let rest = rest.replace("{after}", &after).replace("{limit}", &limit);
        format!("SELECT {} FROM {rest}", columns.join(", "))
    }

    /// Statements that write rows.
    pub(crate) fn inserts(&self, engine: Engine) -> Vec<String> {
        if let Some(statements) = self.side(engine).write {
            return statements.iter().map(|statement| (*statement).to_owned()).collect();
        }
        let names: Vec<_> = self.columns.iter().map(|column| column.name).collect();
        let values: Vec<_> = match engine {
            Engine::Sqlite => (1..=names.len()).map(|place| format!("?{place}")).collect(),
            Engine::Postgres => self.columns.iter().map(written_by_postgres).collect(),
        };
        let (names, values) = (names.join(", "), values.join(", "));
        vec![match engine {
            Engine::Sqlite => format!("INSERT INTO {} ({names}) VALUES ({values})", self.name),
            Engine::Postgres => format!("INSERT INTO {} ({names}) SELECT {values} FROM n", self.name),
        }]
    }

    pub(crate) fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().filter_map(|place| self.columns.get(*place))
    }
}

fn written_by_postgres(column: &Column) -> String {
    match column.kind {
        Kind::Flag => format!("n.{} <> 0", column.name),
        Kind::Small => format!("n.{}::smallint", column.name),
        Kind::Id
        | Kind::Count
        | Kind::Time
        | Kind::TimeMs
        | Kind::Text
        | Kind::Username
        | Kind::TempId
        | Kind::UploadName
        | Kind::Bytes(_) => format!("n.{}", column.name),
    }
}
