//! The same decision with its reasons: every rule, and why it applied or was passed over.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{Decision, Place, Policy, Verdict};
use crate::identity::Identity;
use crate::registry::{Action, RepoName};

/// Table of the configuration that a rule stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// `[[access]]`
    Access,
    /// `[[deny]]`
    Deny,
}

/// One rule, as it was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub kind: RuleKind,
    /// Whether it applies.
    pub verdict: Verdict,
}

/// A decision and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What [`Policy::allows`] says.
    pub decision: Decision,
    /// Every rule: first the denies, which win, then the accesses, both in the order of the file.
    pub rules: Vec<Judged>,
}

impl Policy {
    /// Explains what [`Policy::allows`] answers to the same question.
    pub fn explain(
        &self,
        who: &Identity,
        from: IpAddr,
        action: Action,
        repository: &RepoName,
        now: Timestamp,
    ) -> Explanation {
        let about = (action != Action::Catalog).then_some(repository);
        let asked = self.question(who, from, action, about, now);
        let deny = self.deny.iter().map(|rule| Judged {
            place: rule.place.clone(),
            kind: RuleKind::Deny,
            verdict: rule.judge(&asked),
        });
        let access = self.access.iter().map(|rule| Judged {
            place: rule.place.clone(),
            kind: RuleKind::Access,
            verdict: rule.judge(&asked),
        });
        Explanation {
            decision: self.allows(who, from, action, repository, now),
            rules: deny.chain(access).collect(),
        }
    }
}
