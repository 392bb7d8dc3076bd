//! The report for machines. Its keys are stable: they are added to and not renamed.

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::bounded::{SampleSet, Top};
use super::counts::{Counts, Traffic};
use super::credential_health::Ending;
use super::gather::{Network, Person, Refused, Repository};
use super::summary::Summary;
use super::view::{Mark, findings};

/// Slices of time at most.
const SLICES: usize = 400;

/// The keys of the document, as `--help` shows them.
pub const KEYS: &str = "\
Keys of --json: generated, first, last, files, records, outside_period, skipped {torn, foreign,
too_long, places}, logins, challenges, suppressed, lockouts, outcomes {allowed, denied, failed,
limited, error, aborted}, traffic {pulls, pushes, deletes, bytes_in, bytes_out}, events [{event,
outcome, records}], users, networks, logins_by_user_and_network, refusals, repositories (each {rows,
others, rest}: the largest, how many others there are, and what they come to), timeline {unit,
slices}, week [{day, hours}], unused {days, credentials, reaches_back, rows}, certificates, keys,
weak_hashes, troubles, findings. Times are RFC 3339 in UTC, sizes are bytes. What suppressed records
stand for is counted one by one, but for the hours of the week, where a flood would hide the rest.";

impl Summary {
    /// The report for machines; [`KEYS`] lists its keys.
    pub fn json(&self) -> Value {
        let (found, health) = (&self.gathered, &self.health);
        let skipped = &found.skipped;
        let events = found.kinds.iter().map(
        |((event, outcome), count)| json!({ "event": event, "outcome": outcome, "records": count }),
    );
        let (unit, slices) = found.timeline.whole(SLICES);
        let slices = slices.into_iter().map(|(begin, slice)| {
            json!({
                "begin": begin.to_string(),
                "outcomes": outcomes(&slice.counts),
                "traffic": traffic(&slice.traffic),
            })
        });
        let week = found
            .week
            .days()
            .map(|(day, hours)| json!({ "day": day, "hours": hours }));
        let idle = health
            .unused
            .iter()
            .map(|one| json!({ "user": one.name, "kind": one.kind, "last_use": time(one.last) }));
        let hashes = health.weak.iter().map(|one| {
            json!({
                "user": one.user, "line": one.place, "what": one.cause, "remedy": one.remedy,
                "last_use": time(one.last),
            })
        });
        let findings = findings(self).into_iter().map(|(mark, text)| {
            let level = match mark {
                Mark::Bad => "act",
                Mark::Warn => "look",
                Mark::Good => "good",
            };
            json!({ "level": level, "text": text })
        });
        json!({
            "generated": self.terms.now.to_string(),
            "first": time(found.first),
            "last": time(found.last),
            "files": found.files,
            "records": found.records,
            "outside_period": found.outside,
            "skipped": {
                "torn": skipped.torn, "foreign": skipped.foreign, "too_long": skipped.too_long,
                "places": skipped.places,
            },
            "logins": found.logins,
            "challenges": found.challenges,
            "suppressed": found.suppressed,
            "lockouts": found.lockouts,
            "outcomes": outcomes(&found.counts),
            "traffic": traffic(&found.traffic),
            "events": events.collect::<Value>(),
            "users": users(&found.users.top(self.top)),
            "networks": networks(&found.networks.top(self.top)),
            "logins_by_user_and_network": logins(self),
            "refusals": refusals(self),
            "repositories": repositories(&found.repositories.top(self.top)),
            "timeline": { "unit": unit, "slices": slices.collect::<Value>() },
            "week": week.collect::<Value>(),
            "unused": {
                "days": self.unused_days(), "credentials": health.credentials,
                "reaches_back": health.reaches_back, "rows": idle.collect::<Value>(),
            },
            "certificates": endings(&health.certificates),
            "keys": endings(&health.keys),
            "weak_hashes": hashes.collect::<Value>(),
            "troubles": health.troubles,
            "findings": findings.collect::<Value>(),
        })
    }
}

fn users(top: &Top<'_, Option<String>, Person>) -> Value {
    let sum = |person: &Person| {
        let mut row = fields(json!({
            "logins": person.logins, "outcomes": outcomes(&person.counts),
            "methods": few(&person.methods), "networks": few(&person.networks),
            "last": time(person.last),
        }));
        row.extend(fields(traffic(&person.traffic)));
        row
    };
    listed(top, |user| json!({ "user": user }), sum)
}

fn networks(top: &Top<'_, IpNet, Network>) -> Value {
    let sum = |network: &Network| {
        fields(json!({
            "logins": network.logins, "outcomes": outcomes(&network.counts),
            "bytes": network.bytes, "users": few(&network.users), "last": time(network.last),
        }))
    };
    listed(
        top,
        |network| json!({ "network": network.to_string() }),
        sum,
    )
}

fn logins(report: &Summary) -> Value {
    listed(
        &report.gathered.logins_from.top(report.top),
        |(user, network)| json!({ "user": user, "network": network.map(|one| one.to_string()) }),
        |sum| {
            fields(json!({
                "logins": sum.count, "methods": few(&sum.methods), "last": time(sum.last),
            }))
        },
    )
}

fn refusals(report: &Summary) -> Value {
    listed(
        &report.gathered.refusals.top(report.top),
        |what| {
            json!({
                "outcome": what.outcome, "user": what.user, "reason": what.reason,
                "network": what.network.map(|one| one.to_string()),
            })
        },
        |sum: &Refused| {
            fields(json!({
                "count": sum.count, "last": time(sum.last), "last_ref": sum.reference,
                "last_repository": sum.repository,
            }))
        },
    )
}

fn repositories(top: &Top<'_, String, Repository>) -> Value {
    let sum = |sum: &Repository| {
        let mut row = fields(json!({
            "requests": sum.requests, "denied": sum.denied, "last": time(sum.last),
        }));
        row.extend(fields(traffic(&sum.traffic)));
        row
    };
    listed(top, |name| json!({ "repository": name }), sum)
}

fn listed<K, V>(
    top: &Top<'_, K, V>,
    key: impl Fn(&K) -> Value,
    sum: impl Fn(&V) -> Map<String, Value>,
) -> Value {
    let rows = top.rows.iter().map(|(name, value)| {
        let mut row = fields(key(name));
        row.extend(sum(value));
        Value::Object(row)
    });
    json!({ "rows": rows.collect::<Value>(), "others": top.others, "rest": sum(&top.rest) })
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

fn endings(all: &[Ending]) -> Value {
    let row = |one: &Ending| {
        json!({
            "what": one.what, "file": one.file, "ends": one.ends.to_string(),
            "days_left": one.days, "state": one.state.as_str(),
        })
    };
    all.iter().map(row).collect()
}

fn outcomes(counts: &Counts) -> Value {
    json!({
        "allowed": counts.allowed, "denied": counts.denied, "failed": counts.failed,
        "limited": counts.limited, "error": counts.error, "aborted": counts.aborted,
    })
}

fn traffic(traffic: &Traffic) -> Value {
    json!({
        "pulls": traffic.pulls, "pushes": traffic.pushes, "deletes": traffic.deletes,
        "bytes_in": traffic.bytes_in, "bytes_out": traffic.bytes_out,
    })
}

fn few<T: Ord + ToString>(few: &SampleSet<T>) -> Value {
    let mut all: Vec<_> = few.iter().map(ToString::to_string).collect();
    if few.has_more() {
        all.push("...".to_owned());
    }
    Value::from(all)
}

fn time(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}
