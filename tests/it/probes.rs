//! Probes of load balancers, and what strangers can write into the log.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http::{Client, Http};
use crate::support::lab::Lab;
use crate::support::{PATIENCE, within};

/// Sends bytes, and reads until the end of the connection.
async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    bytes: &[u8],
) -> String {
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream.read_to_end(&mut answer).await);
    };
    within(PATIENCE, "the end of the connection", talk).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Warnings in the log.
fn warnings(lab: &Lab) -> usize {
    let log = lab.process.log();
    log.lines().filter(|line| line.contains("WARN")).count()
}

/// Sends one head over TLS.
async fn asked(client: &Client, head: &str) -> String {
    exchange(client.raw().await.unwrap(), head.as_bytes()).await
}

#[tokio::test]
async fn a_probe_leaves_no_record_and_any_other_request_does() {
    let public = "public_url = \"https://registry.example.com\"";
    let lab = Lab::builder().server(public).start().await;
    let client = lab.anonymous().over(Http::One);
    let before = lab.audit().after(0, 1).await.len();
    let warned = warnings(&lab);
    for (head, status) in [
        ("OPTIONS / HTTP/1.0\r\n\r\n", "404"),
        ("GET / HTTP/1.0\r\n\r\n", "404"),
        ("HEAD / HTTP/1.0\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        // A probe names the address.
        (
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            "421",
        ),
        (
            "GET / HTTP/1.1\r\nHost: registry.example.com\r\nConnection: close\r\n\r\n",
            "404",
        ),
    ] {
        for _ in 0..3 {
            let answer = asked(&client, head).await;
            let line = answer.lines().next().unwrap_or_default();
            assert!(line.contains(&format!(" {status} ")), "{head}: {answer}");
        }
    }
    let plain = TcpStream::connect(lab.address).await.unwrap();
    let answer = exchange(plain, b"OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains("https://"), "{answer}");
    drop(TcpStream::connect(lab.address).await.unwrap());
    drop(client.raw().await.unwrap());

    // What is no probe is on record, and it is the next one.
    let head = "GET /v2/ HTTP/1.0\r\n\r\n";
    assert!(asked(&client, head).await.contains(" 400 "));
    let records = lab.audit().after(before, 1).await;
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["status"], 400);
    let password = client.basic("alice", "wrong").get("/").send().await;
    assert_eq!(password.status, 421);
    let records = lab.audit().after(before, 2).await;
    assert_eq!(records[1]["status"], 421);
    assert_eq!(warnings(&lab), warned, "{}", lab.process.log());
}

/// A `ClientHello` whose only extension is a server name (RFC 6066 section 3).
fn hello(server_name: &str) -> Vec<u8> {
    let sized = |content: Vec<u8>| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [length.to_vec(), content].concat()
    };
    let name = [vec![0], sized(server_name.as_bytes().to_vec())].concat();
    let extension = [vec![0, 0], sized(sized(name))].concat();
    let body = [
        vec![3, 3],
        vec![7; 32],
        vec![0],
        sized(vec![0xc0, 0x2b, 0xc0, 0x2f]),
        vec![1, 0],
        sized(extension),
    ]
    .concat();
    let message = [vec![1, 0], sized(body)].concat();
    [vec![22, 3, 1], sized(message)].concat()
}

/// Whatever is sent before anybody has logged in, and with wrong passwords: the log warns of nothing,
/// or once in a while.
#[tokio::test]
async fn strangers_cannot_fill_the_log_with_warnings() {
    let more = "[limits]\nfailed_logins = { count = 2, per = \"5m\" }\n";
    let lab = Lab::builder().more(more).start().await;
    let warned = warnings(&lab);
    for name in ["192.0.2.1", "2001:db8::1", "a b", "-", "\u{1}"] {
        let stream = TcpStream::connect(lab.address).await.unwrap();
        exchange(stream, &hello(name)).await;
    }
    // A PING that answers none, as HTTP/2 frames go (RFC 9113 section 6.7).
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    preface.extend(b"\0\0\x08\x06\x01\0\0\0\0abcdefgh");
    preface.extend(b"\0\0\x01\x06\0\0\0\0\0x");
    let stream = lab.anonymous().over(Http::Two).raw().await.unwrap();
    exchange(stream, &preface).await;
    assert_eq!(warnings(&lab), warned, "{}", lab.process.log());
    for user in ["alice", "bob", "mallory", "trent"] {
        for password in ["a", "b", "c"] {
            let client = lab.anonymous().basic(user, password);
            assert!(client.get("/v2/").send().await.status >= 401);
        }
    }
    assert_eq!(warnings(&lab), warned + 1, "{}", lab.process.log());
    let is_lockout = |record: &serde_json::Value| record["event"] == "lockout";
    let records = lab.audit().records();
    assert_eq!(records.into_iter().filter(is_lockout).count(), 4);
}
