//! Floods of one and the same refusal: beyond a rate they are counted, and one record tells how many
//! they were. Pure; the caller has the clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::event::{Event, Outcome};

/// How long refusals belong together.
const WINDOW: Duration = Duration::from_secs(10);
/// So many of them within that time have a record each.
const EACH: u64 = 1000;
/// Kinds of refusals remembered at a time. Of what is more, each has its record.
const KINDS: usize = 4096;

/// What makes two refusals the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// The address, or the /64 of an IPv6 one.
    pub(super) source: IpAddr,
    pub(super) event: Event,
    pub(super) outcome: Outcome,
    pub(super) status: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) reason: Option<String>,
}

/// Refusals of one kind that have no record of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folded {
    pub(super) kind: Kind,
    pub(super) count: u64,
    /// What the clients were told.
    pub(super) reference: String,
}

#[derive(Debug)]
struct Run {
    began: Instant,
    seen: u64,
    folded: u64,
    reference: String,
}

/// The floods that are going on.
#[derive(Debug, Default)]
pub(super) struct Floods {
    runs: HashMap<Kind, Run>,
}

impl Floods {
    /// Counts a refusal. The reference of the record that will tell of it, if it has none of its own.
    pub(super) fn count(&mut self, kind: Kind, reference: &str, now: Instant) -> Option<String> {
        if self.runs.len() >= KINDS && !self.runs.contains_key(&kind) {
            return None;
        }
        let run = self.runs.entry(kind).or_insert_with(|| Run {
            began: now,
            seen: 0,
            folded: 0,
            reference: String::new(),
        });
        run.seen = run.seen.saturating_add(1);
        if run.seen <= EACH {
            return None;
        }
        if run.folded == 0 {
            reference.clone_into(&mut run.reference);
        }
        run.folded = run.folded.saturating_add(1);
        Some(run.reference.clone())
    }

    /// Takes out what is to be told now: the runs whose time is over, or all of them (`None`).
    pub(super) fn take(&mut self, now: Option<Instant>) -> Vec<Folded> {
        let is_over =
            |run: &Run| now.is_none_or(|now| now.saturating_duration_since(run.began) >= WINDOW);
        let over = self.runs.extract_if(|_, run| is_over(run));
        over.filter(|(_, run)| run.folded > 0)
            .map(|(kind, run)| Folded {
                kind,
                count: run.folded,
                reference: run.reference,
            })
            .collect()
    }
}

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 one.
pub(super) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EACH, Floods, KINDS, Kind, WINDOW, source_of};
    use crate::audit::{Event, Outcome};
    use std::time::Instant;

    fn kind(user: &str) -> Kind {
        Kind {
            source: [192, 0, 2, 7].into(),
            event: Event::Login,
            outcome: Outcome::Failed,
            status: Some(401),
            user: Some(user.to_owned()),
            reason: None,
        }
    }

    #[test]
    fn what_is_beyond_the_rate_is_counted_exactly() {
        let (mut floods, now) = (Floods::default(), Instant::now());
        for _ in 0..EACH {
            assert_eq!(floods.count(kind("ada"), "A", now), None);
        }
        assert_eq!(floods.count(kind("bob"), "X", now), None);
        for reference in ["FIRST", "B", "C"] {
            let told = floods.count(kind("ada"), reference, now);
            assert_eq!(told.as_deref(), Some("FIRST"));
        }
        assert_eq!(floods.take(Some(now)), []);
        let over = floods.take(Some(now + WINDOW));
        assert_eq!(over.len(), 1);
        assert_eq!((over[0].count, &*over[0].reference), (3, "FIRST"));
        // From then on each has its record again.
        assert_eq!(floods.count(kind("ada"), "D", now + WINDOW), None);
        assert_eq!(floods.take(None), []);
    }

    #[test]
    fn a_flood_of_kinds_takes_no_memory_and_no_record_away() {
        let (mut floods, now) = (Floods::default(), Instant::now());
        for number in 0..2 * KINDS {
            assert_eq!(floods.count(kind(&number.to_string()), "A", now), None);
        }
        assert_eq!(floods.runs.len(), KINDS);
    }

    #[test]
    fn an_ipv6_source_is_a_64() {
        let source = |text: &str| source_of(text.parse().unwrap()).to_string();
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
