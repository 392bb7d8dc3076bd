use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use insta::assert_snapshot;
use jiff::Timestamp;
use proptest::prelude::*;

use super::{Config, Errors, Expected, Warning};
use crate::audit::WhenUnwritable;
use crate::authn::{Anonymous, BackEndKind, Challenge};
use crate::identity::{Identity, Subject};
use crate::registry::{Action, RepoName};
use crate::telemetry::LogFormat;
use crate::tls::{ClientCertificateMode, TlsVersion};
use crate::transport::ProxyProtocol;
use crate::upstream::UpstreamUrl;

const LEAST: &str = r#"
[tls]
certificate = "server.pem"
private_key = "server.key"

[upstream]
url = "http://127.0.0.1:5000"

[auth.htpasswd]
file = "htpasswd"
"#;

const RULE: &str = r#"
[[access]]
repositories = ["**"]
who = ["authenticated"]
role = "developer"
"#;

fn parse(text: &str) -> Result<(Config, Vec<Warning>), Errors> {
    let env = |name: &str| (name == "REGISTRY_PASSWORD").then(|| "hunter2".to_owned());
    Config::parse(text, Path::new("portcullis.toml"), &env)
}

fn good(text: &str) -> Config {
    match parse(text) {
        Ok((config, _)) => config,
        Err(errors) => panic!("{}", errors.render(false)),
    }
}

fn bad(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted"),
        Err(errors) => errors.render(false),
    }
}

/// With everything a configuration needs before the text.
fn bad_besides(text: &str) -> String {
    bad(&format!("{LEAST}{text}"))
}

fn warnings(text: &str) -> String {
    let (_, warnings) = parse(text).unwrap();
    let shown: Vec<_> = warnings
        .iter()
        .map(|warning| warning.render(false))
        .collect();
    shown.join("\n\n")
}

#[test]
fn the_least_configuration_has_every_default() {
    let config = good(&format!("{LEAST}{RULE}"));
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.file, here.join("portcullis.toml"));
    assert_eq!(config.server.listen, ["0.0.0.0:443".parse().unwrap()]);
    assert_eq!(config.server.public_authority, None);
    assert!(config.server.cors_origins.is_empty());
    assert_eq!(config.server.max_connections, 10_000);
    assert_eq!(config.server.max_connections_per_source, None);
    assert_eq!(config.server.drain_timeout, Duration::from_mins(1));
    assert_eq!(config.server.handshake_timeout, Duration::from_secs(10));
    assert_eq!(config.server.header_timeout, Duration::from_secs(10));
    assert_eq!(config.server.body_timeout, Duration::from_secs(30));
    assert!(config.server.trusted_proxies.is_empty());
    assert_eq!(config.server.proxy_protocol, ProxyProtocol::Off);
    assert_eq!(config.tls.certificate, here.join("server.pem"));
    assert_eq!(config.tls.min_version, TlsVersion::Tls12);
    assert_eq!(
        config.tls.client_certificates.mode,
        ClientCertificateMode::Off
    );
    let host = "127.0.0.1".into();
    assert_eq!(config.upstream.url, UpstreamUrl::Http { host, port: 5000 });
    assert!(config.upstream.login.is_none());
    assert_eq!(config.upstream.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.upstream.response_timeout, Duration::from_mins(1));
    assert_eq!(config.upstream.commit_timeout, Duration::from_mins(15));
    assert_eq!(config.auth.challenge, Challenge::Bearer);
    assert_eq!(config.auth.anonymous, Anonymous::Token);
    assert_eq!(config.auth.order, [BackEndKind::Htpasswd]);
    assert_eq!(config.auth.htpasswd, Some(here.join("htpasswd")));
    assert_eq!(config.auth.keys, here.join("keys.toml"));
    assert_eq!(config.auth.cache_ttl, Duration::from_mins(5));
    assert_eq!(config.token.lifetime, Duration::from_mins(5));
    assert_eq!(config.token.refresh_lifetime, Duration::from_hours(90 * 24));
    assert_eq!(config.token.signing_key, None);
    assert_eq!(config.limits.anonymous_pulls.count, 100);
    assert_eq!(config.limits.anonymous_pulls.per, Duration::from_hours(6));
    assert_eq!(config.limits.authenticated_pulls.count, 0);
    assert!(config.limits.pulls.is_empty() && config.limits.repeat_free.is_zero());
    let rates = config.limits.rates;
    assert_eq!(
        (rates.requests_per_second, rates.connections_per_second),
        (100_000, 10_000)
    );
    assert_eq!(rates.concurrent_requests, 10_000);
    assert_eq!(config.limits.failed_logins.count, 10);
    assert_eq!(config.limits.failed_logins.per, Duration::from_mins(5));
    assert_eq!(config.audit.file, here.join("audit.jsonl"));
    assert_eq!(config.audit.when_unwritable, WhenUnwritable::RefuseWrites);
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.log, LogFormat::Text);
}

