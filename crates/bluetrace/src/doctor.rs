//! Owns `bluetrace doctor`: what is wrong with an authority, running or not, and what to do about it.
//!
//! Nothing is changed: what is missing is not made, and a schema is not brought up to date. What is found never holds anything
//! about a person.

use std::error::Error;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bluetrace_client::in_words;
use bluetrace_protocol::{Clock as _, Timestamp};
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::limits::{Limits, RESERVED_FILES};
use bluetrace_server::postgres::{PostgresOptions, PostgresStore};
use bluetrace_server::probe::{Answer, who_answers};
use bluetrace_server::sqlite::{self, Inspection};
use bluetrace_server::tls::ServerTls;
use rlimit::Resource;
use serde::Serialize;

use crate::command_line::{DoctorOptions, RegistrationOptions, ServerOptions, StoreUrl};
use crate::config::Configuration;
use crate::system::{self, SystemClock};
use crate::{installation, registration};

/// Examines the authority, and says what was found. Fails if something is wrong.
pub(crate) fn run(options: &DoctorOptions, configuration: &anyhow::Result<Configuration>) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    report.configuration(configuration);
    let server = &options.server;
    let folder = DataFolder::open_existing(&server.folder.data_dir);
    let now = SystemClock.now();
    report.clock(now);
    let tls = if report.folder(folder.path()) {
        report.master_key(&folder);
        match &server.folder.store {
            None => {
                if let Some(inspection) = report.store(&folder, now) {
                    let is_served = folder.is_served().unwrap_or(false);
                    let master_key = folder.existing_master_key().ok().flatten();
                    let keys = report.readable_keys(inspection.sealing_keys, master_key.as_ref());
                    report.sealing_keys(&keys, server, is_served, now);
                }
            }
            Some(url) => report.shared_store(url, &folder, now),
        }
        report.disk(folder.path());
        report.certificate(&folder, now)
    } else {
        None
    };
    report.port(server, &folder, tls.as_ref());
    report.http(server, folder.is_served().unwrap_or(false), tls.as_ref());
    report.import_file("credentials.txt", server.credentials.as_deref(), "passwords");
    report.import_file("tempIDs.txt", server.tempids.as_deref(), "whose TempID is whose");
    report.one_time_codes(&server.registration);
    report.open_files(server.max_connections);

    let is_sound = report.count(Level::Error) == 0;
    let in_colour = system::wants_colour();
    system::to_stdout(|out| if options.json { report.write_json(out) } else { report.write_lines(out, in_colour) })?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of what the doctor calls an error, what others may do with the files of a server that starts: a line for each.
pub(crate) fn exposed_files(server: &ServerOptions) -> Vec<String> {
    let mut report = Report::default();
    report.folder(&server.folder.data_dir);
    report.import_file("credentials.txt", server.credentials.as_deref(), "passwords");
    report.import_file("tempIDs.txt", server.tempids.as_deref(), "whose TempID is whose");
    report.one_time_codes(&server.registration);
    let errors = report.findings.into_iter().filter(|finding| finding.level == Level::Error);
    errors.map(|Finding { found, remedy, .. }| format!("{found}; {}", remedy.unwrap_or_default())).collect()
}

/// What was found, in the order of the examination.
#[derive(Debug, Default)]
pub(crate) struct Report {
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    /// What was examined: a word or two that stay the same.
    check: &'static str,
    level: Level,
    found: String,
    /// What to do; nothing where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    Warning,
    Error,
}

impl Report {
    fn configuration(&mut self, configuration: &anyhow::Result<Configuration>) {
        let check = "configuration";
        match configuration {
            Ok(Configuration { file, doubts, .. }) => {
                let found =
                    file.as_ref().map_or("there is no bluetrace.toml".to_owned(), |file| file.display().to_string());
                match file.as_ref().map(|file| (file.display(), fs::metadata(file))) {
                    Some((path, Ok(metadata))) if metadata.mode() & CHANGED_BY_OTHERS != 0 => self.error(
                        check,
                        format!("others may change {path} (mode {}), which says what the server does", mode(&metadata)),
                        format!("chmod go-w {path}"),
                    ),
                    _ => self.ok(check, found),
                }
                for doubt in doubts {
                    self.warning(check, doubt.clone(), "correct its name, or unset it");
                }
            }
            Err(error) => self.error(check, error.to_string(), "correct it; the rest was examined without it"),
        }
    }

