//! Robot keys: made, used within their scope, warned about, revoked.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::hash::{hex, sha256};
use serde_json::Value;

use crate::support::image::{Image, begin_upload};
use crate::support::lab::PROGRAM;
use crate::support::process::{free_port, on_path, skip};
use crate::support::{Answer, Client, Lab, password};

/// Runs `portcullis key`.
fn key(lab: &Lab, line: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .arg("key")
        .args(line.split(' '))
        .arg("--config")
        .arg(lab.folder.join("portcullis.toml"))
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Makes a key, and gives it.
fn create(lab: &Lab, line: &str) -> String {
    let output = key(lab, &format!("create {line}"));
    let text = stdout(&output);
    let made = text.trim().to_owned();
    assert!(made.starts_with("pcl_") && made.len() == 43, "{text}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains(&made));
    made
}

fn ci(lab: &Lab) -> String {
    create(
        lab,
        "--name ci --role developer --repository team-a/** --expires 90d",
    )
}

async fn status(client: &Client, path: &str) -> u16 {
    client.get(path).send().await.status
}

async fn token(client: &Client, scope: &str, more: &str) -> Answer {
    let service = &client.authority;
    let path = format!("/token?service={service}&scope={scope}{more}");
    client.get(&path).send().await
}

fn bearer(lab: &Lab, answer: &Answer) -> Client {
    assert_eq!(answer.status, 200, "{answer:?}");
    lab.anonymous()
        .bearer(answer.json()["token"].as_str().unwrap())
}

#[tokio::test]
async fn keys_made_changed_and_revoked_leave_records() {
    let lab = Lab::start().await;
    let told = async |name: &str, reason: &str| {
        let audit = lab.audit();
        let record = audit.find(reason, |record| {
            record["event"] == "key" && record["user"] == name && record["reason"] == reason
        });
        assert_eq!(record.await["outcome"], "allowed");
    };
    // Nobody uses them meanwhile.
    ci(&lab);
    told("key:ci", "key made").await;
    create(&lab, "other --role guest --repository public/**");
    told("key:other", "key made").await;
    let file = lab.folder.read("keys.toml");
    lab.folder
        .replace("keys.toml", file.replace("team-a/**", "team-a/app"));
    told("key:ci", "key changed").await;
    stdout(&key(&lab, "revoke ci"));
    told("key:ci", "key revoked").await;
    assert_eq!(lab.reload().await, "allowed");
    stdout(&key(&lab, "revoke other"));
    told("key:other", "key revoked").await;
    let records = lab.audit().records();
    let about_keys = records.iter().filter(|record| record["event"] == "key");
    assert_eq!(about_keys.count(), 5);
}

#[tokio::test]
async fn without_a_public_url_clients_get_the_name_in_the_certificate() {
    let lab = Lab::start().await;
    let rest = "--role guest --repository public/** --docker-config";
    let made = key(&lab, &format!("create ci {rest}"));
    let made: Value = serde_json::from_str(&stdout(&made)).unwrap();
    let host = format!("localhost:{}", lab.address.port());
    assert!(made["auths"][&host].is_object(), "{made}");
    let twice = key(&lab, &format!("create ci --name ci {rest}"));
    assert_eq!(twice.status.code(), Some(2));
    assert_eq!(key(&lab, &format!("create {rest}")).status.code(), Some(2));
}

#[tokio::test]
async fn a_key_pulls_and_pushes_within_its_scope_and_nowhere_else() {
    let lab = Lab::start().await;
    let made = ci(&lab);
    let robot = lab.anonymous().basic("ci", &made);
    let ping = robot.get("/v2/").send().await;
    assert_eq!((ping.status, ping.header("warning")), (200, None));
    let image = Image::new(1);
    assert_eq!(image.push(&robot, "team-a/app", "v1").await.status, 201);
    assert_eq!(status(&robot, "/v2/team-a/app/tags/list").await, 200);
    // What everybody may, and nothing that users may.
    assert_eq!(status(&robot, "/v2/public/app/tags/list").await, 404);
    for path in [
        "/v2/team-b/app/tags/list",
        "/v2/home/ci/app/tags/list",
        "/v2/home/key:ci/app/tags/list",
    ] {
        assert!(matches!(status(&robot, path).await, 403 | 404), "{path}");
    }
    let denied = robot.get("/v2/team-b/app/tags/list").send().await;
    denied.assert_problem(403, "DENIED");
    let digest = image.digest();
    let path = format!("/v2/team-a/app/manifests/{digest}");
    robot
        .delete(&path)
        .send()
        .await
        .assert_problem(403, "DENIED");

    let record = lab
        .audit()
        .find("a push by the key", |r| {
            r["auth"] == "key" && r["method"] == "PUT"
        })
        .await;
    assert_eq!(record["user"], "key:ci", "{record}");
    let rule = record["rule"].as_str().unwrap();
    assert!(rule.contains("keys.toml:"), "{record}");
    let hash = hex(&sha256(made.as_bytes()));
    assert!(lab.folder.read("keys.toml").contains(&hash));
    assert!(!lab.folder.read("keys.toml").contains(&made));
    lab.assert_no_secret(&[&made, &hash, &STANDARD.encode(format!("ci:{made}"))]);
}

#[tokio::test]
async fn denies_concern_keys_and_accesses_do_not() {
    let policy = r#"
[[access]]
repositories = ["**"]
who = ["authenticated", "user:ci", "user:key:ci", "group:robots"]
role = "admin"

[[access]]
repositories = ["public/**"]
who = ["anonymous"]
role = "guest"

[[deny]]
repositories = ["**/prod"]
who = ["authenticated"]
actions = ["push"]

[[deny]]
repositories = ["team-a/mine"]
who = ["user:key:ci"]

[groups]
robots = ["key:ci", "ci"]
"#;
    let lab = Lab::builder().policy(policy).start().await;
    let made = ci(&lab);
    let robot = lab.anonymous().basic("ci", &made);
    let begin = async |name: &str| {
        let path = format!("/v2/{name}/blobs/uploads/");
        robot.post(&path).send().await.status
    };
    assert_eq!(begin("team-a/app").await, 202);
    assert_eq!(begin("team-a/prod").await, 403);
    assert_eq!(begin("team-a/mine").await, 403);
    assert_eq!(begin("team-b/app").await, 403);
    assert_eq!(status(&robot, "/v2/team-a/prod/tags/list").await, 404);
    assert_eq!(status(&robot, "/v2/team-b/app/tags/list").await, 403);
    assert_eq!(status(&robot, "/v2/public/app/tags/list").await, 404);

    // `explain` says the same, and that an access for a key is none.
    let explain = |action: &str, name: &str| {
        let mut command = Command::new(PROGRAM);
        command
            .args(["explain", "--user", "key:ci", action, name, "--config"])
            .arg(lab.folder.join("portcullis.toml"));
        command.output().unwrap().status.code().unwrap()
    };
    assert_eq!(explain("push", "team-a/app"), 0);
    assert_eq!(explain("push", "team-a/prod"), 3);
    assert_eq!(explain("pull", "team-b/app"), 3);
}

#[tokio::test]
async fn a_key_is_good_under_its_own_name_only() {
    let lab = Lab::start().await;
    let made = ci(&lab);
    let other = create(&lab, "--name other --role guest --repository **");
    let typo = made.replace("pcl_", "pcl_x");
    let mut wrong = vec![];
    for (user, secret) in [
        ("ci", other.as_str()),
        ("key", &made),
        ("alice", &made),
        ("nosuchkey", &made),
        ("CI", &made),
        ("ci", &typo),
        ("ci", &made[..42]),
    ] {
        let answer = lab.anonymous().basic(user, secret).get("/v2/").send().await;
        answer.assert_problem(401, "UNAUTHORIZED");
        wrong.push(answer.text().replace(&answer.reference(), "REF"));
    }
    // Nobody is told which of them it was, nor is it different from a wrong password.
    let answer = lab.anonymous().basic("alice", "wrong");
    let answer = answer.get("/v2/").send().await;
    wrong.push(answer.text().replace(&answer.reference(), "REF"));
    wrong.dedup();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    // In a form the user could be called anything.
    let form = [
        ("grant_type", "password"),
        ("username", "key:ci"),
        ("password", &made),
        ("client_id", "test"),
    ];
    let answer = lab.anonymous().post("/token").form(&form).send().await;
    assert_eq!(answer.status, 401, "{answer:?}");
    let reasons: Vec<_> = lab
        .audit()
        .records()
        .iter()
        .filter_map(|r| r["reason"].as_str().map(str::to_owned))
        .collect();
    for reason in ["wrong key", "unknown key", "key mistyped"] {
        assert!(reasons.iter().any(|told| told == reason), "{reasons:?}");
    }
}

#[tokio::test]
async fn revocation_is_in_force_at_the_next_request() {
    let lab = Lab::start().await;
    let made = ci(&lab);
    let robot = lab.anonymous().basic("ci", &made);
    let scope = "repository:team-a/app:pull,push";
    let minted = token(&robot, scope, "&offline_token=true").await;
    let by_token = bearer(&lab, &minted);
    let refresh = minted.json()["refresh_token"].as_str().unwrap().to_owned();
    let mut open = by_token.connect().await;
    let path = "/v2/team-a/app/tags/list";
    assert_eq!(open.send(by_token.get(path)).await.status, 404);
    assert_eq!(status(&robot, path).await, 404);
    let session = begin_upload(&by_token, "team-a/app").await;

    stdout(&key(&lab, "revoke ci"));
    // No signal, no waiting: the same connection, the token, the refresh token, the upload.
    assert_eq!(open.send(by_token.get(path)).await.status, 401);
    assert_eq!(status(&robot, path).await, 401);
    assert_eq!(token(&robot, scope, "").await.status, 401);
    assert_eq!(by_token.patch(&session).send().await.status, 401);
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh.as_str()),
        ("client_id", "test"),
    ];
    let answer = lab.anonymous().post("/token").form(&form).send().await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(!key(&lab, "revoke ci").status.success());

    // A new key with the old name does not bring the old one's tokens back.
    let new = ci(&lab);
    assert_eq!(status(&lab.anonymous().basic("ci", &new), path).await, 404);
    assert_eq!(status(&by_token, path).await, 401);
    assert_eq!(status(&robot, path).await, 401);
}

