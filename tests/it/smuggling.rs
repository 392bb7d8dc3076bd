//! What reaches the registry is canonical, whatever the client wrote, or it does not reach it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::http::basic;
use crate::support::{Http, Lab, PATIENCE, Reply, Seen, Upstream, password, within};

async fn lab() -> (Upstream, Lab) {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    (upstream, lab)
}

fn ada() -> String {
    basic("ada", &password("ada"))
}

/// A request's head with what every request needs, and what the test adds.
fn head(lab: &Lab, line: &str, fields: &str) -> String {
    format!(
        "{line}\r\nHost: {}\r\nAuthorization: {}\r\n{fields}\r\n",
        lab.authority(),
        ada()
    )
}

/// Nothing of what a strict reader would object to.
#[track_caller]
fn assert_canonical(seen: &Seen) {
    let head = &seen.head;
    let lines: Vec<_> = head.trim_end_matches("\r\n").split("\r\n").collect();
    assert!(
        !head.replace("\r\n", "").contains(['\r', '\n', '\0']),
        "{head:?}"
    );
    let parts: Vec<_> = lines[0].split(' ').collect();
    assert_eq!((parts.len(), parts[2]), (3, "HTTP/1.1"), "{head}");
    assert!(parts[1].starts_with("/v2/"), "{head}");
    let path = parts[1].split('?').next().unwrap();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:=+".contains(&byte);
    assert!(path.bytes().all(legal), "{head}");
    assert!(!path.contains("//") && !path.contains("/."), "{head}");
    for line in &lines[1..] {
        let (name, _) = line
            .split_once(": ")
            .unwrap_or_else(|| panic!("{line:?} in {head}"));
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(!name.is_empty() && name.bytes().all(token), "{head}");
    }
    let framings = seen.values("content-length").len() + seen.values("transfer-encoding").len();
    assert!(framings <= 1, "{head}");
    assert_eq!(seen.values("host").len(), 1, "{head}");
    for name in [
        "authorization",
        "cookie",
        "proxy-authorization",
        "forwarded",
        "x-real-ip",
        "te",
        "upgrade",
        "trailer",
        "keep-alive",
        "proxy-connection",
        "expect",
        "http2-settings",
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
    ] {
        assert!(!seen.has(name), "{name} in {head}");
    }
}

#[tokio::test]
async fn bad_framing_never_arrives() {
    let (upstream, lab) = lab().await;
    let client = lab.anonymous();
    let post = "POST /v2/team-a/app/blobs/uploads/ HTTP/1.1";
    let smuggled = format!(
        "GET /v2/smuggled/x/tags/list HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n",
        ada()
    );
    let length = smuggled.len();
    let cases = [
        (
            "two lengths",
            format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
        ),
        (
            "one length twice",
            "Content-Length: 0\r\nContent-Length: 0\r\n".to_owned(),
        ),
        (
            "a list of lengths",
            format!("Content-Length: 0, {length}\r\n"),
        ),
        ("a signed length", "Content-Length: +0\r\n".to_owned()),
        ("a negative length", "Content-Length: -1\r\n".to_owned()),
        ("a hexadecimal length", "Content-Length: 0x0\r\n".to_owned()),
        ("an empty length", "Content-Length:\r\n".to_owned()),
        (
            "a length too long",
            "Content-Length: 99999999999999999999999\r\n".to_owned(),
        ),
        ("a length with a space", "Content-Length : 0\r\n".to_owned()),
        (
            "an unknown encoding",
            "Transfer-Encoding: xchunked\r\n".to_owned(),
        ),
        (
            "chunked not last",
            "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked, chunked\r\n".to_owned(),
        ),
        (
            "chunked and a parameter",
            "Transfer-Encoding: chunked;q=1\r\n".to_owned(),
        ),
        (
            "a folded encoding",
            "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
        ),
        (
            "an encoding behind a tab",
            "Transfer-Encoding\t: chunked\r\n".to_owned(),
        ),
        ("a folded line", "X-One: 1\r\n two\r\n".to_owned()),
        ("a bare CR", "X-One: 1\rX-Two: 2\r\n".to_owned()),
        ("a NUL", "X-One: \0\r\n".to_owned()),
        ("no name", ": 1\r\n".to_owned()),
        ("no colon", "X-One\r\n".to_owned()),
        ("two hosts", format!("Host: {}\r\n", lab.authority())),
    ];
    for (what, fields) in cases {
        let request = head(&lab, post, &fields) + "0\r\n\r\n" + &smuggled;
        let answer = client.raw_exchange(request.as_bytes()).await;
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 4")
                || answer.starts_with("HTTP/1.1 501"),
            "{what}: {answer}"
        );
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{what}: {answer}");
        let seen = upstream.take();
        assert!(seen.is_empty(), "{what}: {seen:?}");
    }
}

