//! `bluetrace doctor` on sound and on broken installations, and `bluetrace config` in front of the server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bluetrace_authority::store::{PasswordHash, PasswordSource, Store as _};
use bluetrace_protocol::Username;
use bluetrace_server::sqlite::SqliteStore;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;
use support::{Finished, MET, Place, RunningServer, SCHEMES, Session, finish, now, root, wait_until};
use tokio::runtime::Builder;

#[test]
fn a_sound_installation_is_left_as_it_is_whether_its_server_runs_or_not() {
    let place = Place::with_accounts();
    make_private(&place.path("credentials.txt"));
    let server = place.server();
    Session::login(server.address, MET).request(r#"{"commandType":"DT"}"#);
    let port = server.address.port().to_string();

    let before = files(&place.path("data"));
    let running = doctor(&place, &[&port]);
    assert_eq!(running.level("port"), ["ok"], "{running:?}");
    assert!(running.all("port")[0].contains("answers on port") && running.all("port")[0].contains("its certificate"));
    for check in ["configuration", "clock", "data folder", "master key", "store", "certificate", "credentials.txt"] {
        assert_eq!(running.level(check), ["ok"], "{check}: {running:?}");
    }
    assert_eq!((running.status, running.errors), (Some(0), 0));
    assert_eq!(files(&place.path("data")), before);
    // and it serves on
    Session::login(server.address, MET);

    assert!(server.stop("TERM").0.success());
    let before = files(&place.path("data"));
    let stopped = doctor(&place, &["0"]);
    assert_eq!((stopped.status, stopped.errors), (Some(0), 0), "{stopped:?}");
    assert!(stopped.all("port")[0].contains("no server runs"), "{stopped:?}");
    assert_eq!(files(&place.path("data")), before);
}

#[test]
fn the_keys_and_the_https_api_are_examined() {
    let place = Place::with_accounts();
    make_private(&place.path("credentials.txt"));
    let http = free_address();
    let mut command = place.bluetrace(&["server", "0", "--bind", "127.0.0.1", "--data-dir", "data"]);
    let server = RunningServer::run(command.args(SEALED).args(["--http", &http]), &place.path("server.log"));
    let port = server.address.port().to_string();
    // made when the server looks after its keys for the first time, which is not waited for
    wait_until("there is a key", || place.administer(&["keys", "list"], "").shown.lines().count() > 1);
    let found = doctor(&place, &[&[&*port, "--http", &http][..], &SEALED].concat());
    assert_eq!((found.level("sealing keys"), found.level("HTTPS API")), (vec!["ok"], vec!["ok"]), "{found:?}");
    assert!(found.all("sealing keys")[0].starts_with("key 1 seals until "), "{found:?}");
    assert!(found.all("HTTPS API")[0].contains("with its certificate"), "{found:?}");
    let elsewhere = doctor(&place, &[&[&*port, "--http", &free_address()][..], &SEALED].concat());
    assert_eq!(elsewhere.level("HTTPS API"), ["warning"], "{elsewhere:?}");
    assert!(server.stop("TERM").0.success());

    let stopped = doctor(&place, &[&["0", "--http", &http][..], &SEALED].concat());
    assert_eq!((stopped.level("sealing keys"), stopped.level("HTTPS API")), (vec!["ok"], vec!["ok"]), "{stopped:?}");
    let other = TcpListener::bind(&http).unwrap();
    let found = doctor(&place, &[&["0", "--http", &http][..], &SEALED].concat());
    assert_eq!(found.level("HTTPS API"), ["error"], "{found:?}");
    drop(other);

    // another master key than the one that they were made with
    let key = place.path("data/master.key");
    let whole = fs::read(&key).unwrap();
    fs::write(&key, "07".repeat(32)).unwrap();
    let found = doctor(&place, &[&["0", "--http", "off"][..], &SEALED].concat());
    assert_eq!(found.status, Some(1), "{found:?}");
    let lost = found.of_level("error").into_iter().find(|(check, _)| check == "sealing keys");
    assert!(lost.is_some_and(|(_, text)| text.contains("does not open these: 1")), "{found:?}");
    fs::write(&key, whole).unwrap();

    // worn, and past its retention in the store's files
    let database = place.path("data/authority.sqlite");
    let change = |text: &str| rusqlite::Connection::open(&database).unwrap().execute_batch(text).unwrap();
    let of_keys = |options: &[&str]| doctor(&place, &[&["0", "--http", "off"], options].concat());
    change("UPDATE sealing_key SET seals = 600000000");
    assert!(of_keys(&SEALED).all("sealing keys")[0].contains("has sealed 600000000"));
    change(
        "UPDATE sealing_key SET issues_until = unixepoch() - 9, last_expiry = unixepoch() - 8, forget_at = unixepoch() - 7",
    );
    let found = of_keys(&[]);
    // at the end of a day the next one's key is there, and worn as well
    let levels = found.level("sealing keys");
    assert!(!levels.is_empty() && levels.iter().all(|level| *level == "warning"), "{found:?}");
    assert!(found.all("sealing keys")[0].contains("keys shred 1"), "{found:?}");
}

#[test]
fn a_store_whose_server_was_killed_is_examined_with_its_log_and_left_so() {
    let place = Place::with_accounts();
    make_private(&place.path("credentials.txt"));
    let mut server = place.server();
    Session::login(server.address, MET);
    server.kill();
    let before = files(&place.path("data"));
    let found = doctor(&place, &["0"]);
    assert_eq!((found.status, found.level("store")), (Some(0), vec!["ok"]), "{found:?}");
    assert_eq!(files(&place.path("data")), before);
}

#[test]
fn each_thing_that_is_broken_is_an_error_with_what_to_do() {
    type Breaking = fn(&Path);
    let cases: [(&str, Breaking, &str, &str); 15] = [
        ("data folder", |data| set_mode(data, 0o755), "others may enter data (mode 0755)", "chmod 700 data"),
        (
            "data folder",
            |data| set_mode(&data.join("master.key"), 0o640),
            "others may use data/master.key",
            "chmod 600",
        ),
        ("data folder", |data| set_mode(&data.join("authority.sqlite"), 0o604), "data/authority.sqlite", "chmod 600"),
        ("data folder", |data| set_mode(&data.join("certificate.pem"), 0o622), "data/certificate.pem", "chmod 600"),
        ("data folder", |data| fs::remove_dir_all(data).unwrap(), "there is no authority in data", "--data-dir"),
        ("master key", |data| fs::write(data.join("master.key"), "garbage").unwrap(), "64 hexadecimal", "backup"),
        ("master key", |data| fs::remove_file(data.join("master.key")).unwrap(), "it is missing", "backup"),
        (
            "store",
            |data| overwrite(&data.join("authority.sqlite"), 60, &9_u32.to_be_bytes()),
            "newer version",
            "backup",
        ),
        ("store", |data| overwrite(&data.join("authority.sqlite"), 0, b"not SQLite"), "damaged", "backup"),
        ("store", |data| overwrite(&data.join("authority.sqlite"), 4_096, &[0xff; 8_192]), "damaged", "backup"),
        (
            "store",
            |data| overwrite(&data.join("authority.sqlite"), 68, &[1; 4]),
            "another program",
            "another data folder",
        ),
        ("store", |data| fs::remove_file(data.join("authority.sqlite")).unwrap(), "there is no", "backup"),
        (
            "certificate",
            |data| put_certificate(data, (2020, 2021)),
            "expired on 01/01/2021",
            "put a new certificate.pem",
        ),
        ("certificate", |data| put_certificate(data, (3020, 3021)), "not valid before 01/01/3020", "clock"),
        ("certificate", |data| fs::write(data.join("key.pem"), "garbage").unwrap(), "no private key", "put one there"),
    ];
    let sound = Place::new();
    sound.administer(&["user", "list"], "").assert_complains(&["no authority"]);
    sound.server().stop("TERM");
    assert_eq!(doctor(&sound, &["0"]).status, Some(0));
    for (check, break_it, found, remedy) in cases {
        let place = Place::new();
        copy_folder(&sound.path("data"), &place.path("data"));
        break_it(&place.path("data"));
        let before = place.path("data").exists().then(|| files(&place.path("data")));
        let report = doctor(&place, &["0"]);
        assert_eq!(report.status, Some(1), "{found}: {report:?}");
        let finding = report.of_level("error").into_iter().find(|(of, _)| of == check);
        let Some((_, text)) = finding else { panic!("no error of {check}, {found}: {report:?}") };
        assert!(text.contains(found) && text.contains(remedy), "{text}");
        assert_eq!(report.errors, 1, "nothing else is wrong: {report:?}");
        assert_eq!(
            place.path("data").exists().then(|| files(&place.path("data"))),
            before,
            "{found}: nothing is changed"
        );
    }
}

#[test]
fn what_is_no_error_yet_is_a_warning() {
    let place = Place::new();
    place.server().stop("TERM");
    overwrite(&place.path("data/authority.sqlite"), 60, &1_u32.to_be_bytes());
    fs::remove_file(place.path("data/certificate.pem")).unwrap();
    fs::remove_file(place.path("data/key.pem")).unwrap();
    let report = doctor(&place, &["0"]);
    assert_eq!((report.status, report.errors), (Some(0), 0), "{report:?}");
    assert_eq!((report.level("store"), report.level("certificate")), (vec!["warning"], vec!["warning"]), "{report:?}");
}

#[test]
fn a_row_from_the_future_says_that_a_clock_is_or_was_wrong() {
    let place = Place::new();
    place.server().stop("TERM");
    let store = SqliteStore::open(&place.path("data/authority.sqlite")).unwrap();
    let open_account = |name: &str, ahead_s| {
        let (name, hash) = (Username::parse(name).unwrap(), PasswordHash(String::new()));
        let opened = store.open_account(name, hash, PasswordSource::Operator, now().plus(ahead_s));
        Builder::new_current_thread().build().unwrap().block_on(opened).unwrap();
    };
    open_account("somebody", 10);
    assert_eq!(doctor(&place, &["0"]).level("clock"), ["ok"], "clocks differ by a few seconds");
    open_account("somebody-else", 3_600);
    let report = doctor(&place, &["0"]);
    assert_eq!((report.status, report.level("clock")), (Some(1), vec!["ok", "error"]), "{report:?}");
    assert!(report.all("clock")[1].contains("the store holds something from"), "{report:?}");
}

#[test]
fn a_port_that_another_program_has_and_a_server_that_is_elsewhere_are_found() {
    let place = Place::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    // an answer that is no TLS; without one it takes a few seconds to find out
    let answering = std::thread::spawn(move || {
        for _ in 0..2 {
            drop(other.accept().unwrap());
        }
    });
    let server = place.server();
    let report = doctor(&place, &[&port]);
    assert!(report.of_level("error").iter().any(|(check, text)| check == "port" && text.contains("a server runs")));
    server.stop("TERM");
    let report = doctor(&place, &[&port]);
    let is_taken = |(check, text): &(String, String)| check == "port" && text.contains("is taken, by another program");
    assert!(report.of_level("error").iter().any(is_taken), "{report:?}");
    answering.join().unwrap();
    // nobody has it now
    let server = place.server();
    let report = doctor(&place, &[&port]);
    assert_eq!(report.level("port"), ["warning"], "{report:?}");
    drop(server);
}

#[test]
fn one_time_codes_that_nobody_may_see_and_a_file_with_the_database_s_password_are_warned_of() {
    let place = Place::new();
    place.server().stop("TERM");
    assert_eq!(doctor(&place, &["0"]).level("one-time codes"), ["warning"]);
    assert_eq!(doctor(&place, &["0", "--http", "off"]).level("one-time codes"), ["ok"], "nobody can register");
    assert_eq!(doctor(&place, &["0", "--code-command", "sh"]).level("one-time codes"), ["ok"]);

    let file = place.path("bluetrace.toml");
    for (store, mode, levels) in [
        ("postgres://desk:secret@127.0.0.1:1/trace", 0o644, ["warning"]),
        ("postgres://desk:secret@127.0.0.1:1/trace", 0o600, ["ok"]),
        ("postgres://desk@127.0.0.1:1/trace", 0o644, ["ok"]),
    ] {
        fs::write(&file, format!("[server]\nstore = \"{store}\"\n")).unwrap();
        set_mode(&file, mode);
        let found = doctor(&place, &["0"]);
        assert_eq!(found.level("configuration"), levels, "{store} {mode:o}: {found:?}");
        assert!(!format!("{found:?}").contains("secret"), "{found:?}");
    }
}

#[test]
fn files_with_passwords_that_others_may_read_are_errors() {
    let place = Place::with_accounts();
    place.server().stop("TERM");
    set_mode(&place.path("credentials.txt"), 0o644);
    fs::write(place.path("ids"), "").unwrap();
    set_mode(&place.path("ids"), 0o644);
    let report = doctor(&place, &["0", "--tempids", "ids"]);
    let errors = report.of_level("error");
    assert!(errors[0].0 == "credentials.txt" && errors[0].1.contains("passwords"), "{report:?}");
    assert!(errors[1].0 == "tempIDs.txt" && errors[1].1.contains("chmod 600 ids"), "{report:?}");
    assert_eq!(report.errors, 2);
}

#[test]
fn a_server_says_at_its_start_which_files_others_may_use() {
    let place = Place::with_accounts();
    make_private(&place.path("credentials.txt"));
    let log = || fs::read_to_string(place.path("server.log")).unwrap();
    place.server().stop("TERM");
    assert!(!log().contains("others may"), "{}", log());
    set_mode(&place.path("credentials.txt"), 0o644);
    set_mode(&place.path("data"), 0o755);
    set_mode(&place.path("data/key.pem"), 0o644);
    place.server().stop("TERM");
    for words in ["others may read credentials.txt", "others may enter data", "others may use data/key.pem"] {
        let (log, is_said) = (log(), |line: &&str| line.contains(words) && line.contains("chmod"));
        assert_eq!(log.lines().filter(is_said).count(), 1, "{words}: {log}");
    }
}

#[test]
fn a_server_says_at_its_start_that_its_certificate_is_not_valid_now() {
    let place = Place::new();
    place.server().stop("TERM");
    // of four starts, each of which adds to the log
    for years in [(2020, 2021), (3020, 3021), (2020, 3021)] {
        put_certificate(&place.path("data"), years);
        make_private(&place.path("data/key.pem"));
        place.server().stop("TERM");
    }
    let log = fs::read_to_string(place.path("server.log")).unwrap();
    let said: Vec<_> = log.lines().filter_map(|line| line.split_once("certificate: ")).map(|(_, said)| said).collect();
    assert_eq!(said.len(), 2, "{log}");
    assert!(said[0].starts_with("it expired on 01/01/2021") && said[0].contains("put a new certificate.pem"), "{log}");
    assert!(said[1].starts_with("it is not valid before 01/01/3020"), "{log}");
}

#[test]
fn a_broken_configuration_is_one_finding_among_the_others() {
    let place = Place::new();
    place.server().stop("TERM");
    fs::write(place.path("bluetrace.toml"), "[server]\nprot = 4000\n").unwrap();
    let report = doctor(&place, &["0"]);
    assert_eq!((report.status, report.errors), (Some(1), 1), "{report:?}");
    assert!(report.all("configuration")[0].contains("bluetrace.toml:2: there is no setting prot"), "{report:?}");
    assert_eq!(report.level("store"), ["ok"]);
}

#[test]
fn a_configuration_that_others_may_change_is_an_error_and_one_that_they_may_read_is_none() {
    let place = Place::new();
    place.server().stop("TERM");
    let file = place.path("bluetrace.toml");
    fs::write(&file, "[server]\nport = 0\n").unwrap();
    for (mode, level) in [(0o644, "ok"), (0o664, "error"), (0o646, "error")] {
        set_mode(&file, mode);
        let report = doctor(&place, &["0"]);
        assert_eq!(report.level("configuration"), [level], "{mode:o}: {report:?}");
        assert_eq!(report.status, Some(i32::from(level == "error")));
    }
    assert!(doctor(&place, &["0"]).all("configuration")[0].contains("chmod go-w "));
}

#[test]
fn findings_are_lines_in_a_pipe_and_hold_nothing_about_a_person() {
    let place = Place::with_accounts();
    let server = place.server();
    Session::login(server.address, MET);
    let shown = place.administer(&["doctor", &server.address.port().to_string()], "");
    assert_eq!(shown.status, Some(1), "the accounts' file is everybody's");
    assert!(shown.shown.lines().last().unwrap().starts_with("errors: 1, warnings: "), "{shown:?}");
    assert!(!shown.shown.contains('\x1b') && !shown.shown.contains(MET.0) && !shown.shown.contains(MET.1));
    let key = fs::read_to_string(place.path("data/master.key")).unwrap();
    assert!(!shown.shown.contains(key.trim()));
    shown.assert_no_panic();
}

#[test]
fn a_server_runs_with_what_its_file_says_and_the_commands_find_it() {
    let place = Place::new();
    let text = "[server]\nport = 0\nbind = \"127.0.0.1\"\ndata_dir = \"elsewhere\"\ntempid_lifetime_s = 600\n";
    fs::write(place.path("bluetrace.toml"), text).unwrap();
    let server = RunningServer::run(&mut place.bluetrace(&["server"]), &place.path("server.log"));
    finish(&mut place.bluetrace(&["user", "add", "somebody"]), "secret\n").assert_success();
    let issued = Session::login(server.address, ("somebody", "secret")).request(r#"{"commandType":"DT"}"#);
    assert!(issued["data"].is_string(), "{issued}");
    assert!(place.path("elsewhere/authority.sqlite").exists() && !place.path("bluetrace-data").exists());
    let checked = place.run(&["config", "check"]).assert_success();
    assert!(
        checked.shown.contains("tempid_lifetime_s = 600") && checked.shown.contains("# bluetrace.toml:5"),
        "{checked:?}"
    );
    let found = place.run(&["doctor"]);
    assert_eq!(found.status, Some(0), "{found:?}");
}

#[test]
fn a_configuration_that_is_wrong_stops_every_command_in_one_line() {
    let place = Place::new();
    fs::write(place.path("bluetrace.toml"), "[server]\nretension_s = 60\n").unwrap();
    for command in [&["server"][..], &["config", "check"], &["user", "list"], &["export", "uploads"]] {
        place.run(command).assert_complains(&["bluetrace.toml:2", "retension_s", "did you mean retention_s?"]);
    }
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 1, "nothing was made");
    fs::write(
        place.path("both.toml"),
        "[registration]\ncode_command = \"cat\"\ncode_webhook = \"https://127.0.0.1/\"\n",
    )
    .unwrap();
    place.run(&["config", "check", "--config", "both.toml"]).assert_complains(&["--code-command", "not both"]);
    fs::remove_file(place.path("both.toml")).unwrap();
    // a sample is what helps then
    let sample = place.run(&["config", "sample"]).assert_success().shown;
    assert_eq!(sample, fs::read_to_string(root().join("docs/bluetrace.toml")).unwrap());
    place.run(&["config", "check", "--config", "missing.toml"]).assert_complains(&["missing.toml", "--config"]);
    let mut by_variable = place.bluetrace(&["config", "check"]);
    let named = root().join("docs/bluetrace.toml");
    let shown = finish(by_variable.env("BLUETRACE_CONFIG", &named).env("BLUETRACE_PORT", "4711"), "").assert_success();
    assert!(shown.shown.contains("port = 4711") && shown.shown.contains("# BLUETRACE_PORT"), "{shown:?}");
}

const SEALED: [&str; 2] = SCHEMES[1];

/// An address on which nobody listens.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// What a doctor says.
#[derive(Debug)]
struct Examined {
    status: Option<i32>,
    errors: u64,
    findings: Vec<Value>,
}

impl Examined {
    /// What was found by one check, with what to do.
    fn all(&self, check: &str) -> Vec<String> {
        self.findings.iter().filter(|finding| finding["check"] == check).map(text).collect()
    }

    fn level(&self, check: &str) -> Vec<&str> {
        let of_check = self.findings.iter().filter(|finding| finding["check"] == check);
        of_check.map(|finding| finding["level"].as_str().unwrap()).collect()
    }

    /// The findings of a level: check and text.
    fn of_level(&self, level: &str) -> Vec<(String, String)> {
        let of_level = self.findings.iter().filter(|finding| finding["level"] == level);
        of_level.map(|finding| (finding["check"].as_str().unwrap().to_owned(), text(finding))).collect()
    }
}

fn text(finding: &Value) -> String {
    format!("{}; {}", finding["found"].as_str().unwrap(), finding["remedy"].as_str().unwrap_or_default())
}

fn doctor(place: &Place, options: &[&str]) -> Examined {
    let arguments = [&["doctor", "--json", "--bind", "127.0.0.1", "--data-dir", "data"], options].concat();
    let Finished { status, shown, errors } = place.run(&arguments);
    assert_eq!(errors, "", "{shown}");
    let report: Value = serde_json::from_str(&shown).unwrap();
    Examined {
        status,
        errors: report["errors"].as_u64().unwrap(),
        findings: report["findings"].as_array().unwrap().clone(),
    }
}

/// Every file of a folder with its mode and content, but for the content of the log's index, in which each reader leaves a mark.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let is_index = path.to_string_lossy().ends_with("-shm");
            let content = if is_index { Vec::new() } else { fs::read(&path).unwrap() };
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            (path, (mode, content))
        })
        .collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    set_mode(to, 0o700);
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn overwrite(file: &Path, at: usize, bytes: &[u8]) {
    let mut content = fs::read(file).unwrap();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(file, content).unwrap();
}

fn put_certificate(data: &Path, (from, until): (i32, i32)) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["authority.example".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
    fs::write(data.join("certificate.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(data.join("key.pem"), key.serialize_pem()).unwrap();
}

fn make_private(file: &Path) {
    set_mode(file, 0o600);
}

fn set_mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}
