//! Owns load: many devices in one process against the servers of an authority, and what came of it. For operators who want to
//! know what theirs can do, and whether what it acknowledges is there afterwards.
//!
//! ```text
//! LoadPlan --> run: devices (device.rs) log in, come back, fetch TempIDs, upload records, a step at a time (link.rs)
//!                |    over TCP (lines.rs): the same session and the same way to the server as a person's device has
//!                |    or HTTP (http.rs and those beside it): the API's calls, connections kept alive
//!                +--> Tally (tally.rs): counts as they grow, latencies, errors by kind
//!                +--> SentUpload (sent.rs): what the store is to be asked for
//! ```

mod device;
#[cfg(test)]
mod device_tests;
mod http;
mod http_body;
mod http_connection;
mod http_wire;
mod lines;
mod link;
mod sent;
mod tally;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bluetrace_protocol::{Clock, ContactLogEntry, Password, Record, Username};
use rand::SeedableRng as _;
use rand::rngs::ChaCha12Rng;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::device::{Beginning, LoadDevice};
use self::http::HttpLink;
use self::lines::LineLink;
use self::link::Account;
pub use self::sent::{RecordsDigest, SentUpload};
pub use self::tally::{Latency, Measured, Snapshot, Tally};
use crate::files::prepare_folder;
use crate::known_servers::KnownServers;
use crate::servers::{ServerAddress, Servers};
use crate::uplink::{ConnectError, Connector, Transport, Uplink, UplinkEvent};
use crate::words::in_words;

/// What load is to be made.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// Where the authority is.
    pub servers: Servers,
    /// What is spoken with it.
    pub protocol: LoadProtocol,
    /// Whether that is encrypted.
    pub transport: Transport,
    /// The folder of `known_servers`.
    pub data_dir: PathBuf,
    /// Who the devices are, in turn: an account may have several. At least one.
    pub accounts: Vec<(Username, Password)>,
    /// How many devices.
    pub devices: u32,
    /// Records of each upload, 1 to 1,000,000.
    pub records: u32,
    /// `TempIDs` that each device fetches when it has logged in, 1 to 100.
    pub temp_ids: u32,
    /// Uploads of each device; as many as there is time for if `None`.
    pub uploads: Option<u32>,
    /// Devices begin no upload after this time.
    pub duration: Option<Duration>,
    /// The time from one upload of a device to its next; none if zero.
    pub every: Duration,
    /// How many devices may be logging in with their password at once.
    pub logins_at_once: u32,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Whence its randomness comes.
    pub seed: [u8; 32],
}

/// What devices speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadProtocol {
    /// The session protocol over TCP, a connection a session.
    Tcp,
    /// `/v1` of the HTTPS API, over connections that are kept alive.
    Http,
}

/// Why no load was made.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The folder of `known_servers` cannot be made.
    #[error("cannot use {folder}: {}", in_words(.source), folder = folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A server cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// TLS cannot be set up at all.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What the devices share.
#[derive(Debug)]
struct Shared {
    plan: LoadPlan,
    tally: Arc<Tally>,
    /// `TempIDs` that devices were issued: what others may have heard.
    heard: Mutex<Vec<Record>>,
    /// As many records as an upload has, to ask again for one that is complete. There once a `TempID` was issued.
    blanks: OnceLock<Arc<[ContactLogEntry]>>,
    logins: Semaphore,
    sent: Mutex<Vec<SentUpload>>,
    /// When no further upload is begun.
    ends_at: Option<Instant>,
}

/// The addresses of all servers, so that a caller can see whose machines they are.
///
/// # Errors
/// [`ConnectError::NoAddress`] for a name without one.
pub async fn addresses(servers: &Servers) -> Result<Vec<IpAddr>, ConnectError> {
    let mut addresses = Vec::new();
    for server in servers.iter() {
        let found = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
        let found = found.map_err(|source| ConnectError::NoAddress { server: server.clone(), source })?;
        addresses.extend(found.map(|address: SocketAddr| address.ip()));
    }
    Ok(addresses)
}

