//! The one place where a password is judged: keys and passwords, behind the defence against
//! guessing.
//!
//! A robot key that is right needs no such defence and is never refused for what others guessed. A
//! wrong one is counted like a wrong password, for the user `key:NAME`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Ledger, Refusal, Rules};
use crate::audit::{Audit, Event, Outcome as Told, Record};
use crate::authn::{CertificateError, Outcome, keys};
use crate::identity::{Authentication, ClientCertificate, Identity, Password, Peer, ROBOT};
use crate::limit::lockout::{Attempt, Became, Change, Judged, Lockout, Setting, Standing};

/// How often locks that have ended are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What a password or key is judged by.
pub(super) struct Login<'a> {
    pub(super) rules: &'a Rules,
    pub(super) ledger: &'a Ledger,
    pub(super) now: Timestamp,
    pub(super) peer: &'a Peer,
    /// The certificate that was accepted beside it.
    pub(super) shown: Option<&'a ClientCertificate>,
}

impl Login<'_> {
    /// Finds out whose password or key it is.
    pub(super) async fn verify(
        &self,
        user: &str,
        password: &Password,
        record: &mut Record,
    ) -> Result<Identity, Refusal> {
        let Some(key) = self.key(user, password) else {
            record.claim(user);
            let trial = self.begin(user, password)?;
            let verify = self.rules.authenticator.verify_password(user, password);
            return self.end(user, trial, verify.await);
        };
        let user = format!("{ROBOT}{user}");
        record.claim(&user);
        record.authentication(Authentication::Key);
        if let Outcome::Accept(who) = key {
            return Ok(who);
        }
        let trial = self.begin(&user, password)?;
        self.end(&user, trial, key)
    }

    /// The answer to a robot key; `None` for a password, which is the back ends' to judge.
    fn key(&self, name: &str, password: &Password) -> Option<Outcome> {
        keys::is_meant(password).then(|| {
            let keys = self.rules.robots.current();
            keys.verify(name, password, self.peer.address, self.now)
        })
    }

    fn begin(&self, user: &str, password: &Password) -> Result<Option<Trial<'_>>, Refusal> {
        // Who has a verified certificate is known already and may mistype as often as he likes.
        let standing = match self.shown {
            Some(_) => Standing::VerifiedCertificate,
            None => Standing::Stranger,
        };
        let guard = &self.ledger.guard;
        let attempt = guard
            .lock()
            .attempt(standing, user, self.peer.address, password);
        let Some(attempt) = attempt else {
            return Ok(None);
        };
        guard
            .begin(attempt, self.rules.failed_logins, &self.ledger.audit)
            .map(Some)
    }

    fn end(
        &self,
        user: &str,
        trial: Option<Trial<'_>>,
        outcome: Outcome,
    ) -> Result<Identity, Refusal> {
        let (judged, answer) = match outcome {
            Outcome::Accept(who) => (Judged::Right, Ok(who)),
            Outcome::Reject(_) if self.rules.certificates.contradicts(self.shown, user) => {
                (Judged::Wrong, Err(CertificateError::NamesAnother.into()))
            }
            Outcome::Reject(rejection) => (Judged::Wrong, Err(Refusal::BadCredential(rejection))),
            Outcome::Fail(failure) => (Judged::Unknown, Err(Refusal::Undecided(failure))),
        };
        if let Some(trial) = trial {
            trial.end(judged);
        }
        answer
    }
}

/// The lock-out of this process, with its clock.
pub struct Guard {
    lockout: Mutex<Lockout>,
    begun: Instant,
}

impl Default for Guard {
    fn default() -> Self {
        let mut secret = [0; 32];
        #[expect(
            clippy::expect_used,
            reason = "aws-lc itself aborts if the system has no randomness"
        )]
        aws_lc_rs::rand::fill(&mut secret).expect("randomness");
        Self {
            lockout: Mutex::new(Lockout::new(secret)),
            begun: Instant::now(),
        }
    }
}

impl Guard {
    /// Tells the audit trail of locks that have ended, for ever.
    pub async fn watch(self: Arc<Self>, audit: Arc<Audit>) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            let changes = self.lock().changes(self.begun.elapsed());
            for change in changes {
                tell(&audit, change).await;
            }
        }
    }

    fn begin<'a>(
        &'a self,
        attempt: Attempt,
        setting: Setting,
        audit: &'a Arc<Audit>,
    ) -> Result<Trial<'a>, Refusal> {
        let begun = self.lock().begin(&attempt, setting, self.begun.elapsed());
        begun.map_err(|wait| Refusal::Locked { wait })?;
        Ok(Trial {
            guard: self,
            audit,
            setting,
            attempt: Some(attempt),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Lockout> {
        // Each change leaves it whole.
        self.lockout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that is being verified. Dropped without an end, nobody knows how it ended.
struct Trial<'a> {
    guard: &'a Guard,
    audit: &'a Arc<Audit>,
    setting: Setting,
    attempt: Option<Attempt>,
}

impl Trial<'_> {
    fn end(mut self, judged: Judged) {
        self.finish(judged);
    }

    fn finish(&mut self, judged: Judged) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        let now = self.guard.begun.elapsed();
        let changes = self.guard.lock().end(&attempt, judged, self.setting, now);
        for change in changes {
            let audit = Arc::clone(self.audit);
            // Not here: a request that holds one slot of the trail must not wait for another.
            tokio::spawn(async move { tell(&audit, change).await });
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.finish(Judged::Unknown);
    }
}

/// One record for each change of state, besides the request's own.
async fn tell(audit: &Arc<Audit>, change: Change) {
    let Change { user, network, to } = change;
    let mut record = Record::open(audit, audit.slot().await, Event::Lockout);
    record.source(network.addr());
    if let Some(user) = &user {
        record.claim(user);
    }
    let user = user.as_deref().unwrap_or("every user");
    match to {
        Became::Locked(time) => {
            tracing::warn!(user, %network, ?time, "too many wrong passwords, locked");
            record.outcome(Told::Limited);
            let seconds = time.as_secs();
            record.reason(&format!("locked from {network} for {seconds} s"));
        }
        Became::Free => {
            tracing::info!(user, %network, "no longer locked");
            record.outcome(Told::Allowed);
            record.reason(&format!("free again from {network}"));
        }
    }
    record.close();
}
