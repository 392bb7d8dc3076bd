//! Running a client, and an image made from nothing.

#[path = "certificates.rs"]
pub(crate) mod certificates;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::folder::Folder;
use crate::support::image::MANIFEST;
use crate::support::process::{has_ipv6, on_path, skip};
use crate::support::{Lab, password};

/// The challenges under which each client is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer,
}

impl Challenge {
    /// The proxy on both loopback addresses, before a real registry.
    pub(crate) async fn lab(self) -> Lab {
        let name = match self {
            Self::Basic => "basic",
            Self::Bearer => "bearer",
        };
        let builder = Lab::builder().challenge(name);
        if has_ipv6() {
            builder.dual_stack()
        } else {
            builder
        }
        .start()
        .await
    }
}

/// The proxy with three anonymous pulls in six hours.
pub(crate) async fn limited() -> Lab {
    let limits = "[limits]\nanonymous_pulls = { count = 3, per = \"6h\" }\n";
    let builder = Lab::builder().more(limits);
    if has_ipv6() {
        builder.dual_stack()
    } else {
        builder
    }
    .start()
    .await
}

/// How many pulls are left for who comes from 127.0.0.1.
pub(crate) async fn pulls_left(lab: &Lab, repository: &str) -> Option<String> {
    let nobody = lab.nobody().await;
    let head = nobody.head(&format!("/v2/{repository}/manifests/v1"));
    let answer = head.header("accept", MANIFEST).send().await;
    answer.header("ratelimit-remaining").map(str::to_owned)
}

/// What a refused pull looks like to a user.
#[track_caller]
pub(crate) fn assert_our_limit(said: &str, host: &str) {
    let lower = said.to_lowercase();
    let login = format!("docker login {host}");
    assert!(
        lower.contains("toomanyrequests") && said.contains(&login) && said.contains("[ref "),
        "{said}"
    );
}

/// Whether the test can be run here.
pub(crate) fn can_run(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !on_path(program))
        .collect();
    let problem = if !missing.is_empty() {
        format!("{missing:?} not found; tests/install-deps installs them")
    } else if !rustix::process::geteuid().is_root() {
        "container engines need root".to_owned()
    } else {
        return true;
    };
    skip(&problem);
    false
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    what: String,
    pub(crate) worked: bool,
    /// Both outputs.
    pub(crate) said: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.worked, "{}:\n{}", self.what, self.said);
        self.said
    }

    #[track_caller]
    pub(crate) fn fails(self) -> String {
        assert!(!self.worked, "{} worked:\n{}", self.what, self.said);
        self.said
    }
}

/// Runs a command with this input, in an environment of the folder's own.
pub(crate) fn run(folder: &Folder, command: &mut Command, input: &str) -> Ran {
    use std::io::Write as _;
    let what = format!("{command:?}");
    let mut child = command
        .env("HOME", folder.path())
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("REGISTRY_AUTH_FILE", folder.join("auth.json"))
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that never asks may be gone already.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        what,
        worked: output.status.success(),
        said: text(&output.stdout) + &text(&output.stderr),
    }
}

/// Runs a program with arguments separated by spaces.
pub(crate) fn shell(folder: &Folder, line: &str) -> Ran {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    run(folder, command.args(words), "")
}

/// The folder that docker, podman and skopeo take the authority from.
pub(crate) fn cert_dir(lab: &Lab) -> PathBuf {
    let folder = lab.folder.join("cert-dir");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ca.crt"), &lab.pki.ca).unwrap();
    folder
}

/// A root file system as a tar archive.
pub(crate) fn rootfs(lab: &Lab) -> PathBuf {
    std::fs::create_dir_all(lab.folder.join("rootfs")).unwrap();
    lab.folder
        .write("rootfs/hello", format!("hello from {}\n", lab.address));
    shell(&lab.folder, "tar -C rootfs -cf rootfs.tar .").ok();
    lab.folder.join("rootfs.tar")
}

/// An OCI layout `layout:v1`, made by umoci.
pub(crate) fn layout(lab: &Lab) -> String {
    let folder = &lab.folder;
    shell(folder, "umoci init --layout layout").ok();
    shell(folder, "umoci new --image layout:v1").ok();
    shell(folder, "umoci unpack --rootless --image layout:v1 bundle").ok();
    folder.write(
        "bundle/rootfs/hello",
        format!("hello from {}\n", lab.address),
    );
    shell(folder, "umoci repack --image layout:v1 bundle").ok();
    "oci:layout:v1".to_owned()
}

/// Puts the layout into a repository, past the proxy.
pub(crate) fn seed(lab: &Lab, repositories: &[&str]) {
    let layout = layout(lab);
    for repository in repositories {
        let address = lab.registry().address;
        let line = format!(
            "skopeo copy --insecure-policy --dest-tls-verify=false {layout} \
             docker://{address}/{repository}:v1"
        );
        shell(&lab.folder, &line).ok();
    }
}

/// Whether any secret of a user stands in the file.
pub(crate) fn holds_password(text: &str, user: &str) -> bool {
    let basic = crate::support::http::basic(user, &password(user));
    text.contains(&password(user)) || text.contains(basic.trim_start_matches("Basic "))
}

/// What our refusals look like to a user.
#[track_caller]
pub(crate) fn assert_our_denial(said: &str) {
    assert!(
        said.contains("denied: ") && said.contains("[ref "),
        "{said}"
    );
}
