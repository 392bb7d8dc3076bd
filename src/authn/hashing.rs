//! Threads for password hashing, apart from those that serve requests.
//!
//! A hash occupies a core for up to a second, and anybody may send wrong passwords. So there are
//! as many threads as cores, they give way to every other thread, and the queue before them is
//! bounded: a flood of logins makes logins slow, then refused as [`Failure::Busy`], but never
//! slows those requests that need no hash.

use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Failure;

/// Jobs that may wait, for each thread. At bcrypt's usual cost of 10 all of them are done within
/// [`LONGEST_WAIT`]; more would only wait to be refused.
const QUEUE_PER_THREAD: usize = 64;
/// How long a caller waits for a result.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How much less of a busy core a hashing thread gets: about a tenth.
const NICENESS: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and the queue before them. Dropping it ends them after the jobs they are at.
pub struct HashingPool {
    shared: Arc<Shared>,
    longest_wait: Duration,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    limit: usize,
    jobs_run: AtomicU64,
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

    fn with(threads: usize, limit: usize, longest_wait: Duration) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            limit,
            jobs_run: AtomicU64::new(0),
        });
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(format!("hashing-{number}"));
            if let Err(error) = thread.spawn(move || shared.work()) {
                tracing::error!(%error, "no thread to hash passwords on");
            }
        }
        Self {
            shared,
            longest_wait,
        }
    }

    /// Runs `work` on one of the threads. It is not run, or its result is lost, when the caller
    /// drops this future.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, result) = oneshot::channel();
        let shared = Arc::downgrade(&self.shared);
        self.shared.submit(Box::new(move || {
            if reply.is_closed() {
                return;
            }
            if let Some(shared) = shared.upgrade() {
                shared.jobs_run.fetch_add(1, Ordering::Relaxed);
            }
            // The caller may have left in the meantime.
            reply.send(work()).unwrap_or_default();
        }))?;
        match timeout(self.longest_wait, result).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_no_result)) => Err(Failure::Crashed),
            Err(_elapsed) => Err(Failure::Busy),
        }
    }

    /// How many jobs have been begun, for the metrics.
    pub fn jobs_run(&self) -> u64 {
        self.shared.jobs_run.load(Ordering::Relaxed)
    }
}

impl Drop for HashingPool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing is run under the lock that could leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, job: Job) -> Result<(), Failure> {
        let mut queue = self.lock();
        if queue.jobs.len() >= self.limit {
            return Err(Failure::Busy);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.changed.notify_one();
        Ok(())
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
        let queue = self.changed.wait_while(self.lock(), empty);
        queue
            .unwrap_or_else(PoisonError::into_inner)
            .jobs
            .pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::{HashingPool, NICENESS};
    use crate::authn::Failure;

    const LONG: Duration = Duration::from_mins(10);

    /// A pool whose only thread is at a job until the sender is dropped.
    async fn occupied(
        limit: usize,
        longest_wait: Duration,
    ) -> (Arc<HashingPool>, mpsc::Sender<()>) {
        let pool = Arc::new(HashingPool::with(1, limit, longest_wait));
        let (release, released) = mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        pool.shared
            .submit(Box::new(move || {
                begun.send(()).unwrap();
                released.recv().unwrap_err();
            }))
            .unwrap();
        has_begun.await.unwrap();
        (pool, release)
    }

    #[tokio::test]
    async fn results_come_back() {
        let pool = HashingPool::start();
        assert_eq!(pool.run(|| 6 * 7).await, Ok(42));
        assert_eq!(pool.jobs_run(), 1);
    }

    #[tokio::test]
    async fn threads_are_named_and_give_way() {
        let pool = HashingPool::start();
        let before = rustix::process::getpriority_process(None).unwrap();
        let (name, priority) = pool
            .run(|| {
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
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(|| 1).await }
        });
        while pool.shared.lock().jobs.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| 2).await, Err(Failure::Busy));
        drop(release);
        assert_eq!(waiting.await.unwrap(), Ok(1));
        assert_eq!(pool.run(|| 3).await, Ok(3));
    }

    #[tokio::test]
    async fn a_long_wait_is_busy_and_the_job_skipped() {
        let (pool, release) = occupied(2, Duration::from_millis(1)).await;
        assert_eq!(pool.run(|| 1).await, Err(Failure::Busy));
        drop(release);
        let (done, is_done) = tokio::sync::oneshot::channel();
        pool.shared
            .submit(Box::new(move || done.send(()).unwrap()))
            .unwrap();
        is_done.await.unwrap();
        assert_eq!(pool.jobs_run(), 0);
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_left_is_skipped() {
        let (pool, release) = occupied(2, LONG).await;
        let caller = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(|| 1).await }
        });
        while pool.shared.lock().jobs.is_empty() {
            tokio::task::yield_now().await;
        }
        caller.abort();
        caller.await.unwrap_err();
        drop(release);
        assert_eq!(pool.run(|| 2).await, Ok(2));
        assert_eq!(pool.jobs_run(), 1);
    }

    #[tokio::test]
    async fn a_panic_costs_one_answer_and_no_thread() {
        let pool = HashingPool::with(1, 8, LONG);
        let answer = pool.run(|| -> u8 { panic!("of the test") }).await;
        assert_eq!(answer, Err(Failure::Crashed));
        assert_eq!(pool.run(|| 2).await, Ok(2));
    }

    #[tokio::test]
    async fn threads_end_with_the_pool() {
        let (pool, release) = occupied(8, LONG).await;
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        drop(release);
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
