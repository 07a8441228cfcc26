//! Real processes for tests: the built binary on loopback, in folders of their own, and what they say, line by line.

pub(crate) mod http;
pub(crate) mod uploader;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bluetrace_protocol::Timestamp;
use rexpect::process::WaitStatus;
use rexpect::session::{Options, spawn_with_options};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The accounts of `vectors/sessions/server`: who falls ill, and who was met.
pub(crate) const ILL: (&str, &str) = ("+61410999999", "waratah");
pub(crate) const MET: (&str, &str) = ("+61410888888", "banksia and wattle");

/// What tells a server what kind of `TempIDs` to issue.
pub(crate) const SCHEMES: [[&str; 2]; 2] = [["--tempid-scheme", "registry"], ["--tempid-scheme", "sealed"]];

/// A folder in which servers, devices and commands run. The authority's data folder is `data` in it.
#[derive(Debug)]
pub(crate) struct Place(TempDir);

impl Place {
    /// One without accounts.
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// One whose servers find the accounts of [`ILL`] and [`MET`] in `credentials.txt`.
    pub(crate) fn with_accounts() -> Self {
        let place = Self::new();
        fs::copy(root().join("vectors/sessions/server/credentials.txt"), place.path("credentials.txt")).unwrap();
        place
    }

    /// A file or folder in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `bluetrace <arguments>` in this folder, in an environment that says nothing.
    pub(crate) fn bluetrace(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bluetrace"));
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.to_string_lossy().starts_with("BLUETRACE_")) {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(&self.0);
        command
    }

    /// Runs `bluetrace <arguments>` to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.bluetrace(arguments), "")
    }

    /// Runs an operator's command on the data folder.
    pub(crate) fn administer(&self, arguments: &[&str], input: &str) -> Finished {
        finish(self.bluetrace(arguments).args(["--data-dir", "data"]), input)
    }

    /// Runs an operator's command with a terminal for its input, on which this is typed. All output is shown together.
    pub(crate) fn administer_at_terminal(&self, arguments: &[&str], typed: &str) -> Finished {
        let mut command = self.bluetrace(arguments);
        command.args(["--data-dir", "data"]);
        let options = Options::new().timeout_ms(Some(u64::try_from(PATIENCE.as_millis()).unwrap()));
        let mut session = spawn_with_options(command, options).unwrap();
        session.send(typed).unwrap();
        session.flush().unwrap();
        let shown = session.exp_eof().unwrap();
        let WaitStatus::Exited(_, status) = session.process().wait().unwrap() else { panic!("it was killed: {shown}") };
        Finished { status: Some(status), shown, errors: String::new() }
    }

    /// Runs a device from a pipe to its end.
    pub(crate) fn run_device(&self, server: SocketAddr, options: &[&str], input: &str) -> Finished {
        finish(self.device_command(server, "device").args(options), input)
    }

    /// Starts a server on a free port and waits until it listens.
    pub(crate) fn server(&self) -> RunningServer {
        self.server_at(0, &[])
    }

    /// Starts a server with further options.
    pub(crate) fn server_with(&self, options: &[&str]) -> RunningServer {
        self.server_at(0, options)
    }

    /// Starts a server on a port that was free before.
    pub(crate) fn server_at(&self, port: u16, options: &[&str]) -> RunningServer {
        RunningServer::run(self.server_command(port).args(options), &self.path("server.log"))
    }

    /// `bluetrace server` on loopback and in `data`, without the HTTPS API: many run at once.
    pub(crate) fn server_command(&self, port: u16) -> Command {
        let port = port.to_string();
        self.bluetrace(&["server", &port, "60", "--bind", "127.0.0.1", "--data-dir", "data", "--http", "off"])
    }

    /// `bluetrace client` in a folder of its own, on a free UDP port.
    pub(crate) fn device_command(&self, server: SocketAddr, folder: &str) -> Command {
        let (ip, port) = (server.ip().to_string(), server.port().to_string());
        self.bluetrace(&["client", &ip, &port, "0", "--data-dir", folder])
    }

    /// Starts a device from a pipe, and logs it in.
    pub(crate) fn device(&self, server: SocketAddr, account: (&str, &str), options: &[&str]) -> Device {
        let mut device = Device::run(self.device_command(server, "device").args(options), &self.path("device.log"));
        device.say(account.0);
        device.say(account.1);
        device.expect("Welcome to the BlueTrace Simulator!");
        device
    }

    /// A file of the device in `device`.
    pub(crate) fn device_file(&self, account: (&str, &str), kind: &str) -> PathBuf {
        self.path("device").join(format!("{}_{kind}.txt", account.0))
    }

    /// Gives a device a contact log of so many records, heard this moment.
    pub(crate) fn write_contact_log(&self, account: (&str, &str), records: u64) {
        let (file, now) = (self.device_file(account, "contactlog"), now());
        let mut text = String::new();
        for number in 0..records {
            writeln!(text, "{}, {now}", record(number)).unwrap();
        }
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
}

