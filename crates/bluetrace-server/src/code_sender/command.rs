//! Owns sending a one-time code by a program of the operator's: [`CodeCommand`].
//!
//! The program gets two lines on its standard input, the number and the text, and says with exit status 0 that the message is on its
//! way. What it writes goes nowhere: it may well be about the person.

use std::ffi::OsString;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Message, SendError};
use crate::limits::CODE_DEADLINE;

/// A program that sends one-time codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeCommand {
    program: OsString,
    arguments: Vec<OsString>,
}

impl CodeCommand {
    /// A program with its arguments, apart by spaces: `None` if there is none. There is no quoting: whoever needs it writes a script.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace().map(OsString::from);
        Some(Self { program: words.next()?, arguments: words.collect() })
    }

    /// The program's path, or its name in `PATH`.
    pub fn program(&self) -> &OsString {
        &self.program
    }

    /// Runs the program once. One that has not ended after [`CODE_DEADLINE`] is killed, with the processes that it has started.
    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), SendError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // its own group, so that its children can be ended with it, and a Ctrl-C for the server is none for it
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| SendError::NotStarted(error.kind()))?;
        let group = Group::of(child.id());
        let input = Zeroizing::new(format!("{}\n{}\n", message.number.reveal(), message.text.reveal()));
        let running = async {
            if let Some(mut stdin) = child.stdin.take() {
                // a program that does not read it has its reasons, and its exit status
                _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait().await
        };
        match timeout(CODE_DEADLINE, running).await {
            Ok(Ok(status)) => {
                group.has_ended();
                if status.success() { Ok(()) } else { Err(SendError::Failed(status.code())) }
            }
            Ok(Err(error)) => Err(SendError::NotStarted(error.kind())),
            Err(_) => Err(SendError::TooSlow),
        }
    }
}

/// A process group that is killed when this is dropped, unless its leader has ended before.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|leader| i32::try_from(leader).ok()).map(Pid::from_raw))
    }

    /// Leaves alone what may be somebody else's by now.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // an error says that all of it is gone
            _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_program_and_its_arguments_apart_by_spaces() {
        let command = CodeCommand::parse("  /usr/local/bin/send-sms  --from BlueTrace ").unwrap();
        assert_eq!(command.program(), "/usr/local/bin/send-sms");
        assert_eq!(command.arguments, ["--from", "BlueTrace"]);
        assert_eq!(CodeCommand::parse(" "), None);
    }
}
