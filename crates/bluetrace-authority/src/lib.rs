//! What only the health authority may know, as rules over a [`store::Store`]: accounts, `TempIDs`, uploads, tracing and notices.
//!
//! No sockets, no SQL, no async runtime: the time is an argument, and what takes long is given from outside.

pub mod passwords;
pub mod memory;
pub mod store;
