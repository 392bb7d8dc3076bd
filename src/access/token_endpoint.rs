//! The token service: `GET /token` (distribution token specification) and `POST /token` (its OAuth2
//! variant). Grants the intersection of what is asked for and what the policy allows.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde::Serialize;

use super::Refusal;
use super::authorize::{bearer, presented, verify_token};
use super::login_throttle::{note_claim, verify_password};
use crate::audit::{Event, Record};
use crate::identity::{
    Claim, ClientCertificate, Grant, Identity, Malformed, Presented, Secret, Subject,
};
use crate::policy::Decision;
use crate::registry::{CallError, query::Query};
use crate::request::{Authority, RequestContext};
use crate::state::Rules;
use crate::token::{Asked, Claims, Confirmation, Kind, TokenError, parse_scopes};

/// The longest body of a `POST /token`, in bytes.
pub const MAX_FORM: usize = 8 * 1024;

/// The answer: `token` for the older clients, `access_token` for the newer, both the same.
#[derive(Debug, Serialize)]
pub struct Minted {
    token: String,
    access_token: String,
    expires_in: u64,
    issued_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// When the credential that it was minted for ends, if it does.
    #[serde(skip)]
    pub expires: Option<Timestamp>,
}

/// What a token request says, however it was sent.
struct Wish {
    credential: Credential,
    scopes: Vec<Asked>,
    offline: bool,
}

enum Credential {
    Presented(Presented),
    Refresh(Secret<String>),
}

/// Answers a token request. `form` is the body of a POST.
pub async fn issue(
    context: &RequestContext,
    form: Option<&str>,
    record: &mut Record,
) -> Result<Minted, Refusal> {
    let RequestContext {
        rules,
        now,
        peer,
        head,
        ..
    } = context;
    record.certificate(peer.certificate.shown());
    let shown = rules.certificates.admit(peer, *now)?;
    let wish = match (&head.method, form) {
        (&Method::POST, Some(form)) => posted(context, form, record)?,
        (&Method::GET, None) => asked(context, record)?,
        _ => return Err(CallError::Method { allow: "GET, POST" }.into()),
    };
    if wish.scopes.is_empty() {
        record.event(Event::Login);
    }
    let for_nobody = match &wish.credential {
        Credential::Presented(presented) => Refusal::for_nobody(presented),
        Credential::Refresh(_) => Refusal::Unauthenticated,
    };
    let mut session = Session::begin(context)?;
    let who = match wish.credential {
        Credential::Presented(Presented::Empty | Presented::Nothing) => Identity::anonymous(),
        Credential::Presented(Presented::Bearer(_)) => return Err(Malformed::Scheme.into()),
        Credential::Presented(Presented::Basic { user, password }) => {
            verify_password(context, shown, &user, &password, record).await?
        }
        Credential::Refresh(token) => {
            let verified = verify_token(context, &token, Kind::Refresh, None, record)?;
            session = Session::of(context, &verified.claims)?;
            bearer(context, &verified, shown).await?
        }
    };
    let who = rules.certificates.join(who, shown)?;
    if !who.subject().is_nobody() {
        peer.witness.proven();
    }
    if who.subject().is_nobody() && wish.scopes.is_empty() {
        return Err(for_nobody);
    }
    record.identify(&who, rules.policy.groups_of(&who));
    let grants = intersect(context, &who, &wish.scopes);
    let credential = if who.has_secret() {
        credential(rules, who.subject()).await?
    } else {
        None
    };
    // Without a password or key there is nothing that a refresh token would save the client.
    let refreshable = wish.offline && who.has_secret() && !rules.refresh_lifetime.is_zero();
    let claims = claims(context, &who, shown, credential, &session);
    let access = Claims {
        kind: Kind::Access,
        access: grants.iter().map(Into::into).collect(),
        ..claims.clone()
    };
    let latest = session.latest(&who, refreshable);
    let (token, access) = sign(context, latest, access, rules.token_lifetime)?;
    record.scope(&access.scope());
    record.token(&access.jti, Some(&session.id));
    let refresh_token = if refreshable {
        Some(sign(context, latest, claims, rules.refresh_lifetime)?.0)
    } else {
        None
    };
    Ok(Minted {
        access_token: token.clone(),
        token,
        expires_in: u64::try_from(access.exp.saturating_sub(access.iat)).unwrap_or_default(),
        issued_at: format!("{now:.0}"),
        scope: form.is_some().then(|| access.scope()),
        refresh_token,
        expires: who.expires(),
    })
}

