//! Owns the connections to the database and who may use them ([`Pool`]): a bounded number of connections, a bounded line of
//! those who wait for one, and what is done when the database is away.
//!
//! A line that is full, or in which somebody has waited too long, is answered [`StoreError::Unavailable`]: callers are pushed back,
//! and nothing grows. The first who finds the database away tells it to all who come within [`REFUSAL`] after; then the next one
//! tries again, so that nothing need be done when it is back.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bluetrace_authority::store::StoreError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::error::{Result, Trouble};
use super::ids::Ids;
use super::place::PostgresPlace;
use super::session::Session;

/// What may be set about a [`super::PostgresStore`].
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Most connections at once.
    pub connections: usize,
    /// Most calls that wait for a connection at once.
    pub max_waiting: usize,
    /// How long a call waits for a connection.
    pub patience: Duration,
    /// How long the database may take for one call.
    pub answer_timeout: Duration,
    /// How long each host may take for all of connecting.
    pub connect_timeout: Duration,
    /// Whether to refuse a database that does not write before it acknowledges. Tests have other needs.
    pub requires_durability: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            connections: 8,
            max_waiting: 1_000,
            patience: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            requires_durability: true,
        }
    }
}

/// How the statements of a call belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// They change nothing.
    Look,
    /// At most one changes anything, and is a transaction by itself.
    Statement,
    /// All of them are one transaction.
    Transaction,
}

/// What is done on a connection. It may be done several times, until one is committed.
pub(super) type Work<A, T> = for<'a> fn(&'a Session, &'a A) -> Attempt<'a, T>;

/// One time that it is done.
pub(super) type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Work with what it needs, and its answer once there is one.
pub(super) struct Call<A, T> {
    with: A,
    work: Work<A, T>,
    answer: Mutex<Option<T>>,
}

impl<A, T> Call<A, T> {
    pub(super) fn new(with: A, work: Work<A, T>) -> Self {
        Self { with, work, answer: Mutex::new(None) }
    }

    pub(super) fn take_answer(&self) -> Option<T> {
        locked(&self.answer).take()
    }
}

/// A [`Call`] without its types: what the pool does with it is compiled once, and not for each method of the store.
pub(super) trait Job: Send + Sync {
    fn attempt<'a>(&'a self, session: &'a Session) -> Attempt<'a, ()>;
}

impl<A: Send + Sync, T: Send> Job for Call<A, T> {
    fn attempt<'a>(&'a self, session: &'a Session) -> Attempt<'a, ()> {
        let work = (self.work)(session, &self.with);
        Box::pin(async move {
            let answer = work.await?;
            *locked(&self.answer) = Some(answer);
            Ok(())
        })
    }
}

/// The connections to a database.
pub(super) struct Pool {
    place: PostgresPlace,
    options: PostgresOptions,
    ids: Arc<Ids>,
    permits: Semaphore,
    idle: Mutex<Vec<Session>>,
    waiting: AtomicUsize,
    refusal: Mutex<Option<(Instant, String)>>,
    /// Whether there ever was a connection: who finds none at the start is told, and the log need not be.
    was_there: AtomicBool,
}

impl Pool {
    pub(super) fn new(place: PostgresPlace, options: PostgresOptions, ids: Ids) -> Self {
        let permits = Semaphore::new(options.connections.clamp(1, Semaphore::MAX_PERMITS));
        let (idle, waiting, refusal) = (Mutex::default(), AtomicUsize::default(), Mutex::default());
        Self { place, options, ids: Arc::new(ids), permits, idle, waiting, refusal, was_there: AtomicBool::default() }
    }

