//! Answers of our own: JSON bodies, errors with their reference.

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::AnswerBody;
use crate::access::{QuotaStatus, Refusal, Reply};
use crate::audit::Record;
use crate::identity::Claim;
use crate::upstream::API_VERSION;

/// The reference of an error, for clients that do not show bodies.
pub(super) const REFERENCE: HeaderName = HeaderName::from_static("x-portcullis-ref");

/// How many pulls in how many seconds, how many are left, and whose they are.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const SOURCE: HeaderName = HeaderName::from_static("docker-ratelimit-source");

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: String) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

/// The answer to a refused request; notes it in the record, which the caller closes.
pub(super) fn refused(
    refusal: &Refusal,
    reply: &Reply,
    record: &mut Record,
) -> Response<AnswerBody> {
    record.answer(reply.outcome, reply.problem.status.as_u16());
    record.reason(&reply.cause);
    if let Refusal::Revoked { subject } = refusal {
        record.claim(&Claim::of(subject));
    }
    if matches!(refusal, Refusal::BadCredential(rejection) if rejection.is_of_somebody()) {
        record.names_somebody();
    }
    record.settle_reference();
    let mut body = reply.problem.body(record.reference_id());
    if let Some(error) = reply.oauth {
        // What OAuth2 clients look for, beside what registry clients look for (RFC 6749 section 5.2).
        body = body.replacen('{', &format!("{{\"error\":\"{error}\","), 1);
    }
    record.add_bytes_out(u64::try_from(body.len()).unwrap_or(u64::MAX));
    let mut response = json(reply.problem.status, body);
    let headers = response.headers_mut();
    let mut insert = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert(REFERENCE, record.reference_id());
    if let Some(challenge) = &reply.challenge {
        insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = reply.retry_after {
        insert(RETRY_AFTER, &seconds.to_string());
    }
    if let Some(allow) = reply.allow {
        insert(ALLOW, allow);
    }
    if reply.close {
        insert(CONNECTION, "close");
    }
    if let Some(status) = &reply.quota {
        limited(headers, status);
    }
    response
}

/// The bytes of an answer that ends its connection, for where there is no HTTP engine to write it.
pub(crate) fn written(response: Response<AnswerBody>) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let body = body.into_known();
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut out = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()).into_bytes();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&jiff::Timestamp::now())
        .unwrap_or_default();
    let length = body.len().to_string();
    let ours = [
        ("connection", "close"),
        ("content-length", &length),
        ("date", &date),
    ];
    // The answer to a HEAD has the length of what it leaves out.
    let has_length = head.headers.contains_key(CONTENT_LENGTH);
    let ours = ours
        .into_iter()
        .filter(|(name, _)| !has_length || *name != "content-length");
    let headers = head.headers.iter().filter(|(name, _)| **name != CONNECTION);
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in headers.chain(ours.map(|(name, value)| (name, value.as_bytes()))) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    out
}

/// Says what is left of a limit, as Docker Hub says it. A name that no header can carry is left out.
pub(super) fn limited(headers: &mut HeaderMap, status: &QuotaStatus) {
    let QuotaStatus {
        quota,
        remaining,
        subject,
    } = status;
    let window = itoa::Buffer::new().format(quota.per.as_secs()).to_owned();
    let within = |count: u32| [itoa::Buffer::new().format(count), ";w=", &window].concat();
    let lines = [
        (LIMIT, within(quota.count)),
        (REMAINING, within(*remaining)),
        (SOURCE, subject.to_string()),
    ];
    for (name, value) in lines {
        // In place of what the registry says of its own.
        match HeaderValue::try_from(value) {
            Ok(value) => headers.insert(name, value),
            Err(_cause) => headers.remove(name),
        };
    }
}

/// Answers that hold a secret are for no cache.
pub(super) fn unstored(mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
