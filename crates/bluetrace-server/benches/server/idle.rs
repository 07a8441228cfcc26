//! What ten thousand idle sessions weigh. The server is a process of its own (this program again), so that its memory is
//! nobody else's; beside it stand servers that do nothing but hold connections.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use bluetrace_server::tls::ServerTls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::{Bench, Line, Pair, Unit, Wanted, folder_for_data};
use crate::line_client::LineClient;
use crate::system::System;

/// The word that makes this program a server.
pub(crate) const CHILD: &str = "--serve-idle-sessions";

const OURS: &str = "ours";
const BARE: &str = "bare";

const SESSIONS: usize = 10_000;
/// Opened before memory is looked at first, so that what is there once is not counted.
const WARM: usize = 200;
/// Connections being opened at once.
const AT_ONCE: usize = 50;
const ROUNDS: usize = 3;

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    let plain = Line {
        name: "idle sessions, bytes each",
        limit: "a bare tokio connection with a buffer of 256 bytes",
        unit: Unit::Bytes,
        wanted: Wanted::AtMost(4_096.0),
    };
    let tls = Line {
        name: "idle sessions, bytes each, TLS",
        limit: "the same in rustls",
        wanted: Wanted::AtMost(14.0 * 1_024.0),
        ..plain
    };
    let needed = u64::try_from(SESSIONS + 2 * WARM).unwrap();
    if rlimit::increase_nofile_limit(needed).unwrap_or(0) < needed {
        println!("# idle sessions are left out: this user may not open {needed} files");
        return;
    }
    for (line, is_tls) in [(plain, false), (tls, true)] {
        if !bench.wants(line.name) {
            continue;
        }
        let weigh = |kind| runtime.block_on(weigh(kind, is_tls));
        let pairs: Vec<_> = (0..ROUNDS).map(|_| Pair { ours: weigh(OURS), limit: weigh(BARE) }).collect();
        bench.note(line, &pairs);
    }
}

/// Bytes of a server's memory for each of many connections.
async fn weigh(kind: &str, is_tls: bool) -> f64 {
    let server = Arc::new(ServerProcess::start(kind, is_tls));
    let mut held = open(&server, WARM).await;
    let before = server.memory();
    held.append(&mut open(&server, SESSIONS).await);
    let after = server.memory();
    (after - before) / SESSIONS as f64
}

async fn open(server: &Arc<ServerProcess>, count: usize) -> Vec<Box<dyn Connection>> {
    let mut opening = JoinSet::new();
    for part in 0..AT_ONCE {
        let server = Arc::clone(server);
        opening.spawn(async move {
            let mut opened = Vec::new();
            for _ in (part..count).step_by(AT_ONCE) {
                opened.push(server.open().await);
            }
            opened
        });
    }
    opening.join_all().await.into_iter().flatten().collect()
}

trait Connection: Send {}
impl<S: AsyncRead + AsyncWrite + Send> Connection for LineClient<S> {}

/// This program as a server.
struct ServerProcess {
    process: Child,
    address: SocketAddr,
    /// How a session is continued; none for a bare server.
    token: Option<String>,
    tls: Option<TlsConnector>,
}

impl ServerProcess {
    fn start(kind: &str, is_tls: bool) -> Self {
        let kind = if is_tls && kind == BARE { "bare-tls" } else { kind };
        let program = std::env::current_exe().unwrap();
        let mut process =
            Command::new(program).args([CHILD, kind]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace();
        let address = words.next().expect("an address").parse().unwrap();
        let certificate = words.next().expect("a certificate").to_owned();
        let token = words.next().map(str::to_owned);
        Self { process, address, token, tls: is_tls.then(|| trust(Path::new(&certificate))) }
    }

    /// One more connection, past its login where there is one, with a request behind it as a device has.
    async fn open(&self) -> Box<dyn Connection> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        match &self.tls {
            None => Box::new(self.enter(LineClient::over(stream, 512)).await),
            Some(tls) => {
                let stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
                Box::new(self.enter(LineClient::over(stream, 512)).await)
            }
        }
    }

    async fn enter<S: AsyncRead + AsyncWrite + Unpin>(&self, mut client: LineClient<S>) -> LineClient<S> {
        if let Some(token) = &self.token {
            client.send(format!("RESUME {token}\n").as_bytes()).await;
            let answer = client.line().await;
            assert!(answer.starts_with("230 "), "{answer}");
        }
        client.send(b"{\"commandType\":\"RT\"}\n").await;
        assert!(client.line().await.contains("RT"));
        client
    }

    /// Its resident memory, once it has come to rest.
    fn memory(&self) -> f64 {
        sleep(Duration::from_secs(1));
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        resident.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1_024.0
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // the end of its input ends it
        drop(self.process.stdin.take());
        _ = self.process.wait();
    }
}

/// The server process: says where it is and serves until its input ends.
pub(crate) fn serve_until_told(kind: &str) {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let _served = runtime.block_on(async {
        if kind == OURS {
            let system = System::start(1).await;
            let certificate = system.folder().join("certificate.pem");
            println!("{} {} {}", system.address, certificate.display(), system.token(0));
            return Served::Ours(Box::new(system));
        }
        let folder = tempfile::tempdir_in(folder_for_data()).unwrap();
        let tls = ServerTls::open(folder.path()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        println!("{} {}", listener.local_addr().unwrap(), folder.path().join("certificate.pem").display());
        let tls = (kind != BARE).then(|| TlsAcceptor::from(tls.config()));
        tokio::spawn(hold_connections(listener, tls));
        Served::Bare(folder)
    });
    _ = io::stdin().read_to_end(&mut Vec::new());
    runtime.shutdown_background();
}

/// What is to live as long as the process.
#[expect(dead_code, reason = "it is held, and not used")]
enum Served {
    Ours(Box<System>),
    Bare(tempfile::TempDir),
}

async fn hold_connections(listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        match tls.clone() {
            None => tokio::spawn(echo(stream)),
            Some(tls) => tokio::spawn(async move { echo(tls.accept(stream).await.unwrap()).await }),
        };
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; 256];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                stream.write_all(&buffer[..read]).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }
}

/// A client's side of TLS, for a server of this certificate.
pub(crate) fn trust(certificate: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}
