//! A request that needs no disk, against a server that only echoes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::harness::{Bench, Line, Unit, Wanted};
use crate::line_client::LineClient;
use crate::system::System;

const LINE: Line = Line {
    name: "round trips, RT",
    limit: "a line echo of the same answer",
    unit: Unit::PerSecond,
    wanted: Wanted::AtLeast(0.7),
};
const ROUNDS: usize = 25;
const REQUESTS: usize = 2_000;
const REQUEST: &[u8] = b"{\"commandType\":\"RT\"}\n";

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    if !bench.wants(LINE.name) {
        return;
    }
    let (_system, mut ours, mut echo) = runtime.block_on(async {
        let system = System::start(1).await;
        let mut ours = system.enter(0).await;
        ours.send(REQUEST).await;
        let answer = ours.line().await.to_owned();
        assert!(answer.contains("token"), "{answer}");
        let echo = LineClient::connect(echo_server(answer.into_bytes()).await).await;
        (system, ours, echo)
    });
    bench.compare(LINE, ROUNDS, || runtime.block_on(rate(&mut ours)), || runtime.block_on(rate(&mut echo)));
}

async fn rate(client: &mut LineClient) -> f64 {
    let start = Instant::now();
    for _ in 0..REQUESTS {
        client.send(REQUEST).await;
        assert!(client.line().await.len() > REQUEST.len());
    }
    REQUESTS as f64 / start.elapsed().as_secs_f64()
}

/// Answers every line with `answer`, and does nothing else.
async fn echo_server(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = Vec::with_capacity(256);
        while stream.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
            for _ in buffer.iter().filter(|byte| **byte == b'\n') {
                stream.write_all(&answer).await.unwrap();
            }
            buffer.clear();
        }
    });
    address
}
