//! Whether a password is right.
//!
//! The back ends are asked in the order of the configuration, and the first that knows the user
//! decides: an htpasswd file, whose hashes are computed on a bounded pool of threads, or a
//! directory. What was verified is remembered for a while. Nothing here decides what a user may
//! do, and no answer tells a client why a password was refused.
//!
//! An outage is not an answer about a person: [`Outcome::Fail`] is neither counted as a wrong
//! password nor remembered.

mod cache;
mod certificate;
mod fingerprint;
mod hashing;
pub mod htpasswd;
pub mod keys;
pub mod ldap;
mod outcome;
mod recent;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;

pub use certificate::{CertificateError, Certificates};
pub use hashing::HashingPool;
pub use outcome::{Failure, Outcome, Rejection};

use cache::{Cache, Refused, Source, Verified};
use fingerprint::Fingerprint;
use htpasswd::Users;
use ldap::Directory;
use recent::RecentLogins;

use crate::config::{Backend, Ldap};
use crate::identity::{Authentication, Identity, Name, Password};
use crate::limit::{self, Claimant, Trust};

/// What outlives a reload: the hashing threads, the credentials verified lately and from where, and
/// the directory while nothing about it changes.
pub struct AuthnState {
    pool: HashingPool,
    cache: Cache,
    recent: RecentLogins,
    directory: Mutex<Option<Arc<Directory>>>,
}

impl AuthnState {
    /// Starts the threads; verified credentials will be remembered for `cache_ttl`, but never
    /// longer than a day. Zero remembers none.
    pub fn new(cache_ttl: Duration) -> Self {
        Self {
            pool: HashingPool::start(),
            cache: Cache::new(cache_ttl),
            recent: RecentLogins::new(),
            directory: Mutex::default(),
        }
    }

    /// Takes over a configuration's `cache_ttl`; call it when the configuration is swapped in. If
    /// it differs from the one in force, everybody is verified anew at their next request.
    pub fn set_cache_ttl(&self, cache_ttl: Duration) {
        self.cache.set_ttl(cache_ttl);
    }

    /// The directory of a configuration: the one in use, with its connections and all that it
    /// remembers, unless something about it is new. `ca` is what its certificates are verified
    /// with, for changes to be seen.
    pub fn directory(
        &self,
        config: &Ldap,
        tls: Option<&Arc<ClientConfig>>,
        ca: &[u8],
        cache_ttl: Duration,
    ) -> Arc<Directory> {
        let wanted = Directory::fingerprint_of(config, ca, cache_ttl);
        let mut known = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if known.fingerprint() == wanted => Arc::clone(known),
            Some(_) | None => {
                let fresh = Arc::new(Directory::new(config, tls, ca, cache_ttl));
                Arc::clone(known.insert(fresh))
            }
        }
    }

    /// Whether a user of this name logged in with a password from there in the last days. Cheap, and
    /// no proof of who is asking now: it decides who goes first, and nothing else.
    pub fn trust(&self, user: &Name, from: limit::Source) -> Trust {
        self.recent.trust(user.folded(), from)
    }

    /// The hashing threads.
    pub fn pool(&self) -> &HashingPool {
        &self.pool
    }
}

/// What a token was given out for, as it is now.
#[derive(Clone, Debug)]
pub struct CredentialStatus {
    /// The user, as the back end spells it.
    pub name: Name,
    /// Of the user's entry: a token is good as long as this is what it was when it was minted.
    pub entry: Fingerprint,
    /// The groups that the back end names.
    pub groups: Arc<[Arc<str>]>,
    /// Whether this is from before the directory went down.
    pub stale: bool,
}

/// The back ends of one configuration.
pub struct Authenticator {
    users: Option<Arc<Users>>,
    directory: Option<Arc<Directory>>,
    order: Vec<Backend>,
    memory: Arc<AuthnState>,
}

impl Authenticator {
    /// `users` is the htpasswd file's content, if there is one. Without `order` it is the only
    /// back end.
    pub fn new(users: Option<Users>, memory: Arc<AuthnState>) -> Self {
        Self {
            users: users.map(Arc::new),
            directory: None,
            order: vec![Backend::Htpasswd],
            memory,
        }
    }

    /// The same with a directory, asked in this order.
    #[must_use]
    pub fn with_directory(self, directory: Option<Arc<Directory>>, order: Vec<Backend>) -> Self {
        Self {
            directory,
            order,
            ..self
        }
    }

