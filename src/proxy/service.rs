//! One request, from its head to its answer and its audit record.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use http::header::{CONNECTION, CONTENT_LENGTH, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use jiff::Timestamp;
use tracing::{Instrument, Span};

use super::body::AnswerBody;
use super::cancelled;
use super::effect::{Effect, Effects, Write};
use super::flood::{refuse_certificate, turn_away};
use super::forward::{self, Done};
use super::known::{Knowledge, Repositories};
use super::listing::Listings;
use super::preflight::preflight;
use super::response::refused;
use super::tag_locks::TagLocks;
use crate::access::{Refusal, Wanted, authorize};
use crate::audit::{Event, NotNow, Purpose, Record};
use crate::identity::Peer;
use crate::limit::{Running, Source, TooFast, Usage};
use crate::request::{Asked, BadHead, RequestContext, Route};
use crate::state::{Retained, Rules};
use crate::trace::{self, TraceId};
use crate::upstream::{Answer, UpstreamError};

/// The proxy: rules that a reload swaps, and what survives it.
pub struct Proxy {
    rules: ArcSwap<Rules>,
    retained: Arc<Retained>,
    turned_away: AtomicU64,
    pub(crate) effects: Effects,
    pub(super) tag_locks: Arc<TagLocks>,
    pub(super) repositories: Repositories,
    pub(super) listings: Arc<Listings>,
    draining: AtomicBool,
}

