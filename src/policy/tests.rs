use std::collections::HashMap;
use std::net::IpAddr;

use http::Method;
use jiff::Timestamp;
use proptest::prelude::*;

use super::{
    AccessRule, BUILT_IN_ROLES, Condition, Decision, Denial, DenyRule, Pattern, Place, Policy,
    RuleKind, Tags, Verdict, Who, canonical,
};
use crate::identity::{Authentication, Confinement, Group, Identity, Name, Origin, Subject};
use crate::registry::{Action, Call, RepoName};

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn here() -> IpAddr {
    "10.1.2.3".parse().unwrap()
}

fn place(text: &str) -> Place {
    Place(text.into())
}

fn user(name: &str, groups: &[&str]) -> Identity {
    let groups: Vec<_> = groups.iter().map(|group| Group::new(*group)).collect();
    Identity::verified_password(named(name), groups.into(), Authentication::Htpasswd, false)
}

fn named(name: &str) -> Name {
    Name::parse(name, Origin::Password).unwrap()
}

fn role(name: &str) -> Vec<Action> {
    let found = BUILT_IN_ROLES.into_iter().find(|(known, _)| *known == name);
    found.unwrap().1.to_vec()
}

fn who(text: &str) -> Who {
    match text.split_once(':') {
        Some(("user", name)) => Who::User(Subject::read(name).unwrap()),
        Some(("group", name)) => Who::Group(Group::new(name)),
        _ if text == "anonymous" => Who::Anonymous,
        _ => Who::Authenticated,
    }
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts
        .iter()
        .map(|text| Pattern::parse(text).unwrap())
        .collect()
}

fn access(at: &str, repositories: &[&str], whom: &[&str], actions: Vec<Action>) -> AccessRule {
    AccessRule {
        place: place(at),
        repositories: patterns(repositories),
        who: whom.iter().copied().map(who).collect(),
        actions,
        networks: vec![],
        require: vec![],
        not_after: None,
    }
}

fn deny(at: &str, repositories: &[&str], whom: &[&str], actions: Vec<Action>) -> DenyRule {
    DenyRule {
        place: place(at),
        repositories: patterns(repositories),
        who: whom.iter().copied().map(who).collect(),
        actions,
        networks: vec![],
    }
}

fn policy(access: Vec<AccessRule>, deny: Vec<DenyRule>) -> Policy {
    let groups = HashMap::from([(
        "team-a".into(),
        ["alice", "dave"]
            .map(|name| Subject::read(name).unwrap())
            .into(),
    )]);
    Policy::new(access, deny, groups)
}

fn allows(policy: &Policy, who: &Identity, action: Action, repository: &str) -> bool {
    let repository = RepoName::parse(repository).unwrap();
    policy
        .allows(who, here(), action, &repository, now())
        .is_allow()
}

fn call(method: &Method, target: &str) -> Call {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Call::parse(method, path, query).unwrap()
}

#[test]
fn without_rules_nobody_may_anything() {
    let empty = Policy::default();
    for action in Action::ALL {
        assert!(!allows(&empty, &user("alice", &["admin"]), action, "a"));
        assert!(!allows(&empty, &Identity::anonymous(), action, "a"));
    }
}

#[test]
fn who_is_met_by_name_group_and_login() {
    let policy = policy(
        vec![
            access("1", &["public/**"], &["anonymous"], role("guest")),
            access("2", &["shared/**"], &["authenticated"], role("guest")),
            access("3", &["team-a/**"], &["group:team-a"], role("developer")),
            access("4", &["ldap/**"], &["group:ops"], role("guest")),
            access("5", &["own/**"], &["user:bob"], role("guest")),
            access(
                "6",
                &["home/${user}/**"],
                &["authenticated"],
                role("developer"),
            ),
        ],
        vec![],
    );
    let nobody = Identity::anonymous();
    let (alice, bob) = (user("alice", &[]), user("bob", &["ops"]));
    let pull = Action::Pull;
    for (who, name, expected) in [
        (&nobody, "public/x", true),
        (&alice, "public/x", true),
        (&nobody, "shared/x", false),
        (&alice, "shared/x", true),
        (&alice, "team-a/x", true),
        (&bob, "team-a/x", false),
        (&bob, "ldap/x", true),
        (&alice, "ldap/x", false),
        (&bob, "own/x", true),
        (&nobody, "own/x", false),
        (&alice, "home/alice/x", true),
        (&bob, "home/alice/x", false),
        (&nobody, "home/alice/x", false),
    ] {
        assert_eq!(allows(&policy, who, pull, name), expected, "{who:?} {name}");
    }
    let groups: Vec<_> = policy.groups_of(&alice).collect();
    assert_eq!(groups, ["team-a"]);
}

