//! Counts of records for metrics and the status page. Labels are events and outcomes, both fixed sets:
//! clients cannot make them grow.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use super::event::{Event, Outcome};
use super::served::{Request, Served};

/// Refusals kept for the status page.
const RECENT: usize = 20;

/// One refusal, as the status page shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// RFC 3339, UTC.
    pub time: String,
    /// The reference that the client was given.
    pub reference: String,
    /// The client's address.
    pub client: Option<String>,
    /// The user, or the user that the caller claimed to be.
    pub user: Option<String>,
    /// The action asked for.
    pub action: Option<&'static str>,
    /// The repository.
    pub repository: Option<String>,
    /// The reason.
    pub reason: Option<String>,
}

/// Counters over the life of the process.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [[AtomicU64; Outcome::ALL.len()]; Event::ALL.len()],
    served: Served,
    watcher: Watcher,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    recent: Mutex<VecDeque<Refused>>,
}

/// A function that is called with each request that has ended.
pub type Watch = Box<dyn Fn(&Request<'_>) + Send + Sync>;

#[derive(Default)]
struct Watcher(OnceLock<Watch>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watcher")
            .field(&self.0.get().is_some())
            .finish()
    }
}

/// The counts of one record.
pub(in crate::audit) struct Entry<'a> {
    pub(in crate::audit) event: Event,
    pub(in crate::audit) outcome: Outcome,
    pub(in crate::audit) bytes_in: u64,
    pub(in crate::audit) bytes_out: u64,
    /// The request, if it was one.
    pub(in crate::audit) request: Option<Request<'a>>,
    pub(in crate::audit) refused: Option<Refused>,
}

impl Tally {
    pub(in crate::audit) fn add(&self, entry: Entry<'_>) {
        let (event, outcome) = (entry.event as usize, entry.outcome as usize);
        if let Some(count) = self.counts.get(event).and_then(|row| row.get(outcome)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(request) = entry.request {
            self.served.add(request);
            if let Some(watch) = self.watcher.0.get() {
                watch(&request);
            }
        }
        self.bytes_in.fetch_add(entry.bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(entry.bytes_out, Ordering::Relaxed);
        if let Some(refused) = entry.refused {
            let mut recent = self.recent.lock();
            if recent.len() >= RECENT {
                recent.pop_front();
            }
            recent.push_back(refused);
        }
    }

    /// The number of records of each kind.
    pub fn counts(&self) -> Vec<(Event, Outcome, u64)> {
        let rows = Event::ALL.iter().zip(&self.counts);
        rows.flat_map(|(event, row)| {
            let cells = Outcome::ALL.iter().zip(row);
            cells.map(|(outcome, count)| (*event, *outcome, count.load(Ordering::Relaxed)))
        })
        .filter(|(_, _, count)| *count > 0)
        .collect()
    }

    /// Sets the function to call with each request from now on. A second one is ignored.
    pub fn watch(&self, watch: Watch) {
        let _is_first = self.watcher.0.set(watch).is_ok();
    }

    /// Returns true if such a function is set.
    pub fn is_watched(&self) -> bool {
        self.watcher.0.get().is_some()
    }

    /// The requests among them.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Body bytes from clients and to clients.
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        )
    }

    /// The last refusals, oldest first.
    pub fn recent(&self) -> Vec<Refused> {
        let recent = self.recent.lock();
        recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, RECENT, Refused, Tally};
    use crate::audit::{Event, Outcome};

    fn entry(refused: Option<Refused>) -> Entry<'static> {
        Entry {
            event: Event::Request,
            outcome: Outcome::Denied,
            bytes_in: 1,
            bytes_out: 2,
            request: None,
            refused,
        }
    }

    #[test]
    fn records_add_up() {
        let tally = Tally::default();
        for number in 0..4 {
            let refused = Refused {
                time: String::new(),
                reference: number.to_string(),
                client: None,
                user: None,
                action: None,
                repository: None,
                reason: None,
            };
            tally.add(entry(Some(refused)));
        }
        assert_eq!(tally.counts(), [(Event::Request, Outcome::Denied, 4)]);
        assert_eq!(tally.bytes(), (4, 8));
        assert_eq!(tally.recent().len(), 4);
        for _ in 0..RECENT {
            tally.add(entry(tally.recent().pop()));
        }
        assert_eq!(tally.recent().len(), RECENT);
    }
}
