//! `portcullis explain`: the server's own decision, with its reasons, for one question or for many
//! at once (`--matrix`). Asks nobody: the caller is taken for who it is said to be, with a password.

mod from_audit;
mod judged;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use portcullis::authn::BackEndKind;
use portcullis::authn::htpasswd::Users;
use portcullis::authn::keys::Keyring;
use portcullis::config::Config;
use portcullis::identity::{Identity, Subject};
use portcullis::policy::{Decision, Explanation};
use portcullis::registry::{Action, RepoName};
use serde_json::{Value, json};

use self::judged::{deciding, passed_over, rule_json};
use super::config_file::{ConfigFile, load};
use super::terminal::{error_colours, print, print_error};

/// The policy says no.
const DENIED: u8 = 3;
/// The command line is wrong.
const USAGE: u8 = 2;
/// Stands in the matrix for every user whom no rule names.
const OTHERS: &str = "(others)";

/// Say what the policy decides, and why: exit code 0 allows, 3 denies
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    config: ConfigFile,

    /// Who asks
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "anonymous",
        required_unless_present_any = ["anonymous", "matrix", "from_audit"]
    )]
    user: Option<String>,

    /// A group that a back end would name, in addition to those of the configuration
    #[arg(
        long = "group",
        value_name = "NAME",
        requires = "user",
        conflicts_with = "anonymous"
    )]
    groups: Vec<String>,

    /// Ask as an anonymous caller
    #[arg(long)]
    anonymous: bool,

    /// From which address
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print what all users may do with the repositories given, or with one for each pattern
    #[arg(long)]
    matrix: bool,

    /// Decide again what an audit record tells, by the reference that a client was given: with the
    /// same caller and today's configuration
    #[arg(
        long,
        value_name = "REF",
        conflicts_with_all = ["user", "anonymous", "matrix", "words", "address"]
    )]
    from_audit: Option<String>,

    /// Where to look for the reference, if not in the audit file of the configuration; may be
    /// repeated
    #[arg(long, value_name = "FILE", requires = "from_audit")]
    audit: Vec<PathBuf>,

    /// pull, push, overwrite, delete or catalog (not with --matrix), then repositories
    #[arg(value_name = "ACTION REPOSITORY", required_unless_present_any = ["matrix", "from_audit"])]
    words: Vec<String>,
}

