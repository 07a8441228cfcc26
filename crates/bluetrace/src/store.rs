//! Owns `bluetrace store`: bringing a store up to date, examining it, copying it into another one.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bluetrace_authority::passwords::InlinePool;
use bluetrace_protocol::Clock as _;
use bluetrace_server::check::check;
use bluetrace_server::copy::{CopyError, CopyOptions, Place, Progress, Step, copy};
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::postgres::{PostgresOptions, PostgresPlace, PostgresStore};
use bluetrace_server::sqlite;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval_at};

use crate::command_line::{AuthorityFolder, CopyArguments, StoreAction, StoreOptions, StorePlace};
use crate::installation::{Installation, shared_place};
use crate::runtime::block_on_all_cores;
use crate::system::{self, SystemClock, to_stdout};

pub(crate) fn run(options: &StoreOptions) -> anyhow::Result<ExitCode> {
    match &options.action {
        StoreAction::Migrate { folder } => migrate(folder).map(|()| ExitCode::SUCCESS),
        StoreAction::Check { folder } => examine(folder),
        StoreAction::Copy(arguments) => copy_store(arguments).map(|()| ExitCode::SUCCESS),
    }
}

fn migrate(options: &AuthorityFolder) -> anyhow::Result<()> {
    let folder = DataFolder::open_existing(&options.data_dir);
    let (found, known) = match &options.store {
        Some(url) => {
            let mark = folder.existing_master_key()?.map(|key| key.mark()).unwrap_or_default();
            let (place, options) = (shared_place(url)?, PostgresOptions::default());
            let inspection = PostgresStore::inspect(place, options, &mark, SystemClock.now())?;
            (inspection.schema, inspection.known_schema)
        }
        None if folder.has_database()? => sqlite::schema(&folder.database())?,
        None => (0, 0),
    };
    if options.store.is_none() && found < known && folder.is_served()? {
        bail!("a server of an older version is at work on {}; end it first", folder.path().display());
    }
    // whoever opens a store brings it up to date, and says why it cannot
    Installation::open_or_begin(options, Arc::new(InlinePool))?.database.close();
    to_stdout(|out| {
        match found {
            0 => writeln!(out, "made the tables of schema {known}")?,
            _ if found == known => writeln!(out, "up to date: schema {known}")?,
            _ => writeln!(out, "brought from schema {found} to schema {known}")?,
        }
        Ok(())
    })
}

fn examine(options: &AuthorityFolder) -> anyhow::Result<ExitCode> {
    let folder = DataFolder::open_existing(&options.data_dir);
    let Some(master_key) = folder.existing_master_key()? else {
        bail!("there is no master key in {0}; name the authority's folder with --data-dir", folder.path().display());
    };
    let place = match &options.store {
        Some(url) => Place::Shared(shared_place(url)?),
        None => Place::Folder(folder),
    };
    let copying = copy_options(false)?;
    let progress = Progress::default();
    let checking = check(&place, &copying, &master_key, SystemClock.now(), &progress);
    let checked = block_on_all_cores(watched(&progress, "broken off", checking))?;
    let is_whole = checked.findings.is_empty();
    to_stdout(|out| {
        out.write_all(table(&checked.tables).as_bytes())?;
        for finding in &checked.findings {
            writeln!(out, "error  {}; {}", finding.found, finding.remedy)?;
        }
        if is_whole {
            writeln!(out, "whole: every row can be read, and all rules hold")?;
        }
        Ok(())
    })?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn copy_store(arguments: &CopyArguments) -> anyhow::Result<()> {
    let (from, to) = (place(&arguments.from)?, place(&arguments.to)?);
    let options = copy_options(arguments.ignore_connections)?;
    let progress = Progress::default();
    let copying = copy(&from, &to, &options, &progress);
    let tables = block_on_all_cores(watched(&progress, "broken off; the same command goes on where it was", copying))?;
    to_stdout(|out| {
        out.write_all(table(&tables).as_bytes())?;
        writeln!(out, "{to} is a whole copy of {from}: all rows of both were compared")?;
        Ok(())
    })?;
    system::say("destroy the source once the copy is in use: it keeps what the copy will forget");
    Ok(())
}

fn place(named: &StorePlace) -> anyhow::Result<Place> {
    Ok(match named {
        StorePlace::Folder(path) => Place::Folder(DataFolder::open_existing(path)),
        StorePlace::Shared(url) => {
            // not repeated: it may hold a password
            ensure!(
                PostgresPlace::is_meant(&url.0),
                "one of both is neither a folder that is there nor the URL of a database; write postgres://USER@HOST/DATABASE"
            );
            Place::Shared(shared_place(url)?)
        }
    })
}

fn copy_options(ignore_connections: bool) -> anyhow::Result<CopyOptions> {
    Ok(CopyOptions { seed: system::seed()?, postgres: PostgresOptions::default(), ignore_connections })
}

/// How many rows each table has.
fn table(tables: &[(&'static str, u64)]) -> String {
    let mut text = String::new();
    for (name, rows) in tables {
        // writing to a string does not fail
        _ = writeln!(text, "{name:<16} {rows:>14}");
    }
    text
}

/// Does work to its end, and shows how far it is: a line that changes at a terminal, a line now and then elsewhere; on standard error.
/// Whoever interrupts it is told `broken_off`.
async fn watched<T>(
    progress: &Progress,
    broken_off: &'static str,
    work: impl Future<Output = Result<T, CopyError>>,
) -> anyhow::Result<T> {
    let is_watched = io::stderr().is_terminal();
    let bar = if is_watched { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {msg}") {
        bar.set_style(style);
    }
    let period = if is_watched { LIVE_EVERY } else { LINE_EVERY };
    let mut ticks = interval_at(Instant::now() + period, period);
    let mut pace = Pace { begun: None };
    let mut work = Box::pin(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = ticks.tick() => {
                let (step, done, total) = progress.now();
                // rows may have come since they were counted
                let total = total.max(done);
                let line = match step {
                    Step::Beginning => step.to_string(),
                    Step::Copying | Step::Comparing | Step::Checking => {
                        format!("{step}: {done} of {total} rows{}", pace.say(step, done, total))
                    }
                };
                bar.set_length(total);
                bar.set_position(done);
                if is_watched { bar.set_message(line) } else { system::say(&line) }
                bar.tick();
            }
            asked = tokio::signal::ctrl_c() => {
                asked.context("cannot hear the interrupt")?;
                bar.finish_and_clear();
                bail!(broken_off);
            }
        }
    };
    bar.finish_and_clear();
    Ok(outcome?)
}

/// How fast a step goes since it began.
struct Pace {
    begun: Option<(Step, Instant, u64)>,
}

impl Pace {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate to look at"
    )]
    fn say(&mut self, step: Step, done: u64, total: u64) -> String {
        let (_, since, first) = match self.begun {
            Some(begun) if begun.0 == step => begun,
            _ => *self.begun.insert((step, Instant::now(), done)),
        };
        let (rows, seconds) = (done.saturating_sub(first) as f64, since.elapsed().as_secs_f64());
        if rows < 1.0 || seconds < 1.0 {
            return String::new();
        }
        let rate = rows / seconds;
        format!(", {}/s, {} s left", rate as u64, (total.saturating_sub(done) as f64 / rate) as u64)
    }
}

/// How often the line at a terminal changes, and how often there is a line elsewhere.
const LIVE_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(5);
