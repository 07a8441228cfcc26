//! Generators of this crate's types, for the property tests of every crate (feature `proptest`).
//!
//! Each covers the whole of its type, with the ends of a range more often than chance would have them.

use alloc::string::String;

use proptest::prelude::*;
use proptest::strategy::Strategy;

use crate::beacon::Beacon;
use crate::contact_log::ContactLogEntry;
use crate::identity::{UploadId, Username};
use crate::limits::{MAX_UPLOAD_ID, MAX_USERNAME, MAX_WINDOW_S};
use crate::record::{Record, TempId};
use crate::time::{Timestamp, Window};

/// Any moment from 1970 to 9999; most of them in the years in which this is used.
pub fn timestamps() -> impl Strategy<Value = Timestamp> {
    let (first, last) = (Timestamp::MIN.as_unix(), Timestamp::MAX.as_unix());
    prop_oneof![1 => Just(first), 1 => Just(last), 2 => first..=last, 6 => 1_500_000_000_i64..2_500_000_000]
        .prop_filter_map("within the years", Timestamp::from_unix)
}

/// Any window, from one second to a day.
pub fn windows() -> impl Strategy<Value = Window> {
    let lengths = prop_oneof![1 => Just(0), 1 => Just(MAX_WINDOW_S), 4 => Just(899_i64), 4 => 0..=MAX_WINDOW_S];
    (timestamps(), lengths)
        .prop_filter_map("start and expiry", |(start, seconds)| Window::new(start, start.plus(seconds)).ok())
}

/// A `TempID` of the registry scheme: 20 digits.
pub fn registry_temp_ids() -> impl Strategy<Value = TempId> {
    "[0-9]{20}".prop_filter_map("digits", temp_id)
}

/// A foreign `TempID`: 21 to 64 digits.
pub fn long_temp_ids() -> impl Strategy<Value = TempId> {
    "[0-9]{21,64}".prop_filter_map("digits", temp_id)
}

/// A text of the sealed scheme's form: 84 characters of base64. It holds nothing.
pub fn sealed_temp_ids() -> impl Strategy<Value = TempId> {
    "[A-Za-z0-9+/]{82}==".prop_filter_map("base64", temp_id)
}

/// Any `TempID`.
pub fn temp_ids() -> impl Strategy<Value = TempId> {
    prop_oneof![6 => registry_temp_ids().boxed(), 1 => long_temp_ids().boxed(), 3 => sealed_temp_ids().boxed()]
}

/// Any record.
pub fn records() -> impl Strategy<Value = Record> {
    (temp_ids(), windows()).prop_map(|(temp_id, window)| Record { temp_id, window })
}

/// Any beacon.
pub fn beacons() -> impl Strategy<Value = Beacon> {
    records().prop_map(|record| Beacon { record })
}

/// Any entry of a contact log. When it was received has nothing to do with its window.
pub fn contact_log_entries() -> impl Strategy<Value = ContactLogEntry> {
    (records(), timestamps()).prop_map(|(record, received)| ContactLogEntry { record, received })
}

/// Any username.
pub fn usernames() -> impl Strategy<Value = Username> {
    names(MAX_USERNAME).prop_filter_map("printable", |text| Username::parse(&text).ok())
}

/// Any upload id; half of them the text of a UUID.
pub fn upload_ids() -> impl Strategy<Value = UploadId> {
    let uuids = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
    prop_oneof![uuids.boxed(), names(MAX_UPLOAD_ID)].prop_filter_map("printable", |text| UploadId::parse(&text).ok())
}

/// 1 to `most` printable ASCII characters without spaces.
fn names(most: usize) -> BoxedStrategy<String> {
    proptest::collection::vec(b'!'..=b'~', 1..=most)
        .prop_map(|bytes| bytes.into_iter().map(char::from).collect::<String>())
        .boxed()
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `prop_filter_map` asks for")]
fn temp_id(text: String) -> Option<TempId> {
    TempId::parse(&text).ok()
}
