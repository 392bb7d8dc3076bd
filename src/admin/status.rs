//! One page that says how things stand.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use super::Health;
use crate::audit::Refused;
use crate::gate::Reload;
use crate::server::Proxy;

/// Everything on the page; `/status.json` is this as it is.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    started: String,
    uptime_seconds: i64,
    health: Health,
    config: Config,
    certificate_not_after: String,
    limits: String,
    records: Vec<Records>,
    last_refusals: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Config {
    generation: u64,
    age_seconds: i64,
    last_reload: Option<Reload>,
}

#[derive(Debug, Serialize)]
struct Records {
    event: &'static str,
    outcome: &'static str,
    count: u64,
}

impl Status {
    pub(super) fn of(proxy: &Proxy, health: Health) -> Self {
        let (rules, ledger) = (proxy.rules(), proxy.ledger());
        let now = Timestamp::now();
        let age = |since: Timestamp| now.as_second().saturating_sub(since.as_second());
        let counts = ledger.audit.tally().counts().into_iter();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: format!("{:.0}", ledger.started),
            uptime_seconds: age(ledger.started),
            health,
            config: Config {
                generation: rules.generation,
                age_seconds: age(rules.loaded),
                last_reload: ledger.reloads.last(),
            },
            certificate_not_after: format!("{:.0}", rules.certificate_ends),
            limits: match rules.store.as_ref().map(|store| store.trouble()) {
                None => "this replica's own".to_owned(),
                Some(None) => "shared".to_owned(),
                Some(Some(trouble)) => format!("this replica's own: {trouble}"),
            },
            records: counts
                .map(|(event, outcome, count)| Records {
                    event: event.as_str(),
                    outcome: outcome.as_str(),
                    count,
                })
                .collect(),
            last_refusals: ledger.audit.tally().recent(),
        }
    }

    /// The page for people: no script, nothing from elsewhere, every value escaped.
    pub(super) fn html(&self) -> String {
        let mut rows = String::new();
        let mut row = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ok = write!(rows, "<tr><th>{name}</th><td>{}</td></tr>", escaped(value)).is_ok();
        };
        row("version", self.version);
        row("up since", &self.started);
        row("ready", if self.health.ready { "yes" } else { "no" });
        row("registry", &self.health.upstream);
        row("audit file", &self.health.audit);
        row(
            "configuration",
            &format!("generation {}", self.config.generation),
        );
        row(
            "last reload",
            &self.config.last_reload.as_ref().map_or_else(
                || "none since the start".to_owned(),
                |reload| match &reload.error {
                    None => format!("{}: in force", reload.time),
                    Some(error) => format!("{}: refused, {error}", reload.time),
                },
            ),
        );
        row("server certificate ends", &self.certificate_not_after);
        row("limits", &self.limits);
        for count in &self.records {
            row(
                &format!("{} {}", count.event, count.outcome),
                &count.count.to_string(),
            );
        }
        let refusals: String = self.last_refusals.iter().rev().map(refusal).collect();
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Portcullis</title>\
             <style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}}\
             table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;padding:.3rem .6rem;\
             border-bottom:1px solid #8884}}</style><h1>Portcullis</h1><table>{rows}</table>\
             <h2>Last refusals</h2><table><tr><th>time</th><th>ref</th><th>client</th><th>user</th>\
             <th>action</th><th>repository</th><th>reason</th></tr>{refusals}</table></html>\n"
        )
    }
}

fn refusal(refused: &Refused) -> String {
    let cells = [
        Some(refused.time.as_str()),
        Some(refused.reference.as_str()),
        refused.client.as_deref(),
        refused.user.as_deref(),
        refused.action,
        refused.repository.as_deref(),
        refused.reason.as_deref(),
    ];
    let mut row = "<tr>".to_owned();
    for cell in cells {
        row.extend(["<td>", &escaped(cell.unwrap_or("–")), "</td>"]);
    }
    row.push_str("</tr>");
    row
}

/// Text that may have come from anybody, for HTML.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, character| {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            control if control.is_control() => out.push('\u{fffd}'),
            fine => out.push(fine),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_others_wrote_cannot_become_markup() {
        assert_eq!(escaped("<b a=\"'&\n"), "&lt;b a=&quot;&#39;&amp;\u{fffd}");
    }
}
