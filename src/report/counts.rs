//! Requests by outcome, and what they moved.

use crate::audit::{Entry, Outcome};

/// Requests by outcome; a suppressed record counts as the requests that it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    pub(super) limited: u64,
    pub(super) error: u64,
    pub(super) aborted: u64,
}

impl Counts {
    pub(super) fn add(&mut self, outcome: Outcome, times: u64) {
        let count = match outcome {
            Outcome::Aborted => &mut self.aborted,
            Outcome::Allowed => &mut self.allowed,
            // Counted separately, as challenges.
            Outcome::Challenged => return,
            Outcome::Denied => &mut self.denied,
            Outcome::Error => &mut self.error,
            Outcome::Failed => &mut self.failed,
            Outcome::Limited => &mut self.limited,
        };
        *count = count.saturating_add(times);
    }

    pub(super) fn absorb(&mut self, other: Self) {
        for (outcome, count) in Outcome::ALL.into_iter().zip(other.by_outcome()) {
            self.add(outcome, count);
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.by_outcome().into_iter().fold(0, u64::saturating_add)
    }

    /// In the order of [`Outcome::ALL`].
    fn by_outcome(&self) -> [u64; 7] {
        [
            self.aborted,
            self.allowed,
            0,
            self.denied,
            self.error,
            self.failed,
            self.limited,
        ]
    }
}

/// Images and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) pulls: u64,
    pub(super) pushes: u64,
    pub(super) deletes: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Traffic {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            pulls: entry.is_pull().into(),
            pushes: entry.is_push().into(),
            deletes: entry.is_delete().into(),
            bytes_in: entry.bytes_in,
            bytes_out: entry.bytes_out,
        }
    }

    pub(super) fn absorb(&mut self, other: Self) {
        self.pulls = self.pulls.saturating_add(other.pulls);
        self.pushes = self.pushes.saturating_add(other.pushes);
        self.deletes = self.deletes.saturating_add(other.deletes);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes_in.saturating_add(self.bytes_out)
    }
}
