//! HTTP/2 frames as no client sends them: malformed requests never arrive, floods end their own
//! connection and nothing else.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::http::basic;
use crate::support::{Http, Lab, PATIENCE, Upstream, password, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The stream of a request that is as it should be, after everything else.
const GOOD: u32 = 1001;

type Field<'a> = (&'a str, &'a str);

async fn lab() -> (Upstream, Lab) {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .direct()
        .start()
        .await;
    (upstream, lab)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// A header block without indexing or compression.
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                out.push(u8::try_from(length).unwrap());
            } else {
                out.push(127);
                length -= 127;
                while length >= 128 {
                    out.push(u8::try_from(length % 128 + 128).unwrap());
                    length /= 128;
                }
                out.push(u8::try_from(length).unwrap());
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

fn request(stream: u32, fields: &[Field<'_>]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
}

/// The frames that come back for these, as kind, stream and payload, until what becomes of the
/// good request is known or the connection ends.
async fn exchange(lab: &Lab, attack: &[u8], good: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    exchange_until(&[GOOD], lab, attack, good).await
}

/// The same until it is known of each of these streams.
async fn exchange_until(
    streams: &[u32],
    lab: &Lab,
    attack: &[u8],
    good: &[u8],
) -> Vec<(u8, u32, Vec<u8>)> {
    let mut awaited = streams.to_vec();
    let stream = lab.anonymous().over(Http::Two).raw().await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = [PREFACE, attack, good].concat();
    let sending = tokio::spawn(async move {
        // The other side may have had enough before all is sent.
        drop(write.write_all(&sent).await);
        drop(write.flush().await);
        write
    });
    let mut seen = Vec::new();
    let reading = async {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            seen.push((head[3], stream, payload));
            if [HEADERS, RST_STREAM].contains(&head[3]) {
                awaited.retain(|awaited| *awaited != stream);
            }
            if awaited.is_empty() || head[3] == GOAWAY {
                break;
            }
        }
    };
    within(PATIENCE, "an answer or the end", reading).await;
    drop(sending.await);
    seen
}

#[tokio::test]
async fn malformed_requests_never_arrive() {
    let (upstream, lab) = lab().await;
    let (authority, ada) = (lab.authority(), basic("ada", &password("ada")));
    let path = "/v2/team-a/app/tags/list";
    let usual: Vec<Field<'_>> = vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":path", path),
        (":authority", &authority),
        ("authorization", &ada),
    ];
    let mut cases: Vec<Vec<Field<'_>>> = Vec::new();
    for more in [
        ("X-Upper", "1"),
        ("connection", "close"),
        ("connection", "authorization"),
        ("keep-alive", "1"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("x-one", "a\r\nx-two: b"),
        ("x-one", "a\nb"),
        ("x-one", "a\rb"),
        ("x-one", "a\0b"),
        ("x-one", " a"),
        ("x-one", "a "),
        ("x-one", "\ta"),
        ("x one", "1"),
        ("x\"one", "1"),
        ("x:one", "1"),
        ("x\r\none", "1"),
        ("", "1"),
        ("content-length", "5"),
        ("content-length", "x"),
        ("content-length", "-1"),
        ("host", "evil.example"),
        ("authorization", "Basic eDp5"),
        (":path", "/v2/"),
        (":method", "DELETE"),
        (":authority", "evil.example"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":unknown", "1"),
    ] {
        let mut fields = usual.clone();
        fields.push(more);
        cases.push(fields);
    }
    for without in [":method", ":scheme", ":path", ":authority"] {
        let mut fields = usual.clone();
        fields.retain(|(name, _)| *name != without);
        cases.push(fields);
    }
    for (name, value) in [
        (":method", "CONNECT"),
        (":method", "TRACE"),
        (":method", "G T"),
        (":method", "GET\r\n"),
        (":scheme", "http"),
        (":scheme", "gopher"),
        (":path", ""),
        (":path", "*"),
        (":path", "v2/team-a/app/tags/list"),
        (":path", "https://evil.example/v2/team-a/app/tags/list"),
        (":path", "/v2/team-a/app/tags/list HTTP/1.1\r\nX: y"),
        (":path", "/v2/team-a%2fapp/tags/list"),
        (":path", "/v2/team-a/app/../b/tags/list"),
        (":authority", ""),
        (":authority", "a@evil.example"),
        (":authority", "a\r\nb"),
    ] {
        let mut fields = usual.clone();
        let place = fields.iter().position(|(found, _)| *found == name).unwrap();
        fields[place] = (name, value);
        cases.push(fields);
    }
    let good = request(GOOD, &usual);
    for fields in cases {
        // Which of the two is answered first is a matter of chance.
        let seen = exchange_until(&[1, GOOD], &lab, &request(1, &fields), &good).await;
        let refused = seen.iter().any(|(kind, stream, _)| {
            // An answer is one of those that follow, by their number upstream.
            *kind == GOAWAY || (*stream == 1 && [RST_STREAM, HEADERS].contains(kind))
        });
        assert!(refused, "{fields:?}: {seen:?}");
        let arrived = upstream.take();
        assert!(arrived.len() <= 1, "{fields:?}: {arrived:?}");
        for request in arrived {
            assert_eq!(request.target(), path, "{fields:?}");
            assert!(!request.head.contains("evil"), "{}", request.head);
            let was_good = seen
                .iter()
                .any(|(kind, stream, _)| (*kind, *stream) == (HEADERS, GOOD));
            assert!(was_good, "{fields:?} arrived");
        }
    }
}

#[tokio::test]
async fn host_counts_where_there_is_no_authority() {
    let (upstream, lab) = lab().await;
    let (authority, ada) = (lab.authority(), basic("ada", &password("ada")));
    let mut fields: Vec<Field<'_>> = vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/v2/team-a/app/tags/list"),
        ("host", &authority),
        ("authorization", &ada),
    ];
    for (status, arrives) in [(b"\x88", true), (b"\x8c", false)] {
        let seen = exchange(&lab, b"", &request(GOOD, &fields)).await;
        let answer = seen.iter().find(|(kind, ..)| *kind == HEADERS);
        let (_, _, head) = answer.unwrap_or_else(|| panic!("{seen:?}"));
        // 200 and 400 have a number in the static table (RFC 7541 appendix A).
        assert!(head.starts_with(status), "{head:?}");
        let arrived = upstream.take();
        assert_eq!(arrived.len(), usize::from(arrives));
        for request in arrived {
            assert_eq!(request.values("host"), [&*authority]);
        }
        // Two of them name none.
        fields.push(("host", &authority));
    }
}

#[tokio::test]
async fn floods_end_their_connection_and_nothing_else() {
    let (upstream, lab) = lab().await;
    let authority = lab.authority();
    let fields = |method| {
        [
            (":method", method),
            (":scheme", "https"),
            (":path", "/v2/public/app/tags/list"),
            (":authority", &*authority),
        ]
    };
    let head = block(&fields("GET"));
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &block(&fields("POST")));
    let streams = || (0..2000).map(|number| 1 + 2 * number);
    let resets = streams().flat_map(|stream| {
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [request(stream, &fields("GET")), reset].concat()
    });
    // A window that is opened by nothing has us reset the stream (CVE-2025-8671).
    let made = streams().flat_map(|stream| {
        let nothing = frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
        [open(stream), nothing].concat()
    });
    let begun = frame(HEADERS, END_STREAM, 1, &head);
    let long = block(&[("x-one", &"a".repeat(4000))]).repeat(4);
    // One field of 4000 bytes in the table, named ten thousand times.
    let bomb = [
        &head[..],
        b"\x40\x01x\x7f\xa1\x1e",
        &[b'a'; 4000],
        &[0xbe; 10_000],
    ]
    .concat();
    let repeated = |part: Vec<u8>, times: usize| part.repeat(times);
    let floods = [
        ("rapid reset", resets.collect()),
        ("resets made by us", made.collect()),
        (
            "empty continuations",
            [
                begun.clone(),
                repeated(frame(CONTINUATION, 0, 1, b""), 50_000),
            ]
            .concat(),
        ),
        (
            "long continuations",
            [begun, repeated(frame(CONTINUATION, 0, 1, &long), 1000)].concat(),
        ),
        (
            "empty data",
            [open(1), repeated(frame(DATA, 0, 1, b""), 50_000)].concat(),
        ),
        ("a bomb of headers", frame(HEADERS, 5, 1, &bomb)),
    ];
    let before = lab.process.resident();
    for (what, flood) in floods {
        let good = request(5001, &fields("GET"));
        let seen = exchange(&lab, &flood, &good).await;
        let ended = seen.iter().any(|(kind, _, _)| *kind == GOAWAY);
        assert!(ended, "{what}: {} frames", seen.len());
        let grown = lab.process.resident().saturating_sub(before);
        assert!(grown < 32 << 20, "{what}: {} MiB", grown >> 20);
        let next = lab.user("ada").over(Http::Two).get("/v2/").send().await;
        assert_eq!(next.status, 200, "{what}");
    }
    // Those that must be answered are, and what comes after them as well.
    let usual = fields("GET");
    for (what, part) in [
        ("pings", frame(PING, 0, 0, b"12345678")),
        ("settings", frame(SETTINGS, 0, 0, b"")),
        ("unknown frames", frame(0x63, 0, 0, b"x")),
    ] {
        let seen = exchange(&lab, &part.repeat(5000), &request(GOOD, &usual)).await;
        let answered = seen
            .iter()
            .any(|(kind, stream, _)| (*kind, *stream) == (HEADERS, GOOD));
        let acknowledged = seen
            .iter()
            .filter(|(kind, _, _)| [PING, SETTINGS].contains(kind));
        assert!(
            answered || seen.iter().any(|(kind, ..)| *kind == GOAWAY),
            "{what}"
        );
        assert!(acknowledged.count() <= 5002 + usize::from(ACK), "{what}");
    }
    upstream.take();
}

