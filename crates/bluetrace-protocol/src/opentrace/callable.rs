//! Owns the callable protocol's values, by which apps derived from `OpenTrace` call functions: a call's bytes to its argument
//! ([`read_call`]), and a value in words ([`in_words`]).
//!
//! A call is `{"data": <value>}` and nothing else; the reference is firebase-functions 3.3.0, whose exchanges stand in
//! `vectors/opentrace.json`, `callable_http`.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Why there is no argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// The bytes are no call: the answer is `Bad Request`.
    NoCall,
    /// A value in it is wrapped in a way that is not known: the answer is `INTERNAL`, as the reference has it.
    UnknownWrapping,
}

/// The argument of a call, as JavaScript means it: numbers of 64 bits, which come wrapped, are plain.
///
/// # Errors
/// [`CallError`] says what the caller is to be told.
pub fn read_call(bytes: &[u8]) -> Result<Value, CallError> {
    let Call { data } = serde_json::from_slice(bytes).map_err(|_| CallError::NoCall)?;
    unwrapped(data).ok_or(CallError::UnknownWrapping)
}

/// A value as JavaScript puts it into a text.
pub fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(_) => "[object Object]".to_owned(),
        Value::Array(values) => {
            let words = values.iter().map(|value| if value.is_null() { String::new() } else { in_words(value) });
            words.collect::<Vec<_>>().join(",")
        }
        // JavaScript knows no other numbers
        Value::Number(number) => number_in_words(number.as_f64().unwrap_or_default()),
        Value::Null | Value::Bool(_) => value.to_string(),
    }
}

/// A number as ECMAScript's `Number::toString` writes it: no negative zero, and an exponent from 10^21 on and below 10^-6.
fn number_in_words(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    if (1e-6..1e21).contains(&number.abs()) {
        return number.to_string();
    }
    let text = alloc::format!("{number:e}");
    if number.abs() < 1.0 { text } else { text.replace('e', "e+") }
}

/// A call, as it is sent. serde would take an array for the fields in their order, and JavaScript does not.
struct Call {
    data: Value,
}

impl<'de> Deserialize<'de> for Call {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        match (fields.remove("data"), fields.is_empty()) {
            (Some(data), true) => Ok(Self { data }),
            _ => Err(serde::de::Error::custom("not a call")),
        }
    }
}

/// A value without the wrappings of numbers; `None` for a wrapping that is not known.
fn unwrapped(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            if let Some(kind) = fields.get("@type") {
                let is_number = kind.as_str().is_some_and(|kind| WRAPPED_NUMBERS.contains(&kind));
                return is_number.then(|| fields.get("value").and_then(wrapped_number))?;
            }
            let fields = fields.into_iter().map(|(name, value)| Some((name, unwrapped(value)?)));
            fields.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        Value::Array(values) => values.into_iter().map(unwrapped).collect::<Option<_>>().map(Value::Array),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => Some(plain),
    }
}

fn wrapped_number(value: &Value) -> Option<Value> {
    match value {
        Value::Number(_) => Some(value.clone()),
        Value::String(text) => {
            let text = text.trim();
            let whole = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
            whole.ok().or_else(|| text.parse::<f64>().ok().map(Value::from).filter(Value::is_number))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

const WRAPPED_NUMBERS: [&str; 2] =
    ["type.googleapis.com/google.protobuf.Int64Value", "type.googleapis.com/google.protobuf.UInt64Value"];

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use serde_json::json;

    #[test]
    fn a_call_has_its_argument_and_nothing_else() {
        assert_eq!(read_call(br#" {"data":null} "#), Ok(json!(null)));
        assert_eq!(read_call(br#"{"data":{"a":["x"]}}"#), Ok(json!({"a": ["x"]})));
        for other in ["", "null", "[]", "[1]", "{}", r#"{"data":1,"more":1}"#, r#"{"data":"#, r#"{"data":1}x"#] {
            assert_eq!(read_call(other.as_bytes()), Err(CallError::NoCall), "{other}");
        }
    }

    #[test]
    fn wrapped_numbers_are_numbers_wherever_they_stand_and_other_wrappings_are_refused() {
        let wrapped = |value: &str| json!({"@type": WRAPPED_NUMBERS[0], "value": value});
        assert_eq!(unwrapped(wrapped("-123")), Some(json!(-123)));
        assert_eq!(unwrapped(wrapped("18446744073709551615")), Some(json!(u64::MAX)));
        assert_eq!(unwrapped(json!({"a": [wrapped("1"), null]})), Some(json!({"a": [1, null]})));
        for other in [json!({"@type": "x", "value": "1"}), wrapped("one"), json!({"@type": WRAPPED_NUMBERS[0]})] {
            let call = format!("{{\"data\":[{other}]}}");
            assert_eq!(read_call(call.as_bytes()), Err(CallError::UnknownWrapping));
        }
    }

    #[test]
    fn values_are_put_into_words_as_javascript_does() {
        for (value, words) in [
            (json!("999999"), "999999"),
            (json!(123_456), "123456"),
            (json!(null), "null"),
            (json!(1.0), "1"),
            (json!(0.1), "0.1"),
            (json!(-0.0), "0"),
            (json!(1e20), "100000000000000000000"),
            (json!(1e21), "1e+21"),
            (json!(-1.5e22), "-1.5e+22"),
            (json!(0.000_001), "0.000001"),
            (json!(1e-7), "1e-7"),
            (json!(-1.25e-9), "-1.25e-9"),
            (json!(9_007_199_254_740_993_i64), "9007199254740992"),
            (json!({"a": 1}), "[object Object]"),
            (json!([1, null, "x"]), "1,,x"),
            (json!(true), "true"),
        ] {
            assert_eq!(in_words(&value), words);
        }
    }
}
