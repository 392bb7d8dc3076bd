//! One back end: what it says of a password, and what of a user without one.

use std::sync::Arc;
use std::time::Duration;

use super::cache::Key;
use super::fingerprint::Fingerprint;
use super::htpasswd::Users;
use super::ldap::Directory;
use super::outcome::{Failure, Outcome, Rejection};
use super::person::{Known, Person};
use super::state::AuthnState;
use crate::identity::{Authentication, Group, Name, Password, Recency};
use crate::limit::Claimant;

/// A back end of one configuration.
pub enum BackEnd {
    /// An htpasswd file.
    Htpasswd(Arc<Users>),
    /// A directory.
    Ldap(Arc<Directory>),
}

/// A password that is presented.
#[derive(Clone, Copy)]
pub(super) struct Login<'a> {
    pub(super) user: &'a Name,
    pub(super) password: &'a Password,
    /// The source: hashing and the directory are shared out by it.
    pub(super) whom: Claimant,
}

/// What a token was given out for, as it is now.
#[derive(Clone, Debug)]
pub struct CredentialStatus {
    /// The user, as the back end spells it.
    pub name: Name,
    /// Of the user's entry: a token is good as long as this is what it was when it was minted.
    pub entry: Fingerprint,
    /// The groups that the back end names.
    pub groups: Arc<[Group]>,
    /// Whether this is from before the directory went down.
    pub stale: bool,
}

impl BackEnd {
    /// Its kind, as records name it.
    pub(super) fn method(&self) -> Authentication {
        match self {
            Self::Htpasswd(_) => Authentication::Htpasswd,
            Self::Ldap(_) => Authentication::Ldap,
        }
    }

    /// The content of the file, if it is one.
    pub(super) fn users(&self) -> Option<&Arc<Users>> {
        match self {
            Self::Htpasswd(users) => Some(users),
            Self::Ldap(_) => None,
        }
    }

    /// The directory, if it is one.
    pub(super) fn directory(&self) -> Option<&Arc<Directory>> {
        match self {
            Self::Htpasswd(_) => None,
            Self::Ldap(directory) => Some(directory),
        }
    }

    /// Returns false if it is clear without asking that the user is unknown.
    pub(super) fn may_know(&self, user: &str) -> bool {
        match self {
            Self::Htpasswd(users) => users.fingerprint(user).is_some(),
            Self::Ldap(_) => true,
        }
    }

    /// Returns true if it is clear without asking that the user is known, in any spelling.
    pub(super) fn knows(&self, user: &Name) -> bool {
        match self {
            Self::Htpasswd(users) => users.knows(user),
            Self::Ldap(_) => false,
        }
    }

    /// Returns true if the user is known, or was known lately.
    pub(super) fn remembers(&self, user: &Name, state: &AuthnState) -> bool {
        match self {
            Self::Htpasswd(users) => users.knows(user),
            Self::Ldap(directory) => state.cache.has(&name_key(directory, user, state)),
        }
    }

    /// Verifies a password, or remembers that it was lately. A user unknown to a file costs a hash. So
    /// does a wrong password at a directory, where there is a file: unknown users cost that in addition
    /// to what the directory takes.
    pub(super) async fn verify(
        &self,
        login: Login<'_>,
        file: Option<&Arc<Users>>,
        state: &AuthnState,
    ) -> Outcome<Known> {
        match self {
            Self::Htpasswd(users) => in_file(users, login, state).await,
            // In a box, so that nobody else's request has room for it.
            Self::Ldap(directory) => Box::pin(in_directory(directory, login, file, state)).await,
        }
    }

    /// What keeps the back end from saying anything about anybody, if something does. It is asked about
    /// a user whom it does not have, as often as it would be asked about this login.
    pub(super) async fn failure(&self, login: Login<'_>, state: &AuthnState) -> Option<Failure> {
        match self {
            Self::Htpasswd(_) => None,
            Self::Ldap(directory) => {
                let configuration = Some(directory.fingerprint());
                // No name is like this.
                let nobody = format!("\0{}", login.user.folded());
                let password = Some(login.password);
                let method = Authentication::Ldap;
                let key = state.cache.key(method, configuration, &nobody, password);
                let ask = async || directory.ask_about_nobody(login.whom).await.map(Arc::new);
                match Box::pin(state.cache.answer(key, Duration::ZERO, ask)).await {
                    Outcome::Fail(failure) => Some(failure),
                    Outcome::Accept(_) | Outcome::Reject(_) => None,
                }
            }
        }
    }

