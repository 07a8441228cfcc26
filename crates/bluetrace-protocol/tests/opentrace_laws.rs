//! Verdicts on records of `OpenTrace` uploads: the reference's in its mode, and better ones in ours.
#![expect(clippy::unwrap_used, reason = "a test may give up")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::cell::Cell;

use bluetrace_protocol::opentrace::date::{UtcOffset, format_timestamp};
use bluetrace_protocol::opentrace::reference::judge_as_reference;
use bluetrace_protocol::opentrace::{Finding, Verdict, judge};
use bluetrace_protocol::{Opened, SealedTempId, SealingKey, Timestamp, Uid};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{key, text, vectors};

#[test]
fn the_reference_s_verdicts_are_reproduced_field_for_field() {
    let vectors = vectors();
    for vector in vectors["negative"].as_array().unwrap() {
        let id = text(&vector["id"]);
        let keys = keys(&vectors, vector["keys_enabled_in_try_order"].as_array().unwrap());
        let mut record = object(&vector["record"]);
        let verdict = judge_as_reference(&mut record, UtcOffset::default(), |temp_id, _| open(&keys, temp_id));
        let mut expected = object(&vector["record"]);
        expected.extend(object(&vector["fields_added_or_changed"]));
        assert_eq!(Value::Object(record), Value::Object(expected), "{id}");
        let expected = &vector["expected"];
        assert_eq!(verdict.finding.is_valid(), expected["isValid"].as_bool().unwrap(), "{id}");
        if let Some(opened) = verdict.finding.opened() {
            assert_eq!(opened.uid.reveal(), text(&expected["contactId"]), "{id}");
            assert_eq!(i64::from(opened.start), expected["contactIdValidFrom"].as_i64().unwrap(), "{id}");
            assert_eq!(i64::from(opened.expiry), expected["contactIdValidTo"].as_i64().unwrap(), "{id}");
        }
        if let Some(timestamp) = expected["timestamp"].as_f64() {
            assert_eq!(verdict.timestamp, Some(timestamp), "{id}");
        }
    }
}

#[test]
fn the_uploads_of_the_reference_are_reproduced_field_for_field() {
    let vectors = vectors();
    let (whole, small) = (&vectors["upload"], vectors["upload_small"].as_array().unwrap());
    let keys = keys(&vectors, &[json!("K1"), json!("K2"), json!("K3")]);
    let mut judged = 0;
    for upload in std::iter::once(whole).chain(small) {
        let body: Value = serde_json::from_str(text(&upload["body"])).unwrap();
        let Some(expected) = upload["forwarded"]["records"].as_array() else { continue };
        let records = body["records"].as_array().unwrap();
        assert_eq!(records.len(), expected.len());
        for (record, expected) in records.iter().zip(expected) {
            let mut record = object(record);
            judge_as_reference(&mut record, UtcOffset::default(), |temp_id, _| open(&keys, temp_id));
            assert_eq!(&Value::Object(record), expected);
            judged += 1;
        }
    }
    assert_eq!(judged, 25);
}

#[test]
fn the_reference_s_dates_are_reproduced() {
    for vector in vectors()["format_timestamp"].as_array().unwrap() {
        let offset = &vector["utcOffset"];
        let offset = offset.as_f64().map_or_else(|| UtcOffset::parse(text(offset)), UtcOffset::from_number).unwrap();
        assert_eq!(format_timestamp(vector["t"].as_f64().unwrap(), offset), text(&vector["text"]), "{vector}");
    }
}

#[test]
fn fields_that_an_uploader_has_set_are_kept_as_the_reference_keeps_them() {
    let judged = |fields: Value| {
        let mut record = object(&fields);
        judge_as_reference(&mut record, UtcOffset::default(), |_, _| None);
        record
    };
    let with_reason = judged(json!({ "msg": "x", "timestamp": 1, "invalidReason": "made up" }));
    assert_eq!(with_reason["invalidReason"], "made up");
    assert!(!with_reason.contains_key("contactId"), "the reference loses the contact");
    let empty_reason = judged(json!({ "msg": "x", "timestamp": 1, "invalidReason": "" }));
    assert_eq!(
        (&empty_reason["invalidReason"], &empty_reason["contactId"]),
        (&json!("failed_decryption"), &json!("x"))
    );
    let is_valid = judged(json!({ "msg": 17, "timestamp": 1, "isValid": true }));
    assert_eq!((&is_valid["isValid"], &is_valid["contactId"]), (&json!(false), &json!(17)));
    for falsy in [json!(0), json!(false), json!(null), json!("")] {
        assert_eq!(judged(json!({ "msg": falsy }))["invalidReason"], "no_msg");
    }
}

