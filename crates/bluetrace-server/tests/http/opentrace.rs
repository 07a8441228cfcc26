//! The callable protocol: every exchange that was captured from the reference, as far as this authority offers the call.

use std::path::Path;

use bluetrace_protocol::{Clock as _, Username};
use serde_json::{Value, json};

use crate::harness::{ALICE, Answer, BOB, Site, text};

#[tokio::test]
async fn the_captured_exchanges_are_answered_to_the_letter() {
    let site = Site::start().await;
    let token = site.login(ALICE).await;
    let exchanges = exchanges();
    assert_eq!(exchanges.len(), 10);
    let mut replayed = 0;
    for exchange in &exchanges {
        let (request, response) = (&exchange["request"], &exchange["response"]);
        let path = text(&request["path"]);
        for prefix in ["", "/some-project/asia-east2"] {
            let answer = replay(&site, request, &format!("{prefix}{path}"), &token).await;
            assert_eq!(answer.status, response["status"], "{exchange}: {answer:?}");
            // ids and PINs are others every time; what stands around them is not
            let (ours, of_reference) = (answer.body.as_str(), response["body"].as_str().unwrap());
            assert_eq!(without_values(ours), without_values(of_reference), "{exchange}");
            for (name, value) in response["headers"].as_object().unwrap() {
                assert_eq!(answer.header(name), value.as_str(), "{name} of {exchange}");
            }
            replayed += 1;
        }
    }
    assert_eq!(replayed, 2 * 10);
}

