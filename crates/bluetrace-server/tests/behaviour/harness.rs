//! A whole server with two accounts, a connection over a pipe, and what a client does on either.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::Store;
use bluetrace_authority::{Authority, MasterKey, Policy, Scheme};
use bluetrace_protocol::{Clock, Moment, Password, Timestamp, Username};
use bluetrace_server::complaints::Complaints;
use bluetrace_server::connection::{self, Shared};
use bluetrace_server::console::Console;
use bluetrace_server::limits::Limits;
use bluetrace_server::listener::{Peer, Refusals, Server, bind};
use bluetrace_server::password_pool::ThreadPool;
use bluetrace_server::shutdown::{ShutdownSwitch, shutdown_channel};
use bluetrace_server::sqlite::SqliteStore;
use bluetrace_server::tls::ServerTls;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::support::LineClient;

pub(crate) const ALICE: &str = "+61410999999";
pub(crate) const ALICES_PASSWORD: &str = "waratah";
pub(crate) const BOB: &str = "+61410888888";
pub(crate) const BOBS_PASSWORD: &str = "banksia and wattle";

pub(crate) const PASSWORD_REQUIRED: &str = "331 Password required";
pub(crate) const WELCOME: &str = "230 Welcome to the BlueTrace Simulator!";
pub(crate) const WRONG: &str = "430 Invalid Password. Please try again";
pub(crate) const BLOCKED_NOW: &str = "431 Invalid Password. Your account has been blocked. Please try again later";
pub(crate) const BLOCKED: &str = "432 Your account is blocked due to multiple login failures. Please try again later";

pub(crate) const LOGOUT: &str = "{\"commandType\":\"LO\"}\n";
pub(crate) const TOKEN: &str = "{\"commandType\":\"RT\"}\n";

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Memory,
    Sqlite,
}

/// A whole server with two accounts.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    pub(crate) kind: Kind,
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) sqlite: Option<Arc<SqliteStore>>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) output: Output,
    pub(crate) policy: Policy,
    pub(crate) switch: ShutdownSwitch,
    pub(crate) running: JoinHandle<()>,
}

pub(crate) async fn on_each_store(test: impl AsyncFn(TestServer)) {
    for kind in [Kind::Memory, Kind::Sqlite] {
        test(TestServer::start(kind).await).await;
    }
}

pub(crate) async fn on_each_store_with_each_scheme(test: impl AsyncFn(TestServer)) {
    for temp_id_scheme in [Scheme::Registry, Scheme::Sealed] {
        for kind in [Kind::Memory, Kind::Sqlite] {
            test(TestServer::start_with(kind, Policy { temp_id_scheme, ..cheap() }).await).await;
        }
    }
}

/// The usual rules, and logins that cost nothing.
pub(crate) fn cheap() -> Policy {
    Policy { hash_cost: HashCost::INSECURE_FOR_SIMULATION, ..Policy::default() }
}

impl TestServer {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::start_with(kind, cheap()).await
    }

    pub(crate) async fn start_with(kind: Kind, policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Self::start_at(address, folder, kind, Arc::new(MemoryStore::new()), policy);
        open_accounts(&server.authority, server.clock.now()).await;
        server
    }

    pub(crate) fn start_at(
        address: SocketAddr,
        folder: TempDir,
        kind: Kind,
        memory: Arc<MemoryStore>,
        policy: Policy,
    ) -> Self {
        let sqlite = match kind {
            Kind::Memory => None,
            Kind::Sqlite => Some(Arc::new(SqliteStore::open(&folder.path().join("authority.sqlite")).unwrap())),
        };
        let store: Arc<dyn Store> = match &sqlite {
            Some(store) => Arc::clone(store) as Arc<dyn Store>,
            None => Arc::clone(&memory) as Arc<dyn Store>,
        };
        let cores = std::thread::available_parallelism().unwrap().get();
        let pool = Arc::new(ThreadPool::start(cores).unwrap());
        let authority = Arc::new(Authority::new(store, pool, policy.clone(), &MasterKey::new([7; 32]), rand_seed()));
        let clock = Arc::new(TestClock::default());
        let output = Output::default();
        let shared = Arc::new(Shared {
            authority: Arc::clone(&authority),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            console: Console::start(Box::new(output.clone())).unwrap(),
            limits: Limits::default(),
            complaints: Complaints::default(),
        });
        let tls = ServerTls::open(folder.path()).unwrap().config();
        let listener = bind(Some(address.ip()), address.port()).unwrap();
        let address = listener.local_addr().unwrap();
        let (switch, shutdown) = shutdown_channel();
        let heard = shutdown.clone();
        let server = Server { tls, allow_plaintext: false, limits: Limits::default(), refusals: Refusals::OF_SESSIONS };
        let running = tokio::spawn(server.run(listener, shutdown, move |stream, peer| {
            connection::serve(stream, peer, Arc::clone(&shared), heard.clone())
        }));
        Self { address, folder, kind, memory, sqlite, authority, clock, output, policy, switch, running }
    }

    pub(crate) async fn connect(&self) -> LineClient {
        LineClient::connect(self.address).await
    }

    pub(crate) async fn login(&self, username: &str, password: &str) -> LineClient {
        let mut client = self.connect().await;
        client.log_in(username, password).await;
        client
    }

    /// One attempt to log in on a connection of its own.
    pub(crate) async fn attempt(&self, username: &str, password: &str, answer: &str) {
        let mut client = self.connect().await;
        client.send(format!("{username}\n{password}\n")).await;
        client.expect(PASSWORD_REQUIRED).await;
        client.expect(answer).await;
    }

    pub(crate) async fn restart(self) -> Self {
        self.switch.begin();
        timeout(Duration::from_mins(1), self.running).await.unwrap().unwrap();
        let Self { address, folder, kind, memory, policy, .. } = self;
        drop((self.authority, self.sqlite));
        Self::start_at(address, folder, kind, memory, policy)
    }

    pub(crate) async fn stop_and_read_console(self) -> String {
        self.switch.begin();
        timeout(Duration::from_mins(1), self.running).await.unwrap().unwrap();
        String::from_utf8(self.output.0.lock().unwrap().clone()).unwrap()
    }
}

