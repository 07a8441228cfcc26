//! A device of a load does one thing after the other, whatever its authority lets wait.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bluetrace_protocol::{
    Clock, ContactLogEntry, Moment, Password, Record, TempId, Timestamp, UploadId, UploadSummary, Username, Window,
};
use rand::SeedableRng as _;
use rand::rngs::ChaCha12Rng;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::device::{Beginning, LoadDevice};
use super::link::{Account, Failure, Link, Standing, Then};
use super::tally::Measured;
use super::{LoadPlan, LoadProtocol, Shared};
use crate::servers::Servers;
use crate::uplink::Transport;

#[tokio::test(start_paused = true)]
async fn temp_ids_that_are_refused_for_now_are_asked_for_again_before_anything_is_uploaded() {
    let shared = shared();
    let (_stopping, stop) = watch::channel(false);
    let beginning = Beginning {
        account: Arc::new(Account {
            username: Username::parse("alice").unwrap(),
            password: Password::parse("waratah").unwrap(),
        }),
        generator: ChaCha12Rng::from_seed([1; 32]),
        first_upload: Instant::now(),
        stop,
    };
    LoadDevice::new(Arc::clone(&shared), LimitedLink { is_refused: true }, beginning).run().await;
    let results = shared.tally.snapshot();
    assert_eq!((results.temp_ids, results.uploads, results.records, results.confirmed), (1, 1, 5, 1));
    assert_eq!(results.errors.into_iter().collect::<Vec<_>>(), [("rate_limited".to_owned(), 1)]);
}

/// A way to an authority that refuses the first question for `TempIDs`, and takes everything else.
struct LimitedLink {
    is_refused: bool,
}

impl Link for LimitedLink {
    fn has_session(&self) -> bool {
        false
    }

    async fn enter(&mut self, _: &Account) -> Result<Measured, Failure> {
        Ok(Measured::Login)
    }

    async fn temp_ids(&mut self, _: u32) -> Result<Vec<Record>, Failure> {
        if std::mem::take(&mut self.is_refused) {
            return Err(Failure { why: "rate_limited".into(), then: Then::AskAgain(Duration::from_secs(1)) });
        }
        let temp_id = TempId::parse("00000000000000000001").unwrap();
        Ok(vec![Record { temp_id, window: Window::new(now(), now().plus(899)).unwrap() }])
    }

    async fn upload(
        &mut self,
        _: &UploadId,
        records: &Arc<[ContactLogEntry]>,
        _: impl FnMut(u32) + Send,
    ) -> Result<UploadSummary, Failure> {
        Ok(UploadSummary { records: records.len().try_into().unwrap(), ..UploadSummary::default() })
    }

    async fn standing(&mut self, _: &UploadId, blanks: &Arc<[ContactLogEntry]>) -> Result<Standing, Failure> {
        Ok(Standing { durable: blanks.len().try_into().unwrap(), is_complete: true })
    }

    async fn leave(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn lost(&mut self) -> Failure {
        std::future::pending().await
    }

    fn close(&mut self) {}
}

/// What a device has of a load of one upload of five records.
fn shared() -> Arc<Shared> {
    let plan = LoadPlan {
        servers: Servers::parse("127.0.0.1", 4000).unwrap(),
        protocol: LoadProtocol::Http,
        transport: Transport::Tls,
        data_dir: "unused".into(),
        accounts: Vec::new(),
        devices: 1,
        records: 5,
        temp_ids: 1,
        uploads: Some(1),
        duration: None,
        every: Duration::ZERO,
        logins_at_once: 1,
        clock: Arc::new(StoppedClock),
        seed: [2; 32],
    };
    Arc::new(Shared {
        plan,
        tally: Arc::default(),
        heard: Mutex::default(),
        blanks: OnceLock::new(),
        logins: Semaphore::new(1),
        sent: Mutex::default(),
        ends_at: None,
    })
}

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn moment(&self) -> Moment {
        now().into()
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix(1_589_392_446).unwrap()
}