impl Explain {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let question = match self.question() {
            Ok(question) => question,
            Err(wrong) => {
                print_error(&format!(
                    "error: {wrong}\n\nFor more information, try '--help'."
                ));
                return Ok(USAGE.into());
            }
        };
        let (config, _warnings) = match load(&self.config.config) {
            Ok(loaded) => loaded,
            Err(code) => return Ok(code),
        };
        match question {
            Question::Past(reference) => self.past(&config, &reference),
            Question::One(action, repository) => self.explain(&config, action, &repository),
            Question::Matrix(repositories) => self.matrix(&config, repositories),
        }
    }

    fn question(&self) -> Result<Question, String> {
        let name = |text: &String| {
            RepoName::parse(text).ok_or_else(|| format!("{text:?} is no repository name"))
        };
        if self.matrix {
            let names: Result<Vec<_>, _> = self.words.iter().map(name).collect();
            return names.map(Question::Matrix);
        }
        if let Some(reference) = &self.from_audit {
            return Ok(Question::Past(reference.clone()));
        }
        let action = |text: &String| {
            let known = Action::ALL.map(Action::as_str).join(", ");
            Action::parse(text).ok_or_else(|| format!("{text:?} is none of {known}"))
        };
        match self.words.as_slice() {
            [first, second] => Ok(Question::One(action(first)?, name(second)?)),
            // The catalog is about no repository in particular.
            [first] if first == Action::Catalog.as_str() => {
                Ok(Question::One(Action::Catalog, name(&"all".to_owned())?))
            }
            [_] => Err("a repository is missing".to_owned()),
            [] | [_, ..] => Err("one action and one repository at a time".to_owned()),
        }
    }

    fn past(&self, config: &Config, reference: &str) -> Result<ExitCode> {
        let files = if self.audit.is_empty() {
            std::slice::from_ref(&config.audit.file)
        } else {
            &self.audit
        };
        let now = Timestamp::now();
        let replayed = from_audit::replay(config, reference, files, self.json, now)?;
        print(&replayed.text)?;
        Ok(if replayed.allowed {
            ExitCode::SUCCESS
        } else {
            DENIED.into()
        })
    }

    fn caller(&self, config: &Config) -> Result<Identity> {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let user = self.user.as_deref().unwrap_or_default();
        match Subject::read(user)? {
            Subject::Nobody => Ok(Identity::anonymous()),
            Subject::Robot(robot) => robot_key(config, robot.name()),
            somebody @ (Subject::Person(_) | Subject::Workload(_)) => {
                let in_file = if config.auth.order.contains(&BackEndKind::Ldap) {
                    htpasswd_users(config)
                } else {
                    Vec::new()
                };
                let somebody = as_compared(config, somebody, &in_file);
                Ok(Identity::supposed(somebody, &groups))
            }
        }
    }

    fn explain(&self, config: &Config, action: Action, name: &RepoName) -> Result<ExitCode> {
        let who = self.caller(config)?;
        let (policy, now) = (&config.policy, Timestamp::now());
        let found = policy.explain(&who, self.address, action, name, now);
        let groups: Vec<&str> = policy.groups_of(&who).collect();
        let only_new_tags = action == Action::Push
            && found.decision.is_allow()
            && !policy
                .allows(&who, self.address, Action::Overwrite, name, now)
                .is_allow();
        let text = if self.json {
            let answer = json!({
                "decision": if found.decision.is_allow() { "allow" } else { "deny" },
                "rule": deciding(&found.decision),
                "user": self.user,
                "groups": groups,
                "address": self.address,
                "action": action.as_str(),
                "repository": name.as_str(),
                "rules": found.rules.iter().map(rule_json).collect::<Value>(),
            });
            format!("{answer:#}\n")
        } else {
            let user = self.user.as_deref().unwrap_or("anonymous");
            let question = format!("{user}, {} {name}, from {}", action.as_str(), self.address);
            as_text(&question, &groups, &found, only_new_tags)?
        };
        print(&text)?;
        Ok(if found.decision.is_allow() {
            ExitCode::SUCCESS
        } else {
            DENIED.into()
        })
    }

    fn matrix(&self, config: &Config, mut names: Vec<RepoName>) -> Result<ExitCode> {
        let callers = self.callers(config)?;
        if names.is_empty() {
            names = examples(config, &callers);
        }
        let now = Timestamp::now();
        let may = |who: &Identity, name: &RepoName| {
            MATRIX_ACTIONS.map(|(_, action)| {
                config
                    .policy
                    .allows(who, self.address, action, name, now)
                    .is_allow()
            })
        };
        let rows = callers.iter().map(|(caller, who)| {
            let cells: Vec<_> = names.iter().map(|name| may(who, name)).collect();
            (caller.as_str(), cells)
        });
        let rows: Vec<(&str, Vec<[bool; 4]>)> = rows.collect();
        let text = if self.json {
            format!("{:#}\n", matrix_json(&names, &rows))
        } else {
            matrix_text(&names, &rows)?
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Callers in the matrix: the one asked about, or all that are known.
    fn callers(&self, config: &Config) -> Result<Vec<(String, Identity)>> {
        if self.user.is_some() || self.anonymous {
            let name = self.user.as_deref().unwrap_or("anonymous");
            return Ok(vec![(name.to_owned(), self.caller(config)?)]);
        }
        let by_rules = config.policy.users().filter_map(Subject::as_str);
        let mut names: BTreeSet<String> = by_rules.map(str::to_owned).collect();
        let in_file = htpasswd_users(config);
        names.extend(in_file.iter().cloned());
        let supposed = |name: &str| {
            let subject = as_compared(config, Subject::read(name)?, &in_file);
            Ok(Identity::supposed(subject, &[]))
        };
        let users: Result<Vec<_>> = names
            .into_iter()
            .map(|name| supposed(&name).map(|who| (name, who)))
            .collect();
        let users = users?;
        let anonymous = ("anonymous".to_owned(), Identity::anonymous());
        let others = (OTHERS.to_owned(), supposed(OTHERS)?);
        let all = std::iter::once(anonymous).chain(users).chain([others]);
        Ok(all.collect())
    }
}

enum Question {
    Matrix(Vec<RepoName>),
    One(Action, RepoName),
    Past(String),
}

/// The robot as its key confines it.
fn robot_key(config: &Config, name: &str) -> Result<Identity> {
    let keys = Keyring::open(&config.auth.keys, &config.roles)
        .map_err(|errors| anyhow!("{}", errors.render(error_colours())))?
        .current();
    let file = config.auth.keys.display();
    let key = keys.get(name);
    let key = key.with_context(|| format!("there is no key `{name}` in {file}"))?;
    Ok(Identity::supposed_key(name, key.confinement.clone()))
}

/// Who is not in the file may be in the directory, which does not tell cases apart.
fn as_compared(config: &Config, subject: Subject, in_file: &[String]) -> Subject {
    let is_in_file = |name: &str| in_file.iter().any(|user| user == name);
    let asks_directory = config.auth.order.contains(&BackEndKind::Ldap);
    if asks_directory && !subject.as_str().is_some_and(is_in_file) {
        subject.in_directory()
    } else {
        subject
    }
}

fn htpasswd_users(config: &Config) -> Vec<String> {
    let Some(path) = &config.auth.htpasswd else {
        return Vec::new();
    };
    let users = std::fs::read(path)
        .ok()
        .and_then(|text| Users::parse(&text, path).ok());
    let Some((users, _)) = users else {
        print_error(&format!(
            "warning: the users of {} are left out, `portcullis check` says why",
            path.display()
        ));
        return Vec::new();
    };
    users.names().map(str::to_owned).collect()
}

/// One repository for each pattern; for `${user}` the first user for whom there is one.
fn examples(config: &Config, callers: &[(String, Identity)]) -> Vec<RepoName> {
    let mut names: Vec<RepoName> = Vec::new();
    for pattern in config.policy.patterns() {
        let users = callers.iter().map(|(_, who)| who.person());
        let example = users.into_iter().find_map(|user| pattern.example(user));
        if let Some(example) = example.filter(|example| !names.contains(example)) {
            names.push(example);
        }
    }
    names
}

fn as_text(
    question: &str,
    groups: &[&str],
    found: &Explanation,
    only_new_tags: bool,
) -> Result<String> {
    let mut out = match &found.decision {
        Decision::Allow(place) => format!("allowed by the access rule at {place}\n"),
        Decision::Deny(Some(place)) => format!("denied by the deny rule at {place}\n"),
        Decision::Deny(None) => "denied: no rule allows it\n".to_owned(),
    };
    if only_new_tags {
        out.push_str("but only new tags: no rule allows overwrite\n");
    }
    write!(out, "\nasked  {question}\n")?;
    if !groups.is_empty() {
        writeln!(out, "groups {}", groups.join(", "))?;
    }
    out.push_str(&passed_over(found)?);
    Ok(out)
}

const MATRIX_ACTIONS: [(char, Action); 4] = [
    ('p', Action::Pull),
    ('w', Action::Push),
    ('o', Action::Overwrite),
    ('d', Action::Delete),
];

fn matrix_json(names: &[RepoName], rows: &[(&str, Vec<[bool; 4]>)]) -> Value {
    let cell = |cell: &[bool; 4]| -> Value {
        let allowed = MATRIX_ACTIONS.iter().zip(cell).filter(|(_, may)| **may);
        allowed.map(|((_, action), _)| action.as_str()).collect()
    };
    let row = |(caller, cells): &(&str, Vec<[bool; 4]>)| {
        let cells = names.iter().zip(cells);
        let cells = cells.map(|(name, may)| (name.as_str().to_owned(), cell(may)));
        ((*caller).to_owned(), Value::Object(cells.collect()))
    };
    Value::Object(rows.iter().map(row).collect())
}

fn matrix_text(names: &[RepoName], rows: &[(&str, Vec<[bool; 4]>)]) -> Result<String> {
    let first = rows
        .iter()
        .map(|(caller, _)| caller.chars().count())
        .max()
        .unwrap_or_default();
    let mut out = " ".repeat(first);
    for name in names {
        write!(out, "  {:4}", name.as_str())?;
    }
    out.push('\n');
    for (caller, cells) in rows {
        write!(out, "{caller:first$}")?;
        for (name, cell) in names.iter().zip(cells) {
            let letter =
                |((letter, _), may): (&(char, Action), &bool)| if *may { *letter } else { '-' };
            let letters: String = MATRIX_ACTIONS.iter().zip(cell).map(letter).collect();
            let width = name.as_str().len().max(4);
            write!(out, "  {letters:width$}")?;
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out.push_str("\np pull, w push (write), o overwrite, d delete\n");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{Explain, Question, as_text, matrix_text};
    use clap::Parser;
    use insta::assert_snapshot;
    use jiff::Timestamp;
    use portcullis::config::Config;
    use portcullis::identity::{Identity, Subject};
    use portcullis::registry::{Action, RepoName};
    use std::path::Path;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        explain: Explain,
    }

    fn line(words: &[&str]) -> Explain {
        let words = ["explain"].iter().chain(words);
        Line::try_parse_from(words)
            .unwrap_or_else(|error| panic!("{error}"))
            .explain
    }

    fn config() -> Config {
        let text = r#"
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
repositories = ["home/${user}/**"]
who = ["authenticated"]
role = "maintainer"
networks = ["10.0.0.0/8"]
[[deny]]
repositories = ["**/prod"]
who = ["user:alice"]
[roles]
ci = ["pull", "push"]
"#;
        Config::parse(text, Path::new("portcullis.toml"), &|_| None)
            .unwrap()
            .0
    }

    fn explained(user: &str, action: Action, repository: &str, only_new: bool) -> String {
        let who = Identity::supposed(Subject::read(user).unwrap(), &["ops"]);
        let name = RepoName::parse(repository).unwrap();
        let from = "127.0.0.1".parse().unwrap();
        let config = config();
        let found = config
            .policy
            .explain(&who, from, action, &name, Timestamp::UNIX_EPOCH);
        as_text("the question", &["ops"], &found, only_new).unwrap()
    }

    #[test]
    fn the_answer_comes_first_and_then_its_reasons() {
        assert_snapshot!(
            "allowed",
            explained("alice", Action::Push, "team-a/app", true)
        );
        assert_snapshot!(
            "taken_away",
            explained("alice", Action::Pull, "team-a/prod", false)
        );
        assert_snapshot!(
            "not_given",
            explained("bob", Action::Pull, "home/bob/x", false)
        );
    }

    #[test]
    fn the_matrix_shows_everybody_and_one_repository_for_each_pattern() {
        let config = config();
        let explain = line(&["--matrix", "--address", "10.1.2.3"]);
        let callers = explain.callers(&config).unwrap();
        let names = super::examples(&config, &callers);
        let now = Timestamp::UNIX_EPOCH;
        let rows: Vec<_> = callers
            .iter()
            .map(|(caller, who)| {
                let cell = |name| {
                    let may = |action| {
                        config
                            .policy
                            .allows(who, explain.address, action, name, now)
                    };
                    super::MATRIX_ACTIONS.map(|(_, action)| may(action).is_allow())
                };
                (caller.as_str(), names.iter().map(cell).collect())
            })
            .collect();
        assert_snapshot!("matrix", matrix_text(&names, &rows).unwrap());
    }

    #[test]
    fn a_question_is_one_action_on_one_repository() {
        for (words, fits) in [
            (&["--user", "a", "pull", "x/y"][..], true),
            (&["--anonymous", "catalog"], true),
            (&["--matrix", "x", "y"], true),
            (&["--matrix"], true),
            (&["--user", "a", "pull"], false),
            (&["--user", "a", "pull", "x", "y"], false),
            (&["--user", "a", "pul", "x"], false),
            (&["--user", "a", "pull", "X"], false),
            (&["--matrix", "X"], false),
        ] {
            assert_eq!(line(words).question().is_ok(), fits, "{words:?}");
        }
        let one = line(&["--user", "a", "push", "x"]).question();
        assert!(matches!(one, Ok(Question::One(Action::Push, _))));
        for words in [
            &["explain", "pull", "x"][..],
            &["explain", "--user", "a", "--anonymous", "pull", "x"],
            &["explain", "--anonymous", "--group", "g", "pull", "x"],
            &["explain", "--user", "a", "--address", "here", "pull", "x"],
            &["explain", "--user", "a"],
        ] {
            assert!(Line::try_parse_from(words).is_err(), "{words:?}");
        }
    }
}
