//! References of records: what a client quotes when it asks why.
//!
//! Two of them do not tell how many records lie between: they are the values of a counter, permuted by a
//! key that this process draws at its start.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::rand;

/// Rounds of the Feistel network. With as many, NIST SP 800-38G permutes small domains.
const ROUNDS: u8 = 10;
/// Half of the 30 bits of a reference.
const HALF_BITS: u32 = 15;
const HALF: u32 = (1 << HALF_BITS) - 1;
/// Without those that are mistaken for another.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The references of a process. None comes twice within 2^30 records.
#[derive(Debug)]
pub(super) struct References {
    next: AtomicU32,
    key: [u8; 32],
}

impl References {
    /// Draws the key, and where the counter begins.
    pub(super) fn new() -> io::Result<Self> {
        let (mut key, mut first) = ([0; 32], [0; 4]);
        for random in [&mut key[..], &mut first[..]] {
            rand::fill(random)
                .map_err(|_cause| io::Error::other("the system has no randomness"))?;
        }
        Ok(Self {
            next: AtomicU32::new(u32::from_le_bytes(first)),
            key,
        })
    }

    /// Six letters and digits.
    pub(super) fn next(&self) -> String {
        let mixed = self.permute(self.next.fetch_add(1, Ordering::Relaxed));
        let digit = |shift: u32| {
            let index = usize::try_from(mixed >> shift & 31).unwrap_or_default();
            LETTERS.get(index).copied().map_or('0', char::from)
        };
        [0, 5, 10, 15, 20, 25].into_iter().map(digit).collect()
    }

    /// A permutation of 30 bits.
    fn permute(&self, count: u32) -> u32 {
        let (mut left, mut right) = (count >> HALF_BITS & HALF, count & HALF);
        for round in 0..ROUNDS {
            let [a, b, ..] = right.to_le_bytes();
            let hash = blake3::keyed_hash(&self.key, &[round, a, b]);
            let [low, high, ..] = hash.as_bytes();
            let mixed = u32::from(u16::from_le_bytes([*low, *high])) & HALF;
            (left, right) = (right, left ^ mixed);
        }
        left << HALF_BITS | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::References;

    #[test]
    fn references_are_each_other_and_tell_nothing() {
        let references = References::new().unwrap();
        let drawn: Vec<_> = (0..50_000).map(|_| references.next()).collect();
        assert!(drawn.iter().all(|reference| reference.len() == 6));
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
        // Another process begins elsewhere and gives others.
        let second = References::new().unwrap();
        let same = drawn.iter().filter(|first| **first == second.next());
        assert!(same.count() < 10);
        // Neighbours are as far from each other as any two: every bit of their difference is even.
        for bit in 0..30 {
            let differ = (0..4096_u32).filter(|count| {
                let apart = references.permute(*count) ^ references.permute(count + 1);
                apart >> bit & 1 == 1
            });
            let differ = differ.count();
            assert!(
                (1800..2300).contains(&differ),
                "bit {bit}: {differ} of 4096"
            );
        }
    }
}