#[test]
fn everything_written_arrives() {
    let config = good(
        r#"
        groups = { team-a = ["alice"] }
        roles.ci = ["pull", "push"]
        admin = {}
        log.format = "json"
        [server]
        listen = ["127.0.0.1:8443", "[::1]:8443"]
        public_url = "https://registry.example.com:8443"
        max_connections = 5
        drain_timeout = "0s"
        trusted_proxies = ["10.0.0.0/8", "192.0.2.1"]
        proxy_protocol = "required"
        [tls]
        certificate = "/etc/server.pem"
        private_key = "server.key"
        min_version = "1.3"
        [upstream]
        url = "unix:run/registry.sock"
        username = "proxy"
        password = "${env:REGISTRY_PASSWORD}"
        [auth]
        challenge = "basic"
        cache.ttl = "0s"
        [token]
        lifetime = "1h"
        refresh_lifetime = "0s"
        [[access]]
        repositories = ["team-a/**"]
        who = ["group:team-a"]
        role = "ci"
        [[policy_test]]
        who = "user:bob"
        groups = ["team-a"]
        address = "10.1.2.3"
        action = "push"
        repository = "team-a/app"
        expect = "allow"
        [limits]
        anonymous_pulls = { count = 5, per = "1d" }
        repeat_free = "10m"
        requests_per_second = 0
        [[limit]]
        who = ["group:team-a"]
        repositories = ["team-a/**"]
        count = 7
        per = "1h"
        [audit]
        file = "/var/log/audit.jsonl"
        when_unwritable = "serve"
        "#,
    );
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.server.listen.len(), 2);
    assert_eq!(
        config.server.public_authority.as_deref(),
        Some("registry.example.com:8443")
    );
    let networks: Vec<_> = config
        .server
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.1/32"]);
    assert_eq!(config.server.proxy_protocol, ProxyProtocol::Required);
    assert_eq!(config.tls.certificate, PathBuf::from("/etc/server.pem"));
    assert_eq!(config.tls.min_version, TlsVersion::Tls13);
    assert_eq!(
        config.upstream.url,
        UpstreamUrl::Unix(here.join("run/registry.sock"))
    );
    let (user, password) = config.upstream.login.as_ref().unwrap();
    assert_eq!((&**user, password.expose().as_str()), ("proxy", "hunter2"));
    assert_eq!(config.auth.challenge, Challenge::Basic);
    assert!(config.auth.order.is_empty() && config.auth.htpasswd.is_none());
    assert_eq!(config.admin.listen, Some("127.0.0.1:9090".parse().unwrap()));
    assert_eq!(config.log, LogFormat::Json);
    assert_eq!(config.limits.anonymous_pulls.count, 5);
    assert_eq!(config.limits.repeat_free, Duration::from_mins(10));
    assert_eq!(config.limits.rates.requests_per_second, 0);
    let [limit] = config.limits.pulls.as_slice() else {
        panic!("one limit")
    };
    assert_eq!(limit.quota.per, Duration::from_hours(1));
    let [test] = config.policy_tests.as_slice() else {
        panic!("one test")
    };
    assert_eq!(&*test.place.0, "portcullis.toml:31");
    assert_eq!(
        (test.user.as_str(), test.expect),
        (Some("bob"), Expected::Allow)
    );
    let now = Timestamp::UNIX_EPOCH;
    assert!(config.run_policy_tests(now).is_empty());
    let name = RepoName::parse("team-a/app").unwrap();
    let from: IpAddr = "10.1.2.3".parse().unwrap();
    let may = |user, action| {
        let who = Identity::supposed(Subject::read(user).unwrap(), &[]);
        config
            .policy
            .allows(&who, from, action, &name, now)
            .is_allow()
    };
    assert!(may("alice", Action::Push));
    assert!(!may("alice", Action::Overwrite));
    assert!(!may("bob", Action::Pull));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn an_unknown_key_comes_with_a_suggestion() {
    assert_snapshot!(bad_besides("[server]\nlisen = [\"0.0.0.0:443\"]\n"));
}

