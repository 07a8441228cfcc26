//! The native API, as a device uses it.

use std::sync::Arc;

use bluetrace_authority::codes::{CodeOrder, CodeOrdered};
use bluetrace_authority::store::CodeForm;
use bluetrace_protocol::{Clock as _, UploadId, Uploaded};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{ALICE, Answer, BOB, HttpClient, Site, at, line, lines, text};

#[tokio::test]
async fn who_was_met_finds_a_notice_and_says_that_it_was_read() {
    for site in [Site::start().await, Site::over_sqlite().await] {
        let (alice, bob) = (site.login(ALICE).await, site.login(BOB).await);
        let fetched = site.post("/v1/temp-ids", &bob, json!({"count": 3})).await.expect(200);
        let ids = fetched["tempIds"].as_array().unwrap();
        assert_eq!(ids.len(), 3);
        assert_eq!(ids[0]["start"], fetched["now"]);
        assert_eq!(ids[1]["start"], ids[0]["expiry"].as_i64().unwrap() + 1);
        assert_eq!(fetched["refresh"], fetched["now"].as_i64().unwrap() + (3 * 900 - 1) / 2);

        let met =
            json!({"tempId": ids[1]["tempId"], "start": ids[1]["start"], "expiry": ids[1]["expiry"], "rssi": -71});
        assert_eq!(site.begin("u", 3, &alice).await["durable"], 0);
        let sent = site.send("u", 0, &format!("{met}\n{}no record\n", line(7)), &alice).await.expect(200);
        let summary = json!({"records": 3, "resolved": 1, "unknown": 1, "invalid": 1});
        assert_eq!(sent, json!({"upload": "u", "records": 3, "durable": 3, "summary": summary}));
        assert_eq!(site.get("/v1/uploads/u", &alice).await.expect(200), sent);

        let notices = site.get("/v1/notices", &bob).await.expect(200);
        let notice = &notices["notices"][0];
        assert_eq!((&notice["from"], &notice["to"]), (&ids[1]["start"], &ids[1]["expiry"]));
        assert!(notice["advice"].is_string());
        assert_eq!(site.get("/v1/notices", &bob).await.expect(200), notices, "looking is not reading");
        site.post("/v1/notices/read", &bob, json!({"upTo": notice["id"]})).await.expect(204);
        assert_eq!(site.get("/v1/notices", &bob).await.expect(200), json!({"notices": []}));
        assert_eq!(site.get("/v1/notices", &alice).await.expect(200), json!({"notices": []}));
    }
}

#[tokio::test]
async fn the_certificate_is_the_servers_own_and_one_connection_carries_many_requests() {
    let site = Site::start().await;
    let stream = TcpStream::connect(site.address).await.unwrap();
    let config = crate::tls::trust(site.folder.path());
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut client = HttpClient::over(TlsConnector::from(config).connect(name, stream).await.unwrap());
    for _ in 0..3 {
        client.ask("GET", "/healthz", None, None).await.expect(200);
    }
}

// ---- Sessions

