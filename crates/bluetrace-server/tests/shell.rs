//! The shell on real loopback sockets, around an echo in place of the authority: one port for plaintext and TLS, limits,
//! refusals, and the end.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers fail as their tests do")]

mod support;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::store::{AccountOpened, PasswordHash, PasswordSource, Store};
use bluetrace_protocol::{Clock, Moment, Record, TempId, Timestamp, Username, Window};
use bluetrace_server::jobs::delete_forgotten;
use bluetrace_server::limits::{Limits, REFUSALS_AT_A_TIME};
use bluetrace_server::listener::{Peer, Refusals, Server, bind};
use bluetrace_server::shutdown::{Shutdown, ShutdownSwitch, shutdown_channel};
use bluetrace_server::sqlite::SqliteStore;
use bluetrace_server::stream::Stream;
use bluetrace_server::tls::ServerTls;
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use support::LineClient;
use support::tls::trust;

const TOO_MANY: &str = "421 Too many connections. Please try again later";

#[tokio::test]
async fn one_port_speaks_plaintext_and_tls() {
    let server = Echo::start(Limits::default());
    let mut plain = LineClient::connect(server.address).await;
    let mut tls = LineClient::connect_tls(server.address, trust(server.folder.path())).await;
    plain.send("plain\n").await;
    tls.send("sealed\n").await;
    assert_eq!(plain.line().await.as_deref(), Some("plain"));
    assert_eq!(tls.line().await.as_deref(), Some("sealed"));
}

