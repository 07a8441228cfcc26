//! The server under measurement, put together as the binary does it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bluetrace_authority::accounts::LoggedIn;
use bluetrace_authority::keys::MasterKey;
use bluetrace_authority::passwords::{HashCost, PasswordDone, PasswordWork, Scratch};
use bluetrace_authority::store::{AccountOpened, PasswordSource, Store};
use bluetrace_authority::{Authority, Member, Policy, Scheme};
use bluetrace_protocol::{Clock, Moment, Password, Timestamp, Username};
use bluetrace_server::code_sender::{CodeSender, CodeText};
use bluetrace_server::complaints::Complaints;
use bluetrace_server::connection::{self, Shared};
use bluetrace_server::console::Console;
use bluetrace_server::http::{HttpApi, HttpOptions, OpenTraceOptions};
use bluetrace_server::limits::Limits;
use bluetrace_server::listener::{self, Refusals, Server};
use bluetrace_server::password_pool::ThreadPool;
use bluetrace_server::shutdown::{ShutdownSwitch, shutdown_channel};
use bluetrace_server::sqlite::SqliteStore;
use bluetrace_server::tls::ServerTls;
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::harness::folder_for_data;
use crate::line_client::LineClient;

/// The store's file in [`System::folder`].
pub(crate) const DATABASE: &str = "bluetrace.db";

/// A running server with accounts. Dropped, it ends.
pub(crate) struct System {
    pub(crate) address: SocketAddr,
    /// Of the HTTPS API.
    pub(crate) http: SocketAddr,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) members: Vec<Member>,
    clock: Arc<dyn Clock>,
    _switch: ShutdownSwitch,
    folder: TempDir,
}

impl System {
    /// Starts one with so many accounts, who come in by resume token.
    pub(crate) async fn start(accounts: usize) -> Self {
        Self::start_with(Policy::default(), accounts).await
    }

    /// Starts one that seals its `TempIDs`.
    pub(crate) async fn start_sealed(accounts: usize) -> Self {
        Self::start_with(Policy { temp_id_scheme: Scheme::Sealed, ..Policy::default() }, accounts).await
    }

    async fn start_with(policy: Policy, accounts: usize) -> Self {
        let folder = tempfile::tempdir_in(folder_for_data()).unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join(DATABASE)).unwrap());
        store.reserve_log().await.unwrap();
        Self::start_on(store, folder, policy, accounts).await
    }

    /// The same on another store. The folder keeps the rest.
    pub(crate) async fn start_on(store: Arc<dyn Store>, folder: TempDir, policy: Policy, accounts: usize) -> Self {
        let passwords = Arc::new(ThreadPool::start(cores()).unwrap());
        let key = MasterKey::new([7; 32]);
        let authority = Arc::new(Authority::new(store.clone(), passwords, policy, &key, [7; 32]));
        let clock: Arc<dyn Clock> = Arc::new(RunningClock(Instant::now()));
        let tls = ServerTls::open(folder.path()).unwrap();
        let limits = Limits { max_connections: 12_000, max_connections_per_address: 12_000, ..Limits::default() };
        let console = Console::start(Box::new(io::sink())).unwrap();
        let shared = Arc::new(Shared {
            authority: authority.clone(),
            clock: clock.clone(),
            console,
            limits: limits.clone(),
            complaints: Complaints::default(),
        });
        let (switch, shutdown) = shutdown_channel();
        let tls = tls.config();
        let server = Server { tls: tls.clone(), allow_plaintext: false, limits, refusals: Refusals::OF_SESSIONS };
        let (http_listener, http) = bind();
        let opentrace = OpenTraceOptions { folder: folder.path().into(), is_compatible: false };
        let codes = CodeSender::to_console(CodeText::parse("{code}").unwrap());
        // no rates: what is measured asks more often than anybody may
        let options = HttpOptions { rates: None, codes, probes: Vec::new(), opentrace };
        let api = HttpApi::new(shared.clone(), options, shutdown.clone());
        let http_server = Server { refusals: Refusals::OF_HTTP, ..server.clone() };
        api.serve_port(http_server, http_listener);
        let (listener, address) = bind();
        connection::serve_port(server, listener, shared, shutdown);
        let members = Vec::new();
        let mut system = Self { address, http, tls, store, authority, members, clock, _switch: switch, folder };
        for number in 0..accounts {
            let member = system.open_account(number).await;
            system.members.push(member);
        }
        system
    }

    /// Starts a second server of the same authority, on another store of the same database.
    pub(crate) async fn start_beside(&self, store: Arc<dyn Store>, folder: TempDir) -> Self {
        let mut system = Self::start_on(store, folder, Policy::default(), 0).await;
        system.members.clone_from(&self.members);
        system
    }

    /// A connection of an account, past its login.
    pub(crate) async fn enter(&self, account: usize) -> LineClient {
        let mut client = LineClient::connect(self.address).await;
        client.send(format!("RESUME {}\n", self.token(account)).as_bytes()).await;
        let answer = client.line().await;
        assert!(answer.starts_with("230 "), "{answer}");
        client
    }

    /// What an account shows the HTTPS API.
    pub(crate) fn access_token(&self, account: usize) -> String {
        self.authority.access_token(&self.members[account], self.now()).0.reveal().to_owned()
    }

    pub(crate) fn token(&self, account: usize) -> String {
        self.authority.resume_token(&self.members[account], self.now()).0.reveal().to_owned()
    }

    /// Opens an account that logs in with a password.
    pub(crate) async fn open_account_with(&self, username: &str, password: &str) {
        let (username, password) = (Username::parse(username).unwrap(), Password::parse(password).unwrap());
        assert!(self.authority.open_account(username, password, self.now()).await.unwrap());
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Opens an account and logs it in, with a hash that costs nothing.
    async fn open_account(&self, number: usize) -> Member {
        let username = Username::parse(&format!("+61{number:09}")).unwrap();
        let password = || Password::parse(PASSWORD).unwrap();
        let work = PasswordWork::hash(password(), [7; 16], HashCost::INSECURE_FOR_SIMULATION);
        let PasswordDone::Hashed(hash) = work.perform(&mut Scratch::default()) else { panic!("no hash") };
        let opened = self.store.open_account(username.clone(), hash, PasswordSource::Operator, self.now());
        assert!(matches!(opened.await.unwrap(), AccountOpened::Opened(_)), "the name is taken");
        let outcome = self.authority.login(username, password(), &*self.clock).await.unwrap();
        let LoggedIn::Welcome(member) = outcome else { panic!("{outcome:?}") };
        member
    }
}

fn bind() -> (TcpListener, SocketAddr) {
    let listener = listener::bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

const PASSWORD: &str = "a password";

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A clock that costs what the system's costs, and needs no permission.
#[derive(Debug)]
struct RunningClock(Instant);

impl Clock for RunningClock {
    fn moment(&self) -> Moment {
        Moment::from(beginning()).plus_ms(i64::try_from(self.0.elapsed().as_millis()).unwrap_or(0))
    }
}

/// When every bench begins.
pub(crate) fn beginning() -> Timestamp {
    Timestamp::from_unix(1_600_000_000).unwrap()
}
