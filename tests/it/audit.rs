//! One record for each use of a credential and each decision, and never a secret.

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::support::http::{Outgoing, basic};
use crate::support::image::{
    Image, MANIFEST, begin_upload, digest, finish_upload, noise, push_blob,
};
use crate::support::lab::htpasswd;
use crate::support::{Client, Http, Lab, Reply, Upstream, password};

/// Does one thing, and gives the one record of it.
async fn one(lab: &Lab, what: impl Future<Output = ()>) -> Value {
    let audit = lab.audit();
    // The address answers a moment before the record of the start is written.
    audit
        .find("the start", |record| record["event"] == "start")
        .await;
    let before = audit.records().len();
    what.await;
    let record = audit.after(before, 1).await.remove(0);
    // A second record of the same would come before that of a request made afterwards.
    let marker = lab
        .user("stranger")
        .get("/v2/marker/x/tags/list")
        .send()
        .await;
    let records = audit.after(before, 2).await;
    assert_eq!(records.len(), 2, "{records:#?}");
    assert_eq!(records[1]["ref"], marker.reference(), "{records:#?}");
    record
}

fn check(record: &Value, expected: &[(&str, Value)]) {
    for (key, value) in expected {
        assert_eq!(&record[key], value, "{key} in {record:#}");
    }
}

macro_rules! facts {
    ($($key:ident: $value:expr),* $(,)?) => {
        &[$((stringify!($key), serde_json::json!($value))),*]
    };
}

#[tokio::test]
async fn a_pull_leaves_a_complete_record() {
    let lab = Lab::start().await;
    let image = Image::new(1);
    image
        .push(&lab.registry().client(), "team-a/app", "v1")
        .await;
    let begun = jiff::Timestamp::now();
    let call = lab
        .user("gina")
        .get("/v2/team-a/app/manifests/v1")
        .header("user-agent", "test/1")
        .header("accept", MANIFEST);
    let record = one(&lab, async {
        assert_eq!(call.send().await.status, 200);
    })
    .await;
    check(
        &record,
        facts! {
            event: "request", outcome: "allowed", client: "127.0.0.1", user: "gina",
            auth: "htpasswd", cached: false, method: "GET", action: "pull",
            repository: "team-a/app", reference: "v1", status: 200, upstream_status: 200,
            bytes_in: 0, bytes_out: image.manifest.len(), agent: "test/1",
        },
    );
    let time = record["time"].as_str().unwrap();
    assert!(
        time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000Z".len(),
        "{time}"
    );
    assert!(time.parse::<jiff::Timestamp>().unwrap() >= begun - jiff::SignedDuration::from_secs(1));
    for key in ["seq", "ref", "groups", "tls", "rule", "duration_us"] {
        assert!(!record[key].is_null(), "no {key} in {record:#}");
    }
    assert!(
        record["rule"]
            .as_str()
            .unwrap()
            .contains("portcullis.toml:"),
        "{record:#}"
    );
}

