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
    use std::fs;
    use std::io::{self, Read as _};
    use std::path::{Path, PathBuf};

    use bluetrace_authority::registration::PhoneNumber;

    use super::*;
    use crate::code_sender::MessageText;

    #[tokio::test]
    async fn a_program_gets_two_lines_and_says_with_its_status_whether_it_sent() {
        let folder = tempfile::tempdir().unwrap();
        let got = folder.path().join("got");
        assert_eq!(send(&script(folder.path(), &format!("cat > {}", got.display()))).await, Ok(()));
        assert_eq!(fs::read_to_string(&got).unwrap(), "+6591234567\nyour code is 123456\n");
        assert_eq!(send(&script(folder.path(), "exit 0")).await, Ok(()), "it need not read");
        assert_eq!(send(&script(folder.path(), "cat; echo no >&2; exit 7")).await, Err(SendError::Failed(Some(7))));
        assert_eq!(send(&script(folder.path(), "kill -9 $$")).await, Err(SendError::Failed(None)));
        let missing = SendError::NotStarted(io::ErrorKind::NotFound);
        assert_eq!(send("/there/is/nothing").await, Err(missing));
    }

    #[tokio::test]
    async fn neither_arguments_nor_environment_hold_number_or_text() {
        let folder = tempfile::tempdir().unwrap();
        let got = folder.path().join("got");
        let look = format!("(echo \"$0 $*\"; env) > {}", got.display());
        send(&format!("{} --from us", script(folder.path(), &look))).await.unwrap();
        let got = fs::read_to_string(&got).unwrap();
        assert!(got.lines().next().unwrap().ends_with(" --from us"), "{got}");
        for secret in ["6591234567", "123456"] {
            assert!(!got.contains(secret), "{got}");
        }
    }

    // the clock is moved on when nobody works any more, a thread that waits for the program included
    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let held = folder.path().join("held");
        assert!(std::process::Command::new("mkfifo").arg(&held).status().unwrap().success());
        let child = script(folder.path(), &format!("sh -c 'echo begun; exec sleep 1000' > {} & wait", held.display()));
        let sending = tokio::spawn(async move { send(&child).await });
        let begun = open(held.clone());
        let mut held = begun.await;
        assert_eq!(sending.await.unwrap(), Err(SendError::TooSlow));
        // the end comes when nobody has it open for writing any more
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = String::new();
            held.read_to_string(&mut rest).map(|_| rest)
        });
        assert_eq!(rest.await.unwrap().unwrap(), "");
    }

    /// A pipe whose writer has begun.
    async fn open(path: PathBuf) -> fs::File {
        let opening = tokio::task::spawn_blocking(move || {
            let mut pipe = fs::File::open(path)?;
            let mut begun = [0; 6];
            pipe.read_exact(&mut begun)?;
            Ok::<_, io::Error>(pipe)
        });
        opening.await.unwrap().unwrap()
    }

    /// How to run a program of the shell.
    fn script(folder: &Path, text: &str) -> String {
        let path = folder.join("send");
        fs::write(&path, text).unwrap();
        format!("sh {}", path.display())
    }

    async fn send(program: &str) -> Result<(), SendError> {
        let number = PhoneNumber::parse("+6591234567").unwrap();
        let text = MessageText::from("your code is 123456".to_owned());
        CodeCommand::parse(program).unwrap().send(&Message { number: &number, text }).await
    }

    #[test]
    fn a_command_is_a_program_and_its_arguments_apart_by_spaces() {
        let command = CodeCommand::parse("  /usr/local/bin/send-sms  --from BlueTrace ").unwrap();
        assert_eq!(command.program(), "/usr/local/bin/send-sms");
        assert_eq!(command.arguments, ["--from", "BlueTrace"]);
        assert_eq!(CodeCommand::parse(" "), None);
    }
}
