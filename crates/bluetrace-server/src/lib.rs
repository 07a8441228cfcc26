//! Sockets and databases around the BlueTrace health authority.
//!
//! The rules are [`bluetrace_authority`]'s and the sessions are [`bluetrace_protocol`]'s; this crate moves their bytes.
//! [`listener::Server`] accepts connections on one port, TLS and plaintext, and runs each until its end or the server's;
//! [`tls`] keeps the certificate, [`password_pool`] hashes passwords on as many threads as there are cores, [`console`]
//! shows the operator what happens, and [`jobs`] deletes what is forgotten.
//!
//! Nothing here reads a clock for a fact, a configuration or the environment: the binary gives them.

pub mod connection;
pub mod console;
pub mod data_folder;
pub mod jobs;
pub mod limits;
pub mod listener;
pub mod password_pool;
pub mod shutdown;
pub mod sqlite;
pub mod stream;
pub mod tls;
