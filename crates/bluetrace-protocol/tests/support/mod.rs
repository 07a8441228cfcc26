//! What tests of `OpenTrace`'s formats share: its vectors, and a generator.

use std::convert::Infallible;

use bluetrace_protocol::SealingKey;
use rand_core::{TryCryptoRng, TryRng};
use serde_json::Value;

/// `vectors/opentrace.json`.
pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/opentrace.json")).unwrap()
}

/// A key of the vectors.
pub(crate) fn key(vectors: &Value, name: &str) -> SealingKey {
    SealingKey::from_hex(text(&vectors["keys"][name]["hex"])).unwrap()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(crate) fn integer(value: &Value) -> i32 {
    value.as_i64().unwrap().try_into().unwrap()
}

/// A generator for tests alone (splitmix64): the same every time.
#[derive(Debug)]
pub(crate) struct Generator(pub(crate) u64);

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| u32::try_from(number >> 32).unwrap())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let number = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Generator {}
