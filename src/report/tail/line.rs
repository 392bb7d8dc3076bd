//! A record in one line, in columns.

use super::super::terminal::{escape_controls, fitted};
use crate::audit::{Entry, Outcome};

/// Look of the lines.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// Columns of the terminal.
    pub width: usize,
    /// Colours, or none.
    pub colours: bool,
}

impl Columns {
    /// The names of the columns.
    pub fn head() -> String {
        let line = [
            fitted("TIME", 19),
            fitted("REF", 6),
            fitted("EVENT", 10),
            fitted("OUTCOME", 8),
            fitted("CLIENT", 15),
            fitted("USER", 14),
            "WHAT".to_owned(),
        ];
        format!("{}\n", line.join(" "))
    }

    /// One record.
    pub(super) fn line(self, entry: &Entry) -> String {
        let column = |text: &str, width| fitted(&escape_controls(text), width);
        let client = entry.client.map_or_else(String::new, |one| one.to_string());
        let begin = [
            entry.time.strftime("%F %T").to_string(),
            column(&entry.reference_id, 6),
            column(&entry.event, 10),
        ]
        .join(" ");
        let outcome = self.coloured(entry.outcome);
        let who = [column(&client, 15), column(user(entry), 14)].join(" ");
        let what = escape_controls(&what(entry));
        // Time, reference, event, outcome, client and user with their spaces.
        let room = self.width.saturating_sub(78).max(30);
        let what = if what.chars().count() > room {
            fitted(&what, room)
        } else {
            what
        };
        let line = format!("{begin} {outcome} {who} {what}");
        format!("{}\n", line.trim_end())
    }

    fn coloured(self, outcome: Outcome) -> String {
        let colour = match outcome {
            Outcome::Allowed => "\u{1b}[32m",
            Outcome::Challenged => "",
            Outcome::Denied | Outcome::Failed => "\u{1b}[31m",
            Outcome::Aborted | Outcome::Error | Outcome::Limited => "\u{1b}[33m",
        };
        let word = fitted(outcome.as_str(), 10);
        if self.colours {
            format!("{colour}{word}\u{1b}[0m")
        } else {
            word
        }
    }
}

fn user(entry: &Entry) -> &str {
    entry.user.as_deref().unwrap_or("-")
}

/// The action, its object, the answer, and the rule or reason.
fn what(entry: &Entry) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(entry.action.clone());
    let reference = entry.reference.as_deref().unwrap_or_default();
    let shown = match &entry.repository {
        Some(name) if reference.is_empty() => name.clone(),
        Some(name) if reference.contains(':') => format!("{name}@{reference}"),
        Some(name) => format!("{name}:{reference}"),
        None => reference.to_owned(),
    };
    words.extend(Some(shown).filter(|shown| !shown.is_empty()));
    let status = entry.status.filter(|status| *status > 0);
    words.extend(status.map(|status| status.to_string()));
    words.extend(entry.suppressed().checked_sub(1).map(|_| {
        let times = entry.suppressed();
        format!("×{times}")
    }));
    let why = entry.reason.as_ref().or(entry.rule.as_ref());
    words.extend(why.map(|why| format!("({why})")));
    words.join(" ")
}

/// A line of JSON in ASCII, on one line: JSON may hold raw characters that a terminal obeys or that
/// reorder text, and all of them stand inside of strings.
pub(super) fn ascii(line: &[u8]) -> String {
    use std::fmt::Write as _;
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' '..='~' => out.push(character),
            // Between tokens; inside of a string it would be no JSON.
            '\t' | '\r' | '\n' => out.push(' '),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ok = write!(out, "\\u{unit:04x}").is_ok();
                }
            }
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::{Columns, ascii};
    use crate::audit::Entry;

    #[test]
    fn records_are_lines_and_escapes_are_text() {
        let show = |fields: &str| {
            let line = format!("{{\"time\":\"2026-11-22T00:59:42.6Z\",{fields}}}");
            let columns = Columns {
                width: 140,
                colours: false,
            };
            columns.line(&Entry::parse(line.as_bytes()).unwrap())
        };
        let lines = [
            show(
                r#""ref":"24DA8T","event":"request","outcome":"allowed","client":"10.1.2.3","user":"alice","action":"push","repository":"team-a/app","reference":"1","status":201,"rule":"portcullis.toml:26""#,
            ),
            show(
                r#""ref":"24DA8V","event":"login","outcome":"failed","client":"2001:db8:1:2:3:4:5:6","user":"\u001b]0;pwned\u0007\u202e","status":401,"reason":"wrong\npassword""#,
            ),
            show(
                r#""ref":"24DA8W","event":"suppressed","outcome":"limited","client":"10.1.2.3","status":429,"count":41,"reason":"41 requests over x""#,
            ),
            show(r#""ref":"24DA8X","event":"stop","outcome":"allowed","status":0"#),
        ];
        insta::assert_snapshot!("lines", lines.concat());
    }

    #[test]
    fn json_stays_json_and_becomes_ascii() {
        let line = "{\"a\":\t\"\u{9b}31m\u{202e}😀\u{7f}\"}".as_bytes();
        let text = ascii(line);
        assert_eq!(
            text,
            "{\"a\": \"\\u009b31m\\u202e\\ud83d\\ude00\\u007f\"}\n"
        );
        let same: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(same["a"], "\u{9b}31m\u{202e}😀\u{7f}");
    }
}
