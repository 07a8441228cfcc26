//! Holds `docs/protocol.md` to its word: its dialogues are the files in `vectors/sessions`, and a real server speaks them.
//!
//! The format of the files is described in `vectors/sessions/README.md`; adding a dialogue needs no Rust.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bluetrace_protocol::message::ErrorCode;
use bluetrace_protocol::{TempId, Timestamp};
use serde_json::Value;
use socket2::SockRef;
use support::{RunningServer, SCHEMES, root};

#[test]
fn the_dialogues_on_the_page_are_the_vector_files() {
    let page = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let shown: BTreeMap<String, String> = page
        .split("\n```session ")
        .skip(1)
        .map(|block| {
            let (path, rest) = block.split_once('\n').unwrap();
            (path.to_owned(), rest.split("```").next().unwrap().to_owned())
        })
        .collect();
    assert_eq!(shown, vectors(), "left: docs/protocol.md, right: the files");
}

#[test]
fn a_real_server_holds_every_dialogue() {
    let dialogues = SCHEMES.iter().flat_map(|scheme| vectors().into_iter().map(move |vector| (scheme, vector)));
    let failures: Vec<String> = dialogues
        .filter_map(|(scheme, (path, text))| {
            let server = RunningServer::start(scheme);
            hold(&text, server.address).err().map(|error| format!("{path}, {scheme:?}: {error}"))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_error_code_is_on_the_page() {
    let page = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    for code in ErrorCode::ALL {
        assert!(page.contains(&format!("\n| `{}` | ", code.as_str())), "{} is not explained", code.as_str());
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs/configuration.md",
        "docs/protocol.md",
        "docs/http.md",
        "docs/operations.md",
        "docs/postgresql.md",
        "docs/scaling.md",
    ];
    for page in pages {
        let path = root().join(page);
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_elsewhere = target.is_empty() || target.contains("://");
            assert!(is_elsewhere || path.parent().unwrap().join(target).exists(), "{page} links to {target}");
        }
    }
}

#[test]
fn a_line_that_differs_does_not_match() {
    let is_match = |pattern, line| check(pattern, line, &mut BTreeMap::new()).is_ok();
    assert!(is_match("331 Password required", "331 Password required, please"));
    assert!(!is_match("331 Password required", "230 Welcome"));
    assert!(is_match(
        r#"{"a":"{tempid}, {time}","numOfSend":0}"#,
        r#"{"a":"12345678901234567891, 13/05/2020 17:54:06"}"#
    ));
    assert!(!is_match(r#"{"a":"{tempid}"}"#, r#"{"a":"1234"}"#));
    assert!(!is_match(r#"{"a":"{time}"}"#, r#"{"a":"13/05/2020 17:54:06 "}"#));
    assert!(!is_match(r#"{"numOfRecv":1}"#, r#"{"numOfRecv":2}"#));
    assert!(!is_match(r#"{"a":null}"#, "{}"));
    assert!(!is_match(r#"{"a":1}"#, r#"{"a":1,"b":2}"#));
    assert!(!is_match(r#"["{token:x}","{token:x}"]"#, r#"["one","two"]"#));
}

/// The dialogue files by their path, as it stands on the page.
fn vectors() -> BTreeMap<String, String> {
    let folder = "vectors/sessions";
    let files = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (format!("{folder}/{name}"), fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// Values met so far, by placeholder without its braces, as in `time:start`.
type Known = BTreeMap<String, String>;

/// Plays the client of a dialogue and compares what the server says.
fn hold(dialogue: &str, server: SocketAddr) -> Result<(), String> {
    let mut known = Known::new();
    let mut connection = Connection::new(server);
    for (number, line) in dialogue.lines().enumerate() {
        step(line, server, &mut connection, &mut known).map_err(|error| format!("line {}: {error}", number + 1))?;
    }
    Ok(())
}

fn step(line: &str, server: SocketAddr, connection: &mut Connection, known: &mut Known) -> Result<(), String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("#", _) => Ok(()),
        ("C:", text) => connection.send(&fill_in(text, known)),
        ("S:", pattern) => check(pattern, &connection.line()?, known),
        ("S?", pattern) => {
            let said = connection.line()?;
            if check(pattern, &said, &mut known.clone()).is_err() {
                connection.waiting = Some(said);
            }
            Ok(())
        }
        ("--", "the server closes") => connection.expect_end(),
        ("--", "the client cuts the connection") => connection.cut(),
        ("--", "the client closes") => connection.close(),
        ("--", "the client connects") => {
            *connection = Connection::new(server);
            Ok(())
        }
        _ => Err(format!("not a line of a dialogue: {line}")),
    }
}

/// The client's end of a connection.
struct Connection {
    reader: BufReader<TcpStream>,
    /// A line read and not yet looked at.
    waiting: Option<String>,
}

impl Connection {
    fn new(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream), waiting: None }
    }

    fn send(&self, text: &str) -> Result<(), String> {
        let mut stream = self.reader.get_ref();
        stream.write_all(format!("{text}\n").as_bytes()).map_err(|error| format!("cannot send: {error}"))
    }

    fn line(&mut self) -> Result<String, String> {
        if let Some(line) = self.waiting.take() {
            return Ok(line);
        }
        let mut line = String::new();
        self.reader.read_line(&mut line).map_err(|error| format!("nothing to read: {error}"))?;
        line.strip_suffix('\n').map(str::to_owned).ok_or_else(|| format!("the connection ended after {line:?}"))
    }

    fn expect_end(&mut self) -> Result<(), String> {
        match self.line() {
            Ok(line) => Err(format!("the connection goes on: {line}")),
            Err(error) if error == r#"the connection ended after """# => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends the connection with a reset, as a device that goes out of range does.
    fn cut(&mut self) -> Result<(), String> {
        let socket = SockRef::from(self.reader.get_ref());
        socket.set_linger(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
        // the reset goes out when the socket is dropped: put one that leads nowhere in its place
        *self = Self::new(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        self.reader.get_ref().shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
        self.expect_end()
    }
}

/// Puts the values met so far into a client's line.
fn fill_in(text: &str, known: &Known) -> String {
    known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// Whether a server's line is the one in the dialogue.
fn check(pattern: &str, line: &str, known: &mut Known) -> Result<(), String> {
    let is_match = if pattern.starts_with(|first: char| first.is_ascii_digit()) {
        line.starts_with(pattern)
    } else {
        let wanted = serde_json::from_str(pattern).map_err(|error| format!("not JSON: {pattern}: {error}"))?;
        let said = serde_json::from_str(line).map_err(|error| format!("not JSON: {line}: {error}"))?;
        is_same(&wanted, &said, known)
    };
    if is_match { Ok(()) } else { Err(format!("\n  expected {pattern}\n  received {line}")) }
}

fn is_same(wanted: &Value, said: &Value, known: &mut Known) -> bool {
    match (wanted, said) {
        (Value::Object(wanted), Value::Object(said)) => {
            let is_zero_count = |key: &str, value: &Value| matches!(key, "numOfSend" | "numOfRecv") && *value == 0;
            let is_extra = |key: &String, value: &Value| !wanted.contains_key(key) && !is_zero_count(key, value);
            !said.iter().any(|(key, value)| is_extra(key, value))
                && wanted.iter().all(|(key, value)| match said.get(key) {
                    Some(said) => is_same(value, said, known),
                    None => is_zero_count(key, value),
                })
        }
        (Value::Array(wanted), Value::Array(said)) => {
            wanted.len() == said.len() && wanted.iter().zip(said).all(|(wanted, said)| is_same(wanted, said, known))
        }
        (Value::String(wanted), Value::String(said)) => is_text(wanted, said, known),
        (wanted, said) => wanted == said,
    }
}

fn is_text(mut wanted: &str, mut said: &str, known: &mut Known) -> bool {
    while let Some(rest) = wanted.strip_prefix('{') {
        let Some((name, after)) = rest.split_once('}') else { return false };
        let (kind, label) = name.split_once(':').unwrap_or((name, ""));
        let Some(value) = value_of(kind, said) else { return false };
        if !label.is_empty() && known.entry(name.to_owned()).or_insert_with(|| value.to_owned()) != value {
            return false;
        }
        said = said.strip_prefix(value).unwrap_or_default();
        // up to the next placeholder everything stands as it is
        let literal = after.split('{').next().unwrap_or_default();
        let Some(behind) = said.strip_prefix(literal) else { return false };
        (wanted, said) = (after.strip_prefix(literal).unwrap_or_default(), behind);
    }
    wanted == said
}

/// The value of a placeholder's kind at the front of a text.
fn value_of<'a>(kind: &str, said: &'a str) -> Option<&'a str> {
    match kind {
        "tempid" => said.split(',').next().filter(|id| TempId::parse(id).is_ok()),
        "time" => said.get(..19).filter(|time| Timestamp::parse(time).is_ok()),
        "token" => said.split(' ').next().filter(|token| (1..=256).contains(&token.len())),
        "text" => Some(said),
        _ => None,
    }
}
