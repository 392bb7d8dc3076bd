//! Every reason not to forward, and the one answer that each has.
//!
//! There are two texts: the client's, which never says more than the client may know (an unknown
//! user and a wrong password read alike), and the cause, for the audit record.

use std::time::Duration;

use http::{Method, StatusCode};

use super::{PullsExceeded, Standing, message};
use crate::audit::{AuditError, Outcome};
use crate::authn::{CertificateError, Challenge, Failure, Rejection};
use crate::identity::{Malformed, Presented, Subject};
use crate::policy::Denial;
use crate::registry::{BlobVerb, Call, CallError, Code, Problem, QueryError, Read, RepoName};
use crate::request::{Authority, BadHead, Route};
use crate::token::TokenError;
use crate::upstream::{Fault, UpstreamError};

/// Why a request is not forwarded, or was forwarded in vain.
#[derive(Debug)]
pub enum Refusal {
    /// The audit file cannot be written.
    AuditUnwritable,
    /// A password that is not right, of a user who may not exist.
    BadCredential(Rejection),
    /// What came is no request.
    BadHead(BadHead),
    /// A request whose framing or host cannot be trusted; the connection ends.
    BadRequest(&'static str),
    /// A token that is not ours, or not any more.
    BadToken(TokenError),
    /// The client's own body failed.
    Body(Fault),
    /// A client certificate, or the lack of one.
    Certificate(CertificateError),
    /// No credential at all: the client is told which to send.
    Challenged,
    /// Known, but not allowed.
    Denied(Denied),
    /// An `Expect` that nobody here can meet.
    Expectation,
    /// A token that was minted for something else.
    InsufficientScope {
        /// The source of a mount that a better token would cover.
        source: Option<RepoName>,
    },
    /// We ourselves cannot.
    Internal(&'static str),
    /// No pulls left.
    Limited(Box<PullsExceeded>),
    /// Too many wrong passwords lately, whatever this one is.
    Locked {
        /// How long it lasts.
        wait: Duration,
    },
    /// An `Authorization` header that cannot be read.
    Malformed(Malformed),
    /// A host name that is not ours.
    Misdirected {
        /// The one that was asked for.
        asked: Authority,
        /// Ours.
        ours: Box<str>,
    },
    /// Not a request of the API.
    NotTheApi(CallError),
    /// A token request that cannot be understood.
    OAuth {
        /// The word of RFC 6749 section 5.2.
        error: &'static str,
        /// The sentence.
        message: &'static str,
    },
    /// A certificate names the user, and a rule asks for the password as well.
    PasswordMissing {
        /// What was refused.
        denied: Denied,
        /// The source of a mount that the user may read.
        source: Option<RepoName>,
        /// Whether another credential was sent, so that the client has been asked before.
        is_asked: bool,
    },
    /// A token whose user is gone, or has another password now.
    Revoked {
        /// Whose.
        subject: Subject,
    },
    /// The proxy ends, and the body is not whole yet.
    Interrupted,
    /// The proxy ends, and cannot wait any longer for the registry.
    Stopping,
    /// Another push of a tag is not through.
    TagBusy,
    /// A tag that exists, for somebody who may only create.
    TagExists {
        /// Who.
        subject: Subject,
        /// Which, `repository:tag`.
        place: Box<str>,
    },
    /// More records than can be afforded for one source.
    TooManyRecords,
    /// An anonymous caller, by a token or by empty credentials, where a user is needed.
    Unauthenticated,
    /// Who is calling cannot be found out at the moment.
    Undecided(Failure),
    /// An upload session that is not the caller's, or none at all.
    UploadUnknown,
    /// The registry did not answer.
    Upstream(UpstreamError),
}

/// Who may not do what.
#[derive(Clone, Debug)]
pub struct Denied {
    /// The decision.
    pub denial: Denial,
    /// Who.
    pub subject: Subject,
    /// Where, if it is about one repository.
    pub repository: Option<RepoName>,
}

/// What was asked for, as far as the answer depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A call to the API.
    Call {
        /// What a token for it has to be asked for with.
        scope: Option<String>,
        /// The same for the source of a mount.
        source: Option<String>,
        /// Whether it is the HEAD of a blob, see [`Refusal::reply`].
        is_blob_head: bool,
    },
    /// A token by OAuth2, whose clients look for a word (RFC 6749 section 5.2).
    Grant,
    /// A token by GET.
    Token,
}

impl Wanted {
    /// What a request asks for.
    pub fn of(route: &Route, method: &Method) -> Self {
        match route {
            Route::Token if method == Method::POST => Self::Grant,
            Route::Token => Self::Token,
            Route::Api(Ok(call)) => Self::call(call),
            Route::Api(Err(_)) => Self::nothing_known(),
        }
    }

