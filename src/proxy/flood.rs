//! What the rate limiter of sources turns away: the cheapest answer there is. And client certificates
//! that are refused in the handshake, when there is no request to answer. The former are only counted, the latter when they
//! are more than a source may have.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use super::body::AnswerBody;
use super::response::{REFERENCE, json};
use crate::audit::{Audit, Event, Outcome, Record};
use crate::identity::Authentication;
use crate::registry::{Code, Problem};

/// Answers a request that is one too many.
pub(super) fn turn_away(audit: &Arc<Audit>, from: IpAddr, why: &str) -> Response<AnswerBody> {
    let mut record = Record::open(audit, Event::Request);
    record.source(from);
    let status = StatusCode::TOO_MANY_REQUESTS;
    record.answer(Outcome::Limited, status.as_u16());
    record.reason(why);
    record.one_of_many();
    record.settle_reference();
    let problem = Problem {
        status,
        code: Code::TooManyRequests,
        message: format!(
            "too many requests from {from}: try again in ten seconds, with fewer at a time"
        ),
    };
    let mut response = json(status, problem.body(record.reference_id()));
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
    if let Ok(reference) = HeaderValue::try_from(record.reference_id()) {
        headers.insert(REFERENCE, reference);
    }
    record.close();
    response
}

/// Records a client certificate that the handshake ended with.
pub(super) fn refuse_certificate(audit: &Arc<Audit>, from: IpAddr, reason: &str) {
    let mut record = Record::open(audit, Event::Login);
    record.source(from);
    record.authentication(Authentication::Certificate);
    record.outcome(Outcome::Failed);
    record.reason(&format!("client certificate refused: {reason}"));
    record.close();
}
