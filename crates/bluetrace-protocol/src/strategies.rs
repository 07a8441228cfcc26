//! Generators of this crate's types, for the property tests of every crate (feature `proptest`).
//!
//! Each covers the whole of its type, with the ends of a range more often than chance would have them.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use proptest::prelude::*;
use proptest::strategy::Strategy;

use crate::beacon::Beacon;
use crate::contact_log::ContactLogEntry;
use crate::identity::{HandshakePin, ResumeToken, UploadCode, UploadId, Username};
use crate::limits::{
    MAX_HANDSHAKE_PIN, MAX_REQUEST_ID, MAX_RESUME_TOKEN, MAX_TEMP_IDS, MAX_UPLOAD_CODE, MAX_UPLOAD_ID,
    MAX_UPLOAD_RECORDS, MAX_USERNAME, MAX_WINDOW_S,
};
use crate::message::{BeginUpload, Command, ErrorCode, Reply, Request, RequestId};
use crate::record::{Record, TempId};
use crate::sealed::{UID_BYTES, Uid};
use crate::time::{Timestamp, Window};
use crate::upload::{ExposureNotice, UploadSummary, Uploaded, UploadedRecord};

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

/// Any user id of a sealed `TempID`.
pub fn uids() -> impl Strategy<Value = Uid> {
    any::<[u8; UID_BYTES]>().prop_map(Uid::from_bytes)
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

/// Any resume token. It was made by nobody.
pub fn resume_tokens() -> impl Strategy<Value = ResumeToken> {
    names(MAX_RESUME_TOKEN).prop_filter_map("printable", |text| ResumeToken::parse(&text))
}

/// Any upload code, of any characters.
pub fn upload_codes() -> impl Strategy<Value = UploadCode> {
    let any = proptest::collection::vec(any::<char>(), 0..=MAX_UPLOAD_CODE / 4)
        .prop_map(|characters| characters.into_iter().collect::<String>());
    prop_oneof![any.boxed(), names(MAX_UPLOAD_CODE)].prop_filter_map("short", |text| UploadCode::parse(&text))
}

/// Any request id: numbers in every form of JSON, and strings with and without escapes.
pub fn request_ids() -> impl Strategy<Value = RequestId> {
    let numbers = prop_oneof!["0|-?[1-9][0-9]{0,40}", "-?[1-9][0-9]{0,9}\\.[0-9]{1,9}([eE][+-]?[0-9]{1,3})?"];
    let plain = names(MAX_REQUEST_ID)
        .prop_filter_map("without escapes", |text| (!text.contains(['"', '\\'])).then(|| format!("\"{text}\"")));
    let escaped = r#""(\\["\\/bfnrt]|\\u[0-9a-f]{4}|[ -!#-\[\]-~]){0,10}""#;
    prop_oneof![numbers.boxed(), plain.boxed(), escaped.boxed()]
        .prop_filter_map("JSON", |json| Request::parse(&format!(r#"{{"commandType":"NT","id":{json}}}"#)).ok()?.id)
}

/// Anything that can stand at a place of an upload.
pub fn uploaded() -> impl Strategy<Value = Uploaded> {
    let details = (proptest::option::of(timestamps()), any::<Option<i16>>(), any::<Option<u32>>());
    let record = (records(), prop_oneof![Just((None, None, None)).boxed(), details.boxed()])
        .prop_map(|(record, (received, rssi, seen))| Uploaded::Record(UploadedRecord { record, received, rssi, seen }));
    prop_oneof![1 => Just(Uploaded::Malformed), 9 => record]
}

/// Any notice. Its end may lie before its begin, and its advice may be anything.
pub fn notices() -> impl Strategy<Value = ExposureNotice> {
    (timestamps(), timestamps(), any::<String>()).prop_map(|(from, to, advice)| ExposureNotice { from, to, advice })
}

/// Any request, of every kind.
pub fn requests() -> impl Strategy<Value = Request> {
    let begin = (
        prop_oneof![Just(0), Just(MAX_UPLOAD_RECORDS), 0..=MAX_UPLOAD_RECORDS],
        proptest::option::of(upload_ids()),
        proptest::option::of(upload_codes()),
    )
        .prop_map(|(records, upload, code)| Command::BeginUpload(BeginUpload { records, upload, code }))
        .boxed();
    let command = prop_oneof![
        2 => (1..=MAX_TEMP_IDS).prop_map(|count| Command::DownloadTempIds { count }),
        2 => begin,
        4 => (counts(), uploaded()).prop_map(|(following, record)| Command::Record { following, record }).boxed(),
        1 => Just(Command::Notices),
        1 => Just(Command::ResumeToken),
        1 => Just(Command::HandshakePin),
        1 => Just(Command::Logout),
    ];
    (proptest::option::of(request_ids()), command).prop_map(|(id, command)| Request { id, command })
}

/// Any reply, of every kind.
pub fn replies() -> impl Strategy<Value = Reply> {
    let summary = (counts(), counts(), counts(), counts())
        .prop_map(|(records, resolved, unknown, invalid)| UploadSummary { records, resolved, unknown, invalid });
    let upload = (counts(), proptest::option::of(upload_ids()), proptest::option::of(summary))
        .prop_map(|(expected, upload, summary)| Reply::Upload { expected, upload, summary })
        .boxed();
    let token = (resume_tokens(), timestamps(), proptest::option::of(timestamps()))
        .prop_map(|(token, expires, now)| Reply::ResumeToken { token, expires, now })
        .boxed();
    let pin = (names(MAX_HANDSHAKE_PIN), timestamps())
        .prop_filter_map("a PIN", |(pin, expires)| {
            HandshakePin::parse(&pin).map(|pin| Reply::HandshakePin { pin, expires })
        })
        .boxed();
    let notice = (counts(), proptest::option::of(notices()))
        .prop_map(|(following, notice)| Reply::Notice { following, notice })
        .boxed();
    let codes = prop_oneof![
        proptest::sample::select(&ErrorCode::ALL[..]).prop_map(|code| code.as_str().to_owned()).boxed(),
        any::<String>().boxed(),
    ];
    prop_oneof![
        2 => (counts(), records()).prop_map(|(following, record)| Reply::TempId { following, record }).boxed(),
        2 => upload,
        2 => notice,
        1 => token,
        1 => pin,
        1 => Just(Reply::LoggedOut),
        1 => (codes, any::<String>(), any::<Option<u32>>())
            .prop_map(|(code, message, retry_after_s)| Reply::Error { code, message, retry_after_s })
            .boxed(),
    ]
}

/// Any count of frames.
fn counts() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), any::<u32>()]
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
