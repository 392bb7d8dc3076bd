//! The report as it is laid out for people, on a terminal or on a page: the same tables with the same
//! words.

use ipnet::IpNet;
use jiff::Timestamp;

use super::bounded::{SampleSet, Sum, Top};
use super::counts::Counts;
use super::credential_health::{Ending, State};
use super::gather::Repository;
use super::summary::Summary;
use super::time::Slice;

/// Slices of time that are shown.
const SLICES: usize = 120;

/// A part of the report.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) note: String,
    pub(super) body: Body,
}

pub(super) enum Body {
    Table(Table),
    /// The unit of a slice, and the slices.
    Timeline(&'static str, Vec<(Timestamp, Slice)>),
    Week,
}

/// Columns and rows; a row's weight is drawn as a bar.
pub(super) struct Table {
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    pub(super) weight: u64,
}

/// A cell of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// Text from outside.
    Text(String),
    /// Words of ours, networks and references: not to be broken.
    Word(String),
    Number(u64),
    Bytes(u64),
    Time(Option<Timestamp>),
}

impl Cell {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Word(text) => text.clone(),
            Self::Number(number) => grouped(*number),
            Self::Bytes(bytes) => size(*bytes),
            Self::Time(time) => moment(*time),
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Bytes(_))
    }
}

/// Attention that a finding needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Bad,
    Warn,
    Good,
}

/// The figures at the top, and their names.
pub(super) fn figures(report: &Summary) -> Vec<(String, &'static str)> {
    let found = &report.gathered;
    let Counts {
        denied,
        failed,
        limited,
        ..
    } = found.counts;
    let counted = |count: u64, one, many| (grouped(count), if count == 1 { one } else { many });
    vec![
        counted(found.records, "record", "records"),
        counted(found.logins, "login", "logins"),
        counted(found.traffic.pulls, "pull", "pulls"),
        counted(found.traffic.pushes, "push", "pushes"),
        counted(failed, "wrong credential", "wrong credentials"),
        counted(denied, "denial", "denials"),
        (grouped(limited), "over a limit"),
        (grouped(found.suppressed), "suppressed"),
        (size(found.traffic.bytes_in), "received"),
        (size(found.traffic.bytes_out), "sent"),
    ]
}

/// Findings, the worst first.
pub(super) fn findings(report: &Summary) -> Vec<(Mark, String)> {
    let (found, health) = (&report.gathered, &report.health);
    let mut out: Vec<_> = health
        .troubles
        .iter()
        .map(|trouble| (Mark::Bad, trouble.clone()))
        .collect();
    for one in health.certificates.iter().chain(&health.keys) {
        let what = format!("{} ({})", one.what, one.file.display());
        match one.state {
            State::Good => {}
            State::Soon => out.push((Mark::Warn, format!("{what} ends in {} days", one.days))),
            State::Over => out.push((Mark::Bad, format!("{what} has ended"))),
        }
    }
    let mut add = |count: u64, mark, one: &str, many: &str| {
        if count > 0 {
            let what = if count == 1 { one } else { many };
            out.push((mark, format!("{} {what}", grouped(count))));
        }
    };
    let (weak, unused) = (health.weak.len() as u64, health.unused.len() as u64);
    add(
        weak,
        Mark::Warn,
        "password with a weak hash",
        "passwords with a weak hash",
    );
    add(
        unused,
        Mark::Warn,
        "unused credential",
        "unused credentials",
    );
    add(
        found.lockouts,
        Mark::Warn,
        "lock-out after wrong passwords",
        "lock-outs after wrong passwords",
    );
    let skipped = &found.skipped;
    add(
        skipped.torn,
        Mark::Bad,
        "line torn or damaged",
        "lines torn or damaged",
    );
    add(
        skipped.foreign,
        Mark::Bad,
        "line that is no audit record",
        "lines that are no audit records",
    );
    add(
        skipped.too_long,
        Mark::Bad,
        "line too long to be a record",
        "lines too long to be records",
    );
    let failed_reloads = found.kinds.get(&("reload".to_owned(), "error"));
    add(
        failed_reloads.copied().unwrap_or_default(),
        Mark::Warn,
        "reload that was refused",
        "reloads that were refused",
    );
    if found.records == 0 {
        out.push((Mark::Warn, "there are no records in this period".to_owned()));
    } else if out.is_empty() {
        out.push((Mark::Good, "nothing that needs attention".to_owned()));
    }
    out.sort_by_key(|(mark, _)| match mark {
        Mark::Bad => 0,
        Mark::Warn => 1,
        Mark::Good => 2,
    });
    out
}

