//! Owns how the demonstration speaks: numbered steps, what happens in them, and what was checked.

use std::io::{self, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// Tells the story on standard output, in colour and folded to its width where that is a terminal.
#[derive(Debug)]
pub(crate) struct Narrator {
    is_colourful: bool,
    columns: Option<usize>,
    began: Instant,
    steps: u32,
    checks: u32,
}

impl Narrator {
    pub(crate) fn new(is_colourful: bool, columns: Option<usize>) -> Self {
        Self { is_colourful, columns, began: Instant::now(), steps: 0, checks: 0 }
    }

    /// The title above the story.
    pub(crate) fn title(&self, title: &str, subtitle: &str) {
        let margin = title.chars().count() + 1;
        let mut front = self.paint(BOLD_CYAN, title);
        for line in self.fold(subtitle, margin) {
            print(&format!("{front} {}", self.paint(DIM, line)));
            front = " ".repeat(margin - 1);
        }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, headline: &str) {
        self.steps += 1;
        let number = self.paint(BOLD_CYAN, &format!("{:>2}", self.steps));
        print(&format!("\n{number}  {}", self.paint(BOLD, headline)));
    }

    /// Says who does what.
    pub(crate) fn tell(&self, text: &str) {
        for line in self.fold(text, INDENT) {
            print(&format!("    {}", self.paint(ITALIC, line)));
        }
    }

    /// Shows a line as it stands in a file, on a wire or on a console.
    pub(crate) fn quote(&self, whose: &str, line: &str) {
        let mut whose = whose;
        for line in self.fold(line, INDENT + QUOTE_MARGIN) {
            print(&format!("    {} {line}", self.paint(DIM, &format!("{whose:>9} │"))));
            whose = "";
        }
    }

    /// Says what was checked, and found to be so.
    pub(crate) fn checked(&mut self, fact: &str) {
        self.checks += 1;
        let mut mark = self.paint(GREEN, "✓");
        for line in self.fold(fact, INDENT + 2) {
            print(&format!("    {mark} {line}"));
            " ".clone_into(&mut mark);
        }
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

    /// The lines that a text takes beside a margin. Without a terminal it is one: whoever reads a file folds it.
    fn fold<'text>(&self, text: &'text str, margin: usize) -> Vec<&'text str> {
        match self.columns {
            Some(columns) => fold(text, columns.saturating_sub(margin)),
            None => vec![text],
        }
    }
}

/// Cuts a text at spaces into lines of so many characters. A longer word keeps a line to itself.
fn fold(text: &str, width: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while rest.chars().count() > width {
        let fits = |(place, _): &(usize, &str)| rest.get(..*place).is_some_and(|line| line.chars().count() <= width);
        let spaces = || rest.match_indices(' ').filter(|(place, _)| *place > 0);
        let Some((place, _)) = spaces().take_while(fits).last().or_else(|| spaces().next()) else { break };
        let (line, after) = rest.split_at(place);
        lines.push(line.trim_end());
        rest = after.trim_start();
    }
    lines.push(rest);
    lines
}

fn print(line: &str) {
    // a reader that has gone away misses the rest
    _ = writeln!(io::stdout(), "{line}");
}

/// Characters before everything within a step.
const INDENT: usize = 4;

/// Characters between that and a quoted line: whose it is, and the rule.
const QUOTE_MARGIN: usize = 12;

const BOLD: &str = "\x1b[1m";
const BOLD_CYAN: &str = "\x1b[1;36m";
const ITALIC: &str = "\x1b[3m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_folded_at_spaces_and_loses_nothing_else() {
        assert_eq!(fold("one two three", 8), ["one two", "three"]);
        assert_eq!(fold("one two three", 7), ["one two", "three"]);
        assert_eq!(fold("one  two", 4), ["one", "two"]);
        assert_eq!(fold("… und überaus", 6), ["… und", "überaus"]);
        assert_eq!(fold("incomprehensible", 5), ["incomprehensible"]);
        assert_eq!(fold("an incomprehensible word", 5), ["an", "incomprehensible", "word"]);
        assert_eq!(fold("", 0), [""]);
    }
}
