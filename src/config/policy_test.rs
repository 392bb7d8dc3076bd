//! `[[policy_test]]`: questions to the policy whose answers must not change.

use std::net::IpAddr;
use std::ops::Range;

use jiff::Timestamp;

use super::{Config, Diagnostic};
use crate::identity::{Identity, Subject};
use crate::policy::{Decision, Explanation, Place, RuleKind, Verdict};
use crate::registry::{Action, RepoName};

/// The answer a test expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The policy allows it.
    Allow,
    /// The policy denies it.
    Deny,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTest {
    /// Where it stands.
    pub place: Place,
    /// Who asks.
    pub user: Subject,
    /// The groups a back end would name.
    pub groups: Vec<Box<str>>,
    /// From where.
    pub address: IpAddr,
    /// What is to be done.
    pub action: Action,
    /// Where.
    pub repository: RepoName,
    /// What must be answered.
    pub expect: Expected,
    pub(super) address_given: bool,
    /// Of `expect`.
    pub(super) span: Range<usize>,
}

impl Config {
    /// Runs every policy test, and gives an error for each that fails.
    pub fn run_policy_tests(&self, now: Timestamp) -> Vec<Diagnostic> {
        let fail = |test| self.run_policy_test(test, now);
        self.policy_tests.iter().filter_map(fail).collect()
    }

    fn run_policy_test(&self, test: &PolicyTest, now: Timestamp) -> Option<Diagnostic> {
        let who = test.caller(self);
        let (from, action) = (test.address, test.action);
        let found = self
            .policy
            .explain(&who, from, action, &test.repository, now);
        let (answer, fits) = match &found.decision {
            Decision::Allow(_) => ("allows", test.expect == Expected::Allow),
            Decision::Deny(_) => ("denies", test.expect == Expected::Deny),
        };
        if fits {
            return None;
        }
        let name = test.user.as_str().unwrap_or("anonymous");
        let message = format!(
            "policy test failed: the policy {answer} {name} to {} {}",
            action.as_str(),
            test.repository
        );
        Some(
            self.source
                .error(test.span.clone(), message)
                .with_help(test.reason(&found)),
        )
    }
}

impl PolicyTest {
    fn caller(&self, config: &Config) -> Identity {
        let groups: Vec<&str> = self.groups.iter().map(|group| &**group).collect();
        match &self.user {
            Subject::Nobody => Identity::anonymous(),
            somebody @ (Subject::Person(_) | Subject::Robot(_) | Subject::Workload(_)) => {
                let somebody = config.as_compared(somebody.clone());
                Identity::supposed(somebody, &groups)
            }
        }
    }

    /// The rule that decided, or the one that nearly did.
    fn reason(&self, found: &Explanation) -> String {
        match &found.decision {
            Decision::Allow(place) => return format!("allowed by the access at {place}"),
            Decision::Deny(Some(place)) => return format!("denied by the deny at {place}"),
            Decision::Deny(None) => {}
        }
        let near = |verdict| match verdict {
            Verdict::OtherNetwork | Verdict::Lacking(_) | Verdict::Expired => true,
            Verdict::Applies
            | Verdict::OtherAction
            | Verdict::OtherCaller
            | Verdict::OtherRepository => false,
        };
        let missed = found
            .rules
            .iter()
            .find(|rule| rule.kind == RuleKind::Access && near(rule.verdict));
        match missed {
            Some(rule) if rule.verdict == Verdict::OtherNetwork && !self.address_given => format!(
                "the access at {} is for other addresses than {}, which is assumed since the test \
                 has no `address`",
                rule.place, self.address
            ),
            Some(rule) => format!(
                "the access at {} was passed over: {}",
                rule.place, rule.verdict
            ),
            None => "no access allows it".to_owned(),
        }
    }
}
