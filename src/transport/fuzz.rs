//! Fuzz targets: framing, and who a connection is for.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Collected, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::forwarded;
use super::framing::Framing;
use super::proxy_protocol::{self, Header};
use super::strict::Strict;
use crate::fuzz::{Pieces, lines, now};

/// A request as hyper has read it: its method, its target, and its body if that was whole.
type Read = (Method, Uri, Option<Bytes>);

/// A stream of requests: the verdict does not depend on where packets end, and what hyper takes for
/// a body is what stands between the heads as we count.
pub(crate) fn framing(bytes: &[u8]) {
    let (size, stream) = bytes.split_first().unwrap_or((&0, &[]));
    let size = usize::from(*size).saturating_add(1);
    let (mut whole, mut pieces) = (Framing::default(), Framing::default());
    let verdict = whole.feed(stream);
    let by_pieces = stream
        .chunks(size)
        .all(|piece| pieces.feed(piece).fault.is_none());
    assert_eq!(verdict.fault.is_none(), by_pieces);
    if by_pieces {
        assert_eq!(verdict.fine, stream.len());
        assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
    } else {
        assert!(verdict.fine < stream.len());
    }
    let bodies = bodies(stream);
    let (one, other) = (served(stream, usize::MAX), served(stream, size));
    for read in [&one, &other] {
        assert!(read.len() <= bodies.len().saturating_add(1));
        for (request, body) in read.iter().zip(&bodies) {
            assert!(
                request.2.is_none() || request.2.as_deref() == Some(body),
                "{request:?}"
            );
        }
    }
    // What is read later may be cut off by the end of the stream.
    let whole = |read: &Read| read.2.is_some();
    for (one, other) in one
        .iter()
        .zip(&other)
        .take_while(|(a, b)| whole(a) && whole(b))
    {
        assert_eq!(one, other);
    }
}

/// The bodies of the requests that end, as counted byte by byte.
fn bodies(stream: &[u8]) -> Vec<Vec<u8>> {
    let (mut framing, mut bodies, mut body) = (Framing::default(), Vec::new(), Vec::new());
    for byte in stream.chunks(1) {
        let (was_data, was_message) = (framing.in_data(), framing.in_message());
        if framing.feed(byte).fault.is_some() {
            break;
        }
        if was_data {
            body.extend_from_slice(byte);
        }
        if was_message && !framing.in_message() {
            bodies.push(std::mem::take(&mut body));
        }
    }
    bodies
}

/// What hyper makes of the stream behind our own watch.
fn served(stream: &[u8], size: usize) -> Vec<Read> {
    let read = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let read = Arc::clone(&read);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.ok().map(Collected::to_bytes);
            let mut read = read.lock();
            read.push((head.method, head.uri, body));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let strict = Strict::new(Pieces::new(stream, size), Duration::MAX);
    let watch = strict.watch();
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(strict), service);
    // How it ends is hyper's to say; behind what is no request it never does.
    now(poll_fn(|cx| {
        if Pin::new(&mut connection).poll(cx).is_ready() || watch.is_stuck() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }));
    let mut read = read.lock();
    std::mem::take(&mut *read)
}

/// A header of the PROXY protocol and what follows: no byte too many is read, and the same header
/// says the same before anything else.
pub(crate) fn proxy_protocol(bytes: &[u8]) {
    let of = |bytes: &[u8], size: usize| {
        let mut stream = Pieces::new(bytes, size);
        let header = now(proxy_protocol::read(&mut stream)).ok();
        (header, bytes.len().saturating_sub(stream.rest().len()))
    };
    let (header, length) = of(bytes, usize::MAX);
    assert_eq!(of(bytes, 1), (header, length));
    assert!(length <= 16 + 4096);
    let Some(header @ (Header::Client(_) | Header::Own)) = header else {
        return;
    };
    let read = bytes.get(..length).unwrap_or_default();
    for tail in [&b""[..], b"\x16\x03\x01", b"PROXY ", b"\r\n"] {
        let followed = [read, tail].concat();
        assert_eq!(of(&followed, 7), (Some(header), length));
    }
    for cut in 0..length {
        let part = of(read.get(..cut).unwrap_or_default(), usize::MAX).0;
        assert!(
            matches!(part, None | Some(Header::None)),
            "{cut} of {length}"
        );
    }
    if let (Header::Client(IpAddr::V4(v4)), Some(b'P')) = (header, read.first()) {
        let text = String::from_utf8_lossy(read).into_owned();
        let mapped = text.contains("TCP6");
        assert!(
            mapped || text.starts_with(&format!("PROXY TCP4 {v4} ")),
            "{text:?}"
        );
    }
}

/// The peer, then lines of `X-Forwarded-For`: only trusted proxies are believed, and only about the
/// one before them.
pub(crate) fn forwarded(bytes: &[u8]) {
    let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"]
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect();
    let mut parts = lines(bytes);
    let peer = parts.next().and_then(|line| std::str::from_utf8(line).ok());
    let Some(peer) = peer.and_then(|line| line.parse::<IpAddr>().ok()) else {
        return;
    };
    let peer = peer.to_canonical();
    let values: Vec<_> = parts
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let headers = |values: &[HeaderValue]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.clone());
        }
        headers
    };
    let client = forwarded::client(peer, &headers(&values), &trusted);
    let is_trusted = |address| forwarded::is_trusted(address, &trusted);
    assert!(is_trusted(peer) || client == peer);
    assert_eq!(client, client.to_canonical());
    if is_trusted(client) {
        return;
    }
    // Whatever a client writes in front of what its proxy has written changes nothing.
    let mut longer = values;
    for junk in ["10.1.2.3", "192.0.2.7", "\u{7f}", ",,", "unknown"] {
        if let Ok(junk) = HeaderValue::from_str(junk) {
            longer.insert(0, junk);
        }
    }
    assert_eq!(forwarded::client(peer, &headers(&longer), &trusted), client);
}
