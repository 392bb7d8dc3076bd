//! Repositories that exist, as far as this process has seen them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use parking_lot::RwLock;

/// Repositories remembered. Beyond that the registry has more than it lists in reasonable time.
const MAX_REPOSITORIES: usize = 256 << 10;

/// Repositories that the registry has been seen to have, by a keyed hash of their names.
#[derive(Debug, Default)]
pub(super) struct Repositories {
    seen: RwLock<HashSet<u64>>,
    hasher: RandomState,
}

impl Repositories {
    /// Notes one that there is.
    pub(super) fn note(&self, repository: &str) {
        let hash = self.hasher.hash_one(repository);
        let has = |seen: &HashSet<u64>| seen.contains(&hash) || seen.len() >= MAX_REPOSITORIES;
        if has(&self.seen.read()) {
            return;
        }
        let mut seen = self.seen.write();
        seen.insert(hash);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        let hash = self.hasher.hash_one(name);
        let seen = self.seen.read();
        seen.contains(&hash)
    }
}
