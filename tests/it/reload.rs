//! SIGHUP swaps everything in one step, or nothing, and cuts nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use rustix::process::Signal;

use crate::support::http::{Client, Outgoing};
use crate::support::image::{Image, begin_upload, digest, finish_upload, noise, under_way};
use crate::support::lab::htpasswd;
use crate::support::process::{Process, free_port};
use crate::support::{Http, Lab, PATIENCE, eventually, password, within};

#[tokio::test]
async fn new_users_and_rules_are_in_force() {
    let lab = Lab::start().await;
    let nora = lab.anonymous().basic("nora", "pw");
    assert_eq!(nora.get("/v2/").send().await.status, 401);
    let users = lab.folder.read("htpasswd") + &htpasswd(&[("nora", "pw")]);
    lab.folder.replace("htpasswd", users);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(nora.get("/v2/").send().await.status, 200);
    assert_eq!(
        nora.get("/v2/team-a/app/tags/list").send().await.status,
        403
    );

    let config = lab.config()
        + "\n[[access]]\nrepositories = [\"team-a/**\"]\nwho = [\"user:nora\"]\nrole = \"guest\"\n";
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(
        nora.get("/v2/team-a/app/tags/list").send().await.status,
        404
    );
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections() {
    let lab = Lab::start().await;
    let fingerprint = async || {
        let stream = lab.anonymous().raw().await.unwrap();
        let (_, session) = stream.get_ref();
        digest(&session.peer_certificates().unwrap()[0])
    };
    let mut old_connection = lab.user("alice").connect().await;
    assert_eq!(
        old_connection
            .send(lab.user("alice").get("/v2/"))
            .await
            .status,
        200
    );
    let before = fingerprint().await;
    let pair = lab.pki.server();
    lab.folder.replace("server.pem", pair.certificate);
    lab.folder.replace("server.key", pair.key);
    assert_eq!(lab.reload().await, "allowed");
    assert_ne!(fingerprint().await, before);
    // The old connection goes on.
    assert_eq!(
        old_connection
            .send(lab.user("alice").get("/v2/"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn whatever_is_wrong_the_old_configuration_stays() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let config = lab.config();
    let users = lab.folder.read("htpasswd");
    let key = lab.folder.read("server.key");
    let other_key = lab.pki.server().key;
    let failing_test = "\n[[policy_test]]\nwho = \"user:alice\"\naction = \"delete\"\n\
                        repository = \"team-a/app\"\nexpect = \"allow\"\n";
    let broken = [
        ("portcullis.toml", "this is no TOML".to_owned(), &config),
        ("portcullis.toml", String::new(), &config),
        ("portcullis.toml", config.replace("[tls]", "[tsl]"), &config),
        (
            "portcullis.toml",
            config.replace("role = \"guest\"", "role = \"gest\""),
            &config,
        ),
        ("portcullis.toml", config.clone() + failing_test, &config),
        ("htpasswd", String::new(), &users),
        ("server.key", other_key, &key),
        ("server.key", "no key".to_owned(), &key),
    ];
    for (file, text, good) in broken {
        lab.folder.replace(file, &text);
        let outcome = lab.reload().await;
        let end = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        assert_ne!(outcome, "allowed", "{file} ended with {end:?}");
        assert_eq!(alice.get("/v2/").send().await.status, 200);
        assert_eq!(
            alice.get("/v2/team-a/app/tags/list").send().await.status,
            404
        );
        lab.folder.replace(file, good);
    }
    // A damaged line costs its own user the login, at a reload as at the start.
    for line in ["mallory:plain\n", "alice:$2y$05$short\n"] {
        lab.folder.replace("htpasswd", users.clone() + line);
        assert_eq!(lab.reload().await, "allowed", "{line}");
        assert_eq!(alice.get("/v2/").send().await.status, 200);
    }
    std::fs::remove_file(lab.folder.join("htpasswd")).unwrap();
    assert_ne!(lab.reload().await, "allowed");
    assert_eq!(alice.get("/v2/").send().await.status, 200);
    lab.folder.replace("htpasswd", &users);
    assert_eq!(lab.reload().await, "allowed");
}

#[tokio::test]
async fn health_and_metrics_move_to_another_address() {
    let (one, two) = (free_port(), free_port());
    let at = |port: u16| format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let lab = Lab::builder().more(&at(one)).start().await;
    let lives = async |port: u16| {
        let admin = Client::plain(([127, 0, 0, 1], port).into());
        let answer = admin.get("/livez").try_send().await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    let config = lab.config();
    assert!(lives(one).await);

    let taken = std::net::TcpListener::bind(("127.0.0.1", two)).unwrap();
    let moved = config.replace(&at(one), &at(two));
    lab.folder.replace("portcullis.toml", &moved);
    assert_eq!(lab.reload().await, "error");
    assert!(lives(one).await, "the old one goes on");
    drop(taken);

    assert_eq!(lab.reload().await, "allowed");
    assert!(lives(two).await);
    assert_eq!(lab.reload().await, "allowed");
    assert!(lives(two).await);
    eventually("the old address's end", || {
        std::net::TcpStream::connect(("127.0.0.1", one)).err()
    })
    .await;

    lab.folder
        .replace("portcullis.toml", config.replace(&at(one), ""));
    assert_eq!(lab.reload().await, "allowed");
    eventually("the end of all", || {
        std::net::TcpStream::connect(("127.0.0.1", two)).err()
    })
    .await;
}

#[tokio::test]
async fn the_log_changes_its_format_and_says_what_needs_a_restart() {
    let lab = Lab::start().await;
    let config = lab
        .config()
        .replace("[tls]\n", "max_connections = 77\n\n[tls]\n");
    let config = config + "\n[log]\nformat = \"json\"\n";
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    let line = eventually("the warning", || {
        let log = lab.process.log();
        let line = log.lines().find(|line| line.contains("needs a restart"));
        line.map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["level"], &line["key"]),
        (&"WARN".into(), &"server.max_connections".into())
    );
    assert_eq!(lab.process.log().matches("needs a restart").count(), 1);
}

#[tokio::test]
async fn the_time_for_a_body_stays_one_until_a_restart() {
    let old = "body_timeout = \"1s\"";
    let lab = Lab::builder().server(old).start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let config = lab.config().replace(old, "body_timeout = \"10m\"");
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    eventually("the warning", || {
        let log = lab.process.log();
        let warns = |line: &str| line.contains("restart") && line.contains("server.body_timeout");
        log.lines().any(warns).then_some(())
    })
    .await;
    for http in Http::BOTH {
        let (feeder, body) = Outgoing::fed();
        let sent = tokio::spawn(alice.over(http).patch(&session).body(body).try_send());
        feeder.send(Ok(noise(1, 10_000))).await.unwrap();
        let cut = within(PATIENCE, "the old time-out", sent).await.unwrap();
        assert!(cut.is_ok_and(|answer| answer.status == 408) || http == Http::Two);
        drop(feeder);
    }
}

#[tokio::test]
async fn a_new_host_name_is_in_force_at_once_and_told() {
    let lab = Lab::builder()
        .server("public_url = \"https://old.example.com\"")
        .start()
        .await;
    let called = async |host: &str| {
        let mut client = lab.user("alice");
        client.authority = host.to_owned();
        client.get("/v2/").send().await.status
    };
    assert_eq!(called("old.example.com").await, 200);
    assert_eq!(called("new.example.com").await, 421);
    let config = lab.config().replace("old.example.com", "new.example.com");
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(called("old.example.com").await, 421);
    assert_eq!(called("new.example.com").await, 200);
    let told = "`server.public_url` has changed and is in force";
    eventually("a line in the log", || {
        lab.process.log().contains(told).then_some(())
    })
    .await;
    assert!(!lab.process.log().contains("needs a restart"));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_request_is_dropped() {
    let lab = Lab::start().await;
    let image = Image::new(1);
    image.push(&lab.user("ada"), "team-a/app", "v1").await;
    let ends = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU32::new(0));
    let mut load = tokio::task::JoinSet::new();
    for number in 0..6_u32 {
        let http = if number.is_multiple_of(2) {
            Http::One
        } else {
            Http::Two
        };
        let user = if number < 3 { "alice" } else { "gina" };
        let (client, ends, served) = (lab.user(user).over(http), ends.clone(), served.clone());
        let manifest = image.manifest.clone();
        load.spawn(async move {
            let mut connection = client.connect().await;
            while !ends.load(Ordering::Relaxed) {
                // Half of them on a connection that stays, half on new ones.
                let call = client.get("/v2/team-a/app/manifests/v1");
                let call = call.header("accept", crate::support::image::MANIFEST);
                let answer = match number % 3 {
                    0 => call.send().await,
                    _ => connection.send(call).await,
                };
                assert_eq!(
                    (answer.status, &answer.body),
                    (200, &manifest),
                    "{answer:?}"
                );
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let config = lab.config();
    let users = lab.folder.read("htpasswd");
    for round in 0..4 {
        let name = format!("user{round}");
        lab.folder.replace(
            "htpasswd",
            users.clone() + &htpasswd(&[(name.as_str(), "pw")]),
        );
        assert_eq!(lab.reload().await, "allowed");
        assert_eq!(
            lab.anonymous()
                .basic(&name, "pw")
                .get("/v2/")
                .send()
                .await
                .status,
            200
        );
        let rule = format!(
            "\n[[access]]\nrepositories = [\"x{round}/**\"]\nwho = [\"user:{name}\"]\nrole = \"guest\"\n"
        );
        lab.folder
            .replace("portcullis.toml", config.clone() + &rule);
        assert_eq!(lab.reload().await, "allowed");
        let pair = lab.pki.server();
        lab.folder.replace("server.pem", pair.certificate);
        lab.folder.replace("server.key", pair.key);
        assert_eq!(lab.reload().await, "allowed");
        lab.folder
            .replace("portcullis.toml", config.clone() + "oops");
        assert_ne!(lab.reload().await, "allowed");
        lab.folder.replace("portcullis.toml", &config);
        let so_far = served.load(Ordering::Relaxed);
        eventually("more requests", || {
            (served.load(Ordering::Relaxed) > so_far + 10).then_some(())
        })
        .await;
    }
    ends.store(true, Ordering::Relaxed);
    while let Some(outcome) = load.join_next().await {
        outcome.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) > 50);
}

#[tokio::test]
async fn a_push_begun_before_completes() {
    let lab = Lab::start().await;
    for http in Http::BOTH {
        let alice = lab.user("alice").over(http);
        let blob = noise(3, 400_000);
        let session = begin_upload(&alice, "team-a/app").await;
        let (feeder, body) = Outgoing::fed();
        let sent = tokio::spawn(alice.patch(&session).body(body).send());
        feeder.send(Ok(blob.slice(..200_000))).await.unwrap();
        under_way(&lab.folder, &session).await;
        // The new rules no longer let her push, the new file no longer knows her.
        let config = lab.config();
        let users = lab.folder.read("htpasswd");
        lab.folder.replace(
            "portcullis.toml",
            config.replace("\"developer\"", "\"guest\""),
        );
        lab.folder
            .replace("htpasswd", users.replace("alice:", "alicia:"));
        assert_eq!(lab.reload().await, "allowed");
        feeder.send(Ok(blob.slice(200_000..))).await.unwrap();
        drop(feeder);
        let answer = sent.await.unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        // The next request is a new one.
        let digest = digest(&blob);
        let late = finish_upload(&alice, &answer.location(), Bytes::new(), &digest).await;
        assert_eq!(late.status, 401, "{late:?}");
        lab.folder.replace("portcullis.toml", config);
        lab.folder.replace("htpasswd", users);
        assert_eq!(lab.reload().await, "allowed");
        // And the session has survived both reloads.
        let done = finish_upload(&alice, &answer.location(), Bytes::new(), &digest).await;
        assert_eq!(done.status, 201, "{done:?}");
    }
}

#[tokio::test]
async fn a_storm_of_signals_ends_with_the_last_configuration() {
    let lab = Lab::start().await;
    let users = lab.folder.read("htpasswd");
    for round in 0..30 {
        let name = format!("storm{round}");
        lab.folder.replace(
            "htpasswd",
            users.clone() + &htpasswd(&[(name.as_str(), "pw")]),
        );
        lab.process.signal(Signal::HUP);
    }
    // Signals may be folded into one, but the last one counts.
    let last = lab.anonymous().basic("storm29", "pw");
    let known = async { while last.get("/v2/").send().await.status != 200 {} };
    within(PATIENCE, "the last configuration in force", known).await;
    let alice = lab.anonymous().basic("alice", &password("alice"));
    assert_eq!(alice.get("/v2/").send().await.status, 200);
}

#[tokio::test]
async fn the_registry_is_asked_on_demand() {
    let mut lab = Lab::start().await;
    let config = lab.folder.join("portcullis.toml");
    let check = || {
        let mut command = std::process::Command::new(crate::support::lab::PROGRAM);
        let output = command
            .args(["check", "--online", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(check().0, Some(0));
    let registry = &mut lab.registry_mut().process;
    registry.signal(Signal::KILL);
    registry.wait().await;
    let (code, text) = check();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot connect to the registry"), "{text}");
}

/// Puts a pipe in the place of a file: opened as a file, it waits for a writer for ever.
fn pipe(lab: &Lab, name: &str) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    drop(std::fs::remove_file(lab.folder.join(name)));
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, lab.folder.join(name), FileType::Fifo, mode, 0).unwrap();
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_holds_up_nobody() {
    let mut lab = Lab::start().await;
    for name in ["htpasswd", "keys.toml", "server.pem", "server.key"] {
        let before = std::fs::read(lab.folder.join(name)).ok();
        pipe(&lab, name);
        assert_eq!(lab.reload().await, "error", "{name}");
        assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
        let key = format!("pcl_{}", "0".repeat(39));
        let robot = lab.anonymous().basic("ci", &key).get("/v2/");
        assert_eq!(robot.send().await.status, 401, "{name}");
        std::fs::remove_file(lab.folder.join(name)).unwrap();
        if let Some(before) = before {
            lab.folder.write(name, before);
        }
    }
    let log = lab.process.log();
    assert!(log.contains("put a regular file in its place"), "{log}");
    assert_eq!(lab.reload().await, "allowed");

    // Nor does a start wait for it.
    pipe(&lab, "keys.toml");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(["serve", "--config"])
        .arg(lab.folder.join("portcullis.toml"));
    let mut second = Process::start(&mut command, &lab.folder.join("second.log"));
    assert_eq!(second.wait().await.code(), Some(78));
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
}

/// Waits until a process opens a file beside its runtime.
async fn opens_a_file(process: &Process) {
    let tasks = format!("/proc/{}/task", process.id());
    eventually("a thread that opens files", || {
        let mut tasks = std::fs::read_dir(&tasks).ok()?.flatten();
        let is_opening = |task: std::fs::DirEntry| {
            let name = std::fs::read_to_string(task.path().join("comm"));
            name.is_ok_and(|name| name.trim() == "files")
        };
        tasks.any(is_opening).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_file_system_that_hangs_keeps_neither_clients_waiting_nor_the_process_from_its_end() {
    let mut lab = Lab::start().await;
    pipe(&lab, "hanging");
    // By this way even a pipe is opened.
    let hanging = format!("/proc/self/root{}", lab.folder.join("hanging").display());
    let config = lab.config();
    let config = config.replace("file = \"htpasswd\"", &format!("file = \"{hanging}\""));
    lab.folder.replace("portcullis.toml", config);
    lab.process.signal(Signal::HUP);
    opens_a_file(&lab.process).await;
    for _ in 0..8 {
        assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    }
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());

    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(["serve", "--config"])
        .arg(lab.folder.join("portcullis.toml"));
    let mut second = Process::start(&mut command, &lab.folder.join("second.log"));
    opens_a_file(&second).await;
    second.signal(Signal::TERM);
    assert!(second.wait().await.success());
}
