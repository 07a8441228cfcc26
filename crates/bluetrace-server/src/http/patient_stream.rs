//! Owns how long an answer waits for a peer that does not read: [`PatientStream`].

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::limits::Limits;
use crate::shutdown::Shutdown;

/// A stream whose writes fail when the peer takes nothing for [`Limits::write_stall`], or for [`Limits::shutdown_stall`] once
/// the end of the server is announced.
pub(super) struct PatientStream<S> {
    stream: S,
    limits: Limits,
    shutdown: Shutdown,
    /// Ends when patience does. Only while the peer takes nothing.
    patience: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> PatientStream<S> {
    pub(super) const fn new(stream: S, limits: Limits, shutdown: Shutdown) -> Self {
        Self { stream, limits, shutdown, patience: None }
    }

    /// The stream itself.
    pub(super) const fn inner_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    fn unless_stalled<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let Limits { write_stall, shutdown_stall, .. } = self.limits;
        let mut shutdown = self.shutdown.clone();
        let patience = self.patience.get_or_insert_with(|| {
            Box::pin(async move {
                tokio::select! {
                    () = sleep(write_stall) => {}
                    () = shutdown.begun_for(shutdown_stall) => {}
                }
            })
        });
        patience.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.unless_stalled(written, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.unless_stalled(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.unless_stalled(flushed, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(context);
        this.unless_stalled(shut, context)
    }
}

impl<S> fmt::Debug for PatientStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatientStream").field("is_stalled", &self.patience.is_some()).finish_non_exhaustive()
    }
}
