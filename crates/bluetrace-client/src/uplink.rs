//! Owns the way to the authority: TCP, and TLS around it.
//!
//! Of several servers the next one is tried when one cannot be reached, and after a connection that was lost.
//! [`Uplink::event`] is one future that may be dropped and made anew at any time without losing a byte.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use zeroize::Zeroize as _;

use crate::known_servers::{Fingerprint, KnownServers};
use crate::servers::{ServerAddress, Servers};
use crate::trust::{CertificateChanged, PinnedCertificate};
use crate::words::in_words;

/// How the authority is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS 1.3, with the certificate pinned on first use.
    Tls,
    /// No encryption. Servers accept it from loopback only, unless told otherwise.
    Plaintext,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("{server} has no address: {}", in_words(.source))]
    NoAddress {
        /// Where to.
        server: ServerAddress,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nothing listens there, or nothing answers.
    #[error("cannot reach {server}: {}", in_words(.source))]
    Unreachable {
        /// Where to.
        server: ServerAddress,
        /// The failure of the last address tried.
        source: io::Error,
    },
    /// Something answers, but not with TLS 1.3.
    #[error("no TLS with {server}: {}", in_words(.source))]
    Tls {
        /// Where to.
        server: ServerAddress,
        /// What went wrong in the handshake.
        source: io::Error,
    },
    /// The server shows another certificate than before.
    #[error("{0}")]
    CertificateChanged(Box<CertificateChanged>),
    /// `known_servers` can be neither read nor written, so trust cannot be checked.
    #[error("cannot use {path}: {}", in_words(.source), path = path.display())]
    KnownServers {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// None of several servers can be used.
    #[error("no server can be used: {}", each_of(.0))]
    AllFailed(Vec<ConnectError>),
}

/// What happens on the way to the authority.
#[derive(Debug)]
pub(crate) enum UplinkEvent {
    /// A wait asked for with [`Uplink::wait_until`] is over.
    WaitOver,
    /// Connected; and what is remembered, and where, if this server was seen for the first time.
    Connected(Option<(ServerAddress, Fingerprint, PathBuf)>),
    /// Not connected.
    Failed(ConnectError),
    /// So many bytes stand at the front of [`Uplink::input`].
    Received(usize),
    /// All that was to be sent is sent.
    Drained,
    /// The connection is over: the peer closed it, or it broke.
    Lost(Option<io::Error>),
}

/// The connection, or the way to one.
pub(crate) struct Uplink {
    /// One for each server; never empty.
    connectors: Vec<Arc<Connector>>,
    /// Which of them is used, or is to be tried first.
    place: usize,
    phase: Phase,
    /// Bytes to send; append only.
    pub(crate) out: Vec<u8>,
    sent: usize,
    is_flushed: bool,
    input: Box<[u8]>,
}

impl Uplink {
    /// # Errors
    /// If TLS cannot be set up at all.
    pub(crate) fn new(servers: &Servers, transport: Transport, known: &KnownServers) -> Result<Self, rustls::Error> {
        let connector = |server: &ServerAddress| Connector::new(server.clone(), transport, known.clone()).map(Arc::new);
        Ok(Self {
            connectors: servers.iter().map(connector).collect::<Result<_, _>>()?,
            place: 0,
            phase: Phase::Off,
            out: Vec::new(),
            sent: 0,
            is_flushed: true,
            input: vec![0; READ_AT_ONCE].into_boxed_slice(),
        })
    }

    /// The server that is used, or tried next.
    pub(crate) fn server(&self) -> &ServerAddress {
        &self.connector().server
    }

    /// Begins to connect, giving up whatever there was.
    pub(crate) fn connect(&mut self) {
        self.close();
        self.phase = Phase::Connecting { attempt: self.attempt(), failures: Vec::new() };
    }

    /// Gives up whatever there was, and announces the given moment.
    pub(crate) fn wait_until(&mut self, until: Instant) {
        self.close();
        self.phase = Phase::Waiting(until);
    }

    /// Gives up whatever there was. A connection that is given up may have been a bad one: the next server is next.
    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Up(_)) {
            self.go_to_next();
        }
        self.phase = Phase::Off;
        self.clear_out();
    }

    /// Whether it waits for the moment to connect.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_))
    }

    /// The bytes of [`UplinkEvent::Received`], and where to put the reaction.
    pub(crate) fn input_and_out(&mut self, length: usize) -> (&[u8], &mut Vec<u8>) {
        (self.input.get(..length).unwrap_or_default(), &mut self.out)
    }

    /// Waits for the next event. Nothing is lost if the wait is given up.
    pub(crate) async fn event(&mut self) -> UplinkEvent {
        match &mut self.phase {
            Phase::Off => std::future::pending().await,
            Phase::Waiting(until) => {
                sleep_until(*until).await;
                self.phase = Phase::Off;
                UplinkEvent::WaitOver
            }
            Phase::Connecting { .. } => self.connected().await,
            Phase::Up(_) => poll_fn(|context| self.poll_stream(context)).await,
        }
    }

    /// Tries one server after the other, each once.
    async fn connected(&mut self) -> UplinkEvent {
        loop {
            let Phase::Connecting { attempt, failures } = &mut self.phase else { return std::future::pending().await };
            let error = match attempt.as_mut().await {
                Ok((stream, new)) => {
                    self.phase = Phase::Up(stream);
                    return UplinkEvent::Connected(new.map(|shown| self.connector().introduction(shown)));
                }
                Err(error) => error,
            };
            // an alarm, and no server that is away
            if matches!(error, ConnectError::CertificateChanged(_)) {
                self.close();
                return UplinkEvent::Failed(error);
            }
            failures.push(error);
            let failures = std::mem::take(failures);
            self.go_to_next();
            if failures.len() < self.connectors.len() {
                self.phase = Phase::Connecting { attempt: self.attempt(), failures };
                continue;
            }
            self.close();
            return UplinkEvent::Failed(ConnectError::of_all(failures));
        }
    }

    #[expect(clippy::indexing_slicing, reason = "`place` is within the list, which has one server at the least")]
    fn connector(&self) -> &Arc<Connector> {
        &self.connectors[self.place]
    }

    fn attempt(&self) -> Pin<Box<dyn Future<Output = Attempt> + Send>> {
        Box::pin(Arc::clone(self.connector()).connect())
    }

    fn go_to_next(&mut self) {
        self.place = (self.place + 1) % self.connectors.len();
    }

    fn poll_stream(&mut self, context: &mut Context<'_>) -> Poll<UplinkEvent> {
        let Phase::Up(stream) = &mut self.phase else { return Poll::Pending };
        // reading first: a server that is behind with its answers stops to read
        let mut buffer = ReadBuf::new(&mut self.input);
        match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                let length = buffer.filled().len();
                return Poll::Ready(if length == 0 { self.lost(None) } else { UplinkEvent::Received(length) });
            }
            Poll::Ready(Err(error)) => return Poll::Ready(self.lost(Some(error))),
            Poll::Pending => {}
        }
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(self.lost(Some(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(length)) => {
                    self.sent += length;
                    self.is_flushed = false;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(self.lost(Some(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.is_flushed {
            return Poll::Pending;
        }
        match Pin::new(stream).poll_flush(context) {
            Poll::Ready(Ok(())) => {
                self.clear_out();
                Poll::Ready(UplinkEvent::Drained)
            }
            Poll::Ready(Err(error)) => Poll::Ready(self.lost(Some(error))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Forgets what was sent, for a password may be in it.
    fn clear_out(&mut self) {
        self.out.zeroize();
        if self.out.capacity() > OUTPUT_KEPT {
            // an upload's buffer, which most connections do not need again
            self.out = Vec::new();
        }
        self.sent = 0;
        self.is_flushed = true;
    }

    fn lost(&mut self, why: Option<io::Error>) -> UplinkEvent {
        self.close();
        UplinkEvent::Lost(why)
    }
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").field("server", self.server()).finish_non_exhaustive()
    }
}

enum Phase {
    Off,
    Waiting(Instant),
    /// Under way to one server, with why others could not be reached.
    Connecting {
        attempt: Pin<Box<dyn Future<Output = Attempt> + Send>>,
        failures: Vec<ConnectError>,
    },
    Up(Box<dyn Stream>),
}

/// A connection, and the fingerprint of a server that was seen for the first time.
pub(crate) type Attempt = Result<(Box<dyn Stream>, Option<Fingerprint>), ConnectError>;

/// Plain TCP, or TLS over it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections to one server.
#[derive(Debug)]
pub(crate) struct Connector {
    server: ServerAddress,
    tls: Option<(Arc<ClientConfig>, Arc<PinnedCertificate>)>,
    known: KnownServers,
}

impl Connector {
    /// # Errors
    /// If TLS cannot be set up at all.
    pub(crate) fn new(server: ServerAddress, transport: Transport, known: KnownServers) -> Result<Self, rustls::Error> {
        let tls = match transport {
            Transport::Plaintext => None,
            Transport::Tls => {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let pin = Arc::new(PinnedCertificate::new(Arc::clone(&provider)));
                // the configuration keeps the server's tickets, so that a reconnection resumes the TLS session
                let config = ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[&rustls::version::TLS13])?
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::clone(&pin) as Arc<dyn ServerCertVerifier>)
                    .with_no_client_auth();
                Some((Arc::new(config), pin))
            }
        };
        Ok(Self { server, tls, known })
    }

    /// Which server it leads to.
    pub(crate) const fn server(&self) -> &ServerAddress {
        &self.server
    }

    fn introduction(&self, shown: Fingerprint) -> (ServerAddress, Fingerprint, PathBuf) {
        (self.server.clone(), shown, self.known.path().to_path_buf())
    }

    pub(crate) async fn connect(self: Arc<Self>) -> Attempt {
        let stream = self.server.connect_tcp().await?;
        // best effort: without these a dead peer is noticed later, and small messages wait for each other
        let _ = stream.set_nodelay(true);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let Some((config, pin)) = &self.tls else { return Ok((Box::new(stream), None)) };

        let name = self.server.to_string();
        let known_error = |source| ConnectError::KnownServers { path: self.known.path().to_path_buf(), source };
        let known = self.known.find(&name).map_err(known_error)?;
        pin.expect(known.as_ref().map(|known| known.fingerprint));
        // what a name must look like to be sent along is no concern here: the certificate is pinned
        let sent_name = ServerName::try_from(self.server.host.clone())
            .or_else(|_| ServerName::try_from("bluetrace"))
            .map_err(|error| self.tls_error(io::Error::other(error)))?;
        let handshake = TlsConnector::from(Arc::clone(config)).connect(sent_name, stream);
        let outcome = timeout(CONNECT_TIMEOUT, handshake).await.unwrap_or_else(|_| Err(too_slow()));
        let shown = pin.shown();
        match (outcome, known, shown) {
            (Ok(stream), Some(_), _) => Ok((Box::new(stream), None)),
            (Ok(stream), None, Some(shown)) => {
                self.known.remember(&name, shown).map_err(known_error)?;
                Ok((Box::new(stream), Some(shown)))
            }
            (Ok(_), None, None) => Err(self.tls_error(io::Error::other("the server showed no certificate"))),
            (Err(_), Some(known), Some(shown)) if known.fingerprint != shown => {
                Err(ConnectError::CertificateChanged(Box::new(CertificateChanged {
                    server: self.server.clone(),
                    expected: known.fingerprint,
                    shown,
                    file: self.known.path().to_path_buf(),
                    line: known.line,
                })))
            }
            (Err(source), _, _) => Err(self.tls_error(source)),
        }
    }

    fn tls_error(&self, source: io::Error) -> ConnectError {
        ConnectError::Tls { server: self.server.clone(), source }
    }
}

impl Servers {
    /// Looks whether any of them answers.
    ///
    /// # Errors
    /// [`ConnectError`] if none can be reached.
    pub async fn reach_any(&self) -> Result<(), ConnectError> {
        let mut failures = Vec::new();
        for server in self.iter() {
            match server.connect_tcp().await {
                Ok(_) => return Ok(()),
                Err(error) => failures.push(error),
            }
        }
        Err(ConnectError::of_all(failures))
    }
}

impl ConnectError {
    /// What the failures of all servers, of which there is one at the least, come to.
    fn of_all(mut failures: Vec<Self>) -> Self {
        match failures.pop() {
            Some(error) if failures.is_empty() => error,
            last => Self::AllFailed(failures.into_iter().chain(last).collect()),
        }
    }
}

impl ServerAddress {
    /// Tries every address of the server in turn.
    pub(crate) async fn connect_tcp(&self) -> Result<TcpStream, ConnectError> {
        let Self { host, port } = self;
        let no_address = |source| ConnectError::NoAddress { server: self.clone(), source };
        let addresses: Vec<SocketAddr> =
            match timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host.as_str(), *port))).await {
                Ok(found) => found.map_err(no_address)?.collect(),
                Err(_) => return Err(no_address(too_slow())),
            };
        let mut last = None;
        for address in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(too_slow()),
            }
        }
        Err(match last {
            Some(source) => ConnectError::Unreachable { server: self.clone(), source },
            None => no_address(io::ErrorKind::NotFound.into()),
        })
    }
}

/// Each error, with what stands between them.
fn each_of(errors: &[ConnectError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s")
}

/// For each address, and for the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After so much silence the kernel asks whether the peer is still there, and then so often.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// Bytes of the output's buffer that are kept when it has been sent.
const OUTPUT_KEPT: usize = 4 * 1024;

/// Bytes read from the connection at once.
const READ_AT_ONCE: usize = 16 * 1024;
