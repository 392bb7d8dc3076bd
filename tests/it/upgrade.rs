//! Files, tokens, upload sessions and shared counts of the first edition go on being good: the corpus
//! in `tests/old` was made by its binary.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use portcullis::token::{Keys, Kind};
use rustix::process::Signal;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use crate::support::folder::Folder;
use crate::support::lab::PROGRAM;
use crate::support::pki::Pair;
use crate::support::process::{Process, free_port};
use crate::support::redis::Redis;
use crate::support::{Answer, Client, Reply, Upstream, eventually, eventually_async};

const HOST: &str = "registry.example.com";
const DEPLOY: &str = "spiffe://example.com/ns/ci/sa/deploy";
const KEYED: [&str; 4] = ["--key-file", "chain.key", "--public-key", "checkpoint.pub"];

/// The files of the first edition, in a folder of the test's own.
struct Old(Folder);

impl Old {
    fn new() -> Self {
        let folder = Folder::new();
        copy(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old/first-edition"),
            folder.path(),
        );
        Self(folder)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.0.read(name)).unwrap()
    }

    fn password(&self, user: &str) -> String {
        let secrets = self.json("secrets.json");
        secrets["passwords"][user].as_str().unwrap().to_owned()
    }

    fn robot(&self, name: &str) -> String {
        let secrets = self.json("secrets.json");
        secrets["robots"][name].as_str().unwrap().to_owned()
    }

    fn pair(&self, name: &str) -> Pair {
        Pair {
            certificate: self.0.read(&format!("{name}.pem")),
            key: self.0.read(&format!("{name}.key")),
        }
    }

    /// Runs a command beside the files.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command.current_dir(self.0.path()).output().unwrap()
    }

    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {said}{text}");
        text
    }

    /// Files of a trail, the oldest first; what stands beside them is none of it.
    fn trail(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(name)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let is_part = |file: &String| {
            let beside = [".chain", ".torn", ".lock"];
            file.starts_with("audit") && !beside.iter().any(|mark| file.contains(mark))
        };
        let mut files: Vec<_> = names
            .filter(is_part)
            .map(|file| format!("{name}/{file}"))
            .collect();
        let first = |file: &String| {
            let line: Value =
                serde_json::from_str(self.0.read(file).lines().next().unwrap()).unwrap();
            line["seq"].as_u64()
        };
        files.sort_by_key(first);
        files
    }

    fn records(&self, name: &str) -> Vec<Value> {
        let files = self.trail(name);
        let texts: String = files.iter().map(|file| self.0.read(file)).collect();
        let lines = texts.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn verify(&self, name: &str, more: &[&str]) -> Output {
        let files = self.trail(name);
        let words = ["audit", "verify", "--json"].iter().chain(more).copied();
        let words: Vec<_> = words.chain(files.iter().map(String::as_str)).collect();
        self.run(&words)
    }

    fn verified(&self, name: &str, more: &[&str]) -> Value {
        let output = self.verify(name, more);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
        serde_json::from_str(&said).unwrap()
    }

    /// The program of today with the configuration of then, but for the addresses and `changes`.
    async fn serve(&self, upstream: &Upstream, redis: &Redis, changes: &[(&str, &str)]) -> Today {
        loop {
            let port = free_port();
            let mut config = self.0.read("portcullis.toml");
            let (listen, upstream) = (format!("127.0.0.1:{port}"), upstream.address.to_string());
            let store = format!("127.0.0.1:{}", redis.service.plain);
            let addresses = [
                ("127.0.0.1:8443", &*listen),
                ("127.0.0.1:5000", &*upstream),
                // A busy machine may stop a server for longer than the usual time-out.
                (
                    "127.0.0.1:6379/0\"",
                    &format!("{store}/0\"\ntimeout = \"2s\""),
                ),
            ];
            for (old, new) in addresses.iter().chain(changes) {
                assert!(config.contains(old), "{old}");
                config = config.replace(old, new);
            }
            self.0.write("today.toml", config);
            let mut command = Command::new(PROGRAM);
            command.args(["serve", "--config"]);
            command.arg(self.0.join("today.toml"));
            let mut process = Process::start(&mut command, &self.0.join("today.log"));
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if process.listens(address).await.is_ok() {
                let mut client = Client::tls(address, &self.0.read("ca.pem"));
                HOST.clone_into(&mut client.authority);
                let ca = self.0.read("ca.pem");
                return Today {
                    process,
                    client,
                    ca,
                };
            }
            let log = process.log();
            assert!(log.to_lowercase().contains("in use"), "{log}");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
            continue;
        }
        std::fs::copy(entry.path(), &target).unwrap();
        // A checkout makes files that everybody may read.
        let mode = match target.extension().is_some_and(|end| end == "key") {
            true => 0o600,
            false => 0o644,
        };
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// The proxy of today.
struct Today {
    process: Process,
    client: Client,
    ca: String,
}

impl Today {
    fn showing(&self, pair: &Pair) -> Client {
        self.client
            .showing_by(&self.ca, pair, &rustls::version::TLS13)
    }

    async fn end(mut self) {
        self.process.signal(Signal::TERM);
        assert!(
            self.process.wait().await.success(),
            "{}",
            self.process.log()
        );
    }
}

/// A registry that has every manifest, and takes every upload.
async fn registry() -> Upstream {
    Upstream::start(|seen| {
        let digest = format!("Docker-Content-Digest: sha256:{}", "a".repeat(64));
        let path = seen.target().split('?').next().unwrap_or_default();
        let head = match seen.method() {
            "POST" => format!("202 Accepted\r\nLocation: {path}u-1?_state=begun\r\nRange: 0-0"),
            "PATCH" => format!("202 Accepted\r\nLocation: {path}?_state=next\r\nRange: 0-1"),
            "PUT" => format!("201 Created\r\nLocation: {path}\r\n{digest}"),
            _ => format!("200 OK\r\n{digest}"),
        };
        let body = if seen.method() == "GET" { "{}" } else { "" };
        let length = body.len();
        Reply::Say(
            format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes(),
        )
    })
    .await
}

#[tokio::test]
async fn a_configuration_of_the_first_edition_is_good() {
    let old = Old::new();
    let report = old.good(&["check", "--json", "--config", "portcullis.toml"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    let (upstream, redis) = (registry().await, Redis::start().await);
    let today = old.serve(&upstream, &redis, &[]).await;
    for user in ["alice", "JDoe", "CORP\\jdoe"] {
        let client = today.client.basic(user, &old.password(user));
        assert_eq!(client.get("/v2/").send().await.status, 200, "{user}");
    }
    for robot in ["ci", "Mirror.2_x"] {
        let client = today.client.basic(robot, &old.robot(robot));
        let pull = client.get("/v2/team-a/app/manifests/v1").send().await;
        assert_eq!(pull.status, 200, "{robot}: {pull:?}");
    }
    let deploy = today.showing(&old.pair("client-deploy"));
    let pull = deploy.get("/v2/spiffe/app/manifests/v1").send().await;
    assert_eq!(pull.status, 200, "{pull:?}");
    today.end().await;
}

#[test]
fn trails_of_the_first_edition_verify_and_are_reported_as_then() {
    let old = Old::new();
    for (name, more) in [("plain", &[][..]), ("keyed", &KEYED)] {
        // Of records, and of a trail as a whole, more may be said than then, and nothing else.
        assert!(old.records(name).iter().all(|one| one["schema"].is_null()));
        let then = old.json(&format!("{name}/verified.json"));
        let now = old.verified(name, more);
        assert_covers(&now, &then, "");
        let files = old.trail(name);
        let words: Vec<_> = ["audit", "report", "--json"]
            .into_iter()
            .chain(files.iter().map(String::as_str))
            .collect();
        let mut now: Value = serde_json::from_str(&old.good(&words)).unwrap();
        let mut then = old.json(&format!("{name}/reported.json"));
        for report in [&mut now, &mut then] {
            let report = report.as_object_mut().unwrap();
            // What depends on the day on which it is asked for, or is only said about the rest.
            for key in ["generated", "findings", "unused", "files"] {
                report.remove(key);
            }
        }
        assert_covers(&now, &then, "");
    }
}

/// Everything that was said then is said now, with the same words.
#[track_caller]
fn assert_covers(now: &Value, then: &Value, place: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (key, then) in then {
                let now = now.get(key).unwrap_or(&Value::Null);
                assert_covers(now, then, &format!("{place}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(then)) if now.len() == then.len() => {
            for (at, (now, then)) in now.iter().zip(then).enumerate() {
                assert_covers(now, then, &format!("{place}.{at}"));
            }
        }
        (now, then) => assert_eq!(now, then, "{place}"),
    }
}

/// Something that is done to a file.
type Change = fn(&str) -> String;

#[test]
fn a_trail_of_the_first_edition_that_was_tampered_with_does_not_verify() {
    for (name, more) in [("plain", &[][..]), ("keyed", &KEYED)] {
        let breaks: [(&str, Change); 3] = [
            ("an edit", |text| {
                text.replacen("team-a/app", "team-b/app", 1)
            }),
            ("a gap", |text| {
                let mut lines: Vec<_> = text.lines().collect();
                lines.remove(2);
                lines.join("\n") + "\n"
            }),
            ("an end cut off", |text| {
                let end = text.trim_end().rfind('\n').unwrap();
                text[..=end].to_owned()
            }),
        ];
        for (what, change) in breaks {
            let old = Old::new();
            let last = format!("{name}/audit.jsonl");
            let text = old.0.read(&last);
            old.0.replace(&last, change(&text));
            assert_eq!(
                old.verify(name, more).status.code(),
                Some(1),
                "{name}: {what}"
            );
        }
    }
    let old = Old::new();
    old.0.write("chain.key", [7; 48]);
    assert_eq!(old.verify("keyed", &KEYED).status.code(), Some(1));
}

#[tokio::test]
async fn a_trail_that_the_first_edition_began_goes_on_as_one_chain() {
    let (upstream, redis) = (registry().await, Redis::start().await);
    let plain = [
        ("keyed/audit.jsonl", "plain/audit.jsonl"),
        ("key_file = \"chain.key\"", ""),
        ("signing_key = \"checkpoint.key\"", ""),
    ];
    let keyed = [("drain_timeout = \"20s\"", "drain_timeout = \"10s\"")];
    for (name, more, changes) in [("plain", &[][..], &plain[..]), ("keyed", &KEYED, &keyed)] {
        let old = Old::new();
        let before = old.records(name);
        let beside = format!("{name}/audit.jsonl.chain");
        let chain = old.0.read(&beside);
        // Twice, moved in between.
        let today = old.serve(&upstream, &redis, changes).await;
        let alice = today.client.basic("alice", &old.password("alice"));
        assert_eq!(alice.get("/v2/").send().await.status, 200);
        today.end().await;
        let file = old.0.join(format!("{name}/audit.jsonl"));
        std::fs::rename(&file, old.0.join(format!("{name}/audit.jsonl.0"))).unwrap();
        let today = old.serve(&upstream, &redis, changes).await;
        let pull = alice_pulls(&today, &old).await;
        assert_eq!(pull.status, 200, "{pull:?}");
        today.end().await;

        let now = old.verified(name, more);
        let records = old.records(name);
        assert_eq!(now["records"], records.len(), "{now}");
        assert_eq!(now["first"]["seq"], 1);
        assert_eq!(now["end_proven"], now["last"]["seq"], "{now}");
        if name == "keyed" {
            assert_eq!(now["signed"], now["last"]["seq"], "{now}");
        }
        assert_eq!(records[..before.len()], before[..]);
        let (last, next) = (&before[before.len() - 1], &records[before.len()]);
        assert_eq!(next["prev"], last["hash"]);
        let torn = records[before.len()..]
            .iter()
            .find(|one| one["event"] == "torn");
        assert_eq!(torn, None);
        // The file beside it can be read by the first edition, should it have to come back.
        let members = |text: &str| -> BTreeSet<String> {
            let value: Value = serde_json::from_str(text).unwrap();
            value.as_object().unwrap().keys().cloned().collect()
        };
        let after = old.0.read(&beside);
        let (mut now, then) = (members(&after), members(&chain));
        assert!(now.remove("first"), "{after}");
        assert_eq!((after.len(), now), (chain.len(), then));
    }
}

async fn alice_pulls(today: &Today, old: &Old) -> Answer {
    let alice = today.client.basic("alice", &old.password("alice"));
    alice.get("/v2/team-a/app/manifests/v1").send().await
}

/// The claims of a token as they stand in it.
fn payload(token: &str) -> String {
    let part = token.split('.').nth(1).unwrap();
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// The tokens of one caller: `access`, and `refresh` if there was one.
fn tokens(old: &Old) -> Vec<(String, Kind, String)> {
    let all = old.json("tokens.json");
    let all = all.as_object().unwrap().iter();
    let each = all.flat_map(|(whose, tokens)| {
        let kinds = [("access", Kind::Access), ("refresh", Kind::Refresh)];
        kinds.into_iter().filter_map(move |(name, kind)| {
            let token = tokens[name].as_str()?.to_owned();
            Some((whose.clone(), kind, token))
        })
    });
    each.collect()
}

/// The same token, minted by the first edition a minute ago: all else stands as it was.
fn minted_anew(old: &Old, token: &str) -> String {
    let claims = payload(token);
    let parsed: Value = serde_json::from_str(&claims).unwrap();
    let now = Timestamp::now().as_second();
    let fresh = [("iat", now - 60), ("nbf", now - 70), ("exp", now + 240)];
    let fresh = fresh.into_iter().fold(claims, |claims, (name, time)| {
        let then = format!("\"{name}\":{}", parsed[name]);
        assert!(claims.contains(&then), "{claims}");
        claims.replace(&then, &format!("\"{name}\":{time}"))
    });
    let header = token.split('.').next().unwrap();
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(fresh));
    let key = signing_key(old);
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).unwrap();
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn signing_key(old: &Old) -> Vec<u8> {
    let pem = old.0.read("token.key");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    key.secret_der().to_vec()
}

#[test]
fn tokens_of_the_first_edition_are_ours() {
    let old = Old::new();
    let keys = Keys::new(&signing_key(&old)).unwrap();
    let all = tokens(&old);
    assert!(all.len() >= 11, "{}", all.len());
    for (whose, kind, token) in all {
        let claims: Value = serde_json::from_str(&payload(&token)).unwrap();
        let then = Timestamp::from_second(claims["iat"].as_i64().unwrap()).unwrap();
        let verified = keys.verify(&token, kind, HOST, &[then]);
        assert!(verified.is_ok(), "{whose} {kind:?}: {verified:?}");
    }
}

/// What each caller of the corpus may do with an access token, and what was not asked for.
const MAY: [(&str, &str, &str); 7] = [
    ("alice", "GET team-a/app", "GET team-a/other"),
    ("JDoe", "DELETE team-a/app", "PUT team-a/app"),
    ("CORP\\jdoe", "GET home/app", "GET team-a/app"),
    ("key:ci", "PUT team-a/app", "GET mirror/x"),
    ("anonymous", "GET public/app", "GET team-a/app"),
    (
        "alice with a certificate",
        "GET team-a/app",
        "PUT team-a/app",
    ),
    (DEPLOY, "GET spiffe/app", "GET team-a/app"),
];

async fn tried(client: &Client, what: &str) -> u16 {
    let (method, repository) = what.split_once(' ').unwrap();
    let reference = match method {
        "DELETE" => format!("sha256:{}", "a".repeat(64)),
        _ => "v1".to_owned(),
    };
    let path = format!("/v2/{repository}/manifests/{reference}");
    let call = client.call(method.parse().unwrap(), &path);
    let call = call.header("content-type", "application/vnd.oci.image.manifest.v1+json");
    call.send().await.status
}

#[tokio::test]
async fn tokens_of_the_first_edition_are_honoured() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let today = old.serve(&upstream, &redis, &[]).await;
    let mut seen = BTreeSet::new();
    for (whose, kind, token) in tokens(&old) {
        let (_, good, bad) = MAY.into_iter().find(|(name, ..)| *name == whose).unwrap();
        let client = match &*whose {
            DEPLOY => today.showing(&old.pair("client-deploy")),
            "alice with a certificate" => today.showing(&old.pair("client-alice")),
            _ => today.client.clone(),
        };
        let token = minted_anew(&old, &token);
        if kind == Kind::Access {
            let client = client.bearer(&token);
            assert!((200..300).contains(&tried(&client, good).await), "{whose}");
            assert!([401, 403].contains(&tried(&client, bad).await), "{whose}");
        } else {
            let answer = refresh(&client, &token, good).await;
            assert_eq!(answer.status, 200, "{whose}: {answer:?}");
            let fresh = answer.json()["access_token"].as_str().unwrap().to_owned();
            let client = client.bearer(&fresh);
            assert!((200..300).contains(&tried(&client, good).await), "{whose}");
            // One kind is never taken for the other.
            assert_eq!(tried(&client.bearer(&token), good).await, 401, "{whose}");
        }
        seen.insert(whose);
    }
    assert_eq!(seen.len(), MAY.len());

    // What is bound to a certificate stays so.
    let bound = old.json("tokens.json")[DEPLOY]["access"].clone();
    let bound = minted_anew(&old, bound.as_str().unwrap());
    let without = today.client.bearer(&bound);
    assert_eq!(tried(&without, "GET spiffe/app").await, 401);
    let other = today.showing(&old.pair("client-alice")).bearer(&bound);
    assert_eq!(tried(&other, "GET spiffe/app").await, 401);
    today.end().await;
}

async fn refresh(client: &Client, token: &str, what: &str) -> Answer {
    let (_, repository) = what.split_once(' ').unwrap();
    let scope = format!("repository:{repository}:pull,push,delete");
    let form = [
        ("grant_type", "refresh_token"),
        ("service", HOST),
        ("scope", &*scope),
        ("refresh_token", token),
    ];
    client.post("/token").form(&form).send().await
}

#[tokio::test]
async fn tokens_of_the_first_edition_end_with_what_they_stand_on() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let today = old.serve(&upstream, &redis, &[]).await;
    let all = old.json("tokens.json");
    let token = |whose: &str, kind: &str| minted_anew(&old, all[whose][kind].as_str().unwrap());
    let robot = today.client.bearer(&token("key:ci", "access"));
    assert_eq!(tried(&robot, "PUT team-a/app").await, 201);
    old.good(&["key", "revoke", "ci", "--config", "today.toml"]);
    assert_eq!(tried(&robot, "PUT team-a/app").await, 401);
    let robot = refresh(&today.client, &token("key:ci", "refresh"), "PUT team-a/app").await;
    assert!([400, 401].contains(&robot.status), "{robot:?}");
    // alice gets JDoe's password: it is another one.
    let users = old.0.read("htpasswd");
    let hash = |user: &str| {
        let line = users
            .lines()
            .find(|line| line.starts_with(&format!("{user}:")));
        line.unwrap().split_once(':').unwrap().1.to_owned()
    };
    old.0
        .replace("htpasswd", users.replace(&hash("alice"), &hash("JDoe")));
    today.process.signal(Signal::HUP);
    let alice = today.client.bearer(&token("alice", "access"));
    eventually_async("alice's token ends", async || {
        (tried(&alice, "GET team-a/app").await == 401).then_some(())
    })
    .await;
    let alice = refresh(&today.client, &token("alice", "refresh"), "GET team-a/app").await;
    assert!([400, 401].contains(&alice.status), "{alice:?}");
    today.end().await;
}

#[tokio::test]
async fn upload_sessions_of_the_first_edition_are_continued_by_their_owners() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let today = old.serve(&upstream, &redis, &[]).await;
    let uploads = old.json("uploads.json");
    let query = uploads["query"].as_str().unwrap();
    let deploy = today.showing(&old.pair("client-deploy"));
    let callers = [
        ("alice", today.client.basic("alice", &old.password("alice"))),
        ("key:ci", today.client.basic("ci", &old.robot("ci"))),
        ("anonymous", anonymous(&today, "drop/box").await),
        (DEPLOY, deploy),
        ("alice by token", {
            let tokens = old.json("tokens.json");
            let token = minted_anew(&old, tokens["alice"]["access"].as_str().unwrap());
            today.client.bearer(&token)
        }),
    ];
    let mirror = today.client.basic("Mirror.2_x", &old.robot("Mirror.2_x"));
    let jdoe = today.client.basic("JDoe", &old.password("JDoe"));
    for (whose, client) in callers {
        let place = uploads["begun"][whose].as_str().unwrap();
        // Others may push there as well, but not to this session.
        for other in [&mirror, &jdoe] {
            let refused = other.patch(place).body("x").send().await.status;
            assert!([401, 403, 404].contains(&refused), "{whose}: {refused}");
        }
        assert_eq!(upstream.take().len(), 0, "{whose}");
        let went_on = client.patch(place).body("ab").send().await;
        assert_eq!(went_on.status, 202, "{whose}: {went_on:?}");
        let digest = format!("digest=sha256:{}", "a".repeat(64));
        let done = client.put(&format!("{place}&{digest}")).send().await;
        assert_eq!(done.status, 201, "{whose}: {done:?}");
        let seen = upstream.take();
        let path = place.split('?').next().unwrap();
        let targets: Vec<_> = seen.iter().map(|seen| seen.target().to_owned()).collect();
        assert_eq!(targets[0], format!("{path}?{query}"), "{whose}");
        assert!(
            targets[1].starts_with(path) && targets[1].contains(query),
            "{targets:?}"
        );
    }
    // A session is good for its own repository.
    let place = uploads["begun"]["alice"].as_str().unwrap();
    let elsewhere = place.replace("team-a/app", "team-a/token");
    let alice = today.client.basic("alice", &old.password("alice"));
    assert_eq!(alice.patch(&elsewhere).body("x").send().await.status, 404);
    today.end().await;
}

/// Nobody, as clients come who are nobody: with a token.
async fn anonymous(today: &Today, repository: &str) -> Client {
    let path = format!("/token?service={HOST}&scope=repository:{repository}:pull,push");
    let answer = today.client.get(&path).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    today
        .client
        .bearer(answer.json()["token"].as_str().unwrap())
}

#[test]
fn robot_keys_of_the_first_edition_are_rewritten_without_loss() {
    let old = Old::new();
    let edited = old.0.read("keys.toml") + "\n# by hand: ask ops before changing these\n";
    old.0.write("keys.toml", &edited);
    let config = ["--config", "portcullis.toml"];
    let key = |words: &[&str]| old.good(&[&["key"], words, &config].concat());
    let names = |listed: &str| -> Vec<String> {
        let rows: Value = serde_json::from_str(listed).unwrap();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let listed = key(&["list", "--json"]);
    assert_eq!(names(&listed), ["ci", "Mirror.2_x", "long"]);
    let rows: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(rows[0]["networks"][1], "::1/128");
    assert_eq!(rows[1]["expires"], Value::Null);
    assert_ne!(rows[2]["expires"], Value::Null);

    let new = ["create", "new", "--role", "ci", "--repository", "drop/*"];
    key(&new);
    let more = old.0.read("keys.toml");
    assert!(more.starts_with(&edited), "{more}");
    assert_eq!(
        names(&key(&["list", "--json"])),
        ["ci", "Mirror.2_x", "long", "new"]
    );
    key(&["revoke", "Mirror.2_x"]);
    let less = old.0.read("keys.toml");
    let (before, rest) = more.split_once("[[key]]\nname = \"Mirror.2_x\"").unwrap();
    let (_, after) = rest.split_once("[[key]]").unwrap();
    assert_eq!(less, format!("{before}[[key]]{after}"));
    key(&["revoke", "new"]);
    assert_eq!(names(&key(&["list", "--json"])), ["ci", "long"]);
}

#[tokio::test]
async fn replicas_of_the_first_edition_accept_the_tokens_of_today() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let today = old.serve(&upstream, &redis, &[]).await;
    let robot = today.client.basic("ci", &old.robot("ci"));
    let alice = today.client.basic("alice", &old.password("alice"));
    let deploy = today.showing(&old.pair("client-deploy"));
    for (whose, client) in [
        ("alice", alice),
        ("key:ci", robot),
        ("anonymous", today.client.clone()),
        (DEPLOY, deploy),
    ] {
        for (kind, name) in [("access", "token"), ("refresh", "refresh_token")] {
            let then = &old.json("tokens.json")[whose][kind];
            let Some(then) = then.as_str() else { continue };
            let then: Value = serde_json::from_str(&payload(then)).unwrap();
            let access = old.json("tokens.json")[whose]["access"].clone();
            let access: Value = serde_json::from_str(&payload(access.as_str().unwrap())).unwrap();
            let scopes = access["access"].as_array().unwrap().iter();
            let scopes: String = scopes.map(|one| format!("&scope={}", scope(one))).collect();
            let path = format!("/token?service={HOST}&offline_token=true{scopes}");
            let minted = client.get(&path).send().await;
            let minted = minted.json()[name].as_str().unwrap().to_owned();
            assert_eq!(minted.split('.').count(), 3);
            let now: Value = serde_json::from_str(&payload(&minted)).unwrap();
            for (claim, then) in then.as_object().unwrap() {
                if ["exp", "nbf", "iat", "jti"].contains(&&**claim) {
                    assert_eq!(now[claim].is_i64(), then.is_i64(), "{whose}: {claim}");
                    assert_eq!(now[claim].is_string(), then.is_string(), "{whose}: {claim}");
                } else {
                    assert_eq!(&now[claim], then, "{whose}: {claim}");
                }
            }
        }
    }
    today.end().await;
}

/// An entry of `access` as it is asked for.
fn scope(access: &Value) -> String {
    let actions = access["actions"].as_array().unwrap().iter();
    let actions: Vec<_> = actions.map(|one| one.as_str().unwrap()).collect();
    let name = access["name"].as_str().unwrap();
    format!("repository:{name}:{}", actions.join(","))
}

#[tokio::test]
async fn replicas_of_the_first_edition_continue_the_uploads_of_today() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let today = old.serve(&upstream, &redis, &[]).await;
    let keys = Keys::new(&signing_key(&old)).unwrap();
    let key = RandomizedNonceKey::new(&AES_256_GCM, keys.session_keys().next().unwrap()).unwrap();
    let robot = today.client.basic("ci", &old.robot("ci"));
    let deploy = today.showing(&old.pair("client-deploy"));
    for (owner, repository, client) in [
        (
            "alice",
            "team-a/app",
            today.client.basic("alice", &old.password("alice")),
        ),
        ("key:ci", "team-a/app", robot),
        ("", "drop/box", anonymous(&today, "drop/box").await),
        (DEPLOY, "spiffe/app", deploy),
    ] {
        let begun = client.post(&format!("/v2/{repository}/blobs/uploads/"));
        let begun = begun.send().await;
        assert_eq!(begun.status, 202, "{begun:?}");
        let place = begun.header("location").unwrap();
        let (path, sealed) = place.split_once("?_state=").unwrap();
        let id = path.rsplit('/').next().unwrap();
        let mut sealed = URL_SAFE_NO_PAD.decode(sealed).unwrap();
        let nonce = sealed.split_off(sealed.len() - NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
        let bound_to = Aad::from(format!("{repository}\n{id}"));
        let text = key.open_in_place(nonce, bound_to, &mut sealed).unwrap();
        let text = std::str::from_utf8(text).unwrap();
        let parts: Vec<_> = text.splitn(3, '\n').collect();
        assert!(parts[0].parse::<i64>().is_ok(), "{text}");
        assert_eq!(parts[1..], [owner, "_state=begun"], "{text}");
    }
    today.end().await;
}

/// A question to the store, as the first edition put it.
struct Asked {
    keys: Vec<String>,
    arguments: Vec<String>,
}

/// A replica of the first edition: its scripts, keys and arguments.
struct Replica<'a> {
    old: &'a Old,
    connection: redis::Connection,
}

impl Replica<'_> {
    /// The `number`-th question that it put when this was done.
    fn asked(&self, doing: &str, number: usize) -> Asked {
        let all = self.old.json("store.json");
        let asked = &all["asked"][doing][number];
        let texts = |name: &str| -> Vec<String> {
            let items = asked[name].as_array().unwrap().iter();
            items
                .map(|item| item.as_str().unwrap().to_owned())
                .collect()
        };
        Asked {
            keys: texts("keys"),
            arguments: texts("arguments"),
        }
    }

    fn ask(&mut self, script: &str, asked: &Asked) -> Vec<i64> {
        let script = redis::Script::new(&self.old.0.read(&format!("store/{script}.lua")));
        let mut invocation = script.prepare_invoke();
        for key in &asked.keys {
            invocation.key(key);
        }
        for argument in &asked.arguments {
            invocation.arg(argument);
        }
        invocation.invoke(&mut self.connection).unwrap()
    }
}