#[tokio::test]
async fn no_more_than_a_hundred_streams_at_a_time() {
    let (upstream, lab) = lab().await;
    let (authority, ada) = (lab.authority(), basic("ada", &password("ada")));
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/v2/team-a/app/blobs/uploads/"),
        (":authority", &authority),
        ("authorization", &ada),
    ];
    // Bodies that do not end.
    let open = |number: u32| frame(HEADERS, END_HEADERS, 1 + 2 * number, &block(&fields));
    let attack: Vec<u8> = (0..150).flat_map(open).collect();
    let seen = exchange(&lab, &attack, &request(GOOD, &fields)).await;
    let refused = seen.iter().filter(|(kind, stream, code)| {
        *kind == RST_STREAM && *stream > 200 && code[..] == 7_u32.to_be_bytes()
    });
    // The good one is one too many as well, and is told so before it could be answered.
    assert!(refused.count() >= 50, "{seen:?}");
    assert!(upstream.seen().is_empty(), "bodies end first");
}

#[tokio::test]
async fn what_is_no_name_or_value_is_refused_on_record() {
    let (upstream, lab) = lab().await;
    let authority = lab.authority();
    for (name, value, reason) in [
        ("autho\"ization", "Basic eDp5", "a token"),
        ("x-one", " a", "a blank"),
        ("x-one", "a\t", "a blank"),
    ] {
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/v2/public/app/tags/list"),
            (":authority", &*authority),
            (name, value),
        ];
        let from = lab.audit().after(0, 1).await.len();
        let seen = exchange_until(&[1], &lab, &request(1, &fields), b"").await;
        assert!(seen.iter().any(|(kind, ..)| *kind == HEADERS), "{seen:?}");
        let record = lab.audit().after(from, 1).await.remove(0);
        assert_eq!(record["status"], 400);
        let told = record["reason"].as_str().unwrap();
        assert!(told.contains(reason), "{told}");
        assert!(upstream.seen().is_empty());
    }
}

#[tokio::test]
async fn a_head_that_the_engine_refuses_is_on_record() {
    let (upstream, lab) = lab().await;
    let authority = lab.authority();
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/v2/public/app/tags/list"),
        (":authority", &*authority),
    ];
    let value = "a".repeat(16_000);
    let more = |flags| frame(CONTINUATION, flags, 1, &block(&[("x-long", &value)]));
    let begun = frame(HEADERS, END_STREAM, 1, &block(&fields));
    let large = [begun.clone(), more(0).repeat(4), more(END_HEADERS)].concat();
    let endless = [begun, more(0).repeat(20)].concat();
    // 431 for the one, the end of the connection for the other.
    for (attack, answer) in [(large, HEADERS), (endless, GOAWAY)] {
        let from = lab.audit().after(0, 1).await.len();
        let seen = exchange_until(&[1], &lab, &attack, b"").await;
        assert!(seen.iter().any(|(kind, ..)| *kind == answer), "{seen:?}");
        let record = lab.audit().after(from, 1).await.remove(0);
        assert_eq!(record["event"], "request");
        assert_eq!(
            (&record["status"], &record["client"]),
            (&431.into(), &"127.0.0.1".into())
        );
    }
    assert!(upstream.seen().is_empty());
}
