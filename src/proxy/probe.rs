//! Probes of load balancers: requests for `/`, with nothing to decide about. They are answered like any
//! other request outside the API, and leave no audit record: one every few seconds would bury the trail.

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{Method, Version};

use crate::access::Refusal;
use crate::identity::Peer;
use crate::request::Route;

/// Returns true for a request that only asks if there is an answer: no credential is used, and no
/// repository named.
pub(super) fn is_probe(head: &Parts, peer: &Peer) -> bool {
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&head.method);
    let is_bare = matches!(head.uri.path(), "/" | "*") && head.uri.query().is_none();
    let is_anonymous = !head.headers.contains_key(AUTHORIZATION);
    is_safe && is_bare && is_anonymous && peer.certificate.shown().is_none()
}

/// The same of what came without TLS, if its head came whole.
pub(super) fn is_plain_probe(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    let is_safe = matches!(words.next(), Some("get" | "head" | "options"));
    let is_whole = text.contains("\r\n\r\n");
    let is_anonymous = is_whole && !text.contains("authorization");
    is_safe && matches!(words.next(), Some("/" | "*")) && is_anonymous
}

/// The refusal of a probe that failed its preflight: some balancers ask in HTTP/1.0 without a host,
/// which is legal there.
pub(super) fn refusal(head: &Parts, route: &Route, refusal: Refusal) -> Refusal {
    let needs_no_host = head.version == Version::HTTP_10 && !head.headers.contains_key(HOST);
    match (route, refusal) {
        (Route::Api(Err(error)), Refusal::BadRequest(_)) if needs_no_host => error.clone().into(),
        (_, refusal) => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain_probe;

    #[test]
    fn a_probe_without_tls_asks_for_nothing_and_shows_nothing() {
        for probe in [
            "GET / HTTP/1.0\r\n\r\n",
            "OPTIONS / HTTP/1.0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD / HTTP/1.1\r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n",
        ] {
            assert!(is_plain_probe(probe.as_bytes()), "{probe}");
        }
        for other in [
            "",
            "GET /v2/ HTTP/1.1\r\n\r\n",
            "GET /?a HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nAuthorization: Basic YTpi\r\n\r\n",
            "GET / HTTP/1.1\r\nAuthorization : Basic YTpi\r\n\r\n",
            // Where more is to come.
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            assert!(!is_plain_probe(other.as_bytes()), "{other}");
        }
    }
}