#[tokio::test]
async fn a_narrower_key_narrows_its_tokens() {
    let lab = Lab::start().await;
    let robot = lab.anonymous().basic("ci", &ci(&lab));
    let minted = token(&robot, "repository:team-a/app:pull,push", "").await;
    let by_token = bearer(&lab, &minted);
    let path = "/v2/team-a/app/blobs/uploads/";
    assert_eq!(by_token.post(path).send().await.status, 202);
    let narrower = lab.folder.read("keys.toml").replace("developer", "guest");
    lab.folder.replace("keys.toml", narrower);
    assert_eq!(by_token.post(path).send().await.status, 403);
    assert_eq!(status(&by_token, "/v2/team-a/app/tags/list").await, 404);
    // Neither does a token give what was not the key's to give.
    let minted = token(&robot, "repository:team-b/app:pull", "").await;
    let by_token = bearer(&lab, &minted);
    assert!(matches!(
        status(&by_token, "/v2/team-b/app/tags/list").await,
        401 | 403
    ));
}

/// Sets when the key ends.
fn let_expire(lab: &Lab, when: jiff::Timestamp) {
    let mut lines: Vec<String> = lab
        .folder
        .read("keys.toml")
        .lines()
        .map(str::to_owned)
        .collect();
    lines.retain(|line| !line.starts_with("expires"));
    lines.push(format!("expires = \"{when:.0}\"\n"));
    lab.folder.replace("keys.toml", lines.join("\n"));
}

