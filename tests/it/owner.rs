//! Files that commands write are read by the server that has to read them, whoever runs the command.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Signal, geteuid};

use crate::support::folder::Folder;
use crate::support::lab::{PROGRAM, htpasswd};
use crate::support::pki::Pki;
use crate::support::process::{Process, free_port, skip};
use crate::support::{Client, Upstream};

/// The service's user and group, and a group of somebody else. They need no names.
const SERVICE: u32 = 61_701;
const OTHER: u32 = 61_702;

/// Root, as an operator is with `sudo`.
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skip("only root can give files to others and start a server as another user");
    }
    is_root
}

/// A folder as the unit's own lines leave it: `chgrp -R GROUP` and `chmod -R o=,g=rX`.
struct Site {
    folder: Folder,
    upstream: Upstream,
    pki: Pki,
    port: u16,
    admin: u16,
}

impl Site {
    async fn new() -> Self {
        let (folder, pki) = (Folder::new(), Pki::new());
        let upstream = Upstream::agreeable().await;
        let server = pki.server();
        let (port, admin) = (free_port(), free_port());
        folder.write("server.pem", &server.certificate);
        folder.write("server.key", &server.key);
        folder.write("htpasswd", htpasswd(&[("alice", "correct horse")]));
        let site = Self {
            folder,
            upstream,
            pki,
            port,
            admin,
        };
        site.folder.write("portcullis.toml", site.config());
        fs::create_dir(site.folder.join("state")).unwrap();
        for name in [
            "",
            "server.pem",
            "server.key",
            "htpasswd",
            "portcullis.toml",
        ] {
            let path = site.folder.join(name);
            let mode = if name.is_empty() { 0o750 } else { 0o640 };
            give(&path, 0, SERVICE, mode);
        }
        give(&site.folder.join("state"), SERVICE, SERVICE, 0o700);
        site
    }

