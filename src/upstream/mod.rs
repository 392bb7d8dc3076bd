//! The registry behind us: connections, and forwarding what has a permit.
//!
//! hyper is the client, as it is the server; `server` says why. What goes upstream is written anew
//! from the parsed call; of headers those of the registry API cross, in both directions. The registry
//! is not believed either: where its answers lead is parsed.

mod answer;
mod body;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod head;
mod headers;
mod inspect;
mod location;
mod origin;
mod pool;
mod redirect;
mod session;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, HOST, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use jiff::Timestamp;

pub use answer::{Cut, Incoming};
pub use body::{Clearance, ClientBody, Fault, RequestBody};
pub use headers::{PassHeader, PassHeaders};
use headers::{is_framed_once, passed_back, passed_on};
pub use inspect::BlobSource;
use location::{Elsewhere, Location};
use origin::{Origin, Scheme, parse_authority};
pub use pool::Pool;
use pool::{Failure, Lease, Limits, Target};
pub use redirect::{RedirectHost, RedirectHosts};
pub use session::{Seal, Session};
pub use settings::{Settings, UpstreamUrl};

use crate::identity::{Subject, address_text};
use crate::policy::Permit;
use crate::registry::{BlobVerb, Call, Digest, ManifestVerb, Read, RepoName, UploadId, UploadVerb};
use crate::telemetry::LogLimit;
use crate::tls::{TlsError, in_words};

/// Of lines about links that lead elsewhere.
static LINKS: LogLimit = LogLimit::new();

/// Why the registry did not answer. None of these says anything about the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The client's own body broke, stalled or was too large.
    #[error("the client's body ended early")]
    Client(Fault),
    /// No connection.
    #[error("cannot connect to the registry: {0}")]
    Connect(String),
    /// Others are before the caller, and it would take too long.
    #[error("too many want this of the registry at a time")]
    Crowded,
    /// The connection broke before an answer.
    #[error("the registry broke off: {0}")]
    Broken(String),
    /// An answer that cannot be passed on.
    #[error("the registry's answer cannot be used: {0}")]
    Unusable(&'static str),
    /// A redirect that no client may follow, and where to.
    #[error("the registry redirects to {0}, which is not in `upstream.redirect_hosts`")]
    Redirected(Box<str>),
    /// An upload session that is not of this registry and repository, and where it is.
    #[error("the registry leads an upload to {0}")]
    LedAway(Box<str>),
    /// No connection, or no answer, in time.
    #[error("the registry did not answer in time")]
    Timeout,
}

/// Why a call has no answer that its client may see.
#[derive(Debug)]
pub struct Unanswered {
    /// What the registry said nevertheless.
    pub status: Option<StatusCode>,
    /// What is wrong.
    pub error: UpstreamError,
}

impl From<UpstreamError> for Unanswered {
    fn from(error: UpstreamError) -> Self {
        let status = None;
        Self { status, error }
    }
}

/// The registry, as configured. Made anew at each reload; the pool stays.
pub struct Upstream {
    target: Target,
    key: u64,
    /// How the registry calls itself, where it is on a network.
    origin: Option<Origin>,
    login: Option<HeaderValue>,
    redirect_hosts: RedirectHosts,
    pass_headers: PassHeaders,
    pass_answer_headers: PassHeaders,
    connect_timeout: Duration,
    response_timeout: Duration,
    commit_timeout: Duration,
    pool: Arc<Pool>,
    seal: Seal,
}

/// What accompanies a permit upstream.
pub struct Forward<'a> {
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// Whether they name the trace that the request belongs to.
    pub has_trace: bool,
    /// The host name the client used, checked.
    pub authority: &'a str,
    /// The client's address, for `X-Forwarded-For`.
    pub address: std::net::IpAddr,
    /// Owner of the upload session that the answer may hand out; empty for anonymous.
    pub owner: &'a Subject,
    /// The session being continued.
    pub session: Option<Session>,
    /// Now, for new sessions.
    pub now: Timestamp,
}

/// The registry's answer: a head ready for the client, and the body.
pub struct Answer {
    /// Status and headers as the client may see them.
    pub head: http::response::Parts,
    /// The body, still streaming.
    pub body: Incoming,
}