#[tokio::test]
async fn every_outcome_leaves_exactly_one_record() {
    let lab = Lab::start().await;
    Image::new(1)
        .push(&lab.registry().client(), "team-a/app", "v1")
        .await;
    let tags = "/v2/team-a/app/tags/list";
    let push = "/v2/team-a/app/blobs/uploads/";
    let get = |client: Client, path: &'static str| async move {
        client.get(path).send().await;
    };
    let post = |client: Client, path: &'static str| async move {
        client.post(path).send().await;
    };

    let record = one(&lab, get(lab.user("alice"), "/v2/")).await;
    check(
        &record,
        facts! { outcome: "allowed", user: "alice", status: 200 },
    );

    let record = one(&lab, get(lab.anonymous().basic("alice", "wrong"), tags)).await;
    check(
        &record,
        facts! { outcome: "failed", status: 401, repository: "team-a/app", action: "pull" },
    );
    assert!(record["reason"].is_string(), "{record:#}");
    // Who says to be nobody, and is refused, is on record as that.
    for nobody in [lab.anonymous().basic("", ""), lab.nobody().await] {
        let record = one(&lab, get(nobody, tags)).await;
        check(
            &record,
            facts! { outcome: "failed", status: 401, repository: "team-a/app" },
        );
    }

    let record = one(&lab, get(lab.anonymous().basic("who", "wrong"), "/v2/")).await;
    check(&record, facts! { outcome: "failed", status: 401 });

    let record = one(
        &lab,
        get(lab.anonymous().with_authorization("Basic !"), tags),
    )
    .await;
    assert_ne!(record["outcome"], "allowed", "{record:#}");

    let record = one(&lab, get(lab.anonymous().bearer("no.such.token"), tags)).await;
    check(&record, facts! { outcome: "failed", status: 401 });

    let record = one(&lab, post(lab.user("gina"), push)).await;
    check(
        &record,
        facts! { outcome: "denied", user: "gina", action: "push", status: 403 },
    );

    let record = one(
        &lab,
        post(lab.user("alice"), "/v2/team-a/prod/blobs/uploads/"),
    )
    .await;
    check(
        &record,
        facts! { outcome: "denied", user: "alice", status: 403 },
    );
    assert!(
        record["rule"]
            .as_str()
            .unwrap()
            .contains("portcullis.toml:"),
        "{record:#}"
    );

    let record = one(&lab, post(lab.user("alice"), push)).await;
    check(
        &record,
        facts! { outcome: "allowed", action: "push", status: 202 },
    );

    let record = one(&lab, get(lab.user("gina"), "/v2/team-a/app/manifests/none")).await;
    check(
        &record,
        facts! { outcome: "allowed", status: 404, upstream_status: 404 },
    );

    let record = one(&lab, get(lab.user("alice"), "/v2/_catalog")).await;
    check(&record, facts! { outcome: "allowed", status: 200 });

    let record = one(
        &lab,
        get(lab.user("alice"), "/token?scope=repository:team-a/app:pull"),
    )
    .await;
    check(
        &record,
        facts! { event: "token", outcome: "allowed", user: "alice", status: 200 },
    );

    let record = one(&lab, get(lab.anonymous().basic("alice", "wrong"), "/token")).await;
    check(&record, facts! { outcome: "failed", status: 401 });

    let token = lab.token("alice", "repository:team-a/app:pull").await;
    let record = one(&lab, get(lab.anonymous().bearer(&token), tags)).await;
    check(
        &record,
        facts! { outcome: "allowed", auth: "token", user: "alice", status: 200 },
    );
}

#[tokio::test]
async fn the_reference_in_an_answer_is_the_records() {
    let lab = Lab::start().await;
    let answer = lab.user("bob").get("/v2/team-a/app/tags/list").send().await;
    let record = lab
        .audit()
        .find("the record", |record| record["ref"] == answer.reference())
        .await;
    assert_eq!(record["user"], "bob");
    // The reference does not tell how many requests there were.
    assert!(answer.reference().len() >= 6);
}

#[tokio::test]
async fn records_are_numbered_without_a_gap() {
    let lab = Lab::start().await;
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40_u32 {
        let http = if number.is_multiple_of(2) {
            Http::One
        } else {
            Http::Two
        };
        let call = lab.user("alice").over(http).get("/v2/team-a/app/tags/list");
        tasks.spawn(async move { call.send().await.status });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.unwrap(), 404);
    }
    let audit = lab.audit();
    crate::support::eventually("41 uses in the file", || {
        let records = audit.records();
        let events = ["request", "login"];
        let used = |record: &&Value| events.iter().any(|event| record["event"] == *event);
        (records.iter().filter(used).count() == 41).then_some(())
    })
    .await;
    let records = audit.records();
    let numbers: Vec<_> = records
        .iter()
        .map(|record| record["seq"].as_u64().unwrap())
        .collect();
    let first = numbers[0];
    let expected: Vec<_> = (first..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
    let mut refs: Vec<_> = records
        .iter()
        .map(|record| record["ref"].to_string())
        .collect();
    refs.sort();
    refs.dedup();
    assert_eq!(refs.len(), records.len(), "references repeat");
    // The first login was hashed, the others were not.
    let cached = records
        .iter()
        .filter(|record| record["cached"] == true)
        .count();
    assert_eq!(cached, 40);
}

