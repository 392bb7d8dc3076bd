//! The results for people: a page of tables, and the raw figures.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::cases::{Limit, Values};
use crate::growth;
use crate::outcome::Outcome;

/// Every figure: its key, what it is called, and its decimals.
const METRICS: &[(&str, &str, usize)] = &[
    ("cpu_us", "CPU µs each", 1),
    ("cpu_s_gib", "CPU s/GiB", 3),
    ("instructions_k", "thousand instructions each", 0),
    ("instructions_g_gib", "10⁹ instructions/GiB", 2),
    ("per_second", "per second", 0),
    ("gib_s", "GiB/s", 2),
    ("peak_mib", "peak MiB", 1),
    ("p50_us", "p50 µs", 0),
    ("p99_us", "p99 µs", 0),
    ("added_p50_us", "added p50 µs", 0),
    ("added_p99_us", "added p99 µs", 0),
    ("resumed_percent", "resumed %", 0),
    ("fresh_mib", "fresh MiB", 1),
    ("idle_kib", "KiB per idle connection", 1),
    ("slow_mib", "MiB with 40 slow readers", 1),
    ("fresh_rss_mib", "fresh RSS", 1),
    ("slow_rss_mib", "slow RSS", 1),
    ("memory_mib", "memory MiB", 1),
    ("start_ms", "start ms", 1),
    ("cut", "connections cut", 0),
    ("of_bound", "of bcrypt", 2),
    ("busy_p50_us", "p50 µs under guesses", 0),
    ("busy_p99_us", "p99 µs under guesses", 0),
    ("guesses_per_second", "guesses per second", 0),
    ("reload_ms", "reload ms", 1),
    ("stall_ms", "slowest answer ms", 2),
    ("quiet_stall_ms", "slowest without a reload ms", 2),
    ("sources", "sources", 0),
    ("source_bytes", "bytes per source", 0),
];

pub(crate) fn label(metric: &str) -> &str {
    METRICS
        .iter()
        .find(|(key, ..)| *key == metric)
        .map_or(metric, |(_, label, _)| label)
}

/// A figure with as many decimals as its kind deserves.
pub(crate) fn show(metric: &str, value: f64) -> String {
    let decimals = METRICS
        .iter()
        .find(|(key, ..)| *key == metric)
        .map_or(2, |it| it.2);
    format!("{value:.decimals$}")
}

/// What was measured with.
pub(crate) struct Conditions {
    pub(crate) facts: Vec<(&'static str, String)>,
    pub(crate) remarks: Vec<String>,
}

impl Conditions {
    pub(crate) fn gather(portcullis: &std::path::Path, remarks: Vec<String>) -> Self {
        let mut command: Vec<_> = std::env::args().skip(1).collect();
        // Where the program lies is of no interest elsewhere.
        if let Some(at) = command.iter().position(|word| word == "--portcullis") {
            command.drain(at..command.len().min(at + 2));
        }
        let facts = vec![
            (
                "date",
                jiff::Timestamp::now()
                    .strftime("%Y-%m-%d %H:%M UTC")
                    .to_string(),
            ),
            (
                "command",
                format!("bench/run {}", command.join(" ")).trim().to_owned(),
            ),
            ("processor", processor()),
            (
                "memory",
                first_line("/proc/meminfo")
                    .replace("MemTotal:", "")
                    .trim()
                    .to_owned(),
            ),
            ("kernel", first_line("/proc/sys/kernel/osrelease")),
            ("load before", first_line("/proc/loadavg")),
            (
                "portcullis",
                version(&portcullis.display().to_string(), &["--version"]),
            ),
            ("nginx", version("/usr/sbin/nginx", &["-v"])),
            ("haproxy", version("/usr/sbin/haproxy", &["-v"])),
            ("apache", version("/usr/sbin/apache2", &["-v"])),
            ("caddy", version("caddy", &["version"])),
            ("registry", version("docker-registry", &["--version"])),
            ("slapd", version("/usr/sbin/slapd", &["-V"])),
            ("openssl", version("openssl", &["version"])),
        ];
        Self { facts, remarks }
    }
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, model)| model);
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} × {model}")
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn version(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return "not installed".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains(|c: char| c.is_ascii_digit()));
    line.unwrap_or_default().trim().to_owned()
}

