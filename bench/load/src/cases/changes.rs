//! A reload under load, and very many clients.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::HeaderValue;
use tokio::time::sleep;

use super::{Arena, Caller, Case, STUB, Values, Work, at_most, named};
use crate::client::{Call, Http};
use crate::fleet::{Fleet, Supply};
use crate::paced::paced;
use crate::peers::Peer;

const RATE: u32 = 500;
const WIDTH: usize = 32;

pub(super) fn cases() -> Vec<Case> {
    let ours = |traits, caller| vec![named("portcullis", Peer::Portcullis, STUB, traits, caller)];
    vec![
        Case {
            group: "reload",
            id: "reload",
            title: "reload of 10,000 users and 1,000 rules, at 500 requests/s",
            metrics: &["reload_ms", "stall_ms", "quiet_stall_ms", "start_ms"],
            entries: ours(&["big"], Caller::Token),
            goals: vec![at_most("reload_ms", 100.0), at_most("start_ms", 50.0)],
            reference: "",
            most_repeats: usize::MAX,
            note: "From SIGHUP to the record of the reload; the slowest answer meanwhile, and that \
                   of as long a time without a reload.",
            work: Work::Reload,
        },
        Case {
            group: "sources",
            id: "sources",
            title: "anonymous pulls, each from another address",
            metrics: &["source_bytes", "cpu_us", "sources"],
            entries: ours(&["proxied"], Caller::Silent),
            goals: Vec::new(),
            reference: "",
            most_repeats: 1,
            note: "`--sources 1000000` for a million of them.",
            work: Work::Sources,
        },
    ]
}

pub(super) async fn reload(arena: &Arena<'_>) -> Result<Values> {
    let running = arena.running()?;
    let server = arena.server(running);
    let call = Call::manifest(&arena.bench.lab.content);
    let call = call.with(arena.authorization(running).await?);
    let time = arena.bench.time * 2;
    let quiet = paced(&running.route, RATE, time, &call).await?;
    let audit = running.folder.join("audit.jsonl");
    let reload = async {
        sleep(time / 3).await;
        let mut trail = File::open(&audit)?;
        let begun = Instant::now();
        trail.seek(SeekFrom::End(0))?;
        server.hang_up()?;
        wait_for_reload(&mut trail, &audit).await?;
        Ok(begun.elapsed())
    };
    let (busy, took) = tokio::try_join!(paced(&running.route, RATE, time, &call), reload)?;
    Ok(Values::from([
        ("reload_ms", took.as_secs_f64() * 1e3),
        ("stall_ms", busy.worst_ms()),
        ("quiet_stall_ms", quiet.worst_ms()),
        ("start_ms", server.started_in.as_secs_f64() * 1e3),
    ]))
}

async fn wait_for_reload(trail: &mut File, path: &Path) -> Result<()> {
    let begun = Instant::now();
    let mut text = String::new();
    loop {
        trail.read_to_string(&mut text)?;
        if let Some(line) = text
            .lines()
            .find(|line| line.contains("\"event\":\"reload\""))
        {
            ensure!(
                line.contains("\"outcome\":\"allowed\""),
                "not reloaded: {line}"
            );
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

pub(super) async fn sources(arena: &Arena<'_>) -> Result<Values> {
    let running = arena.running()?;
    let call = Call::manifest(&arena.bench.lab.content);
    running.greet(&call).await?;
    let server = running.server.as_ref().context("no server")?;
    let mut fleet = Fleet::open(&running.route.dial(Http::One), Http::One, WIDTH).await?;
    let count = u32::try_from(arena.bench.sources)?;
    let next = AtomicU32::new(0);
    let supply: Arc<dyn Supply> = Arc::new(move || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        // An odd factor reaches every address once, in no order.
        let address = Ipv4Addr::from(number.wrapping_mul(2_654_435_761) | 1 << 30);
        let mut call = call.clone();
        call.forwarded_for = HeaderValue::from_str(&address.to_string()).ok();
        (number < count).then_some(call)
    });
    let before = server.memory();
    let (done, cost) = arena
        .measure(running, fleet.run(Duration::from_mins(30), &supply))
        .await?;
    let mut values = cost.each(&done);
    values.insert("sources", done.answers);
    values.insert("source_bytes", (server.memory() - before) / done.answers);
    Ok(values)
}
