//! Child processes that end with their test, and show their log when it fails.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpSocket;

use super::PATIENCE;

pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// What it is sent when its test is over. A child with children of its own needs TERM.
    last: Signal,
}

impl Process {
    /// Starts a program; both its outputs go to the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        Self::start_given(command, Stdio::null(), log)
    }

    /// The same, with something to inherit as its descriptor 0.
    pub(crate) fn start_given(command: &mut Command, inherited: Stdio, log: &Path) -> Self {
        let out = File::create(log).unwrap();
        let child = command
            .stdin(inherited)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        Self {
            child,
            log: log.to_owned(),
            last: Signal::KILL,
        }
    }

    pub(crate) fn ended_by_term(mut self) -> Self {
        self.last = Signal::TERM;
        self
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(&self.child), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end by itself.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        super::eventually("the end of the process", || self.exited()).await
    }

    /// Waits until the address accepts connections; `Err` if the process ended instead.
    pub(crate) async fn listens(&mut self, address: SocketAddr) -> Result<(), ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return Err(status);
            }
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{address} does not accept connections:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Resident memory now, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The highest resident memory so far, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }
}

/// A server that a test kills, freezes and starts again on ports of its own, one plain and one with
/// TLS.
pub(crate) struct Service {
    process: Option<Process>,
    pub(crate) plain: u16,
    pub(crate) tls: u16,
}

impl Service {
    /// One that does not run yet.
    pub(crate) fn on_free_ports() -> Self {
        Self {
            process: None,
            plain: free_port(),
            tls: free_port(),
        }
    }

    /// Starts it; `false` if it ended before it listened on both ports.
    pub(crate) async fn run(&mut self, command: &mut Command, log: &Path) -> bool {
        let mut process = Process::start(command, log);
        for port in [self.plain, self.tls] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if process.listens(address).await.is_err() {
                return false;
            }
        }
        self.process = Some(process);
        true
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take());
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Lets it hang: connections are accepted by the system, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            kill_process(pid(&self.child), self.last).ok();
        }
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {}\n{}", self.log.display(), tail.join("\n"));
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

/// A port that nobody listens on. Below the range from which outgoing connections take theirs, so
/// that it stays free until a child has bound it; another test process may still be faster.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step % COUNT) % COUNT;
        let free = is_free((Ipv4Addr::LOCALHOST, port).into())
            && (is_free((Ipv6Addr::LOCALHOST, port).into()) || !has_ipv6());
        if free {
            return port;
        }
    }
}

/// Bound, never listened on: a child that is being started at this moment holds a copy of every
/// descriptor until it runs its own program, and would seem to accept connections.
fn is_free(address: SocketAddr) -> bool {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    socket.is_ok_and(|socket| socket.bind(address).is_ok())
}

/// Whether `::1` exists on this machine.
pub(crate) fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Whether a program is on the PATH.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Says why a test is not run. In continuous integration nothing is left out.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "not in CI: {reason}");
    eprintln!("skipped: {reason}");
}
