//! Owns what is taken from the machine: its clock, its randomness, its limits, its standard streams. Nothing else does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::time::SystemTime;

use anyhow::Context as _;
use bluetrace_client::in_words;
use bluetrace_protocol::{Clock, Moment};
use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::command_line::LogLevel;

/// The system's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
    fn moment(&self) -> Moment {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_1970.as_millis()).ok().and_then(Moment::from_unix_ms).unwrap_or(Moment::MAX)
    }
}

/// 32 bytes of the system's randomness.
pub(crate) fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).context("the system gives no randomness")?;
    Ok(seed)
}

/// How many files this process may open; raised as far as the system lets it.
pub(crate) fn open_files() -> u64 {
    // where the limit cannot be raised, the usual one is assumed
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1_024)
}

/// How many cores there are to use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A variable of the environment, if it is set to something.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variables of the environment that are this program's and set to something, by their names.
pub(crate) fn variables() -> BTreeMap<String, OsString> {
    let of_ours = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("BLUETRACE_"))?;
        (!value.is_empty()).then_some((name, value))
    };
    std::env::vars_os().filter_map(of_ours).collect()
}

/// Who runs this program, by the system's account.
pub(crate) fn user_name() -> anyhow::Result<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).context("cannot learn who runs this program")?;
    Ok(user.map_or_else(|| format!("uid {}", nix::unistd::getuid()), |user| user.name))
}

/// Whether standard output is a terminal whose reader wants colour.
pub(crate) fn wants_colour() -> bool {
    io::stdout().is_terminal() && variable("NO_COLOR").is_none() && variable("TERM").as_deref() != Some("dumb")
}

/// How many characters fit on a line of standard output, if that is a terminal.
pub(crate) fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(width.0.into())
}

/// Starts the log on standard error.
pub(crate) fn start_log(level: LogLevel) {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let is_colourful = io::stderr().is_terminal() && variable("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(is_colourful).with_max_level(level).init();
}

/// Says on standard error why the program ends: one line, with its causes, each of them once.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = in_words(error);
    for cause in error.chain().skip(1).map(in_words) {
        if !text.contains(&cause) {
            text.extend([": ", &cause]);
        }
    }
    say(&format!("bluetrace: {text}"));
}

/// Says a line on standard error. A closed standard error is nobody's concern.
pub(crate) fn say(line: &str) {
    _ = writeln!(io::stderr(), "{line}");
}

/// Hands out standard output, buffered. A reader that has seen enough is no error.
pub(crate) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = write(&mut out).and_then(|()| Ok(out.flush()?));
    match written {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        written => written,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let from_csv = cause
            .downcast_ref::<csv::Error>()
            .and_then(|error| if let csv::ErrorKind::Io(error) = error.kind() { Some(error) } else { None });
        let io = cause.downcast_ref::<io::Error>().or(from_csv);
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Listens for the user or a service manager to ask this process to end: from this call on, and not only from the time that
/// somebody waits for what it returns. Who is told that a server listens may end it at once.
pub(crate) fn asked_to_end() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
