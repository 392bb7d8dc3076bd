//! Pages in browsers, such as registry UIs: which of them may call the API, and what their browsers are
//! told (Fetch standard, section 3.3 "CORS protocol"; Fetch Metadata Request Headers).
//!
//! A browser sends a password that it keeps for this host with requests of any page, so a page of
//! another origin is refused before a credential is looked at, unless the configuration names it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::body::AnswerBody;
use crate::access::{METHODS, Refusal};
use crate::request::Authority;

/// Where the page is, as seen from here. Browsers alone send it; Node's `fetch` does not.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What the request is made for.
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// What the answer is for.
const DESTINATION: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// Bytes of the names of headers that are told back to a browser.
const MAX_WANTED: usize = 1024;
/// Headers of requests that a page may set where its browser does not say which it wants to.
const ALLOWED: HeaderValue = HeaderValue::from_static("authorization, accept, content-type");
/// Headers of answers that a page may read besides those that every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "www-authenticate, docker-content-digest, docker-distribution-api-version, \
     docker-upload-uuid, content-length, content-range, range, location, link, etag, retry-after, \
     ratelimit-limit, ratelimit-remaining, docker-ratelimit-source, oci-subject, \
     oci-filters-applied, oci-chunk-min-length, oci-tag, warning, x-portcullis-ref",
);
/// Seconds for which a browser may remember the answer to its preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Whether a browser sends it, rather than a client that knows of tokens.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(SITE)
}

/// The origin of the page, if the configuration names it.
pub(super) fn named(headers: &HeaderMap, origins: &[Box<str>]) -> Option<HeaderValue> {
    if origins.is_empty() {
        return None;
    }
    let mut lines = headers.get_all(ORIGIN).iter();
    let origin = lines.next().filter(|_| lines.next().is_none())?;
    let is_named = origins
        .iter()
        .any(|named| named.as_bytes() == origin.as_bytes());
    is_named.then(|| origin.clone())
}

/// Refuses what a page of another origin asks for, unless the configuration names it. A person who
/// follows a link there is no page.
pub(super) fn admit_page(
    head: &Parts,
    authority: &Authority,
    origins: &[Box<str>],
) -> Result<(), Refusal> {
    let headers = &head.headers;
    let is_foreign = |origin: &HeaderValue| {
        let host = origin
            .to_str()
            .ok()
            .and_then(|o| o.strip_prefix("https://"));
        !host.is_some_and(|host| authority.is(host))
    };
    let is_elsewhere = |site: &HeaderValue| site != "same-origin" && site != "none";
    let follows_a_link = || {
        let mut modes = headers.get_all(MODE).iter();
        // A frame of the page has the same mode, and another destination.
        let mut destinations = headers.get_all(DESTINATION).iter();
        head.method == Method::GET
            && modes.all(|mode| mode == "navigate")
            && headers.contains_key(MODE)
            && destinations.all(|destination| destination == "document")
    };
    let from_elsewhere = headers.get_all(SITE).iter().any(is_elsewhere) && !follows_a_link();
    let changes_from_elsewhere =
        !head.method.is_safe() && headers.get_all(ORIGIN).iter().any(is_foreign);
    if (from_elsewhere || changes_from_elsewhere) && named(headers, origins).is_none() {
        return Err(Refusal::ForeignPage);
    }
    Ok(())
}

/// Returns true for the question of a browser whether a page which the configuration names may make a
/// request.
pub(super) fn is_asked(head: &Parts, origins: &[Box<str>]) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && named(&head.headers, origins).is_some()
}

/// The answer to that question.
pub(super) fn answer(head: &Parts) -> Response<AnswerBody> {
    let wanted = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let wanted = wanted.filter(|wanted| wanted.len() <= MAX_WANTED);
    let mut response = Response::new(AnswerBody::full(String::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static(METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    // What crosses to the registry is decided by another table.
    let allowed = wanted.cloned().unwrap_or(ALLOWED);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    let varies = "Access-Control-Request-Method, Access-Control-Request-Headers";
    headers.insert(VARY, HeaderValue::from_static(varies));
    response
}

/// Lets the page of `origin` read an answer, in place of what the registry says of pages.
pub(super) fn expose(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.append(VARY, HeaderValue::from_static("Origin"));
    for name in [
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        headers.remove(name);
    }
    let Some(origin) = origin else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let yes = HeaderValue::from_static("true");
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}