/// `GET /token?service=…&scope=…&scope=…`
fn asked(context: &RequestContext, record: &mut Record) -> Result<Wish, Refusal> {
    let query = Query::parse(context.head.uri.query(), &["scope"])?;
    check_service(&query, &context.authority)?;
    Ok(Wish {
        credential: Credential::Presented(presented(context, record)?),
        scopes: parse_scopes(query.values("scope")),
        offline: query.value("offline_token") == Some("true"),
    })
}

/// `POST /token` with `grant_type=password` or `refresh_token`.
fn posted(context: &RequestContext, form: &str, record: &mut Record) -> Result<Wish, Refusal> {
    let form = Query::parse(Some(form), &["scope"])
        .map_err(|_cause| invalid("the form cannot be read in exactly one way"))?;
    check_service(&form, &context.authority)?;
    let headers = &context.head.headers;
    if headers.contains_key(http::header::AUTHORIZATION) {
        return Err(invalid(
            "credentials stand both in the form and in a header",
        ));
    }
    let credential = match form.value("grant_type") {
        Some("password") => {
            let user = form.value("username").unwrap_or_default();
            let password = form.value("password").unwrap_or_default();
            let presented = Presented::user_and_password(user, password);
            if presented.is_err() && !user.is_empty() {
                note_claim(&context.rules, &Claim::of_text(user), record);
            }
            Credential::Presented(presented?)
        }
        Some("refresh_token") => {
            let token = form
                .value("refresh_token")
                .ok_or(invalid("no refresh_token"))?;
            Credential::Refresh(Secret::new(token.to_owned()))
        }
        None => return Err(invalid("no grant_type")),
        Some(_) => {
            return Err(Refusal::OAuth {
                error: "unsupported_grant_type",
                message: "grant_type must be password or refresh_token",
            });
        }
    };
    Ok(Wish {
        credential,
        scopes: parse_scopes(form.values("scope")),
        offline: form.value("access_type") == Some("offline"),
    })
}

fn invalid(message: &'static str) -> Refusal {
    Refusal::OAuth {
        error: "invalid_request",
        message,
    }
}

/// Tokens are minted for this service only.
fn check_service(query: &Query, authority: &Authority) -> Result<(), Refusal> {
    match query.value("service") {
        Some(service) if !authority.is(service) => {
            Err(invalid("this is not the token service of that service"))
        }
        Some(_) | None => Ok(()),
    }
}

/// What was asked for, as far as the policy allows it. Less is not an error.
fn intersect(context: &RequestContext, who: &Identity, asked: &[Asked]) -> Vec<Grant> {
    let (policy, from) = (&context.rules.policy, context.peer.address);
    let granted = asked.iter().map(|asked| match asked {
        // What of the catalog is shown is decided when it is asked for.
        Asked::Catalog => Grant::Catalog,
        Asked::Repository { name, actions } => {
            let allowed = actions.iter().copied().filter(|action| {
                let decision = policy.allows(who, from, *action, name, context.now);
                matches!(decision, Decision::Allow(_))
            });
            Grant::Repository {
                name: name.clone(),
                actions: allowed.collect(),
            }
        }
    });
    granted
        .filter(|grant| match grant {
            Grant::Catalog => true,
            Grant::Repository { actions, .. } => !actions.is_empty(),
        })
        .collect()
}

/// A login and all that is refreshed from it. A refresh never lengthens it. That a refresh token is
/// used twice is no sign of theft: docker keeps the first one and uses it all the time, for several
/// requests at once.
struct Session {
    id: String,
    began: i64,
    until: i64,
    is_refreshed: bool,
}

impl Session {
    fn begin(context: &RequestContext) -> Result<Self, Refusal> {
        let began = context.now.as_second();
        Ok(Self {
            id: random_name()?,
            began,
            until: end(context, began),
            is_refreshed: false,
        })
    }

