//! What becomes of a connection's HTTP/2 streams.
//!
//! A client that grants no window is never written to, so no write of it stalls, and the answer with
//! its connection to the registry would wait for ever. Each request notes whose turn it is; the
//! connection looks at them from time to time and ends when one has been the client's for too long,
//! or when there has been none at all. (Over HTTP/1 the socket's own timer sees a client that does
//! not read, and hyper's one that does not ask.)

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Streams noted before the ended ones are forgotten; there are at most a hundred live ones.
const NOTED: usize = 256;

/// The requests of one connection.
#[derive(Debug, Default)]
pub(super) struct StallWatch(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    turns: Vec<Weak<Turn>>,
    /// Since when no live request has been seen; a new one makes it `None`.
    quiet_since: Option<Instant>,
}

/// Since when it has been the client's turn to read; `None` while it is the registry's to send.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<Option<Instant>>);

impl StallWatch {
    /// Notes another request; it lives as long as what is returned.
    pub(super) fn add(&self) -> Arc<Turn> {
        let turn = Arc::new(Turn::default());
        let mut noted = self.0.lock();
        if noted.turns.len() >= NOTED {
            noted.turns.retain(|turn| turn.strong_count() > 0);
        }
        noted.turns.push(Arc::downgrade(&turn));
        noted.quiet_since = None;
        turn
    }

    /// Whether a client has left an answer unread for so long.
    pub(super) fn stalled_for(&self, limit: Duration) -> bool {
        let noted = self.0.lock();
        let mut live = noted.turns.iter().filter_map(Weak::upgrade);
        live.any(|turn| turn.is_clients_for(limit))
    }

    /// Whether there has been no request for so long, as far as those who asked before have seen.
    pub(super) fn idle_for(&self, limit: Duration) -> bool {
        let mut noted = self.0.lock();
        if noted.turns.iter().any(|turn| turn.strong_count() > 0) {
            noted.quiet_since = None;
            return false;
        }
        let since = *noted.quiet_since.get_or_insert_with(Instant::now);
        since.elapsed() >= limit
    }
}

impl Turn {
    /// Something was handed over to be sent to the client.
    pub(super) fn to_client(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// The client has taken everything; the registry is awaited.
    pub(super) fn to_registry(&self) {
        *self.0.lock() = None;
    }

    fn is_clients_for(&self, limit: Duration) -> bool {
        let since = *self.0.lock();
        since.is_some_and(|since| since.elapsed() >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::{NOTED, StallWatch};
    use std::time::Duration;

    #[test]
    fn only_a_client_that_has_its_turn_can_stall() {
        let watch = StallWatch::default();
        let turn = watch.add();
        assert!(!watch.stalled_for(Duration::ZERO));
        turn.to_client();
        assert!(watch.stalled_for(Duration::ZERO));
        assert!(!watch.stalled_for(Duration::from_mins(1)));
        turn.to_registry();
        assert!(!watch.stalled_for(Duration::ZERO));
        turn.to_client();
        drop(turn);
        assert!(!watch.stalled_for(Duration::ZERO));
    }

    #[test]
    fn a_connection_is_idle_only_without_requests() {
        let watch = StallWatch::default();
        assert!(!watch.idle_for(Duration::from_mins(1)));
        assert!(watch.idle_for(Duration::ZERO));
        let turn = watch.add();
        assert!(!watch.idle_for(Duration::ZERO));
        drop(turn);
        assert!(watch.idle_for(Duration::ZERO));
    }

    #[test]
    fn ended_answers_are_forgotten() {
        let watch = StallWatch::default();
        for _ in 0..10 * NOTED {
            drop(watch.add());
        }
        assert!(watch.0.lock().turns.len() <= NOTED);
    }
}
