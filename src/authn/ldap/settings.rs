//! What the configuration says about the directory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Dn, UserFilter};
use crate::identity::Secret;

/// The directory and the way to it, `[auth.ldap]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Asked in turn.
    pub servers: Vec<LdapServer>,
    /// Whether `ldap://` is made safe by `StartTLS`.
    pub start_tls: bool,
    /// PEM, the authority that issued the servers' certificates.
    pub ca: Option<PathBuf>,
    /// The account that searches, and its password; anonymous otherwise.
    pub bind: Option<(Box<str>, Secret<String>)>,
    /// Below what users are searched.
    pub user_base: Box<str>,
    /// How a user is found, and what names it.
    pub user_filter: UserFilter,
    /// How groups are found.
    pub groups: LdapGroups,
    /// Below what groups are searched.
    pub group_base: Option<Box<str>>,
    /// By the names that rules use, the directory's groups that count as those. Without it every group
    /// counts, by its common name.
    pub map: Option<BTreeMap<Box<str>, Vec<Dn>>>,
    /// Whether groups of groups count, where the directory itself does not resolve them.
    pub nested_groups: bool,
    /// For a login, all servers together.
    pub timeout: Duration,
    /// For how long what was verified is believed while the directory is down; zero: not at all.
    pub stale_ok: Duration,
}

impl Settings {
    /// Whether any server is asked over TLS.
    pub fn uses_tls(&self) -> bool {
        self.start_tls || self.servers.iter().any(|server| server.tls)
    }
}

/// One directory server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapServer {
    /// Whether the connection begins with TLS (`ldaps://`).
    pub tls: bool,
    /// Name or address.
    pub host: Box<str>,
    /// Port, 389 or 636 by default.
    pub port: u16,
}

impl std::fmt::Display for LdapServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "ldaps" } else { "ldap" };
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// How groups are found in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdapGroups {
    /// Active Directory, with groups in groups.
    AdNested,
    /// `groupOfNames` entries that name the user.
    GroupOfNames,
    /// The user's own `memberOf`.
    MemberOf,
    /// Not at all.
    None,
    /// `posixGroup` entries with `memberUid`.
    Posix,
}