    /// The state of a user's credential. A directory is asked now and then, as long as the cache
    /// remembers.
    pub(super) async fn status(
        &self,
        user: &Name,
        state: &AuthnState,
    ) -> Outcome<CredentialStatus> {
        match self {
            Self::Htpasswd(users) => match users.fingerprint(user.as_str()) {
                Some(entry) => Outcome::Accept(CredentialStatus {
                    name: user.clone(),
                    entry,
                    groups: Arc::from([]),
                    stale: false,
                }),
                None => Outcome::Reject(Rejection::UnknownUser.into()),
            },
            Self::Ldap(directory) => {
                let key = name_key(directory, user, state);
                let look_up = async || directory.look_up(user).await.map(Arc::new);
                let known = state.cache.answer(key, directory.stale_ok(), look_up);
                Box::pin(known).await.map(|known| CredentialStatus {
                    name: known.person.name.clone(),
                    entry: known.person.fingerprint,
                    groups: Arc::clone(&known.person.groups),
                    stale: known.recency == Recency::BeforeAnOutage,
                })
            }
        }
    }
}

async fn in_file(users: &Arc<Users>, login: Login<'_>, state: &AuthnState) -> Outcome<Known> {
    let Login { user, password, .. } = login;
    let entry = users.fingerprint(user.as_str());
    let method = Authentication::Htpasswd;
    let key = state
        .cache
        .key(method, entry, user.as_str(), Some(password));
    let verify = async || match (hash(users, login, state).await, entry) {
        (Outcome::Accept(()), Some(fingerprint)) => Outcome::Accept(Arc::new(Person {
            name: user.clone(),
            groups: Arc::from([]),
            fingerprint,
        })),
        (Outcome::Accept(()), None) => Outcome::Reject(Rejection::UnknownUser.into()),
        (Outcome::Reject(rejected), _) => Outcome::Reject(rejected),
        (Outcome::Fail(failure), _) => Outcome::Fail(failure),
    };
    state.cache.answer(key, Duration::ZERO, verify).await
}

/// Computes one hash, whether or not the file knows the user.
async fn hash(users: &Arc<Users>, login: Login<'_>, state: &AuthnState) -> Outcome<()> {
    let (users, user, password) = (
        Arc::clone(users),
        login.user.clone(),
        login.password.clone(),
    );
    let hash = move || users.verify(user.as_str(), &password);
    match state.pool.run(login.whom, hash).await {
        Ok(Ok(())) => Outcome::Accept(()),
        Ok(Err(rejection)) => Outcome::Reject(rejection.into()),
        Err(failure) => Outcome::Fail(failure),
    }
}

async fn in_directory(
    directory: &Arc<Directory>,
    login: Login<'_>,
    file: Option<&Arc<Users>>,
    state: &AuthnState,
) -> Outcome<Known> {
    let Login {
        user,
        password,
        whom,
    } = login;
    let (cache, stale_ok) = (&state.cache, directory.stale_ok());
    let configuration = Some(directory.fingerprint());
    // A directory does not tell spellings apart.
    let folded = user.folded();
    let key = cache.key(Authentication::Ldap, configuration, folded, Some(password));
    let verify = async || match directory.verify(user, password, whom).await {
        Outcome::Accept(person) => {
            let person = Arc::new(person);
            let by_name = name_key(directory, &person.name, state);
            cache.remember(by_name, &person, stale_ok);
            Outcome::Accept(person)
        }
        Outcome::Reject(rejected) if rejected.why == Rejection::UnknownUser => {
            cache.forget(&name_key(directory, user, state));
            Outcome::Reject(rejected)
        }
        Outcome::Reject(rejected) => {
            if rejected.why == Rejection::AccountDisabled {
                cache.forget(&name_key(directory, user, state));
            }
            // What the hash says of the user is no matter.
            match file {
                Some(users) => match hash(users, login, state).await {
                    Outcome::Fail(failure) => Outcome::Fail(failure),
                    Outcome::Accept(()) | Outcome::Reject(_) => Outcome::Reject(rejected),
                },
                None => Outcome::Reject(rejected),
            }
        }
        Outcome::Fail(failure) => Outcome::Fail(failure),
    };
    cache.answer(key, stale_ok, verify).await
}

/// What a directory's user is remembered by without a password.
fn name_key(directory: &Directory, user: &Name, state: &AuthnState) -> Key {
    let configuration = Some(directory.fingerprint());
    let method = Authentication::Ldap;
    state.cache.key(method, configuration, user.folded(), None)
}
