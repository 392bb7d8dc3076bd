//! SIGTERM and SIGINT let what runs finish, and nothing else begin.

use rustix::process::Signal;

use crate::support::http::{Client, Outgoing};
use crate::support::image::{begin_upload, digest, noise, push_blob, under_way};
use crate::support::process::free_port;
use crate::support::{Http, Lab, Reply, Upstream};

#[tokio::test]
async fn a_running_push_finishes() {
    for (http, signal) in [(Http::One, Signal::TERM), (Http::Two, Signal::INT)] {
        let mut lab = Lab::start().await;
        let alice = lab.user("alice").over(http);
        let blob = noise(1, 600_000);
        let session = begin_upload(&alice, "team-a/app").await;
        let (feeder, body) = Outgoing::fed();
        let sent = tokio::spawn(alice.patch(&session).body(body).send());
        feeder.send(Ok(blob.slice(..300_000))).await.unwrap();
        feeder.send(Ok(blob.slice(300_000..400_000))).await.unwrap();
        let data = under_way(&lab.folder, &session).await;
        lab.process.signal(signal);
        // No new connection gets in.
        crate::support::eventually("the listener's end", || {
            std::net::TcpStream::connect(lab.address).err()
        })
        .await;
        assert!(lab.process.exited().is_none());
        feeder.send(Ok(blob.slice(400_000..))).await.unwrap();
        drop(feeder);
        let answer = sent.await.unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(lab.process.wait().await.code(), Some(0));
        // The registry has all of it.
        let data = std::fs::read(data).unwrap();
        assert_eq!(digest(&data), digest(&blob));
    }
}

#[tokio::test]
async fn whoever_asks_is_told_that_it_is_not_ready_any_more() {
    let port = free_port();
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut lab = Lab::builder().more(&admin).start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let (feeder, body) = Outgoing::fed();
    let sent = tokio::spawn(alice.patch(&session).body(body).send());
    feeder.send(Ok(noise(1, 300_000))).await.unwrap();
    under_way(&lab.folder, &session).await;
    lab.process.signal(Signal::TERM);
    crate::support::eventually("the listener's end", || {
        std::net::TcpStream::connect(lab.address).err()
    })
    .await;
    let admin = Client::plain(([127, 0, 0, 1], port).into());
    let ready = admin.get("/readyz").send().await;
    assert_eq!(
        (ready.status, &ready.json()["draining"]),
        (503, &true.into())
    );
    assert_eq!(admin.get("/livez").send().await.status, 200);
    drop(feeder);
    assert_eq!(sent.await.unwrap().status, 202);
    assert_eq!(lab.process.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_running_pull_finishes() {
    use http_body_util::BodyExt as _;
    for http in Http::BOTH {
        let mut lab = Lab::start().await;
        let blob = noise(1, 16 << 20);
        push_blob(&lab.registry().client(), "team-a/app", &blob).await;
        let path = format!("/v2/team-a/app/blobs/{}", digest(&blob));
        let mut response = lab.user("gina").over(http).get(&path).open().await;
        let first = response
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        lab.process.signal(Signal::TERM);
        let rest = response.collect().await.unwrap().to_bytes();
        assert_eq!(first.len() + rest.len(), blob.len());
        assert_eq!(lab.process.wait().await.code(), Some(0));
        let record = lab.audit().records();
        let record = record
            .iter()
            .find(|record| record["reference"] == digest(&blob))
            .unwrap();
        assert_eq!(record["outcome"], "allowed");
    }
}

#[tokio::test]
async fn idle_connections_do_not_hold_it_up() {
    let mut lab = Lab::builder()
        .server("drain_timeout = \"60s\"")
        .start()
        .await;
    let alice = lab.user("alice");
    let mut idle = Vec::new();
    for http in Http::BOTH {
        let mut connection = alice.over(http).connect().await;
        assert_eq!(connection.send(alice.get("/v2/")).await.status, 200);
        idle.push(connection);
    }
    idle.push(alice.connect().await);
    let silent = std::net::TcpStream::connect(lab.address).unwrap();
    let begun = std::time::Instant::now();
    lab.process.signal(Signal::TERM);
    assert_eq!(lab.process.wait().await.code(), Some(0));
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    drop(silent);
}

#[tokio::test]
async fn what_does_not_finish_is_cut_at_the_limit() {
    let upstream = Upstream::start(|_| Reply::Hang).await;
    let builder = Lab::builder().upstream(upstream.url());
    let mut lab = builder.server("drain_timeout = \"1s\"").start().await;
    let waiting = tokio::spawn(lab.user("alice").get("/v2/team-a/app/tags/list").try_send());
    upstream.request(0).await;
    lab.process.signal(Signal::TERM);
    let begun = std::time::Instant::now();
    let status = lab.process.wait().await;
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(status.code().is_some(), "killed by a signal: {status}");
    drop(waiting.await.unwrap());
    let records = lab.audit().records();
    let record = records
        .iter()
        .find(|record| record["repository"] == "team-a/app");
    assert!(record.is_some(), "{records:#?}");
}
