//! Owns the dialogue: what is asked, what is typed, what the device is told to do, and what is shown meanwhile.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bluetrace_protocol::{Password, Username};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use zeroize::Zeroizing;

use super::ExitStatus;
use super::command::UserCommand;
use super::input::{Ask, Input, Memory, Typed};
use super::screen::Screen;
use super::text::{self, Line, bad, plain};
use crate::device::{Command, Device, DeviceConfig, DeviceEvent, DeviceHandle, End, StartError, look_ahead};
use crate::radio::Target;
use crate::uplink::ServerAddress;

/// How the front-end deals with who is in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Rustyline shows the prompts.
    Prompt,
    /// Prompts are lines like any other.
    Lines,
}

pub(super) struct FrontEnd {
    input: Input,
    screen: Screen,
    manner: Manner,
    signals: Signals,
    memory: Memory,
    last_target: Option<Target>,
    given_password: Option<Password>,
    uploading: Uploading,
    /// Whether the login is done.
    was_welcomed: bool,
}

/// What is shown of an upload's progress.
#[derive(Debug, Default)]
struct Uploading {
    /// Whether the user waits for it, so that a bar can be drawn where the prompt would be.
    is_waited_for: bool,
    /// Quarters of it that were told.
    quarters: u32,
}

/// Why waiting for a login, a line or a command has ended.
enum Turn<T> {
    Done(T),
    /// A signal, or the reader has gone away: to log out.
    Stop,
    /// The device has ended.
    Ended(ExitStatus),
}

impl FrontEnd {
    pub(super) fn new(
        input: Input,
        screen: Screen,
        manner: Manner,
        memory: Memory,
        given_password: Option<Password>,
    ) -> io::Result<Self> {
        Ok(Self {
            input,
            screen,
            manner,
            signals: Signals::new()?,
            memory,
            last_target: None,
            given_password,
            was_welcomed: false,
            uploading: Uploading::default(),
        })
    }

    pub(super) async fn run(&mut self, config: DeviceConfig) -> Result<ExitStatus, StartError> {
        let started = tokio::select! {
            started = Device::start(config) => started,
            () = stop(&mut self.signals, &self.screen) => return Ok(self.status_of_stop()),
        };
        let (device, mut events) = started?;
        let status = match self.log_in(&device, &mut events).await {
            Turn::Done(()) => self.take_commands(&device, &mut events).await,
            Turn::Stop => {
                self.leave(&device, &mut events).await;
                self.status_of_stop()
            }
            Turn::Ended(status) => status,
        };
        drop(events);
        device.join().await;
        Ok(status)
    }

    /// Asks who logs in, if the device can begin at all. `None` if nobody says.
    pub(super) async fn ask_username(
        &mut self,
        server: &ServerAddress,
        udp: SocketAddr,
    ) -> Result<Option<Username>, StartError> {
        tokio::select! {
            looked = look_ahead(server, udp) => looked?,
            () = stop(&mut self.signals, &self.screen) => return Ok(None),
        }
        while let Some(line) = self.next_before_login("Username:", Ask::Username).await {
            match Username::parse(line.trim()) {
                Ok(username) => return Ok(Some(username)),
                Err(error) => self.say(&[bad(error.to_string())]).await,
            }
        }
        Ok(None)
    }

