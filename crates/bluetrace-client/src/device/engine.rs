//! Owns the device's task: one `select!`, and what each of its inputs does.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::session::client::ClientSession;
use bluetrace_protocol::{
    Backoff, Beacon, BeaconError, Clock, ClockJump, DeviceClock, Heard, Password, Record, TempIdBook, Timestamp,
    UploadCode, Username, judge,
};
use rand::SeedableRng as _;
use rand::rngs::ChaCha12Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::event::{Command, Connection, Contact, DeviceEvent, End, Status};
use super::outbox::{Done, Outbox};
use super::pending_upload::PendingUpload;
use super::session::{Session, Token};
use super::upload::Upload;
use super::{DeviceConfig, Order, StartError, bind_radio};
use crate::files::{LockError, UserFiles, UserLock, prepare_folder};
use crate::known_servers::KnownServers;
use crate::log_keeper::{FileNews, LogKeeper};
use crate::radio::{self, Radio, Sent, Target};
use crate::servers::ServerAddress;
use crate::uplink::{Transport, Uplink, UplinkEvent};
use crate::words::in_words;

/// Everything a device is made of. The methods about the session are in `session`, those about uploads in `upload`.
pub(super) struct Engine {
    pub(super) username: Username,
    transport: Transport,
    pub(super) downloads: bool,
    pub(super) notices_every: Duration,
    pub(super) files: UserFiles,
    /// From the start for a user who has files here, else from the welcome: a mistyped name leaves none behind.
    lock: Option<UserLock>,

    wall: Arc<dyn Clock>,
    started: Instant,
    pub(super) clock: DeviceClock,
    pub(super) generator: ChaCha12Rng,

    orders: mpsc::Receiver<Order>,
    pub(super) outbox: Outbox,

    pub(super) uplink: Uplink,
    /// The session on the present connection; none while there is none.
    pub(super) session: Option<Session>,
    /// The server that said welcome last. Before the first welcome a failure ends the device, after it the device tries again.
    pub(super) welcomed_by: Option<ServerAddress>,
    /// Whether the server waits for a password that the device does not have.
    pub(super) lacks_password: bool,
    /// Kept for logins after the first, and for nothing else; wiped at the end.
    pub(super) password: Option<Password>,
    pub(super) token: Option<Token>,
    pub(super) backoff: Backoff,
    pub(super) retry_at: Instant,
    /// Since when an answer has been outstanding without a byte from the server.
    pub(super) quiet_since: Instant,
    pub(super) notices_at: Instant,
    /// Not before then are `TempIDs` asked for by the device itself.
    pub(super) refill_at: Instant,
    pub(super) login_done: Option<Done>,
    pub(super) logout: Option<Logout>,
    pub(super) end: Option<End>,

    pub(super) book: TempIdBook,
    pub(super) upload: Option<Upload>,
    /// A further upload that was asked for meanwhile.
    pub(super) upload_next: Option<(Option<Done>, Option<UploadCode>)>,

    radio: Radio,
    pub(super) keeper: LogKeeper,
    sends: JoinSet<SendReport>,
    /// Datagrams heard since the start, by what was made of them.
    valid: u64,
    invalid: u64,
    dropped: u64,
    /// When a source was last told of as sending something that is no beacon.
    complaints: HashMap<IpAddr, Instant>,
    ticks: Interval,
}

/// A logout under way.
#[derive(Debug)]
pub(super) struct Logout {
    pub(super) done: Done,
    pub(super) deadline: Instant,
}

/// What a beacon's own small task has to tell.
struct SendReport {
    record: Record,
    target: Target,
    stage: SendStage,
}

enum SendStage {
    /// It has left, or could not; whoever asked for it is told.
    Sent(Sent, Done),
    /// The kernel has said since whether anybody listens.
    Refused(Option<SocketAddr>),
}

/// What the task may wait for.
enum Input {
    Order(Option<Order>),
    Uplink(UplinkEvent),
    Radio,
    File(FileNews),
    Send(SendReport),
    UploadSaved(io::Result<()>),
    HandedOn,
    Tick,
}

