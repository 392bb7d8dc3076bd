//! What an answer promises is in the trail, whatever happens to the trail: both sides are counted.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::disk::SmallDisk;
use crate::support::folder::Folder;
use crate::support::http::Client;
use crate::support::lab::PROGRAM;
use crate::support::{Lab, PATIENCE, eventually, within};

/// Clients that log in, ask for tokens, push and delete, and remember each answer that they have
/// received as a whole, by the name that they gave themselves in it.
struct Load {
    alice: Client,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    next: AtomicU32,
    /// Status of each answer.
    answered: Mutex<HashMap<String, u16>>,
}

impl Load {
    fn start(lab: &Lab) -> Self {
        Self::continued(lab, Arc::default())
    }

    fn continued(lab: &Lab, shared: Arc<Shared>) -> Self {
        shared.stop.store(false, Ordering::Relaxed);
        let (alice, mona) = (lab.user("alice"), lab.user("mona"));
        let service = lab.authority();
        let tasks = (0..6).map(|_| {
            let (alice, mona) = (alice.clone(), mona.clone());
            let (shared, service) = (Arc::clone(&shared), service.clone());
            tokio::spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    one(&alice, &mona, &shared, &service).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self {
            alice,
            tasks,
            shared,
        }
    }

    /// Waits for so many answers more.
    async fn answers(&self, more: usize) {
        let wanted = self.shared.answered.lock().unwrap().len() + more;
        eventually("answers", || {
            (self.shared.answered.lock().unwrap().len() >= wanted).then_some(())
        })
        .await;
    }

    async fn stop(self) -> Arc<Shared> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.shared
    }

    /// Waits until pushes are answered with a status.
    async fn pushes_get(&self, status: u16) {
        crate::support::eventually_async("another answer to pushes", async || {
            let push = self.alice.post("/v2/team-a/app/blobs/uploads/");
            let answer = push.header("user-agent", "probe").try_send().await.ok()?;
            (answer.status == status).then_some(())
        })
        .await;
    }
}

/// One call that is permitted: of many refusals only some have a record of their own.
async fn one(alice: &Client, mona: &Client, shared: &Shared, service: &str) {
    let number = shared.next.fetch_add(1, Ordering::Relaxed);
    let name = format!("client-{number}");
    let token = format!("/token?service={service}&scope=repository:team-a/app:pull,push");
    let gone = format!("/v2/team-a/app/manifests/sha256:{}", "0".repeat(64));
    let call = match number % 4 {
        0 => alice.get("/v2/"),
        1 => alice.get(&token),
        2 => alice.post("/v2/team-a/app/blobs/uploads/"),
        _ => mona.delete(&gone),
    };
    if let Ok(answer) = call.header("user-agent", name.as_str()).try_send().await {
        let mut answered = shared.answered.lock().unwrap();
        answered.insert(name, answer.status);
    }
}

/// For each answer there is one record, and there are no two.
fn assert_recorded(shared: &Shared, lines: &str) {
    let mut names = HashSet::new();
    for line in lines.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if let Some(name) = record["agent"].as_str().filter(|name| *name != "probe") {
            assert!(names.insert(name.to_owned()), "two records of {name}");
        }
    }
    let answered = shared.answered.lock().unwrap();
    assert!(!answered.is_empty());
    for (name, status) in &*answered {
        // Refused because nothing could be written: that one may be missing.
        assert!(
            *status == 503 || names.contains(name),
            "no record of {name}: {status}"
        );
    }
}

/// The files of a trail: the one being written, and the rotated ones.
fn trail(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_part = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_beside = [".chain", ".lock", ".torn-"]
            .iter()
            .any(|end| name.contains(end));
        name.starts_with("audit") && name.contains("jsonl") && !is_beside
    };
    paths.filter(is_part).collect()
}

fn verify(files: &[PathBuf]) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .args(["audit", "verify", "--json"])
        .args(files)
        .output()
        .unwrap()
}

/// Verifies the trail; all of its lines.
fn assert_good(files: &[PathBuf]) -> String {
    let output = verify(files);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["good"], true);
    let texts = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap());
    texts.collect::<String>()
}

