//! Owns a [`Setting`]: an argument of the server as the file, the environment and the sample see it; and a value for one, with
//! where it comes from ([`Layer`]).

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

use clap::{Arg, ArgMatches};
use toml::de::DeValue;

use super::definition::{NOTHING, reason};
use super::{CONFIG, SERVER};

/// One setting: an argument of the server, as the file and the environment see it.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// The argument's.
    pub(super) id: String,
    pub(super) section: String,
    pub(super) key: String,
    pub(super) variable: String,
    /// As it is typed: `--retention <DURATION>`, `[PORT]`.
    pub(super) argument: String,
    value_name: String,
    kind: Kind,
    about: String,
    /// As TOML.
    pub(super) default: Option<String>,
    pub(super) is_secret: bool,
}

/// What a value is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number of seconds; elsewhere a text with its unit.
    Seconds,
    Number,
    Switch,
    Text,
}

/// A value from the environment or the file, as it would be typed.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// Values by the ids of their settings.
pub(super) type Layers = BTreeMap<String, Layer>;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Argument(String),
}

/// The settings of a server, sections in one piece.
pub(super) fn settings(server: &clap::Command) -> Vec<Setting> {
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
    pub(super) fn is_also(&self, variable: &str) -> bool {
        let name = variable.strip_prefix(VARIABLES).unwrap_or_default().to_lowercase();
        let option = self.argument.trim_start_matches("--").split(' ').next().unwrap_or_default().replace('-', "_");
        name == option || name == self.key || name == format!("{}_{}", self.section, self.key)
    }

    /// The setting's value, as TOML.
    pub(super) fn value(&self, matches: &ArgMatches) -> Option<String> {
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
    pub(super) fn check(&self, server: &clap::Command, text: &str) -> Result<(), String> {
        let text = text.to_owned();
        let with_it = server.clone().mut_arg(&self.id, |argument| argument.default_value(text));
        with_it.try_get_matches_from(NOTHING).map(drop).map_err(|error| reason(&error))
    }

    /// A value of the file as it would be typed.
    pub(super) fn typed(&self, value: &DeValue<'_>) -> Result<String, String> {
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
pub(super) fn sample(settings: &[Setting]) -> String {
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

/// The end of a complaint about a name that is none.
pub(super) fn see_sample() -> String {
    "; `bluetrace config sample` lists all there are".to_owned()
}

fn number<T: ToString + Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Option<String> {
    matches.try_get_one::<T>(id).ok().flatten().map(T::to_string)
}

/// A text as TOML.
pub(super) fn quoted(text: &str) -> String {
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

/// The front of every variable.
const VARIABLES: &str = "BLUETRACE_";

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
    use std::fs;
    use std::net::SocketAddr;
    use std::path::Path;

    use clap::{ArgAction, value_parser};

    use super::*;
    use crate::config::definition;
    use crate::config::environment::{Environment, OTHER_VARIABLES};
    use crate::config::file::{DEFAULT_FOLDER, FILE_NAME, File};
    use crate::config::tests::server;
    use crate::config::{Configuration, DATA_DIR, InForce};

    #[test]
    fn the_sample_is_the_one_in_the_documentation_and_holds_every_default() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bluetrace.toml");
        let written = sample(&settings(&definition::server()));
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
        let definition = definition::server();
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
        let definition = definition::server()
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
}
