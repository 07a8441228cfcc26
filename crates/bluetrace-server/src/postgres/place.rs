//! Owns where the database is: a URL, read and checked once ([`PostgresPlace`]).

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls::PostgresTls;

/// Where a database is, how it is reached and as whom. Shown without its password.
///
/// `postgres://user:password@host1:5432,host2/database?...`: hosts are tried in order, and one that takes writes is used. Of the
/// parameters that PostgreSQL's own tools take, these are read here; others are the driver's (`application_name`, ...):
///
/// - `sslmode=verify-full` with `sslrootcert=FILE`: TLS, to a host whose certificate these authorities have signed.
/// - `sslmode=disable`: no TLS. Nothing need be said for a socket file or a loopback address.
/// - `password_file=FILE`: a file with the password and nothing else.
#[derive(Clone)]
pub struct PostgresPlace {
    /// One for each host.
    pub(super) hosts: Vec<Config>,
    pub(super) tls: Option<PostgresTls>,
    shown: String,
}

/// Why a URL names no database. The texts do not repeat it: it may hold a password.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// It is no URL of a database.
    #[error("the store is no URL of a database; write postgres://USER@HOST/DATABASE")]
    Url,
    /// A character stands where it cannot mean itself, and what is behind it may be a part of the password.
    #[error(
        "the URL of the store can be read in more than one way; a `@`, `/`, `:`, `?`, `#` or `%` in a password is written %40, %2F, %3A, \
         %3F, %23 or %25, and parameters stand behind one `?`, with `&` between them"
    )]
    Ambiguous,
    /// Something that is needed is missing.
    #[error("the URL of the store names no {0}; write postgres://USER@HOST/DATABASE")]
    Missing(&'static str),
    /// Passwords and contact logs would go over a network for everybody to read.
    #[error(
        "the store is on another machine, and its URL does not say how to reach it safely; add \
         ?sslmode=verify-full&sslrootcert=FILE, or ?sslmode=disable if that network is your own"
    )]
    Plaintext,
    /// A mode of TLS in which anybody could pretend to be the database.
    #[error("the store's sslmode can be verify-full or disable, and verify-full needs sslrootcert=FILE")]
    SslMode,
    /// A file that the URL names.
    #[error("cannot use {}, which the URL of the store names: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl PostgresPlace {
    /// Whether a text means such a place, well-formed or not.
    pub fn is_meant(text: &str) -> bool {
        without_scheme(text).is_some()
    }

    /// Reads a URL, and the files it names. `password` is used if the URL has none.
    ///
    /// # Errors
    /// [`PlaceError`] says what is wrong, without repeating the URL.
    pub fn parse(url: &str, password: Option<&str>) -> Result<Self, PlaceError> {
        // the driver knows the scheme in lower case
        let url = format!("postgres://{}", without_scheme(url).ok_or(PlaceError::Url)?);
        let own = OwnParameters::split(&url);
        if own.is_ambiguous() {
            return Err(PlaceError::Ambiguous);
        }
        let mut config = Config::from_str(&own.url).map_err(|_| PlaceError::Url)?;
        if holds_more_than_a_place(&config) {
            return Err(PlaceError::Ambiguous);
        }
        if config.get_user().is_none() {
            return Err(PlaceError::Missing("user"));
        }
        if config.get_dbname().is_none() {
            return Err(PlaceError::Missing("database"));
        }
        if config.get_hosts().is_empty() {
            return Err(PlaceError::Missing("host"));
        }
        if config.get_password().is_none() {
            if let Some(path) = &own.password_file {
                config.password(read(path)?.trim_end_matches(['\r', '\n']));
            } else if let Some(password) = password {
                config.password(password);
            }
        }
        let tls = match (own.ssl_mode.as_deref(), &own.root_certificates) {
            (None, None) if config.get_hosts().iter().all(is_this_machine) => None,
            (None, None) => return Err(PlaceError::Plaintext),
            (Some("disable"), None) => None,
            (Some("verify-full") | None, Some(path)) => Some(tls_with(path)?),
            _ => return Err(PlaceError::SslMode),
        };
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .keepalives_idle(SILENCE)
            .keepalives_interval(SILENCE)
            .keepalives_retries(2)
            .tcp_user_timeout(2 * SILENCE);
        if config.get_application_name().is_none() {
            config.application_name(APPLICATION);
        }
        Ok(Self { hosts: one_for_each_host(&config), tls, shown: shown(&config) })
    }
}

