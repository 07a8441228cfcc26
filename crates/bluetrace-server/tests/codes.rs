//! How a server that requires upload codes behaves, with each store behind it: over in-memory pipes, on a clock that stands
//! until a test moves it.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers fail as their tests do")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bluetrace_authority::codes::{CodeOrder, CodeOrdered};
use bluetrace_authority::memory::MemoryStore;
use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::{CodeForm, CodeState, Store};
use bluetrace_authority::{Authority, MasterKey, Policy};
use bluetrace_protocol::{Clock, Moment, Password, Username};
use bluetrace_server::complaints::Complaints;
use bluetrace_server::connection::{self, Shared};
use bluetrace_server::console::Console;
use bluetrace_server::limits::Limits;
use bluetrace_server::listener::Peer;
use bluetrace_server::shutdown::{ShutdownSwitch, shutdown_channel};
use bluetrace_server::sqlite::SqliteStore;
use serde_json::{Value, json};
use support::LineClient;
use tokio::io::{DuplexStream, duplex};
use tokio::time::Instant;

const ALICE: &str = "+61410999999";
const BOB: &str = "+61410888888";

#[tokio::test]
async fn without_a_valid_code_no_record_is_stored() {
    on_each_store(async |server| {
        let code = server.issue(CodeForm::Eight).await;
        let mut client = server.login(ALICE).await;
        for wrong in [None, Some("CCCC-CCCC"), Some(code.get(..8).unwrap())] {
            assert_eq!(client.begin("u", wrong).await, "upload_not_authorised", "{wrong:?}");
            assert_eq!(client.record(1).await["data"]["code"], "no_upload");
        }
        assert_eq!(server.authority.store().uploads(None, 9, server.clock.now()).await.unwrap(), []);
        assert_eq!(client.begin("u", Some(&code)).await, "2 expected");
        assert_eq!(client.record(1).await["numOfRecv"], 1);
    })
    .await;
}

#[tokio::test]
async fn a_code_is_redeemed_for_one_upload_of_one_account_and_survives_its_expiry_and_sessions() {
    on_each_store(async |server| {
        let code = server.issue(CodeForm::Six).await;
        let mut client = server.login(ALICE).await;
        assert_eq!(client.begin("u", Some(&code)).await, "2 expected");
        assert_eq!(client.record(1).await["numOfRecv"], 1);
        drop(client);
        server.clock.advance_s(2 * 60 * 60);
        let mut other = server.login(BOB).await;
        assert_eq!(other.begin("u", Some(&code)).await, "upload_not_authorised");
        let mut client = server.login(ALICE).await;
        for _ in 0..20 {
            assert_eq!(client.begin("u", Some(&code)).await, "1 expected");
        }
        assert_eq!(client.record(0).await["data"]["records"], 2);
        assert_eq!(client.begin("u", Some(&code)).await, "0 expected", "it is complete, and says so");
        for _ in 0..9 {
            assert_eq!(client.begin("v", Some(&code)).await, "upload_not_authorised", "used");
        }
        let rows = server.authority.store().upload_codes(None, 9, server.clock.now()).await.unwrap();
        assert!(matches!(&rows[..], [row] if matches!(row.state, CodeState::Used { .. })), "{rows:?}");
    })
    .await;
}

#[tokio::test]
async fn a_code_expires_to_the_second() {
    on_each_store(async |server| {
        for (wait_s, answer) in [(15 * 60 - 1, "2 expected"), (15 * 60, "upload_not_authorised")] {
            let code = server.issue(CodeForm::Six).await;
            server.clock.advance_s(wait_s);
            let mut client = server.login(ALICE).await;
            assert_eq!(client.begin(&format!("after-{wait_s}"), Some(&code)).await, answer);
        }
    })
    .await;
}

