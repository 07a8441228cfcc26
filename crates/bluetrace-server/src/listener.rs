//! Owns the port: accepting connections, telling TLS from plaintext, refusing what is too much, and ending in order.
//!
//! What happens on an accepted connection is the caller's: [`Server::run`] hands each [`Stream`] with its [`Peer`] to a
//! function. A failure of one connection, or of `accept` itself, never ends the server.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::complaints::Complaints;
use crate::limits::{ACCEPT_BACK_OFF, BACKLOG, Limits, REFUSAL_WAIT, REFUSALS_AT_A_TIME};
use crate::shutdown::Shutdown;
use crate::stream::{Stream, say_and_close};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address; an IPv4 address is never in the IPv6 form.
    pub address: SocketAddr,
    /// When it connected: its login deadline runs from here.
    pub connected: Instant,
}

/// How a port is served.
#[derive(Debug, Clone)]
pub struct Server {
    /// The TLS settings.
    pub tls: Arc<ServerConfig>,
    /// Whether plaintext is served to peers that are not on this machine.
    pub allow_plaintext: bool,
    /// What is too much and too long.
    pub limits: Limits,
}

/// Why a port cannot be listened on. Each text says where and what to do.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("port {port} of {address} is taken; end the program that has it, or choose another port")]
    Taken {
        /// The address asked for.
        address: IpAddr,
        /// The port asked for.
        port: u16,
    },
    /// This user may not.
    #[error("port {port} of {address} needs a privilege; choose a port above 1023")]
    Forbidden {
        /// The address asked for.
        address: IpAddr,
        /// The port asked for.
        port: u16,
    },
    /// The address is another machine's.
    #[error("{address} is no address of this machine; choose one that is, or leave --bind out")]
    NoSuchAddress {
        /// The address asked for.
        address: IpAddr,
    },
    /// Anything else.
    #[error("cannot listen on port {port} of {address}: {source}")]
    Other {
        /// The address asked for.
        address: IpAddr,
        /// The port asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on a port; port 0 takes a free one. Without an address, on all of IPv4 and IPv6, or of IPv4 where there is no IPv6.
///
/// The port is free again at once after a restart, though connections of before still linger.
///
/// # Errors
/// [`BindError`] says where and what to do.
pub fn bind(address: Option<IpAddr>, port: u16) -> Result<TcpListener, BindError> {
    let all_of_4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let (address, bound) = match address {
        Some(address) => (address, listen(address, port)),
        None => match listen(all, port) {
            // no IPv6 in this system, or switched off
            Err(error) if !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                (all_of_4, listen(all_of_4, port))
            }
            bound => (all, bound),
        },
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "what has no remedy of its own is passed on")]
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { address, port },
        io::ErrorKind::PermissionDenied => BindError::Forbidden { address, port },
        io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress { address },
        _ => BindError::Other { address, port, source },
    })
}

fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // an address of its own kind does not mind; the unspecified one then also stands for all of IPv4
        socket.set_only_v6(false)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

impl Server {
    /// Serves a port until `shutdown`, then waits for the connections, up to [`Limits::shutdown_grace`]. `serve` runs one
    /// connection to its end; it should hear of the shutdown itself.
    pub async fn run<F, Fut>(self, listener: TcpListener, mut shutdown: Shutdown, serve: F)
    where
        F: Fn(Stream, Peer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut connections = Connections::new(self, serve, shutdown.clone());
        let complaints = Complaints::default();
        loop {
            tokio::select! {
                biased;
                () = shutdown.begun() => break,
                Some(ended) = connections.open.join_next() => log_panic(&ended),
                Some(ended) = connections.refusals.join_next() => log_panic(&ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => connections.accept(stream, address),
                    Err(error) => {
                        if let Some(unsaid) = complaints.due(&error.to_string(), Instant::now()) {
                            error!(%error, unsaid, "cannot accept connections; trying again");
                        }
                        sleep(ACCEPT_BACK_OFF).await;
                    }
                },
            }
        }
        drop(listener);
        connections.drain().await;
    }

    /// From the first byte to a stream that can carry a session, within the login deadline. `None` if it comes to nothing.
    async fn negotiate(&self, mut stream: TcpStream, peer: Peer) -> Option<Stream> {
        let deadline = peer.connected + self.limits.login_deadline;
        match timeout_at(deadline, first_byte(&stream)).await {
            Ok(None) => None,
            Ok(Some(TLS_HANDSHAKE)) => {
                let handshake = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream);
                let tls = timeout_at(deadline, handshake).await.ok()?;
                tls.inspect_err(|error| debug!(%error, "a TLS handshake failed")).ok().map(Box::new).map(Stream::Tls)
            }
            Ok(Some(_)) if self.allow_plaintext || peer.address.ip().is_loopback() => Some(Stream::Plain(stream)),
            Ok(Some(_)) => {
                say_and_close(&mut stream, PLAINTEXT_REFUSED).await;
                None
            }
            Err(_) => {
                say_and_close(&mut stream, LOGIN_TOO_SLOW).await;
                None
            }
        }
    }

    /// Tells a connection beyond the limit that there are too many, over TLS if it speaks TLS.
    async fn refuse(&self, mut stream: TcpStream) {
        match timeout(REFUSAL_WAIT, first_byte(&stream)).await {
            Ok(None) => {}
            Ok(Some(TLS_HANDSHAKE)) => {
                let handshake = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream);
                if let Ok(Ok(mut stream)) = timeout(REFUSAL_WAIT, handshake).await {
                    say_and_close(&mut stream, TOO_MANY_CONNECTIONS).await;
                }
            }
            Ok(Some(_)) | Err(_) => say_and_close(&mut stream, TOO_MANY_CONNECTIONS).await,
        }
    }
}

