//! The rules as compiled from the configuration. (Sketch: bodies to come.)

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::registry::Action;

/// Where a rule stands: `file:line`, as audit records and `explain` print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(pub Arc<str>);

/// An anchored glob over a whole repository name.
#[derive(Clone, Debug)]
pub struct Pattern(#[expect(dead_code, reason = "sketch")] Box<str>);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(pub String);

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Callers without a user; in an access rule everybody, since logging in takes no right away.
    Anonymous,
    /// Every user.
    Authenticated,
    /// The members of a group.
    Group(Box<str>),
    /// One user.
    User(Box<str>),
}

/// What an access rule asks for besides a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A verified client certificate.
    Certificate,
    /// A password, or a token minted for one.
    Password,
}

/// `[[access]]`.
#[derive(Clone, Debug)]
pub struct AccessRule {
    /// Where it stands.
    pub place: Place,
    /// For which repositories.
    pub repositories: Vec<Pattern>,
    /// For whom.
    pub who: Vec<Who>,
    /// What the role contains.
    pub actions: Vec<Action>,
    /// From where; empty is anywhere.
    pub networks: Vec<IpNet>,
    /// With what.
    pub require: Vec<Condition>,
    /// Until when.
    pub not_after: Option<jiff::Timestamp>,
}

/// `[[deny]]`: wins over every access.
#[derive(Clone, Debug)]
pub struct DenyRule {
    /// Where it stands.
    pub place: Place,
    /// For which repositories.
    pub repositories: Vec<Pattern>,
    /// For whom.
    pub who: Vec<Who>,
    /// What is denied; all actions when the file names none.
    pub actions: Vec<Action>,
    /// From where; empty is anywhere.
    pub networks: Vec<IpNet>,
}

/// The compiled policy.
#[derive(Debug, Default)]
pub struct Policy {
    #[expect(dead_code, reason = "sketch")]
    access: Vec<AccessRule>,
    #[expect(dead_code, reason = "sketch")]
    deny: Vec<DenyRule>,
    #[expect(dead_code, reason = "sketch")]
    groups: HashMap<Box<str>, Vec<Box<str>>>,
}

impl Pattern {
    /// Compiles a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Ok(Self(text.into()))
    }
}

impl Policy {
    /// Compiles rules; `groups` maps a group to its members.
    pub fn new(
        access: Vec<AccessRule>,
        deny: Vec<DenyRule>,
        groups: HashMap<Box<str>, Vec<Box<str>>>,
    ) -> Self {
        Self {
            access,
            deny,
            groups,
        }
    }
}
