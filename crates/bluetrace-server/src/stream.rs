//! Owns the byte streams of accepted connections: [`Stream`], and a close that the peer can read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::limits::{LINGER, MAX_LINGER, WRITE_STALL};

/// An accepted connection, ready for its session.
///
/// One type for both kinds, so that a connection's task is built once and is as small for plaintext as if there were no TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plaintext.
    Plain(TcpStream),
    /// TLS 1.3, its handshake done.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Sends a last line, ended here, and closes so that the peer can read it. See [`send_and_close`].
pub(crate) async fn say_and_close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, line: &str) {
    send_and_close(stream, format!("{line}\n").as_bytes()).await;
}

/// Sends last bytes and closes so that the peer can read them: what it has sent meanwhile is read and thrown away, for a bounded
/// time and length, because a close with unread bytes would reset the connection.
pub(crate) async fn send_and_close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    let farewell = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await
    };
    // whatever fails here, the connection ends
    if let Ok(Ok(())) = timeout(WRITE_STALL, farewell).await {
        let _ = timeout(LINGER, throw_away(stream)).await;
    }
}

/// Closes so that the peer can read what was sent last. See [`send_and_close`].
pub(crate) async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    send_and_close(stream, &[]).await;
}

async fn throw_away<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut buffer = [0; 1_024];
    let mut thrown_away = 0;
    while thrown_away < MAX_LINGER {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => thrown_away += read,
        }
    }
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
