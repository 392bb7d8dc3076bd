//! The decision: all demands of a call, judged at once.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::rules::Question;
use super::{AccessRule, DenyRule, Pattern, Place, Policy, Verdict};
use crate::identity::Identity;
use crate::registry::{Action, Call, RepoName};

/// The pattern of all repositories.
const ALL: &str = "**";

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
///
/// It cannot be built from its parts:
///
/// ```compile_fail,E0451
/// use portcullis::policy::{Permit, Tags};
/// let permit = Permit { call: portcullis::registry::Call::Ping.into(), rule: None, tags: Tags::Move };
/// ```
///
/// nor used twice:
///
/// ```compile_fail,E0599
/// fn twice(permit: portcullis::policy::Permit) -> [portcullis::policy::Permit; 2] {
///     [permit.clone(), permit]
/// }
/// ```
#[must_use = "a permit is for forwarding"]
#[derive(Debug)]
pub struct Permit {
    call: Arc<Call>,
    rule: Option<Place>,
    tags: Tags,
}

impl Permit {
    fn needing_no_right(call: Arc<Call>, rule: Option<Place>) -> Self {
        let tags = Tags::CreateOnly;
        Self { call, rule, tags }
    }

    /// The call as permitted: a mount whose source the caller may not read has been taken out.
    pub fn call(&self) -> &Call {
        &self.call
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
    /// Whether a user lacks nothing but a password, which can be asked for.
    pub lacks_password: bool,
}

/// The answer about one action on one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed by this access rule.
    Allow(Place),
    /// Denied by this deny rule, or by no access rule at all.
    Deny(Option<Place>),
}

impl Decision {
    /// Whether it is an allowance.
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    fn into_allowing_rule(self) -> Option<Place> {
        match self {
            Self::Allow(rule) => Some(rule),
            Self::Deny(_) => None,
        }
    }
}

impl Policy {
    /// Decides about a call: all of its demands.
    ///
    /// A token's scope is not the policy's business: whoever presents a token that was minted for
    /// less is asked for a better one before.
    pub fn decide(
        &self,
        who: &Identity,
        from: IpAddr,
        call: impl Into<Arc<Call>>,
        now: Timestamp,
    ) -> Result<Permit, Denial> {
        let call: Arc<Call> = call.into();
        let may = |action, repository: &RepoName| self.allows(who, from, action, repository, now);
        let (action, repository) = match (call.action(), call.repository()) {
            (Some(action), Some(repository)) => (action, repository),
            // Everybody may ping, and ask for the catalog, which shows what the caller may pull.
            (None, None) => return Ok(Permit::needing_no_right(call, None)),
            (Some(Action::Catalog), None) => {
                let rule = self.whole_catalog(who, from, now).into_allowing_rule();
                return Ok(Permit::needing_no_right(call, rule));
            }
            // No call is like that. If one comes to be, it is not for everybody.
            (Some(action), None) => return Err(Denial::of_nobodys(action)),
            (None, Some(_)) => return Err(Denial::of_nobodys(Action::Pull)),
        };
        let rule = match may(action, repository) {
            Decision::Allow(rule) => rule,
            Decision::Deny(rule) => {
                let lacks_password = rule.is_none()
                    && who.user().is_some()
                    && who.confinement().is_none()
                    && self.allows_with_password(who, from, action, repository, now);
                return Err(Denial {
                    action,
                    rule,
                    lacks_password,
                });
            }
        };
        let writes_tags = !call.tags_written().is_empty();
        let tags = if writes_tags && !may(Action::Overwrite, repository).is_allow() {
            Tags::CreateOnly
        } else {
            Tags::Move
        };
        let may_mount = call
            .mount_source()
            .is_some_and(|source| may(Action::Pull, source).is_allow());
        let call = if may_mount || !matches!(*call, Call::StartUpload { .. }) {
            call
        } else {
            Arc::new(Arc::unwrap_or_clone(call).without_mount())
        };
        let rule = Some(rule);
        Ok(Permit { call, rule, tags })
    }

