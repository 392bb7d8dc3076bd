//! Who is let in, who is asked, and what a refusal looks like.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http::basic;
use crate::support::{Answer, Http, Lab, PATIENCE, Upstream, password, within};

fn challenges(answer: &Answer) -> Vec<String> {
    let values = answer.headers.get_all("www-authenticate").iter();
    values
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

/// Everything of an answer but what is meant to differ each time.
fn face(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| {
            let value = value.to_str().unwrap().replace(&answer.reference(), "REF");
            (name.to_string(), value)
        })
        .collect();
    headers.sort();
    (
        answer.status,
        headers,
        answer.text().replace(&answer.reference(), "REF"),
    )
}

#[tokio::test]
async fn the_ping_is_challenged_with_exactly_one_bearer_challenge() {
    let lab = Lab::start().await;
    let host = lab.authority();
    for http in Http::BOTH {
        let answer = lab.anonymous().over(http).get("/v2/").send().await;
        answer.assert_problem(401, "UNAUTHORIZED");
        let expected = format!(r#"Bearer realm="https://{host}/token",service="{host}""#);
        assert_eq!(challenges(&answer), [expected]);

        let head = lab.anonymous().over(http).head("/v2/").send().await;
        assert_eq!((head.status, head.body.len()), (401, 0));
        assert_eq!(challenges(&head), challenges(&answer));
    }
}

#[tokio::test]
async fn basic_can_be_made_the_challenge() {
    let lab = Lab::builder().challenge("basic").start().await;
    let answer = lab.anonymous().get("/v2/").send().await;
    answer.assert_problem(401, "UNAUTHORIZED");
    assert_eq!(
        challenges(&answer),
        [format!(r#"Basic realm="{}""#, lab.authority())]
    );
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn a_challenge_on_a_repository_names_the_scope() {
    let lab = Lab::start().await;
    let answer = lab.anonymous().get("/v2/team-a/app/tags/list").send().await;
    answer.assert_problem(401, "UNAUTHORIZED");
    let [challenge] = &challenges(&answer)[..] else {
        panic!("not one challenge: {answer:?}")
    };
    assert!(
        challenge.contains(r#"scope="repository:team-a/app:pull""#),
        "{challenge}"
    );
}

#[tokio::test]
async fn a_challenge_names_the_scope_whatever_was_wrong() {
    let lab = Lab::start().await;
    let anonymous = lab.anonymous();
    let clients = [
        (anonymous.basic("alice", "wrong"), None),
        (anonymous.basic("alice", ""), None),
        (anonymous.basic("alice", &"x".repeat(300)), None),
        (anonymous.bearer("a.b.c"), Some("invalid_token")),
        (anonymous.with_authorization("Digest x"), None),
    ];
    for (client, error) in clients {
        let answer = client.get("/v2/team-a/app/manifests/v1").send().await;
        answer.assert_problem(401, "UNAUTHORIZED");
        let [challenge] = &challenges(&answer)[..] else {
            panic!("not one challenge: {answer:?}")
        };
        let (scope, error) = (
            r#",scope="repository:team-a/app:pull""#,
            error.map_or(String::new(), |error| format!(r#",error="{error}""#)),
        );
        assert!(
            challenge.ends_with(&format!("{scope}{error}")),
            "{challenge}"
        );
    }
}

#[tokio::test]
async fn a_refused_password_leaves_one_record_that_names_user_and_back_end() {
    let lab = Lab::start().await;
    let anonymous = lab.anonymous();
    for (user, password, reason) in [
        ("alice", "wrong".to_owned(), "wrong password"),
        ("nobody", "wrong".to_owned(), "unknown user"),
        ("bob", String::new(), "the password is empty"),
        ("gina", "x".repeat(300), "the password is too long"),
    ] {
        let answer = anonymous.basic(user, &password).get("/v2/").send().await;
        answer.assert_problem(401, "UNAUTHORIZED");
        let says_what_to_do = answer.text().contains("robot key");
        assert_eq!(says_what_to_do, password.is_empty(), "{answer:?}");
        let is_it = |record: &serde_json::Value| record["ref"] == answer.reference();
        let record = lab.audit().find("its record", is_it).await;
        assert_eq!(
            (&record["user"], &record["auth"], &record["reason"]),
            (&user.into(), &"htpasswd".into(), &reason.into()),
            "{record}"
        );
        let records = lab.audit().records();
        let of_user = records.iter().filter(|record| record["user"] == user);
        assert_eq!(of_user.count(), 1, "{user}");
    }
}

#[tokio::test]
async fn good_credentials_pass_the_ping() {
    let lab = Lab::start().await;
    for http in Http::BOTH {
        let answer = lab.user("alice").over(http).get("/v2/").send().await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "{}"),
            "{answer:?}"
        );
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
    // Somebody without any right is somebody nevertheless.
    assert_eq!(lab.user("stranger").get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let lab = Lab::start().await;
    for path in [
        "/v2/",
        "/v2/team-a/app/tags/list",
        "/v2/public/app/tags/list",
        "/token",
    ] {
        let wrong = lab
            .anonymous()
            .basic("alice", "wrong")
            .get(path)
            .send()
            .await;
        let unknown = lab
            .anonymous()
            .basic("nobody", "wrong")
            .get(path)
            .send()
            .await;
        assert_eq!(wrong.status, 401, "{path}: {wrong:?}");
        assert_eq!(face(&wrong), face(&unknown), "{path}");
    }
}

#[tokio::test]
async fn empty_basic_credentials_are_anonymous() {
    let lab = Lab::start().await;
    let nobody = lab.anonymous().with_authorization("Basic Og==");
    let ping = nobody.get("/v2/").send().await;
    assert_eq!(face(&ping), face(&lab.anonymous().get("/v2/").send().await));
    // The registry knows no such repository, but says so itself.
    let public = nobody.get("/v2/public/none/tags/list").send().await;
    assert_eq!(
        (public.status, public.code().as_str()),
        (404, "NAME_UNKNOWN"),
        "{public:?}"
    );
}

#[tokio::test]
async fn malformed_credentials_are_refused_even_where_everything_is_public() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let long = "x".repeat(257);
    let alice = password("alice");
    let values = [
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Basic !!!!".to_owned(),
        "Digest username=\"alice\"".to_owned(),
        "Bearer".to_owned(),
        "Bearer not.a.token".to_owned(),
        "Bearer a b".to_owned(),
        // No colon; no padding; bits that base64 has no use for; junk behind the padding.
        "Basic YWxpY2U=".to_owned(),
        "Basic YTph\u{3d}YQ==".to_owned(),
        "Basic YTp".to_owned(),
        "Basic YTphYR==".to_owned(),
        basic("alice", ""),
        basic("", &alice),
        basic("alice", &format!("{alice}\0junk")),
        basic("alice", &format!("{alice}\n")),
        basic("alice", &long),
        basic("alice\0", &alice),
        basic("ALICE", &alice),
        basic(" alice", &alice),
        basic("alice ", &alice),
    ];
    for value in values {
        for path in ["/v2/", "/v2/public/app/tags/list"] {
            let client = lab.anonymous().with_authorization(&value);
            let answer = client.get(path).send().await;
            assert!(
                matches!(answer.status, 400 | 401),
                "{value:?} on {path}: {answer:?}"
            );
            assert!(!answer.reference().is_empty());
        }
    }
    assert_eq!(upstream.seen().len(), 0, "{:?}", upstream.seen());
}

#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let good = basic("alice", &password("alice"));
    for http in Http::BOTH {
        for second in [good.as_str(), "Basic Og==", "Bearer x"] {
            let client = lab.anonymous().over(http).with_authorization(&good);
            let call = client
                .get("/v2/team-a/app/tags/list")
                .header("authorization", second);
            let answer = call.send().await;
            assert!(matches!(answer.status, 400 | 401), "{answer:?}");
        }
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn passwords_over_72_bytes_are_refused_not_cut_short() {
    let lab = Lab::start().await;
    let exact = "7".repeat(72);
    let line = crate::support::lab::htpasswd(&[("long", &exact)]);
    lab.folder
        .replace("htpasswd", lab.folder.read("htpasswd") + &line);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(
        lab.anonymous()
            .basic("long", &exact)
            .get("/v2/")
            .send()
            .await
            .status,
        200
    );
    let longer = lab
        .anonymous()
        .basic("long", &(exact + "7"))
        .get("/v2/")
        .send()
        .await;
    assert_eq!(longer.status, 401, "{longer:?}");
}

#[tokio::test]
async fn paths_outside_the_api_are_not_found_and_never_forwarded() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    for path in [
        "/",
        "/v1/",
        "/v1/_ping",
        "/metrics",
        "/debug/pprof/",
        "/v2/a/b",
        "/v3/",
        "/v2x/",
    ] {
        for client in [lab.anonymous(), lab.user("ada")] {
            let answer = client.get(path).send().await;
            assert!(matches!(answer.status, 401 | 404), "{path}: {answer:?}");
            assert!(!answer.reference().is_empty());
        }
        assert_eq!(lab.user("ada").get(path).send().await.status, 404, "{path}");
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_to_use_https() {
    let lab = Lab::start().await;
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    let request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    within(PATIENCE, "the answer", read).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("application/json"), "{answer}");
    assert!(
        answer.contains("\"errors\"") && answer.contains("https"),
        "{answer}"
    );
}

#[tokio::test]
async fn identity_is_per_request_not_per_connection() {
    let lab = Lab::start().await;
    for http in Http::BOTH {
        let alice = lab.user("alice");
        let mut connection = alice.over(http).connect().await;
        assert_eq!(connection.send(alice.get("/v2/")).await.status, 200);
        let nobody = lab.anonymous();
        assert_eq!(connection.send(nobody.get("/v2/")).await.status, 401);
        let bob = lab.user("bob");
        let denied = connection.send(bob.get("/v2/team-a/app/tags/list")).await;
        denied.assert_problem(403, "DENIED");
        let missing = connection.send(alice.get("/v2/team-a/app/tags/list")).await;
        assert_eq!(
            (missing.status, missing.code().as_str()),
            (404, "NAME_UNKNOWN")
        );
    }
}

#[tokio::test]
async fn several_addresses_are_served() {
    if !crate::support::process::has_ipv6() {
        return crate::support::process::skip("this machine has no ::1");
    }
    let lab = Lab::builder().dual_stack().start().await;
    let mut six = lab.user("alice");
    six.address = (std::net::Ipv6Addr::LOCALHOST, lab.address.port()).into();
    assert_eq!(six.get("/v2/").send().await.status, 200);
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
}
