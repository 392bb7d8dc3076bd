//! Repository names, as the distribution specification spells them.

use std::fmt;

/// The longest repository name the registry accepts, in bytes.
const MAX_NAME: usize = 255;

/// A repository name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, parts joined by `/`, at most 255 bytes.
///
/// Once parsed there is nothing left to decode: no escape, no dot segment, no upper case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(Box<str>);

impl RepoName {
    /// Parses a name; `None` when it is outside the grammar.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= MAX_NAME && text.split('/').all(is_part);
        fits.then(|| Self(text.into()))
    }

    /// The name as it stands in paths and policies.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One path part: runs of letters and digits joined by `.`, `_`, `__` or any number of `-`.
fn is_part(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_fit = |b: Option<&u8>| b.is_some_and(|b| alnum(*b));
    if !ends_fit(bytes.first()) || !ends_fit(bytes.last()) {
        return false;
    }
    part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::RepoName;
    use proptest::prelude::*;

    #[test]
    fn names_inside_and_outside_the_grammar() {
        for good in [
            "a",
            "a/b",
            "team-a/app",
            "a.b",
            "a_b",
            "a__b",
            "a---b",
            "0/1/2",
            "library/x86_64",
        ] {
            assert!(RepoName::parse(good).is_some(), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a.-b", "-a", "a-", ".", "..",
            "a/../b", "a/./b", "a%2fb", "a\\b", "a b", "ä", "a\0", "_catalog", "a:b", "a@b",
        ] {
            assert!(RepoName::parse(bad).is_none(), "{bad}");
        }
        assert!(RepoName::parse(&"a".repeat(255)).is_some());
        assert!(RepoName::parse(&"a".repeat(256)).is_none());
    }

    proptest! {
        #[test]
        fn no_accepted_name_holds_an_escape(text in "[a-z0-9./_%\\-A-Z]{0,40}") {
            if let Some(name) = RepoName::parse(&text) {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(!text.contains('%') && !text.contains("..") && !text.contains("//"));
                prop_assert!(!text.bytes().any(|b| b.is_ascii_uppercase()));
            }
        }

        #[test]
        fn names_of_the_grammar_are_accepted(
            text in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}(/[a-z0-9]{1,5}){0,3}"
        ) {
            prop_assert!(RepoName::parse(&text).is_some());
        }
    }
}
