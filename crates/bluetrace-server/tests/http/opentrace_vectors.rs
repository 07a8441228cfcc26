//! The records that the reference's vectors hold, through `/upload`: the strict verdicts, and the reference's where it is asked
//! for.

use std::path::Path;

use aes_gcm::aead::consts::U16;
use aes_gcm::aes::Aes256;
use aes_gcm::{AeadInOut as _, AesGcm, KeyInit as _};
use bluetrace_authority::MasterKey;
use bluetrace_authority::keys::Purpose;
use bluetrace_authority::store::{KeyTerm, NewSealingKey, SealingKeyId, WrappedKey};
use bluetrace_protocol::opentrace::{Finding, judge};
use bluetrace_protocol::{Clock as _, Password, SealingKey, Uid, Username};
use serde_json::{Value, json};

use crate::harness::{ALICE, Site, at, text};
use crate::opentrace_app::{App, android, code, upload};

#[tokio::test]
async fn the_upload_of_the_vectors_is_judged_strictly_or_as_the_reference_does() {
    let vectors = vectors();
    for (site, verdicts, summary) in [
        // strictly, nobody meets himself, a record twice counts once, one without a time is none, and `not_found` is no id
        (Site::sealed().await, counts(&[10, 4, 4, 3, 1, 1, 0, 1]), [23, 14, 3, 6]),
        (Site::compatible().await, counts(&[13, 4, 5, 2, 0, 0, 0, 0]), [24, 17, 4, 3]),
    ] {
        let app = prepare(&site, &vectors).await;
        let whole: Value = serde_json::from_str(text(&vectors["upload"]["body"]).as_str()).unwrap();
        let token = app.upload_token(&site, &code(&site).await).await;
        let of_reference = whole["token"].as_str().unwrap();
        // its own text, but for the token
        let body = text(&vectors["upload"]["body"]).replace(&of_reference.replace('=', "\\u003d"), &token);
        assert_ne!(body, text(&vectors["upload"]["body"]));
        let answer = upload(&site, &body).await.expect(200);
        assert_eq!(answer["verdicts"], verdicts, "{answer}");
        let [records, resolved, unknown, invalid] = summary;
        let expected = json!({"records": records, "resolved": resolved, "unknown": unknown, "invalid": invalid});
        assert_eq!(answer["summary"], expected);
    }
}

#[tokio::test]
async fn each_record_that_shows_a_laxness_of_the_reference_has_the_strict_verdict_or_its() {
    let vectors = vectors();
    let key = SealingKey::from_hex(&text(&vectors["keys"]["K1"]["hex"])).unwrap();
    let (strict, compatible) = (Site::sealed().await, Site::compatible().await);
    let apps = [prepare(&strict, &vectors).await, prepare(&compatible, &vectors).await];
    for vector in vectors["negative"].as_array().unwrap() {
        let (id, record) = (&vector["id"], &vector["record"]);
        let judged = judge(&record.to_string(), None, |sealed, _| key.open(sealed).ok());
        let is_of_2020 = judged.timestamp.is_some_and(|seconds| (1_580_000_000.0..1_590_000_000.0).contains(&seconds));
        // a key seals nothing that is heard in another year, so it is not tried
        let is_tried = is_of_2020 || !matches!(judged.finding, Finding::Expired { .. });
        let expected = if is_tried { judged.finding.invalid_reason().unwrap_or("valid") } else { "failed_decryption" };
        let of_reference = match (vector["expected"]["isValid"] == true, vector["expected"]["invalidReason"].as_str()) {
            (true, _) => "valid",
            // a reason that the uploader has set, which the reference leaves there
            (false, Some("spoof")) => "failed_decryption",
            (false, reason) => reason.unwrap(),
        };
        for (site, app, expected) in [(&strict, &apps[0], expected), (&compatible, &apps[1], of_reference)] {
            let token = app.upload_token(site, &code(site).await).await;
            let answer = upload(site, &android(&token, std::slice::from_ref(record))).await.expect(200);
            let verdicts = answer["verdicts"].as_object().unwrap();
            let found: Vec<_> = verdicts.iter().filter(|(_, count)| **count != 0).collect();
            assert_eq!(found, [(&expected.to_owned(), &json!(1))], "{id}: {record}");
        }
    }
}

/// Puts the vectors' people and keys into an authority, at the vectors' time.
async fn prepare(site: &Site, vectors: &Value) -> App {
    site.clock.set_s(1_586_350_000);
    let of_uploader = vectors["upload"]["uploader_uid"].clone();
    let contacts = vectors["upload"]["contacts"].as_object().unwrap();
    let mut people = vec![(ALICE.0.to_owned(), of_uploader)];
    people.extend(contacts.iter().map(|(name, uid)| (name.clone(), uid.clone())));
    // whose the negative ones are
    people.push(("dave".to_owned(), json!("ABCDEFGHIJKLMNOPQRSTUVWXYZab")));
    for (name, uid) in people {
        let (username, password) = (Username::parse(&name).unwrap(), Password::parse("x").unwrap());
        let now = site.clock.now();
        let _is_new = site.authority.open_account(username.clone(), password, now).await.unwrap();
        let account = site.store.login_state(username, now.into()).await.unwrap().account.unwrap();
        let uid = Uid::parse(&text(&uid)).unwrap();
        assert_eq!(site.store.user_id(account.id, uid).await.unwrap(), Some(uid));
    }
    let term = KeyTerm {
        issues_from: at(1_580_000_000),
        issues_until: at(1_590_000_000),
        last_expiry: at(1_590_090_000),
        forget_at: at(1_700_000_000),
    };
    for (number, name) in (1..).zip(["K1", "K2", "K3"]) {
        let hex = text(&vectors["keys"][name]["hex"]);
        let key: Vec<u8> = (0..32).map(|byte| u8::from_str_radix(&hex[2 * byte..2 * byte + 2], 16).unwrap()).collect();
        let wrapped = wrap(key.try_into().unwrap(), number, term);
        let is_added = site.store.add_sealing_key(NewSealingKey { id: SealingKeyId(number), term, wrapped }).await;
        assert!(is_added.unwrap());
    }
    App::of(site, ALICE).await
}

/// A sealing key as the authority wraps one, under the master key of these tests.
fn wrap(mut key: [u8; 32], id: i64, term: KeyTerm) -> WrappedKey {
    let wrapping: AesGcm<Aes256, U16> =
        AesGcm::new((&*MasterKey::new([7; 32]).derive(Purpose::WrapSealingKeys)).into());
    let numbers = [id, term.issues_from.as_unix(), term.issues_until.as_unix()];
    let associated: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    let tag = wrapping.encrypt_inout_detached(&[9; 16].into(), &associated, key.as_mut_slice().into()).unwrap();
    let bytes: Vec<u8> = [9; 16].into_iter().chain(key).chain(tag).collect();
    WrappedKey(bytes.try_into().unwrap())
}

fn counts(counts: &[u32; 8]) -> Value {
    let [valid, expired_id, failed_decryption, no_msg, own_id, malformed, registry_id, duplicate] = counts;
    json!({
        "valid": valid, "expired_id": expired_id, "failed_decryption": failed_decryption, "no_msg": no_msg,
        "own_id": own_id, "malformed": malformed, "registry_id": registry_id, "duplicate": duplicate,
    })
}

fn vectors() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/opentrace.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}
