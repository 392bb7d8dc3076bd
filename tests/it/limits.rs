//! How many pulls for whom, exactly; and floods.

use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::image::{Image, MANIFEST, digest};
use crate::support::{Answer, Client, Http, Lab, Reply, Upstream};

const V1: &str = "/v2/public/app/manifests/v1";
const BY_DIGEST: &str = "/v2/public/app/manifests/sha256:\
                         0000000000000000000000000000000000000000000000000000000000000000";
const MISSING: &str = "/v2/public/app/manifests/missing";
const BLOB: &str = "/v2/public/app/blobs/sha256:\
                    0000000000000000000000000000000000000000000000000000000000000000";

/// A registry with every manifest but `missing`; `slow` never answers.
async fn registry() -> Upstream {
    Upstream::start(|seen| match seen.target() {
        target if target.ends_with("/missing") => Reply::status("404 Not Found", "{}"),
        target if target.ends_with("/slow") => Reply::Hang,
        _ if seen.method() == "HEAD" => {
            Reply::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_vec())
        }
        target => {
            let name = target.rsplit('/').next().unwrap_or_default();
            Reply::Say(
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\
                     Docker-Content-Digest: {}\r\n\r\n{{}}",
                    digest(name.as_bytes())
                )
                .into_bytes(),
            )
        }
    })
    .await
}

async fn lab(upstream: &Upstream, sections: &str) -> Lab {
    let builder = Lab::builder().upstream(upstream.url());
    builder.more(sections).start().await
}

fn anonymous(count: u32) -> String {
    format!("[limits]\nanonymous_pulls = {{ count = {count}, per = \"6h\" }}\n")
}

/// What the answer says is left; `None` where nothing is limited.
#[track_caller]
fn left(answer: &Answer) -> Option<u32> {
    let (left, window) = answer
        .header("ratelimit-remaining")?
        .split_once(";w=")
        .unwrap();
    let limit = answer.header("ratelimit-limit").unwrap();
    assert!(limit.ends_with(&format!(";w={window}")), "{answer:?}");
    assert!(
        answer.header("docker-ratelimit-source").is_some(),
        "{answer:?}"
    );
    Some(left.parse().unwrap())
}

async fn status(client: &Client, path: &str) -> u16 {
    client.get(path).send().await.status
}

async fn get_left(client: &Client, path: &str) -> Option<u32> {
    let answer = client.get(path).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    left(&answer)
}

async fn head_left(client: &Client, path: &str) -> Option<u32> {
    let answer = client.head(path).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    left(&answer)
}

#[tokio::test]
async fn an_image_costs_one_and_one_for_several_platforms_two() {
    let lab = Lab::builder().more(&anonymous(5)).start().await;
    let (ada, nobody) = (lab.user("ada"), lab.nobody().await);
    let image = Image::new(1);
    assert_eq!(image.push(&ada, "public/app", "v1").await.status, 201);
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": index_type,
        "manifests": [{
            "mediaType": MANIFEST, "digest": image.digest(), "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": "amd64"},
        }],
    });
    let index = Bytes::from(index.to_string());
    let put = ada
        .put("/v2/public/app/manifests/multi")
        .header("content-type", index_type);
    assert_eq!(put.body(index.clone()).send().await.status, 201);

    // As docker pulls an image: HEAD by tag, GET by digest, blobs.
    let manifest = format!("/v2/public/app/manifests/{}", image.digest());
    assert_eq!(
        nobody
            .head(V1)
            .header("accept", MANIFEST)
            .send()
            .await
            .status,
        200
    );
    let answer = nobody
        .get(&manifest)
        .header("accept", MANIFEST)
        .send()
        .await;
    assert_eq!(
        (left(&answer), answer.header("ratelimit-limit")),
        (Some(4), Some("5;w=21600"))
    );
    assert_eq!(answer.header("docker-ratelimit-source"), Some("127.0.0.1"));
    for blob in [&image.config, &image.layer] {
        let answer = nobody
            .get(&format!("/v2/public/app/blobs/{}", digest(blob)))
            .send()
            .await;
        assert_eq!((answer.status, left(&answer)), (200, None));
    }
    // As it pulls one for several platforms.
    let by_digest = format!("/v2/public/app/manifests/{}", digest(&index));
    let answer = nobody
        .get(&by_digest)
        .header("accept", index_type)
        .send()
        .await;
    assert_eq!(left(&answer), Some(3));
    let answer = nobody
        .get(&manifest)
        .header("accept", MANIFEST)
        .send()
        .await;
    assert_eq!(left(&answer), Some(2));
    // What is not there costs nothing, nor does what has not changed.
    let answer = nobody.get(MISSING).send().await;
    assert_eq!((answer.status, left(&answer)), (404, Some(2)));
    let same = nobody
        .get(&manifest)
        .header("if-none-match", format!("\"{}\"", image.digest()));
    let answer = same.header("accept", MANIFEST).send().await;
    assert_eq!((answer.status, left(&answer)), (304, Some(2)), "{answer:?}");
    // Users are not limited here, and are told nothing.
    let answer = ada.get(V1).header("accept", MANIFEST).send().await;
    assert_eq!((answer.status, left(&answer)), (200, None));
}

