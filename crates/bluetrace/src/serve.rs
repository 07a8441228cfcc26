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
use bluetrace_server::connection::{self, Shared};
use bluetrace_server::console::{Console, ConsoleEvent};
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::jobs;
use bluetrace_server::limits::{Limits, RETENTION_INTERVAL};
use bluetrace_server::listener::{self, Server};
use bluetrace_server::password_pool::ThreadPool;
use bluetrace_server::shutdown::shutdown_channel;
use bluetrace_server::tls::ServerTls;
use tracing::info;

use crate::command_line::ServerOptions;
use crate::import;
use crate::installation::Installation;
use crate::system::{self, SystemClock};

pub(crate) fn run(options: ServerOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the async runtime")?.block_on(serve(options))
}

async fn serve(options: ServerOptions) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let folder = DataFolder::open(&options.folder.data_dir)?;
    let _lock = folder.lock_for_server()?;
    // a taken port is said at once, not after a long import; nobody is answered before that is done
    let listener = listener::bind(options.bind, options.port)?;
    let address = listener.local_addr().context("cannot learn the port")?;
    let passwords = Arc::new(ThreadPool::start(system::cores()).context("cannot start the password threads")?);
    let installation = Installation::open(&folder, policy(&options), passwords)?;
    let tls = ServerTls::open(folder.path())?;
    let authority = &installation.authority;
    import::credentials(authority, options.credentials.as_deref(), clock.now()).await?;
    import::temp_ids(authority, options.tempids.as_deref(), clock.now()).await?;
    hint_at_accounts(&installation, &options, clock.now()).await?;

    let limits = limits(&options);
    let console = Console::start(Box::new(io::stdout())).context("cannot start the console's thread")?;
    console.show(ConsoleEvent::Fingerprint { fingerprint: tls.fingerprint().to_owned() });
    console.show(ConsoleEvent::Listening { address });
    let shared =
        Arc::new(Shared { authority: authority.clone(), clock: clock.clone(), console, limits: limits.clone() });
    let (switch, shutdown) = shutdown_channel();
    let job =
        tokio::spawn(jobs::delete_forgotten(installation.store.clone(), clock, RETENTION_INTERVAL, shutdown.clone()));
    let server = Server { tls: tls.config(), allow_plaintext: options.allow_plaintext, limits };
    let each = {
        let shutdown = shutdown.clone();
        move |stream, peer| connection::serve(stream, peer, shared.clone(), shutdown.clone())
    };
    let serving = tokio::spawn(server.run(listener, shutdown, each));
    info!(%address, data_dir = %folder.path().display(), "serving");
    system::asked_to_end().await?;
    info!("ending: no new connections; finishing what is under way");
    switch.begin();
    serving.await.context("the listener")?;
    job.await.context("the retention job")?;
    tokio::task::spawn_blocking(move || installation.store.close()).await.context("closing the store")?;
    Ok(())
}

fn policy(options: &ServerOptions) -> Policy {
    Policy {
        lockout: Lockout { max_failures: MAX_FAILED_LOGINS, block_duration_s: options.block_duration },
        temp_id_lifetime_s: options.tempid_lifetime,
        retention_s: options.retention,
        resume_s: options.resume_lifetime,
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
    if installation.authority.store().accounts(None, 1, now).await?.is_empty() {
        let folder = options.folder.data_dir.display();
        system::say(&format!(
            "There are no accounts yet. Add one, also while the server runs:  bluetrace user add <username> --data-dir {folder}\n\
             or put lines of `<username> <password>` into credentials.txt and start again."
        ));
    }
    Ok(())
}
