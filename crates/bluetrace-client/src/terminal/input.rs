//! Owns the input: a thread of its own reads a line when asked for one, from a pipe or at a prompt.

use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter, Helper};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::command::COMMANDS;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Username,
    Password,
    Command,
}

/// What came.
#[derive(Debug)]
pub(super) enum Typed {
    Line(Zeroizing<String>),
    /// Ctrl-C on an empty line.
    Interrupt,
    /// The input is at its end.
    End,
}

/// The front-end's end of the input.
#[derive(Debug)]
pub(super) struct Input {
    asks: std_mpsc::Sender<Ask>,
    typed: mpsc::Receiver<Typed>,
    is_asked: bool,
}

/// What the prompt remembers of a session, for completion.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    shared: Arc<Mutex<Remembered>>,
}

#[derive(Debug, Default)]
struct Remembered {
    is_command: bool,
    /// The front-end is ending: an interrupted prompt does not come back.
    is_over: bool,
    /// The line as it stands on the screen.
    line: String,
    /// `<ip> <port>`, the newest last.
    targets: Vec<String>,
}

impl Input {
    /// Reads lines from a pipe.
    pub(super) fn pipe(mut reader: Box<dyn BufRead + Send>) -> Self {
        Self::new(move |_| read_line(&mut reader))
    }

    /// Reads lines from a terminal that no prompt can be drawn on. Passwords are not echoed there either.
    pub(super) fn simple_terminal() -> Self {
        let mut reader = std::io::BufReader::new(std::io::stdin());
        Self::new(move |ask| if ask == Ask::Password { read_password("") } else { read_line(&mut reader) })
    }

    /// Reads lines at a prompt, and gives what prints above it.
    ///
    /// # Errors
    /// When this is no terminal that a prompt can be drawn on.
    pub(super) fn prompt(memory: Memory) -> rustyline::Result<(Self, Box<dyn ExternalPrinter + Send>)> {
        // a list, for while candidates go round nothing is printed above the line
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .history_ignore_dups(true)?
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_history(config, MemHistory::new())?;
        let printer = editor.create_external_printer()?;
        editor.set_helper(Some(memory));
        Ok((Self::new(move |ask| ask_at_prompt(&mut editor, ask)), Box::new(printer)))
    }

    /// The next line. Nothing is lost if the wait is given up: the same question stays asked.
    pub(super) async fn next(&mut self, ask: Ask) -> Typed {
        if !self.is_asked {
            self.is_asked = true;
            if self.asks.send(ask).is_err() {
                return Typed::End;
            }
        }
        let typed = self.typed.recv().await;
        self.is_asked = false;
        typed.unwrap_or(Typed::End)
    }

    /// Whether the thread is still reading.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asked
    }

    fn new(mut read: impl FnMut(Ask) -> Typed + Send + 'static) -> Self {
        let (asks, questions) = std_mpsc::channel();
        let (answers, typed) = mpsc::channel(1);
        std::thread::spawn(move || {
            while let Ok(ask) = questions.recv() {
                if answers.blocking_send(read(ask)).is_err() {
                    return;
                }
            }
        });
        Self { asks, typed, is_asked: false }
    }
}

impl Memory {
    /// Remembers a target for completion.
    pub(super) fn add_target(&self, target: String) {
        self.with(|memory| {
            memory.targets.retain(|known| *known != target);
            memory.targets.push(target);
        });
    }

    /// The next interrupt ends the prompt, whatever has been typed.
    pub(super) fn end(&self) {
        self.with(|memory| memory.is_over = true);
    }

