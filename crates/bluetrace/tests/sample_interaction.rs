//! The sample interaction: as golden transcripts of devices in pipes and of the server's console, and at a real
//! pseudo-terminal.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bluetrace_protocol::{TempId, Timestamp};
use rexpect::session::{Options, PtySession, spawn_with_options};
use support::{
    Device, ILL, MET, PATIENCE, Place, RunningServer, SCHEMES, Session, hostile_server, now, record, root,
    send_datagram, wait_until,
};

#[test]
fn a_contact_is_traced_as_in_the_sample_interaction() {
    for scheme in SCHEMES {
        trace_a_contact(&scheme);
    }
}

fn trace_a_contact(scheme: &[&str]) {
    let place = Place::with_accounts();
    let mut server = place.server_with(scheme);
    let mut ill = Device::run(&mut place.device_command(server.address, "device"), &place.path("device.log"));
    let mut met = Device::run(&mut place.device_command(server.address, "other"), &place.path("other.log"));
    for line in [ILL.0, "a guess", ILL.1, "Download_tempID"] {
        ill.say(line);
    }
    ill.expect("valid from ");
    for line in [MET.0, MET.1, "DOWNLOAD_TEMPID"] {
        met.say(line);
    }
    met.expect("valid from ");
    let shown_so_far = ill.output.seen.len();
    let udp = ill.udp_port();
    // the status is not a part of the interaction
    ill.output.seen.truncate(shown_so_far);
    met.say(&format!("Beacon 127.0.0.1 {udp}"));
    met.expect("sent to ");
    ill.expect("The beacon is valid.");
    ill.say("Frobnicate");
    ill.say("Upload_contact_log");
    ill.expect("upload complete");
    met.say("notices");
    met.expect("NOTICE");
    ill.say("logout");
    server.console.expect("+61410999999 logout");
    met.say("logout");
    server.console.expect("+61410888888 logout");
    let ((ill, ill_shown), (met, met_shown)) = (ill.end(), met.end());
    assert_eq!((ill, met), (Some(0), Some(0)));
    let (ended, console) = server.stop("TERM");
    assert!(ended.success());
    assert_golden(
        "contact_traced.txt",
        &[("device of +61410999999", ill_shown), ("device of +61410888888", met_shown), ("server", console)],
    );
}

#[test]
fn three_wrong_passwords_block_the_account_and_end_the_client() {
    let place = Place::with_accounts();
    let server = place.server();
    let login = |lines: &str| place.run_device(server.address, &["--plaintext"], lines);
    let first = login("+61410999999\none\ntwo\nthree\nwaratah\n");
    let second = login("+61410999999\nwaratah\nlogout\n");
    assert_eq!((first.status, second.status), (Some(1), Some(1)));
    let (_, console) = server.stop("TERM");
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    assert_golden(
        "account_blocked.txt",
        &[("first device", lines(&first.shown)), ("second device", lines(&second.shown)), ("server", console)],
    );
}

#[test]
fn a_block_ends_after_the_seconds_given_to_the_server() {
    let place = Place::with_accounts();
    let mut command =
        place.bluetrace(&["server", "0", "2", "--bind", "127.0.0.1", "--data-dir", "data", "--http", "off"]);
    let server = RunningServer::run(&mut command, &place.path("server.log"));
    let mut session = Session::connect(server.address);
    session.ask(ILL.0);
    assert!(session.ask("one").starts_with("430 Invalid Password. Please try again"));
    assert!(session.ask("two").starts_with("430 Invalid Password. Please try again"));
    assert!(session.ask("three").starts_with("431 Invalid Password. Your account has been blocked."));
    let log_in = || {
        let mut session = Session::connect(server.address);
        session.ask(ILL.0);
        session.ask(ILL.1)
    };
    assert!(log_in().starts_with("432 Your account is blocked due to multiple login failures."));
    wait_until("the block ends", || log_in().starts_with("230 Welcome to the BlueTrace Simulator!"));
}

