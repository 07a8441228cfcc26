//! A server with the HTTPS API, two accounts and a clock of its own, and a client that speaks raw HTTP.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bluetrace_authority::authority::Scheme;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::Store;
use bluetrace_authority::{Authority, MasterKey, Policy};
use bluetrace_protocol::{Clock, Moment, Password, Timestamp, Username};
use bluetrace_server::code_sender::{CodeSender, CodeText};
use bluetrace_server::complaints::Complaints;
use bluetrace_server::connection::Shared;
use bluetrace_server::console::Console;
use bluetrace_server::http::{HttpApi, HttpOptions, OpenTraceOptions, Probe, Rates};
use bluetrace_server::limits::Limits;
use bluetrace_server::listener::{Refusals, Server, bind};
use bluetrace_server::shutdown::{Shutdown, ShutdownSwitch, shutdown_channel};
use bluetrace_server::sqlite::SqliteStore;
use bluetrace_server::tls::ServerTls;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Long enough for a busy machine; a test that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const ALICE: (&str, &str) = ("+61410999999", "waratah");
pub(crate) const BOB: (&str, &str) = ("+61410888888", "banksia and wattle");

/// A server that serves HTTP.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) folder: Arc<TempDir>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) output: Output,
    pub(crate) switch: ShutdownSwitch,
    pub(crate) running: JoinHandle<()>,
}

impl Site {
    /// One over a store in memory.
    pub(crate) async fn start() -> Self {
        Self::start_over(Arc::new(MemoryStore::new()), Some(Rates::default())).await
    }

    pub(crate) async fn with_rates(rates: Option<Rates>) -> Self {
        Self::start_over(Arc::new(MemoryStore::new()), rates).await
    }

