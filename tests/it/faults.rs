//! Faults in mid-flight, while clients push and pull: no push that was acknowledged is lost, nobody is
//! answered wrongly, every answer is on record, and all that was taken is given back.
//!
//! What happens, when and to whom is drawn from a seed. `FAULTS_SEED` repeats one.

use crate::support::book::Fault;
use crate::support::caller::{Caller, Diet, joined};
use crate::support::chance::{Chance, seeds};
use crate::support::world::{Footprint, World};

/// Faults that happen at the same time.
type Wave = Vec<Fault>;

const DIET: Diet = Diet {
    pushes: 40,
    blob: 4 << 20,
    pause: std::time::Duration::ZERO,
};

/// Each one by itself, so that whatever else is not as usual is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn no_fault_loses_a_push_or_answers_wrongly() {
    for seed in seeds(&[1]) {
        let mut chance = Chance::new(seed);
        // Another process has another footprint.
        let mut waves: Vec<Wave> = Fault::ALL
            .into_iter()
            .filter(|fault| *fault != Fault::Restart)
            .map(|fault| vec![fault])
            .collect();
        waves.extend(waves.clone());
        chance.shuffle(&mut waves);
        run(seed, waves, chance).await;
    }
}

/// Several at a time, and the proxy's own restart among them.
#[tokio::test(flavor = "multi_thread")]
async fn faults_that_overlap_lose_no_push_and_let_nobody_in() {
    for seed in seeds(&[2]) {
        let mut chance = Chance::new(seed);
        let mut waves = vec![vec![Fault::Restart], vec![Fault::Restart, Fault::Registry]];
        for _ in 0..4 {
            let mut wave = Fault::ALL.to_vec();
            chance.shuffle(&mut wave);
            wave.truncate(chance.between(2, 4));
            waves.push(wave);
        }
        chance.shuffle(&mut waves);
        run(seed, waves, chance).await;
    }
}

async fn run(seed: u64, waves: Vec<Wave>, mut chance: Chance) {
    let server = "drain_timeout = \"20s\"\nhandshake_timeout = \"1s\"";
    let Some(mut world) = World::start(Some(64), server).await else {
        return;
    };
    let restarts = waves.iter().flatten().any(|fault| *fault == Fault::Restart);
    // The first fleet takes what a proxy at work has, the second meets the faults.
    fleet(&mut world, seed, async |world| {
        world.book.attempts(300).await;
    })
    .await;
    let before = world.at_rest().await;
    let plan = waves.clone();
    fleet(&mut world, seed + 1, async |world| {
        for wave in waves {
            happen(world, wave, &mut chance).await;
        }
    })
    .await;
    let after = world.at_rest().await;
    world.book.assert_right();
    world.pull_back().await;
    world.book.assert_right();
    world.assert_trail().await;
    eprintln!("seed {seed}: {plan:?}\n{}", world.book.counts());
    eprintln!(
        "served again after {:?} at most; before {before:?}, after {after:?}",
        world.slowest
    );
    if !restarts {
        assert_given_back(before, after);
    }
}

/// Lets everybody work while something happens.
async fn fleet(world: &mut World, seed: u64, what: impl AsyncFnOnce(&mut World)) {
    world.book.stop(false);
    let callers = world.callers(seed, DIET).into_iter();
    let mut workers: Vec<_> = callers.map(Caller::work).collect();
    workers.push(world.trespasser(seed, DIET));
    what(world).await;
    world.book.stop(true);
    joined(workers).await;
}

/// The faults of a wave begin one after the other, and end so.
async fn happen(world: &mut World, wave: Wave, chance: &mut Chance) {
    for fault in &wave {
        world.begin(*fault, chance).await;
        world.book.attempts(chance.next() % 60).await;
    }
    let mut ends = wave;
    chance.shuffle(&mut ends);
    for fault in Fault::in_order_of_end(ends) {
        world.end(fault).await;
        world.book.attempts(chance.next() % 10).await;
    }
    world.settle().await;
    world.book.attempts(chance.next() % 60).await;
}

/// Connections to the registry and the directory are kept for a while, at most one for each that a
/// request had: a dozen for the callers and as many again for those that broke. A leak would be one
/// for each reload or broken transfer. Pooled threads live for ten seconds more. The allocator keeps
/// some of what the worst moment took; buffers of a few transfers more than before are 16 MiB.
fn assert_given_back(before: Footprint, after: Footprint) {
    let is_like = after.descriptors <= before.descriptors + 24
        && after.threads <= before.threads + 16
        && after.resident <= before.resident + before.resident / 4 + (16 << 20);
    assert!(is_like, "{before:?} {after:?}");
}
