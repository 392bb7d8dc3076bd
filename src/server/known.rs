//! What exists, as far as that is known without asking anybody: for records that tell of many refusals.
//! Names of what exists are always told there, see `audit::suppress`.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock, Weak};

use super::respond::Proxy;
use crate::audit::Known;
use crate::identity::Subject;
use crate::registry::RepoName;

/// Repositories remembered. Beyond that the registry has more than it lists in reasonable time.
const REPOSITORIES: usize = 256 << 10;

/// Repositories that the registry has been seen to have, by a keyed hash of their names.
#[derive(Debug, Default)]
pub(super) struct Repositories {
    seen: RwLock<HashSet<u64>>,
    hasher: RandomState,
}

impl Repositories {
    /// Notes one that there is.
    pub(super) fn note(&self, repository: &RepoName) {
        let hash = self.hasher.hash_one(repository.as_str());
        let has = |seen: &HashSet<u64>| seen.contains(&hash) || seen.len() >= REPOSITORIES;
        if has(&self.seen.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.insert(hash);
    }

    fn has(&self, name: &str) -> bool {
        let hash = self.hasher.hash_one(name);
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.contains(&hash)
    }
}

/// The proxy's knowledge, as long as there is a proxy.
pub(super) struct Knowledge(pub(super) Weak<Proxy>);

impl Known for Knowledge {
    fn is_user(&self, name: &str) -> bool {
        self.0.upgrade().is_some_and(|proxy| {
            let rules = proxy.rules();
            match Subject::read(name) {
                Ok(Subject::Robot(robot)) => rules.robots.current().get(robot.name()).is_some(),
                Ok(Subject::Person(name)) => rules.authenticator.remembers(&name),
                Ok(Subject::Nobody | Subject::Workload(_)) | Err(_) => false,
            }
        })
    }

    fn is_repository(&self, name: &str) -> bool {
        self.0.upgrade().is_some_and(|proxy| {
            proxy.repositories.has(name) || proxy.rules().policy.spells_out(name)
        })
    }
}