#[tokio::test]
async fn the_refusal_says_what_to_do_and_costs_the_registry_nothing() {
    let upstream = registry().await;
    let lab = lab(&upstream, &anonymous(3)).await;
    let nobody = lab.nobody().await;
    for expected in [2, 1, 0] {
        assert_eq!(get_left(&nobody, V1).await, Some(expected));
    }
    upstream.take();
    for http in Http::BOTH {
        let answer = nobody.over(http).get(V1).send().await;
        answer.assert_problem(429, "TOOMANYREQUESTS");
        let login = format!("docker login {}", lab.authority());
        let text = answer.text();
        assert!(
            text.contains(&login) && text.contains("3 pulls in 6 h"),
            "{text}"
        );
        assert!(text.contains("or try again in "), "{text}");
        // skopeo waits as long as this says, without a word.
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert_eq!(left(&answer), Some(0));
    }
    assert!(
        upstream.take().is_empty(),
        "a refused pull reached the registry"
    );
    let record = lab
        .audit()
        .find("its record", |one| one["status"] == 429)
        .await;
    assert_eq!(record["outcome"], "limited");
    assert_eq!(
        (&record["repository"], &record["client"]),
        (&"public/app".into(), &"127.0.0.1".into())
    );
    assert!(
        record["reason"].as_str().unwrap().contains("3 pulls"),
        "{record}"
    );
    // What was admitted goes on: the blobs; and what costs nothing.
    assert_eq!(head_left(&nobody, V1).await, Some(0));
    assert_eq!(status(&nobody, BLOB).await, 200);
    assert_eq!(status(&nobody, "/v2/public/app/tags/list").await, 200);
    // Whoever logs in may.
    assert_eq!(status(&lab.user("ada"), V1).await, 200);
    // Where a password is needed, 429 would hide it.
    nobody
        .get("/v2/team-a/app/manifests/v1")
        .send()
        .await
        .assert_problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn there_is_no_way_around() {
    let upstream = registry().await;
    let builder = Lab::builder().upstream(upstream.url());
    let builder = builder.direct().more(&anonymous(6));
    let lab = builder.start().await;
    let nobody = lab.anonymous();
    let token = nobody.get(&format!(
        "/token?service={}&scope=repository:public/app:pull",
        lab.authority()
    ));
    let token = token.send().await.json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    // Each of these is a pull by the same anonymous caller.
    let ways = [
        (nobody.clone(), V1),
        (nobody.clone(), BY_DIGEST),
        (nobody.over(Http::Two), V1),
        (nobody.bearer(&token), V1),
        (nobody.basic("", ""), "/v2/public/other/manifests/latest"),
        (nobody.over(Http::Two).bearer(&token), BY_DIGEST),
    ];
    for (expected, (client, path)) in (0..6).rev().zip(&ways) {
        assert_eq!(get_left(client, path).await, Some(expected));
    }
    for (client, path) in &ways {
        assert_eq!(status(client, path).await, 429);
    }
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1"),
        ("x-real-ip", "192.0.2.1"),
        ("cookie", "a=b"),
        ("accept", "*/*"),
        ("if-none-match", "\"x\""),
    ] {
        let answer = nobody.get(V1).header(name, value).send().await;
        assert_eq!(answer.status, 429, "{name}");
    }
    // Junk is a wrong credential, and not nobody.
    for junk in [
        "junk",
        "Bearer",
        "Bearer junk",
        "Basic junk",
        "Digest a=b",
        "Negotiate x",
    ] {
        let answer = nobody.with_authorization(junk).get(V1).send().await;
        assert_eq!(answer.status, 401, "{junk}: {answer:?}");
    }
    assert_eq!(status(&nobody.basic("ada", "wrong"), V1).await, 401);
    assert_eq!(head_left(&nobody, V1).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_get_exactly_what_there_is() {
    let upstream = registry().await;
    let lab = lab(&upstream, &anonymous(20)).await;
    let nobody = lab.nobody().await;
    let mut pulls = tokio::task::JoinSet::new();
    for number in 0..50 {
        let http = Http::BOTH[number % 2];
        let path = if number % 3 == 0 { BY_DIGEST } else { V1 };
        pulls.spawn(nobody.over(http).get(path).send());
    }
    let answers = pulls.join_all().await;
    let served = answers.iter().filter(|answer| answer.status == 200);
    let mut remaining: Vec<_> = served.map(|answer| left(answer).unwrap()).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, (0..20).collect::<Vec<_>>());
    let refused = answers.iter().filter(|answer| answer.status == 429);
    assert_eq!(refused.count(), 30);
    let gets = upstream.seen().len();
    assert_eq!(
        gets, 20,
        "the registry was asked for more than was paid for"
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_pays_nothing() {
    let upstream = registry().await;
    let lab = lab(&upstream, &anonymous(2)).await;
    let nobody = lab.nobody().await;
    for (number, http) in Http::BOTH.into_iter().enumerate() {
        let slow = tokio::spawn(
            nobody
                .over(http)
                .get("/v2/public/app/manifests/slow")
                .send(),
        );
        upstream.request(number).await;
        slow.abort();
    }
    let mut remaining = None;
    for _ in 0..200 {
        remaining = left(&nobody.head(V1).send().await);
        if remaining == Some(2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(remaining, Some(2));
}

#[tokio::test]
async fn each_address_and_each_user_has_a_count_of_their_own() {
    let upstream = registry().await;
    let sections = format!(
        "{}authenticated_pulls = {{ count = 3, per = \"1h\" }}\n\
         [[limit]]\nwho = [\"user:mona\"]\ncount = 0\nper = \"1h\"\n\
         [[limit]]\nwho = [\"group:team-a\"]\nrepositories = [\"team-a/big\"]\ncount = 1\nper = \"1d\"\n",
        anonymous(2)
    );
    let lab = lab(&upstream, &sections).await;
    for last in 2..6 {
        let nobody = lab.nobody().await.out_of([127, 0, 0, last]);
        assert_eq!(get_left(&nobody, V1).await, Some(1));
        assert_eq!(get_left(&nobody, V1).await, Some(0));
        assert_eq!(status(&nobody, V1).await, 429);
        let answer = nobody.head(V1).send().await;
        let source = format!("127.0.0.{last}");
        assert_eq!(
            answer.header("docker-ratelimit-source"),
            Some(source.as_str())
        );
    }
    // A user is the same everywhere, by password and by token.
    let path = "/v2/team-a/app/manifests/v1";
    let alice = lab.user("alice");
    assert_eq!(get_left(&alice.out_of([127, 0, 0, 2]), path).await, Some(2));
    let token = lab.token("alice", "repository:team-a/app:pull").await;
    let answer = lab
        .anonymous()
        .out_of([127, 0, 0, 3])
        .bearer(&token)
        .get(path)
        .send()
        .await;
    assert_eq!(left(&answer), Some(1));
    assert_eq!(answer.header("ratelimit-limit"), Some("3;w=3600"));
    assert_eq!(answer.header("docker-ratelimit-source"), Some("alice"));
    assert_eq!(get_left(&alice, path).await, Some(0));
    let answer = alice.get(path).send().await;
    answer.assert_problem(429, "TOOMANYREQUESTS");
    assert!(answer.text().contains("user alice") && !answer.text().contains("docker login"));
    assert_eq!(get_left(&lab.user("gina"), path).await, Some(2));
    // Tables of their own: without a limit, and with another one for one repository.
    assert_eq!(get_left(&lab.user("mona"), path).await, None);
    let big = "/v2/team-a/big/manifests/v1";
    let answer = alice.get(big).send().await;
    assert_eq!(
        (left(&answer), answer.header("ratelimit-limit")),
        (Some(0), Some("1;w=86400"))
    );
    assert_eq!(status(&alice, big).await, 429);
    // Who is refused pays nothing.
    assert_eq!(status(&lab.user("stranger"), path).await, 403);
    assert_eq!(get_left(&lab.user("stranger"), V1).await, Some(2));
}

#[tokio::test]
async fn a_reload_keeps_counts_and_changed_limits_judge_them() {
    let upstream = registry().await;
    let lab = lab(&upstream, &anonymous(4)).await;
    let nobody = lab.nobody().await;
    assert_eq!(get_left(&nobody, V1).await, Some(3));
    assert_eq!(get_left(&nobody, V1).await, Some(2));
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(head_left(&nobody, V1).await, Some(2));
    let config = lab.config();
    let with = async |limit: &str| {
        let config = config.replace("{ count = 4, per = \"6h\" }", limit);
        lab.folder.replace("portcullis.toml", config);
        assert_eq!(lab.reload().await, "allowed");
    };
    with("{ count = 1, per = \"6h\" }").await;
    assert_eq!(head_left(&nobody, V1).await, Some(0));
    assert_eq!(status(&nobody, V1).await, 429);
    with("{ count = 10, per = \"1h\" }").await;
    assert_eq!(get_left(&nobody, V1).await, Some(7));
    with("{ count = 0, per = \"1h\" }").await;
    assert_eq!(get_left(&nobody, V1).await, None);
    with("{ count = 4, per = \"6h\" }").await;
    assert_eq!(head_left(&nobody, V1).await, Some(1));
    // A configuration that is refused changes nothing.
    lab.folder
        .replace("portcullis.toml", config.replace("count = 4", "count = -4"));
    assert_ne!(lab.reload().await, "allowed");
    assert_eq!(get_left(&nobody, V1).await, Some(0));
    assert_eq!(status(&nobody, V1).await, 429);
}

#[tokio::test]
async fn a_window_slides() {
    let upstream = registry().await;
    let lab = lab(
        &upstream,
        "[limits]\nanonymous_pulls = { count = 2, per = \"1s\" }\n\
         requests_per_second = 0\nconnections_per_second = 0\n",
    )
    .await;
    let nobody = lab.nobody().await;
    let mut served = Vec::new();
    while served.len() < 6 {
        let before = std::time::Instant::now();
        if status(&nobody, V1).await == 200 {
            served.push((before, std::time::Instant::now()));
        }
    }
    // Never three of them within a second: from the beginning of one to the end of the third.
    for three in served.windows(3) {
        let span = three[2].1.duration_since(three[0].0);
        assert!(span >= Duration::from_millis(999), "{span:?}");
    }
}

#[tokio::test]
async fn repeats_are_free_where_so_configured() {
    let upstream = registry().await;
    let lab = lab(&upstream, &(anonymous(2) + "repeat_free = \"1h\"\n")).await;
    let nobody = lab.nobody().await;
    let first = format!("/v2/public/app/manifests/{}", digest(b"v1"));
    assert_eq!(get_left(&nobody, V1).await, Some(1));
    assert_eq!(get_left(&nobody, V1).await, Some(1));
    assert_eq!(
        get_left(&nobody, "/v2/public/app/manifests/v2").await,
        Some(0)
    );
    // By digest it is known to be a repeat before the registry is asked, by tag it is not.
    assert_eq!(status(&nobody, V1).await, 429);
    assert_eq!(
        status(&nobody.over(Http::Two), "/v2/public/app/manifests/v3").await,
        429
    );
    let repeats = lab.nobody().await.out_of([127, 0, 0, 9]);
    assert_eq!(
        get_left(&repeats, "/v2/public/app/manifests/v2").await,
        Some(1)
    );
    assert_eq!(status(&nobody, &first).await, 200);
}

#[tokio::test]
async fn a_flood_is_turned_away_before_anything_else() {
    let upstream = registry().await;
    let mut lab = lab(&upstream, "[limits]\nrequests_per_second = 3\n").await;
    let flood = lab.anonymous().out_of([127, 0, 0, 7]);
    for http in Http::BOTH {
        let mut connection = flood.over(http).connect().await;
        for _ in 0..15 {
            let answer = connection.send(flood.over(http).get("/v2/")).await;
            assert!(matches!(answer.status, 401 | 429), "{answer:?}");
        }
    }
    // Thirty in ten seconds were right; whatever is asked and said now, it is not looked at.
    for path in ["/v2/", V1, "/token", "/nonsense"] {
        for client in [flood.clone(), flood.over(Http::Two).basic("ada", "wrong")] {
            let answer = client.get(path).send().await;
            answer.assert_problem(429, "TOOMANYREQUESTS");
            assert_eq!(answer.header("retry-after"), Some("10"));
        }
    }
    let push = flood
        .post("/v2/team-a/app/blobs/uploads/")
        .body("not read")
        .send()
        .await;
    assert_eq!(
        (push.status, push.header("connection")),
        (429, Some("close"))
    );
    assert!(upstream.take().is_empty());
    // Others do not notice.
    assert_eq!(status(&lab.user("ada"), V1).await, 200);
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let records = lab.audit().records();
    let told: Vec<&Value> = records
        .iter()
        .filter(|one| one["event"] == "suppressed" && one["outcome"] == "limited")
        .collect();
    let [told] = told.as_slice() else {
        panic!("one record of the flood: {told:?}")
    };
    assert_eq!(
        (&told["outcome"], &told["client"]),
        (&"limited".into(), &"127.0.0.7".into())
    );
    let reason = told["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("9 request records") && reason.contains("over requests_per_second (9)"),
        "{reason}"
    );
    assert!(
        records
            .iter()
            .all(|one| one["status"] != 429 || one["event"] == "suppressed")
    );
}

#[tokio::test]
async fn wrong_passwords_use_up_the_rate_faster() {
    let upstream = registry().await;
    let lab = lab(&upstream, "[limits]\nrequests_per_second = 5\n").await;
    let guesser = lab.anonymous().out_of([127, 0, 0, 8]);
    let mut told = 0;
    for number in 0..20 {
        let client = guesser.basic("ada", &format!("guess {number}"));
        told += u32::from(client.get("/token").send().await.status == 401);
    }
    assert!(told <= 5, "{told} guesses were answered");
}

#[tokio::test]
async fn connections_that_come_too_fast_are_closed() {
    let upstream = registry().await;
    let lab = lab(&upstream, "[limits]\nconnections_per_second = 2\n").await;
    let greedy = lab.anonymous().out_of([127, 0, 0, 6]);
    let mut made = 0;
    for _ in 0..40 {
        made += u32::from(greedy.raw().await.is_ok());
    }
    assert!((20..=24).contains(&made), "{made}");
    assert_eq!(
        status(&lab.user("ada").out_of([127, 0, 0, 5]), V1).await,
        200
    );
}

#[tokio::test]
async fn requests_at_a_time_are_limited_until_the_end_of_their_answers() {
    let upstream = registry().await;
    let lab = lab(&upstream, "[limits]\nconcurrent_requests = 2\n").await;
    let client = lab.nobody().await;
    let slow = || tokio::spawn(client.get("/v2/public/app/manifests/slow").send());
    let running = [slow(), slow()];
    upstream.request(1).await;
    assert_eq!(status(&client, V1).await, 429);
    running.iter().for_each(tokio::task::JoinHandle::abort);
    let mut answered = 0;
    for _ in 0..200 {
        answered = status(&client, V1).await;
        if answered == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(answered, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_builds_behind_one_address_are_never_refused() {
    let upstream = registry().await;
    // The defaults but for the pulls, which fifty builds would use up.
    let lab = lab(&upstream, &anonymous(0)).await;
    let mut builds = tokio::task::JoinSet::new();
    for number in 0..50 {
        let client = lab.nobody().await.over(Http::BOTH[number % 2]);
        builds.spawn(async move {
            let mut connection = client.connect().await;
            for path in [
                "/v2/", V1, BY_DIGEST, BLOB, BLOB, BLOB, BLOB, BLOB, BLOB, BLOB,
            ] {
                let answer = connection.send(client.get(path)).await;
                assert!(matches!(answer.status, 200 | 401), "{answer:?}");
            }
        });
    }
    builds.join_all().await;
}
