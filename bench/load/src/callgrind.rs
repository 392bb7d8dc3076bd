//! Counts the instructions of a server with valgrind's callgrind: user space only, and the same ones
//! on every run, whatever else the machine does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process::Server;

/// Where the counts go, in the folder of the server.
const OUT: &str = "callgrind.out";

/// The same program, under callgrind, which counts nothing yet.
pub(crate) fn wrapped(command: &Command, folder: &Path) -> Command {
    let mut wrapped = Command::new("valgrind");
    wrapped
        .args(["--quiet", "--tool=callgrind", "--instr-atstart=no"])
        .arg(format!(
            "--callgrind-out-file={}",
            folder.join(OUT).display()
        ))
        .arg(command.get_program())
        .args(command.get_args())
        // As many threads as nginx has, so that it does not depend on the machine who wakes whom.
        .env("TOKIO_WORKER_THREADS", "1");
    wrapped
}

/// The counter of a server that was started so.
pub(crate) struct Counter {
    process: u32,
    out: PathBuf,
    counts: usize,
}

impl Counter {
    pub(crate) fn new(server: &Server, folder: &Path) -> Result<Self> {
        let process = server.processes().first().copied();
        Ok(Self {
            process: process.context("no process")?,
            out: folder.join(OUT),
            counts: 0,
        })
    }

    /// The instructions that something takes, if the server does nothing else.
    pub(crate) async fn count(&mut self, work: impl Future<Output = Result<()>>) -> Result<f64> {
        self.control("--instr=on")?;
        work.await?;
        self.control("--dump")?;
        self.control("--instr=off")?;
        self.counts += 1;
        let file = self.out.with_extension(format!("out.{}", self.counts));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
        Ok(total.context("no totals")?.trim().parse()?)
    }

    fn control(&self, what: &str) -> Result<()> {
        let output = Command::new("callgrind_control")
            .args([what, &self.process.to_string()])
            .output()
            .context("callgrind_control")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && text.contains("OK"),
            "callgrind_control {what}: {text}"
        );
        Ok(())
    }
}
