//! Spans of requests reach an OpenTelemetry collector, which reads what arrives by the protocol's own
//! definition (opentelemetry-proto, trace/v1). A test binary of its own, so that the feature costs a
//! second build of the program and of nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking, also in the helpers that are no #[test] themselves"
)]

mod support;

use std::collections::BTreeMap;

use rustix::process::Signal;

use support::{Lab, Reply, Upstream, password};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const CLIENT: u64 = 0xb7ad_6b71_6920_3331;
/// `SPAN_KIND_SERVER`, and `STATUS_CODE_ERROR`.
const SERVER: u64 = 2;
const ERROR: u64 = 2;

/// What a field of a message holds.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A protobuf message, as its fields in order.
#[derive(Clone, Debug)]
struct Message<'a>(Vec<(u64, Value<'a>)>);

impl<'a> Message<'a> {
    fn read(mut bytes: &'a [u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => Value::Number(varint(&mut bytes)),
                1 => Value::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)).unwrap();
                    Value::Bytes(take(&mut bytes, length))
                }
                5 => {
                    let number = u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap());
                    Value::Number(number.into())
                }
                other => panic!("{other} is no wire type"),
            };
            fields.push((key >> 3, value));
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = Value<'a>> {
        let fields = self.0.iter().filter(move |(found, _)| *found == number);
        fields.map(|(_, value)| *value)
    }

    fn messages(&self, number: u64) -> Vec<Self> {
        let read = |value| match value {
            Value::Bytes(bytes) => Self::read(bytes),
            Value::Number(number) => panic!("{number} is no message"),
        };
        self.all(number).map(read).collect()
    }

    /// Zero where it is left out.
    fn number(&self, number: u64) -> u64 {
        match self.all(number).last() {
            Some(Value::Number(found)) => found,
            None => 0,
            Some(Value::Bytes(bytes)) => panic!("{bytes:x?} is no number"),
        }
    }

    /// Empty where it is left out.
    fn bytes(&self, number: u64) -> &'a [u8] {
        match self.all(number).last() {
            Some(Value::Bytes(bytes)) => bytes,
            None => &[],
            Some(Value::Number(number)) => panic!("{number} is no text"),
        }
    }

    fn text(&self, number: u64) -> String {
        String::from_utf8(self.bytes(number).to_vec()).unwrap()
    }

    /// The fields of `KeyValue` messages, whose values are strings or numbers.
    fn attributes(&self, number: u64) -> BTreeMap<String, String> {
        let read = |pair: Self| {
            let value = pair.messages(2).remove(0);
            let text = match value.0[0] {
                (1, Value::Bytes(_)) => value.text(1),
                (3, Value::Number(number)) => number.to_string(),
                other => panic!("{other:?} is neither a string nor a number"),
            };
            (pair.text(1), text)
        };
        self.messages(number).into_iter().map(read).collect()
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for at in 0..10 {
        let byte = take(bytes, 1)[0];
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return number;
        }
    }
    panic!("a number without an end")
}

#[derive(Debug)]
struct Span {
    trace: u128,
    id: u64,
    parent: Option<u64>,
    name: String,
    kind: u64,
    nanoseconds: u64,
    attributes: BTreeMap<String, String>,
    status: u64,
}

impl Span {
    fn read(message: &Message<'_>) -> Self {
        let id = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
        let parent = message.bytes(4);
        Self {
            trace: u128::from_be_bytes(message.bytes(1).try_into().unwrap()),
            id: id(message.bytes(2)),
            parent: (!parent.is_empty()).then(|| id(parent)),
            name: message.text(5),
            kind: message.number(6),
            nanoseconds: message.number(8).checked_sub(message.number(7)).unwrap(),
            attributes: message.attributes(9),
            status: message
                .messages(15)
                .first()
                .map_or(0, |status| status.number(3)),
        }
    }

    #[track_caller]
    fn assert_says(&self, wanted: [(&str, &str); 5]) {
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(self.attributes, BTreeMap::from(wanted));
    }
}

