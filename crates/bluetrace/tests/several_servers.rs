//! Three servers on one database behind `HAProxy`, as `deploy/haproxy` has it: one after the other is killed while devices upload, and every
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

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use postgres::Cluster;
use serde_json::{Value, json};
use support::{Place, RunningServer, root, send_signal, uploader, wait_until};

/// How often a server is killed.
const KILLS: usize = 6;

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
                uploader::upload(proxy.devices, uploads);
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
    let sql = |statement: &str| cluster.sql(&database, statement);
    uploader::assert_stored_once(sql, uploads);
    let complete: u64 = sql("SELECT count(*) FROM upload WHERE finished IS NOT NULL").parse().unwrap();
    assert!(complete >= u64::from(uploads) + results["uploads"].as_u64().unwrap(), "{complete}, {uploads}: {results}");
    for place in &authority.places {
        let log = fs::read_to_string(place.path("server.log")).unwrap();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    }
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
        fs::write(first.path("tempIDs.txt"), uploader::temp_ids_of_met()).unwrap();
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

/// Where `HAProxy` is. Debian has it where not every user looks for programs.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("haproxy")).find(|program| program.is_file()).unwrap_or_else(|| {
        panic!("this test needs HAProxy, and finds none: install it (Debian: apt-get install haproxy), or put it into the PATH")
    })
}
