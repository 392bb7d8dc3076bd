//! Users in a directory: found by a search, verified by a bind.
//!
//! The service account searches for the entry of a user, exactly one; a bind as that entry, with the
//! user's password, says whether the password is right; then the service account looks for the
//! groups. An account that is disabled or expired is nobody's, with a password or a token. The name of
//! a user is the one that the entry holds, never the spelling that was typed:
//! directories take `ALICE` for `alice`, and rules and limits must not be fooled by that.
//!
//! The servers are asked in order, each for its share of the time-out; one that fails is left alone
//! for a moment. That nobody answers is [`Failure::DirectoryDown`], which says nothing about anybody;
//! what was true a short while before may be believed then, if the configuration says so.

mod account;
mod breaker;
mod connection;
mod dn;
mod entry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod groups;
mod journal;
mod message;
mod name;
mod server;
mod settings;
mod user;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::time::{timeout, timeout_at};

pub use dn::Dn;
pub use journal::Step;
pub use name::{FilterError, UserFilter};
pub use settings::{LdapGroups, LdapServer, Settings};

use super::fingerprint::Fingerprint;
use super::outcome::{Failure, Outcome, Rejected, Rejection};
use super::person::Person;
use crate::identity::{Name, Origin, Password};
use crate::limit::{Claimant, Shared, Usage};
use connection::{Security, Trouble};
use groups::Groups;
use journal::Journal;
use server::Server;
use user::{ODD, Question, UserSearch};

/// Passwords that are verified at a time; more wait, as long as the time-out.
const MOST_BINDS: usize = 32;
/// How many more wait.
const MOST_WAITING: usize = 512;
/// A name that nobody has, to see what a directory answers.
const STRANGER: &str = "portcullis check";

/// The servers of one configuration. A reload that changes nothing about it keeps it.
pub struct Directory {
    servers: Vec<Server>,
    users: UserSearch,
    timeout: Duration,
    stale_ok: Duration,
    fingerprint: Fingerprint,
    binds: Arc<Shared>,
}

impl Directory {
    /// `tls` is there if a server is asked over TLS, and `ca` what its certificates are verified
    /// with.
    pub fn new(config: &Settings, tls: Option<&Arc<ClientConfig>>, ca: &[u8]) -> Self {
        let servers = config.servers.iter().map(|server| {
            let security = match tls {
                Some(tls) if server.tls => Security::Tls(Arc::clone(tls)),
                Some(tls) if config.start_tls => Security::StartTls(Arc::clone(tls)),
                Some(_) | None => Security::None,
            };
            Server::new(server.clone(), security, config.bind.clone())
        });
        Self {
            servers: servers.collect(),
            users: UserSearch {
                base: config.user_base.clone(),
                filter: config.user_filter.clone(),
                groups: Groups {
                    by: config.groups,
                    base: config.group_base.clone(),
                    map: config.map.as_ref().map(of_the_file),
                    nested: config.nested_groups,
                },
            },
            timeout: config.timeout,
            stale_ok: config.stale_ok,
            fingerprint: Self::fingerprint_of(config, ca),
            binds: Shared::new(MOST_BINDS, MOST_WAITING),
        }
    }

    /// What two configurations have in common exactly if they are the same.
    pub fn fingerprint_of(config: &Settings, ca: &[u8]) -> Fingerprint {
        // What is debugged has everything but the password.
        let text = format!("{config:?}");
        let password = config
            .bind
            .as_ref()
            .map_or("", |(_, password)| password.expose());
        let parts = [text.as_bytes(), password.as_bytes(), ca];
        Fingerprint::of("portcullis 2026 ldap configuration", &parts)
    }

    /// How the places for verifying passwords are used.
    pub fn usage(&self) -> Usage {
        self.binds.usage()
    }

    /// Of the configuration.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// For how long what was verified is believed while no server answers.
    pub(super) fn stale_ok(&self) -> Duration {
        self.stale_ok
    }

