//! Every reason not to forward, and the one answer that each has.
//!
//! There are two texts: the client's, which never says more than the client may know (an unknown
//! user and a wrong password read alike), and the cause, for the audit record. Both stand in one row
//! of one table, with the status, the code, the outcome and what else the answer says.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::challenge::{Wanted, challenge};
use super::message;
use super::quota_status::{PullsExceeded, QuotaStatus};
use crate::audit::{AuditError, Outcome};
use crate::authn::{CertificateError, Challenge, Failure, Rejection};
use crate::identity::{Malformed, Presented, Subject};
use crate::policy::Denial;
use crate::registry::{CallError, Code, Problem, QueryError, RepoName};
use crate::request::{Authority, BadHead};
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
    /// An `Expect` that this proxy cannot meet.
    Expectation,
    /// What a browser sends for a page of another origin, which the configuration does not name.
    ForeignPage,
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
    /// A tag that exists, for a caller who may only create.
    TagExists {
        /// The caller.
        subject: Subject,
        /// `repository:tag`.
        place: Box<str>,
    },
    /// Whether another replica writes the tag cannot be found out.
    TagsUnshared,
    /// More records than can be afforded for one source.
    TooManyRecords,
    /// An anonymous caller, by a token or by empty credentials, where a user is needed.
    Unauthenticated,
    /// The caller cannot be found out at the moment.
    Undecided(Failure),
    /// An upload session that is not the caller's, or none at all.
    UploadUnknown,
    /// The registry did not answer.
    Upstream(UpstreamError),
}

/// A caller, and what it may not do.
#[derive(Clone, Debug)]
pub struct Denied {
    /// The decision.
    pub denial: Denial,
    /// The caller.
    pub subject: Subject,
    /// Where, if it is about one repository.
    pub repository: Option<RepoName>,
}

impl Denied {
    fn message(&self) -> String {
        message::may_not(&self.subject, self.denial.action, self.repository.as_ref())
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

/// What an empty password mostly means: docker keeps an identity token instead of a password, and
/// tools that do not know such tokens send what else stands in its file.
const NO_IDENTITY_TOKENS: &str = "; if this tool uses the credentials of `docker login`, it does not \
    know identity tokens: give it a robot key, or have the administrator set `refresh_lifetime = \
    \"0s\"` in `[token]` and log in again";

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
    pub quota: Option<QuotaStatus>,
    /// Whether the connection ends with the answer.
    pub close: bool,
    /// For the audit record.
    pub outcome: Outcome,
    /// The cause, for the audit record and the log.
    pub cause: Cow<'static, str>,
    /// Whether a password or token was wrong, as guesses are.
    pub is_wrong_credential: bool,
}

impl Reply {
    fn new(
        outcome: Outcome,
        status: StatusCode,
        code: Code,
        message: impl Into<Cow<'static, str>>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Self {
        let problem = Problem {
            status,
            code,
            message: message.into().into_owned(),
        };
        Self {
            problem,
            challenge: None,
            retry_after: None,
            allow: None,
            oauth: None,
            quota: None,
            close: false,
            outcome,
            cause: cause.into(),
            is_wrong_credential: false,
        }
    }

    /// 401, with a challenge.
    fn challenging(
        outcome: Outcome,
        challenge: Option<String>,
        message: impl Into<Cow<'static, str>>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (status, code) = (StatusCode::UNAUTHORIZED, Code::Unauthorized);
        Self {
            challenge,
            ..Self::new(outcome, status, code, message, cause)
        }
    }

    /// 503, to be tried again soon.
    fn unavailable(
        message: impl Into<Cow<'static, str>>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable);
        Self {
            retry_after: Some(RETRY_SOON),
            ..Self::new(Outcome::Error, status, code, message, cause)
        }
    }

    /// 429
    fn too_many(
        retry_after: u32,
        message: impl Into<Cow<'static, str>>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests);
        Self {
            retry_after: Some(retry_after),
            ..Self::new(Outcome::Limited, status, code, message, cause)
        }
    }

    fn closing(self) -> Self {
        Self {
            close: true,
            ..self
        }
    }

