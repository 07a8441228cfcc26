//! Registration with a phone number and a one-time code, over HTTP.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use bluetrace_server::code_sender::{CodeCommand, CodeSender, CodeText, CodeWebhook, WebhookUrl};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::harness::{ALICE, Answer, PATIENCE, Site, line, text};

const NUMBER: &str = "+6591234567";

#[tokio::test]
async fn a_number_registers_and_has_all_that_a_device_needs_until_it_withdraws() {
    let site = Site::start().await;
    assert_eq!(request(&site, NUMBER).await.expect(202), json!({"expiresIn": 600, "resendAfter": 60}));
    let code = code_on_console(&site, NUMBER, 1).await;
    let answer = confirm(&site, NUMBER, &spaced(&code), None).await;
    let token = text(&answer.expect(201)["accessToken"]);
    let ids = site.post("/v1/temp-ids", &token, json!({"count": 2})).await.expect(200);
    assert_eq!(ids["tempIds"].as_array().unwrap().len(), 2);

    let (alice, first) = (site.login(ALICE).await, &ids["tempIds"][0]);
    let heard = json!({"tempId": first["tempId"], "start": first["start"], "expiry": first["expiry"]});
    site.begin("by-alice", 1, &alice).await;
    assert_eq!(site.send("by-alice", 0, &format!("{heard}\n"), &alice).await.expect(200)["summary"]["resolved"], 1);
    let notices = site.get("/v1/notices", &token).await.expect(200);
    assert_eq!(notices["notices"].as_array().unwrap().len(), 1);
    site.begin("own", 1, &token).await;
    assert_eq!(site.send("own", 0, &line(1), &token).await.expect(200)["durable"], 1);
    let resume = text(
        &site
            .ask("POST", "/v1/session", None, Some(json!({"resumeToken": answer.json()["resumeToken"]})))
            .await
            .expect(200)["resumeToken"],
    );
    assert!(!resume.is_empty());

    site.ask("DELETE", "/v1/me", Some(&token), None).await.expect(200);
    site.get("/v1/notices", &token).await.expect_problem(401, "unauthenticated");
    site.clock.advance_ms(60_000);
    request(&site, NUMBER).await.expect(202);
    let code = code_on_console(&site, NUMBER, 2).await;
    confirm(&site, NUMBER, &code, None).await.expect(201);
}

#[tokio::test]
async fn the_answer_does_not_tell_whether_a_number_has_an_account() {
    let site = Site::start().await;
    registered(&site, NUMBER).await;
    site.clock.advance_ms(60_000);
    let answers = [request(&site, NUMBER).await, request(&site, ALICE.0).await, request(&site, "+6591234568").await];
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (202, &answers[0].body));
    }
    for number in [NUMBER, ALICE.0, "+6591234568"] {
        let wrong = confirm(&site, number, "no-code", None).await.expect_problem(401, "wrong_code");
        assert_eq!(wrong["attemptsLeft"], 4, "{number}");
    }
}

#[tokio::test]
async fn a_retry_within_a_minute_is_answered_alike_and_sends_nothing() {
    let site = Site::start().await;
    request(&site, NUMBER).await.expect(202);
    site.clock.advance_ms(30_000);
    assert_eq!(request(&site, NUMBER).await.expect(202), json!({"expiresIn": 570, "resendAfter": 30}));
    site.clock.advance_ms(30_000);
    assert_eq!(request(&site, NUMBER).await.expect(202), json!({"expiresIn": 600, "resendAfter": 60}));
    let first = code_on_console(&site, NUMBER, 2).await;
    assert_eq!(messages(&site, NUMBER).len(), 2, "one at the beginning, one after a minute");
    confirm(&site, NUMBER, &first, None).await.expect(201);
}

#[tokio::test]
async fn a_number_is_sent_five_codes_a_day() {
    let site = Site::start().await;
    for _ in 0..5 {
        request(&site, NUMBER).await.expect(202);
        site.clock.advance_ms(60_000);
    }
    let refused = request(&site, NUMBER).await;
    let problem = refused.expect_problem(429, "rate_limited");
    assert_eq!(problem["retryAfter"], 24 * 60 * 60 - 5 * 60);
    assert_eq!(refused.header("retry-after"), Some("86100"));
    request(&site, "+6591234568").await.expect(202);
    site.clock.advance_ms(86_100_000);
    request(&site, NUMBER).await.expect(202);
}

