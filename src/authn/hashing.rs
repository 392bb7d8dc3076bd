//! Threads for password hashing, apart from those that serve requests.
//!
//! A hash occupies a core for up to a second, and anybody may send wrong passwords. So there are
//! as many threads as cores, they give way to every other thread, and the queue before them is
//! bounded and fair between sources: a flood of logins makes the logins of its own source slow, then
//! refused as [`Failure::Busy`], but never slows those requests that need no hash.

use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Failure;
use crate::limit::{Claimant, Shared, Usage};

/// Callers who may wait, for each thread. At bcrypt's usual cost of 10 all of them are done within
/// [`LONGEST_WAIT`]; more would only wait to be refused.
const QUEUE_PER_THREAD: usize = 64;
/// How long a caller waits for a thread and for its result.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How much less of a busy core a hashing thread gets: about a tenth.
const NICENESS: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and the queue before them. Dropping it ends them after the jobs they are at.
pub struct HashingPool {
    /// A place for each thread: what waits for one waits here, by source.
    threads: Arc<Shared>,
    jobs: Arc<Jobs>,
    longest_wait: Duration,
}

/// Jobs that have a thread, or get one in a moment.
struct Jobs {
    queue: Mutex<Queue>,
    changed: Condvar,
    run: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl HashingPool {
    /// Starts a thread for each core.
    pub fn start() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::with(cores, cores.saturating_mul(QUEUE_PER_THREAD), LONGEST_WAIT)
    }

    fn with(threads: usize, room: usize, longest_wait: Duration) -> Self {
        let jobs = Arc::new(Jobs {
            queue: Mutex::default(),
            changed: Condvar::new(),
            run: AtomicU64::new(0),
        });
        for number in 0..threads {
            let jobs = Arc::clone(&jobs);
            let thread = thread::Builder::new().name(format!("hashing-{number}"));
            if let Err(error) = thread.spawn(move || jobs.work()) {
                tracing::error!(%error, "no thread to hash passwords on");
            }
        }
        Self {
            threads: Shared::new(threads, room),
            jobs,
            longest_wait,
        }
    }

    /// Runs `work` on one of the threads. It is not run, or its result is lost, when the caller
    /// drops this future.
    pub async fn run<T: Send + 'static>(
        &self,
        whom: Claimant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let answer = timeout(self.longest_wait, self.run_in_turn(whom, work));
        answer.await.unwrap_or(Err(Failure::Busy))
    }

    async fn run_in_turn<T: Send + 'static>(
        &self,
        whom: Claimant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let thread = self.threads.acquire(whom).await;
        let thread = thread.map_err(|_crowded| Failure::Busy)?;
        let (reply, result) = oneshot::channel();
        let jobs = Arc::downgrade(&self.jobs);
        self.jobs.submit(Box::new(move || {
            // The thread is taken until the hash is done, also when the caller has left.
            let _thread = thread;
            if reply.is_closed() {
                return;
            }
            if let Some(jobs) = jobs.upgrade() {
                jobs.run.fetch_add(1, Ordering::Relaxed);
            }
            reply.send(work()).unwrap_or_default();
        }));
        result.await.map_err(|_no_result| Failure::Crashed)
    }

    /// How many jobs have been begun, for the metrics.
    pub fn jobs_run(&self) -> u64 {
        self.jobs.run.load(Ordering::Relaxed)
    }

    /// How the threads are used.
    pub fn usage(&self) -> Usage {
        self.threads.usage()
    }
}

impl Drop for HashingPool {
    fn drop(&mut self) {
        let mut queue = self.jobs.queue.lock();
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.jobs.changed.notify_all();
    }
}

impl Jobs {
    fn submit(&self, job: Job) {
        self.queue.lock().jobs.push_back(job);
        self.changed.notify_one();
    }

