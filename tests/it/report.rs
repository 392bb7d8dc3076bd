//! Reading the trail that a real proxy wrote: report, tail, replay.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::image::{Image, MANIFEST};
use crate::support::lab::PROGRAM;
use crate::support::{Lab, password};

fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .current_dir(lab.folder.path())
        .env("NO_COLOR", "1")
        .env("COLUMNS", "160")
        .env_remove("PORTCULLIS_CONFIG")
        .stdin(Stdio::null());
    command
}

fn run(lab: &Lab, arguments: &[&str]) -> Output {
    command(lab, arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(output)))
}

/// Two pushes, three pulls, two denials, a wrong password, two tokens. Their records are written.
async fn busy(lab: &Lab) {
    for (number, name) in [(1, "team-a/app"), (2, "team-a/tool")] {
        let image = Image::new(number);
        assert_eq!(image.push(&lab.user("alice"), name, "v1").await.status, 201);
    }
    for path in [
        "/v2/team-a/app/manifests/v1",
        "/v2/team-a/app/manifests/v1",
        "/v2/team-a/tool/manifests/v1",
    ] {
        let pull = lab.user("gina").get(path).header("accept", MANIFEST);
        assert_eq!(pull.send().await.status, 200);
    }
    let upload = "/v2/team-a/app/blobs/uploads/";
    for _ in 0..2 {
        assert_eq!(lab.user("gina").post(upload).send().await.status, 403);
    }
    let wrong = lab.anonymous().basic("bob", "wrong");
    assert_eq!(wrong.get("/v2/").send().await.status, 401);
    for _ in 0..2 {
        lab.token("mona", "repository:team-a/app:pull").await;
    }
    let is_last = |record: &&Value| record["event"] == "token";
    crate::support::eventually("all records", || {
        let records = lab.audit().records();
        (records.iter().filter(is_last).count() == 2).then_some(())
    })
    .await;
}

