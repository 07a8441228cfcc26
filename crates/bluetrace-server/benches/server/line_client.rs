//! A client that costs as little as it can: what is measured is the other end.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// One connection.
pub(crate) struct LineClient<S = TcpStream> {
    pub(crate) stream: BufReader<S>,
    line: Vec<u8>,
}

impl LineClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, 4_096)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> LineClient<S> {
    pub(crate) fn over(stream: S, buffer: usize) -> Self {
        Self { stream: BufReader::with_capacity(buffer, stream), line: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next line, with its end.
    pub(crate) async fn line(&mut self) -> &str {
        self.line.clear();
        assert!(self.stream.read_until(b'\n', &mut self.line).await.unwrap() > 0, "the server closed");
        std::str::from_utf8(&self.line).unwrap()
    }
}
