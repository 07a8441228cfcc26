//! Owns `bluetrace server`: the one place where an authority's server is put together.

use std::io;
use std::net::SocketAddr;
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
use bluetrace_server::jobs;
use bluetrace_server::limits::{Limits, RETENTION_INTERVAL};
use bluetrace_server::listener::{self, Server};
use bluetrace_server::password_pool::ThreadPool;
use bluetrace_server::shutdown::{ShutdownSwitch, shutdown_channel};
use bluetrace_server::tls::ServerTls;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::command_line::ServerOptions;
use crate::import;
use crate::installation::Installation;
use crate::runtime::block_on_all_cores;
use crate::system::{self, SystemClock};

pub(crate) fn run(options: ServerOptions) -> anyhow::Result<()> {
    block_on_all_cores(serve(options))
}

async fn serve(options: ServerOptions) -> anyhow::Result<()> {
    let folder = DataFolder::open(&options.folder.data_dir)?;
    let lock = folder.lock_for_server()?;
    // a taken port is said at once, not after a long import; nobody is answered before that is done
    let listener = listener::bind(options.bind, options.port)?;
    let tls = ServerTls::open(folder.path())?;
    let passwords = Arc::new(ThreadPool::start(system::cores()).context("cannot start the password threads")?);
    let installation = Installation::open(&folder, policy(&options), passwords)?;
    let now = SystemClock.now();
    import::credentials(&installation.authority, options.credentials.as_deref(), now).await?;
    import::temp_ids(&installation.authority, options.tempids.as_deref(), now).await?;
    hint_at_accounts(&installation, &options, now).await?;
    if let Err(error) = installation.store.reserve_log().await {
        warn!(%error, "every write takes longer; free some space on the disk");
    }
    let server = RunningServer::start(ServerParts {
        tls,
        console: Console::start(Box::new(io::stdout())).context("cannot start the console's thread")?,
        limits: limits(&options),
        allow_plaintext: options.allow_plaintext,
        lock,
        installation,
        listener,
    })?;
    info!(address = %server.address, data_dir = %folder.path().display(), "serving");
    system::asked_to_end().await?;
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
}

/// A server that accepts connections, until it is stopped.
pub(crate) struct RunningServer {
    pub(crate) installation: Installation,
    pub(crate) address: SocketAddr,
    switch: ShutdownSwitch,
    serving: JoinHandle<()>,
    forgetting: JoinHandle<()>,
    _lock: ServerLock,
}

impl RunningServer {
    pub(crate) fn start(parts: ServerParts) -> anyhow::Result<Self> {
        let ServerParts { installation, lock, listener, tls, console, limits, allow_plaintext } = parts;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let address = listener.local_addr().context("cannot learn the port")?;
        console.show(ConsoleEvent::Fingerprint { fingerprint: tls.fingerprint().to_owned() });
        console.show(ConsoleEvent::Listening { address });
        let (switch, shutdown) = shutdown_channel();
        let store = installation.store.clone();
        let forgetting = jobs::delete_forgotten(store, clock.clone(), RETENTION_INTERVAL, shutdown.clone());
        let authority = installation.authority.clone();
        let shared =
            Arc::new(Shared { authority, clock, console, limits: limits.clone(), complaints: Complaints::default() });
        let each = {
            let shutdown = shutdown.clone();
            move |stream, peer| connection::serve(stream, peer, shared.clone(), shutdown.clone())
        };
        let server = Server { tls: tls.config(), allow_plaintext, limits };
        Ok(Self {
            installation,
            address,
            switch,
            serving: tokio::spawn(server.run(listener, shutdown, each)),
            forgetting: tokio::spawn(forgetting),
            _lock: lock,
        })
    }

    /// Finishes what is under way, and makes everything durable.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.switch.begin();
        self.serving.await.context("the listener")?;
        self.forgetting.await.context("the retention job")?;
        let store = self.installation.store;
        tokio::task::spawn_blocking(move || store.close()).await.context("closing the store")
    }
}

fn policy(options: &ServerOptions) -> Policy {
    Policy {
        lockout: Lockout { max_failures: MAX_FAILED_LOGINS, block_duration_s: options.block_duration },
        temp_id_lifetime_s: options.tempid_lifetime,
        retention_s: options.retention,
        resume_s: options.resume_lifetime,
        require_upload_codes: options.require_upload_codes,
        ..Policy::default()
    }
}

fn limits(options: &ServerOptions) -> Limits {
    let mut limits = Limits {
        login_deadline: Duration::from_secs(options.login_timeout.into()),
        idle: Duration::from_secs(options.idle_timeout.into()),
        ..Limits::for_open_files(system::open_files())
    };
    if let Some(max) = options.max_connections {
        limits.max_connections = max;
    }
    if let Some(max) = options.max_connections_per_address {
        limits.max_connections_per_address = max;
    }
    limits
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
