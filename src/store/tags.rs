//! Claims on tags: while one replica creates a tag for a caller who may not move it, no other replica
//! writes it.
//!
//! Here the store never allows by failing: without its answer there is no claim. One that nobody
//! releases, because its replica died, lasts longer than any write that it could be about.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{Question, Store, millis};

/// Between two questions for a tag that another push has.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts to release a claim while the store does not answer.
const RELEASE_PAUSE: Duration = Duration::from_secs(1);

/// What a push may do with a tag that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagUse {
    /// Nothing: it needs the tag alone.
    Create,
    /// Move it, among others that may.
    Move,
}

/// A claim on the tags of a push. Dropped, it is released.
#[must_use = "a claim ends when it is dropped"]
pub struct TagClaim {
    store: Arc<Store>,
    keys: Vec<String>,
    name: String,
    lasts: Duration,
    is_released: bool,
}

impl Store {
    /// Claims all of these tags (`repository:tag`), as soon as no other push has one of them. `None` when
    /// the store does not answer. `lasts` is longer than the push.
    pub async fn claim(
        self: &Arc<Self>,
        tags: &[String],
        how: TagUse,
        lasts: Duration,
    ) -> Option<TagClaim> {
        // Without a connection there is nothing to release either.
        self.live.lock().as_ref()?;
        let keys = |tag: &String| [self.key("create", &[tag]), self.key("move", &[tag])];
        let claim = TagClaim {
            store: Arc::clone(self),
            keys: tags.iter().flat_map(keys).collect(),
            name: random_name()?,
            lasts,
            is_released: false,
        };
        let word = match how {
            TagUse::Create => "create",
            TagUse::Move => "move",
        };
        let question = Question {
            script: &self.scripts.claim,
            keys: claim.keys.clone(),
            arguments: vec![word.to_owned(), claim.name.clone(), millis(lasts)],
        };
        while !self.ask(&question, granted).await? {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        Some(claim)
    }
}

impl TagClaim {
    /// Releases it: when this is done another replica has the tags, if the store answers.
    pub async fn release(mut self) {
        self.is_released = release(&self.store, &self.keys, &self.name).await;
    }
}

impl Drop for TagClaim {
    fn drop(&mut self) {
        if self.is_released {
            return;
        }
        // Without a runtime the process is ending: the claim ends by its time.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (store, keys) = (Arc::clone(&self.store), std::mem::take(&mut self.keys));
        let (name, began, lasts) = (std::mem::take(&mut self.name), Instant::now(), self.lasts);
        runtime.spawn(async move {
            while !release(&store, &keys, &name).await && began.elapsed() < lasts {
                tokio::time::sleep(RELEASE_PAUSE).await;
            }
        });
    }
}

async fn release(store: &Store, keys: &[String], name: &str) -> bool {
    let question = Question {
        script: &store.scripts.release,
        keys: keys.to_vec(),
        arguments: vec![name.to_owned()],
    };
    store.ask(&question, granted).await.is_some()
}

/// Reads whether tags are claimed.
pub(super) fn granted(answer: &[i64]) -> Option<bool> {
    match *answer {
        [1, 0] => Some(true),
        [0, 0] => Some(false),
        _ => None,
    }
}

/// A name that no other claim has.
fn random_name() -> Option<String> {
    let mut name = [0; 16];
    aws_lc_rs::rand::fill(&mut name).ok()?;
    Some(format!("{:032x}", u128::from_be_bytes(name)))
}
