//! Owns what the doctor says of ports: whether a server answers where it should, for devices and over HTTPS, with the
//! certificate in the data folder.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use bluetrace_client::in_words;
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::probe::{Answer, who_answers};
use bluetrace_server::tls::ServerTls;

use super::{AS_ITS_OWNER, Level, Report};
use crate::command_line::{HttpPlace, ServerOptions};
use crate::serve::DEFAULT_HTTP_PORT;

impl Report {
    pub(super) fn port(&mut self, server: &ServerOptions, folder: &DataFolder, tls: Option<&ServerTls>) {
        let (check, port) = ("port", server.port);
        let is_served = match folder.is_served() {
            Ok(is_served) => is_served,
            Err(error) => return self.error_with_remedy(check, &error, AS_ITS_OWNER),
        };
        if port == 0 {
            let state = if is_served { "a server runs" } else { "no server runs" };
            return self.ok(check, format!("{state}; port 0 takes a free one"));
        }
        let local = server.bind.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), local);
        let answer = who_answers(SocketAddr::new(local, port), PATIENCE);
        let other = "end it, or choose another port";
        let elsewhere = "examine with the port and address that the server was started with: `bluetrace doctor PORT`";
        match (answer, is_served) {
            (Ok(Answer::Tls(shown)), _) if is_own(tls, &shown) => {
                self.ok(check, format!("the server answers on port {port} with its certificate"));
            }
            (Ok(Answer::Tls(_) | Answer::NoTls), false) => {
                self.error(check, format!("another program has port {port}"), other);
            }
            (Ok(Answer::Tls(_) | Answer::NoTls), true) => {
                self.error(
                    check,
                    format!("a server runs, but another certificate or none is shown on port {port}"),
                    format!("start it again if the certificate was replaced; or {elsewhere}"),
                );
            }
            (Ok(Answer::Nobody), true) => {
                self.warning(check, format!("a server runs, but nobody answers on port {port} of {local}"), elsewhere);
            }
            (Ok(Answer::Nobody), false) => match TcpListener::bind(SocketAddr::new(server.bind.unwrap_or(local), port))
            {
                Ok(_) => self.ok(check, format!("no server runs; port {port} is free")),
                Err(error) => self.error(
                    check,
                    format!("port {port} of {local} cannot be used: {}", in_words(&error)),
                    "choose a port above 1023 and an address of this machine",
                ),
            },
            (Err(error), _) => self.warning(
                check,
                format!("port {port} of {local}: {}", in_words(&error)),
                "see that the address is this machine's",
            ),
        }
    }

    /// `is_served` says whether a server runs on the data folder, whose certificate `tls` is.
    pub(super) fn http(&mut self, server: &ServerOptions, is_served: bool, tls: Option<&ServerTls>) {
        let check = "HTTPS API";
        let place = server.http.unwrap_or(HttpPlace::At(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_HTTP_PORT))));
        let HttpPlace::At(asked) = place else { return self.ok(check, "there is none: --http off") };
        if asked.port() == 0 {
            return self.ok(check, "port 0 takes a free one");
        }
        // a server goes on without where nobody has said where it should be
        let level = if server.http.is_some() { Level::Error } else { Level::Warning };
        let elsewhere = "say where with --http ADDR, or --http off";
        match (who_answers(SocketAddr::new(local(asked.ip()), asked.port()), PATIENCE), is_served) {
            (Ok(Answer::Tls(shown)), _) if is_own(tls, &shown) => {
                self.ok(check, format!("the server answers on {asked} with its certificate"));
            }
            (Ok(Answer::Tls(_) | Answer::NoTls), _) => {
                self.find(check, level, format!("another program has {asked}"), elsewhere);
            }
            (Ok(Answer::Nobody), true) => {
                let found = format!("a server runs, but nobody answers on {asked}");
                self.warning(check, found, "examine with the --http that the server was started with");
            }
            (Ok(Answer::Nobody), false) => match TcpListener::bind(asked) {
                Ok(_) => self.ok(check, format!("no server runs; {asked} is free")),
                Err(error) => {
                    self.find(check, level, format!("{asked} cannot be used: {}", in_words(&error)), elsewhere);
                }
            },
            (Err(error), _) => {
                let found = format!("{asked}: {}", in_words(&error));
                self.warning(check, found, "see that the address is this machine's");
            }
        }
    }
}

/// Whether what was shown is this authority's certificate.
fn is_own(tls: Option<&ServerTls>, shown: &str) -> bool {
    tls.is_some_and(|tls| tls.fingerprint() == shown)
}

/// Where somebody on this machine finds what listens on an address: of all addresses, loopback.
const fn local(address: IpAddr) -> IpAddr {
    match address {
        _ if !address.is_unspecified() => address,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// For each step with who answers on the port.
const PATIENCE: Duration = Duration::from_secs(3);
