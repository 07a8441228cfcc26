//! Owns the words of `bluetrace load`.

use std::path::PathBuf;

use bluetrace_client::load::LoadProtocol;
use clap::{Args, ValueEnum};

use super::StoreUrl;
use super::values::{seconds, store_url};

#[derive(Debug, Args)]
#[command(after_help = "An example, in a folder of its own:\n  \
    bluetrace load --make-accounts 20\n  \
    bluetrace server --credentials load-accounts.txt --max-connections-per-address 20000 >/dev/null &\n  \
    bluetrace load --devices 1000 --records 500 --duration 1m")]
pub(crate) struct LoadOptions {
    /// Servers of one authority: HOST or HOST:PORT, with commas between several [default: 127.0.0.1, port 4000, or 4080 for http].
    #[arg(long, value_name = "LIST")]
    pub(crate) server: Option<String>,
    /// What devices speak: the session protocol over TCP, or the HTTPS API.
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value_t = Protocol::Tcp)]
    pub(crate) protocol: Protocol,
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
    /// Look into the authority's store afterwards, for every record that was acknowledged: its data folder on this machine.
    #[arg(long, value_name = "DIR")]
    pub(crate) check_store: Option<PathBuf>,
    /// With --check-store: the PostgreSQL database that servers share, instead of the one in the folder.
    #[arg(long, value_name = "URL", requires = "check_store", value_parser = store_url)]
    pub(crate) store: Option<StoreUrl>,
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

/// What devices of a load speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Http,
}

impl Protocol {
    /// The port where a server listens for it, if nothing else is said.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Tcp => 4000,
            Self::Http => 4080,
        }
    }
}

impl From<Protocol> for LoadProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Http => Self::Http,
        }
    }
}
