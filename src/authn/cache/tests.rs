//! What is remembered, and what is not.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Cache, Key, Known, Person};
use crate::authn::fingerprint::Fingerprint;
use crate::authn::htpasswd::Users;
use crate::authn::{Failure, Outcome, Rejected, Rejection};
use crate::identity::{Authentication, Name, Origin, Password, Recency};

const HOUR: Duration = Duration::from_hours(1);

type Answer = Outcome<Arc<Person>>;

fn accept() -> Answer {
    Outcome::Accept(Arc::new(Person {
        name: Name::parse("alice", Origin::Password).unwrap(),
        groups: Arc::from([]),
        fingerprint: Fingerprint::of_line("alice", ""),
    }))
}

fn key(cache: &Cache, user: &str, password: &str) -> Key {
    let password = Password::new(password).unwrap();
    cache.key(Authentication::Htpasswd, None, user, Some(&password))
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

/// What the cache says of a key, with this answer of the back end.
async fn answer(cache: &Cache, key: Key, answer: Answer) -> Outcome<Recency> {
    let answer = cache.answer(key, Duration::ZERO, async || answer).await;
    answer.map(|Known { recency, .. }| recency)
}

/// What the cache says of a key without asking.
async fn remembered(cache: &Cache, key: Key) -> Outcome<Recency> {
    let ask = async || panic!("asked again");
    let answer = cache.answer(key, Duration::ZERO, ask).await;
    answer.map(|Known { recency, .. }| recency)
}

const WRONG: Answer = Outcome::Reject(Rejected {
    why: Rejection::WrongPassword,
    entry: None,
});
const DOWN: Answer = Outcome::Fail(Failure::DirectoryDown);

#[tokio::test]
async fn what_was_right_is_remembered() {
    let cache = Cache::new(HOUR);
    let key = key(&cache, "alice", "secret");
    let first = answer(&cache, key, accept()).await;
    assert_eq!(first, Outcome::Accept(Recency::Now));
    assert_eq!(
        remembered(&cache, key).await,
        Outcome::Accept(Recency::Lately)
    );
}

#[tokio::test]
async fn what_was_wrong_is_remembered_for_a_moment() {
    let wrong = Outcome::Reject(Rejection::WrongPassword.into());
    let cache = Cache::new(HOUR);
    let first = key(&cache, "alice", "wrong");
    assert_eq!(answer(&cache, first, WRONG).await, wrong);
    assert_eq!(remembered(&cache, first).await, wrong);

    let forgetful = Cache::with(HOUR, Duration::ZERO);
    let second = key(&forgetful, "alice", "wrong");
    assert_eq!(answer(&forgetful, second, WRONG).await, wrong);
    assert_eq!(
        answer(&forgetful, second, accept()).await,
        Outcome::Accept(Recency::Now)
    );
}

#[tokio::test]
async fn a_failure_and_an_unknown_name_are_not_remembered() {
    let cache = Cache::new(HOUR);
    let login = key(&cache, "alice", "secret");
    let busy = answer(&cache, login, Outcome::Fail(Failure::Busy)).await;
    assert_eq!(busy, Outcome::Fail(Failure::Busy));
    let name = cache.key(Authentication::Ldap, None, "alice", None);
    let unknown = answer(&cache, name, Outcome::Reject(Rejection::UnknownUser.into())).await;
    assert_eq!(unknown, Outcome::Reject(Rejection::UnknownUser.into()));
    for key in [login, name] {
        assert_eq!(
            answer(&cache, key, accept()).await,
            Outcome::Accept(Recency::Now)
        );
        assert!(cache.has(&key));
    }
    cache.forget(&name);
    assert!(!cache.has(&name));
}

#[tokio::test]
async fn while_the_directory_is_down_its_last_answer_is_believed() {
    let cache = Cache::new(Duration::ZERO);
    let key = key(&cache, "alice", "secret");
    let ask = async |said: Answer, stale_ok| {
        let answer = cache.answer(key, stale_ok, async || said).await;
        answer.map(|Known { recency, .. }| recency)
    };
    let down = Outcome::Fail(Failure::DirectoryDown);
    assert_eq!(ask(DOWN, HOUR).await, down);
    assert_eq!(ask(accept(), HOUR).await, Outcome::Accept(Recency::Now));
    assert_eq!(
        ask(DOWN, HOUR).await,
        Outcome::Accept(Recency::BeforeAnOutage)
    );
    assert_eq!(ask(DOWN, Duration::ZERO).await, down);
    // Only an outage makes it believed.
    let odd = Outcome::Fail(Failure::DirectoryOdd);
    assert_eq!(
        ask(Outcome::Fail(Failure::DirectoryOdd), HOUR).await,
        odd.clone()
    );
    // What is not so any more is not so in an outage.
    assert!(matches!(ask(WRONG, HOUR).await, Outcome::Reject(_)));
    assert!(!cache.has(&key));
}

#[tokio::test]
async fn nothing_is_remembered_for_no_time_or_after_a_change_of_it() {
    let cache = Cache::new(Duration::ZERO);
    let key = key(&cache, "alice", "secret");
    for ttl in [Duration::ZERO, HOUR, 2 * HOUR] {
        cache.set_ttl(ttl);
        let fresh = answer(&cache, key, accept()).await;
        assert_eq!(fresh, Outcome::Accept(Recency::Now), "{ttl:?}");
    }
    cache.set_ttl(2 * HOUR);
    assert_eq!(
        remembered(&cache, key).await,
        Outcome::Accept(Recency::Lately)
    );
    cache.set_ttl(Duration::MAX);
    assert_eq!(
        answer(&cache, key, accept()).await,
        Outcome::Accept(Recency::Now)
    );
    assert_eq!(
        remembered(&cache, key).await,
        Outcome::Accept(Recency::Lately)
    );
}

#[tokio::test]
async fn a_hundred_first_logins_ask_once() {
    for said in [accept(), WRONG, DOWN] {
        let (cache, back_end) = (Arc::new(Cache::new(HOUR)), BackEnd::new(said.clone()));
        let key = key(&cache, "alice", "secret");
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let (cache, back_end) = (Arc::clone(&cache), Arc::clone(&back_end));
                tokio::spawn(async move {
                    let verify = || back_end.verify();
                    cache.answer(key, Duration::ZERO, verify).await
                })
            })
            .collect();
        back_end.until_asked(1).await;
        back_end.gate.add_permits(100);
        for call in calls {
            assert_eq!(call.await.unwrap().map(|known| known.person), said);
        }
        assert_eq!(back_end.asked(), 1);
    }
}

