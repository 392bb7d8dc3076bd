//! A closed loop: connections that each send their next request when the last one is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::{Call, Connection, Dial, Http};

/// What is asked next; None ends the connection's part.
pub(crate) trait Supply: Send + Sync + 'static {
    fn next(&self) -> Option<Call>;
}

impl<F: Fn() -> Option<Call> + Send + Sync + 'static> Supply for F {
    fn next(&self) -> Option<Call> {
        self()
    }
}

/// The same call, again and again.
pub(crate) fn always(call: Call) -> Arc<dyn Supply> {
    Arc::new(move || Some(call.clone()))
}

pub(crate) struct Fleet(Vec<Connection>);

/// What a run got done. Nothing failed: a run with errors is an error.
pub(crate) struct Done {
    pub(crate) answers: f64,
    pub(crate) wall: Duration,
    /// How long the slowest hundredth of the answers took at least.
    pub(crate) p99: Duration,
}

impl Done {
    pub(crate) fn new(mut latencies: Vec<Duration>, wall: Duration) -> Self {
        latencies.sort_unstable();
        let slow = latencies.get(latencies.len() * 99 / 100).copied();
        Self {
            answers: latencies.len() as f64,
            wall,
            p99: slow.unwrap_or_default(),
        }
    }
}

impl Fleet {
    /// So many requests at a time: as many connections in HTTP/1, an eighth of them in HTTP/2.
    pub(crate) async fn open(dial: &Dial, http: Http, width: usize) -> Result<Self> {
        let mut connections: Vec<Connection> = Vec::new();
        while connections.len() < width {
            let shared = connections.last().and_then(Connection::share);
            let is_new = http == Http::One || connections.len().is_multiple_of(8);
            let next = match shared {
                Some(shared) if !is_new => shared,
                _ => dial.connect().await?,
            };
            connections.push(next);
        }
        Ok(Self(connections))
    }

    /// Runs until the time is over or there is nothing more to ask.
    pub(crate) async fn run(&mut self, time: Duration, supply: &Arc<dyn Supply>) -> Result<Done> {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for mut connection in self.0.drain(..) {
            let (stop, supply) = (Arc::clone(&stop), Arc::clone(supply));
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) && begun.elapsed() < time {
                    let Some(call) = supply.next() else { break };
                    let asked = Instant::now();
                    if let Err(error) = connection.ask(&call).await {
                        stop.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                    latencies.push(asked.elapsed());
                }
                anyhow::Ok((latencies, connection))
            });
        }
        let mut all = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            let (latencies, connection) = ended??;
            all.extend(latencies);
            self.0.push(connection);
        }
        ensure!(!all.is_empty(), "no answer in {time:?}");
        Ok(Done::new(all, begun.elapsed()))
    }
}
