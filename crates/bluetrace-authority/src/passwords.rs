//! Owns password hashing: Argon2id work as values ([`PasswordWork`]) and the [`PasswordPool`] that performs it.
//!
//! One hash costs about 20 ms of a core and 19 MiB (RFC 9106; the parameters are OWASP's). The pool is given from outside,
//! so that a storm of logins queues there instead of exhausting memory, and this crate needs no threads of its own.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use bluetrace_protocol::Password;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::store::{PasswordHash, Verdict};

/// What a password hash costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl HashCost {
    /// 19 MiB and 2 passes, one lane.
    pub const STANDARD: Self = Self { memory_kib: 19 * 1024, passes: 2 };

    /// The least that Argon2id takes, for simulations in which thousands log in. Protects nothing.
    pub const INSECURE_FOR_SIMULATION: Self = Self { memory_kib: 8, passes: 1 };
}

/// One piece of password work.
#[derive(Debug)]
pub struct PasswordWork(Work);

#[derive(Debug)]
enum Work {
    Hash {
        password: Password,
        salt: [u8; 16],
        cost: HashCost,
    },
    Verify {
        password: Password,
        hash: PasswordHash,
    },
    /// There is no such account: takes as long as a verification and is never right.
    VerifyNothing {
        password: Password,
        cost: HashCost,
    },
}

/// What came of a [`PasswordWork`].
#[derive(Debug)]
pub enum PasswordDone {
    /// The hash asked for.
    Hashed(PasswordHash),
    /// Whether the password was right.
    Verified(Verdict),
    /// A stored hash could not be read, or the cost asked for is impossible. The text holds nothing personal.
    Failed(String),
}

/// Memory for hashing, kept from one piece of work to the next: one for each worker.
#[derive(Default)]
pub struct Scratch(Vec<Block>);

/// Why a pool did not do a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoolError {
    /// As much is waiting as may wait.
    #[error("too many logins are waiting")]
    Full,
    /// The pool has been closed.
    #[error("the password pool is closed")]
    Closed,
}

/// A pool's answer, in time.
pub type PoolFuture<'a> = Pin<Box<dyn Future<Output = Result<PasswordDone, PoolError>> + Send + 'a>>;

/// Does password work away from its caller: a bounded number of pieces at a time, and a bounded number waiting.
pub trait PasswordPool: Send + Sync + fmt::Debug {
    /// Does one piece of work.
    fn run(&self, work: PasswordWork) -> PoolFuture<'_>;
}

/// Does the work on the caller's thread. For simulations and for commands that hash one password.
#[derive(Debug, Clone, Copy, Default)]
pub struct InlinePool;

impl PasswordPool for InlinePool {
    fn run(&self, work: PasswordWork) -> PoolFuture<'_> {
        Box::pin(std::future::ready(Ok(work.perform(&mut Scratch::default()))))
    }
}

impl PasswordWork {
    /// Hash a password with a random salt.
    pub fn hash(password: Password, salt: [u8; 16], cost: HashCost) -> Self {
        Self(Work::Hash { password, salt, cost })
    }

    /// Compare a password with an account's hash.
    pub fn verify(password: Password, hash: PasswordHash) -> Self {
        Self(Work::Verify { password, hash })
    }

    /// Take the time of a comparison for a username without a password, so that it is not told from one with.
    pub fn verify_nothing(password: Password, cost: HashCost) -> Self {
        Self(Work::VerifyNothing { password, cost })
    }

    /// Does the work: about 20 ms of CPU at [`HashCost::STANDARD`].
    pub fn perform(self, scratch: &mut Scratch) -> PasswordDone {
        let done = match self.0 {
            Work::Hash { password, salt, cost } => {
                hash(&password, &salt, cost, scratch).map(|hash| PasswordDone::Hashed(PasswordHash(hash)))
            }
            Work::Verify { password, hash } => verify(&password, &hash, scratch).map(PasswordDone::Verified),
            Work::VerifyNothing { password, cost } => {
                hash(&password, &[0; 16], cost, scratch).map(|_| PasswordDone::Verified(Verdict::Wrong))
            }
        };
        done.unwrap_or_else(PasswordDone::Failed)
    }
}

