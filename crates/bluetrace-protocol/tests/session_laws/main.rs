//! How the authority's side of a session behaves (PROTOCOL section 4), with the authority's answers given by hand.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test may give up, and what it does not expect is wrong, whatever it is"
)]

mod commands;
mod login;
mod notices;
mod talk;
mod upload;
