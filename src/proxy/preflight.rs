//! What is asked of a request before anything else: framing, method, expectation and host.

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::cors::admit_page;
use crate::access::{METHODS, Refusal};
use crate::registry::CallError;
use crate::request::{Authority, BadHead, MAX_HEAD, MAX_HEADERS, is_token};
use crate::state::Rules;

/// What does not depend on who is calling or what for: framing and host.
pub(super) fn preflight(head: &Parts, rules: &Rules) -> Result<Authority, Refusal> {
    if head.version == Version::HTTP_2 && is_large(&head.headers) {
        return Err(Refusal::BadHead(BadHead::TooLarge));
    }
    // The `http` crate lets a quotation mark through, which is in no token.
    let mut names = head.headers.keys();
    if head.version == Version::HTTP_2 && !names.all(|name| is_token(name.as_str().as_bytes())) {
        return Err(Refusal::BadRequest(
            "the name of a header must be a token, without odd characters",
        ));
    }
    if head.version == Version::HTTP_2 && !head.headers.values().all(is_bare) {
        return Err(Refusal::BadRequest(
            "the value of a header must not begin or end with a blank",
        ));
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err(Refusal::BadRequest(
            "Transfer-Encoding must be chunked, once",
        ));
    }
    if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Refusal::BadRequest("Content-Length must stand once"));
    }
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(CallError::Method { allow: METHODS }.into());
    }
    // Without `:authority` there is no scheme either, and `Host` counts (RFC 9113 section 8.3.1).
    let is_whole = head.version == Version::HTTP_2 && head.uri.authority().is_some();
    if is_whole && head.uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(Refusal::BadRequest("the scheme must be https"));
    }
    if !head.headers.get_all(EXPECT).iter().all(can_be_met) {
        return Err(Refusal::Expectation);
    }
    let authority = Authority::of(head).ok_or(Refusal::BadRequest(
        "the request must name one host, in the Host header",
    ))?;
    if let Some(public) = &rules.public_authority
        && !authority.is(public)
    {
        return Err(Refusal::Misdirected {
            asked: authority,
            ours: public.clone(),
        });
    }
    admit_page(head, &authority, &rules.cors_origins)?;
    Ok(authority)
}

/// Returns false for a value with blanks around it, which is malformed over HTTP/2 (RFC 9113 section
/// 8.2.1), and would be another one in the HTTP/1.1 that the registry is spoken to in.
fn is_bare(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    bytes.trim_ascii().len() == bytes.len()
}

/// Whether `Expect` names nothing but what there is (RFC 9110 section 10.1.1).
fn can_be_met(expected: &HeaderValue) -> bool {
    let mut members = expected.as_bytes().split(|byte| *byte == b',');
    members.all(|member| {
        let member = member.trim_ascii();
        member.is_empty() || member.eq_ignore_ascii_case(b"100-continue")
    })
}

/// Whether it is more than what the head of an HTTP/1 request may have, by HTTP/2's way of counting
/// (RFC 9113 section 10.5.1).
fn is_large(headers: &HeaderMap) -> bool {
    let size = |(name, value): (&HeaderName, &HeaderValue)| {
        let bytes = name.as_str().len().saturating_add(value.len());
        bytes.saturating_add(32)
    };
    headers.len() > MAX_HEADERS
        || headers.iter().map(size).fold(0, usize::saturating_add) > MAX_HEAD
}