#[test]
fn without_a_tempid_a_beacon_says_to_download_one() {
    let place = Place::with_accounts();
    let server = place.server();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let input = format!(
        "+61410999999\nwaratah\nbeacon 127.0.0.1 {port}\nDownload_tempID\nBEACON 127.0.0.1 {port}\nUpload_contact_log\n"
    );
    let device = place.run_device(server.address, &["--plaintext", "--no-tempid"], &input).assert_success();
    let mut datagram = [0; 257];
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = other.recv(&mut datagram).unwrap();
    let beacon = String::from_utf8(datagram[..length].to_vec()).unwrap();
    let shown: Vec<String> = device.shown.lines().map(str::to_owned).collect();
    assert!(shown.contains(&beacon.strip_suffix(", 1").unwrap().to_owned()), "{beacon:?} {shown:#?}");
    let (_, console) = server.stop("TERM");
    assert_golden("without_tempid.txt", &[("device", shown), ("server", console)]);
}

#[test]
fn a_beacon_is_judged_by_its_window() {
    let place = Place::with_accounts();
    let server = place.server();
    let mut device = place.device(server.address, ILL, &[]);
    let port = device.udp_port();
    for (start, verdict) in [(-899, "valid"), (-10_000, "invalid"), (0, "valid"), (60, "invalid"), (-901, "invalid")] {
        // whether the last second has passed meanwhile is not this test's matter
        let start = now().plus(if start == -899 { -890 } else { start });
        send_datagram(&format!("12345678901234567891, {start}, {}, 1", start.plus(899)), port);
        device.expect("received beacon:");
        device.expect(&format!("12345678901234567891, {start}, {}", start.plus(899)));
        device.expect("Current time is:");
        device.expect(&format!("The beacon is {verdict}."));
    }
    device.say("contacts");
    device.expect("12345678901234567891, ");
    let (_, shown) = device.end();
    assert_eq!(shown.iter().filter(|line| line.contains(" forgotten in ")).count(), 2, "{shown:#?}");
}

#[test]
fn the_sample_interaction_is_held_at_a_terminal() {
    let place = Place::with_accounts();
    let server = place.server();
    let mut terminal = Terminal::start(&place, server.address);
    terminal.wait_for_line("Username:");
    terminal.type_text("+61410999999\r");
    terminal.wait_for_line("Password:");
    terminal.type_text("a secret guess\r");
    terminal.wait_for("Invalid Password. Please try again");
    terminal.wait_for_line("Password:");
    terminal.type_text("waratah\r");
    terminal.wait_for("Welcome to the BlueTrace Simulator!");
    terminal.wait_for_line("> ");
    terminal.type_text("Download_tempID\r");
    terminal.wait_for("TempID:");
    terminal.wait_for_line("> ");
    terminal.type_text("nonsense\r");
    terminal.wait_for("Error. Invalid command");
    terminal.type_text("logout\r");
    terminal.wait_for("logged out");
    terminal.wait_for("terminal as before, status 0");
    let rows = terminal.rows();
    assert!(!rows.iter().any(|row| row.contains("secret") || row.contains("waratah")), "{rows:#?}");
    assert!(!terminal.raw.contains("secret") && !terminal.raw.contains("waratah"), "a password is not echoed");
}

#[test]
fn no_text_of_a_server_reaches_a_terminal_raw() {
    let place = Place::new();
    let mut terminal = Terminal::run(place.device_command(hostile_server(), "device").arg("--plaintext"), &place);
    terminal.wait_for_line("Username:");
    terminal.type_text("somebody\r");
    terminal.wait_for_line("Password:");
    terminal.type_text("first\r");
    terminal.wait_for("hostile");
    terminal.wait_for_line("Password:");
    terminal.type_text("second\r");
    terminal.wait_for("NOTICE");
    terminal.wait_for("hostile");
    terminal.wait_for_line("> ");
    terminal.type_text("Download_tempID\r");
    terminal.wait_for("no TempID can be had");
    terminal.wait_for("hostile");
    terminal.wait_for_line("> ");
    terminal.type_text("logout\r");
    terminal.wait_for("terminal as before, status 0");
    // rustyline writes sequences of its own, and none of these
    for sequence in
        ["\x1b]", "\x1b[2J", "\x1b[31m", "\x07", "\u{9b}", "\u{7f}", "\u{202e}", "\u{2066}", "\u{200f}", "\u{61c}"]
    {
        assert!(!terminal.raw.contains(sequence), "{sequence:?}: {:?}", terminal.raw);
    }
}

