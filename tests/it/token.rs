//! The token service, as docker, containerd and skopeo use it.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::http::{Outgoing, escape};
use crate::support::image::{begin_upload, digest, finish_upload, noise, under_way};
use crate::support::lab::htpasswd;
use crate::support::{Answer, Client, Lab, password};

/// A GET as docker sends it.
async fn ask(client: &Client, scopes: &[&str], more: &str) -> Answer {
    let service = escape(&client.authority);
    let scopes: String = scopes
        .iter()
        .map(|scope| format!("&scope={}", escape(scope)))
        .collect();
    let path = format!("/token?client_id=test&service={service}{scopes}{more}");
    client.get(&path).send().await
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn text(answer: &Answer, key: &str) -> String {
    answer.json()[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key}: {answer:?}"))
        .to_owned()
}

/// What was granted: repository and sorted actions.
fn granted(answer: &Answer) -> Vec<(String, Vec<String>)> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let claims = claims(&text(answer, "token"));
    let entries = claims["access"].as_array().cloned().unwrap_or_default();
    let mut out: Vec<_> = entries
        .iter()
        .map(|entry| {
            let actions = entry["actions"].as_array().unwrap().iter();
            let mut actions: Vec<_> = actions.map(|a| a.as_str().unwrap().to_owned()).collect();
            actions.sort();
            (entry["name"].as_str().unwrap().to_owned(), actions)
        })
        .filter(|(_, actions)| !actions.is_empty())
        .collect();
    out.sort();
    out
}

fn grant(name: &str, actions: &[&str]) -> (String, Vec<String>) {
    (
        name.to_owned(),
        actions.iter().map(|&action| action.to_owned()).collect(),
    )
}