/// The first request of a test may come before the store is asked.
async fn until_shared(redis: &Redis, today: &Today) {
    eventually_async("a question to the store", async || {
        let wrong = today.client.basic("nobody-at-all", "wrong");
        assert_eq!(wrong.get("/v2/").send().await.status, 401);
        (!redis.keys().is_empty()).then_some(())
    })
    .await;
    let mut connection = redis.connect();
    redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
}

const LIMITS: &str = "anonymous_pulls = { count = 1000, per = \"6h\" }";
const GUESSES: &str = "failed_logins = { count = 10, per = \"5m\" }";

#[tokio::test]
async fn the_store_knows_everybody_by_the_names_of_the_first_edition() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let today = old.serve(&upstream, &redis, &[]).await;
    until_shared(&redis, &today).await;
    let by = |user: &str, password: &str| today.client.basic(user, password);
    let team = "/v2/team-a/app/manifests/v1";
    let nobody = anonymous(&today, "public/app").await;
    for (client, path, status) in [
        (nobody, "/v2/public/app/manifests/v1", 200),
        (by("alice", &old.password("alice")), team, 200),
        (by("JDoe", &old.password("JDoe")), team, 200),
        (by("ci", &old.robot("ci")), team, 200),
        (by("alice", "guess"), "/v2/", 401),
        (by("CORP\\jdoe", &old.password("CORP\\jdoe")), "/v2/", 200),
    ] {
        assert_eq!(client.get(path).send().await.status, status, "{path}");
    }
    let kept = old.json("store.json");
    let kept = kept["kept"].as_object().unwrap();
    let then: BTreeSet<_> = kept.keys().cloned().collect();
    eventually("the names of then", || {
        let now: BTreeSet<_> = redis.keys().into_iter().map(|(key, _)| key).collect();
        (now == then).then_some(())
    })
    .await;
    let mut connection = redis.connect();
    for (key, then) in kept {
        let kind: String = redis::cmd("TYPE").arg(key).query(&mut connection).unwrap();
        assert_eq!(kind, then["type"], "{key}");
        if kind != "hash" {
            continue;
        }
        let fields = redis::cmd("HKEYS").arg(key).query(&mut connection);
        let fields: BTreeSet<String> = fields.unwrap();
        let then = then["holds"].as_array().unwrap().iter().step_by(2);
        let then: BTreeSet<_> = then
            .map(|field| field.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(fields, then, "{key}");
    }
    today.end().await;
}

