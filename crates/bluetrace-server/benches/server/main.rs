//! The server against its limits: `cargo bench -p bluetrace-server`, or with a part of a line's name behind it.
//!
//! The server is the real one, put together as in the binary, on loopback and on a real disk. What each line is compared with
//! stands beside it in the output; `docs/benchmarks.md` says what the figures mean.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what a bench cannot set up ends it")]
#![expect(clippy::cast_precision_loss, clippy::print_stdout, reason = "counts are small, and a bench is for reading")]

#[path = "../../tests/support/postgres.rs"]
#[expect(dead_code, reason = "each program uses a part of it")]
mod cluster;
mod forgetting;
#[path = "../harness/mod.rs"]
mod harness;
mod http_client;
mod https;
mod idle;
mod keyring;
mod line_client;
mod logins;
mod postgres;
mod raw_sqlite;
mod registry;
mod round_trips;
mod system;
mod temp_ids;
mod uploads;

use harness::Bench;
use tokio::runtime::Builder;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, house] = &*words
        && word == idle::CHILD
    {
        return idle::serve_until_told(house);
    }
    let Some(mut bench) = Bench::start("server") else { return };
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    round_trips::run(&mut bench, &runtime);
    uploads::pipelined(&mut bench, &runtime);
    uploads::stop_and_wait(&mut bench, &runtime);
    postgres::run(&mut bench, &runtime);
    registry::run(&mut bench, &runtime);
    forgetting::run(&mut bench, &runtime);
    temp_ids::run(&mut bench, &runtime);
    keyring::run(&mut bench, &runtime);
    https::temp_ids(&mut bench, &runtime);
    https::uploads(&mut bench, &runtime);
    logins::run(&mut bench, &runtime);
    idle::run(&mut bench, &runtime);
    bench.finish().unwrap();
}
