//! Owns what becomes of one record of an upload: the protocol crate's verdict on it, and what of it is stored.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use bluetrace_authority::keyring::{Keyring, Unsealed};
use bluetrace_protocol::limits::MAX_TEMP_ID_DIGITS;
use bluetrace_protocol::opentrace::date::UtcOffset;
use bluetrace_protocol::opentrace::reference::judge_as_reference;
use bluetrace_protocol::opentrace::upload_json::Element;
use bluetrace_protocol::opentrace::{Finding, Verdict, judge};
use bluetrace_protocol::{Opened, Record, SealedTempId, TempId, Timestamp, Uid, Uploaded, UploadedRecord, Window};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Judges records with the keys of one moment.
pub(super) struct Judge {
    keyring: Arc<Keyring>,
    /// Ids that a key has opened: phones that stay together hear each other's again and again.
    opened: HashMap<SealedTempId, Unsealed>,
    /// Whether the reference's verdicts are asked for.
    is_compatible: bool,
    /// Makes the marks by which records that are there twice are found. Its key is this upload's own, so that nobody can make
    /// two records that are taken for one.
    marks: RandomState,
}

/// A record, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) note: Note,
    /// What of it is stored, if it is a record.
    pub(super) heard: Option<Heard>,
}

/// A record as it waits to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) id: HeardId,
    pub(super) window: Window,
    pub(super) received: Option<Timestamp>,
    pub(super) rssi: Option<i16>,
}

/// The id in a record. A sealed one waits in its bytes: its text is made when it is stored, beside the disk's work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum HeardId {
    Sealed(SealedTempId),
    OfRegistry(TempId),
}

/// What is to be known of a record before any of its upload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) kind: Kind,
    /// Whose the id in it is, if a key opened it.
    pub(super) owner: Option<Uid>,
    /// What it has in common with the same record once more, and with no other; `None` if it is not to be looked for.
    pub(super) mark: Option<u64>,
}

/// A verdict, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Valid,
    Expired,
    FailedDecryption,
    NoMessage,
    Own,
    Malformed,
    /// An id of the registry's form: the registry decides when the upload is traced.
    RegistryId,
    Duplicate,
}

/// How many records of a body had which verdict. The words are the reference's where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub(crate) struct VerdictCounts {
    /// The id is ours, and the record lies in its window.
    valid: u32,
    /// The id is ours, and the record lies outside its window. The contact is kept, and gives no notice.
    expired_id: u32,
    /// No key opens it.
    failed_decryption: u32,
    /// There is no id in it.
    no_msg: u32,
    /// The uploader's own id.
    own_id: u32,
    /// No record: no object, or a field has not its type.
    malformed: u32,
    /// An id of decimal digits, which is looked up when the upload is complete.
    registry_id: u32,
    /// The same id, moment and strength as a record before it. It is not stored.
    duplicate: u32,
}

impl Judge {
    pub(super) fn new(keyring: Arc<Keyring>, is_compatible: bool) -> Self {
        Self { keyring, opened: HashMap::new(), is_compatible, marks: RandomState::new() }
    }

    /// Takes the keys that there are now. What was opened with one that is gone is forgotten.
    pub(super) fn renew(&mut self, keyring: Arc<Keyring>) {
        self.opened.retain(|_, unsealed| keyring.has_key_of(unsealed));
        self.keyring = keyring;
    }

    /// Judges one record. Whose the upload is, is not known yet: the uploader's own ids pass for another's here.
    pub(super) fn judge(&mut self, element: Element<'_>) -> Judged {
        let Element::Bytes(bytes) = element else { return Judged::malformed() };
        let Ok(json) = std::str::from_utf8(bytes) else { return Judged::malformed() };
        let is_compatible = self.is_compatible;
        let open = |sealed: &SealedTempId, second: Option<i64>| self.open(sealed, second);
        if is_compatible {
            let Ok(mut record) = serde_json::from_str::<Map<String, Value>>(json) else { return Judged::malformed() };
            let rssi = record.get("rssi").and_then(Value::as_i64).and_then(|dbm| i16::try_from(dbm).ok());
            let digits = record.get("msg").and_then(Value::as_str).and_then(registry_id);
            let verdict = judge_as_reference(&mut record, UtcOffset::default(), open);
            let mut judged = self.judged(&Verdict { rssi, ..verdict }, || digits);
            // the reference keeps what is there twice
            judged.note.mark = None;
            judged
        } else {
            let verdict = judge(json, None, open);
            self.judged(&verdict, || {
                let record: Message<'_> = serde_json::from_str(json).ok()?;
                registry_id(&record.msg)
            })
        }
    }

    /// Opens an id with the keys of its record's moment. A record is judged by that alone, whatever others hold the same id.
    fn open(&mut self, sealed: &SealedTempId, second: Option<i64>) -> Option<Opened> {
        let heard = second.and_then(Timestamp::from_unix).map(|heard| [heard, heard.plus(-STALE_S)]);
        let moments: &[_] = heard.as_ref().map_or(&[], |moments| moments);
        // the reference tries every key with every record
        let is_compatible = self.is_compatible;
        if let Some(unsealed) = self.opened.get(sealed) {
            return (is_compatible || unsealed.may_be_of(moments)).then_some(unsealed.opened);
        }
        let unsealed = self.keyring.open(sealed, moments);
        let unsealed = unsealed.or_else(|| is_compatible.then(|| self.keyring.open_at_any_time(sealed))?)?;
        if self.opened.len() >= MAX_OPENED {
            self.opened.clear();
        }
        self.opened.insert(*sealed, unsealed);
        Some(unsealed.opened)
    }

