//! Owns the radio: UDP datagrams standing in for Bluetooth.
//!
//! One socket listens, and no datagram, error or burst ends that. Each beacon is sent from a socket of its own that is
//! connected to its target, for only then does the kernel say that nobody listens there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bluetrace_protocol::limits::MAX_BEACON;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// The listening socket.
#[derive(Debug)]
pub(crate) struct Radio {
    socket: UdpSocket,
    address: SocketAddr,
    buffer: [u8; MAX_BEACON + 1],
}

/// A target as the user wrote it: a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an address.
    pub host: String,
    /// The UDP port, not 0.
    pub port: u16,
}

/// What became of a beacon.
#[derive(Debug)]
pub(crate) enum Sent {
    /// It left; here is the socket that would hear of a refusal.
    Left(UdpSocket, SocketAddr),
    /// The kernel said at once that nobody listens there.
    Refused(SocketAddr),
    /// It did not leave.
    Failed(io::Error),
}

impl Radio {
    /// Begins to listen. The unspecified address means every one of this machine, of IPv6 too where there is it.
    ///
    /// # Errors
    /// When the address cannot be bound; `AddrInUse` if something else listens there.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        if address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
            match Self::bind_one(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port())) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {}
                bound => return bound,
            }
        }
        Self::bind_one(address)
    }

    fn bind_one(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // best effort: the kernel gives what it allows
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, buffer: [0; MAX_BEACON + 1] })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until there may be a datagram. Nothing is lost if the wait is given up.
    pub(crate) async fn readable(&self) {
        // a socket in an error state is readable too, and reading it clears the error
        if self.socket.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The next datagram, cut one byte after the longest beacon, if one is waiting.
    pub(crate) fn receive(&mut self) -> Option<(&[u8], SocketAddr)> {
        for _ in 0..ERRORS_AT_ONCE {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    return Some((self.buffer.get(..length).unwrap_or_default(), from));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // an error that some earlier datagram caused; reading took it away
                Err(_) => {}
            }
        }
        None
    }
}

/// Sends one datagram to the first of the target's addresses that takes it.
pub(crate) async fn send(datagram: &[u8], target: &Target) -> Sent {
    let found = match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((target.host.as_str(), target.port))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Sent::Failed(error),
        Err(_) => return Sent::Failed(io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer")),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in found {
        match send_to(datagram, address).await {
            Ok(sent) => return sent,
            Err(error) => last = error,
        }
    }
    Sent::Failed(last)
}

/// Waits a moment for the message that nobody listens at the other end, and says whether it came.
pub(crate) async fn is_refused(socket: &UdpSocket) -> bool {
    let mut byte = [0];
    let answer = timeout(REFUSAL_TIMEOUT, socket.recv(&mut byte)).await;
    matches!(answer, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

async fn send_to(datagram: &[u8], address: SocketAddr) -> io::Result<Sent> {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    socket.send(datagram).await?;
    // on loopback the refusal is there already
    match socket.take_error()? {
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Sent::Refused(address)),
        _ => Ok(Sent::Left(socket, address)),
    }
}

/// Bytes asked for, enough for a burst of thousands of beacons.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Errors in a row that are read away before waiting again.
const ERRORS_AT_ONCE: usize = 64;

/// How long a target's name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a refusal may take to come back.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);
