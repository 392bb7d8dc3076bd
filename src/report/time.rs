//! The shape of traffic over time, in bounded memory: hours at first, and when there are too many of
//! them days, weeks, and four weeks.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::counts::{Counts, Traffic};
use crate::audit::Entry;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// From fine to coarse.
const WIDTHS: [i64; 5] = [HOUR, DAY, 7 * DAY, 28 * DAY, 364 * DAY];
/// Slices kept at a time; hours of nearly a year.
const MAX_SLICES: usize = 8192;

/// Sums of one slice of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) counts: Counts,
    pub(super) traffic: Traffic,
}

impl Slice {
    fn absorb(&mut self, other: Self) {
        self.counts.absorb(other.counts);
        self.traffic.absorb(other.traffic);
    }
}

/// Slices by number since the epoch.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    width: i64,
    slices: BTreeMap<i64, Slice>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: HOUR,
            slices: BTreeMap::new(),
        }
    }
}

impl Timeline {
    pub(super) fn add(&mut self, entry: &Entry, times: u64, traffic: Traffic) {
        while self.slices.len() >= MAX_SLICES
            && !self.slices.contains_key(&self.number(entry.time))
            && let Some(wider) = self.wider()
        {
            *self = self.widened(wider);
        }
        let number = self.number(entry.time);
        let slice = self.slices.entry(number).or_default();
        slice.counts.add(entry.outcome, times);
        slice.traffic.absorb(traffic);
    }

    /// The unit, and at most `most` slices without gaps, each with its beginning.
    pub(super) fn whole(&self, most: usize) -> (&'static str, Vec<(Timestamp, Slice)>) {
        let mut line = self.clone();
        while line.span() > most
            && let Some(wider) = line.wider()
        {
            line = line.widened(wider);
        }
        let first = line.slices.keys().next().copied().unwrap_or_default();
        let slices = (first..).take(line.span().min(most)).map(|number| {
            let begin = Timestamp::from_second(number.saturating_mul(line.width));
            let slice = line.slices.get(&number).copied().unwrap_or_default();
            (begin.unwrap_or_default(), slice)
        });
        (line.unit(), slices.collect())
    }

    fn unit(&self) -> &'static str {
        match self.width {
            HOUR => "hour",
            DAY => "day",
            width if width == 7 * DAY => "week",
            width if width == 28 * DAY => "four weeks",
            _ => "year",
        }
    }

    fn number(&self, time: Timestamp) -> i64 {
        time.as_second().div_euclid(self.width.max(1))
    }

    fn span(&self) -> usize {
        match (self.slices.keys().next(), self.slices.keys().next_back()) {
            (Some(first), Some(last)) => {
                let span = last.saturating_sub(*first).saturating_add(1);
                usize::try_from(span).unwrap_or(usize::MAX)
            }
            (Some(_) | None, _) => 0,
        }
    }

    fn wider(&self) -> Option<i64> {
        WIDTHS.into_iter().find(|width| *width > self.width)
    }

    fn widened(&self, width: i64) -> Self {
        let mut slices: BTreeMap<i64, Slice> = BTreeMap::new();
        for (number, slice) in &self.slices {
            let number = number.saturating_mul(self.width).div_euclid(width.max(1));
            slices.entry(number).or_default().absorb(*slice);
        }
        Self { width, slices }
    }
}

/// Requests by day of the week, from Monday, and hour of the day, in UTC.
#[derive(Clone, Debug, Default)]
pub(super) struct Week([[u64; 24]; 7]);

impl Week {
    pub(super) const DAYS: [&'static str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

    pub(super) fn add(&mut self, time: Timestamp, times: u64) {
        let hour = time.as_second().div_euclid(HOUR);
        // The epoch began on a Thursday.
        let day = hour.div_euclid(24).saturating_add(3).rem_euclid(7);
        let day = usize::try_from(day).unwrap_or_default();
        let hour = usize::try_from(hour.rem_euclid(24)).unwrap_or_default();
        if let Some(count) = self.0.get_mut(day).and_then(|day| day.get_mut(hour)) {
            *count = count.saturating_add(times);
        }
    }

    pub(super) fn days(&self) -> impl Iterator<Item = (&'static str, &[u64; 24])> {
        Self::DAYS.into_iter().zip(&self.0)
    }

    pub(super) fn highest(&self) -> u64 {
        self.0.iter().flatten().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SLICES, Slice, Timeline, Week};
    use crate::audit::Entry;
    use crate::report::counts::Traffic;
    use jiff::Timestamp;

    fn entry(second: i64) -> Entry {
        let time = Timestamp::from_second(second).unwrap();
        let line = format!("{{\"time\":\"{time}\",\"event\":\"request\",\"outcome\":\"allowed\"}}");
        Entry::parse(line.as_bytes()).unwrap()
    }

    fn total(slices: &[(Timestamp, Slice)]) -> u64 {
        slices.iter().map(|(_, slice)| slice.counts.total()).sum()
    }

    #[test]
    fn gaps_are_shown_and_many_hours_are_days() {
        let mut line = Timeline::default();
        let traffic = Traffic::default();
        line.add(&entry(7200 + 1), 1, traffic);
        line.add(&entry(5 * 3600), 40, traffic);
        let (unit, slices) = line.whole(10);
        assert_eq!((unit, slices.len(), total(&slices)), ("hour", 4, 41));
        assert_eq!(slices[0].0.to_string(), "1970-01-01T02:00:00Z");
        assert_eq!(slices[1].1, Slice::default());
        assert_eq!(slices[3].1.counts.allowed, 40);
        let (unit, slices) = line.whole(3);
        assert_eq!((unit, slices.len(), total(&slices)), ("day", 1, 41));
        assert!(Timeline::default().whole(3).1.is_empty());
    }

    #[test]
    fn a_trail_of_all_times_stays_small() {
        let mut line = Timeline::default();
        for number in 0..40_000 {
            line.add(&entry(number * 3600 * 5), 1, Traffic::default());
            assert!(line.slices.len() <= MAX_SLICES);
        }
        for second in [Timestamp::MIN, Timestamp::MAX] {
            line.add(&entry(second.as_second()), 1, Traffic::default());
        }
        let (_, slices) = line.whole(usize::MAX);
        assert_eq!(total(&slices), 40_002);
    }

    #[test]
    fn days_begin_on_monday() {
        let mut week = Week::default();
        week.add("2026-11-22T23:59:59Z".parse().unwrap(), 3);
        let (day, hours) = week.days().last().unwrap();
        assert_eq!((day, hours[23], week.highest()), ("Sun", 3, 3));
    }
}