    /// What cannot be read asks for nothing.
    pub fn nothing_known() -> Self {
        Self::Call {
            scope: None,
            source: None,
            is_blob_head: false,
        }
    }

    fn call(call: &Call) -> Self {
        Self::Call {
            scope: call.scope(),
            source: call.source_scope(),
            is_blob_head: matches!(
                call,
                Call::Blob {
                    verb: BlobVerb::Read(Read::Head),
                    ..
                }
            ),
        }
    }

    fn is_blob_head(&self) -> bool {
        match self {
            Self::Call { is_blob_head, .. } => *is_blob_head,
            Self::Grant | Self::Token => false,
        }
    }

    /// The scopes to ask for, in the words of a challenge. While nobody knows who is calling, the
    /// source of a mount is among them: the token service grants what the policy allows.
    fn scopes(&self) -> Option<String> {
        match self {
            Self::Call { scope, source, .. } => joined(scope.clone(), source.clone()),
            Self::Grant | Self::Token => None,
        }
    }

    /// The same once it is known who is calling: `source` only if the policy allows it.
    fn scopes_with(&self, source: Option<&RepoName>) -> Option<String> {
        match (self, source) {
            (Self::Call { .. }, Some(_)) => self.scopes(),
            (Self::Call { scope, .. }, None) => scope.clone(),
            (Self::Grant | Self::Token, _) => None,
        }
    }
}

/// All methods that some end point has, for `Allow`.
pub const METHODS: &str = "GET, HEAD, PUT, POST, PATCH, DELETE";
/// Seconds after which a client may try again when something behind us is down.
const RETRY_SOON: u32 = 5;
/// The longest `Retry-After`, in seconds. Before it shows the message, which has the whole truth,
/// skopeo waits as long as this says (60 seconds at most) four times without a word, podman sixteen
/// times.
const RETRY_LATE: u32 = 5;

/// What to send: the error body and the headers that belong to it.
#[derive(Debug)]
pub struct Reply {
    /// Status, code and message.
    pub problem: Problem,
    /// `WWW-Authenticate`.
    pub challenge: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// `Allow`.
    pub allow: Option<&'static str>,
    /// The word of RFC 6749 section 5.2, for the token service.
    pub oauth: Option<&'static str>,
    /// What there is to say about a limit.
    pub standing: Option<Standing>,
    /// Whether the connection ends with the answer.
    pub close: bool,
    /// For the audit record.
    pub outcome: Outcome,
}

impl Refusal {
    /// Why a request of a caller without a name goes no further.
    pub(super) fn for_nobody(presented: &Presented) -> Self {
        match presented {
            Presented::Nothing => Self::Challenged,
            Presented::Basic { .. } | Presented::Bearer(_) | Presented::Empty => {
                Self::Unauthenticated
            }
        }
    }

