//! The cases: what is done with each server, and what is asked of the figures.

mod blobs;
mod changes;
mod connections;
pub(crate) use growth::CLIFF;
mod growth;
mod logins;
mod requests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http::HeaderValue;

use crate::client::{Call, Http, basic};
use crate::fleet::Done;
use crate::lab::{Lab, PASSWORD, USER};
use crate::peers::{Peer, Running, Setup, Upstream};
use crate::process::{Instructions, Server};

/// Figures by their name; see `report::METRICS`.
pub(crate) type Values = BTreeMap<&'static str, f64>;

/// What all cases share.
pub(crate) struct Bench {
    pub(crate) lab: Lab,
    /// How long a closed loop runs.
    pub(crate) time: Duration,
    pub(crate) has_instructions: bool,
    pub(crate) sources: usize,
}

pub(crate) struct Case {
    pub(crate) group: &'static str,
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// The figures shown, the one that matters first.
    pub(crate) metrics: &'static [&'static str],
    pub(crate) entries: Vec<Entry>,
    pub(crate) goals: Vec<Goal>,
    /// Whose figures the others are divided by, within the same repeat.
    pub(crate) reference: &'static str,
    pub(crate) most_repeats: usize,
    pub(crate) note: &'static str,
    pub(crate) work: Work,
}

/// One of those compared in a case.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) label: String,
    pub(crate) peer: Peer,
    pub(crate) setup: Setup,
    pub(crate) caller: Caller,
    /// Where it stands in a case that is a curve.
    pub(crate) point: Option<Point>,
}

/// A place on a line of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) line: &'static str,
    pub(crate) axis: Axis,
    pub(crate) size: usize,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Connections,
    Rules,
    Users,
    Sources,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Basic,
    Token,
    /// Nothing in the request: nobody, or who the certificate says.
    Silent,
}

/// What a figure must be.
pub(crate) struct Goal {
    pub(crate) entry: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) limit: Limit,
}

#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// Of the reference's figure in the same repeat.
    Ratio(f64),
    AtMost(f64),
    /// Of the figure at a tenth of the size, everywhere on a line.
    PerDecade(f64),
}

#[derive(Clone, Copy)]
pub(crate) enum Work {
    Requests(Http, requests::Asked),
    Paced,
    Download(Http, usize),
    Upload(blobs::Upload),
    Connect(connections::Session),
    Memory,
    Logins(logins::Backend, logins::Cache),
    Guessing,
    Reload,
    Sources,
    Growth,
}

impl Work {
    /// Whether it starts and ends its server itself.
    pub(crate) fn starts_server(self) -> bool {
        matches!(self, Self::Memory | Self::Growth)
    }

    pub(crate) async fn run(self, arena: &Arena<'_>) -> Result<Values> {
        match self {
            Self::Requests(http, asked) => requests::run(arena, http, asked).await,
            Self::Paced => requests::run_paced(arena).await,
            Self::Download(http, connections) => blobs::download(arena, http, connections).await,
            Self::Upload(upload) => blobs::upload(arena, upload).await,
            Self::Connect(session) => connections::connect(arena, session).await,
            Self::Memory => connections::memory(arena).await,
            Self::Logins(backend, cache) => logins::run(arena, backend, cache).await,
            Self::Guessing => logins::guess(arena).await,
            Self::Reload => changes::reload(arena).await,
            Self::Sources => changes::sources(arena).await,
            Self::Growth => growth::run(arena).await,
        }
    }
}

/// All cases, in the order in which they run.
pub(crate) fn all() -> Vec<Case> {
    [
        requests::cases(),
        blobs::cases(),
        connections::cases(),
        logins::cases(),
        changes::cases(),
        growth::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// One entry's turn.
pub(crate) struct Arena<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) entry: &'a Entry,
    /// None where the work starts its server itself.
    pub(crate) running: Option<&'a Running>,
}

