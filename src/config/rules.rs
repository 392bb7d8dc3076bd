//! Rules, roles, groups and policy tests: from written to meant.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use super::file::{self, File};
use super::policy_test::PolicyTest;
use crate::document::{
    self, At, EMPTY, Interpreter, List, Words, Wrong, find_role, nearest, timestamp,
};
use crate::identity::{Group, NameError, ROBOT, Subject};
use crate::limit::Quota;
use crate::policy::{
    AccessRule, BUILT_IN_ROLES, Condition, DenyRule, Policy, PullLimit, Roles, Who,
};
use crate::registry::{Action, RepoName};
use crate::tls::ClientCertificateMode;

/// What the rules refer to.
struct Names {
    roles: Roles,
    groups: HashMap<Box<str>, Vec<Subject>>,
    /// Whether a back end or a certificate can name groups that stand nowhere in the file.
    others_name_groups: bool,
}

impl Names {
    fn has_group(&self, name: &str) -> bool {
        let group = Group::new(name);
        let mut known = self.groups.keys();
        known.any(|known| Group::new(&**known) == group)
    }
}

/// `[[access]]`, `[[deny]]`, `[groups]`, `[roles]`; and `[[limit]]`, which speaks of the same people.
pub(super) fn policy(
    interpreter: &mut Interpreter<'_>,
    file: &File,
    others_name_groups: bool,
    certificates: ClientCertificateMode,
) -> (Policy, Roles, Vec<PullLimit>) {
    let names = Names {
        roles: interpreter.roles(file),
        groups: interpreter.groups(file),
        others_name_groups,
    };
    let access: Vec<AccessRule> = file
        .access
        .iter()
        .map(|rule| interpreter.access(rule, &names, certificates))
        .collect();
    let deny = file
        .deny
        .iter()
        .map(|rule| interpreter.deny(rule, &names))
        .collect();
    let limits = file
        .limit
        .iter()
        .map(|limit| interpreter.limit(limit, &names));
    let limits = limits.collect();
    (Policy::new(access, deny, names.groups), names.roles, limits)
}

/// `[[policy_test]]`; those that cannot be understood are left out.
pub(super) fn policy_tests(interpreter: &mut Interpreter<'_>, file: &File) -> Vec<PolicyTest> {
    file.policy_test
        .iter()
        .filter_map(|test| interpreter.policy_test(test))
        .collect()
}

