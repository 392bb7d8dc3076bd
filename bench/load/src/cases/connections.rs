//! New TLS connections, and the memory that waiting ones take.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::HeaderValue;
use rustls::client::Resumption;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Arena, Caller, Case, Goal, Limit, STUB, Values, Work, at_most, entries, ratio};
use crate::client::{Call, Connection, Http, Route};
use crate::content::BLOB;
use crate::fleet::Done;
use crate::peers::{Peer, Running};
use crate::stub::Sent;

/// Connections at a time that are being made.
const WIDTH: usize = 8;
const IDLE: usize = 1000;
const READERS: usize = 40;

/// Whether a session is begun anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Full,
    Resumed,
}

pub(super) fn cases() -> Vec<Case> {
    let connect = |id, title, traits, caller, session, note| Case {
        group: "tls",
        id,
        title,
        metrics: &["cpu_us", "instructions_k", "per_second", "resumed_percent"],
        entries: entries(&Peer::PROXIES, STUB, traits, caller),
        goals: ratio("cpu_us", 0.40),
        reference: "nginx",
        most_repeats: usize::MAX,
        note,
        work: Work::Connect(session),
    };
    let (basic, certificate): (&[&str], &[&str]) = (&["basic"], &["certificate"]);
    vec![
        connect(
            "tls-full",
            "new TLS connection, full handshake",
            basic,
            Caller::Basic,
            Session::Full,
            "With one manifest GET: docker and skopeo do this for every request.",
        ),
        connect(
            "tls-certificate",
            "new TLS connection with a client certificate",
            certificate,
            Caller::Silent,
            Session::Full,
            "",
        ),
        connect(
            "tls-resumed",
            "new TLS connection, resumed session",
            basic,
            Caller::Basic,
            Session::Resumed,
            "Sessions are resumed where the server gives tickets: see the last column.",
        ),
        memory_case(),
    ]
}

fn memory_case() -> Case {
    let ratio = |metric, limit| Goal {
        entry: "portcullis",
        metric,
        limit: Limit::Ratio(limit),
    };
    Case {
        group: "memory",
        id: "memory",
        title: "memory and start",
        metrics: &[
            "fresh_mib",
            "fresh_rss_mib",
            "idle_kib",
            "slow_mib",
            "slow_rss_mib",
            "start_ms",
        ],
        entries: entries(&Peer::PROXIES, STUB, &["basic"], Caller::Basic),
        goals: vec![
            ratio("fresh_mib", 0.30),
            at_most("idle_kib", 15.0),
            ratio("slow_mib", 0.30),
            at_most("start_ms", 50.0),
        ],
        reference: "nginx",
        most_repeats: 3,
        note: "Fresh, with 1,000 idle TLS connections, and with 40 slow readers of a blob. Memory of \
               the process tree: proportional, where pages that processes share count once; \
               RSS counts them for each. Each idle connection has had one answer.",
        work: Work::Memory,
    }
}

pub(super) async fn connect(arena: &Arena<'_>, session: Session) -> Result<Values> {
    let running = arena.running()?;
    let authorization = arena.authorization(running).await?;
    let call = Call::manifest(&arena.bench.lab.content).with(authorization);
    running.greet(&call).await?;
    let work = async {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..WIDTH {
            let (route, call) = (running.route.clone(), call.clone());
            tasks.spawn(connect_until(
                begun + arena.bench.time,
                route,
                call,
                session,
            ));
        }
        let (mut latencies, mut resumed) = (Vec::new(), 0.0);
        while let Some(ended) = tasks.join_next().await {
            let (made, of_those) = ended??;
            latencies.extend(made);
            resumed += of_those;
        }
        Ok((Done::new(latencies, begun.elapsed()), resumed))
    };
    let ((done, resumed), cost) = arena.measure(running, work).await?;
    let mut values = cost.each(&done);
    values.insert("resumed_percent", resumed / done.answers * 100.0);
    Ok(values)
}

/// How long each connection and its answer took, and how many of them resumed a session.
async fn connect_until(
    end: Instant,
    mut route: Route,
    call: Call,
    session: Session,
) -> Result<(Vec<Duration>, f64)> {
    if let (Session::Resumed, Some(tls)) = (session, &mut route.tls) {
        tls.resumption = Resumption::in_memory_sessions(64);
    }
    let dial = route.dial(Http::One);
    let (mut latencies, mut resumed) = (Vec::new(), 0.0);
    while Instant::now() < end {
        let asked = Instant::now();
        let mut connection = dial.connect().await?;
        connection.ask(&call).await?;
        latencies.push(asked.elapsed());
        resumed += f64::from(u8::from(connection.is_resumed));
    }
    Ok((latencies, resumed))
}

pub(super) async fn memory(arena: &Arena<'_>) -> Result<Values> {
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let (running, authorization) = begin(arena).await?;
    let server = arena.server(&running);
    let start_ms = server.started_in.as_secs_f64() * 1e3;
    let (fresh, fresh_rss) = (server.memory(), server.resident());
    let idle = hold_idle(arena, &running, authorization).await?;
    let with_idle = server.memory();
    drop(idle);
    drop(running);

    let (running, authorization) = begin(arena).await?;
    let readers = hold_readers(arena, &running, authorization).await?;
    let server = arena.server(&running);
    let (with_readers, with_readers_rss) = (server.memory(), server.resident());
    drop(readers);
    Ok(Values::from([
        ("start_ms", start_ms),
        ("fresh_mib", mib(fresh)),
        ("fresh_rss_mib", mib(fresh_rss)),
        ("idle_kib", (with_idle - fresh) / 1024.0 / IDLE as f64),
        ("slow_mib", mib(with_readers)),
        ("slow_rss_mib", mib(with_readers_rss)),
    ]))
}

/// A fresh server that has answered once.
async fn begin(arena: &Arena<'_>) -> Result<(Running, Option<HeaderValue>)> {
    let running = arena.start()?;
    let authorization = arena.authorization(&running).await?;
    let call = Call::manifest(&arena.bench.lab.content).with(authorization.clone());
    running.greet(&call).await?;
    sleep(Duration::from_millis(200)).await;
    Ok((running, authorization))
}

async fn hold_idle(
    arena: &Arena<'_>,
    running: &Running,
    authorization: Option<HeaderValue>,
) -> Result<Vec<Connection>> {
    let call = Call::manifest(&arena.bench.lab.content).with(authorization);
    let dial = running.route.dial(Http::One);
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut connection = dial.connect().await?;
        connection.ask(&call).await?;
        idle.push(connection);
    }
    sleep(Duration::from_millis(300)).await;
    Ok(idle)
}

/// Who has begun to read a blob and goes no further.
async fn hold_readers(
    arena: &Arena<'_>,
    running: &Running,
    authorization: Option<HeaderValue>,
) -> Result<Vec<impl Sized>> {
    let call = Call::blob(&arena.bench.lab.content).with(authorization);
    let dial = running.route.dial(Http::One);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut connection = dial.connect().await?;
        let response = connection
            .open(&call, Sent::whole(bytes::Bytes::new()))
            .await?;
        let length = response
            .headers()
            .get("content-length")
            .and_then(|it| it.to_str().ok());
        ensure!(
            length == Some(&BLOB.to_string()),
            "not a blob: {}",
            response.status()
        );
        readers.push((connection, response));
    }
    sleep(Duration::from_secs(1)).await;
    Ok(readers)
}
