//! The result of authentication.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Confinement, Group, Name, Robot, Subject, SubjectKind};
use crate::registry::{Action, RepoName};

/// How an identity was established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing was presented.
    Anonymous,
    /// A client certificate alone.
    Certificate,
    /// A password of the htpasswd file.
    Htpasswd,
    /// A robot key.
    Key,
    /// A password that the directory verified.
    Ldap,
    /// One of our own tokens.
    Token,
}

impl Authentication {
    /// The word of the audit record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Certificate => "certificate",
            Self::Htpasswd => "htpasswd",
            Self::Key => "key",
            Self::Ldap => "ldap",
            Self::Token => "token",
        }
    }
}

/// What one entry of a token's `access` lets its bearer ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// See the catalog, as far as the policy shows it.
    Catalog,
    /// Act on one repository.
    Repository {
        /// Its name.
        name: RepoName,
        /// How; [`Action::Push`] covers [`Action::Overwrite`], which has no word in a scope.
        actions: Vec<Action>,
    },
}

/// When a credential was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recency {
    /// While the directory that knows the user, and is down now, was up.
    BeforeAnOutage,
    /// Shortly before.
    Lately,
    /// For this very request.
    Now,
}

/// What somebody has shown, as a record tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// A password, or a token minted for one.
    pub password: bool,
    /// A client certificate.
    pub certificate: bool,
}

/// Somebody who proved to be who they are, or nobody in particular.
///
/// The constructors are called by `authn` only, so every origin of an identity is found by
/// searching for them; a name out of a header cannot become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    subject: Subject,
    groups: Arc<[Group]>,
    authentication: Authentication,
    recency: Recency,
    password: bool,
    certificate: bool,
    scope: Option<Arc<[Grant]>>,
    confinement: Option<Arc<Confinement>>,
}

