//! Small requests: manifests with every kind of credential, refusals, the cost of the audit trail,
//! and the latency that a proxy adds.

use std::time::Duration;

use anyhow::Result;

use super::{Arena, Caller, Case, Entry, Limit, STUB, Values, Work, entries, named, ratio};
use crate::cases::Goal;
use crate::client::{Call, Http};
use crate::fleet::{Fleet, always};
use crate::paced::{Cut, paced};
use crate::peers::{Peer, Upstream};

/// Requests at a time in a closed loop, and requests a second in an open one.
const WIDTH: usize = 32;
const RATE: u32 = 500;

/// What is asked, and so what is right.
#[derive(Clone, Copy)]
pub(crate) enum Asked {
    Manifest,
    /// The same, without a credential where one is needed.
    Unauthorized,
    /// The same, when the limit is reached.
    Limited,
}

const CPU: &[&str] = &["cpu_us", "instructions_k", "per_second"];

pub(super) fn cases() -> Vec<Case> {
    let manifest = |id, title, http, entries: Vec<Entry>, goals| Case {
        group: "manifest",
        id,
        title,
        metrics: CPU,
        entries,
        goals,
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "",
        work: Work::Requests(http, Asked::Manifest),
    };
    let basic = || entries(&Peer::PROXIES, STUB, &["basic"], Caller::Basic);
    let token = || {
        let ours = named(
            "portcullis",
            Peer::Portcullis,
            STUB,
            &["basic"],
            Caller::Token,
        );
        vec![
            ours,
            named("nginx", Peer::Nginx, STUB, &["basic"], Caller::Basic),
        ]
    };
    let real = [Peer::Portcullis, Peer::Nginx, Peer::Bare];
    let mut cases = vec![
        manifest(
            "manifest-basic",
            "manifest GET, HTTP/1.1, Basic",
            Http::One,
            basic(),
            ratio("cpu_us", 0.80),
        ),
        Case {
            note: "nginx knows no tokens; its row is with Basic.",
            ..manifest(
                "manifest-token",
                "manifest GET, HTTP/1.1, our token",
                Http::One,
                token(),
                ratio("cpu_us", 0.80),
            )
        },
        manifest(
            "manifest-certificate",
            "manifest GET, HTTP/1.1, client certificate",
            Http::One,
            entries(&Peer::PROXIES, STUB, &["certificate"], Caller::Silent),
            ratio("cpu_us", 0.80),
        ),
        manifest(
            "manifest-anonymous",
            "manifest GET, HTTP/1.1, anonymous",
            Http::One,
            entries(&Peer::PROXIES, STUB, &["anonymous"], Caller::Silent),
            ratio("cpu_us", 0.80),
        ),
        manifest(
            "manifest-h2",
            "manifest GET, HTTP/2, Basic",
            Http::Two,
            basic(),
            ratio("cpu_us", 0.80),
        ),
        Case {
            note: "The row of the bare registry is what the registry itself takes.",
            ..manifest(
                "manifest-registry",
                "manifest GET, HTTP/1.1, Basic, before the real registry",
                Http::One,
                entries(&real, Upstream::Registry, &["basic"], Caller::Basic),
                ratio("cpu_us", 0.80),
            )
        },
    ];
    cases.extend([latency(), unauthorized(), limited()]);
    cases.extend(audit());
    cases
}

fn latency() -> Case {
    Case {
        group: "latency",
        id: "latency",
        title: "latency at 500 requests/s before the stub, Basic",
        metrics: &["added_p99_us", "added_p50_us", "p99_us", "p50_us", "cpu_us"],
        entries: entries(&Peer::ALL, STUB, &["basic"], Caller::Basic),
        goals: vec![
            Goal {
                entry: "portcullis",
                metric: "added_p50_us",
                limit: Limit::Ratio(1.0),
            },
            Goal {
                entry: "portcullis",
                metric: "added_p99_us",
                limit: Limit::Ratio(1.0),
            },
        ],
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "What is added is the difference to the bare stub, asked in plain HTTP.",
        work: Work::Paced,
    }
}

