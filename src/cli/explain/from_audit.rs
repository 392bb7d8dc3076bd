//! `explain --from-audit`: one decision of the past, and today's.

use std::fmt::Write as _;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use portcullis::audit::{Entry, Lines, TrailFile};
use portcullis::config::Config;
use portcullis::report::replay::{PastDecision, Today};
use portcullis::report::terminal::escape_controls;
use serde_json::{Value, json};

use super::judged::{passed_over, rule_json};
use crate::cli::terminal::error_colours;

/// What is to be said, and whether today's answer is to allow.
pub(super) struct Replayed {
    pub(super) text: String,
    pub(super) allowed: bool,
}

/// Finds the record and decides again.
pub(super) fn replay(
    config: &Config,
    reference: &str,
    files: &[impl AsRef<Path>],
    as_json: bool,
    now: Timestamp,
) -> Result<Replayed> {
    let (entry, others) = find(reference, files)?;
    let Some(asked) = PastDecision::in_record(&entry) else {
        let reason = entry.reason.as_deref().unwrap_or("no reason told");
        bail!(
            "the policy decided nothing in [ref {}]: {} {} ({})",
            escape_controls(&entry.reference_id),
            escape_controls(&entry.event),
            entry.outcome.as_str(),
            escape_controls(reason)
        );
    };
    let today = Today::new(&config.policy, &config.auth.keys, &config.roles, now)
        .map_err(|errors| anyhow!("{}", errors.render(error_colours())))?;
    let answer = today.answer(&asked);
    let explained = today.explain(&asked);
    let word = |allowed| if allowed { "allow" } else { "deny" };
    let text = if as_json {
        let (rules, groups) = match &explained {
            Ok((found, groups)) => (found.rules.iter().map(rule_json).collect(), groups.clone()),
            Err(_gone) => (Value::Array(Vec::new()), Vec::new()),
        };
        let answer = json!({
            "ref": entry.reference_id, "time": entry.time.to_string(),
            "user": asked.user, "address": asked.address, "action": asked.action.as_str(),
            "repository": asked.repository.as_str(),
            "then": {
                "decision": word(asked.allowed), "rule": asked.rule, "groups": entry.groups,
                "outcome": entry.outcome.as_str(), "status": entry.status,
                "reason": entry.reason,
            },
            "now": { "decision": word(answer.allowed), "by": answer.by, "groups": groups },
            "rules": rules,
        });
        format!("{answer:#}\n")
    } else {
        let mut out = String::new();
        let user = asked.user.as_deref().unwrap_or("anonymous");
        writeln!(
            out,
            "asked  {user}, {} {}, from {}",
            asked.action.as_str(),
            asked.repository.as_str(),
            asked.address
        )?;
        let rule = asked.rule.as_deref().unwrap_or("no rule allowed it");
        let status = entry.status.unwrap_or_default();
        writeln!(
            out,
            "then   {} by {rule} ({} {status}, {:.0}, groups: {})",
            word(asked.allowed),
            entry.outcome.as_str(),
            entry.time,
            list(&entry.groups)
        )?;
        writeln!(out, "now    {} by {}", word(answer.allowed), answer.by)?;
        let mut out = escape_lines(&out);
        if let Ok((found, groups)) = &explained {
            writeln!(out, "       (groups: {})", escape_controls(&list(groups)))?;
            out.push_str(&passed_over(found)?);
        }
        if others > 0 {
            writeln!(
                out,
                "\n{others} older records have this reference too; this is the last"
            )?;
        }
        out
    };
    Ok(Replayed {
        text,
        allowed: answer.allowed,
    })
}

/// The last record with a reference, and how many there are besides. It is written once for each
/// request, but has thirty bits.
fn find(reference: &str, files: &[impl AsRef<Path>]) -> Result<(Entry, u64)> {
    let (mut found, mut count): (Option<Entry>, u64) = (None, 0);
    for path in files {
        let path = path.as_ref();
        let name = path.display();
        let file = TrailFile::open(path)?;
        let mut lines = Lines::new(BufReader::with_capacity(256 * 1024, file.reader()?));
        while let Some(line) = lines
            .read()
            .with_context(|| format!("cannot read {name}"))?
        {
            let Some(entry) = line.ok() else { continue };
            if entry.reference_id.eq_ignore_ascii_case(reference) {
                count = count.saturating_add(1);
                let is_later = found.as_ref().is_none_or(|last| last.time <= entry.time);
                if is_later {
                    found = Some(entry);
                }
            }
        }
    }
    let found = found.with_context(|| {
        let names: Vec<_> = files
            .iter()
            .map(|path| path.as_ref().display().to_string())
            .collect();
        format!(
            "no record has the reference {reference:?} in {}; name rotated files with --audit",
            names.join(", ")
        )
    })?;
    Ok((found, count.saturating_sub(1)))
}

fn list(groups: &[String]) -> String {
    if groups.is_empty() {
        "none".to_owned()
    } else {
        groups.join(", ")
    }
}

fn escape_lines(text: &str) -> String {
    text.lines()
        .map(|line| escape_controls(line) + "\n")
        .collect()
}