#[tokio::test]
async fn a_batch_is_a_hundred_ids_with_whole_seconds_in_the_order_of_the_reference() {
    let site = Site::start().await;
    site.clock.set_s(1_586_390_400);
    let token = site.login(ALICE).await;
    let exchanges = exchanges();
    let exchange = &exchanges[0];
    let answer = replay(&site, &exchange["request"], "/getTempIDs", &token).await;
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let result = &answer.expect(200)["result"];
    assert_eq!(result["refreshTime"], 1_586_390_400 + 43_200);
    let ids = result["tempIDs"].as_array().unwrap();
    assert_eq!(ids.len(), 100);
    // but for the ids themselves, whose scheme is the authority's, the text is the reference's
    let first = ids[0].as_object().unwrap();
    let (id, start, expiry) = (text(&first["tempID"]), &first["startTime"], &first["expiryTime"]);
    let front = format!(
        r#"{{"result":{{"status":"SUCCESS","tempIDs":[{{"tempID":"{id}","startTime":{start},"expiryTime":{expiry}}},{{"tempID":""#
    );
    assert!(answer.body.starts_with(&front), "{}", answer.body);
    assert!(answer.body.ends_with(r#"}],"refreshTime":1586433600}}"#), "{}", answer.body);
}

#[tokio::test]
async fn sealed_ids_are_fetched_uploaded_and_found_like_any_others() {
    let site = Site::sealed().await;
    let (alice, bob) = (site.login(ALICE).await, site.login(BOB).await);
    let fetched = site.ask("POST", "/getTempIDs", Some(&bob), Some(json!({"data": null}))).await.expect(200);
    let ids = fetched["result"]["tempIDs"].as_array().unwrap();
    assert!(ids.iter().all(|id| text(&id["tempID"]).len() == 84), "{fetched}");
    let met = json!({"tempId": ids[9]["tempID"], "start": ids[9]["startTime"], "expiry": ids[9]["expiryTime"]});
    site.clock.advance_ms(9 * 900_000 + 1_000);
    let alice_again = site.login(ALICE).await;
    site.get("/v1/notices", &alice).await.expect_problem(401, "unauthenticated");
    site.begin("u", 1, &alice_again).await;
    let sent = site.send("u", 0, &met.to_string(), &alice_again).await.expect(200);
    assert_eq!(sent["summary"]["resolved"], 1, "{sent}");
    let metrics = site.ask("GET", "/metrics", None, None).await.body;
    let age = metrics.lines().find_map(|line| line.strip_prefix("bluetrace_sealing_key_age_seconds "));
    assert!(age.is_some_and(|age| age.parse::<u64>().unwrap() > 0), "{metrics}");
}

#[tokio::test]
async fn the_metrics_tell_the_age_of_the_key_that_took_over() {
    let site = Site::sealed().await;
    let token = site.login(ALICE).await;
    site.ask("POST", "/getTempIDs", Some(&token), Some(json!({"data": null}))).await.expect(200);
    site.clock.advance_ms(60_000);
    assert!(site.authority.rotate_key(site.clock.now()).await.unwrap().is_some());
    site.clock.advance_ms(7_000);
    let metrics = site.ask("GET", "/metrics", None, None).await.body;
    assert!(metrics.contains("\nbluetrace_sealing_key_age_seconds 7\n"), "{metrics}");
}

#[tokio::test]
async fn the_pin_is_the_one_that_the_official_sees() {
    let site = Site::start().await;
    let token = site.login(ALICE).await;
    let seen = site.authority.handshake_pin_of(Username::parse(ALICE.0).unwrap(), site.clock.now()).await.unwrap();
    let (pin, _) = seen.unwrap();
    let answer = site.ask("POST", "/getHandshakePin", Some(&token), Some(json!({"data": null}))).await;
    answer.expect(200);
    assert_eq!(answer.body, format!(r#"{{"result":{{"status":"SUCCESS","pin":"{}"}}}}"#, pin.reveal()));
    let of_bob = site.login(BOB).await;
    let other = site.ask("POST", "/getHandshakePin", Some(&of_bob), Some(json!({"data": null}))).await.expect(200);
    assert_ne!(other["result"]["pin"], pin.reveal());
}

#[tokio::test]
async fn what_is_no_call_is_a_bad_request_whatever_is_wrong_with_it() {
    let site = Site::start().await;
    let token = format!("Bearer {}", site.login(ALICE).await);
    let bad = r#"{"error":{"message":"Bad Request","status":"INVALID_ARGUMENT"}}"#;
    let json = ("Content-Type", "application/json");
    let long = format!("{{\"data\":\"{}\"}}", "x".repeat(100_000));
    for (method, kind, body) in [
        ("GET", json, "{\"data\":null}"),
        ("PUT", json, "{\"data\":null}"),
        ("DELETE", json, ""),
        ("POST", ("Content-Type", "text/plain"), "{\"data\":null}"),
        ("POST", ("X-Kind", "none"), "{\"data\":null}"),
        ("POST", json, ""),
        ("POST", json, "null"),
        ("POST", json, "[]"),
        ("POST", json, "{\"data\":"),
        ("POST", json, "{\"data\":null,\"more\":1}"),
        ("POST", json, "{\"more\":1}"),
        ("POST", json, &long),
    ] {
        let mut client = site.connect().await;
        let answer = client.exchange(method, "/getTempIDs", &[("Authorization", &token), kind], Some(body)).await;
        assert_eq!((answer.status, &*answer.body), (400, bad), "{method} {kind:?}");
    }
}

#[tokio::test]
async fn values_reach_a_call_as_javascript_means_them() {
    let site = Site::start().await;
    let token = site.login(ALICE).await;
    let wrapped = json!({"@type": "type.googleapis.com/google.protobuf.Int64Value", "value": "123456"});
    for (data, words) in [(json!("a b "), "a b "), (json!(null), "null"), (wrapped, "123456"), (json!(""), "")] {
        let answer = site.ask("POST", "/getUploadToken", Some(&token), Some(json!({"data": data}))).await;
        let expected = json!({"error": {"message": format!("Invalid data: {words}"), "status": "INVALID_ARGUMENT"}});
        assert_eq!(answer.expect(400), expected);
    }
}

#[tokio::test]
async fn a_page_of_another_origin_may_read_the_answer_to_its_call() {
    let site = Site::start().await;
    let headers = [("Origin", "https://app.example"), ("Content-Type", "application/json")];
    let answer = site.connect().await.exchange("POST", "/getTempIDs", &headers, Some("{\"data\":null}")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(answer.header("vary"), Some("Origin"));
}

/// A successful answer's text without what is another in each: the pin, and the list of ids with when to ask again. Any other
/// text as it is.
fn without_values(body: &str) -> String {
    let mut text = body.to_owned();
    for (front, end) in [("\"pin\":\"", '"'), ("\"tempIDs\":[", ']'), ("\"refreshTime\":", '}')] {
        if let Some((before, rest)) = text.split_once(front) {
            let rest = rest.split_once(end).unwrap().1;
            text = format!("{before}{front}{end}{rest}");
        }
    }
    text
}

/// Makes a captured request, with a token of this authority where the reference had one of its own.
async fn replay(site: &Site, request: &Value, path: &str, token: &str) -> Answer {
    let headers = request["headers"].as_object().unwrap().iter();
    let headers: Vec<_> = headers.map(|(name, value)| (&**name, text(value).replace("good-token", token))).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
    let mut client = site.connect().await;
    client.exchange(request["method"].as_str().unwrap(), path, &headers, request["body"].as_str()).await
}

fn exchanges() -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/opentrace.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    vectors["callable_http"].as_array().unwrap().clone()
}
