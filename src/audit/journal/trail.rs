//! The trail: numbers records, queues them for each sink, and acknowledges them.
//!
//! One lock. Closing a record chains it and appends it to the queue of each sink; a sink's thread takes
//! all pending lines at once (group commit). A waiting request is acknowledged as soon as all required
//! sinks have its record, or one of them fails or hangs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::audit::record::event::{Event, Outcome};
use crate::audit::record::fields::Fields;

use super::batch::{Batch, Retarget};
use super::chain::{ChainKey, Link};
use super::error::AuditError;
use super::sign::{CHECKPOINT_EVERY, Signer};
use crate::limit::Place;

/// Bytes kept for a failing sink; records beyond that are counted as lost.
const MAX_PENDING: usize = 16 << 20;
/// Commit window for records that no request waits for. To wake a thread for each record costs more than
/// everything else about it; a lingering thread needs no waking. A process that is killed loses the
/// records of at most this window.
const COMMIT_WINDOW: Duration = Duration::from_millis(5);
/// Time from a record to the checkpoint that covers it, at most.
const CHECKPOINT_AFTER: Duration = Duration::from_mins(1);

pub(in crate::audit) type Ack = oneshot::Sender<Result<(), AuditError>>;

/// The trail, shared by all threads.
#[derive(Debug)]
pub(in crate::audit) struct Trail {
    state: Mutex<State>,
    failing: AtomicBool,
    refused: AtomicU64,
}

#[derive(Debug)]
struct State {
    link: Link,
    key: ChainKey,
    signer: Option<Arc<Signer>>,
    /// Records since the last checkpoint, and when the first of them was written.
    unsigned: u64,
    unsigned_since: Option<Instant>,
    queues: Vec<SinkQueue>,
    waiting: VecDeque<Waiting>,
    timeout: Duration,
    /// Records that found no room and never became part of the chain.
    lost: u64,
    line: String,
}

#[derive(Debug)]
struct Waiting {
    seq: u64,
    ack: Option<Ack>,
    #[expect(dead_code, reason = "held for its Drop")]
    place: Option<Place>,
}

/// The queue of a sink.
#[derive(Debug)]
struct SinkQueue {
    name: &'static str,
    required: bool,
    pending: String,
    flush: FlushState,
    /// Bytes of the batch that its thread is writing.
    in_hand: usize,
    /// The last record that it has written.
    written: u64,
    busy: Option<Instant>,
    failing: Option<Failing>,
    lost: u64,
    retargets: VecDeque<Retarget>,
    is_ending: bool,
    wake: Arc<Condvar>,
}

/// The state of a sink's thread, as to pending lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlushState {
    /// Sleeps until it is woken; nothing is pending.
    Idle,
    /// Takes them at the end of the commit window.
    Lingering,
    /// Takes them at once: a request waits.
    Now,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    why: String,
    lost_before: u64,
}

/// The state of a sink, for metrics and status.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SinkState {
    /// `file`, `stdout` or `syslog`.
    pub name: &'static str,
    /// True if requests are refused while it fails.
    pub required: bool,
    /// The cause of its failure, if it fails.
    pub failing: Option<String>,
    /// Records that it never got.
    pub lost: u64,
}

