//! Owns the output: a thread of its own writes, so that a terminal that is stopped, or a pipe that nobody reads, holds up
//! the front-end only, and never the device. It ends when its reader has gone away.

use std::io::{self, Write};
use std::thread::JoinHandle;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustyline::ExternalPrinter;
use tokio::sync::{mpsc, oneshot};

use super::text::{Line, Tone};

/// Where lines go.
pub(super) enum Sink {
    /// A pipe, a file, or a terminal without a prompt.
    Plain(Box<dyn Write + Send>),
    /// Above the line that is being typed.
    AbovePrompt(Box<dyn ExternalPrinter + Send>),
}

/// Whether lines are painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// With colours.
    Coloured,
    /// As they are.
    Bare,
}

/// The front-end's end of the output.
#[derive(Debug)]
pub(super) struct Screen {
    output: mpsc::Sender<Output>,
    paint: Paint,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Output {
    Text(String),
    /// Draws the bar at so many records of so many. To be ended before the prompt comes back.
    Bar(u32, u32),
    BarEnd,
    Flush(oneshot::Sender<()>),
}

impl Screen {
    pub(super) fn new(sink: Sink, paint: Paint) -> Self {
        let (output, receiver) = mpsc::channel(OUTPUTS_WAITING);
        let thread = std::thread::spawn(move || write_all(sink, receiver));
        Self { output, paint, thread }
    }

    /// Shows lines together.
    pub(super) async fn show(&self, lines: &[Line]) {
        if lines.is_empty() {
            return;
        }
        let mut text = String::new();
        for line in lines {
            let colour = match (self.paint, line.tone) {
                (Paint::Bare, _) | (_, Tone::Plain) => "",
                (Paint::Coloured, Tone::Strong) => "\x1b[1m",
                (Paint::Coloured, Tone::Good) => "\x1b[32m",
                (Paint::Coloured, Tone::Bad) => "\x1b[31m",
                (Paint::Coloured, Tone::Aside) => "\x1b[2m",
            };
            let end = if colour.is_empty() { "\n" } else { "\x1b[0m\n" };
            text.push_str(colour);
            // words of a server or a file must not steer the terminal
            text.extend(line.text.chars().map(|letter| if steers_terminal(letter) { ' ' } else { letter }));
            text.push_str(end);
        }
        // without the thread there is nowhere to show anything
        let _ = self.output.send(Output::Text(text)).await;
    }

    pub(super) async fn bar(&self, done: u32, total: u32) {
        let _ = self.output.send(Output::Bar(done, total)).await;
    }

    pub(super) async fn end_bar(&self) {
        let _ = self.output.send(Output::BarEnd).await;
    }

    /// Waits until everything is written.
    pub(super) async fn flush(&self) {
        let (done, receiver) = oneshot::channel();
        let _ = self.output.send(Output::Flush(done)).await;
        let _ = receiver.await;
    }

    /// Whether the reader has gone away. Everything that was shown after it left is lost.
    pub(super) fn is_closed(&self) -> bool {
        self.output.is_closed()
    }

    /// Waits until the reader has gone away.
    pub(super) async fn closed(&self) {
        self.output.closed().await;
    }

    /// Writes what is left, and ends.
    pub(super) async fn close(self) {
        self.flush().await;
        drop(self.output);
        let _ = self.thread.join();
    }
}

fn write_all(mut sink: Sink, mut outputs: mpsc::Receiver<Output>) {
    let mut bar: Option<ProgressBar> = None;
    while let Some(output) = outputs.blocking_recv() {
        match output {
            Output::Text(text) => {
                let written = match &bar {
                    Some(bar) => bar.suspend(|| write(&mut sink, text)),
                    None => write(&mut sink, text),
                };
                if written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                    return;
                }
            }
            Output::Bar(done, total) => bar.get_or_insert_with(|| new_bar(total)).set_position(done.into()),
            Output::BarEnd => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            // whoever gave up waiting need not be told
            Output::Flush(done) => drop(done.send(())),
        }
    }
}

/// Of what may go wrong, a reader that has gone away is the front-end's concern: a full disk may have room again, and a
/// terminal that is gone ends the input too.
fn write(sink: &mut Sink, text: String) -> io::Result<()> {
    match sink {
        Sink::Plain(writer) => writer.write_all(text.as_bytes()).and_then(|()| writer.flush()),
        Sink::AbovePrompt(printer) => {
            let _ = printer.print(text);
            Ok(())
        }
    }
}

/// Whether a character does something else than stand there: a control character, or one that turns the direction of what
/// follows, so that a line reads otherwise than it is.
fn steers_terminal(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn new_bar(total: u32) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total.into()), ProgressDrawTarget::stdout());
    let style = ProgressStyle::with_template("[{bar:40}] {pos} of {len} records, {eta} left");
    // a template that does not parse would leave the usual bar
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Texts that may wait for the writing thread.
const OUTPUTS_WAITING: usize = 64;