/// All parts, in their order.
pub(super) fn sections(report: &Summary) -> Vec<Section> {
    vec![
        timeline(report),
        week(),
        users(report),
        networks(report),
        logins(report),
        refusals(report),
        repositories(report),
        unused(report),
        endings(report),
        weak(report),
        kinds(report),
        skipped(report),
    ]
}

fn timeline(report: &Summary) -> Section {
    let (unit, slices) = report.gathered.timeline.whole(SLICES);
    Section {
        id: "time",
        title: "Traffic over time",
        note: format!("Requests by {unit}, in UTC"),
        body: Body::Timeline(unit, slices),
    }
}

fn week() -> Section {
    Section {
        id: "week",
        title: "Hours of the week",
        note: "Requests by day and hour, in UTC".to_owned(),
        body: Body::Week,
    }
}

fn users(report: &Summary) -> Section {
    let top = report.gathered.users.top(report.top);
    let row = |name: String, person: &super::gather::Person| Row {
        cells: vec![
            Cell::Text(name),
            Cell::Number(person.logins),
            Cell::Number(person.weight()),
            Cell::Number(person.traffic.pulls),
            Cell::Number(person.traffic.pushes),
            Cell::Number(person.traffic.deletes),
            Cell::Number(person.counts.denied),
            Cell::Bytes(person.traffic.bytes_in),
            Cell::Bytes(person.traffic.bytes_out),
            Cell::Word(few(&person.methods)),
            Cell::Word(few(&person.networks)),
            Cell::Time(person.last),
        ],
        weight: person.weight(),
    };
    let mut rows: Vec<_> = top
        .rows
        .iter()
        .map(|(user, person)| row(name(user.as_deref()), person))
        .collect();
    rows.extend(others(&top).map(|text| row(text, &top.rest)));
    table(
        "users",
        "Users",
        "Authenticated users, by requests; bytes count bodies",
        &[
            "user", "logins", "requests", "pulls", "pushes", "deletes", "denied", "in", "out",
            "by", "from", "last",
        ],
        rows,
    )
}

fn networks(report: &Summary) -> Section {
    let top = report.gathered.networks.top(report.top);
    let row = |name: String, network: &super::gather::Network| Row {
        cells: vec![
            Cell::Text(name),
            Cell::Number(network.logins),
            Cell::Number(network.weight()),
            Cell::Number(network.counts.failed),
            Cell::Number(network.counts.denied),
            Cell::Number(network.counts.limited),
            Cell::Bytes(network.bytes),
            Cell::Text(few(&network.users)),
            Cell::Time(network.last),
        ],
        weight: network.weight(),
    };
    let mut rows: Vec<_> = top
        .rows
        .iter()
        .map(|(network, sum)| row(network.to_string(), sum))
        .collect();
    rows.extend(others(&top).map(|text| row(text, &top.rest)));
    table(
        "networks",
        "Networks",
        "IPv4 /24 and IPv6 /64, by requests",
        &[
            "network", "logins", "requests", "failed", "denied", "limited", "bytes", "users",
            "last",
        ],
        rows,
    )
}

fn logins(report: &Summary) -> Section {
    let top = report.gathered.logins_from.top(report.top);
    let row = |user: String, network: String, sum: &super::gather::Logins| Row {
        cells: vec![
            Cell::Text(user),
            Cell::Word(network),
            Cell::Number(sum.count),
            Cell::Word(few(&sum.methods)),
            Cell::Time(sum.last),
        ],
        weight: sum.count,
    };
    let mut rows: Vec<_> = top
        .rows
        .iter()
        .map(|((user, network), sum)| row(user.clone(), place(*network), sum))
        .collect();
    rows.extend(others(&top).map(|text| row(text, String::new(), &top.rest)));
    table(
        "logins",
        "Logins",
        "Successful logins and requests for tokens",
        &["user", "network", "logins", "by", "last"],
        rows,
    )
}

