//! The one place where a password is judged: keys and passwords, behind the defence against
//! guessing.
//!
//! A robot key that is right needs no such defence and is never refused for what others guessed. A
//! wrong one is counted like a wrong password, for the user `key:NAME`.

use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use crate::audit::{Audit, Event, Outcome as Told, Record};
use crate::authn::{CertificateError, Outcome, keys};
use crate::identity::{
    Authentication, Claim, ClientCertificate, Identity, Name, Password, Robot, Subject,
};
use crate::limit::lockout::{Attempt, Became, Change, ClientTrust, Judged, Setting, Whom};
use crate::limit::{Claimant, Source, Trust};
use crate::request::RequestContext;
use crate::state::{Retained, Rules};
use crate::store::{self, Guess, Judgement, Locks, Store};
use crate::telemetry::LogLimit;

/// How often locks that have ended are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Finds out whose password or key it is. `shown` is the certificate that was accepted beside it.
pub(super) async fn verify_password(
    context: &RequestContext,
    shown: Option<&ClientCertificate>,
    user: &Name,
    password: &Password,
    record: &mut Record,
) -> Result<Identity, Refusal> {
    let rules = &context.rules;
    let Some(key) = key(context, user.as_str(), password) else {
        let who = Subject::Person(user.clone());
        note_claim(rules, &Claim::of(&who), record);
        let trial = begin(context, shown, &who, password).await?;
        let whom = claimant(context, shown, user);
        let verified = rules.authenticator.verify_password(user, password, whom);
        let verified = verified.await;
        if let Some(back_end) = verified.by {
            record.authentication(back_end);
        }
        let outcome = verified.outcome;
        let judged = judged(&outcome, verified.is_guess);
        if let Some(entry) = entry(&outcome) {
            // On an error what was typed is dropped, neither right nor wrong.
            let typed = trial.as_ref();
            count_for_entry(context, shown, &entry, password, typed, judged).await?;
        }
        return end(rules, shown, &who, trial, judged, outcome).await;
    };
    let robot = Subject::Robot(Robot::named(user.as_str()));
    record.claim(&Claim::of(&robot));
    record.authentication(Authentication::Key);
    if let Outcome::Accept(who) = key {
        return Ok(who);
    }
    let trial = begin(context, shown, &robot, password).await?;
    let judged = judged(&key, false);
    end(rules, shown, &robot, trial, judged, key).await
}

/// For whom the password is verified: a caller with a verified certificate, or of a name that logged
/// in from there a short time ago, goes before strangers.
fn claimant(context: &RequestContext, shown: Option<&ClientCertificate>, user: &Name) -> Claimant {
    let source = Source::of(context.peer.address);
    let trust = match shown {
        Some(_) => Trust::Proven,
        None => context.retained.memory.trust(user, source),
    };
    Claimant { source, trust }
}

/// The answer to a robot key; `None` for a password, which is the back ends' to judge.
fn key(context: &RequestContext, name: &str, password: &Password) -> Option<Outcome> {
    keys::is_meant(password).then(|| {
        let keys = context.rules.robots.current();
        keys.verify(name, password, context.peer.address, context.now)
    })
}

async fn begin<'a>(
    context: &'a RequestContext,
    shown: Option<&ClientCertificate>,
    who: &Subject,
    password: &Password,
) -> Result<Option<Trial<'a>>, Refusal> {
    match attempt(context, shown, who, password) {
        Some(attempt) => begin_counted(context, attempt, password).await.map(Some),
        None => Ok(None),
    }
}

/// What is counted, if it is.
fn attempt(
    context: &RequestContext,
    shown: Option<&ClientCertificate>,
    who: &Subject,
    password: &Password,
) -> Option<Attempt> {
    // A user who has a certificate is known already and may mistype at will, but not guess for others.
    let named = shown.and_then(|shown| context.rules.certificates.user(shown));
    let trust = match named {
        Some(named) if Subject::Person(named.clone()).is(who) => ClientTrust::VerifiedCertificate,
        Some(_) | None => ClientTrust::Stranger,
    };
    let lockout = context.retained.lockout();
    lockout.attempt(trust, who, context.peer.address, password)
}

