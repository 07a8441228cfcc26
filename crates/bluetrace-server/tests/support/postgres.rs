//! A private PostgreSQL cluster for tests: in a temporary folder, reached by a socket file, gone with the test process, however
//! that ends. Needs the programs of PostgreSQL's server, and says so where they are missing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The cluster that the tests of a program share. Each takes a database of its own.
pub(crate) static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);

/// A cluster that runs for as long as somebody holds it, or this process lives.
pub(crate) struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    /// Who runs it: PostgreSQL refuses to be run by root.
    user: Option<u32>,
    databases: AtomicU32,
    /// When this end is closed, by whatever, a process at the other end stops the cluster and deletes its folder.
    _life_line: ChildStdin,
}

impl Cluster {
    /// One that loses everything in a loss of power, and is the faster for it: for a store that is told not to mind.
    pub(crate) fn start() -> Self {
        Self::start_in(&std::env::temp_dir(), "fsync = off\nfull_page_writes = off\n")
    }

    /// One that writes before it acknowledges, as every store wants it otherwise.
    pub(crate) fn start_durable() -> Self {
        Self::start_durable_in(&std::env::temp_dir())
    }

    /// The same, in a new folder in this one.
    pub(crate) fn start_durable_in(parent: &Path) -> Self {
        Self::start_in(parent, "")
    }

    /// One that lets the user `desk` into the database `trace` with the password `secret`, over TLS alone: with the cluster, the
    /// port on loopback. `certificate` and `key` are PEM.
    pub(crate) fn start_with_tls(certificate: &str, key: &str) -> (Self, u16) {
        let cluster = Self::start();
        cluster.sql("postgres", "CREATE ROLE desk LOGIN PASSWORD 'secret'");
        cluster.sql("postgres", "CREATE DATABASE trace OWNER desk");
        cluster.stop();
        for (name, text) in [("certificate.pem", certificate), ("key.pem", key)] {
            let path = cluster.folder.join("data").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some(user) = cluster.user {
                chown(&path, Some(user), Some(user)).unwrap();
            }
        }
        // free just now
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nssl = on\nssl_cert_file = 'certificate.pem'\n\
             ssl_key_file = 'key.pem'\n"
        );
        let path = cluster.folder.join("data/postgresql.auto.conf");
        fs::write(&path, fs::read_to_string(&path).unwrap() + &settings).unwrap();
        let access = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(cluster.folder.join("data/pg_hba.conf"), access).unwrap();
        cluster.wake();
        (cluster, port)
    }

    fn start_in(parent: &Path, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("bluetrace-pg-").tempdir_in(parent).unwrap().keep();
        let is_root = fs::metadata(&folder).unwrap().uid() == 0;
        let user = is_root.then(unprivileged_user);
        if let Some(user) = user {
            chown(&folder, Some(user), Some(user)).unwrap();
        }
        let programs = programs();
        let mut life_line = Command::new("sh");
        life_line
            .args([
                "-c",
                "trap '' INT TERM HUP; cat >/dev/null; kill $(cat \"$2/pooler.pid\"); \"$1\" -D \"$2/data\" -m immediate stop; rm -rf \"$2\"",
                "sh",
            ])
            .args([&programs.join("pg_ctl"), &folder])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        as_user(&mut life_line, user);
        let life_line = life_line.spawn().unwrap().stdin.take().unwrap();
        let cluster = Self { folder, programs, user, databases: AtomicU32::new(0), _life_line: life_line };
        cluster
            .run("initdb", &["-D", "data", "-U", "bluetrace", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let settings = format!(
            "{settings}listen_addresses = ''\nunix_socket_directories = '{}'\n\
             max_connections = 300\nshared_buffers = 64MB\nautovacuum_naptime = 5\nlog_min_messages = fatal\n",
            cluster.folder.display()
        );
        fs::write(cluster.folder.join("data/postgresql.auto.conf"), settings).unwrap();
        cluster.wake();
        cluster
    }

    /// A new, empty database: its name. Texts are not in the order of their bytes there, unless a column says so.
    pub(crate) fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let order = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
        self.sql("postgres", &format!("CREATE DATABASE {name} {order}"));
        name
    }

    /// The URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        let folder = self.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://bluetrace@{folder}/{database}")
    }

    /// Does statements, and returns the rows as text: columns between `|`, a line each.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        let folder = self.folder.to_str().unwrap();
        let args = ["-h", folder, "-U", "bluetrace", "-d", database, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"];
        self.run("psql", &[&args[..], &["-c", statements]].concat())
    }

    /// Starts a pooler before it, which puts every transaction on any of three connections, and returns the URL of a database
    /// through it. It ends with the cluster.
    pub(crate) fn through_a_pooler(&self, database: &str) -> String {
        let folder = self.folder.display();
        let settings = format!(
            "[databases]\n* = host={folder} user=bluetrace\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {folder}\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nlogfile = {folder}/pooler.log\n\
             pidfile = {folder}/pooler.pid\n[users]\n"
        );
        fs::write(self.folder.join("pooler.ini"), settings).unwrap();
        let mut command = Command::new("pgbouncer");
        command.args(["-d", "pooler.ini"]).current_dir(&self.folder).stdin(Stdio::null());
        as_user(&mut command, self.user);
        let status = command.status().unwrap_or_else(|error| {
            panic!("this test needs pgbouncer ({error}): install it (Debian: apt-get install pgbouncer)")
        });
        assert!(status.success());
        // it goes into the background before it listens
        let deadline = Instant::now() + Duration::from_mins(1);
        while !self.folder.join(".s.PGSQL.6432").exists() {
            assert!(Instant::now() < deadline, "pgbouncer does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        self.url(database).replace(&format!("/{database}"), &format!(":6432/{database}"))
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it as a loss of power would.
    pub(crate) fn stop(&self) {
        self.run("pg_ctl", &["-D", "data", "-m", "immediate", "-w", "stop"]);
    }

    /// Starts it again.
    pub(crate) fn wake(&self) {
        self.run("pg_ctl", &["-D", "data", "-l", "log", "-w", "-t", "120", "start"]);
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(self.programs.join(program));
        command.args(args).current_dir(&self.folder).stdin(Stdio::null());
        as_user(&mut command, self.user);
        // into files: a server that it starts would keep a pipe open
        let output = tempfile::tempfile().unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output.try_clone().unwrap());
        let status = command.status().unwrap();
        let mut text = String::new();
        std::io::Seek::rewind(&mut &output).unwrap();
        std::io::Read::read_to_string(&mut &output, &mut text).unwrap();
        assert!(status.success(), "{program}: {text}");
        text.trim_end().to_owned()
    }
}

/// Where PostgreSQL's programs are: the newest ones that Debian has installed, or beside `initdb` in the path.
fn programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut installed: Vec<_> = installed.filter(|folder| folder.join("bin/initdb").is_file()).collect();
    installed.sort_by_key(|folder| folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    if let Some(newest) = installed.pop() {
        return newest.join("bin");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file());
    in_path.unwrap_or_else(|| {
        panic!(
            "this test needs PostgreSQL's server, and finds no initdb: install it (Debian: apt-get install postgresql), \
             or put its programs into the PATH"
        )
    })
}

fn unprivileged_user() -> u32 {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let id_of = |name: &str| {
        let line = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split(':').nth(1)?.parse().ok()
    };
    id_of("postgres").or_else(|| id_of("nobody")).unwrap()
}

fn as_user(command: &mut Command, user: Option<u32>) {
    if let Some(user) = user {
        command.uid(user).gid(user).env("HOME", "/");
    }
}
