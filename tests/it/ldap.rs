//! Users of a directory: a real slapd, killed, frozen and restarted, and false ones that lie.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::process::free_port;
use crate::support::slapd::{FalseDirectory, Slapd, element, entry, message, result};
use crate::support::{
    Answer, Builder, Client, Lab, PATIENCE, eventually, eventually_async, password, within,
};

/// What a group of the directory gives, besides the usual rules.
const RULES: &str = r#"
[[access]]
repositories = ["team-l/**"]
who = ["group:team-l"]
role = "developer"
"#;

const BOTH: &str = r#"["htpasswd", "ldap"]"#;

fn builder(order: &'static str, section: &str) -> Builder {
    Lab::builder()
        .order(order)
        .more(&format!("{section}\n{RULES}"))
}

async fn login(lab: &Lab, user: &str, password: &str) -> Answer {
    lab.anonymous()
        .basic(user, password)
        .get("/v2/")
        .send()
        .await
}

/// Whether a user may read what the group of the directory gives.
async fn may(lab: &Lab, user: &str) -> u16 {
    let path = "/v2/team-l/app/tags/list";
    lab.user(user).get(path).send().await.status
}

/// Waits until the last record of a user says this.
async fn recorded(lab: &Lab, user: &str, what: serde_json::Value) {
    let last = || {
        let records = lab.audit().records();
        records
            .into_iter()
            .rev()
            .find(|record| record["user"] == user)
    };
    let told = eventually("a record of the user", || {
        let pairs = what.as_object().unwrap();
        let fits = |record: &serde_json::Value| pairs.iter().all(|(key, it)| record[key] == *it);
        last().filter(fits)
    });
    let Ok(_) = tokio::time::timeout(PATIENCE / 3, told).await else {
        panic!("no record of {user} with {what}, but {:?}", last());
    };
}

#[tokio::test]
async fn users_log_in_by_every_protected_way() {
    let slapd = Slapd::start().await;
    for section in [
        slapd.section(""),
        slapd.section_of(&[&slapd.plain_url()], "start_tls = true"),
        slapd.section_of(&[&slapd.plain_url()], "plaintext = true"),
    ] {
        let lab = builder(BOTH, &section).start().await;
        assert_eq!(
            login(&lab, "erin", &password("erin")).await.status,
            200,
            "{section}"
        );
        login(&lab, "erin", "wrong")
            .await
            .assert_problem(401, "UNAUTHORIZED");
        assert_eq!(lab.user("gina").get("/v2/").send().await.status, 200);
        recorded(&lab, "erin", json!({"reason": "wrong password"})).await;
        lab.assert_no_secret(&["secret-of-portcullis", &password("erin")]);
    }
}

#[tokio::test]
async fn a_server_with_another_authority_is_not_told_any_password() {
    let slapd = Slapd::start().await;
    let stranger = Slapd::start().await;
    for (url, more) in [
        (slapd.tls_url(), ""),
        (slapd.plain_url(), "start_tls = true"),
    ] {
        let lab = builder(BOTH, &stranger.section_of(&[&url], more))
            .start()
            .await;
        let answer = login(&lab, "erin", &password("erin")).await;
        answer.assert_problem(503, "UNAVAILABLE");
        recorded(&lab, "erin", json!({"reason": "directory down"})).await;
    }
}

#[tokio::test]
async fn groups_are_found_in_every_way_and_reach_the_policy() {
    let slapd = Slapd::start().await;
    for (lines, groups) in [
        ("groups = 'member_of'", vec!["team-l"]),
        (
            "groups = 'member_of'\ngroup_base = 'ou=elsewhere,dc=example,dc=com'",
            vec![],
        ),
        (
            "groups = 'group_of_names'\ngroup_base = 'ou=groups,dc=example,dc=com'",
            vec!["team-l"],
        ),
        (
            "groups = 'group_of_names'\ngroup_base = 'ou=groups,dc=example,dc=com'\nnested_groups = true",
            vec!["circle-l", "everybody-l", "team-l"],
        ),
        (
            "groups = 'posix'\ngroup_base = 'ou=groups,dc=example,dc=com'",
            vec!["primary-l", "unix-l"],
        ),
        (
            "groups = 'ad_nested'\ngroup_base = 'ou=groups,dc=example,dc=com'",
            vec![],
        ),
        ("groups = 'none'", vec![]),
    ] {
        let lab = builder(BOTH, &slapd.section(lines)).start().await;
        let expected = if groups.contains(&"team-l") { 404 } else { 403 };
        assert_eq!(may(&lab, "erin").await, expected, "{lines}");
        recorded(&lab, "erin", json!({"groups": groups, "auth": "ldap"})).await;
        // A token says who; what they may do is looked up.
        let token = lab.token("erin", "repository:team-l/app:pull").await;
        let by_token = lab
            .anonymous()
            .bearer(&token)
            .get("/v2/team-l/app/tags/list");
        let status = by_token.send().await.status;
        assert_eq!(status, if expected == 404 { 404 } else { 403 }, "{lines}");
        recorded(&lab, "erin", json!({"groups": groups, "auth": "token"})).await;
        // Somebody without groups.
        assert_eq!(may(&lab, "frank").await, 403, "{lines}");
    }
}

