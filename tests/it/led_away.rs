//! A registry that leads clients elsewhere, or whose answers say more than the API has; and object
//! stores, where it may lead them.

use crate::support::folder::Folder;
use crate::support::http::{Client, basic};
use crate::support::image::{Image, MANIFEST, digest, finish_upload, noise, push_blob};
use crate::support::registry::Registry;
use crate::support::{Http, Lab, Reply, Upstream, password};

const UPLOADS: &str = "/v2/team-a/app/blobs/uploads/";
const TAG: &str = "/v2/team-a/app/manifests/v1";

/// A registry that answers with the status and `Location` that the request's `Pragma` names.
async fn obedient() -> Upstream {
    Upstream::start(|seen| {
        let orders = seen.values("pragma");
        let orders = orders.first().copied().unwrap_or_default();
        let (status, location) = orders.split_once(' ').unwrap_or((orders, ""));
        let lines: String = location
            .split(" and ")
            .filter(|one| !one.is_empty())
            .map(|one| format!("Location: {one}\r\n"))
            .collect();
        let head = format!("HTTP/1.1 {status} X\r\n{lines}Docker-Upload-UUID: stray\r\n");
        Reply::Say(format!("{head}Content-Length: 0\r\n\r\n").into_bytes())
    })
    .await
}

fn blob() -> String {
    format!("/v2/team-a/app/blobs/{}", digest(b"blob"))
}

#[tokio::test]
async fn uploads_go_on_in_their_own_repository_whatever_host_the_registry_names() {
    let upstream = obedient().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    for http in Http::BOTH {
        let alice = lab.user("alice").over(http);
        let begin = async |orders: String| {
            let call = alice.post(UPLOADS).header("pragma", orders);
            call.send().await
        };
        for host in [
            "",
            "http://127.0.0.1:1",
            "http://localhost:5000",
            "https://registry.test:443",
            "https://former.example.com:5000",
        ] {
            let answer = begin(format!("202 {host}{UPLOADS}u-1?_state=of-the-registry")).await;
            assert_eq!(answer.status, 202, "{host}: {answer:?}");
            let location = answer.header("location").unwrap();
            let start = format!("{UPLOADS}u-1?_state=");
            assert!(location.starts_with(&start), "{host}: {location}");
            assert!(!location.contains("of-the-registry"), "{location}");
            assert_eq!(answer.header("docker-upload-uuid"), Some("u-1"));
            // The next step finds the registry's own query again.
            upstream.take();
            let next = alice.patch(location).header("pragma", "202").body("x");
            assert_eq!(next.send().await.status, 202);
            assert!(
                upstream.take()[0]
                    .target()
                    .ends_with("u-1?_state=of-the-registry")
            );
        }
        for (location, place) in [
            (
                "http://evil.example:8080/v2/team-a/app/blobs/uploads",
                "http://evil.example:8080",
            ),
            (
                "http://evil.example/x?token=seeecret",
                "http://evil.example",
            ),
            (
                "https://evil.example/v2/team-a/other/blobs/uploads/x",
                "evil.example",
            ),
            (
                "/v2/team-a/other/blobs/uploads/x?_state=seeecret",
                "another path or repository",
            ),
            (
                "/prefix/v2/team-a/app/blobs/uploads/x",
                "another path or repository",
            ),
            (
                "/v2/team-a/app/blobs/uploads/../../../other",
                "another path or repository",
            ),
            (
                "//evil.example/v2/team-a/app/blobs/uploads/x",
                "what is no plain URL",
            ),
            (
                "https://a@evil.example/v2/team-a/app/blobs/uploads/x",
                "what is no plain URL",
            ),
            (
                "gopher://evil.example/v2/team-a/app/blobs/uploads/x",
                "what is no plain URL",
            ),
            (
                "/v2/team-a/app/blobs/uploads/x and http://evil.example/",
                "what is no plain URL",
            ),
        ] {
            let answer = begin(format!("202 {location}")).await;
            answer.assert_problem(502, "UNAVAILABLE");
            assert!(answer.message().contains(place), "{location}: {answer:?}");
            assert_eq!(answer.header("location"), None);
            let reference = answer.reference();
            let record = lab
                .audit()
                .find("the record", |record| record["ref"] == *reference)
                .await;
            assert!(
                record["reason"].as_str().unwrap().contains(place),
                "{record:#}"
            );
        }
        // So does each later step.
        let session = begin(format!("202 {UPLOADS}u-1")).await.location();
        let orders = "202 http://evil.example/v2/team-b/x/blobs/uploads/u-1";
        for call in [alice.patch(&session), alice.get(&session)] {
            let answer = call.header("pragma", orders).send().await;
            answer.assert_problem(502, "UNAVAILABLE");
        }
    }
    lab.assert_no_secret(&["seeecret", "of-the-registry"]);
}

