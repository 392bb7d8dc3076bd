//! Health, metrics and status, over plain HTTP on an address of their own (loopback by default).
//!
//! | path | says |
//! |---|---|
//! | `/livez` | the process answers |
//! | `/readyz` | 200 when the registry answers and the audit trail can be written, else 503; reports each separately, and the directory. 503 while draining |
//! | `/metrics` | OpenMetrics |
//! | `/status`, `/status.json` | one page for people, the same for machines |
//!
//! Nothing here changes anything, and no secret is shown.
//!
//! A directory outage is shown but does not affect readiness: callers who need no directory (keys,
//! tokens of files, certificates, anonymous pulls) are served, and it is down for every replica.

mod metrics;
mod place;
mod settings;
mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

pub use place::{Admin, Move};
pub use settings::Settings;
use status::{RobotKeys, Status};

use crate::authn::ldap::Diagnosis;
use crate::limit::connections::Origin;
use crate::proxy::Proxy;
use crate::transport::{Room, Seat};

/// Connections at a time: a handful of scrapers and browsers.
const MAX_CONNECTIONS: usize = 64;
/// Time for a request's head, and for the registry to answer when it is asked for its health.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until it is dropped. Idle connections keep no one out: the oldest of the largest source is
/// closed for a new one.
async fn serve(listener: TcpListener, proxy: Arc<Proxy>) {
    let room = Room::new(MAX_CONNECTIONS, usize::MAX);
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            room.shrink().await;
            continue;
        };
        let Ok(seat) = room.seat(from.ip(), Origin::Client).await else {
            continue;
        };
        tokio::spawn(serve_connection(stream, seat, Arc::clone(&proxy)));
    }
}

async fn serve_connection(stream: TcpStream, seat: Seat, proxy: Arc<Proxy>) {
    let occupant = seat.occupant();
    let service = service_fn(|request: Request<Incoming>| {
        let (proxy, busy) = (Arc::clone(&proxy), occupant.begin());
        async move {
            let answer = answer(&proxy, &request).await;
            drop(busy);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ANSWER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error of the connection concerns the scraper alone.
        _ended = connection => {}
        () = occupant.asked_to_leave() => {}
    }
}

async fn answer(proxy: &Proxy, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return page(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET\n".to_owned(),
        );
    }
    match request.uri().path() {
        "/livez" => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let health = health(proxy).await;
            let status = if health.ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            page(status, JSON, json(&health))
        }
        "/metrics" => {
            let health = health(proxy).await;
            page(StatusCode::OK, OPEN_METRICS, metrics::text(proxy, &health))
        }
        "/status.json" => page(
            StatusCode::OK,
            JSON,
            json(&Status::of(proxy, health(proxy).await)),
        ),
        // Not part of the status, which waits for the registry and the directory.
        "/keys.json" => page(
            StatusCode::OK,
            JSON,
            json(&RobotKeys::of(proxy.rules().robots.state())),
        ),
        "/status" | "/" => page(
            StatusCode::OK,
            HTML,
            Status::of(proxy, health(proxy).await).html(),
        ),
        _ => page(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /livez, /readyz, /metrics, /status, /status.json and /keys.json\n"
                .to_owned(),
        ),
    }
}

/// Conditions of readiness: `"ok"`, or a fault.
#[derive(Debug, Serialize)]
struct Health {
    ready: bool,
    draining: bool,
    upstream: String,
    audit: String,
    /// `None` where there is none.
    directory: Option<String>,
    directory_servers: Vec<DirectoryServer>,
}

/// One server of the directory.
#[derive(Debug, Serialize)]
struct DirectoryServer {
    server: String,
    trouble: Option<String>,
}

async fn health(proxy: &Proxy) -> Health {
    let rules = proxy.rules();
    let directory = async {
        let known = Arc::clone(rules.authenticator.directory()?);
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, known.diagnose(None)).await;
        Some(asked.unwrap_or_default())
    };
    let registry = tokio::time::timeout(ANSWER_TIMEOUT, rules.upstream.probe());
    let (registry, directory) = tokio::join!(registry, directory);
    let upstream = match registry {
        Ok(Ok(_any_answer)) => "ok".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "the registry did not answer in time".to_owned(),
    };
    let is_writable = proxy.retained().audit.writable();
    let sinks = proxy.retained().audit.sinks();
    let failing = sinks
        .iter()
        .find_map(|sink| Some((sink.name, sink.failing.as_ref()?)).filter(|_| sink.required));
    let audit = match failing {
        Some((name, why)) if !is_writable => format!("the audit {name} cannot be written: {why}"),
        Some(_) | None => "ok".to_owned(),
    };
    let draining = proxy.is_draining();
    Health {
        ready: upstream == "ok" && is_writable && !draining,
        draining,
        upstream,
        audit,
        directory: directory.as_deref().map(said_of),
        directory_servers: directory
            .unwrap_or_default()
            .into_iter()
            .map(|one| DirectoryServer {
                server: one.server,
                trouble: one.trouble,
            })
            .collect(),
    }
}

/// One server that answers is a directory that answers.
fn said_of(servers: &[Diagnosis]) -> String {
    let good = servers.iter().filter(|one| one.trouble.is_none()).count();
    match (good, servers.len()) {
        (_, 0) => "did not answer in time".to_owned(),
        (0, _) => "no server answers as it should".to_owned(),
        (good, all) if good == all => "ok".to_owned(),
        (good, all) => format!("{good} of {all} servers answer"),
    }
}

fn json<T: Serialize>(value: &T) -> String {
    // Structs of strings and numbers always serialise.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if kind == HTML {
        let policy = format!("{}; frame-ancestors 'none'", crate::page::policy());
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.extend(HeaderValue::try_from(policy).map(|value| (CONTENT_SECURITY_POLICY, value)));
    }
    response
}