    /// Verifies a password.
    pub(super) async fn verify(
        self: &Arc<Self>,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Outcome<Person> {
        let bind = timeout(self.timeout, self.binds.acquire(whom)).await;
        let Ok(Ok(bind)) = bind else {
            return Outcome::Fail(Failure::Busy);
        };
        let question = Question::Login(user.as_str().into(), password.clone(), Arc::new(bind));
        self.ask(&question).await
    }

    /// Asks as for an unknown user with a wrong password: nothing but whether an answer comes counts.
    pub(super) async fn ask_about_nobody(self: &Arc<Self>, whom: Claimant) -> Outcome<Person> {
        match (
            Name::parse(STRANGER, Origin::Password),
            Password::new(STRANGER),
        ) {
            (Ok(user), Ok(password)) => self.verify(&user, &password, whom).await,
            (Err(_), _) | (_, Err(_)) => Outcome::Fail(Failure::Crashed),
        }
    }

    /// Looks a user up without a password.
    pub(super) async fn look_up(self: &Arc<Self>, user: &Name) -> Outcome<Person> {
        self.ask(&Question::LookUp(user.as_str().into())).await
    }

    /// Looks a user up, and says what was asked and answered on the way. Every server is
    /// asked.
    pub async fn diagnose(self: &Arc<Self>, user: Option<&str>) -> Vec<Diagnosis> {
        let mut found = Vec::new();
        for (number, server) in self.servers.iter().enumerate() {
            // A name that nobody has tries everything but the groups.
            let question = Question::LookUp(user.unwrap_or(STRANGER).into());
            let asked = self.attempt(number, &question, self.timeout, Journal::kept());
            let (answer, steps) = asked.await;
            let trouble = match (answer, user) {
                (Err(trouble), _) => Some(trouble.to_string()),
                (Ok(Err(rejected)), Some(_)) => Some(rejected.why.as_str().to_owned()),
                (Ok(Ok(_)), _) | (Ok(Err(_)), None) => None,
            };
            found.push(Diagnosis {
                server: server.address.to_string(),
                steps,
                trouble,
            });
        }
        found
    }

    /// Asks one server after the other, each for its share of the time that is left.
    async fn ask(self: &Arc<Self>, question: &Question) -> Outcome<Person> {
        if !name::is_fit(question.user()) {
            return Outcome::Reject(Rejection::UnknownUser.into());
        }
        let begun = Instant::now();
        let mut failure = Failure::DirectoryDown;
        for (number, server) in self.servers.iter().enumerate() {
            if !server.breaker.admits(Instant::now()) {
                continue;
            }
            let left = self.timeout.saturating_sub(begun.elapsed());
            let servers = u32::try_from(self.servers.len().saturating_sub(number)).unwrap_or(1);
            let share = left.checked_div(servers).unwrap_or(left);
            let asked = self.attempt(number, question, share, Journal::default());
            let address = &server.address;
            match asked.await.0 {
                Ok(answer) => {
                    if server.breaker.close() {
                        tracing::info!(server = %address, "directory server answers again");
                    }
                    return match answer {
                        Ok(person) => Outcome::Accept(person),
                        Err(rejected) => Outcome::Reject(rejected),
                    };
                }
                Err(trouble) if trouble.is_the_servers() => {
                    server.discard();
                    if server.breaker.open(Instant::now()) {
                        tracing::warn!(server = %address, %trouble, "directory server fails");
                    }
                }
                Err(Trouble::SlowPassword) => {
                    // The next one may be faster. It is not down: what was right before does not count.
                    tracing::debug!(server = %address, "a password was not verified in time");
                    failure = Failure::DirectoryOdd;
                }
                Err(trouble) => {
                    if let Some(omitted) = ODD.due() {
                        tracing::warn!(server = %address, %trouble, omitted, "directory answers oddly");
                    }
                    return Outcome::Fail(Failure::DirectoryOdd);
                }
            }
        }
        Outcome::Fail(failure)
    }

    /// Asks one server. The library panics over some lies: only this task ends by that.
    async fn attempt(
        self: &Arc<Self>,
        number: usize,
        question: &Question,
        time: Duration,
        mut journal: Journal,
    ) -> (Result<Result<Person, Rejected>, Trouble>, Vec<Step>) {
        let (this, question) = (Arc::clone(self), question.clone());
        let task = tokio::spawn(async move {
            let Some(server) = this.servers.get(number) else {
                return (Err(Trouble::Odd("no such server")), Vec::new());
            };
            let now = tokio::time::Instant::now();
            let until = now.checked_add(time).unwrap_or(now);
            let talk = this.users.ask(server, &question, until, &mut journal);
            let answer = timeout_at(until, talk).await;
            let answer = answer.unwrap_or(Err(Trouble::Slow));
            (answer, journal.into_steps())
        });
        let ended = task.await;
        ended.unwrap_or_else(|_panic| (Err(Trouble::Unreadable), Vec::new()))
    }
}

/// By the directory's groups, the groups that they count as.
fn of_the_file(map: &BTreeMap<Box<str>, Vec<Dn>>) -> HashMap<Dn, BTreeSet<Arc<str>>> {
    let mut groups: HashMap<Dn, BTreeSet<Arc<str>>> = HashMap::new();
    for (name, own) in map {
        for dn in own {
            let names = groups.entry(dn.clone()).or_default();
            names.insert(Arc::from(&**name));
        }
    }
    groups
}

/// What one server said, for whoever sets it up.
#[derive(Debug)]
pub struct Diagnosis {
    /// Its URL.
    pub server: String,
    /// What was asked and answered.
    pub steps: Vec<Step>,
    /// What is wrong.
    pub trouble: Option<String>,
}