#[tokio::test]
async fn a_kill_under_load_loses_no_answered_request() {
    let mut lab = Lab::start().await;
    let mut shared = Arc::default();
    for _ in 0..3 {
        let load = Load::continued(&lab, shared);
        load.answers(60).await;
        lab.process.signal(Signal::KILL);
        lab.process.wait().await;
        shared = load.stop().await;
        lab.restart().await;
    }
    lab.audit()
        .find("the last start", |record| record["event"] == "start")
        .await;
    let lines = assert_good(&trail(lab.folder.path()));
    assert_recorded(&shared, &lines);
}

#[tokio::test]
async fn rotation_under_load_loses_nothing() {
    let mut lab = Lab::builder()
        .audit("file = \"audit.jsonl\"\nrotate_size = \"64KiB\"")
        .start()
        .await;
    let load = Load::start(&lab);
    for number in 0..4 {
        load.answers(40).await;
        let moved = lab.folder.join(format!("audit.jsonl.{number}"));
        // It may just be rotating the file itself.
        eventually("a file to move", || {
            std::fs::rename(lab.folder.join("audit.jsonl"), &moved).ok()
        })
        .await;
        // The one reads everything again, the other opens the file only.
        lab.process.signal(match number % 2 {
            0 => Signal::HUP,
            _ => Signal::USR1,
        });
    }
    load.answers(40).await;
    // While it is being written.
    let answered = Arc::clone(&load.shared);
    assert_good(&trail(lab.folder.path()));
    load.stop().await;
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let files = trail(lab.folder.path());
    assert!(files.len() >= 5, "{files:?}");
    let lines = assert_good(&files);
    assert_recorded(&answered, &lines);
}

#[tokio::test]
async fn a_trail_has_one_writer_through_rotation_and_reload() {
    let mut lab = Lab::start().await;
    let port = lab.address.port().to_string();
    let config = lab.config().replace(&port, "0");
    let serve = |config: &str| {
        lab.folder.replace("other.toml", config);
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(["serve", "--config"]);
        command.arg(lab.folder.join("other.toml"));
        command.kill_on_drop(true);
        command
    };
    let refused = async |config: &str| {
        let output = within(PATIENCE, "the second proxy", serve(config).output()).await;
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("audit.jsonl is written by another process"),
            "{said}"
        );
        assert!(said.contains("`audit.file`"), "{said}");
    };
    refused(&config).await;
    std::fs::rename(
        lab.folder.join("audit.jsonl"),
        lab.folder.join("audit.jsonl.1"),
    )
    .unwrap();
    refused(&config).await;
    assert_eq!(lab.reload().await, "allowed");
    refused(&config).await;
    assert_eq!(lab.reload().await, "allowed");
    refused(&config).await;
    // Those who read are not in the way, nor in anybody's.
    assert_good(&trail(lab.folder.path()));

    let mut other = serve(&config.replace("audit.jsonl", "other.jsonl"));
    let mut other = other.stderr(std::process::Stdio::null()).spawn().unwrap();
    let begun = lab.folder.join("other.jsonl");
    eventually("the other trail", || {
        std::fs::read_to_string(&begun)
            .ok()
            .filter(|text| text.ends_with('\n'))
    })
    .await;
    let mine = lab.config();
    lab.folder.replace(
        "portcullis.toml",
        mine.replace("audit.jsonl", "other.jsonl"),
    );
    let kept = lab.reload().await;
    assert_ne!(kept, "allowed");
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    other.kill().await.unwrap();
    assert_good(&[begun]);
    lab.folder.replace("portcullis.toml", &mine);

    lab.process.signal(Signal::KILL);
    lab.process.wait().await;
    lab.restart().await;
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    assert_good(&trail(lab.folder.path()));
}