#[test]
fn a_beacon_that_arrives_is_printed_above_the_line_being_typed_which_survives() {
    let place = Place::with_accounts();
    let server = place.server();
    let (mut terminal, port) = Terminal::logged_in(&place, server.address);
    terminal.type_text("cont");
    terminal.wait_for_line("> cont");
    let record = record(7);
    send_datagram(&format!("{record}, 1"), port);
    terminal.wait_for("The beacon is valid.");
    terminal.wait_for_line("> cont");
    let rows = terminal.rows();
    let place_of = |text: &str| rows.iter().rposition(|row| row == text).unwrap_or_else(|| panic!("{text}: {rows:#?}"));
    let heard = place_of("received beacon:");
    assert_eq!(rows[heard + 1], record);
    assert_eq!((rows[heard + 2].as_str(), rows[heard + 4].as_str()), ("Current time is:", "The beacon is valid."));
    assert_eq!(place_of("> cont"), heard + 5, "the line stands right below: {rows:#?}");
    assert_eq!(rows.iter().filter(|row| row.starts_with("> cont")).count(), 1, "and nowhere else: {rows:#?}");
    terminal.type_text("acts\r");
    terminal.wait_for(&format!("{record}  "));
    assert!(terminal.rows().contains(&"> contacts".to_owned()), "{:#?}", terminal.rows());
}

#[test]
fn a_terminal_completes_remembers_and_shows_what_there_is() {
    let place = Place::with_accounts();
    let server = place.server();
    let (mut terminal, port) = Terminal::logged_in(&place, server.address);
    // the tabulator completes a command, and a target that was used
    terminal.type_text("up\t");
    terminal.wait_for_line("> Upload_contact_log");
    terminal.type_text("\r");
    terminal.wait_for("the contact log is empty: there is nothing to upload");
    terminal.wait_for_line("> ");
    terminal.type_text(&format!("beacon 127.0.0.1 {port}\r"));
    terminal.wait_for("The beacon is valid.");
    terminal.wait_for_line("> ");
    terminal.type_text("beacon \t");
    terminal.wait_for_line(&format!("> Beacon 127.0.0.1 {port}"));
    // Ctrl-C gives up the line, not the session
    terminal.type_text("\x03");
    terminal.wait_for_line("> ");
    // the arrow brings back the line before, and the one before that
    terminal.type_text("\x1b[A");
    terminal.wait_for_line(&format!("> beacon 127.0.0.1 {port}"));
    terminal.type_text("\x1b[A");
    terminal.wait_for_line("> Upload_contact_log");
    terminal.type_text("\x03");
    terminal.wait_for_line("> ");
    terminal.type_text("help\r");
    for command in ["Download_tempID", "Beacon <ip> <port>", "Upload_contact_log", "contacts", "status", "logout"] {
        terminal.wait_for(&format!("\r\n  {command} "));
    }
    terminal.wait_for_line("> ");
    terminal.type_text("\r\r");
    terminal.type_text("contacts\r");
    terminal.wait_for(" ago, forgotten in ");
    terminal.wait_for_line("> ");
    terminal.type_text("status\r");
    for row in [
        &format!("server  {}, TLS, connected", server.address),
        "TempID  ",
        " min ",
        "contact log  1 entry, kept 3 min 00 s",
        "_contactlog.txt",
        &format!("UDP port  {port}"),
    ] {
        terminal.wait_for(row);
    }
}

#[test]
fn a_long_upload_shows_its_progress_and_then_the_prompt_again() {
    let place = Place::with_accounts();
    let server = place.server();
    place.write_contact_log(ILL, 20_000);
    let (mut terminal, _) = Terminal::logged_in(&place, server.address);
    terminal.type_text("upload_contact_log\r");
    terminal.wait_for("uploading 20000 records:");
    terminal.wait_for("... and 19980 more");
    terminal.wait_for(" of 20000 records");
    terminal.wait_for("upload complete: 20000 records acknowledged");
    terminal.wait_for_line("> ");
    let rows = terminal.rows();
    assert!(rows.iter().all(|row| !row.contains(" of 20000 records")), "the bar is gone: {rows:#?}");
}

#[test]
fn ctrl_c_and_ctrl_d_log_out_and_give_the_terminal_back() {
    let place = Place::with_accounts();
    let mut server = place.server();
    for key in ["\x03", "\x04"] {
        let (mut terminal, _) = Terminal::logged_in(&place, server.address);
        terminal.type_text(key);
        terminal.wait_for("logged out");
        terminal.wait_for("terminal as before, status 0");
        server.console.expect("+61410999999 logout");
    }
}

