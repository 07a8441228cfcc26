//! Owns the configuration: how a server's options come from `bluetrace.toml`, the environment and the command line, the later
//! one winning; and `bluetrace config`.
//!
//! There is one list of settings: the arguments of [`ServerOptions`](crate::command_line::ServerOptions). An argument is also
//! a key of the file ([`file`](mod@file)), a variable of the environment ([`environment`]), and an entry of the sample and of
//! `config check`, by rule ([`setting`]):
//!
//! - its heading in the help names its section; without one it stands in `[server]`;
//! - its id, without the section in front of it, is its key. A duration has `_s` after it: the file holds whole seconds, while
//!   the command line and the environment take a text with its unit, such as `21d`;
//! - `BLUETRACE_` and its id is its variable;
//! - `hide_env_values` marks a secret, which is never shown.

mod definition;
mod environment;
mod file;
mod setting;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use anyhow::anyhow;
use bluetrace_server::postgres::PostgresPlace;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _};

use self::definition::{REDACTED, leaf, read_back, reason, subcommands, with_defaults, with_switches, without_secret};
pub(crate) use self::environment::Environment;
use self::file::{FILE_NAME, File};
use self::setting::{Origin, Setting, sample, settings};
use crate::command_line::{CommandLine, ConfigAction, ConfigOptions};
use crate::{registration, system};

/// What is in force for a command, and where it comes from.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// What is most likely a mistake, but stops nothing: a line each.
    pub(crate) doubts: Vec<String>,
    /// In the order of the help.
    settings: Vec<InForce>,
}

/// A setting with its value.
#[derive(Debug)]
struct InForce {
    setting: Setting,
    /// As TOML; `None` if it is not set.
    value: Option<String>,
    origin: Origin,
}

impl InForce {
    /// Where the shared database is, without a password, if this setting says so and can be used.
    fn store(&self) -> Option<PostgresPlace> {
        let value = self.value.as_deref().filter(|_| self.setting.id == STORE)?;
        PostgresPlace::parse(value.trim_matches('"'), None).ok()
    }
}

/// The command line as it was typed: what is known before anything else is read.
#[derive(Debug)]
pub(crate) struct Typed {
    words: Vec<OsString>,
    definition: clap::Command,
    matches: ArgMatches,
}

impl Typed {
    /// Reads the command line of this process. Ends it if that is wrong, or asks for help.
    pub(crate) fn read() -> Self {
        Self::parse(std::env::args_os().collect()).unwrap_or_else(|error| error.exit())
    }

    fn parse(words: Vec<OsString>) -> Result<Self, clap::Error> {
        let definition = with_switches(CommandLine::command());
        let matches = definition.clone().try_get_matches_from(&words);
        let matches = matches.map_err(|error| without_secret(error, &definition))?;
        Ok(Self { words, definition, matches })
    }

    /// What was typed, with defaults where nothing was.
    pub(crate) fn command_line(&self) -> CommandLine {
        read_back(&self.matches)
    }

    /// What was typed, with the environment and the file where nothing was.
    ///
    /// # Errors
    /// One line that says which value of which file or variable is wrong, and what to do. The value is not in it.
    pub(crate) fn settle(&self, environment: &Environment) -> anyhow::Result<(CommandLine, Configuration)> {
        let path = subcommands(&self.matches);
        let (command, typed) = leaf(&self.definition, &self.matches, &path);
        let takes = |id: &str| command.get_arguments().any(|argument| argument.get_id() == id);
        if !takes(CONFIG) {
            return Ok((self.command_line(), Configuration::default()));
        }
        let is_typed = |id: &str| takes(id) && typed.value_source(id) == Some(ValueSource::CommandLine);
        let server = definition::server();
        let settings = settings(&server);
        let variables = environment.values(&server, &settings)?;
        let typed_folder = typed.get_one::<PathBuf>(DATA_DIR).filter(|_| is_typed(DATA_DIR));
        let chosen_folder = typed_folder.cloned().or_else(|| Some(variables.get(DATA_DIR)?.text.as_str().into()));
        let named = typed.get_one::<PathBuf>(CONFIG).cloned().or_else(|| environment.config());
        let file = File::find(named, chosen_folder.as_deref())?;
        let mut layers = file.as_ref().map(|file| file.values(&server, &settings)).transpose()?.unwrap_or_default();
        layers.extend(variables);
        layers.retain(|id, _| !is_typed(id));
        if let (Some(file), Some(inner), None) = (&file, layers.get(DATA_DIR), &chosen_folder) {
            file.refuse_another_folder(inner)?;
        }

        let settled = with_defaults(self.definition.clone(), &path, &layers).try_get_matches_from(&self.words);
        // each value alone was right
        let settled =
            settled.map_err(|error| anyhow!("the configuration does not fit together: {}", reason(&error)))?;
        let (_, values) = leaf(&self.definition, &settled, &path);
        let in_force = settings.into_iter().filter(|setting| takes(&setting.id)).map(|setting| {
            let origin = match layers.remove(&setting.id) {
                Some(layer) => layer.origin,
                None if is_typed(&setting.id) => Origin::Argument(setting.argument.clone()),
                None => Origin::Default,
            };
            InForce { value: setting.value(values), setting, origin }
        });
        let settings = in_force.collect();
        let doubts = environment.doubts(&server);
        Ok((read_back(&settled), Configuration { file: file.map(|file| file.path), doubts, settings }))
    }
}

