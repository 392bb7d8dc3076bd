//! skopeo: copy, list-tags, inspect, delete.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Lab, password};
use crate::tool::{
    Challenge, Ran, assert_our_denial, assert_our_limit, can_run, cert_dir, certificates, layout,
    limited, pulls_left, run, seed,
};

struct Skopeo<'a>(&'a Lab);

impl Skopeo<'_> {
    fn skopeo(&self, line: &str, input: &str) -> Ran {
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy");
        run(&self.0.folder, command.args(line.split_whitespace()), input)
    }

    /// A verb that knows `--cert-dir`.
    fn remote(&self, verb: &str, rest: &str) -> Ran {
        self.skopeo(
            &format!("{verb} --cert-dir {} {rest}", cert_dir(self.0).display()),
            "",
        )
    }

    fn copy(&self, from: &str, to: &str) -> Ran {
        let dir = cert_dir(self.0);
        let dir = dir.display();
        self.skopeo(
            &format!("copy --src-cert-dir {dir} --dest-cert-dir {dir} {from} {to}"),
            "",
        )
    }

    fn login(&self, user: &str, password: &str) -> Ran {
        let dir = cert_dir(self.0);
        let host = self.0.authority();
        let line = format!(
            "login --cert-dir {} -u {user} --password-stdin {host}",
            dir.display()
        );
        self.skopeo(&line, password)
    }
}

async fn copies_lists_and_deletes(challenge: Challenge) {
    if !can_run(&["skopeo", "umoci"]) {
        return;
    }
    let lab = challenge.lab().await;
    let skopeo = Skopeo(&lab);
    let host = lab.authority();
    let layout = layout(&lab);
    let image = format!("docker://{host}/team-a/sk:v1");

    skopeo.login("alice", "wrong").fails();
    skopeo.login("alice", &password("alice")).ok();
    skopeo.copy(&layout, &image).ok();
    let said = skopeo
        .remote("list-tags", &format!("docker://{host}/team-a/sk"))
        .ok();
    assert!(said.contains("\"v1\""), "{said}");
    let said = skopeo.remote("inspect", &image).ok();
    assert!(said.contains("\"Digest\": \"sha256:"), "{said}");
    skopeo.copy(&image, "oci:back:v1").ok();
    let manifests = |layout: &str| {
        let index = lab.folder.read(&format!("{layout}/index.json"));
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().to_owned()
    };
    assert_eq!(manifests("layout"), manifests("back"));
    // A mount from one repository of hers to another.
    skopeo
        .copy(&image, &format!("docker://{host}/home/alice/sk:v1"))
        .ok();

    // Where she may read and where she may not: its first HEAD is 404, and skopeo shows the words of
    // what comes next.
    let prod = format!("docker://{host}/team-a/prod:v1");
    assert_our_denial(&skopeo.copy(&layout, &prod).fails());
    let said = skopeo
        .copy(&layout, &format!("docker://{host}/team-b/sk:v1"))
        .fails();
    assert_our_denial(&said);
    assert!(said.contains("alice may not push to team-b/sk"), "{said}");
    // Here it shows the whole body.
    let said = skopeo.remote("delete", &image).fails();
    assert!(said.contains("DENIED") && said.contains("[ref "), "{said}");
    skopeo.login("mona", &password("mona")).ok();
    skopeo.remote("delete", &image).ok();
    skopeo.remote("inspect", &image).fails();

    skopeo.login("ada", &password("ada")).ok();
    let public = format!("docker://{host}/public/sk:v1");
    skopeo.copy(&layout, &public).ok();
    skopeo.skopeo(&format!("logout {host}"), "").ok();
    let anonymous = skopeo.copy(&public, "oci:public:v1");
    if challenge == Challenge::Bearer {
        anonymous.ok();
    }
    skopeo.copy(&layout, &public).fails();
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_lists_and_deletes() {
    copies_lists_and_deletes(Challenge::Bearer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_does_with_basic_what_basic_can() {
    copies_lists_and_deletes(Challenge::Basic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_comes_with_a_certificate() {
    if !can_run(&["skopeo", "umoci"]) {
        return;
    }
    let lab = certificates::lab().await;
    let skopeo = Skopeo(&lab);
    let host = lab.authority();
    let layout = layout(&lab);
    let image = format!("docker://{host}/team-a/sk:v1");

    let said = skopeo.copy(&layout, &image).fails();
    certificates::assert_told_where(&said);

    certificates::give(&lab);
    skopeo.copy(&layout, &image).ok();
    skopeo.copy(&image, "oci:back:v1").ok();
    skopeo.remote("inspect", &image).ok();
    let prod = format!("docker://{host}/team-a/prod:v1");
    assert_our_denial(&skopeo.copy(&layout, &prod).fails());
    assert!(!lab.folder.join("auth.json").exists());
    // A certificate does not make a wrong password right, and the right one stays right.
    skopeo.login("alice", "wrong").fails();
    skopeo.login("alice", &password("alice")).ok();
    skopeo.copy(&layout, &image).ok();

    certificates::only_a_gate(&lab).await;
    std::fs::remove_file(lab.folder.join("auth.json")).unwrap();
    skopeo.copy(&layout, &image).fails();
    skopeo.login("alice", &password("alice")).ok();
    skopeo.copy(&layout, &image).ok();
    skopeo.copy(&image, "oci:again:v1").ok();

    certificates::revoke(&lab).await;
    let said = skopeo.remote("inspect", &image).fails();
    assert!(said.contains("certificate"), "{said}");
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_shows_that_the_pulls_are_used_up() {
    if !can_run(&["skopeo", "umoci"]) {
        return;
    }
    let lab = limited().await;
    seed(&lab, &["public/sk"]);
    let skopeo = Skopeo(&lab);
    let image = format!("docker://{}/public/sk:v1", lab.authority());
    for left in ["2", "1", "0"] {
        skopeo.copy(&image, &format!("oci:copy:v{left}")).ok();
        let counted = pulls_left(&lab, "public/sk").await;
        assert_eq!(counted, Some(format!("{left};w=21600")));
    }
    // It waits as Retry-After says, four times and without a word.
    let begun = Instant::now();
    let said = skopeo.copy(&image, "oci:copy:more").fails();
    assert_our_limit(&said, &lab.authority());
    assert!(
        begun.elapsed() < Duration::from_secs(90),
        "{:?}",
        begun.elapsed()
    );
    skopeo.login("ada", &password("ada")).ok();
    skopeo.copy(&image, "oci:copy:more").ok();
}
