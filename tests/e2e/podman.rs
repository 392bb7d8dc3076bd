//! podman, with storage of the test's own.

use std::process::Command;

use crate::support::{Lab, password};
use crate::tool::{
    Challenge, Ran, assert_our_denial, assert_our_limit, can_run, cert_dir, certificates,
    holds_password, limited, pulls_left, rootfs, run, seed,
};

struct Podman<'a>(&'a Lab);

impl Podman<'_> {
    /// Runs `podman VERB --cert-dir ... REST`; of the verbs only those that talk to a registry
    /// know of certificates.
    fn remote(&self, verb: &str, rest: &str, input: &str) -> Ran {
        let cert_dir = cert_dir(self.0);
        self.podman(
            &format!("{verb} --cert-dir {} {rest}", cert_dir.display()),
            input,
        )
    }

    fn podman(&self, line: &str, input: &str) -> Ran {
        let folder = &self.0.folder;
        let mut command = Command::new("podman");
        command.arg("--root").arg(folder.join("podman/root"));
        command.arg("--runroot").arg(folder.join("podman/run"));
        command.arg("--tmpdir").arg(folder.join("podman/tmp"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command.args(["--events-backend", "file"]);
        run(folder, command.args(line.split_whitespace()), input)
    }

    fn login(&self, user: &str, password: &str) -> Ran {
        let rest = format!("-u {user} --password-stdin {}", self.0.authority());
        self.remote("login", &rest, password)
    }
}

async fn logs_in_pushes_and_pulls(challenge: Challenge) {
    if !can_run(&["podman", "tar"]) {
        return;
    }
    let lab = challenge.lab().await;
    let podman = Podman(&lab);
    let host = lab.authority();
    let rootfs = rootfs(&lab);

    let said = podman.login("alice", "wrong").fails();
    assert!(said.contains("invalid username/password"), "{said}");
    podman.login("alice", &password("alice")).ok();

    let image = format!("{host}/team-a/pod:v1");
    podman
        .podman(&format!("import {} {image}", rootfs.display()), "")
        .ok();
    podman.remote("push", &image, "").ok();
    podman.podman(&format!("rmi {image}"), "").ok();
    podman.remote("pull", &image, "").ok();

    // Where she may read and where she may not: its first HEAD is 404, and podman shows the words of
    // what comes next.
    let denied = format!("{host}/team-a/prod:v1");
    podman.podman(&format!("tag {image} {denied}"), "").ok();
    assert_our_denial(&podman.remote("push", &denied, "").fails());
    let foreign = format!("{host}/team-b/pod:v1");
    podman.podman(&format!("tag {image} {foreign}"), "").ok();
    let said = podman.remote("push", &foreign, "").fails();
    assert_our_denial(&said);
    assert!(said.contains("alice may not push to team-b/pod"), "{said}");

    podman.login("ada", &password("ada")).ok();
    let public = format!("{host}/public/pod:v1");
    podman.podman(&format!("tag {image} {public}"), "").ok();
    podman.remote("push", &public, "").ok();
    podman.podman(&format!("logout {host}"), "").ok();
    assert!(!holds_password(&lab.folder.read("auth.json"), "ada"));
    podman
        .podman(&format!("rmi {image} {public} {denied} {foreign}"), "")
        .ok();
    podman.remote("pull", &image, "").fails();
    // With Basic as the challenge podman gives up before it has asked for the image.
    let anonymous = podman.remote("pull", &public, "");
    if challenge == Challenge::Bearer {
        anonymous.ok();
        podman.remote("push", &public, "").fails();
    }
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_logs_in_pushes_and_pulls() {
    logs_in_pushes_and_pulls(Challenge::Bearer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_does_with_basic_what_basic_can() {
    logs_in_pushes_and_pulls(Challenge::Basic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_comes_with_a_certificate() {
    if !can_run(&["podman", "tar"]) {
        return;
    }
    let lab = certificates::lab().await;
    let podman = Podman(&lab);
    let host = lab.authority();
    let image = format!("{host}/team-a/pod:v1");
    let rootfs = rootfs(&lab);
    podman
        .podman(&format!("import {} {image}", rootfs.display()), "")
        .ok();

    // It wants the file that it is told to take credentials from.
    lab.folder.write("auth.json", "{}");
    let said = podman.remote("push", &image, "").fails();
    certificates::assert_told_where(&said);

    certificates::give(&lab);
    podman.remote("push", &image, "").ok();
    podman.podman(&format!("rmi {image}"), "").ok();
    podman.remote("pull", &image, "").ok();
    assert_eq!(lab.folder.read("auth.json"), "{}");
    let denied = format!("{host}/team-b/pod:v1");
    podman.podman(&format!("tag {image} {denied}"), "").ok();
    podman.remote("push", &denied, "").fails();

    certificates::only_a_gate(&lab).await;
    podman.remote("push", &image, "").fails();
    podman.login("alice", &password("alice")).ok();
    podman.remote("push", &image, "").ok();

    certificates::revoke(&lab).await;
    let said = podman.remote("pull", &image, "").fails();
    assert!(said.contains("certificate"), "{said}");
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_shows_that_the_pulls_are_used_up() {
    if !can_run(&["podman", "skopeo", "umoci"]) {
        return;
    }
    let lab = limited().await;
    seed(&lab, &["public/pod"]);
    let podman = Podman(&lab);
    let image = format!("{}/public/pod:v1", lab.authority());
    lab.folder.write("auth.json", "{}");
    for left in ["2", "1", "0"] {
        podman.remote("pull", &image, "").ok();
        podman.podman(&format!("rmi {image}"), "").ok();
        let counted = pulls_left(&lab, "public/pod").await;
        assert_eq!(counted, Some(format!("{left};w=21600")));
    }
    let said = podman.remote("pull", &image, "").fails();
    assert_our_limit(&said, &lab.authority());
    podman.login("ada", &password("ada")).ok();
    podman.remote("pull", &image, "").ok();
}
