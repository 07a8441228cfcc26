//! What holds for every beacon and every datagram (PROTOCOL section 2), and the table of forms in `vectors/beacons`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may give up")]

use bluetrace_protocol::strategies::{beacons, long_temp_ids, registry_temp_ids, sealed_temp_ids, temp_ids, windows};
use bluetrace_protocol::{Beacon, BeaconError, Record, WindowError};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    why: String,
    datagram: Option<String>,
    datagram_hex: Option<String>,
    record: Option<String>,
    error: Option<String>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        match (&self.datagram, &self.datagram_hex) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(hex)) => hex
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect(),
            _ => panic!("{}: one of datagram and datagram_hex", self.why),
        }
    }
}

fn cases(file: &str) -> Vec<Case> {
    let path = format!("{}/../../vectors/beacons/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn name(error: BeaconError) -> &'static str {
    match error {
        BeaconError::TooLong => "TooLong",
        BeaconError::NotText => "NotText",
        BeaconError::Shape => "Shape",
        BeaconError::TempId => "TempId",
        BeaconError::Time => "Time",
        BeaconError::Window(WindowError::Reversed) => "Reversed",
        BeaconError::Window(WindowError::TooLong) => "TooLongWindow",
        BeaconError::Version => "Version",
    }
}

#[test]
fn every_datagram_of_the_accept_table_is_heard_as_its_record() {
    let cases = cases("accept.json");
    assert!(cases.len() > 100, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let heard = Beacon::parse(&case.bytes()).map(|beacon| beacon.record.reveal());
        if heard.as_ref().ok() != case.record.as_ref() {
            wrong.push((case.why, heard));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_datagram_of_the_reject_table_is_dropped_for_its_reason() {
    let cases = cases("reject.json");
    assert!(cases.len() > 50, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let heard = Beacon::parse(&case.bytes()).map(drop).map_err(name);
        if heard.err() != case.error.as_deref() {
            wrong.push((case.why, heard));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The forms in which a record may be sent, with the shape of their fields: separator, ISO times, version.
fn forms(record: &Record) -> Vec<String> {
    let id = record.temp_id.reveal();
    let native = [record.window.start().to_string(), record.window.expiry().to_string()];
    let iso = native.clone().map(|text| {
        let (date, time) = text.split_once(' ').unwrap();
        let parts: Vec<_> = date.split('/').rev().collect();
        format!("{} {time}", parts.join("-"))
    });
    let mut forms = Vec::new();
    for [start, expiry] in [native, iso] {
        for separator in [", ", ",", " , ", " ", ""] {
            if separator.is_empty() && id.len() != 20 && id.len() != 84 {
                continue;
            }
            let fields = [id, &start, &expiry].join(separator);
            forms.push(fields.clone());
            for version in ["1", "1.0"] {
                forms.push(format!("{fields}{separator}{version}"));
                forms.push(format!("{version}{separator}{fields}"));
            }
        }
    }
    forms
}

/// Whether some beginning of `text` is heard as another record than `record`.
fn misheard_prefix<'a>(text: &'a str, record: &Record) -> Option<&'a str> {
    (0..text.len())
        .map(|end| &text[..end])
        .find(|prefix| Beacon::parse(prefix.as_bytes()).is_ok_and(|heard| heard.record != *record))
}

proptest! {
    #[test]
    fn what_is_sent_is_heard(beacon in beacons()) {
        let datagram = beacon.reveal();
        prop_assert!(datagram.is_ascii() && datagram.len() <= 129);
        prop_assert_eq!(datagram, format!("{}, 1", beacon.record.reveal()));
        prop_assert_eq!(Beacon::parse(beacon.reveal().as_bytes()), Ok(beacon));
    }

    #[test]
    fn every_form_of_a_record_is_heard_as_that_record(
        temp_id in prop_oneof![registry_temp_ids().boxed(), long_temp_ids().boxed(), sealed_temp_ids().boxed()],
        window in windows(),
        prefix in prop_oneof![Just(""), Just("beacon:"), Just("beacon: ")],
        end in prop_oneof![Just(""), Just("\n"), Just("\r\n"), Just("\0")],
    ) {
        let record = Record { temp_id, window };
        for form in forms(&record) {
            let datagram = format!("{prefix}{form}{end}");
            let heard = Beacon::parse(datagram.as_bytes()).map(|beacon| beacon.record);
            prop_assert_eq!(heard.as_ref(), Ok(&record), "{:?}", datagram);
        }
    }

    #[test]
    fn a_beacon_cut_off_is_refused_or_heard_as_itself(temp_id in temp_ids(), window in windows()) {
        let record = Record { temp_id, window };
        let canonical = Beacon { record: record.clone() }.reveal();
        let whole = record.reveal().len();
        for end in 0..canonical.len() {
            let heard = Beacon::parse(&canonical.as_bytes()[..end]).ok().map(|beacon| beacon.record);
            prop_assert_eq!(heard.as_ref(), (end == whole).then_some(&record), "cut at {}", end);
        }
        for form in forms(&record) {
            prop_assert_eq!(misheard_prefix(&form, &record), None);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(datagram in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Beacon::parse(&datagram);
    }

    #[test]
    fn what_is_heard_of_a_damaged_beacon_is_a_whole_record(
        beacon in beacons(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut datagram = beacon.reveal().into_bytes();
        let at = at.index(datagram.len());
        datagram[at] = byte;
        if let Ok(heard) = Beacon::parse(&datagram) {
            prop_assert_eq!(Record::parse(&heard.record.reveal()), Ok(heard.record));
        }
    }

    #[test]
    fn texts_of_a_beacons_characters_never_panic(text in "(beacon: ?)?[01 ,.:/=-]{0,100}") {
        let _ = Beacon::parse(text.as_bytes());
    }
}