/// The connections of a running server.
struct Connections<F> {
    server: Arc<Server>,
    serve: Arc<F>,
    shutdown: Shutdown,
    /// Those that were accepted. Invariant: `open.len() <= limits.max_connections`.
    open: JoinSet<()>,
    /// Those beyond the limit that are being told so. Invariant: `refusals.len() <= REFUSALS_AT_A_TIME`.
    refusals: JoinSet<()>,
    quota: Arc<AddressQuota>,
}

impl<F, Fut> Connections<F>
where
    F: Fn(Stream, Peer) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    fn new(server: Server, serve: F, shutdown: Shutdown) -> Self {
        let quota = Arc::new(AddressQuota::new(server.limits.max_connections_per_address));
        let (open, refusals) = (JoinSet::new(), JoinSet::new());
        Self { server: Arc::new(server), serve: Arc::new(serve), shutdown, open, refusals, quota }
    }

    fn accept(&mut self, stream: TcpStream, address: SocketAddr) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let peer = Peer { address, connected: Instant::now() };
        // a connection that cannot be told so is slower, and no worse
        let _ = stream.set_nodelay(true);
        let has_room = self.open.len() < self.server.limits.max_connections;
        let slot = if has_room { AddressQuota::acquire(&self.quota, address.ip()) } else { None };
        let server = Arc::clone(&self.server);
        if let Some(slot) = slot {
            let mut shutdown = self.shutdown.clone();
            // boxed: the first steps need more memory than the long time after them, and so give it back
            let negotiated = Box::pin(async move {
                tokio::select! {
                    () = shutdown.begun() => None,
                    stream = server.negotiate(stream, peer) => stream,
                }
            });
            self.open.spawn(run_connection(negotiated, peer, Arc::clone(&self.serve), slot));
        } else if self.refusals.len() < REFUSALS_AT_A_TIME {
            self.refusals.spawn(async move { server.refuse(stream).await });
        } else {
            debug!("too many connections; one was dropped without a word");
        }
    }

    /// Waits for the open connections to end, up to the grace, and drops those that have not.
    async fn drain(mut self) {
        self.refusals.abort_all();
        let all_ended = async {
            while let Some(ended) = self.open.join_next().await {
                log_panic(&ended);
            }
        };
        if timeout(self.server.limits.shutdown_grace, all_ended).await.is_err() {
            warn!(connections = self.open.len(), "dropping the connections that did not end in time");
        }
        self.open.shutdown().await;
    }
}

/// Runs one connection to its end: until it is `negotiated`, and then its session.
async fn run_connection<F, Fut>(
    negotiated: impl Future<Output = Option<Stream>>,
    peer: Peer,
    serve: Arc<F>,
    slot: AddressSlot,
) where
    F: Fn(Stream, Peer) -> Fut,
    Fut: Future<Output = ()>,
{
    if let Some(stream) = negotiated.await {
        serve(stream, peer).await;
    }
    drop(slot);
}

/// Looks at the first byte and leaves it there. `None` if the connection ends before it.
async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) => Some(first[0]),
        Ok(0) | Err(_) => None,
    }
}

/// Counts the connections of each address, up to a number.
struct AddressQuota {
    in_use: Mutex<HashMap<IpAddr, usize>>,
    per_address: usize,
}

/// One connection's share of the quota of its address. Free again when this is dropped.
struct AddressSlot {
    quota: Arc<AddressQuota>,
    network: IpAddr,
}

impl AddressQuota {
    fn new(per_address: usize) -> Self {
        Self { in_use: Mutex::new(HashMap::new()), per_address }
    }