#[tokio::test]
async fn what_has_been_done_does_not_fail_by_where_the_registry_leads() {
    let upstream = obedient().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let mona = lab.user("mona");
    let begun = mona
        .post(UPLOADS)
        .header("pragma", format!("202 {UPLOADS}u-1"));
    let session = begun.send().await.location();
    let finish = format!("{session}&digest={}", digest(b"blob"));
    let mount = format!("{UPLOADS}?mount={}&from=team-a/app", digest(b"blob"));
    for http in Http::BOTH {
        let mona = mona.over(http);
        let steps = || {
            [
                (mona.put(TAG).header("content-type", MANIFEST), 201),
                (mona.put(&finish), 201),
                (mona.post(&mount), 201),
                (mona.delete(TAG), 202),
            ]
        };
        for foreign in [
            "https://evil.example/x?token=seeecret",
            "//evil.example",
            "/v2/team-b/x/manifests/v1",
        ] {
            for (call, status) in steps() {
                let what = format!("{call} to {foreign}");
                let call = call.header("pragma", format!("{status} {foreign}"));
                let answer = call.send().await;
                assert_eq!(answer.status, status, "{what}: {answer:?}");
                assert_eq!(answer.header("location"), None, "{what}");
            }
        }
        for host in ["", "http://127.0.0.1:1", "https://former.example.com"] {
            for (call, status) in steps() {
                let what = format!("{call} at {host}");
                let call = call.header("pragma", format!("{status} {host}{}?x=y", blob()));
                let answer = call.send().await;
                assert_eq!(
                    answer.header("location"),
                    Some(&*blob()),
                    "{what}: {answer:?}"
                );
            }
        }
    }
    assert!(
        lab.process.log().contains("leads elsewhere"),
        "{}",
        lab.process.log()
    );
    lab.assert_no_secret(&["seeecret"]);
}

#[tokio::test]
async fn only_reads_of_blobs_are_redirected() {
    let upstream = obedient().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let mona = lab.user("mona");
    let begun = mona
        .post(UPLOADS)
        .header("pragma", format!("202 {UPLOADS}u-1"));
    let session = begun.send().await.location();
    let store = "https://store.example/x?signature=1";
    for http in Http::BOTH {
        let mona = mona.over(http);
        for status in ["301", "302", "303", "307", "308"] {
            for call in [mona.get(&blob()), mona.head(&blob())] {
                let answer = call
                    .header("pragma", format!("{status} {store}"))
                    .send()
                    .await;
                assert_eq!(answer.status.to_string(), status, "{answer:?}");
                assert_eq!(answer.header("location"), Some(store));
            }
            for call in [
                mona.get(TAG),
                mona.head(TAG),
                mona.get("/v2/team-a/app/tags/list"),
                mona.get(&session),
                mona.put(TAG).header("content-type", MANIFEST),
                mona.post(UPLOADS),
                mona.patch(&session),
                mona.put(&format!("{session}&digest={}", digest(b"blob"))),
                mona.delete(TAG),
                mona.delete(&blob()),
            ] {
                let what = call.to_string();
                let answer = call
                    .header("pragma", format!("{status} {store}"))
                    .send()
                    .await;
                assert_eq!(answer.status, 502, "{what}: {answer:?}");
                assert_eq!(answer.header("location"), None, "{what}");
            }
        }
        for orders in [
            format!("300 {store}"),
            format!("305 {store}"),
            "307".to_owned(),
            format!("307 {store} and {store}"),
            "307 /v2/team-a/other/blobs/x".to_owned(),
            "307 //store.example/x".to_owned(),
            "307 https://store.example@evil.example/x".to_owned(),
            "307 https://evil.example\\.store.example/x".to_owned(),
            "307 ftp://store.example/x".to_owned(),
        ] {
            let answer = mona.get(&blob()).header("pragma", &orders).send().await;
            assert_eq!(answer.status, 502, "{orders}: {answer:?}");
            assert_eq!(answer.header("location"), None, "{orders}");
        }
        // Who has the blob already is not led anywhere.
        let answer = mona.get(&blob()).header("pragma", format!("304 {store}"));
        let answer = answer.send().await;
        assert_eq!((answer.status, answer.header("location")), (304, None));
    }
}