#[test]
fn a_deny_wins_and_anonymous_denies_only_those_without_a_user() {
    let policy = policy(
        vec![access("1", &["**"], &["anonymous"], role("maintainer"))],
        vec![
            deny(
                "2",
                &["**/prod"],
                &["group:contractors"],
                vec![Action::Push, Action::Delete],
            ),
            deny("3", &["inner/**"], &["anonymous"], Action::ALL.to_vec()),
        ],
    );
    let (alice, carl) = (user("alice", &[]), user("carl", &["contractors"]));
    let nobody = Identity::anonymous();
    assert!(allows(&policy, &alice, Action::Push, "a/prod"));
    assert!(!allows(&policy, &carl, Action::Push, "a/prod"));
    assert!(allows(&policy, &carl, Action::Pull, "a/prod"));
    assert!(!allows(&policy, &nobody, Action::Pull, "inner/x"));
    assert!(allows(&policy, &alice, Action::Pull, "inner/x"));
    let refused = policy.decide(
        &carl,
        here(),
        call(&Method::DELETE, &format!("/v2/prod/manifests/{DIGEST}")),
        now(),
    );
    let denial = Denial {
        action: Action::Delete,
        rule: Some(place("2")),
        lacks_password: false,
    };
    assert_eq!(refused.unwrap_err(), denial);
}

#[test]
fn networks_conditions_and_times_limit_an_access() {
    let mut rule = access("1", &["**"], &["authenticated"], role("guest"));
    rule.networks = vec![
        "10.0.0.0/8".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ];
    rule.require = vec![Condition::Password];
    rule.not_after = Some(now());
    let policy = policy(vec![rule], vec![]);
    let alice = user("alice", &[]);
    let token =
        |password| Identity::verified_token(Some(named("alice")), [].into(), password, [].into());
    let name = RepoName::parse("a").unwrap();
    let before = now() - std::time::Duration::from_nanos(1);
    let verdict = |who: &Identity, from: &str, at| {
        let from = from.parse().unwrap();
        policy.explain(who, from, Action::Pull, &name, at).rules[0].verdict
    };
    for from in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
        assert_eq!(verdict(&alice, from, before), Verdict::Applies, "{from}");
    }
    for from in ["11.1.2.3", "::ffff:11.1.2.3", "2001:db9::1", "::10.1.2.3"] {
        assert_eq!(
            verdict(&alice, from, before),
            Verdict::OtherNetwork,
            "{from}"
        );
    }
    assert_eq!(verdict(&alice, "10.1.2.3", now()), Verdict::Expired);
    assert_eq!(verdict(&token(true), "10.1.2.3", before), Verdict::Applies);
    let lacking = Verdict::Lacking(Condition::Password);
    assert_eq!(verdict(&token(false), "10.1.2.3", before), lacking);
}

#[test]
fn a_denial_says_whether_a_password_is_all_that_is_missing() {
    let mut both = access("1", &["both"], &["user:alice"], role("developer"));
    both.require = vec![Condition::Certificate, Condition::Password];
    let mut ended = access("2", &["ended"], &["user:alice"], role("developer"));
    ended.require = vec![Condition::Password];
    ended.not_after = Some(now());
    let mut open = access("3", &["denied"], &["user:alice"], role("developer"));
    open.require = vec![Condition::Password];
    let no = deny("4", &["denied"], &["user:alice"], vec![Action::Pull]);
    let policy = policy(vec![both, ended, open], vec![no]);
    let certificate = Identity::verified_certificate(named("alice"), Vec::new());
    let bare = Identity::verified_token(Some(named("alice")), [].into(), false, [].into());
    let bob = Identity::verified_certificate(named("bob"), Vec::new());
    let password = user("alice", &[]);
    for (who, repository, lacks) in [
        (&certificate, "both", true),
        (&certificate, "ended", false),
        (&certificate, "denied", false),
        (&certificate, "other", false),
        (&bare, "both", false),
        (&password, "both", false),
        (&bob, "both", false),
        (&Identity::anonymous(), "both", false),
    ] {
        let call = call(&Method::GET, &format!("/v2/{repository}/tags/list"));
        let denial = policy.decide(who, here(), call, now()).unwrap_err();
        assert_eq!(denial.lacks_password, lacks, "{who:?} {repository}");
    }
}

