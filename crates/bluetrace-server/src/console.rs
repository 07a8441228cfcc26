//! Owns the operator's standard output: what a person at the server's console sees (PROTOCOL sections 4.4 and 4.5).
//!
//! The texts are a contract, and a deliberate output of personal data: not a log. One thread writes them, an event at a
//! time, so that no two events mix and an output that is slow, stuck or closed slows nobody.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bluetrace_authority::excerpt::Excerpt;
use bluetrace_authority::trace::{Match, UploadReport};
use bluetrace_protocol::{Record, TempId, Username};
use tracing::warn;

use crate::code_sender::MessageText;
use crate::limits::{CONSOLE_FLUSH, CONSOLE_PAUSE, CONSOLE_QUEUE};

/// Something that an operator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// The server accepts connections.
    Listening {
        /// Where.
        address: SocketAddr,
    },
    /// The server answers requests over HTTP.
    ListeningForHttp {
        /// Where.
        address: SocketAddr,
    },
    /// What clients pin.
    Fingerprint {
        /// As [`crate::tls::ServerTls::fingerprint`] writes it.
        fingerprint: String,
    },
    /// A password was right, or a session was resumed.
    Login {
        /// Whose.
        username: Username,
    },
    /// A session was ended by its user.
    Logout {
        /// Whose.
        username: Username,
    },
    /// A password was right over HTTP.
    LoginOverHttp {
        /// Whose.
        username: Username,
    },
    /// A session over HTTP was ended by its user.
    LogoutOverHttp {
        /// Whose.
        username: Username,
    },
    /// A phone number registered, and has an account from now on.
    Registered {
        /// Whose.
        username: Username,
    },
    /// A user withdrew: the account is gone, with all that was its own.
    Withdrawn {
        /// Whose it was.
        username: Username,
    },
    /// `TempIDs` were issued.
    TempIdsIssued {
        /// To whom.
        username: Username,
        /// The first of them.
        first: TempId,
        /// How many, with the first.
        count: u32,
    },
    /// A one-time code, where nothing else sends it.
    OneTimeCode {
        /// For which phone number.
        number: Username,
        /// What its person would be sent.
        text: MessageText,
    },
    /// An upload is complete and checked.
    ContactLog {
        /// Whose.
        username: Username,
        /// What it holds and whom it leads to.
        report: UploadReport,
    },
}

/// The way to the operator's standard output. Showing never waits: what does not fit is counted and mentioned later.
///
/// Dropping it waits for the output, but not long ([`CONSOLE_FLUSH`]).
#[derive(Debug)]
pub struct Console(Option<Writer>);

#[derive(Debug)]
struct Writer {
    /// Events behind a number of lines that had to be left out before them. `None` only while it is dropped.
    queue: Option<SyncSender<(u64, ConsoleEvent)>>,
    /// Lines left out since the last event that was queued.
    left_out: Arc<AtomicU64>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl Console {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(output: Box<dyn Write + Send>) -> io::Result<Self> {
        let (queue, events) = mpsc::sync_channel(CONSOLE_QUEUE);
        let (end, ended) = mpsc::channel();
        let left_out = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&left_out);
        thread::Builder::new().name("console".to_owned()).spawn(move || {
            write_events(output, &events, &counter);
            drop(end);
        })?;
        Ok(Self(Some(Writer { queue: Some(queue), left_out, ended: Mutex::new(ended) })))
    }

