//! Owns `bluetrace client`: the one place where a device in a terminal is put together.

use std::io::{self, BufReader, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bluetrace_client::device::StartError;
use bluetrace_client::terminal::{ExitStatus, Paint, Stage, TerminalOptions, run_terminal};
use bluetrace_client::{ConnectError, Servers, Transport};
use bluetrace_protocol::Username;

use crate::command_line::ClientOptions;
use crate::system::{self, SystemClock};
use crate::{passwords, runtime};

pub(crate) fn run(options: ClientOptions) -> anyhow::Result<ExitCode> {
    let stage = match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
        (true, true) => Stage::Terminal,
        (true, false) => Stage::TerminalInput(Box::new(io::stdout())),
        (false, _) => Stage::Pipe(Box::new(BufReader::new(io::stdin())), Box::new(io::stdout())),
    };
    let servers = Servers::parse(&options.server_ip, options.server_port)?;
    let is_watched = matches!(stage, Stage::Terminal);
    let options = TerminalOptions {
        servers: servers.clone(),
        transport: if options.plaintext { Transport::Plaintext } else { Transport::Tls },
        udp_port: options.udp_port,
        data_dir: options.data_dir,
        username: options.username.as_deref().map(Username::parse).transpose()?,
        password: passwords::given(&options.password)?,
        retention_s: options.retention,
        downloads: !options.no_tempid,
        notices_every: NOTICES_EVERY,
        clock: Arc::new(SystemClock),
        seed: system::seed()?,
        stage,
        paint: if system::wants_colour() { Paint::Coloured } else { Paint::Bare },
    };
    let runtime = runtime::on_this_thread()?;
    let status = runtime.block_on(run_terminal(options));
    // a thread that still waits for a line of standard input must not hold up the end
    runtime.shutdown_background();
    let status = match status {
        // a script gets two lines of it, a person all there is to compare
        Err(StartError::Connect(ConnectError::CertificateChanged(changed))) if io::stderr().is_terminal() => {
            bail!(changed.at_length())
        }
        status => status?,
    };
    if status == ExitStatus::Failure && !is_watched {
        // a person at a terminal has just read why; whoever reads standard error alone has not
        system::say(&format!("bluetrace: not logged in at {servers}; the end of standard output says why"));
    }
    Ok(ExitCode::from(status.code()))
}

/// How often a device asks whether there is a notice for it.
const NOTICES_EVERY: Duration = Duration::from_mins(1);