impl Engine {
    /// Takes the port, and lock and files of a user who has some; and connects.
    pub(super) async fn start(
        config: DeviceConfig,
        orders: mpsc::Receiver<Order>,
        events: mpsc::Sender<DeviceEvent>,
    ) -> Result<Self, StartError> {
        let folder_error = |source| StartError::Folder { folder: config.data_dir.clone(), source };
        let files = UserFiles::new(&config.data_dir, &config.username);
        prepare_folder(&config.data_dir).map_err(folder_error)?;
        let lock = if files.are_there() { Some(lock(&files)?) } else { None };
        let radio = bind_radio(config.udp)?;

        let started = Instant::now();
        let known = KnownServers::new(&config.data_dir);
        let uplink = Uplink::new(&config.servers, config.transport, &known)?;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut engine = Self {
            username: config.username,
            transport: config.transport,
            downloads: config.downloads,
            notices_every: config.notices_every,
            files,
            lock,
            wall: config.clock,
            started,
            clock: DeviceClock::new(),
            generator: ChaCha12Rng::from_seed(config.seed),
            orders,
            outbox: Outbox::new(events),
            uplink,
            session: None,
            welcomed_by: None,
            lacks_password: false,
            password: None,
            token: None,
            backoff: Backoff::new(),
            retry_at: started,
            quiet_since: started,
            notices_at: started,
            refill_at: started,
            login_done: None,
            logout: None,
            end: None,
            book: TempIdBook::new(),
            upload: None,
            upload_next: None,
            radio,
            keeper: LogKeeper::in_memory(config.retention_s),
            sends: JoinSet::new(),
            valid: 0,
            invalid: 0,
            dropped: 0,
            complaints: HashMap::new(),
            ticks,
        };
        if engine.lock.is_some() {
            engine.read_files()?;
        }
        engine.uplink.connect();
        let event = engine.uplink.event().await;
        if let UplinkEvent::Failed(error) = event {
            return Err(StartError::Connect(error));
        }
        engine.on_uplink(event);
        Ok(engine)
    }

    /// Takes the files of a user who had none at the start, now that there is such a user. What was heard since goes into them.
    pub(super) fn take_files(&mut self) -> Result<(), StartError> {
        if self.lock.is_none() {
            self.lock = Some(lock(&self.files)?);
            self.read_files()?;
        }
        Ok(())
    }

    /// Reads what is there, behind the lock.
    fn read_files(&mut self) -> Result<(), StartError> {
        let (file, now) = (self.files.contact_log(), self.now());
        let (keeper, report) = LogKeeper::open(&file, self.keeper.log(), now)
            .map_err(|source| StartError::Folder { folder: self.files.folder().to_path_buf(), source })?;
        self.keeper = keeper;
        if report.torn || report.malformed > 0 || report.surplus > 0 {
            self.outbox.tell(DeviceEvent::LogFileRead { file, report });
        }
        match PendingUpload::load(&self.files.upload()) {
            Ok(pending) => self.upload = pending.map(Upload::found),
            Err(error) => {
                self.outbox.tell(DeviceEvent::FileFailing { file: self.files.upload(), why: in_words(error) });
            }
        }
        Ok(())
    }

    pub(super) fn was_welcomed(&self) -> bool {
        self.welcomed_by.is_some()
    }

    pub(super) fn udp(&self) -> SocketAddr {
        self.radio.address()
    }

    /// Runs until told to end or until there is no way on.
    pub(super) async fn run(mut self) {
        while self.end.is_none() {
            self.keeper.start_work();
            let input = self.next_input().await;
            if self.on_input(input).is_break() {
                self.end = Some(End::Abandoned);
            }
        }
        if let Err(error) = self.keeper.finish().await {
            let file = self.files.contact_log();
            self.outbox.tell(DeviceEvent::FileFailing { file, why: in_words(error) });
        }
        self.uplink.close();
        self.sends.shutdown().await;
        if let Some(end) = self.end.take() {
            self.outbox.tell(DeviceEvent::Ended(end));
        }
        let logout = self.logout.take().map(|logout| logout.done);
        self.outbox.done(logout);
        self.outbox.hand_on_all().await;
    }

    async fn next_input(&mut self) -> Input {
        tokio::select! {
            order = self.orders.recv() => Input::Order(order),
            event = self.uplink.event() => Input::Uplink(event),
            () = self.radio.readable() => Input::Radio,
            news = self.keeper.work_done() => Input::File(news),
            Some(Ok(report)) = self.sends.join_next(), if !self.sends.is_empty() => Input::Send(report),
            saved = Upload::saved(&mut self.upload) => Input::UploadSaved(saved),
            () = self.outbox.hand_on() => Input::HandedOn,
            _ = self.ticks.tick() => Input::Tick,
        }
    }

