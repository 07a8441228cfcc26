//! Owns `known_servers`: which certificate each server showed when it was first used, a line each,
//! `<host>:<port> sha256:<hex>`. Blank lines and lines that begin with `#` are left alone.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bluetrace_protocol::sealed::bytes_of_hex;
use sha2::{Digest as _, Sha256};

use crate::files;

/// The SHA-256 of a server's certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// A server with its place in `known_servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownServer {
    pub(crate) fingerprint: Fingerprint,
    /// The line, from 1.
    pub(crate) line: usize,
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct KnownServers {
    path: PathBuf,
}

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    pub(crate) fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// Reads `sha256:` and 64 hexadecimal digits; colons between them, as some programs print them, are fine.
    fn parse(text: &str) -> Option<Self> {
        bytes_of_hex(&text.strip_prefix("sha256:")?.replace(':', "")).map(Self)
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl KnownServers {
    /// The file in a data folder; touches nothing.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { path: folder.join("known_servers") }
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is known of a server.
    ///
    /// # Errors
    /// When the file cannot be read, and when the server's line holds no fingerprint: then nothing must be trusted.
    pub(crate) fn find(&self, server: &str) -> io::Result<Option<KnownServer>> {
        let bytes = files::read_if_there(&self.path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for (line, text) in (1..).zip(text.lines()) {
            let mut words = text.split_whitespace();
            if words.next() != Some(server) {
                continue;
            }
            return match words.next().and_then(Fingerprint::parse) {
                Some(fingerprint) => Ok(Some(KnownServer { fingerprint, line })),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("no fingerprint in line {line}"))),
            };
        }
        Ok(None)
    }

    /// Remembers a server, in one write at the end, so that two clients at once do no harm.
    pub(crate) fn remember(&self, server: &str, fingerprint: Fingerprint) -> io::Result<()> {
        let bytes = files::read_if_there(&self.path)?.unwrap_or_default();
        let line_end = if bytes.last().is_some_and(|byte| *byte != b'\n') { "\n" } else { "" };
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        file.write_all(format!("{line_end}{server} {fingerprint}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_server_is_remembered_beside_what_a_person_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownServers::new(folder.path());
        let (one, two) = (Fingerprint::of(b"one"), Fingerprint::of(b"two"));
        assert_eq!(known.find("h:1").unwrap(), None);
        fs::write(known.path(), format!("# mine\n\nh:1 {one}")).unwrap();
        known.remember("[::1]:2", two).unwrap();
        assert_eq!(known.find("h:1").unwrap(), Some(KnownServer { fingerprint: one, line: 3 }));
        assert_eq!(known.find("[::1]:2").unwrap(), Some(KnownServer { fingerprint: two, line: 4 }));
        assert_eq!(known.find("h:11").unwrap(), None);
    }

    #[test]
    fn a_damaged_line_trusts_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownServers::new(folder.path());
        for line in ["h:1", "h:1 sha256:00", "h:1 sha256:zz", &format!("h:1 sha256:{}", "+1".repeat(32))] {
            fs::write(known.path(), line).unwrap();
            assert!(known.find("h:1").is_err(), "{line}");
        }
    }
}
