//! How a bench measures: ours and its limit in turns, in one process, several times; the median of the ratios; a line for
//! people and a file for programs. No figure ever fails a bench.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The lines of one bench program.
pub(crate) struct Bench {
    name: &'static str,
    /// Parts of names; a line is measured if its name has one of them.
    chosen: Vec<String>,
    measured: Vec<String>,
}

/// What a line is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// What is measured.
    pub(crate) name: &'static str,
    /// What stands beside it.
    pub(crate) limit: &'static str,
    /// Of what the figures are.
    pub(crate) unit: Unit,
    /// What is wanted.
    pub(crate) wanted: Wanted,
}

/// Of what figures are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// So many a second.
    PerSecond,
    /// So many bytes.
    Bytes,
    /// So long.
    Milliseconds,
}

/// What is wanted of a line.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// A ratio to the limit.
    AtLeast(f64),
    /// A figure, whatever the ratio.
    AtMost(f64),
    /// Nothing: it is there to explain another line.
    ToKnow,
}

/// Ours and the limit of one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    /// Ours.
    pub(crate) ours: f64,
    /// Its limit.
    pub(crate) limit: f64,
}

impl Bench {
    /// Begins, if `cargo bench` asks: `cargo test --all-targets` runs benches too, and wants nothing measured.
    pub(crate) fn start(name: &'static str) -> Option<Self> {
        let (options, chosen): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with("--"));
        if !options.iter().any(|option| option == "--bench") {
            return None;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (disk, kind) = (folder_for_data(), file_system());
        say(&format!(
            "# {name}: {cores} cores, data in {} ({kind}), medians [lowest to highest ratio]",
            disk.display()
        ));
        Some(Self { name, chosen, measured: Vec::new() })
    }

    /// Whether a line is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.chosen.is_empty() || self.chosen.iter().any(|part| name.contains(part.as_str()))
    }

    /// Measures a line, first the one and then the other first, so that what drifts meets both.
    pub(crate) fn compare(
        &mut self,
        line: Line,
        rounds: usize,
        mut ours: impl FnMut() -> f64,
        mut limit: impl FnMut() -> f64,
    ) {
        if !self.wants(line.name) {
            return;
        }
        // the first round warms up
        let pairs = (0..=rounds).map(|round| {
            if round % 2 == 0 {
                let ours = ours();
                Pair { ours, limit: limit() }
            } else {
                let limit = limit();
                Pair { ours: ours(), limit }
            }
        });
        let pairs: Vec<_> = pairs.skip(1).collect();
        self.note(line, &pairs);
    }

    /// Notes a line that was measured elsewhere.
    pub(crate) fn note(&mut self, line: Line, pairs: &[Pair]) {
        if !self.wants(line.name) {
            return;
        }
        let result = Result { line, pairs };
        say(&result.to_string());
        self.measured.push(result.json());
    }

    /// Writes `target/bench/<name>.json`.
    pub(crate) fn finish(self) -> io::Result<()> {
        let folder = folder_for_data().with_file_name("bench");
        fs::create_dir_all(&folder)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (name, lines) = (self.name, self.measured.join(",\n    "));
        let json = format!(
            "{{\n  \"bench\": \"{name}\",\n  \"cores\": {cores},\n  \"file_system\": \"{}\",\n  \"lines\": [\n    {lines}\n  ]\n}}\n",
            file_system()
        );
        fs::write(folder.join(format!("{name}.json")), json)
    }
}

