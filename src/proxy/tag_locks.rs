//! Tags that are being written while somebody creates them who may not move them.
//!
//! Whether a tag exists is asked of the registry before the manifest is sent. Whoever writes the tag in
//! between would have it moved by somebody who may not. So one who creates is alone with his tags from
//! the question to the answer, and waits for those who are writing them already; those who may move
//! them wait for him. Everybody has sent his manifest before, so all that is waited for is the registry;
//! the caller bounds that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::registry::{RepoName, Tag};

/// The claims in force. They are this process's alone.
#[derive(Debug, Default)]
pub struct Creating(Mutex<HashMap<String, Arc<RwLock<()>>>>);

/// A claim on some tags, until it is dropped.
#[derive(Debug)]
#[must_use = "a claim ends when it is dropped"]
pub struct Claim {
    held: Vec<Held>,
    names: Vec<String>,
    of: Arc<Creating>,
}

#[derive(Debug)]
enum Held {
    Alone(#[expect(dead_code, reason = "held for its Drop")] OwnedRwLockWriteGuard<()>),
    Among(#[expect(dead_code, reason = "held for its Drop")] OwnedRwLockReadGuard<()>),
}

impl Creating {
    /// Claims tags for one who may only create them.
    pub async fn create(self: &Arc<Self>, repo: &RepoName, tags: &[&Tag]) -> Claim {
        let mut claim = Claim::none(self);
        // In the order of their names, so that no two wait for each other.
        for name in names(repo, tags) {
            let held = claim.add(name).write_owned().await;
            claim.held.push(Held::Alone(held));
        }
        claim
    }

    /// Claims tags for one who may move them, among others.
    pub async fn write(self: &Arc<Self>, repo: &RepoName, tags: &[&Tag]) -> Claim {
        let mut claim = Claim::none(self);
        for name in names(repo, tags) {
            let held = claim.add(name).read_owned().await;
            claim.held.push(Held::Among(held));
        }
        claim
    }
}

impl Claim {
    fn none(of: &Arc<Creating>) -> Self {
        Self {
            held: Vec::new(),
            names: Vec::new(),
            of: Arc::clone(of),
        }
    }

    fn add(&mut self, name: String) -> Arc<RwLock<()>> {
        let mut all = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(all.entry(name.clone()).or_default());
        self.names.push(name);
        lock
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.held.clear();
        let mut all = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            // Those who wait or hold have a clone.
            if all
                .get(name)
                .is_some_and(|lock| Arc::strong_count(lock) == 1)
            {
                all.remove(name);
            }
        }
    }
}

fn names(repo: &RepoName, tags: &[&Tag]) -> Vec<String> {
    let mut names: Vec<_> = tags.iter().map(|tag| format!("{repo}:{tag}")).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::Creating;
    use crate::registry::{RepoName, Tag};
    use std::sync::Arc;

    /// Whether a future has to wait; it is given up then.
    async fn waits<T>(future: impl Future<Output = T>) -> bool {
        tokio::select! {
            biased;
            _claimed = future => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn who_creates_is_alone_and_others_wait_for_him() {
        let creating = Arc::new(Creating::default());
        let (a, b) = (RepoName::parse("a").unwrap(), RepoName::parse("b").unwrap());
        let (v1, v2) = (Tag::parse("v1").unwrap(), Tag::parse("v2").unwrap());
        let claim = creating.create(&a, &[&v1, &v1]).await;
        assert!(waits(creating.create(&a, &[&v2, &v1])).await);
        let other = creating.create(&b, &[&v1]).await;
        let tags = [&v2, &v1];
        assert!(waits(creating.write(&a, &tags)).await);
        drop(claim);
        let moving = creating.write(&a, &tags).await;
        let also = creating.write(&a, &[&v1]).await;
        assert!(waits(creating.create(&a, &[&v1])).await);
        drop((moving, also));
        drop(creating.create(&a, &[&v2, &v1]).await);
        drop(other);
        assert!(creating.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let creating = Arc::new(Creating::default());
        let (a, v1) = (RepoName::parse("a").unwrap(), Tag::parse("v1").unwrap());
        let claim = creating.create(&a, &[&v1]).await;
        let tags = [&v1];
        assert!(waits(creating.write(&a, &tags)).await);
        assert!(waits(creating.create(&a, &tags)).await);
        drop(claim);
        assert!(creating.0.lock().unwrap().is_empty());
    }
}
