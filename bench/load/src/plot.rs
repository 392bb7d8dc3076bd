//! The plot: one panel a case, a bar for each peer.

use std::fmt::Write as _;

use crate::cases::{Entry, Limit};
use crate::outcome::Outcome;
use crate::report::{label, show};

pub(crate) const COLUMNS: usize = 3;
pub(crate) const WIDTH: usize = 380;
const ROW: usize = 22;
const HEAD: usize = 52;
/// Where bars begin, and how long the longest is.
const LEFT: usize = 88;
const LONGEST: f64 = 190.0;

/// A case, and one of its figures.
type Panel<'a> = (&'a Outcome, &'static str);

/// An SVG of all cases in which several are compared: of each the first figure, and those with goals.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let panels: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.lines().is_empty())
        .flat_map(panels)
        .filter(|panel| bars(*panel).len() > 1)
        .collect();
    let mut body = String::new();
    let mut top = 44;
    for row in panels.chunks(COLUMNS) {
        let tallest = row.iter().map(|panel| bars(*panel).len()).max();
        for (column, panel) in row.iter().enumerate() {
            draw_panel(&mut body, *panel, 16 + column * WIDTH, top);
        }
        top += HEAD + tallest.unwrap_or(0) * ROW + 14;
    }
    let width = 16 + COLUMNS * WIDTH;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {top}\" width=\"{width}\" \
         height=\"{top}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"17\" font-weight=\"bold\" fill=\"#1b2733\">Portcullis \
         and its peers: shorter is better; the dashed line is the target</text>\n{body}</svg>\n"
    )
}

fn panels(outcome: &Outcome) -> impl Iterator<Item = Panel<'_>> {
    let case = &outcome.case;
    let has_goal = |metric: &str| case.goals.iter().any(|goal| goal.metric == metric);
    let is_shown = move |(at, metric): &(usize, &&str)| *at == 0 || has_goal(metric);
    let metrics = case.metrics.iter().enumerate().filter(is_shown);
    metrics.map(move |(_, metric)| (outcome, *metric))
}

struct Bar<'a> {
    label: &'a str,
    value: f64,
    ratio: Option<f64>,
}

fn bars<'a>((outcome, metric): Panel<'a>) -> Vec<Bar<'a>> {
    let bar = |(at, entry): (usize, &'a Entry)| {
        let value = outcome.figure(at, metric)?.median;
        Some(Bar {
            label: &entry.label,
            value,
            ratio: outcome.ratio(at, metric),
        })
    };
    outcome
        .case
        .entries
        .iter()
        .enumerate()
        .filter_map(bar)
        .collect()
}

fn draw_panel(svg: &mut String, panel: Panel<'_>, left: usize, top: usize) {
    let (outcome, metric) = panel;
    let bars = bars(panel);
    let most = bars
        .iter()
        .map(|bar| bar.value)
        .fold(0.0, f64::max)
        .max(1e-9);
    for (line, part) in wrap(outcome.case.title, 50).iter().take(2).enumerate() {
        let y = top + 12 + line * 14;
        let part = escape(part);
        writeln!(
            svg,
            "<text x=\"{left}\" y=\"{y}\" font-weight=\"bold\" fill=\"#1b2733\">{part}</text>"
        )
        .ok();
    }
    let y = top + 41;
    let unit = escape(label(metric));
    writeln!(
        svg,
        "<text x=\"{left}\" y=\"{y}\" font-size=\"11\" fill=\"#5b6b7b\">{unit}</text>"
    )
    .ok();
    for (at, bar) in bars.iter().enumerate() {
        draw(
            svg,
            bar,
            metric,
            (left, top + HEAD + at * ROW),
            bar.value.max(0.0) / most * LONGEST,
        );
    }
    if let Some(target) = target(outcome, metric) {
        let x = (left + LEFT) as f64 + target / most * LONGEST;
        let (y, end) = (top + HEAD - 4, top + HEAD + bars.len() * ROW);
        if target <= most {
            writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y}\" y2=\"{end}\" stroke=\"#c0392b\" \
                 stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>"
            )
            .ok();
        }
    }
}

fn draw(svg: &mut String, bar: &Bar<'_>, metric: &str, (left, y): (usize, usize), length: f64) {
    let is_ours = bar.label.starts_with("portcullis");
    let colour = if is_ours { "#1f77b4" } else { "#b8c2cc" };
    let weight = if is_ours { "bold" } else { "normal" };
    let (label, start, text) = (escape(bar.label), left + LEFT, y + 13);
    let end = start as f64 + length + 5.0;
    let ratio = bar
        .ratio
        .map_or(String::new(), |ratio| format!("  ×{ratio:.2}"));
    let value = show(metric, bar.value);
    writeln!(
        svg,
        "<text x=\"{left}\" y=\"{text}\" fill=\"#1b2733\" font-weight=\"{weight}\">{label}</text>\n\
         <rect x=\"{start}\" y=\"{y}\" width=\"{length:.1}\" height=\"16\" rx=\"2\" fill=\"{colour}\"/>\n\
         <text x=\"{end:.1}\" y=\"{text}\" fill=\"#1b2733\">{value}{ratio}</text>"
    )
    .ok();
}

/// The target of the figure that is plotted, in its own unit.
fn target(outcome: &Outcome, metric: &str) -> Option<f64> {
    let goal = outcome
        .case
        .goals
        .iter()
        .find(|goal| goal.metric == metric)?;
    match goal.limit {
        Limit::AtMost(limit) => Some(limit),
        Limit::PerDecade(_) => None,
        Limit::Ratio(limit) => {
            let reference = outcome.position(outcome.case.reference)?;
            Some(outcome.figure(reference, metric)?.median * limit)
        }
    }
}

pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let is_full = lines
            .last()
            .is_some_and(|line| line.chars().count() + word.len() > width);
        if is_full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
            line.push(' ');
        }
    }
    lines
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
