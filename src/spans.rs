//! A span of each request for an OpenTelemetry collector: OTLP, protobuf over plain HTTP.
//!
//! A span says what the audit record of the request says of its method, action, repository and
//! status; nothing of who asked. Spans are queued and sent in batches by a thread of their own. When
//! the collector is down or slow they are lost: a request never waits for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::audit::{self, Tally};
use crate::telemetry::{Collector, Settings};

/// For one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a collector's answer at most.
const MAX_ANSWER: usize = 64 << 10;

/// What sends them.
pub struct Spans(Arc<BatchSpanProcessor>);

/// Sends a span of each request from now on, if there is a collector.
pub fn start(config: &Settings, tally: &Tally) -> Result<Option<Spans>, ExporterBuildError> {
    let Some(collector) = &config.collector else {
        return Ok(None);
    };
    let client = Client {
        collector: collector.clone(),
        runtime: Handle::current(),
    };
    let (host, port) = (&collector.host, collector.port);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("http://{host}:{port}/v1/traces"))
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let resource = Resource::builder_empty()
        .with_service_name("portcullis")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    processor.set_resource(&resource.build());
    let processor = Arc::new(processor);
    let spans = Spans(Arc::clone(&processor));
    tally.watch(Box::new(move |request| {
        if let Some(span) = span_of(request) {
            processor.on_end(span);
        }
    }));
    Ok(Some(spans))
}

/// Sends what has not been sent yet.
pub async fn finish(spans: Option<Spans>) {
    let Some(Spans(processor)) = spans else {
        return;
    };
    let ended =
        tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(EXPORT_TIMEOUT));
    if let Ok(Err(error)) = ended.await {
        tracing::warn!(%error, "the last spans are lost");
    }
}

fn span_of(request: &audit::Request<'_>) -> Option<SpanData> {
    let span = request.span.filter(|span| span.sampled)?;
    let context = SpanContext::new(
        TraceId::from(span.trace.get()),
        SpanId::from(span.id),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    let start_time = SystemTime::from(request.began);
    let lasting = Duration::from_micros(request.duration_us);
    let method = request.method.unwrap_or("?").to_owned();
    let action = request.action.unwrap_or("none");
    let mut attributes = vec![
        KeyValue::new("http.response.status_code", i64::from(request.status)),
        KeyValue::new("portcullis.action", action),
        KeyValue::new("portcullis.outcome", request.outcome.as_str()),
    ];
    let repository = request.repository.map(str::to_owned);
    attributes.extend(repository.map(|name| KeyValue::new("portcullis.repository", name)));
    let name = format!("{method} {action}").into();
    attributes.push(KeyValue::new("http.request.method", method));
    Some(SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.parent.is_some(),
        span_kind: SpanKind::Server,
        name,
        start_time,
        end_time: start_time.checked_add(lasting).unwrap_or(start_time),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if request.status >= 500 {
            Status::error("")
        } else {
            Status::Unset
        },
        instrumentation_scope: InstrumentationScope::builder("portcullis").build(),
    })
}

/// Asks from the exporter's thread on our runtime.
#[derive(Debug)]
struct Client {
    collector: Collector,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let posted = post(self.collector.clone(), request);
        // The timer too has to be made on the runtime.
        let in_time = async move { tokio::time::timeout(EXPORT_TIMEOUT, posted).await };
        self.runtime.spawn(in_time).await??
    }
}

async fn post(to: Collector, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let Collector { host, port } = to;
    let stream = TcpStream::connect((&*host, port)).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let authority = HeaderValue::from_str(&format!("{host}:{port}"))?;
    request.headers_mut().insert(HOST, authority);
    *request.uri_mut() = Uri::from_static("/v1/traces");
    let answer = sender.send_request(request.map(Full::new)).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}
