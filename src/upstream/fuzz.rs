//! Fuzz targets: what is passed on to the registry, and what it answers.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::{CONTENT_TYPE, LINK, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use jiff::Timestamp;

use super::{Forward, Pool, Seal, Session, Upstream, hop_by_hop, location, method, passed_on};
use crate::config;
use crate::fuzz::lines;
use crate::registry::Call;

const AUTHORITY: &str = "registry.test";
const REGISTRY: &str = "registry.internal";

/// What never crosses: headers of one connection, credentials, claims of where a request is from.
const NEVER: [&str; 21] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-http-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.take(100) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let name = halves.next().map(HeaderName::from_bytes);
        let value = halves.next().unwrap_or_default().trim_ascii();
        if let (Some(Ok(name)), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fn call(line: Option<&[u8]>) -> Option<(Method, Call)> {
    let text = std::str::from_utf8(line?).ok()?;
    let (method, target) = text.split_once(' ')?;
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let call = Call::parse(&method, path, query).ok()?;
    Some((method, call))
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    let values = headers.get_all(name).iter();
    values.map(HeaderValue::as_bytes).collect()
}

/// `METHOD TARGET`, then headers: what crosses is what the client sent, line for line, without what
/// must not.
pub(crate) fn headers(bytes: &[u8]) {
    let mut lines = lines(bytes);
    let Some((verb, call)) = call(lines.next()) else {
        return;
    };
    // `/v2/` is answered by us.
    assert!(call == Call::Ping || method(&call) == verb);
    let from = fields(lines);
    let mut to = HeaderMap::new();
    passed_on(&from, &call, &mut to);
    for never in NEVER {
        assert!(!to.contains_key(never), "{never}");
    }
    let connection = String::from_utf8_lossy(&values(&from, &http::header::CONNECTION).join(&b','))
        .to_ascii_lowercase();
    let named: Vec<_> = connection.split(',').map(str::trim).collect();
    for name in to.keys() {
        assert!(!name.as_str().contains('_'), "{name}");
        if *name == CONTENT_TYPE {
            continue;
        }
        assert!(!named.contains(&name.as_str()), "{name} of one connection");
        assert_eq!(values(&to, name), values(&from, name));
    }
    if !call.is_read() {
        let types = values(&to, &CONTENT_TYPE);
        assert!(types.len() <= 1);
        for kind in types {
            let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
            let media = kind.split([';', ',']).next().unwrap_or_default().trim();
            assert!(!media.starts_with("multipart/"), "{kind}");
            assert!(media != "application/x-www-form-urlencoded", "{kind}");
        }
    }
    let mut hops = from.clone();
    hop_by_hop(&mut hops);
    for name in [
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        assert!(!hops.contains_key(name), "{name}");
    }
    let kept: Vec<_> = from
        .iter()
        .filter(|(name, _)| hops.contains_key(*name))
        .collect();
    assert!(hops.iter().eq(kept));
    let mut twice = hops.clone();
    hop_by_hop(&mut twice);
    assert_eq!(twice, hops);
}

/// A URL, then a `Link`: what is ours becomes a path on this very host, what is not stays as it is.
pub(crate) fn location(bytes: &[u8]) {
    let mut texts = lines(bytes);
    let url = texts.next().and_then(|line| std::str::from_utf8(line).ok());
    let own = |authority: &str| authority == AUTHORITY;
    if let Some(path) = url.and_then(|url| location::relative(url, own)) {
        is_path(&path);
        assert_eq!(location::relative(&path, own).as_deref(), Some(&*path));
    }
    let mut headers = HeaderMap::new();
    for link in texts.take(8) {
        if let Ok(link) = HeaderValue::from_bytes(link) {
            headers.append(LINK, link);
        }
    }
    let before = headers.clone();
    location::relative_links(&mut headers, own);
    assert_eq!(values(&headers, &LINK).len(), values(&before, &LINK).len());
    let once = headers.clone();
    location::relative_links(&mut headers, own);
    assert_eq!(headers, once);
    for (link, before) in values(&once, &LINK).iter().zip(values(&before, &LINK)) {
        assert!(*link == before || before.windows(3).any(|part| part == b"://"));
    }
}

/// A path on the host that was asked, however it is read: `//host/` would be another one.
fn is_path(path: &str) {
    assert!(path.starts_with('/') && !path.starts_with("//"), "{path:?}");
}

static SEAL: LazyLock<Option<Seal>> = LazyLock::new(|| Seal::new(&[7; 32]));

/// Repository, session, owner, query of the registry: what is sealed opens to the same for the same
/// repository and session; anything else opens to nothing.
pub(crate) fn session(bytes: &[u8]) {
    let Some(seal) = &*SEAL else { return };
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(4, '\n');
    let mut part = || parts.next().unwrap_or_default();
    let (repo, id, owner, query) = (part(), part(), part(), part());
    assert_eq!(seal.open(&text, repo, id), None);
    let session = Session {
        owner: owner.into(),
        begun: Timestamp::UNIX_EPOCH,
        query: query.into(),
    };
    let Some(sealed) = seal.close(&session, repo, id) else {
        return;
    };
    let of_query = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    assert!(sealed.bytes().all(of_query));
    assert_eq!(seal.open(&sealed, repo, id), Some(session));
    assert_eq!(seal.open(&sealed, repo, &format!("{id}x")), None);
    assert_eq!(seal.open(&sealed, &format!("{repo}x"), id), None);
    let mut forged = sealed.clone().into_bytes();
    let at = bytes.len().checked_rem(forged.len()).unwrap_or_default();
    if let Some(byte) = forged.get_mut(at) {
        *byte = if *byte == b'A' { b'B' } else { b'A' };
    }
    let forged = String::from_utf8_lossy(&forged);
    assert!(forged == sealed || seal.open(&forged, repo, id).is_none());
    let cut = sealed.get(..at).unwrap_or_default();
    assert_eq!(seal.open(cut, repo, id), None);
}

static UPSTREAM: LazyLock<Option<Upstream>> = LazyLock::new(|| {
    let config = config::Upstream {
        url: config::UpstreamUrl::Http {
            host: REGISTRY.into(),
            port: 5000,
        },
        login: None,
        ca: None,
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
    };
    Upstream::new(&config, Arc::new(Pool::default()), Seal::new(&[7; 32])?).ok()
});

/// `METHOD TARGET` of the request, the status of the answer, its headers: what of it the client may
/// see.
pub(crate) fn answer(bytes: &[u8]) {
    let (Some(upstream), mut lines) = (&*UPSTREAM, lines(bytes)) else {
        return;
    };
    let Some((_, call)) = call(lines.next()) else {
        return;
    };
    let status = lines
        .next()
        .and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
    let mut response = Response::new(());
    *response.status_mut() = status.unwrap_or_default();
    *response.headers_mut() = fields(lines);
    let (mut head, ()) = response.into_parts();
    let before = head.headers.clone();
    let none = HeaderMap::new();
    let with = Forward {
        headers: &none,
        authority: AUTHORITY,
        address: [192, 0, 2, 1].into(),
        owner: "alice",
        session: None,
        now: Timestamp::UNIX_EPOCH,
    };
    if upstream.clean(&call, &with, &mut head).is_err() {
        return;
    }
    assert!(head.status != 401 && head.status != 407 && head.status != 101);
    for gone in [
        "www-authenticate",
        "proxy-authenticate",
        "connection",
        "transfer-encoding",
    ] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
    let lengths = values(&head.headers, &http::header::CONTENT_LENGTH);
    assert!(lengths.len() <= 1);
    assert!(
        lengths
            .iter()
            .all(|length| length.iter().all(u8::is_ascii_digit))
    );
    let Some(location) = head
        .headers
        .get(LOCATION)
        .and_then(|text| text.to_str().ok())
    else {
        return;
    };
    assert_eq!(values(&head.headers, &LOCATION).len(), 1);
    let was = before.get(LOCATION).and_then(|text| text.to_str().ok());
    // What names another host stays as it was.
    if was == Some(location) && (!location.starts_with('/') || location.starts_with("//")) {
        return;
    }
    // A path: of the session that the registry named, sealed for its owner, or no session at all.
    is_path(location);
    let (path, query) = location.split_once('?').unwrap_or((location, ""));
    if let Ok(session @ Call::Upload { .. }) = Call::parse(&Method::GET, path, Some(query)) {
        assert_eq!(session.repository(), call.repository());
        let opened = upstream.open_session(&session);
        assert_eq!(
            opened.map(|session| session.owner).as_deref(),
            Some("alice")
        );
    }
}