    /// How many calls wait for a connection.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Does work until it is committed, or cannot be.
    ///
    /// A connection that is lost is replaced once. If it was lost when the work may just have been committed, the whole of it is
    /// done again too: all work has the same end when it is done twice, and where its answer would be another, that is said at the work.
    pub(super) async fn perform(&self, manner: Manner, job: &dyn Job) -> std::result::Result<(), StoreError> {
        let mut meetings = 0;
        let mut losses = 0;
        loop {
            let trouble = match self.attempt(manner, job).await {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            if matches!(trouble, Trouble::Again) && meetings < MAX_MEETINGS {
                meetings += 1;
                // those who met do not come back at the same time
                let spread = self.ids.draw().unsigned_abs() % (1 << meetings.min(6));
                sleep(Duration::from_millis(spread)).await;
            } else if let Trouble::Lost(text) = &trouble
                && losses == 0
            {
                debug!(%text, "lost a connection to the database; trying once more");
                losses += 1;
                self.forget_idle();
            } else {
                return Err(trouble.into());
            }
        }
    }

    /// Forgets all idle connections, when what is under way has ended or `patience` is over.
    pub(super) async fn close(&self, patience: Duration) {
        let all = u32::try_from(self.options.connections).unwrap_or(u32::MAX);
        if let Ok(Ok(permits)) = timeout(patience, self.permits.acquire_many(all)).await {
            permits.forget();
        }
        self.permits.close();
        self.forget_idle();
    }

    async fn attempt(&self, manner: Manner, job: &dyn Job) -> Result<()> {
        let _permit = self.permit().await?;
        let session = self.session().await?;
        let until = tokio::time::Instant::now() + self.options.answer_timeout;
        let trouble = match timeout_at(until, do_on(&session, manner, job)).await {
            Ok(Ok(())) => {
                self.give_back(session);
                return Ok(());
            }
            Ok(Err(trouble)) => trouble,
            Err(_) => {
                session.abandon().await;
                return Err(Trouble::Unavailable("the database does not answer in time".into()));
            }
        };
        if matches!(trouble, Trouble::Lost(_)) || session.is_closed() {
            return Err(trouble);
        }
        let is_clean = match manner {
            Manner::Look | Manner::Statement => Ok(true),
            Manner::Transaction => timeout_at(until, session.batch("ROLLBACK")).await.map(|outcome| outcome.is_ok()),
        };
        match is_clean {
            Ok(true) => self.give_back(session),
            Ok(false) => {}
            Err(_) => session.abandon().await,
        }
        Err(trouble)
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        let closed = || Trouble::Unavailable("the store is closed".into());
        match self.permits.try_acquire() {
            Ok(permit) => return Ok(permit),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(closed()),
            Err(tokio::sync::TryAcquireError::NoPermits) => {}
        }
        let _place = Place::take(&self.waiting, self.options.max_waiting)?;
        match timeout(self.options.patience, self.permits.acquire()).await {
            Ok(permit) => permit.map_err(|_| closed()),
            Err(_) => Err(Trouble::Unavailable("the database is too busy; try again".into())),
        }
    }

    async fn session(&self) -> Result<Session> {
        while let Some(session) = locked(&self.idle).pop() {
            if !session.is_closed() {
                return Ok(session);
            }
        }
        let refused = locked(&self.refusal).clone();
        if let Some((_, text)) = refused.as_ref().filter(|(since, _)| since.elapsed() < REFUSAL) {
            return Err(Trouble::Unavailable(text.clone()));
        }
        match Session::open(&self.place, &self.options, &self.ids).await {
            Ok(session) => {
                let was_there = self.was_there.swap(true, Ordering::Relaxed);
                if locked(&self.refusal).take().is_some() && was_there {
                    info!("the database is back");
                }
                Ok(session)
            }
            Err(trouble) => {
                let text = StoreError::from(trouble).to_string();
                let text = text.strip_prefix("the store is unavailable: ").unwrap_or(&text).to_owned();
                let is_news = locked(&self.refusal).replace((Instant::now(), text.clone())).is_none();
                if is_news && self.was_there.load(Ordering::Relaxed) {
                    warn!(store = %self.place, "the database is away: {text}");
                }
                Err(Trouble::Unavailable(text))
            }
        }
    }

    fn give_back(&self, session: Session) {
        if !self.permits.is_closed() {
            locked(&self.idle).push(session);
        }
    }

    /// If one connection is lost, others probably lead nowhere, too.
    fn forget_idle(&self) {
        let idle = std::mem::take(&mut *locked(&self.idle));
        drop(idle);
    }
}

async fn do_on(session: &Session, manner: Manner, job: &dyn Job) -> Result<()> {
    if manner != Manner::Transaction {
        return job.attempt(session).await;
    }
    // who dies half-way through holds nobody's rows for long; an explicit level, whatever the database's default is
    session
        .batch("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = 20000")
        .await?;
    job.attempt(session).await?;
    session.batch("COMMIT").await
}

/// A place in the line of those who wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Result<Self> {
        // who is refused does not count meanwhile, so that he takes nobody else's place
        let taken =
            waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
        match taken {
            Ok(_) => Ok(Self(waiting)),
            Err(_) => Err(Trouble::Unavailable("too many wait for the database; try again".into())),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // nobody panics half-way through a change of what is in there
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For how long a database that could not be reached is not tried again.
const REFUSAL: Duration = Duration::from_millis(250);

/// How often work that meets other work is done again.
const MAX_MEETINGS: u32 = 20;
