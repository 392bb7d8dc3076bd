//! What a manifest costs as things grow: connections at a time, rules, users, addresses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::changes::{from_source, once_each};
use super::{Arena, Axis, Caller, Case, Entry, Goal, Limit, Point, STUB, Values, Work, named};
use crate::client::{Call, Http};
use crate::fleet::{Fleet, Supply, always};
use crate::peers::Peer;

/// Requests at a time, where that is not what grows.
const WIDTH: usize = 32;
const DECADES: &[usize] = &[10, 100, 1_000, 10_000, 100_000];
/// Where a line differs from another only if it is long.
const LARGE: &[usize] = &[1_000, 10_000, 100_000];
/// More than this over a decade is a cliff.
pub(crate) const CLIFF: f64 = 2.0;

/// A line of a curve: who is asked, in what set-up, by whom.
struct Line {
    label: &'static str,
    peer: Peer,
    traits: &'static [&'static str],
    caller: Caller,
    sizes: &'static [usize],
}

pub(super) fn cases() -> Vec<Case> {
    vec![connections(), rules(), users(), sources()]
}

fn connections() -> Case {
    let line = |peer: Peer| Line {
        label: peer.name(),
        peer,
        traits: &["basic", "wide"],
        caller: Caller::Basic,
        sizes: &[1, 10, 100, 1_000],
    };
    Case {
        metrics: &["cpu_us", "per_second", "p99_us"],
        note: "So many connections, each asking again as soon as it is answered, so what grows with \
               their number in the last column is mostly the queue. nginx may keep 1,024 connections \
               to the registry here.",
        ..curve(
            "growth-connections",
            "manifest GET, Basic, connections at a time",
            Axis::Connections,
            &[line(Peer::Portcullis), line(Peer::Nginx)],
        )
    }
}

fn rules() -> Case {
    let line = |label, peer, traits, sizes| Line {
        label,
        peer,
        traits,
        caller: Caller::Basic,
        sizes,
    };
    let ours = Peer::Portcullis;
    Case {
        note: "A rule for each of so many teams (`group-7/**`), or for each project of one team \
               (`team-a/project-7/**`), or for a name in any team (`**/project-7`); the rule that \
               allows the request is behind them. nginx has a \
               location with a file of users for each team.",
        ..curve(
            "growth-rules",
            "manifest GET, Basic, rules",
            Axis::Rules,
            &[
                line("portcullis", ours, &["basic"], DECADES),
                line("one team", ours, &["basic", "one-team"], LARGE),
                line("any team", ours, &["basic", "anywhere"], LARGE),
                line("nginx", Peer::Nginx, &["basic"], DECADES),
            ],
        )
    }
}

fn users() -> Case {
    let line = |peer: Peer| Line {
        label: peer.name(),
        peer,
        traits: &["basic"],
        caller: Caller::Basic,
        sizes: DECADES,
    };
    Case {
        note: "Users of the htpasswd file, the caller in the middle of it. nginx reads the file from \
               its beginning at each request.",
        ..curve(
            "growth-users",
            "manifest GET, Basic, users",
            Axis::Users,
            &[line(Peer::Portcullis), line(Peer::Nginx)],
        )
    }
}

fn sources() -> Case {
    Case {
        metrics: &["cpu_us", "memory_mib"],
        note: "Anonymous, under a limit for each address: so many addresses have asked once, and now \
               they take turns.",
        ..curve(
            "growth-sources",
            "manifest GET, anonymous, addresses",
            Axis::Sources,
            &[Line {
                label: "portcullis",
                peer: Peer::Portcullis,
                traits: &["proxied"],
                caller: Caller::Silent,
                sizes: DECADES,
            }],
        )
    }
}

fn curve(id: &'static str, title: &'static str, axis: Axis, lines: &[Line]) -> Case {
    Case {
        group: "growth",
        id,
        title,
        metrics: &["cpu_us", "memory_mib", "start_ms"],
        // Each size is a turn of everybody's.
        entries: lines.iter().flat_map(|line| line.entries(axis)).collect(),
        goals: vec![Goal {
            entry: "portcullis",
            metric: "cpu_us",
            limit: Limit::PerDecade(CLIFF),
        }],
        reference: "",
        most_repeats: 3,
        note: "",
        work: Work::Growth,
    }
}

impl Line {
    fn entries(&self, axis: Axis) -> impl Iterator<Item = Entry> {
        self.sizes.iter().map(move |&size| {
            let label = format!("{}, {size}", self.label);
            let mut entry = named(&label, self.peer, STUB, self.traits, self.caller);
            match axis {
                Axis::Connections | Axis::Sources => {}
                Axis::Rules => entry.setup.rules = size,
                Axis::Users => entry.setup.users = Some(size),
            }
            let line = self.label;
            entry.point = Some(Point { line, axis, size });
            entry
        })
    }
}

/// One size: a server of its own, so that none remembers what came before.
pub(super) async fn run(arena: &Arena<'_>) -> Result<Values> {
    let Point { axis, size, .. } = arena.entry.point.context("not a curve")?;
    let running = arena.start()?;
    let server = arena.server(&running);
    let call = Call::manifest(&arena.bench.lab.content);
    let call = call.with(arena.authorization(&running).await?);
    running.greet(&call).await?;
    let width = match axis {
        Axis::Connections => size,
        Axis::Rules | Axis::Users | Axis::Sources => WIDTH,
    };
    let mut fleet = Fleet::open(&running.route.dial(Http::One), Http::One, width).await?;
    let supply = match axis {
        Axis::Connections | Axis::Rules | Axis::Users => always(call),
        Axis::Sources => {
            let first = once_each(call.clone(), size);
            fleet.run(Duration::from_mins(1), &first).await?;
            in_turns(call, size)
        }
    };
    fleet.run(arena.bench.time / 3, &supply).await?;
    let (done, cost) = arena
        .measure(&running, fleet.run(arena.bench.time, &supply))
        .await?;
    let mut values = cost.each(&done);
    values.insert("memory_mib", server.memory() / f64::from(1 << 20));
    values.insert("start_ms", server.started_in.as_secs_f64() * 1e3);
    Ok(values)
}

/// Calls from so many addresses, one after the other, again and again.
fn in_turns(call: Call, count: usize) -> Arc<dyn Supply> {
    let next = AtomicUsize::new(0);
    Arc::new(move || {
        let number = next.fetch_add(1, Ordering::Relaxed) % count;
        Some(from_source(&call, number))
    })
}