#[tokio::test]
async fn redirects_lead_to_the_hosts_that_are_configured() {
    let upstream = obedient().await;
    let named =
        "redirect_hosts = [\"*.store.example\", \"alone.example:9000\", \"http://minio:9000\"]";
    let by_default = Lab::builder().upstream(upstream.url()).start().await;
    let strict = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys(named)
        .start()
        .await;
    let none = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys("redirect_hosts = []")
        .start()
        .await;
    for (location, usual, named) in [
        ("https://b.store.example/x?sig=1", true, true),
        ("https://store.example/x", true, false),
        ("https://alone.example:9000/x", true, true),
        ("https://alone.example/x", true, false),
        ("http://minio:9000/bucket/x", false, true),
        ("http://minio:9001/bucket/x", false, false),
        ("http://b.store.example/x", false, false),
    ] {
        for (lab, allowed) in [(&by_default, usual), (&strict, named), (&none, false)] {
            let call = lab.user("gina").get(&blob());
            let answer = call
                .header("pragma", format!("307 {location}"))
                .send()
                .await;
            if allowed {
                assert_eq!(answer.status, 307, "{location}: {answer:?}");
                assert_eq!(answer.header("location"), Some(location));
                continue;
            }
            answer.assert_problem(502, "UNAVAILABLE");
            let message = answer.message();
            let host = location
                .trim_start_matches("https://")
                .split("/x")
                .next()
                .unwrap();
            let host = host.trim_end_matches("/bucket");
            assert!(message.contains(host), "{message}");
            assert!(message.contains("upstream.redirect_hosts"), "{message}");
        }
    }
}