#[tokio::test]
async fn length_and_encoding_together_are_refused_or_closed_after() {
    let (upstream, lab) = lab().await;
    let fields = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let smuggled = format!(
        "GET /v2/smuggled/x/tags/list HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n",
        ada()
    );
    let post = "POST /v2/team-a/app/blobs/uploads/ HTTP/1.1";
    let request = head(&lab, post, fields) + "0\r\n\r\n" + &smuggled;
    let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    for seen in upstream.take() {
        assert_canonical(&seen);
        assert!(!seen.head.contains("smuggled"), "{}", seen.head);
    }
}

#[tokio::test]
async fn bad_chunks_never_arrive_as_a_whole_body() {
    let (upstream, lab) = lab().await;
    let session = "POST /v2/team-a/app/blobs/uploads/ HTTP/1.1";
    let bodies = [
        "5\n12345\n0\n\n",
        "0x5\r\n12345\r\n0\r\n\r\n",
        "+5\r\n12345\r\n0\r\n\r\n",
        "-5\r\n12345\r\n0\r\n\r\n",
        "5 \t\x0b\r\n12345\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n12345\r\n0\r\n\r\n",
        "5\r\n12345XX0\r\n\r\n",
        "5;a=\n1\r\n12345\r\n0\r\n\r\n",
        "5;\r\n12345\r\n0\r\n\r\n",
        "5;a=b c\r\n12345\r\n0\r\n\r\n",
        "5;a=\"b\r\n12345\r\n0\r\n\r\n",
        "5;a\rb\r\n12345\r\n0\r\n\r\n",
        "5\r\n12345\r\n0;\r\n\r\n",
        "5\r\n12345\r0\r\n\r\n",
        "\r\n5\r\n12345\r\n0\r\n\r\n",
        "5\r\n12345\r\n0\r\nbad\r\n\r\n",
        "5\r\n12345\r\n0\r\nTrailer: x\n\r\n",
        "5\r\n12345\r\n0\r\nTrailer: \0\r\n\r\n",
        "5\r\n12345\r\n0\r\nTrailer: a\rb\r\n\r\n",
    ];
    let from = lab.audit().after(0, 1).await.len();
    for body in bodies {
        let request = head(
            &lab,
            session,
            "Transfer-Encoding: chunked\r\nConnection: close\r\n",
        ) + body;
        let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
        let seen = upstream.take();
        assert!(seen.is_empty(), "{body:?}: {seen:?}");
    }
    let records = lab.audit().after(from, bodies.len()).await;
    assert!(records.iter().all(|record| record["status"] == 400));
    // Extensions and trailers are legal, and end here.
    let trailer = format!(
        "Authorization: {}\r\nX-Forwarded-For: 1.1.1.1\r\nContent-Length: 9\r\n",
        ada()
    );
    let body = format!("5;name=value;other=\"a;b\"\r\n12345\r\n0\r\n{trailer}\r\n");
    let request = head(
        &lab,
        session,
        "Transfer-Encoding: chunked\r\nConnection: close\r\n",
    ) + &body;
    let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = upstream.take().remove(0);
    assert_canonical(&seen);
    let text = String::from_utf8_lossy(&seen.body);
    assert!(
        !text.contains("name=value") && !text.contains("1.1.1.1") && !text.contains("Basic"),
        "{text}"
    );
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_never_the_next_request() {
    let (upstream, lab) = lab().await;
    let inner = head(&lab, "GET /v2/smuggled/x/tags/list HTTP/1.1", "");
    let outer = format!(
        "POST /v2/team-a/app/blobs/uploads/ HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{inner}",
        lab.authority(),
        inner.len()
    );
    // A further request, so that the end of the exchange is known whether it is answered or not.
    let last = head(&lab, "GET /v2/ HTTP/1.1", "Connection: close\r\n");
    let answer = lab
        .anonymous()
        .raw_exchange((outer + &last).as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let others: Vec<_> = answer.match_indices("HTTP/1.1 ").skip(1).collect();
    assert!(others.len() <= 1, "{answer}");
    assert!(!answer.contains("HTTP/1.1 404"), "{answer}");
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn what_is_forwarded_is_written_anew() {
    let (upstream, lab) = lab().await;
    let fields = [
        "Cookie: a=b\r\n",
        "Forwarded: host=evil;proto=gopher\r\n",
        "X-Forwarded-For: 6.6.6.6\r\n",
        "X-Forwarded-Host: evil\r\n",
        "X-Forwarded-Proto: gopher\r\n",
        "X_Forwarded_Host: evil\r\n",
        "X-Real-IP: 6.6.6.6\r\n",
        "X-Original-URL: /v2/secret/x/tags/list\r\n",
        "X-HTTP-Method-Override: DELETE\r\n",
        "Proxy-Authorization: Basic eDp5\r\n",
        "TE: trailers\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        "Keep-Alive: timeout=9\r\nConnection: keep-alive\r\n",
        "Connection: host, content-length, authorization, x-forwarded-for\r\n",
        "Proxy-Connection: keep-alive\r\n",
    ];
    let mut everything = fields.concat();
    everything.push_str("Accept: a/b\r\n");
    let cases = fields.map(str::to_owned).into_iter().chain([everything]);
    for fields in cases {
        let fields = fields + "Connection: close\r\n";
        let request = head(&lab, "GET /v2/team-a/app/tags/list HTTP/1.1", &fields);
        let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 101"), "{answer}");
        let seen = upstream.take();
        if answer.starts_with("HTTP/1.1 4") {
            assert!(seen.is_empty(), "{seen:?}");
            continue;
        }
        let [seen] = &seen[..] else {
            panic!("{fields}: {answer} {seen:?}")
        };
        assert_canonical(seen);
        for word in ["evil", "gopher", "6.6.6.6", "secret"] {
            assert!(!seen.head.contains(word), "{}", seen.head);
        }
        let ours = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "127.0.0.1"),
        ];
        for (name, value) in ours {
            assert!(
                seen.values(name).iter().all(|seen| *seen == value),
                "{}",
                seen.head
            );
        }
    }
}

#[tokio::test]
async fn the_registry_is_told_the_public_name() {
    let (upstream, lab) = lab().await;
    for http in Http::BOTH {
        let answer = lab
            .user("ada")
            .over(http)
            .get("/v2/team-a/app/tags/list")
            .send()
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = upstream.take().remove(0);
        assert_canonical(&seen);
        let host = seen.values("x-forwarded-host");
        let public = if host.is_empty() {
            seen.values("host")
        } else {
            host
        };
        assert_eq!(public, [lab.authority()]);
        assert_eq!(seen.values("x-forwarded-proto"), ["https"]);
    }
}

#[tokio::test]
async fn odd_paths_never_arrive() {
    let (upstream, lab) = lab().await;
    let long = format!("/v2/{}/tags/list", "a/".repeat(2000) + "a");
    let paths = [
        "/v2/team-a%2fapp/tags/list",
        "/v2%2fteam-a/app/tags/list",
        "/v2/%74eam-a/app/tags/list",
        "/v2/team-a/app/../../team-b/x/tags/list",
        "/v2/team-a/./app/tags/list",
        "/v2//team-a/app/tags/list",
        "/v2/team-a//app/tags/list",
        "/v2/team-a/app/tags/list/",
        "/v2/team-a/app/tags//list",
        "/v2/team-a/%2e%2e/team-b/tags/list",
        "/v2/team-a/..;/x/tags/list",
        "/v2/team-a\\app/tags/list",
        "/v2/team-a/app/tags/list;x",
        "/v2/team-a/app/tags/list#x",
        "/v2/team-a/app/tags/list%00",
        "/v2/team-a/app/tags/list%20",
        "/v2/Team-A/app/tags/list",
        "/v2/team-a/app/manifests/v1%3Ax",
        "/v2/team-a/app/manifests/",
        "/v2/team-a/app/manifests/.x",
        "/v2/team-a/app/manifests/a/b",
        "/v2/team-a/app/blobs/sha256:xyz",
        "/v2/team-a/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
        "/v2/team-a/app/blobs/uploads/..",
        "/v2/team-a/app/blobs/uploads/a/b",
        "/v2/-x/tags/list",
        "/v2/a_/tags/list",
        "/v2/a..b/tags/list",
        "/v2/\u{430}/tags/list",
        "/v2/team-a/app",
        "/V2/team-a/app/tags/list",
        "/v2/team-a/app/Tags/list",
        "v2/team-a/app/tags/list",
        "//v2/team-a/app/tags/list",
        "/./v2/team-a/app/tags/list",
        "/v2/../v2/team-a/app/tags/list",
        "/v2/team-a/app/tags/list%3Fn=1",
        "*",
        long.as_str(),
    ];
    for path in paths {
        let line = format!("GET {path} HTTP/1.1");
        let request = head(&lab, &line, "Connection: close\r\n");
        let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{path}: {answer}"
        );
        assert!(upstream.take().is_empty(), "{path} arrived");
    }
}

