//! The registry's catalog, read once for all who wait for it.
//!
//! `registry:2` walks its whole store for each page, so pages are the dearest thing that a cheap request
//! can ask for. Few are read at a time, for sources in turn. A page that was begun after a caller asked
//! is as good for them as one of their own: whatever they know to be in the registry was there when
//! the walk began. So all who wait get the same page, and none of them a stale one.
//!
//! A caller who goes on from an entry of an earlier page may be given what came with it, [`PAGING`] old at
//! most, unless a repository was written through this process in the meantime that is not in it: they
//! are reading a list that was being read before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::limit::{Claimant, Place, Shared, Usage};
use crate::upstream::UpstreamError;

/// Pages that are read at a time. With fewer, none would be reserved for the proven: strangers whom a
/// registry leaves without an answer would hold them all for as long as it may take.
const PLACES: usize = 4;
/// Callers who wait for one.
const ROOM: usize = 512;
/// How old a page may be for a caller who goes on from an earlier one, and for how long it is kept for
/// those who wait for it.
const PAGING: Duration = Duration::from_secs(10);
/// Pages that are kept.
const KEPT: usize = 32;

/// What a page of the registry holds.
#[derive(Debug)]
pub(super) struct Names {
    /// The entries, in the registry's order.
    pub(super) names: Vec<String>,
    /// Whether there are no more.
    pub(super) is_final: bool,
}

/// The pages read lately, and those that are being read.
pub(super) struct Listings {
    turns: Arc<Shared>,
    state: Mutex<State>,
    /// Something was read, or could not be.
    changed: Notify,
}

#[derive(Default)]
struct State {
    pages: Vec<Arc<Page>>,
    underway: Vec<Start>,
    /// Counts writes that made older pages stale.
    epoch: u64,
    number: u64,
}

/// Page that is read, and since when.
#[derive(Clone, Debug)]
struct Start {
    number: u64,
    /// Of the configuration: another may be of another registry.
    generation: u64,
    after: Option<String>,
    begun: Instant,
    epoch: u64,
}

struct Page {
    start: Start,
    ended: Instant,
    content: Result<Names, UpstreamError>,
}

/// The entries of a page from one on.
pub(super) struct Entries {
    page: Arc<Page>,
    from: usize,
}

impl Entries {
    pub(super) fn names(&self) -> &[String] {
        let names = self.page.content.as_ref().ok();
        names
            .and_then(|content| content.names.get(self.from..))
            .unwrap_or_default()
    }

    pub(super) fn is_final(&self) -> bool {
        self.page
            .content
            .as_ref()
            .is_ok_and(|content| content.is_final)
    }
}

/// A caller who reads the catalog.
pub(super) struct Reader {
    pub(super) listings: Arc<Listings>,
    pub(super) whom: Claimant,
    /// Of the configuration that the request goes by.
    pub(super) generation: u64,
    /// When the catalog was asked for.
    pub(super) asked: Instant,
    /// Whether from an entry on.
    pub(super) goes_on: bool,
    /// How long to wait for others.
    pub(super) patience: Duration,
}

enum Found {
    Page(Entries),
    Underway,
    Nothing,
}

impl Listings {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            turns: Shared::new(PLACES, ROOM),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// How the places are used.
    pub(super) fn usage(&self) -> Usage {
        self.turns.usage()
    }

    /// Waits for a turn to have the registry list what it has.
    pub(super) async fn turn(
        &self,
        whom: Claimant,
        patience: Duration,
    ) -> Result<Place, UpstreamError> {
        let turn = tokio::time::timeout(patience, self.turns.acquire(whom)).await;
        let turn = turn.map_err(|_elapsed| UpstreamError::Crowded)?;
        turn.map_err(|_crowded| UpstreamError::Crowded)
    }

    /// Notes that something was written to a repository: if it may be new to the list, what was read
    /// before is no longer up to date.
    pub(super) fn written(&self, repository: &str) {
        let mut state = self.lock();
        if state.pages.is_empty() && state.underway.is_empty() {
            return;
        }
        let epoch = state.epoch;
        let has = |page: &Arc<Page>| {
            let content = page.content.as_ref().ok();
            let content = content.filter(|_| page.start.epoch == epoch);
            content.is_some_and(|content| content.names.iter().any(|name| name == repository))
        };
        if state.pages.iter().any(has) {
            return;
        }
        state.forget();
    }

