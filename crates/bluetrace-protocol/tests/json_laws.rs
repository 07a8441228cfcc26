//! Objects are walked through as `serde_json` walks through them: of every text, valid or not.
#![expect(clippy::unwrap_used, reason = "a test may give up")]

use std::borrow::Cow;
use std::fmt;

use bluetrace_protocol::SealedTempId;
use bluetrace_protocol::json::{each_field, text};
use bluetrace_protocol::opentrace::{Finding, judge};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

/// A record as Android's app uploads it, one as iOS's app does, and one that holds whatever JSON has.
const RECORDS: [&str; 3] = [
    r#"{"id":1,"modelC":"Pixel 4","modelP":"iPhone 11","msg":"Le1M0bIrCOOpvASEyyVHM2P7mB7bBuAH0H2nuASTaNVGzTvyNvWP+V7BDBJJVSsqfiOBKNy1E8k5q0zFEg\u003d\u003d","org":"OT_HA","rssi":-62,"timestamp":1586390790,"txPower":7,"v":2}"#,
    r#"{"timestamp":1586390790123,"msg":"Le1M0bIrCOOpvASEyyVHM2P7mB7bBuAH0H2nuASTaNVGzTvyNvWP\/V7BDBJJVSsqfiOBKNy1E8k5q0zFEg==","modelC":null,"modelP":"iPhone 11","rssi":-62.5,"txPower":null,"org":"OT_HA","v":2}"#,
    "\t{ \"rssi\" : -0.0e-1 ,\r\n\"ms\\u0067\":\"\\uD83D\\uDE00 \\\"\\\\\u{e9}\u{1f600}\", \"x\" : [ {} , [1E+5, true,false,null, {\"y\" : \"\\ud800\"}] ], \"timestamp\": -0 } ",
];

