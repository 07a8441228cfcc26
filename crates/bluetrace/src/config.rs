//! Owns the configuration: how a server's options come from `bluetrace.toml`, the environment and the command line, the later
//! one winning; and `bluetrace config`.
//!
//! There is one list of settings: the arguments of [`ServerOptions`]. An argument is also a key of the file, a variable of the
//! environment, and an entry of the sample and of `config check`, by rule:
//!
//! - its heading in the help names its section; without one it stands in `[server]`;
//! - its id, without the section in front of it, is its key. A duration has `_s` after it: the file holds whole seconds, while
//!   the command line and the environment take a text with its unit, such as `21d`;
//! - `BLUETRACE_` and its id is its variable;
//! - `hide_env_values` marks a secret, which is never shown.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, CommandFactory as _, FromArgMatches as _};
use toml::de::{DeTable, DeValue};

use crate::command_line::{CommandLine, ConfigAction, ConfigOptions, ServerOptions};
use crate::system;

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

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Argument(String),
}

/// The variables of the environment that are this program's and set to something, by their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(pub(crate) BTreeMap<String, OsString>);

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
        let matches = definition.clone().try_get_matches_from(&words)?;
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
        let server = server();
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

/// Carries out `bluetrace config`.
pub(crate) fn run(options: &ConfigOptions, configuration: &Configuration) -> anyhow::Result<()> {
    let text = match options.action {
        ConfigAction::Check(_) => configuration.to_string(),
        ConfigAction::Sample => sample(&settings(&server())),
    };
    system::to_stdout(|out| Ok(out.write_all(text.as_bytes())?))
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
            Some(_) if in_force.setting.is_secret => format!("{} = {REDACTED}", in_force.setting.key),
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
            writeln!(f, "{:width$} # {origin}", assignment(in_force))?;
        }
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Argument(name) => write!(f, "command line: {name}"),
        }
    }
}

/// A commented file that holds the defaults.
fn sample(settings: &[Setting]) -> String {
    let mut text = SAMPLE_FRONT.to_owned();
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            section = &setting.section;
            text.extend(["\n[", section, "]\n"]);
        }
        let value = setting.default.as_ref().map_or_else(|| setting.placeholder(), String::clone);
        let mark = if setting.default.is_some() { "" } else { "#" };
        let Setting { about, argument, variable, key, .. } = setting;
        // writing to a String does not fail
        _ = writeln!(text, "\n# {about}\n# {argument} or {variable}\n{mark}{key} = {value}");
    }
    text
}

/// One setting: an argument of the server, as the file and the environment see it.
#[derive(Debug, Clone)]
struct Setting {
    /// The argument's.
    id: String,
    section: String,
    key: String,
    variable: String,
    /// As it is typed: `--retention <DURATION>`, `[PORT]`.
    argument: String,
    value_name: String,
    kind: Kind,
    about: String,
    /// As TOML.
    default: Option<String>,
    is_secret: bool,
}

/// What a value is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A whole number of seconds; elsewhere a text with its unit.
    Seconds,
    Number,
    Switch,
    Text,
}

/// A value from the environment or the file, as it would be typed.
#[derive(Debug)]
struct Layer {
    text: String,
    origin: Origin,
}

/// Values by the ids of their settings.
type Layers = BTreeMap<String, Layer>;

/// The settings of a server, sections in one piece.
fn settings(server: &clap::Command) -> Vec<Setting> {
    let defaults = server.clone().try_get_matches_from(NOTHING).unwrap_or_default();
    let arguments = server.get_arguments().filter(|argument| argument.get_id() != CONFIG);
    let mut settings: Vec<_> = arguments.map(|argument| Setting::of(argument, &defaults)).collect();
    // stable: the order of the help within each
    settings.sort_by_key(|setting| (setting.section != SERVER, setting.section.clone()));
    settings
}

