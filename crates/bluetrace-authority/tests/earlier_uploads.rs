//! What an upload costs that comes after another of the same account: it is compared with as much of that as befits its own length.
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
fn a_short_upload_is_not_compared_with_all_of_a_long_one_and_a_long_one_is() {
    let desk = Desk::new();
    let (met, ill) = (desk.member("met"), desk.member("ill"));
    let record = block_on(desk.authority.issue_temp_ids(&met, 1, at(0))).unwrap().unwrap().remove(0);
    let heard = Uploaded::Record(UploadedRecord { record, received: None, rssi: None, seen: None });
    // what was heard is the last of it
    let after = |filler: usize| {
        let mut records = vec![Uploaded::Malformed; filler];
        records.push(heard.clone());
        records
    };
    desk.upload(&ill, after(100_000));
    assert_eq!(desk.notices(&met), 1);
    desk.upload(&ill, after(100_000));
    assert_eq!(desk.notices(&met), 1, "as long as the earlier one: that is read to its end, and nobody is told again");
    // the newest is looked at first, so that one is to be out of the way
    desk.upload(&ill, vec![Uploaded::Malformed; 60_000]);
    desk.upload(&ill, after(0));
    assert_eq!(desk.notices(&met), 2, "one record does not have 260,000 read");
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
        let outcome = block_on(self.authority.begin_upload(member, begin, at(60))).unwrap();
        let UploadBegun::Open { key, .. } = outcome else { panic!("{outcome:?}") };
        block_on(self.authority.append_records(member, key, 0, records)).unwrap();
        let finished = block_on(self.authority.finish_upload(member, key, at(60))).unwrap();
        assert!(matches!(finished, UploadFinished::Complete { .. }), "{finished:?}");
    }

    fn notices(&self, member: &Member) -> usize {
        block_on(self.authority.unread_notices(member, None, at(60))).unwrap().unwrap().len()
    }
}

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
