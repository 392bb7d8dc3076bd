//! One user at one server: the search for the entry, the bind that says whether the password is right,
//! and the groups.

use std::sync::Arc;

use jiff::Timestamp;
use ldap3::SearchEntry;
use tokio::time::{Instant, timeout_at};

use super::account;
use super::connection::{SIZE_LIMIT_EXCEEDED, Trouble};
use super::entry::{STATE, fingerprint, values};
use super::groups::Groups;
use super::journal::Journal;
use super::name::{self, UserFilter};
use super::server::Server;
use crate::authn::outcome::{Rejected, Rejection};
use crate::authn::person::Person;
use crate::identity::{Name, Origin, Password};
use crate::limit::Place;
use crate::telemetry::LogLimit;

/// Of lines about answers that are odd, which any name that is typed may bring about.
pub(super) static ODD: LogLimit = LogLimit::new();

/// Entries that are looked at to see what can be read.
const SAMPLE: usize = 50;

/// A question about a user.
#[derive(Clone)]
pub(super) enum Question {
    /// With its place among those that are verified, held until the directory has answered, also
    /// when the caller leaves before.
    Login(Box<str>, Password, Arc<Place>),
    LookUp(Box<str>),
}

impl Question {
    /// The name that is asked about.
    pub(super) fn user(&self) -> &str {
        match self {
            Self::Login(user, _, _) | Self::LookUp(user) => user,
        }
    }
}

/// How users are found.
pub(super) struct UserSearch {
    pub(super) base: Box<str>,
    pub(super) filter: UserFilter,
    pub(super) groups: Groups,
}

impl UserSearch {
    /// Asks a server. A password that is not verified by `until` is slow, and the server is not.
    pub(super) async fn ask(
        &self,
        server: &Server,
        question: &Question,
        until: Instant,
        journal: &mut Journal,
    ) -> Result<Result<Person, Rejected>, Trouble> {
        let (user, password) = match question {
            Question::Login(user, password, _place) => (user, Some(password)),
            Question::LookUp(user) => (user, None),
        };
        if journal.is_kept() {
            server.ready().await?;
            journal.note("connected as", || server.account().to_owned());
        }
        let entry = match self.find(server, user, journal).await? {
            Ok(entry) => entry,
            Err(rejection) => {
                if let Some(password) = password {
                    // It takes as long as with a user who exists, and what it says is no matter.
                    let nobody = name::nobody(user, &self.base);
                    bind(server, &nobody, password, until).await?;
                }
                if journal.is_kept() {
                    self.sample(server, journal).await;
                }
                return Ok(Err(rejection.into()));
            }
        };
        let name = match self.name_of(&entry)? {
            Ok(name) => name,
            Err(rejection) => return Ok(Err(rejection.into())),
        };
        if let Some(password) = password
            && let Some(rejection) = verdict(bind(server, &entry.dn, password, until).await?)?
        {
            return Ok(Err(rejection.of(&name)));
        }
        if let Some(attribute) = account::ended(&entry, Timestamp::now())? {
            tracing::debug!(
                dn = entry.dn,
                attribute,
                "the account is disabled or expired"
            );
            return Ok(Err(Rejection::AccountDisabled.of(&name)));
        }
        let groups = self
            .groups
            .of(name.as_str(), &entry, server, journal)
            .await?;
        Ok(Ok(Person {
            name,
            groups,
            fingerprint: fingerprint(&entry),
        }))
    }

    /// Notes which attributes of accounts the service account can read, as far as some entries show. A
    /// server may refuse such a search.
    async fn sample(&self, server: &Server, journal: &mut Journal) {
        let filter = format!("({}=*)", self.filter.attribute());
        let attributes: Vec<&str> = account::attributes().map(|name| -> &str { name }).collect();
        let found = server.search(&self.base, &filter, &attributes, SAMPLE);
        if let Ok(found) = found.await {
            journal.note("accounts", || account::readable(&found.entries));
        }
    }

