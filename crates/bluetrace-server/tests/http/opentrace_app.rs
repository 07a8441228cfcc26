//! A small app as those derived from OpenTrace are: it registers, fetches TempIDs, meets others, and uploads; and what such an
//! app lives to see.

use bluetrace_authority::codes::{CodeOrder, CodeOrdered};
use bluetrace_authority::store::CodeForm;
use bluetrace_protocol::Clock as _;
use serde_json::{Value, json};

use crate::harness::{ALICE, Answer, BOB, Site, text};
use crate::registrations::registered;

/// An app on a phone.
pub(crate) struct App {
    pub(crate) access_token: String,
    ids: Vec<Value>,
    pub(crate) records: Vec<Value>,
}

impl App {
    /// Installs the app for somebody whose account there is.
    pub(crate) async fn of(site: &Site, person: (&str, &str)) -> Self {
        Self { access_token: site.login(person).await, ids: Vec::new(), records: Vec::new() }
    }

    /// Makes a call of the callable protocol, at its long path as the apps' library does.
    pub(crate) async fn call(&self, site: &Site, name: &str, data: Value) -> Answer {
        let path = format!("/a-project/asia-east2/{name}");
        site.ask("POST", &path, Some(&self.access_token), Some(json!({"data": data}))).await
    }

    pub(crate) async fn fetch_ids(&mut self, site: &Site) {
        let result = self.call(site, "getTempIDs", Value::Null).await.expect(200);
        self.ids.clone_from(result["result"]["tempIDs"].as_array().unwrap());
    }

    /// The id that it shows at a moment: the first that has begun and not ended.
    pub(crate) fn shown_at(&self, seconds: i64) -> String {
        let is_shown =
            |id: &&Value| id["startTime"].as_i64().unwrap() <= seconds && seconds < id["expiryTime"].as_i64().unwrap();
        text(&self.ids.iter().find(is_shown).expect("an id to show")["tempID"])
    }

    /// Hears another app, and writes down what Android's would.
    pub(crate) fn hear(&mut self, other: &Self, seconds: i64) {
        self.records.push(json!({
            "id": self.records.len() + 1, "modelC": "Pixel 4", "modelP": "iPhone 11", "msg": other.shown_at(seconds),
            "org": "OT_HA", "rssi": -62, "timestamp": seconds, "txPower": 7, "v": 2,
        }));
    }

    /// Asks for an upload token with a code.
    pub(crate) async fn upload_token(&self, site: &Site, code: &str) -> String {
        text(&self.call(site, "getUploadToken", json!(code)).await.expect(200)["result"]["token"])
    }

    /// Uploads what it has heard.
    pub(crate) async fn upload(&self, site: &Site, token: &str) -> Answer {
        upload(site, &android(token, &self.records)).await
    }

    pub(crate) async fn notices(&self, site: &Site) -> Vec<Value> {
        site.get("/v1/notices", &self.access_token).await.expect(200)["notices"].as_array().unwrap().clone()
    }
}

/// A code of six digits, as an official reads one out.
pub(crate) async fn code(site: &Site) -> String {
    let order =
        CodeOrder { form: CodeForm::Six, case: "case 17".to_owned(), issued_by: "desk".to_owned(), valid_s: 900 };
    match site.authority.issue_upload_code(order, site.clock.now()).await.unwrap() {
        CodeOrdered::Issued { code, .. } => code.reveal().to_owned(),
        CodeOrdered::TooManyLive { .. } => panic!("too many codes"),
    }
}

/// A body with its keys in Android's order, and `=` as Android writes it.
pub(crate) fn android(token: &str, records: &[Value]) -> String {
    let events = json!([{"id": 1, "msg": "Scanning Started", "timestamp": 1_589_392_446}]);
    format!("{{\"events\":{events},\"records\":{},\"token\":{}}}", Value::from(records), json!(token))
        .replace('=', "\\u003d")
}

/// Posts a body, without any header that says whose it is.
pub(crate) async fn upload(site: &Site, body: &str) -> Answer {
    site.connect().await.exchange("POST", "/upload", &[("Content-Type", "application/json")], Some(body)).await
}