impl Setting {
    fn of(argument: &Arg, defaults: &ArgMatches) -> Self {
        let id = argument.get_id().to_string();
        let section = argument.get_help_heading().map_or_else(|| SERVER.to_owned(), str::to_lowercase);
        let value_name = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        let value_name = value_name.unwrap_or_else(|| id.to_uppercase());
        let type_of = argument.get_value_parser().type_id();
        let numbers = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
        let kind = match () {
            () if type_of == TypeId::of::<bool>() => Kind::Switch,
            () if numbers.iter().any(|number| type_of == *number) && value_name.ends_with("DURATION") => Kind::Seconds,
            () if numbers.iter().any(|number| type_of == *number) => Kind::Number,
            () => Kind::Text,
        };
        let name = id.strip_prefix(&format!("{section}_")).unwrap_or(&id);
        let unit = if kind == Kind::Seconds { "_s" } else { "" };
        let mut setting = Self {
            key: format!("{name}{unit}"),
            section,
            variable: format!("{VARIABLES}{}", id.to_uppercase()),
            argument: match argument.get_long() {
                Some(long) if kind == Kind::Switch => format!("--{long}"),
                Some(long) => format!("--{long} {value_name}"),
                None => value_name.clone(),
            },
            value_name,
            kind,
            about: argument.get_help().map(ToString::to_string).unwrap_or_default(),
            default: None,
            is_secret: argument.is_hide_env_values_set(),
            id,
        };
        setting.default = setting.value(defaults);
        setting
    }

    /// Whether a variable is named after the setting in another way than by the rule: after its option, or its key.
    fn is_also(&self, variable: &str) -> bool {
        let name = variable.strip_prefix(VARIABLES).unwrap_or_default().to_lowercase();
        let option = self.argument.trim_start_matches("--").split(' ').next().unwrap_or_default().replace('-', "_");
        name == option || name == self.key || name == format!("{}_{}", self.section, self.key)
    }

    /// The setting's value, as TOML.
    fn value(&self, matches: &ArgMatches) -> Option<String> {
        match self.kind {
            Kind::Seconds | Kind::Number => number::<u32>(matches, &self.id)
                .or_else(|| number::<u16>(matches, &self.id))
                .or_else(|| number::<u64>(matches, &self.id))
                .or_else(|| number::<usize>(matches, &self.id)),
            Kind::Switch => matches.get_one::<bool>(&self.id).map(bool::to_string),
            Kind::Text => Some(quoted(&matches.get_raw(&self.id)?.next()?.to_string_lossy())),
        }
    }

    /// What stands in the sample for a value that nothing has by default.
    fn placeholder(&self) -> String {
        if self.kind == Kind::Text { quoted(&self.value_name) } else { self.value_name.clone() }
    }

    /// Checks a value as if it were typed.
    fn check(&self, server: &clap::Command, text: &str) -> Result<(), String> {
        let text = text.to_owned();
        let with_it = server.clone().mut_arg(&self.id, |argument| argument.default_value(text));
        with_it.try_get_matches_from(NOTHING).map(drop).map_err(|error| reason(&error))
    }

    /// A value of the file as it would be typed.
    fn typed(&self, value: &DeValue<'_>) -> Result<String, String> {
        match (self.kind, value) {
            (Kind::Seconds | Kind::Number, DeValue::Integer(number)) => {
                i64::from_str_radix(number.as_str(), number.radix())
                    .map(|number| number.to_string())
                    .map_err(|_| "is too large a number".to_owned())
            }
            (Kind::Switch, DeValue::Boolean(is_on)) => Ok(is_on.to_string()),
            (Kind::Text, DeValue::String(text)) => Ok(text.to_string()),
            (Kind::Seconds, DeValue::String(text)) => Err(match humantime::parse_duration(text) {
                Ok(duration) => format!("is a number of seconds: write {}", duration.as_secs()),
                Err(_) => "is a number of seconds, without quotes".to_owned(),
            }),
            (Kind::Seconds, _) => Err(format!("is a whole number of seconds, not {}", a_kind(value))),
            (Kind::Number, _) => Err(format!("is a whole number without quotes, not {}", a_kind(value))),
            (Kind::Switch, _) => Err(format!("is true or false without quotes, not {}", a_kind(value))),
            (Kind::Text, _) => Err(format!("is a text in quotes, not {}", a_kind(value))),
        }
    }
}

