//! Owns what the doctor says of the machine: its clock, the room on its disk, how many files may be open.

use std::path::Path;

use bluetrace_client::in_words;
use bluetrace_protocol::Timestamp;
use bluetrace_server::limits::{Limits, RESERVED_FILES};
use rlimit::Resource;

use super::{Report, SET_THE_CLOCK};

impl Report {
    pub(super) fn clock(&mut self, now: Timestamp) {
        if now < WRITTEN {
            self.error("clock", format!("it shows {now}, a time before this program was written"), SET_THE_CLOCK);
        } else {
            self.ok("clock", format!("{now} UTC"));
        }
    }

    pub(super) fn disk(&mut self, folder: &Path) {
        let check = "disk";
        let free = match rustix::fs::statvfs(folder) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize) / MIB,
            Err(error) => {
                return self.warning(
                    check,
                    format!("its room is unknown: {error}"),
                    "see that the folder can be reached",
                );
            }
        };
        let found = format!("{free} MiB are free");
        match free {
            ..FULL_MIB => self.error(check, found, "free some room: the store will soon refuse what it is given"),
            FULL_MIB..SCARCE_MIB => self.warning(check, found, "free some room"),
            _ => self.ok(check, found),
        }
    }

    pub(super) fn open_files(&mut self, max_connections: Option<usize>) {
        let check = "open files";
        let limit = match rlimit::getrlimit(Resource::NOFILE) {
            Ok((_, limit)) => limit,
            Err(error) => return self.warning(check, in_words(&error), "see `ulimit -n`"),
        };
        let room = Limits::for_open_files(limit).max_connections;
        let raise = "raise the limit of open files for the server: LimitNOFILE= of its service, or `ulimit -n`";
        match max_connections {
            Some(wanted) if wanted > room => {
                let found = format!("max_connections is {wanted}, but a limit of {limit} has room for {room}");
                self.error(
                    check,
                    found,
                    format!("{raise}, to {} or more; or lower max_connections", wanted.saturating_add(RESERVED_FILES)),
                );
            }
            _ if limit < FEW_FILES => {
                self.warning(check, format!("the limit here is {limit}: room for {room} connections"), raise);
            }
            _ => self.ok(check, format!("the limit here is {limit}: room for {room} connections")),
        }
    }
}

/// No clock is right that shows an earlier time: 2024-01-01.
const WRITTEN: Timestamp = Timestamp::MIN.plus(1_704_067_200);

const MIB: u64 = 1024 * 1024;

/// The write-ahead log may take 64 MiB, and the system needs some room too.
const FULL_MIB: u64 = 128;

/// Time enough to do something about it.
const SCARCE_MIB: u64 = 1_024;

/// Fewer open files are soon reached.
const FEW_FILES: u64 = 4_096;
