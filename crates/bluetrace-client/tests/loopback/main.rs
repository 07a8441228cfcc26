//! Devices and their front-end on real loopback sockets and real files, against a small authority of their own.

mod device;
mod support;
mod terminal;
