//! One request, from its head to its answer and its audit record.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use jiff::Timestamp;
use tracing::Instrument;

use super::body::{AnswerBody, Completion};
use super::closing::{Wait, refuse_for_no_host, wait_for};
use super::cors;
use super::effect::{Effect, Write};
use super::effects::Effects;
use super::forward::{self, Done};
use super::instance::Proxy;
use super::known::Knowledge;
use super::listing::Listings;
use super::opening::{log_span, purpose};
use super::preflight::preflight;
use super::probe::{self, is_probe};
use super::repositories::Repositories;
use crate::access::{Refusal, Wanted, authorize};
use crate::audit::{Event, NotNow, Purpose, Record};
use crate::identity::Peer;
use crate::limit::Running;
use crate::request::{Asked, BadHead, RequestContext, Route};
use crate::state::{Retained, Rules};
use crate::trace::{self, TraceId};
use crate::upstream::Answer;

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

    /// Answers one request. Whatever happens, one audit record is written for it: with the answer,
    /// at the end of a streamed body, or when this future is dropped because the client has gone.
    pub(crate) async fn respond(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        mut request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let rules = self.rules.load_full();
        let page = cors::named(request.headers(), &rules.cors_origins);
        let has_pages = !rules.cors_origins.is_empty();
        let is_head = request.method() == Method::HEAD;
        let may_keep = request.version() == Version::HTTP_2 || request.body().is_end_stream();
        // 1 Admit: a place among the requests of its source, or nothing of it is looked at.
        let mut response = match self.admit(peer.address, rules.rates) {
            Ok(running) => {
                let (trace, own) = self.trace(request.headers_mut());
                let log = log_span(trace);
                let served = self.serve(rules, peer, request, trace, own, running);
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
        if has_pages {
            cors::expose(response.headers_mut(), page);
        }
        if is_head {
            response = without_body(response);
        }
        response
    }

    /// The life of a request that has been admitted.
    async fn serve(
        self: &Arc<Self>,
        rules: Arc<Rules>,
        peer: &Arc<Peer>,
        request: Request<Incoming>,
        trace: Option<TraceId>,
        own: Option<trace::Span>,
        running: Running,
    ) -> Response<AnswerBody> {
        let now = Timestamp::now();
        let (head, body) = request.into_parts();
        if cors::is_asked(&head, &rules.cors_origins) && preflight(&head, &rules).is_ok() {
            return cors::answer(&head);
        }
        let route = Route::of(&head.method, &head.uri);
        let purpose = purpose(&route, &head.method);

        // 2 Open the record, once the trail has room for it.
        let room = self.retained.audit.room_for(peer.address).await;
        let mut record = self.open_record(peer, &head, &route, trace, own);
        let is_probe = is_probe(&head, peer);
        if is_probe {
            record.leave_out();
        }

        // 3 Preflight: what does not depend on who is calling.
        let authority = match preflight(&head, &rules) {
            Ok(authority) => authority,
            Err(refusal) => {
                let refusal = if is_probe {
                    probe::refusal(&head, &route, refusal)
                } else {
                    refusal
                };
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
                            let completion = Completion { record, running };
                            let body = AnswerBody::stream(body, completion);
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
        let _running = match self.admit(address, rules.rates) {
            Ok(running) => running,
            Err(why) => return self.turn_away(address, why),
        };
        let mut record = Record::open(audit, Event::Request);
        let method = fault.method(head);
        record.unread(address, tls, method);
        if fault == BadHead::Plain && probe::is_plain_probe(head) {
            record.leave_out();
        }
        let wanted = Wanted::nothing_known();
        refuse_for_no_host(&rules, &Refusal::BadHead(fault), &wanted, record)
    }

    /// Whether a request is served for whose record there may be no room.
    fn may_go_on(&self, room: Result<(), NotNow>, purpose: Purpose) -> Result<(), Refusal> {
        match room {
            Ok(()) => Ok(()),
            Err(NotNow::TooFast) => Err(Refusal::TooManyRecords),
            Err(NotNow::Full) => Ok(self.retained.audit.may_lack_record(purpose)?),
        }
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
