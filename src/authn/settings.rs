//! What the configuration says about authentication.

use std::path::PathBuf;
use std::time::Duration;

use super::ldap;

/// How callers prove who they are, `[auth]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What an unauthenticated client is told to send.
    pub challenge: Challenge,
    /// How anonymous callers come; always directly where no token is asked for.
    pub anonymous: Anonymous,
    /// Back ends, in the order in which they are asked.
    pub order: Vec<BackEndKind>,
    /// `[auth.htpasswd] file`; there whenever `order` names it.
    pub htpasswd: Option<PathBuf>,
    /// `[auth.ldap]`; there whenever `order` names it.
    pub ldap: Option<ldap::Settings>,
    /// `[auth.keys] file`
    pub keys: PathBuf,
    /// How long a verified credential is remembered.
    pub cache_ttl: Duration,
}

/// A back end that knows passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEndKind {
    /// A file.
    Htpasswd,
    /// A directory.
    Ldap,
}

/// What an unauthenticated client is told to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A password with every request.
    Basic,
    /// A token of our own token service.
    Bearer,
}

/// How anonymous callers come to what is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Without anything.
    Direct,
    /// With a token of our own token service, like everybody else.
    Token,
}
