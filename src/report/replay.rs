//! Decisions of the past, decided again by the configuration of today: what `explain --from-audit`
//! and `check --against` ask.
//!
//! The caller is taken from the record: the name, its proof, and the groups that came from outside;
//! groups of the configuration are those of today, as are the rights of a robot key.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::audit::{Entry, Outcome};
use crate::authn::keys::{Keyring, Keys};
use crate::document::Errors;
use crate::identity::{Identity, Proof, Subject};
use crate::policy::{Decision, Explanation, Policy, Roles};
use crate::registry::{Action, RepoName};

/// Why the tag of a manifest could not be moved, in the words of a record.
const TAG_EXISTS: &str = "tag exists, overwrite not allowed";

/// A question of the past, and the answer that it got.
#[derive(Debug)]
pub struct PastDecision {
    /// The right that was needed.
    pub action: Action,
    /// The repository; any one for the catalog.
    pub repository: RepoName,
    /// The user, as the record spells it.
    pub user: Option<String>,
    /// `None` for a name that cannot exist any more.
    subject: Option<Subject>,
    /// The client's address.
    pub address: IpAddr,
    outside_groups: Vec<String>,
    proof: Proof,
    /// Allowed then.
    pub allowed: bool,
    /// The rule that decided then.
    pub rule: Option<String>,
}

impl PastDecision {
    /// The question of a record; `None` if the policy decided nothing in it.
    pub fn in_record(entry: &Entry) -> Option<Self> {
        let (action, allowed) = decided(entry)?;
        let repository = match (&entry.repository, action) {
            (Some(name), _) => RepoName::parse(name)?,
            // The catalog is about no repository in particular.
            (None, Action::Catalog) => RepoName::parse("all")?,
            (None, _) => return None,
        };
        let method = entry.auth.as_deref().unwrap_or_default();
        let proof = |what: &str, guess: bool| {
            let told = entry.proof.as_ref();
            told.map_or(guess, |told| told.iter().any(|one| one == what))
        };
        Some(Self {
            action,
            repository,
            user: entry.user.clone(),
            subject: match entry.subject() {
                Some(subject) if method == "ldap" => Some(subject.in_directory()),
                other => other,
            },
            address: entry.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            outside_groups: entry.outside_groups.clone().unwrap_or_else(|| {
                // Records did not always tell them apart; a file of passwords names none.
                let named = matches!(method, "ldap" | "token" | "certificate");
                if named {
                    entry.groups.clone()
                } else {
                    Vec::new()
                }
            }),
            proof: Proof {
                password: proof("password", matches!(method, "htpasswd" | "ldap" | "token")),
                certificate: proof("certificate", entry.certificate.is_some()),
            },
            allowed,
            rule: entry.rule.clone(),
        })
    }

    /// The caller; `Err` says why there is none today.
    fn who(&self, keys: &Keys) -> Result<Identity, String> {
        let groups: Vec<&str> = self.outside_groups.iter().map(String::as_str).collect();
        match &self.subject {
            None => Err("nobody can be called that any more".to_owned()),
            Some(Subject::Nobody) => Ok(Identity::anonymous()),
            Some(somebody @ (Subject::Person(_) | Subject::Workload(_))) => {
                let somebody = somebody.clone();
                Ok(Identity::supposed_with(somebody, &groups, self.proof))
            }
            Some(Subject::Robot(robot)) => match keys.get(robot.name()) {
                Some(key) => {
                    let confinement = Arc::clone(&key.confinement);
                    Ok(Identity::supposed_key(robot.name(), confinement))
                }
                None => Err(format!("there is no key `{}` any more", robot.name())),
            },
        }
    }
}