#[test]
fn ctrl_c_and_ctrl_d_end_a_login_that_was_not_finished() {
    let place = Place::with_accounts();
    let server = place.server();
    for key in ["\x03", "\x04"] {
        let mut terminal = Terminal::start(&place, server.address);
        terminal.wait_for_line("Username:");
        terminal.type_text(key);
        terminal.wait_for("terminal as before, status 1");
        let mut terminal = Terminal::start(&place, server.address);
        terminal.wait_for_line("Username:");
        terminal.type_text("+61410999999\r");
        terminal.wait_for_line("Password:");
        terminal.type_text(key);
        terminal.wait_for("terminal as before, status 1");
        assert!(!terminal.raw.contains("panicked"), "{}", terminal.raw);
    }
}

#[test]
fn a_certificate_that_changed_is_told_at_length_to_a_person() {
    let (place, impostor) = (Place::with_accounts(), Place::with_accounts());
    let server = place.server();
    let port = server.address.port();
    place.device(server.address, ILL, &[]).end();
    drop(server);
    let server = impostor.server_at(port, &[]);
    let mut terminal = Terminal::start(&place, server.address);
    terminal.wait_for_line("Username:");
    terminal.type_text("+61410999999\r");
    terminal.wait_for("the certificate of");
    terminal.wait_for("remembered: sha256:");
    terminal.wait_for("shown now:  sha256:");
    terminal.wait_for("remove line 1 of device/known_servers");
    terminal.wait_for("terminal as before, status 1");
}

#[test]
fn a_terminal_that_goes_away_logs_the_device_out() {
    let place = Place::with_accounts();
    let mut server = place.server();
    let (terminal, _) = Terminal::logged_in(&place, server.address);
    drop(terminal);
    server.console.expect("+61410999999 logout");
}

/// Compares what processes said, line by line, with a file of `golden`.
fn assert_golden(file: &str, said: &[(&str, Vec<String>)]) {
    let path = root().join("crates/bluetrace/tests/golden").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let mut expected: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix("== "), expected.last_mut()) {
            (Some(name), _) => expected.push((name, Vec::new())),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => panic!("{file} begins with a section"),
        }
    }
    let mut bound = BTreeMap::new();
    assert_eq!(said.len(), expected.len());
    for ((name, lines), (expected_name, patterns)) in said.iter().zip(&expected) {
        assert_eq!(name, expected_name);
        let wrong = patterns.iter().zip(lines).position(|(pattern, line)| !is_match(pattern, line, &mut bound));
        let wrong = wrong.or((patterns.len() != lines.len()).then_some(patterns.len().min(lines.len())));
        if let Some(at) = wrong {
            panic!("{file}, {name}: line {} should be {:?}; all: {lines:#?}", at + 1, patterns.get(at));
        }
    }
}

/// Whether a line is as a pattern says. A placeholder with a name stands for one text wherever the name stands.
fn is_match<'a>(pattern: &'a str, line: &str, bound: &mut BTreeMap<&'a str, String>) -> bool {
    let Some((literal, rest)) = pattern.split_once('{') else { return pattern == line };
    let (placeholder, rest) = rest.split_once('}').unwrap();
    let Some(line) = line.strip_prefix(literal) else { return false };
    let Some(length) = length_of(placeholder.split(' ').next().unwrap(), line) else { return false };
    let (text, line) = line.split_at(length);
    if placeholder.contains(' ') && bound.entry(placeholder).or_insert_with(|| text.to_owned()) != text {
        return false;
    }
    is_match(rest, line, bound)
}

/// How much of the front of a line is a text of a class.
fn length_of(class: &str, line: &str) -> Option<usize> {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    match class {
        "tempid" => [20, 84].into_iter().find(|&length| line.get(..length).is_some_and(|id| TempId::parse(id).is_ok())),
        "number" => (digits > 0).then_some(digits),
        "time" => line.get(..19).filter(|text| Timestamp::parse(text).is_ok()).map(str::len),
        "fingerprint" => line.get(..71).filter(|text| text.starts_with("sha256:")).map(str::len),
        "path" => line.find(';'),
        "any" => Some(line.len()),
        _ => panic!("no class {class}"),
    }
}

