//! Owns how the demonstration speaks: numbered steps, what happens in them, and what was checked.

use std::io::{self, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// Tells the story on standard output, in colour where that is a terminal.
#[derive(Debug)]
pub(crate) struct Narrator {
    is_colourful: bool,
    began: Instant,
    steps: u32,
    checks: u32,
}

impl Narrator {
    pub(crate) fn new(is_colourful: bool) -> Self {
        Self { is_colourful, began: Instant::now(), steps: 0, checks: 0 }
    }

    /// The title above the story.
    pub(crate) fn title(&self, title: &str, subtitle: &str) {
        print(&format!("{} {}", self.paint(BOLD_CYAN, title), self.paint(DIM, subtitle)));
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, headline: &str) {
        self.steps += 1;
        let number = self.paint(BOLD_CYAN, &format!("{:>2}", self.steps));
        print(&format!("\n{number}  {}", self.paint(BOLD, headline)));
    }

    /// Says who does what.
    pub(crate) fn tell(&self, text: &str) {
        print(&format!("    {}", self.paint(ITALIC, text)));
    }

    /// Shows a line as it stands in a file, on a wire or on a console.
    pub(crate) fn quote(&self, whose: &str, line: &str) {
        print(&format!("    {} {line}", self.paint(DIM, &format!("{whose:>9} │"))));
    }

    /// Says what was checked, and found to be so.
    pub(crate) fn checked(&mut self, fact: &str) {
        self.checks += 1;
        print(&format!("    {} {fact}", self.paint(GREEN, "✓")));
    }

    /// The last line: how much was checked in how much time.
    pub(crate) fn end(&self) {
        let summary = format!("{} checks in {} steps, all as they should be", self.checks, self.steps);
        let elapsed = format!("({:.0} s)", self.elapsed().as_secs_f64());
        print(&format!("\n{} {}", self.paint(GREEN, &summary), self.paint(DIM, &elapsed)));
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_colourful { format!("{colour}{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn print(line: &str) {
    // a reader that has gone away misses the rest
    _ = writeln!(io::stdout(), "{line}");
}

const BOLD: &str = "\x1b[1m";
const BOLD_CYAN: &str = "\x1b[1;36m";
const ITALIC: &str = "\x1b[3m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
