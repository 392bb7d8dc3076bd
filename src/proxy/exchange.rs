//! What is done for a request that has passed the door: judged, and forwarded with the permit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, WARNING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};

use super::body::AnswerBody;
use super::catalog;
use super::response::{json, limited, unstored};
use super::service::Proxy;
use crate::access::{Admission, MAX_FORM, Refusal, issue, judge};
use crate::audit::{Outcome, Purpose, Record};
use crate::identity::Peer;
use crate::policy::Decision;
use crate::registry::Call;
use crate::request::Authority;
use crate::state::Rules;
use crate::upstream::{
    Answer, CONTENT_DIGEST, Fault, Forward, RequestBody, Unanswered, UpstreamError, digest_of,
};

/// How long before its end a key earns a warning.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What all steps of one request share.
pub(super) struct Exchange<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) rules: &'a Arc<Rules>,
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
        self.proxy.retained().audit.ready_for(Purpose::Read)?;
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
            self.proxy.retained(),
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
        record.permitted();
        record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
        record.add_bytes_out(u64::try_from(answer.len()).unwrap_or(u64::MAX));
        let mut response = unstored(json(StatusCode::OK, answer));
        warn_of_expiry(response.headers_mut(), minted.expires, self.now);
        Ok(response)
    }

    /// Everything else is judged first.
    pub(super) async fn judge(&self, record: &mut Record) -> Result<Box<Admission>, Refusal> {
        judge(
            self.rules,
            self.proxy.retained(),
            self.now,
            self.peer,
            self.authority,
            self.head,
            record,
        )
        .await
    }

    /// What leaves the registry as it is: answered here, or forwarded with the permit.
    pub(super) async fn read(
        &self,
        admission: Box<Admission>,
        record: &mut Record,
    ) -> Result<Done, Refusal> {
        let expires = admission.who.expires();
        let mut done = self.admitted(admission, record).await?;
        warn_of_expiry(done.headers_mut(), expires, self.now);
        Ok(done)
    }

    /// What the policy allows.
    async fn admitted(
        &self,
        admission: Box<Admission>,
        record: &mut Record,
    ) -> Result<Done, Refusal> {
        let Self {
            rules,
            now,
            peer,
            authority,
            ..
        } = *self;
        let _turn = match admission.permit.call() {
            Call::Ping => {
                record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
                record.add_bytes_out(2);
                return Ok(Done::Whole(json(StatusCode::OK, "{}".to_owned())));
            }
            Call::Catalog(page) => {
                let whole = rules
                    .policy
                    .whole_catalog(&admission.who, peer.address, now);
                let (who, listings) = (&admission.who, &self.proxy.listings);
                if !matches!(whole, Decision::Allow(_)) {
                    let filtered =
                        catalog::filtered(listings, rules, who, peer, authority, page, now);
                    let response = Box::pin(filtered).await?;
                    record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
                    return Ok(Done::Whole(response));
                }
                let whom = catalog::claimant(who, peer.address);
                Some(
                    listings
                        .turn(whom, rules.upstream.response_timeout())
                        .await?,
                )
            }
            Call::Blob { .. }
            | Call::Manifest { .. }
            | Call::Referrers { .. }
            | Call::StartUpload { .. }
            | Call::Tags { .. }
            | Call::Upload { .. } => None,
        };
        self.forward(admission, record).await
    }

    async fn forward(
        &self,
        admission: Box<Admission>,
        record: &mut Record,
    ) -> Result<Done, Refusal> {
        let Admission {
            permit,
            who,
            session,
            pull,
        } = *admission;
        let named = permit.call().digest().cloned();
        let repository = permit.call().repository().cloned();
        let with = Forward {
            headers: &self.head.headers,
            authority: self.authority.as_str(),
            address: self.peer.address,
            owner: who.subject(),
            session,
            now: self.now,
        };
        let forwarded = self
            .rules
            .upstream
            .forward(permit, with, RequestBody::Empty);
        let mut answer = forwarded.await.map_err(|none| unanswered(none, record))?;
        let status = answer.head.status;
        if let Some(pull) = pull {
            let headers = &mut answer.head.headers;
            let digest = headers
                .get(CONTENT_DIGEST)
                .and_then(|value| value.to_str().ok());
            let standing = pull
                .settle(status, digest, self.proxy.retained().now())
                .await;
            limited(headers, &standing);
        }
        record.registry_answer(outcome_of(status), status.as_u16());
        if status.is_success() {
            if let Some(digest) = named.or_else(|| digest_of(&answer.head.headers)) {
                record.digest(&digest);
            }
            if let Some(repository) = repository {
                self.proxy.repositories.note(repository.as_str());
            }
        }
        Ok(Done::Streaming(answer))
    }
}

/// What a client is told in place of an answer; the record says what the registry answered.
pub(super) fn unanswered(none: Unanswered, record: &mut Record) -> Refusal {
    let Unanswered { status, error } = none;
    if let Some(status) = status {
        record.registry_status(status.as_u16());
    }
    if matches!(error, UpstreamError::Client(Fault::Unrecorded)) {
        Refusal::AuditUnwritable
    } else {
        error.into()
    }
}

/// What an answer of the registry means for the record.
pub(super) fn outcome_of(status: StatusCode) -> Outcome {
    if status.is_server_error() {
        Outcome::Error
    } else {
        Outcome::Allowed
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
pub(super) fn warn_of_expiry(headers: &mut HeaderMap, expires: Option<Timestamp>, now: Timestamp) {
    let Some(end) = expires.filter(|end| end.duration_since(now) <= WARN_BEFORE) else {
        return;
    };
    let date = end.strftime("%F");
    let text = format!("299 - \"this key expires on {date}; ask for a new one\"");
    if let Ok(text) = HeaderValue::from_str(&text) {
        headers.append(WARNING, text);
    }
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

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
