//! A client of the HTTPS API that costs as little as it can: requests are bytes, and of an answer it looks for the end.

use std::net::SocketAddr;

use memchr::memmem;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection that is kept.
pub(crate) struct HttpClient {
    stream: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl HttpClient {
    pub(crate) async fn connect(address: SocketAddr, tls: &TlsConnector) -> Self {
        Self { stream: connect(address, tls).await, read: Vec::new() }
    }

    /// Sends a request and waits for the answer, which is to be `200`: its body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).await.unwrap();
        self.stream.flush().await.unwrap();
        self.read.clear();
        let mut whole = None;
        while whole.is_none_or(|(_, end)| self.read.len() < end) {
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "the server closed");
            whole = whole.or_else(|| self.body());
        }
        let (begin, end) = whole.unwrap();
        assert!(self.read.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&self.read));
        &self.read[begin..end]
    }

    /// Where the body begins and ends, once there is a head.
    fn body(&self) -> Option<(usize, usize)> {
        const LENGTH: &[u8] = b"content-length: ";
        let begin = memmem::find(&self.read, b"\r\n\r\n")? + 4;
        let head = &self.read[..begin];
        let length = head.get(memmem::find(head, LENGTH)? + LENGTH.len()..)?;
        let length = length
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
        Some((begin, begin + length))
    }
}

/// A connection in TLS.
pub(crate) async fn connect(address: SocketAddr, tls: &TlsConnector) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

/// A request with a body.
pub(crate) fn request(line: &str, token: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