    /// The answer to the client. To HEAD of a blob, which begins a push and has no body to say why
    /// in, a refusal is 404: skopeo, podman, buildah and crane then go on to the POST, and show what
    /// that is answered with.
    pub fn reply(&self, how: Challenge, authority: Option<&Authority>, wanted: &Wanted) -> Reply {
        let (mut status, code, message) = self.text(authority, wanted);
        if matches!(self, Self::Denied(_)) && wanted.is_blob_head() {
            status = StatusCode::NOT_FOUND;
        }
        let problem = Problem {
            status,
            code,
            message: message.into_owned(),
        };
        let mut reply = Reply {
            problem,
            challenge: None,
            retry_after: None,
            allow: None,
            oauth: None,
            standing: None,
            close: false,
            outcome: self.outcome(),
        };
        match self {
            Self::BadCredential(_) | Self::Certificate(_) | Self::Malformed(_) => {
                reply.challenge = challenge(how, authority, wanted.scopes(), None);
                // A better certificate can come on another connection only.
                reply.close = matches!(
                    self,
                    Self::Certificate(CertificateError::Missing | CertificateError::NotAccepted)
                );
            }
            Self::BadToken(_) | Self::Revoked { .. } => {
                reply.challenge = challenge(how, authority, wanted.scopes(), Some("invalid_token"));
            }
            Self::InsufficientScope { source } => {
                let scopes = wanted.scopes_with(source.as_ref());
                reply.challenge = challenge(how, authority, scopes, Some("insufficient_scope"));
            }
            Self::PasswordMissing {
                source, is_asked, ..
            } => {
                let scopes = wanted.scopes_with(source.as_ref());
                // Clients take a challenge without an error for the first one.
                let error = is_asked.then_some("insufficient_scope");
                reply.challenge = challenge(how, authority, scopes, error);
            }
            Self::Challenged | Self::Unauthenticated => {
                reply.challenge = challenge(how, authority, wanted.scopes(), None);
            }
            Self::BadHead(BadHead::Connect) => {
                reply.close = true;
                reply.allow = Some(METHODS);
            }
            Self::BadHead(_) | Self::BadRequest(_) | Self::Body(_) => reply.close = true,
            Self::NotTheApi(CallError::Method { allow }) => reply.allow = Some(allow),
            Self::OAuth { error, .. } => reply.oauth = Some(error),
            Self::Limited(exceeded) => {
                reply.retry_after = Some(whole_seconds(exceeded.wait).clamp(1, RETRY_LATE));
                reply.standing = Some(exceeded.standing.clone());
            }
            Self::AuditUnwritable
            | Self::Internal(_)
            | Self::Interrupted
            | Self::Stopping
            | Self::TagBusy
            | Self::TooManyRecords
            | Self::Undecided(_)
            | Self::Upstream(_) => {
                reply.retry_after = Some(RETRY_SOON);
            }
            Self::Locked { wait } => reply.retry_after = Some(whole_seconds(*wait)),
            Self::Denied(_)
            | Self::Expectation
            | Self::Misdirected { .. }
            | Self::NotTheApi(_)
            | Self::TagExists { .. }
            | Self::UploadUnknown => {}
        }
        if status != StatusCode::UNAUTHORIZED {
            reply.challenge = None;
        }
        if matches!(wanted, Wanted::Grant) && self.is_wrong_credential() {
            reply.oauth = Some("invalid_grant");
        }
        reply
    }

    /// Whether it is for a password or token that was wrong, as guesses are.
    pub fn is_wrong_credential(&self) -> bool {
        match self {
            Self::BadCredential(_) | Self::BadToken(_) | Self::Revoked { .. } => true,
            Self::AuditUnwritable
            | Self::BadHead(_)
            | Self::BadRequest(_)
            | Self::Body(_)
            | Self::Certificate(_)
            | Self::Challenged
            | Self::Denied(_)
            | Self::Expectation
            | Self::InsufficientScope { .. }
            | Self::Internal(_)
            | Self::Limited(_)
            | Self::Locked { .. }
            | Self::Malformed(_)
            | Self::Misdirected { .. }
            | Self::NotTheApi(_)
            | Self::OAuth { .. }
            | Self::PasswordMissing { .. }
            | Self::Interrupted
            | Self::Stopping
            | Self::TagBusy
            | Self::TagExists { .. }
            | Self::TooManyRecords
            | Self::Unauthenticated
            | Self::Undecided(_)
            | Self::UploadUnknown
            | Self::Upstream(_) => false,
        }
    }