    fn clock(&mut self, now: Timestamp) {
        if now < WRITTEN {
            self.error("clock", format!("it shows {now}, a time before this program was written"), SET_THE_CLOCK);
        } else {
            self.ok("clock", format!("{now} UTC"));
        }
    }

    /// Whether there is a folder to look into.
    fn folder(&mut self, folder: &Path) -> bool {
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

    fn master_key(&mut self, folder: &DataFolder) {
        let check = "master key";
        match folder.existing_master_key() {
            Ok(Some(_)) => self.ok(check, "well-formed"),
            Ok(None) => self.error(
                check,
                "it is missing",
                "restore master.key from a backup: beside a database no other is made, and no server or command starts",
            ),
            Err(error) => self.error_with_remedy(check, &error, AS_ITS_OWNER),
        }
    }

    /// What was found in it, if it could be read.
    fn store(&mut self, folder: &DataFolder, now: Timestamp) -> Option<Inspection> {
        let check = "store";
        let database = folder.database();
        if !database.exists() {
            let found = format!("there is no {}", database.display());
            self.error(check, found, "restore it from a backup, or start `bluetrace server` to begin an empty one");
            return None;
        }
        let inspection = match sqlite::inspect(&database, now) {
            Ok(inspection) => inspection,
            Err(error) => {
                self.error_with_remedy(check, &error, AS_ITS_OWNER);
                return None;
            }
        };
        let (schema, known) = (inspection.schema, inspection.known_schema);
        match &inspection.damage {
            Some(damage) => self.error(
                check,
                format!("the database is damaged: {damage}"),
                "stop the server, and restore the file from a backup",
            ),
            None if schema < known => self.warning(
                check,
                format!("sound, with schema {schema}; this version writes schema {known}"),
                "make a backup and end older servers: the next start brings it up to date, and they refuse it then",
            ),
            None => self.ok(check, format!("sound, with schema {schema}")),
        }
        self.newest(inspection.newest, now);
        inspection.damage.is_none().then_some(inspection)
    }

    fn shared_store(&mut self, url: &StoreUrl, folder: &DataFolder, now: Timestamp) {
        let check = "store";
        let place = match installation::shared_place(url) {
            Ok(place) => place,
            Err(error) => return self.error_with_remedy(check, &*error, "correct the setting `store`"),
        };
        let shown = place.to_string();
        let mark = folder.existing_master_key().ok().flatten().map(|key| key.mark()).unwrap_or_default();
        let inspection = match PostgresStore::inspect(place, PostgresOptions::default(), &mark) {
            Ok(inspection) => inspection,
            Err(error) => {
                return self.error_with_remedy(check, &error, "see that the database runs and lets this user in");
            }
        };
        let (schema, known) = (inspection.schema, inspection.known_schema);
        match schema {
            _ if !inspection.is_own => self.error(
                check,
                format!("{shown} belongs to another authority or program, or the master key here is not its own"),
                "copy master.key from a server that uses it, or name another database",
            ),
            0 => self.warning(check, format!("{shown} is empty"), "the next start makes its tables"),
            _ if schema > known => self.error(
                check,
                format!("{shown} has schema {schema}; this version knows {known}"),
                "use the newer version that wrote it",
            ),
            _ if schema < known => self.warning(
                check,
                format!("{shown} has schema {schema}; this version writes schema {known}"),
                "make a backup: the next start brings it up to date; servers that run go on meanwhile",
            ),
            _ => self.ok(check, format!("{shown} answers, with schema {schema}")),
        }
        self.newest(inspection.newest, now);
    }

    fn newest(&mut self, newest: Option<Timestamp>, now: Timestamp) {
        if let Some(newest) = newest.filter(|newest| newest.seconds_since(now) > CLOCK_LEEWAY_S) {
            let found = format!("the clock shows {now}, but the store holds something from {newest}");
            self.error("clock", found, SET_THE_CLOCK);
        }
    }

    fn disk(&mut self, folder: &Path) {
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

    fn certificate(&mut self, folder: &DataFolder, now: Timestamp) -> Option<ServerTls> {
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
        Some(tls)
    }

    fn port(&mut self, server: &ServerOptions, folder: &DataFolder, tls: Option<&ServerTls>) {
        let (check, port) = ("port", server.port);
        let is_served = match folder.is_served() {
            Ok(is_served) => is_served,
            Err(error) => return self.error_with_remedy(check, &error, AS_ITS_OWNER),
        };
        if port == 0 {
            let state = if is_served { "a server runs" } else { "no server runs" };
            return self.ok(check, format!("{state}; port 0 takes a free one"));
        }
        let local = match server.bind {
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(address) if address.is_unspecified() && address.is_ipv4() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Some(address) => address,
        };
        let answer = who_answers(SocketAddr::new(local, port), PATIENCE);
        let is_own = |shown: &str| tls.is_some_and(|tls| tls.fingerprint() == shown);
        let other = "end it, or choose another port";
        let elsewhere = "examine with the port and address that the server was started with: `bluetrace doctor PORT`";
        match (answer, is_served) {
            (Ok(Answer::Tls(shown)), _) if is_own(&shown) => {
                self.ok(check, format!("the server answers on port {port} with its certificate"));
            }
            (Ok(Answer::Tls(_) | Answer::NoTls), false) => {
                self.error(check, format!("another program has port {port}"), other);
            }
            (Ok(Answer::Tls(_) | Answer::NoTls), true) => {
                self.error(
                    check,
                    format!("a server runs, but another certificate or none is shown on port {port}"),
                    format!("start it again if the certificate was replaced; or {elsewhere}"),
                );
            }
            (Ok(Answer::Nobody), true) => {
                self.warning(check, format!("a server runs, but nobody answers on port {port} of {local}"), elsewhere);
            }
            (Ok(Answer::Nobody), false) => match TcpListener::bind(SocketAddr::new(server.bind.unwrap_or(local), port))
            {
                Ok(_) => self.ok(check, format!("no server runs; port {port} is free")),
                Err(error) => self.error(
                    check,
                    format!("port {port} of {local} cannot be used: {}", in_words(&error)),
                    "choose a port above 1023 and an address of this machine",
                ),
            },
            (Err(error), _) => self.warning(
                check,
                format!("port {port} of {local}: {}", in_words(&error)),
                "see that the address is this machine's",
            ),
        }
    }

    /// A file that the server imports at its start, named or by its usual name in the working folder.
    fn import_file(&mut self, usual: &'static str, named: Option<&Path>, holds: &str) {
        let (file, check) = (named.unwrap_or(Path::new(usual)), usual);
        let path = file.display();
        match fs::metadata(file) {
            Ok(metadata) if metadata.mode() & FOR_OTHERS != 0 => {
                let found = format!("others may read {path} (mode {}), which holds {holds}", mode(&metadata));
                self.error(check, found, format!("chmod 600 {path}, or delete it once it is imported"));
            }
            Ok(_) => self.ok(check, format!("{path}, its owner's alone")),
            Err(_) if named.is_none() => {}
            Err(error) => {
                self.error(check, format!("{path}: {}", in_words(&error)), "put it there, or leave the setting out");
            }
        }
    }

    /// How people who register are sent their codes. Nothing is sent.
    fn one_time_codes(&mut self, options: &RegistrationOptions) {
        let check = "one-time codes";
        if let Some(token) = &options.webhook_token_file {
            let path = token.display();
            match fs::metadata(token) {
                Ok(metadata) if metadata.mode() & FOR_OTHERS != 0 => {
                    let found = format!("others may read {path} (mode {}), which holds a token", mode(&metadata));
                    self.error(check, found, format!("chmod 600 {path}"));
                }
                Ok(_) => self.ok(check, format!("{path}, its owner's alone")),
                // said below
                Err(_) => {}
            }
        }
        if let Some(command) = &options.command {
            // one that is not there is said below
            if let Some(found) = registration::executable(Path::new(command.program())) {
                self.ok(check, format!("{} sends them", found.display()));
            }
        }
        match registration::code_sender(options.clone()) {
            Err(error) => self.error_with_remedy(check, &*error, "see --code-command and --code-webhook"),
            Ok(_) if options.webhook.is_some() => self.ok(check, "a webhook sends them"),
            Ok(_) if options.command.is_none() => {
                self.ok(check, "nothing sends them: they are shown on the server's console");
            }
            Ok(_) => {}
        }
    }

    fn open_files(&mut self, max_connections: Option<usize>) {
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

    pub(crate) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.findings.push(Finding { check, level: Level::Ok, found: found.into(), remedy: None });
    }

    pub(crate) fn warning(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.find(check, Level::Warning, found, remedy);
    }

    pub(crate) fn error(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.find(check, Level::Error, found, remedy);
    }

    pub(crate) fn find(
        &mut self,
        check: &'static str,
        level: Level,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding { check, level, found: found.into(), remedy: Some(remedy.into()) });
    }

    /// How many findings there are.
    pub(crate) fn len(&self) -> usize {
        self.findings.len()
    }

    /// For an error whose text says what to do behind its last semicolon, or else `otherwise`.
    fn error_with_remedy(&mut self, check: &'static str, error: &dyn Error, otherwise: &str) {
        let text = error.to_string();
        let (found, remedy) = text.rsplit_once("; ").unwrap_or((&text, otherwise));
        self.error(check, found, remedy);
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    fn write_lines(&self, out: &mut dyn Write, in_colour: bool) -> anyhow::Result<()> {
        for Finding { check, level, found, remedy } in &self.findings {
            let (word, colour) = match level {
                Level::Ok => ("ok", "\x1b[32m"),
                Level::Warning => ("warning", "\x1b[33m"),
                Level::Error => ("error", "\x1b[31m"),
            };
            let (colour, plain) = if in_colour { (colour, "\x1b[0m") } else { ("", "") };
            write!(out, "{colour}{word:7}{plain}  {check:15}  {found}")?;
            if let Some(remedy) = remedy {
                write!(out, "; {remedy}")?;
            }
            writeln!(out)?;
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        writeln!(out, "errors: {errors}, warnings: {warnings}")?;
        Ok(())
    }

    fn write_json(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let report = JsonReport {
            errors: self.count(Level::Error),
            warnings: self.count(Level::Warning),
            findings: &self.findings,
        };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct JsonReport<'a> {
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

fn mode(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.mode() & 0o7777)
}

const SET_THE_CLOCK: &str = "set the clock, and have it kept by NTP: windows, retention and blocks go by it";

const AS_ITS_OWNER: &str = "run this as the user that runs the server";

/// What the bits of a mode are that are not its owner's.
const FOR_OTHERS: u32 = 0o077;

/// Those of them by which others may change something.
const CHANGED_BY_OTHERS: u32 = 0o022;

/// What others in the data folder may read.
const PUBLIC_FILES: [&str; 2] = ["certificate.pem", "bluetrace.toml"];

/// No clock is right that shows an earlier time: 2024-01-01.
const WRITTEN: Timestamp = Timestamp::MIN.plus(1_704_067_200);

/// What clocks of several servers may differ by.
const CLOCK_LEEWAY_S: i64 = 60;

/// A certificate that expires within 30 days is to be renewed.
const RENEWAL_S: i64 = 30 * 24 * 60 * 60;

const MIB: u64 = 1024 * 1024;

/// The write-ahead log may take 64 MiB, and the system needs some room too.
const FULL_MIB: u64 = 128;

/// Time enough to do something about it.
const SCARCE_MIB: u64 = 1_024;

/// Fewer open files are soon reached.
const FEW_FILES: u64 = 4_096;

/// For each step with who answers on the port.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
