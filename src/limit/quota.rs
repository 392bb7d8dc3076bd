//! Pulls per time, for each subject: who has made how many, and whether there is room for another.
//!
//! A pull is reserved before it is known whether it is one, and given back if it was none (the
//! registry had no such manifest, the client went away): so requests at the same time cannot
//! together take more than there is. What is still under way counts until then.
//!
//! # Memory
//!
//! A subject with up to four pulls takes 65 bytes, with more of them four to eight bytes for
//! each besides. At most [`CAPACITY`] subjects are remembered: 65 MiB, whoever calls, and for those who
//! pull more at most eight bytes for each image that the registry really served within the window.
//! Where there is no room for a newcomer, subjects whose window is over go first, then an eighth of
//! those that have used the smallest parts of theirs. Nobody without room for another pull is ever
//! forgotten; should a share of the table hold nobody else, newcomers to it count as one subject.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::repeats::{Image, Repeats};
use super::source::Source;
use super::window::{Quota, Taken, Window};
use crate::identity::Counted;

/// Independent shares of the table, each behind a lock of its own.
const SHARES: usize = 64;
/// Subjects in a share: with the one for all newcomers as many as its hash table takes without
/// growing beyond 16,384 places.
const SUBJECTS: usize = 14_335;
/// Subjects remembered at most.
pub const CAPACITY: usize = SHARES * SUBJECTS;
/// How long a share that holds nobody who could be forgotten is not searched again.
const PAUSE: Duration = Duration::from_secs(1);
/// The part used of a subject without room, in 255ths.
const FULL: u8 = u8::MAX;

/// Who makes pulls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Nobody in particular, from there.
    Source(Source),
    /// A user, from wherever.
    User(Counted),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => source.fmt(f),
            Self::User(user) => f.write_str(user.shown()),
        }
    }
}

/// What pulls are drawn from: one limit of the configuration, one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The limit's name, which stays the same when its numbers change.
    pub limit: u64,
    /// Whose.
    pub subject: Subject,
    /// Its numbers.
    pub quota: Quota,
}

/// There is no room for another pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Where.
    pub bucket: Bucket,
    /// Until there is, if nobody else takes it.
    pub wait: Duration,
}

/// Everybody's pulls. One for the life of the process, so that a reload forgives nothing; a limit
/// whose numbers have changed judges what it remembers by the new ones.
pub struct Quotas {
    shares: Box<[Mutex<Share>]>,
    repeats: Mutex<Repeats>,
    names: (RandomState, RandomState),
}

/// A pull under way. It is given back when it is dropped without [`Reservation::settle`].
#[must_use = "a pull that is not settled is given back"]
pub struct Reservation {
    quotas: Arc<Quotas>,
    bucket: Bucket,
    key: Key,
    taken: Option<Taken>,
    remaining: u32,
}

/// Two hashes under keys of this process: nobody can aim at another's place.
type Key = (u64, u64);

#[derive(Default)]
struct Share {
    subjects: HashMap<Key, Entry>,
    /// When it makes sense again to search for room.
    full_until: Duration,
}

struct Entry {
    window: Window,
    /// In seconds, when nothing of it counts any more.
    until: u32,
    /// The part used when it was last used, in 255ths.
    used: u8,
}

impl Quotas {
    /// Remembers nobody yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shares: (0..SHARES).map(|_| Mutex::default()).collect(),
            repeats: Mutex::default(),
            names: (RandomState::new(), RandomState::new()),
        })
    }

    /// Takes a pull from the bucket, for the time being.
    pub fn reserve(
        self: &Arc<Self>,
        bucket: Bucket,
        now: Duration,
    ) -> Result<Reservation, Exceeded> {
        let key = self.key(&bucket);
        let quota = bucket.quota;
        let taken = self.share(key).map(|mut share| {
            let (key, entry) = share.enter(key, now);
            let taken = entry.window.take(now, quota);
            let used = entry.window.used(now, quota);
            entry.note(now, used, quota);
            (key, taken, quota.count.saturating_sub(used))
        });
        // There always is a share; without one nothing would be limited, so nothing is let through.
        let Some((key, taken, remaining)) = taken else {
            let wait = quota.per;
            return Err(Exceeded { bucket, wait });
        };
        match taken {
            Err(wait) => Err(Exceeded { bucket, wait }),
            Ok(taken) => Ok(Reservation {
                quotas: Arc::clone(self),
                bucket,
                key,
                taken: Some(taken),
                remaining,
            }),
        }
    }

    /// How many pulls there is room for now. Takes none.
    pub fn remaining(&self, bucket: &Bucket, now: Duration) -> u32 {
        let key = self.key(bucket);
        let used = self.share(key).and_then(|share| {
            let entry = share.subjects.get(&key)?;
            Some(entry.window.used(now, bucket.quota))
        });
        bucket.quota.count.saturating_sub(used.unwrap_or(0))
    }

    /// How many subjects are remembered.
    pub fn remembered(&self) -> usize {
        let shares = self.shares.iter();
        let locked = shares.map(|share| share.lock());
        locked.map(|share| share.subjects.len()).sum()
    }

    /// Whether the subject has pulled this image shortly before, so that it is free now.
    pub fn is_repeat(&self, bucket: &Bucket, digest: &str, free: Duration, now: Duration) -> bool {
        let image = self.image(bucket, digest);
        !free.is_zero() && self.repeats().is_recent(image, free, now)
    }

    fn give_back(&self, key: Key, taken: Taken) {
        if let Some(mut share) = self.share(key)
            && let Some(entry) = share.subjects.get_mut(&key)
        {
            entry.window.give_back(taken);
            if entry.used == FULL {
                entry.used = FULL.saturating_sub(1);
            }
        }
    }

    fn key(&self, bucket: &Bucket) -> Key {
        let name = (bucket.limit, &bucket.subject);
        (self.names.0.hash_one(name), self.names.1.hash_one(name))
    }

    fn image(&self, bucket: &Bucket, digest: &str) -> Image {
        let name = (bucket.limit, &bucket.subject, digest);
        (self.names.0.hash_one(name), self.names.1.hash_one(name))
    }

    fn share(&self, key: Key) -> Option<MutexGuard<'_, Share>> {
        let number = key.0.checked_rem(SHARES as u64)?;
        let number = usize::try_from(number).ok()?;
        let share = self.shares.get(number)?;
        Some(share.lock())
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        self.repeats.lock()
    }
}

