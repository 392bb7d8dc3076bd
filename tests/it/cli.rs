//! What the command line says, and with which exit code.

use std::process::{Command, Output, Stdio};

use crate::support::folder::Folder;
use crate::support::lab::{Lab, PROGRAM, htpasswd};
use crate::support::pki::{Pki, ends_in};

fn run(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null());
    command
        .env("NO_COLOR", "1")
        .env_remove("PORTCULLIS_CONFIG")
        .env("COLUMNS", "100");
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn both(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// A folder with a good configuration.
fn configured() -> Folder {
    let folder = Folder::new();
    let pki = Pki::new();
    let pair = pki.server();
    folder.write("server.pem", pair.certificate);
    folder.write("server.key", pair.key);
    folder.write("htpasswd", htpasswd(&[("alice", "pw"), ("bob", "pw")]));
    folder.write("portcullis.toml", CONFIG);
    folder
}

const CONFIG: &str = r#"[server]
listen = ["127.0.0.1:0"]

[tls]
certificate = "server.pem"
private_key = "server.key"

[upstream]
url = "http://127.0.0.1:5000"

[auth]
order = ["htpasswd"]

[auth.htpasswd]
file = "htpasswd"

[audit]
file = "audit.jsonl"

[groups]
team-a = ["alice"]

[[access]]
repositories = ["public/**"]
who = ["anonymous"]
role = "guest"

[[access]]
repositories = ["team-a/**"]
who = ["group:team-a"]
role = "developer"

[[deny]]
repositories = ["**/prod"]
who = ["authenticated"]
actions = ["push"]

[[policy_test]]
who = "user:alice"
action = "push"
repository = "team-a/app"
expect = "allow"
"#;

fn check(folder: &Folder) -> Output {
    run(folder, &["check", "--config", "portcullis.toml"])
}

#[test]
fn a_good_configuration_checks() {
    let folder = configured();
    let output = check(&folder);
    assert_eq!(code(&output), 0, "{}", both(&output));
    // Checking leaves nothing behind.
    assert!(!folder.join("audit.jsonl").exists());
    let json = run(&folder, &["check", "--config", "portcullis.toml", "--json"]);
    assert_eq!(code(&json), 0);
    serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap();
}

fn chmod(folder: &Folder, name: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(folder.join(name), mode).unwrap();
}

#[test]
fn files_that_others_can_read_or_change_are_told_of() {
    let folder = configured();
    folder.write("keys.toml", "");
    let told = both(&check(&folder));
    assert!(!told.contains("this file"), "{told}");
    for (name, mode, message) in [
        (
            "server.key",
            0o604,
            "every user of this machine can read this file",
        ),
        ("server.key", 0o620, "can change this file"),
        (
            "server.pem",
            0o646,
            "every user of this machine can change this file",
        ),
        (
            "htpasswd",
            0o644,
            "every user of this machine can read this file",
        ),
        ("htpasswd", 0o660, "can change this file"),
        (
            "keys.toml",
            0o666,
            "every user of this machine can read and change this file",
        ),
        (
            "portcullis.toml",
            0o662,
            "every user of this machine can change this file",
        ),
        (
            ".",
            0o777,
            "every user of this machine can replace this file",
        ),
    ] {
        chmod(&folder, name, mode);
        let output = check(&folder);
        let told = both(&output);
        assert!(told.contains(message), "{name} {mode:o}: {told}");
        assert!(told.contains("chmod "), "{told}");
        assert_eq!(code(&output), 0, "{told}");
        chmod(&folder, name, if name == "." { 0o700 } else { 0o600 });
    }
}

#[test]
fn what_is_wrong_with_certificates_is_said_without_asking_anybody() {
    let folder = configured();
    let pki = Pki::new();
    let named = CONFIG
        .replace(
            "http://127.0.0.1:5000\"",
            "https://registry.internal\"\nca = \"ca.pem\"",
        )
        .replace(
            "[server]\n",
            "[server]\npublic_url = \"https://10.0.0.5\"\n",
        );
    folder.write("portcullis.toml", &named);
    // The registry's own, for other hosts, named as its authority.
    folder.write("ca.pem", pki.server().certificate);
    let told = both(&check(&folder));
    for part in [
        "crane, kaniko and others refuse to fetch a token from a private address",
        "the certificate is not for 10.0.0.5 but for localhost",
        "no server can be verified by this: the certificate is not for registry.internal",
        "openssl req -x509",
        "subjectAltName",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    folder.write("ca.pem", &pki.ca);
    let told = both(&check(&folder));
    assert!(!told.contains("no server can be verified"), "{told}");
    let own = Pki::self_signed();
    folder.write("server.pem", own.certificate);
    folder.write("server.key", own.key);
    let told = both(&check(&folder));
    assert!(
        told.contains("CA:TRUE") && told.contains("certs server"),
        "{told}"
    );
}

#[tokio::test]
async fn the_start_warns_of_what_check_does() {
    let lab = Lab::builder()
        .upstream("http://127.0.0.1:9")
        .server("public_url = \"https://[fd00::1]\"")
        .token("signing_key = \"exposed.pem\"")
        .file("exposed.pem", key_pem())
        .start()
        .await;
    let log = lab.process.log();
    assert!(
        log.contains("every user of this machine can read this file"),
        "{log}"
    );
    assert!(
        log.contains("fetch a token from a private address"),
        "{log}"
    );
}

/// A P-256 key.
fn key_pem() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

#[test]
fn every_mistake_is_shown_at_once_with_its_place() {
    let folder = configured();
    let wrong = CONFIG
        .replace("role = \"guest\"", "role = \"gest\"")
        .replace("who = [\"group:team-a\"]", "who = [\"team-a\"]")
        .replace(
            "url = \"http://127.0.0.1:5000\"",
            "url = \"ftp://127.0.0.1\"",
        );
    folder.write("portcullis.toml", wrong);
    let output = check(&folder);
    assert_eq!(code(&output), 78, "{}", both(&output));
    insta::assert_snapshot!("three_mistakes", shown(&folder, &output));
}

#[test]
fn a_mistake_in_the_file_hides_none_elsewhere() {
    let folder = configured();
    let clients = "[tls.client_certificates]\nmode = \"optional\"\nca = \"ca.pem\"\n\
                   crl = [\"one.crl\", \"two.crl\"]\n";
    let wrong = CONFIG
        .replace("[tls]\n", "[tls]\nfrobnicate = 1\n")
        .replace("[upstream]", &format!("{clients}\n[upstream]"))
        .replace("\"public/**\"", "\"public/***\"")
        .replace("\"team-a/app\"", "\"team-a/prod\"");
    folder.write("portcullis.toml", wrong);
    folder.write("ca.pem", "no CA\n");
    folder.write("one.crl", "no list\n");
    folder.write("server.key", "no key\n");
    folder.write("htpasswd", "alice:plain\n");
    let output = check(&folder);
    assert_eq!(code(&output), 78);
    let text = shown(&folder, &output);
    for told in [
        "frobnicate",
        "public/***",
        "policy test failed",
        "ca.pem holds no certificate",
        "one.crl holds no certificate revocation list",
        "cannot read two.crl",
        "server.key holds no private key",
        "htpasswd:1:",
        "8 errors",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn what_ends_soon_is_a_warning() {
    let folder = configured();
    let pki = Pki::new();
    let clients = "[tls.client_certificates]\nmode = \"optional\"\nca = \"ca.pem\"\n\
                   crl = [\"good.crl\", \"old.crl\"]\n\n[upstream]";
    folder.write("portcullis.toml", CONFIG.replace("[upstream]", clients));
    folder.write("ca.pem", &pki.ca);
    folder.write("good.crl", pki.crl(&[]));
    folder.write(
        "old.crl",
        pki.crl_with(&[], |list| {
            list.next_update = rcgen::date_time_ymd(2024, 2, 1);
        }),
    );
    let soon = pki.client_with("registry.test", ends_in(13 * 86_400));
    folder.write("server.pem", soon.certificate);
    folder.write("server.key", soon.key);
    let output = check(&folder);
    let text = shown(&folder, &output);
    assert_eq!(code(&output), 0, "{text}");
    assert!(text.contains("warning: server.pem expires on 2"), "{text}");
    assert!(
        text.contains("warning: old.crl expired on 2024-02-01"),
        "{text}"
    );
    assert!(!text.contains("good.crl exp"), "{text}");
    // What a pipeline asks for: no warning passes.
    let strict = run(
        &folder,
        &["check", "--config", "portcullis.toml", "--strict"],
    );
    let text = shown(&folder, &strict);
    assert_eq!(code(&strict), 78, "{text}");
    assert!(text.contains("error: server.pem expires on 2"), "{text}");
    assert!(!text.contains("warning"), "{text}");
}

/// What the user reads, without what differs from run to run.
fn shown(folder: &Folder, output: &Output) -> String {
    let text = both(output).replace(&format!("{}/", folder.path().display()), "");
    text.replace(&folder.path().display().to_string(), "FOLDER")
}

#[test]
fn each_kind_of_mistake_reads_well() {
    let folder = configured();
    let users = folder.read("htpasswd");
    let key = folder.read("server.key");
    let cases = [
        (
            "unknown_key",
            "portcullis.toml",
            CONFIG.replace("certificate =", "certifcate ="),
        ),
        (
            "no_toml",
            "portcullis.toml",
            CONFIG.replace("[tls]", "[tls"),
        ),
        (
            "bad_duration",
            "portcullis.toml",
            CONFIG.replace("[tls]", "drain_timeout = \"60\"\n\n[tls]"),
        ),
        (
            "bad_glob",
            "portcullis.toml",
            CONFIG.replace("\"public/**\"", "\"public/***\""),
        ),
        (
            "failing_policy_test",
            "portcullis.toml",
            CONFIG.replace("\"team-a/app\"", "\"team-a/prod\""),
        ),
        (
            "broken_htpasswd_line",
            "htpasswd",
            "alice:$2y$05$short\nbob\n".to_owned(),
        ),
        ("foreign_key", "server.key", Pki::new().server().key),
        ("no_key", "server.key", "nothing\n".to_owned()),
    ];
    for (name, file, text) in cases {
        folder.write(file, text);
        let output = check(&folder);
        assert_eq!(code(&output), 78, "{name}: {}", both(&output));
        insta::assert_snapshot!(name, shown(&folder, &output));
        folder.write("portcullis.toml", CONFIG);
        folder.write("htpasswd", &users);
        folder.write("server.key", &key);
    }
    std::fs::remove_file(folder.join("htpasswd")).unwrap();
    assert_eq!(code(&check(&folder)), 78);
    assert_eq!(
        code(&run(&folder, &["check", "--config", "nowhere.toml"])),
        78
    );
}

#[test]
fn serving_a_wrong_configuration_is_refused() {
    let folder = configured();
    folder.write("portcullis.toml", CONFIG.replace("[tls]", "[tsl]"));
    let output = run(&folder, &["serve", "--config", "portcullis.toml"]);
    assert_eq!(code(&output), 78, "{}", both(&output));
    assert!(
        both(&output).contains("portcullis.toml:"),
        "{}",
        both(&output)
    );
}

#[test]
fn explain_tells_the_decision_by_its_exit_code() {
    let folder = configured();
    let config = ["--config", "portcullis.toml"];
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--user", "alice", "push", "team-a/app"], 0, "allow"),
        (&["--user", "alice", "push", "team-a/prod"], 3, "denied"),
        (&["--user", "bob", "pull", "team-a/app"], 3, "denied"),
        (
            &["--user", "bob", "--group", "team-a", "pull", "team-a/app"],
            0,
            "allow",
        ),
        (&["--anonymous", "pull", "public/app"], 0, "allow"),
        (&["--anonymous", "push", "public/app"], 3, "denied"),
    ];
    for (arguments, expected, word) in cases {
        let output = run(&folder, &[&["explain"], &config[..], arguments].concat());
        assert_eq!(code(&output), expected, "{arguments:?}: {}", both(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(word), "{arguments:?}: {text}");
        if expected == 0 || word == "denied" && arguments.contains(&"team-a/prod") {
            assert!(text.contains("portcullis.toml:"), "no rule named: {text}");
        }
    }
    let matrix = run(
        &folder,
        &["explain", "--config", "portcullis.toml", "--matrix"],
    );
    assert_eq!(code(&matrix), 0, "{}", both(&matrix));
    assert!(both(&matrix).contains("alice"));
}

#[test]
fn usage_errors_are_two() {
    let folder = Folder::new();
    for arguments in [
        &["--frobnicate"][..],
        &["check", "--nope"],
        &["frobnicate"],
        &["explain"],
    ] {
        let output = run(&folder, arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", both(&output));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(code(&run(&folder, &["--version"])), 0);
    assert_eq!(code(&run(&folder, &["--help"])), 0);
    assert_eq!(code(&run(&folder, &["serve", "--help"])), 0);
}

#[test]
fn passwd_writes_a_file_that_both_can_read() {
    let folder = Folder::new();
    let passwd = |arguments: &[&str], input: &str| {
        use std::io::Write as _;
        let mut child = Command::new(PROGRAM)
            .arg("passwd")
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    };
    let added = passwd(&["--stdin", "users", "alice"], "first\n");
    assert_eq!(code(&added), 0, "{}", both(&added));
    assert_eq!(code(&passwd(&["--stdin", "users", "bob"], "other\n")), 0);
    assert_eq!(code(&passwd(&["--stdin", "users", "alice"], "second\n")), 0);
    let file = folder.read("users");
    assert_eq!(file.lines().count(), 2, "{file}");
    assert!(
        file.contains("alice:$2") && !file.contains("second"),
        "{file}"
    );
    assert_eq!(
        code(&passwd(
            &["--verify", "--stdin", "users", "alice"],
            "second\n"
        )),
        0
    );
    assert_eq!(
        code(&passwd(
            &["--verify", "--stdin", "users", "alice"],
            "first\n"
        )),
        1
    );
    if crate::support::process::on_path("htpasswd") {
        let ours = |password: &str| {
            let mut command = Command::new("htpasswd");
            command
                .args(["-vb", "users", "alice", password])
                .current_dir(folder.path());
            command.output().unwrap().status.success()
        };
        assert!(ours("second"));
        assert!(!ours("first"));
    } else {
        crate::support::process::skip("htpasswd is not installed");
    }
    assert_eq!(code(&passwd(&["--delete", "users", "alice"], "")), 0);
    assert!(!folder.read("users").contains("alice"));
}
