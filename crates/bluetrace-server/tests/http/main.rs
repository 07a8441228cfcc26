//! How the HTTPS API behaves on real loopback sockets, over the same authority that sessions over TCP ask.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers fail as their tests do")]

mod harness;
mod native;
mod opentrace;
mod opentrace_app;
mod opentrace_upload;
mod opentrace_vectors;
mod registrations;
mod routes;
#[path = "../support/tls.rs"]
mod tls;
mod trouble;