    /// The cause, for the audit record and the log.
    pub fn cause(&self) -> String {
        match self {
            Self::AuditUnwritable => "audit file not writable".to_owned(),
            Self::BadCredential(rejection) => rejection.as_str().to_owned(),
            Self::BadHead(fault) => fault.text().2.to_owned(),
            Self::BadToken(error) => error.to_string(),
            Self::Body(fault) => fault.to_string(),
            Self::Certificate(error) => error.to_string(),
            Self::Challenged => "no credential".to_owned(),
            Self::Denied(Denied { denial, .. }) => match &denial.rule {
                Some(rule) => format!("{} denied by {}", denial.action.as_str(), rule.0),
                None => format!("no rule allows {}", denial.action.as_str()),
            },
            Self::Expectation => "an Expect that is not 100-continue".to_owned(),
            Self::InsufficientScope { source: None } => "token not minted for this".to_owned(),
            Self::InsufficientScope { source: Some(_) } => {
                "token not minted for the source of the mount".to_owned()
            }
            Self::BadRequest(what) | Self::Internal(what) => (*what).to_owned(),
            Self::Limited(exceeded) => {
                let Standing { quota, subject, .. } = &exceeded.standing;
                let seconds = quota.per.as_secs();
                format!(
                    "{subject} has used its {} pulls in {seconds} s",
                    quota.count
                )
            }
            Self::Locked { .. } => "too many wrong passwords".to_owned(),
            Self::Malformed(malformed) => malformed.to_string(),
            Self::Misdirected { asked, .. } => {
                format!("{} is not a host name of this proxy", asked.as_str())
            }
            Self::NotTheApi(error) => error.to_string(),
            Self::OAuth { message, .. } => (*message).to_owned(),
            Self::PasswordMissing { .. } => "a rule asks for a password as well".to_owned(),
            Self::Revoked { .. } => "user gone or password changed since the token".to_owned(),
            Self::Interrupted => "the proxy ended before the body was whole".to_owned(),
            Self::Stopping => "the proxy ended before the registry answered".to_owned(),
            Self::TagBusy => "another push of this tag is under way".to_owned(),
            Self::TagExists { .. } => "tag exists, overwrite not allowed".to_owned(),
            Self::TooManyRecords => "more records than one source may have".to_owned(),
            Self::Unauthenticated => "anonymous, and a user is needed".to_owned(),
            Self::Undecided(failure) => failure.as_str().to_owned(),
            Self::UploadUnknown => "not an upload session of this caller".to_owned(),
            Self::Upstream(error) => error.to_string(),
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::BadCredential(_)
            | Self::BadToken(_)
            | Self::Certificate(_)
            | Self::Malformed(_)
            | Self::OAuth { .. }
            | Self::Revoked { .. }
            | Self::Unauthenticated => Outcome::Failed,
            Self::Challenged
            | Self::PasswordMissing {
                is_asked: false, ..
            } => Outcome::Challenged,
            Self::BadHead(_)
            | Self::BadRequest(_)
            | Self::Denied(_)
            | Self::Expectation
            | Self::InsufficientScope { .. }
            | Self::Misdirected { .. }
            | Self::NotTheApi(_)
            | Self::PasswordMissing { is_asked: true, .. }
            | Self::TagExists { .. }
            | Self::UploadUnknown => Outcome::Denied,
            Self::Limited(_) | Self::Locked { .. } | Self::TooManyRecords => Outcome::Limited,
            Self::Interrupted => Outcome::Aborted,
            Self::Body(fault) | Self::Upstream(UpstreamError::Client(fault)) => match fault {
                Fault::Gone | Fault::Stalled => Outcome::Aborted,
                Fault::TooLarge => Outcome::Denied,
                Fault::Unrecorded => Outcome::Error,
            },
            Self::AuditUnwritable
            | Self::Internal(_)
            | Self::Stopping
            | Self::TagBusy
            | Self::Undecided(_)
            | Self::Upstream(_) => Outcome::Error,
        }
    }

