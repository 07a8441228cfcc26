//! Owns how a device of a load speaks over HTTP: [`HttpLink`], the calls of `/v1`, a step at a time, over a connection that is kept
//! alive ([`super::http_connection`]).
//!
//! A device whose connection was lost renews its session with its resume token, as over TCP it resumes; one whose connection the
//! server closed while it was idle has lost nothing.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::{ContactLogEntry, Record, UploadId, UploadSummary};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use serde::Serialize;
use tokio::time::Instant;

use super::http_body::RequestBody;
use super::http_connection::HttpConnection;
use super::http_wire::{
    BeginBody, CountBody, LoginBody, NOT_THE_API, Problem, RenewBody, SessionBody, SummaryBody, TempIdBody,
    TempIdsBody, UNAUTHENTICATED, UploadBody, json, read,
};
use super::link::{Account, Failure, Link, Standing};
use super::tally::Measured;
use crate::uplink::{ConnectError, Connector};

pub(super) struct HttpLink {
    /// One for each server; never empty.
    connectors: Vec<Arc<Connector>>,
    /// Which of them is used, or is to be tried first.
    place: usize,
    connection: Option<HttpConnection>,
    session: Option<Session>,
}

struct Session {
    access_token: String,
    /// When another access token is to be had.
    renew_at: Instant,
    resume_token: String,
}

/// What came of a request that was answered.
type Answer = Result<Bytes, Problem>;

impl HttpLink {
    /// `connectors` lead to the servers of one authority, at least one.
    pub(super) const fn new(connectors: Vec<Arc<Connector>>) -> Self {
        Self { connectors, place: 0, connection: None, session: None }
    }

    /// Makes sure of a connection: the one there is, or one to a server that can be reached, each tried once.
    async fn connected(&mut self) -> Result<&mut HttpConnection, Failure> {
        if let Some(connection) = self.connection.take()
            && let Some(ready) = connection.when_ready().await
        {
            return Ok(self.connection.insert(ready));
        }
        let mut failures = Vec::new();
        for _ in 0..self.connectors.len() {
            let Some(connector) = self.connectors.get(self.place) else { break };
            match Arc::clone(connector).connect().await {
                Ok((stream, _)) => {
                    let connection = HttpConnection::over(stream, connector.server().to_string()).await;
                    return Ok(self.connection.insert(connection.map_err(Failure::come_back)?));
                }
                Err(error @ ConnectError::CertificateChanged(_)) => return Err(Failure::from(&error)),
                Err(error) => failures.push(error),
            }
            self.go_to_next();
        }
        Err(match failures.pop() {
            Some(error) if failures.is_empty() => Failure::from(&error),
            last => Failure::from(&ConnectError::AllFailed(failures.into_iter().chain(last).collect())),
        })
    }

    fn go_to_next(&mut self) {
        self.place = (self.place + 1) % self.connectors.len().max(1);
    }

