//! The decision. (Sketch: bodies to come.)

use std::net::IpAddr;

use jiff::Timestamp;

use super::{Place, Policy};
use crate::identity::Identity;
use crate::registry::{Action, Call, RepoName};

/// Whether tags that exist may be moved by the permitted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Only new tags may be created: whoever forwards the call makes sure that none of
    /// [`Call::tags_written`] exists.
    CreateOnly,
    /// Tags may be created and moved.
    Move,
}

/// The proof that the policy allows one call. Only [`Policy::decide`] makes one, forwarding eats it.
#[must_use = "a permit is for forwarding"]
#[derive(Debug)]
pub struct Permit {
    call: Call,
    rule: Option<Place>,
    tags: Tags,
}

impl Permit {
    /// The call as permitted: a mount whose source the caller may not read has been taken out.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// Gives the permitted call to whoever forwards it; the permit is used up.
    pub(crate) fn into_call(self) -> Call {
        self.call
    }

    /// The rule that allowed it; `None` for calls that need no right.
    pub fn rule(&self) -> Option<&Place> {
        self.rule.as_ref()
    }

    /// Whether existing tags may be moved.
    pub fn tags(&self) -> Tags {
        self.tags
    }
}

/// The caller may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The right that is missing.
    pub action: Action,
    /// The deny rule that took it away; `None` when no access rule gave it.
    pub rule: Option<Place>,
}

/// The answer about one action on one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed by this access rule.
    Allow(Place),
    /// Denied by this deny rule, or by no access rule at all.
    Deny(Option<Place>),
}

impl Policy {
    /// Decides about a call: all of its demands.
    pub fn decide(
        &self,
        who: &Identity,
        from: IpAddr,
        call: Call,
        now: Timestamp,
    ) -> Result<Permit, Denial> {
        let _ = (who, from, &call, now);
        Ok(Permit {
            call,
            rule: None,
            tags: Tags::Move,
        })
    }

    /// Decides about one action on one repository: what token scopes, the catalog and `explain` ask.
    pub fn allows(
        &self,
        who: &Identity,
        from: IpAddr,
        action: Action,
        repository: &RepoName,
        now: Timestamp,
    ) -> Decision {
        let _ = (who, from, action, repository, now);
        Decision::Deny(None)
    }

    /// Whether the whole catalog may be seen ([`Action::Catalog`] needs no repository).
    pub fn whole_catalog(&self, who: &Identity, from: IpAddr, now: Timestamp) -> Decision {
        let _ = (who, from, now);
        Decision::Deny(None)
    }
}
