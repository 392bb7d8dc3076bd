//! Finds the few rules that can concern a repository among thousands, by how its name begins or ends.

use std::collections::HashMap;

use super::Pattern;

/// Of the path parts that are fixed at a pattern's beginning, so many are looked at.
const DEPTH: usize = 4;

/// Rules by the path parts that are fixed in their patterns. Numbers are places in the rule list,
/// ascending, so that what is found first stands first in the file.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_head: HashMap<Box<str>, Vec<usize>>,
    /// How many parts the longest of those has.
    depth: usize,
    /// Rules with a pattern of which only the last part is fixed.
    by_end: HashMap<Box<str>, Vec<usize>>,
    /// Rules with a pattern that fixes neither. They are all candidates.
    anywhere: Vec<usize>,
}

impl Index {
    /// Indexes rules, given as the patterns of each.
    pub(super) fn new<'a>(rules: impl Iterator<Item = &'a [Pattern]>) -> Self {
        let mut index = Self::default();
        for (number, patterns) in rules.enumerate() {
            for pattern in patterns {
                let list = index.list(pattern);
                if list.last() != Some(&number) {
                    list.push(number);
                }
            }
        }
        index
    }

    fn list(&mut self, pattern: &Pattern) -> &mut Vec<usize> {
        let head = pattern.fixed_parts().map(heads);
        if let Some((depth, head)) = head.and_then(|heads| (1..).zip(heads).last()) {
            self.depth = self.depth.max(depth);
            return self.by_head.entry(head.into()).or_default();
        }
        match pattern.fixed_end() {
            Some(end) => self.by_end.entry(end.into()).or_default(),
            None => &mut self.anywhere,
        }
    }

    /// The rules that may concern a repository, in the order of the file, each once.
    pub(super) fn candidates(&self, repository: &str) -> impl Iterator<Item = usize> {
        let end = repository.rsplit('/').next().unwrap_or(repository);
        let others = [self.anywhere.as_slice(), under(&self.by_end, end)];
        let by_head = heads(repository).take(self.depth);
        let by_head = by_head.map(|head| under(&self.by_head, head));
        let found = others.into_iter().chain(by_head);
        // Mostly there are one or two, and they stand first.
        let (mut lists, mut count) = ([&[][..]; DEPTH + 2], 0_usize);
        let found = found.filter(|list| !list.is_empty());
        for (list, found) in lists.iter_mut().zip(found) {
            *list = found;
            count = count.saturating_add(1);
        }
        std::iter::from_fn(move || {
            let firsts = lists.iter().take(count).filter_map(|list| list.first());
            let lowest = firsts.min().copied()?;
            for list in lists.iter_mut().take(count) {
                if let Some((first, rest)) = list.split_first()
                    && *first == lowest
                {
                    *list = rest;
                }
            }
            Some(lowest)
        })
    }
}

/// The rules under a key.
fn under<'a>(map: &'a HashMap<Box<str>, Vec<usize>>, key: &str) -> &'a [usize] {
    map.get(key).map_or(&[], Vec::as_slice)
}

/// The first part of a name or of what is fixed in a pattern, the first two, and so on.
fn heads(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.match_indices('/').map(|(at, _)| at);
    let heads = ends
        .chain([name.len()])
        .filter_map(move |end| name.get(..end));
    heads.take(DEPTH)
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
            &["a/b/c/d/e/**", "a/x/**", "a/b/c/d"],
            &["a/b/c/d/f"],
        ]
        .iter()
        .map(|texts| texts.iter().map(|t| Pattern::parse(t).unwrap()).collect())
        .collect();
        let index = Index::new(rules.iter().map(Vec::as_slice));
        let found = |name: &str| index.candidates(name).collect::<Vec<_>>();
        assert_eq!(found("a/x"), [1, 2, 3, 4, 5]);
        assert_eq!(found("a/z"), [2, 3, 4]);
        assert_eq!(found("a/y/z"), [1, 2, 3, 4]);
        assert_eq!(found("b"), [0, 3, 4]);
        assert_eq!(found("b/c/x"), [0, 1, 3, 4]);
        assert_eq!(found("c"), [3]);
        assert_eq!(found("x"), [1, 3]);
        // Patterns that agree in their first four parts are told apart by matching.
        assert_eq!(found("a/b/c/d/f/g"), [2, 3, 4, 5, 6]);
        assert_eq!(found("a/b/c/y"), [2, 3, 4]);
    }
}