/// A process that came to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    /// Standard output.
    pub(crate) shown: String,
    /// Standard error.
    pub(crate) errors: String,
}

impl Finished {
    /// It failed, and said in one line on standard error what, where and what to do.
    pub(crate) fn assert_complains(&self, words: &[&str]) {
        assert_eq!(self.status, Some(1), "{self:?}");
        assert_eq!(self.errors.lines().count(), 1, "one line: {self:?}");
        assert!(words.iter().all(|word| self.errors.contains(word)), "expected {words:?}: {self:?}");
        self.assert_no_panic();
    }

    /// It ended well.
    pub(crate) fn assert_success(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.assert_no_panic();
        self
    }

    pub(crate) fn assert_no_panic(&self) {
        assert!(!self.errors.contains("panicked") && !self.errors.contains("RUST_BACKTRACE"), "{self:?}");
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command, input: &str) -> Finished {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // who does not read its input may end before it is written
    _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished { status: output.status.code(), shown: text(&output.stdout), errors: text(&output.stderr) }
}

/// The lines that a process says, as they come.
#[derive(Debug)]
pub(crate) struct Lines {
    arriving: Receiver<String>,
    /// What was taken of them.
    pub(crate) seen: Vec<String>,
}

impl Lines {
    /// Reads on without being asked: an output that nobody reads would stop its process in the end.
    pub(crate) fn of(output: impl Read + Send + 'static) -> Self {
        let (sender, arriving) = mpsc::channel();
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        thread::spawn(move || lines.for_each(|line| _ = sender.send(line)));
        Self { arriving, seen: Vec::new() }
    }

    /// Waits for a line that begins so, and passes over others.
    pub(crate) fn expect(&mut self, front: &str) -> String {
        self.expect_any(&[front])
    }

    /// Waits for a line that begins in one of these ways.
    pub(crate) fn expect_any(&mut self, fronts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.arriving.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if fronts.iter().any(|front| line.starts_with(front)) {
                        return line;
                    }
                }
                Err(error) => panic!("no line {fronts:?}: {error}; seen: {:#?}", self.seen),
            }
        }
    }

    /// Everything until the process has closed its output.
    pub(crate) fn until_end(&mut self) -> &[String] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.arriving.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return &self.seen,
                Err(error) => panic!("the output does not end: {error}; seen: {:#?}", self.seen),
            }
        }
    }
}

/// A server that ends with the test that holds it.
#[derive(Debug)]
pub(crate) struct RunningServer {
    pub(crate) child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What its operator sees.
    pub(crate) console: Lines,
    /// What has to stay as long as it runs.
    place: Option<Place>,
}

impl RunningServer {
    /// Starts a server with the accounts and `TempIDs` of `vectors/sessions/server`, in a folder of its own.
    pub(crate) fn start(options: &[&str]) -> Self {
        let place = Place::with_accounts();
        fs::copy(root().join("vectors/sessions/server/tempIDs.txt"), place.path("tempIDs.txt")).unwrap();
        let mut server = place.server_with(options);
        server.place = Some(place);
        server
    }

    /// Starts a command that is a server, and waits until it listens. Its log is appended to a file.
    pub(crate) fn run(command: &mut Command, log: &Path) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(append(log)).spawn().unwrap();
        let mut console = Lines::of(child.stdout.take().unwrap());
        let mut listening = |line: String| {
            console.seen.push(line);
            console.seen.last().and_then(|line| line.strip_prefix("listening on ")?.parse().ok())
        };
        let address = std::iter::from_fn(|| console.arriving.recv_timeout(PATIENCE).ok()).find_map(&mut listening);
        let Some(address) = address else {
            _ = child.kill();
            _ = child.wait();
            panic!("the server did not say `listening on`; its log: {}", fs::read_to_string(log).unwrap_or_default());
        };
        Self { child, address, console, place: None }
    }

    /// Kills it, without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, as `kill -<signal>` does, and gives its status and all that it showed.
    pub(crate) fn stop(mut self, signal: &str) -> (ExitStatus, Vec<String>) {
        send_signal(&self.child, signal);
        let status = self.child.wait().unwrap();
        (status, self.console.until_end().to_vec())
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A device in a pipe, that ends with the test that holds it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    /// What its user sees.
    pub(crate) output: Lines,
}