impl Arena<'_> {
    pub(crate) fn running(&self) -> Result<&Running> {
        self.running.context("nothing runs")
    }

    pub(crate) fn start(&self) -> Result<Running> {
        Running::start(&self.bench.lab, self.entry.peer, &self.entry.setup)
    }

    /// Whose figures are taken: the registry itself, where there is no proxy.
    pub(crate) fn server<'a>(&'a self, running: &'a Running) -> &'a Server {
        let upstream = self.bench.lab.upstream_server(self.entry.setup.upstream);
        running.server.as_ref().unwrap_or(upstream)
    }

    /// What the caller sends with each request.
    pub(crate) async fn authorization(&self, running: &Running) -> Result<Option<HeaderValue>> {
        match self.entry.caller {
            Caller::Silent => Ok(None),
            Caller::Basic => Ok(basic(USER, PASSWORD)),
            Caller::Token => token(running).await.map(Some),
        }
    }

    /// Does something, and says what it cost the server.
    pub(crate) async fn measure<T>(
        &self,
        running: &Running,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Cost)> {
        let server = self.server(running);
        let instructions = Instructions::begin(self.bench.has_instructions, server)?;
        let (cpu, begun) = (server.cpu(), Instant::now());
        let result = work.await;
        let wall = begun.elapsed();
        let cpu = server.cpu().saturating_sub(cpu);
        let cost = Cost {
            cpu,
            wall,
            instructions: instructions.end(),
        };
        result.map(|result| (result, cost))
    }
}

/// What something cost a server.
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    instructions: Option<f64>,
}

impl Cost {
    /// Per answer.
    fn each(&self, done: &Done) -> Values {
        let mut values = Values::from([
            ("cpu_us", self.cpu.as_secs_f64() * 1e6 / done.answers),
            ("per_second", done.answers / done.wall.as_secs_f64()),
            ("p99_us", done.p99.as_secs_f64() * 1e6),
        ]);
        if let Some(instructions) = self.instructions {
            values.insert("instructions_k", instructions / 1e3 / done.answers);
        }
        values
    }

    /// Per gibibyte.
    fn of_bytes(&self, bytes: u64) -> Values {
        let gib = bytes as f64 / f64::from(1 << 30);
        let mut values = Values::from([
            ("cpu_s_gib", self.cpu.as_secs_f64() / gib),
            ("gib_s", gib / self.wall.as_secs_f64()),
        ]);
        if let Some(instructions) = self.instructions {
            values.insert("instructions_g_gib", instructions / 1e9 / gib);
        }
        values
    }
}

/// A pull token of the usual user.
async fn token(running: &Running) -> Result<HeaderValue> {
    let mut connection = running.route.dial(Http::One).connect().await?;
    let call = token_call(running, USER).with(basic(USER, PASSWORD));
    let answer: serde_json::Value = serde_json::from_slice(&connection.read(&call).await?)?;
    let token = answer["token"].as_str().context("no token")?;
    Ok(HeaderValue::from_str(&format!("Bearer {token}"))?)
}

fn token_call(running: &Running, account: &str) -> Call {
    let service = running.route.authority();
    Call::get(format!(
        "/token?account={account}&service={service}&scope=repository:team-a/app:pull,push"
    ))
}

const STUB: Upstream = Upstream::Stub;

/// These peers with the same traits and the same caller, called by their names.
fn entries(
    peers: &[Peer],
    upstream: Upstream,
    traits: &'static [&'static str],
    caller: Caller,
) -> Vec<Entry> {
    let entry = |peer: &Peer| {
        let caller = if *peer == Peer::Bare {
            Caller::Silent
        } else {
            caller
        };
        named(peer.name(), *peer, upstream, traits, caller)
    };
    peers.iter().map(entry).collect()
}

fn named(
    label: &str,
    peer: Peer,
    upstream: Upstream,
    traits: &'static [&'static str],
    caller: Caller,
) -> Entry {
    Entry {
        label: label.to_owned(),
        peer,
        setup: Setup {
            upstream,
            traits,
            rules: 0,
            users: None,
        },
        caller,
        point: None,
    }
}

/// A goal of Portcullis, as a ratio.
fn ratio(metric: &'static str, limit: f64) -> Vec<Goal> {
    vec![Goal {
        entry: "portcullis",
        metric,
        limit: Limit::Ratio(limit),
    }]
}

fn at_most(metric: &'static str, limit: f64) -> Goal {
    Goal {
        entry: "portcullis",
        metric,
        limit: Limit::AtMost(limit),
    }
}
