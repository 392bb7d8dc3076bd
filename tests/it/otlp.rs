//! Spans of requests reach an OpenTelemetry collector.

use rustix::process::Signal;

use crate::support::{Lab, Reply, Upstream, password};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const CLIENT: u64 = 0xb7ad_6b71_6920_3331;

fn holds(body: &[u8], bytes: &[u8]) -> bool {
    body.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test]
async fn a_request_becomes_a_span_between_client_and_registry() {
    let collector = Upstream::start(|_| Reply::ok("{}")).await;
    let registry = Upstream::start(|_| Reply::ok("{}")).await;
    let section = format!("[telemetry]\notlp_endpoint = \"{}\"\n", collector.url());
    let builder = Lab::builder().upstream(registry.url());
    let mut lab = builder.more(&section).start().await;
    let list = || lab.user("alice").get("/v2/team-a/app/tags/list");
    let parent = format!("00-{TRACE:032x}-{CLIENT:016x}-01");
    assert_eq!(
        list().header("traceparent", parent).send().await.status,
        200
    );
    // One of which the client wants no record, and one without a trace.
    let unsampled = format!("00-{:032x}-{CLIENT:016x}-00", 77);
    assert_eq!(
        list().header("traceparent", unsampled).send().await.status,
        200
    );
    assert_eq!(list().send().await.status, 200);

    let seen = registry.seen();
    let told = |number: usize| -> Vec<String> {
        let value = seen[number].values("traceparent")[0];
        value.split('-').map(str::to_owned).collect()
    };
    let ours = told(0);
    assert_eq!(ours[1], format!("{TRACE:032x}"));
    assert_ne!(ours[2], format!("{CLIENT:016x}"), "a span of our own");
    assert_eq!((&*told(1)[3], &*told(2)[3]), ("00", "01"));

    lab.process.signal(Signal::TERM);
    assert_eq!(lab.process.wait().await.code(), Some(0));
    let sent = collector.seen();
    assert!(
        sent.iter()
            .all(|one| one.line() == "POST /v1/traces HTTP/1.1")
    );
    let body: Vec<u8> = sent.iter().flat_map(|one| one.body.clone()).collect();
    let our_span = u64::from_str_radix(&ours[2], 16).unwrap();
    for bytes in [
        &TRACE.to_be_bytes()[..],
        &CLIENT.to_be_bytes(),
        &our_span.to_be_bytes(),
    ] {
        assert!(holds(&body, bytes), "{bytes:x?}");
    }
    for text in [
        "GET pull",
        "team-a/app",
        "portcullis.outcome",
        "service.version",
    ] {
        assert!(holds(&body, text.as_bytes()), "{text}");
    }
    assert!(
        !holds(&body, &77_u128.to_be_bytes()),
        "it was not to be recorded"
    );
    for secret in ["alice".to_owned(), password("alice")] {
        assert!(!holds(&body, secret.as_bytes()), "{secret}");
    }
}
