//! Three servers on one database behind HAProxy, as `deploy/haproxy` has it: one after the other is killed while devices upload, and every
//! record that was acknowledged is there, once.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what helps a test fails as a test does"
)]

#[path = "../../bluetrace-server/tests/support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;
#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use bluetrace_protocol::Timestamp;
use postgres::Cluster;
use serde_json::{Value, json};
use support::{ILL, MET, PATIENCE, Place, RunningServer, now, root, send_signal, wait_until};

/// How often a server is killed.
const KILLS: usize = 6;

/// Records of an upload that is looked at record by record. The first is a `TempID` of [`MET`], in a window of its own.
const RECORDS: usize = 200;

#[test]
fn servers_that_are_killed_one_after_the_other_lose_and_double_nothing_they_acknowledged() {
    let cluster = Cluster::start_durable();
    let database = cluster.database();
    let authority = Authority::of_three(&cluster.url(&database));
    let mut servers: Vec<_> = (0..3).map(|number| authority.server(number)).collect();
    let proxy = HaProxy::before(&authority);
    let devices = authority.load(proxy.devices);
    let (is_over, complete) = (AtomicBool::new(false), AtomicU32::new(0));
    let uploads: u32 = thread::scope(|scope| {
        let uploader = scope.spawn(|| {
            let mut uploads = 0;
            while !is_over.load(Ordering::Relaxed) {
                upload(proxy.devices, uploads);
                uploads += 1;
                complete.store(uploads, Ordering::Relaxed);
            }
            uploads
        });
        let progress = |what: &str| {
            let before = complete.load(Ordering::Relaxed);
            wait_until(what, || complete.load(Ordering::Relaxed) >= before + 3);
        };
        for kill in 0..KILLS {
            progress("uploads are complete, with all servers");
            servers[kill % 3].kill();
            progress("uploads are complete, without one");
            servers[kill % 3] = authority.server(kill % 3);
        }
        progress("uploads are complete at last");
        is_over.store(true, Ordering::Relaxed);
        uploader.join().unwrap()
    });
    let programs = support::http::ask(proxy.programs, "GET", "/readyz", None, "");
    assert_eq!(programs.0, 200, "{programs:?}");
    let results = devices.end();
    assert_eq!((&results["lost_records"], &results["unconfirmed"]), (&json!(0), &json!(0)), "{results}");
    assert_eq!(results["uploads"], results["confirmed"]);
    for server in servers {
        assert!(server.stop("TERM").0.success());
    }
    assert_stored_once(&cluster, &database, uploads, results["uploads"].as_u64().unwrap());
    for place in &authority.places {
        let log = fs::read_to_string(place.path("server.log")).unwrap();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    }
}

/// By what is in the database itself.
fn assert_stored_once(cluster: &Cluster, database: &str, uploads: u32, by_load: u64) {
    let rows = cluster.sql(
        database,
        &format!(
            "SELECT u.name, r.place, r.temp_id FROM upload AS u JOIN account AS a ON a.id = u.account
             JOIN uploaded_record AS r ON r.upload = u.id WHERE a.username = '{}' ORDER BY u.id, r.place",
            ILL.0
        ),
    );
    let mut stored: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for row in rows.lines() {
        let [upload, place, temp_id] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let records = stored.entry(upload.strip_prefix("upload-").unwrap().parse().unwrap()).or_default();
        assert_eq!(place, records.len().to_string(), "in its place, once");
        records.push(temp_id.to_owned());
    }
    assert_eq!(stored.keys().copied().collect::<Vec<_>>(), (0..uploads).collect::<Vec<_>>());
    for (upload, temp_ids) in stored {
        assert_eq!(temp_ids, (0..RECORDS).map(|place| temp_id(upload, place)).collect::<Vec<_>>());
    }
    let told = "SELECT count(*), count(DISTINCT begins) FROM notice AS n JOIN account AS a ON a.id = n.account
                WHERE a.username = ";
    let told = cluster.sql(database, &format!("{told} '{}'", MET.0));
    assert_eq!(told, format!("{uploads}|{uploads}"), "one notice for each upload");
    let not_whole = "SELECT count(*) FROM upload AS u WHERE finished IS NOT NULL AND (durable <> records OR records <>
                     (SELECT count(DISTINCT place) FROM uploaded_record WHERE upload = u.id AND place < u.records))";
    assert_eq!(cluster.sql(database, not_whole), "0");
    let complete = cluster.sql(database, "SELECT count(*) FROM upload WHERE finished IS NOT NULL");
    assert!(complete.parse::<u64>().unwrap() >= by_load + u64::from(uploads), "{complete}: {by_load} and {uploads}");
}

