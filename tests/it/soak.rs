//! A soak: everybody at work, attackers among them, for as long as `SOAK_SECONDS` says. Nobody is
//! answered wrongly, the trail is whole, and what the process takes does not grow.

mod attackers;

use std::fmt::Write as _;
use std::time::Duration;

use crate::support::caller::{Caller, Diet, joined};
use crate::support::chance::seeds;
use crate::support::world::{Footprint, World, footprint};

/// Without `SOAK_SECONDS`: enough for leaks that every request has.
const SECONDS: usize = 30;

const DIET: Diet = Diet {
    pushes: 8,
    blob: 1 << 20,
    pause: Duration::from_millis(20),
};

/// Attackers meet the limits several times in the short run, too.
const SERVER: &str = "handshake_timeout = \"2s\"\nheader_timeout = \"2s\"\nbody_timeout = \"4s\"";

/// What is looked at once a second.
struct Sample {
    footprint: Footprint,
    requests: u64,
    remembered: u64,
    turned_away: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_grows_and_nobody_is_answered_wrongly() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(SECONDS, |it| it.parse().unwrap());
    let seed = seeds(&[3])[0];
    let mut world = World::start(None, SERVER).await.unwrap();
    let mut workers: Vec<_> = world
        .callers(seed, DIET)
        .into_iter()
        .map(Caller::work)
        .collect();
    workers.push(world.trespasser(seed, DIET));
    let (attackers, tried) = attackers::start(&world, seed);
    let mut samples = Vec::with_capacity(seconds);
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..seconds {
        clock.tick().await;
        samples.push(sample(&world).await);
    }
    world.book.stop(true);
    joined(workers).await;
    joined(attackers).await;
    let rest = world.at_rest().await;
    eprintln!("{}", table(&samples));
    world.book.assert_right();
    world.pull_back().await;
    world.book.assert_right();
    world.assert_trail().await;
    eprintln!("seed {seed}, {seconds} s: {}", world.book.counts());
    eprintln!("attacks: {tried}; at rest {rest:?}");
    assert_level(&samples);
}

async fn sample(world: &World) -> Sample {
    // A busy machine may let one scrape fail; the next one tells.
    let metric = async |name| world.metric(name).await.unwrap_or(0);
    Sample {
        footprint: footprint(world.lab.process.id()),
        requests: world.book.counts().right,
        remembered: metric("portcullis_limit_subjects").await,
        turned_away: metric("portcullis_requests_turned_away_total").await,
    }
}

/// At most twenty lines, the first and the last among them.
fn table(samples: &[Sample]) -> String {
    let mut text = String::from("   s  RSS KiB  descr.  threads  right answers  limited  away\n");
    let step = samples.len().div_ceil(20).max(1);
    for (second, sample) in samples.iter().enumerate() {
        if second % step == 0 || second + 1 == samples.len() {
            let Footprint {
                resident,
                descriptors,
                threads,
            } = sample.footprint;
            writeln!(
                text,
                "{second:4}  {:7}  {descriptors:6}  {threads:7}  {:13}  {:7}  {:4}",
                resident >> 10,
                sample.requests,
                sample.remembered,
                sample.turned_away,
            )
            .unwrap();
        }
    }
    text
}

/// The medians of the first and last third, once a sixth of the time has gone by for warming up.
///
/// Written bounds: a tenth more and 12 MiB of memory, which is what the caches of verified
/// passwords, lock-outs and pulls may still take in a short run (each has a bound of its own) and a
/// few transfers that happen to run at the same time; 32 descriptors and 16 threads, since at any
/// second as many more attackers may be connected, or passwords be hashed.
fn assert_level(samples: &[Sample]) {
    let warm = &samples[samples.len() / 6..];
    let third = warm.len() / 3;
    let (first, last) = (&warm[..third], &warm[warm.len() - third..]);
    let resident = |sample: &Sample| sample.footprint.resident;
    let descriptors = |sample: &Sample| sample.footprint.descriptors as u64;
    let threads = |sample: &Sample| sample.footprint.threads as u64;
    let before = [
        median(first, resident),
        median(first, descriptors),
        median(first, threads),
    ];
    let after = [
        median(last, resident),
        median(last, descriptors),
        median(last, threads),
    ];
    eprintln!("medians of bytes, descriptors, threads: first {before:?}, last {after:?}");
    assert!(
        after[0] <= before[0] + before[0] / 10 + (12 << 20),
        "memory grows"
    );
    assert!(after[1] <= before[1] + 32, "descriptors leak");
    assert!(after[2] <= before[2] + 16, "threads leak");
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> u64) -> u64 {
    let mut all: Vec<_> = samples.iter().map(of).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}
