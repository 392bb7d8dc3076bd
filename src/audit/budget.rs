//! Bytes of the trail that each source may have. The one module that knows `governor`.
//!
//! Refused requests have a rate and a burst, of one source and of all together: the generic cell rate
//! algorithm, whose state is one number a source, and no exact window as in [`crate::limit`]. Permitted
//! ones are charged by hand. What they did is done when their bytes are known, so they must be charged
//! in full and into debt, and the debt must be read without paying for it; `governor` charges only what
//! fits, and has no way to look. Pure: the caller has the clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::FakeRelativeClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::limit::Source;

/// Bytes a second, and at once, of refused requests of one source.
const OF_ONE: Quota = Quota::per_second(bytes(2 << 10)).allow_burst(bytes(64 << 10));
/// The same of all sources together.
const OF_ALL: Quota = Quota::per_second(bytes(1 << 20)).allow_burst(bytes(1 << 20));
/// Bytes a second of permitted requests of one source; beyond a second's worth it waits.
const PERMITTED_RATE: u64 = 8 << 20;
/// Sources remembered at a time.
const SOURCES: usize = 16 << 10;
/// Time between two evictions of the sources that owe nothing any more.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);

type Limiter<K, S> = RateLimiter<K, S, FakeRelativeClock, NoOpMiddleware<Nanos>>;

/// What each source has had of the trail.
#[derive(Debug)]
pub(super) struct Budget {
    refused: Limiter<IpAddr, HashMapStateStore<IpAddr>>,
    refused_of_all: Limiter<NotKeyed, InMemoryState>,
    /// The time at which a source owes nothing any more.
    permitted: HashMap<Source, Duration>,
    /// The clock of both limiters, and the time that it shows.
    clock: FakeRelativeClock,
    now: Duration,
    evicted: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        let clock = FakeRelativeClock::default();
        Self {
            refused: RateLimiter::hashmap_with_clock(OF_ONE, clock.clone()),
            refused_of_all: RateLimiter::direct_with_clock(OF_ALL, clock.clone()),
            permitted: HashMap::new(),
            clock,
            now: Duration::ZERO,
            evicted: Duration::ZERO,
        }
    }
}

impl Budget {
    /// Takes the bytes of a refused request, if its source and all of them together may have so many.
    /// A source pays also for what only all of them together may not.
    pub(super) fn take(&mut self, client: IpAddr, bytes: u64, now: Duration) -> bool {
        self.advance(now);
        let Some(bytes) = u32::try_from(bytes).ok().and_then(NonZeroU32::new) else {
            return false;
        };
        self.refused.len() < SOURCES
            && matches!(
                self.refused.check_key_n(&customer(client), bytes),
                Ok(Ok(()))
            )
            && matches!(self.refused_of_all.check_n(bytes), Ok(Ok(())))
    }

    /// Charges the bytes of a permitted request.
    pub(super) fn charge(&mut self, client: IpAddr, bytes: u64, now: Duration) {
        self.advance(now);
        let source = Source::of(client);
        if self.permitted.len() >= SOURCES && !self.permitted.contains_key(&source) {
            return;
        }
        let paid = self.permitted.entry(source).or_default();
        *paid = (*paid).max(now).saturating_add(permitted_time(bytes));
    }

    /// Time that a source has to wait until its next permitted request.
    pub(super) fn debt(&self, client: IpAddr, now: Duration) -> Duration {
        let paid = self.permitted.get(&Source::of(client));
        let debt = paid.map_or(Duration::ZERO, |paid| paid.saturating_sub(now));
        debt.saturating_sub(Duration::from_secs(1))
    }

    /// Sources of refused requests that are remembered.
    #[cfg(test)]
    pub(super) fn sources(&self) -> usize {
        self.refused.len()
    }

    /// Sets the clock, and evicts the sources that owe nothing any more.
    fn advance(&mut self, now: Duration) {
        self.clock.advance(now.saturating_sub(self.now));
        self.now = self.now.max(now);
        if now.saturating_sub(self.evicted) < EVICTION_INTERVAL {
            return;
        }
        self.evicted = now;
        self.refused.retain_recent();
        self.permitted.retain(|_, paid| *paid > now);
    }
}

/// The network of one customer: an IPv4 address or an IPv6 /48, the most that a customer is given (RFC
/// 6177). A limit on it holds for each /56 and /64 in it as well.
fn customer(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

/// The time in which a source may have so many permitted bytes.
fn permitted_time(bytes: u64) -> Duration {
    let nanos = bytes.saturating_mul(1_000_000_000);
    Duration::from_nanos(nanos.checked_div(PERMITTED_RATE).unwrap_or_default())
}

const fn bytes(count: u32) -> NonZeroU32 {
    match NonZeroU32::new(count) {
        Some(count) => count,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, SOURCES};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn sources_are_bounded_and_those_that_owe_nothing_are_evicted() {
        let mut budget = Budget::default();
        let sources = u32::try_from(SOURCES).unwrap();
        for number in 0..2 * sources {
            budget.take(address(number), 2048, Duration::ZERO);
        }
        assert_eq!(budget.sources(), SOURCES);
        assert!(!budget.take(address(u32::MAX), 1, Duration::from_millis(999)));
        let later = Duration::from_secs(2);
        assert!(budget.take(address(u32::MAX), 1, later));
        assert_eq!(budget.sources(), 1);
    }

    #[test]
    fn what_is_larger_than_a_burst_never_fits() {
        let mut budget = Budget::default();
        for (bytes, fits) in [
            (0, false),
            (u64::MAX, false),
            (65_537, false),
            (65_536, true),
        ] {
            assert_eq!(
                budget.take(address(1), bytes, Duration::ZERO),
                fits,
                "{bytes}"
            );
        }
    }
}