fn row<'a>(table: &'a Value, key: &str, value: &str) -> &'a Value {
    let rows = table["rows"].as_array().unwrap();
    let found = rows.iter().find(|row| row[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value} in {table:#}"))
}

#[tokio::test]
async fn the_report_counts_what_was_done() {
    let lab = Lab::start().await;
    busy(&lab).await;
    let output = run(
        &lab,
        &["audit", "report", "--json", "--config", "portcullis.toml"],
    );
    assert_eq!(code(&output), 0, "{}", said(&output));
    let report = json(&output);
    let records = lab.audit().records();
    assert_eq!(report["records"], records.len());
    let sum = |key: &str| {
        records
            .iter()
            .filter_map(|one| one[key].as_u64())
            .sum::<u64>()
    };
    assert_eq!(report["traffic"]["bytes_in"], sum("bytes_in"));
    assert_eq!(report["traffic"]["bytes_out"], sum("bytes_out"));
    for (key, count) in [("pulls", 3), ("pushes", 2), ("deletes", 0)] {
        assert_eq!(report["traffic"][key], count, "{key}");
    }
    let outcomes = &report["outcomes"];
    assert_eq!(
        (&outcomes["denied"], &outcomes["failed"]),
        (&2.into(), &1.into())
    );
    let app = row(&report["repositories"], "repository", "team-a/app");
    assert_eq!(
        (&app["pulls"], &app["pushes"], &app["denied"]),
        (&2.into(), &1.into(), &2.into())
    );
    let gina = row(&report["users"], "user", "gina");
    assert_eq!(
        (&gina["pulls"], &gina["outcomes"]["denied"]),
        (&3.into(), &2.into())
    );
    let mona = row(&report["logins_by_user_and_network"], "user", "mona");
    assert_eq!(
        (&mona["logins"], &mona["network"]),
        (&2.into(), &"127.0.0.0/24".into())
    );
    let guess = row(&report["refusals"], "user", "bob");
    assert_eq!(guess["reason"], "wrong password");
    let idle: Vec<_> = report["unused"]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    let is_idle = |name: &str| idle.iter().any(|one| one["user"] == name);
    assert!(
        is_idle("stranger") && is_idle("bob") && !is_idle("gina"),
        "{idle:?}"
    );
    assert_eq!(report["certificates"][0]["what"], "server certificate");
    assert_eq!(report["weak_hashes"].as_array().unwrap().len(), 7, "cost 4");
    assert_eq!(report["troubles"], serde_json::json!([]));

    let text = said(&run(&lab, &["audit", "report", "audit.jsonl"]));
    for part in ["Audit report", "team-a/app", "no rule allows push", "█"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for user in ["alice", "gina", "mona"] {
        assert!(!text.contains(&password(user)));
    }
}

#[tokio::test]
async fn many_files_torn_lines_and_standard_input_make_one_report() {
    let lab = Lab::start().await;
    busy(&lab).await;
    let text = lab.audit().text();
    let half = text.lines().count() / 2;
    let at = text.match_indices('\n').nth(half).unwrap().0 + 1;
    let (old, new) = text.split_at(at);
    lab.folder.write("audit.1", old);
    let torn = format!("{new}{{\"seq\":9,\"ti");
    lab.folder.write("audit.2", torn);
    let one = json(&run(&lab, &["audit", "report", "--json", "audit.jsonl"]));
    let two = json(&run(
        &lab,
        &["audit", "report", "--json", "audit.2", "audit.1"],
    ));
    for key in [
        "records",
        "outcomes",
        "traffic",
        "users",
        "repositories",
        "week",
    ] {
        assert_eq!(one[key], two[key], "{key}");
    }
    let lines = torn_lines(&two);
    assert_eq!(lines.0, 1);
    assert!(lines.1.starts_with("audit.2:"), "{}", lines.1);
    let piped = command(&lab, &["audit", "report", "--json", "-"])
        .stdin(std::fs::File::open(lab.folder.join("audit.1")).unwrap())
        .output()
        .unwrap();
    assert_eq!(json(&piped)["records"], half + 1);
    let missing = run(&lab, &["audit", "report", "nowhere"]);
    assert_eq!(code(&missing), 1);
    for words in ["report", "verify", "tail"] {
        let nothing = ["audit", words, "--config", "nowhere.toml"];
        let output = run(&lab, &nothing);
        assert_eq!(code(&output), 78, "{output:?}");
    }
}

fn torn_lines(report: &Value) -> (u64, &str) {
    let skipped = &report["skipped"];
    let place = skipped["places"][0].as_str().unwrap();
    (skipped["torn"].as_u64().unwrap(), place)
}

#[tokio::test]
async fn a_tail_shows_the_last_that_fit() {
    let lab = Lab::start().await;
    busy(&lab).await;
    let show = |more: &[&str]| {
        let output = run(&lab, &[&["audit", "tail", "audit.jsonl"], more].concat());
        assert_eq!(code(&output), 0, "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let denied = show(&["--outcome", "denied,failed"]);
    assert_eq!(denied.lines().count(), 4, "{denied}");
    assert!(
        denied
            .lines()
            .skip(1)
            .all(|line| line.contains("denied") || line.contains("failed"))
    );
    let one = show(&["-n", "1", "--user", "gina", "--repository", "team-a/t*"]);
    assert!(
        one.ends_with('\n') && one.contains("team-a/tool:v1 200"),
        "{one}"
    );
    assert_eq!(show(&["--client", "10.0.0.0/8"]).lines().count(), 1);
    let tokens = show(&["--event", "token", "--json"]);
    let tokens: Vec<Value> = tokens
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(tokens.len() == 2 && tokens.iter().all(|one| one["user"] == "mona"));
    let reference = tokens[0]["ref"].as_str().unwrap();
    assert_eq!(show(&["--ref", reference]).lines().count(), 2);
    let bad = run(
        &lab,
        &["audit", "tail", "audit.jsonl", "--outcome", "perhaps"],
    );
    assert_eq!(code(&bad), 2);
}

/// A child that is killed when its test ends.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_tail_follows_over_a_rotation() {
    let lab = Lab::start().await;
    let arguments = [
        "audit",
        "tail",
        "audit.jsonl",
        "-f",
        "-n",
        "0",
        "--user",
        "gina",
    ];
    let mut child = command(&lab, &arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _following = Following(child);
    let (sender, mut shown) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut next = async || {
        let line = crate::support::within(crate::support::PATIENCE, "a line", shown.recv()).await;
        line.unwrap()
    };
    // The head says that it is there.
    assert!(next().await.starts_with("TIME"));
    lab.user("gina")
        .get("/v2/team-a/one/tags/list")
        .send()
        .await;
    assert!(next().await.contains("team-a/one"));
    std::fs::rename(
        lab.folder.join("audit.jsonl"),
        lab.folder.join("audit.jsonl.1"),
    )
    .unwrap();
    lab.user("gina")
        .get("/v2/team-a/two/tags/list")
        .send()
        .await;
    assert!(next().await.contains("team-a/two"));
    lab.process.signal(rustix::process::Signal::HUP);
    lab.audit()
        .find("a record in the new file", |record| {
            record["event"] == "reload"
        })
        .await;
    lab.user("gina")
        .get("/v2/team-a/three/tags/list")
        .send()
        .await;
    assert!(next().await.contains("team-a/three"));
}

#[tokio::test]
async fn a_decision_is_replayed_by_its_reference() {
    let lab = Lab::start().await;
    let answer = lab
        .user("gina")
        .post("/v2/team-a/app/blobs/uploads/")
        .send()
        .await;
    assert_eq!(answer.status, 403);
    let reference = answer.reference();
    lab.audit()
        .find("the denial", |record| record["ref"] == reference.as_str())
        .await;
    let explain = || {
        run(
            &lab,
            &[
                "explain",
                "--config",
                "portcullis.toml",
                "--from-audit",
                &reference,
            ],
        )
    };
    let output = explain();
    let text = said(&output);
    assert_eq!(code(&output), 3, "{text}");
    assert!(
        text.contains("gina, push team-a/app, from 127.0.0.1"),
        "{text}"
    );
    assert!(
        text.contains("then   deny") && text.contains("now    deny"),
        "{text}"
    );

    let config = lab.config().replace(
        "who = [\"user:gina\"]\nrole = \"guest\"",
        "who = [\"user:gina\"]\nrole = \"developer\"",
    );
    lab.folder.write("portcullis.toml", config);
    let output = explain();
    let text = said(&output);
    assert_eq!(code(&output), 0, "{text}");
    assert!(
        text.contains("then   deny") && text.contains("now    allow by"),
        "{text}"
    );

    let unknown = run(
        &lab,
        &[
            "explain",
            "--config",
            "portcullis.toml",
            "--from-audit",
            "NOBODY",
        ],
    );
    assert_eq!(code(&unknown), 1);
    assert!(
        said(&unknown).contains("no record has the reference"),
        "{}",
        said(&unknown)
    );
}

#[tokio::test]
async fn a_new_configuration_is_checked_against_the_past() {
    let lab = Lab::start().await;
    busy(&lab).await;
    let check = |config: &str| {
        let arguments = [
            "check",
            "--config",
            config,
            "--against",
            "audit.jsonl",
            "--json",
        ];
        run(&lab, &arguments)
    };
    let same = check("portcullis.toml");
    assert_eq!(code(&same), 0, "{}", said(&same));
    let changes = &json(&same)["against"];
    assert!(changes["decisions"].as_u64().unwrap() > 10, "{changes:#}");
    assert_eq!(changes["changes"], serde_json::json!([]));

    // alice leaves her group, gina may push.
    let config = lab
        .config()
        .replace("team-a = [\"alice\"]", "team-a = [\"nobody\"]")
        .replace(
            "who = [\"user:gina\"]\nrole = \"guest\"",
            "who = [\"user:gina\"]\nrole = \"developer\"",
        );
    lab.folder.write("new.toml", config);
    let other = check("new.toml");
    assert_eq!(code(&other), 1, "{}", said(&other));
    let report = json(&other);
    assert_eq!(report["ok"], false);
    let changes = report["against"]["changes"].as_array().unwrap();
    let of = |user: &str, repository: &str| {
        let found = changes
            .iter()
            .find(|one| one["user"] == user && one["repository"] == repository);
        found.unwrap_or_else(|| panic!("{changes:#?}"))
    };
    assert_eq!(of("alice", "team-a/tool")["now"], "deny");
    let gina = of("gina", "team-a/app");
    assert_eq!(
        (&gina["then"], &gina["now"], &gina["count"]),
        (&"deny".into(), &"allow".into(), &2.into())
    );
    let text = said(&run(
        &lab,
        &["check", "--config", "new.toml", "--against", "audit.jsonl"],
    ));
    assert!(
        text.contains("deny -> allow  gina, push team-a/app: 2 times"),
        "{text}"
    );
}
