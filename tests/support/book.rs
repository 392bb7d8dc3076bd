//! What clients were answered while things failed around them, and whether that was right.
//!
//! Every attempt is judged by the faults that were in force at some time between its begin and its
//! end: what they explain is excused, anything else is wrong.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use tokio::sync::watch;

use super::http::Answer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Descriptors are nearly used up, and idle connections take the rest.
    Descriptors,
    /// The directory is frozen, or gone.
    Directory,
    /// The audit trail's disk is full.
    Disk,
    /// SIGHUP after SIGHUP with other configurations, broken ones among them.
    Hangups,
    /// The registry is killed.
    Registry,
    /// SIGTERM, and a start once it has ended.
    Restart,
    /// The store of the limits is frozen, or gone.
    Store,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::Descriptors,
        Self::Directory,
        Self::Disk,
        Self::Hangups,
        Self::Registry,
        Self::Restart,
        Self::Store,
    ];

    /// The order in which the faults of a wave may end: a reload needs descriptors.
    pub(crate) fn in_order_of_end(mut wave: Vec<Self>) -> Vec<Self> {
        wave.sort_by_key(|fault| *fault == Self::Hangups);
        wave
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Whether it explains that an attempt was not answered as usual. Never that somebody was let
    /// in, or was told that his good credential is none.
    fn excuses(self, attempt: Attempt, status: Option<u16>) -> bool {
        let (who, what) = (attempt.who, attempt.what);
        match self {
            Self::Descriptors => matches!(status, None | Some(502..=504)),
            Self::Directory => who == Who::Directory && status == Some(503),
            Self::Disk => what == What::Write && status == Some(503),
            // No request is refused, kept waiting or cut for these.
            Self::Hangups | Self::Store => false,
            Self::Registry => what != What::Own && matches!(status, None | Some(502..=504)),
            Self::Restart => status.is_none(),
        }
    }
}

/// Who knows the caller's credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Certificate,
    Directory,
    File,
}

/// What an attempt needs besides that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Nothing: the proxy answers by itself.
    Own,
    /// The registry.
    Read,
    /// The registry, and the trail before the answer.
    Write,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) who: Who,
    pub(crate) what: What,
}

/// Something that the proxy has said is stored.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) repository: &'static str,
    pub(crate) path: String,
    pub(crate) digest: String,
}

/// An attempt under way.
#[derive(Clone, Copy)]
pub(crate) struct Flight(u64);

impl Flight {
    /// The name that the record of it has.
    pub(crate) fn name(self) -> String {
        format!("{AGENT}{}", self.0)
    }
}

const AGENT: &str = "attempt-";

/// Bodies that are held half-way at most, so that somebody always goes on.
const HALF_WAY: usize = 3;

pub(crate) struct Book {
    state: Mutex<State>,
    ended: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    next: u64,
    active: u8,
    epoch: u64,
    /// The faults that each attempt under way has seen.
    flights: HashMap<u64, u8>,
    half_way: usize,
    struck: usize,
    lost: u64,
    large: Option<Kept>,
    kept: Vec<Kept>,
    told: HashMap<u64, u16>,
    wrong: Vec<String>,
    counts: Counts,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) right: u64,
    pub(crate) excused: BTreeMap<String, u64>,
    pub(crate) faults: BTreeMap<Fault, u64>,
    pub(crate) acknowledged: usize,
    pub(crate) compared: usize,
    /// Bodies that were half-way when a fault began.
    pub(crate) struck: usize,
    pub(crate) records: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} right answers, excused {:?}; faults {:?}, {} bodies half-way when one began",
            self.right, self.excused, self.faults, self.struck
        )?;
        write!(
            f,
            "{} pushes acknowledged and pulled back, {} pulls compared in all, {} records found",
            self.acknowledged, self.compared, self.records
        )
    }
}

impl Book {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            ended: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub(crate) fn depart(&self) -> Flight {
        self.with(|state| {
            state.next += 1;
            state.flights.insert(state.next, state.active);
            Flight(state.next)
        })
    }

