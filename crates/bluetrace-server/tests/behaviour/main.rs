//! How the whole server behaves on real loopback sockets, with each store behind it, and above all when things go wrong.
//! What depends on time runs over an in-memory pipe with a paused clock.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers fail as their tests do")]

mod harness;
mod lines;
mod logins;
#[path = "../support/mod.rs"]
mod support;
mod time;
mod uploads;
