use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{Listings, Names, PAGING, PLACES, Reader};
use crate::limit::Claimant;
use crate::upstream::UpstreamError;

/// Pages that are read at a time for strangers.
const STRANGERS: usize = PLACES - PLACES / 4;

/// A registry that answers as often as it is let.
#[derive(Clone)]
struct Registry {
    asked: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    names: Vec<&'static str>,
    is_final: bool,
}

impl Registry {
    fn of(names: &[&'static str]) -> Self {
        Self {
            asked: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            names: names.to_vec(),
            is_final: true,
        }
    }

    async fn read(self) -> Result<Names, UpstreamError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        if self.names.is_empty() {
            return Err(UpstreamError::Unusable("of the test"));
        }
        Ok(Names {
            names: self.names.iter().map(|&name| name.to_owned()).collect(),
            is_final: self.is_final,
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn until_asked(&self, times: usize) {
        while self.asked() < times {
            tokio::task::yield_now().await;
        }
    }
}

fn reader(listings: &Arc<Listings>) -> Reader {
    Reader {
        listings: Arc::clone(listings),
        whom: Claimant::stranger([192, 0, 2, 7].into()),
        generation: 1,
        asked: Instant::now(),
        goes_on: false,
        patience: Duration::from_mins(10),
    }
}

fn goes_on(listings: &Arc<Listings>) -> Reader {
    Reader {
        goes_on: true,
        ..reader(listings)
    }
}

type Answer = Result<Vec<String>, UpstreamError>;

async fn read(reader: Reader, registry: &Registry, after: Option<&str>) -> Answer {
    let entries = reader.after(after, || registry.clone().read()).await?;
    Ok(entries.names().to_vec())
}

fn spawned(reader: Reader, registry: &Registry) -> JoinHandle<Answer> {
    let registry = registry.clone();
    tokio::spawn(async move { read(reader, &registry, None).await })
}

#[tokio::test]
async fn those_who_wait_share_what_begins_after_they_asked() {
    let (listings, registry) = (Listings::new(), Registry::of(&["a", "b"]));
    let readers: Vec<_> = (0..20).map(|_| reader(&listings)).collect();
    let waiting: Vec<_> = readers
        .into_iter()
        .map(|one| spawned(one, &registry))
        .collect();
    registry.until_asked(1).await;
    registry.gate.add_permits(20);
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap(), ["a", "b"]);
    }
    assert_eq!(registry.asked(), 1);
    // Who asks later gets a later one.
    assert_eq!(
        read(reader(&listings), &registry, None).await.unwrap(),
        ["a", "b"]
    );
    assert_eq!(registry.asked(), 2);
}

#[tokio::test]
async fn nobody_gets_what_was_begun_before() {
    let (listings, old) = (Listings::new(), Registry::of(&["a"]));
    let first = spawned(reader(&listings), &old);
    old.until_asked(1).await;
    let new = Registry::of(&["a", "b"]);
    new.gate.add_permits(1);
    assert_eq!(
        read(reader(&listings), &new, None).await.unwrap(),
        ["a", "b"]
    );
    old.gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap(), ["a"]);
}

#[tokio::test]
async fn few_are_read_at_a_time_and_sources_take_turns() {
    let (listings, registry) = (Listings::new(), Registry::of(&["a"]));
    let mut flood = Vec::new();
    for started in 1..=STRANGERS {
        flood.push(spawned(reader(&listings), &registry));
        registry.until_asked(started).await;
    }
    for waits in 1..=10 {
        flood.push(spawned(reader(&listings), &registry));
        while listings.usage().waiting < waits {
            tokio::task::yield_now().await;
        }
    }
    let mut other = reader(&listings);
    other.whom = Claimant::stranger([192, 0, 2, 8].into());
    let own = Registry::of(&["a", "new"]);
    let other = spawned(other, &own);
    while listings.usage().waiting < 11 {
        tokio::task::yield_now().await;
    }
    assert_eq!(registry.asked(), STRANGERS);
    registry.gate.add_permits(1);
    own.until_asked(1).await;
    own.gate.add_permits(1);
    assert_eq!(other.await.unwrap().unwrap(), ["a", "new"]);
    registry.gate.add_permits(100);
    for task in flood {
        assert!(task.await.unwrap().is_ok());
    }
    // All of the others waited for the same ones.
    assert!(registry.asked() <= STRANGERS + 1, "{}", registry.asked());
}