#[tokio::test]
async fn an_expired_key_is_a_wrong_one_and_an_expiring_one_warns() {
    let lab = Lab::start().await;
    let robot = lab.anonymous().basic("ci", &ci(&lab));
    let now = jiff::Timestamp::now();
    let days = |days: i64| now + jiff::SignedDuration::from_hours(24 * days);
    let path = "/v2/team-a/app/tags/list";

    let_expire(&lab, days(15));
    let answer = robot.get(path).send().await;
    assert_eq!((answer.status, answer.header("warning")), (404, None));

    let_expire(&lab, days(13));
    let date = days(13).strftime("%F").to_string();
    let expected = format!("299 - \"this key expires on {date}; ask for a new one\"");
    let minted = token(&robot, "repository:team-a/app:pull,push", "").await;
    let by_token = bearer(&lab, &minted);
    for answer in [
        robot.get("/v2/").send().await,
        robot.get(path).send().await,
        robot.post("/v2/team-a/app/blobs/uploads/").send().await,
        by_token.get(path).send().await,
        minted,
    ] {
        assert_eq!(
            answer.header("warning"),
            Some(expected.as_str()),
            "{answer:?}"
        );
    }
    assert_eq!(
        lab.user("alice").get(path).send().await.header("warning"),
        None
    );

    // A token does not outlive the key.
    let_expire(&lab, now + jiff::SignedDuration::from_secs(100));
    let minted = token(&robot, "repository:team-a/app:pull", "&offline_token=true").await;
    assert_eq!(minted.status, 200, "{minted:?}");
    let seconds = minted.json()["expires_in"].as_i64().unwrap();
    assert!((1..=100).contains(&seconds), "{seconds}");
    let claims = |name: &str| -> Value {
        let token = minted.json()[name].as_str().unwrap().to_owned();
        let body = token.split('.').nth(1).unwrap().to_owned();
        let body = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body);
        serde_json::from_slice(&body.unwrap()).unwrap()
    };
    let end = now.as_second() + 100;
    for name in ["token", "refresh_token"] {
        assert!(claims(name)["exp"].as_i64().unwrap() <= end, "{name}");
    }
    let by_token = bearer(&lab, &minted);
    assert_eq!(status(&by_token, path).await, 404);

    let_expire(&lab, now - jiff::SignedDuration::from_secs(1));
    for client in [&robot, &by_token] {
        let answer = client.get(path).send().await;
        answer.assert_problem(401, "UNAUTHORIZED");
    }
    let record = lab
        .audit()
        .find("an expired key", |r| r["reason"] == "key expired")
        .await;
    assert_eq!(
        (&record["user"], &record["auth"]),
        (&"key:ci".into(), &"key".into())
    );
    let list = stdout(&key(&lab, "list"));
    assert!(list.contains("EXPIRED"), "{list}");
}

