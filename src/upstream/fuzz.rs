//! Fuzz targets: what is passed on to the registry, and what it answers.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::{CONTENT_TYPE, LINK, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use jiff::Timestamp;

use super::head::Head;
use super::headers::{PassHeader, PassHeaders, passed_back, passed_on};
use super::location::Location;
use super::origin::{Origin, Url};
use super::redirect::{RedirectHost, RedirectHosts};
use super::{Forward, Pool, Seal, Session, Settings, Upstream, UpstreamUrl, location, method};
use crate::fuzz::lines;
use crate::identity::{Robot, Subject};
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
    let more: PassHeaders = PassHeader::parse("X-Meta-*").into_iter().collect();
    let has_trace = crate::trace::Parent::of(&from).is_some();
    passed_on(&from, has_trace, &call, &more, &mut to);
    for never in NEVER {
        assert!(!to.contains_key(never), "{never}");
    }
    let connection = String::from_utf8_lossy(&values(&from, &http::header::CONNECTION).join(&b','))
        .to_ascii_lowercase();
    let named: Vec<_> = connection.split(',').map(str::trim).collect();
    for name in to.keys() {
        assert!(!name.as_str().contains('_'), "{name}");
        assert!(
            !name.as_str().starts_with("x-") || name.as_str().starts_with("x-meta-"),
            "{name}"
        );
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
    let mut back = from.clone();
    passed_back(&mut back, &more);
    for name in [
        "alt-svc",
        "connection",
        "keep-alive",
        "refresh",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
    ] {
        assert!(!back.contains_key(name), "{name}");
    }
    let kept: Vec<_> = from
        .iter()
        .filter(|(name, _)| back.contains_key(*name))
        .collect();
    assert!(back.iter().eq(kept));
    let mut twice = back.clone();
    passed_back(&mut twice, &more);
    assert_eq!(twice, back);
}

/// A host as `redirect_hosts` has it, then URLs: those that are allowed name that host, for another
/// reader too.
pub(crate) fn redirect(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.split('\n');
    let written = lines.next().unwrap_or_default();
    let Ok(host) = RedirectHost::parse(written) else {
        return;
    };
    let hosts: RedirectHosts = [host].into_iter().collect();
    let plain = written
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let name = plain.trim_start_matches('*').to_ascii_lowercase();
    for url in lines.take(8) {
        let Ok(()) = hosts.check(url) else {
            continue;
        };
        let lower = url.to_ascii_lowercase();
        let scheme = if written.starts_with("http://") {
            "http://"
        } else {
            "https://"
        };
        assert!(lower.starts_with(scheme), "{written}: {url}");
        assert!(!url.contains(['\\', ' ', '#', '\t']), "{url}");
        let (_, rest) = lower.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        assert!(!authority.contains('@') && !authority.is_empty(), "{url}");
        // An address has several spellings.
        if name.is_empty() || name.contains('[') {
            continue;
        }
        let bare = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
        assert!(bare(authority).ends_with(&bare(&name)), "{written}: {url}");
        if let Ok(uri) = url.parse::<http::Uri>() {
            let asked = uri.host().unwrap_or_default().to_ascii_lowercase();
            assert!(asked.ends_with(&bare(&name)), "{written}: {url}");
        }
    }
}

/// A URL, then a `Link`, in answers about one repository: what is ours becomes a path on this very
/// host, and nothing leads to another one.
pub(crate) fn location(bytes: &[u8]) {
    let mut texts = lines(bytes);
    let Ok(call) = Call::parse(&Method::GET, "/v2/a/tags/list", None) else {
        return;
    };
    let repo = call.repository();
    if let Some(url) = texts.next().and_then(|line| std::str::from_utf8(line).ok()) {
        match Location::parse(url, repo) {
            Location::Session { id, query } => {
                let again = format!("/v2/a/blobs/uploads/{}?{query}", id.as_str());
                is_path(&again);
                let read = Location::parse(&again, repo);
                assert_eq!(read, Location::Session { id, query });
            }
            Location::Object(path) => {
                is_path(&path);
                assert!(path.starts_with("/v2/a/"), "{path}");
                let read = Location::parse(&path, repo);
                assert_eq!(read, Location::Object(path.clone()));
            }
            Location::Elsewhere(place) => {
                // A query may be secret.
                assert!(!place.to_string().contains('?'), "{place}");
            }
        }
    }
    let mut headers = HeaderMap::new();
    for link in texts.take(8) {
        if let Ok(link) = HeaderValue::from_bytes(link) {
            headers.append(LINK, link);
        }
    }
    let own = |origin: &Origin| origin.authority() == AUTHORITY;
    location::relative_links(&mut headers, &call, own);
    for link in values(&headers, &LINK) {
        let link = String::from_utf8_lossy(link);
        for target in link.split('<').skip(1) {
            let target = target.split('>').next().unwrap_or_default();
            assert!(
                target.starts_with('?') || matches!(Url::parse(target), Some(Url::Path(_))),
                "{link}"
            );
        }
    }
    let once = headers.clone();
    assert_eq!(location::relative_links(&mut headers, &call, own), 0);
    assert_eq!(headers, once);
}

