//! What came of a case: figures over repeats, ratios within them, and whether goals are met.

use crate::cases::{Case, Entry, Goal, Limit, Values};
use crate::peers::Peer;

pub(crate) struct Outcome {
    pub(crate) case: Case,
    /// A repeat each, with a result for each entry.
    pub(crate) repeats: Vec<Vec<Result<Values, String>>>,
}

pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
}

/// A goal, and how far it is reached.
pub(crate) struct Verdict {
    pub(crate) value: Option<f64>,
    pub(crate) is_met: bool,
}

impl Outcome {
    /// Adds a repeat, and to it what only the repeat as a whole tells: the latency that is added to
    /// that of the bare registry.
    pub(crate) fn add(&mut self, mut repeat: Vec<Result<Values, String>>) {
        let is_bare = |entry: &Entry| entry.peer == Peer::Bare;
        let bare = self.case.entries.iter().position(is_bare);
        if let Some(Ok(bare)) = bare.and_then(|bare| repeat.get(bare).cloned()) {
            for values in repeat.iter_mut().flatten() {
                for (of, added) in [("p50_us", "added_p50_us"), ("p99_us", "added_p99_us")] {
                    if let (Some(all), Some(part)) = (values.get(of).copied(), bare.get(of)) {
                        values.insert(added, all - part);
                    }
                }
            }
        }
        self.repeats.push(repeat);
    }

    /// The first error of an entry. One is enough to say nothing else about it.
    pub(crate) fn failure(&self, entry: usize) -> Option<&str> {
        let results = self.repeats.iter().filter_map(|repeat| repeat.get(entry));
        let mut errors = results.filter_map(|result| result.as_ref().err());
        errors.next().map(String::as_str)
    }

    fn values(&self, entry: usize, metric: &str) -> Vec<Option<f64>> {
        let of = |repeat: &Vec<Result<Values, String>>| {
            repeat.get(entry)?.as_ref().ok()?.get(metric).copied()
        };
        self.repeats.iter().map(of).collect()
    }

    pub(crate) fn figure(&self, entry: usize, metric: &str) -> Option<Figure> {
        if self.failure(entry).is_some() {
            return None;
        }
        let values: Vec<_> = self.values(entry, metric).into_iter().flatten().collect();
        let lowest = values.iter().copied().reduce(f64::min)?;
        Some(Figure {
            median: median(values)?,
            lowest,
        })
    }

    /// The median of the ratios to the reference, each within one repeat.
    pub(crate) fn ratio(&self, entry: usize, metric: &str) -> Option<f64> {
        let reference = self.position(self.case.reference)?;
        if self.failure(entry).or(self.failure(reference)).is_some() {
            return None;
        }
        let pairs = self
            .values(entry, metric)
            .into_iter()
            .zip(self.values(reference, metric));
        // What is added to a latency may be less than nothing where the machine is busy.
        let ratio = |(ours, theirs): (Option<f64>, Option<f64>)| {
            let theirs = theirs.filter(|theirs| *theirs > 0.0)?;
            Some(ours? / theirs)
        };
        median(pairs.filter_map(ratio).collect())
    }

    /// The lines of a curve, in their order; none where the case is no curve.
    pub(crate) fn lines(&self) -> Vec<&'static str> {
        let mut lines = Vec::new();
        for point in self.case.entries.iter().filter_map(|entry| entry.point) {
            if !lines.contains(&point.line) {
                lines.push(point.line);
            }
        }
        lines
    }

    /// The sizes of a line, with the medians of a figure.
    pub(crate) fn along(&self, line: &str, metric: &str) -> Vec<(usize, f64)> {
        let entries = self.case.entries.iter().enumerate();
        let median = |(at, entry): (usize, &Entry)| {
            let point = entry.point.filter(|point| point.line == line)?;
            Some((point.size, self.figure(at, metric)?.median))
        };
        entries.filter_map(median).collect()
    }

    /// The most that a figure grows from one size of a line to the next, each ten times the last.
    /// None where a size was not measured.
    pub(crate) fn steepest(&self, line: &str, metric: &str) -> Option<f64> {
        let entries = self.case.entries.iter();
        let points = entries.filter_map(|entry| entry.point);
        let wanted = points.filter(|point| point.line == line).count();
        let along = self.along(line, metric);
        if along.len() < wanted {
            return None;
        }
        let steps = along
            .iter()
            .zip(along.iter().skip(1))
            .map(|(from, to)| to.1 / from.1);
        steps.reduce(f64::max)
    }

    pub(crate) fn position(&self, label: &str) -> Option<usize> {
        self.case
            .entries
            .iter()
            .position(|entry| entry.label == label)
    }

    pub(crate) fn verdict(&self, goal: &Goal) -> Verdict {
        let entry = || self.position(goal.entry);
        let (value, limit) = match goal.limit {
            Limit::Ratio(limit) => (
                entry().and_then(|entry| self.ratio(entry, goal.metric)),
                limit,
            ),
            Limit::AtMost(limit) => (
                entry().and_then(|entry| Some(self.figure(entry, goal.metric)?.median)),
                limit,
            ),
            Limit::PerDecade(limit) => (self.steepest(goal.entry, goal.metric), limit),
        };
        Verdict {
            value,
            is_met: value.is_some_and(|value| value <= limit),
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*upper, *lower))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_or_between() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }
}
