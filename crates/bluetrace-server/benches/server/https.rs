//! The HTTPS API: what it adds to an axum handler that knows its answer, and uploads beside those of the same records over TCP. All
//! of it in TLS, on connections that are kept.
//!
//! Clients have threads of their own, so that lines for each second of a core count the server's alone.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use bluetrace_authority::codes::{CodeOrder, CodeOrdered};
use bluetrace_authority::store::CodeForm;
use bluetrace_authority::upload_tokens::UploadTokenIssued;
use bluetrace_protocol::UploadedRecord;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower_service::Service as _;

use crate::harness::{Bench, Line, Unit, Wanted, core_time};
use crate::http_client::{HttpClient, connect, request};
use crate::idle::trust;
use crate::line_client::LineClient;
use crate::system::System;
use crate::uploads::{lines, stream};

const CONNECTIONS: usize = 64;
/// Requests of a connection in a turn.
const EACH: usize = 60;
/// `TempIDs` of an answer.
const IDS: usize = 100;
const RECORDS: u32 = 100_000;
/// People met in an upload.
const DISTINCT: u32 = 2_000;
const ROUNDS: usize = 9;
const CLIENTS: &str = "clients";

pub(crate) fn temp_ids(bench: &mut Bench, runtime: &Runtime) {
    let rate = Line {
        name: "getTempIDs over HTTPS, 64 connections",
        limit: "an axum handler that returns the same bytes",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.5),
    };
    let cost = Line {
        name: "TempIDs over HTTPS, for each second of a core",
        limit: "the same handler, as many bytes",
        wanted: Wanted::ToKnow,
        ..rate
    };
    if ![rate.name, cost.name].into_iter().any(|name| bench.wants(name)) {
        return;
    }
    let clients = clients();
    let system = runtime.block_on(System::start_sealed(CONNECTIONS));
    let tls = trust(&system.folder().join("certificate.pem"));
    let requests = (0..CONNECTIONS).map(|account| {
        request("POST /getTempIDs", &system.access_token(account), "application/json", b"{\"data\":null}")
    });
    let requests: Vec<_> = requests.collect();
    let mut ours = clients.block_on(open(system.http, &tls, &requests));
    let answer = clients.block_on(async { ours[0].0.ask(&requests[0]).await.to_vec() });
    assert!(answer.starts_with(b"{\"result\":{\"status\":\"SUCCESS\""));
    let bare = runtime.block_on(answer_with(Bytes::from(answer), Arc::clone(&system.tls)));
    let mut bare = clients.block_on(open(bare, &tls, &requests));
    let count = CONNECTIONS * EACH;
    let ask = |connections: &mut Vec<_>, of: fn(&Spent) -> Duration| {
        let spent = Spent::on(|| *connections = clients.block_on(ask_all(std::mem::take(connections))));
        count as f64 / of(&spent).as_secs_f64()
    };
    bench.compare(rate, ROUNDS, || ask(&mut ours, |spent| spent.time), || ask(&mut bare, |spent| spent.time));
    let ids = IDS as f64;
    bench.compare(
        cost,
        ROUNDS,
        || ids * ask(&mut ours, |spent| spent.core_time),
        || ids * ask(&mut bare, |spent| spent.core_time),
    );
}

pub(crate) fn uploads(bench: &mut Bench, runtime: &Runtime) {
    let native = Line {
        name: "upload over HTTPS, /v1",
        limit: "the TCP upload of the same records, in TLS",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.8),
    };
    let opentrace = Line { name: "upload over HTTPS, OpenTrace's /upload", ..native };
    let native_cost =
        Line { name: "upload over HTTPS, /v1, for each second of a core", wanted: Wanted::ToKnow, ..native };
    let opentrace_cost =
        Line { name: "upload over HTTPS, OpenTrace's /upload, for each second of a core", ..native_cost };
    if ![native, opentrace, native_cost, opentrace_cost].into_iter().any(|line| bench.wants(line.name)) {
        return;
    }
    let clients = clients();
    let system = runtime.block_on(System::start_sealed(2));
    let records = runtime.block_on(sealed_records(&system));
    let tls = trust(&system.folder().join("certificate.pem"));
    let (token, lines) = (system.access_token(0), lines(&records));
    let (in_lines, in_array) = (json_lines(&records), json_array(&records));
    let mut tcp = clients.block_on(async {
        let mut tcp = LineClient::over(connect(system.address, &tls).await, 4_096);
        tcp.send(format!("RESUME {}\n", system.token(0)).as_bytes()).await;
        assert!(tcp.line().await.starts_with("230 "));
        tcp
    });
    let mut number = 0;
    let mut by_tcp = || {
        number += 1;
        Spent::on(|| _ = clients.block_on(stream(&mut tcp, RECORDS, &lines, number)))
    };
    let open = || clients.block_on(HttpClient::connect(system.http, &tls));
    let resolves_all = |answer: &[u8]| {
        let all = format!("\"resolved\":{RECORDS},");
        assert!(memmem::find(answer, all.as_bytes()).is_some(), "{}", String::from_utf8_lossy(answer));
    };
    let mut number = 0;
    let mut by_v1 = |connection: &mut HttpClient| {
        number += 1;
        let begin = format!("{{\"records\":{RECORDS}}}");
        let begin = request(&format!("PUT /v1/uploads/{number}"), &token, "application/json", begin.as_bytes());
        let append = format!("POST /v1/uploads/{number}/records");
        let append = request(&append, &token, "application/x-ndjson", in_lines.as_bytes());
        Spent::on(|| {
            clients.block_on(async {
                connection.ask(&begin).await;
                resolves_all(connection.ask(&append).await);
            });
        })
    };
    let by_opentrace = |connection: &mut HttpClient| {
        let upload_token = runtime.block_on(upload_token(&system));
        let body = format!(r#"{{"events":[],"records":{in_array},"token":"{upload_token}"}}"#);
        let upload = request("POST /upload", &token, "application/json", body.as_bytes());
        Spent::on(|| clients.block_on(async { resolves_all(connection.ask(&upload).await) }))
    };
    let rate = |spent: Spent| f64::from(RECORDS) / spent.time.as_secs_f64();
    let rate_of_core = |spent: Spent| f64::from(RECORDS) / spent.core_time.as_secs_f64();
    // opened when they are wanted: the server closes a connection that has long been silent
    let mut on = open();
    bench.compare(native, ROUNDS, || rate(by_v1(&mut on)), || rate(by_tcp()));
    bench.compare(native_cost, ROUNDS, || rate_of_core(by_v1(&mut on)), || rate_of_core(by_tcp()));
    let mut on = open();
    bench.compare(opentrace, ROUNDS, || rate(by_opentrace(&mut on)), || rate(by_tcp()));
    bench.compare(opentrace_cost, ROUNDS, || rate_of_core(by_opentrace(&mut on)), || rate_of_core(by_tcp()));
}

