//! Owns the threads that talk to SQLite: [`Workers`], of which a store has two: one thread that writes, and a few that read.
//!
//! A call waits for room in the queue, then for its answer; it never blocks the thread that polls it. The writer
//! takes all that is waiting into one transaction and answers only after the commit: the busier it is, the larger its
//! groups, and no timer is needed.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bluetrace_authority::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::error::{JobError, TransactionError};
use super::open::{Access, Database, Files, OpenError};

/// A queue with the threads that serve it.
pub(super) struct Workers {
    /// Rows that may still be queued.
    room: Arc<Semaphore>,
    /// Rows that may be queued in all.
    capacity: usize,
    queue: Mutex<Option<Sender<Queued>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// One thread that writes.
    pub(super) fn writer(database: &Database) -> Result<Self, OpenError> {
        let (workers, queue) = Self::new(WRITER_QUEUE_ROWS);
        let mut worker = Worker { database: database.clone(), access: Access::Write, connection: None, files: None };
        worker.open()?;
        workers.spawn(database, "store-writer", move || write_in_groups(worker, &queue))?;
        Ok(workers)
    }

    /// A few threads that read, each with a connection of its own.
    pub(super) fn readers(database: &Database) -> Result<Self, OpenError> {
        let (workers, queue) = Self::new(READER_QUEUE_CALLS);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..READERS {
            let mut worker = Worker { database: database.clone(), access: Access::Read, connection: None, files: None };
            worker.open()?;
            let queue = Arc::clone(&queue);
            workers.spawn(database, "store-reader", move || read_one_by_one(worker, &queue))?;
        }
        Ok(workers)
    }

    /// Runs `work` in a transaction on one of the threads, and returns its answer once it is durable.
    ///
    /// `rows` is about how many rows it carries. `work` may be run more than once, each time after a rollback.
    pub(super) async fn run<T, F>(&self, rows: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, JobError> + Send + 'static,
    {
        self.enqueue(rows, Manner::InTransaction, work).await
    }

    async fn enqueue<T, F>(&self, rows: usize, manner: Manner, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, JobError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.queue(rows, Box::new(Task { work, manner, outcome: None, reply })).await?;
        answer.await.map_err(|_| closed())?
    }

    /// Queues a job once there is room for its rows.
    async fn queue(&self, rows: usize, job: Box<dyn Job>) -> Result<(), StoreError> {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX).clamp(1, WRITER_QUEUE_ROWS);
        let room = Arc::clone(&self.room).acquire_many_owned(rows).await.map_err(|_| closed())?;
        let queue = lock(&self.queue);
        queue.as_ref().ok_or_else(closed)?.send(Queued { job, room }).map_err(|_| closed())
    }

    /// Runs `work` by itself and outside a transaction, for what SQLite does not do within one.
    pub(super) async fn run_between<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, JobError> + Send + 'static,
    {
        self.enqueue(1, Manner::Between, work).await
    }

    /// Finishes what is queued and ends the threads. Blocks meanwhile. Later calls fail.
    pub(super) fn close(&self) {
        self.room.close();
        drop(lock(&self.queue).take());
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // a thread that panicked has nothing left to finish
            let _panicked = thread.join();
        }
    }

    /// How many rows are queued.
    pub(super) fn queued(&self) -> usize {
        self.capacity.saturating_sub(self.room.available_permits())
    }

    fn new(room: u32) -> (Self, Receiver<Queued>) {
        let (sender, queue) = channel();
        let capacity = usize::try_from(room).unwrap_or(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(capacity));
        (Self { room, capacity, queue: Mutex::new(Some(sender)), threads: Mutex::new(Vec::new()) }, queue)
    }

    fn spawn(&self, database: &Database, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = thread::Builder::new().name(name.into()).spawn(work);
        let thread = thread.map_err(|source| OpenError::File { path: database.path.clone(), source })?;
        lock(&self.threads).push(thread);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("room", &self.room.available_permits()).finish_non_exhaustive()
    }
}

/// Takes all that is waiting, commits it as one, answers, and begins again.
fn write_in_groups(mut worker: Worker, queue: &Receiver<Queued>) {
    while let Ok(first) = queue.recv() {
        let waiting = std::iter::once(first).chain(std::iter::from_fn(|| queue.try_recv().ok()));
        // the rooms of a group are held until it is whole, which bounds it
        let (mut jobs, rooms): (Vec<_>, Vec<_>) = waiting.map(|Queued { job, room }| (job, room)).unzip();
        drop(rooms);
        let between: Vec<_> = jobs.extract_if(.., |job| job.manner() == Manner::Between).collect();
        let outcome = if jobs.is_empty() { Ok(()) } else { worker.transact(&mut jobs) };
        let is_of_one_job = outcome.as_ref().is_err_and(|error| !error.affects_every_job) && jobs.len() > 1;
        for job in jobs {
            if is_of_one_job {
                // the others must not suffer for it
                worker.finish_alone(job);
            } else {
                job.finish(outcome.as_ref().err().cloned());
            }
        }
        for job in between {
            worker.finish_alone(job);
        }
    }
}

