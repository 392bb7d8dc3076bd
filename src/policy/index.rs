//! Finds the few rules that can concern a repository among thousands, by its first path part.

use std::collections::HashMap;

use super::Pattern;

/// Rules by the first path part of their patterns. Numbers are places in the rule list, ascending,
/// so that what is found first stands first in the file.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_first: HashMap<Box<str>, Vec<usize>>,
    /// Rules with a pattern that begins with a wildcard or a variable.
    anywhere: Vec<usize>,
}

impl Index {
    /// Indexes rules, given as the patterns of each.
    pub(super) fn new<'a>(rules: impl Iterator<Item = &'a [Pattern]>) -> Self {
        let mut index = Self::default();
        for (number, patterns) in rules.enumerate() {
            for pattern in patterns {
                let list = match pattern.first_part() {
                    Some(first) => index.by_first.entry(first.into()).or_default(),
                    None => &mut index.anywhere,
                };
                if list.last() != Some(&number) {
                    list.push(number);
                }
            }
        }
        index
    }

    /// The rules that may concern a repository, in the order of the file, each once.
    pub(super) fn candidates(&self, repository: &str) -> impl Iterator<Item = usize> {
        let first = repository.split('/').next().unwrap_or(repository);
        let listed: &[usize] = self.by_first.get(first).map_or(&[], Vec::as_slice);
        let mut listed = listed.iter().copied().peekable();
        let mut anywhere = self.anywhere.iter().copied().peekable();
        std::iter::from_fn(move || match (listed.peek(), anywhere.peek()) {
            (Some(a), Some(b)) if a < b => listed.next(),
            (Some(a), Some(b)) if a == b => {
                anywhere.next();
                listed.next()
            }
            (_, Some(_)) => anywhere.next(),
            (_, None) => listed.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Index;
    use crate::policy::Pattern;

    #[test]
    fn candidates_come_in_file_order_and_once() {
        let rules: Vec<Vec<Pattern>> = [
            &["b/**"][..],
            &["**/x", "a/x", "a/y"],
            &["a/**"],
            &["*"],
            &["a", "b"],
        ]
        .iter()
        .map(|texts| texts.iter().map(|t| Pattern::parse(t).unwrap()).collect())
        .collect();
        let index = Index::new(rules.iter().map(Vec::as_slice));
        let found = |name: &str| index.candidates(name).collect::<Vec<_>>();
        assert_eq!(found("a/x"), [1, 2, 3, 4]);
        assert_eq!(found("b"), [0, 1, 3, 4]);
        assert_eq!(found("c"), [1, 3]);
    }
}
