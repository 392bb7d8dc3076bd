//! Blobs of 256 MiB, down and up.

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;

use super::{Arena, Caller, Case, STUB, Values, Work, entries, ratio};
use crate::client::{Call, Http, location};
use crate::content::{BLOB, REPOSITORY};
use crate::peers::{Peer, Upstream};
use crate::stub::Sent;

/// How an upload is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upload {
    /// POST, then PUT with all of it.
    Monolithic,
    /// POST, then PATCH in HTTP chunks, of a length nobody is told, then PUT: as docker does.
    Chunked,
}

pub(super) fn cases() -> Vec<Case> {
    let case = |group, id, title, peers: &[Peer], upstream, goal, work| Case {
        group,
        id,
        title,
        metrics: &["cpu_s_gib", "instructions_g_gib", "gib_s", "peak_mib"],
        entries: entries(peers, upstream, &["basic"], Caller::Basic),
        goals: ratio("cpu_s_gib", goal),
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "",
        work,
    };
    let (all, some) = (&Peer::PROXIES, &[Peer::Portcullis, Peer::Nginx, Peer::Bare]);
    let real = Upstream::Registry;
    let get = |http, connections| Work::Download(http, connections);
    let (whole, chunked) = (
        Work::Upload(Upload::Monolithic),
        Work::Upload(Upload::Chunked),
    );
    vec![
        case(
            "blob",
            "blob-get",
            "blob GET 256 MiB, 1 connection",
            all,
            STUB,
            0.50,
            get(Http::One, 1),
        ),
        case(
            "blob",
            "blob-get-4",
            "blob GET 256 MiB, 4 connections",
            all,
            STUB,
            0.50,
            get(Http::One, 4),
        ),
        case(
            "blob",
            "blob-get-h2",
            "blob GET 256 MiB, HTTP/2",
            all,
            STUB,
            0.50,
            get(Http::Two, 1),
        ),
        case(
            "blob",
            "blob-get-registry",
            "blob GET 256 MiB × 4 before the real registry",
            some,
            real,
            0.50,
            get(Http::One, 4),
        ),
        case(
            "push",
            "blob-push",
            "blob push 256 MiB, monolithic",
            all,
            STUB,
            0.60,
            whole,
        ),
        case(
            "push",
            "blob-push-chunked",
            "blob push 256 MiB, chunked",
            all,
            STUB,
            0.60,
            chunked,
        ),
        case(
            "push",
            "blob-push-registry",
            "blob push 256 MiB before the real registry",
            some,
            real,
            0.60,
            whole,
        ),
    ]
}

pub(super) async fn download(arena: &Arena<'_>, http: Http, connections: usize) -> Result<Values> {
    let running = arena.running()?;
    let content = &arena.bench.lab.content;
    let authorization = arena.authorization(running).await?;
    running
        .greet(&Call::manifest(content).with(authorization.clone()))
        .await?;
    let call = Call::blob(content).with(authorization);
    let mut ready = Vec::new();
    for _ in 0..connections {
        ready.push(running.route.dial(http).connect().await?);
    }
    let work = async {
        let mut tasks = JoinSet::new();
        for mut connection in ready {
            let call = call.clone();
            tasks.spawn(async move { connection.ask(&call).await });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    };
    let ((), cost) = arena.measure(running, work).await?;
    let mut values = cost.of_bytes(BLOB * connections as u64);
    values.insert(
        "peak_mib",
        arena.server(running).peak() / f64::from(1 << 20),
    );
    Ok(values)
}

pub(super) async fn upload(arena: &Arena<'_>, upload: Upload) -> Result<Values> {
    let running = arena.running()?;
    let content = &arena.bench.lab.content;
    let authorization = arena.authorization(running).await?;
    running
        .greet(&Call::manifest(content).with(authorization.clone()))
        .await?;
    let call = |method, path: String, status| {
        let mut call = Call::get(path)
            .with(authorization.clone())
            .expecting(status);
        call.method = method;
        call.content_type = Some("application/octet-stream");
        call
    };
    let mut connection = running.route.dial(Http::One).connect().await?;
    let work = async {
        let begin = call(
            Method::POST,
            format!("/v2/{REPOSITORY}/blobs/uploads/"),
            202,
        );
        let mut place = location(&connection.ask(&begin).await?)?;
        let mut last = Sent::blob(content);
        if upload == Upload::Chunked {
            let sent = connection
                .send(&call(Method::PATCH, place, 202), last.chunked())
                .await?;
            place = location(&sent)?;
            last = Sent::whole(Bytes::new());
        }
        // The registry has hashed it: a wrong byte would not be answered with 201.
        let end = call(Method::PUT, format!("{place}&digest={}", content.blob), 201);
        connection.send(&end, last).await
    };
    let (_, cost) = arena.measure(running, work).await?;
    let mut values = cost.of_bytes(BLOB);
    values.insert(
        "peak_mib",
        arena.server(running).peak() / f64::from(1 << 20),
    );
    Ok(values)
}