impl Environment {
    /// The file that the environment names.
    fn config(&self) -> Option<PathBuf> {
        self.0.get(CONFIG_VARIABLE).map(PathBuf::from)
    }

    fn values(&self, server: &clap::Command, settings: &[Setting]) -> anyhow::Result<Layers> {
        let mut values = Layers::new();
        for setting in settings {
            let name = &setting.variable;
            let Some(value) = self.0.get(name) else { continue };
            let Some(text) = value.to_str() else {
                bail!("the variable {name} is no UTF-8 text; set it anew, or unset it")
            };
            if let Err(reason) = setting.check(server, text) {
                bail!("the variable {name} cannot be used: {reason}; set it anew, or unset it");
            }
            values.insert(setting.id.clone(), Layer { text: text.to_owned(), origin: Origin::Variable(name.clone()) });
        }
        Ok(values)
    }

    /// Variables that are not used, with the name of the one that was most likely meant. None of those that Kubernetes sets.
    fn doubts(&self, server: &clap::Command) -> Vec<String> {
        let settings = settings(server);
        let of_settings = settings.iter().map(|setting| &*setting.variable);
        let known: Vec<&str> = of_settings.chain(OTHER_VARIABLES.iter().copied()).collect();
        let unknown = self.0.keys().map(String::as_str).filter(|name| !known.contains(name) && !is_of_a_service(name));
        unknown
            .map(|name| {
                let by_another_name = settings.iter().find(|setting| setting.is_also(name));
                let near = by_another_name.map(|setting| &*setting.variable).or_else(|| {
                    let mistyped = |known: &&&str| strsim::damerau_levenshtein(known, name) <= TYPING_ERRORS;
                    known.iter().find(mistyped).copied()
                });
                match near {
                    Some(near) => format!("the variable {name} is not used; did you mean {near}?"),
                    None => format!("the variable {name} is not used{}", see_sample()),
                }
            })
            .collect()
    }
}

/// Whether a variable is one of those that Kubernetes sets for a service whose name begins with `bluetrace`.
fn is_of_a_service(name: &str) -> bool {
    name.contains("_SERVICE_") || name.contains("_PORT_") || name.ends_with("_PORT")
}

/// A configuration file, read.
#[derive(Debug)]
struct File {
    path: PathBuf,
    text: String,
    /// The folder, if it is the data folder that nobody named.
    found_in: Option<PathBuf>,
}

impl File {
    /// The file that was named; else the one here; else the one in the data folder; else none.
    fn find(named: Option<PathBuf>, data_folder: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let is_named = named.is_some();
        let in_folder = data_folder.unwrap_or(Path::new(DEFAULT_FOLDER)).join(FILE_NAME);
        let candidates = named.map_or_else(|| vec![FILE_NAME.into(), in_folder.clone()], |named| vec![named]);
        for path in candidates {
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let found_in = (!is_named && path == in_folder).then(|| DEFAULT_FOLDER.into());
                    return Ok(Some(Self { path, text, found_in }));
                }
                Err(error) if !is_named && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let path = path.display();
                    bail!(
                        "cannot read the configuration {path}: {error}; see that it is there and readable, or name another with --config"
                    );
                }
            }
        }
        Ok(None)
    }

    /// All values of the file. The first mistake in it is an error.
    fn values(&self, server: &clap::Command, settings: &[Setting]) -> anyhow::Result<Layers> {
        let mut mistakes = BTreeMap::new();
        let mut values = Layers::new();
        let document = DeTable::parse(&self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            self.mistake(at, &format!("this is no TOML: {}", error.message().lines().collect::<Vec<_>>().join(", ")))
        })?;
        for (section, content) in document.get_ref() {
            let DeValue::Table(table) = content.get_ref() else {
                mistakes.insert(section.span().start, misplaced(section.get_ref(), settings));
                continue;
            };
            if !settings.iter().any(|setting| setting.section == *section.get_ref()) {
                mistakes.insert(section.span().start, unknown_section(section.get_ref(), settings));
                continue;
            }
            for (key, value) in table {
                let found = settings.iter().find(|s| s.section == *section.get_ref() && s.key == *key.get_ref());
                let Some(setting) = found else {
                    mistakes.insert(key.span().start, unknown_key(section.get_ref(), key.get_ref(), settings));
                    continue;
                };
                let text = setting.typed(value.get_ref()).map_err(|reason| format!("{} {reason}", setting.key));
                let text = text.and_then(|text| match setting.check(server, &text) {
                    Ok(()) => Ok(text),
                    Err(reason) => Err(format!("{} cannot be used: {reason}", setting.key)),
                });
                let line = self.line(key.span().start);
                match text {
                    Ok(text) => {
                        let origin = Origin::File { path: self.path.clone(), line };
                        values.insert(setting.id.clone(), Layer { text, origin });
                    }
                    Err(mistake) => _ = mistakes.insert(key.span().start, mistake),
                }
            }
        }
        match mistakes.into_iter().next() {
            Some((at, mistake)) => Err(self.mistake(at, &mistake)),
            None => Ok(values),
        }
    }

    /// A file that was found because it lies in the data folder cannot send its reader to another one.
    fn refuse_another_folder(&self, inner: &Layer) -> anyhow::Result<()> {
        let (Some(folder), Origin::File { path, line }) = (&self.found_in, &inner.origin) else { return Ok(()) };
        if Path::new(&inner.text) == folder {
            return Ok(());
        }
        bail!(
            "{}:{line}: data_dir names another folder than the one in which this file was found; leave it out, \
             or name this file with --config",
            path.display()
        )
    }

    fn mistake(&self, at: usize, what: &str) -> anyhow::Error {
        anyhow!("{}:{}: {what}", self.path.display(), self.line(at))
    }

    /// The line of a place in the text, from 1.
    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }
}