fn refusals(report: &Summary) -> Section {
    let top = report.gathered.refusals.top(report.top);
    let mut rows: Vec<_> = top
        .rows
        .iter()
        .map(|(what, sum)| Row {
            cells: vec![
                Cell::Word(what.outcome.to_owned()),
                Cell::Text(name(what.user.as_deref())),
                Cell::Word(place(what.network)),
                Cell::Text(what.reason.clone()),
                Cell::Text(sum.repository.clone().unwrap_or_default()),
                Cell::Number(sum.count),
                Cell::Time(sum.last),
                Cell::Word(sum.reference.clone()),
            ],
            weight: sum.count,
        })
        .collect();
    let blank = || Cell::Text(String::new());
    rows.extend(others(&top).map(|text| Row {
        cells: vec![
            Cell::Text(text),
            blank(),
            blank(),
            blank(),
            blank(),
            Cell::Number(top.rest.count),
            Cell::Time(top.rest.last),
            blank(),
        ],
        weight: top.rest.count,
    }));
    table(
        "refusals",
        "Failures and denials",
        "Users here may be unverified claims; repository and reference are those of the last time",
        &[
            "outcome",
            "user",
            "network",
            "reason",
            "repository",
            "times",
            "last",
            "ref",
        ],
        rows,
    )
}

fn repositories(report: &Summary) -> Section {
    let top = report.gathered.repositories.top(report.top);
    let row = |name: String, sum: &Repository| Row {
        cells: vec![
            Cell::Text(name),
            Cell::Number(sum.traffic.pulls),
            Cell::Number(sum.traffic.pushes),
            Cell::Number(sum.traffic.deletes),
            Cell::Number(sum.requests),
            Cell::Number(sum.denied),
            Cell::Bytes(sum.traffic.bytes_in),
            Cell::Bytes(sum.traffic.bytes_out),
            Cell::Time(sum.last),
        ],
        weight: sum.traffic.pulls.saturating_add(sum.traffic.pushes),
    };
    let mut rows: Vec<_> = top
        .rows
        .iter()
        .map(|(repository, sum)| row((*repository).clone(), sum))
        .collect();
    rows.extend(others(&top).map(|text| row(text, &top.rest)));
    table(
        "repositories",
        "Repositories",
        "By pulls and pushes of images",
        &[
            "repository",
            "pulls",
            "pushes",
            "deletes",
            "requests",
            "denied",
            "in",
            "out",
            "last",
        ],
        rows,
    )
}

fn unused(report: &Summary) -> Section {
    let health = &report.health;
    let days = report.unused_days();
    let mut note = format!(
        "Not used in the last {days} days, of {} credentials ",
        grouped(health.credentials)
    );
    note.push_str(if health.configured {
        "of the configuration"
    } else {
        "seen in the trail; --config FILE adds those that were never used"
    });
    if !health.reaches_back {
        note.push_str(
            ". The trail does not reach back that far: before its beginning nothing is known",
        );
    }
    let shown = health.unused.iter().take(report.top).map(|one| Row {
        cells: vec![
            Cell::Text(one.name.clone()),
            Cell::Text(one.kind.to_owned()),
            Cell::Time(one.last),
        ],
        weight: 0,
    });
    let mut rows: Vec<_> = shown.collect();
    let more = health.unused.len().saturating_sub(report.top);
    if more > 0 {
        let text = format!("({more} others)");
        let cells = vec![
            Cell::Text(text),
            Cell::Text(String::new()),
            Cell::Time(None),
        ];
        rows.push(Row { cells, weight: 0 });
    }
    table(
        "unused",
        "Unused credentials",
        &note,
        &["user", "kind", "last use"],
        rows,
    )
}

