//! Owns `bluetrace load`: whom it may load, what is shown meanwhile, and the report. The devices are the client crate's.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bluetrace_client::load::{LoadPlan, Snapshot, Tally, addresses};
use bluetrace_client::{Servers, Transport};
use bluetrace_protocol::{Password, Username};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng as _;
use rand::distr::{Alphanumeric, Distribution as _};
use rand::rngs::ChaCha12Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep};

use crate::command_line::LoadOptions;
use crate::import::parse_credential;
use crate::runtime::block_on_all_cores;
use crate::system::{self, SystemClock};

pub(crate) fn run(options: LoadOptions) -> anyhow::Result<ExitCode> {
    match options.make_accounts {
        Some(count) => make_accounts(&options.accounts, count).map(|()| ExitCode::SUCCESS),
        None => block_on_all_cores(load(options)),
    }
}

async fn load(options: LoadOptions) -> anyhow::Result<ExitCode> {
    let servers = Servers::parse(&options.server, 4000)?;
    if !options.i_own_this_server
        && let Some(other) = addresses(&servers).await?.into_iter().find(|address| !address.is_loopback())
    {
        bail!("{other} is not this machine: with the consent of whoever runs it, give --i-own-this-server");
    }
    let accounts = read_accounts(&options.accounts)?;
    let room = system::open_files().saturating_sub(FILES_BESIDES);
    ensure!(
        u64::from(options.devices) <= room,
        "the limit of open files leaves room for {room} devices: raise it with `ulimit -n`, or have fewer"
    );
    let uploads = options.uploads.or(options.duration.is_none().then_some(1));
    let plan = LoadPlan {
        servers,
        transport: if options.plaintext { Transport::Plaintext } else { Transport::Tls },
        data_dir: options.data_dir,
        accounts,
        devices: options.devices,
        records: options.records,
        temp_ids: options.temp_ids,
        uploads,
        duration: options.duration.map(|seconds| Duration::from_secs(seconds.into())),
        every: Duration::from_secs(options.every.unwrap_or(0).into()),
        logins_at_once: options.logins_at_once,
        clock: Arc::new(SystemClock),
        seed: system::seed()?,
    };
    // what cannot be written is said before the work
    let mut json = options.json.map(create).transpose()?;
    wait_for_a_server(&plan.servers).await?;
    let tally = Arc::new(Tally::default());
    let (stop, stopped) = watch::channel(false);
    let begun = Instant::now();
    let mut devices = Box::pin(bluetrace_client::load::run(plan, Arc::clone(&tally), stopped));
    let mut progress = Progress::new(options.devices);
    let period = if progress.is_watched { LIVE_EVERY } else { LINE_EVERY };
    let mut ticks = interval_at(begun + period, period);
    loop {
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
    }
    progress.end();
    let (results, took) = (tally.snapshot(), begun.elapsed());
    system::to_stdout(|out| Ok(out.write_all(table(&results, took).as_bytes())?))?;
    if let Some((file, path)) = &mut json {
        let text = format!("{:#}\n", in_json(&results, took));
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // a load of which nothing got through has shown nothing
    let is_good = results.lost_records == 0 && results.unconfirmed == 0 && results.uploads > 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn create(path: PathBuf) -> anyhow::Result<(File, PathBuf)> {
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((file, path))
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
        let (records, then) = std::mem::replace(&mut self.before, (now.records, elapsed));
        let seconds = elapsed.saturating_sub(then).as_secs_f64();
        let rate = if seconds > 0.0 { per_second(now.records.saturating_sub(records), seconds) } else { 0 };
        let errors: u64 = now.errors.values().sum();
        let line = format!(
            "{} s: {} of {} devices online, {} uploads, {} records ({rate}/s), {} confirmed, {errors} errors",
            elapsed.as_secs(),
            now.online,
            self.devices,
            now.uploads,
            now.records,
            now.confirmed,
        );
        if self.is_watched {
            self.bar.set_message(line);
            self.bar.tick();
        } else {
            system::say(&line);
        }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| system::say(text));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The report for a person.
fn table(results: &Snapshot, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let mut text = String::new();
    // writing to a string does not fail
    let mut row = |name: &str, value: String| _ = writeln!(text, "{name:<28} {value}");
    row("time", format!("{seconds:.1} s"));
    row("TempIDs", results.temp_ids.to_string());
    row("uploads complete", format!("{} ({}/s)", results.uploads, per_second(results.uploads, seconds)));
    row("records acknowledged", format!("{} ({}/s)", results.records, per_second(results.records, seconds)));
    row("longest pause", format!("{:.1} s", results.longest_gap.as_secs_f64()));
    row("uploads confirmed afterwards", results.confirmed.to_string());
    if results.unconfirmed > 0 {
        row("uploads NOT confirmed", results.unconfirmed.to_string());
    }
    row("acknowledged records lost", results.lost_records.to_string());
    for (what, latency) in &results.latencies {
        let [p50, p90, p99, max] = [latency.p50, latency.p90, latency.p99, latency.max].map(in_ms);
        let count = latency.count;
        row(&format!("{}, ms", what.name()), format!("p50 {p50}  p90 {p90}  p99 {p99}  max {max}  ({count} times)"));
    }
    if results.errors.is_empty() {
        row("errors", "none".to_owned());
    }
    for (what, count) in &results.errors {
        row(&format!("error: {what}"), count.to_string());
    }
    text
}

/// The report for a program. Latencies in milliseconds.
fn in_json(results: &Snapshot, took: Duration) -> Value {
    let latencies = results.latencies.iter().map(|(what, latency)| {
        let [p50, p90, p99, max] =
            [latency.p50, latency.p90, latency.p99, latency.max].map(|time| (time.as_secs_f64() * 1e6).round() / 1e3);
        (what.name().to_owned(), json!({"count": latency.count, "p50": p50, "p90": p90, "p99": p99, "max": max}))
    });
    json!({
        "seconds": took.as_secs_f64(),
        "temp_ids": results.temp_ids,
        "uploads": results.uploads,
        "records": results.records,
        "confirmed": results.confirmed,
        "unconfirmed": results.unconfirmed,
        "lost_records": results.lost_records,
        "longest_gap_seconds": results.longest_gap.as_secs_f64(),
        "latencies_ms": latencies.collect::<serde_json::Map<_, _>>(),
        "errors": results.errors,
    })
}

fn in_ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate to look at"
)]
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds) as u64
}

/// Files that a process has open besides its devices' connections.
const FILES_BESIDES: u64 = 64;

/// How long the first server is waited for, and how often it is asked.
const WAIT_FOR_SERVER: Duration = Duration::from_secs(30);
const RETRY_SERVER: Duration = Duration::from_millis(500);

/// How often the line at a terminal changes, and how often there is a line elsewhere.
const LIVE_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(5);
