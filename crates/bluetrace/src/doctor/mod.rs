//! Owns `bluetrace doctor`: what is wrong with an authority, running or not, and what to do about it.
//!
//! Nothing is changed: what is missing is not made, and a schema is not brought up to date. What is found never holds anything
//! about a person. What is said of a subject stands in a file of its own; here are the order and the report.

mod codes;
mod folder;
mod keys;
mod machine;
mod ports;
mod store;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use bluetrace_protocol::Clock as _;
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::tls::ServerTls;
use serde::Serialize;

use crate::command_line::{DoctorOptions, HttpPlace, ServerOptions};
use crate::config::Configuration;
use crate::system::{self, SystemClock};

/// Examines the authority, and says what was found. Fails if something is wrong.
pub(crate) fn run(options: &DoctorOptions, configuration: &anyhow::Result<Configuration>) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    report.configuration(configuration);
    let server = &options.server;
    let folder = DataFolder::open_existing(&server.folder.data_dir);
    let now = SystemClock.now();
    report.clock(now);
    let tls = if report.folder(folder.path()) {
        report.master_key(&folder, server.folder.store.is_some());
        let keys = match &server.folder.store {
            None => report.store(&folder, now),
            Some(url) => report.shared_store(url, &folder, now),
        };
        if let Some(keys) = keys {
            let is_served = folder.is_served().unwrap_or(false);
            let master_key = folder.existing_master_key().ok().flatten();
            let keys = report.readable_keys(keys, master_key.as_ref());
            report.sealing_keys(&keys, server, is_served, now);
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
    report.one_time_codes(&server.registration, !matches!(server.http, Some(HttpPlace::Off)));
    report.open_files(server.max_connections);

    let is_sound = report.count(Level::Error) == 0;
    let in_colour = system::wants_colour();
    system::to_stdout(|out| if options.json { report.write_json(out) } else { report.write_lines(out, in_colour) })?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of what the doctor calls an error, what does not keep a server from starting: what others may do with its files, and a
/// certificate that is not valid now. A line for each.
pub(crate) fn said_at_the_start(server: &ServerOptions, tls: &ServerTls) -> Vec<String> {
    let mut report = Report::default();
    report.folder(&server.folder.data_dir);
    report.validity(tls, SystemClock.now());
    report.import_file("credentials.txt", server.credentials.as_deref(), "passwords");
    report.import_file("tempIDs.txt", server.tempids.as_deref(), "whose TempID is whose");
    report.one_time_codes(&server.registration, !matches!(server.http, Some(HttpPlace::Off)));
    let errors = report.findings.into_iter().filter(|finding| finding.level == Level::Error);
    errors
        .map(|Finding { check, found, remedy, .. }| format!("{check}: {found}; {}", remedy.unwrap_or_default()))
        .collect()
}

/// What was found, in the order of the examination.
#[derive(Debug, Default)]
struct Report {
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
enum Level {
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
                let is_changed = file.as_ref().is_some_and(|file| self.is_changed_by_others(check, file));
                let is_read = configuration.as_ref().is_ok_and(Configuration::holds_password)
                    && file.as_ref().is_some_and(|file| self.is_read_by_others(check, file));
                if !is_changed && !is_read {
                    self.ok(check, found);
                }
                for doubt in doubts {
                    self.warning(check, doubt.clone(), "correct its name, or unset it");
                }
            }
            Err(error) => self.error(check, error.to_string(), "correct it; the rest was examined without it"),
        }
    }

    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.findings.push(Finding { check, level: Level::Ok, found: found.into(), remedy: None });
    }

    fn warning(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.find(check, Level::Warning, found, remedy);
    }

    fn error(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.find(check, Level::Error, found, remedy);
    }

    fn find(&mut self, check: &'static str, level: Level, found: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding { check, level, found: found.into(), remedy: Some(remedy.into()) });
    }

    /// How many findings there are.
    fn len(&self) -> usize {
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

const SET_THE_CLOCK: &str = "set the clock, and have it kept by NTP: windows, retention and blocks go by it";

const AS_ITS_OWNER: &str = "run this as the user that runs the server";
