//! A health authority in one file for the device's tests: it speaks the protocol, keeps everything in memory, and fails on
//! request. And a device's configuration for tests.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bluetrace_client::device::{Device, DeviceConfig, DeviceEvent, DeviceHandle};
use bluetrace_client::{ServerAddress, Transport};
use bluetrace_protocol::{Clock, Moment, Timestamp, Username};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

pub(crate) const USER: &str = "+61410999999";
pub(crate) const PASSWORD: &str = "comp3331";

/// The authority. Dropped, it is gone with all its connections.
pub(crate) struct Authority {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    task: JoinHandle<()>,
}

/// What it knows, and how it is to fail.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) uploads: Mutex<HashMap<String, Vec<String>>>,
    pub(crate) failures: AtomicUsize,
    pub(crate) logins: AtomicUsize,
    pub(crate) resumes: AtomicUsize,
    pub(crate) issued: AtomicUsize,
    /// A connection is cut after so many records; 0 for never.
    pub(crate) cut_after: AtomicUsize,
    /// What becomes of [`Self::upload_error`] with that cut.
    pub(crate) error_after_cut: Mutex<&'static str>,
    /// The next request is answered with a farewell, as when the server shuts down.
    pub(crate) says_farewell: AtomicBool,
    /// Every begin of an upload is answered with this error, if it is not empty; how often is counted.
    pub(crate) upload_error: Mutex<&'static str>,
    pub(crate) uploads_refused: AtomicUsize,
    /// What it says of when to try again, in seconds; nothing if 0.
    pub(crate) retry_after_s: AtomicU32,
    /// The upload code without which no upload is taken; none if empty.
    pub(crate) upload_code: Mutex<&'static str>,
    /// The codes with which uploads were begun, in order.
    pub(crate) codes_given: Mutex<Vec<Option<String>>>,
    /// Seconds by which its clock is ahead of the devices'.
    pub(crate) ahead_s: AtomicI64,
}

impl State {
    fn takes_code(&self, code: Option<&str>) -> bool {
        self.codes_given.lock().unwrap().push(code.map(str::to_owned));
        let required = *self.upload_code.lock().unwrap();
        required.is_empty() || code == Some(required)
    }
}

impl Authority {
    pub(crate) async fn start() -> Self {
        Self::start_with(Arc::default(), (Ipv4Addr::LOCALHOST, 0).into(), None).await
    }

    /// Goes on where another one stopped.
    pub(crate) async fn again(state: Arc<State>, address: SocketAddr) -> Self {
        Self::start_with(state, address, None).await
    }

    /// With a new certificate each time.
    pub(crate) async fn with_tls(address: SocketAddr) -> Self {
        let key = rcgen::generate_simple_self_signed(["bluetrace".to_owned()]).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
            )
            .unwrap();
        Self::start_with(Arc::default(), address, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(state: Arc<State>, address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                let tls = tls.clone();
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, &state).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &state).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn server(&self) -> ServerAddress {
        ServerAddress { host: self.address.ip().to_string(), port: self.address.port() }
    }

