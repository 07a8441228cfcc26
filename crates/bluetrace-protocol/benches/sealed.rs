//! Sealed `TempIDs` against the bare cryptography in them: `cargo bench -p bluetrace-protocol`.
//!
//! One core, nothing but memory. The limit is what no program that makes or reads such ids can leave out: the AEAD, base64, and
//! of an id that is made a random IV.
#![expect(clippy::unwrap_used, reason = "what a bench cannot set up ends it")]

#[path = "../../bluetrace-server/benches/harness/mod.rs"]
#[expect(dead_code, reason = "each bench uses a part of it")]
mod harness;

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use aes::Aes256Enc;
use aes_gcm::aead::consts::U16;
use aes_gcm::{AeadInOut as _, AesGcm, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bluetrace_protocol::opentrace::judge;
use bluetrace_protocol::sealed::random_iv;
use bluetrace_protocol::{SealedTempId, SealingKey, TempId, Uid};
use harness::{Bench, Line, Unit, Wanted};
use rand::SeedableRng as _;
use rand::rngs::ChaCha12Rng;

const ROUNDS: usize = 15;
/// How long a turn lasts.
const TURN: Duration = Duration::from_millis(200);
/// `TempIDs` of one download, as `OpenTrace` has them.
const BATCH: i32 = 100;
const SECRET: [u8; 32] = [7; 32];
const START: i32 = 1_586_390_340;
const LIFETIME_S: i32 = 900;

type Bare = AesGcm<Aes256Enc, U16>;

fn main() {
    let Some(mut bench) = Bench::start("sealed") else { return };
    let seal = Line {
        name: "TempIDs sealed, to JSON text",
        limit: "bare AEAD seal, base64 and random IV",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.6),
    };
    let open = Line { name: "TempIDs opened, from text", limit: "bare base64 decode and AEAD open", ..seal };
    let record = Line { name: "records judged, from JSON text", ..open };
    let foreign = Line { name: "records of another authority judged", ..open };
    bench.compare(seal, ROUNDS, seal_batches, seal_bare);
    let ids = ids();
    bench.compare(open, ROUNDS, || open_ids(&ids), || open_bare(&ids));
    let records: Vec<String> = ids.iter().map(|id| record_of(id)).collect();
    let (ours, others) = (SealingKey::new(&SECRET), SealingKey::new(&[8; 32]));
    bench.compare(record, ROUNDS, || judge_records(&records, &ours, true), || open_bare(&ids));
    bench.compare(foreign, ROUNDS, || judge_records(&records, &others, false), || open_bare(&ids));
    bench.finish().unwrap();
}

/// How often a second something can be done, of which a pass does `count`.
fn rate(count: i32, mut pass: impl FnMut()) -> f64 {
    let (began, mut passes) = (Instant::now(), 0_u32);
    while began.elapsed() < TURN {
        pass();
        passes += 1;
    }
    f64::from(passes) * f64::from(count) / began.elapsed().as_secs_f64()
}

fn seal_batches() -> f64 {
    let (key, uid) = (SealingKey::new(&SECRET), uid());
    let mut generator = ChaCha12Rng::from_seed([1; 32]);
    rate(BATCH, || {
        let mut out = String::from("[");
        for place in 0..BATCH {
            let (start, expiry) = (START + place * LIFETIME_S, START + (place + 1) * LIFETIME_S);
            let sealed = key.seal(&uid, start, expiry, random_iv(&mut generator));
            out.push_str(r#"{"tempID":""#);
            out.push_str(TempId::from(&sealed).reveal());
            write!(out, r#"","startTime":{start},"expiryTime":{expiry}}},"#).unwrap();
        }
        black_box(out);
    })
}

fn seal_bare() -> f64 {
    let (cipher, uid) = (Bare::new(&SECRET.into()), uid());
    let mut generator = ChaCha12Rng::from_seed([1; 32]);
    rate(BATCH, || {
        for _ in 0..BATCH {
            let iv = random_iv(&mut generator);
            let mut blob = [0; 61];
            blob[..21].copy_from_slice(uid.as_bytes());
            let tag = cipher.encrypt_inout_detached(&iv.into(), &[], (&mut blob[..29]).into()).unwrap();
            blob[29..45].copy_from_slice(&iv);
            blob[45..].copy_from_slice(&tag);
            let mut text = [0; 84];
            STANDARD.encode_slice(blob, &mut text).unwrap();
            black_box(text);
        }
    })
}

fn open_ids(ids: &[String]) -> f64 {
    let key = SealingKey::new(&SECRET);
    rate(BATCH, || {
        for id in ids {
            let opened = SealedTempId::parse(black_box(id)).and_then(|sealed| key.open(&sealed));
            black_box(opened.unwrap());
        }
    })
}

fn open_bare(ids: &[String]) -> f64 {
    let cipher = Bare::new(&SECRET.into());
    rate(BATCH, || {
        for id in ids {
            let mut blob = [0; 63];
            assert_eq!(STANDARD.decode_slice(black_box(id), &mut blob), Ok(61));
            let iv: [u8; 16] = blob[29..45].try_into().unwrap();
            let tag: [u8; 16] = blob[45..61].try_into().unwrap();
            cipher.decrypt_inout_detached(&iv.into(), &[], (&mut blob[..29]).into(), &tag.into()).unwrap();
            black_box(blob);
        }
    })
}

fn judge_records(records: &[String], key: &SealingKey, are_valid: bool) -> f64 {
    rate(BATCH, || {
        for record in records {
            let verdict = judge(black_box(record), None, |temp_id, _| key.open(temp_id).ok());
            assert_eq!(verdict.finding.is_valid(), are_valid);
        }
    })
}

fn uid() -> Uid {
    Uid::parse("ABCDEFGHIJKLMNOPQRSTUVWXYZab").unwrap()
}

fn ids() -> Vec<String> {
    let (key, uid) = (SealingKey::new(&SECRET), uid());
    let mut generator = ChaCha12Rng::from_seed([1; 32]);
    (0..BATCH).map(|_| key.seal(&uid, START, START + LIFETIME_S, random_iv(&mut generator)).reveal()).collect()
}

/// A record as Android's app uploads it.
fn record_of(id: &str) -> String {
    let id = id.replace('=', "\\u003d");
    format!(
        r#"{{"id":1,"modelC":"Pixel 4","modelP":"iPhone 11","msg":"{id}","org":"OT_HA","rssi":-62,"timestamp":1586390790,"txPower":7,"v":2}}"#
    )
}
