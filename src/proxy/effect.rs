//! A write under way: a push, a delete, a step of an upload.
//!
//! Until its body is whole it is the client's: a client who leaves ends it. From the arrival of its
//! last byte on no task can drop it: it runs to the registry's answer, with its tag lock, its source's
//! place and its record, through a reload and a drain. When its client leaves, it goes on in a task of
//! its own. At the end of a drain it leaves a record of an error.
//!
//! A write that commits has room in the audit trail before its last byte goes upstream. So nothing is
//! done that no record will tell of, and no room is kept for a client who sends slowly.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Response, StatusCode, response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{Instrument, Span};

use super::body::AnswerBody;
use super::closing::Wait;
use super::effects::asked_to_stop;
use super::forward::{accompanying, content_length, outcome_of, unanswered, warn_of_expiry};
use super::instance::Proxy;
use super::tag_locks::{TagGuard, places};
use crate::access::{Admission, Refusal};
use crate::audit::{Record, Reservation};
use crate::identity::Subject;
use crate::limit::Running;
use crate::policy::{Permit, Tags};
use crate::registry::{Call, Digest, ManifestVerb, References, RepoName, Tag};
use crate::request::RequestContext;
use crate::store::{TagClaim, TagUse};
use crate::upstream::{
    Answer, Clearance, ClientBody, Fault, RequestBody, UpstreamError, digest_of,
};

/// Bytes of a manifest at most, as the registry itself has it (OCI distribution 1.1, "Pushing
/// Manifests": at least 4 MiB).
const MAX_MANIFEST: u64 = 4 << 20;
/// Bytes of the registry's answer to a push or delete at most: nothing, or an error.
const MAX_WRITE_ANSWER: usize = 1 << 20;
/// How the types of manifests of schema 1 begin.
const SCHEMA_1: &[u8] = b"application/vnd.docker.distribution.manifest.v1+";
/// How long a push waits for another one of the same tag.
const TAG_WAIT: Duration = Duration::from_secs(5);

/// How far a write is, as the client's side and the write itself both see it.
#[derive(Debug, Default)]
struct Progress {
    is_whole: AtomicBool,
    client_left: AtomicBool,
}

/// A write, as its client waits for it.
pub(super) struct Effect {
    work: Option<Pin<Box<dyn Future<Output = Response<AnswerBody>> + Send>>>,
    progress: Arc<Progress>,
}

/// What a write is made of.
pub(super) struct Write {
    pub(super) proxy: Arc<Proxy>,
    pub(super) context: RequestContext,
    /// Among the requests of its source; held to the end.
    pub(super) _running: Running,
}

impl Effect {
    /// Begins when it is first polled.
    pub(super) fn new(
        write: Write,
        admission: Box<Admission>,
        body: Incoming,
        record: Record,
    ) -> Self {
        let progress = Arc::<Progress>::default();
        let stop = write.proxy.effects.subscribe();
        let run = write.run(admission, body, record, Arc::clone(&progress), stop);
        Self {
            work: Some(Box::pin(run.instrument(Span::current()))),
            progress,
        }
    }
}

impl Future for Effect {
    type Output = Response<AnswerBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl Drop for Effect {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        if !self.progress.is_whole.load(Ordering::Relaxed) {
            return;
        }
        self.progress.client_left.store(true, Ordering::Relaxed);
        // Without a runtime the process is ending, and all writes with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(work);
        }
    }
}

impl Write {
    async fn run(
        self,
        admission: Box<Admission>,
        body: Incoming,
        mut record: Record,
        progress: Arc<Progress>,
        mut stop: watch::Receiver<bool>,
    ) -> Response<AnswerBody> {
        let expires = admission.who.expires();
        let result = tokio::select! {
            // What the registry has answered counts, also in the last moment.
            biased;
            result = self.carry_out(admission, body, &mut record, &progress) => result,
            () = asked_to_stop(&mut stop) => Err(if progress.is_whole.load(Ordering::Relaxed) {
                Refusal::Stopping
            } else {
                Refusal::Interrupted
            }),
        };
        if progress.client_left.load(Ordering::Relaxed) {
            record.client_left();
        }
        let (proxy, context) = (&self.proxy, &self.context);
        let result = result.map(|mut response| {
            warn_of_expiry(response.headers_mut(), expires, context.now);
            response
        });
        proxy.end(context, result, Wait::Yes, record).await
    }

