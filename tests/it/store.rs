//! Several replicas that count together in a Redis, and what happens when it is not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::image::digest;
use crate::support::process::free_port;
use crate::support::redis::{FalseStore, Redis};
use crate::support::{
    Answer, Builder, Client, Http, Lab, Reply, Seen, Upstream, eventually, eventually_async,
    password,
};

const V1: &str = "/v2/public/app/manifests/v1";
const MISSING: &str = "/v2/public/app/manifests/missing";

/// A registry with every manifest but `missing`; `slow` never answers.
async fn registry() -> Upstream {
    Upstream::start(|seen| match seen.target() {
        target if target.ends_with("/missing") => Reply::status("404 Not Found", "{}"),
        target if target.ends_with("/slow") => Reply::Hang,
        _ if seen.method() == "HEAD" => {
            Reply::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_vec())
        }
        _ => Reply::Say(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDocker-Content-Digest: {}\r\n\r\n{{}}",
                digest(b"v1")
            )
            .into_bytes(),
        ),
    })
    .await
}

/// Replicas behind one name: they have their signing key in common.
struct Replicas {
    upstream: Upstream,
    key: String,
}

/// One of them, and where it tells how it is.
struct Replica {
    lab: Lab,
    admin: Client,
}

impl Replicas {
    async fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        Self {
            upstream: registry().await,
            key,
        }
    }

    fn builder(&self) -> Builder {
        Lab::builder()
            .upstream(self.upstream.url())
            .direct()
            .file("token.key", &self.key)
            .token("signing_key = \"token.key\"")
    }

    /// `limits` are lines of `[limits]`, `store` those of `[limits.store]`.
    async fn start(&self, limits: &str, store: &str) -> Replica {
        let port = free_port();
        let more = format!(
            "[admin]\nlisten = \"127.0.0.1:{port}\"\n[limits]\n{limits}\n[limits.store]\n{store}\n"
        );
        let lab = self.builder().more(&more).start().await;
        let admin = Client::plain(([127, 0, 0, 1], port).into());
        Replica { lab, admin }
    }

    async fn two(&self, limits: &str, redis: &Redis) -> [Replica; 2] {
        let store = patient(&redis.url());
        [
            self.start(limits, &store).await,
            self.start(limits, &store).await,
        ]
    }
}

/// A busy machine may stop a server for longer than the usual time-out.
fn patient(url: &str) -> String {
    format!("url = \"{url}\"\ntimeout = \"2s\"")
}

fn anonymous(count: u32) -> String {
    format!("anonymous_pulls = {{ count = {count}, per = \"6h\" }}")
}