    fn config(&self) -> String {
        let Self { port, admin, .. } = self;
        let upstream = self.upstream.url();
        format!(
            r#"
[server]
listen = ["127.0.0.1:{port}"]
[tls]
certificate = "server.pem"
private_key = "server.key"
[upstream]
url = "{upstream}"
[auth.htpasswd]
file = "htpasswd"
[audit]
file = "state/audit.jsonl"
[admin]
listen = "127.0.0.1:{admin}"
[[access]]
repositories = ["team-a/**"]
who = ["authenticated"]
role = "developer"
"#
        )
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The server, as the service's user. The log is root's.
    async fn serve(&self) -> Process {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--config"]);
        command.arg(self.file("portcullis.toml"));
        command.uid(SERVICE).gid(SERVICE);
        let log = std::env::temp_dir().join(format!("portcullis-owner-{}.log", self.port));
        let mut process = Process::start(&mut command, &log);
        let started = process.listens(self.address()).await;
        assert!(started.is_ok(), "{}", process.log());
        process
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    async fn status(&self, user: &str, password: &str) -> u16 {
        let client = Client::tls(self.address(), &self.pki.ca).basic(user, password);
        client.get("/v2/team-a/app/tags/list").send().await.status
    }

    /// A command of this program with the configuration, as root.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .env("PORTCULLIS_CONFIG", self.file("portcullis.toml"));
        output(&mut command)
    }

    fn create(&self, name: &str) -> (Output, String) {
        let words = [
            "key",
            "create",
            name,
            "--role",
            "guest",
            "--repository",
            "**",
        ];
        let made = self.run(&words);
        assert!(made.status.success(), "{}", told(&made));
        let key = String::from_utf8(made.stdout.clone()).unwrap();
        (made, key.trim().to_owned())
    }
}

fn output(command: &mut Command) -> Output {
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command.output().unwrap()
}

fn told(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

fn give(path: &Path, user: u32, group: u32, mode: u32) {
    chown(path, Some(user), Some(group)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn assert_is(path: &Path, user: u32, group: u32, mode: u32) {
    let file = fs::symlink_metadata(path).unwrap();
    let found = (file.uid(), file.gid(), file.mode() & 0o777);
    let shown = path.display();
    let expected = (user, group, mode);
    assert_eq!(found, expected, "{shown}: {:o} and not {mode:o}", found.2);
}

/// No temporary file is left.
#[track_caller]
fn assert_tidy(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains(".new"), "{name}");
    }
}

#[tokio::test]
async fn a_key_that_root_makes_is_taken_and_does_not_end_the_service() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    let mut server = site.serve().await;
    let (made, key) = site.create("ci");
    assert!(told(&made).contains("It is in force"), "{}", told(&made));
    assert_is(&site.file("keys.toml"), 0, SERVICE, 0o640);
    assert_eq!(site.status("ci", &key).await, 200);
    // Rewritten.
    let (_, other) = site.create("other");
    assert_is(&site.file("keys.toml"), 0, SERVICE, 0o640);
    let revoked = site.run(&["key", "revoke", "ci"]);
    assert!(revoked.status.success(), "{}", told(&revoked));
    assert_is(&site.file("keys.toml"), 0, SERVICE, 0o640);
    assert_eq!(site.status("ci", &key).await, 401);
    assert_tidy(site.folder.path());
    server.signal(Signal::TERM);
    assert!(server.wait().await.success());
    let _server = site.serve().await;
    assert_eq!(site.status("other", &other).await, 200);
}

#[tokio::test]
async fn users_and_certificates_that_root_writes_are_read_at_the_next_start() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    let set = |file: &str, user: &str| {
        let mut command = Command::new(PROGRAM);
        command
            .args(["passwd", "--stdin"])
            .arg(site.file(file))
            .arg(user);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"another password\n").unwrap();
        drop(input);
        assert!(child.wait().unwrap().success());
    };
    set("htpasswd", "bob");
    assert_is(&site.file("htpasswd"), 0, SERVICE, 0o640);
    set("more-users", "bob");
    assert_is(&site.file("more-users"), 0, SERVICE, 0o640);

    let certs = site.file("certs");
    let folder = certs.to_str().unwrap();
    let made = |words: &[&str]| {
        let made = site.run(words);
        assert!(made.status.success(), "{}", told(&made));
    };
    made(&["certs", "ca", folder]);
    made(&["certs", "server", folder, "--name", "localhost"]);
    made(&["certs", "client", folder, "--name", "alice"]);
    assert_is(&certs, 0, SERVICE, 0o750);
    for (name, mode) in [
        ("ca.pem", 0o640),
        ("server.pem", 0o640),
        ("server.key", 0o640),
    ] {
        assert_is(&certs.join(name), 0, SERVICE, mode);
    }
    // No server reads these.
    for name in ["ca.key", "alice.key"] {
        assert_is(&certs.join(name), 0, 0, 0o600);
    }
    give(&certs.join("server.key"), SERVICE, OTHER, 0o400);
    made(&["certs", "server", folder, "--name", "localhost", "--force"]);
    assert_is(&certs.join("server.key"), SERVICE, OTHER, 0o400);
    assert_is(&certs.join("server.pem"), 0, SERVICE, 0o640);
    let config = site.config().replace("\"server.", "\"certs/server.");
    fs::write(site.file("portcullis.toml"), config).unwrap();
    let _server = site.serve().await;
    let ca = fs::read_to_string(certs.join("ca.pem")).unwrap();
    let bob = Client::tls(site.address(), &ca).basic("bob", "another password");
    assert_eq!(bob.get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn links_of_others_lead_root_to_no_file_of_its_own() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    let precious = site.file("precious");
    fs::write(&precious, "# root's\n").unwrap();
    give(&precious, 0, 0, 0o600);
    let state = site.file("state");
    let config = site.config() + "[auth.keys]\nfile = \"state/keys.toml\"\n";
    fs::write(site.file("portcullis.toml"), config).unwrap();
    let link = state.join("keys.toml");
    symlink(&precious, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(SERVICE), Some(SERVICE)).unwrap();
    let refused = site.run(&["key", "create", "x", "--role", "guest", "--repository", "a"]);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert!(
        told(&refused).contains("symbolic link"),
        "{}",
        told(&refused)
    );
    assert_eq!(fs::read_to_string(&precious).unwrap(), "# root's\n");
    assert_is(&precious, 0, 0, 0o600);

    // A configuration that somebody put beside chooses nobody's readers.
    let open = site.file("open");
    fs::create_dir(&open).unwrap();
    fs::write(open.join("portcullis.toml"), "").unwrap();
    give(&open.join("portcullis.toml"), OTHER, OTHER, 0o640);
    let mut certs = Command::new(PROGRAM);
    certs.args(["certs", "ca"]).arg(open.join("certs"));
    assert!(output(&mut certs).status.success());
    let made = fs::metadata(open.join("certs/ca.pem")).unwrap();
    assert_ne!((made.uid(), made.gid()), (OTHER, OTHER));
}