#[tokio::test]
async fn only_the_path_of_an_absolute_target_counts() {
    let (upstream, lab) = lab().await;
    for host in ["evil.example", lab.authority().as_str()] {
        let line = format!("GET http://{host}/v2/team-a/app/tags/list HTTP/1.1");
        let request = head(&lab, &line, "Connection: close\r\n");
        let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
        let seen = upstream.take();
        if answer.starts_with("HTTP/1.1 4") {
            assert!(seen.is_empty());
        } else {
            assert_canonical(&seen[0]);
            assert!(!seen[0].head.contains("evil"), "{}", seen[0].head);
        }
    }
}

#[tokio::test]
async fn odd_queries_never_arrive() {
    let (upstream, lab) = lab().await;
    let ada = lab.user("ada");
    for query in [
        "n=1&n=2",
        "n=1;last=x",
        "n=%zz",
        "n=%",
        "n=1&%6e=2",
        "last=%00",
        "last=%0d%0aHost:%20evil",
        "n=x",
        "last=%ff",
    ] {
        let answer = ada
            .get(&format!("/v2/team-a/app/tags/list?{query}"))
            .send()
            .await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(upstream.take().is_empty(), "{query} arrived");
    }
    // What an end point does not know is left out.
    let answer = ada
        .get("/v2/team-a/app/tags/list?ns=docker.io&n=5&x=y&_state=z")
        .send()
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.take()[0].target(), "/v2/team-a/app/tags/list?n=5");
}

