//! The proxy as it runs: the rules in force, and what all its requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use super::effects::Effects;
use super::listing::Listings;
use super::repositories::Repositories;
use super::tag_locks::TagLocks;
use crate::limit::Usage;
use crate::state::{Retained, Rules};

/// The proxy: rules that a reload swaps, and what survives it.
pub struct Proxy {
    pub(super) rules: ArcSwap<Rules>,
    pub(super) retained: Arc<Retained>,
    pub(super) turned_away: AtomicU64,
    pub(crate) effects: Effects,
    pub(super) tag_locks: Arc<TagLocks>,
    pub(super) repositories: Repositories,
    pub(super) listings: Arc<Listings>,
    pub(super) draining: AtomicBool,
}

impl Proxy {
    /// The rules in force now.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Puts new rules in force for all requests that begin from now on.
    pub fn swap(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// What survives a reload.
    pub fn retained(&self) -> &Arc<Retained> {
        &self.retained
    }

    /// Says that no new connections are taken, for balancers that ask whether to send some.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether that was said.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How many requests were turned away unread since the start.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// What all callers share, by the names that metrics use.
    pub fn shared(&self) -> Vec<(&'static str, Usage)> {
        let mut all = vec![
            ("audit_queue", self.retained.audit.usage()),
            ("catalog", self.listings.usage()),
            ("password_hashing", self.retained.memory.pool().usage()),
        ];
        if let Some(directory) = self.rules().authenticator.directory() {
            all.push(("directory_binds", directory.usage()));
        }
        all
    }
}