#[tokio::test]
async fn two_apps_meet_one_uploads_with_a_code_and_the_other_is_told() {
    for site in [Site::sealed().await, Site::start().await] {
        let mut ill = registered_app(&site, "+6591234567").await;
        let mut met = registered_app(&site, "+6598765432").await;
        ill.fetch_ids(&site).await;
        met.fetch_ids(&site).await;
        let now = site.clock.now().as_unix();
        // a phone whose clock is 50 seconds slow has an id to show
        assert!(!met.shown_at(now - 50).is_empty());
        for seconds in [now + 10, now + 70, now + 1_000] {
            ill.hear(&met, seconds);
        }
        site.clock.advance_ms(100_000);
        let token = ill.upload_token(&site, &code(&site).await).await;
        let answer = ill.upload(&site, &token).await.expect(200);
        assert_eq!(answer["status"], "SUCCESS");
        assert_eq!(answer["summary"], json!({"records": 3, "resolved": 3, "unknown": 0, "invalid": 0}), "{answer}");
        let notices = met.notices(&site).await;
        assert_eq!(notices.len(), 1, "{notices:?}");
        let span = (notices[0]["from"].as_i64().unwrap(), notices[0]["to"].as_i64().unwrap());
        assert_eq!(span, (now - 60, now - 60 + 2 * 900));
        assert!(ill.notices(&site).await.is_empty());
        // the console shows it as any other
        let shown = site.stop_and_read_console().await;
        assert!(shown.contains(&met.shown_at(now + 10)), "{shown}");
    }
}

/// The app of somebody who has just registered with a phone number, and has read the code that was sent.
async fn registered_app(site: &Site, number: &str) -> App {
    App { access_token: registered(site, number).await, ids: Vec::new(), records: Vec::new() }
}

#[tokio::test]
async fn who_shows_an_id_past_its_time_is_a_contact_and_gets_no_notice() {
    let site = Site::sealed().await;
    let (mut ill, mut met) = (App::of(&site, ALICE).await, App::of(&site, BOB).await);
    met.fetch_ids(&site).await;
    // the key is older than what it seals
    site.clock.advance_ms(60_000);
    met.fetch_ids(&site).await;
    let now = site.clock.now().as_unix();
    ill.hear(&met, now);
    // OpenTrace's iOS app shows its first id for half a day; and a millisecond past the end is past it
    for late in [json!(now + 43_200), json!((now + 840) * 1_000 + 1), json!(now - 61)] {
        let mut record = ill.records[0].clone();
        record["timestamp"] = late;
        ill.records.push(record);
    }
    ill.records.remove(0);
    let token = ill.upload_token(&site, &code(&site).await).await;
    let answer = ill.upload(&site, &token).await.expect(200);
    assert_eq!(answer["verdicts"]["expired_id"], 3, "{answer}");
    assert_eq!(answer["summary"], json!({"records": 3, "resolved": 3, "unknown": 0, "invalid": 0}), "{answer}");
    assert!(met.notices(&site).await.is_empty());
}

#[tokio::test]
async fn a_record_is_judged_by_its_own_moment_whatever_its_neighbours_and_their_order() {
    let site = Site::sealed().await;
    let mut met = App::of(&site, BOB).await;
    met.fetch_ids(&site).await;
    let now = site.clock.now().as_unix();
    // of a key that began to seal just now: heard right, by a slow clock, and by one that is too slow
    for (offsets, [valid, expired, failed]) in [
        (&[0_i64][..], [1, 0, 0]),
        (&[-120], [0, 1, 0]),
        (&[-7_200], [0, 0, 1]),
        (&[-7_200, 0], [1, 0, 1]),
        (&[0, -7_200], [1, 0, 1]),
        (&[-7_200, -120, 0, -7_201], [1, 1, 2]),
    ] {
        let mut ill = App::of(&site, ALICE).await;
        for offset in offsets {
            ill.hear(&met, now);
            ill.records.last_mut().unwrap()["timestamp"] = json!(now + offset);
        }
        let token = ill.upload_token(&site, &code(&site).await).await;
        let answer = ill.upload(&site, &token).await.expect(200);
        let verdicts = ["valid", "expired_id", "failed_decryption"].map(|verdict| answer["verdicts"][verdict].clone());
        assert_eq!(verdicts, [json!(valid), json!(expired), json!(failed)], "{offsets:?}: {answer}");
        let summary = json!({"records": offsets.len(), "resolved": valid + expired, "unknown": failed, "invalid": 0});
        assert_eq!(answer["summary"], summary, "{offsets:?}");
    }
}

#[tokio::test]
async fn ids_have_the_windows_of_the_reference_whatever_their_scheme() {
    for site in [Site::sealed().await, Site::start().await] {
        let mut app = App::of(&site, ALICE).await;
        app.fetch_ids(&site).await;
        let now = site.clock.now().as_unix();
        for (place, id) in (0..).zip(&app.ids) {
            let start = now - 60 + 900 * place;
            assert_eq!((id["startTime"].as_i64(), id["expiryTime"].as_i64()), (Some(start), Some(start + 900)));
        }
        assert_eq!(app.ids.len(), 100);
        // and those of /v1 begin now and share no second
        let native = site.post("/v1/temp-ids", &app.access_token, json!({"count": 2})).await.expect(200);
        let window =
            |place: usize| (native["tempIds"][place]["start"].clone(), native["tempIds"][place]["expiry"].clone());
        assert_eq!(window(0), (json!(now), json!(now + 899)));
        assert_eq!(window(1), (json!(now + 900), json!(now + 1_799)));
    }
}
