//! Answers of back ends from a moment ago, so that a password is hashed or sent to a directory once in
//! a while and not with each request, and a token's user is looked up as rarely.
//!
//! No password is kept, nor anything it could be guessed from: entries are found by a hash under a
//! key that this process drew at its start. The fingerprint of the user's entry, or of the directory's
//! configuration, is part of what is hashed, so entries of a user who was removed, or who got another
//! password, are never found again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use moka::Expiry;
use moka::future::Cache as Moka;
use zeroize::Zeroizing;

use super::fingerprint::Fingerprint;
use super::outcome::{Failure, Outcome, Rejected};
use super::person::{Known, Person};
use crate::identity::{Authentication, Password, Recency};

/// More than the credentials and names that are used within the time entries live; what is used least
/// goes first.
const MOST_ACCEPTED: u64 = 32_768;
/// Wrong passwords; kept apart so that guesses cannot push out those that were right.
const MOST_REJECTED: u64 = 4_096;
/// Long enough for a client that repeats a wrong password in several requests.
const REJECTED_TTL: Duration = Duration::from_secs(2);
/// Nothing is believed for longer without being verified again.
const LONGEST: Duration = Duration::from_hours(24);

/// A credential, or the bare name of a user, as it is known here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    hash: [u8; 32],
    has_password: bool,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(****)")
    }
}

/// The answers of the last time.
pub(super) struct Cache {
    secret: Zeroizing<[u8; 32]>,
    /// Persons by credential, for logins, and by name, for tokens.
    accepted: ArcSwap<Accepted>,
    /// Wrong credentials, for two seconds. Everything that is being asked goes through it, so that many
    /// who ask the same at a time share one answer.
    rejected: Moka<Key, Rejected>,
}

impl Cache {
    /// An empty cache, whose good entries count for `ttl`; zero remembers nothing.
    pub(super) fn new(ttl: Duration) -> Self {
        Self::with(ttl, REJECTED_TTL)
    }

    fn with(ttl: Duration, rejected: Duration) -> Self {
        Self {
            secret: secret(),
            accepted: ArcSwap::from_pointee(Accepted::new(ttl)),
            rejected: Moka::builder()
                .max_capacity(MOST_REJECTED)
                .time_to_live(rejected)
                .build(),
        }
    }

    /// Lets good entries count for another time from now on. If that is a change, all are forgotten:
    /// what was remembered under a longer time must not outlive a shorter one.
    pub(super) fn set_ttl(&self, ttl: Duration) {
        if self.accepted.load().ttl != ttl {
            self.accepted.store(Arc::new(Accepted::new(ttl)));
        }
    }

