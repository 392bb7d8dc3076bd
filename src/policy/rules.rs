//! The rules as compiled from the configuration, and when one applies.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;

use super::Pattern;
use super::index::Index;
use crate::identity::{Group, Identity, Subject};
use crate::registry::{Action, RepoName};

/// Where a rule stands: `file:line`, as audit records and `explain` print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(pub Arc<str>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Callers that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Callers without a user; in an access rule everybody, since logging in takes no right away.
    Anonymous,
    /// Every user.
    Authenticated,
    /// The members of a group.
    Group(Group),
    /// One person or robot.
    User(Subject),
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
    /// With what; all of it.
    pub require: Vec<Condition>,
    /// Until when.
    pub not_after: Option<Timestamp>,
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

/// Whether a rule applies to a question, or the first reason why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It applies.
    Applies,
    /// Its time is over.
    Expired,
    /// The caller lacks what it requires.
    Lacking(Condition),
    /// It is not about this action.
    OtherAction,
    /// It is not about this caller.
    OtherCaller,
    /// It is not about this address.
    OtherNetwork,
    /// It is not about this repository.
    OtherRepository,
}

/// The reason, as a person would give it.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Applies => "applies",
            Self::Expired => "its `not_after` is past",
            Self::Lacking(Condition::Certificate) => "requires a client certificate",
            Self::Lacking(Condition::Password) => "requires a password",
            Self::OtherAction => "not this action",
            Self::OtherCaller => "not this caller",
            Self::OtherNetwork => "not this address",
            Self::OtherRepository => "not this repository",
        })
    }
}

/// The compiled policy.
#[derive(Debug, Default)]
pub struct Policy {
    pub(super) access: Vec<AccessRule>,
    pub(super) access_index: Index,
    pub(super) deny: Vec<DenyRule>,
    pub(super) deny_index: Index,
    /// Patterns that are names of one repository.
    spelled_out: HashSet<Box<str>>,
    members: Members,
}

impl Policy {
    /// Compiles rules; `groups` maps a group to its members.
    pub fn new(
        mut access: Vec<AccessRule>,
        mut deny: Vec<DenyRule>,
        groups: HashMap<Box<str>, Vec<Subject>>,
    ) -> Self {
        let access_networks = access.iter_mut().flat_map(|rule| &mut rule.networks);
        let deny_networks = deny.iter_mut().flat_map(|rule| &mut rule.networks);
        for network in access_networks.chain(deny_networks) {
            *network = canonical(*network);
        }
        Self {
            access_index: Index::new(access.iter().map(|rule| rule.repositories.as_slice())),
            deny_index: Index::new(deny.iter().map(|rule| rule.repositories.as_slice())),
            spelled_out: spelled_out(&access, &deny),
            access,
            deny,
            members: Members::new(groups),
        }
    }

    /// Returns true if a rule names this very repository.
    pub fn spells_out(&self, repository: &str) -> bool {
        self.spelled_out.contains(repository)
    }

    /// All groups of a caller: those the back end named and the configuration's own.
    pub fn groups_of<'a>(&'a self, who: &'a Identity) -> impl Iterator<Item = &'a str> {
        let own = self.own_groups(who).iter();
        let new = own.filter(|own| !who.groups().contains(own));
        who.groups().iter().chain(new).map(Group::as_str)
    }

    /// Whether a caller is in a group.
    pub(super) fn is_in(&self, who: &Identity, group: &Group) -> bool {
        who.groups().contains(group) || self.own_groups(who).contains(group)
    }

    /// How many access and how many deny rules there are.
    pub fn sizes(&self) -> (usize, usize) {
        (self.access.len(), self.deny.len())
    }

    /// Every pattern of every rule.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        let access = self.access.iter().flat_map(|rule| &rule.repositories);
        access.chain(self.deny.iter().flat_map(|rule| &rule.repositories))
    }

    /// Every user whom a rule or a group of the configuration names, some more than once.
    pub fn users(&self) -> impl Iterator<Item = &Subject> {
        let access = self.access.iter().flat_map(|rule| &rule.who);
        let named = access.chain(self.deny.iter().flat_map(|rule| &rule.who));
        let named = named.filter_map(|who| match who {
            Who::User(subject) => Some(subject),
            Who::Anonymous | Who::Authenticated | Who::Group(_) => None,
        });
        named.chain(&self.members.all)
    }

    pub(super) fn own_groups(&self, who: &Identity) -> &[Group] {
        self.members.groups_of(who.subject())
    }
}

fn spelled_out(access: &[AccessRule], deny: &[DenyRule]) -> HashSet<Box<str>> {
    let access = access.iter().flat_map(|rule| &rule.repositories);
    let patterns = access.chain(deny.iter().flat_map(|rule| &rule.repositories));
    let names = patterns.filter(|pattern| pattern.is_literal());
    names.map(|name| name.as_str().into()).collect()
}

/// The configuration's own groups, by member.
#[derive(Debug, Default)]
struct Members {
    all: Vec<Subject>,
    people: HashMap<Box<str>, Vec<Group>>,
    /// The same by the folds of the names, for people of a directory.
    folded: HashMap<Box<str>, Vec<Group>>,
    robots: HashMap<Box<str>, Vec<Group>>,
}

