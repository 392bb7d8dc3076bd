//! A reload under load, and very many clients.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::HeaderValue;
use tokio::time::sleep;

use super::{Arena, Caller, Case, STUB, Values, Work, at_most, named};
use crate::client::{Call, Http};
use crate::fleet::{Fleet, Supply};
use crate::paced::{Cut, paced};
use crate::peers::Peer;

const RATE: u32 = 500;
const WIDTH: usize = 32;
/// What is measured is how much there is to read.
const BIG: &[&str] = &["big"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        reload_case(),
        Case {
            group: "sources",
            id: "sources",
            title: "anonymous pulls, each from another address",
            metrics: &["source_bytes", "cpu_us", "sources"],
            entries: vec![named(
                "portcullis",
                Peer::Portcullis,
                STUB,
                &["proxied"],
                Caller::Silent,
            )],
            goals: Vec::new(),
            reference: "",
            most_repeats: 1,
            note: "`--sources 1000000` for a million of them.",
            work: Work::Sources,
        },
    ]
}

fn reload_case() -> Case {
    let mut entries = vec![
        named("portcullis", Peer::Portcullis, STUB, BIG, Caller::Token),
        named("nginx", Peer::Nginx, STUB, BIG, Caller::Basic),
    ];
    for entry in &mut entries {
        (entry.setup.rules, entry.setup.users) = (1_000, Some(10_000));
    }
    Case {
        group: "reload",
        id: "reload",
        title: "reload of 10,000 users and 1,000 rules, at 500 requests/s",
        metrics: &["reload_ms", "stall_ms", "quiet_stall_ms", "cut", "start_ms"],
        entries,
        goals: vec![at_most("reload_ms", 100.0), at_most("start_ms", 50.0)],
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "From SIGHUP to the record of the reload, or until nginx has written that all its new \
               workers are started; the slowest answer meanwhile, and that of as long a time without \
               a reload; connections that the reload closed. nginx has a location for each rule; it \
               reads the users at each request, and so none at a reload.",
        work: Work::Reload,
    }
}

pub(super) async fn reload(arena: &Arena<'_>) -> Result<Values> {
    let running = arena.running()?;
    let server = arena.server(running);
    let call = Call::manifest(&arena.bench.lab.content);
    let call = call.with(arena.authorization(running).await?);
    let time = arena.bench.time * 2;
    let (trail, sign) = match arena.entry.peer {
        Peer::Nginx => ("error.log", Sign::Workers),
        Peer::Portcullis | Peer::Haproxy | Peer::Apache | Peer::Caddy | Peer::Bare => {
            ("audit.jsonl", Sign::Record)
        }
    };
    // No connection of ours is cut by a reload.
    let cut = match sign {
        Sign::Record => Cut::IsAnError,
        Sign::Workers => Cut::IsMadeAgain,
    };
    let quiet = paced(&running.route, RATE, time, &call, cut).await?;
    let trail = running.folder.join(trail);
    let reload = async {
        sleep(time / 3).await;
        let mut file = File::open(&trail)?;
        let begun = Instant::now();
        file.seek(SeekFrom::End(0))?;
        server.hang_up()?;
        wait_for_reload(&mut file, &trail, sign).await?;
        Ok(begun.elapsed())
    };
    let busy = paced(&running.route, RATE, time, &call, cut);
    let (busy, took) = tokio::try_join!(busy, reload)?;
    Ok(Values::from([
        ("reload_ms", took.as_secs_f64() * 1e3),
        ("stall_ms", busy.worst_ms()),
        ("quiet_stall_ms", quiet.worst_ms()),
        ("cut", busy.cut as f64),
        ("start_ms", server.started_in.as_secs_f64() * 1e3),
    ]))
}

/// By what it is seen that a reload is done.
#[derive(Clone, Copy)]
enum Sign {
    /// A record of the audit trail.
    Record,
    /// nginx's log, a line for each worker.
    Workers,
}

impl Sign {
    fn is_in(self, text: &str) -> Result<bool> {
        match self {
            Self::Record => {
                let is_reload = |line: &&str| line.contains("\"event\":\"reload\"");
                let Some(line) = text.lines().find(is_reload) else {
                    return Ok(false);
                };
                let is_allowed = line.contains("\"outcome\":\"allowed\"");
                ensure!(is_allowed, "not reloaded: {line}");
                Ok(true)
            }
            Self::Workers => {
                ensure!(!text.contains("[emerg]"), "not reloaded: {text}");
                let workers = available_parallelism()?.get();
                Ok(text.matches("start worker process ").count() >= workers)
            }
        }
    }
}

async fn wait_for_reload(trail: &mut File, path: &Path, sign: Sign) -> Result<()> {
    let begun = Instant::now();
    let mut text = String::new();
    loop {
        trail.read_to_string(&mut text)?;
        if sign.is_in(&text)? {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "no reload in {}",
            path.display()
        );
        sleep(Duration::from_millis(1)).await;
    }
}

/// A call from each of so many addresses, and then from nobody.
pub(super) fn once_each(call: Call, count: usize) -> Arc<dyn Supply> {
    let next = AtomicUsize::new(0);
    Arc::new(move || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        (number < count).then(|| from_source(&call, number))
    })
}

/// The same call, from the address with that number.
pub(super) fn from_source(call: &Call, number: usize) -> Call {
    // An odd factor reaches every address once, in no order.
    let address = Ipv4Addr::from((number as u32).wrapping_mul(2_654_435_761) | 1 << 30);
    Call {
        forwarded_for: HeaderValue::from_str(&address.to_string()).ok(),
        ..call.clone()
    }
}

pub(super) async fn sources(arena: &Arena<'_>) -> Result<Values> {
    let running = arena.running()?;
    let call = Call::manifest(&arena.bench.lab.content);
    running.greet(&call).await?;
    let server = running.server.as_ref().context("no server")?;
    let mut fleet = Fleet::open(&running.route.dial(Http::One), Http::One, WIDTH).await?;
    let supply = once_each(call, arena.bench.sources);
    let before = server.memory();
    let (done, cost) = arena
        .measure(running, fleet.run(Duration::from_mins(30), &supply))
        .await?;
    let mut values = cost.each(&done);
    values.insert("sources", done.answers);
    values.insert("source_bytes", (server.memory() - before) / done.answers);
    Ok(values)
}
