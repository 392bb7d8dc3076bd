//! Requests without a credential are asked for one, and what they are told.

use serde_json::Value;

use crate::support::http::{Call, basic};
use crate::support::image::{Image, digest, push_blob};
use crate::support::{Answer, Client, Http, Lab, Reply, Upstream};

const PUBLIC: &str = "/v2/public/app/manifests/v1";
const LAYER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The one challenge of an answer.
#[track_caller]
fn challenge(answer: &Answer) -> String {
    assert_eq!(answer.status, 401, "{answer:?}");
    let all: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(all.len(), 1, "{answer:?}");
    all[0].to_str().unwrap().to_owned()
}

/// One of each call of the API, and the scope that it needs.
fn calls(client: &Client) -> Vec<(Call, String)> {
    let blob = format!("/v2/public/app/blobs/{LAYER}");
    let (pull, push) = (
        "repository:public/app:pull",
        "repository:public/app:pull,push",
    );
    let delete = "repository:public/app:delete";
    let mount = format!("/v2/public/app/blobs/uploads/?mount={LAYER}&from=team-a/app");
    [
        (client.get("/v2/_catalog"), "registry:catalog:*"),
        (client.get(PUBLIC), pull),
        (client.head(PUBLIC), pull),
        (client.get(&blob), pull),
        (client.head(&blob), pull),
        (client.get("/v2/public/app/tags/list"), pull),
        (
            client.get(&format!("/v2/public/app/referrers/{LAYER}")),
            pull,
        ),
        (
            client.get("/v2/team-a/app/tags/list"),
            "repository:team-a/app:pull",
        ),
        (client.post("/v2/public/app/blobs/uploads/"), push),
        (
            client.post(&mount),
            "repository:public/app:pull,push repository:team-a/app:pull",
        ),
        (client.patch("/v2/public/app/blobs/uploads/x"), push),
        (client.put(PUBLIC).body("{}"), push),
        (client.delete(PUBLIC), delete),
        (client.delete(&blob), delete),
    ]
    .map(|(call, scope)| (call, scope.to_owned()))
    .into()
}

#[tokio::test]
async fn every_request_without_a_credential_is_asked_for_one() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let host = lab.authority();
    for http in Http::BOTH {
        for (call, scope) in calls(&lab.anonymous().over(http)) {
            let told = format!("{call}");
            let answer = call.send().await;
            // Without an `error` clients take it for the first one.
            let expected =
                format!(r#"Bearer realm="https://{host}/token",service="{host}",scope="{scope}""#);
            assert_eq!(challenge(&answer), expected, "{told}");
            if answer.body.is_empty() {
                assert!(answer.header("x-portcullis-ref").is_some(), "{answer:?}");
            } else {
                answer.assert_problem(401, "UNAUTHORIZED");
                let login = format!("log in: docker login {host}");
                assert!(answer.message().starts_with(&login), "{answer:?}");
            }
        }
    }
    // What is no call of the API is none for anybody.
    let odd = lab
        .anonymous()
        .get("/v2/public/app/nothing/here")
        .send()
        .await;
    assert_eq!(odd.status, 404);
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
}

#[tokio::test]
async fn anonymous_callers_pull_with_a_token() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    for http in Http::BOTH {
        let nobody = lab.nobody().await.over(http);
        assert_eq!(nobody.get("/v2/").send().await.status, 200);
        assert_eq!(nobody.get(PUBLIC).send().await.status, 200);
        // What nobody may is not asked for again as if nothing had been said.
        let refused = nobody.get("/v2/team-a/app/tags/list").send().await;
        assert!(challenge(&refused).contains("repository:team-a/app:pull"));
        let empty = lab.anonymous().over(http).basic("", "");
        assert_eq!(empty.get(PUBLIC).send().await.status, 200);
    }
    // A token for nothing in particular proves that somebody is there.
    let bare = format!("/token?service={}", lab.authority());
    challenge(&lab.anonymous().get(&bare).send().await);
}

