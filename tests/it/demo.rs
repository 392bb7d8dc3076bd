//! `portcullis demo`: one command, and what it prints works when it is pasted.

use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::support::folder::Folder;
use crate::support::lab::PROGRAM;
use crate::support::process::{Process, free_port};
use crate::support::{Client, eventually};

/// Starts it and waits for its lines.
async fn start(folder: &Folder, arguments: &[&str]) -> Process {
    let mut command = Command::new(PROGRAM);
    command
        .args(["demo", "--dir"])
        .arg(folder.join("demo"))
        .args(arguments);
    let mut demo = Process::start(&mut command, &folder.join("demo.log")).ended_by_term();
    eventually("the lines to paste", || {
        let ended = demo.exited();
        assert!(ended.is_none(), "ended with {ended:?}");
        demo.log().contains("Ctrl-C stops it all").then_some(())
    })
    .await;
    demo
}

async fn stop(mut demo: Process, folder: &Folder) {
    demo.signal(Signal::TERM);
    let status = demo.wait().await;
    assert!(status.success(), "{status}");
    let registry = UnixStream::connect(folder.join("demo/registry.sock"));
    assert!(registry.is_err(), "the registry is still there");
}

/// Runs the lines that begin with `tool`, as a shell does when they are pasted.
fn paste(log: &str, tool: &str) -> Vec<Output> {
    let lines = log
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(tool));
    let run = |line: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", line])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    lines.map(run).collect()
}

#[tokio::test]
async fn what_it_prints_works_when_pasted() {
    let folder = Folder::new();
    let port = free_port();
    let demo = start(&folder, &["--port", &port.to_string()]).await;
    let log = demo.log();
    let password = folder.read("demo/demo-password");
    assert!(log.contains(password.trim()), "{log}");

    let answers = paste(&log, "curl ");
    let bodies: Vec<_> = answers
        .iter()
        .map(|it| String::from_utf8_lossy(&it.stdout))
        .collect();
    let [logged_in, nobody] = &bodies[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(logged_in, "{}");
    assert!(nobody.contains("UNAUTHORIZED"), "{nobody}");

    let client = Client::tls(([127, 0, 0, 1], port).into(), &folder.read("demo/ca.pem"));
    let user = client.basic("demo", password.trim());
    // No such repository yet: what answers is the registry.
    let answer = user.get("/v2/demo/hello/tags/list").send().await;
    assert_eq!((answer.status, &*answer.code()), (404, "NAME_UNKNOWN"));
    user.get("/v2/other/hello/tags/list")
        .send()
        .await
        .assert_problem(403, "DENIED");
    stop(demo, &folder).await;
}

#[tokio::test]
async fn the_second_start_finds_everything_as_it_was() {
    let folder = Folder::new();
    let port = free_port();
    let first = start(&folder, &["--port", &port.to_string()]).await;
    stop(first, &folder).await;
    let made = |name: &str| folder.read(&format!("demo/{name}"));
    let names = [
        "portcullis.toml",
        "htpasswd",
        "demo-password",
        "ca.pem",
        "server.pem",
    ];
    let before = names.map(made);

    let second = start(&folder, &[]).await;
    assert_eq!(names.map(made), before);
    let client = Client::tls(([127, 0, 0, 1], port).into(), &made("ca.pem"));
    let user = client.basic("demo", made("demo-password").trim());
    assert_eq!(user.get("/v2/").send().await.status, 200);
    stop(second, &folder).await;
}

#[tokio::test]
async fn it_ends_with_its_proxy() {
    let folder = Folder::new();
    let mut demo = start(&folder, &["--port", &free_port().to_string()]).await;
    let log = demo.log();
    let kill = log
        .lines()
        .find_map(|line| line.trim().strip_prefix("kill -HUP "))
        .unwrap();
    assert!(
        Command::new("kill")
            .args(["-KILL", kill])
            .status()
            .unwrap()
            .success()
    );
    let status = demo.wait().await;
    assert_eq!(status.code(), Some(1));
    assert!(demo.log().contains("the proxy has ended"), "{}", demo.log());
    eventually("the end of the registry", || {
        UnixStream::connect(folder.join("demo/registry.sock")).err()
    })
    .await;
}
