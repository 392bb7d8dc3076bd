//! A server that failed is left alone for a moment, so that not every login waits for it; then one
//! caller tries it again, while the others still pass it by.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a server is left alone.
const PAUSE: Duration = Duration::from_secs(2);

/// Remembers when a server may be asked again.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<Option<Instant>>);

impl Breaker {
    /// Whether to ask the server now. After a pause one caller is let through, and the next one
    /// after another pause unless the first reports that it went well.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut until = self.0.lock();
        match *until {
            None => true,
            Some(time) if now < time => false,
            Some(_) => {
                *until = now.checked_add(PAUSE);
                true
            }
        }
    }

    /// The server answered; whether that is news.
    pub(super) fn close(&self) -> bool {
        self.0.lock().take().is_some()
    }

    /// The server failed; whether that is news.
    pub(super) fn open(&self, now: Instant) -> bool {
        self.0
            .lock()
            .replace(now.checked_add(PAUSE).unwrap_or(now))
            .is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::{Breaker, PAUSE};
    use std::time::Instant;

    #[test]
    fn a_server_that_failed_is_tried_by_one_at_a_time() {
        let (breaker, begin) = (Breaker::default(), Instant::now());
        assert!(breaker.admits(begin) && breaker.admits(begin));
        assert!(breaker.open(begin));
        assert!(!breaker.open(begin), "no news");
        assert!(!breaker.admits(begin + PAUSE / 2));
        let later = begin + PAUSE;
        assert!(breaker.admits(later));
        assert!(!breaker.admits(later), "only one");
        // The one who tried never came back.
        assert!(breaker.admits(later + PAUSE));
        assert!(breaker.close());
        assert!(breaker.admits(later + PAUSE) && breaker.admits(later + PAUSE));
        assert!(!breaker.close(), "no news");
    }
}