#[test]
fn several_errors_are_shown_at_once() {
    assert_snapshot!(bad(r#"[server]
lisen = ["0.0.0.0:443"]
max_connections = "many"
drain_timeout = 60
max_connections_per_source = -1
url = "http://127.0.0.1:5000"

[tls]
certificate = "server.pem"
min_version = "1.1"

[upstrem]
url = "http://127.0.0.1:5000"

[auth]
order = ["htpaswd", "ldap", 7]

[access]
who = ["anonymous"]

[[policy_test]]
who = "group:team-a"
action = "pul"
repository = "Team"
expect = "allowed"
"#));
}

#[test]
fn broken_toml_is_shown_with_its_places() {
    assert_snapshot!(bad(
        "[server\nlisten = [\"0.0.0.0:443\"]\n\n[tls]\ncertificate = server.pem\nprivate_kye = \"x\"\n"
    ));
}

#[test]
fn a_bad_pattern_is_shown_at_its_character() {
    assert_snapshot!(bad_besides(
        r#"
[[access]]
repositories = ["public/**", "home/${name}/*", "Team/x"]
who = ["authenticated"]
role = "guest"
"#
    ));
}

#[test]
fn an_unknown_role_or_caller_is_shown() {
    assert_snapshot!(bad_besides(
        r#"
[[access]]
repositories = ["**"]
who = ["alice", "anonymus", "user:", "group:team-b"]
role = "develper"

[[deny]]
repositories = []
who = []
actions = []
networks = []

[roles]
guest = ["pull"]
ci = ["pul"]
none = []

[groups]
team-a = ["user:alice"]
"#
    ));
}

#[test]
fn bad_durations_networks_and_times_are_shown() {
    assert_snapshot!(bad_besides(
        r#"
[server]
listen = [":443", "localhost:443", "::1"]
public_url = "http://registry.example.com"
drain_timeout = "60"
header_timeout = "5min"
body_timeout = "0s"
max_connections = 0
trusted_proxies = ["10.0.0.1/8", "intranet"]

[token]
lifetime = "59s"

[[access]]
repositories = ["**"]
who = ["authenticated"]
role = "guest"
networks = ["10.0.0.0/33"]
require = ["passwd"]
not_after = "2027-01-31"
"#
    ));
}

#[test]
fn certificates_can_be_turned_off_explicitly() {
    let off = LEAST.replace(
        "[upstream]",
        "[tls.client_certificates]\nmode = \"off\"\n[upstream]",
    );
    good(&off);
}

#[test]
fn a_directory_is_asked_safely_and_for_one_user() {
    let with = |lines: &str| format!("{LEAST}\n[auth.ldap]\n{lines}");
    let config = good(&with(
        "urls = [\"ldap://a\", \"ldaps://b:1636\"]\nstart_tls = true\nuser_base = \"dc=x\"",
    ));
    let ldap = config.auth.ldap.unwrap();
    let servers: Vec<_> = ldap.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["ldap://a:389", "ldaps://b:1636"]);
    assert!(ldap.uses_tls() && ldap.stale_ok.is_zero());
    assert_snapshot!(bad(&with(
        r#"urls = ["ldap://ldap.example.com", "ldaps://ldap.example.com"]
bind_dn = ""
bind_password = "${env:NONE}"
user_base = ""
user_filter = "(&(uid={username})"
groups = "posix"
stale_ok = "25h"
"#
    )));
    assert_snapshot!(bad(&with(
        r#"urls = ["ldaps://ldap.example.com"]
start_tls = true
plaintext = true
user_base = "dc=x"
user_filter = "(mail={username})"
username_attribute = "uid"
groups = "member_of"
nested_groups = true
"#
    )));
}

#[test]
fn a_store_is_asked_in_time_and_without_a_password_in_the_url() {
    let with = |lines: &str| {
        let signing_key = "[token]\nsigning_key = \"token.key\"";
        format!("{LEAST}\n{signing_key}\n[limits.store]\n{lines}")
    };
    let store = good(&with("url = \"redis://redis\"")).store.unwrap();
    assert_eq!(
        (store.timeout, &*store.prefix, store.login.is_none()),
        (Duration::from_millis(50), "portcullis", true)
    );
    let login =
        "url = \"rediss://redis/2\"\nusername = \"p\"\npassword = \"${env:REGISTRY_PASSWORD}\"";
    let store = good(&with(login)).store.unwrap();
    let (user, password) = store.login.unwrap();
    assert_eq!(
        (user.as_deref(), password.expose().as_str()),
        (Some("p"), "hunter2")
    );
    assert_snapshot!(bad(&with(
        r#"url = "redis://:hunter2@redis:6379/0"
username = "portcullis"
timeout = "6s"
prefix = "team a"
"#
    )));
    assert_snapshot!(warnings(&format!(
        "{LEAST}{}",
        r#"
[limits.store]
url = "unix:/run/redis.sock"
password = "hunter2"
ca = "ca.pem"
"#
    )));
}

#[test]
fn a_failing_policy_test_says_why() {
    let config = good(&format!(
        "{LEAST}{}",
        r#"
[[access]]
repositories = ["team-a/**"]
who = ["user:alice"]
role = "developer"
networks = ["10.0.0.0/8"]

[[deny]]
repositories = ["**/prod"]
who = ["authenticated"]

[[policy_test]]
who = "user:alice"
action = "push"
repository = "team-a/app"
expect = "allow"

[[policy_test]]
who = "user:alice"
address = "10.1.2.3"
action = "push"
repository = "team-a/prod"
expect = "allow"

[[policy_test]]
who = "user:alice"
address = "10.1.2.3"
action = "push"
repository = "team-a/app"
expect = "deny"

[[policy_test]]
who = "anonymous"
action = "pull"
repository = "team-a/app"
expect = "deny"
"#
    ));
    let mut failures = config.run_policy_tests(Timestamp::UNIX_EPOCH);
    assert_eq!(failures.len(), 3);
    assert_snapshot!(Errors::among(&mut failures).unwrap().render(false));
}

#[test]
fn a_missing_file_is_named() {
    let errors = Config::load(Path::new("/nonexistent/portcullis.toml")).unwrap_err();
    assert_snapshot!(errors.render(false));
}

#[test]
fn a_log_gets_one_line_and_a_machine_gets_places() {
    let text = format!("{LEAST}[server]\nlisen = []\nmax_conections = 1\n");
    let errors = parse(&text).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "portcullis.toml:12:1: unknown key `lisen` in `[server]`, did you mean `listen`?  (+1 more)"
    );
    let json = errors.to_json();
    assert_eq!(json[0]["line"], 12);
    assert_eq!(json[0]["column"], 1);
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[1]["help"], "did you mean `max_connections`?");
    assert!(errors.render(true).contains("\u{1b}["));
    assert!(!errors.render(false).contains('\u{1b}'));
}