#[tokio::test]
async fn a_name_finds_its_entry_or_nobody() {
    let slapd = Slapd::start().await;
    let more = "groups = 'group_of_names'\ngroup_base = 'ou=groups,dc=example,dc=com'";
    let lab = builder(BOTH, &slapd.section(more)).start().await;
    for name in [
        "*",
        "erin)(uid=*",
        "erin)(|(uid=*)",
        "*)(objectClass=*",
        "er*",
        "\\65rin",
        "erin\\",
        "uid=erin,ou=people,dc=example,dc=com",
        "erin,ou=people",
        &"x".repeat(256),
    ] {
        let answer = login(&lab, name, &password("erin")).await;
        answer.assert_problem(401, "UNAUTHORIZED");
        recorded(&lab, name, json!({"reason": "unknown user"})).await;
    }
    // The right DN is found, bound as, and found among the members of a group.
    let odd = "bob, jr (x)*";
    let client = lab.anonymous().basic(odd, "pw-of-bob-jr");
    assert_eq!(
        client.get("/v2/team-l/app/tags/list").send().await.status,
        404
    );
    recorded(&lab, odd, json!({"groups": ["team-l"]})).await;
    // Whatever the spelling, it is one person.
    let client = lab.anonymous().basic("ERIN", &password("erin"));
    assert_eq!(
        client
            .get("/v2/home/erin/app/tags/list")
            .send()
            .await
            .status,
        404
    );
    recorded(&lab, "erin", json!({"auth": "ldap"})).await;
    for (user, reason) in [
        ("twin", "several entries in the directory"),
        ("janus", "several entries in the directory"),
    ] {
        let answer = login(&lab, user, &password(user)).await;
        answer.assert_problem(401, "UNAUTHORIZED");
        recorded(&lab, user, json!({"reason": reason})).await;
    }
}

