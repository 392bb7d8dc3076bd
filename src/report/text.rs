//! The report for a terminal.

use std::fmt::Write as _;

use super::summary::Summary;
use super::terminal::{bar, escape_controls, fitted};
use super::time::{Slice, Week};
use super::view::{Body, Cell, Mark, Section, Table, figures, findings, grouped, moment, sections};

/// Look of a text.
#[derive(Clone, Copy, Debug)]
pub struct TextLook {
    /// Columns of the terminal.
    pub width: usize,
    /// Colours, or none.
    pub colours: bool,
}

/// Slices of time that fit well under each other.
const LINES: usize = 36;
/// The widest and the narrowest that a column of text may be.
const WIDEST: usize = 40;
const NARROWEST: usize = 12;
/// Columns that are left for bars at least.
const BAR: usize = 10;

const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const GREEN: &str = "\u{1b}[32m";
const PLAIN: &str = "\u{1b}[0m";

impl Summary {
    /// The report for a terminal.
    pub fn text(&self, look: TextLook) -> String {
        let mut out = String::new();
        let found = &self.gathered;
        look.line(&mut out, BOLD, "Audit report");
        look.line(
            &mut out,
            "",
            &format!("{} to {} UTC", moment(found.first), moment(found.last)),
        );
        out.push('\n');
        for (value, what) in figures(self) {
            look.line(&mut out, "", &format!("{value:>14}  {what}"));
        }
        out.push('\n');
        for (mark, what) in findings(self) {
            let (colour, word) = match mark {
                Mark::Bad => (RED, "act"),
                Mark::Warn => (YELLOW, "look"),
                Mark::Good => (GREEN, "good"),
            };
            look.line(
                &mut out,
                colour,
                &format!("{word:>14}  {}", escape_controls(&what)),
            );
        }
        for section in sections(self) {
            look.section(&mut out, &section, self);
        }
        out
    }
}

impl TextLook {
    fn line(self, out: &mut String, colour: &str, text: &str) {
        if self.colours && !colour.is_empty() {
            out.extend([colour, text, PLAIN, "\n"]);
        } else {
            out.extend([text, "\n"]);
        }
    }

    fn section(self, out: &mut String, section: &Section, report: &Summary) {
        let is_empty = match &section.body {
            Body::Table(table) => table.rows.is_empty(),
            Body::Timeline(_, slices) => slices.is_empty(),
            Body::Week => report.gathered.week.highest() == 0,
        };
        out.push('\n');
        self.line(out, BOLD, section.title);
        self.line(out, "", &format!("{}.", escape_controls(&section.note)));
        match &section.body {
            _ if is_empty => self.line(out, "", "  none"),
            Body::Table(table) => self.table(out, table),
            Body::Timeline(_, _) => {
                let (unit, slices) = report.gathered.timeline.whole(LINES);
                self.timeline(out, unit, &slices);
            }
            Body::Week => self.week(out, &report.gathered.week),
        }
    }

    fn table(self, out: &mut String, table: &Table) {
        let cells: Vec<Vec<String>> = table
            .rows
            .iter()
            .map(|row| {
                row.cells
                    .iter()
                    .map(|cell| escape_controls(&cell.text()))
                    .collect()
            })
            .collect();
        let widths = self.widths(table, &cells);
        let heaviest = table.rows.iter().map(|row| row.weight).max().unwrap_or(0);
        let room = self.width.saturating_sub(taken(&widths)).min(30);
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.zip(&widths).enumerate();
            let cells = cells.map(|(index, (cell, width))| {
                if cell_of(table, index).is_some_and(Cell::is_number) {
                    format!("{cell:>width$}")
                } else {
                    fitted(cell, *width)
                }
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        let head = line(&mut table.head.iter().copied());
        self.line(out, "", format!("  {head}").trim_end());
        for (row, cells) in table.rows.iter().zip(&cells) {
            let bar = if room >= 6 {
                bar(row.weight, heaviest, room.saturating_sub(4))
            } else {
                String::new()
            };
            let cells = line(&mut cells.iter().map(String::as_str));
            self.line(out, "", format!("  {cells}  {bar}").trim_end());
        }
        let missing = table.head.iter().skip(widths.len()).copied();
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            self.line(out, "", &format!("  (no room for: {missing})"));
        }
    }

    /// As wide as what stands in it; texts give way until all fit, then columns at the end.
    fn widths(self, table: &Table, cells: &[Vec<String>]) -> Vec<usize> {
        let mut widths: Vec<usize> = table.head.iter().map(|name| name.len()).collect();
        for row in cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().min(WIDEST).max(*width);
            }
        }
        let natural = widths.clone();
        let has_bars = table.rows.iter().any(|row| row.weight > 0);
        let room = self.width.saturating_sub(if has_bars { BAR } else { 0 });
        while taken(&widths) > room {
            let gives =
                |index| matches!(cell_of(table, index), Some(Cell::Text(_) | Cell::Word(_)));
            let texts = widths.iter().copied().enumerate();
            let texts = texts.filter(|(index, width)| gives(*index) && *width > NARROWEST);
            if let Some((index, width)) = texts.max_by_key(|(_, width)| *width) {
                if let Some(narrower) = widths.get_mut(index) {
                    *narrower = width.saturating_sub(1);
                }
            } else if let Some(fewer @ [_, _, ..]) = natural.get(..widths.len().saturating_sub(1)) {
                widths = fewer.to_vec();
            } else {
                break;
            }
        }
        widths
    }

    fn timeline(self, out: &mut String, unit: &str, slices: &[(jiff::Timestamp, Slice)]) {
        let refused = |slice: &Slice| {
            let counts = &slice.counts;
            counts
                .denied
                .saturating_add(counts.failed)
                .saturating_add(counts.limited)
        };
        let done = |slice: &Slice| slice.counts.total().saturating_sub(refused(slice));
        let highest = slices.iter().map(|(_, slice)| done(slice)).max();
        let columns = self.width.saturating_sub(44).max(8);
        let format = if unit == "hour" {
            "%F %H:00"
        } else {
            "%F      "
        };
        // The bars leave refusals out: a flood of them would hide all the rest.
        self.line(out, "", "  from                  done   refused");
        for (begin, slice) in slices {
            let line = format!(
                "  {}  {:>9} {:>9}  {}",
                begin.strftime(format),
                grouped(done(slice)),
                grouped(refused(slice)),
                bar(done(slice), highest.unwrap_or_default(), columns)
            );
            self.line(out, "", line.trim_end());
        }
    }

    fn week(self, out: &mut String, week: &Week) {
        const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
        let highest = week.highest().max(1);
        self.line(out, "", "       0     6     12    18");
        for (day, hours) in week.days() {
            let mut line = format!("  {day}  ");
            for count in hours {
                let shade = count.saturating_mul(4).div_ceil(highest);
                let shade = usize::try_from(shade).unwrap_or_default();
                line.push(SHADES.get(shade).copied().unwrap_or('█'));
            }
            // Writing to a String cannot fail.
            let _ok = writeln!(out, "{}", line.trim_end()).is_ok();
        }
    }
}

/// With the spaces around each.
fn taken(widths: &[usize]) -> usize {
    let add = |sum: usize, width: &usize| sum.saturating_add(*width).saturating_add(2);
    widths.iter().fold(0, add)
}

/// The first cell of a column, for its kind.
fn cell_of(table: &Table, column: usize) -> Option<&Cell> {
    table.rows.first()?.cells.get(column)
}