#[test]
fn what_somebody_should_look_at_is_a_warning() {
    assert_snapshot!(warnings(
        r#"
[tls]
certificate = "server.pem"
private_key = "server.key"
[upstream]
url = "http://127.0.0.1:5000"
ca = "ca.pem"
username = "proxy"
password = "hunter2"
[auth]
order = []
[auth.htpasswd]
file = "htpasswd"
[admin]
listen = "0.0.0.0:9090"
"#
    ));
    assert_snapshot!(warnings(&format!(
        "{LEAST}{}",
        r#"
[groups]
team-a = ["alice"]
[[access]]
repositories = ["**"]
who = ["group:team-b", "group:ops"]
role = "guest"
require = ["certificate"]
"#
    )));
    let gate = "[tls.client_certificates]\nca = \"ca.pem\"\ngroups = \"subject.ou\"\n";
    assert_snapshot!(warnings(&format!("{LEAST}{RULE}{gate}")));
}

#[test]
fn anonymous_callers_come_directly_where_no_token_is_asked_for() {
    let of = |lines: &str| {
        let text = format!("{LEAST}{RULE}[auth]\n{lines}\n");
        parse(&text).unwrap().0.auth.anonymous
    };
    assert_eq!(of(""), Anonymous::Token);
    assert_eq!(of("anonymous = \"token\""), Anonymous::Token);
    assert_eq!(of("anonymous = \"direct\""), Anonymous::Direct);
    assert_eq!(of("challenge = \"basic\""), Anonymous::Direct);
    let basic = "challenge = \"basic\"\nanonymous = \"token\"";
    assert_eq!(of(basic), Anonymous::Direct);
    // A certificate would answer for any password that is typed.
    let names = "[tls.client_certificates]\nmode = \"optional\"\nca = \"ca.pem\"\n\
                 username = [\"subject.cn\"]\n";
    assert_snapshot!(warnings(&format!("{LEAST}{RULE}{names}[auth]\n{basic}\n")));
    let off = names.replace("optional", "off");
    let warned = warnings(&format!(
        "{LEAST}{RULE}{off}[auth]\nchallenge = \"basic\"\n"
    ));
    assert!(!warned.contains("any password"), "{warned}");
}

