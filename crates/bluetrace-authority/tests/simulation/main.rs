//! A small world in which everything goes wrong at once, and in which the authority's promises are kept all the same.
//!
//! Devices (the protocol crate's client session, `TempIdBook`, `judge`, `ContactLog`, `Backoff`) talk to the authority's
//! sessions over queues of bytes that delay, cut and re-join; behind them stands the real [`Authority`] on a store in
//! memory. One seed decides everything: the rules (lifetimes, retention, block), what people do, what adversaries do, how
//! bytes are cut, when time passes, who is restarted when. Beside it runs a [`model`] too simple to be wrong, and both
//! are compared with each question that is answered, every few steps in whole, and at the end.
//!
//! What counts as failure
//! - a record that is not in the store exactly once, at its place, or one that was acknowledged and is not there;
//! - an upload that does not become complete once its device is left in peace, or one that is completed without all records;
//! - a login that is let in, refused or blocked otherwise than by the rule, over whatever connections and restarts the
//!   attempts came, and whether or not the name has an account; a block that ends a session or refuses a resume token;
//! - a resume token that is good after a logout of its session, a change of the password or its end, or void before;
//! - a beacon in a log outside the window that it names; anything in a log, or to be had from the store, past its retention;
//! - a notice for somebody who was not met by the uploader within the window of the `TempID` shown, for the uploader, twice for
//!   one encounter with an uploader, or with another time than the encounter's; one that counts as read and has not reached its person, or
//!   that does not reach a person who asks;
//! - a session of either side that takes the other for a fault, or closes without reason; a panic anywhere.
//!
//! What does not
//! - a beacon that an adversary carries to somebody else within its window: no device can tell that from an encounter;
//! - a notice shown twice, when the connection was lost before its person could be known to have it;
//! - an upload that outlives its own retention before it is complete: it is forgotten, and begun anew.
//!
//! Sources of nondeterminism: none. A world lives in one thread, and shares nothing with the others; no clock, no ambient randomness, no maps in the order of a random hash; the
//! store's futures are ready when they are first asked.
//!
//! `BLUETRACE_SIMULATION_SEEDS` says how many seeds are run, `BLUETRACE_SIMULATION_SEED` replays a single one and tells
//! its steps.
//!
//! [`Authority`]: bluetrace_authority::Authority
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may give up, and tells what it replays"
)]

mod desk;
mod device;
mod model;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::desk::Seen;
use crate::world::World;

const SEEDS: u64 = 2_000;
const STEPS: u32 = 60;

#[test]
fn the_authority_keeps_its_promises_whatever_happens() {
    if let Some(seed) = number("BLUETRACE_SIMULATION_SEED") {
        World::new(seed, true).run(STEPS);
        return;
    }
    let seeds = number("BLUETRACE_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let workers = thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap());
    let runs: Vec<_> = thread::scope(|scope| {
        let start = |first| scope.spawn(move || run(first..seeds, usize::try_from(workers).unwrap()));
        let workers: Vec<_> = (0..workers).map(start).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    if let Some(seed) = runs.iter().filter_map(|run| run.as_ref().err()).min() {
        panic!(
            "seed {seed} fails; to replay it: BLUETRACE_SIMULATION_SEED={seed} cargo test -p bluetrace-authority --test simulation"
        );
    }
    let seen = runs.into_iter().flatten().fold(Seen::default(), Seen::and);
    if seeds >= SEEDS {
        seen.has_seen_everything();
    }
}

/// Runs some of the seeds, or up to the first that fails.
fn run(seeds: std::ops::Range<u64>, step: usize) -> Result<Seen, u64> {
    seeds.step_by(step).try_fold(Seen::default(), |seen, seed| {
        let run = catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run(STEPS)));
        run.map(|run| seen.and(run)).map_err(|_| seed)
    })
}

#[test]
fn one_seed_is_one_story() {
    for seed in [3, 4] {
        assert_eq!(World::new(seed, false).run(STEPS), World::new(seed, false).run(STEPS));
    }
    assert_ne!(World::new(3, false).run(STEPS), World::new(4, false).run(STEPS));
}

#[expect(clippy::disallowed_methods, reason = "how much is run is chosen from outside")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}
