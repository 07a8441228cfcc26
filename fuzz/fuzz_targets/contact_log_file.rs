//! Any contact-log file: what is read of it is in order, within its time, and reads the same once it is written.
#![no_main]

use bluetrace_protocol::{ContactLog, ReadReport, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let now = Timestamp::from_unix(1_589_392_500).expect("a moment in 2020");
    let (log, _) = ContactLog::read(file, now, now, 180);
    assert!(log.iter().zip(log.iter().skip(1)).all(|(a, b)| a.received <= b.received && b.received <= now));
    assert!(log.iter().all(|entry| log.removal_of(entry) > now));
    let mut text = String::new();
    log.write_to(&mut text);
    assert_eq!(ContactLog::read(text.as_bytes(), now, now, 180), (log, ReadReport::default()));
});