impl Members {
    fn new(groups: HashMap<Box<str>, Vec<Subject>>) -> Self {
        let mut members = Self::default();
        for (group, own) in groups {
            let group = Group::new(group);
            for member in own {
                match &member {
                    Subject::Person(name) => {
                        enter(&mut members.people, name.as_str(), &group);
                        enter(&mut members.folded, name.folded(), &group);
                    }
                    Subject::Robot(robot) => enter(&mut members.robots, robot.name(), &group),
                    Subject::Nobody | Subject::Workload(_) => {}
                }
                members.all.push(member);
            }
        }
        let Self {
            all: _,
            people,
            folded,
            robots,
        } = &mut members;
        for own in [people, folded, robots]
            .into_iter()
            .flat_map(HashMap::values_mut)
        {
            own.sort();
            own.dedup();
        }
        members
    }

    fn groups_of(&self, who: &Subject) -> &[Group] {
        let found = match who {
            Subject::Person(name) if name.is_folded() => self.folded.get(&**name.folded()),
            Subject::Person(name) => self.people.get(name.as_str()),
            Subject::Robot(robot) => self.robots.get(robot.name()),
            Subject::Nobody | Subject::Workload(_) => None,
        };
        found.map_or(&[], Vec::as_slice)
    }
}

fn enter(groups: &mut HashMap<Box<str>, Vec<Group>>, member: &str, group: &Group) {
    groups.entry(member.into()).or_default().push(group.clone());
}

/// What a rule is asked.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) who: &'a Identity,
    /// The configuration's own groups of that caller.
    pub(super) own_groups: &'a [Group],
    /// In canonical form, see [`IpAddr::to_canonical`].
    pub(super) from: IpAddr,
    pub(super) action: Action,
    /// `None` asks about no repository in particular: every rule is about it.
    pub(super) repository: Option<&'a RepoName>,
    pub(super) now: Timestamp,
    /// Asks what would be if the caller had given a password too.
    pub(super) supposes_password: bool,
}

impl AccessRule {
    pub(super) fn judge(&self, asked: &Question<'_>) -> Verdict {
        if !self.who.iter().any(|who| asked.gains_by(who)) {
            Verdict::OtherCaller
        } else if !asked.is_about(&self.repositories) {
            Verdict::OtherRepository
        } else if !self.actions.contains(&asked.action) {
            Verdict::OtherAction
        } else if !asked.is_within(&self.networks) {
            Verdict::OtherNetwork
        } else if let Some(lacking) = self.require.iter().find(|what| !asked.has(**what)) {
            Verdict::Lacking(*lacking)
        } else if self.not_after.is_some_and(|end| asked.now >= end) {
            Verdict::Expired
        } else {
            Verdict::Applies
        }
    }
}

impl DenyRule {
    pub(super) fn judge(&self, asked: &Question<'_>) -> Verdict {
        if !self.who.iter().any(|who| asked.is(who)) {
            Verdict::OtherCaller
        } else if !asked.is_about(&self.repositories) {
            Verdict::OtherRepository
        } else if !self.actions.contains(&asked.action) {
            Verdict::OtherAction
        } else if !asked.is_within(&self.networks) {
            Verdict::OtherNetwork
        } else {
            Verdict::Applies
        }
    }
}

impl Question<'_> {
    /// Whether an access for them is one for the caller. Robot keys have their own grant, and
    /// otherwise only what everybody has.
    fn gains_by(&self, who: &Who) -> bool {
        let is_robot = matches!(self.who.subject(), Subject::Robot(_));
        *who == Who::Anonymous || (!is_robot && self.is(who))
    }

    /// Whether it is what a robot key may itself.
    pub(super) fn granted_by_key(&self) -> Option<Place> {
        let own = self.who.confinement()?;
        own.covers(self.action, self.repository, self.from, self.now)
            .then(|| Place(Arc::clone(&own.place)))
    }

    fn is(&self, who: &Who) -> bool {
        match who {
            Who::Anonymous => self.who.subject().is_nobody(),
            Who::Authenticated => !self.who.subject().is_nobody(),
            Who::Group(group) => {
                self.own_groups.contains(group) || self.who.groups().contains(group)
            }
            Who::User(subject) => self.who.subject().is(subject),
        }
    }

    fn is_about(&self, patterns: &[Pattern]) -> bool {
        self.repository.is_none_or(|repository| {
            let user = self.who.person();
            patterns
                .iter()
                .any(|pattern| pattern.matches(repository, user))
        })
    }

    fn is_within(&self, networks: &[IpNet]) -> bool {
        networks.is_empty() || networks.iter().any(|network| network.contains(&self.from))
    }

    fn has(&self, what: Condition) -> bool {
        match what {
            Condition::Certificate => self.who.has_certificate(),
            Condition::Password => self.supposes_password || self.who.has_password(),
        }
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`: clients' addresses are compared in their short form.
pub fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(long) = network else {
        return network;
    };
    let short = long
        .addr()
        .to_ipv4_mapped()
        .zip(long.prefix_len().checked_sub(96));
    short
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}