impl Interpreter<'_> {
    fn roles(&mut self, file: &File) -> Roles {
        let built_in = BUILT_IN_ROLES
            .into_iter()
            .map(|(name, actions)| (name.into(), actions.to_vec()));
        let mut roles: Roles = built_in.collect();
        for (name, actions) in &file.roles {
            if BUILT_IN_ROLES
                .iter()
                .any(|(built_in, _)| *built_in == name.value)
            {
                let message = format!("the role {:?} is built in", name.value);
                self.error(&name.span, Wrong::new(message).help("choose another name"));
                continue;
            }
            self.not_empty(Some(actions), "a role without actions gives nothing");
            roles.insert(name.value.as_str().into(), self.list(Some(actions), action));
        }
        roles
    }

    fn groups(&mut self, file: &File) -> HashMap<Box<str>, Vec<Subject>> {
        let (mut groups, mut spellings) = (HashMap::new(), HashSet::new());
        for (name, members) in &file.groups {
            if !spellings.insert(Group::new(name.value.as_str())) {
                let wrong = Wrong::new(format!(
                    "the group {:?} is there in another spelling",
                    name.value
                ));
                self.error(
                    &name.span,
                    wrong.help("names of groups are compared without case"),
                );
            }
            if name.value.is_empty() {
                self.error(&name.span, Wrong::new("the group has no name"));
            }
            let members = self.list(Some(members), |member| match member.split_once(':') {
                Some(("user", user)) => Err(Wrong::new("members are users, without a prefix")
                    .help(format!("write {user:?}"))),
                Some(("group", _)) => Err(Wrong::new("groups in groups are not supported")),
                _ if member.is_empty() => Err(Wrong::new("the user has no name")),
                _ => subject(member),
            });
            groups.insert(name.value.as_str().into(), members);
        }
        groups
    }

    fn access(
        &mut self,
        rule: &At<file::Access>,
        names: &Names,
        certificates: ClientCertificateMode,
    ) -> AccessRule {
        let At { value: rule, span } = rule;
        self.not_empty(rule.require.as_ref(), EMPTY);
        let require = self.list(rule.require.as_ref(), |text| {
            let known = [
                ("certificate", Condition::Certificate),
                ("password", Condition::Password),
            ];
            document::word(text, &known)
        });
        if let Some(written) = &rule.require
            && require.contains(&Condition::Certificate)
            && certificates == ClientCertificateMode::Off
        {
            let wrong = Wrong::new("nobody has a certificate: clients are not asked for one");
            self.warning(&written.span, wrong);
        }
        self.warn_about_robots(rule.who.as_ref());
        AccessRule {
            place: self.source.place(span),
            repositories: self.patterns(rule.repositories.as_ref()),
            who: self.who(rule.who.as_ref(), names),
            actions: self
                .text(rule.role.as_ref(), |role| find_role(role, &names.roles))
                .unwrap_or_default(),
            networks: self.networks(rule.networks.as_ref()),
            require,
            not_after: self.text(rule.not_after.as_ref(), timestamp),
        }
    }

    fn deny(&mut self, rule: &At<file::Deny>, names: &Names) -> DenyRule {
        let At { value: rule, span } = rule;
        let message = "no action is named: nothing is denied";
        let actions = rule.actions.as_ref();
        if let Some(list) = actions.filter(|list| list.value.is_empty()) {
            let wrong = Wrong::new(message).help("leave `actions` out to deny everything");
            self.error(&list.span, wrong);
        }
        DenyRule {
            place: self.source.place(span),
            repositories: self.patterns(rule.repositories.as_ref()),
            who: self.who(rule.who.as_ref(), names),
            actions: match actions {
                Some(_) => self.list(actions, action),
                None => Action::ALL.to_vec(),
            },
            networks: self.networks(rule.networks.as_ref()),
        }
    }

    fn limit(&mut self, limit: &At<file::Limit>, names: &Names) -> PullLimit {
        let At { value: limit, .. } = limit;
        let quota = Quota {
            count: limit.count.as_ref().map_or(0, |count| count.value),
            per: self.time_out(limit.per.as_ref(), Quota::LONGEST),
        };
        self.check_pulls(limit.count.as_ref(), limit.per.as_ref(), quota);
        PullLimit {
            who: match &limit.who {
                Some(who) => self.who(Some(who), names),
                None => Vec::new(),
            },
            repositories: match &limit.repositories {
                Some(repositories) => self.patterns(Some(repositories)),
                None => Vec::new(),
            },
            quota,
        }
    }

    fn policy_test(&mut self, test: &At<file::PolicyTest>) -> Option<PolicyTest> {
        let At { value: test, span } = test;
        let who = self.text(test.who.as_ref(), one_caller);
        let groups = self.list(test.groups.as_ref(), |group| Ok(Box::from(group)));
        let address = self.text(test.address.as_ref(), |text| {
            let wrong = || Wrong::new(format!("{text:?} is not an address"));
            text.parse::<IpAddr>().ok().ok_or_else(wrong)
        });
        let action = test.action.as_ref().map(|action| action.value.0);
        let repository = self.text(test.repository.as_ref(), |text| {
            let wrong = || Wrong::new(format!("no repository can be called {text:?}"));
            RepoName::parse(text).ok_or_else(wrong)
        });
        let expect = test.expect.as_ref().map(|expect| expect.value.0);
        if test.address.is_some() && address.is_none() {
            return None;
        }
        Some(PolicyTest {
            place: self.source.place(span),
            user: who?,
            groups,
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            address_given: test.address.is_some(),
            action: action?,
            repository: repository?,
            expect: expect?,
            span: test
                .expect
                .as_ref()
                .map_or(span, |expect| &expect.span)
                .clone(),
        })
    }

    /// An access for a robot key has no effect.
    fn warn_about_robots(&mut self, list: Option<&List>) {
        let items = list.into_iter().flat_map(|list| &list.value);
        for item in items.filter(|item| is_robot(&item.value)) {
            let wrong = Wrong::new("a robot key has its own rights, and none from a rule");
            self.warning(&item.span, wrong.help("`portcullis key create` gives them"));
        }
    }

    fn who(&mut self, list: Option<&List>, names: &Names) -> Vec<Who> {
        self.not_empty(list, "nobody is named: this rule is about nobody");
        for item in list.into_iter().flat_map(|list| &list.value) {
            let unknown = item
                .value
                .strip_prefix("group:")
                .filter(|group| !names.others_name_groups && !names.has_group(group));
            if let Some(group) = unknown.filter(|group| !group.is_empty()) {
                let wrong = Wrong::new(format!("the group {group:?} has no members"));
                let known = names.groups.keys().map(|group| &**group);
                let help = match nearest(group, known) {
                    Some(near) => format!("did you mean \"group:{near}\"?"),
                    None => format!("name them in `[groups]`: {group} = [\"alice\"]"),
                };
                self.warning(&item.span, wrong.help(help));
            }
        }
        self.list(list, who)
    }
}

