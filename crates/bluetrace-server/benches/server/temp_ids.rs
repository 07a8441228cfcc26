//! `TempIDs` asked for one by one, each durable before it is given out.

use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::harness::{Bench, Line, Unit, Wanted, folder_for_data};
use crate::line_client::LineClient;
use crate::raw_sqlite::RawSqlite;
use crate::system::{DATABASE, System};
use crate::uploads::temp_id;

const CONNECTIONS: usize = 256;
const EACH: usize = 80;
const ROUNDS: usize = 9;
/// Issued before: three weeks of a hundred and fifty people. Almost every further one then costs a page of its own, as in
/// the field.
const BEFORE: usize = 300_000;
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
        wanted: Wanted::ToKnow,
        ..alike
    };
    for (line, batch) in [(alike, CONNECTIONS), (large, 4_096)] {
        if !bench.wants(line.name) {
            continue;
        }
        let (system, clients) = runtime.block_on(async {
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
        let folder = tempfile::tempdir_in(folder_for_data()).unwrap();
        let mut raw = RawSqlite::open(&folder);
        let mut ids = (0..).map(temp_id);
        raw.insert_temp_ids(&mut ids, BEFORE, BEFORE);
        let mut others = (1 << 40..).map(temp_id);
        RawSqlite::beside(&system.folder().join(DATABASE)).insert_temp_ids(&mut others, BEFORE, BEFORE);
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
