//! One request, from its head to its answer and its audit record.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, USER_AGENT, WARNING};
use http::request::Parts;
use http::uri::Scheme;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use tracing::{Instrument, Span};

use super::answer::{json, limited, refused, unstored};
use super::body::AnswerBody;
use super::catalog;
use super::flood::{Floods, Handshakes};
use super::framing::{MAX_HEAD, MAX_HEADERS};
use super::readers::Turn;
use super::unheard;
use crate::audit::{Effect, Event, Outcome, Record};
use crate::gate::{
    Admission, Authority, BadHead, Claim, Ledger, MAX_FORM, METHODS, Refusal, Rules, Wanted, issue,
    judge,
};
use crate::identity::Peer;
use crate::limit::Source;
use crate::policy::{Decision, Permit, Tags};
use crate::registry::{Call, CallError, ManifestVerb};
use crate::trace;
use crate::upstream::{
    Answer, CONTENT_DIGEST, ClientBody, Fault, Forward, RequestBody, UpstreamError,
};

/// Bytes of a manifest at most, as the registry itself has it (OCI distribution 1.1, "Pushing
/// Manifests": at least 4 MiB).
const MAX_MANIFEST: u64 = 4 << 20;
/// Bytes of the registry's answer to a push or delete at most: nothing, or an error.
const MAX_WRITE_ANSWER: usize = 1 << 20;

/// How long before its end a key earns a warning.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The proxy: rules that a reload swaps, and the ledger that outlives it.
pub struct Proxy {
    rules: ArcSwap<Rules>,
    ledger: Ledger,
    floods: Arc<Floods>,
    handshakes: Handshakes,
    listings: catalog::Turns,
    draining: AtomicBool,
}

impl Proxy {
    /// Puts the first rules in force.
    pub fn new(rules: Rules, ledger: Ledger) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            ledger,
            floods: Arc::default(),
            handshakes: Handshakes::default(),
            listings: catalog::Turns::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// The rules in force now.
    pub fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Puts new rules in force for all requests that begin from now on.
    pub fn swap(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// What outlives a reload.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
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
        self.floods.turned_away()
    }

    /// Writes what has not been written yet about requests turned away.
    pub fn tell_floods(&self) {
        self.floods.tell();
        self.handshakes.tell();
        self.ledger.audit.tell_floods();
    }

    /// Records a client certificate that the handshake ended with.
    pub(super) fn refuse_certificate(&self, from: IpAddr, reason: &str) {
        self.handshakes.refused(&self.ledger.audit, from, reason);
    }

    /// Answers one request. Whatever happens, one audit record is written for it: with the answer,
    /// at the end of a streamed body, or when this future is dropped because the client has gone.
    pub(super) async fn respond(
        &self,
        peer: &Peer,
        turn: Arc<Turn>,
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
        response.body_mut().watch(turn);
        response
    }

