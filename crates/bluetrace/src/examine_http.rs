//! Owns what the doctor says of the HTTPS API: whether it answers where it should, with the certificate in the data folder.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use bluetrace_client::in_words;
use bluetrace_server::probe::{Answer, who_answers};
use bluetrace_server::tls::ServerTls;

use crate::command_line::{HttpPlace, ServerOptions};
use crate::doctor::{Level, PATIENCE, Report};
use crate::serve::DEFAULT_HTTP_PORT;

impl Report {
    /// `is_served` says whether a server runs on the data folder, whose certificate `tls` is.
    pub(crate) fn http(&mut self, server: &ServerOptions, is_served: bool, tls: Option<&ServerTls>) {
        let place = server.http.unwrap_or(HttpPlace::At(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_HTTP_PORT))));
        let HttpPlace::At(asked) = place else { return self.ok(CHECK, "there is none: --http off") };
        if asked.port() == 0 {
            return self.ok(CHECK, "port 0 takes a free one");
        }
        let local = match asked.ip() {
            address if !address.is_unspecified() => address,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        // a server goes on without where nobody has said where it should be
        let level = if server.http.is_some() { Level::Error } else { Level::Warning };
        let elsewhere = "say where with --http ADDR, or --http off";
        let is_own = |shown: &str| tls.is_some_and(|tls| tls.fingerprint() == shown);
        match (who_answers(SocketAddr::new(local, asked.port()), PATIENCE), is_served) {
            (Ok(Answer::Tls(shown)), _) if is_own(&shown) => {
                self.ok(CHECK, format!("the server answers on {asked} with its certificate"));
            }
            (Ok(Answer::Tls(_) | Answer::NoTls), _) => {
                self.find(CHECK, level, format!("another program has {asked}"), elsewhere);
            }
            (Ok(Answer::Nobody), true) => {
                let found = format!("a server runs, but nobody answers on {asked}");
                self.warning(CHECK, found, "examine with the --http that the server was started with");
            }
            (Ok(Answer::Nobody), false) => match TcpListener::bind(asked) {
                Ok(_) => self.ok(CHECK, format!("no server runs; {asked} is free")),
                Err(error) => {
                    self.find(CHECK, level, format!("{asked} cannot be used: {}", in_words(&error)), elsewhere);
                }
            },
            (Err(error), _) => {
                let found = format!("{asked}: {}", in_words(&error));
                self.warning(CHECK, found, "see that the address is this machine's");
            }
        }
    }
}

const CHECK: &str = "HTTPS API";
