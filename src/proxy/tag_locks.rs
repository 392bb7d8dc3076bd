//! Locks on tags that are being written while a caller creates them who may not move them.
//!
//! Whether a tag exists is asked of the registry before the manifest is sent. A push of the tag in
//! between would have it moved by a caller who may not. So a caller who creates tags is alone with them
//! from the question to the answer, and waits for those who are writing them already; those who may
//! move them wait in turn. All of them have sent their manifests before, so what is waited for is the
//! registry; the caller bounds that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::registry::{RepoName, Tag};

/// The locks in force. They are this process's alone; see [`crate::store::TagClaim`] for replicas.
#[derive(Debug, Default)]
pub(super) struct TagLocks(Mutex<HashMap<String, Arc<RwLock<()>>>>);

/// A lock on some tags, until it is dropped.
#[derive(Debug)]
#[must_use = "a lock ends when it is dropped"]
pub(super) struct TagGuard {
    held: Vec<Held>,
    names: Vec<String>,
    of: Arc<TagLocks>,
}

#[derive(Debug)]
enum Held {
    Alone(#[expect(dead_code, reason = "held for its Drop")] OwnedRwLockWriteGuard<()>),
    Among(#[expect(dead_code, reason = "held for its Drop")] OwnedRwLockReadGuard<()>),
}

impl TagLocks {
    /// Locks tags for one who may only create them.
    pub(super) async fn create(self: &Arc<Self>, repo: &RepoName, tags: &[&Tag]) -> TagGuard {
        let mut guard = TagGuard::none(self);
        // In the order of their names, so that no two wait for each other.
        for name in places(repo, tags) {
            let held = guard.add(name).write_owned().await;
            guard.held.push(Held::Alone(held));
        }
        guard
    }

    /// Locks tags for one who may move them, among others.
    pub(super) async fn write(self: &Arc<Self>, repo: &RepoName, tags: &[&Tag]) -> TagGuard {
        let mut guard = TagGuard::none(self);
        for name in places(repo, tags) {
            let held = guard.add(name).read_owned().await;
            guard.held.push(Held::Among(held));
        }
        guard
    }
}

impl TagGuard {
    fn none(of: &Arc<TagLocks>) -> Self {
        Self {
            held: Vec::new(),
            names: Vec::new(),
            of: Arc::clone(of),
        }
    }

    fn add(&mut self, name: String) -> Arc<RwLock<()>> {
        let mut all = self.of.0.lock();
        let lock = Arc::clone(all.entry(name.clone()).or_default());
        self.names.push(name);
        lock
    }
}

impl Drop for TagGuard {
    fn drop(&mut self) {
        self.held.clear();
        let mut all = self.of.0.lock();
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

/// The tags as `repository:tag`, each once, in the order of their names.
pub(super) fn places(repo: &RepoName, tags: &[&Tag]) -> Vec<String> {
    let mut names: Vec<_> = tags.iter().map(|tag| format!("{repo}:{tag}")).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::TagLocks;
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
        let locks = Arc::new(TagLocks::default());
        let (a, b) = (RepoName::parse("a").unwrap(), RepoName::parse("b").unwrap());
        let (v1, v2) = (Tag::parse("v1").unwrap(), Tag::parse("v2").unwrap());
        let guard = locks.create(&a, &[&v1, &v1]).await;
        assert!(waits(locks.create(&a, &[&v2, &v1])).await);
        let other = locks.create(&b, &[&v1]).await;
        let tags = [&v2, &v1];
        assert!(waits(locks.write(&a, &tags)).await);
        drop(guard);
        let moving = locks.write(&a, &tags).await;
        let also = locks.write(&a, &[&v1]).await;
        assert!(waits(locks.create(&a, &[&v1])).await);
        drop((moving, also));
        drop(locks.create(&a, &[&v2, &v1]).await);
        drop(other);
        assert!(locks.0.lock().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let locks = Arc::new(TagLocks::default());
        let (a, v1) = (RepoName::parse("a").unwrap(), Tag::parse("v1").unwrap());
        let guard = locks.create(&a, &[&v1]).await;
        let tags = [&v1];
        assert!(waits(locks.write(&a, &tags)).await);
        assert!(waits(locks.create(&a, &tags)).await);
        drop(guard);
        assert!(locks.0.lock().is_empty());
    }
}