    /// Judges how an attempt ended: `None` if there was no whole answer. Gives the answer if it is
    /// one of the `right` ones.
    pub(crate) fn land(
        &self,
        flight: Flight,
        attempt: Attempt,
        what: &str,
        outcome: Result<Answer, String>,
        right: &[u16],
    ) -> Option<Answer> {
        let Flight(number) = flight;
        let status = outcome.as_ref().ok().map(|answer| answer.status);
        let flaw = outcome.as_ref().ok().and_then(flaw);
        let is_right = status.is_some_and(|status| right.contains(&status));
        self.with(|state| {
            let seen = state.flights.remove(&number).unwrap();
            let excused = Fault::ALL
                .into_iter()
                .any(|fault| seen & fault.bit() != 0 && fault.excuses(attempt, status));
            if let Some(status) = status {
                state.told.insert(number, status);
            }
            if let Some(flaw) = flaw {
                state.wrong.push(format!("{what} ({attempt:?}): {flaw}"));
            } else if is_right {
                state.counts.right += 1;
            } else if excused {
                let how = status.map_or("cut".to_owned(), |status| status.to_string());
                *state.counts.excused.entry(how).or_default() += 1;
            } else {
                let faults: Vec<_> = Fault::ALL
                    .into_iter()
                    .filter(|fault| seen & fault.bit() != 0)
                    .collect();
                state.wrong.push(format!(
                    "{what} ({attempt:?}, {AGENT}{number}) during {faults:?}: {outcome:?}"
                ));
            }
        });
        self.ended();
        outcome.ok().filter(|_| is_right)
    }