    /// Ends it, as a kill would.
    pub(crate) async fn stop(self) -> (Arc<State>, SocketAddr) {
        self.task.abort();
        let (state, address) = (Arc::clone(&self.state), self.address);
        drop(self);
        // the port is free when the task has let go of it
        while TcpListener::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        (state, address)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. `None` when it is cut.
#[expect(clippy::too_many_lines, reason = "the whole protocol in one loop")]
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let username = read_line(&mut stream).await?;
    if let Some(token) = username.strip_prefix("RESUME ") {
        assert_eq!(token, "token");
        state.resumes.fetch_add(1, Ordering::Relaxed);
    } else {
        say(&mut stream, "331 Password required").await?;
        loop {
            let password = read_line(&mut stream).await?;
            if password == PASSWORD {
                break;
            }
            if state.failures.fetch_add(1, Ordering::Relaxed) == 2 {
                return say(&mut stream, "431 Invalid Password. Your account has been blocked. Please try again later")
                    .await;
            }
            say(&mut stream, "430 Invalid Password. Please try again").await?;
        }
        state.logins.fetch_add(1, Ordering::Relaxed);
    }
    say(&mut stream, "230 Welcome to the BlueTrace Simulator!").await?;
    let mut upload: Option<(String, usize)> = None;
    let mut received = 0;
    loop {
        let line = read_line(&mut stream).await?;
        if state.says_farewell.swap(false, Ordering::Relaxed) {
            return say(&mut stream, "421 The server shuts down").await;
        }
        let request: Value = serde_json::from_str(&line).unwrap();
        let answer = |value: Value| {
            let mut value = value;
            value["commandType"] = request["commandType"].clone();
            if let Some(id) = request.get("id") {
                value["id"] = id.clone();
            }
            value.to_string()
        };
        let mut answers = String::new();
        let now = now().plus(state.ahead_s.load(Ordering::Relaxed));
        match request["commandType"].as_str().unwrap() {
            "DT" => {
                let count = request["numOfRecv"].as_i64().unwrap_or(1).max(1);
                for number in 0..count {
                    let start = now.plus(number * 900);
                    let id = state.issued.fetch_add(1, Ordering::Relaxed);
                    let record = format!("{id:020}, {start}, {}", start.plus(899));
                    writeln!(answers, "{}", answer(json!({"numOfSend": count - 1 - number, "data": record}))).unwrap();
                }
            }
            "RT" => {
                let expires = now.plus(1_800).to_string();
                let data = json!({"token": "token", "expires": expires, "now": now.to_string()});
                writeln!(answers, "{}", answer(json!({"data": data}))).unwrap();
            }
            "PN" => {
                let data = json!({"pin": "H7QX4C", "expires": now.plus(600).to_string()});
                writeln!(answers, "{}", answer(json!({"data": data}))).unwrap();
            }
            "NT" => writeln!(answers, "{}", answer(json!({"data": null}))).unwrap(),
            "LO" => {
                let line = answer(json!({}));
                return say(&mut stream, &line).await;
            }
            "UC" if request.get("data").is_none() && !state.upload_error.lock().unwrap().is_empty() => {
                state.uploads_refused.fetch_add(1, Ordering::Relaxed);
                let code = *state.upload_error.lock().unwrap();
                let mut data = json!({"code": code, "message": "as the test wants"});
                if let retry_after @ 1.. = state.retry_after_s.load(Ordering::Relaxed) {
                    data["retryAfter"] = json!(retry_after);
                }
                let error = json!({"commandType": "ER", "id": request["id"], "data": data});
                writeln!(answers, "{error}").unwrap();
            }
            "UC" if request.get("data").is_none() && !state.takes_code(request["code"].as_str()) => {
                let data = json!({"code": "upload_not_authorised", "message": "a code is needed"});
                writeln!(answers, "{}", json!({"commandType": "ER", "id": request["id"], "data": data})).unwrap();
            }
            "UC" if request.get("data").is_none() => {
                let id = request["upload"].as_str().unwrap().to_owned();
                let total = usize::try_from(request["numOfSend"].as_u64().unwrap()).unwrap();
                let have = state.uploads.lock().unwrap().entry(id.clone()).or_default().len();
                writeln!(answers, "{}", answer(json!({"numOfRecv": total - have, "upload": id}))).unwrap();
                upload = Some((id, total));
            }
            "UC" => {
                let (id, total) = upload.as_ref().unwrap();
                let have = {
                    let mut uploads = state.uploads.lock().unwrap();
                    let records = uploads.get_mut(id).unwrap();
                    records.push(record_of(&request["data"]));
                    records.len()
                };
                received += 1;
                if received == state.cut_after.load(Ordering::Relaxed) {
                    state.cut_after.store(0, Ordering::Relaxed);
                    *state.upload_error.lock().unwrap() = *state.error_after_cut.lock().unwrap();
                    return None;
                }
                let summary = json!({"records": total, "resolved": total, "unknown": 0, "invalid": 0});
                let data = if have == *total { summary } else { Value::Null };
                writeln!(answers, "{}", answer(json!({"numOfRecv": total - have, "data": data}))).unwrap();
            }
            other => panic!("unexpected command {other}"),
        }
        stream.write_all(answers.as_bytes()).await.ok()?;
    }
}

fn record_of(data: &Value) -> String {
    data.as_str().or_else(|| data["record"].as_str()).unwrap().to_owned()
}

async fn read_line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = String::new();
    let length = stream.read_line(&mut line).await.ok()?;
    (length > 0).then(|| line.trim_end().to_owned())
}

async fn say(stream: &mut (impl AsyncWriteExt + Unpin), line: &str) -> Option<()> {
    stream.write_all(format!("{line}\n").as_bytes()).await.ok()
}

/// The clock of this machine.
#[derive(Debug)]
pub(crate) struct WallClock;

