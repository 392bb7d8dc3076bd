//! Who may do what to which repository: roles, rules and the one decision.
//!
//! Pure: time and addresses are arguments, nothing is looked up.

mod decide;
mod rules;

pub use decide::{Decision, Denial, Permit, Tags};
pub use rules::{AccessRule, Condition, DenyRule, Pattern, PatternError, Place, Policy, Who};
