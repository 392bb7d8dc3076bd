//! A rate for each source: none takes the whole service, however many requests and connections it
//! makes.
//!
//! The limiter is asked before anything else and costs two hashes and a few atomic additions. Its memory is
//! fixed (1.5 MiB), whatever the number of sources: a count-min sketch of `pingora-limits`, which may
//! count too many for a source (with a million requests of others in ten seconds, some 120), never
//! too few. That crate's own `Rate` reads the clock itself and asserts that threads see it in
//! order; here time is an argument, and periods are turned without an assertion.
//!
//! Rates are per second, over ten seconds: a build that asks a hundred times in its first second
//! and then downloads is well behaved. A source that makes at most ten times its rate in any twenty
//! seconds is never refused, nor one that keeps below its rate all the time; whoever makes more is let
//! through at about that rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pingora_limits::estimator::Estimator;
use pingora_limits::inflight::{Guard, Inflight};

use super::Source;
use super::majority::Majority;

/// Seconds over which a rate is taken.
const PERIOD: u64 = 10;
/// Rows and columns of a sketch.
const HASHES: usize = 4;
const SLOTS: usize = 8192;
/// What a wrong password or token counts, in requests.
pub const WEIGHT_OF_FAILURE: u32 = 10;

/// How much of each a source may have; 0 is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Requests in a second.
    pub requests_per_second: u32,
    /// New connections in a second.
    pub connections_per_second: u32,
    /// Requests at a time.
    pub concurrent_requests: u32,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooFast {
    /// New connections.
    #[error("connections_per_second")]
    Connections,
    /// Requests at a time.
    #[error("concurrent_requests")]
    Concurrent,
    /// Requests.
    #[error("requests_per_second")]
    Requests,
}

/// The counts of all sources. One for the life of the process.
pub struct SourceRateLimiter {
    requests: Meter,
    connections: Meter,
    running: Inflight,
    majority: Majority,
}

