//! Counts of requests for metrics: by answer, by duration and by rule. Every label is from a fixed set,
//! or from the configuration and then bounded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::event::Outcome;
use crate::registry::Action;
use crate::trace::Span;

/// Upper bounds of the duration buckets, in microseconds.
pub const BUCKETS: [u64; 10] = [
    500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000, 60_000_000,
];
/// Classes of status codes, from 200 on.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
/// For requests that are no action on a repository: logins, tokens, nonsense.
const NO_ACTION: &str = "none";
/// Rules counted separately. A reload may bring others, and the old ones stay.
const MOST_RULES: usize = 1000;
const OTHER_RULES: &str = "other";

/// Counters over the life of the process.
#[derive(Debug, Default)]
pub struct Served {
    actions: [Times; Action::ALL.len() + 1],
    rules: Mutex<HashMap<String, [u64; Outcome::ALL.len()]>>,
}

#[derive(Debug, Default)]
struct Times {
    classes: [AtomicU64; CLASSES.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

/// The requests of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionTimes {
    /// The action.
    pub action: &'static str,
    /// The number of answers of each class of status.
    pub classes: Vec<(&'static str, u64)>,
    /// The number of requests that took at most so long, by [`BUCKETS`]; longer ones last. Each request
    /// counts once.
    pub buckets: Vec<u64>,
    /// The sum of their durations.
    pub sum_us: u64,
}

/// One request that has been answered.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: Option<&'a str>,
    /// Its action, if that is one on a repository.
    pub action: Option<&'static str>,
    /// Its repository.
    pub repository: Option<&'a str>,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// Its outcome.
    pub outcome: Outcome,
    /// The rule that decided.
    pub rule: Option<&'a str>,
    /// The time when its head had been read.
    pub began: Timestamp,
    /// From then to the end of the answer.
    pub duration_us: u64,
    /// Its part of a trace.
    pub span: Option<Span>,
}

impl Served {
    pub(in crate::audit) fn add(&self, request: Request<'_>) {
        let known = |name| Action::ALL.iter().position(|one| one.as_str() == name);
        let action = request.action.and_then(known);
        if let Some(times) = self.actions.get(action.unwrap_or(Action::ALL.len())) {
            // The client of an aborted request may have had none.
            let class = usize::from(request.status / 100).checked_sub(2);
            let bucket = BUCKETS.partition_point(|bound| *bound < request.duration_us);
            let class = class.and_then(|class| times.classes.get(class));
            for count in class.into_iter().chain(times.buckets.get(bucket)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            times
                .sum_us
                .fetch_add(request.duration_us, Ordering::Relaxed);
        }
        if let Some(rule) = request.rule {
            self.decided(rule, request.outcome);
        }
    }

    fn decided(&self, rule: &str, outcome: Outcome) {
        let mut rules = self.rules.lock();
        let is_full = rules.len() >= MOST_RULES && !rules.contains_key(rule);
        let rule = if is_full { OTHER_RULES } else { rule };
        if !rules.contains_key(rule) {
            rules.insert(rule.to_owned(), Default::default());
        }
        let counts = rules.get_mut(rule);
        if let Some(count) = counts.and_then(|counts| counts.get_mut(outcome as usize)) {
            *count = count.saturating_add(1);
        }
    }

    /// Every action, also those without a request so far.
    pub fn actions(&self) -> Vec<ActionTimes> {
        let names = Action::ALL.iter().map(|action| action.as_str());
        let all = names.chain([NO_ACTION]).zip(&self.actions);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        all.map(|(action, times)| ActionTimes {
            action,
            classes: CLASSES
                .into_iter()
                .zip(times.classes.iter().map(read))
                .collect(),
            buckets: times.buckets.iter().map(read).collect(),
            sum_us: read(&times.sum_us),
        })
        .collect()
    }

    /// The number of requests that each rule decided, by outcome.
    pub fn rules(&self) -> Vec<(String, Outcome, u64)> {
        let rules = self.rules.lock();
        let counts = |(rule, counts): (&String, &[u64; Outcome::ALL.len()])| {
            let rule = rule.clone();
            let counts = Outcome::ALL.into_iter().zip(*counts);
            counts.map(move |(outcome, count)| (rule.clone(), outcome, count))
        };
        let all = rules.iter().flat_map(counts);
        all.filter(|(_, _, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_RULES, OTHER_RULES, Request, Served};
    use crate::audit::Outcome;

    const PULL: Request<'_> = Request {
        method: Some("GET"),
        repository: Some("a"),
        began: jiff::Timestamp::UNIX_EPOCH,
        span: None,
        action: Some("pull"),
        status: 200,
        outcome: Outcome::Allowed,
        rule: Some("a.toml:1"),
        duration_us: 501,
    };

    #[test]
    fn requests_are_told_apart_by_action_and_answer() {
        let served = Served::default();
        served.add(PULL);
        served.add(Request {
            status: 502,
            outcome: Outcome::Error,
            duration_us: 100_000_000,
            ..PULL
        });
        served.add(Request {
            action: None,
            rule: None,
            // Not a status of HTTP; it is in no class.
            status: 999,
            ..PULL
        });
        let actions = served.actions();
        let of = |name| actions.iter().find(|one| one.action == name).unwrap();
        let pulls = of("pull");
        assert_eq!(
            pulls.classes,
            [("2xx", 1), ("3xx", 0), ("4xx", 0), ("5xx", 1)]
        );
        assert_eq!(pulls.buckets, [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(pulls.sum_us, 100_000_501);
        assert!(of("none").classes.iter().all(|(_, count)| *count == 0));
        assert_eq!(of("none").buckets.iter().sum::<u64>(), 1);
        let mut rules = served.rules();
        rules.sort_by_key(|(_, outcome, _)| outcome.as_str());
        let rule = |outcome| ("a.toml:1".to_owned(), outcome, 1);
        assert_eq!(rules, [rule(Outcome::Allowed), rule(Outcome::Error)]);
    }

    #[test]
    fn rules_stay_in_bounds() {
        let served = Served::default();
        for line in 0..2 * MOST_RULES {
            let rule = format!("a.toml:{line}");
            served.add(Request {
                rule: Some(&rule),
                ..PULL
            });
        }
        let rules = served.rules();
        assert_eq!(rules.len(), MOST_RULES + 1);
        let other = rules.iter().find(|(rule, _, _)| rule == OTHER_RULES);
        assert_eq!(other.unwrap().2, u64::try_from(MOST_RULES).unwrap());
    }
}