#[tokio::test]
async fn who_is_not_root_keeps_what_can_be_kept_and_is_told_the_rest() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    let as_other = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(words).uid(OTHER).gid(SERVICE);
        command.env("PORTCULLIS_CONFIG", site.file("portcullis.toml"));
        output(&mut command)
    };
    // In a folder of the group: the group is kept, the owner is not, and the server can read it.
    give(site.folder.path(), 0, SERVICE, 0o770);
    let create = [
        "key",
        "create",
        "ci",
        "--role",
        "guest",
        "--repository",
        "**",
    ];
    let made = as_other(&create);
    assert!(made.status.success(), "{}", told(&made));
    let file = site.file("keys.toml");
    assert_is(&file, OTHER, SERVICE, 0o640);
    let remedy = format!(
        "sudo chown root:{SERVICE} {0} && sudo chmod 640 {0}",
        file.display()
    );
    assert!(told(&made).contains(&remedy), "{}", told(&made));

    // Who cannot give a file back to those who read it leaves it as it is.
    let before = fs::read_to_string(&file).unwrap();
    give(&file, OTHER, OTHER + 1, 0o640);
    let refused = as_other(&["key", "revoke", "ci"]);
    assert!(
        told(&refused).contains("run this as root"),
        "{}",
        told(&refused)
    );
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert_is(&file, OTHER, OTHER + 1, 0o640);
    // What everybody reads is read by the server as well.
    give(&file, OTHER, OTHER + 1, 0o644);
    let revoked = as_other(&["key", "revoke", "ci"]);
    assert!(revoked.status.success(), "{}", told(&revoked));
    assert_is(&file, OTHER, SERVICE, 0o604);
    assert_tidy(site.folder.path());
}

/// What `check` says, and how it ends.
fn check(site: &Site, more: &[&str]) -> (Option<i32>, String) {
    let output = site.run(&[&["check"], more].concat());
    (output.status.code(), told(&output))
}

#[track_caller]
fn assert_says(said: &(Option<i32>, String), code: i32, words: &[&str]) {
    assert_eq!(said.0, Some(code), "{}", said.1);
    for word in words {
        assert!(said.1.contains(word), "{word}: {}", said.1);
    }
}

/// A unit that is there for as long as a test.
struct Unit(PathBuf);