#[tokio::test]
async fn the_fifth_wrong_guess_kills_a_code_and_time_does() {
    let site = Site::start().await;
    request(&site, NUMBER).await.expect(202);
    let code = code_on_console(&site, NUMBER, 1).await;
    let wrong = if code == "000000" { "000001" } else { "000000" };
    for left in [4, 3, 2, 1, 0, 0] {
        assert_eq!(confirm(&site, NUMBER, wrong, None).await.expect_problem(401, "wrong_code")["attemptsLeft"], left);
    }
    confirm(&site, NUMBER, &code, None).await.expect_problem(401, "wrong_code");

    site.clock.advance_ms(60_000);
    request(&site, NUMBER).await.expect(202);
    let code = code_on_console(&site, NUMBER, 2).await;
    site.clock.advance_ms(600_000);
    confirm(&site, NUMBER, &code, None).await.expect_problem(401, "wrong_code");
    request(&site, NUMBER).await.expect(202);
    let code = code_on_console(&site, NUMBER, 3).await;
    site.clock.advance_ms(599_000);
    confirm(&site, NUMBER, &code, None).await.expect(201);
    confirm(&site, NUMBER, &code, None).await.expect_problem(401, "wrong_code");
}

#[tokio::test]
async fn two_servers_on_one_database_use_a_code_once_and_send_one() {
    let site = Site::over_sqlite().await;
    let other = site.second_over_sqlite().await;
    let (one, two) = tokio::join!(request(&site, NUMBER), request(&other, NUMBER));
    one.expect(202);
    two.expect(202);
    let sent = async {
        loop {
            let sent: Vec<_> = [messages(&site, NUMBER), messages(&other, NUMBER)].concat();
            if let [message] = &*sent {
                break code_in(message);
            }
            assert!(sent.len() < 2, "one of them sends");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let code = timeout(PATIENCE, sent).await.expect("neither of them sends");
    let (one, two) = tokio::join!(confirm(&site, NUMBER, &code, None), confirm(&other, NUMBER, &code, None));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 401]);
    let accounts = site.store.accounts(None, 9, crate::harness::at(0).into()).await.unwrap();
    assert_eq!(accounts.iter().filter(|row| row.username.reveal() == NUMBER).count(), 1);
}

#[tokio::test]
async fn a_number_that_proves_itself_again_is_let_in_and_may_set_a_password() {
    let site = Site::start().await;
    let before = registered(&site, NUMBER).await;
    site.get("/v1/notices", &before).await.expect(200);
    site.attempt((NUMBER, "eucalyptus")).await.expect_problem(401, "wrong_password");
    site.clock.advance_ms(60_000);
    request(&site, NUMBER).await.expect(202);
    let code = code_on_console(&site, NUMBER, 2).await;
    let token = text(&confirm(&site, NUMBER, &code, Some("eucalyptus")).await.expect(200)["accessToken"]);
    site.get("/v1/notices", &token).await.expect(200);
    site.get("/v1/notices", &before).await.expect_problem(401, "unauthenticated");
    site.login((NUMBER, "eucalyptus")).await;
}

#[tokio::test]
async fn an_account_to_which_an_operator_gave_a_password_is_not_taken_over() {
    let site = Site::start().await;
    request(&site, ALICE.0).await.expect(202);
    let code = code_on_console(&site, ALICE.0, 1).await;
    confirm(&site, ALICE.0, &code, Some("mine now")).await.expect_problem(409, "number_taken");
    confirm(&site, ALICE.0, &code, None).await.expect_problem(401, "wrong_code");
    site.login(ALICE).await;
}

#[tokio::test]
async fn what_is_no_phone_number_or_no_password_is_said() {
    let site = Site::start().await;
    for number in ["", "alice", "91234567", "+65 9123 4567", "+659123456", "+18005550199"] {
        request(&site, number).await.expect_problem(422, "invalid");
        confirm(&site, number, "123456", None).await.expect_problem(422, "invalid");
    }
    let underscored = json!({"phone_number": NUMBER});
    site.ask("POST", "/v1/registrations", None, Some(underscored)).await.expect(202);
    let code = code_on_console(&site, NUMBER, 1).await;
    for password in ["two\nlines".to_owned(), String::new(), "x".repeat(257)] {
        confirm(&site, NUMBER, &code, Some(&password)).await.expect_problem(422, "invalid");
    }
    confirm(&site, NUMBER, &"1".repeat(33), None).await.expect_problem(422, "invalid");
    confirm(&site, NUMBER, &code, None).await.expect(201);
}

#[tokio::test]
async fn a_program_that_fails_or_is_missing_burns_no_code_and_the_next_request_sends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (got, switch) = (folder.path().join("got"), folder.path().join("works"));
    let program = script(folder.path(), &format!("cat >> {}\ntest -e {}", got.display(), switch.display()));
    let site = Site::with_codes(by_command(&program)).await;
    for _ in 0..2 {
        let answer = request(&site, NUMBER).await;
        answer.expect_problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    fs::write(&switch, "").unwrap();
    request(&site, NUMBER).await.expect(202);
    request(&site, NUMBER).await.expect(202);
    let got = fs::read_to_string(&got).unwrap();
    let lines: Vec<_> = got.lines().collect();
    assert_eq!(lines.len(), 6, "twice in vain, once with success, and not within a minute: {got}");
    assert!(lines.iter().step_by(2).all(|line| *line == NUMBER), "{got}");
    assert!(got.ends_with('\n'));
    let metrics = site.ask("GET", "/metrics", None, None).await.body;
    for line in ["{outcome=\"sent\"} 1", "{outcome=\"failed\"} 2"] {
        assert!(metrics.contains(&format!("bluetrace_one_time_codes_total{line}")), "{metrics}");
    }
    // the first of those that failed had arrived
    confirm(&site, NUMBER, &code_in(lines[1]), None).await.expect(201);

    let missing = Site::with_codes(by_command("/there/is/nothing")).await;
    request(&missing, NUMBER).await.expect_problem(503, "unavailable");
}