#[tokio::test]
async fn the_first_back_end_that_knows_a_user_decides() {
    let slapd = Slapd::start().await;
    let (file, directory) = (password("alice"), "pw-of-another-alice");
    for (order, good, bad, auth) in [
        (BOTH, file.as_str(), directory, "htpasswd"),
        (r#"["ldap", "htpasswd"]"#, directory, file.as_str(), "ldap"),
    ] {
        let lab = builder(order, &slapd.section("")).start().await;
        assert_eq!(login(&lab, "alice", good).await.status, 200, "{order}");
        recorded(&lab, "alice", json!({"auth": auth})).await;
        assert_eq!(login(&lab, "alice", bad).await.status, 401, "{order}");
        // The other spelling finds the other alice only where she is the one who counts.
        let status = login(&lab, "ALICE", directory).await.status;
        assert_eq!(status, if auth == "ldap" { 200 } else { 401 }, "{order}");
        for user in ["erin", "gina"] {
            assert_eq!(
                login(&lab, user, &password(user)).await.status,
                200,
                "{order}"
            );
            let token = lab.token(user, "repository:public/app:pull").await;
            let path = "/v2/public/app/tags/list";
            let answer = lab.anonymous().bearer(&token).get(path).send().await;
            assert_eq!(answer.status, 404, "{order} {user}: {answer:?}");
        }
        login(&lab, "nobody", "wrong")
            .await
            .assert_problem(401, "UNAUTHORIZED");
    }
}

/// Asks until a login of a user of the directory is answered so.
async fn login_becomes(lab: &Lab, status: u16) {
    let what = format!("a login answered with {status}");
    eventually_async(&what, async || {
        let answer = login(lab, "erin", &password("erin")).await;
        if answer.status != status {
            // Not so many that they are counted instead of recorded one by one.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (answer.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_the_directory_everybody_else_goes_on() {
    let mut slapd = Slapd::start().await;
    let section = slapd.section("timeout = '1s'") + "[auth.cache]\nttl = '0s'\n";
    let lab = builder(BOTH, &section).start().await;
    login_becomes(&lab, 200).await;
    let token = lab.token("erin", "repository:home/erin/app:pull").await;
    for frozen in [true, false] {
        if frozen {
            slapd.service.freeze();
        } else {
            slapd.service.kill();
        }
        for _ in 0..2 {
            let begun = Instant::now();
            let answer = login(&lab, "erin", &password("erin")).await;
            answer.assert_problem(503, "UNAVAILABLE");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "{:?}",
                begun.elapsed()
            );
            recorded(&lab, "erin", json!({"reason": "directory down"})).await;
        }
        // Nobody knows either whether she still exists.
        let call = lab
            .anonymous()
            .bearer(&token)
            .get("/v2/home/erin/app/tags/list");
        call.send().await.assert_problem(503, "UNAVAILABLE");
        // Not known to the file, so perhaps to the directory.
        login(&lab, "nobody", "wrong")
            .await
            .assert_problem(503, "UNAVAILABLE");
        let begun = Instant::now();
        assert_eq!(login(&lab, "gina", &password("gina")).await.status, 200);
        // No wrong password tells whom the file knows.
        let wrong = login(&lab, "gina", "wrong").await;
        wrong.assert_problem(503, "UNAVAILABLE");
        recorded(&lab, "gina", json!({"reason": "directory down"})).await;
        let public = lab.nobody().await.get("/v2/public/app/tags/list");
        assert_eq!(public.send().await.status, 404);
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        if frozen {
            slapd.service.thaw();
        } else {
            slapd.restart().await;
        }
        login_becomes(&lab, 200).await;
        let call = lab
            .anonymous()
            .bearer(&token)
            .get("/v2/home/erin/app/tags/list");
        assert_eq!(call.send().await.status, 404);
    }
    let log = lab.process.log();
    assert!(log.contains("directory server fails"), "{log}");
    assert!(log.contains("directory server answers again"), "{log}");
}

#[tokio::test]
async fn guesses_count_alike_for_everybody_while_the_directory_is_down() {
    let slapd = Slapd::start().await;
    let section = slapd.section("timeout = '1s'")
        + "[limits]\nfailed_logins = { count = 3, per = \"60s\" }\n";
    let lab = builder(BOTH, &section).start().await;
    drop(slapd);
    for number in 0..5 {
        for user in ["gina", "erin", "nobody"] {
            let answer = login(&lab, user, &format!("wrong{number}")).await;
            let status = if number < 3 { 503 } else { 429 };
            assert_eq!(answer.status, status, "{user} {number}");
        }
    }
    assert_eq!(login(&lab, "gina", &password("gina")).await.status, 429);
    assert_eq!(login(&lab, "alice", &password("alice")).await.status, 200);
}

#[tokio::test]
async fn every_spelling_that_the_directory_takes_counts_for_one_user() {
    let slapd = Slapd::start().await;
    let more = "user_filter = '(|(uid={username})(mail={username}))'\nusername_attribute = 'uid'";
    let section = slapd.section_of(&[&slapd.plain_url()], &format!("plaintext = true\n{more}"));
    let limits = "[limits]\nfailed_logins = { count = 12, per = \"60s\" }\n";
    let lab = builder(BOTH, &format!("{section}{limits}")).start().await;
    let spellings = [
        "erin",
        "ERIN",
        "erin ",
        " erin",
        "er\u{130}n",
        "\u{ff45}rin",
        "\u{212f}rin",
        "er\u{2071}n",
        "erin@example.com",
        "Erin@Example.com",
        "erin@example.com ",
        "ERIN@example.com",
    ];
    for spelling in spellings {
        let answer = login(&lab, spelling, &password("erin")).await;
        assert_eq!(answer.status, 200, "{spelling:?}");
    }
    for spelling in spellings {
        let answer = login(&lab, spelling, &format!("wrong for {spelling}")).await;
        assert_eq!(answer.status, 401, "{spelling:?}");
        recorded(&lab, spelling, json!({"reason": "wrong password"})).await;
    }
    // Spellings that were not seen before are locked as well, with any password.
    for spelling in ["erin", "ER\u{130}N", "ERIN@example.com", "er\u{ff49}n"] {
        for password in [&password("erin"), "wrong"] {
            let answer = login(&lab, spelling, password).await;
            answer.assert_problem(429, "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
    }
    assert_eq!(login(&lab, "frank", &password("frank")).await.status, 200);
    let mut locks = lab.audit().records();
    locks.retain(|record| record["event"] == "lockout");
    let [locked] = &locks[..] else {
        panic!("{locks:?}")
    };
    assert!(
        locked["reason"]
            .as_str()
            .unwrap()
            .starts_with("erin locked from "),
        "{locked}"
    );
}

#[tokio::test]
async fn a_restart_between_two_logins_is_not_noticed() {
    let mut slapd = Slapd::start().await;
    let section = slapd.section("") + "[auth.cache]\nttl = '0s'\n";
    let lab = builder(BOTH, &section).start().await;
    for _ in 0..3 {
        assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
        slapd.service.kill();
        slapd.restart().await;
    }
}

#[tokio::test]
async fn the_next_server_takes_over() {
    let (mut first, second) = (Slapd::start().await, Slapd::start().await);
    let urls = [first.plain_url(), second.plain_url()];
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let section = first.section_of(&urls, "plaintext = true\ntimeout = '2s'");
    let lab = builder(BOTH, &(section + "[auth.cache]\nttl = '0s'\n"))
        .start()
        .await;
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
    first.service.freeze();
    // The first login waits for the first server's share of the time, the next ones do not.
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
    let begun = Instant::now();
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    first.service.kill();
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
    second.service.freeze();
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 503);
}

#[tokio::test]
async fn what_was_verified_lately_is_believed_for_a_while() {
    let mut slapd = Slapd::start().await;
    let section = slapd.section("stale_ok = '1h'\ntimeout = '1s'\ngroups = 'member_of'");
    let lab = builder(BOTH, &(section + "[auth.cache]\nttl = '0s'\n"))
        .start()
        .await;
    assert_eq!(may(&lab, "erin").await, 404);
    let token = lab.token("erin", "repository:team-l/app:pull").await;
    assert_eq!(login(&lab, "frank", "wrong").await.status, 401);
    slapd.service.kill();
    for _ in 0..2 {
        assert_eq!(may(&lab, "erin").await, 404);
        let stale = json!({"cached": true, "reason": "directory down", "groups": ["team-l"]});
        recorded(&lab, "erin", stale).await;
    }
    let call = lab
        .anonymous()
        .bearer(&token)
        .get("/v2/team-l/app/tags/list");
    assert_eq!(call.send().await.status, 404);
    recorded(
        &lab,
        "erin",
        json!({"auth": "token", "reason": "directory down"}),
    )
    .await;
    // Another password, and people who did not log in.
    assert_eq!(login(&lab, "erin", "wrong").await.status, 503);
    assert_eq!(login(&lab, "frank", &password("frank")).await.status, 503);
    // Another configuration forgets.
    let config = lab.config().replace("stale_ok = '1h'", "stale_ok = '2h'");
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 503);
    slapd.restart().await;
    login_becomes(&lab, 200).await;
    recorded(&lab, "erin", json!({"reason": null})).await;
}

#[tokio::test]
async fn a_password_is_verified_once_in_a_while_and_anew_after_a_change() {
    let mut slapd = Slapd::start().await;
    let lab = builder(BOTH, &slapd.section("")).start().await;
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
    recorded(&lab, "erin", json!({"cached": false})).await;
    slapd.service.kill();
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
    recorded(&lab, "erin", json!({"cached": true})).await;
    // A reload that changes nothing about the back end keeps what it said.
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 200);
    let config = lab.config().replace("ou=people,", "OU=people,");
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 503);
}

#[tokio::test]
async fn who_is_removed_or_regrouped_feels_it_with_a_token_too() {
    let slapd = Slapd::start().await;
    let section = slapd.section("groups = 'member_of'") + "[auth.cache]\nttl = '0s'\n";
    let lab = builder(BOTH, &section).start().await;
    let scope = "repository:team-l/app:pull";
    let path = "/v2/team-l/app/tags/list";
    let token = lab.token("erin", scope).await;
    let service = lab.authority();
    let refresh = lab
        .user("erin")
        .get(&format!("/token?service={service}&offline_token=true"));
    let refresh = refresh.send().await.json()["refresh_token"].clone();
    let form = [
        ("grant_type", "refresh_token"),
        ("service", &service),
        ("scope", scope),
        ("refresh_token", refresh.as_str().unwrap()),
    ];
    let refreshed = async || {
        let call = lab.anonymous().post("/token").form(&form);
        call.send().await.status
    };
    let by_token = async || lab.anonymous().bearer(&token).get(path).send().await;
    assert_eq!((by_token().await.status, refreshed().await), (404, 200));
    let group = "dn: cn=team-l,ou=groups,dc=example,dc=com\nchangetype: modify\n";
    let erin = "member: uid=erin,ou=people,dc=example,dc=com\n";
    slapd.modify(&format!("{group}delete: member\n{erin}"));
    by_token().await.assert_problem(403, "DENIED");
    assert_eq!(may(&lab, "erin").await, 403);
    slapd.modify(&format!("{group}add: member\n{erin}"));
    assert_eq!((by_token().await.status, refreshed().await), (404, 200));
    slapd.modify("dn: uid=erin,ou=people,dc=example,dc=com\nchangetype: delete\n");
    by_token().await.assert_problem(401, "UNAUTHORIZED");
    assert_eq!(refreshed().await, 401);
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 401);
    // Somebody who is given her name later is somebody else.
    slapd.modify(
        "dn: uid=erin,ou=people,dc=example,dc=com\nchangetype: add\nobjectClass: inetOrgPerson\n\
         uid: erin\ncn: Erin\nsn: Other\nuserPassword: pw-of-erin-Xy7\n",
    );
    login_becomes(&lab, 200).await;
    by_token().await.assert_problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_disabled_account_ends_with_its_tokens_and_a_lock_by_guesses_ends_none() {
    let slapd = Slapd::start().await;
    let section = slapd.section("") + "[auth.cache]\nttl = '0s'\n";
    let lab = builder(BOTH, &section).start().await;
    let erin = "dn: uid=erin,ou=people,dc=example,dc=com\nchangetype: modify\n";
    slapd.modify(&format!(
        "{erin}add: objectClass\nobjectClass: shadowAccount\n"
    ));
    let path = "/v2/home/erin/app/tags/list";
    let token = lab.token("erin", "repository:home/erin/app:pull").await;
    let service = lab.authority();
    let offline = format!("/token?service={service}&offline_token=true");
    let refresh = lab.user("erin").get(&offline).send().await.json()["refresh_token"].clone();
    let form = [
        ("grant_type", "refresh_token"),
        ("service", &service),
        ("refresh_token", refresh.as_str().unwrap()),
    ];
    let statuses = async || {
        let used = lab.anonymous().bearer(&token).get(path).send().await;
        let renewed = lab.anonymous().post("/token").form(&form).send().await;
        (used.status, renewed.status)
    };
    for (attribute, value, both) in [
        ("shadowExpire", "-1", (404, 200)),
        ("shadowExpire", "1", (401, 401)),
        ("pwdAccountLockedTime", "000001010000Z", (401, 401)),
        ("pwdAccountLockedTime", "20300101000000Z", (404, 200)),
    ] {
        slapd.modify(&format!("{erin}add: {attribute}\n{attribute}: {value}\n"));
        assert_eq!(statuses().await, both, "{attribute} {value}");
        let answer = login(&lab, "erin", &password("erin")).await;
        // OpenLDAP's bind knows nothing of shadowExpire.
        let good = value == "-1";
        assert_eq!(answer.status, if good { 200 } else { 401 }, "{value}");
        slapd.modify(&format!("{erin}delete: {attribute}\n"));
        assert_eq!(statuses().await, (404, 200), "after {attribute} {value}");
    }
    for user in [&["--user", "erin"][..], &[]] {
        let output = std::process::Command::new(crate::support::lab::PROGRAM)
            .args(["check", "--online", "--config"])
            .arg(lab.folder.join("portcullis.toml"))
            .args(user)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let unknown = "unknown, absent or not readable by the service account: userAccountControl";
        assert!(told.contains(unknown), "{user:?}: {told}");
    }
}

#[tokio::test]
async fn many_logins_at_once_are_all_answered() {
    let slapd = Slapd::start().await;
    let section = slapd.section("groups = 'member_of'")
        + "[auth.cache]\nttl = '0s'\n[limits]\nfailed_logins = { count = 0, per = '5m' }\n";
    let lab = builder(BOTH, &section).start().await;
    let mut logins = tokio::task::JoinSet::new();
    for number in 0..60 {
        let user = if number % 2 == 0 { "erin" } else { "frank" };
        let good = number % 3 > 0;
        let password = if good {
            password(user)
        } else {
            format!("wrong{number}")
        };
        let client = lab.anonymous().basic(user, &password);
        logins.spawn(async move { (good, client.get("/v2/").send().await.status) });
    }
    while let Some(done) = logins.join_next().await {
        let (good, status) = done.unwrap();
        assert_eq!(status, if good { 200 } else { 401 });
    }
}

type Lie = Box<dyn Fn(u8, u8) -> Vec<u8> + Send + Sync>;

/// What a false directory does, and what a login is told.
#[expect(clippy::too_many_lines, reason = "a table")]
fn lies() -> Vec<(&'static str, u16, Lie)> {
    const DN: &str = "uid=erin,ou=people,dc=example,dc=com";
    /// Binds as anybody, with any password.
    fn agree(number: u8, operation: u8, found: impl Fn(u8) -> Vec<u8>) -> Vec<u8> {
        match operation {
            0x60 => result(number, 0x61, 0),
            0x63 => found(number),
            _ => Vec::new(),
        }
    }
    fn erin(number: u8) -> Vec<u8> {
        [entry(number, DN, "uid", &["erin"]), result(number, 0x65, 0)].concat()
    }
    fn tower() -> Vec<u8> {
        let mut deep = Vec::new();
        while deep.len() < 900_000 {
            // Two hundred at a time, or making it would take longer than falling over it.
            let mut heads = Vec::new();
            for step in (0..200_usize).rev() {
                let length = u32::try_from(deep.len() + 6 * (199 - step)).unwrap();
                heads.push([&[0x30, 0x84][..], &length.to_be_bytes()].concat());
            }
            heads.reverse();
            deep = [heads.concat(), deep].concat();
        }
        deep
    }
    let refer = |number| {
        let url = element(4, b"ldap://127.0.0.1:1/dc=evil");
        message(number, &element(0x73, &url))
    };
    vec![
        ("agrees", 200, Box::new(|n, op| agree(n, op, erin))),
        (
            "two entries",
            401,
            Box::new(|n, op| {
                agree(n, op, |n| {
                    [
                        entry(n, DN, "uid", &["erin"]),
                        entry(n, "uid=x", "uid", &["erin"]),
                        result(n, 0x65, 0),
                    ]
                    .concat()
                })
            }),
        ),
        (
            "a thousand entries",
            401,
            Box::new(|n, op| agree(n, op, |n| entry(n, DN, "uid", &["erin"]).repeat(1000))),
        ),
        (
            "a result cut at one entry",
            401,
            Box::new(|n, op| {
                agree(n, op, |n| {
                    [entry(n, DN, "uid", &["erin"]), result(n, 0x65, 4)].concat()
                })
            }),
        ),
        (
            "an entry without a name",
            503,
            Box::new(|n, op| {
                agree(n, op, |n| {
                    [entry(n, "", "uid", &["erin"]), result(n, 0x65, 0)].concat()
                })
            }),
        ),
        (
            "an entry of somebody else's attributes",
            503,
            Box::new(|n, op| {
                agree(n, op, |n| {
                    [entry(n, DN, "cn", &["erin"]), result(n, 0x65, 0)].concat()
                })
            }),
        ),
        (
            "an entry with two users",
            401,
            Box::new(|n, op| {
                agree(n, op, |n| {
                    [entry(n, DN, "uid", &["erin", "ada"]), result(n, 0x65, 0)].concat()
                })
            }),
        ),
        (
            "only references",
            401,
            Box::new(move |n, op| agree(n, op, |n| [refer(n), result(n, 0x65, 0)].concat())),
        ),
        (
            "references without end",
            401,
            Box::new(move |n, op| agree(n, op, |n| refer(n).repeat(5000))),
        ),
        (
            "a referral",
            503,
            Box::new(|n, op| agree(n, op, |n| result(n, 0x65, 10))),
        ),
        (
            "a referral for the user's bind",
            503,
            Box::new(|n, op| match (n, op) {
                (1, 0x60) => result(n, 0x61, 10),
                _ => agree(n, op, erin),
            }),
        ),
        (
            "no such base",
            503,
            Box::new(|n, op| agree(n, op, |n| result(n, 0x65, 32))),
        ),
        (
            "busy",
            503,
            Box::new(|n, op| agree(n, op, |n| result(n, 0x65, 51))),
        ),
        ("nothing", 503, Box::new(|_, _| Vec::new())),
        (
            "half an answer",
            503,
            Box::new(|n, op| agree(n, op, |n| erin(n)[..20].to_vec())),
        ),
        (
            "text",
            503,
            Box::new(|_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ),
        (
            "an endless length",
            503,
            Box::new(|_, _| b"\x30\x80\x30\x80\x30\x80".to_vec()),
        ),
        (
            "the answer to something else",
            503,
            Box::new(|n, op| agree(n, op, |n| result(n, 0x61, 0))),
        ),
        (
            "an entry that is none",
            503,
            Box::new(|n, op| agree(n, op, |n| message(n, &element(0x64, b"")))),
        ),
        (
            "a result that is none",
            503,
            Box::new(|n, op| agree(n, op, |n| message(n, &element(0x65, b"")))),
        ),
        (
            "a bind result that is none",
            503,
            Box::new(|n, _| message(n, &element(0x61, b""))),
        ),
        (
            "a huge entry",
            503,
            Box::new(|n, op| agree(n, op, |n| entry(n, DN, "uid", &[&"x".repeat(3 << 20)]))),
        ),
        (
            "a tower",
            503,
            Box::new(|n, op| agree(n, op, |n| message(n, &element(0x64, &tower())))),
        ),
        (
            "a million elements",
            503,
            Box::new(|n, op| {
                agree(n, op, |n| {
                    message(n, &element(0x64, &[4, 0].repeat(400_000)))
                })
            }),
        ),
    ]
}

#[tokio::test]
async fn lies_are_neither_a_yes_nor_the_end() {
    for (what, status, lie) in lies() {
        let server = FalseDirectory::start(lie).await;
        let section = format!(
            "[auth.ldap]\nurls = ['{}']\nplaintext = true\ntimeout = '1s'\n\
             user_base = 'ou=people,dc=example,dc=com'\n",
            server.url()
        );
        let lab = builder(BOTH, &section)
            .upstream("http://127.0.0.1:1")
            .start()
            .await;
        let begun = Instant::now();
        let answer = login(&lab, "erin", &password("erin")).await;
        assert_eq!(
            answer.status,
            status,
            "{what}: {answer:?}\n{}",
            lab.process.log()
        );
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{what}: {:?}",
            begun.elapsed()
        );
        // The proxy is alive and well.
        assert_eq!(
            login(&lab, "gina", &password("gina")).await.status,
            200,
            "{what}"
        );
        assert!(
            lab.process.peak() < 200 << 20,
            "{what}: {}",
            lab.process.peak()
        );
    }
}

#[tokio::test]
async fn tls_that_is_refused_or_slipped_into_is_no_tls() {
    for (what, lie) in [
        ("refused", result(1, 0x78, 2)),
        (
            "agreed, and more in the clear",
            [result(1, 0x78, 0), result(2, 0x61, 0)].concat(),
        ),
        ("no answer", Vec::new()),
        ("another answer", result(1, 0x61, 0)),
    ] {
        let server = FalseDirectory::start(move |_, operation| {
            assert_eq!(operation, 0x77, "something was said in the clear");
            lie.clone()
        })
        .await;
        let slapd_ca = crate::support::pki::Pki::new().ca;
        let folder = crate::support::folder::Folder::new();
        let ca = folder.write("ca.pem", slapd_ca);
        let section = format!(
            "[auth.ldap]\nurls = ['{}']\nstart_tls = true\nca = '{}'\ntimeout = '1s'\n\
             user_base = 'ou=people,dc=example,dc=com'\n",
            server.url(),
            ca.display()
        );
        let lab = builder(BOTH, &section)
            .upstream("http://127.0.0.1:1")
            .start()
            .await;
        let what = format!("the answer when TLS is {what}");
        let answer = within(Duration::from_secs(5), &what, login(&lab, "erin", "pw")).await;
        answer.assert_problem(503, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn a_check_tells_what_is_asked_and_found() {
    let slapd = Slapd::start().await;
    let section = slapd.section(
        "timeout = '1s'\ngroups = 'group_of_names'\ngroup_base = 'ou=groups,dc=example,dc=com'",
    );
    let lab = builder(BOTH, &section).start().await;
    let check = |more: &[&str]| {
        let output = std::process::Command::new(crate::support::lab::PROGRAM)
            .args(["check", "--online", "--config"])
            .arg(lab.folder.join("portcullis.toml"))
            .args(more)
            .output()
            .unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), shown, complaints)
    };
    let (code, told, complaints) = check(&["--user", "erin"]);
    assert_eq!(code, Some(0), "{told}{complaints}");
    for line in [
        "connected as: cn=portcullis,dc=example,dc=com",
        "user filter: (uid=erin)",
        "entry: uid=erin,ou=people,dc=example,dc=com",
        "group filter: (|(&(objectClass=groupOfNames)",
        "groups found: cn=team-l,ou=groups,dc=example,dc=com",
        "groups: team-l",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    assert!(!told.contains("secret"), "{told}");
    let (code, told, _) = check(&["--user", "nobody", "--json"]);
    assert_eq!(code, Some(1), "{told}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["directory"][0]["error"], "unknown user");
    let (code, told, complaints) = check(&[]);
    assert_eq!(code, Some(0), "{told}{complaints}");
    slapd.service.freeze();
    let (code, _, complaints) = check(&[]);
    assert_eq!(code, Some(1), "{complaints}");
    assert!(complaints.contains("no answer in time"), "{complaints}");
}

#[tokio::test]
async fn readiness_tells_of_the_directory_apart() {
    let mut slapd = Slapd::start().await;
    let port = free_port();
    let section = slapd.section_of(
        &[&slapd.plain_url(), "ldap://127.0.0.1:1"],
        "plaintext = true",
    );
    let section = format!("{section}\n[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let _lab = builder(BOTH, &section).start().await;
    let admin = Client::plain(([127, 0, 0, 1], port).into());
    let ready = admin.get("/readyz").send().await;
    assert_eq!(ready.status, 200);
    let said = ready.json();
    assert_eq!(said["directory"], "1 of 2 servers answer", "{said:#}");
    let servers = &said["directory_servers"];
    assert!(servers[0]["trouble"].is_null() && servers[1]["trouble"].is_string());
    slapd.service.kill();
    let ready = admin.get("/readyz").send().await;
    let said = ready.json();
    assert_eq!(
        said["directory"], "no server answers as it should",
        "{said:#}"
    );
    assert_eq!((ready.status, &said["upstream"]), (200, &json!("ok")));
    let status = admin.get("/status").send().await;
    assert!(status.text().contains("no server answers as it should"));
}

/// An account called as robot keys are, and what its owner may try.
const LIKE_A_ROBOT: &str = r"dn: uid=key:ci,ou=people,dc=example,dc=com
changetype: add
objectClass: inetOrgPerson
uid: key:ci
cn: A person
sn: Example
mail: person@example.com
userPassword: pw-of-a-person
";

#[tokio::test]
async fn an_account_called_like_a_robot_is_nobody() {
    let slapd = Slapd::start().await;
    slapd.modify(LIKE_A_ROBOT);
    let filter = "user_filter = '(|(uid={username})(mail={username}))'\nusername_attribute = 'uid'";
    let section = slapd.section(filter);
    let rules = "[[access]]\nrepositories = ['**']\nwho = ['user:key:ci']\nrole = 'admin'\n";
    let lab = Lab::builder()
        .order(r#"["ldap"]"#)
        .more(&format!("{section}\n{RULES}\n{rules}"))
        .start()
        .await;
    let made = std::process::Command::new(crate::support::lab::PROGRAM)
        .args([
            "key",
            "create",
            "ci",
            "--role",
            "admin",
            "--repository",
            "**",
            "--config",
        ])
        .arg(lab.folder.join("portcullis.toml"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let password = "pw-of-a-person";
    for name in [
        "key\u{ff1a}ci",
        "KEY\u{ff1a}CI",
        "\u{ff4b}ey\u{fe55}ci",
        "key\u{2236}ci",
        "key\u{200b}:ci",
        "person@example.com",
    ] {
        let client = lab.anonymous().basic(name, password);
        for path in [
            "/v2/",
            "/v2/team-l/app/tags/list",
            "/token?offline_token=true&scope=repository:team-l/app:pull",
        ] {
            client
                .get(path)
                .send()
                .await
                .assert_problem(401, "UNAUTHORIZED");
        }
        let form = [
            ("grant_type", "password"),
            ("access_type", "offline"),
            ("username", name),
            ("password", password),
        ];
        let asked = lab.anonymous().post("/token").form(&form);
        assert_eq!(asked.send().await.status, 401, "{name}");
    }
    recorded(
        &lab,
        "person@example.com",
        json!({"reason": "unfit name in the directory", "kind": "person"}),
    )
    .await;
    let is_robot =
        |record: &serde_json::Value| record["kind"] == "robot" && record["auth"] != json!(null);
    assert!(!lab.audit().records().iter().any(is_robot));
}

#[tokio::test]
async fn another_spelling_of_a_directory_name_is_the_same_person() {
    let slapd = Slapd::start().await;
    let rules = "[[access]]\nrepositories = ['circle/**']\nwho = ['user:ERIN']\nrole = 'guest'\n\
                 [[deny]]\nrepositories = ['circle/secret']\nwho = ['user:Erin']\n";
    let lab = Lab::builder()
        .order(BOTH)
        .more(&format!("{}\n{RULES}\n{rules}", slapd.section("")))
        .start()
        .await;
    for name in ["erin", "ERIN", "\u{ff45}rin"] {
        let client = lab.anonymous().basic(name, &password("erin"));
        for (path, status) in [
            ("/v2/circle/app/tags/list", 404),
            ("/v2/circle/secret/tags/list", 403),
        ] {
            assert_eq!(
                client.get(path).send().await.status,
                status,
                "{name} {path}"
            );
        }
        recorded(&lab, "erin", json!({"auth": "ldap", "kind": "person"})).await;
    }
    // Another spelling in the file, asked first, is not hers to have.
    let text = std::fs::read_to_string(lab.folder.join("htpasswd")).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("alice:"))
        .unwrap();
    lab.folder.write(
        "htpasswd",
        format!("{text}\n{}\n", line.replace("alice:", "ERIN:")),
    );
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(login(&lab, "erin", &password("erin")).await.status, 401);
}

/// Groups of the same names as those of the administrator, that others made.
const SELF_MADE: &str = r"dn: ou=self,dc=example,dc=com
changetype: add
objectClass: organizationalUnit
ou: self

dn: cn=team-l,ou=self,dc=example,dc=com
changetype: add
objectClass: groupOfNames
cn: team-l
member: uid=frank,ou=people,dc=example,dc=com

dn: cn=unix-l,ou=self,dc=example,dc=com
changetype: add
objectClass: posixGroup
cn: unix-l
gidNumber: 6001
memberUid: frank
";

#[tokio::test]
async fn only_the_groups_in_the_map_count() {
    let slapd = Slapd::start().await;
    slapd.modify(SELF_MADE);
    let map = r"map = { team-l = ['CN=Team-L, OU=Groups,dc=Example,dc=com', 'cn=unix\2dl,ou=groups,dc=example,dc=com'], rest = ['cn=everybody-l,ou=groups,dc=example,dc=com'] }";
    let base = "group_base = 'dc=example,dc=com'";
    for (lines, erin, frank) in [
        (
            "groups = 'member_of'".to_owned(),
            json!(["team-l"]),
            json!(["team-l"]),
        ),
        (
            format!("groups = 'member_of'\n{map}"),
            json!(["team-l"]),
            json!([]),
        ),
        (
            format!("groups = 'group_of_names'\n{base}"),
            json!(["team-l"]),
            json!(["team-l"]),
        ),
        (
            format!("groups = 'group_of_names'\nnested_groups = true\n{base}\n{map}"),
            json!(["rest", "team-l"]),
            json!([]),
        ),
        (
            format!("groups = 'posix'\n{base}\n{map}"),
            json!(["team-l"]),
            json!([]),
        ),
        (
            format!("groups = 'ad_nested'\n{base}\n{map}"),
            json!([]),
            json!([]),
        ),
    ] {
        let lab = builder(BOTH, &slapd.section(&lines)).start().await;
        for (user, groups) in [("erin", erin), ("frank", frank)] {
            let client = lab.anonymous().basic(user, &password(user));
            let is_member = groups.as_array().unwrap().contains(&json!("team-l"));
            let status = client.get("/v2/team-l/app/tags/list").send().await.status;
            assert_eq!(status, if is_member { 404 } else { 403 }, "{user} {lines}");
            recorded(
                &lab,
                user,
                json!({"groups": groups.clone(), "outside_groups": groups, "auth": "ldap"}),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn rules_mean_groups_and_home_folders_in_any_case() {
    let slapd = Slapd::start().await;
    slapd.modify(
        "dn: uid=JDoe,ou=people,dc=example,dc=com\nchangetype: add\nobjectClass: inetOrgPerson\n\
         uid: JDoe\ncn: J\nsn: Doe\nuserPassword: pw-of-jdoe-Xy7\n\n\
         dn: cn=Contractors,ou=groups,dc=example,dc=com\nchangetype: add\n\
         objectClass: groupOfNames\ncn: Contractors\n\
         member: uid=JDoe,ou=people,dc=example,dc=com\n",
    );
    let rules = r#"
[[access]]
repositories = ["outside/**"]
who = ["group:contractors"]
role = "developer"
[[deny]]
repositories = ["outside/prod"]
who = ["group:CONTRACTORS"]
"#;
    let section =
        slapd.section("groups = 'group_of_names'\ngroup_base = 'ou=groups,dc=example,dc=com'");
    let lab = builder(BOTH, &format!("{section}\n{rules}")).start().await;
    for (name, status) in [
        ("outside/app", 404),
        ("outside/prod", 403),
        ("home/jdoe/app", 404),
    ] {
        let path = format!("/v2/{name}/tags/list");
        let call = lab.anonymous().basic("jdoe", "pw-of-jdoe-Xy7").get(&path);
        assert_eq!(call.send().await.status, status, "{name}");
    }
    recorded(&lab, "JDoe", json!({"groups": ["Contractors"]})).await;
    let output = std::process::Command::new(crate::support::lab::PROGRAM)
        .args([
            "explain",
            "--user",
            "JDoe",
            "pull",
            "home/jdoe/app",
            "--config",
        ])
        .arg(lab.folder.join("portcullis.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
