//! Rules as the policy judged them: which decided, and why the others did not.

use std::fmt::Write;

use anyhow::Result;
use portcullis::policy::{Decision, Explanation, Judged, RuleKind, Verdict};
use serde_json::{Value, json};

/// The rule that decided; `None` where none did.
pub(super) fn deciding(decision: &Decision) -> Option<&str> {
    match decision {
        Decision::Allow(place) | Decision::Deny(Some(place)) => Some(&place.0),
        Decision::Deny(None) => None,
    }
}

/// The rules that did not decide, and why.
pub(super) fn passed_over(found: &Explanation) -> Result<String> {
    let mut out = String::new();
    let decided = deciding(&found.decision);
    let others: Vec<_> = found
        .rules
        .iter()
        .filter(|rule| Some(&*rule.place.0) != decided)
        .collect();
    if !others.is_empty() {
        out.push_str("\npassed over\n");
    }
    let width = others
        .iter()
        .map(|rule| rule.place.0.len())
        .max()
        .unwrap_or_default();
    for rule in others {
        let reason = reason(rule, found.decision.is_allow());
        writeln!(out, "  {:width$}  {:6}  {reason}", rule.place.0, kind(rule))?;
    }
    Ok(out)
}

/// Why a rule did not decide.
fn reason(rule: &Judged, allowed: bool) -> String {
    match (rule.verdict, rule.kind) {
        (Verdict::Applies, RuleKind::Access) if !allowed => "overruled by the deny".to_owned(),
        (Verdict::Applies, _) => "would decide the same".to_owned(),
        (verdict, _) => verdict.to_string(),
    }
}

fn kind(rule: &Judged) -> &'static str {
    match rule.kind {
        RuleKind::Access => "access",
        RuleKind::Deny => "deny",
    }
}

/// A rule and what it made of the request, for machines.
pub(super) fn rule_json(rule: &Judged) -> Value {
    json!({
        "rule": &*rule.place.0,
        "kind": kind(rule),
        "applies": rule.verdict == Verdict::Applies,
        "reason": rule.verdict.to_string(),
    })
}