    /// What is stored of a record. `digits` reads an id of the registry's form in it.
    fn judged(&self, verdict: &Verdict, digits: impl FnOnce() -> Option<TempId>) -> Judged {
        let kind = match verdict.finding {
            Finding::Valid(_) => Kind::Valid,
            Finding::Expired { .. } => Kind::Expired,
            Finding::FailedDecryption => Kind::FailedDecryption,
            Finding::NoMessage => Kind::NoMessage,
            Finding::Own(_) => Kind::Own,
            Finding::Malformed => Kind::Malformed,
        };
        let owner = verdict.finding.opened().map(|opened| opened.uid);
        let (kind, id) = match (kind, verdict.temp_id) {
            (Kind::Valid | Kind::Expired | Kind::FailedDecryption, Some(sealed)) => {
                (kind, Some(HeardId::Sealed(sealed)))
            }
            (Kind::FailedDecryption, None) => match digits() {
                Some(digits) => (Kind::RegistryId, Some(HeardId::OfRegistry(digits))),
                None => (kind, None),
            },
            _ => (kind, None),
        };
        let heard = id.and_then(|id| Heard::of(id, verdict));
        let moment = verdict.timestamp.map(f64::to_bits);
        let mark = heard.as_ref().map(|heard| self.marks.hash_one((&heard.id, moment, heard.rssi)));
        Judged { note: Note { kind, owner, mark }, heard }
    }
}

impl Judged {
    /// What of it is stored, known whose upload it is in.
    pub(super) fn uploaded_by(self, uploader: Option<&Uid>) -> Uploaded {
        let heard = self.heard.filter(|_| !self.note.is_own(uploader));
        heard.map_or(Uploaded::Malformed, |heard| Uploaded::Record(heard.into()))
    }

    const fn malformed() -> Self {
        Self { note: Note { kind: Kind::Malformed, owner: None, mark: None }, heard: None }
    }
}

impl Heard {
    /// A record with the window that its id was issued for, where that is known, and the moment it was heard. `None` for a moment
    /// that this protocol has not: it must not pass for one that nobody knows.
    fn of(id: HeardId, verdict: &Verdict) -> Option<Self> {
        let received = match (verdict.timestamp, verdict.moment()) {
            (None, _) => None,
            (Some(_), None) => return None,
            (Some(exact), Some(second)) => {
                // part of a second after the expiry is after the expiry, also when only seconds are stored
                let is_late = matches!(verdict.finding, Finding::Expired { distance_s, .. } if distance_s > 0.0);
                Some(if is_late && exact.fract() > 0.0 { second.plus(1) } else { second })
            }
        };
        let issued = verdict.finding.opened().and_then(Opened::window);
        let window = match (issued, received) {
            (Some(window), _) => window,
            (None, received) => Window::new(received?, received?).ok()?,
        };
        Some(Self { id, window, received, rssi: verdict.rssi })
    }
}

impl From<Heard> for UploadedRecord {
    fn from(Heard { id, window, received, rssi }: Heard) -> Self {
        let temp_id = match id {
            HeardId::Sealed(sealed) => TempId::from(&sealed),
            HeardId::OfRegistry(digits) => digits,
        };
        Self { record: Record { temp_id, window }, received, rssi, seen: None }
    }
}

impl Note {
    /// The same, known whose upload it is in: the uploader meets nobody who is himself.
    pub(super) fn of_uploader(self, uploader: Option<&Uid>) -> Self {
        if self.is_own(uploader) { Self { kind: Kind::Own, mark: None, ..self } } else { self }
    }

    fn is_own(&self, uploader: Option<&Uid>) -> bool {
        self.owner.is_some() && self.owner.as_ref() == uploader
    }
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Valid,
        Self::Expired,
        Self::FailedDecryption,
        Self::NoMessage,
        Self::Own,
        Self::Malformed,
        Self::RegistryId,
        Self::Duplicate,
    ];
}

impl VerdictCounts {
    /// How many there are.
    pub(super) const fn sum(&self) -> u32 {
        let Self { valid, expired_id, failed_decryption, no_msg, own_id, malformed, registry_id, duplicate } = *self;
        valid + expired_id + failed_decryption + no_msg + own_id + malformed + registry_id + duplicate
    }

    pub(super) const fn add(&mut self, kind: Kind) {
        let count = match kind {
            Kind::Valid => &mut self.valid,
            Kind::Expired => &mut self.expired_id,
            Kind::FailedDecryption => &mut self.failed_decryption,
            Kind::NoMessage => &mut self.no_msg,
            Kind::Own => &mut self.own_id,
            Kind::Malformed => &mut self.malformed,
            Kind::RegistryId => &mut self.registry_id,
            Kind::Duplicate => &mut self.duplicate,
        };
        *count += 1;
    }
}

/// An id of the registry's form, which has decimal digits alone.
fn registry_id(text: &str) -> Option<TempId> {
    TempId::parse(text).ok().filter(|id| id.reveal().len() <= MAX_TEMP_ID_DIGITS)
}

/// The field of a record in which its id is.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    msg: std::borrow::Cow<'a, str>,
}

/// Ids that are remembered as opened: those that a phone hears in days, and half a megabyte.
const MAX_OPENED: usize = 4_096;

/// So long does OpenTrace's iOS app go on showing an id past its time, in seconds.
const STALE_S: i64 = 12 * 60 * 60;