fn unknown_section(section: &str, settings: &[Setting]) -> String {
    let near = nearest(section, settings.iter().map(|setting| setting.section.as_str()));
    format!(
        "there is no section [{section}]{}",
        near.map_or_else(see_sample, |near| format!("; did you mean [{near}]?"))
    )
}

fn unknown_key(section: &str, key: &str, settings: &[Setting]) -> String {
    let elsewhere = settings.iter().find(|setting| setting.key == key);
    if let Some(setting) = elsewhere {
        return format!("{key} is no setting of [{section}]; it belongs in [{}]", setting.section);
    }
    let near = nearest(key, settings.iter().filter(|s| s.section == section).map(|setting| setting.key.as_str()));
    format!(
        "there is no setting {key} in [{section}]{}",
        near.map_or_else(see_sample, |near| format!("; did you mean {near}?"))
    )
}

/// What is wrong with something that stands before the first section, or where a section should.
fn misplaced(name: &str, settings: &[Setting]) -> String {
    if settings.iter().any(|setting| setting.section == name) {
        return format!("{name} is a section: write [{name}] in a line of its own, and its settings below");
    }
    let near = nearest(name, settings.iter().map(|setting| setting.key.as_str()));
    let setting = near.and_then(|near| settings.iter().find(|setting| setting.key == near));
    match setting {
        Some(setting) if setting.key == name => {
            format!("{name} stands in no section; put it below [{}]", setting.section)
        }
        Some(setting) => format!("there is no setting {name}; did you mean {} in [{}]?", setting.key, setting.section),
        None => format!("there is no setting {name}{}", see_sample()),
    }
}

fn see_sample() -> String {
    "; `bluetrace config sample` lists all there are".to_owned()
}

/// The name that somebody most likely meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &&str| strsim::jaro_winkler(&name.to_lowercase(), known);
    known.filter(|known| likeness(known) > 0.75).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// The server's arguments alone.
fn server() -> clap::Command {
    with_switches(ServerOptions::augment_args(clap::Command::new(SERVER)))
}

/// Lets each switch of a configured command also be switched off, so that the command line can win over the file.
fn with_switches(command: clap::Command) -> clap::Command {
    let is_configured = command.get_arguments().any(|argument| argument.get_id() == CONFIG);
    let command = command.mut_subcommands(with_switches);
    if !is_configured {
        return command;
    }
    command.mut_args(|argument| {
        if !matches!(argument.get_action(), ArgAction::SetTrue) {
            return argument;
        }
        argument
            .action(ArgAction::Set)
            .value_parser(ValueParser::bool())
            .value_name("BOOL")
            .hide_possible_values(true)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
    })
}