    /// The directory, for whoever sets it up.
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.directory.as_ref()
    }

    /// Verifies a password, or remembers that it was lately, and tells which back end decided; for a
    /// user whom none knows, the first. May be dropped at any time. `whom` is who asks: what all
    /// callers share, hashing and the directory, is shared out by it.
    ///
    /// A directory that is down is not one that does not know the user: no later back end is asked.
    pub async fn verify_password(
        &self,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> (Outcome, Option<Authentication>) {
        let (outcome, decided_by) = self.judge(user, password, whom).await;
        if let Outcome::Accept(who) = &outcome
            && !(who.cached() && self.memory.trust(user, whom.source) == Trust::Proven)
        {
            self.memory.recent.note(user.folded(), whom.source);
        }
        (outcome, decided_by)
    }

    async fn judge(
        &self,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> (Outcome, Option<Authentication>) {
        for back_end in &self.order {
            match (back_end, &self.users, &self.directory) {
                (Backend::Htpasswd, Some(users), _)
                    if users.fingerprint(user.as_str()).is_some() =>
                {
                    let outcome = self.by_file(users, user, password, whom).await;
                    return (outcome, Some(Authentication::Htpasswd));
                }
                (Backend::Ldap, _, Some(directory)) => {
                    // In a box, so that nobody else's request has room for it.
                    match Box::pin(self.by_directory(directory, user, password, whom)).await {
                        Outcome::Reject(Rejection::UnknownUser) => {}
                        decided @ (Outcome::Accept(_) | Outcome::Reject(_) | Outcome::Fail(_)) => {
                            return (decided, Some(Authentication::Ldap));
                        }
                    }
                }
                (Backend::Htpasswd | Backend::Ldap, _, _) => {}
            }
        }
        let outcome = match (&self.users, &self.directory) {
            // Costs as much as a wrong password.
            (Some(users), _) => self.by_file(users, user, password, whom).await,
            (None, Some(_)) => Outcome::Reject(Rejection::UnknownUser),
            (None, None) => Outcome::Reject(Rejection::NoBackEnd),
        };
        (outcome, self.in_use().next())
    }

    /// Whether a back end is known to know a user: the file does, or the directory did lately.
    pub fn remembers(&self, user: &Name) -> bool {
        let users = self.users.as_ref();
        let directory = self.directory.as_ref();
        users.is_some_and(|users| users.knows(user))
            || directory.is_some_and(|directory| directory.remembers(user))
    }

    /// The back end that is the first to have a say about a user; of several, the directory may turn
    /// out not to know the user.
    pub fn asked_about(&self, user: &str) -> Option<Authentication> {
        let file_knows = || {
            let users = self.users.as_ref();
            users.is_some_and(|users| users.fingerprint(user).is_some())
        };
        let has_a_say = |back_end: &Authentication| match back_end {
            Authentication::Htpasswd => file_knows(),
            Authentication::Anonymous
            | Authentication::Certificate
            | Authentication::Key
            | Authentication::Ldap
            | Authentication::Token => true,
        };
        self.in_use()
            .find(has_a_say)
            .or_else(|| self.in_use().next())
    }

    /// The back ends there are, in their order.
    fn in_use(&self) -> impl Iterator<Item = Authentication> {
        self.order.iter().filter_map(|back_end| match back_end {
            Backend::Htpasswd => self.users.as_ref().map(|_users| Authentication::Htpasswd),
            Backend::Ldap => self.directory.as_ref().map(|_known| Authentication::Ldap),
        })
    }

    /// How a user stands with the back end that decides about them; `None` once nobody knows the
    /// user. A directory is asked now and then, as long as the cache remembers.
    pub async fn credential_status(
        &self,
        user: &Name,
    ) -> Result<Option<CredentialStatus>, Failure> {
        for back_end in &self.order {
            match (back_end, &self.users, &self.directory) {
                (Backend::Htpasswd, Some(users), _) => {
                    if let Some(entry) = users.fingerprint(user.as_str()) {
                        return Ok(Some(CredentialStatus {
                            name: user.clone(),
                            entry,
                            groups: Arc::from([]),
                            stale: false,
                        }));
                    }
                }
                (Backend::Ldap, _, Some(directory)) => {
                    if let Some(known) = Box::pin(directory.look_up(user)).await? {
                        // Somebody else by now, if the directory or the file before it says so.
                        let name = &known.person.name;
                        let same = name.is(user) && !self.file_decides_about(name);
                        return Ok(same.then(|| CredentialStatus {
                            name: known.person.name.clone(),
                            entry: known.person.fingerprint,
                            groups: Arc::clone(&known.person.groups),
                            stale: known.stale,
                        }));
                    }
                }
                (Backend::Htpasswd | Backend::Ldap, _, _) => {}
            }
        }
        Ok(None)
    }

    async fn by_file(
        &self,
        users: &Arc<Users>,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Outcome {
        let method = Authentication::Htpasswd;
        let entry = users.fingerprint(user.as_str());
        let key = self
            .memory
            .cache
            .key(method.as_str(), entry, user.as_str(), password);
        let verify = async || self.ask_htpasswd(users, user, password, whom).await;
        match self.memory.cache.answer(key, verify).await {
            Ok((verified, source)) => accepted(&verified, method, source),
            Err(Refused::Reject(rejection)) => Outcome::Reject(rejection),
            Err(Refused::Fail(failure)) => Outcome::Fail(failure),
        }
    }

    async fn by_directory(
        &self,
        directory: &Arc<Directory>,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Outcome {
        let method = Authentication::Ldap;
        let configuration = Some(directory.fingerprint());
        let cache = &self.memory.cache;
        // A directory does not tell spellings apart.
        let key = cache.key(method.as_str(), configuration, user.folded(), password);
        let verify = async || self.ask_directory(directory, user, password, whom).await;
        let (verified, who) = match cache.answer(key, verify).await {
            Ok((verified, source)) => {
                if source == Source::Verified {
                    directory.believe(key, &verified);
                }
                let who = identity(&verified, method, source);
                (verified, who)
            }
            Err(Refused::Reject(rejection)) => {
                directory.doubt(key);
                return Outcome::Reject(rejection);
            }
            Err(Refused::Fail(failure)) => match directory.believed(key, failure) {
                Ok(verified) => {
                    let who = identity(&verified, method, Source::Remembered);
                    (verified, who.while_directory_down())
                }
                Err(failure) => return Outcome::Fail(failure),
            },
        };
        // In the directory's own spelling the name may be another's in a file asked before.
        if self.file_decides_about(&verified.user) {
            return Outcome::Reject(Rejection::UnknownUser);
        }
        Outcome::Accept(who)
    }

    async fn ask_directory(
        &self,
        directory: &Arc<Directory>,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Result<Arc<Verified>, Refused> {
        match directory.verify(user, password, whom).await {
            Ok(person) => Ok(Arc::new(Verified {
                user: person.name.clone(),
                groups: Arc::clone(&person.groups),
            })),
            Err(Refused::Reject(rejection)) => {
                // Unknown users cost a hash besides, so those with a wrong password do, too.
                if let (Some(users), true) = (&self.users, rejection != Rejection::UnknownUser) {
                    self.waste_a_hash(users, user, password, whom).await?;
                }
                Err(Refused::Reject(rejection))
            }
            Err(failed) => Err(failed),
        }
    }

    /// Whether the file is asked before the directory, and knows this user in any spelling.
    fn file_decides_about(&self, user: &Name) -> bool {
        self.order.first() == Some(&Backend::Htpasswd)
            && self.users.as_ref().is_some_and(|users| users.knows(user))
    }

    async fn waste_a_hash(
        &self,
        users: &Arc<Users>,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Result<(), Refused> {
        let (users, user, password) = (Arc::clone(users), user.clone(), password.clone());
        let hash = move || users.verify(user.as_str(), &password);
        let wasted = self.memory.pool.run(whom, hash).await;
        wasted.map(|_unknown_user| ()).map_err(Refused::Fail)
    }

    async fn ask_htpasswd(
        &self,
        users: &Arc<Users>,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Result<Arc<Verified>, Refused> {
        let (users, password) = (Arc::clone(users), password.clone());
        let verify = {
            let name = user.clone();
            move || users.verify(name.as_str(), &password)
        };
        let answer = self.memory.pool.run(whom, verify).await;
        let answer = answer.map_err(Refused::Fail)?;
        answer.map_err(Refused::Reject)?;
        // An htpasswd file names no groups.
        Ok(Arc::new(Verified {
            user: user.clone(),
            groups: Arc::from([]),
        }))
    }
}

fn accepted(verified: &Verified, method: Authentication, source: Source) -> Outcome {
    Outcome::Accept(identity(verified, method, source))
}

fn identity(verified: &Verified, method: Authentication, source: Source) -> Identity {
    Identity::verified_password(
        verified.user.clone(),
        Arc::clone(&verified.groups),
        method,
        source == Source::Remembered,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::htpasswd::Users;
    use super::{Authenticator, AuthnState, Outcome, Rejection};
    use crate::identity::{Authentication, Name, Origin, Password};
    use crate::limit::{Claimant, Trust};

    /// `secret`, by `htpasswd -nbB -C 4`.
    const SECRET: &str = "$2y$04$9WH9kMhhiWFXKVxZ0wvriO51bI.LwHbpPN4YMYLPt7VxpHmfEH7Gq";
    /// `other`, likewise.
    const OTHER: &str = "$2y$04$BZla5k5L/tJRNpEHDBlXjO1/l0Z6DS7Nb4Y9aGQ6LtfH2klHERqnO";

    fn memory() -> Arc<AuthnState> {
        Arc::new(AuthnState::new(Duration::from_hours(1)))
    }

    fn authenticator(file: &str, memory: &Arc<AuthnState>) -> Arc<Authenticator> {
        let (users, _) = Users::parse(file.as_bytes(), "htpasswd".as_ref()).unwrap();
        Arc::new(Authenticator::new(Some(users), Arc::clone(memory)))
    }

    fn office() -> Claimant {
        Claimant::stranger([192, 0, 2, 7].into())
    }

    /// `Ok(cached)` for an accepted credential.
    async fn login(to: &Authenticator, user: &str, password: &str) -> Result<bool, Rejection> {
        let password = Password::new(password).unwrap();
        let name = Name::parse(user, Origin::Password).unwrap();
        let (outcome, by) = to.verify_password(&name, &password, office()).await;
        assert!(by.is_none_or(|by| by == Authentication::Htpasswd));
        assert_eq!(to.asked_about(user), by);
        match outcome {
            Outcome::Accept(identity) => {
                assert_eq!(identity.user(), Some(user));
                assert_eq!(identity.authentication(), Authentication::Htpasswd);
                assert!(identity.groups().is_empty());
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
    async fn who_logged_in_is_known_where_they_did() {
        let memory = memory();
        let to = authenticator(&format!("alice:{SECRET}"), &memory);
        let (here, elsewhere) = (office(), Claimant::stranger([192, 0, 2, 8].into()));
        assert!(login(&to, "alice", "wrong").await.is_err());
        let alice = Name::parse("alice", Origin::Password).unwrap();
        assert_eq!(memory.trust(&alice, here.source), Trust::Stranger);
        assert!(login(&to, "alice", "secret").await.is_ok());
        assert_eq!(memory.trust(&alice, here.source), Trust::Proven);
        assert_eq!(memory.trust(&alice, elsewhere.source), Trust::Stranger);
        // A remembered password is a login, too.
        let password = Password::new("secret").unwrap();
        let (outcome, _) = to.verify_password(&alice, &password, elsewhere).await;
        assert!(matches!(outcome, Outcome::Accept(who) if who.cached()));
        assert_eq!(memory.trust(&alice, elsewhere.source), Trust::Proven);
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
        let status = async |to: &Authenticator, user: &'static str| {
            to.credential_status(&Name::parse(user, Origin::Written).unwrap())
                .await
                .unwrap()
                .map(|status| status.entry)
        };
        assert_eq!(
            status(&after, "alice").await,
            status(&before, "alice").await
        );
        assert!(status(&before, "bob").await.is_some());
        assert!(status(&after, "bob").await.is_none());

        let changed = authenticator(&format!("alice:{OTHER}\nbob:{OTHER}"), &memory);
        assert_eq!(
            login(&changed, "alice", "secret").await,
            Err(Rejection::WrongPassword)
        );
        assert_eq!(login(&changed, "alice", "other").await, Ok(false));
        assert_ne!(status(&changed, "bob").await, status(&before, "bob").await);
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
        let alice = Name::parse("alice", Origin::Written).unwrap();
        assert!(nobody.credential_status(&alice).await.unwrap().is_none());
    }
}
