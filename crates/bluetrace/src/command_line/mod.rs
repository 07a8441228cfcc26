//! Owns the command line: names, orders and defaults (PROTOCOL section 6). Nothing here looks at the machine.
//!
//! This file has what a person, a server and a device are asked; the operator's commands and the tools are beside it.

mod load;
mod operator;
mod store;
mod temp_id;
mod values;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bluetrace_authority::Scheme;
use bluetrace_server::code_sender::{CodeCommand, CodeText, WebhookUrl};
use clap::{Args, Parser, Subcommand, ValueEnum};
use zeroize::Zeroizing;

pub(crate) use self::load::{LoadOptions, Protocol};
pub(crate) use self::operator::{
    CodeAction, CodeIssue, CodeOptions, ExportFormat, ExportKind, ExportOptions, KeysAction, KeysOptions, NamedUser,
    PinOptions, UserAction, UserOptions,
};
pub(crate) use self::store::{CopyArguments, StoreAction, StoreOptions, StorePlace};
pub(crate) use self::temp_id::{KeyHex, TempIdAction, TempIdOptions};
use self::values::{
    address, at_least_one, block_duration, code_command, code_text, code_webhook, http_place, key_period, port,
    seconds, store_url, temp_id_lifetime,
};

/// BlueTrace contact tracing: a health authority's server, a device in the terminal, and beacons between devices.
#[derive(Debug, Parser)]
#[command(name = "bluetrace", version, about, propagate_version = true, max_term_width = 100)]
pub(crate) struct CommandLine {
    /// How much the log on standard error tells.
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Info, env = "BLUETRACE_LOG")]
    pub(crate) log_level: LogLevel,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the health authority's server.
    Server(ServerOptions),
    /// Run a device in this terminal.
    Client(ClientOptions),
    /// Watch everything at once: an authority, three devices and an adversary, on this machine, in under a minute.
    Demo(DemoOptions),
    /// Look after the accounts; works while the server runs.
    User(UserOptions),
    /// Write what the authority holds to standard output; works while the server runs.
    Export(ExportOptions),
    /// Look after the keys that seal TempIDs; works while the server runs.
    Keys(KeysOptions),
    /// Look at the configuration: what is in force, or a sample.
    Config(ConfigOptions),
    /// Examine an authority, running or not, and say what to do about each finding; changes nothing.
    Doctor(DoctorOptions),
    /// Issue, list and revoke upload codes; works while the server runs.
    Code(CodeOptions),
    /// Show the PIN that proves an official to a person, whose device shows the same.
    Pin(PinOptions),
    /// Look after the store: bring it up to date, examine it, copy it into another one.
    Store(StoreOptions),
    /// Try what servers of yours can do: many devices at once that log in, fetch TempIDs and upload, and ask in the end whether
    /// everything that was acknowledged is there.
    Load(LoadOptions),
    /// Look into sealed TempIDs, or make some: from standard input to standard output, without an authority.
    Tempid(TempIdOptions),
}

/// Where an authority lives, and its configuration. A command with these is given what the file and the environment say
/// of its options, where the command line does not ([`crate::config`]).
#[derive(Debug, Clone, Args)]
pub(crate) struct AuthorityFolder {
    /// The configuration [default: `BLUETRACE_CONFIG`, or bluetrace.toml here or in the data folder, if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the authority's store, keys and certificate.
    #[arg(long, value_name = "DIR", default_value = "bluetrace-data")]
    pub(crate) data_dir: PathBuf,
    /// PostgreSQL database that servers share, instead of the one in the folder: `postgres://USER@HOST/DATABASE`.
    #[arg(long, value_name = "URL", hide_env_values = true, value_parser = store_url)]
    pub(crate) store: Option<StoreUrl>,
}

/// Where a database is. It may hold a password.
#[derive(Clone)]
pub(crate) struct StoreUrl(pub(crate) Zeroizing<String>);

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreUrl(..)")
    }
}