    /// One over SQLite in its data folder.
    pub(crate) async fn over_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("authority.sqlite")).unwrap());
        Self::start_in(folder, store, Some(Rates::default()), Policy::default()).await
    }

    /// One that seals its `TempIDs`.
    pub(crate) async fn sealed() -> Self {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        let policy = Policy { temp_id_scheme: Scheme::Sealed, ..Policy::default() };
        Self::start_in(folder, store, Some(Rates::default()), policy).await
    }

    /// One that seals, and judges the records of OpenTrace uploads as the reference does.
    pub(crate) async fn compatible() -> Self {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        let policy = Policy { temp_id_scheme: Scheme::Sealed, ..Policy::default() };
        let opentrace = OpenTraceOptions { folder: folder.path().into(), is_compatible: true };
        let options = HttpOptions { opentrace, ..options(folder.path()) };
        Self::start_with(folder, store, options, policy).await
    }

    /// One that takes an upload only with a code.
    pub(crate) async fn with_upload_codes() -> Self {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        let policy = Policy { require_upload_codes: true, ..Policy::default() };
        Self::start_in(folder, store, Some(Rates::default()), policy).await
    }

    /// Another server of the same authority.
    pub(crate) async fn second(&self) -> Self {
        let mut second = Self::start_over(Arc::clone(&self.store), Some(Rates::default())).await;
        second.folder = Arc::clone(&self.folder);
        second
    }

    /// One that sends one-time codes in this way.
    pub(crate) async fn with_codes(codes: CodeSender) -> Self {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        let options = HttpOptions { codes, ..options(folder.path()) };
        Self::start_with(folder, store, options, Policy::default()).await
    }

    /// Another server of the same authority, with a connection of its own to the database.
    pub(crate) async fn second_over_sqlite(&self) -> Self {
        let store = Arc::new(SqliteStore::open(&self.folder.path().join("authority.sqlite")).unwrap());
        Self::start_over(store, Some(Rates::default())).await
    }

    pub(crate) async fn start_over(store: Arc<dyn Store>, rates: Option<Rates>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), store, rates, Policy::default()).await
    }

    async fn start_in(folder: TempDir, store: Arc<dyn Store>, rates: Option<Rates>, policy: Policy) -> Self {
        let options = HttpOptions { rates, ..options(folder.path()) };
        Self::start_with(folder, store, options, policy).await
    }

    async fn start_with(folder: TempDir, store: Arc<dyn Store>, options: HttpOptions, policy: Policy) -> Self {
        let (switch, shutdown) = shutdown_channel();
        let Parts { api, authority, clock, output } =
            Parts::over(Arc::clone(&store), options, policy, shutdown.clone()).await;
        let tls = ServerTls::open(folder.path()).unwrap().config();
        let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server { tls, allow_plaintext: false, limits: Limits::default(), refusals: Refusals::OF_HTTP };
        let serve = move |stream, peer| api.clone().serve(stream, peer);
        let running = tokio::spawn(server.run(listener, shutdown, serve));
        Self { address, folder: Arc::new(folder), store, authority, clock, output, switch, running }
    }

    pub(crate) async fn connect(&self) -> HttpClient {
        let stream = timeout(PATIENCE, TcpStream::connect(self.address)).await.unwrap().unwrap();
        // head and body are two writes
        stream.set_nodelay(true).unwrap();
        HttpClient::over(stream)
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        self.connect().await.ask(method, path, token, body).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask("GET", path, Some(token), None).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask("POST", path, Some(token), Some(body)).await
    }

    /// One login, however it ends.
    pub(crate) async fn attempt(&self, (username, password): (&str, &str)) -> Answer {
        let body = json!({"username": username, "password": password});
        self.ask("POST", "/v1/login", None, Some(body)).await
    }

    /// Logs in: the session's tokens.
    pub(crate) async fn session(&self, account: (&str, &str)) -> Value {
        self.attempt(account).await.expect(200)
    }

    /// Logs in: the access token.
    pub(crate) async fn login(&self, account: (&str, &str)) -> String {
        text(&self.session(account).await["accessToken"])
    }

    /// Begins an upload, or finds where it stands.
    pub(crate) async fn begin(&self, upload: &str, records: usize, token: &str) -> Value {
        let path = format!("/v1/uploads/{upload}");
        self.ask("PUT", &path, Some(token), Some(json!({"records": records}))).await.expect(200)
    }

    /// Sends records of an upload in one request.
    pub(crate) async fn send(&self, upload: &str, first: usize, lines: &str, token: &str) -> Answer {
        self.connect().await.send_records(upload, first, lines, token).await
    }

    /// Waits until so many records of an upload are durable.
    pub(crate) async fn wait_for_durable(&self, upload: &str, durable: u64, token: &str) {
        let path = format!("/v1/uploads/{upload}");
        let waiting = async {
            while self.get(&path, token).await.expect(200)["durable"] != durable {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the records never became durable");
    }

    /// Ends the server: what the operator has seen of it, to the last line.
    pub(crate) async fn stop_and_read_console(self) -> String {
        let Self { switch, running, output, .. } = self;
        switch.begin();
        running.await.unwrap();
        output.text()
    }
}

/// An API without sockets.
pub(crate) struct Parts {
    pub(crate) api: HttpApi,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) output: Output,
}

impl Parts {
    pub(crate) async fn over(store: Arc<dyn Store>, options: HttpOptions, policy: Policy, shutdown: Shutdown) -> Self {
        let hash_cost = HashCost::INSECURE_FOR_SIMULATION;
        let policy = Policy { hash_cost, ..policy };
        let authority = Authority::new(store, Arc::new(InlinePool), policy, &MasterKey::new([7; 32]), seed());
        let authority = Arc::new(authority);
        let (clock, output) = (Arc::new(TestClock::default()), Output::default());
        for (username, password) in [ALICE, BOB] {
            let (username, password) = (Username::parse(username).unwrap(), Password::parse(password).unwrap());
            // a second server finds them
            let _is_new = authority.open_account(username, password, clock.now()).await.unwrap();
        }
        let shared = Arc::new(Shared {
            authority: Arc::clone(&authority),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            console: Console::start(Box::new(output.clone())).unwrap(),
            limits: Limits::default(),
            complaints: Complaints::default(),
        });
        Self { api: HttpApi::new(shared, options, shutdown), authority, clock, output }
    }
}