impl fmt::Display for PostgresPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresPlace({})", self.shown)
    }
}

/// The parameters that the driver does not know, and the URL without them.
struct OwnParameters {
    url: String,
    ssl_mode: Option<String>,
    root_certificates: Option<PathBuf>,
    password_file: Option<PathBuf>,
}

impl OwnParameters {
    fn split(url: &str) -> Self {
        let (front, parameters) = url.split_once('?').unwrap_or((url, ""));
        let mut own = Self { url: front.to_owned(), ssl_mode: None, root_certificates: None, password_file: None };
        let mut others = Vec::new();
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", mode)) => own.ssl_mode = Some(mode.to_owned()),
                Some(("sslrootcert", path)) => own.root_certificates = Some(path.into()),
                Some(("password_file", path)) => own.password_file = Some(path.into()),
                _ => others.push(parameter),
            }
        }
        if !others.is_empty() {
            own.url = format!("{front}?{}", others.join("&"));
        }
        own
    }

    /// Whether somebody who meant something else may have written it: the driver takes the first `@` for the end of the password,
    /// and what is left of that for a host and a database, which are shown.
    fn is_ambiguous(&self) -> bool {
        let front = self.url.split('?').next().unwrap_or_default();
        let mut escapes = self.url.split('%').skip(1);
        let paths = self.root_certificates.iter().chain(&self.password_file);
        front.matches('@').count() > 1
            || !escapes.all(|rest| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)))
            || paths.into_iter().any(|path| path.to_string_lossy().contains(NEITHER_HOST_NOR_DATABASE))
    }
}

/// What stands behind `postgres://`, whose letters may be of either case.
fn without_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    ["postgres", "postgresql"].iter().any(|known| scheme.eq_ignore_ascii_case(known)).then_some(rest)
}

/// Whether a host or the database, which are shown, holds what was meant as a password or a parameter.
fn holds_more_than_a_place(config: &Config) -> bool {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    });
    let mut names = hosts.chain(config.get_dbname().map(str::to_owned));
    names.any(|name| name.contains(NEITHER_HOST_NOR_DATABASE))
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || IpAddr::from_str(name).is_ok_and(|address| address.is_loopback()),
    }
}

