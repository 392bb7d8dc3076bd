//! What the integration and end-to-end tests share: a folder, certificates, a real registry, our
//! built binary, a client that shows every byte, and upstreams that misbehave on purpose.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::match_bool,
    clippy::single_match_else,
    reason = "a failing helper is a failing test, not every test crate uses every helper, and \
              a test may be plain and slow"
)]

pub(crate) mod audit;
pub(crate) mod book;
pub(crate) mod browser;
pub(crate) mod caller;
pub(crate) mod chance;
pub(crate) mod disk;
pub(crate) mod folder;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod lab;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod registry;
pub(crate) mod slapd;
pub(crate) mod upstream;
pub(crate) mod world;

use std::future::Future;
use std::time::{Duration, Instant};

pub(crate) use self::http::{Answer, Client, Http};
pub(crate) use self::lab::{Builder, Lab, password};
pub(crate) use self::upstream::{Reply, Seen, Upstream};

/// How long anything may take that should happen at once, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits with a limit, and says what was awaited when it is over.
pub(crate) async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(limit, future).await;
    output.unwrap_or_else(|_elapsed| panic!("{what} took more than {limit:?}"))
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same for a question that takes time itself.
pub(crate) async fn eventually_async<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
