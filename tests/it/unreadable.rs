//! What is no request is answered like everything else, leaves one record, and never arrives.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::image::MANIFEST;
use crate::support::{Http, Lab, PATIENCE, Reply, Upstream, eventually, within};

const BAD_LINES: &[&str] = &[
    "GET",
    "GET /v2/",
    " GET /v2/ HTTP/1.1",
    "GET  /v2/ HTTP/1.1",
    "GET\t/v2/ HTTP/1.1",
    "GET /v2/ HTTP/1.1 ",
    "GET /v2/ x HTTP/1.1",
    "G(T /v2/ HTTP/1.1",
    "GET /v2/ http/1.1",
    "GET /v2/ FTP/1.1",
    "GET v2/ HTTP/1.1",
    "GET https://localhost/v2/ HTTP/1.1",
    "GET localhost:443 HTTP/1.1",
    "GET /v2/#x HTTP/1.1",
    "GET /v2/\u{e9} HTTP/1.1",
    "GET /v2/\0 HTTP/1.1",
    "GET /v2/\u{7f} HTTP/1.1",
    "GET /v2/<x> HTTP/1.1",
];
const BAD_FIELDS: &[&str] = &[
    "X-One : 1",
    " X-One: 1",
    "X-One: 1\r\n folded",
    "X-One",
    ": 1",
    "X One: 1",
    "X\0One: 1",
    "X-One: \0",
    "X-One: \u{1}",
    "X-One: \u{7f}",
    "X-One: 1\rX-Two: 2",
    "X-One: 1\nX-Two: 2",
    "(X): 1",
    "X-One: 1\r",
    "Content-Length: 1\r\nContent-Length: 1",
    "Content-Length: 1, 1",
    "Content-Length: +1",
    "Content-Length: -1",
    "Content-Length: 0x1",
    "Content-Length:",
    "Content-Length: 1 1",
    "Content-Length: 18446744073709551615",
    "Content-Length: 9999999999999999999999",
    "Content-Length : 1",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity",
    "Transfer-Encoding:",
    "Transfer-Encoding: chunked;x=y",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 1",
    "Content-Length: 1\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding\t: chunked",
];

async fn lab() -> (Upstream, Lab) {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .direct()
        .start()
        .await;
    (upstream, lab)
}

/// Everything that is said on a connection, until it is closed.
async fn told(lab: &Lab, bytes: &[u8]) -> String {
    let mut stream = lab.anonymous().raw().await.unwrap();
    let mut answer = Vec::new();
    let exchange = async {
        // The other side may have heard enough before all is sent.
        drop(stream.write_all(bytes).await);
        drop(stream.flush().await);
        drop(stream.read_to_end(&mut answer).await);
    };
    within(PATIENCE, "the end of the connection", exchange).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The reference of an error that has all that errors have, in text as it came.
#[track_caller]
fn assert_problem(answer: &str, status: u16) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let head = head.to_ascii_lowercase();
    for field in [
        "docker-distribution-api-version: registry/2.0",
        "content-type: application/json; charset=utf-8",
        "connection: close",
        &format!("content-length: {}", body.len()),
    ] {
        assert!(head.lines().any(|line| line == field), "{field}: {answer}");
    }
    let body: serde_json::Value = serde_json::from_str(body).expect(answer);
    let message = body["errors"][0]["message"].as_str().unwrap();
    let (_, reference) = message.rsplit_once("[ref ").expect(answer);
    let reference = reference.trim_end_matches(']').to_owned();
    let header = format!("x-portcullis-ref: {}", reference.to_ascii_lowercase());
    assert!(head.lines().any(|line| line == header), "{answer}");
    reference
}

/// One record with this reference, and what it says.
async fn assert_recorded(lab: &Lab, reference: &str, status: u16) -> serde_json::Value {
    let is_it = |record: &serde_json::Value| record["ref"] == reference;
    let record = lab.audit().find("its record", is_it).await;
    let all = lab.audit().records();
    assert_eq!(all.into_iter().filter(is_it).count(), 1, "{reference}");
    assert_eq!(record["outcome"], "denied", "{record:#}");
    assert_eq!(record["status"], status, "{record:#}");
    assert_eq!(record["client"], "127.0.0.1", "{record:#}");
    record
}

