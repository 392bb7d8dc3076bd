//! Policy tests put to the policy.

use jiff::Timestamp;

use super::checked::Config;
use super::policy_test::{Expected, PolicyTest};
use crate::document::Diagnostic;
use crate::identity::{Identity, Subject};
use crate::policy::{Decision, Explanation, RuleKind, Verdict};

impl Config {
    /// Runs every policy test, and gives an error for each that fails.
    pub fn run_policy_tests(&self, now: Timestamp) -> Vec<Diagnostic> {
        let fail = |test| self.run_policy_test(test, now);
        self.policy_tests.iter().filter_map(fail).collect()
    }

    fn run_policy_test(&self, test: &PolicyTest, now: Timestamp) -> Option<Diagnostic> {
        let who = caller(test, self);
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
                .with_help(reason(test, &found)),
        )
    }
}

fn caller(test: &PolicyTest, config: &Config) -> Identity {
    let groups: Vec<&str> = test.groups.iter().map(|group| &**group).collect();
    match &test.user {
        Subject::Nobody => Identity::anonymous(),
        somebody @ (Subject::Person(_) | Subject::Robot(_) | Subject::Workload(_)) => {
            let somebody = config.as_compared(somebody.clone());
            Identity::supposed(somebody, &groups)
        }
    }
}

/// The rule that decided, or the one that nearly did.
fn reason(test: &PolicyTest, found: &Explanation) -> String {
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
        Some(rule) if rule.verdict == Verdict::OtherNetwork && !test.address_given => format!(
            "the access at {} is for other addresses than {}, which is assumed since the test \
             has no `address`",
            rule.place, test.address
        ),
        Some(rule) => format!(
            "the access at {} was passed over: {}",
            rule.place, rule.verdict
        ),
        None => "no access allows it".to_owned(),
    }
}