#[tokio::test]
async fn clients_that_go_away_leave_a_record() {
    let upstream = Upstream::start(|seen| {
        if seen.target().ends_with("/slow") {
            Reply::SayAndHang(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789".to_vec())
        } else {
            Reply::Hang
        }
    })
    .await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    for http in Http::BOTH {
        let user = lab.user("alice").over(http);
        // While the registry thinks.
        let before = upstream.seen().len();
        let record = one(&lab, async {
            let waiting = tokio::spawn(user.get("/v2/team-a/app/manifests/v1").try_send());
            upstream.request(before).await;
            waiting.abort();
        })
        .await;
        check(
            &record,
            facts! { outcome: "aborted", user: "alice", reference: "v1" },
        );

        // In the middle of the answer.
        let record = one(&lab, async {
            drop(user.get("/v2/team-a/app/manifests/slow").open().await);
        })
        .await;
        check(&record, facts! { outcome: "aborted", reference: "slow" });
    }
}

#[tokio::test]
async fn requests_that_were_asked_for_a_credential_are_counted() {
    let lab = Lab::start().await;
    let mut quoted = Vec::new();
    for path in [
        "/v2/",
        "/v2/team-a/app/tags/list",
        "/v2/team-a/app/tags/list",
    ] {
        let answer = lab.anonymous().get(path).send().await;
        assert_eq!(answer.status, 401);
        quoted.push(answer.header("x-portcullis-ref").unwrap().to_owned());
    }
    lab.process.signal(Signal::HUP);
    let is_it = |record: &Value| record["outcome"] == "challenged";
    let record = lab.audit().find("the challenges", is_it).await;
    check(
        &record,
        facts! { event: "suppressed", count: 3, status: 401, repository: "team-a/app" },
    );
    assert!(quoted.iter().all(|reference| record["ref"] == **reference));
    assert_eq!(lab.audit().records().into_iter().filter(is_it).count(), 1);
}

#[tokio::test]
async fn whoever_sends_and_leaves_at_once_is_on_record() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let authority = lab.authority();
    let mut sent = Vec::new();
    for number in 0..20 {
        let mut stream = lab.anonymous().raw().await.unwrap();
        let agent = format!("hasty-{number}");
        let head = format!(
            "GET /v2/team-a/app/tags/list HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {agent}\r\n\
             Authorization: Basic Og==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        if number % 2 == 0 {
            // With a word, and without.
            stream.shutdown().await.unwrap();
        }
        drop(stream);
        sent.push(agent);
    }
    for agent in sent {
        let is_it = |record: &Value| record["agent"] == *agent;
        let record = lab.audit().find("the record", is_it).await;
        assert_eq!(record["repository"], "team-a/app", "{record:#}");
        let outcome = record["outcome"].as_str().unwrap();
        // Some are quick enough to be heard.
        assert!(["aborted", "failed"].contains(&outcome), "{record:#}");
        let count = lab.audit().records().into_iter().filter(is_it).count();
        assert_eq!(count, 1, "{agent}");
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_push_that_is_broken_off_leaves_a_record() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let record = one(&lab, async {
        let (feeder, body) = Outgoing::fed();
        let sent = tokio::spawn(alice.patch(&session).body(body).try_send());
        feeder.send(Ok(noise(1, 50_000))).await.unwrap();
        feeder
            .send(Err(std::io::Error::other("enough")))
            .await
            .unwrap();
        drop(feeder);
        assert!(sent.await.unwrap().is_err());
    })
    .await;
    check(
        &record,
        facts! { outcome: "aborted", action: "push", repository: "team-a/app" },
    );
}

#[tokio::test]
async fn an_upstream_that_is_down_is_an_error_in_the_record() {
    let mut lab = Lab::start().await;
    let registry = &mut lab.registry_mut().process;
    registry.signal(Signal::KILL);
    registry.wait().await;
    let record = one(&lab, async {
        lab.user("alice")
            .get("/v2/team-a/app/tags/list")
            .send()
            .await;
    })
    .await;
    check(
        &record,
        facts! { outcome: "error", user: "alice", upstream_status: Value::Null },
    );
    assert!(
        matches!(record["status"].as_u64(), Some(502 | 503)),
        "{record:#}"
    );
}

#[tokio::test]
async fn bytes_are_counted_both_ways() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let blob = noise(1, 123_456);
    let session = begin_upload(&alice, "team-a/app").await;
    let record = one(&lab, async {
        finish_upload(&alice, &session, blob.clone(), &digest(&blob)).await;
    })
    .await;
    check(
        &record,
        facts! { bytes_in: 123_456, status: 201, reference: digest(&blob) },
    );
    let record = one(&lab, async {
        alice
            .get(&format!("/v2/team-a/app/blobs/{}", digest(&blob)))
            .send()
            .await;
    })
    .await;
    check(&record, facts! { bytes_out: 123_456, status: 200 });
}

#[tokio::test]
async fn starting_and_reloading_are_recorded() {
    let mut lab = Lab::start().await;
    lab.audit().after(0, 1).await;
    assert_eq!(lab.audit().records()[0]["event"], "start");
    assert_eq!(lab.reload().await, "allowed");
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    assert_eq!(lab.audit().records().last().unwrap()["event"], "stop");
}