    fn acquire(quota: &Arc<Self>, address: IpAddr) -> Option<AddressSlot> {
        let network = network(address);
        let mut in_use = quota.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let count = in_use.entry(network).or_insert(0);
        if *count >= quota.per_address {
            return None;
        }
        *count += 1;
        Some(AddressSlot { quota: Arc::clone(quota), network })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut in_use = self.quota.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = in_use.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Whose connections are counted together: those of an IPv4 address, or of an IPv6 network of 64 bits, all of which one host
/// can use at will.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

fn log_panic(ended: &Result<(), JoinError>) {
    if ended.as_ref().is_err_and(JoinError::is_panic) {
        error!("a connection's task panicked; the others go on");
    }
}

/// The first byte of a TLS connection: the record type of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

const TOO_MANY_CONNECTIONS: &str = "421 Too many connections. Please try again later";
/// What a peer is told whose login, or whose first byte, did not come within [`Limits::login_deadline`].
pub(crate) const LOGIN_TOO_SLOW: &str = "421 The login took too long. Please try again later";
const PLAINTEXT_REFUSED: &str = "530 Plaintext is refused from this address. Use TLS";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::shutdown_channel;
    use crate::tls::ServerTls;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn plaintext_is_refused_from_another_machine_unless_allowed() {
        for (address, allow_plaintext, is_served) in [
            ("127.0.0.1", false, true),
            ("127.8.9.10", false, true),
            ("::1", false, true),
            ("192.0.2.7", false, false),
            ("2001:db8::7", false, false),
            ("192.0.2.7", true, true),
        ] {
            let server = Server { allow_plaintext, ..server() };
            let (mut client, stream) = pair().await;
            client.write_all(b"user\n").await.unwrap();
            let peer = Peer { address: SocketAddr::new(address.parse().unwrap(), 9), connected: Instant::now() };
            let (negotiated, said) = tokio::join!(server.negotiate(stream, peer), async {
                let mut said = String::new();
                if !is_served {
                    client.shutdown().await.unwrap();
                    client.read_to_string(&mut said).await.unwrap();
                }
                said
            });
            assert_eq!(negotiated.is_some(), is_served, "{address}");
            assert_eq!(said, if is_served { "" } else { "530 Plaintext is refused from this address. Use TLS\n" });
        }
    }

    #[tokio::test]
    async fn a_loopback_peer_of_a_dual_stack_port_is_a_loopback_peer() {
        let (mut client, stream) = pair().await;
        let (_switch, shutdown) = shutdown_channel();
        let (sender, mut peers) = tokio::sync::mpsc::unbounded_channel();
        let serve = move |_, peer: Peer| {
            sender.send(peer.address.ip()).unwrap();
            std::future::ready(())
        };
        let mut connections = Connections::new(server(), serve, shutdown);
        connections.accept(stream, "[::ffff:127.0.0.1]:9".parse().unwrap());
        client.write_all(b"user\n").await.unwrap();
        assert_eq!(peers.recv().await, Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_told_and_closed_at_the_login_deadline() {
        let (mut client, stream) = pair().await;
        let peer = Peer { address: client.local_addr().unwrap(), connected: Instant::now() };
        let server = server();
        let mut said = String::new();
        let (negotiated, read) = tokio::join!(server.negotiate(stream, peer), client.read_to_string(&mut said));
        assert!(negotiated.is_none());
        read.unwrap();
        assert_eq!(said, format!("{LOGIN_TOO_SLOW}\n"));
        let waited = peer.connected.elapsed();
        assert!(waited >= server.limits.login_deadline, "{waited:?}");
        assert!(waited <= server.limits.login_deadline + Duration::from_secs(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_stops_half_way_ends_at_the_login_deadline() {
        let (mut client, stream) = pair().await;
        client.write_all(&[TLS_HANDSHAKE, 3, 1]).await.unwrap();
        let peer = Peer { address: client.local_addr().unwrap(), connected: Instant::now() };
        assert!(server().negotiate(stream, peer).await.is_none());
        assert!(peer.connected.elapsed() >= server().limits.login_deadline);
    }

    #[test]
    fn connections_are_counted_by_ipv4_address_and_ipv6_network() {
        let quota = Arc::new(AddressQuota::new(2));
        let acquire = |address: &str| AddressQuota::acquire(&quota, address.parse().unwrap());
        let (first, second) = (acquire("192.0.2.1"), acquire("192.0.2.1"));
        assert!(acquire("192.0.2.1").is_none());
        assert!(acquire("192.0.2.2").is_some());
        drop(first);
        assert!(acquire("192.0.2.1").is_some());
        let (third, fourth) = (acquire("2001:db8::1"), acquire("2001:db8::2"));
        assert!(acquire("2001:db8::3").is_none());
        assert!(acquire("2001:db8:0:1::3").is_some());
        drop((second, third, fourth));
        assert!(quota.in_use.lock().unwrap().is_empty(), "nothing is kept of who has gone");
    }

    #[tokio::test]
    async fn a_taken_port_and_a_foreign_address_are_said_in_one_line() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = bind(Some(loopback), 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind(Some(loopback), port).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {port} of 127.0.0.1 is taken; end the program that has it, or choose another port")
        );
        let error = bind(Some("192.0.2.1".parse().unwrap()), 0).unwrap_err();
        assert!(matches!(error, BindError::NoSuchAddress { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_port_is_free_at_once_though_connections_of_before_linger() {
        let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        // the side that closes first is the one that lingers
        drop((accepted, listener));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        drop(client);
        bind(Some(address.ip()), address.port()).unwrap();
    }

    fn server() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let tls = ServerTls::open(folder.path()).unwrap().config();
        Server { tls, allow_plaintext: false, limits: Limits::default() }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }
}