#[tokio::test]
async fn a_full_disk_refuses_changes_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(16) else {
        return;
    };
    let file = disk.folder.join("audit.jsonl");
    let lab = Lab::builder()
        .audit(&format!("file = \"{}\"", file.display()))
        .start()
        .await;
    let load = Load::start(&lab);
    load.answers(20).await;
    disk.fill();
    load.pushes_get(503).await;
    // Machines that pull go on.
    let pull = lab.user("gina").get("/v2/team-a/app/tags/list");
    assert_eq!(pull.header("user-agent", "probe").send().await.status, 404);
    assert_eq!(verify(std::slice::from_ref(&file)).status.code(), Some(0));
    disk.free();
    load.pushes_get(202).await;
    load.answers(20).await;
    let shared = load.stop().await;
    let lines = assert_good(&[file]);
    assert_recorded(&shared, &lines);
    assert!(
        lines.contains("requests refused, 0 records lost"),
        "{lines}"
    );
}

#[tokio::test]
async fn a_stop_on_a_full_disk_says_how_many_records_it_lost() {
    let Some(disk) = SmallDisk::mount(16) else {
        return;
    };
    let file = disk.folder.join("audit.jsonl");
    let mut lab = Lab::builder()
        .audit(&format!("file = \"{}\"\ntimeout = \"1s\"", file.display()))
        .start()
        .await;
    let gina = lab.user("gina");
    assert_eq!(gina.get("/v2/").send().await.status, 200);
    disk.fill();
    // What is left of the last block goes first.
    for _ in 0..20 {
        assert_eq!(
            gina.get("/v2/team-a/app/tags/list").send().await.status,
            404
        );
    }
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let written = assert_good(std::slice::from_ref(&file));
    let written = written.lines().filter(|line| line.contains("tags"));
    let log = lab.process.log();
    let told = log
        .lines()
        .find(|line| line.contains("audit records are lost"));
    let lost: usize = told.unwrap().rsplit_once('=').unwrap().1.parse().unwrap();
    // Besides those of the requests, the records of the failure and of the stop.
    assert!(lost >= 20 - written.count(), "{log}");
    // What has room again is not told of.
    lab.restart().await;
    disk.free();
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    assert!(!lab.process.log().contains("audit records are lost"));
    assert_good(&[file]);
}

#[tokio::test]
async fn a_reader_that_stops_counts_as_a_failure_and_misses_nothing() {
    let folder = Folder::new();
    let fifo = folder.join("audit.fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let mut reader = options.read(true).custom_flags(flags).open(&fifo).unwrap();
    let lab = Lab::builder()
        .audit(&format!(
            "file = \"{}\"\ntimeout = \"500ms\"",
            fifo.display()
        ))
        .start()
        .await;
    let load = Load::start(&lab);
    load.pushes_get(503).await;
    // It reads again.
    let done = Arc::new(AtomicBool::new(false));
    let reading = {
        let done = Arc::clone(&done);
        tokio::task::spawn_blocking(move || {
            let (mut text, mut bytes) = (Vec::new(), vec![0; 65536]);
            loop {
                match reader.read(&mut bytes) {
                    Ok(count @ 1..) => text.extend_from_slice(&bytes[..count]),
                    Ok(_) | Err(_) if done.load(Ordering::Relaxed) => break,
                    Ok(_) | Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                }
            }
            text
        })
    };
    load.pushes_get(202).await;
    load.answers(20).await;
    let shared = load.stop().await;
    let mut lab = lab;
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    done.store(true, Ordering::Relaxed);
    let read = folder.join("read");
    std::fs::write(&read, reading.await.unwrap()).unwrap();
    let lines = assert_good(&[read]);
    assert_recorded(&shared, &lines);
}

#[tokio::test]
async fn a_syslog_that_stops_counts_only_where_it_is_required() {
    for (required, status) in [(true, 503), (false, 202)] {
        let folder = Folder::new();
        let path = folder.join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let lines = format!(
            "file = \"audit.jsonl\"\ntimeout = \"500ms\"\n[audit.syslog]\naddress = \"unix:{}\"\nrequired = {required}\n",
            path.display()
        );
        let mut lab = Lab::builder().audit(&lines).start().await;
        let load = Load::start(&lab);
        if required {
            load.pushes_get(status).await;
        } else {
            let is_told = |record: &Value| record["event"] == "audit";
            lab.audit().find("the failure", is_told).await;
            load.pushes_get(status).await;
        }
        let done = Arc::new(AtomicBool::new(false));
        receiver.set_nonblocking(true).unwrap();
        let reading = {
            let done = Arc::clone(&done);
            tokio::task::spawn_blocking(move || {
                let (mut text, mut bytes) = (String::new(), vec![0; 65536]);
                loop {
                    match receiver.recv(&mut bytes) {
                        Ok(count) => {
                            let message = std::str::from_utf8(&bytes[..count]).unwrap();
                            let (_, line) = message.split_once(" - {").unwrap();
                            text.extend(["{", line, "\n"]);
                        }
                        Err(_) if done.load(Ordering::Relaxed) => break,
                        Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    }
                }
                text
            })
        };
        load.pushes_get(202).await;
        load.answers(20).await;
        let shared = load.stop().await;
        lab.process.signal(Signal::TERM);
        assert!(lab.process.wait().await.success());
        done.store(true, Ordering::Relaxed);
        let lines = assert_good(&[lab.folder.join("audit.jsonl")]);
        assert_recorded(&shared, &lines);
        // The receiver has the same records.
        assert_eq!(reading.await.unwrap(), lines);
    }
}

#[tokio::test]
async fn stdout_has_the_same_records() {
    let mut lab = Lab::builder()
        .audit("file = \"audit.jsonl\"\n[audit.stdout]\nrequired = true")
        .start()
        .await;
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let log = lab.process.log();
    let printed: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("{\"seq\""))
        .collect();
    let lines = assert_good(&[lab.folder.join("audit.jsonl")]);
    assert_eq!(printed, lines.lines().collect::<Vec<_>>());
    assert_eq!(printed.len(), 3);
}