    fn text(
        &self,
        authority: Option<&Authority>,
        wanted: &Wanted,
    ) -> (StatusCode, Code, std::borrow::Cow<'static, str>) {
        match self {
            Self::AuditUnwritable => unrecorded(),
            Self::BadCredential(_) => unauthorized("incorrect user name or password"),
            Self::BadHead(fault) => {
                let (status, code, message) = fault.text();
                (status, code, message.into())
            }
            Self::BadRequest(what) => (StatusCode::BAD_REQUEST, Code::Unknown, (*what).into()),
            Self::BadToken(_) | Self::Revoked { .. } => unauthorized(format!(
                "the token is not valid any more; {}",
                message::log_in(authority)
            )),
            Self::Body(fault) => body(*fault),
            Self::Certificate(error) => certificate(*error),
            Self::Denied(denied) => (
                StatusCode::FORBIDDEN,
                Code::Denied,
                message::may_not(denied).into(),
            ),
            Self::Expectation => (
                StatusCode::EXPECTATION_FAILED,
                Code::Unsupported,
                "the only expectation met here is 100-continue".into(),
            ),
            Self::InsufficientScope { source } => {
                unauthorized(match wanted.scopes_with(source.as_ref()) {
                    Some(scopes) => format!("the token does not cover {scopes}"),
                    None => "the token does not cover this".to_owned(),
                })
            }
            Self::Internal(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                Code::Unknown,
                "something went wrong in this proxy; ask its administrator".into(),
            ),
            Self::Limited(exceeded) => (
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyRequests,
                exceeded.message(authority.map(Authority::as_str)).into(),
            ),
            Self::Locked { wait } => locked(*wait),
            Self::Malformed(Malformed::Repeated) => (
                StatusCode::BAD_REQUEST,
                Code::Unauthorized,
                Malformed::Repeated.to_string().into(),
            ),
            Self::Malformed(malformed) => unauthorized(malformed.to_string()),
            Self::Misdirected { asked, ours } => (
                StatusCode::MISDIRECTED_REQUEST,
                Code::Unknown,
                format!("this registry is {ours}, not {}", asked.as_str()).into(),
            ),
            Self::NotTheApi(error) => {
                let (status, code) = not_the_api(error);
                (status, code, error.to_string().into())
            }
            Self::OAuth { message, .. } => (
                StatusCode::BAD_REQUEST,
                Code::Unauthorized,
                (*message).into(),
            ),
            Self::Interrupted | Self::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "this proxy is being restarted; try again shortly".into(),
            ),
            Self::TagBusy => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "another push of this tag is not through; try again shortly".into(),
            ),
            Self::TooManyRecords => (
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyRequests,
                "too many requests from this address; try again with fewer at a time".into(),
            ),
            Self::TagExists { subject, place } => (
                StatusCode::FORBIDDEN,
                Code::Denied,
                message::may_not_move(subject, place).into(),
            ),
            Self::PasswordMissing { denied, .. } => {
                unauthorized(message::password_missing(denied, authority))
            }
            Self::Challenged | Self::Unauthenticated => unauthorized(message::log_in(authority)),
            Self::Undecided(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "credentials cannot be checked at the moment; try again shortly".into(),
            ),
            Self::UploadUnknown => (
                StatusCode::NOT_FOUND,
                Code::BlobUploadUnknown,
                "this upload is unknown; begin it again".into(),
            ),
            Self::Upstream(error) => upstream(error),
        }
    }
}

fn unrecorded() -> (StatusCode, Code, std::borrow::Cow<'static, str>) {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Code::Unavailable,
        "the audit trail cannot be written; ask the administrator of this registry".into(),
    )
}

fn unauthorized(
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> (StatusCode, Code, std::borrow::Cow<'static, str>) {
    (StatusCode::UNAUTHORIZED, Code::Unauthorized, message.into())
}

fn upstream(error: &UpstreamError) -> (StatusCode, Code, std::borrow::Cow<'static, str>) {
    let (status, message) = match error {
        UpstreamError::Client(fault) => return body(*fault),
        UpstreamError::LedAway(_) | UpstreamError::Redirected(_) => {
            let message = format!("{error}; ask the administrator of this registry");
            return (StatusCode::BAD_GATEWAY, Code::Unavailable, message.into());
        }
        UpstreamError::Crowded => (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many ask for this at the moment; try again shortly",
        ),
        UpstreamError::Timeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "the registry did not answer in time; try again shortly",
        ),
        UpstreamError::Broken(_) | UpstreamError::Connect(_) | UpstreamError::Unusable(_) => (
            StatusCode::BAD_GATEWAY,
            "the registry cannot be reached; try again shortly",
        ),
    };
    (status, Code::Unavailable, message.into())
}