/// A folder on the disk that the build is on: temporary folders are often in memory, where nothing is durable.
pub(crate) fn folder_for_data() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Rows in a table that is large: ten million, or as many as `BLUETRACE_BENCH_ROWS` says where the disk is small.
#[expect(clippy::disallowed_methods, reason = "a bench is nobody's collaborator")]
pub(crate) fn rows_wanted() -> u64 {
    std::env::var("BLUETRACE_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(10_000_000)
}

/// The time that cores have spent on the threads of this process that still run, but for those of this name; zero where the
/// system does not tell.
pub(crate) fn core_time(but_for: &str) -> Duration {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let spent = threads.filter_map(|thread| {
        let told = |of: &str| fs::read_to_string(thread.as_ref().ok()?.path().join(of)).ok();
        let counts = told("comm")?.trim_end() != but_for;
        counts.then(|| told("schedstat")?.split(' ').next()?.parse().ok().map(Duration::from_nanos))?
    });
    spent.sum()
}

struct Result<'a> {
    line: Line,
    pairs: &'a [Pair],
}

impl Result<'_> {
    fn median(&self, of: impl Fn(&Pair) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.pairs.iter().map(of).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        match (figures.get(middle), figures.get(middle.wrapping_sub(1))) {
            (Some(upper), Some(lower)) if figures.len().is_multiple_of(2) => f64::midpoint(*upper, *lower),
            (Some(middle), _) => *middle,
            (None, _) => f64::NAN,
        }
    }

    fn spread(&self) -> (f64, f64) {
        let ratios = self.pairs.iter().map(Pair::ratio);
        ratios.fold((f64::INFINITY, 0.0), |(low, high), ratio| (ratio.min(low), ratio.max(high)))
    }

    fn json(&self) -> String {
        let Line { name, limit, unit, wanted } = self.line;
        let unit = match unit {
            Unit::PerSecond => "1/s",
            Unit::Bytes => "bytes",
            Unit::Milliseconds => "ms",
        };
        let mut text = format!(
            "{{\"name\": \"{name}\", \"limit_is\": \"{limit}\", \"unit\": \"{unit}\", \"ours\": {:.1}, \"limit\": {:.1}, \"ratio\": {:.3}",
            self.median(|pair| pair.ours),
            self.median(|pair| pair.limit),
            self.median(Pair::ratio),
        );
        let (low, high) = self.spread();
        // writing to a string does not fail
        _ = write!(text, ", \"lowest\": {low:.3}, \"highest\": {high:.3}, \"rounds\": {}", self.pairs.len());
        _ = match wanted {
            Wanted::AtLeast(ratio) => write!(text, ", \"at_least\": {ratio}}}"),
            Wanted::AtMost(figure) => write!(text, ", \"at_most\": {figure}}}"),
            Wanted::ToKnow => write!(text, "}}"),
        };
        text
    }
}

impl fmt::Display for Result<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { name, limit: limit_is, unit, wanted } = self.line;
        let (ours, limit) = (unit.show(self.median(|pair| pair.ours)), unit.show(self.median(|pair| pair.limit)));
        write!(f, "{name}: {ours}, limit {limit} ({limit_is}), ratio {:.2}", self.median(Pair::ratio))?;
        match wanted {
            Wanted::AtLeast(ratio) => write!(f, " (at least {ratio})")?,
            Wanted::AtMost(figure) => write!(f, " (ours at most {})", unit.show(figure))?,
            Wanted::ToKnow => {}
        }
        let (low, high) = self.spread();
        if self.pairs.len() > 1 { write!(f, " [{low:.2} to {high:.2}]") } else { Ok(()) }
    }
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.ours / self.limit
    }
}

impl Unit {
    fn show(self, figure: f64) -> String {
        let figure = format!("{figure:.0}");
        let mut grouped = String::new();
        for (place, digit) in figure.chars().enumerate() {
            if place > 0 && (figure.len() - place).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        match self {
            Self::PerSecond => grouped + "/s",
            Self::Bytes => grouped + " bytes",
            Self::Milliseconds => grouped + " ms",
        }
    }
}

/// Says a line for people.
pub(crate) fn say(line: &str) {
    // nobody reads it: the file is still written
    _ = writeln!(io::stdout(), "{line}");
}

/// The kind of file system that the data is on, where the system tells.
fn file_system() -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let under = mounts.filter(|(at, _)| folder_for_data().starts_with(Path::new(at)));
    under.max_by_key(|(at, _)| at.len()).map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}