#[test]
fn a_mapped_network_is_the_short_one() {
    let mut rule = deny("1", &["**"], &["authenticated"], Action::ALL.to_vec());
    rule.networks = vec!["::ffff:10.0.0.0/104".parse().unwrap()];
    let all = access("2", &["**"], &["authenticated"], role("admin"));
    let policy = policy(vec![all], vec![rule]);
    assert!(!allows(&policy, &user("alice", &[]), Action::Pull, "a"));
}

#[test]
fn the_whole_catalog_needs_the_action_and_no_deny() {
    let rules = || vec![access("1", &["a/**"], &["user:root"], role("admin"))];
    let open = policy(rules(), vec![]);
    let root = user("root", &[]);
    let catalog = || call(&Method::GET, "/v2/_catalog");
    assert_eq!(
        open.whole_catalog(&root, here(), now()),
        Decision::Allow(place("1"))
    );
    let permit = open.decide(&root, here(), catalog(), now()).unwrap();
    assert_eq!(permit.rule(), Some(&place("1")));
    let nobody = Identity::anonymous();
    assert_eq!(
        open.whole_catalog(&nobody, here(), now()),
        Decision::Deny(None)
    );
    assert!(
        open.decide(&nobody, here(), catalog(), now())
            .unwrap()
            .rule()
            .is_none()
    );
    let denied = deny("2", &["a/secret"], &["user:root"], Action::ALL.to_vec());
    let closed = policy(rules(), vec![denied]);
    let answer = closed.whole_catalog(&root, here(), now());
    assert_eq!(answer, Decision::Deny(Some(place("2"))));
}

#[test]
fn who_can_pull_nothing_at_all_is_known() {
    let users = access("1", &["a/**"], &["authenticated"], role("guest"));
    let own = access("2", &["home/${user}/**"], &["anonymous"], role("guest"));
    let push = access("3", &["drop/**"], &["anonymous"], vec![Action::Push]);
    let mut office = access("4", &["b/**"], &["anonymous"], role("guest"));
    office.networks = vec!["192.0.2.0/24".parse().unwrap()];
    let mut ended = access("5", &["c/**"], &["anonymous"], role("guest"));
    ended.not_after = Some(now());
    let rules = vec![users, own, push, office, ended];
    let may = |policy: &Policy, who: &Identity, from: &str| {
        policy.may_pull_something(who, from.parse().unwrap(), now())
    };
    let (nobody, alice) = (Identity::anonymous(), user("alice", &[]));
    let open = policy(rules.clone(), vec![]);
    assert!(!may(&open, &nobody, "10.1.2.3"));
    assert!(may(&open, &nobody, "192.0.2.7"));
    assert!(may(&open, &alice, "10.1.2.3"));
    for (pattern, left) in [("**", false), ("a/**", true), ("a/b", true)] {
        let all = Action::ALL.to_vec();
        let denied = deny("6", &[pattern], &["user:alice", "anonymous"], all);
        let closed = policy(rules.clone(), vec![denied]);
        assert_eq!(may(&closed, &alice, "10.1.2.3"), left, "{pattern}");
    }
    let denied = deny("6", &["b/**"], &["anonymous"], Action::ALL.to_vec());
    let closed = policy(rules, vec![denied]);
    assert!(!may(&closed, &nobody, "192.0.2.7"));
}

