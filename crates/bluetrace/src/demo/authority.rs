//! Owns the health authority of the demonstration: the real server in a temporary folder, and a look into its books.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bluetrace_authority::Policy;
use bluetrace_authority::store::Lockout;
use bluetrace_authority::trace::{Trace, TracedRecord};
use bluetrace_protocol::limits::MAX_FAILED_LOGINS;
use bluetrace_protocol::{Clock as _, Password, Record, Timestamp};
use bluetrace_server::console::Console;
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::limits::Limits;
use bluetrace_server::listener;
use bluetrace_server::password_pool::ThreadPool;
use bluetrace_server::tls::ServerTls;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::actor::{PATIENCE, Person};
use super::narrator::Narrator;
use super::{BLOCK_DURATION_S, TEMP_ID_LIFETIME_S};
use crate::installation::Installation;
use crate::serve::{RunningServer, ServerParts};
use crate::system::{self, SystemClock};

/// The authority of the demonstration.
pub(crate) struct DemoAuthority {
    server: RunningServer,
    console: Mutex<mpsc::UnboundedReceiver<String>>,
}

/// When somebody was met.
pub(crate) struct Encounters {
    pub(crate) count: usize,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl DemoAuthority {
    pub(crate) async fn open(folder: &Path, people: [&Person; 3]) -> anyhow::Result<Self> {
        let folder = DataFolder::open(folder)?;
        let lock = folder.lock_for_server()?;
        let passwords = Arc::new(ThreadPool::start(system::cores()).context("cannot start the password threads")?);
        let policy = Policy {
            lockout: Lockout { max_failures: MAX_FAILED_LOGINS, block_duration_s: BLOCK_DURATION_S },
            temp_id_lifetime_s: TEMP_ID_LIFETIME_S,
            ..Policy::default()
        };
        let installation = Installation::open(&folder, None, policy, passwords)?;
        for person in people {
            let password = Password::parse(person.password)?;
            let is_new = installation.authority.open_account(person.username()?, password, SystemClock.now()).await?;
            ensure!(is_new, "the temporary folder holds accounts already");
        }
        let (lines, console) = mpsc::unbounded_channel();
        let server = RunningServer::start(ServerParts {
            tls: ServerTls::open(folder.path())?,
            console: Console::start(Box::new(Lines { lines, begun: Vec::new() }))
                .context("cannot start the console")?,
            limits: Limits::for_open_files(system::open_files()),
            allow_plaintext: false,
            listener: listener::bind(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0)?,
            http: None,
            lock,
            installation,
        })?;
        Ok(Self { server, console: Mutex::new(console) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The console's lines since the last call, up to the first that is `last`.
    pub(crate) async fn console_lines(&self, mut last: impl FnMut(&str) -> bool) -> anyhow::Result<Vec<String>> {
        let mut console = self.console.lock().await;
        let mut lines = Vec::new();
        let reading = async {
            while let Some(line) = console.recv().await {
                lines.push(line);
                if lines.last().is_some_and(|line| last(line)) {
                    break;
                }
            }
        };
        timeout(PATIENCE, reading).await.context("the authority's console did not say what it should")?;
        Ok(lines)
    }

    /// Every record of every upload, in order.
    pub(crate) async fn uploaded_records(&self) -> anyhow::Result<Vec<(Record, Option<Timestamp>)>> {
        let traced = self.traced().await?;
        Ok(traced.into_iter().filter_map(|traced| traced.record).map(|sent| (sent.record, sent.received)).collect())
    }

    /// Who was met, by phone number, and when.
    pub(crate) async fn people_met(&self) -> anyhow::Result<BTreeMap<String, Encounters>> {
        let mut met = BTreeMap::new();
        for traced in self.traced().await? {
            let (Trace::Resolved(owner), Some(record)) = (traced.trace, traced.record) else { continue };
            let time = record.received.context("the device did not say when it heard a beacon")?;
            let encounters =
                met.entry(owner.username.reveal().to_owned()).or_insert(Encounters { count: 0, from: time, to: time });
            encounters.count += 1;
            encounters.from = encounters.from.min(time);
            encounters.to = encounters.to.max(time);
        }
        Ok(met)
    }

    async fn traced(&self) -> anyhow::Result<Vec<TracedRecord>> {
        let (authority, now) = (&self.server.installation.authority, SystemClock.now());
        let mut traced = Vec::new();
        for upload in authority.store().uploads(None, 100, now).await? {
            traced.extend(authority.traced_records(upload.key, 0, upload.records, now).await?);
        }
        Ok(traced)
    }

    /// Goes on until the reader has seen enough, showing the console.
    pub(crate) async fn keep(self, narrator: &Narrator, people: [&Person; 3]) -> anyhow::Result<()> {
        narrator.tell("\n    The authority goes on. Join it from other terminals, and end it here with Ctrl-C:");
        let address = self.address();
        narrator.tell(&format!("    bluetrace client {} {} 8001", address.ip(), address.port()));
        for person in people {
            narrator
                .tell(&format!("    {}: username {}, password {}", person.name, person.phone_number, person.password));
        }
        let asked_to_end = system::asked_to_end()?;
        let mut console = self.console.into_inner();
        let show = async {
            while let Some(line) = console.recv().await {
                narrator.quote("authority", &line);
            }
        };
        tokio::select! {
            () = asked_to_end => {}
            () = show => {}
        }
        self.server.stop().await
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

/// Cuts what the console writes into lines.
struct Lines {
    lines: mpsc::UnboundedSender<String>,
    begun: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            self.lines.send(line).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