impl Trail {
    pub(in crate::audit) fn new(link: Link, key: ChainKey, timeout: Duration) -> Arc<Self> {
        let state = State {
            link,
            key,
            signer: None,
            unsigned: 0,
            unsigned_since: None,
            queues: Vec::new(),
            waiting: VecDeque::new(),
            timeout,
            lost: 0,
            line: String::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            failing: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        })
    }

    /// A new sink; its number, for its thread.
    pub(in crate::audit) fn add(&self, name: &'static str, required: bool) -> usize {
        let mut state = self.state.lock();
        let written = state.link.last();
        state.queues.push(SinkQueue {
            name,
            required,
            pending: String::new(),
            flush: FlushState::Lingering,
            in_hand: 0,
            written,
            busy: None,
            failing: None,
            lost: 0,
            retargets: VecDeque::new(),
            is_ending: false,
            wake: Arc::default(),
        });
        state.queues.len().saturating_sub(1)
    }

    /// Gives a sink another destination.
    pub(in crate::audit) fn retarget(&self, id: usize, required: bool, retarget: Retarget) {
        let mut state = self.state.lock();
        if let Some(queue) = state.queues.get_mut(id) {
            queue.required = required;
            queue.retargets.push_back(retarget);
            queue.wake.notify_all();
        }
        self.update_failing(&mut state);
    }

    /// Ends a sink.
    pub(in crate::audit) fn end(&self, id: usize) {
        let mut state = self.state.lock();
        if let Some(queue) = state.queues.get_mut(id) {
            queue.required = false;
            queue.is_ending = true;
            queue.failing = None;
            queue.wake.notify_all();
        }
        self.update_failing(&mut state);
    }

    /// Takes another key, signer and time-out; a changed key is recorded.
    pub(in crate::audit) fn rekey(
        &self,
        key: ChainKey,
        signer: Option<Arc<Signer>>,
        timeout: Duration,
    ) {
        let mut state = self.state.lock();
        state.timeout = timeout;
        if state.key != key {
            state.key = key;
            state.record_key();
        }
        state.signer = signer;
        state.checkpoint();
    }

    /// Records the key with which the chain continues.
    pub(in crate::audit) fn record_key(&self) {
        self.state.lock().record_key();
    }

    /// Chains a record and queues it for every sink.
    pub(in crate::audit) fn write(&self, fields: &str, place: Option<Place>, ack: Option<Ack>) {
        let mut state = self.state.lock();
        let failing = self.failing();
        let answer = if failing && state.is_full() {
            state.lost = state.lost.saturating_add(1);
            Some(Err(AuditError::Unwritable))
        } else {
            state.append(fields);
            failing.then_some(Err(AuditError::Unwritable))
        };
        if let Some(answer) = answer {
            drop(state);
            // The request may be gone.
            let _gone = ack.is_some_and(|ack| ack.send(answer).is_err());
        } else {
            if ack.is_some() {
                state.flush_now();
            }
            let seq = state.link.last();
            state.waiting.push_back(Waiting { seq, ack, place });
            state.acknowledge();
        }
    }

    /// Records an event of the trail itself.
    pub(in crate::audit) fn record_event(&self, event: Event, outcome: Outcome, reason: &str) {
        self.state.lock().record_event(event, outcome, reason);
    }

    /// Records that the trail begins at a later record, and signs that. Returns the number of the last record;
    /// `None` if there is no such record, yet or any more, or no room.
    pub(in crate::audit) fn prune(&self, first: u64, reason: &str) -> Option<u64> {
        let mut state = self.state.lock();
        let is_later = first >= state.link.first && first <= state.link.last();
        if !is_later || state.is_full() {
            return None;
        }
        state.link.first = first;
        let mut fields = Fields::of_our_own(Event::Prune, Outcome::Allowed, reason);
        fields.first = Some(first);
        state.append(&fields.write());
        state.checkpoint();
        state.flush_now();
        Some(state.link.last())
    }

    /// Returns true if a sink has written everything up to a record.
    pub(in crate::audit) fn has_written(&self, id: usize, seq: u64) -> bool {
        let state = self.state.lock();
        let queue = state.queues.get(id);
        queue.is_some_and(|queue| queue.written >= seq)
    }

    /// The first record that the trail is supposed to have.
    pub(in crate::audit) fn first(&self) -> u64 {
        self.state.lock().link.first
    }

    /// Signs all records that are not signed yet.
    pub(in crate::audit) fn sign(&self) {
        self.state.lock().checkpoint();
    }

    /// Waits until the batch of a sink's thread has lines, or the sink is retargeted. `None` when the sink
    /// is ending.
    pub(in crate::audit) fn next(&self, id: usize, batch: &mut Batch) -> Option<Vec<Retarget>> {
        let mut state = self.state.lock();
        let wake = Arc::clone(&state.queues.get(id)?.wake);
        if batch.is_empty() {
            linger(&mut state, id, &wake);
        }
        loop {
            let first = state.link.first;
            let queue = state.queues.get_mut(id)?;
            if batch.is_empty() && !queue.pending.is_empty() {
                queue.flush = FlushState::Lingering;
                *batch = Batch::new(std::mem::take(&mut queue.pending), first);
                queue.in_hand = batch.len();
            }
            if !batch.is_empty() || !queue.retargets.is_empty() {
                if !batch.is_empty() {
                    queue.busy.get_or_insert_with(Instant::now);
                }
                return Some(queue.retargets.drain(..).collect());
            }
            if queue.is_ending {
                return None;
            }
            queue.flush = FlushState::Idle;
            wake.wait(&mut state);
            linger(&mut state, id, &wake);
        }
    }

    /// Waits for some time, or until the sink is retargeted. Returns false when the sink is ending.
    pub(in crate::audit) fn pause(&self, id: usize, time: Duration) -> bool {
        let mut state = self.state.lock();
        let Some(wake) = state.queues.get(id).map(|queue| Arc::clone(&queue.wake)) else {
            return false;
        };
        let idle = |state: &mut State| {
            let queue = state.queues.get(id);
            queue.is_some_and(|queue| queue.retargets.is_empty() && !queue.is_ending)
        };
        wake.wait_while_for(&mut state, idle, time);
        state.queues.get(id).is_some_and(|queue| !queue.is_ending)
    }

    /// Notes that a sink has written everything up to a record.
    pub(in crate::audit) fn wrote(&self, id: usize, seq: u64) {
        let mut state = self.state.lock();
        let Some(queue) = state.queues.get_mut(id) else {
            return;
        };
        queue.written = seq;
        queue.in_hand = 0;
        queue.busy = None;
        if let Some(failing) = queue.failing.take() {
            self.recovered(&mut state, id, &failing);
        }
        state.acknowledge();
    }

    fn recovered(&self, state: &mut State, id: usize, failing: &Failing) {
        let Some(queue) = state.queues.get(id) else {
            return;
        };
        let (name, required) = (queue.name, queue.required);
        let mut lost = queue.lost.saturating_sub(failing.lost_before);
        let mut refused = 0;
        self.update_failing(state);
        if required && !self.failing() {
            lost = lost.saturating_add(std::mem::take(&mut state.lost));
            refused = self.refused.swap(0, Ordering::Relaxed);
        }
        let seconds = failing.since.elapsed().as_secs();
        tracing::warn!(
            sink = name,
            seconds,
            lost,
            refused,
            "the audit sink can be written again"
        );
        let outcome = if lost == 0 {
            Outcome::Allowed
        } else {
            Outcome::Error
        };
        let reason = format!(
            "the audit {name} could not be written for a while ({seconds} s: {}); {refused} requests \
             refused, {lost} records lost",
            failing.why
        );
        state.record_event(Event::Audit, outcome, &reason);
    }

    /// Notes that a sink fails, which is retried until it does not.
    pub(in crate::audit) fn failed(&self, id: usize, why: &str) {
        let mut state = self.state.lock();
        self.fail(&mut state, id, why);
    }

    fn fail(&self, state: &mut State, id: usize, why: &str) {
        let Some(queue) = state.queues.get_mut(id) else {
            return;
        };
        if queue.failing.is_some() || queue.is_ending {
            return;
        }
        queue.failing = Some(Failing {
            since: Instant::now(),
            why: why.to_owned(),
            lost_before: queue.lost,
        });
        let (name, required) = (queue.name, queue.required);
        tracing::error!(
            sink = name,
            required,
            why,
            "the audit sink cannot be written"
        );
        self.update_failing(state);
        if !self.failing() {
            let reason = format!("the audit {name} cannot be written: {why}");
            state.record_event(Event::Audit, Outcome::Error, &reason);
        }
    }

    /// Updates whether a required sink fails, and answers waiting requests accordingly.
    fn update_failing(&self, state: &mut State) {
        let failing = state
            .queues
            .iter()
            .any(|queue| queue.required && queue.failing.is_some());
        self.failing.store(failing, Ordering::Relaxed);
        if failing {
            for waiting in state.waiting.drain(..) {
                // The request may be gone.
                let _gone = waiting
                    .ack
                    .is_some_and(|ack| ack.send(Err(AuditError::Unwritable)).is_err());
            }
        } else {
            state.acknowledge();
        }
    }

    /// Marks hanging sinks as failing, and signs old records.
    pub(in crate::audit) fn tick(&self, now: Instant) {
        let mut state = self.state.lock();
        let timeout = state.timeout;
        let since = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| now.duration_since(at));
        let hangs = |queue: &SinkQueue| queue.failing.is_none() && since(queue.busy) >= timeout;
        let hanging: Vec<_> = (0..state.queues.len())
            .filter(|id| state.queues.get(*id).is_some_and(hangs))
            .collect();
        for id in hanging {
            let why = format!("it has taken nothing for {} ms", timeout.as_millis());
            self.fail(&mut state, id, &why);
        }
        if since(state.unsigned_since) >= CHECKPOINT_AFTER {
            state.checkpoint();
        }
    }

    /// Returns true if a required sink fails.
    pub(in crate::audit) fn failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Counts a request that is refused because a required sink fails.
    pub(in crate::audit) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::audit) fn timeout(&self) -> Duration {
        self.state.lock().timeout
    }

    /// The state of each sink.
    pub(in crate::audit) fn sinks(&self) -> Vec<SinkState> {
        let state = self.state.lock();
        let wanted = state.queues.iter().filter(|queue| !queue.is_ending);
        wanted
            .map(|queue| SinkState {
                name: queue.name,
                required: queue.required,
                failing: queue.failing.as_ref().map(|failing| failing.why.clone()),
                lost: queue
                    .lost
                    .saturating_add(if queue.required { state.lost } else { 0 }),
            })
            .collect()
    }

    /// Returns true if every sink that works or is required has written everything.
    pub(in crate::audit) fn is_drained(&self) -> bool {
        let state = self.state.lock();
        let mut wanted = state
            .queues
            .iter()
            .filter(|queue| !queue.is_ending && (queue.required || queue.failing.is_none()));
        wanted.all(|queue| queue.pending.is_empty() && queue.in_hand == 0)
    }

    /// Records that a required sink does not have; they are lost when the process ends.
    pub(in crate::audit) fn unwritten(&self) -> u64 {
        let state = self.state.lock();
        let required = state.queues.iter().filter(|queue| queue.required);
        let behind = required.map(|queue| state.link.last().saturating_sub(queue.written));
        behind.max().unwrap_or(0).saturating_add(state.lost)
    }
}