#[test]
fn every_call_demands_its_right() {
    let policy = policy(
        Action::ALL
            .map(|action| {
                access(
                    "1",
                    &["x"],
                    &[&format!("user:{}", action.as_str())],
                    vec![action],
                )
            })
            .into(),
        vec![],
    );
    for (method, target, needed) in [
        (Method::GET, "/v2/x/manifests/v1".to_owned(), Action::Pull),
        (Method::HEAD, format!("/v2/x/blobs/{DIGEST}"), Action::Pull),
        (Method::GET, "/v2/x/tags/list".to_owned(), Action::Pull),
        (
            Method::GET,
            format!("/v2/x/referrers/{DIGEST}"),
            Action::Pull,
        ),
        (Method::PUT, "/v2/x/manifests/v1".to_owned(), Action::Push),
        (
            Method::POST,
            "/v2/x/blobs/uploads/".to_owned(),
            Action::Push,
        ),
        (
            Method::PATCH,
            "/v2/x/blobs/uploads/id".to_owned(),
            Action::Push,
        ),
        (
            Method::GET,
            "/v2/x/blobs/uploads/id".to_owned(),
            Action::Push,
        ),
        (
            Method::DELETE,
            "/v2/x/blobs/uploads/id".to_owned(),
            Action::Push,
        ),
        (
            Method::DELETE,
            "/v2/x/manifests/v1".to_owned(),
            Action::Delete,
        ),
        (
            Method::DELETE,
            format!("/v2/x/blobs/{DIGEST}"),
            Action::Delete,
        ),
    ] {
        for action in Action::ALL {
            let who = user(action.as_str(), &[]);
            let outcome = policy.decide(&who, here(), call(&method, &target), now());
            assert_eq!(
                outcome.is_ok(),
                action == needed,
                "{method} {target} by {action:?}"
            );
            if let Err(denial) = outcome {
                assert_eq!(
                    denial,
                    Denial {
                        action: needed,
                        rule: None,
                        lacks_password: false,
                    }
                );
            }
        }
    }
    let ping = policy.decide(&Identity::anonymous(), here(), Call::Ping, now());
    assert!(ping.unwrap().rule().is_none());
}

#[test]
fn pushing_without_overwriting_creates_tags_only() {
    let policy = policy(
        vec![
            access("1", &["**"], &["authenticated"], vec![Action::Push]),
            access("2", &["**"], &["user:alice"], vec![Action::Overwrite]),
        ],
        vec![deny(
            "3",
            &["fixed/**"],
            &["authenticated"],
            vec![Action::Overwrite],
        )],
    );
    let tags = |name: &str, target: &str| {
        let permit = policy.decide(&user(name, &[]), here(), call(&Method::PUT, target), now());
        permit.unwrap().tags()
    };
    assert_eq!(tags("bob", "/v2/x/manifests/v1"), Tags::CreateOnly);
    assert_eq!(
        tags("bob", &format!("/v2/x/manifests/{DIGEST}?tag=v1")),
        Tags::CreateOnly
    );
    assert_eq!(tags("alice", "/v2/x/manifests/v1"), Tags::Move);
    assert_eq!(tags("alice", "/v2/fixed/x/manifests/v1"), Tags::CreateOnly);
}

#[test]
fn a_mount_needs_to_read_its_source() {
    let policy = policy(
        vec![
            access("1", &["to/**"], &["authenticated"], vec![Action::Push]),
            access("2", &["open/**"], &["authenticated"], vec![Action::Pull]),
            access("3", &["blind/**"], &["authenticated"], vec![Action::Push]),
        ],
        vec![deny(
            "4",
            &["open/secret"],
            &["authenticated"],
            Action::ALL.to_vec(),
        )],
    );
    for (query, mounts) in [
        (format!("?mount={DIGEST}&from=open/x"), true),
        (format!("?mount={DIGEST}&from=open/secret"), false),
        (format!("?mount={DIGEST}&from=blind/x"), false),
        (format!("?mount={DIGEST}&from=to/x"), false),
        (format!("?mount={DIGEST}"), false),
        (String::new(), false),
    ] {
        let start = call(&Method::POST, &format!("/v2/to/x/blobs/uploads/{query}"));
        let permit = policy
            .decide(&user("bob", &[]), here(), start, now())
            .unwrap();
        assert_eq!(permit.call().mount_source().is_some(), mounts, "{query}");
        assert_eq!(permit.call().target().contains("mount"), mounts, "{query}");
    }
}

