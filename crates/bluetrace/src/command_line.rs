//! Owns the command line: names, orders and defaults (PROTOCOL section 6). Nothing here looks at the machine.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bluetrace_authority::Scheme;
use bluetrace_authority::store::CodeForm;
use bluetrace_server::code_sender::{CodeCommand, CodeText, WebhookUrl};
use bluetrace_server::postgres::PostgresPlace;
use clap::{Args, Parser, Subcommand, ValueEnum};
use zeroize::Zeroizing;

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

fn store_url(text: &str) -> Result<StoreUrl, String> {
    if PostgresPlace::is_meant(text) {
        Ok(StoreUrl(Zeroizing::new(text.to_owned())))
    } else {
        Err("not the URL of a PostgreSQL database, such as postgres://bluetrace@localhost/bluetrace".to_owned())
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
#[command(after_help = "An example, in a folder of its own:\n  \
    bluetrace load --make-accounts 20\n  \
    bluetrace server --credentials load-accounts.txt --max-connections-per-address 20000 >/dev/null &\n  \
    bluetrace load --devices 1000 --records 500 --duration 1m")]
pub(crate) struct LoadOptions {
    /// Servers of one authority: HOST or HOST:PORT, with commas between several.
    #[arg(long, value_name = "LIST", default_value = "127.0.0.1:4000")]
    pub(crate) server: String,
    /// How many devices.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) devices: u32,
    /// How many records each upload has.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) records: u32,
    /// How many TempIDs a device fetches after its login.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) temp_ids: u32,
    /// How often each device uploads [default: once, or with --duration as often as it can].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uploads: Option<u32>,
    /// For how long uploads are begun.
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub(crate) duration: Option<u32>,
    /// The time from one upload of a device to its next [default: none, as fast as it can].
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub(crate) every: Option<u32>,
    /// Accounts of the devices, in the form of credentials.txt. Devices share them where there are fewer.
    #[arg(long, value_name = "FILE", default_value = "load-accounts.txt")]
    pub(crate) accounts: PathBuf,
    /// Write a file of so many accounts with random passwords for --accounts and for the server's --credentials, and end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) make_accounts: Option<u32>,
    /// How many devices may be logging in with a password at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) logins_at_once: u32,
    /// Write the results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Folder of known servers.
    #[arg(long, value_name = "DIR", default_value = "bluetrace-device")]
    pub(crate) data_dir: PathBuf,
    /// Speak to servers without encryption. They take it from this machine only, unless told otherwise.
    #[arg(long)]
    pub(crate) plaintext: bool,
    /// Let the load go to other machines than this one: only with the consent of whoever runs them.
    #[arg(long)]
    pub(crate) i_own_this_server: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Leave the authority running at the end, and say how to join it.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UserOptions {
    #[command(subcommand)]
    pub(crate) action: UserAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserAction {
    /// Open an account; asks for its password.
    Add(NamedUser),
    /// List the accounts.
    List {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Remove an account, its TempIDs, uploads and notices.
    Remove {
        /// Whose.
        username: String,
        /// Do not ask whether that is meant.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Set an account's password; ends its sessions' resume tokens and a block.
    Password(NamedUser),
}

#[derive(Debug, Args)]
pub(crate) struct NamedUser {
    /// Whose.
    pub(crate) username: String,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
    #[command(flatten)]
    pub(crate) password: PasswordSource,
}

#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// What to write.
    #[arg(value_enum)]
    pub(crate) what: ExportKind,
    /// How to write it. TempIDs are written as `tempIDs.txt` has them, unless as JSON lines.
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub(crate) format: ExportFormat,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportKind {
    /// Every TempID issued or imported, with its owner.
    Tempids,
    /// Every upload.
    Uploads,
    /// Every uploaded record, and whom it leads to.
    Contacts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
    Jsonl,
}

// ---- Sealing keys

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

// ---- Upload codes and handshake PINs

#[derive(Debug, Args)]
pub(crate) struct CodeOptions {
    #[command(subcommand)]
    pub(crate) action: CodeAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CodeAction {
    /// Issue a code for one upload, and show it this once.
    Issue(CodeIssue),
    /// List the codes by their numbers, with their cases, who issued them and how far they have come.
    List {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Take a code back. An unfinished upload that was begun with it is dropped.
    Revoke {
        /// Its number, as it was issued and as it is listed.
        #[arg(value_parser = code_number)]
        number: i64,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Let somebody try again who has typed too many wrong codes; `bluetrace user list` shows who has.
    Unblock {
        /// Whose.
        username: String,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CodeIssue {
    /// What you call the case that the code is for.
    #[arg(long, value_name = "TEXT")]
    pub(crate) case: Option<String>,
    /// How it is written: 8 characters, or 6 digits, which are all that OpenTrace's apps take and live a shorter time.
    #[arg(long, value_enum, default_value_t = CodeLength::Eight)]
    pub(crate) length: CodeLength,
    /// How long it can be redeemed [default: 24h; 15m with 6 digits].
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub(crate) valid_for: Option<u32>,
    /// Who issues it [default: the user of this machine].
    #[arg(long, value_name = "NAME")]
    pub(crate) issued_by: Option<String>,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodeLength {
    #[value(name = "8")]
    Eight,
    #[value(name = "6")]
    Six,
}

impl CodeLength {
    pub(crate) const fn form(self) -> CodeForm {
        match self {
            Self::Eight => CodeForm::Eight,
            Self::Six => CodeForm::Six,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeysOptions {
    #[command(subcommand)]
    pub(crate) action: KeysAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysAction {
    /// List the keys there are and were: when each seals, its age, how often it has sealed. Never the keys themselves.
    List {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Begin a new key at once. The one before goes on opening what it sealed.
    Rotate {
        #[command(flatten)]
        folder: AuthorityFolder,
    },
    /// Destroy a key before its time: no TempID that it sealed can be resolved any more.
    Shred {
        /// Its number in the list.
        id: i64,
        /// Do not ask whether that is meant.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        folder: AuthorityFolder,
    },
}

fn key_period(text: &str) -> Result<u32, String> {
    const MINUTE_S: u32 = 60;
    seconds(text).and_then(|seconds| {
        if seconds >= MINUTE_S { Ok(seconds) } else { Err("a key seals for a minute or longer".to_owned()) }
    })
}

// Configuration and doctor.

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

#[derive(Debug, Args)]
pub(crate) struct PinOptions {
    /// Whose device shows it.
    pub(crate) username: String,
    #[command(flatten)]
    pub(crate) folder: AuthorityFolder,
}

#[derive(Debug, Args)]
pub(crate) struct TempIdOptions {
    #[command(subcommand)]
    pub(crate) action: TempIdAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TempIdAction {
    /// Open TempIDs, one a line; answers each with a line of JSON: tempid and uid, start, expiry, or error.
    Open {
        /// Key of 64 hexadecimal digits; several are tried in their order. Whoever lists processes here sees it.
        #[arg(long, value_name = "HEX", required = true)]
        key_hex: Vec<KeyHex>,
        /// Take every text that OpenTrace's server takes for a TempID, not just the one text that each has.
        #[arg(long)]
        opentrace_compatible: bool,
    },
    /// Seal lines of JSON with uid, start, expiry and, if it is not to be random, `iv_hex`; answers each with tempid or error.
    Seal {
        /// Key of 64 hexadecimal digits. Whoever lists processes here sees it.
        #[arg(long, value_name = "HEX")]
        key_hex: KeyHex,
    },
}

/// A key as typed. It is checked later: what is wrong with an argument is shown with the argument.
#[derive(Clone)]
pub(crate) struct KeyHex(pub(crate) Zeroizing<String>);

impl From<String> for KeyHex {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for KeyHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHex(..)")
    }
}

/// Reads a duration such as `15m`, `21d`, `1h 30m`, or a plain number of seconds: 1 second to 136 years.
fn seconds(text: &str) -> Result<u32, String> {
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "not a duration such as 90s, 15m, 12h or 21d".to_owned())?
            .as_secs(),
    };
    u32::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "a duration is a second or more, and 136 years at the most".to_owned())
}

fn code_number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "a code is taken back by its number, which `bluetrace code list` shows".to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "a port is a number from 0 to 65535".to_owned())
}

fn block_duration(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "a block lasts a whole number of seconds".to_owned())
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "not an IPv4 or IPv6 address".to_owned())
}

fn http_place(text: &str) -> Result<HttpPlace, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(HttpPlace::Off);
    }
    let place = text.parse().map(HttpPlace::At);
    place.map_err(|_| "not an address and port such as 127.0.0.1:4080 or [::]:4080, and not `off`".to_owned())
}

fn code_command(text: &str) -> Result<CodeCommand, String> {
    CodeCommand::parse(text).ok_or_else(|| "a program is needed".to_owned())
}

fn code_webhook(text: &str) -> Result<WebhookUrl, String> {
    WebhookUrl::parse(text).map_err(|error| error.to_string())
}

fn code_text(text: &str) -> Result<CodeText, String> {
    CodeText::parse(text).map_err(|error| error.to_string())
}

/// Says what it is, how long it is good, and what is asked of people all the time who give theirs away.
const CODE_TEXT: &str = "{code} is your BlueTrace code for the next 10 minutes. Give it to nobody.";

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a whole number, 1 or more, is needed".to_owned())
}

fn temp_id_lifetime(text: &str) -> Result<u32, String> {
    const DAY_S: u32 = 24 * 60 * 60;
    seconds(text).and_then(|seconds| {
        if seconds <= DAY_S { Ok(seconds) } else { Err("a TempID lives a day at the most".to_owned()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn durations_are_read_with_units_or_as_seconds() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("21d", 1_814_400), ("1h 30m", 5_400)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-5", "0s", "fifteen", "15 parsecs", "9999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(temp_id_lifetime("24h").is_ok() && temp_id_lifetime("25h").is_err());
    }

    #[test]
    fn the_https_api_is_at_an_address_and_port_or_off() {
        assert_eq!(http_place("off"), Ok(HttpPlace::Off));
        assert_eq!(http_place("[::1]:0"), Ok(HttpPlace::At("[::1]:0".parse().unwrap())));
        for text in ["", "4080", "127.0.0.1", "localhost:4080", "127.0.0.1:65536"] {
            assert!(http_place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_needs_no_argument() {
        let Command::Server(options) = CommandLine::parse_from(["bluetrace", "server"]).command else { panic!() };
        assert_eq!((options.port, options.block_duration), (4000, 60));
        assert_eq!((options.tempid_lifetime, options.retention), (900, 1_814_400));
        assert_eq!((options.http, options.no_rate_limits), (None, false));
    }
}
