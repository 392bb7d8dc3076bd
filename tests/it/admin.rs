//! Health, metrics and status on an address of their own.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::support::http::Client;
use crate::support::lab::{Lab, PROGRAM};
use crate::support::process::{Process, free_port};
use crate::support::within;

/// How late an answer may be that does not wait for anybody's time-out (5 seconds).
const AT_ONCE: Duration = Duration::from_secs(4);

async fn lab() -> (Lab, Client) {
    let port = free_port();
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let lab = Lab::builder().more(&admin).start().await;
    let client = Client::plain(SocketAddr::from(([127, 0, 0, 1], port)));
    (lab, client)
}

#[tokio::test]
async fn readiness_follows_the_registry() {
    let (mut lab, admin) = lab().await;
    assert_eq!(admin.get("/livez").send().await.status, 200);
    let ready = admin.get("/readyz").send().await;
    assert_eq!(
        (ready.status, ready.json()["upstream"].as_str()),
        (200, Some("ok"))
    );
    let registry = &mut lab.registry_mut().process;
    registry.signal(Signal::KILL);
    registry.wait().await;
    let ready = admin.get("/readyz").send().await;
    assert_eq!(ready.status, 503);
    assert_ne!(ready.json()["upstream"], "ok");
    assert_eq!(ready.json()["audit"], "ok");
    assert_eq!(admin.get("/livez").send().await.status, 200);
    assert_eq!(admin.get("/v2/").send().await.status, 404);
    assert_eq!(admin.post("/livez").send().await.status, 405);
}

/// A web page can point its own name at the address (DNS rebinding); a probe asks by any name.
#[tokio::test]
async fn only_probes_may_ask_by_any_name() {
    let port = free_port();
    let section = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let lab = Lab::builder().more(&section).start().await;
    let mut admin = Client::plain(SocketAddr::from(([127, 0, 0, 1], port)));
    let pages = [
        "/",
        "/status",
        "/status.json",
        "/keys.json",
        "/metrics",
        "/no",
    ];
    let asked = async |client: &Client, path: &str| client.get(path).send().await.status;
    for host in ["evil.example", "mon.example.com:9090"] {
        admin.authority = host.to_owned();
        for path in pages {
            let answer = admin.get(path).send().await;
            assert_eq!(answer.status, 421, "{host} {path}");
            assert!(answer.text().contains("`admin.hosts`"), "{answer:?}");
        }
        for path in ["/livez", "/readyz"] {
            assert_eq!(asked(&admin, path).await, 200, "{host} {path}");
        }
    }
    let hosts = format!("{section}hosts = [\"Mon.example.com\"]\n");
    let config = lab.config().replace(&section, &hosts);
    lab.folder.write("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    for host in ["mon.example.com:9090", "127.0.0.1", "localhost:1"] {
        admin.authority = host.to_owned();
        assert_eq!(asked(&admin, "/status").await, 200, "{host}");
    }
    let bare = [
        "GET /status HTTP/1.0\r\n\r\n",
        "GET /status HTTP/1.1\r\n\r\n",
    ];
    for (head, status) in bare.into_iter().zip(["200", "400"]) {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start[9..], status.as_bytes(), "{head}");
    }
}

/// What one request over a unix socket is answered.
async fn over_socket(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    within(AT_ONCE, request, stream.read_to_string(&mut text))
        .await
        .unwrap();
    text
}

