//! The load bench: the same work for Portcullis and each of its peers, in turns, every answer checked.
//!
//! This process is the load generator; the proxies, the stub of a registry (this program again), the
//! real registry and the directory are children. `cases` says what is done, `lab` what stands around
//! the proxies, `peers` how each of them runs, `client`, `fleet` and `paced` how requests are made,
//! `outcome`, `report`, `plot` and `growth` what becomes of the figures. `instructions` is a program of
//! its own: the guard against regressions.

mod callgrind;
mod cases;
mod client;
mod content;
mod fleet;
mod growth;
mod instructions;
mod lab;
mod outcome;
mod paced;
mod peers;
mod plot;
mod process;
mod report;
mod stub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cases::{Arena, Bench, Case, Entry, Values};
use crate::lab::Lab;
use crate::outcome::Outcome;
use crate::peers::{Peer, Running, Setup, Upstream};
use crate::process::Instructions;
use crate::report::Conditions;

/// Measures Portcullis and its peers.
#[derive(clap::Parser)]
struct Arguments {
    /// Cases or groups of them; all that begin so. Default: all.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Proxies besides Portcullis. Default: all that are installed.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// How long each closed loop runs.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Addresses of the case `sources`.
    #[arg(long, default_value_t = 100_000)]
    sources: usize,
    /// The program that is measured.
    #[arg(long, default_value = "target/release/portcullis")]
    portcullis: PathBuf,
    /// Where RESULTS.md and the plots go. Default: bench/ for a run of everything, else
    /// target/bench/.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Lists the cases.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    raise_limits();
    match arguments.next().as_deref() {
        Some(stub::COMMAND) => {
            let address = arguments.next().context("no address")?.parse()?;
            runtime.block_on(stub::serve(address))?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(instructions::COMMAND) => return runtime.block_on(instructions::run()),
        _ => {}
    }
    let arguments = Arguments::parse();
    if arguments.list {
        for case in cases::all() {
            println!("{:10} {:22} {}", case.group, case.id, case.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    runtime.block_on(run(arguments))
}

/// As many open files as the system allows: a thousand connections have two ends here.
fn raise_limits() {
    let all = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: all,
            maximum: all,
        },
    )
    .ok();
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let begun = Instant::now();
    let portcullis = arguments.portcullis.canonicalize();
    let portcullis = portcullis.with_context(|| arguments.portcullis.display().to_string())?;
    let chosen = choose(&arguments)?;
    let is_everything = arguments.cases.is_empty() && arguments.peers.is_empty();
    let mut remarks = Vec::new();
    let has_instructions = match Instructions::available() {
        Ok(()) => true,
        Err(reason) => {
            remarks.push(format!("instructions are not counted: {reason}"));
            false
        }
    };
    let conditions = Conditions::gather(&portcullis, remarks);
    for (name, value) in &conditions.facts {
        eprintln!("{name:12} {value}");
    }
    conditions
        .remarks
        .iter()
        .for_each(|remark| eprintln!("{remark}"));
    let mut lab = Lab::start(portcullis)?;
    lab.start_registry().await?;
    let bench = Bench {
        lab,
        time: Duration::from_secs_f64(arguments.seconds),
        has_instructions,
        sources: arguments.sources,
    };
    let mut servers = Servers::default();
    let mut outcomes = Vec::new();
    for case in chosen {
        servers.keep_group(case.group);
        eprintln!("\n{} ({:.0} s)", case.title, begun.elapsed().as_secs_f64());
        let outcome = run_case(&bench, case, arguments.repeats, &mut servers).await;
        eprintln!("{}", report::table(&outcome));
        outcomes.push(outcome);
    }
    drop(servers);
    write_results(&arguments, is_everything, &conditions, &outcomes)?;
    println!("{}", report::goals(&outcomes));
    eprintln!("{:.0} s in all", begun.elapsed().as_secs_f64());
    let failed =
        |outcome: &Outcome| (0..outcome.case.entries.len()).any(|at| outcome.failure(at).is_some());
    Ok(ExitCode::from(u8::from(outcomes.iter().any(failed))))
}

/// The cases asked for, with the entries that can be run here.
fn choose(arguments: &Arguments) -> Result<Vec<Case>> {
    let is_asked = |case: &Case| {
        let begins = |name: &String| case.id.starts_with(name.as_str()) || case.group == name;
        arguments.cases.is_empty() || arguments.cases.iter().any(begins)
    };
    let mut cases: Vec<_> = cases::all().into_iter().filter(is_asked).collect();
    ensure!(!cases.is_empty(), "no such case; --list names them");
    for case in &mut cases {
        case.entries.retain(|entry| match entry.peer {
            Peer::Portcullis | Peer::Bare => true,
            Peer::Nginx | Peer::Haproxy | Peer::Apache | Peer::Caddy => {
                arguments.peers.is_empty() || arguments.peers.contains(&entry.peer)
            }
        });
    }
    Ok(cases)
}

/// The servers of a group of cases, started when first needed.
#[derive(Default)]
struct Servers {
    group: &'static str,
    running: Vec<(Peer, Setup, Running)>,
}

impl Servers {
    /// Ends those of other groups.
    fn keep_group(&mut self, group: &'static str) {
        if self.group != group {
            self.running.clear();
            self.group = group;
        }
    }

    fn position(&mut self, lab: &Lab, entry: &Entry) -> Result<usize> {
        let is_same = |(peer, setup, _): &(Peer, Setup, Running)| {
            *peer == entry.peer && *setup == entry.setup
        };
        if let Some(at) = self.running.iter().position(is_same) {
            return Ok(at);
        }
        if entry.setup.upstream == Upstream::Registry && !lab.has_registry() {
            bail!("docker-registry is not installed");
        }
        if entry.setup.traits.contains(&"ldap") {
            lab.start_directory()?;
        }
        let running = Running::start(lab, entry.peer, &entry.setup)?;
        self.running
            .push((entry.peer, entry.setup.clone(), running));
        Ok(self.running.len() - 1)
    }
}

async fn run_case(bench: &Bench, case: Case, repeats: usize, servers: &mut Servers) -> Outcome {
    let repeats = repeats.min(case.most_repeats);
    let mut outcome = Outcome {
        case,
        repeats: Vec::new(),
    };
    for _ in 0..repeats {
        let mut results = Vec::new();
        for entry in &outcome.case.entries {
            let result = run_entry(bench, &outcome.case, entry, servers).await;
            if let Err(error) = &result {
                eprintln!("  {}: {error:#}", entry.label);
            }
            results.push(result.map_err(|error| format!("{error:#}")));
        }
        outcome.add(results);
    }
    outcome
}

async fn run_entry(
    bench: &Bench,
    case: &Case,
    entry: &Entry,
    servers: &mut Servers,
) -> Result<Values> {
    if case.work.starts_server() {
        let arena = Arena {
            bench,
            entry,
            running: None,
        };
        return case.work.run(&arena).await;
    }
    let at = servers.position(&bench.lab, entry)?;
    let running = servers.running.get(at).map(|(_, _, running)| running);
    let arena = Arena {
        bench,
        entry,
        running,
    };
    case.work.run(&arena).await
}

fn write_results(
    arguments: &Arguments,
    is_everything: bool,
    conditions: &Conditions,
    outcomes: &[Outcome],
) -> Result<()> {
    let raw = Path::new("target/bench");
    fs::create_dir_all(raw)?;
    let usual = if is_everything {
        Path::new("bench")
    } else {
        raw
    };
    let folder = arguments.out.as_deref().unwrap_or(usual);
    fs::create_dir_all(folder)?;
    fs::write(
        folder.join("RESULTS.md"),
        report::page(conditions, outcomes),
    )?;
    fs::write(folder.join("results.svg"), plot::svg(outcomes))?;
    fs::write(folder.join("growth.svg"), growth::svg(outcomes))?;
    let text = serde_json::to_string_pretty(&report::raw(conditions, outcomes))?;
    fs::write(raw.join("load.json"), text)?;
    eprintln!(
        "written: {}/RESULTS.md, results.svg, growth.svg; target/bench/load.json",
        folder.display()
    );
    Ok(())
}
