//! Who is told what after an upload, however it was traced, and after uploads that hold the same encounters.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers fail as their tests do")]

use std::sync::Arc;

use bluetrace_authority::accounts::LoggedIn;
use bluetrace_authority::conformance::block_on;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::{UploadBegun, UploadKey};
use bluetrace_authority::trace::UploadTrace;
use bluetrace_authority::uploads::UploadFinished;
use bluetrace_authority::{Authority, MasterKey, Member, Policy};
use bluetrace_protocol::message::BeginUpload;
use bluetrace_protocol::{
    Clock, Moment, Password, Record, Timestamp, UploadSummary, Uploaded, UploadedRecord, Username,
};

#[test]
fn what_is_traced_while_it_is_stored_leads_to_the_same_as_what_is_read_back() {
    let outcome = |traced: usize| {
        let desk = Desk::new();
        let (met, ill) = (desk.member("met"), desk.member("ill"));
        let late = match desk.shown_by(&met, 2 * HOUR) {
            Uploaded::Record(record) => Uploaded::Record(UploadedRecord { received: Some(at(3 * HOUR)), ..record }),
            Uploaded::Malformed => Uploaded::Malformed,
        };
        let unknown = Uploaded::Record(UploadedRecord {
            record: Record::parse("12345678901234567890, 01/01/1970 00:00:00, 01/01/1970 00:14:59").unwrap(),
            received: None,
            rssi: None,
            seen: None,
        });
        let (own, again) = (desk.shown_by(&ill, 0), desk.shown_by(&met, HOUR));
        let log = vec![desk.shown_by(&met, 0), unknown, again.clone(), Uploaded::Malformed, own, late, again];
        let finished = desk.upload_traced(&ill, log, traced);
        (finished, desk.told(&met), desk.told(&ill))
    };
    let (read_back, told, told_ill) = outcome(0);
    let UploadFinished::Complete { summary, .. } = read_back else { panic!("{read_back:?}") };
    assert_eq!(summary, UploadSummary { records: 7, resolved: 5, unknown: 1, invalid: 1 });
    assert_eq!((&*told, &*told_ill), (&[(0, HOUR + WINDOW)][..], &[][..]));
    for traced in 1..=7 {
        let (finished, told_now, told_ill_now) = outcome(traced);
        let UploadFinished::Complete { summary: now, report } = finished else { panic!("{finished:?}") };
        assert_eq!((now, told_now, told_ill_now), (summary, told.clone(), told_ill.clone()), "{traced} traced before");
        assert_eq!(report.unwrap().matches.shown().len(), 5);
    }
}

#[test]
fn who_withdraws_while_an_upload_is_stored_is_nobody_when_it_is_complete() {
    let desk = Desk::new();
    let (met, gone, ill) = (desk.member("met"), desk.member("gone"), desk.member("ill"));
    let log = vec![desk.shown_by(&met, 0), desk.shown_by(&gone, 0)];
    let (key, trace) = desk.begin(&ill, log.len(), &log);
    block_on(desk.authority.withdraw(&gone, at(UPLOADED))).unwrap();
    block_on(desk.authority.append_records(&ill, key, 0, log)).unwrap();
    let finished = block_on(desk.authority.finish_upload(&ill, key, trace, at(UPLOADED))).unwrap();
    let UploadFinished::Complete { summary, report } = finished else { panic!("{finished:?}") };
    assert_eq!(summary, UploadSummary { records: 2, resolved: 1, unknown: 1, invalid: 0 });
    assert_eq!(report.unwrap().matches.shown()[0].username, met.username);
}

#[test]
fn a_log_that_is_uploaded_again_alarms_nobody_again() {
    let desk = Desk::new();
    let (met, ill) = (desk.member("met"), desk.member("ill"));
    let log = vec![desk.shown_by(&met, 0), desk.shown_by(&met, HOUR), desk.shown_by(&met, 2 * HOUR)];
    desk.upload(&ill, vec![log[0].clone(), log[2].clone()]);
    assert_eq!(desk.told(&met), [(0, 2 * HOUR + WINDOW)]);
    desk.upload(&ill, log);
    assert_eq!(desk.told(&met).len(), 1, "what lies between has been told with the rest");
}

