//! The body of an OpenTrace upload, cut into records: the same however it arrives, and nothing within a record disturbs
//! the next one.

use bluetrace_protocol::limits::{MAX_UPLOAD_JSON_KEY, MAX_UPLOAD_JSON_RECORD, MAX_UPLOAD_JSON_TOKEN};
use bluetrace_protocol::opentrace::upload_json::{Element, Envelope, UploadJson, UploadJsonError};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What came of a body: its records as texts, `None` for one that was too long; and the envelope.
type Read = (Vec<Option<String>>, Result<Envelope, UploadJsonError>);

#[test]
fn the_keys_may_stand_in_any_order_among_others_and_with_space_anywhere() {
    let records = [r#"{"msg":"a\"]}b","timestamp":1}"#, "null", "[1,[2]]", "\"x,y\""];
    let list = records.join(" ,\n");
    for body in [
        format!(r#"{{"token":"t","records":[{list}],"events":[{{"id":1}}]}}"#),
        format!(r#"{{"events":[{{"id":1}},"}}"],"records":[{list}],"token":"t"}}"#),
        format!(" {{ \"records\" :\t[ {list} ] , \"more\": {{\"records\":[1]}},\r\n\"token\" : \"t\" }} \n"),
        format!(r#"{{"more":-1.5e3,"rec\u006frds":[{list}],"tok\u0065n":"\u0074"}}"#),
    ] {
        let (read, envelope) = read(body.as_bytes(), usize::MAX);
        assert_eq!(read, records.map(|record| Some(record.to_owned())), "{body}");
        assert_eq!(envelope, Ok(Envelope { token: Some("t".to_owned()), has_records: true }), "{body}");
    }
}

#[test]
fn what_is_missing_is_told_and_what_is_empty_is_empty() {
    for (body, token, has_records) in [
        ("{}", None, false),
        (r#"{"records":[]}"#, None, true),
        (r#"{"records":[ ],"token":""}"#, Some(""), true),
        (r#"{"records":null,"token":"t"}"#, Some("t"), false),
        (r#"{"records":{"a":[]},"token":17}"#, None, false),
        (r#"{"token":null,"records":[]}"#, None, true),
        (r#"{"token":"bad \x","records":[]}"#, None, true),
    ] {
        let envelope = Envelope { token: token.map(str::to_owned), has_records };
        assert_eq!(read(body.as_bytes(), usize::MAX), (vec![], Ok(envelope)), "{body}");
    }
}

#[test]
fn what_is_no_json_object_of_this_form_is_refused() {
    for body in [
        "[]",
        "null",
        "x{}",
        "{}x",
        "{}{}",
        "{\"a\"}",
        "{a:1}",
        "{\"a\":1 \"b\":2}x",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":1]",
        "{\"records\":[1}",
        "{\"records\":[1:2]}",
        "{\"records\":[] x}",
        "{\"records\":[][]}",
        "{\"a\":1:2}",
    ] {
        assert_eq!(read(body.as_bytes(), usize::MAX).1, Err(UploadJsonError::Broken), "{body}");
    }
    for body in
        ["{\"records\":[],\"records\":[]}", "{\"token\":\"a\",\"token\":\"a\"}", "{\"records\":1,\"records\":[]}"]
    {
        assert_eq!(read(body.as_bytes(), usize::MAX).1, Err(UploadJsonError::Twice), "{body}");
    }
}

#[test]
fn a_record_ends_where_its_object_does_and_at_no_bracket_within_a_text() {
    let long = format!(r#"{{"msg":"{}}}"}}"#, "x".repeat(700));
    let records = [
        "{}",
        r#"{"a":"}"}"#,
        r#"{"a":"},{","b":1}"#,
        r#"{"a":"\\"}"#,
        r#"{"a":"\"}"}"#,
        r#"{"a":"\\\"}","b":"\\\\"}"#,
        r#"{"a":"\u003d"}"#,
        r#"{"a":{"b":"}"},"c":[{}]}"#,
        r#"{"a":[1,"]"]}"#,
        &long,
        "1",
    ];
    let body = format!("{{\"records\":[{}]}}", records.join(","));
    for step in [1, 3, usize::MAX] {
        assert_eq!(
            read(body.as_bytes(), step).0,
            records.map(|record| Some(record.to_owned())),
            "{step} bytes at a time"
        );
    }
}

#[test]
fn every_strict_prefix_of_a_body_has_no_end() {
    let body = r#"{"records":[{"msg":"\\"},null],"events":[{}],"token":"t"}"#;
    for length in 0..body.len() {
        assert_eq!(read(&body.as_bytes()[..length], usize::MAX).1, Err(UploadJsonError::Cut), "{length}");
    }
}

#[test]
fn the_longest_record_is_taken_and_one_past_it_is_one_record_that_is_too_long() {
    let record = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let fits = record(MAX_UPLOAD_JSON_RECORD);
    let body = format!("{{\"records\":[1,{fits}, {},{},2]}}", record(MAX_UPLOAD_JSON_RECORD + 1), record(1 << 20));
    let expected = vec![Some("1".to_owned()), Some(fits), None, None, Some("2".to_owned())];
    for step in [1_000, 4_096, usize::MAX] {
        assert_eq!(read(body.as_bytes(), step).0, expected, "{step} bytes at a time");
    }
}

#[test]
fn a_token_and_a_key_of_the_greatest_length_are_taken_and_those_one_past_it_are_not() {
    let (key, token) = (MAX_UPLOAD_JSON_KEY - 2, MAX_UPLOAD_JSON_TOKEN - 2);
    for (more, expected) in [(0, Some("t".repeat(token))), (1, None)] {
        let body = format!("{{\"{}\":1,\"token\":\"{}\"}}", "k".repeat(key + more), "t".repeat(token + more));
        assert_eq!(read(body.as_bytes(), usize::MAX).1.unwrap().token, expected);
    }
    // a key of another name may be as long as it likes, and one of ours cannot hide behind escapes
    let space = " ".repeat(100_000);
    let spaced = format!("{{{space}\"records\"{space}:{space}[{space}7{space},{space}8{space}]{space}}}");
    for step in [7, 4_096, usize::MAX] {
        assert_eq!(read(spaced.as_bytes(), step).0, [Some("7".to_owned()), Some("8".to_owned())], "{step}");
    }
}

#[test]
fn nothing_of_a_body_is_shown() {
    let mut body = UploadJson::default();
    body.take(b"{\"token\":\"secret\",\"records\":[\"sec", |_| {}).unwrap();
    let shown = format!("{body:?} {:?}", Element::Bytes(b"secret"));
    assert!(!shown.contains("sec") && !shown.contains("115"), "{shown}");
}

proptest! {
    #[test]
    fn a_body_is_the_same_records_however_it_is_cut(bytes in almost_json(), step in 1_usize..40) {
        let whole = read(&bytes, usize::MAX);
        prop_assert_eq!(read(&bytes, step), whole);
    }

    #[test]
    fn the_records_of_a_body_are_its_records(records in prop::collection::vec(value(), 0..6), token in ".{0,20}", step in 1_usize..40) {
        let body = json!({"events": records, "records": records, "token": token}).to_string();
        let (read, envelope) = read(body.as_bytes(), step);
        let read: Vec<Value> = read.iter().map(|record| serde_json::from_str(record.as_ref().unwrap()).unwrap()).collect();
        prop_assert_eq!(read, records);
        prop_assert_eq!(envelope, Ok(Envelope { token: Some(token), has_records: true }));
    }
}

/// What comes of a body that arrives so many bytes at a time.
fn read(body: &[u8], step: usize) -> Read {
    let (mut json, mut records) = (UploadJson::default(), Vec::new());
    for bytes in body.chunks(step.min(body.len().max(1))) {
        let taken = json.take(bytes, |element| {
            records.push(match element {
                Element::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                Element::TooLong => None,
            });
        });
        if let Err(error) = taken {
            return (records, Err(error));
        }
    }
    (records, json.end())
}

/// JSON with some bytes changed: mostly of the form, sometimes not.
fn almost_json() -> impl Strategy<Value = Vec<u8>> {
    let body =
        (prop::collection::vec(value(), 0..4), ".{0,9}", any::<bool>()).prop_map(|(records, token, is_first)| {
            let (records, token) = (Value::from(records), Value::from(token));
            if is_first {
                format!("{{ \"token\" : {token}, \"records\": {records} ,\"events\":[]}}").into_bytes()
            } else {
                format!("{{\"events\":{records},\"records\":{records:#},\"token\":{token}}}\n").into_bytes()
            }
        });
    let changes =
        prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"{}[],:\"\\ x\x00\xff"[..])), 0..3);
    (body, changes).prop_map(|(mut body, changes)| {
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
        body
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        r#"[\\"{}\[\],:u/]{0,12}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(r#"[a-z"\\:]{0,6}"#, inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
}