impl Replica {
    async fn metric(&self, name: &str) -> Option<u64> {
        let text = self.admin.get("/metrics").send().await.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|number| number.parse().unwrap())
    }

    async fn limits(&self) -> String {
        let status = self.admin.get("/status.json").send().await.json();
        status["limits"].as_str().unwrap().to_owned()
    }

    async fn until_up(&self, up: u64) {
        let asked = eventually_async("the store's state", async || {
            (self.metric("portcullis_limit_store_up").await == Some(up)).then_some(())
        });
        asked.await;
    }

    /// How each change was told, in order.
    fn changes(&self) -> Vec<String> {
        let records = self.lab.audit().records().into_iter();
        let changes = records.filter(|record| record["event"] == "store");
        changes
            .map(|record| record["outcome"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn told(&self, changes: &[&str]) {
        eventually("a record of each change", || {
            (self.changes() == changes).then_some(())
        })
        .await;
    }

    async fn pull(&self, path: &str) -> Answer {
        self.lab.anonymous().get(path).send().await
    }

    async fn left(&self) -> u32 {
        left(&self.lab.anonymous().head(V1).send().await)
    }

    async fn guess(&self, user: &str, password: &str) -> u16 {
        let client = self.lab.anonymous().basic(user, password);
        client.get("/v2/").send().await.status
    }
}

#[track_caller]
fn left(answer: &Answer) -> u32 {
    let header = answer
        .header("ratelimit-remaining")
        .unwrap_or_else(|| panic!("{answer:?}"));
    header.split_once(';').unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn two_replicas_have_one_limit() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let [one, two] = replicas.two(&anonymous(4), &redis).await;
    assert_eq!(left(&one.pull(V1).await), 3);
    assert_eq!(left(&two.pull(V1).await), 2);
    // A look costs nothing, and what is no pull is given back.
    for replica in [&one, &two] {
        assert_eq!(replica.left().await, 2);
        assert_eq!(left(&replica.pull(MISSING).await), 2);
    }
    assert_eq!(left(&two.pull(V1).await), 1);
    assert_eq!(left(&one.pull(V1).await), 0);
    for replica in [&one, &two] {
        let refused = replica.pull(V1).await;
        refused.assert_problem(429, "TOOMANYREQUESTS");
        assert!(refused.header("retry-after").is_some());
        assert_eq!(replica.left().await, 0);
        assert_eq!(replica.limits().await, "shared");
        assert_eq!(replica.metric("portcullis_limit_store_up").await, Some(1));
        assert_eq!(replica.changes(), [""; 0]);
    }
    // Others have their own.
    let other = two.lab.anonymous().out_of([127, 0, 0, 2]);
    assert_eq!(left(&other.get(V1).send().await), 3);
    let seen = replicas.upstream.seen();
    let is_pull = |seen: &&Seen| seen.method() == "GET" && seen.target().contains("manifests");
    assert_eq!(seen.iter().filter(is_pull).count(), 7);
}

#[tokio::test]
async fn sixty_at_once_at_two_replicas_get_exactly_what_there_is() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let both = replicas.two(&anonymous(25), &redis).await;
    let mut pulls = tokio::task::JoinSet::new();
    for number in 0..60 {
        let client = both[number % 2]
            .lab
            .anonymous()
            .over(Http::BOTH[number / 2 % 2]);
        pulls.spawn(client.get(V1).send());
    }
    let answers = pulls.join_all().await;
    // What is left is told as of the end of each, when others may have ended too.
    let served = answers.iter().filter(|answer| answer.status == 200);
    let remaining: Vec<_> = served.map(left).collect();
    assert_eq!(remaining.len(), 25, "{remaining:?}");
    assert!(remaining.iter().all(|left| *left < 25), "{remaining:?}");
    assert!(
        answers
            .iter()
            .all(|answer| [200, 429].contains(&answer.status))
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_pays_nothing() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let [one, two] = replicas.two(&anonymous(2), &redis).await;
    let slow = one
        .lab
        .anonymous()
        .get("/v2/public/app/manifests/slow")
        .send();
    let slow = tokio::spawn(slow);
    replicas.upstream.request(0).await;
    assert_eq!(two.left().await, 1);
    slow.abort();
    eventually_async("what was taken is given back", async || {
        (two.left().await == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_image_pulled_at_one_replica_is_free_at_the_other() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let limits = format!("{}\nrepeat_free = \"1h\"", anonymous(2));
    let [one, two] = replicas.two(&limits, &redis).await;
    let by_digest = format!("/v2/public/app/manifests/{}", digest(b"v1"));
    assert_eq!(left(&one.pull(&by_digest).await), 1);
    // By tag it is known only when the registry has answered; by digest before.
    assert_eq!(left(&two.pull(V1).await), 1);
    assert_eq!(left(&two.pull(&by_digest).await), 1);
    let other = format!("/v2/public/app/manifests/{}", digest(b"other"));
    assert_eq!(two.pull(&other).await.status, 200);
    assert_eq!(
        two.left().await,
        1,
        "the registry says that it is the same image"
    );
}

#[tokio::test]
async fn users_have_one_limit_and_names_are_not_written_down() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let limits = "authenticated_pulls = { count = 3, per = \"1h\" }\n\
                  failed_logins = { count = 3, per = \"60s\" }\nrepeat_free = \"1h\"";
    let store = format!("{}\nprefix = \"team:x\"", patient(&redis.url()));
    let one = replicas.start(limits, &store).await;
    let two = replicas.start(limits, &store).await;
    for (replica, expected) in [(&one, 2), (&two, 2)] {
        let answer = replica
            .lab
            .user("alice")
            .get("/v2/team-a/app/manifests/v1")
            .send()
            .await;
        assert_eq!(left(&answer), expected, "the second is a repeat");
    }
    assert_eq!(one.guess("alice", "hunter2hunter2").await, 401);
    let keys = redis.keys();
    assert!(keys.len() >= 4, "{keys:?}");
    for (key, ends_in) in &keys {
        assert!(key.starts_with("team:x:"), "{key}");
        assert!(!key.contains("alice") && !key.contains("127"), "{key}");
        assert!(
            (1..=3_700_000).contains(ends_in),
            "{key} lives for {ends_in} ms"
        );
    }
    let mut connection = redis.connect();
    for (key, _) in keys.iter().filter(|(key, _)| key.contains(":wrong:")) {
        let all: BTreeMap<String, String> = redis::cmd("HGETALL")
            .arg(key)
            .query(&mut connection)
            .unwrap();
        assert!(!format!("{all:?}").contains("hunter2"), "{all:?}");
    }
}

#[tokio::test]
async fn guesses_at_two_replicas_add_up_and_the_lock_holds_at_both() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let limits = "failed_logins = { count = 4, per = \"60s\" }";
    let [one, two] = replicas.two(limits, &redis).await;
    assert_eq!(one.guess("alice", "wrong0").await, 401);
    // The same wrong one at the other is no second.
    for _ in 0..5 {
        assert_eq!(two.guess("alice", "wrong0").await, 401);
    }
    assert_eq!(two.guess("alice", "wrong1").await, 401);
    assert_eq!(one.guess("alice", "wrong2").await, 401);
    assert_eq!(two.guess("alice", "wrong3").await, 401);
    for replica in [&one, &two] {
        assert_eq!(replica.guess("alice", &password("alice")).await, 429);
        assert_eq!(replica.guess("bob", &password("bob")).await, 200);
        let audit = replica.lab.audit();
        let locked = audit.find("a record of the lock", |record| {
            let reason = record["reason"].as_str().unwrap_or_default();
            record["event"] == "lockout" && reason.starts_with("alice locked from ")
        });
        assert_eq!(locked.await["outcome"], "limited");
    }
}

#[tokio::test]
async fn a_right_password_clears_the_count_at_all_replicas() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let [one, two] = replicas
        .two("failed_logins = { count = 3, per = \"60s\" }", &redis)
        .await;
    for round in 0..4 {
        for number in 0..2 {
            assert_eq!(
                one.guess("alice", &format!("wrong{round}{number}")).await,
                401
            );
        }
        assert_eq!(two.guess("alice", &password("alice")).await, 200);
        // Nobody waits for this to be told. The network's count stays.
        let counts = |key: &str| {
            let mut count = redis::cmd("HEXISTS");
            let count = count.arg(key).arg("wrong");
            count.query::<bool>(&mut redis.connect()).unwrap()
        };
        eventually("the count is cleared", || {
            let wrong = redis
                .keys()
                .into_iter()
                .filter(|(key, _)| key.contains(":wrong:") && counts(key));
            (wrong.count() == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn many_guesses_at_once_at_two_replicas_are_no_way_around() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let both = replicas
        .two("failed_logins = { count = 3, per = \"60s\" }", &redis)
        .await;
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..40 {
        let client = both[number % 2].lab.anonymous();
        let client = client.basic("alice", &format!("wrong{number}"));
        guesses.spawn(client.get("/v2/").send());
    }
    let answers = guesses.join_all().await;
    let tried = answers.iter().filter(|answer| answer.status == 401).count();
    let refused = answers.iter().filter(|answer| answer.status == 429).count();
    assert_eq!((tried, refused), (3, 37));
}

#[tokio::test]
async fn a_store_that_is_killed_and_comes_back_refuses_nothing() {
    let (mut redis, replicas) = (Redis::start().await, Replicas::new().await);
    let [one, two] = replicas.two(&anonymous(3), &redis).await;
    assert_eq!(left(&one.pull(V1).await), 2);
    redis.service.kill();
    // Each by its own count: one has made a pull, two has not.
    assert_eq!(left(&one.pull(V1).await), 1);
    assert_eq!(left(&two.pull(V1).await), 2);
    for replica in [&one, &two] {
        replica.until_up(0).await;
        replica.told(&["error"]).await;
        assert!(replica.limits().await.starts_with("this replica's own: "));
        let ready = replica.admin.get("/readyz").send().await;
        assert_eq!(ready.status, 200, "{ready:?}");
        assert!(replica.lab.process.log().contains("limits are not shared"));
    }
    assert_eq!(left(&one.pull(V1).await), 0);
    assert_eq!(one.pull(V1).await.status, 429);
    assert_eq!(left(&two.pull(V1).await), 1);

    redis.restart().await;
    for replica in [&one, &two] {
        replica.until_up(1).await;
        replica.told(&["error", "allowed"]).await;
        assert_eq!(replica.limits().await, "shared");
    }
    // What the store has forgotten, each replica still knows of itself.
    assert_eq!(one.pull(V1).await.status, 429);
    assert_eq!(left(&two.pull(V1).await), 0);
    // And others share anew.
    for (replica, expected) in [(&one, 2), (&two, 1)] {
        let other = replica.lab.anonymous().out_of([127, 0, 0, 3]);
        assert_eq!(left(&other.get(V1).send().await), expected);
    }
    for replica in [&one, &two] {
        assert_eq!(replica.changes(), ["error", "allowed"]);
    }
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_once() {
    let (redis, replicas) = (Redis::start().await, Replicas::new().await);
    let [one, two] = replicas.two(&anonymous(9), &redis).await;
    assert_eq!(left(&one.pull(V1).await), 8);
    redis.service.freeze();
    assert_eq!(left(&one.pull(V1).await), 7);
    one.told(&["error"]).await;
    let failures = one.metric("portcullis_limit_store_failures_total").await;
    let questions = one.metric("portcullis_limit_store_questions_total").await;
    // From now on nobody pays the time-out.
    for expected in (2..7).rev() {
        assert_eq!(left(&one.pull(V1).await), expected);
    }
    assert_eq!(one.guess("alice", &password("alice")).await, 200);
    assert_eq!(
        one.metric("portcullis_limit_store_failures_total").await,
        failures
    );
    assert_eq!(
        one.metric("portcullis_limit_store_questions_total").await,
        questions
    );
    redis.service.thaw();
    one.until_up(1).await;
    one.told(&["error", "allowed"]).await;
    // The store knows of the first pull, and perhaps of the one it was asked for when it hung.
    assert!([6, 7].contains(&left(&two.pull(V1).await)));
}

#[tokio::test]
async fn a_lock_holds_while_the_store_is_lost() {
    let (mut redis, replicas) = (Redis::start().await, Replicas::new().await);
    let [one, two] = replicas
        .two("failed_logins = { count = 2, per = \"60s\" }", &redis)
        .await;
    for number in 0..2 {
        assert_eq!(one.guess("alice", &format!("wrong{number}")).await, 401);
    }
    assert_eq!(two.guess("alice", &password("alice")).await, 429);
    redis.service.kill();
    for replica in [&one, &two] {
        assert_eq!(replica.guess("alice", &password("alice")).await, 429);
        assert_eq!(replica.guess("bob", &password("bob")).await, 200);
    }
    // Guesses are counted by each.
    for number in 0..2 {
        assert_eq!(two.guess("bob", &format!("wrong{number}")).await, 401);
    }
    assert_eq!(two.guess("bob", &password("bob")).await, 429);
    assert_eq!(one.guess("bob", &password("bob")).await, 200);
}

#[tokio::test]
async fn whoever_answers_junk_is_no_store() {
    let replicas = Replicas::new().await;
    for junk in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"*3\r\n:1\r\n:99\r\n:1\r\n",
        b"*2\r\n:3\r\n:-7\r\n",
        b"+OK\r\n",
        b"-ERR unknown command\r\n",
        b"$9999999999\r\nx",
        b"*-1\r\n",
        &[0xff; 64],
    ] {
        let store = FalseStore::saying(junk).await;
        let line = format!("url = \"{}\"", store.url());
        let one = replicas.start(&anonymous(2), &line).await;
        assert_eq!(left(&one.pull(V1).await), 1, "{junk:?}");
        assert_eq!(left(&one.pull(V1).await), 0, "{junk:?}");
        assert_eq!(one.pull(V1).await.status, 429, "{junk:?}");
        assert_eq!(one.guess("alice", &password("alice")).await, 200);
        assert_eq!(one.metric("portcullis_limit_store_up").await, Some(0));
        one.told(&["error"]).await;
    }
}

/// It answers the trial as it should, and everything else with pulls that cannot be.
#[tokio::test]
async fn an_answer_that_makes_no_sense_decides_nothing() {
    let replicas = Replicas::new().await;
    let store = FalseStore::saying(b"*3\r\n:1\r\n:7\r\n:1700000000000000\r\n").await;
    let one = replicas.start(&anonymous(2), &patient(&store.url())).await;
    assert_eq!(one.metric("portcullis_limit_store_up").await, Some(1));
    assert_eq!(left(&one.pull(V1).await), 1);
    assert_eq!(
        one.metric("portcullis_limit_store_failures_total").await,
        Some(1)
    );
    one.told(&["error", "allowed"]).await;
}

#[tokio::test]
async fn passwords_tls_and_sockets() {
    let redis = Redis::with_password("pw-of-redis-Xy7").await;
    let replicas = Replicas::new().await;
    let password = "password = \"${env:HOME}\"";
    let wrong = replicas
        .start(
            &anonymous(9),
            &format!("{}\n{password}", patient(&redis.url())),
        )
        .await;
    assert_eq!(
        wrong.limits().await,
        "this replica's own: the store refuses the password"
    );
    wrong.told(&["error"]).await;
    let none = replicas.start(&anonymous(9), &patient(&redis.url())).await;
    assert_eq!(none.limits().await, wrong.limits().await);
    assert_eq!(left(&none.pull(V1).await), 8);

    let ca = format!("ca = '{}'", redis.ca().display());
    let socket = format!("unix:{}", redis.socket().display());
    let tls = format!("{}\n{ca}", patient(&redis.tls_url()));
    let mut expected = 9;
    for lines in [patient(&redis.url()), patient(&socket), tls.clone()] {
        let port = free_port();
        let more = format!(
            "[admin]\nlisten = \"127.0.0.1:{port}\"\n[limits]\n{}\n[limits.store]\n{lines}\n\
             password_file = \"redis.password\"\n",
            anonymous(9)
        );
        let builder = replicas.builder().more(&more);
        let lab = builder
            .file("redis.password", "pw-of-redis-Xy7\n")
            .start()
            .await;
        expected -= 1;
        assert_eq!(
            left(&lab.anonymous().get(V1).send().await),
            expected,
            "{lines}"
        );
        lab.assert_no_secret(&["pw-of-redis-Xy7"]);
    }
    // Its certificate is verified.
    let stranger = crate::support::pki::Pki::new();
    wrong.lab.folder.write("stranger.pem", &stranger.ca);
    let path = wrong.lab.folder.join("stranger.pem");
    let tls = format!("{}\nca = '{}'", patient(&redis.tls_url()), path.display());
    let distrusting = replicas.start(&anonymous(9), &tls).await;
    let says = distrusting.limits().await;
    assert!(says.contains("certificate"), "{says}");
}

#[tokio::test]
async fn a_store_comes_goes_and_changes_on_reload() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let replicas = Replicas::new().await;
    let [one, two] = replicas.two(&anonymous(5), &first).await;
    assert_eq!(left(&one.pull(V1).await), 4);
    let config = two.lab.config();
    let section = format!("[limits.store]\n{}\n", patient(&first.url()));
    assert!(config.contains(&section));

    // Without it: by its own count.
    two.lab
        .folder
        .write("portcullis.toml", config.replace(&section, ""));
    assert_eq!(two.lab.reload().await, "allowed");
    assert_eq!(two.metric("portcullis_limit_store_up").await, None);
    assert_eq!(two.limits().await, "this replica's own");
    assert_eq!(two.left().await, 5);
    // Back again, and what is unchanged stays connected.
    two.lab.folder.write("portcullis.toml", &config);
    for _ in 0..2 {
        assert_eq!(two.lab.reload().await, "allowed");
        assert_eq!(two.left().await, 4);
    }
    // Another one, which knows nothing of the pull.
    two.lab.folder.write(
        "portcullis.toml",
        config.replace(&first.url(), &second.url()),
    );
    assert_eq!(two.lab.reload().await, "allowed");
    assert_eq!(two.left().await, 5);
    // One that is not there is no reason to keep the old configuration.
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    two.lab
        .folder
        .write("portcullis.toml", config.replace(&first.url(), &nowhere));
    assert_eq!(two.lab.reload().await, "allowed");
    assert_eq!(left(&two.pull(V1).await), 4);
    two.told(&["error"]).await;
    assert_eq!(one.left().await, 4);
}

/// The exit code, and every error.
fn check(lab: &Lab) -> (Option<i32>, Vec<Value>) {
    let output = std::process::Command::new(crate::support::lab::PROGRAM)
        .args(["check", "--online", "--json", "--config"])
        .arg(lab.folder.join("portcullis.toml"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut findings = report["findings"].as_array().unwrap().clone();
    findings.retain(|finding| finding["severity"] == "error");
    (output.status.code(), findings)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_the_store() {
    let (mut redis, replicas) = (Redis::start().await, Replicas::new().await);
    let one = replicas.start(&anonymous(5), &patient(&redis.url())).await;
    assert_eq!(check(&one.lab), (Some(0), vec![]));
    for (policy, code) in [("allkeys-lru", 1), ("volatile-ttl", 1), ("noeviction", 0)] {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory-policy").arg(policy);
        let () = set.query(&mut redis.connect()).unwrap();
        let (found, errors) = check(&one.lab);
        assert_eq!(found, Some(code), "{errors:?}");
        if let Some(error) = errors.first() {
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(policy) && message.contains("noeviction"));
        }
    }
    redis.service.kill();
    let (code, errors) = check(&one.lab);
    assert_eq!(code, Some(1), "{errors:?}");
    let message = errors[0]["message"].as_str().unwrap();
    assert!(message.starts_with("no connection: "), "{message}");
    // Without asking, it is good.
    let quiet = std::process::Command::new(crate::support::lab::PROGRAM)
        .args(["check", "--config"])
        .arg(one.lab.folder.join("portcullis.toml"))
        .output()
        .unwrap();
    assert!(quiet.status.success(), "{quiet:?}");
}

/// A registry without tags until `has_tag`, which answers each push when the test lets it.
async fn tagging(pushes: &Arc<Semaphore>, has_tag: &Arc<AtomicBool>) -> Upstream {
    let (pushes, has_tag) = (Arc::clone(pushes), Arc::clone(has_tag));
    Upstream::start(move |seen| match seen.method() {
        "HEAD" if has_tag.load(Ordering::Relaxed) => Reply::Say(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDocker-Content-Digest: {}\r\n\r\n",
                digest(b"another")
            )
            .into_bytes(),
        ),
        "HEAD" => Reply::Say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "PUT" => Reply::After(
            Arc::clone(&pushes),
            b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        _ => Reply::ok("{}"),
    })
    .await
}

fn push(replica: &Replica, user: &str, tag: &str) -> tokio::task::JoinHandle<Answer> {
    let call = replica
        .lab
        .user(user)
        .put(&format!("/v2/team-a/app/manifests/{tag}"))
        .body("{}");
    tokio::spawn(call.send())
}

const QUESTIONS: &str = "portcullis_limit_store_questions_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_one_replica_creates_is_written_by_no_other() {
    let (pushes, has_tag) = (Arc::new(Semaphore::new(0)), Arc::<AtomicBool>::default());
    let redis = Redis::start().await;
    let replicas = Replicas {
        upstream: tagging(&pushes, &has_tag).await,
        ..Replicas::new().await
    };
    let [one, two] = replicas.two(&anonymous(0), &redis).await;
    // Who may only create finds that it is there by now; who may move it comes afterwards.
    for (user, status) in [("robo", 403), ("alice", 201)] {
        has_tag.store(false, Ordering::Relaxed);
        let first = push(&one, "robo", "v1");
        eventually("the push", || {
            let seen = replicas.upstream.seen();
            seen.iter().any(|seen| seen.method() == "PUT").then_some(())
        })
        .await;
        let asked = two.metric(QUESTIONS).await.unwrap();
        let second = push(&two, user, "v1");
        // It asks again and again whether the tag is free.
        eventually_async("the second push", async || {
            let now = two.metric(QUESTIONS).await.unwrap();
            (now >= asked + 3).then_some(())
        })
        .await;
        let mut seen = replicas.upstream.take();
        // Without the questions of the admin pages.
        seen.retain(|seen| seen.target().ends_with("/v1"));
        assert_eq!(seen.len(), 2, "{seen:?}");
        pushes.add_permits(1);
        has_tag.store(true, Ordering::Relaxed);
        assert_eq!(first.await.unwrap().status, 201);
        if status == 201 {
            pushes.add_permits(1);
        }
        let second = second.await.unwrap();
        assert_eq!(second.status, status, "{second:?}");
        replicas.upstream.take();
        eventually("the end of all claims", || {
            let keys = redis.keys();
            let is_claim = |key: &str| key.contains(":create:") || key.contains(":move:");
            (!keys.iter().any(|(key, _)| is_claim(key))).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_no_tag_is_created_by_who_may_not_move_it() {
    let (pushes, has_tag) = (Arc::new(Semaphore::new(9)), Arc::<AtomicBool>::default());
    let mut redis = Redis::start().await;
    let replicas = Replicas {
        upstream: tagging(&pushes, &has_tag).await,
        ..Replicas::new().await
    };
    let one = replicas.start(&anonymous(0), &patient(&redis.url())).await;
    assert_eq!(push(&one, "robo", "v1").await.unwrap().status, 201);
    redis.service.kill();
    one.until_up(0).await;
    replicas.upstream.take();
    let refused = push(&one, "robo", "v2").await.unwrap();
    refused.assert_problem(503, "UNAVAILABLE");
    assert!(replicas.upstream.seen().is_empty());
    assert_eq!(push(&one, "alice", "v2").await.unwrap().status, 201);
    redis.restart().await;
    one.until_up(1).await;
    assert_eq!(push(&one, "robo", "v3").await.unwrap().status, 201);
}
