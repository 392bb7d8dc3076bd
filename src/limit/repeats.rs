//! Who has pulled which image shortly before.
//!
//! Two generations of hashes: when the younger is full, the elder is forgotten. So memory is fixed
//! (some 3 MiB); whoever is forgotten too early pays for a repeat that would have been free.

use std::collections::HashMap;
use std::time::Duration;

/// A subject and an image, as hashes.
pub(super) type Image = (u64, u64);

/// Images in a generation: as many as its hash table takes without growing beyond 65,536 places.
const IMAGES: usize = 57_344;

/// The images pulled lately, and when they were last paid for.
#[derive(Default)]
pub(super) struct Repeats {
    young: HashMap<Image, Duration>,
    old: HashMap<Image, Duration>,
}

impl Repeats {
    /// Whether the image was paid for within `free`.
    pub(super) fn is_recent(&self, image: Image, free: Duration, now: Duration) -> bool {
        let paid = self.young.get(&image).or_else(|| self.old.get(&image));
        paid.is_some_and(|at| now.saturating_sub(*at) < free)
    }

    /// Notes a pull; true if it is free because of an earlier one, and false if it is to be paid
    /// for. A free one does not make later ones free.
    pub(super) fn note(&mut self, image: Image, free: Duration, now: Duration) -> bool {
        if self.is_recent(image, free, now) {
            return true;
        }
        if self.young.len() >= IMAGES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(image, now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{IMAGES, Repeats};
    use std::time::Duration;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_repeat_is_free_for_a_while_after_what_was_paid() {
        let mut repeats = Repeats::default();
        let at = Duration::from_mins;
        assert!(!repeats.note((1, 1), HOUR, at(0)));
        assert!(repeats.note((1, 1), HOUR, at(59)));
        assert!(!repeats.note((1, 2), HOUR, at(59)));
        // The free one has not made it longer.
        assert!(!repeats.is_recent((1, 1), HOUR, at(60)));
        assert!(!repeats.note((1, 1), HOUR, at(60)));
        assert!(repeats.note((1, 1), HOUR, at(61)));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let mut repeats = Repeats::default();
        for number in 0..3 * IMAGES as u64 {
            assert!(!repeats.note((number, 0), HOUR, Duration::ZERO));
        }
        assert!(repeats.young.len() <= IMAGES && repeats.old.len() <= IMAGES);
        assert!(repeats.young.capacity() <= 65_536);
        let last = 3 * IMAGES as u64 - 1;
        assert!(repeats.is_recent((last, 0), HOUR, Duration::ZERO));
        assert!(!repeats.is_recent((0, 0), HOUR, Duration::ZERO));
    }
}
