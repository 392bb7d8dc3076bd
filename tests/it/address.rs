//! Whose request it is, where proxies stand between.

use serde_json::Value;

use crate::support::{Client, Http, Lab, Upstream};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
const REQUIRED: &str =
    "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\nproxy_protocol = \"required\"";
const PATH: &str = "/v2/public/app/manifests/v1";

/// The signature of version 2, and the rest of the header.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, family][..],
        &length,
        rest,
    ]
    .concat()
}

fn v1(address: &str) -> String {
    format!("PROXY TCP4 {address} 192.0.2.2 40000 443\r\n")
}

async fn start(upstream: &Upstream, server: &str) -> Lab {
    let builder = Lab::builder().upstream(upstream.url()).server(server);
    builder.direct().start().await
}

/// Whom a request is from, as the audit record, the registry and the limit see it.
async fn seen(lab: &Lab, upstream: &Upstream, client: &Client, forwarded: &[&str]) -> String {
    // The first record is that of the start.
    let before = lab.audit().after(0, 1).await.len();
    upstream.take();
    let mut call = client.get(PATH);
    for line in forwarded {
        call = call.header("x-forwarded-for", *line);
    }
    let answer = call.send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = lab.audit().after(before, 1).await.remove(0);
    let address = record["client"].as_str().unwrap().to_owned();
    let request = upstream.take().remove(0);
    assert_eq!(request.values("x-forwarded-for"), [address.as_str()]);
    let source = answer.header("docker-ratelimit-source").unwrap();
    let network = address.replace("::1", "::/64");
    assert!(source == address || source == network, "{answer:?}");
    address
}

