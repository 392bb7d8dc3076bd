//! containerd, by its `ctr` and a daemon of the test's own.

use std::process::Command;

use crate::support::image::{Image, MANIFEST};
use crate::support::process::Process;
use crate::support::{Lab, password};
use crate::tool::{Challenge, Ran, can_run, certificates, limited, pulls_left, run, seed};

pub(crate) struct Containerd<'a> {
    lab: &'a Lab,
    _daemon: Process,
}

impl<'a> Containerd<'a> {
    pub(crate) async fn start(lab: &'a Lab) -> Self {
        let folder = &lab.folder;
        let hosts = folder.join("hosts.d");
        let hosts = hosts.display();
        let base = folder.join("containerd");
        std::fs::create_dir_all(&base).unwrap();
        let base = base.display();
        let config = folder.write(
            "containerd/config.toml",
            format!(
                "version = 2\nroot = \"{base}/root\"\nstate = \"{base}/state\"\n\
                 [grpc]\naddress = \"{base}/sock\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_port = \"0\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{hosts}\"\n"
            ),
        );
        write_hosts(lab, "");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(config);
        let mut daemon = Process::start(&mut command, &folder.join("containerd.log"));
        let socket = folder.join("containerd/sock");
        crate::support::eventually("containerd", || {
            assert!(
                daemon.exited().is_none(),
                "containerd ended:\n{}",
                daemon.log()
            );
            std::os::unix::net::UnixStream::connect(&socket).ok()
        })
        .await;
        Self {
            lab,
            _daemon: daemon,
        }
    }

    /// Gives it alice's certificate.
    pub(crate) fn shows_a_certificate(&self) {
        let [certificate, key] =
            certificates::give(self.lab).map(|path| path.display().to_string());
        write_hosts(
            self.lab,
            &format!("client = [[\"{certificate}\", \"{key}\"]]\n"),
        );
    }

    fn ctr(&self, line: &str) -> Ran {
        let folder = &self.lab.folder;
        let mut command = Command::new("ctr");
        command
            .arg("-a")
            .arg(folder.join("containerd/sock"))
            .args(["-n", "test", "images"]);
        run(folder, command.args(line.split_whitespace()), "")
    }

    fn pull(&self, more: &str, image: &str) -> Ran {
        let hosts = self.lab.folder.join("hosts.d");
        self.ctr(&format!(
            "pull --snapshotter native --hosts-dir {} {more} {image}",
            hosts.display()
        ))
    }

    fn push(&self, more: &str, image: &str) -> Ran {
        let hosts = self.lab.folder.join("hosts.d");
        self.ctr(&format!(
            "push --hosts-dir {} {more} {image}",
            hosts.display()
        ))
    }
}

/// What ctr knows about the proxy, with further lines about it.
fn write_hosts(lab: &Lab, more: &str) {
    let host = lab.authority();
    let hosts = lab.folder.join("hosts.d").join(&host);
    std::fs::create_dir_all(&hosts).unwrap();
    let ca = lab.folder.join("ca.pem");
    let text = format!(
        "server = \"https://{host}\"\n[host.\"https://{host}\"]\n\
         capabilities = [\"pull\", \"resolve\", \"push\"]\nca = \"{}\"\n{more}",
        ca.display()
    );
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();
}

async fn pulls_and_pushes(challenge: Challenge) {
    if !can_run(&["containerd", "ctr", "skopeo", "umoci"]) {
        return;
    }
    let lab = challenge.lab().await;
    seed(&lab, &["team-a/app", "public/app"]);
    let containerd = Containerd::start(&lab).await;
    let host = lab.authority();
    let alice = format!("-u alice:{}", password("alice"));
    let image = format!("{host}/team-a/app:v1");

    containerd.pull("-u alice:wrong", &image).fails();
    containerd.pull("", &image).fails();
    containerd.pull(&alice, &image).ok();

    let pushed = format!("{host}/team-a/ctr:v1");
    containerd.ctr(&format!("tag {image} {pushed}")).ok();
    containerd.push(&alice, &pushed).ok();
    containerd
        .push("", &format!("{host}/team-a/anon:v1"))
        .fails();
    let denied = format!("{host}/team-b/ctr:v1");
    containerd.ctr(&format!("tag {image} {denied}")).ok();
    let said = containerd.push(&alice, &denied).fails();
    // containerd shows no body, only the status.
    assert!(said.contains("403") || said.contains("denied"), "{said}");

    containerd.pull("", &format!("{host}/public/app:v1")).ok();
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_and_pushes() {
    pulls_and_pushes(Challenge::Bearer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_does_with_basic_what_basic_can() {
    pulls_and_pushes(Challenge::Basic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_comes_with_a_certificate() {
    if !can_run(&["containerd", "ctr", "skopeo", "umoci"]) {
        return;
    }
    let lab = certificates::lab().await;
    seed(&lab, &["team-a/app"]);
    let containerd = Containerd::start(&lab).await;
    let host = lab.authority();
    let image = format!("{host}/team-a/app:v1");
    // It shows no body, only the status.
    let said = containerd.pull("", &image).fails();
    assert!(said.contains("401"), "{said}");

    containerd.shows_a_certificate();
    containerd.pull("", &image).ok();
    let pushed = format!("{host}/team-a/ctr:v1");
    containerd.ctr(&format!("tag {image} {pushed}")).ok();
    containerd.push("", &pushed).ok();

    certificates::only_a_gate(&lab).await;
    containerd.pull("", &image).fails();
    let alice = format!("-u alice:{}", password("alice"));
    containerd.pull(&alice, &image).ok();
    containerd.push(&alice, &pushed).ok();

    certificates::revoke(&lab).await;
    let said = containerd.pull(&alice, &image).fails();
    assert!(said.contains("certificate"), "{said}");
    lab.assert_no_secret(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_are_counted_and_refused() {
    if !can_run(&["containerd", "ctr", "skopeo", "umoci"]) {
        return;
    }
    let lab = limited().await;
    seed(&lab, &["public/app"]);
    let other = Image::new(1)
        .push(&lab.user("ada"), "public/other", "v1")
        .await;
    assert_eq!(other.status, 201, "{other:?}");
    let containerd = Containerd::start(&lab).await;
    let host = lab.authority();
    containerd.pull("", &format!("{host}/public/app:v1")).ok();
    let left = pulls_left(&lab, "public/app").await;
    assert_eq!(left.as_deref(), Some("2;w=21600"));
    for _ in 0..2 {
        let get = lab.nobody().await.get("/v2/public/app/manifests/v1");
        assert_eq!(get.header("accept", MANIFEST).send().await.status, 200);
    }
    // It shows no body, only the status; what it has already it may ask for by HEAD.
    let said = containerd
        .pull("", &format!("{host}/public/other:v1"))
        .fails();
    assert!(said.contains("429"), "{said}");
    containerd.pull("", &format!("{host}/public/app:v1")).ok();
    // Logged in it is somebody on public repositories too, in limits and on record.
    let alice = format!("-u alice:{}", password("alice"));
    let image = format!("{host}/public/app:v1");
    for _ in 0..4 {
        containerd.ctr(&format!("rm --sync {image}")).ok();
        containerd.pull(&alice, &image).ok();
    }
    let is_hers = |record: &serde_json::Value| {
        record["user"] == "alice" && record["method"] == "GET" && record["object"] == "manifest"
    };
    lab.audit().find("a pull of hers", is_hers).await;
}
