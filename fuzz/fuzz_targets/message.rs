//! Any line of the command phase, in either direction: what is read of it can be written and reads the same.
#![no_main]

use bluetrace_protocol::message::{Reply, Request};
use libfuzzer_sys::fuzz_target;

fn line(out: &[u8]) -> &str {
    let text = std::str::from_utf8(out).expect("lines are UTF-8");
    let line = text.strip_suffix('\n').expect("lines end");
    assert!(!line.contains('\n'));
    line
}

fuzz_target!(|text: &str| {
    if let Ok(request) = Request::parse(text) {
        let mut out = Vec::new();
        request.write_to(&mut out);
        assert_eq!(Request::parse(line(&out)), Ok(request));
    }
    if let Some((id, reply)) = Reply::parse(text) {
        let mut out = Vec::new();
        reply.write_to(id.as_ref(), &mut out);
        assert_eq!(Reply::parse(line(&out)), Some((id, reply)));
    }
});
