//! Owns where the authority is: a server's address, and the list of servers that are one authority.

use std::fmt;

use thiserror::Error;

/// Where a server is, as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// A name or an address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// The servers of one authority, in the order in which they are tried. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers(Vec<ServerAddress>);

/// Why a text is no list of servers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServersError {
    /// Nothing stands between two commas, or nothing at all.
    #[error("a server is missing in '{list}': write 'HOST' or 'HOST:PORT', with commas between several")]
    Missing {
        /// The list.
        list: String,
    },
    /// What stands behind the last colon is no port.
    #[error(
        "'{server}' has no port from 1 to 65535 behind its colon; an IPv6 address with a port is written '[::1]:4000'"
    )]
    Port {
        /// The entry.
        server: String,
    },
    /// It is there twice.
    #[error("{server} is in the list of servers twice")]
    Twice {
        /// The entry.
        server: ServerAddress,
    },
}

impl Servers {
    /// Reads `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address, with commas between several (PROTOCOL section 6). Those that
    /// name no port have `port`.
    ///
    /// # Errors
    /// [`ServersError`] names the entry that is wrong.
    pub fn parse(list: &str, port: u16) -> Result<Self, ServersError> {
        let mut servers = Vec::new();
        for entry in list.split(',').map(str::trim) {
            let server = ServerAddress::parse(entry, port).ok_or_else(|| {
                if entry.is_empty() {
                    ServersError::Missing { list: list.to_owned() }
                } else {
                    ServersError::Port { server: entry.to_owned() }
                }
            })?;
            if servers.contains(&server) {
                return Err(ServersError::Twice { server });
            }
            servers.push(server);
        }
        Ok(Self(servers))
    }

    /// Each in turn.
    pub fn iter(&self) -> impl Iterator<Item = &ServerAddress> {
        self.0.iter()
    }
}

impl From<ServerAddress> for Servers {
    fn from(server: ServerAddress) -> Self {
        Self(vec![server])
    }
}

impl ServerAddress {
    /// `None` for a text without a host, and where a colon is not followed by a port.
    fn parse(text: &str, port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, port),
            Some((host, rest)) => (host, rest.strip_prefix(':')?.parse().ok()?),
            None => match text.split_once(':') {
                // more than one: an IPv6 address
                Some((_, rest)) if rest.contains(':') => (text, port),
                Some((host, rest)) => (host, rest.parse().ok()?),
                None => (text, port),
            },
        };
        (!host.is_empty() && port != 0).then(|| Self { host: host.to_owned(), port })
    }
}

/// `host:port`, with brackets around an IPv6 address: the form of `known_servers`.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// With commas between them.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.0.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_of_a_list_may_name_a_port() {
        for (list, read) in [
            ("127.0.0.1", "127.0.0.1:4000"),
            ("a,b:4001 , c", "a:4000, b:4001, c:4000"),
            ("::1", "[::1]:4000"),
            ("[::1],[::1]:4001,fe80::2", "[::1]:4000, [::1]:4001, [fe80::2]:4000"),
        ] {
            assert_eq!(Servers::parse(list, 4000).unwrap().to_string(), read);
        }
    }

    #[test]
    fn what_is_no_list_of_servers_is_refused_by_its_entry() {
        for (list, error) in [
            ("", ServersError::Missing { list: String::new() }),
            ("a,,b", ServersError::Missing { list: "a,,b".into() }),
            ("a,", ServersError::Missing { list: "a,".into() }),
            ("a:", ServersError::Port { server: "a:".into() }),
            ("a,b:0", ServersError::Port { server: "b:0".into() }),
            ("b:65536", ServersError::Port { server: "b:65536".into() }),
            ("[::1]4000", ServersError::Port { server: "[::1]4000".into() }),
            (":4000", ServersError::Port { server: ":4000".into() }),
        ] {
            assert_eq!(Servers::parse(list, 4000), Err(error), "{list}");
        }
        let twice = Servers::parse("a,b,a:4000", 4000);
        assert_eq!(twice.unwrap_err().to_string(), "a:4000 is in the list of servers twice");
    }
}
