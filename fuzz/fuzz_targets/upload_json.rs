//! Any bytes as the body of an OpenTrace upload; the first says how it is cut. However that is, the same records come out; and what
//! is JSON is read as JSON is.
#![no_main]

use bluetrace_protocol::limits::{MAX_UPLOAD_JSON_RECORD, MAX_UPLOAD_JSON_TOKEN};
use bluetrace_protocol::opentrace::upload_json::{Element, Envelope, UploadJson, UploadJsonError};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fn read(body: &[u8], step: usize) -> (Vec<Option<Vec<u8>>>, Result<Envelope, UploadJsonError>) {
    let (mut json, mut records) = (UploadJson::default(), Vec::new());
    for bytes in body.chunks(step) {
        let each = |element: Element<'_>| {
            records.push(match element {
                Element::Bytes(bytes) => Some(bytes.to_vec()),
                Element::TooLong => None,
            });
        };
        if let Err(error) = json.take(bytes, each) {
            return (records, Err(error));
        }
    }
    (records, json.end())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((step, body)) = bytes.split_first() else { return };
    let whole = read(body, body.len().max(1));
    assert_eq!(whole, read(body, usize::from(*step).max(1)));
    let (records, end) = whole;
    assert!(records.iter().flatten().all(|record| record.len() <= MAX_UPLOAD_JSON_RECORD));
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(body) else { return };
    let Ok(envelope) = end else {
        assert_eq!(end, Err(UploadJsonError::Twice));
        return;
    };
    let expected = object.get("records").and_then(Value::as_array);
    assert_eq!(envelope.has_records, expected.is_some());
    let read: Vec<Option<Value>> =
        records.iter().map(|record| record.as_ref().map(|json| serde_json::from_slice(json).unwrap())).collect();
    for (read, expected) in read.iter().zip(expected.into_iter().flatten()) {
        assert!(read.as_ref().is_none_or(|read| read == expected));
    }
    assert_eq!(read.len(), expected.map_or(0, Vec::len));
    let token = object.get("token").and_then(Value::as_str).filter(|token| token.len() * 6 < MAX_UPLOAD_JSON_TOKEN);
    assert!(token.is_none() || envelope.token.as_deref() == token);
});