#[tokio::test]
async fn what_nobody_can_expect_of_us_is_refused() {
    let (upstream, lab) = lab().await;
    let path = "/v2/team-a/app/blobs/uploads/";
    for http in Http::BOTH {
        let post = |expected: &str| {
            let call = lab.user("ada").over(http).post(path);
            call.header("expect", expected).body("12345")
        };
        for odd in [
            "200-ok",
            "100-continue, x",
            "100-continue=1",
            "x;y=\"100-continue\"",
        ] {
            let answer = post(odd).send().await;
            answer.assert_problem(417, "UNSUPPORTED");
            assert!(upstream.take().is_empty(), "{odd} arrived");
            let reference = answer.reference();
            let is_it = |record: &serde_json::Value| record["ref"] == *reference;
            let record = lab.audit().find("the record", is_it).await;
            assert_eq!(
                (&record["status"], &record["outcome"]),
                (&417.into(), &"denied".into())
            );
        }
        for good in ["100-continue", "100-Continue", "", ", 100-continue"] {
            assert_eq!(post(good).send().await.status, 200, "{good:?}");
            assert_canonical(&upstream.take().remove(0));
        }
    }
    // Without an answer before the body, as RFC 9110 section 10.1.1 has it for HTTP/1.0.
    let old = head(
        &lab,
        &format!("POST {path} HTTP/1.0"),
        "Expect: 100-continue\r\n",
    );
    let answer = lab.anonymous().raw_exchange(old.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn odd_methods_never_arrive() {
    let (upstream, lab) = lab().await;
    for method in [
        "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "PUT", "POST", "PATCH", "DELETE", "X",
    ] {
        let line = format!("{method} /v2/team-a/app/tags/list HTTP/1.1");
        let request = head(&lab, &line, "Connection: close\r\nContent-Length: 0\r\n");
        let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
        let refused = answer.is_empty()
            || answer.starts_with("HTTP/1.1 4")
            || answer.starts_with("HTTP/1.1 501");
        assert!(refused, "{method}: {answer}");
        assert!(upstream.take().is_empty(), "{method} arrived");
    }
    for version in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/0.9",
        "HTTP/1",
        "http/1.1",
        "HTTP/1.1 x",
    ] {
        let line = format!("GET /v2/team-a/app/tags/list {version}");
        let request = head(&lab, &line, "Connection: close\r\n");
        let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
        for seen in upstream.take() {
            assert_canonical(&seen);
        }
        assert!(
            answer.matches("HTTP/1.1 ").count() <= 1,
            "{version}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_request_without_a_host_is_refused() {
    let (upstream, lab) = lab().await;
    for fields in [
        "",
        "Host:\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a@b\r\n",
    ] {
        let request = format!(
            "GET /v2/team-a/app/tags/list HTTP/1.1\r\nAuthorization: {}\r\n{fields}Connection: close\r\n\r\n",
            ada()
        );
        let answer = lab.anonymous().raw_exchange(request.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{fields:?}: {answer}"
        );
        assert!(upstream.take().is_empty(), "{fields:?} arrived");
    }
}

#[tokio::test]
async fn only_the_public_name_is_served_when_it_is_set() {
    let upstream = Upstream::agreeable().await;
    let builder = Lab::builder().upstream(upstream.url());
    let lab = builder
        .server("public_url = \"https://registry.example.com\"")
        .start()
        .await;
    let ask = async |host: &str, http: Http| {
        let mut client = lab.user("ada").over(http);
        client.authority = host.to_owned();
        client.get("/v2/team-a/app/tags/list").send().await
    };
    for http in Http::BOTH {
        let answer = ask("evil.example.com", http).await;
        assert_eq!(answer.status, 421, "{answer:?}");
        assert!(upstream.take().is_empty());
        assert_eq!(ask("registry.example.com", http).await.status, 200);
        assert!(upstream.take()[0].head.contains("registry.example.com"));
        let mut nobody = lab.anonymous().over(http);
        nobody.authority = "registry.example.com".to_owned();
        let challenge = nobody.get("/v2/").send().await;
        let expected =
            "Bearer realm=\"https://registry.example.com/token\",service=\"registry.example.com\"";
        assert_eq!(challenge.header("www-authenticate"), Some(expected));
    }
}

#[tokio::test]
async fn pipelined_requests_are_judged_one_by_one() {
    let (upstream, lab) = lab().await;
    let first = head(&lab, "GET /v2/team-a/app/tags/list HTTP/1.1", "");
    let second = format!(
        "GET /v2/team-b/x/tags/list HTTP/1.1\r\nHost: {}\r\n\r\n",
        lab.authority()
    );
    let third = head(
        &lab,
        "GET /v2/team-a/c/tags/list HTTP/1.1",
        "Connection: close\r\n",
    );
    let answer = lab
        .anonymous()
        .raw_exchange((first + &second + &third).as_bytes())
        .await;
    let statuses: Vec<_> = answer
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answer[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "401", "200"], "{answer}");
    let targets: Vec<_> = upstream
        .take()
        .iter()
        .map(|seen| seen.target().to_owned())
        .collect();
    assert_eq!(
        targets,
        ["/v2/team-a/app/tags/list", "/v2/team-a/c/tags/list"]
    );
}

/// An upstream that answers oddly: what follows must not reach the next client.
async fn odd_answer(answer: &'static str) -> (String, String) {
    let upstream = Upstream::start(move |seen| match seen.target().contains("odd") {
        true => Reply::Say(answer.as_bytes().to_vec()),
        false => Reply::ok("{\"fine\":1}"),
    })
    .await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let line = |name: &str| format!("GET /v2/team-a/{name}/tags/list HTTP/1.1");
    let odd = head(&lab, &line("odd"), "Connection: close\r\n");
    let first = lab.anonymous().raw_exchange(odd.as_bytes()).await;
    let next = head(&lab, &line("next"), "Connection: close\r\n");
    let second = lab.anonymous().raw_exchange(next.as_bytes()).await;
    (first, second)
}

#[tokio::test]
async fn an_answer_with_more_than_it_should_have_poisons_nobody() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let cases: [&'static str; 7] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 204 No Content\r\nContent-Length: 47\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 8\r\n\r\n{}poison",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}poison",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}poison",
    ];
    assert!(cases[0].ends_with(poison));
    for case in cases {
        let (first, second) = odd_answer(case).await;
        assert!(first.matches("HTTP/1.1 ").count() <= 1, "{case:?}: {first}");
        let lengths = first
            .lines()
            .filter_map(|line| line.strip_prefix("content-length: "));
        for length in lengths {
            assert!(length.parse::<u32>().is_ok(), "{case:?}: {first}");
        }
        assert!(!second.contains("poison"), "{case:?}: {second}");
        assert!(second.ends_with("{\"fine\":1}"), "{case:?}: {second}");
    }
}

#[tokio::test]
async fn nonsense_from_the_registry_is_a_bad_gateway() {
    let cases = [
        "nonsense\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "SSH-2.0-OpenSSH_9\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"inner\"\r\nContent-Length: 0\r\n\r\n",
    ];
    for case in cases {
        let (first, second) = odd_answer(case).await;
        assert!(first.starts_with("HTTP/1.1 502"), "{case:?}: {first}");
        assert!(!first.contains("inner"), "{first}");
        assert!(second.ends_with("{\"fine\":1}"), "{case:?}: {second}");
    }
    let challenging = "HTTP/1.1 403 Forbidden\r\nWWW-Authenticate: Basic realm=\"inner\"\r\nContent-Length: 0\r\n\r\n";
    let (first, _second) = odd_answer(challenging).await;
    assert!(
        first.starts_with("HTTP/1.1 403") && !first.contains("inner"),
        "{first}"
    );
}

#[tokio::test]
async fn http2_lets_no_line_break_through() {
    let (upstream, lab) = lab().await;
    // A client library refuses to write these, so only what it can write is tried: hop-by-hop
    // fields and a length that is a lie.
    let client = lab.user("ada").over(Http::Two);
    for (name, value) in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("keep-alive", "1"),
        ("upgrade", "h2c"),
    ] {
        let call = client.get("/v2/team-a/app/tags/list").header(name, value);
        drop(call.try_send().await);
        for seen in upstream.take() {
            assert_canonical(&seen);
        }
    }
    let lie = client
        .post("/v2/team-a/app/blobs/uploads/")
        .header("content-length", "3")
        .body("0123456789");
    drop(within(PATIENCE, "an answer", lie.try_send()).await);
    for seen in upstream.take() {
        assert_canonical(&seen);
        assert!(seen.body.len() <= 3, "{seen:?}");
    }
}