#[tokio::test]
async fn a_key_can_be_bound_to_networks() {
    let lab = Lab::start().await;
    let made = create(
        &lab,
        "--name ci --role guest --repository team-a/** --network 127.0.0.2",
    );
    let path = "/v2/team-a/app/tags/list";
    let elsewhere = lab.anonymous().basic("ci", &made);
    let inside = elsewhere.out_of([127, 0, 0, 2]);
    assert_eq!(status(&inside, path).await, 404);
    assert_eq!(status(&elsewhere, path).await, 401);
    let minted = token(&inside, "repository:team-a/app:pull", "").await;
    let by_token = bearer(&lab, &minted);
    assert_eq!(status(&by_token.out_of([127, 0, 0, 2]), path).await, 404);
    assert_eq!(status(&by_token, path).await, 403);
}

#[tokio::test]
async fn broken_keys_keep_the_old_ones_in_force_and_refuse_a_reload() {
    let lab = Lab::start().await;
    let robot = lab.anonymous().basic("ci", &ci(&lab));
    assert_eq!(status(&robot, "/v2/").await, 200);
    let good = lab.folder.read("keys.toml");
    lab.folder
        .replace("keys.toml", good.replace("developer", "develper"));
    assert_eq!(status(&robot, "/v2/").await, 200);
    assert_eq!(status(&robot, "/v2/").await, 200);
    let log = lab.process.log();
    assert_eq!(log.matches("robot keys cannot be read").count(), 1, "{log}");
    assert!(log.contains("keys.toml:7:8"), "{log}");
    assert_eq!(lab.reload().await, "error");
    assert_eq!(status(&robot, "/v2/").await, 200);
    lab.folder.replace("keys.toml", good);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(status(&robot, "/v2/").await, 200);
}

#[tokio::test]
async fn an_emptied_file_is_none_without_keys() {
    let lab = Lab::start().await;
    let robot = lab.anonymous().basic("ci", &ci(&lab));
    assert_eq!(status(&robot, "/v2/").await, 200);
    let good = lab.folder.read("keys.toml");
    // As an editor that writes in place leaves it for a moment.
    lab.folder.write("keys.toml", "");
    assert_eq!(status(&robot, "/v2/").await, 200);
    assert_eq!(lab.reload().await, "error");
    assert_eq!(status(&robot, "/v2/").await, 200);
    let log = lab.process.log();
    assert!(log.contains("the file of robot keys is empty"), "{log}");
    lab.folder.write("keys.toml", &good);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(status(&robot, "/v2/").await, 200);
    assert!(key(&lab, "revoke ci").status.success());
    assert_eq!(status(&robot, "/v2/").await, 401);
    assert_eq!(lab.reload().await, "allowed");
}

