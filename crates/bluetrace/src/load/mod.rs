//! Owns `bluetrace load`: whom it may load, and what is shown meanwhile. The devices are the client crate's; what came of them is in
//! [`report`], and [`store_check`] looks for it in the store.

mod report;
mod store_check;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bluetrace_client::load::{LoadPlan, SentUpload, Snapshot, Tally, addresses};
use bluetrace_client::{Servers, Transport};
use bluetrace_protocol::{Password, Username};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng as _;
use rand::distr::{Alphanumeric, Distribution as _};
use rand::rngs::ChaCha12Rng;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep};

use self::report::{Report, per_second};
use crate::command_line::{AuthorityFolder, LoadOptions};
use crate::import::parse_credential;
use crate::runtime::{block_on, block_on_all_cores};
use crate::system::{self, SystemClock};

pub(crate) fn run(options: LoadOptions) -> anyhow::Result<ExitCode> {
    if let Some(count) = options.make_accounts {
        return make_accounts(&options.accounts, count).map(|()| ExitCode::SUCCESS);
    }
    let plan = block_on(plan(&options))?;
    // what cannot be read or written is said before the work
    let mut json = options.json.as_deref().map(create).transpose()?;
    let LoadOptions { protocol, devices, check_store, store, .. } = options;
    let store = check_store.map(|data_dir| AuthorityFolder { config: None, data_dir, store });
    store.as_ref().map(store_check::open).transpose()?;
    let Load { results, took, sent } = block_on_all_cores(load(plan))?;
    let store = store.map(|folder| store_check::check(&folder, sent)).transpose();
    // a store that cannot be read is no reason to keep silent of the rest
    let (store, failure) = store.map_or_else(|error| (None, Some(error)), |store| (store, None));
    let report = Report { protocol, devices, results, took, store };
    system::to_stdout(|out| Ok(out.write_all(report::table(&report).as_bytes())?))?;
    if let Some((file, path)) = &mut json {
        let text = format!("{:#}\n", report::in_json(&report));
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match failure {
        Some(error) => Err(error.context("cannot look into the store")),
        None => Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// What devices have done.
struct Load {
    results: Snapshot,
    took: Duration,
    sent: Vec<SentUpload>,
}

/// What load is asked for, if it may be made.
async fn plan(options: &LoadOptions) -> anyhow::Result<LoadPlan> {
    let server = options.server.as_deref().unwrap_or("127.0.0.1");
    let servers = Servers::parse(server, options.protocol.port())?;
    if !options.i_own_this_server
        && let Some(other) = addresses(&servers).await?.into_iter().find(|address| !address.is_loopback())
    {
        bail!("{other} is not this machine: with the consent of whoever runs it, give --i-own-this-server");
    }
    let accounts = read_accounts(&options.accounts)?;
    let room = system::open_files().saturating_sub(FILES_BESIDES);
    ensure!(
        u64::from(options.devices) <= room,
        "the limit of open files leaves room for {room} devices: raise the hard limit (`ulimit -Hn`, LimitNOFILE= of a \
         systemd unit), or have fewer"
    );
    Ok(LoadPlan {
        servers,
        protocol: options.protocol.into(),
        transport: if options.plaintext { Transport::Plaintext } else { Transport::Tls },
        data_dir: options.data_dir.clone(),
        accounts,
        devices: options.devices,
        records: options.records,
        temp_ids: options.temp_ids,
        uploads: options.uploads.or(options.duration.is_none().then_some(1)),
        duration: options.duration.map(|seconds| Duration::from_secs(seconds.into())),
        every: Duration::from_secs(options.every.unwrap_or(0).into()),
        logins_at_once: options.logins_at_once,
        clock: Arc::new(SystemClock),
        seed: system::seed()?,
    })
}

async fn load(plan: LoadPlan) -> anyhow::Result<Load> {
    wait_for_a_server(&plan.servers).await?;
    let tally = Arc::new(Tally::default());
    let (stop, stopped) = watch::channel(false);
    let begun = Instant::now();
    let mut progress = Progress::new(plan.devices);
    let mut devices = Box::pin(bluetrace_client::load::run(plan, Arc::clone(&tally), stopped));
    let period = if progress.is_watched { LIVE_EVERY } else { LINE_EVERY };
    let mut ticks = interval_at(begun + period, period);
    let sent = loop {
        tokio::select! {
            outcome = &mut devices => break outcome?,
            _ = ticks.tick() => progress.show(&tally.snapshot(), begun.elapsed()),
            asked = tokio::signal::ctrl_c() => {
                asked.context("cannot hear the interrupt")?;
                if stop.send_replace(true) {
                    progress.end();
                    bail!("ended before everything was asked for again; the authority keeps what it has acknowledged");
                }
                progress.note("finishing, and asking for what was acknowledged; interrupt again to end at once");
            }
        }
    };
    progress.end();
    Ok(Load { results: tally.snapshot(), took: begun.elapsed(), sent })
}

fn create(path: &Path) -> anyhow::Result<(File, PathBuf)> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((file, path.to_path_buf()))
}

/// A server that was started a moment ago may be reading its accounts.
async fn wait_for_a_server(servers: &Servers) -> anyhow::Result<()> {
    let patience = Instant::now() + WAIT_FOR_SERVER;
    let mut is_said = false;
    while let Err(error) = servers.reach_any().await {
        if Instant::now() > patience {
            return Err(error.into());
        }
        if !std::mem::replace(&mut is_said, true) {
            system::say(&format!("{error}; waiting for it"));
        }
        sleep(RETRY_SERVER).await;
    }
    Ok(())
}

fn make_accounts(file: &Path, count: u32) -> anyhow::Result<()> {
    let mut generator = ChaCha12Rng::from_seed(system::seed()?);
    let mut text = String::new();
    for number in 0..count {
        let password: String = Alphanumeric.sample_iter(&mut generator).take(20).map(char::from).collect();
        // writing to a string does not fail
        _ = writeln!(text, "load-{number:05} {password}");
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut made = made
        .with_context(|| format!("cannot make {0}: move it away, or name another with --accounts", file.display()))?;
    made.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    system::say(&format!("{count} accounts in {0}: begin a server with `--credentials {0}`", file.display()));
    Ok(())
}

fn read_accounts(file: &Path) -> anyhow::Result<Vec<(Username, Password)>> {
    let text = fs::read_to_string(file).with_context(|| {
        format!(
            "cannot read accounts from {}: give --accounts FILE, or have some made with --make-accounts N",
            file.display()
        )
    })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let accounts = lines.map(|(index, line)| {
        parse_credential(line).map_err(|reason| anyhow::anyhow!("line {} of {}: {reason}", index + 1, file.display()))
    });
    let accounts: Vec<_> = accounts.collect::<anyhow::Result<_>>()?;
    ensure!(!accounts.is_empty(), "{} holds no accounts", file.display());
    Ok(accounts)
}

/// How far it has come: a line that changes at a terminal, a line now and then elsewhere; on standard error.
struct Progress {
    bar: ProgressBar,
    devices: u32,
    is_watched: bool,
    before: (u64, Duration),
}

impl Progress {
    fn new(devices: u32) -> Self {
        let is_watched = io::stderr().is_terminal();
        let bar = if is_watched { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self { bar, devices, is_watched, before: (0, Duration::ZERO) }
    }

    fn show(&mut self, now: &Snapshot, elapsed: Duration) {
        let line = self.line(now, elapsed);
        if self.is_watched {
            self.bar.set_message(line);
            self.bar.tick();
        } else {
            system::say(&line);
        }
    }

    fn line(&mut self, now: &Snapshot, elapsed: Duration) -> String {
        let (records, then) = std::mem::replace(&mut self.before, (now.records, elapsed));
        let seconds = elapsed.saturating_sub(then).as_secs_f64();
        let rate = if seconds > 0.0 { per_second(now.records.saturating_sub(records), seconds) } else { 0 };
        let errors: u64 = now.errors.values().sum();
        // a load through which nothing gets has no end by itself: why has to be seen meanwhile
        let most = now.errors.iter().max_by_key(|(_, count)| **count);
        let most = most.map_or_else(String::new, |(what, _)| format!(", most of them: {what}"));
        format!(
            "{} s: {} of {} devices online, {} uploads, {} records ({rate}/s), {} confirmed, {errors} errors{most}",
            elapsed.as_secs(),
            now.online,
            self.devices,
            now.uploads,
            now.records,
            now.confirmed,
        )
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| system::say(text));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Files that a process has open besides its devices' connections.
const FILES_BESIDES: u64 = 64;

/// How long the first server is waited for, and how often it is asked.
const WAIT_FOR_SERVER: Duration = Duration::from_secs(30);
const RETRY_SERVER: Duration = Duration::from_millis(500);

/// How often the line at a terminal changes, and how often there is a line elsewhere.
const LIVE_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_watches_a_load_through_which_nothing_gets_sees_why() {
        let mut progress = Progress::new(2);
        let errors = [("connection lost: closed", 2), ("the server does not speak HTTP", 7)];
        let errors = errors.map(|(what, count)| (what.to_owned(), count)).into();
        let line = progress.line(&Snapshot { errors, ..Snapshot::default() }, Duration::from_secs(5));
        assert!(line.ends_with("9 errors, most of them: the server does not speak HTTP"), "{line}");
        let line = progress.line(&Snapshot::default(), Duration::from_secs(10));
        assert!(line.ends_with("0 confirmed, 0 errors"), "{line}");
    }
}
