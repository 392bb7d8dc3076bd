//! Credentials that are unused, end soon or are weak: from the configuration where there is one, and
//! from the trail.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::authn;
use crate::authn::htpasswd::Users;
use crate::authn::keys::{RobotKey, robot_keys};
use crate::identity::{Robot, Subject};
use crate::policy::Roles;
use crate::tls::{self, TlsError};

/// Terms of what needs attention.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The time of the report.
    pub now: Timestamp,
    /// Time without a use after which a credential is called unused.
    pub unused: SignedDuration,
    /// Time before its end from which a key or certificate is pointed out.
    pub soon: SignedDuration,
}

/// Credentials that a configuration names.
#[derive(Debug)]
pub struct Configured<'a> {
    /// Back ends and their files.
    pub auth: &'a authn::Settings,
    /// Roles that keys may have.
    pub roles: &'a Roles,
    /// Ends of certificates, authorities and revocation lists, and those that cannot be read.
    pub endings: (Vec<tls::Ending>, Vec<TlsError>),
}

/// Everything found.
#[derive(Debug, Default)]
pub(super) struct CredentialHealth {
    /// True if a configuration was read.
    pub(super) configured: bool,
    /// True if the trail reaches back as far as is asked; otherwise an unused credential may have been
    /// used before its beginning.
    pub(super) reaches_back: bool,
    pub(super) credentials: u64,
    pub(super) unused: Vec<Unused>,
    pub(super) keys: Vec<Ending>,
    pub(super) certificates: Vec<Ending>,
    pub(super) weak: Vec<Weak>,
    /// Files that could not be read.
    pub(super) troubles: Vec<String>,
}

/// An unused credential.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unused {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) last: Option<Timestamp>,
}

/// Something that ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) what: String,
    pub(super) file: PathBuf,
    pub(super) ends: Timestamp,
    pub(super) days: i64,
    pub(super) state: State,
}

/// Nearness of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Good,
    Soon,
    Over,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Soon => "soon",
            Self::Over => "over",
        }
    }
}

/// A password whose hash is weak.
#[derive(Debug)]
pub(super) struct Weak {
    pub(super) user: String,
    pub(super) place: String,
    pub(super) cause: String,
    pub(super) remedy: String,
    pub(super) last: Option<Timestamp>,
}

impl CredentialHealth {
    /// Examines the credentials; the trail has their `last_use` and `begins` at a time.
    pub(super) fn of(
        configured: Option<Configured<'_>>,
        last_use: &HashMap<String, Timestamp>,
        begins: Option<Timestamp>,
        terms: Terms,
    ) -> Self {
        let limit = terms.now.saturating_sub(terms.unused).unwrap_or(terms.now);
        let mut found = Self {
            configured: configured.is_some(),
            reaches_back: begins.is_some_and(|begins| begins <= limit),
            ..Self::default()
        };
        let mut known: HashMap<String, &'static str> = last_use
            .keys()
            .map(|name| (name.clone(), kind_of(name)))
            .collect();
        if let Some(Configured {
            auth,
            roles,
            endings,
        }) = configured
        {
            // Without the users of a directory, whom no file lists.
            if auth.ldap.is_none() {
                known.clear();
            }
            found.users(auth, last_use, &mut known);
            found.keys(&auth.keys, roles, terms, &mut known);
            found.certificates(endings, terms);
        }
        found.credentials = u64::try_from(known.len()).unwrap_or(u64::MAX);
        found.unused = known
            .into_iter()
            .map(|(name, kind)| Unused {
                last: last_use.get(&name).copied(),
                kind,
                name,
            })
            .filter(|one| one.last.is_none_or(|last| last < limit))
            .collect();
        found
            .unused
            .sort_by(|a, b| (a.last, &a.name).cmp(&(b.last, &b.name)));
        found
    }

