//! Where records get their number, and who waits for which of them.
//!
//! One lock. Whoever closes a record chains it and lays it into the queue of each sink; each sink's
//! thread takes what has gathered there in one go (group commit). A request that waits is told as
//! soon as all required sinks have its record, or one of them fails or hangs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::audit::record::event::{Event, Outcome};
use crate::audit::record::fields::Fields;

use super::batch::{Batch, Retarget};
use super::chain::{ChainKey, Link};
use super::error::AuditError;
use super::sign::{CHECKPOINT_EVERY, Signer};
use crate::limit::Place;

/// Bytes kept for a sink that fails; what is more is counted.
const MAX_PENDING: usize = 16 << 20;
/// How long a sink's thread dozes before it takes what nobody waits for. To wake a thread for each
/// record costs more than everything else about it; while it dozes, nobody need wake it. A process
/// that is killed loses no more of its reads than this.
const COMMIT_WINDOW: Duration = Duration::from_millis(5);
/// A checkpoint is written so long after a record that none covers yet.
const CHECKPOINT_AFTER: Duration = Duration::from_mins(1);

pub(in crate::audit) type Ack = oneshot::Sender<Result<(), AuditError>>;

/// What all threads of the trail share.
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

/// The near side of a sink.
#[derive(Debug)]
struct SinkQueue {
    name: &'static str,
    required: bool,
    pending: String,
    flush: FlushState,
    /// Bytes that its thread has in hand.
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

/// When a sink's thread takes what is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlushState {
    /// It had nothing to do, and sleeps until it is woken.
    Idle,
    /// When records have gathered for a while.
    Lingering,
    /// At once: somebody waits.
    Now,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    why: String,
    lost_before: u64,
}