async fn begin_counted<'a>(
    context: &'a RequestContext,
    attempt: Attempt,
    password: &Password,
) -> Result<Trial<'a>, Refusal> {
    let (rules, retained) = (&context.rules, &*context.retained);
    let setting = rules.failed_logins;
    let store = rules.store.as_ref().filter(|_| setting.count > 0);
    let guess = store.map(|store| {
        let tag = attempt.tag(rules.keys.credential_key(), password);
        (store, store.guess(&attempt, tag))
    });
    let mut trial = Trial::begin(retained, attempt, setting)?;
    if let Some((store, guess)) = guess {
        Box::pin(trial.join(store, guess)).await?;
    }
    Ok(trial)
}

/// The name by which the back end knows the user, if there is an entry.
fn entry(outcome: &Outcome) -> Option<Subject> {
    let person = match outcome {
        Outcome::Accept(who) => who.subject().person().cloned(),
        Outcome::Reject(rejected) => rejected.entry.clone(),
        Outcome::Fail(_) => None,
    };
    person.map(Subject::Person)
}

/// Counts an attempt for the entry that was found as well, where that has another name than was typed.
/// If the entry is locked the answer is the same for a right password as for a wrong one.
async fn count_for_entry(
    context: &RequestContext,
    shown: Option<&ClientCertificate>,
    entry: &Subject,
    password: &Password,
    typed: Option<&Trial<'_>>,
    judged: Judged,
) -> Result<(), Refusal> {
    let Some(attempt) = attempt(context, shown, entry, password) else {
        return Ok(());
    };
    let attempt = match typed {
        Some(typed) if typed.is_of_the_same(&attempt) => return Ok(()),
        Some(_) => attempt.for_user_alone(),
        None => attempt,
    };
    let trial = begin_counted(context, attempt, password).await?;
    trial.end(judged).await;
    Ok(())
}

/// What an answer means to the count.
fn judged(outcome: &Outcome, is_guess: bool) -> Judged {
    match outcome {
        Outcome::Accept(_) => Judged::Right,
        Outcome::Reject(_) => Judged::Wrong,
        Outcome::Fail(_) if is_guess => Judged::Wrong,
        Outcome::Fail(_) => Judged::Unknown,
    }
}

async fn end(
    rules: &Rules,
    shown: Option<&ClientCertificate>,
    user: &Subject,
    trial: Option<Trial<'_>>,
    judged: Judged,
    outcome: Outcome,
) -> Result<Identity, Refusal> {
    if let Some(trial) = trial {
        trial.end(judged).await;
    }
    match outcome {
        Outcome::Accept(who) => Ok(who),
        Outcome::Reject(_) if rules.certificates.contradicts(shown, user) => {
            Err(CertificateError::NamesAnother.into())
        }
        Outcome::Reject(rejected) => Err(Refusal::BadCredential(rejected.why)),
        Outcome::Fail(failure) => Err(Refusal::Undecided(failure)),
    }
}

/// Notes whom a password that is not verified yet, or never will be, is said to be of, and who would
/// judge it.
pub(super) fn note_claim(rules: &Rules, claim: &Claim, record: &mut Record) {
    record.claim(claim);
    if let Some(back_end) = rules.authenticator.asked_about(claim.user()) {
        record.authentication(back_end);
    }
}

/// Tells the audit trail of locks that have ended, for ever.
pub async fn watch_locks(retained: Arc<Retained>) {
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    loop {
        ticks.tick().await;
        let changes = retained.lockout().changes(retained.now());
        record_all(&retained.audit, changes);
    }
}

/// An attempt that is being verified. Dropped without an end, its result is unknown.
struct Trial<'a> {
    retained: &'a Retained,
    setting: Setting,
    attempt: Option<Attempt>,
    /// The same attempt in the store, where there is one.
    elsewhere: Option<store::Trial>,
}