#[tokio::test]
async fn pulls_are_counted_together_with_a_replica_of_the_first_edition() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let three = LIMITS.replace("1000", "3");
    let changes = [(LIMITS, &*three), ("repeat_free = \"1h\"", "")];
    let today = old.serve(&upstream, &redis, &changes).await;
    until_shared(&redis, &today).await;
    let connection = redis.connect();
    let mut replica = Replica {
        old: &old,
        connection,
    };
    let mut take = replica.asked("an anonymous pull", 0);
    "3".clone_into(&mut take.arguments[2]);
    let nobody = anonymous(&today, "public/app").await;
    let pull = async || {
        nobody
            .get("/v2/public/app/manifests/v1")
            .send()
            .await
            .status
    };
    assert_eq!(replica.ask("pull", &take)[..2], [1, 2]);
    assert_eq!(pull().await, 200);
    assert_eq!(replica.ask("pull", &take)[..2], [1, 0]);
    assert_eq!(pull().await, 429);
    assert_eq!(replica.ask("pull", &take)[0], 0);
    today.end().await;
}

#[tokio::test]
async fn lock_outs_hold_at_replicas_of_both_editions() {
    let old = Old::new();
    let (upstream, redis) = (registry().await, Redis::start().await);
    let three = GUESSES.replace("10", "3");
    let today = old.serve(&upstream, &redis, &[(GUESSES, &three)]).await;
    until_shared(&redis, &today).await;
    let connection = redis.connect();
    let mut replica = Replica {
        old: &old,
        connection,
    };
    let guess = async |password: &str| {
        let alice = today.client.basic("alice", password);
        alice.get("/v2/").send().await.status
    };
    // The same wrong password is one, wherever it is tried.
    let [mut begin, mut end] = [0, 1].map(|number| replica.asked("a wrong password", number));
    "3".clone_into(&mut begin.arguments[1]);
    "3".clone_into(&mut end.arguments[2]);
    assert_eq!(replica.ask("begin", &begin), [0, 0]);
    assert_eq!(replica.ask("end", &end), [0, 0]);
    assert_eq!(guess("guess").await, 401);
    assert_eq!(replica.ask("begin", &begin), [0, 1]);
    // Two more here lock there, and here.
    assert_eq!(guess("another").await, 401);
    assert_eq!(replica.ask("begin", &begin), [0, 2]);
    assert_eq!(guess("a third").await, 401);
    let locked = replica.ask("begin", &begin);
    assert!(locked[0] == 1 && locked[1] > 0, "{locked:?}");
    assert_eq!(guess(&old.password("alice")).await, 429);

    // And three there lock here.
    let name =
        |asked: &mut Asked| asked.keys = replica.asked("a user's pull with capitals", 0).keys;
    name(&mut begin);
    name(&mut end);
    for number in 0..3 {
        let tag = format!("{number:016x}");
        tag.clone_into(&mut begin.arguments[0]);
        tag.clone_into(&mut end.arguments[1]);
        assert_eq!(replica.ask("begin", &begin)[0], 0);
        replica.ask("end", &end);
    }
    let jdoe = today.client.basic("JDoe", &old.password("JDoe"));
    assert_eq!(jdoe.get("/v2/").send().await.status, 429);
    today.end().await;
}
