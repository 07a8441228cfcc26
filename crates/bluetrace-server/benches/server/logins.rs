//! Logins, against password hashing alone on as many threads as there are cores.

use std::thread;
use std::time::Instant;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::harness::{Bench, Line, Unit, Wanted};
use crate::line_client::LineClient;
use crate::system::{System, cores};

const LINE: Line = Line {
    name: "logins, 32 at once",
    limit: "Argon2id of 19 MiB and 2 passes on every core",
    unit: Unit::PerSecond,
    wanted: Wanted::AtLeast(0.85),
};
const ROUNDS: usize = 9;
const CLIENTS: usize = 32;
const EACH: usize = 3;

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    if !bench.wants(LINE.name) {
        return;
    }
    let system = runtime.block_on(async {
        let system = System::start(0).await;
        for number in 0..CLIENTS {
            system.open_account_with(&format!("user{number}"), "a password").await;
        }
        system
    });
    let ours = || {
        let start = Instant::now();
        runtime.block_on(async {
            let mut storm = JoinSet::new();
            for number in 0..CLIENTS {
                let address = system.address;
                storm.spawn(async move {
                    for _ in 0..EACH {
                        let mut client = LineClient::connect(address).await;
                        client.send(format!("user{number}\n").as_bytes()).await;
                        assert!(client.line().await.starts_with("331 "));
                        client.send(b"a password\n").await;
                        assert!(client.line().await.starts_with("230 "));
                    }
                });
            }
            storm.join_all().await;
        });
        (CLIENTS * EACH) as f64 / start.elapsed().as_secs_f64()
    };
    let limit = || {
        let each = CLIENTS * EACH / cores();
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..cores() {
                scope.spawn(|| hash(each));
            }
        });
        (cores() * each) as f64 / start.elapsed().as_secs_f64()
    };
    bench.compare(LINE, ROUNDS, ours, limit);
}

fn hash(times: usize) {
    let params = Params::new(19 * 1_024, 2, 1, Some(32)).unwrap();
    let mut memory = vec![Block::default(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut output = [0; 32];
    for _ in 0..times {
        argon2.hash_password_into_with_memory(b"a password", &[7; 16], &mut output, &mut memory).unwrap();
    }
}
