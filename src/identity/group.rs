//! Names of groups. A directory takes `Contractors` for `contractors`, and so do rules: one that denies
//! must not fail open over a capital. Whoever names a group, it is compared by its fold and with one
//! space between words, and shown as it is spelled.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::letters::fold;

/// A group's name.
#[derive(Clone, Debug)]
pub struct Group {
    shown: Arc<str>,
    folded: Arc<str>,
}

impl Group {
    /// A group of that name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let shown = name.into();
        let folded = fold(&shown);
        let folded = if folded.contains(char::is_whitespace) {
            folded.split_whitespace().collect::<Vec<_>>().join(" ")
        } else {
            folded
        };
        let folded = if *folded == *shown {
            Arc::clone(&shown)
        } else {
            folded.into()
        };
        Self { shown, folded }
    }

    /// As it is spelled.
    pub fn as_str(&self) -> &str {
        &self.shown
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.folded == other.folded
    }
}

impl Eq for Group {}

impl Hash for Group {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded.hash(state);
    }
}

impl PartialOrd for Group {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Group {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded.cmp(&other.folded)
    }
}

#[cfg(test)]
mod tests {
    use super::Group;

    #[test]
    fn a_group_has_many_spellings_and_is_shown_in_its_own() {
        let group = Group::new("Team Straße");
        assert_eq!(group.as_str(), "Team Straße");
        for same in ["team strasse", " TEAM  STRASSE ", "\u{ff34}eam stra\u{df}e"] {
            assert_eq!(Group::new(same), group, "{same}");
        }
        for other in ["team-strasse", "teamstrasse", ""] {
            assert_ne!(Group::new(other), group, "{other}");
        }
    }
}