/// The settings of a server. Each argument is one: its name, kind, default and text are also those of the key in
/// `bluetrace.toml`, of the variable and of the sample, by the rules of [`crate::config`]. Nothing else is to be written.
#[derive(Debug, Args)]
#[command(
    after_help = "All of it can also be set in bluetrace.toml and in the environment: see `bluetrace config sample`."
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub(crate) struct ServerOptions {
    /// TCP port for devices; 0 takes a free one.
    #[arg(default_value_t = 4000, value_parser = port)]
    pub(crate) port: u16,
    /// Seconds for which three wrong passwords in a row block an account.
    #[arg(default_value_t = 60, value_parser = block_duration)]
    pub(crate) block_duration: u32,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
    /// Address to listen on [default: all, IPv6 and IPv4].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) bind: Option<IpAddr>,
    /// Accounts to import at start [default: credentials.txt, if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) credentials: Option<PathBuf>,
    /// TempIDs to import at start [default: tempIDs.txt, if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) tempids: Option<PathBuf>,
    /// What kind of TempIDs to issue. Those of the other kind are resolved all the same.
    #[arg(long, value_name = "SCHEME", value_enum, default_value_t = TempIdScheme::Registry)]
    pub(crate) tempid_scheme: TempIdScheme,
    /// How long a key seals TempIDs before the next one does, at least a minute.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = key_period)]
    pub(crate) key_period: u32,
    /// How long a TempID may be shown, up to a day.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = temp_id_lifetime)]
    pub(crate) tempid_lifetime: u32,
    /// How long TempIDs, uploads and notices are kept.
    #[arg(long, value_name = "DURATION", default_value = "21d", value_parser = seconds)]
    pub(crate) retention: u32,
    /// How long a session can be resumed without a password.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = seconds)]
    pub(crate) resume_lifetime: u32,
    /// Within this time of connecting a login must have succeeded.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = seconds)]
    pub(crate) login_timeout: u32,
    /// A session that sends nothing for this long ends.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = seconds)]
    pub(crate) idle_timeout: u32,
    /// Most connections at once [default: as many as the limit of open files allows].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) max_connections: Option<usize>,
    /// Most connections at once from one address [default: 4096].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) max_connections_per_address: Option<usize>,
    /// Serve plaintext to every address, not just to this machine.
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
    // ---- upload codes
    /// Take an upload only with a code of `bluetrace code issue`.
    #[arg(long)]
    pub(crate) require_upload_codes: bool,
    // ---- the HTTPS API
    /// Address of the HTTPS API, or `off` [default: 127.0.0.1:4080].
    #[arg(id = "http_address", long = "http", value_name = "ADDR", value_parser = http_place, help_heading = "HTTP")]
    pub(crate) http: Option<HttpPlace>,
    /// Most connections at once to the HTTPS API [default: a quarter of what the limit of open files allows].
    #[arg(id = "http_max_connections", long = "http-max-connections", value_name = "N", value_parser = at_least_one, help_heading = "HTTP")]
    pub(crate) http_max_connections: Option<usize>,
    /// Do not limit the rates of an account or an address over HTTP: for a server behind a proxy that does, or a measurement.
    #[arg(id = "http_no_rate_limits", long = "no-rate-limits", help_heading = "HTTP")]
    pub(crate) no_rate_limits: bool,
    /// Judge the records of OpenTrace uploads as its reference does, which believes more than it should: ids with something behind
    /// them, records without a time, contacts with oneself. For comparing with the reference; not for acting on.
    #[arg(id = "http_opentrace_compatible", long = "opentrace-compatible", help_heading = "HTTP")]
    pub(crate) opentrace_compatible: bool,
    // ---- registration
    #[command(flatten)]
    pub(crate) registration: RegistrationOptions,
}

/// A kind of TempIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TempIdScheme {
    /// Random digits; a row of the database for each.
    Registry,
    /// OpenTrace's: owner and window under a key that changes daily; nothing is stored for one.
    Sealed,
}