    /// The one entry of a user.
    async fn find(
        &self,
        server: &Server,
        user: &str,
        journal: &mut Journal,
    ) -> Result<Result<SearchEntry, Rejection>, Trouble> {
        let filter = self.filter.find(user);
        let mut attributes: Vec<&str> = vec![self.filter.attribute()];
        attributes.extend(STATE);
        attributes.extend(account::attributes().map(|name| -> &str { name }));
        attributes.extend(self.groups.attributes());
        let found = server.search(&self.base, &filter, &attributes, 2).await?;
        journal.note("user filter", || filter.clone());
        match (found.code, found.entries.len()) {
            (0, 0) => return Ok(Err(Rejection::UnknownUser)),
            (0, 1) => {}
            (0 | SIZE_LIMIT_EXCEEDED, _) => {
                if let Some(omitted) = ODD.due() {
                    tracing::warn!(filter, omitted, "several entries for one user");
                }
                return Ok(Err(Rejection::Ambiguous));
            }
            (code, _) => {
                return Err(Trouble::Result {
                    code,
                    what: "the search for a user",
                });
            }
        }
        let entry = found.entries.into_iter().next();
        let entry = entry.filter(|entry| !entry.dn.is_empty());
        let entry = entry.ok_or(Trouble::Odd("an entry without a name"))?;
        journal.note("entry", || entry.dn.clone());
        journal.note("account", || account::described(&entry, Timestamp::now()));
        Ok(Ok(entry))
    }

    /// What an entry calls its user: exactly one name.
    fn name_of(&self, entry: &SearchEntry) -> Result<Result<Name, Rejection>, Trouble> {
        let attribute = self.filter.attribute();
        let mut names = values(entry, attribute);
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(match Name::parse(name, Origin::Directory) {
                Ok(name) => Ok(name),
                Err(error) => {
                    if let Some(omitted) = ODD.due() {
                        let dn = &entry.dn;
                        tracing::warn!(dn, attribute, %error, omitted, "a name nobody can have");
                    }
                    Err(Rejection::UnfitName)
                }
            }),
            (Some(_), _) => {
                if let Some(omitted) = ODD.due() {
                    let dn = &entry.dn;
                    tracing::warn!(dn, attribute, omitted, "an entry names several users");
                }
                Ok(Err(Rejection::Ambiguous))
            }
            (None, _) => Err(Trouble::Odd(
                "the service account cannot read the attribute that names the user",
            )),
        }
    }
}

/// Tries a password at a server that has just answered a search.
async fn bind(
    server: &Server,
    dn: &str,
    password: &Password,
    until: Instant,
) -> Result<u32, Trouble> {
    let bind = timeout_at(until, server.bind(dn, password)).await;
    bind.unwrap_or(Err(Trouble::SlowPassword))
}

/// What the result of a user's bind means.
fn verdict(code: u32) -> Result<Option<Rejection>, Trouble> {
    match code {
        0 => Ok(None),
        // noSuchObject, inappropriateAuthentication, invalidCredentials
        32 | 48 | 49 => Ok(Some(Rejection::WrongPassword)),
        // constraintViolation, unwillingToPerform: locked or disabled, in some directories
        19 | 53 => Ok(Some(Rejection::AccountRefused)),
        code => Err(Trouble::Result {
            code,
            what: "the bind of a user",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use crate::authn::Rejection;

    #[test]
    fn only_answers_about_the_password_are_answers() {
        assert_eq!(verdict(0).unwrap(), None);
        for code in [32, 48, 49] {
            assert_eq!(verdict(code).unwrap(), Some(Rejection::WrongPassword));
        }
        for code in [19, 53] {
            assert_eq!(verdict(code).unwrap(), Some(Rejection::AccountRefused));
        }
        for code in [1, 3, 8, 10, 13, 14, 50, 51, 52, 80, 118] {
            assert!(verdict(code).is_err(), "{code}");
        }
    }
}