impl Upstream {
    /// Sets up the way to the registry; opens no connection yet.
    pub fn new(config: &Settings, pool: Arc<Pool>, seal: Seal) -> Result<Self, TlsError> {
        // Connections are good for as long as whom they were checked by.
        let mut roots = None;
        let target = match &config.url {
            UpstreamUrl::Http { host, port } => Target::Tcp {
                host: host.clone(),
                port: *port,
                tls: None,
            },
            UpstreamUrl::Https { host, port } => {
                let trust = crate::tls::upstream_trust(config.ca.as_deref())?;
                roots = Some(trust.roots);
                Target::Tcp {
                    host: host.clone(),
                    port: *port,
                    tls: Some(trust.config),
                }
            }
            UpstreamUrl::Unix(path) => Target::Unix(path.clone()),
        };
        Ok(Self {
            origin: target.origin(),
            target,
            redirect_hosts: config.redirect_hosts.clone(),
            pass_headers: config.pass_headers.clone(),
            pass_answer_headers: config.pass_answer_headers.clone(),
            key: pool::key(&config.url, roots),
            login: config.login.as_ref().and_then(|(user, password)| {
                let pair = format!("{user}:{}", password.expose());
                let mut value =
                    HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
                value.set_sensitive(true);
                Some(value)
            }),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            commit_timeout: config.commit_timeout,
            pool,
            seal,
        })
    }

    /// Closes connections that were made under another configuration: elsewhere, or verified by other
    /// authorities.
    pub fn close_others(&self) {
        self.pool.keep_only(self.key);
    }

    /// Opens the sealed state of an upload session; `None` unless we sealed it for this repository
    /// and session.
    pub fn open_session(&self, call: &Call) -> Option<Session> {
        match call {
            Call::Upload {
                repo, id, state, ..
            } => self
                .seal
                .open(state.as_deref()?, repo.as_str(), id.as_str()),
            Call::Blob { .. }
            | Call::Catalog(_)
            | Call::Manifest { .. }
            | Call::Ping
            | Call::Referrers { .. }
            | Call::StartUpload { .. }
            | Call::Tags { .. } => None,
        }
    }

    /// How long an answer to a push or delete may take to arrive as a whole.
    pub fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// How long a push may take at most, from a question about each of its tags to the answer.
    pub fn longest_push(&self, tags: usize) -> Duration {
        let questions = u32::try_from(tags).unwrap_or(u32::MAX);
        let asking = self.response_timeout.saturating_mul(questions);
        // Connections, and room in the trail.
        let rest = Duration::from_mins(1);
        self.commit_timeout
            .saturating_add(asking)
            .saturating_add(rest)
    }

    /// Sends a permitted call and waits for the head of the answer.
    pub async fn forward(
        &self,
        permit: Permit,
        with: Forward<'_>,
        body: RequestBody,
    ) -> Result<Answer, Unanswered> {
        let call = permit.call();
        let request = self.request_for(call, &with, body)?;
        let again = || {
            let made = call
                .is_read()
                .then(|| self.request_for(call, &with, RequestBody::Empty));
            made?.ok()
        };
        let answer = if call.is_read() {
            self.response_timeout
        } else {
            self.commit_timeout
        };
        let mut answer = self.send(request, answer, again).await?;
        let status = Some(answer.head.status);
        self.clean(call, &with, &mut answer.head)
            .map_err(|error| Unanswered { status, error })?;
        Ok(answer)
    }

    /// What goes upstream for a call.
    fn request_for(
        &self,
        call: &Call,
        with: &Forward<'_>,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, UpstreamError> {
        let mut target = call.target();
        if let Some(session) = &with.session
            && !session.query.is_empty()
        {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(&session.query);
        }
        let mut request = self.request(method(call), &target, with.authority, body)?;
        passed_on(
            with.headers,
            with.has_trace,
            call,
            &self.pass_headers,
            request.headers_mut(),
        );
        forwarded(with.address, request.headers_mut());
        Ok(request)
    }

