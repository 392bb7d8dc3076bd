//! Counting by name in bounded memory. Names can be an attacker's: a million made-up ones must
//! neither fill the memory nor push the honest ones out of a report.
//!
//! When there are too many, the smaller half is let go, and what it had counted goes to the others.
//! So sums are exact always, and the large ones are known by name.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Something that adds up.
pub(super) trait Sum: Default {
    /// Size, by which the largest are kept.
    fn weight(&self) -> u64;
    /// Takes another's counts in.
    fn absorb(&mut self, other: Self);
}

/// Sums by name.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    most: usize,
    known: HashMap<K, V>,
    others: V,
    let_go: u64,
}

/// The largest, and the sum of all others.
pub(super) struct Top<'a, K, V> {
    pub(super) rows: Vec<(&'a K, &'a V)>,
    /// Number of others; those let go and met again are counted each time.
    pub(super) others: u64,
    pub(super) rest: V,
}

impl<K: Hash + Eq + Ord, V: Sum + Clone> Bounded<K, V> {
    /// Keeps at least `most` by name.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: HashMap::new(),
            others: V::default(),
            let_go: 0,
        }
    }

    /// The sum of a name.
    pub(super) fn at(&mut self, key: K) -> &mut V {
        if self.known.len() >= self.most.saturating_mul(2) && !self.known.contains_key(&key) {
            self.let_go();
        }
        self.known.entry(key).or_default()
    }

    /// The largest first; equal ones by name.
    pub(super) fn top(&self, most: usize) -> Top<'_, K, V> {
        let mut rows: Vec<_> = self.known.iter().collect();
        rows.sort_by(|(a, x), (b, y)| y.weight().cmp(&x.weight()).then_with(|| a.cmp(b)));
        let small = rows.split_off(most.min(rows.len()));
        let mut rest = self.others.clone();
        let others = self.let_go.saturating_add(small.len() as u64);
        for (_, sum) in small {
            rest.absorb(sum.clone());
        }
        Top { rows, others, rest }
    }

    fn let_go(&mut self) {
        let mut all: Vec<_> = self.known.drain().collect();
        all.sort_by(|(a, x), (b, y)| y.weight().cmp(&x.weight()).then_with(|| a.cmp(b)));
        let small = all.split_off(self.most.min(all.len()));
        self.let_go = self.let_go.saturating_add(small.len() as u64);
        for (_, sum) in small {
            self.others.absorb(sum);
        }
        self.known.extend(all);
    }
}

/// The first few different values of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SampleSet<T> {
    some: BTreeSet<T>,
    more: bool,
}

impl<T> Default for SampleSet<T> {
    fn default() -> Self {
        Self {
            some: BTreeSet::new(),
            more: false,
        }
    }
}

impl<T: Ord> SampleSet<T> {
    const MAX_SAMPLES: usize = 8;

    /// Adds one.
    pub(super) fn insert(&mut self, one: T) {
        if self.some.len() < Self::MAX_SAMPLES || self.some.contains(&one) {
            self.some.insert(one);
        } else {
            self.more = true;
        }
    }

    /// Adds each.
    pub(super) fn insert_all(&mut self, all: impl IntoIterator<Item = T>) {
        for one in all {
            self.insert(one);
        }
    }

    /// Adds all of another.
    pub(super) fn absorb(&mut self, other: Self) {
        self.more |= other.more;
        self.insert_all(other.some);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.some.iter()
    }

    /// Returns true if there were more than are kept.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounded, SampleSet, Sum};

    #[derive(Clone, Default)]
    struct Count(u64);

    impl Sum for Count {
        fn weight(&self) -> u64 {
            self.0
        }
        fn absorb(&mut self, other: Self) {
            self.0 = self.0.saturating_add(other.0);
        }
    }

    #[test]
    fn a_flood_of_names_takes_no_memory_and_pushes_nobody_out() {
        let mut sums = Bounded::<String, Count>::new(10);
        for number in 0..10_000_u32 {
            sums.at(format!("made-up-{number}")).0 += 1;
            if number % 10 == 0 {
                sums.at("alice".to_owned()).0 += 1;
            }
            assert!(sums.known.len() <= 20);
        }
        let top = sums.top(1);
        assert_eq!(top.rows.len(), 1);
        let (name, count) = top.rows[0];
        assert_eq!((name.as_str(), count.0), ("alice", 1000));
        assert_eq!((top.others, top.rest.0), (10_000, 10_000));
        let all = sums.top(usize::MAX);
        let known: u64 = all.rows.iter().map(|(_, count)| count.0).sum();
        assert_eq!(known + all.rest.0, 11_000);
    }

    #[test]
    fn equal_sums_are_in_the_order_of_their_names() {
        let mut sums = Bounded::<&str, Count>::new(10);
        for name in ["c", "a", "b"] {
            sums.at(name).0 = 2;
        }
        sums.at("z").0 = 3;
        let top = sums.top(9);
        let names: Vec<_> = top.rows.iter().map(|(name, _)| **name).collect();
        assert_eq!(names, ["z", "a", "b", "c"]);
    }

    #[test]
    fn a_few_are_kept() {
        let mut few = SampleSet::default();
        (0..8).chain(0..8).for_each(|one| few.insert(one));
        assert_eq!((few.iter().count(), few.has_more()), (8, false));
        few.insert(9);
        assert_eq!((few.iter().count(), few.has_more()), (8, true));
    }
}
