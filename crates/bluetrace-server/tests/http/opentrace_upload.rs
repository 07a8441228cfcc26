//! `getUploadToken` and `/upload`: who may upload what, how often, and what is left of what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use bluetrace_authority::store::{CodeState, UploadBegun, UploadCodeId};
use bluetrace_protocol::limits::MAX_RECORD_BATCH;
use bluetrace_protocol::{Clock as _, Uploaded};
use bluetrace_server::http::{Rate, Rates};
use bluetrace_server::limits::{
    HTTP_NAMELESS_UPLOADS_AT_A_TIME, HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME, MAX_HTTP_UPLOAD,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{ALICE, BOB, PATIENCE, Site};
use crate::opentrace_app::{App, android, code, upload};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[tokio::test]
async fn a_right_code_gives_a_token_and_again_until_the_upload_is_complete_and_nobody_else_can_use_it() {
    let site = Site::sealed().await;
    let (alice, bob) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    let code = code(&site).await;
    let answer = alice.call(&site, "getUploadToken", json!(code)).await;
    let token = answer.expect(200)["result"]["token"].as_str().unwrap().to_owned();
    assert_eq!(answer.body, format!(r#"{{"result":{{"status":"SUCCESS","token":"{token}"}}}}"#));
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    let refusal = format!(r#"{{"error":{{"message":"Invalid data: {code}","status":"INVALID_ARGUMENT"}}}}"#);
    let refused = bob.call(&site, "getUploadToken", json!(code)).await;
    assert_eq!((refused.status, refused.body), (400, refusal.clone()));

    let again = alice.upload_token(&site, &code).await;
    assert_ne!(again, token);
    let uploaded = alice.upload(&site, &again).await.expect(200);
    assert_eq!(uploaded["summary"]["records"], 0);
    let used = alice.call(&site, "getUploadToken", json!(code)).await;
    assert_eq!((used.status, used.body), (400, refusal));
    // the token from before has lost its code to the upload that is complete
    alice.upload(&site, &token).await.expect_problem(403, "upload_not_authorised");
    let rows = site.store.upload_codes(None, 9, site.clock.now()).await.unwrap();
    assert!(matches!(rows[0].state, CodeState::Used { .. }), "{rows:?}");
}

#[tokio::test]
async fn a_code_is_taken_as_it_was_read_out_and_what_is_none_is_no_guess() {
    let site = Site::sealed().await;
    let app = App::of(&site, ALICE).await;
    let code = code(&site).await;
    let number: u32 = code.parse().unwrap();
    for (data, words) in [
        (json!(number), number.to_string()),
        (json!(format!("{code} ")), format!("{code} ")),
        (json!(""), String::new()),
        (json!(null), "null".to_owned()),
        (json!([code]), code.clone()),
        (json!("x".repeat(65)), "x".repeat(65)),
    ] {
        let answer = app.call(&site, "getUploadToken", data).await;
        let error = json!({"error": {"message": format!("Invalid data: {words}"), "status": "INVALID_ARGUMENT"}});
        assert_eq!(answer.expect(400), error);
    }
    app.upload_token(&site, &code).await;
}

#[tokio::test]
async fn too_many_wrong_codes_are_resource_exhausted_and_the_right_one_is_not_looked_at() {
    let site = Site::sealed().await;
    let (alice, bob) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    let code = code(&site).await;
    for guess in 0..5 {
        alice.call(&site, "getUploadToken", json!(format!("guess{guess}"))).await.expect(400);
    }
    let answer = alice.call(&site, "getUploadToken", json!(code)).await;
    let error = answer.expect(429)["error"].clone();
    assert_eq!(error["status"], "RESOURCE_EXHAUSTED", "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("3600"));
    bob.upload_token(&site, &code).await;
}

#[tokio::test]
async fn one_bad_record_is_one_verdict_whatever_is_wrong_with_it() {
    let site = Site::sealed().await;
    let mut app = App::of(&site, ALICE).await;
    let mut other = App::of(&site, BOB).await;
    other.fetch_ids(&site).await;
    app.fetch_ids(&site).await;
    let now = site.clock.now().as_unix();
    app.hear(&other, now);
    let good = app.records[0].to_string();
    let myself = json!({"msg": app.shown_at(now), "timestamp": now});
    let long = format!("{{\"msg\":\"{}\"}}", "x".repeat(16 * 1024));
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let records = [
        &good,
        "null",
        "17",
        "\"text\"",
        "[]",
        "{}",
        &long,
        &deep,
        "{\"msg\":\"\\ud800\",\"timestamp\":1}",
        &good,
        &json!({"timestamp": now}).to_string(),
        "{\"timestamp\":1e999}",
        "nonsense",
        "",
        &myself.to_string(),
    ]
    .join(" ,\n");
    let token = app.upload_token(&site, &code(&site).await).await;
    let body = format!("{{ \"more\": {{\"records\":[1]}}, \"records\": [{records}], \"token\": \"{token}\" }}");
    let answer = upload(&site, &body).await.expect(200);
    let expected = json!({
        "valid": 1, "expired_id": 0, "failed_decryption": 0, "no_msg": 1, "own_id": 1, "malformed": 11, "registry_id": 0,
        "duplicate": 1,
    });
    assert_eq!(answer["verdicts"], expected, "{answer}");
    assert_eq!(answer["summary"], json!({"records": 14, "resolved": 1, "unknown": 0, "invalid": 13}));
    assert_eq!(other.notices(&site).await.len(), 1);
}

#[tokio::test]
async fn an_upload_sent_again_has_no_effect_and_the_same_summary_and_another_one_is_refused() {
    let site = Site::sealed().await;
    let (mut app, mut other) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    other.fetch_ids(&site).await;
    let now = site.clock.now().as_unix();
    app.hear(&other, now);
    app.hear(&other, now + 1);
    let token = app.upload_token(&site, &code(&site).await).await;
    let first = app.upload(&site, &token).await;
    first.expect(200);
    for _ in 0..2 {
        let again = app.upload(&site, &token).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
    }
    assert_eq!(other.notices(&site).await.len(), 1, "once");
    assert_eq!(site.store.uploads(None, 9, site.clock.now()).await.unwrap().len(), 1);
    // of another number of records, and of the same number
    let (one, swapped) = (vec![app.records[0].clone()], vec![app.records[1].clone(), app.records[0].clone()]);
    for other in [one, swapped] {
        upload(&site, &android(&token, &other)).await.expect_problem(409, "upload_conflict");
    }
    app.records[1]["rssi"] = json!(-63);
    app.upload(&site, &token).await.expect_problem(409, "upload_conflict");
}

#[tokio::test]
async fn what_is_cut_counts_nothing_and_the_same_token_works_again() {
    let site = Site::over_sqlite().await;
    let mut app = App::of(&site, ALICE).await;
    // long enough for the file
    app.records = (0..9_500).map(record).collect();
    let token = app.upload_token(&site, &code(&site).await).await;
    let body = android(&token, &app.records);
    for cut in [0, 1, body.len() / 2, body.len() - 1] {
        let mut client = site.connect().await;
        client.head("POST", "/upload", &[JSON], body.len()).await;
        client.write(&body[..cut]).await;
        tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
        while let Some(answer) = client.answer().await {
            assert!(answer.status >= 400, "{answer:?}");
        }
    }
    // whole as HTTP, and not as JSON
    upload(&site, &body[..body.len() - 1]).await.expect_problem(400, "bad_json");
    assert!(site.store.uploads(None, 9, site.clock.now()).await.unwrap().is_empty());
    let answer = upload(&site, &body).await.expect(200);
    assert_eq!(answer["summary"]["records"], 9_500);
    assert_eq!(upload(&site, &body).await.expect(200), answer);
    let files: Vec<_> = std::fs::read_dir(site.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| !name.to_str().unwrap().contains("spool")), "{files:?}");
}

#[tokio::test]
async fn a_token_is_refused_that_is_missing_changed_expired_another_accounts_or_of_a_session_that_ended() {
    let site = Site::sealed().await;
    let (alice, bob) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    let code = code(&site).await;
    let token = alice.upload_token(&site, &code).await;
    let last = if token.ends_with('A') { "E" } else { "A" };
    let changed = format!("{}{last}", &token[..token.len() - 1]);
    for bad in ["", "x", &changed, &token[1..], &alice.access_token] {
        upload(&site, &android(bad, &[])).await.expect_problem(401, "unauthenticated");
    }
    for body in ["{\"records\":[]}", "{\"token\":17,\"records\":[]}", "{\"token\":null,\"records\":[]}", "{}"] {
        upload(&site, body).await.expect_problem(401, "unauthenticated");
    }
    let body = android(&token, &[]);
    for (access_token, status, code) in [
        (&bob.access_token, 403, "upload_not_authorised"),
        (&token, 401, "unauthenticated"),
        (&"x".to_owned(), 401, "unauthenticated"),
    ] {
        let authorization = ("Authorization", &*format!("Bearer {access_token}"));
        let answer = site.connect().await.exchange("POST", "/upload", &[JSON, authorization], Some(&body)).await;
        answer.expect_problem(status, code);
    }
    // an upload token is for uploads alone
    site.get("/v1/notices", &token).await.expect_problem(401, "unauthenticated");
    let of_no_list = format!("{{\"token\":\"{token}\",\"records\":null}}");
    upload(&site, &of_no_list).await.expect_problem(400, "bad_json");
    site.clock.advance_ms(7_200_000);
    upload(&site, &body).await.expect_problem(401, "unauthenticated");
    // the code is the account's all the same
    let alice = App::of(&site, ALICE).await;
    let token = alice.upload_token(&site, &code).await;
    let again = alice.upload_token(&site, &code).await;
    let authorization = ("Authorization", &*format!("Bearer {}", alice.access_token));
    let body = android(&token, &[]);
    site.connect().await.exchange("POST", "/upload", &[JSON, authorization], Some(&body)).await.expect(200);
    site.ask("DELETE", "/v1/session", Some(&alice.access_token), None).await;
    for token in [token, again] {
        upload(&site, &android(&token, &[])).await.expect_problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn a_code_that_is_revoked_takes_its_token_with_it() {
    let site = Site::sealed().await;
    let app = App::of(&site, ALICE).await;
    let token = app.upload_token(&site, &code(&site).await).await;
    let now = site.clock.now();
    site.store.revoke_upload_code(UploadCodeId(1), now).await.unwrap();
    app.upload(&site, &token).await.expect_problem(403, "upload_not_authorised");
    assert!(site.store.uploads(None, 9, now).await.unwrap().is_empty());
}

#[tokio::test]
async fn any_server_of_the_authority_takes_a_token() {
    let site = Site::sealed().await;
    let second = site.second().await;
    let mut app = App::of(&site, ALICE).await;
    app.records = (0..3).map(record).collect();
    let token = app.upload_token(&site, &code(&site).await).await;
    let there = app.upload(&second, &token).await.expect(200);
    assert_eq!(app.upload(&site, &token).await.expect(200), there);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_many_times_at_once_is_one_upload() {
    let site = Arc::new(Site::over_sqlite().await);
    let app = App::of(&site, ALICE).await;
    let token = app.upload_token(&site, &code(&site).await).await;
    let (one, other): (Vec<_>, Vec<_>) = ((0..9_000).map(record).collect(), (1..9_001).map(record).collect());
    let (one, other) = (Arc::new(android(&token, &one)), Arc::new(android(&token, &other)));
    let mut requests = JoinSet::new();
    for number in 0..8 {
        let (site, body) = (Arc::clone(&site), Arc::clone(if number % 2 == 0 { &one } else { &other }));
        requests.spawn(async move { (number % 2, upload(&site, &body).await) });
    }
    let mut statuses = [Vec::new(), Vec::new()];
    while let Some(Ok((which, answer))) = requests.join_next().await {
        statuses[which].push(answer.status);
    }
    statuses.sort();
    assert_eq!(statuses, [[200; 4].to_vec(), [409; 4].to_vec()], "the same one each time, and the other one never");
    let uploads = site.store.uploads(None, 9, site.clock.now()).await.unwrap();
    assert!(uploads.len() == 1 && uploads[0].durable == 9_000, "{uploads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tokens_of_one_code_used_at_once_one_carries_its_upload_and_the_other_is_told_why_it_does_not() {
    let site = Arc::new(Site::with_rates(None).await);
    let app = App::of(&site, ALICE).await;
    for round in 0..10 {
        let code = code(&site).await;
        let tokens = [app.upload_token(&site, &code).await, app.upload_token(&site, &code).await];
        let records: Vec<_> = (0..2_000).map(|number| record(10_000 * round + number)).collect();
        let bodies = tokens.map(|token| Arc::new(android(&token, &records)));
        let mut requests = JoinSet::new();
        for number in 0..4 {
            let (site, body) = (Arc::clone(&site), Arc::clone(&bodies[number % 2]));
            requests.spawn(async move { (number % 2, upload(&site, &body).await) });
        }
        let mut carried = Vec::new();
        while let Some(Ok((which, answer))) = requests.join_next().await {
            match answer.status {
                200 => carried.push(which),
                403 => _ = answer.expect_problem(403, "upload_not_authorised"),
                _ => _ = answer.expect_problem(409, "upload_conflict"),
            }
        }
        let winner = *carried.first().expect("one of them");
        assert!(carried.iter().all(|which| *which == winner), "{carried:?}");
        assert_eq!(upload(&site, &bodies[winner]).await.expect(200)["summary"]["records"], 2_000);
        upload(&site, &bodies[1 - winner]).await.expect_problem(403, "upload_not_authorised");
    }
}

#[tokio::test]
async fn an_upload_that_was_cut_while_it_was_stored_goes_on_where_it_was() {
    let site = Site::over_sqlite().await;
    let mut app = App::of(&site, ALICE).await;
    app.records = (0..9_000).map(record).collect();
    let token = app.upload_token(&site, &code(&site).await).await;
    // what a server that was killed between two batches leaves
    let now = site.clock.now();
    let (member, grant) = site.authority.upload_grant(&token, now).await.unwrap().unwrap();
    let begun = site.authority.begin_granted_upload(&member, &grant, 9_000, now).await.unwrap();
    let UploadBegun::Open { key, .. } = begun else { panic!("{begun:?}") };
    let records = (0..5_000).map(stored).collect();
    site.authority.append_records(&member, key, 0, records).await.unwrap();
    let mut changed = app.records.clone();
    changed[4_999]["rssi"] = json!(-1);
    upload(&site, &android(&token, &changed)).await.expect_problem(409, "upload_conflict");
    let answer = app.upload(&site, &token).await.expect(200);
    assert_eq!(answer["summary"], json!({"records": 9_000, "resolved": 0, "unknown": 9_000, "invalid": 0}));
    let last = site.store.uploaded_records(key, 8_999, 9, now).await.unwrap();
    assert_eq!(last, [stored(8_999)]);
}

/// Whether the other request comes in between is chance, in a few of the rounds it does.
#[tokio::test]
async fn what_another_request_has_stored_meanwhile_is_what_counts() {
    let site = Site::sealed().await;
    let mut app = App::of(&site, ALICE).await;
    app.records = (0..9_000).map(record).collect();
    for _ in 0..10 {
        let token = app.upload_token(&site, &code(&site).await).await;
        let now = site.clock.now();
        let (member, grant) = site.authority.upload_grant(&token, now).await.unwrap().unwrap();
        let begun = site.authority.begin_granted_upload(&member, &grant, 9_000, now).await.unwrap();
        let UploadBegun::Open { key, .. } = begun else { panic!("{begun:?}") };
        // in the place of the second batch's first records, as soon as the first batch is there
        let (store, place) = (Arc::clone(&site.store), u32::try_from(MAX_RECORD_BATCH).unwrap());
        let other = tokio::spawn(async move {
            while store.append_records(key, place, vec![Uploaded::Malformed; 10]).await.is_err() {
                tokio::task::yield_now().await;
            }
        });
        let answer = app.upload(&site, &token).await.expect(200);
        other.await.unwrap();
        let traced = site.authority.traced_records(key, 0, 9_000, now).await.unwrap();
        let invalid = traced.iter().filter(|traced| traced.record.is_none()).count();
        let summary = json!({"records": 9_000, "resolved": 0, "unknown": 9_000 - invalid, "invalid": invalid});
        assert_eq!(answer["summary"], summary);
    }
}

#[tokio::test]
async fn what_is_no_upload_is_a_problem_that_says_what() {
    let site = Site::sealed().await;
    let app = App::of(&site, ALICE).await;
    let token = app.upload_token(&site, &code(&site).await).await;
    for body in ["", "[]", "null", "{\"records\":[1:2]}", "{\"records\":[],\"records\":[]}", "{}{}", "\u{feff}{}"] {
        upload(&site, body).await.expect_problem(400, "bad_json");
    }
    let text = [("Content-Type", "text/plain")];
    let answer = site.connect().await.exchange("POST", "/upload", &text, Some(&android(&token, &[]))).await;
    answer.expect_problem(415, "unsupported_media_type");
    site.ask("GET", "/upload", None, None).await.expect_problem(405, "method_not_allowed");
    let mut client = site.connect().await;
    client.head("POST", "/upload", &[JSON], usize::try_from(MAX_HTTP_UPLOAD + 1).unwrap()).await;
    client.answer().await.unwrap().expect_problem(413, "too_large");
    app.upload(&site, &token).await.expect(200);
}

#[tokio::test]
async fn a_token_that_comes_first_and_is_bad_is_refused_before_its_records_come() {
    let site = Site::sealed().await;
    for token in ["\"bad\"", "17", "null", &format!("\"{}\"", "x".repeat(20_000))] {
        let mut client = site.connect().await;
        client.head("POST", "/upload", &[JSON], 100_000_000).await;
        client.write(&format!("{{\"token\":{token},")).await;
        client.answer().await.unwrap().expect_problem(401, "unauthenticated");
    }
    let (alice, bob) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    let token = alice.upload_token(&site, &code(&site).await).await;
    let authorization = ("Authorization", &*format!("Bearer {}", bob.access_token));
    let mut client = site.connect().await;
    client.head("POST", "/upload", &[JSON, authorization], 100_000_000).await;
    client.write(&format!("{{\"token\":\"{token}\",")).await;
    client.answer().await.unwrap().expect_problem(403, "upload_not_authorised");
}

#[tokio::test]
async fn an_upload_whose_token_came_first_takes_its_accounts_place_and_not_one_of_nobody_knows_whom() {
    let site = Site::with_rates(None).await;
    let (alice, bob) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    let token = alice.upload_token(&site, &code(&site).await).await;
    let mut stalled = JoinSet::new();
    for _ in 0..HTTP_NAMELESS_UPLOADS_AT_A_TIME {
        let mut client = site.connect().await;
        client.head("POST", "/upload", &[JSON], 1_000_000).await;
        client.write(&format!("{{\"token\":\"{token}\",\"records\":[")).await;
        stalled.spawn(async move { client.answer().await });
    }
    // those beyond the account's share are sent away, whichever they are
    for _ in HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME..HTTP_NAMELESS_UPLOADS_AT_A_TIME {
        stalled.join_next().await.unwrap().unwrap().unwrap().expect_problem(503, "busy");
    }
    let token = bob.upload_token(&site, &code(&site).await).await;
    bob.upload(&site, &token).await.expect(200);
}

#[tokio::test]
async fn who_says_whose_an_upload_is_does_not_wait_for_those_of_nobody_knows_whom() {
    let site = Site::with_rates(None).await;
    let app = App::of(&site, ALICE).await;
    let token = app.upload_token(&site, &code(&site).await).await;
    let mut stalled = Vec::new();
    for _ in 0..HTTP_NAMELESS_UPLOADS_AT_A_TIME {
        let mut client = site.connect().await;
        client.head("POST", "/upload", &[JSON], 1_000).await;
        client.write("{\"records\":[").await;
        stalled.push(client);
    }
    wait_until_under_way(&site, HTTP_NAMELESS_UPLOADS_AT_A_TIME).await;
    // one more of them waits for a place
    let body = android(&token, &[]);
    let mut nameless = site.connect().await;
    nameless.head("POST", "/upload", &[JSON], body.len()).await;
    nameless.write(&body).await;
    wait_until_under_way(&site, HTTP_NAMELESS_UPLOADS_AT_A_TIME + 1).await;
    let authorization = ("Authorization", &*format!("Bearer {}", app.access_token));
    let named = site.connect().await.exchange("POST", "/upload", &[JSON, authorization], Some(&body)).await;
    assert_eq!(named.expect(200)["summary"]["records"], 0);
    site.post("/v1/temp-ids", &app.access_token, json!({"count": 1})).await.expect(200);
    drop(stalled.pop());
    assert_eq!(nameless.answer().await.unwrap().expect(200), named.json());
}

#[tokio::test]
async fn who_asks_for_tokens_or_uploads_too_often_is_told_when_to_ask_again() {
    let few = Rate { burst: 2, every: Duration::from_hours(1) };
    let site = Site::with_rates(Some(Rates { uploads_of_account: few, ..Rates::default() })).await;
    let (alice, bob) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    let token = alice.upload_token(&site, &code(&site).await).await;
    alice.upload(&site, &token).await.expect(200);
    alice.upload(&site, &token).await.expect_problem(429, "rate_limited");
    let answer = alice.call(&site, "getUploadToken", json!("123456")).await;
    assert_eq!(answer.expect(429)["error"]["status"], "RESOURCE_EXHAUSTED");
    assert!(answer.header("retry-after").is_some());
    bob.upload_token(&site, &code(&site).await).await;
    // by address, also before anybody knows whose it is
    let site = Site::with_rates(Some(Rates { uploads_of_address: few, ..Rates::default() })).await;
    for _ in 0..2 {
        upload(&site, "{}").await.expect_problem(401, "unauthenticated");
    }
    upload(&site, "{}").await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn an_upload_under_way_when_the_server_ends_is_told_to_come_again() {
    let site = Site::sealed().await;
    let mut client = site.connect().await;
    client.head("POST", "/upload", &[JSON], 1_000).await;
    client.write("{\"records\":[").await;
    wait_until_under_way(&site, 1).await;
    site.switch.begin();
    client.answer().await.unwrap().expect_problem(503, "shutting_down");
}

/// Waits until so many requests are being answered, beside the one that asks.
async fn wait_until_under_way(site: &Site, requests: usize) {
    let line = format!("under_way {}\n", requests + 1);
    let waiting = async {
        while !site.ask("GET", "/metrics", None, None).await.body.contains(&line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the requests never came");
}

/// A record as OpenTrace's app writes one, whose id no key opens.
fn record(number: u32) -> Value {
    json!({"msg": id(number), "timestamp": 1_589_392_446 + i64::from(number), "rssi": -60})
}

/// What is stored of it.
fn stored(number: u32) -> Uploaded {
    use bluetrace_protocol::{Record, TempId, Uploaded, UploadedRecord, Window};
    let heard = crate::harness::at(1_589_392_446 + i64::from(number));
    let record = Record { temp_id: TempId::parse(&id(number)).unwrap(), window: Window::new(heard, heard).unwrap() };
    Uploaded::Record(UploadedRecord { record, received: Some(heard), rssi: Some(-60), seen: None })
}

fn id(number: u32) -> String {
    format!("{number:080}AA==")
}