impl Unit {
    /// Its name is no other test's.
    fn new(site: &Site, lines: &str) -> Self {
        let folder = Path::new("/run/systemd/system");
        fs::create_dir_all(folder).unwrap();
        let file = folder.join(format!("portcullis-test-{}.service", site.port));
        let config = site.file("portcullis.toml");
        let command = format!("ExecStart={PROGRAM} serve --config {}", config.display());
        fs::write(&file, format!("[Service]\n{command}\n{lines}\n")).unwrap();
        Self(file)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

#[tokio::test]
async fn a_check_by_root_says_what_the_service_cannot_read() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    site.create("ci");
    let service = SERVICE.to_string();
    assert_says(&check(&site, &[]), 0, &["is good"]);
    assert_says(
        &check(&site, &["--as", &service, "--json"]),
        78,
        &["cannot enter"],
    );
    let both = format!("{SERVICE}:{SERVICE}");
    assert_says(&check(&site, &["--as", &both]), 0, &["is good"]);

    // As the first edition left it.
    let keys = site.file("keys.toml");
    give(&keys, 0, 0, 0o600);
    let shown = keys.display().to_string();
    let cannot = format!("cannot read {shown}: it belongs to root:root and has mode 0600");
    let remedy = format!("chgrp {SERVICE} {shown} && chmod g+r {shown}");
    assert_says(&check(&site, &["--as", &both]), 78, &[&cannot, &remedy]);
    let group = format!("group `{SERVICE}` {cannot}");
    assert_says(&check(&site, &[]), 0, &["warning", &group, "--as"]);
    {
        let lines = format!("User={SERVICE}\nGroup={SERVICE}");
        let unit = Unit::new(&site, &lines);
        let file = unit.0.display().to_string();
        assert_says(&check(&site, &[]), 78, &["error", &cannot, &remedy, &file]);
    }
    {
        let lines = format!("DynamicUser=yes\nSupplementaryGroups={SERVICE}");
        let _unit = Unit::new(&site, &lines);
        assert_says(&check(&site, &[]), 78, &[&cannot, &remedy]);
    }
    // The same as its user finds by trying.
    let mut itself = Command::new(PROGRAM);
    itself
        .args(["check", "--config"])
        .arg(site.file("portcullis.toml"));
    itself.uid(SERVICE).gid(SERVICE);
    let itself = output(&mut itself);
    assert_says(
        &(itself.status.code(), told(&itself)),
        78,
        &["keys.toml", "ermission denied"],
    );
}

#[tokio::test]
async fn a_check_by_root_looks_at_folders_and_at_the_trail() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    let service = format!("{SERVICE}:{SERVICE}");
    let said = || check(&site, &["--as", &service]);
    let state = site.file("state");
    give(&state, 0, SERVICE, 0o750);
    let cannot = format!("cannot make files in {}", state.display());
    assert_says(&said(), 78, &[&cannot, "state/audit.jsonl", "chmod g+wx"]);
    give(&state, SERVICE, SERVICE, 0o700);
    assert_says(&said(), 0, &["is good"]);
    // Nobody names the user, and what the server made is its own: no group has to read it.
    let trail = state.join("audit.jsonl");
    fs::write(&trail, "").unwrap();
    give(&trail, SERVICE, OTHER, 0o600);
    let guessed = check(&site, &[]);
    assert_says(&guessed, 0, &["is good"]);
    assert!(!guessed.1.contains("cannot"), "{}", guessed.1);
    // Made by a trial as root.
    fs::write(&trail, "").unwrap();
    give(&trail, 0, 0, 0o640);
    let cannot = format!("cannot write to {}", trail.display());
    assert_says(&said(), 78, &[&cannot]);
    fs::remove_file(&trail).unwrap();

    let folder = site.folder.path();
    give(folder, 0, OTHER, 0o750);
    let cannot = format!("cannot enter {}", folder.display());
    assert_says(&said(), 78, &[&cannot, "server.key", "chmod g+x"]);
    give(folder, 0, SERVICE, 0o750);
    // An access list gives what the mode does not, and takes what it seems to give.
    let key = site.file("server.key");
    give(&key, 0, SERVICE, 0o640);
    if !set_access_list(&key, OTHER) {
        skip("the file system has no access lists");
        return;
    }
    assert_says(&said(), 78, &["server.key"]);
    give(&key, 0, 0, 0o640);
    assert!(set_access_list(&key, SERVICE));
    assert_says(&said(), 0, &["is good"]);
    // And is kept with the file that is replaced.
    let mut certs = Command::new(PROGRAM);
    certs.args(["certs", "ca"]).arg(folder);
    assert!(output(&mut certs).status.success());
    let renew = ["server", "--name", "localhost", "--force"];
    let mut certs = Command::new(PROGRAM);
    certs
        .arg("certs")
        .arg(renew[0])
        .arg(folder)
        .args(&renew[1..]);
    assert!(output(&mut certs).status.success());
    assert_says(&said(), 0, &["is good"]);
}