impl Reservation {
    /// The pull has happened. Returns how many there is room for after it. It costs nothing if the
    /// subject has pulled the same image within `free`.
    pub fn settle(mut self, digest: Option<&str>, free: Duration, now: Duration) -> u32 {
        if let Some(digest) = digest.filter(|_| !free.is_zero()) {
            let image = self.quotas.image(&self.bucket, digest);
            if self.quotas.repeats().note(image, free, now) {
                let (quotas, bucket) = (Arc::clone(&self.quotas), self.bucket.clone());
                drop(self);
                return quotas.remaining(&bucket, now);
            }
        }
        self.taken = None;
        self.remaining
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.quotas.give_back(self.key, taken);
        }
    }
}

impl Share {
    /// The subject's entry; a new one if there is room or room can be made, and otherwise the one
    /// that all newcomers have together.
    fn enter(&mut self, key: Key, now: Duration) -> (Key, &mut Entry) {
        /// No subject's, but for a chance in 2¹²⁸.
        const NEWCOMERS: Key = (0, 0);
        let known = self.subjects.contains_key(&key);
        if !known && self.subjects.len() >= SUBJECTS && now >= self.full_until {
            self.make_room(now);
        }
        let key = if known || self.subjects.len() < SUBJECTS {
            key
        } else {
            NEWCOMERS
        };
        (key, self.subjects.entry(key).or_insert_with(Entry::new))
    }

    /// Forgets what is over, or else those that have used the least.
    fn make_room(&mut self, now: Duration) {
        let goal = SUBJECTS - SUBJECTS / 8;
        let over = |entry: &Entry| entry.is_over(now);
        let gone = self.subjects.values().filter(|entry| over(entry)).count();
        let mut surplus = self
            .subjects
            .len()
            .saturating_sub(gone)
            .saturating_sub(goal);
        let bound = self.least_used(gone.saturating_add(surplus));
        // A table from which is removed in place would grow at the next insertion.
        let mut kept = HashMap::with_capacity(SUBJECTS);
        for (key, entry) in self.subjects.drain() {
            if over(&entry) {
                continue;
            }
            if surplus > 0 && entry.used <= bound && entry.used != FULL {
                surplus = surplus.saturating_sub(1);
            } else {
                kept.insert(key, entry);
            }
        }
        self.subjects = kept;
        if self.subjects.len() >= SUBJECTS {
            self.full_until = now.saturating_add(PAUSE);
        }
    }

    /// The part used below or at which there are so many subjects.
    fn least_used(&self, wanted: usize) -> u8 {
        let mut parts: Vec<u8> = self.subjects.values().map(|entry| entry.used).collect();
        parts.sort_unstable();
        let nth = wanted.min(parts.len().saturating_sub(1));
        parts.get(nth).copied().unwrap_or(0)
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            window: Window::default(),
            until: 0,
            used: 0,
        }
    }

    fn note(&mut self, now: Duration, used: u32, quota: Quota) {
        let end = now.saturating_add(quota.per).as_secs().saturating_add(1);
        self.until = u32::try_from(end).unwrap_or(u32::MAX).max(self.until);
        let part = u64::from(used)
            .saturating_mul(u64::from(FULL))
            .checked_div(u64::from(quota.count))
            .unwrap_or_default();
        self.used = u8::try_from(part).unwrap_or(FULL);
    }

    fn is_over(&self, now: Duration) -> bool {
        u64::from(self.until) <= now.as_secs()
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test fails the test"
)]
mod tests;