    fn on_input(&mut self, input: Input) -> ControlFlow<()> {
        match input {
            Input::Order(None) => return ControlFlow::Break(()),
            Input::Order(Some(order)) => self.on_order(order),
            Input::Uplink(event) => self.on_uplink(event),
            Input::Radio => self.on_radio(),
            Input::File(news) => self.on_file(news),
            Input::Send(report) => self.on_send(report),
            Input::UploadSaved(saved) => self.on_upload_saved(saved),
            Input::HandedOn => {}
            Input::Tick => self.on_tick(),
        }
        ControlFlow::Continue(())
    }

    fn on_order(&mut self, order: Order) {
        let done = order.done;
        match order.command {
            Command::Password(password) => self.on_password(password, done),
            Command::Download => self.on_download(done),
            Command::Upload(code) => self.on_upload(code, done),
            Command::Beacon(target) => self.on_beacon(target, done),
            Command::Notices => self.on_notices_wanted(done),
            Command::HandshakePin => self.on_pin_wanted(done),
            Command::Logout => self.on_logout(done),
            Command::Status => {
                let status = Box::new(self.status());
                self.outbox.tell(DeviceEvent::Status(status));
                self.outbox.done(Some(done));
            }
            Command::Contacts => {
                let now = self.now();
                let log = self.keeper.log();
                let skipped = log.len().saturating_sub(CONTACTS_SHOWN);
                let newest = log.iter().skip(skipped);
                let newest = newest.map(|entry| Contact { entry: entry.clone(), removal: log.removal_of(entry) });
                let event = DeviceEvent::Contacts { total: log.len(), newest: newest.collect(), now };
                self.outbox.tell(event);
                self.outbox.done(Some(done));
            }
        }
    }

    fn on_beacon(&mut self, target: Target, done: Done) {
        let now = self.now();
        let Some(record) = self.book.current(now).cloned() else {
            self.outbox.tell(DeviceEvent::NoTempId { had_one: !self.book.is_empty() });
            return self.outbox.done(Some(done));
        };
        if self.sends.len() >= SENDS_AT_ONCE {
            self.outbox.tell(DeviceEvent::BeaconFailed { target, why: "too many are on their way".into() });
            return self.outbox.done(Some(done));
        }
        let datagram = Beacon { record: record.clone() }.reveal();
        self.sends.spawn(async move {
            let sent = radio::send(datagram.as_bytes(), &target).await;
            SendReport { record, target, stage: SendStage::Sent(sent, done) }
        });
    }

    fn on_send(&mut self, report: SendReport) {
        let SendReport { record, target, stage } = report;
        match stage {
            SendStage::Sent(sent, done) => {
                match sent {
                    Sent::Left(socket, to) => {
                        self.outbox.tell(DeviceEvent::BeaconSent { record: record.clone(), to });
                        // who sends many does not wait for the word on each
                        if self.sends.len() < REFUSALS_AWAITED {
                            self.sends.spawn(async move {
                                let refused = radio::is_refused(&socket).await.then_some(to);
                                SendReport { record, target, stage: SendStage::Refused(refused) }
                            });
                        }
                    }
                    Sent::Refused(to) => {
                        self.outbox.tell(DeviceEvent::BeaconSent { record, to });
                        self.outbox.tell(DeviceEvent::BeaconRefused { to });
                    }
                    Sent::Failed(error) => {
                        self.outbox.tell(DeviceEvent::BeaconFailed { target, why: in_words(error) });
                    }
                }
                self.outbox.done(Some(done));
            }
            SendStage::Refused(Some(to)) => self.outbox.tell(DeviceEvent::BeaconRefused { to }),
            SendStage::Refused(None) => {}
        }
    }

    /// Takes what the radio has heard, up to a number, so that a flood leaves room for everything else.
    fn on_radio(&mut self) {
        let now = self.now();
        for _ in 0..BEACONS_AT_ONCE {
            let Some((datagram, from)) = self.radio.receive() else { return };
            let (record, is_valid) = match judge(datagram, now) {
                Heard::Valid(record) => (record, true),
                Heard::Invalid(record) => (record, false),
                Heard::Dropped(error) => {
                    self.dropped += 1;
                    self.complain(from, error);
                    continue;
                }
            };
            self.outbox.tell_if_room(|| DeviceEvent::BeaconHeard { record: record.clone(), now, is_valid });
            if is_valid {
                self.valid += 1;
                self.keeper.heard(record, now);
            } else {
                self.invalid += 1;
            }
        }
    }