    /// Records a request whose client has gone before anything of it was looked at.
    pub(super) fn tell_unheard(&self, peer: &Peer, head: &unheard::Head) {
        let (ledger, rates) = (&self.ledger, self.rules.load().rates);
        let from = Source::of(peer.address);
        if let Err(why) = ledger.shield.request(from, rates, ledger.now()) {
            drop(self.floods.turn_away(&ledger.audit, peer.address, why));
            return;
        }
        let mut record = Record::open(&ledger.audit, ledger.audit.slot_now(), event(&head.uri));
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
    pub(super) async fn refuse_unread(
        &self,
        address: IpAddr,
        tls: Option<&str>,
        fault: BadHead,
        head: &[u8],
    ) -> Response<AnswerBody> {
        let (audit, rules) = (&self.ledger.audit, self.rules.load_full());
        let (from, now) = (Source::of(address), self.ledger.now());
        let _running = match self.ledger.shield.request(from, rules.rates, now) {
            Ok(running) => running,
            Err(why) => return self.floods.turn_away(audit, address, why),
        };
        let mut record = Record::open(audit, audit.slot().await, Event::Request);
        let method = fault.method(head);
        record.unread(address, tls, method);
        let wanted = Wanted::Call { scope: None };
        let refusal = Refusal::BadHead(fault);
        let response = refused(&refusal, rules.challenge, None, &wanted, &mut record);
        record.close();
        if method == Some("HEAD") {
            return without_body(response);
        }
        response
    }

    /// Turns a request away before anything of it is looked at, if its source makes too many.
    async fn shielded(&self, peer: &Peer, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let (ledger, rates) = (&self.ledger, self.rules.load().rates);
        let from = Source::of(peer.address);
        match ledger.shield.request(from, rates, ledger.now()) {
            Ok(running) => {
                let own = self.own_span(request.headers_mut());
                let span = span_of(request.headers());
                let mut response = self.exchange(peer, request, own).instrument(span).await;
                response.body_mut().hold(running);
                response
            }
            Err(why) => self.floods.turn_away(&ledger.audit, peer.address, why),
        }
    }

    async fn exchange(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
        own: Option<trace::Span>,
    ) -> Response<AnswerBody> {
        let rules = self.rules.load_full();
        let now = Timestamp::now();
        let (head, body) = request.into_parts();
        let is_token = head.uri.path() == "/token";
        let effect = if head.method.is_safe() || is_token {
            Effect::Read
        } else {
            Effect::Write
        };
        let audit = &self.ledger.audit;
        let slot = audit.slot().await;
        let is_late = slot.is_late();
        let mut record = Record::open(audit, slot, event(&head.uri));
        let agent = head
            .headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok());
        record.client(
            peer.address,
            &peer.tls.description,
            head.method.as_str(),
            agent,
        );
        if let Some(parent) = trace::Parent::of(&head.headers) {
            record.trace(parent.trace);
        }
        if let Some(span) = own {
            record.span(span);
        }

        let authority = match front_door(&head, &rules) {
            Ok(authority) => authority,
            Err(refusal) => {
                let refused = self.refuse(&rules, None, &head, refusal, Wait::No, record);
                return refused.await;
            }
        };
        if is_late && audit.may_lack_record(effect).is_err() {
            let (rules, late) = (&rules, Refusal::AuditUnwritable);
            return self
                .refuse(rules, Some(&authority), &head, late, Wait::No, record)
                .await;
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
            let token = Box::pin(exchange.token(body, &mut record));
            token.await.map(Done::Whole)
        } else {
            exchange.call(body, &mut record).await
        };
        match result {
            Ok(Done::Whole(response)) => {
                let wait = wait_for(&head.method, &record);
                self.close(&rules, &authority, response, (wait, effect), record)
                    .await
            }
            Ok(Done::Streaming(answer)) => {
                let Answer { head, body } = answer;
                Response::from_parts(head, AnswerBody::stream(body, record))
            }
            Err(refusal) => {
                if refusal.is_wrong_credential() {
                    let from = Source::of(peer.address);
                    self.ledger.shield.failure(from, self.ledger.now());
                }
                let wait = wait_for(&head.method, &record);
                self.refuse(&rules, Some(&authority), &head, refusal, wait, record)
                    .await
            }
        }
    }

