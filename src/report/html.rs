//! The report as one page that can be mailed, archived and printed.

use super::plot;
use super::summary::Summary;
use super::view::{Body, Cell, Mark, Section, Table, figures, findings, moment, sections};
use crate::page::Page;

impl Summary {
    /// The report as one self-contained page.
    pub fn html(&self) -> String {
        let found = &self.gathered;
        let mut page = Page::new("Portcullis audit report");
        page.markup("<header>\n<h1>Audit report</h1>\n<p>");
        page.text(&moment(found.first)).markup(" to ");
        page.text(&moment(found.last))
            .markup(" UTC</p>\n</header>\n<main>\n");
        page.markup("<ul class=\"tiles\">\n");
        for (value, what) in figures(self) {
            page.within("<li><strong>", &value, "</strong><span>");
            page.text(what).markup("</span></li>\n");
        }
        page.markup(
            "</ul>\n<section id=\"findings\"><h2>What needs attention</h2>\n<ul class=\"todo\">\n",
        );
        for (mark, what) in findings(self) {
            page.markup(match mark {
                Mark::Bad => "<li><span class=\"mark bad\">act</span>",
                Mark::Warn => "<li><span class=\"mark warn\">look</span>",
                Mark::Good => "<li><span class=\"mark good\">good</span>",
            });
            page.text(&what).markup("</li>\n");
        }
        page.markup("</ul></section>\n");
        for part in sections(self) {
            section(&mut page, &part, self);
        }
        page.markup("</main>\n<footer>Made by Portcullis ");
        page.text(env!("CARGO_PKG_VERSION")).markup(" on ");
        page.text(&moment(Some(self.terms.now)));
        page.markup(" UTC. All times are UTC.</footer>\n");
        page.finish()
    }
}

fn section(page: &mut Page, section: &Section, report: &Summary) {
    page.within("<section id=\"", section.id, "\"><h2>");
    page.text(section.title).markup("</h2>\n");
    page.within("<p class=\"note\">", &section.note, ".</p>\n");
    match &section.body {
        Body::Table(rows) => table(page, rows),
        Body::Timeline(unit, slices) => plot::timeline(page, unit, slices),
        Body::Week => plot::week(page, &report.gathered.week),
    }
    page.markup("</section>\n");
}

fn table(page: &mut Page, table: &Table) {
    if table.rows.is_empty() {
        page.markup("<p>None.</p>\n");
        return;
    }
    let heaviest = table.rows.iter().map(|row| row.weight).max().unwrap_or(0);
    let first = table.rows.first();
    page.markup("<table>\n<thead><tr>");
    for (index, name) in table.head.iter().enumerate() {
        let cell = first.and_then(|row| row.cells.get(index));
        let is_number = cell.is_some_and(Cell::is_number);
        page.markup(if is_number {
            "<th class=\"n\">"
        } else {
            "<th>"
        });
        page.text(name).markup("</th>");
    }
    page.markup(if heaviest > 0 { "<th></th>" } else { "" });
    page.markup("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        page.markup("<tr>");
        for cell in &row.cells {
            page.markup(match cell {
                Cell::Number(_) | Cell::Bytes(_) => "<td class=\"n\">",
                Cell::Time(_) => "<td class=\"t\">",
                Cell::Text(_) => "<td>",
                Cell::Word(_) => "<td class=\"w\">",
            });
            page.text(&cell.text()).markup("</td>");
        }
        if heaviest > 0 {
            plot::bar(page, row.weight, heaviest);
        }
        page.markup("</tr>\n");
    }
    page.markup("</tbody></table>\n");
}
