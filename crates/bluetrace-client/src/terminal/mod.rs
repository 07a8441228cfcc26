//! Owns the front-end in a terminal: [`run_terminal`] asks for the login, then takes one command after the other.
//!
//! At a terminal there is a prompt with history and completion, and what happens is printed above the line being typed. From
//! a pipe the same commands are read line by line, each taken when the one before is done, so that a script always does the same.

mod command;
mod front_end;
mod input;
mod screen;
mod text;

use std::fmt;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::{Clock, Password, Username};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

use self::front_end::{FrontEnd, Manner};
use self::input::{Input, Memory};
pub use self::screen::Paint;
use self::screen::{Screen, Sink};
use crate::device::{DeviceConfig, StartError};
use crate::uplink::{ServerAddress, Transport};

/// What the terminal needs to know to begin.
#[derive(Debug)]
pub struct TerminalOptions {
    /// Where the authority is.
    pub server: ServerAddress,
    /// How it is spoken to.
    pub transport: Transport,
    /// Where beacons are heard.
    pub udp_port: u16,
    /// The data folder; made if there is none.
    pub data_dir: PathBuf,
    /// Who logs in; asked for if not given.
    pub username: Option<Username>,
    /// The password; asked for if not given.
    pub password: Option<Password>,
    /// How long a beacon is kept, in seconds.
    pub retention_s: u32,
    /// Whether the device downloads `TempIDs` by itself.
    pub downloads: bool,
    /// How often it asks for notices.
    pub notices_every: Duration,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Whence its randomness comes.
    pub seed: [u8; 32],
    /// Whence the lines come, and where the texts go.
    pub stage: Stage,
    /// Whether they are painted.
    pub paint: Paint,
}

/// Where a front-end stands.
pub enum Stage {
    /// Standard input and output are a terminal.
    Terminal,
    /// Standard input is a terminal, and the texts go elsewhere.
    TerminalInput(Box<dyn Write + Send>),
    /// Neither needs to be one.
    Pipe(Box<dyn BufRead + Send>, Box<dyn Write + Send>),
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminal => "Terminal",
            Self::TerminalInput(_) => "TerminalInput(..)",
            Self::Pipe(..) => "Pipe(..)",
        })
    }
}

/// How a front-end ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// As the user wanted; also where its reader has seen enough.
    Success,
    /// It did not begin, or the authority did not take it.
    Failure,
}

impl ExitStatus {
    /// The process's exit status: 0 or 1 (PROTOCOL section 6).
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
        }
    }
}

/// Runs a device with a person, or a script, in front of it.
///
/// # Errors
/// [`StartError`] if the device did not begin: to be said where the program says why it fails, for nothing was shown of it.
pub async fn run_terminal(options: TerminalOptions) -> Result<ExitStatus, StartError> {
    let memory = Memory::default();
    let (input, sink, manner) = match options.stage {
        Stage::Terminal => match Input::prompt(memory.clone()) {
            Ok((input, printer)) => (input, Sink::AbovePrompt(printer), Manner::Prompt),
            // a terminal that understands no cursor movements
            Err(_) => (Input::simple_terminal(), Sink::Plain(Box::new(io::stdout())), Manner::Lines),
        },
        Stage::TerminalInput(output) => (Input::simple_terminal(), Sink::Plain(output), Manner::Lines),
        Stage::Pipe(input, output) => (Input::pipe(input), Sink::Plain(output), Manner::Lines),
    };
    let _mode = TerminalMode::kept();
    let screen = Screen::new(sink, options.paint);
    let Ok(mut front) = FrontEnd::new(input, screen, manner, memory, options.password) else {
        return Ok(ExitStatus::Failure);
    };
    // every address, of IPv6 too where there is it
    let udp = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), options.udp_port);
    let username = match options.username {
        Some(username) => Ok(Some(username)),
        None => front.ask_username(&options.server, udp).await,
    };
    let status = match username {
        Err(error) => Err(error),
        Ok(None) => Ok(front.status_of_stop()),
        Ok(Some(username)) => {
            let config = DeviceConfig {
                server: options.server,
                transport: options.transport,
                udp,
                data_dir: options.data_dir,
                username,
                retention_s: options.retention_s,
                downloads: options.downloads,
                notices_every: options.notices_every,
                clock: options.clock,
                seed: options.seed,
            };
            front.run(config).await
        }
    };
    front.close().await;
    status
}

/// The mode of the terminal at the start, to which it returns however the front-end ends.
struct TerminalMode(Option<Termios>);

impl TerminalMode {
    fn kept() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for TerminalMode {
    fn drop(&mut self) {
        if let Some(mode) = &self.0 {
            // a terminal that is gone needs no mode
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, mode);
        }
    }
}