    fn with<T>(&self, look: impl FnOnce(&mut Remembered) -> T) -> T {
        look(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads a line, of which no more than a limit is kept: a line too long is no command anyway.
fn read_line(reader: &mut dyn BufRead) -> Typed {
    let mut line = Zeroizing::new(Vec::new());
    let mut was_read = false;
    loop {
        let Ok(available) = reader.fill_buf() else { return Typed::End };
        if available.is_empty() {
            break;
        }
        was_read = true;
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        let room = MAX_TYPED.saturating_sub(line.len());
        line.extend_from_slice(part.get(..room).unwrap_or(part));
        let length = part.len() + usize::from(end.is_some());
        reader.consume(length);
        if end.is_some() {
            break;
        }
    }
    if !was_read {
        return Typed::End;
    }
    let text = line.strip_suffix(b"\r").unwrap_or(&line);
    Typed::Line(Zeroizing::new(String::from_utf8_lossy(text).into_owned()))
}

/// Reads a password from the terminal, without echo.
fn read_password(prompt: &str) -> Typed {
    match rpassword::prompt_password(prompt) {
        Ok(password) => Typed::Line(Zeroizing::new(password)),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Typed::Interrupt,
        Err(_) => Typed::End,
    }
}

fn ask_at_prompt(editor: &mut Editor<Memory, MemHistory>, ask: Ask) -> Typed {
    if ask == Ask::Password {
        return read_password("Password: ");
    }
    let prompt = if ask == Ask::Command { "> " } else { "Username: " };
    loop {
        if let Some(memory) = editor.helper() {
            memory.with(|memory| {
                memory.is_command = ask == Ask::Command;
                memory.line.clear();
            });
        }
        match editor.readline(prompt) {
            Ok(line) => {
                if ask == Ask::Command && !line.trim().is_empty() {
                    // a line that cannot be remembered can be typed again
                    let _ = editor.add_history_entry(line.as_str());
                }
                return Typed::Line(Zeroizing::new(line));
            }
            Err(ReadlineError::Interrupted) => {
                let is_over =
                    editor.helper().is_none_or(|memory| memory.with(|memory| memory.is_over || memory.line.is_empty()));
                if is_over {
                    return Typed::Interrupt;
                }
            }
            Err(ReadlineError::Signal(_)) => return Typed::Interrupt,
            Err(_) => return Typed::End,
        }
    }
}

impl Helper for Memory {}
impl Highlighter for Memory {}
impl Validator for Memory {}

impl Hinter for Memory {
    type Hint = String;

    /// Sees every change of the line, and hints at nothing: what is completed is asked for with the tabulator.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.with(|memory| line.clone_into(&mut memory.line));
        None
    }
}

impl Completer for Memory {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((0, self.with(|memory| if memory.is_command { candidates(line, pos, &memory.targets) } else { Vec::new() })))
    }
}

/// Whole lines that the first `pos` bytes of a line may become.
fn candidates(line: &str, pos: usize, targets: &[String]) -> Vec<String> {
    let typed = line.get(..pos).unwrap_or(line).trim_start();
    let begins = |whole: &str| whole.get(..typed.len()).is_some_and(|front| front.eq_ignore_ascii_case(typed));
    let beacons = targets.iter().rev().map(|target| format!("Beacon {target}"));
    let commands =
        COMMANDS.iter().map(|(name, takes, _)| if takes.is_empty() { (*name).to_owned() } else { format!("{name} ") });
    let is_command_over = typed.contains(' ');
    commands
        .chain(beacons.filter(|_| is_command_over))
        .filter(|whole| begins(whole) && whole.len() > typed.len())
        .collect()
}

/// Bytes of a line that are kept.
const MAX_TYPED: usize = 16 * 1024;

/// Lines the prompt remembers.
const HISTORY: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_knows_the_commands_and_the_targets_used() {
        let targets = ["127.0.0.1 8001".to_owned(), "127.0.0.1 8002".to_owned()];
        assert_eq!(candidates("up", 2, &targets), ["Upload_contact_log "]);
        assert_eq!(candidates("b", 1, &targets), ["Beacon "]);
        assert_eq!(candidates("beacon ", 7, &targets), ["Beacon 127.0.0.1 8002", "Beacon 127.0.0.1 8001"]);
        assert_eq!(candidates("x", 1, &targets), Vec::<String>::new());
        assert_eq!(candidates("", 0, &targets).len(), COMMANDS.len());
    }

    #[test]
    fn lines_from_a_pipe_end_anyhow_and_have_a_limit() {
        let long = "x".repeat(MAX_TYPED + 10);
        let text = format!("one\r\ntwo\n\n{long}\nlast");
        let mut reader: Box<dyn BufRead + Send> = Box::new(std::io::Cursor::new(text.into_bytes()));
        for expected in ["one", "two", "", &long[..MAX_TYPED], "last"] {
            assert!(matches!(read_line(&mut reader), Typed::Line(line) if *line == expected));
        }
        assert!(matches!(read_line(&mut reader), Typed::End));
    }
}