#[tokio::test]
async fn every_bad_head_has_an_answer_with_a_body_and_a_record() {
    let (upstream, lab) = lab().await;
    let host = format!("Host: {}\r\n", lab.authority());
    let line = |line: &str| format!("{line}\r\n{host}\r\n").into_bytes();
    let field = |field: &str| format!("GET /v2/ HTTP/1.1\r\n{host}{field}\r\n\r\n").into_bytes();
    let lines = BAD_LINES.iter().map(|bad| (line(bad), 400));
    let versions = ["HTTP/0.9", "HTTP/1.2", "HTTP/1.10", "HTTP/2.0", "HTTP/3"];
    let versions = versions.map(|bad| (line(&format!("GET /v2/ {bad}")), 505));
    let fields = BAD_FIELDS.iter().map(|bad| (field(bad), 400));
    let mut cases: Vec<_> = lines.chain(versions).chain(fields).collect();
    cases.push((line("CONNECT localhost:443 HTTP/1.1"), 405));
    cases.push((b"\r\n".repeat(20_000), 400));
    cases.push((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505));
    let old = format!("POST /v2/ HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n");
    cases.push((old.into_bytes(), 400));
    cases.push((
        field("")
            .iter()
            .filter(|byte| **byte != b'\r')
            .copied()
            .collect(),
        400,
    ));
    cases.push((
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        400,
    ));
    cases.push((line(&format!("GET /{} HTTP/1.1", "a".repeat(40_000))), 414));
    cases.push((field(&format!("X-One: {}", "a".repeat(40_000))), 431));
    cases.push((field(&format!("X-One: {}", "a".repeat(1_000_000))), 431));
    cases.push((field(&vec!["X-One: 1"; 200].join("\r\n")), 431));
    cases.push((
        field(&vec![format!("X: {}", "a".repeat(800)); 50].join("\r\n")),
        431,
    ));
    for (bytes, status) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        // Nothing after it is ever taken for a request.
        let smuggled = line("GET /v2/public/app/tags/list HTTP/1.1");
        let answer = told(&lab, &[bytes, smuggled].concat()).await;
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{shown:?}: {answer}"
        );
        let reference = assert_problem(&answer, status);
        let record = assert_recorded(&lab, &reference, status).await;
        assert!(record["tls"].as_str().unwrap().starts_with("TLSv1."));
        assert!(upstream.take().is_empty(), "{shown:?} arrived");
    }
}

#[tokio::test]
async fn what_was_good_before_a_bad_head_is_answered_before_it() {
    let (upstream, lab) = lab().await;
    let good = format!(
        "GET /v2/public/app/tags/list HTTP/1.1\r\nHost: {}\r\n\r\n",
        lab.authority()
    );
    let bad = "HEAD /v2/ HTTP/1.1\r\nX-One : 1\r\n\r\n";
    let answer = told(&lab, format!("{good}{good}{bad}{good}").as_bytes()).await;
    let answers: Vec<_> = answer.split("HTTP/1.1 ").skip(1).collect();
    let statuses: Vec<_> = answers.iter().map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answer}");
    assert_eq!(upstream.take().len(), 2);
    // The answer to HEAD has no body, and a record as all others have.
    assert!(answers[2].ends_with("\r\n\r\n"), "{answer}");
    let is_it = |record: &serde_json::Value| record["status"] == 400;
    let record = lab.audit().find("the record of the bad head", is_it).await;
    assert_eq!(record["method"], "HEAD", "{record:#}");
}

/// Go clients show neither what an answer to HEAD says nor its status if it has two lengths, or bytes
/// behind it.
#[track_caller]
fn assert_head_only(answer: &str, status: u16) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(answer.matches("\r\n\r\n").count(), 1, "{answer}");
    let answer = answer.to_ascii_lowercase();
    assert_eq!(
        answer.matches("\r\ncontent-length: ").count(),
        1,
        "{answer}"
    );
    assert!(answer.contains("\r\nx-portcullis-ref: "), "{answer}");
}

