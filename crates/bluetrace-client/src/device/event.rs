//! Owns what a device is told to do and what it has to tell: [`Command`], [`DeviceEvent`], [`Status`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bluetrace_protocol::{
    ContactLogEntry, ExposureNotice, HandshakePin, Password, ReadReport, Record, Timestamp, UploadCode, UploadSummary,
};

use super::StartError;
use crate::known_servers::Fingerprint;
use crate::radio::Target;
use crate::servers::ServerAddress;
use crate::trust::CertificateChanged;
use crate::uplink::Transport;

/// What a device can be told to do.
#[derive(Debug)]
pub enum Command {
    /// Goes on with the login, after [`DeviceEvent::PasswordRequired`] or [`DeviceEvent::WrongPassword`].
    Password(Password),
    /// Fetches a fresh `TempID` and shows it from then on.
    Download,
    /// Uploads the contact log as it stands, with an upload code where the authority requires one. An upload of which the
    /// authority has nothing goes with it, as one; another goes on first, and with this code if it was refused.
    Upload(Option<UploadCode>),
    /// Sends a beacon.
    Beacon(Target),
    /// Asks for notices, and says so if there are none.
    Notices,
    /// Asks for [`DeviceEvent::HandshakePin`].
    HandshakePin,
    /// Asks for [`DeviceEvent::Status`].
    Status,
    /// Asks for [`DeviceEvent::Contacts`].
    Contacts,
    /// Ends the session and the device.
    Logout,
}

/// What a front-end shows.
#[derive(Debug)]
pub enum DeviceEvent {
    /// This server was seen for the first time, and is trusted from then on.
    ServerTrusted {
        /// Which.
        server: ServerAddress,
        /// Its certificate.
        fingerprint: Fingerprint,
        /// Where that is remembered.
        file: PathBuf,
    },
    /// The contact log's file was not as it should be.
    LogFileRead {
        /// The file.
        file: PathBuf,
        /// What was found.
        report: ReadReport,
    },
    /// The server asks for a password: [`Command::Password`].
    PasswordRequired,
    /// Logged in.
    Welcome,
    /// The password was wrong; another may be tried.
    WrongPassword {
        /// The server's text.
        text: String,
    },
    /// The connection is lost. The device reconnects by itself.
    Disconnected {
        /// Why, for people.
        why: String,
        /// When it tries first.
        retry_in: Duration,
    },
    /// Connected and logged in again.
    Resumed {
        /// Where to, if it is another server than before.
        moved_to: Option<ServerAddress>,
    },
    /// A fresh `TempID`, and the one that is shown now.
    TempIdIssued(Record),
    /// No fresh `TempID` can be had; this one is held and still valid.
    TempIdHeld {
        /// The one shown now.
        record: Record,
        /// Why there is no other.
        why: String,
    },
    /// No `TempID` can be had, and none is held.
    TempIdFailed {
        /// Why.
        why: String,
    },
    /// `TempIDs` were downloaded by the device itself.
    TempIdsRefilled {
        /// How many.
        count: usize,
        /// Until when there is one to show.
        until: Timestamp,
    },
    /// A beacon was asked for, and there is no valid `TempID` to send.
    NoTempId {
        /// Whether there was one that is over.
        had_one: bool,
    },
    /// A beacon was sent.
    BeaconSent {
        /// What it said.
        record: Record,
        /// To where.
        to: SocketAddr,
    },
    /// Nobody listens where the last beacon was sent.
    BeaconRefused {
        /// To where.
        to: SocketAddr,
    },
    /// A beacon could not be sent.
    BeaconFailed {
        /// To where.
        target: Target,
        /// Why.
        why: String,
    },
    /// A beacon was heard.
    BeaconHeard {
        /// What it said.
        record: Record,
        /// The device's time.
        now: Timestamp,
        /// Whether it was within its window, and so was logged.
        is_valid: bool,
    },
    /// Something was heard that is no beacon. Told once a minute and source at the most.
    BeaconDropped {
        /// From where.
        from: SocketAddr,
        /// Why.
        why: String,
    },
    /// Beacons came faster than the front-end took the events. They were logged all the same.
    BeaconsUnshown {
        /// How many.
        count: u64,
    },
    /// Entries of the contact log are over and gone.
    ContactForgotten {
        /// How many.
        count: usize,
    },
    /// There is nothing to upload.
    UploadEmpty,
    /// An upload is under way already, and goes on as it is.
    UploadUnderWay {
        /// Records acknowledged of it.
        acknowledged: u32,
        /// Records in all.
        total: u32,
        /// Contacts in the log that are not in it.
        beyond: usize,
        /// Whether another upload follows it by itself.
        is_followed: bool,
    },
    /// These records are to be uploaded.
    UploadStarted {
        /// The records.
        records: Arc<[ContactLogEntry]>,
        /// How many of them stood in an upload that the authority has not taken, and that this one replaces.
        kept: usize,
        /// Whether the authority is connected. Otherwise they go when it is.
        is_connected: bool,
    },
    /// An upload that an earlier connection, or an earlier run, began goes on.
    UploadContinued {
        /// Records acknowledged of it.
        acknowledged: u32,
        /// Records in all.
        total: u32,
    },
    /// More records are acknowledged.
    UploadProgress {
        /// Records acknowledged.
        acknowledged: u32,
        /// Records in all.
        total: u32,
    },
    /// The authority counted a record as invalid.
    RecordRefused {
        /// Its words.
        message: String,
    },
    /// Every record is acknowledged.
    UploadComplete(UploadSummary),
    /// The authority did not take the upload.
    UploadFailed {
        /// Why.
        why: String,
        /// When it is tried again.
        next_try: NextTry,
        /// Where it is kept.
        file: PathBuf,
    },
    /// The PIN that a health official has to tell.
    HandshakePin {
        /// The PIN.
        pin: HandshakePin,
        /// When it ends, on the server's clock.
        expires: Timestamp,
    },
    /// Word from the health authority. Empty only after [`Command::Notices`].
    Notices {
        /// What it says.
        notices: Vec<ExposureNotice>,
        /// The device's time. A notice's own times are those of windows, of which the last may not be over.
        now: Timestamp,
    },
    /// What was asked cannot be done while the authority is away, or it refused.
    RequestFailed {
        /// Why.
        why: String,
    },
    /// Something else changed or removed the contact log's file. It is written again from memory.
    LogFileChangedOutside {
        /// The file.
        file: PathBuf,
    },
    /// A file cannot be written. The device goes on with what it has in memory.
    FileFailing {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The contact log's file can be written again, and is whole.
    LogFileRecovered {
        /// The file.
        file: PathBuf,
    },
    /// The device's wall clock was set back. Its time goes on evenly.
    ClockSetBack {
        /// By how much.
        seconds: i64,
    },
    /// How things stand.
    Status(Box<Status>),
    /// The contact log's newest entries.
    Contacts {
        /// How many there are in all.
        total: usize,
        /// The newest, oldest of them first.
        newest: Vec<Contact>,
        /// The device's time.
        now: Timestamp,
    },
    /// The device has ended. Always the last event.
    Ended(End),
}

/// When an upload that the authority did not take is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTry {
    /// By itself, after so long.
    In(Duration),
    /// By itself, in the next session.
    NextSession,
    /// When its user uploads again ([`Command::Upload`]), in whatever session or run.
    WhenAsked,
    /// As [`Self::WhenAsked`], with an upload code: there was none, or it was not a good one.
    WithCode,
}

