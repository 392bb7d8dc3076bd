//! docker, by a daemon of the test's own.

use std::path::Path;
use std::process::Command;

use crate::support::process::{Process, has_ipv6, skip};
use crate::support::{Lab, password};
use crate::tool::{
    Challenge, Ran, assert_our_denial, assert_our_limit, can_run, cert_dir, certificates,
    holds_password, limited, rootfs, run,
};

const NAME: &str = "registry.test";

/// A docker daemon that reaches the proxy as `registry.test` at `::1`: names that resolve into
/// 127.0.0.0/8 are insecure registries to docker, for which it neither checks certificates nor
/// shows our messages.
struct Docker<'a> {
    lab: &'a Lab,
    /// The host as docker is told it.
    host: String,
    daemon: Process,
}

impl<'a> Docker<'a> {
    async fn start(lab: &'a Lab) -> Self {
        let base = lab.folder.join("dockerd");
        std::fs::create_dir_all(&base).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/dockerd.sh");
        let mut command = Command::new(script);
        command
            .arg(&base)
            .args([NAME, &lab.address.port().to_string(), "::1"]);
        command.arg(cert_dir(lab));
        let daemon = Process::start(&mut command, &lab.folder.join("dockerd.log")).ended_by_term();
        let mut docker = Self {
            lab,
            host: format!("{NAME}:{}", lab.address.port()),
            daemon,
        };
        docker.ready().await;
        docker
    }

    async fn ready(&mut self) {
        let log = self.lab.folder.join("dockerd/dockerd.log");
        crate::support::eventually("dockerd", || {
            let ended = self.daemon.exited();
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(
                ended.is_none(),
                "dockerd ended:\n{}\n{log}",
                self.daemon.log()
            );
            log.contains("API listen on").then_some(())
        })
        .await;
    }

    fn docker(&self, line: &str) -> Ran {
        self.docker_with(line, "")
    }

    fn docker_with(&self, line: &str, input: &str) -> Ran {
        let folder = &self.lab.folder;
        let socket = folder.join("dockerd/docker.sock");
        let mut command = Command::new("docker");
        command
            .arg("-H")
            .arg(format!("unix://{}", socket.display()));
        command.arg("--config").arg(folder.join("docker-config"));
        run(folder, command.args(line.split_whitespace()), input)
    }

    fn login(&self, user: &str, password: &str) -> Ran {
        let line = format!("login -u {user} --password-stdin {}", self.host);
        self.docker_with(&line, password)
    }

    fn config(&self) -> String {
        self.lab.folder.read("docker-config/config.json")
    }
}

