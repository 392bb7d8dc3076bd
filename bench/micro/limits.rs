//! What a check against a limit costs, with one client and with a million of them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use portcullis::identity::{Password, Subject as Caller};
use portcullis::limit::lockout::{ClientTrust, Lockout, Setting};
use portcullis::limit::{Bucket, Quota, Quotas, Rates, Source, SourceRateLimiter, Subject};

const QUOTA: Quota = Quota {
    count: 100,
    per: Duration::from_hours(6),
};
const RATES: Rates = Rates {
    requests_per_second: 100_000,
    connections_per_second: 10_000,
    concurrent_requests: 10_000,
};
const MILLION: u32 = 1_000_000;

fn bucket(number: u32) -> Bucket {
    Bucket {
        limit: 0,
        subject: Subject::Source(source(number)),
        quota: QUOTA,
    }
}

fn source(number: u32) -> Source {
    // An odd factor gives every number an address of its own, in no order.
    Source::of(IpAddr::V4(Ipv4Addr::from(
        number.wrapping_mul(2_654_435_761),
    )))
}

fn quotas_of(sources: u32) -> Arc<Quotas> {
    let quotas = Quotas::new();
    for number in 0..sources {
        if let Ok(taken) = quotas.reserve(bucket(number), Duration::ZERO) {
            taken.settle(None, Duration::ZERO, Duration::ZERO);
        }
    }
    quotas
}

/// A pull: room is taken before it and settled after it; each source comes once in a while.
#[divan::bench(args = [1, 1_000, MILLION])]
fn count_a_pull(bencher: Bencher<'_, '_>, sources: u32) {
    let quotas = quotas_of(sources);
    let (mut number, mut now) = (0_u32, Duration::ZERO);
    bencher.bench_local(|| {
        number = number.wrapping_add(1).checked_rem(sources).unwrap_or(0);
        // No source fills its window: it moves on by more than that at each pull.
        now = now.saturating_add(Duration::from_mins(4));
        let taken = quotas.reserve(bucket(black_box(number)), now);
        taken.map(|taken| taken.settle(None, Duration::ZERO, now))
    });
}

/// A refusal, which must be the cheapest answer.
#[divan::bench]
fn refuse_a_pull() {
    thread_local! {
        static FULL: Arc<Quotas> = {
            let quotas = Quotas::new();
            for _ in 0..QUOTA.count {
                if let Ok(taken) = quotas.reserve(bucket(7), Duration::ZERO) {
                    taken.settle(None, Duration::ZERO, Duration::ZERO);
                }
            }
            quotas
        };
    }
    FULL.with(|quotas| {
        black_box(quotas.reserve(bucket(7), Duration::from_secs(1)).is_err());
    });
}

#[divan::bench]
fn pass_the_shield(bencher: Bencher<'_, '_>) {
    let limiter = SourceRateLimiter::new();
    let mut now = Duration::ZERO;
    bencher.bench_local(|| {
        now = now.saturating_add(Duration::from_micros(50));
        limiter.request(black_box(source(7)), RATES, now).is_ok()
    });
}

#[divan::bench]
fn begin_a_login(bencher: Bencher<'_, '_>) {
    let mut lockout = Lockout::new([7; 32]);
    let (home, password) = (
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        Password::new("secret").ok(),
    );
    let setting = Setting {
        count: 10,
        per: Duration::from_mins(5),
    };
    let alice = Caller::read("alice").ok();
    bencher.bench_local(|| {
        let (password, who) = (password.as_ref()?, alice.as_ref()?);
        let attempt = lockout.attempt(ClientTrust::Stranger, black_box(who), home, password)?;
        let is_free = lockout.begin(&attempt, setting, Duration::ZERO).is_ok();
        let right = portcullis::limit::lockout::Judged::Right;
        lockout.end(&attempt, right, setting, Duration::ZERO);
        Some(is_free)
    });
}

/// What a million sources take in memory, for people.
pub(crate) fn memory_of_a_million() -> String {
    let before = resident_kib();
    let quotas = quotas_of(MILLION);
    let taken = resident_kib().saturating_sub(before) / 1024;
    let remembered = quotas.remembered();
    format!("a million sources: {taken} MiB, {remembered} of them remembered")
}

#[expect(clippy::print_stdout, reason = "a bench tells people")]
pub(crate) fn tell(text: &str) {
    println!("\n{text}");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}
