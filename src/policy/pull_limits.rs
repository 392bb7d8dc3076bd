//! Which limit a pull falls under, and whose it is.

use std::net::IpAddr;
use std::time::Duration;

use super::{Pattern, Policy, Who};
use crate::identity::Identity;
use crate::limit::{Bucket, Quota, Source, Subject};
use crate::registry::{Call, ManifestVerb, Read, Reference};

/// A limit for some pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullLimit {
    /// Whose pulls; empty is everybody's.
    pub who: Vec<Who>,
    /// Of which repositories; empty is all.
    pub repositories: Vec<Pattern>,
    /// How many, for each caller.
    pub quota: Quota,
}

/// All limits of pulls. A part of the rules: a reload swaps it.
pub struct PullLimits {
    first: Vec<Named>,
    anonymous: Quota,
    authenticated: Quota,
    /// How long another pull of the same image costs nothing.
    pub repeat_free: Duration,
}

/// A limit and the name under which its pulls are remembered.
struct Named {
    name: u64,
    limit: PullLimit,
}

/// A read of a manifest by a caller who is limited.
pub struct LimitedRead<'a> {
    /// Where it is counted.
    pub bucket: Bucket,
    /// Whether it is a pull, or only asks how much is left.
    pub read: Read,
    /// The manifest, where the call names it by its digest.
    pub digest: Option<&'a str>,
}

/// Names of the limits that every configuration has.
const ANONYMOUS: u64 = 0;
const AUTHENTICATED: u64 = 1;

impl PullLimits {
    /// The first of `pulls` that fits a pull counts; else one of the other two.
    pub fn new(
        pulls: &[PullLimit],
        anonymous: Quota,
        authenticated: Quota,
        repeat_free: Duration,
    ) -> Self {
        let named = |limit: &PullLimit| Named {
            name: name_of(limit),
            limit: limit.clone(),
        };
        Self {
            first: pulls.iter().map(named).collect(),
            anonymous,
            authenticated,
            repeat_free,
        }
    }

    /// What a call is as far as pulls are limited; `None` if it is no read of a manifest, or not
    /// limited.
    pub fn limited<'a>(
        &self,
        policy: &Policy,
        who: &Identity,
        from: IpAddr,
        call: &'a Call,
    ) -> Option<LimitedRead<'a>> {
        let Call::Manifest {
            repo,
            reference,
            verb: ManifestVerb::Read(read),
        } = call
        else {
            return None;
        };
        let fits = |limit: &PullLimit| {
            let of = limit.repositories.is_empty()
                || limit
                    .repositories
                    .iter()
                    .any(|one| one.matches(repo, who.person()));
            of && (limit.who.is_empty() || limit.who.iter().any(|one| is(policy, who, one)))
        };
        let first = self.first.iter().find(|named| fits(&named.limit));
        let (limit, quota) = match first {
            Some(named) => (named.name, named.limit.quota),
            None if who.subject().is_nobody() => (ANONYMOUS, self.anonymous),
            None => (AUTHENTICATED, self.authenticated),
        };
        if quota.is_unlimited() {
            return None;
        }
        let subject = match who.subject().counted() {
            Some(user) => Subject::User(user),
            None => Subject::Source(Source::of(from)),
        };
        let digest = match reference {
            Reference::Digest(digest) => Some(digest.as_str()),
            Reference::Tag(_) => None,
        };
        Some(LimitedRead {
            bucket: Bucket {
                limit,
                subject,
                quota,
            },
            read: *read,
            digest,
        })
    }
}

fn is(policy: &Policy, who: &Identity, one: &Who) -> bool {
    match one {
        Who::Anonymous => who.subject().is_nobody(),
        Who::Authenticated => !who.subject().is_nobody(),
        Who::Group(group) => policy.is_in(who, group),
        Who::User(subject) => who.subject().is(subject),
    }
}

/// Made of what a limit is about, so that it stays the same when its numbers change or tables move.
fn name_of(limit: &PullLimit) -> u64 {
    let mut hash = blake3::Hasher::new();
    for who in &limit.who {
        let (kind, name) = match who {
            Who::Anonymous => ("anonymous", ""),
            Who::Authenticated => ("authenticated", ""),
            Who::Group(group) => ("group:", group.as_str()),
            Who::User(subject) => ("user:", subject.as_str().unwrap_or_default()),
        };
        hash.update(kind.as_bytes())
            .update(name.as_bytes())
            .update(b"\n");
    }
    hash.update(b"\n");
    for pattern in &limit.repositories {
        hash.update(pattern.as_str().as_bytes()).update(b"\n");
    }
    let mut name = [0; 8];
    hash.finalize_xof().fill(&mut name);
    u64::from_le_bytes(name)
}

#[cfg(test)]
mod tests {
    use super::{Pattern, PullLimit, Quota, Who, name_of};
    use crate::identity::{Group, Subject};
    use std::time::Duration;

    #[test]
    fn a_limit_keeps_its_name_when_its_numbers_change() {
        let name = |who, repositories: &[&str], count| {
            let patterns = repositories.iter().map(|one| Pattern::parse(one).unwrap());
            name_of(&PullLimit {
                who,
                repositories: patterns.collect(),
                quota: Quota {
                    count,
                    per: Duration::from_hours(1),
                },
            })
        };
        let one = name(vec![Who::Group(Group::new("ci"))], &["a/**"], 1);
        assert_eq!(one, name(vec![Who::Group(Group::new("ci"))], &["a/**"], 2));
        for other in [
            name(vec![Who::User(Subject::read("ci").unwrap())], &["a/**"], 1),
            name(vec![Who::Group(Group::new("ci"))], &["a/*"], 1),
            name(vec![Who::Group(Group::new("ci"))], &["a/**", "b"], 1),
            name(vec![], &["a/**"], 1),
        ] {
            assert_ne!(one, other);
        }
    }
}
