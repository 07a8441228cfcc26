//! One BlueTrace device: [`device`] is the device itself, without a front-end, and [`terminal`] the front-end that a person
//! types into.
//!
//! The crate knows nothing of the authority but its protocol. Clock, randomness and configuration enter as arguments.

pub mod device;
mod files;
mod known_servers;
pub mod load;
mod log_keeper;
mod radio;
mod servers;
pub mod terminal;
mod trust;
mod uplink;
mod words;

pub use known_servers::Fingerprint;
pub use radio::Target;
pub use servers::{ServerAddress, Servers, ServersError};
pub use trust::CertificateChanged;
pub use uplink::{ConnectError, Transport};
pub use words::in_words;
