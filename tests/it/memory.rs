//! A gibibyte up and down leaves the proxy's memory flat.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::http::Outgoing;
use crate::support::image::noise;
use crate::support::{Http, Lab};

const GIB: u64 = 1 << 30;
const LIMIT: u64 = 64 << 20;

/// Swallows what is sent to it and gives a gibibyte to whoever asks.
async fn endless(swallowed: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&swallowed)));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, swallowed: Arc<AtomicU64>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if head.starts_with("get ") {
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        let block = noise(1, 1 << 20);
        for _ in 0..GIB >> 20 {
            stream.write_all(&block).await.ok()?;
        }
        return Some(());
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut left: u64 = length.unwrap_or(0);
    let mut block = vec![0; 1 << 18];
    while left > 0 {
        let read = stream
            .read(&mut block)
            .await
            .ok()
            .filter(|&read| read > 0)? as u64;
        swallowed.fetch_add(read, Ordering::Relaxed);
        left = left.saturating_sub(read);
    }
    let answer = "HTTP/1.1 202 Accepted\r\nLocation: /v2/team-a/app/blobs/uploads/0f8fad5b-d9cb-469f-a165-70867728950e?_state=x\r\n\
                  Content-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(answer.as_bytes()).await.ok()
}

async fn push(lab: &Lab, http: Http) {
    let alice = lab.user("alice").over(http);
    let begun = alice.post("/v2/team-a/app/blobs/uploads/").send().await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let (feeder, body) = Outgoing::fed();
    let call = alice
        .patch(&begun.location())
        .header("content-length", GIB.to_string());
    let sent = tokio::spawn(call.body(body).send());
    let block: Bytes = noise(2, 1 << 20);
    for _ in 0..GIB >> 20 {
        feeder.send(Ok(block.clone())).await.unwrap();
    }
    drop(feeder);
    // The double answers when it has all of it, which takes longer than an answer usually does.
    let answer = sent.await.unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
}

async fn pull(lab: &Lab, http: Http) {
    let digest = format!("sha256:{}", "0".repeat(64));
    let path = format!("/v2/team-a/app/blobs/{digest}");
    let mut response = lab.user("alice").over(http).get(&path).open().await;
    let mut received = 0;
    while let Some(frame) = response.frame().await {
        received += frame
            .unwrap()
            .into_data()
            .map_or(0, |data| data.len() as u64);
    }
    assert_eq!(received, GIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_each_way_stays_under_64_mib() {
    let swallowed = Arc::new(AtomicU64::new(0));
    let upstream = endless(Arc::clone(&swallowed)).await;
    let lab = Lab::builder()
        .upstream(format!("http://{upstream}"))
        .start()
        .await;
    for (number, http) in (1..).zip(Http::BOTH) {
        push(&lab, http).await;
        assert_eq!(swallowed.load(Ordering::Relaxed), number * GIB);
        pull(&lab, http).await;
        let peak = lab.process.peak();
        assert!(peak < LIMIT, "{} MiB over {http:?}", peak >> 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_wait_cost_little() {
    let upstream = endless(Arc::default()).await;
    let lab = Lab::builder()
        .upstream(format!("http://{upstream}"))
        .start()
        .await;
    let path = format!("/v2/team-a/app/blobs/sha256:{}", "0".repeat(64));
    let mut waiting = Vec::new();
    for number in 0..20_u32 {
        let http = if number.is_multiple_of(2) {
            Http::One
        } else {
            Http::Two
        };
        waiting.push(lab.user("alice").over(http).get(&path).open().await);
    }
    let resident = lab.process.resident();
    assert!(
        resident < 2 * LIMIT,
        "{} MiB for 20 waiting readers",
        resident >> 20
    );
}