#[test]
fn timestamps_are_compared_as_javascript_compares_them() {
    for (timestamp, seconds) in [
        (json!(null), Some(0.0)),
        (json!(true), Some(1.0)),
        (json!(""), Some(0.0)),
        (json!(" \u{feff}1586390790\n"), Some(1_586_390_790.0)),
        (json!("1586390790001"), Some(1_586_390_790.001)),
        (json!("0x10"), Some(16.0)),
        (json!("0b11"), Some(3.0)),
        (json!("1e3"), Some(1_000.0)),
        (json!("-Infinity"), Some(f64::NEG_INFINITY)),
        (json!([]), Some(0.0)),
        (json!([5]), Some(5.0)),
        (json!(["5"]), Some(5.0)),
        (json!([null]), Some(0.0)),
        (json!([true]), None),
        (json!([1, 2]), None),
        (json!({}), None),
        (json!("inf"), None),
        (json!("NaN"), None),
        (json!("0x"), None),
        (json!("-0x10"), None),
        (json!("1_000"), None),
    ] {
        let mut record = object(&json!({ "timestamp": timestamp }));
        let verdict = judge_as_reference(&mut record, UtcOffset::default(), |_, _| None);
        assert_eq!(verdict.timestamp, seconds, "{timestamp}");
        let is_date = seconds.is_some_and(f64::is_finite);
        assert_eq!(record["timestampString"] != "Invalid date", is_date, "{timestamp}");
    }
}

#[test]
fn a_strict_verdict_goes_by_what_the_reference_s_vectors_say_a_better_server_does() {
    let vectors = vectors();
    let mut stricter = 0;
    for vector in vectors["negative"].as_array().unwrap() {
        let id = text(&vector["id"]);
        let keys = keys(&vectors, vector["keys_enabled_in_try_order"].as_array().unwrap());
        let verdict = judge(&vector["record"].to_string(), None, |temp_id, _| open(&keys, temp_id));
        let reason = verdict.finding.invalid_reason();
        let of_reference = (vector["expected"]["isValid"] == true, vector["expected"]["invalidReason"].as_str());
        let expected = match vector["stricter_server"].as_str() {
            Some(advice) if advice.contains("schema") => Some("malformed"),
            Some(advice) if advice.starts_with("no_msg") => Some("no_msg"),
            Some(advice) if advice.starts_with("reject") => Some("failed_decryption"),
            // of fields that should not be there: they are not looked at
            Some(_) if of_reference.0 => None,
            None | Some(_) => of_reference.1,
        };
        assert_eq!(reason, expected, "{id} {}", vector["what"]);
        stricter += u32::from(reason != of_reference.1);
    }
    assert!(stricter >= 10, "{stricter}");
}

