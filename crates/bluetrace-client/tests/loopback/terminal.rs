//! The terminal's front-end from a pipe: the same script always gives the same texts.

use std::fs;
use std::io::{self, Cursor, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Authority, PASSWORD, USER, WallClock, write_log};
use bluetrace_client::Transport;
use bluetrace_client::device::StartError;
use bluetrace_client::terminal::{ExitStatus, Paint, Stage, TerminalOptions, run_terminal};
use bluetrace_protocol::Password;
use tokio::net::UdpSocket;

#[tokio::test]
async fn a_script_logs_in_beacons_uploads_and_logs_out() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 2);
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = other.local_addr().unwrap().port();
    let script = format!(
        "{USER}\n{PASSWORD}\ndownload_TEMPID\nBeacon 127.0.0.1 {port}\nbeacon\nUpload_contact_log\nfoo\n\nBeacon 1\nlogout\n"
    );
    let (status, shown) = run(&authority, folder.path(), &script, None).await;
    assert_eq!(status, ExitStatus::Success, "{shown}");
    let texts = [
        "Username:\n",
        "Password:\n",
        "Welcome to the BlueTrace Simulator!\n",
        "96 TempIDs downloaded",
        "TempID:\n00000000000000000096\n",
        "00000000000000000096, ",
        "00000000000000000096, ",
        "uploading 2 records:\n00000000000000000000, ",
        "\n00000000000000000001, ",
        "upload complete: 2 records acknowledged",
        "\nError. Invalid command\n",
        "an address and a port are needed. Beacon <ip> <port>",
        "logged out\n",
    ];
    assert_in_order(&shown, &texts);
    let mut datagram = [0; 256];
    let length = other.recv(&mut datagram).await.unwrap();
    assert!(datagram[..length].starts_with(b"00000000000000000096, ") && datagram[..length].ends_with(b", 1"));
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn the_end_of_the_input_logs_out() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (status, shown) = run(&authority, folder.path(), &format!("{USER}\r\n{PASSWORD}"), None).await;
    assert_eq!(status, ExitStatus::Success, "{shown}");
    assert_in_order(&shown, &["Welcome to the BlueTrace Simulator!\n", "logged out\n"]);
}

#[tokio::test]
async fn an_input_that_ends_before_the_login_is_told() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    for script in [String::new(), format!("{USER}\n"), format!("{USER}\na guess\n")] {
        let (status, shown) = run(&authority, folder.path(), &script, None).await;
        assert_eq!(status, ExitStatus::Failure, "{shown}");
        assert!(shown.ends_with("the input ended before the login was done\n"), "{shown}");
    }
}

#[tokio::test]
async fn wrong_passwords_are_told_and_the_third_ends_the_client() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (status, shown) = run(&authority, folder.path(), &format!("\n{USER}\na\nb\nc\n"), None).await;
    assert_eq!(status, ExitStatus::Failure);
    let wrong = "Password:\nInvalid Password. Please try again\n";
    let blocked = "Password:\nInvalid Password. Your account has been blocked. Please try again later\n";
    assert_in_order(&shown, &["Username:\na username is", "Username:\n", wrong, wrong, blocked]);
}

#[tokio::test]
async fn a_password_from_elsewhere_leaves_the_lines_to_commands() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (status, shown) = run(&authority, folder.path(), &format!("{USER}\nhelp\n"), Some(PASSWORD)).await;
    assert_eq!(status, ExitStatus::Success);
    assert_in_order(&shown, &["Welcome", "Upload_contact_log", "logged out"]);
    let (status, shown) = run(&authority, folder.path(), &format!("{USER}\n{PASSWORD}\n"), Some("wrong")).await;
    assert_eq!(status, ExitStatus::Failure);
    assert_in_order(&shown, &["Invalid Password. Please try again"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_one_clear_line() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let options = options(&authority, folder.path());
    let server = authority.server();
    authority.stop().await;
    let (ended, shown) = try_play(options, &format!("{USER}\n{PASSWORD}\n")).await;
    assert_eq!(shown, "", "nobody is asked anything");
    let error = ended.unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1);
    assert_in_order(&error, &[&format!("cannot reach {server}: Connection refused"), "check that the server runs"]);
}

#[tokio::test]
async fn of_a_long_upload_the_first_records_are_shown() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 1_000);
    let script = format!("{USER}\n{PASSWORD}\nupload_contact_log\nstatus\ncontacts\n");
    let (status, shown) = run(&authority, folder.path(), &script, None).await;
    assert_eq!(status, ExitStatus::Success);
    let texts =
        ["uploading 1000 records:", "00000000000000000019, ", "... and 980 more\n", "upload complete: 1000 records"];
    assert_in_order(&shown, &texts);
    assert_in_order(
        &shown,
        &["upload complete", "server  127.0.0.1:", "contact log  1000 entries", "900 older entries"],
    );
    assert!(!shown.contains("00000000000000000020, "));
}

#[tokio::test]
async fn without_downloads_a_beacon_says_what_to_do() {
    let authority = Authority::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&authority, folder.path());
    options.downloads = false;
    let (status, shown) = play(options, &format!("{USER}\n{PASSWORD}\nBeacon 127.0.0.1 9\nUpload_contact_log\n")).await;
    assert_eq!(status, ExitStatus::Success);
    assert_in_order(&shown, &["Use Download_tempID", "the contact log is empty"]);
}

/// Plays a script and gives what was shown.
async fn run(authority: &Authority, folder: &Path, script: &str, password: Option<&str>) -> (ExitStatus, String) {
    let mut options = options(authority, folder);
    options.password = password.map(|password| Password::parse(password).unwrap());
    play(options, script).await
}

async fn play(options: TerminalOptions, script: &str) -> (ExitStatus, String) {
    let (status, shown) = try_play(options, script).await;
    (status.unwrap(), shown)
}

async fn try_play(mut options: TerminalOptions, script: &str) -> (Result<ExitStatus, StartError>, String) {
    let shown = Shown::default();
    let input = Cursor::new(script.to_owned().into_bytes());
    options.stage = Stage::Pipe(Box::new(input), Box::new(shown.clone()));
    let status = tokio::time::timeout(crate::support::PATIENCE, run_terminal(options)).await.expect("it ends");
    let shown = String::from_utf8(shown.0.lock().unwrap().clone()).unwrap();
    (status, shown)
}

fn options(authority: &Authority, folder: &Path) -> TerminalOptions {
    TerminalOptions {
        servers: authority.server().into(),
        transport: Transport::Plaintext,
        udp_port: 0,
        data_dir: folder.to_path_buf(),
        username: None,
        password: None,
        retention_s: 180,
        downloads: true,
        notices_every: Duration::from_mins(1),
        clock: Arc::new(WallClock),
        seed: [7; 32],
        stage: Stage::Terminal,
        paint: Paint::Bare,
    }
}

#[track_caller]
fn assert_in_order(shown: &str, texts: &[&str]) {
    let mut rest = shown;
    for text in texts {
        let Some(at) = rest.find(text) else { panic!("{text:?} is missing, or not in its place, in:\n{shown}") };
        rest = &rest[at + text.len()..];
    }
}

/// What was written.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