    /// While spans are exported, each request has one of its own, which the registry is told.
    fn own_span(&self, headers: &mut HeaderMap) -> Option<trace::Span> {
        if !self.ledger.audit.tally().is_watched() {
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

    async fn refuse(
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
    async fn close(
        &self,
        rules: &Rules,
        authority: &Authority,
        response: Response<AnswerBody>,
        (wait, effect): (Wait, Effect),
        record: Record,
    ) -> Response<AnswerBody> {
        match wait {
            Wait::No => record.close(),
            Wait::Yes => {
                let audit = &self.ledger.audit;
                if record.close_and_wait().await.is_err() && audit.ready_for(effect).is_err() {
                    let mut late = Record::open(audit, audit.slot().await, Event::Audit);
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
enum Wait {
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

/// An answer, with its record still open.
enum Done {
    /// From the registry, to be streamed.
    Streaming(Answer),
    /// Known as a whole.
    Whole(Response<AnswerBody>),
}

impl Done {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Streaming(answer) => &mut answer.head.headers,
            Self::Whole(response) => response.headers_mut(),
        }
    }
}

/// Tells the bearer of a credential that it ends soon, in the header that clients show to people
/// (OCI distribution 1.1, "Warnings").
fn warn_of_expiry(headers: &mut HeaderMap, expires: Option<Timestamp>, now: Timestamp) {
    let Some(end) = expires.filter(|end| end.duration_since(now) <= WARN_BEFORE) else {
        return;
    };
    let date = end.strftime("%F");
    let text = format!("299 - \"this key expires on {date}; ask for a new one\"");
    if let Ok(text) = HeaderValue::from_str(&text) {
        headers.append(WARNING, text);
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

/// What does not depend on who is calling or what for: framing and host.
fn front_door(head: &Parts, rules: &Rules) -> Result<Authority, Refusal> {
    if head.version == Version::HTTP_2 && is_large(&head.headers) {
        return Err(Refusal::BadHead(BadHead::TooLarge));
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
    match &rules.public_authority {
        Some(public) if !authority.is(public) => Err(Refusal::Misdirected),
        Some(_) | None => Ok(authority),
    }
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

/// What all steps of one request share.
struct Exchange<'a> {
    proxy: &'a Proxy,
    rules: &'a Rules,
    now: Timestamp,
    peer: &'a Peer,
    authority: &'a Authority,
    head: &'a Parts,
}

impl Exchange<'_> {
    /// `/token`
    async fn token(
        &self,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Response<AnswerBody>, Refusal> {
        // Whoever pulls needs one.
        self.proxy.ledger.audit.ready_for(Effect::Read)?;
        let form = match self.head.method {
            Method::POST => {
                let timeout = self.rules.body_timeout;
                Some(read_form(&self.head.headers, body, timeout).await?)
            }
            _ => None,
        };
        let (rules, head) = (self.rules, self.head);
        let form = form.as_deref();
        let minted = issue(
            rules,
            &self.proxy.ledger,
            self.now,
            self.peer,
            self.authority,
            head,
            form,
            record,
        )
        .await?;
        let answer = serde_json::to_string(&minted)
            .map_err(|_cause| Refusal::Internal("a token could not be written"))?;
        record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
        record.add_bytes_out(u64::try_from(answer.len()).unwrap_or(u64::MAX));
        let mut response = unstored(json(StatusCode::OK, answer));
        warn_of_expiry(response.headers_mut(), minted.expires, self.now);
        Ok(response)
    }

    /// Everything else: judged, and forwarded with the permit.
    async fn call(&self, body: Incoming, record: &mut Record) -> Result<Done, Refusal> {
        let admission = judge(
            self.rules,
            &self.proxy.ledger,
            self.now,
            self.peer,
            self.authority,
            self.head,
            record,
        )
        .await?;
        let expires = admission.who.expires();
        let mut done = self.admitted(admission, body, record).await?;
        warn_of_expiry(done.headers_mut(), expires, self.now);
        Ok(done)
    }

    /// What the policy allows.
    async fn admitted(
        &self,
        admission: Box<Admission>,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Done, Refusal> {
        let Self {
            rules,
            now,
            peer,
            authority,
            ..
        } = *self;
        match admission.permit.call() {
            Call::Ping => {
                record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
                record.add_bytes_out(2);
                return Ok(Done::Whole(json(StatusCode::OK, "{}".to_owned())));
            }
            Call::Catalog(page) => {
                let whole = rules
                    .policy
                    .whole_catalog(&admission.who, peer.address, now);
                if !matches!(whole, Decision::Allow(_)) {
                    let who = &admission.who;
                    let turns = &self.proxy.listings;
                    let filtered = catalog::filtered(turns, rules, who, peer, authority, page, now);
                    let response = Box::pin(filtered).await?;
                    record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
                    return Ok(Done::Whole(response));
                }
            }
            Call::Blob { .. }
            | Call::Manifest { .. }
            | Call::Referrers { .. }
            | Call::StartUpload { .. }
            | Call::Tags { .. }
            | Call::Upload { .. } => {}
        }
        self.forward(admission, body, record).await
    }

    async fn forward(
        &self,
        admission: Box<Admission>,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Done, Refusal> {
        let Admission {
            permit,
            who,
            session,
            pull,
        } = *admission;
        let reads = permit.call().is_read();
        let body = self.body(permit.call(), body, record)?;
        let (_claim, body) = if reads {
            (None, body)
        } else {
            Box::pin(self.claim_tags(&permit, body)).await?
        };
        let with = Forward {
            headers: &self.head.headers,
            authority: self.authority.as_str(),
            address: self.peer.address,
            owner: who.user().unwrap_or_default(),
            session,
            now: self.now,
        };
        let mut answer = self.rules.upstream.forward(permit, with, body).await?;
        let status = answer.head.status;
        if let Some(pull) = pull {
            let headers = &mut answer.head.headers;
            let digest = headers
                .get(CONTENT_DIGEST)
                .and_then(|value| value.to_str().ok());
            let standing = pull.settle(status, digest, self.proxy.ledger.now()).await;
            limited(headers, &standing);
        }
        record.upstream_status(status.as_u16());
        let outcome = if status.is_server_error() {
            Outcome::Error
        } else {
            Outcome::Allowed
        };
        record.answer(outcome, status.as_u16());
        if reads {
            Ok(Done::Streaming(answer))
        } else {
            Box::pin(whole(
                answer,
                self.rules.upstream.response_timeout(),
                record,
            ))
            .await
        }
    }

    /// Makes sure that a caller who may only create tags moves none: those written must not exist,
    /// or point to this very manifest already, which is read before to be told by its digest. Nobody
    /// else may be writing them meanwhile.
    async fn claim_tags(
        &self,
        permit: &Permit,
        body: RequestBody,
    ) -> Result<(Option<Claim>, RequestBody), Refusal> {
        let tags = permit.call().tags_written();
        let Some(repo) = permit.call().repository().filter(|_| !tags.is_empty()) else {
            return Ok((None, body));
        };
        let creating = &self.proxy.ledger.creating;
        if permit.tags() == Tags::Move {
            return Ok((Some(creating.write(repo, &tags).await), body));
        }
        let manifest = body.collect().await.map_err(Refusal::Body)?.to_bytes();
        let claim = creating.create(repo, &tags).ok_or(Refusal::TagExists)?;
        for tag in tags {
            let authority = self.authority.as_str();
            let there = self.rules.upstream.tagged(permit, tag, authority).await?;
            if there.is_some_and(|there| there != sha256(&manifest)) {
                return Err(Refusal::TagExists);
            }
        }
        let body = RequestBody::Whole(Full::new(manifest));
        Ok((Some(claim), body))
    }

    /// The body that goes upstream: the client's, bounded and watched, or none.
    fn body(&self, call: &Call, body: Incoming, record: &Record) -> Result<RequestBody, Refusal> {
        if call.is_read() || self.head.method == Method::DELETE {
            return Ok(RequestBody::Empty);
        }
        let is_manifest = matches!(
            call,
            Call::Manifest {
                verb: ManifestVerb::Put { .. },
                ..
            }
        );
        let limit = if is_manifest { MAX_MANIFEST } else { u64::MAX };
        if content_length(&self.head.headers).is_some_and(|length| length > limit) {
            return Err(Refusal::Body(Fault::TooLarge));
        }
        let timeout = self.rules.body_timeout;
        Ok(RequestBody::Client(ClientBody::new(
            body,
            record.bytes_in(),
            limit,
            timeout,
        )))
    }
}

/// What the registry calls a manifest of these bytes (OCI image specification, "Digests").
fn sha256(manifest: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, manifest);
    let hex = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

/// Reads the answer to a push or delete to its end, so that its record can be closed before the
/// client sees it.
async fn whole(answer: Answer, timeout: Duration, record: &mut Record) -> Result<Done, Refusal> {
    let Answer { head, body } = answer;
    let arriving = tokio::time::timeout(timeout, Limited::new(body, MAX_WRITE_ANSWER).collect());
    let body = arriving
        .await
        .map_err(|_elapsed| UpstreamError::Timeout)?
        .map_err(|_cause| UpstreamError::Broken("its answer broke off".to_owned()))?
        .to_bytes();
    record.add_bytes_out(u64::try_from(body.len()).unwrap_or(u64::MAX));
    let body = if body.is_empty() {
        AnswerBody::empty()
    } else {
        AnswerBody::full(body)
    };
    Ok(Done::Whole(Response::from_parts(head, body)))
}

/// Reads a form; all of it has to arrive in the time that other bodies may pause.
async fn read_form(
    headers: &HeaderMap,
    body: Incoming,
    timeout: Duration,
) -> Result<String, Refusal> {
    let limit = u64::try_from(MAX_FORM).unwrap_or(u64::MAX);
    if content_length(headers).is_some_and(|length| length > limit) {
        return Err(Refusal::Body(Fault::TooLarge));
    }
    let arriving = tokio::time::timeout(timeout, Limited::new(body, MAX_FORM).collect());
    let collected = arriving
        .await
        .map_err(|_elapsed| Refusal::Body(Fault::Stalled))?;
    let bytes: Bytes = collected
        .map_err(|error| {
            Refusal::Body(if error.is::<LengthLimitError>() {
                Fault::TooLarge
            } else {
                Fault::Gone
            })
        })?
        .to_bytes();
    String::from_utf8(bytes.into()).map_err(|_cause| Refusal::OAuth {
        error: "invalid_request",
        message: "the form is not UTF-8",
    })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