#[tokio::test]
async fn direct_callers_need_no_token() {
    let upstream = Upstream::agreeable().await;
    let builder = Lab::builder().upstream(upstream.url());
    for builder in [
        builder.direct(),
        Lab::builder().upstream(upstream.url()).challenge("basic"),
    ] {
        let lab = builder.start().await;
        for http in Http::BOTH {
            let nobody = lab.anonymous().over(http);
            assert_eq!(nobody.get(PUBLIC).send().await.status, 200);
            challenge(&nobody.get("/v2/").send().await);
            challenge(&nobody.get("/v2/team-a/app/tags/list").send().await);
            challenge(&nobody.post("/v2/public/app/blobs/uploads/").send().await);
        }
    }
}

#[tokio::test]
async fn a_reload_changes_how_anonymous_callers_come() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let status = async || lab.anonymous().get(PUBLIC).send().await.status;
    assert_eq!(status().await, 401);
    let config = lab.config();
    let direct = config.replace("[auth]\n", "[auth]\nanonymous = \"direct\"\n");
    lab.folder.write("portcullis.toml", &direct);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(status().await, 200);
    lab.folder.write("portcullis.toml", &config);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(status().await, 401);
}

/// Whoever waits to be asked is somebody on public repositories too, on record and in limits.
#[tokio::test]
async fn a_logged_in_client_that_waits_to_be_asked_is_never_limited_as_nobody() {
    let upstream = Upstream::agreeable().await;
    let limits = "[limits]\nanonymous_pulls = { count = 1, per = \"1h\" }\n";
    let builder = Lab::builder().upstream(upstream.url()).more(limits);
    let lab = builder.start().await;
    for _ in 0..4 {
        let asked = lab.anonymous().get(PUBLIC).send().await;
        let scope = challenge(&asked);
        let scope = scope
            .split("scope=\"")
            .nth(1)
            .unwrap()
            .trim_end_matches('"');
        let token = lab.token("alice", scope).await;
        let answer = lab.anonymous().bearer(&token).get(PUBLIC).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let is_hers = |record: &Value| record["object"] == "manifest" && record["user"] == "alice";
    lab.audit().find("her pull", is_hers).await;
    // Nobody has used up anything.
    let nobody = lab.nobody().await;
    assert_eq!(nobody.get(PUBLIC).send().await.status, 200);
    assert_eq!(nobody.get(PUBLIC).send().await.status, 429);
    // And a challenge is no pull, however many there are.
    challenge(&lab.anonymous().get(PUBLIC).send().await);
}

#[tokio::test]
async fn challenges_are_no_failures() {
    let upstream = Upstream::agreeable().await;
    // Each wrong password counts as ten requests.
    let more = "[limits]\nrequests_per_second = 100\nfailed_logins = { count = 3, per = \"5m\" }\n\
                [admin]\nlisten = \"127.0.0.1:PORT\"\n";
    let port = crate::support::process::free_port();
    let more = more.replace("PORT", &port.to_string());
    let lab = Lab::builder()
        .upstream(upstream.url())
        .more(&more)
        .start()
        .await;
    let nobody = lab.anonymous();
    for _ in 0..50 {
        challenge(&nobody.get(PUBLIC).send().await);
    }
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    // A reload has them written.
    assert_eq!(lab.reload().await, "allowed");
    let is_challenge = |record: &Value| record["outcome"] == "challenged";
    let record = lab.audit().find("the challenges", is_challenge).await;
    assert_eq!(record["count"], 50, "{record:#}");
    assert_eq!(
        (&record["user"], &record["status"]),
        (&Value::Null, &401.into())
    );
    let is_bad = |record: &Value| record["outcome"] == "failed" || record["outcome"] == "denied";
    assert!(!lab.audit().records().iter().any(is_bad));
    let admin = Client::plain(([127, 0, 0, 1], port).into());
    let metrics = admin.get("/metrics").send().await.text();
    assert!(metrics.contains("outcome=\"challenged\""), "{metrics}");
    let page = admin.get("/status").send().await.text();
    assert!(!page.contains("no credential"), "{page}");
    // Nothing but the health check has reached the registry.
    let seen = upstream.seen();
    assert!(seen.iter().all(|one| one.target() == "/v2/"), "{seen:?}");
}

// -- what a refusal says ---------------------------------------------------------------------------

#[tokio::test]
async fn a_refused_head_of_a_blob_is_404_and_the_next_request_says_why() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let blob = format!("/v2/team-b/app/blobs/{LAYER}");
    for http in Http::BOTH {
        let alice = lab.user("alice").over(http);
        let head = alice.head(&blob).send().await;
        assert_eq!((head.status, head.body.len()), (404, 0), "{head:?}");
        let reference = head.header("x-portcullis-ref").unwrap().to_owned();
        assert_eq!(
            head.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
        let is_it = |record: &Value| record["ref"] == *reference;
        let record = lab.audit().find("its record", is_it).await;
        assert_eq!(
            (&record["outcome"], &record["status"]),
            (&"denied".into(), &404.into())
        );
        // Everything else stays what it is.
        let post = alice.post("/v2/team-b/app/blobs/uploads/").send().await;
        post.assert_problem(403, "DENIED");
        assert!(
            post.message()
                .starts_with("alice may not push to team-b/app"),
            "{post:?}"
        );
        alice.get(&blob).send().await.assert_problem(403, "DENIED");
        let manifest = alice.head("/v2/team-b/app/manifests/v1").send().await;
        assert_eq!(manifest.status, 403);
        let nobody = lab.anonymous().over(http);
        for nobody in [
            nobody.clone(),
            nobody.basic("", ""),
            lab.nobody().await.over(http),
        ] {
            challenge(&nobody.head(&blob).send().await);
        }
        let narrow = lab.token("bob", "repository:team-b/other:pull").await;
        let lacking = nobody.bearer(&narrow).head(&blob).send().await;
        assert!(challenge(&lacking).contains("error=\"insufficient_scope\""));
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
}

#[tokio::test]
async fn a_refusal_names_who_what_and_where() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .file("htpasswd", odd_users())
        .start()
        .await;
    for (user, call, message) in [
        (
            "bob",
            "GET /v2/team-a/app/tags/list",
            "bob may not pull from team-a/app",
        ),
        (
            "bob",
            "PUT /v2/team-a/app/manifests/v1",
            "bob may not push to team-a/app",
        ),
        (
            "bob",
            "DELETE /v2/team-b/app/manifests/v1",
            "bob may not delete from team-b/app",
        ),
        (
            "o\"d<d>",
            "GET /v2/team-a/app/tags/list",
            "o\"d<d> may not pull from team-a/app",
        ),
    ] {
        let (method, path) = call.split_once(' ').unwrap();
        let client = lab.anonymous().with_authorization(basic(user, "pw"));
        let answer = client.call(method.parse().unwrap(), path).send().await;
        answer.assert_problem(403, "DENIED");
        assert!(answer.message().starts_with(message), "{answer:?}");
    }
}

fn odd_users() -> String {
    crate::support::lab::htpasswd(&[("bob", "pw"), ("o\"d<d>", "pw")])
}

#[tokio::test]
async fn another_host_is_told_which_one_this_is() {
    let lab = Lab::builder()
        .server("public_url = \"https://registry.example.com\"")
        .start()
        .await;
    for http in Http::BOTH {
        let mut client = lab.anonymous().over(http);
        client.authority = "10.0.0.5:5000".to_owned();
        let answer = client.get("/v2/").send().await;
        assert_eq!(answer.status, 421, "{answer:?}");
        let told = "this registry is registry.example.com, not 10.0.0.5:5000";
        assert!(answer.message().starts_with(told), "{answer:?}");
    }
}

// -- mounts ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_mount_is_challenged_for_its_source_where_that_helps_and_nowhere_else() {
    let lab = Lab::start().await;
    let blob = bytes::Bytes::from_static(b"a layer of bob's");
    push_blob(&lab.registry().client(), "team-b/secret", &blob).await;
    let mount = format!(
        "/v2/team-a/app/blobs/uploads/?mount={}&from=team-b/secret",
        digest(&blob)
    );
    let target = "repository:team-a/app:pull,push";
    for http in Http::BOTH {
        let by_token = async |user: &str, scope: &str| {
            let token = lab.token(user, scope).await;
            let client = lab.anonymous().over(http).bearer(&token);
            client.post(&mount).send().await
        };
        let answer = by_token("ada", target).await;
        let asked = challenge(&answer);
        let scopes = r#"scope="repository:team-a/app:pull,push repository:team-b/secret:pull""#;
        assert!(asked.contains(scopes), "{asked}");
        assert!(asked.ends_with(r#",error="insufficient_scope""#), "{asked}");
        // As asked for.
        let both = format!("{target}&scope=repository:team-b/secret:pull");
        assert_eq!(by_token("ada", &both).await.status, 201);
        // Where no token would help there is no second challenge, but an ordinary upload.
        assert_eq!(by_token("alice", target).await.status, 202);
        assert_eq!(by_token("alice", &both).await.status, 202);
        // A token for neither is told of what the policy allows.
        let other = "repository:team-a/other:pull";
        let asked = challenge(&by_token("alice", other).await);
        assert!(
            asked.contains(r#"scope="repository:team-a/app:pull,push","#),
            "{asked}"
        );
        assert!(challenge(&by_token("ada", other).await).contains(scopes));
    }
}

#[tokio::test]
async fn a_mounts_source_is_on_record_whatever_became_of_it() {
    let lab = Lab::start().await;
    let blob = bytes::Bytes::from_static(b"another layer of bob's");
    push_blob(&lab.registry().client(), "team-b/secret", &blob).await;
    let path = |repository: &str| {
        format!(
            "/v2/{repository}/blobs/uploads/?mount={}&from=team-b/secret",
            digest(&blob)
        )
    };
    let narrow = lab.token("ada", "repository:team-a/app:pull,push").await;
    for (number, (client, repository, status, allowed)) in [
        (lab.user("alice"), "team-a/app", 202, false),
        (lab.user("ada"), "team-a/app", 201, true),
        (lab.user("alice"), "team-b/app", 403, false),
        (lab.user("bob"), "team-a/app", 403, true),
        (lab.anonymous().bearer(&narrow), "team-a/app", 401, true),
        (
            lab.anonymous().basic("alice", "wrong"),
            "team-a/app",
            401,
            false,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let agent = format!("mount-{number}");
        let call = client.post(&path(repository)).header("user-agent", &agent);
        assert_eq!(call.send().await.status, status, "{agent}");
        let is_it = |record: &Value| record["agent"] == *agent;
        let record = lab.audit().find(&agent, is_it).await;
        assert_eq!(record["from"], "team-b/secret", "{record:#}");
        assert_eq!(record["from_allowed"], allowed, "{record:#}");
    }
    // Other records have none.
    Image::new(1)
        .push(&lab.user("ada"), "team-a/app", "v1")
        .await;
    let is_push = |record: &Value| record["object"] == "manifest" && record["method"] == "PUT";
    let record = lab.audit().find("a push", is_push).await;
    assert!(
        record["from"].is_null() && record["from_allowed"].is_null(),
        "{record:#}"
    );
}

/// What goes upstream is not mentioned to whoever may not see it.
#[tokio::test]
async fn a_challenge_does_not_tell_what_is_there() {
    let upstream = Upstream::start(|_| Reply::status("404 Not Found", "{}")).await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let face = async |repository: &str| {
        let path = format!("/v2/{repository}/manifests/v1");
        let answer = lab.anonymous().get(&path).send().await;
        let text = answer.text().replace(&answer.reference(), "");
        (challenge(&answer).replace(repository, ""), text)
    };
    assert_eq!(face("team-a/app").await, face("nowhere/at-all").await);
}