/// Makes the load, and asks afterwards for everything that was acknowledged. Ends early, with what there is, when `stop` says so.
/// Returns what the authority acknowledged, so that its store can be looked into.
///
/// # Errors
/// [`LoadError`] if it could not begin. What goes wrong later is counted.
pub async fn run(plan: LoadPlan, tally: Arc<Tally>, stop: watch::Receiver<bool>) -> Result<Vec<SentUpload>, LoadError> {
    let folder = plan.data_dir.clone();
    prepare_folder(&folder).map_err(|source| LoadError::Folder { folder, source })?;
    let known = KnownServers::new(&plan.data_dir);
    introduce(&plan, &known).await?;
    let begun = Instant::now();
    let shared = Arc::new(Shared {
        tally,
        heard: Mutex::default(),
        blanks: OnceLock::new(),
        logins: Semaphore::new(usize::try_from(plan.logins_at_once).unwrap_or(1).max(1)),
        sent: Mutex::default(),
        ends_at: plan.duration.map(|duration| begun + duration),
        plan,
    });
    let mut seeds = ChaCha12Rng::from_seed(shared.plan.seed);
    let mut devices = JoinSet::new();
    let accounts = shared.plan.accounts.iter().cloned();
    let accounts: Vec<_> = accounts.map(|(username, password)| Arc::new(Account { username, password })).collect();
    for (number, account) in (0..shared.plan.devices).zip(accounts.iter().cycle()) {
        let generator = ChaCha12Rng::from_rng(&mut seeds);
        let first_upload = begun + shared.plan.every.mul_f64(f64::from(number) / f64::from(shared.plan.devices));
        let beginning = Beginning { account: Arc::clone(account), generator, first_upload, stop: stop.clone() };
        match shared.plan.protocol {
            LoadProtocol::Tcp => {
                let uplink = Uplink::new(&shared.plan.servers, shared.plan.transport, &known)?;
                devices.spawn(LoadDevice::new(Arc::clone(&shared), LineLink::new(uplink), beginning).run());
            }
            LoadProtocol::Http => {
                let connector =
                    |server: &ServerAddress| Connector::new(server.clone(), shared.plan.transport, known.clone());
                let connectors = shared.plan.servers.iter().map(|server| connector(server).map(Arc::new));
                let link = HttpLink::new(connectors.collect::<Result<_, _>>()?);
                devices.spawn(LoadDevice::new(Arc::clone(&shared), link, beginning).run());
            }
        }
    }
    while devices.join_next().await.is_some() {}
    Ok(std::mem::take(&mut *shared.sent.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Meets each server once, so that not every device meets it for the first time. One of several may be away.
async fn introduce(plan: &LoadPlan, known: &KnownServers) -> Result<(), LoadError> {
    let mut failure = None;
    let mut is_any_there = false;
    for server in plan.servers.iter() {
        let mut uplink = Uplink::new(&server.clone().into(), plan.transport, known)?;
        uplink.connect();
        match uplink.event().await {
            UplinkEvent::Failed(error @ ConnectError::CertificateChanged(_)) => return Err(error.into()),
            UplinkEvent::Failed(error) => failure = Some(error),
            UplinkEvent::Connected(_)
            | UplinkEvent::WaitOver
            | UplinkEvent::Received(_)
            | UplinkEvent::Drained
            | UplinkEvent::Lost(_) => is_any_there = true,
        }
    }
    match failure {
        Some(error) if !is_any_there => Err(error.into()),
        Some(_) | None => Ok(()),
    }
}

impl Shared {
    /// Keeps what was acknowledged.
    fn keep_account_of(&self, sent: Vec<SentUpload>) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).extend(sent);
    }

    /// Keeps some of what was issued.
    fn overhear(&self, records: &[Record]) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let room = HEARD_AT_MOST.saturating_sub(heard.len());
        heard.extend(records.iter().take(room).cloned());
        if let Some(record) = records.first() {
            let blank = ContactLogEntry { record: record.clone(), received: record.window.start() };
            let count = usize::try_from(self.plan.records).unwrap_or(usize::MAX);
            self.blanks.get_or_init(|| vec![blank; count].into());
        }
    }
}

/// Waits for a moment that may not come.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// How many issued `TempIDs` are kept to be uploaded by other devices.
const HEARD_AT_MOST: usize = 10_000;
