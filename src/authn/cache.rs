//! Credentials that were verified a moment ago, so that a password is hashed once in a while and
//! not with each request.
//!
//! No password is kept, nor anything it could be guessed from: entries are found by a hash under a
//! key that this process drew at its start. The user's fingerprint is part of what is hashed, so
//! entries of a user who was removed, or who got another password, are never found again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::future::Cache as Moka;
use zeroize::Zeroizing;

use super::fingerprint::Fingerprint;
use super::{Failure, Rejection};
use crate::identity::{Name, Password};

/// More than the users that log in within the time entries live; what is used least goes first.
const MOST_ACCEPTED: u64 = 16_384;
/// Wrong passwords; kept apart so that guesses cannot push out those that were right.
const MOST_REJECTED: u64 = 4_096;
/// Long enough for a client that repeats a wrong password in several requests.
const REJECTED_TTL: Duration = Duration::from_secs(2);
/// No password is believed for longer without being verified again.
const LONGEST_TTL: Duration = Duration::from_hours(24);

/// What names a credential here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(****)")
    }
}

/// What a back end says of a user whose password is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) user: Name,
    pub(super) groups: Arc<[Arc<str>]>,
}

/// Why a credential was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Reject(Rejection),
    Fail(Failure),
}

/// Whether an answer was known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Remembered,
    Verified,
}

type Accepted = Moka<Key, Arc<Verified>>;

/// The answers of the last minutes.
pub(super) struct Cache {
    secret: Zeroizing<[u8; 32]>,
    accepted: ArcSwap<(Duration, Accepted)>,
    rejected: Moka<Key, Rejection>,
}

impl Cache {
    /// An empty cache, whose good entries live for `ttl`; zero remembers nothing.
    pub(super) fn new(ttl: Duration) -> Self {
        Self::with(ttl, REJECTED_TTL)
    }

    fn with(ttl: Duration, rejected: Duration) -> Self {
        Self {
            secret: secret(),
            accepted: ArcSwap::from_pointee((ttl, accepted(ttl))),
            rejected: Moka::builder()
                .max_capacity(MOST_REJECTED)
                .time_to_live(rejected)
                .build(),
        }
    }

    /// Lets good entries live for another time from now on. If that is a change, all are forgotten:
    /// what was remembered under a longer time must not outlive a shorter one.
    pub(super) fn set_ttl(&self, ttl: Duration) {
        if self.accepted.load().0 != ttl {
            self.accepted.store(Arc::new((ttl, accepted(ttl))));
        }
    }

    /// The key of a credential; `entry` is the user's in the back end, if it has one.
    pub(super) fn key(
        &self,
        back_end: &str,
        entry: Option<Fingerprint>,
        user: &str,
        password: &Password,
    ) -> Key {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        // An unknown user takes the same path as a known one.
        hasher.update(&[u8::from(entry.is_some())]);
        hasher.update(entry.as_ref().map_or(&[0; 16][..], Fingerprint::bare));
        for part in [back_end, user, password.expose()] {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Key(hasher.finalize().into())
    }

    /// The answer for a credential, remembered or from `verify`.
    ///
    /// Of simultaneous calls with one key only one runs its `verify`; the others share its answer,
    /// or, if its caller leaves, another of them runs its own. A failure is never remembered.
    pub(super) async fn answer(
        &self,
        key: Key,
        verify: impl AsyncFnOnce() -> Result<Arc<Verified>, Refused>,
    ) -> Result<(Arc<Verified>, Source), Refused> {
        let current = self.accepted.load_full();
        let accepted = &current.1;
        if let Some(verified) = accepted.get(&key).await {
            return Ok((verified, Source::Remembered));
        }
        if let Some(rejection) = self.rejected.get(&key).await {
            return Err(Refused::Reject(rejection));
        }
        let verify = async {
            let answer = verify().await;
            if let Err(Refused::Reject(rejection)) = answer {
                self.rejected.insert(key, rejection).await;
            }
            answer
        };
        // In a box: most requests are answered above, and need no room for this.
        let answer = Box::pin(accepted.try_get_with(key, verify)).await;
        answer
            .map(|verified| (verified, Source::Verified))
            .map_err(|refused| *refused)
    }
}

/// A key for hashes that never leave this process.
pub(super) fn secret() -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    #[expect(
        clippy::expect_used,
        reason = "aws-lc itself aborts if the system has no randomness"
    )]
    aws_lc_rs::rand::fill(secret.as_mut()).expect("randomness");
    secret
}