#[tokio::test]
async fn the_server_says_nothing_before_the_first_byte() {
    let server = Echo::start(Limits::default());
    let mut client = LineClient::connect(server.address).await;
    let heard = timeout(Duration::from_millis(200), client.line()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn a_tls_session_is_resumed() {
    let server = Echo::start(Limits::default());
    let config = trust(server.folder.path());
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut client = LineClient::connect_tls(server.address, Arc::clone(&config)).await;
        client.send("x\n").await;
        // the ticket comes with the first answer
        assert_eq!(client.line().await.as_deref(), Some("x"));
        assert_eq!(client.stream.get_ref().1.handshake_kind(), Some(expected));
    }
}

#[tokio::test]
async fn a_restarted_server_has_the_same_certificate_and_the_same_port() {
    let first = Echo::start(Limits::default());
    let trusted = trust(first.folder.path());
    let mut client = LineClient::connect_tls(first.address, Arc::clone(&trusted)).await;
    let (address, folder) = first.stop().await;
    assert_eq!(client.line().await, None);
    let second = Echo::start_at(address, folder, Limits::default());
    let mut client = LineClient::connect_tls(second.address, trusted).await;
    client.send("again\n").await;
    assert_eq!(client.line().await.as_deref(), Some("again"));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_until_one_ends() {
    let server = Echo::start(Limits { max_connections: 2, ..Limits::default() });
    let mut inside = Vec::new();
    for _ in 0..2 {
        inside.push(server.connect().await);
    }
    let mut plain = LineClient::connect(server.address).await;
    plain.send("user\nmore that nobody reads\n").await;
    assert_eq!(plain.rest().await, [TOO_MANY]);
    let mut tls = LineClient::connect_tls(server.address, trust(server.folder.path())).await;
    assert_eq!(tls.rest().await, [TOO_MANY]);
    let mut silent = LineClient::connect(server.address).await;
    assert_eq!(silent.rest().await, [TOO_MANY], "after a second at the most");

    drop(inside.pop());
    server.connect_in_the_end().await;
}

#[tokio::test]
async fn connections_beyond_those_of_one_address_are_told_so_until_one_ends() {
    let server = Echo::start(Limits { max_connections_per_address: 1, ..Limits::default() });
    let inside = server.connect().await;
    let mut refused = LineClient::connect(server.address).await;
    refused.send("user\n").await;
    assert_eq!(refused.rest().await, [TOO_MANY]);
    drop(inside);
    server.connect_in_the_end().await;
}

#[tokio::test]
async fn a_flood_beyond_the_limit_is_dropped_without_a_word_and_harms_nobody() {
    let server = Echo::start(Limits { max_connections: 1, ..Limits::default() });
    let mut inside = server.connect().await;
    let mut flood = Vec::new();
    for _ in 0..REFUSALS_AT_A_TIME + 40 {
        flood.push(LineClient::connect(server.address).await);
    }
    inside.send("still here\n").await;
    assert_eq!(inside.line().await.as_deref(), Some("still here"));
    let mut told = 0;
    for client in &mut flood {
        told += client.rest().await.len();
    }
    assert!((1..=REFUSALS_AT_A_TIME).contains(&told), "{told} were told");
}

#[tokio::test]
async fn a_panicking_connection_ends_alone() {
    let server = Echo::start(Limits::default());
    let mut other = server.connect().await;
    let mut panicking = LineClient::connect(server.address).await;
    panicking.send("panic\n").await;
    assert_eq!(panicking.line().await, None);
    other.send("still here\n").await;
    assert_eq!(other.line().await.as_deref(), Some("still here"));
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_in_progress_and_lets_nobody_in() {
    let (switch, shutdown) = shutdown_channel();
    let folder = tempfile::tempdir().unwrap();
    let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let at_work = (Arc::clone(&begun), Arc::clone(&finish));
    let run = server(folder.path(), Limits::default()).run(listener, shutdown, move |mut stream, _| {
        let (begun, finish) = at_work.clone();
        async move {
            begun.notify_one();
            finish.notified().await;
            stream.write_all(b"acknowledged\n").await.unwrap();
        }
    });
    let running = tokio::spawn(run);
    let mut client = LineClient::connect(address).await;
    client.send("append\n").await;
    begun.notified().await;
    switch.begin();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!running.is_finished());
    finish.notify_one();
    assert_eq!(client.rest().await, ["acknowledged"]);
    timeout(Duration::from_mins(1), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let (switch, shutdown) = shutdown_channel();
    let folder = tempfile::tempdir().unwrap();
    let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { shutdown_grace: Duration::from_millis(50), ..Limits::default() };
    let run = server(folder.path(), limits).run(listener, shutdown, |stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let running = tokio::spawn(run);
    let mut client = LineClient::connect(address).await;
    client.send("x\n").await;
    let mut silent = LineClient::connect(address).await;
    switch.begin();
    timeout(Duration::from_mins(1), running).await.unwrap().unwrap();
    assert_eq!(client.line().await, None);
    assert_eq!(silent.line().await, None);
}

#[test]
fn a_server_out_of_open_files_goes_on_when_there_are_some_again() {
    let this = std::env::current_exe().unwrap();
    let test = "with_few_open_files_connections_wait_until_there_are_more";
    let script = "ulimit -n 64 && exec \"$0\" --ignored --exact \"$1\"";
    let output = Command::new("sh").args(["-c", script]).arg(this).arg(test).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "runs in a process of its own with 64 open files; see the test above"]
async fn with_few_open_files_connections_wait_until_there_are_more() {
    let server = Echo::start(Limits { max_connections: 1_000, ..Limits::default() });
    let mut early = server.connect().await;
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // one for the client's end, none for the server's
    files.pop();
    let mut late = LineClient::connect(server.address).await;
    late.send("late\n").await;
    let answer = timeout(Duration::from_millis(300), late.line()).await;
    assert!(answer.is_err(), "there was no file for it, and yet: {answer:?}");
    early.send("early\n").await;
    assert_eq!(early.line().await.as_deref(), Some("early"), "who is inside does not notice");
    drop(files);
    assert_eq!(late.line().await.as_deref(), Some("late"));
}

#[tokio::test]
async fn the_retention_job_deletes_all_that_is_forgotten_and_ends_with_the_server() {
    let store = Arc::new(MemoryStore::new());
    let now = Timestamp::from_unix(1_600_000_000).unwrap();
    let clock = Arc::new(StoppedClock(now));
    let user = Username::parse("+61410999999").unwrap();
    let hash = PasswordHash("no hash".to_owned());
    let AccountOpened::Opened(account) = store.open_account(user, hash, PasswordSource::Operator, now).await.unwrap()
    else {
        panic!("not opened")
    };
    let window = Window::new(now, now.plus(899)).unwrap();
    let ids: Vec<_> = (0..30_000)
        .map(|number| Record { temp_id: TempId::parse(&format!("{number:020}")).unwrap(), window })
        .collect();
    store.issue_temp_ids(account, ids, now.plus(-1)).await.unwrap();

    let (switch, shutdown) = shutdown_channel();
    let job =
        tokio::spawn(delete_forgotten(Arc::clone(&store) as Arc<dyn Store>, clock, Duration::from_hours(1), shutdown));
    // the job yields in between, so it is given its turns until it waits for the next hour
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.expire(now).await.unwrap().rows, 0, "the job left something behind");
    switch.begin();
    timeout(Duration::from_mins(1), job).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_retention_job_outlives_a_store_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("authority.sqlite")).unwrap());
    store.close();
    let clock = Arc::new(StoppedClock(Timestamp::from_unix(1_600_000_000).unwrap()));
    let (switch, shutdown) = shutdown_channel();
    let job = tokio::spawn(delete_forgotten(store, clock, Duration::from_mins(1), shutdown));
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(!job.is_finished());
    switch.begin();
    timeout(Duration::from_mins(1), job).await.unwrap().unwrap();
}

/// A server that sends back each byte and ends a connection with its client or the server's end.
struct Echo {
    address: SocketAddr,
    folder: TempDir,
    switch: ShutdownSwitch,
    running: JoinHandle<()>,
}

impl Echo {
    fn start(limits: Limits) -> Self {
        Self::start_at(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), tempfile::tempdir().unwrap(), limits)
    }

    fn start_at(address: SocketAddr, folder: TempDir, limits: Limits) -> Self {
        let listener = bind(Some(address.ip()), address.port()).unwrap();
        let address = listener.local_addr().unwrap();
        let (switch, shutdown) = shutdown_channel();
        let heard = shutdown.clone();
        let run = server(folder.path(), limits)
            .run(listener, shutdown, move |stream, peer| echo(stream, peer, heard.clone()));
        Self { address, folder, switch, running: tokio::spawn(run) }
    }

    /// A connection that is being served.
    async fn connect(&self) -> LineClient {
        let mut client = LineClient::connect(self.address).await;
        client.send("hello\n").await;
        assert_eq!(client.line().await.as_deref(), Some("hello"));
        client
    }

    /// A connection that is served once the end of another has been noticed.
    async fn connect_in_the_end(&self) {
        let enter = async {
            loop {
                let mut client = LineClient::connect(self.address).await;
                client.send("hello\n").await;
                if client.line().await.as_deref() == Some("hello") {
                    return;
                }
            }
        };
        timeout(Duration::from_mins(1), enter).await.unwrap();
    }

    async fn stop(self) -> (SocketAddr, TempDir) {
        self.switch.begin();
        timeout(Duration::from_mins(1), self.running).await.unwrap().unwrap();
        (self.address, self.folder)
    }
}

async fn echo(mut stream: Stream, peer: Peer, mut shutdown: Shutdown) {
    assert!(peer.address.ip().is_loopback());
    let mut buffer = [0; 1_024];
    loop {
        let read = tokio::select! {
            () = shutdown.begun() => return,
            read = stream.read(&mut buffer) => read.unwrap_or(0),
        };
        assert!(!buffer.starts_with(b"panic"), "as the client wished");
        if read == 0 || stream.write_all(&buffer[..read]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn server(folder: &Path, limits: Limits) -> Server {
    Server {
        tls: ServerTls::open(folder).unwrap().config(),
        allow_plaintext: false,
        limits,
        refusals: Refusals::OF_SESSIONS,
    }
}

#[derive(Debug)]
struct StoppedClock(Timestamp);

impl Clock for StoppedClock {
    fn moment(&self) -> Moment {
        self.0.into()
    }
}
