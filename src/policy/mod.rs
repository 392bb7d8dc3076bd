//! Who may do what to which repository: roles, rules and the one decision.
//!
//! Pure: time and addresses are arguments, nothing is looked up. Rules add up, a deny wins over
//! every access, and what no rule allows is denied. [`Policy::decide`] is the only maker of
//! [`Permit`]s, and only for a permit is anything forwarded.

mod decide;
mod explain;
mod index;
mod limits;
mod pull_limits;
mod role;
mod rules;

pub use decide::{Decision, Denial, Permit, Tags};
pub use explain::{Explanation, Judged, RuleKind};
pub use limits::Limits;
pub use pull_limits::{LimitedRead, PullLimit, PullLimits};
pub use role::{BUILT_IN_ROLES, Roles};
pub use rules::{AccessRule, Condition, DenyRule, Place, Policy, Verdict, Who, canonical};

pub use crate::registry::{Pattern, PatternError};

#[cfg(test)]
mod tests;