#[tokio::test]
async fn a_caller_who_leaves_takes_nobody_along() {
    let (cache, back_end) = (Arc::new(Cache::new(HOUR)), BackEnd::new(accept()));
    let key = key(&cache, "alice", "secret");
    let call = || {
        let (cache, back_end) = (Arc::clone(&cache), Arc::clone(&back_end));
        tokio::spawn(async move {
            let verify = || back_end.verify();
            cache.answer(key, Duration::ZERO, verify).await
        })
    };
    let leader = call();
    back_end.until_asked(1).await;
    let waiter = call();
    tokio::task::yield_now().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    back_end.until_asked(2).await;
    back_end.gate.add_permits(1);
    for call in [waiter, call()] {
        assert!(matches!(call.await.unwrap(), Outcome::Accept(_)));
    }
    assert_eq!(back_end.asked(), 2);
}

#[test]
fn no_two_credentials_share_a_key() {
    let cache = Cache::new(HOUR);
    let hash = "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=";
    let (users, _) = Users::parse(format!("a:{hash}\nb:{hash}").as_bytes(), "f".as_ref()).unwrap();
    let (a, b) = (users.fingerprint("a"), users.fingerprint("b"));
    let mut keys = HashSet::new();
    for back_end in [Authentication::Htpasswd, Authentication::Ldap] {
        for entry in [None, a, b] {
            for (user, password) in [("a", "bc"), ("ab", "c"), ("a", "b"), ("A", "bc")] {
                let password = Password::new(password).unwrap();
                assert!(keys.insert(cache.key(back_end, entry, user, Some(&password))));
            }
            for user in ["a", "ab", "abc"] {
                assert!(keys.insert(cache.key(back_end, entry, user, None)));
            }
        }
    }
    let other = Cache::new(HOUR);
    assert_ne!(key(&cache, "a", "b"), key(&other, "a", "b"));
    assert_eq!(key(&cache, "a", "b"), key(&cache, "a", "b"));
}