#[test]
fn of_a_longer_log_the_new_encounters_alone_are_told() {
    let desk = Desk::new();
    let (met, ill) = (desk.member("met"), desk.member("ill"));
    let mut log = vec![desk.shown_by(&met, 0)];
    desk.upload(&ill, log.clone());
    log.push(desk.shown_by(&met, HOUR));
    desk.upload(&ill, log);
    assert_eq!(desk.told(&met), [(0, WINDOW), (HOUR, HOUR + WINDOW)]);
}

#[test]
fn who_has_met_two_people_that_are_ill_is_told_after_each_ones_upload() {
    let desk = Desk::new();
    let met = desk.member("met");
    let log = vec![desk.shown_by(&met, 0)];
    for ill in ["one", "other"] {
        desk.upload(&desk.member(ill), log.clone());
    }
    assert_eq!(desk.told(&met).len(), 2);
}

struct Desk {
    authority: Authority,
}

impl Desk {
    fn new() -> Self {
        let policy = Policy { hash_cost: HashCost::INSECURE_FOR_SIMULATION, ..Policy::default() };
        let store = Arc::new(MemoryStore::new());
        Self { authority: Authority::new(store, Arc::new(InlinePool), policy, &MasterKey::new([7; 32]), [7; 32]) }
    }

    fn member(&self, name: &str) -> Member {
        let (username, password) = (Username::parse(name).unwrap(), || Password::parse("password").unwrap());
        assert!(block_on(self.authority.open_account(username.clone(), password(), at(0))).unwrap());
        let outcome = block_on(self.authority.login(username, password(), &Standing)).unwrap();
        let LoggedIn::Welcome(member) = outcome else { panic!("{outcome:?}") };
        member
    }

    fn upload(&self, member: &Member, records: Vec<Uploaded>) {
        let finished = self.upload_traced(member, records, 0);
        assert!(matches!(finished, UploadFinished::Complete { .. }), "{finished:?}");
    }

    /// Uploads records, of which so many are traced while they are stored.
    fn upload_traced(&self, member: &Member, records: Vec<Uploaded>, traced: usize) -> UploadFinished {
        let (key, trace) = self.begin(member, records.len(), &records[..traced]);
        block_on(self.authority.append_records(member, key, 0, records)).unwrap();
        block_on(self.authority.finish_upload(member, key, trace, at(UPLOADED))).unwrap()
    }

    /// Begins an upload of so many records, and traces some of them.
    fn begin(&self, member: &Member, records: usize, traced: &[Uploaded]) -> (UploadKey, UploadTrace) {
        let begin = BeginUpload { records: u32::try_from(records).unwrap(), upload: None, code: None };
        let outcome = block_on(self.authority.begin_upload(member, begin, at(UPLOADED))).unwrap();
        let UploadBegun::Open { key, .. } = outcome else { panic!("{outcome:?}") };
        let mut trace = UploadTrace::default();
        for record in traced {
            let one = std::slice::from_ref(record);
            block_on(self.authority.trace_upload(member, &mut trace, one, at(UPLOADED))).unwrap();
        }
        (key, trace)
    }

    /// A record of an id that a member shows from this second on, heard at once.
    fn shown_by(&self, member: &Member, start: i64) -> Uploaded {
        let record = block_on(self.authority.issue_temp_ids(member, 1, at(start))).unwrap().unwrap().remove(0);
        Uploaded::Record(UploadedRecord { record, received: Some(at(start)), rssi: None, seen: None })
    }

    /// The times in a member's notices.
    fn told(&self, member: &Member) -> Vec<(i64, i64)> {
        let notices = block_on(self.authority.unread_notices(member, None, at(UPLOADED))).unwrap().unwrap();
        notices.iter().map(|(_, notice)| (notice.from.as_unix(), notice.to.as_unix())).collect()
    }
}

const HOUR: i64 = 3_600;
/// From the first second of a window to its last.
const WINDOW: i64 = 899;
const UPLOADED: i64 = 4 * HOUR;

#[derive(Debug)]
struct Standing;

impl Clock for Standing {
    fn moment(&self) -> Moment {
        at(0).into()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).unwrap()
}