/// A request's place among those of its source, until it is dropped.
#[derive(Debug)]
pub struct Running(#[expect(dead_code, reason = "held for its Drop")] Guard);

impl Default for SourceRateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl SourceRateLimiter {
    /// Has seen nobody yet.
    pub fn new() -> Self {
        Self {
            requests: Meter::new(),
            connections: Meter::new(),
            running: Inflight::new(),
            majority: Majority::default(),
        }
    }

    /// Lets a new connection in, or not.
    pub fn connection(&self, from: Source, rates: Rates, now: Duration) -> Result<(), TooFast> {
        let rate = rates.connections_per_second;
        if self.connections.admit(from, rate, now) {
            Ok(())
        } else {
            Err(TooFast::Connections)
        }
    }

    /// Lets a request in, or not.
    pub fn request(&self, from: Source, rates: Rates, now: Duration) -> Result<Running, TooFast> {
        self.majority.note(from, now);
        if !self.requests.admit(from, rates.requests_per_second, now) {
            return Err(TooFast::Requests);
        }
        let (place, running) = self.running.incr(from, 1);
        let most = isize::try_from(rates.concurrent_requests).unwrap_or(isize::MAX);
        if most > 0 && running > most {
            return Err(TooFast::Concurrent);
        }
        Ok(Running(place))
    }

    /// The source that made nearly all requests of the last minutes, if there is one.
    pub fn predominant(&self, now: Duration) -> Option<Source> {
        self.majority.found(now)
    }

    /// Notes that a request came with a wrong password or token.
    pub fn failure(&self, from: Source, now: Duration) {
        let more = WEIGHT_OF_FAILURE.saturating_sub(1);
        self.requests.add(from, more, now);
    }
}

/// Counts by source in periods: the present one, the one before, and one that is clean already.
struct Meter {
    periods: [Estimator; 3],
    present: AtomicU64,
}

impl Meter {
    fn new() -> Self {
        Self {
            periods: std::array::from_fn(|_| Estimator::new(HASHES, SLOTS)),
            present: AtomicU64::new(0),
        }
    }

    /// Counts one, unless there are too many already; what is refused does not count.
    fn admit(&self, from: Source, rate: u32, now: Duration) -> bool {
        if rate == 0 {
            return true;
        }
        let [before, present] = self.turn(now);
        let seen = |of: &Estimator| u64::try_from(of.get(from)).unwrap_or(0);
        // Of the period before, as much counts as lies within the last ten seconds.
        let passed = millis(now).checked_rem(millis(period())).unwrap_or(0);
        let left = millis(period()).saturating_sub(passed);
        let earlier = seen(before)
            .saturating_mul(left)
            .checked_div(millis(period()))
            .unwrap_or(0);
        let most = u64::from(rate).saturating_mul(PERIOD);
        if earlier.saturating_add(seen(present)) >= most {
            return false;
        }
        present.incr(from, 1);
        true
    }

    fn add(&self, from: Source, more: u32, now: Duration) {
        let [_, present] = self.turn(now);
        present.incr(from, isize::try_from(more).unwrap_or(isize::MAX));
    }

    /// The period before and the present one, after the turn of the period if it is time for it.
    fn turn(&self, now: Duration) -> [&Estimator; 2] {
        let number = now.as_secs().checked_div(PERIOD).unwrap_or(0);
        let [a, b, c] = &self.periods;
        let [before, present, next] = match number.checked_rem(3) {
            Some(0) => [c, a, b],
            Some(1) => [a, b, c],
            Some(_) | None => [b, c, a],
        };
        let last = self.present.fetch_max(number, Ordering::AcqRel);
        if last < number {
            // Whoever comes first in a period cleans up. Counts of others in this very moment may
            // be lost with it; a flood does not end there.
            next.reset();
            if last.saturating_add(1) < number {
                before.reset();
                present.reset();
            }
        }
        [before, present]
    }
}

fn period() -> Duration {
    Duration::from_secs(PERIOD)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Rates, SourceRateLimiter, TooFast, WEIGHT_OF_FAILURE};
    use crate::limit::Source;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    const RATES: Rates = Rates {
        requests_per_second: 10,
        connections_per_second: 2,
        concurrent_requests: 5,
    };

    fn source(number: u32) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn admitted(limiter: &SourceRateLimiter, from: u32, tries: usize, now: f64) -> usize {
        (0..tries)
            .filter(|_| limiter.request(source(from), RATES, at(now)).is_ok())
            .count()
    }

    #[test]
    fn a_burst_of_ten_seconds_worth_passes_and_then_the_rate() {
        let limiter = SourceRateLimiter::new();
        assert_eq!(admitted(&limiter, 1, 1000, 0.0), 100);
        assert_eq!(admitted(&limiter, 1, 10, 9.9), 0);
        // Another source is another source.
        assert_eq!(admitted(&limiter, 2, 1000, 9.9), 100);
        // In the middle of the next period half of it lies back far enough.
        assert_eq!(admitted(&limiter, 1, 1000, 15.0), 50);
        // After a pause everything is forgotten.
        assert_eq!(admitted(&limiter, 1, 1000, 60.0), 100);
    }

    #[test]
    fn a_steady_rate_below_the_limit_is_never_refused() {
        let limiter = SourceRateLimiter::new();
        for request in 0..600_u32 {
            let now = f64::from(request) / 9.5;
            assert_eq!(admitted(&limiter, 1, 1, now), 1, "at {now} s");
        }
    }

    #[test]
    fn a_flood_is_let_through_at_about_its_rate() {
        let limiter = SourceRateLimiter::new();
        let tenths = 0..1200_u32;
        let passed: usize = tenths
            .map(|tenth| admitted(&limiter, 1, 50, f64::from(tenth) / 10.0))
            .sum();
        // Two minutes at ten a second.
        assert!((1150..=1300).contains(&passed), "{passed}");
    }

    #[test]
    fn connections_requests_at_a_time_and_failures_have_limits_too() {
        let limiter = SourceRateLimiter::new();
        let connect = || limiter.connection(source(1), RATES, at(0.0));
        assert!((0..20).all(|_| connect().is_ok()));
        assert_eq!(connect(), Err(TooFast::Connections));

        let request = || limiter.request(source(1), RATES, at(0.0));
        let running: Vec<_> = (0..5).map(|_| request().unwrap()).collect();
        assert_eq!(request().unwrap_err(), TooFast::Concurrent);
        drop(running);
        assert!(request().is_ok());

        for _ in 0..100 / WEIGHT_OF_FAILURE {
            limiter.failure(source(3), at(0.0));
        }
        assert_eq!(admitted(&limiter, 3, 1000, 0.0), 10);
    }

    #[test]
    fn zero_is_without_limit() {
        let limiter = SourceRateLimiter::new();
        let off = Rates {
            requests_per_second: 0,
            connections_per_second: 0,
            concurrent_requests: 0,
        };
        for _ in 0..10_000 {
            assert!(limiter.request(source(1), off, at(0.0)).is_ok());
            assert!(limiter.connection(source(1), off, at(0.0)).is_ok());
        }
    }

    #[test]
    fn a_flood_of_sources_does_not_spoil_the_count_of_one() {
        let limiter = SourceRateLimiter::new();
        let rates = Rates {
            requests_per_second: 100,
            ..RATES
        };
        for number in 0..1_000_000 {
            drop(limiter.request(source(number), rates, at(1.0)));
        }
        // Some 120 too many of a thousand at the most.
        let alone = source(0xFFFF_0000);
        let passed = (0..2000)
            .filter(|_| limiter.request(alone, rates, at(2.0)).is_ok())
            .count();
        assert!((850..=1000).contains(&passed), "{passed}");
    }
}