impl Clock for WallClock {
    fn moment(&self) -> Moment {
        now().into()
    }
}

/// A clock that a test sets.
#[derive(Debug)]
pub(crate) struct SetClock(pub(crate) AtomicI64);

impl Clock for SetClock {
    fn moment(&self) -> Moment {
        Timestamp::from_unix(self.0.load(Ordering::Relaxed)).unwrap().into()
    }
}

/// A clock that goes, stands and leaps with the runtime's time.
#[derive(Debug)]
pub(crate) struct RuntimeClock {
    /// When the second `first` began.
    began: Instant,
    first: Timestamp,
}

impl RuntimeClock {
    /// One that has gone for so much of the present second.
    pub(crate) fn new(gone: Duration) -> Self {
        Self { began: Instant::now() - gone, first: now() }
    }

    /// When a second of it begins.
    pub(crate) fn beginning_of(&self, second: Timestamp) -> Instant {
        self.began + Duration::from_secs(u64::try_from(second.seconds_since(self.first)).unwrap())
    }
}

impl Clock for RuntimeClock {
    fn moment(&self) -> Moment {
        Moment::from(self.first).plus_ms(i64::try_from(self.began.elapsed().as_millis()).unwrap())
    }
}

#[expect(clippy::disallowed_methods, reason = "tests that wait for real time tell it too")]
pub(crate) fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix(i64::try_from(since_1970.as_secs()).unwrap()).unwrap()
}

pub(crate) fn config(authority: &Authority, folder: &Path) -> DeviceConfig {
    DeviceConfig {
        servers: authority.server().into(),
        transport: Transport::Plaintext,
        udp: (Ipv4Addr::LOCALHOST, 0).into(),
        data_dir: folder.to_path_buf(),
        username: Username::parse(USER).unwrap(),
        retention_s: 180,
        downloads: true,
        notices_every: Duration::from_mins(1),
        clock: Arc::new(WallClock),
        seed: [7; 32],
    }
}

/// A device and its events.
pub(crate) struct Rig {
    pub(crate) device: DeviceHandle,
    pub(crate) events: mpsc::Receiver<DeviceEvent>,
}

impl Rig {
    /// Starts a device and logs it in.
    pub(crate) async fn logged_in(config: DeviceConfig) -> Self {
        let mut rig = Self::asked_for_a_password(config).await;
        rig.log_in().await;
        rig
    }

    /// Starts a device that is to be logged in.
    pub(crate) async fn asked_for_a_password(config: DeviceConfig) -> Self {
        let (device, events) = Device::start(config).await.unwrap();
        let mut rig = Self { device, events };
        rig.until(|event| matches!(event, DeviceEvent::PasswordRequired)).await;
        rig
    }

    /// Logs it in.
    pub(crate) async fn log_in(&mut self) {
        let password = bluetrace_protocol::Password::parse(PASSWORD).unwrap();
        self.device.run(bluetrace_client::device::Command::Password(password)).await;
        self.until(|event| matches!(event, DeviceEvent::Welcome)).await;
    }

    /// Takes events until one is as wanted.
    pub(crate) async fn until(&mut self, is_wanted: impl Fn(&DeviceEvent) -> bool) -> DeviceEvent {
        let mut seen = Vec::new();
        let found = timeout(PATIENCE, async {
            loop {
                let event = self.events.recv().await.expect("the device ended");
                if is_wanted(&event) {
                    return event;
                }
                seen.push(event);
            }
        });
        let Ok(event) = found.await else { panic!("it did not come; there were {seen:?}") };
        event
    }
}

pub(crate) fn write_log(folder: &Path, entries: usize) {
    let now = now();
    let line = |id| format!("{id:020}, {now}, {}, {now}\n", now.plus(899));
    let text: String = (0..entries).map(line).collect();
    std::fs::write(folder.join(format!("{USER}_contactlog.txt")), text).unwrap();
}

pub(crate) fn assert_uploaded_once(authority: &Authority, entries: usize) {
    let uploads = authority.state.uploads.lock().unwrap();
    assert_eq!(uploads.len(), 1);
    let records = uploads.values().next().unwrap();
    assert_eq!(records.len(), entries);
    for (id, record) in records.iter().enumerate() {
        assert!(record.starts_with(&format!("{id:020}, ")));
    }
}

pub(crate) async fn wait_for(mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < until, "it did not come to that");
        // a file says nothing when it changes
        sleep(Duration::from_millis(5)).await;
    }
}

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