#[tokio::test]
async fn a_flood_of_like_refusals_is_one_record_with_their_count() {
    let mut lab = Lab::start().await;
    let mut refused = 0_u64;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let client = lab.anonymous();
        tasks.spawn(async move {
            let mut connection = client.connect().await;
            let mut refused = 0;
            for _ in 0..400 {
                let call = client.get("/v2/team-a/app/tags/list");
                refused += u64::from(connection.send(call).await.status == 401);
            }
            refused
        });
    }
    while let Some(ended) = tasks.join_next().await {
        refused += ended.unwrap();
    }
    assert_eq!(refused, 1600);
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let records = lab.audit().records();
    let told = |record: &Value| match record["event"].as_str() {
        Some("request") => 1,
        Some("suppressed") => record["count"].as_u64().unwrap(),
        _ => 0,
    };
    assert_eq!(records.iter().map(told).sum::<u64>(), refused);
}

#[tokio::test]
async fn tampering_is_named_with_file_and_line() {
    let lab = Lab::start().await;
    for _ in 0..5 {
        assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    }
    let file = lab.folder.join("audit.jsonl");
    let lines = assert_good(std::slice::from_ref(&file));
    let forged = lines.replacen("\"user\":\"alice\"", "\"user\":\"gina\"", 1);
    assert_ne!(lines, forged);
    let copy = lab.folder.write("copy.jsonl", forged);
    let output = Command::new(PROGRAM)
        .args(["audit", "verify"])
        .arg(&copy)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.starts_with(&format!("{}:2: record 2 was changed", copy.display())),
        "{told}"
    );
    // What a shell's `audit.jsonl*` finds besides is no part of the trail.
    assert_good_with_beside(&lab);
}