impl Scratch {
    /// Memory for one hash. It grows to the largest cost met and stays.
    fn blocks(&mut self, count: usize) -> &mut [Block] {
        if self.0.len() < count {
            self.0.resize(count, Block::default());
        }
        &mut self.0[..count]
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("blocks", &self.0.len()).finish()
    }
}

const OUTPUT_BYTES: usize = 32;

fn hash(password: &Password, salt: &[u8; 16], cost: HashCost, scratch: &mut Scratch) -> Result<String, String> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(OUTPUT_BYTES)).map_err(|error| error.to_string())?;
    let mut output = [0; OUTPUT_BYTES];
    run(password, salt, &params, &mut output, scratch)?;
    let hash = phc::PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: phc::ParamsString::try_from(&params).map_err(|error| error.to_string())?,
        salt: Some(phc::Salt::new(salt).map_err(|error| error.to_string())?),
        hash: Some(phc::Output::new(&output).map_err(|error| error.to_string())?),
    };
    Ok(hash.to_string())
}

fn verify(password: &Password, hash: &PasswordHash, scratch: &mut Scratch) -> Result<Verdict, String> {
    let stored = phc::PasswordHash::new(&hash.0).map_err(|error| format!("a stored password hash: {error}"))?;
    let params = Params::try_from(&stored).map_err(|error| format!("a stored password hash: {error}"))?;
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
        return Err("a stored password hash: it has no salt or no output".to_owned());
    };
    if stored.algorithm != Algorithm::Argon2id.ident() {
        return Err("a stored password hash: it is not Argon2id".to_owned());
    }
    let mut output = vec![0; expected.len()];
    run(password, salt, &params, &mut output, scratch)?;
    if bool::from(output.ct_eq(expected.as_bytes())) { Ok(Verdict::Right) } else { Ok(Verdict::Wrong) }
}

fn run(
    password: &Password,
    salt: &[u8],
    params: &Params,
    output: &mut [u8],
    scratch: &mut Scratch,
) -> Result<(), String> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    argon2
        .hash_password_into_with_memory(
            password.reveal().as_bytes(),
            salt,
            output,
            scratch.blocks(params.block_count()),
        )
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_verifies_its_password_and_no_other() {
        let mut scratch = Scratch::default();
        let PasswordDone::Hashed(hash) =
            PasswordWork::hash(password("secret"), [7; 16], HashCost::STANDARD).perform(&mut scratch)
        else {
            panic!("no hash")
        };
        assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "the parameters stand in the hash");
        for (attempt, verdict) in [("secret", Verdict::Right), ("secret ", Verdict::Wrong), ("", Verdict::Wrong)] {
            let done = PasswordWork::verify(password(attempt), hash.clone()).perform(&mut scratch);
            assert!(matches!(done, PasswordDone::Verified(found) if found == verdict));
        }
    }

    #[test]
    fn a_reference_vector_verifies() {
        // made of `password` and `somesalt` by the reference implementation in C
        let hash = PasswordHash(
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$PL01amPyeUuxG7H0vIr5X+qHkZvWnHmGBGXFYvh8z2E".to_owned(),
        );
        let done = PasswordWork::verify(password("password"), hash).perform(&mut Scratch::default());
        assert!(matches!(done, PasswordDone::Verified(Verdict::Right)));
    }

    #[test]
    fn a_broken_hash_fails_and_lets_nobody_in() {
        for text in ["", "plain", "$argon2id$v=19$m=8,t=1,p=1", "$scrypt$ln=1$c29tc2FsdA$aaaaaaaaaaaaaaaa"] {
            let done =
                PasswordWork::verify(password("x"), PasswordHash(text.to_owned())).perform(&mut Scratch::default());
            assert!(matches!(done, PasswordDone::Failed(_)), "{text}");
        }
    }

    #[test]
    fn nothing_is_never_right() {
        let done = PasswordWork::verify_nothing(password(""), HashCost::INSECURE_FOR_SIMULATION)
            .perform(&mut Scratch::default());
        assert!(matches!(done, PasswordDone::Verified(Verdict::Wrong)));
    }

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }
}