    /// Says why a datagram was dropped, once a source and minute. Sources can be made up, so no more than a number of them
    /// are remembered, and then the others are only counted.
    fn complain(&mut self, from: SocketAddr, error: BeaconError) {
        let now = Instant::now();
        if self.complaints.len() >= MOST_COMPLAINTS {
            self.complaints.retain(|_, told| now.duration_since(*told) < COMPLAIN_EVERY);
        }
        let is_due = match self.complaints.get(&from.ip()) {
            Some(told) => now.duration_since(*told) >= COMPLAIN_EVERY,
            None => self.complaints.len() < MOST_COMPLAINTS,
        };
        if is_due {
            self.complaints.insert(from.ip(), now);
            self.outbox.tell(DeviceEvent::BeaconDropped { from, why: error.to_string() });
        }
    }

    fn on_file(&mut self, news: FileNews) {
        let file = self.files.contact_log();
        match news {
            FileNews::Fine => {}
            FileNews::ChangedOutside => self.outbox.tell(DeviceEvent::LogFileChangedOutside { file }),
            FileNews::Failing(error) => self.outbox.tell(DeviceEvent::FileFailing { file, why: in_words(error) }),
            FileNews::Recovered => self.outbox.tell(DeviceEvent::LogFileRecovered { file }),
        }
    }

    fn on_tick(&mut self) {
        let now = self.now();
        let count = self.keeper.expire(now);
        if count > 0 {
            self.outbox.tell(DeviceEvent::ContactForgotten { count });
        }
        self.tend_session();
        self.begin_upload();
    }

    /// The device's time.
    pub(super) fn now(&mut self) -> Timestamp {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let reading = self.clock.read(self.wall.now(), uptime_ms);
        if let Some(ClockJump::Back(seconds)) = reading.jump {
            self.outbox.tell(DeviceEvent::ClockSetBack { seconds });
        }
        reading.now
    }

    /// What the wall clock says.
    pub(super) fn wall(&self) -> Timestamp {
        self.wall.now()
    }

    fn status(&mut self) -> Status {
        let now = self.now();
        let is_member = self.session.as_ref().is_some_and(ClientSession::is_member);
        let wait = self.retry_at.saturating_duration_since(Instant::now());
        let connection = if is_member {
            Connection::Connected
        } else if self.uplink.is_waiting() {
            Connection::Waiting { retry_in: wait }
        } else {
            Connection::Connecting
        };
        let log = self.keeper.log();
        Status {
            now,
            server: self.uplink.server().clone(),
            transport: self.transport,
            connection,
            temp_id: self.book.current(now).cloned(),
            covered_until: self.book.covers_until(now),
            contacts: log.len(),
            next_removal: log.next_removal(),
            retention_s: log.retention_s(),
            log_file: self.files.contact_log(),
            udp: self.radio.address(),
            valid: self.valid,
            invalid: self.invalid,
            dropped: self.dropped,
            upload: self.upload.as_ref().map(|upload| upload.status(self.files.upload())),
        }
    }
}

fn lock(files: &UserFiles) -> Result<UserLock, StartError> {
    let folder = || files.folder().to_path_buf();
    files.lock().map_err(|error| match error {
        LockError::Held => StartError::InUse { folder: folder() },
        LockError::Io(source) => StartError::Folder { folder: folder(), source },
    })
}

/// How often time is looked at. Entries of the contact log leave so much too late at the most, and the time it takes to
/// write the file: together under the 0.2 s of PROTOCOL section 3.
const TICK: Duration = Duration::from_millis(50);

/// Datagrams taken before looking at anything else.
const BEACONS_AT_ONCE: usize = 512;

/// Beacons on their way at once.
const SENDS_AT_ONCE: usize = 256;

/// Beacons of which it is still to be learnt whether anybody listened: the rest of [`SENDS_AT_ONCE`] is for sending.
const REFUSALS_AWAITED: usize = 64;

/// Entries that [`DeviceEvent::Contacts`] holds at the most.
const CONTACTS_SHOWN: usize = 100;

/// How often a source of datagrams that are no beacons is told of (PROTOCOL section 2).
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

/// Sources remembered for that.
const MOST_COMPLAINTS: usize = 256;