    /// The one that a refresh token belongs to; one of an earlier edition began with that token.
    fn of(context: &RequestContext, refresh: &Claims) -> Result<Self, Refusal> {
        let began = refresh.auth_time.unwrap_or(refresh.iat);
        let until = end(context, began).min(refresh.exp);
        if until <= context.now.as_second() {
            return Err(TokenError::Expired.into());
        }
        Ok(Self {
            id: refresh.session.as_ref().unwrap_or(&refresh.jti).clone(),
            began,
            until,
            is_refreshed: true,
        })
    }

    /// The end of its tokens: that of the session, if it is one that can be refreshed, and never after
    /// the key that they are minted for.
    fn latest(&self, who: &Identity, is_refreshable: bool) -> i64 {
        let is_session = self.is_refreshed || is_refreshable;
        let session = if is_session { self.until } else { i64::MAX };
        let key = who.expires().map_or(i64::MAX, Timestamp::as_second);
        session.min(key)
    }
}

/// When a session that began at a second ends.
fn end(context: &RequestContext, began: i64) -> i64 {
    let lifetime = context.rules.refresh_lifetime.as_secs();
    began.saturating_add(i64::try_from(lifetime).unwrap_or(i64::MAX))
}

fn random_name() -> Result<String, Refusal> {
    let mut name = [0; 16];
    aws_lc_rs::rand::fill(&mut name).map_err(|_cause| unsigned())?;
    Ok(format!("{:032x}", u128::from_be_bytes(name)))
}

/// Seconds by which clocks of replicas may differ.
const CLOCK_SKEW: i64 = 10;

/// What all tokens of one answer share: those of a refresh token, whose time and name are not set yet.
/// `credential` is the state of the password or key that stands behind the tokens, if one does.
fn claims(
    context: &RequestContext,
    who: &Identity,
    shown: Option<&ClientCertificate>,
    credential: Option<String>,
    session: &Session,
) -> Claims {
    let rules = &context.rules;
    let is_bound = rules.bind_certificate || !who.has_secret();
    let bound = shown.filter(|_| is_bound);
    Claims {
        iss: rules.keys.issuer().to_owned(),
        sub: who.user().unwrap_or_default().to_owned(),
        who: Some(who.kind().as_str().to_owned()),
        aud: context.authority.as_str().to_owned(),
        exp: 0,
        nbf: 0,
        iat: 0,
        jti: String::new(),
        session: Some(session.id.clone()),
        auth_time: Some(session.began),
        kind: Kind::Refresh,
        access: Vec::new(),
        credential,
        cnf: bound.map(|shown| Confirmation::to_certificate(&shown.fingerprint)),
    }
}

/// Gives claims a name and their time, and signs them.
fn sign(
    context: &RequestContext,
    latest: i64,
    claims: Claims,
    lifetime: Duration,
) -> Result<(String, Claims), Refusal> {
    let begin = context.now.as_second();
    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let claims = Claims {
        exp: begin.saturating_add(seconds).min(latest),
        nbf: begin.saturating_sub(CLOCK_SKEW),
        iat: begin,
        jti: random_name()?,
        ..claims
    };
    let token = context.rules.keys.mint(&claims);
    Ok((token.map_err(|_cause| unsigned())?, claims))
}

/// The state of a caller's credential, for tokens to name. A user may be gone who has just logged in
/// with a password that was verified a while ago.
async fn credential(rules: &Rules, subject: &Subject) -> Result<Option<String>, Refusal> {
    let key = rules.keys.credential_key();
    let state = match subject {
        Subject::Nobody | Subject::Workload(_) => return Ok(None),
        Subject::Robot(robot) => Rules::key_state(&rules.robots.current(), robot, key),
        Subject::Person(name) => {
            let current = rules.credential_state(name, key).await;
            let known = current.map_err(Refusal::Undecided)?;
            known.map(|(state, _standing)| state)
        }
    };
    let revoked = || Refusal::Revoked {
        subject: subject.clone(),
    };
    state.ok_or_else(revoked).map(Some)
}

fn unsigned() -> Refusal {
    Refusal::Internal("a token could not be signed")
}