#[test]
fn no_message_quotes_a_password() {
    let upstream = |lines: &str| {
        format!(
            "[tls]\ncertificate = \"c\"\nprivate_key = \"k\"\n[upstream]\nurl = \"http://r\"\n{lines}\n"
        )
    };
    for lines in [
        "password = \"hunter2\"",
        "username = \"u\"\npassword = [\"hunter2\"]",
        "pasword = \"hunter2\"",
        "password = \"hunter2",
        "password = hunter2",
        "username = \"u\"\npassword = \"hunter2\"\npassword = \"hunter2\"",
        "x = { password = \"hunter2\" }",
    ] {
        let text = upstream(lines);
        let errors = parse(&text).unwrap_err();
        let told = format!(
            "{} {errors} {} {errors:?}",
            errors.render(false),
            errors.to_json()
        );
        assert!(!told.contains("hunter2"), "{lines}\n{told}");
    }
    let in_url = LEAST.replace("127.0.0.1", "bob:hunter2@127.0.0.1");
    let errors = parse(&in_url).unwrap_err();
    assert!(!format!("{} {errors}", errors.render(false)).contains("hunter2"));
}

#[test]
fn passwords_come_from_files_variables_and_credentials() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "hunter2\n").unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    std::fs::write(folder.path().join("lines"), "hunter2\nhunter3\n").unwrap();
    std::fs::write(folder.path().join("nul"), "hunter2\0\n").unwrap();
    std::fs::write(folder.path().join("long"), "x".repeat(1 << 20)).unwrap();
    let config = |how: &str| {
        let text = format!(
            "[tls]\ncertificate = \"c\"\nprivate_key = \"k\"\n\
             [upstream]\nurl = \"http://r\"\nusername = \"u\"\n{how}\n"
        );
        let credentials = folder.path().to_str().unwrap().to_owned();
        let env = |name: &str| match name {
            "CREDENTIALS_DIRECTORY" => Some(credentials.clone()),
            "PW" => Some("hunter2".to_owned()),
            _ => None,
        };
        Config::parse(&text, &folder.path().join("portcullis.toml"), &env)
    };
    for how in [
        "password_file = \"pw\"",
        "password = \"${env:PW}\"",
        "password = \"${credential:pw}\"",
        "password = \"hunter2\"",
    ] {
        let (config, _) = config(how).unwrap();
        assert_eq!(
            config.upstream.login.unwrap().1.expose(),
            "hunter2",
            "{how}"
        );
    }
    for (how, words) in [
        ("password_file = \"none\"", "cannot be read"),
        ("password_file = \"empty\"", "is empty"),
        ("password_file = \"lines\"", "control character"),
        ("password_file = \"nul\"", "control character"),
        ("password_file = \"long\"", "too large"),
        ("password_file = \"/dev/zero\"", "too large"),
        ("password = \"${env:NONE}\"", "NONE is not set"),
        ("password = \"${credential:../pw}\"", "refers to nothing"),
        ("password = \"${file:pw}\"", "refers to nothing"),
        ("password = \"${env:PW}\"\npassword_file = \"pw\"", "both"),
        ("", "without a password"),
    ] {
        let errors = config(how).unwrap_err();
        assert!(errors.to_string().contains(words), "{how}: {errors}");
        let errors = errors.diagnostics().iter().filter(|one| !one.is_warning());
        assert_eq!(errors.count(), 1, "{how}");
    }
}