/// The question in the policy's terms, and true if it was allowed.
fn decided(entry: &Entry) -> Option<(Action, bool)> {
    let action = Action::parse(entry.action.as_deref()?)?;
    let anonymous = entry.user.is_none() && entry.auth.as_deref() == Some("anonymous");
    if entry.user.is_some() && !entry.is_proven() {
        return None;
    }
    let reason = entry.reason.as_deref().unwrap_or_default();
    if action == Action::Catalog {
        // A part of it is shown to all callers; the rule is there for the whole.
        return (entry.outcome == Outcome::Allowed).then_some((action, entry.rule.is_some()));
    }
    if reason == TAG_EXISTS {
        return Some((Action::Overwrite, false));
    }
    match entry.outcome {
        Outcome::Denied => (entry.status == Some(403)).then_some((action, false)),
        // Nothing was decided: a credential was asked for.
        Outcome::Challenged => None,
        Outcome::Failed => (anonymous && entry.status == Some(401)).then_some((action, false)),
        Outcome::Aborted | Outcome::Allowed | Outcome::Error | Outcome::Limited => {
            entry.rule.as_ref().map(|_rule| (action, true))
        }
    }
}

/// Today's rules and keys.
#[derive(Debug)]
pub struct Today<'a> {
    policy: &'a Policy,
    keys: Arc<Keys>,
    now: Timestamp,
}

/// The answer of today.
#[derive(Debug)]
pub struct PresentDecision {
    /// Allowed today.
    pub allowed: bool,
    /// The rule, or why there is none.
    pub by: String,
}

impl<'a> Today<'a> {
    /// Opens the file of keys, whose roles are `roles`.
    pub fn new(
        policy: &'a Policy,
        keys: &Path,
        roles: &Roles,
        now: Timestamp,
    ) -> Result<Self, Errors> {
        let keys = Keyring::open(keys, roles)?;
        Ok(Self {
            policy,
            keys: keys.current(),
            now,
        })
    }

    /// Decides again.
    pub fn answer(&self, asked: &PastDecision) -> PresentDecision {
        let who = match asked.who(&self.keys) {
            Ok(who) => who,
            Err(why) => {
                return PresentDecision {
                    allowed: false,
                    by: why,
                };
            }
        };
        let found = self.policy.allows(
            &who,
            asked.address,
            asked.action,
            &asked.repository,
            self.now,
        );
        PresentDecision {
            allowed: found.is_allow(),
            by: by(&found),
        }
    }

    /// Decides again, with all reasons and the groups that count.
    pub fn explain(&self, asked: &PastDecision) -> Result<(Explanation, Vec<String>), String> {
        let who = asked.who(&self.keys)?;
        let (address, action) = (asked.address, asked.action);
        let found = self
            .policy
            .explain(&who, address, action, &asked.repository, self.now);
        Ok((
            found,
            self.policy.groups_of(&who).map(str::to_owned).collect(),
        ))
    }
}