    /// Asks on our own behalf what a tag points to, for callers who may not move tags: `None` if it
    /// does not exist, and nothing where the registry does not say. The permit at hand is for
    /// writing that tag.
    pub async fn tagged(
        &self,
        permit: &Permit,
        tag: &crate::registry::Tag,
        authority: &str,
    ) -> Result<Option<String>, UpstreamError> {
        let Some(repo) = permit.call().repository() else {
            return Ok(None);
        };
        let target = format!("/v2/{repo}/manifests/{tag}");
        let accept = HeaderValue::from_static(MANIFESTS);
        let make = || {
            let mut request = self.request(Method::HEAD, &target, authority, RequestBody::Empty)?;
            // Any manifest will do, whatever its type.
            request.headers_mut().insert(ACCEPT, accept.clone());
            Ok(request)
        };
        let Answer { head, body } = self.ask(make).await?;
        drop(body);
        match head.status {
            StatusCode::OK => {
                let digest = head.headers.get(CONTENT_DIGEST);
                let digest = digest.and_then(|digest| digest.to_str().ok());
                Ok(Some(digest.unwrap_or_default().to_owned()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(UpstreamError::Unusable(
                "a tag's existence could not be told",
            )),
        }
    }

    /// Reads one page of the registry's catalog on our own behalf, for filtering.
    pub async fn catalog_page(
        &self,
        page: &crate::registry::Page,
        authority: &str,
    ) -> Result<Answer, UpstreamError> {
        let target = Call::Catalog(page.clone()).target();
        let make = || self.request(Method::GET, &target, authority, RequestBody::Empty);
        let answer = self.ask(make).await?;
        if answer.head.status != StatusCode::OK {
            return Err(UpstreamError::Unusable("the catalog could not be read"));
        }
        Ok(answer)
    }

    /// Whether the registry answers at all.
    pub async fn probe(&self) -> Result<StatusCode, UpstreamError> {
        let make = || self.request(Method::GET, "/v2/", "localhost", RequestBody::Empty);
        let answer = self.ask(make).await?;
        Ok(answer.head.status)
    }

    fn request(
        &self,
        method: Method,
        target: &str,
        authority: &str,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, UpstreamError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target
            .parse()
            .map_err(|_cause| UpstreamError::Unusable("target not a URI"))?;
        let headers = request.headers_mut();
        // Room for what clients send: else the map grows twice for each request.
        headers.reserve(16);
        let host = HeaderValue::from_str(authority)
            .map_err(|_cause| UpstreamError::Unusable("host not a header value"))?;
        headers.insert(HOST, host);
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        if let Some(login) = &self.login {
            headers.insert(AUTHORIZATION, login.clone());
        }
        Ok(request)
    }

    /// Asks what only reads, on our own behalf.
    async fn ask(
        &self,
        make: impl Fn() -> Result<Request<RequestBody>, UpstreamError>,
    ) -> Result<Answer, UpstreamError> {
        self.send(make()?, self.response_timeout, || make().ok())
            .await
    }

    /// Sends on a pooled connection, or on a new one. A request of which nothing was sent is sent
    /// again; one of which something was sent only when `again` makes it another time, because it is
    /// safe (RFC 9110 section 9.2.2).
    async fn send(
        &self,
        mut request: Request<RequestBody>,
        answer: Duration,
        again: impl Fn() -> Option<Request<RequestBody>>,
    ) -> Result<Answer, UpstreamError> {
        let limits = Limits {
            progress: self.response_timeout,
            answer,
        };
        loop {
            let (mut lease, reused) = match self.pool.get(self.key) {
                Some(lease) => (lease, true),
                // In a box, so that requests on open connections have no room for it.
                None => (Box::pin(self.connect()).await?, false),
            };
            let progress = request.body().progress();
            let mut error = match lease.send(request, limits).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = Incoming::new(body, lease, self.response_timeout);
                    return Ok(Answer { head, body });
                }
                Err(Failure::Stalled) => return Err(UpstreamError::Timeout),
                Err(Failure::Broken(error)) => error,
            };
            if let Some(fault) = progress.and_then(|progress| progress.fault()) {
                return Err(UpstreamError::Client(fault));
            }
            let unsent = error.take_message();
            let Some(next) = unsent.or_else(&again).filter(|_| reused) else {
                return Err(UpstreamError::Broken(told(&error.into_error())));
            };
            request = next;
        }
    }

    async fn connect(&self) -> Result<Lease, UpstreamError> {
        let connecting = pool::connect(&self.target, &self.pool, self.key);
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(error)) => Err(UpstreamError::Connect(error.to_string())),
            Err(_elapsed) => Err(UpstreamError::Timeout),
        }
    }

    /// Makes the head of an answer the client's: only headers that cross, no challenge of the
    /// registry's own, and nothing that leads away from us but a blob's redirect.
    fn clean(
        &self,
        call: &Call,
        with: &Forward<'_>,
        head: &mut http::response::Parts,
    ) -> Result<(), UpstreamError> {
        if matches!(
            head.status,
            StatusCode::UNAUTHORIZED
                | StatusCode::PROXY_AUTHENTICATION_REQUIRED
                | StatusCode::SWITCHING_PROTOCOLS
        ) {
            return Err(UpstreamError::Unusable(
                "it asks for credentials that it was not given",
            ));
        }
        if head.status.as_u16() >= 600 {
            return Err(UpstreamError::Unusable("its status is none"));
        }
        // However old the registry is: without this, an answer of unknown length would go on as one
        // whose end nobody can tell from a break.
        head.version = Version::HTTP_11;
        if !is_framed_once(&head.headers) {
            return Err(UpstreamError::Unusable("its length is told in two ways"));
        }
        passed_back(&mut head.headers, &self.pass_answer_headers);
        if head.status.is_redirection() && head.status != StatusCode::NOT_MODIFIED {
            self.redirect(call, head)?;
        } else {
            self.lead(call, with, head)?;
        }
        let own = |origin: &Origin| self.is_ours(origin, with.authority);
        let dropped = location::relative_links(&mut head.headers, call, own);
        if dropped > 0
            && let Some(omitted) = LINKS.due()
        {
            tracing::warn!(
                dropped,
                omitted,
                "links of the registry lead elsewhere and were taken off"
            );
        }
        head.headers
            .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        Ok(())
    }

    /// Only who reads a blob may be redirected, and only to hosts that are configured.
    fn redirect(&self, call: &Call, head: &http::response::Parts) -> Result<(), UpstreamError> {
        let reads_blob = matches!(
            call,
            Call::Blob {
                verb: BlobVerb::Read(_),
                ..
            }
        );
        let leads = matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        if !reads_blob || !leads {
            return Err(UpstreamError::Unusable("a redirect, which only blobs have"));
        }
        let mut locations = head.headers.get_all(LOCATION).iter();
        let (Some(Ok(to)), None) = (locations.next().map(HeaderValue::to_str), locations.next())
        else {
            return Err(UpstreamError::Unusable("a redirect without one Location"));
        };
        self.redirect_hosts
            .check(to)
            .map_err(|place| UpstreamError::Redirected(place.into()))
    }

    /// Where an answer leads a client next: to what is of the call's own repository, by a path. An
    /// upload that would go on elsewhere is an error; from an answer to what has been done only its
    /// `Location` is taken off.
    fn lead(
        &self,
        call: &Call,
        with: &Forward<'_>,
        head: &mut http::response::Parts,
    ) -> Result<(), UpstreamError> {
        if head.status == StatusCode::NOT_MODIFIED && !call.is_read() {
            return Err(UpstreamError::Unusable("a push or delete changed nothing"));
        }
        let hands_out = hands_out_session(call, head.status);
        let path = match Location::of(&head.headers, call.repository()) {
            None => return Ok(()),
            Some(Location::Session { id, query }) => {
                let path = self.seal_session(call, with, &id, query)?;
                if head.headers.contains_key(UPLOAD_UUID)
                    && let Ok(id) = HeaderValue::from_str(id.as_str())
                {
                    head.headers.insert(UPLOAD_UUID, id);
                }
                path
            }
            Some(Location::Object(path)) if !hands_out => path,
            Some(Location::Object(_)) => {
                return Err(UpstreamError::LedAway("what is no upload".into()));
            }
            Some(Location::Elsewhere(place)) if hands_out => {
                return Err(UpstreamError::LedAway(place.to_string().into()));
            }
            Some(Location::Elsewhere(place)) => {
                take_off(call, &place);
                head.headers.remove(LOCATION);
                return Ok(());
            }
        };
        let value =
            HeaderValue::from_str(&path).map_err(|_cause| UpstreamError::Unusable("Location"))?;
        head.headers.insert(LOCATION, value);
        Ok(())
    }

    /// The path of an upload session, with our seal in place of the registry's query.
    fn seal_session(
        &self,
        call: &Call,
        with: &Forward<'_>,
        id: &UploadId,
        query: &str,
    ) -> Result<String, UpstreamError> {
        let repo = call.repository().map_or("", RepoName::as_str);
        let begun = with
            .session
            .as_ref()
            .map_or(with.now, |session| session.begun);
        let session = Session {
            owner: with.owner.clone(),
            begun,
            query: query.into(),
        };
        let id = id.as_str();
        let state = self
            .seal
            .close(&session, repo, id)
            .ok_or(UpstreamError::Unusable("the session cannot be sealed"))?;
        Ok(format!("/v2/{repo}/blobs/uploads/{id}?_state={state}"))
    }

    /// Whether a URL names the registry, or this proxy under the client's name for it.
    fn is_ours(&self, origin: &Origin, authority: &str) -> bool {
        self.origin.as_ref() == Some(origin) || origin.authority() == authority
    }
}

