//! Clients that dawdle are cut off, and hold up nobody.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::image::{begin_upload, noise, push_blob};
use crate::support::{Http, Lab, within};

const TIMEOUTS: &str = "handshake_timeout = \"1s\"\nheader_timeout = \"1s\"\nbody_timeout = \"1s\"";
const SOON: Duration = Duration::from_secs(15);

async fn lab() -> Lab {
    Lab::builder().server(TIMEOUTS).start().await
}

/// Reads until the other side closes; what it said.
async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    drop(within(SOON, "being cut off", stream.read_to_end(&mut answer)).await);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let lab = lab().await;
    let mut silent = TcpStream::connect(lab.address).await.unwrap();
    assert_eq!(until_closed(&mut silent).await, "");
    // The first bytes of a TLS record, and no more.
    let mut stalled = TcpStream::connect(lab.address).await.unwrap();
    stalled
        .write_all(b"\x16\x03\x01\x02\x00\x01")
        .await
        .unwrap();
    until_closed(&mut stalled).await;
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off() {
    let lab = lab().await;
    let mut stream = lab.anonymous().raw().await.unwrap();
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    // One byte now and then is no progress.
    let drip = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() && write.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let answer = until_closed(&mut read).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    drip.abort();
}

#[tokio::test]
async fn a_body_that_stalls_is_cut_off() {
    let lab = lab().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    for http in Http::BOTH {
        let (feeder, body) = crate::support::http::Outgoing::fed();
        let sent = tokio::spawn(alice.over(http).patch(&session).body(body).try_send());
        feeder.send(Ok(noise(1, 10_000))).await.unwrap();
        let outcome = within(SOON, "being cut off", sent).await.unwrap();
        match outcome {
            Ok(answer) => assert!(answer.status == 408 || answer.status >= 500, "{answer:?}"),
            Err(_cut) => {}
        }
        drop(feeder);
    }
}

#[tokio::test]
async fn a_slow_but_moving_body_is_not_cut_off() {
    let lab = lab().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let (feeder, body) = crate::support::http::Outgoing::fed();
    let sent = tokio::spawn(alice.patch(&session).body(body).try_send());
    // Twice the limit in all, never as much as the limit at a time.
    for number in 0..8 {
        feeder.send(Ok(noise(number, 1000))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    drop(feeder);
    let answer = sent.await.unwrap().unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
}

#[tokio::test]
async fn a_reader_that_stalls_is_cut_off() {
    let lab = lab().await;
    let blob = noise(5, 32 << 20);
    push_blob(&lab.registry().client(), "team-a/app", &blob).await;
    let digest = crate::support::image::digest(&blob);
    let mut stream = lab.anonymous().raw().await.unwrap();
    let authorization = crate::support::http::basic("gina", &crate::support::password("gina"));
    let request = format!(
        "GET /v2/team-a/app/blobs/{digest} HTTP/1.1\r\nHost: {}\r\nAuthorization: {authorization}\r\n\r\n",
        lab.authority()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).await.unwrap();
    let record = lab
        .audit()
        .find("the end of the stalled pull", |record| {
            record["reference"] == digest.as_str()
        })
        .await;
    assert_eq!(record["outcome"], "aborted", "{record:#}");
}

/// Over HTTP/2 a client that grants no window is never written to.
#[tokio::test]
async fn a_stream_that_is_not_read_ends_its_connection() {
    let lab = lab().await;
    let blob = noise(6, 32 << 20);
    push_blob(&lab.registry().client(), "team-a/app", &blob).await;
    let digest = crate::support::image::digest(&blob);
    let gina = lab.user("gina").over(Http::Two);
    let unread = gina
        .get(&format!("/v2/team-a/app/blobs/{digest}"))
        .open()
        .await;
    let record = lab
        .audit()
        .find("the end of the unread pull", |record| {
            record["reference"] == digest.as_str()
        })
        .await;
    assert_eq!(record["outcome"], "aborted", "{record:#}");
    drop(unread);
}

/// Neither before the preface of HTTP/2 nor after it.
#[tokio::test]
async fn a_connection_without_streams_is_closed() {
    let lab = Lab::builder().server("idle_timeout = \"1s\"").start().await;
    let client = lab.anonymous().over(Http::Two);
    let mut silent = client.raw().await.unwrap();
    until_closed(&mut silent).await;
    let mut idle = client.raw().await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    idle.write_all(preface).await.unwrap();
    let goodbye = until_closed(&mut idle).await;
    // The type of a frame that says goodbye, GOAWAY, and its stream, none.
    assert!(goodbye.contains("\x07\0\0\0\0\0"), "{goodbye:?}");
}

/// Between requests little more is kept of a connection than its session.
#[tokio::test]
async fn a_connection_goes_on_after_a_pause_and_ends_after_a_long_one() {
    let lab = Lab::builder().server("idle_timeout = \"3s\"").start().await;
    let mut stream = lab.anonymous().raw().await.unwrap();
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {}\r\n\r\n", lab.authority());
    for pause in [0, 200, 1500] {
        // The pause itself is what is tried.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let (first, others) = request.split_at(1);
        for part in [first, others] {
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut answer = String::new();
        while !answer.ends_with("]}") {
            let mut part = [0; 1024];
            let read = within(SOON, "an answer", stream.read(&mut part)).await;
            let read = read.unwrap();
            assert!(read > 0, "{answer}");
            answer += std::str::from_utf8(&part[..read]).unwrap();
        }
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    assert_eq!(until_closed(&mut stream).await, "");
}

/// A socket closed with unread bytes would be reset, and the answer in it lost.
#[tokio::test]
async fn who_sends_a_refused_body_to_its_end_still_reads_the_answer() {
    let lab = Lab::start().await;
    let mut stream = lab.anonymous().raw().await.unwrap();
    let head = format!(
        "PUT /v2/team-a/app/manifests/v1 HTTP/1.1\r\nHost: {}\r\nContent-Length: 16777216\r\n\r\n",
        lab.authority()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&noise(9, 16 << 20)).await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_clients_hold_up_nobody() {
    let lab = Lab::start().await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = lab.anonymous().raw().await.unwrap();
        stream
            .write_all(b"GET /v2/ HTTP/1.1\r\nHost: loc")
            .await
            .unwrap();
        slow.push(stream);
    }
    let answer = within(
        Duration::from_secs(5),
        "an answer",
        lab.user("alice").get("/v2/").send(),
    );
    assert_eq!(answer.await.status, 200);
}

#[tokio::test]
async fn huge_heads_are_refused() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let many: String = (0..500)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    let big = format!("X-Big: {}\r\n", "x".repeat(200_000));
    for fields in [many, big] {
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let answer = alice.raw_exchange(request.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
        let call = alice
            .over(Http::Two)
            .get("/v2/")
            .header("x-big", "x".repeat(200_000));
        if let Ok(answer) = call.try_send().await {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    assert_eq!(alice.get("/v2/").send().await.status, 200);
}
