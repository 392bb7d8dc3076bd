//! A server under test: its processes, what they have used, and their end.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    /// From its start to the first connection it accepted.
    pub(crate) started_in: Duration,
}

impl Server {
    /// Starts a program, both outputs into `log`, and waits until `address` accepts connections.
    pub(crate) fn start(command: &mut Command, log: &Path, address: SocketAddr) -> Result<Self> {
        let out = File::create(log)?;
        let begun = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{}", command.get_program().display()))?;
        let log = log.to_owned();
        let mut server = Self {
            child,
            log,
            started_in: Duration::ZERO,
        };
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("it ended with {status}:\n{}", server.log());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{address} does not accept connections:\n{}", server.log());
            }
            sleep(Duration::from_micros(500));
        }
        server.started_in = begun.elapsed();
        Ok(server)
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    pub(crate) fn hang_up(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::HUP)?)
    }

    /// It and all its descendants.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let parents: Vec<_> = numbers("/proc").into_iter().filter_map(parent).collect();
        let mut tree = vec![self.child.id()];
        let mut next = 0;
        while let Some(&parent) = tree.get(next) {
            tree.extend(
                parents
                    .iter()
                    .filter(|(_, of)| *of == parent)
                    .map(|(child, _)| child),
            );
            next += 1;
        }
        tree
    }

    /// Time on a processor so far, of all threads of all its processes.
    pub(crate) fn cpu(&self) -> Duration {
        let mut total = 0;
        for process in self.processes() {
            let tasks = format!("/proc/{process}/task");
            for task in numbers(&tasks) {
                let text = fs::read_to_string(format!("{tasks}/{task}/schedstat"));
                let text = text.unwrap_or_default();
                total += text
                    .split(' ')
                    .next()
                    .and_then(|ns| ns.parse().ok())
                    .unwrap_or(0);
            }
        }
        Duration::from_nanos(total)
    }

    /// Memory now, in bytes: proportional, so what forked processes share counts once.
    pub(crate) fn memory(&self) -> f64 {
        self.sum("smaps_rollup", "Pss:")
    }

    /// Resident memory now, in bytes, added up over its processes, as `top` has it.
    pub(crate) fn resident(&self) -> f64 {
        self.sum("status", "VmRSS:")
    }

    /// The highest resident memory so far, in bytes, added up over its processes.
    pub(crate) fn peak(&self) -> f64 {
        self.sum("status", "VmHWM:")
    }

    fn sum(&self, file: &str, key: &str) -> f64 {
        let of = |process: u32| {
            let text = fs::read_to_string(format!("/proc/{process}/{file}")).ok()?;
            let line = text.lines().find(|line| line.starts_with(key))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        self.processes().into_iter().filter_map(of).sum::<f64>() * 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let tree = self.processes();
        kill(tree.first(), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(5));
        }
        for process in &tree {
            kill(Some(process), Signal::KILL);
        }
        self.child.wait().ok();
    }
}

fn kill(process: Option<&u32>, signal: Signal) {
    let raw = process.and_then(|id| i32::try_from(*id).ok());
    if let Some(pid) = raw.and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process and its parent. The name, in parentheses, may hold anything.
fn parent(process: u32) -> Option<(u32, u32)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some((process, rest.split_whitespace().nth(1)?.parse().ok()?))
}

/// Counts the instructions of a server while `perf` can: on many virtual machines it cannot.
pub(crate) struct Instructions(Option<Child>);

impl Instructions {
    /// Whether this machine counts them; otherwise why not.
    pub(crate) fn available() -> Result<(), String> {
        let output = Command::new("perf")
            .args(["stat", "-x,", "-e", "instructions", "true"])
            .output()
            .map_err(|error| format!("perf: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        match parse_count(&text) {
            Some(_) => Ok(()),
            None => Err(format!("perf stat -e instructions: {}", text.trim())),
        }
    }

    pub(crate) fn begin(wanted: bool, server: &Server) -> Result<Self> {
        if !wanted {
            return Ok(Self(None));
        }
        let ids: Vec<_> = server.processes().iter().map(u32::to_string).collect();
        let child = Command::new("perf")
            .args(["stat", "-x,", "-e", "instructions", "-p", &ids.join(",")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // perf does not say when it has begun; an idle server has no instructions to miss.
        sleep(Duration::from_millis(100));
        Ok(Self(Some(child)))
    }

    pub(crate) fn end(self) -> Option<f64> {
        let child = self.0?;
        kill_process(Pid::from_child(&child), Signal::INT).ok()?;
        let output = child.wait_with_output().ok()?;
        parse_count(&String::from_utf8_lossy(&output.stderr))
    }
}

fn parse_count(csv: &str) -> Option<f64> {
    let line = csv.lines().find(|line| line.contains("instructions"))?;
    line.split(',').next()?.parse().ok()
}