/// Whether an answer tells the client where its upload goes on. One to what was uploaded as a whole,
/// or mounted, is 201.
fn hands_out_session(call: &Call, status: StatusCode) -> bool {
    match call {
        Call::StartUpload { .. } => status.is_success() && status != StatusCode::CREATED,
        Call::Upload { verb, .. } => match verb {
            UploadVerb::Append | UploadVerb::Status(_) => status.is_success(),
            UploadVerb::Cancel | UploadVerb::Finish(_) => false,
        },
        Call::Blob { .. }
        | Call::Catalog(_)
        | Call::Manifest { .. }
        | Call::Ping
        | Call::Referrers { .. }
        | Call::Tags { .. } => false,
    }
}

/// An error and what it came of.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", in_words(cause)),
        None => error.to_string(),
    }
}

fn take_off(call: &Call, place: &Elsewhere) {
    let repository = call.repository().map(RepoName::as_str);
    tracing::warn!(
        repository,
        %place,
        "the registry's `Location` leads elsewhere and was taken off"
    );
}

impl Target {
    /// How URLs name this upstream.
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Tcp { host, port, tls } => {
                let bracketed = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.to_string()
                };
                let scheme = match tls {
                    Some(_) => Scheme::Https,
                    None => Scheme::Http,
                };
                let (host, _) = parse_authority(&bracketed)?;
                let port = *port;
                Some(Origin { scheme, host, port })
            }
            Self::Unix(_) => None,
        }
    }
}

