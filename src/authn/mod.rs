//! Whether a password is right.
//!
//! The users of one htpasswd file are known so far. Verifying takes place on a
//! bounded pool of threads, and what was verified is remembered for a while. Nothing here
//! decides what a user may do, and no answer tells a client why a password was refused.
//!
//! An outage is not an answer about a person: [`Outcome::Fail`] is neither counted as a wrong
//! password nor remembered.

mod cache;
mod certificate;
mod hashing;
pub mod htpasswd;
pub mod keys;

use std::sync::Arc;
use std::time::Duration;

pub use certificate::{CertificateError, Certificates};
pub use hashing::HashingPool;

use cache::{Cache, Refused, Source, Verified};
use htpasswd::{Fingerprint, Users};

use crate::identity::{Authentication, Identity, Password};

/// The answer to a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It is good.
    Accept(Identity),
    /// It is bad: 401.
    Reject(Rejection),
    /// Nobody knows: 503, never 401.
    Fail(Failure),
}

/// Why a credential is bad; for the log and the audit record, never for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A robot key whose time is over.
    ExpiredKey,
    /// A robot key that is not for use from that address.
    KeyElsewhere,
    /// A robot key with a wrong checksum.
    MistypedKey,
    /// Nothing is configured that verifies passwords.
    NoBackEnd,
    /// bcrypt would ignore the end of the password.
    PasswordTooLong,
    /// No robot key is called like that.
    UnknownKey,
    /// No back end knows the user.
    UnknownUser,
    /// The robot key of that name is another.
    WrongKey,
    /// The user is known, the password is another.
    WrongPassword,
}

/// Why nobody knows whether a credential is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// More logins at a time than there are cores to verify them.
    Busy,
    /// Verifying ended without an answer; a fault of ours.
    Crashed,
}

impl Rejection {
    /// The words of the log and the audit record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExpiredKey => "key expired",
            Self::KeyElsewhere => "key not for this address",
            Self::MistypedKey => "key mistyped",
            Self::NoBackEnd => "passwords are not accepted",
            Self::PasswordTooLong => "password too long",
            Self::UnknownKey => "unknown key",
            Self::UnknownUser => "unknown user",
            Self::WrongKey => "wrong key",
            Self::WrongPassword => "wrong password",
        }
    }
}

impl Failure {
    /// The words of the log and the audit record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "too many logins at a time",
            Self::Crashed => "verifying the password failed",
        }
    }
}

/// What outlives a reload: the hashing threads and the credentials verified lately.
pub struct Memory {
    pool: HashingPool,
    cache: Cache,
}

impl Memory {
    /// Starts the threads; verified credentials will be remembered for `cache_ttl`, but never
    /// longer than a day. Zero remembers none.
    pub fn new(cache_ttl: Duration) -> Self {
        Self {
            pool: HashingPool::start(),
            cache: Cache::new(cache_ttl),
        }
    }

    /// Takes over a configuration's `cache_ttl`; call it when the configuration is swapped in. If
    /// it differs from the one in force, everybody is verified anew at their next request.
    pub fn set_cache_ttl(&self, cache_ttl: Duration) {
        self.cache.set_ttl(cache_ttl);
    }

    /// The hashing threads.
    pub fn pool(&self) -> &HashingPool {
        &self.pool
    }
}

/// The back ends of one configuration.
pub struct Authenticator {
    users: Option<Arc<Users>>,
    memory: Arc<Memory>,
}

impl Authenticator {
    /// `users` is the htpasswd file's content, if there is one.
    pub fn new(users: Option<Users>, memory: Arc<Memory>) -> Self {
        Self {
            users: users.map(Arc::new),
            memory,
        }
    }

