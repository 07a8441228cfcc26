//! Owns what the doctor says of files: the data folder and what lies in it, its certificate, and what a server imports.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bluetrace_client::in_words;
use bluetrace_protocol::Timestamp;
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::tls::ServerTls;

use super::{AS_ITS_OWNER, Report};

impl Report {
    /// Whether there is a folder to look into.
    pub(super) fn folder(&mut self, folder: &Path) -> bool {
        let (check, path) = ("data folder", folder.display());
        let metadata = match fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => {
                self.error(check, format!("{path} is no folder"), "name the authority's folder with --data-dir");
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let remedy = "name the authority's folder with --data-dir, or start `bluetrace server` once";
                self.error(check, format!("there is no authority in {path}"), remedy);
                return false;
            }
            Err(error) => {
                self.error(check, format!("{path}: {}", in_words(&error)), AS_ITS_OWNER);
                return false;
            }
        };
        let entries = match fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => {
                self.error(check, format!("{path}: {}", in_words(&error)), AS_ITS_OWNER);
                return false;
            }
        };
        let before = self.findings.len();
        if metadata.mode() & FOR_OTHERS != 0 {
            self.error(
                check,
                format!("others may enter {path} (mode {})", mode(&metadata)),
                format!("chmod 700 {path}"),
            );
        }
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        names.sort();
        for file in names {
            // one that has gone meanwhile, as those of a write-ahead log do, is not missed
            let Ok(metadata) = fs::metadata(&file) else { continue };
            let forbidden =
                if PUBLIC_FILES.iter().any(|name| file.ends_with(name)) { CHANGED_BY_OTHERS } else { FOR_OTHERS };
            let (path, own) = (file.display(), if metadata.is_dir() { "700" } else { "600" });
            if metadata.mode() & forbidden != 0 {
                self.error(
                    check,
                    format!("others may use {path} (mode {})", mode(&metadata)),
                    format!("chmod {own} {path}"),
                );
            }
            if metadata.uid() != fs::metadata(folder).map_or(metadata.uid(), |folder| folder.uid()) {
                let found = format!("{path} belongs to another user than its folder");
                self.warning(
                    check,
                    found,
                    format!("chown it to the user that runs the server: chown --reference={} {path}", folder.display()),
                );
            }
        }
        if self.findings.len() == before {
            self.ok(check, format!("{path}, its owner's alone"));
        }
        true
    }

    /// `is_shared` says whether other servers of the authority have it, too.
    pub(super) fn master_key(&mut self, folder: &DataFolder, is_shared: bool) {
        let check = "master key";
        match folder.existing_master_key() {
            Ok(Some(_)) => self.ok(check, "well-formed"),
            Ok(None) => self.error(
                check,
                "it is missing",
                if is_shared {
                    "copy master.key from another server of this authority; only where the database is new the first start makes one"
                } else {
                    "restore master.key from a backup: beside a database no other is made, and no server or command starts"
                },
            ),
            Err(error) => self.error_with_remedy(check, &error, AS_ITS_OWNER),
        }
    }

    pub(super) fn certificate(&mut self, folder: &DataFolder, now: Timestamp) -> Option<ServerTls> {
        let check = "certificate";
        let tls = match ServerTls::open_existing(folder.path()) {
            Ok(Some(tls)) => tls,
            Ok(None) => {
                self.warning(check, "there is none yet", "start the server, which makes one; where devices know this authority already, restore certificate.pem and key.pem from a backup before");
                return None;
            }
            Err(error) => {
                self.error_with_remedy(check, &error, "put a certificate there with the key that belongs to it");
                return None;
            }
        };
        self.validity(&tls, now);
        Some(tls)
    }

    /// Whether a certificate is valid now, and for how long.
    pub(super) fn validity(&mut self, tls: &ServerTls, now: Timestamp) {
        let check = "certificate";
        let renew = "put a new certificate.pem and key.pem there, and start the server again; devices ask about the new fingerprint";
        let moment = |unix: i64| Timestamp::from_unix(unix.max(0)).unwrap_or(Timestamp::MAX);
        match tls.validity_unix().map(|(from, until)| (moment(from), moment(until))) {
            None => self.warning(check, "how long it is valid cannot be read", renew),
            Some((_, until)) if until < now => self.error(check, format!("it expired on {until}"), renew),
            Some((from, _)) if now < from => {
                self.error(check, format!("it is not valid before {from}"), "wait, or set the clock");
            }
            Some((_, until)) if until.seconds_since(now) < RENEWAL_S => {
                self.warning(check, format!("it expires on {until}"), renew);
            }
            Some((_, until)) => self.ok(check, format!("valid until {until}, {}", tls.fingerprint())),
        }
    }

    /// Whether others may change what says what the server does, which is an error.
    pub(super) fn is_changed_by_others(&mut self, check: &'static str, file: &Path) -> bool {
        let Ok(metadata) = fs::metadata(file) else { return false };
        let is_changed = metadata.mode() & CHANGED_BY_OTHERS != 0;
        if is_changed {
            let path = file.display();
            self.error(
                check,
                format!("others may change {path} (mode {}), which says what the server does", mode(&metadata)),
                format!("chmod go-w {path}"),
            );
        }
        is_changed
    }

    /// Whether others may read a file that holds the password of the database, which is a warning.
    pub(super) fn is_read_by_others(&mut self, check: &'static str, file: &Path) -> bool {
        let Ok(metadata) = fs::metadata(file) else { return false };
        let is_read = metadata.mode() & FOR_OTHERS != 0;
        if is_read {
            let path = file.display();
            self.warning(
                check,
                format!("others may read {path} (mode {}), which holds the password of the database", mode(&metadata)),
                format!("chmod 600 {path}, or put the password into a file of its own (password_file=FILE)"),
            );
        }
        is_read
    }

    /// A file that the server imports at its start, named or by its usual name in the working folder.
    pub(super) fn import_file(&mut self, usual: &'static str, named: Option<&Path>, holds: &str) {
        let file = named.unwrap_or(Path::new(usual));
        if let Err(error) = self.secret_file(usual, file, holds, ", or delete it once it is imported")
            && named.is_some()
        {
            let found = format!("{}: {}", file.display(), in_words(&error));
            self.error(usual, found, "put it there, or leave the setting out");
        }
    }

    /// A file that its owner alone may read. `instead` is what can be done beside changing its mode.
    ///
    /// # Errors
    /// If it cannot be looked at, of which nothing is said here.
    pub(super) fn secret_file(
        &mut self,
        check: &'static str,
        file: &Path,
        holds: &str,
        instead: &str,
    ) -> io::Result<()> {
        let (metadata, path) = (fs::metadata(file)?, file.display());
        if metadata.mode() & FOR_OTHERS == 0 {
            self.ok(check, format!("{path}, its owner's alone"));
        } else {
            let found = format!("others may read {path} (mode {}), which holds {holds}", mode(&metadata));
            self.error(check, found, format!("chmod 600 {path}{instead}"));
        }
        Ok(())
    }
}

fn mode(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.mode() & 0o7777)
}

/// What the bits of a mode are that are not its owner's.
const FOR_OTHERS: u32 = 0o077;

/// Those of them by which others may change something.
const CHANGED_BY_OTHERS: u32 = 0o022;

/// What others in the data folder may read.
const PUBLIC_FILES: [&str; 2] = ["certificate.pem", "bluetrace.toml"];

/// A certificate that expires within 30 days is to be renewed.
const RENEWAL_S: i64 = 30 * 24 * 60 * 60;
