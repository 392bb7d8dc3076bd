//! What a token says (RFC 7519, with the `access` claim of the distribution token specification).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::scope::write_scope;
use crate::identity::{Grant, Subject, SubjectKind};
use crate::registry::{Action, RepoName};

/// How far the clock of who reads a token may be behind that of who minted it: another replica, or
/// this one before its clock was set back. The registry's own verifier allows as much.
const BEHIND: i64 = 60;

/// What a token is good for. One kind is never accepted as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Calls to the API.
    Access,
    /// More access tokens.
    Refresh,
}

/// The claims of one token. Times are seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Issuer: always ourselves.
    pub iss: String,
    /// The user; empty for anonymous, `key:NAME` for a robot key.
    pub sub: String,
    /// What the user is; what the first edition minted does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The service it is for.
    pub aud: String,
    /// When it ends.
    pub exp: i64,
    /// When it begins.
    pub nbf: i64,
    /// When it was minted.
    pub iat: i64,
    /// Its own name, for audit records.
    pub jti: String,
    /// The login that it comes from; what an earlier edition minted does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When that login was (`OpenID` Connect Core section 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// What it is good for.
    pub kind: Kind,
    /// What it was minted for.
    #[serde(default)]
    pub access: Vec<Access>,
    /// The state of the credential that it was minted for: when that changes, the token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The client certificate that has to accompany it (RFC 8705 section 3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// SHA-256 of the certificate, base64url.
    #[serde(rename = "x5t#S256")]
    thumbprint: String,
}

impl Confirmation {
    /// Binds to a certificate.
    pub fn to_certificate(fingerprint: &[u8; 32]) -> Self {
        Self {
            thumbprint: URL_SAFE_NO_PAD.encode(fingerprint),
        }
    }
}

/// One entry of `access`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository's name, or `catalog`.
    pub name: String,
    /// The actions granted.
    pub actions: Vec<String>,
}

impl Claims {
    /// Caller that it is for; `None` if no such caller can be. Where nothing says what the user is, `sub`
    /// alone does: no person can be called as robots are.
    pub fn subject(&self) -> Option<Subject> {
        match &self.who {
            Some(word) => Subject::read_as(SubjectKind::parse(word)?, &self.sub),
            None => Subject::read(&self.sub).ok(),
        }
    }

    /// Whether the token was minted for a client certificate and nothing else.
    pub fn stands_on_certificate(&self) -> bool {
        self.cnf.is_some() && self.credential.is_none()
    }

    /// Whether the token is good at a moment.
    pub(super) fn covers(&self, at: Timestamp) -> bool {
        let now = at.as_second();
        self.nbf <= now.saturating_add(BEHIND) && now < self.exp
    }

    /// What was granted, as typed values.
    pub fn grants(&self) -> Vec<Grant> {
        self.access.iter().filter_map(Access::grant).collect()
    }

    /// What was granted, as the OAuth2 answer names it.
    pub fn scope(&self) -> String {
        write_scope(&self.grants())
    }
}

impl Access {
    fn grant(&self) -> Option<Grant> {
        match self.kind.as_str() {
            "registry" => Some(Grant::Catalog),
            "repository" => Some(Grant::Repository {
                name: RepoName::parse(&self.name)?,
                actions: self
                    .actions
                    .iter()
                    .filter_map(|word| Action::parse(word))
                    .collect(),
            }),
            _ => None,
        }
    }
}

impl From<&Grant> for Access {
    fn from(grant: &Grant) -> Self {
        match grant {
            Grant::Catalog => Self {
                kind: "registry".to_owned(),
                name: "catalog".to_owned(),
                actions: vec!["*".to_owned()],
            },
            Grant::Repository { name, actions } => Self {
                kind: "repository".to_owned(),
                name: name.to_string(),
                actions: actions
                    .iter()
                    .map(|action| action.as_str().to_owned())
                    .collect(),
            },
        }
    }
}
