//! What is done for a request that has passed the door: judged, and forwarded with the permit.

use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, WARNING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};

use super::answer::{json, limited, unstored};
use super::body::AnswerBody;
use super::catalog;
use super::respond::Proxy;
use crate::audit::{Effect, Outcome, Record};
use crate::gate::{Admission, Authority, Claim, MAX_FORM, Refusal, Rules, issue, judge};
use crate::identity::Peer;
use crate::policy::{Decision, Permit, Tags};
use crate::registry::{Call, ManifestVerb};
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

/// What all steps of one request share.
pub(super) struct Exchange<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) rules: &'a Rules,
    pub(super) now: Timestamp,
    pub(super) peer: &'a Peer,
    pub(super) authority: &'a Authority,
    pub(super) head: &'a Parts,
}

impl Exchange<'_> {
    /// `/token`
    pub(super) async fn token(
        &self,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Response<AnswerBody>, Refusal> {
        // Whoever pulls needs one.
        self.proxy.ledger().audit.ready_for(Effect::Read)?;
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
            self.proxy.ledger(),
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
    pub(super) async fn call(&self, body: Incoming, record: &mut Record) -> Result<Done, Refusal> {
        let admission = judge(
            self.rules,
            self.proxy.ledger(),
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
            let standing = pull.settle(status, digest, self.proxy.ledger().now()).await;
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
        let creating = &self.proxy.ledger().creating;
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

/// An answer, with its record still open.
pub(super) enum Done {
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
