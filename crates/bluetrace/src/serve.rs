//! Owns `bluetrace server`: the one place where an authority's server is put together.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bluetrace_authority::Policy;
use bluetrace_authority::store::Lockout;
use bluetrace_protocol::limits::MAX_FAILED_LOGINS;
use bluetrace_protocol::{Clock, Timestamp};
use bluetrace_server::complaints::Complaints;
use bluetrace_server::connection::{self, Shared};
use bluetrace_server::console::{Console, ConsoleEvent};
use bluetrace_server::data_folder::{DataFolder, ServerLock};
use bluetrace_server::http::{HttpApi, HttpOptions, OpenTraceOptions, Probe, Rates};
use bluetrace_server::jobs;
use bluetrace_server::limits::{
    HTTP_HEAD_DEADLINE, HTTP_SHARE_OF_CONNECTIONS, KEYS_INTERVAL, Limits, RETENTION_INTERVAL,
};
use bluetrace_server::listener::{self, Refusals, Server};
use bluetrace_server::password_pool::ThreadPool;
use bluetrace_server::shutdown::{Shutdown, ShutdownSwitch, shutdown_channel};
use bluetrace_server::tls::ServerTls;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::command_line::{HttpPlace, ServerOptions};
use crate::doctor;
use crate::import;
use crate::installation::Installation;
use crate::registration;
use crate::runtime::block_on_all_cores;
use crate::system::{self, SystemClock};

pub(crate) fn run(options: ServerOptions) -> anyhow::Result<()> {
    block_on_all_cores(serve(options))
}

async fn serve(options: ServerOptions) -> anyhow::Result<()> {
    // whose server has the port is the better answer
    DataFolder::open_existing(&options.folder.data_dir).refuse_if_served()?;
    // a taken port is said at once, not after a long import, and leaves no folder behind; nobody is answered before that is done
    let listener = listener::bind(options.bind, options.port)?;
    let http_listener = bind_http(options.http)?;
    Installation::refuse_without_key(&options.folder, SystemClock.now())?;
    let folder = DataFolder::open(&options.folder.data_dir)?;
    let lock = folder.lock_for_server()?;
    let store = Installation::store_shown(&folder, options.folder.store.as_ref())?;
    let codes = registration::code_sender(options.registration.clone())?;
    let passwords = Arc::new(ThreadPool::start(system::cores()).context("cannot start the password threads")?);
    let installation = Installation::open(&folder, options.folder.store.as_ref(), policy(&options), passwords.clone())?;
    // not before: a folder that the authority refuses is left without a certificate, and given the one that devices know
    let tls = ServerTls::open(folder.path())?;
    let now = SystemClock.now();
    import::credentials(&installation.authority, options.credentials.as_deref(), now).await?;
    import::temp_ids(&installation.authority, options.tempids.as_deref(), now).await?;
    hint_at_accounts(&installation, &options, now).await?;
    installation.database.settle().await;
    let (limits, http_connections) = limits(&options, http_listener.is_some());
    let http = http_listener.map(|listener| HttpParts {
        listener,
        max_connections: http_connections,
        options: HttpOptions {
            rates: (!options.no_rate_limits).then(Rates::default),
            codes,
            probes: probes(&installation, passwords),
            opentrace: OpenTraceOptions { folder: folder.path().into(), is_compatible: options.opentrace_compatible },
        },
    });
    for finding in doctor::said_at_the_start(&options, &tls) {
        warn!("{finding}");
    }
    let asked_to_end = system::asked_to_end()?;
    let server = RunningServer::start(ServerParts {
        tls,
        console: Console::start(Box::new(io::stdout())).context("cannot start the console's thread")?,
        limits,
        http,
        allow_plaintext: options.allow_plaintext,
        lock,
        installation,
        listener,
    })?;
    info!(address = %server.address, data_dir = %folder.path().display(), %store, "serving");
    asked_to_end.await;
    info!("ending: no new connections; finishing what is under way");
    server.stop().await
}

/// What a server is made of.
pub(crate) struct ServerParts {
    pub(crate) installation: Installation,
    pub(crate) lock: ServerLock,
    pub(crate) listener: TcpListener,
    pub(crate) tls: ServerTls,
    pub(crate) console: Console,
    pub(crate) limits: Limits,
    pub(crate) allow_plaintext: bool,
    pub(crate) http: Option<HttpParts>,
}

/// What the HTTPS API of a server is made of.
pub(crate) struct HttpParts {
    listener: TcpListener,
    max_connections: usize,
    options: HttpOptions,
}

/// A server that accepts connections, until it is stopped.
pub(crate) struct RunningServer {
    pub(crate) installation: Installation,
    pub(crate) address: SocketAddr,
    switch: ShutdownSwitch,
    serving: JoinHandle<()>,
    serving_http: Option<JoinHandle<()>>,
    forgetting: JoinHandle<()>,
    keeping_keys: JoinHandle<()>,
    _lock: ServerLock,
}

