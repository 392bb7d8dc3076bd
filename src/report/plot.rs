//! Plots as SVG, in the page's own colours.
#![expect(
    clippy::cast_precision_loss,
    reason = "a plot has less than 53 bits of resolution"
)]

use jiff::Timestamp;

use super::time::{Slice, Week};
use super::view::{grouped, size};
use crate::page::Page;

/// Of the plot over time, in its own units.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 120.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 8.0;

/// A bar in a table's cell.
pub(super) fn bar(page: &mut Page, part: u64, whole: u64) {
    let width = (part as f64 / whole.max(1) as f64 * 100.0).clamp(0.0, 100.0);
    page.markup("<td class=\"bar\"><svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" ");
    page.markup("aria-hidden=\"true\"><rect class=\"track\" width=\"100\" height=\"10\"/>");
    page.markup("<rect class=\"accent\" height=\"10\" width=\"");
    page.number(width).markup("\"/></svg></td>");
}

/// Requests and bytes, slice by slice.
pub(super) fn timeline(page: &mut Page, unit: &str, slices: &[(Timestamp, Slice)]) {
    if slices.is_empty() {
        page.markup("<p>None.</p>\n");
        return;
    }
    // Each on a scale of its own: a flood of refusals must not hide the work, nor the work a guess.
    for (name, kinds) in KINDS {
        page.markup("<p class=\"legend\">");
        for (class, text) in kinds {
            page.markup("<svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"");
            page.text(class)
                .markup("\" width=\"10\" height=\"10\" rx=\"2\"/></svg>");
            page.text(text);
        }
        page.markup("</p>\n");
        let part = |slice: &Slice, class: &'static str| (class, part(slice, class));
        let values = slices.iter().map(|(_, slice)| {
            let parts = kinds.iter().map(|(class, _)| part(slice, class));
            parts.collect::<Vec<_>>()
        });
        let written = if name == "Bytes" { size } else { grouped };
        plot(
            page,
            name,
            unit,
            slices,
            &values.collect::<Vec<_>>(),
            written,
        );
    }
}

/// The plots, and the class and name of each part.
type Kinds = (&'static str, &'static [(&'static str, &'static str)]);

const KINDS: [Kinds; 3] = [
    (
        "Requests",
        &[
            ("good", "requests that were allowed"),
            ("cold", "failed at the registry or aborted"),
        ],
    ),
    (
        "Refusals",
        &[
            ("bad", "denied or wrong credentials"),
            ("warn", "over a limit"),
        ],
    ),
    ("Bytes", &[("accent", "bytes received and sent")]),
];

fn part(slice: &Slice, class: &str) -> u64 {
    let counts = &slice.counts;
    match class {
        "good" => counts.allowed,
        "cold" => counts.error.saturating_add(counts.aborted),
        "bad" => counts.denied.saturating_add(counts.failed),
        "warn" => counts.limited,
        _ => slice.traffic.bytes(),
    }
}

fn plot(
    page: &mut Page,
    name: &str,
    unit: &str,
    slices: &[(Timestamp, Slice)],
    values: &[Vec<(&'static str, u64)>],
    written: fn(u64) -> String,
) {
    let total = |parts: &Vec<(&str, u64)>| {
        let sum = parts.iter().map(|(_, count)| *count);
        sum.fold(0, u64::saturating_add)
    };
    let highest = values.iter().map(total).max().unwrap_or_default().max(1);
    let step = WIDTH / slices.len().max(1) as f64;
    page.markup("<svg class=\"plot\" role=\"img\" viewBox=\"0 0 1072 154\" aria-label=\"");
    page.text(name).markup(" by ").text(unit).markup("\">");
    for (part, at) in [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)] {
        let y = TOP + at * HEIGHT;
        page.markup("<line class=\"axis\" x1=\"64\" x2=\"1064\" y1=\"")
            .number(y);
        page.markup("\" y2=\"").number(y).markup("\"/>");
        page.markup("<text text-anchor=\"end\" x=\"58\" y=\"")
            .number(y + 4.0);
        page.markup("\">")
            .text(&label(highest, part, written))
            .markup("</text>");
    }
    for (index, ((begin, _), parts)) in slices.iter().zip(values).enumerate() {
        let x = LEFT + index as f64 * step;
        page.markup("<g><title>");
        page.text(&moment(*begin, unit)).markup(": ");
        page.text(&written(total(parts))).markup("</title>");
        let mut y = TOP + HEIGHT;
        for (class, count) in parts {
            if *count == 0 {
                continue;
            }
            // Little is not nothing.
            let height = (*count as f64 / highest as f64 * HEIGHT).max(1.0);
            y -= height;
            page.within("<rect class=\"", class, "\" x=\"").number(x);
            page.markup("\" y=\"").number(y);
            page.markup("\" width=\"")
                .number((step * 0.86).clamp(0.5, 40.0));
            page.markup("\" height=\"").number(height).markup("\"/>");
        }
        page.markup("</g>");
    }
    let every = slices.len().div_ceil(8).max(1);
    for (index, (begin, _)) in slices.iter().enumerate().step_by(every) {
        let x = LEFT + index as f64 * step;
        page.markup("<text x=\"").number(x).markup("\" y=\"146\">");
        page.text(&moment(*begin, unit)).markup("</text>");
    }
    page.markup("</svg>\n");
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a number is no larger and not negative"
)]
fn label(highest: u64, part: f64, written: fn(u64) -> String) -> String {
    written((highest as f64 * part) as u64)
}

fn moment(begin: Timestamp, unit: &str) -> String {
    let format = if unit == "hour" {
        "%b %d %H:%M"
    } else {
        "%Y-%m-%d"
    };
    begin.strftime(format).to_string()
}

/// Days below each other, hours beside each other, the busier the fuller.
pub(super) fn week(page: &mut Page, week: &Week) {
    const CELL: f64 = 22.0;
    let highest = week.highest().max(1) as f64;
    page.markup("<svg class=\"plot\" role=\"img\" viewBox=\"0 0 1072 182\" ");
    page.markup("aria-label=\"Requests by hour of the week\">");
    for (row, (day, hours)) in week.days().enumerate() {
        let y = 20.0 + row as f64 * (CELL + 1.0);
        page.markup("<text text-anchor=\"end\" x=\"58\" y=\"")
            .number(y + 15.0);
        page.markup("\">").text(day).markup("</text>");
        for (hour, count) in hours.iter().enumerate() {
            let x = LEFT + hour as f64 * 41.6;
            page.markup("<g><title>")
                .text(day)
                .markup(" ")
                .number(hour as f64);
            page.markup(":00: ")
                .text(&grouped(*count))
                .markup("</title>");
            page.markup("<rect class=\"track\" rx=\"3\" width=\"40\" height=\"21\" x=\"");
            page.number(x).markup("\" y=\"").number(y).markup("\"/>");
            if *count > 0 {
                page.markup("<rect class=\"accent\" rx=\"3\" width=\"40\" height=\"21\" x=\"");
                page.number(x).markup("\" y=\"").number(y);
                let tenths = ((*count as f64 / highest).sqrt() * 9.0).ceil() + 1.0;
                page.markup("\" opacity=\"")
                    .number(tenths / 10.0)
                    .markup("\"/>");
            }
            page.markup("</g>");
        }
    }
    for hour in (0..24).step_by(3) {
        page.markup("<text x=\"")
            .number(LEFT + f64::from(hour) * 41.6);
        page.markup("\" y=\"12\">")
            .number(f64::from(hour))
            .markup(":00</text>");
    }
    page.markup("</svg>\n");
}
