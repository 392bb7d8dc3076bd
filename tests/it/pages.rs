//! Pages in browsers that call the API: registry UIs on the same origin and on another.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::browser::{is_there, run};
use crate::support::http::{Client, basic};
use crate::support::image::Image;
use crate::support::lab::password;
use crate::support::process::{Process, free_port, on_path, skip};
use crate::support::{Answer, Http, Lab};
use http::Method;

const UI: &str = "https://ui.example.com";
const EVIL: &str = "https://evil.example.com";
const NAMED: &str = "cors_origins = [\"https://UI.example.com:443/\"]";

fn preflight(client: &Client, origin: &str) -> crate::support::http::Call {
    client
        .call(Method::OPTIONS, "/v2/team-a/app/manifests/v1")
        .header("origin", origin)
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "cors")
        .header("access-control-request-method", "DELETE")
        .header("access-control-request-headers", "authorization,accept")
}

#[track_caller]
fn assert_readable(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some(UI));
    assert_eq!(
        answer.header("access-control-allow-credentials"),
        Some("true")
    );
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("www-authenticate") && exposed.contains("docker-content-digest"));
    let mut varies = answer.headers.get_all("vary").iter();
    assert!(varies.any(|value| value.to_str().unwrap().contains("Origin")));
}

#[track_caller]
fn assert_unreadable(answer: &Answer) {
    let mut names = answer.headers.keys().map(http::HeaderName::as_str);
    assert!(
        !names.any(|name| name.starts_with("access-control-")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_named_page_may_ask_and_read_every_answer() {
    let lab = Lab::builder().server(NAMED).start().await;
    let alice = lab.user("alice");
    Image::new(1).push(&alice, "team-a/app", "v1").await;
    for http in Http::BOTH {
        let (alice, anonymous) = (alice.over(http), lab.anonymous().over(http));
        let asked = preflight(&anonymous, UI).send().await;
        assert_eq!(asked.status, 204, "{asked:?}");
        assert_readable(&asked);
        let of = |name| asked.header(name).unwrap().to_lowercase();
        assert!(of("access-control-allow-methods").contains("delete"));
        assert!(of("access-control-allow-headers").contains("authorization"));
        let from_ui = |call: crate::support::http::Call| {
            call.header("origin", UI)
                .header("sec-fetch-site", "cross-site")
                .header("sec-fetch-mode", "cors")
        };
        let bare = from_ui(anonymous.get("/v2/_catalog")).send().await;
        assert_eq!(bare.status, 401);
        assert_readable(&bare);
        for path in ["/v2/_catalog", "/v2/team-a/app/manifests/v1", "/v2/nothing"] {
            let answer = from_ui(alice.get(path)).send().await;
            assert_readable(&answer);
        }
        let begun = from_ui(alice.post("/v2/team-a/app/blobs/uploads/"));
        let begun = begun.send().await;
        assert_eq!(begun.status, 202);
        assert_readable(&begun);
    }
    // What is wrong with any request is wrong with a preflight too.
    let elsewhere = preflight(&lab.anonymous(), UI).header("expect", "something");
    assert_eq!(elsewhere.send().await.status, 417);
    let lines = lab.audit().records();
    let preflights = lines.iter().filter(|line| line["method"] == "OPTIONS");
    let refused = preflights.filter(|line| line["status"] != 417);
    assert_eq!(refused.count(), 0, "a preflight decides nothing");
}

#[tokio::test]
async fn other_pages_get_nothing_and_do_nothing() {
    for server in ["", NAMED] {
        let lab = Lab::builder().server(server).start().await;
        let alice = lab.user("alice");
        Image::new(1).push(&alice, "team-a/app", "v1").await;
        let asked = preflight(&lab.anonymous(), EVIL).send().await;
        assert!(asked.status == 403 || asked.status == 405, "{asked:?}");
        assert_unreadable(&asked);
        let uploads = "/v2/team-a/app/blobs/uploads/";
        let sends = |client: &Client, site: &str, origin: &str| {
            let form = client.post(uploads).header("content-type", "text/plain");
            let form = match site {
                "" => form,
                _ => form.header("sec-fetch-site", site),
            };
            form.header("origin", origin)
        };
        let own = format!("https://{}", lab.authority());
        for (site, origin) in [
            ("cross-site", EVIL),
            ("same-site", EVIL),
            ("cross-site", "null"),
            ("odd", EVIL),
            ("", EVIL),
            ("", "null"),
            ("", "http://127.0.0.1"),
            // One of them says that the other does not tell the truth.
            ("cross-site", own.as_str()),
        ] {
            for http in Http::BOTH {
                let answer = sends(&alice.over(http), site, origin).send().await;
                answer.assert_problem(403, "DENIED");
                assert!(answer.message().contains("cors_origins"));
                assert_unreadable(&answer);
            }
        }
        let same = sends(&alice, "same-origin", &own).send().await;
        assert_eq!(same.status, 202, "{same:?}");
        // A picture, a script: sent with the password that the browser keeps.
        let picture = alice
            .get("/v2/_catalog")
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "no-cors");
        picture.send().await.assert_problem(403, "DENIED");
        let frame = alice
            .get("/v2/_catalog")
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "iframe");
        frame.send().await.assert_problem(403, "DENIED");
        let twice = alice
            .get("/v2/_catalog")
            .header("sec-fetch-site", "same-origin")
            .header("sec-fetch-site", "cross-site");
        twice.send().await.assert_problem(403, "DENIED");
        let read = alice.get("/v2/_catalog").header("origin", EVIL);
        let read = read.send().await;
        assert_eq!(read.status, 200);
        assert_unreadable(&read);
        let lines = lab.audit().records();
        let refused = lines
            .iter()
            .filter(|line| line["reason"] == "a page of another origin");
        assert!(refused.clone().count() > 0);
        assert!(refused.clone().all(|line| line["user"].is_null()));
    }
}

#[tokio::test]
async fn a_person_follows_a_link_and_is_asked_for_a_password() {
    let lab = Lab::start().await;
    for site in ["none", "same-origin", "same-site", "cross-site"] {
        let follow = |client: &Client| {
            client
                .get("/v2/_catalog")
                .header("sec-fetch-site", site)
                .header("sec-fetch-mode", "navigate")
        };
        let asked = follow(&lab.anonymous()).send().await;
        let realm = format!("Basic realm=\"{}\"", lab.authority());
        assert_eq!(asked.status, 401);
        assert_eq!(asked.header("www-authenticate"), Some(realm.as_str()));
        assert_eq!(follow(&lab.user("alice")).send().await.status, 200);
    }
    // Node's `fetch` says less than a browser, and asks for a token like other clients.
    let node = lab.anonymous().get("/v2/").header("sec-fetch-mode", "cors");
    let node = node.send().await;
    let challenge = node.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer"), "{challenge}");
}

#[tokio::test]
async fn a_reload_names_and_forgets_origins() {
    let lab = Lab::start().await;
    let of_ui = || lab.user("alice").get("/v2/_catalog").header("origin", UI);
    assert_unreadable(&of_ui().send().await);
    let config = lab.config();
    let named = config.replace("[server]\n", &format!("[server]\n{NAMED}\n"));
    lab.folder.replace("portcullis.toml", named);
    assert_eq!(lab.reload().await, "allowed");
    assert_readable(&of_ui().send().await);
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    assert_unreadable(&of_ui().send().await);
}

/// What a UI does: a look without credentials (for which the browser would ask a person, if it might
/// send some), the catalogue, tags, a digest, and a deletion.
fn page() -> String {
    let authorization = basic("mona", &password("mona"));
    r#"<!doctype html><html><body><p id="said">waiting</p><script>
const base = new URLSearchParams(location.search).get("base") || "";
const headers = { authorization: "AUTHORIZATION", accept: "application/vnd.oci.image.manifest.v1+json" };
const ask = (method, path) => fetch(base + path, { method, headers });
async function all(said) {
  said.push("bare " + (await fetch(base + "/v2/", { credentials: "omit" })).status);
  said.push("catalogue " + (await (await ask("GET", "/v2/_catalog")).json()).repositories.join(" "));
  said.push("tags " + (await (await ask("GET", "/v2/team-a/app/tags/list")).json()).tags.join(" "));
  const digest = (await ask("HEAD", "/v2/team-a/app/manifests/v1")).headers.get("docker-content-digest");
  said.push("deleted " + (await ask("DELETE", "/v2/team-a/app/manifests/" + digest)).status);
}
const said = [];
all(said).catch((error) => said.push("failed " + error.name)).then(() => {
  document.getElementById("said").textContent = said.join("; ");
});
</script></body></html>"#
        .replace("AUTHORIZATION", &authorization)
}

/// A web server with the page: by itself, and on one origin with the registry.
async fn web(lab: &Lab, alone: u16, before: u16) -> Process {
    let folder = lab.folder.path().display();
    let registry = lab.authority();
    lab.folder.write("index.html", page());
    let config = lab.folder.write(
        "nginx.conf",
        format!(
            "daemon off; pid {folder}/nginx.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; root {folder}; client_body_temp_path {folder}/body; \
             proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; \
             uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; \
             types {{ text/html html; }}\n\
             server {{ listen 127.0.0.1:{alone}; location = /index.html {{ }} }}\n\
             server {{ listen 127.0.0.1:{before} ssl; ssl_certificate server.pem; \
             ssl_certificate_key server.key; location = /index.html {{ }}\n\
             location / {{ proxy_pass https://{registry}; proxy_set_header Host $http_host; \
             proxy_http_version 1.1; }} }} }}"
        ),
    );
    let mut command = Command::new("nginx");
    command.arg("-e").arg("stderr").arg("-c").arg(config);
    let mut nginx = Process::start(&mut command, &lab.folder.join("nginx.log"));
    for port in [alone, before] {
        let listens = nginx.listens(SocketAddr::from(([127, 0, 0, 1], port)));
        assert!(listens.await.is_ok(), "{}", nginx.log());
    }
    nginx
}

#[tokio::test]
async fn a_registry_ui_works_in_a_real_browser() {
    if !is_there() {
        return;
    }
    if !on_path("nginx") {
        return skip("nginx is missing; tests/install-deps installs it");
    }
    let (alone, before) = (free_port(), free_port());
    let keys = format!("cors_origins = [\"http://127.0.0.1:{alone}\"]");
    let lab = Lab::builder().server(&keys).start().await;
    let _web = web(&lab, alone, before).await;
    let registry = lab.authority();
    let good = "bare 401; catalogue team-a/app; tags v1; deleted 202";
    let pages = [
        format!("https://127.0.0.1:{before}/index.html"),
        format!("http://127.0.0.1:{alone}/index.html?base=https://{registry}"),
    ];
    let image = Image::new(1);
    for page in pages {
        let pushed = image.push(&lab.user("alice"), "team-a/app", "v1").await;
        assert_eq!(pushed.status, 201);
        let seen = run(&lab.folder, &page).await;
        assert!(seen.text().contains(good), "{page}: {}", seen.text());
    }
    // A person without a UI, who answers when the browser asks for a password.
    let by_hand = format!("https://mona:{}@{registry}/v2/_catalog", password("mona"));
    let seen = run(&lab.folder, &by_hand).await;
    assert!(seen.text().contains("team-a/app"), "{}", seen.text());
    // The same page at an origin that is not named.
    let foreign = format!("http://localhost:{alone}/index.html?base=https://{registry}");
    let seen = run(&lab.folder, &foreign).await;
    assert!(seen.text().contains("failed TypeError"), "{}", seen.text());
}
