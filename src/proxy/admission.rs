//! Admission: a place among the requests of a source, and the cheapest answer there is for a source that
//! makes too many. Those are counted, and recorded when they are more than a source may have.
//!
//! Also client certificates that are refused in the handshake, when there is no request to answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use super::body::AnswerBody;
use super::instance::Proxy;
use super::response::{REFERENCE, json};
use crate::audit::{Audit, Event, Outcome, Record};
use crate::identity::Authentication;
use crate::limit::{Rates, Running, Source, TooFast};
use crate::registry::{Code, Problem};

impl Proxy {
    /// A place among the requests of a source, unless it makes too many.
    pub(super) fn admit(&self, address: IpAddr, rates: Rates) -> Result<Running, TooFast> {
        let (retained, from) = (&self.retained, Source::of(address));
        retained.shield.request(from, rates, retained.now())
    }

    /// Answers a request that is one too many.
    pub(super) fn turn_away(&self, from: IpAddr, why: TooFast) -> Response<AnswerBody> {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        one_too_many(&self.retained.audit, from, &format!("over {why}"))
    }

    /// Records a client certificate that the handshake ended with.
    pub(crate) fn refuse_certificate(&self, from: IpAddr, reason: &str) {
        certificate_refused(&self.retained.audit, from, reason);
    }
}

fn one_too_many(audit: &Arc<Audit>, from: IpAddr, why: &str) -> Response<AnswerBody> {
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

fn certificate_refused(audit: &Arc<Audit>, from: IpAddr, reason: &str) {
    let mut record = Record::open(audit, Event::Login);
    record.source(from);
    record.authentication(Authentication::Certificate);
    record.outcome(Outcome::Failed);
    record.reason(&format!("client certificate refused: {reason}"));
    record.close();
}