    async fn carry_out(
        &self,
        admission: Box<Admission>,
        body: Incoming,
        record: &mut Record,
        progress: &Arc<Progress>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let Admission {
            permit,
            who,
            session,
            pull: _,
        } = *admission;
        let reservation = permit.call().commits().then(|| record.reserve());
        let mut digest = permit.call().digest().cloned();
        let repository = permit.call().repository().cloned();
        let is_manifest = is_manifest_push(permit.call());
        let mut clearance = clearance(Arc::clone(progress), reservation);
        let body = self.body(body, record, is_manifest)?;
        let (locked, body) = if is_manifest {
            let manifest = body.collect().await.map_err(Refusal::Body)?.to_bytes();
            progress.is_whole.store(true, Ordering::Relaxed);
            record.refers(&References::of(&manifest));
            digest = digest.or_else(|| self.digest_of(&manifest));
            let locked = self.lock_tags(&permit, who.subject(), digest.as_ref(), record);
            let locked = locked.await?;
            cleared(&mut clearance).await?;
            (locked, RequestBody::Whole(Full::new(manifest)))
        } else {
            let body = match body {
                RequestBody::Client(body) if !body.is_end_stream() => {
                    RequestBody::Client(body.cleared_by(clearance, permit.call().commits()))
                }
                empty @ (RequestBody::Client(_) | RequestBody::Empty | RequestBody::Whole(_)) => {
                    cleared(&mut clearance).await?;
                    empty
                }
            };
            (None, body)
        };
        let with = accompanying(&self.context, &who, session);
        let answer = self
            .context
            .rules
            .upstream
            .forward(permit, with, body)
            .await;
        if let Some(claim) = locked.and_then(|(_guard, claim)| claim) {
            claim.release().await;
        }
        // It may have been done however it ended.
        match (&self.context.head.method, &repository) {
            (&Method::DELETE, _) => self.proxy.listings.removed(),
            (_, Some(repository)) => self.proxy.listings.written(repository.as_str()),
            (_, None) => {}
        }
        let answer = answer.map_err(|none| unanswered(none, record))?;
        let status = answer.head.status;
        record.registry_answer(outcome_of(status), status.as_u16());
        // What is known of the content counts before what the registry calls it.
        if self.is_done(status) {
            if let Some(digest) = digest.or_else(|| digest_of(&answer.head.headers)) {
                record.digest(&digest);
            }
            if let Some(repository) = repository {
                self.proxy.repositories.note(repository.as_str());
            }
        }
        let timeout = self.context.rules.upstream.response_timeout();
        match whole(answer, timeout, record).await {
            Err((head, error)) if self.is_done(status) => {
                tracing::warn!(%error, "what the registry says of a write that it has done is lost");
                Ok(Response::from_parts(head, AnswerBody::empty()))
            }
            Err((_, error)) => Err(error.into()),
            Ok(response) => Ok(response),
        }
    }

    /// The tags of a push, locked: no other push writes them until the registry has answered. For a
    /// caller who may only create tags they must not exist, or point to this very manifest already.
    async fn lock_tags(
        &self,
        permit: &Permit,
        subject: &Subject,
        manifest: Option<&Digest>,
        record: &mut Record,
    ) -> Result<Option<(TagGuard, Option<TagClaim>)>, Refusal> {
        let tags = permit.call().tags_written();
        let Some(repo) = permit.call().repository().filter(|_| !tags.is_empty()) else {
            return Ok(None);
        };
        let locks = &self.proxy.tag_locks;
        let how = match permit.tags() {
            Tags::Move => TagUse::Move,
            Tags::CreateOnly => TagUse::Create,
        };
        let locking = async {
            match how {
                TagUse::Move => locks.write(repo, &tags).await,
                TagUse::Create => locks.create(repo, &tags).await,
            }
        };
        let guard = tokio::time::timeout(TAG_WAIT, locking);
        let guard = guard.await.map_err(|_elapsed| Refusal::TagBusy)?;
        let locked = (guard, self.claim(repo, &tags, how).await?);
        if how == TagUse::Move {
            return Ok(Some(locked));
        }
        for tag in tags {
            let authority = self.context.authority.as_str();
            let there = self
                .context
                .rules
                .upstream
                .tagged(permit, tag, authority)
                .await?;
            let Some(there) = there else { continue };
            let there = Digest::parse(&there);
            if let Some(there) = &there {
                record.digest_before(there);
            }
            // Nothing is known to be the same where the registry does not say what it has.
            if there.is_none() || there.as_ref() != manifest {
                return Err(Refusal::TagExists {
                    subject: subject.clone(),
                    place: format!("{repo}:{tag}").into(),
                });
            }
        }
        Ok(Some(locked))
    }