#[test]
fn the_explanation_names_every_rule() {
    let policy = policy(
        vec![
            access("f:1", &["b"], &["user:alice"], role("guest")),
            access("f:2", &["a"], &["user:bob"], role("guest")),
            access("f:3", &["a"], &["user:alice"], vec![Action::Push]),
            access("f:4", &["a"], &["user:alice"], role("guest")),
        ],
        vec![deny("f:5", &["a"], &["anonymous"], Action::ALL.to_vec())],
    );
    let name = RepoName::parse("a").unwrap();
    let found = policy.explain(&user("alice", &[]), here(), Action::Pull, &name, now());
    assert_eq!(found.decision, Decision::Allow(place("f:4")));
    let rules: Vec<_> = found
        .rules
        .iter()
        .map(|r| (&*r.place.0, r.kind, r.verdict))
        .collect();
    assert_eq!(
        rules,
        [
            ("f:5", RuleKind::Deny, Verdict::OtherCaller),
            ("f:1", RuleKind::Access, Verdict::OtherRepository),
            ("f:2", RuleKind::Access, Verdict::OtherCaller),
            ("f:3", RuleKind::Access, Verdict::OtherAction),
            ("f:4", RuleKind::Access, Verdict::Applies),
        ]
    );
}

#[test]
fn ten_thousand_rules_are_not_searched_one_by_one() {
    let rules = (0..10_000).map(|n| {
        access(
            "x",
            &[&format!("team-{n}/**")],
            &[&format!("user:u{n}")],
            role("developer"),
        )
    });
    let mut rules: Vec<_> = rules.collect();
    for n in 0..10_000 {
        let (project, end) = (format!("team-a/p{n}/**"), format!("**/p{n}"));
        rules.push(access("x", &[&project], &["user:u"], role("developer")));
        rules.push(access("x", &[&end], &["user:u"], role("developer")));
    }
    rules.push(access("y", &["**"], &["user:u7"], role("developer")));
    let policy = policy(rules, vec![]);
    let candidates = |name| policy.access_index.candidates(name).collect::<Vec<_>>();
    assert_eq!(candidates("team-7/app"), [7, 30_000]);
    assert_eq!(candidates("team-a/p7/app"), [10_014, 30_000]);
    assert_eq!(candidates("team-b/p7"), [10_015, 30_000]);
    let (who, name) = (user("u7", &[]), RepoName::parse("team-7/app").unwrap());
    assert!(
        policy
            .allows(&who, here(), Action::Pull, &name, now())
            .is_allow()
    );
}

const PARTS: [&str; 3] = ["a", "b", "c"];
const USERS: [&str; 3] = ["a", "b", "x.y/z"];

fn any_pattern() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "**",
        "a/**",
        "a",
        "*",
        "*/b",
        "**/b",
        "${user}/**",
        "b/${user}",
        "a/b",
    ])
}

fn any_who() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "anonymous",
        "authenticated",
        "user:a",
        "user:b",
        "group:team-a",
        "group:g",
    ])
}

fn any_actions() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(prop::sample::select(Action::ALL.to_vec()), 1..4)
}

fn any_networks() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let some = [
        "10.0.0.0/8",
        "::/0",
        "10.1.2.3/32",
        "::ffff:10.0.0.0/104",
        "192.168.0.0/16",
    ];
    let some = prop::sample::select(some.map(|text| text.parse().unwrap()).to_vec());
    prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(some, 1..3)]
}

prop_compose! {
    fn any_access()(
        repositories in prop::collection::vec(any_pattern(), 1..3),
        whom in prop::collection::vec(any_who(), 1..3),
        actions in any_actions(),
        networks in any_networks(),
        password in any::<bool>(),
        not_after in prop::option::of(prop::sample::select(vec![-1_i64, 0, 1])),
    ) -> AccessRule {
        let mut rule = access("access", &repositories, &whom, actions);
        rule.networks = networks;
        rule.require = if password { vec![Condition::Password] } else { vec![] };
        rule.not_after = not_after.map(|offset| {
            Timestamp::from_second(1_800_000_000_i64.saturating_add(offset)).unwrap()
        });
        rule
    }
}

prop_compose! {
    fn any_deny()(
        repositories in prop::collection::vec(any_pattern(), 1..3),
        whom in prop::collection::vec(any_who(), 1..3),
        actions in any_actions(),
        networks in any_networks(),
    ) -> DenyRule {
        let mut rule = deny("deny", &repositories, &whom, actions);
        rule.networks = networks;
        rule
    }
}

prop_compose! {
    fn any_identity()(
        name in prop::option::of(prop::sample::select(USERS.to_vec())),
        in_group in any::<bool>(),
        password in any::<bool>(),
    ) -> Identity {
        let groups = if in_group { vec![Group::new("g")] } else { vec![] };
        Identity::verified_token(name.map(named), groups.into(), password, [].into())
    }
}

