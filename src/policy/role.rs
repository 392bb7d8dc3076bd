//! The built-in roles. A role is nothing but a name for a set of actions.

use std::collections::HashMap;

use crate::registry::Action;

/// Roles by name, built in or of the configuration.
pub type Roles = HashMap<Box<str>, Vec<Action>>;

/// The roles every configuration has, from the least to the most powerful.
pub const BUILT_IN_ROLES: [(&str, &[Action]); 4] = [
    ("guest", &[Action::Pull]),
    (
        "developer",
        &[Action::Pull, Action::Push, Action::Overwrite],
    ),
    (
        "maintainer",
        &[
            Action::Pull,
            Action::Push,
            Action::Overwrite,
            Action::Delete,
        ],
    ),
    (
        "admin",
        &[
            Action::Pull,
            Action::Push,
            Action::Overwrite,
            Action::Delete,
            Action::Catalog,
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::BUILT_IN_ROLES;
    use crate::registry::Action;

    #[test]
    fn each_role_contains_the_one_before() {
        for pair in BUILT_IN_ROLES.windows(2) {
            let [(_, lesser), (name, greater)] = pair else {
                panic!("windows of two")
            };
            assert!(
                lesser.iter().all(|action| greater.contains(action)),
                "{name}"
            );
            assert!(lesser.len() < greater.len(), "{name}");
        }
        assert_eq!(BUILT_IN_ROLES[3].1, Action::ALL);
    }
}
