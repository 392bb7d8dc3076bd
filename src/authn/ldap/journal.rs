//! What was asked of a directory and what it said, for whoever sets one up.

use std::time::{Duration, Instant};

/// One step of a question to a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is about.
    pub what: &'static str,
    /// What was sent, or what came back.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
}

/// The steps so far, if somebody wants to know.
#[derive(Debug, Default)]
pub(super) struct Journal(Option<(Instant, Vec<Step>)>);

impl Journal {
    /// One that is kept.
    pub(super) fn kept() -> Self {
        Self(Some((Instant::now(), Vec::new())))
    }

    /// Whether somebody wants to know.
    pub(super) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Notes a step, which took the time since the one before.
    pub(super) fn note(&mut self, what: &'static str, detail: impl FnOnce() -> String) {
        if let Some((since, steps)) = &mut self.0 {
            let now = Instant::now();
            let took = now.duration_since(std::mem::replace(since, now));
            let detail = detail();
            steps.push(Step { what, detail, took });
        }
    }

    /// The steps.
    pub(super) fn into_steps(self) -> Vec<Step> {
        self.0.map(|(_, steps)| steps).unwrap_or_default()
    }
}