/// Begins an upload and goes on with it, on whichever server there is, until it is complete.
fn upload(devices: SocketAddr, number: u32) {
    let mut acknowledged = 0;
    wait_until("the upload is complete", || {
        let Some(session) = login(devices) else { return false };
        let (from, is_complete) = go_on(session, number);
        assert!(from.is_none_or(|from| from >= acknowledged), "{from:?} is less than {acknowledged}");
        if let Some(until) = from {
            acknowledged = until;
        }
        is_complete
    });
}

/// A session, if there is a server that lets in.
fn login(devices: SocketAddr) -> Option<BufReader<TcpStream>> {
    let stream = TcpStream::connect(devices).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut session = BufReader::new(stream);
    for (say, answer) in [(ILL.0, "331 "), (ILL.1, "230 ")] {
        hear(&mut session, say).filter(|heard| heard.starts_with(answer))?;
    }
    Some(session)
}

/// Says a line, and hears one. `None` when the server has died, or never was one.
fn hear(session: &mut BufReader<TcpStream>, say: &str) -> Option<String> {
    writeln!(session.get_mut(), "{say}").ok()?;
    let mut line = String::new();
    session.read_line(&mut line).ok().filter(|read| *read > 0 && line.ends_with('\n'))?;
    Some(line)
}

/// How many records had been acknowledged before, if that could be heard, and whether all are now.
fn go_on(mut session: BufReader<TcpStream>, number: u32) -> (Option<usize>, bool) {
    let begin = json!({"commandType": "UC", "numOfSend": RECORDS, "upload": format!("upload-{number}")});
    let Some(begun) = hear(&mut session, &begin.to_string()) else { return (None, false) };
    let begun: Value = serde_json::from_str(&begun).unwrap();
    let Some(left) = begun["numOfRecv"].as_u64() else {
        assert_eq!(begun["data"]["code"], "unavailable", "{begun}");
        return (None, false);
    };
    let from = RECORDS - usize::try_from(left).unwrap();
    if begun.get("data").is_some() {
        return (Some(from), true);
    }
    let frames = (from..RECORDS).map(|place| {
        let frame = json!({"commandType": "UC", "numOfSend": RECORDS - place - 1, "data": record(number, place)});
        format!("{frame}\n")
    });
    if session.get_mut().write_all(frames.collect::<String>().as_bytes()).is_err() {
        return (Some(from), false);
    }
    let mut line = String::new();
    while session.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
        let answer: Value = serde_json::from_str(&line).unwrap();
        if answer["commandType"] != "UC" {
            assert_eq!(answer["data"]["code"], "unavailable", "{answer}");
            break;
        }
        if let Some(summary) = answer.get("data") {
            assert_eq!(summary["resolved"], 1, "{answer}");
            return (Some(from), true);
        }
        line.clear();
    }
    (Some(from), false)
}

fn record(upload: u32, place: usize) -> String {
    let start = FIRST_WINDOW.plus(1_000 * i64::from(upload));
    format!("{}, {start}, {}", temp_id(upload, place), start.plus(899))
}

fn temp_id(upload: u32, place: usize) -> String {
    format!("{upload:010}{place:010}")
}

/// The folders of three servers of one authority, and where they listen: each on an address of its own, on the same ports.
struct Authority {
    places: [Place; 3],
    url: String,
    devices: u16,
    programs: u16,
}

impl Authority {
    fn of_three(url: &str) -> Self {
        let places = [Place::with_accounts(), Place::new(), Place::new()];
        let first = &places[0];
        first.run(&["load", "--make-accounts", "2"]).assert_success();
        let accounts = ["credentials.txt", "load-accounts.txt"].map(|file| fs::read(first.path(file)).unwrap());
        fs::write(first.path("credentials.txt"), accounts.concat()).unwrap();
        let mut temp_ids = String::new();
        for upload in 0..MOST_UPLOADS {
            writeln!(temp_ids, "{} {}", MET.0, record(upload, 0).replace(", ", " ")).unwrap();
        }
        fs::write(first.path("tempIDs.txt"), temp_ids).unwrap();
        first.server_with(&["--store", url]).stop("TERM");
        for other in &places[1..] {
            fs::create_dir(other.path("data")).unwrap();
            for file in ["master.key", "certificate.pem", "key.pem"] {
                fs::copy(first.path("data").join(file), other.path("data").join(file)).unwrap();
            }
        }
        for file in ["credentials.txt", "tempIDs.txt"] {
            fs::remove_file(first.path(file)).unwrap();
        }
        // free just now
        let [devices, programs] = [(); 2].map(|()| {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            taken.local_addr().unwrap().port()
        });
        Self { places, url: url.into(), devices, programs }
    }

