//! Uploads on PostgreSQL, by four connections at once, against the same rows inserted by four bare connections: as arrays, which is what
//! the store does, and by `COPY`; and by four connections to two servers, against the same to one. The cluster is private, and durable
//! as the store wants it.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use bluetrace_authority::Policy;
use bluetrace_protocol::{Timestamp, UploadedRecord};
use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

use crate::cluster::Cluster;
use crate::harness::{Bench, Line, Unit, Wanted, folder_for_data};
use crate::line_client::LineClient;
use crate::system::System;
use crate::uploads::{BATCH, DISTINCT, RECORDS, import, lines, records, stream};

const CONNECTIONS: usize = 4;

const ROUNDS: usize = 5;

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    let upload = Line {
        name: "upload, PostgreSQL, 4 connections, pipelined",
        limit: "the same rows as arrays of 4,096 by 4 bare connections",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.6),
    };
    let copy = Line {
        name: "PostgreSQL alone, arrays of 4,096 by 4 connections",
        limit: "COPY of 4,096 by 4 connections",
        wanted: Wanted::ToKnow,
        ..upload
    };
    let small = Line {
        name: "PostgreSQL alone, arrays of 1,000 by 4 connections",
        limit: "COPY of 1,000 by 4 connections",
        ..copy
    };
    let two = Line {
        name: "upload, PostgreSQL, 4 connections, to 2 servers",
        limit: "the same to 1 server",
        wanted: Wanted::AtLeast(0.9),
        ..upload
    };
    if ![upload, two, copy, small].iter().any(|line| bench.wants(line.name)) {
        return;
    }
    let cluster = Cluster::start_durable_in(&folder_for_data());
    let url = cluster.url(&cluster.database());
    let records: Arc<[UploadedRecord]> = records(RECORDS, DISTINCT).collect();
    let (systems, mut to_one, mut to_two, raw) = runtime.block_on(async {
        let folder = || tempfile::tempdir_in(folder_for_data()).unwrap();
        let system = System::start_on(open(&url, [7; 32]), folder(), Policy::default(), CONNECTIONS + 1).await;
        import(&system, &records[..usize::try_from(DISTINCT).unwrap()]).await;
        let second = system.start_beside(open(&url, [8; 32]), folder()).await;
        let (mut to_one, mut to_two) = (Vec::new(), Vec::new());
        for number in 0..CONNECTIONS {
            // not the one that was met
            let account = (number + 2) % (CONNECTIONS + 1);
            to_one.push(system.enter(account).await);
            to_two.push(if number % 2 == 0 { system.enter(account).await } else { second.enter(account).await });
        }
        ([system, second], to_one, to_two, Raw::connect(&url).await)
    });
    let lines: Arc<[u8]> = lines(&records).into();
    let round = Cell::new(0);
    let total = f64::from(RECORDS) * CONNECTIONS as f64;
    let upload_by = |clients: &mut Vec<LineClient>| {
        round.set(round.get() + 1);
        let start = Instant::now();
        runtime.block_on(async {
            let mut uploads = JoinSet::new();
            for mut client in clients.drain(..) {
                let (lines, round) = (Arc::clone(&lines), round.get());
                uploads.spawn(async move {
                    stream(&mut client, RECORDS, &lines, round).await;
                    client
                });
            }
            *clients = uploads.join_all().await;
        });
        total / start.elapsed().as_secs_f64()
    };
    let raw = |how: How, batch: usize| {
        let start = Instant::now();
        runtime.block_on(raw.insert(&records, how, batch));
        total / start.elapsed().as_secs_f64()
    };
    bench.compare(upload, ROUNDS, || upload_by(&mut to_one), || raw(How::Arrays, BATCH));
    bench.compare(two, ROUNDS, || upload_by(&mut to_two), || upload_by(&mut to_one));
    bench.compare(copy, ROUNDS, || raw(How::Arrays, BATCH), || raw(How::Copy, BATCH));
    bench.compare(small, ROUNDS, || raw(How::Arrays, 1_000), || raw(How::Copy, 1_000));
    drop(systems);
}

