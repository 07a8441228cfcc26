//! Owns the session protocol as state machines without I/O: [`server`] for the authority's side, [`client`] for the
//! device's (PROTOCOL section 4).
//!
//! The law for whoever drives a [`server::ServerSession`]:
//! 1. Give it each whole line with [`server::ServerSession::line`], and write what it appends.
//! 2. When no further whole line is at hand, call [`server::ServerSession::pause`] once: that is the moment at which an
//!    upload's records so far are stored and acknowledged.
//! 3. A [`server::Step::Ask`] is a question for the authority. Its `then` takes the answer, and is the only way on.

pub mod client;
pub mod server;