fn unauthorized() -> Case {
    Case {
        group: "refusal",
        id: "refusal-401",
        title: "401: no credential",
        metrics: CPU,
        entries: entries(&Peer::PROXIES, STUB, &["basic"], Caller::Silent),
        goals: Vec::new(),
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "Ours is also counted, and in the audit trail.",
        work: Work::Requests(Http::One, Asked::Unauthorized),
    }
}

fn limited() -> Case {
    let peers = [Peer::Portcullis, Peer::Nginx, Peer::Haproxy];
    Case {
        group: "refusal",
        id: "refusal-429",
        title: "429: the limit is reached",
        metrics: CPU,
        entries: entries(&peers, STUB, &["limited"], Caller::Silent),
        goals: Vec::new(),
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "",
        work: Work::Requests(Http::One, Asked::Limited),
    }
}

fn audit() -> [Case; 2] {
    let entries = || {
        vec![
            named(
                "portcullis",
                Peer::Portcullis,
                STUB,
                &["basic"],
                Caller::Token,
            ),
            named(
                "into /dev/null",
                Peer::Portcullis,
                STUB,
                &["unaudited"],
                Caller::Token,
            ),
        ]
    };
    let case = |id, title, metrics, work| Case {
        group: "audit",
        id,
        title,
        metrics,
        entries: entries(),
        goals: Vec::new(),
        reference: "into /dev/null",
        most_repeats: usize::MAX,
        note: "",
        work,
    };
    let closed = Work::Requests(Http::One, Asked::Manifest);
    [
        case(
            "audit-cpu",
            "audit trail on a disk or into nothing, token",
            CPU,
            closed,
        ),
        case(
            "audit-latency",
            "audit trail on a disk or into nothing, latency",
            &["p99_us", "p50_us", "cpu_us"],
            Work::Paced,
        ),
    ]
}

pub(super) async fn run(arena: &Arena<'_>, http: Http, asked: Asked) -> Result<Values> {
    let running = arena.running()?;
    let call = Call::manifest(&arena.bench.lab.content);
    let call = call.with(arena.authorization(running).await?);
    let call = match asked {
        Asked::Manifest => call,
        Asked::Unauthorized => call.expecting(401),
        Asked::Limited => {
            exhaust(arena, call.clone()).await?;
            call.expecting(429)
        }
    };
    let mut fleet = Fleet::open(&running.route.dial(http), http, WIDTH).await?;
    let supply = always(call);
    fleet.run(Duration::from_millis(100), &supply).await?;
    let (done, cost) = arena
        .measure(running, fleet.run(arena.bench.time, &supply))
        .await?;
    Ok(cost.each(&done))
}

/// Asks until the limit is reached.
async fn exhaust(arena: &Arena<'_>, call: Call) -> Result<()> {
    let mut connection = arena.running()?.route.dial(Http::One).connect().await?;
    let refused = call.clone().expecting(429);
    for _ in 0..3 {
        if connection.ask(&refused).await.is_ok() {
            return Ok(());
        }
    }
    connection.ask(&refused).await.map(drop)
}

pub(super) async fn run_paced(arena: &Arena<'_>) -> Result<Values> {
    let running = arena.running()?;
    let call = Call::manifest(&arena.bench.lab.content);
    let call = call.with(arena.authorization(running).await?);
    let time = arena.bench.time * 6;
    let work = paced(&running.route, RATE, time, &call, Cut::IsAnError);
    let (latency, cost) = arena.measure(running, work).await?;
    let answers = f64::from(RATE) * time.as_secs_f64();
    Ok(Values::from([
        ("p50_us", latency.us(0.5)),
        ("p99_us", latency.us(0.99)),
        ("cpu_us", cost.cpu.as_secs_f64() * 1e6 / answers),
    ]))
}
