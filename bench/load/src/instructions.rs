//! The guard against regressions: instructions a unit of work, beside those that were kept. Seconds
//! of a processor vary by a quarter from run to run; these hardly do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::callgrind::Counter;
use crate::client::{Call, Http, basic};
use crate::content::SHORT_BLOB;
use crate::fleet::{Fleet, Supply};
use crate::lab::{Lab, PASSWORD, USER};
use crate::peers::{COUNTED, Peer, Running, Setup, Upstream};

/// The argument with which this program counts instructions.
pub(crate) const COMMAND: &str = "instructions";

/// So much more than what was kept is a regression.
const TOLERANCE: f64 = 0.05;
/// Requests at a time, and how often each kind of work is done while it is counted.
const WIDTH: usize = 32;
const MANIFESTS: usize = 2_000;
const CONNECTIONS: usize = 60;
const BLOBS: usize = 8;

const MIB: f64 = 1_048_576.0;

/// Counts instructions per unit of work, and fails where there are more than were kept.
#[derive(clap::Parser)]
#[command(name = COMMAND)]
struct Arguments {
    /// The program that is measured.
    #[arg(long, default_value = "target/release/portcullis")]
    portcullis: PathBuf,
    /// The counts that were kept.
    #[arg(long, default_value = "bench/instructions.txt")]
    kept: PathBuf,
    /// Keeps these counts instead of comparing with those kept before.
    #[arg(long)]
    keep: bool,
}

/// A unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Manifest,
    Connection,
    Mebibyte,
}

impl Unit {
    const ALL: [Self; 3] = [Self::Manifest, Self::Connection, Self::Mebibyte];

    fn key(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Connection => "connection",
            Self::Mebibyte => "mebibyte",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Manifest => "manifest GET, Basic, HTTP/1.1 kept alive",
            Self::Connection => "new TLS connection with a manifest GET",
            Self::Mebibyte => "MiB of a blob GET",
        }
    }
}

/// Counts by peer and unit.
type Counts = BTreeMap<(Peer, Unit), f64>;

pub(crate) async fn run() -> Result<ExitCode> {
    let arguments = Arguments::parse_from(std::env::args().skip(1));
    let portcullis = arguments.portcullis.canonicalize();
    let portcullis = portcullis.with_context(|| arguments.portcullis.display().to_string())?;
    let lab = Lab::start(portcullis)?;
    let mut counts = Counts::new();
    for peer in [Peer::Portcullis, Peer::Nginx] {
        eprintln!("{peer} under callgrind");
        for (unit, count) in Box::pin(count(&lab, peer)).await? {
            counts.insert((peer, unit), count);
        }
    }
    if arguments.keep {
        fs::write(&arguments.kept, written(&counts))?;
        println!("{}", table(&counts, &counts));
        println!("kept in {}", arguments.kept.display());
        return Ok(ExitCode::SUCCESS);
    }
    let kept = fs::read_to_string(&arguments.kept);
    let kept = kept.with_context(|| {
        let path = arguments.kept.display();
        format!("{path} cannot be read; `bench/instructions --keep` writes it")
    })?;
    let kept = read(&kept)?;
    println!("{}", table(&counts, &kept));
    let grown: Vec<_> = Unit::ALL
        .into_iter()
        .filter(|unit| has_grown(*unit, &counts, &kept))
        .collect();
    for unit in &grown {
        println!(
            "REGRESSION: {} takes over {:.0} % more instructions than was kept",
            unit.title(),
            TOLERANCE * 100.0
        );
    }
    Ok(ExitCode::from(u8::from(!grown.is_empty())))
}

/// What each unit takes a peer.
async fn count(lab: &Lab, peer: Peer) -> Result<Vec<(Unit, f64)>> {
    let setup = Setup {
        upstream: Upstream::Stub,
        traits: &["basic", COUNTED],
        rules: 0,
        users: None,
    };
    let running = Running::start(lab, peer, &setup)?;
    let server = running.server.as_ref().context("no server")?;
    let mut counter = Counter::new(server, &running.folder)?;
    let authorization = basic(USER, PASSWORD);
    let manifest = Call::manifest(&lab.content).with(authorization.clone());
    let blob = Call::short_blob(&lab.content).with(authorization);
    let dial = running.route.dial(Http::One);
    let mut fleet = Fleet::open(&dial, Http::One, WIDTH).await?;
    // Once without being counted: what happens only the first time.
    ask(&mut fleet, &manifest, WIDTH * 5).await?;
    dial.connect().await?.ask(&blob).await?;

    let manifests = counter.count(ask(&mut fleet, &manifest, MANIFESTS)).await?;
    let connections = counter.count(async {
        for _ in 0..CONNECTIONS {
            dial.connect().await?.ask(&manifest).await?;
        }
        Ok(())
    });
    let connections = connections.await?;
    // It is by chance of each connection that its pieces and buffers take a twentieth more.
    let mut least = f64::INFINITY;
    for _ in 0..BLOBS {
        let mut connection = dial.connect().await?;
        connection.ask(&manifest).await?;
        let blob = counter.count(async { connection.ask(&blob).await.map(drop) });
        least = least.min(blob.await?);
    }
    Ok(vec![
        (Unit::Manifest, manifests / MANIFESTS as f64),
        (Unit::Connection, connections / CONNECTIONS as f64),
        (Unit::Mebibyte, least / (SHORT_BLOB as f64 / MIB)),
    ])
}

