//! The status page.

use jiff::Timestamp;
use serde::Serialize;

use super::health::Health;
use crate::audit::{Refused, SinkState, WhenUnwritable};
use crate::authn::keys::KeyringState;
use crate::hash::hex;
use crate::limit::{Quota, Source};
use crate::page::Page;
use crate::policy::{Limits, Pattern, Who};
use crate::proxy::Proxy;
use crate::state::Reload;

const DAY: i64 = 24 * 60 * 60;
/// Days before its end from which a certificate is pointed out.
const SOON_DAYS: i64 = 30;

/// Everything on the page; `/status.json` is this as it is.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    started: String,
    uptime_seconds: i64,
    health: Health,
    config: Config,
    certificate_not_after: String,
    endings: Vec<Ending>,
    /// Place where pulls and wrong passwords are counted.
    limits: String,
    limits_in_force: Vec<InForce>,
    robot_keys: RobotKeys,
    audit: Trail,
    turned_away: u64,
    /// Advice when nearly all requests come from one address.
    one_source: Option<OneSource>,
    records: Vec<Records>,
    last_refusals: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Config {
    file: String,
    generation: u64,
    loaded: String,
    age_seconds: i64,
    access_rules: usize,
    deny_rules: usize,
    last_reload: Option<Reload>,
}

/// A certificate, an authority or a revocation list.
#[derive(Debug, Serialize)]
struct Ending {
    what: &'static str,
    file: String,
    ends: String,
    days_left: i64,
    /// `good`, `soon`, `over`.
    state: &'static str,
}

/// A limit in force.
#[derive(Debug, Serialize)]
struct InForce {
    what: String,
    whose: String,
    limit: String,
}

/// The robot keys in force.
#[derive(Debug, Serialize)]
pub(super) struct RobotKeys {
    file: String,
    keys: usize,
    /// SHA-256 of the text that they were read from; null if there was no file.
    sha256: Option<String>,
    /// Why the file as it is now is not in force.
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct Trail {
    file: String,
    writable: bool,
    when_unwritable: &'static str,
    sinks: Vec<SinkState>,
}

/// An address that makes nearly all requests.
#[derive(Debug, Serialize)]
struct OneSource {
    address: String,
    advice: String,
}

#[derive(Debug, Serialize)]
struct Records {
    event: &'static str,
    outcome: &'static str,
    count: u64,
}

impl Status {
    pub(super) fn of(proxy: &Proxy, health: Health) -> Self {
        let (rules, retained) = (proxy.rules(), proxy.retained());
        let now = Timestamp::now();
        let counts = retained.audit.tally().counts().into_iter();
        let (access_rules, deny_rules) = rules.policy.sizes();
        let shown = &rules.shown;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: format!("{:.0}", retained.started),
            uptime_seconds: seconds(retained.started, now),
            health,
            config: Config {
                file: shown.file.display().to_string(),
                generation: rules.generation,
                loaded: format!("{:.0}", rules.loaded),
                age_seconds: seconds(rules.loaded, now),
                access_rules,
                deny_rules,
                last_reload: retained.reloads.last(),
            },
            certificate_not_after: format!("{:.0}", rules.certificate_ends),
            endings: shown.endings.iter().map(|one| ending(one, now)).collect(),
            limits: match rules.store.as_ref().map(|store| store.trouble()) {
                None => "this replica's own".to_owned(),
                Some(None) => "shared".to_owned(),
                Some(Some(trouble)) => format!("this replica's own: {trouble}"),
            },
            limits_in_force: limits(&shown.limits),
            robot_keys: RobotKeys::of(rules.robots.state()),
            audit: Trail {
                file: shown.audit_file.display().to_string(),
                writable: retained.audit.writable(),
                when_unwritable: match shown.when_unwritable {
                    WhenUnwritable::Refuse => "refuse",
                    WhenUnwritable::RefuseWrites => "refuse-writes",
                    WhenUnwritable::Serve => "serve",
                },
                sinks: retained.audit.sinks(),
            },
            turned_away: proxy.turned_away(),
            one_source: retained.shield.predominant(retained.now()).map(one_source),
            records: counts
                .map(|(event, outcome, count)| Records {
                    event: event.as_str(),
                    outcome: outcome.as_str(),
                    count,
                })
                .collect(),
            last_refusals: retained.audit.tally().recent(),
        }
    }