/// A store as the binary opens it.
pub(crate) fn open(url: &str, seed: [u8; 32]) -> Arc<PostgresStore> {
    let place = PostgresPlace::parse(url, None).unwrap();
    Arc::new(PostgresStore::open(place, PostgresOptions::default(), "mark", seed).unwrap())
}

#[derive(Clone, Copy)]
enum How {
    Arrays,
    Copy,
}

/// Bare connections, which insert into a table like the store's own.
struct Raw {
    clients: Vec<Arc<Client>>,
    next_upload: AtomicI64,
}

impl Raw {
    async fn connect(url: &str) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            clients.push(Arc::new(client));
        }
        let table = "CREATE TABLE bare (LIKE uploaded_record INCLUDING ALL) PARTITION BY RANGE (upload);
                     CREATE TABLE bare_0 PARTITION OF bare FOR VALUES FROM (0) TO (1000000)";
        clients[0].batch_execute(table).await.unwrap();
        Self { clients, next_upload: AtomicI64::new(0) }
    }

    /// Inserts the records by each connection, a statement and a commit for each batch.
    async fn insert(&self, records: &Arc<[UploadedRecord]>, how: How, batch: usize) {
        let mut inserts = JoinSet::new();
        for client in &self.clients {
            let (client, records) = (Arc::clone(client), Arc::clone(records));
            let upload = self.next_upload.fetch_add(1, Ordering::Relaxed);
            inserts.spawn(async move {
                let mut place = 0;
                for records in records.chunks(batch) {
                    match how {
                        How::Arrays => insert_arrays(&client, upload, place, records).await,
                        How::Copy => copy(&client, upload, place, records).await,
                    }
                    place += i64::try_from(records.len()).unwrap();
                }
            });
        }
        inserts.join_all().await;
    }
}

async fn insert_arrays(client: &Client, upload: i64, first: i64, records: &[UploadedRecord]) {
    let ids: Vec<&str> = records.iter().map(|heard| heard.record.temp_id.reveal()).collect();
    let starts: Vec<i64> = records.iter().map(|heard| heard.record.window.start().as_unix()).collect();
    let expiries: Vec<i64> = records.iter().map(|heard| heard.record.window.expiry().as_unix()).collect();
    let received: Vec<Option<i64>> = records.iter().map(|heard| heard.received.map(Timestamp::as_unix)).collect();
    let statement = "INSERT INTO bare (upload, place, temp_id, start, expiry, received)
         SELECT $1, $2 + r.place, r.temp_id, r.start, r.expiry, r.received
         FROM unnest($3, $4, $5, $6) WITH ORDINALITY AS r (temp_id, start, expiry, received, place)";
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
        (&upload, Type::INT8),
        (&first, Type::INT8),
        (&ids, Type::TEXT_ARRAY),
        (&starts, Type::INT8_ARRAY),
        (&expiries, Type::INT8_ARRAY),
        (&received, Type::INT8_ARRAY),
    ];
    client.execute_typed(statement, &values).await.unwrap();
}

async fn copy(client: &Client, upload: i64, first: i64, records: &[UploadedRecord]) {
    let statement = "COPY bare (upload, place, temp_id, start, expiry, received) FROM STDIN BINARY";
    let sink = client.copy_in(statement).await.unwrap();
    let kinds = [Type::INT8, Type::INT8, Type::TEXT, Type::INT8, Type::INT8, Type::INT8];
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &kinds));
    for (place, heard) in (first..).zip(records) {
        let window = heard.record.window;
        let received = heard.received.map(Timestamp::as_unix);
        let (start, expiry) = (window.start().as_unix(), window.expiry().as_unix());
        writer
            .as_mut()
            .write(&[&upload, &place, &heard.record.temp_id.reveal(), &start, &expiry, &received])
            .await
            .unwrap();
    }
    writer.finish().await.unwrap();
}
