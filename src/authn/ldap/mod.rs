//! Users in a directory: found by a search, verified by a bind.
//!
//! The service account searches for the entry of a user, exactly one; a bind as that entry, with the
//! user's password, says whether the password is right; then the service account looks for the
//! groups. The name of a user is the one that the entry holds, never the spelling that was typed:
//! directories take `ALICE` for `alice`, and rules and limits must not be fooled by that.
//!
//! The servers are asked in order, each for its share of the time-out; one that fails is left alone
//! for a moment. That nobody answers is [`Failure::DirectoryDown`], which says nothing about anybody;
//! what was true a short while before may be believed then, if the configuration says so.

mod breaker;
mod connection;
mod dn;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod groups;
mod journal;
mod message;
mod name;
mod server;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ldap3::SearchEntry;
use moka::future::Cache as Moka;
use rustls::ClientConfig;
use tokio::time::{timeout, timeout_at};

pub use dn::Dn;
pub use journal::Step;
pub use name::{FilterError, UserFilter};

use super::cache::{Key, Refused, Verified};
use super::fingerprint::Fingerprint;
use super::{Failure, Rejection};
use crate::config::Ldap;
use crate::identity::{Name, Origin, Password};
use crate::limit::{Claimant, Place, Shared, Usage};
use connection::{SIZE_LIMIT_EXCEEDED, Security, Trouble};
use groups::Groups;
use journal::Journal;
use server::Server;

/// Passwords that are verified at a time; more wait, as long as the time-out.
const MOST_BINDS: usize = 32;
/// How many more wait.
const MOST_WAITING: usize = 512;
/// Users that are remembered.
const MOST_USERS: u64 = 16_384;
/// Nothing is believed for longer, whatever the configuration says.
const LONGEST: Duration = Duration::from_hours(24);
/// Attributes that say which entry it is and when its password was changed, where they exist.
const STATE: [&str; 4] = ["entryUUID", "objectGUID", "pwdChangedTime", "pwdLastSet"];

/// A user of the directory.
#[derive(Debug)]
pub(super) struct Person {
    /// As the directory spells it.
    pub(super) name: Name,
    pub(super) groups: Arc<[Arc<str>]>,
    /// Changes when the entry becomes another's or, where the directory tells, its password changes.
    pub(super) fingerprint: Fingerprint,
}

/// The servers of one configuration and what is known from them. A reload that changes nothing
/// about it keeps it.
pub struct Directory {
    servers: Vec<Server>,
    user_base: Box<str>,
    filter: UserFilter,
    groups: Groups,
    timeout: Duration,
    stale_ok: Duration,
    fingerprint: Fingerprint,
    binds: Arc<Shared>,
    /// Users looked up lately, for their tokens; by the folds of their names.
    fresh: Moka<Arc<str>, Arc<Person>>,
    /// The last that was heard of users and credentials, for when the directory is down.
    people: moka::sync::Cache<Arc<str>, (Instant, Arc<Person>)>,
    credentials: moka::sync::Cache<Key, (Instant, Arc<Verified>)>,
}

/// What is known of a user.
pub(super) struct LookedUp {
    pub(super) person: Arc<Person>,
    /// From before the directory went down.
    pub(super) stale: bool,
}

#[derive(Clone)]
enum Question {
    /// With its place among those that are verified, held until the directory has answered, also
    /// when the caller leaves before.
    Login(Box<str>, Password, Arc<Place>),
    LookUp(Box<str>),
}

type Answer = Result<Person, Rejection>;

