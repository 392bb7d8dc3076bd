//! The numbers as OpenMetrics. They are gathered at each scrape from where they are kept; the
//! metrics library only writes them.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::audit::BUCKETS;
use crate::server::Proxy;

type Labels = Vec<(&'static str, String)>;

/// The whole exposition.
pub(super) fn text(proxy: &Proxy) -> String {
    let mut registry = Registry::with_prefix("portcullis");
    records(&mut registry, proxy);
    durations(&mut registry, proxy);
    limits(&mut registry, proxy);
    sinks(&mut registry, proxy);
    state(&mut registry, proxy);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ok = encode(&mut text, &registry).is_ok();
    text
}

fn records(registry: &mut Registry, proxy: &Proxy) {
    let tally = proxy.ledger().audit.tally();
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

/// Counters by upper bound, cumulative: what a histogram is made of.
fn durations(registry: &mut Registry, proxy: &Proxy) {
    let tally = proxy.ledger().audit.tally();
    let within = Family::<Labels, Counter>::default();
    let mut total: u64 = 0;
    let bounds = BUCKETS
        .iter()
        .map(ToString::to_string)
        .chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(tally.durations()) {
        total = total.saturating_add(count);
        within
            .get_or_create(&vec![("microseconds", bound)])
            .inc_by(total);
    }
    registry.register(
        "requests_within",
        "Requests that took at most so long",
        within,
    );
    let time = Counter::<u64>::default();
    time.inc_by(tally.duration_us());
    registry.register(
        "requests_microseconds",
        "Time of all requests together",
        time,
    );
}

fn limits(registry: &mut Registry, proxy: &Proxy) {
    let turned_away = Counter::<u64>::default();
    turned_away.inc_by(proxy.turned_away());
    registry.register(
        "requests_turned_away",
        "Requests turned away unread because their source made too many",
        turned_away,
    );
    let subjects = Gauge::<i64>::default();
    subjects.set(i64::try_from(proxy.ledger().quotas.remembered()).unwrap_or(i64::MAX));
    registry.register(
        "limit_subjects",
        "Addresses and users whose pulls are remembered",
        subjects,
    );
    store(registry, proxy);
}

fn store(registry: &mut Registry, proxy: &Proxy) {
    let counts = &proxy.ledger().store_counts;
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
    for sink in proxy.ledger().audit.sinks() {
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
    let (rules, ledger) = (proxy.rules(), proxy.ledger());
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
            ledger
                .reloads
                .last()
                .is_some_and(|last| last.error.is_some()),
        ),
    );
    gauge(
        "audit_writable",
        "1 while every required audit sink can be written",
        i64::from(ledger.audit.writable()),
    );
    gauge(
        "certificate_not_after_seconds",
        "When the server certificate ends, seconds since the epoch",
        rules.certificate_ends.as_second(),
    );
    gauge(
        "start_time_seconds",
        "When the process started, seconds since the epoch",
        ledger.started.as_second(),
    );
}
