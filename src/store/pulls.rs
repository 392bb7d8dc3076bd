//! Pulls that replicas count together: the same window as in `limit`, kept in the store.
//!
//! A pull that was taken when a replica died, or when the store fell silent before it had answered,
//! stays counted there for its window: the sum over all replicas is rather too small than too large.

use std::sync::Arc;
use std::time::Duration;

use super::{Question, Store, micros};
use crate::limit::{Bucket, Quota, Subject};

/// What the script answers with.
const REFUSED: i64 = 0;
pub(super) const TAKEN: i64 = 1;
const FREE: i64 = 2;
pub(super) const FOR_ASKING: i64 = 3;

/// What the store says to a pull.
pub enum Verdict {
    /// There is room, and it is taken.
    Taken(Lease),
    /// There is none for so long.
    Exceeded(Duration),
    /// The image was pulled shortly before.
    Repeat,
}

/// What a pull was after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// One that counts; so many are left.
    Paid(u32),
    /// One that costs nothing; so many are left.
    Free(u32),
}

/// A pull under way. It is given back when it is dropped without [`Lease::settle`].
#[must_use = "a pull that is not settled is given back"]
pub struct Lease {
    store: Arc<Store>,
    bucket: Bucket,
    /// None once it has been settled.
    taken: Option<i64>,
    remaining: u32,
}

impl Store {
    /// Takes a pull for the time being, unless the image, if it is known, is free for so long.
    pub async fn reserve(
        self: &Arc<Self>,
        bucket: Bucket,
        image: Option<(&str, Duration)>,
    ) -> Option<Verdict> {
        let (store, question) = (Arc::clone(self), self.pull("take", &bucket, image));
        let (keys, arguments) = question;
        // A task of its own: whoever goes away before the answer has come gives back what it says.
        let task = tokio::spawn(async move {
            let question = Question {
                script: &store.scripts.pull,
                keys,
                arguments,
            };
            let answer = store.ask(&question, |answer| taken(answer, bucket.quota));
            Some(match answer.await? {
                Answer::Exceeded(wait) => Verdict::Exceeded(wait),
                Answer::Repeat => Verdict::Repeat,
                Answer::Taken(remaining, taken) => Verdict::Taken(Lease {
                    taken: Some(taken),
                    store,
                    bucket,
                    remaining,
                }),
            })
        });
        task.await.ok().flatten()
    }

    /// How many pulls there is room for now, and whether the image is free. Takes none.
    pub async fn peek(&self, bucket: &Bucket, image: Option<(&str, Duration)>) -> Option<Settled> {
        let (keys, arguments) = self.pull("peek", bucket, image);
        let question = Question {
            script: &self.scripts.pull,
            keys,
            arguments,
        };
        let read = |answer: &[i64]| settled(answer, FOR_ASKING, bucket.quota);
        self.ask(&question, read).await
    }

    fn pull(
        &self,
        how: &str,
        bucket: &Bucket,
        image: Option<(&str, Duration)>,
    ) -> (Vec<String>, Vec<String>) {
        let Quota { count, per } = bucket.quota;
        let image = image.filter(|(_, free)| !free.is_zero());
        let free = image.map_or(Duration::ZERO, |(_, free)| free);
        let arguments = vec![how.to_owned(), micros(per), count.to_string(), micros(free)];
        (
            self.keys_of(bucket, image.map(|(digest, _)| digest)),
            arguments,
        )
    }

    pub(super) fn keys_of(&self, bucket: &Bucket, image: Option<&str>) -> Vec<String> {
        let limit = bucket.limit.to_string();
        let (kind, name) = match &bucket.subject {
            Subject::Source(source) => ("source", source.to_string()),
            Subject::User(user) => ("user", user.key().to_owned()),
        };
        let whose = [&*limit, kind, &*name];
        let pulls = self.key("pulls", &whose);
        let image = image.map(|digest| self.key("image", &[&whose[..], &[digest]].concat()));
        std::iter::once(pulls).chain(image).collect()
    }
}

/// An answer that has been read.
#[derive(Debug)]
pub(super) enum Answer {
    Exceeded(Duration),
    Repeat,
    Taken(u32, i64),
}

impl Lease {
    /// How many pulls there was room for after this one.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// The pull has happened. It costs nothing if the image was pulled within `free`. `None` means
    /// that nobody knows whether it was.
    pub async fn settle(mut self, image: Option<&str>, free: Duration) -> Option<Settled> {
        let image = image.filter(|_| !free.is_zero());
        if image.is_none() {
            self.taken = None;
            return Some(Settled::Paid(self.remaining));
        }
        // A task of its own: it is finished also if the client goes away.
        let end = self.end("paid", image, free)?;
        tokio::spawn(end).await.ok().flatten()
    }

    /// The pull was none.
    pub async fn give_back(mut self) -> Option<Settled> {
        let end = self.end("none", None, Duration::ZERO)?;
        tokio::spawn(end).await.ok().flatten()
    }

    fn end(
        &mut self,
        what: &str,
        image: Option<&str>,
        free: Duration,
    ) -> Option<impl Future<Output = Option<Settled>> + Send + 'static> {
        let taken = self.taken.take()?;
        let store = Arc::clone(&self.store);
        let quota @ Quota { count, per } = self.bucket.quota;
        let keys = store.keys_of(&self.bucket, image);
        let arguments = vec![
            what.to_owned(),
            taken.to_string(),
            micros(per),
            count.to_string(),
            micros(free),
        ];
        Some(async move {
            let question = Question {
                script: &store.scripts.settle,
                keys,
                arguments,
            };
            store
                .ask(&question, |answer| settled(answer, TAKEN, quota))
                .await
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(end) = self.end("none", None, Duration::ZERO)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(end);
        }
    }
}

/// Reads what came of taking a pull.
pub(super) fn taken(answer: &[i64], quota: Quota) -> Option<Answer> {
    match *answer {
        [REFUSED, wait] => Some(Answer::Exceeded(micros_of(wait)?.min(quota.per))),
        [TAKEN, remaining, taken] if taken > 0 => {
            Some(Answer::Taken(at_most(remaining, quota.count)?, taken))
        }
        [FREE, _] => Some(Answer::Repeat),
        _ => None,
    }
}

/// Reads what a pull was or would be; `paid` is the word for one that counts.
pub(super) fn settled(answer: &[i64], paid: i64, quota: Quota) -> Option<Settled> {
    match *answer {
        [FREE, remaining] => Some(Settled::Free(at_most(remaining, quota.count)?)),
        [what, remaining] if what == paid => Some(Settled::Paid(at_most(remaining, quota.count)?)),
        _ => None,
    }
}

/// More than there can be is nonsense.
fn at_most(number: i64, most: u32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number <= most)
}

fn micros_of(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().map(Duration::from_micros)
}
