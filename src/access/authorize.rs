//! Every step between a request's head and the registry, in order. Only the head is looked at: no
//! byte of a body is read before there is a permit.

use std::sync::Arc;

use jiff::Timestamp;

use super::login_throttle::{note_claim, verify_password};
use super::refusal::Denied;
use super::{Pull, Refusal, pull_quota};
use crate::audit::{Event, Purpose, Record};
use crate::authn::{Anonymous, Challenge};
use crate::identity::{
    Authentication, ClientCertificate, Identity, Presented, Robot, Secret, Subject,
};
use crate::policy::{Denial, Permit};
use crate::registry::{Action, Call, CallError, RepoName};
use crate::request::RequestContext;
use crate::state::Rules;
use crate::token::{Confirmation, Kind, TokenError, Verified};
use crate::upstream::Session;

/// How long a push that was begun with a token may go on after the token has expired.
const LONGEST_PUSH: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// A request that may go on.
pub struct Admission {
    /// The proof, for forwarding.
    pub permit: Permit,
    /// The caller.
    pub who: Identity,
    /// The upload session being continued.
    pub session: Option<Session>,
    /// What it costs, for those who are limited.
    pub pull: Option<Pull>,
}

/// Judges one request to the API. What is learnt on the way is noted in the record, also when the
/// answer is no.
pub async fn authorize(
    context: &RequestContext,
    call: &Result<Arc<Call>, CallError>,
    record: &mut Record,
) -> Result<Box<Admission>, Refusal> {
    let RequestContext {
        rules, now, peer, ..
    } = context;
    if let Ok(call) = call {
        record.call(call);
    }
    record.certificate(peer.certificate.shown());
    // Who has no certificate where one is required learns that, and nothing else.
    let shown = rules.certificates.admit(peer, *now)?;
    let call = call.clone()?;

    let presented = presented(context, record)?;
    let for_nobody = Refusal::for_nobody(&presented);
    let is_bare = matches!(presented, Presented::Nothing);
    let is_anonymous = is_bare || matches!(presented, Presented::Empty);
    // Before anything is asked that costs anything.
    if is_bare && is_asked_first(rules, &call, shown) {
        record.identify(&Identity::anonymous(), std::iter::empty());
        return Err(Refusal::Challenged);
    }
    let logs_in = matches!((&*call, &presented), (Call::Ping, Presented::Basic { .. }));
    if logs_in {
        record.event(Event::Login);
    }
    context.retained.audit.ready_for(if call.is_read() {
        Purpose::Read
    } else {
        Purpose::Write
    })?;

    let session = rules.upstream.open_session(&call);
    let begun = session.as_ref().map(|session| session.begun);
    let who = match presented {
        Presented::Empty | Presented::Nothing => Identity::anonymous(),
        Presented::Basic { user, password } => {
            verify_password(context, shown, &user, &password, record).await?
        }
        Presented::Bearer(token) => {
            record.authentication(Authentication::Token);
            let verified = verify_token(context, &token, Kind::Access, begun, record)?;
            bearer(context, &verified, shown).await?
        }
    };
    let who = rules.certificates.join(who, shown)?;
    if who.user().is_some() {
        peer.witness.proven();
    }
    record.identify(&who, rules.policy.groups_of(&who));
    if matches!(*call, Call::Ping) && is_anonymous && who.subject().is_nobody() {
        return Err(for_nobody);
    }

    let uncovered = uncovered_source(context, &who, &call, record);
    let decision = rules
        .policy
        .decide(&who, peer.address, Arc::clone(&call), *now);
    let permit = decision.map_err(|denial| {
        if let Some(rule) = &denial.rule {
            record.rule(&rule.0);
        }
        if who.subject().is_nobody() {
            for_nobody
        } else {
            denied_or_asked(context, &who, denial, &call, !is_anonymous)
        }
    })?;
    let is_covered = |action| who.scope_covers(action, call.repository());
    if uncovered.is_some() || !call.action().is_none_or(is_covered) {
        return Err(Refusal::InsufficientScope { source: uncovered });
    }
    if let Some(rule) = permit.rule() {
        record.rule(&rule.0);
    }
    let is_owners = |session: &Session| session.owner.is(who.subject());
    if matches!(permit.call(), Call::Upload { .. }) && !session.as_ref().is_some_and(is_owners) {
        return Err(Refusal::UploadUnknown);
    }
    let pull = pull_quota::reserve(context, &who, permit.call()).await?;
    record.permitted();
    if !permit.call().is_read() {
        // A change that has begun is not broken off for another connection.
        peer.witness.proven();
    }
    Ok(Box::new(Admission {
        permit,
        who,
        session,
        pull,
    }))
}

/// What a request presents. Where that cannot be read, the record still says whose it is said to be.
pub(super) fn presented(
    context: &RequestContext,
    record: &mut Record,
) -> Result<Presented, Refusal> {
    let headers = &context.head.headers;
    Presented::from_headers(headers).map_err(|malformed| {
        if let Some(claim) = Presented::claimed(headers) {
            note_claim(&context.rules, &claim, record);
        }
        malformed.into()
    })
}

/// The moments at which a token may be judged: now, and, since a push admitted at its start is not cut
/// by a token that expires on the way, when the push that the request continues was begun.
fn moments(begun: Option<Timestamp>, now: Timestamp) -> [Timestamp; 2] {
    match begun {
        Some(begun) if begun <= now && now.duration_since(begun) < LONGEST_PUSH => [now, begun],
        Some(_) | None => [now, now],
    }
}

