//! What a robot key may do, which is all that its bearer may do. Looked up with the key at each
//! request, so that a change is in force at once, for tokens too.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::registry::{Action, Pattern, RepoName};

/// The grant of a robot key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Where the key stands, `file:line`.
    pub place: Arc<str>,
    /// For which repositories.
    pub repositories: Vec<Pattern>,
    /// What its role contains.
    pub actions: Vec<Action>,
    /// From where, in canonical form; empty is anywhere.
    pub networks: Vec<IpNet>,
    /// Until when; `None` is for ever.
    pub expires: Option<Timestamp>,
}

impl Confinement {
    /// Whether the grant covers an action. `None` asks for the whole catalog, which only a key for
    /// all repositories can see.
    pub fn covers(
        &self,
        action: Action,
        repository: Option<&RepoName>,
        from: IpAddr,
        now: Timestamp,
    ) -> bool {
        let fits = |pattern: &Pattern| match repository {
            Some(name) => pattern.matches(name, None),
            None => pattern.as_str() == "**",
        };
        self.actions.contains(&action)
            && self.repositories.iter().any(fits)
            && self.admits(from)
            && !self.is_over(now)
    }

    /// Whether another grants the same, wherever it stands.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self {
            place: _,
            repositories,
            actions,
            networks,
            expires,
        } = self;
        *repositories == other.repositories
            && *actions == other.actions
            && *networks == other.networks
            && *expires == other.expires
    }

    /// Whether the key can be used from an address.
    pub fn admits(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&from))
    }

    /// Whether the key has expired.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }
}
