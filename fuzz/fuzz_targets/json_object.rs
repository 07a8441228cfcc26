//! Any text as a JSON object: its fields are those that `serde_json` finds, and what it refuses is refused.
#![no_main]

use std::fmt;

use bluetrace_protocol::json::{each_field, text};
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

type Fields<'a> = Vec<(String, &'a str)>;

struct AllFields;

impl<'de> Visitor<'de> for AllFields {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            fields.push((name, value.get()));
        }
        Ok(fields)
    }
}

fn fields_by_serde(object: &str) -> Option<Fields<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(object);
    let fields = deserializer.deserialize_map(AllFields).ok()?;
    deserializer.end().ok().map(|()| fields)
}

fuzz_target!(|object: &str| {
    let mut fields = Fields::new();
    let walk = each_field(object, |name, value| {
        let name = String::from_utf8(name.to_vec()).unwrap();
        fields.push((name, str::from_utf8(value).unwrap()));
        Some(())
    });
    assert_eq!(walk.map(|()| &fields), fields_by_serde(object).as_ref());
    for (_, json) in walk.map(|()| fields).into_iter().flatten() {
        let expected = serde_json::from_str::<String>(json).ok();
        for mut room in [vec![], vec![0; 8], vec![0; json.len()]] {
            assert_eq!(text(json.as_bytes(), &mut room).as_deref(), expected.as_ref().map(String::as_bytes));
        }
    }
});