    /// The page for people: no script, nothing from elsewhere, every value escaped.
    pub(super) fn html(&self) -> String {
        let mut page = Page::new("Portcullis status");
        page.markup("<header>\n<h1>Portcullis</h1>\n<p>version ");
        page.text(self.version).markup(", up since ");
        page.text(&self.started).markup("</p>\n</header>\n<main>\n");
        self.tiles(&mut page);
        self.health(&mut page);
        self.one_source(&mut page);
        self.configuration(&mut page);
        self.endings(&mut page);
        self.limits(&mut page);
        self.refusals(&mut page);
        self.records(&mut page);
        page.markup(
            "</main>\n<footer>As it was when the page was asked for. The same for machines: ",
        );
        page.markup("<a href=\"/status.json\">/status.json</a>, <a href=\"/metrics\">/metrics</a>");
        page.markup("</footer>\n");
        page.finish()
    }

    fn tiles(&self, page: &mut Page) {
        let refused = |outcome: &str| {
            let counts = self.records.iter().filter(|one| one.outcome == outcome);
            counts.fold(0_u64, |sum, one| sum.saturating_add(one.count))
        };
        let ready = if self.health.ready {
            "ready"
        } else {
            "not ready"
        };
        page.markup("<ul class=\"tiles\">\n");
        for (value, what) in [
            (ready.to_owned(), "for clients"),
            (lasting(self.uptime_seconds), "up"),
            (
                self.config.generation.to_string(),
                "generation of the configuration",
            ),
            (lasting(self.config.age_seconds), "since it was loaded"),
            (refused("allowed").to_string(), "allowed"),
            (refused("denied").to_string(), "denied"),
            (refused("failed").to_string(), "without a good credential"),
            (self.turned_away.to_string(), "refused before parsing"),
        ] {
            page.within("<li><strong>", &value, "</strong><span>")
                .text(what);
            page.markup("</span></li>\n");
        }
        page.markup("</ul>\n");
    }

    fn health(&self, page: &mut Page) {
        page.markup("<section id=\"health\"><h2>Health</h2>\n<table>\n");
        state(page, "registry", &self.health.upstream);
        let audit = format!("{} ({})", self.audit.file, self.health.audit);
        let is_good = self.health.audit == "ok";
        row(page, "audit file", mark(is_good), &audit);
        for sink in self.audit.sinks.iter().filter(|sink| sink.name != "file") {
            let state = sink.failing.as_deref().unwrap_or("ok");
            let told = format!("{state}; {} records lost", sink.lost);
            let name = format!("audit {}", sink.name);
            row(page, &name, mark(sink.failing.is_none()), &told);
        }
        let policy = format!("{} while it cannot be written", self.audit.when_unwritable);
        row(page, "", "", &policy);
        match &self.health.directory {
            None => row(page, "directory", "", "none is configured"),
            Some(said) => state(page, "directory", said),
        }
        for server in &self.health.directory_servers {
            let said = match &server.trouble {
                None => server.server.clone(),
                Some(trouble) => format!("{}: {trouble}", server.server),
            };
            row(page, "", mark(server.trouble.is_none()), &said);
        }
        page.markup("</table></section>\n");
    }

    fn one_source(&self, page: &mut Page) {
        if let Some(one) = &self.one_source {
            page.markup("<section id=\"one-source\"><h2>One address</h2>\n<table>\n");
            let warn = "<span class=\"mark warn\">look</span>";
            row(page, &one.address, warn, &one.advice);
            page.markup("</table></section>\n");
        }
    }

    fn configuration(&self, page: &mut Page) {
        let config = &self.config;
        page.markup("<section id=\"config\"><h2>Configuration</h2>\n<table>\n");
        row(page, "file", "", &config.file);
        let rules = format!(
            "generation {}, loaded {}, {} access and {} deny rules",
            config.generation, config.loaded, config.access_rules, config.deny_rules
        );
        row(page, "in force", "", &rules);
        match &config.last_reload {
            None => row(page, "last reload", "", "none since the start"),
            Some(Reload { time, error: None }) => {
                row(
                    page,
                    "last reload",
                    mark(true),
                    &format!("{time}: in force"),
                );
            }
            Some(Reload {
                time,
                error: Some(error),
            }) => {
                let said = format!("{time}: refused, an older one stays in force: {error}");
                row(page, "last reload", mark(false), &said);
            }
        }
        let keys = &self.robot_keys;
        match &keys.trouble {
            None => {
                let said = format!("{} in force, of {}", keys.keys, keys.file);
                row(page, "robot keys", mark(true), &said);
            }
            Some(trouble) => {
                let said = format!("{} older ones in force: {trouble}", keys.keys);
                row(page, "robot keys", mark(false), &said);
            }
        }
        page.markup("</table></section>\n");
    }

