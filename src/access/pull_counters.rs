//! Pulls, counted by this process and, where there is a store, together with all other replicas.
//!
//! This process always counts for itself, and is asked first: what it has no room for needs no store,
//! and when the store is lost it goes on with all that it has let through. What it counts is never
//! more than what the store counts, so it refuses nothing that the store would not; unless the store
//! has lost its memory, and then it is right to.

use std::sync::Arc;
use std::time::Duration;

use crate::limit::{Bucket, Exceeded, Quotas, Reservation};
use crate::store::{Lease, Settled, Store, Verdict};

/// The places where pulls are counted.
pub(super) struct Counters {
    /// This process.
    pub(super) quotas: Arc<Quotas>,
    /// All replicas.
    pub(super) store: Option<Arc<Store>>,
}

/// A pull under way. It is given back when it is dropped.
pub(super) struct Held {
    here: Reservation,
    everywhere: Option<Lease>,
}

impl Counters {
    /// Takes a pull; `None` if it is known to cost nothing, because that image was pulled within
    /// `free`.
    pub(super) async fn reserve(
        &self,
        bucket: &Bucket,
        digest: Option<&str>,
        free: Duration,
        now: Duration,
    ) -> Result<Option<Held>, Exceeded> {
        let is_repeat = |digest| self.quotas.is_repeat(bucket, digest, free, now);
        if digest.is_some_and(is_repeat) {
            return Ok(None);
        }
        let image = digest.map(|digest| (digest, free));
        let here = match self.quotas.reserve(bucket.clone(), now) {
            Ok(here) => here,
            Err(_full) if self.is_repeat_elsewhere(bucket, image).await => return Ok(None),
            Err(full) => return Err(full),
        };
        let verdict = match &self.store {
            Some(store) => store.reserve(bucket.clone(), image).await,
            None => None,
        };
        match verdict {
            None => Ok(Some(Held {
                here,
                everywhere: None,
            })),
            Some(Verdict::Taken(lease)) => Ok(Some(Held {
                here,
                everywhere: Some(lease),
            })),
            Some(Verdict::Repeat) => Ok(None),
            Some(Verdict::Exceeded(wait)) => Err(Exceeded {
                bucket: bucket.clone(),
                wait,
            }),
        }
    }

    async fn is_repeat_elsewhere(&self, bucket: &Bucket, image: Option<(&str, Duration)>) -> bool {
        let (Some(store), Some((_, free))) = (&self.store, image) else {
            return false;
        };
        !free.is_zero() && matches!(store.peek(bucket, image).await, Some(Settled::Free(_)))
    }

    /// How many pulls there is room for. Takes none.
    pub(super) async fn remaining(&self, bucket: &Bucket, now: Duration) -> u32 {
        let here = self.quotas.remaining(bucket, now);
        let everywhere = match &self.store {
            Some(store) => store.peek(bucket, None).await,
            None => None,
        };
        here.min(everywhere.map_or(here, left))
    }
}

impl Held {
    /// The pull has happened. Returns how many there is room for after it. It costs nothing if the
    /// image was pulled within `free`.
    pub(super) async fn settle(
        self,
        digest: Option<&str>,
        free: Duration,
        with: &Counters,
        bucket: &Bucket,
        now: Duration,
    ) -> u32 {
        let Self { here, everywhere } = self;
        let settled = match everywhere {
            Some(lease) => lease.settle(digest, free).await,
            None => None,
        };
        match settled {
            None => here.settle(digest, free, now),
            Some(Settled::Paid(left)) => here.settle(digest, free, now).min(left),
            Some(Settled::Free(left)) => {
                drop(here);
                with.quotas.remaining(bucket, now).min(left)
            }
        }
    }

    /// The pull was none. Returns how many there is room for without it.
    pub(super) async fn give_back(self, with: &Counters, bucket: &Bucket, now: Duration) -> u32 {
        let Self { here, everywhere } = self;
        drop(here);
        let settled = match everywhere {
            Some(lease) => lease.give_back().await,
            None => None,
        };
        let here = with.quotas.remaining(bucket, now);
        here.min(settled.map_or(here, left))
    }
}

fn left(settled: Settled) -> u32 {
    match settled {
        Settled::Free(left) | Settled::Paid(left) => left,
    }
}