impl Device {
    pub(crate) fn run(command: &mut Command, log: &Path) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(append(log));
        let mut child = command.spawn().unwrap();
        Self { input: child.stdin.take(), output: Lines::of(child.stdout.take().unwrap()), child }
    }

    /// Types a line.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line that begins so.
    pub(crate) fn expect(&mut self, front: &str) -> String {
        self.output.expect(front)
    }

    /// Waits for a line that begins in one of these ways.
    pub(crate) fn expect_any(&mut self, fronts: &[&str]) -> String {
        self.output.expect_any(fronts)
    }

    /// Where it hears beacons.
    pub(crate) fn udp_port(&mut self) -> u16 {
        self.say("status");
        let line = self.expect("    UDP port  ");
        self.expect("        time  ");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Kills it, without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends its input, and gives its status and all that it showed.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>) {
        drop(self.input.take());
        let status = self.child.wait().unwrap().code();
        (status, self.output.until_end().to_vec())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A session without a device: lines over plain TCP.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Session {
    /// Connects.
    pub(crate) fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Connects and logs in.
    pub(crate) fn login(server: SocketAddr, (username, password): (&str, &str)) -> Self {
        let mut session = Self::connect(server);
        assert!(session.ask(username).starts_with("331 "));
        let answer = session.ask(password);
        assert!(answer.starts_with("230 "), "{answer}");
        session
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line; an empty one when the server has closed.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    /// Makes a request of one answer.
    pub(crate) fn request(&mut self, request: &str) -> Value {
        serde_json::from_str(&self.ask(request)).unwrap()
    }
}

/// A server whose every text would steer a terminal: the title, the screen, the colour, the place of the cursor, and the
/// controls of eight bits. It refuses the first password, takes the second, and has a notice and otherwise errors to give.
pub(crate) fn hostile_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        // who only looks whether somebody answers says nothing
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut say = stream.try_clone().unwrap();
            let mut unread = Some(());
            for (number, line) in BufReader::new(stream).lines().map_while(Result::ok).enumerate() {
                let request: Value = serde_json::from_str(&line).unwrap_or_default();
                let id = &request["id"];
                let answer = match (number, request["commandType"].as_str()) {
                    (0, _) => "331 Password required".to_owned(),
                    (1, _) => format!("430 {HOSTILE}"),
                    (2, _) => format!("230 {HOSTILE}"),
                    (_, Some("LO")) => json!({"commandType": "LO", "id": id}).to_string(),
                    (_, Some("NT")) => {
                        let notice = json!({"from": now().to_string(), "to": now().to_string(), "advice": HOSTILE});
                        json!({"commandType": "NT", "id": id, "data": unread.take().map(|()| notice)}).to_string()
                    }
                    _ => json!({"commandType": "ER", "id": id, "data": {"code": "unavailable", "message": HOSTILE}})
                        .to_string(),
                };
                if writeln!(say, "{answer}").is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// What that server says, with a word by which it is found.
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[2J\x1b[31mhostile\r\x08\u{9b}5m\u{7f}\t\u{202e}\u{2066}\u{200f}\u{61c}";

/// Sends a datagram to a device on this machine.
pub(crate) fn send_datagram(text: &str, port: u16) {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(text.as_bytes(), ("127.0.0.1", port)).unwrap();
}

/// A record of its own for each number, with a window that holds the present.
pub(crate) fn record(number: u64) -> String {
    let start = now().plus(-60);
    format!("{number:020}, {start}, {}", start.plus(899))
}

/// The time.
#[expect(clippy::disallowed_methods, reason = "the processes that are tested read the system's clock too")]
pub(crate) fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix(i64::try_from(since_1970.as_secs()).unwrap()).unwrap()
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal by its name.
pub(crate) fn send_signal(child: &Child, signal: &str) {
    let sent = Command::new("sh").args(["-c", r#"kill -"$0" "$1""#, signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn append(log: &Path) -> fs::File {
    OpenOptions::new().create(true).append(true).open(log).unwrap()
}
