//! `certs/make`: certificates and keys for trials, as certs/README.md says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::folder::Folder;
use crate::support::http::{Client, Http};
use crate::support::lab::{PROGRAM, htpasswd};
use crate::support::pki::Pair;
use crate::support::process::{Process, free_port, on_path, skip};
use crate::support::upstream::Upstream;

const README: &str = include_str!("../../certs/README.md");

/// Runs the script, and returns what it printed.
fn make(folder: &Folder) -> String {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make"))
        .arg("--dir")
        .arg(folder.path())
        .env("PORTCULLIS", PROGRAM)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The files of the folder, with their contents.
fn files(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    };
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

#[test]
fn everything_is_made_once_and_for_its_owner_alone() {
    if !on_path("openssl") {
        return skip("openssl is not installed");
    }
    let folder = Folder::new();
    assert!(make(&folder).contains("ca.pem"));
    let made = files(&folder);
    for name in made.keys() {
        assert!(README.contains(&format!("`{name}`")), "{name}");
        let rights = fs::metadata(folder.join(name)).unwrap().permissions();
        assert_eq!(rights.mode() & 0o7777, 0o600, "{name}");
    }
    assert_eq!(made.len(), 12, "{:?}", made.keys());

    assert_eq!(make(&folder), "");
    assert_eq!(files(&folder), made);

    fs::remove_file(folder.join("token.key")).unwrap();
    assert_eq!(
        make(&folder),
        format!("wrote {}\n", folder.join("token.key").display())
    );
    let again = files(&folder);
    let fresh = |(name, text): &(&String, &Vec<u8>)| made.get(*name) != Some(text);
    let fresh: Vec<_> = again.iter().filter(fresh).map(|(name, _)| name).collect();
    assert_eq!(fresh, ["token.key"]);
}

#[tokio::test]
async fn the_server_starts_with_what_was_made() {
    if !on_path("openssl") {
        return skip("openssl is not installed");
    }
    let folder = Folder::new();
    make(&folder);
    let (upstream, port) = (Upstream::agreeable().await, free_port());
    let (_, config) = README.split_once("```toml\n").unwrap();
    let (config, _) = config.split_once("```").unwrap();
    let config = config
        .replace("8443", &port.to_string())
        .replace("http://127.0.0.1:5000", &upstream.url());
    folder.write("portcullis.toml", config);
    folder.write("htpasswd", htpasswd(&[("alice", "correct horse")]));
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--config"]);
    command.arg(folder.join("portcullis.toml"));
    let mut server = Process::start(&mut command, &folder.join("log"));
    let address = ([127, 0, 0, 1], port).into();
    let started = server.listens(address).await;
    assert!(started.is_ok(), "{}", server.log());

    let ca = folder.read("ca.pem");
    let client = Client::tls(address, &ca).over(Http::One);
    let robot = client.basic("robot", folder.read("robot.key").trim());
    let certificate = Pair {
        certificate: folder.read("client.pem"),
        key: folder.read("client.key"),
    };
    let shown = client.showing_by(&ca, &certificate, &rustls::version::TLS13);
    for (who, client, status) in [
        ("nobody", client, 401),
        ("robot", robot, 200),
        ("client", shown, 200),
    ] {
        let answer = client.get("/v2/trial/app/tags/list").send().await;
        assert_eq!(answer.status, status, "{who}: {}", answer.text());
    }
}