    fn endings(&self, page: &mut Page) {
        page.markup("<section id=\"endings\"><h2>Certificates and revocation lists</h2>\n");
        page.markup("<table>\n<tr><th>what</th><th></th><th>ends</th><th>file</th></tr>\n");
        for one in &self.endings {
            page.within("<tr><td class=\"k\">", one.what, "</td><td class=\"t\">");
            page.markup(match one.state {
                "good" => "<span class=\"mark good\">good</span>",
                "soon" => "<span class=\"mark warn\">soon</span>",
                _ => "<span class=\"mark bad\">ended</span>",
            });
            page.within("</td><td class=\"t\">", &one.ends, " (");
            page.text(&days(one.days_left)).markup(")</td><td>");
            page.text(&one.file).markup("</td></tr>\n");
        }
        page.markup("</table></section>\n");
    }

    fn limits(&self, page: &mut Page) {
        page.markup("<section id=\"limits\"><h2>Limits in force</h2>\n");
        page.markup("<p class=\"note\">Pulls and wrong passwords are counted together with other replicas, or by ");
        page.markup("each alone: ")
            .text(&self.limits)
            .markup(".</p>\n<table>\n");
        page.markup("<tr><th>what</th><th>whose</th><th>limit</th></tr>\n");
        for one in &self.limits_in_force {
            page.within("<tr><td class=\"k\">", &one.what, "</td><td>");
            page.text(&one.whose).markup("</td><td class=\"t\">");
            page.text(&one.limit).markup("</td></tr>\n");
        }
        page.markup("</table></section>\n");
    }

    fn refusals(&self, page: &mut Page) {
        page.markup("<section id=\"refusals\"><h2>Last refusals</h2>\n");
        page.markup(
            "<p class=\"note\">The newest first. Names are as the callers gave them.</p>\n",
        );
        if self.last_refusals.is_empty() {
            page.markup("<p>None since the start.</p>\n");
        } else {
            page.markup("<table>\n<tr><th>time</th><th>ref</th><th>client</th><th>user</th>");
            page.markup("<th>action</th><th>repository</th><th>reason</th></tr>\n");
            self.last_refusals
                .iter()
                .rev()
                .for_each(|one| refusal(page, one));
            page.markup("</table>\n");
        }
        page.markup("</section>\n");
    }

    fn records(&self, page: &mut Page) {
        page.markup("<section id=\"records\"><h2>Audit records since the start</h2>\n<table>\n");
        page.markup("<tr><th>event</th><th>outcome</th><th class=\"n\">records</th></tr>\n");
        for one in &self.records {
            page.within("<tr><td>", one.event, "</td><td>")
                .text(one.outcome);
            page.markup("</td><td class=\"n\">")
                .text(&one.count.to_string());
            page.markup("</td></tr>\n");
        }
        page.markup("</table></section>\n");
    }
}

impl RobotKeys {
    pub(super) fn of(state: KeyringState) -> Self {
        Self {
            file: state.file.display().to_string(),
            keys: state.keys,
            sha256: state.text.map(|digest| hex(&digest)),
            trouble: state.trouble.map(String::from),
        }
    }
}

fn one_source(source: Source) -> OneSource {
    OneSource {
        address: source.to_string(),
        advice: format!(
            "Nearly all requests of the last minutes came from {source}. Is it a load balancer? Then \
             its clients share the limits of one address, and audit records name it instead of \
             them. Set server.trusted_proxies = [\"{source}\"] if it sends X-Forwarded-For, and also \
             server.proxy_protocol = \"required\" if it sends PROXY headers."
        ),
    }
}

fn mark(is_good: bool) -> &'static str {
    if is_good {
        "<span class=\"mark good\">ok</span>"
    } else {
        "<span class=\"mark bad\">bad</span>"
    }
}

fn state(page: &mut Page, name: &str, said: &str) {
    row(
        page,
        name,
        mark(said == "ok"),
        if said == "ok" { "" } else { said },
    );
}

fn row(page: &mut Page, name: &str, mark: &'static str, said: &str) {
    page.within("<tr><td class=\"k\">", name, "</td><td>");
    page.markup(mark);
    page.text(said).markup("</td></tr>\n");
}