#[tokio::test]
async fn the_sixth_wrong_code_within_an_hour_is_not_looked_at_nor_is_the_right_one() {
    on_each_store(async |server| {
        let code = server.issue(CodeForm::Eight).await;
        let mut client = server.login(ALICE).await;
        for place in 0..5 {
            let guess = format!("CCCC-CCC{}", place + 2);
            assert_eq!(client.begin("u", Some(&guess)).await, "upload_not_authorised");
            server.clock.advance_s(60);
        }
        for guess in ["CCCC-CCC9", code.as_str()] {
            assert_eq!(client.begin("u", Some(guess)).await, "rate_limited");
        }
        assert_eq!(client.begin("u", None).await, "upload_not_authorised");
        assert_eq!(server.login(BOB).await.begin("u", Some("CCCC-CCC2")).await, "upload_not_authorised");
        server.clock.advance_s(55 * 60 - 1);
        assert_eq!(client.begin("u", Some(&code)).await, "rate_limited");
        server.clock.advance_s(1);
        assert_eq!(client.begin("u", Some(&code)).await, "2 expected");
    })
    .await;
}

#[tokio::test]
async fn a_redeemed_code_and_counted_guesses_survive_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::on(sqlite(folder.path())).await;
    let (code, other) = (server.issue(CodeForm::Eight).await, server.issue(CodeForm::Eight).await);
    let mut client = server.login(ALICE).await;
    assert_eq!(client.begin("u", Some(&code)).await, "2 expected");
    let mut guesser = server.login(BOB).await;
    for guess in ["1", "2", "3", "4", "5"] {
        assert_eq!(guesser.begin("u", Some(guess)).await, "upload_not_authorised");
    }
    let pin = client.pin().await;
    drop((client, guesser, server));
    server = Server::on(sqlite(folder.path())).await;
    let mut client = server.login(ALICE).await;
    assert_eq!(client.begin("u", Some(&code)).await, "2 expected");
    assert_eq!(client.pin().await, pin);
    assert_eq!(server.login(BOB).await.begin("u", Some(&other)).await, "rate_limited");
}

#[tokio::test]
async fn two_servers_show_the_same_pin_until_it_ends_and_then_another() {
    let folder = tempfile::tempdir().unwrap();
    let one = Server::on(sqlite(folder.path())).await;
    let other = Server::on(sqlite(folder.path())).await;
    let (mut here, mut there) = (one.login(ALICE).await, other.login(ALICE).await);
    let (pin, expires) = here.pin().await;
    for server in [&one, &other] {
        server.clock.advance_s(10 * 60 - 1);
    }
    assert_eq!(there.pin().await, (pin.clone(), expires.clone()));
    let shown = other.authority.handshake_pin_of(Username::parse(ALICE).unwrap(), other.clock.now()).await.unwrap();
    assert_eq!(shown.map(|(shown, ends)| (shown.reveal().to_owned(), ends.to_string())), Some((pin.clone(), expires)));
    assert_ne!(other.login(BOB).await.pin().await.0, pin, "another person's is another");
    for server in [&one, &other] {
        server.clock.advance_s(1);
    }
    let next = there.pin().await;
    assert_ne!(next.0, pin);
    assert_eq!(here.pin().await, next);
}

#[tokio::test]
async fn a_removed_account_is_shown_no_pin() {
    on_each_store(async |server| {
        let mut client = server.login(ALICE).await;
        assert!(server.authority.store().remove_account(Username::parse(ALICE).unwrap()).await.unwrap());
        assert_eq!(client.ask(&json!({"commandType": "PN"})).await["data"]["code"], "no_account");
        assert_eq!(client.0.line().await, None);
    })
    .await;
}

/// An authority that requires codes, with two accounts.
struct Server {
    authority: Arc<Authority>,
    clock: Arc<TestClock>,
    shared: Arc<Shared>,
    _switch: ShutdownSwitch,
    shutdown: bluetrace_server::shutdown::Shutdown,
}

async fn on_each_store(test: impl AsyncFn(Server)) {
    test(Server::on(Arc::new(MemoryStore::new())).await).await;
    let folder = tempfile::tempdir().unwrap();
    test(Server::on(sqlite(folder.path())).await).await;
}