fn tls_with(path: &Path) -> Result<PostgresTls, PlaceError> {
    let text = read(path)?;
    let mut roots = RootCertStore::empty();
    let none = || PlaceError::File { path: path.into(), why: "it holds no certificate in PEM form".into() };
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots.add(certificate.map_err(|_| none())?).map_err(|_| none())?;
    }
    if roots.is_empty() {
        return Err(none());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| PlaceError::File { path: path.into(), why: error.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(PostgresTls(Arc::new(config)))
}

fn read(path: &Path) -> Result<String, PlaceError> {
    fs::read_to_string(path).map_err(|error| PlaceError::File { path: path.into(), why: error.to_string() })
}

/// The driver would try one host after the other within one call, and its time-out covers only the first step of each.
fn one_for_each_host(config: &Config) -> Vec<Config> {
    let hosts = config.get_hosts().iter().enumerate();
    hosts
        .map(|(place, host)| {
            let mut one = Config::new();
            match host {
                Host::Tcp(name) => one.host(name),
                Host::Unix(path) => one.host_path(path),
            };
            one.port(port_of(config, place))
                .user(config.get_user().unwrap_or_default())
                .dbname(config.get_dbname().unwrap_or_default())
                .application_name(config.get_application_name().unwrap_or_default())
                .ssl_mode(config.get_ssl_mode())
                .ssl_negotiation(config.get_ssl_negotiation())
                .target_session_attrs(config.get_target_session_attrs())
                .keepalives_idle(SILENCE)
                .keepalives_interval(SILENCE)
                .keepalives_retries(2)
                .tcp_user_timeout(2 * SILENCE);
            if let Some(password) = config.get_password() {
                one.password(password);
            }
            if let Some(options) = config.get_options() {
                one.options(options);
            }
            one
        })
        .collect()
}

fn port_of(config: &Config, place: usize) -> u16 {
    let ports = config.get_ports();
    ports.get(place).or(ports.first()).copied().unwrap_or(5432)
}

fn shown(config: &Config) -> String {
    let hosts = config.get_hosts().iter().enumerate().map(|(place, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port_of(config, place)),
        Host::Unix(path) => format!("{}:{}", path.display(), port_of(config, place)),
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let (user, database) = (config.get_user().unwrap_or_default(), config.get_dbname().unwrap_or_default());
    format!("postgres://{user}@{hosts}/{database}")
}

/// What separates the parts of a URL, and stands in no name that is shown but a user's.
const NEITHER_HOST_NOR_DATABASE: [char; 5] = ['@', '&', ';', '=', '?'];

/// What a connection calls itself, unless its URL says otherwise.
pub(super) const APPLICATION: &str = "bluetrace";

/// After so long without a byte the other end is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let place = PostgresPlace::parse("postgres://desk:se%63ret@localhost,[::1]:99/trace?application_name=x", None);
        let place = place.unwrap();
        assert_eq!(place.to_string(), "postgres://desk@localhost:5432,::1:99/trace");
        assert_eq!(place.hosts.len(), 2);
        assert_eq!(place.hosts[1].get_password(), Some(&b"secret"[..]));
        assert!(!format!("{place:?}").contains("ecret"));
        let error = PostgresPlace::parse("postgres://desk:secret@localhost/trace?nonsense=secret", None).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn what_may_be_a_part_of_a_password_is_refused_and_not_repeated() {
        for url in [
            "postgres://bt:p@ssw0rd@127.0.0.1:5/bt",
            "postgres://bt:a@b/ssw0rd@h:1/bt",
            "postgres://bt@127.0.0.1/bt&password=ssw0rd",
            "postgres://bt@127.0.0.1/bt;password=ssw0rd",
            "postgres://bt@127.0.0.1/bt password=ssw0rd",
            "postgres://bt:ssw0rd%@127.0.0.1/bt",
            "postgres://bt:%ssw0rd@127.0.0.1/bt",
            "postgres://bt:x@127.0.0.1/bt%40ssw0rd",
            "postgres://bt:x@ssw0rd%40127.0.0.1/bt",
            "postgres://bt@127.0.0.1/bt?password_file=/nowhere;password=ssw0rd",
        ] {
            let error = PostgresPlace::parse(url, None).unwrap_err();
            assert!(matches!(error, PlaceError::Ambiguous), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("ssw0rd") && error.to_string().contains("%40"), "{error}");
        }
        let place = PostgresPlace::parse("Postgres://bt:p%40s%2Fs%25@127.0.0.1:5/bt", None).unwrap();
        assert_eq!(place.hosts[0].get_password(), Some(&b"p@s/s%"[..]));
        assert_eq!(place.to_string(), "postgres://bt@127.0.0.1:5/bt");
    }

    #[test]
    fn a_password_may_come_from_a_file_or_from_the_caller() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "of the file\n").unwrap();
        let url = format!("postgres://desk@localhost/trace?password_file={}", path.display());
        let password = |url: &str| {
            let place = PostgresPlace::parse(url, Some("of the caller")).unwrap();
            String::from_utf8(place.hosts[0].get_password().unwrap().to_vec()).unwrap()
        };
        assert_eq!(password(&url), "of the file");
        assert_eq!(password("postgres://desk@localhost/trace"), "of the caller");
        assert_eq!(password("postgres://desk:own@localhost/trace"), "own");
    }

    #[test]
    fn what_would_go_over_a_network_in_the_clear_has_to_be_asked_for() {
        let parse = |url: &str| PostgresPlace::parse(url, None);
        for here in ["localhost", "127.0.0.1", "[::1]", "%2Frun%2Fpostgresql"] {
            assert!(parse(&format!("postgres://desk@{here}/trace")).unwrap().tls.is_none(), "{here}");
        }
        assert!(matches!(parse("postgres://desk@localhost,db.example/trace"), Err(PlaceError::Plaintext)));
        assert!(parse("postgres://desk@db.example/trace?sslmode=disable").unwrap().tls.is_none());
        for mode in ["prefer", "require", "verify-full"] {
            let outcome = parse(&format!("postgres://desk@db.example/trace?sslmode={mode}"));
            assert!(matches!(outcome, Err(PlaceError::SslMode)), "{mode}");
        }
        let missing = parse("postgres://desk@db.example/trace?sslmode=verify-full&sslrootcert=/nowhere/ca.pem");
        assert!(matches!(missing, Err(PlaceError::File { .. })));
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |url: &str| PostgresPlace::parse(url, None).unwrap_err().to_string();
        assert!(missing("postgres://localhost/trace").contains("no user"));
        assert!(missing("postgres://desk@localhost").contains("no database"));
        assert!(missing("mysql://desk@localhost/trace").contains("no URL"));
    }
}