    /// Makes a request, with the access token if there is a session.
    async fn request(&mut self, method: Method, path: &str, body: RequestBody) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, body.kind());
        if let Some(Session { access_token, .. }) = &self.session {
            request = request.header(AUTHORIZATION, format!("Bearer {}", access_token.as_str()));
        }
        let connection = self.connected().await?;
        let progress = body.progress();
        let request = request.header(HOST, connection.host()).body(body);
        let request = request.map_err(|_| Failure::end("a request that cannot be written"))?;
        match connection.exchange(request, &progress).await {
            Ok((status, bytes)) if status.is_success() => Ok(Ok(bytes)),
            Ok((status, bytes)) => Ok(Err(Problem::read(status.as_u16(), &bytes))),
            Err(why) => {
                self.close();
                Err(Failure::come_back(why))
            }
        }
    }

    async fn post(&mut self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.request(Method::POST, path, json(body)).await
    }

    /// Takes up the session that a login or a renewal has made.
    fn take_session(&mut self, answer: &Bytes) -> Result<(), Failure> {
        let SessionBody { access_token, access_expires, resume_token, now } = read(answer)?;
        let lasts = u64::try_from(access_expires.saturating_sub(now)).unwrap_or(0);
        // with some time for the request that it goes with
        let renew_at = Instant::now() + Duration::from_secs(lasts / 2);
        self.session = Some(Session { access_token, renew_at, resume_token });
        Ok(())
    }

    /// Renews the session: `None` if its resume token is no longer good.
    async fn renew(&mut self) -> Result<Option<()>, Failure> {
        let Some(session) = self.session.take() else { return Ok(None) };
        let answer = self.post("/v1/session", &RenewBody { resume_token: &session.resume_token }).await;
        // only the answer says that the token is not good
        match answer {
            Ok(Err(problem)) if problem.code == UNAUTHENTICATED => Ok(None),
            Ok(Ok(bytes)) => self.take_session(&bytes).map(Some),
            Ok(Err(problem)) => {
                self.session = Some(session);
                Err(problem.into())
            }
            Err(failure) => {
                self.session = Some(session);
                Err(failure)
            }
        }
    }

    /// Makes sure that the access token is good for a while.
    async fn authorised(&mut self) -> Result<(), Failure> {
        if self.session.as_ref().is_some_and(|session| session.renew_at <= Instant::now()) {
            // without a session the next request is refused, and the device comes in with its password
            self.renew().await?;
        }
        Ok(())
    }

    async fn begin(&mut self, id: &UploadId, records: u32) -> Result<UploadBody, Failure> {
        self.authorised().await?;
        let path = format!("/v1/uploads/{}", id.reveal());
        let answer = self.request(Method::PUT, &path, json(&BeginBody { records })).await?;
        read(&answer?)
    }
}

impl Link for HttpLink {
    fn has_session(&self) -> bool {
        self.session.is_some()
    }

    async fn enter(&mut self, account: &Account) -> Result<Measured, Failure> {
        if self.renew().await?.is_some() {
            return Ok(Measured::Resume);
        }
        let login = LoginBody { username: account.username.reveal(), password: account.password.reveal() };
        let answer = self.post("/v1/login", &login).await?;
        self.take_session(&answer?)?;
        Ok(Measured::Login)
    }

    async fn temp_ids(&mut self, count: u32) -> Result<Vec<Record>, Failure> {
        self.authorised().await?;
        let answer = self.post("/v1/temp-ids", &CountBody { count }).await?;
        let TempIdsBody { temp_ids } = read(&answer?)?;
        let records: Option<_> = temp_ids.into_iter().map(TempIdBody::record).collect();
        records.ok_or_else(|| Failure::come_back(NOT_THE_API))
    }

    async fn upload(
        &mut self,
        id: &UploadId,
        records: &Arc<[ContactLogEntry]>,
        mut progress: impl FnMut(u32) + Send,
    ) -> Result<UploadSummary, Failure> {
        let total = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let mut found = self.begin(id, total).await?;
        loop {
            let UploadBody { durable, summary } = found;
            if let Some(summary) = summary {
                return Ok(summary.into());
            }
            progress(durable);
            let path = format!("/v1/uploads/{}/records?first={durable}", id.reveal());
            let body = RequestBody::records(Arc::clone(records), durable);
            let answer = self.request(Method::POST, &path, body).await?;
            if let Err(Problem { durable: Some(durable), .. }) = &answer {
                progress(*durable);
            }
            found = read(&answer?)?;
            if found.summary.is_none() && found.durable <= durable {
                return Err(Failure::come_back("an upload does not go on"));
            }
        }
    }

    async fn standing(&mut self, id: &UploadId, blanks: &Arc<[ContactLogEntry]>) -> Result<Standing, Failure> {
        let UploadBody { durable, summary } = self.begin(id, u32::try_from(blanks.len()).unwrap_or(u32::MAX)).await?;
        Ok(match summary {
            Some(SummaryBody { records, .. }) => Standing { durable: records, is_complete: true },
            None => Standing { durable, is_complete: false },
        })
    }