/// The same whether or not there is such a user.
fn locked(wait: Duration) -> (StatusCode, Code, std::borrow::Cow<'static, str>) {
    let seconds = whole_seconds(wait);
    let message = format!(
        "too many failed logins from here; wait {seconds} s, then log in with the right password"
    );
    (
        StatusCode::TOO_MANY_REQUESTS,
        Code::TooManyRequests,
        message.into(),
    )
}

/// Rounded up: who comes back then is not sent away again.
fn whole_seconds(time: Duration) -> u32 {
    let up = u64::from(time.subsec_nanos() > 0);
    u32::try_from(time.as_secs().saturating_add(up)).unwrap_or(u32::MAX)
}

fn body(fault: Fault) -> (StatusCode, Code, std::borrow::Cow<'static, str>) {
    match fault {
        Fault::Gone => (
            StatusCode::BAD_REQUEST,
            Code::Unknown,
            "the body ended early".into(),
        ),
        Fault::Stalled => (
            StatusCode::REQUEST_TIMEOUT,
            Code::Unknown,
            "the body did not arrive in time".into(),
        ),
        Fault::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::SizeInvalid,
            "the body is too large".into(),
        ),
        Fault::Unrecorded => unrecorded(),
    }
}

/// 401 and not 403, which clients show to nobody when it is the answer to their first request.
fn certificate(error: CertificateError) -> (StatusCode, Code, std::borrow::Cow<'static, str>) {
    let message = match error {
        CertificateError::Missing => {
            "this registry wants a client certificate: put client.cert and client.key into \
             /etc/docker/certs.d/ under its name, or use --cert-dir"
        }
        CertificateError::NamesAnother => {
            "your certificate and your credentials name different users"
        }
        CertificateError::NotAccepted => {
            "your client certificate has expired or was revoked; ask for a new one"
        }
    };
    (StatusCode::UNAUTHORIZED, Code::Unauthorized, message.into())
}

fn not_the_api(error: &CallError) -> (StatusCode, Code) {
    match error {
        CallError::Digest(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
        CallError::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported),
        CallError::Pagination => (StatusCode::BAD_REQUEST, Code::PaginationNumberInvalid),
        CallError::Parameter(_) | CallError::Query(_) => (StatusCode::BAD_REQUEST, Code::Unknown),
        CallError::Path => (StatusCode::NOT_FOUND, Code::NameInvalid),
    }
}

/// The one `WWW-Authenticate` (RFC 9110 section 11.6.1). Two of them make docker fail.
fn challenge(
    how: Challenge,
    authority: Option<&Authority>,
    scopes: Option<String>,
    error: Option<&str>,
) -> Option<String> {
    let host = authority?.as_str();
    Some(match how {
        Challenge::Basic => format!("Basic realm=\"{host}\""),
        Challenge::Bearer => {
            let mut text = format!("Bearer realm=\"https://{host}/token\",service=\"{host}\"");
            for (name, value) in [("scope", scopes), ("error", error.map(str::to_owned))] {
                if let Some(value) = value {
                    text.extend([",", name, "=\"", &value, "\""]);
                }
            }
            text
        }
    })
}

fn joined(scope: Option<String>, source: Option<String>) -> Option<String> {
    match (scope, source) {
        (Some(scope), Some(source)) => Some(format!("{scope} {source}")),
        (one, None) | (None, one) => one,
    }
}

impl From<AuditError> for Refusal {
    fn from(_logged: AuditError) -> Self {
        Self::AuditUnwritable
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self::NotTheApi(error)
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        Self::NotTheApi(CallError::Query(error))
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::BadToken(error)
    }
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}