/// One connection without sockets: what a test with a paused clock needs.
pub(crate) struct Pipe {
    pub(crate) client: LineClient<DuplexStream>,
    pub(crate) switch: ShutdownSwitch,
    pub(crate) serving: JoinHandle<()>,
}

/// Bytes that fit into each direction of a pipe.
pub(crate) const PIPE: usize = 4 * 1_024;

impl Pipe {
    pub(crate) async fn open() -> (Self, Instant) {
        let shared = shared_in_memory().await;
        let (switch, shutdown) = shutdown_channel();
        let (near, far) = duplex(PIPE);
        let peer = loopback_peer();
        let serving = tokio::spawn(connection::serve(far, peer, shared, shutdown));
        (Self { client: LineClient::over(near), switch, serving }, peer.connected)
    }
}

/// What the connections of a server over pipes share, with two accounts.
pub(crate) async fn shared_in_memory() -> Arc<Shared> {
    let policy = Policy { hash_cost: HashCost::INSECURE_FOR_SIMULATION, ..Policy::default() };
    let (store, pool) = (Arc::new(MemoryStore::new()), Arc::new(InlinePool));
    let authority = Authority::new(store, pool, policy, &MasterKey::new([7; 32]), rand_seed());
    let clock = Arc::new(TestClock::default());
    open_accounts(&authority, clock.now()).await;
    Arc::new(Shared {
        authority: Arc::new(authority),
        clock,
        console: Console::none(),
        limits: Limits::default(),
        complaints: Complaints::default(),
    })
}

pub(crate) fn loopback_peer() -> Peer {
    Peer { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)), connected: Instant::now() }
}

impl std::ops::Deref for Pipe {
    type Target = LineClient<DuplexStream>;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl std::ops::DerefMut for Pipe {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.client
    }
}

/// What a client of the authority does.
pub(crate) trait Device {
    async fn expect(&mut self, start: &str);
    async fn log_in(&mut self, username: &str, password: &str);
    async fn token(&mut self) -> String;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Device for LineClient<S> {
    /// The next line begins so; codes are followed by text that may go on.
    async fn expect(&mut self, start: &str) {
        let line = self.line().await;
        assert!(line.as_ref().is_some_and(|line| line.starts_with(start)), "{line:?} in place of {start:?}");
    }

    async fn log_in(&mut self, username: &str, password: &str) {
        self.send(format!("{username}\n")).await;
        self.expect(PASSWORD_REQUIRED).await;
        self.send(format!("{password}\n")).await;
        self.expect(WELCOME).await;
    }

    async fn token(&mut self) -> String {
        self.send(TOKEN).await;
        let answer = self.line().await.expect("the session is closed");
        let (_, rest) = answer.split_once("\"token\":\"").expect("no token in the answer");
        rest.split('"').next().unwrap().to_owned()
    }
}

pub(crate) async fn open_accounts(authority: &Authority, now: Timestamp) {
    for (username, password) in [(ALICE, ALICES_PASSWORD), (BOB, BOBS_PASSWORD)] {
        let (username, password) = (Username::parse(username).unwrap(), Password::parse(password).unwrap());
        assert!(authority.open_account(username, password, now).await.unwrap());
    }
}

pub(crate) fn begin(records: u32, upload: &str) -> String {
    format!("{{\"commandType\":\"UC\",\"numOfSend\":{records},\"upload\":\"{upload}\"}}\n")
}

/// Frames of some records of an upload of `of`.
pub(crate) fn records(of: u32, places: std::ops::Range<u32>) -> String {
    let frame = |place| {
        let following = of - 1 - place;
        format!(
            "{{\"commandType\":\"UC\",\"numOfSend\":{following},\"data\":\"{place:020}, 13/05/2020 17:54:06, 13/05/2020 18:09:05\"}}\n"
        )
    };
    places.map(frame).collect::<Vec<_>>().concat()
}

/// Another seed for each authority: two with one would draw the same `TempIDs`.
pub(crate) fn rand_seed() -> [u8; 32] {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    seed
}

/// A clock that a test moves, in Unix milliseconds.
#[derive(Debug)]
pub(crate) struct TestClock(pub(crate) AtomicI64);

impl Default for TestClock {
    fn default() -> Self {
        // within a second, as nearly always
        Self(AtomicI64::new(1_600_000_000_400))
    }
}

impl TestClock {
    pub(crate) fn advance_ms(&self, milliseconds: i64) {
        self.0.fetch_add(milliseconds, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn moment(&self) -> Moment {
        Moment::from_unix_ms(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Output(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