/// Lets one user read, and the file's group not, as `setfacl -m u:USER:r,g::-` does.
fn set_access_list(path: &Path, user: u32) -> bool {
    // posix_acl_xattr.h: the version, then tag, permissions and number of each entry.
    let nobody = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, nobody),
        (2, 4, user),
        (4, 0, nobody),
        (16, 4, nobody),
        (32, 0, nobody),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        list.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_access";
    rustix::fs::setxattr(path, name, &list, rustix::fs::XattrFlags::empty()).is_ok()
}

#[tokio::test]
async fn nothing_is_said_to_be_in_force_that_the_server_has_not_taken() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    // Nobody runs.
    let (made, _) = site.create("early");
    assert!(!told(&made).contains("in force"), "{}", told(&made));
    let _server = site.serve().await;
    let (made, key) = site.create("ci");
    assert!(told(&made).contains("in force"), "{}", told(&made));
    assert_eq!(site.status("ci", &key).await, 200);
    // The server is kept from the file, as the first edition kept it.
    give(&site.file("keys.toml"), 0, 0, 0o600);
    let revoked = site.run(&["key", "revoke", "ci"]);
    assert_eq!(revoked.status.code(), Some(1), "{}", told(&revoked));
    for word in [
        "still accepts the key",
        "Permission denied",
        "sudo portcullis check",
    ] {
        assert!(told(&revoked).contains(word), "{}", told(&revoked));
    }
    assert_eq!(site.status("ci", &key).await, 200, "as it said");
    let (made, key) = site.create("late");
    assert!(!told(&made).contains("in force"), "{}", told(&made));
    assert_eq!(site.status("late", &key).await, 401);
    give(&site.file("keys.toml"), 0, SERVICE, 0o640);
    assert_eq!(site.status("late", &key).await, 200);
    let revoked = site.run(&["key", "revoke", "late"]);
    assert!(revoked.status.success(), "{}", told(&revoked));
    assert!(told(&revoked).contains("have ended"), "{}", told(&revoked));
}

#[tokio::test]
async fn in_a_container_that_does_not_know_the_group_nothing_is_opened_to_another() {
    if !is_root() {
        return;
    }
    let site = Site::new().await;
    let contained = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).args(words);
        output(&mut command)
    };
    if !contained(&["true"]).status.success() {
        skip("no user namespaces are to be had here");
        return;
    }
    let config = site.file("portcullis.toml");
    let create = |name: &str| {
        let words = [
            PROGRAM,
            "key",
            "create",
            name,
            "--role",
            "guest",
            "--repository",
            "**",
        ];
        contained(&[&words[..], &["--config", config.to_str().unwrap()]].concat())
    };
    let made = create("one");
    assert!(made.status.success(), "{}", told(&made));
    assert_is(&site.file("keys.toml"), 0, 0, 0o600);
    assert!(
        told(&made).contains("not known in this container"),
        "{}",
        told(&made)
    );
    // What the group can read it goes on reading.
    give(&site.file("keys.toml"), 0, SERVICE, 0o640);
    let before = fs::read(site.file("keys.toml")).unwrap();
    let refused = create("two");
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert_eq!(fs::read(site.file("keys.toml")).unwrap(), before);
    assert_is(&site.file("keys.toml"), 0, SERVICE, 0o640);
}