/// The same call so many times.
async fn ask(fleet: &mut Fleet, call: &Call, times: usize) -> Result<()> {
    let (asked, call) = (AtomicUsize::new(0), call.clone());
    let supply: Arc<dyn Supply> =
        Arc::new(move || (asked.fetch_add(1, Ordering::Relaxed) < times).then(|| call.clone()));
    fleet.run(Duration::from_mins(5), &supply).await.map(|_| ())
}

fn has_grown(unit: Unit, counts: &Counts, kept: &Counts) -> bool {
    let ours = (Peer::Portcullis, unit);
    match (counts.get(&ours), kept.get(&ours)) {
        (Some(now), Some(before)) => *now > before * (1.0 + TOLERANCE),
        // What nobody kept cannot have grown.
        (_, None) | (None, _) => false,
    }
}

fn table(counts: &Counts, kept: &Counts) -> String {
    let mut text = format!(
        "{:42}{:>12}{:>12}{:>9}{:>12}{:>8}\n",
        "user instructions", "portcullis", "kept", "change", "nginx", "ratio"
    );
    for unit in Unit::ALL {
        let of = |counts: &Counts, peer| counts.get(&(peer, unit)).copied().unwrap_or(f64::NAN);
        let (ours, theirs) = (of(counts, Peer::Portcullis), of(counts, Peer::Nginx));
        let before = of(kept, Peer::Portcullis);
        let change = (ours / before - 1.0) * 100.0;
        writeln!(
            text,
            "{:42}{ours:>12.0}{before:>12.0}{change:>+8.1}%{theirs:>12.0}{:>8.2}",
            unit.title(),
            ours / theirs
        )
        .ok();
    }
    text
}

/// The file of what was kept: a line for each count.
fn written(counts: &Counts) -> String {
    let valgrind = first_line("valgrind", "--version");
    let nginx = first_line("/usr/sbin/nginx", "-v");
    let mut text = format!(
        "# User instructions for each unit of work, counted by callgrind, which `make instructions`\n\
         # compares with. `bench/instructions --keep` writes this file.\n\
         # {valgrind}; {nginx}\n"
    );
    for ((peer, unit), count) in counts {
        writeln!(text, "{:10} {:10} {count:>9.0}", peer.name(), unit.key()).ok();
    }
    text
}

fn read(text: &str) -> Result<Counts> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let count = |line: &str| {
        let [peer, unit, count] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let peer = Peer::ALL.into_iter().find(|it| it.name() == peer)?;
        let unit = Unit::ALL.into_iter().find(|it| it.key() == unit)?;
        Some(((peer, unit), count.parse().ok()?))
    };
    lines
        .map(|line| count(line).with_context(|| format!("not a count: {line}")))
        .collect()
}

fn first_line(program: &str, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).output() else {
        return format!("no {program}");
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Counts, Unit, has_grown, read, written};
    use crate::peers::Peer;

    fn counts(manifest: f64) -> Counts {
        Counts::from([
            ((Peer::Portcullis, Unit::Manifest), manifest),
            ((Peer::Nginx, Unit::Mebibyte), 9.0),
        ])
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let kept = read(&written(&counts(141_000.0))).unwrap();
        assert_eq!(kept, counts(141_000.0));
        assert!(read("portcullis manifest").is_err());
        assert!(read("portcullis tea 1").is_err());
    }

    #[test]
    fn a_twentieth_more_is_a_regression() {
        let kept = counts(100.0);
        assert!(!has_grown(Unit::Manifest, &counts(104.9), &kept));
        assert!(has_grown(Unit::Manifest, &counts(105.1), &kept));
        assert!(!has_grown(Unit::Manifest, &counts(50.0), &kept));
        assert!(!has_grown(Unit::Connection, &counts(1.0), &kept));
    }
}