#[tokio::test]
async fn what_others_guess_does_not_keep_a_key_out() {
    let lab = Lab::builder()
        .more("[limits]\nfailed_logins = { count = 2, per = \"60s\" }\n")
        .start()
        .await;
    let robot = lab.anonymous().basic("ci", &ci(&lab));
    let mut seen = vec![];
    for number in 0..4 {
        let wrong = format!("pcl_{number:039}");
        let client = lab.anonymous().basic("ci", &wrong);
        seen.push(status(&client, "/v2/").await);
    }
    assert_eq!(seen, [401, 401, 429, 429]);
    assert_eq!(status(&robot, "/v2/").await, 200);
    assert_eq!(status(&lab.user("alice"), "/v2/").await, 200);
}

#[tokio::test]
async fn the_list_knows_the_last_use() {
    let lab = Lab::start().await;
    let made = ci(&lab);
    create(
        &lab,
        "--name idle --role guest --repository ** --expires never",
    );
    let robot = lab.anonymous().basic("ci", &made);
    assert_eq!(status(&robot, "/v2/").await, 200);
    lab.audit()
        .find("the login", |r| {
            r["user"] == "key:ci" && r["outcome"] == "allowed"
        })
        .await;
    let list: Value = serde_json::from_str(&stdout(&key(&lab, "list --json"))).unwrap();
    let [first, second] = &list.as_array().unwrap()[..] else {
        panic!("{list}")
    };
    assert_eq!(first["name"], "ci");
    assert_eq!(first["repositories"][0], "team-a/**");
    assert!(
        first["last_use"].as_str().unwrap().starts_with("20"),
        "{list}"
    );
    assert!(first["expires_in_days"].as_i64().unwrap() >= 89, "{list}");
    assert_eq!(
        (&second["last_use"], &second["expires"]),
        (&Value::Null, &Value::Null)
    );
    let text = stdout(&key(&lab, "list"));
    let idle = text.lines().find(|line| line.starts_with("idle")).unwrap();
    assert!(
        idle.ends_with("unknown") && idle.contains("never"),
        "{text}"
    );
    assert!(!text.contains(&made) && !list.to_string().contains(&made));
}

#[tokio::test]
async fn clients_are_given_what_they_read() {
    let lab = Lab::start().await;
    let host = lab.authority();
    let line = "--role guest --repository public/** --host";
    let docker = stdout(&key(
        &lab,
        &format!("create --name d {line} {host} --docker-config"),
    ));
    let docker_json: Value = serde_json::from_str(&docker).unwrap();
    let auth = docker_json["auths"][&host]["auth"]
        .as_str()
        .unwrap()
        .to_owned();
    let ping = lab.anonymous().with_authorization(format!("Basic {auth}"));
    assert_eq!(status(&ping, "/v2/").await, 200);

    let secret = stdout(&key(
        &lab,
        &format!("create --name k {line} {host} --kube-secret"),
    ));
    assert!(
        secret.contains("type: kubernetes.io/dockerconfigjson"),
        "{secret}"
    );
    let (_, data) = secret.split_once(".dockerconfigjson: ").unwrap();
    let config: Value = serde_json::from_slice(&STANDARD.decode(data.trim()).unwrap()).unwrap();
    let auth = config["auths"][&host]["auth"].as_str().unwrap();
    let ping = lab.anonymous().with_authorization(format!("Basic {auth}"));
    assert_eq!(status(&ping, "/v2/").await, 200);

    if !on_path("skopeo") {
        return skip("skopeo is not installed");
    }
    let image = Image::new(3);
    let pushed = image.push(&lab.user("ada"), "public/app", "v1").await;
    assert_eq!(pushed.status, 201);
    lab.folder.write("config.json", docker);
    std::fs::create_dir(lab.folder.join("certs")).unwrap();
    lab.folder.write("certs/ca.crt", &lab.pki.ca);
    let mut command = Command::new("skopeo");
    command
        .args(["inspect", "--raw", "--authfile"])
        .arg(lab.folder.join("config.json"))
        .arg("--cert-dir")
        .arg(lab.folder.join("certs"))
        .arg(format!("docker://{host}/public/app:v1"));
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(output.stdout, image.manifest);
    lab.audit()
        .find("a pull by the key", |r| {
            r["user"] == "key:d" && r["action"] == "pull"
        })
        .await;
    assert_eq!(
        status(&lab.anonymous().basic("d", &password("d")), "/v2/").await,
        401
    );
}

