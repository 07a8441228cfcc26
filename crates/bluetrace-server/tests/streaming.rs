//! A streamed upload is stored while its later lines are read, and still nothing is acknowledged before it is durable.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers fail as their tests do")]

#[expect(dead_code, reason = "sockets are for the others")]
mod support;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bluetrace_authority::passwords::{HashCost, InlinePool};
use bluetrace_authority::store::Store;
use bluetrace_authority::{Authority, MasterKey, Policy};
use bluetrace_protocol::limits::MAX_RECORD_BATCH;
use bluetrace_protocol::{Clock, Moment, Password, Timestamp, Username};
use bluetrace_server::complaints::Complaints;
use bluetrace_server::connection::{self, Shared};
use bluetrace_server::console::Console;
use bluetrace_server::limits::Limits;
use bluetrace_server::listener::Peer;
use bluetrace_server::shutdown::shutdown_channel;
use bluetrace_server::sqlite::{SqliteOptions, SqliteStore};
use tokio::io::duplex;
use tokio::time::Instant;

use support::LineClient;

const RECORDS: u32 = 30_000;

#[tokio::test]
async fn who_streams_hears_how_far_it_has_come_batch_by_batch() {
    let folder = tempfile::tempdir().unwrap();
    let answers = Server::open(folder.path(), None).await.stream(0).await;
    let batch = u32::try_from(MAX_RECORD_BATCH).unwrap();
    let expected: Vec<u32> = answers.iter().map(|answer| expected_by(answer)).collect();
    let steps = (0..=RECORDS / batch).map(|done| RECORDS - done * batch).chain([0]);
    assert_eq!(expected, steps.collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_full_disk_does_not_take_is_not_acknowledged_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let small = Server::open(folder.path(), Some(300)).await;
    let mut answers = small.stream(0).await;
    let last = answers.pop().unwrap();
    assert!(last.contains("\"code\":\"unavailable\""), "{last}");
    let acknowledged = RECORDS - expected_by(answers.last().unwrap());
    assert!(acknowledged > 0, "there was room for some");
    let durable = small.durable().await;
    assert!(acknowledged <= durable && durable < RECORDS, "{acknowledged}, {durable}");
    drop(small);

    let large = Server::open(folder.path(), None).await;
    let answers = large.stream(durable).await;
    assert_eq!(expected_by(&answers[0]), RECORDS - durable);
    let last = answers.last().unwrap();
    assert!(last.contains(&format!("\"records\":{RECORDS}")), "{last}");
}

/// A server without sockets, and one account.
struct Server {
    store: Arc<SqliteStore>,
    shared: Arc<Shared>,
}

impl Server {
    async fn open(folder: &Path, max_pages: Option<u32>) -> Self {
        let options = SqliteOptions { max_pages, ..SqliteOptions::default() };
        let store = Arc::new(SqliteStore::open_with(&folder.join("authority.sqlite"), options).unwrap());
        let policy = Policy { hash_cost: HashCost::INSECURE_FOR_SIMULATION, ..Policy::default() };
        let (key, pool) = (MasterKey::new([7; 32]), Arc::new(InlinePool));
        let authority = Arc::new(Authority::new(store.clone(), pool, policy, &key, [7; 32]));
        let (alice, password) = (Username::parse("alice").unwrap(), Password::parse("waratah").unwrap());
        // the account is there already after a restart
        authority.open_account(alice, password, Noon.now()).await.unwrap();
        let console = Console::start(Box::new(io::sink())).unwrap();
        let shared = Shared {
            authority,
            clock: Arc::new(Noon),
            console,
            limits: Limits::default(),
            complaints: Complaints::default(),
        };
        Self { store, shared: Arc::new(shared) }
    }

    /// Sends a login, the begin of an upload and its records from `first` on, all before the server reads the first byte.
    /// Returns the answers to begin and records.
    async fn stream(&self, first: u32) -> Vec<String> {
        let (near, far) = duplex(16 << 20);
        let mut client = LineClient::over(near);
        client.send("alice\nwaratah\n").await;
        client.send(format!("{{\"commandType\":\"UC\",\"numOfSend\":{RECORDS},\"upload\":\"long\"}}\n")).await;
        for place in first..RECORDS {
            let following = RECORDS - 1 - place;
            let record = format!("{place:020}, 13/05/2020 17:54:06, 13/05/2020 18:09:05");
            client.send(format!("{{\"commandType\":\"UC\",\"numOfSend\":{following},\"data\":\"{record}\"}}\n")).await;
        }
        client.send("{\"commandType\":\"LO\"}\n").await;
        let peer = Peer { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), connected: Instant::now() };
        let (_switch, shutdown) = shutdown_channel();
        let serving = tokio::spawn(connection::serve(far, peer, Arc::clone(&self.shared), shutdown));
        let answers = client.rest().await;
        drop(client);
        serving.await.unwrap();
        let answers = answers.into_iter().skip(2);
        answers.filter(|answer| !answer.contains("\"LO\"")).collect()
    }

    async fn durable(&self) -> u32 {
        self.store.uploads(None, 1, Noon.now()).await.unwrap()[0].durable
    }
}

/// `numOfRecv` of an answer to an upload.
fn expected_by(answer: &str) -> u32 {
    let (_, rest) = answer.split_once("\"numOfRecv\":").unwrap_or_else(|| panic!("{answer}"));
    rest.split(|character: char| !character.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A clock that stands still.
#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn moment(&self) -> Moment {
        Timestamp::from_unix(1_589_371_200).unwrap().into()
    }
}
