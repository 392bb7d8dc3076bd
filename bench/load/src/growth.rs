//! Curves: a table with a row for each size, a sentence on what grows, and plots with a logarithmic
//! axis.

use std::fmt::Write as _;

use crate::cases::Axis;
use crate::outcome::Outcome;
use crate::peers::Peer;
use crate::plot::{COLUMNS, WIDTH, escape, wrap};
use crate::report::{label, show};

/// The part of a panel that has the lines in it, and where it begins.
const PLOT: (f64, f64) = (236.0, 130.0);
const INSET: (f64, f64) = (48.0, 52.0);
const HEIGHT: usize = 244;
/// The first line is ours; peers are grey, as in the other plot.
const COLOURS: [&str; 3] = ["#1f77b4", "#e6872a", "#3f9b57"];
const OTHER: &str = "#7b8794";

/// A case, and one of its figures.
type Panel<'a> = (&'a Outcome, &'static str);
/// A line: its name, its colour, its points.
type Line = (&'static str, &'static str, Vec<(usize, f64)>);

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Rules => "rules",
            Self::Users => "users",
            Self::Sources => "addresses",
        }
    }
}

fn axis(outcome: &Outcome) -> &'static str {
    let mut points = outcome.case.entries.iter().filter_map(|entry| entry.point);
    points.next().map_or("", |point| point.axis.name())
}

/// One curve: a row for each size, a column for each figure of each line.
pub(crate) fn table(outcome: &Outcome) -> String {
    let case = &outcome.case;
    let lines = outcome.lines();
    let mut text = format!(
        "\n### {}\n\n{}\n\n| {} |",
        case.title,
        case.note,
        axis(outcome)
    );
    let columns = || {
        let of = |metric: &'static str| lines.iter().map(move |line| (*line, metric));
        case.metrics.iter().flat_map(move |metric| of(metric))
    };
    for (line, metric) in columns() {
        write!(text, " {line}: {} |", label(metric)).ok();
    }
    text += "\n|--:|";
    text += &"--:|".repeat(columns().count());
    let mut sizes: Vec<_> = case
        .entries
        .iter()
        .filter_map(|entry| Some(entry.point?.size))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        write!(text, "\n| {} |", thousands(size)).ok();
        for (line, metric) in columns() {
            let along = outcome.along(line, metric);
            let value = along.iter().find(|point| point.0 == size);
            let value = value.map_or(String::new(), |point| show(metric, point.1));
            write!(text, " {value} |").ok();
        }
    }
    text += "\n\n";
    text += &sentence(outcome);
    for (at, entry) in case.entries.iter().enumerate() {
        if let Some(reason) = outcome.failure(at) {
            let reason = reason.replace(['\n', '|'], " ");
            write!(text, "\n**Failed**: {}: {reason}\n", entry.label).ok();
        }
    }
    text
}

/// How much the first figure grows, and whether that is a cliff.
fn sentence(outcome: &Outcome) -> String {
    let Some(metric) = outcome.case.metrics.first() else {
        return String::new();
    };
    let line = |line: &&'static str| {
        let along = outcome.along(line, metric);
        let (first, last) = (along.first()?, along.last()?);
        let steepest = outcome.steepest(line, metric)?;
        let verdict = if steepest > crate::cases::CLIFF {
            "; a cliff"
        } else {
            ""
        };
        Some(format!(
            "{line}: ×{:.2} from {} to {}, at most ×{steepest:.2} for ten times as many{verdict}",
            last.1 / first.1,
            thousands(first.0),
            thousands(last.0),
        ))
    };
    let lines: Vec<_> = outcome.lines().iter().filter_map(line).collect();
    format!("{}: {}.\n", label(metric), lines.join(". "))
}

/// An SVG of all curves, a panel for each figure of each.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let panels: Vec<Panel<'_>> = outcomes
        .iter()
        .filter(|outcome| !outcome.lines().is_empty())
        .flat_map(|outcome| outcome.case.metrics.iter().map(move |it| (outcome, *it)))
        .collect();
    let mut body = String::new();
    for (number, panel) in panels.iter().enumerate() {
        let (column, row) = (number % COLUMNS, number / COLUMNS);
        draw_panel(&mut body, *panel, 16 + column * WIDTH, 44 + row * HEIGHT);
    }
    let width = 16 + COLUMNS * WIDTH;
    let height = 44 + panels.len().div_ceil(COLUMNS) * HEIGHT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"17\" font-weight=\"bold\" fill=\"#1b2733\">As the work \
         grows: lower is better, but for answers per second</text>\n{body}</svg>\n"
    )
}