impl<'a> Trial<'a> {
    fn begin(retained: &'a Retained, attempt: Attempt, setting: Setting) -> Result<Self, Refusal> {
        let now = retained.now();
        let begun = retained.lockout().begin(&attempt, setting, now);
        begun.map_err(|wait| Refusal::Locked { wait })?;
        Ok(Self {
            retained,
            setting,
            attempt: Some(attempt),
            elsewhere: None,
        })
    }

    fn is_of_the_same(&self, other: &Attempt) -> bool {
        let own = self.attempt.as_ref();
        own.is_some_and(|own| own.is_of_the_same(other))
    }

    /// Takes over what replicas have locked: it needs no store from now on, also when it is lost.
    fn adopt(&self, attempt: &Attempt, locks: Locks) {
        let now = self.retained.now();
        let whoms = [(Whom::User, locks.pair), (Whom::Everybody, locks.network)];
        for (whom, time) in whoms {
            if let Some(time) = time {
                let changes = self.retained.lockout().adopt(attempt, whom, time, now);
                record_all(&self.retained.audit, changes);
            }
        }
    }

    /// Asks what replicas know of it. A store that does not answer refuses nothing.
    async fn join(&mut self, store: &Arc<Store>, guess: Guess) -> Result<(), Refusal> {
        let Some(attempt) = &self.attempt else {
            return Ok(());
        };
        match store.begin(guess, self.setting).await {
            None => Ok(()),
            Some(Judgement::Try(trial, wrong)) => {
                self.retained.lockout().agree(attempt, wrong);
                self.elsewhere = Some(trial);
                Ok(())
            }
            Some(Judgement::Busy(wait)) => Err(Refusal::Locked { wait }),
            Some(Judgement::Locked(locks)) => {
                self.adopt(attempt, locks);
                let wait = locks.network.or(locks.pair).unwrap_or_default();
                Err(Refusal::Locked { wait })
            }
        }
    }

    async fn end(mut self, judged: Judged) {
        let attempt = self.attempt.clone();
        self.finish(judged);
        let (Some(attempt), Some(trial)) = (attempt, self.elsewhere.take()) else {
            return;
        };
        let told = trial.end(judged);
        match judged {
            // The answer waits until all replicas know.
            Judged::Wrong => self.adopt(&attempt, told.await),
            Judged::Right | Judged::Unknown => drop(told),
        }
    }

    fn finish(&mut self, judged: Judged) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        let (retained, now) = (self.retained, self.retained.now());
        let changes = retained.lockout().end(&attempt, judged, self.setting, now);
        record_all(&retained.audit, changes);
    }
}

fn record_all(audit: &Arc<Audit>, changes: Vec<Change>) {
    for change in changes {
        record(audit, change);
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.finish(Judged::Unknown);
    }
}

/// Of lines about locked users: each has a record as well.
static LOCKED: LogLimit = LogLimit::new();

/// One record for each change of state, besides the request's own.
fn record(audit: &Arc<Audit>, change: Change) {
    let Change { user, network, to } = change;
    let mut record = Record::open(audit, Event::Lockout);
    record.source(network.addr());
    // The user stands in the reason only: who counts records by user counts attempts, and this is
    // none.
    let user = user.as_deref().unwrap_or("every user");
    match to {
        Became::Locked(time) => {
            if let Some(omitted) = LOCKED.due() {
                tracing::warn!(user, %network, ?time, omitted, "too many wrong passwords, locked");
            }
            record.outcome(Told::Limited);
            let seconds = time.as_secs();
            record.reason(&format!("{user} locked from {network} for {seconds} s"));
        }
        Became::Free => {
            tracing::debug!(user, %network, "no longer locked");
            record.outcome(Told::Allowed);
            record.reason(&format!("{user} free again from {network}"));
        }
    }
    record.close();
}
