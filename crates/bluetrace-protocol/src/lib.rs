//! What everyone in a BlueTrace system knows.
//!
//! This crate is the protocol as pure functions and state machines: it does no I/O, reads no clock and draws no randomness
//! of its own. Bytes and `now` go in, values come out, so the same code serves the server, the terminal client, the
//! simulation and the fuzzer. References such as *PROTOCOL section 4* are to `docs/protocol.md`.
#![no_std]
#![warn(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc
)]

extern crate alloc;
#[cfg(any(test, feature = "proptest"))]
extern crate std;

pub mod beacon;
pub mod contact_log;
pub mod device;
pub mod frame;
pub mod identity;
pub mod json;
pub mod limits;
pub mod message;
pub mod opentrace;
pub mod record;
pub mod sealed;
pub mod session;
#[cfg(feature = "proptest")]
pub mod strategies;
pub mod time;
pub mod upload;

pub use beacon::{Beacon, BeaconError};
pub use contact_log::{ContactLog, ContactLogEntry, ReadReport};
pub use device::{Backoff, ClockJump, DeviceClock, Heard, Reading, TempIdBook, judge};
pub use identity::{HandshakePin, IdentityError, Password, ResumeToken, UploadCode, UploadId, Username};
pub use record::{Record, RecordError, TempId};
pub use sealed::{Opened, SealedError, SealedTempId, SealingKey, Uid};
pub use time::{Clock, Moment, TimeError, Timestamp, Window, WindowError};
pub use upload::{ExposureNotice, UploadSummary, Uploaded, UploadedRecord};