fn runs_here() -> bool {
    if !has_ipv6() {
        skip("docker needs ::1 here");
        return false;
    }
    can_run(&["docker", "dockerd", "containerd", "unshare", "tar"])
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in_pushes_and_pulls() {
    if !runs_here() {
        return;
    }
    let lab = Challenge::Bearer.lab().await;
    let docker = Docker::start(&lab).await;
    let host = &docker.host;
    let rootfs = rootfs(&lab);

    let said = docker.login("alice", "wrong").fails();
    assert!(
        said.contains("unauthorized: ") && said.contains("[ref "),
        "{said}"
    );
    assert!(!docker.config().contains(host.as_str()));

    let said = docker.login("alice", &password("alice")).ok();
    assert!(said.contains("Login Succeeded"), "{said}");
    let config = docker.config();
    assert!(config.contains("identitytoken"), "{config}");
    assert!(!holds_password(&config, "alice"), "{config}");

    let image = format!("{host}/team-a/app:v1");
    docker
        .docker(&format!("import {} {image}", rootfs.display()))
        .ok();
    docker.docker(&format!("push {image}")).ok();
    docker.docker(&format!("rmi {image}")).ok();
    docker.docker(&format!("pull {image}")).ok();

    // Over and over, as a developer does.
    docker.docker(&format!("push {image}")).ok();

    let denied = format!("{host}/team-b/app:v1");
    docker.docker(&format!("tag {image} {denied}")).ok();
    assert_our_denial(&docker.docker(&format!("push {denied}")).fails());
    let prod = format!("{host}/team-a/prod:v1");
    docker.docker(&format!("tag {image} {prod}")).ok();
    assert_our_denial(&docker.docker(&format!("push {prod}")).fails());

    // A second repository of hers: docker mounts the layers it has already pushed.
    let second = format!("{host}/home/alice/copy:v1");
    docker.docker(&format!("tag {image} {second}")).ok();
    docker.docker(&format!("push {second}")).ok();

    docker.docker(&format!("logout {host}")).ok();
    assert!(!docker.config().contains(host.as_str()));
    docker.docker(&format!("rmi {image}")).ok();
    docker.docker(&format!("pull {image}")).fails();
    docker.docker(&format!("push {second}")).fails();
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_what_is_public_without_a_login() {
    if !runs_here() {
        return;
    }
    let lab = Challenge::Bearer.lab().await;
    let docker = Docker::start(&lab).await;
    let host = &docker.host;
    let rootfs = rootfs(&lab);
    let image = format!("{host}/public/app:v1");
    docker
        .docker(&format!("import {} {image}", rootfs.display()))
        .ok();
    docker.login("ada", &password("ada")).ok();
    docker.docker(&format!("push {image}")).ok();
    docker.docker(&format!("logout {host}")).ok();
    docker.docker(&format!("rmi {image}")).ok();
    docker.docker(&format!("pull {image}")).ok();
    let said = docker.docker(&format!("pull {host}/team-a/app:v1")).fails();
    assert!(
        said.contains("denied") || said.contains("unauthorized"),
        "{said}"
    );
    docker.docker(&format!("push {image}")).fails();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_does_with_basic_what_basic_can() {
    if !runs_here() {
        return;
    }
    let lab = Challenge::Basic.lab().await;
    let docker = Docker::start(&lab).await;
    let host = &docker.host;
    let rootfs = rootfs(&lab);
    docker.login("alice", "wrong").fails();
    docker.login("alice", &password("alice")).ok();
    let image = format!("{host}/team-a/app:v1");
    docker
        .docker(&format!("import {} {image}", rootfs.display()))
        .ok();
    docker.docker(&format!("push {image}")).ok();
    docker.docker(&format!("rmi {image}")).ok();
    docker.docker(&format!("pull {image}")).ok();
    let denied = format!("{host}/team-b/app:v1");
    docker.docker(&format!("tag {image} {denied}")).ok();
    assert_our_denial(&docker.docker(&format!("push {denied}")).fails());
    docker.docker(&format!("logout {host}")).ok();
    docker.docker(&format!("rmi {image}")).ok();
    docker.docker(&format!("pull {image}")).fails();
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_comes_with_a_certificate() {
    if !runs_here() {
        return;
    }
    let lab = certificates::lab().await;
    let docker = Docker::start(&lab).await;
    let host = &docker.host;
    let image = format!("{host}/team-a/app:v1");
    let rootfs = rootfs(&lab);
    docker
        .docker(&format!("import {} {image}", rootfs.display()))
        .ok();

    // Without one it is told where to put it.
    let said = docker.docker(&format!("push {image}")).fails();
    certificates::assert_told_where(&said);
    let said = docker.login("alice", &password("alice")).fails();
    certificates::assert_told_where(&said);

    // With one it needs nothing else.
    certificates::give(&lab);
    docker.docker(&format!("push {image}")).ok();
    docker.docker(&format!("rmi {image}")).ok();
    docker.docker(&format!("pull {image}")).ok();
    assert!(!docker.config().contains(host.as_str()));
    let denied = format!("{host}/team-b/app:v1");
    docker.docker(&format!("tag {image} {denied}")).ok();
    assert_our_denial(&docker.docker(&format!("push {denied}")).fails());
    // It does not make a wrong password right, nor have docker keep one.
    docker.login("alice", "wrong").fails();
    assert!(!docker.config().contains(host.as_str()));
    docker.docker(&format!("push {image}")).ok();

    // As a gate it goes with a password, to the token service too.
    certificates::only_a_gate(&lab).await;
    docker.docker(&format!("push {image}")).fails();
    docker.login("alice", &password("alice")).ok();
    docker.docker(&format!("push {image}")).ok();

    certificates::revoke(&lab).await;
    let said = docker.docker(&format!("pull {image}")).fails();
    assert!(said.contains("certificate"), "{said}");
    docker.docker(&format!("push {image}")).fails();
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_shows_that_the_pulls_are_used_up() {
    if !runs_here() {
        return;
    }
    let lab = limited().await;
    let docker = Docker::start(&lab).await;
    let host = &docker.host;
    let rootfs = rootfs(&lab);
    docker.login("ada", &password("ada")).ok();
    // docker remembers manifests, also of images that were removed: so each is another image.
    let image = |number: usize| format!("{host}/public/app:v{number}");
    for number in 0..4 {
        let image = image(number);
        let import = format!("import -m n{number} {} {image}", rootfs.display());
        docker.docker(&import).ok();
        docker.docker(&format!("push {image}")).ok();
        docker.docker(&format!("rmi {image}")).ok();
    }
    docker.docker(&format!("logout {host}")).ok();
    for number in 0..3 {
        docker.docker(&format!("pull {}", image(number))).ok();
        // It asks by HEAD whether it has it already, which costs nothing.
        docker.docker(&format!("pull {}", image(number))).ok();
    }
    let said = docker.docker(&format!("pull {}", image(3))).fails();
    assert_our_limit(&said, host);
    docker.login("ada", &password("ada")).ok();
    docker.docker(&format!("pull {}", image(3))).ok();
}
