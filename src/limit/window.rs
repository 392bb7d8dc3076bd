//! The pulls of one subject inside a sliding window, exactly.
//!
//! The window is a log: the time of each pull that still counts, four bytes each, up to four of them
//! without an allocation. So there are never more than `count` pulls in any window of `per`, and a
//! pull is refused only if there are that many, to the millisecond. The usual arithmetic with one
//! number for each subject (GCRA, as in the crate `governor`) is smaller by the log, but lets a
//! burst of `count` through and one more for each `per / count` after it: up to twice the count in
//! a bad window. Nor can it be asked without being charged, which HEAD needs.

use std::time::Duration;

use smallvec::SmallVec;

/// So many in such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many; 0 is unlimited.
    pub count: u32,
    /// In what time.
    pub per: Duration,
}

impl Quota {
    /// The longest window. A log of pulls is not longer than this.
    pub const LONGEST: Duration = Duration::from_hours(31 * 24);
    /// The largest limit. A log of pulls has no more entries than this.
    pub const LARGEST: u32 = 100_000;

    /// Whether there is no limit.
    pub fn is_unlimited(self) -> bool {
        self.count == 0
    }
}

/// A log of pulls, oldest first. `Duration`s are since the caller's epoch; they are kept in whole
/// milliseconds, of which the log holds the lower 32 bits: unambiguous for windows up to
/// [`Quota::LONGEST`], because all that is kept lies within one window of the newest.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The latest time at which a pull was taken, also if it has been given back since.
    newest: u64,
    log: SmallVec<[u32; 4]>,
}

/// The time of a pull, to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken(u64);

impl Window {
    /// Takes a pull, or says how long to wait for one. A time before the newest one is taken for
    /// the newest.
    pub(super) fn take(&mut self, now: Duration, quota: Quota) -> Result<Taken, Duration> {
        let now = milliseconds(now).max(self.newest);
        self.log.drain(..self.expired(now, quota));
        let wait = self.wait(now, quota);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.newest = now;
        self.log.push(low(now));
        Ok(Taken(now))
    }

    /// Makes a pull undone.
    pub(super) fn give_back(&mut self, taken: Taken) {
        let at = low(taken.0);
        if let Some(position) = self.log.iter().rposition(|entry| *entry == at) {
            self.log.remove(position);
        }
    }