impl State {
    fn append(&mut self, fields: &str) {
        self.chain(fields);
        if self.signer.is_some() {
            self.unsigned = self.unsigned.saturating_add(1);
            self.unsigned_since.get_or_insert_with(Instant::now);
            if self.unsigned >= CHECKPOINT_EVERY.saturating_sub(1) {
                self.checkpoint();
            }
        }
    }

    fn checkpoint(&mut self) {
        let Some(signer) = &self.signer else { return };
        let last = self.link.last();
        if last == 0 {
            return;
        }
        let Some(checkpoint) = signer.checkpoint(last, &self.link.hash) else {
            tracing::error!("a checkpoint of the audit trail could not be signed");
            return;
        };
        let reason = format!(
            "everything up to record {last}, signed with {}",
            signer.name()
        );
        self.chain(&Fields::of_checkpoint(checkpoint, &reason).write());
        self.unsigned = 0;
        self.unsigned_since = None;
    }

    /// Has all pending lines written at once.
    fn flush_now(&mut self) {
        for queue in &mut self.queues {
            queue.flush = FlushState::Now;
            queue.wake.notify_all();
        }
    }

    /// Answers the requests whose records all required sinks have.
    fn acknowledge(&mut self) {
        let required = self.queues.iter().filter(|queue| queue.required);
        let safe = required
            .map(|queue| queue.written)
            .min()
            .unwrap_or(u64::MAX);
        while self.waiting.front().is_some_and(|first| first.seq <= safe) {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            // The request may be gone.
            let _gone = waiting.ack.is_some_and(|ack| ack.send(Ok(())).is_err());
        }
    }