fn refusal(page: &mut Page, refused: &Refused) {
    page.within("<tr><td class=\"t\">", &refused.time, "</td>");
    page.within("<td class=\"w\">", &refused.reference, "</td>");
    let client = refused.client.as_deref();
    page.within("<td class=\"w\">", client.unwrap_or("–"), "</td>");
    for cell in [
        refused.user.as_deref(),
        refused.action,
        refused.repository.as_deref(),
        refused.reason.as_deref(),
    ] {
        page.within("<td>", cell.unwrap_or("–"), "</td>");
    }
    page.markup("</tr>\n");
}

fn ending(one: &crate::tls::Ending, now: Timestamp) -> Ending {
    let left = one.ends.as_second().saturating_sub(now.as_second());
    let days_left = left.div_euclid(DAY);
    Ending {
        what: one.what,
        file: one.file.display().to_string(),
        ends: format!("{:.0}", one.ends),
        days_left,
        state: match days_left {
            ..0 => "over",
            0..=SOON_DAYS => "soon",
            _ => "good",
        },
    }
}

fn limits(limits: &Limits) -> Vec<InForce> {
    let limit = |what: &str, whose: String, limit: String| InForce {
        what: what.to_owned(),
        whose,
        limit,
    };
    let mut out: Vec<_> = limits
        .pulls
        .iter()
        .map(|one| {
            let who: Vec<_> = one.who.iter().map(named).collect();
            let of: Vec<_> = one.repositories.iter().map(Pattern::as_str).collect();
            let any = |all: String, none: &str| if all.is_empty() { none.to_owned() } else { all };
            let what = any(of.join(", "), "every repository");
            limit(
                &format!("pulls of {what}"),
                any(who.join(", "), "each caller"),
                quota(one.quota),
            )
        })
        .collect();
    let rates = limits.rates;
    let rate = |count: u32| {
        if count == 0 {
            "none".to_owned()
        } else {
            count.to_string()
        }
    };
    let source = || "each address or IPv6 /64".to_owned();
    out.extend([
        limit(
            "pulls",
            "each address without a user".to_owned(),
            quota(limits.anonymous_pulls),
        ),
        limit(
            "pulls",
            "each user".to_owned(),
            quota(limits.authenticated_pulls),
        ),
        limit(
            "different wrong passwords",
            "each user from one network".to_owned(),
            quota(limits.failed_logins),
        ),
        limit(
            "requests a second",
            source(),
            rate(rates.requests_per_second),
        ),
        limit(
            "new connections a second",
            source(),
            rate(rates.connections_per_second),
        ),
        limit(
            "requests at a time",
            source(),
            rate(rates.concurrent_requests),
        ),
    ]);
    out
}

fn named(who: &Who) -> String {
    match who {
        Who::Anonymous => "anonymous".to_owned(),
        Who::Authenticated => "authenticated".to_owned(),
        Who::Group(group) => format!("group:{}", group.as_str()),
        Who::User(subject) => format!("user:{}", subject.as_str().unwrap_or_default()),
    }
}

fn quota(quota: Quota) -> String {
    if quota.is_unlimited() {
        return "none".to_owned();
    }
    let seconds = i64::try_from(quota.per.as_secs()).unwrap_or(i64::MAX);
    format!("{} in {}", quota.count, lasting(seconds))
}

fn seconds(since: Timestamp, now: Timestamp) -> i64 {
    now.as_second().saturating_sub(since.as_second())
}

fn days(left: i64) -> String {
    match left {
        ..0 => "over".to_owned(),
        0 => "within a day".to_owned(),
        1 => "1 day left".to_owned(),
        more => format!("{more} days left"),
    }
}

/// A time in its two largest units.
fn lasting(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (hours, minutes, rest) = (
        rest.div_euclid(3600),
        rest.rem_euclid(3600).div_euclid(60),
        rest.rem_euclid(60),
    );
    let parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")];
    let shown = parts
        .into_iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2);
    let shown: Vec<_> = shown
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    if shown.is_empty() {
        return "0 s".to_owned();
    }
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{lasting, quota};
    use crate::limit::Quota;
    use std::time::Duration;

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_661, "1 h 1 min"),
            (21_600, "6 h"),
            (86_400 * 3 + 59, "3 d"),
            (86_400 + 7_200, "1 d 2 h"),
        ] {
            assert_eq!(lasting(seconds), text);
        }
        let per = Duration::from_hours(6);
        assert_eq!(quota(Quota { count: 100, per }), "100 in 6 h");
        assert_eq!(quota(Quota { count: 0, per }), "none");
    }
}