impl Identity {
    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self {
            subject: Subject::Nobody,
            groups: Arc::from([]),
            authentication: Authentication::Anonymous,
            recency: Recency::Now,
            password: false,
            certificate: false,
            scope: None,
            confinement: None,
        }
    }

    /// A user whose password a back end has verified. `cached`: it had been verified shortly before.
    pub(crate) fn verified_password(
        user: Name,
        groups: Arc<[Group]>,
        authentication: Authentication,
        cached: bool,
    ) -> Self {
        Self {
            subject: Subject::Person(user),
            groups,
            authentication,
            recency: if cached {
                Recency::Lately
            } else {
                Recency::Now
            },
            password: true,
            certificate: false,
            scope: None,
            confinement: None,
        }
    }

    /// The robot that has shown a key.
    pub(crate) fn verified_key(name: &str, confinement: Arc<Confinement>) -> Self {
        Self {
            subject: Subject::Robot(Robot::named(name)),
            authentication: Authentication::Key,
            confinement: Some(confinement),
            ..Self::anonymous()
        }
    }

    /// The bearer of a token that was minted for a robot key, confined as the key is now.
    pub(crate) fn verified_key_token(
        robot: Robot,
        confinement: Arc<Confinement>,
        scope: Arc<[Grant]>,
    ) -> Self {
        Self {
            subject: Subject::Robot(robot),
            confinement: Some(confinement),
            ..Self::verified_token(None, Arc::from([]), false, scope)
        }
    }

    /// The bearer of one of our tokens. `user` is `None` for an anonymous token; `password` says
    /// whether the token was minted for one.
    pub(crate) fn verified_token(
        user: Option<Name>,
        groups: Arc<[Group]>,
        password: bool,
        scope: Arc<[Grant]>,
    ) -> Self {
        let authentication = Authentication::Token;
        Self {
            subject: user.map_or(Subject::Nobody, Subject::Person),
            groups,
            authentication,
            recency: Recency::Now,
            password,
            certificate: false,
            scope: Some(scope),
            confinement: None,
        }
    }

    /// The user whom a client certificate names, and nothing besides it.
    pub(crate) fn verified_certificate(user: Name, groups: Vec<Group>) -> Self {
        Self {
            subject: Subject::Person(user),
            groups: groups.into(),
            authentication: Authentication::Certificate,
            certificate: true,
            ..Self::anonymous()
        }
    }

    /// The same identity, remembered from before the directory that knows the user went down.
    #[must_use]
    pub(crate) fn while_directory_down(self) -> Self {
        Self {
            recency: Recency::BeforeAnOutage,
            ..self
        }
    }

    /// The same identity with a client certificate beside it, which may name further groups.
    #[must_use]
    pub(crate) fn beside_certificate(self, groups: Vec<Group>) -> Self {
        let groups = self.groups.iter().cloned().chain(groups).collect();
        Self {
            groups,
            certificate: true,
            ..self
        }
    }

    /// Somebody who has proved nothing, taken for a user who gave a password: for `explain` and
    /// policy tests, which only ask what would be. Never to be called for a request.
    pub fn supposed(subject: Subject, groups: &[&str]) -> Self {
        Self {
            subject,
            groups: groups.iter().map(|group| Group::new(*group)).collect(),
            authentication: Authentication::Htpasswd,
            password: true,
            ..Self::anonymous()
        }
    }

    /// The same with nothing behind the name but this.
    pub fn supposed_with(subject: Subject, groups: &[&str], proof: Proof) -> Self {
        Self {
            password: proof.password,
            certificate: proof.certificate,
            ..Self::supposed(subject, groups)
        }
    }

    /// The same for a robot key.
    pub fn supposed_key(name: &str, confinement: Arc<Confinement>) -> Self {
        Self::verified_key(name, confinement)
    }

    /// The caller.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The caller as records write it; `None` for anonymous ones.
    pub fn user(&self) -> Option<&str> {
        self.subject.as_str()
    }

    /// The name of a person as `${user}` in patterns means it: a directory's in its fold, since no
    /// repository has capitals. `None` for everything else.
    pub fn person(&self) -> Option<&str> {
        self.subject.person().map(|name| &**name.key())
    }

    /// What the caller is.
    pub fn kind(&self) -> SubjectKind {
        self.subject.kind()
    }

    /// The groups that the back end which knows the user names. The configuration's own groups are
    /// added by the policy.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// How the identity was established.
    pub fn authentication(&self) -> Authentication {
        self.authentication
    }

    /// Whether the credential had been verified shortly before.
    pub fn cached(&self) -> bool {
        self.recency != Recency::Now
    }

    /// Whether all this was true before the directory that knows the user went down, and may be
    /// true no more.
    pub fn is_stale(&self) -> bool {
        self.recency == Recency::BeforeAnOutage
    }

    /// Whether a password stands behind the identity, directly or through a token.
    pub fn has_password(&self) -> bool {
        self.password
    }

    /// What a robot key may; `None` for everybody else, whom only the rules limit.
    pub fn confinement(&self) -> Option<&Confinement> {
        self.confinement.as_deref()
    }

    /// When the credential ends by itself, if it does.
    pub fn expires(&self) -> Option<Timestamp> {
        self.confinement()?.expires
    }

    /// Whether a password or a robot key stands behind the identity, directly or through a token.
    pub fn has_secret(&self) -> bool {
        self.password || self.confinement.is_some()
    }

    /// Whether a client certificate stands behind the identity.
    pub fn has_certificate(&self) -> bool {
        self.certificate
    }

    /// Whether a token limits what the caller may ask for.
    pub fn is_limited(&self) -> bool {
        self.scope.is_some()
    }

    /// Whether the token presented was minted for an action; true when no token limits the caller.
    /// `repository` is `None` for the catalog.
    pub fn scope_covers(&self, action: Action, repository: Option<&RepoName>) -> bool {
        let Some(scope) = &self.scope else {
            return true;
        };
        scope.iter().any(|grant| match (grant, repository) {
            (Grant::Catalog, None) => true,
            (Grant::Repository { name, actions }, Some(wanted)) => {
                let word = if action == Action::Overwrite {
                    Action::Push
                } else {
                    action
                };
                name == wanted && actions.contains(&word)
            }
            (Grant::Catalog, Some(_)) | (Grant::Repository { .. }, None) => false,
        })
    }
}
