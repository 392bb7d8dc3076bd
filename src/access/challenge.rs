//! What a request asks for, and the challenge that asks its client for a credential.

use http::Method;

use crate::authn::Challenge;
use crate::registry::{BlobVerb, Call, Read, RepoName};
use crate::request::{Authority, Route};

/// What was asked for, as far as the answer depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A call to the API.
    Call {
        /// What a token for it has to be asked for with.
        scope: Option<String>,
        /// The same for the source of a mount.
        source: Option<String>,
        /// Whether it is the HEAD of a blob.
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

    pub(super) fn is_blob_head(&self) -> bool {
        match self {
            Self::Call { is_blob_head, .. } => *is_blob_head,
            Self::Grant | Self::Token => false,
        }
    }

    /// The scopes to ask for, in the words of a challenge. While the caller is unknown, the
    /// source of a mount is among them: the token service grants what the policy allows.
    pub(super) fn scopes(&self) -> Option<String> {
        match self {
            Self::Call { scope, source, .. } => joined(scope.clone(), source.clone()),
            Self::Grant | Self::Token => None,
        }
    }

    /// The same once it is known who is calling: `source` only if the policy allows it.
    pub(super) fn scopes_with(&self, source: Option<&RepoName>) -> Option<String> {
        match (self, source) {
            (Self::Call { .. }, Some(_)) => self.scopes(),
            (Self::Call { scope, .. }, None) => scope.clone(),
            (Self::Grant | Self::Token, _) => None,
        }
    }
}

/// The one `WWW-Authenticate` (RFC 9110 section 11.6.1). Two of them make docker fail.
pub(super) fn challenge(
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