/// The spans of an `ExportTraceServiceRequest`, each with what is said of the process.
fn spans(body: &[u8]) -> Vec<(BTreeMap<String, String>, Span)> {
    let mut found = Vec::new();
    for resource in Message::read(body).messages(1) {
        let about = resource.messages(1).remove(0).attributes(1);
        for scope in resource.messages(2) {
            assert_eq!(scope.messages(1).remove(0).text(1), "portcullis");
            let spans = scope.messages(2);
            found.extend(spans.iter().map(|span| (about.clone(), Span::read(span))));
        }
    }
    found
}

fn holds(body: &[u8], bytes: &[u8]) -> bool {
    body.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test]
async fn a_request_becomes_a_span_between_client_and_registry() {
    let collector = Upstream::start(|_| Reply::ok("{}")).await;
    let registry = Upstream::start(|seen| match seen.target() {
        target if target.starts_with("/v2/team-a/broken/") => Reply::status("500 x", "{}"),
        _ => Reply::ok("{}"),
    })
    .await;
    let section = format!("[telemetry]\notlp_endpoint = \"{}\"\n", collector.url());
    let builder = Lab::builder().upstream(registry.url());
    let mut lab = builder.more(&section).start().await;
    let list = |name: &str| {
        let path = format!("/v2/team-a/{name}/tags/list");
        lab.user("alice").get(&path)
    };
    let parent = format!("00-{TRACE:032x}-{CLIENT:016x}-01");
    let traced = list("app").header("traceparent", parent).send().await;
    assert_eq!(traced.status, 200);
    // One of which the client wants no record, and one without a trace.
    let unsampled = format!("00-{:032x}-{CLIENT:016x}-00", 77);
    let silent = list("app").header("traceparent", unsampled).send().await;
    assert_eq!(silent.status, 200);
    assert_eq!(list("broken").send().await.status, 500);

    let seen = registry.seen();
    let told = |number: usize| -> Vec<String> {
        let value = seen[number].values("traceparent")[0];
        value.split('-').map(str::to_owned).collect()
    };
    assert_eq!(told(0)[1], format!("{TRACE:032x}"));
    assert_eq!((&*told(1)[3], &*told(2)[3]), ("00", "01"));

    lab.process.signal(Signal::TERM);
    assert_eq!(lab.process.wait().await.code(), Some(0));
    let sent = collector.seen();
    for one in &sent {
        assert_eq!(one.line(), "POST /v1/traces HTTP/1.1");
        assert_eq!(one.values("content-type"), ["application/x-protobuf"]);
    }
    let mut found: Vec<_> = sent.iter().flat_map(|one| spans(&one.body)).collect();
    assert_eq!(found.len(), 2, "{found:#?}");
    for (about, span) in &found {
        assert_eq!(about["service.name"], "portcullis");
        assert_eq!(about["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((&*span.name, span.kind), ("GET pull", SERVER));
        assert!((1..60_000_000_000).contains(&span.nanoseconds), "{span:?}");
    }
    found.sort_by_key(|(_, span)| span.parent);
    let [(_, root), (_, child)] = &found[..] else {
        panic!("{found:#?}");
    };
    assert_eq!((child.trace, child.parent), (TRACE, Some(CLIENT)));
    assert_eq!(told(0)[2], format!("{:016x}", child.id));
    assert_eq!(child.status, 0);
    child.assert_says([
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("portcullis.action", "pull"),
        ("portcullis.outcome", "allowed"),
        ("portcullis.repository", "team-a/app"),
    ]);
    // A trace that begins here.
    assert_eq!((root.parent, root.status), (None, ERROR));
    let here = (format!("{:032x}", root.trace), format!("{:016x}", root.id));
    assert_eq!((&told(2)[1], &told(2)[2]), (&here.0, &here.1));
    root.assert_says([
        ("http.request.method", "GET"),
        ("http.response.status_code", "500"),
        ("portcullis.action", "pull"),
        ("portcullis.outcome", "error"),
        ("portcullis.repository", "team-a/broken"),
    ]);
    for secret in ["alice".to_owned(), password("alice")] {
        let is_told = |one: &support::Seen| holds(&one.body, secret.as_bytes());
        assert!(!sent.iter().any(is_told), "{secret}");
    }
}