#[test]
fn what_json_says_of_strings_numbers_and_space_holds() {
    for (object, is_object) in [
        ("{}", true),
        (" {\n} \t", true),
        (r#"{"":""}"#, true),
        (r#"{"a":1}"#, true),
        (r#"{"a":-0,"a":0.0,"a":-1e5,"a":1E-05,"a":12.5e+0,"a":1e999}"#, true),
        (r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00"}"#, true),
        (r#"{"a":"\ud800","x":["\ud800"]}"#, true), // said by nobody who asks
        ("{\"a\":\"\u{7f}\u{80}\"}", true),
        (r#"{"\ud800":1}"#, false),
        ("", false),
        ("{", false),
        ("[]", false),
        ("null", false),
        (r#"{"a"}"#, false),
        (r#"{"a":}"#, false),
        (r#"{"a":1,}"#, false),
        (r#"{,"a":1}"#, false),
        (r#"{"a":1 "b":2}"#, false),
        (r"{a:1}", false),
        (r#"{"a":1}}"#, false),
        (r#"{"a":1}{"#, false),
        (r#"{"a":01}"#, false),
        (r#"{"a":+1}"#, false),
        (r#"{"a":-}"#, false),
        (r#"{"a":.5}"#, false),
        (r#"{"a":5.}"#, false),
        (r#"{"a":5e}"#, false),
        (r#"{"a":5e+}"#, false),
        (r#"{"a":NaN}"#, false),
        (r#"{"a":nul}"#, false),
        (r#"{"a":truely}"#, false),
        (r#"{"a":"\x"}"#, false),
        (r#"{"a":"\u12g4"}"#, false),
        (r#"{"a":"\u123"}"#, false),
        ("{\"a\":\"\n\"}", false),
        ("{\"a\":\"\u{0}\"}", false),
        ("{\u{b}}", false),
        ("{\u{a0}}", false),
        ("\u{feff}{}", false),
        (r#"{"a":[1}}"#, false),
        (r#"{"a":[1,]}"#, false),
    ] {
        assert_eq!(fields(object).is_some(), is_object, "{object}");
        assert_eq!(fields(object), fields_by_serde(object), "{object}");
    }
    // the places where a string is read eight bytes at a time
    for length in 0..40 {
        for stop in ["\"", "\\n", "\u{1f}", " ", "!", "\u{e9}", "\u{1f600}", "\u{7f}"] {
            let object = format!(r#"{{"{0}{stop}{0}":"{0}{stop}"}}"#, "#".repeat(length));
            assert_eq!(fields(&object), fields_by_serde(&object), "{object}");
        }
    }
}

#[test]
fn every_escape_is_read_or_refused_as_serde_json_does() {
    for character in '\0'..='\u{80}' {
        let string = format!(r#""=\{character}003d \{character}{character}""#);
        for object in [format!(r#"{{"a":{string}}}"#), format!(r"{{{string}:1}}")] {
            assert_eq!(fields(&object), fields_by_serde(&object), "{object}");
        }
        let said = text(string.as_bytes(), &mut [0; 20]).map(Cow::into_owned);
        let expected = serde_json::from_str::<String>(&string).ok().map(String::into_bytes);
        assert_eq!(said, expected, "{string}");
    }
}

#[test]
fn depth_of_what_nobody_asks_for_is_not_limited() {
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(fields(&deep).is_some_and(|fields| fields.len() == 1));
    assert!(fields(&deep.replacen("]}", "}", 1)).is_none());
}

#[test]
fn a_walk_ends_as_soon_as_there_is_enough() {
    let mut seen = 0;
    let walk = each_field(r#"{"a":1,"b":2,"c":no JSON"#, |_, _| {
        seen += 1;
        (seen < 2).then_some(())
    });
    assert_eq!((walk, seen), (None, 2));
}

#[test]
fn a_text_is_the_same_however_much_room_there_is() {
    for json in
        [r#""""#, r#""plain""#, r#""\/=\u003d""#, r#""a\u003db\u003Dc\n""#, r#""\\u003d\\/""#, r#""\ud800""#, "17"]
    {
        let expected = serde_json::from_str::<String>(json).ok();
        for room in 0..20 {
            let mut room = vec![0; room];
            let text = text(json.as_bytes(), &mut room).map(Cow::into_owned);
            assert_eq!(text.map(|text| String::from_utf8(text).unwrap()), expected, "{json}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn objects_are_read_as_serde_json_reads_them(object in object()) {
        prop_assert!(fields(&object).is_some());
        prop_assert_eq!(fields(&object), fields_by_serde(&object));
    }

    #[test]
    fn what_is_no_object_any_more_is_refused_as_serde_json_refuses_it(
        object in prop_oneof![object(), select(RECORDS.as_slice()).prop_map(str::to_owned)],
        changes in prop::collection::vec((any::<Index>(), 0..3_usize, select(PIECES)), 1..4),
    ) {
        let changed = changed(&object, &changes);
        prop_assert_eq!(fields(&changed), fields_by_serde(&changed), "{}", changed);
    }

    #[test]
    fn records_are_judged_by_what_serde_json_reads_in_them(
        record in select(RECORDS.as_slice()),
        changes in prop::collection::vec((any::<Index>(), 0..3_usize, select(PIECES)), 0..4),
    ) {
        let record = changed(record, &changes);
        let verdict = judge(&record, None, |_, _| None);
        let Some((message, timestamp, rssi)) = record_by_serde(&record) else {
            prop_assert_eq!(verdict.finding, Finding::Malformed, "{}", record);
            return Ok(());
        };
        let is_given = message.as_deref().is_some_and(|text| !["", "not_found", "Missing TempID"].contains(&text));
        let expected = if is_given { Finding::FailedDecryption } else { Finding::NoMessage };
        prop_assert_eq!(verdict.finding, expected, "{}", record);
        prop_assert_eq!((verdict.timestamp, verdict.rssi), (Some(timestamp), rssi), "{}", record);
        prop_assert_eq!(verdict.temp_id, message.and_then(|text| SealedTempId::parse(&text).ok()), "{}", record);
    }
}

type Fields = Vec<(String, String)>;

fn fields(object: &str) -> Option<Fields> {
    let mut fields = Fields::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    each_field(object, |name, value| {
        fields.push((text(name), text(value)));
        Some(())
    })?;
    Some(fields)
}

fn fields_by_serde(object: &str) -> Option<Fields> {
    struct AllFields;
    impl<'de> Visitor<'de> for AllFields {
        type Value = Fields;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
            let mut fields = Fields::new();
            while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                fields.push((name, value.get().to_owned()));
            }
            Ok(fields)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(object);
    let fields = deserializer.deserialize_map(AllFields).ok()?;
    deserializer.end().ok().map(|()| fields)
}

/// What a record says to who derives its reader: message, seconds, dBm.
fn record_by_serde(record: &str) -> Option<(Option<String>, f64, Option<i16>)> {
    #[derive(Deserialize)]
    struct Record {
        #[serde(default)]
        msg: Option<String>,
        timestamp: Number,
        #[serde(default)]
        rssi: Option<f64>,
    }
    // of an array serde would take the fields in their order
    let is_object = record.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{');
    let Record { msg, timestamp, rssi } = serde_json::from_str(record).ok().filter(|_| is_object)?;
    let timestamp = timestamp.as_f64().filter(|_| timestamp.is_i64() || timestamp.is_u64())?;
    let timestamp = if timestamp > 1e10 { timestamp / 1_000.0 } else { timestamp };
    let whole = |dbm: f64| format!("{:.0}", dbm.trunc()).parse();
    Some((msg, timestamp, rssi.map(whole).transpose().ok()?))
}

/// What a change puts into a text.
const PIECES: &[&str] = &[
    "",
    " ",
    "\n",
    "\u{1f}",
    "\u{0}",
    "\"",
    "\\",
    "\\\"",
    "\\u003d",
    "\\ud83d",
    "\\u",
    "/",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "0",
    "-",
    "+",
    ".",
    "5",
    "e",
    "E",
    "999",
    "00000000000000000000",
    "null",
    "true",
    "\"msg\":",
    "\"rssi\":null,",
    "\"timestamp\":1,",
    "\u{e9}",
    "\u{1f600}",
    "a",
];

/// Puts pieces into a text, each for some characters.
fn changed(text: &str, changes: &[(Index, usize, &str)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (place, removed, piece) in changes {
        let from = place.index(characters.len() + 1);
        let to = (from + removed).min(characters.len());
        characters.splice(from..to, piece.chars());
    }
    characters.into_iter().collect()
}

/// An object as anybody may write it.
fn object() -> impl Strategy<Value = String> {
    let space = || "[ \t\n\r]{0,2}";
    let text = || {
        let piece = prop_oneof![
            4 => "[ -!#-\\[\\]-~]{0,12}",
            1 => "\\PC{0,3}".prop_map(|text| text.replace(['"', '\\'], "")),
            2 => select(&["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\u003d", "\\u00E9", "\\uD83D\\uDE00"][..])
                .prop_map(str::to_owned),
        ];
        prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
    };
    let plain = prop_oneof![
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
        text(),
        select(&["null", "true", "false"][..]).prop_map(str::to_owned),
    ];
    let value = plain.prop_recursive(3, 12, 4, move |value| {
        let spaced = (space(), value, space()).prop_map(|(before, value, after)| before + &value + &after);
        let field =
            (space(), text(), space(), spaced.clone()).prop_map(|(a, name, b, value)| a + &name + &b + ":" + &value);
        prop_oneof![
            prop::collection::vec(spaced, 1..4).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::vec(field, 1..4).prop_map(|fields| format!("{{{}}}", fields.join(","))),
        ]
    });
    let name = prop_oneof![select(&["\"msg\"", "\"timestamp\"", "\"rssi\""][..]).prop_map(str::to_owned), text()];
    let field = (space(), name, space(), space(), value, space())
        .prop_map(|(a, name, b, c, value, d)| a + &name + &b + ":" + &c + &value + &d);
    (space(), prop::collection::vec(field, 0..6), space())
        .prop_map(|(before, fields, after)| format!("{before}{{{}}}{after}", fields.join(",")))
}