    fn of_wrong_credential(self) -> Self {
        Self {
            is_wrong_credential: true,
            ..self
        }
    }
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

    /// The answer to the client.
    pub fn reply(&self, how: Challenge, authority: Option<&Authority>, wanted: &Wanted) -> Reply {
        let mut reply = self.row(how, authority, wanted);
        if *wanted == Wanted::Grant && reply.is_wrong_credential {
            reply.oauth = Some("invalid_grant");
        }
        reply
    }

    /// The table.
    #[expect(clippy::too_many_lines, reason = "a row for each refusal")]
    fn row(&self, how: Challenge, authority: Option<&Authority>, wanted: &Wanted) -> Reply {
        use Outcome::{Aborted, Challenged, Denied, Error, Failed};
        let ask = |scopes, error| challenge(how, authority, scopes, error);
        match self {
            Self::AuditUnwritable => unrecorded("audit file not writable"),
            Self::BadCredential(rejection) => Reply::challenging(
                Failed,
                ask(wanted.scopes(), None),
                "incorrect user name or password",
                rejection.as_str(),
            )
            .of_wrong_credential(),
            Self::BadHead(fault) => {
                let (status, code, text) = fault.text();
                Reply {
                    allow: (*fault == BadHead::Connect).then_some(METHODS),
                    ..Reply::new(Denied, status, code, text, text).closing()
                }
            }
            Self::BadRequest(what) => {
                Reply::new(Denied, StatusCode::BAD_REQUEST, Code::Unknown, *what, *what).closing()
            }
            Self::BadToken(error) => {
                let challenge = ask(wanted.scopes(), Some("invalid_token"));
                invalid_token(authority, challenge, error.to_string())
            }
            Self::Body(fault) => Reply {
                retry_after: None,
                ..body(*fault).closing()
            },
            Self::Certificate(error) => {
                let challenge = ask(wanted.scopes(), None);
                let (message, cause) = (certificate(*error), error.to_string());
                let reply = Reply::challenging(Failed, challenge, message, cause);
                match error {
                    // A better one can come on another connection only.
                    CertificateError::Missing | CertificateError::NotAccepted => reply.closing(),
                    CertificateError::NamesAnother => reply,
                }
            }
            Self::Challenged => Reply::challenging(
                Challenged,
                ask(wanted.scopes(), None),
                message::log_in(authority),
                "no credential",
            ),
            Self::Denied(denied) => {
                // HEAD of a blob begins a push and has no body to say why in. Told 404, skopeo,
                // podman, buildah and crane go on to the POST, and show what that is answered with.
                let status = if wanted.is_blob_head() {
                    StatusCode::NOT_FOUND
                } else {
                    StatusCode::FORBIDDEN
                };
                let Denial { action, rule, .. } = &denied.denial;
                let cause = match rule {
                    Some(rule) => format!("{} denied by {}", action.as_str(), rule.0),
                    None => format!("no rule allows {}", action.as_str()),
                };
                Reply::new(Denied, status, Code::Denied, denied.message(), cause)
            }
            Self::Expectation => Reply::new(
                Denied,
                StatusCode::EXPECTATION_FAILED,
                Code::Unsupported,
                "the only expectation met here is 100-continue",
                "an Expect that is not 100-continue",
            ),
            Self::ForeignPage => Reply::new(
                Denied,
                StatusCode::FORBIDDEN,
                Code::Denied,
                "pages of other origins may not use this registry; its administrator can name \
                 yours in server.cors_origins",
                "a page of another origin",
            ),
            Self::InsufficientScope { source } => {
                let scopes = wanted.scopes_with(source.as_ref());
                let message = match &scopes {
                    Some(scopes) => format!("the token does not cover {scopes}"),
                    None => "the token does not cover this".to_owned(),
                };
                let cause = match source {
                    None => "token not minted for this",
                    Some(_) => "token not minted for the source of the mount",
                };
                let challenge = ask(scopes, Some("insufficient_scope"));
                Reply::challenging(Denied, challenge, message, cause)
            }
            Self::Internal(what) => Reply {
                retry_after: Some(RETRY_SOON),
                ..Reply::new(
                    Error,
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Code::Unknown,
                    "something went wrong in this proxy; ask its administrator",
                    *what,
                )
            },
            Self::Interrupted => Reply {
                outcome: Aborted,
                ..restarting("the proxy ended before the body was whole")
            },
            Self::Limited(exceeded) => {
                let QuotaStatus { quota, subject, .. } = &exceeded.status;
                let (count, seconds) = (quota.count, quota.per.as_secs());
                let cause = format!("{subject} has used its {count} pulls in {seconds} s");
                let wait = whole_seconds(exceeded.wait).clamp(1, RETRY_LATE);
                let message = exceeded.message(authority.map(Authority::as_str));
                Reply {
                    quota: Some(exceeded.status.clone()),
                    ..Reply::too_many(wait, message, cause)
                }
            }
            // The same whether or not there is such a user.
            Self::Locked { wait } => {
                let seconds = whole_seconds(*wait);
                let message = format!(
                    "too many failed logins from here; wait {seconds} s, then log in with the \
                     right password"
                );
                Reply::too_many(seconds, message, "too many wrong passwords")
            }
            Self::Malformed(malformed) => {
                let text = malformed.to_string();
                if matches!(malformed, Malformed::Repeated) {
                    let (status, code) = (StatusCode::BAD_REQUEST, Code::Unauthorized);
                    Reply::new(Failed, status, code, text.clone(), text)
                } else {
                    let challenge = ask(wanted.scopes(), None);
                    let mut message = text.clone();
                    if matches!(malformed, Malformed::EmptyPassword) {
                        message.push_str(NO_IDENTITY_TOKENS);
                    }
                    Reply::challenging(Failed, challenge, message, text)
                }
            }
            Self::Misdirected { asked, ours } => Reply::new(
                Denied,
                StatusCode::MISDIRECTED_REQUEST,
                Code::Unknown,
                format!("this registry is {ours}, not {}", asked.as_str()),
                format!("{} is not a host name of this proxy", asked.as_str()),
            ),
            Self::NotTheApi(error) => not_the_api(error),
            Self::OAuth { error, message } => Reply {
                oauth: Some(error),
                ..Reply::new(
                    Failed,
                    StatusCode::BAD_REQUEST,
                    Code::Unauthorized,
                    *message,
                    *message,
                )
            },
            Self::PasswordMissing {
                denied,
                source,
                is_asked,
            } => {
                let scopes = wanted.scopes_with(source.as_ref());
                // Clients take a challenge without an error for the first one.
                let (outcome, error) = if *is_asked {
                    (Denied, Some("insufficient_scope"))
                } else {
                    (Challenged, None)
                };
                let message = message::password_missing(&denied.message(), authority);
                let cause = "a rule asks for a password as well";
                Reply::challenging(outcome, ask(scopes, error), message, cause)
            }
            Self::Revoked { .. } => {
                let cause = "user gone or password changed since the token";
                let challenge = ask(wanted.scopes(), Some("invalid_token"));
                invalid_token(authority, challenge, cause)
            }
            Self::Stopping => restarting("the proxy ended before the registry answered"),
            Self::TagBusy => Reply::unavailable(
                "another push of this tag is not through; try again shortly",
                "another push of this tag is under way",
            ),
            Self::TagExists { subject, place } => Reply::new(
                Denied,
                StatusCode::FORBIDDEN,
                Code::Denied,
                message::may_not_move(subject, place),
                "tag exists, overwrite not allowed",
            ),
            Self::TagsUnshared => Reply::unavailable(
                "whether this tag is being pushed elsewhere cannot be found out at the moment; \
                 try again shortly",
                "the store does not answer, and the tag may only be created",
            ),
            Self::TooManyRecords => Reply::too_many(
                RETRY_SOON,
                "too many requests from this address; try again with fewer at a time",
                "more records than one source may have",
            ),
            Self::Unauthenticated => Reply::challenging(
                Failed,
                ask(wanted.scopes(), None),
                message::log_in(authority),
                "anonymous, and a user is needed",
            ),
            Self::Undecided(failure) => Reply::unavailable(
                "credentials cannot be checked at the moment; try again shortly",
                failure.as_str(),
            ),
            Self::UploadUnknown => Reply::new(
                Denied,
                StatusCode::NOT_FOUND,
                Code::BlobUploadUnknown,
                "this upload is unknown; begin it again",
                "not an upload session of this caller",
            ),
            Self::Upstream(error) => upstream(error),
        }
    }
}

fn unrecorded(cause: impl Into<Cow<'static, str>>) -> Reply {
    Reply::unavailable(
        "the audit trail cannot be written; ask the administrator of this registry",
        cause,
    )
}

fn restarting(cause: &'static str) -> Reply {
    Reply::unavailable("this proxy is being restarted; try again shortly", cause)
}

fn invalid_token(
    authority: Option<&Authority>,
    challenge: Option<String>,
    cause: impl Into<Cow<'static, str>>,
) -> Reply {
    let log_in = message::log_in(authority);
    let message = format!("the token is not valid any more; {log_in}");
    Reply::challenging(Outcome::Failed, challenge, message, cause).of_wrong_credential()
}

fn upstream(error: &UpstreamError) -> Reply {
    let (status, message) = match error {
        UpstreamError::Client(fault) => {
            return Reply {
                retry_after: Some(RETRY_SOON),
                cause: error.to_string().into(),
                ..body(*fault)
            };
        }
        UpstreamError::LedAway(_) | UpstreamError::Redirected(_) => (
            StatusCode::BAD_GATEWAY,
            format!("{error}; ask the administrator of this registry").into(),
        ),
        UpstreamError::Crowded => (
            StatusCode::SERVICE_UNAVAILABLE,
            Cow::Borrowed("too many ask for this at the moment; try again shortly"),
        ),
        UpstreamError::Timeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "the registry did not answer in time; try again shortly".into(),
        ),
        UpstreamError::Broken(_) | UpstreamError::Connect(_) | UpstreamError::Unusable(_) => (
            StatusCode::BAD_GATEWAY,
            "the registry cannot be reached; try again shortly".into(),
        ),
    };
    let mut reply = Reply::unavailable(message, error.to_string());
    reply.problem.status = status;
    reply
}