/// A device at a pseudo-terminal of its own, which echoes as one does until somebody tells it not to.
struct Terminal {
    session: PtySession,
    /// All that was written to the terminal.
    raw: String,
    /// How much of that has been waited for.
    seen: usize,
}

impl Terminal {
    fn start(place: &Place, server: SocketAddr) -> Self {
        Self::run(&place.device_command(server, "device"), place)
    }

    fn run(device: &Command, place: &Place) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", AT_TERMINAL]).arg(device.get_program()).args(device.get_args());
        command.current_dir(place.path(".")).env("TERM", "xterm").env("NO_COLOR", "1");
        command.env_remove("BLUETRACE_PASSWORD").env_remove("BLUETRACE_LOG");
        let session = spawn_with_options(command, Options::new().timeout_ms(Some(2_000))).unwrap();
        Self { session, raw: String::new(), seen: 0 }
    }

    /// A device that has logged in, and the port on which it hears beacons.
    fn logged_in(place: &Place, server: SocketAddr) -> (Self, u16) {
        let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        fs::write(place.path("password"), ILL.1).unwrap();
        let (ip, tcp, udp) = (server.ip().to_string(), server.port().to_string(), port.to_string());
        let mut device = place.bluetrace(&["client", &ip, &tcp, &udp, "--data-dir", "device"]);
        let mut terminal = Self::run(device.args(["--username", ILL.0, "--password-file", "password"]), place);
        terminal.wait_for("Welcome to the BlueTrace Simulator!");
        terminal.wait_for_line("> ");
        (terminal, port)
    }

    fn type_text(&mut self, text: &str) {
        self.session.send(text).unwrap();
        self.session.flush().unwrap();
    }

    /// Waits until a text has been written, behind what was waited for before.
    fn wait_for(&mut self, text: &str) {
        self.wait(text, |terminal| {
            let found = terminal.raw.get(terminal.seen..)?.find(text)?;
            terminal.seen += found + text.len();
            Some(())
        });
    }

    /// Waits until the cursor stands at the end of a line of this text, without regard to trailing spaces.
    fn wait_for_line(&mut self, text: &str) {
        self.wait(text, |terminal| {
            let is_there = terminal.rows().last()?.trim_end() == text.trim_end();
            is_there.then(|| terminal.seen = terminal.raw.len())
        });
    }

    fn wait(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<()>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(letter) = self.session.try_read() {
                self.raw.push(letter);
            }
            if look(self).is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "no {what:?} on the terminal: {:#?}\n{:?}", self.rows(), self.raw);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a person sees, as far as the cursor.
    fn rows(&self) -> Vec<String> {
        let mut rows = vec![Vec::new()];
        let (mut row, mut column) = (0_usize, 0_usize);
        let mut letters = self.raw.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\r' => column = 0,
                '\n' => row += 1,
                '\x08' => column = column.saturating_sub(1),
                '\x07' => {}
                '\x1b' => {
                    // the bracket
                    _ = letters.next();
                    let mut number = String::new();
                    let kind = letters.by_ref().find(|letter| {
                        if !letter.is_ascii_alphabetic() {
                            number.push(*letter);
                        }
                        letter.is_ascii_alphabetic()
                    });
                    let count: usize = number.parse().unwrap_or(1);
                    match kind {
                        Some('A') => row = row.saturating_sub(count),
                        Some('B') => row += count,
                        Some('C') => column += count,
                        Some('D') => column = column.saturating_sub(count),
                        Some('K') if number == "2" => rows[row].clear(),
                        Some('K') => rows[row].truncate(column),
                        Some('J') => {
                            rows.truncate(row + 1);
                            rows[row].truncate(column);
                        }
                        // colours, and what switches modes
                        _ => {}
                    }
                }
                letter => {
                    let line: &mut Vec<char> = &mut rows[row];
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = letter;
                    column += 1;
                }
            }
            rows.resize(rows.len().max(row + 1), Vec::new());
        }
        rows.truncate(row + 1);
        rows.into_iter().map(|row| row.into_iter().collect()).collect()
    }
}

/// Runs a command at a terminal in its usual state, and says what became of both.
const AT_TERMINAL: &str = r#"
    trap : INT
    stty sane cols 250 rows 60
    before=$(stty -g)
    "$0" "$@"
    status=$?
    test "$(stty -g)" = "$before" && echo "terminal as before, status $status" || echo "terminal changed"
"#;