/// `Docker-Distribution-Api-Version`, which some clients insist on.
pub const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// What the registry calls the manifest it answers with.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The content that an answer says it is about, if it says so in the grammar.
pub fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get(CONTENT_DIGEST)?.to_str().ok()?)
}

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws, */*";

fn forwarded(address: std::net::IpAddr, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(address_text(address)) {
        headers.insert(FORWARDED_FOR, value);
    }
}

fn method(call: &Call) -> Method {
    let reading = |read: Read| match read {
        Read::Get => Method::GET,
        Read::Head => Method::HEAD,
    };
    match call {
        Call::Catalog(_) | Call::Ping => Method::GET,
        Call::Referrers { read, .. } | Call::Tags { read, .. } => reading(*read),
        Call::Blob { verb, .. } => match verb {
            BlobVerb::Delete => Method::DELETE,
            BlobVerb::Read(read) => reading(*read),
        },
        Call::Manifest { verb, .. } => match verb {
            ManifestVerb::Delete => Method::DELETE,
            ManifestVerb::Put { .. } => Method::PUT,
            ManifestVerb::Read(read) => reading(*read),
        },
        Call::StartUpload { .. } => Method::POST,
        Call::Upload { verb, .. } => match verb {
            UploadVerb::Append => Method::PATCH,
            UploadVerb::Cancel => Method::DELETE,
            UploadVerb::Finish(_) => Method::PUT,
            UploadVerb::Status(read) => reading(*read),
        },
    }
}