/// Why a device ended.
#[derive(Debug)]
pub enum End {
    /// Logged out as told.
    LoggedOut,
    /// Ended as told, without the authority's word for it.
    LeftOffline {
        /// Why it could not be told.
        why: String,
    },
    /// The account is blocked.
    Blocked {
        /// The server's text.
        text: String,
    },
    /// The server does not take this device.
    Refused {
        /// The server's text.
        text: String,
    },
    /// The connection was lost before the login was complete.
    LoginLost {
        /// Why.
        why: String,
    },
    /// The user's files could not be taken once the login was done.
    NoFiles(Box<StartError>),
    /// The password that was right is so no longer.
    PasswordChanged,
    /// The account has been removed at the authority.
    NoAccount,
    /// The server shows another certificate than before.
    CertificateChanged(Box<CertificateChanged>),
    /// The front-end left before the login, or let go of its [`DeviceHandle`](super::DeviceHandle).
    Abandoned,
}

/// How a device stands.
#[derive(Debug)]
pub struct Status {
    /// The device's time.
    pub now: Timestamp,
    /// The server that is used, or tried next.
    pub server: ServerAddress,
    /// How it is spoken to.
    pub transport: Transport,
    /// Whether it is.
    pub connection: Connection,
    /// The `TempID` shown now.
    pub temp_id: Option<Record>,
    /// Until when there will be one to show.
    pub covered_until: Option<Timestamp>,
    /// Entries of the contact log.
    pub contacts: usize,
    /// When the next of them is removed.
    pub next_removal: Option<Timestamp>,
    /// Seconds each is kept.
    pub retention_s: u32,
    /// The contact log's file.
    pub log_file: PathBuf,
    /// Where beacons are heard.
    pub udp: SocketAddr,
    /// Beacons heard within their window.
    pub valid: u64,
    /// Beacons heard outside their window.
    pub invalid: u64,
    /// Datagrams that were no beacon.
    pub dropped: u64,
    /// An upload that the authority does not have completely.
    pub upload: Option<UnfinishedUpload>,
}

/// An upload that is kept until the authority has all of it, for longer than the contact log keeps its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// Records acknowledged.
    pub acknowledged: u32,
    /// Records in all.
    pub total: u32,
    /// When the first and the last of them were heard.
    pub heard: Option<(Timestamp, Timestamp)>,
    /// Whether the authority has refused it, so that it waits for [`Command::Upload`].
    pub is_refused: bool,
    /// Where it is kept.
    pub file: PathBuf,
}

/// Whether the authority is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Connected and logged in.
    Connected,
    /// On the way.
    Connecting,
    /// Not connected.
    Waiting {
        /// When it is tried next.
        retry_in: Duration,
    },
}

/// An entry of the contact log with its time to go.
#[derive(Debug, Clone)]
pub struct Contact {
    /// The entry.
    pub entry: ContactLogEntry,
    /// When it is removed.
    pub removal: Timestamp,
}
