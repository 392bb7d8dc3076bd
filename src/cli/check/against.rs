//! `check --against`: which decisions of a trail this configuration would make otherwise.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use portcullis::audit::{Lines, TrailFile};
use portcullis::config::Config;
use portcullis::report::replay::{PastDecision, Today};
use portcullis::report::terminal::escape_controls;
use serde_json::{Value, json};

use crate::cli::terminal::error_colours;

/// Kinds of changes that are listed; those beyond are counted.
const MAX_KINDS: usize = 10_000;

/// Decisions that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Kind {
    user: Option<String>,
    action: &'static str,
    repository: String,
    /// Allowed then; today it is the other way round.
    allowed: bool,
    then: Option<String>,
    now: String,
}

#[derive(Debug, Default)]
struct Times {
    count: u64,
    last: Option<Timestamp>,
    reference: String,
}

/// Decisions that would change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    decisions: u64,
    skipped: u64,
    kinds: HashMap<Kind, Times>,
    /// Changes of kinds that did not fit.
    others: u64,
}

impl Changes {
    /// Reads trails, and decides everything in them again.
    pub(super) fn of(config: &Config, files: &[impl AsRef<Path>], now: Timestamp) -> Result<Self> {
        let today = Today::new(&config.policy, &config.auth.keys, &config.roles, now)
            .map_err(|errors| anyhow!("{}", errors.render(error_colours())))?;
        let mut changes = Self::default();
        for path in files {
            let path = path.as_ref();
            let file = TrailFile::open(path)?;
            let mut lines = Lines::new(BufReader::with_capacity(256 * 1024, file.reader()?));
            while let Some(line) = lines
                .read()
                .with_context(|| format!("cannot read {}", path.display()))?
            {
                match line {
                    Ok(entry) => {
                        if let Some(asked) = PastDecision::in_record(&entry) {
                            changes.compare(&today, asked, entry.time, entry.reference_id);
                        }
                    }
                    Err(_flaw) => changes.skipped = changes.skipped.saturating_add(1),
                }
            }
        }
        Ok(changes)
    }

    fn compare(
        &mut self,
        today: &Today<'_>,
        asked: PastDecision,
        time: Timestamp,
        reference: String,
    ) {
        self.decisions = self.decisions.saturating_add(1);
        let answer = today.answer(&asked);
        if answer.allowed == asked.allowed {
            return;
        }
        let kind = Kind {
            action: asked.action.as_str(),
            repository: asked.repository.as_str().to_owned(),
            user: asked.user,
            allowed: asked.allowed,
            then: asked.rule,
            now: answer.by,
        };
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            self.others = self.others.saturating_add(1);
            return;
        }
        let times = self.kinds.entry(kind).or_default();
        times.count = times.count.saturating_add(1);
        if times.last <= Some(time) {
            times.last = Some(time);
            times.reference = reference;
        }
    }

    /// Returns true if no decision changes.
    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.others == 0
    }

    fn sorted(&self) -> Vec<(&Kind, &Times)> {
        let mut rows: Vec<_> = self.kinds.iter().collect();
        // Rights that are lost first, then the most frequent.
        rows.sort_by(|(a, x), (b, y)| {
            b.allowed
                .cmp(&a.allowed)
                .then(y.count.cmp(&x.count))
                .then_with(|| a.cmp(b))
        });
        rows
    }

    pub(super) fn to_json(&self) -> Value {
        let word = |allowed| if allowed { "allow" } else { "deny" };
        let change = |(kind, times): (&Kind, &Times)| {
            json!({
                "user": kind.user, "action": kind.action, "repository": kind.repository,
                "then": word(kind.allowed), "then_rule": kind.then,
                "now": word(!kind.allowed), "now_rule": kind.now,
                "count": times.count, "last": times.last.map(|time| time.to_string()),
                "last_ref": times.reference,
            })
        };
        json!({
            "decisions": self.decisions,
            "lines_skipped": self.skipped,
            "changes": self.sorted().into_iter().map(change).collect::<Value>(),
            "others": self.others,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let mut line = |text: String| {
            let _ok = writeln!(out, "{}", escape_controls(&text)).is_ok();
        };
        for (kind, times) in self.sorted() {
            let (from, to) = if kind.allowed {
                ("allow", "deny")
            } else {
                ("deny", "allow")
            };
            let user = kind.user.as_deref().unwrap_or("anonymous");
            let then = kind.then.as_deref().unwrap_or("no rule allowed it");
            line(format!(
                "{from} -> {to}  {user}, {} {}: {} times, last [ref {}]",
                kind.action, kind.repository, times.count, times.reference
            ));
            line(format!("               then {then}"));
            line(format!("               now  {}", kind.now));
        }
        if self.others > 0 {
            line(format!("and {} changes of other kinds", self.others));
        }
        line(format!(
            "{} decisions of the past, {} would change",
            self.decisions,
            self.changed()
        ));
        if self.skipped > 0 {
            line(format!("{} lines were no audit records", self.skipped));
        }
        out
    }

    fn changed(&self) -> u64 {
        let counts = self.kinds.values().map(|times| times.count);
        counts.fold(self.others, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::Changes;
    use jiff::Timestamp;
    use portcullis::config::Config;
    use tempfile::tempdir;

    const CONFIG: &str = r#"
tls = { certificate = "c", private_key = "k" }
upstream.url = "http://127.0.0.1:5000"
[[access]]
repositories = ["public/**"]
who = ["anonymous"]
role = "guest"
[[deny]]
repositories = ["team-a/**"]
who = ["user:alice"]
"#;

    #[test]
    fn changes_are_grouped_and_losses_come_first() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let record = |second: u32, fields: &str| {
            format!(
                "{{\"time\":\"2026-01-01T00:00:{second:02}Z\",\"ref\":\"R{second}\",\
                 \"event\":\"request\",\"client\":\"127.0.0.1\",{fields}}}\n"
            )
        };
        let pushed = r#""outcome":"allowed","user":"alice","auth":"token","action":"push","repository":"team-a/x","rule":"p:9""#;
        let challenged = r#""outcome":"failed","auth":"anonymous","action":"pull","repository":"public/x","status":401"#;
        let text = [
            record(1, pushed),
            record(3, pushed),
            record(2, pushed),
            record(4, challenged),
            record(5, &challenged.replace("public", "private")),
            "torn".to_owned(),
        ];
        std::fs::write(&path, text.concat()).unwrap();
        let name = folder.path().join("p.toml");
        let config = Config::parse(CONFIG, &name, &|_| None).unwrap().0;
        let changes = Changes::of(&config, &[&path], Timestamp::UNIX_EPOCH).unwrap();
        assert!(!changes.is_empty());
        let shown = changes
            .text()
            .replace(&format!("{}/", folder.path().display()), "");
        insta::assert_snapshot!("changes", shown);
        let json = changes.to_json();
        assert_eq!(json["decisions"], 5);
        assert_eq!(json["changes"][0]["count"], 3);
        assert_eq!(json["changes"][0]["last_ref"], "R3");
        assert_eq!(json["changes"][1]["now"], "allow");
    }
}