fn accepted(ttl: Duration) -> Accepted {
    Moka::builder()
        .max_capacity(MOST_ACCEPTED)
        .time_to_live(ttl.min(LONGEST_TTL))
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::{Cache, Key, Refused, Source, Verified};
    use crate::authn::htpasswd::Users;
    use crate::authn::{Failure, Rejection};
    use crate::identity::{Name, Origin, Password};

    const HOUR: Duration = Duration::from_hours(1);

    type Answer = Result<Arc<Verified>, Refused>;

    fn accept() -> Arc<Verified> {
        Arc::new(Verified {
            user: Name::parse("alice", Origin::Password).unwrap(),
            groups: Arc::from([]),
        })
    }

    fn key(cache: &Cache, user: &str, password: &str) -> Key {
        cache.key("htpasswd", None, user, &Password::new(password).unwrap())
    }

    /// Counts how often it is asked, and answers when it is let.
    struct BackEnd {
        asked: AtomicUsize,
        gate: Semaphore,
        answer: Answer,
    }

    impl BackEnd {
        fn new(answer: Answer) -> Arc<Self> {
            Arc::new(Self {
                asked: AtomicUsize::new(0),
                gate: Semaphore::new(0),
                answer,
            })
        }

        async fn verify(&self) -> Answer {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            self.answer.clone()
        }

        async fn until_asked(&self, times: usize) {
            while self.asked() < times {
                tokio::task::yield_now().await;
            }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn what_was_right_is_remembered() {
        let cache = Cache::new(HOUR);
        let key = key(&cache, "alice", "secret");
        let (_, source) = cache.answer(key, async || Ok(accept())).await.unwrap();
        assert_eq!(source, Source::Verified);
        let (verified, source) = cache
            .answer(key, async || panic!("asked again"))
            .await
            .unwrap();
        assert_eq!(
            (verified.user.as_str(), source),
            ("alice", Source::Remembered)
        );
    }

    #[tokio::test]
    async fn what_was_wrong_is_remembered_for_a_moment() {
        let wrong = Err(Refused::Reject(Rejection::WrongPassword));
        let cache = Cache::new(HOUR);
        let first = key(&cache, "alice", "wrong");
        assert_eq!(
            cache.answer(first, async || { wrong.clone() }).await,
            Err(Refused::Reject(Rejection::WrongPassword))
        );
        let again = cache.answer(first, async || panic!("asked again")).await;
        assert_eq!(again, Err(Refused::Reject(Rejection::WrongPassword)));

        let forgetful = Cache::with(HOUR, Duration::ZERO);
        let second = key(&forgetful, "alice", "wrong");
        forgetful
            .answer(second, async || wrong.clone())
            .await
            .unwrap_err();
        assert!(
            forgetful
                .answer(second, async || { Ok(accept()) })
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let cache = Cache::new(HOUR);
        let key = key(&cache, "alice", "secret");
        let busy = Refused::Fail(Failure::Busy);
        assert_eq!(cache.answer(key, async || { Err(busy) }).await, Err(busy));
        assert!(cache.answer(key, async || { Ok(accept()) }).await.is_ok());
    }

    #[tokio::test]
    async fn nothing_is_remembered_for_no_time_or_after_a_change_of_it() {
        let cache = Cache::new(Duration::ZERO);
        let key = key(&cache, "alice", "secret");
        for ttl in [Duration::ZERO, HOUR, 2 * HOUR] {
            cache.set_ttl(ttl);
            let (_, source) = cache.answer(key, async || Ok(accept())).await.unwrap();
            assert_eq!(source, Source::Verified, "{ttl:?}");
        }
        cache.set_ttl(2 * HOUR);
        let (_, source) = cache
            .answer(key, async || panic!("asked again"))
            .await
            .unwrap();
        assert_eq!(source, Source::Remembered);
        cache.set_ttl(Duration::MAX);
    }

    #[tokio::test]
    async fn a_hundred_first_logins_ask_once() {
        for answer in [Ok(accept()), Err(Refused::Reject(Rejection::WrongPassword))] {
            let (cache, back_end) = (Arc::new(Cache::new(HOUR)), BackEnd::new(answer.clone()));
            let key = key(&cache, "alice", "secret");
            let calls: Vec<_> = (0..100)
                .map(|_| {
                    let (cache, back_end) = (Arc::clone(&cache), Arc::clone(&back_end));
                    tokio::spawn(async move { cache.answer(key, || back_end.verify()).await })
                })
                .collect();
            back_end.until_asked(1).await;
            back_end.gate.add_permits(100);
            for call in calls {
                assert_eq!(call.await.unwrap().map(|(verified, _)| verified), answer);
            }
            assert_eq!(back_end.asked(), 1);
        }
    }

    #[tokio::test]
    async fn a_caller_who_leaves_takes_nobody_along() {
        let (cache, back_end) = (Arc::new(Cache::new(HOUR)), BackEnd::new(Ok(accept())));
        let key = key(&cache, "alice", "secret");
        let call = || {
            let (cache, back_end) = (Arc::clone(&cache), Arc::clone(&back_end));
            tokio::spawn(async move { cache.answer(key, || back_end.verify()).await })
        };
        let leader = call();
        back_end.until_asked(1).await;
        let waiter = call();
        tokio::task::yield_now().await;
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        back_end.until_asked(2).await;
        back_end.gate.add_permits(1);
        assert!(waiter.await.unwrap().is_ok());
        assert!(call().await.unwrap().is_ok());
        assert_eq!(back_end.asked(), 2);
    }

    #[test]
    fn no_two_credentials_share_a_key() {
        let cache = Cache::new(HOUR);
        let hash = "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=";
        let (users, _) =
            Users::parse(format!("a:{hash}\nb:{hash}").as_bytes(), "f".as_ref()).unwrap();
        let (a, b) = (users.fingerprint("a"), users.fingerprint("b"));
        let mut keys = HashSet::new();
        for back_end in ["htpasswd", "ldap"] {
            for entry in [None, a, b] {
                for (user, password) in [("a", "bc"), ("ab", "c"), ("a", "b"), ("A", "bc")] {
                    let password = Password::new(password).unwrap();
                    assert!(keys.insert(cache.key(back_end, entry, user, &password).0));
                }
            }
        }
        let other = Cache::new(HOUR);
        assert_ne!(key(&cache, "a", "b"), key(&other, "a", "b"));
        assert_eq!(key(&cache, "a", "b"), key(&cache, "a", "b"));
    }
}