#[test]
fn what_can_only_be_meant_otherwise_is_told() {
    let listen = |lines: &str| bad_besides(&format!("[server]\n{lines}\n"));
    let twice =
        listen("listen = [\"[::1]:443\", \"127.0.0.1:0\", \"127.0.0.1:0\", \"[0::1]:443\"]");
    assert!(twice.contains("\"[0::1]:443\" is named twice"), "{twice}");
    assert!(twice.ends_with("1 error"), "{twice}");
    let admin = listen("listen = [\"127.0.0.1:443\"]\n[admin]\nlisten = \"127.0.0.1:443\"");
    assert!(
        admin.contains("clients are served at this address"),
        "{admin}"
    );
    for who in ["user:*", "group:*"] {
        let deny = format!("[[deny]]\nrepositories = [\"**\"]\nwho = [{who:?}]\n");
        let deny = bad_besides(&deny);
        assert!(deny.contains("\"authenticated\""), "{deny}");
    }
    let user = "[tls]\ncertificate = \"c\"\nprivate_key = \"k\"\n[upstream]\nurl = \"http://r\"\n\
                username = \"a:b\"\npassword = \"c\"\n";
    assert!(
        bad(user).contains("no user name has a `:`"),
        "{}",
        bad(user)
    );
    let all = format!("{LEAST}[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"::/0\"]\n{RULE}");
    let all = warnings(&all);
    assert!(all.contains("everybody may choose the address"), "{all}");
    assert_eq!(all.matches("warning").count(), 1, "{all}");
}

#[test]
fn a_proxy_header_is_required_of_nobody_in_particular_is_an_error() {
    for trusted in ["", "trusted_proxies = []\n"] {
        let lines = format!("[server]\n{trusted}proxy_protocol = \"required\"\n");
        let errors = bad_besides(&lines);
        assert!(errors.contains("no `trusted_proxies`"), "{errors}");
        assert!(errors.contains("name your load balancers"), "{errors}");
        assert!(errors.ends_with("1 error"), "{errors}");
    }
    let guessed = "[server]\ntrusted_proxies = [\"10.0.0.1\"]\nproxy_protocol = \"optional\"\n";
    let errors = bad_besides(guessed);
    assert!(
        errors.contains("\"off\"") && errors.contains("\"required\""),
        "{errors}"
    );
}

#[test]
fn a_secret_that_others_can_read_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[tls]\ncertificate = \"c\"\nprivate_key = \"k\"\n\
                [upstream]\nurl = \"http://r\"\nusername = \"u\"\npassword_file = \"pw\"\n";
    let path = folder.path().join("portcullis.toml");
    std::fs::write(&path, text).unwrap();
    let told = |mode| {
        for name in ["k", "pw"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path().join(name), permissions).unwrap();
        }
        let (_, warnings) = Config::load(&path).unwrap();
        let about = |one: &&Warning| one.message().contains("every user of this machine");
        warnings
            .iter()
            .filter(about)
            .filter_map(Warning::position)
            .collect::<Vec<_>>()
    };
    assert_eq!(told(0o640), []);
    assert_eq!(told(0o644), [(3, 15), (7, 17)]);
}

#[test]
fn whoever_opens_what_is_named_can_point_at_the_key() {
    let config = good(LEAST);
    let at = |key| config.error_at(key, "no good").position();
    assert_eq!(at("tls.private_key"), Some((4, 15)));
    assert_eq!(at("auth.htpasswd.file"), Some((10, 8)));
    assert_eq!(at("tls.client_certificates.ca"), Some((2, 1)));
    assert_eq!(at("token.signing_key"), None);
}

const REFERENCE: &str = include_str!("../../conf/reference.toml");