#[tokio::test]
async fn strangers_whom_the_registry_leaves_waiting_keep_no_user_out() {
    let (listings, hung) = (Listings::new(), Registry::of(&["a"]));
    let mut strangers = Vec::new();
    for started in 1..=STRANGERS {
        strangers.push(spawned(reader(&listings), &hung));
        hung.until_asked(started).await;
    }
    strangers.push(spawned(reader(&listings), &hung));
    while listings.usage().waiting < 1 {
        tokio::task::yield_now().await;
    }
    let user = Reader {
        whom: Claimant::proven([192, 0, 2, 7].into()),
        ..reader(&listings)
    };
    let well = Registry::of(&["a", "b"]);
    well.gate.add_permits(1);
    assert_eq!(read(user, &well, None).await.unwrap(), ["a", "b"]);
    assert_eq!((hung.asked(), well.asked()), (STRANGERS, 1));
    hung.gate.add_permits(100);
    for task in strangers {
        assert!(task.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_page_that_took_long_is_kept_for_those_who_waited() {
    let (listings, registry) = (Listings::new(), Registry::of(&["a"]));
    registry.gate.add_permits(100);
    let mut waited = reader(&listings);
    let place = listings.turn(waited.whom, waited.patience).await.unwrap();
    let mut reading = waited.begin(None, place).unwrap();
    waited.asked -= 2 * PAGING;
    reading.start.begun = waited.asked;
    reading.finish(registry.clone().read()).await;
    // Another ends before they come to look.
    read(reader(&listings), &registry, Some("z")).await.unwrap();
    assert_eq!(registry.asked(), 2);
    assert_eq!(read(waited, &registry, None).await.unwrap(), ["a"]);
    assert_eq!(registry.asked(), 2);
}

#[tokio::test]
async fn who_goes_on_gets_what_came_with_the_entry_unless_something_is_new() {
    let (listings, registry) = (Listings::new(), Registry::of(&["a", "b", "c"]));
    registry.gate.add_permits(100);
    read(reader(&listings), &registry, None).await.unwrap();
    let after = async |entry| {
        read(goes_on(&listings), &registry, Some(entry))
            .await
            .unwrap()
    };
    assert_eq!(after("a").await, ["b", "c"]);
    assert_eq!(after("b").await, ["c"]);
    assert_eq!(after("c").await, Vec::<String>::new());
    listings.written("b");
    assert_eq!(after("b").await, ["c"]);
    assert_eq!(registry.asked(), 1);
    // A first page is always a new one, and so is what comes after an entry that is not known.
    read(reader(&listings), &registry, None).await.unwrap();
    after("q").await;
    assert_eq!(registry.asked(), 3);

    listings.written("new");
    after("b").await;
    assert_eq!(registry.asked(), 4);
    listings.removed();
    after("b").await;
    assert_eq!(registry.asked(), 5);
    // Another configuration, and what is too old.
    for strange in [
        Reader {
            generation: 2,
            ..goes_on(&listings)
        },
        Reader {
            asked: Instant::now() + 2 * PAGING,
            ..goes_on(&listings)
        },
    ] {
        let before = registry.asked();
        read(strange, &registry, Some("b")).await.unwrap();
        assert_eq!(registry.asked(), before + 1);
    }
}

#[tokio::test]
async fn what_is_written_while_a_page_is_read_makes_it_stale() {
    let (listings, registry) = (Listings::new(), Registry::of(&["a", "c"]));
    let first = spawned(reader(&listings), &registry);
    registry.until_asked(1).await;
    listings.written("b");
    registry.gate.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap(), ["a", "c"]);
    read(goes_on(&listings), &registry, Some("a"))
        .await
        .unwrap();
    assert_eq!(registry.asked(), 2);
}

#[tokio::test]
async fn the_last_entry_of_a_page_that_is_not_the_last_leads_to_the_next() {
    let listings = Listings::new();
    let mut first = Registry::of(&["a", "b"]);
    first.is_final = false;
    let second = Registry::of(&["c"]);
    first.gate.add_permits(1);
    second.gate.add_permits(1);
    read(reader(&listings), &first, None).await.unwrap();
    let next = read(goes_on(&listings), &second, Some("b")).await.unwrap();
    assert_eq!((next, second.asked()), (vec!["c".to_owned()], 1));
    // Both are known now.
    let again = read(goes_on(&listings), &second, Some("b")).await.unwrap();
    assert_eq!((again, second.asked()), (vec!["c".to_owned()], 1));
}

#[tokio::test]
async fn a_failure_is_for_those_who_waited_and_nobody_else() {
    let (listings, broken) = (Listings::new(), Registry::of(&[]));
    let readers: Vec<_> = (0..5).map(|_| reader(&listings)).collect();
    let waiting: Vec<_> = readers
        .into_iter()
        .map(|one| spawned(one, &broken))
        .collect();
    broken.until_asked(1).await;
    broken.gate.add_permits(5);
    for task in waiting {
        assert!(task.await.unwrap().is_err());
    }
    assert_eq!(broken.asked(), 1);
    let good = Registry::of(&["a"]);
    good.gate.add_permits(1);
    assert_eq!(read(goes_on(&listings), &good, None).await.unwrap(), ["a"]);
}

#[tokio::test]
async fn a_reader_who_leaves_takes_nobody_along() {
    let (listings, registry) = (Listings::new(), Registry::of(&["a"]));
    let (first, second) = (reader(&listings), reader(&listings));
    let first = spawned(first, &registry);
    registry.until_asked(1).await;
    let second = spawned(second, &registry);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    registry.gate.add_permits(1);
    assert_eq!(second.await.unwrap().unwrap(), ["a"]);
    assert_eq!(registry.asked(), 1);
    assert_eq!(listings.usage().taken, 0);
}

#[tokio::test]
async fn nobody_waits_longer_than_they_may() {
    let (listings, registry) = (Listings::new(), Registry::of(&["a"]));
    let mut held = Vec::new();
    for started in 1..=STRANGERS {
        held.push(spawned(reader(&listings), &registry));
        registry.until_asked(started).await;
    }
    let impatient = Reader {
        patience: Duration::from_millis(1),
        ..reader(&listings)
    };
    let answer = read(impatient, &registry, None).await;
    assert!(matches!(answer, Err(UpstreamError::Crowded)));
    registry.gate.add_permits(STRANGERS);
    for task in held {
        assert!(task.await.unwrap().is_ok());
    }
}
