//! Any bytes as a call of an OpenTrace app: a call is one object with `data` alone, and its argument is plain: sent again it is the
//! same.
#![no_main]

use bluetrace_protocol::opentrace::callable::{CallError, in_words, read_call};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

fuzz_target!(|bytes: &[u8]| {
    let read = read_call(bytes);
    let fields = serde_json::from_slice::<Map<String, Value>>(bytes);
    let is_call = fields.is_ok_and(|fields| fields.len() == 1 && fields.contains_key("data"));
    assert_eq!(is_call, read != Err(CallError::NoCall));
    if let Ok(data) = read {
        let again = read_call(json!({ "data": data }).to_string().as_bytes()).unwrap();
        assert_eq!(in_words(&again).is_empty(), in_words(&data).is_empty());
        if let Value::String(text) = &data {
            assert_eq!((&in_words(&data), &again), (text, &data));
        }
    }
});
