//! A real server for tests: the built binary on loopback, on a free port, with a data folder of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// A server that ends with the test that holds it.
#[derive(Debug)]
pub(crate) struct RunningServer {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl RunningServer {
    /// Starts a server with the accounts and `TempIDs` of `vectors/sessions/server` and waits until it listens.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let files = root().join("vectors/sessions/server");
        let log = folder.path().join("log.txt");
        let mut child = Command::new(env!("CARGO_BIN_EXE_bluetrace"))
            .args(["server", "0", "60", "--bind", "127.0.0.1", "--data-dir"])
            .arg(folder.path().join("data"))
            .arg("--credentials")
            .arg(files.join("credentials.txt"))
            .arg("--tempids")
            .arg(files.join("tempIDs.txt"))
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut console = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = console.find_map(|line| line.strip_prefix("listening on ").and_then(|text| text.parse().ok()));
        // a console that nobody reads would stop the server in the end
        thread::spawn(move || console.for_each(drop));
        let Some(address) = address else {
            _ = child.kill();
            panic!("the server did not say `listening on`; its log: {}", fs::read_to_string(log).unwrap_or_default());
        };
        Self { child, address, _folder: folder }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
