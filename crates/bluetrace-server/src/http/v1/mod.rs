//! Owns the native API, `/v1`: what a device says over TCP, as requests that stand alone. `docs/http.md` is its contract.
//!
//! Times are whole seconds since 1970-01-01 00:00:00 UTC.

pub(crate) mod me;
pub(crate) mod notices;
mod record_lines;
pub(crate) mod registrations;
pub(crate) mod sessions;
pub(crate) mod temp_ids;
pub(crate) mod uploads;
