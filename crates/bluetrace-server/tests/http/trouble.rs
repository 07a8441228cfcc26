//! What goes wrong: bodies that are too long, too slow or garbage, too much at once, and the end of the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_authority::Policy;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_protocol::{Clock as _, Password, Username};
use bluetrace_server::http::{HttpOptions, Rate, Rates};
use bluetrace_server::limits::{
    HTTP_BODY_DEADLINE, HTTP_BODY_STALL, HTTP_CALLER_MEMORY, HTTP_HEAD_DEADLINE, HTTP_UPLOADS_AT_A_TIME,
    HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME, MAX_HTTP_BODY, MAX_HTTP_HEAD, WRITE_STALL,
};
use bluetrace_server::listener::Peer;
use bluetrace_server::shutdown::{ShutdownSwitch, shutdown_channel};
use serde_json::json;
use tokio::io::DuplexStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::harness::{ALICE, BOB, HttpClient, PATIENCE, Parts, Site, line, lines, options};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[tokio::test]
async fn what_is_not_there_or_not_so_is_a_problem() {
    let site = Site::start().await;
    for path in ["/", "/v1", "/v1/", "/v1/nothing", "/v2/login", "/getNothing", "/a/b/getNothing", "//", "/%ff"] {
        site.ask("GET", path, None, None).await.expect_problem(404, "not_found");
    }
    for (method, path, allowed) in
        [("GET", "/v1/login", "POST"), ("PATCH", "/v1/session", "DELETE,POST"), ("DELETE", "/healthz", "GET,HEAD")]
    {
        let answer = site.ask(method, path, None, None).await;
        answer.expect_problem(405, "method_not_allowed");
        let mut methods: Vec<_> = answer.header("allow").unwrap().split(',').collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed);
    }
    let mut client = site.connect().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let answer = client.exchange("POST", "/v1/login", &[("Content-Type", kind)], Some("{}")).await;
        answer.expect_problem(415, "unsupported_media_type");
    }
    for body in ["", "{", "[]", "null", "{}", "{\"username\":1,\"password\":\"x\"}", "\u{0}", "{\"username\":\"a\"}x"] {
        let answer = client.exchange("POST", "/v1/login", &[JSON], Some(body)).await;
        answer.expect_problem(400, "bad_json");
    }
    for (username, password) in [("", "x"), ("a b", "x"), ("alice", &*"x".repeat(257))] {
        site.attempt((username, password)).await.expect_problem(422, "invalid");
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_a_request_that_was_refused_unread() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    for _ in 0..20 {
        let headers = [("Content-Type", "application/x-ndjson")];
        client.head("POST", "/v1/uploads/u/records", &headers, lines(0..20).len()).await;
        // the rest comes later than the refusal is known
        tokio::task::yield_now().await;
        client.write(lines(0..20)).await;
        client.answer().await.unwrap().expect_problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn values_out_of_their_range_are_problems_of_their_own() {
    let site = Site::start().await;
    let alice = site.login(ALICE).await;
    for count in [0, 101, u32::MAX] {
        site.post("/v1/temp-ids", &alice, json!({"count": count})).await.expect_problem(422, "invalid");
    }
    for count in [json!(-1), json!(1.5), json!("1"), json!(null), json!(4_294_967_296_u64)] {
        site.post("/v1/temp-ids", &alice, json!({"count": count})).await.expect_problem(400, "bad_json");
    }
    let begin =
        async |path: &str, records: u32| site.ask("PUT", path, Some(&alice), Some(json!({"records": records}))).await;
    begin("/v1/uploads/u", 1_000_001).await.expect_problem(422, "invalid");
    begin("/v1/uploads/a%20b", 1).await.expect_problem(400, "bad_request");
    begin(&format!("/v1/uploads/{}", "x".repeat(65)), 1).await.expect_problem(400, "bad_request");
    begin(&format!("/v1/uploads/{}", "x".repeat(64)), 1).await.expect(200);
    begin("/v1/uploads/getTempIDs", 1).await.expect(200);
    let code = json!({"records": 1, "code": "x".repeat(65)});
    site.ask("PUT", "/v1/uploads/v", Some(&alice), Some(code)).await.expect_problem(403, "upload_not_authorised");
    let headers = [("Authorization", &*format!("Bearer {alice}")), ("Content-Type", "application/x-ndjson")];
    for query in ["first=", "first=-1", "first=+1", "first=x", "first=4294967296"] {
        let path = format!("/v1/uploads/getTempIDs/records?{query}");
        let answer = site.connect().await.exchange("POST", &path, &headers, Some("")).await;
        answer.expect_problem(400, "bad_request");
    }
    let headers = [("Authorization", &*format!("Bearer {alice}")), JSON];
    let answer = site.connect().await.exchange("POST", "/v1/uploads/getTempIDs/records", &headers, Some("")).await;
    answer.expect_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_body_of_the_greatest_length_is_taken_and_one_past_it_is_a_problem_that_can_be_read() {
    let site = Site::start().await;
    let login = json!({"username": ALICE.0, "password": ALICE.1}).to_string();
    for (length, status) in [(MAX_HTTP_BODY, 200), (MAX_HTTP_BODY + 1, 413), (20 * MAX_HTTP_BODY, 413)] {
        let body = format!("{login}{}", " ".repeat(length - login.len()));
        let answer = site.connect().await.exchange("POST", "/v1/login", &[JSON], Some(&body)).await;
        assert_eq!(answer.status, status, "{length}: {answer:?}");
        let mut client = site.connect().await;
        client.head_of_chunks("/v1/login", &[JSON]).await;
        client.chunk(body.as_bytes()).await;
        client.chunk(b"").await;
        assert_eq!(client.answer().await.unwrap().status, status, "{length} in chunks");
    }
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_nothing_else() {
    let site = Site::start().await;
    let mut steady = site.connect().await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HTTP_HEAD));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    for garbage in [
        "\r\n\r\n\r\n\r\n",
        "user\nmore\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "POST /v1/login HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/login HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "POST /v1/login HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        &long,
        &many,
    ] {
        let mut client = site.connect().await;
        client.write(garbage).await;
        tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
        while let Some(answer) = client.answer().await {
            assert!((400..500).contains(&answer.status), "{garbage:?}: {answer:?}");
        }
        steady.ask("GET", "/healthz", None, None).await.expect(200);
    }
}

#[tokio::test]
async fn fifty_devices_at_once_are_all_served() {
    let site = Arc::new(Site::over_sqlite().await);
    let mut devices = JoinSet::new();
    for device in 0..50_usize {
        let site = Arc::clone(&site);
        devices.spawn(async move {
            let token = site.login(if device % 2 == 0 { ALICE } else { BOB }).await;
            let mut client = site.connect().await;
            let upload = format!("u{device}");
            client
                .ask("PUT", &format!("/v1/uploads/{upload}"), Some(&token), Some(json!({"records": 300})))
                .await
                .expect(200);
            let first = client.send_records(&upload, 0, &lines(0..150), &token).await.expect(200);
            assert_eq!(first["durable"], 150);
            client.ask("POST", "/v1/temp-ids", Some(&token), Some(json!({"count": 5}))).await.expect(200);
            let rest = client.send_records(&upload, 150, &lines(150..300), &token).await.expect(200);
            assert_eq!(rest["summary"]["records"], 300);
        });
    }
    // the accounts' rates are for one device each
    while let Some(ended) = timeout(PATIENCE, devices.join_next()).await.unwrap() {
        ended.unwrap();
    }
}

#[tokio::test]
async fn temp_ids_are_issued_while_every_place_for_uploads_is_taken() {
    let site = Site::with_rates(None).await;
    let alice = site.login(ALICE).await;
    let mut stalled = Vec::new();
    for account in 0..HTTP_UPLOADS_AT_A_TIME / HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME {
        let (name, password) = (format!("ill-{account}"), "password");
        let username = Username::parse(&name).unwrap();
        let opened = site.authority.open_account(username, Password::parse(password).unwrap(), site.clock.now()).await;
        assert!(opened.unwrap());
        let ill = site.login((&name, password)).await;
        let authorization = format!("Bearer {ill}");
        let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
        for upload in 0..HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME {
            let upload = format!("u{upload}");
            site.begin(&upload, 9, &ill).await;
            let mut client = site.connect().await;
            client.head("POST", &format!("/v1/uploads/{upload}/records"), &headers, 1_000).await;
            client.write(line(0)).await;
            stalled.push(client);
        }
        // the last of them is in its place
        site.wait_for_durable(&format!("u{}", HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME - 1), 1, &ill).await;
    }
    site.post("/v1/temp-ids", &alice, json!({"count": 1})).await.expect(200);
    site.attempt(BOB).await.expect(200);
}

// ---- Rates

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_ask_again_and_holds_up_nobody_else() {
    let few = Rate { burst: 2, every: Duration::from_hours(1) };
    let rates =
        Rates { temp_ids_of_account: few, uploads_of_account: few, logins_of_username: few, ..Rates::default() };
    let site = Site::with_rates(Some(rates)).await;
    let (alice, bob) = (site.login(ALICE).await, site.login(BOB).await);
    for _ in 0..2 {
        site.post("/v1/temp-ids", &alice, json!({"count": 1})).await.expect(200);
    }
    let answer = site.post("/v1/temp-ids", &alice, json!({"count": 1})).await;
    let seconds = answer.expect_problem(429, "rate_limited")["retryAfter"].as_u64().unwrap();
    assert!((3_500..=3_601).contains(&seconds), "{seconds}");
    assert_eq!(answer.header("retry-after"), Some(&*seconds.to_string()));
    let answer = site.ask("POST", "/getTempIDs", Some(&alice), Some(json!({"data": null}))).await;
    assert_eq!(answer.expect(429)["error"]["status"], "RESOURCE_EXHAUSTED");
    assert!(answer.header("retry-after").is_some());
    site.post("/v1/temp-ids", &bob, json!({"count": 1})).await.expect(200);

    site.begin("u", 2, &alice).await;
    site.send("u", 0, &line(0), &alice).await.expect(200);
    site.send("u", 1, &line(1), &alice).await.expect_problem(429, "rate_limited");
    site.attempt(ALICE).await.expect(200);
    site.attempt(ALICE).await.expect_problem(429, "rate_limited");
    site.attempt(BOB).await.expect(200);
}

#[tokio::test]
async fn without_rates_nothing_is_refused_for_being_often() {
    let site = Site::with_rates(None).await;
    let alice = site.login(ALICE).await;
    let mut client = site.connect().await;
    for _ in 0..300 {
        client.ask("POST", "/v1/temp-ids", Some(&alice), Some(json!({"count": 1}))).await.expect(200);
    }
}

// ---- The end of the server

#[tokio::test]
async fn an_upload_under_way_hears_of_the_end_and_loses_nothing_that_came() {
    let site = Site::start().await;
    let alice = site.login(ALICE).await;
    site.begin("u", 10, &alice).await;
    let mut client = site.connect().await;
    let authorization = format!("Bearer {alice}");
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
    client.head("POST", "/v1/uploads/u/records", &headers, lines(0..10).len()).await;
    client.write(lines(0..4)).await;
    // a record that others are waited for with is durable soon
    site.wait_for_durable("u", 4, &alice).await;
    client.write(lines(4..6)).await;
    let mut idle = site.connect().await;
    idle.ask("GET", "/healthz", None, None).await.expect(200);
    site.switch.begin();
    let problem = client.answer().await.unwrap().expect_problem(503, "shutting_down");
    assert!((4..=6).contains(&problem["durable"].as_u64().unwrap()), "{problem}");
    assert!(idle.answer().await.is_none(), "an idle connection is closed");
    timeout(PATIENCE, site.running).await.unwrap().unwrap();
}

// ---- Time, over a pipe with a paused clock

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_ends_the_connection() {
    for begun in ["", "GET /healthz HTTP/1.1\r\nHost: loc"] {
        let mut pipe = Pipe::open().await;
        pipe.client.write(begun).await;
        let begun = Instant::now();
        while pipe.client.answer().await.is_some() {}
        let waited = begun.elapsed();
        assert!(waited >= HTTP_HEAD_DEADLINE && waited < HTTP_HEAD_DEADLINE + Duration::from_secs(5), "{waited:?}");
        pipe.serving.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_cut_off_and_holds_up_no_end_of_the_server() {
    for has_ended in [false, true] {
        let mut pipe = Pipe::open().await;
        let request = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
        pipe.client.write(request).await;
        // what is in the pipe is there, the rest of the answer waits
        tokio::time::sleep(Duration::from_millis(10)).await;
        let begun = Instant::now();
        if has_ended {
            pipe.switch.begin();
        }
        pipe.serving.await.unwrap();
        let most = if has_ended { Duration::from_secs(2) } else { WRITE_STALL };
        assert!(begun.elapsed() <= most, "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_another_server_has_ended_is_over_here_five_seconds_later() {
    let store = Arc::new(MemoryStore::new());
    let mut here = Pipe::open_over(Arc::clone(&store)).await;
    let mut there = Pipe::open_over(store).await;
    let login = json!({"username": ALICE.0, "password": ALICE.1});
    let session = there.client.ask("POST", "/v1/login", None, Some(login)).await.expect(200);
    let token = session["accessToken"].as_str();
    here.client.ask("GET", "/v1/notices", token, None).await.expect(200);
    there.client.ask("DELETE", "/v1/session", token, None).await.expect(204);
    there.client.ask("GET", "/v1/notices", token, None).await.expect_problem(401, "unauthenticated");
    tokio::time::sleep(HTTP_CALLER_MEMORY).await;
    here.client.ask("GET", "/v1/notices", token, None).await.expect_problem(401, "unauthenticated");
}

#[tokio::test(start_paused = true)]
async fn a_slow_short_body_is_told_so() {
    let mut pipe = Pipe::open().await;
    pipe.client.head("POST", "/v1/login", &[JSON], 100).await;
    pipe.client.write("{\"username\"").await;
    let begun = Instant::now();
    pipe.client.answer().await.unwrap().expect_problem(408, "too_slow");
    assert!(begun.elapsed() >= HTTP_BODY_DEADLINE && begun.elapsed() < HTTP_BODY_DEADLINE + Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stalls_is_told_where_to_go_on() {
    let mut pipe = Pipe::open().await;
    let login = json!({"username": ALICE.0, "password": ALICE.1});
    let session = pipe.client.ask("POST", "/v1/login", None, Some(login)).await.expect(200);
    let token = session["accessToken"].as_str().unwrap();
    pipe.client.ask("PUT", "/v1/uploads/u", Some(token), Some(json!({"records": 9}))).await.expect(200);
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
    pipe.client.head("POST", "/v1/uploads/u/records", &headers, 10_000).await;
    pipe.client.write(format!("{}{}", lines(0..2), &line(2)[..20])).await;
    let begun = Instant::now();
    let problem = pipe.client.answer().await.unwrap().expect_problem(408, "too_slow");
    assert_eq!(problem["durable"], 2);
    assert!(begun.elapsed() >= HTTP_BODY_STALL && begun.elapsed() < HTTP_BODY_STALL + Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_an_app_that_stalls_is_over() {
    let mut pipe = Pipe::open().await;
    pipe.client.head("POST", "/upload", &[JSON], 10_000).await;
    pipe.client.write("{\"records\":[null,").await;
    let begun = Instant::now();
    pipe.client.answer().await.unwrap().expect_problem(408, "too_slow");
    assert!(begun.elapsed() >= HTTP_BODY_STALL && begun.elapsed() < HTTP_BODY_STALL + Duration::from_secs(5));
}

/// One connection without sockets.
struct Pipe {
    client: HttpClient<DuplexStream>,
    serving: JoinHandle<()>,
    switch: ShutdownSwitch,
}

impl Pipe {
    async fn open() -> Self {
        Self::open_over(Arc::new(MemoryStore::new())).await
    }

    async fn open_over(store: Arc<MemoryStore>) -> Self {
        let (switch, shutdown) = shutdown_channel();
        // nothing here is long enough for the folder
        let options = HttpOptions { rates: None, ..options(Path::new("nowhere")) };
        let parts = Parts::over(store, options, Policy::default(), shutdown).await;
        let (near, far) = tokio::io::duplex(4_096);
        let peer = Peer { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)), connected: Instant::now() };
        let serving = tokio::spawn(parts.api.serve(far, peer));
        Self { client: HttpClient::over(near), serving, switch }
    }
}