/// Rounded up: who comes back then is not sent away again.
fn whole_seconds(time: Duration) -> u32 {
    let up = u64::from(time.subsec_nanos() > 0);
    u32::try_from(time.as_secs().saturating_add(up)).unwrap_or(u32::MAX)
}

fn body(fault: Fault) -> Reply {
    let (outcome, status, code, message) = match fault {
        Fault::Gone => (
            Outcome::Aborted,
            StatusCode::BAD_REQUEST,
            Code::Unknown,
            "the body ended early",
        ),
        Fault::Stalled => (
            Outcome::Aborted,
            StatusCode::REQUEST_TIMEOUT,
            Code::Unknown,
            "the body did not arrive in time",
        ),
        Fault::TooLarge => (
            Outcome::Denied,
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::SizeInvalid,
            "the body is too large",
        ),
        Fault::Unrecorded => return unrecorded(fault.to_string()),
    };
    Reply::new(outcome, status, code, message, fault.to_string())
}

/// The status is 401 and not 403, which clients do not show when it is the answer to their first
/// request.
fn certificate(error: CertificateError) -> &'static str {
    match error {
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
    }
}

fn not_the_api(error: &CallError) -> Reply {
    let (status, code, allow) = match error {
        CallError::Digest(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid, None),
        CallError::Method { allow } => (
            StatusCode::METHOD_NOT_ALLOWED,
            Code::Unsupported,
            Some(*allow),
        ),
        CallError::Pagination => (StatusCode::BAD_REQUEST, Code::PaginationNumberInvalid, None),
        CallError::Parameter(_) | CallError::Query(_) | CallError::Tags => {
            (StatusCode::BAD_REQUEST, Code::Unknown, None)
        }
        CallError::Path => (StatusCode::NOT_FOUND, Code::NameInvalid, None),
    };
    let text = error.to_string();
    Reply {
        allow,
        ..Reply::new(Outcome::Denied, status, code, text.clone(), text)
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