    fn users(
        &mut self,
        auth: &authn::Settings,
        last_use: &HashMap<String, Timestamp>,
        known: &mut HashMap<String, &'static str>,
    ) {
        let Some(path) = &auth.htpasswd else {
            return;
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) => return self.trouble(format!("{}: {error}", path.display())),
        };
        match Users::salvage(&text, path) {
            Err(errors) => self.troubles.extend(errors.iter().map(ToString::to_string)),
            Ok((users, mut weak, broken)) => {
                self.troubles.extend(broken.iter().map(ToString::to_string));
                let skipped = weak.extract_if(.., |line| line.user.is_none());
                self.troubles.extend(skipped.map(|line| line.to_string()));
                known.extend(users.names().map(|name| (name.to_owned(), "password")));
                self.weak.extend(weak.into_iter().map(|line| {
                    let user = line.user.as_deref().unwrap_or_default();
                    Weak {
                        user: user.to_owned(),
                        place: format!("{}:{}", line.file.display(), line.line),
                        cause: line.cause.to_string(),
                        remedy: line.remedy.clone(),
                        last: last_use.get(user).copied(),
                    }
                }));
            }
        }
    }

    fn keys(
        &mut self,
        file: &Path,
        roles: &Roles,
        terms: Terms,
        known: &mut HashMap<String, &'static str>,
    ) {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.trouble(format!("{}: {error}", file.display())),
        };
        let keys: Vec<RobotKey> = match robot_keys(&text, file, roles) {
            Ok(keys) => keys,
            Err(errors) => return self.trouble(errors.to_string()),
        };
        for key in keys {
            let robot = Subject::Robot(Robot::named(&key.name));
            known.insert(robot.as_str().unwrap_or_default().to_owned(), "key");
            if let Some(ends) = key.confinement.expires {
                let what = format!("key {}", key.name);
                self.keys.push(ending(what, file.to_owned(), ends, terms));
            }
        }
        self.keys.sort_by_key(|one| one.ends);
    }

    fn certificates(&mut self, (found, errors): (Vec<tls::Ending>, Vec<TlsError>), terms: Terms) {
        self.troubles.extend(errors.iter().map(ToString::to_string));
        let shown = found
            .into_iter()
            .map(|one| ending(one.what.to_owned(), one.file, one.ends, terms));
        self.certificates = shown.collect();
        self.certificates.sort_by_key(|one| one.ends);
    }

    fn trouble(&mut self, what: String) {
        self.troubles.push(what);
    }
}

fn kind_of(name: &str) -> &'static str {
    match Subject::read(name) {
        Ok(Subject::Robot(_)) => "key",
        Ok(Subject::Nobody | Subject::Person(_) | Subject::Workload(_)) | Err(_) => "user",
    }
}

fn ending(what: String, file: PathBuf, ends: Timestamp, terms: Terms) -> Ending {
    const DAY: i64 = 24 * 60 * 60;
    let left = ends.as_second().saturating_sub(terms.now.as_second());
    let state = if left <= 0 {
        State::Over
    } else if left <= terms.soon.as_secs() {
        State::Soon
    } else {
        State::Good
    };
    Ending {
        what,
        file,
        ends,
        days: left.div_euclid(DAY),
        state,
    }
}

#[cfg(test)]
mod tests {
    use super::{CredentialHealth, State, Terms, ending};
    use jiff::{SignedDuration, Timestamp};
    use std::collections::HashMap;

    fn terms() -> Terms {
        Terms {
            now: "2026-06-01T00:00:00Z".parse().unwrap(),
            unused: SignedDuration::from_hours(90 * 24),
            soon: SignedDuration::from_hours(30 * 24),
        }
    }

    #[test]
    fn who_was_not_seen_for_long_is_unused() {
        let time = |text: &str| -> Timestamp { text.parse().unwrap() };
        let last_use = HashMap::from([
            ("alice".to_owned(), time("2026-05-31T00:00:00Z")),
            ("bob".to_owned(), time("2026-03-03T00:00:00Z")),
            ("key:ci".to_owned(), time("2026-03-02T23:59:59Z")),
            ("carol".to_owned(), time("2025-01-01T00:00:00Z")),
        ]);
        let begins = Some(time("2024-01-01T00:00:00Z"));
        let found = CredentialHealth::of(None, &last_use, begins, terms());
        let names: Vec<_> = found
            .unused
            .iter()
            .map(|one| (one.name.as_str(), one.kind))
            .collect();
        assert_eq!(names, [("carol", "user"), ("key:ci", "key")]);
        assert_eq!((found.credentials, found.reaches_back), (4, true));
        let found =
            CredentialHealth::of(None, &last_use, Some(time("2026-05-01T00:00:00Z")), terms());
        assert!(!found.reaches_back);
    }

    #[test]
    fn ends_are_over_soon_or_far() {
        for (ends, state, days) in [
            ("2026-06-01T00:00:00Z", State::Over, 0),
            ("2026-05-30T23:00:00Z", State::Over, -2),
            ("2026-06-01T00:00:01Z", State::Soon, 0),
            ("2026-07-01T00:00:00Z", State::Soon, 30),
            ("2026-07-01T00:00:01Z", State::Good, 30),
        ] {
            let found = ending(String::new(), "f".into(), ends.parse().unwrap(), terms());
            assert_eq!((found.state, found.days), (state, days), "{ends}");
        }
    }
}
