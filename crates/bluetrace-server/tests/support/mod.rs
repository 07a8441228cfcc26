//! A small client that speaks lines, for the tests over real sockets.

pub(crate) mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough for a busy machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// One connection and the bytes read from it that no line has taken yet.
pub(crate) struct LineClient<S = TcpStream> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

impl LineClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl LineClient<TlsStream<TcpStream>> {
    pub(crate) async fn connect_tls(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let stream = LineClient::connect(address).await.stream;
        let handshake = TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), stream);
        Self::over(timeout(PATIENCE, handshake).await.unwrap().unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> LineClient<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
        timeout(PATIENCE, self.stream.flush()).await.unwrap().unwrap();
    }

    /// The next line without its end, or `None` when the server has closed.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.drain(..=end).take(end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            let mut buffer = [0; 4_096];
            match timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the server says nothing") {
                Ok(0) | Err(_) => {
                    assert!(self.read.is_empty(), "the server closed in the middle of a line");
                    return None;
                }
                Ok(read) => self.read.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// Every line until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }
}