/// A definition whose subcommand has these values where nothing is typed.
fn with_defaults(command: clap::Command, path: &[String], layers: &Layers) -> clap::Command {
    match path {
        [first, rest @ ..] => command.mut_subcommand(first, |command| with_defaults(command, rest, layers)),
        [] => command.mut_args(|argument| match layers.get(argument.get_id().as_str()) {
            Some(layer) => argument.default_value(&layer.text),
            None => argument,
        }),
    }
}

/// The names on the way to the subcommand that is to be carried out.
fn subcommands(matches: &ArgMatches) -> Vec<String> {
    let mut path = Vec::new();
    let mut matches = matches;
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name.to_owned());
        matches = inner;
    }
    path
}

fn leaf<'a>(
    command: &'a clap::Command,
    matches: &'a ArgMatches,
    path: &[String],
) -> (&'a clap::Command, &'a ArgMatches) {
    path.iter().fold((command, matches), |(command, matches), name| {
        (command.find_subcommand(name).unwrap_or(command), matches.subcommand_matches(name).unwrap_or(matches))
    })
}

fn read_back(matches: &ArgMatches) -> CommandLine {
    CommandLine::from_arg_matches(matches).unwrap_or_else(|error| error.exit())
}

/// Why a value is refused, without the value.
fn reason(error: &clap::Error) -> String {
    match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => format!("it is one of {}", valid.join(", ")),
        _ => "it is empty, or does not fit here".to_owned(),
    }
}

fn number<T: ToString + Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Option<String> {
    matches.try_get_one::<T>(id).ok().flatten().map(T::to_string)
}