fn by(decision: &Decision) -> String {
    match decision {
        Decision::Allow(place) | Decision::Deny(Some(place)) => place.0.to_string(),
        Decision::Deny(None) => "no rule allows it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{PastDecision, Today};
    use crate::audit::Entry;
    use crate::config::Config;
    use jiff::Timestamp;
    use std::path::Path;

    const CONFIG: &str = r#"
tls = { certificate = "c", private_key = "k" }
upstream.url = "http://127.0.0.1:5000"
groups.team-a = ["alice"]
[[access]]
repositories = ["public/**"]
who = ["anonymous"]
role = "guest"
[[access]]
repositories = ["team-a/**"]
who = ["group:team-a"]
role = "ci"
[[access]]
repositories = ["secure/**"]
who = ["authenticated"]
role = "guest"
require = ["certificate", "password"]
[[access]]
repositories = ["ops/**"]
who = ["group:ops"]
role = "guest"
networks = ["10.0.0.0/8"]
[roles]
ci = ["pull", "push"]
"#;

    fn entry(fields: &str) -> Entry {
        let line = format!(
            "{{\"time\":\"2026-01-01T00:00:00Z\",\"event\":\"request\",\"client\":\"10.0.0.1\",{fields}}}"
        );
        Entry::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn only_decisions_of_the_policy_are_asked_again() {
        for (fields, expected) in [
            (
                r#""outcome":"allowed","user":"a","auth":"token","action":"pull","repository":"x","rule":"f:1""#,
                Some(("pull", true)),
            ),
            (
                r#""outcome":"aborted","user":"a","auth":"token","action":"pull","repository":"x","rule":"f:1""#,
                Some(("pull", true)),
            ),
            (
                r#""outcome":"aborted","user":"a","action":"pull","repository":"x""#,
                None,
            ),
            (
                r#""outcome":"denied","user":"a","auth":"token","action":"push","repository":"x","status":403"#,
                Some(("push", false)),
            ),
            (
                r#""outcome":"denied","user":"a","auth":"token","action":"push","repository":"x","status":401,"reason":"token not minted for this""#,
                None,
            ),
            (
                r#""outcome":"denied","user":"a","auth":"key","action":"push","repository":"x","status":403,"rule":"f:1","reason":"tag exists, overwrite not allowed""#,
                Some(("overwrite", false)),
            ),
            (
                r#""outcome":"failed","auth":"anonymous","action":"pull","repository":"x","status":401"#,
                Some(("pull", false)),
            ),
            (
                r#""outcome":"failed","user":"a","action":"pull","repository":"x","status":401"#,
                None,
            ),
            (
                r#""outcome":"failed","auth":"token","action":"pull","repository":"x","status":401"#,
                None,
            ),
            (
                r#""outcome":"allowed","auth":"anonymous","action":"catalog""#,
                Some(("catalog", false)),
            ),
            (r#""outcome":"allowed","user":"a","auth":"htpasswd""#, None),
        ] {
            let asked = PastDecision::in_record(&entry(fields));
            let told = asked.map(|asked| (asked.action.as_str(), asked.allowed));
            assert_eq!(told, expected, "{fields}");
        }
    }

    #[test]
    fn the_caller_is_who_it_was_and_the_rules_are_todays() {
        let config = Config::parse(CONFIG, Path::new("/nowhere/p.toml"), &|_| None)
            .unwrap()
            .0;
        let today = Today::new(
            &config.policy,
            &config.auth.keys,
            &config.roles,
            Timestamp::UNIX_EPOCH,
        )
        .unwrap();
        let base = r#""outcome":"allowed","rule":"f:1","action":"pull""#;
        for (fields, allowed) in [
            (
                r#""user":"alice","auth":"htpasswd","repository":"team-a/x""#,
                true,
            ),
            (
                r#""user":"alice","auth":"htpasswd","repository":"team-b/x""#,
                false,
            ),
            // Was in the group then and is not today.
            (
                r#""user":"bob","auth":"htpasswd","groups":["team-a"],"outside_groups":[],"repository":"team-a/x""#,
                false,
            ),
            (
                r#""user":"bob","auth":"ldap","groups":["ops"],"outside_groups":["ops"],"repository":"ops/x""#,
                true,
            ),
            (
                r#""user":"bob","auth":"ldap","groups":["ops"],"repository":"ops/x","client":"192.0.2.1""#,
                false,
            ),
            (
                r#""user":"bob","auth":"token","proof":["password"],"repository":"secure/x""#,
                false,
            ),
            (
                r#""user":"bob","auth":"token","proof":["password","certificate"],"repository":"secure/x""#,
                true,
            ),
            (
                r#""user":"bob","auth":"certificate","proof":["certificate"],"repository":"secure/x""#,
                false,
            ),
            (
                r#""user":"key:gone","auth":"key","repository":"team-a/x""#,
                false,
            ),
            (
                r#""user":"key:gone","auth":"ldap","repository":"public/x""#,
                false,
            ),
            (r#""auth":"anonymous","repository":"public/x""#, true),
        ] {
            let fields = format!("{fields},{base}").replace(r#""client":"10.0.0.1","#, "");
            let line = if fields.contains("client") {
                format!("{{\"time\":\"2026-01-01T00:00:00Z\",\"event\":\"request\",{fields}}}")
            } else {
                format!(
                    "{{\"time\":\"2026-01-01T00:00:00Z\",\"event\":\"request\",\"client\":\"10.0.0.1\",{fields}}}"
                )
            };
            let entry = Entry::parse(line.as_bytes()).unwrap();
            let asked = PastDecision::in_record(&entry).unwrap();
            assert_eq!(today.answer(&asked).allowed, allowed, "{fields}");
        }
    }
}