/// Verifies a token of ours, and notes which it is. `begun` is when the push that the request
/// continues was begun.
pub(super) fn verify_token(
    context: &RequestContext,
    token: &Secret<String>,
    kind: Kind,
    begun: Option<Timestamp>,
    record: &mut Record,
) -> Result<Arc<Verified>, Refusal> {
    let RequestContext {
        rules,
        now,
        authority,
        ..
    } = context;
    let verified = rules.keys.verify(
        token.expose(),
        kind,
        authority.as_str(),
        &moments(begun, *now),
    )?;
    let claims = &verified.claims;
    record.token(&claims.jti, claims.session.as_deref());
    Ok(verified)
}

/// The caller that a token stands for, if its credential is still what it was when it was minted.
pub(super) async fn bearer(
    context: &RequestContext,
    verified: &Verified,
    shown: Option<&ClientCertificate>,
) -> Result<Identity, Refusal> {
    let RequestContext { rules, now, .. } = context;
    let scope = verified.grants.clone();
    if let Some(bound) = &verified.claims.cnf
        && shown
            .map(|shown| Confirmation::to_certificate(&shown.fingerprint))
            .as_ref()
            != Some(bound)
    {
        return Err(TokenError::Binding.into());
    }
    let user = match &verified.subject {
        Subject::Nobody => return Ok(Identity::verified_token(None, [].into(), false, scope)),
        Subject::Robot(robot) => return robot_of(rules, robot, verified, *now),
        // No back end here knows its state.
        Subject::Workload(_) => return Err(revoked(verified)),
        Subject::Person(user) => user,
    };
    if verified.claims.stands_on_certificate() {
        let named = shown.and_then(|shown| rules.certificates.user(shown));
        let named = named.filter(|named| named.is(user));
        let named = named.ok_or_else(|| revoked(verified))?;
        return Ok(Identity::verified_token(
            Some(named),
            [].into(),
            false,
            scope,
        ));
    }
    let current = rules
        .credential_state(user, verified.credential_key())
        .await;
    match current.map_err(Refusal::Undecided)? {
        Some((state, standing)) if Some(&state) == verified.claims.credential.as_ref() => {
            let user = Some(standing.name);
            let who = Identity::verified_token(user, standing.groups, true, scope);
            Ok(if standing.stale {
                who.while_directory_down()
            } else {
                who
            })
        }
        Some(_) | None => Err(revoked(verified)),
    }
}

/// The same for a token that was minted for a robot key: it is confined as the key is now, and ends
/// with it, whatever was begun.
fn robot_of(
    rules: &Rules,
    robot: &Robot,
    token: &Verified,
    now: Timestamp,
) -> Result<Identity, Refusal> {
    let keys = rules.robots.current();
    let state = Rules::key_state(&keys, robot, token.credential_key());
    let key = keys
        .get(robot.name())
        .filter(|key| !key.confinement.is_over(now));
    match key {
        Some(key) if state.is_some() && state == token.claims.credential => {
            let confinement = Arc::clone(&key.confinement);
            let scope = token.grants.clone();
            Ok(Identity::verified_key_token(
                robot.clone(),
                confinement,
                scope,
            ))
        }
        Some(_) | None => Err(revoked(token)),
    }
}

fn revoked(token: &Verified) -> Refusal {
    Refusal::Revoked {
        subject: token.subject.clone(),
    }
}

/// Whether a request without `Authorization` is answered with a challenge before anything else, so
/// that clients that wait to be asked send what they have. A certificate that names a user is a
/// credential, but for `/v2/`: a client that logs in there learns whether the password is right.
fn is_asked_first(rules: &Rules, call: &Call, shown: Option<&ClientCertificate>) -> bool {
    match (call, rules.challenge, rules.anonymous) {
        (Call::Ping, Challenge::Bearer, _) => true,
        (_, Challenge::Bearer, Anonymous::Token) => shown
            .and_then(|shown| rules.certificates.user(shown))
            .is_none(),
        (_, Challenge::Basic, _) | (_, Challenge::Bearer, Anonymous::Direct) => false,
    }
}

/// A denial, or a challenge where nothing but a password is missing. `is_asked`: another credential
/// was sent, so the client has been asked before.
fn denied_or_asked(
    context: &RequestContext,
    who: &Identity,
    denial: Denial,
    call: &Call,
    is_asked: bool,
) -> Refusal {
    let lacks_password = denial.lacks_password;
    let denied = Denied {
        denial,
        subject: who.subject().clone(),
        repository: call.repository().cloned(),
    };
    if !lacks_password {
        return Refusal::Denied(denied);
    }
    let (policy, from) = (&context.rules.policy, context.peer.address);
    let opens = |source: &&RepoName| {
        policy.allows_with_password(who, from, Action::Pull, source, context.now)
    };
    Refusal::PasswordMissing {
        denied,
        source: call.mount_source().filter(opens).cloned(),
        is_asked,
    }
}

/// The source of a mount that the policy lets the caller read, and the token does not cover: a
/// better token helps. For a source that the policy refuses none would, and the mount becomes an
/// ordinary upload: containerd takes a second challenge for the end (its `docker/authorizer.go`).
fn uncovered_source(
    context: &RequestContext,
    who: &Identity,
    call: &Call,
    record: &mut Record,
) -> Option<RepoName> {
    let source = call.mount_source()?;
    let (policy, from) = (&context.rules.policy, context.peer.address);
    let decision = policy.allows(who, from, Action::Pull, source, context.now);
    if !decision.is_allow() {
        return None;
    }
    record.source_allowed();
    (!who.scope_covers(Action::Pull, Some(source))).then(|| source.clone())
}