#[tokio::test]
async fn no_secret_is_ever_written() {
    let lab = Lab::builder().log("trace").start().await;
    let alice = lab.user("alice");
    Image::new(1).push(&alice, "team-a/app", "v1").await;
    let session = begin_upload(&alice, "team-a/app").await;
    let state = session.split_once('?').unwrap().1.to_owned();
    lab.user("bob").patch(&session).body("x").send().await;
    let answer = alice
        .get("/token?account=alice&offline_token=true")
        .send()
        .await;
    let json = answer.json();
    let access = json["token"].as_str().unwrap().to_owned();
    let refresh = json["refresh_token"].as_str().unwrap().to_owned();
    lab.anonymous()
        .bearer(&access)
        .get("/v2/team-b/x/tags/list")
        .send()
        .await;
    lab.anonymous()
        .bearer(&format!("{access}x"))
        .get("/v2/")
        .send()
        .await;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh.as_str()),
    ];
    lab.anonymous().post("/token").form(&form).send().await;
    let typo = format!("typo-{}", password("alice"));
    lab.anonymous()
        .basic("alice", &typo)
        .get("/v2/")
        .send()
        .await;
    let query = format!("/v2/?access_token={access}&password={typo}");
    lab.anonymous().get(&query).send().await;
    push_blob(&alice, "team-a/app", &noise(1, 10)).await;
    lab.user("bob").get("/v2/").send().await;
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let (access, refresh) = (signature(&access), signature(&refresh));
    lab.assert_no_secret(&[
        &access,
        &refresh,
        &state,
        &typo,
        &basic("alice", &typo)[6..],
    ]);
}

#[tokio::test]
async fn what_attackers_write_stays_in_one_ascii_line() {
    let lab = Lab::start().await;
    let names = [
        "a\u{202e}b",
        "\u{85}x",
        "\"},{\"user\":\"ada",
        "x\u{2028}y",
        &"n".repeat(5000),
    ];
    for name in names {
        let client = lab.anonymous().basic(name, "wrong");
        let answer = client
            .get("/v2/")
            .header(
                "user-agent",
                format!("\"agent\u{9b}31m{}", "a".repeat(5000)),
            )
            .try_send()
            .await;
        // A head over the limit may just be cut off.
        if let Ok(answer) = answer {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    lab.user("stranger")
        .get("/v2/marker/x/tags/list")
        .send()
        .await;
    lab.audit()
        .find("the marker", |record| record["repository"] == "marker/x")
        .await;
    let text = lab.audit().text();
    assert!(
        text.bytes()
            .all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte))
    );
    for record in lab.audit().records() {
        assert_ne!(record["user"], "ada");
        let line = record.to_string();
        assert!(line.len() < 4096, "{} bytes in one record", line.len());
    }
}

#[tokio::test]
async fn the_file_is_opened_again_at_a_reload() {
    let lab = Lab::start().await;
    lab.user("alice").get("/v2/").send().await;
    lab.audit()
        .find("alice", |record| record["user"] == "alice")
        .await;
    let (from, to) = (
        lab.folder.join("audit.jsonl"),
        lab.folder.join("audit.jsonl.1"),
    );
    std::fs::rename(from, &to).unwrap();
    assert_eq!(lab.reload().await, "allowed");
    lab.user("bob").get("/v2/").send().await;
    lab.audit()
        .find("bob", |record| record["user"] == "bob")
        .await;
    assert!(!std::fs::read_to_string(to).unwrap().contains("\"bob\""));
}

/// A disk that was full before the start is answered as one that fills up later.
#[tokio::test]
async fn what_is_served_without_records_is_as_configured() {
    let cases = [
        ("serve", 404, 200, 202),
        ("refuse-writes", 404, 200, 503),
        ("refuse", 503, 503, 503),
    ];
    for (mode, read, token, write) in cases {
        let lines = format!("file = \"/dev/full\"\nwhen_unwritable = \"{mode}\"");
        let lab = Lab::builder().audit(&lines).start().await;
        let alice = lab.user("alice");
        let uploads = "/v2/team-a/app/blobs/uploads/";
        let seen = [
            alice.get("/v2/team-a/app/manifests/none").send().await,
            alice
                .get("/token?scope=repository:team-a/app:pull")
                .send()
                .await,
            alice.post(uploads).send().await,
        ];
        let statuses = seen.map(|answer| answer.status);
        assert_eq!(statuses, [read, token, write], "{mode}");
    }
}

#[tokio::test]
async fn a_broken_line_keeps_only_its_own_user_out_at_the_start() {
    let users = htpasswd(&[("alice", &password("alice"))]) + "bob:$2y$05$short\nno colon\n";
    let lab = Lab::builder().file("htpasswd", users).start().await;
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    assert_eq!(lab.user("bob").get("/v2/").send().await.status, 401);
    let log = lab.process.log();
    assert!(
        log.contains("htpasswd:2") && log.contains("htpasswd:3"),
        "{log}"
    );
}