    async fn log_in(&mut self, device: &DeviceHandle, events: &mut mpsc::Receiver<DeviceEvent>) -> Turn<()> {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = stop(&mut self.signals, &self.screen) => return Turn::Stop,
            };
            let Some(event) = event else { return Turn::Ended(ExitStatus::Failure) };
            let is_asked = matches!(event, DeviceEvent::PasswordRequired);
            if let Some(status) = self.show_event(event).await {
                return Turn::Ended(status);
            }
            if is_asked {
                break;
            }
        }
        // the lines of a pipe are commands where the password came in another way
        let may_ask_again = self.given_password.is_none() || self.manner == Manner::Prompt;
        loop {
            let Some(password) = self.next_password().await else { return Turn::Stop };
            let done = device.submit(Command::Password(password)).await;
            match self.await_done(done, events).await {
                Turn::Ended(status) => return Turn::Ended(status),
                Turn::Done(()) if self.was_welcomed => return Turn::Done(()),
                Turn::Done(()) if may_ask_again => {}
                Turn::Stop | Turn::Done(()) => return Turn::Stop,
            }
        }
    }

    async fn next_password(&mut self) -> Option<Password> {
        if let Some(password) = self.given_password.take() {
            return Some(password);
        }
        loop {
            let line = self.next_before_login("Password:", Ask::Password).await?;
            match Password::parse(&line) {
                Ok(password) => return Some(password),
                Err(error) => self.say(&[bad(error.to_string())]).await,
            }
        }
    }

    /// A line that the login needs; `None` if there is none, or a signal came.
    async fn next_before_login(&mut self, prompt: &str, ask: Ask) -> Option<Zeroizing<String>> {
        self.show_prompt(prompt).await;
        let typed = tokio::select! {
            biased;
            () = stop(&mut self.signals, &self.screen) => return None,
            typed = self.input.next(ask) => typed,
        };
        match typed {
            Typed::Line(line) => return Some(line),
            Typed::End if self.manner == Manner::Lines => {
                self.say(&[bad("the input ended before the login was done")]).await;
            }
            // the prompt for a password leaves its line open
            Typed::End if ask == Ask::Password => self.say(&[plain("")]).await,
            Typed::End | Typed::Interrupt => {}
        }
        None
    }

    async fn take_commands(&mut self, device: &DeviceHandle, events: &mut mpsc::Receiver<DeviceEvent>) -> ExitStatus {
        loop {
            self.screen.flush().await;
            if self.screen.is_closed() {
                return self.leave(device, events).await;
            }
            let line = match self.next_line(events).await {
                Turn::Done(line) => line,
                Turn::Stop => return self.leave(device, events).await,
                Turn::Ended(status) => return status,
            };
            let command = match UserCommand::parse(&line) {
                UserCommand::Nothing => continue,
                UserCommand::Logout => return self.leave(device, events).await,
                UserCommand::Download => Command::Download,
                UserCommand::Upload(code) => Command::Upload(code),
                UserCommand::Pin => Command::HandshakePin,
                UserCommand::Notices => Command::Notices,
                UserCommand::Status => Command::Status,
                UserCommand::Contacts => Command::Contacts,
                UserCommand::Beacon(target) => {
                    let Some(target) = target.or_else(|| self.last_target.clone()) else {
                        self.say(&[bad("to whom? Beacon <ip> <port>, as in: Beacon 127.0.0.1 8001")]).await;
                        continue;
                    };
                    self.memory.add_target(format!("{} {}", target.host, target.port));
                    self.last_target = Some(target.clone());
                    Command::Beacon(target)
                }
                UserCommand::BadBeacon(why) => {
                    self.say(&[bad(format!("{why}. Beacon <ip> <port>, as in: Beacon 127.0.0.1 8001"))]).await;
                    continue;
                }
                UserCommand::Help => {
                    self.say(&text::help()).await;
                    continue;
                }
                UserCommand::Unknown => {
                    self.say(&[bad("Error. Invalid command")]).await;
                    if self.manner == Manner::Prompt {
                        self.say(&[text::aside("help shows the commands")]).await;
                    }
                    continue;
                }
            };
            self.uploading = Uploading { is_waited_for: matches!(command, Command::Upload(_)), quarters: 0 };
            let done = device.submit(command).await;
            let turn = self.await_done(done, events).await;
            self.uploading = Uploading::default();
            self.screen.end_bar().await;
            match turn {
                Turn::Done(()) => {}
                Turn::Stop => return self.leave(device, events).await,
                Turn::Ended(status) => return status,
            }
        }
    }

    /// The next line, with everything that happens meanwhile shown.
    async fn next_line(&mut self, events: &mut mpsc::Receiver<DeviceEvent>) -> Turn<Zeroizing<String>> {
        loop {
            tokio::select! {
                typed = self.input.next(Ask::Command) => return match typed {
                    Typed::Line(line) => Turn::Done(line),
                    Typed::Interrupt | Typed::End => Turn::Stop,
                },
                event = events.recv() => {
                    let Some(event) = event else { return Turn::Ended(ExitStatus::Failure) };
                    if let Some(status) = self.show_event(event).await {
                        return Turn::Ended(status);
                    }
                }
                () = stop(&mut self.signals, &self.screen) => return Turn::Stop,
            }
        }
    }

    /// Waits until a command is done, with everything that happens meanwhile shown. An upload whose connection was lost is
    /// not waited for longer than a while: it goes on by itself.
    async fn await_done(
        &mut self,
        mut done: oneshot::Receiver<()>,
        events: &mut mpsc::Receiver<DeviceEvent>,
    ) -> Turn<()> {
        let mut is_dropped = false;
        let mut give_up_at = Instant::now() + FOR_EVER;
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return Turn::Ended(ExitStatus::Failure) };
                    if matches!(event, DeviceEvent::Disconnected { .. }) {
                        give_up_at = Instant::now() + UPLOAD_PATIENCE;
                    } else if matches!(event, DeviceEvent::Resumed) {
                        give_up_at = Instant::now() + FOR_EVER;
                    }
                    if let Some(status) = self.show_event(event).await {
                        return Turn::Ended(status);
                    }
                }
                result = &mut done, if !is_dropped => {
                    if result.is_err() {
                        // the device is ending, and says why in a moment
                        is_dropped = true;
                        give_up_at = Instant::now() + LAST_WORDS;
                        continue;
                    }
                    // everything that belongs to the command is there already
                    for _ in 0..events.len() {
                        let Ok(event) = events.try_recv() else { break };
                            if let Some(status) = self.show_event(event).await {
                            return Turn::Ended(status);
                        }
                    }
                    return Turn::Done(());
                }
                () = sleep_until(give_up_at) => {
                    if !is_dropped {
                        self.say(&[plain("going on; the upload is finished by itself when the authority is back")]).await;
                    }
                    return Turn::Done(());
                }
                () = stop(&mut self.signals, &self.screen) => return Turn::Stop,
            }
        }
    }

    /// A reader that has seen enough is no failure. A signal is one before the login is done; it may come between the welcome
    /// and what belongs to it.
    pub(super) fn status_of_stop(&self) -> ExitStatus {
        if self.was_welcomed || self.screen.is_closed() { ExitStatus::Success } else { ExitStatus::Failure }
    }

    /// Logs out, and shows the device's last words. A second signal ends the wait.
    async fn leave(&mut self, device: &DeviceHandle, events: &mut mpsc::Receiver<DeviceEvent>) -> ExitStatus {
        // what it waits for is the end of the events
        drop(device.submit(Command::Logout).await);
        let patience = Instant::now() + LEAVE_TIMEOUT;
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return ExitStatus::Failure };
                    if let Some(status) = self.show_event(event).await {
                        return status;
                    }
                }
                () = sleep_until(patience) => return ExitStatus::Success,
                () = self.signals.next() => return ExitStatus::Success,
            }
        }
    }

    /// Shows an event. The exit status if it was the last one.
    async fn show_event(&mut self, event: DeviceEvent) -> Option<ExitStatus> {
        if let DeviceEvent::UploadProgress { acknowledged, total } = event {
            self.show_progress(acknowledged, total).await;
        }
        self.was_welcomed |= matches!(event, DeviceEvent::Welcome);
        if matches!(event, DeviceEvent::UploadComplete(_) | DeviceEvent::UploadFailed { .. }) {
            self.uploading.quarters = 0;
            self.screen.end_bar().await;
        }
        self.say(&text::of_event(&event)).await;
        let DeviceEvent::Ended(end) = event else { return None };
        Some(match end {
            End::LoggedOut | End::LeftOffline { .. } | End::Abandoned => ExitStatus::Success,
            End::Blocked { .. }
            | End::Refused { .. }
            | End::LoginLost { .. }
            | End::NoFiles(_)
            | End::PasswordChanged
            | End::NoAccount
            | End::CertificateChanged(_) => ExitStatus::Failure,
        })
    }

    /// A bar where the prompt would be, or a line for each quarter.
    async fn show_progress(&mut self, acknowledged: u32, total: u32) {
        if total <= LONG_UPLOAD {
            return;
        }
        if self.uploading.is_waited_for && self.manner == Manner::Prompt {
            self.screen.bar(acknowledged, total).await;
            return;
        }
        let quarters = u32::try_from(u64::from(acknowledged) * 4 / u64::from(total)).unwrap_or_default();
        if quarters > self.uploading.quarters && quarters < 4 {
            self.uploading.quarters = quarters;
            let percent = u64::from(acknowledged) * 100 / u64::from(total);
            let line = format!("uploading: {acknowledged} of {total} records acknowledged ({percent} %)");
            self.say(&[text::aside(line)]).await;
        }
    }

    /// A prompt that is a line like any other; rustyline shows its own.
    async fn show_prompt(&self, prompt: &str) {
        if self.manner == Manner::Lines {
            self.say(&[plain(prompt)]).await;
        }
        self.screen.flush().await;
    }

    async fn say(&self, lines: &[Line]) {
        self.screen.show(lines).await;
    }

    /// Gives the terminal back as it was.
    pub(super) async fn close(mut self) {
        self.screen.flush().await;
        if self.manner == Manner::Prompt && self.input.is_asked() {
            // the one way to end a prompt from outside: it comes back as if Ctrl-C had been typed
            self.memory.end();
            let _ = kill(Pid::this(), Signal::SIGINT);
            let _ = timeout(LAST_WORDS, self.input.next(Ask::Command)).await;
        }
        self.screen.close().await;
    }
}

/// Waits for what ends the dialogue from outside: a signal, or that the reader goes away.
async fn stop(signals: &mut Signals, screen: &Screen) {
    tokio::select! {
        () = signals.next() => {}
        () = screen.closed() => {}
    }
}

/// SIGINT, SIGTERM and SIGHUP: all of them ask to log out.
struct Signals {
    streams: [tokio::signal::unix::Signal; 3],
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            streams: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.streams;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Of uploads with more records than this the progress is shown.
const LONG_UPLOAD: u32 = 100;

/// How long a command waits for an upload whose connection was lost.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);

/// How long an ending device may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a logout may take in all.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than anyone waits.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);
