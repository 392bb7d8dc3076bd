//! What is done for a request with a permit: it is answered here, or forwarded.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, WARNING};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};

use super::body::AnswerBody;
use super::catalog;
use super::instance::Proxy;
use super::response::{json, limited, unstored};
use crate::access::{Admission, MAX_FORM, Refusal, issue};
use crate::audit::{Outcome, Purpose, Record};
use crate::identity::Identity;
use crate::registry::{Call, RepoName};
use crate::request::RequestContext;
use crate::upstream::{
    Answer, CONTENT_DIGEST, Fault, Forward, RequestBody, Session, Unanswered, UpstreamError,
    digest_of,
};

/// How long before its end a key earns a warning.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Answers a request for a token.
pub(super) async fn token(
    context: &RequestContext,
    body: Incoming,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Refusal> {
    // Every pull needs one.
    context.retained.audit.ready_for(Purpose::Read)?;
    let form = match context.head.method {
        Method::POST => {
            let timeout = context.rules.body_timeout;
            Some(read_form(&context.head.headers, body, timeout).await?)
        }
        _ => None,
    };
    let minted = issue(context, form.as_deref(), record).await?;
    let answer = serde_json::to_string(&minted)
        .map_err(|_cause| Refusal::Internal("a token could not be written"))?;
    record.permitted();
    record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
    record.add_bytes_out(u64::try_from(answer.len()).unwrap_or(u64::MAX));
    let mut response = unstored(json(StatusCode::OK, answer));
    warn_of_expiry(response.headers_mut(), minted.expires, context.now);
    Ok(response)
}

/// Answers what leaves the registry as it is: here, or by forwarding it with the permit.
pub(super) async fn read(
    proxy: &Proxy,
    context: &RequestContext,
    admission: Box<Admission>,
    record: &mut Record,
) -> Result<Done, Refusal> {
    let expires = admission.who.expires();
    let mut done = match admission.permit.call() {
        Call::Ping => {
            record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
            record.add_bytes_out(2);
            Done::Whole(json(StatusCode::OK, "{}".to_owned()))
        }
        // In a box, so that the others have no room for it.
        Call::Catalog(_) => Box::pin(list(proxy, context, admission, record)).await?,
        Call::Blob { .. }
        | Call::Manifest { .. }
        | Call::Referrers { .. }
        | Call::StartUpload { .. }
        | Call::Tags { .. }
        | Call::Upload { .. } => fetch(proxy, context, admission, record).await?,
    };
    warn_of_expiry(done.headers_mut(), expires, context.now);
    Ok(done)
}

/// The catalog: as it is for a caller who may see all of it, else the part that the caller may pull.
async fn list(
    proxy: &Proxy,
    context: &RequestContext,
    admission: Box<Admission>,
    record: &mut Record,
) -> Result<Done, Refusal> {
    let RequestContext {
        rules, now, peer, ..
    } = context;
    let Admission { permit, who, .. } = &*admission;
    let whole = rules.policy.whole_catalog(who, peer.address, *now);
    if let (Call::Catalog(page), false) = (permit.call(), whole.is_allow()) {
        let response = catalog::filtered(&proxy.listings, context, who, page).await?;
        record.answer(Outcome::Allowed, StatusCode::OK.as_u16());
        return Ok(Done::Whole(response));
    }
    let whom = catalog::claimant(who, peer.address);
    let timeout = rules.upstream.response_timeout();
    let _turn = proxy.listings.turn(whom, timeout).await?;
    fetch(proxy, context, admission, record).await
}

/// Forwards a read, and settles what it costs.
async fn fetch(
    proxy: &Proxy,
    context: &RequestContext,
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
    let no_tags = matches!(permit.call(), Call::Tags { page, .. } if page.n == Some(0));
    let with = accompanying(context, &who, session);
    let upstream = &context.rules.upstream;
    let forwarded = upstream.forward(permit, with, RequestBody::Empty);
    let mut answer = forwarded.await.map_err(|none| unanswered(none, record))?;
    let status = answer.head.status;
    if let Some(pull) = pull {
        let headers = &mut answer.head.headers;
        let digest = headers
            .get(CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok());
        let standing = pull.settle(status, digest, context.retained.now()).await;
        limited(headers, &standing);
    }
    record.registry_answer(outcome_of(status), status.as_u16());
    if status.is_success() {
        if let Some(digest) = named.or_else(|| digest_of(&answer.head.headers)) {
            record.digest(&digest);
        }
        if let Some(repository) = repository {
            proxy.repositories.note(repository.as_str());
            if no_tags {
                return Ok(Done::Whole(empty_page(&repository, record)));
            }
        }
    }
    Ok(Done::Streaming(answer))
}

/// A page of no tags, where no more were asked for (OCI distribution 1.1, "Listing Tags"). Registries of
/// before answer with all that they have.
fn empty_page(repository: &RepoName, record: &mut Record) -> Response<AnswerBody> {
    let page = format!("{{\"name\":\"{repository}\",\"tags\":[]}}");
    record.add_bytes_out(u64::try_from(page.len()).unwrap_or(u64::MAX));
    json(StatusCode::OK, page)
}

/// What goes upstream with a permit.
pub(super) fn accompanying<'a>(
    context: &'a RequestContext,
    who: &'a Identity,
    session: Option<Session>,
) -> Forward<'a> {
    Forward {
        headers: &context.head.headers,
        has_trace: context.trace.is_some(),
        authority: context.authority.as_str(),
        address: context.peer.address,
        owner: who.subject(),
        session,
        now: context.now,
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