fn endings(report: &Summary) -> Section {
    let health = &report.health;
    let row = |one: &Ending| Row {
        cells: vec![
            Cell::Text(one.what.clone()),
            Cell::Word(one.state.as_str().to_owned()),
            Cell::Word(one.days.to_string()),
            Cell::Time(Some(one.ends)),
            Cell::Text(one.file.display().to_string()),
        ],
        weight: 0,
    };
    let all = health.certificates.iter().chain(&health.keys);
    table(
        "endings",
        "Certificates and keys that end",
        configured(report, "Certificates and keys of the configuration"),
        &["what", "state", "days left", "ends", "file"],
        all.map(row).collect(),
    )
}

fn weak(report: &Summary) -> Section {
    let rows = report.health.weak.iter().take(report.top).map(|one| Row {
        cells: vec![
            Cell::Text(one.user.clone()),
            Cell::Text(one.cause.clone()),
            Cell::Time(one.last),
            Cell::Text(one.place.clone()),
            Cell::Text(one.remedy.clone()),
        ],
        weight: 0,
    });
    table(
        "weak",
        "Weak password hashes",
        configured(report, "Passwords that are stored with a weak hash"),
        &["user", "what", "last use", "line", "remedy"],
        rows.collect(),
    )
}

fn kinds(report: &Summary) -> Section {
    let rows = report
        .gathered
        .kinds
        .iter()
        .map(|((event, outcome), count)| Row {
            cells: vec![
                Cell::Text(event.clone()),
                Cell::Text((*outcome).to_owned()),
                Cell::Number(*count),
            ],
            weight: *count,
        });
    table(
        "kinds",
        "Records",
        &format!(
            "By event and outcome; {} were first requests without a credential, as every client \
             sends them, and count nowhere else",
            grouped(report.gathered.challenges)
        ),
        &["event", "outcome", "records"],
        rows.collect(),
    )
}

fn skipped(report: &Summary) -> Section {
    let (found, skipped) = (&report.gathered, &report.gathered.skipped);
    let count = |what: &str, count: u64| Row {
        cells: vec![Cell::Text(what.to_owned()), Cell::Number(count)],
        weight: 0,
    };
    let mut rows = vec![
        count("records counted", found.records),
        count("records outside of the period", found.outside),
        count("lines torn or damaged", skipped.torn),
        count("lines of JSON that are no records", skipped.foreign),
        count("lines too long to be records", skipped.too_long),
    ];
    rows.extend(skipped.places.iter().map(|place| count(place, 1)));
    let files: Vec<_> = found.files.iter().map(String::as_str).collect();
    table(
        "trail",
        "The trail itself",
        &format!(
            "Read from {}. Whether it is whole and unchanged is for `portcullis audit verify`",
            files.join(", ")
        ),
        &["what", "lines"],
        rows,
    )
}

fn configured<'a>(report: &Summary, note: &'a str) -> &'a str {
    if report.health.configured {
        note
    } else {
        "Not examined: --config FILE says where they are"
    }
}

fn table(
    id: &'static str,
    title: &'static str,
    note: &str,
    head: &[&'static str],
    rows: Vec<Row>,
) -> Section {
    Section {
        id,
        title,
        note: note.to_owned(),
        body: Body::Table(Table {
            head: head.to_vec(),
            rows,
        }),
    }
}

fn others<K, V>(top: &Top<'_, K, V>) -> Option<String> {
    (top.others > 0).then(|| format!("({} others)", grouped(top.others)))
}

fn name(user: Option<&str>) -> String {
    user.map_or_else(|| "(no user)".to_owned(), str::to_owned)
}

fn place(network: Option<IpNet>) -> String {
    network.map_or_else(String::new, |network| network.to_string())
}

fn few<T: Ord + ToString>(few: &SampleSet<T>) -> String {
    let some: Vec<_> = few.iter().take(4).map(ToString::to_string).collect();
    let more = few.has_more() || few.iter().count() > 4;
    some.join(", ") + if more { ", …" } else { "" }
}

/// A moment to the second.
pub(super) fn moment(time: Option<Timestamp>) -> String {
    time.map_or_else(
        || "never".to_owned(),
        |time| time.strftime("%F %T").to_string(),
    )
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len().saturating_sub(index);
        if index > 0 && left.is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that fits.
#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.into_iter().skip(1) {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::{grouped, size};

    #[test]
    fn numbers_are_readable() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