impl Directory {
    /// `tls` is there if a server is asked over TLS, and `ca` what its certificates are verified
    /// with. Users are looked up anew after `ttl`.
    pub fn new(config: &Ldap, tls: Option<&Arc<ClientConfig>>, ca: &[u8], ttl: Duration) -> Self {
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
            user_base: config.user_base.clone(),
            filter: config.user_filter.clone(),
            groups: Groups {
                by: config.groups,
                base: config.group_base.clone(),
                map: config.map.as_ref().map(of_the_file),
                nested: config.nested_groups,
            },
            timeout: config.timeout,
            stale_ok: config.stale_ok.min(LONGEST),
            fingerprint: Self::fingerprint_of(config, ca, ttl),
            binds: Shared::new(MOST_BINDS, MOST_WAITING),
            fresh: Moka::builder()
                .max_capacity(MOST_USERS)
                .time_to_live(ttl.min(LONGEST))
                .build(),
            people: memory(),
            credentials: memory(),
        }
    }

    /// What two configurations have in common exactly if they are the same.
    pub fn fingerprint_of(config: &Ldap, ca: &[u8], ttl: Duration) -> Fingerprint {
        // What is debugged has everything but the password.
        let text = format!("{config:?} {ttl:?}");
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

    /// Verifies a password.
    pub(super) async fn verify(
        self: &Arc<Self>,
        user: &Name,
        password: &Password,
        whom: Claimant,
    ) -> Result<Arc<Person>, Refused> {
        let bind = timeout(self.timeout, self.binds.acquire(whom)).await;
        let Ok(Ok(bind)) = bind else {
            return Err(Refused::Fail(Failure::Busy));
        };
        let question = Question::Login(user.as_str().into(), password.clone(), Arc::new(bind));
        let answer = self.ask(&question).await.map_err(Refused::Fail)?;
        match answer {
            Ok(person) => {
                let person = Arc::new(person);
                self.remember(&person);
                let folded = Arc::clone(person.name.folded());
                self.fresh.insert(folded, Arc::clone(&person)).await;
                Ok(person)
            }
            Err(rejection) => {
                if rejection == Rejection::UnknownUser {
                    self.forget(user).await;
                }
                Err(Refused::Reject(rejection))
            }
        }
    }

    /// Whether a user was there lately.
    pub(super) fn remembers(&self, user: &Name) -> bool {
        let folded = user.folded();
        self.fresh.contains_key(folded) || self.people.contains_key(folded)
    }

    /// What is known of a user without a password, looked up at most once in the time that the
    /// cache keeps anything. `None` for a user whom the directory does not know.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        user: &Name,
    ) -> Result<Option<LookedUp>, Failure> {
        let look_up = async {
            let answer = self.ask(&Question::LookUp(user.as_str().into())).await;
            let person = answer.map_err(Refused::Fail)?.map_err(Refused::Reject)?;
            let person = Arc::new(person);
            self.remember(&person);
            Ok(person)
        };
        let known = self
            .fresh
            .try_get_with(Arc::clone(user.folded()), look_up)
            .await;
        match known.map_err(|refused: Arc<Refused>| *refused) {
            Ok(person) => Ok(Some(LookedUp {
                person,
                stale: false,
            })),
            Err(Refused::Reject(_)) => {
                self.forget(user).await;
                Ok(None)
            }
            Err(Refused::Fail(failure)) => {
                let person = self.still(self.people.get(user.folded()), failure)?;
                Ok(Some(LookedUp {
                    person,
                    stale: true,
                }))
            }
        }
    }

    /// Remembers that a credential was right, for when the directory is down.
    pub(super) fn believe(&self, key: Key, verified: &Arc<Verified>) {
        if !self.stale_ok.is_zero() {
            let now = Instant::now();
            self.credentials.insert(key, (now, Arc::clone(verified)));
        }
    }

    /// Forgets a credential that is not right any more.
    pub(super) fn doubt(&self, key: Key) {
        self.credentials.invalidate(&key);
    }

    /// What was right a short while before, if the directory is down.
    pub(super) fn believed(&self, key: Key, failure: Failure) -> Result<Arc<Verified>, Failure> {
        self.still(self.credentials.get(&key), failure)
    }

    /// Looks a user up, and says what was asked and answered on the way. Nothing remembered is
    /// used, and every server is asked.
    pub async fn diagnose(self: &Arc<Self>, user: Option<&str>) -> Vec<Diagnosis> {
        let mut found = Vec::new();
        for (number, server) in self.servers.iter().enumerate() {
            // A name that nobody has tries everything but the groups.
            let question = Question::LookUp(user.unwrap_or("portcullis check").into());
            let asked = self.attempt(number, &question, self.timeout, Journal::kept());
            let (answer, steps) = asked.await;
            let trouble = match (answer, user) {
                (Err(trouble), _) => Some(trouble.to_string()),
                (Ok(Err(rejection)), Some(_)) => Some(rejection.as_str().to_owned()),
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

    fn still<T>(&self, last: Option<(Instant, T)>, failure: Failure) -> Result<T, Failure> {
        match last {
            Some((since, known))
                if failure == Failure::DirectoryDown && since.elapsed() < self.stale_ok =>
            {
                Ok(known)
            }
            Some(_) | None => Err(failure),
        }
    }

    fn remember(&self, person: &Arc<Person>) {
        if !self.stale_ok.is_zero() {
            let known = (Instant::now(), Arc::clone(person));
            self.people.insert(Arc::clone(person.name.folded()), known);
        }
    }

    async fn forget(&self, user: &Name) {
        self.people.invalidate(user.folded());
        self.fresh.invalidate(user.folded()).await;
    }

    /// Asks one server after the other, each for its share of the time that is left.
    async fn ask(self: &Arc<Self>, question: &Question) -> Result<Answer, Failure> {
        let user = match question {
            Question::Login(user, _, _) | Question::LookUp(user) => user,
        };
        if !name::is_fit(user) {
            return Ok(Err(Rejection::UnknownUser));
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
                    return Ok(answer);
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
                    tracing::warn!(server = %address, %trouble, "directory answers oddly");
                    return Err(Failure::DirectoryOdd);
                }
            }
        }
        Err(failure)
    }

    /// Asks one server. The library panics over some lies: only this task ends by that.
    async fn attempt(
        self: &Arc<Self>,
        number: usize,
        question: &Question,
        time: Duration,
        mut journal: Journal,
    ) -> (Result<Answer, Trouble>, Vec<Step>) {
        let (this, question) = (Arc::clone(self), question.clone());
        let task = tokio::spawn(async move {
            let Some(server) = this.servers.get(number) else {
                return (Err(Trouble::Odd("no such server")), Vec::new());
            };
            let now = tokio::time::Instant::now();
            let until = now.checked_add(time).unwrap_or(now);
            let talk = this.converse(server, &question, until, &mut journal);
            let answer = timeout_at(until, talk).await;
            let answer = answer.unwrap_or(Err(Trouble::Slow));
            (answer, journal.into_steps())
        });
        let ended = task.await;
        ended.unwrap_or_else(|_panic| (Err(Trouble::Unreadable), Vec::new()))
    }

    async fn converse(
        &self,
        server: &Server,
        question: &Question,
        until: tokio::time::Instant,
        journal: &mut Journal,
    ) -> Result<Answer, Trouble> {
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
                    let nobody = name::nobody(user, &self.user_base);
                    bind(server, &nobody, password, until).await?;
                }
                return Ok(Err(rejection));
            }
        };
        let name = match self.name_of(&entry)? {
            Ok(name) => name,
            Err(rejection) => return Ok(Err(rejection)),
        };
        if let Some(password) = password
            && let Some(rejection) = verdict(bind(server, &entry.dn, password, until).await?)?
        {
            return Ok(Err(rejection));
        }
        let groups = self
            .groups
            .of(name.as_str(), &entry, server, journal)
            .await?;
        Ok(Ok(Person {
            name,
            groups,
            fingerprint: state(&entry),
        }))
    }

    /// The one entry of a user.
    async fn find(
        &self,
        server: &Server,
        user: &str,
        journal: &mut Journal,
    ) -> Result<Result<SearchEntry, Rejection>, Trouble> {
        let filter = self.filter.find(user);
        let mut attributes = vec![self.filter.attribute()];
        attributes.extend(STATE);
        attributes.extend(self.groups.attributes());
        let found = server
            .search(&self.user_base, &filter, &attributes, 2)
            .await?;
        journal.note("user filter", || filter.clone());
        match (found.code, found.entries.len()) {
            (0, 0) => return Ok(Err(Rejection::UnknownUser)),
            (0, 1) => {}
            (0 | SIZE_LIMIT_EXCEEDED, _) => {
                tracing::warn!(filter, "several entries for one user");
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
                    tracing::warn!(dn = entry.dn, attribute, %error, "a name nobody can have");
                    Err(Rejection::UnfitName)
                }
            }),
            (Some(_), _) => {
                tracing::warn!(dn = entry.dn, attribute, "an entry names several users");
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
    until: tokio::time::Instant,
) -> Result<u32, Trouble> {
    let bind = timeout_at(until, server.bind(dn, password)).await;
    bind.unwrap_or(Err(Trouble::SlowPassword))
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

/// What was heard of users, for a day at most.
fn memory<K, V>() -> moka::sync::Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    moka::sync::Cache::builder()
        .max_capacity(MOST_USERS)
        .time_to_live(LONGEST)
        .build()
}

