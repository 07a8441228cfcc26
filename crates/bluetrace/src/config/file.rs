//! Owns the configuration file: which one it is, the values in it, and what is said of a mistake in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use toml::de::{DeTable, DeValue};
use tracing::warn;

use super::setting::{Layer, Layers, Origin, Setting, see_sample};

/// A configuration file, read.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// The folder, if it is the data folder that nobody named.
    pub(super) found_in: Option<PathBuf>,
}

impl File {
    /// The file that was named; else the one here; else the one in the data folder; else none.
    pub(super) fn find(named: Option<PathBuf>, data_folder: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let is_named = named.is_some();
        let in_folder = data_folder.unwrap_or(Path::new(DEFAULT_FOLDER)).join(FILE_NAME);
        let candidates = named.map_or_else(|| vec![FILE_NAME.into(), in_folder.clone()], |named| vec![named]);
        for path in candidates {
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let found_in = (!is_named && path == in_folder).then(|| DEFAULT_FOLDER.into());
                    return Ok(Some(Self { path, text, found_in }));
                }
                Err(error) if !is_named && error.kind() == ErrorKind::NotFound => {}
                // somebody who has become another user is often in a folder that this one may not enter
                Err(error) if !is_named && path == Path::new(FILE_NAME) && is_out_of_sight(&path) => {
                    let path = std::path::absolute(&path).unwrap_or(path);
                    warn!("cannot look for {}: {error}; going on without", path.display());
                }
                Err(error) if !is_named && is_out_of_sight(&path) => {
                    let folder = data_folder.unwrap_or(Path::new(DEFAULT_FOLDER));
                    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
                    bail!(
                        "cannot look into the data folder {}: {error}; run this as the user whose it is, or name another with --data-dir",
                        folder.display()
                    );
                }
                Err(error) => {
                    let path = std::path::absolute(&path).unwrap_or(path);
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
    pub(super) fn values(&self, server: &clap::Command, settings: &[Setting]) -> anyhow::Result<Layers> {
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
    pub(super) fn refuse_another_folder(&self, inner: &Layer) -> anyhow::Result<()> {
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

/// Whether nobody can say if there is such a file.
fn is_out_of_sight(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
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

/// The name that somebody most likely meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &&str| strsim::jaro_winkler(&name.to_lowercase(), known);
    known.filter(|known| likeness(known) > 0.75).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// Looked for here, and then in the data folder.
pub(super) const FILE_NAME: &str = "bluetrace.toml";

/// The data folder where nobody names another.
pub(super) const DEFAULT_FOLDER: &str = "bluetrace-data";

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use crate::config::environment::Environment;
    use crate::config::tests::{server, write};

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
    fn a_file_that_is_named_has_to_be_there() {
        let error = server(&["server", "--config", "missing.toml"], &Environment::default()).unwrap_err().to_string();
        assert!(error.contains("missing.toml") && error.contains("--config"), "{error}");
    }
}
