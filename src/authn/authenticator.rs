//! The back ends of one configuration, asked in its order: the first that knows the user decides.
//!
//! A directory that is down is not one that does not know the user: no later back end is asked. Nor is
//! a password called wrong, by any back end, before all later ones have shown that they answer: else an
//! outage would tell the users of a file, 401, from all others, 503.

use std::sync::Arc;

use super::back_end::{BackEnd, CredentialStatus, Login};
use super::htpasswd::Users;
use super::ldap::Directory;
use super::outcome::{Failure, Outcome, Rejected, Rejection};
use super::person::Known;
use super::state::AuthnState;
use crate::identity::{Authentication, Identity, Name, Password, Recency};
use crate::limit::{Claimant, Trust};

/// The back ends of one configuration.
pub struct Authenticator {
    back_ends: Vec<BackEnd>,
    state: Arc<AuthnState>,
}

/// What the back ends say of a password.
#[must_use]
pub struct Verified {
    /// The answer.
    pub outcome: Outcome,
    /// The back end that decided.
    pub by: Option<Authentication>,
    /// Whether the password counts as a guess although a back end failed: one before it was asked, and
    /// did not accept it. That counts for everybody alike, known or not.
    pub is_guess: bool,
}

impl Authenticator {
    /// `back_ends` are asked in this order.
    pub fn new(back_ends: Vec<BackEnd>, state: Arc<AuthnState>) -> Self {
        Self { back_ends, state }
    }

    /// The directory, for diagnosis.
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.back_ends.iter().find_map(BackEnd::directory)
    }

    /// Verifies a password, or remembers that it was lately, and tells which back end decided; for a
    /// user whom none knows, the first. May be dropped at any time. `whom` is who asks: what all
    /// callers share, hashing and the directory, is shared out by it.
    pub async fn verify_password(
        &self,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Verified {
        let login = Login {
            user,
            password,
            whom,
        };
        let verified = self.judge(login).await;
        if let Outcome::Accept(who) = &verified.outcome
            && !(who.cached() && whom.trust == Trust::Proven)
        {
            self.state.recent.note(user.folded(), whom.source);
        }
        verified
    }

    async fn judge(&self, login: Login<'_>) -> Verified {
        let mut entry = None;
        for (position, back_end) in self.back_ends.iter().enumerate() {
            if !back_end.may_know(login.user.as_str()) {
                continue;
            }
            let by = Some(back_end.method());
            match back_end.verify(login, self.file(), &self.state).await {
                Outcome::Reject(rejected) if rejected.why == Rejection::UnknownUser => {}
                Outcome::Accept(known) if self.is_decided_before(position, &known.person.name) => {
                    entry = Some(known.person.name.clone());
                }
                Outcome::Accept(known) => {
                    let outcome = Outcome::Accept(identity(&known, back_end.method()));
                    return Verified::new(outcome, by);
                }
                Outcome::Reject(rejected) => {
                    return match self.failure_after(position, login).await {
                        Some(failure) => Verified::guess(failure, by),
                        None => Verified::new(Outcome::Reject(rejected), by),
                    };
                }
                Outcome::Fail(failure) => {
                    let mut before = self.back_ends.iter().take(position);
                    let Some(file) = before.find(|back_end| back_end.users().is_some()) else {
                        return Verified::new(Outcome::Fail(failure), by);
                    };
                    // Costs as much as for a user of the file.
                    drop(file.verify(login, None, &self.state).await);
                    return Verified::guess(failure, by);
                }
            }
        }
        let mut all = self.back_ends.iter();
        let outcome = match all.find(|back_end| back_end.users().is_some()) {
            // Costs as much as a wrong password.
            Some(file) => {
                let outcome = file.verify(login, None, &self.state).await;
                outcome.map(|known| identity(&known, file.method()))
            }
            None if self.back_ends.is_empty() => Outcome::Reject(Rejection::NoBackEnd.into()),
            None => Outcome::Reject(Rejection::UnknownUser.into()),
        };
        let outcome = match outcome {
            Outcome::Reject(Rejected { why, entry: None }) => {
                Outcome::Reject(Rejected { why, entry })
            }
            other @ (Outcome::Accept(_) | Outcome::Reject(_) | Outcome::Fail(_)) => other,
        };
        Verified::new(outcome, self.back_ends.first().map(BackEnd::method))
    }

    /// What keeps a back end after this one from answering.
    async fn failure_after(&self, position: usize, login: Login<'_>) -> Option<Failure> {
        for back_end in self.back_ends.iter().skip(position).skip(1) {
            if let Some(failure) = back_end.failure(login, &self.state).await {
                return Some(failure);
            }
        }
        None
    }

    /// Returns true if a back end is known to know a user: the file does, or the directory did lately.
    pub fn remembers(&self, user: &Name) -> bool {
        let mut all = self.back_ends.iter();
        all.any(|back_end| back_end.remembers(user, &self.state))
    }

    /// The back end that is the first to have a say about a user; of several, the directory may turn
    /// out not to know the user.
    pub fn asked_about(&self, user: &str) -> Option<Authentication> {
        let mut all = self.back_ends.iter();
        all.find(|back_end| back_end.may_know(user))
            .or_else(|| self.back_ends.first())
            .map(BackEnd::method)
    }

    /// The state of a user's credential at the back end that decides about the user; `None` once none
    /// knows the user.
    pub async fn credential_status(
        &self,
        user: &Name,
    ) -> Result<Option<CredentialStatus>, Failure> {
        for (position, back_end) in self.back_ends.iter().enumerate() {
            match back_end.status(user, &self.state).await {
                Outcome::Accept(status) => {
                    // Another's by now, if the directory or a file before it says so.
                    let same =
                        status.name.is(user) && !self.is_decided_before(position, &status.name);
                    return Ok(same.then_some(status));
                }
                Outcome::Reject(rejected) if rejected.why == Rejection::UnknownUser => {}
                Outcome::Reject(_) => return Ok(None),
                Outcome::Fail(failure) => return Err(failure),
            }
        }
        Ok(None)
    }

    /// Returns true if a back end before this one knows the user: a directory's own spelling of a name
    /// may be another's in a file.
    fn is_decided_before(&self, position: usize, user: &Name) -> bool {
        let mut before = self.back_ends.iter().take(position);
        before.any(|back_end| back_end.knows(user))
    }

    /// The file, whose hashes unknown users are measured by.
    fn file(&self) -> Option<&Arc<Users>> {
        self.back_ends.iter().find_map(BackEnd::users)
    }
}

impl Verified {
    fn new(outcome: Outcome, by: Option<Authentication>) -> Self {
        Self {
            outcome,
            by,
            is_guess: false,
        }
    }

    fn guess(failure: Failure, by: Option<Authentication>) -> Self {
        Self {
            outcome: Outcome::Fail(failure),
            by,
            is_guess: true,
        }
    }
}

fn identity(known: &Known, method: Authentication) -> Identity {
    let Known { person, recency } = known;
    let groups = Arc::clone(&person.groups);
    let cached = *recency != Recency::Now;
    let who = Identity::verified_password(person.name.clone(), groups, method, cached);
    match recency {
        Recency::BeforeAnOutage => who.while_directory_down(),
        Recency::Lately | Recency::Now => who,
    }
}

#[cfg(test)]
mod tests;