    /// A console that shows nothing.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Shows an event, soon. Never waits.
    pub fn show(&self, event: ConsoleEvent) {
        let Some(Writer { queue: Some(queue), left_out, .. }) = &self.0 else { return };
        match queue.try_send((left_out.swap(0, Ordering::Relaxed), event)) {
            Err(TrySendError::Full((before, event))) => {
                left_out.fetch_add(before.saturating_add(event.lines()), Ordering::Relaxed);
            }
            // disconnected: the output was closed, and that was logged
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(CONSOLE_FLUSH) == Err(RecvTimeoutError::Timeout) {
            warn!("standard output takes nothing; the last lines were not shown");
        }
    }
}

/// The writing thread's life.
fn write_events(mut output: Box<dyn Write + Send>, events: &Receiver<(u64, ConsoleEvent)>, left_out: &AtomicU64) {
    let mut text = String::new();
    let mut has_complained = false;
    loop {
        let next = match events.try_recv() {
            Ok(next) => Some(next),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => break,
        };
        text.clear();
        let Some((before, event)) = next.or_else(|| {
            mention_left_out(left_out.swap(0, Ordering::Relaxed), &mut text);
            // an error shows at the next look
            let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
            text.clear();
            // events that come at once are written at once, and whoever shows them need not wake this thread for each
            thread::sleep(CONSOLE_PAUSE);
            events.recv().ok()
        }) else {
            break;
        };
        mention_left_out(before, &mut text);
        event.write_to(&mut text);
        match output.write_all(text.as_bytes()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                warn!("standard output was closed; nothing more is shown there");
                return;
            }
            Err(error) => {
                left_out.fetch_add(before.saturating_add(event.lines()), Ordering::Relaxed);
                if !has_complained {
                    warn!(%error, "standard output cannot be written");
                    has_complained = true;
                }
            }
        }
    }
    text.clear();
    mention_left_out(left_out.swap(0, Ordering::Relaxed), &mut text);
    // nobody is left who could hear of an error
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

fn mention_left_out(lines: u64, out: &mut String) {
    if lines > 0 {
        push_line(out, format_args!("... and {lines} more lines"));
    }
}

impl ConsoleEvent {
    /// The event's text, every line ended.
    fn write_to(&self, out: &mut String) {
        match self {
            Self::Listening { address } => push_line(out, format_args!("listening on {address}")),
            Self::ListeningForHttp { address } => push_line(out, format_args!("HTTPS API on https://{address}")),
            Self::Fingerprint { fingerprint } => push_line(out, format_args!("certificate {fingerprint}")),
            Self::Login { username } => push_line(out, format_args!("{} login", username.reveal())),
            Self::Logout { username } => push_line(out, format_args!("{} logout", username.reveal())),
            Self::LoginOverHttp { username } => push_line(out, format_args!("{} login over HTTP", username.reveal())),
            Self::LogoutOverHttp { username } => push_line(out, format_args!("{} logout over HTTP", username.reveal())),
            Self::Registered { username } => push_line(out, format_args!("{} registered", username.reveal())),
            Self::Withdrawn { username } => push_line(out, format_args!("{} withdrew", username.reveal())),
            Self::TempIdsIssued { username, first, count } => {
                push_line(out, format_args!("user: {}\nTempID:\n{}", username.reveal(), first.reveal()));
                if let more @ 1.. = count.saturating_sub(1) {
                    push_line(out, format_args!("... and {more} more"));
                }
            }
            Self::OneTimeCode { number, text } => {
                push_line(out, format_args!("message for {}: {}", number.reveal(), text.reveal()));
            }
            Self::ContactLog { username, report } => {
                push_line(out, format_args!("received contact log from {}", username.reveal()));
                push_excerpt(out, &report.records, Record::write_to);
                push_line(out, format_args!("Contact log checking"));
                push_excerpt(out, &report.matches, |Match { username, start, temp_id }, out| {
                    push(out, format_args!("{}, {start}, {};", username.reveal(), temp_id.reveal()));
                });
                if report.matches.shown().is_empty() {
                    push_line(out, format_args!("no record leads to anybody"));
                }
            }
        }
    }