fn read_one_by_one(mut worker: Worker, queue: &Mutex<Receiver<Queued>>) {
    loop {
        let next = lock(queue).recv();
        let Ok(Queued { job, room }) = next else { break };
        drop(room);
        worker.finish_alone(job);
    }
}

/// A thread's connection.
struct Worker {
    database: Database,
    access: Access,
    /// `None` after trouble with the file: the next job opens it again.
    connection: Option<Connection>,
    /// Where the connection writes to.
    files: Option<Files>,
}

impl Worker {
    fn open(&mut self) -> Result<(), OpenError> {
        self.connection = Some(self.database.open(self.access)?);
        self.files = self.database.files();
        Ok(())
    }

    /// Runs the jobs in one transaction: all or none.
    fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), TransactionError> {
        if self.connection.is_none() {
            self.open().map_err(|error| TransactionError::opening(&error))?;
        }
        // a deleted file takes what is written to it as ever; but nobody will find it there
        if self.access == Access::Write && (self.files.is_none() || self.database.files() != self.files) {
            return Err(TransactionError::missing_file(&self.database.path));
        }
        let Some(connection) = self.connection.take() else {
            return Err(TransactionError::missing_file(&self.database.path));
        };
        let outcome = all_or_none(&connection, self.access, jobs);
        let outcome = outcome.map_err(|error| TransactionError::new(&error, &self.database.path));
        if !outcome.as_ref().is_err_and(|error| error.needs_reopening) {
            self.connection = Some(connection);
        }
        outcome
    }

    fn finish_alone(&mut self, job: Box<dyn Job>) {
        let mut jobs = [job];
        let error = self.transact(&mut jobs).err();
        let [job] = jobs;
        job.finish(error);
    }
}

fn all_or_none(connection: &Connection, access: Access, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    if let [job] = jobs
        && job.manner() == Manner::Between
    {
        return job.run(connection);
    }
    let begin = match access {
        Access::Write => "BEGIN IMMEDIATE",
        Access::Read => "BEGIN",
    };
    let outcome = connection
        .prepare_cached(begin)
        .and_then(|mut begin| begin.execute([]))
        .and_then(|_| jobs.iter_mut().try_for_each(|job| job.run(connection)))
        .and_then(|()| connection.prepare_cached("COMMIT")?.execute([]));
    if outcome.is_err() && !connection.is_autocommit() {
        connection.prepare_cached("ROLLBACK")?.execute([])?;
    }
    outcome.map(|_| ())
}

struct Queued {
    job: Box<dyn Job>,
    room: OwnedSemaphorePermit,
}

/// How a call wants to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// In a transaction, together with others.
    InTransaction,
    /// Alone, and in none.
    Between,
}

/// A call that is waiting.
trait Job: Send {
    /// How it is to be run.
    fn manner(&self) -> Manner;
    /// Does the work, and keeps the answer. Only an error of SQLite's fails it.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Gives the answer, or the error, to the caller.
    fn finish(self: Box<Self>, error: Option<TransactionError>);
}

struct Task<T, F> {
    work: F,
    manner: Manner,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Task<T, F>
where
    T: Send,
    F: Fn(&Connection) -> Result<T, JobError> + Send,
{
    fn manner(&self) -> Manner {
        self.manner
    }

    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.outcome = Some(match (self.work)(connection) {
            Ok(answer) => Ok(answer),
            Err(JobError::Failed(text)) => Err(StoreError::Failed(text.into())),
            Err(JobError::Sql(error)) => return Err(error),
        });
        Ok(())
    }

    fn finish(self: Box<Self>, error: Option<TransactionError>) {
        let outcome = match error {
            Some(error) => Err(error.into()),
            None => self.outcome.unwrap_or_else(|| Err(closed())),
        };
        // a caller that has gone away does not wait for it
        let _gone = self.reply.send(outcome);
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // what the mutexes of this file guard is whole at every moment
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows that may wait to be written: as many again may be on their way into the database. Larger groups are hardly
/// faster, and those who wait for the next one would notice.
const WRITER_QUEUE_ROWS: u32 = 16_384;

/// Calls that may wait to read.
const READER_QUEUE_CALLS: u32 = 4_096;

/// Threads that read: one may resolve a large upload while the others serve logins.
const READERS: usize = 3;