fn assert_good_with_beside(lab: &Lab) {
    let files = ["audit.jsonl.chain", "audit.jsonl"].map(|name| lab.folder.join(name));
    assert!(files[0].exists());
    let output = verify(&files);
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn what_rotation_leaves_is_read_whole_and_what_cannot_be_read_is_a_failure() {
    let lab = Lab::start().await;
    for _ in 0..3 {
        assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    }
    let current = lab.folder.join("audit.jsonl");
    let old = lab.folder.join("audit.jsonl.1");
    std::fs::rename(&current, &old).unwrap();
    assert_eq!(lab.reload().await, "allowed");
    let written = std::fs::read_to_string(&old).unwrap() + &lab.audit().text();
    let count = written.lines().count();
    let packed = Command::new("gzip").arg(&old).status().unwrap();
    assert!(packed.success());
    let all = ["", ".1.gz", ".chain"].map(|end| lab.folder.join(format!("audit.jsonl{end}")));
    // As it was named before it was compressed, too.
    let before = [&current, &old].map(Clone::clone);
    let run = |words: &[&str], files: &[PathBuf]| {
        let mut command = Command::new(PROGRAM);
        command.arg("audit").args(words).args(files);
        command.output().unwrap()
    };
    for files in [&all[..], &before[..]] {
        let verified = verify(files);
        assert!(verified.status.success(), "{verified:?}");
        let report = run(&["report", "--json"], files);
        assert_eq!(report.status.code(), Some(0), "{report:?}");
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!(report["records"], count);
        assert_eq!(report["skipped"]["foreign"], 0);
        let tail = run(&["tail", "--json", "-n", "1000"], files);
        assert_eq!(String::from_utf8(tail.stdout).unwrap(), written);
    }
    // Without names all of the configuration's trail is read.
    let of_configuration = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let config = lab.folder.join("portcullis.toml");
        command.env("PORTCULLIS_CONFIG", config);
        command.arg("audit").args(words).output().unwrap()
    };
    let verified = of_configuration(&["verify", "--json"]);
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(
        (&verified["good"], &verified["records"]),
        (&true.into(), &count.into())
    );
    let report = of_configuration(&["report", "--json"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["records"], count);
    let tail = of_configuration(&["tail", "--json", "-n", "1000"]);
    assert_eq!(String::from_utf8(tail.stdout).unwrap(), written);
    lab.folder
        .write("audit.jsonl.2.xz", b"\xfd7zXZ\0".as_slice());
    lab.folder.write("audit.jsonl.3", "no record\n");
    lab.folder
        .write("audit.jsonl.4.gz", b"\x1f\x8b\x08\0\0\0\0\0".as_slice());
    for (name, why) in [
        ("audit.jsonl.2.xz", "compressed with xz"),
        ("audit.jsonl.3", "record"),
        ("audit.jsonl.4.gz", "cannot read"),
        ("nothing", "cannot read"),
    ] {
        for words in [["report", "--json"], ["verify", "--json"]] {
            let output = run(&words, &[current.clone(), lab.folder.join(name)]);
            assert_eq!(output.status.code(), Some(1), "{words:?} {name}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(why), "{words:?} {name}: {said}");
        }
    }
}

#[tokio::test]
async fn a_trail_without_its_beginning_is_not_whole() {
    let lab = Lab::start().await;
    let current = lab.folder.join("audit.jsonl");
    for number in 1..=2 {
        assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
        std::fs::rename(&current, lab.folder.join(format!("audit.jsonl.{number}"))).unwrap();
        assert_eq!(lab.reload().await, "allowed");
    }
    let files = trail(lab.folder.path());
    let start = lab.folder.read("audit.jsonl.1");
    let start: Value = serde_json::from_str(start.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&start["event"], &start["first"]),
        (&"start".into(), &1.into())
    );
    assert_good(&files);
    std::fs::remove_file(lab.folder.join("audit.jsonl.1")).unwrap();
    let files = trail(lab.folder.path());
    let run = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let output = command.args(["audit", "verify"]).args(words).args(&files);
        let output = output.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = run(&[]);
    let told = format!(
        "the trail begins at record 1, as {}.chain says",
        current.display()
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the beginning is missing") && said.contains(&told),
        "{said}"
    );
    let text = lab.folder.read("audit.jsonl.2");
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let first = first["seq"].to_string();
    for from in ["oldest", &first] {
        let (code, said) = run(&["--from", from]);
        assert_eq!(code, Some(0), "{said}");
        let told = format!("begins at record {first}, as --from accepts");
        assert!(said.contains(&told), "{said}");
    }
    let (code, said) = run(&["--json", "--from", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(run(&["--from", "yesterday"]).0, Some(2));
}

#[tokio::test]
async fn a_trail_is_pruned_while_it_is_written_and_while_it_is_not() {
    let mut lab = Lab::start().await;
    let folder = lab.folder.path().to_owned();
    let current = folder.join("audit.jsonl");
    for number in 1..=4 {
        assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
        let moved = lab.folder.join(format!("audit.jsonl.{number}"));
        std::fs::rename(&current, &moved).unwrap();
        assert_eq!(lab.reload().await, "allowed");
        if number == 2 {
            assert!(Command::new("gzip").arg(&moved).status().unwrap().success());
        }
    }
    let prune = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["audit", "prune", "--config"]);
        command.arg(folder.join("portcullis.toml")).args(words);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let verified = || {
        let output = verify(&trail(&folder));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), found)
    };
    assert_eq!(prune(&[]).0, Some(2));
    let (code, said) = prune(&["--keep", "2", "--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("would remove 2 files"), "{said}");
    assert!(said.contains("audit.jsonl.2.gz"), "{said}");
    let (code, said) = prune(&["--keep-days", "1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("nothing to remove; the trail begins at record 1\n"),
        "{said}"
    );
    assert_eq!(trail(lab.folder.path()).len(), 5);

    // The proxy records it, and only then do files go.
    let (code, said) = prune(&["--keep", "2", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let cut: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(cut["removed"].as_array().unwrap().len(), 2);
    let (code, found) = verified();
    assert_eq!(
        (code, &found["first"]["seq"]),
        (Some(0), &cut["first"]),
        "{found}"
    );
    assert!(found["begins"]["pruned"]["by"].is_u64(), "{found}");
    let record = lab
        .audit()
        .find("the cut", |record| record["event"] == "prune")
        .await;
    assert_eq!(
        (&record["first"], &record["seq"]),
        (&cut["first"], &found["begins"]["pruned"]["by"])
    );
    assert!(!lab.folder.join("audit.jsonl.prune").exists());

    // A cut that nobody recorded is found, and not made good in passing.
    std::fs::remove_file(lab.folder.join("audit.jsonl.3")).unwrap();
    assert_eq!(verified().0, Some(1));
    let (code, said) = prune(&["--keep", "0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the beginning is missing"), "{said}");
    assert!(said.contains("nothing was removed"), "{said}");
    assert_eq!(verified().0, Some(1));
    let (code, said) = prune(&["--keep", "1", "--unverified"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(verified().0, Some(0));
    let told = |record: &Value| {
        record["reason"]
            .as_str()
            .is_some_and(|why| why.contains("did not verify"))
    };
    lab.audit().find("the reason", told).await;

    // Without a proxy the command does it all.
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let (code, said) = prune(&["--before", "2999-01-01"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("removed 1 file;"), "{said}");
    let (code, found) = verified();
    assert_eq!(code, Some(0), "{found}");
    let first = found["first"]["seq"].clone();
    lab.restart().await;
    assert_eq!(trail(lab.folder.path()), [current]);
    let start = |record: &Value| record["event"] == "start" && record["first"] == first;
    lab.audit()
        .find("a start that names the first record", start)
        .await;
    assert_eq!(verified().0, Some(0));
}

#[tokio::test]
async fn keys_and_signatures_are_made_and_verified() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut lab = Lab::builder()
        .audit("file = \"audit.jsonl\"\nkey_file = \"audit.key\"\nsigning_key = \"sign.key\"")
        .file("audit.key", "k".repeat(32))
        .file("sign.key", pair.serialize_pem())
        .start()
        .await;
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let public = lab.folder.write("public.pem", pair.public_key_pem());
    let with = |more: &[&std::ffi::OsStr]| {
        let mut command = Command::new(PROGRAM);
        command.args(["audit", "verify", "--json"]).args(more);
        let output = command
            .arg(lab.folder.join("audit.jsonl"))
            .output()
            .unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), found)
    };
    let key = lab.folder.join("audit.key");
    let all = [
        "--key-file".as_ref(),
        key.as_os_str(),
        "--public-key".as_ref(),
        public.as_os_str(),
    ];
    let (code, found) = with(&all);
    assert_eq!((code, &found["good"]), (Some(0), &true.into()), "{found}");
    assert_eq!(found["signed"], found["last"]["seq"]);
    assert_eq!(with(&[]).0, Some(1));
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let stranger = lab.folder.write("other.pem", other.public_key_pem());
    let (code, found) = with(&[all[0], all[1], all[2], stranger.as_os_str()]);
    assert_eq!(code, Some(1), "{found}");
}
