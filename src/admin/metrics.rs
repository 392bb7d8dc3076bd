//! The numbers as OpenMetrics. They are gathered at each scrape from where they are kept; the
//! metrics library only writes them.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::health::Health;
use crate::audit::{ActionTimes, BUCKETS};
use crate::proxy::Proxy;

type Labels = Vec<(&'static str, String)>;

/// The whole exposition.
pub(super) fn text(proxy: &Proxy, health: &Health) -> String {
    let mut registry = Registry::with_prefix("portcullis");
    records(&mut registry, proxy);
    requests(&mut registry, proxy);
    health_of_others(&mut registry, health);
    limits(&mut registry, proxy);
    sinks(&mut registry, proxy);
    state(&mut registry, proxy);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ok = encode(&mut text, &registry).is_ok();
    text
}

fn records(registry: &mut Registry, proxy: &Proxy) {
    let tally = proxy.retained().audit.tally();
    let records = Family::<Labels, Counter>::default();
    for (event, outcome, count) in tally.counts() {
        let labels = vec![
            ("event", event.as_str().to_owned()),
            ("outcome", outcome.as_str().to_owned()),
        ];
        records.get_or_create(&labels).inc_by(count);
    }
    registry.register("records", "Audit records, by event and outcome", records);
    let (received, sent) = tally.bytes();
    let bytes = Family::<Labels, Counter>::default();
    bytes
        .get_or_create(&vec![("direction", "in".to_owned())])
        .inc_by(received);
    bytes
        .get_or_create(&vec![("direction", "out".to_owned())])
        .inc_by(sent);
    registry.register_with_unit("body", "Body bytes from and to clients", Unit::Bytes, bytes);
}

/// Requests, their durations and rules. The labels are fixed sets, and the configured rules.
fn requests(registry: &mut Registry, proxy: &Proxy) {
    let served = proxy.retained().audit.tally().served();
    let (answers, times) = (Family::<Labels, Counter>::default(), served.actions());
    for one in &times {
        for (class, count) in &one.classes {
            let labels = vec![
                ("action", one.action.to_owned()),
                ("status", (*class).to_owned()),
            ];
            answers.get_or_create(&labels).inc_by(*count);
        }
    }
    registry.register(
        "requests",
        "Requests, by action and class of status",
        answers,
    );
    registry.register_with_unit(
        "request_duration",
        "From the head of a request to the end of its answer",
        Unit::Seconds,
        Durations(times),
    );
    let rules = Family::<Labels, Counter>::default();
    for (rule, outcome, count) in served.rules() {
        let labels = vec![("rule", rule), ("outcome", outcome.as_str().to_owned())];
        rules.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "rule_decisions",
        "Requests that a rule decided, by its place in the configuration",
        rules,
    );
}

/// A histogram for each action, out of counts that are kept elsewhere.
#[derive(Debug)]
struct Durations(Vec<ActionTimes>);

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = BUCKETS.into_iter().map(seconds).chain([f64::INFINITY]);
        for times in &self.0 {
            let buckets: Vec<_> = bounds.clone().zip(times.buckets.iter().copied()).collect();
            let count = times.buckets.iter().sum();
            let labels = [("action", times.action)];
            let mut histogram = encoder.encode_family(&labels)?;
            let sum = seconds(times.sum_us);
            histogram.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn seconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

/// Health of the registry and the directory, asked for the scrape.
fn health_of_others(registry: &mut Registry, health: &Health) {
    let upstream = Gauge::<i64>::default();
    upstream.set(i64::from(health.upstream == "ok"));
    registry.register("upstream_up", "1 while the registry answers", upstream);
    let directory = Family::<Labels, Gauge>::default();
    for server in &health.directory_servers {
        let labels = vec![("server", server.server.clone())];
        let up = i64::from(server.trouble.is_none());
        directory.get_or_create(&labels).set(up);
    }
    registry.register(
        "directory_up",
        "1 while a server of the LDAP directory answers as it should",
        directory,
    );
}

fn limits(registry: &mut Registry, proxy: &Proxy) {
    let turned_away = Counter::<u64>::default();
    turned_away.inc_by(proxy.turned_away());
    registry.register(
        "requests_turned_away",
        "Requests refused before parsing because their source made too many",
        turned_away,
    );
    let subjects = Gauge::<i64>::default();
    subjects.set(i64::try_from(proxy.retained().quotas.remembered()).unwrap_or(i64::MAX));
    registry.register(
        "limit_subjects",
        "Addresses and users whose pulls are remembered",
        subjects,
    );
    store(registry, proxy);
    shared(registry, proxy);
}

/// Places that all callers share, and callers that wait for them.
fn shared(registry: &mut Registry, proxy: &Proxy) {
    let (places, waits, refusals) = (
        Family::<Labels, Gauge>::default(),
        Family::<Labels, Counter>::default(),
        Family::<Labels, Counter>::default(),
    );
    for (resource, usage) in proxy.shared() {
        for (state, number) in [
            ("all", usage.places),
            ("taken", usage.taken),
            ("waited_for", usage.waiting),
        ] {
            let labels = vec![
                ("resource", resource.to_owned()),
                ("state", state.to_owned()),
            ];
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            places.get_or_create(&labels).set(number);
        }
        let labels = vec![("resource", resource.to_owned())];
        waits.get_or_create(&labels).inc_by(usage.waits);
        refusals.get_or_create(&labels).inc_by(usage.refusals);
    }
    registry.register(
        "shared_places",
        "Places that all callers share: how many there are, are taken and are waited for",
        places,
    );
    registry.register(
        "shared_waits",
        "Callers who waited for a shared place",
        waits,
    );
    registry.register(
        "shared_refusals",
        "Callers for whom there was no room to wait, or who made room for others",
        refusals,
    );
}

fn store(registry: &mut Registry, proxy: &Proxy) {
    let counts = &proxy.retained().store_counts;
    for (name, help, value) in [
        (
            "limit_store_questions",
            "Questions to the store that replicas share limits by",
            counts.asked(),
        ),
        (
            "limit_store_failures",
            "Questions to the store without a good answer in time",
            counts.failed(),
        ),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    if let Some(store) = &proxy.rules().store {
        let shared = Gauge::<i64>::default();
        shared.set(i64::from(store.trouble().is_none()));
        registry.register(
            "limit_store_up",
            "1 while limits are shared, 0 while each replica goes by its own count",
            shared,
        );
    }
}

fn sinks(registry: &mut Registry, proxy: &Proxy) {
    let failing = Family::<Labels, Gauge>::default();
    let lost = Family::<Labels, Counter>::default();
    for sink in proxy.retained().audit.sinks() {
        let labels = vec![("sink", sink.name.to_owned())];
        failing
            .get_or_create(&labels)
            .set(i64::from(sink.failing.is_some()));
        lost.get_or_create(&labels).inc_by(sink.lost);
    }
    registry.register(
        "audit_sink_failing",
        "1 while an audit sink cannot be written",
        failing,
    );
    registry.register(
        "audit_sink_lost_records",
        "Audit records that a sink never got",
        lost,
    );
}

fn state(registry: &mut Registry, proxy: &Proxy) {
    let (rules, retained) = (proxy.rules(), proxy.retained());
    let mut gauge = |name: &str, help: &str, value: i64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    gauge(
        "config_generation",
        "Configurations put in force since the start",
        i64::try_from(rules.generation).unwrap_or(i64::MAX),
    );
    gauge(
        "config_reload_failed",
        "1 when the last reload was refused and an older configuration is in force",
        i64::from(
            retained
                .reloads
                .last()
                .is_some_and(|last| last.error.is_some()),
        ),
    );
    gauge(
        "audit_writable",
        "1 while every required audit sink can be written",
        i64::from(retained.audit.writable()),
    );
    gauge(
        "start_time_seconds",
        "When the process started, seconds since the epoch",
        retained.started.as_second(),
    );
    let ends = Family::<Labels, Gauge>::default();
    for one in &rules.shown.endings {
        let file = one.file.display().to_string();
        let labels = vec![("what", one.what.to_owned()), ("file", file)];
        ends.get_or_create(&labels).set(one.ends.as_second());
    }
    registry.register(
        "expiry_timestamp_seconds",
        "When a certificate, an authority or a revocation list ends, seconds since the epoch",
        ends,
    );
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let build = Family::<Labels, Gauge>::default();
    build.get_or_create(&version).set(1);
    registry.register("build_info", "The version, as a label", build);
}
