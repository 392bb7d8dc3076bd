//! The registry behind TLS, behind a unix socket, and behind a password.

use crate::support::folder::Folder;
use crate::support::image::{Image, MANIFEST};
use crate::support::pki::Pki;
use crate::support::registry::Registry;
use crate::support::{Lab, Reply, Upstream};

/// Pushes an image through the proxy and pulls it again.
async fn assert_usable(lab: &Lab) {
    let image = Image::new(1);
    let alice = lab.user("alice");
    let pushed = image.push(&alice, "team-a/app", "v1").await;
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let call = alice.get("/v2/team-a/app/manifests/v1");
    let pulled = call.header("accept", MANIFEST).send().await;
    assert_eq!((pulled.status, pulled.body), (200, image.manifest));
}

#[tokio::test]
async fn a_registry_on_a_unix_socket() {
    let folder = Folder::new();
    let registry = Registry::start_unix(&folder, "registry.sock").await;
    let url = format!("unix:{}", folder.join("registry.sock").display());
    let lab = Lab::builder().upstream(url).start().await;
    assert_usable(&lab).await;
    drop(lab);
    drop(registry);
}

#[tokio::test]
async fn a_registry_behind_tls_is_checked_by_who_is_trusted_now() {
    let folder = Folder::new();
    let pki = Pki::new();
    let pair = pki.server();
    folder.write("inner.pem", pair.certificate);
    folder.write("inner.key", pair.key);
    let ca = folder.write("inner-ca.pem", &pki.ca);
    let foreign = folder.write("foreign-ca.pem", Pki::new().ca);
    let registry = Registry::start_tls(&folder, ["inner.pem", "inner.key"]).await;
    let url = format!("https://localhost:{}", registry.address.port());

    let keys = format!("ca = \"{}\"", ca.display());
    let lab = Lab::builder()
        .upstream(&url)
        .upstream_keys(&keys)
        .start()
        .await;
    assert_usable(&lab).await;

    let keys = format!("ca = \"{}\"", foreign.display());
    let lab = Lab::builder()
        .upstream(&url)
        .upstream_keys(&keys)
        .start()
        .await;
    let answer = lab
        .user("alice")
        .get("/v2/team-a/app/tags/list")
        .send()
        .await;
    answer.assert_problem(502, "UNAVAILABLE");

    // Another authority under the same name counts for connections that are open, too.
    let keys = format!("ca = \"{}\"", ca.display());
    let lab = Lab::builder()
        .upstream(&url)
        .upstream_keys(&keys)
        .start()
        .await;
    assert_usable(&lab).await;
    folder.replace("inner-ca.pem", Pki::new().ca);
    assert_eq!(lab.reload().await, "allowed");
    let answer = lab
        .user("alice")
        .get("/v2/team-a/app/tags/list")
        .send()
        .await;
    answer.assert_problem(502, "UNAVAILABLE");
}

/// `openssl req -x509` makes one that says CA:TRUE.
#[tokio::test]
async fn a_registry_with_a_self_signed_certificate_is_trusted_by_that_certificate() {
    let folder = Folder::new();
    let [named, other] = [Pki::self_signed(), Pki::self_signed()];
    let ca = folder.write("inner.pem", &named.certificate);
    folder.write("inner.key", named.key);
    let other = folder.write("other.pem", other.certificate);
    let registry = Registry::start_tls(&folder, ["inner.pem", "inner.key"]).await;
    let url = format!("https://localhost:{}", registry.address.port());
    let with = |ca: &std::path::Path| format!("ca = \"{}\"", ca.display());
    let builder = Lab::builder().upstream(&url);
    let lab = builder.upstream_keys(&with(&ca)).start().await;
    assert_usable(&lab).await;

    let builder = Lab::builder().upstream(&url);
    let lab = builder.upstream_keys(&with(&other)).start().await;
    let list = "/v2/team-a/app/tags/list";
    let answer = lab.user("alice").get(list).send().await;
    answer.assert_problem(502, "UNAVAILABLE");
    let record = lab
        .audit()
        .find("the pull", |record| record["status"] == 502)
        .await;
    let reason = record["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("the certificate is that of an authority"),
        "{record:#}"
    );
}

#[tokio::test]
async fn a_registry_that_asks_for_a_password_gets_ours_and_never_the_clients() {
    let upstream = Upstream::start(|seen| {
        let ours = crate::support::http::basic("proxy", "inner secret");
        match seen.values("authorization") == [ours] {
            true => Reply::ok("{}"),
            false => Reply::status("401 Unauthorized", "{}"),
        }
    })
    .await;
    let folder = Folder::new();
    let file = folder.write("upstream.key", "inner secret\n");
    let keys = format!(
        "username = \"proxy\"\npassword_file = \"{}\"",
        file.display()
    );
    let lab = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys(&keys)
        .start()
        .await;
    for client in [lab.user("alice"), lab.user("ada")] {
        let answer = client.get("/v2/team-a/app/tags/list").send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    lab.assert_no_secret(&["inner secret"]);
}