#[tokio::test]
async fn a_token_has_everything_clients_look_for() {
    let lab = Lab::start().await;
    let answer = ask(&lab.user("alice"), &["repository:team-a/app:pull,push"], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    assert_eq!(json["token"], json["access_token"]);
    assert_eq!(json["expires_in"], 300);
    assert!(
        text(&answer, "issued_at")
            .parse::<jiff::Timestamp>()
            .is_ok(),
        "{json}"
    );
    assert_eq!(json["refresh_token"], Value::Null);
    let claims = claims(&text(&answer, "token"));
    assert_eq!(
        (&claims["sub"], &claims["aud"]),
        (&json!("alice"), &json!(lab.authority()))
    );
}

#[tokio::test]
async fn a_token_opens_what_its_user_may() {
    let lab = Lab::start().await;
    let token = lab.token("alice", "repository:team-a/app:pull,push").await;
    let alice = lab.anonymous().bearer(&token);
    assert_eq!(alice.get("/v2/").send().await.status, 200);
    let begun = alice.post("/v2/team-a/app/blobs/uploads/").send().await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let other = alice.get("/v2/team-b/app/tags/list").send().await;
    assert!(matches!(other.status, 401 | 403), "{other:?}");
}

#[tokio::test]
async fn the_grant_is_what_was_asked_and_what_is_allowed() {
    let lab = Lab::start().await;
    let (alice, gina) = (lab.user("alice"), lab.user("gina"));
    let both = &["pull", "push"];
    let all = ["delete", "pull", "push"];
    let cases: [(&Client, &[&str], _); 12] = [
        (
            &alice,
            &["repository:team-a/app:pull,push"],
            vec![grant("team-a/app", both)],
        ),
        (
            &gina,
            &["repository:team-a/app:pull,push"],
            vec![grant("team-a/app", &["pull"])],
        ),
        (&alice, &["repository:team-b/app:pull,push"], vec![]),
        // containerd asks twice for the same.
        (
            &alice,
            &[
                "repository:team-a/app:pull",
                "repository:team-a/app:pull,push",
            ],
            vec![grant("team-a/app", both)],
        ),
        // One parameter may hold several scopes.
        (
            &alice,
            &["repository:team-a/a:pull repository:team-a/b:push,pull"],
            vec![grant("team-a/a", &["pull"]), grant("team-a/b", both)],
        ),
        // docker's mount asks for the source too; bob's is not alice's.
        (
            &alice,
            &[
                "repository:team-a/app:push,pull",
                "repository:team-b/app:pull",
            ],
            vec![grant("team-a/app", both)],
        ),
        // skopeo deletes with `*`.
        (
            &lab.user("mona"),
            &["repository:team-a/app:*"],
            vec![grant("team-a/app", &all)],
        ),
        (&alice, &["repository:team-a/app:delete"], vec![]),
        (
            &alice,
            &["repository(plugin):team-a/app:pull"],
            vec![grant("team-a/app", &["pull"])],
        ),
        // Unknown types and actions are dropped, never an error.
        (
            &alice,
            &["repository:team-a/app:pull,frobnicate", "x:y:z"],
            vec![grant("team-a/app", &["pull"])],
        ),
        (
            &alice,
            &[
                "junk",
                "",
                ":::",
                "repository:../x:pull",
                "repository:UPPER:pull",
            ],
            vec![],
        ),
        (&alice, &[], vec![]),
    ];
    for (client, scopes, expected) in cases {
        let answer = ask(client, scopes, "").await;
        let seen = granted(&answer);
        // A wildcard may be answered with the wildcard or with what it stands for.
        let wild = scopes.iter().any(|scope| scope.ends_with('*'));
        if wild && seen == [grant("team-a/app", &["*"])] {
            continue;
        }
        assert_eq!(seen, expected, "{scopes:?}");
    }
}

#[tokio::test]
async fn anonymous_tokens_are_for_what_is_public() {
    let lab = Lab::start().await;
    let nobody = lab.anonymous();
    let public = ask(&nobody, &["repository:public/app:pull,push"], "").await;
    assert_eq!(granted(&public), [grant("public/app", &["pull"])]);
    let bearer = nobody.bearer(&text(&public, "token"));
    assert_eq!(bearer.get("/v2/").send().await.status, 200);
    assert_eq!(
        bearer.get("/v2/public/app/tags/list").send().await.status,
        404
    );
    let private = bearer.get("/v2/team-a/app/tags/list").send().await;
    assert_eq!(private.status, 401, "{private:?}");
    // An empty scope without credentials is a login check that failed.
    ask(&nobody, &[], "")
        .await
        .assert_problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn wrong_credentials_never_become_an_anonymous_token() {
    let lab = Lab::start().await;
    let wrong = lab.anonymous().basic("alice", "wrong");
    let answer = ask(&wrong, &["repository:public/app:pull"], "").await;
    answer.assert_problem(401, "UNAUTHORIZED");
    let service = lab.authority();
    let form = [
        ("grant_type", "password"),
        ("service", &service),
        ("client_id", "containerd-client"),
        ("username", "alice"),
        ("password", "wrong"),
        ("scope", "repository:public/app:pull"),
    ];
    lab.anonymous()
        .post("/token")
        .form(&form)
        .send()
        .await
        .assert_problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn the_form_grants_a_password_and_refreshes() {
    let lab = Lab::start().await;
    let service = lab.authority();
    let secret = password("alice");
    let form = [
        ("grant_type", "password"),
        ("service", &service),
        ("client_id", "containerd-client"),
        ("username", "alice"),
        ("password", &secret),
        ("access_type", "offline"),
        (
            "scope",
            "repository:team-a/app:pull repository:team-a/app:pull,push",
        ),
    ];
    let answer = lab.anonymous().post("/token").form(&form).send().await;
    assert_eq!(granted(&answer), [grant("team-a/app", &["pull", "push"])]);
    assert!(
        text(&answer, "scope").contains("repository:team-a/app:"),
        "{answer:?}"
    );
    assert!(answer.json()["expires_in"].as_u64().unwrap() >= 60);
    let refresh = text(&answer, "refresh_token");

    let again = refresh_with(&lab, &refresh, "repository:team-a/app:pull").await;
    assert_eq!(granted(&again), [grant("team-a/app", &["pull"])]);
    let alice = lab.anonymous().bearer(&text(&again, "access_token"));
    assert_eq!(
        alice.get("/v2/team-a/app/tags/list").send().await.status,
        404
    );
}

async fn refresh_with(lab: &Lab, token: &str, scope: &str) -> Answer {
    let service = lab.authority();
    let form = [
        ("grant_type", "refresh_token"),
        ("service", service.as_str()),
        ("client_id", "docker"),
        ("scope", scope),
        ("refresh_token", token),
    ];
    lab.anonymous().post("/token").form(&form).send().await
}

async fn refresh_token(lab: &Lab, user: &str) -> String {
    // What `docker login` sends: no scope.
    let answer = ask(
        &lab.user(user),
        &[],
        &format!("&account={user}&offline_token=true"),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    text(&answer, "refresh_token")
}

#[tokio::test]
async fn a_refresh_token_is_no_access_token_and_the_other_way_round() {
    let lab = Lab::start().await;
    let refresh = refresh_token(&lab, "alice").await;
    let as_access = lab.anonymous().bearer(&refresh).get("/v2/").send().await;
    as_access.assert_problem(401, "UNAUTHORIZED");
    let access = lab.token("alice", "repository:team-a/app:pull").await;
    let as_refresh = refresh_with(&lab, &access, "repository:team-a/app:pull").await;
    assert!(matches!(as_refresh.status, 400 | 401), "{as_refresh:?}");
}

/// However often it is refreshed, and whatever the configuration says later.
#[tokio::test]
async fn a_session_ends_its_lifetime_after_its_login_and_is_on_record() {
    let lab = Lab::builder()
        .token("refresh_lifetime = \"5s\"")
        .start()
        .await;
    let first = refresh_token(&lab, "alice").await;
    let login = claims(&first);
    let scope = "repository:team-a/app:pull";
    let mut last = first.clone();
    let refused = loop {
        let answer = refresh_with(&lab, &last, scope).await;
        if answer.status != 200 {
            break answer;
        }
        let access = claims(&text(&answer, "access_token"));
        assert_eq!(access["session"], login["session"]);
        assert!(access["exp"].as_i64() <= login["exp"].as_i64());
        let name = &access["jti"];
        let audit = lab.audit();
        let record = audit.find("the token", |one| one["jti"] == *name).await;
        assert_eq!(record["session"], login["session"]);
        // docker presents the first one all the time, others the newest; both go on.
        last = match answer.json()["refresh_token"].as_str() {
            Some(newer) => newer.to_owned(),
            None => first.clone(),
        };
        assert!(claims(&last)["exp"].as_i64() <= login["exp"].as_i64());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(matches!(refused.status, 400 | 401), "{refused:?}");
}

#[tokio::test]
async fn tokens_and_uploads_of_an_older_key_outlive_its_replacement() {
    let key = || rcgen::KeyPair::generate().unwrap().serialize_pem();
    let folder = crate::support::folder::Folder::new();
    let signing = folder.write("token.key", key());
    let older = folder.write("token-old.key", key());
    let lines = format!(
        "signing_key = \"{}\"\nverify_keys = [\"{}\"]",
        signing.display(),
        older.display()
    );
    let lab = Lab::builder().token(&lines).start().await;
    let refresh = refresh_token(&lab, "alice").await;
    let scope = "repository:team-a/app:pull,push";
    let token = lab.token("alice", scope).await;
    let alice = lab.anonymous().bearer(&token);
    let session = begin_upload(&alice, "team-a/app").await;
    folder.replace("token-old.key", folder.read("token.key"));
    folder.replace("token.key", key());
    assert_eq!(lab.reload().await, "allowed");
    let blob = noise(1, 1_000);
    let done = finish_upload(&alice, &session, blob.clone(), &digest(&blob)).await;
    assert_eq!(done.status, 201, "{done:?}");
    let refreshed = refresh_with(&lab, &refresh, scope).await;
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    let fresh = text(&refreshed, "access_token");
    assert_ne!(fresh.split('.').next(), token.split('.').next());
    folder.replace("token-old.key", key());
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(alice.get("/v2/").send().await.status, 401);
    let alice = lab.anonymous().bearer(&fresh);
    assert_eq!(alice.get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn refresh_tokens_can_be_turned_off() {
    let lab = Lab::builder()
        .token("refresh_lifetime = \"0s\"")
        .start()
        .await;
    let answer = ask(&lab.user("alice"), &[], "&offline_token=true").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["refresh_token"], Value::Null);
}

#[tokio::test]
async fn tampered_and_foreign_tokens_are_refused() {
    let lab = Lab::start().await;
    let other = Lab::start().await;
    let token = lab.token("alice", "repository:team-a/app:pull").await;
    let foreign = other.token("alice", "repository:team-a/app:pull").await;
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("not three parts")
    };
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let mut ada = claims(&token);
    ada["sub"] = json!("ada");
    let ada = URL_SAFE_NO_PAD.encode(ada.to_string());
    let forged = [
        foreign,
        format!("{none}.{body}."),
        format!("{none}.{body}.{signature}"),
        format!("{hmac}.{body}.{signature}"),
        format!("{head}.{ada}.{signature}"),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        format!("{token}x"),
    ];
    for token in forged {
        let answer = lab.anonymous().bearer(&token).get("/v2/").send().await;
        answer.assert_problem(401, "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn a_token_for_another_service_is_not_given_out() {
    let lab = Lab::start().await;
    let path = "/token?service=elsewhere.example&scope=repository:team-a/app:pull";
    let answer = lab.user("alice").get(path).send().await;
    if answer.status == 200 {
        let token = text(&answer, "token");
        let used = lab.anonymous().bearer(&token).get("/v2/").send().await;
        assert_eq!(used.status, 401, "{used:?}");
    } else {
        assert!(matches!(answer.status, 400 | 401 | 403), "{answer:?}");
    }
}

#[tokio::test]
async fn account_is_never_taken_for_the_user() {
    let lab = Lab::start().await;
    let answer = ask(
        &lab.user("gina"),
        &["repository:team-b/app:pull"],
        "&account=ada",
    )
    .await;
    if answer.status == 200 {
        assert_eq!(claims(&text(&answer, "token"))["sub"], "gina");
        assert_eq!(granted(&answer), []);
    } else {
        assert!(matches!(answer.status, 400 | 401), "{answer:?}");
    }
}

#[tokio::test]
async fn oauth_clients_are_told_in_their_own_words() {
    let lab = Lab::start().await;
    let service = lab.authority();
    let post = |fields: &[(&str, &str)]| lab.anonymous().post("/token").form(fields).send();
    let answer = post(&[("service", &service)]).await;
    assert_eq!(
        (answer.status, text(&answer, "error").as_str()),
        (400, "invalid_request")
    );
    let odd = [("service", service.as_str()), ("grant_type", "magic")];
    let answer = post(&odd).await;
    assert_eq!(
        (answer.status, text(&answer, "error").as_str()),
        (400, "unsupported_grant_type")
    );
    for credential in [
        &[("grant_type", "refresh_token"), ("refresh_token", "a.b.c")][..],
        &[
            ("grant_type", "password"),
            ("username", "alice"),
            ("password", "wrong"),
        ],
    ] {
        let fields = [&[("service", service.as_str())][..], credential].concat();
        let answer = post(&fields).await;
        answer.assert_problem(401, "UNAUTHORIZED");
        assert_eq!(text(&answer, "error"), "invalid_grant");
    }
}

#[tokio::test]
async fn many_scopes_are_granted_and_far_too_many_are_left_out() {
    let lab = Lab::start().await;
    let scopes: Vec<_> = (0..100)
        .map(|number| format!("repository:team-a/{number}:pull"))
        .collect();
    let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
    for (asked, expected) in [(40, 40), (64, 64), (100, 64)] {
        let answer = ask(&lab.user("alice"), &scopes[..asked], "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(granted(&answer).len(), expected);
    }
}

#[tokio::test]
async fn other_forms_and_methods_are_refused() {
    let lab = Lab::start().await;
    let service = lab.authority();
    let unknown = [
        ("grant_type", "device_code"),
        ("service", &service),
        ("client_id", "x"),
    ];
    let answer = lab.anonymous().post("/token").form(&unknown).send().await;
    // Not 401 with a challenge for a retry, and above all no token.
    assert!((400..500).contains(&answer.status), "{answer:?}");
    let empty = lab.anonymous().post("/token").send().await;
    assert!((400..500).contains(&empty.status), "{empty:?}");
    let put = lab.user("alice").put("/token").send().await;
    assert!(matches!(put.status, 404 | 405), "{put:?}");
    let huge = format!("grant_type=password&username={}", "x".repeat(1 << 20));
    let answer = lab
        .anonymous()
        .post("/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(huge))
        .try_send()
        .await;
    // The connection may be cut while the rest is still being sent.
    if let Ok(answer) = answer {
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
}

#[tokio::test]
async fn a_removed_user_loses_password_and_tokens_at_once() {
    let lab = Lab::start().await;
    let refresh = refresh_token(&lab, "bob").await;
    let access = lab.token("bob", "repository:team-b/app:pull").await;
    let mut open = lab.user("bob").connect().await;
    assert_eq!(open.send(lab.user("bob").get("/v2/")).await.status, 200);

    let rest = lab.folder.read("htpasswd");
    let rest: String = rest
        .lines()
        .filter(|line| !line.starts_with("bob:"))
        .map(|line| format!("{line}\n"))
        .collect();
    lab.folder.replace("htpasswd", rest);
    assert_eq!(lab.reload().await, "allowed");

    assert_eq!(open.send(lab.user("bob").get("/v2/")).await.status, 401);
    assert_eq!(lab.user("bob").get("/v2/").send().await.status, 401);
    assert_eq!(
        lab.anonymous()
            .bearer(&access)
            .get("/v2/")
            .send()
            .await
            .status,
        401
    );
    assert_eq!(
        refresh_with(&lab, &refresh, "repository:team-b/app:pull")
            .await
            .status,
        401
    );
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn a_changed_password_kills_the_old_one_and_its_tokens() {
    let lab = Lab::start().await;
    let refresh = refresh_token(&lab, "bob").await;
    let access = lab.token("bob", "repository:team-b/app:pull").await;
    let kept = refresh_token(&lab, "alice").await;
    let changed: String = lab
        .folder
        .read("htpasswd")
        .lines()
        .map(|line| match line.starts_with("bob:") {
            true => htpasswd(&[("bob", "another-pw")]),
            false => format!("{line}\n"),
        })
        .collect();
    lab.folder.replace("htpasswd", changed);
    assert_eq!(lab.reload().await, "allowed");

    assert_eq!(lab.user("bob").get("/v2/").send().await.status, 401);
    assert_eq!(
        lab.anonymous()
            .basic("bob", "another-pw")
            .get("/v2/")
            .send()
            .await
            .status,
        200
    );
    assert_eq!(
        refresh_with(&lab, &refresh, "repository:team-b/app:pull")
            .await
            .status,
        401
    );
    assert_eq!(
        lab.anonymous()
            .bearer(&access)
            .get("/v2/")
            .send()
            .await
            .status,
        401
    );
    assert_eq!(
        refresh_with(&lab, &kept, "repository:team-a/app:pull")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_withdrawn_right_ends_what_an_old_token_may() {
    let lab = Lab::start().await;
    let token = lab.token("gina", "repository:team-a/app:pull").await;
    let gina = lab.anonymous().bearer(&token);
    assert_eq!(
        gina.get("/v2/team-a/app/tags/list").send().await.status,
        404
    );
    let config = lab.config().replace("user:gina", "user:someone-else");
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    gina.get("/v2/team-a/app/tags/list")
        .send()
        .await
        .assert_problem(403, "DENIED");
    // Somebody still, with no right.
    assert_eq!(gina.get("/v2/").send().await.status, 200);
}

/// Clients assume that a token lasts a minute: shorter ones are for tests alone.
#[tokio::test]
async fn a_push_begun_before_its_token_expired_completes() {
    let lab = Lab::builder()
        .environment("PORTCULLIS_TEST_SHORTEST_TOKEN", "5")
        .token("lifetime = \"5s\"")
        .start()
        .await;
    let token = lab.token("alice", "repository:team-a/app:pull,push").await;
    let alice = lab.anonymous().bearer(&token);
    let blob = noise(1, 300_000);
    let session = begin_upload(&alice, "team-a/app").await;
    let (feeder, body) = Outgoing::fed();
    let sent = tokio::spawn(alice.patch(&session).body(body).send());
    feeder.send(Ok(blob.slice(..200_000))).await.unwrap();
    under_way(&lab.folder, &session).await;
    let mut fed = 200_000;
    while alice.get("/v2/").send().await.status == 200 {
        // A push that is alive, if only just.
        feeder.send(Ok(blob.slice(fed..fed + 100))).await.unwrap();
        fed += 100;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    feeder.send(Ok(blob.slice(fed..))).await.unwrap();
    drop(feeder);
    let answer = sent.await.unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    // The session was begun with the token, so it also ends with it; nothing else does.
    let elsewhere = alice.get("/v2/team-a/app/tags/list").send().await;
    let challenge = elsewhere.header("www-authenticate").unwrap_or_default();
    assert!(
        challenge.contains("error=\"invalid_token\""),
        "{elsewhere:?}"
    );
    let begun = alice.post("/v2/team-a/app/blobs/uploads/").send().await;
    begun.assert_problem(401, "UNAUTHORIZED");
    let done = finish_upload(&alice, &answer.location(), Bytes::new(), &digest(&blob)).await;
    assert_eq!(done.status, 201, "{done:?}");
}

#[tokio::test]
async fn a_signing_key_makes_tokens_outlive_a_restart() {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let folder = crate::support::folder::Folder::new();
    let path = folder.write("token.key", key);
    let lines = format!("signing_key = \"{}\"", path.display());
    let first = Lab::builder().token(&lines).start().await;
    let second = Lab::builder().token(&lines).start().await;
    // Not the same host, so a token of one is not for the other; the key loads all the same.
    let token = first.token("alice", "repository:team-a/app:pull").await;
    assert_eq!(
        first
            .anonymous()
            .bearer(&token)
            .get("/v2/")
            .send()
            .await
            .status,
        200
    );
    assert_eq!(
        second
            .anonymous()
            .bearer(&token)
            .get("/v2/")
            .send()
            .await
            .status,
        401
    );
    // Asked under the first one's name and with its passwords, the second one is the same service
    // after a restart.
    second
        .folder
        .replace("htpasswd", first.folder.read("htpasswd"));
    assert_eq!(second.reload().await, "allowed");
    let mut client = second.anonymous().bearer(&token);
    client.authority = first.authority();
    assert_eq!(client.get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn without_a_signing_key_tokens_outlive_a_restart_too() {
    let mut lab = Lab::start().await;
    let token = lab.token("alice", "repository:team-a/app:pull").await;
    let kept = lab.folder.join("token.key");
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = async |lab: &Lab| {
        let bearer = lab.anonymous().bearer(&token);
        bearer.get("/v2/").send().await.status
    };
    lab.restart().await;
    assert_eq!(status(&lab).await, 200);
    // What is no key is told of, stays as it is, and keeps nobody from logging in.
    lab.folder.replace("token.key", "no key");
    lab.restart().await;
    assert_eq!(status(&lab).await, 401);
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    assert!(lab.process.log().contains("token.signing_key"));
    assert_eq!(std::fs::read(&kept).unwrap(), b"no key");
}