#[tokio::test]
async fn an_answer_to_head_has_one_length_and_no_body_whatever_is_wrong() {
    let (upstream, lab) = lab().await;
    let host = format!("Host: {}\r\n", lab.authority());
    let mut cases = Vec::new();
    for line in BAD_LINES
        .iter()
        .filter_map(|line| line.strip_prefix("GET "))
    {
        cases.push((format!("HEAD {line}\r\n{host}\r\n"), 400));
    }
    for version in ["HTTP/0.9", "HTTP/1.7", "HTTP/2.0"] {
        cases.push((format!("HEAD /v2/ {version}\r\n{host}\r\n"), 505));
    }
    for field in BAD_FIELDS {
        cases.push((format!("HEAD /v2/ HTTP/1.1\r\n{host}{field}\r\n\r\n"), 400));
    }
    let many = "X-One: 1\r\n".repeat(200);
    cases.push((format!("HEAD /v2/ HTTP/1.1\r\n{host}{many}\r\n"), 431));
    let long = "a".repeat(40_000);
    cases.push((format!("HEAD /v2/{long} HTTP/1.1\r\n{host}\r\n"), 414));
    cases.push((
        format!("\r\n\r\nHEAD /v2/{long} HTTP/1.1\r\n{host}\r\n"),
        414,
    ));
    for (bytes, status) in &cases {
        assert_head_only(&told(&lab, bytes.as_bytes()).await, *status);
    }
    // A head that comes byte by byte, and is bad in its first line.
    let mut stream = lab.anonymous().raw().await.unwrap();
    for byte in b"HEAD /v2/ HTTP/1.7\r\n" {
        drop(stream.write_all(&[*byte]).await);
        drop(stream.flush().await);
    }
    let mut answer = String::new();
    drop(within(PATIENCE, "the end", stream.read_to_string(&mut answer)).await);
    assert_head_only(&answer, 505);
    // On the way to a port that speaks TLS.
    let longer = format!("HEAD /v2/{} HTTP/1.1\r\n\r\n", "a".repeat(5000));
    for plain in ["HEAD /v2/ HTTP/1.1\r\n\r\n", "HEAD /v2/", &longer] {
        let mut stream = TcpStream::connect(lab.address).await.unwrap();
        stream.write_all(plain.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(PATIENCE, "the end", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        assert_head_only(&answer, 400);
    }
    // Of another method whose name begins so there is a body.
    let other = told(&lab, b"HEADER /v2/ HTTP/1.7\r\n\r\n").await;
    assert_problem(&other, 505);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_head_in_pieces_is_the_same_head() {
    let (upstream, lab) = lab().await;
    let mut stream = lab.anonymous().raw().await.unwrap();
    let request = format!(
        "GET /v2/public/app/tags/list HTTP/1.1\r\nHost: {}\r\nX-One: 1\r\n\r\n",
        lab.authority()
    );
    for turn in 1..=3 {
        for byte in request.as_bytes() {
            stream.write_all(&[*byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
        while !answer.ends_with(b"{}") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert_eq!(upstream.seen().len(), turn);
    }
}

#[tokio::test]
async fn a_head_that_is_late_is_told_so() {
    let builder = Lab::builder().server("header_timeout = \"1s\"");
    let lab = builder.start().await;
    let answer = told(&lab, b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
    let reference = assert_problem(&answer, 408);
    let record = assert_recorded(&lab, &reference, 408).await;
    assert_eq!(record["method"], "GET", "{record:#}");
    // Whoever says nothing is told nothing.
    assert_eq!(told(&lab, b"").await, "");
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let (_upstream, lab) = lab().await;
    let body = "x".repeat(100_000);
    for request in [
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        format!("POST /v2/ HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{body}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut stream = TcpStream::connect(lab.address).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut answer = String::new();
        let exchange = async {
            drop(write.write_all(request.as_bytes()).await);
            read.read_to_string(&mut answer).await.unwrap();
        };
        within(PATIENCE, "the end of the connection", exchange).await;
        assert!(answer.contains("https://"), "{answer}");
        let reference = assert_problem(&answer, 400);
        let record = assert_recorded(&lab, &reference, 400).await;
        assert!(record["tls"].is_null(), "{record:#}");
    }
}

#[tokio::test]
async fn heads_too_large_for_http2_are_answered_too() {
    let (upstream, lab) = lab().await;
    let client = lab.anonymous().over(Http::Two);
    let path = "/v2/public/app/tags/list";
    let mut many = client.get(path);
    for number in 0..150 {
        many = many.header(&format!("x-{number}"), "1");
    }
    let mut large = client.get(path);
    for number in 0..10 {
        large = large.header(&format!("x-{number}"), "a".repeat(4000));
    }
    for call in [many, large] {
        let answer = call.send().await;
        answer.assert_problem(431, "SIZE_INVALID");
        assert_recorded(&lab, &answer.reference(), 431).await;
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(client.get(path).send().await.status, 200);
}

/// The accept loop waits for descriptors without spinning, and goes on when there are some.
#[tokio::test]
async fn used_up_descriptors_are_waited_for() {
    let (_upstream, lab) = lab().await;
    let pid = Pid::from_raw(lab.process.id().try_into().unwrap());
    let folder = format!("/proc/{}/fd", lab.process.id());
    let used = || std::fs::read_dir(&folder).unwrap().count() as u64;
    let limit = used() + 10;
    let few = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(pid, Resource::Nofile, few).unwrap();
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(lab.address).await.unwrap());
    }
    let warning = "cannot accept connections";
    eventually("the warning", || {
        lab.process.log().contains(warning).then_some(())
    })
    .await;
    drop(held);
    let path = "/v2/public/app/tags/list";
    assert_eq!(lab.anonymous().get(path).send().await.status, 200);
    assert_eq!(lab.process.log().matches(warning).count(), 1);
}

/// Nobody moves a tag between the question of one who may only create it and his manifest.
#[tokio::test]
async fn who_may_move_a_tag_waits_for_who_creates_it() {
    let upstream = Upstream::start(|seen| match seen.method() {
        "HEAD" => Reply::Say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ if seen.body == b"{\"created\":1}" => Reply::Hang,
        _ => Reply::status("201 Created", ""),
    })
    .await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys("response_timeout = \"2s\"\ncommit_timeout = \"2s\"")
        .start()
        .await;
    let put = |user: &str, body: &'static str| {
        let call = lab.user(user).put("/v2/team-a/app/manifests/v1");
        call.header("content-type", MANIFEST).body(body).send()
    };
    let creating = tokio::spawn(put("robo", "{\"created\":1}"));
    let asked = upstream.request(0).await;
    assert_eq!(asked.method(), "HEAD");
    let created = upstream.request(1).await;
    assert_eq!(created.method(), "PUT");
    let moving = tokio::spawn(put("alice", "{\"moved\":1}"));
    let answer = creating.await.unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    let answer = moving.await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    let seen = upstream.take();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!(seen[2].body, b"{\"moved\":1}");
}