/// The reference with the lines uncommented that `wanted` picks, given the comment above.
fn uncommented(wanted: impl Fn(&str) -> bool) -> String {
    let mut above = String::new();
    let mut out = String::new();
    for line in REFERENCE.lines() {
        let key = line.strip_prefix('#').filter(|rest| {
            rest.starts_with('[') || rest.starts_with(|c: char| c.is_ascii_lowercase())
        });
        match key {
            Some(rest) if wanted(&above) => out.push_str(rest),
            Some(_) | None => out.push_str(line),
        }
        out.push('\n');
        if line.is_empty() {
            above.clear();
        } else if line.starts_with("# ") {
            above.push_str(line);
        }
    }
    out
}

fn leaves(table: &toml::Table, path: &str, out: &mut Vec<String>) {
    for (key, value) in table {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let tables = value
            .as_array()
            .map(|items| items.iter().filter_map(toml::Value::as_table));
        let tables: Vec<_> = tables
            .into_iter()
            .flatten()
            .chain(value.as_table())
            .collect();
        if tables.is_empty() || path == "groups" || path == "roles" || path.ends_with("ldap.map") {
            out.push(path);
        } else {
            for table in tables {
                leaves(table, &path, out);
            }
        }
    }
}

#[test]
fn the_directorys_groups_count_by_name_below_a_base_or_by_a_map() {
    let with = |lines: &str| {
        format!(
            "{LEAST}\n[auth.ldap]\nurls = [\"ldaps://ldap.example.com\"]\nuser_base = \"dc=x\"\n{lines}"
        )
    };
    let warnings = |lines: &str| {
        let path = Path::new("/etc/portcullis/portcullis.toml");
        let parsed = Config::parse(&with(lines), path, &|_| None);
        let (config, warnings) = parsed.unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        (config.auth.ldap.unwrap(), warnings.join("\n"))
    };
    let map = "map = { team-a = [\"cn=a,ou=groups,dc=x\", \"CN=b,dc=x\"], b = [\"cn=a,dc=x\"] }";
    let (ldap, told) = warnings(&format!("groups = \"member_of\"\n{map}"));
    assert_eq!(ldap.map.unwrap()["team-a"].len(), 2);
    assert!(!told.contains("a group counts"), "{told}");
    let (ldap, told) = warnings("groups = \"member_of\"");
    assert!(
        ldap.map.is_none() && told.contains("a group counts by its `cn`"),
        "{told}"
    );
    let (_, told) = warnings("groups = \"member_of\"\ngroup_base = \"dc=x\"");
    assert!(!told.contains("a group counts"), "{told}");
    let (_, told) = warnings(map);
    assert!(told.contains("`map` has no effect"), "{told}");
    assert_snapshot!(bad(&with(
        r#"groups = "member_of"
group_base = "ou=groups,dc=x"
[auth.ldap.map]
team-a = ["team-a", "cn=a,ou=people,dc=x", ""]
team-b = []
"" = ["cn=a,ou=groups,dc=x"]
"#
    )));
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let all = uncommented(|_| true);
    let instead = all
        .replace("#     ", "")
        .replace("password_file", "file_of_password");
    let mut written = Vec::new();
    for text in [&all, &instead] {
        leaves(&text.parse().unwrap(), "", &mut written);
    }
    written.retain(|key| !key.contains("file_of_password"));
    written.sort();
    written.dedup();
    let mut known = crate::document::all_keys(&super::schema());
    known.sort();
    assert_eq!(written, known);
}