fn any_name() -> impl Strategy<Value = RepoName> {
    prop::collection::vec(prop::sample::select(PARTS.to_vec()), 1..4)
        .prop_map(|parts| RepoName::parse(&parts.join("/")).unwrap())
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let some = ["10.1.2.3", "::ffff:10.1.2.3", "192.168.1.1", "2001:db8::1"];
    prop::sample::select(some.map(|text| text.parse().unwrap()).to_vec())
}

/// Keeps, filter by filter, the rules that apply; nothing is shared with the code but the patterns.
fn slow_reference(
    rules: (&[AccessRule], &[DenyRule]),
    who: &Identity,
    from: IpAddr,
    action: Action,
    name: &RepoName,
) -> bool {
    let from = match from {
        IpAddr::V6(long) => long.to_ipv4_mapped().map_or(from, IpAddr::V4),
        IpAddr::V4(_) => from,
    };
    let named = |whom: &[Who]| {
        let mut mine = match who.user() {
            None => vec![Who::Anonymous],
            Some(user) => vec![Who::Authenticated, Who::User(Subject::read(user).unwrap())],
        };
        mine.extend(who.groups().iter().map(|group| Who::Group(group.clone())));
        mine.iter().any(|one| whom.contains(one))
    };
    let about = |patterns: &[Pattern]| {
        action == Action::Catalog || patterns.iter().any(|p| p.matches(name, who.user()))
    };
    let within = |networks: &[ipnet::IpNet]| {
        let short = |net: &ipnet::IpNet| match net.to_string().strip_prefix("::ffff:") {
            Some("10.0.0.0/104" | "a00:0/104") => "10.0.0.0/8".parse().unwrap(),
            _ => *net,
        };
        networks.is_empty() || networks.iter().any(|net| short(net).contains(&from))
    };
    let mut denies = rules.1.to_vec();
    denies.retain(|rule| named(&rule.who));
    denies.retain(|rule| rule.actions.contains(&action));
    denies.retain(|rule| about(&rule.repositories) && within(&rule.networks));
    let mut accesses = rules.0.to_vec();
    accesses.retain(|rule| rule.who.contains(&Who::Anonymous) || named(&rule.who));
    accesses.retain(|rule| rule.actions.contains(&action));
    accesses.retain(|rule| about(&rule.repositories) && within(&rule.networks));
    accesses.retain(|rule| rule.require.is_empty() || who.has_password());
    accesses.retain(|rule| rule.not_after.is_none_or(|end| now() < end));
    denies.is_empty() && !accesses.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn the_decision_is_what_the_slow_reference_finds(
        access in prop::collection::vec(any_access(), 0..6),
        deny in prop::collection::vec(any_deny(), 0..3),
        who in any_identity(), from in any_address(), name in any_name(),
    ) {
        let policy = Policy::new(access.clone(), deny.clone(), HashMap::new());
        for action in Action::ALL {
            let expected = slow_reference((&access, &deny), &who, from, action, &name);
            let found = policy.allows(&who, from, action, &name, now());
            prop_assert_eq!(found.is_allow(), expected, "{:?}", action);
            let none = !policy.may_pull_something(&who, from, now());
            prop_assert!(!(none && action == Action::Pull && expected));
            let explained = policy.explain(&who, from, action, &name, now());
            prop_assert_eq!(&explained.decision, &found);
            let applies = |kind| explained.rules.iter()
                .any(|rule| rule.kind == kind && rule.verdict == Verdict::Applies);
            prop_assert_eq!(!applies(RuleKind::Deny) && applies(RuleKind::Access), expected);
        }
    }

    #[test]
    fn another_access_takes_nothing_away_and_another_deny_gives_nothing(
        access in prop::collection::vec(any_access(), 0..4), more in any_access(),
        deny in prop::collection::vec(any_deny(), 0..3), less in any_deny(),
        who in any_identity(), from in any_address(), name in any_name(),
    ) {
        let may = |access: &[AccessRule], deny: &[DenyRule]| {
            let policy = Policy::new(access.to_vec(), deny.to_vec(), HashMap::new());
            Action::ALL.map(|action| policy.allows(&who, from, action, &name, now()).is_allow())
        };
        let given = may(&access, &deny);
        let wider = may(&[access.clone(), vec![more]].concat(), &deny);
        let narrower = may(&access, &[deny.clone(), vec![less]].concat());
        for ((given, wider), narrower) in given.into_iter().zip(wider).zip(narrower) {
            prop_assert!(narrower <= given && given <= wider);
        }
    }

    #[test]
    fn a_greater_role_never_means_fewer_rights(
        mut rules in prop::collection::vec(any_access(), 1..4),
        deny in prop::collection::vec(any_deny(), 0..3),
        who in any_identity(), from in any_address(), name in any_name(),
    ) {
        let mut before = [false; 5];
        for (_, actions) in BUILT_IN_ROLES {
            rules[0].actions = actions.to_vec();
            let policy = Policy::new(rules.clone(), deny.clone(), HashMap::new());
            let may = |action| policy.allows(&who, from, action, &name, now()).is_allow();
            // The other rules stand still, so only what the first one gives changes.
            let after = Action::ALL.map(may);
            prop_assert!(before.into_iter().zip(after).all(|(before, after)| before <= after));
            before = after;
        }
    }

    #[test]
    fn logging_in_takes_no_access_away(
        access in prop::collection::vec(any_access(), 0..5),
        from in any_address(), name in any_name(),
    ) {
        let plain: Vec<_> = access.into_iter()
            .map(|rule| AccessRule { repositories: patterns(&["**"]), ..rule }).collect();
        let policy = Policy::new(plain, vec![], HashMap::new());
        for action in Action::ALL {
            let nobody = policy.allows(&Identity::anonymous(), from, action, &name, now());
            let somebody = policy.allows(&user("a", &[]), from, action, &name, now());
            prop_assert!(nobody.is_allow() <= somebody.is_allow());
        }
    }

    #[test]
    fn a_robot_key_has_its_grant_and_what_everybody_has(
        access in prop::collection::vec(any_access(), 0..6), own in any_access(),
        deny in prop::collection::vec(any_deny(), 0..3),
        from in any_address(), name in any_name(),
    ) {
        let confinement = Confinement {
            place: "keys.toml:1".into(),
            repositories: own.repositories.clone(),
            actions: own.actions.clone(),
            networks: own.networks.iter().copied().map(canonical).collect(),
            expires: own.not_after,
        };
        let policy = Policy::new(access.clone(), deny.clone(), HashMap::new());
        let robot = Identity::verified_key("ci", confinement.into());
        // The same as rules: its own for its name, and of the others what is for everybody.
        let for_all = |rule: &AccessRule| rule.who.contains(&Who::Anonymous);
        let mut rules: Vec<_> = access.into_iter().filter(for_all).collect();
        for rule in &mut rules {
            rule.who = vec![Who::Anonymous];
        }
        rules.push(AccessRule { who: vec![who("user:key:ci")], require: vec![], ..own });
        for action in Action::ALL {
            if action == Action::Catalog {
                // Only a key for everything sees the whole catalog.
                let all = rules.last_mut().unwrap();
                all.repositories.retain(|pattern| pattern.as_str() == "**");
                if all.repositories.is_empty() {
                    rules.pop();
                }
            }
            let expected = slow_reference((&rules, &deny), &robot, from, action, &name);
            let found = policy.allows(&robot, from, action, &name, now());
            prop_assert_eq!(found.is_allow(), expected, "{:?}", action);
        }
    }
}