    fn lines(&self) -> u64 {
        let mut text = String::new();
        self.write_to(&mut text);
        u64::try_from(text.lines().count()).unwrap_or(u64::MAX)
    }
}

/// A line for each entry that is shown, and one for the rest.
fn push_excerpt<T>(out: &mut String, excerpt: &Excerpt<T>, mut line: impl FnMut(&T, &mut String)) {
    for entry in excerpt.shown() {
        line(entry, out);
        out.push('\n');
    }
    if excerpt.more() > 0 {
        push_line(out, format_args!("... and {} more", excerpt.more()));
    }
}

fn push_line(out: &mut String, line: fmt::Arguments<'_>) {
    push(out, line);
    out.push('\n');
}

fn push(out: &mut String, text: fmt::Arguments<'_>) {
    // writing to a String does not fail
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::time::{Duration, Instant};

    #[test]
    fn each_event_has_its_text() {
        let Record { temp_id, window } = record();
        let met = Match { username: user("+61410888888"), start: window.start(), temp_id };
        let nobody = UploadReport { records: [record()].into_iter().collect(), matches: Excerpt::default() };
        let report = UploadReport { records: [record()].into_iter().collect(), matches: [met].into_iter().collect() };
        for (event, text) in [
            (ConsoleEvent::Listening { address: "127.0.0.1:4000".parse().unwrap() }, "listening on 127.0.0.1:4000\n"),
            (ConsoleEvent::Listening { address: "[::]:4000".parse().unwrap() }, "listening on [::]:4000\n"),
            (
                ConsoleEvent::ListeningForHttp { address: "127.0.0.1:4080".parse().unwrap() },
                "HTTPS API on https://127.0.0.1:4080\n",
            ),
            (ConsoleEvent::Fingerprint { fingerprint: "sha256:ab".to_owned() }, "certificate sha256:ab\n"),
            (ConsoleEvent::Login { username: user("+61410999999") }, "+61410999999 login\n"),
            (ConsoleEvent::Logout { username: user("+61410999999") }, "+61410999999 logout\n"),
            (
                ConsoleEvent::OneTimeCode {
                    number: user("+6591234567"),
                    text: MessageText::from("Your code is 123456.".to_owned()),
                },
                "message for +6591234567: Your code is 123456.\n",
            ),
            (issued(1), "user: +61410999999\nTempID:\n12345678901234567891\n"),
            (issued(96), "user: +61410999999\nTempID:\n12345678901234567891\n... and 95 more\n"),
            (
                ConsoleEvent::ContactLog { username: user("+61410999999"), report },
                "received contact log from +61410999999\n\
                 12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05\n\
                 Contact log checking\n\
                 +61410888888, 13/05/2020 17:54:06, 12345678901234567891;\n",
            ),
            (
                ConsoleEvent::ContactLog { username: user("+61410999999"), report: nobody },
                "received contact log from +61410999999\n\
                 12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05\n\
                 Contact log checking\n\
                 no record leads to anybody\n",
            ),
            (ConsoleEvent::LoginOverHttp { username: user("+61410999999") }, "+61410999999 login over HTTP\n"),
            (ConsoleEvent::LogoutOverHttp { username: user("+61410999999") }, "+61410999999 logout over HTTP\n"),
            (ConsoleEvent::Registered { username: user("+61410999999") }, "+61410999999 registered\n"),
            (ConsoleEvent::Withdrawn { username: user("+61410999999") }, "+61410999999 withdrew\n"),
        ] {
            let mut shown = String::new();
            event.write_to(&mut shown);
            assert_eq!(shown, text);
            assert_eq!(event.lines(), u64::try_from(text.lines().count()).unwrap());
        }
    }

    #[test]
    fn a_hundred_entries_are_shown_and_of_more_the_first_twenty() {
        for (entries, lines, last) in [(0, 0, None), (100, 100, Some("99")), (101, 21, Some("... and 81 more"))] {
            let excerpt: Excerpt<u32> = (0..entries).collect();
            let mut text = String::new();
            push_excerpt(&mut text, &excerpt, |entry, out| push(out, format_args!("{entry}")));
            assert_eq!(text.lines().count(), lines);
            assert_eq!(text.lines().last(), last);
        }
    }

    #[test]
    fn everything_is_shown_in_order_before_the_console_is_gone() {
        let output = Output::default();
        let console = Console::start(Box::new(output.clone())).unwrap();
        for number in 0..500 {
            console.show(ConsoleEvent::Login { username: user(&number.to_string()) });
        }
        drop(console);
        let expected: Vec<_> = (0..500).map(|number| format!("{number} login")).collect();
        assert_eq!(output.text().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_stuck_output_stops_nobody_and_what_was_left_out_is_counted() {
        let output = Output::default();
        output.set_stuck(true);
        let console = Console::start(Box::new(output.clone())).unwrap();
        let events = u64::try_from(CONSOLE_QUEUE).unwrap() * 3;
        for _ in 0..events {
            console.show(issued(1));
        }
        output.set_stuck(false);
        drop(console);
        let text = output.text();
        let shown = u64::try_from(text.matches("user: ").count()).unwrap();
        let mentioned: u64 = text
            .lines()
            .filter_map(|line| line.strip_prefix("... and ")?.strip_suffix(" more lines")?.parse::<u64>().ok())
            .sum();
        assert!(mentioned > 0);
        assert_eq!(shown * 3 + mentioned, events * 3);
    }

    #[test]
    fn an_output_stuck_for_ever_does_not_hold_up_the_end() {
        let output = Output::default();
        output.set_stuck(true);
        let console = Console::start(Box::new(output.clone())).unwrap();
        console.show(issued(1));
        let start = Instant::now();
        drop(console);
        assert!(start.elapsed() < CONSOLE_FLUSH + Duration::from_secs(5));
        output.set_stuck(false);
    }

    #[test]
    fn a_closed_output_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let console = Console::start(Box::new(Closed)).unwrap();
        for _ in 0..CONSOLE_QUEUE * 3 {
            console.show(issued(1));
        }
        Console::none().show(issued(1));
    }

    fn user(name: &str) -> Username {
        Username::parse(name).unwrap()
    }

    fn record() -> Record {
        Record::parse("12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05").unwrap()
    }

    fn issued(count: u32) -> ConsoleEvent {
        ConsoleEvent::TempIdsIssued { username: user("+61410999999"), first: record().temp_id, count }
    }

    /// An output that keeps what it gets and can be made to get stuck.
    #[derive(Clone, Default)]
    struct Output(Arc<OutputState>);

    #[derive(Default)]
    struct OutputState {
        is_stuck: Mutex<bool>,
        freed: Condvar,
        written: Mutex<Vec<u8>>,
    }

    impl Output {
        fn set_stuck(&self, is_stuck: bool) {
            *self.0.is_stuck.lock().unwrap() = is_stuck;
            self.0.freed.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.written.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.freed.wait_while(self.0.is_stuck.lock().unwrap(), |is_stuck| *is_stuck).unwrap());
            self.0.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