#[test]
fn the_reference_can_be_used_with_all_its_examples() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["upstream.password", "ldap.password", "redis.password"] {
        std::fs::write(folder.path().join(name), "hunter2").unwrap();
    }
    let path = folder.path().join("portcullis.toml");
    let text =
        uncommented(|_| true).replace("order = [\"htpasswd\"]", "order = [\"ldap\", \"htpasswd\"]");
    let (config, _) = Config::parse(&text, &path, &|_| None)
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let failed = config.run_policy_tests(Timestamp::UNIX_EPOCH);
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_defaults_of_the_reference_are_the_defaults() {
    let read = |text: &str| match Config::parse(text, Path::new("reference.toml"), &|_| None) {
        Ok((c, warnings)) => {
            let c = (
                c.server, c.tls, c.upstream, c.auth, c.token, c.limits, c.store, c.audit, c.admin,
                c.log,
            );
            format!("{c:#?} {warnings:#?}")
        }
        Err(errors) => panic!("{}", errors.render(false)),
    };
    let defaults = uncommented(|above| above.contains("Default"));
    let around_directory = |text: &str| around(text, "# Users in a directory", "# Robot keys: ");
    let (begin, end) = around_directory(REFERENCE);
    let (more, same) = around_directory(&defaults);
    assert_eq!(read(&(begin + &end)), read(&(more + &same)));

    let of_directory =
        |above: &str| above.contains("directory (LDAP)") || above.contains("Required");
    let least = uncommented(of_directory);
    let all = uncommented(|above| of_directory(above) || above.contains("Default"));
    let all = all.replace("order = [\"htpasswd\"]", "");
    assert_eq!(read(&least), read(&all));
}

/// What stands before one text and from another on.
fn around(text: &str, from: &str, to: &str) -> (String, String) {
    let (begin, rest) = text.split_once(from).unwrap();
    let (_, end) = rest.split_once(to).unwrap();
    (begin.to_owned(), to.to_owned() + end)
}

#[test]
fn the_schema_is_fresh() {
    let stored: serde_json::Value =
        serde_json::from_str(include_str!("../../conf/schema.json")).unwrap();
    assert!(
        stored == super::schema(),
        "run: portcullis schema > conf/schema.json"
    );
}

#[test]
fn limits_that_could_not_be_kept_are_refused() {
    for (text, words) in [
        (
            "[limits]\nanonymous_pulls = { count = 100001, per = \"6h\" }",
            "write 0 for no limit",
        ),
        (
            "[limits]\nauthenticated_pulls = { count = 1, per = \"32d\" }",
            "from 1s to 31d",
        ),
        (
            "[limits]\nanonymous_pulls = { count = 1, per = \"500ms\" }",
            "from 1s to 31d",
        ),
        ("[[limit]]\ncount = 1\nper = \"60d\"", "from 1s to 31d"),
        ("[[limit]]\ncount = 1\nper = \"0s\"", "no time at all"),
        ("[[limit]]\nper = \"1h\"", "count"),
        ("[[limit]]\ncount = 1", "per"),
        (
            "[[limit]]\ncount = 1\nper = \"1h\"\nwho = []",
            "nobody is named",
        ),
        (
            "[[limit]]\ncount = 1\nper = \"1h\"\nrepositories = [\"a//b\"]",
            "a//b",
        ),
    ] {
        let told = bad_besides(text);
        assert!(told.contains(words), "{text}:\n{told}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_every_error_has_words(
        lines in prop::collection::vec(prop_oneof![
            Just("[server]".to_owned()), Just("[tls]".to_owned()), Just("[[access]]".to_owned()),
            Just("[auth.htpasswd]".to_owned()), Just("[groups]".to_owned()),
            "(listen|who|role|url|file|x) = .{0,20}",
            "(repositories|who|networks) = \\[\"[a-z*$\\{\\}:/]{0,10}\"\\]",
            ".{0,20}",
        ], 0..12)
    ) {
        if let Err(errors) = parse(&lines.join("\n")) {
            prop_assert!(!errors.diagnostics().is_empty());
            prop_assert!(!errors.render(false).is_empty() && !errors.to_string().is_empty());
        }
    }
}

#[test]
fn a_space_around_a_name_and_a_group_in_two_spellings_are_errors() {
    let rule = |who: &str| {
        let more = "repositories = [\"a/**\"]\nrole = \"guest\"";
        format!("[[access]]\n{more}\nwho = [\"{who}\"]")
    };
    for (text, words) in [
        (rule("user: bob"), "write \"bob\""),
        (rule("user:bob "), "write \"bob\""),
        (rule("group: team-a"), "write \"team-a\""),
        ("[groups]\na = [\" bob\"]".to_owned(), "write \"bob\""),
        (
            "[groups]\nTeam = []\nteam = []".to_owned(),
            "another spelling",
        ),
    ] {
        let told = bad_besides(&text);
        assert!(told.contains(words), "{text}:\n{told}");
    }
}
