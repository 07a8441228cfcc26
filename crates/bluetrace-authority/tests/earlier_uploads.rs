//! Who is told what after uploads that hold the same encounters.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers fail as their tests do")]

use std::sync::Arc;

use bluetrace_authority::accounts::LoggedIn;
use bluetrace_authority::conformance::block_on;
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::UploadBegun;
use bluetrace_authority::uploads::UploadFinished;
use bluetrace_authority::{Authority, MasterKey, Member, Policy};
use bluetrace_protocol::message::BeginUpload;
use bluetrace_protocol::{Clock, Moment, Password, Timestamp, Uploaded, UploadedRecord, Username};

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
        let begin = BeginUpload { records: u32::try_from(records.len()).unwrap(), upload: None, code: None };
        let outcome = block_on(self.authority.begin_upload(member, begin, at(UPLOADED))).unwrap();
        let UploadBegun::Open { key, .. } = outcome else { panic!("{outcome:?}") };
        block_on(self.authority.append_records(member, key, 0, records)).unwrap();
        let finished = block_on(self.authority.finish_upload(member, key, at(UPLOADED))).unwrap();
        assert!(matches!(finished, UploadFinished::Complete { .. }), "{finished:?}");
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