#[test]
fn a_robot_key_is_denied_like_a_user_and_given_nothing_like_one() {
    let all = role("admin");
    let access = vec![
        access("1", &["**"], &["authenticated"], all.clone()),
        access("2", &["**"], &["user:key:ci"], all.clone()),
        access("3", &["**"], &["group:team-a"], all.clone()),
        access("4", &["public/**"], &["anonymous"], role("guest")),
    ];
    let deny = vec![
        deny("5", &["**/prod"], &["authenticated"], vec![Action::Push]),
        deny("6", &["a/secret"], &["user:key:ci"], all),
        deny("7", &["a/x"], &["anonymous"], vec![Action::Pull]),
    ];
    let policy = policy(access, deny);
    let confinement = Confinement {
        place: "keys.toml:9".into(),
        repositories: patterns(&["a/**"]),
        actions: role("developer"),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        expires: Some(now() + jiff::SignedDuration::from_secs(1)),
    };
    let robot = Identity::verified_key("ci", confinement.into());
    let decide = |action, name: &str, from: &str, now| {
        let name = RepoName::parse(name).unwrap();
        match policy.allows(&robot, from.parse().unwrap(), action, &name, now) {
            Decision::Allow(rule) => format!("allow {rule}"),
            Decision::Deny(Some(rule)) => format!("deny {rule}"),
            Decision::Deny(None) => "none".to_owned(),
        }
    };
    let here = "10.1.2.3";
    for (action, name, from, expected) in [
        (Action::Push, "a/b", here, "allow keys.toml:9"),
        (Action::Pull, "a/x", here, "allow keys.toml:9"),
        (Action::Delete, "a/b", here, "none"),
        (Action::Pull, "b", here, "none"),
        (Action::Pull, "public/x", here, "allow 4"),
        (Action::Push, "a/prod", here, "deny 5"),
        (Action::Pull, "a/secret", here, "deny 6"),
        (Action::Pull, "a/b", "192.0.2.1", "none"),
        (Action::Pull, "public/x", "192.0.2.1", "allow 4"),
    ] {
        assert_eq!(
            decide(action, name, from, now()),
            expected,
            "{action:?} {name}"
        );
    }
    let later = now() + jiff::SignedDuration::from_secs(1);
    assert_eq!(decide(Action::Pull, "a/b", here, later), "none");
}