fn sqlite(folder: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(&folder.join("authority.sqlite")).unwrap())
}

impl Server {
    async fn on(store: Arc<dyn Store>) -> Self {
        static NEXT_SEED: AtomicI64 = AtomicI64::new(1);
        let seed = [u8::try_from(NEXT_SEED.fetch_add(1, Ordering::Relaxed)).unwrap(); 32];
        let hash_cost = HashCost::INSECURE_FOR_SIMULATION;
        let policy = Policy { hash_cost, require_upload_codes: true, ..Policy::default() };
        let authority = Arc::new(Authority::new(store, Arc::new(InlinePool), policy, &MasterKey::new([7; 32]), seed));
        let clock = Arc::new(TestClock(AtomicI64::new(1_589_392_446_000)));
        for username in [ALICE, BOB] {
            let (username, password) = (Username::parse(username).unwrap(), Password::parse("waratah").unwrap());
            authority.open_account(username, password, clock.now()).await.unwrap();
        }
        let shared = Arc::new(Shared {
            authority: Arc::clone(&authority),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            console: Console::none(),
            limits: Limits::default(),
            complaints: Complaints::default(),
        });
        let (switch, shutdown) = shutdown_channel();
        Self { authority, clock, shared, _switch: switch, shutdown }
    }

    async fn login(&self, username: &str) -> Client {
        let (near, far) = duplex(4 * 1_024);
        let peer = Peer { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)), connected: Instant::now() };
        tokio::spawn(connection::serve(far, peer, Arc::clone(&self.shared), self.shutdown.clone()));
        let mut client = LineClient::over(near);
        client.send(format!("{username}\nwaratah\n")).await;
        assert!(client.line().await.unwrap().starts_with("331 "));
        assert!(client.line().await.unwrap().starts_with("230 "));
        Client(client)
    }

    async fn issue(&self, form: CodeForm) -> String {
        let (case, issued_by, valid_s) = ("case".to_owned(), "desk".to_owned(), form.usual_lifetime_s());
        let order = CodeOrder { form, case, issued_by, valid_s };
        match self.authority.issue_upload_code(order, self.clock.now()).await.unwrap() {
            CodeOrdered::Issued { code, .. } => code.reveal().to_owned(),
            CodeOrdered::TooManyLive { .. } => unreachable!("a few codes"),
        }
    }
}

struct Client(LineClient<DuplexStream>);

impl Client {
    async fn ask(&mut self, request: &Value) -> Value {
        self.0.send(format!("{request}\n")).await;
        serde_json::from_str(&self.0.line().await.unwrap()).unwrap()
    }

    /// Begins an upload of two records: how many are expected, or the code of the error.
    async fn begin(&mut self, upload: &str, code: Option<&str>) -> String {
        let mut request = json!({"commandType": "UC", "numOfSend": 2, "upload": upload});
        if let Some(code) = code {
            request["code"] = code.into();
        }
        let answer = self.ask(&request).await;
        match answer["commandType"].as_str().unwrap() {
            "ER" => answer["data"]["code"].as_str().unwrap().to_owned(),
            _ => format!("{} expected", answer["numOfRecv"]),
        }
    }

    async fn record(&mut self, following: u32) -> Value {
        let record = "12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05";
        self.ask(&json!({"commandType": "UC", "numOfSend": following, "data": record})).await
    }

    async fn pin(&mut self) -> (String, String) {
        let answer = self.ask(&json!({"commandType": "PN"})).await;
        let field = |name: &str| answer["data"][name].as_str().unwrap().to_owned();
        (field("pin"), field("expires"))
    }
}

/// A clock that a test moves, in Unix milliseconds.
#[derive(Debug)]
struct TestClock(AtomicI64);

impl TestClock {
    fn advance_s(&self, seconds: i64) {
        self.0.fetch_add(1_000 * seconds, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn moment(&self) -> Moment {
        Moment::from_unix_ms(self.0.load(Ordering::Relaxed)).unwrap()
    }
}