#[tokio::test]
async fn a_body_after_head_and_get_stays_in_its_frame() {
    let (upstream, lab) = lab().await;
    let inner = head(&lab, "DELETE /v2/team-a/app/manifests/v1 HTTP/1.1", "");
    let fields = format!("Content-Length: {}\r\nConnection: close\r\n", inner.len());
    for method in ["GET", "HEAD"] {
        let line = format!("{method} /v2/team-a/app/tags/list HTTP/1.1");
        let mut stream = lab.anonymous().raw().await.unwrap();
        stream
            .write_all((head(&lab, &line, &fields) + &inner).as_bytes())
            .await
            .unwrap();
        let mut answer = Vec::new();
        drop(within(PATIENCE, "the answer", stream.read_to_end(&mut answer)).await);
        for seen in upstream.take() {
            assert_canonical(&seen);
            assert_eq!(seen.method(), method);
        }
    }
}

#[tokio::test]
async fn pages_of_tags_and_tags_of_a_push_are_bounded() {
    let (upstream, lab) = lab().await;
    let ada = lab.user("ada");
    for (asked, sent) in [
        ("?n=1000", "?n=1000"),
        ("?n=1001", "?n=1000"),
        ("?n=99999999999999999999&last=v1", "?n=1000&last=v1"),
        ("?n=", ""),
        ("?n=0", "?n=0"),
        ("?n=000", "?n=0"),
    ] {
        let path = "/v2/team-a/app/tags/list";
        let answer = ada.get(&format!("{path}{asked}")).send().await;
        assert_eq!(answer.status, 200, "{asked}");
        let line = format!("GET {path}{sent} HTTP/1.1");
        assert_eq!(upstream.take()[0].line(), line, "{asked}");
        let none = "{\"name\":\"team-a/app\",\"tags\":[]}";
        assert_eq!(answer.text() == none, sent == "?n=0", "{answer:?}");
    }
    for absurd in ["-1", "+1", "1.5", "0x10", "x"] {
        let path = format!("/v2/team-a/app/tags/list?n={absurd}");
        let answer = ada.get(&path).send().await;
        let code = answer.code();
        assert_eq!((answer.status, &*code), (400, "PAGINATION_NUMBER_INVALID"));
    }
    let digest = format!("sha256:{}", "a".repeat(64));
    let push = |tags: Vec<String>| {
        let path = format!("/v2/team-a/app/manifests/{digest}?{}", tags.join("&"));
        ada.put(&path).body("{}").send()
    };
    push(vec!["tag=v1".to_owned(); 1000]).await;
    let line = format!("PUT /v2/team-a/app/manifests/{digest}?tag=v1 HTTP/1.1");
    assert_eq!(upstream.take()[0].line(), line);
    let many = |count: u32| (0..count).map(|number| format!("tag=t{number}")).collect();
    push(many(16)).await;
    assert_eq!(upstream.take()[0].line().matches("tag=").count(), 16);
    let answer = push(many(17)).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("at most 16 tags"), "{answer:?}");
    assert!(upstream.seen().is_empty());
}
