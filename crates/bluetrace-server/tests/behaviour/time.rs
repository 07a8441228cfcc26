//! What depends on time, over an in-memory pipe with a paused clock: deadlines, peers that do not read, the end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bluetrace_protocol::limits::MAX_RECORD_BATCH;
use bluetrace_server::connection;
use bluetrace_server::limits::{IDLE, LOGIN_DEADLINE, READ_BUFFER_LARGE, SHUTDOWN_STALL, WRITE_STALL};
use bluetrace_server::shutdown::{ShutdownSwitch, shutdown_channel};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf, duplex, join, simplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{
    ALICE, ALICES_PASSWORD, Device, PIPE, Pipe, TOKEN, begin, loopback_peer, records, shared_in_memory,
};
use crate::support::LineClient;

#[tokio::test(start_paused = true)]
async fn a_login_that_is_not_finished_in_time_is_told_and_closed() {
    for begun in ["", "half a usern", "+61410999999\n", "+61410999999\nwrong\nhalf a pass"] {
        let (mut client, connected) = Pipe::open().await;
        client.send(begun).await;
        let rest = client.rest().await;
        assert!(rest.last().unwrap().starts_with("421 "), "{rest:?}");
        let waited = connected.elapsed();
        assert!(waited >= LOGIN_DEADLINE && waited < LOGIN_DEADLINE + Duration::from_secs(2), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_told_and_closed() {
    let (mut client, _) = Pipe::open().await;
    client.log_in(ALICE, ALICES_PASSWORD).await;
    let (most, second) = (IDLE.checked_sub(Duration::from_secs(1)).unwrap(), Duration::from_secs(1));
    for pause in [most, most, second] {
        sleep(pause).await;
        client.token().await;
    }
    sleep(IDLE).await;
    let rest = client.rest().await;
    assert!(rest.len() == 1 && rest[0].starts_with("421 "), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_read_no_further_and_gets_every_answer_when_it_reads_again() {
    let (mut client, _) = Pipe::open().await;
    client.log_in(ALICE, ALICES_PASSWORD).await;
    let mut asked = 0;
    while timeout(Duration::from_secs(1), client.stream.write_all(TOKEN.as_bytes())).await.is_ok() {
        asked += 1;
    }
    // the last request was cut where the pipe was full, so its rest is owed
    let read_ahead = asked * TOKEN.len();
    assert!(read_ahead < PIPE + 2 * READ_BUFFER_LARGE, "{read_ahead} bytes were taken from a peer that does not read");
    for _ in 0..asked {
        client.expect("{\"commandType\":\"RT\",").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_again_is_cut_off() {
    let (mut client, _) = Pipe::open().await;
    client.log_in(ALICE, ALICES_PASSWORD).await;
    while timeout(Duration::from_secs(1), client.stream.write_all(TOKEN.as_bytes())).await.is_ok() {}
    let stalled = Instant::now();
    let Pipe { serving, .. } = client;
    serving.await.unwrap();
    assert!(stalled.elapsed() <= WRITE_STALL, "{:?}", stalled.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_session_hears_of_the_end_of_the_server() {
    let (mut client, _) = Pipe::open().await;
    client.log_in(ALICE, ALICES_PASSWORD).await;
    client.switch.begin();
    let rest = client.rest().await;
    assert!(rest.len() == 1 && rest[0].starts_with("421 "), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_peers_that_do_not_read_hold_the_end_of_the_server_up_for_a_second_and_no_longer() {
    let shared = shared_in_memory().await;
    let (switch, shutdown) = shutdown_channel();
    let (mut clients, mut serving) = (Vec::new(), JoinSet::new());
    for _ in 0..1_000 {
        let (near, far) = duplex(PIPE);
        serving.spawn(connection::serve(far, loopback_peer(), Arc::clone(&shared), shutdown.clone()));
        let mut client = LineClient::over(near);
        client.log_in(ALICE, ALICES_PASSWORD).await;
        // more than fits into the pipe
        client.send("{\"commandType\":\"DT\",\"numOfRecv\":100}\n").await;
        clients.push(client);
    }
    // everybody is stuck when there is nothing left to do but to wait
    sleep(Duration::from_secs(1)).await;
    assert!(serving.try_join_next().is_none());
    switch.begin();
    let begun = Instant::now();
    while serving.join_next().await.is_some() {}
    assert!(begun.elapsed() < SHUTDOWN_STALL + Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_taken_is_stored_at_the_end_of_the_server_though_its_peer_does_not_read() {
    let batch = u32::try_from(MAX_RECORD_BATCH).unwrap();
    // the answer to the download does not fit, so that the server is stuck when it has taken the batch
    let download = "{\"commandType\":\"DT\",\"numOfRecv\":100}\n";
    let taken = download.to_owned() + &records(2 * batch, 0..batch);
    let behind = records(2 * batch, batch..2 * batch).repeat(2);
    let ((requests, client_out), (client_in, answers)) = (simplex(taken.len()), simplex(PIPE));
    let shared = shared_in_memory().await;
    let (switch, shutdown) = shutdown_channel();
    let serving = connection::serve(join(requests, answers), loopback_peer(), Arc::clone(&shared), shutdown);
    let serving = tokio::spawn(serving);
    let mut client = LineClient::over(join(client_in, client_out));
    client.log_in(ALICE, ALICES_PASSWORD).await;
    client.send(begin(2 * batch, "u-1")).await;
    client.expect("{\"commandType\":\"UC\"").await;
    client.send(&taken).await;
    // there is room for so much when the server has read everything before it
    client.send(&behind[..taken.len()]).await;
    let begun = Instant::now();
    switch.begin();
    serving.await.unwrap();
    assert!(begun.elapsed() <= SHUTDOWN_STALL * 2, "{:?}", begun.elapsed());
    let rows = shared.authority.store().uploads(None, 10, shared.clock.now()).await.unwrap();
    assert_eq!((rows.len(), rows[0].durable), (1, batch));
}

#[tokio::test]
async fn who_streams_without_a_pause_hears_of_the_end_of_the_server() {
    let (switch, shutdown) = shutdown_channel();
    let mut lines = format!("{ALICE}\n{ALICES_PASSWORD}\n{}", begin(2, "u-1")).into_bytes();
    // the first record again and again
    lines.extend_from_slice(records(2, 0..1).repeat(10_000).as_bytes());
    let end = lines.len();
    let read = Arc::new(AtomicUsize::new(0));
    let streamer = Streamer { lines, read: Arc::clone(&read), switch: Some(switch) };
    let (mut heard, answers) = duplex(end);
    let shared = shared_in_memory().await;
    let (peer, stream) = (loopback_peer(), join(streamer, answers));
    connection::serve(stream, peer, shared, shutdown).await;
    let mut text = String::new();
    heard.read_to_string(&mut text).await.unwrap();
    assert!(text.lines().last().unwrap().starts_with("421 "), "{text}");
    assert!(read.load(Ordering::Relaxed) < end, "all of it was read first");
}

/// A peer of whom there is always more at hand, until its end. The server is asked to stop at the second read.
struct Streamer {
    lines: Vec<u8>,
    read: Arc<AtomicUsize>,
    switch: Option<ShutdownSwitch>,
}

impl AsyncRead for Streamer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let begin = self.read.load(Ordering::Relaxed);
        if begin > 0
            && let Some(switch) = self.switch.take()
        {
            switch.begin();
        }
        let end = self.lines.len().min(begin + buf.remaining());
        buf.put_slice(&self.lines[begin..end]);
        self.read.store(end, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}