#[tokio::test]
async fn the_third_failure_blocks_whether_or_not_there_is_such_an_account_and_retry_after_ends_the_block() {
    let site = Site::start().await;
    for username in [ALICE.0, "nobody"] {
        for left in [2, 1] {
            let answer = site.attempt((username, "guess")).await;
            assert_eq!(answer.expect_problem(401, "wrong_password")["attemptsLeft"], left);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        for password in ["guess", ALICE.1] {
            let answer = site.attempt((username, password)).await;
            assert_eq!(answer.expect_problem(429, "blocked")["retryAfter"], 60);
            assert_eq!(answer.header("retry-after"), Some("60"));
        }
    }
    site.clock.advance_ms(59_999);
    assert_eq!(site.attempt(ALICE).await.expect_problem(429, "blocked")["retryAfter"], 1);
    site.clock.advance_ms(1);
    site.login(ALICE).await;
}

#[tokio::test]
async fn an_access_token_ends_after_ten_minutes_and_the_resume_token_goes_on() {
    let site = Site::start().await;
    let session = site.session(ALICE).await;
    let access = text(&session["accessToken"]);
    assert_eq!(session["accessExpires"], session["now"].as_i64().unwrap() + 600);
    site.clock.advance_ms(599_999);
    site.get("/v1/notices", &access).await.expect(200);
    site.clock.advance_ms(1);
    site.get("/v1/notices", &access).await.expect_problem(401, "unauthenticated");
    let renewed = site.ask("POST", "/v1/session", None, Some(json!({"resumeToken": session["resumeToken"]}))).await;
    let renewed = renewed.expect(200);
    site.get("/v1/notices", &text(&renewed["accessToken"])).await.expect(200);
    assert!(renewed["resumeExpires"].as_i64() > session["resumeExpires"].as_i64());
}

#[tokio::test]
async fn no_token_is_good_for_the_others_purpose_and_a_changed_one_for_nothing() {
    let site = Site::start().await;
    let session = site.session(ALICE).await;
    let (access, resume) = (text(&session["accessToken"]), text(&session["resumeToken"]));
    let changed = format!("{}{}", &access[..access.len() - 2], if access.ends_with('A') { "BB" } else { "AA" });
    for token in [&*resume, &*changed, "", "x", "a b"] {
        site.get("/v1/notices", token).await.expect_problem(401, "unauthenticated");
    }
    for token in [&*access, &*changed, "", "ü"] {
        let answer = site.ask("POST", "/v1/session", None, Some(json!({"resumeToken": token}))).await;
        answer.expect_problem(401, "unauthenticated");
    }
    for header in ["Basic YTpi", &access, "Bearer", &format!("Bearer{access}")] {
        let answer = site.connect().await.exchange("GET", "/v1/notices", &[("Authorization", header)], None).await;
        answer.expect_problem(401, "unauthenticated");
    }
    let header = format!("bearer {access}");
    site.connect().await.exchange("GET", "/v1/notices", &[("Authorization", &header)], None).await.expect(200);
}

#[tokio::test]
async fn a_token_is_good_on_every_server_of_the_authority() {
    let site = Site::start().await;
    let second = site.second().await;
    let session = site.session(ALICE).await;
    second.get("/v1/notices", &text(&session["accessToken"])).await.expect(200);
    let renewed = second.ask("POST", "/v1/session", None, Some(json!({"resumeToken": session["resumeToken"]}))).await;
    site.get("/v1/notices", &text(&renewed.expect(200)["accessToken"])).await.expect(200);
}

#[tokio::test]
async fn a_logout_voids_the_tokens_of_its_session_and_of_no_other() {
    let site = Site::start().await;
    let (first, second) = (site.session(ALICE).await, site.session(ALICE).await);
    let (access, other) = (text(&first["accessToken"]), text(&second["accessToken"]));
    site.get("/v1/notices", &access).await.expect(200);
    site.ask("DELETE", "/v1/session", Some(&access), None).await.expect(204);
    site.get("/v1/notices", &access).await.expect_problem(401, "unauthenticated");
    let renewal = site.ask("POST", "/v1/session", None, Some(json!({"resumeToken": first["resumeToken"]}))).await;
    renewal.expect_problem(401, "unauthenticated");
    site.get("/v1/notices", &other).await.expect(200);
}

// ---- Uploads

#[tokio::test]
async fn an_upload_that_is_cut_goes_on_where_it_was() {
    for site in [Site::start().await, Site::over_sqlite().await] {
        let alice = site.login(ALICE).await;
        site.begin("u", 100, &alice).await;
        // cut in the middle of the 41st line, and of the body that was announced
        let whole = lines(0..100);
        let cut = whole.len() * 2 / 5 + 30;
        let mut client = site.connect().await;
        let authorization = format!("Bearer {alice}");
        let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
        client.head("POST", "/v1/uploads/u/records", &headers, whole.len()).await;
        client.write(&whole[..cut]).await;
        drop(client);
        site.wait_for_durable("u", 40, &alice).await;
        let begun = site.begin("u", 100, &alice).await;
        assert_eq!((&begun["durable"], &begun["summary"]), (&json!(40), &Value::Null));
        let answer = site.send("u", 40, &lines(40..100), &alice).await.expect(200);
        assert_eq!(answer["summary"], json!({"records": 100, "resolved": 0, "unknown": 100, "invalid": 0}));
        assert_stored(&site, 100).await;
    }
}

#[tokio::test]
async fn records_sent_again_add_nothing_and_a_complete_upload_answers_with_its_summary() {
    for site in [Site::start().await, Site::over_sqlite().await] {
        let alice = site.login(ALICE).await;
        site.begin("u", 30, &alice).await;
        for (first, last, durable) in [(0, 10, 10), (0, 10, 10), (5, 20, 20), (0, 3, 20), (20, 20, 20)] {
            let answer = site.send("u", first, &lines(first..last), &alice).await.expect(200);
            assert_eq!((&answer["durable"], &answer["summary"]), (&json!(durable), &Value::Null));
        }
        let complete = site.send("u", 0, &lines(0..30), &alice).await.expect(200);
        assert_eq!(complete["summary"]["records"], 30);
        for _ in 0..2 {
            assert_eq!(site.send("u", 0, &lines(0..30), &alice).await.expect(200), complete);
            assert_eq!(site.begin("u", 30, &alice).await, complete);
        }
        // a complete upload of many records can be repeated whole, and its answer read
        assert_eq!(site.send("u", 0, &lines(0..50_000), &alice).await.expect(200), complete);
        assert_stored(&site, 30).await;
    }
}

#[tokio::test]
async fn records_behind_a_gap_are_refused_and_the_answer_says_where_to_go_on() {
    let site = Site::start().await;
    let alice = site.login(ALICE).await;
    site.begin("u", 9, &alice).await;
    site.send("u", 0, &lines(0..4), &alice).await.expect(200);
    let problem = site.send("u", 5, &lines(5..9), &alice).await.expect_problem(409, "upload_gap");
    assert_eq!(problem["durable"], 4);
    let problem = site.send("u", usize::MAX, "", &alice).await.expect_problem(400, "bad_request");
    assert_eq!(problem["durable"], Value::Null);
}

#[tokio::test]
async fn an_upload_keeps_the_number_it_was_begun_with() {
    let site = Site::start().await;
    let alice = site.login(ALICE).await;
    site.begin("u", 3, &alice).await;
    let other = site.ask("PUT", "/v1/uploads/u", Some(&alice), Some(json!({"records": 4}))).await;
    assert_eq!(other.expect_problem(409, "upload_conflict")["records"], 3);
    let problem = site.send("u", 0, &lines(0..4), &alice).await.expect_problem(422, "too_many_records");
    assert_eq!(problem["durable"], 3);
    // what was announced is there, and complete
    let found = site.ask("GET", "/v1/uploads/u", Some(&alice), None).await.expect(200);
    assert_eq!(found["summary"]["records"], 3);
    assert_eq!(site.begin("u", 3, &alice).await["summary"]["records"], 3);
    assert_stored(&site, 3).await;
}

#[tokio::test]
async fn an_upload_of_nothing_is_complete_at_once() {
    let site = Site::start().await;
    let alice = site.login(ALICE).await;
    assert_eq!(site.begin("u", 0, &alice).await["summary"]["records"], 0);
}

#[tokio::test]
async fn an_upload_is_its_accounts_own() {
    let site = Site::start().await;
    let (alice, bob) = (site.login(ALICE).await, site.login(BOB).await);
    site.begin("u", 2, &alice).await;
    site.get("/v1/uploads/u", &bob).await.expect_problem(404, "not_found");
    site.send("u", 0, &lines(0..2), &bob).await.expect_problem(404, "not_found");
    assert_eq!(site.begin("u", 7, &bob).await["durable"], 0);
}

#[tokio::test]
async fn a_large_upload_in_small_pieces_arrives_whole_and_in_order() {
    let site = Site::over_sqlite().await;
    let alice = site.login(ALICE).await;
    let (count, whole) = (20_000, lines(0..20_000));
    site.begin("u", count, &alice).await;
    let mut client = site.connect().await;
    let authorization = format!("Bearer {alice}");
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
    client.head_of_chunks("/v1/uploads/u/records", &headers).await;
    for piece in whole.as_bytes().chunks(997) {
        client.chunk(piece).await;
    }
    client.chunk(b"").await;
    let answer = client.answer().await.unwrap().expect(200);
    assert_eq!(answer["summary"]["unknown"], count);
    assert_stored(&site, count).await;
}

#[tokio::test]
async fn a_log_that_is_uploaded_again_tells_nobody_again_and_a_longer_one_tells_of_what_is_new() {
    for site in [Site::start().await, Site::over_sqlite().await, Site::sealed().await] {
        let (alice, bob) = (site.login(ALICE).await, site.login(BOB).await);
        let fetched = site.post("/v1/temp-ids", &bob, json!({"count": 3})).await.expect(200);
        let ids = fetched["tempIds"].as_array().unwrap();
        let heard = |id: &Value, received: &Value| {
            json!({"tempId": id["tempId"], "start": id["start"], "expiry": id["expiry"], "received": received})
                .to_string()
        };
        let in_time = |number: usize| heard(&ids[number], &ids[number]["start"]);
        let late = heard(&ids[2], &json!(ids[2]["expiry"].as_i64().unwrap() + 1));
        let notices = async || {
            let notices = site.get("/v1/notices", &bob).await.expect(200);
            let notices = notices["notices"].as_array().unwrap().clone();
            notices.iter().map(|notice| (notice["from"].clone(), notice["to"].clone())).collect::<Vec<_>>()
        };
        let upload = async |name: &str, lines: &[String]| {
            site.begin(name, lines.len(), &alice).await;
            site.send(name, 0, &lines.join("\n"), &alice).await.expect(200)
        };
        let first = (ids[0]["start"].clone(), ids[0]["expiry"].clone());
        assert_eq!(upload("one", &[in_time(0), late.clone()]).await["summary"]["resolved"], 2);
        assert_eq!(notices().await, std::slice::from_ref(&first));
        assert_eq!(upload("two", &[late, in_time(0)]).await["summary"]["resolved"], 2, "it counts all the same");
        assert_eq!(notices().await, std::slice::from_ref(&first));
        upload("three", &[in_time(0), in_time(1), in_time(2)]).await;
        let rest = (ids[1]["start"].clone(), ids[2]["expiry"].clone());
        assert_eq!(notices().await, [first.clone(), rest], "what was late before was not told");

        // read or not, and whoever uploads it besides is another story
        site.post("/v1/notices/read", &bob, json!({"upTo": 99})).await.expect(204);
        upload("four", &[in_time(0), in_time(1)]).await;
        assert_eq!(notices().await, []);
    }
}

#[tokio::test]
async fn the_operator_sees_what_he_sees_of_a_session_over_tcp() {
    let site = Site::start().await;
    let alice = site.login(ALICE).await;
    site.post("/v1/temp-ids", &alice, json!({"count": 2})).await.expect(200);
    site.begin("u", 1, &alice).await;
    site.send("u", 0, &line(5), &alice).await.expect(200);
    site.ask("DELETE", "/v1/session", Some(&alice), None).await.expect(204);
    let shown = site.stop_and_read_console().await;
    let expected = [
        "+61410999999 login over HTTP",
        "user: +61410999999",
        "TempID:",
        "... and 1 more",
        "received contact log from +61410999999",
        "00000000000000000005, 13/05/2020 17:54:06, 13/05/2020 18:09:05",
        "Contact log checking",
        "no record leads to anybody",
        "+61410999999 logout over HTTP",
    ];
    let seen: Vec<_> = shown.lines().filter(|line| expected.contains(line)).collect();
    assert_eq!(seen, expected, "{shown}");
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point_and_no_other_number_is_one() {
    let site = Site::start().await;
    let alice = site.login(ALICE).await;
    let fetched = site.post("/v1/temp-ids", &alice, json!({"count": 2.0})).await.expect(200);
    assert_eq!(fetched["tempIds"].as_array().unwrap().len(), 2);
    site.post("/v1/notices/read", &alice, json!({"upTo": -7.0})).await.expect(204);
    let begin =
        async |records: Value| site.ask("PUT", "/v1/uploads/u", Some(&alice), Some(json!({"records": records}))).await;
    assert_eq!(begin(json!(3e0)).await.expect(200)["records"], 3);
    for other in [json!(2.5), json!(-1), json!(1e300), json!(u64::MAX), json!("3"), json!(true), json!(null)] {
        begin(other).await.expect_problem(400, "bad_json");
    }
}

// ---- Withdrawal

#[tokio::test]
async fn a_withdrawal_leaves_nothing_but_a_proof() {
    for site in [Site::start().await, Site::over_sqlite().await] {
        let (alice, bob) = (site.login(ALICE).await, site.session(BOB).await);
        let bobs = text(&bob["accessToken"]);
        let second = site.login(BOB).await;
        let fetched = site.post("/v1/temp-ids", &bobs, json!({"count": 1})).await.expect(200);
        let id = &fetched["tempIds"][0];
        site.begin("of-bob", 1, &bobs).await;
        let gone = site.ask("DELETE", "/v1/me", Some(&bobs), None).await.expect(200);
        assert_eq!(gone["withdrawn"], fetched["now"]);

        for token in [&bobs, &second] {
            site.get("/v1/notices", token).await.expect_problem(401, "unauthenticated");
        }
        let renewal = site.ask("POST", "/v1/session", None, Some(json!({"resumeToken": bob["resumeToken"]}))).await;
        renewal.expect_problem(401, "unauthenticated");
        site.attempt(BOB).await.expect_problem(401, "wrong_password");
        let met = json!({"tempId": id["tempId"], "start": id["start"], "expiry": id["expiry"]});
        site.begin("u", 1, &alice).await;
        let sent = site.send("u", 0, &met.to_string(), &alice).await.expect(200);
        assert_eq!(sent["summary"]["unknown"], 1, "the TempID leads to nobody");

        let proof = text(&gone["proof"]);
        let check = async |proof: &str| -> Answer {
            site.ask("POST", "/v1/withdrawals/check", None, Some(json!({"proof": proof}))).await
        };
        assert_eq!(check(&proof).await.expect(200), json!({"valid": true, "withdrawn": gone["withdrawn"]}));
        for other in ["", "x", &proof[1..], &alice] {
            assert_eq!(check(other).await.expect(200), json!({"valid": false, "withdrawn": null}));
        }
    }
}

#[tokio::test]
async fn where_codes_are_required_an_upload_is_let_in_by_its_own_and_goes_on_without() {
    let site = Site::with_upload_codes().await;
    let (alice, bob) = (site.login(ALICE).await, site.login(BOB).await);
    let order = CodeOrder { form: CodeForm::Six, case: "1".into(), issued_by: "desk".into(), valid_s: 900 };
    let CodeOrdered::Issued { code, .. } = site.authority.issue_upload_code(order, site.clock.now()).await.unwrap()
    else {
        panic!("no code was issued")
    };
    let begin = async |token: &str, code: Option<&str>| {
        site.ask("PUT", "/v1/uploads/u", Some(token), Some(json!({"records": 2, "code": code}))).await
    };
    begin(&alice, None).await.expect_problem(403, "upload_not_authorised");
    let wrong = if code.reveal() == "000000" { "000001" } else { "000000" };
    assert_eq!(begin(&alice, Some(wrong)).await.expect_problem(403, "upload_not_authorised")["attemptsLeft"], 4);
    site.send("u", 0, &line(0), &alice).await.expect_problem(404, "not_found");
    assert_eq!(begin(&alice, Some(code.reveal())).await.expect(200)["durable"], 0);
    begin(&bob, Some(code.reveal())).await.expect_problem(403, "upload_not_authorised");
    site.send("u", 0, &line(0), &alice).await.expect(200);
    assert_eq!(begin(&alice, None).await.expect(200)["durable"], 1);
    for guess in 1..=5 {
        begin(&bob, Some(&format!("{guess}{guess}{guess}{guess}{guess}9"))).await;
    }
    let refused = begin(&bob, Some("777779")).await;
    let seconds = refused.expect_problem(429, "rate_limited")["retryAfter"].as_u64().unwrap();
    assert!((1..=3_600).contains(&seconds), "{seconds}");
    assert!(refused.header("retry-after").is_some());
    assert!(site.send("u", 1, &line(1), &alice).await.expect(200)["summary"].is_object());
}

/// The store holds one upload with this many records, each at its place.
async fn assert_stored(site: &Site, count: usize) {
    let store = Arc::clone(&site.store);
    let uploads = store.uploads(None, 9, at(1_589_392_446)).await.unwrap();
    assert_eq!(uploads.len(), 1);
    assert_eq!(uploads[0].upload, UploadId::parse("u").unwrap());
    let stored = store.uploaded_records(uploads[0].key, 0, u32::MAX, at(1_589_392_446)).await.unwrap();
    assert_eq!(stored.len(), count);
    for (place, record) in stored.iter().enumerate() {
        let Uploaded::Record(uploaded) = record else { panic!("malformed at {place}") };
        assert_eq!(uploaded.record.temp_id.reveal(), format!("{place:020}"));
    }
}
