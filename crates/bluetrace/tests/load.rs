//! `bluetrace load` against servers that are killed, and against one that forgets what it acknowledged.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{Place, RunningServer, wait_until};

#[test]
fn load_through_a_server_that_is_killed_finds_everything_it_acknowledged_there_once() {
    let place = Place::new();
    make_accounts(&place);
    let mut server = server(&place, 0);
    let port = server.address.port();
    let mut load = start(&place, port, &["--devices", "8", "--records", "300", "--uploads", "10"]);
    for kill in 1..=3 {
        // some way into the uploads
        wait_until("some uploads are complete", || count_uploads(&place) >= kill * 15);
        server.kill();
        server = self::server(&place, port);
    }
    assert!(load.wait().unwrap().success());
    let results = results(&place);
    assert_eq!(results["lost_records"], 0);
    assert_eq!(results["unconfirmed"], 0);
    assert_eq!((&results["uploads"], &results["confirmed"]), (&json!(80), &json!(80)));
    assert_eq!(results["records"], 80 * 300);
    assert_eq!(results["latencies_ms"]["upload"]["count"], 80);
    let exported = place.administer(&["export", "uploads", "--format", "jsonl"], "");
    let rows: Vec<Value> = exported.shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 80);
    assert!(rows.iter().all(|row| row["records"] == 300 && row["received"] == 300), "{}", exported.shown);
    drop(server);
}

#[test]
fn load_tells_of_an_authority_that_has_forgotten_what_it_acknowledged() {
    let place = Place::new();
    make_accounts(&place);
    server(&place, 0).stop("TERM");
    copy_folder(&place.path("data"), &place.path("before"));
    let mut server = server(&place, 0);
    let port = server.address.port();
    let mut load = start(&place, port, &["--devices", "1", "--records", "100", "--duration", "4s", "--every", "1m"]);
    wait_until("an upload is complete", || count_uploads(&place) == 1);
    server.kill();
    fs::remove_dir_all(place.path("data")).unwrap();
    fs::rename(place.path("before"), place.path("data")).unwrap();
    let _server = self::server(&place, port);
    assert_eq!(load.wait().unwrap().code(), Some(1));
    let results = results(&place);
    assert_eq!(
        (&results["uploads"], &results["confirmed"], &results["lost_records"]),
        (&json!(1), &json!(0), &json!(100))
    );
}

#[test]
fn load_is_made_on_this_machine_only_unless_told_otherwise_and_by_accounts_there_are() {
    let place = Place::new();
    place.run(&["load"]).assert_complains(&["load-accounts.txt", "--make-accounts"]);
    make_accounts(&place);
    // accounts that there are stay
    place.run(&["load", "--make-accounts", "2"]).assert_complains(&["cannot make load-accounts.txt"]);
    for elsewhere in ["192.0.2.1", "127.0.0.1,[2001:db8::1]:4000"] {
        place.run(&["load", "--server", elsewhere]).assert_complains(&["is not this machine", "--i-own-this-server"]);
    }
    fs::write(place.path("load-accounts.txt"), "alice secret\nbob\n").unwrap();
    place.run(&["load"]).assert_complains(&["line 2 of load-accounts.txt"]);
}

fn make_accounts(place: &Place) {
    place.run(&["load", "--make-accounts", "2"]).assert_success();
}

fn server(place: &Place, port: u16) -> RunningServer {
    place.server_at(port, &["--credentials", "load-accounts.txt"])
}

fn start(place: &Place, port: u16, options: &[&str]) -> Child {
    let server = format!("127.0.0.1:{port}");
    let mut command: Command = place.bluetrace(&["load", "--server", &server, "--json", "results.json"]);
    command.args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Uploads that are complete, by the operator's list.
fn count_uploads(place: &Place) -> usize {
    let exported = place.administer(&["export", "uploads", "--format", "jsonl"], "");
    let rows = exported.shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["complete"] == true).count()
}

fn results(place: &Place) -> Value {
    serde_json::from_slice(&fs::read(place.path("results.json")).unwrap()).unwrap()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