    /// How many pulls count now.
    pub(super) fn used(&self, now: Duration, quota: Quota) -> u32 {
        let now = milliseconds(now).max(self.newest);
        let used = self.log.len().saturating_sub(self.expired(now, quota));
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// Until the next pull can be taken; zero if it can be now.
    fn wait(&self, now: u64, quota: Quota) -> Duration {
        let free = usize::try_from(quota.count).unwrap_or(usize::MAX);
        // With `free` or more in the log, the one that makes room is the `free`-th from its end.
        let blocking = self.log.len().checked_sub(free);
        let Some(entry) = blocking.and_then(|index| self.log.get(index)) else {
            return Duration::ZERO;
        };
        let age = self.age(*entry, now);
        Duration::from_millis(milliseconds(quota.per).saturating_sub(age))
    }

    /// How many at the beginning of the log do not count any more: those `per` ago or longer.
    fn expired(&self, now: u64, quota: Quota) -> usize {
        let per = milliseconds(quota.per);
        self.log
            .partition_point(|entry| self.age(*entry, now) >= per)
    }

    fn age(&self, entry: u32, now: u64) -> u64 {
        let before_newest = low(self.newest).wrapping_sub(entry);
        now.saturating_sub(self.newest)
            .saturating_add(u64::from(before_newest))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn low(time: u64) -> u32 {
    let [a, b, c, d, ..] = time.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test fails the test"
)]
mod tests {
    use super::{Quota, Taken, Window};
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn quota(count: u32, per: u64) -> Quota {
        Quota {
            count,
            per: at(per),
        }
    }

    #[test]
    fn a_pull_counts_for_exactly_one_window() {
        let mut window = Window::default();
        let two = quota(2, 1000);
        assert!(window.take(at(0), two).is_ok());
        assert!(window.take(at(400), two).is_ok());
        assert_eq!(window.take(at(500), two), Err(at(500)));
        assert_eq!(window.take(at(999), two), Err(at(1)));
        assert_eq!(window.used(at(999), two), 2);
        assert_eq!(window.used(at(1000), two), 1);
        assert!(window.take(at(1000), two).is_ok());
        assert_eq!(window.take(at(1000), two), Err(at(400)));
        assert_eq!(window.used(at(50_000), two), 0);
    }

    #[test]
    fn a_pull_given_back_never_was() {
        let mut window = Window::default();
        let two = quota(2, 1000);
        let first = window.take(at(0), two).unwrap();
        let second = window.take(at(100), two).unwrap();
        window.give_back(first);
        assert_eq!(window.used(at(100), two), 1);
        assert!(window.take(at(200), two).is_ok());
        assert_eq!(window.take(at(300), two), Err(at(800)));
        window.give_back(second);
        // Once more is once too often, and does no harm.
        window.give_back(second);
        assert_eq!(window.used(at(300), two), 1);
    }

    #[test]
    fn a_changed_quota_reads_the_same_log() {
        let mut window = Window::default();
        for time in 0..5 {
            assert!(window.take(at(time * 100), quota(10, 10_000)).is_ok());
        }
        assert_eq!(window.used(at(500), quota(20, 10_000)), 5);
        // Two are allowed now: three of the five have to go first.
        assert_eq!(window.take(at(500), quota(2, 10_000)), Err(at(9_800)));
        assert_eq!(window.take(at(500), quota(2, 400)), Err(at(200)));
        assert_eq!(window.used(at(500), quota(2, 100)), 0);
    }

    #[test]
    fn a_clock_that_goes_back_is_not_believed() {
        let mut window = Window::default();
        let one = quota(1, 1000);
        assert!(window.take(at(5000), one).is_ok());
        assert_eq!(window.take(at(10), one), Err(at(1000)));
        assert_eq!(window.used(at(10), one), 1);
    }

    #[test]
    fn lower_halves_of_times_are_unambiguous() {
        let month = quota(3, 31 * 86_400_000);
        let start = u64::from(u32::MAX) - 5;
        let mut window = Window::default();
        assert!(window.take(at(start), month).is_ok());
        assert!(window.take(at(start + 20 * 86_400_000), month).is_ok());
        assert_eq!(window.used(at(start + 30 * 86_400_000), month), 2);
        assert_eq!(window.used(at(start + 31 * 86_400_000), month), 1);
        // Untouched for longer than 32 bits of milliseconds can tell.
        assert_eq!(window.used(at(start + 70 * 86_400_000), month), 0);
    }

    /// The same promise in the slowest way: every pull is kept for ever, every window looked at.
    #[derive(Default)]
    struct Reference(Vec<(u64, bool)>);

    impl Reference {
        fn live(&self, now: u64, per: u64) -> usize {
            let counts = |(at, kept): &&(u64, bool)| *kept && now < at + per;
            self.0.iter().filter(counts).count()
        }

        fn most_in_any_window(&self, per: u64) -> usize {
            let kept = || self.0.iter().filter(|(_, kept)| *kept).map(|(at, _)| *at);
            let within = |start: u64| kept().filter(move |at| (start..start + per).contains(at));
            kept().map(|start| within(start).count()).max().unwrap_or(0)
        }
    }

    proptest! {
        #[test]
        fn never_more_and_never_fewer_than_promised(
            count in 1_u32..6,
            per in 1_u64..2000,
            start in prop_oneof![Just(0), Just(u64::from(u32::MAX) - 3000)],
            steps in prop::collection::vec((0_u64..400, 0_u8..10), 1..200),
        ) {
            let quota = quota(count, per);
            let (mut window, mut slow) = (Window::default(), Reference::default());
            let mut held: Vec<(Taken, usize)> = Vec::new();
            let mut now = start;
            for (pause, what) in steps {
                now += pause;
                let live = slow.live(now, per);
                prop_assert_eq!(window.used(at(now), quota), u32::try_from(live).unwrap());
                match what {
                    // Gives a pull back that is still under way.
                    0 if !held.is_empty() => {
                        let (taken, number) = held.swap_remove(held.len() / 2);
                        window.give_back(taken);
                        slow.0[number].1 = false;
                    }
                    1..=9 => match window.take(at(now), quota) {
                        Ok(taken) => {
                            prop_assert!(live < count as usize, "one too many");
                            slow.0.push((now, true));
                            if what > 6 {
                                held.push((taken, slow.0.len() - 1));
                            }
                        }
                        Err(wait) => {
                            prop_assert!(live >= count as usize, "refused too early");
                            // The wait is true: a moment before there is no room, then there is.
                            let then = now + u64::try_from(wait.as_millis()).unwrap();
                            prop_assert!(slow.live(then - 1, per) >= count as usize);
                            prop_assert!(slow.live(then, per) < count as usize);
                        }
                    },
                    _ => {}
                }
            }
            prop_assert!(slow.most_in_any_window(per) <= count as usize);
        }
    }
}