/// The head of an answer: read in pieces as at once, and to its end only when every line of it ends in
/// the one way.
pub(crate) fn head(bytes: &[u8]) {
    let whole = Head::default().read(bytes);
    for at in [1, 9, 10, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let (first, second) = bytes.split_at(at.min(bytes.len()));
        let mut head = Head::default();
        let pieces = match head.read(first) {
            Ok(false) => head.read(second),
            ended => ended,
        };
        assert_eq!(pieces, whole);
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    if whole == Ok(true) {
        let first = bytes.get(..end.unwrap_or_default()).unwrap_or_default();
        assert!(!first.is_empty());
        let bare = |pair: &[u8]| pair.ends_with(b"\n") && pair != b"\r\n";
        assert!(!first.windows(2).any(bare));
    } else if whole == Ok(false) {
        let is_interim = bytes.get(9) == Some(&b'1');
        assert!(end.is_none() || is_interim);
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
    let Ok(owner) = Subject::read(owner) else {
        return;
    };
    let session = Session {
        owner,
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
    let config = Settings {
        url: UpstreamUrl::Http {
            host: REGISTRY.into(),
            port: 5000,
        },
        login: None,
        ca: None,
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        commit_timeout: Duration::from_secs(1),
        redirect_hosts: RedirectHost::parse("*.example").into_iter().collect(),
        pass_headers: PassHeaders::default(),
        pass_answer_headers: PassHeader::parse("X-More").into_iter().collect(),
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
    let owner = Subject::Robot(Robot::named("ci"));
    let with = Forward {
        has_trace: false,
        headers: &none,
        authority: AUTHORITY,
        address: [192, 0, 2, 1].into(),
        owner: &owner,
        session: None,
        now: Timestamp::UNIX_EPOCH,
    };
    if upstream.clean(&call, &with, &mut head).is_err() {
        return;
    }
    assert!(head.status != 401 && head.status != 407 && head.status != 101);
    let is_redirect = head.status.is_redirection() && head.status != 304;
    assert!(!is_redirect || call.is_read() && matches!(call, Call::Blob { .. }));
    for gone in [
        "alt-svc",
        "connection",
        "proxy-authenticate",
        "set-cookie",
        "transfer-encoding",
        "www-authenticate",
    ] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
    for name in head.headers.keys() {
        assert!(
            !name.as_str().starts_with("x-")
                || name == "x-more"
                || name == "x-content-type-options"
        );
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
        assert!(!is_redirect && !head.headers.contains_key(LOCATION));
        return;
    };
    assert_eq!(values(&head.headers, &LOCATION).len(), 1);
    if is_redirect {
        // As it was, and to a host that is configured.
        assert_eq!(values(&before, &LOCATION), [location.as_bytes()]);
        let lower = location.to_ascii_lowercase();
        let rest = lower.strip_prefix("https://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = authority.strip_suffix(":443").unwrap_or(authority);
        assert!(host.ends_with(".example"), "{location}");
        return;
    }
    // A path, of the same repository: a session is sealed for its owner.
    is_path(location);
    let (path, query) = location.split_once('?').unwrap_or((location, ""));
    let query = Some(query).filter(|query| !query.is_empty());
    let Ok(led) = Call::parse(&Method::GET, path, query) else {
        unreadable(location)
    };
    assert_eq!(led.repository(), call.repository());
    if let Call::Upload { id, .. } = &led {
        let uuid = head.headers.get("docker-upload-uuid");
        assert!(uuid.is_none_or(|uuid| uuid.as_bytes() == id.as_str().as_bytes()));
        let opened = upstream.open_session(&led);
        assert_eq!(opened.map(|session| session.owner), Some(owner));
    }
}

#[expect(clippy::panic, reason = "it is the target that is wrong")]
fn unreadable(location: &str) -> ! {
    panic!("{location:?} is no place of the API")
}