#[tokio::test]
async fn a_webhook_gets_number_and_text_and_its_failures_burn_no_code() {
    let hook = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/send?from=us", hook.local_addr().unwrap());
    let site = Site::with_codes(by_webhook(&url, Some("s3cret"))).await;
    let ((), refused) = tokio::join!(answer_with(&hook, "500 Oh No").shown(), request(&site, NUMBER));
    refused.expect_problem(503, "unavailable");
    let (got, sent) = tokio::join!(answer_with(&hook, "204 No Content").request(), request(&site, NUMBER));
    sent.expect(202);
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /send?from=us HTTP/1.1\r\n"), "{head}");
    for header in ["authorization: Bearer s3cret", "content-type: application/json"] {
        assert!(head.lines().any(|line| line == header), "no {header} in {head}");
    }
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["phoneNumber"], NUMBER);
    request(&site, NUMBER).await.expect(202);
    confirm(&site, NUMBER, &code_in(body["text"].as_str().unwrap()), None).await.expect(201);
    drop(hook);
    request(&site, "+6591234568").await.expect_problem(503, "unavailable");
}

#[tokio::test]
async fn an_address_has_a_rate_of_codes() {
    let rate = bluetrace_server::http::Rate { burst: 2, every: Duration::from_hours(1) };
    let rates = bluetrace_server::http::Rates { codes_of_address: rate, ..Default::default() };
    let site = Site::with_rates(Some(rates)).await;
    for number in ["+6591234567", "+6591234568"] {
        request(&site, number).await.expect(202);
    }
    request(&site, "+6591234569").await.expect_problem(429, "rate_limited");
}

async fn request(site: &Site, number: &str) -> Answer {
    site.ask("POST", "/v1/registrations", None, Some(json!({"phoneNumber": number}))).await
}

async fn confirm(site: &Site, number: &str, code: &str, password: Option<&str>) -> Answer {
    let body = json!({"phoneNumber": number, "code": code, "password": password});
    site.ask("POST", "/v1/registrations/confirmation", None, Some(body)).await
}

/// An account of this number: its access token.
pub(crate) async fn registered(site: &Site, number: &str) -> String {
    request(site, number).await.expect(202);
    let code = code_on_console(site, number, 1).await;
    text(&confirm(site, number, &code, None).await.expect(201)["accessToken"])
}

/// The code in the message to this number that is the `count`th one, when it is shown.
async fn code_on_console(site: &Site, number: &str, count: usize) -> String {
    let waiting = async {
        loop {
            if let Some(message) = messages(site, number).get(count - 1) {
                return code_in(message);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the code was never shown")
}

fn messages(site: &Site, number: &str) -> Vec<String> {
    let front = format!("message for {number}: ");
    site.output
        .text()
        .split_inclusive('\n')
        .filter_map(|line| line.strip_prefix(&front)?.strip_suffix('\n'))
        .map(str::to_owned)
        .collect()
}

fn code_in(message: &str) -> String {
    let code = message.strip_prefix("your code is ").unwrap();
    assert!(code.len() == 6 && code.bytes().all(|digit| digit.is_ascii_digit()), "{message}");
    code.to_owned()
}

fn spaced(code: &str) -> String {
    format!(" {} {}-{} ", &code[..2], &code[2..4], &code[4..])
}

fn by_command(program: &str) -> CodeSender {
    CodeSender::by_command(CodeCommand::parse(program).unwrap(), CodeText::parse("your code is {code}").unwrap())
}

fn by_webhook(url: &str, token: Option<&str>) -> CodeSender {
    let webhook = CodeWebhook::new(WebhookUrl::parse(url).unwrap(), token).unwrap();
    CodeSender::by_webhook(webhook, CodeText::parse("your code is {code}").unwrap())
}

/// A program of the shell.
fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("send");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// One exchange of a webhook.
struct Exchange<'a>(&'a TcpListener, &'a str);

fn answer_with<'a>(hook: &'a TcpListener, status: &'a str) -> Exchange<'a> {
    Exchange(hook, status)
}

impl Exchange<'_> {
    async fn shown(self) {
        self.request().await;
    }

    /// The request, once it is answered.
    async fn request(self) -> String {
        let (mut stream, _) = timeout(PATIENCE, self.0.accept()).await.unwrap().unwrap();
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).ends_with('}') {
            assert!(timeout(PATIENCE, stream.read_buf(&mut got)).await.unwrap().unwrap() > 0, "a whole request");
        }
        let answer = format!("HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", self.1);
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(got).unwrap()
    }
}
