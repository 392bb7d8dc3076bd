//! Whoever notices that the store fails stops asking it; here it is tried again until it answers, and
//! each change is told, once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::Instant;

use super::{Store, StoreError};
use crate::audit::{Audit, Event, Outcome, Record};

/// Before the store is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A store that has answered for so long and fails once is tried again at once.
const TRUSTED: Duration = Duration::from_secs(10);

impl Store {
    /// Connects, and keeps watch from now on. Returns when it is known whether the store answers.
    pub async fn start(self: &Arc<Self>, audit: &Arc<Audit>) {
        if self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let trouble = self.trouble.subscribe();
        if let Err(error) = self.renew().await {
            self.trouble.send_replace(Some(error));
        }
        let watch = Watch {
            store: Arc::downgrade(self),
            audit: Arc::clone(audit),
            pause: FIRST_PAUSE,
            // Not trusted yet: a store that does not answer at the start is told at once.
            since: Instant::now(),
        };
        tokio::spawn(watch.keep(trouble));
    }

    async fn renew(self: &Arc<Self>) -> Result<(), StoreError> {
        let (live, driver) = self.open().await?;
        let live = Arc::new(live);
        let (store, lost) = (Arc::downgrade(self), Arc::downgrade(&live));
        {
            let mut slot = self.live.lock();
            *slot = Some(live);
            self.trouble.send_replace(None);
        }
        // A server that goes away is noticed also while nobody asks.
        tokio::spawn(async move {
            let _ended = driver.await.is_ok();
            if let (Some(store), Some(lost)) = (store.upgrade(), lost.upgrade()) {
                store.lose(&lost, StoreError::Closed);
            }
        });
        Ok(())
    }
}

struct Watch {
    /// The store goes with the last rules that name it.
    store: Weak<Store>,
    audit: Arc<Audit>,
    pause: Duration,
    /// When it was found to answer.
    since: Instant,
}

impl Watch {
    async fn keep(mut self, mut trouble: channel::Receiver<Option<StoreError>>) {
        loop {
            // An error means that the store is gone, and with it the sender.
            let Ok(error) = trouble
                .wait_for(Option::is_some)
                .await
                .map(|error| error.clone())
            else {
                return;
            };
            let worked = self.since.elapsed();
            if worked >= TRUSTED {
                self.pause = FIRST_PAUSE;
                match self.try_again().await {
                    Some(Ok(())) => continue,
                    Some(Err(_still)) => {}
                    None => return,
                }
            }
            self.tell(error);
            loop {
                tokio::time::sleep(self.pause).await;
                self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
                match self.try_again().await {
                    Some(Ok(())) => break,
                    Some(Err(_still)) => {}
                    None => return,
                }
            }
            self.tell(None);
        }
    }

    /// `None` when nobody needs the store any more.
    async fn try_again(&mut self) -> Option<Result<(), StoreError>> {
        let store = self.store.upgrade()?;
        let result = store.renew().await;
        match &result {
            Ok(()) => self.since = Instant::now(),
            // For the page of the state: the reason may have become another.
            Err(error) => drop(store.trouble.send_replace(Some(error.clone()))),
        }
        Some(result)
    }

    fn tell(&self, error: Option<StoreError>) {
        let mut record = Record::open(&self.audit, Event::Store);
        if let Some(error) = error {
            tracing::error!(%error, "limits are not shared: the store does not answer");
            record.outcome(Outcome::Error);
            record.reason(&format!("limits are each replica's own: {error}"));
        } else {
            tracing::info!("limits are shared again");
            record.outcome(Outcome::Allowed);
            record.reason("limits are shared again");
        }
        record.close();
    }
}
