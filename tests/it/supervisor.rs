//! The service manager is told how things stand, and its sockets survive a restart.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::Signal;
use tokio::net::UnixDatagram;

use crate::support::folder::Folder;
use crate::support::http::Client;
use crate::support::lab::PROGRAM;
use crate::support::process::{Process, free_port, on_path, skip};
use crate::support::{Lab, PATIENCE, eventually, within};

/// The lines of the next message that is no sign of life.
async fn message(manager: &UnixDatagram) -> Vec<String> {
    loop {
        let lines = any_message(manager).await;
        if lines != ["WATCHDOG=1"] {
            return lines;
        }
    }
}

async fn any_message(manager: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let received = within(PATIENCE, "a message", manager.recv(&mut buffer)).await;
    let text = std::str::from_utf8(&buffer[..received.unwrap()]).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_service_manager_is_told_how_things_stand() {
    let folder = Folder::new();
    let path = folder.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut lab = Lab::builder()
        .upstream("http://127.0.0.1:9")
        .environment("NOTIFY_SOCKET", path)
        .environment("WATCHDOG_USEC", "100000")
        .start()
        .await;
    let version = env!("CARGO_PKG_VERSION");
    let status = format!("STATUS=version {version}, configuration 1 in force");
    assert_eq!(message(&manager).await, ["READY=1", &status]);
    // Not the first one, which comes at once.
    for _ in 0..3 {
        assert_eq!(any_message(&manager).await, ["WATCHDOG=1"]);
    }

    assert_eq!(lab.reload().await, "allowed");
    let reloading = message(&manager).await;
    assert_eq!(reloading[0], "RELOADING=1");
    let since_boot = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap();
    assert!(since_boot.parse::<u64>().unwrap() > 0);
    let status = format!("STATUS=version {version}, configuration 2 in force");
    assert_eq!(message(&manager).await, ["READY=1", &status]);

    lab.folder.write("htpasswd", "broken");
    assert_eq!(lab.reload().await, "error");
    assert_eq!(message(&manager).await[0], "RELOADING=1");
    let refused = message(&manager).await;
    assert_eq!((refused.len(), &*refused[0]), (2, "READY=1"));
    let told = &refused[1];
    assert!(told.contains("configuration 2 in force; the last reload was refused"));
    assert!(told.contains("htpasswd:1:1"), "{told}");

    lab.process.signal(Signal::TERM);
    assert_eq!(message(&manager).await[0], "STOPPING=1");
    assert_eq!(lab.process.wait().await.code(), Some(0));
}

/// Starts the lab's proxy again with an inherited socket, as the service manager would.
fn activated(lab: &Lab, socket: &TcpListener, name: &str) -> Process {
    let socket = OwnedFd::from(socket.try_clone().unwrap());
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" serve --config \"$1\"")
        .arg(PROGRAM)
        .arg(lab.folder.join("portcullis.toml"))
        .envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", name)]);
    let log = lab.folder.join("portcullis.log");
    Process::start_given(&mut command, Stdio::from(socket), &log)
}

async fn stop(lab: &mut Lab) {
    lab.process.signal(Signal::TERM);
    assert_eq!(lab.process.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_restart_with_inherited_sockets_loses_no_connection() {
    let mut lab = Lab::builder().upstream("http://127.0.0.1:9").start().await;
    stop(&mut lab).await;
    let socket = TcpListener::bind(lab.address).unwrap();
    lab.process = activated(&lab, &socket, "portcullis.socket");
    let (answered, over) = (
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (alice, answered) = (lab.user("alice"), Arc::clone(&answered));
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                // Each on a connection of its own.
                while !over.load(Ordering::Relaxed) {
                    let answer = alice.get("/v2/").try_send().await;
                    assert_eq!(answer.unwrap().status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        let enough = || (answered.load(Ordering::Relaxed) > before + 20).then_some(());
        eventually("requests answered", enough).await;
        stop(&mut lab).await;
        lab.process = activated(&lab, &socket, "portcullis.socket");
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        within(PATIENCE, "the last answer", client).await.unwrap();
    }
}

#[tokio::test]
async fn the_administration_gets_the_socket_of_its_name() {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut lab = Lab::builder()
        .upstream("http://127.0.0.1:9")
        .more(&format!("[admin]\nlisten = \"{admin}\"\n"))
        .start()
        .await;
    stop(&mut lab).await;
    let socket = TcpListener::bind(admin).unwrap();
    // A connection from before the start.
    let early = std::net::TcpStream::connect(admin).unwrap();
    lab.process = activated(&lab, &socket, "admin");
    lab.process.listens(lab.address).await.unwrap();
    let answer = Client::plain(admin).get("/livez").send().await;
    assert_eq!(answer.status, 200);
    drop(early);
}

#[tokio::test]
async fn sockets_that_do_not_fit_the_configuration_are_told() {
    let mut lab = Lab::builder().upstream("http://127.0.0.1:9").start().await;
    stop(&mut lab).await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    for (name, cause) in [
        ("portcullis.socket", "server.listen"),
        ("admin", "admin.listen"),
    ] {
        lab.process = activated(&lab, &other, name);
        assert_eq!(lab.process.wait().await.code(), Some(78));
        let log = lab.process.log();
        assert!(log.contains(&address) && log.contains(cause), "{log}");
    }
}

/// The nice value of a thread (`proc_pid_stat(5)`); its name stands in brackets before.
fn niceness(stat: &str) -> i32 {
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(16).unwrap().parse().unwrap()
}

/// As the shipped unit would run it: a call that it does not allow fails.
#[tokio::test]
async fn the_units_filter_of_system_calls_allows_logins_and_reloads() {
    if !on_path("systemd-analyze") || !on_path("python3") {
        return skip("systemd or python3 is not installed");
    }
    let more = "[admin]\nlisten = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\n";
    let mut lab = Lab::builder().more(more).start().await;
    lab.process.signal(Signal::TERM);
    lab.process.wait().await;
    let conf = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut command = Command::new(conf.join("under-filter"));
    command.arg(conf.join("portcullis.service"));
    command.arg(PROGRAM).args(["serve", "--config"]);
    command.arg(lab.folder.join("portcullis.toml"));
    lab.process = Process::start(&mut command, &lab.folder.join("portcullis.log"));
    lab.process.listens(lab.address).await.unwrap();
    let proc = std::path::PathBuf::from(format!("/proc/{}", lab.process.id()));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");

    for _ in 0..2 {
        assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
        let pushed = lab.user("alice").post("/v2/team-a/app/blobs/uploads/");
        assert_eq!(pushed.send().await.status, 202);
        assert_eq!(lab.reload().await, "allowed");
    }
    let threads = std::fs::read_dir(proc.join("task")).unwrap();
    let threads = threads.map(|thread| {
        let stat = thread.unwrap().path().join("stat");
        std::fs::read_to_string(stat).unwrap()
    });
    let hashing: Vec<_> = threads.filter(|stat| stat.contains("(hashing-")).collect();
    assert!(!hashing.is_empty());
    for stat in hashing {
        assert!(niceness(&stat) > 0, "{stat}");
    }
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    let log = lab.process.log();
    assert!(
        !log.contains("not permitted") && !log.contains("ERROR"),
        "{log}"
    );
}