    /// The life of one thread.
    fn work(&self) {
        // On Linux this concerns the calling thread alone.
        if let Err(error) = rustix::process::nice(NICENESS) {
            tracing::warn!(%error, "hashing threads have the priority of all others");
        }
        while let Some(job) = self.next() {
            // A job that panics drops its caller's channel, and the thread goes on.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a hashing job panicked");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let empty = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
        let mut queue = self.queue.lock();
        self.changed.wait_while(&mut queue, empty);
        queue.jobs.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::task::JoinHandle;

    use super::{HashingPool, NICENESS};
    use crate::authn::Failure;
    use crate::limit::Claimant;

    const LONG: Duration = Duration::from_mins(10);

    fn stranger(number: u8) -> Claimant {
        Claimant::stranger(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
    }

    /// A pool whose only thread is at a job of the first source until the sender is dropped.
    async fn occupied(room: usize, longest_wait: Duration) -> (Arc<HashingPool>, mpsc::Sender<()>) {
        let pool = Arc::new(HashingPool::with(1, room, longest_wait));
        let (release, released) = mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let job = pool.threads.try_acquire(stranger(1)).unwrap();
        pool.jobs.submit(Box::new(move || {
            let _thread = job;
            begun.send(()).unwrap();
            released.recv().unwrap_err();
        }));
        has_begun.await.unwrap();
        (pool, release)
    }

    /// Puts a job in line that answers with a number.
    async fn waiting(
        pool: &Arc<HashingPool>,
        whom: Claimant,
        answer: u32,
    ) -> JoinHandle<Result<u32, Failure>> {
        let before = pool.usage().waits;
        let waiting = tokio::spawn({
            let pool = Arc::clone(pool);
            async move { pool.run(whom, move || answer).await }
        });
        while pool.usage().waits == before {
            tokio::task::yield_now().await;
        }
        waiting
    }

    #[tokio::test]
    async fn results_come_back() {
        let pool = HashingPool::start();
        assert_eq!(pool.run(stranger(1), || 6 * 7).await, Ok(42));
        assert_eq!(pool.jobs_run(), 1);
    }

    #[tokio::test]
    async fn threads_are_named_and_give_way() {
        let pool = HashingPool::start();
        let before = rustix::process::getpriority_process(None).unwrap();
        let (name, priority) = pool
            .run(stranger(1), || {
                let name = std::thread::current().name().map(str::to_owned);
                (
                    name.unwrap(),
                    rustix::process::getpriority_process(None).unwrap(),
                )
            })
            .await
            .unwrap();
        assert!(name.starts_with("hashing-"), "{name}");
        assert_eq!(priority, (before + NICENESS).min(19));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }

    #[tokio::test]
    async fn a_full_queue_is_busy_at_once() {
        let (pool, release) = occupied(1, LONG).await;
        let first = waiting(&pool, stranger(1), 1).await;
        assert_eq!(pool.run(stranger(1), || 2).await, Err(Failure::Busy));
        drop(release);
        assert_eq!(first.await.unwrap(), Ok(1));
        assert_eq!(pool.run(stranger(1), || 3).await, Ok(3));
    }

    #[tokio::test]
    async fn who_fills_the_queue_makes_room_for_others() {
        let (pool, release) = occupied(8, LONG).await;
        let mut flood = Vec::new();
        for number in 0..8 {
            flood.push(waiting(&pool, stranger(number % 2), number.into()).await);
        }
        let other = waiting(&pool, stranger(9), 9).await;
        let known = Claimant::proven(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let known = waiting(&pool, known, 10).await;
        drop(release);
        assert_eq!(other.await.unwrap(), Ok(9));
        assert_eq!(known.await.unwrap(), Ok(10));
        let mut refused = 0;
        for waiting in flood {
            refused += u32::from(waiting.await.unwrap() == Err(Failure::Busy));
        }
        assert_eq!(refused, 2);
    }

    #[tokio::test]
    async fn a_long_wait_is_busy_and_the_job_skipped() {
        let (pool, release) = occupied(2, Duration::from_millis(1)).await;
        assert_eq!(pool.run(stranger(1), || 1).await, Err(Failure::Busy));
        drop(release);
        while pool.usage().taken > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.jobs_run(), 0);
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_left_is_skipped() {
        let (pool, release) = occupied(2, LONG).await;
        let caller = waiting(&pool, stranger(1), 1).await;
        caller.abort();
        caller.await.unwrap_err();
        drop(release);
        assert_eq!(pool.run(stranger(1), || 2).await, Ok(2));
        assert_eq!(pool.jobs_run(), 1);
    }

    #[tokio::test]
    async fn a_thread_is_taken_until_the_hash_is_done() {
        let pool = Arc::new(HashingPool::with(1, 8, LONG));
        let (release, released) = mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let caller = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move {
                let work = move || {
                    begun.send(()).unwrap();
                    released.recv().unwrap_err();
                };
                pool.run(stranger(1), work).await
            }
        });
        has_begun.await.unwrap();
        caller.abort();
        caller.await.unwrap_err();
        assert_eq!(pool.usage().taken, 1);
        drop(release);
        assert_eq!(pool.run(stranger(1), || 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_costs_one_answer_and_no_thread() {
        let pool = HashingPool::with(1, 8, LONG);
        let answer = pool.run(stranger(1), || -> u8 { panic!("of the test") });
        assert_eq!(answer.await, Err(Failure::Crashed));
        assert_eq!(pool.run(stranger(1), || 2).await, Ok(2));
    }

    #[tokio::test]
    async fn threads_end_with_the_pool() {
        let (pool, release) = occupied(8, LONG).await;
        let jobs = Arc::downgrade(&pool.jobs);
        drop(pool);
        drop(release);
        while jobs.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