#[test]
fn people_of_a_directory_are_named_in_any_case_and_others_as_they_stand() {
    let members = ["Alice", "key:ci"].map(|name| Subject::read(name).unwrap());
    let groups = HashMap::from([("team-a".into(), members.into())]);
    let rules = vec![
        access("1", &["a/**"], &["group:team-a"], role("guest")),
        access("2", &["b/**"], &["user:ALICE"], role("guest")),
        access("3", &["home/${user}/**"], &["authenticated"], role("guest")),
    ];
    let policy = Policy::new(rules, vec![], groups);
    let may = |who: &Identity| {
        ["a/x", "b/x", "home/alice/x"].map(|name| {
            let name = RepoName::parse(name).unwrap();
            let found = policy.allows(who, here(), Action::Pull, &name, now());
            found.is_allow()
        })
    };
    let of = |name: &str, origin| {
        let name = Name::parse(name, origin).unwrap();
        let method = Authentication::Ldap;
        Identity::verified_password(name, [].into(), method, false)
    };
    for name in ["alice", "Alice", "ALICE"] {
        assert_eq!(may(&of(name, Origin::Directory)), [true; 3], "{name}");
    }
    assert_eq!(may(&of("alice", Origin::Password)), [false, false, true]);
    assert_eq!(may(&of("Alice", Origin::Password)), [true, false, false]);
    assert_eq!(may(&of("ALICE", Origin::Written)), [false, true, false]);
    assert_eq!(may(&of("ci", Origin::Directory)), [false; 3]);
    let nothing = Confinement {
        place: "keys.toml:1".into(),
        repositories: vec![],
        actions: vec![],
        networks: vec![],
        expires: None,
    };
    let robot = Identity::verified_key("ci", nothing.into());
    assert_eq!(policy.groups_of(&robot).collect::<Vec<_>>(), ["team-a"]);
}

#[test]
fn groups_are_the_same_in_every_case() {
    let groups = HashMap::from([("Ops".into(), vec![Subject::read("bob").unwrap()])]);
    let rules = vec![access(
        "1",
        &["a/**"],
        &["group:team-a", "group:ops"],
        role("developer"),
    )];
    let denies = vec![deny(
        "2",
        &["a/prod"],
        &["group:contractors"],
        vec![Action::Push],
    )];
    let policy = Policy::new(rules, denies, groups);
    let may = |who: &Identity, name: &str| {
        let name = RepoName::parse(name).unwrap();
        policy
            .allows(who, here(), Action::Push, &name, now())
            .is_allow()
    };
    let erin = user("erin", &["TEAM-A", "Contractors"]);
    assert!(may(&erin, "a/x") && !may(&erin, "a/prod"));
    assert!(may(&user("bob", &[]), "a/prod"));
    assert!(!may(&user("erin", &["team-b"]), "a/x"));
    let both: Vec<_> = policy
        .groups_of(&user("bob", &["OPS"]))
        .map(str::to_owned)
        .collect();
    assert_eq!(both, ["OPS"]);
}