/// A registry whose blobs lie in an object store, as S3 and `MinIO` are used: reads are redirected to
/// an address that is good by itself.
#[tokio::test]
async fn an_object_store_behind_the_registry_stays_usable() {
    let stored = noise(1, 100_000);
    let bytes = stored.clone();
    let store = Upstream::start(move |seen| {
        let mut answer = match seen.target().contains("X-Amz-Signature=good") {
            true => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len()).into_bytes()
            }
            false => b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec(),
        };
        answer.extend_from_slice(&bytes);
        Reply::Say(answer)
    })
    .await;
    let signed = format!("{}/bucket/data?X-Amz-Signature=good", store.url());
    let upstream = Upstream::start(move |_| {
        let head = "HTTP/1.1 307 Temporary Redirect\r\nContent-Type: application/octet-stream\r\n";
        Reply::Say(format!("{head}Location: {signed}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    })
    .await;
    let keys = format!("redirect_hosts = [\"*\", \"{}\"]", store.url());
    let lab = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys(&keys)
        .start()
        .await;
    let blob = format!("/v2/team-a/app/blobs/{}", digest(&stored));
    for http in Http::BOTH {
        let answer = lab.user("gina").over(http).get(&blob).send().await;
        assert_eq!(answer.status, 307, "{answer:?}");
        let at_store = Client::plain(store.address)
            .get(&answer.location())
            .send()
            .await;
        assert_eq!((at_store.status, &at_store.body), (200, &stored));
    }
    // Nothing of the client's went to the registry that it could have put into the address.
    for seen in upstream.take() {
        assert!(!seen.has("authorization"), "{}", seen.head);
        assert!(!seen.head.contains(&basic("gina", &password("gina"))));
    }
    let record = lab
        .audit()
        .find("the record", |record| record["status"] == 307)
        .await;
    assert_eq!(record["outcome"], "allowed", "{record:#}");
}

#[tokio::test]
async fn a_registry_with_a_host_of_its_own_is_pushed_to() {
    for host in [
        "https://registry.test:443",
        "https://former.example.com:5000",
        "http://localhost:5000",
    ] {
        let folder = Folder::new();
        let registry = Registry::start_with(&folder, &format!(", host: '{host}'")).await;
        let url = format!("http://{}", registry.address);
        let lab = Lab::builder().upstream(url).start().await;
        let alice = lab.user("alice");
        let begun = alice.post(UPLOADS).send().await;
        let location = begun.header("location").unwrap().to_owned();
        assert!(location.starts_with(UPLOADS), "{host}: {location}");
        let layer = noise(1, 1000);
        let patched = alice.patch(&location).body(layer.clone()).send().await;
        assert_eq!(patched.status, 202, "{host}: {patched:?}");
        let done = finish_upload(&alice, &patched.location(), "".into(), &digest(&layer)).await;
        assert_eq!(done.status, 201, "{host}: {done:?}");
        let image = Image::new(2);
        let pushed = image.push(&alice, "team-a/app", "v1").await;
        assert_eq!(pushed.status, 201, "{host}: {pushed:?}");
        let place = format!("/v2/team-a/app/manifests/{}", image.digest());
        assert_eq!(pushed.header("location"), Some(&*place));
        let blob = push_blob(&alice, "team-a/app", &layer).await;
        assert_eq!(
            blob.location(),
            format!("/v2/team-a/app/blobs/{}", digest(&layer))
        );
    }
}

const LIST: &str = "/v2/team-a/app/tags/list";

#[tokio::test]
async fn headers_of_requests_cross_by_the_table() {
    let upstream = Upstream::agreeable().await;
    let usual = Lab::builder().upstream(upstream.url()).start().await;
    let keys = "pass_headers = [\"X-Meta-*\", \"X-Request-Id\"]";
    let more = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys(keys)
        .start()
        .await;
    let crosses = [
        ("accept", "a/b"),
        ("accept", "c/d"),
        ("accept-encoding", "zstd, gzip"),
        ("range", "bytes=0-1"),
        ("if-none-match", "\"x\""),
        ("user-agent", "docker/28"),
        ("oci-something", "1"),
        ("docker-distribution-api-version", "registry/2.0"),
    ];
    let stays = [
        ("x-webauth-user", "admin"),
        ("ssl-client-s-dn", "CN=admin"),
        ("x-auth-request-user", "admin"),
        ("x-remote-user", "admin"),
        ("x-ssl-client-cert", "x"),
        ("x-amz-security-token", "x"),
        ("origin", "https://evil.example"),
        ("referer", "https://evil.example"),
        ("sec-fetch-site", "same-origin"),
        ("baggage", "a=b"),
        ("b3", "0"),
        ("idempotency-key", "1"),
        ("accept-language", "de"),
    ];
    let asked_for = [
        ("x-meta-team", "a"),
        ("x-meta-team", "b"),
        ("x-request-id", "1"),
    ];
    for http in Http::BOTH {
        for (lab, passes) in [(&usual, false), (&more, true)] {
            let mut call = lab.user("gina").over(http).get(LIST);
            for (name, value) in stays.iter().chain(&crosses).chain(&asked_for).chain(&stays) {
                call = call.header(name, *value);
            }
            assert_eq!(call.send().await.status, 200);
            let seen = upstream.take().remove(0);
            let lines = seen.head.trim_end().lines().skip(1);
            let lines = lines.map(|line| line.split_once(": ").unwrap());
            let lines = lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
            let ours = ["host", "x-forwarded-proto", "x-forwarded-for"];
            let arrived: Vec<_> = lines.filter(|(name, _)| !ours.contains(&&**name)).collect();
            let asked_for = if passes { &asked_for[..] } else { &[] };
            let expected = crosses.iter().chain(asked_for);
            let expected = expected.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            assert_eq!(arrived, expected.collect::<Vec<_>>(), "{}", seen.head);
        }
    }
}

#[tokio::test]
async fn headers_of_answers_cross_by_the_table() {
    let upstream = Upstream::start(|_| {
        Reply::Say(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
              Set-Cookie: a=b\r\nAlt-Svc: h3=\":443\"\r\nRefresh: 0; url=https://evil.example\r\n\
              Clear-Site-Data: \"*\"\r\nWWW-Authenticate: Basic\r\nProxy-Authenticate: Basic\r\n\
              Authentication-Info: x\r\nX-Accel-Redirect: /secret\r\nServer: x\r\n\
              Access-Control-Allow-Origin: *\r\nContent-Location: https://evil.example\r\n\
              Strict-Transport-Security: max-age=1\r\nX-Request-Id: 1\r\n\
              Warning: 299 - \"a\"\r\nETag: \"x\"\r\nWarning: 299 - \"b\"\r\nVary: Accept\r\n\
              OCI-Subject: x\r\nDocker-Content-Digest: sha256:x\r\nConnection: vary\r\n\
              Link: <https://evil.example/>; rel=next\r\n\
              Link: </v2/team-a/app/tags/list?last=a>; rel=next\r\n\r\n{}"
                .to_vec(),
        )
    })
    .await;
    let usual = Lab::builder().upstream(upstream.url()).start().await;
    let keys = "pass_answer_headers = [\"Strict-Transport-Security\", \"x-request-id\"]";
    let more = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys(keys)
        .start()
        .await;
    for http in Http::BOTH {
        for (lab, passes) in [(&usual, false), (&more, true)] {
            let answer = lab.user("gina").over(http).get(LIST).send().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let mut names: Vec<_> = answer
                .headers
                .keys()
                .map(http::HeaderName::as_str)
                .collect();
            names.retain(|name| !matches!(*name, "date" | "connection"));
            names.sort_unstable();
            let mut expected = vec![
                "content-length",
                "content-type",
                "docker-content-digest",
                "docker-distribution-api-version",
                "etag",
                "link",
                "oci-subject",
                "warning",
            ];
            if passes {
                expected.extend(["strict-transport-security", "x-request-id"]);
                expected.sort_unstable();
            }
            assert_eq!(names, expected);
            let all = |name: &str| -> Vec<_> { answer.headers.get_all(name).iter().collect() };
            assert_eq!(all("warning"), ["299 - \"a\"", "299 - \"b\""]);
            assert_eq!(all("link"), ["</v2/team-a/app/tags/list?last=a>; rel=next"]);
        }
    }
}

/// A registry with one image, whose blobs are at this address.
async fn with_blobs_at(location: String) -> Upstream {
    let image = Image::new(1);
    let index = format!("{{\"manifests\":[{{\"digest\":\"{}\"}}]}}", image.digest());
    Upstream::start(move |seen| match seen.target() {
        "/v2/_catalog?n=10" => Reply::ok("{\"repositories\":[\"empty\",\"team-a/app\"]}"),
        "/v2/empty/tags/list?n=1" => Reply::ok("{\"tags\":null}"),
        "/v2/team-a/app/tags/list?n=1" => Reply::ok("{\"tags\":[\"v1\"]}"),
        TAG => Reply::ok(&index),
        target if target.ends_with(&image.digest()) => {
            Reply::ok(std::str::from_utf8(&image.manifest).unwrap())
        }
        target if target.contains("/blobs/") => Reply::Say(
            format!("HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into(),
        ),
        _ => Reply::ok("{}"),
    })
    .await
}

/// Exit code and JSON of `check --online`.
fn check(lab: &Lab) -> (Option<i32>, serde_json::Value) {
    let output = std::process::Command::new(crate::support::lab::PROGRAM)
        .args(["check", "--online", "--json", "--config"])
        .arg(lab.folder.join("portcullis.toml"))
        .output()
        .unwrap();
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn check_follows_one_blob() {
    let store = Upstream::agreeable().await;
    let upstream = with_blobs_at(format!("{}/bucket/x?sig=seeecret", store.url())).await;
    let keys = format!("redirect_hosts = [\"{}\"]", store.url());
    let lab = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys(&keys)
        .start()
        .await;
    let (code, report) = check(&lab);
    assert_eq!(code, Some(0), "{report:#}");
    let note = report["blobs"].as_str().unwrap();
    assert!(
        note.contains(&store.url()) && note.contains("200"),
        "{note}"
    );
    let [asked] = &store.take()[..] else {
        panic!("not followed")
    };
    assert_eq!(asked.target(), "/bucket/x?sig=seeecret");
    assert!(!asked.has("authorization"));

    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let (code, report) = check(&lab);
    assert_eq!(code, Some(1), "{report:#}");
    let found = report["findings"].to_string();
    assert!(
        found.contains(&store.url()) && found.contains("redirect_hosts"),
        "{found}"
    );
    assert!(!report.to_string().contains("seeecret"), "{report:#}");
    assert!(
        store.take().is_empty(),
        "followed to where no client may go"
    );

    let lab = Lab::start().await;
    let (code, report) = check(&lab);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(
        report["blobs"].as_str().unwrap().contains("no image yet"),
        "{report:#}"
    );
    Image::new(1)
        .push(&lab.user("alice"), "team-a/app", "v1")
        .await;
    let (code, report) = check(&lab);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(
        report["blobs"]
            .as_str()
            .unwrap()
            .contains("serves blobs itself"),
        "{report:#}"
    );
}