fn draw_panel(svg: &mut String, panel: Panel<'_>, left: usize, top: usize) {
    let (outcome, metric) = panel;
    let names = outcome.lines().into_iter().enumerate();
    let line = |(at, name): (usize, &'static str)| {
        let is_peer = name == Peer::Nginx.name();
        let colour = COLOURS.get(at).copied().filter(|_| !is_peer);
        let colour = colour.unwrap_or(OTHER);
        (name, colour, outcome.along(name, metric))
    };
    let lines: Vec<Line> = names.map(line).collect();
    let y = top + 12;
    for (at, part) in wrap(outcome.case.title, 50).iter().take(1).enumerate() {
        let (y, part) = (y + at * 14, escape(part));
        writeln!(
            svg,
            "<text x=\"{left}\" y=\"{y}\" font-weight=\"bold\" fill=\"#1b2733\">{part}</text>"
        )
        .ok();
    }
    let (y, unit) = (top + 28, escape(label(metric)));
    writeln!(
        svg,
        "<text x=\"{left}\" y=\"{y}\" font-size=\"11\" fill=\"#5b6b7b\">{unit}</text>"
    )
    .ok();
    let scale = Scale::new(&lines, left as f64, top as f64);
    scale.draw_axes(svg, axis(outcome));
    let mut names: Vec<(f64, &Line)> = Vec::new();
    for line in &lines {
        scale.draw_line(svg, line);
        if let Some(last) = line.2.last() {
            names.push((scale.y(last.1), line));
        }
    }
    draw_names(svg, names, left as f64 + INSET.0 + PLOT.0 + 8.0);
}

/// The lines' names behind their ends, none over another.
fn draw_names(svg: &mut String, mut names: Vec<(f64, &Line)>, x: f64) {
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut above = f64::INFINITY;
    for (y, (name, colour, _)) in names {
        let y = y.min(above - 13.0);
        above = y;
        let (y, name) = (y + 4.0, escape(name));
        writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"11\" fill=\"{colour}\">{name}</text>"
        )
        .ok();
    }
}

/// Where a size and a figure are drawn: sizes by their logarithm, figures from nothing on.
struct Scale {
    origin: (f64, f64),
    sizes: Vec<usize>,
    most: f64,
}

impl Scale {
    fn new(lines: &[Line], left: f64, top: f64) -> Self {
        let points = || lines.iter().flat_map(|line| &line.2);
        let mut sizes: Vec<_> = points().map(|point| point.0).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let most = points().map(|point| point.1).fold(1e-9, f64::max);
        Self {
            origin: (left + INSET.0, top + INSET.1 + PLOT.1 - 10.0),
            sizes,
            most: round_up(most),
        }
    }

    fn x(&self, size: usize) -> f64 {
        let (first, last) = (self.sizes.first(), self.sizes.last());
        let log = |size: Option<&usize>| size.map_or(0.0, |size| (*size as f64).log10());
        let width = (log(last) - log(first)).max(1.0);
        self.origin.0 + ((size as f64).log10() - log(first)) / width * PLOT.0
    }

    fn y(&self, value: f64) -> f64 {
        self.origin.1 - value.max(0.0) / self.most * PLOT.1
    }

    fn draw_axes(&self, svg: &mut String, name: &str) {
        let (left, right) = (self.origin.0, self.origin.0 + PLOT.0);
        for part in 0..=4 {
            let value = self.most * f64::from(part) / 4.0;
            let (y, text) = (self.y(value), tick(value));
            let (end, below) = (left - 6.0, y + 4.0);
            writeln!(
                svg,
                "<line x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
                 stroke=\"#e3e8ed\"/>\n<text x=\"{end:.1}\" y=\"{below:.1}\" font-size=\"10\" \
                 text-anchor=\"end\" fill=\"#5b6b7b\">{text}</text>"
            )
            .ok();
        }
        let below = self.origin.1 + 15.0;
        for &size in &self.sizes {
            let (x, text) = (self.x(size), thousands(size));
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{below:.1}\" font-size=\"10\" text-anchor=\"middle\" \
                 fill=\"#5b6b7b\">{text}</text>"
            )
            .ok();
        }
        let (x, y) = (left + PLOT.0 / 2.0, below + 14.0);
        writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"11\" text-anchor=\"middle\" \
             fill=\"#5b6b7b\">{name}</text>"
        )
        .ok();
    }

    fn draw_line(&self, svg: &mut String, (name, colour, points): &Line) {
        let places = points
            .iter()
            .map(|(size, value)| (self.x(*size), self.y(*value)));
        let path: Vec<_> = places
            .clone()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let width = if *name == "portcullis" { 2.5 } else { 1.5 };
        let path = path.join(" ");
        writeln!(
            svg,
            "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" \
             stroke-width=\"{width}\"/>"
        )
        .ok();
        for (x, y) in places {
            writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            )
            .ok();
        }
    }
}

/// The next number that can be read off a scale in four parts.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * power >= value);
    step.unwrap_or(10.0) * power
}

/// As few characters as the four parts of a scale need.
fn tick(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{:.1} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.0} k", value / 1e3),
        _ if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

/// `100000` as `100,000`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{round_up, thousands, tick};

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(1), "1");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(100_000), "100,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn a_scale_ends_at_a_round_number() {
        assert_eq!(tick(round_up(35.9)), "40");
        assert_eq!(tick(round_up(30.0)), "32");
        assert_eq!(tick(round_up(87_000.0)), "100 k");
        assert_eq!(tick(round_up(0.7)), "0.8");
    }
}