impl RunningServer {
    pub(crate) fn start(parts: ServerParts) -> anyhow::Result<Self> {
        let ServerParts { installation, lock, listener, tls, console, limits, allow_plaintext, http } = parts;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let address = listener.local_addr().context("cannot learn the port")?;
        console.show(ConsoleEvent::Fingerprint { fingerprint: tls.fingerprint().to_owned() });
        if let Some(http) = &http {
            let address = http.listener.local_addr().context("cannot learn the port of the HTTPS API")?;
            console.show(ConsoleEvent::ListeningForHttp { address });
        }
        console.show(ConsoleEvent::Listening { address });
        let (switch, shutdown) = shutdown_channel();
        let store = installation.database.store();
        let forgetting = jobs::delete_forgotten(store, clock.clone(), RETENTION_INTERVAL, shutdown.clone());
        let authority = installation.authority.clone();
        let keeping_keys = jobs::keep_keys(authority.clone(), clock.clone(), KEYS_INTERVAL, shutdown.clone());
        let shared =
            Arc::new(Shared { authority, clock, console, limits: limits.clone(), complaints: Complaints::default() });
        let server = Server { tls: tls.config(), allow_plaintext, limits, refusals: Refusals::OF_SESSIONS };
        let serving_http = http.map(|http| serve_http(http, server.clone(), Arc::clone(&shared), shutdown.clone()));
        Ok(Self {
            installation,
            address,
            switch,
            serving: connection::serve_port(server, listener, shared, shutdown),
            serving_http,
            forgetting: tokio::spawn(forgetting),
            keeping_keys: tokio::spawn(keeping_keys),
            _lock: lock,
        })
    }

    /// Finishes what is under way, and makes everything durable.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.switch.begin();
        self.serving.await.context("the listener")?;
        if let Some(serving) = self.serving_http {
            serving.await.context("the HTTPS API")?;
        }
        self.forgetting.await.context("the retention job")?;
        self.keeping_keys.await.context("the job of the sealing keys")?;
        if let Err(error) = self.installation.authority.count_seals().await {
            warn!(%error, "what was sealed since the last count is not counted");
        }
        let database = self.installation.database;
        tokio::task::spawn_blocking(move || database.close()).await.context("closing the store")
    }
}

fn policy(options: &ServerOptions) -> Policy {
    Policy {
        lockout: Lockout { max_failures: MAX_FAILED_LOGINS, block_duration_s: options.block_duration },
        temp_id_scheme: options.tempid_scheme.into(),
        temp_id_lifetime_s: options.tempid_lifetime,
        key_period_s: options.key_period,
        retention_s: options.retention,
        resume_s: options.resume_lifetime,
        require_upload_codes: options.require_upload_codes,
        ..Policy::default()
    }
}

/// Listens where the HTTPS API is asked for. Where nobody asked, a taken port is no reason not to serve devices: somebody
/// who starts a second server with another TCP port has a first one there.
fn bind_http(place: Option<HttpPlace>) -> anyhow::Result<Option<TcpListener>> {
    match place {
        Some(HttpPlace::Off) => Ok(None),
        Some(HttpPlace::At(address)) => {
            let listener = listener::bind(Some(address.ip()), address.port()).context("the HTTPS API")?;
            Ok(Some(listener))
        }
        None => match listener::bind(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), DEFAULT_HTTP_PORT) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                warn!(%error, "no HTTPS API; say where with --http ADDR, or --http off");
                Ok(None)
            }
        },
    }
}

fn serve_http(parts: HttpParts, server: Server, shared: Arc<Shared>, shutdown: Shutdown) -> JoinHandle<()> {
    let HttpParts { listener, max_connections, options } = parts;
    let api = HttpApi::new(shared, options, shutdown);
    let limits = Limits { max_connections, login_deadline: HTTP_HEAD_DEADLINE, ..server.limits };
    let server = Server { limits, refusals: Refusals::OF_HTTP, ..server };
    api.serve_port(server, listener)
}

/// The queues of a server.
fn probes(installation: &Installation, passwords: Arc<ThreadPool>) -> Vec<Probe> {
    let mut probes = vec![Probe { queue: "passwords", depth: Box::new(move || passwords.waiting()) }];
    probes.extend(installation.database.probes());
    probes
}

/// The limits for devices, and how many connections there may be to the HTTPS API.
fn limits(options: &ServerOptions, has_http: bool) -> (Limits, usize) {
    let mut limits = Limits {
        login_deadline: Duration::from_secs(options.login_timeout.into()),
        idle: Duration::from_secs(options.idle_timeout.into()),
        ..Limits::for_open_files(system::open_files())
    };
    let share = (limits.max_connections / HTTP_SHARE_OF_CONNECTIONS).max(1);
    let for_http = options.http_max_connections.unwrap_or(share);
    if has_http {
        limits.max_connections = limits.max_connections.saturating_sub(for_http);
    }
    if let Some(max) = options.max_connections {
        limits.max_connections = max;
    }
    if let Some(max) = options.max_connections_per_address {
        limits.max_connections_per_address = max;
    }
    (limits, for_http)
}

/// Tells an operator who has just begun how to let somebody in.
async fn hint_at_accounts(installation: &Installation, options: &ServerOptions, now: Timestamp) -> anyhow::Result<()> {
    if installation.authority.store().accounts(None, 1, now.into()).await?.is_empty() {
        let folder = options.folder.data_dir.display();
        system::say(&format!(
            "There are no accounts yet. Add one, also while the server runs:  bluetrace user add <username> --data-dir {folder}\n\
             or put lines of `<username> <password>` into credentials.txt and start again."
        ));
    }
    Ok(())
}

/// Where the HTTPS API is unless an operator says otherwise, on loopback.
pub(crate) const DEFAULT_HTTP_PORT: u16 = 4080;
