use super::{BadHead, Framing, MAX_HEAD, MAX_HEADERS, State};
use crate::transport::strict::Strict;
use http_body_util::Empty;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn feed(text: &str) -> Result<State, BadHead> {
    let mut framing = Framing::default();
    framing
        .feed(text.as_bytes())
        .fault
        .map_or(Ok(framing.state), Err)
}

#[test]
fn well_framed_requests_end_where_the_next_begins() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(feed(text), Ok(State::Head { first: true }), "{text:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for head in [
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length:",
        "Content-Length: 3 3",
        "Content-Length: 99999999999999999999",
        "Content-Length: 18446744073709551615",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \x0bchunked",
        "no colon",
        "A : b",
        " A: b",
        ": b",
        "A b: c",
        "(A): b",
        "A: b\nC: d",
        "A: b\rC: d",
        "A: b\0",
        "A: \x7f",
        "A: b\r\n folded",
    ] {
        assert!(
            feed(&format!("PUT / HTTP/1.1\r\n{head}\r\n\r\n")).is_err(),
            "{head:?}"
        );
    }
    for body in [
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n",
        "\r\n",
        "0x3\r\nabc",
        "+3\r\nabc",
        "3 \r\nabc",
        "fffffffffffffffff\r\n",
        "3;\nabc",
        "3;\x01\r\nabc",
        "3\r\r\nabc",
        "g\r\n",
        "0\r\nTrailer: x\n\r\n",
        "0\r\nTrailer : x\r\n\r\n",
    ] {
        let text = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert!(feed(&text).is_err(), "{body:?}");
    }
    assert!(feed("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    assert!(feed("GET / HTTP/1.1\n\n").is_err());
}

#[test]
fn extensions_of_a_chunk_keep_to_the_grammar() {
    let fed = |extensions: &str| {
        let body = format!("3{extensions}\r\nabc\r\n0{extensions}\r\n\r\n");
        feed(&format!(
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ))
    };
    for good in [
        "",
        ";a",
        ";a=b",
        ";a;b=c;d",
        " ; a = b",
        "\t;\ta\t=\tb",
        ";a=\"\"",
        ";a=\"b;c=\\\"d\\\\\";e",
        ";a=\"\u{e9}\t,\"",
    ] {
        assert_eq!(fed(good), Ok(State::Head { first: true }), "{good:?}");
    }
    for bad in [
        ";",
        ";;",
        ";a;",
        "; ",
        " ",
        ";a ",
        ";=",
        ";=b",
        ";a=",
        ";a= ",
        ";a==b",
        ";a=b c",
        ";a b",
        ";a,b",
        ";a=b/c",
        ";a=(b)",
        ";a=b\"c\"",
        ";a=\"b",
        ";a=\"b\\\"",
        ";a=\"b\"c",
        ";a=\"b\" ",
        ";a=\"\u{1}\"",
        ";a=\"\r\"",
        ";a=\"\n\"",
        ";a\rb",
        ";a\r",
        ";a\n",
        ";\u{e9}",
        ";a=\u{e9}",
        ";a\u{b}",
        ":a",
    ] {
        assert!(fed(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn what_is_no_text_is_not_waited_for() {
    for junk in ["\x16\x03\x01", "\0", "\u{fffd}", "GET / \x7f", "GET\t"] {
        assert!(feed(junk).is_err(), "{junk:?}");
    }
    assert!(feed("GET /v2/ HTTP/1.1\r").is_ok());
}

#[test]
fn a_request_line_is_a_method_a_path_and_a_version() {
    for line in [
        "",
        "GET",
        "GET /",
        "GET / ",
        " GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / x HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/",
        "GET / FTP/1.1",
        "GET v2/ HTTP/1.1",
        "GET https://a/v2/ HTTP/1.1",
        "GET a:443 HTTP/1.1",
        "GET /v2/#x HTTP/1.1",
        "GET /v2/\u{e9} HTTP/1.1",
        "GET /v2/` HTTP/1.1",
        "GET /?< HTTP/1.1",
    ] {
        let fault = feed(&format!("{line} \r\n"));
        assert!(matches!(fault, Err(BadHead::Framing(_))), "{line:?}");
    }
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3", "HTTP/1.10"] {
        let fault = feed(&format!("GET / {version}\r\n"));
        assert_eq!(fault, Err(BadHead::Version), "{version}");
    }
    let fault = feed("CONNECT a:443 HTTP/1.1\r\n");
    assert_eq!(fault, Err(BadHead::Connect));
}

#[test]
fn heads_have_a_size() {
    let line = |length| format!("GET /{} HTTP/1.1\r\n", "a".repeat(length));
    assert!(feed(&line(MAX_HEAD - 100)).is_ok());
    assert_eq!(feed(&line(MAX_HEAD)), Err(BadHead::TargetTooLong));
    assert!(feed(&"\r\n".repeat(3)).is_ok());
    assert!(feed(&"\r\n".repeat(100)).is_err());
    let field = format!("{}A: {}\r\n", line(1), "a".repeat(MAX_HEAD));
    assert_eq!(feed(&field), Err(BadHead::TooLarge));
    let fields = |count| format!("{}{}\r\n", line(1), "A: b\r\n".repeat(count));
    assert!(feed(&fields(MAX_HEADERS)).is_ok());
    assert_eq!(feed(&fields(MAX_HEADERS + 1)), Err(BadHead::TooLarge));
}

/// What a user of the stream reads, when the client sends these parts, and whether it got stuck.
async fn read(parts: &[&[u8]], room: usize) -> (Vec<u8>, bool) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let mut strict = Strict::new(server, Duration::from_mins(1));
    let watch = strict.watch();
    let mut seen = Vec::new();
    let mut buffer = vec![0; room];
    for part in parts {
        client.write_all(part).await.unwrap();
        // Until it waits for more.
        while let Some(Ok(read @ 1..)) = at_once(strict.read(&mut buffer)).await {
            seen.extend_from_slice(&buffer[..read]);
        }
    }
    (seen, watch.is_stuck())
}

/// What a future has to say without waiting.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = tokio::task::unconstrained(future) => Some(output),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_head_is_handed_over_when_it_is_whole_and_good() {
    let good = b"\r\nPUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nA: b\r\n\r\n";
    for at in 0..good.len() {
        for room in [1, 7, 4096] {
            let (first, second) = good.split_at(at);
            let (seen, stuck) = read(&[first, second], room).await;
            assert!(seen == good && !stuck, "{at} {room} {seen:?}");
        }
    }
    let bytes: Vec<_> = good.chunks(1).collect();
    assert_eq!(read(&bytes, 5).await.0, good);
    let mut bad = b"GET /1 HTTP/1.1\r\nA: b\r\n\r\n".to_vec();
    let whole = bad.len();
    bad.extend_from_slice(b"GET /2 HTTP/1.1\r\nB: c\r\nB : c\r\n\r\nGET /3 HTTP/1.1\r\n\r\n");
    for at in 0..bad.len() {
        let (first, second) = bad.split_at(at);
        let (seen, stuck) = read(&[first, second], 9).await;
        assert!(seen == bad[..whole] && stuck, "{at} {seen:?}");
    }
}

/// Whether hyper makes requests of all of it, as it is configured for connections.
async fn hyper_takes(text: &[u8]) -> bool {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(text).await.unwrap();
    client.shutdown().await.unwrap();
    let service = service_fn(|_request| async {
        Ok::<_, Infallible>(hyper::Response::new(Empty::<bytes::Bytes>::new()))
    });
    let ended = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(server), service)
        .await;
    !ended.is_err_and(|error| error.is_parse())
}

#[tokio::test]
async fn the_largest_heads_are_good_for_hyper_too() {
    let line = "GET / HTTP/1.1\r\n";
    let many = format!("{line}{}\r\n", "A: b\r\n".repeat(MAX_HEADERS));
    let rest = MAX_HEAD - line.len() - "A: \r\n\r\n".len();
    let large = format!("{line}A: {}\r\n\r\n", "a".repeat(rest));
    assert_eq!(large.len(), MAX_HEAD);
    for head in [many, large] {
        assert!(feed(&head).is_ok());
        assert!(hyper_takes(head.as_bytes()).await);
    }
}

proptest! {
    /// Packets do not matter: byte by byte the verdict is the same.
    #[test]
    fn the_verdict_does_not_depend_on_where_reads_end(
        text in "(GET|PUT) / HTTP/1.1\r?\n((Content-Length: [0-4]|Transfer-Encoding: chunked|A: b)\r?\n){0,2}\r\n(([0-3]\r\n)?[a-c\r\n]{0,5}){0,3}"
    ) {
        let mut framing = Framing::default();
        let bytewise = text.as_bytes().iter().find_map(|byte| framing.feed(&[*byte]).fault);
        let whole = feed(&text);
        prop_assert_eq!(bytewise.is_some(), whole.is_err());
        if let Ok(state) = whole {
            prop_assert_eq!(framing.state, state);
        }
    }

    /// Otherwise hyper would answer, without a body and a record.
    #[test]
    fn what_is_good_is_good_for_hyper_too(
        method in "[!-~]{1,4}|GET|PUT", target in "/[!-~]{0,6}|/v2/(\\?[!-~]{0,4})?|[!-~]{1,5}|\\*",
        version in "HTTP/1\\.[01]", name in "[!-~]{1,4}|content-length|transfer-encoding|expect|upgrade|host",
        value in "([\t -~\u{80}-\u{ff}]{0,8}|chunked|[0-9]{1,20})", again in any::<bool>(),
    ) {
        let line = format!("{name}:{value}\r\n");
        let lines = if again { line.repeat(2) } else { line };
        let text = format!("{method} {target} {version}\r\n{lines}\r\n");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if feed(&text).is_ok() {
            prop_assert!(runtime.block_on(hyper_takes(text.as_bytes())), "{text:?}");
        }
    }
}
