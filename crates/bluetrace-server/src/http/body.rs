//! Owns how bodies are read and written: JSON with a limit and a deadline ([`Json`]), and the parts of a path and a query.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bluetrace_protocol::UploadId;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserializer, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::problem::{Problem, ProblemCode};
use super::{Api, json_text};
use crate::limits::{HTTP_BODY_DEADLINE, LINGER, MAX_HTTP_BODY, MAX_LINGER};

/// A body of JSON, asked or answered.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// The upload that a path names.
#[derive(Debug)]
pub(crate) struct UploadName(pub(crate) UploadId);

/// Why a short body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShortBodyError {
    /// It is longer than [`MAX_HTTP_BODY`].
    TooLarge,
    /// It was not there within [`HTTP_BODY_DEADLINE`].
    TooSlow,
    /// It ended before its end.
    Cut,
}

/// A body that is given back when it is dropped: what a handler has not read of it.
struct Lent {
    body: Body,
    back: Option<oneshot::Sender<Body>>,
}

/// What is left of a body that was lent.
pub(crate) struct Remainder(Option<oneshot::Receiver<Body>>);

/// Lends a body to a handler.
pub(crate) fn lend(body: Body) -> (Body, Remainder) {
    if body.is_end_stream() {
        return (body, Remainder(None));
    }
    let (back, remainder) = oneshot::channel();
    (Body::new(Lent { body, back: Some(back) }), Remainder(Some(remainder)))
}

impl Remainder {
    /// Reads what is left of a short body, so that the connection can carry the next request though this one was refused
    /// unread. What is left of a longer one is not worth it: the connection ends then.
    pub(crate) async fn read(self) {
        let Some(Ok(mut body)) = self.0.map(|mut remainder| remainder.try_recv()) else { return };
        if body.size_hint().lower() > u64::try_from(MAX_LINGER).unwrap_or(u64::MAX) {
            return;
        }
        let reading = async {
            let mut bytes = 0;
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > MAX_LINGER {
                    break;
                }
            }
        };
        // whatever comes of it, the answer is sent
        let _ = timeout(LINGER, reading).await;
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // an error says that nobody waits for it any more
            let _ = back.send(std::mem::take(&mut self.body));
        }
    }
}

/// Reads a body of at most [`MAX_HTTP_BODY`] bytes.
pub(crate) async fn read_short(mut body: Body) -> Result<Vec<u8>, ShortBodyError> {
    let most = u64::try_from(MAX_HTTP_BODY).unwrap_or(u64::MAX);
    if body.size_hint().lower() > most {
        return Err(ShortBodyError::TooLarge);
    }
    let reading = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ShortBodyError::Cut)?.into_data() else { continue };
            if bytes.len() + data.len() > MAX_HTTP_BODY {
                return Err(ShortBodyError::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    timeout(HTTP_BODY_DEADLINE, reading).await.unwrap_or(Err(ShortBodyError::TooSlow))
}

/// Whether the headers say that the body is of one of these kinds; what follows a semicolon is not looked at.
pub(crate) fn is_of_kind(headers: &HeaderMap, kinds: &[&str]) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kinds.iter().any(|expected| kind.eq_ignore_ascii_case(expected))
}

/// A number in a query; `default` where the query does not name it.
pub(crate) fn number_in_query(parts: &Parts, name: &str, default: u32) -> Result<u32, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
    let Some((_, value)) = value else { return Ok(default) };
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_number).ok_or_else(|| {
        Problem::new(ProblemCode::BadRequest, format!("`{name}` in the query is not a whole number of 0 or more"))
    })
}

/// Reads a whole number, also one written as `2.0`: JSON knows one kind of number, and some languages write all of theirs so.
pub(crate) fn whole_number<'de, T: TryFrom<i64>, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
    struct Whole;
    impl Visitor<'_> for Whole {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<i64, E> {
            Ok(number)
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<i64, E> {
            i64::try_from(number).map_err(|_| E::custom("out of range"))
        }

        // an integer too long for an i64 arrives here as well, rounded; so both ends are out of range
        #[expect(clippy::cast_possible_truncation, reason = "every whole number in this range has its i64")]
        fn visit_f64<E: Error>(self, number: f64) -> Result<i64, E> {
            const END: f64 = 9_223_372_036_854_775_808.0;
            let is_whole = number.fract() == 0.0 && number.abs() < END;
            if is_whole { Ok(number as i64) } else { Err(E::custom("not a whole number in range")) }
        }
    }
    let number = json.deserialize_any(Whole)?;
    T::try_from(number).map_err(|_| D::Error::custom("out of range"))
}

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Api>) -> Result<Self, Problem> {
        if !is_of_kind(request.headers(), &["application/json"]) {
            return Err(Problem::new(ProblemCode::UnsupportedMediaType, "send `Content-Type: application/json`"));
        }
        let bytes = read_short(request.into_body()).await?;
        // the error's own text could quote the body; its place cannot
        let place = |error: serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            Problem::new(ProblemCode::BadJson, format!("not JSON of the form asked for: line {line}, column {column}"))
        };
        serde_json::from_slice(&bytes).map(Self).map_err(place)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let kind = HeaderValue::from_static("application/json");
        ([(CONTENT_TYPE, kind)], json_text(&self.0)).into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for UploadName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(id)| UploadId::parse(&id).ok());
        id.map(Self).ok_or_else(|| {
            Problem::new(ProblemCode::BadRequest, "an upload id is 1 to 64 printable ASCII characters without spaces")
        })
    }
}

impl From<ShortBodyError> for Problem {
    fn from(error: ShortBodyError) -> Self {
        match error {
            ShortBodyError::TooLarge => {
                Self::new(ProblemCode::TooLarge, format!("a body here has at most {MAX_HTTP_BODY} bytes"))
            }
            ShortBodyError::TooSlow => {
                let seconds = HTTP_BODY_DEADLINE.as_secs();
                Self::new(ProblemCode::TooSlow, format!("a body here is to be sent within {seconds} seconds"))
            }
            ShortBodyError::Cut => Self::new(ProblemCode::BadRequest, "the body ended before its end"),
        }
    }
}