impl Proxy {
    /// Puts the first rules in force.
    pub fn new(rules: Rules, retained: Retained) -> Arc<Self> {
        let proxy = Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            retained: Arc::new(retained),
            turned_away: AtomicU64::new(0),
            effects: Effects::default(),
            tag_locks: Arc::default(),
            repositories: Repositories::default(),
            listings: Listings::new(),
            draining: AtomicBool::new(false),
        });
        proxy.retained.audit.ask(Box::new(Knowledge::of(&proxy)));
        proxy
    }

    /// The rules in force now.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Puts new rules in force for all requests that begin from now on.
    pub fn swap(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// What survives a reload.
    pub fn retained(&self) -> &Arc<Retained> {
        &self.retained
    }

    /// Says that no new connections are taken, for balancers that ask whether to send some.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether that was said.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How many requests were turned away unread since the start.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// What all callers share, by the names that metrics use.
    pub fn shared(&self) -> Vec<(&'static str, Usage)> {
        let mut all = vec![
            ("audit_queue", self.retained.audit.usage()),
            ("catalog", self.listings.usage()),
            ("password_hashing", self.retained.memory.pool().usage()),
        ];
        if let Some(directory) = self.rules().authenticator.directory() {
            all.push(("directory_binds", directory.usage()));
        }
        all
    }

    /// Records a client certificate that the handshake ended with.
    pub(crate) fn refuse_certificate(&self, from: IpAddr, reason: &str) {
        refuse_certificate(&self.retained.audit, from, reason);
    }

    fn turn_away(&self, from: IpAddr, why: TooFast) -> Response<AnswerBody> {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        turn_away(&self.retained.audit, from, &format!("over {why}"))
    }

    /// Answers one request. Whatever happens, one audit record is written for it: with the answer,
    /// at the end of a streamed body, or when this future is dropped because the client has gone.
    pub(crate) async fn respond(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        mut request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let is_head = request.method() == Method::HEAD;
        let may_keep = request.version() == Version::HTTP_2 || request.body().is_end_stream();
        // 1 Admit: a place among the requests of its source, or nothing of it is looked at.
        let mut response = match self.admit(peer.address) {
            Ok(running) => {
                let (trace, own) = self.trace(request.headers_mut());
                let log = log_span(trace);
                let served = self.serve(peer, request, trace, own, running);
                served.instrument(log).await
            }
            Err(why) => self.turn_away(peer.address, why),
        };
        if !may_keep && !response.status().is_success() {
            // What is left of the body is not read, and never taken for the next request.
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if is_head {
            response = without_body(response);
        }
        response
    }

    /// The life of a request that has been admitted.
    async fn serve(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        request: Request<Incoming>,
        trace: Option<TraceId>,
        own: Option<trace::Span>,
        running: Running,
    ) -> Response<AnswerBody> {
        let (rules, now) = (self.rules.load_full(), Timestamp::now());
        let (head, body) = request.into_parts();
        let route = Route::of(&head.method, &head.uri);
        let purpose = purpose(&route, &head.method);

        // 2 Open the record, once the trail has room for it.
        let room = self.retained.audit.room_for(peer.address).await;
        let mut record = self.open_record(peer, &head, &route, trace, own);

        // 3 Preflight: what does not depend on who is calling.
        let authority = match preflight(&head, &rules) {
            Ok(authority) => authority,
            Err(refusal) => {
                let wanted = Wanted::of(&route, &head.method);
                return refuse_for_no_host(&rules, &refusal, &wanted, record);
            }
        };
        let context = RequestContext {
            rules,
            retained: Arc::clone(&self.retained),
            now,
            peer: Arc::clone(peer),
            authority,
            head,
            route,
            trace,
        };
        if let Err(late) = self.may_go_on(room, purpose) {
            return self.end(&context, Err(late), Wait::No, record).await;
        }

        // What few requests go through is in boxes, so that the others have no room for it.
        let result = match &context.route {
            Route::Token => Box::pin(forward::token(&context, body, &mut record)).await,
            // 4 Authorize.
            Route::Api(call) => match authorize(&context, call, &mut record).await {
                // 5 Forward and 6 settle: a read here, a write as an effect of its own.
                Ok(admission) if admission.permit.call().is_read() => {
                    match forward::read(self, &context, admission, &mut record).await {
                        Ok(Done::Streaming(answer)) => {
                            // 7 and 8 Respond and close: the record is closed at the body's end.
                            let Answer { head, body } = answer;
                            let body = AnswerBody::stream(body, record, running);
                            return Response::from_parts(head, body);
                        }
                        Ok(Done::Whole(response)) => Ok(response),
                        Err(refusal) => Err(refusal),
                    }
                }
                Ok(admission) => {
                    let write = Write {
                        proxy: Arc::clone(self),
                        context,
                        _running: running,
                    };
                    return Effect::new(write, admission, body, record).await;
                }
                Err(refusal) => Err(refusal),
            },
        };
        // 7 Respond and 8 close: the answer is known as a whole.
        let wait = match &result {
            // A challenge is an answer that costs nothing: it does not wait for its record.
            Err(Refusal::Challenged) => Wait::No,
            Ok(_) | Err(_) => wait_for(&context.head.method, &record),
        };
        self.end(&context, result, wait, record).await
    }

    /// Records a request whose client has gone before anything of it was looked at.
    pub(super) fn record_cancelled(&self, peer: &Peer, head: &cancelled::Head) {
        let audit = &self.retained.audit;
        if let Err(why) = self.admit(peer.address) {
            drop(self.turn_away(peer.address, why));
            return;
        }
        let route = Route::of(&head.method, &head.uri);
        let mut record = Record::open(audit, event(&route));
        let agent = head.agent.as_ref().and_then(|value| value.to_str().ok());
        let tls = &peer.tls.description;
        record.client(peer.address, tls, head.method.as_str(), agent);
        record.certificate(peer.certificate.shown());
        if let Some(call) = route.call() {
            record.call(call);
        }
        record.reason("the client went away at once");
        record.close();
    }

    /// Answers what came instead of a request that can be read; what of its head was good is `head`.
    pub(crate) fn refuse_unread(
        &self,
        address: IpAddr,
        tls: Option<&str>,
        fault: BadHead,
        asked: Asked,
        head: &[u8],
    ) -> Response<AnswerBody> {
        let response = self.refused_unread(address, tls, fault, head);
        match asked {
            Asked::HeadOnly => without_body(response),
            Asked::Whole => response,
        }
    }

    fn refused_unread(
        &self,
        address: IpAddr,
        tls: Option<&str>,
        fault: BadHead,
        head: &[u8],
    ) -> Response<AnswerBody> {
        let (audit, rules) = (&self.retained.audit, self.rules.load_full());
        let _running = match self.admit(address) {
            Ok(running) => running,
            Err(why) => return self.turn_away(address, why),
        };
        let mut record = Record::open(audit, Event::Request);
        let method = fault.method(head);
        record.unread(address, tls, method);
        let wanted = Wanted::nothing_known();
        refuse_for_no_host(&rules, &Refusal::BadHead(fault), &wanted, record)
    }

    /// A place among the requests of a source, unless it makes too many.
    fn admit(&self, address: IpAddr) -> Result<Running, TooFast> {
        let (retained, rates) = (&self.retained, self.rules.load().rates);
        let from = Source::of(address);
        retained.shield.request(from, rates, retained.now())
    }

    /// Opens the record of a request, with what its head and its connection say.
    fn open_record(
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

    /// Whether a request is served for whose record there may be no room.
    fn may_go_on(&self, room: Result<(), NotNow>, purpose: Purpose) -> Result<(), Refusal> {
        match room {
            Ok(()) => Ok(()),
            Err(NotNow::TooFast) => Err(Refusal::TooManyRecords),
            Err(NotNow::Full) => Ok(self.retained.audit.may_lack_record(purpose)?),
        }
    }

    /// The trace that a request belongs to. While spans are exported, each request has one of its own,
    /// which the registry is told.
    fn trace(&self, headers: &mut HeaderMap) -> (Option<TraceId>, Option<trace::Span>) {
        let parent = trace::Parent::of(headers);
        let of_client = parent.map(|parent| parent.trace);
        if !self.retained.audit.tally().is_watched() {
            return (of_client, None);
        }
        let own = own_span(parent, headers);
        (own.map(|own| own.trace).or(of_client), own)
    }

    /// Answers with what a request came to, and closes its record before the client has the answer's
    /// end.
    pub(super) async fn end(
        &self,
        context: &RequestContext,
        result: Result<Response<AnswerBody>, Refusal>,
        wait: Wait,
        mut record: Record,
    ) -> Response<AnswerBody> {
        let is_refused = result.is_err();
        let response = result.unwrap_or_else(|refusal| self.refuse(context, &refusal, &mut record));
        let audit = &self.retained.audit;
        match wait {
            Wait::No => record.close(),
            Wait::Yes => {
                let is_late = record.close_and_wait().await.is_err();
                let purpose = purpose(&context.route, &context.head.method);
                // What is refused already is not changed by a late record.
                if is_late && !is_refused && audit.ready_for(purpose).is_err() {
                    let mut late = Record::open(audit, Event::Audit);
                    let response = self.refuse(context, &Refusal::AuditUnwritable, &mut late);
                    late.close();
                    return response;
                }
            }
        }
        response
    }

    /// The answer to what is refused; notes it in the record.
    fn refuse(
        &self,
        context: &RequestContext,
        refusal: &Refusal,
        record: &mut Record,
    ) -> Response<AnswerBody> {
        let wanted = Wanted::of(&context.route, &context.head.method);
        let authority = Some(&context.authority);
        let reply = refusal.reply(context.rules.challenge, authority, &wanted);
        if reply.is_wrong_credential {
            let from = Source::of(context.peer.address);
            self.retained.shield.failure(from, self.retained.now());
        }
        if let Refusal::Upstream(error) = refusal
            && !matches!(error, UpstreamError::Client(_))
        {
            tracing::warn!(%error, reference = record.reference_id(), "the registry failed");
        }
        refused(refusal, &reply, record)
    }
}

/// The answer to a request whose host is not known, so that no challenge can name it; closes its record.
fn refuse_for_no_host(
    rules: &Rules,
    refusal: &Refusal,
    wanted: &Wanted,
    mut record: Record,
) -> Response<AnswerBody> {
    let reply = refusal.reply(rules.challenge, None, wanted);
    let response = refused(refusal, &reply, &mut record);
    record.close();
    response
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

/// The answer to a HEAD: the headers of the body, and no body. Over HTTP/1 hyper would see to that,
/// over HTTP/2 it sends what it is given.
fn without_body(response: Response<AnswerBody>) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    if let (Some(length), false) = (
        body.known_length(),
        head.headers.contains_key(CONTENT_LENGTH),
    ) {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, body.withheld())
}

/// Whether the record must be on its way to disk before the answer.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    No,
    Yes,
}

fn wait_for(method: &Method, record: &Record) -> Wait {
    if method.is_safe() && !record.is_about_credentials() {
        Wait::No
    } else {
        Wait::Yes
    }
}

/// What the log says beside each of a request's lines: its trace, if it has one.
fn log_span(trace: Option<TraceId>) -> Span {
    trace.map_or_else(Span::none, |trace| tracing::info_span!("request", %trace))
}

/// What a record of a request begins as.
fn event(route: &Route) -> Event {
    match route {
        Route::Token => Event::Token,
        Route::Api(_) => Event::Request,
    }
}

/// What a request is for, when the trail cannot be written.
fn purpose(route: &Route, method: &Method) -> Purpose {
    match route {
        Route::Token => Purpose::Read,
        Route::Api(_) if method.is_safe() => Purpose::Read,
        Route::Api(_) => Purpose::Write,
    }
}