    /// The key of a credential, or without a password that of a name; `entry` is the user's in the
    /// back end, if it has one.
    pub(super) fn key(
        &self,
        back_end: Authentication,
        entry: Option<Fingerprint>,
        user: &str,
        password: Option<&Password>,
    ) -> Key {
        let has_password = password.is_some();
        let password = password.map_or("", Password::expose);
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        // An unknown user takes the same path as a known one.
        hasher.update(&[u8::from(entry.is_some())]);
        hasher.update(entry.as_ref().map_or(&[0; 16][..], Fingerprint::bare));
        for part in [back_end.as_str(), user, password] {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Key {
            hash: hasher.finalize().into(),
            has_password,
        }
    }

    /// The answer for a key, remembered or from `ask`. While the directory is down, what it said
    /// within `stale_ok` is the answer.
    ///
    /// Of simultaneous calls with one key only one runs its `ask`; the others share its answer, or,
    /// if its caller leaves, another of them runs its own. A failure is never remembered, nor that a
    /// name is unknown.
    pub(super) async fn answer(
        &self,
        key: Key,
        stale_ok: Duration,
        ask: impl AsyncFnOnce() -> Outcome<Arc<Person>>,
    ) -> Outcome<Known> {
        let accepted = self.accepted.load_full();
        if let Some(person) = accepted.fresh(&key) {
            let recency = Recency::Lately;
            return Outcome::Accept(Known { person, recency });
        }
        if let Some(rejected) = self.rejected.get(&key).await {
            return Outcome::Reject(rejected);
        }
        // In a box: most requests are answered above, and need no room for this.
        match Box::pin(self.ask(key, stale_ok, &accepted, ask)).await {
            Outcome::Accept(person) => Outcome::Accept(Known {
                person,
                recency: Recency::Now,
            }),
            Outcome::Reject(rejected) => Outcome::Reject(rejected),
            Outcome::Fail(Failure::DirectoryDown) => accepted.believed(&key, stale_ok),
            Outcome::Fail(failure) => Outcome::Fail(failure),
        }
    }

    async fn ask(
        &self,
        key: Key,
        stale_ok: Duration,
        accepted: &Accepted,
        ask: impl AsyncFnOnce() -> Outcome<Arc<Person>>,
    ) -> Outcome<Arc<Person>> {
        // What is not to be remembered among wrong passwords takes the way of errors.
        let ask = async {
            // Another call may have been answered in the meantime.
            if let Some(person) = accepted.fresh(&key) {
                return Err(Outcome::Accept(person));
            }
            let answer = ask().await;
            match &answer {
                Outcome::Accept(person) => accepted.remember(key, person, stale_ok),
                Outcome::Reject(_) => accepted.forget(&key),
                Outcome::Fail(_) => {}
            }
            match answer {
                Outcome::Reject(rejected) if key.has_password => Ok(rejected),
                other @ (Outcome::Accept(_) | Outcome::Reject(_) | Outcome::Fail(_)) => Err(other),
            }
        };
        match self.rejected.try_get_with(key, ask).await {
            Ok(rejected) => Outcome::Reject(rejected),
            Err(other) => Outcome::clone(&other),
        }
    }

    /// Remembers an answer to another question than was asked.
    pub(super) fn remember(&self, key: Key, person: &Arc<Person>, stale_ok: Duration) {
        self.accepted.load().remember(key, person, stale_ok);
    }

    /// Forgets what is not so any more.
    pub(super) fn forget(&self, key: &Key) {
        self.accepted.load().forget(key);
    }

    /// Returns true if there is an answer, however old.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.accepted.load().persons.contains_key(key)
    }
}

/// The good answers under one configuration's time.
struct Accepted {
    ttl: Duration,
    persons: moka::sync::Cache<Key, Answer>,
}

#[derive(Clone)]
struct Answer {
    person: Arc<Person>,
    since: Instant,
    /// Time until it is of no use, also while the directory is down.
    kept: Duration,
}

impl Accepted {
    fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            persons: moka::sync::Cache::builder()
                .max_capacity(MOST_ACCEPTED)
                .expire_after(ByAnswer)
                .build(),
        }
    }

    fn fresh(&self, key: &Key) -> Option<Arc<Person>> {
        self.within(key, self.ttl)
    }

    fn believed(&self, key: &Key, stale_ok: Duration) -> Outcome<Known> {
        match self.within(key, stale_ok) {
            Some(person) => Outcome::Accept(Known {
                person,
                recency: Recency::BeforeAnOutage,
            }),
            None => Outcome::Fail(Failure::DirectoryDown),
        }
    }

    fn within(&self, key: &Key, time: Duration) -> Option<Arc<Person>> {
        let answer = self.persons.get(key)?;
        (answer.since.elapsed() < time.min(LONGEST)).then_some(answer.person)
    }

    fn remember(&self, key: Key, person: &Arc<Person>, stale_ok: Duration) {
        let answer = Answer {
            person: Arc::clone(person),
            since: Instant::now(),
            kept: self.ttl.max(stale_ok).min(LONGEST),
        };
        if !answer.kept.is_zero() {
            self.persons.insert(key, answer);
        }
    }

    fn forget(&self, key: &Key) {
        self.persons.invalidate(key);
    }
}

/// Each answer lives as long as it is of use.
struct ByAnswer;

impl Expiry<Key, Answer> for ByAnswer {
    fn expire_after_create(&self, _: &Key, answer: &Answer, _: Instant) -> Option<Duration> {
        Some(answer.kept)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        answer: &Answer,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.kept)
    }
}

/// A key for hashes that never leave this process.
fn secret() -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    #[expect(
        clippy::expect_used,
        reason = "aws-lc itself aborts if the system has no randomness"
    )]
    aws_lc_rs::rand::fill(secret.as_mut()).expect("randomness");
    secret
}

#[cfg(test)]
mod tests;