/// A contact log of sealed ids of another account: one after the other, over and over.
async fn sealed_records(system: &System) -> Vec<UploadedRecord> {
    let (met, now) = (&system.members[1], system.now());
    let mut ids = Vec::new();
    for _ in 0..DISTINCT {
        ids.extend(system.authority.issue_opentrace_temp_ids(met, 1, now).await.unwrap().unwrap());
    }
    let seconds = (0..).map(|time| now.plus(time));
    let heard = seconds.flat_map(|received| ids.iter().map(move |record| (record.clone(), Some(received))));
    let records = heard.map(|(record, received)| UploadedRecord { record, received, rssi: None, seen: None });
    records.take(usize::try_from(RECORDS).unwrap()).collect()
}

/// A token for one upload of the first account.
async fn upload_token(system: &System) -> String {
    let order = CodeOrder { form: CodeForm::Six, case: "case".to_owned(), issued_by: "desk".to_owned(), valid_s: 900 };
    let ordered = system.authority.issue_upload_code(order, system.now()).await.unwrap();
    let CodeOrdered::Issued { code, .. } = ordered else { panic!("no code") };
    let issued = system.authority.upload_token(&system.members[0], &code, system.now()).await.unwrap();
    let UploadTokenIssued::Issued(token) = issued else { panic!("no token") };
    token.reveal().to_owned()
}

/// What something takes: time, and the time that cores spent on the server.
struct Spent {
    time: Duration,
    core_time: Duration,
}

impl Spent {
    fn on(work: impl FnOnce()) -> Self {
        let (start, core_time_before) = (Instant::now(), core_time(CLIENTS));
        work();
        Self { time: start.elapsed(), core_time: core_time(CLIENTS).saturating_sub(core_time_before) }
    }
}

fn clients() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name(CLIENTS).enable_all().build().unwrap()
}

async fn open(address: SocketAddr, tls: &TlsConnector, requests: &[Vec<u8>]) -> Vec<(HttpClient, Vec<u8>)> {
    let mut opened = Vec::new();
    for request in requests {
        opened.push((HttpClient::connect(address, tls).await, request.clone()));
    }
    opened
}

/// Each connection asks, waits for the answer, and asks again.
async fn ask_all(connections: Vec<(HttpClient, Vec<u8>)>) -> Vec<(HttpClient, Vec<u8>)> {
    let mut asking = JoinSet::new();
    for (mut client, request) in connections {
        asking.spawn(async move {
            for _ in 0..EACH {
                assert!(client.ask(&request).await.len() > IDS);
            }
            (client, request)
        });
    }
    asking.join_all().await
}

/// A server whose one handler reads the request and has its answer ready.
async fn answer_with(answer: Bytes, tls: Arc<ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let handler = move |_: Bytes| async move { ([(CONTENT_TYPE, "application/json; charset=utf-8")], answer) };
    let router: Router = Router::new().route("/getTempIDs", post(handler));
    let tls = TlsAcceptor::from(tls);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (tls, router) = (tls.clone(), router.clone());
            tokio::spawn(async move {
                let stream = TokioIo::new(tls.accept(stream).await.unwrap());
                // it ends when the client goes
                _ = http1::Builder::new()
                    .serve_connection(stream, service_fn(|request| router.clone().call(request)))
                    .await;
            });
        }
    });
    address
}

/// The records of an upload, as the native API takes them.
fn json_lines(records: &[UploadedRecord]) -> String {
    let mut lines = String::new();
    for UploadedRecord { record, received, .. } in records {
        let (window, received) = (record.window, received.unwrap().as_unix());
        let (temp_id, start, expiry) = (record.temp_id.reveal(), window.start().as_unix(), window.expiry().as_unix());
        writeln!(lines, r#"{{"tempId":"{temp_id}","start":{start},"expiry":{expiry},"received":{received}}}"#).unwrap();
    }
    lines
}

/// The same as Android's app writes them.
fn json_array(records: &[UploadedRecord]) -> String {
    let records = records.iter().zip(1..).map(|(UploadedRecord { record, received, .. }, number)| {
        let (msg, timestamp) = (record.temp_id.reveal().replace('=', "\\u003d"), received.unwrap().as_unix());
        format!(
            r#"{{"id":{number},"modelC":"Pixel 4","modelP":"iPhone 11","msg":"{msg}","org":"OT_HA","rssi":-62,"timestamp":{timestamp},"txPower":7,"v":2}}"#
        )
    });
    format!("[{}]", records.collect::<Vec<_>>().join(","))
}
