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

use super::batch::{Batch, Order};
use super::chain::{ChainKey, Link};
use super::error::AuditError;
use super::sign::{CHECKPOINT_EVERY, Signer};
use crate::limit::Place;

/// Bytes kept for a sink that fails; what is more is counted.
const KEPT: usize = 16 << 20;
/// How long a sink's thread dozes before it takes what nobody waits for. To wake a thread for each
/// record costs more than everything else about it; while it dozes, nobody need wake it. A process
/// that is killed loses no more of its reads than this.
const GATHER: Duration = Duration::from_millis(5);
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
    outlets: Vec<Outlet>,
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
struct Outlet {
    name: &'static str,
    required: bool,
    pending: String,
    pace: Pace,
    /// Bytes that its thread has in hand.
    in_hand: usize,
    /// The last record that it has written.
    written: u64,
    busy: Option<Instant>,
    failing: Option<Failing>,
    lost: u64,
    orders: VecDeque<Order>,
    ends: bool,
    wake: Arc<Condvar>,
}

/// When a sink's thread takes what is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// It had nothing to do, and sleeps until it is woken.
    Asleep,
    /// When records have gathered for a while.
    Dozing,
    /// At once: somebody waits.
    Hurried,
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
            outlets: Vec::new(),
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
        state.outlets.push(Outlet {
            name,
            required,
            pending: String::new(),
            pace: Pace::Dozing,
            in_hand: 0,
            written,
            busy: None,
            failing: None,
            lost: 0,
            orders: VecDeque::new(),
            ends: false,
            wake: Arc::default(),
        });
        state.outlets.len().saturating_sub(1)
    }

    /// Tells a sink to go on elsewhere.
    pub(in crate::audit) fn order(&self, id: usize, required: bool, order: Order) {
        let mut state = self.state();
        if let Some(outlet) = state.outlets.get_mut(id) {
            outlet.required = required;
            outlet.orders.push_back(order);
            outlet.wake.notify_all();
        }
        self.judge(&mut state);
    }

    /// Tells a sink that it is not wanted any more.
    pub(in crate::audit) fn end(&self, id: usize) {
        let mut state = self.state();
        if let Some(outlet) = state.outlets.get_mut(id) {
            outlet.required = false;
            outlet.ends = true;
            outlet.failing = None;
            outlet.wake.notify_all();
        }
        self.judge(&mut state);
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
            state.tell_key();
        }
        state.signer = signer;
        state.checkpoint();
    }

    /// Says with which key the chain goes on.
    pub(in crate::audit) fn say_key(&self) {
        self.state().tell_key();
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
                state.hurry();
            }
            let seq = state.link.last();
            state.waiting.push_back(Waiting { seq, ack, place });
            state.acknowledge();
        }
    }

    /// Writes what the trail has to say itself.
    pub(in crate::audit) fn say(&self, event: Event, outcome: Outcome, reason: &str) {
        self.state().own(event, outcome, reason);
    }

    /// Signs what is not signed yet.
    pub(in crate::audit) fn sign(&self) {
        self.state().checkpoint();
    }

    /// What a sink's thread does next: waits until there is something in hand, or an order. `None`
    /// when it is not wanted any more.
    pub(in crate::audit) fn next(&self, id: usize, batch: &mut Batch) -> Option<Vec<Order>> {
        let mut state = self.state();
        let wake = Arc::clone(&state.outlets.get(id)?.wake);
        if batch.is_empty() {
            state = doze(state, id, &wake);
        }
        loop {
            let outlet = state.outlets.get_mut(id)?;
            if batch.is_empty() && !outlet.pending.is_empty() {
                outlet.pace = Pace::Dozing;
                *batch = Batch::new(std::mem::take(&mut outlet.pending));
                outlet.in_hand = batch.len();
            }
            if !batch.is_empty() || !outlet.orders.is_empty() {
                if !batch.is_empty() {
                    outlet.busy.get_or_insert_with(Instant::now);
                }
                return Some(outlet.orders.drain(..).collect());
            }
            if outlet.ends {
                return None;
            }
            outlet.pace = Pace::Asleep;
            state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state = doze(state, id, &wake);
        }
    }

    /// Lets a while pass, or less if there is an order. Whether to go on.
    pub(in crate::audit) fn pause(&self, id: usize, time: Duration) -> bool {
        let state = self.state();
        let Some(wake) = state.outlets.get(id).map(|outlet| Arc::clone(&outlet.wake)) else {
            return false;
        };
        let idle = |state: &mut State| {
            let outlet = state.outlets.get(id);
            outlet.is_some_and(|outlet| outlet.orders.is_empty() && !outlet.ends)
        };
        let (state, _timeout) = wake
            .wait_timeout_while(state, time, idle)
            .unwrap_or_else(PoisonError::into_inner);
        state.outlets.get(id).is_some_and(|outlet| !outlet.ends)
    }

    /// A sink has written everything up to a record.
    pub(in crate::audit) fn wrote(&self, id: usize, seq: u64) {
        let mut state = self.state();
        let Some(outlet) = state.outlets.get_mut(id) else {
            return;
        };
        outlet.written = seq;
        outlet.in_hand = 0;
        outlet.busy = None;
        if let Some(failing) = outlet.failing.take() {
            self.recovered(&mut state, id, &failing);
        }
        state.acknowledge();
    }

    fn recovered(&self, state: &mut State, id: usize, failing: &Failing) {
        let Some(outlet) = state.outlets.get(id) else {
            return;
        };
        let (name, required) = (outlet.name, outlet.required);
        let mut lost = outlet.lost.saturating_sub(failing.lost_before);
        let mut refused = 0;
        self.judge(state);
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
        state.own(Event::Audit, outcome, &reason);
    }

    /// A sink fails. It is tried again until it does not.
    pub(in crate::audit) fn failed(&self, id: usize, why: &str) {
        let mut state = self.state();
        self.fail(&mut state, id, why);
    }

    fn fail(&self, state: &mut State, id: usize, why: &str) {
        let Some(outlet) = state.outlets.get_mut(id) else {
            return;
        };
        if outlet.failing.is_some() || outlet.ends {
            return;
        }
        outlet.failing = Some(Failing {
            since: Instant::now(),
            why: why.to_owned(),
            lost_before: outlet.lost,
        });
        let (name, required) = (outlet.name, outlet.required);
        tracing::error!(
            sink = name,
            required,
            why,
            "the audit sink cannot be written"
        );
        self.judge(state);
        if !self.failing() {
            let reason = format!("the audit {name} cannot be written: {why}");
            state.own(Event::Audit, Outcome::Error, &reason);
        }
    }

    /// Whether requests are to be refused, and what that means for those who wait.
    fn judge(&self, state: &mut State) {
        let failing = state
            .outlets
            .iter()
            .any(|outlet| outlet.required && outlet.failing.is_some());
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
        let hangs = |outlet: &Outlet| outlet.failing.is_none() && since(outlet.busy) >= timeout;
        let hanging: Vec<_> = (0..state.outlets.len())
            .filter(|id| state.outlets.get(*id).is_some_and(hangs))
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
        let wanted = state.outlets.iter().filter(|outlet| !outlet.ends);
        wanted
            .map(|outlet| SinkState {
                name: outlet.name,
                required: outlet.required,
                failing: outlet.failing.as_ref().map(|failing| failing.why.clone()),
                lost: outlet
                    .lost
                    .saturating_add(if outlet.required { state.lost } else { 0 }),
            })
            .collect()
    }

    /// Whether every sink that works or must work has written everything.
    pub(in crate::audit) fn is_drained(&self) -> bool {
        let state = self.state();
        let mut wanted = state
            .outlets
            .iter()
            .filter(|outlet| !outlet.ends && (outlet.required || outlet.failing.is_none()));
        wanted.all(|outlet| outlet.pending.is_empty() && outlet.in_hand == 0)
    }

    /// Records that a sink which must work does not have; with the process they are gone.
    pub(in crate::audit) fn unwritten(&self) -> u64 {
        let state = self.state();
        let required = state.outlets.iter().filter(|outlet| outlet.required);
        let behind = required.map(|outlet| state.link.last().saturating_sub(outlet.written));
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
    fn hurry(&mut self) {
        for outlet in &mut self.outlets {
            outlet.pace = Pace::Hurried;
            outlet.wake.notify_all();
        }
    }

    /// Tells those whose records all required sinks have.
    fn acknowledge(&mut self) {
        let required = self.outlets.iter().filter(|outlet| outlet.required);
        let safe = required
            .map(|outlet| outlet.written)
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

    fn own(&mut self, event: Event, outcome: Outcome, reason: &str) {
        self.append(&Fields::of_our_own(event, outcome, reason).write());
    }

    fn tell_key(&mut self) {
        let reason = match self.key.name() {
            Some(name) => format!("the chain goes on with key {name}"),
            None => "the chain goes on without a key".to_owned(),
        };
        self.own(Event::Rekey, Outcome::Allowed, &reason);
    }

    /// Makes a line and lays it into every queue that has room. What a required sink has no room
    /// for is never chained, see [`Self::is_full`]; another one may miss some, and says how many.
    fn chain(&mut self, fields: &str) {
        self.line.clear();
        self.link.append(&self.key, fields, &mut self.line);
        for outlet in &mut self.outlets {
            if outlet.ends {
                continue;
            }
            if !outlet.required && outlet.held() >= KEPT {
                outlet.lost = outlet.lost.saturating_add(1);
                continue;
            }
            outlet.pending.push_str(&self.line);
            if outlet.pace == Pace::Asleep {
                outlet.pace = Pace::Dozing;
                outlet.wake.notify_all();
            }
        }
    }

    fn is_full(&self) -> bool {
        let mut required = self.outlets.iter().filter(|outlet| outlet.required);
        required.any(|outlet| outlet.held() >= KEPT)
    }
}

/// Lets records gather that nobody waits for.
fn doze<'a>(state: MutexGuard<'a, State>, id: usize, wake: &Condvar) -> MutexGuard<'a, State> {
    let may = |state: &mut State| state.outlets.get(id).is_some_and(Outlet::may_doze);
    let (state, _timeout) = wake
        .wait_timeout_while(state, GATHER, may)
        .unwrap_or_else(PoisonError::into_inner);
    state
}

impl Outlet {
    fn may_doze(&self) -> bool {
        self.pace != Pace::Hurried && self.orders.is_empty() && !self.ends
    }

    fn held(&self) -> usize {
        self.pending.len().saturating_add(self.in_hand)
    }
}
