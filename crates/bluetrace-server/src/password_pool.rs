//! Owns the threads on which passwords are hashed: [`ThreadPool`].
//!
//! A hash is 20 ms of pure computation. As many threads as cores do nothing else, so a storm of logins waits here in order
//! of arrival, and the tasks that move bytes go on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::{fmt, io};

use bluetrace_authority::passwords::{PasswordDone, PasswordPool, PasswordWork, PoolError, PoolFuture, Scratch};
use tokio::sync::oneshot;

use crate::limits::PASSWORD_QUEUE;

/// A fixed number of threads and a bounded queue in front of them. Work whose caller has gone is not done.
///
/// Dropping it ends the threads and waits for the pieces of work they are at.
pub struct ThreadPool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// Starts `threads` threads, at least one; as many as there are cores is right.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let mut pool = Self { queue: Arc::new(Queue::new(PASSWORD_QUEUE)), threads: Vec::new() };
        for _ in 0..threads.max(1) {
            let queue = Arc::clone(&pool.queue);
            pool.threads.push(thread::Builder::new().name("password".to_owned()).spawn(move || work(&queue))?);
        }
        Ok(pool)
    }

    /// How much work waits for a thread.
    pub fn waiting(&self) -> usize {
        self.queue.lock().jobs.len()
    }
}

impl PasswordPool for ThreadPool {
    fn run(&self, work: PasswordWork) -> PoolFuture<'_> {
        let (answer, receiver) = oneshot::channel();
        let pushed = self.queue.push(Job { work, answer });
        Box::pin(async move {
            pushed?;
            receiver.await.map_err(|_| PoolError::Closed)
        })
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // a worker catches the panics of its work, so there is nothing to learn from its end
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("threads", &self.threads.len())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

/// A worker's life.
fn work(queue: &Queue) {
    let mut scratch = Scratch::default();
    while let Some(Job { work, answer }) = queue.pop() {
        let done = catch_unwind(AssertUnwindSafe(|| work.perform(&mut scratch))).unwrap_or_else(|_| {
            scratch = Scratch::default();
            PasswordDone::Failed("the password hash panicked".to_owned())
        });
        // an error says that the caller has gone in the meantime
        let _ = answer.send(done);
    }
}

struct Job {
    work: PasswordWork,
    answer: oneshot::Sender<PasswordDone>,
}

/// The work that waits, oldest first. Invariant: `jobs.len() <= capacity`.
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    capacity: usize,
}

struct Waiting {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl Queue {
    fn new(capacity: usize) -> Self {
        let waiting = Waiting { jobs: VecDeque::new(), is_closed: false };
        Self { waiting: Mutex::new(waiting), arrived: Condvar::new(), capacity }
    }

    fn push(&self, job: Job) -> Result<(), PoolError> {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(PoolError::Closed);
        }
        if waiting.jobs.len() >= self.capacity {
            waiting.jobs.retain(|job| !job.answer.is_closed());
        }
        if waiting.jobs.len() >= self.capacity {
            return Err(PoolError::Full);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// The next piece of work that somebody still waits for, in time; `None` once the queue is closed.
    fn pop(&self) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if waiting.is_closed {
                return None;
            }
            match waiting.jobs.pop_front() {
                Some(job) if job.answer.is_closed() => {}
                Some(job) => return Some(job),
                None => waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Ends the workers. Whoever waits is told [`PoolError::Closed`].
    fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        waiting.jobs.clear();
        drop(waiting);
        self.arrived.notify_all();
    }

    /// Nothing that can panic happens under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bluetrace_authority::passwords::HashCost;
    use bluetrace_authority::store::Verdict;
    use bluetrace_protocol::Password;

    #[tokio::test]
    async fn two_hundred_logins_at_once_are_all_answered() {
        let pool = Arc::new(ThreadPool::start(2).unwrap());
        let Ok(PasswordDone::Hashed(hash)) = pool.run(hash_work("right")).await else { panic!("no hash") };
        let mut logins = tokio::task::JoinSet::new();
        for attempt in 0..200 {
            let (pool, hash) = (Arc::clone(&pool), hash.clone());
            logins.spawn(async move {
                let is_right = attempt % 3 == 0;
                let password = Password::parse(if is_right { "right" } else { "wrong" }).unwrap();
                let expected = if is_right { Verdict::Right } else { Verdict::Wrong };
                match pool.run(PasswordWork::verify(password, hash)).await {
                    Ok(PasswordDone::Verified(verdict)) => assert_eq!(verdict, expected),
                    other => panic!("{other:?}"),
                }
            });
        }
        assert_eq!(logins.join_all().await.len(), 200);
    }

    #[test]
    fn work_beyond_the_queue_is_refused() {
        let queue = Queue::new(2);
        let kept: Vec<_> = (0..2).map(|_| push(&queue).unwrap()).collect();
        assert_eq!(push(&queue).err(), Some(PoolError::Full));
        queue.pop().unwrap();
        push(&queue).unwrap();
        drop(kept);
    }

    #[test]
    fn work_whose_caller_has_gone_is_passed_over_and_makes_room() {
        let queue = Queue::new(2);
        drop(push(&queue).unwrap());
        drop(push(&queue).unwrap());
        let third = push(&queue).unwrap();
        assert_eq!(queue.lock().jobs.len(), 1, "the two that nobody waits for made room");
        drop(push(&queue).unwrap());
        queue.pop().unwrap();
        drop(third);
        queue.close();
        assert!(queue.pop().is_none());
    }

    #[tokio::test]
    async fn closing_answers_whoever_waits() {
        let queue = Queue::new(2);
        let waiting = push(&queue).unwrap();
        queue.close();
        assert!(waiting.await.is_err());
        assert_eq!(push(&queue).err(), Some(PoolError::Closed));
    }

    fn push(queue: &Queue) -> Result<oneshot::Receiver<PasswordDone>, PoolError> {
        let (answer, receiver) = oneshot::channel();
        queue.push(Job { work: hash_work("x"), answer }).map(|()| receiver)
    }

    fn hash_work(password: &str) -> PasswordWork {
        PasswordWork::hash(Password::parse(password).unwrap(), [1; 16], HashCost::INSECURE_FOR_SIMULATION)
    }
}