/// A text as TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // writing to a String does not fail
            c if c.is_control() => _ = write!(quoted, "\\u{:04X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn a_kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Looked for here, and then in the data folder.
const FILE_NAME: &str = "bluetrace.toml";

/// Names the file, where `--config` does not.
const CONFIG_VARIABLE: &str = "BLUETRACE_CONFIG";

/// The front of every variable.
const VARIABLES: &str = "BLUETRACE_";

/// The variables that are no settings of a server.
const OTHER_VARIABLES: [&str; 3] = [CONFIG_VARIABLE, "BLUETRACE_LOG", "BLUETRACE_PASSWORD"];

/// Letters by which a mistyped variable may differ from the one that was meant.
const TYPING_ERRORS: usize = 2;

/// The argument of every command that is configured; it is no setting itself.
const CONFIG: &str = "config";

/// The setting that is needed to find the file.
const DATA_DIR: &str = "data_dir";

/// Its default.
const DEFAULT_FOLDER: &str = "bluetrace-data";

/// The section of what has no heading in the help.
const SERVER: &str = "server";

/// A command line without arguments.
const NOTHING: [&str; 1] = [SERVER];

const REDACTED: &str = "\"[redacted]\"";

const SAMPLE_FRONT: &str = "\
# The configuration of a BlueTrace authority: `bluetrace config sample` prints this text, `bluetrace config check` what is in force.
#
# Every value is the default, so a line that is left as it is may go. Below each text stand the argument and the variable of the
# environment that mean the same. The command line wins over the environment, and that over this file. The file is the one that
# --config or BLUETRACE_CONFIG names, or else bluetrace.toml in the folder in which the program is started, or in its data folder.
# A key that ends in _s is a number of seconds; arguments and variables take 90s, 15m, 12h or 21d as well.
# Relative paths begin where the program is started.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::Command;
    use clap::value_parser;
    use std::net::SocketAddr;
    use tempfile::TempDir;

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
    fn the_sample_is_the_one_in_the_documentation_and_holds_every_default() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bluetrace.toml");
        let written = sample(&settings(&super::server()));
        assert_eq!(
            written,
            fs::read_to_string(&page).unwrap(),
            "left: `bluetrace config sample`, right: docs/bluetrace.toml"
        );

        let (_, bare) = server(&["server"], &Environment::default()).unwrap();
        let (_, loaded) = server(&["server", "--config", page.to_str().unwrap()], &Environment::default()).unwrap();
        for (bare, loaded) in bare.settings.iter().zip(&loaded.settings) {
            assert_eq!(bare.value, loaded.value, "{}", bare.setting.key);
            assert_eq!(bare.value.is_some(), loaded.origin != Origin::Default, "{} is in the sample", bare.setting.key);
        }
    }

    #[test]
    fn every_option_of_the_server_has_one_key_one_variable_a_known_kind_and_a_text() {
        let definition = super::server();
        let settings = settings(&definition);
        let options = definition.get_arguments().filter(|argument| argument.get_id() != CONFIG).count();
        assert_eq!(settings.len(), options);
        for (number, setting) in settings.iter().enumerate() {
            assert!(!setting.about.is_empty() && !setting.about.contains('\n'), "{}: one line", setting.id);
            let argument = definition.get_arguments().find(|argument| *argument.get_id() == *setting.id).unwrap();
            assert!(matches!(argument.get_action(), ArgAction::Set), "{}: one value", setting.id);
            assert!(argument.get_env().is_none(), "{}: its variable is given by the rule", setting.id);
            for other in &settings[..number] {
                assert!((&other.section, &other.key) != (&setting.section, &setting.key), "{} twice", setting.key);
                assert_ne!(other.variable, setting.variable);
            }
            assert!(!OTHER_VARIABLES.contains(&&*setting.variable));
        }
        let data_dir = settings.iter().find(|setting| setting.id == DATA_DIR).unwrap();
        assert_eq!(data_dir.default, Some(quoted(DEFAULT_FOLDER)));
    }

    #[test]
    fn a_heading_makes_a_section_and_a_secret_is_not_shown() {
        let definition = super::server()
            .arg(Arg::new("zone_address").long("zone").help_heading("ZONE").value_parser(value_parser!(SocketAddr)))
            .arg(Arg::new("hook").long("hook").hide_env_values(true).default_value("hidden"));
        let settings = settings(&definition);
        let by_id = |id: &str| settings.iter().find(|setting| setting.id == id).unwrap().clone();
        let zone = by_id("zone_address");
        assert_eq!((&*zone.section, &*zone.key, &*zone.variable), ("zone", "address", "BLUETRACE_ZONE_ADDRESS"));
        assert_eq!(settings.last().unwrap().id, "zone_address", "each section in one piece");
        let text = "[zone]\naddress = \"127.0.0.1:4080\"\n";
        let file = File { path: FILE_NAME.into(), text: text.to_owned(), found_in: None };
        assert_eq!(file.values(&definition, &settings).unwrap()["zone_address"].text, "127.0.0.1:4080");

        let secret = by_id("hook");
        let value = secret.default.clone();
        let in_force = InForce { setting: secret, value, origin: Origin::Variable("BLUETRACE_HOOK".to_owned()) };
        let shown = Configuration { settings: vec![in_force], ..Configuration::default() }.to_string();
        assert!(shown.contains("hook = \"[redacted]\"") && !shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn a_mistake_in_the_file_is_said_with_its_line_and_what_to_do() {
        let home = TempDir::new().unwrap();
        for (text, said) in [
            (
                "[server]\n\nretension_s = 1\n",
                ":3: there is no setting retension_s in [server]; did you mean retention_s?",
            ),
            (
                "[server]\nretention = \"21d\"\n",
                ":2: there is no setting retention in [server]; did you mean retention_s?",
            ),
            ("[server]\nqqqq = 1\n", ":2: there is no setting qqqq in [server]; `bluetrace config sample` lists"),
            ("[sevrer]\nport = 1\n", ":1: there is no section [sevrer]; did you mean [server]?"),
            ("\nport = 1\n", ":2: port stands in no section; put it below [server]"),
            ("prot = 1\n", ":1: there is no setting prot; did you mean port in [server]?"),
            ("server = 1\n", ":1: server is a section: write [server]"),
            ("[[server]]\nport = 1\n", ":1: server is a section: write [server]"),
            ("[server]\nport = \"4000\"\n", ":2: port is a whole number without quotes, not a text"),
            ("[server]\nport = 4000.0\n", ":2: port is a whole number without quotes"),
            ("[server]\nport = 65536\n", ":2: port cannot be used: a port is a number from 0 to 65535"),
            ("[server]\nport = 99999999999999999999\n", ":2: port is too large a number"),
            ("[server]\nretention_s = \"21d\"\n", ":2: retention_s is a number of seconds: write 1814400"),
            ("[server]\nretention_s = -1\n", ":2: retention_s cannot be used"),
            ("[server]\ntempid_lifetime_s = 86_401\n", ":2: tempid_lifetime_s cannot be used: a TempID lives a day"),
            ("[server]\nallow_plaintext = \"true\"\n", ":2: allow_plaintext is true or false without quotes"),
            ("[server]\nbind = 127\n", ":2: bind is a text in quotes, not a number"),
            ("[server]\nbind = \"here\"\n", ":2: bind cannot be used: not an IPv4 or IPv6 address"),
            ("[server]\nport = 1\nport = 2\n", ":3: this is no TOML: duplicate key"),
            ("[server]\nport = \n", ":2: this is no TOML"),
            // the first of several
            ("[server]\nzzzz = 1\nport = \"x\"\n[other]\n", ":2: there is no setting zzzz"),
        ] {
            let file = write(&home, text);
            let error = server(&["server", "--config", &file], &Environment::default()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{file}{said}")), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_mistake_in_the_environment_is_said_with_its_variable_and_without_its_value() {
        for (name, value) in
            [("BLUETRACE_RETENTION", "hush"), ("BLUETRACE_ALLOW_PLAINTEXT", "hush"), ("BLUETRACE_PORT", "hush")]
        {
            let error = server(&["server"], &environment(&[(name, value)])).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("unset it") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_used_is_warned_of_with_the_one_that_was_meant() {
        let used = [("BLUETRACE_PASSWORD", "hush"), ("BLUETRACE_LOG", "info"), ("BLUETRACE_HTTP_ADDRESS", "off")];
        let of_kubernetes =
            [("BLUETRACE_SERVICE_HOST", "10.0.0.1"), ("BLUETRACE_PORT_4000_TCP", "tcp://10.0.0.1:4000")];
        let doubts = |variables: &[(&str, &str)]| server(&["server"], &environment(variables)).unwrap().1.doubts;
        assert_eq!(doubts(&[used, [of_kubernetes[0], of_kubernetes[1], used[0]]].concat()), [""; 0]);
        for (name, meant) in [
            ("BLUETRACE_RETENTOIN", Some("BLUETRACE_RETENTION")),
            ("BLUETRACE_RETENTION_S", Some("BLUETRACE_RETENTION")),
            ("BLUETRACE_HTTP", Some("BLUETRACE_HTTP_ADDRESS")),
            ("BLUETRACE_NO_RATE_LIMITS", Some("BLUETRACE_HTTP_NO_RATE_LIMITS")),
            ("BLUETRACE_SERVER_BIND", Some("BLUETRACE_BIND")),
            ("BLUETRACE_SOMETHING_ELSE", None),
        ] {
            let said = doubts(&[(name, "hush")]);
            let end = meant.map_or_else(see_sample, |meant| format!("; did you mean {meant}?"));
            assert_eq!(said, [format!("the variable {name} is not used{end}")]);
        }
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

    #[test]
    fn a_file_that_is_named_has_to_be_there() {
        let error = server(&["server", "--config", "missing.toml"], &Environment::default()).unwrap_err().to_string();
        assert!(error.contains("missing.toml") && error.contains("--config"), "{error}");
    }

    fn typed(words: &[&str]) -> Typed {
        Typed::parse(["bluetrace"].iter().chain(words).map(OsString::from).collect()).unwrap()
    }

    fn server(words: &[&str], environment: &Environment) -> anyhow::Result<(ServerOptions, Configuration)> {
        let (command_line, configuration) = typed(words).settle(environment)?;
        let Command::Server(options) = command_line.command else { panic!() };
        Ok((options, configuration))
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect())
    }

    fn write(home: &TempDir, text: &str) -> String {
        let file = home.path().join(FILE_NAME);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }
}