#[tokio::test]
async fn a_socket_serves_its_owner_from_the_start_to_the_end() {
    let section = "[admin]\nlisten = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\n";
    let mut lab = Lab::builder().more(section).start().await;
    let path = lab.folder.join("admin.sock");
    let status = over_socket(&path, "GET /status.json").await;
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    assert!(status.contains("\"generation\": 1"), "{status}");
    let changed = over_socket(&path, "POST /status.json").await;
    assert!(changed.starts_with("HTTP/1.1 405"), "{changed}");
    let mode = std::fs::symlink_metadata(&path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);

    // It stays where it is until a restart, and the log says so.
    let moved = lab.config().replace("\"admin.sock\"", "\"other.sock\"");
    lab.folder.write("portcullis.toml", moved);
    assert_eq!(lab.reload().await, "allowed");
    let log = lab.process.log();
    assert!(
        log.contains("needs a restart") && log.contains("admin.socket"),
        "{log}"
    );
    assert!(over_socket(&path, "GET /livez").await.ends_with("ok\n"));

    // A second process takes nothing away.
    let config = lab.config().replace("\"other.sock\"", "\"admin.sock\"");
    let port = format!("127.0.0.1:{}", lab.address.port());
    let second = config.replace(&port, &format!("127.0.0.1:{}", free_port()));
    let second = second.replace("audit.jsonl", "second.jsonl");
    lab.folder.write("second.toml", second);
    let mut command = std::process::Command::new(PROGRAM);
    command
        .args(["serve", "--config"])
        .arg(lab.folder.join("second.toml"));
    let mut second = Process::start(&mut command, &lab.folder.join("second.log"));
    assert!(!second.wait().await.success());
    assert!(second.log().contains("another process serves there"));
    assert!(over_socket(&path, "GET /livez").await.ends_with("ok\n"));

    // What a crash leaves is replaced, and a clean stop leaves nothing.
    lab.folder.write("portcullis.toml", config);
    lab.process.signal(Signal::KILL);
    lab.process.wait().await;
    assert!(path.exists());
    lab.restart().await;
    assert!(over_socket(&path, "GET /livez").await.ends_with("ok\n"));
    lab.process.signal(Signal::TERM);
    lab.process.wait().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn metrics_and_status_tell_what_happened() {
    let (lab, admin) = lab().await;
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    assert_eq!(
        lab.user("alice")
            .get("/v2/team-b/X/tags/list")
            .send()
            .await
            .status,
        404
    );
    assert_eq!(
        lab.user("alice")
            .get("/v2/team-b/app/tags/list")
            .send()
            .await
            .status,
        403
    );
    assert_eq!(
        lab.anonymous()
            .basic("<b>", "wrong")
            .get("/v2/")
            .send()
            .await
            .status,
        401
    );
    let text = String::from_utf8(admin.get("/metrics").send().await.body.to_vec()).unwrap();
    for line in [
        "portcullis_records_total{event=\"login\",outcome=\"allowed\"} 1",
        "portcullis_records_total{event=\"login\",outcome=\"failed\"} 1",
        "portcullis_records_total{event=\"request\",outcome=\"denied\"} 2",
        "portcullis_config_generation 1",
        "portcullis_config_reload_failed 0",
        "portcullis_audit_writable 1",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    let status = admin.get("/status.json").send().await.json();
    assert_eq!(status["config"]["generation"], 1);
    let refused = status["last_refusals"].as_array().unwrap();
    assert!(
        refused
            .iter()
            .any(|one| one["repository"] == "team-b/app" && one["user"] == "alice")
    );
    let html = String::from_utf8(admin.get("/status").send().await.body.to_vec()).unwrap();
    assert!(
        html.contains("&lt;b&gt;") && !html.contains("<b>"),
        "{html}"
    );

    lab.folder.write("htpasswd", "broken");
    assert_eq!(lab.reload().await, "error");
    let status = admin.get("/status.json").send().await.json();
    let error = status["config"]["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("htpasswd:1:1"), "{error}");
    let text = String::from_utf8(admin.get("/metrics").send().await.body.to_vec()).unwrap();
    assert!(text.contains("portcullis_config_reload_failed 1"), "{text}");
}

#[tokio::test]
async fn the_status_says_when_everything_ends() {
    let port = free_port();
    let clients = format!(
        "mode = \"optional\"\ncrl = [\"clients.crl\"]\n[admin]\nlisten = \"127.0.0.1:{port}\"\n"
    );
    let builder = Lab::builder().client_certificates(&clients);
    let crl = builder.pki.crl(&[7]);
    let _lab = builder.file("clients.crl", &crl).start().await;
    let admin = Client::plain(SocketAddr::from(([127, 0, 0, 1], port)));
    let status = admin.get("/status.json").send().await.json();
    let endings = status["endings"].as_array().unwrap();
    let whats: Vec<_> = endings.iter().map(|one| &one["what"]).collect();
    assert_eq!(
        whats,
        ["server certificate", "client CA", "revocation list"]
    );
    assert_eq!(endings[0]["ends"], status["certificate_not_after"]);
    for one in endings {
        assert_ne!(one["state"], "over", "{one:#}");
        assert!(one["days_left"].is_i64(), "{one:#}");
    }
    let limits = status["limits_in_force"].as_array().unwrap();
    assert!(
        limits.iter().any(|one| one["limit"] == "10 in 5 min"),
        "{limits:#?}"
    );
}

/// Clients that say nothing, that do not end their head, and that do not read.
#[tokio::test]
async fn livez_answers_whoever_holds_connections() {
    let (_lab, admin) = lab().await;
    let silent = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        drop(stream.write_all(bytes).await);
        stream
    };
    let unread = "GET /status HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let unended = "GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: ";
    for bytes in [&b""[..], unended.as_bytes(), unread.as_bytes()] {
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(silent(bytes).await);
        }
        for _ in 0..3 {
            let answer = within(AT_ONCE, "/livez", admin.get("/livez").send()).await;
            assert_eq!(answer.status, 200);
        }
    }
}

/// Nobody who asks for something is cut off for those who only hold connections.
#[tokio::test]
async fn a_scrape_under_way_goes_on_while_others_hold_connections() {
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hung.local_addr().unwrap());
    let port = free_port();
    let section = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let builder = Lab::builder().upstream(url).more(&section);
    let _lab = builder.start().await;
    let admin = Client::plain(SocketAddr::from(([127, 0, 0, 1], port)));
    let scrape = tokio::spawn(admin.get("/metrics").send());
    // It has been understood once the registry is asked.
    let (_asked, _) = within(AT_ONCE, "the question", hung.accept())
        .await
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(admin.address).await.unwrap());
    }
    assert_eq!(admin.get("/livez").send().await.status, 200);
    let answer = scrape.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn the_status_asks_whether_one_address_is_a_balancer() {
    let port = free_port();
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let trusted = "trusted_proxies = [\"127.0.0.1\"]";
    for (server, is_told) in [("", true), (trusted, false)] {
        let lab = Lab::builder().server(server).more(&admin).start().await;
        let admin = Client::plain(SocketAddr::from(([127, 0, 0, 1], port)));
        let balancer = lab.anonymous();
        let mut connection = balancer.connect().await;
        for number in 0..600 {
            let client = format!("198.51.100.{}", number % 7);
            let call = balancer.get("/v2/").header("x-forwarded-for", client);
            assert_eq!(connection.send(call).await.status, 401);
        }
        let status = admin.get("/status.json").send().await.json();
        let html = admin.get("/status").send().await.text();
        let one = &status["one_source"];
        assert_eq!(one.is_object(), is_told, "{one}");
        assert_eq!(html.contains("Is it a load balancer?"), is_told);
        if is_told {
            assert_eq!(one["address"], "127.0.0.1");
            let advice = one["advice"].as_str().unwrap();
            for key in [
                "server.trusted_proxies = [\"127.0.0.1\"]",
                "server.proxy_protocol",
            ] {
                assert!(advice.contains(key), "{advice}");
            }
        }
    }
}
