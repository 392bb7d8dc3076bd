//! Connections when there are few left: nobody is kept out by others who hold theirs for nothing,
//! and nobody who is being served notices.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::support::http::Outgoing;
use crate::support::image::{begin_upload, digest, noise, push_blob};
use crate::support::{Client, Http, Lab, within};

/// How late an answer may be that does not wait for anybody's time-out (10 seconds).
const AT_ONCE: Duration = Duration::from_secs(5);
const PLACES: usize = 40;

async fn lab(server: &str) -> Lab {
    let server = format!("max_connections = {PLACES}\n{server}");
    Lab::builder().server(&server).start().await
}

/// Connections that say nothing.
async fn silent(to: SocketAddr, from: [u8; 4], number: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..number {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::from(from), 0).into()).unwrap();
        held.push(socket.connect(to).await.unwrap());
    }
    held
}

/// How many of them the other side has closed by now.
fn closed(held: &[TcpStream]) -> usize {
    let gone = |stream: &&TcpStream| match stream.try_read(&mut [0; 1]) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    held.iter().filter(gone).count()
}

async fn answered_at_once(client: &Client, path: &str) -> u16 {
    let begun = Instant::now();
    let answer = within(AT_ONCE, "an answer", client.get(path).send()).await;
    assert!(begun.elapsed() < AT_ONCE);
    answer.status
}

#[tokio::test]
async fn silent_sources_keep_nobody_out() {
    let lab = lab("").await;
    let mut held = Vec::new();
    for (last, number) in [(2, 16), (3, 16), (4, 8)] {
        held.extend(silent(lab.address, [127, 0, 0, last], number).await);
    }
    let newcomer = lab.anonymous().out_of([127, 0, 0, 9]);
    for _ in 0..3 {
        assert_eq!(answered_at_once(&newcomer, "/v2/").await, 401);
    }
    assert_eq!(answered_at_once(&lab.user("alice"), "/v2/").await, 200);
    // They are held as before, but for those who had to go.
    let gone = closed(&held);
    assert!((10..=20).contains(&gone), "{gone}");
}

#[tokio::test]
async fn clients_that_have_shaken_hands_and_ask_nothing_keep_nobody_out() {
    let lab = lab("").await;
    let mut held = Vec::new();
    for http in Http::BOTH {
        for last in 2..6 {
            let client = lab.anonymous().over(http).out_of([127, 0, 0, last]);
            for _ in 0..5 {
                held.push(client.raw().await.unwrap());
            }
        }
    }
    let newcomer = lab.anonymous().out_of([127, 0, 0, 9]);
    assert_eq!(answered_at_once(&newcomer, "/v2/").await, 401);
}

#[tokio::test]
async fn an_office_behind_one_address_has_what_nobody_else_wants() {
    let lab = lab("").await;
    let office = lab.user("alice").out_of([127, 0, 0, 2]);
    let mut held = Vec::new();
    for _ in 0..PLACES * 3 / 4 {
        let mut connection = office.connect().await;
        let answer = connection.send(office.get("/v2/")).await;
        assert_eq!(answer.status, 200);
        held.push(connection);
    }
    // Others come to it, in their hundreds, and say nothing.
    let mut crowd = Vec::new();
    for last in 100..200 {
        crowd.extend(silent(lab.address, [127, 0, 0, last], 2).await);
    }
    let newcomer = lab.anonymous().out_of([127, 0, 0, 9]);
    assert_eq!(answered_at_once(&newcomer, "/v2/").await, 401);
    for connection in &mut held {
        let answer = connection
            .send(office.get("/v2/team-a/app/tags/list"))
            .await;
        assert_eq!(answer.status, 404, "{answer:?}");
    }
}

#[tokio::test]
async fn a_balancer_is_not_throttled_and_its_silent_clients_keep_nobody_out() {
    let trusted = "trusted_proxies = [\"127.0.0.2\"]\nmax_connections_per_source = 5";
    let lab = lab(trusted).await;
    let balancer = lab.anonymous().out_of([127, 0, 0, 2]);
    let mut held = Vec::new();
    // Nobody who comes through it has proved anything; it has, by asking for somebody.
    for number in 0..PLACES - 2 {
        let mut connection = balancer.connect().await;
        let from = format!("198.51.100.{number}");
        let call = balancer.get("/v2/").header("x-forwarded-for", from);
        assert_eq!(connection.send(call).await.status, 401);
        held.push(connection);
    }
    let mut crowd = Vec::new();
    for last in 100..150 {
        crowd.extend(silent(lab.address, [127, 0, 0, last], 2).await);
    }
    let newcomer = lab.anonymous().out_of([127, 0, 0, 9]);
    assert_eq!(answered_at_once(&newcomer, "/v2/").await, 401);
    for connection in &mut held {
        let answer = connection.send(balancer.get("/v2/")).await;
        assert_eq!(answer.status, 401);
    }
    // What comes through it and says nothing is no better than elsewhere.
    drop((held, crowd));
    let _silent = silent(lab.address, [127, 0, 0, 2], PLACES * 2).await;
    assert_eq!(answered_at_once(&newcomer, "/v2/").await, 401);
    assert_eq!(answered_at_once(&balancer, "/v2/").await, 401);
}

