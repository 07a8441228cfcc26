//! `TempIDs` asked for one by one, each durable before it is given out.

use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::harness::{Bench, Line, Unit, Wanted};
use crate::line_client::LineClient;
use crate::raw_sqlite::RawSqlite;
use crate::system::System;
use crate::uploads::temp_id;

const CONNECTIONS: usize = 256;
const EACH: usize = 80;
const ROUNDS: usize = 9;
const REQUEST: &[u8] = b"{\"commandType\":\"DT\",\"numOfRecv\":1}\n";

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    let alike = Line {
        name: "TempIDs one by one, 256 connections",
        limit: "raw SQLite, the same table in batches of 256",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.5),
    };
    let large = Line {
        name: "TempIDs one by one, 256 connections, to large batches",
        limit: "raw SQLite, the same table in batches of 4,096",
        ..alike
    };
    for (line, batch) in [(alike, CONNECTIONS), (large, 4_096)] {
        if !bench.wants(line.name) {
            continue;
        }
        let (_system, clients) = runtime.block_on(async {
            let system = System::start(CONNECTIONS).await;
            let mut clients = Vec::new();
            for account in 0..CONNECTIONS {
                clients.push(system.enter(account).await);
            }
            (system, clients)
        });
        let mut clients = Some(clients);
        let count = CONNECTIONS * EACH;
        let ours = || {
            let start = Instant::now();
            clients = Some(runtime.block_on(download(clients.take().unwrap())));
            count as f64 / start.elapsed().as_secs_f64()
        };
        let mut raw = RawSqlite::open();
        let mut ids = (0..).map(temp_id);
        let limit = || {
            let start = Instant::now();
            raw.insert_temp_ids(&mut ids, count, batch);
            count as f64 / start.elapsed().as_secs_f64()
        };
        bench.compare(line, ROUNDS, ours, limit);
    }
}

async fn download(clients: Vec<LineClient>) -> Vec<LineClient> {
    let mut downloads = JoinSet::new();
    for mut client in clients {
        downloads.spawn(async move {
            for _ in 0..EACH {
                client.send(REQUEST).await;
                assert!(client.line().await.contains("data"));
            }
            client
        });
    }
    downloads.join_all().await
}
