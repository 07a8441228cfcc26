//! Whose ten thousand `TempIDs` are, among ten million that were issued and are stored in PostgreSQL, against a bare question of
//! the same table.

use std::cell::RefCell;
use std::pin::pin;
use std::time::Instant;

use bluetrace_authority::store::Store as _;
use bluetrace_protocol::{TempId, Timestamp};
use bluetrace_server::postgres::PostgresStore;
use tokio::runtime::Runtime;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, Row};

use crate::cluster::Cluster;
use crate::harness::{Bench, Line, Unit, Wanted, folder_for_data, rows_wanted, say};
use crate::postgres::open;
use crate::system::beginning;
use crate::uploads::temp_id;

/// Asked for at once: as many as an upload is traced with.
const ASKED: usize = 10_000;
/// Of each account: a day of windows of a quarter of an hour.
const EACH: u64 = 96;
const ROUNDS: usize = 15;

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    let resolve = Line {
        name: "resolve 10,000 ids, PostgreSQL, registry",
        limit: "one query, = ANY ($1), of the same table",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.7),
    };
    let joined = Line {
        name: "resolve 10,000 ids, PostgreSQL, registry, with the username",
        limit: "one query of both tables",
        wanted: Wanted::ToKnow,
        ..resolve
    };
    if ![resolve, joined].iter().any(|line| bench.wants(line.name)) {
        return;
    }
    let cluster = Cluster::start_durable_in(&folder_for_data());
    let database = cluster.database();
    let url = cluster.url(&database);
    let stored = rows_wanted();
    let start = Instant::now();
    let (store, bare) = runtime.block_on(async {
        let store = open(&url, [7; 32]);
        let (bare, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        fill(&bare, stored).await;
        (store, bare)
    });
    let size = cluster.sql(&database, "SELECT pg_size_pretty(pg_total_relation_size('temp_id'))");
    say(&format!("# {stored} TempIDs stored: {size}, {:.0} s", start.elapsed().as_secs_f64()));
    let bare = Bare { client: bare, asked: RefCell::new(Sample { stored, next: 0 }) };
    let mut sample = Sample { stored, next: 1 << 40 };
    let mut ours = || runtime.block_on(resolved(&store, sample.draw()));
    bench.compare(resolve, ROUNDS, &mut ours, || runtime.block_on(bare.asked(ALONE)));
    bench.compare(joined, ROUNDS, &mut ours, || runtime.block_on(bare.asked(JOINED)));
    runtime.block_on(async move { drop(bare) });
}

async fn resolved(store: &PostgresStore, ids: Vec<String>) -> f64 {
    let ids: Vec<_> = ids.iter().map(|id| TempId::parse(id).unwrap()).collect();
    let start = Instant::now();
    let owners = store.resolve(ids, beginning()).await.unwrap();
    let took = start.elapsed();
    assert!(owners.iter().all(Option::is_some));
    ASKED as f64 / took.as_secs_f64()
}

const ALONE: &str = "SELECT temp_id, start, expiry, account FROM temp_id WHERE temp_id = ANY ($1) AND forget_at > $2";

const JOINED: &str = "SELECT t.temp_id, t.start, t.expiry, t.account, a.username
    FROM temp_id AS t JOIN account AS a ON a.id = t.account WHERE t.temp_id = ANY ($1) AND t.forget_at > $2";

/// A connection without a store around it.
struct Bare {
    client: Client,
    asked: RefCell<Sample>,
}

impl Bare {
    /// Until the last row has come; nothing is made of it.
    async fn asked(&self, statement: &str) -> f64 {
        let ids = self.asked.borrow_mut().draw();
        let now = beginning().as_unix();
        let start = Instant::now();
        let rows: Vec<Row> =
            self.client.query_typed(statement, &[(&ids, Type::TEXT_ARRAY), (&now, Type::INT8)]).await.unwrap();
        let took = start.elapsed();
        assert_eq!(rows.len(), ASKED);
        ASKED as f64 / took.as_secs_f64()
    }
}

/// Ids that are stored, other ones each time.
struct Sample {
    stored: u64,
    next: u64,
}

impl Sample {
    fn draw(&mut self) -> Vec<String> {
        // a step that shares no factor with any round number visits all before it comes back to one
        const STEP: u64 = 7_368_787;
        let ids = (0..ASKED).map(|_| {
            self.next += STEP;
            temp_id(self.next % self.stored)
        });
        ids.collect()
    }
}

/// Stores ids as if they had been issued, without the indexes first: they are made as they were when all rows are there.
async fn fill(client: &Client, count: u64) {
    let indexes = "SELECT pg_get_indexdef(indexrelid), indexrelid::regclass::text FROM pg_index
                   WHERE indrelid = 'temp_id'::regclass AND NOT indisprimary";
    let indexes = client.query(indexes, &[]).await.unwrap();
    client.batch_execute("ALTER TABLE temp_id DROP CONSTRAINT temp_id_pkey").await.unwrap();
    for row in &indexes {
        client.batch_execute(&format!("DROP INDEX {}", row.get::<_, &str>(1))).await.unwrap();
    }
    let accounts = format!(
        "INSERT INTO account (id, username, created)
         SELECT (n + 1) * 7919, '+614' || lpad(n::text, 8, '0'), 0 FROM generate_series(0, {}) AS n",
        count / EACH
    );
    client.batch_execute(&accounts).await.unwrap();
    let sink = client.copy_in("COPY temp_id (temp_id, account, start, expiry, forget_at) FROM STDIN BINARY").await;
    let kinds = [Type::TEXT, Type::INT8, Type::INT8, Type::INT8, Type::INT8];
    let mut writer = pin!(BinaryCopyInWriter::new(sink.unwrap(), &kinds));
    for number in 0..count {
        let account = i64::try_from(number / EACH + 1).unwrap() * 7_919;
        let start = beginning().plus(i64::try_from(number % EACH).unwrap() * 900);
        let [start, expiry, forget_at] = [start, start.plus(900), start.plus(1_815_300)].map(Timestamp::as_unix);
        writer.as_mut().write(&[&temp_id(number), &account, &start, &expiry, &forget_at]).await.unwrap();
    }
    writer.finish().await.unwrap();
    let mut statements =
        "SET maintenance_work_mem = '512MB'; ALTER TABLE temp_id ADD PRIMARY KEY (temp_id);".to_owned();
    for row in &indexes {
        statements.extend([row.get::<_, &str>(0), ";"]);
    }
    client.batch_execute(&statements).await.unwrap();
    for statement in ["VACUUM (ANALYZE) temp_id", "VACUUM (ANALYZE) account", "CHECKPOINT"] {
        client.batch_execute(statement).await.unwrap();
    }
}
