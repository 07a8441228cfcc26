//! The store in PostgreSQL keeps the laws of every store, with any number of servers, and what it has acknowledged, whatever
//! happens to the database.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics where something is not as it should be")]

#[path = "support/postgres.rs"]
mod postgres;

use std::time::Duration;

use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};

use crate::postgres::{CLUSTER, Cluster};

mod laws {
    bluetrace_authority::store_conformance!(super::fresh());
}

/// An empty store, in a database of its own.
fn fresh() -> ((), PostgresStore) {
    ((), server(&CLUSTER, &CLUSTER.database()))
}

/// One server on a database.
fn server(cluster: &Cluster, database: &str) -> PostgresStore {
    let place = PostgresPlace::parse(&cluster.url(database), None).unwrap();
    PostgresStore::open(place, options(), "mark", rand::random()).unwrap()
}

fn options() -> PostgresOptions {
    PostgresOptions {
        // a case asks many questions at once, and machines are slow
        max_waiting: 100_000,
        patience: Duration::from_mins(5),
        answer_timeout: Duration::from_mins(5),
        requires_durability: false,
        ..PostgresOptions::default()
    }
}
