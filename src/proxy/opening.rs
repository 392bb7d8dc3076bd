//! The beginning of a request's record, and the trace that its log lines and spans belong to.

use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use tracing::Span;

use super::instance::Proxy;
use crate::audit::{Event, Purpose, Record};
use crate::identity::Peer;
use crate::request::Route;
use crate::trace::{self, TraceId};

impl Proxy {
    /// Opens the record of a request, with what its head and its connection say.
    pub(super) fn open_record(
        &self,
        peer: &Peer,
        head: &Parts,
        route: &Route,
        trace: Option<TraceId>,
        own: Option<trace::Span>,
    ) -> Record {
        let mut record = Record::open(&self.retained.audit, event(route));
        let agent = head
            .headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok());
        let (method, tls) = (head.method.as_str(), &peer.tls.description);
        record.client(peer.address, tls, method, agent);
        if let Some(trace) = trace {
            record.trace(trace);
        }
        if let Some(span) = own {
            record.span(span);
        }
        record
    }

    /// The trace that a request belongs to. While spans are exported, each request has one of its own,
    /// which the registry is told.
    pub(super) fn trace(&self, headers: &mut HeaderMap) -> (Option<TraceId>, Option<trace::Span>) {
        let parent = trace::Parent::of(headers);
        let of_client = parent.map(|parent| parent.trace);
        if !self.retained.audit.tally().is_watched() {
            return (of_client, None);
        }
        let own = own_span(parent, headers);
        (own.map(|own| own.trace).or(of_client), own)
    }
}

/// What a record of a request begins as.
pub(super) fn event(route: &Route) -> Event {
    match route {
        Route::Token => Event::Token,
        Route::Api(_) => Event::Request,
    }
}

/// What a request is for, when the trail cannot be written.
pub(super) fn purpose(route: &Route, method: &Method) -> Purpose {
    match route {
        Route::Token => Purpose::Read,
        Route::Api(_) if method.is_safe() => Purpose::Read,
        Route::Api(_) => Purpose::Write,
    }
}

/// What the log says beside each of a request's lines: its trace, if it has one.
pub(super) fn log_span(trace: Option<TraceId>) -> Span {
    trace.map_or_else(Span::none, |trace| tracing::info_span!("request", %trace))
}

/// A span of our own, of which the registry is told.
fn own_span(parent: Option<trace::Parent>, headers: &mut HeaderMap) -> Option<trace::Span> {
    let (mut of_trace, mut of_span) = ([0; 16], [0; 8]);
    aws_lc_rs::rand::fill(&mut of_trace).ok()?;
    aws_lc_rs::rand::fill(&mut of_span).ok()?;
    let (trace, id) = (u128::from_be_bytes(of_trace), u64::from_be_bytes(of_span));
    let span = trace::Span::new(parent, trace, id);
    let value = HeaderValue::from_str(&span.header()).ok()?;
    headers.insert(trace::TRACEPARENT, value);
    if parent.is_none() {
        headers.remove(trace::TRACESTATE);
    }
    Some(span)
}
