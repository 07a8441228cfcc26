//! Owns one kept-alive HTTP connection of a load: [`HttpConnection`], a request and its whole answer at a time, in the task of its
//! device.

use std::error::Error;
use std::io;
use std::pin::{Pin, pin};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::sleep;

use super::http_body::{BodyProgress, RequestBody};
use super::link::ANSWER_TIMEOUT;
use crate::uplink::Stream;

/// What moves a connection's bytes.
type Driver = Connection<TokioIo<Box<dyn Stream>>, RequestBody>;

/// A connection. What moves its bytes is polled whenever its device waits for something, so that it needs no task of its own.
pub(super) struct HttpConnection {
    host: String,
    sender: SendRequest<RequestBody>,
    driver: Pin<Box<Driver>>,
    /// Whether the driver has come to its end, and is not to be polled any more.
    has_ended: bool,
}

impl HttpConnection {
    /// Speaks HTTP over a stream to a host.
    ///
    /// # Errors
    /// Why not, by its kind.
    pub(super) async fn over(stream: Box<dyn Stream>, host: String) -> Result<Self, String> {
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| kind_of(&error))?;
        Ok(Self { host, sender, driver: Box::pin(driver), has_ended: false })
    }

    /// To whom it is.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The connection, when it can take a request; `None` if the server has closed it.
    pub(super) async fn when_ready(mut self) -> Option<Self> {
        if self.has_ended {
            return None;
        }
        let is_ready = tokio::select! {
            biased; // a server that closed a while ago is noticed before anything is sent
            _ = &mut self.driver => false,
            ready = self.sender.ready() => ready.is_ok(),
        };
        is_ready.then_some(self)
    }

    /// Waits until the server closes it.
    pub(super) async fn ended(&mut self) {
        if !self.has_ended {
            // why it ended is of no concern between two requests
            _ = (&mut self.driver).await;
            self.has_ended = true;
        }
    }

    /// Sends a request, and waits for the whole answer, as long as bytes of the one or the other move.
    ///
    /// # Errors
    /// Why there is no answer, by its kind. The connection is of no further use then.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        progress: &BodyProgress,
    ) -> Result<(StatusCode, Bytes), String> {
        let Self { sender, driver, has_ended, .. } = self;
        let mut answer = pin!(async {
            let (head, body) = sender.send_request(request).await.map_err(|error| kind_of(&error))?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(|error| kind_of(error.as_ref()))?;
            Ok((head.status, body.to_bytes()))
        });
        let mut before = progress.pieces();
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                // an answer that came before the end is there
                _ = &mut *driver, if !*has_ended => *has_ended = true,
                () = sleep(ANSWER_TIMEOUT) => {
                    let now = progress.pieces();
                    if std::mem::replace(&mut before, now) == now {
                        return Err("no answer".to_owned());
                    }
                }
            }
        }
    }
}

/// What went wrong on a connection, in the words that a load has for it over TCP.
fn kind_of(error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return format!("connection lost: {}", error.kind());
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return "the server does not speak HTTP".to_owned();
        }
        cause = error.source();
    }
    "connection lost: closed".to_owned()
}

/// Bytes buffered of what is sent and of what is received, at the most: of many connections most are idle.
const BUFFER: usize = 16 * 1024;

/// Longest answer, in bytes: 100 `TempIDs` fit.
const LONGEST_ANSWER: usize = 64 * 1024;
