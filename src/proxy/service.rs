//! One request, from its head to its answer and its audit record.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use http::header::{CONNECTION, CONTENT_LENGTH, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use jiff::Timestamp;
use tracing::{Instrument, Span};

use super::body::AnswerBody;
use super::cancelled;
use super::effect::{Effect, Effects, Write};
use super::exchange::{Done, Exchange};
use super::flood::{refuse_certificate, turn_away};
use super::known::{Knowledge, Repositories};
use super::listing::Listings;
use super::preflight::front_door;
use super::response::refused;
use super::tag_locks::TagLocks;
use crate::access::{Refusal, Wanted};
use crate::audit::{Event, NotNow, Purpose, Record};
use crate::identity::Peer;
use crate::limit::{Running, Source, TooFast, Usage};
use crate::registry::Call;
use crate::request::{Asked, Authority, BadHead};
use crate::state::{Retained, Rules};
use crate::trace;
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

    /// Says that no new connections are taken, for whoever asks whether to send some.
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
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let is_head = request.method() == Method::HEAD;
        let may_keep = request.version() == Version::HTTP_2 || request.body().is_end_stream();
        let mut response = self.shielded(peer, request).await;
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

    /// Records a request whose client has gone before anything of it was looked at.
    pub(super) fn tell_unheard(&self, peer: &Peer, head: &cancelled::Head) {
        let audit = &self.retained.audit;
        if let Err(why) = self.running(peer.address) {
            drop(self.turn_away(peer.address, why));
            return;
        }
        let mut record = Record::open(audit, event(&head.uri));
        let agent = head.agent.as_ref().and_then(|value| value.to_str().ok());
        let (method, tls) = (&head.method, &peer.tls.description);
        record.client(peer.address, tls, method.as_str(), agent);
        record.certificate(peer.certificate.shown());
        if let Ok(call) = Call::parse(method, head.uri.path(), head.uri.query()) {
            record.call(&call);
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
        let _running = match self.running(address) {
            Ok(running) => running,
            Err(why) => return self.turn_away(address, why),
        };
        let mut record = Record::open(audit, Event::Request);
        let method = fault.method(head);
        record.unread(address, tls, method);
        let wanted = Wanted::nothing_known();
        let refusal = Refusal::BadHead(fault);
        let response = refused(&refusal, rules.challenge, None, &wanted, &mut record);
        record.close();
        response
    }

    /// Turns a request away before anything of it is looked at, if its source makes too many.
    async fn shielded(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        mut request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        match self.running(peer.address) {
            Ok(running) => {
                let own = self.own_span(request.headers_mut());
                let span = span_of(request.headers());
                let exchange = self.exchange(peer, request, own, running);
                exchange.instrument(span).await
            }
            Err(why) => self.turn_away(peer.address, why),
        }
    }

    /// A place among the requests of a source, unless it makes too many.
    fn running(&self, address: IpAddr) -> Result<Running, TooFast> {
        let (retained, rates) = (&self.retained, self.rules.load().rates);
        let from = Source::of(address);
        retained.shield.request(from, rates, retained.now())
    }

    async fn exchange(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        request: Request<Incoming>,
        own: Option<trace::Span>,
        running: Running,
    ) -> Response<AnswerBody> {
        let rules = self.rules.load_full();
        let now = Timestamp::now();
        let (head, body) = request.into_parts();
        let is_token = head.uri.path() == "/token";
        let purpose = if head.method.is_safe() || is_token {
            Purpose::Read
        } else {
            Purpose::Write
        };
        let room = self.retained.audit.room_for(peer.address).await;
        let mut record = self.open_record(peer, &head, own);
        let authority = match front_door(&head, &rules) {
            Ok(authority) => authority,
            Err(refusal) => {
                let refused = self.refuse(&rules, None, &head, refusal, Wait::No, record);
                return refused.await;
            }
        };
        if let Err(late) = self.may_go_on(room, purpose) {
            let refused = self.refuse(&rules, Some(&authority), &head, late, Wait::No, record);
            return refused.await;
        }
        let exchange = Exchange {
            proxy: self,
            rules: &rules,
            now,
            peer,
            authority: &authority,
            head: &head,
        };
        // What few requests go through is in boxes, so that the others have no room for it.
        let result = if is_token {
            Box::pin(exchange.token(body, &mut record)).await
        } else {
            match exchange.judge(&mut record).await {
                Ok(admission) if admission.permit.call().is_read() => {
                    match exchange.read(admission, &mut record).await {
                        Ok(Done::Streaming(answer)) => {
                            let Answer { head, body } = answer;
                            let mut body = AnswerBody::stream(body, record);
                            body.hold(running);
                            return Response::from_parts(head, body);
                        }
                        Ok(Done::Whole(response)) => Ok(response),
                        Err(refusal) => Err(refusal),
                    }
                }
                Ok(admission) => {
                    let write = Write {
                        proxy: Arc::clone(self),
                        rules,
                        now,
                        peer: Arc::clone(peer),
                        authority,
                        head,
                        _running: running,
                    };
                    return Effect::new(write, admission, body, record).await;
                }
                Err(refusal) => Err(refusal),
            }
        };
        match result {
            Ok(response) => {
                let how = (wait_for(&head.method, &record), purpose);
                self.close(&rules, &authority, response, how, record).await
            }
            Err(refusal) => {
                if refusal.is_wrong_credential() {
                    let from = Source::of(peer.address);
                    self.retained.shield.failure(from, self.retained.now());
                }
                // A challenge is an answer that costs nothing: nobody waits for its record.
                let wait = if matches!(refusal, Refusal::Challenged) {
                    Wait::No
                } else {
                    wait_for(&head.method, &record)
                };
                self.refuse(&rules, Some(&authority), &head, refusal, wait, record)
                    .await
            }
        }
    }

    /// Opens the record of a request, with what its head and its connection say.
    fn open_record(&self, peer: &Peer, head: &Parts, own: Option<trace::Span>) -> Record {
        let mut record = Record::open(&self.retained.audit, event(&head.uri));
        let agent = head
            .headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok());
        let (method, tls) = (head.method.as_str(), &peer.tls.description);
        record.client(peer.address, tls, method, agent);
        if let Some(parent) = trace::Parent::of(&head.headers) {
            record.trace(parent.trace);
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

    /// While spans are exported, each request has one of its own, which the registry is told.
    fn own_span(&self, headers: &mut HeaderMap) -> Option<trace::Span> {
        if !self.retained.audit.tally().is_watched() {
            return None;
        }
        let (mut of_trace, mut of_span) = ([0; 16], [0; 8]);
        aws_lc_rs::rand::fill(&mut of_trace).ok()?;
        aws_lc_rs::rand::fill(&mut of_span).ok()?;
        let parent = trace::Parent::of(headers);
        let (trace, id) = (u128::from_be_bytes(of_trace), u64::from_be_bytes(of_span));
        let span = trace::Span::new(parent, trace, id);
        let value = HeaderValue::from_str(&span.header()).ok()?;
        headers.insert(trace::TRACEPARENT, value);
        if parent.is_none() {
            headers.remove(trace::TRACESTATE);
        }
        Some(span)
    }

    pub(super) async fn refuse(
        &self,
        rules: &Rules,
        authority: Option<&Authority>,
        head: &Parts,
        refusal: Refusal,
        wait: Wait,
        mut record: Record,
    ) -> Response<AnswerBody> {
        if let Refusal::Upstream(error) = &refusal
            && !matches!(error, UpstreamError::Client(_))
        {
            tracing::warn!(%error, reference = record.reference_id(), "the registry failed");
        }
        let wanted = Wanted::of(head);
        let response = refused(&refusal, rules.challenge, authority, &wanted, &mut record);
        match wait {
            Wait::No => record.close(),
            // The request is refused already; that its record is late changes nothing.
            Wait::Yes => drop(record.close_and_wait().await),
        }
        response
    }

    /// Closes the record of an answer that is known as a whole, before the client has its end.
    pub(super) async fn close(
        &self,
        rules: &Rules,
        authority: &Authority,
        response: Response<AnswerBody>,
        (wait, purpose): (Wait, Purpose),
        record: Record,
    ) -> Response<AnswerBody> {
        match wait {
            Wait::No => record.close(),
            Wait::Yes => {
                let audit = &self.retained.audit;
                if record.close_and_wait().await.is_err() && audit.ready_for(purpose).is_err() {
                    let mut late = Record::open(audit, Event::Audit);
                    let refusal = Refusal::AuditUnwritable;
                    // No challenge comes with it, so what was wanted does not matter.
                    let (how, wanted) = (rules.challenge, Wanted::Token);
                    let response = refused(&refusal, how, Some(authority), &wanted, &mut late);
                    late.close();
                    return response;
                }
            }
        }
        response
    }
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
fn span_of(headers: &HeaderMap) -> Span {
    match trace::Parent::of(headers) {
        Some(parent) => tracing::info_span!("request", trace = %parent.trace),
        None => Span::none(),
    }
}

/// What a record of a request begins as.
fn event(uri: &Uri) -> Event {
    match uri.path() {
        "/token" => Event::Token,
        _ => Event::Request,
    }
}
