//! `bluetrace store`: a store that moves to PostgreSQL and back under its devices, a copy that is killed, and what a check says.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[path = "../../bluetrace-server/tests/support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;
#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::process::Stdio;
use std::sync::LazyLock;

use postgres::Cluster;
use serde_json::json;
use support::{ILL, MET, Place, Session, finish, now, record, wait_until};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start_durable);

#[test]
fn a_store_moves_to_postgresql_and_back_and_devices_go_on() {
    let (place, url) = (Place::with_accounts(), CLUSTER.url(&CLUSTER.database()));
    let server = place.server();
    let mut session = Session::login(server.address, ILL);
    let token = session.request(r#"{"commandType":"RT"}"#)["data"]["token"].as_str().unwrap().to_owned();
    let code = place.administer(&["code", "issue"], "").assert_success().shown.lines().next().unwrap().to_owned();
    let request = r#"{"commandType":"UC","numOfSend":3,"upload":"u-1"}"#;
    assert_eq!(session.request(request)["numOfRecv"], 3);
    let send = |session: &mut Session, number: u64, left: u64| {
        session.request(&json!({"commandType": "UC", "numOfSend": left, "data": record(number)}).to_string())
    };
    assert_eq!(send(&mut session, 1, 2)["numOfRecv"], 2);
    let refused = place.run(&["store", "copy", "data", &url]);
    refused.assert_complains(&["in use by another server"]);
    let refused = place.run(&["store", "copy", "data", "mysql://desk:secret@localhost/trace"]);
    refused.assert_complains(&["postgres://USER@HOST/DATABASE"]);
    assert!(!refused.errors.contains("secret"), "{refused:?}");
    for mistyped in ["postgres:/desk:secret@h/trace", "desk:secret@h/trace", "Postgres://desk:secret@x@localhost/trace"]
    {
        let refused = place.run(&["store", "copy", mistyped, "data"]);
        assert_ne!(refused.status, Some(0), "{refused:?}");
        assert!(refused.errors.contains("URL") && !refused.errors.contains("secret"), "{refused:?}");
    }
    drop(session);
    server.stop("TERM");

    let copied = place.run(&["store", "copy", "data", &url]).assert_success();
    assert!(copied.shown.contains("uploaded_record               1\n"), "{copied:?}");
    assert!(copied.shown.contains("is a whole copy of data"), "{copied:?}");
    let check = |options: &[&str]| place.administer(&[&["store", "check"], options].concat(), "");
    assert!(check(&["--store", &url]).assert_success().shown.contains("\nwhole: "));
    let server = place.server_with(&["--store", &url]);
    let resume = |address| {
        let mut session = Session::connect(address);
        assert!(session.ask(&format!("RESUME {token}")).starts_with("230 "));
        session
    };
    let mut session = resume(server.address);
    assert_eq!(session.request(request)["numOfRecv"], 2, "one is there");
    assert_eq!(send(&mut session, 2, 1)["numOfRecv"], 1);
    drop(session);
    server.stop("TERM");

    fs::create_dir(place.path("new")).unwrap();
    let refused = place.run(&["store", "copy", &url, "new"]);
    refused.assert_complains(&["no master.key in new"]);
    fs::copy(place.path("data/master.key"), place.path("new/master.key")).unwrap();
    place.run(&["store", "copy", &url, "new"]).assert_success();
    fs::rename(place.path("data"), place.path("old")).unwrap();
    fs::rename(place.path("new"), place.path("data")).unwrap();
    assert!(check(&[]).assert_success().shown.contains("\nwhole: "));
    let server = place.server_with(&["--require-upload-codes"]);
    let mut session = resume(server.address);
    let begun = session.request(&json!({"commandType":"UC","numOfSend":3,"upload":"u-1","code":code}).to_string());
    assert_eq!(begun["numOfRecv"], 1, "two are there, and the code is good for the first time: {begun}");
    let done = send(&mut session, 3, 0);
    assert_eq!(done["data"], json!({"records": 3, "resolved": 0, "unknown": 3, "invalid": 0}), "{done}");
    let again = session.request(&json!({"commandType":"UC","numOfSend":3,"upload":"u-2","code":code}).to_string());
    assert_eq!(again["data"]["code"], "upload_not_authorised", "and not a second time: {again}");
    Session::login(server.address, MET);
}

#[test]
fn a_copy_that_is_killed_goes_on_and_nothing_is_lost_or_doubled() {
    let (place, source, database) = (Place::new(), CLUSTER.database(), CLUSTER.database());
    let (from, to) = (CLUSTER.url(&source), CLUSTER.url(&database));
    let administer = |arguments: &[&str], input: &str| place.administer(arguments, input);
    administer(&["user", "add", "somebody", "--store", &from], "secret\n").assert_success();
    let forget_at = now().plus(20 * 86_400).as_unix();
    let day = forget_at / 86_400;
    CLUSTER.sql(
        &source,
        &format!(
            "CREATE TABLE uploaded_record_{day} PARTITION OF uploaded_record FOR VALUES FROM ({day}::bigint << 41) TO (({day}::bigint + 1) << 41);
             INSERT INTO upload (id, account, name, records, durable, begun, forget_at)
                 SELECT ({day}::bigint << 41) + i, a.id, 'u-' || i, 5000, 4000, {forget_at} - 99, {forget_at}
                 FROM account AS a, generate_series(1, 30) AS i;
             INSERT INTO uploaded_record (upload, place, temp_id, start, expiry)
                 SELECT u.id, p, lpad((u.id % 10000 * 10000 + p)::text, 20, '0'), {forget_at}, {forget_at} + 899
                 FROM upload AS u, generate_series(0, 3999) AS p"
        ),
    );
    fs::create_dir(place.path("folder")).unwrap();
    fs::copy(place.path("data/master.key"), place.path("folder/master.key")).unwrap();
    place.run(&["store", "copy", &from, "folder"]).assert_success();

    let copy = ["store", "copy", "folder", &to];
    let mut before = 0;
    for kills in 1..=3 {
        let mut child = place.bluetrace(&copy).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let rows = || {
            let exists = CLUSTER.sql(&database, "SELECT to_regclass('uploaded_record') IS NOT NULL");
            let count = || CLUSTER.sql(&database, "SELECT count(*) FROM uploaded_record").parse::<u32>().unwrap();
            if exists == "t" { count() } else { 0 }
        };
        wait_until("some more records are copied", || rows() > before);
        child.kill().unwrap();
        child.wait().unwrap();
        before = rows();
        assert!(before < 120_000, "the copy was over before kill {kills}");
    }
    let mut server = place.server_command(0);
    finish(server.args(["--store", &to]), "").assert_complains(&["unfinished copy", "store copy"]);
    let copied = place.run(&copy).assert_success();
    assert!(copied.shown.contains("uploaded_record          120000\n"), "{copied:?}");
    let digest = "SELECT count(*), sum(hashtextextended(a.username || u.name || r.place || r.temp_id || r.start, 0))
                  FROM uploaded_record AS r JOIN upload AS u ON u.id = r.upload JOIN account AS a ON a.id = u.account";
    assert_eq!(CLUSTER.sql(&source, digest), CLUSTER.sql(&database, digest));
    CLUSTER.sql(&database, "DELETE FROM uploaded_record WHERE place = 7");
    let checked = administer(&["store", "check", "--store", &to], "");
    assert_eq!(checked.status, Some(1), "{checked:?}");
    assert!(checked.shown.contains("error  30 uploads have other records than they count"), "{checked:?}");
}

#[test]
fn a_store_is_brought_up_to_date_ahead_of_its_servers() {
    let (place, database) = (Place::new(), CLUSTER.database());
    let url = CLUSTER.url(&database);
    place.administer(&["store", "migrate"], "").assert_complains(&["there is no authority in data"]);
    place.administer(&["user", "add", "somebody"], "secret\n").assert_success();
    let migrated = place.administer(&["store", "migrate"], "").assert_success().shown;
    assert!(migrated.starts_with("up to date: schema "), "{migrated}");
    let shared = |arguments: &[&str]| place.administer(&[arguments, &["--store", &url]].concat(), "");
    assert!(shared(&["store", "migrate"]).assert_success().shown.starts_with("made the tables of schema "));
    CLUSTER.sql(
        &database,
        "ALTER TABLE notice DROP COLUMN uploader; UPDATE bluetrace_state SET value = '1' WHERE name = 'schema'",
    );
    let migrated = shared(&["store", "migrate"]).assert_success().shown;
    assert!(migrated.starts_with("brought from schema 1 to schema "), "{migrated}");
    assert!(shared(&["store", "migrate"]).assert_success().shown.starts_with("up to date"));
    CLUSTER.sql(&database, "UPDATE bluetrace_state SET value = '99' WHERE name = 'schema'");
    shared(&["store", "migrate"]).assert_complains(&["written by a newer version", "99"]);
    shared(&["store", "check"]).assert_complains(&["schema 99"]);
}
