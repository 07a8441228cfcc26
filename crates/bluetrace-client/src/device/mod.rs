//! One device without a front-end: [`Device::start`] begins it, a [`DeviceHandle`] tells it what to do, and
//! [`DeviceEvent`]s tell what happens. Several may run in one process.
//!
//! A device is one task. Its only waiting is one `select!` that yields an input; what an input does is synchronous code,
//! so no state is ever seen half-changed. What may block (the disk, the resolver) is done elsewhere and comes back as an input.

mod engine;
mod event;
mod outbox;
mod pending_upload;
mod session;
mod upload;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::{Clock, Username};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::engine::Engine;
pub use self::event::{Command, Connection, Contact, DeviceEvent, End, NextTry, Status, UnfinishedUpload};
use self::outbox::Done;
pub(crate) use self::upload::random_upload_id;
use crate::radio::Radio;
use crate::servers::Servers;
use crate::uplink::{ConnectError, Transport};
use crate::words::in_words;

/// What a device needs to know to begin.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// Where the authority is.
    pub servers: Servers,
    /// How it is spoken to.
    pub transport: Transport,
    /// Where beacons are heard. Port 0 takes a free one.
    pub udp: SocketAddr,
    /// The data folder; made if there is none.
    pub data_dir: PathBuf,
    /// Who logs in.
    pub username: Username,
    /// How long a beacon is kept, in seconds.
    pub retention_s: u32,
    /// Whether the device downloads `TempIDs` by itself, so that a beacon can always be sent.
    pub downloads: bool,
    /// How often it asks for notices.
    pub notices_every: Duration,
    /// The device's wall clock.
    pub clock: Arc<dyn Clock>,
    /// Whence its randomness comes: waits and upload ids.
    pub seed: [u8; 32],
}

/// Why a device did not begin: what is wrong, where, and what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another client uses this user's files.
    #[error(
        "another client of this user is running in {folder}: end it, or use another folder with --data-dir",
        folder = folder.display()
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
    },
    /// The data folder cannot be made or written.
    #[error("cannot write in {folder}: {}; make it writable, or use another with --data-dir", in_words(.source), folder = folder.display())]
    Folder {
        /// The data folder.
        folder: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Something else listens on the UDP port.
    #[error("UDP port {port} is taken: end what uses it, or give another port")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The UDP address cannot be used.
    #[error("cannot listen on UDP {address}: {}; give another port", in_words(.source))]
    Udp {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// The authority cannot be reached.
    #[error("{}", explain(.0))]
    Connect(#[source] ConnectError),
    /// TLS cannot be set up at all.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Begins devices.
#[derive(Debug)]
pub struct Device;

/// Tells a device what to do. When the last is dropped the device ends, and its session can be resumed no more.
#[derive(Debug)]
pub struct DeviceHandle {
    orders: mpsc::Sender<Order>,
    udp: SocketAddr,
    task: JoinHandle<()>,
}

/// A command, and whom to tell when it is done.
#[derive(Debug)]
struct Order {
    command: Command,
    done: Done,
}

impl Device {
    /// Takes the UDP port and the files of a user who has some, connects, and begins the login.
    ///
    /// # Errors
    /// [`StartError`] says what is wrong, where, and what to do.
    pub async fn start(config: DeviceConfig) -> Result<(DeviceHandle, mpsc::Receiver<DeviceEvent>), StartError> {
        let (events, receiver) = mpsc::channel(EVENTS_WAITING);
        let (orders, commands) = mpsc::channel(ORDERS_WAITING);
        let engine = Engine::start(config, commands, events).await?;
        let udp = engine.udp();
        let task = tokio::spawn(engine.run());
        Ok((DeviceHandle { orders, udp, task }, receiver))
    }
}

impl DeviceHandle {
    /// Tells the device to do something. The receiver is ready once it is done and every event that belongs to it has been
    /// handed on; an error there means that the device has ended.
    pub async fn submit(&self, command: Command) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        // an ended device drops the order, and with it `done`
        let _ = self.orders.send(Order { command, done }).await;
        receiver
    }

    /// Tells the device to do something, and waits until it is done or the device has ended. Its events must be taken
    /// meanwhile, as far as there may be more than a few hundred.
    pub async fn run(&self, command: Command) {
        let _ = self.submit(command).await.await;
    }

    /// Where the device hears beacons.
    pub fn udp(&self) -> SocketAddr {
        self.udp
    }

    /// Lets go of the device, and waits until it has ended. Its events must still be taken, or their receiver dropped.
    pub async fn join(self) {
        drop(self.orders);
        // an error is a panic of the task, which has been reported already
        let _ = self.task.await;
    }
}

/// Looks whether a device could begin: whether the authority answers, and its UDP port is free. For who has to be asked something
/// first: what he types for a program that then ends goes to the shell, a password too.
///
/// # Errors
/// [`StartError`] says what is wrong, where, and what to do.
pub(crate) async fn look_ahead(servers: &Servers, udp: SocketAddr) -> Result<(), StartError> {
    drop(bind_radio(udp)?);
    servers.reach_any().await.map_err(StartError::Connect)
}

fn bind_radio(udp: SocketAddr) -> Result<Radio, StartError> {
    Radio::bind(udp).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            StartError::PortTaken { port: udp.port() }
        } else {
            StartError::Udp { address: udp, source }
        }
    })
}

/// A connection's failure with what to do about it.
pub(crate) fn explain(error: &ConnectError) -> String {
    match error {
        ConnectError::NoAddress { .. } => format!("{error}; check the server's name"),
        ConnectError::Unreachable { .. } => format!("{error}; check that the server runs, its address and its port"),
        ConnectError::Tls { .. } => format!("{error}; if that server speaks no TLS, use --plaintext"),
        ConnectError::AllFailed(_) => format!("{error}; check that one of them runs, and its address and port"),
        ConnectError::CertificateChanged(changed) => changed.to_string(),
        ConnectError::KnownServers { .. } => {
            format!("{error}; without it nobody can tell which server is the right one")
        }
    }
}

/// Events that may wait for the front-end before the device keeps them itself.
const EVENTS_WAITING: usize = 256;

/// Commands that may wait for the device.
const ORDERS_WAITING: usize = 16;