/// The usual rates, codes on the console, and strict judgement; what has to wait does so in `folder`.
pub(crate) fn options(folder: &Path) -> HttpOptions {
    HttpOptions {
        rates: Some(Rates::default()),
        codes: CodeSender::to_console(CodeText::parse("your code is {code}").unwrap()),
        probes: vec![Probe { queue: "passwords", depth: Box::new(|| 3) }],
        opentrace: OpenTraceOptions { folder: folder.into(), is_compatible: false },
    }
}

/// A connection that speaks HTTP/1.1, one request after another.
pub(crate) struct HttpClient<S = TcpStream> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> HttpClient<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let body = body.map(|body| body.to_string());
        let mut headers = Vec::new();
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        headers.extend(body.as_ref().map(|_| ("Content-Type", "application/json")));
        self.exchange(method, path, &headers, body.as_deref()).await
    }

    pub(crate) async fn send_records(&mut self, upload: &str, first: usize, lines: &str, token: &str) -> Answer {
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
        let path = format!("/v1/uploads/{upload}/records?first={first}");
        self.exchange("POST", &path, &headers, Some(lines)).await
    }

    pub(crate) async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        let length = body.map_or(0, str::len);
        self.head(method, path, headers, length).await;
        self.write(body.unwrap_or_default()).await;
        self.answer().await.expect("the server closed without an answer")
    }

    /// Sends the head of a request whose body has a length.
    pub(crate) async fn head(&mut self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        self.write(&format!("{head}\r\n")).await;
    }

    /// Sends the head of a request whose body comes in chunks.
    pub(crate) async fn head_of_chunks(&mut self, path: &str, headers: &[(&str, &str)]) {
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        self.write(&format!("{head}\r\n")).await;
    }

    /// Sends one chunk of a body.
    pub(crate) async fn chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(chunk).await;
    }

    /// Sends bytes as they are. A server that has closed already shows at the next look.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        _ = timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.unwrap();
        _ = timeout(PATIENCE, self.stream.flush()).await.unwrap();
    }

    /// The next answer; `None` when the server has closed.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            match self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end,
                None if !self.more().await => {
                    assert!(self.read.is_empty(), "the server closed in the middle of an answer's head");
                    return None;
                }
                None => {}
            }
        };
        let head = String::from_utf8(self.read.drain(..end + 4).take(end).collect()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                (name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse().unwrap());
        let length = length.unwrap_or(0);
        while self.read.len() < length {
            assert!(self.more().await, "the server closed in the middle of an answer's body");
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        Some(Answer { status, headers, body })
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the server says nothing");
        let read = read.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..read]);
        read > 0
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// It has this status: its body.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// It is a problem of this code, in the form of RFC 9457.
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["type"], format!("urn:bluetrace:problem:{code}"));
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{self:?}");
        problem
    }
}

/// A clock that stands still unless it is told to go on.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance_ms(&self, milliseconds: i64) {
        self.0.fetch_add(milliseconds, Ordering::Relaxed);
    }

    pub(crate) fn set_s(&self, seconds: i64) {
        self.0.store(1_000 * seconds, Ordering::Relaxed);
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self(AtomicI64::new(1_589_392_446_000))
    }
}

impl Clock for TestClock {
    fn moment(&self) -> Moment {
        Moment::from_unix_ms(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

/// What the operator sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of an upload: a record of its own for each number.
pub(crate) fn line(number: usize) -> String {
    format!("{{\"tempId\":\"{number:020}\",\"start\":1589392446,\"expiry\":1589393345,\"received\":1589392500}}\n")
}

pub(crate) fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(line).collect()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).unwrap()
}

/// What another server draws is something else.
fn seed() -> [u8; 32] {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    seed
}