/// What balancers of both versions write, and whom they name.
fn headers() -> [(Vec<u8>, &'static str); 5] {
    let four = [198, 51, 100, 1, 192, 0, 2, 2, 1, 0, 1, 187];
    let mut six = [0; 36];
    six[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    six[15] = 1;
    [
        (v1("198.51.100.1").into_bytes(), "198.51.100.1"),
        (v2(0x21, 0x11, &four), "198.51.100.1"),
        (v2(0x21, 0x21, &six), "2001:db8::1"),
        // These are for nobody: the balancer itself.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
    ]
}

#[tokio::test]
async fn a_trusted_proxy_says_for_whom_it_asks() {
    let upstream = Upstream::agreeable().await;
    let lab = start(&upstream, TRUSTED).await;
    for http in Http::BOTH {
        let client = lab.anonymous().over(http);
        let from = async |lines: &[&str]| seen(&lab, &upstream, &client, lines).await;
        assert_eq!(from(&[]).await, "127.0.0.1");
        // The client's own part of the header is not believed.
        assert_eq!(from(&["198.51.100.1"]).await, "198.51.100.1");
        assert_eq!(from(&["9.9.9.9, 198.51.100.1"]).await, "198.51.100.1");
        let by_two = ["9.9.9.9", "198.51.100.1, 10.1.2.3"];
        assert_eq!(from(&by_two).await, "198.51.100.1");
        assert_eq!(from(&["198.51.100.1, junk"]).await, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_proxy_header_is_read_where_it_is_required() {
    let upstream = Upstream::agreeable().await;
    let lab = start(&upstream, REQUIRED).await;
    for http in Http::BOTH {
        for (header, expected) in headers() {
            let client = lab.anonymous().over(http).prefaced(header);
            assert_eq!(seen(&lab, &upstream, &client, &[]).await, expected);
            // X-Forwarded-For is then nobody's, whoever the header names.
            let forged = ["9.9.9.1", "9.9.9.2, 10.1.2.3"];
            assert_eq!(seen(&lab, &upstream, &client, &forged).await, expected);
        }
        let other_proxy = lab.anonymous().over(http).prefaced(v1("10.0.0.1"));
        let from = seen(&lab, &upstream, &other_proxy, &["198.51.100.1"]).await;
        assert_eq!(from, "10.0.0.1");
    }
}

#[tokio::test]
async fn without_the_header_that_is_required_a_connection_is_closed() {
    let upstream = Upstream::agreeable().await;
    let lab = start(&upstream, REQUIRED).await;
    for http in Http::BOTH {
        let call = lab.anonymous().over(http).get(PATH);
        let answer = call.header("x-forwarded-for", "198.51.100.1");
        let answer = answer.try_send().await;
        assert!(answer.is_err(), "{answer:?}");
    }
    // Plain HTTP is not even told what it is.
    let plain = Client::plain(lab.address).post("/v2/").try_send().await;
    assert!(plain.is_err(), "{plain:?}");
    assert!(upstream.take().is_empty());
    let warning = "did not begin with a PROXY header";
    assert_eq!(lab.process.log().matches(warning).count(), 1);
}

#[tokio::test]
async fn a_proxy_header_is_never_guessed() {
    let upstream = Upstream::agreeable().await;
    let lab = start(&upstream, TRUSTED).await;
    // What a balancer passes on as it came may have been written by the client.
    for (header, _) in headers() {
        let client = lab.anonymous().prefaced(header.clone());
        let answer = client.get(PATH).try_send().await;
        assert!(answer.is_err(), "{header:?}: {answer:?}");
    }
    assert!(upstream.take().is_empty());
    let claimed = |record: &Value| record["client"] == "198.51.100.1";
    let records = lab.audit().after(0, 1).await;
    assert!(!records.iter().any(claimed), "{records:#?}");
}

#[tokio::test]
async fn strangers_are_not_believed() {
    let upstream = Upstream::agreeable().await;
    for server in [TRUSTED, REQUIRED] {
        let lab = start(&upstream, server).await;
        let stranger = lab.anonymous().out_of([127, 0, 0, 21]);
        let address = seen(&lab, &upstream, &stranger, &["198.51.100.1", "10.0.0.1"]).await;
        assert_eq!(address, "127.0.0.21");
        // The PROXY protocol from a stranger is not TLS.
        for (header, _) in headers() {
            let answer = stranger.prefaced(header).get(PATH).try_send().await;
            assert!(answer.is_err(), "{answer:?}");
        }
        assert!(upstream.take().is_empty());
    }
}

#[tokio::test]
async fn without_trusted_proxies_nobody_is_believed() {
    let upstream = Upstream::agreeable().await;
    let lab = start(&upstream, "").await;
    let client = lab.anonymous();
    assert_eq!(
        seen(&lab, &upstream, &client, &["198.51.100.1"]).await,
        "127.0.0.1"
    );
    let announced = client
        .prefaced(v1("198.51.100.1"))
        .get(PATH)
        .try_send()
        .await;
    assert!(announced.is_err());
}

#[tokio::test]
async fn bad_headers_of_a_trusted_proxy_end_the_connection() {
    let upstream = Upstream::agreeable().await;
    let lab = start(&upstream, REQUIRED).await;
    for preface in [
        b"PROXY TCP4 198.51.100.1 192.0.2.2 1\r\n".to_vec(),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        [b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
        v2(0x21, 0x11, &[1, 2, 3]),
        v2(0x21, 0x11, &[0; 5000]),
        v2(0x29, 0x11, &[0; 12]),
        b"\r\n\r\n\0\r\nQUIX\n0123".to_vec(),
        // Twice.
        (v1("198.51.100.1") + &v1("198.51.100.3")).into_bytes(),
    ] {
        let answer = lab
            .anonymous()
            .prefaced(preface.clone())
            .get(PATH)
            .try_send()
            .await;
        assert!(answer.is_err(), "{preface:?}: {answer:?}");
    }
    assert!(upstream.take().is_empty());
}

#[tokio::test]
async fn rules_and_limits_go_by_the_clients_address() {
    let upstream = Upstream::agreeable().await;
    let policy = r#"
[limits]
anonymous_pulls = { count = 1, per = "1h" }

[[access]]
repositories = ["public/**"]
who = ["anonymous"]
role = "guest"
networks = ["198.51.100.0/24"]
"#;
    let builder = Lab::builder()
        .upstream(upstream.url())
        .server(TRUSTED)
        .direct()
        .policy(policy);
    let lab = builder.start().await;
    let client = lab.anonymous();
    let get = async |from: &str| {
        client
            .get(PATH)
            .header("x-forwarded-for", from)
            .send()
            .await
            .status
    };
    assert_eq!(client.get(PATH).send().await.status, 401);
    assert_eq!(get("203.0.113.1").await, 401);
    assert_eq!(get("198.51.100.7").await, 200);
    assert_eq!(get("198.51.100.7").await, 429);
    assert_eq!(get("198.51.100.8").await, 200);
    assert_eq!(get("198.51.100.7, 198.51.100.8").await, 429);
}

#[tokio::test]
async fn a_64_is_one_source() {
    let upstream = Upstream::agreeable().await;
    let builder = Lab::builder().upstream(upstream.url()).server(TRUSTED);
    let limits = "[limits]\nanonymous_pulls = { count = 2, per = \"1h\" }\n";
    let lab = builder.more(limits).direct().start().await;
    let client = lab.anonymous();
    let get = async |from: &str| {
        client
            .get(PATH)
            .header("x-forwarded-for", from)
            .send()
            .await
    };
    for from in ["2a00:1:2:3::1", "2a00:1:2:3:ffff::2"] {
        let answer = get(from).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.header("docker-ratelimit-source"),
            Some("2a00:1:2:3::/64")
        );
    }
    for from in ["2a00:1:2:3::1", "2a00:1:2:3::3", "2a00:1:2:3:a:b:c:d"] {
        assert_eq!(get(from).await.status, 429);
    }
    assert_eq!(get("2a00:1:2:4::1").await.status, 200);
}

#[tokio::test]
async fn connections_are_counted_for_those_they_are_for() {
    let upstream = Upstream::agreeable().await;
    let server = format!("{REQUIRED}\nmax_connections_per_source = 3");
    let lab = start(&upstream, &server).await;
    let proxy = lab.anonymous();
    // The proxy itself may have more.
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(proxy.prefaced("PROXY UNKNOWN\r\n").raw().await.unwrap());
    }
    let greedy = proxy.prefaced(v1("198.51.100.1"));
    for _ in 0..3 {
        held.push(greedy.raw().await.unwrap());
    }
    assert!(greedy.raw().await.is_err(), "a fourth connection");
    let other = proxy.prefaced(v1("198.51.100.2"));
    assert_eq!(other.get(PATH).send().await.status, 200);
    let is_other = |record: &Value| record["client"] == "198.51.100.2";
    lab.audit()
        .find("the other client's record", is_other)
        .await;
}
