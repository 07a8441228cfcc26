//! Whose a sealed `TempID` is, on one core: read it, choose the keys that can have sealed it, open it, compare with its
//! window. With a year of keys that should cost hardly more than with one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aes_gcm::aead::consts::U16;
use aes_gcm::aes::Aes256;
use aes_gcm::{AeadInOut as _, AesGcm, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bluetrace_authority::keyring::Keyring;
use bluetrace_authority::keys::MasterKey;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::{AccountOpened, PasswordHash, PasswordSource, SessionId, Store};
use bluetrace_authority::{Authority, Member, Policy, Scheme};
use bluetrace_protocol::{Record, SealedTempId, SealingKey, Timestamp, Uid, Username};
use tokio::runtime::Runtime;

use crate::harness::{Bench, Line, Unit, Wanted};
use crate::system::beginning;

const DAY: i64 = 24 * 60 * 60;
const KEYS: i64 = 400;
const ROUNDS: usize = 15;
/// Times that the records of a ring are resolved in a round.
const REPEATED: usize = 10;

pub(crate) fn run(bench: &mut Bench, runtime: &Runtime) {
    let one = Line {
        name: "resolve a record, 1 key",
        limit: "bare base64 and AEAD open",
        unit: Unit::PerSecond,
        wanted: Wanted::AtLeast(0.6),
    };
    let many =
        Line { name: "resolve a record, 400 keys", limit: "the same with 1 key", wanted: Wanted::AtLeast(0.45), ..one };
    let foreign = Line {
        name: "resolve a foreign id, 400 keys",
        limit: "one of ours, 400 keys",
        wanted: Wanted::AtLeast(0.4),
        ..one
    };
    if ![one.name, many.name, foreign.name].into_iter().any(|name| bench.wants(name)) {
        return;
    }
    let (single, year, strangers) = runtime
        .block_on(async { (Ring::of(1, [7; 32]).await, Ring::of(KEYS, [7; 32]).await, Ring::of(KEYS, [9; 32]).await) });
    let key = SealingKey::new(&[7; 32]);
    let texts: Vec<_> = single.records.iter().map(|record| reseal(&key, record)).collect();
    let bare = AesGcm::<Aes256, U16>::new(&[7; 32].into());
    let open_bare = || {
        a_second(texts.len(), || {
            for text in &texts {
                let mut blob = [0; 63];
                assert_eq!(STANDARD.decode_slice(black_box(text), &mut blob), Ok(61));
                let (plaintext, rest) = blob.split_first_chunk_mut::<29>().unwrap();
                let (iv, rest) = rest.split_first_chunk::<16>().unwrap();
                let tag = rest.first_chunk::<16>().unwrap();
                let opened = bare.decrypt_inout_detached(iv.into(), &[], plaintext.as_mut_slice().into(), tag.into());
                assert!(black_box(opened).is_ok());
            }
        })
    };
    let resolve = |ring: &Ring, records: &[Record], is_ours| {
        a_second(records.len(), || {
            for record in records {
                assert_eq!(black_box(ring.resolves(black_box(record))), is_ours);
            }
        })
    };
    bench.compare(one, ROUNDS, || resolve(&single, &single.records, true), open_bare);
    bench.compare(many, ROUNDS, || resolve(&year, &year.records, true), || resolve(&single, &single.records, true));
    bench.compare(
        foreign,
        ROUNDS,
        || resolve(&year, &strangers.records, false),
        || resolve(&year, &year.records, true),
    );
}

/// An authority's keys of so many days, and records of ids issued on all of them.
struct Ring {
    keyring: Arc<Keyring>,
    records: Vec<Record>,
}

impl Ring {
    async fn of(days: i64, seed: [u8; 32]) -> Self {
        let policy = Policy {
            temp_id_scheme: Scheme::Sealed,
            retention_s: 1_000 * 86_400,
            hash_cost: HashCost::INSECURE_FOR_SIMULATION,
            ..Policy::default()
        };
        let store = Arc::new(MemoryStore::new());
        let username = Username::parse("met").unwrap();
        let hash = PasswordHash("no password".into());
        let opened = store.open_account(username.clone(), hash, PasswordSource::Operator, beginning()).await.unwrap();
        let AccountOpened::Opened(account) = opened else { panic!("{opened:?}") };
        let session = SessionId([7; 16]);
        let member = Member { account, username, session, token_epoch: 0, logged_in: beginning(), user_id: None };
        let authority = Authority::new(store, Arc::new(InlinePool), policy, &MasterKey::new(seed), seed);
        let mut records = Vec::new();
        for day in 0..KEYS {
            // of one key, as many records as of many
            let moment = beginning().plus(DAY * day.min(days - 1) + 60 * day);
            let issued = authority.issue_temp_ids(&member, 96, moment).await.unwrap().unwrap();
            records.extend(issued.into_iter().step_by(4));
        }
        let keyring = authority.keyring(beginning()).await.unwrap();
        assert!(usize::try_from(days).is_ok_and(|days| keyring.len() >= days), "{keyring:?}");
        Self { keyring, records }
    }

    /// What is done for an uploaded record, but for the question whose user id it is.
    fn resolves(&self, record: &Record) -> bool {
        let Ok(sealed) = SealedTempId::parse(record.temp_id.reveal()) else { return false };
        let heard: Timestamp = record.window.start().plus(60);
        let opened = self.keyring.open(&sealed, &[record.window.start(), heard]);
        opened.and_then(|unsealed| unsealed.opened.window()).is_some_and(|window| window.contains(heard))
    }
}

/// The same id under another key.
fn reseal(key: &SealingKey, record: &Record) -> String {
    let sealed = SealedTempId::parse(record.temp_id.reveal()).unwrap();
    let bytes = sealed.as_bytes();
    let iv = *bytes.get(29..).and_then(<[u8]>::first_chunk).unwrap();
    let seconds = |moment: Timestamp| i32::try_from(moment.as_unix()).unwrap();
    key.seal(&Uid::from_bytes([5; 21]), seconds(record.window.start()), seconds(record.window.expiry()), iv).reveal()
}

fn a_second(count: usize, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..REPEATED).for_each(|_| work());
    (count * REPEATED) as f64 / start.elapsed().as_secs_f64()
}