#[test]
fn what_is_no_record_is_malformed() {
    let id = valid_id();
    for record in [
        String::new(),
        "null".to_owned(),
        "7".to_owned(),
        "[]".to_owned(),
        format!(r#"["{id}",1586390790,-60]"#),
        format!(r#"{{"msg":"{id}"}}"#),
        format!(r#"{{"msg":"{id}","timestamp":null}}"#),
        format!(r#"{{"msg":"{id}","timestamp":"1586390790"}}"#),
        format!(r#"{{"msg":"{id}","timestamp":1586390790.5}}"#),
        format!(r#"{{"msg":"{id}","timestamp":1e999}}"#),
        format!(r#"{{"msg":"{id}","timestamp":1586390790,"rssi":"near"}}"#),
        format!(r#"{{"msg":"{id}","timestamp":1586390790,"rssi":40000}}"#),
        format!(r#"{{"msg":"{id}","timestamp":1586390790,"msg":"{id}"}}"#),
        format!(r#"{{"msg":["{id}"],"timestamp":1586390790}}"#),
        r#"{"msg":"\ud800","timestamp":1586390790}"#.to_owned(),
        r#"{"msg":17,"timestamp":1586390790}"#.to_owned(),
        format!(r#"{{"msg":"{id}","timestamp":1586390790}} and more"#),
    ] {
        let verdict = judge(&record, None, |_, _| panic!("nothing to open"));
        assert_eq!(verdict.finding, Finding::Malformed, "{}", &record[..record.len().min(200)]);
    }
}

#[test]
fn a_field_that_nobody_asks_for_does_no_harm_however_deep_it_is() {
    let deep = format!(
        r#"{{"x":{}{},"msg":"{}","timestamp":1586390790}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000),
        valid_id()
    );
    assert!(strict(&deep, None).finding.is_valid());
}

#[test]
fn a_strict_verdict_tells_how_far_from_its_window_an_expired_id_was_heard() {
    for (timestamp, distance) in [
        ("1586390339", Some(-1.0)),
        ("1586390340", None),
        ("1586391240", None),
        ("1586391241", Some(1.0)),
        ("1586434440", Some(43_200.0)),
        ("1586391240000", None),
        ("1586391240001", Some(0.001)),
        ("-5", Some(-1_586_390_345.0)),
    ] {
        let verdict = strict(&format!(r#"{{"msg":"{}","timestamp":{timestamp},"rssi":-60.9}}"#, valid_id()), None);
        match (verdict.finding, distance) {
            (Finding::Valid(_), None) => {}
            (Finding::Expired { opened, distance_s }, Some(distance)) => {
                assert!((distance_s - distance).abs() < 1e-6, "{timestamp}: {distance_s}");
                assert_eq!(opened.uid.reveal(), "ABCDEFGHIJKLMNOPQRSTUVWXYZab");
            }
            (finding, _) => panic!("{timestamp}: {finding:?}"),
        }
        assert_eq!(verdict.rssi, Some(-60));
    }
}

#[test]
fn keys_are_chosen_by_the_second_of_the_record() {
    let asked = Cell::new(None);
    let at = |timestamp: &str| {
        let record = format!(r#"{{"msg":"{}","timestamp":{timestamp}}}"#, valid_id());
        let verdict = judge(&record, None, |_, second| {
            asked.set(second);
            None
        });
        (asked.take(), verdict.moment().map(Timestamp::as_unix))
    };
    assert_eq!(at("1586390790999"), (Some(1_586_390_790), Some(1_586_390_790)));
    assert_eq!(at("1586390790"), (Some(1_586_390_790), Some(1_586_390_790)));
    assert_eq!(at("-1"), (Some(-1), None));
    let mut record = object(&json!({ "msg": valid_id() }));
    judge_as_reference(&mut record, UtcOffset::default(), |_, second| {
        assert_eq!(second, None, "any key may have sealed what has no time");
        None
    });
}

#[test]
fn the_uploader_s_own_id_is_no_contact_and_one_contact_uploaded_twice_is_one() {
    let own = Uid::parse("ABCDEFGHIJKLMNOPQRSTUVWXYZab").unwrap();
    let record = |msg: &str, timestamp: &str, rssi: &str| {
        format!(r#"{{"msg":"{msg}","timestamp":{timestamp},"rssi":{rssi},"contactId":"VICTIM"}}"#)
    };
    let id = valid_id();
    let first = strict(&record(&id, "1586390790", "-60"), None);
    assert!(first.finding.is_valid());
    assert_eq!(strict(&record(&id, "1586390790", "-60"), Some(&own)).finding.invalid_reason(), Some("own_id"));
    let escaped: Vec<String> = id.bytes().map(|byte| format!("\\u{byte:04X}")).collect();
    for same in [
        record(&id.replace('/', "\\/").replace('=', "\\u003d"), "1586390790000", "-60.0"),
        record(&id.replacen('=', "\\u003D", 1), "1586390790", "-60"),
        record(&escaped.concat(), "1586390790", "-60"),
    ] {
        assert_eq!(strict(&same, None).duplicate_key(), first.duplicate_key(), "{same}");
    }
    for other in
        [record(&id, "1586390790001", "-60"), record(&id, "1586390790", "-61"), record(&id, "1586390790", "null")]
    {
        assert_ne!(strict(&other, None).duplicate_key(), first.duplicate_key(), "{other}");
    }
    assert_eq!(strict(&record("", "1586390790", "-60"), None).duplicate_key(), None);
}

proptest! {
    #[test]
    fn the_two_modes_agree_on_what_a_phone_uploads(
        uid: [u8; 21], start in 1_500_000_000..2_100_000_000, length in 0..90_000, from_start in -90_000_i64..180_000,
        in_milliseconds: bool, is_ours: bool,
    ) {
        let key = SealingKey::new(&[1; 32]);
        let msg = key.seal(&Uid::from_bytes(uid), start, start + length, [2; 16]).reveal();
        let timestamp = (i64::from(start) + from_start) * if in_milliseconds { 1_000 } else { 1 };
        let record = json!({ "msg": msg, "timestamp": timestamp, "rssi": -60 });
        let open = |temp_id: &SealedTempId, _| key.open(temp_id).ok().filter(|_| is_ours);
        let strict = judge(&record.to_string(), None, open);
        let as_reference = judge_as_reference(&mut object(&record), UtcOffset::default(), open);
        prop_assert_eq!(strict.finding, as_reference.finding);
        prop_assert_eq!(strict.timestamp, as_reference.timestamp);
        prop_assert_eq!(strict.finding.is_valid(), is_ours && (0..=i64::from(length)).contains(&from_start));
    }

    #[test]
    fn no_text_ends_a_verdict(record in r#"[\{\}\[\]",:a-z0-9.\-]{0,60}"#) {
        let _: Verdict = strict(&record, None);
    }
}

fn strict(record: &str, uploader: Option<&Uid>) -> Verdict {
    let vectors = vectors();
    let keys = keys(&vectors, &[json!("K1")]);
    judge(record, uploader, |temp_id, _| open(&keys, temp_id))
}

fn valid_id() -> String {
    text(&vectors()["tempid"][0]["tempid"]).to_owned()
}

fn keys(vectors: &Value, names: &[Value]) -> Vec<SealingKey> {
    names.iter().map(|name| key(vectors, text(name))).collect()
}

fn open(keys: &[SealingKey], temp_id: &SealedTempId) -> Option<Opened> {
    keys.iter().find_map(|key| key.open(temp_id).ok())
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}