fn action(text: &str) -> Result<Action, Wrong> {
    document::word(text, &Action::words())
}

fn who(text: &str) -> Result<Who, Wrong> {
    match text.split_once(':') {
        // As a name it would be nobody's, and a rule that denies would deny nothing.
        Some(("user" | "group", "*")) => {
            let wrong = Wrong::new("`*` has no meaning here; names stand for themselves");
            return Err(wrong.help("write \"authenticated\" for everybody who has logged in"));
        }
        Some(("user", name)) if !name.is_empty() => return subject(name).map(Who::User),
        Some(("group", name)) if !name.is_empty() => {
            return close(name).map(|name| Who::Group(Group::new(name)));
        }
        _ => {}
    }
    let wrong = Wrong::new(format!("{text:?} is nobody"));
    match text {
        "anonymous" => Ok(Who::Anonymous),
        "authenticated" => Ok(Who::Authenticated),
        other => Err(match nearest(other, ["anonymous", "authenticated"]) {
            Some(near) => wrong.help(format!("did you mean {near:?}?")),
            None if other.contains(':') || other.is_empty() => wrong
                .help("write \"anonymous\", \"authenticated\", \"user:NAME\" or \"group:NAME\""),
            None => wrong.help(format!("write \"user:{other}\" or \"group:{other}\"")),
        }),
    }
}

/// A person, or a robot key as `key:NAME`.
fn subject(name: &str) -> Result<Subject, Wrong> {
    Subject::read(close(name)?).map_err(|error| {
        let wrong = Wrong::new(error.to_string());
        match error {
            NameError::Robot => wrong.help("write \"key:NAME\" for a robot key"),
            NameError::Colon
            | NameError::Control
            | NameError::Empty
            | NameError::Invisible
            | NameError::LookAlike
            | NameError::Secret
            | NameError::TooLong => wrong.help("nobody can log in by this name"),
        }
    })
}

/// A name without space around it: with it no caller has the name, and a rule that denies would deny
/// nothing.
fn close(name: &str) -> Result<&str, Wrong> {
    match name.trim() {
        same if same == name => Ok(name),
        meant => Err(
            Wrong::new(format!("there is a space around the name {name:?}"))
                .help(format!("write {meant:?}")),
        ),
    }
}

/// Whether somebody is a robot key.
fn is_robot(text: &str) -> bool {
    matches!(who(text), Ok(Who::User(Subject::Robot(_))))
}

/// A test asks about one caller.
fn one_caller(text: &str) -> Result<Subject, Wrong> {
    let help = "write \"anonymous\" or \"user:NAME\", and `groups` beside it";
    match who(text)? {
        Who::Anonymous => Ok(Subject::Nobody),
        Who::User(Subject::Robot(robot)) => {
            let wrong = Wrong::new("what a robot key may do does not stand in this file");
            let name = robot.name();
            Err(wrong.help(format!("ask `portcullis explain --user {ROBOT}{name}`")))
        }
        Who::User(subject) => Ok(subject),
        Who::Authenticated | Who::Group(_) => {
            Err(Wrong::new("a test asks about one caller").help(help))
        }
    }
}