    /// The same tags, claimed from the other replicas where there is a store. A caller who may move them
    /// goes on without its answer: it takes nothing that is not its own to take.
    async fn claim(
        &self,
        repo: &RepoName,
        tags: &[&Tag],
        how: TagUse,
    ) -> Result<Option<TagClaim>, Refusal> {
        let rules = &self.context.rules;
        let Some(store) = &rules.store else {
            return Ok(None);
        };
        let (tags, lasts) = (places(repo, tags), rules.upstream.longest_push(tags.len()));
        let claiming = tokio::time::timeout(TAG_WAIT, store.claim(&tags, how, lasts));
        let claim = claiming.await.map_err(|_elapsed| Refusal::TagBusy)?;
        match (&claim, how) {
            (None, TagUse::Create) => Err(Refusal::TagsUnshared),
            (None, TagUse::Move) | (Some(_), _) => Ok(claim),
        }
    }

    /// What a manifest of these bytes is called (OCI image specification, "Digests"). One of schema 1
    /// is called after its part that is signed, which the registry knows.
    fn digest_of(&self, manifest: &[u8]) -> Option<Digest> {
        let kind = self.context.head.headers.get(CONTENT_TYPE);
        let is_old = kind.is_some_and(|kind| kind.as_bytes().starts_with(SCHEMA_1));
        (!is_old).then(|| Digest::of(manifest))
    }

    /// Whether something has become part of the registry, or is gone from it.
    fn is_done(&self, status: StatusCode) -> bool {
        status == StatusCode::CREATED
            || (self.context.head.method == Method::DELETE && status == StatusCode::ACCEPTED)
    }

    /// The body that goes upstream: the client's, bounded and watched, or none.
    fn body(
        &self,
        body: Incoming,
        record: &mut Record,
        is_manifest: bool,
    ) -> Result<RequestBody, Refusal> {
        if self.context.head.method == Method::DELETE {
            return Ok(RequestBody::Empty);
        }
        let limit = if is_manifest { MAX_MANIFEST } else { u64::MAX };
        if content_length(&self.context.head.headers).is_some_and(|length| length > limit) {
            return Err(Refusal::Body(Fault::TooLarge));
        }
        let timeout = self.context.rules.body_timeout;
        let body = ClientBody::new(body, record.bytes_in(), limit, timeout);
        Ok(RequestBody::Client(body))
    }
}

/// What has to happen when the last byte of a body has arrived, before it goes upstream.
fn clearance(progress: Arc<Progress>, reservation: Option<Reservation>) -> Clearance {
    Box::pin(async move {
        progress.is_whole.store(true, Ordering::Relaxed);
        match reservation {
            Some(reservation) => reservation.take().await.is_ok(),
            None => true,
        }
    })
}

async fn cleared(clearance: &mut Clearance) -> Result<(), Refusal> {
    if clearance.await {
        Ok(())
    } else {
        Err(Refusal::AuditUnwritable)
    }
}

fn is_manifest_push(call: &Call) -> bool {
    matches!(
        call,
        Call::Manifest {
            verb: ManifestVerb::Put { .. },
            ..
        }
    )
}

/// Reads the answer to a push or delete to its end, so that its record can be closed before the
/// client sees it. Where it has none its head is left, as that of an answer without a body.
async fn whole(
    answer: Answer,
    timeout: Duration,
    record: &mut Record,
) -> Result<Response<AnswerBody>, (response::Parts, UpstreamError)> {
    let Answer { mut head, body } = answer;
    let arriving = tokio::time::timeout(timeout, Limited::new(body, MAX_WRITE_ANSWER).collect());
    let body = match arriving.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_cause)) => Err(UpstreamError::Broken("its answer broke off".to_owned())),
        Err(_elapsed) => Err(UpstreamError::Timeout),
    };
    let body: Bytes = match body {
        Ok(body) => body,
        Err(error) => {
            for name in [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE] {
                head.headers.remove(name);
            }
            return Err((head, error));
        }
    };
    record.add_bytes_out(u64::try_from(body.len()).unwrap_or(u64::MAX));
    let body = if body.is_empty() {
        AnswerBody::empty()
    } else {
        AnswerBody::full(body)
    };
    Ok(Response::from_parts(head, body))
}