impl From<TempIdScheme> for Scheme {
    fn from(scheme: TempIdScheme) -> Self {
        match scheme {
            TempIdScheme::Registry => Self::Registry,
            TempIdScheme::Sealed => Self::Sealed,
        }
    }
}

/// How one-time codes are sent to people who register with their phone numbers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registration")]
pub(crate) struct RegistrationOptions {
    /// Program that sends one-time codes, with its arguments [default: they are shown on the console].
    #[arg(id = "registration_code_command", long = "code-command", value_name = "PROGRAM", value_parser = code_command)]
    pub(crate) command: Option<CodeCommand>,
    /// Address to which one-time codes are posted as JSON; https, or http on this machine.
    #[arg(id = "registration_code_webhook", long = "code-webhook", value_name = "URL", value_parser = code_webhook, hide_env_values = true)]
    pub(crate) webhook: Option<WebhookUrl>,
    /// File whose first line is the bearer token for that address.
    #[arg(id = "registration_code_webhook_token_file", long = "code-webhook-token-file", value_name = "FILE")]
    pub(crate) webhook_token_file: Option<PathBuf>,
    /// What a person is sent; the code stands where {code} does.
    #[arg(id = "registration_code_text", long = "code-text", value_name = "TEXT", default_value = CODE_TEXT, value_parser = code_text)]
    pub(crate) text: CodeText,
}

/// Where the HTTPS API is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpPlace {
    Off,
    At(SocketAddr),
}

#[derive(Debug, Args)]
pub(crate) struct ClientOptions {
    /// Address or name of the server; of several, with commas between them, the next is used when one fails: each may be 'HOST:PORT'.
    pub(crate) server_ip: String,
    /// TCP port of the server, and of all servers that name none.
    #[arg(value_parser = port)]
    pub(crate) server_port: u16,
    /// UDP port on which this device hears beacons.
    #[arg(value_parser = port)]
    pub(crate) udp_port: u16,
    /// Folder of this device's contact log, unfinished upload and known servers.
    #[arg(long, value_name = "DIR", default_value = "bluetrace-device")]
    pub(crate) data_dir: PathBuf,
    /// How long a beacon is kept in the contact log.
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = seconds)]
    pub(crate) retention: u32,
    /// Who logs in, instead of the prompt.
    #[arg(long, value_name = "U")]
    pub(crate) username: Option<String>,
    #[command(flatten)]
    pub(crate) password: PasswordSource,
    /// Do not use TLS.
    #[arg(long)]
    pub(crate) plaintext: bool,
    /// Do not download TempIDs at login.
    #[arg(long)]
    pub(crate) no_tempid: bool,
}

/// Where a password comes from when nobody is to be asked. No option takes a password: those are seen by others.
#[derive(Debug, Clone, Args)]
pub(crate) struct PasswordSource {
    /// File whose first line is the password, instead of the prompt; the variable `BLUETRACE_PASSWORD` holds it otherwise.
    #[arg(long, value_name = "F")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Leave the authority running at the end, and say how to join it.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigOptions {
    #[command(subcommand)]
    pub(crate) action: ConfigAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Show what a server with these options would run with, and where each value comes from.
    Check(Box<ServerOptions>),
    /// Print a commented bluetrace.toml that holds the defaults.
    Sample,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// One JSON object instead of lines.
    #[arg(long)]
    pub(crate) json: bool,
    /// As the server that is examined was started with.
    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

/// Says what it is, how long it is good, and what is asked of people all the time who give theirs away.
const CODE_TEXT: &str = "{code} is your BlueTrace code for the next 10 minutes. Give it to nobody.";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_server_needs_no_argument() {
        let Command::Server(options) = CommandLine::parse_from(["bluetrace", "server"]).command else { panic!() };
        assert_eq!((options.port, options.block_duration), (4000, 60));
        assert_eq!((options.tempid_lifetime, options.retention), (900, 1_814_400));
        assert_eq!((options.http, options.no_rate_limits), (None, false));
    }
}