    /// Notes that something was removed: a registry may take an empty repository off its list.
    pub(super) fn removed(&self) {
        self.lock().forget();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn forget(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
    }
}

impl Reader {
    /// The entries after one, from a page that was begun late enough, or else from `read`.
    pub(super) async fn after<F>(
        &self,
        after: Option<&str>,
        read: impl FnOnce() -> F + Send,
    ) -> Result<Entries, UpstreamError>
    where
        F: Future<Output = Result<Names, UpstreamError>> + Send + 'static,
    {
        let listings = &self.listings;
        let until = tokio::time::Instant::now().checked_add(self.patience);
        let until = until.unwrap_or_else(tokio::time::Instant::now);
        let late = |_elapsed| UpstreamError::Crowded;
        let mut turn = None;
        let reading = loop {
            let changed = listings.changed.notified();
            let found = self.find(&listings.lock(), after);
            match found {
                Found::Page(entries) => return entries.into_result(),
                Found::Underway => {
                    turn = None;
                    timeout_at(until, changed).await.map_err(late)?;
                }
                Found::Nothing => {
                    let own =
                        turn.get_or_insert_with(|| Box::pin(listings.turns.acquire(self.whom)));
                    tokio::select! {
                        place = timeout_at(until, own) => {
                            turn = None;
                            let place = place.map_err(late)?;
                            let place = place.map_err(|_crowded| UpstreamError::Crowded)?;
                            if let Some(reading) = self.begin(after, place) {
                                break reading;
                            }
                        }
                        () = changed => {}
                    }
                }
            }
        };
        // A task of its own: it is for others too, and the registry goes on anyhow.
        let page = tokio::spawn(reading.finish(read()));
        let page = page
            .await
            .map_err(|_panic| UpstreamError::Unusable("the catalog was not read"));
        Entries {
            page: page?,
            from: 0,
        }
        .into_result()
    }

    fn find(&self, state: &State, after: Option<&str>) -> Found {
        let pages = state.pages.iter().rev();
        for page in pages.filter(|page| self.may_have(state, &page.start)) {
            if page.content.is_err() && page.start.begun < self.asked {
                continue;
            }
            if page.start.after.as_deref() == after {
                let page = Arc::clone(page);
                return Found::Page(Entries { page, from: 0 });
            }
            let Ok(content) = &page.content else {
                continue;
            };
            let last = after.and_then(|after| content.names.iter().position(|name| name == after));
            let from = last.map(|last| last.saturating_add(1));
            if let Some(from) = from.filter(|from| *from < content.names.len() || content.is_final)
            {
                let page = Arc::clone(page);
                return Found::Page(Entries { page, from });
            }
        }
        let mut underway = state.underway.iter();
        let is_this =
            |start: &Start| start.after.as_deref() == after && self.may_have(state, start);
        if underway.any(is_this) {
            Found::Underway
        } else {
            Found::Nothing
        }
    }

    fn may_have(&self, state: &State, start: &Start) -> bool {
        let age = self.asked.saturating_duration_since(start.begun);
        start.generation == self.generation
            && (start.begun >= self.asked
                || (self.goes_on && start.epoch == state.epoch && age <= PAGING))
    }

    /// Begins to read a page, unless another caller has begun it while the turn was waited for.
    fn begin(&self, after: Option<&str>, place: Place) -> Option<Reading> {
        let mut state = self.listings.lock();
        if !matches!(self.find(&state, after), Found::Nothing) {
            // The place is given back after the lock.
            drop(state);
            drop(place);
            return None;
        }
        state.number = state.number.saturating_add(1);
        let start = Start {
            number: state.number,
            generation: self.generation,
            after: after.map(str::to_owned),
            begun: Instant::now(),
            epoch: state.epoch,
        };
        state.underway.push(start.clone());
        Some(Reading {
            listings: Arc::clone(&self.listings),
            start,
            _place: place,
        })
    }
}

/// A page that is being read. Those who wait for it are told of its end, whatever that is.
struct Reading {
    listings: Arc<Listings>,
    start: Start,
    _place: Place,
}

impl Reading {
    async fn finish(self, read: impl Future<Output = Result<Names, UpstreamError>>) -> Arc<Page> {
        let content = read.await;
        let now = Instant::now();
        let page = Arc::new(Page {
            start: self.start.clone(),
            ended: now,
            content,
        });
        let mut state = self.listings.lock();
        // By their ends: a walk that took long is as good as any for those who waited for it.
        let is_new = |page: &Arc<Page>| now.saturating_duration_since(page.ended) <= PAGING;
        state.pages.retain(is_new);
        if state.pages.len() >= KEPT {
            state.pages.remove(0);
        }
        state.pages.push(Arc::clone(&page));
        drop(state);
        page
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let number = self.start.number;
        let mut state = self.listings.lock();
        state.underway.retain(|start| start.number != number);
        drop(state);
        self.listings.changed.notify_waiters();
    }
}

impl Entries {
    fn into_result(self) -> Result<Self, UpstreamError> {
        match &self.page.content {
            Ok(_) => Ok(self),
            Err(error) => Err(error.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
