//! Owns what a person types: commands, their names, and what is wrong with those that are none.

use std::net::IpAddr;

use bluetrace_protocol::UploadCode;

use crate::radio::Target;

/// A line understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UserCommand {
    /// Nothing was typed.
    Nothing,
    Download,
    /// With this upload code, if one was typed.
    Upload(Option<UploadCode>),
    /// To this target, or to the last one.
    Beacon(Option<Target>),
    Notices,
    Pin,
    Status,
    Contacts,
    Help,
    Logout,
    /// `Beacon` with something else than an address and a port, and why.
    BadBeacon(String),
    Unknown,
}

/// The commands as they are completed, each with what it takes and a word about it.
pub(super) const COMMANDS: [(&str, &str, &str); 9] = [
    ("Download_tempID", "", "fetch a fresh TempID and show it"),
    ("Beacon", "<ip> <port>", "send the TempID to a device; without a target to the last one"),
    ("Upload_contact_log", "[code]", "give the contact log to the health authority, with its code if it asks for one"),
    ("Show_PIN", "", "show the PIN that an official of the health authority has to tell you"),
    ("contacts", "", "list the contact log, with age and time to removal"),
    ("status", "", "show server, TempID, contact log and UDP port"),
    ("notices", "", "ask the health authority for exposure notices"),
    ("help", "", "show this list"),
    ("logout", "", "log out and end (also exit, quit, Ctrl-D)"),
];

impl UserCommand {
    /// Reads a line, without regard to case.
    pub(super) fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { return Self::Nothing };
        let rest: Vec<&str> = words.collect();
        match (name.to_ascii_lowercase().as_str(), rest.as_slice()) {
            ("beacon", []) => Self::Beacon(None),
            ("beacon", words) => match parse_target(words) {
                Ok(target) => Self::Beacon(Some(target)),
                Err(why) => Self::BadBeacon(why),
            },
            ("download_tempid", []) => Self::Download,
            ("upload_contact_log", []) => Self::Upload(None),
            // as it was read out, in groups
            ("upload_contact_log", words) => match UploadCode::parse(&words.join(" ")) {
                Some(code) => Self::Upload(Some(code)),
                None => Self::Unknown,
            },
            ("show_pin", []) => Self::Pin,
            ("notices", []) => Self::Notices,
            ("status", []) => Self::Status,
            ("contacts", []) => Self::Contacts,
            ("help" | "?", []) => Self::Help,
            ("logout" | "exit" | "quit", []) => Self::Logout,
            _ => Self::Unknown,
        }
    }
}

/// Reads an address or a name, and a port.
fn parse_target(words: &[&str]) -> Result<Target, String> {
    let [host, port] = words else { return Err("an address and a port are needed".into()) };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_name = !host.starts_with('-')
        && host.len() <= MAX_HOST
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        // what is all digits and dots is meant to be an address
        && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    // an IPv6 address may name its interface after a percent sign
    let is_address = host.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok());
    if !is_name && !is_address {
        return Err(format!("{host:?} is neither an address nor a name"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Target { host: (*host).to_owned(), port }),
        _ => Err(format!("{port:?} is not a port from 1 to 65535")),
    }
}

/// Longest name of a host, in bytes, as the domain name system has it.
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_matched_without_regard_to_case_and_space() {
        for (line, command) in [
            ("", UserCommand::Nothing),
            ("  \t ", UserCommand::Nothing),
            ("Download_tempID", UserCommand::Download),
            ("  dOWNLOAD_TEMPid ", UserCommand::Download),
            ("upload_contact_log", UserCommand::Upload(None)),
            ("Upload_contact_log  h7QX-4cdf", UserCommand::Upload(UploadCode::parse("h7QX-4cdf"))),
            ("upload_contact_log H7QX 4CDF", UserCommand::Upload(UploadCode::parse("H7QX 4CDF"))),
            ("show_pin", UserCommand::Pin),
            ("LOGOUT", UserCommand::Logout),
            ("quit", UserCommand::Logout),
            ("beacon", UserCommand::Beacon(None)),
            ("help", UserCommand::Help),
            ("logout now", UserCommand::Unknown),
            ("Download", UserCommand::Unknown),
            ("\u{1b}[A", UserCommand::Unknown),
        ] {
            assert_eq!(UserCommand::parse(line), command, "{line:?}");
        }
    }

    #[test]
    fn a_beacon_needs_an_address_or_a_name_and_a_port() {
        for (line, host, port) in [
            ("Beacon 127.0.0.1 8001", "127.0.0.1", 8001),
            ("beacon ::1 65535", "::1", 65535),
            ("beacon [::1] 1", "::1", 1),
            ("beacon fe80::1%eth0 8001", "fe80::1%eth0", 8001),
            ("beacon phone-2.local 8001", "phone-2.local", 8001),
        ] {
            let target = Target { host: host.into(), port };
            assert_eq!(UserCommand::parse(line), UserCommand::Beacon(Some(target)), "{line}");
        }
        for line in [
            "beacon 127.0.0.1",
            "beacon 127.0.0.1 0",
            "beacon 127.0.0.1 65536",
            "beacon 127.0.0.1 -1",
            "beacon 127.0.0.1 x",
            "beacon 127.0.0.256 8001",
            "beacon 127.0.0 8001",
            "beacon a/b 8001",
            "beacon 127.0.0.1 8001 1",
        ] {
            assert!(matches!(UserCommand::parse(line), UserCommand::BadBeacon(_)), "{line}");
        }
    }
}
