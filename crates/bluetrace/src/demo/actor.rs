//! Owns a device as a character of the demonstration: a real device, and waiting for what it should do.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bluetrace_client::device::{Command, Device, DeviceConfig, DeviceEvent, DeviceHandle, Status};
use bluetrace_client::{ServerAddress, Target, Transport};
use bluetrace_protocol::{Password, Username};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::system::{self, SystemClock};

/// A person with a device.
pub(crate) struct Person {
    /// How the story calls them.
    pub(crate) name: &'static str,
    /// What the authority knows them by.
    pub(crate) phone_number: &'static str,
    pub(crate) password: &'static str,
}

/// A device that runs.
pub(crate) struct Actor {
    pub(crate) person: &'static Person,
    handle: DeviceHandle,
    events: mpsc::UnboundedReceiver<DeviceEvent>,
    log_file: PathBuf,
}

/// Where a device of the demonstration lives.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) server: SocketAddr,
    pub(crate) home: PathBuf,
    pub(crate) retention_s: u32,
}

impl fmt::Display for Person {
    /// Name and number: who stands behind a number in the authority's lines.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name, self.phone_number)
    }
}

impl Person {
    pub(crate) fn username(&self) -> anyhow::Result<Username> {
        Ok(Username::parse(self.phone_number)?)
    }

    /// Switches the person's device on; it then asks for a password.
    pub(crate) async fn switch_on(&'static self, around: &Surroundings) -> anyhow::Result<Actor> {
        let data_dir = around.home.join(self.name);
        let config = DeviceConfig {
            servers: ServerAddress { host: around.server.ip().to_string(), port: around.server.port() }.into(),
            transport: Transport::Tls,
            udp: (Ipv4Addr::LOCALHOST, 0).into(),
            data_dir: data_dir.clone(),
            username: self.username()?,
            retention_s: around.retention_s,
            downloads: true,
            notices_every: Duration::from_secs(1),
            clock: Arc::new(SystemClock),
            seed: system::seed()?,
        };
        let (handle, mut from_device) = Device::start(config).await?;
        // the story looks at one device at a time; the others' events wait here
        let (keep, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(event) = from_device.recv().await {
                if keep.send(event).is_err() {
                    break;
                }
            }
        });
        let log_file = data_dir.join(format!("{}_contactlog.txt", self.phone_number));
        let mut actor = Actor { person: self, handle, events, log_file };
        actor
            .expect("asked for a password", |event| matches!(event, DeviceEvent::PasswordRequired).then_some(()))
            .await?;
        Ok(actor)
    }
}

impl Actor {
    /// Waits for an event that `wanted` makes something of; others pass by.
    pub(crate) async fn expect<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(DeviceEvent) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.next_event(what, deadline).await?;
            let end = match &event {
                DeviceEvent::Ended(end) => Some(format!("{end:?}")),
                _ => None,
            };
            if let Some(found) = wanted(event) {
                return Ok(found);
            }
            if let Some(end) = end {
                bail!("{}'s device ended before it {what}: {end}", self.person.name);
            }
        }
    }

    async fn next_event(&mut self, what: &str, deadline: Instant) -> anyhow::Result<DeviceEvent> {
        let name = self.person.name;
        let event = timeout_at(deadline, self.events.recv()).await;
        event
            .with_context(|| format!("{name}'s device never {what}"))?
            .with_context(|| format!("{name}'s device ended before it {what}"))
    }

    /// Tells the device to do something, and waits until it is done.
    pub(crate) async fn run(&self, command: Command) {
        self.handle.run(command).await;
    }

    pub(crate) async fn log_in(&mut self) -> anyhow::Result<()> {
        self.run(Command::Password(Password::parse(self.person.password)?)).await;
        self.expect("logged in", |event| matches!(event, DeviceEvent::Welcome).then_some(())).await
    }

    pub(crate) async fn beacon(&self, to: SocketAddr) {
        self.run(Command::Beacon(Target { host: to.ip().to_string(), port: to.port() })).await;
    }

    pub(crate) async fn status(&mut self) -> anyhow::Result<Status> {
        self.run(Command::Status).await;
        self.expect("told its status", |event| match event {
            DeviceEvent::Status(status) => Some(*status),
            _ => None,
        })
        .await
    }

    /// Where the device hears beacons.
    pub(crate) fn udp(&self) -> SocketAddr {
        self.handle.udp()
    }

    /// The contact log as it stands in its file.
    pub(crate) fn contact_log(&self) -> anyhow::Result<Vec<String>> {
        read_lines(&self.log_file)
    }

    pub(crate) async fn log_out(mut self) -> anyhow::Result<()> {
        self.run(Command::Logout).await;
        self.expect("logged out", |event| matches!(event, DeviceEvent::Ended(_)).then_some(())).await?;
        self.handle.join().await;
        Ok(())
    }
}

fn read_lines(file: &Path) -> anyhow::Result<Vec<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// What the story waits for happens within this time, or has not happened.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
