//! Whether nearly all requests come from one source: then that is probably a balancer whose clients
//! are not told apart.
//!
//! A majority vote (Boyer and Moore): one candidate and a number of votes, whatever the number of
//! sources. Each request of the candidate is a vote for it, each of another one against it. So the
//! votes that are left are never more than the candidate's requests, and whoever makes nine tenths
//! of them has eight tenths left.

use std::time::Duration;

use parking_lot::Mutex;

use super::Source;

/// Requests are counted for so long, then anew.
const PERIOD: Duration = Duration::from_mins(5);
/// With fewer there is nothing to say.
const LEAST: u64 = 500;

/// The counts. One for the life of the process.
#[derive(Debug, Default)]
pub(super) struct Majority(Mutex<Periods>);

#[derive(Debug, Default)]
struct Periods {
    number: u128,
    present: Votes,
    before: Votes,
}

#[derive(Clone, Copy, Debug, Default)]
struct Votes {
    candidate: Option<Source>,
    left: u64,
    requests: u64,
}

impl Majority {
    /// Counts a request.
    pub(super) fn note(&self, from: Source, now: Duration) {
        // Nobody waits here. A request that is not counted is one in a sample.
        if let Some(mut periods) = self.0.try_lock() {
            periods.turn(now);
            periods.present.add(from);
        }
    }

    /// The source that made at least eight tenths of the requests of the last minutes. One that made
    /// nine tenths is always found.
    pub(super) fn found(&self, now: Duration) -> Option<Source> {
        let mut periods = self.0.lock();
        periods.turn(now);
        let votes = [periods.present, periods.before];
        votes.iter().find(|votes| votes.requests >= LEAST)?.winner()
    }
}

impl Periods {
    fn turn(&mut self, now: Duration) {
        let number = now
            .as_secs()
            .checked_div(PERIOD.as_secs())
            .unwrap_or(0)
            .into();
        if number == self.number {
            return;
        }
        let follows = number == self.number.saturating_add(1);
        let before = if follows {
            self.present
        } else {
            Votes::default()
        };
        *self = Self {
            number,
            present: Votes::default(),
            before,
        };
    }
}

impl Votes {
    fn add(&mut self, from: Source) {
        self.requests = self.requests.saturating_add(1);
        if self.candidate == Some(from) {
            self.left = self.left.saturating_add(1);
        } else if self.left == 0 {
            self.candidate = Some(from);
            self.left = 1;
        } else {
            self.left = self.left.saturating_sub(1);
        }
    }

    fn winner(&self) -> Option<Source> {
        let least = self.requests.saturating_mul(8).checked_div(10);
        self.candidate
            .filter(|_| least.is_some_and(|least| self.left >= least))
    }
}

#[cfg(test)]
mod tests {
    use super::{LEAST, Majority, PERIOD};
    use crate::limit::Source;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    fn source(number: u32) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    const BEGIN: Duration = Duration::ZERO;

    #[test]
    fn one_source_is_found_while_it_makes_nearly_all_requests() {
        let majority = Majority::default();
        for number in 0..LEAST {
            assert_eq!(majority.found(BEGIN), None, "{number}");
            majority.note(source(1), BEGIN);
        }
        assert_eq!(majority.found(BEGIN), Some(source(1)));
        // Of the period before, as long as there are few requests in the present one.
        assert_eq!(majority.found(PERIOD), Some(source(1)));
        majority.note(source(2), PERIOD);
        assert_eq!(majority.found(PERIOD), Some(source(1)));
        assert_eq!(majority.found(3 * PERIOD), None);
    }

    #[test]
    fn many_sources_are_none() {
        let majority = Majority::default();
        for number in 0..10 * u32::try_from(LEAST).unwrap() {
            majority.note(source(number % 3), BEGIN);
        }
        assert_eq!(majority.found(BEGIN), None);
    }

    proptest! {
        #[test]
        fn nine_tenths_are_found_and_less_than_eight_are_not(
            order in proptest::collection::vec(0..100_u32, 600..900),
            share in prop_oneof![Just(60_u32), Just(75), Just(95), Just(99)],
        ) {
            let majority = Majority::default();
            let mut own = 0;
            for (number, draw) in (2..).zip(&order) {
                let is_own = *draw < share;
                own = usize::from(is_own).saturating_add(own);
                majority.note(source(if is_own { 1 } else { number }), BEGIN);
            }
            let found = majority.found(BEGIN);
            let (ten, all) = (own.saturating_mul(10), order.len());
            if ten >= all.saturating_mul(9) {
                prop_assert_eq!(found, Some(source(1)));
            } else if ten < all.saturating_mul(8) {
                prop_assert_eq!(found, None);
            }
        }
    }
}