    fn server(&self, number: usize) -> RunningServer {
        let (place, ip) = (&self.places[number], format!("127.0.0.{}", number + 1));
        let (devices, programs) = (self.devices.to_string(), format!("{ip}:{}", self.programs));
        let mut command = place.bluetrace(&["server", &devices, "60", "--bind", &ip, "--http", &programs]);
        command.args(["--data-dir", "data", "--store", &self.url, "--tempid-scheme", "registry", "--no-rate-limits"]);
        RunningServer::run(&mut command, &place.path("server.log"))
    }

    /// Devices that upload until they are told to end.
    fn load(&self, devices: SocketAddr) -> Load<'_> {
        let (place, server) = (&self.places[0], devices.to_string());
        let mut command = place.bluetrace(&["load", "--server", &server, "--json", "results.json"]);
        command.args(["--devices", "6", "--records", "300", "--uploads", "100000"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Load { child, place }
    }
}

struct Load<'a> {
    child: Child,
    place: &'a Place,
}

impl Load<'_> {
    /// Lets it finish, and ask again for everything that was acknowledged: what came of it.
    fn end(mut self) -> Value {
        send_signal(&self.child, "INT");
        let is_good = self.child.wait().unwrap().success();
        let results = fs::read_to_string(self.place.path("results.json")).unwrap();
        assert!(is_good, "{results}");
        serde_json::from_str(&results).unwrap()
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// `deploy/haproxy/haproxy.cfg` with the addresses of an authority.
struct HaProxy {
    child: Child,
    devices: SocketAddr,
    programs: SocketAddr,
}

impl HaProxy {
    fn before(authority: &Authority) -> Self {
        let [devices, programs] = [(); 2].map(|()| {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            taken.local_addr().unwrap()
        });
        let mut settings = fs::read_to_string(root().join("deploy/haproxy/haproxy.cfg")).unwrap();
        for (example, here) in [
            ("maxconn 100000", "maxconn 1000".to_owned()),
            ("bind :::4000 v4v6", format!("bind {devices}")),
            ("bind :::443 v4v6", format!("bind {programs}")),
            (" port 4080 check-ssl", format!(" port {} check-ssl", authority.programs)),
            ("server two 10.0.0.2:4000", "server two 10.0.0.2:4000\n    server three 10.0.0.3:4000".to_owned()),
            ("server two 10.0.0.2:4080", "server two 10.0.0.2:4080\n    server three 10.0.0.3:4080".to_owned()),
        ] {
            assert_eq!(settings.matches(example).count(), 1, "{example}");
            settings = settings.replace(example, &here);
        }
        for (example, here) in [(4000, authority.devices), (4080, authority.programs)] {
            for number in 1..=3 {
                let server = format!("10.0.0.{number}:{example}");
                assert_eq!(settings.matches(&server).count(), 1, "{server}");
                settings = settings.replace(&server, &format!("127.0.0.{number}:{here}"));
            }
        }
        let place = &authority.places[0];
        fs::write(place.path("haproxy.cfg"), settings).unwrap();
        let log = fs::File::create(place.path("haproxy.log")).unwrap();
        let mut command = Command::new(program());
        command.args(["-db", "-f"]).arg(place.path("haproxy.cfg")).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut proxy = Self { child, devices, programs };
        wait_until("HAProxy listens", || {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(place.path("haproxy.log")).unwrap());
            TcpStream::connect(devices).is_ok()
        });
        proxy
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Where HAProxy is. Debian has it where not every user looks for programs.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("haproxy")).find(|program| program.is_file()).unwrap_or_else(|| {
        panic!("this test needs HAProxy, and finds none: install it (Debian: apt-get install haproxy), or put it into the PATH")
    })
}

/// More than are uploaded here.
const MOST_UPLOADS: u32 = 1_000;

/// Where the first of their windows begins: twelve days ago, and the last one did half a day ago.
static FIRST_WINDOW: LazyLock<Timestamp> = LazyLock::new(|| now().plus(-12 * 24 * 60 * 60));