/// The whole page.
pub(crate) fn page(conditions: &Conditions, outcomes: &[Outcome]) -> String {
    let mut text = "# Results of the load bench\n\n\
        Portcullis has everything on: TLS, passwords or tokens, rules, limits, audit. nginx is tuned \
        and checks passwords for nothing; `bench/load/peers/` has every configuration. All have the \
        same ECDSA P-256 certificate, TLS 1.3, X25519 and AES-128-GCM. CPU is that of the proxy's \
        processes alone. Peers take turns; a ratio is the median of the ratios within one repeat, \
        other figures are medians, with the lowest in brackets. Every answer is checked, and a run \
        with a wrong one counts as failed. `make bench` writes this page.\n\n"
        .to_owned();
    for (name, value) in &conditions.facts {
        writeln!(text, "- {name}: {value}").ok();
    }
    for remark in &conditions.remarks {
        writeln!(text, "- {remark}").ok();
    }
    text += "\n![Portcullis and its peers](results.svg)\n\n";
    text += &goals(outcomes);
    text += "\n";
    text += include_str!("../../BOUNDS.md");
    let (curves, others): (Vec<_>, Vec<_>) = outcomes
        .iter()
        .partition(|outcome| !outcome.lines().is_empty());
    text += "\n## Figures\n";
    for outcome in others {
        text += &table(outcome);
    }
    if !curves.is_empty() {
        text += "\n## As the work grows\n\n![CPU and more, by size](growth.svg)\n";
        for outcome in curves {
            text += &table(outcome);
        }
    }
    text
}

/// The targets, and which of them are met.
pub(crate) fn goals(outcomes: &[Outcome]) -> String {
    let mut text =
        "## Targets\n\n| case | figure | target | measured | |\n|---|---|---|---|---|\n".to_owned();
    for outcome in outcomes {
        for goal in &outcome.case.goals {
            let verdict = outcome.verdict(goal);
            let (target, value) = match goal.limit {
                Limit::Ratio(limit) => (
                    format!("≤ {limit:.2} of {}", outcome.case.reference),
                    verdict.value.map(|value| format!("{value:.2}")),
                ),
                Limit::AtMost(limit) => (
                    format!("≤ {limit}"),
                    verdict.value.map(|value| show(goal.metric, value)),
                ),
                Limit::PerDecade(limit) => (
                    format!("≤ ×{limit:.2} for ten times as many"),
                    verdict.value.map(|value| format!("×{value:.2} at most")),
                ),
            };
            let (title, figure) = (outcome.case.title, label(goal.metric));
            let value = value.unwrap_or_else(|| "not measured".to_owned());
            let word = if verdict.is_met { "met" } else { "**missed**" };
            writeln!(text, "| {title} | {figure} | {target} | {value} | {word} |").ok();
        }
    }
    text
}

/// One case.
pub(crate) fn table(outcome: &Outcome) -> String {
    if !outcome.lines().is_empty() {
        return growth::table(outcome);
    }
    let case = &outcome.case;
    let has = |metric: &&&str| {
        (0..case.entries.len()).any(|entry| outcome.figure(entry, metric).is_some())
    };
    let metrics: Vec<_> = case.metrics.iter().filter(has).collect();
    let with_ratio = outcome.position(case.reference).is_some() && case.entries.len() > 1;
    let mut text = format!("\n### {}\n\n", case.title);
    if !case.note.is_empty() {
        text += case.note;
        text += "\n\n";
    }
    text += "| |";
    for metric in &metrics {
        write!(text, " {} |", label(metric)).ok();
    }
    if with_ratio {
        write!(text, " ratio to {} |", case.reference).ok();
    }
    text += "\n|---|";
    text += &"--:|".repeat(metrics.len() + usize::from(with_ratio));
    for (entry, it) in case.entries.iter().enumerate() {
        write!(text, "\n| {} |", it.label).ok();
        if let Some(reason) = outcome.failure(entry) {
            let reason = reason.replace(['\n', '|'], " ");
            write!(text, " **failed**: {reason} |").ok();
            text += &" |".repeat((metrics.len() + usize::from(with_ratio)).saturating_sub(1));
            continue;
        }
        for metric in &metrics {
            match outcome.figure(entry, metric) {
                Some(it) => {
                    let (median, lowest) = (show(metric, it.median), show(metric, it.lowest));
                    write!(text, " {median} ({lowest}) |").ok()
                }
                None => write!(text, " |").ok(),
            };
        }
        if with_ratio {
            let ratio = metrics
                .first()
                .and_then(|metric| outcome.ratio(entry, metric));
            write!(
                text,
                " {} |",
                ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
            )
            .ok();
        }
    }
    text.push('\n');
    text
}

/// Every figure of every repeat.
pub(crate) fn raw(conditions: &Conditions, outcomes: &[Outcome]) -> Value {
    let result = |result: &Result<Values, String>| match result {
        Ok(values) => json!(values),
        Err(error) => json!({ "error": error }),
    };
    let case = |outcome: &Outcome| {
        let entries = outcome.case.entries.iter().enumerate().map(|(at, entry)| {
            let of = |repeat: &Vec<_>| repeat.get(at).map(result);
            (
                entry.label.clone(),
                outcome.repeats.iter().map(of).collect(),
            )
        });
        let entries: serde_json::Map<String, Value> = entries.collect();
        (outcome.case.id.to_owned(), Value::Object(entries))
    };
    let facts: serde_json::Map<String, Value> = conditions
        .facts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let cases: serde_json::Map<String, Value> = outcomes.iter().map(case).collect();
    json!({ "conditions": facts, "cases": cases })
}
