//! A client's trace reaches the registry, the audit trail and the log.

use crate::support::{Lab, Reply, Upstream, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_trace_is_passed_on_and_noted() {
    let upstream = Upstream::start(|_| Reply::ok("{}")).await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let list = || lab.user("alice").get("/v2/team-a/app/tags/list");
    let valid = list().header("traceparent", PARENT);
    let valid = valid.header("tracestate", "vendor=x");
    assert_eq!(valid.send().await.status, 200);
    let nonsense = list().header("traceparent", PARENT.to_uppercase());
    let nonsense = nonsense.header("tracestate", "vendor=x");
    assert_eq!(nonsense.send().await.status, 200);
    let seen = upstream.seen();
    assert_eq!(seen[0].values("traceparent"), [PARENT]);
    assert_eq!(seen[0].values("tracestate"), ["vendor=x"]);
    assert!(!seen[1].has("traceparent") && !seen[1].has("tracestate"));
    let traces = eventually("two records", || {
        let records = lab.audit().records().into_iter();
        let of_lists = records.filter(|record| record["repository"] == "team-a/app");
        let traces: Vec<_> = of_lists.map(|record| record["trace"].clone()).collect();
        (traces.len() == 2).then_some(traces)
    });
    assert_eq!(
        traces.await,
        [serde_json::json!(TRACE), serde_json::Value::Null]
    );
}

#[tokio::test]
async fn the_log_names_the_trace_of_what_failed() {
    let builder = Lab::builder().upstream("http://127.0.0.1:9");
    let lab = builder.more("[log]\nformat = \"json\"\n").start().await;
    let list = lab.user("alice").get("/v2/team-a/app/tags/list");
    assert_eq!(list.header("traceparent", PARENT).send().await.status, 502);
    let log = lab.process.log();
    let line = log
        .lines()
        .find(|line| line.contains("the registry failed"));
    let line: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
    assert_eq!(line["span"]["trace"], TRACE, "{line}");
}
