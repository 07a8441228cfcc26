//! Runs the client of `examples/python` against a real server: what the protocol page says is enough to write one.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use support::{RunningServer, SCHEMES, root};

/// Longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_contact_between_two_python_devices_is_traced_across_a_cut_connection() {
    for scheme in SCHEMES {
        trace_a_contact(&scheme);
    }
}

fn trace_a_contact(scheme: &[&str]) {
    let server = RunningServer::start(scheme);
    let mut met = PythonClient::start(server.address, "+61410888888", "banksia and wattle");
    let mut ill = PythonClient::start(cutting_proxy(server.address), "+61410999999", "waratah");
    met.say("Download_tempID");
    met.expect("TempID:");

    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"no beacon", ("127.0.0.1", ill.udp_port)).unwrap();
    for _ in 0..3 {
        met.say(&format!("Beacon 127.0.0.1 {}", ill.udp_port));
        ill.expect("received beacon:");
        ill.expect("The beacon is valid.");
    }
    ill.say("Upload_contact_log");
    assert_eq!(
        ill.expect("acknowledged: "),
        r#"acknowledged: {"records": 3, "resolved": 3, "unknown": 0, "invalid": 0}"#
    );
    met.say("Notices");
    met.expect("From ");
    met.end();
    ill.end();
}

#[test]
fn the_python_client_tells_a_wrong_password_and_a_wrong_command() {
    let server = RunningServer::start(&[]);
    let mut client = PythonClient::start(server.address, "+61410999999", "a guess\nwaratah");
    client.say("Frobnicate");
    client.expect("Error. Invalid command");
    client.end();
}

#[test]
fn the_python_client_stays_under_150_lines() {
    let text = std::fs::read_to_string(root().join("examples/python/bluetrace_client.py")).unwrap();
    assert!(text.lines().count() < 150, "{} lines", text.lines().count());
}

/// A client of the example, logged in.
struct PythonClient {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    udp_port: u16,
}

impl PythonClient {
    fn start(server: SocketAddr, username: &str, passwords: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-u", "-B"])
            .arg(root().join("examples/python/bluetrace_client.py"))
            .args([server.ip().to_string(), server.port().to_string(), "0".to_owned(), username.to_owned()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs python3 (on Debian: apt-get install python3)");
        let (sender, output) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        thread::spawn(move || lines.for_each(|line| _ = sender.send(line)));
        let mut client = Self { input: child.stdin.take().unwrap(), child, output, udp_port: 0 };
        let listening = "listening for beacons on port ";
        client.udp_port = client.expect(listening).strip_prefix(listening).unwrap().parse().unwrap();
        client.say(passwords);
        client.expect("Welcome to the BlueTrace Simulator!");
        client
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Waits for a line that begins so, and passes over others.
    fn expect(&self, front: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(front) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line {front:?}: {error}; seen: {seen:#?}"),
            }
        }
    }

    /// Logs out and waits for the end.
    fn end(mut self) {
        self.say("logout");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the Python client ended with {status}");
    }
}

impl Drop for PythonClient {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Stands between a client and the server, and cuts the first connection behind the first record of an upload.
fn cutting_proxy(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || pass_on(&from, &to, |_| false));
            let is_record = |line: &str| line.contains(r#""UC""#) && line.contains(r#""data""#);
            thread::spawn(move || pass_on(&client, &server, |line| number == 0 && is_record(line)));
        }
    });
    address
}

/// Passes lines on until either side ends, or until one is the last by the rule: then both are cut.
fn pass_on(from: &TcpStream, mut to: &TcpStream, is_last: impl Fn(&str) -> bool) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        if to.write_all(format!("{line}\n").as_bytes()).is_err() || is_last(&line) {
            break;
        }
    }
    _ = from.shutdown(Shutdown::Both);
    _ = to.shutdown(Shutdown::Both);
}
