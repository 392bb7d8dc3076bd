//! The back ends of one configuration, asked in its order: the first that knows the user decides.
//!
//! A directory that is down is not one that does not know the user: no later back end is asked.

use std::sync::Arc;

use super::back_end::{BackEnd, CredentialStatus, Login};
use super::htpasswd::Users;
use super::ldap::Directory;
use super::outcome::{Failure, Outcome, Rejection};
use super::person::Known;
use super::state::AuthnState;
use crate::identity::{Authentication, Identity, Name, Password, Recency};
use crate::limit::{Claimant, Trust};

/// The back ends of one configuration.
pub struct Authenticator {
    back_ends: Vec<BackEnd>,
    state: Arc<AuthnState>,
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
    ) -> (Outcome, Option<Authentication>) {
        let login = Login {
            user,
            password,
            whom,
        };
        let (outcome, decided_by) = self.judge(login).await;
        if let Outcome::Accept(who) = &outcome
            && !(who.cached() && whom.trust == Trust::Proven)
        {
            self.state.recent.note(user.folded(), whom.source);
        }
        (outcome, decided_by)
    }

    async fn judge(&self, login: Login<'_>) -> (Outcome, Option<Authentication>) {
        for (position, back_end) in self.back_ends.iter().enumerate() {
            if !back_end.may_know(login.user.as_str()) {
                continue;
            }
            let method = back_end.method();
            match back_end.verify(login, self.file(), &self.state).await {
                Outcome::Reject(Rejection::UnknownUser) => {}
                Outcome::Accept(known) if self.is_decided_before(position, &known.person.name) => {}
                decided @ (Outcome::Accept(_) | Outcome::Reject(_) | Outcome::Fail(_)) => {
                    return (decided.map(|known| identity(&known, method)), Some(method));
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
            None if self.back_ends.is_empty() => Outcome::Reject(Rejection::NoBackEnd),
            None => Outcome::Reject(Rejection::UnknownUser),
        };
        (outcome, self.back_ends.first().map(BackEnd::method))
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
                Outcome::Reject(Rejection::UnknownUser) => {}
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
