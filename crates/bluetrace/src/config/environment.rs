//! Owns the variables of the environment: which of them are settings, and which are most likely mistakes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::bail;

use super::setting::{Layer, Layers, Origin, Setting, see_sample, settings};

/// The variables of the environment that are this program's and set to something, by their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(pub(crate) BTreeMap<String, OsString>);

impl Environment {
    /// The file that the environment names.
    pub(super) fn config(&self) -> Option<PathBuf> {
        self.0.get(CONFIG_VARIABLE).map(PathBuf::from)
    }

    pub(super) fn values(&self, server: &clap::Command, settings: &[Setting]) -> anyhow::Result<Layers> {
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
    pub(super) fn doubts(&self, server: &clap::Command) -> Vec<String> {
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

/// Names the file, where `--config` does not.
const CONFIG_VARIABLE: &str = "BLUETRACE_CONFIG";

/// The variables that are no settings of a server.
pub(super) const OTHER_VARIABLES: [&str; 3] = [CONFIG_VARIABLE, "BLUETRACE_LOG", "BLUETRACE_PASSWORD"];

/// Letters by which a mistyped variable may differ from the one that was meant.
const TYPING_ERRORS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{environment, server};

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
}