impl Configuration {
    /// Whether the file has the password of a database in it.
    pub(crate) fn holds_password(&self) -> bool {
        self.settings.iter().any(|InForce { setting, value, origin }| {
            let url = value.as_deref().filter(|_| setting.id == STORE && matches!(origin, Origin::File { .. }));
            url.and_then(|url| url.split_once("://")).is_some_and(|(_, place)| {
                let (front, parameters) = place.split_once('?').unwrap_or((place, ""));
                front.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
                    || parameters.split('&').any(|parameter| parameter.starts_with("password="))
            })
        })
    }
}

/// Carries out `bluetrace config`.
pub(crate) fn run(options: &ConfigOptions, configuration: &Configuration) -> anyhow::Result<()> {
    let text = match &options.action {
        ConfigAction::Check(_) => configuration.to_string(),
        ConfigAction::Sample => sample(&settings(&definition::server())),
    };
    system::to_stdout(|out| Ok(out.write_all(text.as_bytes())?))?;
    if let ConfigAction::Check(server) = &options.action {
        // what a server finds only when it starts
        registration::code_sender(server.registration.clone())?;
    }
    Ok(())
}

/// As TOML, with the origin of each value beside it.
impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => writeln!(f, "# what a server runs with; the file is {}", file.display())?,
            None => writeln!(f, "# what a server runs with; there is no {FILE_NAME}")?,
        }
        for doubt in &self.doubts {
            writeln!(f, "# warning: {doubt}")?;
        }
        let assignment = |in_force: &InForce| match &in_force.value {
            Some(_) if in_force.setting.is_secret => format!("{} = \"{REDACTED}\"", in_force.setting.key),
            Some(value) => format!("{} = {value}", in_force.setting.key),
            None => format!("#{} =", in_force.setting.key),
        };
        let width = self.settings.iter().map(|in_force| assignment(in_force).chars().count()).max().unwrap_or(0);
        let mut section = "";
        for in_force in &self.settings {
            if in_force.setting.section != section {
                section = &in_force.setting.section;
                writeln!(f, "\n[{section}]")?;
            }
            let origin = if in_force.value.is_some() { in_force.origin.to_string() } else { "not set".to_owned() };
            write!(f, "{:width$} # {origin}", assignment(in_force))?;
            match in_force.store() {
                Some(place) => writeln!(f, "; {place}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// The argument of every command that is configured; it is no setting itself.
const CONFIG: &str = "config";

/// The setting that is needed to find the file.
const DATA_DIR: &str = "data_dir";

/// The setting that may hold the password of a database.
const STORE: &str = "store";

/// The section of what has no heading in the help.
const SERVER: &str = "server";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::command_line::{Command, ServerOptions};

    #[test]
    fn the_later_of_default_file_environment_and_command_line_wins() {
        let home = TempDir::new().unwrap();
        let text =
            "[server]\nport = 1\nblock_duration_s = 1\nretention_s = 1\nidle_timeout_s = 1\nallow_plaintext = true\n";
        let file = write(&home, text);
        let environment = environment(&[
            ("BLUETRACE_CONFIG", &file),
            ("BLUETRACE_BLOCK_DURATION", "2"),
            ("BLUETRACE_RETENTION", "2m"),
            ("BLUETRACE_IDLE_TIMEOUT", "2h"),
        ]);
        let (options, configuration) =
            server(&["server", "--retention", "3d", "--allow-plaintext=false"], &environment).unwrap();
        assert_eq!((options.port, options.block_duration, options.idle_timeout), (1, 2, 2 * 60 * 60));
        assert_eq!((options.retention, options.login_timeout), (3 * 24 * 60 * 60, 30));
        assert!(!options.allow_plaintext, "a switch can be switched off again");
        let origin = |key: &str| {
            let found = configuration.settings.iter().find(|in_force| in_force.setting.key == key).unwrap();
            found.origin.to_string()
        };
        assert_eq!(origin("port"), format!("{file}:2"));
        assert_eq!(origin("block_duration_s"), "BLUETRACE_BLOCK_DURATION");
        assert_eq!(origin("retention_s"), "command line: --retention DURATION");
        assert_eq!(origin("login_timeout_s"), "default");

        let (options, _) = server(&["server", "4", "5", "--config", &file], &environment).unwrap();
        assert_eq!((options.port, options.block_duration, options.retention), (4, 5, 120));
    }

    #[test]
    fn a_secret_that_is_refused_is_not_repeated() {
        for (argument, value) in [("--store", "mysql://desk:hidden@localhost"), ("--code-webhook", "http:/hidden")] {
            let words = ["bluetrace", "server", argument, value].map(OsString::from).to_vec();
            let shown = Typed::parse(words).unwrap_err().to_string();
            assert!(shown.contains(argument) && shown.contains("[redacted]") && !shown.contains("hidden"), "{shown}");
        }
    }

    #[test]
    fn a_url_that_is_one_too_many_is_not_repeated() {
        let url = "postgres://desk:hidden@localhost/x";
        for words in [&["store", "copy", "a", "b", url][..], &["server", url], &["export", url], &["store", url]] {
            let words = ["bluetrace"].iter().chain(words).map(OsString::from).collect();
            let shown = Typed::parse(words).unwrap_err().to_string();
            assert!(shown.contains("[redacted]") && !shown.contains("hidden"), "{shown}");
        }
    }

    #[test]
    fn a_store_is_shown_without_its_password_and_a_file_that_holds_it_is_known() {
        let home = TempDir::new().unwrap();
        for (url, holds_password) in [
            ("postgres://desk:hidden@localhost/trace", true),
            ("postgres://desk@localhost/trace?password=hidden", true),
            ("postgres://desk@localhost/trace?password_file=/nowhere/hidden", false),
        ] {
            let file = write(&home, &format!("[server]\nstore = \"{url}\"\n"));
            let (_, configuration) = server(&["server", "--config", &file], &Environment::default()).unwrap();
            let shown = configuration.to_string();
            assert_eq!(shown.contains(":2; postgres://desk@localhost:5432/trace\n"), holds_password, "{shown}");
            assert!(shown.contains("[redacted]") && !shown.contains("hidden"), "{shown}");
            assert_eq!(configuration.holds_password(), holds_password, "{url}");
        }
    }

    #[test]
    fn what_is_shown_can_be_loaded_again() {
        let home = TempDir::new().unwrap();
        let arguments = [
            "server",
            "4711",
            "--bind",
            "::1",
            "--retention",
            "90s",
            "--credentials",
            "a \"b\"\\\t",
            "--allow-plaintext",
        ];
        let (typed, shown) = server(&arguments, &Environment::default()).unwrap();
        let file = write(&home, &shown.to_string());
        let (loaded, _) = server(&["server", "--config", &file], &Environment::default()).unwrap();
        assert_eq!((loaded.port, loaded.bind, loaded.retention), (4711, typed.bind, 90));
        assert_eq!(loaded.credentials.unwrap(), Path::new("a \"b\"\\\t"));
        assert!(loaded.allow_plaintext);
    }

    #[test]
    fn the_operators_commands_find_the_folder_that_the_file_names_and_a_device_does_not() {
        let home = TempDir::new().unwrap();
        let file = write(&home, "[server]\ndata_dir = \"elsewhere\"\nretention_s = 5\n");
        let environment = environment(&[("BLUETRACE_CONFIG", &file), ("BLUETRACE_RETENTION", "6")]);
        let settle = |words: &[&str]| typed(words).settle(&environment).unwrap().0.command;
        let Command::Export(options) = settle(&["export", "tempids"]) else { panic!() };
        assert_eq!(options.folder.data_dir, Path::new("elsewhere"));
        let Command::Export(options) = settle(&["export", "tempids", "--data-dir", "here"]) else { panic!() };
        assert_eq!(options.folder.data_dir, Path::new("here"));
        let Command::Client(options) = settle(&["client", "::1", "1", "2"]) else { panic!() };
        assert_eq!((options.data_dir.as_path(), options.retention), (Path::new("bluetrace-device"), 180));
    }

    fn typed(words: &[&str]) -> Typed {
        Typed::parse(["bluetrace"].iter().chain(words).map(OsString::from).collect()).unwrap()
    }

    pub(super) fn server(words: &[&str], environment: &Environment) -> anyhow::Result<(ServerOptions, Configuration)> {
        let (command_line, configuration) = typed(words).settle(environment)?;
        let Command::Server(options) = command_line.command else { panic!() };
        Ok((options, configuration))
    }

    pub(super) fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect())
    }

    pub(super) fn write(home: &TempDir, text: &str) -> String {
        let file = home.path().join(FILE_NAME);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }
}
