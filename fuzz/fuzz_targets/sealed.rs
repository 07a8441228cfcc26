//! Any text as a sealed `TempID`, as a user id and as a record of an `OpenTrace` upload: what is read strictly has one text, and the
//! reference reads and judges it alike.
#![no_main]

use bluetrace_protocol::opentrace::date::UtcOffset;
use bluetrace_protocol::opentrace::reference::judge_as_reference;
use bluetrace_protocol::opentrace::{Finding, judge};
use bluetrace_protocol::sealed::reference::{sealed_as_reference, uid_as_reference};
use bluetrace_protocol::sealed::{Opened, SealedTempId, SealingKey, UID_BYTES, Uid};
use bluetrace_protocol::{Record, TempId};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// Says of any id that it is of one moment in 2020: what fuzzers find is never sealed.
fn open(_: &SealedTempId, _: Option<i64>) -> Option<Opened> {
    Some(Opened { uid: Uid::from_bytes([1; UID_BYTES]), start: 1_586_390_340, expiry: 1_586_391_240 })
}

fuzz_target!(|text: &str| {
    if let Ok(sealed) = SealedTempId::parse(text) {
        assert_eq!(sealed.reveal(), text);
        assert_eq!(sealed_as_reference(text), Some(sealed));
        assert_eq!(TempId::parse(text), Ok(TempId::from(&sealed)));
        assert!(SealingKey::new(&[7; 32]).open(&sealed).is_err());
        assert!(Record::from_fields(text, "13/05/2020 17:54:06", "13/05/2020 18:09:05").is_ok());
    }
    if let Ok(uid) = Uid::parse(text) {
        assert_eq!(uid.reveal(), text);
        assert_eq!(uid_as_reference(text), uid);
    }
    // what the reference makes of it has one text that is read strictly
    assert_eq!(Uid::parse(&uid_as_reference(text).reveal()), Ok(uid_as_reference(text)));
    if let Some(sealed) = sealed_as_reference(text) {
        assert_eq!(SealedTempId::parse(&sealed.reveal()), Ok(sealed));
    }
    let strict = judge(text, None, open);
    if let Ok(mut record) = serde_json::from_str::<Map<String, Value>>(text) {
        let as_reference = judge_as_reference(&mut record, UtcOffset::default(), open);
        if matches!(strict.finding, Finding::Valid(_) | Finding::Expired { .. }) {
            assert_eq!((strict.finding, strict.timestamp), (as_reference.finding, as_reference.timestamp));
        }
        assert_eq!(record["isValid"], as_reference.finding.is_valid());
    }
});
