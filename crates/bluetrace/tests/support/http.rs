//! The HTTPS API of a real server, asked over plain HTTP on loopback.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use super::{PATIENCE, Place, RunningServer};

/// A server with the HTTPS API, and where that is.
pub(crate) fn start(place: &Place, options: &[&str]) -> (RunningServer, SocketAddr) {
    let mut command =
        place.bluetrace(&["server", "0", "--bind", "127.0.0.1", "--data-dir", "data", "--http", "127.0.0.1:0"]);
    let server = RunningServer::run(command.args(options), &place.path("server.log"));
    let line = server.console.seen.iter().find_map(|line| line.strip_prefix("HTTPS API on https://"));
    let http = line.unwrap_or_else(|| panic!("no HTTPS API: {:?}", server.console.seen)).parse().unwrap();
    (server, http)
}

/// One request over plain HTTP: status and body.
pub(crate) fn ask(http: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, Value) {
    let kind = if path.contains("/records") { "application/x-ndjson" } else { "application/json" };
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
        body.len()
    );
    if let Some(token) = token {
        write!(request, "Authorization: Bearer {token}\r\n").unwrap();
    }
    let mut stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

pub(crate) fn login((username, password): (&str, &str)) -> String {
    json!({"username": username, "password": password}).to_string()
}
