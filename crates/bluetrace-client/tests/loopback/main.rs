//! Devices and their front-end on real loopback sockets and real files, against a small authority of their own.

#[cfg(test)]
mod device;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod uploads;