    fn record_event(&mut self, event: Event, outcome: Outcome, reason: &str) {
        self.append(&Fields::of_our_own(event, outcome, reason).write());
    }

    fn record_key(&mut self) {
        let reason = match self.key.name() {
            Some(name) => format!("the chain goes on with key {name}"),
            None => "the chain goes on without a key".to_owned(),
        };
        self.record_event(Event::Rekey, Outcome::Allowed, &reason);
    }

    /// Appends a line to the chain and to every queue that has room. A record that a required sink has no
    /// room for is not chained, see [`Self::is_full`]; other sinks may lose some, and count them.
    fn chain(&mut self, fields: &str) {
        self.line.clear();
        self.link.append(&self.key, fields, &mut self.line);
        for queue in &mut self.queues {
            if queue.is_ending {
                continue;
            }
            if !queue.required && queue.held() >= MAX_PENDING {
                queue.lost = queue.lost.saturating_add(1);
                continue;
            }
            queue.pending.push_str(&self.line);
            if queue.flush == FlushState::Idle {
                queue.flush = FlushState::Lingering;
                queue.wake.notify_all();
            }
        }
    }

    fn is_full(&self) -> bool {
        let mut required = self.queues.iter().filter(|queue| queue.required);
        required.any(|queue| queue.held() >= MAX_PENDING)
    }
}

/// Waits for the end of the commit window, or until a request waits.
fn linger(state: &mut MutexGuard<'_, State>, id: usize, wake: &Condvar) {
    let may = |state: &mut State| state.queues.get(id).is_some_and(SinkQueue::may_linger);
    wake.wait_while_for(state, may, COMMIT_WINDOW);
}

impl SinkQueue {
    fn may_linger(&self) -> bool {
        self.flush != FlushState::Now && self.retargets.is_empty() && !self.is_ending
    }

    fn held(&self) -> usize {
        self.pending.len().saturating_add(self.in_hand)
    }
}