    async fn leave(&mut self) -> Result<(), Failure> {
        self.authorised().await?;
        let answer = self.request(Method::DELETE, "/v1/session", RequestBody::empty()).await?;
        self.session = None;
        answer?;
        Ok(())
    }

    async fn lost(&mut self) -> Failure {
        if let Some(connection) = &mut self.connection {
            connection.ended().await;
        }
        self.connection = None;
        // the session goes on with the next request
        pending().await
    }

    fn close(&mut self) {
        if self.connection.take().is_some() {
            self.go_to_next();
        }
    }
}

impl fmt::Debug for HttpLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpLink").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bluetrace_protocol::{Password, TempId, Timestamp, Username, Window};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::known_servers::KnownServers;
    use crate::load::link::Then;
    use crate::servers::Servers;
    use crate::uplink::Transport;

    #[tokio::test]
    async fn who_is_cut_off_comes_back_with_the_resume_token_and_with_the_password_where_that_is_no_longer_good() {
        let (listener, mut link) = server_and_link().await;
        let serving = tokio::spawn(async move {
            let mut stream = accept(&listener).await;
            assert!(answer(&mut stream, 200, &session(1)).await.starts_with("POST /v1/login "));
            let cut = hear(&mut stream).await;
            assert!(cut.starts_with("PUT /v1/uploads/u-1 ") && cut.contains("Bearer access-1"), "{cut}");
            drop(stream);
            let mut stream = accept(&listener).await;
            let renewal = answer(&mut stream, 200, &session(2)).await;
            assert!(renewal.starts_with("POST /v1/session ") && renewal.contains("resume-1"), "{renewal}");
            hear(&mut stream).await;
            drop(stream);
            let mut stream = accept(&listener).await;
            let refused = answer(&mut stream, 401, r#"{"code":"unauthenticated"}"#).await;
            assert!(refused.starts_with("POST /v1/session ") && refused.contains("resume-2"), "{refused}");
            assert!(answer(&mut stream, 200, &session(3)).await.starts_with("POST /v1/login "));
        });
        let (account, id) = (account(), UploadId::parse("u-1").unwrap());
        assert!(!link.has_session());
        for how in [Measured::Login, Measured::Resume, Measured::Login] {
            assert_eq!(link.enter(&account).await.unwrap(), how);
            if link.session.as_ref().unwrap().access_token == "access-3" {
                break;
            }
            let lost = link.upload(&id, &records(3), |_| ()).await.unwrap_err();
            assert_eq!(lost.then, Then::ComeBack(Duration::ZERO), "{lost:?}");
        }
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn an_upload_goes_on_where_the_server_says() {
        let (listener, mut link) = server_and_link().await;
        let serving = tokio::spawn(async move {
            let mut stream = accept(&listener).await;
            answer(&mut stream, 200, r#"{"durable":0,"summary":null}"#).await;
            let busy = r#"{"code":"busy","retryAfter":7,"durable":2}"#;
            assert!(answer(&mut stream, 503, busy).await.starts_with("POST /v1/uploads/u-1/records?first=0 "));
            answer(&mut stream, 200, r#"{"durable":2,"summary":null}"#).await;
            let summary = r#"{"records":3,"resolved":1,"unknown":2,"invalid":0}"#;
            let rest = answer(&mut stream, 200, &format!(r#"{{"durable":3,"summary":{summary}}}"#)).await;
            assert!(rest.starts_with("POST /v1/uploads/u-1/records?first=2 "), "{rest}");
            assert_eq!(rest.matches("tempId").count(), 1, "only the one that was missing: {rest}");
        });
        let (id, records, mut told) = (UploadId::parse("u-1").unwrap(), records(3), Vec::new());
        let busy = link.upload(&id, &records, |durable| told.push(durable)).await.unwrap_err();
        assert_eq!((busy.why.as_str(), busy.then), ("busy", Then::AskAgain(Duration::from_secs(7))));
        let summary = link.upload(&id, &records, |durable| told.push(durable)).await.unwrap();
        assert_eq!((summary.records, summary.resolved, summary.unknown), (3, 1, 2));
        assert_eq!(told, [0, 2, 2]);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closes_between_two_requests_is_no_failure() {
        let (listener, mut link) = server_and_link().await;
        let (closed, is_closed) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let mut stream = accept(&listener).await;
            answer(&mut stream, 200, &session(1)).await;
            stream.shutdown().await.unwrap();
            // the device has seen it, and closes as well
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
            closed.send(()).unwrap();
            let mut stream = accept(&listener).await;
            let request = answer(&mut stream, 200, r#"{"tempIds":[]}"#).await;
            assert!(request.contains("Bearer access-1"), "{request}");
        });
        link.enter(&account()).await.unwrap();
        tokio::select! {
            failure = link.lost() => panic!("{failure:?}"),
            closed = is_closed => closed.unwrap(),
        }
        assert_eq!(link.temp_ids(1).await.unwrap(), []);
        serving.await.unwrap();
    }

    #[test]
    fn a_problem_says_what_to_do_about_it() {
        let wait = Duration::from_secs(3);
        for (code, then) in [
            ("rate_limited", Then::AskAgain(wait)),
            ("unavailable", Then::ComeBack(wait)),
            ("shutting_down", Then::ComeBack(wait)),
            ("blocked", Then::End),
            ("upload_conflict", Then::LetBe),
            ("internal", Then::LetBe),
        ] {
            let problem = Bytes::from(format!(r#"{{"code":"{code}","retryAfter":3}}"#));
            assert_eq!(Failure::from(Problem::read(503, &problem)).then, then, "{code}");
        }
        let foreign = Failure::from(Problem::read(502, &Bytes::from_static(b"<html>")));
        assert_eq!((foreign.why.as_str(), foreign.then), ("status 502", Then::ComeBack(Duration::ZERO)));
    }

    async fn server_and_link() -> (TcpListener, HttpLink) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let servers = Servers::parse(&listener.local_addr().unwrap().to_string(), 1).unwrap();
        let known = KnownServers::new("no such folder".as_ref());
        let connector = |server: &crate::servers::ServerAddress| {
            Arc::new(Connector::new(server.clone(), Transport::Plaintext, known.clone()).unwrap())
        };
        (listener, HttpLink::new(servers.iter().map(connector).collect()))
    }

    async fn accept(listener: &TcpListener) -> TcpStream {
        listener.accept().await.unwrap().0
    }

    /// One request, its body included.
    async fn hear(stream: &mut TcpStream) -> String {
        let mut heard = String::new();
        loop {
            if let Some((head, body)) = heard.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let is_chunked = head.contains("transfer-encoding: chunked");
                if if is_chunked { body.ends_with("0\r\n\r\n") } else { body.len() >= length.unwrap_or(0) } {
                    return heard;
                }
            }
            let mut bytes = [0; 4_096];
            let read = stream.read(&mut bytes).await.unwrap();
            assert!(read > 0, "a request that is cut: {heard}");
            heard.push_str(str::from_utf8(&bytes[..read]).unwrap());
        }
    }

    /// Hears a request, and answers it.
    async fn answer(stream: &mut TcpStream, status: u16, body: &str) -> String {
        let request = hear(stream).await;
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        request
    }

    fn session(number: u32) -> String {
        let tokens = format!(r#""accessToken":"access-{number}","resumeToken":"resume-{number}""#);
        format!(r#"{{{tokens},"accessExpires":1600,"resumeExpires":2800,"now":1000}}"#)
    }

    fn account() -> Account {
        Account { username: Username::parse("alice").unwrap(), password: Password::parse("waratah").unwrap() }
    }

    fn records(count: u8) -> Arc<[ContactLogEntry]> {
        let at = |seconds| Timestamp::from_unix(seconds).unwrap();
        let entry = |number: u8| ContactLogEntry {
            record: Record {
                temp_id: TempId::parse(&format!("{number:020}")).unwrap(),
                window: Window::new(at(1_589_392_446), at(1_589_393_345)).unwrap(),
            },
            received: at(1_589_392_500),
        };
        (0..count).map(entry).collect()
    }
}