/// How a sink is, for metrics and status.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SinkState {
    /// `file`, `stdout` or `syslog`.
    pub name: &'static str,
    /// Whether requests are refused while it fails.
    pub required: bool,
    /// Why it fails, if it does.
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
        let mut state = self.state();
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

    /// Tells a sink to go on elsewhere.
    pub(in crate::audit) fn retarget(&self, id: usize, required: bool, retarget: Retarget) {
        let mut state = self.state();
        if let Some(queue) = state.queues.get_mut(id) {
            queue.required = required;
            queue.retargets.push_back(retarget);
            queue.wake.notify_all();
        }
        self.update_failing(&mut state);
    }

    /// Tells a sink that it is not wanted any more.
    pub(in crate::audit) fn end(&self, id: usize) {
        let mut state = self.state();
        if let Some(queue) = state.queues.get_mut(id) {
            queue.required = false;
            queue.is_ending = true;
            queue.failing = None;
            queue.wake.notify_all();
        }
        self.update_failing(&mut state);
    }

    /// Takes another key, signer and time-out; a record says so where the key is another one.
    pub(in crate::audit) fn rekey(
        &self,
        key: ChainKey,
        signer: Option<Arc<Signer>>,
        timeout: Duration,
    ) {
        let mut state = self.state();
        state.timeout = timeout;
        if state.key != key {
            state.key = key;
            state.record_key();
        }
        state.signer = signer;
        state.checkpoint();
    }

    /// Says with which key the chain goes on.
    pub(in crate::audit) fn record_key(&self) {
        self.state().record_key();
    }

    /// Chains a record and sends it on its way.
    pub(in crate::audit) fn write(&self, fields: &str, place: Option<Place>, ack: Option<Ack>) {
        let mut state = self.state();
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
            // Whoever waited may have gone.
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

    /// Writes what the trail has to say itself.
    pub(in crate::audit) fn record_event(&self, event: Event, outcome: Outcome, reason: &str) {
        self.state().record_event(event, outcome, reason);
    }

    /// Signs what is not signed yet.
    pub(in crate::audit) fn sign(&self) {
        self.state().checkpoint();
    }

    /// What a sink's thread does next: waits until there is something in hand, or an order. `None`
    /// when it is not wanted any more.
    pub(in crate::audit) fn next(&self, id: usize, batch: &mut Batch) -> Option<Vec<Retarget>> {
        let mut state = self.state();
        let wake = Arc::clone(&state.queues.get(id)?.wake);
        if batch.is_empty() {
            state = linger(state, id, &wake);
        }
        loop {
            let queue = state.queues.get_mut(id)?;
            if batch.is_empty() && !queue.pending.is_empty() {
                queue.flush = FlushState::Lingering;
                *batch = Batch::new(std::mem::take(&mut queue.pending));
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
            state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state = linger(state, id, &wake);
        }
    }

    /// Lets a while pass, or less if there is an order. Whether to go on.
    pub(in crate::audit) fn pause(&self, id: usize, time: Duration) -> bool {
        let state = self.state();
        let Some(wake) = state.queues.get(id).map(|queue| Arc::clone(&queue.wake)) else {
            return false;
        };
        let idle = |state: &mut State| {
            let queue = state.queues.get(id);
            queue.is_some_and(|queue| queue.retargets.is_empty() && !queue.is_ending)
        };
        let (state, _timeout) = wake
            .wait_timeout_while(state, time, idle)
            .unwrap_or_else(PoisonError::into_inner);
        state.queues.get(id).is_some_and(|queue| !queue.is_ending)
    }

    /// A sink has written everything up to a record.
    pub(in crate::audit) fn wrote(&self, id: usize, seq: u64) {
        let mut state = self.state();
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

    /// A sink fails. It is tried again until it does not.
    pub(in crate::audit) fn failed(&self, id: usize, why: &str) {
        let mut state = self.state();
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

    /// Whether requests are to be refused, and what that means for those who wait.
    fn update_failing(&self, state: &mut State) {
        let failing = state
            .queues
            .iter()
            .any(|queue| queue.required && queue.failing.is_some());
        self.failing.store(failing, Ordering::Relaxed);
        if failing {
            for waiting in state.waiting.drain(..) {
                // Whoever waited may have gone.
                let _gone = waiting
                    .ack
                    .is_some_and(|ack| ack.send(Err(AuditError::Unwritable)).is_err());
            }
        } else {
            state.acknowledge();
        }
    }

    /// What is due: sinks that hang count as failing, and old records are signed.
    pub(in crate::audit) fn tick(&self, now: Instant) {
        let mut state = self.state();
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

    /// Whether a required sink fails.
    pub(in crate::audit) fn failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Counts a request that is refused because of that.
    pub(in crate::audit) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::audit) fn timeout(&self) -> Duration {
        self.state().timeout
    }

    /// How the sinks are.
    pub(in crate::audit) fn sinks(&self) -> Vec<SinkState> {
        let state = self.state();
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

    /// Whether every sink that works or must work has written everything.
    pub(in crate::audit) fn is_drained(&self) -> bool {
        let state = self.state();
        let mut wanted = state
            .queues
            .iter()
            .filter(|queue| !queue.is_ending && (queue.required || queue.failing.is_none()));
        wanted.all(|queue| queue.pending.is_empty() && queue.in_hand == 0)
    }

    /// Records that a sink which must work does not have; with the process they are gone.
    pub(in crate::audit) fn unwritten(&self) -> u64 {
        let state = self.state();
        let required = state.queues.iter().filter(|queue| queue.required);
        let behind = required.map(|queue| state.link.last().saturating_sub(queue.written));
        behind.max().unwrap_or(0).saturating_add(state.lost)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Has everything written at once that is pending.
    fn flush_now(&mut self) {
        for queue in &mut self.queues {
            queue.flush = FlushState::Now;
            queue.wake.notify_all();
        }
    }

    /// Tells those whose records all required sinks have.
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
            // Whoever waited may have gone.
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

    /// Makes a line and lays it into every queue that has room. What a required sink has no room
    /// for is never chained, see [`Self::is_full`]; another one may miss some, and says how many.
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

/// Lets records gather that nobody waits for.
fn linger<'a>(state: MutexGuard<'a, State>, id: usize, wake: &Condvar) -> MutexGuard<'a, State> {
    let may = |state: &mut State| state.queues.get(id).is_some_and(SinkQueue::may_linger);
    let (state, _timeout) = wake
        .wait_timeout_while(state, COMMIT_WINDOW, may)
        .unwrap_or_else(PoisonError::into_inner);
    state
}

impl SinkQueue {
    fn may_linger(&self) -> bool {
        self.flush != FlushState::Now && self.retargets.is_empty() && !self.is_ending
    }

    fn held(&self) -> usize {
        self.pending.len().saturating_add(self.in_hand)
    }
}
