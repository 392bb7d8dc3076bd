//! `portcullis demo`: a whole set-up to try, in a folder of its own.
//!
//! The first run makes everything; the next ones start what is there. After the first run the
//! configuration is the operator's: it alone says where to listen and which registry is behind.

mod folder;
mod lines;
mod probe;
mod registry;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueHint;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use self::folder::Setup;
use self::probe::Probe;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Start a proxy before a registry to try it, and print the lines to paste.
///
/// The first run makes a CA, a certificate for localhost, a user with a random password and a
/// commented configuration; later runs use them again.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// The registry to stand before; without it one found on PATH is started.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    upstream: Option<String>,
    /// Where everything is kept.
    // The last one counts: `scripts/demo --dir elsewhere` adds to the script's own.
    #[arg(long, default_value = "portcullis-demo", value_hint = ValueHint::DirPath)]
    #[arg(overrides_with = "dir")]
    dir: PathBuf,
    /// The port to listen on; by default 5443, or another if that is taken.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

impl Demo {
    /// Runs until a signal comes or one of the two ends.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let setup = Setup::prepare(&self.dir, self.upstream.as_deref(), self.port)?;
        let program = if setup.registry() {
            Some(registry::find()?)
        } else {
            None
        };
        setup.make()?;
        setup.expect_free_port()?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(play(&setup, program.as_deref()))
    }
}

async fn play(setup: &Setup, program: Option<&Path>) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut children = Children {
        registry: match program {
            Some(program) => Some(registry::start(program, setup)?),
            None => None,
        },
        proxy: serve(setup)?,
    };
    let probe = Probe::new(setup)?;
    let answered = tokio::select! {
        answered = tokio::time::timeout(START_TIMEOUT, probe.until_answered()) => answered,
        () = signals.next() => return children.stop(&mut signals).await,
        ended = children.ended() => bail!("{}", ended?.explain(setup)),
    };
    let Ok(answer) = answered else {
        bail!(
            "no answer from https://localhost:{} within {} s; the log is above",
            setup.port,
            START_TIMEOUT.as_secs()
        );
    };
    let mut out = std::io::stdout();
    lines::print(setup, answer, program, children.proxy.id(), &mut out)?;
    out.flush()?;
    tokio::select! {
        () = signals.next() => children.stop(&mut signals).await,
        ended = children.ended() => bail!("{}", ended?.explain(setup)),
    }
}

fn serve(setup: &Setup) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Command::new(program)
        .arg("serve")
        .arg("--config")
        .arg(setup.config())
        // Ctrl-C goes to the whole group of a terminal, and the registry is to outlive the proxy.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the proxy")
}

/// Dropped on an error, they are killed.
struct Children {
    registry: Option<Child>,
    proxy: Child,
}

/// A child that ended unasked.
enum Ended {
    Proxy(ExitStatus),
    Registry(ExitStatus),
}

impl Ended {
    fn explain(&self, setup: &Setup) -> String {
        match self {
            Self::Proxy(status) => format!("the proxy has ended ({status}); its log is above"),
            Self::Registry(status) => format!(
                "the registry has ended ({status}); its log is {}",
                setup.path("registry.log").display()
            ),
        }
    }
}

impl Children {
    /// Waits for the first to end.
    async fn ended(&mut self) -> Result<Ended> {
        match &mut self.registry {
            Some(registry) => tokio::select! {
                status = self.proxy.wait() => Ok(Ended::Proxy(status?)),
                status = registry.wait() => Ok(Ended::Registry(status?)),
            },
            None => Ok(Ended::Proxy(self.proxy.wait().await?)),
        }
    }

    /// Lets the proxy finish its requests, then stops the registry; a second signal kills both.
    async fn stop(mut self, signals: &mut Signals) -> Result<ExitCode> {
        for child in [Some(&mut self.proxy), self.registry.as_mut()] {
            let Some(child) = child else { continue };
            terminate(child)?;
            tokio::select! {
                status = child.wait() => drop(status?),
                () = signals.next() => child.kill().await?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn terminate(child: &Child) -> Result<()> {
    // Without an id it has ended and been waited for.
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    match id.and_then(Pid::from_raw) {
        Some(pid) => kill_process(pid, Signal::TERM).context("cannot stop a child"),
        None => Ok(()),
    }
}

/// Signals that end the demo: Ctrl-C, SIGTERM, and SIGHUP because a closing terminal sends it.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
