//! The descriptions say all that both databases hold.

use std::collections::BTreeMap;

use cluster::CLUSTER;

use super::table::{Engine, Role, Source};
use super::tables::{DERIVED, countable};
use crate::postgres::{PostgresOptions, PostgresPlace, PostgresStore};
use crate::sqlite::SqliteStore;

#[path = "../../tests/support/postgres.rs"]
#[expect(dead_code, reason = "a part of it is used here")]
mod cluster;

/// The columns that the descriptions say a database has, with the types of those that are read as they are.
fn described(engine: Engine) -> BTreeMap<String, BTreeMap<String, Option<&'static str>>> {
    let mut tables: BTreeMap<String, BTreeMap<String, Option<&'static str>>> = BTreeMap::new();
    for table in countable() {
        let columns = tables.entry(table.name.to_owned()).or_default();
        for column in table.columns {
            if matches!(column.source(engine), Source::Same) && !(column.role == Role::Own && column.name == "id") {
                let kind = match engine {
                    Engine::Sqlite => column.kind.sqlite_type(),
                    Engine::Postgres => column.kind.postgres_type(),
                };
                columns.insert(column.name.to_owned(), Some(kind));
            }
        }
        columns.extend(table.side(engine).own.iter().map(|name| ((*name).to_owned(), None)));
        if table.columns.iter().any(|column| column.role == Role::Own && column.name == "id") {
            columns.insert("id".to_owned(), None);
        }
    }
    tables
}

/// Compares them with the catalogue of a database: `table column type`, a line each.
fn compare(engine: Engine, catalogue: &str) {
    let derived = DERIVED[engine as usize];
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for line in catalogue.lines() {
        let [table, column, kind] = line.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        found.entry(table.to_owned()).or_default().insert(column.to_owned(), kind.to_owned());
    }
    let described = described(engine);
    for (table, columns) in &found {
        if derived.contains(&table.as_str()) {
            continue;
        }
        let Some(expected) = described.get(table) else {
            panic!("{table} is not described, and not said to be derived")
        };
        for (column, kind) in columns {
            match expected.get(column) {
                None => panic!("column {column} of {table} is not described: a copy would lose it"),
                Some(Some(expected)) => assert_eq!(kind, expected, "{table}.{column}"),
                Some(None) => {}
            }
        }
        for column in expected.keys() {
            assert!(columns.contains_key(column), "{table} has no column {column}");
        }
    }
    for table in described.keys().map(String::as_str).chain(derived.iter().copied()) {
        assert!(found.contains_key(table), "there is no table {table}");
    }
}

#[test]
fn every_column_of_sqlite_is_described_and_there() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("authority.sqlite");
    drop(SqliteStore::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let mut query = connection
        .prepare(
            "SELECT t.name || ' ' || c.name || ' ' || c.type FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
             WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'",
        )
        .unwrap();
    let lines: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    compare(Engine::Sqlite, &lines.join("\n"));
}

#[test]
fn every_column_of_postgresql_is_described_and_there() {
    let database = CLUSTER.database();
    let place = PostgresPlace::parse(&CLUSTER.url(&database), None).unwrap();
    let options = PostgresOptions { requires_durability: false, ..PostgresOptions::default() };
    drop(PostgresStore::open(place, options, "mark", [7; 32]).unwrap());
    let columns = "SELECT table_name || ' ' || column_name || ' ' || data_type FROM information_schema.columns
                   WHERE table_schema = 'public'";
    compare(Engine::Postgres, &CLUSTER.sql(&database, columns));
}