    /// Verifies a password, or remembers that it was lately. May be dropped at any time.
    pub async fn verify_password(&self, user: &str, password: &Password) -> Outcome {
        let Some(users) = &self.users else {
            return Outcome::Reject(Rejection::NoBackEnd);
        };
        let method = Authentication::Htpasswd;
        let entry = users.fingerprint(user);
        let key = self
            .memory
            .cache
            .key(method.as_str(), entry, user, password);
        let verify = self.ask_htpasswd(users, user, password);
        match self.memory.cache.answer(key, verify).await {
            Ok((verified, source)) => Outcome::Accept(Identity::verified_password(
                Arc::clone(&verified.user),
                Arc::clone(&verified.groups),
                method,
                source == Source::Remembered,
            )),
            Err(Refused::Reject(rejection)) => Outcome::Reject(rejection),
            Err(Refused::Fail(failure)) => Outcome::Fail(failure),
        }
    }

    /// The fingerprint of a user's present entry; `None` once the user was removed. What was given
    /// out on a password (a token) is good as long as this is what it was then.
    pub fn knows(&self, user: &str) -> Option<Fingerprint> {
        self.users.as_ref()?.fingerprint(user)
    }

    async fn ask_htpasswd(
        &self,
        users: &Arc<Users>,
        user: &str,
        password: &Password,
    ) -> Result<Arc<Verified>, Refused> {
        let name: Arc<str> = user.into();
        let (users, password) = (Arc::clone(users), password.clone());
        let verify = {
            let name = Arc::clone(&name);
            move || users.verify(&name, &password)
        };
        let answer = self.memory.pool.run(verify).await.map_err(Refused::Fail)?;
        answer.map_err(Refused::Reject)?;
        // An htpasswd file names no groups.
        Ok(Arc::new(Verified {
            user: name,
            groups: Arc::from([]),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::htpasswd::Users;
    use super::{Authenticator, Memory, Outcome, Rejection};
    use crate::identity::{Authentication, Password};

    /// `secret`, by `htpasswd -nbB -C 4`.
    const SECRET: &str = "$2y$04$9WH9kMhhiWFXKVxZ0wvriO51bI.LwHbpPN4YMYLPt7VxpHmfEH7Gq";
    /// `other`, likewise.
    const OTHER: &str = "$2y$04$BZla5k5L/tJRNpEHDBlXjO1/l0Z6DS7Nb4Y9aGQ6LtfH2klHERqnO";

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new(Duration::from_hours(1)))
    }

    fn authenticator(file: &str, memory: &Arc<Memory>) -> Arc<Authenticator> {
        let (users, _) = Users::parse(file.as_bytes(), "htpasswd".as_ref()).unwrap();
        Arc::new(Authenticator::new(Some(users), Arc::clone(memory)))
    }

    /// `Ok(cached)` for an accepted credential.
    async fn login(to: &Authenticator, user: &str, password: &str) -> Result<bool, Rejection> {
        match to
            .verify_password(user, &Password::new(password).unwrap())
            .await
        {
            Outcome::Accept(identity) => {
                assert_eq!(identity.user(), Some(user));
                assert_eq!(identity.authentication(), Authentication::Htpasswd);
                assert_eq!(identity.groups(), []);
                assert!(
                    identity.has_password()
                        && identity.scope_covers(crate::registry::Action::Delete, None)
                );
                Ok(identity.cached())
            }
            Outcome::Reject(rejection) => Err(rejection),
            Outcome::Fail(failure) => panic!("{failure:?}"),
        }
    }

    #[tokio::test]
    async fn a_password_is_hashed_once_in_a_while() {
        let memory = memory();
        let to = authenticator(&format!("alice:{SECRET}\nbob:{SECRET}"), &memory);
        assert_eq!(login(&to, "alice", "secret").await, Ok(false));
        assert_eq!(login(&to, "alice", "secret").await, Ok(true));
        assert_eq!(memory.pool().jobs_run(), 1);
        assert_eq!(login(&to, "bob", "secret").await, Ok(false));
        assert_eq!(memory.pool().jobs_run(), 2);
    }

    #[tokio::test]
    async fn wrong_passwords_and_unknown_users_cost_the_same() {
        for (user, password, rejection) in [
            ("alice", "wrong", Rejection::WrongPassword),
            ("nobody", "secret", Rejection::UnknownUser),
        ] {
            let memory = memory();
            let to = authenticator(&format!("alice:{SECRET}"), &memory);
            for hashes in [1, 1] {
                assert_eq!(login(&to, user, password).await, Err(rejection));
                assert_eq!(memory.pool().jobs_run(), hashes, "{user}");
            }
            assert_eq!(login(&to, user, "another").await, Err(rejection));
            assert_eq!(memory.pool().jobs_run(), 2, "{user}");
        }
    }

    #[tokio::test]
    async fn a_reload_keeps_what_is_still_true() {
        let memory = memory();
        let before = authenticator(&format!("alice:{SECRET}\nbob:{SECRET}"), &memory);
        for user in ["alice", "bob"] {
            assert_eq!(login(&before, user, "secret").await, Ok(false));
        }
        let after = authenticator(
            &format!("# changed\nalice:{SECRET}\ncarol:{OTHER}"),
            &memory,
        );
        assert_eq!(login(&after, "alice", "secret").await, Ok(true));
        assert_eq!(
            login(&after, "bob", "secret").await,
            Err(Rejection::UnknownUser)
        );
        assert_eq!(after.knows("alice"), before.knows("alice"));
        assert!(before.knows("bob").is_some() && after.knows("bob").is_none());

        let changed = authenticator(&format!("alice:{OTHER}\nbob:{OTHER}"), &memory);
        assert_eq!(
            login(&changed, "alice", "secret").await,
            Err(Rejection::WrongPassword)
        );
        assert_eq!(login(&changed, "alice", "other").await, Ok(false));
        assert_ne!(changed.knows("bob"), before.knows("bob"));
        // A request under the old rules still gets their answer.
        assert_eq!(login(&before, "bob", "secret").await, Ok(true));
    }

    #[tokio::test]
    async fn a_new_user_is_known_at_once() {
        let memory = memory();
        let before = authenticator(&format!("alice:{SECRET}"), &memory);
        assert_eq!(
            login(&before, "bob", "other").await,
            Err(Rejection::UnknownUser)
        );
        let after = authenticator(&format!("alice:{SECRET}\nbob:{OTHER}"), &memory);
        assert_eq!(login(&after, "bob", "other").await, Ok(false));
    }

    #[tokio::test]
    async fn a_changed_ttl_forgets() {
        let memory = memory();
        let to = authenticator(&format!("alice:{SECRET}"), &memory);
        assert_eq!(login(&to, "alice", "secret").await, Ok(false));
        memory.set_cache_ttl(Duration::from_hours(1));
        assert_eq!(login(&to, "alice", "secret").await, Ok(true));
        memory.set_cache_ttl(Duration::ZERO);
        assert_eq!(login(&to, "alice", "secret").await, Ok(false));
        assert_eq!(login(&to, "alice", "secret").await, Ok(false));
    }

    #[tokio::test]
    async fn a_hundred_first_logins_hash_once() {
        let memory = memory();
        let to = authenticator(&format!("alice:{SECRET}"), &memory);
        let logins: Vec<_> = (0..100)
            .map(|_| {
                let to = Arc::clone(&to);
                tokio::spawn(async move { login(&to, "alice", "secret").await })
            })
            .collect();
        for login in logins {
            assert!(login.await.unwrap().is_ok());
        }
        assert_eq!(memory.pool().jobs_run(), 1);
    }

    #[tokio::test]
    async fn without_a_back_end_no_password_is_right() {
        let nobody = Authenticator::new(None, memory());
        assert_eq!(
            login(&nobody, "alice", "secret").await,
            Err(Rejection::NoBackEnd)
        );
        assert_eq!(nobody.knows("alice"), None);
    }
}