/// What one server said, for whoever sets it up.
#[derive(Debug)]
pub struct Diagnosis {
    /// Which.
    pub server: String,
    /// What was asked and answered.
    pub steps: Vec<Step>,
    /// What is wrong.
    pub trouble: Option<String>,
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

/// The values of an attribute, by whatever case the server writes its name in.
fn values<'a>(entry: &'a SearchEntry, attribute: &str) -> impl Iterator<Item = &'a String> {
    let named = |(name, _): &(&String, _)| name.eq_ignore_ascii_case(attribute);
    entry
        .attrs
        .iter()
        .filter(named)
        .flat_map(|(_, values)| values)
}

/// Which entry it is, and in which state; tokens are good for this state only.
fn state(entry: &SearchEntry) -> Fingerprint {
    let of = |attribute: &str| -> Vec<u8> {
        let text = entry
            .attrs
            .iter()
            .map(|(name, values)| (name, values.concat().into_bytes()));
        let bytes = entry
            .bin_attrs
            .iter()
            .map(|(name, values)| (name, values.concat()));
        let mut all = text.chain(bytes);
        let found = all.find(|(name, _)| name.eq_ignore_ascii_case(attribute));
        found.map(|(_, value)| value).unwrap_or_default()
    };
    let mut parts: Vec<_> = STATE.map(of).into();
    // Who has no number of its own is known by its place.
    if parts.iter().take(2).all(Vec::is_empty) {
        parts.push(entry.dn.to_lowercase().into_bytes());
    }
    let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
    Fingerprint::of("portcullis 2026 ldap entry", &parts)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ldap3::SearchEntry;

    use super::{state, values, verdict};
    use crate::authn::Rejection;

    fn entry(attributes: &[(&str, &[&str])]) -> SearchEntry {
        let own = |(name, values): &(&str, &[&str])| {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            ((*name).to_owned(), values)
        };
        SearchEntry {
            dn: "uid=alice,dc=x".to_owned(),
            attrs: attributes.iter().map(own).collect(),
            bin_attrs: HashMap::new(),
        }
    }

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

    #[test]
    fn attributes_are_found_in_any_case_and_under_no_other_name() {
        let entry = entry(&[
            ("UID", &["alice"]),
            ("uidNumber", &["1"]),
            ("memberof", &["a", "b"]),
        ]);
        assert_eq!(values(&entry, "uid").collect::<Vec<_>>(), ["alice"]);
        assert_eq!(values(&entry, "memberOf").count(), 2);
        assert_eq!(values(&entry, "member").count(), 0);
    }

    #[test]
    fn a_token_outlives_a_move_but_no_new_password_and_no_successor() {
        let numbered = |uuid: &str, changed: &str| {
            state(&entry(&[
                ("entryUUID", &[uuid]),
                ("pwdChangedTime", &[changed]),
            ]))
        };
        assert_eq!(numbered("1", "x"), numbered("1", "x"));
        assert_ne!(numbered("1", "x"), numbered("1", "y"));
        assert_ne!(numbered("1", "x"), numbered("2", "x"));
        let mut moved = entry(&[("entryUUID", &["1"]), ("pwdChangedTime", &["x"])]);
        moved.dn = "uid=alice,ou=elsewhere,dc=x".to_owned();
        assert_eq!(state(&moved), numbered("1", "x"));
        let mut moved = entry(&[]);
        moved.dn = "uid=bob,dc=x".to_owned();
        assert_ne!(state(&moved), state(&entry(&[])));
    }
}