#[tokio::test]
async fn a_key_beside_a_certificate_is_the_key() {
    let path = "/v2/team-a/app/tags/list";
    let gate = Lab::builder()
        .client_certificates("mode = \"required\"")
        .token("bind_certificate = true")
        .start()
        .await;
    let machine = gate.pki.client("machine");
    let made = ci(&gate);
    let robot = gate.showing(&machine).basic("ci", &made);
    assert_eq!(status(&robot, path).await, 404);
    assert_eq!(status(&robot, "/v2/team-b/app/tags/list").await, 403);
    let minted = token(&robot, "repository:team-a/app:pull", "").await;
    let minted = minted.json()["token"].as_str().unwrap().to_owned();
    let by_token = gate.showing(&machine).bearer(&minted);
    assert_eq!(status(&by_token, path).await, 404);
    let other = gate.pki.client("other");
    assert_eq!(
        status(&gate.showing(&other).bearer(&minted), path).await,
        401
    );
    stdout(&key(&gate, "revoke ci"));
    assert_eq!(status(&by_token, path).await, 401);

    // Where certificates name users, nobody is two; and none can name a key.
    let naming = Lab::builder()
        .client_certificates("mode = \"optional\"\nusername = [\"subject.cn\"]")
        .start()
        .await;
    let made = ci(&naming);
    for name in ["ci", "alice"] {
        let client = naming.showing(&naming.pki.client(name));
        assert_eq!(
            status(&client.basic("ci", &made), path).await,
            401,
            "{name}"
        );
    }
    let forged = naming.showing(&naming.pki.client("key:ci"));
    assert_eq!(status(&forged, "/v2/").await, 401);
    assert_eq!(status(&forged, path).await, 401);
    assert_eq!(status(&forged.basic("ci", &made), path).await, 404);
}

#[tokio::test]
async fn a_key_or_token_as_the_user_is_never_written() {
    let port = free_port();
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let lab = Lab::builder().log("trace").more(&admin).start().await;
    let made = ci(&lab);
    let minted = token(
        &lab.anonymous().basic("ci", &made),
        "",
        "&offline_token=true",
    )
    .await;
    let minted = minted.json()["refresh_token"].as_str().unwrap().to_owned();
    for secret in [&made, &minted] {
        for user in [
            secret.clone(),
            format!(" {secret} "),
            format!("ci={secret}"),
            format!("{}\u{200b}{}", &secret[..20], &secret[20..]),
        ] {
            for password in ["", "x-oauth-basic", &made] {
                let client = lab.anonymous().basic(&user, password);
                for path in ["/v2/", "/token", "/v2/team-a/app/tags/list"] {
                    assert_eq!(status(&client, path).await, 401, "{path}");
                }
                let form = [
                    ("grant_type", "password"),
                    ("username", user.as_str()),
                    ("password", password),
                    ("client_id", secret.as_str()),
                    ("account", secret.as_str()),
                ];
                let asked = lab.anonymous().post("/token").form(&form);
                assert_eq!(asked.send().await.status, 401);
            }
        }
    }
    let account = format!("&account={made}&client_id={made}");
    let answer = token(&lab.anonymous().basic("ci", &made), "", &account).await;
    assert_eq!(answer.status, 200);
    lab.audit()
        .find("a masked name", |record| record["user"] == "****")
        .await;
    let admin = Client::plain(SocketAddr::from(([127, 0, 0, 1], port)));
    for path in ["/status", "/status.json", "/metrics"] {
        let page = admin.get(path).send().await;
        let page = String::from_utf8(page.body.to_vec()).unwrap();
        for secret in [&made, &minted] {
            assert!(!page.contains(&secret[..20]), "{path}");
        }
    }
    lab.assert_no_secret(&[&made, &minted, &made[..20]]);
}

#[tokio::test]
async fn records_say_what_their_user_is() {
    let lab = Lab::start().await;
    let made = ci(&lab);
    let path = "/v2/team-a/app/tags/list";
    let robot = lab.anonymous().basic("ci", &made);
    let by_token = bearer(&lab, &token(&robot, "repository:team-a/app:pull", "").await);
    for (client, user, kind, auth) in [
        (lab.user("alice"), "alice", "person", "htpasswd"),
        (robot, "key:ci", "robot", "key"),
        (by_token, "key:ci", "robot", "token"),
    ] {
        client.get(path).send().await;
        lab.audit()
            .find(kind, |r| {
                r["user"] == user && r["kind"] == kind && r["auth"] == auth && r["object"] == "tags"
            })
            .await;
    }
    lab.anonymous()
        .basic("alice", "wrong")
        .get(path)
        .send()
        .await;
    lab.audit()
        .find("a claim", |r| {
            r["outcome"] == "failed" && r["user"] == "alice" && r["kind"] == "person"
        })
        .await;
}
