//! Owns what being configured does to the definition of the command line: switches that can be switched off, and values
//! that stand where nothing is typed.

use std::error::Error as _;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, ArgMatches, Args as _, FromArgMatches as _};

use super::setting::Layers;
use super::{CONFIG, SERVER};
use crate::command_line::{CommandLine, ServerOptions};

/// The server's arguments alone.
pub(super) fn server() -> clap::Command {
    with_switches(ServerOptions::augment_args(clap::Command::new(SERVER)))
}

/// Lets each switch of a configured command also be switched off, so that the command line can win over the file.
pub(super) fn with_switches(command: clap::Command) -> clap::Command {
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
pub(super) fn with_defaults(command: clap::Command, path: &[String], layers: &Layers) -> clap::Command {
    match path {
        [first, rest @ ..] => command.mut_subcommand(first, |command| with_defaults(command, rest, layers)),
        [] => command.mut_args(|argument| match layers.get(argument.get_id().as_str()) {
            Some(layer) => argument.default_value(&layer.text),
            None => argument,
        }),
    }
}

/// The names on the way to the subcommand that is to be carried out.
pub(super) fn subcommands(matches: &ArgMatches) -> Vec<String> {
    let mut path = Vec::new();
    let mut matches = matches;
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name.to_owned());
        matches = inner;
    }
    path
}

pub(super) fn leaf<'a>(
    command: &'a clap::Command,
    matches: &'a ArgMatches,
    path: &[String],
) -> (&'a clap::Command, &'a ArgMatches) {
    path.iter().fold((command, matches), |(command, matches), name| {
        (command.find_subcommand(name).unwrap_or(command), matches.subcommand_matches(name).unwrap_or(matches))
    })
}

pub(super) fn read_back(matches: &ArgMatches) -> CommandLine {
    CommandLine::from_arg_matches(matches).unwrap_or_else(|error| error.exit())
}

/// Why a value is refused, without the value.
pub(super) fn reason(error: &clap::Error) -> String {
    match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => format!("it is one of {}", valid.join(", ")),
        _ => "it is empty, or does not fit here".to_owned(),
    }
}

/// The same error without the value, if what it refuses is a secret: a URL that is mistyped still has its password in it.
pub(super) fn without_secret(mut error: clap::Error, definition: &clap::Command) -> clap::Error {
    let long = match error.get(ContextKind::InvalidArg) {
        // as the help shows it: `--store <URL>`
        Some(ContextValue::String(shown)) => shown.split(' ').next().and_then(|word| word.strip_prefix("--")),
        _ => None,
    };
    if long.is_some_and(|long| has_secret(definition, long)) && error.get(ContextKind::InvalidValue).is_some() {
        error.insert(ContextKind::InvalidValue, ContextValue::String(REDACTED.to_owned()));
    }
    // a URL where none is taken, such as one too many, is a mistake of the same kind
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && (text.contains("://") || (text.contains('@') && text.contains(':')))
        {
            error.insert(kind, ContextValue::String(REDACTED.to_owned()));
        }
    }
    error
}

fn has_secret(command: &clap::Command, long: &str) -> bool {
    command.get_arguments().any(|argument| argument.is_hide_env_values_set() && argument.get_long() == Some(long))
        || command.get_subcommands().any(|inner| has_secret(inner, long))
}

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// A command line without arguments.
pub(super) const NOTHING: [&str; 1] = [SERVER];
