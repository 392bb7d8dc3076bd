//! Tags that are being created by callers who may not move them.
//!
//! Whether a tag exists is asked of the registry before the manifest is sent. Two callers who ask at
//! the same time would both be told "no"; the second one to claim the tag is refused instead.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::registry::{RepoName, Tag};

/// The claims in force. They are this process's alone.
#[derive(Debug, Default)]
pub struct Creating(Mutex<HashSet<String>>);

/// A claim on some tags, until it is dropped.
#[derive(Debug)]
#[must_use = "a claim ends when it is dropped"]
pub struct Claim {
    names: Vec<String>,
    of: Arc<Creating>,
}

impl Creating {
    /// Claims tags; `None` if one of them is claimed already.
    pub fn claim(self: &Arc<Self>, repo: &RepoName, tags: &[&Tag]) -> Option<Claim> {
        let mut names: Vec<String> = tags.iter().map(|tag| format!("{repo}:{tag}")).collect();
        names.sort_unstable();
        names.dedup();
        let mut claimed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.iter().any(|name| claimed.contains(name)) {
            return None;
        }
        claimed.extend(names.iter().cloned());
        Some(Claim {
            names,
            of: Arc::clone(self),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            claimed.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Creating;
    use crate::registry::{RepoName, Tag};
    use std::sync::Arc;

    #[test]
    fn a_tag_is_claimed_by_one_at_a_time() {
        let creating = Arc::new(Creating::default());
        let (a, b) = (RepoName::parse("a").unwrap(), RepoName::parse("b").unwrap());
        let (v1, v2) = (Tag::parse("v1").unwrap(), Tag::parse("v2").unwrap());
        let claim = creating.claim(&a, &[&v1, &v1]).unwrap();
        assert!(creating.claim(&a, &[&v2, &v1]).is_none());
        let other = creating.claim(&b, &[&v1]).unwrap();
        drop(claim);
        assert!(creating.claim(&a, &[&v2, &v1]).is_some());
        drop(other);
        assert!(creating.0.lock().unwrap().is_empty());
    }
}