    /// Decides about one action on one repository: what token scopes, the catalog and `explain`
    /// ask. [`Action::Catalog`] is about no repository, see [`Policy::whole_catalog`].
    pub fn allows(
        &self,
        who: &Identity,
        from: IpAddr,
        action: Action,
        repository: &RepoName,
        now: Timestamp,
    ) -> Decision {
        if action == Action::Catalog {
            return self.whole_catalog(who, from, now);
        }
        self.about(
            repository,
            &self.question(who, from, action, Some(repository), now),
        )
    }

    /// The same, were there a password as well.
    pub fn allows_with_password(
        &self,
        who: &Identity,
        from: IpAddr,
        action: Action,
        repository: &RepoName,
        now: Timestamp,
    ) -> bool {
        let asked = Question {
            supposes_password: true,
            ..self.question(who, from, action, Some(repository), now)
        };
        self.about(repository, &asked).is_allow()
    }

    fn about(&self, repository: &RepoName, asked: &Question<'_>) -> Decision {
        let name = repository.as_str();
        let denied = self.deny_index.candidates(name);
        let allowed = self.access_index.candidates(name);
        answer(
            asked,
            denied.filter_map(|number| self.deny.get(number)),
            allowed.filter_map(|number| self.access.get(number)),
        )
    }

    /// Whether the whole catalog may be seen. Any rule that gives or denies the action counts,
    /// whatever its repositories: who is denied a part of the catalog is shown a filtered one.
    pub fn whole_catalog(&self, who: &Identity, from: IpAddr, now: Timestamp) -> Decision {
        let asked = self.question(who, from, Action::Catalog, None, now);
        answer(&asked, self.deny.iter(), self.access.iter())
    }

    /// Whether there can be a repository that the caller may pull: the catalog of somebody else is
    /// empty, whatever the registry has. Says yes where it would take all names to be sure.
    pub fn may_pull_something(&self, who: &Identity, from: IpAddr, now: Timestamp) -> bool {
        let asked = self.question(who, from, Action::Pull, None, now);
        let denied = self.deny.iter();
        let denied = denied.filter(|rule| rule.judge(&asked) == Verdict::Applies);
        let denied: HashSet<&str> = denied
            .flat_map(|rule| rule.repositories.iter().map(Pattern::as_str))
            .collect();
        if denied.contains(ALL) {
            return false;
        }
        let is_left = |pattern: &Pattern| !denied.contains(pattern.as_str());
        let own = who.confinement().filter(|own| {
            own.actions.contains(&Action::Pull) && own.admits(asked.from) && !own.is_over(now)
        });
        let given = self.access.iter();
        let mut given = given.filter(|rule| rule.judge(&asked) == Verdict::Applies);
        own.is_some_and(|own| own.repositories.iter().any(is_left))
            || given.any(|rule| {
                let mut patterns = rule.repositories.iter();
                patterns.any(|pattern| pattern.is_for(who.person()) && is_left(pattern))
            })
    }

    pub(super) fn question<'a>(
        &'a self,
        who: &'a Identity,
        from: IpAddr,
        action: Action,
        repository: Option<&'a RepoName>,
        now: Timestamp,
    ) -> Question<'a> {
        Question {
            who,
            own_groups: self.own_groups(who),
            from: from.to_canonical(),
            action,
            repository,
            now,
            supposes_password: false,
        }
    }
}

impl Denial {
    fn of_nobodys(action: Action) -> Self {
        Self {
            action,
            rule: None,
            lacks_password: false,
        }
    }
}

/// The first deny rule that applies, else what a robot key may itself, else the first access rule.
fn answer<'a>(
    asked: &Question<'_>,
    mut deny: impl Iterator<Item = &'a DenyRule>,
    mut access: impl Iterator<Item = &'a AccessRule>,
) -> Decision {
    if let Some(rule) = deny.find(|rule| rule.judge(asked) == Verdict::Applies) {
        return Decision::Deny(Some(rule.place.clone()));
    }
    if let Some(place) = asked.granted_by_key() {
        return Decision::Allow(place);
    }
    match access.find(|rule| rule.judge(asked) == Verdict::Applies) {
        Some(rule) => Decision::Allow(rule.place.clone()),
        None => Decision::Deny(None),
    }
}