#[tokio::test]
async fn behind_a_balancer_with_proxy_headers_each_client_counts_for_itself() {
    let required = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = \"required\"";
    let lab = lab(required).await;
    let from = |address: &str| {
        let header = format!("PROXY TCP4 {address} 192.0.2.2 40000 443\r\n");
        lab.user("alice").prefaced(header)
    };
    let modest = from("198.51.100.1");
    let mut kept = modest.connect().await;
    assert_eq!(kept.send(modest.get("/v2/")).await.status, 200);
    let greedy = from("198.51.100.2");
    let mut held = Vec::new();
    for _ in 0..PLACES * 2 {
        held.push(greedy.raw().await.unwrap());
    }
    assert_eq!(answered_at_once(&from("198.51.100.3"), "/v2/").await, 200);
    assert_eq!(kept.send(modest.get("/v2/")).await.status, 200);
}

/// A registry that takes uploads, and says when bytes of one arrive.
async fn taker() -> (String, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (arrived, arrivals) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let arrived = arrived.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while stream.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
                    if seen.starts_with(b"PATCH") {
                        let _open = arrived.send(()).is_ok();
                    }
                    if seen.ends_with(b"\r\n\r\n")
                        && (seen.starts_with(b"POST") || seen.ends_with(b"\r\n0\r\n\r\n"))
                    {
                        let location = "/v2/team-a/app/blobs/uploads/5f8e?_state=x";
                        let answer = format!(
                            "HTTP/1.1 202 Accepted\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
                        );
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        seen.clear();
                    }
                }
            });
        }
    });
    (url, arrivals)
}

#[tokio::test]
async fn an_upload_under_way_is_never_taken() {
    let (url, mut arrivals) = taker().await;
    let server = format!("max_connections = {PLACES}");
    let lab = Lab::builder().upstream(url).server(&server).start().await;
    let alice = lab.user("alice").out_of([127, 0, 0, 2]);
    for http in Http::BOTH {
        let session = begin_upload(&alice, "team-a/app").await;
        // What is told of uploads before is not of this one.
        while arrivals.try_recv().is_ok() {}
        // The first request on its connection.
        let (feeder, body) = Outgoing::fed();
        let call = alice.over(http).patch(&session).body(body);
        let sent = tokio::spawn(call.try_send());
        feeder.send(Ok(noise(7, 50_000))).await.unwrap();
        within(AT_ONCE, "the upload to arrive", arrivals.recv()).await;
        let mut crowd = Vec::new();
        for last in 100..200 {
            crowd.extend(silent(lab.address, [127, 0, 0, last], 2).await);
        }
        // And from the same address.
        crowd.extend(silent(lab.address, [127, 0, 0, 2], PLACES * 2).await);
        let newcomer = lab.anonymous();
        assert_eq!(answered_at_once(&newcomer, "/v2/").await, 401);
        feeder.send(Ok(noise(8, 50_000))).await.unwrap();
        drop(feeder);
        let answer = sent.await.unwrap().unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
    }
}

#[tokio::test]
async fn a_download_under_way_of_a_known_caller_is_never_taken() {
    let lab = lab("").await;
    let blob = noise(5, 16 << 20);
    push_blob(&lab.registry().client(), "team-a/app", &blob).await;
    let path = format!("/v2/team-a/app/blobs/{}", digest(&blob));
    let gina = lab.user("gina").out_of([127, 0, 0, 2]);
    let answer = gina.get(&path).open().await;
    assert_eq!(answer.status(), 200);
    let _crowd = silent(lab.address, [127, 0, 0, 2], PLACES * 2).await;
    let _others = silent(lab.address, [127, 0, 0, 3], PLACES * 2).await;
    assert_eq!(answered_at_once(&lab.anonymous(), "/v2/").await, 401);
    let read = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read.len(), blob.len());
}

#[tokio::test]
async fn used_up_descriptors_keep_nobody_out() {
    let lab = Lab::start().await;
    let pid = Pid::from_raw(lab.process.id().try_into().unwrap());
    let folder = format!("/proc/{}/fd", lab.process.id());
    let used = std::fs::read_dir(&folder).unwrap().count() as u64;
    let few = Rlimit {
        current: Some(used + 30),
        maximum: Some(used + 30),
    };
    prlimit(pid, Resource::Nofile, few).unwrap();
    let mut held = silent(lab.address, [127, 0, 0, 2], 40).await;
    held.extend(silent(lab.address, [127, 0, 0, 3], 40).await);
    let newcomer = lab.anonymous().out_of([127, 0, 0, 9]);
    assert_eq!(answered_at_once(&newcomer, "/v2/").await, 401);
    let alice = lab.user("alice").out_of([127, 0, 0, 9]);
    let path = "/v2/team-a/app/tags/list";
    assert_eq!(answered_at_once(&alice, path).await, 404);
}

#[tokio::test]
async fn one_who_leaves_for_another_is_told_so_where_the_protocol_can() {
    let lab = lab("").await;
    let mut first = lab.anonymous().raw().await.unwrap();
    first
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}]}\n") && !answer.ends_with(b"}]}") {
        let read = within(AT_ONCE, "the answer", first.read_buf(&mut answer));
        assert!(read.await.unwrap() > 0, "{answer:?}");
    }
    let _held = silent(lab.address, [127, 0, 0, 1], PLACES).await;
    // A proper end of TLS: any other would be an error.
    let end = within(AT_ONCE, "the end", first.read_buf(&mut answer));
    assert_eq!(end.await.unwrap(), 0);
}
