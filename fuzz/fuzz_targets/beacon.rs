//! Any datagram: what is heard of it can be sent and is heard as the same.
#![no_main]

use bluetrace_protocol::{Beacon, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    if let Ok(beacon) = Beacon::parse(datagram) {
        assert_eq!(Record::parse(&beacon.record.reveal()).as_ref(), Ok(&beacon.record));
        assert_eq!(Beacon::parse(beacon.reveal().as_bytes()), Ok(beacon));
    }
});