    fn ended(&self) {
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// Judges a client that only says whether it worked, and tries each thing once or more often.
    pub(crate) fn arrive(&self, Flight(number): Flight, failed: Option<String>) {
        self.with(|state| {
            let mut seen = state.flights.remove(&number).unwrap();
            for harmless in [Fault::Hangups, Fault::Store] {
                seen &= !harmless.bit();
            }
            match failed {
                None => state.counts.right += 1,
                Some(_) if seen != 0 => {
                    *state.counts.excused.entry("failed".to_owned()).or_default() += 1;
                }
                Some(told) => state.wrong.push(format!("no fault explains it: {told}")),
            }
        });
        self.ended();
    }

    /// The proxy says that it ended without having been able to write so many records.
    pub(crate) fn lost_records(&self, records: u64) {
        self.with(|state| state.lost += records);
    }

    /// Something that was seen outside of an answer's status.
    pub(crate) fn wrong(&self, what: String) {
        self.with(|state| state.wrong.push(what));
    }

    /// The proxy has acknowledged it.
    pub(crate) fn keep(&self, kept: Kept) {
        self.with(|state| {
            state.counts.acknowledged += 1;
            state.kept.push(kept);
        });
    }

    /// Something that is more than fits into the buffers on the way.
    pub(crate) fn keep_large(&self, kept: Kept) {
        self.with(|state| state.large = Some(kept));
    }

    pub(crate) fn large(&self) -> Option<Kept> {
        self.with(|state| state.large.clone())
    }

    pub(crate) fn kept(&self) -> Vec<Kept> {
        self.with(|state| state.kept.clone())
    }

    /// One of those in a repository, chosen by a number.
    pub(crate) fn one_of(&self, repository: &str, number: usize) -> Option<Kept> {
        self.with(|state| {
            let count = state.kept.len();
            // The newest of them rather than an even choice: those are not in anybody's cache yet.
            let from = number % count.max(1);
            let mut all = state.kept.iter().cycle().skip(from).take(count);
            all.find(|kept| kept.repository == repository).cloned()
        })
    }

    pub(crate) fn compared(&self) {
        self.with(|state| state.counts.compared += 1);
    }

    /// Changes with each process: connections to another one are of no use.
    pub(crate) fn epoch(&self) -> u64 {
        self.with(|state| state.epoch)
    }

    pub(crate) fn begins(&self, fault: Fault) {
        self.with(|state| {
            state.epoch += u64::from(fault == Fault::Restart);
            state.active |= fault.bit();
            for seen in state.flights.values_mut() {
                *seen |= fault.bit();
            }
            state.struck += state.half_way;
            *state.counts.faults.entry(fault).or_default() += 1;
        });
    }

    /// All faults are over, and everybody is served again.
    pub(crate) fn calm(&self) {
        self.with(|state| {
            state.epoch += u64::from(state.active & Fault::Restart.bit() != 0);
            state.active = 0;
        });
    }

    /// Waits until so many attempts more have ended.
    pub(crate) async fn attempts(&self, more: u64) {
        let mut ended = self.ended.subscribe();
        let wanted = *ended.borrow() + more;
        super::within(
            super::PATIENCE * 4,
            "attempts",
            ended.wait_for(|ended| *ended >= wanted),
        )
        .await
        .unwrap();
    }

    /// Waits until a body is half-way.
    pub(crate) async fn body_half_way(&self) {
        super::eventually("a body half-way", || {
            self.with(|state| state.half_way > 0).then_some(())
        })
        .await;
    }

    /// Holds a body half-way until so many other attempts have ended, or everybody is to stop.
    pub(crate) async fn dawdle(&self, attempts: u64) {
        let is_held = self.with(|state| {
            let free = state.half_way < HALF_WAY;
            state.half_way += usize::from(free);
            free
        });
        if !is_held {
            return;
        }
        let (mut ended, mut stop) = (self.ended.subscribe(), self.stop.subscribe());
        let wanted = *ended.borrow() + attempts;
        tokio::select! {
            _ = ended.wait_for(|ended| *ended >= wanted) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.with(|state| state.half_way -= 1);
    }

    pub(crate) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(crate) fn stop(&self, stop: bool) {
        self.stop.send_replace(stop);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.with(|state| Counts {
            struck: state.struck,
            ..state.counts.clone()
        })
    }

    /// Fails if anything was wrong.
    #[track_caller]
    pub(crate) fn assert_right(&self) {
        let wrong = self.with(|state| state.wrong.clone());
        let shown = &wrong[..wrong.len().min(20)];
        assert!(
            wrong.is_empty(),
            "{} wrong:\n{}",
            wrong.len(),
            shown.join("\n")
        );
    }

    /// Each answer that arrived as a whole has one record that says the same, and no attempt has
    /// two; refusals for want of room may be without one, and so may as many as were folded, or told
    /// to be lost.
    pub(crate) fn assert_recorded<'a>(&self, lines: impl Iterator<Item = &'a str>) {
        let mut recorded: HashMap<u64, u16> = HashMap::new();
        let mut folded = 0;
        for line in lines {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            if record["event"] == "suppressed" {
                folded += record["count"].as_u64().unwrap();
            }
            let agent = record["agent"]
                .as_str()
                .and_then(|it| it.strip_prefix(AGENT));
            if let Some(number) = agent {
                let status = record["status"].as_u64().unwrap_or(0);
                let number = number.parse().unwrap();
                let earlier = recorded.insert(number, u16::try_from(status).unwrap());
                assert!(earlier.is_none(), "two records of {AGENT}{number}");
            }
        }
        self.with(|state| {
            let mut missing = 0;
            for (number, status) in &state.told {
                // Who was told 503 because the record could not be written at that moment may have
                // one all the same, of what the registry did; or none.
                let unwritten = *status == 503 && state.counts.faults.contains_key(&Fault::Disk);
                match recorded.get(number) {
                    Some(_) | None if unwritten => {}
                    Some(told) => assert_eq!(told, status, "the record of {AGENT}{number}"),
                    None => missing += 1,
                }
            }
            let told = folded + state.lost;
            assert!(
                missing <= told,
                "{missing} answers without a record, {told} told of"
            );
            state.counts.records = state.told.len() - usize::try_from(missing).unwrap();
        });
    }
}

/// What no answer may be, whatever happens.
fn flaw(answer: &Answer) -> Option<String> {
    let length = answer
        .header("content-length")
        .and_then(|it| it.parse::<usize>().ok());
    if length.is_some_and(|length| length != answer.body.len()) && !answer.body.is_empty() {
        return Some(format!("its length is not what it says: {answer:?}"));
    }
    if answer.status < 400 || answer.body.is_empty() {
        return None;
    }
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let code = parsed.and_then(|it| Some(it["errors"][0]["code"].as_str()?.to_owned()));
    match (answer.status, code.as_deref()) {
        (_, None) => Some(format!("no error body: {answer:?}")),
        (502..=504, Some(code)) if code != "UNAVAILABLE" => Some(format!("{answer:?}")),
        (_, Some(_)) => None,
    }
}
