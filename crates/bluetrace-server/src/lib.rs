//! Sockets and databases around the BlueTrace health authority.
//!
//! The rules are [`bluetrace_authority`]'s and the sessions are [`bluetrace_protocol`]'s; this crate moves their bytes.
//!
//! ```text
//! listener    accepts connections on one port, bounded; TLS or plaintext by the first byte     tls, stream, shutdown
//! connection  bytes to lines, lines to the session, its questions to the authority, and back   console
//! http        requests to the authority over HTTP, on a port of their own
//! sqlite      the authority's store in one file of the data folder                             data_folder
//! postgres    the authority's store in a database that servers share
//! copy        a store into another one, of the same kind or not                                 check
//! ```
//!
//! Beside them [`code_sender`] sends one-time codes, [`password_pool`] hashes passwords on as many threads as there are cores, [`console`] shows the operator what
//! happens, [`jobs`] deletes what is forgotten, [`complaints`] keeps the log short, and [`probe`] finds out who has a port. Every number that bounds something stands in [`limits`].
//!
//! Nothing here reads a clock for a fact, a configuration or the environment: the binary gives them.

pub mod check;
pub mod code_sender;
pub mod complaints;
pub mod connection;
pub mod console;
pub mod copy;
pub mod data_folder;
pub mod http;
pub mod jobs;
pub mod limits;
pub mod listener;
pub mod password_pool;
pub mod postgres;
pub mod probe;
pub mod shutdown;
pub mod sqlite;
pub mod stream;
pub mod tls;
